//! Hosts that are lost, and whether so many of them vanished at once that it is a storm.
//!
//! ```text
//!   calm ──many hosts vanish within the window──▶ storm ──an operator says go on──▶ storm, unpaced
//!    ▲                                              │                                  │
//!    └── enough of them are back, or long enough ───┴──────────────────────────────────┘
//! ```
//!
//! It is a record, so that a leader that dies in a storm leaves it to the next one.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{GuestId, GuestName, HostName};

/// Which hosts are lost, by the leader's word. One record; the leader writes it, and the API adds an operator's word.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Losses {
    /// When a leader first saw that a host had no session.
    #[schema(value_type = BTreeMap<String, String>)]
    pub since: BTreeMap<HostName, Timestamp>,
    pub storm: Option<Storm>,
}

/// So many hosts vanished within a short time that a network is more likely to have failed than they.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Storm {
    #[schema(value_type = String, format = DateTime)]
    pub began: Timestamp,
    /// Those of its hosts that are still lost.
    #[schema(value_type = Vec<String>)]
    pub hosts: BTreeSet<HostName>,
    /// How many hosts there were before.
    pub of: u32,
    /// An operator's word that it is not to be waited any more.
    pub go_on: Option<GoOn>,
}

/// An operator's word that hosts are lost for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GoOn {
    pub by: String,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

/// How the guests that restart with this one have been dealt with. The leader writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupRestarts {
    pub guest: GuestName,
    pub guest_id: GuestId,
    /// When it was last given to another host because its own was lost; written with that.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub recovered_at: Option<Timestamp>,
    /// The failure that was answered last, by the time that it is known by.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub answered: Option<Timestamp>,
    /// When others were restarted because of it, as far as it was lately.
    #[schema(value_type = Vec<String>)]
    pub restarts: Vec<Timestamp>,
}
