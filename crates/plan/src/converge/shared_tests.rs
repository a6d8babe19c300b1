//! The steps for a guest in storage that hosts share.

use model::{Handover, JobId, MoveOptions, Pool};

use super::tests::{replica, running};
use super::*;
use crate::fixture;

/// The guest `a` as its owner host1 sees it: running, its disk in a folder that the hosts share.
fn shared() -> Situation {
    let mut s = running();
    s.spec.disks[0].pool = Pool::Shared;
    s.assignment.secondary = None;
    s.peer = None;
    s.machine.as_mut().unwrap().mirrors.clear();
    set(&mut s).members = [replica("host1", 1)].into();
    s
}

fn set(s: &mut Situation) -> &mut InSync {
    s.in_sync.get_mut(&fixture::volume("a")).unwrap()
}

/// The same guest after host1 was lost, and proven to be dead, as host2 sees it.
fn recovered() -> Situation {
    let mut s = shared();
    (s.me, s.boot) = (fixture::host("host2"), fixture::boot("host2", 1));
    (s.assignment.host, s.assignment.epoch) = (fixture::host("host2"), Epoch(2));
    s.machine = None;
    s
}

/// The same guest on its way from host1 to host2 while it runs, as host1 sees it.
fn sending(phase: SendPhase) -> Situation {
    let mut s = shared();
    let (to, job) = (fixture::host("host2"), JobId(uuid::Uuid::nil()));
    let options = MoveOptions::LIVE;
    s.assignment.handover = Some(Handover { to: to.clone(), how: HandoverKind::Live, job, options });
    let liveness = Liveness::Live(fixture::boot("host2", 1));
    s.peer =
        Some(Peer { host: to, liveness, serves: false, gave_up: false, full: false, files: BTreeMap::new() });
    s.incoming = Some(([10, 0, 0, 2], 7500).into());
    s.machine.as_mut().unwrap().sending = Some(Sending {
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

fn is_waiting(step: &Step) -> bool {
    matches!(step, Step::Rest { rest: Rest::Waiting(_), .. })
}

#[test]
fn a_guest_that_runs_is_left_alone_and_ends_with_its_hosts_session() {
    let mut s = shared();
    assert_eq!(next(&s), rest(Rest::Running));
    s.authority = Authority::None;
    assert_eq!(next(&s), Step::End { why: ExitReason::Disowned }, "there is nobody who could confirm");
    s.machine = None;
    assert!(is_waiting(&next(&s)), "and it is not started before the session is back");
    s.authority = Authority::Session;
    assert_eq!(next(&s), Step::Start { mirror_to: None });
}

#[test]
fn a_new_owner_records_itself_before_it_starts_the_guest() {
    let mut s = recovered();
    assert_eq!(next(&s), Step::TakeOver { keep: None });
    (set(&mut s).epoch, set(&mut s).members) = (Epoch(2), [replica("host2", 1)].into());
    assert_eq!(next(&s), Step::Start { mirror_to: None });
    // After a reboot of its own.
    s.boot = fixture::boot("host2", 2);
    assert_eq!(next(&s), Step::ClaimAlone);
}

#[test]
fn what_cannot_be_seen_is_neither_made_nor_started_nor_taken_for_deleted() {
    let mut s = recovered();
    s.files.clear();
    s.pool_trouble = Some("it is not mounted".into());
    assert_eq!(next(&s), rest(Rest::Waiting("it is not mounted".into())));
    s.in_sync.clear();
    assert_eq!(next(&s), rest(Rest::Waiting("it is not mounted".into())), "nothing is made elsewhere");
    s.spec.deleting = true;
    assert_eq!(next(&s), rest(Rest::Waiting("it is not mounted".into())));
    s.pool_trouble = None;
    assert_eq!(next(&s), rest(Rest::Deleted));
    s = recovered();
    s.files.clear();
    assert!(matches!(next(&s), Step::Rest { rest: Rest::Stuck(_), .. }), "{:?}", next(&s));
}

#[test]
fn another_host_makes_serves_and_deletes_nothing() {
    let mut s = recovered();
    (s.assignment.host, s.assignment.epoch) = (fixture::host("host1"), Epoch(1));
    s.dropped = [fixture::volume("a")].into();
    for deleting in [false, true] {
        s.spec.deleting = deleting;
        assert_eq!(next(&s), rest(Rest::Idle));
    }
}

#[test]
fn it_is_sent_to_any_host_and_the_new_owner_has_no_secondary() {
    let mut s = sending(SendPhase::AtSwitchover);
    let Step::HandOver { next: to } = next(&s) else { panic!("{:?}", next(&s)) };
    assert_eq!((to.host.as_str(), to.epoch, &to.secondary), ("host2", Epoch(2), &None));
    s.peer.as_mut().unwrap().liveness = Liveness::Lost;
    assert!(matches!(next(&s), Step::CancelSend { .. }));
    // It arrives.
    s = sending(SendPhase::AtSwitchover);
    s.assignment = to;
    (s.me, s.boot) = (fixture::host("host2"), fixture::boot("host2", 1));
    (set(&mut s).epoch, set(&mut s).members) = (Epoch(2), [replica("host2", 1)].into());
    let machine = s.machine.as_mut().unwrap();
    (machine.epoch, machine.stage, machine.sending) = (Epoch(2), Stage::Arrived, None);
    assert_eq!(next(&s), Step::Arrive { mirror_to: None });
    // Or it does not, and is started anew: its old host's machine reaches no disk.
    s.machine = None;
    assert_eq!(next(&s), Step::Start { mirror_to: None });
}

#[test]
fn disks_that_were_taken_away_for_nothing_are_given_back() {
    let back = Step::CancelSend { gave_up: None };
    for phase in [SendPhase::Memory, SendPhase::Failed("it broke".into())] {
        let mut s = sending(phase);
        assert_ne!(next(&s), back);
        s.machine.as_mut().unwrap().withheld = true;
        assert_eq!(next(&s), back);
        s.assignment.handover = None;
        assert_eq!(next(&s), back);
    }
    let mut s = sending(SendPhase::AtSwitchover);
    s.machine.as_mut().unwrap().withheld = true;
    assert!(matches!(next(&s), Step::HandOver { .. }), "whether it was made is found out");
}
