use model::{
    AlertState, AlertTarget, AlertWay, Epoch, Event, EventId, EventKind, ExitReason, GuestName, GuestState,
    HealthReport, HealthRestart, HealthRestartKind, HealthSpec, HealthState, InSync, JobId, JobKind,
    JobReport, JobSpec, JobState, MoveOptions, Pool, Replica, Severity,
};
use uuid::Uuid;

use super::*;
use crate::fixture::{boot, cluster, exit, host, power_off, power_on, put, report, volume};

fn web1() -> GuestName {
    "web1".parse().unwrap()
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_700_000_000_000 + ms).unwrap()
}

/// A cluster that is looked at now and then, as a leader does.
struct World {
    view: ClusterView,
    unwell: BTreeMap<HostName, String>,
    events: u128,
}

impl World {
    fn new() -> World {
        let mut view = cluster(3);
        put(&mut view, "web1", Pool::Mirror, "host1", Some("host2"));
        World { view, unwell: BTreeMap::new(), events: 0 }
    }

    /// Looks, and keeps what comes of it; one line for each incident that is new or changed.
    fn look(&mut self, ms: i64) -> Vec<String> {
        let changed = look(&self.view, &self.unwell, at(ms));
        let lines = changed.iter().map(|incident| {
            let state = if incident.is_open() { incident.weight.to_string() } else { "ended".to_owned() };
            format!("{} {state}: {}", incident.id, incident.headline())
        });
        let lines = lines.collect();
        self.view.incidents.extend(changed.into_iter().map(|incident| (incident.id, incident)));
        lines
    }

    /// Nothing comes of another look.
    fn is_quiet(&mut self, ms: i64) {
        assert_eq!(self.look(ms), [""; 0]);
    }

    fn tell(&mut self, ms: i64, by: &str, kind: EventKind, subject: &str, message: &str) {
        self.events += 1;
        let time = u128::try_from(at(ms).as_millisecond()).unwrap();
        let id = EventId(Uuid::from_u128((time << 80) | (7 << 76) | (0b10 << 62) | self.events));
        let event = Event {
            id,
            at: at(ms),
            severity: Severity::Warning,
            kind,
            subject: subject.into(),
            seen_by: host(by),
            message: message.into(),
        };
        self.view.events.insert(id, event);
    }

    fn only(&self) -> &Incident {
        assert_eq!(self.view.incidents.len(), 1);
        self.view.incidents.values().next().unwrap()
    }

    fn story(&self) -> String {
        let incident = self.only();
        incident.meaning(&incident.guests[&web1()])
    }

    fn set(&mut self, hosts: &[&str], epoch: u64, since: i64) {
        let members = hosts.iter().map(|name| Replica { host: host(name), boot_id: boot(name, 1) }).collect();
        let set = InSync::first(volume("web1"), Epoch(epoch), members, at(since));
        self.view.in_sync.insert(volume("web1"), set);
    }

    fn state(&mut self, state: GuestState, since: i64) {
        let own = &self.view.assignments[&web1()];
        let said = model::GuestReport { since: at(since), ..report(own, state) };
        self.view.guest_reports.insert(web1(), said);
    }

    /// web1 belongs to host2 from now on.
    fn promote(&mut self) {
        let own = self.view.assignments.get_mut(&web1()).unwrap();
        (own.host, own.secondary, own.epoch) = (host("host2"), Some(host("host1")), Epoch(2));
    }

    /// host1 is lost, and web1 comes back on host2.
    fn fail_over(&mut self) {
        power_off(&mut self.view, "host1");
        self.tell(0, "host3", EventKind::HostLost, "host/host1", "host1 is lost: its session is over");
        assert_eq!(self.look(300), ["1 critical: host1 is lost"]);
        self.promote();
        self.tell(200, "host3", EventKind::GuestPromoted, "guest/web1", "'web1' goes to host2");
        assert_eq!(self.look(600), ["1 critical: host1 is lost"]);
        self.set(&["host2"], 2, 900);
        self.state(GuestState::Running, 1_500);
        self.tell(1_400, "host2", EventKind::GuestStarted, "guest/web1", "'web1' started on host2");
        assert_eq!(self.look(1_600), ["1 warning: host1 is lost"]);
    }
}

#[test]
fn a_lost_host_is_one_story_until_its_guests_are_as_safe_as_before() {
    let mut world = World::new();
    world.is_quiet(-5_000);
    world.fail_over();
    world.is_quiet(2_000);
    assert_eq!(world.only().open_because, ["host1 is lost", "web1 has one replica"]);
    let runs = "was down for 1.4 s: it ran on host1, and runs on host2 now";
    assert_eq!(world.story(), format!("{runs}; has one replica"));

    power_on(&mut world.view, "host1", 2);
    world.tell(20_000, "host3", EventKind::HostOnline, "host/host1", "host1 is online");
    assert_eq!(world.look(20_100), ["1 warning: host1 is lost"]);
    assert_eq!(world.only().open_because, ["web1 has one replica"]);
    world.set(&["host1", "host2"], 2, 30_000);
    world.tell(30_900, "host2", EventKind::VolumeInSync, "guest/web1", "'web1' is in sync");
    assert_eq!(world.look(31_000), ["1 warning: host1 is lost"], "well, for the moment");
    world.is_quiet(33_000);
    assert_eq!(world.look(34_000), ["1 ended: host1 was lost"]);
    world.is_quiet(40_000);
    assert_eq!(world.story(), format!("{runs}; had one replica for 30.0 s"));
    let incident = world.only();
    assert_eq!((incident.began_at, incident.ended_at), (at(0), Some(at(31_000))));
    let parts = incident.parts(&incident.guests[&web1()]);
    assert_eq!((parts.prove_ms, parts.decide_ms, parts.start_ms), (None, Some(200), Some(1_200)));
    let told: Vec<&str> = incident.entries.iter().map(|entry| entry.message.as_str()).collect();
    let expected = [
        "host1 is lost: its session is over",
        "'web1' goes to host2",
        "'web1' started on host2",
        "host1 is online",
        "'web1' is in sync",
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_leader_that_takes_over_at_any_moment_tells_the_same_story() {
    // It remembers nothing but the records, which is what `look` is given; and an event that arrives late is entered.
    let mut world = World::new();
    power_off(&mut world.view, "host1");
    assert_eq!(world.look(400), ["1 critical: host1 is lost"]);
    world.tell(300, "host3", EventKind::HostLost, "host/host1", "host1 is lost");
    assert_eq!(world.look(500), ["1 critical: host1 is lost"]);
    assert_eq!(world.only().began_at, at(300));
    assert_eq!(world.only().guests[&web1()].down_at, Some(at(300)));
    world.is_quiet(600);
}

#[test]
fn a_host_in_maintenance_may_go() {
    let mut world = World::new();
    world.view.hosts.get_mut(&host("host3")).unwrap().duty = model::Duty::Maintenance;
    power_off(&mut world.view, "host3");
    world.is_quiet(0);
}

#[test]
fn a_crash_opens_a_story_though_the_guest_runs_again() {
    let mut world = World::new();
    let crash = |world: &mut World, ms: i64| {
        let said = world.view.guest_reports.get_mut(&web1()).unwrap();
        said.exit = Some(exit(1, ExitReason::Crashed, at(ms)));
        said.since = at(ms + 700);
        world.tell(ms + 700, "host1", EventKind::GuestStarted, "guest/web1", "'web1' started on host1");
    };
    crash(&mut world, 0);
    assert_eq!(world.look(1_000), ["1 warning: web1 broke down"]);
    assert_eq!(world.story(), "was down for 0.7 s, and runs on host1 again");
    assert_eq!(world.only().peak, Weight::Critical);
    world.is_quiet(5_000);
    crash(&mut world, 20_000);
    assert_eq!(world.look(21_000), ["1 warning: web1 broke down"], "it is the same story");
    world.is_quiet(40_000);
    assert_eq!(world.look(51_000), ["1 ended: web1 broke down"]);
    world.is_quiet(52_000);
    crash(&mut world, 60_000);
    assert_eq!(world.look(61_000), ["2 warning: web1 broke down"], "and this is another one");
}

#[test]
fn a_guest_that_is_not_well_is_a_story_also_when_a_restart_has_helped_at_once() {
    let mut world = World::new();
    let judged = |world: &mut World, state: HealthState, since: i64, restarted: Option<i64>| {
        let mut health = HealthReport::new(HealthSpec::default(), 1, at(since));
        (health.state, health.message) = (state, Some("it panicked".into()));
        health.restarts.extend(restarted.map(|ms| HealthRestart {
            at: at(ms),
            host: host("host1"),
            how: HealthRestartKind::InPlace,
            why: "it panicked".into(),
        }));
        world.view.guest_reports.get_mut(&web1()).unwrap().health = Some(health);
    };
    judged(&mut world, HealthState::Healthy, 0, None);
    world.is_quiet(500);
    // It is well again before anybody looks.
    judged(&mut world, HealthState::Healthy, 1_200, Some(1_000));
    assert_eq!(world.look(1_500), ["1 warning: web1 is not well"]);
    assert_eq!((world.only().began_at, world.only().peak), (at(1_000), Weight::Critical));
    world.is_quiet(20_000);
    assert_eq!(world.look(32_000), ["1 ended: web1 was not well"]);
    assert_eq!(world.story(), "was not well for 0.5 s");
    world.is_quiet(60_000);

    // The next time restarts do not help: it is one story until somebody has mended it.
    judged(&mut world, HealthState::Restarting, 100_000, Some(100_000));
    assert_eq!(world.look(100_100), ["2 critical: web1 is not well"]);
    let story = |world: &World| {
        let incident = &world.view.incidents[&IncidentId(2)];
        (incident.open_because.clone(), incident.meaning(&incident.guests[&web1()]))
    };
    assert_eq!(story(&world).0, ["web1 is being restarted: it panicked"]);
    judged(&mut world, HealthState::Unhealthy, 130_000, Some(100_000));
    assert_eq!(world.look(130_100), ["2 critical: web1 is not well"]);
    let left = vec!["web1 is not well: it panicked".to_owned()];
    assert_eq!(story(&world), (left, "runs, and is not well".to_owned()));
    world.is_quiet(900_000);
    judged(&mut world, HealthState::Healthy, 1_000_000, None);
    assert_eq!(world.look(1_000_100), ["2 warning: web1 is not well"]);
    assert_eq!(world.look(1_030_100), ["2 ended: web1 was not well"]);
}

#[test]
fn a_guest_that_is_not_well_after_the_loss_of_its_host_is_part_of_that_story() {
    let mut world = World::new();
    world.fail_over();
    let mut health = HealthReport::new(HealthSpec::default(), 1, at(3_000));
    (health.state, health.message) = (HealthState::Unhealthy, Some("nobody answers".into()));
    world.view.guest_reports.get_mut(&web1()).unwrap().health = Some(health);
    assert_eq!(world.look(3_500), ["1 critical: host1 is lost"]);
    assert!(world.only().open_because.contains(&"web1 is not well: nobody answers".to_owned()));
}

#[test]
fn a_guest_that_cannot_run_is_critical_and_one_that_is_asked_to_start_is_nothing() {
    let mut world = World::new();
    world.state(GuestState::Starting, 0);
    world.is_quiet(100);
    world.state(GuestState::Failed, 200);
    assert_eq!(world.look(300), ["1 critical: web1 broke down"]);
    world.state(GuestState::Starting, 400);
    assert_eq!(world.look(500), ["1 critical: web1 broke down"]);
    assert_eq!(world.only().open_because, ["web1 is being started"]);
    world.state(GuestState::Running, 600);
    assert_eq!(world.look(700), ["1 warning: web1 broke down"]);
    assert_eq!(world.look(31_000), ["1 ended: web1 broke down"]);
}

#[test]
fn one_replica_is_a_story_only_if_nobody_asked_for_it() {
    let alone = |told: bool| {
        let mut world = World::new();
        world.set(&["host1"], 1, 0);
        if told {
            world.tell(0, "host1", EventKind::VolumeAlone, "guest/web1", "'web1' goes on with one replica");
        }
        world
    };
    let mut new = alone(false);
    new.is_quiet(60_000);
    let mut broken = alone(true);
    broken.is_quiet(4_000);
    assert_eq!(broken.look(5_000), ["1 warning: web1 has one replica"]);
    let mut moved = alone(true);
    let kind = move_of("web1");
    moved.view.jobs.insert(kind.id, kind);
    moved.is_quiet(5_000);
    let mut doubted = alone(true);
    doubted.view.in_sync.get_mut(&volume("web1")).unwrap().doubted = true;
    doubted.is_quiet(5_000);
}

fn move_of(guest: &str) -> JobSpec {
    let to = model::GuestPlace { host: host("host3"), secondary: None };
    JobSpec {
        id: JobId(Uuid::from_u128(7)),
        kind: JobKind::MoveGuest {
            guest: guest.parse().unwrap(),
            to,
            options: MoveOptions::LIVE,
            heals: None,
        },
        created_at: at(0),
        requested_by: "admin".into(),
        runner: None,
        cancel: false,
    }
}

#[test]
fn a_failed_move_is_a_story_that_ends_at_once() {
    let mut world = World::new();
    let job = move_of("web1");
    let failed = JobReport {
        state: JobState::Failed,
        error: Some("the link is too slow".into()),
        ended_at: Some(at(0)),
        ..JobReport::new(job.id, [])
    };
    world.view.job_reports.insert(job.id, failed);
    world.view.jobs.insert(job.id, job);
    assert_eq!(world.look(100), ["1 warning: a move of web1 failed"]);
    world.tell(
        90,
        "host1",
        EventKind::JobEnded,
        &format!("job/{}", move_of("web1").id),
        "move guest web1: failed",
    );
    assert_eq!(
        world.look(1_000),
        ["1 warning: a move of web1 failed"],
        "what is told of it arrives a little later"
    );
    assert_eq!(world.look(3_200), ["1 ended: a move of web1 failed"]);
    assert_eq!(world.only().entries.len(), 1);
    world.is_quiet(4_000);
    world.is_quiet(700_000);
}

#[test]
fn a_member_of_the_store_and_the_targets_of_alerts_have_stories_too() {
    let mut world = World::new();
    world.unwell.insert(host("host3"), "it does not answer".into());
    assert_eq!(world.look(0), ["1 warning: the state store's member on host3 is not well"]);
    power_off(&mut world.view, "host3");
    let host = world.look(1_000);
    assert!(host.contains(&"2 warning: host3 is lost".to_owned()), "the host's story: {host:?}");
    let target = AlertTarget {
        name: "pager".parse().unwrap(),
        id: Uuid::nil(),
        way: AlertWay::Webhook { url: "http://127.0.0.1/".into() },
        from: Weight::Warning,
        ca: None,
        has_secret: false,
        created_at: at(0),
    };
    let state = AlertState {
        problem: Some("nobody answers".into()),
        failing_since: Some(at(0)),
        ..AlertState::new(&target)
    };
    world.view.alert_states.insert(state.name.clone(), state);
    world.view.alerts.insert(target.name.clone(), target);
    assert!(world.look(20_000).iter().all(|line| !line.contains("pager")));
    assert!(world.look(31_000).contains(&"3 warning: alerts to pager do not arrive".to_owned()));
}

#[test]
fn what_is_old_goes_and_numbers_are_not_used_twice() {
    let mut world = World::new();
    world.unwell.insert(host("host3"), "it does not answer".into());
    world.look(0);
    let one = world.only().clone();
    let ended = |id: u64, ms: i64| Incident { id: IncidentId(id), ended_at: Some(at(ms)), ..one.clone() };
    world.view.incidents = (1..=202).map(|id| (IncidentId(id), ended(id, id as i64))).collect();
    let numbers = |ids: Vec<IncidentId>| ids.iter().map(|id| id.0).collect::<Vec<_>>();
    assert_eq!(numbers(surplus(&world.view, at(1_000))), [1, 2]);
    let later = at(1_000) + KEPT_FOR;
    assert_eq!(numbers(surplus(&world.view, later)), (1..=201).collect::<Vec<_>>());
    world.look(1_000);
    assert_eq!(world.view.incidents.keys().next_back(), Some(&IncidentId(203)));
}

#[test]
fn a_whole_cluster_in_trouble_makes_no_more_stories_than_fit() {
    let mut world = World::new();
    for n in 0..400 {
        let name = format!("g{n}");
        put(&mut world.view, &name, Pool::Local, "host1", None);
        let own = world.view.assignments[&name.parse::<GuestName>().unwrap()].clone();
        world.view.guest_reports.insert(name.parse().unwrap(), report(&own, GuestState::Failed));
    }
    assert_eq!(world.look(0).len(), OPEN_MAX);
    world.is_quiet(1_000);
    // The loss of their host is one.
    let mut world = World::new();
    for n in 0..400 {
        put(&mut world.view, &format!("g{n}"), Pool::Local, "host1", None);
    }
    power_off(&mut world.view, "host1");
    assert_eq!(world.look(0), ["1 critical: host1 is lost"]);
    assert!(world.only().guests.len() == GUESTS_MAX && world.only().more_guests);
}
