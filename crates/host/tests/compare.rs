//! Replicas that get what differs by their hashes, on a real QEMU with a guest that never stops writing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use common::{Bench, check_records, signal, wait_until_ready};
use host::compare::{Hashes, PIECE, PieceHash};
use host::replica::{ReplicaClient, StorageDaemon};
use host::{ExportName, HostError, Machine, MirrorState, ReplicaServer};
use model::VolumeId;

const SERVER: &str = "qemu-storage-daemon";

/// Where the guest never writes.
const UNTOUCHED: u64 = 6 << 20;

/// What the secondary's host tells.
#[derive(Debug)]
struct There {
    replicas: Arc<StorageDaemon>,
    volume: VolumeId,
    export: ExportName,
    /// Before each answer.
    takes: Duration,
}

#[async_trait]
impl Hashes for There {
    async fn hashes(&self, range: Range<u64>) -> Result<Vec<PieceHash>, HostError> {
        tokio::time::sleep(self.takes).await;
        self.replicas.hashes(self.volume, &self.export, range).await
    }
}

/// A guest that writes alone, and a replica that was the same once and is not now.
async fn unlike_replicas(bench: &Bench) -> (Arc<dyn Machine>, Arc<StorageDaemon>) {
    std::fs::write(bench.path("secondary.raw"), common::writer::disk()).unwrap();
    let differs = File::options().write(true).open(bench.path("secondary.raw")).unwrap();
    differs.write_all_at(&[0x5a; 4096], UNTOUCHED).unwrap();
    differs.write_all_at(&[0x5a; 1], UNTOUCHED + 5 * PIECE).unwrap();
    let machine = bench.writing_guest().await;
    let replicas = Arc::new(bench.replicas(None));
    (machine, replicas)
}

async fn attach(
    bench: &Bench,
    machine: &Arc<dyn Machine>,
    replicas: &Arc<StorageDaemon>,
    (epoch, takes): (u64, Duration),
) {
    let export = bench.export(epoch);
    replicas.serve(bench.volume, &export, bench.path("secondary.raw")).await.unwrap();
    let (replicas, volume) = (Arc::clone(replicas), bench.volume);
    let there = Arc::new(There { replicas, volume, export: export.clone(), takes });
    machine.attach_compared(bench.volume, bench.replica_address(), &export, there).await.unwrap();
}

/// Ends everything, and sees that both replicas are the same but for the one write that was under way.
async fn check_same(bench: &Bench, machine: &Arc<dyn Machine>, replicas: &StorageDaemon) {
    bench.writes_on().await;
    machine.kill().await.unwrap();
    replicas.withdraw(bench.volume).await.unwrap();
    let (ours, theirs) = (bench.disk("primary.raw"), bench.disk("secondary.raw"));
    let unlike = ours.chunks(512).zip(theirs.chunks(512)).filter(|(ours, theirs)| ours != theirs).count();
    assert!(unlike <= 1, "{unlike} sectors differ");
    check_records(&theirs, bench.acknowledged(), "the secondary");
    assert!(!bench.write_failed(), "the guest was told that a write failed");
}

#[tokio::test]
async fn what_differs_is_sent_while_the_guest_writes() {
    let bench = Bench::new();
    let (machine, replicas) = unlike_replicas(&bench).await;
    assert_eq!(machine.sent(bench.volume), None);
    attach(&bench, &machine, &replicas, (1, Duration::ZERO)).await;
    wait_until_ready(&machine, bench.volume).await;
    let sent = machine.sent(bench.volume).unwrap();
    println!("{sent} of {} bytes were sent", common::writer::DISK);
    // The records take 2 MiB, and may be sent in more than one round.
    assert!((3 * PIECE..6 << 20).contains(&sent), "{sent}");
    check_same(&bench, &machine, &replicas).await;
}

#[tokio::test]
async fn replicas_that_are_the_same_cost_no_copy() {
    let bench = Bench::new();
    let (machine, replicas) = unlike_replicas(&bench).await;
    attach(&bench, &machine, &replicas, (1, Duration::ZERO)).await;
    wait_until_ready(&machine, bench.volume).await;
    machine.let_go(bench.volume).await.unwrap();
    assert_eq!(machine.sent(bench.volume), None);
    attach(&bench, &machine, &replicas, (2, Duration::ZERO)).await;
    wait_until_ready(&machine, bench.volume).await;
    let sent = machine.sent(bench.volume).unwrap();
    // The guest has written its records meanwhile, and nowhere else.
    assert!(sent <= 4 << 20, "{sent}");
    check_same(&bench, &machine, &replicas).await;
}

#[tokio::test]
async fn a_secondary_that_dies_while_it_is_compared_does_not_hurt_the_guest() {
    for frozen in [false, true] {
        let bench = Bench::new();
        let (machine, replicas) = unlike_replicas(&bench).await;
        attach(&bench, &machine, &replicas, (1, Duration::from_secs(60))).await;
        bench.writes_on().await;
        let server = bench.pids(SERVER)[0];
        signal(server, if frozen { "-STOP" } else { "-KILL" });
        bench.held().await;
        machine.let_go(bench.volume).await.unwrap();
        bench.writes_on().await;
        assert_eq!(machine.mirror(bench.volume).await.unwrap(), MirrorState::Absent);
        if frozen {
            signal(server, "-CONT");
        }
        attach(&bench, &machine, &replicas, (2, Duration::ZERO)).await;
        wait_until_ready(&machine, bench.volume).await;
        check_same(&bench, &machine, &replicas).await;
    }
}

#[tokio::test]
async fn what_cannot_be_compared_breaks_the_mirror_and_not_the_guest() {
    let bench = Bench::new();
    let (machine, replicas) = unlike_replicas(&bench).await;
    let export = bench.export(1);
    replicas.serve(bench.volume, &export, bench.path("secondary.raw")).await.unwrap();
    // Its host says that another epoch is served.
    let wrong = There {
        replicas: replicas.clone(),
        volume: bench.volume,
        export: bench.export(7),
        takes: Duration::ZERO,
    };
    let target = bench.replica_address();
    machine.attach_compared(bench.volume, target, &export, Arc::new(wrong)).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let why = loop {
        match machine.mirror(bench.volume).await.unwrap() {
            MirrorState::Broken(why) => break why,
            state @ (MirrorState::Absent | MirrorState::Filling { .. } | MirrorState::Ready) => {
                assert!(Instant::now() < deadline, "{state:?}");
            }
        }
    };
    assert!(why.contains("does not serve"), "{why}");
    bench.writes_on().await;
    machine.let_go(bench.volume).await.unwrap();
    bench.writes_on().await;
}

#[tokio::test]
async fn a_host_says_which_file_it_serves() {
    let bench = Bench::new();
    let (replicas, client) = (bench.replicas(None), ReplicaClient::default());
    let ask = async |epoch: u64| {
        replicas.serve(bench.volume, &bench.export(epoch), bench.path("secondary.raw")).await.unwrap();
        client.ask_about(bench.replica_address(), &bench.export(epoch)).await.unwrap()
    };
    let first = ask(1).await;
    assert_eq!(first.size, common::writer::DISK as u64);
    let file = first.file.expect("this file system knows when its files were made");
    assert!(!file.is_blank);
    assert_eq!(ask(2).await.file, Some(file.clone()));
    let new = File::create(bench.path("new.raw")).unwrap();
    new.set_len(common::writer::DISK as u64).unwrap();
    std::fs::rename(bench.path("new.raw"), bench.path("secondary.raw")).unwrap();
    let another = ask(3).await.file.unwrap();
    assert!(another.is_blank && another.id != file.id);
}
