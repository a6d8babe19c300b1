//! One stream of everything, for the web page.
//!
//! The page holds one connection and shows what it says. The first message is all there is; each later one is what
//! changed since, over all kinds together, so that a guest never stands on a host that the page has not heard of:
//!
//! ```text
//!   snapshot  { "items": { "guests": { "web1": {…}, … }, "hosts": {…}, … } }
//!   changes   { "items": { "guests": { "web1": {…} } }, "gone": { "jobs": ["01a1…"] } }
//!   heartbeat {}
//!   signed-out {}          the session is over; the stream ends
//! ```
//!
//! As in [`watch`](super::watch), lists are computed anew and compared. What takes other hosts' answers (the
//! cluster's status, what is measured) is gathered beside that, at its own pace.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use api::{
    ClusterStatus, EventQuery, GuestView, HostView, ImageView, JobView, NetworkView, PoolView, Watched,
};
use axum::Extension;
use axum::extract::State;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use jiff::Timestamp;
use model::{ClusterView, JobId};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::auth::Session;
use super::{Shared, planner, sign_in};

/// Between two looks at the lists, at least.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// A stream may spend this part of its time on computing: one in so many.
const PAUSE_PER_WORK: u32 = 10;

/// The page takes silence of twice this long for the death of the host.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// How often the hosts are asked for what they measured, and the store's members for how they are.
const GATHER_EVERY: Duration = Duration::from_secs(5);

/// Between two looks at the status when things change.
const STATUS_PAUSE: Duration = Duration::from_millis(500);

/// The newest events; older ones are asked for.
const EVENTS_MAX: usize = 300;

/// The newest jobs that ended; all that run are told.
const ENDED_JOBS_MAX: usize = 200;

/// As JSON already.
#[derive(Debug, Clone)]
struct Item(Arc<RawValue>);

impl Item {
    fn get(&self) -> &str {
        self.0.get()
    }
}

impl Serialize for Item {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// The items of one kind by their ids.
type Items = BTreeMap<String, Item>;
type Kinds = BTreeMap<&'static str, Items>;

pub async fn everything(State(backend): State<Shared>, session: Option<Extension<Session>>) -> Response {
    let (sender, gathered) = watch::channel(Kinds::new());
    let gatherer = tokio::spawn(gather(backend.clone(), sender)).abort_handle();
    let stream = Stream {
        changes: backend.state().changes(),
        backend,
        session: session.map(|Extension(session)| session),
        gathered,
        gatherer,
        told: None,
        ready: VecDeque::new(),
        next_look: Instant::now(),
        next_heartbeat: Instant::now(),
        over: false,
    };
    let events = stream::unfold(stream, |mut stream| async move {
        let event = stream.next().await?;
        Some((Ok::<_, Infallible>(event), stream))
    });
    Sse::new(events).into_response()
}

struct Stream {
    backend: Shared,
    changes: watch::Receiver<u64>,
    session: Option<Session>,
    gathered: watch::Receiver<Kinds>,
    gatherer: AbortHandle,
    /// What the page knows.
    told: Option<Kinds>,
    ready: VecDeque<Event>,
    next_look: Instant,
    next_heartbeat: Instant,
    over: bool,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.gatherer.abort();
    }
}

impl Stream {
    /// `None` when the session is over, or the daemon ends.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.next_heartbeat = Instant::now() + HEARTBEAT;
                return Some(event);
            }
            if self.over {
                return None;
            }
            if self.told.is_some() {
                let woken = tokio::select! {
                    changed = self.changes.changed() => changed.is_ok(),
                    Ok(()) = self.gathered.changed() => true,
                    () = tokio::time::sleep_until(self.next_heartbeat) => {
                        self.ready.push_back(Event::default().event("heartbeat").data("{}"));
                        true
                    }
                };
                if !woken {
                    return None;
                }
                tokio::time::sleep_until(self.next_look).await;
            }
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let begin = Instant::now();
        self.changes.mark_unchanged();
        let view = self.backend.state().view();
        if !self.session.as_ref().is_none_or(|session| still_good(&view, session)) {
            self.ready.push_back(Event::default().event("signed-out").data("{}"));
            self.over = true;
            return;
        }
        let gathered = self.gathered.borrow_and_update().clone();
        let mut kinds = tokio::task::spawn_blocking(move || lists(&view)).await.unwrap_or_default();
        kinds.extend(gathered);
        let message = match &self.told {
            None => Some(("snapshot", Message { items: kinds.clone(), gone: BTreeMap::new() })),
            Some(told) => difference(told, &kinds).map(|message| ("changes", message)),
        };
        if let Some((name, message)) = message {
            let text = serde_json::to_string(&message).unwrap_or_default();
            self.ready.push_back(Event::default().event(name).data(text));
        }
        self.told = Some(kinds);
        self.next_look = begin + PAUSE_MIN.max(begin.elapsed() * PAUSE_PER_WORK);
    }
}

/// Its record is there: nobody signed it out, and it is not too old.
fn still_good(view: &ClusterView, session: &Session) -> bool {
    let fresh = session.expires_at.is_none_or(|end| Timestamp::now() < end);
    fresh && view.tokens.contains_key(&session.sha256)
}

#[derive(Serialize)]
struct Message {
    items: Kinds,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    gone: BTreeMap<&'static str, Vec<String>>,
}

/// `None`: nothing changed.
fn difference(told: &Kinds, now: &Kinds) -> Option<Message> {
    let nothing = Items::new();
    let mut message = Message { items: Kinds::new(), gone: BTreeMap::new() };
    for (kind, items) in now {
        let before = told.get(kind).unwrap_or(&nothing);
        let same = |id: &String, item: &Item| before.get(id).is_some_and(|old| old.get() == item.get());
        let changed: Items = items
            .iter()
            .filter(|(id, item)| !same(id, item))
            .map(|(id, item)| (id.clone(), item.clone()))
            .collect();
        let gone: Vec<String> = before.keys().filter(|id| !items.contains_key(*id)).cloned().collect();
        if !changed.is_empty() {
            message.items.insert(kind, changed);
        }
        if !gone.is_empty() {
            message.gone.insert(kind, gone);
        }
    }
    (!message.items.is_empty() || !message.gone.is_empty()).then_some(message)
}

fn lists(view: &ClusterView) -> Kinds {
    let newest = EventQuery { limit: Some(EVENTS_MAX), ..EventQuery::default() };
    BTreeMap::from([
        ("hosts", items(HostView::list(view))),
        ("guests", items(GuestView::list(view))),
        ("images", items(ImageView::list(view))),
        ("networks", items(NetworkView::list(view))),
        ("rules", items(planner::rule_views(view))),
        ("pools", items(PoolView::list(view))),
        ("jobs", items(jobs(view))),
        ("events", items(newest.select(view))),
        ("users", items(sign_in::users::views(view))),
    ])
}

/// All that run, and the newest that ended. Ids grow with time.
fn jobs(view: &ClusterView) -> Vec<JobView> {
    let ended = |id: &JobId| view.job_reports.get(id).is_some_and(|report| report.state.is_terminal());
    let mut room = ENDED_JOBS_MAX;
    let newest_first = view.jobs.values().rev().filter(|job| {
        let keep = !ended(&job.id) || room > 0;
        room = room.saturating_sub(usize::from(ended(&job.id)));
        keep
    });
    newest_first.map(|job| JobView::of(view, job)).collect()
}

fn items<T: Serialize + Watched>(views: Vec<T>) -> Items {
    views.iter().filter_map(|view| Some((view.watch_id(), raw(view)?))).collect()
}

fn raw(value: &impl Serialize) -> Option<Item> {
    serde_json::value::to_raw_value(value).ok().map(|value| Item(Arc::from(value)))
}

/// The cluster's status soon after each change, and what the hosts measured every few seconds.
async fn gather(backend: Shared, sender: watch::Sender<Kinds>) {
    let mut changes = backend.state().changes();
    let mut next_usage = Instant::now();
    loop {
        let begin = Instant::now();
        changes.mark_unchanged();
        let status = status(&backend).await.as_ref().and_then(raw);
        let usage = if next_usage <= begin {
            next_usage = begin + GATHER_EVERY;
            Some(backend.usages().await)
        } else {
            None
        };
        sender.send_if_modified(|kinds| {
            let before = kinds.get("cluster").and_then(|items| items.get("cluster")).map(|item| item.get());
            let changed = before != status.as_ref().map(|status| status.get());
            kinds
                .insert("cluster", status.map(|status| ("cluster".to_owned(), status)).into_iter().collect());
            let measured = usage.is_some();
            if let Some(usage) = usage {
                let encoded = |(host, usage)| Some((String::from(host), raw(&usage)?));
                kinds.insert("usage", usage.into_iter().filter_map(encoded).collect());
            }
            changed || measured
        });
        let pause = STATUS_PAUSE.max(begin.elapsed() * PAUSE_PER_WORK);
        tokio::time::sleep_until(begin + pause).await;
        if let Ok(Err(_)) = tokio::time::timeout_at(next_usage.max(begin + pause), changes.changed()).await {
            return;
        }
    }
}

async fn status(backend: &Shared) -> Option<ClusterStatus> {
    let members = backend.store_members().await;
    let (view, answers) = {
        let cache = backend.state().read();
        (cache.snapshot(), cache.is_connected())
    };
    let planned = planner::problems(view.clone()).await;
    // The revision changes with everything, and would make every status a new one.
    ClusterStatus::of(&view, backend.me(), answers, members, planned)
        .map(|status| ClusterStatus { revision: 0, ..status })
}
