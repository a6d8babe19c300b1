//! Small clusters for tests.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use model::{
    Accelerator, AcceleratorKind, Assignment, BootFrom, BootId, Bytes, ClusterView, DiskSpec, Epoch, GuestId,
    GuestName, GuestReport, GuestSelector, GuestSpec, GuestState, GuestUsage, Host, HostName, HostReport,
    HostSelector, HostUsage, InSync, NamedPool, Pool, PoolOnHost, PoolStorage, PowerWish, Replica, Rule,
    RuleKind, RuleName, RuleStrength, Seed, Session, Usage, VolumeId,
};

fn uuid(seed: &str) -> uuid::Uuid {
    let mut bytes = [0u8; 16];
    for (i, b) in seed.bytes().enumerate() {
        bytes[i % 16] = bytes[i % 16].wrapping_mul(31).wrapping_add(b);
    }
    uuid::Uuid::from_bytes(bytes)
}

pub fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

pub fn boot(name: &str, count: u32) -> BootId {
    BootId(uuid(&format!("boot {name} {count}")))
}

pub fn volume(guest: &str) -> VolumeId {
    VolumeId(uuid(&format!("volume {guest}")))
}

/// `host1` … `hostN`, each in a zone of its own, with 8 GiB of memory and 100 GiB of disk, all live.
pub fn cluster(hosts: usize) -> ClusterView {
    let mut view = ClusterView::default();
    for n in 1..=hosts {
        let name = host(&format!("host{n}"));
        view.hosts.insert(
            name.clone(),
            Host {
                name: name.clone(),
                address: [10, 77, 0, n as u8].into(),
                zone: format!("zone{n}"),
                tags: BTreeSet::new(),
                joined_at: Timestamp::UNIX_EPOCH,
                store_member: n <= 3,
                duty: model::Duty::default(),
                settings: model::HostSettings::default(),
            },
        );
        view.host_reports.insert(
            name.clone(),
            HostReport {
                host: name.clone(),
                boot_id: boot(name.as_str(), 1),
                kennel_version: "0".into(),
                qemu_version: "10.0".into(),
                kernel_version: "6".into(),
                cpus: 4,
                memory: Bytes::gib(8),
                disk: Bytes::gib(100),
                accelerator: Accelerator { kind: AcceleratorKind::Tcg, why: "a test".into() },
                images: BTreeSet::new(),
                problems: vec![],
                uplinks: BTreeMap::new(),
                incoming: vec![],
                compatibility: Default::default(),
                pools: Default::default(),
                short_of_room: false,
                hardware_watchdog: None,
            },
        );
        power_on(&mut view, name.as_str(), 1);
    }
    view
}

pub fn power_on(view: &mut ClusterView, name: &str, count: u32) {
    let session = Session { host: host(name), boot_id: boot(name, count), started_at: Timestamp::UNIX_EPOCH };
    view.sessions.insert(host(name), session);
}

pub fn power_off(view: &mut ClusterView, name: &str) {
    view.sessions.remove(&host(name));
}

pub fn guest(name: &str, pool: Pool) -> GuestSpec {
    GuestSpec {
        name: name.parse().unwrap(),
        id: GuestId(uuid(name)),
        created_at: Timestamp::UNIX_EPOCH,
        vcpus: 1,
        memory: Bytes::gib(1),
        boot: BootFrom::Disk,
        disks: vec![DiskSpec {
            volume: volume(name),
            pool,
            size: Bytes::gib(10),
            image: None,
            pool_name: None,
            thin: false,
        }],
        nics: vec![],
        seed: Seed::default(),
        power: PowerWish::Running,
        boot_generation: 1,
        priority: 0,
        stop_timeout_s: 30,
        preferred_host: None,
        deleting: false,
        tags: Default::default(),
        pinned: false,
        start_after: Default::default(),
        restart_with: Default::default(),
        resync: Default::default(),
        health: Default::default(),
    }
}

/// The settings of the cluster, which has the default ones.
pub fn settings(view: &mut ClusterView) -> &mut model::Settings {
    let cluster = view.cluster.get_or_insert_with(|| model::Cluster {
        name: "home".into(),
        id: uuid::Uuid::nil(),
        created_at: Timestamp::UNIX_EPOCH,
        ca_certificate: String::new(),
        settings: model::Settings::default(),
    });
    &mut cluster.settings
}

/// A pool in a folder that these hosts reach, and no others.
pub fn put_pool(view: &mut ClusterView, name: &str, reached_by: &[&str]) {
    let pool = NamedPool {
        name: name.parse().unwrap(),
        id: uuid(&format!("pool {name}")),
        created_at: Timestamp::UNIX_EPOCH,
        storage: PoolStorage::Shared { path: "/srv/shared".into() },
    };
    for (host, report) in &mut view.host_reports {
        let problem = (!reached_by.contains(&host.as_str())).then(|| "it is not mounted".to_owned());
        let seen = PoolOnHost { id: pool.id, size: Bytes::gib(100), problem };
        report.pools.insert(pool.name.clone(), seen);
    }
    view.pools.insert(pool.name.clone(), pool);
}

/// A running guest whose replicas are all in sync.
pub fn put(view: &mut ClusterView, name: &str, pool: Pool, owner: &str, secondary: Option<&str>) {
    let spec = guest(name, pool);
    let members = std::iter::once(owner).chain(secondary);
    let members = members.map(|h| Replica { host: host(h), boot_id: boot(h, 1) }).collect();
    let in_sync = InSync::first(volume(name), Epoch::FIRST, members, Timestamp::UNIX_EPOCH);
    let assignment = Assignment {
        guest: spec.name.clone(),
        guest_id: spec.id,
        host: host(owner),
        epoch: Epoch::FIRST,
        secondary: secondary.map(host),
        why: "a test".into(),
        handover: None,
        handed_over_by: None,
    };
    view.in_sync.insert(volume(name), in_sync);
    view.guest_reports.insert(spec.name.clone(), report(&assignment, GuestState::Running));
    view.assignments.insert(spec.name.clone(), assignment);
    view.guests.insert(spec.name.clone(), spec);
}

pub fn exit(boot_generation: u64, reason: model::ExitReason, at: Timestamp) -> model::Exit {
    model::Exit { boot_generation, reason, at, secondary_failed: false }
}

pub fn report(assignment: &Assignment, state: GuestState) -> GuestReport {
    GuestReport {
        guest: assignment.guest.clone(),
        guest_id: assignment.guest_id,
        host: assignment.host.clone(),
        boot_id: boot(assignment.host.as_str(), 1),
        epoch: assignment.epoch,
        state,
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
    }
}

/// Everything that `names` says, with spaces between: names, and tags as `tag:NAME`.
fn names_and_tags<N: std::str::FromStr + Ord>(names: &str) -> (BTreeSet<N>, BTreeSet<String>)
where
    N::Err: std::fmt::Debug,
{
    let (tags, names): (Vec<&str>, Vec<&str>) = names.split_whitespace().partition(|n| n.starts_with("tag:"));
    let names = names.into_iter().map(|name| name.parse().unwrap()).collect();
    (names, tags.into_iter().map(|tag| tag.trim_start_matches("tag:").to_owned()).collect())
}

pub fn guests_named(names: &str) -> GuestSelector {
    let (names, tags) = names_and_tags(names);
    GuestSelector { names, tags }
}

pub fn hosts_named(names: &str) -> HostSelector {
    let (names, tags) = names_and_tags(names);
    HostSelector { names, tags }
}

/// Adds a `must` rule of priority 0, each one younger than those before it.
pub fn rule<'v>(view: &'v mut ClusterView, name: &str, kind: RuleKind, guests: &str) -> &'v mut Rule {
    let created_at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(view.rules.len() as i64);
    let name: RuleName = name.parse().unwrap();
    let guests = guests_named(guests);
    let rule =
        Rule { name: name.clone(), kind, guests, strength: RuleStrength::Must, priority: 0, created_at };
    view.rules.entry(name).or_insert(rule)
}

/// What a host measured for an hour: its guests, as `name=cores` with spaces between, and half a core of its own.
pub fn usage(host: &str, guests: &str) -> HostUsage {
    let measure = |word: &str| {
        let (name, cores) = word.split_once('=').unwrap();
        let usage = Usage { cpu: cores.parse().unwrap(), ..Usage::default() };
        (name.parse().unwrap(), GuestUsage { usage, measured_s: 3600 })
    };
    let guests: BTreeMap<GuestName, GuestUsage> = guests.split_whitespace().map(measure).collect();
    let cpu = 0.5 + guests.values().map(|guest| guest.usage.cpu).sum::<f64>();
    HostUsage {
        host: self::host(host),
        at: Timestamp::UNIX_EPOCH,
        window_s: 300,
        measured_s: 3600,
        total: Usage { cpu, ..Usage::default() },
        guests,
    }
}
