//! Clusters in a few words, for tests of what is computed from a snapshot alone.

use crate::snapshot::{
    Bound, DomainIx, Group, GroupIx, GuestIx, GuestNeed, HostDuty, HostIx, HostRoom, Load, Place, Promise,
    Scope, Snapshot, Storage, Strength,
};

pub const GIB: u64 = 1 << 30;

/// A host with so many GiB of memory, a hundred of disk and eight cores, which may have 64 virtual CPUs.
pub fn room(name: &str, memory: u64) -> HostRoom {
    HostRoom {
        name: name.to_owned(),
        memory: memory * GIB,
        memory_total: memory * GIB,
        disk: 100 * GIB,
        disk_total: 100 * GIB,
        cores: 8.0,
        speed: 1.0,
        vcpus_max: 64.0,
        network: 0.0,
        own_load: Load::default(),
        domains: Vec::new(),
        duty: HostDuty::Takes,
    }
}

/// Hosts as in `h1:8:z1`, a name, GiB of memory and a zone; in the order of names.
pub fn cluster(promise: Promise, hosts: &str) -> Snapshot {
    let mut snapshot = Snapshot { promise, disk_share_max: 1.0, ..Snapshot::default() };
    for text in hosts.split_whitespace() {
        let parts: Vec<&str> = text.split(':').collect();
        let mut host = room(parts[0], parts[1].parse().unwrap());
        let zone = parts.get(2).copied().unwrap_or(parts[0]);
        let at = snapshot.domains.iter().position(|domain| domain == zone).unwrap_or_else(|| {
            snapshot.domains.push(zone.to_owned());
            snapshot.domains.len() - 1
        });
        host.domains = vec![DomainIx(at as u32)];
        snapshot.hosts.push(host);
    }
    snapshot
}

/// Adds guests as in `web:2:h1+h2` (mirrored), `web:2:h1` (local), `web:2:h1~` (shared storage), with `:10` behind
/// for a priority; GiB of memory, as much disk, one virtual CPU.
pub fn guests(snapshot: &mut Snapshot, guests: &str) {
    for text in guests.split_whitespace() {
        let parts: Vec<&str> = text.split(':').collect();
        let host = |name: &str| snapshot.find_host(name).unwrap();
        let (place, storage) = match (parts[2].split_once('+'), parts[2].strip_suffix('~')) {
            (Some((a, b)), _) => (Place { host: host(a), secondary: Some(host(b)) }, Storage::Mirrored),
            (None, Some(a)) => (Place { host: host(a), secondary: None }, Storage::Shared),
            (None, None) => (Place { host: host(parts[2]), secondary: None }, Storage::Local),
        };
        let memory = parts[1].parse::<u64>().unwrap() * GIB;
        snapshot.guests.push(GuestNeed {
            name: parts[0].to_owned(),
            memory,
            disk: memory,
            vcpus: 1,
            load: Load::default(),
            storage,
            runs: true,
            may_move: true,
            priority: parts.get(3).map_or(0, |p| p.parse().unwrap()),
            groups: Vec::new(),
            allowed: None,
            wishes: Vec::new(),
            place: Some(place),
            unready: None,
        });
    }
    assert!(snapshot.guests.is_sorted_by(|a, b| a.name < b.name), "guests stand in the order of their names");
}

/// A `must` rule over guests.
pub fn rule(snapshot: &mut Snapshot, name: &str, members: &str, scope: Scope, bound: Bound) {
    let group = GroupIx(snapshot.groups.len() as u32);
    let members: Vec<GuestIx> =
        members.split_whitespace().map(|name| snapshot.find_guest(name).unwrap()).collect();
    members.iter().for_each(|guest| snapshot.guests[guest.at()].groups.push(group));
    let rule = name.to_owned();
    snapshot.groups.push(Group { rule, members, scope, bound, strength: Strength::Must });
}

pub fn with(promise: Promise, hosts: &str, named: &str) -> Snapshot {
    let mut snapshot = cluster(promise, hosts);
    guests(&mut snapshot, named);
    snapshot
}

pub fn duty(snapshot: &mut Snapshot, host: &str, duty: HostDuty) {
    let host = snapshot.find_host(host).unwrap();
    snapshot.hosts[host.at()].duty = duty;
}

pub fn hosts(snapshot: &Snapshot, names: &str) -> Vec<HostIx> {
    names.split_whitespace().map(|name| snapshot.find_host(name).unwrap()).collect()
}

/// Numbers that look random and are the same each time (xorshift64*, Vigna 2016).
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % bound.max(1)
    }
}

/// What a random cluster may have.
#[derive(Debug, Clone, Copy)]
pub struct Kinds {
    pub shared: bool,
    pub local: bool,
    pub rules: bool,
}

/// A small random cluster of 2 to `hosts` hosts in three zones with up to `guests` guests.
pub fn random(seed: u64, hosts: u64, most: u64, kinds: Kinds, promise: Promise) -> Snapshot {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let count = 2 + dice.below(hosts - 1);
    let named: Vec<String> =
        (0..count).map(|n| format!("h{n}:{}:z{}", 4 + dice.below(9), dice.below(3))).collect();
    let mut snapshot = cluster(promise, &named.join(" "));
    let wanted = dice.below(most + 1);
    for n in 0..wanted {
        let host = dice.below(count);
        let other = (host + 1 + dice.below(count - 1)) % count;
        let place = match dice.below(6) {
            0 if kinds.shared => format!("h{host}~"),
            1 if kinds.local => format!("h{host}"),
            _ => format!("h{host}+h{other}"),
        };
        let text = format!("g{n:02}:{}:{place}:{}", 1 + dice.below(3), dice.below(3));
        guests(&mut snapshot, &text);
        if dice.below(10) == 0 {
            snapshot.guests[n as usize].runs = false;
        }
        if kinds.rules && dice.below(8) == 0 {
            let mut allowed: Vec<HostIx> = vec![HostIx(host as u32), HostIx(dice.below(count) as u32)];
            allowed.sort();
            allowed.dedup();
            snapshot.guests[n as usize].allowed = Some(allowed);
        }
    }
    if kinds.rules && wanted > 1 {
        for r in 0..dice.below(3) {
            let members: Vec<String> =
                (0..wanted).filter(|_| dice.below(3) == 0).map(|n| format!("g{n:02}")).collect();
            let scope = if dice.below(2) == 0 { Scope::Host } else { Scope::Domain };
            let bound =
                if dice.below(4) == 0 { Bound::Together } else { Bound::AtMost(1 + dice.below(2) as u32) };
            rule(&mut snapshot, &format!("rule{r}"), &members.join(" "), scope, bound);
        }
    }
    snapshot
}
