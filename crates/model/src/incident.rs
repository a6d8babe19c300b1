//! Incidents: what went wrong, as one story each, from the first that was seen of it until all was well again.
//!
//! ```text
//!   something is not as it should be ──▶ open ◀──▶ well for the moment ──lasts──▶ ended
//! ```
//!
//! The leader writes them (`plan::incident` says what): it opens one when something is wrong that belongs to no open
//! incident, adds what is told of the things that it is about, and ends it once nothing is wrong with them any more.
//! All that a new leader needs to go on stands in the record. No decision reads it.
//!
//! The moments come from the daemons that saw them, each by its own host's clock.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{EventId, GuestName, HostName, IncidentId, Severity};

/// How much an incident weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Weight {
    /// Everything runs that should, with less in reserve.
    Warning,
    /// A guest does not run that should, or a person must look.
    Critical,
}

impl Weight {
    pub const ALL: [Weight; 2] = [Weight::Warning, Weight::Critical];
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Weight::Warning => "warning",
            Weight::Critical => "critical",
        })
    }
}

impl FromStr for Weight {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = Weight::ALL.into_iter().find(|weight| weight.to_string() == text);
        known.ok_or_else(|| format!("there is no weight '{text}': there are warning and critical"))
    }
}

/// What is wrong. What takes others with it comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum IncidentKind {
    /// A host has no session, though it is not in maintenance. It is also about its guests.
    HostLost,
    /// A guest that should run has crashed, has failed, or is without a place.
    GuestDown,
    /// A guest runs and is not well: it panicked, or fails its check. It is being restarted, or left alone.
    GuestUnwell,
    /// There is no room for a guest's writes.
    DiskFull,
    /// A guest's disks have one replica each, and nobody asked for that.
    VolumeDegraded,
    /// A move of a guest failed.
    MoveFailed,
    /// A comparison found that two replicas differ.
    ReplicasDiffer,
    /// A member of the state store is not well, though its host is.
    StoreMemberUnwell,
    /// Records of the state store cannot be read.
    RecordsDamaged,
    /// Alerts do not reach whom they are for.
    AlertsFail,
}

/// One story.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Incident {
    pub id: IncidentId,
    pub kind: IncidentKind,
    /// What it is about, as in `host/host2`.
    pub subject: String,
    /// When the first of it was seen.
    #[schema(value_type = String, format = DateTime)]
    pub began_at: Timestamp,
    /// When it was written down.
    #[schema(value_type = String, format = DateTime)]
    pub opened_at: Timestamp,
    /// Since when nothing has been wrong any more.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub well_since: Option<Timestamp>,
    /// Since when all is well, once that has lasted.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// What it weighs now, or weighed last.
    pub weight: Weight,
    /// The most that it has weighed.
    pub peak: Weight,
    /// When a device, or somebody's word, proved that a lost host runs nothing any more.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub proven_at: Option<Timestamp>,
    /// What keeps it open; one sentence without a full stop each.
    pub open_because: Vec<String>,
    /// The guests that it is about, and what it means for each.
    #[schema(value_type = BTreeMap<String, GuestStory>)]
    pub guests: BTreeMap<GuestName, GuestStory>,
    /// It is about more guests than stand in `guests`.
    pub more_guests: bool,
    /// What happened, the oldest first.
    pub entries: Vec<IncidentEntry>,
    /// More happened than stands in `entries`.
    pub more_entries: bool,
}

/// What an incident means for one guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuestStory {
    /// Where it ran. `None`: it runs on all the while.
    pub from: Option<HostName>,
    /// When it was first known not to run.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub down_at: Option<Timestamp>,
    /// When the store had its new owner.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub decided_at: Option<Timestamp>,
    /// When its processors ran their first instruction again.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// Where it runs now.
    pub to: Option<HostName>,
    /// Since when its disks had one replica each.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub alone_at: Option<Timestamp>,
    /// When they had both again.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub in_sync_at: Option<Timestamp>,
}

/// Something that happened in the course of an incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IncidentEntry {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The event that told it.
    pub event: EventId,
    pub severity: Severity,
    pub seen_by: HostName,
    /// One sentence without a full stop.
    pub message: String,
}

/// How long each part of a guest's failover took, milliseconds. A part that did not happen, or not yet, is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailoverParts {
    /// From the end of the old host's session to the proof that it runs nothing any more. Guests with a secondary
    /// need none.
    pub prove_ms: Option<u64>,
    /// Until the store had the new owner.
    pub decide_ms: Option<u64>,
    /// From there to the guest's first instruction.
    pub start_ms: Option<u64>,
    /// All of it, from when the guest was first known not to run.
    pub down_ms: Option<u64>,
}

impl Incident {
    pub fn is_open(&self) -> bool {
        self.ended_at.is_none()
    }

    /// What the subject is called, without its kind.
    pub fn name(&self) -> &str {
        self.subject.split_once('/').map_or(self.subject.as_str(), |(_, name)| name)
    }

    /// What it is, in one sentence without a full stop.
    pub fn headline(&self) -> String {
        let (name, open) = (self.name(), self.is_open());
        let (is, has) = if open { ("is", "has") } else { ("was", "had") };
        match self.kind {
            IncidentKind::HostLost => format!("{name} {is} lost"),
            IncidentKind::GuestDown => format!("{name} broke down"),
            IncidentKind::GuestUnwell => format!("{name} {is} not well"),
            IncidentKind::DiskFull => format!("there {is} no room for what {name} writes"),
            IncidentKind::VolumeDegraded => format!("{name} {has} one replica"),
            IncidentKind::MoveFailed => format!("a move of {name} failed"),
            IncidentKind::ReplicasDiffer => {
                format!("the replicas of {name} {}", if open { "differ" } else { "differed" })
            }
            IncidentKind::StoreMemberUnwell => format!("the state store's member on {name} {is} not well"),
            IncidentKind::RecordsDamaged => {
                format!("records of the state store {} damaged", if open { "are" } else { "were" })
            }
            IncidentKind::AlertsFail => {
                format!("alerts to {name} {} not arrive", if open { "do" } else { "did" })
            }
        }
    }

    /// How long it lasted.
    pub fn lasted_ms(&self) -> Option<u64> {
        self.ended_at.map(|end| between(self.began_at, end))
    }

    /// How long the parts of a guest's failover took.
    pub fn parts(&self, story: &GuestStory) -> FailoverParts {
        let Some(down_at) = story.down_at else { return FailoverParts::default() };
        // A proof that came after the decision was not waited for.
        let proven = self.proven_at.filter(|at| story.decided_at.is_some_and(|decided| *at <= decided));
        let proof = proven.map(|at| at.max(down_at));
        let ready = proof.unwrap_or(down_at);
        FailoverParts {
            prove_ms: proof.map(|at| between(down_at, at)),
            decide_ms: story.decided_at.map(|at| between(ready, at)),
            start_ms: story.started_at.map(|at| between(story.decided_at.unwrap_or(down_at), at)),
            down_ms: story.started_at.map(|at| between(down_at, at)),
        }
    }

    /// What it means for one of its guests; one sentence without a full stop.
    pub fn meaning(&self, story: &GuestStory) -> String {
        let mut said = Vec::new();
        match (&story.from, story.down_at, story.started_at) {
            (Some(from), Some(down), Some(started)) => {
                let seconds = seconds(between(down, started));
                let to = story.to.as_ref().unwrap_or(from);
                said.push(if to == from {
                    format!("was down for {seconds}, and runs on {to} again")
                } else {
                    format!("was down for {seconds}: it ran on {from}, and runs on {to} now")
                });
            }
            (Some(from), Some(_), None) if self.is_open() => {
                said.push(match &story.to {
                    Some(to) if story.decided_at.is_some() => {
                        format!("does not run: it ran on {from}, and {to} is to start it")
                    }
                    Some(_) | None => format!("does not run: it ran on {from}"),
                });
            }
            (Some(from), Some(_), None) => said.push(format!("did not run: it had run on {from}")),
            (Some(_), None, _) | (None, _, _) => said.push(match (self.kind, self.lasted_ms()) {
                (IncidentKind::GuestUnwell, Some(lasted)) => format!("was not well for {}", seconds(lasted)),
                (IncidentKind::GuestUnwell, None) => "runs, and is not well".to_owned(),
                (
                    IncidentKind::HostLost
                    | IncidentKind::GuestDown
                    | IncidentKind::DiskFull
                    | IncidentKind::VolumeDegraded
                    | IncidentKind::MoveFailed
                    | IncidentKind::ReplicasDiffer
                    | IncidentKind::StoreMemberUnwell
                    | IncidentKind::RecordsDamaged
                    | IncidentKind::AlertsFail,
                    _,
                ) => "ran on all the while".to_owned(),
            }),
        }
        match (story.alone_at, story.in_sync_at) {
            (Some(alone), Some(again)) if again >= alone => {
                said.push(format!("had one replica for {}", seconds(between(alone, again))));
            }
            (Some(_), _) if self.is_open() => said.push("has one replica".to_owned()),
            (Some(_) | None, _) => {}
        }
        said.join("; ")
    }
}

/// How long it is from one moment to another, milliseconds; clocks of two hosts may say that it is less than nothing.
fn between(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.duration_since(from).as_millis()).unwrap_or(0)
}

/// A length of time, milliseconds, as people read it.
pub fn seconds(ms: u64) -> String {
    const MINUTE_S: u64 = 60;
    const HOUR_S: u64 = 3600;
    match ms / 1000 {
        0..MINUTE_S => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        s @ MINUTE_S..HOUR_S => format!("{} min {} s", s / MINUTE_S, s % MINUTE_S),
        s => format!("{} h {} min", s / HOUR_S, s % HOUR_S / MINUTE_S),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000 + seconds).unwrap()
    }

    fn incident() -> Incident {
        Incident {
            id: IncidentId(1),
            kind: IncidentKind::HostLost,
            subject: "host/host2".to_owned(),
            began_at: at(0),
            opened_at: at(1),
            well_since: None,
            ended_at: None,
            weight: Weight::Critical,
            peak: Weight::Critical,
            proven_at: None,
            open_because: Vec::new(),
            guests: BTreeMap::new(),
            more_guests: false,
            entries: Vec::new(),
            more_entries: false,
        }
    }

    fn check(incident: &Incident, story: &GuestStory, meaning: &str, parts: [Option<u64>; 4]) {
        assert_eq!(incident.meaning(story), meaning);
        let FailoverParts { prove_ms, decide_ms, start_ms, down_ms } = incident.parts(story);
        assert_eq!([prove_ms, decide_ms, start_ms, down_ms], parts, "{meaning}");
    }

    #[test]
    fn a_failover_is_told_in_its_parts() {
        let mut incident = incident();
        assert_eq!(incident.headline(), "host2 is lost");
        let mut story =
            GuestStory { from: "host2".parse().ok(), down_at: Some(at(0)), ..GuestStory::default() };
        check(&incident, &story, "does not run: it ran on host2", [None; 4]);
        (story.to, story.decided_at) = ("host1".parse().ok(), Some(at(1)));
        check(
            &incident,
            &story,
            "does not run: it ran on host2, and host1 is to start it",
            [None, Some(1000), None, None],
        );
        (story.started_at, story.alone_at) = (Some(at(3)), Some(at(2)));
        let runs = "was down for 3.0 s: it ran on host2, and runs on host1 now";
        check(
            &incident,
            &story,
            &format!("{runs}; has one replica"),
            [None, Some(1000), Some(2000), Some(3000)],
        );
        (story.in_sync_at, incident.ended_at) = (Some(at(92)), Some(at(92)));
        let all = format!("{runs}; had one replica for 1 min 30 s");
        check(&incident, &story, &all, [None, Some(1000), Some(2000), Some(3000)]);
        assert_eq!((incident.headline(), incident.lasted_ms()), ("host2 was lost".to_owned(), Some(92_000)));
    }

    #[test]
    fn a_proof_counts_only_if_the_decision_waited_for_it() {
        let (early, late) = (Some(at(4)), Some(at(9)));
        let story = GuestStory {
            from: "host2".parse().ok(),
            down_at: Some(at(0)),
            decided_at: Some(at(5)),
            started_at: Some(at(7)),
            ..GuestStory::default()
        };
        let parts = |proven_at| Incident { proven_at, ..incident() }.parts(&story);
        assert_eq!((parts(early).prove_ms, parts(early).decide_ms), (Some(4000), Some(1000)));
        assert_eq!((parts(late).prove_ms, parts(late).decide_ms), (None, Some(5000)));
    }

    #[test]
    fn lengths_of_time_are_read_at_a_glance() {
        for (ms, said) in [(0, "0.0 s"), (1_290, "1.2 s"), (61_000, "1 min 1 s"), (7_380_000, "2 h 3 min")] {
            assert_eq!(seconds(ms), said);
        }
    }
}
