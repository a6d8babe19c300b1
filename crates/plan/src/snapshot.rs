//! A cluster as the planner sees it: hosts with room, guests with needs, rules; everything by number.
//!
//! The live cluster ([`crate::inventory`]), a dump of one, and Ganeti's text format ([`crate::htools`]) all become
//! a [`Snapshot`]; placing, balancing, draining, recovering and the questions "what if" are pure functions over it.
//! A snapshot does not change while a plan is made: who is where is a [`Layout`](crate::layout::Layout) beside it.
//!
//! Hosts and guests are in the order of their names, so that the order of the input changes nothing.
//! Memory and disk are bytes. A load is what is used: processors in cores, memory in bytes, disk and network in
//! bytes a second, each a time-weighted average.

use std::fmt;

/// A host's place in [`Snapshot::hosts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostIx(pub u32);

/// A guest's place in [`Snapshot::guests`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestIx(pub u32);

/// A group's place in [`Snapshot::groups`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupIx(pub u32);

/// A failure domain's place in [`Snapshot::domains`]: a zone, a rack, whatever fails together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainIx(pub u32);

impl HostIx {
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

impl GuestIx {
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

impl GroupIx {
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

impl DomainIx {
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

/// Everything that a plan rests on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// In the order of their names.
    pub hosts: Vec<HostRoom>,
    /// In the order of their names.
    pub guests: Vec<GuestNeed>,
    /// Names of the failure domains.
    pub domains: Vec<String>,
    pub groups: Vec<Group>,
    pub promise: Promise,
    /// A move may not fill a host's disk beyond this share of it; 1.0: to the last byte.
    pub disk_share_max: f64,
}

/// What the cluster promises to survive with every guest running again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Promise {
    #[default]
    Nothing,
    /// The loss of any so many hosts.
    Hosts(u32),
    /// The loss of any one failure domain.
    Domain,
}

/// A host: what it can give. What is given stands in the layout.
#[derive(Debug, Clone, PartialEq)]
pub struct HostRoom {
    pub name: String,
    /// What the guests' reservations may sum up to: less what the host keeps, times the over-commit ratio.
    pub memory: u64,
    /// All of its memory; the denominator of shares.
    pub memory_total: u64,
    /// What replicas may take together.
    pub disk: u64,
    pub disk_total: u64,
    pub cores: f64,
    /// 1.0: a standard host's.
    pub speed: f64,
    /// How many virtual CPUs its guests may have together.
    pub vcpus_max: f64,
    /// Bytes a second; 0: unknown.
    pub network: f64,
    /// What the host uses by itself, beside its guests.
    pub own_load: Load,
    /// The failure domains it is in; a zone is the first.
    pub domains: Vec<DomainIx>,
    pub duty: HostDuty,
}

/// What a host is there for now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HostDuty {
    #[default]
    Takes,
    /// It keeps what it has and takes nothing more; why, as in "it is in maintenance".
    Keeps(String),
    /// Guests shall leave it and none come; the replicas that it holds for others stay; why. A host in maintenance.
    GuestsLeave(String),
    /// Everything shall leave it; why.
    Leaves(String),
    /// It is not heard of: nothing runs there as far as anybody knows, nothing goes there, and what it held of
    /// replicas may be gone; why, as in "it is lost".
    Lost(String),
}

/// A guest: what it takes, and where it may be.
#[derive(Debug, Clone, PartialEq)]
pub struct GuestNeed {
    pub name: String,
    /// Reserved on its host while it runs, and on whatever host takes it over.
    pub memory: u64,
    /// For each replica.
    pub disk: u64,
    pub vcpus: u32,
    pub load: Load,
    pub storage: Storage,
    /// It takes memory now; one that is stopped takes disk only.
    pub runs: bool,
    /// Whether it may be moved to balance; a guest that may not is moved only when its host is to be emptied and
    /// its operator says so.
    pub may_move: bool,
    /// Higher comes back first.
    pub priority: i32,
    /// The groups it is in.
    pub groups: Vec<GroupIx>,
    /// Where it must be, in order of hosts. `None`: anywhere.
    pub allowed: Option<Vec<HostIx>>,
    /// Where it should be: what each host costs that is not among these.
    pub wishes: Vec<Wish>,
    /// Where it is. `None`: nowhere yet, or its host is lost.
    pub place: Option<Place>,
    /// Why its secondary could not take over now although its host is there, as in "the replica on host2 is being
    /// filled". `None`: it could. What happens at a loss depends on it; plans do not, for it passes.
    pub unready: Option<String>,
}

/// Measured use.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// Cores.
    pub cpu: f64,
    /// Bytes.
    pub memory: f64,
    /// Bytes a second.
    pub disk: f64,
    /// Bytes a second.
    pub network: f64,
}

/// How a guest's disks are kept, which is how it can move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// A replica on its host and one on its secondary's: their roles swap, or one is copied elsewhere.
    Mirrored,
    /// Every host reaches them: it moves anywhere.
    Shared,
    /// On its host alone: it moves with a copy of its disks.
    Local,
}

/// A host set that a guest should be on.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// In order.
    pub hosts: Vec<HostIx>,
    /// What it costs when it is not there.
    pub weight: f64,
    /// The rule's name.
    pub rule: String,
}

/// Where a guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub host: HostIx,
    pub secondary: Option<HostIx>,
}

/// Guests that a rule counts together.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The rule's name.
    pub rule: String,
    pub members: Vec<GuestIx>,
    pub scope: Scope,
    pub bound: Bound,
    pub strength: Strength,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Host,
    /// Every failure domain that a host is in.
    Domain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// No more than so many on one.
    AtMost(u32),
    /// All on one.
    Together,
}

/// How binding a rule is. What breaks a `Must` rule already may stay so, and may not get worse; repairing it
/// comes before everything else.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Strength {
    Must,
    /// What each guest too many costs.
    Should(f64),
}

impl Snapshot {
    pub fn host(&self, host: HostIx) -> &HostRoom {
        &self.hosts[host.at()]
    }

    pub fn guest(&self, guest: GuestIx) -> &GuestNeed {
        &self.guests[guest.at()]
    }

    pub fn host_indices(&self) -> impl Iterator<Item = HostIx> + use<> {
        (0..self.hosts.len() as u32).map(HostIx)
    }

    pub fn guest_indices(&self) -> impl Iterator<Item = GuestIx> + use<> {
        (0..self.guests.len() as u32).map(GuestIx)
    }

    pub fn find_host(&self, name: &str) -> Option<HostIx> {
        let at = self.hosts.binary_search_by(|host| host.name.as_str().cmp(name)).ok()?;
        u32::try_from(at).ok().map(HostIx)
    }

    pub fn find_guest(&self, name: &str) -> Option<GuestIx> {
        let at = self.guests.binary_search_by(|guest| guest.name.as_str().cmp(name)).ok()?;
        u32::try_from(at).ok().map(GuestIx)
    }
}

impl HostDuty {
    pub fn takes(&self) -> bool {
        match self {
            HostDuty::Takes => true,
            HostDuty::Keeps(_) | HostDuty::GuestsLeave(_) | HostDuty::Leaves(_) | HostDuty::Lost(_) => false,
        }
    }

    /// Whether replicas shall leave it, and guests with them.
    pub fn leaves(&self) -> bool {
        match self {
            HostDuty::Leaves(_) | HostDuty::Lost(_) => true,
            HostDuty::Takes | HostDuty::Keeps(_) | HostDuty::GuestsLeave(_) => false,
        }
    }

    /// Whether guests shall leave it; the replicas perhaps not.
    pub fn guests_leave(&self) -> bool {
        match self {
            HostDuty::GuestsLeave(_) | HostDuty::Leaves(_) | HostDuty::Lost(_) => true,
            HostDuty::Takes | HostDuty::Keeps(_) => false,
        }
    }

    /// Why it does not take, or not keep, guests.
    pub fn reason(&self) -> Option<&str> {
        match self {
            HostDuty::Takes => None,
            HostDuty::Keeps(why)
            | HostDuty::GuestsLeave(why)
            | HostDuty::Leaves(why)
            | HostDuty::Lost(why) => Some(why),
        }
    }

    pub fn is_lost(&self) -> bool {
        match self {
            HostDuty::Lost(_) => true,
            HostDuty::Takes | HostDuty::Keeps(_) | HostDuty::GuestsLeave(_) | HostDuty::Leaves(_) => false,
        }
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Promise::Nothing => f.write_str("no loss"),
            Promise::Hosts(1) => f.write_str("the loss of any one host"),
            Promise::Hosts(count) => write!(f, "the loss of any {count} hosts"),
            Promise::Domain => f.write_str("the loss of any one zone"),
        }
    }
}
