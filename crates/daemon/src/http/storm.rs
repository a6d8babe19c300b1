//! An operator's word in a storm.

use axum::extract::State;
use axum::{Extension, Json};
use jiff::Timestamp;
use model::{ClusterView, Event, EventId, EventKind, GoOn, Losses, Severity, Storm};
use store::Cache;
use uuid::Uuid;

use super::answer::{Answer, Refused};
use super::auth::Caller;
use super::{Shared, commit};

/// Takes down that the hosts of a storm are lost for good, with the event that tells of it.
pub async fn go_on(
    State(backend): State<Shared>,
    Extension(caller): Extension<Caller>,
) -> Answer<Json<Storm>> {
    let asked = "go on with recovery";
    let (at, by, event) = (Timestamp::now(), caller.name(), EventId(Uuid::now_v7()));
    let draft = |cache: &Cache| {
        let (losses, storm) = under_way(cache.view(), asked)?;
        if let Some(word) = &storm.go_on {
            let why = format!("{} has said so already", word.by);
            return Err(Refused::by_state(
                asked,
                why,
                "`kennel events --subject cluster` tells what happens",
            ));
        }
        let message =
            format!("{by} said that the hosts of the storm are lost for good: recovery goes on as usual");
        let mut txn = cache.txn();
        txn.put(&Losses {
            storm: Some(Storm { go_on: Some(GoOn { by: by.clone(), at }), ..storm.clone() }),
            ..losses.clone()
        });
        txn.create(&Event {
            id: event,
            at,
            severity: Severity::Warning,
            kind: EventKind::Storm,
            subject: "cluster".into(),
            seen_by: backend.me().clone(),
            message,
        });
        commit::built(&mut txn, asked)
    };
    commit::change(&*backend, asked, draft, |view| view.events.contains_key(&event)).await?;
    let view = backend.state().view();
    let (_, storm) = under_way(&view, asked)?;
    Ok(Json(storm.clone()))
}

fn under_way<'v>(view: &'v ClusterView, asked: &str) -> Answer<(&'v Losses, &'v Storm)> {
    let found = view.losses.as_ref().and_then(|losses| Some((losses, losses.storm.as_ref()?)));
    found.ok_or_else(|| {
        let instead = "recovery goes as fast as it may; `kennel cluster status` shows what is wrong";
        Refused::by_state(asked, "there is no storm", instead)
    })
}
