//! Pools that hosts share, guests in them, and the word that a host is dead.

use api::{CreateDisk, CreateGuest, CreatePool};
use model::{Bytes, EventKind, GuestName, Pool, PoolOnHost, PoolStorage};

use store::keys;

use super::fixture::{TestCluster, guest, host_name, refusal};

fn shared(name: &str, path: &str) -> CreatePool {
    CreatePool { name: name.parse().unwrap(), storage: PoolStorage::Shared { path: path.to_owned() } }
}

fn inside(name: &str, pool: &str) -> CreateGuest {
    let disk = CreateDisk { size: Some(Bytes::gib(1)), pool: Some(pool.parse().unwrap()), thin: false };
    CreateGuest { disks: vec![disk], ..CreateGuest::new(guest(name)) }
}

/// As the hosts with these numbers say that they reach it; the others do not.
async fn reached_by(cluster: &TestCluster, pool: &str, hosts: &[usize]) {
    let view = cluster.state.view();
    let id = view.pools[&pool.parse().unwrap()].id;
    for index in 0..view.hosts.len() {
        let mut report = view.host_reports[&host_name(index)].clone();
        let problem = (!hosts.contains(&index)).then(|| "it is not mounted".to_owned());
        report.pools.insert(pool.parse().unwrap(), PoolOnHost { id, size: Bytes::gib(100), problem });
        cluster
            .write(|txn| {
                txn.put(&report);
            })
            .await;
    }
}

#[tokio::test]
async fn a_pool_comes_is_used_and_goes() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.client();
    for (request, why) in [
        (shared("nfs1", "srv/shared"), "is not the whole path of a folder"),
        (shared("nfs1", "/srv/../etc"), "is not the whole path of a folder"),
        (shared("mirror", "/srv/shared"), "is the name of a kind of pool"),
    ] {
        let problem = refusal(client.create_pool(&request).await);
        assert!(problem.why.contains(why), "{problem}");
    }
    let refused = refusal(client.create_guest(&inside("web1", "nfs1")).await);
    assert!(refused.why.contains("there is no pool 'nfs1'"), "{refused}");
    client.create_pool(&shared("nfs1", "/srv/shared")).await.unwrap();
    for (request, why) in [
        (shared("nfs1", "/srv/other"), "a pool of that name exists"),
        (shared("nfs2", "/srv/shared"), "/srv/shared is the pool 'nfs1'"),
    ] {
        let problem = refusal(client.create_pool(&request).await);
        assert!(problem.why.contains(why), "{problem}");
    }
    let refused = refusal(client.create_guest(&inside("web1", "nfs1")).await);
    assert!(refused.why.contains("no host reaches the pool 'nfs1'"), "{refused}");
    reached_by(&cluster, "nfs1", &[1]).await;
    let elsewhere = CreateGuest { host: Some(host_name(0)), ..inside("web1", "nfs1") };
    let refused = refusal(client.create_guest(&elsewhere).await);
    assert!(refused.why.contains("host1: it does not reach the pool 'nfs1': it is not mounted"), "{refused}");
    // Nobody could take it over from the one host that does.
    client.create_guest(&CreateGuest { force: true, ..inside("web1", "nfs1") }).await.unwrap();
    let spec = cluster.state.view().guests[&guest("web1")].clone();
    assert!(spec.is_shared() && !spec.is_local());
    let name = "nfs1".parse().unwrap();
    let view = client.pool(&name).await.unwrap();
    assert_eq!((view.kind, view.volumes, view.size_of_volumes), (Pool::Shared, 1, Bytes::gib(1)));
    let reaches: Vec<bool> = view.hosts.iter().map(|host| host.reaches).collect();
    assert_eq!(reaches, [false, true]);
    assert_eq!(
        view.hosts[0].problem.as_deref(),
        Some("it does not reach the pool 'nfs1': it is not mounted")
    );
    let problem = refusal(client.delete_pool(&name).await);
    assert_eq!(problem.why, "guests have volumes in it: web1");
    cluster.delete(&keys::guest(&guest("web1"))).await;
    client.delete_pool(&name).await.unwrap();
    let kinds: Vec<String> = client.pools().await.unwrap().iter().map(|pool| pool.name.to_string()).collect();
    assert_eq!(kinds, ["local", "mirror"]);
    assert!(refusal(client.delete_pool(&"mirror".parse().unwrap()).await).why.contains("own disks"));
}

#[tokio::test]
async fn only_a_lost_host_is_called_dead_and_it_is_written_down_who_said_so() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.client_of(0);
    let problem = refusal(client.confirm_dead(&host_name(1)).await);
    assert!(problem.why.contains("its session is live"), "{problem}");
    assert!(refusal(client.confirm_dead(&"host9".parse().unwrap()).await).why.contains("there is no host"));
    cluster.lose_host(1).await;
    let said = client.confirm_dead(&host_name(1)).await.unwrap();
    assert_eq!((&said.word.host, said.guests), (&host_name(1), Vec::<GuestName>::new()));
    // Once more says the same, and is told once.
    assert_eq!(client.confirm_dead(&host_name(1)).await.unwrap().word, said.word);
    let view = cluster.state.view();
    let told: Vec<_> =
        view.events.values().filter(|event| event.kind == EventKind::HostConfirmedDead).collect();
    assert_eq!(told.len(), 1);
    assert!(
        told[0].message.starts_with(&format!("{} confirmed that host2 is dead", said.word.by)),
        "{told:?}"
    );
}
