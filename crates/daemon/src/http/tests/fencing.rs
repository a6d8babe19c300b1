//! Fence devices come and go, and an operator takes and gives power.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;

use api::{AddFenceDevice, Client, CreateGuest, FenceHost};
use jiff::Timestamp;
use model::{EventKind, GuestState, PowerOff};
use store::keys;

use super::fixture::{TestCluster, guest, host_name, refusal};

const AGENT: &str = r#"#!/bin/sh
while IFS='=' read -r name value; do eval "$name=\$value"; done
case "$action" in
metadata) cat <<'END'
<resource-agent name="fence_test"><parameters>
  <parameter name="action" required="1"><content type="string"/></parameter>
  <parameter name="switch" required="1"><content type="string"/></parameter>
  <parameter name="password" required="0"><content type="string"/></parameter>
</parameters><actions><action name="on"/><action name="off"/><action name="status"/></actions></resource-agent>
END
exit 0 ;;
esac
[ "$password" = hush ] || { echo "ERROR: '$password' is wrong" >&2; exit 1; }
case "$action" in
on) touch "$switch" ;;
off) rm -f "$switch" ;;
status) [ -e "$switch" ] || exit 2 ;;
esac
"#;

/// A cluster of two hosts, whose power is a file for each.
async fn cluster() -> TestCluster {
    let cluster = TestCluster::start(2).await;
    std::fs::create_dir(cluster.agents()).unwrap();
    let path = cluster.agents().join("fence_test");
    std::fs::write(&path, AGENT).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    for index in 0..2 {
        std::fs::write(switch(&cluster, index), "").unwrap();
    }
    cluster
}

fn switch(cluster: &TestCluster, index: usize) -> std::path::PathBuf {
    cluster.agents().join(format!("switch{index}"))
}

fn device(cluster: &TestCluster, index: usize) -> AddFenceDevice {
    let switch = switch(cluster, index).display().to_string();
    AddFenceDevice {
        name: "bmc".parse().unwrap(),
        agent: "fence_test".to_owned(),
        options: [("switch".to_owned(), switch)].into(),
        secrets: [("password".to_owned(), "hush".to_owned())].into(),
        level: 1,
        delay_s: 0,
        force: false,
    }
}

fn told(cluster: &TestCluster, kind: EventKind) -> Vec<String> {
    let view = cluster.state.view();
    view.events.values().filter(|event| event.kind == kind).map(|event| event.message.clone()).collect()
}

#[tokio::test]
async fn a_device_is_named_when_it_is_right_and_its_password_is_never_seen_again() {
    let cluster = cluster().await;
    let client = cluster.client();
    let host = host_name(0);
    let good = device(&cluster, 0);
    let view = client.add_fence_device(&host, &good).await.unwrap();
    assert_eq!(view.device.secrets, BTreeSet::from(["password".to_owned()]));
    let shown = serde_json::to_string(&client.host(&host).await.unwrap()).unwrap();
    assert!(shown.contains("fence_test") && !shown.contains("hush"), "{shown}");
    let records = cluster.state.store().list("/kennel/").await.unwrap().entries;
    let holds = |value: &[u8]| value.windows(4).any(|part| part == b"hush");
    let with: Vec<&str> = records.iter().filter(|r| holds(&r.value)).map(|r| r.key.as_str()).collect();
    let secret = keys::secret(&view.device.secret_name());
    assert_eq!(with, [secret.as_str()]);
    let test = client.test_fence_devices(&host).await.unwrap();
    assert_eq!((test.devices[0].powered, &test.devices[0].problem), (Some(true), &None));
    let problem = refusal(client.add_fence_device(&host, &good).await);
    assert!(problem.why.contains("it has a fence device of that name"), "{problem}");
    client.remove_fence_device(&host, &good.name).await.unwrap();
    assert!(client.host(&host).await.unwrap().fence_devices.is_empty());
    assert!(cluster.state.store().list(&secret).await.unwrap().entries.is_empty());
    assert!(
        refusal(client.remove_fence_device(&host, &good.name).await).why.contains("no fence device 'bmc'")
    );
    let changes = told(&cluster, EventKind::FenceDevicesChanged);
    assert_eq!(changes.len(), 2, "{changes:?}");
    assert!(changes.iter().all(|change| change.starts_with("admin ") && !change.contains("hush")));
    assert_eq!(
        told(&cluster, EventKind::FenceDevicesTested),
        ["admin tested the fence devices of host1: all answer"]
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_device_is_told_when_it_is_named() {
    let cluster = cluster().await;
    let client = cluster.client();
    let host = host_name(0);
    let good = device(&cluster, 0);
    let option = |name: &str, value: &str| {
        let mut options = good.options.clone();
        options.insert(name.to_owned(), value.to_owned());
        options
    };
    let wrong = [("password".to_owned(), "mistaken".to_owned())];
    for (request, why) in [
        (AddFenceDevice { agent: "fence_none".into(), ..good.clone() }, "'fence_none' is not installed here"),
        (AddFenceDevice { agent: "sh".into(), ..good.clone() }, "is no name of a fence agent"),
        (AddFenceDevice { options: option("colour", "red"), ..good.clone() }, "knows no option 'colour'"),
        (AddFenceDevice { options: BTreeMap::new(), ..good.clone() }, "needs the option 'switch'"),
        (AddFenceDevice { options: option("action", "on"), ..good.clone() }, "'action' cannot be set"),
        (AddFenceDevice { options: option("password", "x"), ..good.clone() }, "'password' is given twice"),
        (AddFenceDevice { level: 0, ..good.clone() }, "that level does not work"),
        (AddFenceDevice { delay_s: 10_000, ..good.clone() }, "a delay of 10000 s does not work"),
        (AddFenceDevice { secrets: wrong.into(), ..good.clone() }, "'…' is wrong"),
        (AddFenceDevice { options: option("switch", "/nowhere"), ..good.clone() }, "it is another host's"),
    ] {
        let problem = refusal(client.add_fence_device(&host, &request).await);
        assert!(problem.why.contains(why), "{why}: {problem}");
    }
    assert!(cluster.state.view().fence_devices.is_empty());
    // One that is as it should be, and does not answer now.
    std::fs::remove_file(switch(&cluster, 0)).unwrap();
    client.add_fence_device(&host, &AddFenceDevice { force: true, ..good.clone() }).await.unwrap();
    let same = AddFenceDevice { name: "other".parse().unwrap(), ..good };
    let problem = refusal(client.add_fence_device(&host_name(1), &same).await);
    assert!(problem.why.contains("it would take the power of host1"), "{problem}");
}

#[tokio::test]
async fn whoever_gives_no_reason_gets_the_one_that_the_records_tell() {
    let cluster = cluster().await;
    let client = cluster.client_of(0);
    let host = host_name(1);
    client.add_fence_device(&host, &device(&cluster, 1)).await.unwrap();
    let silent = FenceHost { why: Some("  ".into()), force: true };
    let fence = client.fence_host(&host, &silent).await.unwrap();
    assert_eq!(fence.why, "it was online, and no reason was given");
    cluster.lose_host(1).await;
    // The leader has given it up, or has done it.
    cluster
        .write(|txn| {
            txn.delete(&keys::fence(&host));
        })
        .await;
    let fence = client.fence_host(&host, &FenceHost::default()).await.unwrap();
    assert_eq!(fence.why, "it is lost");
}

async fn fenced(client: &Client, force: bool) -> Result<model::Fence, api::ClientError> {
    client.fence_host(&host_name(1), &FenceHost { why: Some("it hangs".into()), force }).await
}

#[tokio::test]
async fn an_operators_wish_is_entered_for_the_leader_and_power_is_given_back() {
    let cluster = cluster().await;
    let client = cluster.client_of(0);
    let host = host_name(1);
    assert!(refusal(fenced(&client, false).await).why.contains("it has no fence device"));
    client.add_fence_device(&host, &device(&cluster, 1)).await.unwrap();
    client.create_guest(&CreateGuest { force: true, ..CreateGuest::new(guest("web1")) }).await.unwrap();
    cluster.settle(&guest("web1"), 1, GuestState::Running).await;
    let problem = refusal(fenced(&client, false).await);
    assert!(problem.why.contains("guests run on it: web1"), "{problem}");
    let fence = fenced(&client, true).await.unwrap();
    assert_eq!((fence.asked_by.as_str(), fence.by_hand, fence.tries), ("admin", true, 0));
    assert_eq!(
        told(&cluster, EventKind::HostFencing),
        ["admin asked for the power of host2 to be taken: it hangs"]
    );
    assert!(refusal(fenced(&client, true).await).why.contains("its power is being taken already"));
    assert!(refusal(client.unfence_host(&host).await).why.contains("its power is being taken"));
    // The leader has done it.
    cluster.lose_host(1).await;
    std::fs::remove_file(switch(&cluster, 1)).unwrap();
    let devices = BTreeSet::from(["bmc".parse().unwrap()]);
    let off = PowerOff { at: Timestamp::now(), devices, seen_by: host_name(0) };
    cluster
        .write(|txn| {
            txn.put(&model::Fence { off: Some(off), ..fence });
        })
        .await;
    assert!(refusal(fenced(&client, true).await).why.contains("its power is off"));
    let given = client.unfence_host(&host).await.unwrap();
    assert_eq!(given.devices[0].powered, Some(true));
    assert!(switch(&cluster, 1).exists());
    assert_eq!(told(&cluster, EventKind::HostUnfenced), ["admin gave host2 its power back through bmc"]);
}
