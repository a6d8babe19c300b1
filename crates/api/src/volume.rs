//! Volumes as people see them.

use std::fmt;

use jiff::Timestamp;
use model::{
    Assignment, Bytes, ClusterView, DiskSpec, Epoch, FillProgress, Filled, GuestName, GuestSpec, HostName,
    ImageName, Pool, PoolName, Verified, VolumeId, VolumePhase,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Watched;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeView {
    pub id: VolumeId,
    pub guest: GuestName,
    /// Which of the guest's disks it is, from 0.
    pub disk: u32,
    /// What kind of pool it is in.
    pub pool: Pool,
    /// Which one, where there may be several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_name: Option<PoolName>,
    pub size: Bytes,
    /// It takes room as it is written.
    #[serde(default)]
    pub thin: bool,
    /// What it was filled from when it was made.
    pub image: Option<ImageName>,
    pub phase: VolumePhase,
    /// The epoch of the owner that wrote the in-sync set.
    pub epoch: Option<Epoch>,
    /// How far the secondary is filled, while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill: Option<FillProgress>,
    /// Since when it has had one replica, if it is to have two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub degraded_since: Option<Timestamp>,
    /// What the last comparison of its replicas has found. Told of one volume only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
    /// Why it has no other secondary yet, if it is degraded; a phrase without a full stop. Told of one volume only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healing: Option<String>,
    /// How the secondary came to be in sync last, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filled: Option<Filled>,
    /// The primary first, then the secondary; last one that is about to be replaced, while it is counted on. Empty
    /// until a host has been chosen.
    pub replicas: Vec<ReplicaView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplicaView {
    pub host: HostName,
    pub role: ReplicaRole,
    /// Whether it holds every acknowledged write.
    pub in_sync: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicaRole {
    /// Where the guest runs.
    Primary,
    /// Takes every write over the network.
    Secondary,
}

/// Another host for a guest's secondary replicas.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReplaceSecondary {
    /// Default: the best that there is.
    pub to: Option<HostName>,
    /// Though the cluster could no longer survive what it promises to.
    pub force: bool,
}

/// Fills the secondary replicas of a guest anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResyncVolume {
    /// With all of the disk, whatever is known of what changed.
    pub full: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GrowVolume {
    /// Larger than it is.
    pub size: Bytes,
}

/// Another pool for all disks of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConvertVolume {
    pub pool: Pool,
    /// The host that gets the second replica. Default: the best that there is.
    #[serde(default)]
    pub to: Option<HostName>,
    /// Though the cluster could no longer survive what it promises to.
    #[serde(default)]
    pub force: bool,
}

impl fmt::Display for ReplicaRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ReplicaRole::Primary => "primary",
            ReplicaRole::Secondary => "secondary",
        })
    }
}

impl VolumeView {
    pub fn list(view: &ClusterView) -> Vec<Self> {
        view.guests.values().flat_map(|guest| Self::of_guest(view, guest)).collect()
    }

    pub fn find(view: &ClusterView, id: VolumeId) -> Option<Self> {
        let guest = view.guests.values().find(|guest| guest.disks.iter().any(|disk| disk.volume == id))?;
        Self::of_guest(view, guest).into_iter().find(|volume| volume.id == id)
    }

    /// A guest's volumes, in the order of its disks.
    pub fn of_guest(view: &ClusterView, guest: &GuestSpec) -> Vec<Self> {
        (0u32..).zip(&guest.disks).map(|(index, disk)| Self::of(view, guest, index, disk)).collect()
    }

    fn of(view: &ClusterView, guest: &GuestSpec, index: u32, disk: &DiskSpec) -> Self {
        let assignment = view.assignments.get(&guest.name).filter(|a| a.guest_id == guest.id);
        let report = view.guest_reports.get(&guest.name).filter(|r| r.guest_id == guest.id);
        let in_sync = view.in_sync.get(&disk.volume);
        let told = report.and_then(|report| report.volumes.iter().find(|told| told.volume == disk.volume));
        Self {
            id: disk.volume,
            guest: guest.name.clone(),
            disk: index,
            pool: disk.pool,
            pool_name: disk.pool_name.clone(),
            size: disk.size,
            thin: disk.thin,
            image: disk.image.clone(),
            phase: VolumePhase::derive(disk.pool, assignment, in_sync, report, view),
            epoch: in_sync.map(|set| set.epoch),
            fill: told.and_then(|volume| volume.fill.clone()),
            filled: told.and_then(|volume| volume.filled.clone()),
            degraded_since: in_sync.filter(|_| disk.pool == Pool::Mirror).and_then(|set| set.alone_since),
            verified: None,
            healing: None,
            replicas: assignment.map_or_else(Vec::new, |a| replicas(view, disk, a)),
        }
    }

    /// What people call its pool.
    pub fn pool_shown(&self) -> PoolName {
        self.pool_name.clone().unwrap_or_else(|| self.pool.into())
    }

    pub fn primary(&self) -> Option<&HostName> {
        self.replicas.iter().find(|r| r.role == ReplicaRole::Primary).map(|r| &r.host)
    }

    pub fn secondary(&self) -> Option<&HostName> {
        self.replicas.iter().find(|r| r.role == ReplicaRole::Secondary).map(|r| &r.host)
    }
}

fn replicas(view: &ClusterView, disk: &DiskSpec, assignment: &Assignment) -> Vec<ReplicaView> {
    let members = view.in_sync.get(&disk.volume);
    let primary = ReplicaView {
        host: assignment.host.clone(),
        role: ReplicaRole::Primary,
        in_sync: members.is_some_and(|set| set.contains_host(&assignment.host)),
    };
    // A secondary counts only in the boot that acknowledged the writes.
    let secondary = assignment.secondary.as_ref().filter(|_| disk.pool == Pool::Mirror).map(|host| {
        let in_sync =
            members.is_some_and(|set| set.members.iter().any(|r| &r.host == host && view.boot_is_live(r)));
        ReplicaView { host: host.clone(), role: ReplicaRole::Secondary, in_sync }
    });
    let part = |host: &HostName| host == &assignment.host || assignment.secondary.as_ref() == Some(host);
    let former = members.into_iter().flat_map(|set| &set.members).filter(|replica| !part(&replica.host));
    let former = former.map(|replica| ReplicaView {
        host: replica.host.clone(),
        role: ReplicaRole::Secondary,
        in_sync: view.boot_is_live(replica),
    });
    std::iter::once(primary).chain(secondary).chain(former).collect()
}

impl Watched for VolumeView {
    fn watch_id(&self) -> String {
        self.id.to_string()
    }
}
