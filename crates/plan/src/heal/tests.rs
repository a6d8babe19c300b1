use model::{Cluster, JobId, MoveOptions, VolumeReport};

use super::*;
use crate::fixture::{self, boot, cluster, host, power_off, power_on, put, volume};

/// When `a` fell to one replica.
const FELL: Timestamp = Timestamp::UNIX_EPOCH;

const GRACE: i64 = 1800;

fn at(seconds: i64) -> Timestamp {
    FELL + SignedDuration::from_secs(seconds)
}

/// A cluster in which `guests`, all on host1, have lost their secondaries with host2.
fn degraded(hosts: usize, guests: &[&str]) -> ClusterView {
    let mut view = cluster(hosts);
    for guest in guests {
        put(&mut view, guest, Pool::Mirror, "host1", Some("host2"));
        let alone = view.in_sync[&volume(guest)].clone();
        let members = alone.members.iter().filter(|r| r.host == host("host1")).cloned().collect();
        view.in_sync.insert(volume(guest), alone.followed_by(alone.epoch, members, FELL));
    }
    power_off(&mut view, "host2");
    view
}

/// One line for each guest that is healed, waits or is stuck.
fn check(view: &ClusterView, now: Timestamp, expected: &[&str]) {
    let healing = heal(view, &Inventory::new(view, &BTreeMap::new()), now);
    assert!(healing.begin.is_empty() || is_any_due(view, now));
    let begin = healing.begin.iter().map(|heal| {
        assert_eq!(heal.since, FELL);
        format!("{}: {}", heal.guest, heal.to)
    });
    let waits = healing.waits.iter().map(|(guest, why)| format!("{guest} waits: {why}"));
    let stuck = healing.stuck.iter().map(|(guest, why)| format!("{guest} is stuck: {why}"));
    assert_eq!(begin.chain(waits).chain(stuck).collect::<Vec<_>>(), expected);
}

fn settings(view: &mut ClusterView, change: impl FnOnce(&mut Settings)) {
    let mut settings = Settings::default();
    change(&mut settings);
    view.cluster = Some(Cluster {
        name: "test".into(),
        id: uuid::Uuid::nil(),
        created_at: Timestamp::UNIX_EPOCH,
        ca_certificate: String::new(),
        settings,
    });
}

fn enter(view: &mut ClusterView, number: u128, kind: JobKind, ended: Option<(JobState, Timestamp, &str)>) {
    let id = JobId(uuid::Uuid::from_u128(number));
    let job =
        JobSpec { id, kind, created_at: FELL, requested_by: "healing".into(), runner: None, cancel: false };
    view.jobs.insert(id, job);
    if let Some((state, ended_at, error)) = ended {
        let (error, ended_at) = (Some(error.to_owned()), Some(ended_at));
        view.job_reports.insert(id, JobReport { state, error, ended_at, ..JobReport::new(id, []) });
    }
}

fn healing_of(guest: &str, to: &str) -> JobKind {
    let to = GuestPlace { host: host("host1"), secondary: Some(host(to)) };
    let options = MoveOptions::default();
    JobKind::MoveGuest { guest: guest.parse().unwrap(), to, options, heals: Some(FELL) }
}

#[test]
fn a_guest_that_has_been_degraded_for_long_gets_another_secondary() {
    let view = degraded(3, &["a"]);
    let early = "a waits: host2 has until 1970-01-01T00:30:00Z to be in sync again";
    check(&view, at(GRACE - 1), &[early]);
    check(&view, at(GRACE), &["a: host1 + host3"]);
}

#[test]
fn a_guest_in_sync_or_alone_by_its_own_wish_is_left_alone() {
    let mut view = cluster(3);
    put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
    put(&mut view, "b", Pool::Local, "host1", None);
    check(&view, at(10 * GRACE), &[]);
}

#[test]
fn since_when_survives_every_record_that_the_owner_writes() {
    let mut view = degraded(3, &["a"]);
    let set = view.in_sync[&volume("a")].clone();
    let again = set.followed_by(set.epoch.next(), set.members.clone(), at(900));
    assert_eq!(again.alone_since, Some(FELL), "another owner, or the same once more");
    let both = [("host1", 1), ("host3", 1)];
    let both = both.map(|(name, n)| model::Replica { host: host(name), boot_id: boot(name, n) });
    let whole = again.followed_by(set.epoch, both.into(), at(1000));
    assert_eq!(whole.alone_since, None);
    assert_eq!(whole.followed_by(set.epoch, set.members, at(2000)).alone_since, Some(at(2000)));
    // A record of an earlier build counts from when its owner's session began.
    view.in_sync.get_mut(&volume("a")).unwrap().alone_since = None;
    assert_eq!(degraded_since(&view, &view.guests[&"a".parse().unwrap()]), Some(FELL));
}

#[test]
fn the_zone_of_the_guests_own_host_is_the_last_choice() {
    let mut view = degraded(4, &["a"]);
    view.hosts.get_mut(&host("host3")).unwrap().zone = "zone1".into();
    check(&view, at(GRACE), &["a: host1 + host4"]);
}

#[test]
fn hosts_that_take_nothing_or_have_no_room_are_named() {
    let mut view = degraded(4, &["a"]);
    view.hosts.get_mut(&host("host3")).unwrap().duty = Duty::Draining;
    view.host_reports.get_mut(&host("host4")).unwrap().disk = model::Bytes::gib(5);
    let why = "a is stuck: host3: it is being drained; host4: 5G of disk is free, 10G is needed";
    check(&view, at(GRACE), &[why]);
    let two = degraded(2, &["a"]);
    check(&two, at(GRACE), &["a is stuck: there is no other host"]);
}

#[test]
fn a_second_copy_is_worth_more_than_the_promise() {
    let mut view = degraded(3, &["a"]);
    // host3 is full of guests that run there: it could not start `a`, but can hold its disk.
    for n in 0..7 {
        put(&mut view, &format!("full{n}"), Pool::Local, "host3", None);
    }
    check(&view, at(GRACE), &["a: host1 + host3"]);
}

#[test]
fn nothing_is_healed_while_it_is_off_or_something_is_under_way() {
    let waits = |change: fn(&mut ClusterView), why: &str| {
        let mut view = degraded(3, &["a"]);
        change(&mut view);
        check(&view, at(GRACE), &[&format!("a waits: {why}")]);
    };
    waits(
        |view| settings(view, |settings| settings.heal_after_s = 0),
        "automatic healing is off (`kennel cluster set --heal-after`)",
    );
    waits(
        |view| view.hosts.get_mut(&host("host2")).unwrap().duty = Duty::Maintenance,
        "host2, which holds its other replica, is in maintenance and will be back",
    );
    waits(|view| enter(view, 1, JobKind::DrainHost { host: host("host1") }, None), "host1 is being emptied");
    waits(
        |view| enter(view, 1, JobKind::StopGuest { guest: "a".parse().unwrap() }, None),
        "the job 'stop guest a' is under way",
    );
    waits(|view| power_off(view, "host1"), "its host host1 is lost");
    waits(
        |view| {
            let report = view.guest_reports.get_mut(&"a".parse().unwrap()).unwrap();
            report.state = GuestState::Stopped;
        },
        "it does not run, and a disk is copied only while its guest runs",
    );
    waits(
        |view| {
            let report = view.guest_reports.get_mut(&"a".parse().unwrap()).unwrap();
            let state = VolumeState::Syncing;
            report.volumes = vec![VolumeReport { volume: volume("a"), state, fill: None, filled: None }];
        },
        "the replica on host2 is being filled",
    );
}

#[test]
fn a_host_that_is_back_gets_the_grace_time_for_its_replica() {
    let mut view = degraded(3, &["a"]);
    power_on(&mut view, "host2", 2);
    view.sessions.get_mut(&host("host2")).unwrap().started_at = at(GRACE - 60);
    let waits = "a waits: host2 has until 1970-01-01T00:59:00Z to be in sync again";
    check(&view, at(GRACE), &[waits]);
    check(&view, at(2 * GRACE), &["a: host1 + host3"]);
}

#[test]
fn a_host_takes_part_in_one_fill_at_a_time_and_the_most_important_guest_is_first() {
    let mut view = degraded(4, &["a", "b"]);
    view.guests.get_mut(&"b".parse().unwrap()).unwrap().priority = 10;
    let waits = "a waits: host1 takes part in another guest's move or fill; its turn comes";
    check(&view, at(GRACE), &["b: host1 + host3", waits]);
    enter(&mut view, 1, healing_of("b", "host3"), None);
    let under_way = "b waits: the job 'give guest b another secondary, host1 + host3: degraded since \
                     1970-01-01T00:00:00Z' is under way";
    check(&view, at(GRACE), &[waits, under_way]);
}

#[test]
fn only_so_many_replicas_are_filled_at_once() {
    let mut view = cluster(12);
    for n in 1..=5 {
        let (name, owner) = (format!("g{n}"), format!("host{n}"));
        put(&mut view, &name, Pool::Mirror, &owner, Some("host12"));
        let set = view.in_sync.get_mut(&volume(&name)).unwrap();
        set.members.retain(|replica| replica.host == host(&owner));
        set.alone_since = Some(FELL);
    }
    power_off(&mut view, "host12");
    let healing = heal(&view, &Inventory::new(&view, &BTreeMap::new()), at(GRACE));
    assert_eq!((healing.begin.len(), healing.waits.len()), (FILLS_MAX, 1), "{healing:?}");
    let hosts = healing.begin.iter().flat_map(|heal| [Some(&heal.to.host), heal.to.secondary.as_ref()]);
    assert_eq!(hosts.collect::<BTreeSet<_>>().len(), 2 * FILLS_MAX, "no host takes part in two: {healing:?}");
}

#[test]
fn a_try_that_failed_rests() {
    let mut view = degraded(3, &["a"]);
    let failed = Some((JobState::Failed, at(GRACE), "host3 was lost while it was filled"));
    enter(&mut view, 1, healing_of("a", "host3"), failed);
    let waits = "a waits: the last try was taken back (host3 was lost while it was filled); the next one comes at \
                 1970-01-01T00:40:00Z";
    check(&view, at(GRACE + 599), &[waits]);
    check(&view, at(GRACE + 600), &["a: host1 + host3"]);
}

#[test]
fn people_are_told_what_a_degraded_guest_waits_for() {
    let view = degraded(3, &["a"]);
    let inventory = Inventory::new(&view, &BTreeMap::new());
    let explain = |now| explain(&view, &inventory, &"a".parse().unwrap(), now).unwrap();
    assert_eq!(explain(at(1)), "host2 has until 1970-01-01T00:30:00Z to be in sync again");
    assert_eq!(explain(at(GRACE)), "host3 is about to get its second replica");
    let found = other_secondaries(&inventory, &fixture::guest("a", Pool::Mirror).name);
    assert_eq!(found.hosts, [host("host3")]);
}
