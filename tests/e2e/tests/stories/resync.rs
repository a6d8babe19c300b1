//! A mirrored disk gets back what it lacks, and no more: after a cut what was recorded, after a loss of power what
//! differs. Afterwards both copies are the same to the byte.

use std::time::{Duration, Instant};

use e2e::lab::{LIMIT, Lab};
use e2e::owners::OwnerWatch;
use e2e::wait;

use crate::story::{HOSTS, Story};

const DISK_MIB: u32 = 2048;
/// What is written while the secondary is away: one part in twenty.
const CHANGED_MIB: u32 = DISK_MIB / 20;
/// What may be sent for that: one part in ten. Bytes.
const SENT_MAX: u64 = ((DISK_MIB as u64) << 20) / 10;

/// A cut that nobody need do anything about.
const SHORT_BREAK: Duration = Duration::from_secs(2);
const LONG_ABSENCE: Duration = Duration::from_secs(30);

/// What the owner says once it records what the secondary may lack.
const RECORDS: &str = "what changes is recorded";

/// How the secondary was filled last, and how many bytes that took.
fn last_filled(lab: &Lab) -> (String, u64) {
    let volume = &lab.guest("web1").unwrap()["volumes"][0];
    let filled = &volume["filled"];
    eprintln!("{filled}");
    (filled["how"].as_str().unwrap().to_owned(), filled["sent"].as_u64().unwrap())
}

/// The guest goes on with one replica.
fn wait_until_alone(lab: &Lab) {
    wait("the guest to go on alone", LIMIT, || Ok((lab.in_sync_hosts("web1")?.len() == 1).then_some(())))
        .unwrap();
}

#[test]
fn after_a_cut_only_what_changed_is_sent() {
    let story = Story::begin("e2e-resync-cut");
    let (lab, recorder) = (&story.lab, story.recorder(&["--disk", &format!("{DISK_MIB}M")]));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let (owner, secondary) = lab.places("web1").unwrap();
    assert!(lab.wait_for_words(&owner, 0, RECORDS, LIMIT).unwrap(), "nothing is recorded");
    assert_eq!(last_filled(lab).0, "whole", "its file was new");

    // A short break passes by itself.
    let told = |kind| lab.events(kind, "guest/web1").unwrap();
    let (fills, alone) = (told("volume-syncing"), told("volume-alone"));
    lab.lab(&["cut", &owner, &secondary]).unwrap();
    std::thread::sleep(SHORT_BREAK);
    lab.lab(&["heal", &owner, &secondary]).unwrap();
    recorder.wait_for_more(5).unwrap();
    lab.wait_for_sync("web1").unwrap();
    assert_eq!((told("volume-syncing"), told("volume-alone")), (fills, alone), "nobody was let go");

    let cut_at = Instant::now();
    lab.lab(&["cut", &secondary]).unwrap();
    wait_until_alone(lab);
    lab.write_noise("web1", CHANGED_MIB).unwrap();
    std::thread::sleep(LONG_ABSENCE.saturating_sub(cut_at.elapsed()));
    lab.lab(&["heal", &secondary]).unwrap();
    story.settle();
    let (how, sent) = last_filled(lab);
    assert_eq!(how, "changed");
    assert!(sent >= u64::from(CHANGED_MIB) << 20 && sent <= SENT_MAX, "{sent} bytes were sent");
    recorder.wait_for_more(5).unwrap();
    lab.check_copies("web1").unwrap();
    story.verify(&recorder);
    story.end(watch);
}

#[test]
fn after_a_loss_of_power_only_what_differs_is_sent() {
    let story = Story::begin("e2e-resync-power");
    let (lab, recorder) = (&story.lab, story.recorder(&["--disk", &format!("{DISK_MIB}M")]));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let (owner, secondary) = lab.places("web1").unwrap();
    lab.lab(&["power-off", &secondary]).unwrap();
    wait_until_alone(lab);
    lab.write_noise("web1", CHANGED_MIB).unwrap();
    lab.lab(&["power-on", &secondary]).unwrap();
    story.settle();
    let (how, sent) = last_filled(lab);
    assert_eq!(how, "compared");
    assert!(sent >= u64::from(CHANGED_MIB) << 20 && sent <= SENT_MAX, "{sent} bytes were sent");
    recorder.wait_for_more(5).unwrap();

    // The other way round: the secondary is promoted, and the old primary comes back.
    lab.lab(&["power-off", &owner]).unwrap();
    wait("the guest to run on its secondary's host", LIMIT, || {
        let guest = lab.guest("web1")?;
        Ok((guest["phase"] == "running" && guest["host"] == secondary.as_str()).then_some(()))
    })
    .unwrap();
    recorder.wait_for_more(5).unwrap();
    lab.lab(&["power-on", &owner]).unwrap();
    story.settle();
    let (how, sent) = last_filled(lab);
    assert_eq!(how, "compared");
    assert!(sent <= SENT_MAX / 10, "{sent} bytes were sent");
    lab.check_copies("web1").unwrap();
    story.verify(&recorder);
    story.end(watch);
    lab.assert_no_errors(HOSTS).unwrap();
}
