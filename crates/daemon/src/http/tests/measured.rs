//! What was measured over time, asked of any host, and `/metrics`.

use std::time::Duration;

use api::{CreateGuest, ProblemKind, SeriesQuery};
use host::usage::Sample;
use jiff::{SignedDuration, Timestamp};
use model::{GuestId, GuestState, Usage};

use super::fixture::{TestCluster, guest, host_name, refusal};

/// A moment at the beginning of a minute, a few minutes ago.
fn begin() -> Timestamp {
    let second = Timestamp::now().as_second() - 600;
    Timestamp::from_second(second - second % 60).unwrap()
}

/// One host measures a guest for a minute.
fn measure(cluster: &TestCluster, host: usize, id: GuestId, from: Timestamp, cpu: f64) {
    let usage = Usage { cpu, memory: 1e6, ..Usage::default() };
    let sample = Sample { span: Duration::from_secs(10), total: usage, guests: [(id, usage)].into() };
    let series = &cluster.hosts[host].backend.series;
    for slot in 1..=6 {
        series.take((from.as_second() + slot * 10) as f64, &sample);
    }
    series.write(from.as_second().unsigned_abs() + 60).unwrap();
}

fn minutes(from: Timestamp, count: i64) -> SeriesQuery {
    SeriesQuery { from: Some(from), to: Some(from + SignedDuration::from_mins(count)), step_s: Some(60) }
}

#[tokio::test]
async fn a_guest_that_moved_is_one_series_and_a_host_that_is_gone_is_named() {
    let cluster = TestCluster::start(3).await;
    let name = guest("web1");
    cluster.client().create_guest(&CreateGuest::new(name.clone())).await.unwrap();
    cluster.spread().await;
    let id = cluster.state.view().guests[&name].id;
    let from = begin();
    measure(&cluster, 0, id, from, 0.5);
    measure(&cluster, 1, id, from + SignedDuration::from_mins(2), 1.5);
    let asked = minutes(from, 4);
    for host in 0..3 {
        let series = cluster.client_of(host).guest_series(&name, &asked).await.unwrap();
        assert_eq!((series.from, series.step_s), (from, 60));
        assert_eq!(series.cpu, [Some(0.5), None, Some(1.5), None], "asked of host {host}");
        assert!(series.silent.is_empty(), "{series:?}");
    }
    let of_host = cluster.client_of(2).host_series(&host_name(1), &asked).await.unwrap();
    assert_eq!(of_host.cpu, [None, None, Some(1.5), None]);
    cluster.lose_host(1).await;
    let series = cluster.client_of(0).guest_series(&name, &asked).await.unwrap();
    assert_eq!((series.cpu, series.silent), (vec![Some(0.5), None, None, None], vec![host_name(1)]));
    let lost = refusal(cluster.client_of(0).host_series(&host_name(1), &asked).await);
    assert_eq!(lost.why, "it is lost, and only it knows");
}

#[tokio::test]
async fn what_is_left_out_is_the_last_hour_and_what_makes_no_sense_is_refused_in_words() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client();
    let series = client.host_series(&host_name(0), &SeriesQuery::default()).await.unwrap();
    assert_eq!(series.step_s, 10);
    assert!((360..=361).contains(&series.cpu.len()), "{}", series.cpu.len());
    let unknown = refusal(client.guest_series(&guest("none"), &SeriesQuery::default()).await);
    assert_eq!(unknown.kind, ProblemKind::NotFound);

    let tls = api::client::trust_only(cluster.authority.certificate_pem()).unwrap();
    let http = reqwest::Client::builder().tls_backend_preconfigured(tls).build().unwrap();
    for (query, why) in [
        ("from=yesterday", "'from' is \"yesterday\", which is no moment"),
        ("step=7", "'step' is \"7\", and steps are whole multiples of 10 seconds"),
        ("step=0", "'step' is \"0\", and steps are whole multiples of 10 seconds"),
        ("step=99999999999999999990", "steps are whole multiples of 10 seconds"),
        ("from=2026-11-01T00:00:00Z&to=2026-10-01T00:00:00Z", "before it begins"),
        ("from=1969-01-01T00:00:00Z&to=2026-10-01T00:00:00Z", "nothing was measured before 1970"),
        ("from=2026-01-01T00:00:00Z&to=2026-10-01T00:00:00Z&step=10", "10000 in an answer at most"),
    ] {
        let url = format!("{}/v1/hosts/host1/series?{query}", cluster.hosts[0].endpoint);
        let answer = http.get(url).bearer_auth(&cluster.token).send().await.unwrap();
        assert_eq!(answer.status(), 422, "{query}");
        let text = answer.text().await.unwrap();
        let problem: api::Problem = serde_json::from_str(&text).unwrap();
        assert!(problem.why.contains(why), "{query}: {}", problem.why);
    }
}

#[tokio::test]
async fn metrics_are_for_operators_in_the_form_that_is_asked_for() {
    let cluster = TestCluster::start(1).await;
    let name = guest("web1");
    cluster.client().create_guest(&CreateGuest::new(name.clone())).await.unwrap();
    cluster.spread().await;
    cluster.settle(&name, 0, GuestState::Running).await;
    let text = cluster.client().metrics().await.unwrap();
    assert!(text.contains("\nkennel_guest_phase{guest=\"web1\",phase=\"running\"} 1"), "{text}");
    assert!(text.contains("# TYPE kennel_host_info gauge\n"), "{text}");

    let tls = api::client::trust_only(cluster.authority.certificate_pem()).unwrap();
    let http = reqwest::Client::builder().tls_backend_preconfigured(tls).build().unwrap();
    let url = format!("{}/metrics", cluster.hosts[0].endpoint);
    assert_eq!(http.get(&url).send().await.unwrap().status(), 401);
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    let open = http.get(&url).bearer_auth(&cluster.token).header("accept", accept).send().await.unwrap();
    let kind = open.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    assert!(open.text().await.unwrap().ends_with("# EOF\n"));
}
