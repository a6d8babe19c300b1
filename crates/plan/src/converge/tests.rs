use super::*;
use crate::fixture;
use jiff::SignedDuration;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn replica(name: &str, boot: u32) -> Replica {
    Replica { host: fixture::host(name), boot_id: fixture::boot(name, boot) }
}

/// The guest `a` as its owner host1 sees it: mirrored to host2, in sync, running.
fn running() -> Situation {
    let mut view = fixture::cluster(2);
    fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
    let name = "a".parse().unwrap();
    let volume = fixture::volume("a");
    let mirror = MirrorFacts { state: Mirror::Ready, target_boot: Some(fixture::boot("host2", 1)) };
    Situation {
        me: fixture::host("host1"),
        boot: fixture::boot("host1", 1),
        spec: view.guests[&name].clone(),
        assignment: view.assignments[&name].clone(),
        in_sync: view.in_sync.clone(),
        machine: Some(MachineFacts {
            epoch: Epoch(1),
            boot_generation: 1,
            resumed: true,
            mirrors: [(volume, mirror)].into(),
        }),
        files: [volume].into(),
        served: BTreeMap::new(),
        peer: Some(Peer {
            host: fixture::host("host2"),
            liveness: Liveness::Live(fixture::boot("host2", 1)),
            serves: true,
            gave_up: false,
        }),
        authority: Authority::Session,
        promised_until: None,
        exit: None,
        ended_cleanly: false,
        not_before: None,
        shutdown_asked_at: None,
        now: NOW,
    }
}

fn set_members(s: &mut Situation, members: &[Replica]) {
    let set = s.in_sync.get_mut(&fixture::volume("a")).unwrap();
    set.members = members.iter().cloned().collect();
}

fn mirror(s: &mut Situation) -> &mut MirrorFacts {
    s.machine.as_mut().unwrap().mirrors.values_mut().next().unwrap()
}

/// The same guest after host1 was lost and host2 promoted, as host2 sees it.
fn promoted() -> Situation {
    let mut s = running();
    s.me = fixture::host("host2");
    s.boot = fixture::boot("host2", 1);
    s.assignment.host = fixture::host("host2");
    s.assignment.secondary = Some(fixture::host("host1"));
    s.assignment.epoch = Epoch(2);
    s.machine = None;
    s.served = [(fixture::volume("a"), Some(Epoch(1)))].into();
    s.peer =
        Some(Peer { host: fixture::host("host1"), liveness: Liveness::Lost, serves: false, gave_up: true });
    s
}

fn is_waiting(step: &Step) -> bool {
    matches!(step, Step::Rest { rest: Rest::Waiting(_), .. })
}

#[test]
fn a_running_guest_in_sync_rests() {
    assert_eq!(next(&running()), rest(Rest::Running));
}

#[test]
fn a_new_guest_makes_its_volumes_then_starts_then_fills_its_secondary() {
    let mut s = running();
    s.machine = None;
    s.in_sync.clear();
    s.files.clear();
    assert_eq!(next(&s), Step::MakeVolumes { volumes: vec![fixture::volume("a")] });
    s = running();
    let machine = s.machine.take();
    set_members(&mut s, &[replica("host1", 1)]);
    assert_eq!(next(&s), Step::Start { mirror_to: None });
    s.machine = machine;
    s.machine.as_mut().unwrap().mirrors.clear();
    assert_eq!(next(&s), Step::Attach { volumes: vec![fixture::volume("a")], target: replica("host2", 1) });
}

#[test]
fn a_filled_secondary_is_admitted_only_in_the_boot_it_was_filled_in() {
    let mut s = running();
    set_members(&mut s, &[replica("host1", 1)]);
    mirror(&mut s).state = Mirror::Filling;
    assert_eq!(next(&s), rest(Rest::Running));
    mirror(&mut s).state = Mirror::Ready;
    assert_eq!(next(&s), Step::Admit { replica: replica("host2", 1) });
    s.peer.as_mut().unwrap().liveness = Liveness::Live(fixture::boot("host2", 2));
    assert_eq!(next(&s), Step::Detach { volumes: vec![fixture::volume("a")] });
}

#[test]
fn a_mirror_found_at_adoption_is_not_trusted_unless_the_record_counts_on_it() {
    let mut s = running();
    mirror(&mut s).target_boot = None;
    assert_eq!(next(&s), rest(Rest::Running));
    set_members(&mut s, &[replica("host1", 1)]);
    assert_eq!(next(&s), Step::Detach { volumes: vec![fixture::volume("a")] });
}

#[test]
fn a_lost_silent_or_rebooted_secondary_is_let_go() {
    let check = |change: fn(&mut Situation), why: &str| {
        let mut s = running();
        change(&mut s);
        assert_eq!(next(&s), Step::LetGo { why: why.into() });
    };
    check(
        |s| {
            let peer = s.peer.as_mut().unwrap();
            (peer.liveness, peer.serves) = (Liveness::Lost, false);
        },
        "host2 is lost",
    );
    check(|s| s.peer.as_mut().unwrap().gave_up = true, "host2 does not answer");
    check(
        |s| s.peer.as_mut().unwrap().liveness = Liveness::Live(fixture::boot("host2", 2)),
        "host2 started anew",
    );
    check(|s| mirror(s).state = Mirror::Broken, "the mirror to host2 failed");
    check(|s| s.machine.as_mut().unwrap().mirrors.clear(), "the mirror to host2 is gone");
    check(|s| s.peer = None, "host2 is no longer its secondary's host");
}

#[test]
fn a_secondary_that_only_lost_its_session_is_kept() {
    let mut s = running();
    s.peer.as_mut().unwrap().liveness = Liveness::Lost;
    assert_eq!(next(&s), rest(Rest::Running));
}

#[test]
fn without_authority_a_guest_ends_unless_nobody_else_could_take_it() {
    let mut s = running();
    s.authority = Authority::None;
    assert_eq!(next(&s), Step::End { why: ExitReason::Disowned });
    s.authority = Authority::Confirmed;
    assert_eq!(next(&s), rest(Rest::Running));
    s.authority = Authority::None;
    set_members(&mut s, &[replica("host1", 1)]);
    s.machine.as_mut().unwrap().mirrors.clear();
    assert_eq!(next(&s), rest(Rest::Running));
}

#[test]
fn nothing_starts_without_a_session() {
    let mut s = running();
    s.machine = None;
    for authority in [Authority::None, Authority::Confirmed] {
        s.authority = authority;
        assert!(is_waiting(&next(&s)));
    }
}

#[test]
fn a_promoted_secondary_takes_over_before_it_starts() {
    let mut s = promoted();
    assert_eq!(next(&s), Step::TakeOver);
    s.promised_until = Some(NOW + SignedDuration::from_secs(2));
    assert!(is_waiting(&next(&s)));
    s.now = NOW + SignedDuration::from_secs(2);
    assert_eq!(next(&s), Step::TakeOver);
    s.served.clear();
    s.in_sync.get_mut(&fixture::volume("a")).unwrap().epoch = Epoch(2);
    assert_eq!(next(&s), Step::ClaimAlone);
    set_members(&mut s, &[replica("host2", 1)]);
    assert_eq!(next(&s), Step::Start { mirror_to: None });
}

#[test]
fn an_old_owner_ends_its_machine_and_then_serves() {
    let mut s = running();
    s.assignment.host = fixture::host("host2");
    s.assignment.secondary = Some(fixture::host("host1"));
    s.assignment.epoch = Epoch(2);
    s.in_sync.get_mut(&fixture::volume("a")).unwrap().epoch = Epoch(2);
    set_members(&mut s, &[replica("host2", 1)]);
    assert_eq!(next(&s), Step::End { why: ExitReason::Disowned });
    s.machine = None;
    assert_eq!(next(&s), Step::Serve { volume: fixture::volume("a") });
    s.served = [(fixture::volume("a"), Some(Epoch(2)))].into();
    assert_eq!(next(&s), rest(Rest::Idle));
}

#[test]
fn an_export_of_an_older_epoch_is_replaced() {
    let mut s = running();
    s.me = fixture::host("host2");
    s.boot = fixture::boot("host2", 1);
    s.machine = None;
    for served in [None, Some(None), Some(Some(Epoch(0)))] {
        s.served = served.map(|epoch| (fixture::volume("a"), epoch)).into_iter().collect();
        assert_eq!(next(&s), Step::Serve { volume: fixture::volume("a") });
    }
}

#[test]
fn a_missing_replica_that_is_counted_on_is_never_replaced_by_an_empty_one() {
    let mut s = running();
    s.me = fixture::host("host2");
    s.boot = fixture::boot("host2", 1);
    s.machine = None;
    s.files.clear();
    assert!(matches!(next(&s), Step::Rest { rest: Rest::Stuck(_), .. }));
    s.boot = fixture::boot("host2", 2);
    assert_eq!(next(&s), Step::MakeReplica { volume: fixture::volume("a") });
}

#[test]
fn a_missing_file_of_the_owner_is_a_matter_for_a_person() {
    let mut s = running();
    s.machine = None;
    s.files.clear();
    assert!(matches!(next(&s), Step::Rest { rest: Rest::Stuck(_), .. }));
}

#[test]
fn a_clean_stop_and_start_keeps_the_secondary_in_sync() {
    let mut s = running();
    s.spec.power = PowerWish::Stopped;
    assert_eq!(next(&s), Step::Shutdown);
    let asked_again = NOW + SignedDuration::from_secs(27);
    s.shutdown_asked_at = Some((NOW, asked_again));
    s.now = NOW + SignedDuration::from_secs(29);
    assert!(matches!(next(&s), Step::Rest { rest: Rest::Stopping, .. }));
    s.now = NOW + SignedDuration::from_secs(30);
    assert_eq!(next(&s), Step::End { why: ExitReason::Killed });
    s.machine = None;
    assert_eq!(next(&s), rest(Rest::Stopped));
    s.spec.power = PowerWish::Running;
    s.ended_cleanly = true;
    assert_eq!(next(&s), Step::Start { mirror_to: Some(replica("host2", 1)) });
    s.ended_cleanly = false;
    assert_eq!(next(&s), Step::ClaimAlone);
    s.ended_cleanly = true;
    s.peer.as_mut().unwrap().liveness = Liveness::Live(fixture::boot("host2", 2));
    assert_eq!(next(&s), Step::ClaimAlone);
}

#[test]
fn the_owner_starts_again_after_its_own_reboot() {
    let mut s = running();
    s.machine = None;
    s.boot = fixture::boot("host1", 2);
    assert_eq!(next(&s), Step::ClaimAlone);
}

#[test]
fn a_restart_is_a_stop_and_a_start() {
    let mut s = running();
    s.spec.boot_generation = 2;
    assert_eq!(next(&s), Step::Shutdown);
}

#[test]
fn a_guest_that_shut_itself_down_stays_down_until_it_is_started_again() {
    let mut s = running();
    s.machine = None;
    s.exit = Some((1, ExitReason::GuestShutdown));
    s.ended_cleanly = true;
    assert_eq!(next(&s), rest(Rest::Stopped));
    s.spec.boot_generation = 2;
    assert!(matches!(next(&s), Step::Start { .. }));
}

#[test]
fn a_machine_that_never_ran_is_ended() {
    let mut s = running();
    s.machine.as_mut().unwrap().resumed = false;
    assert_eq!(next(&s), Step::End { why: ExitReason::Crashed });
}

#[test]
fn a_deleted_guest_leaves_nothing() {
    let mut s = running();
    s.spec.deleting = true;
    assert_eq!(next(&s), Step::End { why: ExitReason::Stopped });
    s.machine = None;
    assert_eq!(next(&s), Step::DeleteVolumes);
    s.files.clear();
    assert_eq!(next(&s), rest(Rest::Deleted));
}
