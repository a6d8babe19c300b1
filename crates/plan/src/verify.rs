//! Which volume's replicas are compared next, so that each is looked at as often as the settings say.
//!
//! One at a time in the whole cluster: comparing reads both disks. A volume that was never compared has its turn some
//! time within the first period of its life; which time follows from its id, so that volumes that were made together
//! are not all compared together.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use model::{
    ClusterView, GuestName, GuestPhase, HostName, JobId, JobSpec, JobState, Pool, Settings, VolumeId,
};

/// After one that failed it is tried again sooner than usual, seconds.
const AGAIN_AFTER: u32 = 24 * 3600;

/// What is to be compared now. `None`: nothing is.
pub fn due(view: &ClusterView, now: Timestamp) -> Option<(GuestName, VolumeId)> {
    let every =
        view.cluster.as_ref().map_or(Settings::default().verify_every_s, |c| c.settings.verify_every_s);
    if every == 0 || under_way(view).next().is_some() {
        return None;
    }
    let tried = last_tries(view);
    let mut best: Option<(Timestamp, VolumeId, &GuestName)> = None;
    for spec in view.guests.values() {
        let Some(assignment) = view.assignments.get(&spec.name) else { continue };
        let report = view.guest_reports.get(&spec.name);
        if GuestPhase::derive(spec, Some(assignment), report, view) != GuestPhase::Running {
            continue;
        }
        for disk in spec.disks.iter().filter(|disk| disk.pool == Pool::Mirror) {
            let both = |set: &model::InSync| {
                set.members.len() > 1 && set.members.iter().all(|replica| view.boot_is_live(replica))
            };
            if !view.in_sync.get(&disk.volume).is_some_and(both) {
                continue;
            }
            let at = match tried.get(&disk.volume) {
                Some((last, true)) => *last + seconds(every),
                Some((last, false)) => *last + seconds(every.min(AGAIN_AFTER)),
                None => spec.created_at + SignedDuration::from_secs(spread(disk.volume, every)),
            };
            let this = (at, disk.volume, &spec.name);
            if at <= now && best.is_none_or(|best| this < best) {
                best = Some(this);
            }
        }
    }
    best.map(|(_, volume, guest)| (guest.clone(), volume))
}

fn seconds(seconds: u32) -> SignedDuration {
    SignedDuration::from_secs(i64::from(seconds))
}

/// Comparisons that have not ended.
pub fn open(view: &ClusterView) -> impl Iterator<Item = (&JobSpec, VolumeId)> {
    let ended = |job: &JobSpec| view.job_reports.get(&job.id).is_some_and(|r| r.state.is_terminal());
    view.jobs.values().filter(move |job| !ended(job)).filter_map(|job| Some((job, job.kind.verifies()?)))
}

/// Those among them that somebody does: their guests' owners are there.
pub fn under_way(view: &ClusterView) -> impl Iterator<Item = (&JobSpec, VolumeId)> {
    open(view).filter(|(_, volume)| owner(view, *volume).is_some_and(|host| view.is_live(host)))
}

fn owner(view: &ClusterView, volume: VolumeId) -> Option<&HostName> {
    let guest = view.guests.values().find(|guest| guest.disks.iter().any(|disk| disk.volume == volume))?;
    view.assignments.get(&guest.name).map(|assignment| &assignment.host)
}

/// When the last comparison of each volume ended, and whether it found out anything.
fn last_tries(view: &ClusterView) -> BTreeMap<VolumeId, (Timestamp, bool)> {
    let mut tries = BTreeMap::new();
    for job in view.jobs.values() {
        let Some(report) = view.job_reports.get(&job.id) else { continue };
        let Some((volume, ended)) = job.kind.verifies().zip(report.ended_at) else { continue };
        let this = (ended, report.state == JobState::Done);
        let last = tries.entry(volume).or_insert(this);
        *last = this.max(*last);
    }
    tries
}

/// Ended jobs that are not to be forgotten with the others: each volume's last comparison, and its last one that found
/// out anything.
pub fn worth_keeping(view: &ClusterView) -> BTreeSet<JobId> {
    let volumes: BTreeSet<VolumeId> =
        view.guests.values().flat_map(|guest| guest.disks.iter().map(|disk| disk.volume)).collect();
    let mut last: BTreeMap<(VolumeId, bool), (Timestamp, JobId)> = BTreeMap::new();
    for job in view.jobs.values() {
        let Some(report) = view.job_reports.get(&job.id) else { continue };
        let Some((volume, ended)) = job.kind.verifies().zip(report.ended_at) else { continue };
        for found in [false, true].into_iter().filter(|found| !found || report.verified.is_some()) {
            let this = (ended, job.id);
            let newest = last.entry((volume, found)).or_insert(this);
            *newest = this.max(*newest);
        }
    }
    last.into_iter().filter(|((volume, _), _)| volumes.contains(volume)).map(|(_, (_, job))| job).collect()
}

/// A time within a period, seconds.
fn spread(volume: VolumeId, every: u32) -> i64 {
    let id = volume.0.as_u128();
    let folded = (id >> 64) ^ (id & u128::from(u64::MAX));
    i64::try_from(folded % u128::from(every)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use model::{Bytes, JobKind, JobReport, Verified};

    use super::*;
    use crate::fixture::{cluster, host, power_off, put, volume};

    const MONTH: i64 = 30 * 24 * 3600;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
    }

    fn next(view: &ClusterView, now: Timestamp) -> Option<String> {
        due(view, now).map(|(guest, _)| guest.to_string())
    }

    fn enter(view: &mut ClusterView, number: u128, guest: &str, ended: Option<i64>) {
        let id = JobId(uuid::Uuid::from_u128(number));
        let kind = JobKind::VerifyVolume { guest: guest.parse().unwrap(), volume: volume(guest) };
        let job = JobSpec {
            id,
            kind,
            created_at: at(0),
            requested_by: "schedule".into(),
            runner: None,
            cancel: false,
        };
        view.jobs.insert(id, job);
        if let Some(ended) = ended {
            let ended_at = Some(at(ended));
            let report = JobReport { state: JobState::Done, ended_at, ..JobReport::new(id, []) };
            view.job_reports.insert(id, report);
        }
    }

    #[test]
    fn each_volume_has_its_turn_once_in_a_period_one_at_a_time() {
        let mut view = cluster(2);
        put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        put(&mut view, "b", Pool::Mirror, "host2", Some("host1"));
        put(&mut view, "l", Pool::Local, "host1", None);
        let first = ["a", "b"].into_iter().min_by_key(|guest| spread(volume(guest), MONTH as u32)).unwrap();
        assert_eq!(next(&view, at(-1)), None);
        assert_eq!(next(&view, at(MONTH)).as_deref(), Some(first));
        enter(&mut view, 1, first, None);
        assert_eq!(next(&view, at(MONTH)), None, "one at a time");
        enter(&mut view, 1, first, Some(MONTH));
        let second = if first == "a" { "b" } else { "a" };
        assert_eq!(next(&view, at(MONTH)).as_deref(), Some(second));
        enter(&mut view, 2, second, Some(MONTH + 5));
        assert_eq!(next(&view, at(2 * MONTH - 1)), None, "a period has to pass");
        assert_eq!(next(&view, at(2 * MONTH)).as_deref(), Some(first));
        power_off(&mut view, "host2");
        assert_eq!(next(&view, at(3 * MONTH)), None, "there is nothing to compare with");
    }
    #[test]
    fn one_that_failed_is_tried_again_the_next_day() {
        let mut view = cluster(2);
        put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        enter(&mut view, 1, "a", Some(MONTH));
        view.job_reports.values_mut().for_each(|report| report.state = JobState::Failed);
        assert_eq!(next(&view, at(MONTH + 3600)), None);
        assert_eq!(next(&view, at(MONTH + i64::from(AGAIN_AFTER))).as_deref(), Some("a"));
    }

    #[test]
    fn one_whose_host_is_lost_is_in_nobodys_way() {
        let mut view = cluster(3);
        put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        put(&mut view, "b", Pool::Mirror, "host2", Some("host3"));
        enter(&mut view, 1, "a", None);
        assert_eq!(next(&view, at(2 * MONTH)), None);
        power_off(&mut view, "host1");
        assert_eq!(next(&view, at(2 * MONTH)).as_deref(), Some("b"));
    }

    #[test]
    fn what_was_found_last_is_not_forgotten() {
        let mut view = cluster(2);
        put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        for number in 1..=4 {
            enter(&mut view, number, "a", Some(i64::try_from(number).unwrap()));
        }
        let id = |number| JobId(uuid::Uuid::from_u128(number));
        let verified = Verified {
            at: at(2),
            hosts: vec![host("host1"), host("host2")],
            resync: 0,
            compared: Bytes::mib(1),
            unlike: Bytes(1),
            busy: Bytes(0),
            ranges: vec![],
        };
        view.job_reports.get_mut(&id(2)).unwrap().verified = Some(verified.clone());
        assert_eq!(worth_keeping(&view), [id(2), id(4)].into());
        assert_eq!(view.verified().get(&volume("a")), Some(&&verified));
        assert!(view.still_differs(volume("a"), &verified));
        view.in_sync.get_mut(&volume("a")).unwrap().resync = 1;
        assert!(!view.still_differs(volume("a"), &verified), "it was filled anew since");
        view.guests.clear();
        assert_eq!(worth_keeping(&view), BTreeSet::new());
    }
}
