//! Which volume's replicas are compared next, so that each is looked at as often as the settings say.
//!
//! One at a time in the whole cluster: comparing reads both disks. A volume that was never compared has its turn some
//! time within the first period of its life; which time follows from its id, so that volumes that were made together
//! are not all compared together.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use model::{
    ClusterView, GuestName, GuestPhase, HostName, JobKind, JobReport, JobSpec, Pool, Settings, Verified,
    VolumeId,
};

/// What is to be compared now, and the host that does it. `None`: nothing is.
pub fn due(view: &ClusterView, now: Timestamp) -> Option<(GuestName, VolumeId, HostName)> {
    let every =
        view.cluster.as_ref().map_or(Settings::default().verify_every_s, |c| c.settings.verify_every_s);
    if every == 0 || under_way(view).next().is_some() {
        return None;
    }
    let tried = last_tries(view);
    let mut best: Option<(Timestamp, VolumeId, &GuestName, &HostName)> = None;
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
                Some(last) => *last + SignedDuration::from_secs(i64::from(every)),
                None => spec.created_at + SignedDuration::from_secs(spread(disk.volume, every)),
            };
            let this = (at, disk.volume, &spec.name, &assignment.host);
            if at <= now && best.is_none_or(|best| this < best) {
                best = Some(this);
            }
        }
    }
    best.map(|(_, volume, guest, host)| (guest.clone(), volume, host.clone()))
}

/// Comparisons that have not ended, on hosts that are there.
pub fn under_way(view: &ClusterView) -> impl Iterator<Item = (&JobSpec, VolumeId)> {
    let ended = |job: &JobSpec| view.job_reports.get(&job.id).is_some_and(|r| r.state.is_terminal());
    let mine = view.jobs.values().filter(move |job| !ended(job));
    mine.filter(|job| job.runner.as_ref().is_some_and(|host| view.is_live(host)))
        .filter_map(|job| volume_of(job).map(|volume| (job, volume)))
}

/// What the last comparison of a volume has found, as far as its job is kept.
pub fn last(view: &ClusterView, volume: VolumeId) -> Option<&Verified> {
    let jobs = view.jobs.values().filter(|job| volume_of(job) == Some(volume));
    let found = jobs.filter_map(|job| view.job_reports.get(&job.id)?.verified.as_ref());
    found.max_by_key(|verified| verified.at)
}

/// When the last comparison of each volume ended, however it did.
fn last_tries(view: &ClusterView) -> BTreeMap<VolumeId, Timestamp> {
    let mut tries = BTreeMap::new();
    for job in view.jobs.values() {
        let report: Option<&JobReport> = view.job_reports.get(&job.id);
        let Some((volume, ended)) = volume_of(job).zip(report.and_then(|report| report.ended_at)) else {
            continue;
        };
        let last = tries.entry(volume).or_insert(ended);
        *last = ended.max(*last);
    }
    tries
}

fn volume_of(job: &JobSpec) -> Option<VolumeId> {
    match &job.kind {
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

/// A time within a period, seconds.
fn spread(volume: VolumeId, every: u32) -> i64 {
    let id = volume.0.as_u128();
    let folded = (id >> 64) ^ (id & u128::from(u64::MAX));
    i64::try_from(folded % u128::from(every)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use model::{JobId, JobState};

    use super::*;
    use crate::fixture::{cluster, host, power_off, put, volume};

    const MONTH: i64 = 30 * 24 * 3600;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
    }

    fn next(view: &ClusterView, now: Timestamp) -> Option<String> {
        due(view, now).map(|(guest, _, host)| format!("{guest} on {host}"))
    }

    fn enter(view: &mut ClusterView, number: u128, guest: &str, ended: Option<i64>) {
        let id = JobId(uuid::Uuid::from_u128(number));
        let kind = JobKind::VerifyVolume { guest: guest.parse().unwrap(), volume: volume(guest) };
        let job = JobSpec {
            id,
            kind,
            created_at: at(0),
            requested_by: "schedule".into(),
            runner: Some(host("host1")),
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
        let first = [("a", "a on host1"), ("b", "b on host2")]
            .into_iter()
            .min_by_key(|(guest, _)| spread(volume(guest), MONTH as u32))
            .unwrap();
        assert_eq!(next(&view, at(-1)), None);
        assert_eq!(next(&view, at(MONTH)).as_deref(), Some(first.1));
        enter(&mut view, 1, first.0, None);
        assert_eq!(next(&view, at(MONTH)), None, "one at a time");
        enter(&mut view, 1, first.0, Some(MONTH));
        let second = if first.0 == "a" { "b on host2" } else { "a on host1" };
        assert_eq!(next(&view, at(MONTH)).as_deref(), Some(second));
        enter(&mut view, 2, if first.0 == "a" { "b" } else { "a" }, Some(MONTH + 5));
        assert_eq!(next(&view, at(2 * MONTH - 1)), None, "a period has to pass");
        assert_eq!(next(&view, at(2 * MONTH)).as_deref(), Some(first.1));
        power_off(&mut view, "host2");
        assert_eq!(next(&view, at(3 * MONTH)), None, "there is nothing to compare with");
    }
}
