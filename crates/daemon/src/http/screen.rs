//! A guest's screen, keyboard and mouse, for the page.
//!
//! QEMU speaks the RFB protocol (RFC 6143) on a socket of the guest's machine, and to as many as come. What it says goes
//! into a WebSocket as it is, which is how noVNC wants it. Who may open one, and by which host it is passed on, is as
//! with the serial console.

use std::sync::Arc;

use axum::Extension;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use model::GuestName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::Shared;
use super::answer::{Answer, Refused, named};
use super::auth::Session;
use super::inside::{
    Consoles, PING_EVERY, Place, Typed, close, join_console, no_web_socket, passed_on, place, send, typed,
};

/// A part of a picture.
const CHUNK: usize = 64 << 10;

#[derive(Debug, serde::Deserialize)]
pub struct ScreenQuery {
    ticket: Option<String>,
}

pub async fn screen(
    State(backend): State<Shared>,
    Path(name): Path<String>,
    Query(query): Query<ScreenQuery>,
    session: Option<Extension<Session>>,
    Extension(consoles): Extension<Arc<Consoles>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Answer<Response> {
    let guest: GuestName = named(&name, "guest")?;
    let asked = format!("open the screen of the guest '{guest}'");
    consoles.admit(query.ticket.as_ref(), session.is_some(), &guest)?;
    let place = place(&backend, &guest, &headers, &asked)?;
    let upgrade = upgrade.map_err(|rejection| no_web_socket(&asked, &rejection))?;
    match place {
        Place::Here(machine) => {
            let stream = machine.screen().await.map_err(|error| Refused::of_host(&asked, error))?;
            Ok(upgrade.on_upgrade(|socket| join(socket, stream)))
        }
        Place::There(client, host) => {
            let screen = client.screen(&guest).await.map_err(|error| passed_on(&asked, &host, error))?;
            Ok(upgrade.on_upgrade(|socket| join_console(socket, screen)))
        }
    }
}

/// Between a client and QEMU, until one of them ends.
async fn join(mut socket: WebSocket, stream: UnixStream) {
    let (mut reader, mut writer) = stream.into_split();
    let mut pings = tokio::time::interval(PING_EVERY);
    let mut buffer = vec![0; CHUNK];
    let reason = loop {
        tokio::select! {
            read = reader.read(&mut buffer) => match read {
                Ok(0) => break "the guest's machine ended".to_owned(),
                Ok(length) => {
                    let picture = Message::Binary(buffer[..length].to_vec().into());
                    if send(&mut socket, picture).await.is_err() {
                        return;
                    }
                }
                Err(error) => break format!("the screen failed: {error}"),
            },
            message = socket.recv() => match typed(message) {
                Typed::Bytes(bytes) => {
                    if let Err(error) = writer.write_all(&bytes).await {
                        break format!("the screen failed: {error}");
                    }
                }
                Typed::Nothing => {}
                Typed::End => return,
            },
            _ = pings.tick() => {
                if send(&mut socket, Message::Ping(Vec::new().into())).await.is_err() {
                    return;
                }
            }
        }
    };
    close(socket, reason).await;
}
