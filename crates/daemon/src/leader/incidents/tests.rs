//! Leaders that come and go while a host is lost.

use model::{BootId, ClusterView, Session};
use store::{Leader, LeaseId};
use tokio::task::JoinHandle;

use super::*;
use crate::http::Backend;
use crate::http::tests::fixture::{PATIENCE, TestCluster, host_name};

/// A leader, with what keeps its incidents.
struct Leading {
    task: JoinHandle<()>,
    _leads: watch::Sender<Option<i64>>,
}

/// This host leads from now on.
async fn lead(cluster: &TestCluster, index: usize) -> Leading {
    let me = host_name(index);
    cluster
        .write(|txn| {
            txn.put(&Leader::new(me.clone(), LeaseId(1)));
        })
        .await;
    let since = cluster.state.read().revision_of(keys::LEADER);
    let backend = cluster.hosts[index].backend.clone();
    let events = Events::new(backend.state().clone(), me);
    let (leads, receiver) = watch::channel(Some(since));
    let task = tokio::spawn(Incidents::new(backend, events, receiver).run());
    Leading { task, _leads: leads }
}

async fn until(cluster: &TestCluster, what: &str, holds: impl Fn(&ClusterView) -> bool) {
    let reached = cluster.state.until(|cache| holds(cache.view()));
    tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{what}"));
}

fn only(view: &ClusterView) -> Option<&Incident> {
    assert!(view.incidents.len() <= 1, "{:?}", view.incidents);
    view.incidents.values().next()
}

#[tokio::test]
async fn an_incident_is_opened_once_and_ended_once_whoever_leads() {
    let cluster = TestCluster::start(3).await;
    let first = lead(&cluster, 0).await;
    let lost = keys::session(&host_name(2));
    cluster.delete(&lost).await;
    until(&cluster, "it is opened", |view| only(view).is_some_and(Incident::is_open)).await;
    first.task.abort();
    let _ = first.task.await;

    let _second = lead(&cluster, 1).await;
    let session =
        Session { host: host_name(2), boot_id: BootId(uuid::Uuid::new_v4()), started_at: Timestamp::now() };
    cluster
        .write(|txn| {
            txn.put(&session);
        })
        .await;
    until(&cluster, "it is ended", |view| only(view).is_some_and(|incident| !incident.is_open())).await;
    assert_eq!(only(&cluster.state.view()).unwrap().headline(), "host3 was lost");
}
