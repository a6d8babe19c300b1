use jiff::SignedDuration;
use model::ReplicaFile;

use super::super::tests::{replica, running};
use super::super::{MirrorFacts, PeerFile, Rest, next};
use super::*;
use crate::fixture;

/// host1 goes on alone, host2 serves the file that was in sync, and what changed is recorded.
fn alone() -> Situation {
    let mut s = running();
    let volume = fixture::volume("a");
    s.in_sync.get_mut(&volume).unwrap().members = [replica("host1", 1)].into();
    let machine = s.machine.as_mut().unwrap();
    machine.mirrors.clear();
    machine.records.insert(volume, record("host2", 1, "7-42"));
    s.peer.as_mut().unwrap().files.insert(volume, PeerFile { file: "7-42".into(), is_blank: false });
    s
}

fn record(host: &str, boot: u32, file: &str) -> ReplicaFile {
    ReplicaFile { host: fixture::host(host), boot_id: fixture::boot(host, boot), file: file.into() }
}

fn check(change: impl FnOnce(&mut Situation), how: FillHow, why: &str) {
    let mut s = alone();
    change(&mut s);
    let Step::Attach { volumes, target, how: chosen, why: reason } = next(&s) else {
        panic!("{:?}", next(&s));
    };
    assert_eq!((chosen, reason.as_str()), (how, why));
    assert_eq!(volumes, [fixture::volume("a")]);
    assert_eq!(target.host, fixture::host("host2"));
}

fn set_record(s: &mut Situation, record: Option<ReplicaFile>) {
    let records = &mut s.machine.as_mut().unwrap().records;
    records.clear();
    records.extend(record.map(|record| (fixture::volume("a"), record)));
}

fn file(s: &mut Situation) -> &mut PeerFile {
    s.peer.as_mut().unwrap().files.get_mut(&fixture::volume("a")).unwrap()
}

#[test]
fn a_replica_of_which_all_changes_are_recorded_gets_those() {
    check(|_| {}, FillHow::Changed, "all writes since host2 was in sync are recorded");
}

#[test]
fn a_record_is_believed_only_of_the_very_replica_that_it_is_about() {
    let compared = |change: fn(&mut Situation), why| check(change, FillHow::Compared, why);
    compared(|s| set_record(s, None), "nothing was recorded since it was last in sync");
    compared(
        |s| set_record(s, Some(record("host3", 1, "7-42"))),
        "what was recorded is about the replica on host3",
    );
    compared(
        |s| s.peer.as_mut().unwrap().liveness = model::Liveness::Live(fixture::boot("host2", 2)),
        "host2 started anew since it was last in sync",
    );
    compared(|s| file(s).file = "7-43".into(), "host2 has another file than the one that was in sync");
    compared(|s| s.peer.as_mut().unwrap().files.clear(), "host2 does not say which file it serves");
}

#[test]
fn what_somebody_doubts_is_compared() {
    let doubt = |s: &mut Situation| s.in_sync.get_mut(&fixture::volume("a")).unwrap().doubted = true;
    check(doubt, FillHow::Compared, "somebody asked for it");
    let blank = |s: &mut Situation| {
        doubt(s);
        file(s).is_blank = true;
    };
    check(blank, FillHow::Whole, "the file on host2 is new");
}

#[test]
fn a_new_file_gets_everything() {
    let blank = |s: &mut Situation| *file(s) = PeerFile { file: "8-1".into(), is_blank: true };
    check(blank, FillHow::Whole, "the file on host2 is new");
    let unrecorded = |s: &mut Situation| {
        blank(s);
        set_record(s, None);
    };
    check(unrecorded, FillHow::Whole, "the file on host2 is new");
}

#[test]
fn what_failed_several_times_gives_way_to_what_costs_more() {
    let after =
        |ways: &'static [FillHow]| move |s: &mut Situation| s.filled_in_vain = ways.iter().copied().collect();
    let failed = "to send only what changed failed several times";
    check(after(&[FillHow::Changed]), FillHow::Compared, failed);
    let failed = "comparing the replicas failed several times";
    check(after(&[FillHow::Changed, FillHow::Compared]), FillHow::Whole, failed);
    check(after(&[FillHow::Compared]), FillHow::Changed, "all writes since host2 was in sync are recorded");
}

#[test]
fn a_fill_that_failed_is_not_begun_again_at_once() {
    let mut s = alone();
    s.no_fill_before = Some(s.now + SignedDuration::from_secs(1));
    assert_eq!(next(&s).rest(), Some(&Rest::Running));
    s.now += SignedDuration::from_secs(1);
    assert!(matches!(next(&s), Step::Attach { .. }));
}

#[test]
fn volumes_that_need_different_ways_are_begun_one_after_the_other() {
    let mut s = alone();
    let (a, b) = (fixture::volume("a"), fixture::volume("b"));
    let second = model::DiskSpec { volume: b, ..s.spec.disks[0].clone() };
    s.spec.disks.push(second);
    let set = model::InSync { volume: b, ..s.in_sync[&a].clone() };
    s.in_sync.insert(b, set);
    let Step::Attach { volumes, how: FillHow::Changed, .. } = next(&s) else { panic!("{:?}", next(&s)) };
    assert_eq!(volumes, [a]);
    let filling =
        MirrorFacts { state: super::super::Mirror::Filling, target_boot: Some(fixture::boot("host2", 1)) };
    s.machine.as_mut().unwrap().mirrors.insert(a, filling);
    let Step::Attach { volumes, how: FillHow::Compared, .. } = next(&s) else { panic!("{:?}", next(&s)) };
    assert_eq!(volumes, [b]);
}
