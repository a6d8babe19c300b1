//! Volumes: guests' disks, and who holds every acknowledged write of them.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Assignment, BootId, ClusterView, Epoch, GuestId, GuestReport, HostName, PoolName, Resync, VolumeId,
};

/// Where a volume is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Pool {
    /// One replica, on the guest's own host.
    Local,
    /// A second replica on another host takes every write.
    Mirror,
    /// One file in a folder that the hosts have in common. Any of them may open it, one at a time.
    Shared,
}

impl Pool {
    /// How many copies of a volume hosts keep. Of one in storage that hosts share, that is its one copy.
    pub fn replicas(self) -> usize {
        match self {
            Pool::Local | Pool::Shared => 1,
            Pool::Mirror => 2,
        }
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Pool::Local => "local",
            Pool::Mirror => "mirror",
            Pool::Shared => "shared",
        })
    }
}

impl FromStr for Pool {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "local" => Ok(Pool::Local),
            "mirror" => Ok(Pool::Mirror),
            "shared" => Ok(Pool::Shared),
            other => Err(format!("there is no kind of pool '{other}': there are local, mirror and shared")),
        }
    }
}

/// A volume's copy on one host, in one boot of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct Replica {
    pub host: HostName,
    pub boot_id: BootId,
}

/// One file of a replica, in one boot of its host: a file that was deleted and made anew is another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct ReplicaFile {
    pub host: HostName,
    pub boot_id: BootId,
    /// What the host calls the file. Digits, letters and hyphens.
    pub file: String,
}

/// The in-sync set of a volume: the replicas that hold every acknowledged write. While there are two, a
/// write is acknowledged to the guest only when both have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InSync {
    pub volume: VolumeId,
    /// The epoch of the owner that wrote this.
    pub epoch: Epoch,
    pub members: BTreeSet<Replica>,
    /// Since when one replica alone has been in it, by the clock of the owner that wrote so; a later owner keeps it.
    /// None while there are two.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub alone_since: Option<Timestamp>,
    /// The last wish for a resync ([`crate::Resync`]) that the secondary was let go of for, or is younger than.
    #[serde(default)]
    pub resync: u64,
    /// The next fill copies all of the disk.
    #[serde(default)]
    pub refill: bool,
    /// The next fill does not believe what was recorded, and compares both replicas: somebody doubts them.
    #[serde(default)]
    pub doubted: bool,
}

impl InSync {
    /// A record that nothing came before.
    pub fn first(volume: VolumeId, epoch: Epoch, members: BTreeSet<Replica>, now: Timestamp) -> InSync {
        let alone_since = (members.len() < 2).then_some(now);
        InSync { volume, epoch, members, alone_since, resync: 0, refill: false, doubted: false }
    }

    /// The record that an owner writes in place of this one.
    #[must_use]
    pub fn followed_by(&self, epoch: Epoch, members: BTreeSet<Replica>, now: Timestamp) -> InSync {
        let next = InSync::first(self.volume, epoch, members, now);
        let alone_since = next.alone_since.map(|now| self.alone_since.unwrap_or(now));
        let alone = alone_since.is_some();
        let (refill, doubted) = (self.refill && alone, self.doubted && alone);
        InSync { alone_since, resync: self.resync, refill, doubted, ..next }
    }

    /// This record, if one replica is in it, with the wish that the fill to come will fulfil. A wish that comes in
    /// the middle of a fill is fulfilled by the next one.
    #[must_use]
    pub fn heeding(self, wish: Resync) -> InSync {
        if self.members.len() > 1 || wish.generation <= self.resync {
            return self;
        }
        InSync { resync: wish.generation, refill: wish.full, doubted: true, ..self }
    }

    pub fn contains_host(&self, host: &HostName) -> bool {
        self.members.iter().any(|replica| &replica.host == host)
    }

    /// Whether this very boot of the host holds every acknowledged write.
    pub fn contains(&self, host: &HostName, boot_id: BootId) -> bool {
        self.members.iter().any(|replica| &replica.host == host && replica.boot_id == boot_id)
    }
}

/// What the owner's host sees of one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeReport {
    pub volume: VolumeId,
    pub state: VolumeState,
    /// How far the secondary is filled, while it is; a few seconds old.
    #[serde(default)]
    pub fill: Option<FillProgress>,
    /// How the secondary came to be in sync last, by this daemon.
    #[serde(default)]
    pub filled: Option<Filled>,
}

/// By what a replica is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FillHow {
    /// What was written since it was in sync, as the owner's host has recorded it.
    Changed,
    /// What differs, by hashes of both replicas.
    Compared,
    /// All of it.
    Whole,
}

impl fmt::Display for FillHow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            FillHow::Changed => "what changed",
            FillHow::Compared => "what differs",
            FillHow::Whole => "all of it",
        })
    }
}

/// How far a replica is filled. Bytes; what the guest writes meanwhile makes `total` grow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FillProgress {
    /// Looked at and found to be alike, or sent.
    pub done: u64,
    pub total: u64,
    #[serde(default)]
    pub how: Option<FillHow>,
    /// Why by that; one sentence without a full stop.
    #[serde(default)]
    pub why: String,
    /// Over the network so far, if that is known.
    #[serde(default)]
    pub sent: Option<u64>,
    /// By how much `done` grows in a second; 0: not known yet.
    #[serde(default)]
    pub bytes_per_second: u64,
}

impl FillProgress {
    /// At the present speed.
    pub fn seconds_left(&self) -> Option<u64> {
        self.total.saturating_sub(self.done).checked_div(self.bytes_per_second)
    }
}

/// How a replica was filled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Filled {
    pub how: FillHow,
    pub why: String,
    /// Bytes that went over the network; of a whole disk that QEMU copied, its size.
    pub sent: u64,
    pub took_ms: u64,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

/// How the owner's host writes a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeState {
    /// Every write goes to both replicas before it is acknowledged.
    Mirroring,
    /// The secondary does not answer, and writes wait.
    Held,
    /// The secondary is being filled; writes already go to both.
    Syncing,
    /// Writes go to one replica.
    Alone,
}

/// What a person sees of a volume; computed, never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VolumePhase {
    /// As many in-sync replicas as its pool has.
    InSync,
    /// Writes wait for the secondary.
    Held,
    /// One replica is missing, and nothing fills it now.
    Degraded,
    /// One replica is being filled.
    Syncing,
    /// Its guest has no host yet, or its files are not made yet.
    Creating,
}

impl VolumePhase {
    /// What a volume's phase is, from the records that speak of it.
    pub fn derive(
        pool: Pool,
        assignment: Option<&Assignment>,
        in_sync: Option<&InSync>,
        report: Option<&GuestReport>,
        view: &ClusterView,
    ) -> VolumePhase {
        let (Some(assignment), Some(in_sync)) = (assignment, in_sync) else { return VolumePhase::Creating };
        let state = report
            .filter(|report| report.epoch == assignment.epoch && report.host == assignment.host)
            .and_then(|report| report.volumes.iter().find(|v| v.volume == in_sync.volume))
            .map(|volume| volume.state);
        let good =
            in_sync.members.iter().filter(|r| r.host == assignment.host || view.boot_is_live(r)).count();
        match (state, pool) {
            (Some(VolumeState::Held), Pool::Mirror) => VolumePhase::Held,
            (Some(VolumeState::Syncing), Pool::Mirror) => VolumePhase::Syncing,
            (Some(_) | None, Pool::Local | Pool::Mirror | Pool::Shared) if good >= pool.replicas() => {
                VolumePhase::InSync
            }
            (Some(_) | None, Pool::Local | Pool::Mirror | Pool::Shared) => VolumePhase::Degraded,
        }
    }
}

impl fmt::Display for VolumePhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            VolumePhase::InSync => "in-sync",
            VolumePhase::Held => "held",
            VolumePhase::Degraded => "degraded",
            VolumePhase::Syncing => "syncing",
            VolumePhase::Creating => "creating",
        })
    }
}

/// Tells a host to delete its replica of a volume that is gone. Files that no such record names are never
/// deleted. The host removes the record when it has obeyed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplicaDrop {
    pub host: HostName,
    pub volume: VolumeId,
    /// Whose it was; a machine of that guest that still runs there is ended first.
    pub guest_id: GuestId,
    pub why: String,
    /// The pool that it is in, if that is one that hosts share: then the volume itself is to be deleted, and not
    /// a replica of this host's.
    #[serde(default)]
    pub pool_name: Option<PoolName>,
}
