//! Guests are asked for, started, stopped and deleted.

use api::{Client, CreateDisk, CreateGuest, CreateNetwork, ImageView, ProblemKind};
use jiff::Timestamp;
use model::{
    BootFrom, Bytes, GuestPhase, GuestState, Image, ImageFile, ImageFormat, JobKind, JobReport, JobState,
    Pool, PowerWish,
};
use store::keys;

use super::fixture::{TestCluster, guest, host_name, refusal};

async fn add_image(cluster: &TestCluster, name: &str, virtual_size: Bytes, kernel: bool) {
    let file = ImageFile { sha256: "ab".repeat(32), size: Bytes::mib(1) };
    let image = Image {
        name: name.parse().unwrap(),
        description: String::new(),
        disk: file.clone(),
        format: ImageFormat::Qcow2,
        virtual_size,
        kernel: kernel.then(|| file.clone()),
        initrd: None,
        kernel_command_line: None,
        imported_at: Timestamp::now(),
        imported_on: host_name(0),
    };
    cluster
        .write(|txn| {
            txn.create(&image);
        })
        .await;
}

async fn add_network(client: &Client, name: &str, subnet: &str, gateway: Option<&str>) {
    let request = CreateNetwork {
        name: name.parse().unwrap(),
        subnet: subnet.parse().unwrap(),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        mtu: None,
    };
    client.create_network(&request).await.unwrap();
}

#[tokio::test]
async fn a_guest_needs_nothing_but_a_name() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.client();
    add_network(&client, "default", "10.90.0.0/24", None).await;
    add_image(&cluster, "debian-13", Bytes::gib(20), false).await;
    let request =
        CreateGuest { image: Some("debian-13".parse().unwrap()), ..CreateGuest::new(guest("web1")) };
    let job = client.create_guest(&request).await.unwrap();
    assert_eq!(job.spec.kind, JobKind::CreateGuest { guest: guest("web1") });
    assert_eq!((job.state, job.spec.requested_by.as_str()), (JobState::Waiting, "admin"));
    let view = client.guest(&guest("web1")).await.unwrap();
    assert_eq!(view.phase, GuestPhase::Waiting);
    let spec = view.spec;
    assert_eq!((spec.memory, spec.vcpus, spec.power), (Bytes::mib(512), 1, PowerWish::Running));
    assert_eq!((spec.disks.len(), spec.disks[0].pool), (1, Pool::Mirror), "two hosts: mirrored");
    assert_eq!(spec.disks[0].size, Bytes::gib(20), "as large as the image");
    assert_eq!((spec.boot, spec.nics[0].network.as_str()), (BootFrom::Disk, "default"));
    assert_eq!(client.volumes().await.unwrap()[0].id, spec.disks[0].volume);
}

#[tokio::test]
async fn an_image_with_a_kernel_makes_a_small_guest_with_its_address() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client();
    add_network(&client, "lan", "10.90.0.0/24", Some("10.90.0.254")).await;
    add_image(&cluster, "tiny", Bytes::mib(1), true).await;
    let request = CreateGuest {
        image: Some("tiny".parse().unwrap()),
        network: Some("lan".parse().unwrap()),
        address: Some("10.90.0.7".parse().unwrap()),
        disks: vec![CreateDisk::default(), CreateDisk { size: Some(Bytes(1000)), pool: None, thin: false }],
        ..CreateGuest::new(guest("tiny1"))
    };
    client.create_guest(&request).await.unwrap();
    let spec = client.guest(&guest("tiny1")).await.unwrap().spec;
    assert_eq!((spec.memory, spec.boot), (Bytes::mib(128), BootFrom::Image("tiny".parse().unwrap())));
    let sizes: Vec<_> = spec.disks.iter().map(|disk| disk.size).collect();
    assert_eq!(sizes, [Bytes::mib(64), Bytes::mib(1)], "rounded up");
    assert_eq!(spec.disks[1].image, None);
    assert_eq!(spec.disks[0].pool, Pool::Local, "one host: nowhere to mirror to");
    assert_eq!(spec.nics[0].address, Some("10.90.0.7/24".parse().unwrap()));
    let network = client.networks().await.unwrap().remove(0);
    assert_eq!(network.addresses[0].guest, guest("tiny1"));

    let problem = refusal(client.delete_network(&"lan".parse().unwrap()).await);
    assert!(problem.why.contains("tiny1"), "{problem}");
    let problem = refusal(client.delete_image(&"tiny".parse().unwrap()).await);
    assert!(problem.why.contains("tiny1"), "{problem}");
}

/// Each refusal says what was asked, why not, and what would work; and nothing is left half made.
#[tokio::test]
async fn what_makes_no_sense_is_refused_and_leaves_nothing() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.client();
    add_network(&client, "default", "10.90.0.0/24", Some("10.90.0.254")).await;
    add_image(&cluster, "debian", Bytes::gib(3), false).await;
    let address = |text: &str| Some(text.parse().unwrap());
    let taken = CreateGuest { address: address("10.90.0.5"), ..CreateGuest::new(guest("first")) };
    client.create_guest(&taken).await.unwrap();

    let new = || CreateGuest::new(guest("new"));
    let disk =
        |size, pool: Option<Pool>| CreateDisk { size: Some(size), pool: pool.map(Into::into), thin: false };
    let image = Some("debian".parse().unwrap());
    let cases = [
        (CreateGuest { name: guest("first"), ..new() }, "a guest of that name exists"),
        (CreateGuest { image: Some("none".parse().unwrap()), ..new() }, "there is no image 'none'"),
        (CreateGuest { network: Some("none".parse().unwrap()), ..new() }, "there is no network 'none'"),
        (CreateGuest { host: Some("none".parse().unwrap()), ..new() }, "there is no host 'none'"),
        (CreateGuest { address: address("10.91.0.5"), ..new() }, "is not in 10.90.0.0/24"),
        (CreateGuest { address: address("10.90.0.5"), ..new() }, "the guest 'first' has the address"),
        (CreateGuest { address: address("10.90.0.0"), ..new() }, "not an address for a host"),
        (CreateGuest { address: address("10.90.0.255"), ..new() }, "not an address for a host"),
        (CreateGuest { address: address("10.90.0.254"), ..new() }, "is the gateway"),
        (CreateGuest { memory: Some(Bytes(0)), ..new() }, "too little memory"),
        (CreateGuest { memory: Some(Bytes::gib(100)), ..new() }, "host1: "),
        (CreateGuest { vcpus: 0, ..new() }, "cannot have 0 CPUs"),
        (CreateGuest { disks: vec![disk(Bytes(0), None)], ..new() }, "has no size"),
        (CreateGuest { disks: vec![disk(Bytes(u64::MAX), None)], ..new() }, "no host has"),
        (
            CreateGuest { image, disks: vec![disk(Bytes::gib(1), None)], ..new() },
            "smaller than the image 'debian' of 3G",
        ),
        (
            CreateGuest {
                disks: vec![disk(Bytes::gib(1), Some(Pool::Local)), disk(Bytes::gib(1), Some(Pool::Mirror))],
                ..new()
            },
            "its disks are in several pools",
        ),
        (
            CreateGuest {
                disks: vec![CreateDisk { size: None, pool: Some("nfs1".parse().unwrap()), thin: false }],
                ..new()
            },
            "there is no pool 'nfs1'",
        ),
        (CreateGuest { user_data: Some("x".repeat(100_000)), ..new() }, "user-data"),
    ];
    for (request, why) in cases {
        let problem = refusal(client.create_guest(&request).await);
        assert!(problem.detail.contains(why), "expected '{why}' in: {problem}");
        assert!(
            problem.detail.starts_with(&format!("cannot create the guest '{}': ", request.name)),
            "{problem}"
        );
        assert!(!problem.instead.is_empty());
    }
    let view = cluster.state.view();
    assert_eq!((view.guests.len(), view.jobs.len(), view.addresses.len()), (1, 1, 1));
}

#[tokio::test]
async fn two_that_ask_for_one_name_or_address_at_once_get_one_guest() {
    let cluster = TestCluster::start(2).await;
    add_network(&cluster.client(), "default", "10.90.0.0/24", None).await;
    cluster.spread().await;
    let ask = |index: usize, name: &str| {
        let client = cluster.client_of(index % 2);
        let request =
            CreateGuest { address: Some("10.90.0.9".parse().unwrap()), ..CreateGuest::new(guest(name)) };
        async move { client.create_guest(&request).await }
    };
    let asked = ["a", "a", "b", "c"].into_iter().enumerate().map(|(index, name)| ask(index, name));
    let answers = futures::future::join_all(asked).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
    for answer in answers.into_iter().filter(Result::is_err) {
        assert_eq!(refusal(answer).kind, ProblemKind::Refused);
    }
    assert_eq!(cluster.state.view().guests.len(), 1);
}

#[tokio::test]
async fn wishes_that_are_fulfilled_already_are_refused() {
    let cluster = TestCluster::start(1).await;
    let (client, name) = (cluster.client(), guest("web1"));
    assert_eq!(refusal(client.start_guest(&name).await).kind, ProblemKind::NotFound);
    client.create_guest(&CreateGuest::new(name.clone())).await.unwrap();
    assert!(refusal(client.start_guest(&name).await).why.contains("is to run already"));
    cluster.settle(&name, 0, GuestState::Running).await;
    let problem = refusal(client.start_guest(&name).await);
    assert_eq!(
        problem.detail,
        "cannot start the guest 'web1': it is running already; restart it with `kennel guest restart web1`"
    );
    client.restart_guest(&name).await.unwrap();
    assert_eq!(client.guest(&name).await.unwrap().spec.boot_generation, 2);
    client.stop_guest(&name).await.unwrap();
    assert!(refusal(client.stop_guest(&name).await).why.contains("to stop already"));
    cluster.settle(&name, 0, GuestState::Stopped).await;
    assert!(refusal(client.stop_guest(&name).await).why.contains("stopped already"));
    assert!(refusal(client.restart_guest(&name).await).why.contains("it is stopped"));
    client.start_guest(&name).await.unwrap();
    let spec = client.guest(&name).await.unwrap().spec;
    assert_eq!((spec.power, spec.boot_generation), (PowerWish::Running, 3));
    // It shut itself down: starting it again is no contradiction.
    client.start_guest(&name).await.unwrap();

    let job = client.delete_guest(&name).await.unwrap();
    assert_eq!(job.spec.kind, JobKind::DeleteGuest { guest: name.clone() });
    assert_eq!(client.guest(&name).await.unwrap().phase, GuestPhase::Deleting);
    assert!(refusal(client.delete_guest(&name).await).why.contains("being deleted already"));
    let problem = refusal(client.create_guest(&CreateGuest::new(name.clone())).await);
    assert!(problem.why.contains("still being deleted"), "{problem}");
    cluster.delete(&keys::guest(&name)).await;
    client.create_guest(&CreateGuest::new(name)).await.unwrap();
}

#[tokio::test]
async fn a_job_is_cancelled_while_it_runs_and_not_after() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client();
    let job = client.create_guest(&CreateGuest::new(guest("web1"))).await.unwrap();
    assert!(client.cancel_job(job.id).await.unwrap().spec.cancel);
    let report = JobReport { state: JobState::Cancelled, ..JobReport::new(job.id, ["one"]) };
    cluster
        .write(|txn| {
            txn.create(&report);
        })
        .await;
    assert!(refusal(client.cancel_job(job.id).await).why.contains("ended already (cancelled)"));
    assert_eq!(client.jobs().await.unwrap()[0].state, JobState::Cancelled);
}

#[tokio::test]
async fn a_name_that_breaks_the_rule_is_refused_with_the_rule() {
    let cluster = TestCluster::start(1).await;
    let tls = api::client::trust_only(cluster.authority.certificate_pem()).unwrap();
    let http = reqwest::Client::builder().tls_backend_preconfigured(tls).build().unwrap();
    let url = cluster.hosts[0].endpoint.clone() + "/v1/guests";
    let answer =
        http.post(url).bearer_auth(&cluster.token).body("{\"name\":\"Web_1\"}").send().await.unwrap();
    assert_eq!(answer.status(), 422);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let problem: api::Problem = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert!(problem.why.contains("'Web_1' is not a valid guest name: use 1 to 63 characters"), "{problem}");
}

#[tokio::test]
async fn an_image_is_shown_with_the_hosts_that_have_it() {
    let cluster = TestCluster::start(1).await;
    add_image(&cluster, "tiny", Bytes::mib(1), true).await;
    let mut report = cluster.state.view().host_reports[&host_name(0)].clone();
    report.images.insert("tiny".parse().unwrap());
    cluster
        .write(|txn| {
            txn.put(&report);
        })
        .await;
    let ImageView { present_on, .. } = cluster.client().image(&"tiny".parse().unwrap()).await.unwrap();
    assert_eq!(present_on, [host_name(0)]);
}
