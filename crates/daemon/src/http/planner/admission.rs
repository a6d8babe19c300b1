//! Whether the cluster has room for what is asked: for a guest more, a guest that starts, a host less.
//!
//! What there is no room for is refused, whatever is said. What would break the cluster's promise to survive a loss
//! is refused unless it is forced; then the answer warns, and the cluster's status says so for as long as it holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{ChangeDuty, RuleView};
use model::{ClusterView, Duty, GuestSpec, HostName, PowerWish, Refusal};
use plan::capacity;
use plan::drain::{How, drain};
use plan::inventory::Inventory;
use plan::layout::Layout;
use plan::place::{Options, place};

use super::{Shared, think};
use crate::http::answer::{Answer, Refused};

/// How many guests a refusal names with their reasons.
const NAMES_MAX: usize = 8;

/// Refuses a new guest that no host can take, or that would break the promise. Answers with what its operator should
/// know.
pub async fn admit_new(backend: &Shared, guest: &GuestSpec, force: bool, asked: &str) -> Answer<Vec<String>> {
    let (guest, why) = (guest.clone(), asked.to_owned());
    think(backend, asked, move |before| new_guest(&before, &guest, force, &why)).await
}

fn new_guest(before: &Inventory, guest: &GuestSpec, force: bool, asked: &str) -> Answer<Vec<String>> {
    let (found, only_promise) = match place(before, guest, Options { force: false }) {
        Ok(found) => (found, None),
        Err(none) => match place(before, guest, Options { force: true }) {
            Ok(found) if none.only_promise => (found, Some(none)),
            Ok(_) | Err(_) => {
                let Refusal { why, instead, .. } = none.refusal(guest);
                return Err(Refused::by_state(asked, why, instead));
            }
        },
    };
    if guest.power == PowerWish::Stopped {
        // It takes nothing of what the promise is about until it is started, and then it is judged.
        return Ok(Vec::new());
    }
    let mut after = before.with_guest(guest);
    after.put(&guest.name, &model::GuestPlace { host: found.host, secondary: found.secondary });
    match (capacity::admit(&before.snapshot, &after.snapshot), only_promise) {
        (Ok(()), None) => Ok(Vec::new()),
        (Err(broken), _) => promise(broken.why(), &broken.instead, force, asked),
        (Ok(()), Some(none)) => promise(none.explain(), "make it smaller, or add a host", force, asked),
    }
}

/// A broken promise, as a refusal or, if it was forced, as a warning.
fn promise(why: String, instead: &str, force: bool, asked: &str) -> Answer<Vec<String>> {
    if force {
        return Ok(vec![format!("the promise is broken until there is more room: {why}")]);
    }
    let instead = format!("{instead}; or force it with --force, and the cluster's status will say so");
    Err(Refused::by_state(asked, why, instead))
}

/// Refuses to start a guest whose host has no room for it now, or that would break the promise. Answers with what its
/// operator should know.
pub async fn admit_start(
    backend: &Shared,
    guest: &GuestSpec,
    force: bool,
    asked: &str,
) -> Answer<Vec<String>> {
    let (guest, why) = (guest.clone(), asked.to_owned());
    think(backend, asked, move |before| started_guest(&before, &guest, force, &why)).await
}

fn started_guest(before: &Inventory, guest: &GuestSpec, force: bool, asked: &str) -> Answer<Vec<String>> {
    let after = before.with_guest(&GuestSpec { power: PowerWish::Running, ..guest.clone() });
    room_on_its_host(before, &after, guest, asked)?;
    match capacity::admit(&before.snapshot, &after.snapshot) {
        Ok(()) => Ok(Vec::new()),
        Err(broken) => promise(broken.why(), &broken.instead, force, asked),
    }
}

fn room_on_its_host(before: &Inventory, after: &Inventory, guest: &GuestSpec, asked: &str) -> Answer<()> {
    let (snapshot, Some(index)) = (&after.snapshot, after.guest_ix(&guest.name)) else { return Ok(()) };
    let Some(at) = snapshot.guest(index).place.map(|place| place.host) else { return Ok(()) };
    let (room, need) = (snapshot.host(at), snapshot.guest(index));
    let given = *Layout::new(snapshot).given(at);
    let was = *Layout::new(&before.snapshot).given(at);
    let lack = if given.memory > room.memory && given.memory > was.memory {
        let free = model::Bytes(room.memory.saturating_sub(was.memory));
        format!("{free} of memory is free, {} is needed", model::Bytes(need.memory))
    } else if f64::from(given.vcpus) > room.vcpus_max && given.vcpus > was.vcpus {
        format!("its guests would have {} virtual CPUs, it may give {:.0}", given.vcpus, room.vcpus_max)
    } else {
        return Ok(());
    };
    let instead = if guest.is_mirrored() || guest.is_shared() {
        format!("free some room there, or move it first with `kennel guest migrate {}`", guest.name)
    } else {
        "free some room there".to_owned()
    };
    Err(Refused::by_state(asked, format!("its host {}: {lack}", room.name), instead))
}

/// Refuses to empty a host that something could not leave, unless that is what is wanted. Answers with what the
/// operator should know.
pub async fn may_be_emptied(
    backend: &Shared,
    host: &HostName,
    request: &ChangeDuty,
    asked: &str,
) -> Answer<Vec<String>> {
    let (host, request, why) = (host.clone(), request.clone(), asked.to_owned());
    think(backend, asked, move |before| emptied_host(&before, &host, &request, &why)).await
}

fn emptied_host(
    before: &Inventory,
    host: &HostName,
    request: &ChangeDuty,
    asked: &str,
) -> Answer<Vec<String>> {
    if before.host_ix(host).is_none() {
        return Err(Refused::not_found(asked, "host", host));
    }
    let how = match request.duty {
        Duty::Normal => return Ok(Vec::new()),
        Duty::Draining => How::Everything,
        Duty::Maintenance => How::GuestsOnly,
    };
    let plan = drain(before, host, how);
    let stuck: Vec<String> = plan.stuck.iter().map(|(guest, why)| format!("{guest}: {why}")).collect();
    if !stuck.is_empty() && !request.force {
        let mut named = stuck.iter().take(NAMES_MAX).cloned().collect::<Vec<_>>().join("; ");
        if stuck.len() > NAMES_MAX {
            named.push_str(&format!("; and {} more", stuck.len() - NAMES_MAX));
        }
        let why = match stuck.len() {
            1 => format!("one guest cannot leave it: {named}"),
            count => format!("{count} guests cannot leave it: {named}"),
        };
        return Err(Refused::by_state(asked, why, "see to these first, or move what can go with --force"));
    }
    let mut warnings: Vec<String> = stuck.into_iter().map(|line| format!("it stays there: {line}")).collect();
    let after = before.with_duty(host, request.duty);
    match capacity::admit(&before.snapshot, &after.snapshot) {
        Ok(()) => warnings.extend(plan.warnings),
        Err(broken) => warnings.push(format!("until the host is back: {}", broken.why())),
    }
    Ok(warnings)
}

/// What of the cluster's promise, and of its rules, does not hold.
pub async fn problems(view: Arc<ClusterView>) -> Vec<String> {
    judged(view).await.0
}

/// As [`problems`], and how each rule stands.
pub async fn judged(view: Arc<ClusterView>) -> (Vec<String>, Vec<RuleView>) {
    let found = tokio::task::spawn_blocking(move || {
        if view.hosts.is_empty() {
            return (Vec::new(), Vec::new());
        }
        let inventory = Inventory::new(&view, &BTreeMap::new());
        let rules = super::rules::rule_views_in(&view, &inventory);
        let mut problems = capacity::problems(&capacity::survey(&inventory.snapshot));
        problems.extend(super::rules::broken_rules(&rules));
        (problems, rules)
    });
    found.await.unwrap_or_else(|error| (vec![format!("the planner failed: {error}")], Vec::new()))
}
