//! What this host says of itself: written when it starts, and when something of it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use host::accelerator;
use model::{
    Accelerator, AcceleratorKind, BootId, Bytes, Compatibility, GuestName, HardwareWatchdog, HostReport,
    ImageName, Incoming, PoolName, PoolOnHost,
};
use store::keys;
use tokio::sync::watch;

use crate::config::Config;
use crate::images::Images;
use crate::state::State;

/// The program whose accelerators are tried.
const QEMU: &str = "qemu-system-x86_64";

/// The image whose boot proves an accelerator.
const TINY: &str = "tiny";

/// Between two looks at the room for volumes.
const ROOM_EVERY: Duration = Duration::from_secs(1);

/// What is said of a disk without room.
const FULL: &str = "its disk for volumes is full, or nearly so: its thin volumes have no second replica, and a guest here \
                    stands still at the next write that finds no room; make room, and both pass by themselves";

/// Between two tries to write the report.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What does not change while the daemon runs.
#[derive(Debug, Clone)]
pub struct Facts {
    pub boot_id: BootId,
    pub qemu_version: String,
    pub kernel_version: String,
    pub cpus: u32,
    pub memory: Bytes,
    pub disk: Bytes,
    pub compatibility: Compatibility,
}

impl Facts {
    pub async fn gather(config: &Config, driver: &host::qemu::QemuDriver) -> anyhow::Result<Facts> {
        Ok(Facts {
            boot_id: host::facts::boot_id()?,
            qemu_version: driver.qemu_version().await?,
            kernel_version: host::facts::kernel_version()?,
            cpus: host::facts::cpus(),
            memory: host::facts::memory()?,
            disk: host::facts::disk_size(&volumes_or_state(config))?,
            compatibility: Compatibility {
                machine_types: driver.machine_types().await?,
                cpu_level: host::facts::cpu_level()?,
                cpu_vendor: host::facts::cpu_vendor()?,
            },
        })
    }
}

/// The folder of the volumes may be a file system of its own. Before it is made, it will be in that of the state.
fn volumes_or_state(config: &Config) -> PathBuf {
    let volumes = config.volumes_dir();
    if volumes.is_dir() { volumes } else { config.state_dir.clone() }
}

/// Whether there is little room for volumes; one that was short is not until there is twice as much.
fn short_of_room(config: &Config, was: bool) -> bool {
    let room = host::facts::room(&volumes_or_state(config));
    room.map_or(was, |(free, short)| free.0 < if was { 2 * short.0 } else { short.0 })
}

/// Whether a thin volume has a replica here.
fn holds_thin(state: &State, config: &Config) -> bool {
    let cache = state.read();
    let view = cache.view();
    view.guests.values().filter(|guest| guest.disks.iter().any(|disk| disk.thin)).any(|guest| {
        view.assignments
            .get(&guest.name)
            .is_some_and(|a| a.host == config.name || a.secondary.as_ref() == Some(&config.name))
    })
}

/// What the agent tells of this host.
#[derive(Debug)]
pub struct Told {
    pub problems: watch::Receiver<BTreeMap<String, String>>,
    pub incoming: watch::Receiver<BTreeMap<GuestName, Incoming>>,
    pub pools: watch::Receiver<BTreeMap<PoolName, PoolOnHost>>,
    pub hardware_watchdog: watch::Receiver<Option<HardwareWatchdog>>,
}

/// Keeps the report true, for ever.
pub async fn keep(
    config: Config,
    facts: Facts,
    state: State,
    images: Images,
    accelerator: watch::Receiver<Accelerator>,
    told: Told,
) {
    let (mut arrivals, mut accelerators) = (images.arrivals(), accelerator);
    let Told { mut problems, mut incoming, mut pools, mut hardware_watchdog } = told;
    state.ready().await;
    let mut short = false;
    loop {
        short = short_of_room(&config, short);
        arrivals.borrow_and_update();
        let accelerator = accelerators.borrow_and_update().clone();
        let incoming_now = incoming.borrow_and_update().values().cloned().collect();
        let pools_now = pools.borrow_and_update().clone();
        let mut problems_now: Vec<String> = problems.borrow_and_update().values().cloned().collect();
        if short && holds_thin(&state, &config) {
            problems_now.push(FULL.to_owned());
        }
        let report = HostReport {
            host: config.name.clone(),
            boot_id: facts.boot_id,
            kennel_version: env!("CARGO_PKG_VERSION").to_owned(),
            qemu_version: facts.qemu_version.clone(),
            kernel_version: facts.kernel_version.clone(),
            cpus: facts.cpus,
            memory: facts.memory,
            disk: facts.disk,
            accelerator,
            images: complete_images(&state, &images),
            problems: problems_now,
            uplinks: config.uplinks(),
            incoming: incoming_now,
            compatibility: facts.compatibility.clone(),
            pools: pools_now,
            short_of_room: short,
            hardware_watchdog: hardware_watchdog.borrow_and_update().clone(),
        };
        let told = state.read().view().host_reports.get(&config.name) == Some(&report);
        let key = keys::host(&config.name);
        if !told
            && !matches!(
                state
                    .write(|txn| {
                        txn.exists(&key).put(&report);
                    })
                    .await,
                Ok(store::Outcome::Committed { .. })
            )
        {
            tokio::time::sleep(RETRY_AFTER).await;
            continue;
        }
        tokio::select! {
            Ok(()) = arrivals.changed() => {}
            Ok(()) = accelerators.changed() => {}
            Ok(()) = problems.changed() => {}
            Ok(()) = incoming.changed() => {}
            Ok(()) = pools.changed() => {}
            Ok(()) = hardware_watchdog.changed() => {}
            () = tokio::time::sleep(ROOM_EVERY) => {}
        }
    }
}

fn complete_images(state: &State, images: &Images) -> BTreeSet<ImageName> {
    let cache = state.read();
    let here = cache.view().images.values().filter(|image| images.files().has(image));
    here.map(|image| image.name.clone()).collect()
}

/// What QEMU runs guests with until the tiny guest has shown something better.
pub fn untested() -> Accelerator {
    let why = "the self-test has not run yet: it boots the image 'tiny' (`kennel image build tiny`)";
    Accelerator { kind: AcceleratorKind::Tcg, why: why.to_owned() }
}

/// Finds the accelerator as soon as the tiny image is here. The answer is good for one boot, and is kept in
/// the run directory, which does not outlive it.
pub async fn find_accelerator(
    config: Config,
    images: Images,
    found: watch::Sender<Accelerator>,
    state: State,
) {
    let remembered: PathBuf = config.run_dir.join("accelerator.json");
    let old = std::fs::read(&remembered).ok().and_then(|text| serde_json::from_slice(&text).ok());
    if let Some(accelerator) = old {
        let _ = found.send(accelerator);
        return;
    }
    let mut arrivals = images.arrivals();
    state.ready().await;
    loop {
        arrivals.borrow_and_update();
        let tiny = state.read().view().images.values().find(|image| image.name.as_str() == TINY).cloned();
        let files = tiny.as_ref().filter(|image| images.files().has(image));
        let files = files.and_then(|image| Some((image.kernel.clone()?, image.initrd.clone()?)));
        let paths = files.map(|(kernel, initrd)| (images.path(&kernel), images.path(&initrd)));
        let qemu = std::path::Path::new(QEMU);
        let pair = paths.as_ref().map(|(kernel, initrd)| (kernel.as_path(), initrd.as_path()));
        let accelerator = accelerator::detect(qemu, pair).await;
        let tested = pair.is_some();
        if tested && let Ok(text) = serde_json::to_vec(&accelerator) {
            // Not remembering it costs a test at the next start, no more.
            let _ = std::fs::write(&remembered, text);
        }
        let _ = found.send(accelerator);
        if tested || arrivals.changed().await.is_err() {
            return;
        }
    }
}
