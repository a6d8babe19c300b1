//! A cluster of servers without agents: the tests write what hosts and the leader would.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use api::{
    Client, ClientConfig, ClientError, EndConnections, HashRequest, Problem, PromiseRequest, StoreMemberView,
};
use async_trait::async_trait;
use host::compare::PieceHash;
use host::fence::Agents;
use host::image::store::ImageFiles;
use host::series::Series;
use host::{HostError, Machine};
use jiff::Timestamp;
use model::{
    Accelerator, AcceleratorKind, Assignment, BootId, Bytes, Cluster, Epoch, GuestId, GuestName, GuestReport,
    GuestState, Host, HostName, HostReport, HostUsage, Session, Settings, TokenUse,
};
use store::{Fault, MemoryStore, Outcome, Secret, TxnBuilder, keys};
use tempfile::TempDir;
use uuid::Uuid;

use crate::http::{Backend, bind, new_token, serve};
use crate::peer::PeerClient;
use crate::pki::{CA_KEY_SECRET, CertificateAuthority, HostIdentity, HostKey};
use crate::state::State;

/// Long enough for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct TestBackend {
    me: HostName,
    state: State,
    images: ImageFiles,
    peers: PeerClient,
    pub machines: Mutex<BTreeMap<GuestId, Arc<dyn Machine>>>,
    /// What it measured.
    pub usage: Mutex<Option<HostUsage>>,
    pub series: Arc<Series>,
    /// What guests said last here.
    pub said: Mutex<BTreeMap<GuestId, (Vec<u8>, SystemTime)>>,
    agents: Agents,
}

#[async_trait]
impl Backend for TestBackend {
    fn me(&self) -> &HostName {
        &self.me
    }

    fn state(&self) -> &State {
        &self.state
    }

    fn machine(&self, guest: GuestId) -> Option<Arc<dyn Machine>> {
        self.machines.lock().unwrap().get(&guest).cloned()
    }

    fn images(&self) -> &ImageFiles {
        &self.images
    }

    fn peers(&self) -> &PeerClient {
        &self.peers
    }

    async fn promise(&self, asker: &HostName, request: &PromiseRequest) -> u64 {
        if asker.as_str() == "host2" { 1000 + request.epoch.0 } else { 0 }
    }

    async fn end_connections(&self, request: &EndConnections) -> Result<(), HostError> {
        match request.export.as_str() {
            "served" => Ok(()),
            other => Err(HostError::NotFound(format!("'{other}' is nothing that this host serves"))),
        }
    }

    async fn replica_hashes(&self, request: &HashRequest) -> Result<Vec<PieceHash>, HostError> {
        match request.export.as_str() {
            "served" => Ok(vec![[7; 32]; 2]),
            other => Err(HostError::NotFound(format!("'{other}' is nothing that this host serves"))),
        }
    }

    fn own_usage(&self) -> Option<HostUsage> {
        self.usage.lock().unwrap().clone()
    }

    fn series(&self) -> Option<Arc<Series>> {
        Some(self.series.clone())
    }

    async fn last_lines(&self, guest: GuestId, _: u64) -> Result<Option<(Vec<u8>, SystemTime)>, HostError> {
        Ok(self.said.lock().unwrap().get(&guest).cloned())
    }

    fn fence_agents(&self) -> Agents {
        self.agents.clone()
    }

    async fn store_members(&self) -> Vec<StoreMemberView> {
        Vec::new()
    }
}

/// One served host.
pub struct TestHost {
    pub backend: Arc<TestBackend>,
    pub endpoint: String,
    link: Arc<MemoryStore>,
    task: tokio::task::JoinHandle<()>,
}

impl TestHost {
    /// Its kenneld dies.
    pub fn end(&self) {
        self.task.abort();
    }

    /// How its link to the store fails from now on.
    pub fn fault(&self, fault: Fault) {
        self.link.set_fault(fault);
    }
}

pub struct TestCluster {
    store: Arc<MemoryStore>,
    pub state: State,
    pub authority: CertificateAuthority,
    pub hosts: Vec<TestHost>,
    pub token: String,
    folder: TempDir,
    network: u8,
}

/// Each cluster has a loopback network of its own, because all hosts have the same port.
static NETWORKS: AtomicU8 = AtomicU8::new(1);

pub fn host_name(index: usize) -> HostName {
    format!("host{}", index + 1).parse().unwrap()
}

impl TestCluster {
    pub async fn start(hosts: usize) -> Self {
        let store = Arc::new(MemoryStore::new());
        let authority = CertificateAuthority::create("test").unwrap();
        let (token, stored) = new_token("admin", TokenUse::Admin, Timestamp::now(), None);
        let cluster = Cluster {
            name: "test".to_owned(),
            id: Uuid::new_v4(),
            created_at: Timestamp::now(),
            ca_certificate: authority.certificate_pem().to_owned(),
            settings: Settings::default(),
        };
        let state = State::start(store.clone());
        state.until(store::Cache::is_ready).await;
        let key = Secret { name: CA_KEY_SECRET.to_owned(), text: authority.key_pem().to_owned() };
        let folder = tempfile::tempdir().unwrap();
        let network = process_network() ^ NETWORKS.fetch_add(1, Ordering::Relaxed);
        let mut this = Self { store, state, authority, hosts: Vec::new(), token, folder, network };
        this.write(|txn| {
            txn.create(&model::Schema::CURRENT).create(&cluster).create(&stored).create(&key);
        })
        .await;
        for index in 0..hosts {
            this.add_host(index).await;
        }
        this
    }

    pub fn address(&self, index: usize) -> IpAddr {
        format!("127.78.{}.{}", self.network, index + 1).parse().unwrap()
    }

    async fn add_host(&mut self, index: usize) {
        let (name, address) = (host_name(index), self.address(index));
        let (host, session, report) = records(&name, address);
        self.write(|txn| {
            txn.create(&host).create(&session).create(&report);
        })
        .await;
        let key = HostKey::create().unwrap();
        let request = key.signing_request(&name).unwrap();
        let identity = HostIdentity {
            ca: self.authority.certificate_pem().to_owned(),
            certificate: self.authority.issue_host(&request, &name, address).unwrap(),
            key: key.key_pem(),
        };
        let link = Arc::new(self.store.another_link());
        let state = State::start(link.clone());
        state.ready().await;
        let backend = Arc::new(TestBackend {
            me: name.clone(),
            state,
            images: ImageFiles::new(self.folder.path().join(name.as_str())).unwrap(),
            peers: PeerClient::new("test".to_owned(), identity.client_config().unwrap()),
            machines: Mutex::default(),
            usage: Mutex::default(),
            agents: Agents::in_folders(vec![self.agents()]),
            series: Arc::new(Series::open(&self.folder.path().join(name.as_str())).unwrap()),
            said: Mutex::default(),
        });
        let listener = bind(SocketAddr::new(address, api::PORT)).unwrap();
        let tls = Arc::new(identity.server_config().unwrap());
        let task = tokio::spawn(serve(listener, tls, backend.clone()));
        let endpoint = format!("https://{}:{}", address, api::PORT);
        self.hosts.push(TestHost { backend, endpoint, link, task });
    }

    /// Where every host finds its fence agents.
    pub fn agents(&self) -> std::path::PathBuf {
        self.folder.path().join("agents")
    }

    pub fn config(&self) -> ClientConfig {
        ClientConfig {
            cluster: "test".to_owned(),
            endpoints: self.hosts.iter().map(|host| host.endpoint.clone()).collect(),
            token: self.token.clone(),
            ca: self.authority.certificate_pem().to_owned(),
        }
    }

    /// An operator's client that knows every host.
    pub fn client(&self) -> Client {
        Client::from_config(self.config()).unwrap()
    }

    /// An operator's client that knows one host.
    pub fn client_of(&self, index: usize) -> Client {
        let endpoints = vec![self.hosts[index].endpoint.clone()];
        Client::from_config(ClientConfig { endpoints, ..self.config() }).unwrap()
    }

    /// What the leader does with a new guest, and what its host says of it.
    pub async fn settle(&self, guest: &GuestName, host: usize, state: GuestState) {
        let view = self.state.view();
        let spec = view.guests.get(guest).unwrap();
        let assignment = Assignment {
            guest: guest.clone(),
            guest_id: spec.id,
            host: host_name(host),
            epoch: Epoch::FIRST,
            secondary: None,
            why: "the test says so".to_owned(),
            handover: None,
            handed_over_by: None,
        };
        let report = GuestReport {
            guest: guest.clone(),
            guest_id: spec.id,
            host: host_name(host),
            boot_id: view.sessions[&host_name(host)].boot_id,
            epoch: Epoch::FIRST,
            state,
            boot_generation: spec.boot_generation,
            since: Timestamp::now(),
            accelerator: None,
            exit: None,
            volumes: Vec::new(),
            message: None,
            machine_type: None,
            cpu: None,
            migration: None,
            no_room: false,
            failed_at: None,
            health: None,
        };
        self.write(|txn| {
            txn.put(&assignment).put(&report);
        })
        .await;
    }

    /// Its host says something else of a guest.
    pub async fn settle_state(&self, guest: &GuestName, state: GuestState) {
        let view = self.state.view();
        let generation = view.guests[guest].boot_generation;
        let report = view.guest_reports[guest].clone();
        let report = GuestReport { state, boot_generation: generation, ..report };
        self.write(|txn| {
            txn.put(&report);
        })
        .await;
    }

    /// Writes records, and waits until every host knows them.
    pub async fn write(&self, build: impl FnOnce(&mut TxnBuilder<'_>)) {
        let txn = {
            let cache = self.state.read();
            let mut txn = cache.txn();
            build(&mut txn);
            txn.build().unwrap()
        };
        let outcome = self.state.commit(txn).await.unwrap();
        assert!(matches!(outcome, Outcome::Committed { .. }));
        self.spread().await;
    }

    /// Waits until every host knows what the store holds.
    pub async fn spread(&self) {
        let revision = self.state.read().revision();
        for host in &self.hosts {
            let knows = host.backend.state.until(|cache| cache.revision() >= revision);
            tokio::time::timeout(PATIENCE, knows).await.unwrap();
        }
    }

    pub async fn delete(&self, key: &str) {
        self.write(|txn| {
            txn.delete(key);
        })
        .await;
    }

    pub async fn lose_host(&self, index: usize) {
        self.hosts[index].end();
        self.delete(&keys::session(&host_name(index))).await;
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        self.hosts.iter().for_each(TestHost::end);
    }
}

/// Several test processes may run at the same time.
fn process_network() -> u8 {
    u8::try_from(std::process::id() % 251).unwrap()
}

fn records(name: &HostName, address: IpAddr) -> (Host, Session, HostReport) {
    let boot_id = BootId(Uuid::new_v4());
    let host = Host {
        name: name.clone(),
        address,
        zone: name.to_string(),
        tags: BTreeSet::new(),
        joined_at: Timestamp::now(),
        store_member: true,
        duty: model::Duty::default(),
        settings: model::HostSettings::default(),
    };
    let session = Session { host: name.clone(), boot_id, started_at: Timestamp::now() };
    let report = HostReport {
        host: name.clone(),
        boot_id,
        kennel_version: "0".to_owned(),
        qemu_version: "10.0".to_owned(),
        kernel_version: "6.12".to_owned(),
        cpus: 4,
        memory: Bytes::gib(8),
        disk: Bytes::gib(200),
        accelerator: Accelerator { kind: AcceleratorKind::Tcg, why: "a test".to_owned() },
        images: BTreeSet::new(),
        problems: Vec::new(),
        uplinks: BTreeMap::new(),
        incoming: vec![],
        compatibility: Default::default(),
        pools: Default::default(),
        short_of_room: false,
        hardware_watchdog: None,
    };
    (host, session, report)
}

pub fn guest(name: &str) -> GuestName {
    name.parse().unwrap()
}

/// The refusal in an answer.
#[track_caller]
pub fn refusal<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> Problem {
    match answer {
        Err(ClientError::Refused(problem)) => problem,
        other => panic!("this is no refusal: {other:?}"),
    }
}
