//! Somebody who writes numbered keys as fast as the store takes them, and a watch that must tell of each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use store::{Change, Compare, FeedEvent, Outcome, Store, StoreError, Txn, Write};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{LIMIT, eventually, next};

/// How many writes show that the store works again.
const WRITES: u64 = 50;

#[derive(Debug, Default)]
struct Written {
    /// Each acknowledged key, with its revision.
    acknowledged: BTreeMap<String, i64>,
    longest_gap: Duration,
}

#[derive(Debug, Default)]
struct Heard {
    /// How often each key was told of.
    keys: BTreeMap<String, u32>,
    last_revision: i64,
    disconnected: u32,
}

pub struct Writer {
    written: Arc<Mutex<Written>>,
    heard: Arc<Mutex<Heard>>,
    stop: watch::Sender<bool>,
    writing: JoinHandle<()>,
    listening: JoinHandle<()>,
}

impl Writer {
    pub async fn start(store: Arc<dyn Store>, prefix: &str) -> Self {
        let heard = Arc::new(Mutex::new(Heard::default()));
        let mut watch = store.watch(prefix);
        let FeedEvent::Reset(listing) = next(&mut watch).await else {
            panic!("a watch begins with a listing")
        };
        assert!(listing.entries.is_empty());
        let listener = Arc::clone(&heard);
        let listening = tokio::spawn(async move {
            loop {
                hear(&listener, next_whenever(&mut watch).await);
            }
        });
        let written = Arc::new(Mutex::new(Written::default()));
        let (stop, stopped) = watch::channel(false);
        let writing = tokio::spawn(write(store, prefix.to_owned(), Arc::clone(&written), stopped));
        Self { written, heard, stop, writing, listening }
    }

    fn count(&self) -> u64 {
        self.written.lock().expect("the lock").acknowledged.len() as u64
    }

    /// Waits until writes have succeeded again; the longest time without one since this was last asked.
    pub async fn goes_on(&self) -> Duration {
        let before = self.count();
        eventually("writes go on", || async { self.count() >= before + WRITES }).await;
        std::mem::take(&mut self.written.lock().expect("the lock").longest_gap)
    }

    /// The watch says that the store does not answer.
    pub async fn hears_of_the_loss(&self) {
        let heard = || async { self.heard.lock().expect("the lock").disconnected > 0 };
        eventually("the watch says that it is disconnected", heard).await;
    }

    /// Every acknowledged write was told of, once.
    pub async fn finish(self) {
        self.stop.send_replace(true);
        tokio::time::timeout(LIMIT, self.writing)
            .await
            .expect("the writer ends")
            .expect("the writer is well");
        let acknowledged = std::mem::take(&mut self.written.lock().expect("the lock").acknowledged);
        let last = acknowledged.values().copied().max().expect("something was written");
        let told = || async { self.heard.lock().expect("the lock").last_revision >= last };
        eventually("the watch tells of the last write", told).await;
        let heard = self.heard.lock().expect("the lock");
        assert!(!self.listening.is_finished(), "the watch told of something twice");
        for key in acknowledged.keys() {
            assert_eq!(heard.keys.get(key), Some(&1), "{key}");
        }
        self.listening.abort();
    }
}

/// Without a limit: nothing may come for long.
async fn next_whenever(watch: &mut futures::stream::BoxStream<'static, FeedEvent>) -> FeedEvent {
    use futures::StreamExt;
    watch.next().await.expect("a watch does not end")
}

fn hear(heard: &Mutex<Heard>, event: FeedEvent) {
    let mut heard = heard.lock().expect("the lock");
    match event {
        FeedEvent::Reset(_) => panic!("nothing was compacted, yet the watch lists anew"),
        FeedEvent::Disconnected => heard.disconnected += 1,
        FeedEvent::Changes { changes, revision } => {
            for change in changes {
                let Change::Put(entry) = change else { panic!("nothing was deleted") };
                assert!(entry.mod_revision > heard.last_revision, "out of order, or twice");
                heard.last_revision = entry.mod_revision;
                *heard.keys.entry(entry.key).or_default() += 1;
            }
            assert!(revision >= heard.last_revision);
        }
    }
}

async fn write(
    store: Arc<dyn Store>,
    prefix: String,
    written: Arc<Mutex<Written>>,
    stopped: watch::Receiver<bool>,
) {
    let mut last_success = Instant::now();
    let mut number = 0u64;
    while !*stopped.borrow() {
        let key = format!("{prefix}{number:06}");
        let txn = Txn {
            compares: vec![Compare::Revision { key: key.clone(), mod_revision: 0 }],
            writes: vec![Write::Put { key: key.clone(), value: b"{}".to_vec(), lease: None }],
        };
        let revision = match store.commit(txn).await {
            Ok(Outcome::Committed { revision }) => Some(revision),
            // After an unknown outcome: it had been done.
            Ok(Outcome::Conflict) => Some(read(&*store, &key).await),
            Err(StoreError::Unavailable(_) | StoreError::Unknown(_)) => None,
            Err(error @ (StoreError::LeaseGone | StoreError::Refused(_))) => panic!("{error}"),
        };
        if let Some(revision) = revision {
            let mut written = written.lock().expect("the lock");
            written.longest_gap = written.longest_gap.max(last_success.elapsed());
            written.acknowledged.insert(key, revision);
            last_success = Instant::now();
            number += 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn read(store: &dyn Store, key: &str) -> i64 {
    loop {
        if let Ok(listing) = store.list(key).await {
            return listing.entries.first().expect("the key is there").mod_revision;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
