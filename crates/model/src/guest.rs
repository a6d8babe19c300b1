//! Guests: the pets. A guest is three records: its spec (a wish), its assignment (a decision) and its
//! report (a belief). What a person sees, its phase, is computed from them.

use std::collections::BTreeSet;
use std::fmt;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    AcceleratorKind, BootId, Bytes, ClusterView, CpuModel, Epoch, GuestId, GuestName, HealthReport,
    HealthSpec, HostName, ImageName, JobId, MacAddress, NetworkName, Pool, PoolName, Replica, VolumeId,
    VolumeReport,
};

/// What a guest should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuestSpec {
    pub name: GuestName,
    pub id: GuestId,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    pub vcpus: u32,
    pub memory: Bytes,
    pub boot: BootFrom,
    pub disks: Vec<DiskSpec>,
    pub nics: Vec<NicSpec>,
    pub seed: Seed,
    pub power: PowerWish,
    /// Grows with each start or restart that is asked for; a guest that shut itself down stays down until then.
    pub boot_generation: u64,
    /// Who comes back first when a host is lost: higher before lower.
    pub priority: i32,
    /// How long a guest may take to shut down before it is ended hard.
    pub stop_timeout_s: u32,
    /// A host asked for by its operator when the guest was made.
    pub preferred_host: Option<HostName>,
    /// Set once, by a delete job; the guest is ended and its volumes go.
    pub deleting: bool,
    /// What rules may name it by.
    #[serde(default)]
    pub tags: BTreeSet<String>,
    /// Its operator does not want it moved.
    #[serde(default)]
    pub pinned: bool,
    /// Guests that must run before it is started.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub start_after: BTreeSet<GuestName>,
    /// Guests that are restarted when this one was after a failure, and it when one of them was.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub restart_with: BTreeSet<GuestName>,
    /// The last time that somebody wanted its secondary filled anew.
    #[serde(default)]
    pub resync: Resync,
    /// How it is seen to be well, and what is done when it is not.
    #[serde(default)]
    pub health: HealthSpec,
}

/// A wish that a guest's secondary be filled anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Resync {
    /// Grows with each wish. It has come true when the in-sync set says the same ([`crate::InSync::resync`]).
    pub generation: u64,
    /// With all of the disk, whatever is known of what changed.
    pub full: bool,
}

impl GuestSpec {
    /// Whether a second host holds its disks.
    pub fn is_mirrored(&self) -> bool {
        self.disks.iter().any(|disk| disk.pool == Pool::Mirror)
    }

    /// Whether one host alone holds all of it.
    pub fn is_local(&self) -> bool {
        !self.disks.is_empty() && self.disks.iter().all(|disk| disk.pool == Pool::Local)
    }

    /// Whether its disks are in storage that hosts share: any of them can run it, and none holds a copy.
    pub fn is_shared(&self) -> bool {
        !self.disks.is_empty() && self.disks.iter().all(|disk| disk.pool == Pool::Shared)
    }

    /// The pools that its disks are in, where those are not the hosts' own.
    pub fn named_pools(&self) -> BTreeSet<&PoolName> {
        self.disks.iter().filter_map(|disk| disk.pool_name.as_ref()).collect()
    }

    /// The disks that two hosts are to hold. A guest whose disks are local is mirrored while it is on its way to
    /// another host, which is when it has a secondary's host.
    pub fn replicated<'a>(&'a self, assignment: &Assignment) -> impl Iterator<Item = &'a DiskSpec> {
        let moving = self.is_local() && assignment.secondary.is_some();
        self.disks.iter().filter(move |disk| disk.pool == Pool::Mirror || moving)
    }

    /// The host that its owner works with: its secondary's; of a guest whose storage hosts share, the one that it is
    /// handed over to.
    pub fn partner<'a>(&self, assignment: &'a Assignment) -> Option<&'a HostName> {
        let comes_to = assignment.handover.as_ref().filter(|_| self.is_shared()).map(|handover| &handover.to);
        assignment.secondary.as_ref().or(comes_to)
    }

    /// What its replicas take on each host.
    pub fn disk_size(&self) -> Bytes {
        self.disks.iter().map(|disk| disk.size).sum()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BootFrom {
    /// The first disk's boot loader.
    Disk,
    /// The kernel and the initial RAM disk of this image.
    Image(ImageName),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskSpec {
    pub volume: VolumeId,
    pub pool: Pool,
    pub size: Bytes,
    /// What the volume is filled from when it is made; empty otherwise.
    pub image: Option<ImageName>,
    /// Which pool of that kind, where there may be several.
    #[serde(default)]
    pub pool_name: Option<PoolName>,
    /// It takes room as it is written, and may find none; else all its room is taken when it is made.
    #[serde(default)]
    pub thin: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NicSpec {
    pub network: NetworkName,
    pub mac: MacAddress,
    /// Address and prefix length.
    #[schema(value_type = Option<String>)]
    pub address: Option<IpNet>,
}

/// What a guest is told about itself at its first boot, as a NoCloud seed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Seed {
    /// cloud-init's user-data, or a script that begins with `#!`.
    pub user_data: Option<String>,
    pub ssh_keys: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PowerWish {
    Running,
    Stopped,
}

/// Which host owns a guest. Every change compares the old `(host, epoch)` and writes the next epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Assignment {
    pub guest: GuestName,
    pub guest_id: GuestId,
    pub host: HostName,
    pub epoch: Epoch,
    /// The host of the secondary replicas of all its volumes.
    pub secondary: Option<HostName>,
    /// Why here; one sentence without a full stop.
    pub why: String,
    /// The owner is to end the guest here, or to send it, so that another host goes on with it.
    #[serde(default)]
    pub handover: Option<Handover>,
    /// The last owner's replica, if it handed the guest over: every volume was the same on both hosts when this
    /// epoch began, and stays so until the guest writes.
    #[serde(default)]
    pub handed_over_by: Option<Replica>,
}

/// A change of owner that is asked for while the old owner is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Handover {
    /// The secondary's host, which becomes the owner.
    pub to: HostName,
    pub how: HandoverKind,
    /// The job that asked.
    pub job: JobId,
    #[serde(default)]
    pub options: MoveOptions,
}

/// What may be done to get a running guest across. By default it is sent while it runs, as fast as the network
/// goes, and stands still for half a second at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MoveOptions {
    /// Shut it down here and start it there instead.
    #[serde(default)]
    pub restart: bool,
    /// Bytes per second that its memory is sent with at most.
    #[serde(default)]
    pub bandwidth: Option<u64>,
    /// For how long it may stand still, milliseconds.
    #[serde(default)]
    pub max_downtime_ms: Option<u32>,
    /// Slow its processors down for as long as its memory changes faster than it is sent.
    #[serde(default)]
    pub auto_converge: bool,
    /// Let it run on the other host before all of its memory is there, if it comes to that. Until it is, the loss
    /// of either host ends the guest's run.
    #[serde(default)]
    pub post_copy: bool,
}

impl MoveOptions {
    /// While it runs, with nothing special.
    pub const LIVE: MoveOptions = MoveOptions { restart: false, ..MoveOptions::RESTART };

    /// A restart instead of a live move.
    pub const RESTART: MoveOptions = MoveOptions {
        restart: true,
        bandwidth: None,
        max_downtime_ms: None,
        auto_converge: false,
        post_copy: false,
    };

    pub fn how(&self) -> HandoverKind {
        if self.restart { HandoverKind::Restart } else { HandoverKind::Live }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HandoverKind {
    /// It is shut down here and started there.
    Restart,
    /// It is sent while it runs.
    Live,
}

impl fmt::Display for HandoverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            HandoverKind::Restart => "by a restart",
            HandoverKind::Live => "while it ran",
        })
    }
}

/// What the owner's host says of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuestReport {
    pub guest: GuestName,
    pub guest_id: GuestId,
    pub host: HostName,
    pub boot_id: BootId,
    pub epoch: Epoch,
    pub state: GuestState,
    /// The boot generation that `state` speaks of.
    pub boot_generation: u64,
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    pub accelerator: Option<AcceleratorKind>,
    /// How its last run ended.
    pub exit: Option<Exit>,
    pub volumes: Vec<VolumeReport>,
    /// What it waits for, or why it failed; one sentence without a full stop.
    pub message: Option<String>,
    /// Of the machine that runs it, as in `pc-q35-10.0`: a host that takes it in needs the same.
    #[serde(default)]
    pub machine_type: Option<String>,
    /// The processor that its run began with.
    #[serde(default)]
    pub cpu: Option<CpuModel>,
    /// How far it is on its way to another host, while it runs.
    #[serde(default)]
    pub migration: Option<MigrationReport>,
    /// It runs, and stands still because a disk of its host has no room for a write.
    #[serde(default)]
    pub no_room: bool,
    /// When one of its runs on this host ended last by a failure.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub failed_at: Option<Timestamp>,
    /// How well it is. None: nobody has looked yet, or an older build wrote this.
    #[serde(default)]
    pub health: Option<HealthReport>,
}

/// A guest that is sent to another host while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MigrationReport {
    pub to: HostName,
    pub phase: MigrationPhase,
    /// Bytes that went over the wire.
    pub transferred: Bytes,
    /// Of its memory: still to be sent, and all of it.
    pub remaining: Bytes,
    pub total: Bytes,
    /// Bytes per second that it changes, and that are sent.
    pub dirty_rate: u64,
    pub throughput: u64,
    /// How long it would stand still if the rest were sent now.
    pub expected_downtime_ms: Option<u64>,
    /// How often all of its memory has been gone through.
    pub iteration: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MigrationPhase {
    /// Its memory is sent, and it runs here.
    Memory,
    /// It stands still, and changes its host now.
    SwitchOver,
    /// It was not possible; the guest runs on where it is. One sentence without a full stop.
    Failed(String),
}

impl fmt::Display for MigrationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MigrationReport { to, phase, remaining, total, dirty_rate, throughput, .. } = self;
        match phase {
            MigrationPhase::Memory if *total == Bytes(0) => write!(f, "{to}: it begins to be sent"),
            MigrationPhase::Memory => {
                let (sent, changed) = (Bytes(*throughput), Bytes(*dirty_rate));
                write!(f, "{to}: {remaining} of {total} left, {sent}/s sent, {changed}/s changed")?;
                match self.expected_downtime_ms {
                    Some(ms) => write!(f, ", would stand still for {ms} ms"),
                    None => Ok(()),
                }
            }
            MigrationPhase::SwitchOver => write!(f, "{to}: it changes its host now"),
            MigrationPhase::Failed(why) => write!(f, "{to}: {why}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GuestState {
    /// Its volumes are being made or opened.
    Preparing,
    Starting,
    Running,
    Stopping,
    Stopped,
    /// It cannot be started; the report's message says why. Tried again with growing pauses.
    Failed,
    /// Nothing of it is left on this host.
    Deleted,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Exit {
    /// The boot generation that ended.
    pub boot_generation: u64,
    pub reason: ExitReason,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Its secondary answered a write with an error before the end, so it may lack the last ones.
    #[serde(default)]
    pub secondary_failed: bool,
}

impl Exit {
    /// Whether it left every volume the same on all its replicas: no write was under way, and none had failed.
    pub fn is_clean(&self) -> bool {
        matches!(self.reason, ExitReason::GuestShutdown | ExitReason::Stopped) && !self.secondary_failed
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExitReason {
    /// The guest shut itself down; it stays down until it is started again.
    GuestShutdown,
    /// It was asked to stop, and did.
    Stopped,
    /// It was asked to stop, did not in time, and was ended.
    Killed,
    /// Its QEMU died.
    Crashed,
    /// This host no longer owned it.
    Disowned,
    /// It went to another host while it ran.
    Moved,
}

/// What a person sees of a guest; computed, never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GuestPhase {
    /// No host has been chosen yet.
    Waiting,
    Preparing,
    Starting,
    Running,
    /// It stands still until there is room for its disk.
    Paused,
    Stopping,
    Stopped,
    Failed,
    /// Its host is lost, and no other may take it yet.
    Unknown,
    Deleting,
}

impl GuestPhase {
    /// What a guest's phase is, from the records that speak of it.
    pub fn derive(
        spec: &GuestSpec,
        assignment: Option<&Assignment>,
        report: Option<&GuestReport>,
        view: &ClusterView,
    ) -> GuestPhase {
        if spec.deleting {
            return GuestPhase::Deleting;
        }
        let Some(assignment) = assignment else { return GuestPhase::Waiting };
        if !view.is_live(&assignment.host) {
            return GuestPhase::Unknown;
        }
        let Some(report) = report.filter(|r| r.host == assignment.host && r.epoch == assignment.epoch) else {
            return GuestPhase::Starting;
        };
        match report.state {
            GuestState::Preparing => GuestPhase::Preparing,
            GuestState::Starting => GuestPhase::Starting,
            GuestState::Running if report.no_room => GuestPhase::Paused,
            GuestState::Running => GuestPhase::Running,
            GuestState::Stopping => GuestPhase::Stopping,
            GuestState::Stopped | GuestState::Deleted => GuestPhase::Stopped,
            GuestState::Failed => GuestPhase::Failed,
        }
    }
}

impl fmt::Display for GuestPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            GuestPhase::Waiting => "waiting",
            GuestPhase::Preparing => "preparing",
            GuestPhase::Starting => "starting",
            GuestPhase::Running => "running",
            GuestPhase::Paused => "paused",
            GuestPhase::Stopping => "stopping",
            GuestPhase::Stopped => "stopped",
            GuestPhase::Failed => "failed",
            GuestPhase::Unknown => "unknown",
            GuestPhase::Deleting => "deleting",
        })
    }
}
