//! Jobs: durable operations of several steps that survive the death of whoever was running them.
//!
//! A job is two records: its spec (the API writes what was asked, and whether it is to be cancelled) and its
//! report (its runner, the leader or one host, writes how far it is).
//!
//! ```text
//!   waiting ──▶ running ──▶ done
//!                 │  └────▶ undoing ──▶ failed | cancelled
//! ```

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Bytes, Epoch, GuestName, HandoverKind, HostName, ImageName, JobId, MoveOptions, VolumeId};

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobSpec {
    pub id: JobId,
    pub kind: JobKind,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Who asked: the name of a token.
    pub requested_by: String,
    /// The only host that can run it, for a job that works on that host's files; the leader runs the others.
    pub runner: Option<HostName>,
    pub cancel: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JobKind {
    CreateGuest {
        guest: GuestName,
    },
    DeleteGuest {
        guest: GuestName,
    },
    StartGuest {
        guest: GuestName,
    },
    StopGuest {
        guest: GuestName,
    },
    RestartGuest {
        guest: GuestName,
    },
    BuildImage {
        image: ImageName,
        recipe: Recipe,
    },
    /// Bring a guest, and its secondary, to other hosts.
    MoveGuest {
        guest: GuestName,
        to: GuestPlace,
        #[serde(default)]
        options: MoveOptions,
        /// It is made because the guest has had one replica since then. Such a move gives way to the host that
        /// holds the old one, if that returns while there is still much to copy.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<String>, format = DateTime)]
        heals: Option<Timestamp>,
    },
    /// Compare both replicas of a volume while its guest runs. Its owner's host does it.
    VerifyVolume {
        guest: GuestName,
        volume: VolumeId,
    },
    /// Bring everything off a host; which guests go where is decided while it runs.
    DrainHost {
        host: HostName,
    },
    /// Make these moves, in this order; each is looked at again before it is made.
    Balance {
        moves: Vec<(GuestName, GuestPlace)>,
    },
}

/// Where a guest shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuestPlace {
    pub host: HostName,
    pub secondary: Option<HostName>,
}

/// An image that Kennel can make by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    /// A few megabytes: busybox, a cloud kernel, the guest agent.
    Tiny,
    /// Debian 13 with systemd, cloud-init, sshd and the guest agent.
    Debian,
}

impl JobKind {
    /// The volume whose replicas it compares, if it does that.
    pub fn verifies(&self) -> Option<VolumeId> {
        match self {
            JobKind::VerifyVolume { volume, .. } => Some(*volume),
            JobKind::CreateGuest { .. }
            | JobKind::DeleteGuest { .. }
            | JobKind::StartGuest { .. }
            | JobKind::StopGuest { .. }
            | JobKind::RestartGuest { .. }
            | JobKind::BuildImage { .. }
            | JobKind::MoveGuest { .. }
            | JobKind::DrainHost { .. }
            | JobKind::Balance { .. } => None,
        }
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            JobKind::CreateGuest { guest } => format!("create guest {guest}"),
            JobKind::DeleteGuest { guest } => format!("delete guest {guest}"),
            JobKind::StartGuest { guest } => format!("start guest {guest}"),
            JobKind::StopGuest { guest } => format!("stop guest {guest}"),
            JobKind::RestartGuest { guest } => format!("restart guest {guest}"),
            JobKind::BuildImage { image, .. } => format!("build image {image}"),
            JobKind::MoveGuest { guest, to, heals: None, .. } => format!("move guest {guest} to {to}"),
            JobKind::MoveGuest { guest, to, heals: Some(since), .. } => {
                format!("give guest {guest} another secondary, {to}: degraded since {since:.0}")
            }
            JobKind::VerifyVolume { guest, volume } => format!("verify volume {volume} of {guest}"),
            JobKind::DrainHost { host } => format!("drain host {host}"),
            JobKind::Balance { moves } => format!("balance with {} moves", moves.len()),
        };
        f.pad(&text)
    }
}

impl fmt::Display for GuestPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.secondary {
            Some(secondary) => f.pad(&format!("{} + {secondary}", self.host)),
            None => f.pad(self.host.as_str()),
        }
    }
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobReport {
    pub id: JobId,
    pub state: JobState,
    pub steps: Vec<JobStep>,
    /// Why it failed; one sentence without a full stop.
    pub error: Option<String>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// What a move of a guest must remember.
    #[serde(default)]
    pub moving: Option<Moving>,
    /// What a comparison of two replicas has found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
}

/// What a comparison of two replicas has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Verified {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The hosts of the two replicas, the owner first.
    pub hosts: Vec<HostName>,
    /// As [`crate::InSync::resync`] was: one that was asked for since has made up for what was found.
    pub resync: u64,
    /// From the beginning; less than the volume's size if too much was unlike.
    pub compared: Bytes,
    /// How much differs; nothing: no difference was found.
    pub unlike: Bytes,
    /// What the guest wrote all the while, so that nothing can be said of it.
    pub busy: Bytes,
    /// Where they differ; the first ranges only.
    pub ranges: Vec<ByteRange>,
}

/// A part of a volume, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ByteRange {
    pub start: u64,
    pub length: u64,
}

/// What a move of a guest remembers from step to step, so that any leader can go on with it or undo it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Moving {
    /// Where the guest was when the move began.
    pub from: GuestPlace,
    /// The epoch in which the move left the guest last; any other is not the move's doing.
    pub epoch: Epoch,
    /// When the present wait began, if it is one that must not last for ever.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub waits_since: Option<Timestamp>,
    /// How the guest changed its host, once it did.
    pub how: Option<HandoverKind>,
    /// When it stood still for that; `None` if it did not run.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub down_since: Option<Timestamp>,
    /// The guest did not start on its new host, and is to go back.
    pub returning: bool,
    /// The hosts that have no part in the guest any more were told to delete their replicas.
    pub dropping: bool,
}

impl JobReport {
    /// A report that nobody has written yet.
    pub fn new(id: JobId, steps: impl IntoIterator<Item = &'static str>) -> Self {
        let steps = steps.into_iter().map(JobStep::waiting).collect();
        Self {
            id,
            state: JobState::Waiting,
            steps,
            error: None,
            ended_at: None,
            moving: None,
            verified: None,
        }
    }

    /// Between 0 and 1: the share of its steps that are done.
    pub fn progress(&self) -> f64 {
        let done = self.steps.iter().filter(|step| step.state == StepState::Done).count();
        if self.state == JobState::Done { 1.0 } else { done as f64 / self.steps.len().max(1) as f64 }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobStep {
    pub name: String,
    pub state: StepState,
    /// What it waits for.
    pub note: Option<String>,
}

impl JobStep {
    fn waiting(name: &str) -> Self {
        Self { name: name.to_owned(), state: StepState::Waiting, note: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    Waiting,
    Running,
    Done,
    Failed,
    Undone,
    /// It turned out not to be good any more when its turn came; the note says why.
    Skipped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    Waiting,
    Running,
    /// A step failed, or somebody cancelled: what was done is taken back.
    Undoing,
    Done,
    Failed,
    Cancelled,
}

/// A change of state that no job makes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a job cannot go from {from} to {to}")]
pub struct Illegal {
    from: JobState,
    to: JobState,
}

impl JobState {
    pub fn is_terminal(self) -> bool {
        match self {
            JobState::Done | JobState::Failed | JobState::Cancelled => true,
            JobState::Waiting | JobState::Running | JobState::Undoing => false,
        }
    }

    /// The one way from state to state.
    pub fn to(self, to: JobState) -> Result<JobState, Illegal> {
        use JobState::{Cancelled, Done, Failed, Running, Undoing, Waiting};
        let legal = match self {
            Waiting => matches!(to, Running | Undoing),
            Running => matches!(to, Done | Undoing),
            Undoing => matches!(to, Failed | Cancelled),
            Done | Failed | Cancelled => false,
        };
        if legal { Ok(to) } else { Err(Illegal { from: self, to }) }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            JobState::Waiting => "waiting",
            JobState::Running => "running",
            JobState::Undoing => "undoing",
            JobState::Done => "done",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_ended_stays_ended() {
        let all = [
            JobState::Waiting,
            JobState::Running,
            JobState::Undoing,
            JobState::Done,
            JobState::Failed,
            JobState::Cancelled,
        ];
        for from in all.into_iter().filter(|state| state.is_terminal()) {
            for to in all {
                assert!(from.to(to).is_err(), "{from} to {to}");
            }
        }
        assert_eq!(JobState::Running.to(JobState::Done), Ok(JobState::Done));
        assert!(JobState::Waiting.to(JobState::Done).is_err());
    }
}
