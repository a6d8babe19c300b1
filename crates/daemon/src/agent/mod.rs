//! The agent: makes this host's guests what the store says they should be.
//!
//! One [`keeper`] for each guest that this host owns, mirrors or runs. A keeper is the only one on this host
//! that touches its guest: it looks, asks `plan::converge` for one step, takes it, and looks again.

mod check;
mod fill;
mod guard;
mod hashes;
mod health;
mod keeper;
mod live;
mod look;
mod machine;
mod order;
mod peers;
mod pools;
mod promises;
mod records;
mod report;
mod steps;
pub mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use host::network::Networks;
use host::qemu::{QemuDriver, RunAs};
use host::replica::StorageDaemon;
use host::volume::Volumes;
use host::watchdog::Guard;
use host::{ExportName, HostError, Hypervisor, Machine, ReplicaServer};
use model::{
    Accelerator, AcceleratorKind, Assignment, BootId, ClusterView, GuestId, GuestName, HostName, Incoming,
    ReplicaDrop, VolumeId,
};
use store::keys;
use tokio::sync::watch;
use tokio::time::Instant;

pub use pools::Pools;
pub use promises::Promises;

use crate::config::Config;
use crate::events::Events;
use crate::images::Images;
use crate::peer::PeerClient;
use crate::session::Standing;
use crate::state::State;

/// How old an answer of the replica server may be: its death is noticed within this time.
const EXPORTS_GOOD_FOR: Duration = Duration::from_millis(900);

/// What a replica server serves.
type Exports = BTreeMap<VolumeId, ExportName>;

/// What every keeper works with.
#[derive(Debug)]
pub struct Agent {
    pub me: HostName,
    pub boot: BootId,
    pub config: Config,
    pub state: State,
    pub events: Events,
    pub session: watch::Receiver<Standing>,
    pub driver: Arc<QemuDriver>,
    pub replicas: StorageDaemon,
    /// On this host's own disks.
    pub volumes: Volumes,
    pub pools: Arc<Pools>,
    pub networks: Networks,
    pub images: Images,
    pub peer_client: PeerClient,
    pub accelerator: watch::Receiver<Accelerator>,
    pub promises: Promises,
    pub looks: peers::Looks,
    network_checks: health::NetworkChecks,
    /// What ends machines when this daemon does not.
    pub watchdog: Arc<Guard>,
    /// What the replica server serves, as last asked.
    exports: tokio::sync::Mutex<Option<(Instant, Exports)>>,
    machines: Mutex<BTreeMap<GuestName, Arc<dyn Machine>>>,
    problems: watch::Sender<BTreeMap<String, String>>,
    incoming: watch::Sender<BTreeMap<GuestName, Incoming>>,
}

/// What an agent is made of.
#[derive(Debug)]
pub struct Parts {
    pub boot: BootId,
    pub config: Config,
    pub state: State,
    pub events: Events,
    pub session: watch::Receiver<Standing>,
    pub driver: Arc<QemuDriver>,
    pub replicas: StorageDaemon,
    pub volumes: Volumes,
    pub pools: Arc<Pools>,
    pub networks: Networks,
    pub images: Images,
    pub peer_client: PeerClient,
    pub accelerator: watch::Receiver<Accelerator>,
    pub watchdog: Arc<Guard>,
}

impl Agent {
    pub fn new(parts: Parts) -> Arc<Agent> {
        let Parts { boot, config, state, events, session, driver, replicas, volumes, .. } = parts;
        let Parts { pools, networks, images, peer_client, accelerator, watchdog, .. } = parts;
        Arc::new(Agent {
            me: config.name.clone(),
            boot,
            config,
            state,
            events,
            session,
            driver,
            replicas,
            volumes,
            pools,
            networks,
            images,
            peer_client,
            accelerator,
            promises: Promises::default(),
            looks: peers::Looks::default(),
            network_checks: health::NetworkChecks::default(),
            watchdog,
            exports: tokio::sync::Mutex::default(),
            machines: Mutex::default(),
            problems: watch::channel(BTreeMap::new()).0,
            incoming: watch::channel(BTreeMap::new()).0,
        })
    }

    /// The machine of a guest, if it runs here.
    pub fn machine_of(&self, guest: GuestId) -> Option<Arc<dyn Machine>> {
        let machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        machines.values().find(|machine| machine.label().id == guest).cloned()
    }

    /// Every machine that runs here.
    pub fn machines(&self) -> Vec<Arc<dyn Machine>> {
        let machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        machines.values().filter(|machine| machine.ended().is_none()).cloned().collect()
    }

    /// The user that guests run as.
    fn run_as(&self) -> Option<RunAs> {
        RunAs::look_up(&self.config.guest_user)
    }

    /// What runs the instructions of guests that are started now.
    fn accelerator(&self) -> AcceleratorKind {
        self.accelerator.borrow().kind
    }

    fn set_machine(&self, guest: &GuestName, machine: Option<Arc<dyn Machine>>) {
        let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        match machine {
            Some(machine) => machines.insert(guest.clone(), machine),
            None => machines.remove(guest),
        };
    }

    /// What a person should know of this host, one sentence each.
    pub fn problems(&self) -> watch::Receiver<BTreeMap<String, String>> {
        self.problems.subscribe()
    }

    /// Where machines of this host wait for guests that run elsewhere.
    pub fn incoming(&self) -> watch::Receiver<BTreeMap<GuestName, Incoming>> {
        self.incoming.subscribe()
    }

    fn incoming_of(&self, guest: &GuestName) -> Option<Incoming> {
        self.incoming.borrow().get(guest).cloned()
    }

    fn set_incoming(&self, guest: &GuestName, incoming: Option<Incoming>) {
        self.incoming.send_if_modified(|all| match incoming {
            Some(new) => all.insert(guest.clone(), new.clone()).as_ref() != Some(&new),
            None => all.remove(guest).is_some(),
        });
    }

    pub fn set_problem(&self, about: &str, problem: Option<String>) {
        self.problems.send_if_modified(|problems| match problem {
            Some(text) => problems.insert(about.to_owned(), text.clone()).as_ref() != Some(&text),
            None => problems.remove(about).is_some(),
        });
    }

    /// Adopts what runs, then keeps every guest that concerns this host, for ever.
    pub async fn run(self: Arc<Self>) {
        for machine in self.adopt().await {
            self.set_machine(&machine.label().guest.clone(), Some(machine));
        }
        self.state.ready().await;
        let served = self.served_volumes().await;
        let mut keepers: BTreeMap<GuestName, keeper::Handle> = BTreeMap::new();
        let mut changes = self.state.changes();
        loop {
            changes.borrow_and_update();
            self.drop_replicas().await;
            keepers.retain(|_, keeper| !keeper.is_finished());
            let concerning = {
                let cache = self.state.read();
                self.name_strangers(cache.view());
                self.concerning(cache.view(), &served)
            };
            for name in concerning {
                keepers
                    .entry(name.clone())
                    .or_insert_with(|| keeper::Handle::start(self.clone(), name.clone()));
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Machines of ours that run already. Tried until it works: starting anything before would be dangerous.
    async fn adopt(&self) -> Vec<Arc<dyn Machine>> {
        loop {
            match self.driver.adopt().await {
                Ok(machines) => return machines,
                Err(error) => tracing::error!(%error, "cannot find out which guests run; trying again"),
            }
            tokio::time::sleep(plan::limits::RETRY_FIRST).await;
        }
    }

    /// Volumes that the replica server serves already, from before this daemon started.
    async fn served_volumes(&self) -> BTreeSet<VolumeId> {
        match self.exports().await {
            Ok(exports) => exports.into_keys().collect(),
            Err(error) => {
                tracing::warn!(%error, "cannot find out which replicas are served");
                BTreeSet::new()
            }
        }
    }

    /// What is served now, give or take a second; one question for all keepers.
    async fn exports(&self) -> Result<Exports, HostError> {
        let mut known = self.exports.lock().await;
        if let Some((_, exports)) = known.as_ref().filter(|(at, _)| at.elapsed() < EXPORTS_GOOD_FOR) {
            return Ok(exports.clone());
        }
        let exports: Exports = self.replicas.exports().await?.into_iter().collect();
        *known = Some((Instant::now(), exports.clone()));
        Ok(exports)
    }

    /// To be called whenever something was served or withdrawn.
    async fn forget_exports(&self) {
        *self.exports.lock().await = None;
    }

    /// Guests that this host must look after.
    fn concerning(&self, view: &ClusterView, served: &BTreeSet<VolumeId>) -> Vec<GuestName> {
        let comes_here = |a: &Assignment| a.handover.as_ref().is_some_and(|handover| handover.to == self.me);
        let mine = |name: &GuestName| {
            view.assignments
                .get(name)
                .is_some_and(|a| a.host == self.me || a.secondary.as_ref() == Some(&self.me) || comes_here(a))
        };
        // It holds a replica that is counted on while another is filled, or has one to delete.
        let part = |volume: VolumeId| {
            view.in_sync.get(&volume).is_some_and(|set| set.contains_host(&self.me))
                || view.drops.contains_key(&(self.me.clone(), volume))
        };
        view.guests
            .values()
            .filter(|spec| view.assignments.contains_key(&spec.name))
            .filter(|spec| {
                mine(&spec.name)
                    || self.machine_of(spec.id).is_some()
                    || spec.disks.iter().any(|disk| served.contains(&disk.volume) || part(disk.volume))
            })
            .map(|spec| spec.name.clone())
            .collect()
    }

    /// Machines whose guests the store does not know: they are left alone, and a person is told.
    fn name_strangers(&self, view: &ClusterView) {
        let machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (name, machine) in machines {
            let key = keys::guest(&name);
            let known = view.guests.get(&name).is_some_and(|spec| spec.id == machine.label().id);
            let stranger = !known && !view.damaged.contains_key(&key) && machine.ended().is_none();
            let text =
                format!("the guest '{name}' runs here, and the store does not know it; it is left alone");
            self.set_problem(&format!("machine/{name}"), stranger.then_some(text));
        }
    }

    /// Obeys the records that tell this host to delete replicas of guests that are gone. Those of guests that live
    /// elsewhere are their keepers' business: only a keeper touches its guest's files.
    async fn drop_replicas(&self) {
        let drops: Vec<ReplicaDrop> = {
            let cache = self.state.read();
            let view = cache.view();
            let known =
                |volume| view.guests.values().any(|g| g.disks.iter().any(|disk| disk.volume == volume));
            let mine = view.drops.values().filter(|drop| drop.host == self.me);
            mine.filter(|drop| !known(drop.volume)).cloned().collect()
        };
        for order in drops {
            let done = async {
                self.end_forgotten(order.guest_id).await?;
                self.replicas.withdraw(order.volume).await?;
                self.forget_exports().await;
                match &order.pool_name {
                    Some(pool) => self.pools.volumes(pool).await?.delete(order.volume).await,
                    None => self.volumes.delete(order.volume).await,
                }
            };
            if let Err(error) = done.await {
                tracing::warn!(volume = %order.volume, %error, "cannot delete a replica yet");
                continue;
            }
            let key = keys::replica_drop(&self.me, order.volume);
            if let Err(error) = self
                .state
                .write(|txn| {
                    txn.delete(&key);
                })
                .await
            {
                tracing::debug!(%error, "a replica's deletion was not recorded; it is repeated");
            }
        }
    }

    /// Ends a machine of a guest that the cluster has forgotten.
    async fn end_forgotten(&self, guest: GuestId) -> Result<(), HostError> {
        if let Some(machine) = self.machine_of(guest) {
            machine.kill().await?;
            self.set_machine(&machine.label().guest, None);
        }
        self.driver.forget(guest).await
    }
}
