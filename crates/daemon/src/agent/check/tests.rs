//! Looks at real services: Python's server for HTTP, with certificates and without.

use std::path::Path;

use reqwest::Certificate;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::*;
use crate::alerts::tests::Server;
use crate::pki::{CertificateAuthority, HostKey};

/// What serves, at 127.0.0.1.
struct Service {
    _server: Server,
    at: SocketAddr,
    /// The authority that issued its certificate.
    authority: Option<Certificate>,
    _folder: Option<TempDir>,
}

impl Service {
    async fn start(words: &[&str]) -> (Server, SocketAddr) {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/agent/check/tests/service.py");
        let server = Server::run(&program, words).await;
        let at = SocketAddr::from(([127, 0, 0, 1], server.port));
        (server, at)
    }

    async fn plain() -> Service {
        let (server, at) = Self::start(&[]).await;
        Service { _server: server, at, authority: None, _folder: None }
    }

    /// Its certificate is for web1, localhost and 127.0.0.1.
    async fn with_certificate() -> Service {
        let authority = CertificateAuthority::create("test").unwrap();
        let key = HostKey::create().unwrap();
        let name = "web1".parse().unwrap();
        let request = key.signing_request(&name).unwrap();
        let certificate = authority.issue_host(&request, &name, "127.0.0.1".parse().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let kept = |file: &str, text: &str| {
            let path = folder.path().join(file);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let (certificate, key) = (kept("certificate", &certificate), kept("key", &key.key_pem()));
        let (server, at) = Self::start(&[&certificate, &key]).await;
        let authority = Certificate::from_pem(authority.certificate_pem().as_bytes()).unwrap();
        Service { _server: server, at, authority: Some(authority), _folder: Some(folder) }
    }

    fn check(&self, path: &str) -> HttpCheck {
        HttpCheck::new(self.at.port(), path, self.authority.is_some())
    }

    /// By a host that trusts no authority of the service's.
    async fn seen(&self, check: &HttpCheck) -> Seen {
        http::look(&http::builder(self.at, check).build().unwrap(), self.at, check).await
    }

    /// By a host that trusts its authority.
    async fn trusted(&self, check: &HttpCheck) -> Seen {
        let client = http::builder(self.at, check).tls_certs_merge(self.authority.clone());
        http::look(&client.build().unwrap(), self.at, check).await
    }
}

fn failed(why: &str) -> Seen {
    Seen::Failed(why.to_owned())
}

#[track_caller]
fn cannot(seen: Seen, why: &str) {
    assert!(matches!(&seen, Seen::Cannot(said) if said.contains(why)), "{why}: {seen:?}");
}

#[tokio::test]
async fn an_http_answer_is_good_or_says_what_it_lacks() {
    let service = Service::plain().await;
    let check = |path: &str| service.check(path);
    let with = |path: &str, status: u16| HttpCheck { status: Some(status), ..check(path) };
    let text = |path: &str, text: &str| HttpCheck { text: Some(text.to_owned()), ..check(path) };
    assert_eq!(service.seen(&check("/well")).await, Seen::Well);
    assert_eq!(service.seen(&text("/well", "is well")).await, Seen::Well);
    assert_eq!(service.seen(&text("/well", "is ill")).await, failed("the answer lacks 'is ill'"));
    let busy = failed("the answer is status 503 Service Unavailable");
    assert_eq!(service.seen(&check("/busy")).await, busy);
    assert_eq!(service.seen(&with("/busy", 200)).await, busy);
    // Who wants a password is well, if that is what is expected.
    assert_eq!(service.seen(&with("/private", 401)).await, Seen::Well);
    assert_eq!(service.seen(&with("/well", 204)).await, failed("the answer is status 200 OK"));
    assert_eq!(service.seen(&check("/moved")).await, Seen::Well, "it is not followed to what is busy");
    assert_eq!(service.seen(&check("/nowhere")).await, failed("the answer is status 404 Not Found"));
}

#[tokio::test]
async fn a_server_is_asked_by_its_name_at_the_guests_address() {
    let service = Service::plain().await;
    let port = service.at.port();
    let text = Some(format!("at www.example.org:{port}"));
    let check = HttpCheck { name: Some("WWW.example.org".into()), text, ..service.check("/well") };
    assert_eq!(service.seen(&check).await, Seen::Well);
    let text = Some(format!("at 127.0.0.1:{port}"));
    assert_eq!(service.seen(&HttpCheck { text, ..service.check("/well") }).await, Seen::Well);
}

#[tokio::test]
async fn a_certificate_must_be_trusted_and_for_the_name_unless_any_will_do() {
    let service = Service::with_certificate().await;
    let check = service.check("/well");
    let named = |name: &str| HttpCheck { name: Some(name.to_owned()), ..check.clone() };
    assert_eq!(service.trusted(&check).await, Seen::Well);
    assert_eq!(service.trusted(&named("web1")).await, Seen::Well);
    let busy = failed("the answer is status 503 Service Unavailable");
    assert_eq!(service.trusted(&service.check("/busy")).await, busy);
    // These say nothing of the guest, so that nobody restarts it.
    cannot(
        service.trusted(&named("www.example.org")).await,
        "is for another name: say which with --health-name",
    );
    cannot(service.seen(&check).await, "no authority that this host trusts has issued its certificate");
    let any = HttpCheck { any_certificate: true, ..check.clone() };
    assert_eq!(service.seen(&any).await, Seen::Well);
    assert_eq!(service.seen(&HttpCheck { any_certificate: true, ..named("other") }).await, Seen::Well);
    assert_eq!(service.seen(&HttpCheck { path: "/busy".into(), ..any }).await, busy);
}

#[tokio::test]
async fn what_speaks_something_else_has_failed() {
    let (plain, tls) = (Service::plain().await, Service::with_certificate().await);
    let seen = plain.seen(&HttpCheck { tls: true, ..plain.check("/well") }).await;
    assert!(matches!(&seen, Seen::Failed(why) if why.contains("does not speak TLS")), "{seen:?}");
    let seen = tls.seen(&HttpCheck { tls: false, ..tls.check("/well") }).await;
    assert!(matches!(&seen, Seen::Failed(why) if why.contains("does not answer as it should")), "{seen:?}");
}

#[tokio::test]
async fn where_nothing_listens_the_guest_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    assert!(connect(at).await.is_ok());
    drop(listener);
    assert!(matches!(connect(at).await, Err(Seen::Failed(why)) if why.contains("refused")));
    for tls in [false, true] {
        let check = HttpCheck::new(at.port(), "/", tls);
        let seen = http::look(&http::builder(at, &check).build().unwrap(), at, &check).await;
        assert!(matches!(&seen, Seen::Failed(why) if why.contains("refused")), "{seen:?}");
    }
}
