use super::sketch::{self, GIB, Kinds, cluster, duty, guests, hosts, random, room, rule, with};
use super::*;
use crate::layout::Layout;
use crate::snapshot::{Bound, GuestIx, HostDuty, HostIx, Place, Promise, Scope, Storage};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const N1: Promise = Promise::Hosts(1);

fn small(memory: u64, storage: Storage) -> Shape {
    Shape { memory: memory * GIB, disk: GIB, vcpus: 1, storage }
}

/// One line for each guest that comes back, is left out, or waits.
fn check_loss(snapshot: &Snapshot, lost: &str, expected: &[&str]) {
    let loss = loss(snapshot, &hosts(snapshot, lost));
    let name = |guest: &GuestIx| snapshot.guest(*guest).name.as_str();
    let mut lines = Vec::new();
    for (guest, host) in &loss.restarts {
        lines.push(format!("{} -> {}", name(guest), snapshot.host(*host).name));
    }
    let left = loss.without_place.iter().chain(&loss.without_replica);
    lines.extend(left.map(|(guest, why)| format!("{} out: {why}", name(guest))));
    lines.extend(loss.local.iter().map(|guest| format!("{} waits", name(guest))));
    assert_eq!(lines, expected);
}

fn check_problems(snapshot: &Snapshot, expected: &[&str]) {
    let survey = survey(snapshot);
    assert_eq!(problems(&survey), expected);
    assert_eq!(survey.is_kept(), expected.is_empty());
}

#[test]
fn what_a_lost_host_leaves_behind() {
    let s = with(N1, "h1:8 h2:8 h3:8", "db:2:h1+h2 idle:1:h1+h3 mail:1:h2+h1 old:1:h1 web:2:h3+h2");
    let mut s = s;
    s.guests[1].runs = false;
    check_loss(&s, "h1", &["db -> h2", "old waits"]);
    let loss = loss(&s, &hosts(&s, "h1"));
    let names: Vec<&str> = loss.degraded.iter().map(|g| s.guest(*g).name.as_str()).collect();
    assert_eq!(names, ["db", "mail"]);
    assert_eq!((loss.unaffected, loss.stopped.len()), (1, 1));
}

#[test]
fn a_guest_that_matters_more_gets_the_room() {
    let s = with(N1, "h1:8 h2:4", "big:3:h1+h2:5 small:2:h1+h2");
    check_loss(&s, "h1", &["big -> h2", "small out: h2: 1G of memory is free, 2G is needed"]);
}

#[test]
fn a_guest_whose_replica_is_being_filled_would_not_survive_its_host() {
    let mut s = with(N1, "h1:8 h2:8 h3:8", "db:2:h1+h2 web:2:h1+h3");
    s.guests[0].unready = Some("the replica on h2 is being filled".to_owned());
    check_loss(&s, "h1", &["web -> h3", "db out: the replica on h2 is being filled"]);
    check_loss(&s, "h2", &[]);
    assert_eq!(loss(&s, &hosts(&s, "h2")).degraded, [GuestIx(0)]);
    check_problems(&s, &["db would not survive the loss of its host: the replica on h2 is being filled"]);
    let outlook = &survey(&s).hosts[0];
    assert_eq!((outlook.restarts, outlook.left_out.len(), outlook.survives()), (1, 1, false));
    s.guests[0].runs = false;
    check_problems(&s, &[]);
}

#[test]
fn the_room_of_a_guest_whose_replica_is_being_filled_is_spoken_for() {
    let mut s = with(N1, "h1:8 h2:4", "db:3:h1+h2");
    s.guests[0].unready = Some("the replica on h2 is being filled".to_owned());
    let mut after = s.clone();
    guests(&mut after, "web:2:h1+h2");
    let broken = admit(&s, &after).unwrap_err();
    assert!(broken.why().contains("the loss of h1 would leave out web"), "{broken}");
    // Now, though, only one of them can come back.
    check_loss(&after, "h1", &["web -> h2", "db out: the replica on h2 is being filled"]);
    // What would find no room, filled or not, breaks the promise.
    s.hosts[1].memory = GIB;
    let survey = survey(&s);
    assert_eq!((survey.broken.len(), survey.exposed.len()), (1, 1));
}

#[test]
fn a_must_rule_leaves_a_guest_out_rather_than_break() {
    let mut s = with(N1, "h1:8 h2:8 h3:8", "web1:1:h1+h2 web2:1:h2+h3");
    rule(&mut s, "web-apart", "web1 web2", Scope::Host, Bound::AtMost(1));
    check_loss(&s, "h1", &["web1 out: h2: the rule 'web-apart' allows 1 on a host, this would be 2"]);
    check_loss(&s, "h2", &["web2 -> h3"]);
    check_problems(
        &s,
        &[
            "the cluster is to survive the loss of any one host, and the loss of h1 would leave out web1 (web1: h2: \
             the rule 'web-apart' allows 1 on a host, this would be 2)",
        ],
    );
}

#[test]
fn guests_that_belong_together_come_back_together() {
    let mut s = with(N1, "h1:8 h2:8 h3:8", "app:1:h1+h2 db:1:h1+h2");
    rule(&mut s, "pair", "app db", Scope::Host, Bound::Together);
    check_loss(&s, "h1", &["app -> h2", "db -> h2"]);
}

#[test]
fn shared_guests_spread_over_what_is_left_and_out_of_the_way_of_mirrored_ones() {
    let s = with(N1, "h1:8 h2:8 h3:8", "a:1:h1~ b:1:h1~ c:1:h1~ d:1:h1~");
    check_loss(&s, "h1", &["a -> h2", "b -> h3", "c -> h2", "d -> h3"]);
    let s = with(N1, "h1:8 h2:4 h3:3", "a:3:h1~ z:2:h1+h2");
    check_loss(&s, "h1", &["z -> h2", "a -> h3"]);
}

#[test]
fn two_hosts_that_hold_a_guest_take_it_with_them() {
    let s = with(N1, "h1:8 h2:8 h3:8", "a:1:h1+h2 b:1:h1+h3");
    check_loss(&s, "h1 h2", &["b -> h3", "a out: both hosts that hold its disks, h1 and h2, would be lost"]);
}

#[test]
fn a_cluster_with_room_keeps_its_promise() {
    check_problems(&with(N1, "h1:8 h2:8", "a:4:h1+h2 b:4:h2+h1"), &[]);
    check_problems(
        &with(N1, "h1:8 h2:8", "a:4:h1+h2 b:5:h2+h1"),
        &[
            "the cluster is to survive the loss of any one host, and the loss of h1 would leave out a (a: h2: 3G of \
             memory is free, 4G is needed)",
            "the loss of h2 would leave out b (b: h1: 4G of memory is free, 5G is needed)",
        ],
    );
}

#[test]
fn local_guests_and_single_hosts_are_outside_of_the_promise() {
    check_problems(&with(N1, "h1:8 h2:8", "a:8:h1 b:8:h2"), &[]);
    check_problems(&with(N1, "h1:8", "a:8:h1"), &[]);
    check_problems(&with(Promise::Domain, "h1:8:z h2:8:z", "a:8:h1+h2 b:8:h2+h1"), &[]);
}

#[test]
fn a_lost_host_exposes_the_guests_that_it_held_replicas_of() {
    let mut s = with(N1, "h1:8 h2:8 h3:8", "a:1:h1+h3 b:1:h2+h1");
    duty(&mut s, "h3", HostDuty::Lost("it is lost".into()));
    check_problems(
        &s,
        &["a would not survive the loss of its host: the other replica is on h3, and it is lost"],
    );
}

#[test]
fn a_pair_within_one_zone_does_not_survive_the_zone() {
    let s = with(Promise::Domain, "h1:8:z1 h2:8:z1 h3:8:z2", "a:1:h1+h2 b:1:h1+h3");
    check_problems(
        &s,
        &[
            "the cluster is to survive the loss of any one zone, and the loss of z1 would leave out a (a: both its \
             replicas are in z1)",
        ],
    );
}

#[test]
fn two_hosts_at_once() {
    let hosts = "h1:4 h2:4 h3:4 h4:4";
    check_problems(&with(Promise::Hosts(2), hosts, "a:2:h1+h3 b:2:h2+h3"), &[]);
    check_problems(
        &with(Promise::Hosts(2), hosts, "a:2:h1+h3 b:3:h2+h3"),
        &[
            "the cluster is to survive the loss of any 2 hosts, and the loss of h1 and h2 would leave out b (b: h3: \
             2G of memory is free, 3G is needed)",
        ],
    );
    check_problems(
        &with(Promise::Hosts(2), "h1:4 h2:4", "a:1:h1+h2"),
        &["2 hosts can promise to survive the loss of 1 at the most"],
    );
}

#[test]
fn maintenance_is_a_loss_that_was_asked_for() {
    let before = with(N1, "h1:8 h2:8 h3:8", "a:5:h1+h2 b:3:h2+h3 c:3:h3+h2");
    check_problems(&before, &[]);
    let mut after = before.clone();
    duty(&mut after, "h3", HostDuty::GuestsLeave("it is in maintenance".into()));
    // Then c runs on h2 beside b, and a does not fit there any more.
    assert_eq!(
        admit(&before, &after).unwrap_err().to_string(),
        "the cluster is to survive the loss of any one host, and then the loss of h1 would leave out a (a: h2: 2G of \
         memory is free, 5G is needed); add a host, or free some memory"
    );
    let mut roomy = before;
    roomy.hosts.iter_mut().for_each(|host| host.memory = 16 * GIB);
    let mut after = roomy.clone();
    duty(&mut after, "h3", HostDuty::GuestsLeave("it is in maintenance".into()));
    assert_eq!(admit(&roomy, &after), Ok(()));
    // What has its only other replica there is exposed for as long as it lasts, and says so.
    check_problems(
        &after,
        &[
            "b and c would not survive the loss of their hosts: the other replica is on h3, and it is in maintenance",
        ],
    );
}

#[test]
fn a_guest_that_would_break_the_promise_is_refused_and_told_where_it_would_not() {
    let before = with(N1, "h1:8 h2:8 h3:8", "a:4:h1+h2 b:4:h2+h1");
    let mut after = before.clone();
    guests(&mut after, "c:2:h2+h1");
    assert_eq!(
        admit(&before, &after).unwrap_err().to_string(),
        "the cluster is to survive the loss of any one host, and then the loss of h1 would leave out a (a: h2: 2G of \
         memory is free, 4G is needed), and so would one other loss; on h3 with its secondary on h1 it would hold"
    );
    let mut there = before.clone();
    guests(&mut there, "c:2:h3+h1");
    assert_eq!(admit(&before, &there), Ok(()));
}

#[test]
fn a_guest_that_grows_too_far_is_told_how_far_it_may() {
    let before = with(N1, "h1:8 h2:8", "a:4:h1+h2 b:2:h2+h1");
    let mut after = before.clone();
    after.guests[1].memory = 6 * GIB;
    let broken = admit(&before, &after).unwrap_err();
    // 2G is exact; what is proposed is found to within a sixteenth of what was asked for.
    assert!(broken.instead.starts_with("with 2.2G of memory less it would hold"), "{}", broken.instead);
}

#[test]
fn what_is_broken_already_may_stay_so() {
    let before = with(N1, "h1:8 h2:4 h3:8", "a:5:h1+h2");
    let mut after = before.clone();
    guests(&mut after, "b:1:h3+h1");
    assert_eq!(admit(&before, &after), Ok(()));
}

#[test]
fn how_many_more_fit() {
    let fits = fits(&cluster(N1, "h1:8 h2:8 h3:8"), small(1, Storage::Mirrored));
    assert_eq!((fits.count, fits.count_unpromised), (16, 24));
    assert_eq!(fits.limited_by, "the room that is kept for the loss of any one host");
    assert_eq!(fits.limited_by_unpromised, "memory");
    let local = super::fits(&cluster(N1, "h1:8 h2:8 h3:8"), small(1, Storage::Local));
    assert_eq!((local.count, local.limited_by.as_str()), (24, "memory"));
}

#[test]
fn one_host_fits_no_mirrored_guest() {
    let fits = fits(&cluster(N1, "h1:8"), small(1, Storage::Mirrored));
    assert_eq!((fits.count, fits.limited_by.as_str()), (0, "hosts: a mirrored guest needs two"));
}

#[test]
fn shared_guests_fit_until_a_loss_could_not_be_packed_elsewhere() {
    let fits = fits(&cluster(N1, "h1:8 h2:8 h3:8"), small(1, Storage::Shared));
    assert_eq!((fits.count, fits.count_unpromised), (16, 24));
    assert_eq!(fits.limited_by, "the room that is kept for the loss of any one host");
}

#[test]
fn a_guest_of_nothing_does_not_fit_for_ever() {
    let shape = Shape { memory: 0, disk: 0, vcpus: 0, storage: Storage::Mirrored };
    assert_eq!(fits(&cluster(N1, "h1:8 h2:8"), shape).count, fits::COUNT_MAX);
}

#[test]
fn another_host_brings_room() {
    let s = with(N1, "h1:8 h3:8", "a:4:h1+h3 b:4:h3+h1");
    let brings = with_host(&s, room("h2", 8), &["z9"], small(1, Storage::Mirrored));
    assert_eq!((brings.fits_before.count, brings.hosts_after), (0, 3));
    // Eight on the new host, whose secondaries use the room that the old ones keep for each other anyway.
    assert_eq!((brings.fits_after.count, brings.fits_after.count_unpromised), (8, 16));
    // The guests are where they were.
    check_loss(&grow::grown(&s, room("h2", 8), &["z9"]), "h1", &["a -> h3"]);
}

// ---------------------------------------------------------------------------------------------------------------
// The quick ways agree with the slow ones

/// Who comes back after a loss, computed from nothing but the snapshot: one after the other, each on its secondary's
/// host if sums and counts made from scratch allow it.
fn slow_returns(s: &Snapshot, lost: &BTreeSet<HostIx>) -> BTreeMap<GuestIx, bool> {
    let mut on: BTreeMap<GuestIx, HostIx> = BTreeMap::new();
    let mut waiting = Vec::new();
    for guest in s.guest_indices() {
        let need = s.guest(guest);
        let place = need.place.unwrap();
        if !lost.contains(&place.host) {
            on.insert(guest, place.host);
        } else if need.runs && need.storage == Storage::Mirrored && !lost.contains(&place.secondary.unwrap())
        {
            waiting.push(guest);
        }
    }
    waiting.sort_by_key(|guest| (-s.guest(*guest).priority, *guest));
    let mut back = BTreeMap::new();
    for guest in waiting {
        let to = s.guest(guest).place.unwrap().secondary.unwrap();
        let mut after = on.clone();
        after.insert(guest, to);
        let good = slow_good(s, &on, &after, guest, to);
        back.insert(guest, good);
        if good {
            on = after;
        }
    }
    back
}

fn slow_good(
    s: &Snapshot,
    before: &BTreeMap<GuestIx, HostIx>,
    after: &BTreeMap<GuestIx, HostIx>,
    guest: GuestIx,
    to: HostIx,
) -> bool {
    let there =
        || after.iter().filter(|(g, host)| **host == to && s.guest(**g).runs).map(|(g, _)| s.guest(*g));
    let memory: u64 = there().map(|need| need.memory).sum();
    let vcpus: u32 = there().map(|need| need.vcpus).sum();
    let rules = s.guest(guest).groups.iter().all(|group| {
        let rule = &s.groups[group.at()];
        let key = |host: HostIx| match rule.scope {
            Scope::Host => host.0,
            Scope::Domain => s.host(host).domains[0].0,
        };
        let counts = |on: &BTreeMap<GuestIx, HostIx>| {
            let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
            for member in rule.members.iter().filter_map(|member| on.get(member)) {
                *counts.entry(key(*member)).or_default() += 1;
            }
            counts
        };
        match rule.bound {
            Bound::AtMost(limit) => counts(after)[&key(to)] <= limit,
            Bound::Together => {
                let apart = |counts: BTreeMap<u32, u32>| {
                    counts.values().sum::<u32>() - counts.values().copied().max().unwrap_or(0)
                };
                apart(counts(after)) <= apart(counts(before))
            }
        }
    });
    memory <= s.host(to).memory
        && f64::from(vcpus) <= s.host(to).vcpus_max
        && rules
        && s.guest(guest).allowed.as_ref().is_none_or(|allowed| allowed.contains(&to))
}

/// Whether no loss of up to `count` hosts leaves out a mirrored guest, the slow way.
fn slow_kept(s: &Snapshot, count: u32) -> bool {
    (1u32..1 << s.hosts.len()).filter(|set| set.count_ones() <= count).all(|set| {
        let lost: BTreeSet<HostIx> = s.host_indices().filter(|host| set & (1 << host.0) != 0).collect();
        slow_returns(s, &lost).values().all(|good| *good)
    })
}

/// The same by sums alone, where there are no rules and virtual CPUs do not matter.
fn slow_sums_fit(s: &Snapshot) -> bool {
    let layout = Layout::new(s);
    s.host_indices().all(|host| {
        let needed = s.host_indices().map(|lost| {
            let comes = s
                .guests
                .iter()
                .filter(|need| need.runs && need.place == Some(Place { host: lost, secondary: Some(host) }));
            comes.map(|need| need.memory).sum::<u64>()
        });
        layout.given(host).memory + needed.max().unwrap_or(0) <= s.host(host).memory
    })
}

const MIRRORED: Kinds = Kinds { shared: false, local: false, rules: false };
const RULED: Kinds = Kinds { shared: false, local: true, rules: true };
const ALL: Kinds = Kinds { shared: true, local: true, rules: true };

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_loss_is_what_the_slow_way_says(seed in any::<u64>(), set in 1u32..64) {
        let s = random(seed, 5, 12, RULED, N1);
        let lost: Vec<HostIx> = s.host_indices().filter(|host| set & (1 << host.0) != 0).collect();
        let slow = slow_returns(&s, &lost.iter().copied().collect());
        let quick = loss(&s, &lost);
        let back: BTreeMap<GuestIx, bool> = quick.restarts.iter().map(|(guest, _)| (*guest, true))
            .chain(quick.without_place.keys().map(|guest| (*guest, false))).collect();
        prop_assert_eq!(back, slow);
    }

    #[test]
    fn a_loss_leaves_no_trace(seed in any::<u64>()) {
        let s = random(seed, 5, 12, ALL, N1);
        let bare = recover::bare(&s);
        let mut ground = ground::Ground::now(&s, &bare);
        let first: Vec<Loss> = s.host_indices().map(|host| ground.lose(&[host])).collect();
        let second: Vec<Loss> = s.host_indices().map(|host| ground.lose(&[host])).collect();
        prop_assert_eq!(&first, &second);
        for (host, seen) in s.host_indices().zip(first) {
            prop_assert_eq!(loss(&s, &[host]), seen);
        }
    }

    #[test]
    fn no_loss_breaks_a_rule_or_overfills_a_host(seed in any::<u64>(), set in 1u32..64) {
        let s = random(seed, 5, 14, ALL, Promise::Nothing);
        let lost: Vec<HostIx> = s.host_indices().filter(|host| set & (1 << host.0) != 0).collect();
        let mut layout = Layout::new(&s);
        for guest in s.guest_indices() {
            if layout.place(guest).is_some_and(|place| lost.contains(&place.host)) {
                layout.put(guest, None);
            }
        }
        let over = |layout: &Layout<'_>, host: HostIx| {
            layout.given(host).memory.saturating_sub(s.host(host).memory)
        };
        let excess = |layout: &Layout<'_>| -> Vec<u32> {
            (0..s.groups.len() as u32).map(|g| layout.group_excess(crate::snapshot::GroupIx(g))).collect()
        };
        let before: Vec<u64> = s.host_indices().map(|host| over(&layout, host)).collect();
        for (guest, host) in loss(&s, &lost).restarts {
            let old = excess(&layout);
            prop_assert!(!lost.contains(&host));
            layout.put(guest, Some(Place { host, secondary: None }));
            prop_assert!(over(&layout, host) <= before[host.at()]);
            for (new, old) in excess(&layout).into_iter().zip(old) {
                prop_assert!(new <= old);
            }
        }
    }

    #[test]
    fn the_promise_is_kept_exactly_when_the_slow_way_says_so(seed in any::<u64>(), count in 1u32..4) {
        let s = random(seed, 5, 12, RULED, Promise::Hosts(count));
        let most = count.min(s.hosts.len() as u32 - 1);
        prop_assert_eq!(survey(&s).broken.is_empty(), slow_kept(&s, most));
    }

    #[test]
    fn the_bound_never_promises_too_much(seed in any::<u64>(), count in 1usize..4) {
        for kinds in [MIRRORED, RULED, ALL] {
            let s = random(seed, 6, 10, kinds, Promise::Hosts(count as u32));
            let bare = recover::bare(&s);
            let mut ground = ground::Ground::settled(&s, &bare);
            let count = count.min(s.hosts.len() - 1);
            let (found, doubt) = bound::check(&mut ground, count);
            let mut said = !found.is_empty() || doubt.is_some();
            // What the loss of one host does is simulated in any case.
            said |= s.host_indices().any(|host| !ground.left_out(&[host]).is_empty());
            prop_assert!(said || survey(&s).broken.is_empty());
            if kinds.rules { continue }
            // Without rules and shared storage the bound is exact.
            prop_assert!(!said || !survey(&s).broken.is_empty());
        }
    }

    #[test]
    fn a_guest_is_admitted_exactly_when_the_sums_still_fit(seed in any::<u64>(), a in 0u32..5, b in 1u32..5) {
        let before = random(seed, 5, 10, MIRRORED, N1);
        prop_assume!(slow_sums_fit(&before));
        let count = before.hosts.len() as u32;
        let (a, b) = (a % count, (a % count + 1 + b % (count - 1)) % count);
        prop_assume!(Layout::new(&before).memory_free(HostIx(a)) >= 2 * GIB);
        let mut after = before.clone();
        guests(&mut after, &format!("new:2:h{a}+h{b}"));
        prop_assert_eq!(admit(&before, &after).is_ok(), slow_sums_fit(&after));
    }

    #[test]
    fn what_fits_keeps_the_promise_and_one_more_does_not(seed in any::<u64>(), memory in 1u64..4, count in 1u32..3) {
        let s = random(seed, 5, 6, MIRRORED, Promise::Hosts(count));
        prop_assume!(survey(&s).is_kept());
        prop_assume!(s.host_indices().all(|host| Layout::new(&s).given(host).memory <= s.host(host).memory));
        let shape = small(memory, Storage::Mirrored);
        let fits = fits(&s, shape);
        let mut full = s.clone();
        let add = |to: &Snapshot, n: usize, place: Place| {
            let mut more = to.clone();
            let name = |host: HostIx| s.host(host).name.clone();
            let pair = format!("{}+{}", name(place.host), name(place.secondary.unwrap()));
            guests(&mut more, &format!("n{n:03}:{memory}:{pair}"));
            let disk = Layout::new(&more);
            let fits = more.host_indices().all(|h| {
                disk.given(h).memory <= more.host(h).memory && disk.given(h).disk <= more.host(h).disk
            });
            (more, fits)
        };
        for (n, place) in fits.places.iter().enumerate() {
            let (more, room) = add(&full, n, *place);
            prop_assert!(room);
            full = more;
        }
        let kept = survey(&full);
        prop_assert!(kept.broken.is_empty(), "{:?}", problems(&kept));
        for host in s.host_indices() {
            for secondary in s.host_indices().filter(|other| *other != host) {
                let (more, room) = add(&full, 999, Place { host, secondary: Some(secondary) });
                prop_assert!(!room || !survey(&more).broken.is_empty(), "one more fits on {host:?}+{secondary:?}");
            }
        }
    }

    #[test]
    fn what_fits_beside_shared_guests_keeps_the_promise(seed in any::<u64>(), memory in 1u64..4) {
        for storage in [Storage::Shared, Storage::Mirrored] {
            for promise in [N1, Promise::Domain] {
                let s = random(seed, 5, 6, ALL, promise);
                let shape = small(memory, storage);
                let fits = fits(&s, shape);
                let before = survey(&s);
                let after = survey(&fits::extended(&s, shape, &fits.places));
                prop_assert!(admit::worse(&before, &after).is_none());
                prop_assert!(fits.count <= fits.count_unpromised);
            }
        }
    }
}

#[test]
fn the_sketch_is_what_it_says() {
    let s = sketch::with(N1, "h1:8:z1 h2:8:z2", "a:1:h1+h2 b:2:h1~ c:3:h2");
    assert_eq!(s.guests[1].storage, Storage::Shared);
    assert_eq!(s.guests[2].place, Some(Place { host: HostIx(1), secondary: None }));
}
