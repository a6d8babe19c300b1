//! What happened in the course of an incident, and what it means for each of its guests.

use jiff::{SignedDuration, Timestamp};
use model::{
    ClusterView, Event, EventKind, GuestName, GuestState, GuestStory, HostName, Incident, IncidentEntry,
    IncidentKind, JobKind, PowerWish,
};

use super::{ENTRIES_MAX, GUESTS_MAX, SLACK};
use crate::heal::degraded_since;

/// How much later than what came after it an event may arrive: daemons send them again while the store does not answer.
const LATE: SignedDuration = SignedDuration::from_secs(60);

/// How long before an incident that began that has to do with it: a hold, before the loss of a host is known.
const BEFORE: SignedDuration = SignedDuration::from_secs(10);

/// Brings the story up to date.
pub(super) fn tell(view: &ClusterView, incident: &mut Incident, now: Timestamp) {
    enter_guests(view, incident);
    let from = incident
        .entries
        .last()
        .map_or(incident.began_at - BEFORE, |last| (incident.began_at - BEFORE).max(last.at - LATE));
    // Ids grow with time, but each host has its own clock.
    let recent = view.events.values().rev().take_while(|event| event.at >= from - SLACK);
    let mut fresh: Vec<&Event> =
        recent.filter(|event| event.at >= from && belongs(view, incident, event)).collect();
    fresh.reverse();
    for event in fresh {
        if incident.entries.iter().any(|entry| entry.event == event.id) {
            continue;
        }
        learn(incident, event);
        enter(incident, event);
    }
    look_at_guests(view, incident, now);
}

/// Adds the guests that a lost host owned, or held a replica of; or the one guest that it is about.
fn enter_guests(view: &ClusterView, incident: &mut Incident) {
    match incident.subject.split_once('/') {
        Some(("host", name)) if incident.kind == IncidentKind::HostLost => {
            let Ok(host) = name.parse::<HostName>() else { return };
            if view.is_live(&host) {
                return;
            }
            let running =
                view.guests.values().filter(|spec| spec.power == PowerWish::Running && !spec.deleting);
            for spec in running.filter(|spec| touches(view, &host, &spec.name)) {
                if incident.guests.contains_key(&spec.name) {
                    continue;
                }
                if incident.guests.len() >= GUESTS_MAX {
                    incident.more_guests = true;
                    break;
                }
                let story = begun(view, &host, &spec.name, incident.began_at);
                incident.guests.insert(spec.name.clone(), story);
            }
        }
        Some(("guest", name)) => {
            let Ok(guest) = name.parse::<GuestName>() else { return };
            let down = [IncidentKind::GuestDown, IncidentKind::DiskFull].contains(&incident.kind);
            let host = view.assignments.get(&guest).map(|assignment| assignment.host.clone());
            let down_at = (incident.kind == IncidentKind::GuestDown).then_some(incident.began_at);
            let story = GuestStory { from: host.filter(|_| down), down_at, ..GuestStory::default() };
            incident.guests.entry(guest).or_insert(story);
        }
        Some(_) | None => {}
    }
}

/// Whether a host owns a guest, ran it until just now, or is to hold a replica of it.
pub(super) fn touches(view: &ClusterView, host: &HostName, guest: &GuestName) -> bool {
    let Some(assignment) = view.assignments.get(guest) else { return false };
    let holds = || {
        let disks = view.guests.get(guest).into_iter().flat_map(|spec| &spec.disks);
        disks.filter_map(|disk| view.in_sync.get(&disk.volume)).any(|set| set.contains_host(host))
    };
    assignment.host == *host
        || assignment.secondary.as_ref() == Some(host)
        || ran_on(view, host, guest)
        || holds()
}

/// Whether a guest ran on a host, as far as was heard of it.
fn ran_on(view: &ClusterView, host: &HostName, guest: &GuestName) -> bool {
    view.guest_reports.get(guest).is_some_and(|report| {
        let runs = match report.state {
            GuestState::Preparing | GuestState::Starting | GuestState::Running | GuestState::Stopping => true,
            GuestState::Stopped | GuestState::Failed | GuestState::Deleted => false,
        };
        report.host == *host && runs
    })
}

fn begun(view: &ClusterView, host: &HostName, guest: &GuestName, began_at: Timestamp) -> GuestStory {
    let owned = view.assignments.get(guest).is_some_and(|assignment| assignment.host == *host);
    if !owned && !ran_on(view, host, guest) {
        return GuestStory::default();
    }
    GuestStory { from: Some(host.clone()), down_at: Some(began_at), ..GuestStory::default() }
}

/// Whether an event is part of an incident's story.
fn belongs(view: &ClusterView, incident: &Incident, event: &Event) -> bool {
    if event.subject == incident.subject {
        return true;
    }
    let ours = |guest: &GuestName| incident.guests.contains_key(guest);
    match event.subject.split_once('/') {
        Some(("guest", name)) => name.parse().is_ok_and(|guest| ours(&guest)),
        Some(("job", id)) => id.parse().is_ok_and(|id| match view.jobs.get(&id).map(|job| &job.kind) {
            Some(
                JobKind::MoveGuest { guest, .. }
                | JobKind::StartGuest { guest }
                | JobKind::StopGuest { guest }
                | JobKind::RestartGuest { guest },
            ) => ours(guest),
            Some(
                JobKind::CreateGuest { .. }
                | JobKind::DeleteGuest { .. }
                | JobKind::BuildImage { .. }
                | JobKind::VerifyVolume { .. }
                | JobKind::DrainHost { .. }
                | JobKind::Balance { .. },
            )
            | None => false,
        }),
        Some(_) => false,
        None => incident.kind == IncidentKind::HostLost && event.kind == EventKind::LeaderElected,
    }
}

fn enter(incident: &mut Incident, event: &Event) {
    if incident.entries.len() >= ENTRIES_MAX {
        incident.more_entries = true;
        return;
    }
    let at = incident.entries.partition_point(|entry| (entry.at, entry.event) <= (event.at, event.id));
    let entry = IncidentEntry {
        at: event.at,
        event: event.id,
        severity: event.severity,
        seen_by: event.seen_by.clone(),
        message: event.message.clone(),
    };
    incident.entries.insert(at, entry);
}

/// Takes the moments out of what was told.
fn learn(incident: &mut Incident, event: &Event) {
    let about_it = event.subject == incident.subject;
    if about_it && event.kind == EventKind::HostLost && event.at >= incident.began_at - SLACK {
        // Whoever opened it may have been a little later than the leader's eye.
        let (seen, began) = (event.at.min(incident.began_at), incident.began_at);
        incident.began_at = seen;
        for story in incident.guests.values_mut().filter(|story| story.down_at == Some(began)) {
            story.down_at = Some(seen);
        }
    }
    if about_it && [EventKind::HostFenced, EventKind::HostConfirmedDead].contains(&event.kind) {
        incident.proven_at.get_or_insert(event.at);
    }
    let guest = event.subject.strip_prefix("guest/").and_then(|name| name.parse::<GuestName>().ok());
    let host = incident.subject.strip_prefix("host/").and_then(|name| name.parse::<HostName>().ok());
    let Some(story) = guest.and_then(|guest| incident.guests.get_mut(&guest)) else { return };
    let first = |known: Option<Timestamp>| Some(known.map_or(event.at, |known| known.min(event.at)));
    if event.kind == EventKind::GuestPromoted {
        // Its old host's report may have been gone when the incident was opened.
        story.from = story.from.take().or(host);
        story.down_at = story.down_at.or(Some(incident.began_at));
        story.decided_at = story.decided_at.or(Some(event.at));
    } else if event.kind == EventKind::GuestStarted {
        let after = story.decided_at.or(story.down_at);
        let one_clock = story.from.as_ref() == Some(&event.seen_by);
        let slack = if one_clock { SignedDuration::ZERO } else { SLACK };
        if after.is_some_and(|after| event.at >= after - slack) {
            story.started_at = first(story.started_at);
        }
    } else if event.kind == EventKind::VolumeAlone {
        story.alone_at = first(story.alone_at);
    } else if event.kind == EventKind::VolumeInSync && story.alone_at.is_some_and(|alone| event.at >= alone) {
        story.in_sync_at = Some(event.at);
    }
}

/// What no event has told, or not yet.
fn look_at_guests(view: &ClusterView, incident: &mut Incident, now: Timestamp) {
    for (name, story) in &mut incident.guests {
        let Some(spec) = view.guests.get(name) else { continue };
        let assignment = view.assignments.get(name);
        if story.down_at.is_some() {
            story.to = assignment.map(|assignment| assignment.host.clone());
        }
        let running = view.guest_reports.get(name).filter(|report| {
            let current = assignment.is_some_and(|own| report.host == own.host && report.epoch == own.epoch);
            current && report.state == GuestState::Running && view.is_live(&report.host)
        });
        if let (Some(report), Some(down), None) = (running, story.down_at, story.started_at)
            && report.since >= down
        {
            story.started_at = Some(report.since);
        }
        match (degraded_since(view, spec), story.alone_at, story.in_sync_at) {
            (Some(since), None, _) if spec.is_mirrored() => story.alone_at = Some(since),
            (None, Some(_), None) if running.is_some() => story.in_sync_at = Some(now),
            (Some(_) | None, _, _) => {}
        }
    }
}
