//! A guest's screen, keyboard and mouse, for the page.
//!
//! QEMU speaks the RFB protocol (RFC 6143) on a socket of the guest's machine, and to as many as come. What it says goes
//! into a WebSocket as it is, which is how noVNC wants it. Who may open one, and by which host it is passed on, is as
//! with the serial console.

use axum::extract::Query;
use axum::response::Response;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::answer::{Answer, Refused};
use super::inside::{Admitted, Line, Place, Visit, join, join_console, passed_on};

/// A part of a picture.
const CHUNK: usize = 64 << 10;

#[derive(Debug, serde::Deserialize)]
pub struct ScreenQuery {
    ticket: Option<String>,
}

pub async fn screen(Query(query): Query<ScreenQuery>, visit: Visit) -> Answer<Response> {
    let Admitted { guest, asked, place, upgrade } = visit.admit("screen", query.ticket.as_ref())?;
    match place {
        Place::Here(machine) => {
            let stream = machine.screen().await.map_err(|error| Refused::of_host(&asked, error))?;
            Ok(upgrade.on_upgrade(|socket| join(socket, Screen { stream, buffer: vec![0; CHUNK] })))
        }
        Place::There(client, host) => {
            let screen = client.screen(&guest).await.map_err(|error| passed_on(&asked, &host, error))?;
            Ok(upgrade.on_upgrade(|socket| join_console(socket, screen)))
        }
    }
}

struct Screen {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Line for Screen {
    async fn read(&mut self) -> Result<Bytes, String> {
        match self.stream.read(&mut self.buffer).await {
            Ok(0) => Err("the guest's machine ended".to_owned()),
            Ok(length) => Ok(Bytes::copy_from_slice(&self.buffer[..length])),
            Err(error) => Err(format!("the screen failed: {error}")),
        }
    }

    async fn write(&mut self, bytes: Vec<u8>) -> Result<(), String> {
        self.stream.write_all(&bytes).await.map_err(|error| format!("the screen failed: {error}"))
    }
}
