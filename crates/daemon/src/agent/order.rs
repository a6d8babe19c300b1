//! A guest's turn among those that start one after the other.
//!
//! What another host said of a guest counts once this host has been heard for longer than a session lasts: after a loss
//! of all power the sessions of before may still be there for a moment, and with them the word that all is well.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use model::{EventKind, GuestName, GuestSpec, HostName};
use plan::limits::SESSION_TTL;
use plan::order::waits_for;
use tokio::time::Instant;

use super::keeper::Keeper;

/// How long a session's end may be late in the store.
const SESSIONS_LATE: Duration = Duration::from_secs(2);

/// What a keeper remembers of its guest's wait for its turn.
#[derive(Debug, Default)]
pub(super) struct Turn {
    since: Option<Instant>,
    /// That it does not wait any more has been told.
    told: bool,
}

impl Keeper {
    /// The guest that this one starts after and that does not run yet, and until when it is waited for.
    pub(super) fn look_at_order(
        &mut self,
        spec: &GuestSpec,
        now: Timestamp,
    ) -> Option<(GuestName, Timestamp)> {
        let may_wait = self.running.is_none() && !spec.start_after.is_empty();
        let awaited = if may_wait { self.awaited(spec) } else { None };
        let Some((before, limit)) = awaited else {
            self.turn = Turn::default();
            return None;
        };
        let waited = self.turn.since.get_or_insert_with(Instant::now).elapsed();
        let waited = SignedDuration::try_from(waited).unwrap_or(limit);
        Some((before, now + (limit - waited)))
    }

    fn awaited(&self, spec: &GuestSpec) -> Option<(GuestName, SignedDuration)> {
        let cache = self.agent.state.read();
        let view = cache.view();
        let settings = view.cluster.as_ref().map(|cluster| cluster.settings.clone()).unwrap_or_default();
        let limit = SignedDuration::from_secs(i64::from(settings.start_wait_s));
        if limit.is_zero() {
            return None;
        }
        Some((waits_for(view, spec, self.alone_trusted())?.clone(), limit))
    }

    /// This host, if nothing but its own word can be trusted yet.
    fn alone_trusted(&self) -> Option<&HostName> {
        let live_since = self.agent.session.borrow().live_since;
        let settled = live_since.is_some_and(|since| since.elapsed() > SESSION_TTL + SESSIONS_LATE);
        (!settled).then_some(&self.agent.me)
    }

    /// Says, once, that the guest starts although another one does not run.
    pub(super) fn tell_out_of_turn(&mut self, before: &GuestName) {
        if !std::mem::replace(&mut self.turn.told, true) {
            let guest = &self.guest;
            let message = format!("'{guest}' starts without '{before}', which has not come up for too long");
            self.agent.events.warning(EventKind::GuestOrder, self.about(), message);
        }
    }
}
