//! The cluster itself.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{Bytes, CpuLevel, UserName};

/// The version of everything under the store's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    pub version: u32,
}

impl Schema {
    /// What this build reads and writes.
    pub const CURRENT: Schema = Schema { version: 1 };
}

/// The one record of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    pub name: String,
    pub id: Uuid,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// The certificate authority's certificate, PEM.
    pub ca_certificate: String,
    pub settings: Settings,
}

/// What an operator may change for the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Settings {
    /// How many hosts run a member of the state store: 3, or 5.
    pub store_members: u32,
    /// How many guests one host may be starting at once while lost guests are recovered.
    pub recovery_starts_per_host: u32,
    /// How long a guest waits at most for those that it starts after, seconds; 0: not at all.
    #[serde(default = "start_wait")]
    pub start_wait_s: u32,
    /// What share of the hosts, and two at least, must vanish within the window to be a storm, percent; 0: nothing is.
    #[serde(default = "storm_share")]
    pub storm_share_percent: u32,
    /// Hosts that vanish within so long vanish together, seconds.
    #[serde(default = "storm_window")]
    pub storm_window_s: u32,
    /// For how long nothing is recovered and nobody's power taken when a storm begins, seconds.
    #[serde(default = "storm_hold")]
    pub storm_hold_s: u32,
    /// How many guests one host may be starting at once in a storm.
    #[serde(default = "storm_starts")]
    pub storm_starts_per_host: u32,
    #[serde(default)]
    pub balance: BalanceMode,
    /// How many moves the balance makes at once.
    #[serde(default = "moves_at_once")]
    pub balance_moves_at_once: u32,
    /// The time constant of what is measured: a load that lasts much shorter moves nothing. Seconds.
    #[serde(default = "usage_window")]
    pub usage_window_s: u32,
    /// What the cluster keeps room for.
    #[serde(default)]
    pub survive: Survive,
    /// What guests' reservations may sum up to, of the memory that hosts do not keep for themselves.
    #[serde(default = "memory_percent")]
    pub memory_percent: u32,
    /// How many virtual CPUs guests may have, in percent of a host's cores.
    #[serde(default = "vcpus_percent")]
    pub vcpus_percent: u32,
    /// For how long a mirrored volume has one replica before it gets a new secondary by itself, seconds; 0: it never
    /// does.
    #[serde(default = "heal_after")]
    pub heal_after_s: u32,
    /// How often both replicas of each mirrored volume are compared, seconds; 0: never.
    #[serde(default = "verify_every")]
    pub verify_every_s: u32,
    /// How fast one replica is filled at most, bytes per second. None: as the daemon sees fit.
    #[serde(default)]
    pub resync_pace: Option<Bytes>,
    /// The processor that guests are started with. None: under KVM the lowest level of all hosts, under emulation all
    /// that QEMU emulates.
    #[serde(default)]
    pub cpu_baseline: Option<CpuLevel>,
}

/// A database that replays its log takes minutes; who waits for longer has something else to look at.
fn start_wait() -> u32 {
    300
}

/// More than a third.
fn storm_share() -> u32 {
    34
}

/// The sessions of hosts that vanish together end within seconds of each other; power fails row by row.
fn storm_window() -> u32 {
    60
}

/// About as long as switches take to find new ways.
fn storm_hold() -> u32 {
    30
}

fn storm_starts() -> u32 {
    1
}

/// Long enough for a host to be rebooted, or repaired by somebody who is near.
fn heal_after() -> u32 {
    30 * 60
}

/// Disks that rot do so over years; a month costs little.
fn verify_every() -> u32 {
    30 * 24 * 3600
}

fn moves_at_once() -> u32 {
    2
}

fn usage_window() -> u32 {
    300
}

fn memory_percent() -> u32 {
    100
}

fn vcpus_percent() -> u32 {
    800
}

/// Whether guests are moved to balance the load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BalanceMode {
    Off,
    /// It is proposed, and waits for a yes.
    Manual,
    /// It is done.
    #[default]
    Automatic,
}

/// What the cluster keeps room for: the guests of what is lost can all run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Survive {
    /// Any so many hosts at once; 0: nothing.
    Hosts(u32),
    /// Any one zone.
    Zone,
}

impl Default for Survive {
    fn default() -> Self {
        Survive::Hosts(1)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            store_members: 3,
            recovery_starts_per_host: 4,
            start_wait_s: start_wait(),
            storm_share_percent: storm_share(),
            storm_window_s: storm_window(),
            storm_hold_s: storm_hold(),
            storm_starts_per_host: storm_starts(),
            balance: BalanceMode::default(),
            balance_moves_at_once: moves_at_once(),
            usage_window_s: usage_window(),
            survive: Survive::default(),
            memory_percent: memory_percent(),
            vcpus_percent: vcpus_percent(),
            heal_after_s: heal_after(),
            verify_every_s: verify_every(),
            resync_pace: None,
            cpu_baseline: None,
        }
    }
}

/// What a token opens. The token itself is never stored: its key is the SHA-256 of it, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccessToken {
    pub name: String,
    pub used_for: TokenUse,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TokenUse {
    /// Everything that an operator may do.
    Admin,
    /// One host's way into the cluster; used once.
    Join,
    /// What a browser holds after somebody signed in. Opens what `Admin` opens, until it ends.
    Session,
}

/// Somebody who signs in with a password. The key is the name.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub name: UserName,
    /// In the PHC string format, as in `$argon2id$v=19$…`. Never shown.
    pub password_hash: String,
    pub created_at: Timestamp,
    pub password_set_at: Timestamp,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}
