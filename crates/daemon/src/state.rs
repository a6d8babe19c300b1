//! The cluster as this host sees it: one watch of the store, folded into one cache that everything in the
//! daemon looks at; and the way to change it.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use futures::StreamExt;
use model::{ClusterView, Schema};
use store::{Cache, Outcome, PREFIX, Store, StoreError, Txn, TxnBuilder, keys};
use tokio::sync::watch;

/// How long a committed change may take to come back through the watch.
const ECHO_TIMEOUT: Duration = Duration::from_secs(3);

/// Handed to everybody; cheap to clone.
#[derive(Debug, Clone)]
pub struct State {
    store: Arc<dyn Store>,
    cache: Arc<RwLock<Cache>>,
    /// The number of changes so far; wakes whoever waits for the next.
    changes: watch::Receiver<u64>,
}

impl State {
    /// Begins to watch. The cache is empty at first; [`State::ready`] waits until it is not.
    pub fn start(store: Arc<dyn Store>) -> State {
        let mut feed = store.watch(PREFIX);
        let cache = Arc::new(RwLock::new(Cache::new()));
        let (sender, changes) = watch::channel(0);
        let folded = cache.clone();
        tokio::spawn(async move {
            while let Some(event) = feed.next().await {
                folded.write().unwrap_or_else(PoisonError::into_inner).apply(event);
                sender.send_modify(|count| *count += 1);
            }
        });
        State { store, cache, changes }
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// What is known now. Not to be held for long: the next change waits for it.
    pub fn read(&self) -> RwLockReadGuard<'_, Cache> {
        self.cache.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known now, to be kept for one request: the next change copies all of it.
    pub fn view(&self) -> Arc<ClusterView> {
        self.read().snapshot()
    }

    /// Wakes at every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Returns when the records of the cluster have been read once. Never, while they are of a version that
    /// this build does not understand: it would write what a newer one cannot read.
    pub async fn ready(&self) {
        self.until(|cache| cache.view().cluster.is_some()).await;
        let foreign = self.read().schema().filter(|schema| *schema != Schema::CURRENT);
        if let Some(schema) = foreign {
            tracing::error!(
                found = schema.version,
                understood = Schema::CURRENT.version,
                "the cluster's records are of another version; upgrade kenneld on this host"
            );
        }
        self.until(|cache| cache.schema().is_none_or(|schema| schema == Schema::CURRENT)).await;
    }

    /// Returns when something is true of the records.
    pub async fn until(&self, mut holds: impl FnMut(&Cache) -> bool) {
        let mut changes = self.changes();
        while !holds(&self.read()) {
            if changes.changed().await.is_err() {
                // The watch lives as long as the daemon; when it is gone nothing changes any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Builds a transaction on what is known now, commits it, and returns when the cache shows it. The
    /// builder looks at the very records that the transaction compares, and answers `false` when they are
    /// not what its caller decided on: that is a conflict, found early.
    pub async fn change(
        &self,
        build: impl FnOnce(&ClusterView, &mut TxnBuilder<'_>) -> bool,
    ) -> Result<Outcome, StoreError> {
        let txn = {
            let cache = self.read();
            let mut txn = cache.txn();
            if !build(cache.view(), &mut txn) {
                return Ok(Outcome::Conflict);
            }
            txn.build().map_err(|error| StoreError::Refused(error.to_string()))?
        };
        self.commit(txn).await
    }

    /// As [`State::change`], on whatever is known now.
    pub async fn write(&self, build: impl FnOnce(&mut TxnBuilder<'_>)) -> Result<Outcome, StoreError> {
        self.change(|_, txn| {
            build(txn);
            true
        })
        .await
    }

    /// Commits, and returns when the cache shows it.
    pub async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        let outcome = self.store.commit(txn).await?;
        if let Outcome::Committed { revision } = outcome {
            self.reach(revision).await;
        }
        Ok(outcome)
    }

    /// Returns when the cache is at least as new as this call, as a quorum of the store sees it. To be
    /// called when the outcome of a commit is unknown.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let listing = self.store.list(keys::CLUSTER).await?;
        if self.reach(listing.revision).await {
            Ok(())
        } else {
            Err(StoreError::Unavailable("the watch of the store lags behind".into()))
        }
    }

    async fn reach(&self, revision: i64) -> bool {
        let reached = self.until(|cache| cache.revision() >= revision);
        tokio::time::timeout(ECHO_TIMEOUT, reached).await.is_ok()
    }
}
