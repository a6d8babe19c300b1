//! Incidents: which are to be opened, what belongs to each, and which have ended.
//!
//! ```text
//!   what is wrong now (wrong) ──▶ held by an open incident? ──no──▶ a new one
//!   what was told (story)     ──▶ entries of the open ones that it is about
//!   nothing held, for a while ──▶ ended, at the moment since when nothing was
//! ```
//!
//! It looks at everything each time, and at nothing but the records; so a leader that takes over goes on where the last
//! one was, opens nothing a second time, and ends what ended meanwhile. Looking again with nothing new changes nothing.
//!
//! What was so for a moment only (a machine that crashed and runs again, a move that failed) opens an incident, too, if
//! none was open about that thing at that time. It is forgotten after [`FRESH`].
//!
//! A lost host's incident holds what is wrong with its guests, until each is as safe as before. So one loss is one story.
//!
//! Called by the leader beside its decisions. No decision reads incidents.

mod story;
mod wrong;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use model::{ClusterView, GuestName, HostName, Incident, IncidentId, IncidentKind, Weight};

use wrong::{News, Wrong};

/// For how long something that is over may open an incident.
pub const FRESH: SignedDuration = SignedDuration::from_mins(10);

/// How much earlier than its incident something may seem to have happened, by another host's clock.
const SLACK: SignedDuration = SignedDuration::from_secs(5);

/// Incidents that are open at the same time; what is wrong beside those opens none.
const OPEN_MAX: usize = 100;

/// Incidents kept, and for how long. Those that are open are always kept, and so is the newest: numbers are not used
/// a second time.
const KEPT_MAX: usize = 200;
const KEPT_FOR: SignedDuration = SignedDuration::from_hours(90 * 24);

/// Guests in one incident, reasons, and things that happened: a record must stay well below a megabyte.
const GUESTS_MAX: usize = 300;
const REASONS_MAX: usize = 8;
const ENTRIES_MAX: usize = 150;

const _: () = assert!(OPEN_MAX < KEPT_MAX, "there is room for stories that have ended");

/// Those that are new, or changed. `unwell`: the members of the state store that are not well, and why.
pub fn look(view: &ClusterView, unwell: &BTreeMap<HostName, String>, now: Timestamp) -> Vec<Incident> {
    let news = News::of(view, now);
    let wrong = wrong::all(view, unwell, &news, now);
    let open = view.incidents.values().filter(|incident| incident.is_open());
    let mut incidents: Vec<Incident> = open.cloned().collect();
    let mut next = view.incidents.keys().next_back().map_or(1, |id| id.0 + 1);
    // What takes others with it opens first: then these are held.
    let mut kinds: Vec<IncidentKind> = wrong.iter().map(|wrong| wrong.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in kinds {
        for wrong in wrong.iter().filter(|wrong| wrong.kind == kind && wrong.opens) {
            let held = incidents.iter().any(|incident| holds(view, incident, wrong));
            if held || wrong.is_over() && is_covered(view, &incidents, wrong) || incidents.len() >= OPEN_MAX {
                continue;
            }
            incidents.push(opened(IncidentId(next), wrong, now));
            next += 1;
        }
    }
    for incident in &mut incidents {
        story::tell(view, incident, now);
        weigh(view, incident, &wrong, now);
    }
    incidents.retain(|incident| view.incidents.get(&incident.id) != Some(incident));
    incidents
}

/// Those that are to be removed, the oldest first.
pub fn surplus(view: &ClusterView, now: Timestamp) -> Vec<IncidentId> {
    let newest = view.incidents.keys().next_back();
    let too_many = view.incidents.len().saturating_sub(KEPT_MAX);
    let ended = view.incidents.values().filter(|incident| Some(&incident.id) != newest);
    let ended = ended.filter_map(|incident| Some((incident.id, incident.ended_at?)));
    let out = ended.enumerate().filter(|(n, (_, end))| *n < too_many || now.duration_since(*end) > KEPT_FOR);
    out.map(|(_, (id, _))| id).collect()
}

fn opened(id: IncidentId, wrong: &Wrong, now: Timestamp) -> Incident {
    Incident {
        id,
        kind: wrong.kind,
        subject: wrong.subject.clone(),
        began_at: wrong.since.unwrap_or(now).min(now),
        opened_at: now,
        well_since: None,
        ended_at: None,
        weight: wrong.weight,
        peak: wrong.weight,
        proven_at: None,
        open_because: Vec::new(),
        guests: BTreeMap::new(),
        more_guests: false,
        entries: Vec::new(),
        more_entries: false,
    }
}

/// Whether something that is wrong, or was for a moment, belongs to an open incident.
fn holds(view: &ClusterView, incident: &Incident, wrong: &Wrong) -> bool {
    let about_guest = || match wrong.guest.as_ref() {
        Some(guest) => concerns(view, incident, guest),
        None => false,
    };
    let in_time = wrong.since.is_none_or(|since| !wrong.is_over() || since >= incident.began_at - SLACK);
    match (incident.kind, wrong.kind) {
        (IncidentKind::HostLost, IncidentKind::StoreMemberUnwell) => incident.name() == wrong.name(),
        (
            IncidentKind::HostLost
            | IncidentKind::GuestDown
            | IncidentKind::GuestUnwell
            | IncidentKind::DiskFull
            | IncidentKind::VolumeDegraded,
            IncidentKind::GuestDown
            | IncidentKind::GuestUnwell
            | IncidentKind::DiskFull
            | IncidentKind::VolumeDegraded
            | IncidentKind::MoveFailed,
        ) => about_guest() && in_time,
        (ours, theirs) => ours == theirs && incident.subject == wrong.subject && in_time,
    }
}

/// Whether an incident is about a guest.
fn concerns(view: &ClusterView, incident: &Incident, guest: &GuestName) -> bool {
    if incident.guests.contains_key(guest) {
        return true;
    }
    match incident.subject.split_once('/') {
        Some(("guest", name)) => name == guest.as_str(),
        Some(("host", name)) => {
            name.parse().is_ok_and(|host| !view.is_live(&host) && story::touches(view, &host, guest))
        }
        Some(_) | None => false,
    }
}

/// Whether something that is over happened in the course of an incident that is kept, open or ended.
fn is_covered(view: &ClusterView, open: &[Incident], wrong: &Wrong) -> bool {
    let Some(at) = wrong.since else { return false };
    let ended = view.incidents.values().filter(|incident| !incident.is_open());
    ended.chain(open).any(|incident| {
        let about = incident.subject == wrong.subject
            || wrong.guest.as_ref().is_some_and(|guest| incident.guests.contains_key(guest));
        let in_time = at >= incident.began_at - SLACK && incident.ended_at.is_none_or(|end| at <= end);
        // A crash in the course of a failed move is a story of its own; a failed move in that of a crash is not.
        about && in_time && (incident.kind <= IncidentKind::VolumeDegraded || incident.kind == wrong.kind)
    })
}

/// What holds it open, what it weighs, and whether it has ended.
fn weigh(view: &ClusterView, incident: &mut Incident, wrong: &[Wrong], now: Timestamp) {
    let held: Vec<&Wrong> = wrong.iter().filter(|wrong| holds(view, incident, wrong)).collect();
    let (over, lasting): (Vec<&Wrong>, Vec<&Wrong>) = held.into_iter().partition(|wrong| wrong.is_over());
    if let Some(weight) = lasting.iter().map(|wrong| wrong.weight).max() {
        incident.weight = weight;
    } else if incident.kind != IncidentKind::ReplicasDiffer {
        incident.weight = Weight::Warning;
    }
    incident.peak = incident.peak.max(incident.weight);
    let mut reasons: Vec<String> = lasting.iter().map(|wrong| wrong.why.clone()).collect();
    reasons.sort_unstable();
    reasons.dedup();
    let more = reasons.len().saturating_sub(REASONS_MAX);
    reasons.truncate(REASONS_MAX);
    if more > 0 {
        reasons.push(format!("and {more} more"));
    }
    incident.open_because = reasons;
    if !lasting.is_empty() {
        incident.well_since = None;
        return;
    }
    let since = *incident.well_since.get_or_insert(now);
    // Something went wrong again and is over already.
    if over.iter().any(|wrong| wrong.since.is_some_and(|at| at > since)) {
        incident.well_since = Some(now);
    } else if now.duration_since(since) >= settles_in(incident.kind) {
        incident.ended_at = Some(since.max(incident.began_at));
    }
}

/// For how long all must be well until an incident counts as ended. What crashed once may well crash again.
fn settles_in(kind: IncidentKind) -> SignedDuration {
    match kind {
        IncidentKind::GuestDown | IncidentKind::GuestUnwell => SignedDuration::from_secs(30),
        // Time for what is told of it to arrive, too.
        IncidentKind::HostLost
        | IncidentKind::DiskFull
        | IncidentKind::VolumeDegraded
        | IncidentKind::MoveFailed
        | IncidentKind::ReplicasDiffer
        | IncidentKind::StoreMemberUnwell
        | IncidentKind::RecordsDamaged
        | IncidentKind::AlertsFail => SignedDuration::from_secs(3),
    }
}

#[cfg(test)]
mod tests;
