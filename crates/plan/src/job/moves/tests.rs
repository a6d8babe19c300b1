//! Jobs of several moves, told with a planner that says what it is told to.

use super::*;
use crate::fixture::{self, cluster, host};
use model::{Duty, JobId, Pool};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

/// Says no to some moves, and empties hosts as written down.
#[derive(Default)]
struct Script {
    no: BTreeMap<GuestName, String>,
    /// Where each guest may go.
    ways: BTreeMap<GuestName, GuestPlace>,
    /// What keeps a guest for now.
    busy: BTreeMap<GuestName, String>,
}

impl Planner for Script {
    fn still_good(&self, _: &ClusterView, guest: &GuestName, _: &GuestPlace) -> Result<(), String> {
        self.no.get(guest).map_or(Ok(()), |why| Err(why.clone()))
    }

    fn drain(
        &self,
        view: &ClusterView,
        host: &HostName,
        guests_only: bool,
        held: &BTreeMap<GuestName, String>,
    ) -> Emptied {
        let mut emptied = Emptied::default();
        let affected = view.assignments.values().filter(|assignment| {
            &assignment.host == host || (!guests_only && assignment.secondary.as_ref() == Some(host))
        });
        for assignment in affected {
            let guest = assignment.guest.clone();
            let moving = super::super::move_of(view, &guest).next().is_some();
            match (self.ways.get(&guest), held.get(&guest)) {
                _ if moving => drop(emptied.waits.insert(guest, "it is moved".into())),
                (_, Some(why)) => drop(emptied.waits.insert(guest, why.clone())),
                _ if self.busy.contains_key(&guest) => {
                    emptied.waits.insert(guest.clone(), self.busy[&guest].clone());
                }
                (Some(to), None) => emptied.moves.push((guest, to.clone())),
                (None, None) => drop(emptied.stuck.insert(guest, "no host has room".into())),
            }
        }
        emptied
    }
}

/// A cluster in which one job runs.
struct Story {
    view: ClusterView,
    spec: JobSpec,
    script: Script,
    now: Timestamp,
}

fn name(guest: &str) -> GuestName {
    guest.parse().unwrap()
}

/// As in `host1+host2`.
fn place(text: &str) -> GuestPlace {
    let (first, second) = text.split_once('+').map_or((text, None), |(a, b)| (a, Some(b)));
    GuestPlace { host: host(first), secondary: second.map(host) }
}

impl Story {
    /// Guests as in `a host1+host2`; one after the other.
    fn new(hosts: usize, guests: &str, kind: JobKind) -> Story {
        let mut view = cluster(hosts);
        for line in guests.split(',').filter(|line| !line.trim().is_empty()) {
            let (guest, at) = line.trim().split_once(' ').unwrap();
            let at = place(at);
            let pool = if at.secondary.is_some() { Pool::Mirror } else { Pool::Local };
            fixture::put(
                &mut view,
                guest,
                pool,
                at.host.as_str(),
                at.secondary.as_ref().map(HostName::as_str),
            );
        }
        let spec = JobSpec {
            id: JobId(uuid::Uuid::from_u128(1 << 64)),
            kind,
            created_at: NOW,
            requested_by: "a test".into(),
            runner: None,
            cancel: false,
        };
        view.jobs.insert(spec.id, spec.clone());
        Story { view, spec, script: Script::default(), now: NOW }
    }

    fn balance(hosts: usize, guests: &str, moves: &str) -> Story {
        let moves = moves.split(',').map(|line| {
            let (guest, to) = line.trim().split_once(' ').unwrap();
            (name(guest), place(to))
        });
        Self::new(hosts, guests, JobKind::Balance { moves: moves.collect() })
    }

    fn drain(hosts: usize, guests: &str, emptied: &str, duty: Duty, ways: &str) -> Story {
        let mut story = Self::new(hosts, guests, JobKind::DrainHost { host: host(emptied) });
        story.view.hosts.get_mut(&host(emptied)).unwrap().duty = duty;
        for line in ways.split(',').filter(|line| !line.trim().is_empty()) {
            let (guest, to) = line.trim().split_once(' ').unwrap();
            story.script.ways.insert(name(guest), place(to));
        }
        story
    }

    fn report(&self) -> &JobReport {
        &self.view.job_reports[&self.spec.id]
    }

    /// Looks until nothing is new, as the leader does; each look is made twice, as by a leader that dies before it
    /// has written: the second must come to the same.
    fn settle(&mut self) {
        self.view.jobs.insert(self.spec.id, self.spec.clone());
        for _ in 0..100 {
            let found = advance(&self.view, &self.spec, &self.script, self.now);
            assert_eq!(found, advance(&self.view, &self.spec, &self.script, self.now));
            let Some((report, start)) = found else { return };
            self.view.job_reports.insert(report.id, report);
            if let Some(job) = start {
                assert!(self.view.jobs.insert(job.id, job).is_none(), "a move was begun twice");
            }
        }
        panic!("it never comes to rest");
    }

    /// The job's state and steps after it has come to rest.
    fn check(&mut self, expected: &[&str]) {
        self.settle();
        let report = self.report();
        let error = report.error.iter().map(|error| format!(": {error}"));
        let steps = report.steps.iter().map(|step| {
            let note = step.note.iter().map(|note| format!(" ({note})")).collect::<String>();
            format!("{}: {:?}{note}", step.name, step.state).to_lowercase()
        });
        let mut found = vec![format!("{}{}", report.state, error.collect::<String>())];
        found.extend(steps);
        assert_eq!(found, expected);
    }

    fn child_of(&self, guest: &str) -> JobSpec {
        let open = super::super::move_of(&self.view, &name(guest)).next();
        open.unwrap_or_else(|| panic!("{guest} is not on its way")).clone()
    }

    fn end_child(&mut self, guest: &str, state: JobState, error: Option<&str>) -> JobSpec {
        let job = self.child_of(guest);
        let report = JobReport {
            state,
            error: error.map(str::to_owned),
            ended_at: Some(self.now),
            ..JobReport::new(job.id, [])
        };
        self.view.job_reports.insert(job.id, report);
        job
    }

    fn arrives(&mut self, guest: &str) {
        let job = self.end_child(guest, JobState::Done, None);
        let JobKind::MoveGuest { guest, to, .. } = job.kind else { panic!("a move") };
        let assignment = self.view.assignments.get_mut(&guest).unwrap();
        (assignment.host, assignment.secondary) = (to.host, to.secondary);
        let report = fixture::report(assignment, model::GuestState::Running);
        self.view.guest_reports.insert(guest, report);
    }

    fn fails(&mut self, guest: &str, why: &str) {
        self.end_child(guest, JobState::Failed, Some(why));
    }
}

#[test]
fn moves_are_made_in_their_order_where_they_touch() {
    let mut story = Story::balance(
        6,
        "a host1+host2, b host2+host3, c host4+host5",
        "a host2+host1, b host3+host2, c host5+host4",
    );
    // `b` shares host2 with `a`; `c` shares nothing.
    story.check(&[
        "running",
        "move a to host2 + host1: running",
        "move b to host3 + host2: waiting",
        "move c to host5 + host4: running",
    ]);
    story.arrives("a");
    story.check(&[
        "running",
        "move a to host2 + host1: done",
        "move b to host3 + host2: running",
        "move c to host5 + host4: running",
    ]);
    story.arrives("c");
    story.arrives("b");
    story.check(&[
        "done",
        "move a to host2 + host1: done",
        "move b to host3 + host2: done",
        "move c to host5 + host4: done",
    ]);
}

#[test]
fn no_more_moves_are_made_at_once_than_the_settings_say() {
    let guests = "a host1+host2, b host3+host4, c host5+host6";
    let mut story = Story::balance(6, guests, "a host2+host1, b host4+host3, c host6+host5");
    story.check(&[
        "running",
        "move a to host2 + host1: running",
        "move b to host4 + host3: running",
        "move c to host6 + host5: waiting",
    ]);
    story.arrives("b");
    story.settle();
    assert_eq!(story.report().steps[2].state, StepState::Running);
}

#[test]
fn a_move_that_is_not_good_any_more_is_skipped_and_says_why() {
    let mut story =
        Story::balance(6, "a host1+host2, b host3+host4", "a host2+host1, b host4+host3, gone host1");
    story.script.no.insert(name("a"), "host2 is being drained".into());
    story.check(&[
        "running",
        "move a to host2 + host1: skipped (host2 is being drained)",
        "move b to host4 + host3: running",
        "move gone to host1: skipped (the guest was deleted)",
    ]);
    story.arrives("b");
    story.settle();
    assert_eq!(story.report().state, JobState::Done);
}

#[test]
fn a_move_that_is_made_already_is_done() {
    let mut story = Story::balance(3, "a host1+host2", "a host1+host2");
    story.check(&["done", "move a to host1 + host2: done (it was there already)"]);
}

#[test]
fn a_failed_move_fails_the_job_and_stops_no_other() {
    let mut story = Story::balance(3, "a host1+host2, b host2+host3", "a host2+host1, b host3+host2");
    story.settle();
    story.fails("a", "host2 was lost");
    story.check(&[
        "running",
        "move a to host2 + host1: failed (host2 was lost)",
        "move b to host3 + host2: running",
    ]);
    story.arrives("b");
    story.check(&[
        "failed: 1 of 2 moves failed, 1 were made; move a to host2 + host1: host2 was lost",
        "move a to host2 + host1: failed (host2 was lost)",
        "move b to host3 + host2: done",
    ]);
}

#[test]
fn a_cancelled_balance_lets_what_is_under_way_end() {
    let mut story = Story::balance(3, "a host1+host2, b host2+host3", "a host2+host1, b host3+host2");
    story.settle();
    story.spec.cancel = true;
    story.check(&[
        "running",
        "move a to host2 + host1: running",
        "move b to host3 + host2: skipped (the job was cancelled)",
    ]);
    story.arrives("a");
    story.check(&[
        "cancelled: it was cancelled; 1 of 2 moves were made",
        "move a to host2 + host1: done",
        "move b to host3 + host2: skipped (the job was cancelled)",
    ]);
}

#[test]
fn a_host_is_emptied_of_guests_and_replicas() {
    let mut story = Story::drain(
        3,
        "a host3+host1, b host2+host3",
        "host3",
        Duty::Draining,
        "a host1+host2, b host2+host1",
    );
    story.check(&[
        "running",
        "empty host3: running (1 guest is left, 1 secondary is left)",
        "move a to host1 + host2: running",
        "move b to host2 + host1: waiting",
    ]);
    story.arrives("a");
    story.check(&[
        "running",
        "empty host3: running (1 secondary is left)",
        "move a to host1 + host2: done",
        "move b to host2 + host1: running",
    ]);
    story.arrives("b");
    story.check(&[
        "done",
        "empty host3: done",
        "move a to host1 + host2: done",
        "move b to host2 + host1: done",
    ]);
}

#[test]
fn a_host_in_maintenance_keeps_its_replicas() {
    let guests = "a host3+host1, b host2+host3";
    let mut story = Story::drain(3, guests, "host3", Duty::Maintenance, "a host1+host3");
    story.settle();
    story.arrives("a");
    story.check(&["done", "empty host3: done", "move a to host1 + host3: done"]);
}

#[test]
fn a_drained_host_is_empty_only_when_its_files_are_deleted() {
    let mut story = Story::drain(3, "", "host3", Duty::Draining, "");
    let volume = fixture::volume("a");
    let drop = model::ReplicaDrop {
        host: host("host3"),
        volume,
        guest_id: fixture::guest("a", Pool::Mirror).id,
        why: "a test".into(),
        pool_name: None,
    };
    story.view.drops.insert((host("host3"), volume), drop);
    story.check(&["running", "empty host3: running (1 replica is being deleted)"]);
    story.view.drops.clear();
    story.check(&["done", "empty host3: done"]);
}

#[test]
fn what_can_go_goes_and_what_cannot_is_named() {
    let guests = "a host3+host1, db host3, old host3+host1";
    let mut story = Story::drain(3, guests, "host3", Duty::Draining, "a host1+host2");
    story.check(&[
        "running",
        "empty host3: running (3 guests are left; db cannot go: no host has room; old cannot go: no host has \
         room)",
        "move a to host1 + host2: running",
    ]);
    story.arrives("a");
    story.check(&[
        "failed: host3 is not empty: 2 guests are left; db cannot go: no host has room; old cannot go: no host \
         has room",
        "empty host3: failed",
        "move a to host1 + host2: done",
    ]);
}

#[test]
fn what_will_pass_is_waited_for() {
    let mut story = Story::drain(3, "a host3+host1", "host3", Duty::Draining, "");
    story.script.busy.insert(name("a"), "it is starting".into());
    story.check(&["running", "empty host3: running (1 guest is left; a waits: it is starting)"]);
    story.script.busy.clear();
    story.script.ways.insert(name("a"), place("host1+host2"));
    story.check(&["running", "empty host3: running (1 guest is left)", "move a to host1 + host2: running"]);
}

#[test]
fn a_failed_move_is_tried_again_after_a_rest_and_not_for_ever() {
    let mut story = Story::drain(3, "a host3+host1", "host3", Duty::Draining, "a host1+host2");
    for attempt in 1..=3 {
        story.settle();
        let names: Vec<&str> = story.report().steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(names.len(), 1 + attempt, "{names:?}");
        story.fails("a", "host1 was lost");
        story.settle();
        if attempt < 3 {
            let note = story.report().steps[0].note.clone().unwrap();
            assert_eq!(note, "1 guest is left; a waits: its move is tried again: host1 was lost");
            story.now += jiff::SignedDuration::from_secs(10);
        }
    }
    story.check(&[
        "failed: host3 is not empty: 1 guest is left; a cannot go: its move failed 3 times: host1 was lost",
        "empty host3: failed",
        "move a to host1 + host2: failed (host1 was lost)",
        "move a to host1 + host2, try 2: failed (host1 was lost)",
        "move a to host1 + host2, try 3: failed (host1 was lost)",
    ]);
}

#[test]
fn a_host_that_is_taken_back_to_work_is_not_emptied_any_further() {
    let guests = "a host3+host1, b host3+host1";
    let mut story = Story::drain(3, guests, "host3", Duty::Draining, "a host1+host2, b host1+host2");
    story.settle();
    story.view.hosts.get_mut(&host("host3")).unwrap().duty = Duty::Normal;
    story.settle();
    let note = story.report().steps[0].note.clone().unwrap();
    assert_eq!(note, "host3 was taken back to work; 1 moves are brought to their end");
    story.arrives("a");
    story.check(&[
        "cancelled: host3 was taken back to work",
        "empty host3: failed",
        "move a to host1 + host2: done",
    ]);
}

#[test]
fn two_jobs_do_not_empty_one_host() {
    let mut story = Story::drain(3, "a host3+host1", "host3", Duty::Draining, "a host1+host2");
    let first = JobSpec { id: JobId(uuid::Uuid::from_u128(7)), ..story.spec.clone() };
    story.view.jobs.insert(first.id, first.clone());
    story.settle();
    let why = story.report().error.clone().unwrap();
    assert_eq!(why, format!("the job {} empties host3 already", first.id));
}

/// The real planner, on hosts of which nothing was measured.
mod planned {
    use super::*;

    fn drained(guests: &str, duty: Duty) -> Emptied {
        let story = Story::drain(3, guests, "host3", duty, "");
        Measured(&BTreeMap::new()).drain(
            &story.view,
            &host("host3"),
            duty == Duty::Maintenance,
            &BTreeMap::new(),
        )
    }

    #[test]
    fn a_drain_swaps_roles_first_and_copies_then() {
        let emptied = drained("a host3+host1, b host2+host3", Duty::Draining);
        assert!(emptied.stuck.is_empty() && emptied.waits.is_empty(), "{emptied:?}");
        let moves: Vec<String> = emptied.moves.iter().map(|(guest, to)| format!("{guest} {to}")).collect();
        assert_eq!(moves[0], "a host1 + host3");
        assert!(
            moves.contains(&"a host1 + host2".to_owned()) && moves.contains(&"b host2 + host1".to_owned())
        );
        let emptied = drained("a host3+host1, b host2+host3", Duty::Maintenance);
        assert_eq!(emptied.moves, [(name("a"), place("host1+host3"))]);
    }

    #[test]
    fn what_is_held_waits_and_what_is_local_takes_its_disks_along() {
        let story = Story::drain(3, "a host3+host1, db host3", "host3", Duty::Draining, "");
        let held = BTreeMap::from([(name("a"), "its move failed".to_owned())]);
        let emptied = Measured(&BTreeMap::new()).drain(&story.view, &host("host3"), false, &held);
        assert_eq!(emptied.moves, [(name("db"), GuestPlace { host: host("host2"), secondary: None })]);
        assert_eq!(emptied.waits, held);
        assert!(emptied.stuck.is_empty(), "{emptied:?}");
    }

    #[test]
    fn a_move_to_a_host_that_is_drained_is_not_good() {
        let story = Story::drain(3, "a host1+host2", "host3", Duty::Draining, "");
        let why = Measured(&BTreeMap::new()).still_good(&story.view, &name("a"), &place("host3+host1"));
        assert!(why.unwrap_err().contains("host3"));
    }
}
