//! The leader's slower half: it balances, heals, carries the jobs of several moves out, and watches the promise.
//!
//! It runs beside the leader's own loop, on the same leadership, so that neither a host that is slow to say what it
//! uses nor a plan that takes long to make holds recovery up. Planning happens on a snapshot, on a thread of its
//! own; what comes of it is written only if the records that it is about are still the same, and each move looks
//! again at what its safety rests on.
//!
//! ```text
//!   a round, every tenth of the averages' window:
//!     something is in the way (a loss, a recovery, moves) ──▶ forget what was proposed
//!     else propose ──▶ what this round and the last one begin with alike ──▶ automatic: a job; manual: an event
//! ```
//!
//! So a load must last to move anything: for a window to be measured, and for one round more to be believed. All
//! memory of this is in the process: a new leader begins anew, which only makes it slower.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use model::{
    BalanceMode, ClusterView, EventKind, GuestName, GuestPlace, HostName, HostUsage, JobId, JobKind, JobSpec,
    Liveness, Settings,
};
use plan::inventory::Inventory;
use plan::job::moves::{Measured, advance};
use plan::proposal::{Options, propose};
use store::{Outcome, StoreError, keys};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::jobs::tell_end;
use super::watcher::PromiseWatch;
use super::{as_leader, tell, unless_refused};
use crate::events::Events;
use crate::state::State;
use crate::usage::Usages;

/// Between two looks at a cluster in which nothing happens.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Between two looks at a cluster in which much happens: a plan costs more than a look at the records.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(500);

/// A round comes this often within the window of the averages, and within these limits.
const ROUNDS_PER_WINDOW: u32 = 10;
const ROUND_MIN: Duration = Duration::from_secs(5);
const ROUND_MAX: Duration = Duration::from_secs(60);

/// How long everything must have been quiet before load is balanced: hosts neither came nor went, and no guest was
/// moved. As long as the averages' window, for until then they speak of the time before; but within these limits.
const QUIET_MIN: Duration = Duration::from_secs(10);
const QUIET_MAX: Duration = Duration::from_secs(300);

/// How much longer than that, after moves that failed.
const QUIET_AFTER_FAILURE: u32 = 3;

/// Moves of one job. More come with the next.
const MOVES_MAX: usize = 50;

type Moves = Vec<(GuestName, GuestPlace)>;
type Usage = BTreeMap<HostName, HostUsage>;

/// Runs for ever, and does something while this daemon leads.
#[derive(Debug)]
pub struct Balancer {
    state: State,
    events: Events,
    usages: Usages,
    /// The revision of this daemon's leader record while it leads.
    leads: watch::Receiver<Option<i64>>,
    memory: Memory,
}

/// What is remembered from round to round.
#[derive(Debug)]
struct Memory {
    /// Since when the same hosts are online.
    online: (BTreeSet<HostName>, Instant),
    last_round: Option<Instant>,
    /// What the last round proposed.
    proposed: Moves,
    /// What people were told of as a proposal.
    told: Moves,
    promise: PromiseWatch,
    healing: heal::Memory,
    looked_for_verify: Option<Instant>,
}

impl Memory {
    fn new() -> Memory {
        Memory {
            online: (BTreeSet::new(), Instant::now()),
            last_round: None,
            proposed: Moves::new(),
            told: Moves::new(),
            promise: PromiseWatch::default(),
            healing: heal::Memory::default(),
            looked_for_verify: None,
        }
    }

    /// For how long the same hosts have been online.
    fn quiet_for(&mut self, view: &ClusterView) -> Duration {
        let online: BTreeSet<HostName> =
            view.hosts.keys().filter(|host| view.is_live(host)).cloned().collect();
        if self.online.0 != online {
            self.online = (online, Instant::now());
        }
        self.online.1.elapsed()
    }

    /// Takes note of a proposal; answers with what it has in common with the last one, from the first move on. The
    /// beginning of a plan is a plan; some other part of it need not be.
    fn confirm(&mut self, proposed: Moves) -> Moves {
        let both = self.proposed.iter().zip(&proposed).take_while(|(before, now)| before == now);
        let confirmed = both.map(|(_, now)| now.clone()).collect();
        self.proposed = proposed;
        confirmed
    }
}

impl Balancer {
    pub fn new(
        state: State,
        events: Events,
        usages: Usages,
        leads: watch::Receiver<Option<i64>>,
    ) -> Balancer {
        Balancer { state, events, usages, leads, memory: Memory::new() }
    }

    pub async fn run(mut self) {
        self.state.ready().await;
        let mut changes = self.state.changes();
        loop {
            changes.borrow_and_update();
            let leads = *self.leads.borrow_and_update();
            match leads {
                None => self.memory = Memory::new(),
                Some(since) => {
                    if let Err(error) = self.turn(since).await {
                        tracing::debug!(%error, "the leader's turn at the balance failed");
                    }
                }
            }
            tokio::time::sleep(LOOK_EVERY_MIN).await;
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                changed = self.leads.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn turn(&mut self, since: i64) -> Result<(), StoreError> {
        let open: Vec<JobSpec> =
            open_jobs(self.state.read().view()).filter(|job| makes_moves(job)).cloned().collect();
        if !open.is_empty() {
            let usage = Arc::new(self.usages.fresh().await);
            for job in open {
                unless_refused(self.advance_job(since, job, usage.clone()).await)?;
            }
        }
        unless_refused(self.restart_elsewhere(since).await)?;
        unless_refused(self.heal(since).await)?;
        unless_refused(self.verify(since).await)?;
        let view = self.state.view();
        let quiet = self.memory.quiet_for(&view);
        let settings = settings_of(&view);
        let every = (window(&settings) / ROUNDS_PER_WINDOW).clamp(ROUND_MIN, ROUND_MAX);
        if self.memory.last_round.is_some_and(|last| last.elapsed() < every) {
            return Ok(());
        }
        self.memory.last_round = Some(Instant::now());
        unless_refused(self.round(since, view, &settings, quiet).await)
    }

    /// One look at a job that makes moves.
    async fn advance_job(&self, since: i64, job: JobSpec, usage: Arc<Usage>) -> Result<(), StoreError> {
        let view = self.state.view();
        let (seen, now) = (view.job_reports.get(&job.id).cloned(), Timestamp::now());
        let id = job.id;
        let next = apart(move || advance(&view, &job, &Measured(&usage), now)).await?;
        let Some((report, start)) = next else { return Ok(()) };
        let mut spec = None;
        let outcome = self
            .state
            .change(|view, txn| {
                // A job that was cancelled or reported on meanwhile is looked at anew.
                as_leader(txn, since);
                txn.unchanged(&keys::job(id)).put(&report);
                if let Some(start) = &start {
                    txn.create(start);
                }
                spec = view.jobs.get(&id).cloned();
                view.job_reports.get(&id) == seen.as_ref() && spec.is_some()
            })
            .await?;
        if let (Outcome::Committed { .. }, Some(spec)) = (outcome, spec) {
            tell_end(&self.events, &spec, &report);
        }
        Ok(())
    }

    async fn round(
        &mut self,
        since: i64,
        view: Arc<ClusterView>,
        settings: &Settings,
        quiet: Duration,
    ) -> Result<(), StoreError> {
        let usage = self.usages.fresh().await;
        let in_the_way = in_the_way(&view, quiet, quiet_needed(settings), Timestamp::now());
        let mode = settings.balance;
        let plan =
            apart(move || look(&view, &usage, mode != BalanceMode::Off && in_the_way.is_none(), in_the_way));
        let Look { promise, proposal } = plan.await?;
        if let Some(news) = self.memory.promise.look(promise) {
            tell(&self.events, news);
        }
        match (mode, proposal) {
            (BalanceMode::Off, _) => self.memory.proposed = Moves::new(),
            (BalanceMode::Manual | BalanceMode::Automatic, Err(why)) => {
                tracing::debug!(why, "the load is not balanced now");
                self.memory.proposed = Moves::new();
            }
            (BalanceMode::Manual, Ok(moves)) => self.propose(moves),
            (BalanceMode::Automatic, Ok(moves)) => {
                let confirmed = self.memory.confirm(moves);
                if !confirmed.is_empty() && self.begin(since, confirmed).await? {
                    self.memory.proposed = Moves::new();
                }
            }
        }
        Ok(())
    }

    /// Tells people of a proposal that two rounds agree on, once.
    fn propose(&mut self, moves: Moves) {
        let same = self.memory.proposed == moves;
        self.memory.proposed = moves;
        let moves = &self.memory.proposed;
        if moves.is_empty() {
            self.memory.told = Moves::new();
        } else if same && self.memory.told != *moves {
            let (guest, to) = &moves[0];
            let more = match moves.len() - 1 {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            let message = format!(
                "the load could be spread better: move '{guest}' to {to}{more}; `kennel balance show` tells why, \
                 `kennel balance apply` does it"
            );
            self.events.info(EventKind::BalanceProposed, "cluster", message);
            self.memory.told = self.memory.proposed.clone();
        }
    }

    /// Enters the job. Not if another one that makes moves was entered meanwhile.
    async fn begin(&self, since: i64, moves: Moves) -> Result<bool, StoreError> {
        let job = JobSpec {
            id: JobId(Uuid::now_v7()),
            kind: JobKind::Balance { moves },
            created_at: Timestamp::now(),
            requested_by: "balance".into(),
            runner: None,
            cancel: false,
        };
        let outcome = self
            .state
            .change(|view, txn| {
                as_leader(txn, since);
                txn.create(&job);
                !open_jobs(view).any(makes_moves)
            })
            .await?;
        Ok(matches!(outcome, Outcome::Committed { .. }))
    }
}

/// What one round found.
#[derive(Debug)]
struct Look {
    /// What of the promise does not hold.
    promise: Vec<String>,
    /// The moves that would help, or why none are planned now.
    proposal: Result<Moves, String>,
}

fn look(view: &ClusterView, usage: &Usage, plan: bool, in_the_way: Option<String>) -> Look {
    let inventory = Inventory::new(view, usage);
    let promise = plan::capacity::problems(&plan::capacity::survey(&inventory.snapshot));
    let unmeasured = inventory.unmeasured().iter().next().map(|(host, why)| format!("{host}: {why}"));
    let proposal = match in_the_way.or(unmeasured) {
        Some(why) => Err(why),
        None if !plan => Ok(Moves::new()),
        None => Ok(propose(&inventory, Options { moves_max: Some(MOVES_MAX) }).places()),
    };
    Look { promise, proposal }
}

/// What keeps the load from being balanced now: it would disturb something that matters more, or rest on
/// measurements of a time before.
fn in_the_way(view: &ClusterView, quiet: Duration, needed: Duration, now: Timestamp) -> Option<String> {
    if quiet < needed {
        return Some(format!("hosts came or went {} s ago", quiet.as_secs()));
    }
    if let Some(guest) = view.assignments.keys().find(|guest| is_to_be_recovered(view, guest)) {
        return Some(format!("'{guest}' is to be recovered first"));
    }
    let moves = |job: &JobSpec| makes_moves(job) || matches!(job.kind, JobKind::MoveGuest { .. });
    if let Some(job) = open_jobs(view).find(|job| moves(job)) {
        return Some(format!("the job '{}' is under way", job.kind));
    }
    let rested = |job: &JobSpec| {
        let Some(report) = view.job_reports.get(&job.id) else { return true };
        let rest =
            if report.state == model::JobState::Failed { needed * QUIET_AFTER_FAILURE } else { needed };
        let rest = jiff::SignedDuration::try_from(rest).unwrap_or_default();
        report.ended_at.is_none_or(|ended| now.duration_since(ended) >= rest)
    };
    let moved = view.jobs.values().filter(|job| moves(job)).find(|job| !rested(job));
    moved.map(|job| format!("the job '{}' ended a moment ago", job.kind))
}

/// Whether a guest has lost its host, and the leader can bring it back. One that waits for its host to return does
/// not keep the rest from being balanced.
fn is_to_be_recovered(view: &ClusterView, guest: &GuestName) -> bool {
    let (Some(assignment), Some(spec)) = (view.assignments.get(guest), view.guests.get(guest)) else {
        return false;
    };
    let Some(secondary) = &assignment.secondary else { return false };
    let Liveness::Live(boot) = view.liveness(secondary) else { return false };
    let holds = |disk: &model::DiskSpec| {
        view.in_sync.get(&disk.volume).is_some_and(|set| set.contains(secondary, boot))
    };
    !view.is_live(&assignment.host) && !spec.deleting && spec.disks.iter().all(holds)
}

/// Jobs of the leader that have not ended.
fn open_jobs(view: &ClusterView) -> impl Iterator<Item = &JobSpec> {
    let ended = |job: &JobSpec| view.job_reports.get(&job.id).is_some_and(|r| r.state.is_terminal());
    view.jobs.values().filter(move |job| job.runner.is_none() && !ended(job))
}

fn makes_moves(job: &JobSpec) -> bool {
    matches!(job.kind, JobKind::Balance { .. } | JobKind::DrainHost { .. })
}

fn settings_of(view: &ClusterView) -> Settings {
    view.cluster.as_ref().map(|cluster| cluster.settings.clone()).unwrap_or_default()
}

fn window(settings: &Settings) -> Duration {
    Duration::from_secs(settings.usage_window_s.into())
}

fn quiet_needed(settings: &Settings) -> Duration {
    window(settings).clamp(QUIET_MIN, QUIET_MAX)
}

/// Plans on a thread of its own.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    let broken = |error| StoreError::Refused(format!("a plan broke off: {error}"));
    tokio::task::spawn_blocking(work).await.map_err(broken)
}

mod heal;
mod health;
#[cfg(test)]
mod tests;
mod verify;
