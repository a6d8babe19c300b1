//! What a move would do to the score, and whether it is allowed.
//!
//! The moves of a mirrored guest are those that leave it one of its two hosts: swap the roles, or bring one new host
//! in as primary or secondary beside the old primary or the old secondary. [`State::best`] looks at all of them for
//! one guest: what the old hosts lose is computed once for each kind of move, and then each new host adds its part.

use super::packed::{LIMITS, NOWHERE};
use super::state::{Acc, Change, Seat, State};
use crate::snapshot::Storage;

/// What moves cost beside what they do to the score.
#[derive(Debug, Clone)]
pub(super) enum Price {
    /// What differs from where guests were at first: each replica to fill, and each guest on another host.
    FromStart { seats: Vec<Seat>, copy: f64, change: f64 },
    /// Each move from where the guest is now.
    EachMove,
}

impl Price {
    /// Moves cost nothing.
    pub fn free() -> Self {
        Price::FromStart { seats: Vec::new(), copy: 0.0, change: 0.0 }
    }
}

/// A move and what it does to score and price together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub seat: Seat,
    /// Negative: better.
    pub delta: f64,
}

/// The changes of one move: four hosts at most.
pub(super) struct Changes<const K: usize> {
    all: [Change<K>; 4],
    len: usize,
}

impl<const K: usize> Changes<K> {
    pub fn as_slice(&self) -> &[Change<K>] {
        &self.all[..self.len]
    }
}

/// One kind of a mirrored guest's moves, with what does not depend on the new host.
struct Kind<const K: usize> {
    /// Without what `other` changes.
    without: Acc<K>,
    with: Acc<K>,
    /// The old host that stays, when what it takes over depends on the new host.
    other: Option<Change<K>>,
    shape: Shape,
    /// The host that stays, in its new role.
    stays: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    NewPrimary,
    NewSecondary,
}

/// Whom soft limits of sums bind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Soft {
    /// All but guests that leave a host which forces.
    AsAsked,
    /// These too.
    Binds,
}

impl<const K: usize> State<'_, K> {
    /// What a guest's move to another seat changes on each host.
    pub fn changes(&self, guest: usize, new: Seat) -> Changes<K> {
        let old = self.seats[guest];
        let blank = Change { host: NOWHERE, lanes: [0.0; K], uses: 0.0, res: 0.0, count: 0.0 };
        let mut changes = Changes { all: [blank; 4], len: 0 };
        for host in [old.host, old.secondary, new.host, new.secondary] {
            if host == NOWHERE || changes.as_slice().iter().any(|change| change.host == host) {
                continue;
            }
            changes.all[changes.len] = self.change_at(guest, old, new, host);
            changes.len += 1;
        }
        changes
    }

    fn change_at(&self, guest: usize, old: Seat, new: Seat, host: u32) -> Change<K> {
        let g = &self.p.guests[guest];
        let mut change = Change { host, lanes: [0.0; K], uses: 0.0, res: 0.0, count: 0.0 };
        for (seat, sign) in [(old, -1.0), (new, 1.0)] {
            let lanes = match (seat.host == host, seat.secondary == host) {
                (true, _) => {
                    change.uses += sign * g.uses;
                    &g.primary
                }
                (_, true) => &g.secondary,
                (false, false) => continue,
            };
            change.count += sign * g.count;
            for k in 0..K {
                change.lanes[k] += sign * lanes[k];
            }
        }
        let backs = |seat: Seat| if seat.secondary == host { seat.host } else { NOWHERE };
        change.res = self.res_after(host, g.needs, backs(old), backs(new));
        change
    }

    /// The score after a guest's move, whether it is allowed or not.
    pub fn value_after(&self, guest: usize, new: Seat) -> f64 {
        let old = self.seats[guest];
        let mut acc = self.acc;
        for change in self.changes(guest, new).as_slice() {
            self.touch(&mut acc, change);
        }
        acc.linear +=
            self.home(guest, new) - self.home(guest, old) + self.group_delta(guest, old.host, new.host);
        self.score(&acc)
    }

    /// What it costs that a guest is, or goes, to a seat.
    #[inline(always)]
    pub fn price(&self, price: &Price, guest: usize, seat: Seat) -> f64 {
        let terms = &self.p.terms.guests[guest];
        match price {
            Price::FromStart { seats, copy, change } => {
                let Some(start) = seats.get(guest).copied() else { return 0.0 };
                f64::from(seat.copies_from(start)) * copy * terms.copy_cost
                    + if seat.host == start.host { 0.0 } else { change * terms.move_cost }
            }
            Price::EachMove => {
                let old = self.seats[guest];
                f64::from(seat.copies_from(old)) * terms.copy_cost
                    + f64::from(swaps(old, seat)) * terms.move_cost
            }
        }
    }

    /// What a move does to score and price together.
    pub fn delta(&self, price: &Price, guest: usize, new: Seat) -> f64 {
        self.value_after(guest, new) - self.value + self.price(price, guest, new)
            - self.price(price, guest, self.seats[guest])
    }

    /// The best allowed move of a guest to one of the targets; swapping its roles is always looked at.
    pub fn best(&self, price: &Price, guest: usize, targets: &[u32]) -> Option<Found> {
        self.best_of(price, guest, targets, Soft::AsAsked)
    }

    /// The same; but a guest that leaves a host which forces keeps to the soft limits of sums where it gets away so
    /// too. (What the reserve and the rules ask for is in the score.)
    pub fn best_within(&self, price: &Price, guest: usize, targets: &[u32]) -> Option<Found> {
        let best = self.best_of(price, guest, targets, Soft::AsAsked)?;
        let left = self.forcing(best.seat);
        if self.forcing(self.seats[guest]) == 0 || self.may_with(guest, best.seat, Soft::Binds) {
            return Some(best);
        }
        let within = self.best_of(price, guest, targets, Soft::Binds);
        within.filter(|found| found.delta < 0.0 && self.forcing(found.seat) <= left).or(Some(best))
    }

    /// How much of a seat is on hosts that force: the primary more than the secondary.
    pub fn forcing(&self, seat: Seat) -> u32 {
        let forces = |host: u32| self.p.hosts.get(host as usize).is_some_and(|host| host.forces);
        2 * u32::from(forces(seat.host)) + u32::from(forces(seat.secondary))
    }

    fn best_of(&self, price: &Price, guest: usize, targets: &[u32], soft: Soft) -> Option<Found> {
        if !self.p.guests[guest].movable || self.seats[guest].host == NOWHERE {
            return None;
        }
        let mut best: Option<Found> = None;
        let before = self.value + self.price(price, guest, self.seats[guest]);
        let mut offer = |seat: Seat, value: f64| {
            let delta = value + self.price(price, guest, seat) - before;
            if best.is_none_or(|best| delta < best.delta) {
                best = Some(Found { seat, delta });
            }
        };
        match self.p.guests[guest].storage {
            Storage::Mirrored => self.offer_mirrored(guest, targets, soft, &mut offer),
            Storage::Shared | Storage::Local => self.offer_single(guest, targets, soft, &mut offer),
        }
        best
    }

    fn offer_single(&self, guest: usize, targets: &[u32], soft: Soft, offer: &mut impl FnMut(Seat, f64)) {
        let old = self.seats[guest];
        let moves = self.p.terms.moves;
        if !moves.guests {
            return;
        }
        let mut left = self.acc;
        self.touch(&mut left, &self.change_at(guest, old, Seat::NOWHERE, old.host));
        left.linear -= self.home(guest, old);
        let g = &self.p.guests[guest];
        for host in targets.iter().copied().filter(|host| *host != old.host) {
            let new = Seat { host, secondary: NOWHERE };
            if !self.may_be_primary(guest, old, host, self.forced(old.host), old.host, soft) {
                continue;
            }
            let mut acc = left;
            let res = self.hosts[host as usize].res;
            self.touch(&mut acc, &Change { host, lanes: g.primary, uses: g.uses, res, count: g.count });
            acc.linear += self.home(guest, new) + self.group_delta(guest, old.host, host);
            offer(new, self.score(&acc));
        }
    }

    fn offer_mirrored(&self, guest: usize, targets: &[u32], soft: Soft, offer: &mut impl FnMut(Seat, f64)) {
        let old = self.seats[guest];
        let swap = Seat { host: old.secondary, secondary: old.host };
        if old.secondary == NOWHERE {
            return;
        }
        if self.may_with(guest, swap, soft) {
            offer(swap, self.value_after(guest, swap));
        }
        if !self.p.terms.moves.disks {
            return;
        }
        for (shape, stays) in [
            (Shape::NewSecondary, old.host),
            (Shape::NewPrimary, old.host),
            (Shape::NewPrimary, old.secondary),
            (Shape::NewSecondary, old.secondary),
        ] {
            if !self.kind_allowed(guest, shape, stays, soft) {
                continue;
            }
            let kind = self.kind(guest, shape, stays);
            for host in targets.iter().copied().filter(|host| !old.has(*host)) {
                if self.newcomer_fits(guest, shape, stays, host, soft) {
                    let seat = shape.seat(host, stays);
                    offer(seat, self.value_of(guest, &kind, host, seat));
                }
            }
        }
    }

    fn kind(&self, guest: usize, shape: Shape, stays: u32) -> Kind<K> {
        let old = self.seats[guest];
        let leaves = if stays == old.host { old.secondary } else { old.host };
        // The new host's part comes later; what the host that stays takes over depends on it.
        let seat = shape.seat(NOWHERE, stays);
        let mut without = self.acc;
        self.touch(&mut without, &self.change_at(guest, old, seat, leaves));
        without.linear -= self.home(guest, old);
        let other = self.change_at(guest, old, seat, stays);
        let mut with = without;
        self.touch(&mut with, &other);
        let depends = shape == Shape::NewPrimary && self.p.guests[guest].needs > 0.0;
        Kind { without, with, other: depends.then_some(other), shape, stays }
    }

    #[inline(always)]
    fn value_of(&self, guest: usize, kind: &Kind<K>, host: u32, seat: Seat) -> f64 {
        let (g, old) = (&self.p.guests[guest], self.seats[guest]);
        let mut acc = kind.with;
        if let Some(other) = &kind.other {
            let lose = if old.secondary == kind.stays { old.host } else { NOWHERE };
            let res = self.res_after(kind.stays, g.needs, lose, host);
            if res != other.res {
                acc = kind.without;
                self.touch(&mut acc, &Change { res, ..*other });
            }
        }
        let change = match kind.shape {
            Shape::NewPrimary => {
                let res = self.hosts[host as usize].res;
                Change { host, lanes: g.primary, uses: g.uses, res, count: g.count }
            }
            Shape::NewSecondary => {
                let res = self.res_after(host, g.needs, NOWHERE, kind.stays);
                Change { host, lanes: g.secondary, uses: 0.0, res, count: g.count }
            }
        };
        self.touch(&mut acc, &change);
        acc.linear += self.home(guest, seat) + self.group_delta(guest, old.host, seat.host);
        self.score(&acc)
    }
}

/// Whether moves are allowed.
impl<const K: usize> State<'_, K> {
    /// Whether a guest may go to a seat, in one move. Intermediate steps are looked at too.
    pub fn may(&self, guest: usize, new: Seat) -> bool {
        self.may_with(guest, new, Soft::AsAsked)
    }

    fn may_with(&self, guest: usize, new: Seat, soft: Soft) -> bool {
        let old = self.seats[guest];
        if !self.p.guests[guest].movable || old == new || old.host == NOWHERE {
            return false;
        }
        match self.p.guests[guest].storage {
            Storage::Shared | Storage::Local => {
                self.p.terms.moves.guests
                    && self.may_be_primary(guest, old, new.host, self.forced(old.host), old.host, soft)
            }
            Storage::Mirrored if new.host == old.secondary && new.secondary == old.host => {
                self.may_swap(guest, old, soft)
            }
            Storage::Mirrored => {
                let (shape, host, stays) = match (old.has(new.host), old.has(new.secondary)) {
                    (true, false) => (Shape::NewSecondary, new.secondary, new.host),
                    (false, true) => (Shape::NewPrimary, new.host, new.secondary),
                    (true, true) | (false, false) => return false,
                };
                self.p.terms.moves.disks
                    && self.p.hosts[host as usize].takes
                    && self.kind_allowed(guest, shape, stays, soft)
                    && self.newcomer_fits(guest, shape, stays, host, soft)
            }
        }
    }

    fn forced(&self, leaves: u32) -> bool {
        self.p.terms.moves.force || self.p.hosts[leaves as usize].forces
    }

    /// Which limits are asked: 0 for all, 1 for hard ones only.
    fn asks(&self, forced: bool, soft: Soft) -> usize {
        usize::from(self.p.terms.moves.force || forced && soft == Soft::AsAsked)
    }

    fn path(&self, from: u32, to: u32) -> bool {
        let paths = &self.p.terms.paths;
        paths.is_empty() || paths[from as usize * self.p.hosts.len() + to as usize]
    }

    fn may_swap(&self, guest: usize, old: Seat, soft: Soft) -> bool {
        let forced = self.forced(old.host);
        self.p.terms.moves.guests
            && self.may_be_primary(guest, old, old.secondary, forced, old.host, soft)
            && self.may_be_secondary(guest, old, old.host, forced, old.secondary, soft)
    }

    /// What a kind of move asks of the old hosts, whatever the new one is.
    fn kind_allowed(&self, guest: usize, shape: Shape, stays: u32, soft: Soft) -> bool {
        let old = self.seats[guest];
        let moves = self.p.terms.moves;
        let primary_stays = stays == old.host;
        let runs_elsewhere = !primary_stays || shape == Shape::NewPrimary;
        let (from, backup) = (&self.p.hosts[old.host as usize], &self.p.hosts[old.secondary as usize]);
        if runs_elsewhere && (!moves.guests || moves.restricted && !from.forces) {
            return false;
        }
        if !primary_stays && !backup.takes {
            return false;
        }
        match (shape, primary_stays) {
            (Shape::NewSecondary, true) => self.limits_hold(guest, old, old.host, 1, true),
            // What the old primary gets as a secondary depends on the new host.
            (Shape::NewPrimary, true) => true,
            (Shape::NewSecondary, false) => {
                self.may_be_primary(guest, old, old.secondary, self.forced(old.host), old.host, soft)
            }
            (Shape::NewPrimary, false) => {
                !moves.restricted
                    && self.may_be_primary(guest, old, old.secondary, self.forced(old.host), old.host, soft)
            }
        }
    }

    #[inline(always)]
    fn newcomer_fits(&self, guest: usize, shape: Shape, stays: u32, host: u32, soft: Soft) -> bool {
        let old = self.seats[guest];
        let force = self.p.terms.moves.force;
        let (by_primary, by_secondary) = (self.forced(old.host), self.forced(old.secondary));
        match (shape, stays == old.host) {
            (Shape::NewSecondary, true) => self.may_be_secondary(guest, old, host, by_secondary, stays, soft),
            (Shape::NewSecondary, false) => self.may_be_secondary(guest, old, host, by_primary, stays, soft),
            (Shape::NewPrimary, true) => {
                self.may_be_primary(guest, old, host, force, old.host, soft)
                    && self.may_be_secondary(guest, old, stays, by_secondary, host, soft)
            }
            (Shape::NewPrimary, false) => {
                self.may_be_primary(guest, old, host, by_primary, stays, soft)
                    && self.may_be_secondary(guest, old, stays, by_primary, host, soft)
                    && !self.rule_refuses_next(guest, [old.host, stays, host], by_primary)
            }
        }
    }

    /// Whether a host may become a guest's primary, coming over `from`.
    #[inline(always)]
    fn may_be_primary(
        &self,
        guest: usize,
        old: Seat,
        host: u32,
        forced: bool,
        from: u32,
        soft: Soft,
    ) -> bool {
        let g = &self.p.guests[guest];
        let at = host as usize;
        if !self.p.hosts[at].takes || !self.limits_hold(guest, old, host, self.asks(forced, soft), true) {
            return false;
        }
        if g.allowed && self.p.terms.guests[guest].allowed.as_ref().is_some_and(|allowed| !allowed[at]) {
            return false;
        }
        if self.rule_refuses(guest, old.host, host, forced) || !self.path(from, host) {
            return false;
        }
        let lose = if old.secondary == host { old.host } else { NOWHERE };
        let res = self.res_after(host, g.needs, lose, NOWHERE);
        self.keeps_reserve(host, self.hosts[at].free - g.uses, res, forced)
    }

    /// Whether a host may become, or stay, the secondary of a guest whose primary is then `primary`.
    #[inline(always)]
    fn may_be_secondary(
        &self,
        guest: usize,
        old: Seat,
        host: u32,
        forced: bool,
        primary: u32,
        soft: Soft,
    ) -> bool {
        let g = &self.p.guests[guest];
        let at = host as usize;
        let was_primary = old.host == host;
        if !self.p.hosts[at].takes && !old.has(host) {
            return false;
        }
        // A guest that fails over from a lost host leaves its replica there, whatever room there is.
        let left_behind = was_primary && self.p.hosts[at].forces;
        if !left_behind && !self.limits_hold(guest, old, host, self.asks(forced, soft), false) {
            return false;
        }
        let free = self.hosts[at].free + if was_primary { g.uses } else { 0.0 };
        let lose = if old.secondary == host { old.host } else { NOWHERE };
        let res = self.res_after(host, g.needs, lose, primary);
        if !forced && self.p.reserve().is_some_and(|reserve| reserve.strict) && g.needs >= free {
            return false;
        }
        self.keeps_reserve(host, free, res, forced)
    }

    #[inline(always)]
    fn limits_hold(&self, guest: usize, old: Seat, host: u32, forced: usize, as_primary: bool) -> bool {
        let g = &self.p.guests[guest];
        let room = &self.hosts[host as usize].room;
        let (ask, adds) = match as_primary {
            true => (&g.ask_primary[forced], &g.limit_primary),
            false => (&g.ask_secondary[forced], &g.limit_secondary),
        };
        let own = match (old.host == host, old.secondary == host) {
            (true, _) => &g.limit_primary,
            (_, true) => &g.limit_secondary,
            (false, false) => &[0.0; LIMITS],
        };
        let strict = self.p.terms.moves.strict;
        let mut holds = true;
        for k in 0..LIMITS {
            holds &= ask[k] - own[k] <= room[k] || !strict && adds[k] <= own[k];
        }
        holds
    }

    /// Whether a host with so much free memory and so much to take over is no worse off than it is now.
    #[inline(always)]
    fn keeps_reserve(&self, host: u32, free: f64, res: f64, forced: bool) -> bool {
        let Some(reserve) = self.p.reserve() else { return true };
        if reserve.soft && forced {
            return true;
        }
        let state = &self.hosts[host as usize];
        if reserve.strict {
            return free > res || state.free_scored < state.res;
        }
        res <= free.max(0.0) || res - free <= (state.res - state.free).max(0.0)
    }
}

impl Shape {
    fn seat(self, new: u32, stays: u32) -> Seat {
        match self {
            Shape::NewPrimary => Seat { host: new, secondary: stays },
            Shape::NewSecondary => Seat { host: stays, secondary: new },
        }
    }
}

/// How often a guest changes its host on the way.
fn swaps(old: Seat, new: Seat) -> u32 {
    match (old.host == new.host, new.secondary == old.secondary && new.secondary != NOWHERE) {
        (true, _) => 0,
        (false, true) => 2,
        (false, false) => 1,
    }
}
