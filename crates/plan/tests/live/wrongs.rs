//! What is wrong with a layout, by how much, computed in the plainest way from what each guest needs and where it is:
//! a second opinion on what the planner allows itself. Along a plan nothing of it may grow, not even between two
//! steps of one move, whatever was wrong before.

use std::collections::BTreeMap;

use plan::snapshot::{Bound, GuestNeed, HostIx, Place, Promise, Scope, Snapshot, Storage, Strength};

/// By how much each limit is exceeded and each `must` rule broken; what is not wrong is not in it.
pub fn wrongs(snapshot: &Snapshot, places: &[Option<Place>]) -> BTreeMap<String, u64> {
    let mut wrongs = BTreeMap::new();
    for host in snapshot.host_indices() {
        on_host(snapshot, places, host, &mut wrongs);
    }
    for group in snapshot.groups.iter().filter(|group| group.strength == Strength::Must) {
        let on = |guest: &plan::snapshot::GuestIx| places[guest.at()].map(|place| place.host);
        let on: Vec<HostIx> = group.members.iter().filter_map(on).collect();
        match group.bound {
            Bound::AtMost(limit) => {
                for (key, count) in counted(on.iter().flat_map(|host| keys(snapshot, group.scope, *host))) {
                    let what = format!("rule {} at {key}", group.rule);
                    wrongs.insert(what, count.saturating_sub(u64::from(limit)));
                }
            }
            // On hosts that they are to leave they do not count, or they could never leave one by one.
            Bound::Together => {
                let stay = on.iter().filter(|host| !snapshot.host(**host).duty.guests_leave());
                let counts = counted(stay.flat_map(|host| keys(snapshot, group.scope, *host)));
                let apart = counts.values().sum::<u64>() - counts.values().max().copied().unwrap_or(0);
                wrongs.insert(format!("rule {}", group.rule), apart);
            }
        }
    }
    for (need, place) in snapshot.guests.iter().zip(places) {
        let Some(place) = place else { continue };
        let forbidden = need.allowed.as_ref().is_some_and(|allowed| !allowed.contains(&place.host));
        wrongs.insert(format!("{}'s host", need.name), u64::from(forbidden));
        wrongs.insert(format!("{} twice", need.name), u64::from(place.secondary == Some(place.host)));
    }
    wrongs.retain(|_, much| *much > 0);
    wrongs
}

fn on_host(snapshot: &Snapshot, places: &[Option<Place>], host: HostIx, wrongs: &mut BTreeMap<String, u64>) {
    let room = snapshot.host(host);
    let placed = || snapshot.guests.iter().zip(places).filter_map(|(need, place)| Some((need, (*place)?)));
    let here = || placed().filter(|(_, place)| place.host == host).map(|(need, _)| need);
    let running = || here().filter(|need| need.runs);
    let replicas = || placed().filter(|(_, place)| place.host == host || place.secondary == Some(host));
    let memory: u64 = running().map(|need| need.memory).sum();
    let vcpus: u64 = running().map(|need| u64::from(need.vcpus)).sum();
    let disk: u64 = replicas().map(|(need, _)| disk_of(need)).sum();
    let mut wrong = |what: &str, much: u64| {
        wrongs.insert(format!("{what} of {}", room.name), much);
    };
    wrong("memory", memory.saturating_sub(room.memory));
    wrong("vcpus", vcpus.saturating_sub(room.vcpus_max as u64));
    wrong("disk", disk.saturating_sub(room.disk));
    if !room.duty.takes() {
        wrong("guests", here().count() as u64);
        wrong("replicas", replicas().count() as u64);
    }
    let comes = (memory + takeover(snapshot, places, host)).saturating_sub(room.memory);
    wrong("promise", comes);
}

fn disk_of(need: &GuestNeed) -> u64 {
    if need.storage == Storage::Shared { 0 } else { need.disk }
}

/// The memory that comes to a host in the worst loss that is promised to be survived.
fn takeover(snapshot: &Snapshot, places: &[Option<Place>], host: HostIx) -> u64 {
    let zone = |host: HostIx| match snapshot.host(host).domains.first() {
        Some(zone) => snapshot.domains[zone.at()].clone(),
        None => snapshot.host(host).name.clone(),
    };
    let (at_once, lost_with): (usize, &dyn Fn(HostIx) -> String) = match snapshot.promise {
        Promise::Nothing => return 0,
        Promise::Hosts(count) => (count as usize, &|host| snapshot.host(host).name.clone()),
        Promise::Domain => (1, &zone),
    };
    let mut comes: BTreeMap<String, u64> = BTreeMap::new();
    for (need, place) in snapshot.guests.iter().zip(places) {
        let Some(place) = place.filter(|place| place.secondary == Some(host) && need.runs) else { continue };
        if lost_with(place.host) != lost_with(host) {
            *comes.entry(lost_with(place.host)).or_default() += need.memory;
        }
    }
    let mut comes: Vec<u64> = comes.into_values().collect();
    comes.sort();
    comes.iter().rev().take(at_once).sum()
}

fn keys(snapshot: &Snapshot, scope: Scope, host: HostIx) -> Vec<String> {
    let room = snapshot.host(host);
    match scope {
        Scope::Host => vec![room.name.clone()],
        Scope::Domain => room.domains.iter().map(|domain| snapshot.domains[domain.at()].clone()).collect(),
    }
}

fn counted(keys: impl Iterator<Item = String>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    keys.for_each(|key| *counts.entry(key).or_default() += 1);
    counts
}
