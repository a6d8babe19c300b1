//! What the cluster can still take, and what it survives.
//!
//! **The promise.** A cluster promises to survive a loss (`Promise`): every guest that runs and that *could* come
//! back has room to. It is judged by doing it: the hosts are taken away and [`crate::recover`] places their guests,
//! as the leader would. So the promise covers memory, virtual CPUs and `must` rules. Outside of it are:
//!
//! - guests on local disks: they wait for their host, whatever room there is;
//! - under `Promise::Hosts`, guests both of whose hosts are lost at once: their data is lost with them, and no room
//!   helps. Under `Promise::Domain` they count, for two zones would have helped;
//! - what has nobody left to keep it: one host promises nothing, nor does one zone, and of n hosts n - 1 can be lost.
//!
//! A mirrored guest whose other replica is on a host that is lost or in maintenance, or is still being filled, is
//! *exposed*: the next loss may leave it out, so the promise is not kept while that lasts; no admission is refused for
//! it, though, and the room that it needs once its replica is filled is kept for it from the beginning. A host in
//! maintenance counts as if it were switched off already, for it will be.
//!
//! **Several hosts at once.** The loss of any one host is simulated, host by host. For more at once every combination
//! is simulated in small clusters; large ones use bounds that never promise too much (`bound`).
//!
//! [`loss`] is one loss in detail, [`survey`] all of them, [`admit`] compares two surveys, [`fits`] counts how many
//! guests of a size still fit, [`with_host`] asks all that of a larger cluster.

mod admit;
mod bound;
mod fits;
mod ground;
mod grow;
#[cfg(test)]
pub(crate) mod sketch;
mod survey;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::recover;
use crate::snapshot::{GuestIx, HostIx, Snapshot};

pub use admit::{Broken, admit};
pub use fits::{Fits, Shape, fits};
pub(crate) use ground::Ground;
pub use grow::{Brings, with_host};
pub use survey::{LeftOut, Outlook, Survey, problems, survey};

/// What the loss of some hosts would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loss {
    pub hosts: Vec<HostIx>,
    /// Guests that come back, and where, in the order in which they do.
    pub restarts: Vec<(GuestIx, HostIx)>,
    /// Guests that could come back, and for which there is no room or which a rule forbids; why.
    pub without_place: BTreeMap<GuestIx, String>,
    /// Mirrored guests of which no replica is left; why.
    pub without_replica: BTreeMap<GuestIx, String>,
    /// Running guests on local disks: they wait for their host.
    pub local: Vec<GuestIx>,
    /// Guests there that do not run anyway.
    pub stopped: Vec<GuestIx>,
    /// Guests with one replica less, those that come back among them.
    pub degraded: Vec<GuestIx>,
    /// How many run on as they are.
    pub unaffected: usize,
}

impl Loss {
    /// Whether every guest that could come back does.
    pub fn survives(&self) -> bool {
        self.without_place.is_empty() && self.without_replica.is_empty()
    }
}

/// What the loss of these hosts would do, all at once and as things are now.
pub fn loss(snapshot: &Snapshot, lost: &[HostIx]) -> Loss {
    let bare = recover::bare(snapshot);
    ground::Ground::now(snapshot, &bare).lose(lost)
}

/// `a`, `a and b`, `a, b and c`; of more than `max` the first ones and how many more.
fn listed<S: AsRef<str>>(names: &[S], max: usize) -> String {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    match names.as_slice() {
        [] => "nobody".to_owned(),
        [one] => (*one).to_owned(),
        [first @ .., last] if names.len() <= max => format!("{} and {last}", first.join(", ")),
        more => {
            format!("{} and {} more", more[..max.min(more.len())].join(", "), more.len().saturating_sub(max))
        }
    }
}
