//! What the leader changes. It looks at everything each time, takes no hint, and with nothing new it changes
//! nothing.
//!
//! A guest whose host is lost comes back on its secondary's host, if that very boot of it is in the in-sync
//! set of every volume; nothing else proves that no acknowledged write is missing. The transaction that
//! carries this out compares everything it rests on, so that a decision from an old view is refused by the
//! store rather than carried out.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use model::{
    Assignment, ClusterView, Epoch, GuestName, GuestReport, GuestSpec, GuestState, HostName, Liveness,
    PowerWish, VolumeId,
};

use crate::place::place;
use crate::room::{Room, memory_of, rooms};

/// One change, carried out as one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A guest that has no owner gets its first.
    Assign { to: Assignment },
    /// The secondary takes over. The transaction compares the assignment `from` and the in-sync sets of all
    /// `volumes` with what was seen, and that the new owner's session is there.
    Promote { from: Assignment, to: Assignment, volumes: Vec<VolumeId> },
}

/// All that the leader does now, and what it waits for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "an unread decision is not carried out"]
pub struct Decision {
    pub changes: Vec<Change>,
    /// Why a guest is without a live owner; one sentence without a full stop.
    pub waiting: BTreeMap<GuestName, String>,
    /// When to decide again although nothing happened.
    pub wake_at: Option<Timestamp>,
}

/// Decides. Before `recover_from` no host counts as lost: the leader itself was cut off a moment ago, and so
/// were perhaps the others.
pub fn decide(view: &ClusterView, now: Timestamp, recover_from: Timestamp) -> Decision {
    let mut decision = Decision::default();
    // The view is copied only when a guest is new: each placement is judged with those before it.
    let mut planned = Cow::Borrowed(view);
    for spec in view.guests.values().filter(|spec| !spec.deleting) {
        if view.assignments.contains_key(&spec.name) {
            continue;
        }
        match place(&planned, spec) {
            Ok(to) => {
                planned.to_mut().assignments.insert(spec.name.clone(), to.clone());
                decision.changes.push(Change::Assign { to });
            }
            Err(none) => {
                decision.waiting.insert(spec.name.clone(), none.explain());
            }
        }
    }
    recover(&planned, now, recover_from, &mut decision);
    decision
}

/// Guests whose owner is lost, first those that matter most.
fn lost_guests(view: &ClusterView) -> Vec<(&GuestSpec, &Assignment)> {
    let mut lost: Vec<_> = view
        .guests
        .values()
        .filter(|spec| !spec.deleting)
        .filter_map(|spec| Some((spec, view.assignments.get(&spec.name)?)))
        .filter(|(_, assignment)| !view.is_live(&assignment.host))
        .collect();
    lost.sort_by_key(|(spec, _)| (spec.power != PowerWish::Running, -i64::from(spec.priority), &spec.name));
    lost
}

fn recover(view: &ClusterView, now: Timestamp, recover_from: Timestamp, decision: &mut Decision) {
    let lost = lost_guests(view);
    if now < recover_from && !lost.is_empty() {
        decision.wake_at = Some(recover_from);
        for (spec, assignment) in lost {
            let why = format!("{} is lost, and the leader waits for it to be heard again", assignment.host);
            decision.waiting.insert(spec.name.clone(), why);
        }
        return;
    }
    let mut rooms = rooms(view);
    let mut starting = starting_by_host(view);
    let limit = view.cluster.as_ref().map_or(4, |cluster| cluster.settings.recovery_starts_per_host) as usize;
    for (spec, assignment) in lost {
        match successor(view, spec, assignment, &rooms) {
            Err(why) => {
                decision.waiting.insert(spec.name.clone(), why);
            }
            Ok(to) => {
                let starts = starting.entry(to.clone()).or_default();
                let runs = spec.power == PowerWish::Running;
                if runs && *starts >= limit {
                    let why = format!("{to} is starting {starts} other guests; this one is next");
                    decision.waiting.insert(spec.name.clone(), why);
                    continue;
                }
                *starts += usize::from(runs);
                if let Some(room) = rooms.get_mut(&to) {
                    room.take_memory(memory_of(spec));
                }
                decision.changes.push(promotion(spec, assignment, to));
            }
        }
    }
}

fn promotion(spec: &GuestSpec, from: &Assignment, to: HostName) -> Change {
    let why = format!("{} was lost, and {to} held every acknowledged write", from.host);
    Change::Promote {
        from: from.clone(),
        to: Assignment {
            host: to,
            epoch: from.epoch.next(),
            secondary: Some(from.host.clone()),
            why,
            handover: None,
            handed_over_by: None,
            ..from.clone()
        },
        volumes: spec.disks.iter().map(|disk| disk.volume).collect(),
    }
}

/// The host that may take over a lost guest, or why none may.
fn successor(
    view: &ClusterView,
    spec: &GuestSpec,
    assignment: &Assignment,
    rooms: &BTreeMap<HostName, Room>,
) -> Result<HostName, String> {
    let lost = &assignment.host;
    let Some(secondary) = &assignment.secondary else {
        return Err(format!("{lost} is lost, and the guest's volumes are nowhere else; it waits for {lost}"));
    };
    let Liveness::Live(boot) = view.liveness(secondary) else {
        return Err(format!("{lost} and {secondary}, which hold its volumes, are both lost"));
    };
    for disk in &spec.disks {
        let Some(in_sync) = view.in_sync.get(&disk.volume) else {
            return Err(format!(
                "{lost} was lost before it had made the guest's volumes; it waits for {lost}"
            ));
        };
        if !in_sync.contains(secondary, boot) {
            return Err(if in_sync.contains_host(secondary) {
                format!(
                    "{lost} is lost, and {secondary} started anew since it took the last write; only {lost} \
                     surely holds every acknowledged write"
                )
            } else {
                format!(
                    "{lost} is lost, and {secondary} does not hold every acknowledged write; it waits for {lost}"
                )
            });
        }
    }
    match rooms.get(secondary) {
        Some(room) if spec.power == PowerWish::Running && !room.fits_memory(memory_of(spec)) => Err(format!(
            "{secondary} has {} of memory free, {} are needed",
            room.memory_free(),
            memory_of(spec)
        )),
        Some(_) => Ok(secondary.clone()),
        None => Err(format!("{secondary} has not reported its size yet")),
    }
}

/// How many guests each live host has still to bring up.
fn starting_by_host(view: &ClusterView) -> BTreeMap<HostName, usize> {
    let mut starting = BTreeMap::new();
    for (name, assignment) in &view.assignments {
        let wanted = view.guests.get(name).is_some_and(|s| s.power == PowerWish::Running && !s.deleting);
        let report = view.guest_reports.get(name);
        if wanted && view.is_live(&assignment.host) && !is_settled(report, assignment.epoch) {
            *starting.entry(assignment.host.clone()).or_default() += 1;
        }
    }
    starting
}

/// Whether a guest's host has done what it can for it at this epoch.
fn is_settled(report: Option<&GuestReport>, epoch: Epoch) -> bool {
    report.filter(|report| report.epoch == epoch).is_some_and(|report| match report.state {
        GuestState::Running | GuestState::Stopped | GuestState::Failed | GuestState::Deleted => true,
        GuestState::Preparing | GuestState::Starting | GuestState::Stopping => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, cluster, power_off, power_on};
    use model::Pool;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    /// One line for each change and each wait.
    fn check(view: &ClusterView, expected: &[&str]) {
        let decision = decide(view, NOW, NOW);
        let changes = decision.changes.iter().map(|change| match change {
            Change::Assign { to } => format!("{}: assign {}", to.guest, to.host),
            Change::Promote { from, to, .. } => {
                format!("{}: {}@{} -> {}@{}", to.guest, from.host, from.epoch, to.host, to.epoch)
            }
        });
        let waits = decision.waiting.iter().map(|(guest, why)| format!("{guest} waits: {why}"));
        assert_eq!(changes.chain(waits).collect::<Vec<_>>(), expected);
    }

    fn apply(view: &mut ClusterView, decision: Decision) {
        for change in decision.changes {
            let (Change::Assign { to } | Change::Promote { to, .. }) = change;
            view.assignments.insert(to.guest.clone(), to);
        }
    }

    #[test]
    fn nothing_new_changes_nothing() {
        let mut view = cluster(3);
        view.guests.insert("a".parse().unwrap(), fixture::guest("a", Pool::Mirror));
        check(&view, &["a: assign host1"]);
        let decision = decide(&view, NOW, NOW);
        apply(&mut view, decision);
        check(&view, &[]);
    }

    #[test]
    fn the_secondary_takes_over_a_lost_hosts_guest() {
        let mut view = cluster(3);
        fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        power_off(&mut view, "host1");
        check(&view, &["a: host1@1 -> host2@2"]);
    }

    #[test]
    fn a_secondary_that_booted_anew_is_not_promoted() {
        let mut view = cluster(3);
        fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        power_off(&mut view, "host1");
        power_on(&mut view, "host2", 2);
        check(
            &view,
            &[
                "a waits: host1 is lost, and host2 started anew since it took the last write; only host1 surely \
               holds every acknowledged write",
            ],
        );
    }

    #[test]
    fn a_secondary_that_was_let_go_is_not_promoted() {
        let mut view = cluster(3);
        fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        let members = &mut view.in_sync.get_mut(&fixture::volume("a")).unwrap().members;
        members.retain(|replica| replica.host == fixture::host("host1"));
        power_off(&mut view, "host1");
        check(
            &view,
            &["a waits: host1 is lost, and host2 does not hold every acknowledged write; it waits for host1"],
        );
    }

    #[test]
    fn a_local_guest_waits_for_its_host() {
        let mut view = cluster(3);
        fixture::put(&mut view, "a", Pool::Local, "host1", None);
        power_off(&mut view, "host1");
        check(
            &view,
            &["a waits: host1 is lost, and the guest's volumes are nowhere else; it waits for host1"],
        );
    }

    #[test]
    fn starts_are_paced_and_the_important_come_first() {
        let mut view = cluster(2);
        for name in ["a", "b", "c", "d", "e", "f"] {
            fixture::put(&mut view, name, Pool::Mirror, "host1", Some("host2"));
        }
        view.guests.get_mut(&"f".parse().unwrap()).unwrap().priority = 10;
        power_off(&mut view, "host1");
        check(
            &view,
            &[
                "f: host1@1 -> host2@2",
                "a: host1@1 -> host2@2",
                "b: host1@1 -> host2@2",
                "c: host1@1 -> host2@2",
                "d waits: host2 is starting 4 other guests; this one is next",
                "e waits: host2 is starting 4 other guests; this one is next",
            ],
        );
        let decision = decide(&view, NOW, NOW);
        apply(&mut view, decision);
        for name in ["f", "a"] {
            let assignment = view.assignments[&name.parse().unwrap()].clone();
            let report = fixture::report(&assignment, GuestState::Running);
            view.guest_reports.insert(assignment.guest.clone(), report);
        }
        check(&view, &["d: host1@1 -> host2@2", "e: host1@1 -> host2@2"]);
    }

    #[test]
    fn memory_is_counted_across_all_that_are_recovered() {
        let mut view = cluster(2);
        for name in ["a", "b"] {
            fixture::put(&mut view, name, Pool::Mirror, "host1", Some("host2"));
            view.guests.get_mut(&name.parse().unwrap()).unwrap().memory = model::Bytes::gib(5);
        }
        power_off(&mut view, "host1");
        check(&view, &["a: host1@1 -> host2@2", "b waits: host2 has 2.4G of memory free, 5.1G are needed"]);
    }

    #[test]
    fn a_leader_that_was_cut_off_itself_waits() {
        let mut view = cluster(3);
        fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        power_off(&mut view, "host1");
        let later = NOW + jiff::SignedDuration::from_secs(5);
        let decision = decide(&view, NOW, later);
        assert!(decision.changes.is_empty());
        assert_eq!(decision.wake_at, Some(later));
        assert_eq!(decide(&view, later, later).changes.len(), 1);
    }

    #[test]
    fn a_guest_that_is_being_deleted_is_left_alone() {
        let mut view = cluster(3);
        fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        view.guests.get_mut(&"a".parse().unwrap()).unwrap().deleting = true;
        power_off(&mut view, "host1");
        check(&view, &[]);
    }
}
