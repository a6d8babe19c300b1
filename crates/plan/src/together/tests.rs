use super::*;
use crate::fixture::{self, cluster, power_off};
use model::Pool;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn after(s: i64) -> Timestamp {
    NOW + SignedDuration::from_secs(s)
}

fn name(text: &str) -> GuestName {
    text.parse().unwrap()
}

/// `app` restarts with `db`, and `web` with `app`; `other` with nobody. All run since the beginning.
fn shop() -> ClusterView {
    let mut view = cluster(3);
    for (guest, owner) in [("app", "host1"), ("db", "host2"), ("web", "host3"), ("other", "host1")] {
        fixture::put(&mut view, guest, Pool::Mirror, owner, Some("host3").filter(|h| *h != owner));
    }
    view.guests.get_mut(&name("app")).unwrap().restart_with.insert(name("db"));
    view.guests.get_mut(&name("web")).unwrap().restart_with.insert(name("app"));
    view
}

/// A guest crashes, and runs again a second later.
fn crash(view: &mut ClusterView, guest: &str, at: Timestamp) {
    let report = view.guest_reports.get_mut(&name(guest)).unwrap();
    report.failed_at = Some(at);
    report.since = at + SignedDuration::from_secs(1);
}

/// Writes the answers down, as the leader does; answers what they are.
fn carry_out(view: &mut ClusterView, now: Timestamp) -> Vec<String> {
    let answers = answers(view, now);
    let mut lines = Vec::new();
    for Answer { failed, record, restart, told } in answers {
        let names: Vec<&str> = restart.iter().map(|spec| spec.name.as_str()).collect();
        lines.push(format!("{failed}: {}{}", names.join(" "), if told.is_some() { " !" } else { "" }));
        view.group_restarts.insert(failed, record);
        for spec in restart {
            // It obeys, and runs again.
            let report = view.guest_reports.get_mut(&spec.name).unwrap();
            (report.boot_generation, report.since) =
                (spec.boot_generation, now + SignedDuration::from_secs(5));
            view.guests.insert(spec.name.clone(), spec);
        }
    }
    lines
}

#[test]
fn a_group_is_whoever_is_named_and_whoever_names() {
    let view = shop();
    let names = |of: &str| group(&view, &name(of)).into_iter().map(GuestName::as_str).collect::<Vec<_>>();
    assert_eq!(names("db"), ["app", "web"]);
    assert_eq!(names("app"), ["db", "web"]);
    assert!(names("other").is_empty());
    assert!(names("nobody").is_empty());
}

#[test]
fn those_that_ran_through_a_crash_restart_once() {
    let mut view = shop();
    assert!(carry_out(&mut view, after(5)).is_empty());
    crash(&mut view, "db", after(10));
    assert_eq!(carry_out(&mut view, after(12)), ["db: app web !"]);
    assert!(carry_out(&mut view, after(13)).is_empty());
    assert!(carry_out(&mut view, after(30)).is_empty(), "a restart of the group is no failure");
    crash(&mut view, "other", after(40));
    assert!(carry_out(&mut view, after(42)).is_empty());
}

#[test]
fn nobody_restarts_before_the_one_that_failed_runs_again() {
    let mut view = shop();
    crash(&mut view, "db", after(10));
    view.guest_reports.get_mut(&name("db")).unwrap().state = GuestState::Starting;
    assert!(carry_out(&mut view, after(12)).is_empty());
    view.guest_reports.get_mut(&name("db")).unwrap().state = GuestState::Running;
    assert_eq!(carry_out(&mut view, after(20)), ["db: app web !"]);
}

#[test]
fn what_an_operator_asks_for_is_no_failure() {
    let mut view = shop();
    let report = view.guest_reports.get_mut(&name("db")).unwrap();
    report.exit = Some(fixture::exit(1, model::ExitReason::Stopped, after(10)));
    report.since = after(12);
    assert!(carry_out(&mut view, after(13)).is_empty());
}

#[test]
fn a_loss_restarts_those_that_ran_elsewhere_and_not_those_that_were_lost_with_it() {
    let mut view = shop();
    // db's host is lost with app's; web runs on.
    let lose = |view: &mut ClusterView, guest: &str, to: &str, at| {
        let assignment = view.assignments.get_mut(&name(guest)).unwrap();
        (assignment.host, assignment.epoch) = (fixture::host(to), assignment.epoch.next());
        let assignment = assignment.clone();
        let record = recovered(view, &assignment, at).unwrap();
        view.group_restarts.insert(name(guest), record);
        let report = GuestReport {
            since: at + SignedDuration::from_secs(3),
            ..fixture::report(&assignment, GuestState::Running)
        };
        view.guest_reports.insert(name(guest), report);
    };
    power_off(&mut view, "host1");
    power_off(&mut view, "host2");
    lose(&mut view, "db", "host3", after(10));
    assert_eq!(carry_out(&mut view, after(14)), ["db: web !"]);
    lose(&mut view, "app", "host3", after(10));
    assert_eq!(carry_out(&mut view, after(15)), ["app: "], "db and web have begun their runs since");
    assert!(carry_out(&mut view, after(16)).is_empty());
    let alone = view.assignments[&name("other")].clone();
    assert_eq!(recovered(&view, &alone, NOW), None);
}

#[test]
fn all_of_the_power_was_lost_and_nobody_starts_twice() {
    let mut view = shop();
    for host in ["host1", "host2", "host3"] {
        fixture::power_on(&mut view, host, 2);
    }
    let mut at = 100;
    for guest in ["db", "app", "web"] {
        let report = view.guest_reports.get_mut(&name(guest)).unwrap();
        report.boot_id = fixture::boot(report.host.as_str(), 2);
        crash(&mut view, guest, after(100));
        view.guest_reports.get_mut(&name(guest)).unwrap().since = after(at + 10);
        at += 10;
        assert_eq!(carry_out(&mut view, after(at + 2)), [format!("{guest}: ")]);
    }
}

#[test]
fn a_guest_that_crashes_again_and_again_restarts_nobody_for_ever() {
    let mut view = shop();
    let mut said = Vec::new();
    for n in 0..6 {
        crash(&mut view, "db", after(100 * n + 10));
        said.extend(carry_out(&mut view, after(100 * n + 12)));
    }
    assert_eq!(said, ["db: app web !", "db: app web !", "db: app web !", "db:  !", "db:  !", "db:  !"]);
    crash(&mut view, "db", after(4000));
    assert_eq!(carry_out(&mut view, after(4002)), ["db: app web !"], "an hour later");
}

#[test]
fn a_guest_of_the_same_name_is_another_one() {
    let mut view = shop();
    crash(&mut view, "db", after(10));
    carry_out(&mut view, after(12));
    view.group_restarts.get_mut(&name("db")).unwrap().guest_id = model::GuestId(uuid::Uuid::nil());
    let report = view.guest_reports.get_mut(&name("db")).unwrap();
    report.failed_at = None;
    assert!(carry_out(&mut view, after(13)).is_empty());
}
