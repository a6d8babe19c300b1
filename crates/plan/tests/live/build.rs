//! The cluster of a scenario: a few words in a file become the records of a live cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use model::{
    Accelerator, AcceleratorKind, Assignment, BootFrom, BootId, Bytes, Cluster, ClusterView, DiskSpec, Duty,
    Epoch, GuestId, GuestReport, GuestSelector, GuestSpec, GuestState, GuestUsage, Host, HostName,
    HostReport, HostSelector, HostSettings, HostUsage, InSync, Pool, PowerWish, Replica, Rule, RuleKind,
    RuleScope, RuleStrength, Seed, Session, Settings, Survive, Usage, VolumeId,
};
use plan::usage::Average;
use serde::Deserialize;
use uuid::Uuid;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// How many hosts it promises to survive the loss of, or `zone`.
    #[serde(default = "one")]
    pub survive: String,
    /// Nobody measured anything.
    #[serde(default)]
    pub unmeasured: bool,
    pub hosts: Vec<HostWords>,
    #[serde(default)]
    pub guests: Vec<GuestWords>,
    #[serde(default)]
    pub rules: Vec<RuleWords>,
    pub asks: Vec<String>,
}

/// One or several hosts that are alike.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostWords {
    pub names: String,
    /// Each host is in a zone of its own when this is left out.
    pub zone: Option<String>,
    #[serde(default = "host_memory")]
    pub memory: String,
    #[serde(default = "host_disk")]
    pub disk: String,
    #[serde(default = "four")]
    pub cpus: u32,
    #[serde(default)]
    pub tags: BTreeSet<String>,
    #[serde(default)]
    pub duty: Duty,
    #[serde(default)]
    pub lost: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestWords {
    pub names: String,
    /// `host1`, or `host1 host2` with the secondary's.
    pub on: String,
    #[serde(default = "guest_memory")]
    pub memory: String,
    #[serde(default = "guest_disk")]
    pub disk: String,
    #[serde(default = "one_vcpu")]
    pub vcpus: u32,
    /// Cores that it was measured to use.
    #[serde(default = "idle")]
    pub cpu: f64,
    #[serde(default)]
    pub tags: BTreeSet<String>,
    #[serde(default)]
    pub pinned: bool,
    #[serde(default)]
    pub stopped: bool,
    #[serde(default)]
    pub priority: i32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleWords {
    pub name: String,
    /// `apart`, `together`, `on host1 tag:ssd`, `off host1`, `spread-zones`, `at-most 2 host`.
    pub kind: String,
    pub guests: String,
    #[serde(default)]
    pub should: bool,
    #[serde(default)]
    pub priority: i32,
}

fn one() -> String {
    "1".into()
}

fn host_memory() -> String {
    "16640M".into()
}

fn host_disk() -> String {
    "200G".into()
}

fn guest_memory() -> String {
    "960M".into()
}

fn guest_disk() -> String {
    "10G".into()
}

fn four() -> u32 {
    4
}

fn one_vcpu() -> u32 {
    1
}

fn idle() -> f64 {
    0.02
}

/// A live cluster.
#[derive(Debug)]
pub struct Live {
    pub view: ClusterView,
    pub usage: BTreeMap<HostName, HostUsage>,
}

const WINDOW: Duration = Duration::from_secs(300);

fn uuid(seed: &str) -> Uuid {
    let mut bytes = [0u8; 16];
    for (i, b) in seed.bytes().enumerate() {
        bytes[i % 16] = bytes[i % 16].wrapping_mul(31).wrapping_add(b);
    }
    Uuid::from_bytes(bytes)
}

fn host_name(name: &str) -> HostName {
    name.parse().unwrap()
}

impl Scenario {
    pub fn build(&self) -> Live {
        let survive = match self.survive.as_str() {
            "zone" => Survive::Zone,
            count => Survive::Hosts(count.parse().unwrap()),
        };
        let cluster = Cluster {
            name: "scenario".into(),
            id: uuid("cluster"),
            created_at: Timestamp::UNIX_EPOCH,
            ca_certificate: "secret enough".into(),
            settings: Settings { survive, ..Settings::default() },
        };
        let mut live = Live {
            view: ClusterView { cluster: Some(cluster), ..ClusterView::default() },
            usage: BTreeMap::new(),
        };
        for words in &self.hosts {
            for name in words.names.split_whitespace() {
                live.add_host(name, words, !self.unmeasured);
            }
        }
        for words in &self.guests {
            for name in words.names.split_whitespace() {
                live.add_guest(name, words);
            }
        }
        for (at, words) in self.rules.iter().enumerate() {
            let rule = words.rule(at);
            live.view.rules.insert(rule.name.clone(), rule);
        }
        live
    }
}

impl Live {
    fn add_host(&mut self, name: &str, words: &HostWords, measured: bool) {
        let host = Host {
            name: host_name(name),
            address: [10, 77, 0, self.view.hosts.len() as u8 + 1].into(),
            zone: words.zone.clone().unwrap_or_else(|| format!("zone-of-{name}")),
            tags: words.tags.clone(),
            joined_at: Timestamp::UNIX_EPOCH,
            store_member: false,
            duty: words.duty,
            settings: HostSettings { reserved_memory: Bytes::mib(256), ..HostSettings::default() },
        };
        let report = HostReport {
            host: host.name.clone(),
            boot_id: BootId(uuid(name)),
            kennel_version: "0".into(),
            qemu_version: "10.0".into(),
            kernel_version: "6".into(),
            cpus: words.cpus,
            memory: words.memory.parse().unwrap(),
            disk: words.disk.parse().unwrap(),
            accelerator: Accelerator { kind: AcceleratorKind::Kvm, why: "a scenario".into() },
            images: BTreeSet::new(),
            problems: vec![],
            uplinks: BTreeMap::new(),
            incoming: vec![],
            compatibility: Default::default(),
            pools: Default::default(),
            short_of_room: false,
            hardware_watchdog: None,
        };
        if !words.lost {
            let session = Session {
                host: host.name.clone(),
                boot_id: report.boot_id,
                started_at: Timestamp::UNIX_EPOCH,
            };
            self.view.sessions.insert(host.name.clone(), session);
        }
        if measured && !words.lost {
            let usage = HostUsage {
                host: host.name.clone(),
                at: Timestamp::UNIX_EPOCH,
                window_s: WINDOW.as_secs() as u32,
                measured_s: 3600,
                total: Usage::default(),
                guests: BTreeMap::new(),
            };
            self.usage.insert(host.name.clone(), usage);
        }
        self.view.host_reports.insert(host.name.clone(), report);
        self.view.hosts.insert(host.name.clone(), host);
    }

    fn add_guest(&mut self, name: &str, words: &GuestWords) {
        let mut hosts = words.on.split_whitespace().map(host_name);
        let host = hosts.next().unwrap();
        let secondary = hosts.next();
        let pool = if secondary.is_some() { Pool::Mirror } else { Pool::Local };
        let spec = spec(name, pool, words);
        let members = std::iter::once(&host).chain(&secondary);
        let members =
            members.map(|host| Replica { host: host.clone(), boot_id: BootId(uuid(host.as_str())) });
        let volume = spec.disks[0].volume;
        let in_sync = InSync::first(volume, Epoch::FIRST, members.collect(), Timestamp::UNIX_EPOCH);
        self.view.in_sync.insert(volume, in_sync);
        let report = GuestReport {
            guest: spec.name.clone(),
            guest_id: spec.id,
            host: host.clone(),
            boot_id: BootId(uuid(host.as_str())),
            epoch: Epoch::FIRST,
            state: if words.stopped { GuestState::Stopped } else { GuestState::Running },
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
        self.view.guest_reports.insert(spec.name.clone(), report);
        let assignment = Assignment {
            guest: spec.name.clone(),
            guest_id: spec.id,
            host: host.clone(),
            epoch: Epoch::FIRST,
            secondary,
            why: "it was there when the story began".into(),
            handover: None,
            handed_over_by: None,
        };
        self.view.assignments.insert(spec.name.clone(), assignment);
        let cpu = if words.stopped { 0.0 } else { words.cpu };
        let used = Usage { cpu, memory: (spec.memory.0 * 4 / 5) as f64, disk: 0.0, network: 0.0 };
        if let Some(usage) = self.usage.get_mut(&host).filter(|_| !words.stopped) {
            usage.guests.insert(spec.name.clone(), GuestUsage { usage: used, measured_s: 3600 });
        }
        self.add_up();
        self.view.guests.insert(spec.name.clone(), spec);
    }

    /// A guest that used so much for an hour uses `cores` for so many seconds, sampled every five.
    pub fn load(&mut self, guest: &str, cores: f64, seconds: u64) {
        let guest = guest.parse().unwrap();
        let host = &self.view.assignments[&guest].host;
        let usage = self.usage.get_mut(host).unwrap();
        let measured = usage.guests.get_mut(&guest).unwrap();
        let mut average = Average::default();
        let every = Duration::from_secs(5);
        let mut run = |usage: Usage, seconds: u64| {
            (0..seconds / 5).for_each(|_| average.take(usage, every, WINDOW));
        };
        run(measured.usage, 3600);
        run(Usage { cpu: cores, ..measured.usage }, seconds);
        measured.usage = average.usage;
        self.add_up();
    }

    /// Hosts use what their guests use, and half a gigabyte.
    fn add_up(&mut self) {
        for usage in self.usage.values_mut() {
            let guests = || usage.guests.values().map(|guest| guest.usage);
            let memory = guests().map(|guest| guest.memory).sum::<f64>() + Bytes::mib(512).0 as f64;
            usage.total = Usage { cpu: guests().map(|guest| guest.cpu).sum(), memory, ..Usage::default() };
        }
    }

    /// A guest is on other hosts now, everything in sync, and measured there as it was before.
    pub fn moved(&mut self, guest: &model::GuestName, to: &model::GuestPlace) {
        let assignment = self.view.assignments.get_mut(guest).unwrap();
        let used = self.usage.get_mut(&assignment.host).and_then(|usage| usage.guests.remove(guest));
        if let Some(used) = used {
            self.usage.get_mut(&to.host).unwrap().guests.insert(guest.clone(), used);
        }
        assignment.host = to.host.clone();
        assignment.secondary = to.secondary.clone();
        self.view.guest_reports.get_mut(guest).unwrap().host = to.host.clone();
        let members = std::iter::once(&to.host).chain(&to.secondary);
        let members =
            members.map(|host| Replica { host: host.clone(), boot_id: BootId(uuid(host.as_str())) });
        let members: BTreeSet<Replica> = members.collect();
        for disk in &self.view.guests[guest].disks {
            self.view.in_sync.get_mut(&disk.volume).unwrap().members = members.clone();
        }
        self.add_up();
    }
}

pub fn spec(name: &str, pool: Pool, words: &GuestWords) -> GuestSpec {
    let volume = VolumeId(uuid(&format!("volume {name}")));
    GuestSpec {
        name: name.parse().unwrap(),
        id: GuestId(uuid(name)),
        created_at: Timestamp::UNIX_EPOCH,
        vcpus: words.vcpus,
        memory: words.memory.parse().unwrap(),
        boot: BootFrom::Disk,
        disks: vec![DiskSpec {
            volume,
            pool,
            size: words.disk.parse().unwrap(),
            image: None,
            pool_name: None,
            thin: false,
        }],
        nics: vec![],
        seed: Seed { user_data: Some("a password".into()), ssh_keys: vec![] },
        power: if words.stopped { PowerWish::Stopped } else { PowerWish::Running },
        boot_generation: 1,
        priority: words.priority,
        stop_timeout_s: 30,
        preferred_host: None,
        deleting: false,
        tags: words.tags.clone(),
        pinned: words.pinned,
        start_after: BTreeSet::new(),
        restart_with: Default::default(),
        resync: Default::default(),
        health: Default::default(),
    }
}

impl RuleWords {
    fn rule(&self, at: usize) -> Rule {
        Rule {
            name: self.name.parse().unwrap(),
            kind: kind(&self.kind),
            guests: guests(&self.guests),
            strength: if self.should { RuleStrength::Should } else { RuleStrength::Must },
            priority: self.priority,
            created_at: Timestamp::UNIX_EPOCH + SignedDuration::from_secs(at as i64),
        }
    }
}

fn kind(words: &str) -> RuleKind {
    let (first, rest) = words.split_once(' ').unwrap_or((words, ""));
    match (first, rest) {
        ("apart", "") => RuleKind::Apart,
        ("together", "") => RuleKind::Together,
        ("spread-zones", "") => RuleKind::SpreadZones,
        ("on", hosts) => RuleKind::On(self::hosts(hosts)),
        ("off", hosts) => RuleKind::Off(self::hosts(hosts)),
        ("at-most", limit) => {
            let (count, per) = limit.split_once(' ').unwrap();
            let per = if per == "zone" { RuleScope::Zone } else { RuleScope::Host };
            RuleKind::AtMost { count: count.parse().unwrap(), per }
        }
        (other, _) => panic!("there is no kind of rule '{other}'"),
    }
}

/// Names, and tags as `tag:NAME`.
fn split(words: &str) -> (Vec<&str>, BTreeSet<String>) {
    let (tags, names): (Vec<&str>, Vec<&str>) =
        words.split_whitespace().partition(|word| word.starts_with("tag:"));
    (names, tags.into_iter().map(|tag| tag.trim_start_matches("tag:").to_owned()).collect())
}

fn guests(words: &str) -> GuestSelector {
    let (names, tags) = split(words);
    GuestSelector { names: names.into_iter().map(|name| name.parse().unwrap()).collect(), tags }
}

fn hosts(words: &str) -> HostSelector {
    let (names, tags) = split(words);
    HostSelector { names: names.into_iter().map(|name| name.parse().unwrap()).collect(), tags }
}
