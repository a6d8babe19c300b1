//! One stream of everything, for the web page.
//!
//! The page holds one connection and shows what it says. The first message is all there is, but of the guests only the
//! first thousand; the others follow in parts, so that the page draws something before it has read megabytes. Each
//! later one is what changed since, over all kinds together, so that a guest never stands on a host that the page has
//! not heard of:
//!
//! ```text
//!   snapshot  { "items": { "guests": { "web1": {…}, … }, "hosts": {…}, … }, "more": true }
//!   changes   { "items": { "guests": { "web1001": {…}, … } } }
//!   changes   { "items": { "guests": { "web1": {…} } }, "gone": { "jobs": ["01a1…"] } }
//!   heartbeat {}
//!   signed-out {}          the session is over; the stream ends
//! ```
//!
//! What is told is computed once for all streams ([`board`]); a stream only remembers up to where it has told it.

pub mod board;
mod items;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use jiff::Timestamp;
use model::ClusterView;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Shared;
use super::auth::Session;
use board::{Board, Hub};

/// The page takes silence of twice this long for the death of the host.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// The kind of which there may be very many, and how many of them one message tells at most.
const LONG: &str = "guests";
const PART: usize = 1000;

pub async fn everything(
    State(backend): State<Shared>,
    Extension(hub): Extension<Arc<Hub>>,
    session: Option<Extension<Session>>,
) -> Response {
    let (board, looks) = hub.board(&backend);
    let stream = Stream {
        backend,
        board,
        looks,
        session: session.map(|Extension(session)| session),
        told: None,
        part: None,
        ready: VecDeque::new(),
        next_heartbeat: Instant::now() + HEARTBEAT,
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
    board: Arc<Board>,
    looks: watch::Receiver<u64>,
    session: Option<Session>,
    /// Up to which change the page knows everything; `None`: it knows nothing yet.
    told: Option<u64>,
    /// The id after which the next part of what there was at first begins.
    part: Option<String>,
    ready: VecDeque<Event>,
    next_heartbeat: Instant,
    over: bool,
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
            if let Some(after) = self.part.take() {
                self.tell_part(&after);
                continue;
            }
            // A board that is begun has nothing to tell before its first look.
            if self.told.is_some() || *self.looks.borrow() == 0 {
                tokio::select! {
                    looked = self.looks.changed() => looked.ok()?,
                    () = tokio::time::sleep_until(self.next_heartbeat) => {
                        self.ready.push_back(Event::default().event("heartbeat").data("{}"));
                    }
                }
            }
            self.look();
        }
    }

    fn look(&mut self) {
        let good = self.session.as_ref().is_none_or(|session| {
            let cache = self.backend.state().read();
            still_good(cache.view(), session)
        });
        if !good {
            self.ready.push_back(Event::default().event("signed-out").data("{}"));
            self.over = true;
            return;
        }
        if *self.looks.borrow_and_update() == 0 {
            return;
        }
        match self.told.and_then(|told| Some((told, self.board.since(told)?))) {
            Some((told, (_, now))) if told == now => {}
            Some((_, (text, now))) => {
                self.ready.push_back(Event::default().event("changes").data(text));
                self.told = Some(now);
            }
            None => self.tell_everything(),
        }
    }

    fn tell_everything(&mut self) {
        let items = self.board.read();
        let (message, last) = items.everything(LONG, PART);
        self.ready.push_back(Event::default().event("snapshot").data(message.text()));
        // What changes while the parts are told is told after them.
        self.told = Some(items.now());
        self.part = last;
    }

    fn tell_part(&mut self, after: &str) {
        let items = self.board.read();
        let (message, last) = items.part(LONG, Some(after), PART);
        self.ready.push_back(Event::default().event("changes").data(message.text()));
        self.part = last;
    }
}

/// Its record is there: nobody signed it out, and it is not too old.
fn still_good(view: &ClusterView, session: &Session) -> bool {
    let fresh = session.expires_at.is_none_or(|end| Timestamp::now() < end);
    fresh && view.tokens.contains_key(&session.sha256)
}
