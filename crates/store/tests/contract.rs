//! What a store promises, kept by the one in memory and by a real etcd of three members alike.
//!
//! Each function under [`promises`] is one promise. They share a store, so each keeps to keys of its own,
//! and some run while others do.

mod support;

use std::sync::Arc;
use std::time::Duration;

use store::{Fault, MemoryStore, Store};
use support::cluster::TestCluster;
use support::promises::{self, Subject};
use support::proxy::{Mode, Proxy};
use support::writer::Writer;

/// A store in memory behind a link that can be cut.
struct InMemory {
    cut_off: MemoryStore,
    shared: Arc<MemoryStore>,
    link: Arc<MemoryStore>,
}

impl InMemory {
    fn new() -> Self {
        let shared = MemoryStore::new();
        Self {
            cut_off: shared.another_link(),
            link: Arc::new(shared.another_link()),
            shared: Arc::new(shared),
        }
    }
}

#[async_trait::async_trait]
impl Subject for InMemory {
    fn store(&self) -> Arc<dyn Store> {
        self.link.clone()
    }
    fn other(&self) -> Arc<dyn Store> {
        self.shared.clone()
    }
    async fn cut(&self) {
        self.link.set_fault(Fault::Unavailable);
    }
    async fn heal(&self) {
        self.link.set_fault(Fault::None);
    }
    async fn compact(&self) {
        self.cut_off.compact();
    }
}

/// A store in etcd, each member behind a proxy that can be cut.
struct InEtcd {
    store: Arc<dyn Store>,
    other: Arc<dyn Store>,
    proxies: Vec<Proxy>,
    cluster: TestCluster,
}

impl InEtcd {
    async fn new() -> Self {
        let cluster = TestCluster::start(3).await;
        let mut proxies = Vec::new();
        for index in 0..3 {
            proxies.push(Proxy::start(cluster.client_address(index)).await);
        }
        let endpoints = proxies.iter().map(Proxy::url).collect();
        let store = Arc::new(cluster.store_at(endpoints));
        Self { store, other: Arc::new(cluster.store()), proxies, cluster }
    }
}

#[async_trait::async_trait]
impl Subject for InEtcd {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }
    fn other(&self) -> Arc<dyn Store> {
        self.other.clone()
    }
    async fn cut(&self) {
        self.proxies.iter().for_each(|proxy| proxy.set(Mode::Cut));
    }
    async fn heal(&self) {
        self.proxies.iter().for_each(|proxy| proxy.set(Mode::Forward));
    }
    async fn compact(&self) {
        self.cluster.compact().await;
    }
}

async fn keeps_all_promises(subject: &dyn Subject) {
    tokio::join!(
        promises::a_key_is_created_once_changed_by_who_read_it_and_deleted(subject),
        promises::a_transaction_happens_as_a_whole(subject),
        promises::a_listing_shows_one_prefix_at_one_revision(subject),
        promises::a_large_listing_is_whole(subject),
        promises::a_watch_tells_every_change_once_and_in_order(subject),
        promises::what_a_lease_holds_goes_with_it(subject),
        promises::a_lease_lives_while_it_is_renewed(subject),
        promises::one_host_leads(subject),
        promises::what_is_too_large_is_refused(subject),
        async {
            promises::a_write_keeps_what_a_newer_build_wrote(subject).await;
            promises::a_damaged_record_is_skipped_and_left(subject).await;
        },
    );
    // These cut the link, and come last.
    promises::a_watch_resumes_after_a_cut(subject).await;
    promises::a_watch_lists_anew_when_its_past_is_forgotten(subject).await;
    promises::a_cut_store_fails_soon_and_recovers(subject).await;
}

#[tokio::test(start_paused = true)]
async fn the_store_in_memory_keeps_the_contract() {
    keeps_all_promises(&InMemory::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_in_etcd_keeps_the_contract() {
    keeps_all_promises(&InEtcd::new().await).await;
}

/// What no word came of, or comes of, is unknown; with the answers lost it was done, with the requests it
/// was not.
#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_unknown() {
    promises::an_unknown_outcome_is_either(&MemoryStore::new()).await;
}

/// How long no write may succeed around the loss of one member: an election (1 to 2 s), and for a frozen
/// member the time until it is given up, on a machine that has other things to do.
const GAP_MAX: Duration = Duration::from_secs(8);

/// How long a request may take when the store has no quorum.
const REFUSAL_MAX: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_members_is_survived_or_said() {
    let mut cluster = TestCluster::start(3).await;
    let store = Arc::new(cluster.store());
    let writer = Writer::start(store.clone(), "/kennel/loss/").await;

    // One member, the leading one: writes go on.
    let leader = cluster.leader().await;
    cluster.kill(leader).await;
    let gap = writer.goes_on().await;
    eprintln!("killed the leading member: longest time without a write {gap:?}");
    assert!(gap < GAP_MAX, "no write for {gap:?} after a kill");
    cluster.restart(leader).await;

    // A frozen one says nothing at all.
    let leader = cluster.leader().await;
    cluster.freeze(leader);
    let gap = writer.goes_on().await;
    eprintln!("froze the leading member: longest time without a write {gap:?}");
    assert!(gap < GAP_MAX, "no write for {gap:?} after a freeze");
    cluster.thaw(leader);
    cluster.wait_until_all_serve().await;

    // Two members: no quorum, and every call says so soon.
    let lease = store.grant(Duration::from_secs(60)).await.expect("a lease");
    cluster.kill(0).await;
    cluster.kill(1).await;
    promises::everything_fails_within(&*store, lease, REFUSAL_MAX).await;
    writer.hears_of_the_loss().await;

    // They come back: all heals, and nothing that was acknowledged is missing from the watch.
    cluster.restart(0).await;
    cluster.restart(1).await;
    cluster.wait_until_all_serve().await;
    writer.goes_on().await;
    store.keep_alive(lease).await.expect("the lease outlived the loss");
    writer.finish().await;
}
