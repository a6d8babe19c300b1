//! What the planner says: why a guest is where it is, what balancing would do, how much still fits, what a loss
//! would do. All of it is computed when it is asked for, by the host that is asked.

use std::collections::BTreeMap;

use model::{BalanceMode, Bytes, GuestName, GuestPlace, HostName, JobId, Pool, Survive};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why a guest is where it is, and not elsewhere. All texts are phrases without a full stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhyView {
    pub guest: GuestName,
    pub here: Option<GuestPlace>,
    pub because: Vec<String>,
    /// By how much it would be worse on each other host, or what is in the way there.
    #[schema(value_type = BTreeMap<String, String>)]
    pub others: BTreeMap<HostName, String>,
    /// The rules that select it, and whether each is kept.
    pub rules: Vec<String>,
    /// Why it is not moved now, whatever would be better.
    pub cannot_move: Option<String>,
    /// Why it has no second replica, if it is to have one.
    #[serde(default)]
    pub healing: Option<String>,
}

/// What balancing would do now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BalanceView {
    pub mode: BalanceMode,
    /// Names this very proposal; whoever applies it says which one was seen.
    pub digest: String,
    /// Smaller is better; 0: nothing is uneven, no rule is broken, nothing is too full.
    pub score_before: f64,
    pub score_after: f64,
    /// In order: each is judged against what those before it leave.
    pub moves: Vec<MoveView>,
    /// What stays wrong after all of them; sentences without a full stop.
    pub remaining: Vec<String>,
    /// Guests that may not be moved now, and why.
    #[schema(value_type = BTreeMap<String, String>)]
    pub held: BTreeMap<GuestName, String>,
    /// Hosts whose measurements do not count, and why: there only reservations are balanced.
    #[schema(value_type = BTreeMap<String, String>)]
    pub unmeasured: BTreeMap<HostName, String>,
    /// The balance that is under way.
    pub job: Option<JobId>,
}

/// One move of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MoveView {
    pub guest: GuestName,
    pub from: GuestPlace,
    pub to: GuestPlace,
    /// What is done, in words.
    pub steps: Vec<String>,
    pub score_before: f64,
    pub score_after: f64,
    /// How much better the score gets by it.
    pub gain: f64,
    /// What it costs, in the same measure: memory to send, disk to copy.
    pub cost: f64,
    pub memory_to_send: Bytes,
    pub disk_to_copy: Bytes,
    pub why: String,
}

/// A yes to a proposal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyBalance {
    /// Of the [`BalanceView`] that was seen.
    pub digest: String,
}

/// A guest that does not exist yet. What is left out is as for a new guest without options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ShapeQuery {
    pub memory: Option<Bytes>,
    /// On each host that holds a replica.
    pub disk: Option<Bytes>,
    pub vcpus: Option<u32>,
    pub pool: Option<Pool>,
}

/// How much still fits, and what the cluster survives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CapacityView {
    /// What the cluster promises to survive.
    pub survive: Survive,
    pub is_kept: bool,
    /// What of the promise does not hold; sentences without a full stop.
    pub problems: Vec<String>,
    pub fits: FitsView,
    pub room: Vec<RoomView>,
    /// What the loss of each host would do.
    pub hosts: Vec<OutlookView>,
    /// What the loss of each zone would do.
    pub zones: Vec<OutlookView>,
}

/// How many more guests of a size fit, placed one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FitsView {
    pub memory: Bytes,
    pub disk: Bytes,
    pub vcpus: u32,
    pub pool: Pool,
    /// With the promise kept.
    pub count: u64,
    /// What there is too little of for one more.
    pub limited_by: String,
    /// If nothing were promised.
    pub count_unpromised: u64,
    pub limited_by_unpromised: String,
    /// Where they would run.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub by_host: BTreeMap<HostName, u64>,
    /// Whether there may be room for more than `count`.
    pub at_least: bool,
}

/// What a host gives, and what is given of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoomView {
    pub host: HostName,
    /// What guests' reservations may sum up to.
    pub memory: Bytes,
    /// Of guests that run here.
    pub memory_given: Bytes,
    /// What it must keep free for guests that come here when another host dies.
    pub memory_kept: Bytes,
    pub disk: Bytes,
    pub disk_given: Bytes,
    pub vcpus: u32,
    pub vcpus_given: u32,
    /// Why it takes no guests.
    pub takes_nothing: Option<String>,
}

/// What one loss would do, in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutlookView {
    /// The host's or the zone's.
    pub name: String,
    /// Guests that would come back elsewhere.
    pub restarts: u64,
    /// Guests that would not, and why.
    pub left_out: BTreeMap<String, String>,
    /// Guests on local disks, which would wait for it.
    pub local: u64,
    /// Guests that would have one copy less.
    pub degraded: u64,
    /// Guests that would run on as they are.
    pub unaffected: u64,
}

/// What the loss of a host would do, guest by guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LossView {
    pub host: HostName,
    /// Guests that come back, in the order in which they do.
    pub restarts: Vec<RestartView>,
    /// Guests that do not, and why.
    #[schema(value_type = BTreeMap<String, String>)]
    pub left_out: BTreeMap<GuestName, String>,
    /// Guests on local disks: they wait for the host.
    #[schema(value_type = Vec<String>)]
    pub local: Vec<GuestName>,
    /// Guests there that do not run anyway.
    #[schema(value_type = Vec<String>)]
    pub stopped: Vec<GuestName>,
    /// Guests with one copy less.
    #[schema(value_type = Vec<String>)]
    pub degraded: Vec<GuestName>,
    /// Guests that run on as they are.
    pub unaffected: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestartView {
    pub guest: GuestName,
    pub on: HostName,
}

/// A host that does not exist yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddHostQuery {
    pub memory: Bytes,
    pub disk: Bytes,
    pub cores: u32,
    /// Default: one of its own.
    pub zone: Option<String>,
}

/// What one more host would bring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AddHostView {
    pub survive: Survive,
    pub fits_before: FitsView,
    pub fits_after: FitsView,
    /// What of the promise does not hold now, and with the host, before anything is moved to it.
    pub problems_before: Vec<String>,
    pub problems_after: Vec<String>,
}

/// A rolling reboot: hosts of one group may be rebooted together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RebootView {
    /// One after the other; the next begins when every guest is back and every disk in sync.
    pub groups: Vec<RebootGroupView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RebootGroupView {
    #[schema(value_type = Vec<String>)]
    pub hosts: Vec<HostName>,
    /// Where guests go before.
    pub moves: Vec<RestartView>,
    /// Guests that stop with their host, and why.
    #[schema(value_type = BTreeMap<String, String>)]
    pub stops: BTreeMap<GuestName, String>,
    /// What else a person should know; sentences without a full stop.
    pub notes: Vec<String>,
}

/// Everything that a plan rests on, for `kennel plan --from`. Its form is the planner's own, and says its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = Object)]
pub struct ClusterDump(pub serde_json::Value);
