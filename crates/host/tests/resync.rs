//! Replicas that were away and get what changed, on a real QEMU with a guest that never stops writing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Bench, check_records, signal, wait_until, wait_until_ready, writer};
use host::replica::{ReplicaConfig, StorageDaemon};
use host::{
    Fill, HostError, Hypervisor, Machine, MigrationPhase, MigrationSettings, MirrorState, ReplicaServer,
    RunState,
};
use model::ReplicaFile;

const SERVER: &str = "qemu-storage-daemon";

/// Where the guest never writes. What stands there only in one replica shows that it was not copied.
const UNTOUCHED: u64 = 6 << 20;

/// What one bit of a record stands for.
const CLUSTER: u64 = 64 << 10;

/// A guest in sync with its secondary, whose changes are recorded.
async fn tracked_guest(bench: &Bench, replicas: &StorageDaemon) -> Arc<dyn Machine> {
    replicas.serve(bench.volume, &bench.export(1), bench.path("secondary.raw")).await.unwrap();
    let machine = bench.writing_guest().await;
    let early = machine.track(bench.volume, &bench.replica_file("host2", "secondary.raw")).await.unwrap_err();
    assert!(matches!(early, HostError::Conflict(_)), "there is no secondary yet: {early}");
    assert_eq!(machine.tracked(bench.volume).await.unwrap(), None);
    attach(bench, &machine, 1, Fill::Everything).await.unwrap();
    wait_until_ready(&machine, bench.volume).await;
    machine.track(bench.volume, &bench.replica_file("host2", "secondary.raw")).await.unwrap();
    machine
}

async fn attach(bench: &Bench, machine: &Arc<dyn Machine>, epoch: u64, fill: Fill) -> Result<(), HostError> {
    machine.attach_mirror(bench.volume, bench.replica_address(), &bench.export(epoch), fill).await
}

async fn changed(bench: &Bench, machine: &Arc<dyn Machine>) -> u64 {
    machine.tracked(bench.volume).await.unwrap().unwrap().changed
}

/// The secondary is gone, the guest goes on alone, and writes.
async fn lose_secondary(bench: &Bench, machine: &Arc<dyn Machine>) {
    bench.kill_9(SERVER);
    bench.held().await;
    machine.let_go(bench.volume).await.unwrap();
    bench.writes_on().await;
}

/// How many sectors differ.
fn unlike(bench: &Bench) -> usize {
    let (ours, theirs) = (bench.disk("primary.raw"), bench.disk("secondary.raw"));
    ours.chunks(512).zip(theirs.chunks(512)).filter(|(ours, theirs)| ours != theirs).count()
}

/// Ends everything, and sees that both replicas are the same but for the one write that was under way.
async fn check_same(bench: &Bench, machine: &Arc<dyn Machine>, replicas: &StorageDaemon) {
    bench.writes_on().await;
    machine.kill().await.unwrap();
    replicas.withdraw(bench.volume).await.unwrap();
    let unlike = unlike(bench);
    assert!(unlike <= 1, "{unlike} sectors differ");
    check_records(&bench.disk("secondary.raw"), bench.acknowledged(), "the secondary");
    assert!(!bench.write_failed(), "the guest was told that a write failed");
}

/// Bytes that the storage daemon was sent and the like.
fn bytes_written(bench: &Bench) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{}/io", bench.pids(SERVER)[0])).unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
    line.parse().unwrap()
}

#[tokio::test]
async fn only_what_changed_is_sent() {
    let bench = Bench::new();
    let replicas = bench.replicas(None);
    let machine = tracked_guest(&bench, &replicas).await;
    lose_secondary(&bench, &machine).await;
    let marked = std::fs::File::options().write(true).open(bench.path("secondary.raw")).unwrap();
    marked.write_all_at(&[0x5a; 4096], UNTOUCHED).unwrap();

    replicas.serve(bench.volume, &bench.export(2), bench.path("secondary.raw")).await.unwrap();
    let before = bytes_written(&bench);
    let to_send = changed(&bench, &machine).await;
    attach(&bench, &machine, 2, Fill::Changed).await.unwrap();
    attach(&bench, &machine, 2, Fill::Changed).await.unwrap();
    wait_until_ready(&machine, bench.volume).await;
    let sent = bytes_written(&bench) - before;
    println!("{to_send} bytes had changed, {sent} were written on the secondary");
    assert!((CLUSTER..=2 << 20).contains(&to_send), "{to_send}");
    assert!(sent >= to_send && sent < to_send + (2 << 20), "{sent} instead of {to_send}");
    assert_eq!(bench.disk("secondary.raw")[usize::try_from(UNTOUCHED).unwrap()], 0x5a, "all was copied");
    marked.write_all_at(&[0; 4096], UNTOUCHED).unwrap();
    check_same(&bench, &machine, &replicas).await;
}

#[tokio::test]
async fn a_record_is_renewed_while_in_sync() {
    let bench = Bench::new();
    let replicas = bench.replicas(None);
    let machine = tracked_guest(&bench, &replicas).await;
    wait_until("a good deal was written", || bench.acknowledged() > 1000).await;
    let before = changed(&bench, &machine).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while !machine.settle_changes(bench.volume).await.unwrap() {
        assert!(Instant::now() < deadline, "there is no moment without lag");
    }
    let after = changed(&bench, &machine).await;
    println!("the record held {before} bytes, and {after} when it was renewed");
    assert!(after < before);
    // Saying it again changes nothing; another host's replica is another matter.
    machine.track(bench.volume, &bench.replica_file("host2", "secondary.raw")).await.unwrap();
    machine.track(bench.volume, &bench.replica_file("host3", "secondary.raw")).await.unwrap();
    assert_eq!(
        machine.tracked(bench.volume).await.unwrap().unwrap().replica,
        bench.replica_file("host3", "secondary.raw")
    );
    // The same file after its host has booted anew counts as another one, and so does another file.
    let booted = ReplicaFile {
        boot_id: model::BootId(bench.volume.0),
        ..bench.replica_file("host3", "secondary.raw")
    };
    let remade = ReplicaFile { file: "7-43".to_owned(), ..booted.clone() };
    for other in [booted, remade] {
        machine.track(bench.volume, &other).await.unwrap();
        assert_eq!(machine.tracked(bench.volume).await.unwrap().unwrap().replica, other);
    }
    lose_secondary(&bench, &machine).await;
    assert!(!machine.settle_changes(bench.volume).await.unwrap(), "there is no secondary now");
    machine.untrack(bench.volume).await.unwrap();
    assert_eq!(machine.tracked(bench.volume).await.unwrap(), None);
    replicas.serve(bench.volume, &bench.export(2), bench.path("secondary.raw")).await.unwrap();
    let refused = attach(&bench, &machine, 2, Fill::Changed).await.unwrap_err();
    assert!(matches!(refused, HostError::NotFound(_)), "{refused}");
    assert_eq!(machine.mirror(bench.volume).await.unwrap(), MirrorState::Absent);
}

#[tokio::test]
async fn a_secondary_that_comes_and_goes_is_the_same_each_time() {
    let bench = Bench::new();
    let replicas = bench.replicas(None);
    let machine = tracked_guest(&bench, &replicas).await;
    for cycle in 2..10 {
        if cycle % 2 == 0 {
            bench.kill_9(SERVER);
        } else {
            signal(bench.pids(SERVER)[0], "-STOP");
        }
        bench.held().await;
        let unlike = unlike(&bench);
        assert!(unlike <= 1, "before cycle {cycle} {unlike} sectors differ");
        machine.let_go(bench.volume).await.unwrap();
        let last = bench.acknowledged();
        wait_until("the guest has written alone", || bench.acknowledged() > last + 100 * cycle).await;
        if cycle % 2 != 0 {
            signal(bench.pids(SERVER)[0], "-CONT");
        }
        let export = bench.export(cycle.into());
        replicas.serve(bench.volume, &export, bench.path("secondary.raw")).await.unwrap();
        attach(&bench, &machine, cycle.into(), Fill::Changed).await.unwrap();
        wait_until_ready(&machine, bench.volume).await;
        if cycle % 3 == 0 {
            machine.settle_changes(bench.volume).await.unwrap();
        }
    }
    check_same(&bench, &machine, &replicas).await;
}

/// A resync that is under way and takes long.
async fn slow_resync(bench: &Bench, machine: &Arc<dyn Machine>, replicas: &StorageDaemon) {
    wait_until("a good deal was written", || bench.acknowledged() > 1000).await;
    lose_secondary(bench, machine).await;
    replicas.serve(bench.volume, &bench.export(2), bench.path("secondary.raw")).await.unwrap();
    machine.limit_fill(bench.volume, 4096).await.unwrap();
    attach(bench, machine, 2, Fill::Changed).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !matches!(machine.mirror(bench.volume).await.unwrap(), MirrorState::Filling { done: 1.., .. }) {
        assert!(Instant::now() < deadline, "{:?}", machine.mirror(bench.volume).await);
    }
    bench.writes_on().await;
}

#[tokio::test]
async fn a_file_that_was_made_anew_does_not_get_what_changed_only() {
    let bench = Bench::new();
    let replicas = bench.replicas(None);
    let machine = tracked_guest(&bench, &replicas).await;
    lose_secondary(&bench, &machine).await;
    std::fs::copy(bench.path("secondary.raw"), bench.path("copy.raw")).unwrap();
    std::fs::rename(bench.path("copy.raw"), bench.path("secondary.raw")).unwrap();
    replicas.serve(bench.volume, &bench.export(2), bench.path("secondary.raw")).await.unwrap();
    attach(&bench, &machine, 2, Fill::Changed).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let why = loop {
        match machine.mirror(bench.volume).await.unwrap() {
            MirrorState::Broken(why) => break why,
            state @ (MirrorState::Absent | MirrorState::Filling { .. } | MirrorState::Ready) => {
                assert!(Instant::now() < deadline, "{state:?}");
            }
        }
    };
    assert!(why.contains("not about the file that is served"), "{why}");
    machine.let_go(bench.volume).await.unwrap();
    bench.writes_on().await;
}

async fn resync_again(bench: &Bench, machine: &Arc<dyn Machine>, replicas: &StorageDaemon) {
    replicas.serve(bench.volume, &bench.export(3), bench.path("secondary.raw")).await.unwrap();
    machine.limit_fill(bench.volume, 0).await.unwrap();
    attach(bench, machine, 3, Fill::Changed).await.unwrap();
    wait_until_ready(machine, bench.volume).await;
    check_same(bench, machine, replicas).await;
}

#[tokio::test]
async fn a_secondary_that_dies_while_it_is_filled_does_not_hurt_the_guest() {
    for frozen in [false, true] {
        let bench = Bench::new();
        let replicas = bench.replicas(None);
        let machine = tracked_guest(&bench, &replicas).await;
        slow_resync(&bench, &machine, &replicas).await;
        let server = bench.pids(SERVER)[0];
        signal(server, if frozen { "-STOP" } else { "-KILL" });
        bench.held().await;
        machine.let_go(bench.volume).await.unwrap();
        bench.writes_on().await;
        assert_eq!(machine.mirror(bench.volume).await.unwrap(), MirrorState::Absent);
        if frozen {
            signal(server, "-CONT");
        }
        resync_again(&bench, &machine, &replicas).await;
    }
}

#[tokio::test]
async fn a_resync_whose_daemon_dies_is_begun_anew_by_the_next() {
    let bench = Bench::new();
    let replicas = bench.replicas(None);
    let machine = tracked_guest(&bench, &replicas).await;
    slow_resync(&bench, &machine, &replicas).await;
    drop(machine);
    let machine = bench.driver(None).adopt().await.unwrap().remove(0);
    let state = machine.mirror(bench.volume).await.unwrap();
    assert!(matches!(state, MirrorState::Broken(_)), "{state:?}");
    bench.writes_on().await;
    machine.let_go(bench.volume).await.unwrap();
    bench.writes_on().await;
    resync_again(&bench, &machine, &replicas).await;
}

#[tokio::test]
async fn after_a_move_the_old_primary_gets_what_it_lacks() {
    let bench = Bench::new();
    let replicas = bench.replicas(None);
    let source = tracked_guest(&bench, &replicas).await;
    let there = bench.driver_there();
    let machine_type = source.machine_type().await.unwrap();
    let target = there.launch_incoming(&bench.config("secondary.raw"), &machine_type).await.unwrap();
    let settings = MigrationSettings::default();
    let address = target.listen("127.0.0.1:0".parse().unwrap(), &settings).await.unwrap();
    source.migrate(address, &settings).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while source.migration().await.unwrap().phase != MigrationPhase::PreSwitchover {
        assert!(Instant::now() < deadline);
    }
    source.hand_over().await.unwrap();
    replicas.withdraw(bench.volume).await.unwrap();
    while target.run_state().await.unwrap() != RunState::Arrived {
        assert!(Instant::now() < deadline);
    }
    target.track(bench.volume, &bench.replica_file("host1", "primary.raw")).await.unwrap();
    target.resume().await.unwrap();
    let last = bench.acknowledged();
    wait_until("the guest writes there", || bench.acknowledged_there() > last + 200).await;
    source.kill().await.unwrap();

    // The old primary's host serves its replica to the new one.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen: SocketAddr = free.local_addr().unwrap();
    drop(free);
    let old = StorageDaemon::new(ReplicaConfig::new(bench.path("old"), listen));
    let export = bench.export(2);
    old.serve(bench.volume, &export, bench.path("primary.raw")).await.unwrap();
    target.attach_mirror(bench.volume, listen, &export, Fill::Changed).await.unwrap();
    wait_until_ready(&target, bench.volume).await;
    let last = bench.acknowledged_there();
    wait_until("the guest writes to both", || bench.acknowledged_there() > last + 20).await;
    target.kill().await.unwrap();
    old.withdraw(bench.volume).await.unwrap();
    assert!(unlike(&bench) <= 1, "{} sectors differ", unlike(&bench));
    check_records(&bench.disk("primary.raw"), bench.acknowledged_there(), "the old primary");
    assert!(writer::record(&bench.disk("primary.raw"), bench.acknowledged_there()) > last);
}
