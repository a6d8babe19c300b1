//! The leader tells those who want to hear of incidents: `plan::alert` says what is due.
//!
//! ```text
//!   due ──▶ send (a task for each target) ──taken──▶ record it, compared with the leader's record ──▶ the next
//!                 ▲                       └─failed──▶ record why, once; pause, twice as long each time
//!                 └───────────────────────────────────────────────┘
//! ```
//!
//! A leader that dies between sending and recording makes the next one send that notice again, under the same id; all
//! other notices are sent once. There is no queue that could grow: what is due follows from the incidents that are kept.
//! It runs beside the leader's decisions and holds none of them up.
//!
//! So many notices a minute are sent to a target one by one; then one that tells of all that is due; then nothing until
//! the minute has passed.

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use model::{AlertName, AlertState, AlertTarget, ClusterView, Event, EventId, EventKind, HostName, Severity};
use plan::alert::{Due, due, sent};
use store::{Outcome, StoreError, keys};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use super::as_leader;
use crate::alerts::{Post, several, single};
use crate::state::State;

/// Notices to one target, one by one, within [`MINUTE`].
const PER_MINUTE: usize = 10;
const MINUTE: Duration = Duration::from_secs(60);

/// Between two tries, growing from the first to the second.
const RETRY_FIRST: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Between two tries to record what was sent.
const RECORD_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Sends while this daemon leads.
#[derive(Debug)]
pub struct Alerter {
    me: HostName,
    state: State,
    post: Post,
    leads: watch::Receiver<Option<i64>>,
    /// By the id of the target: one made anew under an old name is another one.
    lines: BTreeMap<Uuid, Line>,
    /// One for each target that is just being told; whether it has taken it.
    tasks: JoinSet<(Uuid, bool)>,
}

/// What is remembered of one target.
#[derive(Debug, Default)]
struct Line {
    /// When notices were sent within the last minute.
    times: VecDeque<Instant>,
    failures: u32,
    not_before: Option<Instant>,
    /// It is just being told.
    busy: bool,
}

impl Alerter {
    pub fn new(me: HostName, state: State, leads: watch::Receiver<Option<i64>>) -> Alerter {
        let post = Post::new(me.clone(), state.clone());
        Alerter { me, state, post, leads, lines: BTreeMap::new(), tasks: JoinSet::new() }
    }

    pub async fn run(mut self) {
        self.state.ready().await;
        let mut changes = self.state.changes();
        loop {
            changes.borrow_and_update();
            let leads = *self.leads.borrow_and_update();
            let pause = match leads {
                Some(since) => self.turn(since),
                None => {
                    self.tasks.shutdown().await;
                    self.lines.clear();
                    LOOK_EVERY
                }
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                changed = self.leads.changed() => if changed.is_err() { return },
                Some(Ok((target, arrived))) = self.tasks.join_next() => {
                    if let Some(line) = self.lines.get_mut(&target) {
                        line.settle(arrived, Instant::now());
                    }
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Begins to send what can be sent now; for how long there is nothing to do then.
    fn turn(&mut self, since: i64) -> Duration {
        let targets: Vec<AlertTarget> = self.state.read().view().alerts.values().cloned().collect();
        self.lines.retain(|id, line| line.busy || targets.iter().any(|target| target.id == *id));
        let mut pause = LOOK_EVERY;
        for target in targets {
            pause = pause.min(self.serve(since, &target));
        }
        pause
    }

    fn serve(&mut self, since: i64, target: &AlertTarget) -> Duration {
        let line = self.lines.entry(target.id).or_default();
        if line.busy {
            return LOOK_EVERY;
        }
        if let Some(wait) = line.wait(Instant::now()) {
            return wait;
        }
        let next = next(self.state.read().view(), target, line.times.len() >= PER_MINUTE);
        let Some((due, notice)) = next else { return LOOK_EVERY };
        let errand = Errand { me: self.me.clone(), state: self.state.clone(), since, target: target.clone() };
        let (post, id) = (self.post.clone(), target.id);
        line.busy = true;
        let told = async move {
            let taken = post.send(&errand.target, &notice).await;
            let arrived = taken.is_ok();
            errand.record(&due, taken).await;
            arrived
        };
        // One that breaks off has failed; its target is not busy for ever.
        let told = AssertUnwindSafe(told).catch_unwind();
        self.tasks.spawn(async move { (id, told.await.unwrap_or(false)) });
        LOOK_EVERY
    }
}

impl Line {
    fn settle(&mut self, arrived: bool, now: Instant) {
        self.busy = false;
        if arrived {
            self.times.push_back(now);
            (self.failures, self.not_before) = (0, None);
        } else {
            let pause = RETRY_FIRST.saturating_mul(2_u32.saturating_pow(self.failures)).min(RETRY_MAX);
            self.failures = self.failures.saturating_add(1);
            self.not_before = Some(now + pause);
        }
    }

    /// For how long nothing may be sent. `None`: something may be.
    fn wait(&mut self, now: Instant) -> Option<Duration> {
        while self.times.front().is_some_and(|at| now.duration_since(*at) >= MINUTE) {
            self.times.pop_front();
        }
        let full = self.times.front().filter(|_| self.times.len() > PER_MINUTE).map(|at| *at + MINUTE);
        let until = self.not_before.into_iter().chain(full).max()?;
        until.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }
}

/// The next notice: the oldest that is due, or all of them at once.
fn next(view: &ClusterView, target: &AlertTarget, at_once: bool) -> Option<(Vec<Due>, api::Notice)> {
    let mut all = due(target, view.alert_states.get(&target.name), &view.incidents);
    let now = Timestamp::now();
    if at_once && all.len() > 1 {
        let notice = several(view, &all, now)?;
        return Some((all, notice));
    }
    all.truncate(1);
    let first = all.first()?;
    let notice = single(view, first, view.incidents.get(&first.incident)?, now);
    Some((all, notice))
}

/// What one task carries out.
struct Errand {
    me: HostName,
    state: State,
    /// The revision of this daemon's leader record.
    since: i64,
    target: AlertTarget,
}

impl Errand {
    /// Writes down what became of it, until that is written or is nobody's concern any more.
    async fn record(&self, due: &[Due], taken: Result<(), String>) {
        loop {
            let outcome = self
                .state
                .change(|view, txn| {
                    let before = self.before(view);
                    let Some(after) = self.after(view, before, due, &taken) else { return false };
                    as_leader(txn, self.since);
                    txn.put(&after).exists(&keys::alert(&self.target.name));
                    if let Some(event) = self.event(before, &after) {
                        txn.create(&event);
                    }
                    true
                })
                .await;
            match outcome {
                Ok(Outcome::Committed { .. }) | Err(StoreError::Refused(_) | StoreError::LeaseGone) => return,
                Ok(Outcome::Conflict) if self.is_over(due, &taken) => return,
                Ok(Outcome::Conflict) | Err(StoreError::Unavailable(_) | StoreError::Unknown(_)) => {
                    tokio::time::sleep(RECORD_AGAIN_AFTER).await;
                }
            }
        }
    }

    fn before<'v>(&self, view: &'v ClusterView) -> Option<&'v AlertState> {
        view.alert_states.get(&self.target.name).filter(|state| state.target_id == self.target.id)
    }

    /// `None`: there is nothing to write.
    fn after(
        &self,
        view: &ClusterView,
        before: Option<&AlertState>,
        due: &[Due],
        taken: &Result<(), String>,
    ) -> Option<AlertState> {
        if view.alerts.get(&self.target.name).is_none_or(|target| target.id != self.target.id) {
            return None;
        }
        let now = Timestamp::now();
        match taken {
            Ok(()) => {
                let after = sent(&self.target, before, due, &view.incidents);
                Some(AlertState { last_sent_at: Some(now), ..after })
            }
            Err(why) if before.is_some_and(|state| state.problem.as_ref() == Some(why)) => None,
            Err(why) => {
                let state = before.cloned().unwrap_or_else(|| AlertState::new(&self.target));
                let failing_since = state.failing_since.or(Some(now));
                Some(AlertState { problem: Some(why.clone()), failing_since, ..state })
            }
        }
    }

    /// Whether nothing is left to be written: it stands there, or this daemon leads no more.
    fn is_over(&self, due: &[Due], taken: &Result<(), String>) -> bool {
        let cache = self.state.read();
        cache.revision_of(keys::LEADER) != self.since
            || self.after(cache.view(), self.before(cache.view()), due, taken).is_none()
    }

    /// The first failure, and the first success after it.
    fn event(&self, before: Option<&AlertState>, after: &AlertState) -> Option<Event> {
        let name: &AlertName = &self.target.name;
        let failed = before.is_some_and(|state| state.problem.is_some());
        let (severity, message) = match (&after.problem, failed) {
            (Some(why), false) => (Severity::Warning, format!("an alert to '{name}' did not arrive: {why}")),
            (None, true) => (Severity::Info, format!("alerts to '{name}' arrive again")),
            (Some(_), true) | (None, false) => return None,
        };
        tracing::info!(alert = %name, "{message}");
        Some(Event {
            id: EventId(Uuid::now_v7()),
            at: Timestamp::now(),
            severity,
            kind: EventKind::AlertsFailing,
            subject: format!("alert/{name}"),
            seen_by: self.me.clone(),
            message,
        })
    }
}

#[cfg(test)]
mod tests;
