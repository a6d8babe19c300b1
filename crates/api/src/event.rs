//! Events as people ask for them. An event is shown as it was written.

use model::{ClusterView, Event};
use serde::{Deserialize, Serialize};

use crate::Watched;

/// An event as people see it: the record itself.
pub type EventView = Event;

/// Which events are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EventQuery {
    /// Only those about this, as in `guest/web1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Only the newest so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    #[serde(default)]
    pub watch: bool,
}

impl EventQuery {
    /// The events that are asked for, the oldest first.
    pub fn select(&self, view: &ClusterView) -> Vec<EventView> {
        let wanted = |event: &&Event| self.subject.as_ref().is_none_or(|subject| &event.subject == subject);
        let newest_first = view.events.values().rev().filter(wanted);
        let mut events: Vec<_> = newest_first.take(self.limit.unwrap_or(usize::MAX)).cloned().collect();
        events.reverse();
        events
    }
}

impl Watched for EventView {
    fn watch_id(&self) -> String {
        self.id.to_string()
    }
}
