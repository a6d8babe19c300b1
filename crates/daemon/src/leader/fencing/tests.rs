//! How the leader takes power, with agents of a few lines and a store in memory.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use host::fence::Agents;
use model::{
    Assignment, BootId, Bytes, DeviceName, DiskSpec, Epoch, FenceDevice, GuestId, GuestSpec, Pool, PowerWish,
    Seed, Session, VolumeId,
};
use store::{Fault, Leader, LeaseId, MemoryStore};
use tempfile::TempDir;

use super::*;

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn name(n: u128) -> HostName {
    format!("host{n}").parse().unwrap()
}

/// Three hosts. A guest in shared storage runs on host1, whose power is a file; host2 or host3 leads.
struct World {
    store: Arc<MemoryStore>,
    state: State,
    folder: TempDir,
}

impl World {
    async fn new() -> World {
        let store = Arc::new(MemoryStore::new());
        let state = State::start(store.clone());
        state.until(store::Cache::is_ready).await;
        let world = World { store, state, folder: tempfile::tempdir().unwrap() };
        world.agent("fence_good", "off) rm -f \"$switch\" ;;\nstatus) [ -e \"$switch\" ] || exit 2 ;;");
        world.agent("fence_liar", "*) exit 0 ;;");
        std::fs::write(world.switch(), "").unwrap();
        let report: model::HostReport = serde_json::from_value(serde_json::json!({
            "host": "host1", "boot_id": Uuid::from_u128(1), "kennel_version": "", "qemu_version": "",
            "kernel_version": "", "cpus": 1, "memory": 1, "disk": 1, "images": [], "problems": [], "uplinks": {},
            "accelerator": { "kind": "tcg", "why": "" },
        }))
        .unwrap();
        let (spec, assignment) = guest();
        let hosts = [1, 2, 3].map(host);
        world
            .write(|txn| {
                txn.create(&report).create(&spec).create(&assignment);
                hosts.iter().for_each(|host| {
                    txn.create(host);
                });
            })
            .await;
        world
    }

    async fn write(&self, build: impl FnOnce(&mut TxnBuilder<'_>)) {
        let outcome = self.state.write(build).await.unwrap();
        assert!(matches!(outcome, Outcome::Committed { .. }));
    }

    async fn create(&self, record: &impl store::Record) {
        self.write(|txn| {
            txn.create(record);
        })
        .await;
    }

    fn agent(&self, name: &str, does: &str) {
        let path = self.folder.path().join(name);
        let read = "#!/bin/sh\nwhile IFS='=' read -r name value; do eval \"$name=\\$value\"; done\n";
        let log = self.folder.path().join("log").display().to_string();
        let text = format!("{read}echo {name} $action >> {log}\ncase $action in\n{does}\nesac\n");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn switch(&self) -> PathBuf {
        self.folder.path().join("switch")
    }

    fn has_power(&self) -> bool {
        self.switch().exists()
    }

    /// What the agents were asked, one line each.
    fn asked(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Host1's devices: name, agent, level, delay.
    async fn devices(&self, devices: &[(&str, &str, u8, u32)]) {
        let switch = self.switch().display().to_string();
        let device = |(name, agent, level, delay_s): &(&str, &str, u8, u32)| {
            let device = FenceDevice {
                id: Uuid::new_v4(),
                agent: (*agent).to_owned(),
                options: [("switch".to_owned(), switch.clone())].into(),
                secrets: BTreeSet::new(),
                level: *level,
                delay_s: *delay_s,
            };
            (name.parse::<DeviceName>().unwrap(), device)
        };
        let devices = devices.iter().map(device).collect();
        self.write(|txn| {
            txn.put(&FenceDevices { host: name(1), devices });
        })
        .await;
    }

    /// What host1 says of the hardware that resets it.
    async fn watchdog(&self, hardware_watchdog: Option<model::HardwareWatchdog>) {
        let before = self.state.read().view().host_reports[&name(1)].clone();
        let report = model::HostReport { hardware_watchdog, ..before };
        self.write(|txn| {
            txn.put(&report);
        })
        .await;
    }

    async fn session(&self) {
        let session =
            Session { host: name(1), boot_id: BootId(Uuid::from_u128(1)), started_at: Timestamp::now() };
        self.write(|txn| {
            txn.put(&session).delete(&keys::fence(&name(1)));
        })
        .await;
    }

    /// This host leads from now on, over a link of its own.
    async fn leader(&self, n: u128) -> Leading {
        let link = Arc::new(self.store.another_link());
        let state = State::start(link.clone());
        state.until(store::Cache::is_ready).await;
        self.write(|txn| {
            txn.put(&Leader::new(name(n), LeaseId(n as i64)));
        })
        .await;
        let since = self.state.read().revision_of(keys::LEADER);
        state.until(|cache| cache.revision_of(keys::LEADER) == since).await;
        let agents = Agents::in_folders(vec![self.folder.path().to_owned()]);
        let mut fencing = Fencing::new(name(n), state.clone(), Fencer::new(state.clone(), agents));
        fencing.silent_within = Duration::from_millis(300);
        Leading { link, state, since, fencing }
    }

    fn fence(&self) -> Option<Fence> {
        self.state.read().view().fences.get(&name(1)).cloned()
    }

    fn events(&self, kind: EventKind) -> Vec<String> {
        let view = self.state.view();
        view.events.values().filter(|event| event.kind == kind).map(|event| event.message.clone()).collect()
    }
}

struct Leading {
    link: Arc<MemoryStore>,
    state: State,
    since: i64,
    fencing: Fencing,
}

impl Leading {
    /// Turns of the leader until this is so in the store.
    async fn until(&mut self, world: &World, holds: impl Fn(&ClusterView) -> bool) {
        let mut changes = self.state.changes();
        let turns = async {
            while !holds(world.state.read().view()) {
                let now = Timestamp::now();
                let _ = self.fencing.advance(self.since, now, now).await;
                let _ = tokio::time::timeout(Duration::from_millis(50), changes.changed()).await;
            }
        };
        tokio::time::timeout(PATIENCE, turns).await.expect("it comes to that");
    }

    /// As if so much time had passed since the leader began to count.
    fn let_pass(&mut self, length: Duration) {
        for awaited in self.fencing.awaited.values_mut() {
            awaited.begun = awaited.begun.checked_sub(length).unwrap();
        }
    }

    async fn until_fence(&mut self, world: &World, holds: impl Fn(&Fence) -> bool) -> Fence {
        self.until(world, |view| view.fences.get(&name(1)).is_some_and(&holds)).await;
        world.fence().unwrap()
    }
}

fn host(n: u128) -> model::Host {
    model::Host {
        name: name(n),
        address: [10, 77, 0, n as u8].into(),
        zone: String::new(),
        tags: BTreeSet::new(),
        joined_at: Timestamp::UNIX_EPOCH,
        store_member: true,
        duty: model::Duty::default(),
        settings: model::HostSettings::default(),
    }
}

fn guest() -> (GuestSpec, Assignment) {
    let disk = DiskSpec {
        volume: VolumeId(Uuid::from_u128(9)),
        pool: Pool::Shared,
        size: Bytes::gib(1),
        image: None,
        pool_name: Some("nfs1".parse().unwrap()),
        thin: false,
    };
    let spec = GuestSpec {
        name: "web1".parse().unwrap(),
        id: GuestId(Uuid::from_u128(8)),
        created_at: Timestamp::UNIX_EPOCH,
        vcpus: 1,
        memory: Bytes::gib(1),
        boot: model::BootFrom::Disk,
        disks: vec![disk],
        nics: vec![],
        seed: Seed::default(),
        power: PowerWish::Running,
        boot_generation: 1,
        priority: 0,
        stop_timeout_s: 30,
        preferred_host: None,
        deleting: false,
        tags: BTreeSet::new(),
        pinned: false,
        start_after: BTreeSet::new(),
        restart_with: BTreeSet::new(),
        resync: Default::default(),
        health: Default::default(),
    };
    let assignment = Assignment {
        guest: spec.name.clone(),
        guest_id: spec.id,
        host: name(1),
        epoch: Epoch::FIRST,
        secondary: None,
        why: "a test".into(),
        handover: None,
        handed_over_by: None,
    };
    (spec, assignment)
}

fn by_hand() -> Fence {
    Fence {
        host: name(1),
        id: Uuid::new_v4(),
        boot_id: BootId(Uuid::from_u128(1)),
        asked_by: "admin".into(),
        by_hand: true,
        why: "it hangs".into(),
        since: Timestamp::now(),
        tries: 0,
        tried_at: None,
        problem: None,
        off: None,
        reset: None,
    }
}

#[tokio::test]
async fn the_record_says_off_after_the_device_has_said_so() {
    let world = World::new().await;
    world.devices(&[("bmc", "fence_good", 1, 0)]).await;
    let mut leader = world.leader(2).await;
    let fence = leader.until_fence(&world, |fence| fence.off.is_some()).await;
    let off = fence.off.unwrap();
    assert!(!world.has_power());
    assert_eq!((off.devices, off.seen_by), (BTreeSet::from(["bmc".parse().unwrap()]), name(2)));
    assert_eq!((fence.tries, fence.asked_by.as_str()), (1, "the leader"));
    assert_eq!(world.asked(), "fence_good off\nfence_good status\n");
    assert_eq!(world.events(EventKind::HostFenced), ["the power of host1 is off: bmc said so"]);
    assert!(world.events(EventKind::HostFencing)[0].contains("may still run web1"));
    // Nothing more is done.
    let now = Timestamp::now();
    leader.fencing.advance(leader.since, now, now).await.unwrap();
    assert_eq!(world.fence().unwrap().tries, 1);
}

#[tokio::test]
async fn a_device_that_lies_proves_nothing_and_the_next_level_is_asked() {
    let world = World::new().await;
    world.devices(&[("liar", "fence_liar", 1, 0)]).await;
    let mut leader = world.leader(2).await;
    let fence = leader.until_fence(&world, |fence| fence.problem.is_some()).await;
    assert_eq!(fence.problem.unwrap(), "liar: it said that the power is off, and then that it is on");
    assert!(fence.off.is_none() && world.has_power());
    let told = world.events(EventKind::HostFencing);
    assert!(told[1].starts_with("the power of host1 is not proven to be off: liar:"), "{told:?}");
    world.devices(&[("liar", "fence_liar", 1, 0), ("bmc", "fence_good", 2, 0)]).await;
    let off = leader.until_fence(&world, |fence| fence.off.is_some()).await.off.unwrap();
    assert_eq!(off.devices, BTreeSet::from(["bmc".parse().unwrap()]));
    assert!(!world.has_power());
}

#[tokio::test]
async fn all_devices_of_a_level_must_say_so() {
    let world = World::new().await;
    world.devices(&[("psu-a", "fence_good", 1, 0), ("psu-b", "fence_liar", 1, 0)]).await;
    let mut leader = world.leader(2).await;
    let fence = leader.until_fence(&world, |fence| fence.problem.is_some()).await;
    assert!(fence.off.is_none());
    assert!(fence.problem.unwrap().starts_with("psu-b: "));
}

#[tokio::test]
async fn a_new_leader_goes_on_where_the_old_one_died() {
    let world = World::new().await;
    world.devices(&[("bmc", "fence_good", 1, 0)]).await;
    world.agent("fence_good", "off) sleep 600 ;;");
    let mut old = world.leader(2).await;
    old.until_fence(&world, |fence| fence.tries == 1).await;
    world.agent("fence_good", "off) rm -f \"$switch\" ;;\nstatus) [ -e \"$switch\" ] || exit 2 ;;");
    let mut new = world.leader(3).await;
    let fence = new.until_fence(&world, |fence| fence.off.is_some()).await;
    assert_eq!((fence.tries, fence.off.unwrap().seen_by), (2, name(3)));
    // The old one, which does not know, writes nothing.
    old.fencing.stop();
}

#[tokio::test]
async fn who_reaches_no_quorum_switches_nothing() {
    let world = World::new().await;
    world.devices(&[("bmc", "fence_good", 1, 1)]).await;
    let mut cut_off = world.leader(2).await;
    cut_off.until_fence(&world, |fence| fence.tries == 1).await;
    cut_off.link.set_fault(Fault::Unavailable);
    let running = cut_off.fencing.tries.get_mut(&name(1)).unwrap();
    tokio::time::timeout(PATIENCE, &mut running.task).await.unwrap().unwrap();
    assert!(world.has_power());
    assert_eq!(world.asked(), "");
    // The side that does takes over.
    let mut leader = world.leader(3).await;
    leader.until_fence(&world, |fence| fence.off.is_some()).await;
    assert!(!world.has_power());
}

#[tokio::test]
async fn one_who_was_replaced_without_knowing_switches_nothing() {
    let world = World::new().await;
    world.devices(&[("bmc", "fence_good", 1, 1)]).await;
    let mut old = world.leader(2).await;
    old.until_fence(&world, |fence| fence.tries == 1).await;
    let _new = world.leader(3).await;
    let running = old.fencing.tries.get_mut(&name(1)).unwrap();
    tokio::time::timeout(PATIENCE, &mut running.task).await.unwrap().unwrap();
    assert!(world.has_power());
    assert_eq!(world.asked(), "");
}

#[tokio::test]
async fn a_host_that_is_heard_anew_keeps_its_power() {
    let world = World::new().await;
    world.devices(&[("bmc", "fence_good", 1, 3)]).await;
    let mut leader = world.leader(2).await;
    leader.until_fence(&world, |fence| fence.tries == 1).await;
    world.session().await;
    leader.until(&world, |view| view.is_live(&name(1)) && view.fences.is_empty()).await;
    let now = Timestamp::now();
    leader.state.until(|cache| cache.view().is_live(&name(1))).await;
    leader.fencing.advance(leader.since, now, now).await.unwrap();
    assert!(leader.fencing.tries.is_empty());
    assert!(world.has_power());
    assert_eq!(world.asked(), "");
}

#[tokio::test]
async fn the_first_proof_ends_the_gathering_of_others() {
    let world = World::new().await;
    world.devices(&[("bmc", "fence_good", 1, 60)]).await;
    let mut leader = world.leader(2).await;
    leader.until_fence(&world, |fence| fence.tries == 1).await;
    let boot_id = BootId(Uuid::from_u128(1));
    let word = model::ConfirmedDead { host: name(1), boot_id, by: "admin".into(), at: Timestamp::now() };
    world.create(&word).await;
    leader.until(&world, |view| view.fences.is_empty()).await;
    assert!(world.has_power());
}

#[tokio::test]
async fn a_device_of_another_host_does_not_prove_that_a_live_one_is_off() {
    let world = World::new().await;
    world.devices(&[("bmc", "fence_good", 1, 0)]).await;
    world.session().await;
    let fence = by_hand();
    world.create(&fence).await;
    let mut leader = world.leader(2).await;
    let fence = leader.until_fence(&world, Fence::is_over).await;
    assert!(fence.off.is_none());
    assert!(fence.problem.unwrap().contains("it is heard: they are another host's"));
}

#[tokio::test]
async fn an_operators_fence_waits_until_the_session_is_over() {
    let world = World::new().await;
    world.devices(&[("bmc", "fence_good", 1, 0)]).await;
    world.session().await;
    let fence = by_hand();
    world.create(&fence).await;
    let mut leader = world.leader(2).await;
    leader.fencing.silent_within = PATIENCE;
    leader.until(&world, |_| world.asked().contains("status")).await;
    assert!(world.fence().unwrap().off.is_none());
    world
        .write(|txn| {
            txn.delete(&keys::session(&name(1)));
        })
        .await;
    leader.until_fence(&world, |fence| fence.off.is_some()).await;
    assert_eq!(world.asked(), "fence_good off\nfence_good status\nfence_good status\n");
}

fn hardware() -> model::HardwareWatchdog {
    model::HardwareWatchdog { name: "iTCO_wdt".into(), timeout_s: 10, proves: true }
}

/// Twice its time-out, and the margin.
const RESETS_WITHIN: Duration = Duration::from_secs(25);

/// A leader that counts for host1.
async fn counting(world: &World, n: u128) -> Leading {
    let mut leader = world.leader(n).await;
    leader.until_fence(world, |_| true).await;
    let now = Timestamp::now();
    while leader.fencing.awaited.is_empty() {
        leader.fencing.advance(leader.since, now, now).await.unwrap();
    }
    leader
}

#[tokio::test]
async fn a_host_that_resets_itself_is_waited_for() {
    let world = World::new().await;
    world.watchdog(Some(hardware())).await;
    let mut leader = counting(&world, 2).await;
    let now = Timestamp::now();
    leader.let_pass(RESETS_WITHIN - Duration::from_secs(5));
    let wake_at = leader.fencing.advance(leader.since, now, now).await.unwrap().unwrap();
    assert!(world.fence().unwrap().reset.is_none(), "not yet");
    assert!(wake_at.duration_since(now) <= jiff::SignedDuration::from_secs(5));
    leader.let_pass(Duration::from_secs(5));
    let fence = leader.until_fence(&world, |fence| fence.reset.is_some()).await;
    let reset = fence.reset.unwrap();
    assert_eq!((reset.device.as_str(), reset.timeout_s, reset.counted_by), ("iTCO_wdt", 10, name(2)));
    let told = world.events(EventKind::HostFenced);
    assert_eq!(
        told,
        ["host1 was not heard for so long that its watchdog (iTCO_wdt) must have reset it after 10 s"]
    );
    assert_eq!(world.asked(), "", "there was nobody to ask");
}

#[tokio::test]
async fn a_host_that_was_heard_meanwhile_is_counted_for_anew() {
    let world = World::new().await;
    world.watchdog(Some(hardware())).await;
    let mut leader = counting(&world, 2).await;
    let first = world.fence().unwrap().id;
    // The leader hangs, and sees nothing of this: the host is heard, and lost again.
    world.session().await;
    world
        .write(|txn| {
            txn.delete(&keys::session(&name(1)));
        })
        .await;
    leader.let_pass(RESETS_WITHIN);
    let fence = leader.until_fence(&world, |fence| fence.id != first).await;
    assert_eq!(fence.reset, None);
    let now = Timestamp::now();
    leader.state.until(|cache| cache.view().fences.values().any(|seen| seen.id == fence.id)).await;
    leader.fencing.advance(leader.since, now, now).await.unwrap();
    assert!(world.fence().unwrap().reset.is_none(), "what passed before was another absence");
    leader.let_pass(RESETS_WITHIN);
    leader.until_fence(&world, |fence| fence.reset.is_some()).await;
}

#[tokio::test]
async fn the_next_leader_counts_for_itself() {
    let world = World::new().await;
    world.watchdog(Some(hardware())).await;
    let mut first = counting(&world, 2).await;
    first.let_pass(RESETS_WITHIN);
    let mut second = counting(&world, 3).await;
    let now = Timestamp::now();
    second.fencing.advance(second.since, now, now).await.unwrap();
    // The first one does not know yet that it leads no more.
    first.fencing.advance(first.since, now, now).await.ok();
    assert_eq!(world.fence().unwrap().reset, None);
    second.let_pass(RESETS_WITHIN);
    let fence = second.until_fence(&world, |fence| fence.reset.is_some()).await;
    assert_eq!(fence.reset.unwrap().counted_by, name(3));
}

#[tokio::test]
async fn a_host_whose_device_was_disarmed_proves_nothing() {
    let world = World::new().await;
    world.watchdog(Some(hardware())).await;
    let mut leader = counting(&world, 2).await;
    // It said so right before it was lost; the leader has not read it.
    leader.let_pass(RESETS_WITHIN);
    world.watchdog(None).await;
    leader.until(&world, |view| !view.fences.contains_key(&name(1))).await;
    assert_eq!(world.events(EventKind::HostFenced), [""; 0]);
}
