//! Both replicas of a running guest are compared: what was damaged behind everybody's back is found, what the guest
//! writes meanwhile is not taken for damage, and a resync mends what was found.

use std::os::unix::fs::FileExt;

use e2e::lab::{LIMIT, Lab};
use e2e::owners::OwnerWatch;
use e2e::wait;

use crate::story::Story;

/// Far behind what the recorder writes: two neighbours, and one by itself.
const DAMAGED: [u64; 3] = [(100 << 20) + 5, (100 << 20) + (64 << 10), 200 << 20];
const PIECE: u64 = 64 << 10;

fn ranges(lab: &Lab) -> Vec<(u64, u64)> {
    let shown = lab.json(&["volume", "show", "web1"]).unwrap();
    let ranges = shown["verified"]["ranges"].as_array().unwrap_or_else(|| panic!("{shown}"));
    ranges.iter().map(|r| (r["start"].as_u64().unwrap(), r["length"].as_u64().unwrap())).collect()
}

/// What the cluster's status says of replicas that differ.
fn alarms(lab: &Lab) -> usize {
    let status = lab.json(&["cluster", "status"]).unwrap();
    let problems = status["problems"].as_array().unwrap().iter().filter_map(|problem| problem.as_str());
    problems.filter(|problem| problem.contains("its replicas differ")).count()
}

#[test]
fn a_damaged_replica_is_found_and_mended_while_the_guest_writes() {
    let story = Story::begin("e2e-verify");
    let (lab, recorder) = (&story.lab, story.recorder(&["--disk", "256M"]));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let (owner, secondary) = lab.places("web1").unwrap();

    // The daemon that compares dies in the middle of it; the next one compares anew.
    lab.kennel(&["volume", "verify", "web1", "--no-wait"]).unwrap();
    lab.lab(&["kill", &owner, "kenneld"]).unwrap();
    wait("the comparison to end", LIMIT, || {
        let shown = lab.json(&["volume", "show", "web1"])?;
        Ok(shown["verified"]["at"].is_string().then_some(()))
    })
    .unwrap();
    assert_eq!((ranges(lab), alarms(lab)), (vec![], 0), "the guest writes, and that is no difference");

    let file = lab.replica(&secondary, "web1").unwrap();
    let file = std::fs::File::options().write(true).open(file).unwrap();
    for at in DAMAGED {
        file.write_all_at(b"rot", at).unwrap();
    }
    let failed = lab.try_kennel(&["volume", "verify", "web1"]).unwrap();
    assert!(!failed.status.success());
    let sentence = String::from_utf8_lossy(&failed.stderr);
    assert!(sentence.contains("differ in 192K of 256M") && sentence.contains("volume resync"), "{sentence}");
    assert_eq!(ranges(lab), [(100 << 20, 2 * PIECE), (200 << 20, PIECE)]);
    assert_eq!(alarms(lab), 1);
    recorder.wait_for_more(5).unwrap();

    let fills = lab.events("volume-syncing", "guest/web1").unwrap().len();
    lab.kennel(&["volume", "resync", "web1"]).unwrap();
    wait("the secondary to be filled", LIMIT, || {
        Ok((lab.events("volume-syncing", "guest/web1")?.len() > fills).then_some(()))
    })
    .unwrap();
    lab.wait_for_sync("web1").unwrap();
    assert_eq!(alarms(lab), 0);
    lab.kennel(&["volume", "verify", "web1"]).unwrap();
    assert_eq!(ranges(lab), []);
    watch.verify().unwrap();
    recorder.verify().unwrap();
}
