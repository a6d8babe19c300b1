//! What is done for a guest that is not well: nothing, a restart where it is, one elsewhere, or no more of them.
//!
//! [`judge`] is asked by the guest's owner at each look. It knows what was seen ([`Pulse`], [`Condition`]), what was
//! done before ([`HealthReport`], which is in the store), and what speaks against acting now. It is total, and the
//! same facts give the same verdict.
//!
//! ```text
//!   failed so often in a row, or panicked
//!     something else is going on with it (a move, a hold, no session, …) ─ nothing, and failures are counted anew
//!     the check has never succeeded, or cannot be made ─ unknown: nothing is done because of a wrong setting
//!     alarm only, or the limit is reached ─ unhealthy: left alone until it is well, is restarted or set anew
//!     the last restart was a moment ago ─ wait, twice as long each time
//!     restarted here twice, and its secondary's host may take it ─ elsewhere (if that does not come, here)
//!     else ─ here
//! ```
//!
//! A restart is written before it is made, so that whoever dies, there are never more than the limit in an hour.

use jiff::{SignedDuration, Timestamp};
use model::{
    Assignment, ClusterView, GuestName, GuestPlace, GuestSpec, HealthCheck, HealthReport, HealthRestart,
    HealthRestartKind, HealthSpec, HealthState, HostName, JobSpec, Liveness, OnUnhealthy,
};

use crate::inventory::Inventory;
use crate::scene::with_scene;
use crate::snapshot::Place;

/// The limit on restarts counts those of this time.
pub const WINDOW: SignedDuration = SignedDuration::from_hours(1);

/// After the first restart the next one comes no sooner than this; each pause is twice the one before, up to the
/// longest.
const PAUSE_FIRST: SignedDuration = SignedDuration::from_secs(5);
const PAUSE_MAX: SignedDuration = SignedDuration::from_mins(10);

/// So many restarts are made where the guest is before another host is tried.
const HERE_FIRST: usize = 2;

/// How long the leader has to hand the guest over; then it is restarted where it is.
const ELSEWHERE_WITHIN: SignedDuration = SignedDuration::from_secs(15);

/// How the machine of a guest stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    Runs,
    /// It stands still, and goes on only after a reset. One sentence without a full stop.
    Halted(String),
}

/// What looks at a guest have seen, since it booted or was last disturbed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pulse {
    /// So many looks failed in a row, and why the last one did.
    pub failed: u32,
    pub why: Option<String>,
    /// A look succeeded since the boot.
    pub passed: bool,
    /// Why a look cannot be made at all.
    pub cannot: Option<String>,
}

/// Everything that the verdict on one guest rests on.
#[derive(Debug, Clone)]
pub struct Patient<'a> {
    pub me: &'a HostName,
    pub spec: &'a HealthSpec,
    /// The guest's own: a start that somebody asked for.
    pub boot_generation: u64,
    pub known: Option<&'a HealthReport>,
    pub condition: &'a Condition,
    pub pulse: &'a Pulse,
    pub booted_at: Timestamp,
    /// Why nothing is to be done or counted now, if so.
    pub disturbed: Option<&'a str>,
    /// Its secondary's host could take it.
    pub may_leave: bool,
    pub now: Timestamp,
}

/// What is known of it now, and the restart that is to be made, which is not noted in the report yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub report: HealthReport,
    pub restart: Option<HealthRestart>,
}

/// What was found.
enum Finding {
    Is(HealthState, Option<String>),
    Unwell(String),
}

pub fn judge(patient: &Patient<'_>) -> Verdict {
    let mut report = remembered(patient);
    report.proven |= patient.spec.check.is_asked() && patient.pulse.passed;
    if patient.disturbed.is_some() {
        return Verdict { report, restart: None };
    }
    let (state, message, restart) = match look(patient, &report) {
        Finding::Is(state, message) => {
            if state == HealthState::Healthy {
                report.given_up = false;
            }
            (state, message, None)
        }
        Finding::Unwell(why) => treat(patient, &mut report, why),
    };
    if report.state != state {
        (report.state, report.since, report.message) = (state, patient.now, message);
    } else if state != HealthState::Unhealthy {
        // What was said first of one that is left alone stays.
        report.message = message;
    }
    Verdict { report, restart }
}

/// What is known, as far as it still counts.
fn remembered(patient: &Patient<'_>) -> HealthReport {
    let new = || HealthReport::new(patient.spec.clone(), patient.boot_generation, patient.now);
    let mut report = patient.known.cloned().unwrap_or_else(new);
    if report.spec != *patient.spec {
        report.proven &= report.spec.check == patient.spec.check;
        report.given_up = false;
        report.spec = patient.spec.clone();
    }
    if report.boot_generation != patient.boot_generation {
        report.boot_generation = patient.boot_generation;
        report.given_up = false;
        report.restarts.clear();
    }
    report.restarts.retain(|restart| patient.now.duration_since(restart.at) < WINDOW);
    report
}

fn look(patient: &Patient<'_>, report: &HealthReport) -> Finding {
    let Patient { spec, pulse, .. } = patient;
    let check = &spec.check;
    match (check, patient.condition) {
        (HealthCheck::None, Condition::Runs) => return Finding::Is(HealthState::Off, None),
        (HealthCheck::None, Condition::Halted(why)) => {
            return Finding::Is(HealthState::Off, Some(why.clone()));
        }
        (_, Condition::Halted(why)) => return Finding::Unwell(why.clone()),
        (HealthCheck::Basic, Condition::Runs) => return Finding::Is(HealthState::Healthy, None),
        (
            HealthCheck::Agent
            | HealthCheck::Disk
            | HealthCheck::Tcp { .. }
            | HealthCheck::Http(_)
            | HealthCheck::Command { .. },
            Condition::Runs,
        ) => {}
    }
    let unknown = |why: String| Finding::Is(HealthState::Unknown, Some(why));
    if let Some(why) = &pulse.cannot {
        return unknown(format!("the check {check} cannot be made: {why}"));
    }
    let early = patient.now < patient.booted_at + SignedDuration::from_secs(i64::from(spec.grace_s));
    let why = pulse.why.as_deref().unwrap_or("it has not been made yet");
    match (pulse.passed, pulse.failed >= spec.failures) {
        (true, false) => Finding::Is(HealthState::Healthy, None),
        (false, failed) if early || !failed => Finding::Is(HealthState::Starting, None),
        (false, _) if !report.proven => unknown(format!(
            "the check {check} has never succeeded since it was set ({why}); see whether it fits"
        )),
        (false, _) if check.needs_agent() => {
            unknown(format!("its guest agent has not been heard since it booted: {why}"))
        }
        (true | false, _) => {
            Finding::Unwell(format!("the check {check} failed {} times in a row: {why}", spec.failures))
        }
    }
}

/// A guest is not well, and nothing else is going on with it.
fn treat(
    patient: &Patient<'_>,
    report: &mut HealthReport,
    why: String,
) -> (HealthState, Option<String>, Option<HealthRestart>) {
    let Patient { spec, now, me, .. } = patient;
    let made = report.restarts.len();
    if spec.on_unhealthy == OnUnhealthy::Alarm {
        return (HealthState::Unhealthy, Some(why), None);
    }
    if report.given_up || made >= spec.restart_limit as usize {
        report.given_up = true;
        let times = match made {
            0 => "it is not to be restarted".to_owned(),
            1 => "a restart has not helped".to_owned(),
            _ => format!("{made} restarts within an hour have not helped"),
        };
        return (HealthState::Unhealthy, Some(format!("{why}; {times}, so it is left alone")), None);
    }
    if let Some(last) = report.restarts.last() {
        let since = now.duration_since(last.at);
        let leaves = report.elsewhere().is_some() && last.host == **me && since < ELSEWHERE_WITHIN;
        if leaves || since < pause_after(made) {
            return (HealthState::Restarting, Some(why), None);
        }
    }
    let left_before = report.restarts.iter().any(|r| r.how == HealthRestartKind::Elsewhere);
    let how = if patient.may_leave && made >= HERE_FIRST && !left_before {
        HealthRestartKind::Elsewhere
    } else {
        HealthRestartKind::InPlace
    };
    let restart = HealthRestart { at: *now, host: (*me).clone(), how, why: why.clone() };
    (HealthState::Restarting, Some(why), Some(restart))
}

/// How long the next restart waits after so many.
fn pause_after(made: usize) -> SignedDuration {
    let doublings = u32::try_from(made.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    PAUSE_FIRST.saturating_mul(1 << doublings).min(PAUSE_MAX)
}

/// Whether a guest's secondary could run it, by the records: its replicas are in sync, and it is not to stay.
pub fn may_leave(view: &ClusterView, spec: &GuestSpec, assignment: &Assignment) -> bool {
    let Some(secondary) = &assignment.secondary else { return false };
    let Liveness::Live(boot) = view.liveness(secondary) else { return false };
    let in_sync = |disk: &model::DiskSpec| {
        view.in_sync.get(&disk.volume).is_some_and(|set| set.contains(secondary, boot))
    };
    spec.is_mirrored() && !spec.pinned && assignment.handover.is_none() && spec.disks.iter().all(in_sync)
}

/// Where a guest is to be restarted that its owner wants to have restarted elsewhere: on its secondary's host, the two
/// changing their roles. `None`: it wants nothing, or cannot have it now.
pub fn elsewhere(view: &ClusterView, spec: &GuestSpec) -> Option<(GuestPlace, HealthRestart)> {
    let assignment = view.assignments.get(&spec.name).filter(|a| a.guest_id == spec.id)?;
    let report = view.guest_reports.get(&spec.name);
    let report = report
        .filter(|r| r.guest_id == spec.id && r.epoch == assignment.epoch && r.host == assignment.host)?;
    let wish = report.health.as_ref()?.elsewhere().filter(|wish| wish.host == assignment.host)?;
    if spec.deleting || !view.is_live(&assignment.host) || !may_leave(view, spec, assignment) {
        return None;
    }
    let busy = |job: &JobSpec| {
        let ended = view.job_reports.get(&job.id).is_some_and(|r| r.state.is_terminal());
        !ended && crate::heal::guest_of(job) == Some(&spec.name)
    };
    if view.jobs.values().any(busy) {
        return None;
    }
    let place = GuestPlace { host: assignment.secondary.clone()?, secondary: Some(assignment.host.clone()) };
    Some((place, wish.clone()))
}

/// Why a guest may not be restarted there, if so: rules, room and the promise to survive a loss count as for a move.
pub fn obstacle(inventory: &Inventory, guest: &GuestName, to: &GuestPlace) -> Option<String> {
    let unknown = || Some("it, or a host of it, is not known".to_owned());
    let Some(index) = inventory.guest_ix(guest) else { return unknown() };
    let Some(host) = inventory.host_ix(&to.host) else { return unknown() };
    let secondary = to.secondary.as_ref().and_then(|name| inventory.host_ix(name));
    let found = with_scene(&inventory.snapshot, |scene| scene.obstacle(index, Place { host, secondary }));
    found.map(|obstacle| inventory.explain(index, &obstacle))
}

#[cfg(test)]
mod tests;
