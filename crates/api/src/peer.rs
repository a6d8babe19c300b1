//! What hosts ask of each other.

use model::{Epoch, GuestId, HostName, VolumeId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Blob;

/// An owner whose session may be over asks the host of its secondary replicas not to take over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PromiseRequest {
    pub guest_id: GuestId,
    /// The epoch at which the asker owns the guest.
    pub epoch: Epoch,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PromiseAnswer {
    /// Who promises.
    pub host: HostName,
    /// For how long from the answer on; 0: no promise, somebody else owns the guest or is about to.
    pub promised_ms: u64,
}

/// The owner of a guest is about to fill the replica that the asked host serves: connections from before are to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndConnections {
    pub volume: VolumeId,
    /// The name that it is served under, with the owner's epoch and the boot of the asked host.
    pub export: String,
}

/// The owner of a guest compares the replica that the asked host serves with its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HashRequest {
    pub volume: VolumeId,
    /// The name that it is served under, with the owner's epoch and the boot of the asked host.
    pub export: String,
    /// Bytes: where it begins, which must be the beginning of a piece of 64 KiB, and how much it is.
    pub offset: u64,
    pub length: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HashAnswer {
    /// The BLAKE3 hashes of the pieces, 32 bytes each.
    pub hashes: Blob,
}
