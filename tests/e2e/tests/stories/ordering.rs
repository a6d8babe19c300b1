//! In which order guests come up, and how slowly when many hosts vanish at once.

use e2e::lab::{LIMIT, Lab};
use e2e::wait;
use jiff::Timestamp;

/// Long enough that nobody waits it out.
const HOLD: &str = "300s";

fn create(lab: &Lab, name: &str, host: &str, more: &[&str]) {
    let words = ["guest", "create", name, "--image", "tiny", "--memory", "128M", "--host", host];
    lab.kennel(&[&words[..], more].concat()).unwrap();
}

/// Since when a guest has been running.
fn since(lab: &Lab, name: &str) -> Timestamp {
    let guest = lab.wait_for_phase(name, "running").unwrap();
    guest["report"]["since"].as_str().unwrap().parse().unwrap()
}

#[test]
fn all_of_the_power_is_lost_and_guests_come_up_in_their_order() {
    let lab = Lab::up("e2e-order", 3).unwrap();
    let local = ["--pool", "local"];
    create(&lab, "db", "host3", &local);
    create(&lab, "app", "host1", &[&local[..], &["--after", "db"]].concat());
    create(&lab, "web", "host2", &[&local[..], &["--after", "app", "--restart-with", "db"]].concat());
    let refused = lab.refused(&["guest", "set", "db", "--after", "web"]).unwrap();
    assert!(refused.contains("app starts after db, db after web, web after app"), "{refused}");
    let refused = lab.refused(&["guest", "delete", "db", "--yes"]).unwrap();
    assert!(refused.contains("others start after it: app"), "{refused}");

    let hosts = ["host1", "host2", "host3"];
    hosts.iter().for_each(|host| drop(lab.lab(&["power-off", host]).unwrap()));
    // The host of the one that all wait for comes last.
    lab.lab(&["power-on", "host1"]).unwrap();
    lab.lab(&["power-on", "host2"]).unwrap();
    wait("app to say what it waits for", LIMIT, || {
        let Ok(app) = lab.guest("app") else { return Ok(None) };
        let why = app["message"].as_str().unwrap_or_default();
        Ok((why == "it starts after db, which does not run yet").then_some(()))
    })
    .unwrap();
    lab.lab(&["power-on", "host3"]).unwrap();
    lab.wait_for_hosts_online(3).unwrap();
    let (web, app, db) = (since(&lab, "web"), since(&lab, "app"), since(&lab, "db"));
    assert!(db <= app && app <= web, "db at {db}, app at {app}, web at {web}");
    assert!(lab.events("guest-order", "guest/web").unwrap().is_empty(), "nobody started out of turn");

    // db crashes: web ran through it, and is restarted once; app is not of their group.
    lab.lab(&["kill", "host3", "qemu-system-x86_64"]).unwrap();
    let told =
        wait("web to be restarted with db", LIMIT, || Ok(lab.events("guest-order", "guest/db")?.pop()))
            .unwrap();
    assert!(told.contains("because 'db' was restarted after a failure"), "{told}");
    wait("web to run in its second generation", LIMIT, || {
        let guest = lab.guest("web")?;
        let again = guest["report"]["boot_generation"] == 2 && guest["phase"] == "running";
        Ok(again.then_some(()))
    })
    .unwrap();
    assert_eq!(lab.guest("app").unwrap()["report"]["boot_generation"], 1);
    assert_eq!(lab.events("guest-order", "guest/db").unwrap().len(), 1);
    lab.kennel(&["guest", "stop", "db", "app", "web"]).unwrap();
}

#[test]
fn half_of_the_hosts_vanish_and_an_operator_is_told_before_anything_is_done() {
    let lab = Lab::up("e2e-storm", 4).unwrap();
    lab.kennel(&["cluster", "set", "--storm-hold", HOLD]).unwrap();
    create(&lab, "web1", "host4", &[]);
    if lab.wait_for_sync("web1").unwrap()["secondary"] == "host3" {
        lab.kennel(&["guest", "migrate", "web1", "--secondary", "host1"]).unwrap();
    }
    lab.wait_for_sync("web1").unwrap();
    assert_eq!(lab.kennel(&["cluster", "storm"]).unwrap(), "There is no storm.\n");
    lab.refused(&["cluster", "storm", "--go-on"]).unwrap();

    // One after the other within the window, so that it is a storm by the time that the guest's host is missed.
    lab.lab(&["power-off", "host3"]).unwrap();
    lab.wait_for_hosts_online(3).unwrap();
    lab.lab(&["power-off", "host4"]).unwrap();
    let storm = wait("the storm to be noticed", LIMIT, || {
        let storm = lab.json(&["cluster", "storm"])?;
        Ok((!storm.is_null()).then_some(storm))
    })
    .unwrap();
    assert_eq!(storm["hosts"], serde_json::json!(["host3", "host4"]));
    assert!(lab.events("storm", "cluster").unwrap()[0].starts_with("a storm: host3, host4 vanished"));
    wait("the guest to say why it waits", LIMIT, || {
        let told = lab.events("guest-waiting", "guest/web1")?;
        Ok(told.iter().any(|why| why.contains("2 of 4 hosts vanished at once")).then_some(()))
    })
    .unwrap();
    assert_eq!(lab.guest("web1").unwrap()["host"], "host4");
    lab.kennel(&["cluster", "storm", "--go-on"]).unwrap();
    wait("the guest to run elsewhere", LIMIT, || {
        let guest = lab.guest("web1")?;
        Ok((guest["phase"] == "running" && guest["host"] != "host4").then_some(()))
    })
    .unwrap();
    let refused = lab.refused(&["cluster", "storm", "--go-on"]).unwrap();
    assert!(refused.contains("has said so already"), "{refused}");
}
