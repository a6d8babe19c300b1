//! The watchdog ends what its host may run no more, when kenneld cannot.

use e2e::lab::LIMIT;
use e2e::owners::OwnerWatch;
use e2e::wait;

use crate::story::Story;

#[test]
fn a_daemon_that_hangs_keeps_no_guest_beyond_its_session() {
    let story = Story::begin("e2e-watchdog");
    let (lab, recorder) = (&story.lab, story.recorder(&[]));
    let watch = OwnerWatch::start_strictly(&[recorder.id()]);
    let (owner, secondary) = lab.places("web1").unwrap();

    // The watchdog dies, and the next one hangs: no guest notices, and each time there is another one.
    for (again, blow) in [(1, "kill"), (2, "freeze")] {
        lab.lab(&[blow, &owner, "kennel-watchdog"]).unwrap();
        wait("another watchdog", LIMIT, || {
            let told = lab.events("watchdog-lost", &format!("host/{owner}"))?;
            Ok((told.iter().filter(|event| event.ends_with("runs again")).count() == again).then_some(()))
        })
        .unwrap();
    }
    recorder.wait_for_more(5).unwrap();
    assert_eq!(lab.guest("web1").unwrap()["assignment"]["epoch"], 1);

    // Only the daemon hangs. Its guest would go on writing, and its secondary's host takes over.
    lab.lab(&["freeze", &owner, "kenneld"]).unwrap();
    wait("the guest to run on its secondary's host", LIMIT, || {
        let guest = lab.guest("web1")?;
        Ok((guest["phase"] == "running" && guest["host"] == secondary.as_str()).then_some(()))
    })
    .unwrap();
    recorder.wait_for_more(20).unwrap();

    lab.lab(&["thaw", &owner, "kenneld"]).unwrap();
    wait("its old host to tell who ended it", LIMIT, || {
        let told = lab.events("guest-stopped", "guest/web1")?;
        Ok(told.iter().any(|event| event.ends_with("its watchdog ended it")).then_some(()))
    })
    .unwrap();
    story.settle();
    assert_eq!(lab.places("web1").unwrap(), (secondary, owner), "one owner is left");
    story.verify(&recorder);
    story.end(watch);
}
