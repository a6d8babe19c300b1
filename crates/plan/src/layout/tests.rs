//! Small clusters, drawn by hand.

use super::*;
use crate::search::sample::{Profile, Sample};
use crate::snapshot::{Group, HostDuty, Strength};

const GIB: u64 = 1 << 30;

/// Three hosts of 8G and 100G of disk, zones a, b, c; guests of 2G and 10G where the text says: `host` or
/// `host:secondary`.
fn cluster(places: &[&str]) -> Snapshot {
    let (sample, _) = Sample::new(3, places.len(), Storage::Mirrored, Profile::Random, 1).make();
    let mut snapshot =
        Snapshot { groups: Vec::new(), domains: vec!["a".into(), "b".into(), "c".into()], ..sample };
    for (host, at) in snapshot.hosts.iter_mut().zip(0..) {
        host.name = format!("host{}", at + 1);
        (host.memory, host.disk, host.vcpus_max) = (8 * GIB, 100 * GIB, 8.0);
        host.domains = vec![DomainIx(at)];
    }
    for (guest, place) in snapshot.guests.iter_mut().zip(places) {
        (guest.memory, guest.disk, guest.vcpus) = (2 * GIB, 10 * GIB, 2);
        guest.groups.clear();
        guest.place = Some(place_of(place));
        guest.storage = if place.contains(':') { Storage::Mirrored } else { Storage::Shared };
    }
    snapshot
}

fn place_of(text: &str) -> Place {
    let host = |text: &str| HostIx(text.trim_start_matches("host").parse::<u32>().unwrap() - 1);
    match text.split_once(':') {
        Some((primary, secondary)) => Place { host: host(primary), secondary: Some(host(secondary)) },
        None => Place { host: host(text), secondary: None },
    }
}

fn rule(snapshot: &mut Snapshot, bound: Bound, scope: Scope, members: &[u32]) {
    let group = GroupIx(snapshot.groups.len() as u32);
    let members: Vec<GuestIx> = members.iter().map(|guest| GuestIx(*guest)).collect();
    for member in &members {
        snapshot.guests[member.at()].groups.push(group);
    }
    snapshot.groups.push(Group { rule: "web".into(), members, scope, bound, strength: Strength::Must });
}

/// What the layout says to the first guest that would go to a place; "" when it may.
fn check(snapshot: &Snapshot, to: &str, expected: &str) {
    let layout = Layout::new(snapshot);
    let obstacle = layout.obstacle(GuestIx(0), place_of(to));
    assert_eq!(obstacle.map(|obstacle| obstacle.to_string()).unwrap_or_default(), expected, "to {to}");
}

fn broken(snapshot: &Snapshot) -> Vec<String> {
    Layout::new(snapshot).broken().iter().map(ToString::to_string).collect()
}

#[test]
fn sums_follow_the_guests() {
    let snapshot = cluster(&["host1:host2", "host1:host2", "host3"]);
    let mut layout = Layout::new(&snapshot);
    assert_eq!(layout.memory_free(HostIx(0)), 4 * GIB);
    assert_eq!(layout.disk_free(HostIx(1)), 80 * GIB);
    assert_eq!(layout.takeover(HostIx(1)), (4 * GIB, vec![Loss::Host(HostIx(0))]));
    layout.put(GuestIx(0), Some(place_of("host3:host2")));
    assert_eq!(layout.takeover(HostIx(1)), (2 * GIB, vec![Loss::Host(HostIx(0))]));
    layout.put(GuestIx(0), None);
    layout.put(GuestIx(1), None);
    layout.put(GuestIx(2), None);
    assert_eq!(layout.given(HostIx(0)).guests, 0);
    assert_eq!(layout.disk_free(HostIx(1)), 100 * GIB);
    assert_eq!(layout.takeover(HostIx(1)), (0, vec![]));
}

#[test]
fn a_promise_says_what_must_be_taken_over() {
    let mut snapshot = cluster(&["host1:host3", "host2:host3", "host2:host3"]);
    let takeover = |snapshot: &Snapshot| Layout::new(snapshot).takeover(HostIx(2)).0 / GIB;
    assert_eq!(takeover(&snapshot), 4);
    snapshot.promise = Promise::Hosts(2);
    assert_eq!(takeover(&snapshot), 6);
    snapshot.promise = Promise::Nothing;
    assert_eq!(takeover(&snapshot), 0);
    // In one zone with the first host, the third host would be lost together with it.
    snapshot.promise = Promise::Domain;
    snapshot.hosts[0].domains = vec![DomainIx(2)];
    assert_eq!(takeover(&snapshot), 4);
    snapshot.hosts[1].domains = vec![DomainIx(2)];
    assert_eq!(takeover(&snapshot), 0);
}

#[test]
fn a_guest_goes_where_there_is_room() {
    let full = cluster(&["host1", "host2", "host2", "host2", "host2"]);
    check(&full, "host3", "");
    check(&full, "host2", "0 of memory is free, 2G is needed");
    let mut full = cluster(&["host1:host3", "host2:host3"]);
    full.guests[1].disk = 95 * GIB;
    full.hosts[2].disk = 1000 * GIB;
    check(&full, "host1:host2", "5G of disk is free, 10G is needed");
    full.hosts[1].vcpus_max = 3.0;
    check(&full, "host3:host1", "");
    let mut busy = cluster(&["host1", "host2"]);
    busy.hosts[1].vcpus_max = 3.0;
    check(&busy, "host2", "it may have 1 more virtual CPUs, 2 are needed");
}

#[test]
fn room_for_the_loss_of_a_host_stays() {
    // host2 has 2G free, and takes over as much when host3 dies.
    let snapshot = cluster(&["host1", "host2", "host2", "host2", "host3:host2"]);
    check(
        &snapshot,
        "host2",
        "0 of memory would be free, and 2G is needed for the guests that come here when host3 dies",
    );
    assert_eq!(broken(&snapshot), [""; 0]);
    // Where it is short already, it may get no worse, and others may leave.
    let short = cluster(&["host2", "host2", "host2", "host2", "host3:host2"]);
    check(&short, "host1", "");
    assert_eq!(broken(&short), ["host2: 0 of memory is free, 2G is needed when host3 dies"]);
}

#[test]
fn an_overfull_host_may_be_left() {
    let mut snapshot = cluster(&["host1:host2", "host1:host2", "host1:host2", "host1:host2", "host1:host2"]);
    snapshot.promise = Promise::Nothing;
    assert_eq!(
        broken(&snapshot),
        [
            "host1: 10G of memory is reserved, it has 8G",
            "host1: its guests have 10 virtual CPUs, it may give 8"
        ]
    );
    check(&snapshot, "host2:host1", "");
    check(&snapshot, "host3:host1", "");
    // Only its secondary changes: the memory that it has on the full host is its own.
    check(&snapshot, "host1:host3", "");
}

#[test]
fn a_rule_counts_hosts_or_zones() {
    let mut snapshot = cluster(&["host1", "host2", "host3"]);
    rule(&mut snapshot, Bound::AtMost(1), Scope::Host, &[0, 1]);
    check(&snapshot, "host2", "the rule 'web' allows 1 on a host, this would be 2");
    check(&snapshot, "host3", "");
    snapshot.groups[0].scope = Scope::Domain;
    snapshot.hosts[2].domains = vec![DomainIx(1)];
    check(&snapshot, "host3", "the rule 'web' allows 1 in a zone, this would be 2");
    // In its own zone it counts once, wherever it goes.
    snapshot.hosts[2].domains = vec![DomainIx(0)];
    check(&snapshot, "host3", "");
}

#[test]
fn guests_that_belong_together_leave_a_host_one_by_one() {
    let mut snapshot = cluster(&["host1", "host1", "host1"]);
    rule(&mut snapshot, Bound::Together, Scope::Host, &[0, 1, 2]);
    check(&snapshot, "host2", "the rule 'web' wants its guests together on a host");
    snapshot.hosts[0].duty = HostDuty::Leaves("it is being emptied".into());
    check(&snapshot, "host2", "");
    snapshot.guests[1].place = Some(place_of("host3"));
    check(&snapshot, "host2", "the rule 'web' wants its guests together on a host");
    check(&snapshot, "host3", "");
}

#[test]
fn a_host_that_takes_nothing_keeps_what_it_has() {
    let mut snapshot = cluster(&["host1:host2"]);
    snapshot.hosts[1].duty = HostDuty::Keeps("it is in maintenance".into());
    check(&snapshot, "host2:host1", "it is in maintenance");
    check(&snapshot, "host1:host2", "");
    snapshot.guests[0].place = Some(place_of("host2:host1"));
    check(&snapshot, "host1:host2", "");
    check(&snapshot, "host2:host3", "");
}

#[test]
fn a_place_has_as_many_hosts_as_the_guest_has_replicas() {
    let mut snapshot = cluster(&["host1:host2", "host1"]);
    check(&snapshot, "host3", "a mirrored guest needs a secondary");
    check(&snapshot, "host3:host3", "primary and secondary would be on one host");
    snapshot.guests[0].allowed = Some(vec![HostIx(0), HostIx(1)]);
    check(&snapshot, "host3:host1", "a rule keeps the guest on other hosts");
    check(&snapshot, "host2:host3", "");
}
