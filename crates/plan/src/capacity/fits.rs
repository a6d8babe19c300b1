//! How many more guests of a size fit.
//!
//! They are placed one after the other, each on the host that has room for most of them and with its secondary on the
//! host that then has, as a careful operator would; nothing that is there is moved. What each host can still take is
//! a division, kept in order as it changes, so that a guest costs a few look-ups and not a search: tens of thousands
//! of guests on a thousand hosts are counted within a second.
//!
//! With the promise kept, a mirrored guest needs, beside its own room on its host p, the room on its secondary's host
//! s for all that comes there in the worst loss that p is part of; and p must keep the room for what comes to itself.
//! Both are sums that only grow, so what was refused once is never asked again.
//!
//! Guests on shared storage make the promise a question about the whole cluster. There the sequence is made as if
//! nothing were promised to them, and the longest part of it is taken after which the survey is no worse than before;
//! in large clusters the bound of [`super::bound`] decides, and the count may be too small, never too large.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::ground::Ground;
use super::survey::survey;
use super::{admit, bound};
use crate::layout::Loss as LostPart;
use crate::recover;
use crate::snapshot::{GuestNeed, HostIx, Load, Place, Promise, Snapshot, Storage};

/// Nobody asks for more; a guest without any size would fit for ever.
pub const COUNT_MAX: u64 = 250_000;

/// How many hosts with room are compared as secondaries of one guest.
const SECONDARIES_TRIED: usize = 32;

/// How much simulation a count with guests on shared storage may take before it uses bounds.
const EXACT_STEPS: u64 = 20_000_000;

/// A guest that does not exist yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Bytes, with what its machine takes beside it ([`crate::inventory::GUEST_OVERHEAD`]).
    pub memory: u64,
    /// Bytes, for each replica.
    pub disk: u64,
    pub vcpus: u32,
    pub storage: Storage,
}

/// How many guests of a shape still fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fits {
    /// With the promise kept, or no worse kept than before.
    pub count: u64,
    /// What there is too little of for one more, as in "memory".
    pub limited_by: String,
    /// If nothing were promised.
    pub count_unpromised: u64,
    pub limited_by_unpromised: String,
    /// Where the first `count` of them would run.
    pub by_host: BTreeMap<HostIx, u64>,
    /// Where they would go, one after the other.
    pub places: Vec<Place>,
    /// Whether `count` is a lower bound only.
    pub at_least: bool,
}

/// Counts how many more guests of a shape fit, with what the cluster promises and without.
pub fn fits(snapshot: &Snapshot, shape: Shape) -> Fits {
    let bare = recover::bare(snapshot);
    let ground = Ground::settled(snapshot, &bare);
    let (free_places, limited_by_unpromised) = Filler::new(&ground, shape, Promise::Nothing).fill();
    let (mut places, mut limited_by) = Filler::new(&ground, shape, snapshot.promise).fill();
    let mut at_least = false;
    let shared = shape.storage == Storage::Shared || ground.has_shared();
    if snapshot.promise != Promise::Nothing && shared {
        let all = places.len();
        at_least = keep_promised(snapshot, shape, &mut places);
        if places.len() < all {
            limited_by = Lack::Promise.name(snapshot.promise);
        }
    }
    let mut by_host: BTreeMap<HostIx, u64> = BTreeMap::new();
    for place in &places {
        *by_host.entry(place.host).or_default() += 1;
    }
    Fits {
        count: places.len() as u64,
        limited_by,
        count_unpromised: free_places.len() as u64,
        limited_by_unpromised,
        by_host,
        places,
        at_least,
    }
}

/// Where the next guest of a shape would go with the promise kept. `None`: nowhere.
pub(super) fn next_place(snapshot: &Snapshot, shape: Shape) -> Option<Place> {
    let bare = recover::bare(snapshot);
    let ground = Ground::settled(snapshot, &bare);
    Filler::new(&ground, shape, snapshot.promise).next()
}

/// Shortens the sequence until the promise is no worse kept than before. Whether it may be too short.
fn keep_promised(snapshot: &Snapshot, shape: Shape, places: &mut Vec<Place>) -> bool {
    let before = survey(snapshot);
    let guests = (snapshot.guests.len() + places.len()) as u64;
    let steps =
        guests.saturating_mul(snapshot.hosts.len() as u64) * u64::from(places.len().max(1).ilog2() + 1);
    let exact = steps <= EXACT_STEPS;
    let good = |count: usize| {
        let more = extended(snapshot, shape, &places[..count]);
        if exact { admit::worse(&before, &survey(&more)).is_none() } else { surely_kept(&more) }
    };
    // The longest prefix that is good; every answer is checked, so it is sound even where goodness is not monotone.
    let (mut low, mut high) = (0, places.len());
    while low < high {
        let middle = (low + high).div_ceil(2);
        if good(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    places.truncate(low);
    !exact
}

fn surely_kept(snapshot: &Snapshot) -> bool {
    let bare = recover::bare(snapshot);
    let ground = Ground::settled(snapshot, &bare);
    let count = match snapshot.promise {
        Promise::Nothing => return true,
        Promise::Hosts(count) => count as usize,
        // A zone is so many hosts; any so many are worse.
        Promise::Domain => {
            let inside = |domain| {
                let hosts = ground.hosts().into_iter();
                hosts.filter(|host| snapshot.host(*host).domains.contains(&domain)).count()
            };
            (0u32..)
                .map(crate::snapshot::DomainIx)
                .take(snapshot.domains.len())
                .map(inside)
                .max()
                .unwrap_or(0)
        }
    };
    matches!(bound::shared(&ground, &bound::takeovers(&ground), count), bound::Shared::Fits)
}

/// The snapshot with guests of a shape in these places.
pub(super) fn extended(snapshot: &Snapshot, shape: Shape, places: &[Place]) -> Snapshot {
    let mut more = snapshot.clone();
    more.guests.extend(places.iter().enumerate().map(|(at, place)| GuestNeed {
        // After every name that a guest can have, and in order.
        name: format!("~{at:09}"),
        memory: shape.memory,
        disk: shape.disk,
        vcpus: shape.vcpus,
        load: Load::default(),
        storage: shape.storage,
        runs: true,
        may_move: true,
        priority: 0,
        groups: Vec::new(),
        allowed: None,
        wishes: Vec::new(),
        place: Some(*place),
        unready: None,
    }));
    more
}

/// What one more guest lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lack {
    Memory,
    Disk,
    Vcpus,
    Promise,
    SecondHost,
}

impl Lack {
    fn name(self, promise: Promise) -> String {
        match self {
            Lack::Memory => "memory".to_owned(),
            Lack::Disk => "disk".to_owned(),
            Lack::Vcpus => "virtual CPUs".to_owned(),
            Lack::Promise => format!("the room that is kept for {promise}"),
            Lack::SecondHost => "hosts: a mirrored guest needs two".to_owned(),
        }
    }
}

/// A host's place in an order: how many guests it could still take, most first.
type Turn = (Reverse<u64>, HostIx);

/// What a host that takes guests still has.
#[derive(Debug, Clone)]
struct Slot {
    memory_free: i128,
    disk_free: u64,
    vcpus_free: i128,
    /// What comes here, by what is lost: memory, virtual CPUs.
    takeovers: BTreeMap<LostPart, (u64, u64)>,
    /// The worst of it.
    worst: (u64, u64),
}

/// Places guests of one shape.
struct Filler<'g> {
    snapshot: &'g Snapshot,
    shape: Shape,
    promise: Promise,
    slots: BTreeMap<HostIx, Slot>,
    /// By how many guests each host could still take, most first.
    primaries: BTreeSet<Turn>,
    secondaries: BTreeSet<Turn>,
}

impl<'g> Filler<'g> {
    fn new(ground: &Ground<'g>, shape: Shape, promise: Promise) -> Filler<'g> {
        let snapshot = ground.snapshot;
        let layout = ground.field.layout();
        let disks = crate::layout::Layout::new(snapshot);
        let takes = |host: &HostIx| ground.standing[host.at()] && snapshot.host(*host).duty.takes();
        let slots = snapshot.host_indices().filter(takes).map(|host| {
            let (room, given) = (snapshot.host(host), layout.given(host));
            let slot = Slot {
                memory_free: i128::from(room.memory) - i128::from(given.memory),
                disk_free: disks.disk_free(host),
                vcpus_free: (room.vcpus_max - f64::from(given.vcpus)).floor() as i128,
                takeovers: BTreeMap::new(),
                worst: (0, 0),
            };
            (host, slot)
        });
        let promise = effective(ground, promise);
        let mut filler = Filler {
            snapshot,
            shape,
            promise,
            slots: slots.collect(),
            primaries: BTreeSet::new(),
            secondaries: BTreeSet::new(),
        };
        for guest in snapshot.guest_indices().filter(|guest| snapshot.guest(*guest).runs) {
            let need = snapshot.guest(guest);
            if let (Some(host), Some(partner)) = (ground.host_of[guest.at()], ground.partner_of[guest.at()]) {
                filler.take_over(host, partner, need.memory, need.vcpus);
            }
        }
        let hosts: Vec<HostIx> = filler.slots.keys().copied().collect();
        for host in hosts {
            filler.enter(host);
        }
        filler
    }

    fn fill(mut self) -> (Vec<Place>, String) {
        let mut places = Vec::new();
        while (places.len() as u64) < COUNT_MAX {
            match self.next() {
                Some(place) => places.push(place),
                None => return (places, self.lack()),
            }
        }
        (places, format!("nothing that was counted; more than {COUNT_MAX} fit"))
    }

    /// Places one more guest.
    fn next(&mut self) -> Option<Place> {
        while let Some((key, host)) = self.primaries.first().copied() {
            if key.0 == 0 {
                return None;
            }
            let secondary = match self.shape.storage {
                Storage::Local | Storage::Shared => None,
                Storage::Mirrored => match self.secondary_for(host) {
                    Some(secondary) => Some(secondary),
                    None => {
                        // What there is for it gets only less, so it is never asked again.
                        self.primaries.remove(&(key, host));
                        continue;
                    }
                },
            };
            let place = Place { host, secondary };
            self.put(place);
            return Some(place);
        }
        None
    }

    fn put(&mut self, place: Place) {
        let had_turn = self.leave(place.host);
        let disk = if self.shape.storage == Storage::Shared { 0 } else { self.shape.disk };
        if let Some(slot) = self.slots.get_mut(&place.host) {
            slot.memory_free -= i128::from(self.shape.memory);
            slot.vcpus_free -= i128::from(self.shape.vcpus);
            slot.disk_free = slot.disk_free.saturating_sub(disk);
        }
        self.enter_as(place.host, had_turn);
        if let Some(secondary) = place.secondary {
            let had_turn = self.leave(secondary);
            if let Some(slot) = self.slots.get_mut(&secondary) {
                slot.disk_free = slot.disk_free.saturating_sub(disk);
            }
            self.take_over(place.host, secondary, self.shape.memory, self.shape.vcpus);
            self.enter_as(secondary, had_turn);
        }
    }

    fn keys(&self, host: HostIx) -> Option<(Turn, Turn)> {
        let slot = self.slots.get(&host)?;
        let primary = self.as_primary(slot);
        let secondary = self.as_secondary(slot, slot.worst);
        Some(((Reverse(primary), host), (Reverse(secondary), host)))
    }

    /// Takes a host out of both orders; whether it had its place among the primaries.
    fn leave(&mut self, host: HostIx) -> bool {
        let Some((primary, secondary)) = self.keys(host) else { return false };
        self.secondaries.remove(&secondary);
        self.primaries.remove(&primary)
    }

    fn enter(&mut self, host: HostIx) {
        self.enter_as(host, true);
    }

    fn enter_as(&mut self, host: HostIx, also_primary: bool) {
        let Some((primary, secondary)) = self.keys(host) else { return };
        self.secondaries.insert(secondary);
        if also_primary {
            self.primaries.insert(primary);
        }
    }

    /// How many more the host can run while it keeps the room for what comes to it.
    fn as_primary(&self, slot: &Slot) -> u64 {
        let memory = slot.memory_free - i128::from(slot.worst.0);
        let vcpus = slot.vcpus_free - i128::from(slot.worst.1);
        let disk = if self.shape.storage == Storage::Shared { 0 } else { self.shape.disk };
        let by_disk = slot.disk_free.checked_div(disk).unwrap_or(u64::MAX);
        whole(memory, self.shape.memory).min(whole(vcpus, u64::from(self.shape.vcpus))).min(by_disk)
    }

    /// How many more it could take over, in the worst case, when that case is `worst`; a measure for comparing.
    fn as_secondary(&self, slot: &Slot, worst: (u64, u64)) -> u64 {
        let by_disk = slot.disk_free.checked_div(self.shape.disk).unwrap_or(u64::MAX);
        if self.promise == Promise::Nothing {
            return by_disk;
        }
        let memory = slot.memory_free - i128::from(worst.0.max(slot.worst.0));
        let vcpus = slot.vcpus_free - i128::from(worst.1.max(slot.worst.1));
        whole(memory, self.shape.memory).min(whole(vcpus, u64::from(self.shape.vcpus))).min(by_disk)
    }

    /// The host that has most left when it is the secondary of one more guest of `primary`: the first in the order
    /// of [`Filler::secondaries`] that nobody after it can beat, or the best of the first [`SECONDARIES_TRIED`] that
    /// have room.
    fn secondary_for(&self, primary: HostIx) -> Option<HostIx> {
        let mut best: Option<(u64, HostIx)> = None;
        let mut tried = 0;
        for (Reverse(slots), host) in &self.secondaries {
            if tried == SECONDARIES_TRIED || best.is_some_and(|(left, _)| *slots <= left) {
                break;
            }
            let Some(worst) = self.could_take_over(primary, *host) else { continue };
            tried += 1;
            let left = self.slots.get(host).map_or(0, |slot| self.as_secondary(slot, worst));
            if best.is_none_or(|(most, _)| left > most) {
                best = Some((left, *host));
            }
        }
        best.map(|(_, host)| host)
    }

    /// The worst loss that a host is part of as secondary of one more guest of `primary`; `None` if there is no room
    /// for that, or no room for the disk.
    fn could_take_over(&self, primary: HostIx, host: HostIx) -> Option<(u64, u64)> {
        let slot = self.slots.get(&host)?;
        if primary == host || slot.disk_free < self.shape.disk {
            return None;
        }
        let worst = match self.promise {
            Promise::Nothing => return Some((0, 0)),
            Promise::Hosts(count) => self.worst_with(slot, primary, count as usize),
            Promise::Domain => {
                let (here, there) = (self.domains(primary), self.domains(host));
                if here.iter().any(|domain| there.contains(domain)) {
                    return None;
                }
                let parts = here.iter().map(|domain| self.with_one_more(slot, LostPart::Domain(*domain)));
                parts.fold((0, 0), |a, b| (a.0.max(b.0), a.1.max(b.1)))
            }
        };
        let fits = i128::from(worst.0) <= slot.memory_free && i128::from(worst.1) <= slot.vcpus_free;
        fits.then_some(worst)
    }

    fn domains(&self, host: HostIx) -> &[crate::snapshot::DomainIx] {
        &self.snapshot.host(host).domains
    }

    fn with_one_more(&self, slot: &Slot, part: LostPart) -> (u64, u64) {
        let (memory, vcpus) = slot.takeovers.get(&part).copied().unwrap_or((0, 0));
        (memory.saturating_add(self.shape.memory), vcpus.saturating_add(u64::from(self.shape.vcpus)))
    }

    /// What comes when `primary`, with one more guest, and the `count - 1` worst others are lost.
    fn worst_with(&self, slot: &Slot, primary: HostIx, count: usize) -> (u64, u64) {
        let (memory, vcpus) = self.with_one_more(slot, LostPart::Host(primary));
        let others = || slot.takeovers.iter().filter(|(part, _)| **part != LostPart::Host(primary));
        let more = heaviest(others().map(|(_, sum)| sum.0), count - 1);
        let more_vcpus = heaviest(others().map(|(_, sum)| sum.1), count - 1);
        (memory.saturating_add(more), vcpus.saturating_add(more_vcpus))
    }

    /// A guest of `primary` has its secondary on `host`.
    fn take_over(&mut self, primary: HostIx, host: HostIx, memory: u64, vcpus: u32) {
        let parts: Vec<LostPart> = match self.promise {
            Promise::Nothing => return,
            Promise::Hosts(_) => vec![LostPart::Host(primary)],
            Promise::Domain => {
                let there = self.domains(host);
                let lost = self.domains(primary).iter().filter(|domain| !there.contains(domain));
                lost.map(|domain| LostPart::Domain(*domain)).collect()
            }
        };
        let count = match self.promise {
            Promise::Nothing => 0,
            Promise::Hosts(count) => count as usize,
            Promise::Domain => 1,
        };
        let Some(slot) = self.slots.get_mut(&host) else { return };
        for part in parts {
            let sum = slot.takeovers.entry(part).or_default();
            *sum = (sum.0.saturating_add(memory), sum.1.saturating_add(u64::from(vcpus)));
            slot.worst = if count == 1 {
                // Sums only grow: the worst is the old one or the one that grew.
                (slot.worst.0.max(sum.0), slot.worst.1.max(sum.1))
            } else {
                let sums = || slot.takeovers.values();
                (heaviest(sums().map(|sum| sum.0), count), heaviest(sums().map(|sum| sum.1), count))
            };
        }
    }

    /// What one more guest lacks: each thing alone with which it would fit; if no single one, all that are short.
    fn lack(&self) -> String {
        if self.shape.storage == Storage::Mirrored && self.slots.len() < 2 {
            return Lack::SecondHost.name(self.promise);
        }
        if self.fits_without(Lack::Promise) {
            return Lack::Promise.name(self.promise);
        }
        let all = [Lack::Memory, Lack::Disk, Lack::Vcpus];
        let enough = all.into_iter().filter(|lack| self.fits_without(*lack));
        let mut names: Vec<String> = enough.map(|lack| lack.name(self.promise)).collect();
        if names.is_empty() {
            let short = [Lack::Memory, Lack::Disk, Lack::Vcpus];
            let short = short.into_iter().filter(|lack| self.is_short_everywhere(*lack));
            names.extend(short.map(|lack| lack.name(self.promise)));
        }
        match names.is_empty() {
            true => "memory, disk and virtual CPUs, each somewhere else".to_owned(),
            false => super::listed(&names, usize::MAX),
        }
    }

    /// Whether one more guest would fit if one kind of limit did not count.
    fn fits_without(&self, lack: Lack) -> bool {
        let mut relaxed = Filler {
            snapshot: self.snapshot,
            shape: self.shape,
            promise: self.promise,
            slots: self.slots.clone(),
            primaries: BTreeSet::new(),
            secondaries: BTreeSet::new(),
        };
        match lack {
            Lack::Memory => relaxed.shape.memory = 0,
            Lack::Disk => relaxed.shape.disk = 0,
            Lack::Vcpus => relaxed.shape.vcpus = 0,
            Lack::Promise if self.promise == Promise::Nothing => return false,
            Lack::Promise => {
                relaxed.promise = Promise::Nothing;
                relaxed.slots.values_mut().for_each(|slot| slot.worst = (0, 0));
            }
            Lack::SecondHost => return false,
        }
        let hosts: Vec<HostIx> = relaxed.slots.keys().copied().collect();
        hosts.into_iter().for_each(|host| relaxed.enter(host));
        relaxed.next().is_some()
    }

    fn is_short_everywhere(&self, lack: Lack) -> bool {
        self.slots.values().all(|slot| match lack {
            Lack::Memory => slot.memory_free < i128::from(self.shape.memory),
            Lack::Disk => slot.disk_free < self.shape.disk,
            Lack::Vcpus => slot.vcpus_free < i128::from(self.shape.vcpus),
            Lack::Promise | Lack::SecondHost => false,
        })
    }
}

/// How often `part` goes into `of`.
fn whole(of: i128, part: u64) -> u64 {
    match (of < 0, part) {
        (true, _) => 0,
        (false, 0) => u64::MAX,
        (false, part) => u64::try_from(of / i128::from(part)).unwrap_or(u64::MAX),
    }
}

/// The sum of the `count` largest; asked very often, and `count` is small.
fn heaviest(weights: impl Iterator<Item = u64>, count: usize) -> u64 {
    match count {
        0 => 0,
        1 => weights.max().unwrap_or(0),
        count => {
            let mut top: Vec<u64> = Vec::with_capacity(count + 1);
            for weight in weights {
                let at = top.partition_point(|other| *other >= weight);
                if at < count {
                    top.insert(at, weight);
                    top.truncate(count);
                }
            }
            top.into_iter().fold(0, u64::saturating_add)
        }
    }
}

/// The promise as far as there are hosts or zones to keep it.
fn effective(ground: &Ground<'_>, promise: Promise) -> Promise {
    let hosts = ground.hosts();
    match promise {
        Promise::Nothing => Promise::Nothing,
        Promise::Hosts(count) => match count.min(hosts.len().saturating_sub(1) as u32) {
            0 => Promise::Nothing,
            count => Promise::Hosts(count),
        },
        Promise::Domain => {
            let domains = |host: &HostIx| ground.snapshot.host(*host).domains.as_slice();
            let all_in = |domain| hosts.iter().all(|host| domains(host).contains(domain));
            let several = hosts.first().is_some_and(|first| !domains(first).iter().any(all_in));
            if several { Promise::Domain } else { Promise::Nothing }
        }
    }
}
