//! The cluster at a glance, networks, images and their files.

use std::sync::{Arc, Mutex};

use api::{CreateNetwork, ImportImage};
use model::{ImageName, JobKind, Recipe};
use tokio::io::AsyncReadExt;

use super::fixture::{TestCluster, host_name, refusal};
use crate::http::{LocalOps, serve_local};

#[tokio::test]
async fn the_status_counts_and_names_what_is_wrong() {
    let cluster = TestCluster::start(2).await;
    let status = cluster.client_of(0).cluster_status().await.unwrap();
    assert_eq!((status.name.as_str(), status.hosts_online, status.hosts_total), ("test", 2, 2));
    assert_eq!(status.problems, ["no host leads: nothing is recovered or placed until one does"]);
    cluster.lose_host(1).await;
    let status = cluster.client_of(0).cluster_status().await.unwrap();
    assert_eq!((status.hosts_online, status.answered_by), (1, host_name(0)));
    assert!(status.problems.contains(&"host host2 is lost".to_owned()), "{:?}", status.problems);
}

#[tokio::test]
async fn a_network_comes_and_goes() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client();
    let request = |subnet: &str, gateway: Option<&str>| CreateNetwork {
        name: "lan".parse().unwrap(),
        subnet: subnet.parse().unwrap(),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        mtu: None,
    };
    let problem = refusal(client.create_network(&request("10.1.0.5/24", None)).await);
    assert_eq!(problem.instead, "write 10.1.0.0/24");
    let problem = refusal(client.create_network(&request("10.1.0.0/24", Some("10.2.0.1"))).await);
    assert!(problem.why.contains("10.2.0.1 is not in 10.1.0.0/24"), "{problem}");
    let view = client.create_network(&request("10.1.0.0/24", Some("10.1.0.1"))).await.unwrap();
    assert_eq!(view.network.mtu, 1500);
    assert!(refusal(client.create_network(&request("10.1.0.0/24", None)).await).why.contains("exists"));
    client.delete_network(&view.name).await.unwrap();
    assert!(client.networks().await.unwrap().is_empty());
    assert!(refusal(client.delete_network(&view.name).await).why.contains("there is no network 'lan'"));
}

#[tokio::test]
async fn an_image_is_uploaded_checked_entered_and_fetched_by_another_host() {
    let cluster = TestCluster::start(2).await;
    let folder = tempfile::tempdir().unwrap();
    let (disk, kernel) = (folder.path().join("disk.raw"), folder.path().join("vmlinuz"));
    let bytes: Vec<u8> = (0..3u32 << 18).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&disk, &bytes).unwrap();
    std::fs::write(&kernel, b"a kernel").unwrap();
    let import = ImportImage {
        name: "big".parse().unwrap(),
        description: "made by a test".to_owned(),
        disk,
        kernel: Some(kernel),
        initrd: None,
        kernel_command_line: Some("quiet".to_owned()),
    };
    let seen = Arc::new(Mutex::new((0, 0)));
    let progress = Arc::clone(&seen);
    let client = cluster.client_of(0);
    let sink = move |sent, total| *progress.lock().unwrap() = (sent, total);
    let image = client.import_image(&import, sink).await.unwrap().image;
    let total = bytes.len() as u64 + 8;
    assert_eq!(*seen.lock().unwrap(), (total, total));
    assert_eq!((image.virtual_size.0, image.imported_on.clone()), (bytes.len() as u64, host_name(0)));
    assert_eq!(image.kernel_command_line.as_deref(), Some("quiet"));
    assert!(
        refusal(client.import_image(&import, |_, _| {}).await).why.contains("an image of that name exists")
    );
    let missing = ImportImage { disk: folder.path().join("none"), ..import.clone() };
    let error = client.import_image(&missing, |_, _| {}).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot import the image 'big': "), "{error}");

    let host = cluster.state.view().hosts[&host_name(0)].clone();
    let peer = api_backend(&cluster).peers().to(&host).unwrap();
    let mut fetched = Vec::new();
    peer.image_file(&image.disk.sha256).await.unwrap().read_to_end(&mut fetched).await.unwrap();
    assert!(fetched == bytes);
    for bad in ["../../etc/passwd", "00", &"0".repeat(64)] {
        assert!(peer.image_file(bad).await.is_err(), "{bad}");
    }
    client.delete_image(&image.name).await.unwrap();
}

fn api_backend(cluster: &TestCluster) -> Arc<dyn crate::http::Backend> {
    cluster.hosts[1].backend.clone()
}

#[tokio::test]
async fn a_broken_image_is_refused() {
    let cluster = TestCluster::start(1).await;
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::write(&disk, b"").unwrap();
    let import = ImportImage {
        name: "bad".parse().unwrap(),
        description: String::new(),
        disk,
        kernel: None,
        initrd: None,
        kernel_command_line: None,
    };
    let problem = refusal(cluster.client().import_image(&import, |_, _| {}).await);
    assert!(problem.detail.starts_with("cannot import the image 'bad': "), "{problem}");
    assert!(cluster.state.view().images.is_empty());
}

#[tokio::test]
async fn an_image_is_built_by_the_host_that_was_asked() {
    let cluster = TestCluster::start(2).await;
    let (client, tiny): (_, ImageName) = (cluster.client_of(1), "tiny".parse().unwrap());
    let job = client.build_image(&tiny, Recipe::Tiny).await.unwrap();
    assert_eq!(job.spec.runner, Some(host_name(1)));
    assert_eq!(job.spec.kind, JobKind::BuildImage { image: tiny.clone(), recipe: Recipe::Tiny });
    assert!(refusal(client.build_image(&tiny, Recipe::Tiny).await).why.contains("being built already"));
}

#[derive(Debug)]
struct Root;

#[async_trait::async_trait]
impl LocalOps for Root {
    async fn init(&self, request: api::InitRequest) -> Result<api::InitAnswer, api::Problem> {
        let asked = format!("make the cluster '{}'", request.name);
        Err(model::Refusal::new(asked, "this is a test", "make it elsewhere").into())
    }
    async fn join(&self, _: api::LocalJoinRequest) -> Result<api::LocalJoinAnswer, api::Problem> {
        Ok(api::LocalJoinAnswer { cluster: "test".to_owned(), host: host_name(0) })
    }
    async fn status(&self) -> api::LocalStatus {
        api::LocalStatus {
            host: host_name(0),
            version: "0".to_owned(),
            cluster: None,
            store_answers: false,
            problems: Vec::new(),
        }
    }
}

#[tokio::test]
async fn root_asks_through_a_private_socket() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let client = api::LocalClient::new(folder.path());
    let absent = client.status().await.unwrap_err();
    assert!(absent.is_unreachable(), "{absent}");
    let socket = folder.path().join("kenneld.sock");
    let path = socket.clone();
    let server = tokio::spawn(async move { serve_local(&path, Arc::new(Root)).await });
    while !socket.exists() {
        tokio::task::yield_now().await;
    }
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(client.status().await.unwrap().host, host_name(0));
    let request = api::LocalJoinRequest { token: "x".to_owned() };
    assert_eq!(client.join(&request).await.unwrap().cluster, "test");
    let problem = refusal(client.init(&api::InitRequest { name: "x".to_owned() }).await);
    assert_eq!(problem.detail, "cannot make the cluster 'x': this is a test; make it elsewhere");
    server.abort();
}
