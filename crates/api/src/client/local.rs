//! Asks the kenneld of this very machine, through its Unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Method, header};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ClientError, cause, read_problem};
use crate::{InitAnswer, InitRequest, LocalJoinAnswer, LocalJoinRequest, LocalStatus};

/// The socket's name in kenneld's run directory.
pub const SOCKET: &str = "kenneld.sock";

/// Making or joining a cluster starts a member of the state store, which may have to catch up.
const TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Debug, Clone)]
pub struct LocalClient {
    socket: PathBuf,
}

impl LocalClient {
    pub fn new(run_dir: &Path) -> Self {
        Self { socket: run_dir.join(SOCKET) }
    }

    /// Makes a new cluster, of which this host is the first.
    pub async fn init(&self, request: &InitRequest) -> Result<InitAnswer, ClientError> {
        let asked = format!("make the cluster '{}'", request.name);
        self.ask(Method::POST, "/local/init", Some(request), &asked).await
    }

    /// Makes this host a member of a cluster that exists.
    pub async fn join(&self, request: &LocalJoinRequest) -> Result<LocalJoinAnswer, ClientError> {
        self.ask(Method::POST, "/local/join", Some(request), "join the cluster").await
    }

    pub async fn status(&self) -> Result<LocalStatus, ClientError> {
        self.ask(Method::GET, "/local/status", None::<&()>, "show the state of this host").await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        asked: &str,
    ) -> Result<T, ClientError> {
        let local = |why: String| ClientError::Local(format!("cannot {asked}: {why}"));
        let http = reqwest::Client::builder()
            .unix_socket(self.socket.clone())
            .timeout(TIMEOUT)
            .no_proxy()
            .tls_backend_preconfigured(super::tls::trust_nobody().map_err(local)?)
            .build()
            .map_err(|error| local(cause(&error)))?;
        let mut request = http.request(method, format!("http://localhost{path}"));
        if let Some(body) = body {
            let bytes = serde_json::to_vec(body).map_err(|error| local(error.to_string()))?;
            request = request.header(header::CONTENT_TYPE, "application/json").body(bytes);
        }
        let response = request.send().await.map_err(|error| self.explain(&error, asked))?;
        let status = response.status();
        let bytes = response
            .bytes()
            .await
            .map_err(|error| ClientError::Interrupted { asked: asked.to_owned(), why: cause(&error) })?;
        if !status.is_success() {
            return Err(ClientError::Refused(read_problem(&bytes, status.as_u16(), asked)));
        }
        serde_json::from_slice(&bytes)
            .map_err(|error| ClientError::Protocol(format!("cannot {asked}: {error}")))
    }

    fn explain(&self, error: &reqwest::Error, asked: &str) -> ClientError {
        let why = cause(error);
        if !error.is_connect() {
            return ClientError::Interrupted { asked: asked.to_owned(), why };
        }
        ClientError::Unreachable {
            asked: asked.to_owned(),
            cluster: "of this machine".to_owned(),
            attempts: vec![format!("{} ({why})", self.socket.display())],
        }
    }
}
