//! How long Kennel's own planner thinks about a live cluster, from one that is badly spread to one where nothing is to
//! be done; prints the table of docs/performance.md.
//!
//! ```text
//! cargo bench -p plan --bench proposal                    3 to 1,000 hosts
//! cargo bench -p plan --bench proposal -- 100/10000       that many hosts and guests
//! ```
//!
//! Every cluster is made from a seed, its guests mirrored, and becomes the records of a live cluster first, for the
//! proposal is what `kennel balance show` asks for: with a reason for each move and what stays wrong. Processor time is
//! that of all threads. The peak of memory is the whole process's, the records among it, up to that line.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use jiff::Timestamp;
use model::{
    Accelerator, AcceleratorKind, Assignment, BootFrom, BootId, Bytes, Cluster, ClusterView, DiskSpec, Duty,
    Epoch, GuestId, GuestReport, GuestSelector, GuestSpec, GuestState, GuestUsage, Host, HostName,
    HostReport, HostSettings, HostUsage, InSync, Pool, PowerWish, Replica, Rule, RuleKind, RuleStrength,
    Seed, Session, Settings, Usage, VolumeId,
};
use plan::inventory::{GUEST_OVERHEAD, Inventory};
use plan::proposal::{Options, Proposal, propose};
use plan::search::sample::{Profile, Sample};
use plan::snapshot::{GuestNeed, HostIx, HostRoom, Load, Snapshot, Storage};
use uuid::Uuid;

/// Hosts and guests when nothing is asked for.
const SIZES: [(usize, usize); 6] =
    [(3, 60), (10, 200), (40, 1000), (100, 2000), (100, 10_000), (1000, 50_000)];
const WINDOW_S: u32 = 300;

fn main() {
    // cargo passes an option of its own.
    let asked = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let mut sizes: Vec<(usize, usize)> = asked.filter_map(|size| parse(&size)).collect();
    if sizes.is_empty() {
        sizes = SIZES.to_vec();
    }
    println!("| hosts/guests | state | moves | score before | after | s | CPU s | peak MB |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    sizes.into_iter().for_each(|(hosts, guests)| measure(hosts, guests));
}

fn parse(size: &str) -> Option<(usize, usize)> {
    let (hosts, guests) = size.split_once('/')?;
    Some((hosts.parse().ok()?, guests.parse().ok()?))
}

fn measure(hosts: usize, guests: usize) {
    let name = format!("{hosts}/{guests}");
    for (profile, state) in [
        (Profile::Skew, "badly spread"),
        (Profile::NewHosts, "a quarter of the hosts is new"),
        (Profile::Packed, "one host filled after the other"),
    ] {
        let (snapshot, _) = Sample::new(hosts, guests, Storage::Mirrored, profile, 1).make();
        let mut live = Live::new(&snapshot);
        let proposal = propose_measured(&name, state, &live);
        live.carry_out(&proposal);
        propose_measured(&name, "after that plan", &live);
    }
}

fn propose_measured(name: &str, state: &str, live: &Live) -> Proposal {
    let inventory = Inventory::new(&live.view, &live.usage);
    let (cpu, wall) = (cpu_seconds(), Instant::now());
    let proposal = propose(&inventory, Options::default());
    let (cpu, wall) = (cpu_seconds() - cpu, wall.elapsed().as_secs_f64());
    println!(
        "| {name} | {state} | {} | {:.3} | {:.3} | {wall:.3} | {cpu:.2} | {} |",
        proposal.moves.len(),
        proposal.score_before,
        proposal.score_after,
        peak_megabytes()
    );
    proposal
}

/// The records of a live cluster.
struct Live {
    view: ClusterView,
    usage: BTreeMap<HostName, HostUsage>,
}

impl Live {
    fn new(snapshot: &Snapshot) -> Live {
        let cluster = Cluster {
            name: "bench".into(),
            id: Uuid::nil(),
            created_at: Timestamp::UNIX_EPOCH,
            ca_certificate: String::new(),
            settings: Settings::default(),
        };
        let mut live = Live {
            view: ClusterView { cluster: Some(cluster), ..ClusterView::default() },
            usage: BTreeMap::new(),
        };
        snapshot.hosts.iter().enumerate().for_each(|(at, room)| live.add_host(at, room));
        snapshot.guests.iter().enumerate().for_each(|(at, need)| live.add_guest(snapshot, at, need));
        for group in &snapshot.groups {
            let names = group.members.iter().filter_map(|guest| snapshot.guest(*guest).name.parse().ok());
            let Ok(name) = group.rule.parse() else { continue };
            let rule = Rule {
                name,
                kind: RuleKind::Apart,
                guests: GuestSelector { names: names.collect(), tags: BTreeSet::new() },
                strength: RuleStrength::Must,
                priority: 0,
                created_at: Timestamp::UNIX_EPOCH,
            };
            live.view.rules.insert(rule.name.clone(), rule);
        }
        live
    }

    fn add_host(&mut self, at: usize, room: &HostRoom) {
        let Ok(name) = room.name.parse::<HostName>() else { return };
        let boot_id = boot(at);
        let own = room.memory_total - room.memory;
        let settings = HostSettings { reserved_memory: Bytes(own), ..HostSettings::default() };
        let host = Host {
            name: name.clone(),
            address: [10, 77, (at / 250) as u8, (at % 250) as u8].into(),
            zone: format!("zone{at:04}"),
            tags: BTreeSet::new(),
            joined_at: Timestamp::UNIX_EPOCH,
            store_member: at < 3,
            duty: Duty::Normal,
            settings,
        };
        let report = HostReport {
            host: name.clone(),
            boot_id,
            kennel_version: "0".into(),
            qemu_version: "10.0".into(),
            kernel_version: "6".into(),
            cpus: room.cores as u32,
            memory: Bytes(room.memory_total),
            disk: Bytes(room.disk),
            accelerator: Accelerator { kind: AcceleratorKind::Kvm, why: "a benchmark".into() },
            images: BTreeSet::new(),
            problems: vec![],
            uplinks: BTreeMap::new(),
            incoming: vec![],
            compatibility: Default::default(),
            pools: Default::default(),
            short_of_room: false,
            hardware_watchdog: None,
        };
        let session = Session { host: name.clone(), boot_id, started_at: Timestamp::UNIX_EPOCH };
        let usage = HostUsage {
            host: name.clone(),
            at: Timestamp::UNIX_EPOCH,
            window_s: WINDOW_S,
            measured_s: 3600,
            total: Usage::default(),
            guests: BTreeMap::new(),
        };
        self.view.hosts.insert(name.clone(), host);
        self.view.host_reports.insert(name.clone(), report);
        self.view.sessions.insert(name.clone(), session);
        self.usage.insert(name, usage);
    }

    fn add_guest(&mut self, snapshot: &Snapshot, at: usize, need: &GuestNeed) {
        let (Ok(name), Some(place)) = (need.name.parse::<model::GuestName>(), need.place) else { return };
        let host_name = |host: HostIx| snapshot.host(host).name.parse::<HostName>().ok();
        let Some(host) = host_name(place.host) else { return };
        let volume = VolumeId(Uuid::from_u128(at as u128 | 1 << 64));
        let (pool, size) = (Pool::Mirror, Bytes(need.disk));
        let disk = DiskSpec { volume, pool, size, image: None, pool_name: None, thin: false };
        let id = GuestId(Uuid::from_u128(at as u128 | 2 << 64));
        let spec = GuestSpec {
            name: name.clone(),
            id,
            created_at: Timestamp::UNIX_EPOCH,
            vcpus: need.vcpus,
            memory: Bytes(need.memory - GUEST_OVERHEAD.0),
            boot: BootFrom::Disk,
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
            restart_with: Default::default(),
            resync: Default::default(),
            health: Default::default(),
        };
        let report = GuestReport {
            guest: name.clone(),
            guest_id: id,
            host: host.clone(),
            boot_id: boot(place.host.at()),
            epoch: Epoch::FIRST,
            state: GuestState::Running,
            boot_generation: 1,
            since: Timestamp::UNIX_EPOCH,
            accelerator: None,
            exit: None,
            volumes: vec![],
            message: None,
            machine_type: None,
            cpu: None,
            migration: None,
            no_room: false,
            failed_at: None,
            health: None,
        };
        let assignment = Assignment {
            guest: name.clone(),
            guest_id: id,
            host: host.clone(),
            epoch: Epoch::FIRST,
            secondary: place.secondary.and_then(host_name),
            why: "it was there when the benchmark began".into(),
            handover: None,
            handed_over_by: None,
        };
        self.measure(&name, &host, need.load);
        self.view.guests.insert(name.clone(), spec);
        self.view.guest_reports.insert(name.clone(), report);
        self.view.assignments.insert(name.clone(), assignment);
        self.sync(&name, volume);
    }

    fn measure(&mut self, name: &model::GuestName, host: &HostName, load: Load) {
        let used = Usage { cpu: load.cpu, memory: load.memory, disk: load.disk, network: load.network };
        if let Some(usage) = self.usage.get_mut(host) {
            usage.guests.insert(name.clone(), GuestUsage { usage: used, measured_s: 3600 });
            add(&mut usage.total, used, 1.0);
        }
    }

    /// Both replicas of a guest's volume are in sync where it is now.
    fn sync(&mut self, guest: &model::GuestName, volume: VolumeId) {
        let Some(assignment) = self.view.assignments.get(guest) else { return };
        let hosts = std::iter::once(&assignment.host).chain(&assignment.secondary);
        let boot_of = |host: &HostName| self.view.host_reports.get(host).map(|report| report.boot_id);
        let members = hosts.filter_map(|host| Some(Replica { host: host.clone(), boot_id: boot_of(host)? }));
        let in_sync = InSync::first(volume, Epoch::FIRST, members.collect(), Timestamp::UNIX_EPOCH);
        self.view.in_sync.insert(volume, in_sync);
    }

    /// Every guest is where the plan says, and measured there for long.
    fn carry_out(&mut self, proposal: &Proposal) {
        for step in &proposal.moves {
            let Some(assignment) = self.view.assignments.get_mut(&step.guest) else { continue };
            let from = std::mem::replace(&mut assignment.host, step.to.host.clone());
            assignment.secondary = step.to.secondary.clone();
            let used = self.usage.get_mut(&from).and_then(|usage| {
                let used = usage.guests.remove(&step.guest)?;
                add(&mut usage.total, used.usage, -1.0);
                Some(used)
            });
            if let (Some(used), Some(usage)) = (used, self.usage.get_mut(&step.to.host)) {
                add(&mut usage.total, used.usage, 1.0);
                usage.guests.insert(step.guest.clone(), used);
            }
            let boot_id = self.view.host_reports.get(&step.to.host).map(|report| report.boot_id);
            if let (Some(report), Some(boot_id)) = (self.view.guest_reports.get_mut(&step.guest), boot_id) {
                (report.host, report.boot_id) = (step.to.host.clone(), boot_id);
            }
            let volume = self.view.guests.get(&step.guest).and_then(|spec| spec.disks.first());
            if let Some(volume) = volume.map(|disk| disk.volume) {
                self.sync(&step.guest, volume);
            }
        }
    }
}

fn add(total: &mut Usage, used: Usage, sign: f64) {
    total.cpu += sign * used.cpu;
    total.memory += sign * used.memory;
    total.disk += sign * used.disk;
    total.network += sign * used.network;
}

fn boot(host: usize) -> BootId {
    BootId(Uuid::from_u128(host as u128 | 3 << 64))
}

/// User and system time of this process, from `/proc` (in ticks of a hundredth of a second); 0 elsewhere.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// The most memory that this process ever had, from `/proc`; 0 elsewhere.
fn peak_megabytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = peak.and_then(|peak| peak.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) / 1024
}
