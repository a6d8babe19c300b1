//! Telling people what happened.

use jiff::Timestamp;
use model::{Event, EventId, EventKind, HostName, Severity};
use store::StoreError;

use crate::state::State;

/// How often an event is sent again while the store does not answer.
const TRIES: u32 = 20;
const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// Writes events. An event that cannot be stored within some twenty seconds stands in the log only.
#[derive(Debug, Clone)]
pub struct Events {
    state: State,
    me: HostName,
}

impl Events {
    pub fn new(state: State, me: HostName) -> Self {
        Self { state, me }
    }

    pub fn info(&self, kind: EventKind, subject: impl Into<String>, message: impl Into<String>) {
        self.emit(Severity::Info, kind, subject.into(), message.into());
    }

    pub fn warning(&self, kind: EventKind, subject: impl Into<String>, message: impl Into<String>) {
        self.emit(Severity::Warning, kind, subject.into(), message.into());
    }

    pub fn error(&self, kind: EventKind, subject: impl Into<String>, message: impl Into<String>) {
        self.emit(Severity::Error, kind, subject.into(), message.into());
    }

    fn emit(&self, severity: Severity, kind: EventKind, subject: String, message: String) {
        match severity {
            Severity::Info => tracing::info!(%subject, "{message}"),
            Severity::Warning => tracing::warn!(%subject, "{message}"),
            Severity::Error => tracing::error!(%subject, "{message}"),
        }
        let id = EventId(uuid::Uuid::now_v7());
        let seen_by = self.me.clone();
        let event = Event { id, at: Timestamp::now(), severity, kind, subject, seen_by, message };
        let state = self.state.clone();
        tokio::spawn(async move {
            for _ in 0..TRIES {
                match state
                    .write(|txn| {
                        txn.create(&event);
                    })
                    .await
                {
                    // A conflict means that an earlier try arrived after all.
                    Ok(_) | Err(StoreError::Refused(_) | StoreError::LeaseGone) => return,
                    Err(StoreError::Unavailable(_) | StoreError::Unknown(_)) => {
                        tokio::time::sleep(PAUSE).await
                    }
                }
            }
        });
    }
}
