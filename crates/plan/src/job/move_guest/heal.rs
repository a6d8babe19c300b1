//! A move that heals: the guest has long had one replica, and another host gets the second one.
//!
//! It gives way when the host that holds the old replica returns while there is still much to copy: what that one
//! lacks is sent more quickly than a whole disk. It does so once for each time that the guest fell to one replica, so
//! that a host that comes and goes does not keep the guest from ever getting a second one.

use jiff::SignedDuration;
use model::{Duty, HostName, JobKind, JobReport, Moving};

use super::{At, Move, percent_filled};
use crate::job::is_over;

/// How long the old host must have been back. One that has just booted may be about to do so again.
const BACK_FOR: SignedDuration = SignedDuration::from_secs(10);

/// From here on the new replica is filled to its end. Percent.
const MUCH_FILLED: u64 = 50;

impl Move<'_> {
    /// Why the secondary goes back to where it was, if it does.
    pub(super) fn recall(&self, at: At<'_>, moving: &Moving) -> Option<String> {
        let old = self.may_be_reused(at, moving)?;
        let new = self.to.secondary.as_ref()?;
        let volumes = at.report.map(|report| report.volumes.as_slice()).unwrap_or_default();
        let begun = at.assignment.secondary.as_ref() == Some(new);
        let nearly = begun && percent_filled(volumes) >= MUCH_FILLED;
        (!nearly && !self.is_in_sync(at, new))
            .then(|| format!("{old} is back, and its replica is used again"))
    }

    /// The host that holds the old replica, if that may become the secondary again.
    fn may_be_reused(&self, at: At<'_>, moving: &Moving) -> Option<HostName> {
        self.heals?;
        let old = moving.from.secondary.as_ref().filter(|old| self.to.secondary.as_ref() != Some(old))?;
        let record = self.view.hosts.get(old).filter(|record| record.duty == Duty::Normal)?;
        let session = self.view.sessions.get(&record.name)?;
        let stays = self.now.duration_since(session.started_at) >= BACK_FOR;
        let dropped = self.drops(at).any(|drop| &drop.host == old);
        (stays && !dropped && !moving.dropping && !self.gave_way_before()).then(|| old.clone())
    }

    /// Whether another try to heal the same gave way already.
    fn gave_way_before(&self) -> bool {
        self.view.jobs.values().any(|job| match &job.kind {
            JobKind::MoveGuest { guest, heals, .. } => {
                job.id != self.job.id
                    && guest == self.guest
                    && *heals == self.heals
                    && is_over(self.view, job)
            }
            JobKind::CreateGuest { .. }
            | JobKind::DeleteGuest { .. }
            | JobKind::StartGuest { .. }
            | JobKind::StopGuest { .. }
            | JobKind::RestartGuest { .. }
            | JobKind::BuildImage { .. }
            | JobKind::VerifyVolume { .. }
            | JobKind::DrainHost { .. }
            | JobKind::Balance { .. } => false,
        })
    }

    /// Whether it was taken back because the old host has returned, which is no failure.
    pub(super) fn was_recalled(&self, report: &JobReport) -> bool {
        let old = report.moving.as_ref().and_then(|moving| moving.from.secondary.as_ref());
        let now = self.view.assignments.get(self.guest).and_then(|now| now.secondary.as_ref());
        self.heals.is_some() && old.is_some() && old == now && old.is_some_and(|old| self.view.is_live(old))
    }
}
