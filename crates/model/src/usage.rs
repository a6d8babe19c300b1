//! What is measured: use of processors, memory, disk and network, as averages over time. Each host measures its
//! own and answers whoever asks; none of it goes into the store.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{GuestName, HostName};

/// A time-weighted average, in which the last `window_s` seconds of [`HostUsage`] weigh the most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Cores.
    pub cpu: f64,
    /// Bytes that are resident.
    pub memory: f64,
    /// Bytes a second, read and written.
    pub disk: f64,
    /// Bytes a second, in and out.
    pub network: f64,
}

/// What one host measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostUsage {
    pub host: HostName,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The time constant of the averages: what is older counts for less than e^-1.
    pub window_s: u32,
    /// For how long this host has measured; averages of a shorter time than the window are not to be acted on.
    pub measured_s: u32,
    /// Of the whole host, its guests included.
    pub total: Usage,
    /// Each guest that runs here, and for how long it was measured.
    #[schema(value_type = BTreeMap<String, GuestUsage>)]
    pub guests: BTreeMap<GuestName, GuestUsage>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GuestUsage {
    pub usage: Usage,
    pub measured_s: u32,
}
