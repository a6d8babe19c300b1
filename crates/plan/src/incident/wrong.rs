//! What is wrong now, and what was wrong a moment ago.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use model::{
    ClusterView, Duty, EventKind, ExitReason, GuestName, GuestPhase, GuestSpec, GuestState, HealthState,
    HostName, HostPhase, IncidentKind, JobKind, JobState, PowerWish, Weight,
};

use super::FRESH;
use crate::heal::degraded_since;

/// How long a volume has one replica before that is an incident: moves, growing disks and short breaks of the network
/// are over sooner, and the loss of a host is known by then.
const ALONE_FOR: SignedDuration = SignedDuration::from_secs(5);

/// How long a target of alerts must have failed.
const ALERTS_FAIL_FOR: SignedDuration = SignedDuration::from_secs(30);

/// How long ago a host was said to be lost that is being found lost now.
const TOLD_WITHIN: SignedDuration = SignedDuration::from_secs(30);

/// Whether something is wrong still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasts {
    Still,
    Over,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub kind: IncidentKind,
    pub subject: String,
    pub guest: Option<GuestName>,
    pub weight: Weight,
    /// One sentence without a full stop.
    pub why: String,
    pub since: Option<Timestamp>,
    pub lasts: Lasts,
    /// Whether it is an incident by itself. What does not open one keeps one open that is about it.
    pub opens: bool,
}

impl Wrong {
    fn of_guest(kind: IncidentKind, guest: &GuestName, weight: Weight, why: String) -> Wrong {
        let (subject, guest) = (format!("guest/{guest}"), Some(guest.clone()));
        Wrong { kind, subject, guest, weight, why, since: None, lasts: Lasts::Still, opens: true }
    }

    fn of(kind: IncidentKind, subject: String, weight: Weight, why: String) -> Wrong {
        Wrong { kind, subject, guest: None, weight, why, since: None, lasts: Lasts::Still, opens: true }
    }

    pub fn is_over(&self) -> bool {
        self.lasts == Lasts::Over
    }

    pub fn name(&self) -> &str {
        self.subject.split_once('/').map_or(self.subject.as_str(), |(_, name)| name)
    }
}

/// What was told lately of each guest.
#[derive(Debug, Default)]
pub(super) struct News {
    /// When its owner let go of its secondary.
    alone: BTreeMap<String, Timestamp>,
    /// When it was said to wait.
    waits: BTreeMap<String, Timestamp>,
    /// When each host was said to be lost.
    lost: BTreeMap<String, Timestamp>,
    /// Guests that are being moved because somebody wants that.
    moved: BTreeSet<GuestName>,
}

impl News {
    pub fn of(view: &ClusterView, now: Timestamp) -> News {
        let mut news = News::default();
        let fresh = |at: Timestamp| now.duration_since(at) <= FRESH;
        // Ids grow with time.
        for event in view.events.values().rev().take_while(|event| fresh(event.at)) {
            let list = if event.kind == EventKind::VolumeAlone {
                &mut news.alone
            } else if event.kind == EventKind::GuestWaiting {
                &mut news.waits
            } else if event.kind == EventKind::HostLost {
                &mut news.lost
            } else {
                continue;
            };
            list.entry(event.subject.clone()).or_insert(event.at);
        }
        let ended = |id| view.job_reports.get(id).is_some_and(|report| report.state.is_terminal());
        let jobs = view.jobs.values().filter(|job| !ended(&job.id));
        news.moved.extend(jobs.filter_map(|job| match &job.kind {
            JobKind::MoveGuest { guest, heals: None, .. } => Some(guest.clone()),
            JobKind::MoveGuest { heals: Some(_), .. }
            | JobKind::CreateGuest { .. }
            | JobKind::DeleteGuest { .. }
            | JobKind::StartGuest { .. }
            | JobKind::StopGuest { .. }
            | JobKind::RestartGuest { .. }
            | JobKind::BuildImage { .. }
            | JobKind::VerifyVolume { .. }
            | JobKind::DrainHost { .. }
            | JobKind::Balance { .. } => None,
        }));
        news
    }
}

/// All of it.
pub(super) fn all(
    view: &ClusterView,
    unwell: &BTreeMap<HostName, String>,
    news: &News,
    now: Timestamp,
) -> Vec<Wrong> {
    let mut wrong = lost_hosts(view, news, now);
    for spec in view.guests.values().filter(|spec| !spec.deleting) {
        wrong.extend(guest_down(view, spec, news));
        wrong.extend(crashed(view, spec, now));
        wrong.extend(unwell_guest(view, spec));
        wrong.extend(restarted(view, spec, now));
        wrong.extend(degraded(view, spec, news, now));
    }
    wrong.extend(failed_moves(view, now));
    wrong.extend(differences(view));
    let live = unwell.iter().filter(|(host, _)| view.is_live(host));
    wrong.extend(live.map(|(host, why)| {
        let said = format!("the state store's member on {host} is not well: {why}");
        Wrong::of(IncidentKind::StoreMemberUnwell, format!("host/{host}"), Weight::Warning, said)
    }));
    if !view.damaged.is_empty() {
        let said = format!("{} records of the state store are damaged, and are skipped", view.damaged.len());
        wrong.push(Wrong::of(IncidentKind::RecordsDamaged, "cluster".into(), Weight::Critical, said));
    }
    let failing = view.alert_states.values().filter(|state| view.alerts.contains_key(&state.name));
    wrong.extend(failing.filter_map(|state| {
        let (why, since) = (state.problem.as_ref()?, state.failing_since?);
        let said = format!("alerts to '{}' do not arrive: {why}", state.name);
        let subject = format!("alert/{}", state.name);
        let opens = now.duration_since(since) >= ALERTS_FAIL_FOR;
        Some(Wrong {
            opens,
            since: Some(since),
            ..Wrong::of(IncidentKind::AlertsFail, subject, Weight::Warning, said)
        })
    }));
    wrong
}

/// A host in maintenance is expected to go.
fn lost_hosts(view: &ClusterView, news: &News, now: Timestamp) -> Vec<Wrong> {
    let lost = view.hosts.values().filter(|host| view.host_phase(&host.name) == HostPhase::Lost);
    let unasked = lost.filter(|host| host.duty != Duty::Maintenance);
    let wrong = unasked.map(|host| {
        let (subject, said) = (format!("host/{}", host.name), format!("{} is lost", host.name));
        // An older one may speak of an earlier loss.
        let since = news.lost.get(&subject).copied().filter(|at| now.duration_since(*at) <= TOLD_WITHIN);
        Wrong { since, ..Wrong::of(IncidentKind::HostLost, subject, Weight::Warning, said) }
    });
    wrong.collect()
}

fn guest_down(view: &ClusterView, spec: &GuestSpec, news: &News) -> Option<Wrong> {
    if spec.power != PowerWish::Running {
        return None;
    }
    let report = view.guest_reports.get(&spec.name);
    let phase = GuestPhase::derive(spec, view.assignments.get(&spec.name), report, view);
    let name = &spec.name;
    let (kind, what, opens, since) = match phase {
        GuestPhase::Failed => {
            (IncidentKind::GuestDown, "has failed", true, report.map(|report| report.since))
        }
        GuestPhase::Paused => (IncidentKind::DiskFull, "stands still for want of room", true, None),
        GuestPhase::Waiting => {
            let told = news.waits.get(&format!("guest/{name}")).copied();
            (IncidentKind::GuestDown, "waits for a host", told.is_some(), told)
        }
        GuestPhase::Unknown => (IncidentKind::GuestDown, "was on a host that is lost", false, None),
        GuestPhase::Preparing | GuestPhase::Starting => {
            (IncidentKind::GuestDown, "is being started", false, None)
        }
        GuestPhase::Running | GuestPhase::Stopping | GuestPhase::Stopped | GuestPhase::Deleting => {
            return None;
        }
    };
    let wrong = Wrong::of_guest(kind, name, Weight::Critical, format!("{name} {what}"));
    Some(Wrong { opens, since, ..wrong })
}

/// A machine that died, though it may run again by now.
fn crashed(view: &ClusterView, spec: &GuestSpec, now: Timestamp) -> Option<Wrong> {
    let exit = view.guest_reports.get(&spec.name)?.exit.as_ref()?;
    if exit.reason != ExitReason::Crashed || now.duration_since(exit.at) > FRESH {
        return None;
    }
    let said = format!("the machine of {} died", spec.name);
    let wrong = Wrong::of_guest(IncidentKind::GuestDown, &spec.name, Weight::Critical, said);
    Some(Wrong { since: Some(exit.at), lasts: Lasts::Over, ..wrong })
}

/// One that runs and is not well, by the word of its owner.
fn unwell_guest(view: &ClusterView, spec: &GuestSpec) -> Option<Wrong> {
    let report = view.guest_reports.get(&spec.name).filter(|report| report.guest_id == spec.id)?;
    let current = report.state == GuestState::Running && view.is_live(&report.host);
    let health = report.health.as_ref().filter(|_| current && spec.power == PowerWish::Running)?;
    let what = match health.state {
        HealthState::Unhealthy => "is not well",
        HealthState::Restarting => "is being restarted",
        HealthState::Off | HealthState::Unknown | HealthState::Starting | HealthState::Healthy => {
            return None;
        }
    };
    let why = health.message.as_deref().unwrap_or("it does not say why");
    let said = format!("{} {what}: {why}", spec.name);
    let wrong = Wrong::of_guest(IncidentKind::GuestUnwell, &spec.name, Weight::Critical, said);
    Some(Wrong { since: Some(health.since), ..wrong })
}

/// One that was restarted because it was not well, though it is well by now.
fn restarted(view: &ClusterView, spec: &GuestSpec, now: Timestamp) -> Option<Wrong> {
    let report = view.guest_reports.get(&spec.name).filter(|report| report.guest_id == spec.id)?;
    let last = report.health.as_ref()?.restarts.last()?;
    if now.duration_since(last.at) > FRESH {
        return None;
    }
    let said = format!("{} was restarted: {}", spec.name, last.why);
    let wrong = Wrong::of_guest(IncidentKind::GuestUnwell, &spec.name, Weight::Critical, said);
    Some(Wrong { since: Some(last.at), lasts: Lasts::Over, ..wrong })
}

/// A new guest has one replica at first, too, and one that somebody moves, or has filled anew: what its owner has not
/// told of, or was asked for, is none by itself.
fn degraded(view: &ClusterView, spec: &GuestSpec, news: &News, now: Timestamp) -> Option<Wrong> {
    if spec.power != PowerWish::Running {
        return None;
    }
    let since = degraded_since(view, spec)?;
    let told = news.alone.contains_key(&format!("guest/{}", spec.name));
    let sets = || spec.disks.iter().filter_map(|disk| view.in_sync.get(&disk.volume));
    let refill = sets().any(|set| set.doubted || set.resync < spec.resync.generation);
    let asked_for = refill || news.moved.contains(&spec.name);
    let opens = told && !asked_for && now.duration_since(since) >= ALONE_FOR;
    let said = format!("{} has one replica", spec.name);
    let wrong = Wrong::of_guest(IncidentKind::VolumeDegraded, &spec.name, Weight::Warning, said);
    Some(Wrong { since: Some(since), opens, ..wrong })
}

fn failed_moves(view: &ClusterView, now: Timestamp) -> impl Iterator<Item = Wrong> {
    view.job_reports.values().filter(|report| report.state == JobState::Failed).filter_map(move |report| {
        let at = report.ended_at.filter(|at| now.duration_since(*at) <= FRESH)?;
        let JobKind::MoveGuest { guest, .. } = &view.jobs.get(&report.id)?.kind else { return None };
        let why = report.error.as_deref().unwrap_or("no reason was recorded");
        let wrong = Wrong::of_guest(IncidentKind::MoveFailed, guest, Weight::Warning, why.to_owned());
        Some(Wrong { since: Some(at), lasts: Lasts::Over, ..wrong })
    })
}

fn differences(view: &ClusterView) -> Vec<Wrong> {
    let verified = view.verified();
    let mut wrong = Vec::new();
    for spec in view.guests.values() {
        let found = spec.disks.iter().filter_map(|disk| Some((disk.volume, *verified.get(&disk.volume)?)));
        let unlike = found.into_iter().find(|(volume, found)| view.still_differs(*volume, found));
        wrong.extend(unlike.map(|(volume, found)| {
            let said = format!(
                "the replicas of {} differ in {}: `kennel volume resync {volume}` mends that",
                spec.name, found.unlike
            );
            let wrong = Wrong::of_guest(IncidentKind::ReplicasDiffer, &spec.name, Weight::Critical, said);
            Wrong { since: Some(found.at), ..wrong }
        }));
    }
    wrong
}
