//! Where the cluster's state is kept: keys, codecs, transactions, watches, leases, election.
//!
//! JSON values under [`PREFIX`], one kind of record to a prefix, written only through compare-and-set on the
//! revision that was read. etcd is the store; [`memory`] is its twin for tests and the simulation, and both
//! pass the same contract tests.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`keys`], [`codec`] | where each record stands, and its JSON |
//! | [`Cache`], [`TxnBuilder`] | a watch folded into a view; transactions that compare what was read |
//! | [`election`] | who runs the cluster-wide loops |
//! | [`etcd`], [`member`] | the real store, and this host's process of it |
//! | [`memory`] | the twin, with faults on demand |
//!
//! A commit whose outcome is unknown ([`StoreError::Unknown`]) may have happened: whoever sent it reads again
//! before anybody acts.

mod cache;
pub mod codec;
pub mod election;
pub mod etcd;
pub mod keys;
pub mod member;
pub mod memory;

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;

pub use cache::{Cache, Mark, TxnBuilder, TxnError};
pub use codec::{DecodeError, EncodeError, Leader, Record, Secret, StoredToken, UnknownFields};
pub use etcd::{EtcdStore, JoinTicket, Member, MemberHealth, PkiFiles, Promotion, TlsPem};
pub use keys::Kind;
pub use member::{MemberConfig, MemberError, MemberStart, MemberStatus, StoreMember};
pub use memory::{Fault, MemoryStore};

/// Everything of ours stands under it.
pub const PREFIX: &str = "/kennel/";

/// How many compares, and how many writes, one transaction may have: etcd's default.
pub const TXN_OPERATIONS_MAX: usize = 128;

/// How many bytes one transaction may write: less than etcd's 1.5 MiB for a request, which counts compares too.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// A lease of the store: keys that hang on it go when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// One key as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: Vec<u8>,
    /// The store's revision at which the key was last written.
    pub mod_revision: i64,
}

/// What a prefix held at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    pub entries: Vec<Entry>,
    pub revision: i64,
}

/// What must be true for a transaction to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key was last written at this revision; 0: it is not there.
    Revision { key: String, mod_revision: i64 },
    /// The key is there, whatever it holds.
    Exists { key: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    Put { key: String, value: Vec<u8>, lease: Option<LeaseId> },
    Delete { key: String },
}

impl Write {
    pub fn key(&self) -> &str {
        match self {
            Write::Put { key, .. } | Write::Delete { key } => key,
        }
    }

    /// What it takes in a request.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Write::Put { key, value, .. } => key.len() + value.len(),
            Write::Delete { key } => key.len(),
        }
    }
}

/// All of it happens, or nothing. A key is written at most once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub writes: Vec<Write>,
}

impl Txn {
    /// etcd's limits, checked before it is asked, so that both stores refuse with the same words.
    fn check_limits(&self) -> Result<(), StoreError> {
        let refused = |why: String| Err(StoreError::Refused(why));
        if self.compares.len().max(self.writes.len()) > TXN_OPERATIONS_MAX {
            return refused(format!(
                "a transaction has at most {TXN_OPERATIONS_MAX} compares and as many writes"
            ));
        }
        let mut keys: Vec<&str> = self.writes.iter().map(Write::key).collect();
        keys.sort_unstable();
        if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            return refused(format!("one transaction writes {} twice", pair[0]));
        }
        let bytes: usize = self.writes.iter().map(Write::bytes).sum();
        if bytes > VALUE_BYTES_MAX {
            return refused(format!(
                "one transaction writes at most {VALUE_BYTES_MAX} bytes, and this one {bytes}"
            ));
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a conflict means that nothing was written"]
pub enum Outcome {
    Committed {
        revision: i64,
    },
    /// A compare did not hold; nothing was written.
    Conflict,
}

/// A key that was written or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Put(Entry),
    Delete { key: String },
}

impl Change {
    pub fn key(&self) -> &str {
        match self {
            Change::Put(entry) => &entry.key,
            Change::Delete { key } => key,
        }
    }
}

/// What a watch says. It never ends by itself: it reconnects, and after a compaction it lists anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedEvent {
    /// Everything under the prefix; what was known before is void.
    Reset(Listing),
    /// What one revision or several changed, in order.
    Changes { changes: Vec<Change>, revision: i64 },
    /// The store does not answer; what is known may be old. A `Reset` or `Changes` follows when it does.
    Disconnected,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nothing was done: no member of the store could be reached, or it refused at once.
    #[error("the state store does not answer: {0}")]
    Unavailable(String),
    /// It may have been done, or not, or may still be. Read again before acting.
    #[error("the state store did not confirm in time: {0}")]
    Unknown(String),
    /// The lease is over, and all that hung on it is gone.
    #[error("the lease is over")]
    LeaseGone,
    /// The request itself is wrong, such as one that is too large.
    #[error("the state store refused: {0}")]
    Refused(String),
}

/// The contract. Only [`commit`](Store::commit) answers [`StoreError::Unknown`]: the other calls are repeated
/// until they are answered or [`StoreError::Unavailable`]. None hangs: each ends within a few seconds, a long
/// listing within some more while its pages come. All may be called at once from many tasks.
#[async_trait]
pub trait Store: Send + Sync + Debug {
    /// Everything under a prefix, as a quorum sees it.
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// One transaction. A member that fails before it took the request is passed over; once it may have
    /// taken it, the answer is `Unknown` rather than a second try.
    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError>;

    /// A listing, then every change after it.
    fn watch(&self, prefix: &str) -> BoxStream<'static, FeedEvent>;

    /// A new lease. The store may make `ttl` longer, never shorter.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Renews a lease once. [`StoreError::LeaseGone`] is certain: its keys are gone, or about to go.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease; the keys that hang on it go. Ending one that is over is no error.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;
}
