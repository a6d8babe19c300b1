//! What a good layout is, as numbers.
//!
//! An [`Objective`] looks at a snapshot once and says what counts, as [`Terms`]: columns of sums whose spread over
//! the hosts costs, sums that cost by themselves, limits that no move may break. The search knows only these, so
//! that the same search serves Ganeti's score ([`ganeti`]) and Kennel's own ([`kennel`]), and so that what a move
//! changes can be computed from the two or three hosts that it touches, whatever the objective.
//!
//! A score is a cost: lower is better.

pub mod ganeti;
pub mod kennel;
mod terms;

pub use terms::{
    Column, GroupTerms, GuestTerms, HostTerms, Knee, Limit, Moves, NOT_ASKED, Reserve, Shortfall, Terms,
    WishTable,
};

use crate::snapshot::Snapshot;

/// What a good layout is.
pub trait Objective: Sync {
    /// What counts, one for each part of the cluster that is balanced by itself.
    fn terms(&self, snapshot: &Snapshot) -> Vec<Terms>;

    /// How plans are made for it.
    fn manner(&self) -> Manner;
}

/// How a plan is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Manner {
    /// Each move by itself gains more than it costs, and the whole plan gains at least so much; what works well
    /// enough is left alone.
    Careful { gain_min: f64 },
    /// The best layout that can be found, with as few copies of disks as it takes.
    Thorough {
        /// A layout with this score or less is good enough.
        good_enough: f64,
        /// At this score or less, a first move that gains less than `gain_min` is none.
        small_score: f64,
        gain_min: f64,
    },
}
