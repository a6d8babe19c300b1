//! HTTPS, as the other hosts and the operators reach this host.
//!
//! One task for each connection. Whatever goes wrong on a connection ends that connection only. A
//! certificate is optional: who shows one is a host, everybody else needs a token.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::auth::PeerAddress;
use super::{PeerIdentity, Shared, router};
use crate::pki;

/// For the TLS handshake, and for the headers of a request.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a silent HTTP/2 connection is tried, and how long it may stay silent then.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 1024;

/// After an accept that failed, as it does when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Takes the port.
#[expect(clippy::wildcard_enum_match_arm, reason = "the kinds of I/O errors are not exhaustive")]
pub fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => anyhow!(
            "cannot serve the API: {address} is in use by another program; end it (`ss -ltnp` shows it), and try again"
        ),
        ErrorKind::AddrNotAvailable => anyhow!(
            "cannot serve the API: {address} is not an address of this host; start kenneld with an --address that              `ip address` shows"
        ),
        _ => anyhow::Error::new(error).context(format!("listen on {address}")),
    })?;
    listener.set_nonblocking(true).context("listen without blocking")?;
    TcpListener::from_std(listener).context("listen")
}

/// Serves for ever. When the task that does is ended, its connections end, too.
pub async fn serve(listener: TcpListener, tls: Arc<rustls::ServerConfig>, backend: Shared) {
    let acceptor = TlsAcceptor::from(tls);
    let router = router(backend);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(attend(stream, acceptor.clone(), router.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn attend(stream: TcpStream, acceptor: TlsAcceptor, router: Router) {
    if let Err(error) = connection(stream, acceptor, router).await {
        tracing::debug!(%error, "a connection ended");
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, router: Router) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let from = PeerAddress(stream.peer_addr()?.ip());
    let tls = tokio::time::timeout(GREETING_TIMEOUT, acceptor.accept(stream)).await??;
    let (_, session) = tls.get_ref();
    let certificate = session.peer_certificates().and_then(<[_]>::first);
    let peer = PeerIdentity(certificate.and_then(pki::host_of));
    let service = TowerToHyperService::new(router.layer(Extension(peer)).layer(Extension(from)));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(GREETING_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE);
    let served = builder.serve_connection_with_upgrades(TokioIo::new(tls), service).await;
    served.map_err(|error| anyhow::anyhow!(error))
}
