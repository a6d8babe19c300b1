//! Comparing both replicas of a volume while its guest runs: a job that the host of the guest's owner does.
//!
//! How is said in [`host::verify`]. A comparison counts only if both replicas were in sync, by one record, from its
//! beginning to its end: so no write was held for longer than [`HOLD_MAX`]. One that is broken off, by a restart of the
//! daemon or a change of owner, begins anew with whoever owns the guest then; only the owner writes the job's report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use host::compare::Pace;
use host::verify::{Found, Patience};
use host::{ExportName, HostError};
use jiff::Timestamp;
use model::{
    Assignment, ByteRange, Bytes, ClusterView, EventKind, GuestName, Host, InSync, JobId, JobKind, JobReport,
    JobSpec, JobState, StepState, Verified, VolumeId,
};
use plan::limits::HOLD_MAX;
use store::{Outcome, keys};
use tokio::task::JoinHandle;

use super::Agent;
use super::hashes::PeerHashes;

/// Bytes per second that are read of each replica: a third of what a small disk gives.
const RATE: u64 = 64 << 20;

const PATIENCE: Patience = Patience {
    between_looks: Duration::from_millis(500),
    settled: Duration::from_secs(8),
    limit: Duration::from_secs(60),
};

const _: () = assert!(
    PATIENCE.settled.as_millis() > HOLD_MAX.as_millis() + 2000,
    "a write that is held for so long ends the in-sync set that the comparison rests on"
);
const _: () = assert!(PATIENCE.limit.as_millis() > 4 * PATIENCE.settled.as_millis());

/// Ranges that are told of; the rest is counted.
const RANGES_MAX: usize = 100;

/// Between two reports of how far it is, each of which is a write to the store.
const TOLD_EVERY: Duration = Duration::from_secs(3);

/// Between two tries to write a report.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Two replicas that are in sync.
#[derive(Debug, Clone, PartialEq)]
struct Pair {
    assignment: Assignment,
    set: InSync,
    size: Bytes,
    other: Host,
    export: ExportName,
}

/// Does this host's comparisons, for ever.
pub async fn keep(agent: Arc<Agent>) {
    let mut running: BTreeMap<JobId, JoinHandle<()>> = BTreeMap::new();
    let mut changes = agent.state.changes();
    loop {
        changes.borrow_and_update();
        running.retain(|_, task| !task.is_finished());
        let open = open_jobs(&agent);
        for (id, task) in &running {
            // It was cancelled, or the guest is another host's now.
            if !open.iter().any(|(job, _)| job.id == *id && !job.cancel) {
                task.abort();
            }
        }
        for (job, report) in open {
            if running.contains_key(&job.id) && !job.cancel {
                continue;
            }
            if let Some(task) = running.remove(&job.id) {
                // An error says that it was aborted.
                drop(task.await);
            }
            let (agent, id) = (agent.clone(), job.id);
            running.insert(id, tokio::spawn(async move { run(&agent, &job, report).await }));
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Comparisons of guests that this host owns.
fn open_jobs(agent: &Agent) -> Vec<(JobSpec, Option<JobReport>)> {
    let cache = agent.state.read();
    let view = cache.view();
    let mine = plan::verify::open(view).filter(|(job, _)| is_mine(agent, view, job));
    mine.map(|(job, _)| (job.clone(), view.job_reports.get(&job.id).cloned())).collect()
}

fn is_mine(agent: &Agent, view: &ClusterView, job: &JobSpec) -> bool {
    let owner = guest_of(job).and_then(|guest| view.assignments.get(guest));
    owner.is_some_and(|assignment| assignment.host == agent.me)
}

fn guest_of(job: &JobSpec) -> Option<&GuestName> {
    if let JobKind::VerifyVolume { guest, .. } = &job.kind { Some(guest) } else { None }
}

async fn run(agent: &Agent, job: &JobSpec, report: Option<JobReport>) {
    let JobKind::VerifyVolume { guest, volume } = &job.kind else { return };
    if job.cancel {
        end(agent, job, Err("it was cancelled".to_owned())).await;
        return;
    }
    if report.is_some() {
        tracing::info!(%guest, %volume, "a comparison begins anew");
    }
    let outcome = compare(agent, job, guest, *volume).await.map_err(|error| error.to_string());
    if end(agent, job, outcome.clone()).await
        && let Ok(verified) = &outcome
    {
        tell_people(agent, guest, *volume, verified);
    }
}

fn tell_people(agent: &Agent, guest: &GuestName, volume: VolumeId, verified: &Verified) {
    let subject = format!("guest/{guest}");
    let hosts = verified.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    let message = match verified.ranges.first() {
        None => format!("no difference was found between the replicas of '{guest}' on {hosts} ({volume})"),
        Some(first) => format!(
            "the replicas of '{guest}' on {hosts} ({volume}) differ in {}, first at byte {}: \
             `kennel volume resync {volume}` makes the second one what the guest reads from the first",
            verified.unlike, first.start
        ),
    };
    if verified.unlike == Bytes(0) {
        agent.events.info(EventKind::VolumeVerified, subject, message);
    } else {
        agent.events.error(EventKind::VolumeVerified, subject, message);
    }
}

/// What there is to compare, or why there is nothing.
fn pair(agent: &Agent, guest: &GuestName, volume: VolumeId) -> Result<Pair, HostError> {
    let cache = agent.state.read();
    let view = cache.view();
    let missing = |what: &str| HostError::NotFound(what.to_owned());
    let spec = view.guests.get(guest).ok_or_else(|| missing("the guest was deleted"))?;
    let disk = spec.disks.iter().find(|disk| disk.volume == volume);
    let disk = disk.ok_or_else(|| missing("the guest has no such disk"))?;
    let assignment = view.assignments.get(guest).filter(|a| a.guest_id == spec.id && a.host == agent.me);
    let assignment = assignment.ok_or_else(|| missing("the guest has gone to another host"))?;
    let set = view.in_sync.get(&volume).filter(|set| set.epoch == assignment.epoch);
    let set = set.ok_or_else(|| missing("it is not said which replicas are in sync"))?;
    let other = set.members.iter().find(|replica| replica.host != agent.me && view.boot_is_live(replica));
    let replica = other.ok_or_else(|| missing("no other replica is in sync"))?;
    let other = view.hosts.get(&replica.host).ok_or_else(|| missing("the other host is gone"))?;
    let export = ExportName::new(volume, assignment.epoch, replica.boot_id);
    let (assignment, set, other) = (assignment.clone(), set.clone(), other.clone());
    Ok(Pair { assignment, set, size: disk.size, other, export })
}

async fn compare(
    agent: &Agent,
    job: &JobSpec,
    guest: &GuestName,
    volume: VolumeId,
) -> Result<Verified, HostError> {
    let before = pair(agent, guest, volume)?;
    let client = agent.peer_client.to(&before.other).map_err(|error| HostError::Failed(error.to_string()))?;
    let theirs = Arc::new(PeerHashes { client, volume, export: before.export.clone() });
    let done = AtomicU64::new(0);
    let path = agent.volumes.path(volume);
    let comparing =
        host::verify::verify(&path, before.size.0, theirs, Arc::new(Pace::new(RATE)), PATIENCE, |bytes| {
            done.store(bytes, Ordering::Relaxed)
        });
    let telling = async {
        loop {
            let note = match Bytes(done.load(Ordering::Relaxed)) {
                all if all == before.size => "looking again at what was unlike".to_owned(),
                some => format!("{some} of {} compared", before.size),
            };
            tell(agent, job, note).await;
            tokio::time::sleep(TOLD_EVERY).await;
        }
    };
    let Found { compared, unlike, busy } = tokio::select! {
        found = comparing => found?,
        () = telling => return Err(HostError::Failed("it ended before its time".to_owned())),
    };
    // Also a write that was admitted meanwhile to a record of other replicas: what the store says now, not what was
    // heard of it.
    drop(agent.state.refresh().await);
    if pair(agent, guest, volume)? != before {
        return Err(HostError::Conflict("the replicas were not in sync all the while; ask again".to_owned()));
    }
    let ranges = unlike.iter().map(|r| ByteRange { start: r.start, length: r.end - r.start });
    Ok(Verified {
        at: Timestamp::now(),
        hosts: vec![agent.me.clone(), before.other.name],
        resync: before.set.resync,
        compared: Bytes(compared),
        unlike: Bytes(unlike.iter().map(|range| range.end - range.start).sum()),
        busy: Bytes(busy),
        ranges: ranges.take(RANGES_MAX).collect(),
    })
}

async fn tell(agent: &Agent, job: &JobSpec, note: String) {
    report(agent, job, |report| {
        report.state = JobState::Running;
        for step in &mut report.steps {
            (step.state, step.note) = (StepState::Running, Some(note.clone()));
        }
    })
    .await;
}

/// False: it is another host's job now.
async fn end(agent: &Agent, job: &JobSpec, outcome: Result<Verified, String>) -> bool {
    let (state, step) = match &outcome {
        Ok(_) => (JobState::Done, StepState::Done),
        Err(_) if job.cancel => (JobState::Cancelled, StepState::Undone),
        Err(_) => (JobState::Failed, StepState::Failed),
    };
    report(agent, job, |report| {
        report.state = state;
        report.ended_at = Some(Timestamp::now());
        report.error = outcome.as_ref().err().cloned();
        report.verified = outcome.as_ref().ok().cloned();
        for each in &mut report.steps {
            (each.state, each.note) = (step, None);
        }
    })
    .await
}

/// Changes the report of a job of this host's, until the store takes it. False: it is not this host's any more, or has
/// ended.
async fn report(agent: &Agent, job: &JobSpec, change: impl Fn(&mut JobReport)) -> bool {
    let may = |view: &ClusterView| {
        let ended = view.job_reports.get(&job.id).is_some_and(|report| report.state.is_terminal());
        view.jobs.contains_key(&job.id) && !ended && is_mine(agent, view, job)
    };
    let Some(guest) = guest_of(job) else { return false };
    loop {
        let outcome = agent.state.change(|view, txn| {
            let old = view.job_reports.get(&job.id).cloned();
            let mut report = old.unwrap_or_else(|| JobReport::new(job.id, plan::job::step_names(&job.kind)));
            change(&mut report);
            txn.exists(&keys::job(job.id)).unchanged(&keys::assignment(guest)).put(&report);
            may(view)
        });
        match outcome.await {
            Ok(Outcome::Committed { .. }) => return true,
            Ok(Outcome::Conflict) if !may(agent.state.read().view()) => return false,
            Ok(Outcome::Conflict) | Err(_) => tokio::time::sleep(RETRY_AFTER).await,
        }
    }
}
