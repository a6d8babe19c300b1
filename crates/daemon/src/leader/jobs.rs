//! The leader's part of jobs: each turn looks how far every job is, and writes what is new.

use jiff::Timestamp;
use model::{
    Assignment, ClusterView, EventKind, GuestName, GuestSpec, HostName, JobId, JobReport, JobSpec, JobState,
    ReplicaDrop,
};
use plan::job::{Effect, RestsOn, advance, holders, void_drops};
use store::{Outcome, StoreError, TxnBuilder, keys};

use super::{Leader, as_leader, unless_refused};
use crate::events::Events;

/// Events kept; the oldest go first.
const EVENTS_MAX: usize = 10_000;

/// Ended jobs kept.
const ENDED_JOBS_MAX: usize = 1_000;

/// Records removed in one transaction: well within what the store takes at once.
const TRIM_BATCH: usize = 50;

impl Leader {
    pub(super) async fn advance_jobs(&self, since: i64, now: Timestamp) -> Result<(), StoreError> {
        let open: Vec<JobSpec> = {
            let cache = self.state.read();
            let view = cache.view();
            let ended = |id: &JobId| view.job_reports.get(id).is_some_and(|r| r.state.is_terminal());
            let mine = view.jobs.values().filter(|job| job.runner.is_none() && !ended(&job.id));
            mine.cloned().collect()
        };
        for job in open {
            unless_refused(self.advance_job(since, &job, now).await)?;
        }
        Ok(())
    }

    async fn advance_job(&self, since: i64, job: &JobSpec, now: Timestamp) -> Result<(), StoreError> {
        let mut news: Option<(JobReport, Vec<Effect>)> = None;
        let outcome = self
            .state
            .change(|view, txn| {
                let Some((report, effects)) = advance(view, job, view.job_reports.get(&job.id), now) else {
                    return false;
                };
                as_leader(txn, since);
                txn.put(&report);
                for effect in &effects {
                    apply(view, txn, effect);
                }
                news = Some((report, effects));
                true
            })
            .await?;
        if let (Outcome::Committed { .. }, Some((report, effects))) = (outcome, news) {
            self.tell_effects(effects);
            tell_end(&self.events, job, &report);
        }
        Ok(())
    }

    fn tell_effects(&self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Tell { kind, subject, message } => self.events.info(kind, subject, message),
                Effect::MarkDeleting { .. }
                | Effect::Forget { .. }
                | Effect::Reassign(_)
                | Effect::Compare(_)
                | Effect::DropReplica(_) => {}
            }
        }
    }

    /// Removes the oldest of what only grows: events, and jobs that have ended.
    pub(super) async fn trim_events(&self, since: i64) -> Result<(), StoreError> {
        let (events, jobs) = {
            let cache = self.state.read();
            let view = cache.view();
            let surplus = view.events.len().saturating_sub(EVENTS_MAX).min(TRIM_BATCH);
            let events: Vec<_> = view.events.keys().take(surplus).copied().collect();
            let ended = view.job_reports.values().filter(|r| r.state.is_terminal()).map(|r| r.id);
            let kept = plan::verify::worth_keeping(view);
            let ended: Vec<JobId> = ended.filter(|job| !kept.contains(job)).collect();
            let surplus = ended.len().saturating_sub(ENDED_JOBS_MAX).min(TRIM_BATCH / 2);
            (events, ended.into_iter().take(surplus).collect::<Vec<_>>())
        };
        if events.is_empty() && jobs.is_empty() {
            return Ok(());
        }
        let trimmed = self.state.write(|txn| {
            as_leader(txn, since);
            for event in &events {
                txn.delete(&keys::event(*event));
            }
            for job in &jobs {
                txn.delete(&keys::job(*job)).delete(&keys::job_report(*job));
            }
        });
        trimmed.await.map(drop)
    }
}

/// Tells people that a job has ended, if it has.
pub(super) fn tell_end(events: &Events, job: &JobSpec, report: &JobReport) {
    let subject = format!("job/{}", job.id);
    match (report.state, &report.error) {
        (JobState::Done, _) => {
            events.info(EventKind::JobEnded, subject, format!("{}: done", job.kind));
        }
        (JobState::Failed | JobState::Cancelled, error) => {
            let why = error.as_deref().unwrap_or("no reason was recorded");
            events.warning(EventKind::JobEnded, subject, format!("{}: {}: {why}", job.kind, report.state));
        }
        (JobState::Waiting | JobState::Running | JobState::Undoing, _) => {}
    }
}

fn apply(view: &ClusterView, txn: &mut TxnBuilder<'_>, effect: &Effect) {
    match effect {
        Effect::MarkDeleting { guest } => {
            if let Some(spec) = view.guests.get(guest) {
                txn.put(&model::GuestSpec { deleting: true, ..spec.clone() });
            }
        }
        Effect::Forget { guest } => forget(view, txn, guest),
        Effect::Reassign(to) => {
            txn.put(to);
            for order in void_drops(view, to) {
                txn.delete(&keys::replica_drop(&order.host, order.volume));
            }
        }
        Effect::DropReplica(order) => {
            txn.put(order);
        }
        Effect::Compare(RestsOn::InSync(volume)) => {
            txn.unchanged(&keys::in_sync(*volume));
        }
        Effect::Compare(RestsOn::GuestReport(guest)) => {
            txn.unchanged(&keys::guest_report(guest));
        }
        Effect::Compare(RestsOn::Session(host)) => {
            txn.unchanged(&keys::session(host)).exists(&keys::session(host));
        }
        // Once the rest is written.
        Effect::Tell { .. } => {}
    }
}

/// A live host that reaches the pools of a guest whose owner is lost.
fn deleter<'a>(view: &'a ClusterView, spec: &GuestSpec, assignment: &Assignment) -> Option<&'a HostName> {
    let reaches = |host: &&HostName| {
        let pools = spec.named_pools();
        view.is_live(host) && pools.iter().all(|pool| view.pool_problem(host, pool).is_none())
    };
    let orphaned = spec.is_shared() && !view.is_live(&assignment.host);
    view.hosts.keys().filter(|_| orphaned).find(reaches)
}

/// Removes every record of a guest. Each host that may still hold a replica is told to delete it, for when
/// it has not done so.
fn forget(view: &ClusterView, txn: &mut TxnBuilder<'_>, guest: &GuestName) {
    let Some(spec) = view.guests.get(guest) else { return };
    txn.delete(&keys::guest(guest));
    if let Some(assignment) = view.assignments.get(guest) {
        txn.delete(&keys::assignment(guest));
        // A lost owner of a volume that hosts share may be lost for good: another host deletes it.
        let deletes = deleter(view, spec, assignment).into_iter();
        for host in holders(view, spec, assignment).iter().chain(deletes) {
            for disk in &spec.disks {
                txn.put(&ReplicaDrop {
                    host: host.clone(),
                    volume: disk.volume,
                    guest_id: spec.id,
                    why: format!("the guest '{guest}' was deleted"),
                    pool_name: disk.pool_name.clone(),
                });
            }
        }
    }
    if view.guest_reports.contains_key(guest) {
        txn.delete(&keys::guest_report(guest));
    }
    if view.group_restarts.contains_key(guest) {
        txn.delete(&keys::group_restarts(guest));
    }
    for disk in spec.disks.iter().filter(|disk| view.in_sync.contains_key(&disk.volume)) {
        txn.delete(&keys::in_sync(disk.volume));
    }
    for claim in view.addresses.values().filter(|claim| &claim.guest == guest) {
        txn.delete(&keys::address(&claim.network, claim.address));
    }
}
