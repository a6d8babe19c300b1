//! Lists as they are, and as a stream of what changes.
//!
//! A watch computes its list anew whenever the cache changes, compares it with what it told last, item by
//! item, and tells the difference. So it needs no notion of what changed where, and whatever a view is
//! computed from, it is never stale. Changes that follow each other closely are told together; when the
//! list is long the pauses grow with the time that computing it takes. It is computed away from the threads that
//! renew sessions and watch guests. The web page's stream, of which there are many at a time, is another one
//! ([`stream`](super::stream)).

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use api::Watched;
use axum::http::{HeaderValue, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use model::ClusterView;
use serde::Serialize;
use tokio::time::Instant;

use super::Shared;
use super::answer::Refused;

/// Between two looks at the list, at least.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// A watch may spend this part of its time on computing its list: one in so many.
const PAUSE_PER_WORK: u32 = 20;

/// Clients take silence of twice this long and more for the death of the host.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Answers with a list of the cache, or with a stream of it.
pub async fn list<T, F>(backend: &Shared, watched: bool, compute: F) -> Response
where
    T: Serialize + Watched,
    F: Fn(&ClusterView) -> Vec<T> + Send + Sync + 'static,
{
    if !watched {
        let view = backend.state().view();
        let text = tokio::task::spawn_blocking(move || serde_json::to_vec(&compute(&view)));
        return match text.await {
            Ok(Ok(text)) => {
                ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
            }
            Ok(Err(error)) => Refused::failed("list them", error).into_response(),
            Err(error) => Refused::failed("list them", error).into_response(),
        };
    }
    let encode = move |view: &ClusterView| {
        let encoded = |item: &T| Some((item.watch_id(), serde_json::to_string(item).ok()?));
        compute(view).iter().filter_map(encoded).collect()
    };
    let watch = Watch {
        backend: backend.clone(),
        changes: backend.state().changes(),
        encode: Arc::new(encode),
        told: None,
        ready: VecDeque::new(),
        next_look: Instant::now(),
        next_heartbeat: Instant::now(),
    };
    let events = stream::unfold(watch, |mut watch| async move {
        let event = watch.next().await?;
        Some((Ok::<_, Infallible>(event), watch))
    });
    Sse::new(events).into_response()
}

/// Each item as JSON, by its id.
type Items = BTreeMap<String, String>;

struct Watch<F> {
    backend: Shared,
    changes: tokio::sync::watch::Receiver<u64>,
    encode: Arc<F>,
    /// What the client knows.
    told: Option<Items>,
    ready: VecDeque<Event>,
    next_look: Instant,
    /// When silence would become too long.
    next_heartbeat: Instant,
}

impl<F: Fn(&ClusterView) -> Items + Send + Sync + 'static> Watch<F> {
    /// `None` when the daemon ends.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.next_heartbeat = Instant::now() + HEARTBEAT;
                return Some(event);
            }
            if self.told.is_some() {
                match tokio::time::timeout_at(self.next_heartbeat, self.changes.changed()).await {
                    Err(_) => self.ready.push_back(Event::default().event("heartbeat").data("{}")),
                    Ok(Err(_)) => return None,
                    Ok(Ok(())) => {
                        tokio::time::sleep_until(self.next_look).await;
                        self.look().await;
                    }
                }
            } else {
                self.look().await;
            }
        }
    }

    async fn look(&mut self) {
        let begin = Instant::now();
        self.changes.mark_unchanged();
        let (view, encode) = (self.backend.state().view(), self.encode.clone());
        let Ok(items) = tokio::task::spawn_blocking(move || encode(&view)).await else {
            // It failed, which is in the log; there will be another try.
            return tokio::time::sleep(PAUSE_MIN).await;
        };
        match &self.told {
            None => self.ready.push_back(snapshot(&items)),
            Some(told) => self.ready.extend(difference(told, &items)),
        }
        self.told = Some(items);
        self.next_look = begin + PAUSE_MIN.max(begin.elapsed() * PAUSE_PER_WORK);
    }
}

fn snapshot(items: &Items) -> Event {
    let items: Vec<&str> = items.values().map(String::as_str).collect();
    Event::default().event("snapshot").data(format!("[{}]", items.join(",")))
}

fn difference(told: &Items, items: &Items) -> Vec<Event> {
    let changed = items.iter().filter(|(id, item)| told.get(*id) != Some(*item));
    let gone = told.keys().filter(|id| !items.contains_key(*id));
    let removed =
        |id: &String| Event::default().event("removed").data(serde_json::json!({ "id": id }).to_string());
    let changed = changed.map(|(_, item)| Event::default().event("changed").data(item));
    gone.map(removed).chain(changed).collect()
}
