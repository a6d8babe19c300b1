//! Targets of alerts come and go; what is malformed is refused, and what is secret is never shown.

use std::collections::BTreeMap;

use api::AddAlert;
use jiff::Timestamp;
use model::{AlertState, AlertWay, EventKind, Incident, IncidentId, IncidentKind, MailTls, Weight};
use store::keys;

use super::fixture::{TestCluster, refusal};

fn webhook(url: &str) -> AddAlert {
    let way = AlertWay::Webhook { url: url.to_owned() };
    AddAlert { name: None, way, from: Weight::Warning, secret: None, ca: None }
}

fn mail(to: &str, tls: MailTls, user: Option<&str>, secret: Option<&str>) -> AddAlert {
    let way = AlertWay::Mail {
        to: to.to_owned(),
        sender: "kennel@example.org".to_owned(),
        server: "mail.example.org".to_owned(),
        port: 587,
        tls,
        user: user.map(str::to_owned),
    };
    AddAlert { name: None, way, from: Weight::Critical, secret: secret.map(str::to_owned), ca: None }
}

#[tokio::test]
async fn a_target_is_named_shown_without_its_secret_and_removed_with_it() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client();
    let request = AddAlert { secret: Some("a very secret key".to_owned()), ..webhook("http://127.0.0.1:1/") };
    assert!(!format!("{request:?}").contains("secret key"));
    let first = client.add_alert(&request).await.unwrap();
    let second = client.add_alert(&mail("ada@example.org", MailTls::Starttls, None, None)).await.unwrap();
    assert_eq!((first.name.as_str(), second.name.as_str()), ("webhook-1", "mail-1"));
    assert_eq!(client.add_alert(&webhook("http://127.0.0.1:2/")).await.unwrap().name.as_str(), "webhook-2");

    let shown = serde_json::to_string(&client.alerts().await.unwrap()).unwrap();
    assert!(shown.contains("127.0.0.1:1") && !shown.contains("very secret"), "{shown}");
    let secret = keys::secret(&first.target.secret_name());
    assert_eq!(cluster.state.store().list(&secret).await.unwrap().entries.len(), 1);

    let test = client.test_alert(&first.name).await.unwrap();
    assert_eq!(test.problem.as_deref(), Some("nothing listens there: 127.0.0.1 refused the connection"));

    let state = AlertState { problem: Some("nobody answers".to_owned()), ..AlertState::new(&first.target) };
    cluster
        .write(|txn| {
            txn.put(&state);
        })
        .await;
    let problems = client.cluster_status().await.unwrap().problems;
    assert!(
        problems.contains(&"alerts to 'webhook-1' do not arrive: nobody answers".to_owned()),
        "{problems:?}"
    );

    client.remove_alert(&first.name).await.unwrap();
    assert!(cluster.state.store().list(&secret).await.unwrap().entries.is_empty());
    assert!(cluster.state.view().alert_states.is_empty());
    assert_eq!(refusal(client.remove_alert(&first.name).await).status, 404);
    let view = cluster.state.view();
    let told: Vec<&str> = view
        .events
        .values()
        .filter(|event| event.kind == EventKind::AlertsChanged && event.subject == "alert/webhook-1")
        .map(|event| event.message.as_str())
        .collect();
    assert_eq!(
        told,
        [
            "admin has 'webhook-1' told of incidents: http://127.0.0.1:1/",
            "admin has 'webhook-1' told of incidents no more"
        ]
    );
}

#[tokio::test]
async fn what_is_malformed_is_refused_with_what_would_work() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client();
    let pem = AddAlert { ca: Some("no certificate".to_owned()), ..webhook("https://a.example/") };
    let short = AddAlert { secret: Some("short".to_owned()), ..webhook("https://a.example/") };
    let long = AddAlert { secret: Some("two\nlines".to_owned()), ..webhook("https://a.example/") };
    let cases = [
        (webhook("alerts.example"), "is not a URL"),
        (webhook("ftp://alerts.example/"), "not by ftp"),
        (webhook("https://ada:hush@alerts.example/"), "everybody would see"),
        (pem, "no certificate in PEM"),
        (short, "guessed too easily"),
        (long, "not one line"),
        (mail("nobody", MailTls::Tls, None, None), "no mail address"),
        (mail("a@example.org", MailTls::Tls, Some("ada"), None), "no password"),
        (mail("a@example.org", MailTls::Tls, None, Some("hush")), "no user"),
        (mail("a@example.org", MailTls::None, Some("ada"), Some("hush")), "in clear"),
    ];
    for (request, why) in cases {
        let problem = refusal(client.add_alert(&request).await);
        assert_eq!(problem.status, 422, "{problem:?}");
        assert!(problem.why.contains(why) && !problem.instead.is_empty(), "{why}: {problem:?}");
        assert!(!format!("{problem:?}").contains("hush"), "{problem:?}");
    }
    assert!(client.alerts().await.unwrap().is_empty());
    let taken = AddAlert { name: "pager".parse().ok(), ..webhook("https://a.example/") };
    client.add_alert(&taken).await.unwrap();
    assert!(refusal(client.add_alert(&taken).await).why.contains("there is an alert 'pager'"));
}

#[tokio::test]
async fn incidents_are_listed_and_shown() {
    let cluster = TestCluster::start(1).await;
    let now = Timestamp::now();
    let incident = Incident {
        id: IncidentId(7),
        kind: IncidentKind::HostLost,
        subject: "host/host2".to_owned(),
        began_at: now,
        opened_at: now,
        well_since: None,
        ended_at: None,
        weight: Weight::Critical,
        peak: Weight::Critical,
        proven_at: None,
        open_because: vec!["host2 is lost".to_owned()],
        guests: BTreeMap::new(),
        more_guests: false,
        entries: Vec::new(),
        more_entries: false,
    };
    cluster
        .write(|txn| {
            txn.create(&incident);
        })
        .await;
    let client = cluster.client();
    assert_eq!(client.incidents().await.unwrap().len(), 1);
    assert_eq!(client.incident(IncidentId(7)).await.unwrap().headline, "host2 is lost");
    assert_eq!(refusal(client.incident(IncidentId(8)).await).status, 404);
}
