//! The store's twin in memory, for tests and the simulation.
//!
//! It keeps what etcd promises (revisions, transactions, leases, watches that resume, compaction, limits)
//! and can be made to fail as a network fails. Handles share one content; each has a fault of its own
//! ([`MemoryStore::another_link`]), so that one host can be cut off while the others go on.
//!
//! Time is tokio's, so that a paused clock works. Leases end when somebody looks: every call first ends
//! those that are due, and a watch sleeps until the next is. So no task runs behind a store's back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::{Change, Compare, Entry, FeedEvent, LeaseId, Listing, Outcome, Store, StoreError, Txn, Write};

/// How many revisions are remembered for watches; etcd is told about as many.
const HISTORY_REVISIONS: usize = 5000;

/// How a link to the store fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    #[default]
    None,
    /// Nothing gets through; every call fails at once.
    Unavailable,
    /// Requests get through and are carried out; their answers are lost.
    AnswersLost,
    /// Requests are lost on the way, and nobody can tell.
    RequestsLost,
}

/// A store in this process.
#[derive(Debug)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    fault: Arc<watch::Sender<Fault>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Counts what watches must look at: changes, compactions, new leases.
    ticks: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    revision: i64,
    /// Changes up to this revision are forgotten.
    compacted: i64,
    keys: BTreeMap<String, Stored>,
    history: VecDeque<(i64, Vec<Change>)>,
    leases: BTreeMap<i64, Lease>,
    last_lease: i64,
}

#[derive(Debug)]
struct Stored {
    value: Vec<u8>,
    mod_revision: i64,
    lease: Option<LeaseId>,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    ends_at: Instant,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    pub fn new() -> Self {
        let shared = Shared { state: Mutex::default(), ticks: watch::Sender::new(0) };
        Self { shared: Arc::new(shared), fault: Arc::new(watch::Sender::new(Fault::None)) }
    }

    /// The same content over another link, with a fault of its own.
    #[must_use]
    pub fn another_link(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), fault: Arc::new(watch::Sender::new(Fault::None)) }
    }

    /// Lets this link fail, or work again. Its watches notice.
    pub fn set_fault(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Forgets the past: a watch that has not seen all of it must list anew.
    pub fn compact(&self) {
        let mut state = self.shared.lock();
        state.compacted = state.revision;
        state.history.clear();
        drop(state);
        self.shared.tick();
    }

    /// Does what a request asks, or does not, as the link's fault says.
    fn carry_out<T>(&self, act: impl FnOnce(&mut State) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let unknown = || StoreError::Unknown("the answer was lost".to_owned());
        match *self.fault.borrow() {
            Fault::None => self.shared.act(act),
            Fault::Unavailable => Err(StoreError::Unavailable("the link is cut".to_owned())),
            Fault::AnswersLost => {
                // A refusal is lost as well.
                let _lost = self.shared.act(act);
                Err(unknown())
            }
            Fault::RequestsLost => Err(unknown()),
        }
    }

    /// As [`carry_out`](Self::carry_out), for what can be asked again without harm: it never stays unknown.
    fn ask<T>(&self, act: impl FnOnce(&mut State) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.carry_out(act).map_err(|error| match error {
            StoreError::Unknown(why) => StoreError::Unavailable(why),
            StoreError::Unavailable(_) | StoreError::LeaseGone | StoreError::Refused(_) => error,
        })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the state whole: every change of it is made by calls that do not fail.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.end_due_leases(Instant::now()) {
            self.tick();
        }
        state
    }

    fn act<T>(&self, act: impl FnOnce(&mut State) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut state = self.lock();
        let before = (state.revision, state.last_lease);
        let result = act(&mut state);
        let after = (state.revision, state.last_lease);
        drop(state);
        if before != after {
            self.tick();
        }
        result
    }

    fn tick(&self) {
        self.ticks.send_modify(|count| *count += 1);
    }
}

impl State {
    fn list(&self, prefix: &str) -> Listing {
        let entries = self
            .keys
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, stored)| stored.entry(key))
            .collect();
        Listing { entries, revision: self.revision }
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Revision { key, mod_revision } => {
                self.keys.get(key).map_or(0, |stored| stored.mod_revision) == *mod_revision
            }
            Compare::Exists { key } => self.keys.contains_key(key),
        }
    }

    fn commit(&mut self, txn: &Txn) -> Result<Outcome, StoreError> {
        txn.check_limits()?;
        if !txn.compares.iter().all(|compare| self.holds(compare)) {
            return Ok(Outcome::Conflict);
        }
        let leases = txn.writes.iter().filter_map(|write| match write {
            Write::Put { lease, .. } => *lease,
            Write::Delete { .. } => None,
        });
        if leases.into_iter().any(|lease| !self.leases.contains_key(&lease.0)) {
            return Err(StoreError::LeaseGone);
        }
        let next = self.revision + 1;
        let changes = txn.writes.iter().filter_map(|write| self.write(write, next)).collect();
        self.record(changes);
        Ok(Outcome::Committed { revision: self.revision })
    }

    /// `None`: there was nothing to delete.
    fn write(&mut self, write: &Write, mod_revision: i64) -> Option<Change> {
        match write {
            Write::Put { key, value, lease } => {
                let stored = Stored { value: value.clone(), mod_revision, lease: *lease };
                let entry = stored.entry(key);
                self.keys.insert(key.clone(), stored);
                Some(Change::Put(entry))
            }
            Write::Delete { key } => self.keys.remove(key).map(|_| Change::Delete { key: key.clone() }),
        }
    }

    fn record(&mut self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        self.revision += 1;
        self.history.push_back((self.revision, changes));
        if self.history.len() > HISTORY_REVISIONS {
            self.history.pop_front();
            self.compacted += 1;
        }
    }

    fn end_lease(&mut self, lease: LeaseId) {
        self.leases.remove(&lease.0);
        let hung = self.keys.iter().filter(|(_, stored)| stored.lease == Some(lease));
        let keys: Vec<String> = hung.map(|(key, _)| key.clone()).collect();
        self.keys.retain(|_, stored| stored.lease != Some(lease));
        self.record(keys.into_iter().map(|key| Change::Delete { key }).collect());
    }

    /// Whether any ended.
    fn end_due_leases(&mut self, now: Instant) -> bool {
        let due = |lease: &Lease| lease.ends_at <= now;
        let due: Vec<i64> = self.leases.iter().filter(|(_, l)| due(l)).map(|(id, _)| *id).collect();
        for id in &due {
            self.end_lease(LeaseId(*id));
        }
        !due.is_empty()
    }

    fn next_lease_end(&self) -> Option<Instant> {
        self.leases.values().map(|lease| lease.ends_at).min()
    }

    /// What changed under a prefix after a revision; `None`: that is forgotten.
    fn changes_after(&self, prefix: &str, revision: i64) -> Option<Vec<Change>> {
        if revision < self.compacted {
            return None;
        }
        let later = self.history.iter().filter(|(at, _)| *at > revision);
        let changes = later.flat_map(|(_, changes)| changes);
        Some(changes.filter(|change| change.key().starts_with(prefix)).cloned().collect())
    }
}

impl Stored {
    fn entry(&self, key: &str) -> Entry {
        Entry { key: key.to_owned(), value: self.value.clone(), mod_revision: self.mod_revision }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.ask(|state| Ok(state.list(prefix)))
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        self.carry_out(|state| state.commit(&txn))
    }

    fn watch(&self, prefix: &str) -> BoxStream<'static, FeedEvent> {
        let watcher = Watcher {
            shared: Arc::clone(&self.shared),
            ticks: self.shared.ticks.subscribe(),
            fault: self.fault.subscribe(),
            prefix: prefix.to_owned(),
            seen: None,
            connected: true,
        };
        Box::pin(futures::stream::unfold(watcher, |mut watcher| async move {
            let event = watcher.next().await;
            Some((event, watcher))
        }))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.ask(|state| {
            state.last_lease += 1;
            let id = state.last_lease;
            state.leases.insert(id, Lease { ttl, ends_at: Instant::now() + ttl });
            Ok(LeaseId(id))
        })
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(|state| {
            let lease = state.leases.get_mut(&lease.0).ok_or(StoreError::LeaseGone)?;
            lease.ends_at = Instant::now() + lease.ttl;
            Ok(())
        })
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(|state| {
            state.end_lease(lease);
            Ok(())
        })
    }
}

/// One watch.
#[derive(Debug)]
struct Watcher {
    shared: Arc<Shared>,
    ticks: watch::Receiver<u64>,
    fault: watch::Receiver<Fault>,
    prefix: String,
    /// Everything up to this revision has been told; `None`: nothing yet.
    seen: Option<i64>,
    connected: bool,
}

impl Watcher {
    async fn next(&mut self) -> FeedEvent {
        loop {
            self.ticks.mark_unchanged();
            let cut = *self.fault.borrow_and_update() == Fault::Unavailable;
            let lease_end = match self.look(cut) {
                Ok(event) => return event,
                Err(lease_end) => lease_end,
            };
            let lease_ends = async {
                match lease_end {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // The senders live as long as this: the store holds them, and `shared` is held here. A link
            // that was dropped fails no more, but can still be looked through.
            tokio::select! {
                _ = self.ticks.changed() => {}
                Ok(()) = self.fault.changed() => {}
                () = lease_ends, if !cut => {}
            }
        }
    }

    /// What there is to tell; otherwise, when to look again at the latest.
    fn look(&mut self, cut: bool) -> Result<FeedEvent, Option<Instant>> {
        if cut {
            let was_connected = std::mem::replace(&mut self.connected, false);
            return if was_connected { Ok(FeedEvent::Disconnected) } else { Err(None) };
        }
        let state = self.shared.lock();
        let was_connected = std::mem::replace(&mut self.connected, true);
        let seen = self.seen.replace(state.revision);
        match seen.and_then(|revision| state.changes_after(&self.prefix, revision)) {
            None => Ok(FeedEvent::Reset(state.list(&self.prefix))),
            Some(changes) if changes.is_empty() && was_connected => Err(state.next_lease_end()),
            Some(changes) => Ok(FeedEvent::Changes { changes, revision: state.revision }),
        }
    }
}
