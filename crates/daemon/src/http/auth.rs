//! Who asks: an operator with an admin token or a session's cookie, or a host of the cluster with its certificate.
//!
//! A browser sends its cookie with whatever any page makes it ask. So a request that shows a cookie must also come
//! from the page of this very host: the cookie is `SameSite=Strict`, and the `Origin` that the browser adds must be
//! the host that is asked. Ports on one address are one site to a browser, which is why the first is not enough.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
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

/// Where the connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddress(pub std::net::IpAddr);

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
    let (caller, session) = identify(&backend, &request)?;
    if let Some(session) = session {
        request.extensions_mut().insert(session);
    }
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// Who asks, and through which session, if it is one.
pub fn identify(backend: &Shared, request: &Request) -> Answer<(Caller, Option<Session>)> {
    if let Some(host) = host_of(backend, request)? {
        return Ok((Caller::Host(host), None));
    }
    if request.headers().contains_key(header::AUTHORIZATION) {
        return Ok((operator_of(backend, request)?, None));
    }
    let session = session_of(backend, request)?;
    Ok((Caller::Operator { token: session.name.clone() }, Some(session)))
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

/// The session whose cookie a request shows; handlers find it among the extensions, if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The user's name, or the token's.
    pub name: String,
    /// Under what the session is stored.
    pub sha256: String,
    pub expires_at: Option<Timestamp>,
}

fn session_of(backend: &Shared, request: &Request) -> Answer<Session> {
    let view = backend.state().view();
    let Some(cluster) = &view.cluster else {
        let why = "this host has not read the cluster's state yet";
        return Err(Refused::store_unavailable("ask this of the cluster", why));
    };
    let wanted = session_cookie(cluster);
    let Some(cookie) = cookie(request.headers(), &wanted) else {
        return Err(Refused::unauthorized(
            "the request shows no token",
            "send `Authorization: Bearer` with the token of the client configuration, or sign in to the web page",
        ));
    };
    let upgrade = request.headers().contains_key(header::UPGRADE);
    let reads = matches!(*request.method(), Method::GET | Method::HEAD) && !upgrade;
    same_origin(request.headers(), request.uri().authority().map(|authority| authority.as_str()), !reads)?;
    match token::find(&view, &cookie, TokenUse::Session, Timestamp::now()) {
        Some((sha256, access)) => Ok(Session {
            name: access.name.clone(),
            sha256: sha256.to_owned(),
            expires_at: access.expires_at,
        }),
        None => Err(Refused::unauthorized("the session is over", "sign in again")),
    }
}

/// The cookie that holds a session. Clusters on one address, such as labs, have one each.
pub fn session_cookie(cluster: &model::Cluster) -> String {
    format!("__Host-kennel-{:.8}", cluster.id.simple().to_string())
}

fn cookie(headers: &HeaderMap, wanted: &str) -> Option<String> {
    let fields = headers.get_all(header::COOKIE).iter().filter_map(|field| field.to_str().ok());
    let pairs = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.into_iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned())
}

/// Refuses what another page made a browser ask. `authority`: of the request's target, which HTTP/2 has instead of
/// the `Host` field. `must_say`: whether a request without an origin is refused, too.
pub fn same_origin(headers: &HeaderMap, authority: Option<&str>, must_say: bool) -> Answer<()> {
    let host = authority.or_else(|| headers.get(header::HOST)?.to_str().ok());
    let origin = headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or("unreadable"));
    let own = host.map(|host| format!("https://{host}"));
    match origin {
        None if !must_say => Ok(()),
        Some(origin) if Some(origin) == own.as_deref() => Ok(()),
        Some(origin) => Err(Refused::forbidden(
            &format!("it comes from another page, {origin:?}"),
            "use the page that this host serves, at its own address",
        )),
        None => Err(Refused::forbidden(
            "it does not say which page it comes from",
            "use the page that this host serves, or a token instead of a cookie",
        )),
    }
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
