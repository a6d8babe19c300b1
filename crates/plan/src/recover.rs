//! Where lost guests come back, all of them at once.
//!
//! They are taken in the order of [`in_order`]: those that run before those that are stopped, higher priority before
//! lower, what others start after before these, then those that have one candidate only, then the larger ones, which
//! find room less easily. So no guest takes the room of one that matters more. A mirrored guest has one candidate, its
//! secondary's host; a guest on shared storage may go anywhere, and goes where the least is used and the fewest others
//! start, and not into the room that a mirrored guest after it needs, as long as there is other room.
//!
//! What binds: memory, virtual CPUs and `must` rules. What does not: the room that is kept for losses, for this is
//! the loss that it was kept for; `should` rules; the disk, for the replica is there already; and a host's duty, for
//! a mirrored guest has no other choice (a guest on shared storage has, and avoids it). Guests that are lost and not
//! back yet count nowhere, neither for room nor for rules.
//!
//! [`Field`] is the scene: it answers the leader ([`crate::decide`]) and, many thousand times over, the question
//! "what if" ([`crate::capacity`]), so that what is promised and what is done are the same computation.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::layout::{Layout, Obstacle, disk_limit};
use crate::snapshot::{GuestIx, HostDuty, HostIx, Place, Promise, Snapshot, Storage, Strength};

/// A starting guest keeps about this many cores busy; so starts spread, whatever was measured before.
const START_CORES: f64 = 1.0;

/// How many hosts a reason names one by one.
const REASONS_MAX: usize = 3;

/// A guest whose host is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    pub guest: GuestIx,
    pub may: May,
}

/// Where a lost guest may come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum May {
    /// The only other host that has its disks.
    Only(HostIx),
    /// Every host reaches them.
    Anywhere,
}

/// What becomes of a lost guest.
#[derive(Debug, Clone, PartialEq)]
pub struct Return {
    pub guest: GuestIx,
    pub to: Result<HostIx, NoReturn>,
}

/// Why a lost guest does not come back now.
#[derive(Debug, Clone, PartialEq)]
pub struct NoReturn {
    /// A few of the hosts that were asked, and what each said.
    pub reasons: Vec<(HostIx, Obstacle)>,
    /// How many others said something alike.
    pub more: usize,
}

impl NoReturn {
    /// As in "host2: 1G of memory is free, 2G is needed".
    pub fn explain(&self, snapshot: &Snapshot) -> String {
        let mut reasons: Vec<String> =
            self.reasons.iter().map(|(host, why)| format!("{}: {why}", snapshot.host(*host).name)).collect();
        match self.more {
            0 if reasons.is_empty() => reasons.push("no host is left that takes guests".to_owned()),
            0 => {}
            1 => reasons.push("another host has no more room".to_owned()),
            more => reasons.push(format!("{more} other hosts have no more room")),
        }
        reasons.join("; ")
    }
}

/// Sorts guests into the order in which they come back. `rank` is how many others must start before each
/// ([`crate::order`]).
pub fn in_order(snapshot: &Snapshot, guests: &mut [Lost], rank: impl Fn(GuestIx) -> u32) {
    guests.sort_by_key(|lost| {
        let need = snapshot.guest(lost.guest);
        let (choice, size) = match lost.may {
            May::Only(_) => (false, 0),
            May::Anywhere => (true, need.memory),
        };
        (!need.runs, Reverse(need.priority), rank(lost.guest), choice, Reverse(size), lost.guest)
    });
}

/// The snapshot as recovery sees it: promises, wishes and duties do not matter, nor do disks, but for those of guests
/// that take them along. They get what the replicas leave.
pub fn bare(snapshot: &Snapshot) -> Snapshot {
    let mut bare = snapshot.clone();
    for host in snapshot.host_indices() {
        bare.hosts[host.at()].disk = disk_limit(snapshot, host);
    }
    for need in snapshot.guests.iter().filter(|need| need.storage == Storage::Mirrored) {
        let place = need.place;
        let hosts = place.into_iter().flat_map(|place| std::iter::once(place.host).chain(place.secondary));
        for host in hosts {
            let room = &mut bare.hosts[host.at()];
            room.disk = room.disk.saturating_sub(need.disk);
        }
    }
    bare.promise = Promise::Nothing;
    bare.disk_share_max = 1.0;
    for host in bare.hosts.iter_mut().filter(|host| !host.duty.is_lost()) {
        host.duty = HostDuty::Takes;
    }
    for guest in &mut bare.guests {
        if guest.storage == Storage::Mirrored {
            guest.storage = Storage::Shared;
        }
        guest.wishes.clear();
        guest.place = guest.place.map(|Place { host, .. }| Place { host, secondary: None });
    }
    bare
}

/// The hosts that are left and the guests on them, while guests come back.
#[derive(Debug, Clone)]
pub struct Field<'a> {
    snapshot: &'a Snapshot,
    layout: Layout<'a>,
    gone: Vec<bool>,
    burden: Vec<Burden>,
    /// Whether more than memory and virtual CPUs says where the guest may be: a `must` rule, or the room for disks that
    /// it takes along.
    bound: Vec<bool>,
}

/// What a host has to do beside what its guests reserve.
#[derive(Debug, Clone, Copy, Default)]
struct Burden {
    /// Measured use of processors, of what was there and of what came.
    cpu: f64,
    starts: u32,
    /// Reserved for guests that have nowhere else to go and whose turn comes later.
    memory_spoken_for: u64,
    vcpus_spoken_for: u32,
}

/// What a loss changed, to be undone.
#[derive(Debug, Default)]
#[must_use = "a journal that is dropped cannot be undone; say so by `let _ =`"]
pub struct Journal {
    guests: Vec<(GuestIx, Option<Place>)>,
    burdens: Vec<(HostIx, Burden)>,
    gone: Vec<HostIx>,
}

impl<'a> Field<'a> {
    /// Everything as the snapshot says, but for guests on hosts that are lost: they run nowhere. `bare` is
    /// [`bare`] of the same snapshot.
    pub fn new(snapshot: &'a Snapshot, bare: &'a Snapshot) -> Field<'a> {
        let mut layout = Layout::new(bare);
        let gone: Vec<bool> = snapshot.hosts.iter().map(|host| host.duty.is_lost()).collect();
        let mut burden: Vec<Burden> = snapshot
            .hosts
            .iter()
            .map(|host| Burden { cpu: host.own_load.cpu, ..Burden::default() })
            .collect();
        for guest in snapshot.guest_indices() {
            let need = snapshot.guest(guest);
            match need.place {
                Some(place) if gone[place.host.at()] => layout.put(guest, None),
                Some(place) if need.runs => burden[place.host.at()].cpu += need.load.cpu,
                Some(_) | None => {}
            }
        }
        let must = |group: &crate::snapshot::GroupIx| snapshot.groups[group.at()].strength == Strength::Must;
        let bound = snapshot.guests.iter().map(|need| {
            need.allowed.is_some() || need.storage == Storage::Local || need.groups.iter().any(must)
        });
        Field { snapshot, layout, gone, burden, bound: bound.collect() }
    }

    pub fn layout(&self) -> &Layout<'a> {
        &self.layout
    }

    pub fn is_gone(&self, host: HostIx) -> bool {
        self.gone[host.at()]
    }

    /// Whether a `must` rule binds the guest.
    pub fn is_bound(&self, guest: GuestIx) -> bool {
        self.bound[guest.at()]
    }

    /// The hosts are gone and `taken` runs nowhere any more; then `lost`, in this order, come back where they can.
    pub fn lose(&mut self, hosts: &[HostIx], taken: &[GuestIx], lost: &[Lost]) -> (Vec<Return>, Journal) {
        let mut journal = Journal::default();
        for host in hosts.iter().filter(|host| !self.gone[host.at()]) {
            journal.gone.push(*host);
        }
        journal.gone.iter().for_each(|host| self.gone[host.at()] = true);
        for guest in taken {
            self.put(*guest, None, &mut journal);
        }
        for lost in lost {
            self.speak_for(*lost, &mut journal, true);
        }
        let mut returns = Vec::with_capacity(lost.len());
        for lost in lost {
            self.speak_for(*lost, &mut journal, false);
            let to = match lost.may {
                May::Only(host) => self.only(lost.guest, host),
                May::Anywhere => self.anywhere(lost.guest),
            };
            if let Ok(host) = to {
                self.arrive(lost.guest, host, &mut journal);
            }
            returns.push(Return { guest: lost.guest, to });
        }
        (returns, journal)
    }

    /// Everything as it was before the loss that made the journal.
    pub fn undo(&mut self, journal: Journal) {
        for (guest, place) in journal.guests.into_iter().rev() {
            self.layout.put(guest, place);
        }
        for (host, burden) in journal.burdens.into_iter().rev() {
            self.burden[host.at()] = burden;
        }
        for host in journal.gone {
            self.gone[host.at()] = false;
        }
    }

    fn put(&mut self, guest: GuestIx, place: Option<Place>, journal: &mut Journal) {
        journal.guests.push((guest, self.layout.place(guest)));
        self.layout.put(guest, place);
    }

    fn speak_for(&mut self, lost: Lost, journal: &mut Journal, comes: bool) {
        let need = self.snapshot.guest(lost.guest);
        let May::Only(host) = lost.may else { return };
        if !need.runs {
            return;
        }
        journal.burdens.push((host, self.burden[host.at()]));
        let burden = &mut self.burden[host.at()];
        if comes {
            burden.memory_spoken_for = burden.memory_spoken_for.saturating_add(need.memory);
            burden.vcpus_spoken_for = burden.vcpus_spoken_for.saturating_add(need.vcpus);
        } else {
            burden.memory_spoken_for = burden.memory_spoken_for.saturating_sub(need.memory);
            burden.vcpus_spoken_for = burden.vcpus_spoken_for.saturating_sub(need.vcpus);
        }
    }

    fn arrive(&mut self, guest: GuestIx, host: HostIx, journal: &mut Journal) {
        self.put(guest, Some(Place { host, secondary: None }), journal);
        let need = self.snapshot.guest(guest);
        if need.runs {
            journal.burdens.push((host, self.burden[host.at()]));
            let burden = &mut self.burden[host.at()];
            burden.cpu += need.load.cpu;
            burden.starts += 1;
        }
    }

    fn obstacle(&self, guest: GuestIx, host: HostIx) -> Option<Obstacle> {
        self.layout.obstacle(guest, Place { host, secondary: None })
    }

    fn only(&self, guest: GuestIx, host: HostIx) -> Result<HostIx, NoReturn> {
        match self.obstacle(guest, host) {
            None => Ok(host),
            Some(why) => Err(NoReturn { reasons: vec![(host, why)], more: 0 }),
        }
    }

    /// The host with the least to do that has room; first without, then with the room that others need after it.
    fn anywhere(&self, guest: GuestIx) -> Result<HostIx, NoReturn> {
        let mut refused: Vec<(HostIx, Obstacle)> = Vec::new();
        for spare in [true, false] {
            let fits = self.takers(guest).filter(|host| self.has_room(guest, *host, spare));
            let pressed = fits.map(|host| (self.pressure(guest, host), host));
            let by_pressure = |a: &(f64, HostIx), b: &(f64, HostIx)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
            if !self.bound[guest.at()] {
                match pressed.min_by(by_pressure) {
                    Some((_, best)) => return Ok(best),
                    None => continue,
                }
            }
            let mut pressed: Vec<(f64, HostIx)> = pressed.collect();
            pressed.sort_by(by_pressure);
            for (_, host) in pressed {
                match self.obstacle(guest, host) {
                    None => return Ok(host),
                    Some(_) if spare => {}
                    Some(why) => refused.push((host, why)),
                }
            }
        }
        Err(self.nowhere(guest, refused))
    }

    /// The hosts that may take the guest for all that their room says.
    fn takers(&self, guest: GuestIx) -> impl Iterator<Item = HostIx> + '_ {
        let allowed = self.snapshot.guest(guest).allowed.as_deref();
        let all = if allowed.is_some() { 0 } else { self.snapshot.hosts.len() as u32 };
        let hosts = (0..all).map(HostIx).chain(allowed.unwrap_or_default().iter().copied());
        hosts.filter(|host| !self.gone[host.at()] && self.snapshot.host(*host).duty.takes())
    }

    /// The quick half of [`Layout::obstacle`]: memory and virtual CPUs. `spare` leaves what is spoken for.
    fn has_room(&self, guest: GuestIx, host: HostIx, spare: bool) -> bool {
        let (need, room) = (self.snapshot.guest(guest), self.snapshot.host(host));
        if !need.runs {
            return true;
        }
        let (given, burden) = (self.layout.given(host), &self.burden[host.at()]);
        let (memory, vcpus) =
            if spare { (burden.memory_spoken_for, burden.vcpus_spoken_for) } else { (0, 0) };
        let memory = given.memory.saturating_add(need.memory).saturating_add(memory);
        let vcpus = f64::from(given.vcpus) + f64::from(need.vcpus) + f64::from(vcpus);
        memory <= room.memory && (need.vcpus == 0 || vcpus <= room.vcpus_max)
    }

    /// How hard pressed the host would be with the guest on it: the larger share of its memory that is reserved and
    /// of its processors that are used.
    fn pressure(&self, guest: GuestIx, host: HostIx) -> f64 {
        let (need, room, burden) =
            (self.snapshot.guest(guest), self.snapshot.host(host), &self.burden[host.at()]);
        let memory = self.layout.given(host).memory.saturating_add(need.memory) as f64;
        let cpu = burden.cpu + need.load.cpu + f64::from(burden.starts) * START_CORES;
        let share = |used: f64, of: f64| if of > 0.0 { used / of } else { f64::INFINITY };
        share(memory, room.memory as f64).max(share(cpu, room.cores * room.speed))
    }

    /// The reasons of the hosts that were the nearest to taking it.
    fn nowhere(&self, guest: GuestIx, refused: Vec<(HostIx, Obstacle)>) -> NoReturn {
        let mut reasons = refused;
        let asked: BTreeSet<HostIx> = reasons.iter().map(|(host, _)| *host).collect();
        let mut others: Vec<HostIx> = self.takers(guest).filter(|host| !asked.contains(host)).collect();
        others.sort_by_key(|host| (Reverse(self.layout.memory_free(*host)), *host));
        let total = reasons.len() + others.len();
        let others = others.into_iter().take(REASONS_MAX.saturating_sub(reasons.len()));
        reasons.extend(others.filter_map(|host| Some((host, self.obstacle(guest, host)?))));
        reasons.truncate(REASONS_MAX);
        NoReturn { more: total - reasons.len(), reasons }
    }
}
