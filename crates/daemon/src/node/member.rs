//! A daemon that belongs to a cluster: everything that runs in it, and how it hangs together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use api::{EndConnections, HashRequest, PromiseRequest, StoreMemberView};
use async_trait::async_trait;
use host::compare::PieceHash;
use host::fence::Agents;
use host::image::store::ImageFiles;
use host::network::Networks;
use host::qemu::RunAs;
use host::replica::{ReplicaConfig, StorageDaemon};
use host::series::Series;
use host::usage::Reading;
use host::volume::Volumes;
use host::watchdog::Guard;
use host::{HostError, Machine};
use model::{GuestId, HostName, HostUsage, NamedPool, VolumeId};
use plan::limits::PROMISE;
use store::Store;
use store::etcd::EtcdStore;
use store::member::StoreMember;
use tokio::sync::watch;

use super::{Node, store_member, tls};
use crate::agent::{Agent, Parts, Pools};
use crate::builds::Builds;
use crate::config::{Config, Identity, store_client_url};
use crate::events::Events;
use crate::fencing::Fencer;
use crate::held::Held;
use crate::http::Backend;
use crate::images::Images;
use crate::leader::{Alerter, Balancer, Incidents, Leader};
use crate::peer::PeerClient;
use crate::pki::HostIdentity;
use crate::state::State;
use crate::usage::Usages;
use crate::{host_report, http, session};

/// The parts of a running member that others ask.
#[derive(Debug)]
pub struct Member {
    pub identity: Mutex<Identity>,
    pub agent: Arc<Agent>,
    pub peers: PeerClient,
    pub usages: Usages,
    held: Held,
    etcd: Arc<EtcdStore>,
    /// Dropping it would end the supervision of this host's etcd.
    store_member: Option<StoreMember>,
}

/// Starts everything. Returns when the API answers; the store need not.
pub async fn start(node: &Arc<Node>, identity: Identity) -> anyhow::Result<Arc<Member>> {
    let config = &node.config;
    let listener = http::bind(config.api_address())?;
    let (store_member, etcd) = store_member::open(config, &identity).await?;
    start_with(node, identity, listener, store_member, etcd).await
}

/// As [`start`], with the store open and the API's port taken.
pub async fn start_with(
    node: &Arc<Node>,
    identity: Identity,
    listener: tokio::net::TcpListener,
    store_member: Option<StoreMember>,
    etcd: EtcdStore,
) -> anyhow::Result<Arc<Member>> {
    let config = node.config.clone();
    let pki = read_pki(&config)?;
    tls::write(&config, &pki, RunAs::look_up(&config.guest_user))?;
    let peers = PeerClient::new(identity.cluster.clone(), pki.client_config()?);
    let etcd = Arc::new(etcd);
    let state = State::start(etcd.clone() as Arc<dyn Store>);
    let log = config.state_dir.join("watchdog.log");
    let watchdog = Arc::new(Guard::open(&config.run_dir, log, node.facts.boot_id)?);
    let session = session::keep(state.clone(), config.name.clone(), node.facts.boot_id, watchdog.clone());
    let events = Events::new(state.clone(), config.name.clone());
    let files = ImageFiles::new(config.state_dir.join("images"))?;
    let images = Images::new(config.name.clone(), state.clone(), files, peers.clone());
    let (found, accelerator) = watch::channel(host_report::untested());
    let agent =
        Agent::new(parts(node, &state, &events, (&session, watchdog), &images, &peers, &accelerator)?);
    let usages = Usages::new(config.name.clone(), state.clone(), peers.clone());
    let identity = Mutex::new(identity);
    let held = Held::follow(state.clone(), config.name.clone());
    let member =
        Member { identity, agent: agent.clone(), peers, usages: usages.clone(), held, etcd, store_member };
    let member = Arc::new(member);
    tokio::spawn(http::serve(listener, Arc::new(pki.server_config()?), member.clone()));
    tokio::spawn(agent.pools.clone().keep());
    tokio::spawn(agent.clone().run());
    tokio::spawn(crate::agent::verify::keep(agent.clone()));
    tokio::spawn(usages.measure(agent.clone()));
    let fencer = Fencer::new(state.clone(), Agents::default());
    let leader = Leader::new(config.name.clone(), state.clone(), events.clone(), session, fencer);
    tokio::spawn(Incidents::new(member.clone(), events.clone(), leader.leads()).run());
    tokio::spawn(Alerter::new(config.name.clone(), state.clone(), leader.leads()).run());
    tokio::spawn(Balancer::new(state.clone(), events, member.usages.clone(), leader.leads()).run());
    tokio::spawn(leader.run());
    tokio::spawn(images.clone().keep());
    tokio::spawn(Builds::new(config.clone(), state.clone(), images.clone()).keep());
    tokio::spawn(host_report::find_accelerator(config.clone(), images.clone(), found, state.clone()));
    let facts = node.facts.clone();
    let (problems, incoming, pools) = (agent.problems(), agent.incoming(), agent.pools.found());
    let (armed, hardware_watchdog) = watch::channel(None);
    tokio::spawn(crate::watchdog::keep(agent.clone(), armed));
    let told = host_report::Told { problems, incoming, pools, hardware_watchdog };
    tokio::spawn(host_report::keep(config.clone(), facts, state, images, accelerator, told));
    tokio::spawn(follow_store_members(config.clone(), member.clone()));
    if member.has_store_member() {
        let etcd = member.etcd.clone();
        tokio::spawn(async move {
            if let Err(error) = store_member::promote(&config, &etcd).await {
                tracing::error!(error = %format!("{error:#}"), "this host's member of the store has no vote");
            }
        });
    }
    Ok(member)
}

fn parts(
    node: &Node,
    state: &State,
    events: &Events,
    (session, watchdog): (&watch::Receiver<session::Standing>, Arc<Guard>),
    images: &Images,
    peers: &PeerClient,
    accelerator: &watch::Receiver<model::Accelerator>,
) -> anyhow::Result<Parts> {
    let config = node.config.clone();
    let run_as = RunAs::look_up(&config.guest_user);
    let owner = run_as.map(|user| (user.uid, user.gid));
    let mut replicas = ReplicaConfig::new(config.run_dir.clone(), config.replica_address());
    replicas.run_as = run_as;
    replicas.tls = Some(tls::files(&config));
    Ok(Parts {
        boot: node.facts.boot_id,
        state: state.clone(),
        events: events.clone(),
        session: session.clone(),
        driver: node.driver.clone(),
        replicas: StorageDaemon::new(replicas),
        volumes: Volumes::new(config.volumes_dir(), owner)?,
        pools: Pools::new(state.clone(), owner),
        networks: Networks::new()?,
        images: images.clone(),
        peer_client: peers.clone(),
        accelerator: accelerator.clone(),
        watchdog,
        config,
    })
}

pub fn read_pki(config: &Config) -> anyhow::Result<HostIdentity> {
    let files = store_member::pki_files(config);
    let read = |path: &std::path::Path| {
        std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
    };
    Ok(HostIdentity { ca: read(&files.ca)?, certificate: read(&files.cert)?, key: read(&files.key)? })
}

/// Keeps the addresses of the store's members as the cluster's records say, this host's own first, also for
/// the next start.
async fn follow_store_members(config: Config, member: Arc<Member>) {
    let state = member.agent.state.clone();
    let mut changes = state.changes();
    state.ready().await;
    let own = store_client_url(config.address);
    loop {
        changes.borrow_and_update();
        let mut endpoints: Vec<String> = {
            let cache = state.read();
            let members = cache.view().hosts.values().filter(|host| host.store_member);
            members.map(|host| store_client_url(host.address)).collect()
        };
        endpoints.sort_by_key(|url| *url != own);
        let identity = {
            let mut identity = member.identity.lock().unwrap_or_else(PoisonError::into_inner);
            let changed = !endpoints.is_empty() && identity.store_endpoints != endpoints;
            if changed {
                identity.store_endpoints = endpoints.clone();
            }
            changed.then(|| identity.clone())
        };
        if let Some(identity) = identity {
            if let Err(error) = member.etcd.set_endpoints(endpoints) {
                tracing::error!(%error, "cannot follow the store's members");
            }
            if let Err(error) = identity.save(&config) {
                tracing::error!(error = %format!("{error:#}"), "cannot remember the store's members");
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

#[async_trait]
impl Backend for Member {
    fn me(&self) -> &HostName {
        &self.agent.me
    }

    fn state(&self) -> &State {
        &self.agent.state
    }

    fn machine(&self, guest: GuestId) -> Option<Arc<dyn Machine>> {
        self.agent.machine_of(guest)
    }

    fn images(&self) -> &ImageFiles {
        self.agent.images.files()
    }

    fn peers(&self) -> &PeerClient {
        &self.peers
    }

    async fn promise(&self, asker: &HostName, request: &PromiseRequest) -> u64 {
        let given = self.agent.promises.give(&self.agent.state, request.guest_id, request.epoch, asker);
        if given { u64::try_from(PROMISE.as_millis()).unwrap_or(0) } else { 0 }
    }

    async fn end_connections(&self, request: &EndConnections) -> Result<(), HostError> {
        self.agent.end_connections(request).await
    }

    async fn replica_hashes(&self, request: &HashRequest) -> Result<Vec<PieceHash>, HostError> {
        self.agent.hashes(request).await
    }

    async fn take_pool(&self, pool: &NamedPool) -> Result<(), HostError> {
        self.agent.pools.take(pool).await
    }

    fn own_usage(&self) -> Option<HostUsage> {
        self.usages.own()
    }

    async fn usages(&self) -> BTreeMap<HostName, HostUsage> {
        self.usages.fresh().await
    }

    fn reading(&self) -> Option<Reading> {
        self.usages.reading()
    }

    fn series(&self) -> Option<Arc<Series>> {
        self.usages.series()
    }

    async fn last_lines(
        &self,
        guest: GuestId,
        bytes_max: u64,
    ) -> Result<Option<(Vec<u8>, SystemTime)>, HostError> {
        self.agent.driver.last_lines(guest, bytes_max).await
    }

    async fn last_moments(&self, guest: GuestId) -> Result<Vec<host::qemu::LastMoment>, HostError> {
        self.agent.driver.last_moments(guest).await
    }

    fn held(&self) -> BTreeMap<VolumeId, Duration> {
        self.held.totals()
    }

    async fn store_members(&self) -> Vec<StoreMemberView> {
        let health = self.etcd.health().await;
        let leader = health.iter().find_map(|(_, h)| h.as_ref().ok().and_then(|h| h.leader));
        let name_of = |url: &str| {
            let cache = self.agent.state.read();
            let hosts = cache.view().hosts.values().map(|host| (host.name.clone(), host.address));
            hosts.into_iter().find(|(_, address)| store_client_url(*address) == url).map(|(name, _)| name)
        };
        let views = health.iter().filter_map(|(url, answer)| {
            let host = name_of(url)?;
            Some(match answer {
                Ok(health) => StoreMemberView {
                    host,
                    healthy: health.problems.is_empty(),
                    is_leader: leader == Some(health.id),
                    message: health.problems.first().cloned(),
                },
                Err(error) => StoreMemberView {
                    host,
                    healthy: false,
                    is_leader: false,
                    message: Some(error.to_string()),
                },
            })
        });
        views.collect()
    }
}

impl Member {
    fn has_store_member(&self) -> bool {
        self.store_member.is_some()
    }

    /// The name of the cluster that this host belongs to.
    pub fn cluster(&self) -> String {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).cluster.clone()
    }
}

/// Where this daemon's API listens.
pub fn api_endpoint(address: SocketAddr) -> String {
    format!("https://{address}")
}
