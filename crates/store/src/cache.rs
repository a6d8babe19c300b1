//! What a watch has told, folded into one [`ClusterView`].
//!
//! Beside the view the cache knows, for each key, the revision at which it was last written and the fields
//! that this build does not know. Both go into the transactions that its [`TxnBuilder`] makes: a write
//! compares the revision that was read, and keeps what a newer build wrote.
//!
//! What cannot be read (no JSON, the wrong shape, a content that belongs under another key, a key that this
//! build does not know) stands in [`ClusterView::damaged`] with the reason, and nowhere else. It is never
//! deleted nor overwritten: a transaction that tries is not built. **A damaged key is not an absent one**:
//! whoever decides on the absence of a record asks [`Cache::is_damaged`] first.
//!
//! # Cost
//!
//! [`Cache::view`] is a reference and costs nothing. [`Cache::snapshot`] shares the view; only when a
//! change arrives while somebody still holds a snapshot is the view copied, once for that snapshot: 50 to
//! 100 ms at 10,000 guests (`tests/scale.rs` measures it). So hold a snapshot for one request or one decision, not for the
//! life of a connection. One change without a snapshot held costs a look-up in an ordered map.
//!
//! Whoever computes much from the view asks [`Cache::changed_since`] which keys changed, and computes only what hangs
//! on those.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use model::{ClusterView, Schema};

use crate::codec::{self, DecodeError, EncodeError, Leader, Record, StoredToken, UnknownFields};
use crate::keys::Kind;
use crate::{Change, Compare, Entry, FeedEvent, LeaseId, Listing, Txn, Write};

/// How many changed keys are remembered: some seconds' worth when very much happens.
const TRAIL_KEYS_MAX: usize = 20_000;

/// What a watch of [`PREFIX`](crate::PREFIX) has told so far.
#[derive(Debug, Default)]
pub struct Cache {
    view: Arc<ClusterView>,
    schema: Option<Schema>,
    known: HashMap<String, Known>,
    trail: Trail,
    ready: bool,
    connected: bool,
}

/// The keys that were written or deleted last.
#[derive(Debug, Default)]
struct Trail {
    /// The newest at the end.
    keys: VecDeque<String>,
    /// How many are forgotten.
    forgotten: u64,
}

/// A place in the course of a cache's changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

impl Trail {
    fn push(&mut self, key: String) {
        self.keys.push_back(key);
        if self.keys.len() > TRAIL_KEYS_MAX {
            self.keys.pop_front();
            self.forgotten += 1;
        }
    }

    fn end(&self) -> u64 {
        self.forgotten + self.keys.len() as u64
    }

    /// Whoever has a mark from before must look at everything.
    fn forget_all(&mut self) {
        self.forgotten = self.end() + 1;
        self.keys.clear();
    }
}

#[derive(Debug)]
struct Known {
    mod_revision: i64,
    state: KnownState,
}

#[derive(Debug)]
enum KnownState {
    Good(UnknownFields),
    Damaged(DecodeError),
    /// Not decoded on purpose.
    Secret,
}

impl Cache {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what a watch says.
    pub fn apply(&mut self, event: FeedEvent) {
        match event {
            FeedEvent::Reset(listing) => self.reset(listing),
            FeedEvent::Changes { changes, revision } => {
                self.connected = true;
                // Not to copy a shared view for a sign of life.
                if changes.is_empty() && revision <= self.view.revision {
                    return;
                }
                for change in changes {
                    self.trail.push(change.key().to_owned());
                    match change {
                        Change::Put(entry) => self.put(entry),
                        Change::Delete { key } => self.delete(&key),
                    }
                }
                let view = Arc::make_mut(&mut self.view);
                view.revision = view.revision.max(revision);
            }
            FeedEvent::Disconnected => self.connected = false,
        }
    }

    /// The cluster as it was told last.
    pub fn view(&self) -> &ClusterView {
        &self.view
    }

    /// The view, to be kept while the cache goes on.
    pub fn snapshot(&self) -> Arc<ClusterView> {
        Arc::clone(&self.view)
    }

    /// Whether the view holds anything: the watch has listed the store once.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Whether the store answered last; if not, the view may be old.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Where the changes are now, for [`Cache::changed_since`].
    pub fn mark(&self) -> Mark {
        Mark(self.trail.end())
    }

    /// The keys that were written or deleted since a mark of this cache. `None`: anything may have changed, because
    /// the store was listed anew or too much was changed.
    pub fn changed_since(&self, mark: Mark) -> Option<BTreeSet<&str>> {
        let skip = usize::try_from(mark.0.checked_sub(self.trail.forgotten)?).ok()?;
        Some(self.trail.keys.iter().skip(skip).map(String::as_str).collect())
    }

    /// The store's revision that the view shows.
    pub fn revision(&self) -> i64 {
        self.view.revision
    }

    /// The version of the records, once a cluster has been made.
    pub fn schema(&self) -> Option<Schema> {
        self.schema
    }

    /// The revision at which a key was last written; 0: it is not there.
    pub fn revision_of(&self, key: &str) -> i64 {
        self.known.get(key).map_or(0, |known| known.mod_revision)
    }

    /// Whether there is something under the key that this build cannot read.
    pub fn is_damaged(&self, key: &str) -> bool {
        self.view.damaged.contains_key(key)
    }

    /// A transaction on what this cache knows.
    pub fn txn(&self) -> TxnBuilder<'_> {
        TxnBuilder { cache: self, txn: Txn::default(), error: None }
    }

    fn reset(&mut self, listing: Listing) {
        let revision = listing.revision;
        self.view = Arc::new(ClusterView { revision, ..ClusterView::default() });
        self.schema = None;
        self.known.clear();
        for entry in listing.entries {
            self.put(entry);
        }
        self.trail.forget_all();
        self.ready = true;
        self.connected = true;
    }

    fn put(&mut self, entry: Entry) {
        let Entry { key, value, mod_revision } = entry;
        let view = Arc::make_mut(&mut self.view);
        let state = match fold(view, &mut self.schema, &key, &value) {
            Ok(state) => {
                view.damaged.remove(&key);
                state
            }
            Err(error) => {
                // What stood here before is over, too.
                unfold(view, &mut self.schema, &key);
                view.damaged.insert(key.clone(), error.to_string());
                KnownState::Damaged(error)
            }
        };
        self.known.insert(key, Known { mod_revision, state });
    }

    fn delete(&mut self, key: &str) {
        if self.known.remove(key).is_some() {
            unfold(Arc::make_mut(&mut self.view), &mut self.schema, key);
        }
    }
}

/// Puts the record under `key` into the view.
fn fold(
    view: &mut ClusterView,
    schema: &mut Option<Schema>,
    key: &str,
    value: &[u8],
) -> Result<KnownState, DecodeError> {
    fn read<T: Record>(key: &str, value: &[u8], place: impl FnOnce(T)) -> Result<KnownState, DecodeError> {
        let (record, unknown) = codec::decode(key, value)?;
        place(record);
        Ok(KnownState::Good(unknown))
    }
    /// For the records that the view keeps by one of their fields, or two.
    fn read_into<K: Ord, T: Record>(
        map: &mut BTreeMap<K, T>,
        (key, value): (&str, &[u8]),
        name: impl FnOnce(&T) -> K,
    ) -> Result<KnownState, DecodeError> {
        read(key, value, |record| {
            map.insert(name(&record), record);
        })
    }
    let at = (key, value);
    let (kind, _) = Kind::of(key).ok_or(DecodeError::Foreign)?;
    match kind {
        Kind::Schema => read(key, value, |record| *schema = Some(record)),
        Kind::Cluster => read(key, value, |record| view.cluster = Some(record)),
        Kind::Leader => read(key, value, |record: Leader| view.leader = Some(record.host)),
        Kind::Losses => read(key, value, |record| view.losses = Some(record)),
        Kind::Host => read_into(&mut view.hosts, at, |r| r.name.clone()),
        Kind::HostReport => read_into(&mut view.host_reports, at, |r| r.host.clone()),
        Kind::Session => read_into(&mut view.sessions, at, |r| r.host.clone()),
        Kind::Guest => read_into(&mut view.guests, at, |r| r.name.clone()),
        Kind::Assignment => read_into(&mut view.assignments, at, |r| r.guest.clone()),
        Kind::GuestReport => read_into(&mut view.guest_reports, at, |r| r.guest.clone()),
        Kind::InSync => read_into(&mut view.in_sync, at, |r| r.volume),
        Kind::Drop => read_into(&mut view.drops, at, |r| (r.host.clone(), r.volume)),
        Kind::Rule => read_into(&mut view.rules, at, |r| r.name.clone()),
        Kind::Network => read_into(&mut view.networks, at, |r| r.name.clone()),
        Kind::Address => read_into(&mut view.addresses, at, |r| (r.network.clone(), r.address)),
        Kind::Image => read_into(&mut view.images, at, |r| r.name.clone()),
        Kind::Pool => read_into(&mut view.pools, at, |r| r.name.clone()),
        Kind::ConfirmedDead => read_into(&mut view.confirmed_dead, at, |r| r.host.clone()),
        Kind::FenceDevices => read_into(&mut view.fence_devices, at, |r| r.host.clone()),
        Kind::Fence => read_into(&mut view.fences, at, |r| r.host.clone()),
        Kind::GroupRestarts => read_into(&mut view.group_restarts, at, |r| r.guest.clone()),
        Kind::Job => read_into(&mut view.jobs, at, |r| r.id),
        Kind::JobReport => read_into(&mut view.job_reports, at, |r| r.id),
        Kind::Event => read_into(&mut view.events, at, |r| r.id),
        Kind::Incident => read_into(&mut view.incidents, at, |r| r.id),
        Kind::Alert => read_into(&mut view.alerts, at, |r| r.name.clone()),
        Kind::AlertState => read_into(&mut view.alert_states, at, |r| r.name.clone()),
        Kind::Token => read(key, value, |record: StoredToken| {
            view.tokens.insert(record.sha256, record.token);
        }),
        Kind::User => read_into(&mut view.users, at, |r| r.name.clone()),
        Kind::Secret => Ok(KnownState::Secret),
    }
}

/// Takes whatever stood under `key` out of the view. What a good record stands under can be read from its
/// key, because the two agree.
fn unfold(view: &mut ClusterView, schema: &mut Option<Schema>, key: &str) {
    fn two<A: std::str::FromStr, B: std::str::FromStr>(rest: &str) -> Option<(A, B)> {
        let (a, b) = rest.split_once('/')?;
        Some((a.parse().ok()?, b.parse().ok()?))
    }
    macro_rules! remove {
        ($map:expr, $name:expr) => {
            if let Some(name) = $name {
                $map.remove(&name);
            }
        };
    }
    view.damaged.remove(key);
    let Some((kind, rest)) = Kind::of(key) else { return };
    match kind {
        Kind::Schema => *schema = None,
        Kind::Cluster => view.cluster = None,
        Kind::Leader => view.leader = None,
        Kind::Losses => view.losses = None,
        Kind::Host => remove!(view.hosts, rest.parse().ok()),
        Kind::HostReport => remove!(view.host_reports, rest.parse().ok()),
        Kind::Session => remove!(view.sessions, rest.parse().ok()),
        Kind::Guest => remove!(view.guests, rest.parse().ok()),
        Kind::Assignment => remove!(view.assignments, rest.parse().ok()),
        Kind::GuestReport => remove!(view.guest_reports, rest.parse().ok()),
        Kind::InSync => remove!(view.in_sync, rest.parse().ok()),
        Kind::Drop => remove!(view.drops, two(rest)),
        Kind::Rule => remove!(view.rules, rest.parse().ok()),
        Kind::Network => remove!(view.networks, rest.parse().ok()),
        Kind::Address => remove!(view.addresses, two(rest)),
        Kind::Image => remove!(view.images, rest.parse().ok()),
        Kind::Pool => remove!(view.pools, rest.parse().ok()),
        Kind::ConfirmedDead => remove!(view.confirmed_dead, rest.parse().ok()),
        Kind::FenceDevices => remove!(view.fence_devices, rest.parse().ok()),
        Kind::Fence => remove!(view.fences, rest.parse().ok()),
        Kind::GroupRestarts => remove!(view.group_restarts, rest.parse().ok()),
        Kind::Job => remove!(view.jobs, rest.parse().ok()),
        Kind::JobReport => remove!(view.job_reports, rest.parse().ok()),
        Kind::Event => remove!(view.events, rest.parse().ok()),
        Kind::Incident => remove!(view.incidents, rest.parse().ok()),
        Kind::Alert => remove!(view.alerts, rest.parse().ok()),
        Kind::AlertState => remove!(view.alert_states, rest.parse().ok()),
        Kind::Token => remove!(view.tokens, Some(rest.to_owned())),
        Kind::User => remove!(view.users, rest.parse().ok()),
        Kind::Secret => {}
    }
}

/// Why a transaction was not built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TxnError {
    /// The key holds something that this build cannot read, and must not replace.
    #[error("the record {key} is damaged and is not overwritten: {why}")]
    Damaged { key: String, why: DecodeError },
    /// The store allows one write to a key in a transaction.
    #[error("one transaction writes {0} twice")]
    WrittenTwice(String),
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// Builds a transaction; every write compares what the cache knows of the key. The first mistake is what
/// [`build`](Self::build) answers.
///
/// ```text
/// let mut txn = cache.txn();
/// txn.put(&assignment).unchanged(&keys::in_sync(volume));
/// store.commit(txn.build()?).await?
/// ```
#[derive(Debug)]
pub struct TxnBuilder<'a> {
    cache: &'a Cache,
    txn: Txn,
    error: Option<TxnError>,
}

impl TxnBuilder<'_> {
    /// Writes a record if its key is as the cache knows it (absent, if it knows none). Fields that this
    /// build does not know are kept.
    pub fn put<T: Record>(&mut self, record: &T) -> &mut Self {
        self.write(record, None, None)
    }

    /// As [`put`](Self::put); the record goes when the lease ends.
    pub fn put_leased<T: Record>(&mut self, record: &T, lease: LeaseId) -> &mut Self {
        self.write(record, None, Some(lease))
    }

    /// Writes a record if nothing is there, whatever the cache knows.
    pub fn create<T: Record>(&mut self, record: &T) -> &mut Self {
        self.write(record, Some(0), None)
    }

    /// As [`create`](Self::create); the record goes when the lease ends.
    pub fn create_leased<T: Record>(&mut self, record: &T, lease: LeaseId) -> &mut Self {
        self.write(record, Some(0), Some(lease))
    }

    /// Deletes a key if it is as the cache knows it.
    pub fn delete(&mut self, key: &str) -> &mut Self {
        self.refuse_damaged(key);
        self.unchanged(key);
        self.push(Write::Delete { key: key.to_owned() })
    }

    /// Only compares: the key is as the cache knows it, be it absent.
    pub fn unchanged(&mut self, key: &str) -> &mut Self {
        self.at(key, self.cache.revision_of(key))
    }

    /// Only compares: the key was last written at this revision; 0: it is not there.
    pub fn at(&mut self, key: &str, mod_revision: i64) -> &mut Self {
        self.compare(Compare::Revision { key: key.to_owned(), mod_revision })
    }

    /// Only compares: something is under the key.
    pub fn exists(&mut self, key: &str) -> &mut Self {
        self.compare(Compare::Exists { key: key.to_owned() })
    }

    /// Only compares: nothing is under the key.
    pub fn absent(&mut self, key: &str) -> &mut Self {
        self.at(key, 0)
    }

    /// Whether it would write nothing.
    pub fn is_empty(&self) -> bool {
        self.txn.writes.is_empty()
    }

    /// The transaction; the builder is empty afterwards.
    pub fn build(&mut self) -> Result<Txn, TxnError> {
        match self.error.take() {
            None => Ok(std::mem::take(&mut self.txn)),
            Some(error) => Err(error),
        }
    }

    fn write<T: Record>(&mut self, record: &T, at: Option<i64>, lease: Option<LeaseId>) -> &mut Self {
        let key = record.key();
        self.refuse_damaged(&key);
        let nothing = UnknownFields::default();
        let unknown = match self.cache.known.get(&key).map(|known| &known.state) {
            Some(KnownState::Good(unknown)) if at.is_none() => unknown,
            Some(KnownState::Good(_) | KnownState::Damaged(_) | KnownState::Secret) | None => &nothing,
        };
        match codec::encode(record, unknown) {
            Ok(value) => {
                self.at(&key, at.unwrap_or_else(|| self.cache.revision_of(&key)));
                self.push(Write::Put { key, value, lease })
            }
            Err(error) => self.fail(error.into()),
        }
    }

    fn refuse_damaged(&mut self, key: &str) {
        if let Some(Known { state: KnownState::Damaged(why), .. }) = self.cache.known.get(key) {
            self.fail(TxnError::Damaged { key: key.to_owned(), why: why.clone() });
        }
    }

    fn compare(&mut self, compare: Compare) -> &mut Self {
        if !self.txn.compares.contains(&compare) {
            self.txn.compares.push(compare);
        }
        self
    }

    fn push(&mut self, write: Write) -> &mut Self {
        if self.txn.writes.iter().any(|other| other.key() == write.key()) {
            return self.fail(TxnError::WrittenTwice(write.key().to_owned()));
        }
        self.txn.writes.push(write);
        self
    }

    fn fail(&mut self, error: TxnError) -> &mut Self {
        self.error.get_or_insert(error);
        self
    }
}

#[cfg(test)]
mod tests {
    use crate::keys;
    use model::{BootId, Epoch, InSync, Replica, VolumeId};

    use super::*;

    fn set(host: &str) -> InSync {
        let boot_id: BootId = "0191e0a0-0000-4000-8000-000000000002".parse().expect("an id");
        let volume: VolumeId = "0191e0a0-0000-4000-8000-000000000001".parse().expect("an id");
        let replica = Replica { host: host.parse().expect("a name"), boot_id };
        InSync {
            volume,
            epoch: Epoch::FIRST,
            members: [replica].into(),
            alone_since: None,
            resync: 0,
            refill: false,
            doubted: false,
        }
    }

    fn entry(key: &str, value: &[u8], mod_revision: i64) -> Entry {
        Entry { key: key.to_owned(), value: value.to_vec(), mod_revision }
    }

    fn cache_of(entries: Vec<Entry>) -> Cache {
        let mut cache = Cache::new();
        cache.apply(FeedEvent::Reset(Listing { entries, revision: 10 }));
        cache
    }

    #[test]
    fn a_record_comes_changes_and_goes() {
        let record = set("host1");
        let value = codec::encode(&record, &UnknownFields::default()).expect("encode");
        let mut cache = cache_of(vec![entry(&record.key(), &value, 7)]);
        assert_eq!(cache.view().in_sync.get(&record.volume), Some(&record));
        assert_eq!(cache.revision_of(&record.key()), 7);

        let held = cache.snapshot();
        let changed = set("host2");
        let value = codec::encode(&changed, &UnknownFields::default()).expect("encode");
        let changes = vec![Change::Put(entry(&record.key(), &value, 11))];
        cache.apply(FeedEvent::Changes { changes, revision: 11 });
        assert_eq!(cache.view().in_sync.get(&record.volume), Some(&changed));
        assert_eq!(held.in_sync.get(&record.volume), Some(&record), "a snapshot does not change");

        let changes = vec![Change::Delete { key: record.key() }];
        cache.apply(FeedEvent::Changes { changes, revision: 12 });
        assert!(cache.view().in_sync.is_empty());
        assert_eq!((cache.revision(), cache.revision_of(&record.key())), (12, 0));
    }

    #[test]
    fn what_changed_since_a_mark_is_known_until_the_store_is_listed_anew() {
        let value = codec::encode(&set("host1"), &UnknownFields::default()).expect("encode");
        let key = set("host1").key();
        let mut cache = cache_of(Vec::new());
        let mark = cache.mark();
        assert_eq!(cache.changed_since(mark), Some([].into()));
        cache.apply(FeedEvent::Changes {
            changes: vec![
                Change::Put(entry(&key, &value, 11)),
                Change::Delete { key: "/kennel/x".to_owned() },
            ],
            revision: 11,
        });
        assert_eq!(cache.changed_since(mark), Some([key.as_str(), "/kennel/x"].into()));
        assert_eq!(cache.changed_since(cache.mark()), Some([].into()));
        let before = cache.mark();
        cache.apply(FeedEvent::Reset(Listing { entries: Vec::new(), revision: 12 }));
        assert_eq!((cache.changed_since(mark), cache.changed_since(before)), (None, None));
        assert_eq!(cache.changed_since(cache.mark()), Some([].into()));
        let many = |n: usize| Change::Delete { key: format!("/kennel/x{n}") };
        let mark = cache.mark();
        cache.apply(FeedEvent::Changes { changes: (0..=TRAIL_KEYS_MAX).map(many).collect(), revision: 13 });
        assert_eq!(cache.changed_since(mark), None, "too much to remember");
    }

    #[test]
    fn damaged_and_foreign_records_are_reported_and_left_alone() {
        let record = set("host1");
        let value = codec::encode(&record, &UnknownFields::default()).expect("encode");
        let elsewhere = "/kennel/in-sync/0191e0a0-0000-4000-8000-000000000009";
        let mut cache = cache_of(vec![
            entry(&record.key(), &value, 7),
            entry(elsewhere, &value, 8),
            entry("/kennel/pets/rex", b"{}", 9),
            entry("/kennel/guests/Web1", b"\x00\xff", 9),
        ]);
        assert_eq!(cache.view().in_sync.len(), 1);
        assert_eq!(cache.view().damaged.len(), 3, "{:?}", cache.view().damaged);
        assert!(matches!(cache.txn().delete(elsewhere).build(), Err(TxnError::Damaged { .. })));

        // A good record that becomes damaged leaves the view, and cannot be replaced.
        let changes = vec![Change::Put(entry(&record.key(), b"{\"volume\":1}", 11))];
        cache.apply(FeedEvent::Changes { changes, revision: 11 });
        assert!(cache.view().in_sync.is_empty() && cache.is_damaged(&record.key()));
        assert!(matches!(cache.txn().put(&record).build(), Err(TxnError::Damaged { .. })));
        assert!(matches!(cache.txn().create(&record).build(), Err(TxnError::Damaged { .. })));

        // Mended by hand, it is back.
        let changes = vec![Change::Put(entry(&record.key(), &value, 12))];
        cache.apply(FeedEvent::Changes { changes, revision: 12 });
        assert!(!cache.is_damaged(&record.key()) && cache.view().in_sync.len() == 1);
    }

    #[test]
    fn a_secret_never_enters_the_view() {
        let cache = cache_of(vec![entry(&keys::secret("ca-key"), b"{\"text\":\"hidden\"}", 3)]);
        assert!(!format!("{:?}", cache.view()).contains("hidden"));
        assert!(cache.view().damaged.is_empty());
        assert_eq!(cache.revision_of(&keys::secret("ca-key")), 3);
    }

    #[test]
    fn a_transaction_compares_what_was_read_and_writes_a_key_once() {
        let record = set("host1");
        let cache = cache_of(Vec::new());
        let txn = cache.txn().put(&record).exists("/kennel/cluster").build().expect("build");
        let absent = Compare::Revision { key: record.key(), mod_revision: 0 };
        assert_eq!(txn.compares, [absent, Compare::Exists { key: keys::CLUSTER.to_owned() }]);
        let twice = cache.txn().put(&record).delete(&record.key()).build();
        assert_eq!(twice, Err(TxnError::WrittenTwice(record.key())));
    }
}
