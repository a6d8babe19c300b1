//! The search, on clusters out of seeds.

use super::evaluate::Price;
use super::packed::Packed;
use super::random::Random;
use super::sample::{Profile, Sample};
use super::state::{Seat, State};
use super::*;
use crate::layout::Layout;
use crate::objective::ganeti::Ganeti;
use crate::objective::kennel::Kennel;
use crate::snapshot::{HostDuty, Promise, Storage};

mod careful;
mod incremental;
mod plans;
mod steps;

/// A small cluster of each kind.
fn samples() -> impl Iterator<Item = Sample> {
    let kinds = [Storage::Mirrored, Storage::Shared];
    kinds.into_iter().flat_map(|storage| {
        Profile::ALL.into_iter().map(move |profile| Sample {
            zones: if profile == Profile::Random { 3 } else { 0 },
            ..Sample::new(8, 100, storage, profile, profile as u64 + 1)
        })
    })
}

/// The snapshot after a plan was carried out.
fn carried_out(snapshot: &Snapshot, places: &[Option<Place>]) -> Snapshot {
    let mut after = snapshot.clone();
    for (guest, place) in after.guests.iter_mut().zip(places) {
        guest.place = *place;
    }
    after
}
