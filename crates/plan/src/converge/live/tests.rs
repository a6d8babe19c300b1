use jiff::Timestamp;
use model::{Epoch, HandoverKind, JobId, MoveOptions, Pool};
use uuid::Uuid;

use super::*;
use crate::converge::tests::{replica, running, serving};
use crate::converge::{RunElsewhere, Sending, next};
use crate::fixture;

const JOB: JobId = JobId(Uuid::nil());

fn asked(s: &mut Situation) {
    let (to, how) = (fixture::host("host2"), HandoverKind::Live);
    s.assignment.handover = Some(Handover { to, how, job: JOB, options: MoveOptions::LIVE });
}

/// The owner of a guest that is to go to host2, which waits for it.
fn sending(phase: Option<SendPhase>) -> Situation {
    let mut s = running();
    asked(&mut s);
    s.incoming = Some(([10, 0, 0, 2], 7500).into());
    s.machine.as_mut().unwrap().sending = phase.map(|phase| Sending {
        phase,
        iteration: 1,
        remaining: 0,
        dirty_rate: 0,
        throughput: 0,
        downtime_limit_ms: 500,
        post_copy: false,
    });
    s
}

/// The same guest as host2 sees it.
fn receiving(stage: Option<Stage>) -> Situation {
    let mut s = running();
    asked(&mut s);
    s.me = fixture::host("host2");
    s.boot = fixture::boot("host2", 1);
    s.served = [(fixture::volume("a"), Some(Epoch(1)))].into();
    s.elsewhere = Some(RunElsewhere {
        machine_type: "pc-q35-10.0".into(),
        cpu: model::CpuModel::Host,
        boot_generation: 1,
    });
    let facts =
        |stage| MachineFacts { epoch: Epoch(2), stage, mirrors: [].into(), ..s.machine.clone().unwrap() };
    s.machine = stage.map(facts);
    s.peer = None;
    s
}

/// Host2 has become its owner.
fn arriving(stage: Stage) -> Situation {
    let mut s = receiving(Some(stage));
    s.assignment = handed_over(&sending(None), &fixture::host("host2"));
    for set in s.in_sync.values_mut() {
        set.epoch = Epoch(2);
    }
    s.peer = Some(serving("host1"));
    s
}

/// What is left of it on host1.
fn left(phase: SendPhase) -> Situation {
    let mut s = sending(Some(phase));
    s.machine.as_mut().unwrap().stage = Stage::Left;
    s.assignment = handed_over(&s, &fixture::host("host2"));
    s.peer = None;
    s
}

#[test]
fn a_guest_is_received_sent_handed_over_and_let_run() {
    let receive =
        Step::Receive { machine_type: "pc-q35-10.0".into(), cpu: model::CpuModel::Host, boot_generation: 1 };
    assert_eq!(next(&receiving(None)), receive);
    // A daemon that began anew tells again where the machine waits.
    assert_eq!(next(&receiving(Some(Stage::Incoming))), receive);
    let told = Situation { incoming: sending(None).incoming, ..receiving(Some(Stage::Incoming)) };
    assert_eq!(next(&told), rest(Rest::Idle));
    let to = ([10, 0, 0, 2], 7500).into();
    assert_eq!(next(&sending(None)), Step::Send { to });
    assert_eq!(next(&sending(Some(SendPhase::Memory))), rest(Rest::Running));
    let Step::HandOver { next: owned } = next(&sending(Some(SendPhase::AtSwitchover))) else { panic!() };
    assert_eq!((owned.host.as_str(), owned.epoch, owned.handover), ("host2", Epoch(2), None));
    assert_eq!(owned.handed_over_by, Some(replica("host1", 1)));
    assert!(matches!(next(&arriving(Stage::Incoming)), Step::Rest { rest: Rest::Waiting(_), .. }));
    let mirror_to = Some(replica("host1", 1));
    assert_eq!(next(&arriving(Stage::Arrived)), Step::Arrive { mirror_to });
    // Its replica there is served at once, while the rest is sent.
    assert_eq!(next(&left(SendPhase::Delivering)), Step::Serve { volume: fixture::volume("a") });
    assert_eq!(next(&left(SendPhase::Delivered)), Step::End { why: ExitReason::Moved });
}

#[test]
fn whoever_goes_on_after_the_transaction_delivers_the_guest() {
    let mut s = left(SendPhase::AtSwitchover);
    s.machine.as_mut().unwrap().stage = Stage::Running;
    assert_eq!(next(&s), Step::Deliver);
}

#[test]
fn a_machine_that_could_run_by_itself_after_the_transaction_is_ended() {
    for phase in [SendPhase::Memory, SendPhase::Failed("gone".into())] {
        assert_eq!(next(&left(phase)), Step::End { why: ExitReason::Disowned });
    }
}

#[test]
fn without_a_session_a_guest_is_sent_on_but_not_begun_and_not_handed_over() {
    let without = |phase| {
        let mut s = sending(phase);
        s.authority = Authority::Confirmed;
        next(&s)
    };
    assert_eq!(without(Some(SendPhase::Memory)), rest(Rest::Running), "its daemon may just have started");
    assert_eq!(
        without(Some(SendPhase::AtSwitchover)),
        Step::CancelSend { gave_up: None },
        "it runs meanwhile"
    );
    assert_eq!(without(None), rest(Rest::Running));
}

#[test]
fn nothing_is_sent_or_handed_over_when_it_would_leave_something_behind() {
    let check = |change: fn(&mut Situation), why: &str| {
        for phase in [SendPhase::Memory, SendPhase::AtSwitchover] {
            let mut s = sending(Some(phase));
            change(&mut s);
            let gave_up = Some((JOB, why.to_owned()));
            assert_eq!(next(&s), Step::CancelSend { gave_up });
        }
        let mut s = sending(None);
        change(&mut s);
        assert_eq!(next(&s), rest(Rest::Running), "{why}");
    };
    let alone = |s: &mut Situation| {
        s.in_sync.values_mut().for_each(|set| set.members = [replica("host1", 1)].into());
        s.machine.as_mut().unwrap().mirrors.clear();
        s.peer.as_mut().unwrap().serves = false;
    };
    check(alone, "the replica on host2 is not in sync");
}

#[test]
fn what_is_taken_back_stays_where_it_is() {
    for change in [(|s: &mut Situation| s.assignment.handover = None) as fn(&mut Situation), |s| {
        s.spec.boot_generation += 1
    }] {
        let mut s = sending(Some(SendPhase::AtSwitchover));
        change(&mut s);
        assert_eq!(next(&s), Step::CancelSend { gave_up: None });
    }
    let mut s = receiving(Some(Stage::Incoming));
    s.assignment.handover = None;
    assert_eq!(next(&s), Step::End { why: ExitReason::Disowned });
}

#[test]
fn a_way_that_broke_is_forgotten_when_nobody_asks_any_more() {
    let mut s = sending(Some(SendPhase::Failed("connection reset".into())));
    s.gave_up_sending = Some(JOB);
    assert_eq!(next(&s), rest(Rest::Running), "whoever asked is to read why");
    s.assignment.handover = None;
    assert_eq!(next(&s), Step::CancelSend { gave_up: None });
}

#[test]
fn a_way_that_breaks_is_tried_again_at_another_address_and_not_for_ever() {
    let broken = || SendPhase::Failed("connection reset".into());
    let mut s = sending(Some(broken()));
    (s.sends, s.sent_to) = (1, s.incoming);
    assert_eq!(next(&s), rest(Rest::Running), "the machine there has ended; another one comes");
    let to = ([10, 0, 0, 2], 7501).into();
    s.incoming = Some(to);
    assert_eq!(next(&s), Step::Send { to });
    s.sends = SENDS_MAX;
    let gave_up = Some((JOB, "connection reset".to_owned()));
    assert_eq!(next(&s), Step::CancelSend { gave_up });
    s.gave_up_sending = Some(JOB);
    assert_eq!(next(&s), rest(Rest::Running));
}

#[test]
fn a_guest_that_does_not_arrive_is_started_anew_from_the_replica() {
    let mut s = arriving(Stage::Incoming);
    s.arriving_since = Some(Timestamp::UNIX_EPOCH);
    s.now = Timestamp::UNIX_EPOCH + ARRIVES_WITHIN;
    assert_eq!(next(&s), Step::End { why: ExitReason::Crashed });
    s.machine = None;
    assert_eq!(next(&s), Step::TakeOver { keep: Some(replica("host1", 1)) });
}

#[test]
fn an_old_owner_that_does_not_take_writes_is_let_go_before_the_guest_runs() {
    let refuses = |s: &mut Situation| s.mirror_back_failed = true;
    let lost = |s: &mut Situation| s.peer.as_mut().unwrap().liveness = Liveness::Lost;
    for change in [refuses as fn(&mut Situation), lost] {
        let mut s = arriving(Stage::Arrived);
        change(&mut s);
        assert_eq!(next(&s), Step::ClaimAlone);
        s.in_sync.values_mut().for_each(|set| set.members = [replica("host2", 1)].into());
        assert_eq!(next(&s), Step::Arrive { mirror_to: None });
    }
}

#[test]
fn a_host_that_comes_to_own_the_guest_for_another_reason_starts_it_itself() {
    let mut s = arriving(Stage::Incoming);
    s.assignment.handed_over_by = None;
    assert_eq!(next(&s), Step::End { why: ExitReason::Disowned });
}

#[test]
fn a_guest_on_local_disks_is_not_waited_for() {
    let mut s = receiving(None);
    s.elsewhere = None;
    assert_eq!(next(&s), rest(Rest::Idle));
    s.spec.disks.iter_mut().for_each(|disk| disk.pool = Pool::Mirror);
}
