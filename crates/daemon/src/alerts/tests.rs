//! Notices on their way to real servers: one for HTTP and one for mail, in Python, so that others than ourselves read
//! what we send.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use model::{
    AlertTarget, ClusterView, GuestStory, Incident, IncidentId, IncidentKind, MailTls, Told, Weight,
};
use plan::alert::{Due, Occasion};
use serde_json::Value;
use store::MemoryStore;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use uuid::Uuid;

use super::*;
use crate::pki::{CertificateAuthority, HostKey};

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server in Python; it ends with this.
pub struct Server {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    pub port: u16,
}

impl Server {
    pub async fn start(program: &str, words: &[&str]) -> Server {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/alerts/tests").join(program);
        Self::run(&path, words).await
    }

    /// A program that tells its port first.
    pub async fn run(path: &Path, words: &[&str]) -> Server {
        // Debian's own, which has the packages that scripts/setup installs.
        let mut command = Command::new("/usr/bin/python3");
        command.arg(path).args(words).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().expect("python3, which scripts/setup installs");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut server = Server { _child: child, lines, port: 0 };
        server.port = server.line().await.parse().unwrap();
        server
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
        let line = line.expect("the server tells something");
        line.unwrap().expect("the server runs: python3-aiosmtpd is installed by scripts/setup")
    }

    /// What came next.
    pub async fn got(&mut self) -> Value {
        serde_json::from_str(&self.line().await).unwrap()
    }
}

/// A host with a store, and a certificate for 127.0.0.1 of an authority that nobody trusts unasked.
struct World {
    state: State,
    post: Post,
    folder: TempDir,
    ca: String,
}

impl World {
    async fn new() -> World {
        let state = State::start(Arc::new(MemoryStore::new()));
        state.until(store::Cache::is_ready).await;
        let me: HostName = "host1".parse().unwrap();
        let authority = CertificateAuthority::create("test").unwrap();
        let key = HostKey::create().unwrap();
        let request = key.signing_request(&me).unwrap();
        let certificate = authority.issue_host(&request, &me, "127.0.0.1".parse().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("certificate"), certificate).unwrap();
        std::fs::write(folder.path().join("key"), key.key_pem()).unwrap();
        let post = Post::new(me, state.clone());
        World { state, post, folder, ca: authority.certificate_pem().to_owned() }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    async fn smtp(&self, way: &str) -> Server {
        Server::start("smtp.py", &[way, &self.path("certificate"), &self.path("key")]).await
    }

    async fn target(&self, way: AlertWay, secret: Option<&str>, trusted: bool) -> AlertTarget {
        let target = AlertTarget {
            name: "pager".parse().unwrap(),
            id: Uuid::new_v4(),
            way,
            from: Weight::Warning,
            ca: trusted.then(|| self.ca.clone()),
            has_secret: secret.is_some(),
            created_at: Timestamp::UNIX_EPOCH,
        };
        if let Some(text) = secret {
            let kept = Secret { name: target.secret_name(), text: text.to_owned() };
            let written = self.state.write(|txn| {
                txn.create(&kept);
            });
            assert!(matches!(written.await, Ok(store::Outcome::Committed { .. })));
        }
        target
    }

    /// Why a webhook is not reached.
    async fn unreached(&self, url: String, trusted: bool) -> String {
        let target = self.target(AlertWay::Webhook { url }, None, trusted).await;
        self.post.send(&target, &notice()).await.unwrap_err()
    }

    async fn mail(
        &self,
        port: u16,
        tls: MailTls,
        login: Option<(&str, &str)>,
        trusted: bool,
    ) -> Result<(), String> {
        let way = AlertWay::Mail {
            to: "ada@example.org".to_owned(),
            sender: "kennel@example.org".to_owned(),
            server: "127.0.0.1".to_owned(),
            port,
            tls,
            user: login.map(|(user, _)| user.to_owned()),
        };
        let target = self.target(way, login.map(|(_, password)| password), trusted).await;
        self.post.send(&target, &notice()).await
    }
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_800_000_000_000 + ms).unwrap()
}

fn incident() -> Incident {
    let story = GuestStory {
        from: "host1".parse().ok(),
        down_at: Some(at(0)),
        decided_at: Some(at(200)),
        started_at: Some(at(1_400)),
        to: "host2".parse().ok(),
        ..GuestStory::default()
    };
    Incident {
        id: IncidentId(12),
        kind: IncidentKind::HostLost,
        subject: "host/host1".to_owned(),
        began_at: at(0),
        opened_at: at(300),
        well_since: None,
        ended_at: None,
        weight: Weight::Critical,
        peak: Weight::Critical,
        proven_at: None,
        open_because: vec!["host1 is lost".to_owned(), "web1 has one replica".to_owned()],
        guests: [("web1".parse().unwrap(), story)].into(),
        more_guests: false,
        entries: Vec::new(),
        more_entries: false,
    }
}

fn due(id: u64, occasion: Occasion) -> Due {
    let told = Told { weight: Weight::Critical, ended: occasion == Occasion::Ended, notices: 1 };
    Due { incident: IncidentId(id), occasion, told }
}

fn view() -> ClusterView {
    let cluster = model::Cluster {
        name: "home".to_owned(),
        id: Uuid::nil(),
        created_at: at(0),
        ca_certificate: String::new(),
        settings: model::Settings::default(),
    };
    ClusterView {
        cluster: Some(cluster),
        incidents: [(IncidentId(12), incident())].into(),
        ..ClusterView::default()
    }
}

fn notice() -> api::Notice {
    single(&view(), &due(12, Occasion::Opened), &incident(), at(500))
}

#[tokio::test]
async fn a_webhook_gets_json_whose_signature_its_receiver_can_check() {
    let world = World::new().await;
    let mut server = Server::start("webhook.py", &["a secret key"]).await;
    let url = format!("http://127.0.0.1:{}/hook?from=kennel", server.port);
    let target = world.target(AlertWay::Webhook { url: url.clone() }, Some("a secret key"), false).await;
    world.post.send(&target, &notice()).await.unwrap();
    let got = server.got().await;
    assert_eq!((&got["signed"], &got["type"]), (&true.into(), &"application/json".into()));
    let told: api::Notice = serde_json::from_value(got["notice"].clone()).unwrap();
    assert_eq!(told, notice());
    assert_eq!(told.headline, "critical: host1 is lost");
    assert_eq!(got["notice"]["incidents"][0]["guests"][0]["parts"]["start_ms"], 1_200);

    let unsigned = world.target(AlertWay::Webhook { url }, None, false).await;
    world.post.send(&unsigned, &notice()).await.unwrap();
    assert_eq!(server.got().await["signed"], false);
}

#[test]
fn a_signature_is_the_hmac_of_the_body() {
    // RFC 4231, test case 2.
    let expected = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    assert_eq!(webhook::signature("Jefe", b"what do ya want for nothing?").unwrap(), expected);
}

#[tokio::test]
async fn a_webhook_that_is_not_reached_is_told_plainly() {
    let world = World::new().await;
    let plain = Server::start("webhook.py", &["k"]).await;
    let (certificate, key) = (world.path("certificate"), world.path("key"));
    let mut secure = Server::start("webhook.py", &["k", &certificate, &key]).await;

    let said = world.unreached(format!("http://127.0.0.1:{}/broken", plain.port), false).await;
    assert!(said.starts_with("127.0.0.1 answered 503 Service Unavailable"), "{said}");
    let said = world.unreached(format!("http://127.0.0.1:{}/moved", plain.port), false).await;
    assert!(said.ends_with("points to https://elsewhere.example/: use that URL"), "{said}");
    let said = world.unreached("http://nobody.invalid/".to_owned(), false).await;
    assert!(said.contains("'nobody.invalid'"), "{said}");
    let said = world.unreached(format!("https://127.0.0.1:{}/", plain.port), true).await;
    assert_eq!(said, "127.0.0.1 does not speak TLS on that port");
    let said = world.unreached(format!("https://127.0.0.1:{}/", secure.port), false).await;
    assert!(said.starts_with("the certificate of 127.0.0.1 is not trusted"), "{said}");
    assert!(said.contains("--ca-file"), "{said}");
    drop(plain);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let said = world.unreached(format!("http://127.0.0.1:{free}/"), false).await;
    assert_eq!(said, "nothing listens there: 127.0.0.1 refused the connection");

    let url = format!("https://127.0.0.1:{}/", secure.port);
    let target = world.target(AlertWay::Webhook { url }, None, true).await;
    world.post.send(&target, &notice()).await.unwrap();
    assert_eq!(secure.got().await["notice"]["cluster"], "home");
}

#[tokio::test]
async fn mail_goes_through_starttls_tls_or_what_was_asked_for() {
    let world = World::new().await;
    let login = Some(("kennel", "hush"));
    let mut server = world.smtp("starttls").await;
    world.mail(server.port, MailTls::Starttls, login, true).await.unwrap();
    let got = server.got().await;
    assert_eq!((&got["from"], &got["to"][0]), (&"kennel@example.org".into(), &"ada@example.org".into()));
    assert_eq!(got["subject"], "[home] critical: host1 is lost");
    assert_eq!((&got["user"], &got["automatic"]), (&"kennel".into(), &"auto-generated".into()));
    assert_eq!(got["id"], "<00000000-0000-0000-0000-000000000000-12-1@kennel.invalid>");
    let text = got["text"].as_str().unwrap();
    assert!(text.contains("web1  was down for 1.4 s: it ran on host1, and runs on host2 now"), "{text}");

    let mut server = world.smtp("tls").await;
    world.mail(server.port, MailTls::Tls, login, true).await.unwrap();
    assert_eq!(server.got().await["user"], "kennel");
    let mut server = world.smtp("plain").await;
    world.mail(server.port, MailTls::None, None, false).await.unwrap();
    assert_eq!(server.got().await["user"], Value::Null);
}

#[tokio::test]
async fn mail_that_is_not_taken_is_told_plainly() {
    let world = World::new().await;
    let (starttls, tls, plain) =
        (world.smtp("starttls").await, world.smtp("tls").await, world.smtp("plain").await);
    let login = Some(("kennel", "hush"));
    let said =
        world.mail(starttls.port, MailTls::Starttls, Some(("kennel", "wrong")), true).await.unwrap_err();
    assert!(said.starts_with("127.0.0.1 refused the name or the password"), "{said}");
    let said = world.mail(starttls.port, MailTls::Starttls, login, false).await.unwrap_err();
    assert!(said.starts_with("the certificate of 127.0.0.1 is not trusted"), "{said}");
    let said = world.mail(starttls.port, MailTls::None, None, true).await.unwrap_err();
    assert!(said.starts_with("127.0.0.1 wants TLS: use --tls starttls"), "{said}");
    let said = world.mail(tls.port, MailTls::Tls, None, true).await.unwrap_err();
    assert!(said.starts_with("127.0.0.1 wants a name and a password"), "{said}");
    let said = world.mail(plain.port, MailTls::Starttls, None, true).await.unwrap_err();
    assert!(said.starts_with("127.0.0.1 does not offer STARTTLS"), "{said}");
    let said = world.mail(plain.port, MailTls::Tls, None, true).await.unwrap_err();
    assert_eq!(said, "127.0.0.1 does not speak TLS on that port");
}

#[test]
fn a_mail_reads_well_at_night() {
    let (subject, text) = notice::mail(&notice());
    assert_eq!(subject, "[home] critical: host1 is lost");
    let expected = "host1 is lost.\n\
                    \n\
                    Began   2027-01-15 08:00:00 UTC\n\
                    Weighs  critical now\n\
                    Still   host1 is lost\n\
                    \x20       web1 has one replica\n\
                    \n\
                    What it means\n\
                    \x20 web1  was down for 1.4 s: it ran on host1, and runs on host2 now\n\
                    \x20       decided in 0.2 s, started in 1.2 s\n\
                    \n\
                    All of it, as it goes on: kennel incident show 12\n\
                    \n\
                    -- \n\
                    Kennel, cluster home\n";
    assert_eq!(text, expected);

    let ended = Incident { ended_at: Some(at(92_000)), ..incident() };
    let said = single(&view(), &due(12, Occasion::Ended), &ended, at(93_000)).headline;
    assert_eq!(said, "ended: host1 was lost, for 1 min 32 s");
    let much = several(&view(), &[due(12, Occasion::Opened), due(12, Occasion::Opened)], at(0)).unwrap();
    assert_eq!(notice::mail(&much).0, "[home] 2 incidents at once: 2 open, 0 ended");
}

#[test]
fn urls_that_cannot_be_meant_are_refused() {
    assert_eq!(check_url("https://alerts.example:8443/x?y=z"), Ok(()));
    let bad = ["", "alerts.example", "ftp://alerts.example/", "http://", "https://ada:hush@alerts.example/"];
    for url in bad {
        let (why, instead) = check_url(url).expect_err(url);
        assert!(!why.is_empty() && !instead.is_empty() && !why.contains("hush"), "{url}: {why}");
    }
}
