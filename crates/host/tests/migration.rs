//! Guests that move to their secondary's host while they run, between two real QEMUs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Bench, check_records, signal, wait_until, wait_until_ready};
use host::replica::StorageDaemon;
use host::{
    Fill, HostError, Hypervisor, Machine, MigrationPhase, MigrationSettings, MirrorState, ReplicaServer,
    RunState,
};

/// Generous: two busy cores and emulation.
const PATIENCE: Duration = Duration::from_secs(60);

/// A mirrored guest and the machine that is to take it in.
struct Move {
    bench: Bench,
    replicas: StorageDaemon,
    source: Arc<dyn Machine>,
    target: Arc<dyn Machine>,
}

impl Move {
    async fn prepare() -> Move {
        let bench = Bench::new();
        let replicas = bench.replicas(None);
        replicas.serve(bench.volume, &bench.export(1), bench.path("secondary.raw")).await.unwrap();
        let source = bench.writing_guest().await;
        let target = bench.replica_address();
        source.attach_mirror(bench.volume, target, &bench.export(1), Fill::Everything).await.unwrap();
        wait_until_ready(&source, bench.volume).await;
        let target = incoming(&bench, &source).await;
        Move { bench, replicas, source, target }
    }

    async fn begin(&self, settings: &MigrationSettings) {
        let address = self.target.listen("127.0.0.1:0".parse().unwrap(), settings).await.unwrap();
        assert_ne!(address.port(), 0);
        self.source.migrate(address, settings).await.unwrap();
    }

    /// A move that waits for being handed over.
    async fn before_switchover() -> Move {
        let moving = Move::prepare().await;
        moving.begin(&MigrationSettings::default()).await;
        wait_for_phase(&moving.source, &MigrationPhase::PreSwitchover).await;
        moving
    }

    /// Ends the old machine, and sees that the new one has all records.
    async fn check_moved(&self) {
        let bench = &self.bench;
        let before = bench.acknowledged();
        wait_until("the guest writes there", || bench.acknowledged_there() > before + 20).await;
        self.source.kill().await.unwrap();
        check_said(&[bench.serial_log(), bench.serial_log_there()].concat());
        self.target.kill().await.unwrap();
        check_records(&bench.disk("secondary.raw"), bench.acknowledged_there(), "the new primary");
        assert!(!bench.write_failed(), "the guest was told that a write failed");
    }

    /// The guest runs where it was, and both replicas have everything.
    async fn check_stayed(&self) {
        let bench = &self.bench;
        assert_eq!(self.source.run_state().await.unwrap(), RunState::Running);
        assert_eq!(self.source.mirror(bench.volume).await.unwrap(), MirrorState::Ready);
        bench.writes_on().await;
        self.source.kill().await.unwrap();
        self.replicas.withdraw(bench.volume).await.unwrap();
        for replica in ["primary.raw", "secondary.raw"] {
            check_records(&bench.disk(replica), bench.acknowledged(), replica);
        }
        assert!(!bench.write_failed(), "the guest was told that a write failed");
    }
}

async fn incoming(bench: &Bench, source: &Arc<dyn Machine>) -> Arc<dyn Machine> {
    let machine_type = source.machine_type().await.unwrap();
    let mut config = bench.config("secondary.raw");
    config.label.epoch = config.label.epoch.next();
    bench.driver_there().launch_incoming(&config, &machine_type).await.unwrap()
}

/// Every record was said once, in order, on whichever host.
fn check_said(said: &[u8]) {
    let text = String::from_utf8_lossy(said);
    let records: Vec<u32> = text
        .lines()
        .filter(|line| line.len() == 8)
        .filter_map(|line| u32::from_str_radix(line, 16).ok())
        .collect();
    let gap = records.windows(2).find(|pair| pair[1] != pair[0] + 1);
    assert_eq!(gap, None, "records are missing or repeated");
}

async fn wait_for_phase(machine: &Arc<dyn Machine>, phase: &MigrationPhase) {
    let mut events = machine.events();
    let reached = async {
        while machine.migration().await.unwrap().phase != *phase {
            drop(tokio::time::timeout(Duration::from_millis(20), events.recv()).await);
        }
    };
    if tokio::time::timeout(PATIENCE, reached).await.is_err() {
        panic!("{phase:?} is not reached, but {:?}", machine.migration().await);
    }
}

async fn wait_for_state(machine: &Arc<dyn Machine>, state: RunState) {
    let mut events = machine.events();
    let reached = async {
        while machine.run_state().await.unwrap() != state {
            drop(tokio::time::timeout(Duration::from_millis(10), events.recv()).await);
        }
    };
    if tokio::time::timeout(PATIENCE, reached).await.is_err() {
        panic!("{state:?} is not reached, but {:?}", machine.run_state().await);
    }
}

#[tokio::test]
async fn a_guest_moves_to_its_secondary_without_a_gap() {
    let moving = Move::prepare().await;
    let Move { bench, replicas, source, target } = &moving;
    assert_eq!(target.run_state().await.unwrap(), RunState::Incoming);
    assert_eq!(source.migration().await.unwrap().phase, MigrationPhase::None);
    moving.begin(&MigrationSettings::default()).await;
    wait_for_phase(source, &MigrationPhase::PreSwitchover).await;
    let stood = Instant::now();
    let last = bench.acknowledged();
    source.check_hand_over().await.unwrap();
    source.hand_over().await.unwrap();
    let handed_over = stood.elapsed();
    replicas.withdraw(bench.volume).await.unwrap();
    let withdrawn = stood.elapsed();
    wait_for_state(target, RunState::Arrived).await;
    let arrived = stood.elapsed();
    target.track(bench.volume, &bench.replica_file("host1", "primary.raw")).await.unwrap();
    target.resume().await.unwrap();
    println!(
        "handed over {handed_over:?}, withdrawn {withdrawn:?}, arrived {arrived:?}, resumed {:?}",
        stood.elapsed()
    );
    wait_until("the guest writes there", || bench.acknowledged_there() > last).await;
    println!("first record there {:?} after the guest was seen to stand still", stood.elapsed());
    assert_eq!(target.run_state().await.unwrap(), RunState::Running);
    wait_for_phase(source, &MigrationPhase::Completed).await;
    println!("{:?}", source.migration().await.unwrap());
    assert_eq!(source.run_state().await.unwrap(), RunState::Left);
    // Safe to repeat; and nothing brings it back.
    source.hand_over().await.unwrap();
    for refused in [source.resume().await, source.cancel_migration().await] {
        assert!(matches!(refused, Err(HostError::Conflict(_))), "{refused:?}");
    }
    moving.check_moved().await;
}

#[tokio::test]
async fn a_move_that_is_cancelled_leaves_the_guest_as_it_was() {
    let moving = Move::before_switchover().await;
    let Move { bench, source, target, .. } = &moving;
    assert_eq!(source.run_state().await.unwrap(), RunState::Paused);
    let refused = target.resume().await;
    assert!(matches!(refused, Err(HostError::Conflict(_))), "nothing has arrived yet: {refused:?}");
    source.cancel_migration().await.unwrap();
    source.cancel_migration().await.unwrap();
    assert_eq!(source.migration().await.unwrap().phase, MigrationPhase::Cancelled);
    wait_until("the target has ended by itself", || target.ended().is_some()).await;
    bench.writes_on().await;
    // And once more, to its end.
    let moving = Move { target: incoming(bench, source).await, ..moving };
    moving.begin(&MigrationSettings::default()).await;
    wait_for_phase(&moving.source, &MigrationPhase::PreSwitchover).await;
    moving.source.cancel_migration().await.unwrap();
    moving.check_stayed().await;
}

#[tokio::test]
async fn a_target_that_dies_before_the_hand_over_changes_nothing() {
    let moving = Move::before_switchover().await;
    moving.target.kill().await.unwrap();
    moving.source.cancel_migration().await.unwrap();
    moving.check_stayed().await;
}

#[tokio::test]
async fn a_target_that_dies_after_the_hand_over_is_started_anew_from_its_replica() {
    let moving = Move::before_switchover().await;
    let Move { bench, replicas, source, target } = &moving;
    // It does not answer any more, and QEMU on this side finds out while it sends.
    let qemu = bench.pids("qemu-system-x86_64");
    let theirs = qemu.iter().max().copied().unwrap();
    signal(theirs, "-STOP");
    let before = bench.disk("primary.raw");
    source.hand_over().await.unwrap();
    target.kill().await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !matches!(
        source.migration().await.unwrap().phase,
        MigrationPhase::Failed(_) | MigrationPhase::Completed
    ) {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("the source says {:?}", source.migration().await.unwrap().phase);
    // QEMU lets the guest go on here; it gets nowhere.
    assert_eq!(source.run_state().await.unwrap(), RunState::Left);
    let last = bench.held().await;
    assert!(bench.disk("primary.raw") == before, "the old primary has written after the hand-over");
    source.kill().await.unwrap();
    replicas.withdraw(bench.volume).await.unwrap();
    assert!(bench.disk("primary.raw") == before);
    check_records(&bench.disk("secondary.raw"), last, "the new primary");
    let again = bench.driver_there().launch(&bench.config("secondary.raw")).await.unwrap();
    again.resume().await.unwrap();
    wait_until("the guest boots there", || bench.acknowledged_there() > 5).await;
    assert!(!bench.write_failed(), "the guest was told that a write failed");
}

#[tokio::test]
async fn a_source_that_dies_after_the_hand_over_is_not_missed() {
    let moving = Move::before_switchover().await;
    let Move { bench, replicas, source, target } = &moving;
    let last = bench.acknowledged();
    source.hand_over().await.unwrap();
    source.kill().await.unwrap();
    replicas.withdraw(bench.volume).await.unwrap();
    // Either all of it was sent, or the target ends by itself.
    let deadline = Instant::now() + PATIENCE;
    while target.ended().is_none() && !matches!(target.run_state().await, Ok(RunState::Arrived)) {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("the target has {}", if target.ended().is_some() { "ended" } else { "got all" });
    check_records(&bench.disk("secondary.raw"), last, "the new primary");
    let target = match target.ended() {
        Some(_) => bench.driver_there().launch(&bench.config("secondary.raw")).await.unwrap(),
        None => Arc::clone(target),
    };
    target.resume().await.unwrap();
    wait_until("the guest writes there", || bench.acknowledged_there() > 5).await;
}

#[tokio::test]
async fn a_guest_that_arrived_waits_for_its_disks_to_be_withdrawn() {
    let Move { bench, replicas, source, target } = Move::before_switchover().await;
    source.hand_over().await.unwrap();
    wait_for_state(&target, RunState::Arrived).await;
    let refused = target.resume().await.unwrap_err().to_string();
    assert!(refused.contains("lock"), "{refused}");
    // New daemons on both hosts find it as it is.
    drop((source, target));
    let source = bench.driver(None).adopt().await.unwrap().remove(0);
    assert_eq!(source.run_state().await.unwrap(), RunState::Left);
    let target = bench.driver_there().adopt().await.unwrap().remove(0);
    assert_eq!(target.run_state().await.unwrap(), RunState::Arrived);
    replicas.flush(bench.volume).await.unwrap();
    replicas.withdraw(bench.volume).await.unwrap();
    target.resume().await.unwrap();
    Move { bench, replicas, source, target }.check_moved().await;
}

#[tokio::test]
async fn what_is_not_in_sync_is_not_handed_over() {
    let moving = Move::before_switchover().await;
    let Move { bench, source, .. } = &moving;
    source.let_go(bench.volume).await.unwrap();
    let refused = source.hand_over().await.unwrap_err();
    assert!(matches!(refused, HostError::Conflict(_)), "{refused}");
    assert!(refused.to_string().contains("are not the same"), "{refused}");
    source.cancel_migration().await.unwrap();
    bench.writes_on().await;
    let refused = source.hand_over().await.unwrap_err().to_string();
    assert!(refused.contains("not at that point"), "{refused}");
}

#[tokio::test]
async fn a_guest_that_changes_faster_than_it_is_sent_is_told_in_numbers_and_can_be_kept() {
    let bench = Bench::new();
    let source = bench.driver(None).launch(&bench.dirtying_config()).await.unwrap();
    source.resume().await.unwrap();
    let target = incoming(&bench, &source).await;
    let settings = MigrationSettings {
        bandwidth: Some(256 << 10),
        downtime_limit_ms: 1,
        ..MigrationSettings::default()
    };
    let address = target.listen("127.0.0.1:0".parse().unwrap(), &settings).await.unwrap();
    source.migrate(address, &settings).await.unwrap();
    let again = source.migrate(address, &settings).await;
    assert!(matches!(again, Err(HostError::Conflict(_))), "{again:?}");
    let deadline = Instant::now() + PATIENCE;
    let state = loop {
        let state = source.migration().await.unwrap();
        assert!(matches!(state.phase, MigrationPhase::Setup | MigrationPhase::Active), "{state:?}");
        // QEMU renews its numbers every now and then, the one for the downtime last.
        let longer_than_allowed = state.expected_downtime_ms.is_some_and(|ms| ms > 1);
        if state.iteration >= 3 && state.dirty_rate > 0 && longer_than_allowed {
            break state;
        }
        assert!(Instant::now() < deadline, "{state:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    println!("{state:?}");
    assert!(state.total > 64 << 20 && state.transferred > 0 && state.throughput > 0);
    source.cancel_migration().await.unwrap();
    assert_eq!(source.run_state().await.unwrap(), RunState::Running);
    wait_until("the target has ended by itself", || target.ended().is_some()).await;
}

#[tokio::test]
async fn a_move_that_does_not_converge_does_so_once_more_is_allowed() {
    let bench = Bench::new();
    let source = bench.driver(None).launch(&bench.dirtying_config()).await.unwrap();
    source.resume().await.unwrap();
    let target = incoming(&bench, &source).await;
    let slow = MigrationSettings {
        bandwidth: Some(256 << 10),
        downtime_limit_ms: 1,
        ..MigrationSettings::default()
    };
    let address = target.listen("127.0.0.1:0".parse().unwrap(), &slow).await.unwrap();
    source.migrate(address, &slow).await.unwrap();
    source.adjust_migration(&MigrationSettings::default()).await.unwrap();
    wait_for_phase(&source, &MigrationPhase::PreSwitchover).await;
}

#[tokio::test]
async fn many_connections_carry_the_memory_when_asked() {
    let moving = Move::prepare().await;
    let settings = MigrationSettings { multifd_channels: Some(2), ..MigrationSettings::default() };
    moving.begin(&settings).await;
    wait_for_phase(&moving.source, &MigrationPhase::PreSwitchover).await;
    // The disk may be withdrawn as soon as the guest stands still for good: nothing is written any more.
    moving.source.check_hand_over().await.unwrap();
    moving.replicas.withdraw(moving.bench.volume).await.unwrap();
    moving.source.hand_over().await.unwrap();
    wait_for_state(&moving.target, RunState::Arrived).await;
    moving.target.resume().await.unwrap();
    moving.check_moved().await;
}

#[tokio::test]
async fn a_machine_type_that_is_not_known_here_is_refused() {
    let bench = Bench::new();
    let config = bench.config("secondary.raw");
    let refused = bench.driver_there().launch_incoming(&config, "pc-q35-99.9").await.unwrap_err();
    assert!(
        refused.to_string().contains("pc-q35-99.9") || refused.to_string().contains("machine"),
        "{refused}"
    );
}

/// A move that lasts until it is told to go faster.
async fn slow_move() -> Move {
    let moving = Move::prepare().await;
    let slow =
        MigrationSettings { bandwidth: Some(64 << 10), postcopy: true, ..MigrationSettings::default() };
    moving.begin(&slow).await;
    wait_for_phase(&moving.source, &MigrationPhase::Active).await;
    moving
}

#[tokio::test]
async fn a_guest_can_run_there_before_its_memory_has_come() {
    let moving = slow_move().await;
    let Move { bench, replicas, source, target } = &moving;
    source.start_postcopy().await.unwrap();
    wait_for_phase(source, &MigrationPhase::PreSwitchover).await;
    source.hand_over().await.unwrap();
    replicas.withdraw(bench.volume).await.unwrap();
    wait_for_state(target, RunState::Arrived).await;
    target.resume().await.unwrap();
    println!("{:?}", source.migration().await.unwrap());
    let refused = source.cancel_migration().await;
    assert!(matches!(refused, Err(HostError::Conflict(_))), "{refused:?}");
    let last = bench.acknowledged();
    wait_until("the guest writes there", || bench.acknowledged_there() > last + 5).await;
    wait_for_phase(source, &MigrationPhase::Completed).await;
    moving.check_moved().await;
}

/// Lets the machine go over at once. It stops the guest, and with its writes held that may keep QEMU from answering.
async fn hurry(source: &Arc<dyn Machine>) {
    match source.adjust_migration(&MigrationSettings::default()).await {
        Ok(()) | Err(HostError::TimedOut(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_secondary_that_hangs_as_the_guest_is_stopped_can_be_let_go() {
    let moving = slow_move().await;
    let Move { bench, source, .. } = &moving;
    signal(bench.pids("qemu-storage-daemon")[0], "-STOP");
    let held_at = bench.held().await;
    hurry(source).await;
    let hangs = source.run_state().await;
    println!("a source that stops while it is held: {hangs:?}");
    source.let_go(bench.volume).await.unwrap();
    source.cancel_migration().await.unwrap();
    wait_until("the guest writes again", || bench.acknowledged() > held_at).await;
    assert!(!bench.write_failed(), "the guest was told that a write failed");
}

#[tokio::test]
async fn a_secondary_that_comes_back_as_the_guest_is_stopped_lets_it_go_on() {
    let moving = slow_move().await;
    let Move { bench, replicas, source, .. } = &moving;
    bench.kill_9("qemu-storage-daemon");
    bench.held().await;
    hurry(source).await;
    println!("a source that stops while it is held: {:?}", source.run_state().await);
    replicas.serve(bench.volume, &bench.export(1), bench.path("secondary.raw")).await.unwrap();
    wait_for_phase(source, &MigrationPhase::PreSwitchover).await;
    source.cancel_migration().await.unwrap();
    moving.check_stayed().await;
}
