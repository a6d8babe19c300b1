//! What a guest said last on its serial port, when nothing runs any more that could be asked, or it runs elsewhere.
//!
//! QEMU appends what the port says to a file in the guest's folder, which outlives the machine: a stopped guest, and
//! one that crashed, still says why. A guest that changed its host has such a file on each; they are asked for all of
//! them, and put in order. A host that is lost, or does not answer in time, is named in the answer.

use std::time::Duration;

use api::{Blob, LastLines, LastLinesOfHost};
use axum::Json;
use axum::extract::{Path, Query, State};
use jiff::Timestamp;
use model::{GuestId, GuestName, Host};
use serde::Deserialize;

use super::Shared;
use super::answer::{Answer, Refused, named};
use super::serial::SCROLL_BACK;

/// How long one host may take for its part.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

#[derive(Debug, Deserialize)]
pub struct Asked {
    guest: String,
}

/// Of a guest, on whichever hosts it was.
pub async fn of_guest(State(backend): State<Shared>, Path(name): Path<String>) -> Answer<Json<LastLines>> {
    let name: GuestName = named(&name, "guest")?;
    let asked = format!("show what the guest '{name}' said last");
    let view = backend.state().view();
    let guest = view.guests.get(&name).ok_or_else(|| Refused::not_found(&asked, "guest", &name))?.id;
    let parts = view.hosts.values().map(|host| {
        let (backend, view, asked) = (&backend, &view, &asked);
        async move {
            let part = if &host.name == backend.me() {
                own(backend, guest, asked).await.ok()
            } else if view.is_live(&host.name) {
                of_peer(backend, host, guest).await
            } else {
                None
            };
            (host.name.clone(), part)
        }
    });
    let mut whole = LastLines::default();
    for (host, part) in futures::future::join_all(parts).await {
        match part {
            Some(part) => whole.hosts.extend(part.hosts),
            None => whole.silent.push(host),
        }
    }
    whole.hosts.sort_by(|a, b| (a.until, &a.host).cmp(&(b.until, &b.host)));
    Ok(Json(whole))
}

/// Of a guest while it was here; for the other hosts.
pub async fn of_this_host(
    State(backend): State<Shared>,
    Query(query): Query<Asked>,
) -> Answer<Json<LastLines>> {
    let guest = named::<GuestId>(&query.guest, "guest")?;
    own(&backend, guest, "show what a guest said last").await.map(Json)
}

async fn own(backend: &Shared, guest: GuestId, asked: &str) -> Answer<LastLines> {
    let said = backend.last_lines(guest, SCROLL_BACK as u64).await;
    let said = said.map_err(|error| Refused::of_host(asked, error))?;
    let hosts = said.map(|(bytes, at)| LastLinesOfHost {
        host: backend.me().clone(),
        until: Timestamp::try_from(at).unwrap_or_default(),
        text: Blob(bytes),
    });
    Ok(LastLines { hosts: hosts.into_iter().collect(), silent: Vec::new() })
}

async fn of_peer(backend: &Shared, host: &Host, guest: GuestId) -> Option<LastLines> {
    let client = backend.peers().to(host).ok()?;
    tokio::time::timeout(ANSWER_LIMIT, client.own_last_lines(guest)).await.ok()?.ok()
}
