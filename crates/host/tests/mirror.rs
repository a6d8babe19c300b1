//! The mirror pool on a real QEMU and a real storage daemon, with a guest that never stops writing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::time::{Duration, Instant};

use common::{Bench, check_records, wait_until, wait_until_ready, writer};
use host::replica::{ReplicaConfig, StorageDaemon};
use host::{Fill, HostError, Hypervisor, Machine, MirrorState, ReplicaServer, replica};

const SERVER: &str = "qemu-storage-daemon";

/// How long the guest may stand still after the mirror has been let go of; milliseconds, but for busy cores.
const STALL_LIMIT: Duration = Duration::from_secs(5);

async fn serve(bench: &Bench, replicas: &impl ReplicaServer, epoch: u64) {
    replicas.serve(bench.volume, &bench.export(epoch), bench.path("secondary.raw")).await.unwrap();
}

/// A guest whose disk is mirrored and in sync.
async fn mirrored_guest(bench: &Bench, replicas: &impl ReplicaServer) -> std::sync::Arc<dyn Machine> {
    serve(bench, replicas, 1).await;
    let machine = bench.writing_guest().await;
    let target = bench.replica_address();
    machine.attach_mirror(bench.volume, target, &bench.export(1), Fill::Everything).await.unwrap();
    wait_until_ready(&machine, bench.volume).await;
    machine
}

/// Ends the machine and the export, and sees that nothing acknowledged is missing on either side.
async fn check_replicas(bench: &Bench, machine: &dyn Machine, replicas: &impl ReplicaServer) {
    machine.kill().await.unwrap();
    replicas.withdraw(bench.volume).await.unwrap();
    let last = bench.acknowledged();
    for replica in ["primary.raw", "secondary.raw"] {
        check_records(&bench.disk(replica), last, replica);
    }
    assert!(!bench.write_failed(), "the guest was told that a write failed");
}

#[tokio::test]
async fn every_acknowledged_write_is_on_both_replicas() {
    let bench = Bench::new();
    let replicas = bench.replicas(None);
    let machine = mirrored_guest(&bench, &replicas).await;
    bench.writes_on().await;
    // Asking for what is there already changes nothing.
    let target = bench.replica_address();
    machine.attach_mirror(bench.volume, target, &bench.export(1), Fill::Everything).await.unwrap();
    assert_eq!(machine.mirror(bench.volume).await.unwrap(), MirrorState::Ready);
    let other = machine.attach_mirror(bench.volume, target, &bench.export(2), Fill::Nothing).await;
    assert!(matches!(other, Err(HostError::Conflict(_))), "{other:?}");
    bench.writes_on().await;
    check_replicas(&bench, &*machine, &replicas).await;
    let (primary, secondary) = (bench.disk("primary.raw"), bench.disk("secondary.raw"));
    let unlike = primary.chunks(512).zip(secondary.chunks(512)).filter(|(ours, theirs)| ours != theirs);
    let room = std::os::unix::fs::MetadataExt::blocks(&bench.path("secondary.raw").metadata().unwrap()) * 512;
    assert!(room >= writer::DISK as u64, "the fill punched holes into the secondary: {room} bytes are left");
    // The one write that was under way when QEMU was killed.
    assert!(unlike.count() <= 1);
}

#[tokio::test]
async fn a_dead_secondary_holds_the_guest_until_it_is_let_go_then_is_filled_again() {
    let bench = Bench::new();
    let replicas = bench.replicas(None);
    let machine = mirrored_guest(&bench, &replicas).await;
    bench.kill_9(SERVER);
    let held_at = bench.held().await;
    // While held it can be looked at; QEMU knows nothing of the hold.
    assert_eq!(machine.mirror(bench.volume).await.unwrap(), MirrorState::Ready);
    assert!(!replica::probe(bench.replica_address()).await);
    check_records(&bench.disk("secondary.raw"), held_at, "the secondary of a held guest");

    let started = Instant::now();
    machine.let_go(bench.volume).await.unwrap();
    println!("let go took {:?}", started.elapsed());
    wait_until("the guest writes again", || bench.acknowledged() > held_at).await;
    println!("first record {:?} after letting go began", started.elapsed());
    assert!(started.elapsed() < STALL_LIMIT, "{:?}", started.elapsed());
    machine.let_go(bench.volume).await.unwrap();
    assert_eq!(machine.mirror(bench.volume).await.unwrap(), MirrorState::Absent);
    bench.writes_on().await;

    serve(&bench, &replicas, 2).await;
    let target = bench.replica_address();
    machine.attach_mirror(bench.volume, target, &bench.export(2), Fill::Everything).await.unwrap();
    wait_until_ready(&machine, bench.volume).await;
    bench.writes_on().await;
    check_replicas(&bench, &*machine, &replicas).await;
}

#[tokio::test]
async fn a_frozen_secondary_holds_the_guest_and_can_be_let_go() {
    let bench = Bench::new();
    let replicas = bench.replicas(None);
    let machine = mirrored_guest(&bench, &replicas).await;
    // The connection stays, and nobody answers: what a cut looks like.
    let server = bench.pids(SERVER)[0];
    common::signal(server, "-STOP");
    let held_at = bench.held().await;
    let started = Instant::now();
    machine.let_go(bench.volume).await.unwrap();
    wait_until("the guest writes again", || bench.acknowledged() > held_at).await;
    assert!(started.elapsed() < STALL_LIMIT, "{:?}", started.elapsed());
    // Attaching to a server that does not answer fails, and the guest does not notice.
    let before = bench.acknowledged();
    let target = bench.replica_address();
    let refused = machine.attach_mirror(bench.volume, target, &bench.export(1), Fill::Everything).await;
    assert!(matches!(refused, Err(HostError::TimedOut(_))), "{refused:?}");
    assert!(bench.acknowledged() > before);
    assert_eq!(machine.mirror(bench.volume).await.unwrap(), MirrorState::Absent);
}

#[tokio::test]
async fn a_held_guest_goes_on_by_itself_when_its_export_is_served_again() {
    let bench = Bench::new();
    let replicas = bench.replicas(None);
    let machine = mirrored_guest(&bench, &replicas).await;
    bench.kill_9(SERVER);
    let held_at = bench.held().await;
    assert_eq!(replicas.exports().await.unwrap(), [], "a new server serves nothing");
    serve(&bench, &replicas, 1).await;
    wait_until("the guest writes again", || bench.acknowledged() > held_at).await;
    assert_eq!(machine.mirror(bench.volume).await.unwrap(), MirrorState::Ready);
    check_replicas(&bench, &*machine, &replicas).await;
}

#[tokio::test]
async fn a_withdrawn_replica_takes_no_more_writes_of_its_old_epoch() {
    let bench = Bench::new();
    let replicas = bench.replicas(None);
    let machine = mirrored_guest(&bench, &replicas).await;
    bench.writes_on().await;
    replicas.withdraw(bench.volume).await.unwrap();
    let promoted = bench.disk("secondary.raw");
    replicas.withdraw(bench.volume).await.unwrap();
    assert_eq!(replicas.exports().await.unwrap(), []);
    let held_at = bench.held().await;
    check_records(&promoted, held_at, "the promoted replica");
    assert!(writer::record(&promoted, held_at + 2) != held_at + 2);
    assert!(replica::probe(bench.replica_address()).await, "the server itself still answers");

    // The next epoch's export does not let the old primary in, and the old name stays refused.
    serve(&bench, &replicas, 2).await;
    assert_eq!(bench.held().await, held_at);
    assert!(bench.disk("secondary.raw") == promoted);
    machine.let_go(bench.volume).await.unwrap();
    let target = bench.replica_address();
    let stale = machine.attach_mirror(bench.volume, target, &bench.export(1), Fill::Everything).await;
    assert!(matches!(stale, Err(HostError::NotFound(_))), "{stale:?}");
    assert!(bench.disk("secondary.raw") == promoted);
}

#[tokio::test]
async fn a_mirror_outlives_the_daemons_of_both_hosts() {
    let bench = Bench::new();
    let replicas = bench.replicas(None);
    drop(mirrored_guest(&bench, &replicas).await);
    drop(replicas);
    bench.writes_on().await;

    let servers = bench.pids(SERVER);
    let replicas = bench.replicas(None);
    assert_eq!(replicas.exports().await.unwrap(), [(bench.volume, bench.export(1))]);
    serve(&bench, &replicas, 1).await;
    assert_eq!(bench.pids(SERVER), servers, "the running server is used");
    let machine = bench.driver(None).adopt().await.unwrap().remove(0);
    assert_eq!(machine.mirror(bench.volume).await.unwrap(), MirrorState::Ready);
    bench.writes_on().await;

    // A new daemon can let go of what an old one attached, also while the guest is held.
    bench.kill_9(SERVER);
    let held_at = bench.held().await;
    drop(machine);
    let machine = bench.driver(None).adopt().await.unwrap().remove(0);
    machine.let_go(bench.volume).await.unwrap();
    wait_until("the guest writes again", || bench.acknowledged() > held_at).await;
}

#[tokio::test]
async fn letting_go_that_was_begun_is_brought_to_its_end_by_the_next_daemon() {
    let bench = Bench::new();
    let replicas = bench.replicas(None);
    drop(mirrored_guest(&bench, &replicas).await);
    bench.kill_9(SERVER);
    bench.held().await;
    // What a daemon leaves that dies after its first steps.
    let short = &bench.volume.0.simple().to_string()[16..];
    let disk = format!("/machine/peripheral/disk-{short}/virtio-backend");
    let throttle = format!(
        r#"{{"execute":"block_set_io_throttle","arguments":{{"id":"{disk}","bps":0,"bps_rd":0,"bps_wr":1,"iops":0,"iops_rd":0,"iops_wr":0}}}}"#
    );
    bench.tell_qemu(&[&throttle]).await;

    let machine = bench.driver(None).adopt().await.unwrap().remove(0);
    assert_eq!(machine.mirror(bench.volume).await.unwrap(), MirrorState::Absent);
    bench.writes_on().await;
    bench.writes_on().await;
}

#[tokio::test]
async fn a_replica_of_another_size_is_refused() {
    let bench = Bench::new();
    let replicas = bench.replicas(None);
    std::fs::write(bench.path("secondary.raw"), vec![0; writer::DISK / 2]).unwrap();
    serve(&bench, &replicas, 1).await;
    let machine = bench.writing_guest().await;
    let target = bench.replica_address();
    let refused = machine.attach_mirror(bench.volume, target, &bench.export(1), Fill::Everything).await;
    let why = refused.unwrap_err().to_string();
    assert!(why.contains("the local replica has 8388608 bytes, the other one 4194304"), "{why}");
    assert_eq!(machine.mirror(bench.volume).await.unwrap(), MirrorState::Absent);
}

#[tokio::test]
async fn a_secondary_that_fails_a_write_is_remembered_when_the_machine_has_ended() {
    let bench = Bench::new();
    // A server that may write to the first half KiB of a file only.
    let binary = bench.path("poor-server");
    std::fs::write(&binary, "#!/bin/sh\ntrap '' XFSZ\nulimit -f 1\nexec qemu-storage-daemon \"$@\"\n")
        .unwrap();
    std::fs::set_permissions(&binary, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let config = ReplicaConfig::new(bench.path("run"), bench.replica_address());
    let replicas = StorageDaemon::new(ReplicaConfig { binary, ..config });
    serve(&bench, &replicas, 1).await;
    let machine = bench.writing_guest().await;
    let target = bench.replica_address();
    assert_eq!(machine.mirror_failed(bench.volume), None);
    machine.attach_mirror(bench.volume, target, &bench.export(1), Fill::Nothing).await.unwrap();
    // Nobody asks how the mirror is.
    wait_until("the failure is heard of", || machine.mirror_failed(bench.volume).is_some()).await;
    bench.writes_on().await;
    let state = machine.mirror(bench.volume).await.unwrap();
    assert!(matches!(state, MirrorState::Broken(_)), "{state:?}");
    // Letting go is no failure, though it makes writes fail.
    machine.let_go(bench.volume).await.unwrap();
    assert_eq!(machine.mirror_failed(bench.volume), None);
    assert_eq!(machine.mirror(bench.volume).await.unwrap(), MirrorState::Absent);

    machine.attach_mirror(bench.volume, target, &bench.export(1), Fill::Nothing).await.unwrap();
    wait_until("the failure is heard of", || machine.mirror_failed(bench.volume).is_some()).await;
    machine.kill().await.unwrap();
    let why = machine.mirror_failed(bench.volume).unwrap();
    assert!(why.contains("answered a write with an error"), "{why}");
    assert!(!bench.write_failed(), "the guest was told that a write failed");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let bench = Bench::new();
    let _taken = std::net::TcpListener::bind(bench.replica_address()).unwrap();
    let why = bench.replicas(None).exports().await.unwrap_err().to_string();
    assert!(why.contains(&bench.replica_address().to_string()), "{why}");
    assert!(why.contains("Address already in use"), "{why}");
}

#[tokio::test]
async fn a_disk_grows_between_two_mirrors_while_the_guest_writes() {
    let bench = Bench::new();
    let replicas = bench.replicas(None);
    let machine = mirrored_guest(&bench, &replicas).await;
    let size = model::Bytes(writer::DISK as u64 * 2);
    let refused = machine.grow(bench.volume, size).await;
    assert!(refused.is_err(), "a mirrored disk cannot grow: its mirror would not");
    bench.writes_on().await;

    machine.let_go(bench.volume).await.unwrap();
    for _ in 0..2 {
        machine.grow(bench.volume, size).await.unwrap();
        assert_eq!(bench.path("primary.raw").metadata().unwrap().len(), size.0);
    }
    bench.writes_on().await;
    replicas.withdraw(bench.volume).await.unwrap();
    std::fs::File::options().write(true).open(bench.path("secondary.raw")).unwrap().set_len(size.0).unwrap();
    serve(&bench, &replicas, 1).await;
    let target = bench.replica_address();
    machine.attach_mirror(bench.volume, target, &bench.export(1), Fill::Everything).await.unwrap();
    wait_until_ready(&machine, bench.volume).await;
    bench.writes_on().await;
    check_replicas(&bench, &*machine, &replicas).await;
    assert_eq!(bench.path("secondary.raw").metadata().unwrap().len(), size.0);
}
