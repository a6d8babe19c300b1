//! HTTP on a Unix socket, for root on this machine: making a cluster, joining one, and what this host is.
//!
//! The socket is there before there is a cluster, when nobody could prove anything to anybody; whoever may
//! open it is root here anyway.

use std::fmt::Debug;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use api::{InitAnswer, InitRequest, LocalJoinAnswer, LocalJoinRequest, LocalStatus, Problem};
use async_trait::async_trait;
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};

use super::answer::{self, Answer, Body, Refused};

/// What the daemon does for root on its own machine.
#[async_trait]
pub trait LocalOps: Send + Sync + Debug + 'static {
    async fn init(&self, request: InitRequest) -> Result<InitAnswer, Problem>;
    async fn join(&self, request: LocalJoinRequest) -> Result<LocalJoinAnswer, Problem>;
    async fn status(&self) -> LocalStatus;
}

type Ops = Arc<dyn LocalOps>;

fn router(ops: Ops) -> Router {
    Router::new()
        .route("/local/init", post(init))
        .route("/local/join", post(join))
        .route("/local/status", get(status))
        .fallback(answer::no_such_route)
        .with_state(ops)
}

async fn init(State(ops): State<Ops>, Body(request): Body<InitRequest>) -> Answer<Json<InitAnswer>> {
    ops.init(request).await.map(Json).map_err(Refused)
}

async fn join(
    State(ops): State<Ops>,
    Body(request): Body<LocalJoinRequest>,
) -> Answer<Json<LocalJoinAnswer>> {
    ops.join(request).await.map(Json).map_err(Refused)
}

async fn status(State(ops): State<Ops>) -> Json<LocalStatus> {
    Json(ops.status().await)
}

/// Serves for ever, unless the socket cannot be made. The caller has made sure that no other kenneld uses
/// the same run directory: a socket that is there is a dead one's.
pub async fn serve_local(socket: &Path, ops: Ops) -> anyhow::Result<()> {
    let listener = listen(socket).with_context(|| format!("listen on {}", socket.display()))?;
    let router = router(ops);
    loop {
        let (stream, _) = listener.accept().await.context("accept a local connection")?;
        tokio::spawn(connection(stream, router.clone()));
    }
}

/// The socket appears with its final rights: it is made beside its place and moved there.
fn listen(socket: &Path) -> std::io::Result<UnixListener> {
    let new = socket.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&new)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&new, socket)?;
    Ok(listener)
}

async fn connection(stream: UnixStream, router: Router) {
    let service = TowerToHyperService::new(router);
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a local connection ended");
    }
}
