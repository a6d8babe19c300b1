//! The store in etcd.
//!
//! Theory of operation. Each member has a client and a connection of its own; one member is the
//! *current* one, and a member that fails hands over to the next. (One client for several members keeps
//! failing writes after a member dies.) Every request demands that its member knows a leader, so a member
//! that is cut off from the others refuses at once, rather than letting us wait.
//!
//! What becomes of a request is one of three things:
//!
//! - *answered*: done, or refused;
//! - *not done*: never sent (the connection failed), or refused by a member that cannot serve now: another
//!   member is asked;
//! - *unknown*: sent, and no word came back. A question (`list`, `keep_alive`, …) is asked again elsewhere;
//!   a transaction is not: it may happen yet, and its sender must read before it acts.
//!
//! A request gives up after about three seconds, but not before it has tried each member once. Watches find
//! another member by themselves.

mod feed;
mod link;
mod members;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Client, CompareOp, GetOptions, PutOptions, TxnOp};
use futures::stream::BoxStream;
use tokio::time::Instant;

use self::link::{Failure, Link};
pub use self::link::{PkiFiles, TlsPem};
pub use self::members::{JoinTicket, Member, MemberHealth, Promotion};
use crate::{Compare, Entry, FeedEvent, LeaseId, Listing, Outcome, Store, StoreError, Txn, Write};

/// To make a connection to one member. Within a site it takes milliseconds; a host without power does not
/// say no.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// For one request to one member: longer than an election, which a member sits out with the request in hand.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// For one renewal at one member: it waits for no disk, and a session of five seconds must have time for a
/// second member.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(1);

/// For all pages of a listing from one member; each page has [`ATTEMPT_TIMEOUT`].
const LISTING_TIMEOUT: Duration = Duration::from_secs(20);

/// No new round through the members begins after it: long enough to outlast the election of a new leader.
const REQUEST_BUDGET: Duration = Duration::from_secs(3);

/// Between two rounds through the members.
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// How many keys one page of a listing has; about a megabyte.
const PAGE_KEYS: i64 = 1000;

/// A page, or what a watch sends at once, may be larger than the usual 4 MiB.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

const _: () = assert!(CONNECT_TIMEOUT.as_millis() < ATTEMPT_TIMEOUT.as_millis());
const _: () = assert!(ATTEMPT_TIMEOUT.as_millis() < REQUEST_BUDGET.as_millis());

/// The state store in etcd. Clones share their connections.
#[derive(Clone)]
pub struct EtcdStore {
    shared: Arc<Shared>,
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore").field("endpoints", &self.endpoints()).finish_non_exhaustive()
    }
}

/// Whether a request may be made a second time while the outcome of the first is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Harmless,
    Never,
}

#[derive(Debug)]
struct Shared {
    tls: Option<TlsPem>,
    links: RwLock<Links>,
}

#[derive(Debug)]
struct Links {
    all: Vec<Arc<Link>>,
    /// An index into `all`.
    current: usize,
}

impl EtcdStore {
    /// A store with these members (`https://ADDRESS:PORT`); the first is asked first, so name the one on
    /// this host first. Nothing is dialled before the first request, and the members may be down now. Fails
    /// with [`StoreError::Refused`] when an URL or a certificate cannot be read.
    pub fn connect(endpoints: Vec<String>, tls: Option<TlsPem>) -> Result<Self, StoreError> {
        let links = RwLock::new(Links { all: Vec::new(), current: 0 });
        let store = Self { shared: Arc::new(Shared { tls, links }) };
        store.set_endpoints(endpoints)?;
        Ok(store)
    }

    /// The members from now on, the preferred one first. Connections to members that stay are kept.
    pub fn set_endpoints(&self, endpoints: Vec<String>) -> Result<(), StoreError> {
        if endpoints.is_empty() {
            return Err(StoreError::Refused("a state store needs at least one endpoint".to_owned()));
        }
        let mut links = self.shared.write_links();
        let all = endpoints
            .into_iter()
            .map(|url| match links.all.iter().find(|link| link.url() == url) {
                Some(link) => Ok(Arc::clone(link)),
                None => Ok(Arc::new(Link::new(url, self.shared.tls.as_ref())?)),
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        *links = Links { all, current: 0 };
        Ok(())
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.shared.read_links().all.iter().map(|link| link.url().to_owned()).collect()
    }
}

impl Shared {
    fn read_links(&self) -> RwLockReadGuard<'_, Links> {
        self.links.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_links(&self) -> RwLockWriteGuard<'_, Links> {
        self.links.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// All members, the current one first.
    fn round(&self) -> Vec<Arc<Link>> {
        let links = self.read_links();
        let (before, from) = links.all.split_at(links.current);
        from.iter().chain(before).cloned().collect()
    }

    /// A member failed: if it is the current one, the next is.
    fn pass_over(&self, failed: &Arc<Link>) {
        let mut links = self.write_links();
        if links.all.get(links.current).is_some_and(|current| Arc::ptr_eq(current, failed)) {
            links.current = (links.current + 1) % links.all.len();
        }
    }

    /// Makes a request, at one member after the other.
    async fn request<T, F>(
        &self,
        repeat: Repeat,
        limit: Duration,
        ask: impl Fn(Client) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + REQUEST_BUDGET;
        loop {
            let mut last = String::new();
            for link in self.round() {
                let failure = match link.ask(limit, &ask).await {
                    Ok(answer) => return Ok(answer),
                    Err(failure) => failure,
                };
                let why = match failure {
                    Failure::Answer(error) => return Err(error),
                    Failure::NotDone(why) => why,
                    Failure::Unknown(why) if repeat == Repeat::Never => {
                        self.pass_over(&link);
                        return Err(StoreError::Unknown(why));
                    }
                    Failure::Unknown(why) => why,
                };
                tracing::debug!(member = link.url(), %why, "a member of the state store failed");
                self.pass_over(&link);
                last = why;
            }
            if Instant::now() >= deadline {
                return Err(StoreError::Unavailable(last));
            }
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    }
}

/// Everything under a prefix at one revision, in pages, from one member.
async fn list(client: Client, prefix: &str) -> Result<Listing, etcd_client::Error> {
    let mut kv = client.kv_client().max_decoding_message_size(MESSAGE_BYTES_MAX);
    let mut listing = Listing { entries: Vec::new(), revision: 0 };
    let mut from = prefix.as_bytes().to_vec();
    loop {
        // The first page is read as a quorum sees it; the others at the revision that it had.
        let options = GetOptions::new()
            .with_range(prefix_end(prefix))
            .with_limit(PAGE_KEYS)
            .with_revision(listing.revision);
        let page = tokio::time::timeout(ATTEMPT_TIMEOUT, kv.get(from, Some(options)))
            .await
            .map_err(|_| etcd_client::Error::Internal(format!("no page within {ATTEMPT_TIMEOUT:?}")))??;
        if listing.revision == 0 {
            listing.revision = page.header().map_or(0, |header| header.revision());
        }
        listing.entries.extend(page.kvs().iter().map(entry));
        match page.kvs().last() {
            Some(last) if page.more() => from = [last.key(), b"\0"].concat(),
            Some(_) | None => return Ok(listing),
        }
    }
}

/// The first key after all those that begin with `prefix`. Ours are ASCII: the last byte can grow.
fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    match end.last_mut() {
        Some(last) => *last += 1,
        // etcd's sign for "to the last key".
        None => end.push(0),
    }
    end
}

/// Keys of ours are text; one that is not shows as such, and is reported as damaged.
fn entry(pair: &etcd_client::KeyValue) -> Entry {
    Entry {
        key: String::from_utf8_lossy(pair.key()).into_owned(),
        value: pair.value().to_vec(),
        mod_revision: pair.mod_revision(),
    }
}

fn etcd_txn(txn: &Txn) -> etcd_client::Txn {
    let compares: Vec<etcd_client::Compare> = txn
        .compares
        .iter()
        .map(|compare| match compare {
            Compare::Revision { key, mod_revision } => {
                etcd_client::Compare::mod_revision(key.as_str(), CompareOp::Equal, *mod_revision)
            }
            Compare::Exists { key } => {
                etcd_client::Compare::mod_revision(key.as_str(), CompareOp::Greater, 0)
            }
        })
        .collect();
    let writes: Vec<TxnOp> = txn
        .writes
        .iter()
        .map(|write| match write {
            Write::Put { key, value, lease } => {
                let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
                TxnOp::put(key.as_str(), value.as_slice(), options)
            }
            Write::Delete { key } => TxnOp::delete(key.as_str(), None),
        })
        .collect();
    etcd_client::Txn::new().when(compares).and_then(writes)
}

#[async_trait]
impl Store for EtcdStore {
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.shared.request(Repeat::Harmless, LISTING_TIMEOUT, |client| list(client, prefix)).await
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        txn.check_limits()?;
        let txn = etcd_txn(&txn);
        let ask = |client: Client| {
            let txn = txn.clone();
            async move { client.kv_client().txn(txn).await }
        };
        let answer = self.shared.request(Repeat::Never, ATTEMPT_TIMEOUT, ask).await?;
        if !answer.succeeded() {
            return Ok(Outcome::Conflict);
        }
        Ok(Outcome::Committed { revision: answer.header().map_or(0, |header| header.revision()) })
    }

    fn watch(&self, prefix: &str) -> BoxStream<'static, FeedEvent> {
        feed::feed(Arc::clone(&self.shared), prefix.to_owned())
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        // A lease that was granted without our hearing of it ends by itself.
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000).max(1)).unwrap_or(i64::MAX);
        let ask = |client: Client| async move { client.lease_client().grant(seconds, None).await };
        let answer = self.shared.request(Repeat::Harmless, ATTEMPT_TIMEOUT, ask).await?;
        Ok(LeaseId(answer.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        // A stream for each renewal: one that is kept open stays silent after its member restarts.
        let renew = |client: Client| async move { client.lease_client().keep_alive(lease.0).await.map(drop) };
        match self.shared.request(Repeat::Harmless, KEEP_ALIVE_TIMEOUT, renew).await {
            Err(StoreError::LeaseGone) => {
                // A leader that was just elected may answer before it has read of the lease in its own log.
                // After a read that a quorum confirms it has.
                self.list(crate::keys::SCHEMA).await?;
                self.shared.request(Repeat::Harmless, KEEP_ALIVE_TIMEOUT, renew).await
            }
            other => other,
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let ask = |client: Client| async move { client.lease_client().revoke(lease.0).await.map(drop) };
        match self.shared.request(Repeat::Harmless, ATTEMPT_TIMEOUT, ask).await {
            Err(StoreError::LeaseGone) => Ok(()),
            other => other,
        }
    }
}
