//! How this host reaches the pools that hosts share.
//!
//! One task for each pool looks at it again and again, and what it finds goes into the host's report. A server that
//! does not answer blocks whoever asks it for as long as it likes; so it is asked in threads of their own, one look at
//! a pool at a time, and whoever waits gives up after [`ANSWERS_WITHIN`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use host::HostError;
use host::pool::{Mark, SharedFolder};
use host::volume::Volumes;
use model::{Bytes, DiskSpec, GuestSpec, NamedPool, PoolName, PoolOnHost, PoolStorage, VolumeId};
use tokio::sync::watch;

use crate::state::State;

/// How long a look at a pool may take before it counts as one that cannot be reached.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// What each pool was like when it was last looked at.
type Found = BTreeMap<PoolName, PoolOnHost>;

#[derive(Debug)]
pub struct Pools {
    state: State,
    /// User and group of the volumes.
    owner: Option<(u32, u32)>,
    found: watch::Sender<Found>,
}

impl Pools {
    pub fn new(state: State, owner: Option<(u32, u32)>) -> Arc<Pools> {
        Arc::new(Pools { state, owner, found: watch::channel(Found::new()).0 })
    }

    pub fn found(&self) -> watch::Receiver<Found> {
        self.found.subscribe()
    }

    /// Looks at every pool, for ever.
    pub async fn keep(self: Arc<Self>) {
        self.state.ready().await;
        let mut watched = BTreeSet::new();
        let mut changes = self.state.changes();
        loop {
            changes.borrow_and_update();
            let pools: Vec<NamedPool> = self.state.read().view().pools.values().cloned().collect();
            self.found.send_if_modified(|found| {
                let before = found.len();
                found.retain(|name, seen| pools.iter().any(|p| &p.name == name && p.id == seen.id));
                found.len() != before
            });
            for pool in pools {
                if watched.insert(pool.id) {
                    tokio::spawn(Arc::clone(&self).watch(pool));
                }
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Looks at one pool for as long as there is that pool.
    async fn watch(self: Arc<Self>, pool: NamedPool) {
        while self.exists(&pool) {
            let folder = self.folder_of(&pool);
            let mut look = tokio::task::spawn_blocking(move || folder.and_then(|folder| folder.check()));
            let checked = match tokio::time::timeout(ANSWERS_WITHIN, &mut look).await {
                Ok(checked) => checked,
                Err(_) => {
                    self.tell(&pool, &Err(silent(&pool.storage)));
                    look.await
                }
            };
            self.tell(&pool, &checked.unwrap_or_else(|error| Err(HostError::Failed(error.to_string()))));
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn exists(&self, pool: &NamedPool) -> bool {
        self.state.read().view().pools.get(&pool.name).is_some_and(|now| now.id == pool.id)
    }

    fn tell(&self, pool: &NamedPool, checked: &Result<Bytes, HostError>) {
        if !self.exists(pool) {
            return;
        }
        let known = self.found.borrow().get(&pool.name).map(|seen| seen.size);
        let seen = PoolOnHost {
            id: pool.id,
            size: checked.as_ref().ok().copied().or(known).unwrap_or_default(),
            problem: checked.as_ref().err().map(HostError::to_string),
        };
        self.found.send_if_modified(|found| {
            let news = found.get(&pool.name) != Some(&seen);
            if news {
                found.insert(pool.name.clone(), seen);
            }
            news
        });
    }

    fn folder_of(&self, pool: &NamedPool) -> Result<SharedFolder, HostError> {
        let cluster = self.state.read().view().cluster.as_ref().map(|cluster| cluster.id);
        let cluster = cluster
            .ok_or_else(|| HostError::NotFound("the cluster's record has not been read yet".into()))?;
        let mark = Mark { cluster, pool: pool.id, name: pool.name.to_string() };
        match &pool.storage {
            PoolStorage::Shared { path } => Ok(SharedFolder::new(PathBuf::from(path), mark, self.owner)),
        }
    }

    /// Marks a new pool's storage as its own.
    pub async fn take(&self, pool: &NamedPool) -> Result<(), HostError> {
        let folder = self.folder_of(pool)?;
        in_time(&pool.storage, move || folder.take()).await
    }

    /// The volumes of a pool, which is looked at anew before that: nothing is made in, or taken for missing from, a
    /// folder that is only the place where it should be.
    pub async fn volumes(&self, name: &PoolName) -> Result<Volumes, HostError> {
        let pool = self.state.read().view().pools.get(name).cloned();
        let pool = pool.ok_or_else(|| HostError::NotFound(format!("there is no pool '{name}'")))?;
        let folder = self.folder_of(&pool)?;
        in_time(&pool.storage, move || folder.volumes()).await
    }

    /// The volumes of a guest, in storage that hosts share, whose files are there; or why nobody can say.
    pub async fn present(&self, spec: &GuestSpec) -> Result<BTreeSet<VolumeId>, String> {
        let mut present = BTreeSet::new();
        for DiskSpec { volume, pool_name, .. } in &spec.disks {
            let Some(name) = pool_name else { continue };
            let trouble = |why: &HostError| format!("this host does not reach the pool '{name}': {why}");
            if let Some(why) = self.found.borrow().get(name).and_then(|seen| seen.problem.clone()) {
                return Err(trouble(&HostError::Failed(why)));
            }
            let volumes = self.volumes(name).await.map_err(|error| trouble(&error))?;
            let volume = *volume;
            let asking = tokio::task::spawn_blocking(move || volumes.exists(volume));
            match tokio::time::timeout(ANSWERS_WITHIN, asking).await {
                Ok(Ok(true)) => drop(present.insert(volume)),
                Ok(Ok(false)) => {}
                Ok(Err(_)) | Err(_) => return Err(format!("the pool '{name}' does not answer")),
            }
        }
        Ok(present)
    }
}

fn silent(storage: &PoolStorage) -> HostError {
    HostError::TimedOut(format!("{storage} has not answered for {} s", ANSWERS_WITHIN.as_secs()))
}

async fn in_time<T: Send + 'static>(
    storage: &PoolStorage,
    work: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, HostError> {
    match tokio::time::timeout(ANSWERS_WITHIN, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => Err(HostError::Failed(error.to_string())),
        Err(_) => Err(silent(storage)),
    }
}
