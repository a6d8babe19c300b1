//! What a guest showed and said last, each time before it was reset or when its QEMU had died.
//!
//! Each host keeps the last few of a guest's time on it. All hosts are asked; one that is lost, or does not answer in
//! time, is named in the answer.

use std::time::Duration;

use api::{Blob, LastMomentView, LastMoments, PictureView};
use axum::Json;
use axum::extract::{Path, Query, State};
use jiff::Timestamp;
use model::{GuestId, GuestName};
use serde::Deserialize;

use super::Shared;
use super::answer::{Answer, Refused, named};

/// How long one host may take for its part.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

#[derive(Debug, Deserialize)]
pub struct Asked {
    guest: String,
}

/// Of a guest, on whichever hosts it was.
pub async fn of_guest(State(backend): State<Shared>, Path(name): Path<String>) -> Answer<Json<LastMoments>> {
    let name: GuestName = named(&name, "guest")?;
    let asked = format!("show what happened to the guest '{name}'");
    let view = backend.state().view();
    let guest = view.guests.get(&name).ok_or_else(|| Refused::not_found(&asked, "guest", &name))?.id;
    let parts = view.hosts.values().map(|host| {
        let (backend, view, asked) = (&backend, &view, &asked);
        async move {
            let part = if &host.name == backend.me() {
                own(backend, guest, asked).await.ok()
            } else if view.is_live(&host.name) {
                let asking = async { backend.peers().to(host).ok()?.own_last_moments(guest).await.ok() };
                tokio::time::timeout(ANSWER_LIMIT, asking).await.ok().flatten()
            } else {
                None
            };
            (host.name.clone(), part)
        }
    });
    let mut whole = LastMoments::default();
    for (host, part) in futures::future::join_all(parts).await {
        match part {
            Some(part) => whole.last_moments.extend(part.last_moments),
            None => whole.silent.push(host),
        }
    }
    whole.last_moments.sort_by(|a, b| (a.at, &a.host).cmp(&(b.at, &b.host)));
    Ok(Json(whole))
}

/// Of a guest while it was here; for the other hosts.
pub async fn of_this_host(
    State(backend): State<Shared>,
    Query(query): Query<Asked>,
) -> Answer<Json<LastMoments>> {
    let guest = named::<GuestId>(&query.guest, "guest")?;
    own(&backend, guest, "show what happened to a guest").await.map(Json)
}

async fn own(backend: &Shared, guest: GuestId, asked: &str) -> Answer<LastMoments> {
    let kept = backend.last_moments(guest).await.map_err(|error| Refused::of_host(asked, error))?;
    let last_moments = kept.into_iter().map(|moment| LastMomentView {
        at: Timestamp::from_millisecond(moment.at_ms).unwrap_or_default(),
        host: backend.me().clone(),
        why: moment.why,
        lines: Blob(moment.lines),
        picture: moment
            .picture
            .map(|picture| PictureView { format: picture.format, bytes: Blob(picture.bytes) }),
    });
    Ok(LastMoments { last_moments: last_moments.collect(), silent: Vec::new() })
}
