//! A thin disk takes room as it is written, on both hosts, and gives back what is written with zeroes. Where there is
//! none left the guest loses its second replica, or stands still, and both pass by themselves when there is room again.

use std::os::unix::fs::MetadataExt;

use e2e::lab::{LIMIT, Lab};
use e2e::owners::OwnerWatch;
use e2e::wait;

use crate::story::Story;

const MIB: u64 = 1 << 20;
/// Written, and given back.
const NOISE_MIB: u32 = 60;
/// More than the recorder has written by the end of the story.
const LITTLE: u64 = 40 * MIB;

/// What a host's replica takes of its disk, bytes.
fn room(lab: &Lab, host: &str) -> u64 {
    lab.replica(host, "web1").unwrap().metadata().unwrap().blocks() * 512
}

/// Runs a script in the guest, and answers whether it succeeded; `$at` is where the noise is, in MiB, `$device` the disk.
fn in_guest(lab: &Lab, script: &str) -> bool {
    let script = format!(
        "device=/dev/vda; blocks=$(cat /sys/class/block/vda/size); at=$((blocks / 2048 - {NOISE_MIB})); {script}"
    );
    lab.try_kennel(&["guest", "exec", "web1", "--", "sh", "-c", &script]).unwrap().status.success()
}

fn told(lab: &Lab, words: &str) -> bool {
    lab.events("volume-full", "guest/web1").unwrap().iter().any(|event| event.contains(words))
}

fn problems(lab: &Lab) -> String {
    lab.json(&["cluster", "status"]).unwrap()["problems"].to_string()
}

#[test]
fn a_thin_disk_gives_room_back_and_outlives_having_none() {
    let story = Story::begin_with("e2e-thin", &["--volume-disk", "320M"]);
    let (lab, recorder) = (&story.lab, story.recorder(&["--disk", "256M,thin"]));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let (owner, secondary) = lab.places("web1").unwrap();
    let little = |moment: &str| {
        let rooms = [&owner, &secondary].map(|host| room(lab, host));
        assert!(rooms.iter().all(|room| *room < LITTLE), "{moment}: {rooms:?}");
    };
    little("filled from the beginning");

    lab.write_noise("web1", NOISE_MIB).unwrap();
    let rooms = [&owner, &secondary].map(|host| room(lab, host));
    assert!(rooms.iter().all(|room| *room >= u64::from(NOISE_MIB) * MIB), "{rooms:?}");
    let zeroes = format!("dd if=/dev/zero of=$device bs=1M count={NOISE_MIB} seek=$at conv=notrunc,fsync");
    assert!(in_guest(lab, &zeroes));
    little("written with zeroes");
    lab.kennel(&["volume", "verify", "web1"]).unwrap();

    // The secondary's disk is full: the guest does not notice.
    lab.lab(&["fill-disk", &secondary, "--leave", "1M"]).unwrap();
    wait("the guest to go on alone", LIMIT, || Ok((lab.in_sync_hosts("web1")?.len() == 1).then_some(())))
        .unwrap();
    recorder.wait_for_more(5).unwrap();
    let full = format!("the disk of {secondary} that holds a replica of 'web1' is full");
    wait("it to be said", LIMIT, || Ok(told(lab, &full).then_some(()))).unwrap();
    assert!(problems(lab).contains("is full, or nearly so"), "{}", problems(lab));
    lab.lab(&["empty-disk", &secondary]).unwrap();
    lab.wait_for_sync("web1").unwrap();
    little("filled again");

    // The primary's is: the guest stands still until there is room.
    lab.lab(&["fill-disk", &owner, "--leave", "1M"]).unwrap();
    // It may stand still before its agent can say that this has begun.
    in_guest(
        lab,
        &format!("dd if=/dev/urandom of=$device bs=1M count={NOISE_MIB} seek=$at >/dev/null 2>&1 &"),
    );
    wait("the guest to stand still", LIMIT, || Ok(told(lab, "stands still").then_some(()))).unwrap();
    assert_eq!(lab.guest("web1").unwrap()["phase"], "paused");
    let message = lab.guest("web1").unwrap()["message"].to_string();
    assert!(message.contains("make room on"), "{message}");
    assert!(problems(lab).contains("guest web1 stands still"), "{}", problems(lab));
    let last = recorder.reports().last();
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(recorder.reports().last(), last, "it stands still");
    lab.lab(&["empty-disk", &owner]).unwrap();
    recorder.wait_for_more(5).unwrap();
    wait("it to be said", LIMIT, || Ok(told(lab, "goes on").then_some(()))).unwrap();
    story.verify(&recorder);
    story.end(watch);
}
