//! Lists that are watched.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What every list takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ListQuery {
    /// Answer with a stream of changes instead of a list.
    #[serde(default)]
    pub watch: bool,
}

/// What a watch says. Its events are named `snapshot`, `changed`, `removed` and `heartbeat`; the first one
/// is always a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent<T> {
    /// Everything; what was known before is void.
    Snapshot(Vec<T>),
    /// One item is new or different.
    Changed(T),
    /// The item with this id is gone.
    Removed(String),
    /// No host answers for now, and why. A snapshot follows when one does. Made by the client.
    Interrupted(String),
}

/// The data of a `removed` event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Removed {
    pub id: String,
}

/// An item of a list: what tells it from the others.
pub trait Watched {
    /// Unique in its list, and the same for as long as the item lives.
    fn watch_id(&self) -> String;
}
