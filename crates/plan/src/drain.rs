//! Emptying a host: which guest goes where, in which order, and what cannot go.
//!
//! Guests go first, and most of them cheaply: a mirrored guest swaps its roles, and what it leaves behind on the host
//! is a secondary. A guest whose secondary's host has no room for it gets a new secondary, and then swaps. When the
//! host is to be emptied of everything the secondaries that are left are then copied elsewhere. A guest on local disks
//! takes them along, if it runs. Large guests go before small ones, for they are the hardest to find room for. Where
//! there is no room, one other guest may be moved out of the way.
//!
//! Every state on the way keeps room and `must` rules. The promise to survive a loss is kept where that is possible;
//! a host that is away is a loss in itself, so what can only go without the promise goes all the same, and a warning
//! says so.

use std::collections::BTreeMap;

use model::{GuestName, GuestSpec, HostName, PowerWish};
use serde::{Deserialize, Serialize};

use crate::inventory::{Inventory, StayCause};
use crate::layout::{Layout, Obstacle};
use crate::proposal::{PlannedMove, in_words};
use crate::scene::{Scene, with_scene};
use crate::search::Move;
use crate::snapshot::{Bound, GroupIx, GuestIx, HostDuty, HostIx, Place, Snapshot, Storage, Strength};

/// What shall leave the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Guests and replicas.
    Everything,
    /// Guests; the replicas that it keeps for others may stay.
    GuestsOnly,
}

/// How a host is emptied.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Drain {
    /// In order. Those of guests on other hosts make room.
    pub moves: Vec<PlannedMove>,
    /// What cannot go, and why; phrases without a full stop.
    pub stuck: BTreeMap<GuestName, String>,
    /// What cannot go now because something is under way with it; ask again later.
    pub waits: BTreeMap<GuestName, String>,
    /// What is the worse for it; sentences without a full stop.
    pub warnings: Vec<String>,
}

/// No more guests than these are tried to be moved out of the way of one guest.
const IN_THE_WAY_MAX: usize = 32;

/// How a host is emptied as things are now. A host that the cluster does not have is empty.
pub fn drain(inventory: &Inventory, host: &HostName, how: How) -> Drain {
    let inventory = &*inventory.for_moves();
    let Some(host) = inventory.host_ix(host) else { return Drain::default() };
    let mut snapshot = inventory.snapshot.clone();
    let duty = &mut snapshot.hosts[host.at()].duty;
    *duty = match (how, &duty) {
        (_, HostDuty::Lost(why)) => HostDuty::Lost(why.clone()),
        (How::Everything, _) => HostDuty::Leaves("it is being drained".to_owned()),
        (How::GuestsOnly, _) => HostDuty::GuestsLeave("it is in maintenance".to_owned()),
    };
    // Guests that must be together go one after the other. Where the last of them cannot, none of them goes.
    let mut held = BTreeMap::new();
    loop {
        let emptied = with_scene(&snapshot, |scene| {
            let mut plan = Plan { inventory, scene, host, how, held: &held, moves: vec![] };
            plan.empty(&snapshot)
        });
        match emptied {
            Ok(drain) => return drain,
            Err(torn) => held.extend(torn),
        }
    }
}

/// Why something is still on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Left {
    Waits(String),
    Stuck(String),
    /// No host can take it; `promise`: some could if the cluster promised nothing.
    NoRoom {
        why: String,
        promise: bool,
    },
}

struct Plan<'i, 's, 'a> {
    inventory: &'i Inventory,
    scene: &'i mut Scene<'s, 'a>,
    host: HostIx,
    how: How,
    /// Guests that stay because others must, with the reason.
    held: &'i BTreeMap<GuestIx, Left>,
    moves: Vec<PlannedMove>,
}

impl<'a> Plan<'_, '_, 'a> {
    fn snapshot(&self) -> &'a Snapshot {
        self.scene.snapshot()
    }

    /// `Err`: guests that may not go, or a `must` rule would be broken.
    fn empty(&mut self, before: &Snapshot) -> Result<Drain, BTreeMap<GuestIx, Left>> {
        let mut drain = Drain::default();
        self.run();
        let mut left = self.left();
        if left.values().any(|why| matches!(why, Left::NoRoom { promise: true, .. })) {
            let kept = self.moves.len();
            self.scene.forced = true;
            self.run();
            left = self.left();
            if self.moves.len() > kept {
                let (host, promise) = (self.inventory.host_name(self.host), before.promise);
                let warning =
                    format!("with {host} emptied the cluster cannot survive {promise} with every guest");
                drain.warnings.push(warning);
            }
        }
        let torn = self.torn(&Layout::new(before), &left);
        if !torn.is_empty() {
            return Err(torn);
        }
        for (guest, left) in left {
            let name = self.inventory.guest_name(guest).clone();
            match left {
                Left::Waits(why) => drain.waits.insert(name, why),
                Left::Stuck(why) | Left::NoRoom { why, .. } => drain.stuck.insert(name, why),
            };
        }
        drain.moves = std::mem::take(&mut self.moves);
        Ok(drain)
    }

    /// Guests that were moved away from one that is left, though a rule wants them together.
    fn torn(&self, before: &Layout<'_>, left: &BTreeMap<GuestIx, Left>) -> BTreeMap<GuestIx, Left> {
        let mut torn = BTreeMap::new();
        for (at, group) in (0u32..).zip(&self.snapshot().groups) {
            let binds = group.strength == Strength::Must && group.bound == Bound::Together;
            let after = self.scene.layout();
            if !binds || after.group_excess(GroupIx(at)) <= before.group_excess(GroupIx(at)) {
                continue;
            }
            let Some((first, why)) = group.members.iter().find_map(|guest| Some((guest, left.get(guest)?)))
            else {
                continue;
            };
            let name = self.inventory.guest_name(*first);
            let moved = group.members.iter().filter(|guest| before.place(**guest) != after.place(**guest));
            for guest in
                moved.filter(|guest| before.place(**guest).is_some_and(|place| place.host == self.host))
            {
                let because =
                    format!("the rule '{}' keeps it together with {name}, which cannot go", group.rule);
                torn.insert(
                    *guest,
                    match why {
                        Left::Waits(_) => Left::Waits(because),
                        Left::Stuck(_) | Left::NoRoom { .. } => Left::Stuck(because),
                    },
                );
            }
        }
        torn
    }

    fn run(&mut self) {
        self.repeat(Self::guests_here, Self::way_out);
        if self.how == How::Everything {
            self.repeat(Self::secondaries_here, Self::other_secondary);
        }
    }

    /// Moves all that can go, until nothing more can; then makes room for one that cannot, and so on.
    fn repeat(&mut self, which: fn(&Self) -> Vec<GuestIx>, way: fn(&mut Self, GuestIx) -> Option<Place>) {
        loop {
            let mut moved = false;
            for guest in which(self) {
                if let Some(to) = way(self, guest) {
                    let why = format!("{} is to be emptied", self.inventory.host_name(self.host));
                    self.make(guest, to, why);
                    moved = true;
                }
            }
            if moved {
                continue;
            }
            if !which(self).into_iter().any(|guest| self.make_room(guest, way)) {
                return;
            }
        }
    }

    /// Guests that run here, or would, the largest first.
    fn guests_here(&self) -> Vec<GuestIx> {
        self.sorted(|place, host| place.host == host)
    }

    fn secondaries_here(&self) -> Vec<GuestIx> {
        self.sorted(|place, host| place.secondary == Some(host))
    }

    fn sorted(&self, is_here: fn(Place, HostIx) -> bool) -> Vec<GuestIx> {
        let snapshot = self.snapshot();
        let guests = snapshot.guest_indices();
        let mut guests: Vec<GuestIx> = guests
            .filter(|guest| self.scene.place(*guest).is_some_and(|place| is_here(place, self.host)))
            .collect();
        let size = |guest: &GuestIx| {
            let need = snapshot.guest(*guest);
            (!need.runs, std::cmp::Reverse((need.memory, need.disk)), *guest)
        };
        guests.sort_by_key(size);
        guests
    }

    /// Whether the guest may leave its host, whatever room there is.
    fn may_go(&self, guest: GuestIx) -> bool {
        if self.held.contains_key(&guest) {
            return false;
        }
        match self.inventory.stay(guest).map(|stay| stay.cause) {
            None | Some(StayCause::Stopped | StayCause::Young) => true,
            Some(StayCause::Local) => self.takes_its_disks_along(guest),
            Some(StayCause::NoHost | StayCause::Pinned | StayCause::Failed | StayCause::Busy) => false,
        }
    }

    /// Whether it is mirrored while it moves. That takes a running guest, all of whose disks are local.
    fn takes_its_disks_along(&self, guest: GuestIx) -> bool {
        let spec = self.inventory.view().guests.get(self.inventory.guest_name(guest));
        self.runs(guest) && spec.is_some_and(GuestSpec::is_local)
    }

    /// Whether a replica of it can be made. A pinned guest stays where it is while its secondary is copied.
    fn may_be_copied(&self, guest: GuestIx) -> bool {
        let pinned = self.inventory.stay(guest).is_some_and(|stay| stay.cause == StayCause::Pinned);
        (pinned || self.may_go(guest)) && self.runs(guest)
    }

    fn runs(&self, guest: GuestIx) -> bool {
        let spec = self.inventory.view().guests.get(self.inventory.guest_name(guest));
        spec.is_some_and(|spec| spec.power == PowerWish::Running)
    }

    /// Where a guest goes that shall leave this host.
    fn way_out(&mut self, guest: GuestIx) -> Option<Place> {
        if !self.may_go(guest) {
            return None;
        }
        let place = self.scene.place(guest)?;
        match (self.snapshot().guest(guest).storage, place.secondary) {
            (Storage::Mirrored, Some(secondary)) => {
                let swapped = Place { host: secondary, secondary: Some(place.host) };
                if self.scene.obstacle_on_the_way(guest, swapped).is_none() {
                    return Some(swapped);
                }
                if !self.may_be_copied(guest) {
                    return None;
                }
                self.best(guest, |other| Place { host: other, secondary: Some(place.host) })
            }
            (Storage::Shared | Storage::Local, _) => {
                self.best(guest, |other| Place { host: other, secondary: None })
            }
            (Storage::Mirrored, None) => None,
        }
    }

    fn other_secondary(&mut self, guest: GuestIx) -> Option<Place> {
        let place = self.scene.place(guest)?;
        if place.host == self.host || !self.may_be_copied(guest) {
            return None;
        }
        self.best(guest, |other| Place { host: place.host, secondary: Some(other) })
    }

    /// The best of the places that may be.
    fn best(&mut self, guest: GuestIx, place: impl Fn(HostIx) -> Place) -> Option<Place> {
        let mut best: Option<(f64, Place)> = None;
        for other in self.snapshot().host_indices() {
            let to = place(other);
            if self.scene.place(guest) == Some(to) || self.scene.obstacle_on_the_way(guest, to).is_some() {
                continue;
            }
            let score = self.scene.score_after(guest, to);
            if best.is_none_or(|(least, _)| score < least) {
                best = Some((score, to));
            }
        }
        best.map(|(_, to)| to)
    }

    fn make(&mut self, guest: GuestIx, to: Place, why: String) {
        let Some(from) = self.scene.place(guest) else { return };
        let (score_before, price) = (self.scene.score(), self.scene.price(guest, to));
        let mut planned = in_words(self.inventory, self.scene.snapshot(), Move { guest, from, to }, why);
        self.scene.put(guest, to);
        planned.score_before = score_before;
        planned.score_after = self.scene.score();
        planned.gain = planned.score_before - planned.score_after;
        planned.cost = price;
        self.moves.push(planned);
    }

    /// Moves one guest out of the way, if that lets another one go. Both moves are made, or none.
    fn make_room(&mut self, guest: GuestIx, way: fn(&mut Self, GuestIx) -> Option<Place>) -> bool {
        if !self.may_go(guest) {
            return false;
        }
        for other in self.in_the_way(guest) {
            let Some(from) = self.scene.place(other) else { continue };
            for to in self.ways_aside(other, from) {
                if self.scene.obstacle_on_the_way(other, to).is_some() {
                    continue;
                }
                self.scene.put(other, to);
                let goes = way(self, guest);
                self.scene.put(other, from);
                if let Some(goal) = goes {
                    let why = format!("it makes room for {}", self.inventory.guest_name(guest));
                    self.make(other, to, why);
                    let why = format!("{} is to be emptied", self.inventory.host_name(self.host));
                    self.make(guest, goal, why);
                    return true;
                }
            }
        }
        false
    }

    /// Guests on the hosts that could take this one if they were emptier, the smallest that may help first.
    fn in_the_way(&mut self, guest: GuestIx) -> Vec<GuestIx> {
        let Some(place) = self.scene.place(guest) else { return vec![] };
        let swap = place.secondary.map(|secondary| Place { host: secondary, secondary: Some(place.host) });
        let full = swap.and_then(|to| self.scene.obstacle_on_the_way(guest, to)).and_then(|(_, obstacle)| {
            match obstacle {
                Obstacle::Memory { host, .. }
                | Obstacle::Vcpus { host, .. }
                | Obstacle::TakeOver { host, .. } => Some(host),
                Obstacle::Duty { .. }
                | Obstacle::Disk { .. }
                | Obstacle::NotAllowed { .. }
                | Obstacle::Rule { .. }
                | Obstacle::SameHost
                | Obstacle::Replicas(_) => None,
            }
        });
        let Some(full) = full.filter(|host| *host != self.host) else { return vec![] };
        let snapshot = self.snapshot();
        let there = snapshot.guest_indices().filter(|other| {
            let may = self.inventory.stay(*other).is_none() && snapshot.guest(*other).runs;
            may && self.scene.place(*other).is_some_and(|place| place.host == full)
        });
        let mut there: Vec<GuestIx> = there.collect();
        there.sort_by_key(|other| (snapshot.guest(*other).memory, *other));
        there.truncate(IN_THE_WAY_MAX);
        there
    }

    /// Cheap ways first: its roles swapped, or copied to a third host.
    fn ways_aside(&self, other: GuestIx, from: Place) -> Vec<Place> {
        let hosts = self.snapshot().host_indices().filter(|host| *host != self.host && *host != from.host);
        match (self.snapshot().guest(other).storage, from.secondary) {
            (Storage::Mirrored, Some(secondary)) => {
                let swap = Place { host: secondary, secondary: Some(from.host) };
                let copies = hosts.filter(|host| *host != secondary);
                let copies = copies.map(|host| Place { host, secondary: Some(from.host) });
                std::iter::once(swap).filter(|_| secondary != self.host).chain(copies).collect()
            }
            (Storage::Shared, _) => hosts.map(|host| Place { host, secondary: None }).collect(),
            (Storage::Mirrored, None) | (Storage::Local, _) => vec![],
        }
    }

    /// What is still here, and why.
    fn left(&mut self) -> BTreeMap<GuestIx, Left> {
        let mut left = BTreeMap::new();
        for guest in self.guests_here() {
            left.insert(guest, self.why_here(guest));
        }
        if self.how == How::Everything {
            for guest in self.secondaries_here() {
                left.insert(guest, self.why_secondary_here(guest));
            }
        }
        // What is being moved counts where it goes to; it is still here.
        for (guest, stay) in self.inventory.stays().filter(|(_, stay)| stay.cause == StayCause::Busy) {
            let name = self.inventory.guest_name(guest);
            let is_host = |host: &HostName| self.inventory.host_ix(host) == Some(self.host);
            let here = self.inventory.view().assignments.get(name).is_some_and(|assignment| {
                let second = assignment.secondary.as_ref().filter(|_| self.how == How::Everything);
                is_host(&assignment.host) || second.is_some_and(is_host)
            });
            if here {
                left.insert(guest, Left::Waits(stay.why.clone()));
            }
        }
        left
    }

    fn why_here(&mut self, guest: GuestIx) -> Left {
        if let Some(held) = self.held.get(&guest) {
            return held.clone();
        }
        if let Some(stay) = self.inventory.stay(guest) {
            match stay.cause {
                StayCause::NoHost if self.snapshot().guest(guest).storage == Storage::Local => {
                    return Left::Stuck(format!("{}, and so are its disks", stay.why));
                }
                StayCause::NoHost | StayCause::Busy => return Left::Waits(stay.why.clone()),
                StayCause::Pinned => {
                    return Left::Stuck(format!("{}; `kennel guest set` can change that", stay.why));
                }
                StayCause::Local if self.takes_its_disks_along(guest) => {}
                StayCause::Local
                    if !self.runs(guest) && self.snapshot().guest(guest).storage == Storage::Local =>
                {
                    return Left::Stuck(format!(
                        "{}, and it is stopped: disks can be copied only while a guest runs",
                        stay.why
                    ));
                }
                StayCause::Local | StayCause::Failed => return Left::Stuck(stay.why.clone()),
                StayCause::Stopped | StayCause::Young => {}
            }
        }
        let Some(place) = self.scene.place(guest) else { return Left::Stuck("it is nowhere".to_owned()) };
        let mirrored = self.snapshot().guest(guest).storage == Storage::Mirrored;
        let Some(secondary) = place.secondary.filter(|_| mirrored) else {
            if mirrored {
                return Left::Stuck("it has no secondary whose host could take it".to_owned());
            }
            return self.no_room(guest, |other| Place { host: other, secondary: None });
        };
        if self.may_be_copied(guest) {
            return self.no_room(guest, |other| Place { host: other, secondary: Some(place.host) });
        }
        let swapped = Place { host: secondary, secondary: Some(place.host) };
        match self.scene.obstacle_on_the_way(guest, swapped) {
            Some((_, obstacle)) => Left::NoRoom {
                promise: matches!(obstacle, Obstacle::TakeOver { .. }),
                why: format!(
                    "it is stopped, so that its disks cannot be copied, and {}, which has a copy: {}",
                    self.inventory.host_name(secondary),
                    self.inventory.explain(guest, &obstacle)
                ),
            },
            None => Left::Waits("its turn comes".to_owned()),
        }
    }

    fn why_secondary_here(&mut self, guest: GuestIx) -> Left {
        if let Some(stay) = self.inventory.stay(guest) {
            match stay.cause {
                StayCause::NoHost | StayCause::Busy => return Left::Waits(stay.why.clone()),
                StayCause::Local | StayCause::Failed => return Left::Stuck(stay.why.clone()),
                StayCause::Pinned | StayCause::Stopped | StayCause::Young => {}
            }
        }
        if !self.runs(guest) {
            let why = "its secondary is here; it is stopped, and disks can be copied only while a guest runs";
            return Left::Stuck(why.to_owned());
        }
        let Some(place) = self.scene.place(guest) else { return Left::Stuck("it is nowhere".to_owned()) };
        self.no_room(guest, move |other| Place { host: place.host, secondary: Some(other) })
    }

    /// The reason of each other host.
    fn no_room(&mut self, guest: GuestIx, place: impl Fn(HostIx) -> Place) -> Left {
        let mut reasons = Vec::new();
        let mut promise = false;
        for other in self.snapshot().host_indices().filter(|other| *other != self.host) {
            let to = place(other);
            if self.scene.place(guest) == Some(to) || Some(to.host) == to.secondary {
                continue;
            }
            if let Some((_, obstacle)) = self.scene.obstacle_on_the_way(guest, to) {
                promise |= matches!(obstacle, Obstacle::TakeOver { .. });
                let at = obstacle.host().unwrap_or(other);
                let about = if at == other {
                    self.inventory.host_name(other).to_string()
                } else {
                    format!("{} (with {})", self.inventory.host_name(other), self.inventory.host_name(at))
                };
                reasons.push(format!("{about}: {}", self.inventory.explain(guest, &obstacle)));
            }
        }
        if reasons.is_empty() {
            reasons.push("there is no other host".to_owned());
        }
        Left::NoRoom { why: reasons.join("; "), promise }
    }
}
