//! What the HTTP server needs of the rest of the daemon.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::{EndConnections, HashRequest, PromiseRequest, StoreMemberView};
use async_trait::async_trait;
use host::compare::PieceHash;
use host::fence::Agents;
use host::image::store::ImageFiles;
use host::qemu::LastMoment;
use host::series::Series;
use host::usage::Reading;
use host::{HostError, Machine};
use model::{GuestId, HostName, HostUsage, NamedPool, VolumeId};

use crate::peer::PeerClient;
use crate::state::State;

/// The server's view of its daemon.
#[async_trait]
pub trait Backend: Send + Sync + Debug + 'static {
    /// This host.
    fn me(&self) -> &HostName;
    fn state(&self) -> &State;
    /// A guest's machine, when it runs on this host.
    fn machine(&self, guest: GuestId) -> Option<Arc<dyn Machine>>;
    /// The files of images on this host.
    fn images(&self) -> &ImageFiles;
    /// The other hosts.
    fn peers(&self) -> &PeerClient;
    /// For how many milliseconds from now this host will not take the guest over; 0: no promise.
    async fn promise(&self, asker: &HostName, request: &PromiseRequest) -> u64;
    /// Ends all connections to a replica that this host serves.
    async fn end_connections(&self, request: &EndConnections) -> Result<(), HostError>;
    /// The hashes of a replica that this host serves.
    async fn replica_hashes(&self, request: &HashRequest) -> Result<Vec<PieceHash>, HostError>;
    /// The fence agents of this host.
    fn fence_agents(&self) -> Agents {
        Agents::default()
    }
    /// Marks a new pool's storage as its own, as this host sees it.
    async fn take_pool(&self, _pool: &NamedPool) -> Result<(), HostError> {
        Ok(())
    }
    /// What this host measured of itself and its guests. `None`: nothing yet.
    fn own_usage(&self) -> Option<HostUsage> {
        None
    }
    /// What each live host measured. Those that do not answer within a second are missing.
    async fn usages(&self) -> BTreeMap<HostName, HostUsage> {
        BTreeMap::new()
    }
    /// The counters of this host and its guests. `None`: nothing yet.
    fn reading(&self) -> Option<Reading> {
        None
    }
    /// What this host measured over time. `None`: it keeps nothing.
    fn series(&self) -> Option<Arc<Series>> {
        None
    }
    /// What a guest said last on its serial port while it was here, so many bytes at most, and when that was.
    async fn last_lines(
        &self,
        _guest: GuestId,
        _bytes_max: u64,
    ) -> Result<Option<(Vec<u8>, SystemTime)>, HostError> {
        Ok(None)
    }
    /// What a guest showed and said last before each of its resets while it was here, oldest first.
    async fn last_moments(&self, _guest: GuestId) -> Result<Vec<LastMoment>, HostError> {
        Ok(Vec::new())
    }
    /// For how long each volume of this host's guests has held writes, since this daemon started.
    fn held(&self) -> BTreeMap<VolumeId, Duration> {
        BTreeMap::new()
    }
    /// How the members of the state store are.
    async fn store_members(&self) -> Vec<StoreMemberView>;
}

pub type Shared = Arc<dyn Backend>;
