//! Guests that restart together: when one of them was restarted after a failure, those that ran through it are
//! restarted, too, because what they hold of it (connections, leases, caches) is void.
//!
//! ```text
//!   a member fails ──▶ it runs again, where it was or elsewhere ──▶ the others that ran all the while restart, once
//! ```
//!
//! A failure is a crash by the word of its host, or that its host was lost and another one was made its owner; the
//! leader writes the latter down with the change of owner ([`recovered`]). What an operator asks for is none, and a
//! restart of a group is none either, so one does not lead to the next. A member that fails again and again restarts
//! the others [`RESTARTS_AN_HOUR`] times at most.
//!
//! Who failed with the member and has been started since is left alone: it began its run after the failure. The two
//! times that are compared may be of two hosts' clocks; a wrong one makes for one restart too many or too few.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use model::{
    Assignment, ClusterView, GroupRestarts, GuestName, GuestReport, GuestSpec, GuestState, Liveness,
    PowerWish,
};

/// How often a guest restarts others within an hour.
pub const RESTARTS_AN_HOUR: usize = 3;

const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// A failure that is answered: one transaction, which compares the report and the assignment of the guest that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub failed: GuestName,
    pub record: GroupRestarts,
    /// As they are to be, with a restart asked for. None: nobody else ran through it.
    pub restart: Vec<GuestSpec>,
    /// What people are told; one sentence without a full stop.
    pub told: Option<String>,
}

/// The guests that restart with this one, and it with them, whoever of them was told so.
pub fn group<'v>(view: &'v ClusterView, of: &GuestName) -> BTreeSet<&'v GuestName> {
    let Some((of, _)) = view.guests.get_key_value(of) else { return BTreeSet::new() };
    let mut members = BTreeSet::from([of]);
    let mut next = vec![of];
    while let Some(name) = next.pop() {
        let named =
            view.guests[name].restart_with.iter().filter_map(|other| view.guests.get_key_value(other));
        let naming = view.guests.iter().filter(|(_, spec)| spec.restart_with.contains(name));
        next.extend(named.chain(naming).map(|(other, _)| other).filter(|other| members.insert(*other)));
    }
    members.remove(of);
    members
}

/// What is to be written with a change of owner that a loss brought about; nothing for a guest that no other restarts
/// with.
pub fn recovered(view: &ClusterView, assignment: &Assignment, now: Timestamp) -> Option<GroupRestarts> {
    if group(view, &assignment.guest).is_empty() {
        return None;
    }
    let record = record_of(view, assignment).unwrap_or_else(|| first_record(assignment));
    Some(GroupRestarts { recovered_at: Some(now), ..record })
}

/// The failures that are to be answered now.
pub fn answers(view: &ClusterView, now: Timestamp) -> Vec<Answer> {
    let mut answers: Vec<Answer> = Vec::new();
    for spec in view.guests.values().filter(|spec| !spec.deleting) {
        let others = group(view, &spec.name);
        let restarted = |answer: &Answer| answer.restart.iter().any(|other| other.name == spec.name);
        // One answer to a guest at a time: the next one sees what came of it.
        if others.is_empty() || answers.iter().any(restarted) {
            continue;
        }
        answers.extend(answer(view, spec, &others, now));
    }
    answers
}

fn answer(
    view: &ClusterView,
    spec: &GuestSpec,
    others: &BTreeSet<&GuestName>,
    now: Timestamp,
) -> Option<Answer> {
    let assignment = view.assignments.get(&spec.name)?;
    let report = running(view, spec)?;
    let before = record_of(view, assignment);
    let failed_at = failure(report, before.as_ref())?;
    let mut record = before.unwrap_or_else(|| first_record(assignment));
    if record.answered.is_some_and(|answered| answered >= failed_at) {
        return None;
    }
    record.answered = Some(failed_at);
    record.restarts.retain(|at| now.duration_since(*at) < HOUR);
    let through = |other: &&GuestSpec| {
        running(view, other)
            .is_some_and(|theirs| theirs.since < failed_at && theirs.boot_generation >= other.boot_generation)
    };
    let found: Vec<&GuestSpec> =
        others.iter().filter_map(|name| view.guests.get(*name)).filter(through).collect();
    let names: Vec<&str> = found.iter().map(|other| other.name.as_str()).collect();
    let (names, failed) = (names.join(", "), spec.name.clone());
    if found.is_empty() {
        return Some(Answer { failed, record, restart: vec![], told: None });
    }
    if record.restarts.len() >= RESTARTS_AN_HOUR {
        let told = format!(
            "'{failed}' was restarted after a failure again, and has had others restarted {RESTARTS_AN_HOUR} times \
             within an hour: this time they go on as they are ({names})"
        );
        return Some(Answer { failed, record, restart: vec![], told: Some(told) });
    }
    record.restarts.push(now);
    let restart = found
        .into_iter()
        .map(|other| GuestSpec { boot_generation: other.boot_generation + 1, ..other.clone() });
    let told = format!("restarted because '{failed}' was restarted after a failure: {names}");
    Some(Answer { failed, record, restart: restart.collect(), told: Some(told) })
}

/// The report of a guest that is to run and runs, by the word of its owner in this boot.
fn running<'v>(view: &'v ClusterView, spec: &GuestSpec) -> Option<&'v GuestReport> {
    let assignment = view.assignments.get(&spec.name)?;
    let report = view.guest_reports.get(&spec.name)?;
    let current = report.guest_id == spec.id
        && report.host == assignment.host
        && report.epoch == assignment.epoch
        && view.liveness(&report.host) == Liveness::Live(report.boot_id);
    let runs = report.state == GuestState::Running && spec.power == PowerWish::Running && !spec.deleting;
    (current && runs).then_some(report)
}

/// When a guest failed last before its present run. Whoever restarts a guest because it is not well tells that in its
/// report, as of a crash.
fn failure(report: &GuestReport, record: Option<&GroupRestarts>) -> Option<Timestamp> {
    report.failed_at.into_iter().chain(record.and_then(|record| record.recovered_at)).max()
}

fn record_of(view: &ClusterView, assignment: &Assignment) -> Option<GroupRestarts> {
    let record = view.group_restarts.get(&assignment.guest);
    record.filter(|record| record.guest_id == assignment.guest_id).cloned()
}

fn first_record(assignment: &Assignment) -> GroupRestarts {
    GroupRestarts {
        guest: assignment.guest.clone(),
        guest_id: assignment.guest_id,
        recovered_at: None,
        answered: None,
        restarts: vec![],
    }
}

#[cfg(test)]
mod tests;
