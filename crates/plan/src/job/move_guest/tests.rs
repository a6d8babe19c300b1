use super::world::{Fault, World};
use super::*;
use crate::fixture::{self, cluster};
use crate::job::advance;
use model::{JobKind, PowerWish};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

/// Ticks until everything must have come to rest, whatever happened.
const REST_AFTER: u32 = 200;

fn place(host: &str, secondary: &str) -> GuestPlace {
    GuestPlace { host: fixture::host(host), secondary: Some(fixture::host(secondary)) }
}

/// Every move that begins on host1 + host2; and one of a guest whose disks are local, from host1.
fn moves() -> [GuestPlace; 6] {
    [
        GuestPlace { host: fixture::host("host2"), secondary: None },
        place("host2", "host1"),
        place("host1", "host3"),
        place("host3", "host1"),
        place("host3", "host2"),
        place("host2", "host3"),
    ]
}

/// By a restart, and while the guest runs.
const WAYS: [MoveOptions; 2] = [MoveOptions::RESTART, MoveOptions::LIVE];

fn moves_each_way() -> impl Iterator<Item = (GuestPlace, MoveOptions)> {
    moves().into_iter().flat_map(|to| WAYS.map(|how| (to.clone(), how)))
}

/// Runs a move to its end and for a while after. `strikes`: what happens at which tick.
fn play(to: &GuestPlace, how: MoveOptions, strikes: &[(u32, Fault, &str)]) -> World {
    let mut world = World::new(to.clone(), how);
    for tick in 0..REST_AFTER {
        for (_, fault, host) in strikes.iter().filter(|(at, ..)| *at == tick) {
            world.strike(*fault, &fixture::host(host));
        }
        world.tick();
    }
    world
}

/// As [`play`]; tells the whole story when something is wrong.
fn check(to: &GuestPlace, how: MoveOptions, strikes: &[(u32, Fault, &str)]) -> World {
    let checked = std::panic::catch_unwind(|| {
        let world = play(to, how, strikes);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.check_end()));
        if ended.is_err() {
            panic!("{}", world.story.join("\n"));
        }
        world
    });
    checked.unwrap_or_else(|_| panic!("moving to {to} {} went wrong with {strikes:?}", how.how()))
}

/// How many ticks a move takes when nothing happens.
fn length(to: &GuestPlace, how: MoveOptions) -> u32 {
    let mut world = World::new(to.clone(), how);
    while !world.is_over() && world.ticks() < REST_AFTER {
        world.tick();
    }
    world.ticks()
}

#[test]
fn every_move_arrives_when_nothing_happens() {
    for (to, how) in moves_each_way() {
        let world = check(&to, how, &[]);
        assert_eq!(world.report().unwrap().state, JobState::Done, "{:?}", world.report());
        let assignment = world.assignment();
        assert_eq!((&assignment.host, assignment.secondary.as_ref()), (&to.host, to.secondary.as_ref()));
        let swaps = u64::from(to.host.as_str() != "host1");
        assert_eq!(assignment.epoch.0, 1 + swaps);
        assert!(world.acknowledged() > u64::from(REST_AFTER) / 3, "the guest wrote most of the time");
    }
}

#[test]
fn a_swap_of_roles_copies_nothing_and_is_never_on_one_replica() {
    for (how, attached) in WAYS.into_iter().zip(["AttachSame(", "AttachBack("]) {
        let world = check(&place("host2", "host1"), how, &[]);
        let told = |what: &str| world.story.iter().filter(|line| line.contains(what)).count();
        assert_eq!((told("Attach("), told(attached)), (0, 1), "{}", world.story.join("\n"));
        let alone = world.story.iter().filter(|line| line.contains("Record([Replica"));
        assert_eq!(alone.filter(|line| line.matches("Replica {").count() < 2).count(), 0);
    }
}

#[test]
fn a_guest_that_moves_while_it_runs_is_started_nowhere() {
    for to in moves() {
        let world = check(&to, MoveOptions::LIVE, &[]);
        let started = world.story.iter().filter(|line| line.contains("Launch") || line.contains("Ask"));
        assert_eq!(started.count(), 0, "{}", world.story.join("\n"));
    }
}

#[test]
fn whoever_dies_at_whatever_moment_one_owner_is_left_and_nothing_is_lost() {
    for (to, how) in moves_each_way() {
        for tick in 0..length(&to, how) + 3 {
            for host in ["host1", "host2", "host3"] {
                check(&to, how, &[(tick, Fault::PowerOff, host)]);
                check(&to, how, &[(tick, Fault::DaemonDies, host)]);
                check(&to, how, &[(tick, Fault::MachineDies, host)]);
                check(&to, how, &[(tick, Fault::DaemonDies, host), (tick + 1, Fault::MachineDies, host)]);
            }
            check(&to, how, &[(tick, Fault::NoLeader, "host1")]);
        }
    }
}

#[test]
fn a_daemon_that_dies_beside_a_host_makes_it_no_worse() {
    for (to, how) in moves_each_way() {
        for tick in (0..length(&to, how)).step_by(2) {
            for (dead, restarted) in
                [("host1", "host2"), ("host2", "host1"), ("host3", "host1"), ("host1", "host3")]
            {
                for later in [1, 4, 8] {
                    let second = (tick + later, Fault::DaemonDies, restarted);
                    check(&to, how, &[(tick, Fault::PowerOff, dead), second]);
                }
            }
        }
    }
}

/// The end of a healing in which host2 comes back after so many ticks.
fn heal(returns_after: u32, strikes: &[(u32, Fault, &str)]) -> World {
    let checked = std::panic::catch_unwind(|| {
        let mut world = World::healing(returns_after);
        for tick in 0..REST_AFTER {
            for (_, fault, host) in strikes.iter().filter(|(at, ..)| *at == tick) {
                world.strike(*fault, &fixture::host(host));
            }
            world.tick();
        }
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.check_end()));
        if ended.is_err() {
            panic!("{}", world.story.join("\n"));
        }
        world
    });
    checked
        .unwrap_or_else(|_| panic!("healing, host2 back after {returns_after}, went wrong with {strikes:?}"))
}

#[test]
fn a_guest_that_is_healed_has_two_replicas_and_the_lost_host_deletes_its_own_when_it_is_back() {
    let world = heal(100, &[]);
    assert_eq!(world.report().unwrap().state, JobState::Done);
    assert_eq!(world.assignment().secondary, Some(fixture::host("host3")));
    assert_eq!(world.assignment().epoch.0, 1);
}

#[test]
fn whoever_dies_while_a_guest_is_healed_nothing_is_lost_and_it_ends_in_sync() {
    for returns_after in [5, 60] {
        for tick in 0..25 {
            for host in ["host1", "host3"] {
                heal(returns_after, &[(tick, Fault::PowerOff, host)]);
                heal(returns_after, &[(tick, Fault::DaemonDies, host)]);
                heal(returns_after, &[(tick, Fault::MachineDies, host)]);
            }
            heal(returns_after, &[(tick, Fault::NoLeader, "host1")]);
        }
    }
}

#[test]
fn a_host_that_is_lost_while_it_is_filled_leaves_the_guest_where_the_old_replica_is() {
    let world = heal(150, &[(4, Fault::PowerOff, "host3")]);
    let report = world.report().unwrap();
    assert_eq!(report.state, JobState::Failed);
    assert_eq!(report.error.as_deref(), Some("host3 was lost while it was filled"));
    assert_eq!(
        world.assignment().secondary,
        Some(fixture::host("host2")),
        "it waits for it, and is healed anew"
    );
}

fn alone(host: &str) -> GuestPlace {
    GuestPlace { host: fixture::host(host), secondary: None }
}

/// As [`check`], of a guest in storage that the hosts share.
fn check_shared(how: MoveOptions, strikes: &[(u32, Fault, &str)]) -> World {
    let played = std::panic::catch_unwind(|| {
        let mut world = World::shared(alone("host2"), how);
        for tick in 0..REST_AFTER {
            for (_, fault, host) in strikes.iter().filter(|(at, ..)| *at == tick) {
                world.strike(*fault, &fixture::host(host));
            }
            world.tick();
        }
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.check_end()));
        if ended.is_err() {
            panic!("{}", world.story.join("\n"));
        }
        world
    });
    played.unwrap_or_else(|_| panic!("moving {} went wrong with {strikes:?}", how.how()))
}

#[test]
fn a_guest_in_shared_storage_is_handed_over_and_nothing_is_copied() {
    for (how, starts) in WAYS.into_iter().zip([1, 0]) {
        let world = check_shared(how, &[]);
        assert_eq!(world.report().unwrap().state, JobState::Done, "{}", world.story.join("\n"));
        let steps: Vec<&str> = world.report().unwrap().steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(steps, ["hand over", "start there"]);
        let assignment = world.assignment();
        assert_eq!((assignment.host.as_str(), &assignment.secondary), ("host2", &None));
        assert_eq!(assignment.epoch.0, 2);
        let told = |what: &str| world.story.iter().filter(|line| line.contains(what)).count();
        assert_eq!((told("Launch"), told("Attach")), (starts, 0), "{}", world.story.join("\n"));
    }
}

#[test]
fn whoever_dies_while_a_guest_in_shared_storage_moves_nothing_of_it_has_two_writers() {
    for how in WAYS {
        let length = {
            let mut world = World::shared(alone("host2"), how);
            while !world.is_over() && world.ticks() < REST_AFTER {
                world.tick();
            }
            world.ticks()
        };
        for tick in 0..length + 3 {
            for host in ["host1", "host2"] {
                check_shared(how, &[(tick, Fault::PowerOff, host)]);
                check_shared(how, &[(tick, Fault::DaemonDies, host)]);
                check_shared(how, &[(tick, Fault::MachineDies, host)]);
                check_shared(how, &[(tick, Fault::DaemonDies, host), (tick + 1, Fault::MachineDies, host)]);
                for other in ["host1", "host2"] {
                    check_shared(how, &[(tick, Fault::DaemonDies, host), (tick, Fault::MachineDies, other)]);
                    check_shared(how, &[(tick, Fault::DaemonDies, host), (tick + 1, Fault::PowerOff, other)]);
                }
            }
            check_shared(how, &[(tick, Fault::NoLeader, "host1")]);
        }
    }
}

#[test]
fn a_guest_in_shared_storage_that_does_not_start_on_its_new_host_comes_back() {
    let world = check_shared(MoveOptions::RESTART, &[(0, Fault::CannotStart, "host2")]);
    assert_eq!(world.report().unwrap().state, JobState::Failed);
    assert_eq!((world.assignment().host.as_str(), world.assignment().epoch.0), ("host1", 3));
}

fn job_to(to: GuestPlace, number: u128) -> JobSpec {
    JobSpec {
        id: model::JobId(uuid::Uuid::from_u128(number)),
        kind: JobKind::MoveGuest {
            guest: "a".parse().unwrap(),
            to,
            options: MoveOptions::RESTART,
            heals: None,
        },
        created_at: NOW,
        requested_by: "admin".into(),
        runner: None,
        cancel: false,
    }
}

/// A guest on host1 + host2 of three hosts.
fn three_hosts() -> ClusterView {
    let mut view = cluster(3);
    fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
    view
}

/// What a move says when it cannot even begin.
fn refusal(view: &ClusterView, to: GuestPlace) -> String {
    let (report, effects) = advance(view, &job_to(to, 1), None, NOW).unwrap();
    assert_eq!((report.state, effects), (JobState::Failed, vec![]));
    report.error.unwrap()
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_is_done() {
    let check = |change: fn(&mut ClusterView), to: GuestPlace, why: &str| {
        let mut view = three_hosts();
        change(&mut view);
        assert_eq!(refusal(&view, to), why);
    };
    let name = "a".parse::<GuestName>().unwrap();
    check(|_| {}, place("host2", "host2"), "both of its copies would be on host2");
    check(|_| {}, place("host9", "host1"), "there is no host host9");
    check(
        |view| fixture::put(view, "a", Pool::Local, "host1", None),
        place("host2", "host1"),
        "its disks are local: host1 alone holds them",
    );
    check(|view| fixture::power_off(view, "host3"), place("host3", "host1"), "host host3 is lost");
    check(
        |view| fixture::power_off(view, "host1"),
        place("host2", "host1"),
        "its host host1 is lost; it is recovered by itself, if that can be done",
    );
    check(
        |view| view.hosts.get_mut(&fixture::host("host3")).unwrap().duty = Duty::Draining,
        place("host3", "host1"),
        "host host3 takes nothing: its duty is draining",
    );
    let mut view = three_hosts();
    view.guests.get_mut(&name).unwrap().power = PowerWish::Stopped;
    let stopped = "it does not run: a disk is copied only while its guest runs, so start it first";
    assert_eq!(refusal(&view, place("host3", "host1")), stopped);
    view = three_hosts();
    view.assignments.clear();
    assert_eq!(refusal(&view, place("host2", "host1")), "the guest has no host yet; it is placed first");
}

#[test]
fn a_host_that_is_being_drained_may_keep_the_replica_that_a_guest_leaves_on_it() {
    let mut view = three_hosts();
    view.hosts.get_mut(&fixture::host("host1")).unwrap().duty = Duty::Maintenance;
    let (report, _) = advance(&view, &job_to(place("host2", "host1"), 1), None, NOW).unwrap();
    assert_eq!(report.state, JobState::Running, "{report:?}");
}

#[test]
fn a_guest_does_not_go_where_one_still_is_that_it_must_be_apart_from() {
    let mut view = three_hosts();
    fixture::put(&mut view, "b", Pool::Mirror, "host2", Some("host1"));
    fixture::rule(&mut view, "apart", model::RuleKind::Apart, "a b");
    let mine = job_to(place("host2", "host1"), 1);
    let mut other = job_to(place("host1", "host2"), 2);
    if let JobKind::MoveGuest { guest, .. } = &mut other.kind {
        *guest = "b".parse().unwrap();
    }
    for job in [&mine, &other] {
        view.jobs.insert(job.id, job.clone());
    }
    // The other's move is only planned, and may fail: it counts where it is.
    let why = advance(&view, &mine, None, NOW).unwrap().0.error.unwrap();
    assert!(why.contains("host2 may not take it any more"), "{why}");
    // Once the other is on its way this one waits.
    let leaving = view.assignments.get_mut(&"b".parse().unwrap()).unwrap();
    leaving.handover = Some(model::Handover {
        to: fixture::host("host1"),
        how: model::HandoverKind::Live,
        job: other.id,
        options: MoveOptions::LIVE,
    });
    let (report, effects) = advance(&view, &mine, None, NOW).unwrap();
    let asked = effects.iter().any(|effect| matches!(effect, crate::job::Effect::Reassign(_)));
    assert!(!asked, "it is handed over: {effects:?}");
    assert_eq!(report.error, None);
    let note = report.steps.iter().find_map(|step| step.note.clone()).unwrap();
    assert!(note.contains("a guest is to leave host2 first"), "{note}");
}

#[test]
fn of_two_moves_of_one_guest_the_second_fails_at_once() {
    let mut view = three_hosts();
    let (first, second) = (job_to(place("host2", "host1"), 1), job_to(place("host3", "host1"), 2));
    for job in [&first, &second] {
        view.jobs.insert(job.id, job.clone());
    }
    assert_eq!(refusal_of(&view, &second), "another move of it is under way");
    let (report, _) = advance(&view, &first, None, NOW).unwrap();
    // Whichever has begun goes on, whatever the order of the two.
    let begun = JobReport { id: second.id, ..report };
    view.job_reports.insert(second.id, begun);
    assert_eq!(refusal_of(&view, &first), "another move of it is under way");
}

fn refusal_of(view: &ClusterView, job: &JobSpec) -> String {
    advance(view, job, None, NOW).unwrap().0.error.unwrap()
}

#[test]
fn a_move_that_is_cancelled_while_it_fills_leaves_everything_as_it_was() {
    let mut world = World::new(place("host3", "host1"), MoveOptions::RESTART);
    while world.view.in_sync.values().any(|set| set.contains_host(&fixture::host("host2"))) {
        world.tick();
    }
    let id = world.job.id;
    world.view.jobs.get_mut(&id).unwrap().cancel = true;
    for _ in 0..REST_AFTER {
        world.tick();
    }
    world.check_end();
    assert_eq!(world.report().unwrap().state, JobState::Cancelled);
    assert_eq!((world.assignment().host.as_str(), world.assignment().epoch.0), ("host1", 1));
    assert_eq!(world.holders(), ["host1", "host2"]);
}

#[test]
fn a_move_that_is_cancelled_while_the_guest_is_handed_over_starts_it_again_where_it_was() {
    let mut world = World::new(place("host2", "host1"), MoveOptions::RESTART);
    while world.assignment().handover.is_none() {
        world.tick();
    }
    let id = world.job.id;
    world.view.jobs.get_mut(&id).unwrap().cancel = true;
    for _ in 0..REST_AFTER {
        world.tick();
    }
    world.check_end();
    assert_eq!(world.report().unwrap().state, JobState::Cancelled);
    assert_eq!((world.assignment().host.as_str(), world.assignment().epoch.0), ("host1", 1));
}

#[test]
fn a_host_that_stays_away_while_it_is_filled_sends_the_secondary_back() {
    let mut world = World::new(place("host1", "host3"), MoveOptions::RESTART);
    while world.view.in_sync.values().any(|set| set.contains_host(&fixture::host("host2"))) {
        world.tick();
    }
    world.strike(Fault::PowerOff, &fixture::host("host3"));
    while !world.is_over() {
        world.tick();
    }
    let report = world.report().unwrap();
    assert_eq!(report.state, JobState::Failed);
    let why = "host3 was lost while it was filled; host2 is filled again";
    assert_eq!(report.error.as_deref(), Some(why));
    assert_eq!(world.assignment().secondary, Some(fixture::host("host2")));
}

#[test]
fn the_guests_host_is_lost_before_the_new_secondary_was_ready_and_the_old_one_takes_over() {
    let mut world = World::new(place("host1", "host3"), MoveOptions::RESTART);
    while world.assignment().secondary != Some(fixture::host("host3")) {
        world.tick();
    }
    world.strike(Fault::PowerOff, &fixture::host("host1"));
    for _ in 0..20 {
        world.tick();
    }
    assert_eq!(world.assignment().host, fixture::host("host2"), "{}", world.story.join("\n"));
}

#[test]
fn a_guest_that_was_moved_says_for_how_long_it_was_down() {
    let world = check(&place("host2", "host1"), MoveOptions::RESTART, &[]);
    let told = world.story.iter().find(|line| line.contains("moved from")).unwrap();
    assert!(told.contains("'a' moved from host1 to host2 by a restart; it was down for "), "{told}");
}

#[test]
fn a_guest_that_does_not_start_on_its_new_host_comes_back() {
    let world = check(&place("host2", "host1"), MoveOptions::RESTART, &[(0, Fault::CannotStart, "host2")]);
    let report = world.report().unwrap();
    assert_eq!(report.state, JobState::Failed);
    assert!(report.error.as_ref().unwrap().contains("it does not start on host2"), "{report:?}");
    assert_eq!((world.assignment().host.as_str(), world.assignment().epoch.0), ("host1", 3));
    let copies = world.story.iter().filter(|line| line.contains("Attach(")).count();
    assert_eq!(copies, 0, "nothing is copied: {}", world.story.join("\n"));
}

#[test]
fn a_guest_that_comes_back_survives_whoever_dies() {
    let to = place("host2", "host1");
    for tick in 0..40 {
        for (fault, host) in
            [(Fault::PowerOff, "host1"), (Fault::DaemonDies, "host1"), (Fault::DaemonDies, "host2")]
        {
            let world =
                play(&to, MoveOptions::RESTART, &[(0, Fault::CannotStart, "host2"), (tick, fault, host)]);
            assert!(world.is_over(), "{}", world.story.join("\n"));
        }
    }
}

/// A healing at a moment at which host3 is being filled and host2, which held the old replica, is back.
fn recalled(percent: u64, back_for_s: i64, change: impl FnOnce(&mut ClusterView)) -> String {
    let mut world = World::healing(1000);
    while world.assignment().secondary != Some(fixture::host("host3")) {
        world.tick();
    }
    let mut view = world.view.clone();
    let now = NOW + SignedDuration::from_secs(1000);
    fixture::power_on(&mut view, "host2", 2);
    let session = view.sessions.get_mut(&fixture::host("host2")).unwrap();
    session.started_at = now - SignedDuration::from_secs(back_for_s);
    let report = view.guest_reports.get_mut(&"a".parse().unwrap()).unwrap();
    let (how, sent, why) = (None, None, String::new());
    let fill = Some(model::FillProgress { done: percent, total: 100, how, why, sent, bytes_per_second: 0 });
    let (volume, state) = (fixture::volume("a"), VolumeState::Syncing);
    report.volumes = vec![VolumeReport { volume, state, fill, filled: None }];
    change(&mut view);
    let report = view.job_reports.get(&world.job.id);
    let (report, _) = advance(&view, &world.job, report, now).expect("it says how far it is");
    let note = report.steps.iter().find_map(|step| step.note.clone());
    report.error.or(note).expect("it says something")
}

#[test]
fn healing_gives_way_to_the_old_replica_while_that_is_quicker() {
    let way = "host2 is back, and its replica is used again";
    assert_eq!(recalled(20, 60, |_| {}), way);
    assert_eq!(recalled(20, 3, |_| {}), "host3 is filled: 20 %", "it may be about to go again");
    assert_eq!(recalled(80, 60, |_| {}), "host3 is filled: 80 %");
    let drained = |view: &mut ClusterView| {
        view.hosts.get_mut(&fixture::host("host2")).unwrap().duty = Duty::Draining;
    };
    assert_eq!(recalled(20, 60, drained), "host3 is filled: 20 %");
    let second = |view: &mut ClusterView| {
        let id = model::JobId(uuid::Uuid::from_u128(7));
        let first = view.jobs.values().next().unwrap().clone();
        view.jobs.insert(id, JobSpec { id, ..first });
        view.job_reports.insert(id, JobReport { state: JobState::Cancelled, ..JobReport::new(id, []) });
    };
    assert_eq!(recalled(20, 60, second), "host3 is filled: 20 %", "it gave way once");
}

#[test]
fn healing_that_gave_way_is_called_off_and_the_old_replica_is_filled() {
    // host3 is not filled before host2 has been back for long enough: its daemon is dead again and again.
    let held: Vec<(u32, Fault, &str)> = (1..40).map(|tick| (tick, Fault::DaemonDies, "host3")).collect();
    let world = heal(5, &held);
    let report = world.report().unwrap();
    assert_eq!(report.state, JobState::Cancelled, "{}", world.story.join("\n"));
    assert_eq!(world.assignment().secondary, Some(fixture::host("host2")));
}
