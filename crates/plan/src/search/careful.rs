//! A few moves, each of which gains more than it costs.
//!
//! The best single move of all, again and again, until none gains what it costs. Each move is judged against the
//! layout that the moves before it leave, and pays for itself; so the plan may be cut short anywhere, and a plan that
//! was carried out is followed by none.
//!
//! In small clusters every guest is looked at anew before each move. In large ones that would be nearly all of the
//! work, and nearly all of it for nothing: there the guests wait in a queue, those that gained most when they were
//! last looked at first, and only the one whose turn it is is looked at anew. If it is still the best it moves, else
//! it goes back into the queue. What a move made better for others is found when the queue is empty and everybody is
//! looked at again, which ends only when nobody gains. Guests that can gain nothing, whatever their target, are
//! passed over without trying any (`hope`): where little is to be done that is nearly all of them.

#[expect(clippy::needless_range_loop, reason = "a lane of one array goes with the same lane of others")]
pub(super) mod hope;

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use rayon::prelude::*;

use super::Settings;
use super::evaluate::Price;
use super::exchange::Step;
use super::state::{Seat, State};
use hope::Hopes;

/// Smaller gains are rounding errors.
const GAIN_MIN: f64 = 1e-7;
/// No plan needs more moves for each guest; it would turn in circles on rounding errors.
const MOVES_FOR_EACH: usize = 4;
/// With so many pairs of a guest and a target, a look at all of them takes a millisecond.
const SMALL: usize = 10_000;
/// So many guests are looked at by one thread at a time.
const AT_ONCE: usize = 32;

/// Plans from where the state is, and leaves it where the plan ends.
pub(super) fn plan<const K: usize>(state: &mut State<'_, K>, settings: &Settings) -> Vec<Step> {
    let movable: Vec<usize> = (0..state.seats.len()).filter(|guest| state.p.guests[*guest].movable).collect();
    let most = settings.moves_max.unwrap_or(usize::MAX).min(movable.len() * MOVES_FOR_EACH);
    let small = movable.len() * state.p.targets.len() <= SMALL;
    let mut steps = Vec::new();
    loop {
        // Sums as the next plan will have them, so that it finds nothing that this one did not.
        state.renew();
        let before = steps.len();
        round(state, &movable, if small { most.min(before + 1) } else { most }, &mut steps);
        if steps.len() == before || steps.len() == most {
            return steps;
        }
    }
}

/// A guest and the best that it can do.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    /// Of score and price together; negative: better.
    delta: f64,
    guest: usize,
    seat: Seat,
    /// How many moves had been made when it was judged.
    after: usize,
}

/// The greatest is the one that gains most; of two alike, the first guest.
impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        other.delta.total_cmp(&self.delta).then(other.guest.cmp(&self.guest))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

/// Looks at everybody, and moves whoever gains, until nobody of them does or there are `most` steps.
fn round<const K: usize>(state: &mut State<'_, K>, movable: &[usize], most: usize, steps: &mut Vec<Step>) {
    let mut hopes = Hopes::new(state);
    let all = movable.par_iter().with_min_len(AT_ONCE);
    let found: Vec<Candidate> = all.filter_map(|guest| look(state, &hopes, *guest, steps.len())).collect();
    let mut queue = BinaryHeap::from(found);
    while steps.len() < most {
        let Some(first) = queue.pop() else { return };
        if first.after == steps.len() {
            state.apply(first.guest, first.seat);
            steps.push((first.guest, first.seat));
            hopes = Hopes::new(state);
        }
        queue.extend(look(state, &hopes, first.guest, steps.len()));
    }
}

fn look<const K: usize>(
    state: &State<'_, K>,
    hopes: &Hopes<K>,
    guest: usize,
    after: usize,
) -> Option<Candidate> {
    if hopes.of(state, guest) >= -GAIN_MIN {
        return None;
    }
    let found = state.best(&Price::EachMove, guest, &state.p.targets)?;
    (found.delta < -GAIN_MIN).then_some(Candidate { delta: found.delta, guest, seat: found.seat, after })
}
