//! Finding a better layout, and the way there.
//!
//! An objective gives its [`Terms`] once; they are packed for speed (`packed`), and a state (`state`) keeps every sum
//! that the score needs, so that the score after a move is computed from the hosts that it touches (`evaluate`,
//! `exchange`). On top of that stand two ways to plan: `thorough` looks for the best layout there is, `careful` for
//! the few moves that are worth their cost. `order` finds a way by allowed moves.
//!
//! The same input gives the same plan, however many threads there are: threads only look, and what they found is
//! taken in a fixed order; what is random comes from a seed.

mod careful;
#[expect(clippy::needless_range_loop, reason = "a lane of one array goes with the same lane of others")]
mod evaluate;
mod exchange;
mod moves;
mod order;
mod packed;
mod random;
pub mod sample;
mod scores;
#[expect(clippy::needless_range_loop, reason = "a lane of one array goes with the same lane of others")]
mod state;
#[cfg(test)]
mod tests;
mod thorough;

use packed::{NOWHERE, Packed};
use state::{Seat, State};

use crate::objective::{Manner, Objective, Terms};
use crate::snapshot::{GuestIx, HostIx, Place, Snapshot};

pub use moves::{Move, MoveCost, MoveStep, batches};
pub use scores::{Scores, with_scores};

/// How much is tried.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// No plan has more moves. `None`: as many as it takes.
    pub moves_max: Option<usize>,
    /// How long to search beyond what single moves find: 0 not at all, 1 as usual.
    pub effort: f64,
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { moves_max: None, effort: 1.0, seed: 1 }
    }
}

/// A plan: moves in order, each judged against what the moves before it leave.
#[derive(Debug, Clone, PartialEq)]
pub struct Balance {
    pub score_before: f64,
    pub score_after: f64,
    pub moves: Vec<ScoredMove>,
    /// Where every guest is after the last move.
    pub places: Vec<Option<Place>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoredMove {
    pub step: Move,
    pub score_before: f64,
    pub score_after: f64,
    /// `score_before - score_after`.
    pub gain: f64,
    pub cost: MoveCost,
    /// What the move costs, in units of the score.
    pub price: f64,
}

/// A way from one set of places to another.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    pub moves: Vec<Move>,
    /// Moves for which there was no way that broke nothing.
    pub dropped: Vec<Move>,
}

/// A better layout and the way there; no moves when there is none that is worth it.
pub fn balance(snapshot: &Snapshot, objective: &dyn Objective, settings: &Settings) -> Balance {
    let mut seats = seats(snapshot.guests.iter().map(|guest| guest.place));
    let mut balance = Balance { score_before: 0.0, score_after: 0.0, moves: Vec::new(), places: Vec::new() };
    for terms in objective.terms(snapshot) {
        let moves_max = settings.moves_max.map(|most| most.saturating_sub(balance.moves.len()));
        let settings = Settings { moves_max, ..settings.clone() };
        let task = Task::Balance { manner: objective.manner(), settings: &settings };
        let part = run(terms, &seats, &task);
        balance.score_before += part.score_before;
        balance.score_after += part.score_after;
        for scored in &part.steps {
            balance.moves.push(scored.with_cost(snapshot, seats[scored.guest]));
            seats[scored.guest] = scored.seat;
        }
    }
    balance.places = seats.into_iter().map(place).collect();
    balance
}

/// What the objective says of a layout, computed from scratch.
pub fn score(snapshot: &Snapshot, objective: &dyn Objective, places: &[Option<Place>]) -> f64 {
    let seats = seats(places.iter().copied());
    objective.terms(snapshot).into_iter().map(|terms| run(terms, &seats, &Task::Score).score_after).sum()
}

/// The moves from one layout to another in an order in which none breaks a limit or a `must` rule on the way. Guests
/// that stand in each other's way step aside; what cannot go even so is dropped.
pub fn order(
    snapshot: &Snapshot,
    objective: &dyn Objective,
    from: &[Option<Place>],
    to: &[Option<Place>],
) -> Order {
    let mut seats = seats(from.iter().copied());
    let goal: Vec<Seat> = self::seats(to.iter().copied());
    let mut moves = Vec::new();
    for mut terms in objective.terms(snapshot) {
        // Who asks for a move wants it, whether the guest may be moved to balance or not.
        for (guest, (now, goal)) in terms.guests.iter_mut().zip(seats.iter().zip(&goal)) {
            guest.movable = now != goal && goal.host != NOWHERE;
        }
        for step in run(terms, &seats, &Task::Order { goal: &goal }).steps {
            moves.extend(move_of(step.guest, seats[step.guest], step.seat));
            seats[step.guest] = step.seat;
        }
    }
    let left = (0..seats.len()).filter(|guest| seats[*guest] != goal[*guest]);
    let dropped = left.filter_map(|guest| move_of(guest, seats[guest], goal[guest])).collect();
    Order { moves, dropped }
}

enum Task<'a> {
    Balance { manner: Manner, settings: &'a Settings },
    Order { goal: &'a [Seat] },
    Score,
}

/// What was done in one part of the cluster.
struct Part {
    score_before: f64,
    score_after: f64,
    steps: Vec<ScoredStep>,
}

struct ScoredStep {
    guest: usize,
    seat: Seat,
    score_before: f64,
    score_after: f64,
    price: f64,
}

impl ScoredStep {
    fn with_cost(&self, snapshot: &Snapshot, from: Seat) -> ScoredMove {
        let nowhere = Place { host: HostIx(NOWHERE), secondary: None };
        let step = Move {
            guest: GuestIx(self.guest as u32),
            from: place(from).unwrap_or(nowhere),
            to: place(self.seat).unwrap_or(nowhere),
        };
        ScoredMove {
            step,
            score_before: self.score_before,
            score_after: self.score_after,
            gain: self.score_before - self.score_after,
            cost: step.cost(snapshot),
            price: self.price,
        }
    }
}

fn run(terms: Terms, seats: &[Seat], task: &Task<'_>) -> Part {
    match packed::lanes(&terms) {
        0..=4 => run_with::<4>(terms, seats, task),
        5..=8 => run_with::<8>(terms, seats, task),
        _ => run_with::<16>(terms, seats, task),
    }
}

fn run_with<const K: usize>(terms: Terms, seats: &[Seat], task: &Task<'_>) -> Part {
    let packed = Packed::<K>::new(terms);
    let mut state = State::new(&packed, seats);
    let steps = match task {
        Task::Score => Vec::new(),
        Task::Order { goal } => order::to_goal(&mut state, goal).steps,
        Task::Balance { manner: Manner::Careful { gain_min }, settings } => {
            let before = state.value;
            let steps = careful::plan(&mut state, settings);
            if before - state.value < *gain_min { Vec::new() } else { steps }
        }
        Task::Balance { manner: Manner::Thorough { good_enough, small_score, gain_min }, settings } => {
            let worth = thorough::Worth { small_score: *small_score, gain_min: *gain_min };
            if state.value <= packed.terms.bound + good_enough {
                Vec::new()
            } else {
                thorough::plan(&state, settings, worth)
            }
        }
    };
    replay(&packed, seats, steps)
}

/// Takes the steps again from the beginning, and says what each does to the score.
fn replay<const K: usize>(packed: &Packed<K>, seats: &[Seat], steps: Vec<exchange::Step>) -> Part {
    let mut state = State::new(packed, seats);
    let score_before = state.value;
    let each = evaluate::Price::EachMove;
    let mut scored = Vec::with_capacity(steps.len());
    for (guest, seat) in steps {
        let price = state.price(&each, guest, seat);
        let before = state.value;
        state.apply(guest, seat);
        scored.push(ScoredStep { guest, seat, score_before: before, score_after: state.value, price });
    }
    state.renew();
    if let Some(last) = scored.last_mut() {
        last.score_after = state.value;
    }
    Part { score_before, score_after: state.value, steps: scored }
}

fn seats(places: impl Iterator<Item = Option<Place>>) -> Vec<Seat> {
    let seat = |place: Place| Seat {
        host: place.host.0,
        secondary: place.secondary.map_or(NOWHERE, |secondary| secondary.0),
    };
    places.map(|place| place.map_or(Seat::NOWHERE, seat)).collect()
}

fn place(seat: Seat) -> Option<Place> {
    let secondary = Some(seat.secondary).filter(|host| *host != NOWHERE).map(HostIx);
    (seat.host != NOWHERE).then_some(Place { host: HostIx(seat.host), secondary })
}

fn move_of(guest: usize, from: Seat, to: Seat) -> Option<Move> {
    Some(Move { guest: GuestIx(guest as u32), from: place(from)?, to: place(to)? })
}
