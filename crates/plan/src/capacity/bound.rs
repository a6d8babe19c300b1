//! Whether a large cluster survives the loss of any few hosts, without trying every combination.
//!
//! What is found here is sound: where it says nothing, the promise holds. Where it says something it tries the
//! combination that it suspects; if that one leaves guests out it is named, and otherwise the promise is *unproven*.
//!
//! For the loss of any `k` hosts:
//!
//! - *Mirrored guests, room.* Guests of host p whose secondary is on s come to s when p is lost, whoever else is. So
//!   s takes over the most when its k heaviest peers are lost; their sum is exact, for memory and for virtual CPUs
//!   alike. (When s is lost too, its sum does not matter.)
//! - *`Must` rules, at most n.* On s, or in its zone, are counted those that are there and those that come from the k
//!   hosts that send most. What leaves a zone with its hosts is not subtracted, so this may be too strict.
//! - *`Must` rules, together.* All that can come back have the same two hosts; otherwise unproven.
//! - *Guests on shared storage.* Let M be the largest one's memory. When one finds no room, every host that is left
//!   has less than M free: host i was filled by at least `free_i - M` (after what mirrored guests take there). So
//!   there is room for all while what was lost is no more than the sum of `free_i - M` over the hosts that are left;
//!   the worst case loses the k that hold most and keeps the k emptiest out. Virtual CPUs likewise; both at once by
//!   weighing each guest with its share of either sum. Unproven where a `must` rule binds such a guest.

use std::collections::{BTreeMap, BTreeSet};

use super::ground::Ground;
use super::listed;
use crate::layout::keys;
use crate::snapshot::{Bound, GroupIx, GuestIx, HostIx, Storage, Strength};

/// How many doubts a sentence names.
const NAMED_MAX: usize = 3;

/// Hosts, and the guests that their loss leaves out.
type Found = BTreeMap<Vec<HostIx>, BTreeMap<GuestIx, String>>;

/// Combinations that leave guests out, and what stays in doubt.
pub(super) fn check(ground: &mut Ground<'_>, count: usize) -> (Found, Option<String>) {
    let takeovers = takeovers(ground);
    let mut doubts = BTreeSet::new();
    let mut suspects: Vec<(Vec<HostIx>, String)> = Vec::new();
    suspects.extend(rooms(ground, &takeovers, count));
    suspects.extend(at_most(ground, count));
    doubts.extend(together(ground));
    match shared(ground, &takeovers, count) {
        Shared::Fits => {}
        Shared::Doubt(doubt) => {
            doubts.insert(doubt);
        }
        Shared::Suspect(lost, doubt) => suspects.push((lost, doubt)),
    }
    let mut found = Found::new();
    for (mut lost, doubt) in suspects {
        lost.sort();
        let left = ground.left_out(&lost);
        if left.is_empty() {
            doubts.insert(doubt);
        } else {
            found.insert(lost, left);
        }
    }
    let doubts: Vec<String> = doubts.into_iter().collect();
    let doubt = (!doubts.is_empty()).then(|| {
        let about = listed(&doubts, NAMED_MAX);
        format!("it could not be shown that the cluster survives {}: {about}", ground.snapshot.promise)
    });
    (found, doubt)
}

/// What comes to a host from another one: memory, virtual CPUs.
type Takeovers = Vec<BTreeMap<HostIx, (u64, u64)>>;

pub(super) fn takeovers(ground: &Ground<'_>) -> Takeovers {
    let snapshot = ground.snapshot;
    let mut rows: Takeovers = vec![BTreeMap::new(); snapshot.hosts.len()];
    for guest in snapshot.guest_indices() {
        let need = snapshot.guest(guest);
        let (Some(host), Some(partner)) = (ground.host_of[guest.at()], ground.partner_of[guest.at()]) else {
            continue;
        };
        if need.runs {
            let (memory, vcpus) = rows[partner.at()].entry(host).or_default();
            *memory = memory.saturating_add(need.memory);
            *vcpus = vcpus.saturating_add(u64::from(need.vcpus));
        }
    }
    rows
}

/// The `count` largest, and their sum.
fn heaviest(weights: impl Iterator<Item = (HostIx, u64)>, count: usize) -> (u64, Vec<HostIx>) {
    let mut weights: Vec<(HostIx, u64)> = weights.filter(|(_, weight)| *weight > 0).collect();
    weights.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    weights.truncate(count);
    let sum = weights.iter().fold(0u64, |sum, (_, weight)| sum.saturating_add(*weight));
    (sum, weights.into_iter().map(|(host, _)| host).collect())
}

fn free(ground: &Ground<'_>, host: HostIx) -> (u64, f64) {
    let layout = ground.field.layout();
    let vcpus = ground.snapshot.host(host).vcpus_max - f64::from(layout.given(host).vcpus);
    (layout.memory_free(host), vcpus)
}

fn rooms(ground: &Ground<'_>, takeovers: &Takeovers, count: usize) -> Vec<(Vec<HostIx>, String)> {
    let mut suspects = Vec::new();
    for host in ground.hosts() {
        let row = &takeovers[host.at()];
        let (memory_free, vcpus_free) = free(ground, host);
        let (memory, by_memory) = heaviest(row.iter().map(|(from, sum)| (*from, sum.0)), count);
        let (vcpus, by_vcpus) = heaviest(row.iter().map(|(from, sum)| (*from, sum.1)), count);
        let name = &ground.snapshot.host(host).name;
        if memory > memory_free {
            suspects.push((by_memory, format!("the room on {name}")));
        }
        if vcpus as f64 > vcpus_free {
            suspects.push((by_vcpus, format!("the virtual CPUs on {name}")));
        }
    }
    suspects
}

/// Running mirrored guests of a group that can come back, with where they are and where they go.
fn movers(ground: &Ground<'_>, group: GroupIx) -> Vec<(GuestIx, HostIx, HostIx)> {
    let members = ground.snapshot.groups[group.at()].members.iter();
    let members = members.filter(|guest| ground.snapshot.guest(**guest).runs);
    members
        .filter_map(|guest| Some((*guest, ground.host_of[guest.at()]?, ground.partner_of[guest.at()]?)))
        .collect()
}

fn must_groups<'g>(ground: &'g Ground<'_>) -> impl Iterator<Item = (GroupIx, Bound)> + 'g {
    let groups = (0u32..).map(GroupIx).zip(&ground.snapshot.groups);
    groups.filter(|(_, group)| group.strength == Strength::Must).map(|(ix, group)| (ix, group.bound))
}

fn at_most(ground: &Ground<'_>, count: usize) -> Vec<(Vec<HostIx>, String)> {
    let mut suspects = Vec::new();
    for (group, bound) in must_groups(ground) {
        let Bound::AtMost(limit) = bound else { continue };
        let mut arrivals: BTreeMap<u32, BTreeMap<HostIx, u64>> = BTreeMap::new();
        for (_, from, to) in movers(ground, group) {
            for key in keys(ground.snapshot, group, to) {
                if keys(ground.snapshot, group, from).all(|here| here != key) {
                    *arrivals.entry(key).or_default().entry(from).or_default() += 1;
                }
            }
        }
        for (key, from) in arrivals {
            let (more, lost) = heaviest(from.into_iter(), count);
            let there = ground.field.layout().group_count(group, key);
            if u64::from(there).saturating_add(more) > u64::from(limit) {
                suspects.push((lost, format!("the rule '{}'", ground.snapshot.groups[group.at()].rule)));
            }
        }
    }
    suspects
}

fn together(ground: &Ground<'_>) -> Vec<String> {
    let mut doubts = Vec::new();
    for (group, bound) in must_groups(ground) {
        match bound {
            Bound::AtMost(_) => {}
            Bound::Together => {
                let members = &ground.snapshot.groups[group.at()].members;
                let pairs: BTreeSet<(HostIx, HostIx)> =
                    movers(ground, group).into_iter().map(|(_, from, to)| (from, to)).collect();
                let stays = members.iter().any(|guest| {
                    ground.host_of[guest.at()].is_some() && ground.partner_of[guest.at()].is_none()
                });
                if pairs.len() > 1 || (stays && !pairs.is_empty()) {
                    doubts.push(format!("the rule '{}'", ground.snapshot.groups[group.at()].rule));
                }
            }
        }
    }
    doubts
}

/// What the bound says of guests on shared storage.
pub(super) enum Shared {
    Fits,
    Doubt(String),
    Suspect(Vec<HostIx>, String),
}

pub(super) fn shared(ground: &Ground<'_>, takeovers: &Takeovers, count: usize) -> Shared {
    let snapshot = ground.snapshot;
    let runs = |guest: &GuestIx| {
        let need = snapshot.guest(*guest);
        need.runs && need.storage == Storage::Shared && ground.host_of[guest.at()].is_some()
    };
    let guests: Vec<GuestIx> = snapshot.guest_indices().filter(runs).collect();
    if guests.is_empty() {
        return Shared::Fits;
    }
    if let Some(guest) = guests.iter().find(|guest| ground.field.is_bound(**guest)) {
        return Shared::Doubt(format!(
            "the rules for '{}', which is on shared storage",
            snapshot.guest(*guest).name
        ));
    }
    let largest = guests.iter().map(|guest| snapshot.guest(*guest).memory).max().unwrap_or(0);
    let widest = guests.iter().map(|guest| snapshot.guest(*guest).vcpus).max().unwrap_or(0);
    // What each host surely takes before it refuses one of them.
    let surely: Vec<(HostIx, f64, f64)> = ground
        .hosts()
        .into_iter()
        .filter(|host| snapshot.host(*host).duty.takes())
        .map(|host| {
            let (memory, vcpus) = free(ground, host);
            let row = &takeovers[host.at()];
            let (coming, _) = heaviest(row.iter().map(|(from, sum)| (*from, sum.0)), count);
            let (coming_vcpus, _) = heaviest(row.iter().map(|(from, sum)| (*from, sum.1)), count);
            let memory = memory.saturating_sub(coming).saturating_sub(largest) as f64;
            let vcpus = (vcpus - coming_vcpus as f64 - f64::from(widest)).max(0.0);
            (host, memory, vcpus)
        })
        .collect();
    let (memory_sum, vcpus_sum) = surely.iter().fold((0.0, 0.0), |sum, (_, m, v)| (sum.0 + m, sum.1 + v));
    let share = |part: f64, of: f64| if part == 0.0 { 0.0 } else { part / of };
    let mut room: Vec<f64> =
        surely.iter().map(|(_, m, v)| share(*m, memory_sum).min(share(*v, vcpus_sum))).collect();
    let mut weights: BTreeMap<HostIx, f64> = BTreeMap::new();
    for guest in &guests {
        let need = snapshot.guest(*guest);
        let weight = share(need.memory as f64, memory_sum) + share(f64::from(need.vcpus), vcpus_sum);
        if let Some(host) = ground.host_of[guest.at()] {
            *weights.entry(host).or_default() += weight;
        }
    }
    room.sort_by(|a, b| b.total_cmp(a));
    let mut heavy: Vec<(HostIx, f64)> = weights.into_iter().collect();
    heavy.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    heavy.truncate(count);
    let needed: f64 = heavy.iter().map(|(_, weight)| weight).sum();
    let left: f64 = room.iter().skip(count).sum();
    // Sums of fractions: doubt rather than trust the last digits.
    if needed <= left * (1.0 - 1e-9) {
        return Shared::Fits;
    }
    let lost = heavy.into_iter().map(|(host, _)| host).collect();
    Shared::Suspect(lost, "the room for guests on shared storage".to_owned())
}
