//! Small clusters: the plainest plan there is, and the search beside it.
//!
//! In a small cluster one copy does much to the score, and trying everything costs nothing. So there are several
//! plans: the one that takes the best single move of all, again and again, as hbal does, within soft limits where that
//! can be and without regard to them; the search's; and that of a search to which copies are free. The searches go on from where they ended until no single move gains anything,
//! whatever it copies. The lowest score is taken, and of two alike the plainer plan; which is taken in any case when
//! it ends with a score that is small, for few moves are worth more then than what is left.

use rayon::prelude::*;

use super::{GAIN_MIN, Worth, search};
use crate::search::Settings;
use crate::search::evaluate::{Found, Price};
use crate::search::exchange::Step;
use crate::search::state::State;

/// Guests times hosts of a small cluster.
const SMALL: usize = 1_000;

pub(super) fn is_small<const K: usize>(state: &State<'_, K>) -> bool {
    state.seats.len() * state.p.targets.len() <= SMALL
}

pub(super) fn plan<const K: usize>(state: &State<'_, K>, settings: &Settings, worth: Worth) -> Vec<Step> {
    let mut plain = state.clone();
    let plain_steps = descend(&mut plain, worth, State::best_within);
    if plain_steps.is_empty() || plain.value <= worth.small_score {
        return plain_steps;
    }
    let (mut best, mut steps) = (plain.value, plain_steps);
    let mut offer = |end: State<'_, K>, way: Vec<Step>| {
        if end.value < best - GAIN_MIN {
            (best, steps) = (end.value, way);
        }
    };
    for dear in [1.0, 0.0] {
        let mut end = state.clone();
        let mut way = search(&mut end, settings, worth.least(state.value), dear);
        way.extend(descend(&mut end, worth, State::best_within));
        offer(end, way);
    }
    // A guest that must leave its host may have to break a soft limit at first, so that others can go.
    let mut end = state.clone();
    let way = descend(&mut end, worth, State::best);
    offer(end, way);
    steps
}

/// The best move of a guest to one of the targets.
type Best<'p, const K: usize> = fn(&State<'p, K>, &Price, usize, &[u32]) -> Option<Found>;

/// The best single move of all, until none is worth it.
fn descend<'p, const K: usize>(state: &mut State<'p, K>, worth: Worth, best_of: Best<'p, K>) -> Vec<Step> {
    let mut steps = Vec::new();
    let free = Price::free();
    loop {
        let look = |guest: usize| Some((guest, best_of(state, &free, guest, &state.p.targets)?));
        let better =
            |a: &(usize, Found), b: &(usize, Found)| a.1.delta.total_cmp(&b.1.delta).then(a.0.cmp(&b.0));
        let best = (0..state.seats.len()).into_par_iter().filter_map(look).min_by(better);
        let least = worth.least(state.value);
        let Some((guest, found)) = best.filter(|(_, found)| found.delta < -least) else { return steps };
        state.apply(guest, found.seat);
        steps.push((guest, found.seat));
    }
}
