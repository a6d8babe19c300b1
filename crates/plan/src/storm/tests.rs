use model::{BootId, FenceDevice, FenceDevices, GoOn, GuestState, Pool};

use super::*;
use crate::decide::{Decision, decide};
use crate::fence::fences;
use crate::fixture::{self, cluster, host, power_off, power_on};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn after(s: i64) -> Timestamp {
    NOW + SignedDuration::from_secs(s)
}

/// Writes down what is seen, as the leader does; answers the hosts of the storm.
fn write_down(view: &mut ClusterView, now: Timestamp) -> Option<String> {
    let losses = look(view, now);
    assert_eq!(
        look(&ClusterView { losses: Some(losses.clone()), ..view.clone() }, now),
        losses,
        "twice is once"
    );
    view.losses = Some(losses.clone());
    losses.storm.map(|storm| format!("{} of {}", named(&storm.hosts), storm.of))
}

fn lose(view: &mut ClusterView, hosts: &[&str]) {
    hosts.iter().for_each(|host| power_off(view, host));
}

/// Six hosts; `a` to `d` run on host1 and host2, mirrored to host3.
fn six() -> ClusterView {
    let mut view = cluster(6);
    for (guest, owner) in [("a", "host1"), ("b", "host1"), ("c", "host2"), ("d", "host2")] {
        fixture::put(&mut view, guest, Pool::Mirror, owner, Some("host3"));
    }
    view
}

fn storm(hosts: &str) -> Option<String> {
    Some(hosts.to_owned())
}

#[test]
fn one_host_is_no_storm_nor_is_a_third_of_them() {
    let mut view = cluster(3);
    lose(&mut view, &["host2"]);
    assert_eq!(write_down(&mut view, NOW), None);
    let mut view = six();
    lose(&mut view, &["host1", "host2"]);
    assert_eq!(write_down(&mut view, NOW), None, "a third is not more than a third");
    lose(&mut view, &["host4"]);
    assert_eq!(write_down(&mut view, after(5)), storm("host1, host2, host4 of 6"));
    let mut view = cluster(5);
    lose(&mut view, &["host4", "host5"]);
    assert_eq!(write_down(&mut view, NOW), storm("host4, host5 of 5"));
}

#[test]
fn hosts_that_vanish_one_after_the_other_are_no_storm() {
    let mut view = cluster(5);
    for (at, gone) in [(0, "host5"), (61, "host4")] {
        lose(&mut view, &[gone]);
        assert_eq!(write_down(&mut view, after(at)), None, "{gone}");
    }
    // Two of the three that were left.
    lose(&mut view, &["host3"]);
    assert_eq!(write_down(&mut view, after(100)), storm("host3, host4 of 4"));
}

#[test]
fn a_host_that_never_came_does_not_count() {
    let mut view = cluster(5);
    for joining in ["host4", "host5"] {
        view.host_reports.remove(&host(joining));
        power_off(&mut view, joining);
    }
    assert_eq!(write_down(&mut view, NOW), None);
    assert!(view.losses.unwrap().since.is_empty());
}

#[test]
fn it_is_over_when_enough_are_back() {
    let mut view = six();
    lose(&mut view, &["host1", "host2", "host4"]);
    assert_eq!(write_down(&mut view, NOW), storm("host1, host2, host4 of 6"));
    power_on(&mut view, "host1", 1);
    assert_eq!(write_down(&mut view, after(10)), None);
    let after_it = view.losses.clone().unwrap();
    let before = Losses {
        storm: Some(Storm { began: NOW, hosts: [host("host2")].into(), of: 6, go_on: None }),
        ..after_it.clone()
    };
    let (severity, message) = news(Some(&before), &after_it, 30).unwrap();
    assert_eq!(
        (severity, message.as_str()),
        (Severity::Info, "the storm is over: of its hosts host2 is still lost")
    );
    assert_eq!(write_down(&mut view, after(11)), None, "and stays so");
}

#[test]
fn it_is_over_by_itself_and_does_not_begin_anew() {
    let mut view = six();
    lose(&mut view, &["host1", "host2", "host4"]);
    write_down(&mut view, NOW);
    assert!(write_down(&mut view, after(599)).is_some());
    assert_eq!(write_down(&mut view, after(600)), None);
    assert_eq!(write_down(&mut view, after(601)), None);
}

#[test]
fn a_clock_that_goes_back_prolongs_nothing_for_ever() {
    let mut view = six();
    lose(&mut view, &["host1", "host2", "host4"]);
    write_down(&mut view, after(10_000));
    // The next leader's clock is right.
    write_down(&mut view, NOW);
    let losses = view.losses.clone().unwrap();
    assert_eq!(pace(&view, &losses).unwrap().hold_until, after(30));
    assert!(losses.since.values().all(|at| *at == NOW));
}

#[test]
fn an_operators_word_ends_the_pacing_until_more_vanish() {
    let mut view = six();
    lose(&mut view, &["host1", "host2", "host4"]);
    write_down(&mut view, NOW);
    let word = GoOn { by: "ann".into(), at: after(5) };
    view.losses.as_mut().unwrap().storm.as_mut().unwrap().go_on = Some(word);
    assert!(write_down(&mut view, after(6)).is_some());
    assert_eq!(pace(&view, view.losses.as_ref().unwrap()), None);
    // One more is no storm; two of the three that were left are.
    lose(&mut view, &["host5"]);
    write_down(&mut view, after(7));
    assert_eq!(pace(&view, view.losses.as_ref().unwrap()), None);
    lose(&mut view, &["host6"]);
    assert_eq!(write_down(&mut view, after(8)), storm("host5, host6 of 3"));
    assert!(pace(&view, view.losses.as_ref().unwrap()).is_some());
}

#[test]
fn the_guard_can_be_off() {
    let mut view = six();
    fixture::settings(&mut view).storm_share_percent = 0;
    lose(&mut view, &["host1", "host2", "host4", "host5"]);
    assert_eq!(write_down(&mut view, NOW), None);
}

/// What is decided: who goes, who waits, and in how many seconds it is looked at again.
fn check(view: &ClusterView, now: Timestamp, goes: &[&str], waits: &[&str]) -> Decision {
    let decision = decide(view, now, NOW);
    let changes: Vec<String> = decision
        .changes
        .iter()
        .map(|change| {
            let (crate::decide::Change::Assign { to }
            | crate::decide::Change::Promote { to, .. }
            | crate::decide::Change::Recover { to, .. }) = change;
            to.guest.to_string()
        })
        .collect();
    assert_eq!(changes, goes);
    let waiting: Vec<&str> = decision.waiting.keys().map(model::GuestName::as_str).collect();
    assert_eq!(waiting, waits);
    decision
}

#[test]
fn in_a_storm_guests_come_back_late_and_one_by_one() {
    let mut view = six();
    lose(&mut view, &["host1", "host2", "host4"]);
    let decision = check(&view, NOW, &[], &["a", "b", "c", "d"]);
    assert_eq!(decision.wake_at, Some(after(30)));
    let why = &decision.waiting[&"a".parse().unwrap()];
    assert!(why.starts_with("3 of 6 hosts vanished at once"), "{why}");
    view.losses = decision.losses;
    assert!(view.losses.is_some());
    let _ = check(&view, after(29), &[], &["a", "b", "c", "d"]);
    let decision = check(&view, after(30), &["a"], &["b", "c", "d"]);
    assert_eq!(decision.losses, None, "nothing new is to be written down");
    for change in decision.changes {
        let crate::decide::Change::Promote { to, .. } = change else { panic!("{change:?}") };
        view.guest_reports.insert(to.guest.clone(), fixture::report(&to, GuestState::Running));
        view.assignments.insert(to.guest.clone(), to);
    }
    let _ = check(&view, after(33), &["b"], &["c", "d"]);
    // An operator says that they are lost for good.
    view.losses.as_mut().unwrap().storm.as_mut().unwrap().go_on =
        Some(GoOn { by: "ann".into(), at: after(34) });
    let _ = check(&view, after(34), &["b", "c", "d"], &[]);
}

#[test]
fn the_loss_of_one_host_of_three_is_answered_at_once() {
    let mut view = cluster(3);
    fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
    lose(&mut view, &["host1"]);
    let decision = check(&view, NOW, &["a"], &[]);
    assert_eq!(decision.losses.unwrap().storm, None);
}

#[test]
fn guests_of_hosts_that_come_back_in_the_hold_stay_where_they_are() {
    let mut view = six();
    lose(&mut view, &["host1", "host2", "host4"]);
    view.losses = check(&view, NOW, &[], &["a", "b", "c", "d"]).losses;
    for back in ["host1", "host2", "host4"] {
        power_on(&mut view, back, 1);
    }
    let decision = check(&view, after(20), &[], &[]);
    let losses = decision.losses.unwrap();
    assert_eq!(losses, Losses::default());
    let told = news(view.losses.as_ref(), &losses, 30).unwrap();
    assert_eq!(told.1, "the storm is over: all of its hosts are back");
}

fn with_devices(view: &mut ClusterView, name: &str) {
    let device = FenceDevice {
        id: uuid::Uuid::nil(),
        agent: "fence_ipmilan".into(),
        options: Default::default(),
        secrets: Default::default(),
        level: 1,
        delay_s: 0,
    };
    let devices = [("bmc".parse().unwrap(), device)].into();
    view.fence_devices.insert(host(name), FenceDevices { host: host(name), devices });
}

#[test]
fn in_a_storm_power_is_taken_late_and_from_one_host_at_a_time() {
    let mut view = cluster(6);
    for (guest, owner) in [("a", "host1"), ("b", "host2"), ("c", "host4")] {
        fixture::put(&mut view, guest, Pool::Shared, owner, None);
        with_devices(&mut view, owner);
    }
    lose(&mut view, &["host1", "host2", "host4"]);
    let plan = fences(&view, NOW, NOW);
    assert_eq!((plan.ask.len(), plan.wake_at), (0, Some(after(30))));
    write_down(&mut view, NOW);
    let asks = |view: &ClusterView, at| {
        let plan = fences(view, at, NOW);
        (plan.ask.iter().map(|ask| ask.host.to_string()).collect::<Vec<_>>(), plan.attempt)
    };
    assert_eq!(asks(&view, after(30)), (vec!["host1".to_owned()], vec![]));
    let fence = |name: &str| model::Fence {
        host: host(name),
        id: uuid::Uuid::nil(),
        boot_id: boot(name),
        asked_by: "the leader".into(),
        by_hand: false,
        why: "a test".into(),
        since: after(30),
        tries: 1,
        tried_at: Some(after(30)),
        problem: None,
        off: None,
        reset: None,
    };
    view.fences.insert(host("host1"), fence("host1"));
    assert_eq!(asks(&view, after(31)), (vec![], vec![host("host1")]));
    // It failed, and is tried again later: meanwhile it is the next one's turn.
    let failed = model::Fence { problem: Some("it hangs".into()), tries: 5, ..fence("host1") };
    view.fences.insert(host("host1"), failed);
    assert_eq!(asks(&view, after(32)), (vec!["host2".to_owned()], vec![]));
    // An operator's own is not slowed.
    let by_hand = model::Fence { by_hand: true, tries: 0, tried_at: None, ..fence("host2") };
    view.fences.insert(host("host2"), by_hand);
    assert_eq!(asks(&view, after(33)).1, [host("host2")]);
}

fn boot(name: &str) -> BootId {
    fixture::boot(name, 1)
}

/// Whatever vanishes and returns: nothing is begun in a hold, and there is no storm for longer than it may last.
#[test]
fn storms_end_whatever_happens() {
    let mut dice = 1u64;
    let mut roll = |of: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % of
    };
    for _ in 0..200 {
        let hosts = 2 + roll(9);
        let mut view = cluster(hosts as usize);
        let mut now = 0;
        for _ in 0..60 {
            now += 1 + roll(40) as i64;
            let name = format!("host{}", 1 + roll(hosts));
            if roll(2) == 0 {
                power_off(&mut view, &name)
            } else {
                power_on(&mut view, &name, 1)
            }
            write_down(&mut view, after(now));
            let losses = view.losses.as_ref().unwrap();
            let Some(storm) = &losses.storm else { continue };
            assert!(storm.hosts.len() >= 2 && storm.began <= after(now), "{losses:?}");
            assert!(storm.hosts.iter().all(|host| !view.is_live(host)), "{losses:?}");
        }
        write_down(&mut view, after(now + 600));
        assert_eq!(write_down(&mut view, after(now + 601)), None);
    }
}

#[test]
fn a_host_that_came_back_while_a_new_leader_waits_vanishes_anew() {
    let mut view = cluster(4);
    lose(&mut view, &["host2"]);
    write_down(&mut view, NOW);
    // It is heard again while nobody leads, and the next leader has only just begun.
    power_on(&mut view, "host2", 2);
    let decision = decide(&view, after(90), after(95));
    assert_eq!(decision.losses.as_ref().map(|losses| losses.since.len()), Some(0));
    view.losses = decision.losses;
    lose(&mut view, &["host2", "host3"]);
    assert_eq!(decide(&view, after(91), after(95)).losses, None, "nobody counts as lost yet");
    assert_eq!(write_down(&mut view, after(95)), storm("host2, host3 of 4"));
}
