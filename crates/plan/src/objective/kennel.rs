//! Kennel's own objective: what users notice first, then what operators wish, then evenness.
//!
//! | what | how it costs |
//! | --- | --- |
//! | more memory or disk given than there is | steeply, above the limit |
//! | guests on hosts that they shall leave | each, [`LEAVES_GUEST`] and [`LEAVES_REPLICA`] |
//! | broken `must` rules | each guest too many, [`MUST`] |
//! | too little memory free for the promised loss | by the missing share, [`SHORTFALL`] |
//! | hosts near saturation | the square of what is above the knee |
//! | broken `should` rules, wishes | what the rule says |
//! | primary and secondary in one zone | each domain that they share, [`SHARED_DOMAIN`] |
//! | unevenness | the standard deviation over the hosts of each share, times its weight, for every [`EVEN_HOSTS`] hosts |
//!
//! Shares are shares of what a host has, not of the mean: hosts at 2 % and 6 % are nearly even, whatever the ratio
//! between them, so an idle cluster is left alone. The knees are there because a standard deviation forgives one hot
//! host among many calm ones, and that host's users do not.
//!
//! What one guest changes in a standard deviation shrinks with the number of hosts; what it gains for its users, and what
//! its move costs, does not. So unevenness counts by the number of hosts, beyond a few.
//!
//! Hosts that take no guests count for no spread: nothing can be evened out there.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{
    Column, GroupTerms, GuestTerms, HostTerms, Knee, Limit, Manner, Moves, NOT_ASKED, Objective, Reserve,
    Shortfall, Terms, WishTable,
};
use crate::layout::{disk_limit, disk_of, mirror_load};
use crate::snapshot::{
    Bound, GroupIx, GuestNeed, HostDuty, HostIx, HostRoom, Load, Promise, Scope, Snapshot, Storage, Strength,
};

/// A guest on a host that it shall leave: more than anything but a limit can be worth.
pub const LEAVES_GUEST: f64 = 50.0;
/// A replica there: less, so that guests go first.
pub const LEAVES_REPLICA: f64 = 20.0;
/// A guest too many under a `must` rule.
pub const MUST: f64 = 10.0;
/// All of a host's memory missing for the promised loss: a missing gigabyte of a hundred outweighs any evenness.
pub const SHORTFALL: f64 = 50.0;
/// A failure domain that a guest's two hosts share.
pub const SHARED_DOMAIN: f64 = 0.25;

/// Weights of the spreads. Processor time is what users feel first, and the other measured uses follow; what is only
/// reserved weighs less, because nobody waits for it.
pub const CPU_SPREAD: f64 = 1.0;
pub const MEMORY_USED_SPREAD: f64 = 0.5;
pub const DISK_TRAFFIC_SPREAD: f64 = 0.5;
pub const NETWORK_SPREAD: f64 = 0.5;
pub const MEMORY_SPREAD: f64 = 0.25;
pub const VCPUS_SPREAD: f64 = 0.1;
pub const DISK_SPREAD: f64 = 0.1;
pub const RESERVE_SPREAD: f64 = 0.1;

/// For so many hosts, or fewer, unevenness counts once.
pub const EVEN_HOSTS: f64 = 10.0;

/// Above four fifths of its cores a host's guests begin to wait for each other (in a queue the wait grows with
/// 1 / (1 - use)). At 100 % this is 2, at 90 % 0.5.
const CPU_KNEE: Knee = Knee { at: 0.8, weight: 50.0 };
/// Above this share of its memory a host begins to reclaim and to swap.
const MEMORY_USED_KNEE: Knee = Knee { at: 0.9, weight: 100.0 };
/// More given than there is: 1 % too much costs 1.
const OVERFULL: Knee = Knee { at: 1.0, weight: 10_000.0 };
/// Links and disks above four fifths of what they carry.
const TRAFFIC_KNEE: Knee = Knee { at: 0.8, weight: 20.0 };

/// What a host's disks carry, bytes a second; nobody measures it beforehand, and only the order of magnitude counts.
const DISK_TRAFFIC_FULL: f64 = 1e9;
/// What a host's network carries when it does not say: ten gigabits a second.
const NETWORK_FULL: f64 = 1.25e9;

/// Any move: it is a risk and an interruption of milliseconds.
pub const MOVE_PRICE: f64 = 0.005;
/// For each gibibyte of memory to send: about a second of a ten-gigabit link.
pub const MEMORY_PRICE: f64 = 0.001;
/// For each gibibyte of disk to copy: some seconds of both hosts' disks and of the link.
pub const DISK_PRICE: f64 = 0.0005;
/// A guest that writes this much a second costs twice to move: what is sent must be sent again.
const DIRTY: f64 = 100e6;
/// A plan that gains less in all is none.
pub const PLAN_GAIN_MIN: f64 = 0.03;

const GIB: f64 = (1u64 << 30) as f64;

/// Kennel's own objective.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kennel;

/// By how much less a host costs that uses this share of its processors, when it uses `less` of it.
pub(crate) fn cpu_knee(share: f64, less: f64) -> f64 {
    let cost = |share: f64| CPU_KNEE.weight * (share - CPU_KNEE.at).max(0.0).powi(2);
    cost(share) - cost(share - less)
}

impl Objective for Kennel {
    fn terms(&self, snapshot: &Snapshot) -> Vec<Terms> {
        let mut terms = Terms {
            hosts: snapshot.hosts.iter().map(host).collect(),
            guests: snapshot.guests.iter().map(|need| guest(snapshot, need)).collect(),
            columns: columns(snapshot),
            limits: limits(snapshot),
            reserve: reserve(snapshot),
            groups: groups(snapshot),
            pairs: pairs(snapshot),
            moves: Moves::default(),
            ..Terms::default()
        };
        wishes(snapshot, &mut terms);
        vec![terms]
    }

    fn manner(&self) -> Manner {
        Manner::Careful { gain_min: PLAN_GAIN_MIN }
    }
}

fn host(room: &HostRoom) -> HostTerms {
    let (guests, replicas) = match &room.duty {
        HostDuty::Takes | HostDuty::Keeps(_) => (0.0, 0.0),
        HostDuty::GuestsLeave(_) => (LEAVES_GUEST, 0.0),
        HostDuty::Leaves(_) | HostDuty::Lost(_) => (LEAVES_GUEST, LEAVES_REPLICA),
    };
    HostTerms {
        counted: room.duty.takes(),
        takes: room.duty.takes(),
        forces: false,
        primary_cost: guests,
        secondary_cost: replicas,
    }
}

fn guest(snapshot: &Snapshot, need: &GuestNeed) -> GuestTerms {
    // Nothing migrates from a lost host: its guests are recovered, not balanced.
    let alive = need.place.is_some_and(|place| !snapshot.host(place.host).duty.is_lost());
    let allowed = need
        .allowed
        .as_ref()
        .map(|allowed| snapshot.host_indices().map(|host| allowed.binary_search(&host).is_ok()).collect());
    let memory = if need.runs { need.memory as f64 / GIB } else { 0.0 };
    let disk = if need.storage == Storage::Shared { 0.0 } else { need.disk as f64 / GIB };
    let again = if need.runs { 1.0 + need.load.disk / DIRTY } else { 1.0 };
    let copy_cost = DISK_PRICE * disk * again;
    GuestTerms {
        storage: need.storage,
        movable: need.may_move && alive,
        count: 1.0,
        groups: need.groups.iter().map(|group| group.0).collect(),
        wishes: Vec::new(),
        allowed,
        move_cost: MOVE_PRICE + MEMORY_PRICE * memory * again,
        // A replacement of the secondary alone is a move, too.
        copy_cost: if need.storage == Storage::Shared { 0.0 } else { copy_cost + MOVE_PRICE },
    }
}

/// A column: what a guest adds as primary and as secondary, what a host has, and what it uses by itself.
fn column(
    snapshot: &Snapshot,
    (name, weight, knee): (&'static str, f64, Option<Knee>),
    adds: impl Fn(&GuestNeed) -> (f64, f64),
    has: impl Fn(&HostRoom) -> f64,
    own: impl Fn(&HostRoom) -> f64,
) -> Column {
    let scale = |room: &HostRoom| if has(room) > 0.0 { 1.0 / has(room) } else { 0.0 };
    Column {
        name,
        weight: weight * evenness(snapshot),
        primary: snapshot.guests.iter().map(|need| adds(need).0).collect(),
        secondary: snapshot.guests.iter().map(|need| adds(need).1).collect(),
        scale: snapshot.hosts.iter().map(scale).collect(),
        base: snapshot.hosts.iter().map(|room| own(room) * scale(room)).collect(),
        knee,
    }
}

/// How often unevenness counts.
pub(crate) fn evenness(snapshot: &Snapshot) -> f64 {
    let hosts = snapshot.hosts.iter().filter(|room| room.duty.takes()).count();
    (hosts as f64 / EVEN_HOSTS).max(1.0)
}

fn columns(snapshot: &Snapshot) -> Vec<Column> {
    let network = |room: &HostRoom| if room.network > 0.0 { room.network } else { NETWORK_FULL };
    let none = |_: &HostRoom| 0.0;
    let mirror = |need: &GuestNeed| if need.runs { mirror_load(need.load) } else { Load::default() };
    vec![
        column(
            snapshot,
            ("processors", CPU_SPREAD, Some(CPU_KNEE)),
            |need| (runs(need, need.load.cpu), mirror(need).cpu),
            |room| room.cores * room.speed,
            |room| room.own_load.cpu,
        ),
        column(
            snapshot,
            ("memory in use", MEMORY_USED_SPREAD, Some(MEMORY_USED_KNEE)),
            |need| (runs(need, need.load.memory), mirror(need).memory),
            |room| room.memory_total as f64,
            |room| room.own_load.memory,
        ),
        column(
            snapshot,
            ("disk traffic", DISK_TRAFFIC_SPREAD, Some(TRAFFIC_KNEE)),
            |need| (runs(need, need.load.disk), mirror(need).disk),
            |_| DISK_TRAFFIC_FULL,
            |room| room.own_load.disk,
        ),
        column(
            snapshot,
            ("network traffic", NETWORK_SPREAD, Some(TRAFFIC_KNEE)),
            |need| (runs(need, need.load.network), mirror(need).network),
            network,
            |room| room.own_load.network,
        ),
        column(
            snapshot,
            ("memory reserved", MEMORY_SPREAD, Some(OVERFULL)),
            |need| (runs(need, need.memory as f64), 0.0),
            |room| room.memory as f64,
            none,
        ),
        column(
            snapshot,
            ("disk", DISK_SPREAD, Some(OVERFULL)),
            |need| (disk_of(need) as f64, disk_of(need) as f64),
            |room| room.disk as f64,
            none,
        ),
        column(
            snapshot,
            ("virtual CPUs", VCPUS_SPREAD, Some(OVERFULL)),
            |need| (runs(need, f64::from(need.vcpus)), 0.0),
            |room| room.vcpus_max,
            none,
        ),
    ]
}

/// A guest that is stopped adds nothing but its disks.
fn runs(need: &GuestNeed, amount: f64) -> f64 {
    if need.runs { amount } else { 0.0 }
}

/// What [`crate::layout::Layout::obstacle`] looks at.
fn limits(snapshot: &Snapshot) -> Vec<Limit> {
    let limit = |name: &'static str, most: Vec<f64>, adds: &dyn Fn(&GuestNeed) -> f64, on_secondary: bool| {
        let primary: Vec<f64> = snapshot.guests.iter().map(adds).collect();
        let nothing = vec![0.0; primary.len()];
        let not_asked = vec![NOT_ASKED; primary.len()];
        Limit {
            name,
            soft: false,
            secondary: if on_secondary { primary.clone() } else { nothing },
            ask_primary: primary.clone(),
            ask_secondary: if on_secondary { primary.clone() } else { not_asked },
            primary,
            most,
        }
    };
    let memory = snapshot.hosts.iter().map(|room| room.memory as f64).collect();
    let disk = snapshot.host_indices().map(|host| disk_limit(snapshot, host) as f64).collect();
    let vcpus = snapshot.hosts.iter().map(|room| room.vcpus_max).collect();
    vec![
        limit("memory", memory, &|need| runs(need, need.memory as f64), false),
        limit("disk", disk, &|need| disk_of(need) as f64, true),
        limit("virtual CPUs", vcpus, &|need| runs(need, f64::from(need.vcpus)), false),
    ]
}

fn reserve(snapshot: &Snapshot) -> Option<Reserve> {
    let (losses, unit): (usize, Vec<u32>) = match snapshot.promise {
        Promise::Nothing => return None,
        Promise::Hosts(count) => (count as usize, snapshot.host_indices().map(|host| host.0).collect()),
        Promise::Domain => (1, snapshot.host_indices().map(|host| zone(snapshot, host)).collect()),
    };
    let memory: Vec<f64> = snapshot.hosts.iter().map(|room| room.memory as f64).collect();
    let mirrored = |need: &GuestNeed| need.storage == Storage::Mirrored;
    Some(Reserve {
        needs: snapshot
            .guests
            .iter()
            .map(|need| if mirrored(need) { runs(need, need.memory as f64) } else { 0.0 })
            .collect(),
        uses: snapshot.guests.iter().map(|need| runs(need, need.memory as f64)).collect(),
        unit,
        losses,
        most: memory.clone(),
        scale: memory.iter().map(|memory| if *memory > 0.0 { 1.0 / memory } else { 0.0 }).collect(),
        most_scored: memory,
        spread_weight: RESERVE_SPREAD * evenness(snapshot),
        sum_weight: 0.0,
        shortfall: Shortfall::Share(SHORTFALL),
        strict: false,
        soft: false,
    })
}

/// A number for what a host is lost together with: its zone, or itself when it is in none.
fn zone(snapshot: &Snapshot, host: HostIx) -> u32 {
    let zones = snapshot.domains.len() as u32;
    snapshot.host(host).domains.first().map_or(zones + host.0, |zone| zone.0)
}

fn groups(snapshot: &Snapshot) -> Vec<GroupTerms> {
    (0..snapshot.groups.len() as u32).map(|group| group_terms(snapshot, GroupIx(group))).collect()
}

fn group_terms(snapshot: &Snapshot, at: GroupIx) -> GroupTerms {
    let group = &snapshot.groups[at.at()];
    let places = match group.scope {
        Scope::Host => snapshot.hosts.len() as u32,
        Scope::Domain => snapshot.domains.len() as u32,
    };
    let together = group.bound == Bound::Together;
    let keys = snapshot.host_indices().map(|host| {
        if together && snapshot.host(host).duty.guests_leave() {
            return Vec::new();
        }
        let all = together.then_some(places);
        crate::layout::keys(snapshot, at, host).chain(all).collect()
    });
    let (weight, must) = match group.strength {
        Strength::Must => (MUST, true),
        Strength::Should(cost) => (cost, false),
    };
    GroupTerms {
        keys: Arc::new(keys.collect()),
        key_count: places + u32::from(together),
        bound: group.bound,
        weight,
        must,
        soft: false,
    }
}

/// Domains that a mirrored guest's two hosts share.
fn pairs(snapshot: &Snapshot) -> Vec<f64> {
    if snapshot.hosts.iter().all(|room| room.domains.is_empty()) {
        return Vec::new();
    }
    let shared = |a: &HostRoom, b: &HostRoom| {
        SHARED_DOMAIN * a.domains.iter().filter(|domain| b.domains.contains(domain)).count() as f64
    };
    snapshot.hosts.iter().flat_map(|a| snapshot.hosts.iter().map(move |b| shared(a, b))).collect()
}

/// What a guest's host costs it: hosts that it does not wish for, and hosts where a `must` rule forbids it to be.
fn wishes(snapshot: &Snapshot, terms: &mut Terms) {
    let mut tables: BTreeMap<(Vec<HostIx>, u64), u32> = BTreeMap::new();
    for (need, guest) in snapshot.guests.iter().zip(&mut terms.guests) {
        let bound = need.allowed.iter().map(|allowed| (allowed, MUST));
        for (hosts, weight) in need.wishes.iter().map(|wish| (&wish.hosts, wish.weight)).chain(bound) {
            let next = terms.wishes.len() as u32;
            let table = *tables.entry((hosts.clone(), weight.to_bits())).or_insert(next);
            guest.wishes.push(table);
            if table == next {
                let away = |host: HostIx| if hosts.binary_search(&host).is_ok() { 0.0 } else { weight };
                terms.wishes.push(WishTable { cost: snapshot.host_indices().map(away).collect() });
            }
        }
    }
}
