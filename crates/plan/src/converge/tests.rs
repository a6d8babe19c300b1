use super::*;
use crate::fixture;
use jiff::SignedDuration;
use model::Pool;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

pub(super) fn replica(name: &str, boot: u32) -> Replica {
    Replica { host: fixture::host(name), boot_id: fixture::boot(name, boot) }
}

/// The guest `a` as its owner host1 sees it: mirrored to host2, in sync, running.
pub(super) fn running() -> Situation {
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
            stage: Stage::Running,
            mirrors: [(volume, mirror)].into(),
            records: BTreeMap::new(),
            no_room: false,
            sending: None,
            withheld: false,
        }),
        files: [volume].into(),
        short: BTreeSet::new(),
        served: BTreeMap::new(),
        dropped: BTreeSet::new(),
        pool_trouble: None,
        peer: Some(serving("host2")),
        former: None,
        authority: Authority::Session,
        promised_until: None,
        exit: None,
        ended_cleanly: false,
        not_before: None,
        starts_after: None,
        shutdown_asked_at: None,
        elsewhere: None,
        incoming: None,
        sent_to: None,
        sends: 0,
        gave_up_sending: None,
        arriving_since: None,
        mirror_back_failed: false,
        filled_in_vain: BTreeSet::new(),
        no_fill_before: None,
        has_room: true,
        reset: None,
        deaf: false,
        now: NOW,
    }
}

/// A host that lives, and serves what it should.
pub(super) fn serving(name: &str) -> Peer {
    Peer {
        host: fixture::host(name),
        liveness: Liveness::Live(fixture::boot(name, 1)),
        serves: true,
        gave_up: false,
        full: false,
        files: BTreeMap::new(),
    }
}

/// What is done when nothing is known of the secondary's replica.
fn compare(host: &str) -> Step {
    Step::Attach {
        volumes: vec![fixture::volume("a")],
        target: replica(host, 1),
        how: FillHow::Compared,
        why: "nothing was recorded since it was last in sync".into(),
    }
}

/// The same guest while host3 is to take host2's place, as host1 sees it.
fn replacing() -> Situation {
    let mut s = running();
    s.assignment.secondary = Some(fixture::host("host3"));
    s.former = s.peer.take();
    s.peer = Some(Peer { serves: false, ..serving("host3") });
    s
}

/// The same guest while host1 is to hand it over to host2, as host1 sees it.
fn handing_over() -> Situation {
    let mut s = running();
    let job = model::JobId(uuid::Uuid::nil());
    s.assignment.handover = Some(model::Handover {
        to: fixture::host("host2"),
        how: HandoverKind::Restart,
        job,
        options: model::MoveOptions::RESTART,
    });
    s
}

/// The same guest after host1 has handed it over, as host2 sees it.
fn handed_over() -> Situation {
    let mut s = promoted();
    s.assignment.handed_over_by = Some(replica("host1", 1));
    s.peer = Some(Peer { serves: false, ..serving("host1") });
    s.exit = Some((1, ExitReason::Stopped));
    s.ended_cleanly = true;
    s
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
    s.peer = Some(Peer { liveness: Liveness::Lost, serves: false, gave_up: true, ..serving("host1") });
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
    assert_eq!(next(&s), compare("host2"));
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
    assert_eq!(next(&s), Step::TakeOver { keep: None });
    s.promised_until = Some(NOW + SignedDuration::from_secs(2));
    assert!(is_waiting(&next(&s)));
    s.now = NOW + SignedDuration::from_secs(2);
    assert_eq!(next(&s), Step::TakeOver { keep: None });
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
fn a_guest_without_room_goes_on_when_there_is_some() {
    let mut s = running();
    s.machine.as_mut().unwrap().no_room = true;
    assert_eq!(next(&s), Step::GoOn);
    s.has_room = false;
    assert!(is_waiting(&next(&s)));
    // Its secondary is looked after all the same, and it can be stopped.
    s.peer.as_mut().unwrap().gave_up = true;
    assert!(matches!(next(&s), Step::LetGo { .. }));
    s.peer.as_mut().unwrap().gave_up = false;
    s.spec.power = PowerWish::Stopped;
    assert_eq!(next(&s), Step::Shutdown);
}

#[test]
fn a_thin_replica_on_a_full_disk_is_let_go_of_and_filled_when_there_is_room() {
    let mut s = running();
    s.peer.as_mut().unwrap().full = true;
    assert_eq!(next(&s).rest(), Some(&Rest::Running), "its room is its own");
    s.spec.disks[0].thin = true;
    assert_eq!(next(&s), Step::LetGo { why: "the disk of host2 that holds the replica is full".into() });
    set_members(&mut s, &[replica("host1", 1)]);
    assert_eq!(next(&s), Step::Detach { volumes: vec![fixture::volume("a")] });
    s.machine.as_mut().unwrap().mirrors.clear();
    assert_eq!(next(&s).rest(), Some(&Rest::Running), "it waits, and the guest does not");
    s.peer.as_mut().unwrap().full = false;
    assert!(matches!(next(&s), Step::Attach { .. }), "{:?}", next(&s));
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
fn a_guest_on_local_disks_that_does_not_run_ends_the_mirror_of_its_move() {
    let mut s = Situation { machine: None, ..running() };
    s.spec.disks[0].pool = Pool::Local;
    s.assignment.secondary = None;
    s.spec.power = PowerWish::Stopped;
    assert_eq!(next(&s), Step::ClaimAlone);
    s.spec.power = PowerWish::Running;
    s.exit = Some((s.spec.boot_generation, ExitReason::GuestShutdown));
    assert_eq!(next(&s), Step::ClaimAlone);
    set_members(&mut s, &[replica("host1", 1)]);
    assert_eq!(next(&s), rest(Rest::Stopped));
}

#[test]
fn a_machine_that_never_ran_is_ended() {
    let mut s = running();
    s.machine.as_mut().unwrap().stage = Stage::Prelaunch;
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

#[test]
fn the_old_secondary_is_kept_until_the_new_one_serves() {
    let mut s = replacing();
    assert_eq!(next(&s), rest(Rest::Running));
    s.peer.as_mut().unwrap().serves = true;
    assert_eq!(next(&s), Step::LetGo { why: "host3 takes the place of host2".into() });
    set_members(&mut s, &[replica("host1", 1)]);
    s.former = None;
    // The mirror to host2 is of no use any more, also when a daemon that starts anew finds it.
    assert_eq!(next(&s), Step::Detach { volumes: vec![fixture::volume("a")] });
    mirror(&mut s).target_boot = None;
    assert_eq!(next(&s), Step::Detach { volumes: vec![fixture::volume("a")] });
    s.machine.as_mut().unwrap().mirrors.clear();
    assert_eq!(next(&s), compare("host3"));
}

#[test]
fn an_old_secondary_that_is_lost_is_let_go_while_the_new_one_is_not_ready() {
    let mut s = replacing();
    s.former = Some(Peer { liveness: Liveness::Lost, serves: false, ..serving("host2") });
    assert_eq!(next(&s), Step::LetGo { why: "host2 is lost".into() });
    s.former = Some(Peer { gave_up: true, serves: false, ..serving("host2") });
    assert_eq!(next(&s), Step::LetGo { why: "host2 does not answer".into() });
}

#[test]
fn nobody_is_let_go_for_a_new_secondary_by_a_guest_that_goes_down_or_without_a_session() {
    let check = |change: fn(&mut Situation)| {
        let mut s = replacing();
        s.peer.as_mut().unwrap().serves = true;
        change(&mut s);
        assert!(!matches!(next(&s), Step::LetGo { .. }), "{:?}", next(&s));
    };
    check(|s| s.spec.power = PowerWish::Stopped);
    check(|s| s.assignment.handover = handing_over().assignment.handover);
    check(|s| s.authority = Authority::Confirmed);
}

/// host2 has been replaced by host3 in the assignment.
fn replaced_as_seen_by_host2() -> Situation {
    let mut s = replacing();
    s.me = fixture::host("host2");
    s.boot = fixture::boot("host2", 1);
    s.machine = None;
    (s.peer, s.former) = (None, None);
    s.served = [(fixture::volume("a"), Some(Epoch(1)))].into();
    s
}

#[test]
fn a_replaced_secondary_serves_for_as_long_as_it_is_counted_on() {
    let mut s = replaced_as_seen_by_host2();
    s.dropped = [fixture::volume("a")].into();
    assert_eq!(next(&s), rest(Rest::Idle));
    s.served.clear();
    assert_eq!(next(&s), Step::Serve { volume: fixture::volume("a") });
}

#[test]
fn a_replica_that_counts_for_nothing_is_withdrawn_and_deleted_only_when_a_record_says_so() {
    let mut s = replaced_as_seen_by_host2();
    set_members(&mut s, &[replica("host1", 1)]);
    assert_eq!(next(&s), Step::Withdraw { volume: fixture::volume("a") });
    s.served.clear();
    assert_eq!(next(&s), rest(Rest::Idle));
    s.dropped = [fixture::volume("a")].into();
    assert_eq!(next(&s), Step::DropReplica { volume: fixture::volume("a") });
    // The file is gone, the record is not.
    s.files.clear();
    assert_eq!(next(&s), Step::DropReplica { volume: fixture::volume("a") });
    // Assigned again meanwhile.
    s.assignment.secondary = Some(fixture::host("host2"));
    assert_eq!(next(&s), Step::MakeReplica { volume: fixture::volume("a") });
}

#[test]
fn the_replica_of_an_earlier_boot_is_not_served_for_a_guest_that_left() {
    let mut s = replaced_as_seen_by_host2();
    s.boot = fixture::boot("host2", 2);
    s.served.clear();
    assert_eq!(next(&s), rest(Rest::Idle));
}

#[test]
fn a_host_without_room_does_not_try_all_the_time() {
    let mut s = running();
    s.me = fixture::host("host2");
    s.boot = fixture::boot("host2", 2);
    s.machine = None;
    s.files.clear();
    s.not_before = Some(NOW + SignedDuration::from_secs(1));
    assert!(is_waiting(&next(&s)));
    s.now = NOW + SignedDuration::from_secs(1);
    assert_eq!(next(&s), Step::MakeReplica { volume: fixture::volume("a") });
}

#[test]
fn a_guest_that_is_to_be_handed_over_is_shut_down_and_stays_down() {
    let mut s = handing_over();
    assert_eq!(next(&s), Step::Shutdown);
    s.shutdown_asked_at = Some((NOW, NOW + SignedDuration::from_secs(29)));
    s.now = NOW + SignedDuration::from_secs(30);
    assert_eq!(next(&s), Step::End { why: ExitReason::Killed });
    s.machine = None;
    assert_eq!(next(&s), rest(Rest::Stopped));
    s.spec.boot_generation = 2;
    assert_eq!(next(&s), rest(Rest::Stopped));
}

#[test]
fn a_handover_that_is_taken_back_lets_the_guest_start_again_where_it_is() {
    let mut s = handing_over();
    s.machine = None;
    s.exit = Some((1, ExitReason::Stopped));
    s.ended_cleanly = true;
    assert_eq!(next(&s), rest(Rest::Stopped));
    s.assignment.handover = None;
    assert_eq!(next(&s), Step::Start { mirror_to: Some(replica("host2", 1)) });
}

#[test]
fn a_mirror_that_fails_while_the_guest_is_handed_over_is_let_go_in_the_record() {
    let mut s = handing_over();
    mirror(&mut s).state = Mirror::Broken;
    assert_eq!(next(&s), Step::LetGo { why: "the mirror to host2 failed".into() });
}

#[test]
fn a_guest_that_was_handed_over_starts_mirrored_and_nothing_is_copied() {
    let mut s = handed_over();
    assert!(is_waiting(&next(&s)), "host1 does not serve at the new epoch yet");
    s.peer.as_mut().unwrap().serves = true;
    assert_eq!(next(&s), Step::TakeOver { keep: Some(replica("host1", 1)) });
    s.served.clear();
    let set = s.in_sync.get_mut(&fixture::volume("a")).unwrap();
    set.epoch = Epoch(2);
    assert_eq!(next(&s), Step::Start { mirror_to: Some(replica("host1", 1)) });
    // It stopped answering between the two.
    s.peer.as_mut().unwrap().serves = false;
    assert_eq!(next(&s), Step::ClaimAlone);
}

#[test]
fn a_guest_that_was_handed_over_goes_on_alone_when_its_old_host_does_not_serve() {
    let check = |change: fn(&mut Situation)| {
        let mut s = handed_over();
        change(&mut s);
        assert_eq!(next(&s), Step::TakeOver { keep: None });
    };
    check(|s| s.peer.as_mut().unwrap().gave_up = true);
    check(|s| s.peer.as_mut().unwrap().liveness = Liveness::Lost);
    check(|s| s.peer.as_mut().unwrap().liveness = Liveness::Live(fixture::boot("host1", 2)));
    check(|s| set_members(s, &[replica("host2", 1)]));
    check(|s| s.assignment.handed_over_by = None);
    check(|s| s.peer = None);
}

#[test]
fn a_guest_that_crashed_on_its_old_host_is_filled_anew() {
    let mut s = handed_over();
    s.ended_cleanly = false;
    s.served.clear();
    s.in_sync.get_mut(&fixture::volume("a")).unwrap().epoch = Epoch(2);
    s.peer.as_mut().unwrap().serves = true;
    assert_eq!(next(&s), Step::ClaimAlone);
}

#[test]
fn the_host_that_handed_a_guest_over_serves_it_at_the_new_epoch() {
    let mut s = running();
    s.assignment.host = fixture::host("host2");
    s.assignment.secondary = Some(fixture::host("host1"));
    s.assignment.epoch = Epoch(2);
    s.assignment.handed_over_by = Some(replica("host1", 1));
    s.machine = None;
    assert_eq!(next(&s), Step::Serve { volume: fixture::volume("a") });
}

#[test]
fn a_disk_that_is_to_grow_is_let_go_of_first_and_filled_last() {
    let mut s = running();
    let volume = fixture::volume("a");
    s.short = [volume].into();
    assert_eq!(next(&s), Step::LetGo { why: "its disk grows".into() });
    set_members(&mut s, &[replica("host1", 1)]);
    assert_eq!(next(&s), Step::Detach { volumes: vec![volume] }, "a fill is broken off, too");
    s.machine.as_mut().unwrap().mirrors.clear();
    assert_eq!(next(&s), Step::Grow { volumes: vec![volume] });
    s.not_before = Some(NOW + SignedDuration::from_secs(1));
    assert_eq!(next(&s).rest(), Some(&Rest::Running), "there was no room; it is tried again");
    (s.not_before, s.short) = (None, BTreeSet::new());
    let step = next(&s);
    assert!(matches!(step, Step::Attach { .. }), "{step:?}");
}

#[test]
fn a_disk_does_not_grow_while_its_guest_changes_its_host() {
    let mut s = running();
    s.short = [fixture::volume("a")].into();
    s.spec.power = PowerWish::Stopped;
    assert_eq!(next(&s), Step::Shutdown);
}

#[test]
fn a_stopped_guests_disk_grows_before_it_starts() {
    let mut s = running();
    let volume = fixture::volume("a");
    (s.machine, s.short, s.ended_cleanly) = (None, [volume].into(), true);
    assert_eq!(next(&s), Step::ClaimAlone, "the replicas would not be the same");
    set_members(&mut s, &[replica("host1", 1)]);
    assert_eq!(next(&s), Step::Grow { volumes: vec![volume] });
    s.short.clear();
    assert_eq!(next(&s), Step::Start { mirror_to: None });
}

#[test]
fn a_secondary_grows_once_nobody_counts_on_it_and_is_served_anew() {
    let mut s = running();
    let volume = fixture::volume("a");
    (s.me, s.boot, s.machine, s.peer) = (fixture::host("host2"), fixture::boot("host2", 1), None, None);
    (s.short, s.served) = ([volume].into(), [(volume, Some(Epoch(1)))].into());
    assert_eq!(next(&s).rest(), Some(&Rest::Idle), "it is counted on");
    set_members(&mut s, &[replica("host1", 1)]);
    assert_eq!(next(&s), Step::Withdraw { volume });
    s.served.clear();
    assert_eq!(next(&s), Step::GrowReplica { volume });
    s.short.clear();
    assert_eq!(next(&s), Step::Serve { volume });
}

#[test]
fn a_resync_that_is_asked_for_lets_go_once() {
    let mut s = running();
    s.spec.resync = model::Resync { generation: 1, full: true };
    assert_eq!(next(&s), Step::LetGo { why: "it was asked to fill its secondary anew".into() });
    s.peer.as_mut().unwrap().serves = false;
    assert_eq!(next(&s).rest(), Some(&Rest::Running), "nobody could be filled");
    s.peer.as_mut().unwrap().serves = true;
    let set = s.in_sync[&fixture::volume("a")].clone();
    let (epoch, wish) = (set.epoch, s.spec.resync);
    let alone = set.followed_by(epoch, [replica("host1", 1)].into(), NOW).heeding(wish);
    assert_eq!((alone.resync, alone.refill, alone.doubted), (1, true, true));
    // Nothing changes while it is filled; once it is admitted, the wish has come true.
    assert!(alone.followed_by(epoch, alone.members.clone(), NOW).heeding(wish).refill);
    let both = alone.followed_by(epoch, set.members.clone(), NOW).heeding(wish);
    assert_eq!((both.resync, both.refill, both.doubted), (1, false, false));
    s.in_sync.insert(fixture::volume("a"), both.clone());
    assert_eq!(next(&s).rest(), Some(&Rest::Running));
    // A later break is an ordinary one.
    assert!(!both.followed_by(epoch, [replica("host1", 1)].into(), NOW).heeding(wish).refill);
    // A wish in the middle of a fill is heard by the next one.
    let late =
        alone.followed_by(epoch, set.members, NOW).heeding(model::Resync { generation: 2, full: false });
    assert_eq!(late.resync, 1);
}

#[test]
fn an_owner_that_booted_before_it_took_over_does_not_start_on_what_a_secondary_lost() {
    let mut s = running();
    s.machine = None;
    s.assignment.epoch = Epoch(2);
    assert_eq!(next(&s), Step::TakeOver { keep: None });
    s.boot = fixture::boot("host1", 2);
    let Step::Rest { rest: Rest::Stuck(why), .. } = next(&s) else { panic!("{:?}", next(&s)) };
    assert!(why.contains("started anew before it had taken the guest over"), "{why}");
    // Its own copy is good once it has taken over.
    s.in_sync.values_mut().for_each(|set| set.epoch = Epoch(2));
    assert_eq!(next(&s), Step::ClaimAlone);
}

#[test]
fn a_guest_that_arrived_is_recorded_at_its_new_owners_epoch() {
    let mut s = running();
    s.assignment.epoch = Epoch(2);
    s.machine.as_mut().unwrap().epoch = Epoch(2);
    assert_eq!(next(&s), Step::Admit { replica: replica("host2", 1) });
    s.in_sync.values_mut().for_each(|set| set.epoch = Epoch(2));
    assert_eq!(next(&s).rest(), Some(&Rest::Running));
}

#[test]
fn a_guest_that_is_not_well_is_reset_after_what_keeps_its_replicas() {
    let mut s = running();
    let restart = model::HealthRestart {
        at: NOW,
        host: fixture::host("host1"),
        how: model::HealthRestartKind::InPlace,
        why: "it panicked".into(),
    };
    s.reset = Some(restart.clone());
    assert_eq!(next(&s), Step::Reset { restart });
    let without_session = Situation { authority: Authority::Confirmed, ..s.clone() };
    assert_eq!(next(&without_session).rest(), Some(&Rest::Running));
    mirror(&mut s).state = Mirror::Broken;
    assert!(matches!(next(&s), Step::LetGo { .. }));
    // One that hears nothing is not asked to shut down.
    let mut s = handing_over();
    assert_eq!(next(&s), Step::Shutdown);
    s.deaf = true;
    assert_eq!(next(&s), Step::End { why: ExitReason::Killed });
}
