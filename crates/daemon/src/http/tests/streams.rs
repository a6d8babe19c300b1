//! Lists that are watched.

use api::{ClientError, CreateGuest, EventQuery, HostView, WatchEvent, Watched};
use futures::stream::{BoxStream, StreamExt};
use jiff::Timestamp;
use model::{Event, EventId, EventKind, GuestPhase, HostPhase, JobReport, JobState, Severity};
use store::keys;
use uuid::Uuid;

use super::fixture::{PATIENCE, TestCluster, guest, host_name};

type Stream<T> = BoxStream<'static, Result<WatchEvent<T>, ClientError>>;

async fn next<T>(stream: &mut Stream<T>) -> WatchEvent<T> {
    tokio::time::timeout(PATIENCE, stream.next()).await.unwrap().unwrap().unwrap()
}

#[tokio::test]
async fn a_watch_begins_with_everything_and_goes_on_with_what_changes() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client();
    let mut guests = client.watch_guests();
    assert!(matches!(next(&mut guests).await, WatchEvent::Snapshot(all) if all.is_empty()));
    client.create_guest(&CreateGuest::new(guest("web1"))).await.unwrap();
    assert!(matches!(next(&mut guests).await, WatchEvent::Changed(view) if view.name == guest("web1")));
    // A record that the view is computed from.
    cluster.settle(&guest("web1"), 0, model::GuestState::Running).await;
    loop {
        let WatchEvent::Changed(view) = next(&mut guests).await else { panic!("the guest has changed") };
        if view.phase == GuestPhase::Running {
            break;
        }
    }
    cluster.delete(&keys::guest(&guest("web1"))).await;
    assert_eq!(next(&mut guests).await, WatchEvent::Removed("web1".to_owned()));
}

#[tokio::test]
async fn a_job_is_followed_to_its_end() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client();
    let job = client.create_guest(&CreateGuest::new(guest("web1"))).await.unwrap();
    let mut jobs = client.watch_jobs();
    assert!(matches!(next(&mut jobs).await, WatchEvent::Snapshot(all) if all.len() == 1));
    let report = JobReport { state: JobState::Done, ..JobReport::new(job.id, ["one"]) };
    cluster
        .write(|txn| {
            txn.create(&report);
        })
        .await;
    let WatchEvent::Changed(view) = next(&mut jobs).await else { panic!("the job has changed") };
    assert_eq!((view.state, view.watch_id()), (JobState::Done, job.id.to_string()));
}

/// The host that tells goes away in the middle of it: another one goes on.
#[tokio::test]
async fn a_watch_outlives_its_host() {
    let cluster = TestCluster::start(2).await;
    let mut hosts: Stream<HostView> = cluster.client().watch_hosts();
    assert!(matches!(next(&mut hosts).await, WatchEvent::Snapshot(all) if all.len() == 2));
    cluster.lose_host(0).await;
    let lost = |views: &[HostView]| {
        views.iter().any(|view| view.name == host_name(0) && view.phase == HostPhase::Lost)
    };
    assert!(matches!(next(&mut hosts).await, WatchEvent::Interrupted(_)));
    assert!(matches!(next(&mut hosts).await, WatchEvent::Snapshot(views) if lost(&views)));
}

#[tokio::test]
async fn events_are_chosen_by_what_they_are_about_and_the_newest_come_last() {
    let cluster = TestCluster::start(1).await;
    for number in 0..5 {
        let event = Event {
            id: EventId(Uuid::now_v7()),
            at: Timestamp::now(),
            severity: Severity::Info,
            kind: EventKind::GuestStarted,
            subject: format!("guest/web{}", number % 2),
            seen_by: host_name(0),
            message: number.to_string(),
        };
        cluster
            .write(|txn| {
                txn.create(&event);
            })
            .await;
    }
    cluster.spread().await;
    let query = EventQuery { subject: Some("guest/web0".to_owned()), limit: Some(2), watch: false };
    let events = cluster.client().events(&query).await.unwrap();
    let messages: Vec<_> = events.iter().map(|event| event.message.as_str()).collect();
    assert_eq!(messages, ["2", "4"]);
    let mut watch = cluster.client().watch_events(&query);
    assert!(matches!(next(&mut watch).await, WatchEvent::Snapshot(all) if all == events));
}
