//! Guests whose disk is a file that two hosts reach, between two real QEMUs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Bench, check_records, wait_until};
use host::{Hypervisor, Machine, MachineConfig, MigrationPhase, MigrationSettings, RunState};

/// Generous: two busy cores and emulation.
const PATIENCE: Duration = Duration::from_secs(60);

fn config(bench: &Bench) -> MachineConfig {
    let mut config = bench.config("primary.raw");
    config.disks[0].shared = true;
    config
}

/// A guest that writes to the file, and the machine that is to take it in, which opens the same file.
struct Shared {
    bench: Bench,
    source: Arc<dyn Machine>,
    target: Arc<dyn Machine>,
}

impl Shared {
    /// It stands still, and waits for being handed over.
    async fn before_switchover() -> Shared {
        let bench = Bench::new();
        let source = bench.driver(None).launch(&config(&bench)).await.unwrap();
        source.resume().await.unwrap();
        bench.writes_on().await;
        let target = incoming(&bench, &source).await;
        let shared = Shared { bench, source, target };
        shared.begin().await;
        shared
    }

    async fn begin(&self) {
        let settings = MigrationSettings::default();
        let address = self.target.listen("127.0.0.1:0".parse().unwrap(), &settings).await.unwrap();
        self.source.migrate(address, &settings).await.unwrap();
        wait_for(&self.source, "it stands still", async |machine| {
            machine.migration().await.unwrap().phase == MigrationPhase::PreSwitchover
        })
        .await;
    }
}

async fn incoming(bench: &Bench, source: &Arc<dyn Machine>) -> Arc<dyn Machine> {
    let machine_type = source.machine_type().await.unwrap();
    let mut config = config(bench);
    config.label.epoch = config.label.epoch.next();
    bench.driver_there().launch_incoming(&config, &machine_type).await.unwrap()
}

async fn wait_for(machine: &Arc<dyn Machine>, what: &str, reached: impl AsyncFn(&Arc<dyn Machine>) -> bool) {
    let mut events = machine.events();
    let waiting = async {
        while !reached(machine).await {
            drop(tokio::time::timeout(Duration::from_millis(10), events.recv()).await);
        }
    };
    if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
        panic!("waited in vain until {what}: {:?}", machine.migration().await);
    }
}

#[tokio::test]
async fn a_second_machine_does_not_get_the_file() {
    let bench = Bench::new();
    let first = bench.driver(None).launch(&config(&bench)).await.unwrap();
    first.resume().await.unwrap();
    bench.writes_on().await;
    let error = bench.driver_there().launch(&config(&bench)).await.unwrap_err().to_string();
    assert!(error.contains("lock"), "{error}");
    bench.writes_on().await;
    first.kill().await.unwrap();
    check_records(&bench.disk("primary.raw"), bench.acknowledged(), "the file");
}

#[tokio::test]
async fn a_guest_moves_with_its_memory_alone() {
    let shared = Shared::before_switchover().await;
    let Shared { bench, source, target } = &shared;
    let last = bench.acknowledged();
    source.withhold_disks().await.unwrap();
    source.withhold_disks().await.unwrap();
    assert_eq!(
        source.run_state().await.unwrap(),
        RunState::Left,
        "who finds it takes it for one that has left"
    );
    source.hand_over().await.unwrap();
    wait_for(target, "it has arrived", async |machine| {
        machine.run_state().await.unwrap() == RunState::Arrived
    })
    .await;
    target.resume().await.unwrap();
    wait_until("the guest writes there", || bench.acknowledged_there() > last + 20).await;
    source.kill().await.unwrap();
    target.kill().await.unwrap();
    check_records(&bench.disk("primary.raw"), bench.acknowledged_there(), "the file");
    assert!(!bench.write_failed(), "the guest was told that a write failed");
}

#[tokio::test]
async fn disks_that_were_taken_away_are_given_back() {
    let shared = Shared::before_switchover().await;
    let Shared { bench, source, target } = &shared;
    source.withhold_disks().await.unwrap();
    source.return_disks().await.unwrap();
    source.return_disks().await.unwrap();
    source.cancel_migration().await.unwrap();
    assert_eq!(source.run_state().await.unwrap(), RunState::Running);
    wait_until("the target has ended by itself", || target.ended().is_some()).await;
    bench.writes_on().await;
    // And once more, to its end.
    let again = Shared { target: incoming(bench, source).await, ..shared };
    again.begin().await;
    again.source.withhold_disks().await.unwrap();
    again.source.hand_over().await.unwrap();
    wait_for(&again.target, "it has arrived", async |machine| {
        machine.run_state().await.unwrap() == RunState::Arrived
    })
    .await;
    again.target.resume().await.unwrap();
    let bench = &again.bench;
    wait_until("the guest writes there", || bench.acknowledged_there() > 5).await;
    assert!(!bench.write_failed(), "the guest was told that a write failed");
}

/// The daemon is dead, the target too, and QEMU lets the guest go on by itself: it reaches no disk.
#[tokio::test]
async fn a_guest_without_its_disks_writes_nothing_whatever_becomes_of_its_migration() {
    let shared = Shared::before_switchover().await;
    let Shared { bench, source, target } = &shared;
    let before = bench.acknowledged();
    source.withhold_disks().await.unwrap();
    target.kill().await.unwrap();
    // Another machine gets the file at once, and has every record.
    let mut config = config(bench);
    config.label.epoch = config.label.epoch.next();
    let anew = bench.driver_there().launch(&config).await.unwrap();
    anew.resume().await.unwrap();
    wait_until("the guest writes there", || bench.acknowledged_there() > before + 5).await;
    assert_eq!(bench.acknowledged(), before, "the old machine wrote on");
    anew.kill().await.unwrap();
    check_records(&bench.disk("primary.raw"), bench.acknowledged_there(), "the file");
}
