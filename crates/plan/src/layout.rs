//! Who is where, and what that leaves on each host. Every question is answered from sums that a move keeps up to
//! date, so that a move costs what it touches and not the whole cluster.
//!
//! [`Layout::obstacle`] is the one place that says whether a guest may be put somewhere; placing, balancing,
//! draining, recovering and explaining all ask it. It judges a move by what it makes worse: a host that is overfull
//! already may lose guests, a rule that is broken already may be mended step by step, and neither may get worse.
//!
//! What counts where: memory, virtual CPUs and load count for guests that run; disk counts for each replica of a
//! guest, whether it runs or not; a shared disk counts nowhere. Groups count the primaries. What a host must take
//! over counts the memory of mirrored guests that run, by what dies with their primary.

mod breach;
mod obstacle;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::snapshot::{
    Bound, DomainIx, GroupIx, GuestIx, GuestNeed, HostIx, Load, Place, Promise, Scope, Snapshot, Storage,
};

pub use breach::Breach;
pub use obstacle::Obstacle;

/// What a host gives now.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Given {
    /// Memory of the guests that run here, bytes.
    pub memory: u64,
    /// Of all replicas here, bytes.
    pub disk: u64,
    /// Of the guests that run here.
    pub vcpus: u32,
    /// Primaries, running or not.
    pub guests: u32,
    pub secondaries: u32,
    /// Of the guests here, and the disk traffic of the replicas here; without the host's own.
    pub load: Load,
}

/// Who is where.
#[derive(Debug, Clone)]
pub struct Layout<'a> {
    snapshot: &'a Snapshot,
    places: Vec<Option<Place>>,
    given: Vec<Given>,
    /// For each host: memory of the guests that it would take over, by what is lost. Only what is not zero.
    takeovers: Vec<BTreeMap<Loss, u64>>,
    /// For each group: how many of its guests are on each host or in each domain. Only those that are not zero.
    counts: Vec<BTreeMap<u32, u32>>,
    /// The same without the guests on hosts that everything leaves.
    staying: Vec<BTreeMap<u32, u32>>,
}

/// What may be lost at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Loss {
    Host(HostIx),
    Domain(DomainIx),
}

impl Loss {
    pub fn name(self, snapshot: &Snapshot) -> &str {
        match self {
            Loss::Host(host) => &snapshot.host(host).name,
            Loss::Domain(domain) => &snapshot.domains[domain.0 as usize],
        }
    }
}

impl<'a> Layout<'a> {
    /// Every guest where the snapshot says that it is.
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let mut layout = Self::empty(snapshot);
        for guest in snapshot.guest_indices() {
            layout.put(guest, snapshot.guest(guest).place);
        }
        layout
    }

    /// No guest anywhere.
    pub fn empty(snapshot: &'a Snapshot) -> Self {
        Layout {
            snapshot,
            places: vec![None; snapshot.guests.len()],
            given: vec![Given::default(); snapshot.hosts.len()],
            takeovers: vec![BTreeMap::new(); snapshot.hosts.len()],
            counts: vec![BTreeMap::new(); snapshot.groups.len()],
            staying: vec![BTreeMap::new(); snapshot.groups.len()],
        }
    }

    pub fn snapshot(&self) -> &'a Snapshot {
        self.snapshot
    }

    pub fn place(&self, guest: GuestIx) -> Option<Place> {
        self.places[guest.at()]
    }

    pub fn places(&self) -> &[Option<Place>] {
        &self.places
    }

    /// Moves, places or takes away a guest. Checks nothing.
    pub fn put(&mut self, guest: GuestIx, place: Option<Place>) {
        let old = std::mem::replace(&mut self.places[guest.at()], place);
        if old == place {
            return;
        }
        if let Some(old) = old {
            self.count(guest, old, Direction::Leave);
        }
        if let Some(new) = place {
            self.count(guest, new, Direction::Arrive);
        }
    }

    pub fn given(&self, host: HostIx) -> &Given {
        &self.given[host.at()]
    }

    /// Bytes that guests may still reserve; 0 when the host is overfull.
    pub fn memory_free(&self, host: HostIx) -> u64 {
        self.snapshot.host(host).memory.saturating_sub(self.given(host).memory)
    }

    /// Bytes that replicas may still take; 0 when the host is overfull.
    pub fn disk_free(&self, host: HostIx) -> u64 {
        disk_limit(self.snapshot, host).saturating_sub(self.given(host).disk)
    }

    /// The memory that the host must take over in the worst loss that the cluster promises to survive, and what
    /// is lost then: for [`Promise::Hosts`] of several, the hosts whose guests weigh most, heaviest first.
    pub fn takeover(&self, host: HostIx) -> (u64, Vec<Loss>) {
        worst(&self.takeovers[host.at()], self.snapshot.promise)
    }

    /// The memory of the guests that `host` takes over when `lost` dies.
    pub fn takeover_from(&self, host: HostIx, lost: Loss) -> u64 {
        self.takeovers[host.at()].get(&lost).copied().unwrap_or(0)
    }

    /// By how much the host's free memory falls short of what it must take over.
    pub fn shortfall(&self, host: HostIx) -> u64 {
        self.takeover(host).0.saturating_sub(self.memory_free(host))
    }

    /// How many of a group's guests are on a host or in a domain, whichever the rule counts by.
    pub fn group_count(&self, group: GroupIx, key: u32) -> u32 {
        self.counts[group.at()].get(&key).copied().unwrap_or(0)
    }

    /// Where a group's guests are: hosts or domains by number, as the rule counts, with how many.
    pub fn group_counts(&self, group: GroupIx) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.counts[group.at()].iter().map(|(key, count)| (*key, *count))
    }

    /// By how many guests a group breaks its rule: those above the bound, or those away from the most.
    pub fn group_excess(&self, group: GroupIx) -> u32 {
        excess(&self.counts[group.at()], self.snapshot.groups[group.at()].bound, self.members_placed(group))
    }

    /// Why a guest may not go to a place, judged with itself taken away from where it is now. `None`: it may.
    pub fn obstacle(&self, guest: GuestIx, place: Place) -> Option<Obstacle> {
        obstacle::find(self, guest, place)
    }

    /// Everything that is wrong with the layout as it is.
    pub fn broken(&self) -> Vec<Breach> {
        breach::list(self)
    }

    /// What is wrong with a guest, its rules and some hosts: all that a move of the guest among them can change.
    pub(crate) fn broken_around(&self, guest: GuestIx, hosts: &[HostIx]) -> Vec<Breach> {
        breach::around(self, guest, hosts)
    }

    fn members_placed(&self, group: GroupIx) -> u32 {
        let members = &self.snapshot.groups[group.at()].members;
        members.iter().filter(|guest| self.place(**guest).is_some()).count() as u32
    }

    fn count(&mut self, guest: GuestIx, place: Place, direction: Direction) {
        let need = self.snapshot.guest(guest);
        let local = disk_of(need);
        let primary = &mut self.given[place.host.at()];
        direction.apply_u32(&mut primary.guests, 1);
        direction.apply(&mut primary.disk, local);
        if need.runs {
            direction.apply(&mut primary.memory, need.memory);
            direction.apply_u32(&mut primary.vcpus, need.vcpus);
            direction.apply_load(&mut primary.load, need.load);
        }
        if let Some(secondary) = place.secondary {
            let given = &mut self.given[secondary.at()];
            direction.apply_u32(&mut given.secondaries, 1);
            direction.apply(&mut given.disk, local);
            if need.runs {
                direction.apply_load(&mut given.load, mirror_load(need.load));
                if let Some(loss) = loss(self.snapshot, place.host, secondary) {
                    direction.apply_entry(&mut self.takeovers[secondary.at()], loss, need.memory);
                }
            }
        }
        let leaves = self.snapshot.host(place.host).duty.guests_leave();
        for group in &need.groups {
            for key in keys(self.snapshot, *group, place.host) {
                direction.apply_entry(&mut self.counts[group.at()], key, 1);
                if !leaves {
                    direction.apply_entry(&mut self.staying[group.at()], key, 1);
                }
            }
        }
    }
}

/// Disk that a guest takes on each host that has a replica of it.
pub(crate) fn disk_of(need: &GuestNeed) -> u64 {
    match need.storage {
        Storage::Mirrored | Storage::Local => need.disk,
        Storage::Shared => 0,
    }
}

/// What a guest's load makes on its secondary's host: every write goes there too. What is measured does not tell
/// reads from writes, so all of the disk's traffic counts.
pub(crate) fn mirror_load(load: Load) -> Load {
    Load { disk: load.disk, ..Load::default() }
}

/// Bytes of disk that a move may fill a host up to.
pub(crate) fn disk_limit(snapshot: &Snapshot, host: HostIx) -> u64 {
    let room = snapshot.host(host);
    if snapshot.disk_share_max >= 1.0 {
        room.disk
    } else {
        (room.disk as f64 * snapshot.disk_share_max) as u64
    }
}

/// The hosts or domains of a host that a group counts by.
pub(crate) fn keys(snapshot: &Snapshot, group: GroupIx, host: HostIx) -> impl Iterator<Item = u32> {
    let scope = snapshot.groups[group.at()].scope;
    let domains = match scope {
        Scope::Host => &[],
        Scope::Domain => snapshot.host(host).domains.as_slice(),
    };
    (scope == Scope::Host).then_some(host.0).into_iter().chain(domains.iter().map(|domain| domain.0))
}

/// The loss after which a guest on `primary` runs on `secondary`. A host's zone is the first of its domains; one that
/// is in none is lost by itself.
pub(crate) fn loss(snapshot: &Snapshot, primary: HostIx, secondary: HostIx) -> Option<Loss> {
    let zone = |host: HostIx| {
        snapshot.host(host).domains.first().map_or(Loss::Host(host), |zone| Loss::Domain(*zone))
    };
    match snapshot.promise {
        Promise::Nothing => None,
        Promise::Hosts(_) => Some(Loss::Host(primary)),
        Promise::Domain => Some(zone(primary)).filter(|lost| *lost != zone(secondary)),
    }
}

/// The worst of the losses that are promised to be survived.
fn worst(takeovers: &BTreeMap<Loss, u64>, promise: Promise) -> (u64, Vec<Loss>) {
    let count = match promise {
        Promise::Nothing => 0,
        Promise::Domain => 1,
        Promise::Hosts(count) => count as usize,
    };
    let mut heaviest: Vec<(u64, Loss)> = takeovers.iter().map(|(loss, memory)| (*memory, *loss)).collect();
    heaviest.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    heaviest.truncate(count);
    (heaviest.iter().map(|(memory, _)| memory).sum(), heaviest.into_iter().map(|(_, loss)| loss).collect())
}

/// By how many guests a rule is broken.
fn excess(counts: &BTreeMap<u32, u32>, bound: Bound, placed: u32) -> u32 {
    match bound {
        Bound::AtMost(limit) => counts.values().map(|count| count.saturating_sub(limit)).sum(),
        Bound::Together => placed.saturating_sub(counts.values().copied().max().unwrap_or(0)),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Arrive,
    Leave,
}

impl Direction {
    fn apply(self, sum: &mut u64, amount: u64) {
        *sum = match self {
            Direction::Arrive => sum.saturating_add(amount),
            Direction::Leave => sum.saturating_sub(amount),
        };
    }

    fn apply_u32(self, sum: &mut u32, amount: u32) {
        *sum = match self {
            Direction::Arrive => sum.saturating_add(amount),
            Direction::Leave => sum.saturating_sub(amount),
        };
    }

    fn apply_load(self, sum: &mut Load, load: Load) {
        let sign = match self {
            Direction::Arrive => 1.0,
            Direction::Leave => -1.0,
        };
        // Sums of fractions may end a little below zero after all guests left.
        sum.cpu = (sum.cpu + sign * load.cpu).max(0.0);
        sum.memory = (sum.memory + sign * load.memory).max(0.0);
        sum.disk = (sum.disk + sign * load.disk).max(0.0);
        sum.network = (sum.network + sign * load.network).max(0.0);
    }

    /// Entries that reach zero are taken out, so that layouts with the same places are equal.
    fn apply_entry<K: Ord, V: Default + PartialEq + Copy + Countable>(
        self,
        map: &mut BTreeMap<K, V>,
        key: K,
        amount: V,
    ) {
        let old = map.get(&key).copied().unwrap_or_default();
        let new = match self {
            Direction::Arrive => old.plus(amount),
            Direction::Leave => old.minus(amount),
        };
        if new == V::default() {
            map.remove(&key);
        } else {
            map.insert(key, new);
        }
    }
}

/// What [`Direction::apply_entry`] counts with; neither sum wraps around.
trait Countable {
    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
}

impl Countable for u32 {
    fn plus(self, other: u32) -> u32 {
        self.saturating_add(other)
    }
    fn minus(self, other: u32) -> u32 {
        self.saturating_sub(other)
    }
}

impl Countable for u64 {
    fn plus(self, other: u64) -> u64 {
        self.saturating_add(other)
    }
    fn minus(self, other: u64) -> u64 {
        self.saturating_sub(other)
    }
}
