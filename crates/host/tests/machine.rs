//! Machines on a real QEMU: started, found again, ended.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Bench, signal, wait_until};
use host::qemu::{QemuDriver, RunAs};
use host::{
    CpuModel, Fill, HostError, Hypervisor, Machine, MachineConfig, MachineEnd, MachineEvent, ReplicaServer,
    RunState,
};
use model::CpuLevel;

const QEMU: &str = "qemu-system-x86_64";

#[tokio::test]
async fn a_machine_is_started_paused_then_runs_and_is_ended() {
    let bench = Bench::new();
    let driver = bench.driver(None);
    let machine = driver.launch(&bench.config("primary.raw")).await.unwrap();
    let mut events = machine.events();
    assert_eq!(machine.run_state().await.unwrap(), RunState::Prelaunch);
    machine.resume().await.unwrap();
    assert_eq!(machine.run_state().await.unwrap(), RunState::Running);
    bench.writes_on().await;
    machine.kill().await.unwrap();
    machine.kill().await.unwrap();
    assert_eq!(machine.ended(), Some(MachineEnd::Died));
    assert_eq!(machine.run_state().await.unwrap(), RunState::Ended);
    let mut last = events.recv().await.unwrap();
    while last == MachineEvent::Room {
        last = events.recv().await.unwrap();
    }
    assert_eq!(last, MachineEvent::Gone(MachineEnd::Died));
    assert!(bench.pids(QEMU).is_empty());
    assert!(driver.adopt().await.unwrap().is_empty());
    driver.forget(bench.guest).await.unwrap();
    assert!(!bench.path("state/guests").join(bench.guest.to_string()).exists());
}

#[tokio::test]
async fn a_machine_outlives_its_driver_and_is_adopted() {
    let bench = Bench::new();
    let config = bench.config("primary.raw");
    let machine = bench.writing_guest().await;
    let pids = bench.pids(QEMU);
    drop(machine);
    bench.writes_on().await;

    let adopted = bench.driver(None).adopt().await.unwrap();
    assert_eq!(adopted.len(), 1);
    assert_eq!(adopted[0].label(), &config.label);
    assert_eq!(adopted[0].run_state().await.unwrap(), RunState::Running);
    assert_eq!(bench.pids(QEMU), pids);
    let again = bench.driver(None).launch(&config).await.unwrap_err();
    assert!(matches!(again, HostError::Conflict(_)), "{again}");
    assert!(again.to_string().contains("it runs already"), "{again}");
    let busy = bench.driver(None).forget(bench.guest).await.unwrap_err();
    assert!(matches!(busy, HostError::Conflict(_)), "{busy}");
    bench.writes_on().await;
    adopted[0].kill().await.unwrap();
    assert!(bench.pids(QEMU).is_empty());
}

#[tokio::test]
async fn a_machine_whose_number_was_never_noted_is_adopted_too() {
    let bench = Bench::new();
    drop(bench.writing_guest().await);
    let record = bench.path("run/guests").join(bench.guest.to_string()).join("label.json");
    let mut fields: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    fields["process"] = serde_json::Value::Null;
    std::fs::write(&record, fields.to_string()).unwrap();

    assert_eq!(bench.driver(None).adopt().await.unwrap().len(), 1);
    // And noted now.
    let fields: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    assert_eq!(fields["process"]["pid"], bench.pids(QEMU)[0]);
}

#[tokio::test]
async fn a_machine_without_a_readable_label_is_ended_not_adopted() {
    let bench = Bench::new();
    drop(bench.writing_guest().await);
    let record = bench.path("run/guests").join(bench.guest.to_string()).join("label.json");
    std::fs::write(record, "{}").unwrap();
    assert!(bench.driver(None).adopt().await.unwrap().is_empty());
    assert!(bench.pids(QEMU).is_empty());
}

#[tokio::test]
async fn a_machine_that_does_not_answer_is_ended_not_adopted() {
    let bench = Bench::new();
    drop(bench.writing_guest().await);
    signal(bench.pids(QEMU)[0], "-STOP");
    assert!(bench.driver(None).adopt().await.unwrap().is_empty());
    assert!(bench.pids(QEMU).is_empty());
}

#[tokio::test]
async fn a_guest_gets_the_processor_it_asks_for_or_none() {
    let bench = Bench::new();
    let driver = bench.driver(None);
    let with = |level| MachineConfig { cpu: CpuModel::Level(level), ..bench.config("primary.raw") };
    for level in [CpuLevel::V1, CpuLevel::V2, CpuLevel::V3] {
        let machine = driver.launch(&with(level)).await.unwrap();
        machine.kill().await.unwrap();
    }
    // Emulation has no AVX-512.
    let refused = driver.launch(&with(CpuLevel::V4)).await.unwrap_err().to_string();
    assert!(refused.contains("doesn't support requested feature"), "{refused}");

    let types = driver.machine_types().await.unwrap();
    let oldest = types.iter().find(|name| name.as_str() == "pc-q35-7.2").unwrap();
    let config = MachineConfig { machine_type: Some(oldest.clone()), ..bench.config("primary.raw") };
    let machine = driver.launch(&config).await.unwrap();
    assert_eq!(machine.machine_type().await.unwrap(), *oldest);
}

#[tokio::test]
async fn a_guest_that_shuts_down_is_told_from_one_that_dies() {
    let bench = Bench::new();
    let machine = bench.driver(None).launch(&bench.config("quitter.raw")).await.unwrap();
    machine.resume().await.unwrap();
    wait_until("the guest has shut down", || machine.ended().is_some()).await;
    assert_eq!(machine.ended(), Some(MachineEnd::GuestShutdown));

    let machine = bench.writing_guest().await;
    bench.kill_9(QEMU);
    wait_until("the death is noticed", || machine.ended().is_some()).await;
    assert_eq!(machine.ended(), Some(MachineEnd::Died));
}

/// How often the guest that panics has booted, by what it said.
fn boots(driver: &QemuDriver, bench: &Bench) -> usize {
    let said = std::fs::read(driver.serial_log(bench.guest)).unwrap_or_default();
    said.iter().filter(|byte| **byte == b'P').count()
}

async fn wait_for_panic(machine: &Arc<dyn Machine>) {
    let mut events = machine.events();
    while machine.run_state().await.unwrap() != RunState::Panicked {
        drop(tokio::time::timeout(Duration::from_millis(100), events.recv()).await);
    }
}

#[tokio::test]
async fn a_guest_that_panics_stands_still_until_it_is_reset() {
    let bench = Bench::new();
    let driver = bench.driver(None);
    let machine = driver.launch(&bench.config("panicker.raw")).await.unwrap();
    machine.resume().await.unwrap();
    wait_until("it has panicked", || boots(&driver, &bench) == 1).await;
    wait_for_panic(&machine).await;
    // A daemon that was away finds it.
    drop(machine);
    let machine = bench.driver(None).adopt().await.unwrap().remove(0);
    assert_eq!(machine.run_state().await.unwrap(), RunState::Panicked);
    let mut events = machine.events();
    let picture = machine.picture().await.unwrap();
    assert!(picture.format == "png" && picture.bytes.starts_with(b"\x89PNG"), "{}", picture.format);
    machine.reset().await.unwrap();
    while events.recv().await.unwrap() != MachineEvent::Reset {}
    wait_until("it has booted again", || boots(&driver, &bench) == 2).await;
    wait_for_panic(&machine).await;
    machine.kill().await.unwrap();
}

#[tokio::test]
async fn what_a_guests_disks_do_is_counted_and_one_that_runs_can_be_reset() {
    let bench = Bench::new();
    let machine = bench.writing_guest().await;
    let before = machine.disk_requests().await.unwrap();
    bench.writes_on().await;
    assert!(machine.disk_requests().await.unwrap() > before);
    let pids = bench.pids(QEMU);
    machine.reset().await.unwrap();
    bench.writes_on().await;
    assert_eq!((bench.pids(QEMU), machine.run_state().await.unwrap()), (pids, RunState::Running));
    let silent = machine.ping().await.unwrap_err();
    assert!(matches!(silent, HostError::TimedOut(_)), "{silent}");
    machine.kill().await.unwrap();
}

#[tokio::test]
async fn what_cannot_start_says_why_and_leaves_nothing() {
    let bench = Bench::new();
    let driver = bench.driver(None);
    let absent = driver.launch(&bench.config("absent.raw")).await.unwrap_err();
    assert!(matches!(absent, HostError::NotFound(_)), "{absent}");

    let machine = bench.writing_guest().await;
    let mut rival = bench.config("primary.raw");
    rival.label.id = model::GuestId(bench.volume.0);
    let locked = driver.launch(&rival).await.unwrap_err().to_string();
    assert!(locked.contains("lock"), "two writers of one disk: {locked}");
    assert_eq!(bench.pids(QEMU).len(), 1);
    bench.writes_on().await;
    drop(machine);
}

#[tokio::test]
async fn the_serial_port_can_be_listened_to() {
    let bench = Bench::new();
    let machine = bench.writing_guest().await;
    let mut stream = machine.serial().await.unwrap();
    let mut heard = [0; 64];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut heard).await.unwrap();
    assert!(heard.contains(&b'\n'), "{heard:?}");
}

#[tokio::test]
async fn machines_and_replicas_run_as_an_unprivileged_user() {
    let Some(nobody) = RunAs::look_up("nobody") else { return };
    let bench = Bench::new();
    let driver = bench.driver(Some(nobody));
    let machine = driver.launch(&bench.config("primary.raw")).await.unwrap();
    machine.resume().await.unwrap();
    bench.writes_on().await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", bench.pids(QEMU)[0])).unwrap();
    let expected = format!("Uid:\t{0}\t{0}\t{0}\t{0}", nobody.uid);
    assert!(status.contains(&expected), "{status}");
    assert!(status.contains("Seccomp:\t2"), "the sandbox is off: {status}");

    let replicas = bench.replicas(Some(nobody));
    replicas.serve(bench.volume, &bench.export(1), bench.path("secondary.raw")).await.unwrap();
    let target = bench.replica_address();
    machine.attach_mirror(bench.volume, target, &bench.export(1), Fill::Everything).await.unwrap();
    common::wait_until_ready(&machine, bench.volume).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", bench.pids("qemu-storage-daemon")[0]));
    assert!(status.unwrap().contains(&expected));
    machine.kill().await.unwrap();
}
