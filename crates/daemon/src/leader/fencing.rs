//! The leader takes the power of hosts, as `plan::fence` says.
//!
//! ```text
//!   ask      the record is created, and only while the host has no session
//!   begin    the record says that a try is under way          ── the leader dies here: the next one begins again
//!   take     each device: is it still wanted? off; status     ── or here: off once more is off
//!   settle   the host has no session; the devices still say that it is off; the record says so, with the event
//! ```
//!
//! Beside it, for a host whose hardware watchdog resets it when nobody feeds it:
//!
//! ```text
//!   count    from when this leader first saw the record, which exists only while the host has no session
//!   settle   the time has passed, and it is the same record: the host was not heard meanwhile; the record says so
//! ```
//!
//! The next leader counts anew: nobody's clock but its own tells it how long that was.
//!
//! A side of a partition without a quorum fences nobody. It has no leader; one that does not know yet cannot begin,
//! for that is a transaction which compares its leader record; and right before each device is switched the store is
//! asked anew, by a quorum, whether this daemon leads and the fence is still wanted. Two hosts that have lost each
//! other cannot shoot each other for the same reason: at most one of them reaches a quorum of the store.
//!
//! Everything that is written is written with the event that tells of it, in one transaction.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use model::{
    ClusterView, Event, EventId, EventKind, Fence, FenceDevices, HostName, PowerOff, Reset, Severity,
};
use plan::fence::{Ask, FencePlan, fences};
use plan::limits::SESSION_TTL;
use store::{Outcome, StoreError, TxnBuilder, keys};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use crate::fencing::Fencer;
use crate::state::State;

/// How long a host whose power is off may still have a session. etcd ends leases a little late, and another time over
/// when its leader was that host's member.
const SILENT_WITHIN: Duration = Duration::from_secs(2 * SESSION_TTL.as_secs() + 5);

/// The tries that are under way.
#[derive(Debug)]
pub struct Fencing {
    me: HostName,
    state: State,
    fencer: Fencer,
    silent_within: Duration,
    tries: BTreeMap<HostName, Running>,
    /// Since when the hosts are waited for that reset themselves.
    awaited: BTreeMap<HostName, Awaited>,
}

/// A host that resets itself.
#[derive(Debug, PartialEq, Eq)]
struct Awaited {
    /// Its fence, and the revision of the leader's record.
    id: Uuid,
    since: i64,
    begun: Instant,
}

/// A try. Its agents end with it.
#[derive(Debug)]
struct Running {
    id: Uuid,
    since: i64,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fencing {
    pub fn new(me: HostName, state: State, fencer: Fencer) -> Self {
        Self {
            me,
            state,
            fencer,
            silent_within: SILENT_WITHIN,
            tries: BTreeMap::new(),
            awaited: BTreeMap::new(),
        }
    }

    /// This daemon leads no more.
    pub fn stop(&mut self) {
        self.tries.clear();
        self.awaited.clear();
    }

    /// Does what is to be done now; answers when to look again.
    pub async fn advance(
        &mut self,
        since: i64,
        now: Timestamp,
        recover_from: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        let FencePlan { ask, attempt, await_reset, drop, wake_at } =
            fences(self.state.read().view(), now, recover_from);
        for ask in ask {
            super::unless_refused(self.ask(since, ask).await)?;
        }
        for host in drop {
            super::unless_refused(self.drop(since, &host).await)?;
        }
        self.tries.retain(|host, running| {
            attempt.contains(host) && running.since == since && !running.task.is_finished()
        });
        for host in attempt {
            self.attempt(since, host);
        }
        let reset_in = self.await_resets(since, await_reset).await?;
        let reset_at = reset_in.map(|left| now + jiff::SignedDuration::try_from(left).unwrap_or_default());
        Ok(wake_at.into_iter().chain(reset_at).min())
    }

    /// Counts for hosts that reset themselves; answers when the next one has surely done so.
    async fn await_resets(
        &mut self,
        since: i64,
        hosts: Vec<(HostName, Duration)>,
    ) -> Result<Option<Duration>, StoreError> {
        self.awaited.retain(|host, _| hosts.iter().any(|(awaited, _)| awaited == host));
        let mut next: Option<Duration> = None;
        for (host, within) in hosts {
            let Some(fence) = self.state.read().view().fences.get(&host).cloned() else { continue };
            let awaited = self.awaited.get(&host).filter(|a| (a.id, a.since) == (fence.id, since));
            let waited = awaited.map_or(Duration::ZERO, |awaited| awaited.begun.elapsed());
            if awaited.is_none() {
                let begun = Instant::now();
                self.awaited.insert(host.clone(), Awaited { id: fence.id, since, begun });
            }
            if waited < within {
                let left = within - waited;
                next = Some(next.map_or(left, |next| next.min(left)));
                continue;
            }
            super::unless_refused(self.settle_reset(since, fence).await)?;
        }
        Ok(next)
    }

    /// The host's own next session would have removed the record, so it had none since the record was made.
    async fn settle_reset(&self, since: i64, seen: Fence) -> Result<(), StoreError> {
        let host = seen.host.clone();
        let report = self.state.read().view().host_reports.get(&host).cloned();
        let Some(watchdog) = report.and_then(|report| report.hardware_watchdog) else { return Ok(()) };
        let message = format!(
            "{host} was not heard for so long that its watchdog ({}) must have reset it after {} s",
            watchdog.name, watchdog.timeout_s
        );
        let event = self.event(Severity::Warning, EventKind::HostFenced, &host, message);
        let (device, timeout_s) = (watchdog.name.clone(), watchdog.timeout_s);
        let reset = Reset { at: Timestamp::now(), device, timeout_s, counted_by: self.me.clone() };
        let outcome = self
            .state
            .change(|view, txn| {
                let fence = view.fences.get(&host).filter(|fence| fence.id == seen.id && !fence.is_proven());
                let Some(fence) = fence else { return false };
                let fence = Fence { reset: Some(reset.clone()), ..fence.clone() };
                txn.at(keys::LEADER, since).put(&fence).create(&event);
                txn.absent(&keys::session(&host)).unchanged(&keys::host_report(&host));
                // What was counted is what is compared.
                let report = view.host_reports.get(&host);
                report.and_then(|report| report.hardware_watchdog.as_ref()) == Some(&watchdog)
            })
            .await?;
        log(outcome, &event);
        Ok(())
    }

    async fn ask(&self, since: i64, ask: Ask) -> Result<(), StoreError> {
        let Ask { host, boot_id, why } = ask;
        let fence = Fence {
            host: host.clone(),
            id: Uuid::new_v4(),
            boot_id,
            asked_by: "the leader".into(),
            by_hand: false,
            why,
            since: Timestamp::now(),
            tries: 0,
            tried_at: None,
            problem: None,
            off: None,
            reset: None,
        };
        let message = format!("the power of {host} is being taken: {}", fence.why);
        let event = self.event(Severity::Warning, EventKind::HostFencing, &host, message);
        let outcome = self
            .state
            .change(|_, txn| {
                txn.at(keys::LEADER, since).absent(&keys::session(&host)).put(&fence).create(&event);
                true
            })
            .await?;
        log(outcome, &event);
        Ok(())
    }

    async fn drop(&self, since: i64, host: &HostName) -> Result<(), StoreError> {
        let message = format!("the power of {host} need not be taken any more");
        let event = self.event(Severity::Info, EventKind::HostFencing, host, message);
        let outcome = self
            .state
            .change(|_, txn| {
                txn.at(keys::LEADER, since).delete(&keys::fence(host)).create(&event);
                true
            })
            .await?;
        log(outcome, &event);
        Ok(())
    }

    /// Sees to it that a try of the fence is under way.
    fn attempt(&mut self, since: i64, host: HostName) {
        let Some(fence) = self.state.read().view().fences.get(&host).cloned() else { return };
        if self.tries.get(&host).is_some_and(|running| running.id == fence.id) {
            return;
        }
        let id = fence.id;
        let one = Try {
            me: self.me.clone(),
            state: self.state.clone(),
            fencer: self.fencer.clone(),
            silent_within: self.silent_within,
            since,
            host: host.clone(),
            id,
        };
        let task = tokio::spawn(async move {
            if let Err(error) = one.run(fence).await {
                // What became of it stands in the record; the next turn goes on from there.
                tracing::warn!(host = %one.host, %error, "a try to fence a host ends early");
            }
        });
        self.tries.insert(host, Running { id, since, task });
    }

    fn event(&self, severity: Severity, kind: EventKind, host: &HostName, message: String) -> Event {
        event(&self.me, severity, kind, host, message)
    }
}

fn event(me: &HostName, severity: Severity, kind: EventKind, host: &HostName, message: String) -> Event {
    let (id, at) = (EventId(Uuid::now_v7()), Timestamp::now());
    Event { id, at, severity, kind, subject: format!("host/{host}"), seen_by: me.clone(), message }
}

/// What was stored stands in the log, too.
pub(super) fn log(outcome: Outcome, event: &Event) {
    let (subject, message) = (&event.subject, &event.message);
    match (outcome, event.severity) {
        (Outcome::Conflict, _) => {}
        (Outcome::Committed { .. }, Severity::Info) => tracing::info!(%subject, "{message}"),
        (Outcome::Committed { .. }, Severity::Warning) => tracing::warn!(%subject, "{message}"),
        (Outcome::Committed { .. }, Severity::Error) => tracing::error!(%subject, "{message}"),
    }
}

/// One try of one fence.
struct Try {
    me: HostName,
    state: State,
    fencer: Fencer,
    silent_within: Duration,
    /// The revision of this daemon's leader record.
    since: i64,
    host: HostName,
    id: Uuid,
}

impl Try {
    async fn run(&self, seen: Fence) -> Result<(), StoreError> {
        let before = seen.problem.clone();
        let begun = Fence {
            tries: seen.tries.saturating_add(1),
            tried_at: Some(Timestamp::now()),
            problem: None,
            ..seen
        };
        if !self.write(&begun, None, |_| {}).await? {
            return Ok(());
        }
        match self.prove(&begun).await {
            Ok(off) => {
                let devices: Vec<&str> = off.devices.iter().map(model::DeviceName::as_str).collect();
                let message = format!("the power of {} is off: {} said so", self.host, devices.join(" and "));
                let event = event(&self.me, Severity::Warning, EventKind::HostFenced, &self.host, message);
                let fence = Fence { off: Some(off), ..begun };
                let session = keys::session(&self.host);
                self.write(&fence, Some(event), |txn| {
                    txn.absent(&session);
                })
                .await?;
            }
            Err(why) => {
                let message = format!("the power of {} is not proven to be off: {why}", self.host);
                let told = before.as_ref() == Some(&why);
                let event = event(&self.me, Severity::Error, EventKind::HostFencing, &self.host, message);
                let fence = Fence { problem: Some(why), tried_at: Some(Timestamp::now()), ..begun };
                self.write(&fence, (!told).then_some(event), |_| {}).await?;
            }
        }
        Ok(())
    }

    /// Returns when the devices of a level say that there is no power, and the host has no session.
    async fn prove(&self, fence: &Fence) -> Result<PowerOff, String> {
        let none = || FenceDevices::none(self.host.clone());
        let devices = self.state.read().view().fence_devices.get(&self.host).cloned().unwrap_or_else(none);
        let names = self.fencer.take_power(&devices, fence.since, || self.is_wanted()).await?;
        if self.state.read().view().is_live(&self.host) {
            // Only somebody's word brings it here. A session outlives its host by a moment, and no longer.
            let silent = self.state.until(|cache| !cache.view().is_live(&self.host));
            if tokio::time::timeout(self.silent_within, silent).await.is_err() {
                return Err(format!(
                    "its devices say that it is off, and it is heard: they are another host's, or do nothing; see \
                     `kennel host fence-device list {}`",
                    self.host
                ));
            }
            self.fencer.are_off(&devices, &names).await?;
        }
        Ok(PowerOff { at: Timestamp::now(), devices: names, seen_by: self.me.clone() })
    }

    /// Asks the store, by a quorum, whether this daemon leads and the fence stands.
    async fn is_wanted(&self) -> Result<(), String> {
        self.state.refresh().await.map_err(|error| format!("the store does not confirm it: {error}"))?;
        let cache = self.state.read();
        if cache.revision_of(keys::LEADER) != self.since {
            return Err("another host leads now".into());
        }
        if self.in_store(cache.view()).is_none() {
            return Err("nobody wants it any more".into());
        }
        Ok(())
    }

    fn in_store<'v>(&self, view: &'v ClusterView) -> Option<&'v Fence> {
        view.fences.get(&self.host).filter(|fence| fence.id == self.id)
    }

    /// Writes the record, if this daemon leads and it is the same fence; whether it did.
    async fn write(
        &self,
        fence: &Fence,
        event: Option<Event>,
        more: impl FnOnce(&mut TxnBuilder<'_>),
    ) -> Result<bool, StoreError> {
        let outcome = self
            .state
            .change(|view, txn| {
                txn.at(keys::LEADER, self.since).put(fence);
                if let Some(event) = &event {
                    txn.create(event);
                }
                more(txn);
                self.in_store(view).is_some()
            })
            .await?;
        if let Some(event) = &event {
            log(outcome, event);
        }
        Ok(matches!(outcome, Outcome::Committed { .. }))
    }
}

#[cfg(test)]
mod tests;
