//! The best layout that can be found, with few copies of disks.
//!
//! Two things are weighed: the score, and a price for every replica that is to be filled and every guest that changes
//! its host, counted between where the guests are at first and where they are at last.
//!
//! 1. *Descent.* Each guest's best single move, those that gain most first, until none gains. The price of a copy
//!    begins high and falls, so that the copies that gain most are made first and swaps of roles, which are free, are
//!    made before them.
//! 2. *Annealing.* Once every host has its share of guests, no single move helps, and most that does is two guests
//!    that trade places. Such pairs, and single moves, are tried at random (Kirkpatrick, Gelatt, Vecchi, "Optimization
//!    by simulated annealing", 1983); what is worse is accepted with a chance that shrinks to nothing.
//! 3. *Order.* The way there by allowed moves ([`super::order`]), and a last descent from where that ends.
//!
//! A layout from which no single move gains what it costs is left alone ([`Thorough::is_settled`]). The last descent
//! ends in such a layout, so a plan that was carried out is followed by none.
//!
//! In small clusters more is compared (`small`), and so it is when a plan may have few moves only (`short`).

mod short;
mod small;

use rayon::prelude::*;

use super::Settings;
use super::evaluate::{Found, Price};
use super::exchange::Step;
use super::order;
use super::packed::NOWHERE;
use super::random::Random;
use super::state::{Seat, State};
use crate::snapshot::Storage;

/// What the copy of a guest's disks must gain, in a cluster of one host. It falls with the square root of the number
/// of hosts, and in large clusters with their number, because what one copy can do to a spread over all hosts falls
/// so. With this the plans for 10 to 80 hosts copy a little less than hbal's, which makes every move that gains
/// anything.
const COPY: f64 = 0.1;
const COPY_LARGE: f64 = 0.8;
/// What a change of host must gain, times the guest's own cost of moving: next to nothing, so that of two layouts
/// alike the nearer one is taken.
const CHANGE: f64 = 0.002;
/// The prices of the descent's levels, as multiples of the last; the last level is there twice, and the second time
/// every guest looks at every host.
const LEVELS: [(f64, Look); 4] = [(16.0, Look::Few), (4.0, Look::Few), (1.0, Look::Few), (1.0, Look::Last)];
/// A level ends when a sweep gains less than this, or moves less than this share of the guests, or after so many.
const SWEEP_GAIN_MIN: f64 = 1e-3;
const SWEEP_MOVES_MIN: f64 = 1.0 / 300.0;
const SWEEPS_MAX: usize = 30;
/// Smaller gains are rounding errors.
const GAIN_MIN: f64 = 1e-7;
/// Random tries: for each guest, and in large clusters fewer.
const TRIES: f64 = 600.0;
const TRIES_LARGE: f64 = 30.0;
const TRIES_LARGE_FROM: f64 = 1.5e6;
/// A move that is so much worse is accepted in one of e (2.7) cases, at first and at last.
const WARM: f64 = 2e-3;
const COLD: f64 = 1e-5;
/// So many of 16 tries are single moves, the others are pairs.
const SINGLE_OF_16: usize = 4;
/// How many hosts a guest looks at in a quick sweep: enough to find a good one, few enough to be quick.
const FEW_TARGETS: usize = 12;
/// With more hosts than `ALL_TARGETS`, the last sweeps look at `SOME_TARGETS` of them, always the same.
const ALL_TARGETS: usize = 100;
const SOME_TARGETS: usize = 32;

/// So many guests look at the same few hosts.
const NEIGHBOURS: usize = 64;

/// Where a guest looks in a sweep.
#[derive(Clone, Copy)]
enum Look {
    /// At a few hosts, others in each sweep.
    Few,
    /// At all, or in large clusters at the same ones each time.
    Last,
}

pub(super) struct Thorough<'s, 'p, const K: usize> {
    state: &'s mut State<'p, K>,
    start: Vec<Seat>,
    movable: Vec<usize>,
    random: Random,
    price: Price,
    copy: f64,
    tries: usize,
}

/// Which gains count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Worth {
    /// At this score or less, a move that gains less than `gain_min` is none.
    pub small_score: f64,
    pub gain_min: f64,
}

impl Worth {
    /// What the next move must gain at a score.
    fn least(&self, score: f64) -> f64 {
        if score <= self.small_score { self.gain_min.max(GAIN_MIN) } else { GAIN_MIN }
    }
}

/// Plans from where the state is.
pub(super) fn plan<const K: usize>(state: &State<'_, K>, settings: &Settings, worth: Worth) -> Vec<Step> {
    let steps = match small::is_small(state) {
        true => small::plan(state, settings, worth),
        false => search(&mut state.clone(), settings, worth.least(state.value), 1.0),
    };
    match settings.moves_max {
        Some(most) if steps.len() > most => short::plan(state, settings, steps, most),
        Some(_) | None => steps,
    }
}

/// Searches from where the state is, and leaves it where the plan ends. No steps when no single move gains so much
/// beyond its price. `dear`: by what the usual price of a copy is multiplied.
fn search<const K: usize>(
    state: &mut State<'_, K>,
    settings: &Settings,
    gain_min: f64,
    dear: f64,
) -> Vec<Step> {
    let start = state.seats.clone();
    let mut search = Thorough::new(state, settings, dear);
    if search.is_settled(gain_min) {
        return Vec::new();
    }
    search.descend();
    search.anneal();
    search.sweeps();
    let goal = search.state.seats.clone();
    let mut back = State::new(search.state.p, &start);
    let mut way = order::to_goal(&mut back, &goal);
    search.state.clone_from(&back);
    search.state.renew();
    way.steps.extend(search.sweeps());
    way.steps
}

impl<'s, 'p, const K: usize> Thorough<'s, 'p, K> {
    fn new(state: &'s mut State<'p, K>, settings: &Settings, dear: f64) -> Self {
        let start = state.seats.clone();
        let movable: Vec<usize> = (0..start.len()).filter(|guest| state.p.guests[*guest].movable).collect();
        let hosts = state.p.targets.len().max(1) as f64;
        let copy = dear * (COPY / hosts.sqrt()).min(COPY_LARGE / hosts);
        let price = Price::FromStart { seats: start.clone(), copy, change: CHANGE };
        let tries = tries(movable.len()) * settings.effort;
        Thorough {
            state,
            start,
            movable,
            random: Random::new(settings.seed),
            price,
            copy,
            tries: tries as usize,
        }
    }

    /// Whether no single move gains what it costs.
    fn is_settled(&self, gain_min: f64) -> bool {
        let gains =
            |guest: &usize| self.best(*guest, Look::Last, 0).is_some_and(|found| found.delta < -gain_min);
        !self.movable.par_iter().any(gains)
    }

    fn best(&self, guest: usize, look: Look, sweep: usize) -> Option<Found> {
        let targets = &self.state.p.targets;
        let (all, some) = match look {
            Look::Few => (FEW_TARGETS, FEW_TARGETS),
            Look::Last => (ALL_TARGETS, SOME_TARGETS),
        };
        if targets.len() <= all {
            return self.state.best_within(&self.price, guest, targets);
        }
        // Neighbours look at the same hosts, which are then at hand in the processor's cache.
        let mut random = Random::new(((guest / NEIGHBOURS) as u64) << 16 | sweep as u64);
        let mut few = [0; SOME_TARGETS];
        few[..some].fill_with(|| targets[random.below(targets.len())]);
        self.state.best_within(&self.price, guest, &few[..some])
    }

    /// The best move of each guest, those that gain most first, judged again just before it is made.
    fn sweep(&mut self, look: Look, sweep: usize, steps: &mut Vec<Step>) -> f64 {
        let find = |guest: &usize| Some((*guest, self.best(*guest, look, sweep)?));
        let mut found: Vec<(usize, Found)> =
            self.movable.par_iter().filter_map(find).filter(|(_, found)| found.delta < -GAIN_MIN).collect();
        found.sort_by(|a, b| a.1.delta.total_cmp(&b.1.delta).then(a.0.cmp(&b.0)));
        let mut gained = 0.0;
        for (guest, promised) in found {
            if let Some(found) = self.still(guest, promised, look, sweep) {
                self.state.apply(guest, found.seat);
                steps.push((guest, found.seat));
                gained -= found.delta;
            }
        }
        gained
    }

    /// What a guest's move is worth after the moves before it. When little is left of it, a quick sweep leaves the
    /// guest to the next one, and the last ones look for something better at once. A guest that must leave its host
    /// looks again in any case: what it gains by that hides how full its target got meanwhile.
    fn still(&self, guest: usize, promised: Found, look: Look, sweep: usize) -> Option<Found> {
        if self.state.forcing(self.state.seats[guest]) > 0 {
            return self.best(guest, look, sweep).filter(|found| found.delta < -GAIN_MIN);
        }
        let delta = self.state.delta(&self.price, guest, promised.seat);
        if delta < -GAIN_MIN && delta < 0.5 * promised.delta && self.state.may(guest, promised.seat) {
            return Some(Found { delta, ..promised });
        }
        match look {
            Look::Few => None,
            Look::Last => self.best(guest, look, sweep).filter(|found| found.delta < -GAIN_MIN),
        }
    }

    fn descend(&mut self) {
        for (level, look) in LEVELS {
            self.set_price(level);
            let mut steps = Vec::new();
            for sweep in 1..=SWEEPS_MAX {
                let sweep = match look {
                    Look::Few => sweep,
                    Look::Last => 0,
                };
                let before = steps.len();
                let gained = self.sweep(look, sweep, &mut steps);
                let moved = (steps.len() - before) as f64;
                if gained < SWEEP_GAIN_MIN || moved < SWEEP_MOVES_MIN * self.movable.len() as f64 {
                    break;
                }
            }
        }
    }

    /// Sweeps until no single move gains what it costs.
    fn sweeps(&mut self) -> Vec<Step> {
        self.set_price(1.0);
        let mut steps = Vec::new();
        loop {
            let before = steps.len();
            self.sweep(Look::Last, 0, &mut steps);
            if steps.len() == before {
                return steps;
            }
        }
    }

    fn set_price(&mut self, level: f64) {
        let (copy, change) = (self.copy * level, CHANGE * level);
        self.price = Price::FromStart { seats: self.start.clone(), copy, change };
    }

    fn anneal(&mut self) {
        if self.state.p.targets.is_empty() || self.tries == 0 {
            return;
        }
        let cools = (COLD / WARM).powf(1.0 / self.tries as f64);
        let mut warmth = WARM;
        for _ in 0..self.tries {
            warmth *= cools;
            let guest = self.movable[self.random.below(self.movable.len())];
            if self.random.below(16) < SINGLE_OF_16 {
                self.try_single(guest, warmth);
            } else {
                self.try_pair(guest, warmth);
            }
        }
    }

    fn accepts(&mut self, delta: f64, warmth: f64) -> bool {
        delta <= 0.0 || delta < -warmth * self.random.share().max(f64::MIN_POSITIVE).ln()
    }

    fn try_single(&mut self, guest: usize, warmth: f64) {
        let Some(seat) = self.any_seat(guest) else { return };
        let delta = self.state.delta(&self.price, guest, seat);
        if self.accepts(delta, warmth) && self.state.may(guest, seat) {
            self.state.apply(guest, seat);
        }
    }

    fn any_seat(&mut self, guest: usize) -> Option<Seat> {
        let old = self.state.seats[guest];
        let targets = &self.state.p.targets;
        let host = targets[self.random.below(targets.len())];
        let seat = match self.state.p.guests[guest].storage {
            Storage::Shared | Storage::Local => Seat { host, secondary: NOWHERE },
            Storage::Mirrored => match self.random.below(6) {
                0 | 1 => Seat { host: old.secondary, secondary: old.host },
                2 => Seat { host: old.host, secondary: host },
                3 => Seat { host, secondary: old.host },
                4 => Seat { host: old.secondary, secondary: host },
                _ => Seat { host, secondary: old.secondary },
            },
        };
        (seat != old && seat.host != NOWHERE && seat.host != seat.secondary).then_some(seat)
    }

    fn try_pair(&mut self, a: usize, warmth: f64) {
        let Some(steps) = self.any_pair(a) else { return };
        let price = |(guest, seat): Step| {
            self.state.price(&self.price, guest, seat)
                - self.state.price(&self.price, guest, self.state.seats[guest])
        };
        let delta = self.state.value_after_both(steps) - self.state.value + price(steps[0]) + price(steps[1]);
        if self.accepts(delta, warmth) {
            self.make_both(steps);
        }
    }

    /// Both moves, in whichever order is allowed, or none.
    fn make_both(&mut self, [first, second]: [Step; 2]) {
        for [a, b] in [[first, second], [second, first]] {
            if !self.state.may(a.0, a.1) {
                continue;
            }
            let old = self.state.seats[a.0];
            self.state.apply(a.0, a.1);
            if self.state.may(b.0, b.1) {
                self.state.apply(b.0, b.1);
                return;
            }
            self.state.apply(a.0, old);
        }
    }

    /// Two guests that trade hosts: as primaries, as secondaries, one each, or both swap their roles.
    fn any_pair(&mut self, a: usize) -> Option<[Step; 2]> {
        let b = self.movable[self.random.below(self.movable.len())];
        let (x, y) = (self.state.seats[a], self.state.seats[b]);
        let mirrored = |guest: usize| self.state.p.guests[guest].storage == Storage::Mirrored;
        let (to_x, to_y) = match (mirrored(a), mirrored(b)) {
            (false, false) => (y, x),
            (true, true) => match self.random.below(8) {
                0 | 1 => (Seat { host: y.host, ..x }, Seat { host: x.host, ..y }),
                2 | 3 => (Seat { secondary: y.secondary, ..x }, Seat { secondary: x.secondary, ..y }),
                4 | 5 => (swapped(x), swapped(y)),
                6 => (Seat { host: y.secondary, ..x }, Seat { secondary: x.host, ..y }),
                _ => (
                    Seat { host: x.secondary, secondary: y.host },
                    Seat { host: x.host, secondary: y.secondary },
                ),
            },
            (true, false) | (false, true) => return None,
        };
        let moves = |old: Seat, new: Seat| old != new && new.host != new.secondary && new.host != NOWHERE;
        (a != b && moves(x, to_x) && moves(y, to_y)).then_some([(a, to_x), (b, to_y)])
    }
}

fn tries(guests: usize) -> f64 {
    let guests = guests as f64;
    (TRIES * guests).min(TRIES_LARGE_FROM + TRIES_LARGE * guests)
}

fn swapped(seat: Seat) -> Seat {
    Seat { host: seat.secondary, secondary: seat.host }
}
