//! Who is where, with every sum that the score and the limits need, kept up to date move by move.
//!
//! For each lane the state keeps the sum and the sum of squares over the counted hosts, both taken from a centre
//! near the mean, so that a small spread is not lost in a large sum. A move changes them by what it changes on the
//! two or three hosts that it touches. Rounding errors creep in slowly; [`State::renew`] computes everything anew.

use super::packed::{LIMITS, NOWHERE, Packed};
use crate::objective::{Reserve, Shortfall};
use crate::snapshot::Bound;

/// Where a guest is: host and secondary, [`NOWHERE`] for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seat {
    pub host: u32,
    pub secondary: u32,
}

impl Seat {
    pub const NOWHERE: Seat = Seat { host: NOWHERE, secondary: NOWHERE };

    pub fn has(self, host: u32) -> bool {
        self.host == host || self.secondary == host
    }

    /// How many of this place's hosts are new to a guest that was at `old`: replicas to fill.
    pub fn copies_from(self, old: Seat) -> u32 {
        let fresh = |host: u32| u32::from(host != NOWHERE && !old.has(host));
        fresh(self.host) + fresh(self.secondary)
    }
}

#[derive(Clone)]
pub(super) struct HostState<const K: usize> {
    /// Lanes, scaled, less the centre.
    pub x: [f64; K],
    pub room: [f64; LIMITS],
    pub free: f64,
    pub free_scored: f64,
    /// Memory to take over in the worst loss.
    pub res: f64,
    /// The three heaviest units of the take-over, heaviest first.
    pub top: [(f64, u32); 3],
    pub count: f64,
    /// What its shortfall costs now.
    pub short: f64,
    /// What its knees cost now.
    pub knees: f64,
}

#[derive(Clone)]
pub(super) struct State<'p, const K: usize> {
    pub p: &'p Packed<K>,
    pub hosts: Vec<HostState<K>>,
    pub seats: Vec<Seat>,
    pub acc: Acc<K>,
    /// The score.
    pub value: f64,
    /// For each host and unit: memory that comes here when the unit is lost.
    peers: Vec<f64>,
    /// For each group and key: how many.
    counts: Vec<Vec<u32>>,
    centre: [f64; K],
    applied: u32,
}

/// Sums that make the score.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acc<const K: usize> {
    pub sum: [f64; K],
    pub square: [f64; K],
    /// What is not a spread.
    pub linear: f64,
}

/// What a move changes on one host.
#[derive(Clone, Copy)]
pub(super) struct Change<const K: usize> {
    pub host: u32,
    /// Before scaling.
    pub lanes: [f64; K],
    pub uses: f64,
    pub res: f64,
    pub count: f64,
}

/// After so many changes everything is computed anew.
const RENEW_AFTER: u32 = 20_000;

impl<'p, const K: usize> State<'p, K> {
    pub fn new(p: &'p Packed<K>, seats: &[Seat]) -> Self {
        let blank = HostState {
            x: [0.0; K],
            room: [0.0; LIMITS],
            free: 0.0,
            free_scored: 0.0,
            res: 0.0,
            top: [(0.0, NOWHERE); 3],
            count: 0.0,
            short: 0.0,
            knees: 0.0,
        };
        let mut state = State {
            p,
            hosts: vec![blank; p.hosts.len()],
            seats: seats.to_vec(),
            acc: Acc { sum: [0.0; K], square: [0.0; K], linear: 0.0 },
            value: 0.0,
            peers: Vec::new(),
            counts: Vec::new(),
            centre: [0.0; K],
            applied: 0,
        };
        state.renew();
        state
    }

    /// Computes everything anew from where the guests are.
    pub fn renew(&mut self) {
        self.applied = 0;
        self.peers = vec![0.0; self.p.hosts.len() * self.p.units];
        self.counts = self.p.terms.groups.iter().map(|group| vec![0; group.key_count as usize]).collect();
        for (state, host) in self.hosts.iter_mut().zip(&self.p.hosts) {
            state.x = [0.0; K];
            state.room = host.most;
            state.free = host.reserve_most;
            state.free_scored = host.reserve_most_scored;
            state.count = 0.0;
        }
        for guest in 0..self.seats.len() {
            self.add_sums(guest);
        }
        for (state, host) in self.hosts.iter_mut().zip(&self.p.hosts) {
            for k in 0..K {
                state.x[k] = host.base[k] + state.x[k] * host.scale[k];
            }
        }
        for host in 0..self.hosts.len() {
            self.retop(host);
            self.hosts[host].x[0] = self.hosts[host].res * self.p.hosts[host].reserve_scale;
        }
        self.recentre();
        self.acc.linear = self.linear();
        self.value = self.score(&self.acc);
    }

    fn add_sums(&mut self, guest: usize) {
        let (seat, g) = (self.seats[guest], &self.p.guests[guest]);
        for (at, lanes, limits) in
            [(seat.host, &g.primary, &g.limit_primary), (seat.secondary, &g.secondary, &g.limit_secondary)]
        {
            let Some(host) = self.hosts.get_mut(at as usize) else { continue };
            for k in 0..K {
                host.x[k] += lanes[k];
            }
            for k in 0..LIMITS {
                host.room[k] -= limits[k];
            }
            host.count += g.count;
        }
        if let Some(host) = self.hosts.get_mut(seat.host as usize) {
            host.free -= g.uses;
            host.free_scored -= g.uses;
        }
        if let Some(at) = self.peer_at(seat) {
            self.peers[at] += g.needs;
        }
        self.count_groups(guest, seat.host, 1);
    }

    fn recentre(&mut self) {
        let counted = || self.hosts.iter().zip(&self.p.hosts).filter(|(_, host)| host.counted);
        let mut centre = [0.0; K];
        for (state, _) in counted() {
            for k in 0..K {
                centre[k] += state.x[k] * self.p.over_counted;
            }
        }
        self.centre = centre;
        for host in &mut self.hosts {
            for k in 0..K {
                host.x[k] -= centre[k];
            }
        }
        let mut acc = Acc { sum: [0.0; K], square: [0.0; K], linear: 0.0 };
        for (state, host) in self.hosts.iter().zip(&self.p.hosts) {
            if host.counted {
                for k in 0..K {
                    acc.sum[k] += state.x[k];
                    acc.square[k] += state.x[k] * state.x[k];
                }
            }
        }
        self.acc = acc;
    }

    /// All that is not a spread, from scratch; also what each host's shortfall and knees cost.
    fn linear(&mut self) -> f64 {
        let mut linear = 0.0;
        for at in 0..self.hosts.len() {
            let host = &self.p.hosts[at];
            if !host.counted {
                (self.hosts[at].short, self.hosts[at].knees) = (0.0, 0.0);
                continue;
            }
            let state = &self.hosts[at];
            let short = self.shortfall(at, state.free_scored, state.res, state.count);
            let knees = self.knees(&state.x);
            let sum =
                self.p.reserve().map_or(0.0, |reserve| reserve.sum_weight * host.reserve_scale * state.res);
            linear += short + knees + sum;
            (self.hosts[at].short, self.hosts[at].knees) = (short, knees);
        }
        for (guest, seat) in self.seats.iter().enumerate() {
            linear += self.home(guest, *seat);
        }
        for (group, counts) in self.p.terms.groups.iter().zip(&self.counts) {
            linear += group.weight * f64::from(excess(group.bound, counts));
        }
        linear
    }

    /// What a guest costs where it is, whatever the others do.
    pub fn home(&self, guest: usize, seat: Seat) -> f64 {
        let terms = &self.p.terms;
        let count = self.p.guests[guest].count;
        let mut cost = 0.0;
        if let Some(host) = terms.hosts.get(seat.host as usize) {
            cost += count * host.primary_cost;
            if self.p.guests[guest].wishes {
                let wishes = terms.guests[guest].wishes.iter();
                cost += wishes.map(|wish| terms.wishes[*wish as usize].cost[seat.host as usize]).sum::<f64>();
            }
        }
        if let Some(host) = terms.hosts.get(seat.secondary as usize) {
            cost += count * host.secondary_cost;
            if !terms.pairs.is_empty() && seat.host != NOWHERE {
                let pair = seat.host as usize * terms.hosts.len() + seat.secondary as usize;
                cost += count * terms.pairs[pair];
            }
        }
        cost
    }

    /// The score that sums make.
    #[inline(always)]
    pub fn score(&self, acc: &Acc<K>) -> f64 {
        let n = self.p.over_counted;
        let mut spread = [0.0; K];
        for k in 0..K {
            let mean = acc.sum[k] * n;
            spread[k] = self.p.weights[k] * (acc.square[k] * n - mean * mean).max(0.0).sqrt();
        }
        acc.linear + spread.iter().sum::<f64>()
    }

    #[inline(always)]
    fn knees(&self, x: &[f64; K]) -> f64 {
        let mut cost = 0.0;
        for k in 0..K {
            let above = (x[k] + self.centre[k] - self.p.knee_at[k]).max(0.0);
            cost += self.p.knee_weight[k] * above * above;
        }
        cost
    }

    #[inline(always)]
    fn shortfall(&self, host: usize, free: f64, res: f64, count: f64) -> f64 {
        match self.p.reserve().map(|reserve| reserve.shortfall) {
            None => 0.0,
            Some(Shortfall::EachGuest(weight)) if free < res => weight * count,
            Some(Shortfall::EachGuest(_)) => 0.0,
            Some(Shortfall::Share(weight)) => {
                weight * (res - free.max(0.0)).max(0.0) * self.p.hosts[host].reserve_scale
            }
        }
    }

    /// Counts a change on one host into sums.
    #[inline(always)]
    pub fn touch(&self, acc: &mut Acc<K>, change: &Change<K>) {
        let at = change.host as usize;
        let (host, state) = (&self.p.hosts[at], &self.hosts[at]);
        if !host.counted {
            return;
        }
        let mut lanes = change.lanes;
        for k in 0..K {
            lanes[k] *= host.scale[k];
        }
        lanes[0] = (change.res - state.res) * host.reserve_scale;
        for k in 0..K {
            acc.sum[k] += lanes[k];
            acc.square[k] += lanes[k] * (2.0 * state.x[k] + lanes[k]);
        }
        if self.p.has_knees {
            let mut x = state.x;
            for k in 0..K {
                x[k] += lanes[k];
            }
            acc.linear += self.knees(&x) - state.knees;
        }
        if let Some(reserve) = self.p.reserve() {
            let short =
                self.shortfall(at, state.free_scored - change.uses, change.res, state.count + change.count);
            acc.linear += reserve.sum_weight * lanes[0] + short - state.short;
        }
    }

    /// Moves a guest and keeps all sums.
    pub fn apply(&mut self, guest: usize, new: Seat) {
        let old = self.seats[guest];
        let changes = self.changes(guest, new);
        let mut acc = self.acc;
        for change in changes.as_slice() {
            self.touch(&mut acc, change);
        }
        acc.linear +=
            self.home(guest, new) - self.home(guest, old) + self.group_delta(guest, old.host, new.host);
        self.count_groups(guest, old.host, -1);
        self.count_groups(guest, new.host, 1);
        self.seats[guest] = new;
        let needs = self.p.guests[guest].needs;
        for (seat, by) in [(old, -needs), (new, needs)] {
            if let Some(at) = self.peer_at(seat) {
                self.peers[at] += by;
            }
        }
        for change in changes.as_slice() {
            self.settle(guest, old, new, change);
        }
        self.acc = acc;
        self.value = self.score(&acc);
        self.applied += 1;
        if self.applied >= RENEW_AFTER {
            self.renew();
        }
    }

    fn settle(&mut self, guest: usize, old: Seat, new: Seat, change: &Change<K>) {
        let at = change.host as usize;
        let (host, g) = (&self.p.hosts[at], &self.p.guests[guest]);
        let mut state = self.hosts[at].clone();
        for k in 0..K {
            state.x[k] += change.lanes[k] * host.scale[k];
        }
        state.x[0] += (change.res - state.res) * host.reserve_scale;
        for (seat, sign) in [(old, 1.0), (new, -1.0)] {
            let limits = match (seat.host == change.host, seat.secondary == change.host) {
                (true, _) => &g.limit_primary,
                (_, true) => &g.limit_secondary,
                (false, false) => continue,
            };
            for k in 0..LIMITS {
                state.room[k] += sign * limits[k];
            }
        }
        state.free -= change.uses;
        state.free_scored -= change.uses;
        state.count += change.count;
        self.hosts[at] = state;
        for seat in [old, new].into_iter().filter(|seat| seat.secondary == change.host) {
            if let Some(peer) = self.peer_at(seat) {
                self.retop_one(at, peer - at * self.p.units);
            }
        }
        if host.counted {
            let state = &self.hosts[at];
            let short = self.shortfall(at, state.free_scored, state.res, state.count);
            let knees = if self.p.has_knees { self.knees(&state.x) } else { 0.0 };
            (self.hosts[at].short, self.hosts[at].knees) = (short, knees);
        }
    }

    fn retop(&mut self, host: usize) {
        let Some(losses) = self.p.reserve().map(|reserve| reserve.losses) else { return };
        let row = &self.peers[host * self.p.units..(host + 1) * self.p.units];
        let mut top = [(0.0, NOWHERE); 3];
        for (unit, memory) in (0..).zip(row) {
            if *memory > top[2].0 {
                top[2] = (*memory, unit);
                if top[2].0 > top[1].0 {
                    top.swap(1, 2);
                }
                if top[1].0 > top[0].0 {
                    top.swap(0, 1);
                }
            }
        }
        self.hosts[host].top = top;
        self.hosts[host].res = if losses == 1 { top[0].0 } else { heaviest(row.to_vec(), losses) };
    }

    /// Does what [`State::retop`] does, when the memory of one unit has changed.
    fn retop_one(&mut self, host: usize, unit: usize) {
        let mut top = self.hosts[host].top;
        let now = (self.peers[host * self.p.units + unit], unit as u32);
        let was = top.iter().position(|top| top.1 == now.1);
        // Nothing outside is more than the last inside was.
        let stays = was.is_none() || now.0 >= top[2].0;
        if !stays || self.p.reserve().is_none_or(|reserve| reserve.losses != 1) {
            return self.retop(host);
        }
        if was.is_some() || now.0 > top[2].0 {
            top[was.unwrap_or(2)] = now;
            top.sort_by(|a, b| b.0.total_cmp(&a.0));
        }
        self.hosts[host].top = top;
        self.hosts[host].res = top[0].0;
    }

    /// Where the memory of a guest in this seat is counted for the loss of its host.
    fn peer_at(&self, seat: Seat) -> Option<usize> {
        if self.p.units == 0 || seat.host == NOWHERE || seat.secondary == NOWHERE {
            return None;
        }
        let (unit, there) =
            (self.p.hosts[seat.host as usize].unit, self.p.hosts[seat.secondary as usize].unit);
        (unit != there).then_some(seat.secondary as usize * self.p.units + unit as usize)
    }

    /// What `host` must take over after it stops backing a guest of `lose` and begins to back one of `gain` (hosts,
    /// or [`NOWHERE`]), which needs so much.
    #[inline(always)]
    pub fn res_after(&self, host: u32, needs: f64, lose: u32, gain: u32) -> f64 {
        let state = &self.hosts[host as usize];
        let Some(reserve) = self.p.reserve().filter(|_| needs > 0.0) else { return state.res };
        let own = self.p.hosts[host as usize].unit;
        let unit = |other: u32| match other {
            NOWHERE => NOWHERE,
            other => Some(self.p.hosts[other as usize].unit).filter(|unit| *unit != own).unwrap_or(NOWHERE),
        };
        let (lose, gain) = (unit(lose), unit(gain));
        if lose == gain {
            return state.res;
        }
        let row = host as usize * self.p.units;
        if reserve.losses != 1 {
            return self.res_of_many(reserve, row, needs, lose, gain);
        }
        let mut most =
            state.top.iter().find(|(_, unit)| *unit != lose && *unit != gain).map_or(0.0, |top| top.0);
        if lose != NOWHERE {
            most = most.max(self.peers[row + lose as usize] - needs);
        }
        if gain != NOWHERE {
            most = most.max(self.peers[row + gain as usize] + needs);
        }
        most
    }

    /// What `host` must take over after its take-over changes by so much for each of some units.
    #[inline(always)]
    pub fn res_with(&self, host: u32, peers: &[(u32, f64)]) -> f64 {
        let state = &self.hosts[host as usize];
        let Some(reserve) = self.p.reserve().filter(|_| !peers.is_empty()) else { return state.res };
        let row = host as usize * self.p.units;
        let other = state.top.iter().find(|top| !peers.iter().any(|peer| peer.0 == top.1));
        if let (1, Some(other)) = (reserve.losses, other) {
            return peers
                .iter()
                .fold(other.0, |most, (unit, by)| most.max(self.peers[row + *unit as usize] + by));
        }
        let mut all = self.peers[row..row + self.p.units].to_vec();
        for (unit, by) in peers {
            all[*unit as usize] += by;
        }
        heaviest(all, reserve.losses)
    }

    fn res_of_many(&self, reserve: &Reserve, row: usize, needs: f64, lose: u32, gain: u32) -> f64 {
        let mut peers = self.peers[row..row + self.p.units].to_vec();
        if let Some(peer) = peers.get_mut(lose as usize) {
            *peer -= needs;
        }
        if let Some(peer) = peers.get_mut(gain as usize) {
            *peer += needs;
        }
        heaviest(peers, reserve.losses)
    }

    fn count_groups(&mut self, guest: usize, host: u32, by: i32) {
        if host == NOWHERE || !self.p.guests[guest].grouped {
            return;
        }
        for group in &self.p.terms.guests[guest].groups {
            for key in &self.p.terms.groups[*group as usize].keys[host as usize] {
                let count = &mut self.counts[*group as usize][*key as usize];
                *count = count.saturating_add_signed(by);
            }
        }
    }

    /// The keys that a guest's groups lose and gain when it goes from host to host.
    fn keys<'s>(&'s self, group: u32, host: u32, other: u32) -> impl Iterator<Item = u32> + 's {
        let keys = &self.p.terms.groups[group as usize].keys;
        let of = move |host: u32| keys.get(host as usize).map_or(&[][..], Vec::as_slice);
        of(host).iter().copied().filter(move |key| !of(other).contains(key))
    }

    /// By how much the groups' costs change when a guest goes from one host to another.
    #[inline(always)]
    pub fn group_delta(&self, guest: usize, old: u32, new: u32) -> f64 {
        if !self.p.guests[guest].grouped || old == new {
            return 0.0;
        }
        self.group_delta_slow(guest, old, new)
    }

    fn group_delta_slow(&self, guest: usize, old: u32, new: u32) -> f64 {
        let groups = self.p.terms.guests[guest].groups.iter();
        groups
            .map(|group| self.p.terms.groups[*group as usize].weight * self.excess_delta(*group, old, new))
            .sum()
    }

    fn excess_delta(&self, group: u32, old: u32, new: u32) -> f64 {
        let counts = &self.counts[group as usize];
        let bound = self.p.terms.groups[group as usize].bound;
        match bound {
            Bound::AtMost(limit) => {
                let less = self.keys(group, old, new).filter(|key| counts[*key as usize] > limit).count();
                let more = self.keys(group, new, old).filter(|key| counts[*key as usize] >= limit).count();
                more as f64 - less as f64
            }
            Bound::Together => {
                let mut after = counts.clone();
                for key in self.keys(group, old, new) {
                    after[key as usize] = after[key as usize].saturating_sub(1);
                }
                for key in self.keys(group, new, old) {
                    after[key as usize] += 1;
                }
                f64::from(excess(bound, &after)) - f64::from(excess(bound, counts))
            }
        }
    }

    /// No host that a guest may go to lessens the groups' costs by more.
    pub fn mendable(&self, guest: usize) -> f64 {
        let old = self.seats[guest].host;
        let mut most = 0.0;
        for at in &self.p.terms.guests[guest].groups {
            let (group, counts) = (&self.p.terms.groups[*at as usize], &self.counts[*at as usize]);
            most += group.weight
                * match group.bound {
                    Bound::AtMost(limit) => {
                        self.keys(*at, old, NOWHERE).filter(|key| counts[*key as usize] > limit).count()
                            as f64
                    }
                    Bound::Together => f64::from(excess(group.bound, counts)),
                };
        }
        most
    }

    /// Whether a `must` rule refuses a guest that goes from one host to another.
    pub fn rule_refuses(&self, guest: usize, old: u32, new: u32, forced: bool) -> bool {
        if !self.p.guests[guest].grouped || old == new {
            return false;
        }
        self.p.terms.guests[guest].groups.iter().any(|at| {
            let group = &self.p.terms.groups[*at as usize];
            if !group.must || group.soft && forced {
                return false;
            }
            match group.bound {
                Bound::AtMost(limit) => {
                    self.keys(*at, new, old).any(|key| self.counts[*at as usize][key as usize] >= limit)
                }
                Bound::Together => self.excess_delta(*at, old, new) > 0.0,
            }
        })
    }
}

/// Two steps of one move.
impl<const K: usize> State<'_, K> {
    /// Whether a `must` rule refuses the second step of a guest that goes over a second host to a third: what the
    /// first step mended, the second may not break again.
    #[inline(always)]
    pub fn rule_refuses_next(&self, guest: usize, [old, over, new]: [u32; 3], forced: bool) -> bool {
        self.p.guests[guest].grouped && self.rule_refuses_next_slow(guest, [old, over, new], forced)
    }

    fn rule_refuses_next_slow(&self, guest: usize, [old, over, new]: [u32; 3], forced: bool) -> bool {
        self.p.terms.guests[guest].groups.iter().any(|at| {
            let group = &self.p.terms.groups[*at as usize];
            if !group.must || group.soft && forced {
                return false;
            }
            let counts = &self.counts[*at as usize];
            match group.bound {
                Bound::AtMost(limit) => self.keys(*at, new, over).any(|key| {
                    let left = u32::from(group.keys[old as usize].contains(&key));
                    counts[key as usize].saturating_sub(left) >= limit
                }),
                Bound::Together => self.excess_delta(*at, old, new) > self.excess_delta(*at, old, over),
            }
        })
    }
}

/// By how many guests a rule is broken.
fn excess(bound: Bound, counts: &[u32]) -> u32 {
    match bound {
        Bound::AtMost(limit) => counts.iter().map(|count| count.saturating_sub(limit)).sum(),
        // The last key is where all of them count.
        Bound::Together => counts
            .split_last()
            .map_or(0, |(all, parts)| all.saturating_sub(parts.iter().copied().max().unwrap_or(0))),
    }
}

fn heaviest(mut peers: Vec<f64>, losses: usize) -> f64 {
    peers.sort_by(|a, b| b.total_cmp(a));
    peers.iter().take(losses).sum()
}
