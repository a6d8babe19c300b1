//! Plans that may not have more than so many moves.
//!
//! A long plan that is cut is not the best short one: its first moves are on the way to a layout that it does not
//! reach. Beside it the moves that gain most are taken one by one, and the better of the two is the plan.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use rayon::prelude::*;

use super::{GAIN_MIN, Look, Thorough};
use crate::search::Settings;
use crate::search::evaluate::Found;
use crate::search::exchange::Step;
use crate::search::state::State;

/// The better of `long`, cut where it is best within `most` moves, and the moves that gain most.
pub(super) fn plan<const K: usize>(
    state: &State<'_, K>,
    settings: &Settings,
    long: Vec<Step>,
    most: usize,
) -> Vec<Step> {
    let (cut_value, cut) = cut(state, long, most);
    let mut end = state.clone();
    let steps = Thorough::new(&mut end, settings, 1.0).greediest(most);
    if end.value < cut_value { steps } else { cut }
}

/// The first steps of a plan, as many as lead to the best score within `most`, and that score.
fn cut<const K: usize>(state: &State<'_, K>, mut steps: Vec<Step>, most: usize) -> (f64, Vec<Step>) {
    let mut state = state.clone();
    let (mut best, mut count) = (state.value, 0);
    for (taken, (guest, seat)) in steps.iter().take(most).enumerate() {
        state.apply(*guest, *seat);
        if state.value < best {
            (best, count) = (state.value, taken + 1);
        }
    }
    steps.truncate(count);
    (best, steps)
}

/// A guest's best move as it was when it was last looked at; what gains most comes first.
struct Promise {
    guest: usize,
    found: Found,
}

impl Ord for Promise {
    fn cmp(&self, other: &Self) -> Ordering {
        other.found.delta.total_cmp(&self.found.delta).then(other.guest.cmp(&self.guest))
    }
}

impl PartialOrd for Promise {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Promise {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Promise {}

impl<const K: usize> Thorough<'_, '_, K> {
    /// The moves that gain most, one after the other. Each is looked at again before it is made; all guests are
    /// looked at again whenever the plan has doubled its length.
    fn greediest(&mut self, most: usize) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut promises = BinaryHeap::new();
        let mut renew_at = 0;
        while steps.len() < most {
            if steps.len() == renew_at {
                promises = self.promises();
                renew_at = 2 * renew_at.max(1);
            }
            let Some(Promise { guest, .. }) = promises.pop() else { break };
            let Some(found) = self.best(guest, Look::Last, 0).filter(|found| found.delta < -GAIN_MIN) else {
                continue;
            };
            let now = Promise { guest, found };
            if promises.peek().is_some_and(|next| *next > now) {
                promises.push(now);
                continue;
            }
            self.state.apply(guest, found.seat);
            steps.push((guest, found.seat));
            promises.push(now);
        }
        steps
    }

    fn promises(&self) -> BinaryHeap<Promise> {
        let look = |guest: &usize| Some(Promise { guest: *guest, found: self.best(*guest, Look::Last, 0)? });
        let found: Vec<Promise> = self.movable.par_iter().filter_map(look).collect();
        found.into_iter().filter(|promise| promise.found.delta < -GAIN_MIN).collect()
    }
}
