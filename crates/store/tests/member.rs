//! The life of this host's etcd: started, adopted, started again, stopped.

mod support;

use nix::sys::signal::Signal;
use store::{
    EtcdStore, JoinTicket, MemberStart, MemberStatus, Outcome, Store, StoreMember, TlsPem, Txn, Write,
};
use support::cluster::{is_gone, make_pki, member_config, pid_of, send};
use support::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_outlives_its_supervisor_and_comes_back_when_it_dies() {
    let dir = tempfile::tempdir().expect("a directory");
    let pki = make_pki(dir.path());
    let mut config = member_config(dir.path(), "host1", pki.clone(), MemberStart::New);
    let tls = TlsPem::read(&pki).expect("read the certificates");
    let store = EtcdStore::connect(vec![config.client_url.clone()], Some(tls)).expect("a store");
    let serves = || async { store.list("/").await.is_ok() };

    let member = StoreMember::start(config.clone()).await.expect("start");
    let first = pid_of(&member).expect("it runs");
    eventually("the member serves", serves).await;
    let write = Write::Put { key: "/kennel/kept".to_owned(), value: b"{}".to_vec(), lease: None };
    let outcome = store.commit(Txn { compares: vec![], writes: vec![write] }).await;
    assert!(matches!(outcome, Ok(Outcome::Committed { .. })));

    // kenneld starts anew: the process is found, not started twice. What it would begin as is ignored.
    drop(member);
    config.start = MemberStart::Join(JoinTicket { id: 1, initial_cluster: Vec::new() });
    let member = StoreMember::start(config.clone()).await.expect("adopt");
    assert_eq!(member.status(), MemberStatus::Running { pid: first, adopted: true });

    // It dies: it is started again, as the member that it was.
    send(first, Signal::SIGKILL);
    let runs_again = || async { pid_of(&member).is_some_and(|pid| pid != first) };
    eventually("it runs again", runs_again).await;
    eventually("the member serves again", serves).await;
    assert_eq!(store.list("/kennel/kept").await.expect("a listing").entries.len(), 1);
    let health = store.health().await;
    let (_, health) = health.first().expect("one endpoint");
    let health = health.as_ref().expect("it is well");
    assert!(health.leader == Some(health.id) && !health.learner && health.problems.is_empty());

    // Stopped on purpose it stays down, and can be started again.
    let pid = pid_of(&member).expect("it runs");
    member.stop().await;
    assert!(member.status() == MemberStatus::Stopped && is_gone(pid));
    let member = StoreMember::start(config).await.expect("start again");
    eventually("the member serves after a stop", serves).await;
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_cannot_run_says_why() {
    let dir = tempfile::tempdir().expect("a directory");
    let pki = make_pki(dir.path());
    std::fs::write(&pki.cert, "no certificate").expect("damage the certificate");
    let config = member_config(dir.path(), "host1", pki, MemberStart::New);
    let member = StoreMember::start(config).await.expect("start");
    let mut changes = member.status_changes();
    let is_down = |status: &MemberStatus| matches!(status, MemberStatus::Down { restarts: 2, .. });
    let waiting = async { changes.wait_for(is_down).await.expect("a status").clone() };
    let status = tokio::time::timeout(support::LIMIT, waiting).await.expect("in time");
    let MemberStatus::Down { why, .. } = status else { panic!("{status:?}") };
    assert!(why.contains("etcd.log") && why.contains("certificate"), "{why}");
    member.stop().await;
}
