//! Leaders that come and go, and a webhook that hears of incidents.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{AlertWay, Cluster, Incident, IncidentId, IncidentKind, Settings, Weight};
use serde_json::Value;
use store::{Fault, Leader, LeaseId, MemoryStore};
use tokio::task::JoinHandle;

use super::*;
use crate::alerts::tests::Server;

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    store: Arc<MemoryStore>,
    state: State,
}

/// A leader, with the alerter that runs on it.
struct Leading {
    link: Arc<MemoryStore>,
    task: JoinHandle<()>,
    _leads: watch::Sender<Option<i64>>,
}

impl Leading {
    /// It dies.
    async fn end(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

impl World {
    async fn new() -> World {
        let store = Arc::new(MemoryStore::new());
        let state = State::start(store.clone());
        state.until(store::Cache::is_ready).await;
        let world = World { store, state };
        let cluster = Cluster {
            name: "home".to_owned(),
            id: Uuid::nil(),
            created_at: Timestamp::UNIX_EPOCH,
            ca_certificate: String::new(),
            settings: Settings::default(),
        };
        world
            .write(|txn| {
                txn.create(&cluster);
            })
            .await;
        world
    }

    async fn write(&self, build: impl FnOnce(&mut store::TxnBuilder<'_>)) {
        let outcome = self.state.write(build).await.unwrap();
        assert!(matches!(outcome, Outcome::Committed { .. }));
    }

    async fn target(&self, port: u16) {
        let target = AlertTarget {
            name: "pager".parse().unwrap(),
            id: Uuid::new_v4(),
            way: AlertWay::Webhook { url: format!("http://127.0.0.1:{port}/") },
            from: Weight::Warning,
            ca: None,
            has_secret: false,
            created_at: Timestamp::UNIX_EPOCH,
        };
        self.write(|txn| {
            txn.put(&target);
        })
        .await;
    }

    async fn incident(&self, id: u64, ended: bool) {
        let now = Timestamp::now();
        let incident = Incident {
            id: IncidentId(id),
            kind: IncidentKind::HostLost,
            subject: format!("host/host{id}"),
            began_at: now,
            opened_at: now,
            well_since: None,
            ended_at: ended.then_some(now),
            weight: Weight::Warning,
            peak: Weight::Warning,
            proven_at: None,
            open_because: Vec::new(),
            guests: BTreeMap::new(),
            more_guests: false,
            entries: Vec::new(),
            more_entries: false,
        };
        self.write(|txn| {
            txn.put(&incident);
        })
        .await;
    }

    /// This host leads from now on, over a link of its own.
    async fn leader(&self, n: i64) -> Leading {
        let link = Arc::new(self.store.another_link());
        let state = State::start(link.clone());
        let me: HostName = format!("host{n}").parse().unwrap();
        self.write(|txn| {
            txn.put(&Leader::new(me.clone(), LeaseId(n)));
        })
        .await;
        let since = self.state.read().revision_of(keys::LEADER);
        state.until(|cache| cache.revision_of(keys::LEADER) == since).await;
        let (leads, receiver) = watch::channel(Some(since));
        let task = tokio::spawn(Alerter::new(me, state, receiver).run());
        Leading { link, task, _leads: leads }
    }

    async fn until(&self, what: &str, holds: impl Fn(&AlertState) -> bool) {
        let pager: AlertName = "pager".parse().unwrap();
        let reached = self.state.until(|cache| cache.view().alert_states.get(&pager).is_some_and(&holds));
        tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{what}"));
    }

    fn told(&self) -> Vec<String> {
        let view = self.state.view();
        let told = view.events.values().filter(|event| event.kind == EventKind::AlertsFailing);
        told.map(|event| event.message.clone()).collect()
    }
}

fn said(got: &Value) -> (&str, u64) {
    let notice = &got["notice"];
    (notice["kind"].as_str().unwrap(), notice["incidents"][0]["id"].as_u64().unwrap())
}

#[tokio::test]
async fn each_notice_is_sent_once_whoever_leads() {
    let world = World::new().await;
    let mut server = Server::start("webhook.py", &["k"]).await;
    world.target(server.port).await;
    let first = world.leader(1).await;
    world.incident(1, false).await;
    assert_eq!(said(&server.got().await), ("opened", 1));
    world.until("it is recorded", |state| state.told.contains_key(&IncidentId(1))).await;
    first.end().await;

    world.incident(2, false).await;
    let second = world.leader(2).await;
    assert_eq!(said(&server.got().await), ("opened", 2), "and not the first one again");
    world.incident(1, true).await;
    assert_eq!(said(&server.got().await), ("ended", 1));
    world.until("it is recorded", |state| state.told[&IncidentId(1)].ended).await;
    second.end().await;
}

#[tokio::test]
async fn what_was_sent_and_not_recorded_is_sent_again_under_the_same_id() {
    let world = World::new().await;
    let mut server = Server::start("webhook.py", &["k"]).await;
    world.target(server.port).await;
    let first = world.leader(1).await;
    // It hears of the incident, and what it writes is lost.
    first.link.set_fault(Fault::RequestsLost);
    world.incident(1, false).await;
    let one = server.got().await;
    first.end().await;
    let _second = world.leader(2).await;
    let other = server.got().await;
    assert_eq!((said(&one), said(&other)), (("opened", 1), ("opened", 1)));
    assert_eq!(one["notice"]["id"], other["notice"]["id"]);
}

#[tokio::test]
async fn a_target_that_fails_is_tried_again_and_told_of_once() {
    let world = World::new().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    world.target(free).await;
    let _leader = world.leader(1).await;
    world.incident(1, false).await;
    world.until("it is said", |state| state.problem.is_some() && state.failing_since.is_some()).await;
    assert_eq!(
        world.told(),
        ["an alert to 'pager' did not arrive: nothing listens there: 127.0.0.1 refused the connection"]
    );
    let mut server = Server::start("webhook.py", &["k"]).await;
    // The same target, with another URL: what was told and what fails is remembered by its id.
    let mut target = world.state.view().alerts.values().next().unwrap().clone();
    target.way = AlertWay::Webhook { url: format!("http://127.0.0.1:{}/", server.port) };
    world
        .write(|txn| {
            txn.put(&target);
        })
        .await;
    assert_eq!(said(&server.got().await), ("opened", 1));
    world.until("it is well", |state| state.problem.is_none() && !state.told.is_empty()).await;
    assert_eq!(world.told()[1..], ["alerts to 'pager' arrive again"]);
}

#[tokio::test]
async fn a_flood_ends_in_one_notice_that_sums_up() {
    let world = World::new().await;
    let mut server = Server::start("webhook.py", &["k"]).await;
    world.target(server.port).await;
    for id in 1..=30 {
        world.incident(id, false).await;
    }
    let _leader = world.leader(1).await;
    for id in 1..=PER_MINUTE {
        assert_eq!(said(&server.got().await), ("opened", id as u64));
    }
    let sum = server.got().await;
    assert_eq!(sum["notice"]["kind"], "several");
    assert_eq!(sum["notice"]["incidents"].as_array().unwrap().len(), 30 - PER_MINUTE);
    world.until("all are recorded", |state| state.told.len() == 30).await;
}

#[test]
fn pauses_grow_and_a_full_minute_is_waited_for() {
    let now = Instant::now();
    let mut line = Line::default();
    line.settle(false, now);
    assert_eq!(line.wait(now), Some(RETRY_FIRST));
    for _ in 0..20 {
        line.settle(false, now);
    }
    assert_eq!(line.wait(now), Some(RETRY_MAX));
    for _ in 0..=PER_MINUTE {
        line.settle(true, now);
    }
    assert_eq!(line.wait(now), Some(MINUTE));
    assert_eq!(line.wait(now + MINUTE), None);
}
