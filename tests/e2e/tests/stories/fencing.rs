//! Fencing through real BMCs: `fence_ipmilan` and `ipmitool` speak IPMI to each lab host's `ipmi_sim`, whose button is
//! the host's power.
//!
//! They are `make test-fencing`'s: each takes longer than a minute.

use std::os::unix::fs::PermissionsExt;

use e2e::lab::{LIMIT, Lab};
use e2e::owners::OwnerWatch;
use e2e::recorder::Recorder;
use e2e::shared::{POOL, add_bmc, make_pool, try_bmc};
use e2e::wait;
use jiff::Timestamp;
use serde_json::Value;

use crate::story::{HOSTS, Story};

/// Says yes to everything and does nothing; its host's name is its only option. It writes down what it was asked.
const LIAR: &str = r#"#!/bin/sh
while IFS='=' read -r name value; do
    case "$name" in action) action=$value ;; log) log=$value ;; esac
done
if [ "$action" = metadata ]; then
    echo '<resource-agent name="fence_liar"><parameters><parameter name="log" required="1"><content type="string"/>'
    echo '</parameter></parameters><actions><action name="on"/><action name="off"/><action name="status"/></actions>'
    echo '</resource-agent>'
else
    echo "$action" >> "$log"
fi
"#;

/// Names a device that lies; answers where it writes down what it was asked.
fn add_liar(lab: &Lab, host: &str) -> std::path::PathBuf {
    let folder = lab.folder().join("fence-agents");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("fence_liar");
    std::fs::write(&path, LIAR).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let log = lab.folder().join(format!("liar-{host}.log"));
    let option = format!("log={}", log.display());
    lab.kennel(&["host", "fence-device", "add", host, "liar", "--agent", "fence_liar", "--option", &option])
        .unwrap();
    std::fs::remove_file(&log).unwrap();
    log
}

/// When the BMC took the host's power.
fn power_offs(lab: &Lab, host: &str) -> Vec<Timestamp> {
    let log = lab.folder().join("hosts").join(host).join("bmc").join("power.log");
    let log = std::fs::read_to_string(log).unwrap_or_default();
    let off = log.lines().filter_map(|line| line.strip_suffix(" power 0"));
    off.map(|at| at.parse().unwrap()).collect()
}

fn host_of(lab: &Lab, guest: &str) -> String {
    lab.guest(guest).unwrap()["host"].as_str().unwrap().to_owned()
}

/// When the guest's last change of owner was told.
fn promoted_at(lab: &Lab, guest: &str) -> Timestamp {
    let subject = format!("guest/{guest}");
    let events = lab.json(&["events", "--subject", &subject, "--limit", "1000"]).unwrap();
    let told = events.as_array().unwrap().iter().rfind(|event| event["kind"] == "guest-promoted").unwrap();
    told["at"].as_str().unwrap().parse().unwrap()
}

fn wait_for_fence(lab: &Lab, host: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    wait(&format!("the fence of {host}: {what}"), LIMIT, || {
        let view = lab.json(&["host", "show", host])?;
        Ok(holds(&view["fence"]).then(|| view["fence"].clone()))
    })
    .unwrap()
}

/// A host that does not lead, if that can be had.
fn not_the_leader(lab: &Lab) -> String {
    let leader = lab.leader().unwrap();
    ["host3", "host2"].into_iter().find(|host| *host != leader).unwrap().to_owned()
}

#[test]
#[ignore = "make test-fencing"]
fn power_is_seen_to_go_off_before_a_guest_in_shared_storage_starts_elsewhere() {
    let story = Story::begin("e2e-fence");
    let lab = &story.lab;
    make_pool(lab, HOSTS).unwrap();
    let target = not_the_leader(lab);
    let liar = add_liar(lab, &target);
    // Late enough for the other guest to be back before.
    add_bmc(lab, &target, &["--level", "2", "--delay", "15"]).unwrap();
    let shared =
        Recorder::start(lab, "web1", &["--pool", POOL, "--disk", "256M", "--host", &target]).unwrap();
    let mirrored = Recorder::start(lab, "db1", &["--host", &target]).unwrap();
    let watch = OwnerWatch::start(&[shared.id(), mirrored.id()]);
    lab.wait_for_sync("db1").unwrap();

    // It hangs: nothing says that it does not go on in a moment.
    lab.lab(&["pause", &target]).unwrap();
    wait("the mirrored guest to be back", LIMIT, || {
        let guest = lab.guest("db1")?;
        Ok((guest["host"] != *target && guest["phase"] == "running").then_some(()))
    })
    .unwrap();
    assert_eq!(power_offs(lab, &target), [], "it did not wait for the power");
    assert_eq!(lab.guest("web1").unwrap()["assignment"]["epoch"], 1, "and this one does");
    let last = shared.reports().last();

    // One device lies, the other takes the power.
    wait("the other guest to be back", LIMIT, || {
        let guest = lab.guest("web1")?;
        Ok((guest["host"] != *target && guest["phase"] == "running").then_some(()))
    })
    .unwrap();
    let off = power_offs(lab, &target);
    assert_eq!(off.len(), 1, "{off:?}");
    assert!(off[0] < promoted_at(lab, "web1"));
    assert!(promoted_at(lab, "db1") < off[0]);
    assert_eq!(std::fs::read_to_string(&liar).unwrap(), "off\nstatus\n");
    let fence = lab.json(&["host", "show", &target]).unwrap()["fence"].clone();
    assert_eq!(fence["off"]["devices"], serde_json::json!(["bmc"]), "{fence}");
    assert!(shared.wait_for_more(5).unwrap() > last);
    let why = lab.guest("web1").unwrap()["assignment"]["why"].as_str().unwrap().to_owned();
    assert!(why.ends_with("its power was seen to be off (bmc)"), "{why}");

    // Its power comes back, and what was said of it counts no more.
    let refused = lab.refused(&["host", "fence", &target, "--yes"]).unwrap();
    assert!(refused.contains("its power is off"), "{refused}");
    lab.kennel(&["host", "unfence", &target]).unwrap();
    lab.wait_for_hosts_online(HOSTS as usize).unwrap();
    wait_for_fence(lab, &target, "to be gone", Value::is_null);
    let audit = lab.events("host-unfenced", &format!("host/{target}")).unwrap();
    assert_eq!(audit.len(), 1, "{audit:?}");
    watch.verify().unwrap();
    lab.assert_no_errors(HOSTS).unwrap();
}

#[test]
#[ignore = "make test-fencing"]
fn a_device_that_is_wrong_is_refused_or_proves_nothing() {
    let story = Story::begin("e2e-fence-wrong");
    let lab = &story.lab;
    make_pool(lab, HOSTS).unwrap();
    let target = not_the_leader(lab);
    let other = if target == "host3" { "host2" } else { "host3" };
    for (of, password, why) in [
        (target.as_str(), Some("wrong"), "the device does not say whether there is power"),
        ("host1", None, ""),
    ] {
        let (done, said) = try_bmc(lab, &target, of, password, &[]).unwrap();
        assert!(done == why.is_empty() && said.contains(why), "{said}");
    }
    // It named host1's, which nobody can tell, until host1's own is named.
    let (done, said) = try_bmc(lab, "host1", "host1", None, &[]).unwrap();
    assert!(!done && said.contains(&format!("it would take the power of {target}")), "{said}");
    lab.kennel(&["host", "fence-device", "remove", &target, "bmc", "--yes"]).unwrap();
    let words = ["host", "fence-device", "add", &target, "x", "--agent", "fence_none"];
    let refused = lab.refused(&words).unwrap();
    assert!(refused.contains("'fence_none' is not installed here"), "{refused}");

    // Only a device that lies: the guest waits for a person.
    let liar = add_liar(lab, &target);
    let recorder =
        Recorder::start(lab, "web1", &["--pool", POOL, "--disk", "256M", "--host", &target]).unwrap();
    let watch = OwnerWatch::start(&[recorder.id()]);
    lab.lab(&["power-off", &target]).unwrap();
    let fence = wait_for_fence(lab, &target, "some tries", |fence| fence["tries"].as_u64() >= Some(3));
    assert!(
        fence["problem"].is_null() || fence["problem"].as_str().unwrap().starts_with("liar: "),
        "{fence}"
    );
    assert_eq!(lab.guest("web1").unwrap()["assignment"]["epoch"], 1);
    assert!(std::fs::read_to_string(&liar).unwrap().starts_with("off\nstatus\n"));
    let told = lab.events("host-fencing", &format!("host/{target}")).unwrap();
    assert!(told.iter().any(|event| event.contains("not proven to be off: liar:")), "{told:?}");
    lab.kennel(&["host", "confirm-dead", &target, "--yes"]).unwrap();
    lab.wait_for_phase("web1", "running").unwrap();
    wait_for_fence(lab, &target, "to be dropped", Value::is_null);
    recorder.wait_for_more(5).unwrap();
    lab.lab(&["power-on", &target]).unwrap();
    lab.wait_for_hosts_online(HOSTS as usize).unwrap();

    // By hand: not while guests run on it, unless that is said.
    add_bmc(lab, other, &[]).unwrap();
    let mirrored = Recorder::start(lab, "db1", &["--host", other]).unwrap();
    lab.wait_for_sync("db1").unwrap();
    let refused = lab.refused(&["host", "fence", other, "--yes"]).unwrap();
    assert!(refused.contains("guests run on it:") && refused.contains("db1"), "{refused}");
    let tested = lab.json(&["host", "fence-test", other]).unwrap();
    assert_eq!(tested["devices"][0]["powered"], true);
    lab.kennel(&["host", "fence", other, "--force", "--yes", "--why", "a story"]).unwrap();
    assert_eq!(power_offs(lab, other).len(), 1);
    wait("the guest to be back", LIMIT, || Ok((host_of(lab, "db1") != other).then_some(()))).unwrap();
    mirrored.wait_for_more(5).unwrap();
    lab.kennel(&["host", "unfence", other]).unwrap();
    lab.wait_for_hosts_online(HOSTS as usize).unwrap();
    watch.verify().unwrap();
}

#[test]
#[ignore = "make test-fencing"]
fn a_leader_that_freezes_in_the_middle_is_followed_by_one_that_goes_on() {
    let story = Story::begin("e2e-fence-leader");
    let lab = &story.lab;
    make_pool(lab, HOSTS).unwrap();
    let target = not_the_leader(lab);
    add_bmc(lab, &target, &["--delay", "12"]).unwrap();
    let recorder =
        Recorder::start(lab, "web1", &["--pool", POOL, "--disk", "256M", "--host", &target]).unwrap();
    let watch = OwnerWatch::start(&[recorder.id()]);
    lab.lab(&["pause", &target]).unwrap();
    wait_for_fence(lab, &target, "begun", |fence| fence["tries"] == 1);
    let leader = lab.leader().unwrap();
    lab.lab(&["freeze", &leader, "kenneld"]).unwrap();
    let fence = wait_for_fence(lab, &target, "off", |fence| !fence["off"].is_null());
    assert_ne!(fence["off"]["seen_by"], leader);
    lab.lab(&["thaw", &leader, "kenneld"]).unwrap();
    lab.wait_for_phase("web1", "running").unwrap();
    let off = power_offs(lab, &target);
    assert_eq!(off.len(), 1, "the old leader did nothing when it thawed: {off:?}");
    assert!(off[0] < promoted_at(lab, "web1"));
    recorder.wait_for_more(5).unwrap();
    lab.kennel(&["host", "unfence", &target]).unwrap();
    lab.wait_for_hosts_online(HOSTS as usize).unwrap();
    watch.verify().unwrap();
}
