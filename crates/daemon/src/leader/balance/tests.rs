//! When load is balanced, and when it is left alone.

use super::*;
use model::{
    Assignment, BootId, Bytes, DiskSpec, Epoch, GuestId, GuestSpec, InSync, JobReport, JobState, Pool,
    PowerWish, Replica, Seed, Session, VolumeId,
};

const QUIET: Duration = Duration::from_secs(300);

fn host(n: u128) -> HostName {
    format!("host{n}").parse().unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

/// Two hosts that are live, and a mirrored guest on the first.
fn cluster() -> ClusterView {
    let mut view = ClusterView::default();
    for n in 1..=2 {
        let boot_id = BootId(Uuid::from_u128(n));
        view.sessions.insert(host(n), Session { host: host(n), boot_id, started_at: at(0) });
    }
    let volume = VolumeId(Uuid::from_u128(9));
    let spec = GuestSpec {
        name: "web1".parse().unwrap(),
        id: GuestId(Uuid::from_u128(8)),
        created_at: at(0),
        vcpus: 1,
        memory: Bytes::gib(1),
        boot: model::BootFrom::Disk,
        disks: vec![DiskSpec {
            volume,
            pool: Pool::Mirror,
            size: Bytes::gib(1),
            image: None,
            pool_name: None,
            thin: false,
        }],
        nics: vec![],
        seed: Seed::default(),
        power: PowerWish::Running,
        boot_generation: 1,
        priority: 0,
        stop_timeout_s: 30,
        preferred_host: None,
        deleting: false,
        tags: BTreeSet::new(),
        pinned: false,
        start_after: BTreeSet::new(),
        restart_with: BTreeSet::new(),
        resync: Default::default(),
        health: Default::default(),
    };
    let assignment = Assignment {
        guest: spec.name.clone(),
        guest_id: spec.id,
        host: host(1),
        epoch: Epoch::FIRST,
        secondary: Some(host(2)),
        why: "a test".into(),
        handover: None,
        handed_over_by: None,
    };
    let members = (1..=2).map(|n| Replica { host: host(n), boot_id: BootId(Uuid::from_u128(n)) });
    view.in_sync
        .insert(volume, InSync::first(volume, Epoch::FIRST, members.collect(), Timestamp::UNIX_EPOCH));
    view.assignments.insert(spec.name.clone(), assignment);
    view.guests.insert(spec.name.clone(), spec);
    view
}

fn enter(view: &mut ClusterView, kind: JobKind, ended: Option<(JobState, i64)>) {
    let job = JobSpec {
        id: JobId(Uuid::now_v7()),
        kind,
        created_at: at(0),
        requested_by: "a test".into(),
        runner: None,
        cancel: false,
    };
    if let Some((state, seconds)) = ended {
        let report = JobReport { state, ended_at: Some(at(seconds)), ..JobReport::new(job.id, []) };
        view.job_reports.insert(job.id, report);
    }
    view.jobs.insert(job.id, job);
}

fn check(view: &ClusterView, quiet_s: u64, now: i64, expected: Option<&str>) {
    let found = in_the_way(view, Duration::from_secs(quiet_s), QUIET, at(now));
    assert_eq!(found.as_deref(), expected);
}

fn place(first: u128, second: u128) -> GuestPlace {
    GuestPlace { host: host(first), secondary: Some(host(second)) }
}

#[test]
fn nothing_is_balanced_shortly_after_a_host_was_lost() {
    let view = cluster();
    check(&view, 20, 1000, Some("hosts came or went 20 s ago"));
    check(&view, 300, 1000, None);
}

#[test]
fn recovery_comes_first_and_what_cannot_be_recovered_holds_nothing_up() {
    let mut view = cluster();
    view.sessions.remove(&host(1));
    check(&view, 300, 1000, Some("'web1' is to be recovered first"));
    // Its secondary booted anew: only the lost host surely has every write.
    view.sessions.get_mut(&host(2)).unwrap().boot_id = BootId(Uuid::from_u128(7));
    check(&view, 300, 1000, None);
}

#[test]
fn one_balance_at_a_time_and_none_before_its_moves_are_measured() {
    let mut view = cluster();
    enter(&mut view, JobKind::Balance { moves: vec![] }, None);
    check(&view, 300, 1000, Some("the job 'balance with 0 moves' is under way"));
    let mut view = cluster();
    enter(&mut view, JobKind::DrainHost { host: host(2) }, None);
    check(&view, 300, 1000, Some("the job 'drain host host2' is under way"));
    let mut view = cluster();
    let options = model::MoveOptions::LIVE;
    let kind = JobKind::MoveGuest { guest: "web1".parse().unwrap(), to: place(2, 1), options, heals: None };
    enter(&mut view, kind.clone(), Some((JobState::Done, 900)));
    check(&view, 300, 1000, Some("the job 'move guest web1 to host2 + host1' ended a moment ago"));
    check(&view, 300, 1200, None);
    let mut view = cluster();
    enter(&mut view, kind, Some((JobState::Failed, 900)));
    assert!(in_the_way(&view, QUIET, QUIET, at(1200)).is_some(), "after a failure it rests longer");
    check(&view, 300, 1800, None);
}

#[test]
fn other_jobs_do_not_keep_it() {
    let mut view = cluster();
    enter(&mut view, JobKind::StopGuest { guest: "web1".parse().unwrap() }, None);
    check(&view, 300, 1000, None);
}

#[test]
fn what_two_rounds_begin_with_alike_is_done() {
    let mut memory = Memory::new();
    let moves =
        |names: &[&str]| -> Moves { names.iter().map(|n| (n.parse().unwrap(), place(2, 1))).collect() };
    assert_eq!(memory.confirm(moves(&["a", "b"])), moves(&[]), "the first time it may be noise");
    assert_eq!(memory.confirm(moves(&["a", "b"])), moves(&["a", "b"]));
    assert_eq!(memory.confirm(moves(&["a", "c"])), moves(&["a"]), "the second half may need the first");
    assert_eq!(memory.confirm(moves(&["c", "a"])), moves(&[]));
    assert_eq!(memory.confirm(moves(&[])), moves(&[]));
}

#[test]
fn a_host_that_comes_back_begins_the_quiet_anew() {
    let mut memory = Memory::new();
    let mut view = cluster();
    view.hosts.clear();
    memory.quiet_for(&view);
    let since = memory.online.1;
    memory.quiet_for(&view);
    assert_eq!(memory.online.1, since, "nothing has changed");
    view.hosts.insert(
        host(2),
        model::Host {
            name: host(2),
            address: [10, 77, 0, 2].into(),
            zone: "zone2".into(),
            tags: BTreeSet::new(),
            joined_at: at(0),
            store_member: true,
            duty: model::Duty::Normal,
            settings: model::HostSettings::default(),
        },
    );
    memory.quiet_for(&view);
    assert_ne!(memory.online.1, since);
}
