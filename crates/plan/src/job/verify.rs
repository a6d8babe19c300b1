//! The leader's part of a comparison of two replicas, which the host of the guest's owner does: it ends one that
//! nobody will ever do, because the volume is gone, or because it is to be cancelled and nobody owns the guest.

use jiff::Timestamp;
use model::{ClusterView, GuestName, JobReport, JobSpec, JobState, VolumeId};

use super::{end, go};

/// False: there is nothing for the leader to do.
pub(super) fn advance(
    view: &ClusterView,
    spec: &JobSpec,
    (guest, volume): (&GuestName, VolumeId),
    report: &mut JobReport,
    now: Timestamp,
) -> bool {
    let exists = view.guests.get(guest).is_some_and(|g| g.disks.iter().any(|disk| disk.volume == volume));
    let is_owned = view.assignments.get(guest).is_some_and(|assignment| view.is_live(&assignment.host));
    let (how, why) = if !exists {
        (JobState::Failed, "the volume was deleted")
    } else if spec.cancel && !is_owned {
        (JobState::Cancelled, "it was cancelled")
    } else {
        return false;
    };
    go(report, JobState::Undoing);
    report.error = Some(why.to_owned());
    end(report, how, now);
    true
}
