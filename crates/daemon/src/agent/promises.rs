//! What this host promised to owners whose sessions are in doubt: not to start their guests for a while.
//!
//! Rule 7 of the ownership protocol: an owner without a live session goes on only while the secondary's host
//! keeps confirming its epoch. A promise is kept in memory only: a host that restarts its daemon reads the
//! store anew, and what the store says of the owner binds it anyway; the promise keeps two machines from
//! answering on the network, not two writers from one disk.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use model::{Epoch, GuestId, HostName};
use plan::limits::PROMISE;
use tokio::time::Instant;

use crate::state::State;

#[derive(Debug, Clone, Default)]
pub struct Promises {
    until: Arc<Mutex<BTreeMap<GuestId, Instant>>>,
}

impl Promises {
    /// Promises `asker` not to take over, if by all that is known here it is still the owner at `epoch`.
    pub fn give(&self, state: &State, guest: GuestId, epoch: Epoch, asker: &HostName) -> bool {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock: a keeper that saw a newer owner before this finds no promise after it.
        let cache = state.read();
        let owns = cache
            .view()
            .assignments
            .values()
            .any(|a| a.guest_id == guest && a.epoch == epoch && &a.host == asker);
        if owns {
            until.insert(guest, Instant::now() + PROMISE);
        }
        owns
    }

    /// Until when the guest may not be started here.
    pub fn until(&self, guest: GuestId) -> Option<Instant> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner).get(&guest).copied()
    }
}
