//! This host's session: a lease of the store, renewed for as long as the host lives.
//!
//! The agent counts from when it *sent* the last renewal that was confirmed (`plan::limits::AUTHORITY`).
//! A session that is over is begun anew, at once and for ever; the boot stays the same.
//!
//! Each renewal is told to the watchdog (`host::watchdog`), which counts for itself. A daemon that starts inherits what
//! is left of the right that the last one of this boot had: the store counts from the same renewal, whoever sent it. So
//! a short restart ends no guest, not even one that nobody else could confirm.

use std::sync::Arc;
use std::time::Duration;

use host::watchdog::{BootTime, Guard};
use jiff::Timestamp;
use model::{BootId, HostName, Session};
use plan::limits::{AUTHORITY, RENEW_EVERY, SESSION_TTL, WATCHDOG_GRACE};
use store::{LeaseId, Store, StoreError, keys};
use tokio::sync::watch;
use tokio::time::Instant;

/// Between two tries to begin a session.
const BEGIN_AGAIN_AFTER: Duration = Duration::from_millis(300);

/// What is known of the session.
#[derive(Debug, Clone, Copy, Default)]
pub struct Standing {
    pub lease: Option<LeaseId>,
    /// When the last renewal that was confirmed had been sent.
    pub renewed_at: Option<Instant>,
    /// Since when the session has been live without a break.
    pub live_since: Option<Instant>,
}

impl Standing {
    /// Whether guests may run by the right of this session.
    pub fn is_live(&self, now: Instant) -> bool {
        self.authority_ends().is_some_and(|end| now < end)
    }

    pub fn authority_ends(&self) -> Option<Instant> {
        self.renewed_at.map(|at| at + AUTHORITY)
    }
}

/// A moment, by both clocks. The watchdog's goes on while the host sleeps.
#[derive(Debug, Clone, Copy)]
struct Sent {
    at: Instant,
    boot_time: BootTime,
}

impl Sent {
    fn now() -> Sent {
        // In this order: the watchdog's deadline is never too late.
        let boot_time = BootTime::now();
        Sent { at: Instant::now(), boot_time }
    }

    /// Tells the watchdog that what was sent then was confirmed.
    fn tell(self, watchdog: &Guard) {
        watchdog.renew(self.boot_time, self.boot_time.after(AUTHORITY + WATCHDOG_GRACE));
    }
}

/// What the daemon before this one of the same boot has left.
fn inherited(watchdog: &Guard) -> Standing {
    // In this order: what is left is never taken for more than it is.
    let now = Instant::now();
    let ago = watchdog.renewed().map(|sent| BootTime::now().since(sent));
    let renewed_at = ago.and_then(|ago| now.checked_sub(ago));
    Standing { renewed_at, ..Standing::default() }
}

/// Keeps the session for ever.
pub fn keep(
    state: crate::state::State,
    me: HostName,
    boot_id: BootId,
    watchdog: Arc<Guard>,
) -> watch::Receiver<Standing> {
    let (sender, receiver) = watch::channel(inherited(&watchdog));
    tokio::spawn(async move {
        state.ready().await;
        loop {
            match begin(&state, &me, boot_id).await {
                Ok((lease, sent)) => {
                    sent.tell(&watchdog);
                    let sent_at = sent.at;
                    let standing =
                        Standing { lease: Some(lease), renewed_at: Some(sent_at), live_since: Some(sent_at) };
                    let _ = sender.send(standing);
                    renew(state.store().as_ref(), lease, &sender, &watchdog).await;
                    tracing::warn!("this host's session is over; a new one begins");
                }
                Err(error) => tracing::debug!(%error, "no session yet"),
            }
            tokio::time::sleep(BEGIN_AGAIN_AFTER).await;
        }
    });
    receiver
}

/// A new lease with the session's record on it, whatever stood there: only this host writes it, and one
/// daemon at a time.
async fn begin(
    state: &crate::state::State,
    me: &HostName,
    boot_id: BootId,
) -> Result<(LeaseId, Sent), StoreError> {
    let sent = Sent::now();
    let lease = state.store().grant(SESSION_TTL).await?;
    let session = Session { host: me.clone(), boot_id, started_at: Timestamp::now() };
    match state
        .write(|txn| {
            // Whoever was called dead is heard again: the word counts no more, nor does it that its power was off.
            txn.put_leased(&session, lease).delete(&keys::confirmed_dead(me)).delete(&keys::fence(me));
        })
        .await?
    {
        store::Outcome::Committed { .. } => Ok((lease, sent)),
        store::Outcome::Conflict => Err(StoreError::Refused("the session's record".into())),
    }
}

/// Renews until the lease is over.
async fn renew(store: &dyn Store, lease: LeaseId, sender: &watch::Sender<Standing>, watchdog: &Guard) {
    let mut ticks = tokio::time::interval(RENEW_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sent = Sent::now();
        match store.keep_alive(lease).await {
            Ok(()) => {
                sent.tell(watchdog);
                sender.send_modify(|standing| {
                    if !standing.is_live(sent.at) {
                        standing.live_since = Some(sent.at);
                    }
                    standing.renewed_at = Some(sent.at);
                });
            }
            Err(StoreError::LeaseGone) => {
                watchdog.forget_session();
                sender.send_modify(|standing| *standing = Standing::default());
                return;
            }
            Err(error) => tracing::debug!(%error, "a renewal of the session was not confirmed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn guard(folder: &tempfile::TempDir) -> Guard {
        Guard::open(folder.path(), folder.path().join("log"), BootId(Uuid::nil())).unwrap()
    }

    #[test]
    fn a_daemon_that_starts_inherits_what_is_left_of_the_session() {
        let folder = tempfile::tempdir().unwrap();
        let now = Instant::now();
        assert!(!inherited(&guard(&folder)).is_live(now), "nobody was here before");
        let sent = Sent::now();
        sent.tell(&guard(&folder));
        let standing = inherited(&guard(&folder));
        assert!(standing.is_live(now) && standing.lease.is_none() && standing.live_since.is_none());
        let ends = standing.authority_ends().unwrap();
        let moment = std::time::Duration::from_secs(1);
        assert!(ends + moment >= sent.at + AUTHORITY && ends <= Instant::now() + AUTHORITY);
        // The store had said that it is over.
        guard(&folder).forget_session();
        assert!(!inherited(&guard(&folder)).is_live(now));
    }

    #[test]
    fn a_right_that_is_over_is_not_inherited() {
        let folder = tempfile::tempdir().unwrap();
        guard(&folder).renew(BootTime::default(), BootTime::default().after(AUTHORITY));
        assert!(!inherited(&guard(&folder)).is_live(Instant::now()));
    }
}
