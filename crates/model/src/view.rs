//! Everything in the store at one revision, as the deciders and the API see it.

use std::collections::BTreeMap;

use crate::{
    AccessToken, AddressClaim, AlertName, AlertState, AlertTarget, Assignment, Bytes, Cluster, ConfirmedDead,
    CpuLevel, Event, EventId, Fence, FenceDevices, GroupRestarts, GuestName, GuestReport, GuestSpec, Host,
    HostName, HostPhase, HostReport, Image, ImageName, InSync, Incident, IncidentId, JobId, JobReport,
    JobSpec, Losses, NamedPool, Network, NetworkName, PoolName, PoolOnHost, Replica, ReplicaDrop, Rule,
    RuleName, Session, User, UserName, Verified, VolumeId,
};

/// The cluster at one revision of the store. What could not be decoded stands in `damaged`, and nowhere else.
#[derive(Debug, Clone, Default)]
pub struct ClusterView {
    pub revision: i64,
    pub cluster: Option<Cluster>,
    /// Who runs the cluster-wide loops.
    pub leader: Option<HostName>,
    pub hosts: BTreeMap<HostName, Host>,
    pub sessions: BTreeMap<HostName, Session>,
    pub host_reports: BTreeMap<HostName, HostReport>,
    pub guests: BTreeMap<GuestName, GuestSpec>,
    pub assignments: BTreeMap<GuestName, Assignment>,
    pub guest_reports: BTreeMap<GuestName, GuestReport>,
    pub in_sync: BTreeMap<VolumeId, InSync>,
    pub drops: BTreeMap<(HostName, VolumeId), ReplicaDrop>,
    /// By the SHA-256 of the token, hexadecimal.
    pub tokens: BTreeMap<String, AccessToken>,
    pub users: BTreeMap<UserName, User>,
    pub rules: BTreeMap<RuleName, Rule>,
    pub networks: BTreeMap<NetworkName, Network>,
    pub addresses: BTreeMap<(NetworkName, std::net::IpAddr), AddressClaim>,
    pub images: BTreeMap<ImageName, Image>,
    /// Those that an operator has made.
    pub pools: BTreeMap<PoolName, NamedPool>,
    /// Hosts that an operator called dead, and that have not been heard since.
    pub confirmed_dead: BTreeMap<HostName, ConfirmedDead>,
    /// What can take each host's power.
    pub fence_devices: BTreeMap<HostName, FenceDevices>,
    /// Hosts whose power is to be off, and that have not been heard since.
    pub fences: BTreeMap<HostName, Fence>,
    /// Which hosts are lost, and since when; `None` until one was.
    pub losses: Option<Losses>,
    pub group_restarts: BTreeMap<GuestName, GroupRestarts>,
    pub jobs: BTreeMap<JobId, JobSpec>,
    pub job_reports: BTreeMap<JobId, JobReport>,
    pub events: BTreeMap<EventId, Event>,
    pub incidents: BTreeMap<IncidentId, Incident>,
    /// Who is told of incidents.
    pub alerts: BTreeMap<AlertName, AlertTarget>,
    /// What they have been told.
    pub alert_states: BTreeMap<AlertName, AlertState>,
    /// Keys whose values no build of ours could have written, and what is wrong with each.
    pub damaged: BTreeMap<String, String>,
}

/// What is known of a host's life. Lost is not dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// Its session is there, in this boot.
    Live(crate::BootId),
    Lost,
}

impl ClusterView {
    /// The level that the processors of all hosts reach. None: some host does not tell its own, or reaches none.
    pub fn lowest_cpu_level(&self) -> Option<CpuLevel> {
        let reports = self.hosts.keys().filter_map(|host| self.host_reports.get(host));
        reports.map(|report| report.compatibility.cpu_level).min().flatten()
    }

    /// What the last comparison of each volume's replicas has found, as far as their jobs are kept.
    pub fn verified(&self) -> BTreeMap<VolumeId, &Verified> {
        let mut last: BTreeMap<VolumeId, &Verified> = BTreeMap::new();
        for job in self.jobs.values() {
            let report = self.job_reports.get(&job.id);
            let found = report.and_then(|report| report.verified.as_ref());
            let Some((volume, found)) = job.kind.verifies().zip(found) else { continue };
            if last.get(&volume).is_none_or(|before| before.at < found.at) {
                last.insert(volume, found);
            }
        }
        last
    }

    /// Whether a difference that was found is still to be thought to be there: both replicas are where they were, and
    /// the second one has not been filled since because somebody asked.
    pub fn still_differs(&self, volume: VolumeId, found: &Verified) -> bool {
        found.unlike > Bytes(0)
            && self.in_sync.get(&volume).is_some_and(|set| {
                set.resync == found.resync && found.hosts.iter().all(|host| set.contains_host(host))
            })
    }

    pub fn liveness(&self, host: &HostName) -> Liveness {
        self.sessions.get(host).map_or(Liveness::Lost, |session| Liveness::Live(session.boot_id))
    }

    pub fn is_live(&self, host: &HostName) -> bool {
        self.sessions.contains_key(host)
    }

    /// Whether the boot in which a replica acknowledged its writes is the one that is live now.
    pub fn boot_is_live(&self, replica: &Replica) -> bool {
        self.liveness(&replica.host) == Liveness::Live(replica.boot_id)
    }

    /// Why a host does not reach a pool that hosts share; one sentence without a full stop. `None`: it does.
    pub fn pool_problem(&self, host: &HostName, pool: &PoolName) -> Option<String> {
        let Some(record) = self.pools.get(pool) else { return Some(format!("there is no pool '{pool}'")) };
        let report = self.host_reports.get(host).and_then(|report| report.pools.get(pool));
        match report.filter(|report| report.id == record.id) {
            None => Some(format!("it has not looked at the pool '{pool}' yet")),
            Some(PoolOnHost { problem: None, .. }) => None,
            Some(PoolOnHost { problem: Some(why), .. }) => {
                Some(format!("it does not reach the pool '{pool}': {why}"))
            }
        }
    }

    pub fn host_phase(&self, host: &HostName) -> HostPhase {
        match self.liveness(host) {
            Liveness::Live(_) => HostPhase::Online,
            Liveness::Lost if self.host_reports.contains_key(host) => HostPhase::Lost,
            Liveness::Lost => HostPhase::Joining,
        }
    }
}
