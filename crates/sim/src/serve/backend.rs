//! The server's view of a host behind which there is nothing: it says what such hosts would measure.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use api::{EndConnections, HashRequest, PromiseRequest, StoreMemberView};
use async_trait::async_trait;
use daemon::{PeerClient, State};
use host::compare::PieceHash;
use host::image::store::ImageFiles;
use host::usage::{Counters, Reading};
use host::{HostError, Machine};
use jiff::Timestamp;
use model::{GuestId, GuestUsage, HostName, HostUsage, Usage};
use sim::rng::Rng;

/// How often hosts measure themselves.
const SAMPLE_S: i64 = 5;

#[derive(Debug)]
pub struct Backend {
    me: HostName,
    state: State,
    peers: PeerClient,
    images: ImageFiles,
    seed: u64,
}

impl Backend {
    /// `folder`: for images that are uploaded.
    pub fn new(
        me: HostName,
        state: State,
        peers: PeerClient,
        folder: &Path,
        seed: u64,
    ) -> anyhow::Result<Backend> {
        Ok(Backend { me, state, peers, images: ImageFiles::new(folder.to_owned())?, seed })
    }
}

/// What something uses in one sample, up to so many cores: some of it all the time, some by chance.
fn usage(seed: u64, who: &str, sample: i64, cores: f64, memory: f64) -> Usage {
    let name = who.bytes().fold(seed, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    let share = |rng: &mut Rng| rng.below(1000) as f64 / 1000.0;
    let steady = share(&mut Rng::new(name));
    let mut now = Rng::new(name ^ sample.cast_unsigned().wrapping_mul(0x9e37_79b9));
    let load = 0.3 * steady + 0.1 * share(&mut now);
    Usage {
        cpu: cores * load,
        memory: memory * (0.5 + 0.4 * steady),
        disk: 1e6 * share(&mut now),
        network: 1e5 * share(&mut now),
    }
}

#[async_trait]
impl daemon::Backend for Backend {
    fn me(&self) -> &HostName {
        &self.me
    }

    fn state(&self) -> &State {
        &self.state
    }

    fn machine(&self, _guest: GuestId) -> Option<Arc<dyn Machine>> {
        None
    }

    fn images(&self) -> &ImageFiles {
        &self.images
    }

    fn peers(&self) -> &PeerClient {
        &self.peers
    }

    async fn promise(&self, _asker: &HostName, _request: &PromiseRequest) -> u64 {
        0
    }

    async fn end_connections(&self, _request: &EndConnections) -> Result<(), HostError> {
        Err(HostError::NotFound("a made-up host serves no replicas".to_owned()))
    }

    async fn replica_hashes(&self, _request: &HashRequest) -> Result<Vec<PieceHash>, HostError> {
        Err(HostError::NotFound("a made-up host serves no replicas".to_owned()))
    }

    fn own_usage(&self) -> Option<HostUsage> {
        None
    }

    async fn usages(&self) -> BTreeMap<HostName, HostUsage> {
        let view = self.state.view();
        let at = Timestamp::now();
        let sample = at.as_second() / SAMPLE_S;
        let mut hosts: BTreeMap<HostName, HostUsage> = view
            .host_reports
            .values()
            .filter(|report| view.is_live(&report.host))
            .map(|report| {
                let cores = f64::from(report.cpus);
                let total = usage(self.seed, report.host.as_str(), sample, cores, report.memory.0 as f64);
                let (host, guests) = (report.host.clone(), BTreeMap::new());
                let measured =
                    HostUsage { host: host.clone(), at, window_s: 300, measured_s: 300, total, guests };
                (host, measured)
            })
            .collect();
        for assignment in view.assignments.values() {
            let Some(spec) = view.guests.get(&assignment.guest) else { continue };
            let Some(host) = hosts.get_mut(&assignment.host) else { continue };
            let cores = f64::from(spec.vcpus);
            let used = usage(self.seed, spec.name.as_str(), sample, cores, spec.memory.0 as f64);
            host.guests.insert(spec.name.clone(), GuestUsage { usage: used, measured_s: 300 });
        }
        hosts
    }

    /// Counters that have run for an hour.
    fn reading(&self) -> Option<Reading> {
        let view = self.state.view();
        let of = |used: Usage| Counters {
            cpu_s: used.cpu * 3600.0,
            memory: used.memory as u64,
            disk: (used.disk * 3600.0) as u64,
            network: (used.network * 3600.0) as u64,
        };
        let mine = view.assignments.values().filter(|assignment| assignment.host == self.me);
        let guests = mine.map(|assignment| {
            (assignment.guest_id, of(usage(self.seed, assignment.guest.as_str(), 0, 2.0, 1e9)))
        });
        let total = of(usage(self.seed, self.me.as_str(), 0, 32.0, 1e11));
        Some(Reading::of_counters(total, guests))
    }

    async fn store_members(&self) -> Vec<StoreMemberView> {
        let view = self.state.view();
        let members = view.hosts.values().filter(|host| host.store_member);
        let member = |host: &model::Host| StoreMemberView {
            host: host.name.clone(),
            healthy: true,
            is_leader: host.name == self.me,
            message: None,
        };
        members.map(member).collect()
    }
}
