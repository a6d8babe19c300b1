//! What hosts measured, asked of any host.

use api::ProblemKind;
use jiff::Timestamp;
use model::{HostName, HostUsage, Usage};

use super::fixture::{TestCluster, host_name, refusal};
use crate::http::Backend;
use crate::usage::Usages;

fn usage(host: &HostName, cpu: f64) -> HostUsage {
    HostUsage {
        host: host.clone(),
        at: Timestamp::now(),
        window_s: 300,
        measured_s: 600,
        total: Usage { cpu, ..Usage::default() },
        guests: std::collections::BTreeMap::new(),
    }
}

fn measures(cluster: &TestCluster, index: usize, cpu: f64) -> HostUsage {
    let usage = usage(&host_name(index), cpu);
    cluster.hosts[index].backend.usage.lock().unwrap().replace(usage.clone());
    usage
}

#[tokio::test]
async fn any_host_tells_what_another_one_uses() {
    let cluster = TestCluster::start(3).await;
    let expected = measures(&cluster, 1, 1.5);
    for asked in [0, 1] {
        let found = cluster.client_of(asked).host_usage(&host_name(1)).await.unwrap();
        assert_eq!(found, expected, "asked of host {asked}");
    }
    let unmeasured = refusal(cluster.client_of(0).host_usage(&host_name(2)).await);
    assert_eq!(unmeasured.why, "it has just begun to measure");
    let unknown = refusal(cluster.client_of(0).host_usage(&host_name(7)).await);
    assert_eq!(unknown.kind, ProblemKind::NotFound);
    cluster.lose_host(1).await;
    let lost = refusal(cluster.client_of(0).host_usage(&host_name(1)).await);
    assert_eq!(lost.why, "it is lost");
}

#[tokio::test]
async fn all_hosts_are_asked_at_once_and_one_that_is_silent_is_missing() {
    let cluster = TestCluster::start(3).await;
    let (first, second) = (&cluster.hosts[0].backend, measures(&cluster, 1, 1.5));
    // Its session is there, and its daemon is not.
    cluster.hosts[2].end();
    let usages = Usages::new(host_name(0), first.state().clone(), first.peers().clone());
    let found = usages.fresh().await;
    assert_eq!(found.into_values().collect::<Vec<_>>(), std::slice::from_ref(&second));
    measures(&cluster, 1, 0.1);
    let again = usages.fresh().await;
    assert_eq!(again[&host_name(1)], second, "an answer is good for some seconds");
}
