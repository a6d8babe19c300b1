//! Guests that move to their secondary's host and are mirrored back from the first write on: two real QEMUs, two
//! real storage daemons, and replicas that swap their roles.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Bench, check_records, wait_until, wait_until_ready};
use host::qemu::QemuDriver;
use host::replica::StorageDaemon;
use host::{
    Fill, HostError, Hypervisor, Machine, MigrationPhase, MigrationSettings, MirrorState, ReplicaServer,
    RunState,
};

/// Generous: two busy cores and emulation.
const PATIENCE: Duration = Duration::from_secs(60);

/// One of the two hosts.
struct Place {
    driver: QemuDriver,
    replicas: StorageDaemon,
    address: std::net::SocketAddr,
    disk: &'static str,
}

struct World {
    bench: Bench,
    here: Place,
    there: Place,
}

impl World {
    fn new() -> World {
        let bench = Bench::new();
        let here = Place {
            driver: bench.driver(None),
            replicas: bench.replicas_here(),
            address: bench.replica_address_here(),
            disk: "primary.raw",
        };
        let there = Place {
            driver: bench.driver_there(),
            replicas: bench.replicas(None),
            address: bench.replica_address(),
            disk: "secondary.raw",
        };
        World { bench, here, there }
    }

    async fn serve(&self, at: &Place, epoch: u64) {
        let (volume, export) = (self.bench.volume, self.bench.export(epoch));
        at.replicas.serve(volume, &export, self.bench.path(at.disk)).await.unwrap();
    }

    async fn mirror(&self, machine: &Arc<dyn Machine>, to: &Place, epoch: u64, fill: Fill) {
        let export = self.bench.export(epoch);
        machine.attach_mirror(self.bench.volume, to.address, &export, fill).await.unwrap();
        wait_until_ready(machine, self.bench.volume).await;
    }

    /// A guest that is in sync at epoch 1.
    async fn mirrored_guest(&self) -> Arc<dyn Machine> {
        self.serve(&self.there, 1).await;
        let source = self.bench.writing_guest().await;
        self.mirror(&source, &self.there, 1, Fill::Everything).await;
        // A host of a cluster serves replicas already.
        self.here.replicas.exports().await.unwrap();
        source
    }

    /// A machine at `to` for the guest of `source`, which sends it and waits to hand it over.
    async fn send(&self, source: &Arc<dyn Machine>, to: &Place) -> Arc<dyn Machine> {
        let mut config = self.bench.config(to.disk);
        config.label.epoch = source.label().epoch.next();
        let target = to.driver.launch_incoming(&config, &source.machine_type().await.unwrap()).await.unwrap();
        let settings = MigrationSettings::default();
        let address = target.listen("127.0.0.1:0".parse().unwrap(), &settings).await.unwrap();
        let mut events = source.events();
        source.migrate(address, &settings).await.unwrap();
        let deadline = Instant::now() + PATIENCE;
        while source.migration().await.unwrap().phase != MigrationPhase::PreSwitchover {
            assert!(Instant::now() < deadline, "{:?}", source.migration().await);
            drop(tokio::time::timeout(Duration::from_millis(20), events.recv()).await);
        }
        target
    }

    /// Moves the guest from one host to the other, and mirrors it back before it runs.
    async fn swap(&self, source: &Arc<dyn Machine>, from: &Place, to: &Place) -> Arc<dyn Machine> {
        let (volume, epoch) = (self.bench.volume, source.label().epoch.next());
        let target = self.send(source, to).await;
        let stands = Instant::now();
        let passed = |what: &str| println!("{:>9.2?} {what}", stands.elapsed());
        source.check_hand_over().await.unwrap();
        passed("checked");
        source.hand_over().await.unwrap();
        passed("handed over");
        tokio::join!(
            async {
                self.serve(from, epoch.0).await;
                passed("served by the old owner");
            },
            async {
                to.replicas.withdraw(volume).await.unwrap();
                passed("withdrawn by the new owner");
            },
            async {
                arrived(&target).await;
                passed("arrived");
            },
        );
        assert_eq!(source.run_state().await.unwrap(), RunState::Left);
        passed("(looked at)");
        assert!(target.open_disks().await.unwrap(), "this QEMU cannot do that");
        passed("disks open");
        target.attach_mirror(volume, from.address, &self.bench.export(epoch.0), Fill::Nothing).await.unwrap();
        passed("mirror attached");
        wait_until_ready(&target, volume).await;
        passed("mirror ready");
        target.resume().await.unwrap();
        passed("resumed");
        let numbers = source.migration().await.unwrap();
        println!("QEMU says that it stood still for {:?} ms", numbers.downtime_ms);
        target
    }

    /// Ends everything, and sees that nothing is missing on either side.
    async fn check_both(&self, machine: &Arc<dyn Machine>, secondary: &Place, last: impl Fn() -> u32) {
        let before = last();
        wait_until("the guest writes", || last() > before + 20).await;
        assert_eq!(machine.mirror(self.bench.volume).await.unwrap(), MirrorState::Ready);
        machine.kill().await.unwrap();
        secondary.replicas.withdraw(self.bench.volume).await.unwrap();
        for place in [&self.here, &self.there] {
            check_records(&self.bench.disk(place.disk), last(), place.disk);
        }
        assert!(self.unlike() <= 1, "but for the write that was under way they are the same");
        assert!(!self.bench.write_failed(), "the guest was told that a write failed");
    }

    /// How many sectors of the two replicas differ.
    fn unlike(&self) -> usize {
        let (ours, theirs) = (self.bench.disk("primary.raw"), self.bench.disk("secondary.raw"));
        ours.chunks(512).zip(theirs.chunks(512)).filter(|(ours, theirs)| ours != theirs).count()
    }
}

async fn arrived(machine: &Arc<dyn Machine>) {
    let mut events = machine.events();
    let deadline = Instant::now() + PATIENCE;
    while machine.run_state().await.unwrap() != RunState::Arrived {
        assert!(Instant::now() < deadline, "{:?}", machine.run_state().await);
        drop(tokio::time::timeout(Duration::from_millis(20), events.recv()).await);
    }
}

/// Every record was said once, in order.
fn check_said(said: &[u8]) {
    let text = String::from_utf8_lossy(said);
    let lines = text.lines().filter(|line| line.len() == 8);
    let records: Vec<u32> = lines.filter_map(|line| u32::from_str_radix(line, 16).ok()).collect();
    let gap = records.windows(2).find(|pair| pair[1] != pair[0] + 1);
    assert_eq!(gap, None, "records are missing or repeated");
}

#[tokio::test]
async fn a_guest_moves_there_and_back_and_is_never_on_one_replica() {
    let world = World::new();
    let World { bench, here, there } = &world;
    let first = world.mirrored_guest().await;
    let second = world.swap(&first, here, there).await;
    let at = bench.acknowledged();
    wait_until("the guest writes there", || bench.acknowledged_there() > at + 50).await;
    first.kill().await.unwrap();
    let said_first = bench.serial_log();
    second.track(bench.volume, &bench.replica_file("host1", "primary.raw")).await.unwrap();
    assert_eq!(second.run_state().await.unwrap(), RunState::Running);

    let third = world.swap(&second, there, here).await;
    let at = bench.acknowledged_there();
    wait_until("the guest writes here again", || bench.acknowledged() > at + 50).await;
    second.kill().await.unwrap();

    // It stands still once more, so that nothing is under way: both replicas are the same, to the byte.
    let fourth = world.send(&third, there).await;
    third.check_hand_over().await.unwrap();
    assert_eq!(world.unlike(), 0);
    third.cancel_migration().await.unwrap();
    wait_until("the target has ended by itself", || fourth.ended().is_some()).await;
    world.check_both(&third, there, || bench.acknowledged()).await;
    let said_here = bench.serial_log();
    let (before, after) = said_here.split_at(said_first.len());
    check_said(&[before, &bench.serial_log_there(), after].concat());
}

#[tokio::test]
async fn daemons_that_start_anew_find_each_machine_as_it_is() {
    let world = World::new();
    let World { bench, here, there } = &world;
    let source = world.mirrored_guest().await;
    let target = world.send(&source, there).await;
    drop((source, target));
    let source = here.driver.adopt().await.unwrap().remove(0);
    let target = there.driver.adopt().await.unwrap().remove(0);
    assert_eq!(source.run_state().await.unwrap(), RunState::Paused);
    assert_eq!(source.migration().await.unwrap().phase, MigrationPhase::PreSwitchover);
    assert_eq!(target.run_state().await.unwrap(), RunState::Incoming);
    let early = target.open_disks().await.unwrap_err();
    assert!(matches!(early, HostError::Conflict(_)), "{early}");

    source.check_hand_over().await.unwrap();
    source.hand_over().await.unwrap();
    world.serve(here, 2).await;
    arrived(&target).await;
    let locked = target.open_disks().await.unwrap_err();
    assert!(locked.to_string().contains("lock"), "its replica is still served: {locked}");
    there.replicas.withdraw(bench.volume).await.unwrap();
    assert!(target.open_disks().await.unwrap());
    drop((source, target));
    let source = here.driver.adopt().await.unwrap().remove(0);
    let target = there.driver.adopt().await.unwrap().remove(0);
    assert_eq!(source.run_state().await.unwrap(), RunState::Left);
    assert_eq!(target.run_state().await.unwrap(), RunState::Arrived);
    assert!(target.open_disks().await.unwrap(), "safe to repeat");
    // What changes is recorded from before the first write on, with the mirror or without it.
    target.track(bench.volume, &bench.replica_file("host1", "primary.raw")).await.unwrap();
    world.mirror(&target, here, 2, Fill::Nothing).await;
    target.untrack(bench.volume).await.unwrap();
    target.track(bench.volume, &bench.replica_file("host1", "primary.raw")).await.unwrap();
    assert_eq!(target.run_state().await.unwrap(), RunState::Arrived);
    target.resume().await.unwrap();
    assert_eq!(target.run_state().await.unwrap(), RunState::Running);
    source.kill().await.unwrap();
    let at = bench.acknowledged();
    wait_until("the guest writes there", || bench.acknowledged_there() > at).await;
    world.check_both(&target, here, || bench.acknowledged_there()).await;
}

#[tokio::test]
async fn a_source_that_dies_right_after_the_hand_over_still_has_its_replica_served() {
    let world = World::new();
    let World { bench, here, there } = &world;
    let source = world.mirrored_guest().await;
    let target = world.send(&source, there).await;
    source.hand_over().await.unwrap();
    source.kill().await.unwrap();
    let (mut last, before) = (bench.acknowledged(), world.unlike());
    assert_eq!(before, 0);
    world.serve(here, 2).await;
    there.replicas.withdraw(bench.volume).await.unwrap();
    // Either all of it was sent, or the target ends by itself.
    let deadline = Instant::now() + PATIENCE;
    while target.ended().is_none() && !matches!(target.run_state().await, Ok(RunState::Arrived)) {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("the target has {}", if target.ended().is_some() { "ended" } else { "got all" });
    let target = match target.ended() {
        Some(_) => {
            check_records(&bench.disk("secondary.raw"), last, "the new primary");
            last = 0;
            there.driver.launch(&bench.config("secondary.raw")).await.unwrap()
        }
        None => {
            assert!(target.open_disks().await.unwrap());
            target
        }
    };
    world.mirror(&target, here, 2, Fill::Nothing).await;
    target.resume().await.unwrap();
    wait_until("the guest writes there", || bench.acknowledged_there() > last + 5).await;
    world.check_both(&target, here, || bench.acknowledged_there()).await;
}

#[tokio::test]
async fn a_target_that_dies_before_the_guest_arrived_is_started_anew_and_mirrored() {
    let world = World::new();
    let World { bench, here, there } = &world;
    let source = world.mirrored_guest().await;
    let target = world.send(&source, there).await;
    // It cannot take in what it is sent any more.
    common::signal(target.pid().unwrap().try_into().unwrap(), "-STOP");
    source.hand_over().await.unwrap();
    target.kill().await.unwrap();
    there.replicas.withdraw(bench.volume).await.unwrap();
    // QEMU lets the guest go on at the source; it reaches nothing, and its replica is free.
    world.serve(here, 2).await;
    assert_eq!(source.run_state().await.unwrap(), RunState::Left);
    assert_eq!(world.unlike(), 0);
    check_records(&bench.disk("secondary.raw"), bench.acknowledged(), "the new primary");
    let again = there.driver.launch(&bench.config("secondary.raw")).await.unwrap();
    world.mirror(&again, here, 2, Fill::Nothing).await;
    again.resume().await.unwrap();
    wait_until("the guest boots there", || bench.acknowledged_there() > 5).await;
    source.kill().await.unwrap();
    world.check_both(&again, here, || bench.acknowledged_there()).await;
}
