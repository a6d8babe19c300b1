//! A layout's score for those who try single moves by hand: placing, draining, explaining.

use super::evaluate::Price;
use super::packed::{self, NOWHERE, Packed};
use super::state::{Seat, State};
use crate::objective::Terms;
use crate::snapshot::{GuestIx, Place};

/// A layout and its score. A guest that is nowhere may be put somewhere.
pub trait Scores {
    /// Lower is better.
    fn score(&self) -> f64;

    /// The score with the guest there, whether it may go there or not.
    fn after(&self, guest: GuestIx, place: Place) -> f64;

    /// What bringing the guest there costs, in units of the score.
    fn price(&self, guest: GuestIx, place: Place) -> f64;

    fn put(&mut self, guest: GuestIx, place: Place);
}

/// Lets `look` try moves. The state lives as long as that, for it borrows what it is computed from.
pub fn with_scores<R>(terms: Terms, places: &[Option<Place>], look: impl FnOnce(&mut dyn Scores) -> R) -> R {
    match packed::lanes(&terms) {
        0..=4 => with::<4, R>(terms, places, look),
        5..=8 => with::<8, R>(terms, places, look),
        _ => with::<16, R>(terms, places, look),
    }
}

fn with<const K: usize, R>(
    terms: Terms,
    places: &[Option<Place>],
    look: impl FnOnce(&mut dyn Scores) -> R,
) -> R {
    let packed = Packed::<K>::new(terms);
    let seats: Vec<Seat> = places.iter().map(|place| place.map_or(Seat::NOWHERE, seat)).collect();
    look(&mut State::new(&packed, &seats))
}

fn seat(place: Place) -> Seat {
    Seat { host: place.host.0, secondary: place.secondary.map_or(NOWHERE, |host| host.0) }
}

impl<const K: usize> Scores for State<'_, K> {
    fn score(&self) -> f64 {
        self.value
    }

    fn after(&self, guest: GuestIx, place: Place) -> f64 {
        self.value_after(guest.at(), seat(place))
    }

    fn price(&self, guest: GuestIx, place: Place) -> f64 {
        State::price(self, &Price::EachMove, guest.at(), seat(place))
    }

    fn put(&mut self, guest: GuestIx, place: Place) {
        self.apply(guest.at(), seat(place));
    }
}
