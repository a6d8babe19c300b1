//! The job that empties a host, for good (`Duty::Draining`: guests and replicas) or for a while
//! (`Duty::Maintenance`: guests).
//!
//! Which of the two stands in the host's record, and only there. The plan is made anew whenever a move may begin;
//! what the last plan said of the moves to come is shown as the steps that wait. The first step is the whole of it,
//! and tells what is left.
//!
//! ```text
//!   plan ──▶ a move may begin ──▶ it is entered; plan again
//!     ├────▶ something is under way, or will pass ──▶ wait
//!     ├────▶ nothing is left ──▶ done
//!     └────▶ only guests that cannot go are left ──▶ failed, with the reasons; what could go has gone
//! ```
//!
//! A move that failed is tried again after a pause, a few times. The host keeps its duty, whatever becomes of the
//! job; when its operator takes the duty back, the job ends.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use model::{
    Assignment, ClusterView, Duty, GuestName, GuestPlace, HostName, JobKind, JobReport, JobSpec, JobState,
    ReplicaDrop, StepState,
};

use super::moves::{Emptied, Turn, step, step_name};
use super::{end, go, is_over};

/// How often the move of one guest is tried.
const TRIES: usize = 3;

/// How long a move that failed rests before it is tried again.
const REST: SignedDuration = SignedDuration::from_secs(10);

/// The step that is the whole; moves follow it.
const WHOLE: usize = 0;

/// What is still on the host.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left<'a> {
    guests: Vec<&'a GuestName>,
    /// Guests whose secondary replicas are there.
    replicas: Vec<&'a GuestName>,
    /// Replicas that it was told to delete.
    drops: usize,
}

/// The moves of this job that failed.
#[derive(Debug, Default)]
struct Failures {
    count: BTreeMap<GuestName, usize>,
    last: BTreeMap<GuestName, (Option<Timestamp>, String)>,
}

pub(super) fn advance(
    turn: &Turn<'_>,
    host: &HostName,
    report: Option<JobReport>,
) -> (JobReport, Option<JobSpec>) {
    let mut report = report.unwrap_or_else(|| JobReport {
        steps: vec![step(format!("empty {host}"))],
        ..JobReport::new(turn.spec.id, [])
    });
    go(&mut report, JobState::Running);
    report.steps[WHOLE].state = StepState::Running;
    turn.follow(&mut report, WHOLE + 1);
    let duty = turn.view.hosts.get(host).map(|host| host.duty);
    let busy = turn.under_way(&report).len();
    let stop = stopped_by(turn, host, duty);
    if let Some(why) = stop {
        if busy == 0 {
            give_up(turn, &mut report, JobState::Cancelled, why);
        } else {
            report.steps[WHOLE].note = Some(format!("{why}; {busy} moves are brought to their end"));
        }
        return (report, None);
    }
    let guests_only = duty == Some(Duty::Maintenance);
    let left = Left::on(turn.view, host, guests_only);
    if left.is_nothing() && busy == 0 {
        forget_the_plan(&mut report);
        report.steps[WHOLE].state = StepState::Done;
        report.steps[WHOLE].note = None;
        end(&mut report, JobState::Done, turn.now);
        return (report, None);
    }
    if busy >= turn.limit() {
        report.steps[WHOLE].note = Some(left.in_words());
        return (report, None);
    }
    let start = plan(turn, host, guests_only, &left, &mut report);
    (report, start)
}

/// Why no more moves are to be begun.
fn stopped_by(turn: &Turn<'_>, host: &HostName, duty: Option<Duty>) -> Option<String> {
    let earlier = turn.view.jobs.values().find(|job| {
        matches!(&job.kind, JobKind::DrainHost { host: other } if other == host)
            && job.id < turn.spec.id
            && !is_over(turn.view, job)
    });
    match (duty, earlier) {
        _ if turn.spec.cancel => Some("it was cancelled".into()),
        (None, _) => Some(format!("{host} is no host of the cluster any more")),
        (Some(Duty::Normal), _) => Some(format!("{host} was taken back to work")),
        (Some(Duty::Draining | Duty::Maintenance), Some(job)) => {
            Some(format!("the job {} empties {host} already", job.id))
        }
        (Some(Duty::Draining | Duty::Maintenance), None) => None,
    }
}

/// Begins a move, waits, or finds that no more can be done.
fn plan(
    turn: &Turn<'_>,
    host: &HostName,
    guests_only: bool,
    left: &Left<'_>,
    report: &mut JobReport,
) -> Option<JobSpec> {
    forget_the_plan(report);
    let failures = Failures::of(turn, report);
    let (resting, given_up) = failures.held(turn.now);
    let held: BTreeMap<_, _> =
        resting.iter().chain(&given_up).map(|(g, why)| (g.clone(), why.clone())).collect();
    let Emptied { moves, mut stuck, mut waits } = turn.planner.drain(turn.view, host, guests_only, &held);
    let under_way: BTreeSet<GuestName> =
        turn.under_way(report).into_iter().map(|(guest, _)| guest.clone()).collect();
    waits.retain(|guest, _| !under_way.contains(guest) && !given_up.contains_key(guest));
    waits.extend(resting);
    stuck.extend(given_up);
    let planned: Vec<_> = moves.iter().map(|(guest, to)| (0, guest.clone(), to.clone())).collect();
    let start = turn.next(report, planned, Some(host), |_, _, _| true).and_then(|(_, guest, to)| {
        let index = report.steps.len();
        let mut begun = step(step_name(&guest, &to, failures.of_guest(&guest) + 1));
        begun.state = StepState::Running;
        report.steps.push(begun);
        turn.begin(index, guest, to)
    });
    if start.is_none() && under_way.is_empty() && moves.is_empty() && waits.is_empty() && left.drops == 0 {
        give_up(turn, report, JobState::Failed, stuck_in_words(host, left, &stuck));
        return None;
    }
    let begun = start.as_ref().map(|job| &job.kind);
    let to_come = moves.iter().filter(|(guest, to)| !begun.is_some_and(|kind| is_move(kind, guest, to)));
    report.steps.extend(to_come.map(|(guest, to)| step(step_name(guest, to, failures.of_guest(guest) + 1))));
    report.steps[WHOLE].note = Some(in_words(left, &waits, &stuck));
    start
}

/// What the last plan said of the moves to come; the steps that have begun are before them.
fn forget_the_plan(report: &mut JobReport) {
    report.steps.retain(|step| step.state != StepState::Waiting);
}

fn is_move(kind: &JobKind, guest: &GuestName, to: &GuestPlace) -> bool {
    matches!(kind, JobKind::MoveGuest { guest: other, to: there, .. } if other == guest && there == to)
}

fn give_up(turn: &Turn<'_>, report: &mut JobReport, how: JobState, why: String) {
    forget_the_plan(report);
    report.steps[WHOLE].state = StepState::Failed;
    report.steps[WHOLE].note = None;
    report.error = Some(why);
    // Nothing is taken back: what has left the host is well where it is.
    go(report, JobState::Undoing);
    end(report, how, turn.now);
}

impl<'a> Left<'a> {
    fn on(view: &'a ClusterView, host: &HostName, guests_only: bool) -> Left<'a> {
        let here = |wanted: fn(&Assignment) -> Option<&HostName>| {
            let all = view.assignments.values().filter(move |a| wanted(a) == Some(host));
            all.filter(|a| view.guests.contains_key(&a.guest)).map(|a| &a.guest).collect::<Vec<_>>()
        };
        let guests = here(|assignment| Some(&assignment.host));
        if guests_only {
            return Left { guests, ..Left::default() };
        }
        // A host that is lost deletes its replicas when it returns.
        let drops = view.drops.values().filter(|drop| &drop.host == host && view.is_live(host));
        // One that is counted on it keeps until the owner lets it go, which it does when the guest runs.
        let boot = view.sessions.get(host).map(|session| session.boot_id);
        let counted = |drop: &ReplicaDrop| {
            let set = view.in_sync.get(&drop.volume);
            boot.is_some_and(|boot| set.is_some_and(|set| set.contains(host, boot)))
        };
        let drops = drops.filter(|drop| !counted(drop)).count();
        Left { guests, replicas: here(|assignment| assignment.secondary.as_ref()), drops }
    }

    fn is_nothing(&self) -> bool {
        self.guests.is_empty() && self.replicas.is_empty() && self.drops == 0
    }

    fn in_words(&self) -> String {
        let mut parts = vec![];
        for (count, one, more) in [
            (self.guests.len(), "guest is left", "guests are left"),
            (self.replicas.len(), "secondary is left", "secondaries are left"),
            (self.drops, "replica is being deleted", "replicas are being deleted"),
        ] {
            match count {
                0 => {}
                1 => parts.push(format!("1 {one}")),
                _ => parts.push(format!("{count} {more}")),
            }
        }
        parts.join(", ")
    }
}

impl Failures {
    fn of(turn: &Turn<'_>, report: &JobReport) -> Failures {
        let mut failures = Failures::default();
        let failed = report.steps.iter().enumerate().filter(|(_, step)| step.state == StepState::Failed);
        for (index, step) in failed {
            let Some(child) = turn.child(index) else { continue };
            let JobKind::MoveGuest { guest, .. } = &child.kind else { continue };
            let ended = turn.view.job_reports.get(&child.id).and_then(|report| report.ended_at);
            *failures.count.entry(guest.clone()).or_default() += 1;
            let why = step.note.clone().unwrap_or_else(|| "it does not say why".into());
            failures.last.insert(guest.clone(), (ended, why));
        }
        failures
    }

    fn of_guest(&self, guest: &GuestName) -> usize {
        self.count.get(guest).copied().unwrap_or(0)
    }

    /// Guests that are not to be moved now: those whose moves failed a moment ago, and those that have had all
    /// their tries; with the reasons.
    fn held(&self, now: Timestamp) -> (BTreeMap<GuestName, String>, BTreeMap<GuestName, String>) {
        let (mut resting, mut given_up) = (BTreeMap::new(), BTreeMap::new());
        for (guest, (ended, why)) in &self.last {
            if self.of_guest(guest) >= TRIES {
                given_up.insert(guest.clone(), format!("its move failed {TRIES} times: {why}"));
            // One that ends in the future was written by a leader whose clock was ahead: it has rested.
            } else if ended.is_some_and(|ended| ended <= now && now.duration_since(ended) < REST) {
                resting.insert(guest.clone(), format!("its move is tried again: {why}"));
            }
        }
        (resting, given_up)
    }
}

fn in_words(
    left: &Left<'_>,
    waits: &BTreeMap<GuestName, String>,
    stuck: &BTreeMap<GuestName, String>,
) -> String {
    let mut parts = vec![left.in_words()];
    parts.extend(waits.iter().map(|(guest, why)| format!("{guest} waits: {why}")));
    parts.extend(stuck.iter().map(|(guest, why)| format!("{guest} cannot go: {why}")));
    parts.join("; ")
}

fn stuck_in_words(host: &HostName, left: &Left<'_>, stuck: &BTreeMap<GuestName, String>) -> String {
    let mut parts = vec![format!("{host} is not empty: {}", left.in_words())];
    parts.extend(stuck.iter().map(|(guest, why)| format!("{guest} cannot go: {why}")));
    parts.join("; ")
}
