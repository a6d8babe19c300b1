//! What the tests of the store share.

#![allow(dead_code, reason = "each test binary uses a part")]

pub mod cluster;
pub mod promises;
pub mod proxy;
pub mod writer;

use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use store::FeedEvent;

/// Generous: only a failing test waits so long.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Waits until `check` says yes.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let waiting = async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("did not happen: {what}"));
}

pub async fn next(watch: &mut BoxStream<'static, FeedEvent>) -> FeedEvent {
    let event = tokio::time::timeout(LIMIT, watch.next()).await.expect("an event in time");
    event.expect("a watch does not end")
}
