//! The leader keeps the incidents, beside its decisions: `plan::incident` says what is to be written.
//!
//! It runs on the leader's leadership and compares its record, as the balancer does, so that a look which takes long, or a
//! store that is slow, holds no recovery up. All memory is in the records, but for which members of the store did not
//! answer; a new leader asks anew.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use model::{EventKind, HostName, Incident, IncidentId};
use store::{StoreError, keys};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{as_leader, unless_refused};
use crate::events::Events;
use crate::http::Shared;
use crate::state::State;

/// Between two looks at a cluster in which nothing happens, and in which much happens.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_EVERY_MIN: Duration = Duration::from_millis(250);

/// It may take this part of its time: one in so many.
const PAUSE_PER_WORK: u32 = 10;

const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// How often the members of the store are asked how they are. What they say twice counts.
const ASK_MEMBERS_EVERY: Duration = Duration::from_secs(5);

/// Records removed in one transaction.
const TRIM_BATCH: usize = 50;

type Unwell = BTreeMap<HostName, String>;

/// Keeps incidents while this daemon leads.
#[derive(Debug)]
pub struct Incidents {
    state: State,
    leads: watch::Receiver<Option<i64>>,
    unwell: watch::Receiver<Unwell>,
}

impl Incidents {
    /// `backend`: whom the store's members are asked through.
    pub fn new(backend: Shared, events: Events, leads: watch::Receiver<Option<i64>>) -> Incidents {
        let (sender, unwell) = watch::channel(Unwell::new());
        let state = backend.state().clone();
        tokio::spawn(ask_members(backend, events, leads.clone(), sender));
        Incidents { state, leads, unwell }
    }

    pub async fn run(mut self) {
        self.state.ready().await;
        let mut changes = self.state.changes();
        loop {
            changes.borrow_and_update();
            let begin = Instant::now();
            let leads = *self.leads.borrow_and_update();
            let mut least = LOOK_EVERY_MIN;
            if let Some(since) = leads
                && let Err(error) = self.turn(since).await
            {
                tracing::debug!(%error, "the incidents are looked at again");
                least = AFTER_FAILURE;
            }
            tokio::time::sleep(least.max(begin.elapsed() * PAUSE_PER_WORK)).await;
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                changed = self.leads.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn turn(&self, since: i64) -> Result<(), StoreError> {
        let now = Timestamp::now();
        let unwell = self.unwell.borrow().clone();
        let changed = plan::incident::look(self.state.read().view(), &unwell, now);
        for incident in changed {
            let before = self.state.read().view().incidents.get(&incident.id).map(Incident::is_open);
            unless_refused(self.write(since, &incident).await)?;
            match (before, incident.is_open()) {
                (None, _) => tracing::info!(incident = %incident.id, "opened: {}", incident.headline()),
                (Some(true), false) => {
                    tracing::info!(incident = %incident.id, "ended: {}", incident.headline())
                }
                (Some(_), _) => {}
            }
        }
        let surplus = plan::incident::surplus(self.state.read().view(), now);
        unless_refused(self.remove(since, &surplus).await)
    }

    async fn write(&self, since: i64, incident: &Incident) -> Result<(), StoreError> {
        let written = self.state.write(|txn| {
            as_leader(txn, since);
            txn.put(incident);
        });
        // After a conflict another host leads, or the next look sees what is new.
        written.await.map(drop)
    }

    async fn remove(&self, since: i64, surplus: &[IncidentId]) -> Result<(), StoreError> {
        if surplus.is_empty() {
            return Ok(());
        }
        let removed = self.state.write(|txn| {
            as_leader(txn, since);
            for incident in surplus.iter().take(TRIM_BATCH) {
                txn.delete(&keys::incident(*incident));
            }
        });
        removed.await.map(drop)
    }
}

/// Asks beside the looks: a member that is gone takes its time not to answer.
async fn ask_members(
    backend: Shared,
    events: Events,
    mut leads: watch::Receiver<Option<i64>>,
    sender: watch::Sender<Unwell>,
) {
    let mut last = Unwell::new();
    loop {
        if leads.borrow_and_update().is_none() {
            last.clear();
            sender.send_if_modified(|unwell| !std::mem::take(unwell).is_empty());
            if leads.changed().await.is_err() {
                return;
            }
            continue;
        }
        let members = backend.store_members().await.into_iter().filter(|member| !member.healthy);
        let now: Unwell = members
            .map(|member| (member.host, member.message.unwrap_or_else(|| "it does not answer".to_owned())))
            .collect();
        let twice: Unwell = now
            .iter()
            .filter(|(host, _)| last.contains_key(*host))
            .map(|(h, w)| (h.clone(), w.clone()))
            .collect();
        last = now;
        let before = sender.borrow().clone();
        for (host, why) in twice.iter().filter(|(host, _)| !before.contains_key(*host)) {
            let message = format!("the state store's member on {host} is not well: {why}");
            events.warning(EventKind::StoreDegraded, format!("host/{host}"), message);
        }
        for host in before.keys().filter(|host| !twice.contains_key(*host)) {
            let message = format!("the state store's member on {host} is well again");
            events.info(EventKind::StoreDegraded, format!("host/{host}"), message);
        }
        sender.send_if_modified(|unwell| {
            // The words may change all the time; what counts is who.
            let differs = !unwell.keys().eq(twice.keys());
            if differs {
                *unwell = twice;
            }
            differs
        });
        if sender.is_closed() {
            return;
        }
        tokio::time::sleep(ASK_MEMBERS_EVERY).await;
    }
}

#[cfg(test)]
mod tests;
