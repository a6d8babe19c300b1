use super::*;
use crate::capacity::sketch::{Kinds, duty, hosts, random, rule, with};
use crate::capacity::{loss, sketch};
use crate::snapshot::{Bound, HostDuty, Promise, Scope};
use proptest::prelude::*;

/// One line for each group: its hosts, then what moves, then what stops.
fn check(snapshot: &Snapshot, members: &Members, expected: &[&str]) {
    let host = |host: &HostIx| snapshot.host(*host).name.clone();
    let guest = |guest: &GuestIx| snapshot.guest(*guest).name.clone();
    let lines: Vec<String> = groups(snapshot, members)
        .groups
        .iter()
        .map(|group| {
            let mut words: Vec<String> = group.hosts.iter().map(host).collect();
            words.extend(group.moves.iter().map(|(g, to)| format!("{}->{}", guest(g), host(to))));
            words.extend(group.stops.iter().map(|(g, why)| format!("| {} stops: {why}", guest(g))));
            words.extend(group.notes.iter().map(|note| format!("| {note}")));
            words.join(" ")
        })
        .collect();
    assert_eq!(lines, expected);
}

#[test]
fn pairs_are_rebooted_one_side_after_the_other() {
    let s = with(Promise::Nothing, "h1:8 h2:8 h3:8 h4:8", "a:1:h1+h2 b:1:h2+h1 c:1:h3+h4 d:1:h4+h3");
    check(&s, &Members::default(), &["h1 h3 a->h2 c->h4", "h2 h4 b->h1 d->h3"]);
}

#[test]
fn a_ring_of_five_needs_three_groups() {
    let s = with(
        Promise::Nothing,
        "h1:8 h2:8 h3:8 h4:8 h5:8",
        "a:1:h1+h2 b:1:h2+h3 c:1:h3+h4 d:1:h4+h5 e:1:h5+h1",
    );
    assert_eq!(groups(&s, &Members::default()).groups.len(), 3);
}

#[test]
fn a_secondary_without_room_for_two_splits_a_group() {
    let roomy = with(Promise::Nothing, "h1:8 h2:8 h3:8", "a:3:h1+h3 b:3:h2+h3");
    check(&roomy, &Members::default(), &["h1 h2 a->h3 b->h3", "h3"]);
    let tight = with(Promise::Nothing, "h1:8 h2:8 h3:4", "a:3:h1+h3 b:3:h2+h3");
    check(&tight, &Members::default(), &["h1 a->h3", "h2 b->h3", "h3"]);
}

#[test]
fn a_must_rule_splits_a_group() {
    let mut s = with(Promise::Nothing, "h1:8 h2:8 h3:8", "a:1:h1+h3 b:1:h2+h3");
    rule(&mut s, "apart", "a b", Scope::Host, Bound::AtMost(1));
    check(&s, &Members::default(), &["h1 a->h3", "h2 b->h3", "h3"]);
}

#[test]
fn what_cannot_leave_stops_and_is_named() {
    let mut s = with(Promise::Nothing, "h1:8 h2:2 h3:8", "a:3:h1+h2 b:1:h1+h3 c:1:h1 d:1:h2");
    s.guests[3].runs = false;
    duty(&mut s, "h3", HostDuty::GuestsLeave("it is in maintenance".into()));
    check(
        &s,
        &Members::default(),
        &[
            "h2 h3",
            "h1 c->h2 | a stops: h2: 2G of memory is free, 3G is needed | b stops: the other replica is on h3, and it \
             is in maintenance",
        ],
    );
}

#[test]
fn a_guest_on_local_disks_takes_them_along_where_there_is_room_for_them() {
    let mut s = with(Promise::Nothing, "h1:8 h2:8 h3:8", "a:1:h1 b:1:h2+h3");
    s.guests[0].disk = 100 << 30;
    check(
        &s,
        &Members::default(),
        &[
            "h1 h2 b->h3 | a stops: h3: 99G of disk is free, 100G is needed; h2: 99G of disk is free, 100G is needed",
            "h3",
        ],
    );
}

#[test]
fn the_store_keeps_its_majority_and_the_leader_goes_last() {
    let s = with(Promise::Nothing, "h1:8 h2:8 h3:8 h4:8", "");
    let members = Members { store: hosts(&s, "h1 h2 h3"), leader: Some(hosts(&s, "h1")[0]) };
    check(&s, &members, &["h2", "h3", "h1 h4"]);
    let alone = Members { store: hosts(&s, "h1"), leader: Some(hosts(&s, "h1")[0]) };
    check(
        &s,
        &alone,
        &[
            "h1 h2 h3 h4 | without h1 the store has no majority of its members: nothing can be changed until it is \
             back",
        ],
    );
}

#[test]
fn a_lost_host_is_in_no_group() {
    let mut s = with(Promise::Nothing, "h1:8 h2:8 h3:8", "a:1:h1+h3 b:1:h2+h1");
    duty(&mut s, "h3", HostDuty::Lost("it is lost".into()));
    check(&s, &Members::default(), &["h1 | a stops: the other replica is on h3, and it is lost", "h2 b->h1"]);
}

#[test]
fn shared_guests_go_anywhere_but_to_hosts_of_their_group() {
    let s = with(Promise::Nothing, "h1:4 h2:4 h3:4", "a:2:h1~ b:2:h2~ c:2:h3~");
    let plan = groups(&s, &Members::default());
    // Six GiB on two hosts: one host at a time.
    assert_eq!(plan.groups.len(), 3);
    let s = with(Promise::Nothing, "h1:4 h2:4 h3:8", "a:2:h1~ b:2:h2~ c:2:h3~");
    assert_eq!(groups(&s, &Members::default()).groups.len(), 2);
}

const MIRRORED: Kinds = Kinds { shared: false, local: false, rules: false };
const ALL: Kinds = Kinds { shared: true, local: true, rules: true };

/// Whether hosts may be rebooted together, judged by what their loss would do.
fn may_go_together(s: &Snapshot, together: &[HostIx], stuck: &BTreeSet<GuestIx>) -> bool {
    let paired = s.guests.iter().filter_map(|need| need.place).any(|place| {
        together.contains(&place.host) && place.secondary.is_some_and(|other| together.contains(&other))
    });
    let left = loss(s, together);
    !paired && left.without_place.keys().all(|guest| stuck.contains(guest))
}

/// The fewest groups of a mirrored cluster, by trying all.
fn fewest(s: &Snapshot, stuck: &BTreeSet<GuestIx>) -> usize {
    fn go(s: &Snapshot, stuck: &BTreeSet<GuestIx>, host: u32, groups: &mut Vec<Vec<HostIx>>) -> usize {
        if host as usize == s.hosts.len() {
            return groups.len();
        }
        let mut best = usize::MAX;
        for at in 0..=groups.len() {
            if at == groups.len() {
                groups.push(Vec::new());
            }
            groups[at].push(HostIx(host));
            if may_go_together(s, &groups[at], stuck) {
                best = best.min(go(s, stuck, host + 1, groups));
            }
            groups[at].pop();
            groups.retain(|group| !group.is_empty());
        }
        best
    }
    go(s, stuck, 0, &mut Vec::new())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_host_is_rebooted_once_and_no_group_stops_a_guest_that_it_does_not_name(seed in any::<u64>()) {
        let s = random(seed, 6, 12, ALL, Promise::Nothing);
        let mut dice = sketch::Dice(seed | 1);
        let count = s.hosts.len() as u64;
        let store: BTreeSet<HostIx> = (0..3).map(|_| HostIx(dice.below(count) as u32)).collect();
        let leader = HostIx(dice.below(count) as u32);
        let members = Members { store: store.into_iter().collect(), leader: Some(leader) };
        let plan = groups(&s, &members);
        let mut all: Vec<HostIx> = plan.groups.iter().flat_map(|group| group.hosts.clone()).collect();
        all.sort();
        prop_assert_eq!(all, s.host_indices().collect::<Vec<_>>());
        prop_assert!(plan.groups.last().unwrap().hosts.contains(&leader));
        for group in &plan.groups {
            let away = group.hosts.iter().filter(|host| members.store.contains(host)).count();
            prop_assert!(away <= 1 || away <= (members.store.len() - 1) / 2);
            let went: BTreeMap<GuestIx, HostIx> = group.moves.iter().copied().collect();
            for guest in s.guest_indices() {
                let need = s.guest(guest);
                let place = need.place.unwrap();
                if !need.runs || !group.hosts.contains(&place.host) {
                    prop_assert!(!went.contains_key(&guest) && !group.stops.contains_key(&guest));
                    continue;
                }
                prop_assert!(went.contains_key(&guest) != group.stops.contains_key(&guest));
                if let Some(to) = went.get(&guest) {
                    prop_assert!(!group.hosts.contains(to));
                    prop_assert!(need.storage != Storage::Mirrored || place.secondary == Some(*to));
                }
                prop_assert!(!place.secondary.is_some_and(|other| group.hosts.contains(&other)));
            }
        }
    }

    #[test]
    fn few_groups(seed in any::<u64>()) {
        let s = random(seed, 6, 8, MIRRORED, Promise::Nothing);
        let plan = groups(&s, &Members::default());
        let stuck: BTreeSet<GuestIx> = plan.groups.iter().flat_map(|group| group.stops.keys().copied()).collect();
        for group in &plan.groups {
            prop_assert!(may_go_together(&s, &group.hosts, &stuck));
        }
        let least = fewest(&s, &stuck);
        prop_assert!(plan.groups.len() <= least + 1, "{} groups, {least} would do", plan.groups.len());
    }
}
