//! A layout and its score, kept in step: what placing, draining, proposing and explaining work on.
//!
//! A guest moves in steps, and between two steps it is somewhere too: [`Scene::obstacle_on_the_way`] judges each of
//! these places, so that whatever is planned here never breaks a limit on the way.

use crate::layout::{Layout, Obstacle};
use crate::objective::Objective;
use crate::objective::kennel::Kennel;
use crate::search::{self, Move, MoveStep, Scores};
use crate::snapshot::{GuestIx, Place, Snapshot};

pub(crate) struct Scene<'s, 'a> {
    layout: Layout<'a>,
    scores: &'s mut dyn Scores,
    /// The promise to survive a loss still counts in the score, and stands in nobody's way.
    pub forced: bool,
}

/// Lets `look` try moves from where the snapshot's guests are.
pub(crate) fn with_scene<R>(snapshot: &Snapshot, look: impl FnOnce(&mut Scene<'_, '_>) -> R) -> R {
    let layout = Layout::new(snapshot);
    let places = layout.places().to_vec();
    let terms = Kennel.terms(snapshot).into_iter().next().unwrap_or_default();
    search::with_scores(terms, &places, |scores| look(&mut Scene { layout, scores, forced: false }))
}

impl<'a> Scene<'_, 'a> {
    pub fn snapshot(&self) -> &'a Snapshot {
        self.layout.snapshot()
    }

    pub fn layout(&self) -> &Layout<'a> {
        &self.layout
    }

    pub fn place(&self, guest: GuestIx) -> Option<Place> {
        self.layout.place(guest)
    }

    pub fn put(&mut self, guest: GuestIx, place: Place) {
        self.scores.put(guest, place);
        self.layout.put(guest, Some(place));
    }

    /// Lower is better.
    pub fn score(&self) -> f64 {
        self.scores.score()
    }

    /// The score with the guest there, whether it may go there or not.
    pub fn score_after(&self, guest: GuestIx, place: Place) -> f64 {
        self.scores.after(guest, place)
    }

    /// What bringing the guest there costs, in units of the score.
    pub fn price(&self, guest: GuestIx, place: Place) -> f64 {
        self.scores.price(guest, place)
    }

    /// Why a guest may not be put somewhere at once.
    pub fn obstacle(&self, guest: GuestIx, place: Place) -> Option<Obstacle> {
        obstacle(&self.layout, guest, place, self.forced)
    }

    /// Why a guest may not go to a place, at its end or at a step before; and the place that is refused. A guest
    /// that is nowhere goes there at once.
    pub fn obstacle_on_the_way(&mut self, guest: GuestIx, to: Place) -> Option<(Place, Obstacle)> {
        let Some(from) = self.layout.place(guest) else {
            return self.obstacle(guest, to).map(|obstacle| (to, obstacle));
        };
        let forced = self.forced;
        obstacle_on_the_way(&mut self.layout, Move { guest, from, to }, forced)
    }
}

/// A layout names the promise only when nothing else stands in the way.
fn obstacle(layout: &Layout<'_>, guest: GuestIx, place: Place, forced: bool) -> Option<Obstacle> {
    let of_promise = |obstacle: &Obstacle| matches!(obstacle, Obstacle::TakeOver { .. });
    layout.obstacle(guest, place).filter(|obstacle| !forced || !of_promise(obstacle))
}

/// The first place of a move that is refused, and why. A step on the way may break a rule that neither end of the
/// move breaks. The layout is left as it was.
pub(crate) fn obstacle_on_the_way(
    layout: &mut Layout<'_>,
    step: Move,
    forced: bool,
) -> Option<(Place, Obstacle)> {
    let mut found = None;
    for place in stops(step, layout.snapshot()) {
        if let Some(obstacle) = obstacle(layout, step.guest, place, forced) {
            found = Some((place, obstacle));
            break;
        }
        layout.put(step.guest, Some(place));
    }
    layout.put(step.guest, Some(step.from));
    found
}

/// Where a guest is after each step of a move; the last one is where it goes, even if no step leads there.
fn stops(step: Move, snapshot: &Snapshot) -> Vec<Place> {
    let mut at = step.from;
    let mut stops: Vec<Place> = Vec::new();
    for part in step.steps(snapshot) {
        at = match (part, at.secondary) {
            (MoveStep::SwapRoles, Some(secondary)) => Place { host: secondary, secondary: Some(at.host) },
            (MoveStep::SwapRoles, None) => at,
            (MoveStep::ReplaceSecondary { to }, _) => Place { host: at.host, secondary: Some(to) },
            (MoveStep::Migrate { to }, _) => Place { host: to, secondary: None },
        };
        stops.push(at);
    }
    if stops.last() != Some(&step.to) {
        stops.push(step.to);
    }
    stops
}
