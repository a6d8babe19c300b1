use model::Pool;
use proptest::prelude::*;

use super::*;
use crate::fixture;

const START: Timestamp = Timestamp::UNIX_EPOCH;

fn at(seconds: i64) -> Timestamp {
    START + SignedDuration::from_secs(seconds)
}

fn tcp() -> HealthSpec {
    HealthSpec { check: HealthCheck::Tcp { port: 80 }, grace_s: 30, ..HealthSpec::default() }
}

fn failing() -> Pulse {
    Pulse { failed: 3, why: Some("nobody answers".into()), ..Pulse::default() }
}

fn well() -> Pulse {
    Pulse { passed: true, ..Pulse::default() }
}

/// A guest that booted at the beginning, and what is remembered of it from look to look.
struct Ward {
    me: HostName,
    spec: HealthSpec,
    generation: u64,
    known: Option<HealthReport>,
    condition: Condition,
    disturbed: Option<&'static str>,
    may_leave: bool,
}

impl Ward {
    fn new(spec: HealthSpec) -> Ward {
        let (me, condition) = (fixture::host("host1"), Condition::Runs);
        Ward { me, spec, generation: 1, known: None, condition, disturbed: None, may_leave: false }
    }

    /// A look at that second; the restart that it asks for is noted as made.
    fn look(&mut self, seconds: i64, pulse: &Pulse) -> Option<HealthRestartKind> {
        let verdict = judge(&Patient {
            me: &self.me,
            spec: &self.spec,
            boot_generation: self.generation,
            known: self.known.as_ref(),
            condition: &self.condition,
            pulse,
            booted_at: START,
            disturbed: self.disturbed,
            may_leave: self.may_leave,
            now: at(seconds),
        });
        let mut report = verdict.report;
        let how = verdict.restart.as_ref().map(|restart| restart.how);
        verdict.restart.into_iter().for_each(|restart| report.note(restart));
        self.known = Some(report);
        how
    }

    fn state(&self) -> HealthState {
        self.known.as_ref().unwrap().state
    }

    fn message(&self) -> &str {
        self.known.as_ref().unwrap().message.as_deref().unwrap_or_default()
    }
}

const HERE: Option<HealthRestartKind> = Some(HealthRestartKind::InPlace);
const ELSEWHERE: Option<HealthRestartKind> = Some(HealthRestartKind::Elsewhere);

#[test]
fn a_guest_that_panics_is_restarted_and_one_that_nobody_watches_is_not() {
    let mut ward = Ward::new(HealthSpec::default());
    assert_eq!((ward.look(1, &Pulse::default()), ward.state()), (None, HealthState::Healthy));
    ward.condition = Condition::Halted("it panicked".into());
    assert_eq!(ward.look(2, &Pulse::default()), HERE);
    let unwatched = HealthSpec { check: HealthCheck::None, ..HealthSpec::default() };
    let mut ward = Ward { condition: ward.condition, ..Ward::new(unwatched) };
    assert_eq!((ward.look(1, &Pulse::default()), ward.state()), (None, HealthState::Off));
}

#[test]
fn restarts_come_ever_more_slowly_then_no_more_and_that_is_said() {
    let mut ward = Ward::new(HealthSpec { restart_limit: 3, ..tcp() });
    assert_eq!(ward.look(5, &well()), None);
    let made: Vec<i64> = (40..200).filter(|now| ward.look(*now, &failing()).is_some()).collect();
    assert_eq!(made, [40, 45, 55]);
    assert_eq!(ward.state(), HealthState::Unhealthy);
    let said = "the check tcp:80 failed 3 times in a row: nobody answers; 3 restarts within an hour have not helped, so \
                it is left alone";
    assert_eq!(ward.message(), said);
    // Also when the hour is over.
    assert_eq!(ward.look(40 + 3600 * 2, &failing()), None);
}

#[test]
fn somebodys_restart_a_success_and_a_new_setting_begin_anew() {
    let given_up = || {
        let mut ward = Ward::new(HealthSpec { restart_limit: 1, ..tcp() });
        ward.look(5, &well());
        assert_eq!((ward.look(40, &failing()), ward.look(50, &failing())), (HERE, None));
        assert_eq!(ward.state(), HealthState::Unhealthy);
        ward
    };
    let mut ward = given_up();
    ward.generation = 2;
    assert_eq!(ward.look(60, &failing()), HERE);

    let mut ward = given_up();
    ward.look(60, &well());
    assert_eq!(ward.state(), HealthState::Healthy);
    assert_eq!(ward.look(70, &failing()), None, "the hour is not over");
    let mut ward = given_up();
    ward.look(60, &well());
    assert_eq!(ward.look(40 + 3600, &failing()), HERE);

    let mut ward = given_up();
    ward.spec.restart_limit = 2;
    assert_eq!(ward.look(60, &failing()), HERE);
}

#[test]
fn a_check_that_has_never_succeeded_restarts_nothing() {
    let mut ward = Ward::new(tcp());
    assert_eq!((ward.look(10, &failing()), ward.state()), (None, HealthState::Starting));
    assert_eq!((ward.look(31, &failing()), ward.state()), (None, HealthState::Unknown));
    assert!(
        ward.message().contains("has never succeeded since it was set (nobody answers)"),
        "{}",
        ward.message()
    );
    // Nor does one that succeeded before it was set to something else.
    ward.look(40, &well());
    ward.spec.check = HealthCheck::Tcp { port: 81 };
    assert_eq!((ward.look(50, &failing()), ward.state()), (None, HealthState::Unknown));
}

#[test]
fn a_guest_has_time_to_boot_and_an_agent_counts_only_once_heard() {
    let mut ward = Ward::new(tcp());
    ward.look(5, &well());
    assert_eq!((ward.look(29, &failing()), ward.state()), (None, HealthState::Starting));
    assert_eq!(ward.look(30, &failing()), HERE);
    let mut ward = Ward::new(HealthSpec { check: HealthCheck::Agent, ..tcp() });
    ward.look(5, &well());
    assert_eq!((ward.look(60, &failing()), ward.state()), (None, HealthState::Unknown));
    let heard = Pulse { passed: true, ..failing() };
    assert_eq!(ward.look(61, &heard), HERE);
}

#[test]
fn nothing_is_done_while_something_else_goes_on_or_the_check_cannot_be_made() {
    let mut ward = Ward::new(tcp());
    ward.look(5, &well());
    ward.disturbed = Some("it is on its way to another host");
    assert_eq!((ward.look(60, &failing()), ward.state()), (None, HealthState::Healthy));
    ward.condition = Condition::Halted("it panicked".into());
    assert_eq!(ward.look(61, &failing()), None);
    (ward.disturbed, ward.condition) = (None, Condition::Runs);
    let cannot = Pulse { cannot: Some("there is no way to 10.0.0.1".into()), ..failing() };
    assert_eq!((ward.look(62, &cannot), ward.state()), (None, HealthState::Unknown));
    ward.spec.on_unhealthy = OnUnhealthy::Alarm;
    assert_eq!((ward.look(63, &failing()), ward.state()), (None, HealthState::Unhealthy));
}

#[test]
fn after_two_restarts_in_vain_another_host_is_tried_and_if_it_does_not_come_this_one() {
    let mut ward = Ward { may_leave: true, ..Ward::new(tcp()) };
    ward.look(5, &well());
    assert_eq!((ward.look(40, &failing()), ward.look(50, &failing())), (HERE, HERE));
    assert_eq!(ward.look(60, &failing()), ELSEWHERE);
    assert!(ward.known.as_ref().unwrap().elsewhere().is_some());
    // The leader has its time.
    assert_eq!(ward.look(74, &failing()), None);
    assert_eq!(ward.look(85, &failing()), HERE);

    // It came: the new owner goes on from what is known, and does not send it back.
    let mut ward = Ward { may_leave: true, ..Ward::new(tcp()) };
    ward.look(5, &well());
    let made = (40..61).filter(|now| ward.look(*now, &failing()).is_some()).count();
    assert_eq!(made, 3);
    ward.me = fixture::host("host2");
    assert_eq!(ward.look(62, &Pulse::default()), None);
    assert_eq!(ward.known.as_ref().unwrap().elsewhere(), None);
    assert_eq!(ward.look(100, &failing()), HERE);
}

#[test]
fn the_leader_hears_the_wish_of_the_owner_only_and_asks_the_secondarys_host() {
    let mut view = fixture::cluster(2);
    fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
    let name = "a".parse().unwrap();
    let spec = view.guests[&name].clone();
    let mut report = fixture::report(&view.assignments[&name], model::GuestState::Running);
    let mut health = HealthReport::new(tcp(), 1, START);
    let restart = |host: &str| HealthRestart {
        at: START,
        host: fixture::host(host),
        how: HealthRestartKind::Elsewhere,
        why: "it hangs".into(),
    };
    report.health = Some(health.clone());
    view.guest_reports.insert(spec.name.clone(), report.clone());
    assert_eq!(elsewhere(&view, &spec), None);
    health.note(restart("host1"));
    report.health = Some(health.clone());
    view.guest_reports.insert(spec.name.clone(), report.clone());
    let place = GuestPlace { host: fixture::host("host2"), secondary: Some(fixture::host("host1")) };
    assert_eq!(elsewhere(&view, &spec), Some((place, restart("host1"))));
    // Not of one that is to stay, nor to a host that is lost.
    let pinned = GuestSpec { pinned: true, ..spec.clone() };
    assert_eq!(elsewhere(&view, &pinned), None);
    view.sessions.remove(&fixture::host("host2"));
    assert_eq!(elsewhere(&view, &spec), None);
}

/// What a look may find.
fn finding() -> impl Strategy<Value = (i64, u8)> {
    (1..400i64, 0..6u8)
}

proptest! {
    /// Whatever is seen and whoever dies between a note and its restart: never more restarts than the limit within an
    /// hour, and never two closer together than the pause.
    #[test]
    fn restarts_are_bounded(limit in 0..6u32, leaves: bool, findings in prop::collection::vec(finding(), 1..200)) {
        let mut ward = Ward { may_leave: leaves, ..Ward::new(HealthSpec { restart_limit: limit, ..tcp() }) };
        let (mut now, mut made) = (40, Vec::new());
        for (pause, what) in findings {
            now += pause;
            ward.condition = if what == 5 { Condition::Halted("it panicked".into()) } else { Condition::Runs };
            ward.disturbed = (what == 4).then_some("it moves");
            let pulse = match what { 0 => well(), 1 => Pulse::default(), _ => failing() };
            if ward.look(now, &pulse).is_some() {
                made.push(now);
            }
        }
        for window in made.windows(limit as usize + 1) {
            prop_assert!(window[limit as usize] - window[0] >= WINDOW.as_secs());
        }
        prop_assert!(made.windows(2).all(|two| two[1] - two[0] >= PAUSE_FIRST.as_secs()));
    }
}
