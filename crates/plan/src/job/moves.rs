//! Jobs that make several moves: what balance and drain share.
//!
//! Each move is a job of its own, whose id follows from its parent's and from its step's number, and which is
//! entered in the same transaction that marks the step as begun. So a leader that goes on where another died finds
//! what was begun, and begins nothing twice.
//!
//! A move begins when
//! - no more than so many others are under way,
//! - no move under way, and none that is before it in the plan, touches one of its hosts: a plan is legal in its
//!   order, and moves that touch nothing in common can be made in any,
//! - the planner, asked at that moment, still says yes. It counts guests that are on their way where they go.
//!
//! One move begins in each turn. Cancelling begins no more; those under way end by themselves.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use model::{
    Assignment, ClusterView, GuestName, GuestPlace, HostName, HostUsage, JobKind, JobReport, JobSpec,
    JobState, JobStep, MoveOptions, Settings, StepState,
};

use super::{balance, drain as drain_job};
use crate::drain::{Drain, How, drain};
use crate::inventory::Inventory;
use crate::proposal;

/// What jobs ask of the planner.
pub trait Planner {
    /// Whether a move is still good to make now; if not, why.
    fn still_good(&self, view: &ClusterView, guest: &GuestName, to: &GuestPlace) -> Result<(), String>;

    /// The moves that empty a host, in their order, and the guests that cannot leave, with the reason. With
    /// `guests_only` the secondary replicas may stay. Guests that are `held` are not to be moved now; why.
    fn drain(
        &self,
        view: &ClusterView,
        host: &HostName,
        guests_only: bool,
        held: &BTreeMap<GuestName, String>,
    ) -> Emptied;
}

/// How a host can be emptied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Emptied {
    pub moves: Vec<(GuestName, GuestPlace)>,
    /// What cannot go, and why.
    pub stuck: BTreeMap<GuestName, String>,
    /// What cannot go now because something is under way with it.
    pub waits: BTreeMap<GuestName, String>,
}

/// The planner, on what hosts measured.
#[derive(Debug)]
pub struct Measured<'a>(pub &'a BTreeMap<HostName, HostUsage>);

impl Planner for Measured<'_> {
    fn still_good(&self, view: &ClusterView, guest: &GuestName, to: &GuestPlace) -> Result<(), String> {
        proposal::still_good(&Inventory::new(view, self.0), guest, to)
    }

    fn drain(
        &self,
        view: &ClusterView,
        host: &HostName,
        guests_only: bool,
        held: &BTreeMap<GuestName, String>,
    ) -> Emptied {
        let mut inventory = Inventory::new(view, self.0);
        for (guest, why) in held {
            inventory.hold(guest, why);
        }
        let how = if guests_only { How::GuestsOnly } else { How::Everything };
        let Drain { moves, stuck, waits, .. } = drain(&inventory, host, how);
        let moves = moves.into_iter().map(|planned| (planned.guest, planned.to)).collect();
        Emptied { moves, stuck, waits }
    }
}

/// One look at a job of moves.
pub(super) struct Turn<'a> {
    pub view: &'a ClusterView,
    pub spec: &'a JobSpec,
    pub planner: &'a dyn Planner,
    pub now: Timestamp,
}

/// The next report of a job that makes several moves, and the job that it starts with it in one transaction.
/// `None`: nothing new, or another kind of job.
pub fn advance(
    view: &ClusterView,
    spec: &JobSpec,
    planner: &dyn Planner,
    now: Timestamp,
) -> Option<(JobReport, Option<JobSpec>)> {
    let old = view.job_reports.get(&spec.id);
    if old.is_some_and(|report| report.state.is_terminal()) {
        return None;
    }
    let turn = Turn { view, spec, planner, now };
    let (report, start) = match &spec.kind {
        JobKind::Balance { moves } => balance::advance(&turn, moves, old.cloned()),
        JobKind::DrainHost { host } => drain_job::advance(&turn, host, old.cloned()),
        JobKind::CreateGuest { .. }
        | JobKind::DeleteGuest { .. }
        | JobKind::StartGuest { .. }
        | JobKind::StopGuest { .. }
        | JobKind::RestartGuest { .. }
        | JobKind::MoveGuest { .. }
        | JobKind::BuildImage { .. }
        | JobKind::VerifyVolume { .. } => return None,
    };
    (old != Some(&report) || start.is_some()).then_some((report, start))
}

/// What a step that makes a move is called. The n-th try is told from the first.
pub(super) fn step_name(guest: &GuestName, to: &GuestPlace, attempt: usize) -> String {
    match attempt {
        0 | 1 => format!("move {guest} to {to}"),
        _ => format!("move {guest} to {to}, try {attempt}"),
    }
}

pub(super) fn step(name: String) -> JobStep {
    JobStep { name, state: StepState::Waiting, note: None }
}

impl<'a> Turn<'a> {
    /// How many moves may be under way at once.
    pub fn limit(&self) -> usize {
        let settings = self.view.cluster.as_ref().map(|cluster| &cluster.settings);
        let limit = settings.map(|settings| settings.balance_moves_at_once);
        limit.unwrap_or_else(|| Settings::default().balance_moves_at_once).max(1) as usize
    }

    /// The job of a step, once it has begun.
    pub fn child(&self, step: usize) -> Option<&'a JobSpec> {
        self.view.jobs.get(&self.spec.id.child(u32::try_from(step).ok()?))
    }

    fn move_of_child(&self, step: usize) -> Option<(&'a GuestName, &'a GuestPlace)> {
        match &self.child(step)?.kind {
            JobKind::MoveGuest { guest, to, .. } => Some((guest, to)),
            JobKind::CreateGuest { .. }
            | JobKind::DeleteGuest { .. }
            | JobKind::StartGuest { .. }
            | JobKind::StopGuest { .. }
            | JobKind::RestartGuest { .. }
            | JobKind::BuildImage { .. }
            | JobKind::VerifyVolume { .. }
            | JobKind::DrainHost { .. }
            | JobKind::Balance { .. } => None,
        }
    }

    /// Takes over what has become of the moves under way; `first` is the first step that is a move.
    pub fn follow(&self, report: &mut JobReport, first: usize) {
        let running = report.steps.iter_mut().enumerate().skip(first);
        for (index, step) in running.filter(|(_, step)| step.state == StepState::Running) {
            let Some(child) = self.child(index) else {
                step.state = StepState::Failed;
                step.note = Some("no record of it is left".into());
                continue;
            };
            let Some(report) = self.view.job_reports.get(&child.id) else { continue };
            (step.state, step.note) = match report.state {
                JobState::Done => (StepState::Done, None),
                JobState::Failed | JobState::Cancelled => {
                    let why = report.error.clone().unwrap_or_else(|| format!("it was {}", report.state));
                    (StepState::Failed, Some(why))
                }
                JobState::Waiting | JobState::Running | JobState::Undoing => {
                    (StepState::Running, progress_of(report))
                }
            };
        }
    }

    /// The moves under way.
    pub fn under_way(&self, report: &JobReport) -> Vec<(&'a GuestName, &'a GuestPlace)> {
        let running = report.steps.iter().enumerate().filter(|(_, step)| step.state == StepState::Running);
        running.filter_map(|(index, _)| self.move_of_child(index)).collect()
    }

    /// The first of the moves that may begin now, and that `judge` says yes to. All of them may touch the host
    /// `shared`.
    pub fn next(
        &self,
        report: &JobReport,
        moves: impl IntoIterator<Item = (usize, GuestName, GuestPlace)>,
        shared: Option<&HostName>,
        mut judge: impl FnMut(usize, &GuestName, &GuestPlace) -> bool,
    ) -> Option<(usize, GuestName, GuestPlace)> {
        let under_way = self.under_way(report);
        if under_way.len() >= self.limit() {
            return None;
        }
        let mut busy: BTreeSet<HostName> = BTreeSet::new();
        for (guest, to) in under_way {
            busy.extend(self.touched(guest, to));
        }
        for (index, guest, to) in moves {
            let mut hosts = self.touched(&guest, &to);
            hosts.retain(|host| Some(host) != shared);
            if !busy.is_disjoint(&hosts) {
                busy.extend(hosts);
            } else if judge(index, &guest, &to) {
                return Some((index, guest, to));
            }
        }
        None
    }

    /// The hosts that a move has to do with.
    fn touched(&self, guest: &GuestName, to: &GuestPlace) -> BTreeSet<HostName> {
        let now = self.view.assignments.get(guest).map(place_of);
        let places = now.iter().chain(std::iter::once(to));
        places.flat_map(|place| std::iter::once(&place.host).chain(&place.secondary)).cloned().collect()
    }

    /// Whether a guest is at a place, with nothing left to do.
    pub fn is_there(&self, guest: &GuestName, to: &GuestPlace) -> bool {
        self.view.assignments.get(guest).is_some_and(|assignment| &place_of(assignment) == to)
    }

    /// The job that makes the move of a step.
    pub fn begin(&self, step: usize, guest: GuestName, to: GuestPlace) -> Option<JobSpec> {
        Some(JobSpec {
            id: self.spec.id.child(u32::try_from(step).ok()?),
            kind: JobKind::MoveGuest { guest, to, options: MoveOptions::default(), heals: None },
            created_at: self.now,
            requested_by: format!("job {}", self.spec.id),
            runner: None,
            cancel: false,
        })
    }
}

/// What a job says of the step that it is at.
fn progress_of(report: &JobReport) -> Option<String> {
    let step = report.steps.iter().find(|step| step.state == StepState::Running)?;
    Some(match &step.note {
        Some(note) => format!("{}: {note}", step.name),
        None => step.name.clone(),
    })
}

pub(super) fn place_of(assignment: &Assignment) -> GuestPlace {
    GuestPlace { host: assignment.host.clone(), secondary: assignment.secondary.clone() }
}
