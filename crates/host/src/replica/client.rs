//! Asks a replica server what it serves, and writes to what it serves. QEMU itself asks the same again when a
//! mirror is attached; but it does so in its main loop, where a server that does not answer would stop the
//! guest.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::file::FileFacts;
use super::nbd::{Connection, Handshake, Server};
use crate::qemu::TlsFiles;
use crate::{ExportName, HostError};

/// How long a server may take to say what it has. On a cluster's own network this takes a millisecond.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// How long a server may take to write or flush what it was given; a busy disk takes seconds.
const WRITE_LIMIT: Duration = Duration::from_secs(20);

/// The way to replica servers.
#[derive(Debug, Clone, Default)]
pub struct ReplicaClient {
    tls: Option<TlsFiles>,
}

/// Whether a replica server answers there. Never takes longer than a second, and never gets to TLS.
pub async fn probe(server: SocketAddr) -> bool {
    let greeted = tokio::time::timeout(ANSWER_LIMIT, Handshake::begin(Server::Tcp(server))).await;
    matches!(greeted, Ok(Ok(_)))
}

/// As [`ReplicaClient::ask`], of a server without TLS.
pub async fn ask(server: SocketAddr, export: &ExportName) -> Result<u64, HostError> {
    ReplicaClient::default().ask(server, export).await
}

impl ReplicaClient {
    /// With certificates the server must have TLS; without them it must not.
    pub fn new(tls: Option<TlsFiles>) -> Self {
        Self { tls }
    }

    /// The size of an export in bytes. Not found: the server answers, and does not serve that export.
    pub async fn ask(&self, server: SocketAddr, export: &ExportName) -> Result<u64, HostError> {
        self.ask_about(server, export).await.map(|served| served.size)
    }

    /// As [`Self::ask`], with what that host says of the file behind the export.
    pub async fn ask_about(&self, server: SocketAddr, export: &ExportName) -> Result<Served, HostError> {
        let config = self.tls.as_ref().map(TlsFiles::client).transpose()?;
        let asked = async {
            let mut handshake = Self::greet(server, config).await?;
            let about = handshake.about(export.as_str()).await?;
            handshake.abort().await?;
            Ok::<_, io::Error>(about)
        };
        let about = served(server, export, within(server, ANSWER_LIMIT, asked).await?)?;
        Ok(Served { size: about.size, file: FileFacts::parse(&about.description) })
    }

    /// Begins to use an export.
    pub(crate) async fn open(&self, server: SocketAddr, export: &ExportName) -> Result<Replica, HostError> {
        let config = self.tls.as_ref().map(TlsFiles::client).transpose()?;
        let opened = async { Self::greet(server, config).await?.open(export.as_str()).await };
        let connection = served(server, export, within(server, ANSWER_LIMIT, opened).await?)?;
        Ok(Replica { server, connection })
    }

    async fn greet(
        server: SocketAddr,
        config: Option<std::sync::Arc<rustls::ClientConfig>>,
    ) -> io::Result<Handshake> {
        let handshake = Handshake::begin(Server::Tcp(server)).await?;
        match config {
            Some(config) => handshake.start_tls(server, config).await,
            None => Ok(handshake),
        }
    }
}

/// What is behind an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// Bytes.
    pub size: u64,
    /// None: its server does not say, as one of an older build.
    pub file: Option<FileFacts>,
}

/// A replica on another host, opened for writing. After an error it is of no more use.
#[derive(Debug)]
pub(crate) struct Replica {
    server: SocketAddr,
    connection: Connection,
}

impl Replica {
    /// Writes pieces, each with its offset.
    pub async fn write(&mut self, pieces: &[(u64, Vec<u8>)]) -> Result<(), HostError> {
        within(self.server, WRITE_LIMIT, self.connection.write(pieces)).await
    }

    /// Returns when the replica is on that host's disk, whoever wrote it.
    pub async fn flush(&mut self) -> Result<(), HostError> {
        within(self.server, WRITE_LIMIT, self.connection.flush()).await
    }
}

fn served<T>(server: SocketAddr, export: &ExportName, found: Option<T>) -> Result<T, HostError> {
    found.ok_or_else(|| {
        HostError::NotFound(format!(
            "the replica server at {server} does not serve {}; serve it there first",
            export.as_str()
        ))
    })
}

async fn within<T>(
    server: SocketAddr,
    limit: Duration,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, HostError> {
    match tokio::time::timeout(limit, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => {
            Err(HostError::Failed(format!("the replica server at {server} cannot be reached: {error}")))
        }
        Err(_) => Err(HostError::TimedOut(format!(
            "the replica server at {server} does not answer within {} s",
            limit.as_secs()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_answer_is_no_server() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        assert!(!probe(silent.local_addr().unwrap()).await, "it accepts, and says nothing");
        let gone = silent.local_addr().unwrap();
        drop(silent);
        assert!(!probe(gone).await, "it refuses");
    }
}
