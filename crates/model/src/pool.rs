//! Pools that an operator makes: storage that several hosts reach.
//!
//! `local` and `mirror` are always there and need no record. Every other pool has a name, a record of its own, and
//! a word from each host on whether it reaches it ([`PoolOnHost`], in the host's report).

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{Bytes, HostName, Pool, PoolName};

/// A pool that an operator has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NamedPool {
    pub name: PoolName,
    /// Drawn once. What marks the storage as this pool's carries it: a pool made anew under an old name is another.
    #[schema(value_type = String, format = Uuid)]
    pub id: Uuid,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    pub storage: PoolStorage,
}

/// Where a pool's volumes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PoolStorage {
    /// Raw files in a folder that the hosts have in common, at the same path on each: NFS, GlusterFS, OCFS2, …
    Shared { path: String },
}

impl PoolStorage {
    pub fn kind(&self) -> Pool {
        match self {
            PoolStorage::Shared { .. } => Pool::Shared,
        }
    }
}

impl fmt::Display for PoolStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolStorage::Shared { path } => f.pad(path),
        }
    }
}

impl PoolName {
    /// Whether it names a pool that is always there.
    pub fn built_in(&self) -> Option<Pool> {
        [Pool::Local, Pool::Mirror].into_iter().find(|pool| PoolName::from(*pool) == *self)
    }
}

/// What one host says of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolOnHost {
    /// Which pool was looked at: one of the same name may have been made anew since.
    #[schema(value_type = String, format = Uuid)]
    pub id: Uuid,
    /// Size of the storage.
    pub size: Bytes,
    /// Why the host does not reach it; one sentence without a full stop. `None`: it does.
    pub problem: Option<String>,
}

/// An operator's word that a host runs nothing any more: somebody saw that it is off. It counts until the host is
/// heard again: the record goes in the transaction that begins the host's next session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfirmedDead {
    pub host: HostName,
    /// The boot in which it was heard last.
    pub boot_id: crate::BootId,
    /// Who said so.
    pub by: String,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_pool_has_a_name_and_two_are_always_there() {
        for kind in [Pool::Local, Pool::Mirror, Pool::Shared] {
            let name = PoolName::from(kind);
            assert_eq!(name.as_str().parse(), Ok(kind));
            assert_eq!(name.built_in().is_some(), kind != Pool::Shared);
        }
    }
}
