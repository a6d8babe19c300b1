//! The life of a mirrored disk in the hands of its operator: another secondary, a resync, more room, another pool.

use e2e::lab::LIMIT;
use e2e::owners::OwnerWatch;
use e2e::wait;

use crate::story::Story;

/// Small, so that it is filled quickly.
const DISK: &[&str] = &["--disk", "256M"];

#[test]
fn a_running_guests_disk_is_replaced_resynced_grown_and_converted() {
    let story = Story::begin("e2e-volumes");
    let (lab, recorder) = (&story.lab, story.recorder(DISK));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let (owner, secondary, third) = story.places();

    // Refused with the hosts that would do.
    let sentence = lab.refused(&["volume", "replace-secondary", "web1", "--to", &owner]).unwrap();
    assert!(sentence.contains("both replicas would be on one host"), "{sentence}");
    let sentence = lab.refused(&["volume", "replace-secondary", "web1", "--to", &secondary]).unwrap();
    assert!(sentence.contains("on host") && sentence.contains("volume resync"), "{sentence}");
    lab.kennel(&["volume", "replace-secondary", "web1"]).unwrap();
    assert_eq!(lab.places("web1").unwrap(), (owner.clone(), third.clone()));
    recorder.wait_for_more(5).unwrap();

    // A resync: one replica for a moment, then two.
    let fills = lab.events("volume-syncing", "guest/web1").unwrap().len();
    lab.kennel(&["volume", "resync", "web1", "--full"]).unwrap();
    wait("the secondary to be filled anew", LIMIT, || {
        Ok((lab.events("volume-syncing", "guest/web1")?.len() > fills).then_some(()))
    })
    .unwrap();
    lab.wait_for_sync("web1").unwrap();

    // Both replicas are compared while the guest writes.
    lab.kennel(&["volume", "verify", "web1"]).unwrap();
    let shown = lab.json(&["volume", "show", "web1"]).unwrap();
    assert!(shown["verified"]["ranges"].as_array().is_some_and(Vec::is_empty), "{shown}");

    // More room, which the guest sees.
    let sentence = lab.refused(&["volume", "grow", "web1", "128M"]).unwrap();
    assert!(sentence.contains("a disk only grows"), "{sentence}");
    let sentence = lab.refused(&["volume", "grow", "web1", "4000G"]).unwrap();
    assert!(sentence.contains("of disk for it"), "{sentence}");
    lab.kennel(&["volume", "grow", "web1", "320M"]).unwrap();
    let sectors = (320u64 << 20) / 512;
    wait("the guest to see a larger disk", LIMIT, || {
        let seen = lab.kennel(&["guest", "exec", "web1", "--", "cat", "/sys/block/vda/size"])?;
        Ok((seen.trim() == sectors.to_string()).then_some(()))
    })
    .unwrap();
    wait("both files to be larger", LIMIT, || {
        Ok((lab.file_sizes("web1")? == [320 << 20, 320 << 20]).then_some(()))
    })
    .unwrap();
    lab.wait_for_sync("web1").unwrap();
    recorder.wait_for_more(5).unwrap();

    // One replica, and two again.
    lab.kennel(&["volume", "convert", "web1", "--pool", "local"]).unwrap();
    assert!(lab.guest("web1").unwrap()["secondary"].is_null());
    assert_eq!(lab.holders("web1").unwrap(), std::slice::from_ref(&owner));
    let sentence = lab.refused(&["volume", "resync", "web1"]).unwrap();
    assert!(sentence.contains("volume convert"), "{sentence}");
    lab.kennel(&["volume", "convert", "web1", "--pool", "mirror", "--to", &secondary]).unwrap();
    assert_eq!(lab.guest("web1").unwrap()["assignment"]["epoch"], 1, "the guest noticed nothing");
    recorder.wait_for_more(5).unwrap();
    story.end_at(&recorder, watch, (&owner, &secondary));
}
