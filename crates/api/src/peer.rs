//! What hosts ask of each other.

use model::{Epoch, GuestId, HostName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
