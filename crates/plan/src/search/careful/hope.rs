//! What a guest can hope for: a bound of what any move of it can gain, without trying its targets.
//!
//! A move changes its old hosts, which is computed exactly for each kind of move, and one new host, of which only the
//! best imaginable is taken: for each lane by itself the emptiest host that there is, no knee, no shortage, and every
//! rule mended that the guest has a part in breaking. What remains below the price of the move is no move.
//!
//! The bound rests on loads and costs that are never negative, which Kennel's own objective keeps.

use super::super::evaluate::Price;
use super::super::packed::NOWHERE;
use super::super::state::{Acc, Seat, State};
use crate::snapshot::Storage;

/// Rounding errors of sums that are computed in another order.
const SLACK: f64 = 1e-9;

/// The best of each lane over all targets.
pub(in crate::search) struct Hopes<const K: usize> {
    /// Scale times value, the least.
    least: [f64; K],
    scale_min: [f64; K],
    scale_max: [f64; K],
    /// By how little a target's reserve differs from the mean below it; 0 or less.
    reserve_least: f64,
    reserve_scale_max: f64,
}

/// What the guest becomes on its new host.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Primary,
    Secondary,
}

impl<const K: usize> Hopes<K> {
    pub fn new(state: &State<'_, K>) -> Self {
        let mut hopes = Hopes {
            least: [f64::MAX; K],
            scale_min: [f64::MAX; K],
            scale_max: [0.0; K],
            reserve_least: 0.0,
            reserve_scale_max: 0.0,
        };
        for at in &state.p.targets {
            let (host, now) = (&state.p.hosts[*at as usize], &state.hosts[*at as usize]);
            // Where nothing is counted, nothing gets worse.
            let counts = if host.counted { 1.0 } else { 0.0 };
            for (k, x) in now.x.iter().enumerate() {
                let scale = host.scale[k] * counts;
                hopes.least[k] = hopes.least[k].min(scale * x);
                hopes.scale_min[k] = hopes.scale_min[k].min(scale);
                hopes.scale_max[k] = hopes.scale_max[k].max(scale);
            }
            hopes.reserve_least = hopes.reserve_least.min(now.x[0] * counts);
            hopes.reserve_scale_max = hopes.reserve_scale_max.max(host.reserve_scale * counts);
        }
        hopes
    }

    /// No move of the guest does less to score and price together.
    pub fn of(&self, state: &State<'_, K>, guest: usize) -> f64 {
        let old = state.seats[guest];
        if old.host == NOWHERE || state.p.targets.is_empty() {
            return 0.0;
        }
        match state.p.guests[guest].storage {
            Storage::Shared | Storage::Local => self.kind(state, guest, Seat::NOWHERE, Role::Primary),
            Storage::Mirrored if old.secondary == NOWHERE => 0.0,
            Storage::Mirrored => {
                let swap = Seat { host: old.secondary, secondary: old.host };
                let mut hope = state.delta(&Price::EachMove, guest, swap) - SLACK;
                for stays in [old.host, old.secondary] {
                    let beside = Seat { host: NOWHERE, secondary: stays };
                    hope = hope.min(self.kind(state, guest, beside, Role::Primary));
                    let behind = Seat { host: stays, secondary: NOWHERE };
                    hope = hope.min(self.kind(state, guest, behind, Role::Secondary));
                }
                hope
            }
        }
    }

    /// The same for moves of one kind: `seat` is where the guest goes, with nobody for the new host.
    fn kind(&self, state: &State<'_, K>, guest: usize, seat: Seat, role: Role) -> f64 {
        let old = state.seats[guest];
        let mut acc = state.acc;
        for change in state.changes(guest, seat).as_slice() {
            state.touch(&mut acc, change);
        }
        // Of the new place only what is known of it costs.
        acc.linear += state.home(guest, seat) - state.home(guest, old);
        if seat.host == NOWHERE {
            acc.linear -= state.mendable(guest);
        } else {
            acc.linear += state.group_delta(guest, old.host, seat.host);
        }
        self.price_least(state, guest, seat) + self.score_least(state, guest, seat, &acc, role)
            - state.value
            - SLACK
    }

    /// What a move of this kind costs; it is the same for every new host.
    fn price_least(&self, state: &State<'_, K>, guest: usize, seat: Seat) -> f64 {
        let old = state.seats[guest];
        // Some host that is not one of the old ones.
        let fresh = (0..3).find(|host| !old.has(*host)).unwrap_or(0);
        let named = |host: u32| if host == NOWHERE { fresh } else { host };
        let secondary = if old.secondary == NOWHERE { NOWHERE } else { named(seat.secondary) };
        state.price(&Price::EachMove, guest, Seat { host: named(seat.host), secondary })
    }

    /// The least that the score can be after the new host's part was added to the sums.
    fn score_least(&self, state: &State<'_, K>, guest: usize, seat: Seat, acc: &Acc<K>, role: Role) -> f64 {
        let (p, g) = (state.p, &state.p.guests[guest]);
        let lanes = match role {
            Role::Primary => &g.primary,
            Role::Secondary => &g.secondary,
        };
        let n = p.over_counted;
        let mut score = acc.linear;
        for k in 1..K {
            let add = lanes[k];
            let square = acc.square[k] + 2.0 * add * self.least[k] + (add * self.scale_min[k]).powi(2);
            let (low, high) = (acc.sum[k] + add * self.scale_min[k], acc.sum[k] + add * self.scale_max[k]);
            score += p.weights[k] * spread(square * n, low * n, high * n);
        }
        // The new secondary's reserve grows by what the guest needs at most, and so does that of the host that stays
        // when the primary behind it is another one.
        let (mut square, mut high) = (acc.square[0], acc.sum[0]);
        if role == Role::Secondary {
            let grows = g.needs * self.reserve_scale_max;
            square += 2.0 * grows * self.reserve_least;
            high += grows;
        } else if seat.secondary != NOWHERE {
            square += self.reserve_that_stays(state, guest, seat.secondary);
            high += 2.0 * g.needs * p.hosts[seat.secondary as usize].reserve_scale;
        }
        score + p.weights[0] * spread(square * n, acc.sum[0] * n, high * n)
    }

    /// What the new primary can do at the best to the square of the reserve of the host that stays as secondary,
    /// beside what it is without any.
    fn reserve_that_stays(&self, state: &State<'_, K>, guest: usize, stays: u32) -> f64 {
        let (old, needs) = (state.seats[guest], state.p.guests[guest].needs);
        let (host, now) = (&state.p.hosts[stays as usize], &state.hosts[stays as usize]);
        if !host.counted {
            return 0.0;
        }
        let lose = if old.secondary == stays { old.host } else { NOWHERE };
        let without =
            now.x[0] + (state.res_after(stays, needs, lose, NOWHERE) - now.res) * host.reserve_scale;
        // Somewhere between this and `needs` more than the heaviest loss now.
        let most = now.x[0] + needs * host.reserve_scale;
        let nearest = 0f64.clamp(without.min(most), most.max(without));
        nearest * nearest - without * without
    }
}

/// The least standard deviation with this mean of squares and a mean between `low` and `high`.
fn spread(square: f64, low: f64, high: f64) -> f64 {
    (square - (low * low).max(high * high)).max(0.0).sqrt()
}
