//! Pools as people ask for them and see them, and the word that a host is dead.

use jiff::Timestamp;
use model::{Bytes, ClusterView, ConfirmedDead, HostName, NamedPool, Pool, PoolName, PoolStorage};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Watched;

/// A pool to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreatePool {
    pub name: PoolName,
    /// Where its volumes are. The host that is asked marks the place as this pool's.
    pub storage: PoolStorage,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolView {
    pub name: PoolName,
    pub kind: Pool,
    /// `None`: on each host's own disks.
    pub storage: Option<PoolStorage>,
    /// How many volumes are in it, and what they take together; each copy counts.
    pub volumes: u32,
    pub size_of_volumes: Bytes,
    /// How each host reaches it. Empty for pools on the hosts' own disks.
    pub hosts: Vec<PoolHostView>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub created_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolHostView {
    pub host: HostName,
    /// By the host's last word; it may be lost by now.
    pub reaches: bool,
    /// Why not; a phrase without a full stop.
    pub problem: Option<String>,
    pub size: Option<Bytes>,
}

impl PoolView {
    fn new(view: &ClusterView, name: PoolName, kind: Pool) -> Self {
        let disks = view.guests.values().flat_map(|guest| &guest.disks);
        let named = kind != Pool::Local && kind != Pool::Mirror;
        let inside = |disk: &&model::DiskSpec| {
            if named { disk.pool_name.as_ref() == Some(&name) } else { disk.pool == kind }
        };
        let sizes: Vec<Bytes> = disks.filter(inside).map(|disk| disk.size).collect();
        let all: Bytes = sizes.iter().copied().sum();
        Self {
            kind,
            storage: None,
            volumes: u32::try_from(sizes.len()).unwrap_or(u32::MAX),
            size_of_volumes: Bytes(all.0.saturating_mul(kind.replicas() as u64)),
            hosts: Vec::new(),
            created_at: None,
            name,
        }
    }

    pub fn of(view: &ClusterView, pool: &NamedPool) -> Self {
        let host = |host: &HostName| {
            let problem = view.pool_problem(host, &pool.name);
            let report = view.host_reports.get(host).and_then(|report| report.pools.get(&pool.name));
            let size = report.filter(|report| report.id == pool.id).map(|report| report.size);
            PoolHostView { host: host.clone(), reaches: problem.is_none(), problem, size }
        };
        Self {
            storage: Some(pool.storage.clone()),
            hosts: view.hosts.keys().map(host).collect(),
            created_at: Some(pool.created_at),
            ..Self::new(view, pool.name.clone(), pool.storage.kind())
        }
    }

    /// Those that are always there first.
    pub fn list(view: &ClusterView) -> Vec<Self> {
        let built_in = [Pool::Local, Pool::Mirror].map(|kind| Self::new(view, kind.into(), kind));
        built_in.into_iter().chain(view.pools.values().map(|pool| Self::of(view, pool))).collect()
    }

    pub fn find(view: &ClusterView, name: &PoolName) -> Option<Self> {
        match name.built_in() {
            Some(kind) => Some(Self::new(view, name.clone(), kind)),
            None => view.pools.get(name).map(|pool| Self::of(view, pool)),
        }
    }
}

impl Watched for PoolView {
    fn watch_id(&self) -> String {
        self.name.to_string()
    }
}

/// What became of the word that a host is dead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfirmedView {
    pub word: ConfirmedDead,
    /// Guests of that host which may be started elsewhere by it: those whose disks are in storage that hosts share.
    #[schema(value_type = Vec<String>)]
    pub guests: Vec<model::GuestName>,
}
