use jiff::{SignedDuration, Timestamp};
use model::{AlertWay, Weight};
use uuid::Uuid;

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
}

fn target(from: Weight) -> AlertTarget {
    AlertTarget {
        name: "pager".parse().unwrap(),
        id: Uuid::nil(),
        way: AlertWay::Webhook { url: "http://127.0.0.1/".into() },
        from,
        ca: None,
        has_secret: false,
        created_at: at(100),
    }
}

fn incident(id: u64, weight: Weight, ended_at: Option<i64>) -> Incident {
    Incident {
        id: IncidentId(id),
        kind: IncidentKind::HostLost,
        subject: "host/host1".into(),
        began_at: at(0),
        opened_at: at(0),
        well_since: None,
        ended_at: ended_at.map(at),
        weight,
        peak: weight,
        proven_at: None,
        open_because: Vec::new(),
        guests: BTreeMap::new(),
        more_guests: false,
        entries: Vec::new(),
        more_entries: false,
    }
}

/// What is due, as `occasion incident`; and the state once it was sent.
fn turn(
    target: &AlertTarget,
    state: &mut Option<AlertState>,
    incidents: impl IntoIterator<Item = Incident>,
) -> Vec<String> {
    let incidents = incidents.into_iter().map(|incident| (incident.id, incident)).collect();
    let due = due(target, state.as_ref(), &incidents);
    *state = Some(sent(target, state.as_ref(), &due, &incidents));
    due.iter().map(|due| format!("{:?} {}", due.occasion, due.incident)).collect()
}

#[test]
fn each_turn_of_an_incident_is_told_once() {
    let (target, mut state) = (target(Weight::Warning), None);
    let nothing: [&str; 0] = [];
    assert_eq!(turn(&target, &mut state, [incident(1, Weight::Critical, None)]), ["Opened 1"]);
    assert_eq!(turn(&target, &mut state, [incident(1, Weight::Critical, None)]), nothing);
    assert_eq!(turn(&target, &mut state, [incident(1, Weight::Warning, None)]), ["Changed 1"]);
    assert_eq!(turn(&target, &mut state, [incident(1, Weight::Warning, Some(200))]), ["Ended 1"]);
    assert_eq!(turn(&target, &mut state, [incident(1, Weight::Warning, Some(200))]), nothing);
    let told = state.as_ref().unwrap().told[&IncidentId(1)];
    assert_eq!((told.notices, told.ended), (3, true));
    assert_eq!(turn(&target, &mut state, []), nothing);
    assert!(state.unwrap().told.is_empty(), "what is gone is forgotten");
}

#[test]
fn what_opened_and_ended_unseen_is_one_notice_and_what_ended_before_is_none() {
    let (target, mut state) = (target(Weight::Warning), None);
    let both = [incident(1, Weight::Critical, Some(99)), incident(2, Weight::Critical, Some(101))];
    assert_eq!(turn(&target, &mut state, both), ["Ended 2"]);
}

#[test]
fn who_wants_only_what_is_critical_hears_of_it_to_the_end() {
    let (target, mut state) = (target(Weight::Critical), None);
    let nothing: [&str; 0] = [];
    assert_eq!(turn(&target, &mut state, [incident(1, Weight::Warning, None)]), nothing);
    assert_eq!(turn(&target, &mut state, [incident(1, Weight::Critical, None)]), ["Opened 1"]);
    let less = Incident { peak: Weight::Critical, ..incident(1, Weight::Warning, None) };
    assert_eq!(turn(&target, &mut state, [less]), ["Changed 1"]);
}

#[test]
fn a_target_is_not_told_that_it_cannot_be_told() {
    let (pager, mut state) = (target(Weight::Warning), None);
    let failing = |id, name: &str| Incident {
        kind: IncidentKind::AlertsFail,
        subject: format!("alert/{name}"),
        ..incident(id, Weight::Warning, None)
    };
    assert_eq!(turn(&pager, &mut state, [failing(1, "pager"), failing(2, "mail")]), ["Opened 2"]);
}

#[test]
fn a_target_made_anew_under_an_old_name_begins_anew() {
    let (old, mut state) = (target(Weight::Warning), None);
    turn(&old, &mut state, [incident(1, Weight::Warning, None)]);
    let new = AlertTarget { id: Uuid::from_u128(1), ..old };
    assert_eq!(turn(&new, &mut state, [incident(1, Weight::Warning, None)]), ["Opened 1"]);
}
