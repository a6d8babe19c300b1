//! Who asks: an operator with an admin token, or a host of the cluster with its certificate.

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use jiff::Timestamp;
use model::{HostName, TokenUse};

use super::Shared;
use super::answer::{Answer, Refused};
use super::token;

/// The host whose certificate the connection showed; each connection carries one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity(pub Option<HostName>);

/// Who asks; handlers find it among the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    Operator { token: String },
    Host(HostName),
}

impl Caller {
    /// For the record.
    pub fn name(&self) -> String {
        match self {
            Caller::Operator { token } => token.clone(),
            Caller::Host(host) => format!("host {host}"),
        }
    }
}

/// Lets operators and hosts pass.
pub async fn require_operator(
    State(backend): State<Shared>,
    mut request: Request,
    next: Next,
) -> Answer<Response> {
    let caller = match host_of(&backend, &request)? {
        Some(host) => Caller::Host(host),
        None => operator_of(&backend, &request)?,
    };
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// Lets hosts pass.
pub async fn require_host(
    State(backend): State<Shared>,
    mut request: Request,
    next: Next,
) -> Answer<Response> {
    let Some(host) = host_of(&backend, &request)? else {
        return Err(Refused::forbidden(
            "only the hosts of the cluster may, with their certificates",
            "use what /v1/openapi.json says is for operators",
        ));
    };
    request.extensions_mut().insert(Caller::Host(host));
    Ok(next.run(request).await)
}

fn host_of(backend: &Shared, request: &Request) -> Answer<Option<HostName>> {
    let peer = request.extensions().get::<PeerIdentity>().and_then(|peer| peer.0.clone());
    let Some(host) = peer else { return Ok(None) };
    let cache = backend.state().read();
    // A host that has read nothing yet knows the others by their authority alone.
    let known = cache.view().cluster.is_none() || cache.view().hosts.contains_key(&host);
    drop(cache);
    if known {
        return Ok(Some(host));
    }
    Err(Refused::forbidden(
        &format!("the certificate is that of '{host}', which is no host of this cluster any more"),
        "let the host join anew",
    ))
}

fn operator_of(backend: &Shared, request: &Request) -> Answer<Caller> {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(bearer) = header.and_then(|value| value.strip_prefix("Bearer ")) else {
        return Err(Refused::unauthorized(
            "the request shows no token",
            "send `Authorization: Bearer` with the token of the client configuration",
        ));
    };
    let view = backend.state().view();
    if view.cluster.is_none() {
        let why = "this host has not read the cluster's state yet";
        return Err(Refused::store_unavailable("ask this of the cluster", why));
    }
    match token::find(&view, bearer.trim(), TokenUse::Admin, Timestamp::now()) {
        Some((_, access)) => Ok(Caller::Operator { token: access.name.clone() }),
        None => Err(Refused::unauthorized(
            "the token is not one of this cluster, or it has expired",
            "use the client configuration that `kennel cluster init` wrote",
        )),
    }
}
