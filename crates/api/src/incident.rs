//! Incidents as people read them: the record, with what can be said of it in words.

use jiff::Timestamp;
use model::{ClusterView, FailoverParts, GuestName, Incident, IncidentId, seconds};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Watched;

/// How many guests, and how many things that happened, a text tells of.
const GUESTS_TOLD: usize = 30;
const ENTRIES_TOLD: usize = 60;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IncidentView {
    pub id: IncidentId,
    /// What it is, in one sentence without a full stop.
    pub headline: String,
    /// How long it lasted, milliseconds; `None`: it is open.
    pub lasted_ms: Option<u64>,
    pub incident: Incident,
    /// What it means for each guest, the order is that of their names.
    pub guests: Vec<IncidentGuestView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IncidentGuestView {
    pub guest: GuestName,
    /// As in `was down for 2.1 s: it ran on host1, and runs on host2 now`.
    pub meaning: String,
    pub parts: FailoverParts,
}

impl IncidentView {
    pub fn of(incident: &Incident) -> Self {
        let guests = incident.guests.iter().map(|(guest, story)| IncidentGuestView {
            guest: guest.clone(),
            meaning: incident.meaning(story),
            parts: incident.parts(story),
        });
        Self {
            id: incident.id,
            headline: incident.headline(),
            lasted_ms: incident.lasted_ms(),
            guests: guests.collect(),
            incident: incident.clone(),
        }
    }

    /// The newest last.
    pub fn list(view: &ClusterView) -> Vec<Self> {
        view.incidents.values().map(Self::of).collect()
    }

    pub fn find(view: &ClusterView, id: IncidentId) -> Option<Self> {
        view.incidents.get(&id).map(Self::of)
    }

    /// The story as plain text of several paragraphs: what it means, how long each part took, what happened when,
    /// in seconds after the beginning. Without the head, which says what it is and when it began.
    pub fn story(&self) -> String {
        let mut text = String::new();
        let mut say = |line: &str| {
            text.push_str(line.trim_end());
            text.push('\n');
        };
        if !self.guests.is_empty() {
            say("What it means");
        }
        let width = self.guests.iter().take(GUESTS_TOLD).map(|guest| guest.guest.as_str().len()).max();
        let width = width.unwrap_or(0);
        for guest in self.guests.iter().take(GUESTS_TOLD) {
            say(&format!("  {:width$}  {}", guest.guest, guest.meaning));
            if let Some(parts) = told(&guest.parts) {
                say(&format!("  {:width$}  {parts}", ""));
            }
        }
        let more = self.guests.len().saturating_sub(GUESTS_TOLD);
        if more > 0 || self.incident.more_guests {
            say(&format!(
                "  and {} more",
                if self.incident.more_guests { "many".to_owned() } else { more.to_string() }
            ));
        }
        if !self.incident.entries.is_empty() {
            say(if self.guests.is_empty() { "What happened" } else { "\nWhat happened" });
        }
        let begin = self.incident.began_at;
        for entry in self.incident.entries.iter().take(ENTRIES_TOLD) {
            let after = entry.at.duration_since(begin).as_secs_f64();
            say(&format!("  {after:>+8.1} s  {}", one_line(&entry.message)));
        }
        if self.incident.more_entries || self.incident.entries.len() > ENTRIES_TOLD {
            say("  and more: `kennel events` tells all of it");
        }
        text
    }
}

/// The parts of a failover on one line, if there was one.
fn told(parts: &FailoverParts) -> Option<String> {
    parts.decide_ms?;
    let part = |name: &str, ms: Option<u64>| ms.map(|ms| format!("{name} {}", seconds(ms)));
    let said = [
        part("proven in", parts.prove_ms),
        part("decided in", parts.decide_ms),
        part("started in", parts.start_ms),
    ];
    Some(said.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl Watched for IncidentView {
    fn watch_id(&self) -> String {
        self.id.to_string()
    }
}

/// A moment as texts that travel say it.
pub fn utc(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use model::{EventId, GuestStory, IncidentEntry, IncidentKind, Severity, Weight};

    use super::*;

    pub fn example() -> IncidentView {
        let at = |ms: i64| Timestamp::from_millisecond(1_800_000_000_000 + ms).unwrap();
        let story = GuestStory {
            from: "host1".parse().ok(),
            down_at: Some(at(0)),
            decided_at: Some(at(200)),
            started_at: Some(at(1_400)),
            to: "host2".parse().ok(),
            ..GuestStory::default()
        };
        let entry = |n: u128, ms: i64, message: &str| IncidentEntry {
            at: at(ms),
            event: EventId(uuid::Uuid::from_u128(n)),
            severity: Severity::Warning,
            seen_by: "host3".parse().unwrap(),
            message: message.to_owned(),
        };
        IncidentView::of(&Incident {
            id: IncidentId(12),
            kind: IncidentKind::HostLost,
            subject: "host/host1".to_owned(),
            began_at: at(0),
            opened_at: at(300),
            well_since: None,
            ended_at: None,
            weight: Weight::Warning,
            peak: Weight::Critical,
            proven_at: None,
            open_because: vec!["host1 is lost".to_owned()],
            guests: BTreeMap::from([("web1".parse().unwrap(), story)]),
            more_guests: false,
            entries: vec![
                entry(1, 0, "host1 is lost: its session is over"),
                entry(2, 200, "'web1' goes to host2"),
            ],
            more_entries: false,
        })
    }

    #[test]
    fn a_story_reads_from_the_top() {
        assert_eq!(
            example().story(),
            "What it means\n\
             \x20 web1  was down for 1.4 s: it ran on host1, and runs on host2 now\n\
             \x20       decided in 0.2 s, started in 1.2 s\n\
             \n\
             What happened\n\
             \x20     +0.0 s  host1 is lost: its session is over\n\
             \x20     +0.2 s  'web1' goes to host2\n"
        );
    }
}
