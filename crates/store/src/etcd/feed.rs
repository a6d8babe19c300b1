//! A watch that does not end.
//!
//! ```text
//!             ┌──────────── compacted ◀───────────┐
//!             ▼                                   │
//!   list ─▶ Reset ─▶ watch from the next revision ┴▶ broken or silent ─▶ the next member, same revision
//! ```
//!
//! Two parts. The *follower*, a task, talks to one member after the other and never counts time beyond a
//! silence; it sends what happened, and signs of life. The *feed*, the stream that the caller polls, turns
//! the lack of signs of life into one [`FeedEvent::Disconnected`], and the next sign into a `Changes`.
//!
//! Silence is noticed because the follower keeps asking its member for progress. The answer is only
//! taken as a sign of life: in etcd before 3.4.25 it may name a revision whose changes are yet to come, so
//! the next watch begins after the last *change* that was seen. A member that is cut off from its quorum
//! ends the stream by itself, because the watch demands a leader.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, EventType, WatchOptions, WatchResponse};
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::link::{Failure, Link};
use super::{ATTEMPT_TIMEOUT, LISTING_TIMEOUT, MESSAGE_BYTES_MAX, Shared, entry, list, prefix_end};
use crate::{Change, FeedEvent};

/// How often a member is asked whether it still follows.
const PROGRESS_EVERY: Duration = Duration::from_millis(750);

/// A member that says nothing for so long is given up for the next.
const SILENCE_LIMIT: Duration = Duration::from_secs(2);

/// Without a sign of life for so long, the caller is told. Longer than a silence and a change of member, or
/// than an election, so that the loss of one member goes unnoticed.
const DISCONNECTED_AFTER: Duration = Duration::from_millis(3500);

/// Between one member and the next.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);

/// What the follower may be ahead of the caller.
const QUEUE_EVENTS: usize = 64;

const _: () = assert!(PROGRESS_EVERY.as_millis() * 2 < SILENCE_LIMIT.as_millis());
const _: () = assert!(SILENCE_LIMIT.as_millis() < DISCONNECTED_AFTER.as_millis());

enum Signal {
    Event(FeedEvent),
    Alive,
}

/// The stream that [`Store::watch`](crate::Store::watch) returns.
pub(super) fn feed(shared: Arc<Shared>, prefix: String) -> BoxStream<'static, FeedEvent> {
    let feed = Feed { source: Source::New(shared, prefix), revision: 0, connected: true };
    Box::pin(futures::stream::unfold(feed, |mut feed| async move {
        let event = feed.next().await;
        Some((event, feed))
    }))
}

struct Feed {
    source: Source,
    /// Of the last event.
    revision: i64,
    connected: bool,
}

enum Source {
    /// Not polled yet: there may be no runtime to follow on.
    New(Arc<Shared>, String),
    Following(mpsc::Receiver<Signal>),
}

impl Feed {
    async fn next(&mut self) -> FeedEvent {
        let Self { source, revision, connected } = self;
        let signals = source.start();
        loop {
            let signal = match *connected {
                true => tokio::time::timeout(DISCONNECTED_AFTER, signals.recv()).await,
                false => Ok(signals.recv().await),
            };
            match signal {
                Ok(Some(Signal::Event(event))) => {
                    *connected = true;
                    match &event {
                        FeedEvent::Reset(listing) => *revision = listing.revision,
                        FeedEvent::Changes { revision: at, .. } => *revision = *at,
                        FeedEvent::Disconnected => {}
                    }
                    return event;
                }
                Ok(Some(Signal::Alive)) if *connected => {}
                Ok(Some(Signal::Alive)) => {
                    *connected = true;
                    return FeedEvent::Changes { changes: Vec::new(), revision: *revision };
                }
                Err(_elapsed) => {
                    *connected = false;
                    return FeedEvent::Disconnected;
                }
                // The follower ends only with its runtime.
                Ok(None) => std::future::pending().await,
            }
        }
    }
}

impl Source {
    fn start(&mut self) -> &mut mpsc::Receiver<Signal> {
        if let Source::New(shared, prefix) = self {
            let (sender, receiver) = mpsc::channel(QUEUE_EVENTS);
            let follower =
                Follower { shared: Arc::clone(shared), prefix: prefix.clone(), seen: None, signals: sender };
            tokio::spawn(follower.run());
            *self = Source::Following(receiver);
        }
        match self {
            Source::Following(receiver) => receiver,
            Source::New(..) => unreachable!("replaced above"),
        }
    }
}

struct Follower {
    shared: Arc<Shared>,
    prefix: String,
    /// Everything up to this revision has been sent; `None`: list first.
    seen: Option<i64>,
    signals: mpsc::Sender<Signal>,
}

/// Why a member is followed no longer.
enum End {
    /// Nobody listens any more.
    Unheard,
    Compacted,
    Broken(String),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        End::Broken(failure.why())
    }
}

impl Follower {
    async fn run(mut self) {
        loop {
            let Some(link) = self.shared.round().into_iter().next() else { return };
            match self.follow(&link).await {
                End::Unheard => return,
                End::Compacted => {
                    tracing::info!(prefix = self.prefix, "the watch's revision is forgotten; listing anew");
                    self.seen = None;
                }
                End::Broken(why) => {
                    tracing::debug!(member = link.url(), %why, "a watch broke; trying the next member");
                    self.shared.pass_over(&link);
                    tokio::select! {
                        () = self.signals.closed() => return,
                        () = tokio::time::sleep(REOPEN_PAUSE) => {}
                    }
                }
            }
        }
    }

    /// Follows one member for as long as it goes.
    async fn follow(&mut self, link: &Link) -> End {
        match self.try_follow(link).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn try_follow(&mut self, link: &Link) -> Result<std::convert::Infallible, End> {
        let seen = match self.seen {
            Some(seen) => seen,
            None => self.reset(link).await?,
        };
        let open = |client: Client| {
            let mut watch = client.watch_client().max_decoding_message_size(MESSAGE_BYTES_MAX);
            let options =
                WatchOptions::new().with_range(prefix_end(&self.prefix)).with_start_revision(seen + 1);
            let prefix = self.prefix.clone();
            async move { watch.watch(prefix, Some(options)).await }
        };
        let (mut requests, mut responses) = link.ask(ATTEMPT_TIMEOUT, open).await?.split();
        let mut progress = tokio::time::interval(PROGRESS_EVERY);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent_at = Instant::now() + SILENCE_LIMIT;
        loop {
            tokio::select! {
                () = self.signals.closed() => return Err(End::Unheard),
                response = responses.message() => {
                    match response.map_err(Failure::of)? {
                        Some(response) => self.take(&response).await?,
                        None => return Err(End::Broken("the member ended the watch".to_owned())),
                    }
                    silent_at = Instant::now() + SILENCE_LIMIT;
                }
                _ = progress.tick() => requests.request_progress().await.map_err(Failure::of)?,
                () = tokio::time::sleep_until(silent_at) => {
                    link.disconnect();
                    return Err(End::Broken(format!("no sign of life for {SILENCE_LIMIT:?}")));
                }
            }
        }
    }

    async fn reset(&mut self, link: &Link) -> Result<i64, End> {
        let listing = link.ask(LISTING_TIMEOUT, |client| list(client, &self.prefix)).await?;
        let revision = listing.revision;
        self.send(Signal::Event(FeedEvent::Reset(listing))).await?;
        self.seen = Some(revision);
        Ok(revision)
    }

    async fn take(&mut self, response: &WatchResponse) -> Result<(), End> {
        if response.canceled() {
            return Err(match response.compact_revision() {
                0 => End::Broken(response.cancel_reason().to_owned()),
                _ => End::Compacted,
            });
        }
        let changes: Vec<Change> = response.events().iter().filter_map(change).collect();
        let last = response.events().iter().filter_map(|event| Some(event.kv()?.mod_revision())).max();
        let Some(revision) = last else { return self.send(Signal::Alive).await };
        self.send(Signal::Event(FeedEvent::Changes { changes, revision })).await?;
        self.seen = Some(revision);
        Ok(())
    }

    async fn send(&self, signal: Signal) -> Result<(), End> {
        self.signals.send(signal).await.map_err(|_| End::Unheard)
    }
}

fn change(event: &etcd_client::Event) -> Option<Change> {
    let entry = entry(event.kv()?);
    Some(match event.event_type() {
        EventType::Put => Change::Put(entry),
        EventType::Delete => Change::Delete { key: entry.key },
    })
}
