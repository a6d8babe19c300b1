//! Who is still to be told of which incident.
//!
//! Decided from the records alone, so that each leader finds the same: what has been sent stands in the target's
//! [`AlertState`], written once it was.

use std::collections::BTreeMap;

use model::{AlertState, AlertTarget, Incident, IncidentId, IncidentKind, Told};

/// What a notice says of an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Occasion {
    Opened,
    /// It weighs more now, or less.
    Changed,
    Ended,
}

/// A notice that is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    pub incident: IncidentId,
    pub occasion: Occasion,
    /// What the target has been told once it was sent.
    pub told: Told,
}

/// All that is to be sent to a target, the oldest incident first. An incident that was opened and has ended since is
/// one notice.
pub fn due(
    target: &AlertTarget,
    state: Option<&AlertState>,
    incidents: &BTreeMap<IncidentId, Incident>,
) -> Vec<Due> {
    let state = state.filter(|state| state.target_id == target.id);
    let due = incidents.values().filter(|incident| is_for(target, incident)).filter_map(|incident| {
        let before = state.and_then(|state| state.told.get(&incident.id));
        let occasion = match (before, incident.is_open()) {
            (None, true) => Occasion::Opened,
            (None, false) => Occasion::Ended,
            (Some(told), false) if !told.ended => Occasion::Ended,
            (Some(told), true) if told.weight != incident.weight => Occasion::Changed,
            (Some(_), _) => return None,
        };
        let notices = before.map_or(0, |told| told.notices) + 1;
        let told = Told { weight: incident.weight, ended: !incident.is_open(), notices };
        Some(Due { incident: incident.id, occasion, told })
    });
    due.collect()
}

/// What ended before the target was named is none of its concern, and neither is that it cannot be reached.
fn is_for(target: &AlertTarget, incident: &Incident) -> bool {
    let own = incident.kind == IncidentKind::AlertsFail && incident.name() == target.name.as_str();
    let over = incident.ended_at.is_some_and(|end| end < target.created_at);
    incident.peak >= target.from && !own && !over
}

/// The state of a target after these notices, without what is said of incidents that are gone.
#[must_use]
pub fn sent(
    target: &AlertTarget,
    state: Option<&AlertState>,
    notices: &[Due],
    incidents: &BTreeMap<IncidentId, Incident>,
) -> AlertState {
    let state = state.filter(|state| state.target_id == target.id);
    let mut state = state.cloned().unwrap_or_else(|| AlertState::new(target));
    state.told.extend(notices.iter().map(|due| (due.incident, due.told)));
    state.told.retain(|incident, _| incidents.contains_key(incident));
    (state.problem, state.failing_since) = (None, None);
    state
}

#[cfg(test)]
mod tests;
