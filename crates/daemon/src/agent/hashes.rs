//! The hashes of a replica on another host, asked of its kenneld.

use std::ops::Range;
use std::time::Duration;

use api::{Client, ClientError, HashRequest};
use async_trait::async_trait;
use host::compare::{Hashes, PieceHash, STRETCH};
use host::{ExportName, HostError, ReplicaServer};
use model::VolumeId;
use tokio::time::Instant;

use super::Agent;

/// How long a daemon that does not answer is asked again: it may be started anew this moment.
const AGAIN_FOR: Duration = Duration::from_secs(10);
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

impl Agent {
    /// The hashes of a replica that this host serves, for the owner of its guest.
    pub async fn hashes(&self, request: &HashRequest) -> Result<Vec<PieceHash>, HostError> {
        let HashRequest { volume, export, offset, length } = request;
        let name = ExportName::parse(export).filter(|(of, _, boot)| of == volume && *boot == self.boot);
        let Some((_, epoch, boot)) = name else {
            return Err(HostError::NotFound(format!("'{export}' is nothing that this host serves")));
        };
        if *length > STRETCH {
            return Err(HostError::Conflict(format!(
                "ask for the hashes of at most {STRETCH} bytes at a time"
            )));
        }
        let range = *offset..offset.saturating_add(*length);
        self.replicas.hashes(*volume, &ExportName::new(*volume, epoch, boot), range).await
    }
}
