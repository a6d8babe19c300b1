//! What the planner says of the cluster as this host sees it.
//!
//! Planning is pure, so the host that is asked does it itself: it takes the records that it knows and what
//! the hosts measured, and answers in the words of `plan`. Nothing here decides; what it proposes is entered as a
//! job, and looked at again when it runs.

mod admission;
mod answers;
mod moves;
mod rules;

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use model::{ClusterView, GuestName, GuestSpec, HostName, HostUsage};
use plan::inventory::Inventory;
use plan::order::StartOrder;

use super::Shared;
use super::answer::{Answer, Refused};

pub use admission::{admit_new, admit_start, judged, may_be_emptied, problems};
pub use answers::{add_host, apply_balance, balance, capacity, dump, healing, host_loss, reboot, why};
pub use moves::destination;
pub use rules::rule_views;

/// What the hosts measured. Those that do not answer are missing.
pub async fn usages(backend: &Shared) -> BTreeMap<HostName, HostUsage> {
    backend.usages().await
}

/// Answers from the cluster as the planner sees it, with what is measured now. Planning a large cluster takes seconds
/// of a processor, so it is kept away from the threads that renew sessions and watch guests.
pub async fn think<T: Send + 'static>(
    backend: &Shared,
    asked: &str,
    answer: impl FnOnce(Inventory) -> Answer<T> + Send + 'static,
) -> Answer<T> {
    let usages = usages(backend).await;
    let view = backend.state().view();
    let work = tokio::task::spawn_blocking(move || answer(Inventory::new(&view, &usages)));
    work.await.unwrap_or_else(|error| Err(Refused::failed(asked, error)))
}

pub async fn all_usages(State(backend): State<Shared>) -> Json<Vec<HostUsage>> {
    Json(usages(&backend).await.into_values().collect())
}

/// Refuses a start order that names what is not there, or that nothing could ever start in.
pub fn check_start_order(
    view: &ClusterView,
    guest: &GuestSpec,
    after: &BTreeSet<GuestName>,
    asked: &str,
) -> Answer<()> {
    if after.contains(&guest.name) {
        return Err(Refused::invalid(asked, "it would have to start after itself", "name other guests"));
    }
    if let Some(unknown) = after.iter().find(|name| !view.guests.contains_key(*name)) {
        let why = format!("it is to start after '{unknown}', and there is no guest of that name");
        return Err(Refused::by_state(asked, why, "`kennel guest list` shows those that there are"));
    }
    let wanted = GuestSpec { start_after: after.clone(), ..guest.clone() };
    let others = view.guests.values().filter(|other| other.name != guest.name);
    let order = StartOrder::of(others.chain([&wanted]));
    match order.cycles().iter().find(|cycle| cycle.0.contains(&guest.name)) {
        None => Ok(()),
        Some(cycle) => {
            let why = format!("none of these could ever start: {cycle}");
            Err(Refused::by_state(asked, why, "take one of them out with `kennel guest set`"))
        }
    }
}

/// Refuses a group that restarts together with who is not there.
pub fn check_group(
    view: &ClusterView,
    guest: &GuestSpec,
    with: &BTreeSet<GuestName>,
    asked: &str,
) -> Answer<()> {
    if with.contains(&guest.name) {
        return Err(Refused::invalid(asked, "it would have to restart with itself", "name other guests"));
    }
    match with.iter().find(|name| !view.guests.contains_key(*name)) {
        None => Ok(()),
        Some(unknown) => {
            let why = format!("it is to restart with '{unknown}', and there is no guest of that name");
            Err(Refused::by_state(asked, why, "`kennel guest list` shows those that there are"))
        }
    }
}

/// Refuses to delete what others start after or restart with.
pub fn nobody_depends_on(view: &ClusterView, guest: &GuestName, asked: &str) -> Answer<()> {
    let named_by = |names: fn(&GuestSpec) -> &BTreeSet<GuestName>| -> Vec<&str> {
        let others = view.guests.values().filter(|other| !other.deleting && &other.name != guest);
        others.filter(|other| names(other).contains(guest)).map(|other| other.name.as_str()).collect()
    };
    for (names, verb, options) in [
        (named_by(|spec| &spec.start_after), "start after it", "--after or --after-none"),
        (named_by(|spec| &spec.restart_with), "restart with it", "--restart-with or --restart-alone"),
    ] {
        if let Some(first) = names.first() {
            let why = format!("others {verb}: {}", names.join(", "));
            let instead =
                format!("say what they need instead, as in `kennel guest set {first}` with {options}");
            return Err(Refused::by_state(asked, why, instead));
        }
    }
    Ok(())
}
