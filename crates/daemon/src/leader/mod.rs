//! The cluster-wide loops, run by one daemon at a time.
//!
//! The leader's record hangs on its session's lease, and every transaction of the leader compares it: a
//! leader that was replaced without knowing changes nothing. A leader that does not know what became of a transaction
//! resigns and campaigns anew: what it sent before compares a record that is gone, and can no longer be carried out
//! after something was decided without it.

mod alerts;
mod balance;
mod fencing;
mod incidents;
mod jobs;
mod storm;
mod watcher;

use std::time::Duration;

use jiff::Timestamp;
use model::{EventKind, HostName, Severity};
use plan::decide::{Change, Decision};
use plan::fence::FenceProof;
use plan::limits::SESSION_TTL;
use store::{Outcome, StoreError, TxnBuilder, election, keys};
use tokio::sync::watch;
use tokio::time::Instant;

pub use alerts::Alerter;
pub use balance::Balancer;
pub use incidents::Incidents;

use crate::events::Events;
use crate::fencing::Fencer;
use crate::session::Standing;
use crate::state::State;

/// Between two looks at a cluster in which nothing happens.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// After a failure of the store.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// A leader, or a daemon that would become one.
#[derive(Debug)]
pub struct Leader {
    me: HostName,
    state: State,
    events: Events,
    session: watch::Receiver<Standing>,
    /// The revision at which this daemon's leader record was written; it compares it in all it writes.
    since: Option<i64>,
    watcher: watcher::Watcher,
    /// It does not know what became of something that it wrote.
    doubtful: bool,
    fencing: fencing::Fencing,
    /// Which hosts are lost, while the record of it is damaged.
    unwritten: Option<model::Losses>,
    /// `since`, for the balancer.
    leads: watch::Sender<Option<i64>>,
}

impl Leader {
    pub fn new(
        me: HostName,
        state: State,
        events: Events,
        session: watch::Receiver<Standing>,
        fencer: Fencer,
    ) -> Leader {
        let (leads, _) = watch::channel(None);
        let watcher = watcher::Watcher::default();
        let fencing = fencing::Fencing::new(me.clone(), state.clone(), fencer);
        Leader {
            me,
            state,
            events,
            session,
            since: None,
            watcher,
            doubtful: false,
            fencing,
            unwritten: None,
            leads,
        }
    }

    /// The revision of this daemon's leader record, while it leads.
    pub fn leads(&self) -> watch::Receiver<Option<i64>> {
        self.leads.subscribe()
    }

    /// Leads whenever nobody else does, for ever.
    pub async fn run(mut self) {
        self.state.ready().await;
        let mut changes = self.state.changes();
        loop {
            changes.borrow_and_update();
            let pause = match self.turn().await {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::debug!(%error, "the leader's turn failed");
                    if matches!(error, StoreError::Unknown(_)) {
                        (self.since, self.doubtful) = (None, true);
                    }
                    AFTER_FAILURE
                }
            };
            if self.since.is_none() {
                self.fencing.stop();
            }
            self.leads.send_if_modified(|leads| std::mem::replace(leads, self.since) != self.since);
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                changed = self.session.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Becomes leader if nobody is; as leader decides once and carries it out. How long to wait then.
    async fn turn(&mut self) -> Result<Duration, StoreError> {
        let standing = *self.session.borrow_and_update();
        let Some(lease) = standing.lease.filter(|_| standing.is_live(Instant::now())) else {
            self.since = None;
            return Ok(LOOK_EVERY);
        };
        if self.since != Some(self.state.read().revision_of(keys::LEADER)) {
            self.since = None;
        }
        if self.since.is_none() {
            self.campaign(lease).await?;
        }
        let Some(since) = self.since else { return Ok(LOOK_EVERY) };
        self.lead(since, standing).await
    }

    async fn campaign(&mut self, lease: store::LeaseId) -> Result<(), StoreError> {
        let leader = self.state.read().view().leader.clone();
        if leader.as_ref().is_some_and(|leader| *leader != self.me) {
            self.doubtful = false;
            return Ok(());
        }
        if leader.is_some() {
            // An earlier run of this daemon led, whose lease is not renewed any more; or this one is in doubt.
            let old = self.state.read().revision_of(keys::LEADER);
            election::resign(self.state.store().as_ref(), old).await?;
        }
        self.since = election::campaign(self.state.store().as_ref(), &self.me, lease).await?;
        if self.since.is_some() {
            self.state.refresh().await?;
            if std::mem::take(&mut self.doubtful) {
                return Ok(());
            }
            let message = format!("{} leads the cluster now", self.me);
            self.events.info(EventKind::LeaderElected, "cluster", message);
        }
        Ok(())
    }

    async fn lead(&mut self, since: i64, standing: Standing) -> Result<Duration, StoreError> {
        let now = Timestamp::now();
        for news in self.watcher.look(self.state.read().view()) {
            tell(&self.events, news);
        }
        let recover_from = recover_from(standing, now);
        let Decision { losses, changes, waiting, wake_at } = self.decide(now, recover_from);
        if let Some(losses) = losses
            && !self.note_losses(since, &losses).await?
        {
            return Ok(AFTER_FAILURE);
        }
        for news in self.watcher.waits(&waiting) {
            self.events.warning(news.kind, news.subject, news.message);
        }
        for change in &changes {
            unless_refused(self.carry_out(since, change).await)?;
        }
        self.restart_together(since, now).await?;
        let fence_at = self.fencing.advance(since, now, recover_from).await?;
        self.advance_jobs(since, now).await?;
        self.trim_events(since).await?;
        let wake_at = wake_at.into_iter().chain(fence_at).min();
        let wake = wake_at.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO));
        Ok(wake.map_or(LOOK_EVERY, |wake| wake.min(LOOK_EVERY)))
    }

    async fn carry_out(&self, since: i64, change: &Change) -> Result<(), StoreError> {
        let outcome =
            self.state.change(|view, txn| as_leader(txn, since) && compose(view, txn, change)).await?;
        let (kind, severity, to) = match (outcome, change) {
            // What was seen is no longer so; the next turn decides anew.
            (Outcome::Conflict, _) => return Ok(()),
            (Outcome::Committed { .. }, Change::Assign { to }) => {
                (EventKind::GuestPlaced, Severity::Info, to)
            }
            (Outcome::Committed { .. }, Change::Promote { to, .. } | Change::Recover { to, .. }) => {
                (EventKind::GuestPromoted, Severity::Warning, to)
            }
        };
        let message = format!("'{}' goes to {} (epoch {}): {}", to.guest, to.host, to.epoch, to.why);
        match severity {
            Severity::Info => self.events.info(kind, format!("guest/{}", to.guest), message),
            Severity::Warning | Severity::Error => {
                self.events.warning(kind, format!("guest/{}", to.guest), message);
            }
        }
        Ok(())
    }
}

fn tell(events: &Events, news: watcher::News) {
    match news.severity {
        Severity::Info => events.info(news.kind, news.subject, news.message),
        Severity::Warning => events.warning(news.kind, news.subject, news.message),
        Severity::Error => events.error(news.kind, news.subject, news.message),
    }
}

/// What one record refuses, such as a damaged one, which is never overwritten, must not keep the leader from all
/// that has nothing to do with it. Damaged records have been told of by then.
fn unless_refused(outcome: Result<(), StoreError>) -> Result<(), StoreError> {
    match outcome {
        Err(StoreError::Refused(why)) => {
            tracing::debug!(%why, "a change of the leader is refused");
            Ok(())
        }
        Ok(()) => Ok(()),
        Err(error @ (StoreError::Unavailable(_) | StoreError::Unknown(_) | StoreError::LeaseGone)) => {
            Err(error)
        }
    }
}

/// Whatever the leader writes compares its own record.
fn as_leader(txn: &mut TxnBuilder<'_>, since: i64) -> bool {
    txn.at(keys::LEADER, since);
    true
}

/// The transaction of one change, on the very records that it was decided on.
fn compose(view: &model::ClusterView, txn: &mut TxnBuilder<'_>, change: &Change) -> bool {
    match change {
        Change::Assign { to } => {
            txn.unchanged(&keys::guest(&to.guest)).create(to);
            view.guests.get(&to.guest).is_some_and(|spec| spec.id == to.guest_id && !spec.deleting)
        }
        Change::Recover { from, to, proof } => {
            txn.put(to).unchanged(&keys::session(&to.host)).exists(&keys::session(&to.host));
            txn.absent(&keys::session(&from.host));
            note_recovery(view, txn, to);
            match proof {
                FenceProof::Confirmed { .. } => txn.unchanged(&keys::confirmed_dead(&from.host)),
                FenceProof::PowerOff { .. } | FenceProof::Reset { .. } => {
                    txn.unchanged(&keys::fence(&from.host))
                }
                FenceProof::SaidStopped => txn.unchanged(&keys::guest_report(&from.guest)),
            };
            // The proof is looked at again, now that what it rests on is compared.
            view.assignments.get(&to.guest) == Some(from)
                && FenceProof::find(view, from).as_ref() == Some(proof)
        }
        Change::Promote { from, to, volumes } => {
            txn.put(to).unchanged(&keys::session(&to.host)).exists(&keys::session(&to.host));
            for order in plan::job::void_drops(view, to) {
                txn.delete(&keys::replica_drop(&order.host, order.volume));
            }
            note_recovery(view, txn, to);
            for volume in volumes {
                txn.unchanged(&keys::in_sync(*volume));
            }
            // The in-sync sets and the boot are looked at again, now that they are what is compared.
            let boot = view.sessions.get(&to.host).map(|session| session.boot_id);
            let holds = |volume| {
                boot.is_some_and(|boot| {
                    view.in_sync.get(volume).is_some_and(|set| set.contains(&to.host, boot))
                })
            };
            view.assignments.get(&to.guest) == Some(from) && volumes.iter().all(holds)
        }
    }
}

/// What guests that restart with this one must know.
fn note_recovery(view: &model::ClusterView, txn: &mut TxnBuilder<'_>, to: &model::Assignment) {
    if let Some(record) = plan::together::recovered(view, to, Timestamp::now()) {
        txn.put(&record);
    }
}

/// From when on a host without a session counts as lost. A leader whose own session began a moment ago may
/// have been cut off together with the others: it gives them time to be heard again.
fn recover_from(standing: Standing, now: Timestamp) -> Timestamp {
    let alive_for = standing.live_since.map(|since| since.elapsed()).unwrap_or_default();
    let missing = SESSION_TTL.saturating_sub(alive_for);
    now + jiff::SignedDuration::try_from(missing).unwrap_or_default()
}
