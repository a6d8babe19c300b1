//! What a host measured of itself and its guests.
//!
//! Each host knows its own only; a host that is asked for another's asks that one.

use api::ClientError;
use axum::Json;
use axum::extract::{Path, State};
use model::{HostName, HostUsage};

use super::Shared;
use super::answer::{Answer, Refused, named};

const AGAIN: &str = "ask again in some seconds: a host measures every few seconds from its start on";

/// Of any host, for operators.
pub async fn of_host(State(backend): State<Shared>, Path(name): Path<String>) -> Answer<Json<HostUsage>> {
    let name: HostName = named(&name, "host")?;
    let asked = format!("show what the host '{name}' uses");
    let view = backend.state().view();
    let host = view.hosts.get(&name).ok_or_else(|| Refused::not_found(&asked, "host", &name))?;
    if &name == backend.me() {
        return measured(&backend, &asked);
    }
    if !view.is_live(&name) {
        let why = format!("it is {}", view.host_phase(&name));
        return Err(Refused::by_state(&asked, why, "wait until it is online; `kennel host list` shows it"));
    }
    let client = backend.peers().to(host).map_err(|error| Refused::failed(&asked, error))?;
    client.usage().await.map(Json).map_err(|error| match error {
        ClientError::Refused(problem) => Refused(problem),
        ClientError::Unreachable { .. }
        | ClientError::Interrupted { .. }
        | ClientError::Protocol(_)
        | ClientError::Local(_) => {
            Refused::host_unreachable(&asked, format!("it does not answer: {error}"), "try again")
        }
    })
}

/// Of this host, for the others.
pub async fn of_this_host(State(backend): State<Shared>) -> Answer<Json<HostUsage>> {
    measured(&backend, "show what this host uses")
}

fn measured(backend: &Shared, asked: &str) -> Answer<Json<HostUsage>> {
    let why = "it has just begun to measure";
    backend.own_usage().map(Json).ok_or_else(|| Refused::by_state(asked, why, AGAIN))
}
