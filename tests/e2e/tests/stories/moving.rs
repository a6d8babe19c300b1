//! A pet moves, by a restart or to a host that is filled first (see `migrating.rs` for moves of memory alone): each
//! story moves a guest on a lab of three hosts, most of them while something breaks, and checks
//! that every acknowledged record is there, that both replicas are in sync in the end, and that no old replica is
//! left behind.

use e2e::lab::LIMIT;
use e2e::moves::Move;
use e2e::owners::OwnerWatch;
use e2e::wait;

use crate::story::{HOSTS, Story};

/// Small, so that it is filled quickly.
const DISK: &[&str] = &["--disk", "256M"];

#[test]
fn the_replicas_swap_their_roles() {
    let story = Story::begin("e2e-swap");
    let (lab, recorder) = (&story.lab, story.recorder(DISK));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let (owner, secondary, _) = story.places();
    let fills = lab.events("volume-syncing", "guest/web1").unwrap();
    let alone = lab.events("volume-alone", "guest/web1").unwrap();
    for (to, then) in [(&secondary, &owner), (&owner, &secondary)] {
        recorder.wait_for_more(5).unwrap();
        let moved = Move::start(lab, "web1", &["--to", to, "--restart"]).unwrap();
        assert_eq!(moved.wait_for_end().unwrap()["state"], "done");
        recorder.wait_for_more(5).unwrap();
        assert_eq!(lab.places("web1").unwrap(), (to.clone(), then.clone()));
    }
    // Nothing was copied, and at no time did the disk stand on one replica.
    assert_eq!(lab.events("volume-syncing", "guest/web1").unwrap(), fills);
    assert_eq!(lab.events("volume-alone", "guest/web1").unwrap(), alone);
    let told = lab.events("guest-moved", "guest/web1").unwrap();
    assert!(told.len() == 2 && told.iter().all(|event| event.contains("it was down for")), "{told:?}");
    eprintln!("{}", told.join("\n"));
    story.end_at(&recorder, watch, (&owner, &secondary));
}

#[test]
fn a_stopped_guest_changes_its_host_at_once() {
    let story = Story::begin("e2e-stopped");
    let (lab, recorder) = (&story.lab, story.recorder(DISK));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let (owner, secondary, third) = story.places();
    lab.kennel(&["guest", "stop", "web1"]).unwrap();
    let fills = lab.events("volume-syncing", "guest/web1").unwrap();
    assert_eq!(
        Move::start(lab, "web1", &["--to", &secondary]).unwrap().wait_for_end().unwrap()["state"],
        "done"
    );
    assert_eq!(lab.wait_for_phase("web1", "stopped").unwrap()["host"], secondary.as_str());
    let sentence = Move::refused(lab, "web1", &["--to", &third]).unwrap();
    assert!(sentence.contains("is stopped"), "{sentence}");
    lab.kennel(&["guest", "start", "web1"]).unwrap();
    recorder.wait_for_more(5).unwrap();
    assert_eq!(lab.events("volume-syncing", "guest/web1").unwrap(), fills, "nothing was copied");
    story.end_at(&recorder, watch, (&secondary, &owner));
}

#[test]
fn the_guest_goes_to_a_third_host() {
    let story = Story::begin("e2e-third");
    let (lab, recorder) = (&story.lab, story.recorder(DISK));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let (owner, secondary, third) = story.places();
    let moved = Move::start(lab, "web1", &["--to", &third, "--secondary", &secondary]).unwrap();
    assert_eq!(moved.wait_for_end().unwrap()["state"], "done");
    recorder.wait_for_more(5).unwrap();
    assert_eq!(lab.places("web1").unwrap(), (third.clone(), secondary.clone()));
    // Its secondary alone, to where it came from.
    let moved = Move::start(lab, "web1", &["--secondary", &owner]).unwrap();
    assert_eq!(moved.wait_for_end().unwrap()["state"], "done");
    story.end_at(&recorder, watch, (&third, &owner));
}

#[test]
fn a_host_that_cannot_be_filled_costs_the_guest_nothing() {
    let story = Story::begin("e2e-unfilled");
    let (lab, recorder) = (&story.lab, story.recorder(DISK));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let (owner, secondary, third) = story.places();
    lab.lab(&["freeze", &third, "qemu-storage-daemon"]).unwrap();
    let moved = Move::start(lab, "web1", &["--to", &third]).unwrap();
    wait("the third host to be asked", LIMIT, || {
        Ok((lab.guest("web1")?["secondary"] == third.as_str()).then_some(()))
    })
    .unwrap();
    recorder.wait_for_more(20).unwrap();
    assert!(lab.in_sync_hosts("web1").unwrap().contains(&secondary), "the old secondary is kept");
    lab.kennel(&["job", "cancel", moved.id()]).unwrap();
    assert_eq!(moved.wait_for_end().unwrap()["state"], "cancelled");
    assert_eq!(lab.places("web1").unwrap(), (owner.clone(), secondary.clone()));
    assert!(lab.events("volume-alone", "guest/web1").unwrap().is_empty(), "it was mirrored all the time");
    lab.lab(&["thaw", &third, "qemu-storage-daemon"]).unwrap();
    story.end_at(&recorder, watch, (&owner, &secondary));
}

#[test]
fn the_new_secondarys_host_loses_power_while_it_is_filled() {
    let story = Story::begin("e2e-filling");
    let (lab, recorder) = (&story.lab, story.recorder(DISK));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let (owner, secondary, third) = story.places();
    lab.write_noise("web1", 64).unwrap();
    lab.slow_down(&owner, "40mbit").unwrap();
    let moved = Move::start(lab, "web1", &["--secondary", &third]).unwrap();
    moved.wait_for_note("is filled").unwrap();
    lab.lab(&["power-off", &third]).unwrap();
    let job = moved.wait_for_end().unwrap();
    assert_eq!(job["state"], "failed");
    let why = job["report"]["error"].as_str().unwrap();
    assert!(
        why.contains(&format!("{third} was lost while it was filled; {secondary} is filled again")),
        "{why}"
    );
    lab.full_speed(&owner).unwrap();
    recorder.wait_for_more(20).unwrap();
    lab.lab(&["power-on", &third]).unwrap();
    story.end_at(&recorder, watch, (&owner, &secondary));
}

#[test]
fn the_guests_host_loses_power_while_it_hands_over() {
    let story = Story::begin("e2e-handover");
    let (lab, recorder) = (&story.lab, story.recorder(DISK));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let (owner, secondary, _) = story.places();
    let moved = Move::start(lab, "web1", &["--to", &secondary, "--restart"]).unwrap();
    wait("the handover to be asked for", LIMIT, || {
        let guest = lab.guest("web1")?;
        let there = guest["host"] == secondary.as_str();
        Ok((there || !guest["assignment"]["handover"].is_null()).then_some(()))
    })
    .unwrap();
    lab.lab(&["power-off", &owner]).unwrap();
    recorder.wait_for_more(20).unwrap();
    assert_eq!(lab.guest("web1").unwrap()["host"], secondary.as_str());
    moved.wait_for_end().unwrap();
    lab.lab(&["power-on", &owner]).unwrap();
    story.end_at(&recorder, watch, (&secondary, &owner));
}

#[test]
fn the_guests_host_loses_power_while_another_secondary_is_made_ready() {
    let story = Story::begin("e2e-replace");
    let (lab, recorder) = (&story.lab, story.recorder(DISK));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let (owner, secondary, third) = story.places();
    lab.lab(&["freeze", &third, "qemu-storage-daemon"]).unwrap();
    let moved = Move::start(lab, "web1", &["--secondary", &third]).unwrap();
    wait("the third host to be asked", LIMIT, || {
        Ok((lab.guest("web1")?["secondary"] == third.as_str()).then_some(()))
    })
    .unwrap();
    lab.lab(&["power-off", &owner]).unwrap();
    recorder.wait_for_more(20).unwrap();
    assert_eq!(lab.guest("web1").unwrap()["host"], secondary.as_str(), "the old secondary was in sync");
    assert_eq!(moved.wait_for_end().unwrap()["state"], "failed");
    lab.lab(&["thaw", &third, "qemu-storage-daemon"]).unwrap();
    lab.lab(&["power-on", &owner]).unwrap();
    story.end_at(&recorder, watch, (&secondary, &owner));
}

#[test]
fn the_secondarys_host_loses_power_while_it_is_handed_to() {
    let story = Story::begin("e2e-heir");
    let (lab, recorder) = (&story.lab, story.recorder(DISK));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let (owner, secondary, _) = story.places();
    // Its kernel is held so that the handover stays pending.
    lab.lab(&["freeze", &owner, "qemu-system-x86_64"]).unwrap();
    let moved = Move::start(lab, "web1", &["--to", &secondary, "--restart"]).unwrap();
    wait("the handover to be asked for", LIMIT, || {
        Ok((!lab.guest("web1")?["assignment"]["handover"].is_null()).then_some(()))
    })
    .unwrap();
    lab.lab(&["power-off", &secondary]).unwrap();
    lab.lab(&["thaw", &owner, "qemu-system-x86_64"]).unwrap();
    let job = moved.wait_for_end().unwrap();
    assert_eq!(job["state"], "failed");
    recorder.wait_for_more(20).unwrap();
    assert_eq!(lab.guest("web1").unwrap()["host"], owner.as_str(), "it goes on where it was");
    lab.lab(&["power-on", &secondary]).unwrap();
    story.end_at(&recorder, watch, (&owner, &secondary));
}

#[test]
fn a_daemon_dies_each_time_the_move_gets_on() {
    let story = Story::begin("e2e-restless");
    let (lab, recorder) = (&story.lab, story.recorder(DISK));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let (owner, _, third) = story.places();
    let moved = Move::start(lab, "web1", &["--to", &third]).unwrap();
    let mut round = 0;
    let mut said = String::new();
    while let Some(message) = moved.wait_for_news(&said).unwrap() {
        said = message;
        lab.lab(&["kill", &format!("host{}", round % HOSTS + 1), "kenneld"]).unwrap();
        round += 1;
    }
    assert!(round >= 3, "every daemon died once");
    let end = moved.wait_for_end().unwrap();
    if end["state"] == "failed" {
        // On a busy machine a daemon may take longer to begin anew than a session lasts.
        let why = end["message"].as_str().unwrap_or_default();
        assert!(why.contains("lost"), "{why}");
        let again = Move::start(lab, "web1", &["--to", &third]).unwrap();
        assert_eq!(again.wait_for_end().unwrap()["state"], "done");
    }
    recorder.wait_for_more(5).unwrap();
    story.end_at(&recorder, watch, (&third, &owner));
}
