//! Comparing both replicas of a volume while its guest runs: a job that the owner's host does.
//!
//! What is found unlike may be a write that was on its way, so it is looked at again, a few times; what is still
//! unlike then differs. A comparison counts only if both replicas were in sync, by one record, from its beginning to
//! its end. One that was broken off by a restart begins anew.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use host::compare::{Compare, Pace};
use host::{ExportName, HostError};
use jiff::Timestamp;
use model::{
    ByteRange, Bytes, EventKind, GuestName, Host, InSync, JobId, JobKind, JobReport, JobSpec, JobState,
    StepState, Verified, VolumeId,
};
use store::{Outcome, keys};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Agent;
use super::hashes::PeerHashes;

/// Bytes per second that are read of each replica: a third of what a small disk gives.
const RATE: u64 = 64 << 20;

/// How often what is unlike is looked at again, and how long a write may be on its way.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);

/// Ranges that are told of; the rest is counted.
const RANGES_MAX: usize = 100;

/// Between two reports of how far it is, each of which is a write to the store.
const TOLD_EVERY: Duration = Duration::from_secs(3);

/// Between two tries to write a report.
const RETRY_AFTER: Duration = Duration::from_secs(1);

const STEPS: [&str; 1] = ["compare"];

/// Two replicas that are in sync.
#[derive(Debug, Clone, PartialEq)]
struct Pair {
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
        for job in open_jobs(&agent) {
            match running.get(&job.id) {
                Some(task) if job.cancel => task.abort(),
                Some(_) => {}
                None if job.cancel => end(&agent, &job, Err("it was cancelled".to_owned())).await,
                None => {
                    let (agent, id) = (agent.clone(), job.id);
                    running.insert(id, tokio::spawn(async move { run(&agent, &job).await }));
                }
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

fn open_jobs(agent: &Agent) -> Vec<JobSpec> {
    let cache = agent.state.read();
    let view = cache.view();
    let ended = |id: &JobId| view.job_reports.get(id).is_some_and(|r| r.state.is_terminal());
    let mine = view.jobs.values().filter(|job| job.runner.as_ref() == Some(&agent.me));
    let compares = mine.filter(|job| matches!(job.kind, JobKind::VerifyVolume { .. }));
    compares.filter(|job| !ended(&job.id)).cloned().collect()
}

async fn run(agent: &Agent, job: &JobSpec) {
    let JobKind::VerifyVolume { guest, volume } = &job.kind else { return };
    let outcome = compare(agent, job, guest, *volume).await;
    if let Ok(verified) = &outcome {
        let subject = format!("guest/{guest}");
        if verified.unlike == Bytes(0) {
            let message = format!("both replicas of volume {volume} of '{guest}' are identical");
            agent.events.info(EventKind::VolumeVerified, subject, message);
        } else {
            let unlike = verified.unlike;
            let message = format!("the replicas of volume {volume} of '{guest}' differ in {unlike}");
            agent.events.error(EventKind::VolumeVerified, subject, message);
        }
    }
    end(agent, job, outcome.map_err(|error| error.to_string())).await;
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
    let assignment = assignment.ok_or_else(|| missing("the guest has gone to another host; ask again"))?;
    let set = view.in_sync.get(&volume).filter(|set| set.epoch == assignment.epoch);
    let set = set.ok_or_else(|| missing("it is not said which replicas are in sync"))?;
    let other = set.members.iter().find(|replica| replica.host != agent.me && view.boot_is_live(replica));
    let replica = other.ok_or_else(|| missing("no other replica is in sync"))?;
    let other = view.hosts.get(&replica.host).ok_or_else(|| missing("the other host is gone"))?;
    let export = ExportName::new(volume, assignment.epoch, replica.boot_id);
    Ok(Pair { set: set.clone(), size: disk.size, other: other.clone(), export })
}

async fn compare(
    agent: &Agent,
    job: &JobSpec,
    guest: &GuestName,
    volume: VolumeId,
) -> Result<Verified, HostError> {
    let before = pair(agent, guest, volume)?;
    tell(agent, job, "it begins".to_owned()).await;
    let client = agent.peer_client.to(&before.other).map_err(|error| HostError::Failed(error.to_string()))?;
    let theirs = Arc::new(PeerHashes { client, volume, export: before.export.clone() });
    let path = agent.volumes.path(volume);
    let whole = [Range { start: 0, end: before.size.0 }];
    let mut unlike = Vec::new();
    let mut told = Instant::now();
    let mut pass = Compare::new(&path, &whole, theirs.clone(), Arc::new(Pace::new(RATE)))?;
    while let Some(found) = pass.next().await? {
        unlike.extend(found.unlike);
        if told.elapsed() >= TOLD_EVERY {
            told = Instant::now();
            let (done, all) = (Bytes(found.range.end), before.size);
            tell(agent, job, format!("{done} of {all} compared")).await;
        }
    }
    for _ in 0..LOOKS {
        if unlike.is_empty() {
            break;
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
        let mut again = Compare::new(&path, &unlike, theirs.clone(), Arc::new(Pace::new(RATE)))?;
        unlike.clear();
        while let Some(found) = again.next().await? {
            unlike.extend(found.unlike);
        }
    }
    if pair(agent, guest, volume)? != before {
        return Err(HostError::Conflict("the replicas were not in sync all the while; ask again".to_owned()));
    }
    let ranges = unlike.iter().map(|r| ByteRange { start: r.start, length: r.end - r.start });
    Ok(Verified {
        at: Timestamp::now(),
        hosts: vec![agent.me.clone(), before.other.name],
        compared: before.size,
        unlike: Bytes(unlike.iter().map(|range| range.end - range.start).sum()),
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

async fn end(agent: &Agent, job: &JobSpec, outcome: Result<Verified, String>) {
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
    .await;
}

/// Changes this host's own record of the job, until the store takes it.
async fn report(agent: &Agent, job: &JobSpec, change: impl Fn(&mut JobReport)) {
    loop {
        let outcome = agent.state.change(|view, txn| {
            let old = view.job_reports.get(&job.id).cloned();
            let mut report = old.unwrap_or_else(|| JobReport::new(job.id, STEPS));
            change(&mut report);
            txn.exists(&keys::job(job.id)).put(&report);
            view.jobs.contains_key(&job.id)
        });
        match outcome.await {
            Ok(Outcome::Committed { .. }) => return,
            Ok(Outcome::Conflict) if !agent.state.read().view().jobs.contains_key(&job.id) => return,
            Ok(Outcome::Conflict) | Err(_) => tokio::time::sleep(RETRY_AFTER).await,
        }
    }
}
