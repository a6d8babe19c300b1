//! A few moves, each of which gains more than it costs.
//!
//! The best single move of all, again and again, until none gains what it costs. Each move is judged against the
//! layout that the moves before it leave, and pays for itself; so the plan may be cut short anywhere, and a plan that
//! was carried out is followed by none.

use rayon::prelude::*;

use super::Settings;
use super::evaluate::{Found, Price};
use super::exchange::Step;
use super::state::State;

/// Smaller gains are rounding errors.
const GAIN_MIN: f64 = 1e-7;
/// No plan needs more moves for each guest; it would turn in circles on rounding errors.
const MOVES_FOR_EACH: usize = 4;

/// Plans from where the state is, and leaves it where the plan ends.
pub(super) fn plan<const K: usize>(state: &mut State<'_, K>, settings: &Settings) -> Vec<Step> {
    let movable: Vec<usize> = (0..state.seats.len()).filter(|guest| state.p.guests[*guest].movable).collect();
    let most = settings.moves_max.unwrap_or(usize::MAX).min(movable.len() * MOVES_FOR_EACH);
    let mut steps = Vec::new();
    while steps.len() < most {
        let look = |guest: &usize| Some((*guest, state.best(&Price::EachMove, *guest, &state.p.targets)?));
        let better =
            |a: &(usize, Found), b: &(usize, Found)| a.1.delta.total_cmp(&b.1.delta).then(a.0.cmp(&b.0));
        let best = movable.par_iter().filter_map(look).min_by(better);
        let Some((guest, found)) = best.filter(|(_, found)| found.delta < -GAIN_MIN) else { break };
        state.apply(guest, found.seat);
        steps.push((guest, found.seat));
    }
    steps
}
