//! From one layout to another by allowed moves only.
//!
//! The search goes its own long way; the plan does not repeat it. Guests that end where they began are left alone,
//! and the others go in rounds: in each round every guest that may go takes its step, those that gain most first,
//! and each step is looked at again just before it is taken. When nobody may go, somebody steps aside: a guest takes
//! the least bad seat that it may, and goes on from there later. What still cannot go is dropped and named.

use super::evaluate::Price;
use super::exchange::Step;
use super::packed::NOWHERE;
use super::state::{Seat, State};

pub(super) struct Way {
    pub steps: Vec<Step>,
    /// Guests that do not reach their goal.
    pub dropped: Vec<usize>,
}

/// How many guests may step aside before the rest is dropped.
const ASIDE_MAX: usize = 64;

/// Takes the state from where it is to the goal, as far as moves are allowed.
pub(super) fn to_goal<const K: usize>(state: &mut State<'_, K>, goal: &[Seat]) -> Way {
    let mut way = Way { steps: Vec::new(), dropped: Vec::new() };
    let mut pending: Vec<usize> =
        (0..goal.len()).filter(|guest| state.seats[*guest] != goal[*guest]).collect();
    let mut aside = vec![false; goal.len()];
    let mut asides = 0;
    while !pending.is_empty() {
        if round(state, goal, &pending, &mut way) == 0 {
            let stuck = asides == ASIDE_MAX || !step_aside(state, goal, &pending, &mut aside, &mut way);
            if stuck {
                break;
            }
            asides += 1;
        }
        pending.retain(|guest| state.seats[*guest] != goal[*guest]);
    }
    way.dropped = pending;
    way
}

/// Every pending guest that may go takes a step. Returns how many did.
fn round<const K: usize>(state: &mut State<'_, K>, goal: &[Seat], pending: &[usize], way: &mut Way) -> usize {
    let free = Price::free();
    let next = pending.iter().filter_map(|guest| Some((*guest, hop(state, *guest, goal[*guest])?)));
    let mut steps: Vec<(f64, Step)> =
        next.map(|(guest, seat)| (state.delta(&free, guest, seat), (guest, seat))).collect();
    steps.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.0.cmp(&b.1.0)));
    let mut taken = 0;
    for (_, (guest, _)) in steps {
        if let Some(seat) = hop(state, guest, goal[guest]) {
            state.apply(guest, seat);
            way.steps.push((guest, seat));
            taken += 1;
        }
    }
    taken
}

/// The next seat on a guest's way that it may take now.
fn hop<const K: usize>(state: &State<'_, K>, guest: usize, goal: Seat) -> Option<Seat> {
    let now = state.seats[guest];
    if now == goal {
        return None;
    }
    let shares = goal.secondary == NOWHERE || now.has(goal.host) || now.has(goal.secondary);
    if shares {
        return state.may(guest, goal).then_some(goal);
    }
    // Both hosts are new: one after the other, the primary first, because that migrates once only.
    let half = [
        Seat { host: goal.host, secondary: now.host },
        Seat { host: now.host, secondary: goal.secondary },
        Seat { host: goal.host, secondary: now.secondary },
        Seat { host: now.secondary, secondary: goal.secondary },
    ];
    half.into_iter().find(|seat| state.may(guest, *seat))
}

/// One guest takes the least bad seat that it may, so that others can go. Each does so once at most.
fn step_aside<const K: usize>(
    state: &mut State<'_, K>,
    goal: &[Seat],
    pending: &[usize],
    aside: &mut [bool],
    way: &mut Way,
) -> bool {
    let free = Price::free();
    for guest in pending {
        if aside[*guest] {
            continue;
        }
        aside[*guest] = true;
        let found = state.best(&free, *guest, &state.p.targets);
        if let Some(found) = found.filter(|found| found.seat != goal[*guest]) {
            state.apply(*guest, found.seat);
            way.steps.push((*guest, found.seat));
            return true;
        }
    }
    false
}
