//! This host's session: a lease of the store, renewed for as long as the host lives.
//!
//! The agent counts from when it *sent* the last renewal that was confirmed (`plan::limits::AUTHORITY`).
//! A session that is over is begun anew, at once and for ever; the boot stays the same.

use std::time::Duration;

use jiff::Timestamp;
use model::{BootId, HostName, Session};
use plan::limits::{AUTHORITY, RENEW_EVERY, SESSION_TTL};
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

/// Keeps the session for ever.
pub fn keep(state: crate::state::State, me: HostName, boot_id: BootId) -> watch::Receiver<Standing> {
    let (sender, receiver) = watch::channel(Standing::default());
    tokio::spawn(async move {
        state.ready().await;
        loop {
            match begin(&state, &me, boot_id).await {
                Ok((lease, sent_at)) => {
                    let standing =
                        Standing { lease: Some(lease), renewed_at: Some(sent_at), live_since: Some(sent_at) };
                    let _ = sender.send(standing);
                    renew(state.store().as_ref(), lease, &sender).await;
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
) -> Result<(LeaseId, Instant), StoreError> {
    let sent_at = Instant::now();
    let lease = state.store().grant(SESSION_TTL).await?;
    let session = Session { host: me.clone(), boot_id, started_at: Timestamp::now() };
    match state
        .write(|txn| {
            // Whoever was called dead is heard again: the word counts no more, nor does it that its power was off.
            txn.put_leased(&session, lease).delete(&keys::confirmed_dead(me)).delete(&keys::fence(me));
        })
        .await?
    {
        store::Outcome::Committed { .. } => Ok((lease, sent_at)),
        store::Outcome::Conflict => Err(StoreError::Refused("the session's record".into())),
    }
}

/// Renews until the lease is over.
async fn renew(store: &dyn Store, lease: LeaseId, sender: &watch::Sender<Standing>) {
    let mut ticks = tokio::time::interval(RENEW_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sent_at = Instant::now();
        match store.keep_alive(lease).await {
            Ok(()) => sender.send_modify(|standing| {
                if !standing.is_live(sent_at) {
                    standing.live_since = Some(sent_at);
                }
                standing.renewed_at = Some(sent_at);
            }),
            Err(StoreError::LeaseGone) => {
                sender.send_modify(|standing| *standing = Standing::default());
                return;
            }
            Err(error) => tracing::debug!(%error, "a renewal of the session was not confirmed"),
        }
    }
}
