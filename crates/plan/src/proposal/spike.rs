//! Whether a plan is owed to a spike.
//!
//! The averages that plans rest on forget a short spike, but not at once: thirty seconds of a window of five minutes
//! count for a tenth. In a cluster where the next move is almost worth its cost that is enough to make it worth it,
//! and when the spike is forgotten the guest might move back. So a small plan is made only if it would also be made
//! with the last [`SPIKE_S`] seconds of any one guest taken away, had it kept all its virtual CPUs busy in them. A
//! plan that gains much more than a guest's spike can make is not asked that.

use rayon::prelude::*;

use crate::inventory::Inventory;
use crate::layout::Layout;
use crate::objective::kennel::{self, Kennel};
use crate::search::{self, Balance, Settings};
use crate::snapshot::{GuestIx, Snapshot};

/// What is shorter moves nothing. Seconds.
pub const SPIKE_S: f64 = 30.0;

/// No more guests than these are asked, those first whose spike counts for most.
const ASKED_MAX: usize = 32;

/// Whether the plan would not be made without what may be a spike of one guest.
pub(super) fn made_it(inventory: &Inventory, plan: &Balance, settings: &Settings) -> bool {
    let snapshot = &inventory.snapshot;
    let margin = margin(plan);
    let layout = Layout::new(snapshot);
    let spread = spread(snapshot);
    let mut asked: Vec<(f64, GuestIx, f64)> = snapshot
        .guest_indices()
        .filter_map(|guest| {
            let calm = calm(inventory, guest)?;
            Some((effect(&layout, spread, guest, calm), guest, calm))
        })
        .filter(|(effect, _, _)| *effect >= margin)
        .collect();
    asked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    asked.truncate(ASKED_MAX);
    asked.par_iter().any(|(_, guest, calm)| {
        let mut without = snapshot.clone();
        without.guests[guest.at()].load.cpu = *calm;
        search::balance(&without, &Kennel, settings).moves.is_empty()
    })
}

/// By how much some beginning of the plan is better than it has to be: each of its moves by itself, for one may only
/// make way for the next, and all of them together.
fn margin(plan: &Balance) -> f64 {
    let (mut weakest, mut gain, mut margin) = (f64::MAX, -kennel::PLAN_GAIN_MIN, f64::MIN);
    for scored in &plan.moves {
        weakest = weakest.min(scored.gain - scored.price);
        gain += scored.gain;
        margin = margin.max(weakest.min(gain));
    }
    margin
}

/// The cores that a guest was measured to use before its spike, if it is having one. `None`: it was not measured.
fn calm(inventory: &Inventory, guest: GuestIx) -> Option<f64> {
    let need = inventory.snapshot.guest(guest);
    let host = inventory.host_name(need.place.filter(|_| need.runs)?.host);
    let usage = inventory.usage().get(host).filter(|_| !inventory.unmeasured().contains_key(host))?;
    usage.guests.get(inventory.guest_name(guest))?;
    let share = -(-SPIKE_S / f64::from(usage.window_s.max(1))).exp_m1();
    let calm = ((need.load.cpu - share * f64::from(need.vcpus)) / (1.0 - share)).max(0.0);
    // As finely as it is measured.
    Some(calm.min(need.load.cpu) * 1000.0).map(|calm| calm.round() / 1000.0)
}

/// What all of one host's processors count for in the spread over the hosts, as it is and as it would be after the plan.
fn spread(snapshot: &Snapshot) -> f64 {
    let hosts = snapshot.hosts.iter().filter(|room| room.duty.takes()).count().max(1) as f64;
    2.0 * kennel::CPU_SPREAD * kennel::evenness(snapshot) / hosts.sqrt()
}

/// By about how much a plan may seem to gain because of the guest's spike.
fn effect(layout: &Layout<'_>, spread: f64, guest: GuestIx, calm: f64) -> f64 {
    let snapshot = layout.snapshot();
    let need = snapshot.guest(guest);
    let Some(place) = need.place else { return 0.0 };
    let room = snapshot.host(place.host);
    let share = (need.load.cpu - calm) / (room.cores * room.speed).max(0.001);
    let used = room.own_load.cpu + layout.given(place.host).load.cpu;
    spread * share + kennel::cpu_knee(used / (room.cores * room.speed).max(0.001), share)
}
