//! The promises of a store, one function each.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::HostName;
use store::{
    Cache, Change, Compare, DecodeError, Entry, FeedEvent, LeaseId, Listing, Outcome, PREFIX, Record, Store,
    StoreError, TXN_OPERATIONS_MAX, Txn, TxnError, VALUE_BYTES_MAX, Write, election, keys,
};

use super::{LIMIT, eventually, next};

/// A store under test.
#[async_trait::async_trait]
pub trait Subject: Sync {
    /// Over a link that [`cut`](Self::cut) cuts.
    fn store(&self) -> Arc<dyn Store>;
    /// The same content, over a link that is never cut.
    fn other(&self) -> Arc<dyn Store>;
    async fn cut(&self);
    async fn heal(&self);
    /// Forgets the past.
    async fn compact(&self);
}

fn at(key: &str, mod_revision: i64) -> Compare {
    Compare::Revision { key: key.to_owned(), mod_revision }
}

fn put(key: &str, value: &str) -> Write {
    Write::Put { key: key.to_owned(), value: value.as_bytes().to_vec(), lease: None }
}

fn put_leased(key: &str, lease: LeaseId) -> Write {
    Write::Put { key: key.to_owned(), value: b"{}".to_vec(), lease: Some(lease) }
}

fn delete(key: &str) -> Write {
    Write::Delete { key: key.to_owned() }
}

async fn commit(store: &dyn Store, compares: Vec<Compare>, writes: Vec<Write>) -> Outcome {
    store.commit(Txn { compares, writes }).await.expect("an outcome")
}

/// The revision of a commit that must succeed.
async fn done(store: &dyn Store, compares: Vec<Compare>, writes: Vec<Write>) -> i64 {
    match commit(store, compares, writes).await {
        Outcome::Committed { revision } => revision,
        Outcome::Conflict => panic!("a conflict"),
    }
}

async fn list(store: &dyn Store, prefix: &str) -> Listing {
    store.list(prefix).await.expect("a listing")
}

fn keys_of(listing: &Listing) -> Vec<&str> {
    listing.entries.iter().map(|entry| entry.key.as_str()).collect()
}

fn host(name: &str) -> HostName {
    name.parse().expect("a host name")
}

pub async fn a_key_is_created_once_changed_by_who_read_it_and_deleted(subject: &dyn Subject) {
    let store = &*subject.store();
    let key = "/kennel/test-cas/a";
    let created = done(store, vec![at(key, 0)], vec![put(key, "1")]).await;
    assert_eq!(commit(store, vec![at(key, 0)], vec![put(key, "2")]).await, Outcome::Conflict);
    let changed = done(store, vec![at(key, created)], vec![put(key, "3")]).await;
    assert!(changed > created);
    assert_eq!(commit(store, vec![at(key, created)], vec![put(key, "4")]).await, Outcome::Conflict);
    let listing = list(store, "/kennel/test-cas/").await;
    let entry = Entry { key: key.to_owned(), value: b"3".to_vec(), mod_revision: changed };
    assert_eq!(listing.entries, [entry]);
    assert_eq!(commit(store, vec![at(key, created)], vec![delete(key)]).await, Outcome::Conflict);
    done(store, vec![at(key, changed)], vec![delete(key)]).await;
    assert!(list(store, "/kennel/test-cas/").await.entries.is_empty());
}

pub async fn a_transaction_happens_as_a_whole(subject: &dyn Subject) {
    let store = &*subject.store();
    let (a, b, c) = ("/kennel/test-txn/a", "/kennel/test-txn/b", "/kennel/test-txn/c");
    let revision = done(store, vec![at(a, 0), at(b, 0)], vec![put(a, "1"), put(b, "1")]).await;
    let listing = list(store, "/kennel/test-txn/").await;
    assert!(listing.entries.iter().all(|entry| entry.mod_revision == revision), "one revision for all");

    // One compare of three does not hold: nothing happens.
    let compares = vec![at(a, revision), at(b, revision), Compare::Exists { key: c.to_owned() }];
    let writes = vec![put(a, "2"), delete(b), put(c, "2")];
    assert_eq!(commit(store, compares, writes.clone()).await, Outcome::Conflict);
    assert_eq!(list(store, "/kennel/test-txn/").await.entries, listing.entries);

    let compares = vec![at(c, 0), Compare::Exists { key: a.to_owned() }];
    done(store, compares, writes).await;
    assert_eq!(keys_of(&list(store, "/kennel/test-txn/").await), [a, c]);

    // Two at once, on the same reading: one wins.
    let read = list(store, a).await.entries[0].mod_revision;
    let (one, two) = tokio::join!(
        commit(store, vec![at(a, read)], vec![put(a, "one")]),
        commit(store, vec![at(a, read)], vec![put(a, "two")]),
    );
    assert_eq!([one, two].iter().filter(|outcome| **outcome == Outcome::Conflict).count(), 1);
}

pub async fn a_listing_shows_one_prefix_at_one_revision(subject: &dyn Subject) {
    let store = &*subject.store();
    let mut last = 0;
    for name in ["list/b", "list/a", "list-not/c"] {
        let key = format!("/kennel/test-{name}");
        last = done(store, vec![], vec![put(&key, "{}")]).await;
    }
    let listing = list(store, "/kennel/test-list/").await;
    assert_eq!(keys_of(&listing), ["/kennel/test-list/a", "/kennel/test-list/b"], "in order");
    assert!(listing.revision >= last);
    let nothing = list(store, "/kennel/test-nothing/").await;
    assert!(nothing.entries.is_empty() && nothing.revision >= last);
}

pub async fn a_large_listing_is_whole(subject: &dyn Subject) {
    let store = &*subject.store();
    let count = 2500;
    let name = |number: usize| format!("/kennel/test-many/{number:05}");
    let numbers: Vec<usize> = (0..count).collect();
    for chunk in numbers.chunks(TXN_OPERATIONS_MAX) {
        done(store, vec![], chunk.iter().map(|number| put(&name(*number), "{}")).collect()).await;
    }
    let listing = list(store, "/kennel/test-many/").await;
    let wanted: Vec<String> = numbers.iter().map(|number| name(*number)).collect();
    assert_eq!(keys_of(&listing), wanted);
}

/// Watches that begin at different times, while several write.
pub async fn a_watch_tells_every_change_once_and_in_order(subject: &dyn Subject) {
    const WRITERS: usize = 4;
    let prefix = "/kennel/test-watch/";
    let written = async {
        let writers = (0..WRITERS).map(|writer| write_some(subject.store(), prefix, writer));
        let all: BTreeSet<i64> = futures::future::join_all(writers).await.into_iter().flatten().collect();
        let end = done(&*subject.store(), vec![], vec![put(&format!("{prefix}end"), "{}")]).await;
        (all, end)
    };
    let watchers = futures::future::join_all((0..5).map(|number| {
        let store = subject.store();
        async move {
            tokio::time::sleep(Duration::from_millis(20 * number)).await;
            follow_to_the_end(&*store, prefix).await
        }
    }));
    let ((all, end), followed) = tokio::join!(written, watchers);
    for (from, revisions) in followed {
        let last = Some(end).filter(|end| *end > from);
        let wanted: Vec<i64> = all.range(from + 1..).copied().chain(last).collect();
        assert_eq!(revisions, wanted, "each once, in order, from {from}");
    }
}

/// The revisions of what was put. Each key is put several times, and deleted in between.
async fn write_some(store: Arc<dyn Store>, prefix: &str, writer: usize) -> Vec<i64> {
    let mut revisions = Vec::new();
    for number in 0..40 {
        let key = format!("{prefix}{writer}-{}", number % 7);
        if number % 5 == 4 {
            done(&*store, vec![], vec![delete(&key)]).await;
        } else {
            revisions.push(done(&*store, vec![], vec![put(&key, "{}")]).await);
        }
        // The others write in between, also on a paused clock.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    revisions
}

/// The revision of the listing, and those of the puts after it, until the key `end`. A deletion is told
/// without its revision; that none is missing shows in what is left at the end.
async fn follow_to_the_end(store: &dyn Store, prefix: &str) -> (i64, Vec<i64>) {
    let mut watch = store.watch(prefix);
    let FeedEvent::Reset(listing) = next(&mut watch).await else { panic!("first a listing") };
    let from = listing.revision;
    let mut present: BTreeSet<String> = listing.entries.into_iter().map(|entry| entry.key).collect();
    let mut revisions = Vec::new();
    let end = format!("{prefix}end");
    while !present.contains(&end) {
        let FeedEvent::Changes { changes, revision } = next(&mut watch).await else { panic!("changes") };
        for change in changes {
            match change {
                Change::Put(entry) => {
                    revisions.push(entry.mod_revision);
                    present.insert(entry.key);
                }
                Change::Delete { key } => assert!(present.remove(&key), "{key} was there"),
            }
        }
        assert!(revisions.last().is_none_or(|last| *last <= revision));
    }
    assert_eq!(present.iter().map(String::as_str).collect::<Vec<_>>(), keys_of(&list(store, prefix).await));
    (from, revisions)
}

pub async fn what_a_lease_holds_goes_with_it(subject: &dyn Subject) {
    let store = &*subject.store();
    let (leased, kept) = ("/kennel/test-lease/leased", "/kennel/test-lease/kept");
    let lease = store.grant(Duration::from_secs(1)).await.expect("a lease");
    let mut watch = store.watch("/kennel/test-lease/");
    next(&mut watch).await;
    done(store, vec![], vec![put_leased(leased, lease), put(kept, "{}")]).await;
    // Nobody renews it.
    let told = async {
        loop {
            let FeedEvent::Changes { changes, .. } = next(&mut watch).await else { continue };
            if changes.contains(&Change::Delete { key: leased.to_owned() }) {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, told).await.expect("the watch tells that the lease ended");
    assert_eq!(keys_of(&list(store, "/kennel/test-lease/").await), [kept]);
    assert_eq!(store.keep_alive(lease).await, Err(StoreError::LeaseGone));
    let late = Txn { compares: vec![], writes: vec![put_leased(leased, lease)] };
    assert_eq!(store.commit(late).await, Err(StoreError::LeaseGone));
    assert_eq!(store.revoke(lease).await, Ok(()), "ending what is over is no error");

    // Ended on purpose, all goes at once.
    let lease = store.grant(Duration::from_secs(60)).await.expect("a lease");
    done(store, vec![], vec![put_leased(leased, lease)]).await;
    store.revoke(lease).await.expect("end the lease");
    assert_eq!(keys_of(&list(store, "/kennel/test-lease/").await), [kept]);
    assert_eq!(store.keep_alive(lease).await, Err(StoreError::LeaseGone));
}

pub async fn a_lease_lives_while_it_is_renewed(subject: &dyn Subject) {
    let store = &*subject.store();
    let key = "/kennel/test-renewed/a";
    let lease = store.grant(Duration::from_secs(2)).await.expect("a lease");
    done(store, vec![], vec![put_leased(key, lease)]).await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        store.keep_alive(lease).await.expect("renew the lease");
    }
    assert_eq!(keys_of(&list(store, key).await), [key], "it outlived its first span");
    // A key that is written again without a lease is let go by it.
    done(store, vec![], vec![put(key, "{}")]).await;
    store.revoke(lease).await.expect("end the lease");
    assert_eq!(keys_of(&list(store, key).await), [key]);
}

pub async fn one_host_leads(subject: &dyn Subject) {
    let (one, two) = (subject.store(), subject.other());
    let (host1, host2) = (host("host1"), host("host2"));
    let lease1 = one.grant(Duration::from_secs(60)).await.expect("a lease");
    let lease2 = two.grant(Duration::from_secs(60)).await.expect("a lease");
    let (a, b) =
        tokio::join!(election::campaign(&*one, &host1, lease1), election::campaign(&*two, &host2, lease2),);
    let (a, b) = (a.expect("campaign"), b.expect("campaign"));
    assert!(a.is_some() != b.is_some(), "exactly one leads: {a:?} {b:?}");
    let (leads, lease, since) = match a {
        Some(since) => ((&one, &host1, lease1), lease1, since),
        None => ((&two, &host2, lease2), lease2, b.expect("one of the two")),
    };
    let loses = if a.is_some() { (&two, &host2, lease2) } else { (&one, &host1, lease1) };
    let again = election::campaign(&**leads.0, leads.1, leads.2).await.expect("campaign");
    assert_eq!(again, Some(since), "asking again changes nothing");

    // The leader's session ends: the other leads, and what the first still tries is a conflict.
    leads.0.revoke(lease).await.expect("end the session");
    let next = election::campaign(&**loses.0, loses.1, loses.2).await.expect("campaign");
    assert!(next.is_some_and(|next| next > since));
    let stale = commit(&**leads.0, vec![at(keys::LEADER, since)], vec![put("/kennel/test-led", "{}")]).await;
    assert_eq!(stale, Outcome::Conflict);
    election::resign(&**loses.0, next.expect("it leads")).await.expect("resign");
    assert!(list(&*one, keys::LEADER).await.entries.is_empty());
}

async fn cache_of(store: &dyn Store) -> Cache {
    let mut cache = Cache::new();
    cache.apply(FeedEvent::Reset(list(store, PREFIX).await));
    cache
}

pub async fn a_write_keeps_what_a_newer_build_wrote(subject: &dyn Subject) {
    let store = &*subject.store();
    let key = "/kennel/hosts/newer";
    let newer = r#"{"name":"newer","address":"192.0.2.1","zone":"a","tags":[],"rank":{"of":7},
        "joined_at":"2026-11-21T00:00:00Z","store_member":false}"#;
    done(store, vec![at(key, 0)], vec![put(key, newer)]).await;
    let cache = cache_of(store).await;
    let mut record = cache.view().hosts[&host("newer")].clone();
    assert_eq!(record.key(), key);
    record.zone = "b".to_owned();
    let txn = cache.txn().put(&record).build().expect("build");
    assert!(matches!(store.commit(txn.clone()).await, Ok(Outcome::Committed { .. })));
    assert_eq!(store.commit(txn).await, Ok(Outcome::Conflict), "the reading is old now");
    let stored: serde_json::Value =
        serde_json::from_slice(&list(store, key).await.entries[0].value).expect("JSON");
    assert_eq!((stored["rank"]["of"].as_i64(), stored["zone"].as_str()), (Some(7), Some("b")));
}

pub async fn a_damaged_record_is_skipped_and_left(subject: &dyn Subject) {
    let store = &*subject.store();
    let damaged = "/kennel/hosts/damaged";
    done(store, vec![], vec![put(damaged, "{\"name\": 5")]).await;
    let cache = cache_of(store).await;
    assert!(cache.is_damaged(damaged) && !cache.view().hosts.contains_key(&host("damaged")));
    let mut record = cache.view().hosts[&host("newer")].clone();
    record.name = host("damaged");
    let refused = cache.txn().put(&record).build();
    let why = match refused {
        Err(TxnError::Damaged { why, .. }) => why,
        other => panic!("built over a damaged record: {other:?}"),
    };
    assert!(matches!(why, DecodeError::NotJson(_)));
    // Also when it was damaged after it was read: nothing was known of it, so nothing may be there.
    let blind = Cache::new();
    let txn = blind.txn().put(&record).build().expect("build");
    assert_eq!(store.commit(txn).await, Ok(Outcome::Conflict));
}

pub async fn what_is_too_large_is_refused(subject: &dyn Subject) {
    let store = &*subject.store();
    let large = "x".repeat(VALUE_BYTES_MAX + 1);
    let many = (0..=TXN_OPERATIONS_MAX).map(|number| put(&format!("/kennel/test-big/{number}"), ""));
    let twice = vec![put("/kennel/test-big/a", "1"), put("/kennel/test-big/a", "2")];
    for writes in [vec![put("/kennel/test-big/a", &large)], many.collect(), twice] {
        let refused = store.commit(Txn { compares: vec![], writes }).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    }
    // The largest that is allowed goes through.
    let largest = "x".repeat(VALUE_BYTES_MAX - 100);
    done(store, vec![], vec![put("/kennel/test-big/a", &largest)]).await;
    let full = (0..TXN_OPERATIONS_MAX).map(|number| format!("/kennel/test-full/{number}"));
    let (compares, writes) = full.map(|key| (at(&key, 0), put(&key, "{}"))).unzip();
    done(store, compares, writes).await;
}

async fn wait_for_disconnected(watch: &mut futures::stream::BoxStream<'static, FeedEvent>) {
    while next(watch).await != FeedEvent::Disconnected {}
}

pub async fn a_watch_resumes_after_a_cut(subject: &dyn Subject) {
    let other = &*subject.other();
    let key = "/kennel/test-cut/a";
    let mut watch = subject.store().watch("/kennel/test-cut/");
    assert!(matches!(next(&mut watch).await, FeedEvent::Reset(_)));
    // Twice: once with changes in the meantime, once without.
    for change in [true, false] {
        subject.cut().await;
        wait_for_disconnected(&mut watch).await;
        if change {
            done(other, vec![], vec![put(key, "1")]).await;
            done(other, vec![], vec![put(key, "2")]).await;
        }
        subject.heal().await;
        let mut told = Vec::new();
        while told.len() < if change { 2 } else { 0 } {
            let FeedEvent::Changes { changes, .. } = next(&mut watch).await else { panic!("changes") };
            told.extend(changes);
        }
        let values = told.iter().map(|change| match change {
            Change::Put(entry) => String::from_utf8_lossy(&entry.value).into_owned(),
            Change::Delete { key } => panic!("{key} was not deleted"),
        });
        assert_eq!(values.collect::<Vec<_>>(), if change { vec!["1", "2"] } else { vec![] });
        if !change {
            let alive = next(&mut watch).await;
            assert!(matches!(alive, FeedEvent::Changes { changes, .. } if changes.is_empty()));
        }
    }
}

pub async fn a_watch_lists_anew_when_its_past_is_forgotten(subject: &dyn Subject) {
    let other = &*subject.other();
    let (a, b) = ("/kennel/test-past/a", "/kennel/test-past/b");
    done(other, vec![], vec![put(a, "1")]).await;
    let mut watch = subject.store().watch("/kennel/test-past/");
    assert!(matches!(next(&mut watch).await, FeedEvent::Reset(listing) if listing.entries.len() == 1));
    subject.cut().await;
    wait_for_disconnected(&mut watch).await;
    done(other, vec![], vec![delete(a), put(b, "1")]).await;
    done(other, vec![], vec![put(b, "2")]).await;
    subject.compact().await;
    subject.heal().await;
    loop {
        match next(&mut watch).await {
            FeedEvent::Reset(listing) => {
                assert_eq!(keys_of(&listing), [b]);
                assert_eq!(listing.entries[0].value, b"2");
                break;
            }
            FeedEvent::Changes { changes, .. } => assert!(changes.is_empty(), "{changes:?}"),
            FeedEvent::Disconnected => {}
        }
    }
    let revision = done(other, vec![], vec![put(a, "3")]).await;
    let told = next(&mut watch).await;
    let entry = Entry { key: a.to_owned(), value: b"3".to_vec(), mod_revision: revision };
    assert_eq!(told, FeedEvent::Changes { changes: vec![Change::Put(entry)], revision });
}

/// Every call fails, with a word for whether it may have happened, and none hangs.
pub async fn everything_fails_within(store: &dyn Store, lease: LeaseId, limit: Duration) {
    let key = "/kennel/test-fails/a";
    // The first call may reach a member that has not noticed yet; after it all is clear.
    eventually("the store has no quorum", || async { store.list(key).await.is_err() }).await;
    let started = Instant::now();
    let txn = Txn { compares: vec![at(key, 0)], writes: vec![put(key, "{}")] };
    let (committed, listed, renewed, granted) = tokio::join!(
        store.commit(txn),
        store.list(key),
        store.keep_alive(lease),
        store.grant(Duration::from_secs(5)),
    );
    assert!(started.elapsed() < limit, "it took {:?}", started.elapsed());
    let unavailable = |error: &StoreError| matches!(error, StoreError::Unavailable(_));
    let failed = committed.expect_err("a commit without a quorum");
    assert!(unavailable(&failed) || matches!(failed, StoreError::Unknown(_)), "{failed:?}");
    // What can be asked again is never unknown.
    assert!(unavailable(&listed.expect_err("a listing without a quorum")));
    assert!(unavailable(&renewed.expect_err("a renewal without a quorum")));
    assert!(unavailable(&granted.expect_err("a lease without a quorum")));
}

pub async fn a_cut_store_fails_soon_and_recovers(subject: &dyn Subject) {
    let store = &*subject.store();
    let lease = store.grant(Duration::from_secs(120)).await.expect("a lease");
    subject.cut().await;
    everything_fails_within(store, lease, Duration::from_secs(8)).await;
    subject.heal().await;
    eventually("the store answers again", || async { store.list(PREFIX).await.is_ok() }).await;
    store.keep_alive(lease).await.expect("the lease outlived the cut");
}

pub async fn an_unknown_outcome_is_either(store: &store::MemoryStore) {
    let key = "/kennel/test-unknown/a";
    let txn = Txn { compares: vec![at(key, 0)], writes: vec![put(key, "{}")] };
    store.set_fault(store::Fault::RequestsLost);
    assert!(matches!(store.commit(txn.clone()).await, Err(StoreError::Unknown(_))));
    store.set_fault(store::Fault::None);
    assert!(list(store, key).await.entries.is_empty(), "it was lost on its way");
    store.set_fault(store::Fault::AnswersLost);
    assert!(matches!(store.commit(txn).await, Err(StoreError::Unknown(_))));
    store.set_fault(store::Fault::None);
    assert_eq!(keys_of(&list(store, key).await), [key], "it was done, and nobody heard");

    // Who campaigned without hearing finds that it leads.
    let host = host("host1");
    let lease = store.grant(Duration::from_secs(60)).await.expect("a lease");
    store.set_fault(store::Fault::AnswersLost);
    assert!(election::campaign(store, &host, lease).await.is_err());
    store.set_fault(store::Fault::None);
    assert!(matches!(election::campaign(store, &host, lease).await, Ok(Some(_))));
}
