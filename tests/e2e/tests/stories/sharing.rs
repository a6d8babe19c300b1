//! A pet in a folder that all hosts share: it moves with its memory alone, and it is never started elsewhere before
//! its old host surely runs it no more.

use e2e::lab::{LIMIT, Lab};
use e2e::moves::Move;
use e2e::owners::OwnerWatch;
use e2e::recorder::Recorder;
use e2e::shared::{POOL, make_pool};
use e2e::wait;

use crate::story::{HOSTS, Story};

fn host_of(lab: &Lab) -> String {
    lab.guest("web1").unwrap()["host"].as_str().unwrap().to_owned()
}

/// As on any host that reaches the folder.
fn try_to_write(file: &std::path::Path) -> String {
    let output = std::process::Command::new("qemu-io")
        .args(["-f", "raw", "-c", "write 0 4k"])
        .arg(file)
        .output()
        .unwrap();
    assert!(!output.status.success(), "a second writer got the file");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_guest_in_a_shared_folder_comes_back_only_with_a_proof() {
    let story = Story::begin("e2e-shared");
    let lab = &story.lab;
    let folder = make_pool(lab, HOSTS).unwrap();
    let recorder = Recorder::start(lab, "web1", &["--pool", POOL, "--disk", "256M"]).unwrap();
    let watch = OwnerWatch::start(&[recorder.id()]);
    let guest = lab.wait_for_sync("web1").unwrap();
    assert!(lab.holders("web1").unwrap().is_empty(), "no host holds a copy of its own");
    let volume = guest["volumes"][0]["id"].as_str().unwrap().to_owned();
    let file = folder.join("volumes").join(format!("{volume}.raw"));
    let said = try_to_write(&file);
    assert!(said.contains("lock"), "{said}");
    let refused = lab.refused(&["pool", "delete", POOL, "--yes"]).unwrap();
    assert!(refused.contains("guests have volumes in it: web1"), "{refused}");

    // It moves, and nothing is copied or started.
    let owner = host_of(lab);
    let target = ["host1", "host2", "host3"].into_iter().find(|host| *host != owner).unwrap();
    let starts = recorder.reports().found.len();
    let moved = Move::start(lab, "web1", &["--to", target]).unwrap();
    assert_eq!(moved.wait_for_end().unwrap()["state"], "done");
    recorder.wait_for_more(5).unwrap();
    assert_eq!((host_of(lab).as_str(), recorder.reports().found.len()), (target, starts));
    let told = lab.events("guest-moved", "guest/web1").unwrap();
    assert!(told.iter().any(|event| event.contains("it stood still for")), "{told:?}");

    // Its host is lost. It waits, for it may still run there.
    let refused = lab.refused(&["host", "confirm-dead", target, "--yes"]).unwrap();
    assert!(refused.contains("its session is live"), "{refused}");
    lab.lab(&["power-off", target]).unwrap();
    wait("somebody to say what the guest waits for", LIMIT, || {
        let told = lab.events("guest-waiting", "guest/web1")?;
        Ok(told.iter().any(|event| event.contains(&format!("host confirm-dead {target}"))).then_some(()))
    })
    .unwrap();
    let last = recorder.reports().last();
    assert_eq!(lab.guest("web1").unwrap()["assignment"]["epoch"], 2);
    let said = lab.kennel(&["host", "confirm-dead", target, "--yes"]).unwrap();
    assert!(said.contains("web1"), "{said}");
    let guest = lab.wait_for_phase("web1", "running").unwrap();
    assert_eq!(guest["assignment"]["epoch"], 3);
    assert_ne!(guest["host"], target);
    assert!(recorder.wait_for_more(20).unwrap() > last);
    let audit = lab.events("host-confirmed-dead", &format!("host/{target}")).unwrap();
    assert_eq!(audit.len(), 1, "{audit:?}");

    // The word counts until the host is heard again, and the guest is where it was.
    lab.lab(&["power-on", target]).unwrap();
    lab.wait_for_hosts_online(HOSTS as usize).unwrap();
    story.verify(&recorder);
    assert_eq!(lab.guest("web1").unwrap()["assignment"]["epoch"], 3);
    lab.kennel(&["guest", "delete", "web1", "--yes"]).unwrap();
    assert!(!file.exists(), "the volume is gone");
    wait("the pool to be free", LIMIT, || {
        Ok(lab.try_kennel(&["pool", "delete", POOL, "--yes"])?.status.success().then_some(()))
    })
    .unwrap();
    story.end(watch);
}
