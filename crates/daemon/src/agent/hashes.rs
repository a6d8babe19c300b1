//! What the owner of a guest asks of the kenneld that serves its secondary replica: hashes to compare with, and that
//! connections from before end.

use std::ops::Range;
use std::time::Duration;

use api::{Client, ClientError, EndConnections, HashRequest};
use async_trait::async_trait;
use host::compare::{Hashes, PieceHash, STRETCH};
use host::{ExportName, HostError, ReplicaServer};
use model::{Host, VolumeId};
use tokio::time::Instant;

use super::Agent;
use super::steps::Failure;

/// How long a daemon that does not answer is asked again: it may be started anew this moment.
const AGAIN_FOR: Duration = Duration::from_secs(10);
/// How long the other host may take to end old connections. Writes to its disk that are under way end first.
const END_WITHIN: Duration = Duration::from_secs(15);

const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// One volume's replica, as it is served under one name.
#[derive(Debug)]
pub struct PeerHashes {
    pub client: Client,
    pub volume: VolumeId,
    pub export: ExportName,
}

#[async_trait]
impl Hashes for PeerHashes {
    async fn hashes(&self, range: Range<u64>) -> Result<Vec<PieceHash>, HostError> {
        let request = HashRequest {
            volume: self.volume,
            export: self.export.as_str().to_owned(),
            offset: range.start,
            length: range.end - range.start,
        };
        let deadline = Instant::now() + AGAIN_FOR;
        loop {
            match self.client.replica_hashes(&request).await {
                Ok(answer) => {
                    let (hashes, rest) = answer.hashes.0.as_chunks::<32>();
                    return match rest {
                        [] => Ok(hashes.to_vec()),
                        _ => Err(HostError::Failed("the other host gave hashes of no known form".to_owned())),
                    };
                }
                Err(ClientError::Unreachable { .. } | ClientError::Interrupted { .. })
                    if Instant::now() < deadline =>
                {
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                Err(error) => {
                    return Err(HostError::Failed(format!("cannot compare the replicas: {error}")));
                }
            }
        }
    }
}

/// Has the secondary's host end all connections to a replica that is about to be filled.
///
/// When a mirror was let go of while the network did not carry its writes, or when its machine died then, the kernel
/// goes on sending them for minutes. Without this they would be written over what the replica is filled with.
pub(super) async fn end_old_connections(
    agent: &Agent,
    host: &Host,
    volume: VolumeId,
    export: &ExportName,
) -> Result<(), Failure> {
    let request = EndConnections { volume, export: export.as_str().to_owned() };
    let asking = async { agent.peer_client.to(host)?.end_connections(&request).await };
    match tokio::time::timeout(END_WITHIN, asking).await {
        Ok(ended) => ended.map_err(|error| Failure::soon(error.to_string())),
        Err(_) => Err(Failure::soon(format!("{} does not end old connections to its replica", host.name))),
    }
}

impl Agent {
    /// The hashes of a replica that this host serves, for the owner of its guest.
    pub async fn hashes(&self, request: &HashRequest) -> Result<Vec<PieceHash>, HostError> {
        let HashRequest { volume, export, offset, length } = request;
        let name = self.served_name(*volume, export)?;
        if *length > STRETCH {
            return Err(HostError::Conflict(format!(
                "ask for the hashes of at most {STRETCH} bytes at a time"
            )));
        }
        let range = *offset..offset.saturating_add(*length);
        self.replicas.hashes(*volume, &name, range).await
    }

    /// Ends all connections to a replica that this host serves, for the owner of its guest.
    pub async fn end_connections(&self, request: &EndConnections) -> Result<(), HostError> {
        let name = self.served_name(request.volume, &request.export)?;
        self.replicas.end_connections(request.volume, &name).await
    }

    /// The name that a replica is served under in this boot, if it is one.
    fn served_name(&self, volume: VolumeId, export: &str) -> Result<ExportName, HostError> {
        let name = ExportName::parse(export).filter(|(of, _, boot)| *of == volume && *boot == self.boot);
        let name = name.map(|(_, epoch, boot)| ExportName::new(volume, epoch, boot));
        name.ok_or_else(|| HostError::NotFound(format!("'{export}' is nothing that this host serves")))
    }
}
