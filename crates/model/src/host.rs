//! Hosts: the machines that run guests.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    BootId, Bytes, ClusterView, Epoch, GuestId, GuestName, HostName, ImageName, PoolName, PoolOnHost,
};

/// A host as the cluster knows it, written when it joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Host {
    pub name: HostName,
    /// Where the other hosts reach it.
    #[schema(value_type = String)]
    pub address: std::net::IpAddr,
    /// Hosts that may fail together, such as a rack.
    pub zone: String,
    pub tags: BTreeSet<String>,
    #[schema(value_type = String, format = DateTime)]
    pub joined_at: Timestamp,
    /// Whether it runs a member of the state store.
    pub store_member: bool,
    #[serde(default)]
    pub duty: Duty,
    #[serde(default)]
    pub settings: HostSettings,
}

/// What an operator wants of a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Duty {
    /// It runs guests and holds replicas.
    #[default]
    Normal,
    /// Guests and replicas leave it, and none come.
    Draining,
    /// Guests leave it, and none come; its replicas stay, for it will be back.
    Maintenance,
}

/// What an operator says of one host. `None`: as the whole cluster's settings say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostSettings {
    /// What it keeps for itself: kernel, daemon, store member, storage daemon.
    pub reserved_memory: Bytes,
    /// Of the file system that holds the volumes: what no replica may take.
    pub reserved_disk: Bytes,
    /// Processors that it keeps for itself, in thousandths of a core.
    pub reserved_millicores: u32,
    /// Of its processors: 100 is a standard host's.
    pub speed_percent: u32,
    /// What guests' reservations may sum up to, of the memory that is not reserved.
    pub memory_percent: Option<u32>,
    /// How many virtual CPUs its guests may have, in percent of its cores.
    pub vcpus_percent: Option<u32>,
}

impl Default for HostSettings {
    fn default() -> Self {
        Self {
            reserved_memory: Bytes::mib(512),
            reserved_disk: Bytes(0),
            reserved_millicores: 0,
            speed_percent: 100,
            memory_percent: None,
            vcpus_percent: None,
        }
    }
}

impl fmt::Display for Duty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Duty::Normal => "normal",
            Duty::Draining => "draining",
            Duty::Maintenance => "maintenance",
        })
    }
}

/// What a host says of itself when it starts, and when that changes. Nothing here is measured over time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostReport {
    pub host: HostName,
    pub boot_id: BootId,
    pub kennel_version: String,
    pub qemu_version: String,
    pub kernel_version: String,
    pub cpus: u32,
    pub memory: Bytes,
    /// Size of the file system that holds the volumes.
    pub disk: Bytes,
    pub accelerator: Accelerator,
    /// Images whose bytes are here, checked against their hashes.
    pub images: BTreeSet<ImageName>,
    /// What a person should know of, such as a volume file that no record names; one sentence each.
    pub problems: Vec<String>,
    /// How the guests' networks leave this host: network name to interface.
    pub uplinks: BTreeMap<String, String>,
    /// Where machines of this host wait for guests that run elsewhere.
    #[serde(default)]
    pub incoming: Vec<Incoming>,
    #[serde(default)]
    pub compatibility: Compatibility,
    /// How it reaches the pools that hosts share.
    #[serde(default)]
    pub pools: BTreeMap<PoolName, PoolOnHost>,
    /// There is little room where its volumes are: thin ones may find none.
    #[serde(default)]
    pub short_of_room: bool,
    /// The hardware that resets it when its watchdog does not feed it. Armed before it is told, and told no more before
    /// it is disarmed.
    #[serde(default)]
    pub hardware_watchdog: Option<HardwareWatchdog>,
}

/// A device that resets its host unless it is fed all the time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HardwareWatchdog {
    /// As its driver calls it, as in `iTCO_wdt`.
    pub name: String,
    /// So many seconds after it was fed last.
    pub timeout_s: u32,
    /// Others may count on it: it is no imitation of the kernel's, and its host is no virtual machine.
    pub proves: bool,
}

/// What decides whether a guest that runs on one host can go on running on another. All unknown by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Compatibility {
    /// The versioned machine types of its QEMU, as in `pc-q35-10.0`.
    pub machine_types: BTreeSet<String>,
    /// What its processors can do; unknown also below the first level.
    pub cpu_level: Option<CpuLevel>,
    /// Who made them, in their own words, as in `GenuineIntel`. Under KVM a guest sees it, whatever its level.
    pub cpu_vendor: Option<String>,
}

/// The levels of the x86-64 architecture, each with all that is in the ones before (x86-64 psABI, "Low Level
/// System Information", table 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub enum CpuLevel {
    #[serde(rename = "x86-64-v1")]
    V1,
    #[serde(rename = "x86-64-v2")]
    V2,
    #[serde(rename = "x86-64-v3")]
    V3,
    #[serde(rename = "x86-64-v4")]
    V4,
}

impl CpuLevel {
    pub const ALL: [CpuLevel; 4] = [CpuLevel::V1, CpuLevel::V2, CpuLevel::V3, CpuLevel::V4];

    pub fn as_str(self) -> &'static str {
        match self {
            CpuLevel::V1 => "x86-64-v1",
            CpuLevel::V2 => "x86-64-v2",
            CpuLevel::V3 => "x86-64-v3",
            CpuLevel::V4 => "x86-64-v4",
        }
    }
}

impl fmt::Display for CpuLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for CpuLevel {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = CpuLevel::ALL.into_iter().find(|level| level.as_str() == text);
        known.ok_or_else(|| {
            let names: Vec<&str> = CpuLevel::ALL.iter().map(|level| level.as_str()).collect();
            format!("there is no CPU level '{text}': the levels are {}", names.join(", "))
        })
    }
}

/// Which processor a guest sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CpuModel {
    /// All that QEMU's own emulation offers: the same on every host with the same QEMU. Under KVM as [`Self::Host`].
    #[default]
    Tcg,
    /// That level and nothing above it, or the machine does not start: the same on every host that reaches it. Under
    /// KVM the guest still sees its host's vendor, so that running guests do not go between Intel and AMD.
    /// Emulation reaches the third level.
    Level(CpuLevel),
    /// All that this host has. Only a host with the same processors can take the guest while it runs.
    Host,
}

impl CpuModel {
    /// What a guest is started with: what was pinned, else under KVM the cluster's lowest level.
    pub fn at_start(view: &ClusterView, accelerator: AcceleratorKind) -> CpuModel {
        let pinned = view.cluster.as_ref().and_then(|cluster| cluster.settings.cpu_baseline);
        match (pinned, accelerator) {
            (Some(level), AcceleratorKind::Kvm | AcceleratorKind::Tcg) => CpuModel::Level(level),
            (None, AcceleratorKind::Tcg) => CpuModel::Tcg,
            (None, AcceleratorKind::Kvm) => view.lowest_cpu_level().map_or(CpuModel::Host, CpuModel::Level),
        }
    }
}

impl fmt::Display for CpuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            CpuModel::Tcg => "all that QEMU emulates",
            CpuModel::Level(level) => level.as_str(),
            CpuModel::Host => "all that its host has",
        })
    }
}

/// A machine that waits for a guest that runs on another host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct Incoming {
    pub guest: GuestName,
    pub guest_id: GuestId,
    /// The epoch at which the guest goes on here.
    pub epoch: Epoch,
    #[schema(value_type = String)]
    pub address: std::net::SocketAddr,
}

/// What runs the guests' instructions, and how that was found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Accelerator {
    pub kind: AcceleratorKind,
    /// Why this one, as in "KVM is present, but the tiny guest did not boot under it within 20 s".
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AcceleratorKind {
    Kvm,
    /// QEMU's own emulation.
    Tcg,
}

impl fmt::Display for AcceleratorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            AcceleratorKind::Kvm => "kvm",
            AcceleratorKind::Tcg => "tcg",
        })
    }
}

/// A host's lease on membership. The record hangs on a lease of the store: it is there while the host lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Session {
    pub host: HostName,
    pub boot_id: BootId,
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
}

/// What a person sees of a host; computed, never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HostPhase {
    /// Its session is live.
    Online,
    /// Its session is over. It may be dead, cut off, or frozen.
    Lost,
    /// It joined, and has not been heard of since.
    Joining,
}

impl fmt::Display for HostPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            HostPhase::Online => "online",
            HostPhase::Lost => "lost",
            HostPhase::Joining => "joining",
        })
    }
}
