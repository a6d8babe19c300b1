//! What hosts ask of each other.

use futures::TryStreamExt;
use model::HostUsage;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use super::{Ask, Client, ClientError};
use crate::{
    EndConnections, HashAnswer, HashRequest, JoinAnswer, JoinRequest, PromiseAnswer, PromiseRequest,
};

impl Client {
    /// Asks to be let in; for a host that has no certificate yet.
    pub async fn join(&self, request: &JoinRequest) -> Result<JoinAnswer, ClientError> {
        let asked = format!("join the cluster as '{}'", request.name);
        self.fetch(Ask::post("/v1/cluster/join", asked).json(request)?).await
    }

    /// Asks the secondary's host not to take over for a while.
    pub async fn promise(&self, request: &PromiseRequest) -> Result<PromiseAnswer, ClientError> {
        let ask = Ask::post("/v1/internal/promise", "get the promise of the secondary's host");
        self.fetch(ask.json(request)?).await
    }

    /// Asks a secondary's host to end all connections to a replica that it serves, and to go on serving it.
    pub async fn end_connections(&self, request: &EndConnections) -> Result<(), ClientError> {
        let ask = Ask::post("/v1/internal/end-connections", "begin to fill a replica on another host");
        self.done(ask.json(request)?).await
    }

    /// Asks a secondary's host for hashes of a replica that it serves.
    pub async fn replica_hashes(&self, request: &HashRequest) -> Result<HashAnswer, ClientError> {
        let ask = Ask::post("/v1/internal/replica-hashes", "compare a replica with that of another host");
        self.fetch(ask.json(request)?).await
    }

    /// What the host that is asked uses.
    pub async fn usage(&self) -> Result<HostUsage, ClientError> {
        self.fetch(Ask::get("/v1/internal/usage", "ask a host what it uses")).await
    }

    /// The bytes of an image's file. Its reader checks the hash.
    pub async fn image_file(
        &self,
        sha256: &str,
    ) -> Result<impl AsyncRead + Send + Unpin + use<>, ClientError> {
        let ask = Ask::get(format!("/v1/image-files/{sha256}"), "fetch an image's file").endless();
        let bytes = self.send(&ask).await?.bytes_stream().map_err(std::io::Error::other);
        Ok(StreamReader::new(Box::pin(bytes)))
    }
}
