//! Clusters out of a seed, for tests and benchmarks: uneven ones, such as balancing is for.
//!
//! Every cluster begins within its limits of memory, processors and disk, like the clusters that Ganeti's tools are
//! measured with; exclusion rules may be broken at the beginning, and room for the loss of a host may be missing.

use std::collections::{BTreeMap, BTreeSet};

use super::random::Random;
use crate::objective::ganeti::{GanetiFacts, GanetiGroup, GanetiGuest, GanetiHost};
use crate::snapshot::{
    Bound, DomainIx, Group, GroupIx, GuestIx, GuestNeed, HostDuty, HostIx, HostRoom, Load, Place, Promise,
    Scope, Snapshot, Storage, Strength,
};

/// What is uneven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Hosts drew very different shares, some of them nothing.
    Skew,
    /// Each guest where chance put it.
    Random,
    /// A quarter of the hosts has just been added.
    NewHosts,
    /// A tenth of the hosts carries thrice as much as the others.
    Hotspot,
    /// One host filled after the other.
    Packed,
    /// Like `Random`, and one host in twenty, at least one, is to be emptied.
    Drain,
}

impl Profile {
    pub const ALL: [Profile; 6] = [
        Profile::Skew,
        Profile::Random,
        Profile::NewHosts,
        Profile::Hotspot,
        Profile::Packed,
        Profile::Drain,
    ];
}

/// What kind of cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub hosts: usize,
    pub guests: usize,
    pub storage: Storage,
    pub profile: Profile,
    pub zones: usize,
    pub seed: u64,
}

const MIB: u64 = 1 << 20;
/// Sizes with how often they come.
const MEMORY: [(u64, usize); 5] = [(1024, 10), (2048, 25), (4096, 35), (8192, 20), (16384, 10)];
const VCPUS: [(u64, usize); 4] = [(1, 30), (2, 40), (4, 22), (8, 8)];
const DISK: [(u64, usize); 5] = [(10_240, 30), (20_480, 30), (51_200, 25), (102_400, 12), (204_800, 3)];
/// The hosts' own system, MiB.
const OWN_MEMORY: u64 = 4096;
/// How full the cluster is in memory, and in disk.
const FILL: f64 = 0.6;
const DISK_FILL: f64 = 0.5;
const VCPU_RATIO: u64 = 4;

struct Guest {
    memory: u64,
    vcpus: u64,
    disk: u64,
    exclusion: Option<u32>,
    place: Option<Place>,
}

#[derive(Clone, Default)]
struct Host {
    weight: f64,
    memory: u64,
    vcpus: u64,
    disk: u64,
    leaves: bool,
}

/// What each host has.
struct Size {
    memory: u64,
    cores: u64,
    disk: u64,
}

impl Sample {
    pub fn new(hosts: usize, guests: usize, storage: Storage, profile: Profile, seed: u64) -> Self {
        Sample { hosts, guests, storage, profile, zones: 0, seed }
    }

    /// The cluster as Kennel sees it, and what Ganeti would know of it.
    pub fn make(&self) -> (Snapshot, GanetiFacts) {
        let mut random = Random::new(self.seed);
        let mut guests: Vec<Guest> = (0..self.guests).map(|_| self.guest(&mut random)).collect();
        self.exclude(&mut guests, &mut random);
        let size = self.size(&guests);
        let mut hosts = self.weights(&mut random);
        for guest in &mut guests {
            guest.place = self.put(guest, &mut hosts, &size, &mut random);
        }
        let facts = self.facts(&guests, &hosts, &size);
        (self.snapshot(&guests, &hosts, &size, &mut random), facts)
    }

    fn guest(&self, random: &mut Random) -> Guest {
        let (memory, vcpus) = (pick(random, &MEMORY), pick(random, &VCPUS));
        Guest { memory, vcpus, disk: pick(random, &DISK), exclusion: None, place: None }
    }

    /// A tenth of the guests in groups of two to four that should not share a host.
    fn exclude(&self, guests: &mut [Guest], random: &mut Random) {
        let mut left = guests.len() / 10;
        let mut group = 0;
        while left >= 2 {
            let members = (2 + random.below(3)).min(left);
            for _ in 0..members {
                guests[random.below(self.guests)].exclusion = Some(group);
            }
            group += 1;
            left -= members;
        }
    }

    fn size(&self, guests: &[Guest]) -> Size {
        let mean = |sum: u64| sum as f64 / self.hosts.max(1) as f64;
        let round = |what: f64, to: f64| (what / to).ceil().max(1.0) as u64 * to as u64;
        let copies = if self.storage == Storage::Mirrored { 2 } else { 1 };
        let memory = round(mean(guests.iter().map(|guest| guest.memory).sum()) / FILL, 16384.0);
        let cores = round(mean(guests.iter().map(|guest| guest.vcpus).sum()) / 2.0, 8.0);
        let disk = round(mean(guests.iter().map(|guest| copies * guest.disk).sum()) / DISK_FILL, 1_048_576.0);
        Size { memory: memory + OWN_MEMORY, cores, disk }
    }

    fn weights(&self, random: &mut Random) -> Vec<Host> {
        let count = self.hosts;
        let mut hosts = vec![Host::default(); count];
        for (at, host) in hosts.iter_mut().enumerate() {
            host.weight = match self.profile {
                Profile::Skew if at > 0 && random.share() < 0.2 => 0.0,
                // A wide spread without a logarithm: the product of two shares.
                Profile::Skew => 0.1 + 3.0 * random.share() * random.share(),
                Profile::NewHosts if at >= count - (count / 4).max(1) => 0.0,
                Profile::Hotspot => {
                    if at < (count / 10).max(1) {
                        3.0
                    } else {
                        0.8
                    }
                }
                Profile::NewHosts | Profile::Random | Profile::Packed | Profile::Drain => 1.0,
            };
        }
        if self.profile == Profile::Drain && count > 1 {
            for _ in 0..(count / 20).max(1) {
                hosts[1 + random.below(count - 1)].leaves = true;
            }
        }
        hosts
    }

    fn put(&self, guest: &Guest, hosts: &mut [Host], size: &Size, random: &mut Random) -> Option<Place> {
        let local = self.storage != Storage::Shared;
        let disk_fits = |host: &Host| !local || host.disk + guest.disk <= size.disk * 97 / 100;
        let fits = |host: &Host| {
            host.memory + guest.memory <= (size.memory - OWN_MEMORY) * 97 / 100
                && host.vcpus + guest.vcpus <= size.cores * VCPU_RATIO * 97 / 100
                && disk_fits(host)
        };
        let primary = self.choose(hosts, &fits, random)?;
        hosts[primary].memory += guest.memory;
        hosts[primary].vcpus += guest.vcpus;
        hosts[primary].disk += if local { guest.disk } else { 0 };
        if self.storage != Storage::Mirrored {
            return Some(Place { host: HostIx(primary as u32), secondary: None });
        }
        let weight = std::mem::replace(&mut hosts[primary].weight, -1.0);
        let secondary = self.choose(hosts, &|host| host.weight >= 0.0 && disk_fits(host), random);
        hosts[primary].weight = weight;
        let secondary = secondary?;
        hosts[secondary].disk += guest.disk;
        Some(Place { host: HostIx(primary as u32), secondary: Some(HostIx(secondary as u32)) })
    }

    /// A host that fits: by weight, or the first when they are packed.
    fn choose(&self, hosts: &[Host], fits: &dyn Fn(&Host) -> bool, random: &mut Random) -> Option<usize> {
        let fitting: Vec<usize> = (0..hosts.len()).filter(|at| fits(&hosts[*at])).collect();
        if self.profile == Profile::Packed {
            return fitting.first().copied();
        }
        let total: f64 = fitting.iter().map(|at| hosts[*at].weight).sum();
        let mut left = random.share() * total;
        let chosen = fitting.iter().find(|at| {
            left -= hosts[**at].weight;
            left < 0.0
        });
        chosen.or(fitting.first()).copied()
    }

    fn facts(&self, guests: &[Guest], hosts: &[Host], size: &Size) -> GanetiFacts {
        let host = |(at, host): (usize, &Host)| GanetiHost {
            group: 0,
            offline: host.leaves,
            memory: size.memory as f64,
            memory_own: OWN_MEMORY as f64,
            memory_free: (size.memory - OWN_MEMORY - host.memory) as f64,
            disk: size.disk as f64,
            disk_free: (size.disk - host.disk) as f64,
            cores: size.cores as f64,
            vcpus_own: 0.0,
            speed: 1.0,
            spindles: 24.0,
            spindles_free: 0.0,
            exclusive_storage: false,
            locations: (self.zones > 0)
                .then(|| format!("zone:{}", at % self.zones.max(1)))
                .into_iter()
                .collect(),
            migration: BTreeSet::new(),
            receives: BTreeSet::new(),
        };
        let guest = |guest: &Guest| GanetiGuest {
            memory: guest.memory as f64,
            disk: guest.disk as f64,
            vcpus: guest.vcpus as f64,
            uses_memory: true,
            reserves: true,
            counts_vcpus: true,
            auto_balance: true,
            local_disk: self.storage != Storage::Shared,
            spindle_use: 1.0,
            spindles: None,
            forthcoming: false,
            exclusion: guest.exclusion.map(|group| format!("svc:{group}")).into_iter().collect(),
            desired: BTreeSet::new(),
            load: [1.0; 4],
        };
        GanetiFacts {
            groups: vec![GanetiGroup { name: "group0".to_owned(), vcpu_ratio: 4.0, spindle_ratio: 32.0 }],
            hosts: hosts.iter().enumerate().map(host).collect(),
            guests: guests.iter().map(guest).collect(),
        }
    }

    fn snapshot(&self, guests: &[Guest], hosts: &[Host], size: &Size, random: &mut Random) -> Snapshot {
        let mut members: BTreeMap<u32, Vec<GuestIx>> = BTreeMap::new();
        for (guest, at) in guests.iter().zip(0..) {
            if let Some(group) = guest.exclusion {
                members.entry(group).or_default().push(GuestIx(at));
            }
        }
        let groups: Vec<u32> = members.keys().copied().collect();
        let group_ix = |group: u32| groups.binary_search(&group).ok().map(|at| GroupIx(at as u32));
        let group = |(group, members): (u32, Vec<GuestIx>)| Group {
            rule: format!("apart-{group}"),
            members,
            scope: Scope::Host,
            bound: Bound::AtMost(1),
            strength: Strength::Must,
        };
        Snapshot {
            hosts: hosts.iter().enumerate().map(|(at, host)| self.room(at, host, size)).collect(),
            guests: guests
                .iter()
                .enumerate()
                .map(|(at, guest)| GuestNeed {
                    groups: guest.exclusion.and_then(group_ix).into_iter().collect(),
                    ..self.need(at, guest, random)
                })
                .collect(),
            domains: (0..self.zones).map(|zone| format!("zone{zone:03}")).collect(),
            groups: members.into_iter().map(group).collect(),
            promise: Promise::Hosts(1),
            disk_share_max: 1.0,
        }
    }

    fn room(&self, at: usize, host: &Host, size: &Size) -> HostRoom {
        HostRoom {
            name: format!("host{at:05}"),
            memory: (size.memory - OWN_MEMORY) * MIB,
            memory_total: size.memory * MIB,
            disk: size.disk * MIB,
            disk_total: size.disk * MIB,
            cores: size.cores as f64,
            speed: 1.0,
            vcpus_max: (size.cores * VCPU_RATIO) as f64,
            network: 0.0,
            own_load: Load::default(),
            domains: (self.zones > 0)
                .then(|| DomainIx((at % self.zones.max(1)) as u32))
                .into_iter()
                .collect(),
            duty: if host.leaves {
                HostDuty::Leaves("it is being emptied".to_owned())
            } else {
                HostDuty::Takes
            },
        }
    }

    fn need(&self, at: usize, guest: &Guest, random: &mut Random) -> GuestNeed {
        let busy = random.share() * random.share();
        GuestNeed {
            name: format!("guest{at:06}"),
            memory: guest.memory * MIB,
            disk: guest.disk * MIB,
            vcpus: guest.vcpus as u32,
            load: Load {
                cpu: busy * guest.vcpus as f64,
                memory: 0.7 * (guest.memory * MIB) as f64,
                disk: random.share() * busy * 20e6,
                network: random.share() * busy * 20e6,
            },
            storage: self.storage,
            runs: true,
            may_move: true,
            priority: 0,
            groups: Vec::new(),
            allowed: None,
            wishes: Vec::new(),
            place: guest.place,
            unready: None,
        }
    }
}

fn pick(random: &mut Random, table: &[(u64, usize)]) -> u64 {
    let total = table.iter().map(|(_, often)| often).sum();
    let mut left = random.below(total);
    for (value, often) in table {
        if left < *often {
            return *value;
        }
        left -= often;
    }
    0
}
