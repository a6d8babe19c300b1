//! Who may ask, what there is to ask, and the way into the cluster.

use api::{
    Client, ClientConfig, ClientError, EndConnections, HashRequest, JoinRequest, JoinToken, ProblemKind,
    PromiseRequest,
};
use model::{Epoch, GuestId, HostName, VolumeId};
use store::Fault;
use uuid::Uuid;

use super::fixture::{TestCluster, host_name, refusal};
use crate::pki::{self, HostIdentity, HostKey};

/// What the table says can be asked is what the router takes, and who may ask it is as it says.
#[tokio::test]
async fn every_endpoint_is_served_and_guarded() {
    let cluster = TestCluster::start(1).await;
    let tls = api::client::trust_only(cluster.authority.certificate_pem()).unwrap();
    let http = reqwest::Client::builder().tls_backend_preconfigured(tls).build().unwrap();
    for endpoint in api::openapi::endpoints() {
        let path = endpoint.path.replace("{name}", "none").replace("{sha256}", "none");
        let url = cluster.hosts[0].endpoint.clone() + &path.replace("{id}", &Uuid::nil().to_string());
        let method: reqwest::Method = endpoint.method_name().parse().unwrap();
        let stranger = http.request(method.clone(), &url).send().await.unwrap().status();
        let operator = http.request(method, &url).bearer_auth(&cluster.token).send().await.unwrap();
        let status = operator.status();
        // The one answer that does not end.
        let endless = endpoint.path == "/v1/stream";
        let text = if endless { String::new() } else { operator.text().await.unwrap() };
        assert!(!text.contains("nothing under this path"), "{endpoint:?} is not routed");
        assert_ne!(status, 405, "{endpoint:?}");
        match endpoint.access {
            api::openapi::Access::Operator => assert_eq!(stranger, 401, "{endpoint:?}"),
            api::openapi::Access::Host => {
                assert_eq!((stranger, status.as_u16()), (403.try_into().unwrap(), 403))
            }
            api::openapi::Access::Anybody => assert!(stranger != 401 && stranger != 403, "{endpoint:?}"),
        }
    }
}

#[tokio::test]
async fn a_wrong_token_and_a_foreign_cluster_are_told_so() {
    let cluster = TestCluster::start(1).await;
    let wrong = ClientConfig { token: "guessed".to_owned(), ..cluster.config() };
    let problem = refusal(Client::from_config(wrong).unwrap().hosts().await);
    assert_eq!(problem.kind, ProblemKind::Unauthorized);
    let foreign = crate::pki::CertificateAuthority::create("other").unwrap();
    let config = ClientConfig { ca: foreign.certificate_pem().to_owned(), ..cluster.config() };
    let error = Client::from_config(config).unwrap().hosts().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_host_is_let_in_once_with_a_token_and_is_then_known_by_its_certificate() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client();
    let invitation = client.invite().await.unwrap();
    let token: JoinToken = invitation.token.parse().unwrap();
    assert_eq!(token.endpoints, [cluster.hosts[0].endpoint.clone()]);

    let name: HostName = "host2".parse().unwrap();
    let key = HostKey::create().unwrap();
    let request = JoinRequest {
        secret: token.secret.clone(),
        name: name.clone(),
        address: cluster.address(1),
        zone: "b".to_owned(),
        tags: ["ssd".to_owned()].into(),
        signing_request: key.signing_request(&name).unwrap(),
    };
    let tls = pki::pinned_client_config(&token.ca_sha256).unwrap();
    let stranger = Client::for_host("test".to_owned(), &token.endpoints, tls).unwrap();
    let taken = JoinRequest { name: host_name(0), ..request.clone() };
    assert!(refusal(stranger.join(&taken).await).why.contains("in the cluster already"));
    let taken = JoinRequest { address: cluster.address(0), ..request.clone() };
    assert!(refusal(stranger.join(&taken).await).why.contains("is that of host host1"));

    let answer = stranger.join(&request).await.unwrap();
    assert_eq!(pki::fingerprint(&answer.cluster.ca_certificate).unwrap(), token.ca_sha256);
    assert_eq!(answer.hosts.len(), 2);
    assert!(answer.hosts[1].store_member, "the first three hosts run the store");
    let again = refusal(stranger.join(&request).await);
    assert_eq!(again.kind, ProblemKind::Unauthorized, "a token lets in once: {again}");

    let ca = answer.cluster.ca_certificate;
    let identity = HostIdentity { ca, certificate: answer.certificate, key: key.key_pem() };
    let tls = identity.client_config().unwrap();
    let host2 = Client::for_host("test".to_owned(), &token.endpoints, tls).unwrap();
    let promise = PromiseRequest { guest_id: GuestId(Uuid::new_v4()), epoch: Epoch(3) };
    let promised = host2.promise(&promise).await.unwrap();
    assert_eq!((promised.host, promised.promised_ms), (host_name(0), 1003));
    assert_eq!(refusal(client.promise(&promise).await).kind, ProblemKind::Forbidden);
    let mut request = EndConnections { volume: VolumeId(Uuid::new_v4()), export: "served".to_owned() };
    host2.end_connections(&request).await.unwrap();
    assert_eq!(refusal(client.end_connections(&request).await).kind, ProblemKind::Forbidden);
    "of-another-epoch".clone_into(&mut request.export);
    let problem = refusal(host2.end_connections(&request).await);
    assert!(problem.why.contains("is nothing that this host serves"), "{problem}");
    let mut request =
        HashRequest { volume: VolumeId(Uuid::new_v4()), export: "served".to_owned(), offset: 0, length: 1 };
    assert_eq!(host2.replica_hashes(&request).await.unwrap().hashes.0, [7; 64]);
    assert_eq!(refusal(client.replica_hashes(&request).await).kind, ProblemKind::Forbidden);
    "of-another-epoch".clone_into(&mut request.export);
    let problem = refusal(host2.replica_hashes(&request).await);
    assert!(problem.why.contains("is nothing that this host serves"), "{problem}");
    assert_eq!(host2.host(&name).await.unwrap().phase, model::HostPhase::Joining);
}

#[tokio::test]
async fn a_wrong_fingerprint_joins_nothing() {
    let cluster = TestCluster::start(1).await;
    let tls = pki::pinned_client_config(&"0".repeat(64)).unwrap();
    let endpoints = [cluster.hosts[0].endpoint.clone()];
    let stranger = Client::for_host("test".to_owned(), &endpoints, tls).unwrap();
    let error = stranger.hosts().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn without_a_quorum_changes_are_refused_and_lists_go_on() {
    let cluster = TestCluster::start(2).await;
    cluster.hosts[0].fault(Fault::Unavailable);
    let problem = refusal(cluster.client_of(0).invite().await);
    assert_eq!(problem.kind, ProblemKind::StoreUnavailable);
    assert!(problem.detail.starts_with("cannot invite a host: the state store has no quorum ("), "{problem}");
    assert_eq!(cluster.client_of(0).hosts().await.unwrap().len(), 2);
    // A host that still has the store is found.
    cluster.client().invite().await.unwrap();
}

#[tokio::test]
async fn what_the_store_did_not_confirm_is_looked_for() {
    let cluster = TestCluster::start(1).await;
    cluster.hosts[0].fault(Fault::AnswersLost);
    let before = cluster.state.view().tokens.len();
    let answer = cluster.client().invite().await;
    assert_eq!(cluster.state.view().tokens.len(), before + 1, "{answer:?}");
    let known = matches!(&answer, Err(ClientError::Refused(p)) if p.kind == ProblemKind::OutcomeUnknown);
    assert!(answer.is_ok() || known, "{answer:?}");
}
