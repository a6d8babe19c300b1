//! A guest whose secondary's host is lost for good gets its second replica elsewhere, by itself.

use e2e::lab::LIMIT;
use e2e::owners::OwnerWatch;
use e2e::wait;

use crate::story::Story;

/// Small, so that it is filled quickly.
const DISK: &[&str] = &["--disk", "256M"];

#[test]
fn a_guest_whose_secondary_is_lost_for_good_gets_another() {
    let story = Story::begin("e2e-healing");
    let (lab, recorder) = (&story.lab, story.recorder(DISK));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let (owner, secondary, third) = story.places();
    lab.kennel(&["cluster", "set", "--heal-after", "off"]).unwrap();
    lab.lab(&["power-off", &secondary]).unwrap();
    let why = wait("the guest to go on with one replica", LIMIT, || {
        Ok(lab.json(&["guest", "why", "web1"])?["healing"].as_str().map(str::to_owned))
    })
    .unwrap();
    assert!(why.contains("automatic healing is off"), "{why}");
    recorder.wait_for_more(5).unwrap();
    assert_eq!(lab.places("web1").unwrap(), (owner.clone(), secondary.clone()), "nothing happens by itself");

    lab.kennel(&["cluster", "set", "--heal-after", "3s"]).unwrap();
    wait("the guest to be in sync on another host", LIMIT, || {
        let (_, now) = lab.places("web1")?;
        Ok((now == third && lab.in_sync_hosts("web1")?.contains(&third)).then_some(()))
    })
    .unwrap();
    let told = lab.events("volume-healing", "guest/web1").unwrap();
    assert!(told[0].contains(&format!("gets its second replica on {third}: degraded since")), "{told:?}");
    recorder.wait_for_more(20).unwrap();
    assert_eq!(lab.guest("web1").unwrap()["assignment"]["epoch"], 1, "the guest noticed nothing");

    // The old replica goes when its host is back.
    lab.lab(&["power-on", &secondary]).unwrap();
    story.end_at(&recorder, watch, (&owner, &third));
}
