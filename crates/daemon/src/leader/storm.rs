//! Writes down which hosts are lost, with the alarm, before anything is done about them; and restarts guests together.

use jiff::Timestamp;
use model::{ClusterView, Event, EventId, EventKind, Losses, Severity};
use plan::decide::{Decision, decide};
use plan::storm::news;
use plan::together::{Answer, answers};
use store::{Outcome, StoreError, keys};
use uuid::Uuid;

use super::Leader;

impl Leader {
    /// Decides by the record, or by what could not be written into it.
    pub(super) fn decide(&self, now: Timestamp, recover_from: Timestamp) -> Decision {
        let cache = self.state.read();
        match &self.unwritten {
            None => decide(cache.view(), now, recover_from),
            Some(losses) => {
                let view = ClusterView { losses: Some(losses.clone()), ..cache.view().clone() };
                decide(&view, now, recover_from)
            }
        }
    }

    /// Whether it was written down. When not, what was decided rests on something that is not so any more. A damaged
    /// record is left as it is, and keeps nobody's guests where they are.
    pub(super) async fn note_losses(&mut self, since: i64, losses: &Losses) -> Result<bool, StoreError> {
        let mut told = None;
        let written = self
            .state
            .change(|view, txn| {
                txn.at(keys::LEADER, since).put(losses);
                let before = self.unwritten.as_ref().or(view.losses.as_ref());
                told = news(before, losses, hold_s(view)).map(|(severity, message)| {
                    self.event(severity, EventKind::Storm, "cluster".into(), message)
                });
                if let Some(event) = &told {
                    txn.create(event);
                }
                true
            })
            .await;
        match written {
            Ok(outcome) => {
                if let Some(event) = &told {
                    super::fencing::log(outcome, event);
                }
                self.unwritten = None;
                Ok(matches!(outcome, Outcome::Committed { .. }))
            }
            Err(StoreError::Refused(why)) => {
                tracing::debug!(%why, "which hosts are lost cannot be written down");
                if let Some(Event { severity, kind, subject, message, .. }) = told {
                    super::tell(&self.events, super::watcher::News { severity, kind, subject, message });
                }
                self.unwritten = Some(losses.clone());
                Ok(true)
            }
            Err(error @ (StoreError::Unavailable(_) | StoreError::Unknown(_) | StoreError::LeaseGone)) => {
                Err(error)
            }
        }
    }

    /// Restarts guests because one that they restart with was restarted after a failure.
    pub(super) async fn restart_together(&self, since: i64, now: Timestamp) -> Result<(), StoreError> {
        let answers = answers(self.state.read().view(), now);
        for answer in answers {
            super::unless_refused(self.answer(since, answer).await)?;
        }
        Ok(())
    }

    async fn answer(&self, since: i64, answer: Answer) -> Result<(), StoreError> {
        let Answer { failed, record, restart, told } = answer;
        let about = format!("guest/{failed}");
        let event = told.map(|message| self.event(Severity::Warning, EventKind::GuestOrder, about, message));
        self.state
            .change(|_, txn| {
                txn.at(keys::LEADER, since).put(&record);
                txn.unchanged(&keys::assignment(&failed)).unchanged(&keys::guest_report(&failed));
                for spec in &restart {
                    txn.put(spec);
                }
                if let Some(event) = &event {
                    txn.create(event);
                }
                true
            })
            .await
            .map(drop)
    }

    fn event(&self, severity: Severity, kind: EventKind, subject: String, message: String) -> Event {
        let (id, at, seen_by) = (EventId(Uuid::now_v7()), Timestamp::now(), self.me.clone());
        Event { id, at, severity, kind, subject, seen_by, message }
    }
}

fn hold_s(view: &ClusterView) -> u32 {
    view.cluster.as_ref().map(|cluster| cluster.settings.clone()).unwrap_or_default().storm_hold_s
}
