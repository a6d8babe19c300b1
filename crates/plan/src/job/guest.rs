//! Jobs about one guest where it is: create, start, stop, restart, delete.

use std::collections::BTreeSet;

use jiff::Timestamp;
use model::{
    Assignment, ClusterView, GuestName, GuestPhase, GuestSpec, GuestState, HostName, JobKind, JobReport,
    JobSpec, JobState, Pool, PowerWish, StepState, VolumePhase,
};

use super::{Effect, Seen, end, go, move_of};

pub(super) type Look = fn(&ClusterView, &GuestName) -> Seen;

/// The steps of a job, in order.
pub(super) fn steps(kind: &JobKind) -> Option<&'static [(&'static str, Look)]> {
    match kind {
        JobKind::CreateGuest { .. } => Some(&[
            ("choose hosts", is_placed),
            ("make volumes", is_made),
            ("start", is_as_wished),
            ("fill the secondary", is_in_sync),
        ]),
        JobKind::StartGuest { .. } => Some(&[("start", is_as_wished)]),
        JobKind::StopGuest { .. } => Some(&[("shut down", is_as_wished)]),
        JobKind::RestartGuest { .. } => Some(&[("restart", is_as_wished)]),
        JobKind::DeleteGuest { .. } => Some(&[("end and delete", is_gone)]),
        JobKind::BuildImage { .. }
        | JobKind::VerifyVolume { .. }
        | JobKind::MoveGuest { .. }
        | JobKind::DrainHost { .. }
        | JobKind::Balance { .. } => None,
    }
}

pub(super) fn advance(
    view: &ClusterView,
    spec: &JobSpec,
    guest: &GuestName,
    report: &mut JobReport,
    now: Timestamp,
) -> Vec<Effect> {
    if report.state == JobState::Undoing {
        return undo(view, spec, guest, report, now);
    }
    let steps = steps(&spec.kind).unwrap_or_default();
    forward(view, spec, guest, steps, report, now)
}

fn forward(
    view: &ClusterView,
    spec: &JobSpec,
    guest: &GuestName,
    steps: &[(&str, Look)],
    report: &mut JobReport,
    now: Timestamp,
) -> Vec<Effect> {
    if spec.cancel && matches!(spec.kind, JobKind::CreateGuest { .. }) {
        report.error = Some("it was cancelled".into());
        go(report, JobState::Undoing);
        return vec![];
    }
    go(report, JobState::Running);
    for (step, (_, look)) in report.steps.iter_mut().zip(steps) {
        if step.state == StepState::Done {
            continue;
        }
        step.state = StepState::Running;
        match look(view, guest) {
            Seen::Done => {
                step.state = StepState::Done;
                step.note = None;
            }
            Seen::Waits(note) => {
                step.note = Some(note);
                return vec![];
            }
            Seen::Does(effects, note) => {
                step.note = Some(note);
                return effects;
            }
            Seen::Fails(why) => {
                step.state = StepState::Failed;
                step.note = None;
                report.error = Some(why);
                go(report, JobState::Undoing);
                return vec![];
            }
        }
    }
    end(report, JobState::Done, now);
    vec![]
}

/// Takes back what was asked for. Only a creation has something to take back: nothing is left half made.
fn undo(
    view: &ClusterView,
    spec: &JobSpec,
    guest: &GuestName,
    report: &mut JobReport,
    now: Timestamp,
) -> Vec<Effect> {
    if matches!(spec.kind, JobKind::CreateGuest { .. }) {
        match is_gone(view, guest) {
            Seen::Done => {}
            Seen::Does(effects, _) => return effects,
            Seen::Waits(_) | Seen::Fails(_) => {
                let marked = view.guests.get(guest).is_some_and(|spec| spec.deleting);
                return if marked { vec![] } else { vec![Effect::MarkDeleting { guest: guest.clone() }] };
            }
        }
    }
    for step in report.steps.iter_mut().filter(|step| step.state != StepState::Waiting) {
        step.state = if step.state == StepState::Failed { StepState::Failed } else { StepState::Undone };
        step.note = None;
    }
    end(report, if spec.cancel { JobState::Cancelled } else { JobState::Failed }, now);
    vec![]
}

fn is_placed(view: &ClusterView, guest: &GuestName) -> Seen {
    if !view.guests.contains_key(guest) {
        return Seen::Fails("the guest was deleted meanwhile".into());
    }
    if view.assignments.contains_key(guest) {
        return Seen::Done;
    }
    Seen::Waits("no host has room for it yet".into())
}

fn is_made(view: &ClusterView, guest: &GuestName) -> Seen {
    let Some(spec) = view.guests.get(guest) else {
        return Seen::Fails("the guest was deleted meanwhile".into());
    };
    if spec.disks.iter().all(|disk| view.in_sync.contains_key(&disk.volume)) {
        return Seen::Done;
    }
    let report = view.guest_reports.get(guest).filter(|report| report.guest_id == spec.id);
    match report {
        Some(report) if report.state == GuestState::Failed => Seen::Fails(message(report.message.as_ref())),
        Some(report) => Seen::Waits(report.message.clone().unwrap_or_else(|| "its host makes them".into())),
        None => Seen::Waits("its host has not begun".into()),
    }
}

pub(super) fn message(message: Option<&String>) -> String {
    message.cloned().unwrap_or_else(|| "its host does not say why".into())
}

/// Whether the guest runs, or is stopped, at the generation that is asked for.
pub(super) fn is_as_wished(view: &ClusterView, guest: &GuestName) -> Seen {
    let Some(spec) = view.guests.get(guest) else {
        return Seen::Fails("the guest was deleted meanwhile".into());
    };
    let (assignment, report) = (view.assignments.get(guest), view.guest_reports.get(guest));
    if let Some(handover) = assignment.and_then(|assignment| assignment.handover.as_ref()) {
        // That it stands still says nothing about the wish.
        return Seen::Waits(format!("it is on its way to {}", handover.to));
    }
    let phase = GuestPhase::derive(spec, assignment, report, view);
    let reached = report.is_some_and(|report| report.boot_generation >= spec.boot_generation);
    let note = report.and_then(|report| report.message.clone());
    match (phase, spec.power) {
        (GuestPhase::Running, PowerWish::Running) if reached => Seen::Done,
        (GuestPhase::Stopped, PowerWish::Stopped) => Seen::Done,
        (GuestPhase::Stopped, PowerWish::Running) if reached => {
            Seen::Fails("the guest shut itself down".into())
        }
        (GuestPhase::Failed, _) => Seen::Fails(message(note.as_ref())),
        (GuestPhase::Deleting, _) => Seen::Fails("the guest is being deleted".into()),
        (
            GuestPhase::Waiting
            | GuestPhase::Preparing
            | GuestPhase::Starting
            | GuestPhase::Running
            | GuestPhase::Paused
            | GuestPhase::Stopping
            | GuestPhase::Stopped
            | GuestPhase::Unknown,
            _,
        ) => Seen::Waits(note.unwrap_or_else(|| format!("it is {phase}"))),
    }
}

fn is_in_sync(view: &ClusterView, guest: &GuestName) -> Seen {
    let Some(spec) = view.guests.get(guest) else {
        return Seen::Fails("the guest was deleted meanwhile".into());
    };
    if spec.power == PowerWish::Stopped {
        // A guest that does not run is filled when it starts.
        return Seen::Done;
    }
    let (assignment, report) = (view.assignments.get(guest), view.guest_reports.get(guest));
    if GuestPhase::derive(spec, assignment, report, view) == GuestPhase::Stopped {
        // It shut itself down, which is the same.
        return Seen::Done;
    }
    let phases =
        spec.disks.iter().filter(|disk| disk.pool == Pool::Mirror).map(|disk| {
            VolumePhase::derive(disk.pool, assignment, view.in_sync.get(&disk.volume), report, view)
        });
    match phases.into_iter().find(|phase| *phase != VolumePhase::InSync) {
        None => Seen::Done,
        Some(phase) => Seen::Waits(format!("a volume is {phase}")),
    }
}

/// The hosts that may hold a replica of a guest: its owner's, its secondary's, and those that the in-sync sets name
/// still, because the owner had no time to let go of them.
pub fn holders(view: &ClusterView, spec: &GuestSpec, assignment: &Assignment) -> BTreeSet<HostName> {
    let sets = spec.disks.iter().filter_map(|disk| view.in_sync.get(&disk.volume));
    let recorded = sets.flat_map(|set| &set.members).map(|replica| &replica.host);
    std::iter::once(&assignment.host).chain(&assignment.secondary).chain(recorded).cloned().collect()
}

fn is_gone(view: &ClusterView, guest: &GuestName) -> Seen {
    let Some(spec) = view.guests.get(guest) else { return Seen::Done };
    if !spec.deleting {
        let note = "it is marked as deleted";
        return Seen::Does(vec![Effect::MarkDeleting { guest: guest.clone() }], note.into());
    }
    if move_of(view, guest).next().is_some() {
        // It knows of replicas that no other record names.
        return Seen::Waits("a move of it ends first".into());
    }
    let forget = |note: &str| Seen::Does(vec![Effect::Forget { guest: guest.clone() }], note.to_owned());
    let Some(assignment) = view.assignments.get(guest) else { return forget("it never had a host") };
    if !view.is_live(&assignment.host) {
        return forget("its host is lost, and will delete its replica when it returns");
    }
    let deleted = view.guest_reports.get(guest).is_some_and(|report| {
        report.state == GuestState::Deleted
            && report.epoch == assignment.epoch
            && report.host == assignment.host
    });
    if deleted { forget("its records are removed") } else { Seen::Waits("its host ends it".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, cluster};
    use crate::job::advance;
    use jiff::Timestamp;
    use model::{GuestSpec, JobId};

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn name() -> GuestName {
        "a".parse().unwrap()
    }

    fn job(kind: JobKind) -> JobSpec {
        JobSpec {
            id: JobId(uuid::Uuid::nil()),
            kind,
            created_at: NOW,
            requested_by: "a test".into(),
            runner: None,
            cancel: false,
        }
    }

    /// Runs a job against a view, twice each time: the second try must find nothing new.
    fn check(view: &ClusterView, spec: &JobSpec, report: &mut Option<JobReport>, expected: &str) {
        let effects = match advance(view, spec, report.as_ref(), NOW) {
            Some((new, effects)) => {
                *report = Some(new);
                effects
            }
            None => vec![],
        };
        let again = advance(view, spec, report.as_ref(), NOW);
        assert!(again.is_none_or(|(new, more)| Some(&new) == report.as_ref() && more == effects));
        let report = report.as_ref().unwrap();
        let steps = report.steps.iter().map(|s| format!("{}:{:?}", s.name, s.state)).collect::<Vec<_>>();
        let effects = if effects.is_empty() { String::new() } else { format!(" {effects:?}") };
        assert_eq!(format!("{} [{}]{effects}", report.state, steps.join(", ")), expected);
    }

    fn spec_only(view: &mut ClusterView) -> GuestSpec {
        let spec = fixture::guest("a", Pool::Mirror);
        view.guests.insert(name(), spec.clone());
        spec
    }

    #[test]
    fn a_guest_that_shuts_itself_down_while_it_is_made_is_made() {
        let mut view = cluster(2);
        fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        view.in_sync.get_mut(&fixture::volume("a")).unwrap().members.retain(|r| r.host.as_str() == "host1");
        assert!(matches!(is_in_sync(&view, &name()), Seen::Waits(_)));
        view.guest_reports.get_mut(&name()).unwrap().state = GuestState::Stopped;
        assert!(matches!(is_in_sync(&view, &name()), Seen::Done));
    }

    #[test]
    fn whoever_is_still_counted_on_is_told_that_the_guest_was_deleted() {
        let mut view = cluster(3);
        fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        view.assignments.get_mut(&name()).unwrap().secondary = Some(fixture::host("host3"));
        let told = holders(&view, &view.guests[&name()], &view.assignments[&name()]);
        assert_eq!(told, ["host1", "host2", "host3"].map(fixture::host).into());
    }

    #[test]
    fn a_creation_follows_the_guest_until_it_is_in_sync() {
        let (spec, mut report) = (job(JobKind::CreateGuest { guest: name() }), None);
        let mut view = cluster(2);
        spec_only(&mut view);
        check(
            &view,
            &spec,
            &mut report,
            "running [choose hosts:Running, make volumes:Waiting, start:Waiting, fill the secondary:Waiting]",
        );
        fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        check(
            &view,
            &spec,
            &mut report,
            "done [choose hosts:Done, make volumes:Done, start:Done, fill the secondary:Done]",
        );
    }

    #[test]
    fn a_creation_that_fails_leaves_nothing() {
        let (spec, mut report) = (job(JobKind::CreateGuest { guest: name() }), None);
        let mut view = cluster(2);
        fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        view.in_sync.clear();
        let failed = view.guest_reports.get_mut(&name()).unwrap();
        failed.state = GuestState::Failed;
        failed.message = Some("the image is gone".into());
        let undoing =
            "undoing [choose hosts:Done, make volumes:Failed, start:Waiting, fill the secondary:Waiting]";
        let (new, _) = advance(&view, &spec, None, NOW).unwrap();
        assert_eq!(new.error.as_deref(), Some("the image is gone"));
        report.replace(new);
        check(&view, &spec, &mut report, &format!("{undoing} [MarkDeleting {{ guest: GuestName(\"a\") }}]"));
        view.guests.get_mut(&name()).unwrap().deleting = true;
        check(&view, &spec, &mut report, undoing);
        view.guest_reports.get_mut(&name()).unwrap().state = GuestState::Deleted;
        check(&view, &spec, &mut report, &format!("{undoing} [Forget {{ guest: GuestName(\"a\") }}]"));
        view.guests.clear();
        check(
            &view,
            &spec,
            &mut report,
            "failed [choose hosts:Undone, make volumes:Failed, start:Waiting, fill the secondary:Waiting]",
        );
    }

    #[test]
    fn a_guest_on_a_lost_host_can_be_deleted() {
        let (spec, mut report) = (job(JobKind::DeleteGuest { guest: name() }), None);
        let mut view = cluster(2);
        fixture::put(&mut view, "a", Pool::Local, "host1", None);
        view.guests.get_mut(&name()).unwrap().deleting = true;
        fixture::power_off(&mut view, "host1");
        check(
            &view,
            &spec,
            &mut report,
            "running [end and delete:Running] [Forget { guest: GuestName(\"a\") }]",
        );
        view.guests.clear();
        check(&view, &spec, &mut report, "done [end and delete:Done]");
    }

    #[test]
    fn a_stop_waits_for_the_report() {
        let (spec, mut report) = (job(JobKind::StopGuest { guest: name() }), None);
        let mut view = cluster(2);
        fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        view.guests.get_mut(&name()).unwrap().power = PowerWish::Stopped;
        check(&view, &spec, &mut report, "running [shut down:Running]");
        view.guest_reports.get_mut(&name()).unwrap().state = GuestState::Stopped;
        check(&view, &spec, &mut report, "done [shut down:Done]");
    }
}
