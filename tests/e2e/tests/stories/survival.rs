//! A pet survives: each story breaks something on a lab of three hosts, and checks that every acknowledged
//! record is there, that nothing was written twice, and that no guest had two machines at one epoch.

use std::time::Duration;

use e2e::lab::LIMIT;
use e2e::owners::OwnerWatch;
use e2e::receiver::Receiver;
use e2e::recorder::Recorder;
use e2e::wait;

use crate::story::{HOSTS, Story};

impl Story {
    /// The end of every story here: the guest is in sync, and nothing is missing.
    fn end_in_sync(&self, recorder: &Recorder<'_>, watch: OwnerWatch) {
        self.settle();
        self.verify(recorder);
        self.end(watch);
    }
}

#[test]
fn the_guests_host_loses_power() {
    let story = Story::begin("e2e-host");
    let (lab, recorder) = (&story.lab, story.recorder(&[]));
    let receiver = Receiver::start(lab).unwrap();
    lab.kennel(&[
        "alert",
        "add",
        "webhook",
        &receiver.url,
        "--name",
        "pager",
        "--secret-file",
        &receiver.key,
    ])
    .unwrap();
    lab.kennel(&["alert", "test", "pager"]).unwrap();
    let watch = OwnerWatch::start(&[recorder.id()]);
    let (owner, secondary) = lab.places("web1").unwrap();
    lab.lab(&["power-off", &owner]).unwrap();
    wait("the guest to run on its secondary's host", LIMIT, || {
        let guest = lab.guest("web1")?;
        Ok((guest["phase"] == "running" && guest["host"] == secondary.as_str()).then_some(()))
    })
    .unwrap();
    recorder.wait_for_more(20).unwrap();
    receiver.wait_for("opened", &format!(": {owner} is lost")).unwrap();
    lab.lab(&["power-on", &owner]).unwrap();
    story.settle();
    receiver.wait_for("ended", &format!("ended: {owner} was lost")).unwrap();
    one_incident_with_its_parts(&story, &receiver, &owner, &secondary);
    story.end_in_sync(&recorder, watch);
}

/// The loss of the guest's host is one story, told once from each turn to the next.
fn one_incident_with_its_parts(story: &Story, receiver: &Receiver, owner: &str, secondary: &str) {
    let told = receiver.notices("host-lost").unwrap();
    let kinds: Vec<&str> = told.iter().filter_map(|notice| notice["kind"].as_str()).collect();
    let turns: Vec<&str> = kinds.iter().copied().filter(|kind| *kind != "changed").collect();
    assert_eq!(turns, ["opened", "ended"], "{kinds:?}");
    let incidents = story.lab.json(&["incident", "list"]).unwrap();
    let lost: Vec<_> = incidents
        .as_array()
        .unwrap()
        .iter()
        .filter(|view| view["incident"]["subject"] == format!("host/{owner}"))
        .filter(|view| view["incident"]["kind"] == "host-lost")
        .collect();
    assert_eq!(lost.len(), 1, "{incidents}");
    let parts = &lost[0]["guests"][0]["parts"];
    for part in ["decide_ms", "start_ms", "down_ms"] {
        assert!(parts[part].is_u64(), "{part}: {parts}");
    }
    let number = lost[0]["id"].to_string();
    let shown = story.lab.kennel(&["incident", "show", &number]).unwrap();
    let meaning = format!(": it ran on {owner}, and runs on {secondary} now; had one replica for ");
    for words in [&meaning, "decided in ", "started in ", "its session is over"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
}

#[test]
fn the_secondarys_host_loses_power() {
    let story = Story::begin("e2e-secondary");
    let (lab, recorder) = (&story.lab, story.recorder(&[]));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let (owner, secondary) = lab.places("web1").unwrap();
    lab.lab(&["power-off", &secondary]).unwrap();
    recorder.wait_for_more(20).unwrap();
    assert_eq!(lab.places("web1").unwrap().0, owner, "the guest stays where it is");
    assert_eq!(lab.guest("web1").unwrap()["assignment"]["epoch"], 1);
    lab.lab(&["power-on", &secondary]).unwrap();
    story.end_in_sync(&recorder, watch);
}

#[test]
fn no_guest_notices_that_a_daemon_dies() {
    let story = Story::begin("e2e-daemon");
    let (lab, recorder) = (&story.lab, story.recorder(&[]));
    let watch = OwnerWatch::start(&[recorder.id()]);
    for n in 1..=HOSTS {
        let host = format!("host{n}");
        lab.lab(&["kill", &host, "kenneld"]).unwrap();
        recorder.wait_for_more(20).unwrap();
        lab.wait_for_hosts_online(HOSTS as usize).unwrap();
        let guest = lab.wait_for_sync("web1").unwrap();
        assert_eq!(guest["assignment"]["epoch"], 1, "killing kenneld on {host} moved the guest");
    }
    let found = recorder.reports().found.len();
    assert_eq!(found, 1, "the guest was started once");
    story.end_in_sync(&recorder, watch);
}

#[test]
fn one_member_of_the_store_is_lost_then_two() {
    let story = Story::begin("e2e-store");
    let (lab, recorder) = (&story.lab, story.recorder(&[]));
    let watch = OwnerWatch::start(&[recorder.id()]);
    lab.lab(&["freeze", "host3", "etcd"]).unwrap();
    recorder.wait_for_more(20).unwrap();
    lab.kennel(&["guest", "create", "second", "--image", "tiny", "--memory", "128M"]).unwrap();
    lab.wait_for_sync("second").unwrap();

    lab.lab(&["freeze", "host2", "etcd"]).unwrap();
    let sentence = wait("changes to be refused", LIMIT, || {
        let output = lab.try_kennel(&["network", "create", "late", "--subnet", "10.91.0.0/24"])?;
        Ok((!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned()))
    })
    .unwrap();
    assert!(sentence.contains("the state store"), "{sentence}");
    // Longer than any session and any promise: only the secondary's word keeps the guest running.
    let begin = std::time::Instant::now();
    while begin.elapsed() < Duration::from_secs(20) {
        recorder.wait_for_more(5).unwrap();
    }
    assert_eq!(recorder.reports().found.len(), 1, "the guest was started once");

    lab.lab(&["thaw", "host2", "etcd"]).unwrap();
    lab.lab(&["thaw", "host3", "etcd"]).unwrap();
    lab.wait_for_hosts_online(HOSTS as usize).unwrap();
    assert_eq!(lab.wait_for_sync("web1").unwrap()["assignment"]["epoch"], 1);
    lab.kennel(&["guest", "stop", "second"]).unwrap();
    story.end_in_sync(&recorder, watch);
}

#[test]
fn the_leaders_host_loses_power() {
    let story = Story::begin("e2e-leader");
    let (lab, recorder) = (&story.lab, story.recorder(&[]));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let leader = lab.leader().unwrap();
    lab.lab(&["power-off", &leader]).unwrap();
    wait("another leader", LIMIT, || Ok((lab.leader()? != leader).then_some(()))).unwrap();
    recorder.wait_for_more(20).unwrap();
    lab.lab(&["power-on", &leader]).unwrap();
    story.end_in_sync(&recorder, watch);
}

#[test]
fn the_guests_host_is_cut_off() {
    let story = Story::begin("e2e-cut");
    let (lab, recorder) = (&story.lab, story.recorder(&[]));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let (owner, secondary) = lab.places("web1").unwrap();
    lab.lab(&["cut", &owner]).unwrap();
    wait("the guest to run on the other side", LIMIT, || {
        let guest = lab.guest("web1")?;
        Ok((guest["phase"] == "running" && guest["host"] == secondary.as_str()).then_some(()))
    })
    .unwrap();
    recorder.wait_for_more(20).unwrap();
    lab.lab(&["heal", &owner]).unwrap();
    story.end_in_sync(&recorder, watch);
    assert_eq!(lab.places("web1").unwrap().0, secondary, "one owner is left");
}

#[test]
fn the_two_replicas_are_cut_from_each_other() {
    let story = Story::begin("e2e-link");
    let (lab, recorder) = (&story.lab, story.recorder(&[]));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let (owner, secondary) = lab.places("web1").unwrap();
    lab.lab(&["cut", &owner, &secondary]).unwrap();
    recorder.wait_for_more(20).unwrap();
    lab.lab(&["heal", &owner, &secondary]).unwrap();
    story.end_in_sync(&recorder, watch);
}

#[test]
fn a_frozen_host_comes_back_too_late() {
    let story = Story::begin("e2e-frozen");
    let (lab, recorder) = (&story.lab, story.recorder(&[]));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let (owner, secondary) = lab.places("web1").unwrap();
    lab.lab(&["pause", &owner]).unwrap();
    wait("the guest to run elsewhere", LIMIT, || {
        let guest = lab.guest("web1")?;
        Ok((guest["phase"] == "running" && guest["host"] == secondary.as_str()).then_some(()))
    })
    .unwrap();
    recorder.wait_for_more(20).unwrap();
    lab.lab(&["resume", &owner]).unwrap();
    story.end_in_sync(&recorder, watch);
}

#[test]
fn the_secondarys_storage_daemon_dies_alone() {
    let story = Story::begin("e2e-storage");
    let (lab, recorder) = (&story.lab, story.recorder(&[]));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let (_, secondary) = lab.places("web1").unwrap();
    lab.lab(&["kill", &secondary, "qemu-storage-daemon"]).unwrap();
    recorder.wait_for_more(20).unwrap();
    story.end_in_sync(&recorder, watch);
}

#[test]
fn a_machine_dies_alone() {
    let story = Story::begin("e2e-qemu");
    let (lab, recorder) = (&story.lab, story.recorder(&[]));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let (owner, _) = lab.places("web1").unwrap();
    lab.lab(&["kill", &owner, "qemu-system-x86_64"]).unwrap();
    recorder.wait_for_more(20).unwrap();
    assert_eq!(lab.places("web1").unwrap().0, owner, "the guest is started where it was");
    story.end_in_sync(&recorder, watch);
}

#[test]
fn the_whole_cluster_loses_power() {
    let story = Story::begin("e2e-all");
    let (lab, recorder) = (&story.lab, story.recorder(&[]));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let hosts: Vec<String> = (1..=HOSTS).map(|n| format!("host{n}")).collect();
    for host in &hosts {
        lab.lab(&["power-off", host]).unwrap();
    }
    for host in &hosts {
        lab.lab(&["power-on", host]).unwrap();
    }
    lab.wait_for_hosts_online(HOSTS as usize).unwrap();
    recorder.wait_for_more(20).unwrap();
    story.end_in_sync(&recorder, watch);
}
