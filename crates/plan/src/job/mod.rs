//! How far a job is.
//!
//! What a guest should be is reconciled by its host; a job records that somebody asked, follows the records
//! until the wish has come true, and takes back what it asked for when that fails. So each step is an
//! observation or one transaction, may be repeated, and may be left half way by a leader that dies.
//!
//! | jobs | where |
//! | --- | --- |
//! | create, start, stop, restart, delete | `guest` |
//! | move a guest | `move_guest` |
//! | balance; drain a host | [`moves`], which asks the planner |

mod balance;
mod drain;
mod guest;
mod move_guest;
pub mod moves;
mod verify;

pub use guest::holders;

use jiff::Timestamp;
use model::{
    Assignment, ClusterView, EventKind, GuestName, HostName, JobKind, JobReport, JobSpec, JobState,
    ReplicaDrop, VolumeId,
};

/// A change that a job makes beside its own report. All changes of one round, and the report, are one transaction
/// on the very view that [`advance`] looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Mark the guest as being deleted.
    MarkDeleting { guest: GuestName },
    /// Remove every record of a guest whose hosts have nothing left of it, or leave word for those that are
    /// lost.
    Forget { guest: GuestName },
    /// Write a guest's assignment in place of the one that was seen.
    Reassign(Assignment),
    /// Write nothing at all unless this record is as it was seen.
    Compare(RestsOn),
    /// Tell a host to delete its replica of a volume.
    DropReplica(ReplicaDrop),
    /// Tell people, once the rest is written.
    Tell { kind: EventKind, subject: String, message: String },
}

/// A record that an effect rests on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RestsOn {
    InSync(VolumeId),
    GuestReport(GuestName),
    /// The host's session, which must be there.
    Session(HostName),
}

/// A step's outcome by what can be seen now.
enum Seen {
    Done,
    Waits(String),
    Does(Vec<Effect>, String),
    Fails(String),
}

/// The names of a job's steps, as far as they are known before it has begun.
pub fn step_names(kind: &JobKind) -> Vec<&'static str> {
    if matches!(kind, JobKind::VerifyVolume { .. }) {
        return vec!["compare"];
    }
    guest::steps(kind).unwrap_or_default().iter().map(|(name, _)| *name).collect()
}

/// The next report of a job that the leader runs, and what must be changed with it in one transaction.
/// `None`: nothing new.
pub fn advance(
    view: &ClusterView,
    spec: &JobSpec,
    report: Option<&JobReport>,
    now: Timestamp,
) -> Option<(JobReport, Vec<Effect>)> {
    let old = report;
    let mut report = report.cloned().unwrap_or_else(|| JobReport::new(spec.id, step_names(&spec.kind)));
    if report.state.is_terminal() {
        return None;
    }
    let effects = match &spec.kind {
        JobKind::CreateGuest { guest }
        | JobKind::DeleteGuest { guest }
        | JobKind::StartGuest { guest }
        | JobKind::StopGuest { guest }
        | JobKind::RestartGuest { guest } => guest::advance(view, spec, guest, &mut report, now),
        JobKind::MoveGuest { .. } => move_guest::advance(view, spec, &mut report, now),
        // A host runs it, not the leader.
        JobKind::BuildImage { .. } => return None,
        JobKind::VerifyVolume { guest, volume } => {
            if !verify::advance(view, spec, (guest, *volume), &mut report, now) {
                return None;
            }
            Vec::new()
        }
        // These ask the planner: see [`moves`].
        JobKind::DrainHost { .. } | JobKind::Balance { .. } => return None,
    };
    (old != Some(&report) || !effects.is_empty()).then_some((report, effects))
}

/// Moves a job's state; a move that no job makes leaves it where it is.
fn go(report: &mut JobReport, to: JobState) {
    if report.state != to {
        report.state = report.state.to(to).unwrap_or(report.state);
    }
}

/// Ends a job.
fn end(report: &mut JobReport, how: JobState, now: Timestamp) {
    go(report, how);
    report.ended_at = Some(now);
}

/// Orders to delete replicas in which their hosts have a part by this assignment. They are void with it.
pub fn void_drops<'v>(view: &'v ClusterView, to: &Assignment) -> impl Iterator<Item = &'v ReplicaDrop> {
    let disks = view.guests.get(&to.guest).into_iter().flat_map(|spec| &spec.disks);
    let hosts = std::iter::once(to.host.clone()).chain(to.secondary.clone()).collect::<Vec<_>>();
    disks.flat_map(move |disk| {
        hosts.clone().into_iter().filter_map(move |host| view.drops.get(&(host, disk.volume)))
    })
}

/// Whether a job has ended.
fn is_over(view: &ClusterView, job: &JobSpec) -> bool {
    view.job_reports.get(&job.id).is_some_and(|report| report.state.is_terminal())
}

/// The move of a guest that is under way, if one is.
fn move_of<'a>(view: &'a ClusterView, guest: &GuestName) -> impl Iterator<Item = &'a JobSpec> {
    view.jobs.values().filter(move |job| {
        matches!(&job.kind, JobKind::MoveGuest { guest: other, .. } if other == guest) && !is_over(view, job)
    })
}
