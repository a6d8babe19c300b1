//! Fencing: the devices that can take a host's power, and how it goes when it is to be taken.
//!
//! ```text
//!   nobody asks ──leader or operator──▶ asked ──a try of the leader──▶ off
//!                                        ▲  │└─the watchdog's time──▶ reset
//!                                        └──┘ nothing was proven: why, and the next try
//! ```
//!
//! The host's next session removes the record, whatever it says: what is heard is not off. So a record that says
//! `off` or `reset` proves that the boot in which the host was heard last has ended.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{BootId, DeviceName, HostName};

/// The devices that can take one host's power.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FenceDevices {
    pub host: HostName,
    pub devices: BTreeMap<DeviceName, FenceDevice>,
}

/// A program of the fence-agents family, and what it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FenceDevice {
    /// Drawn once; its secrets stand under it in the store.
    #[schema(value_type = String, format = Uuid)]
    pub id: Uuid,
    /// The program, as in `fence_ipmilan`.
    pub agent: String,
    /// What it is told, but for what is secret.
    pub options: BTreeMap<String, String>,
    /// What else it is told; the values are secrets of the store, and never part of a view.
    pub secrets: BTreeSet<String>,
    /// The levels are tried in order, the lowest number first. The devices of one level belong together, as the two
    /// power supplies of a host do: the power is off when all of them say so.
    pub level: u8,
    /// How long it is waited before this device is used, seconds, counted from when the fence was asked for.
    pub delay_s: u32,
}

impl FenceDevice {
    /// The name of its secrets in the store.
    pub fn secret_name(&self) -> String {
        format!("fence-{}", self.id)
    }
}

impl FenceDevices {
    pub fn none(host: HostName) -> Self {
        Self { host, devices: BTreeMap::new() }
    }

    /// The devices by level, in the order in which the levels are tried.
    pub fn levels(&self) -> BTreeMap<u8, Vec<(&DeviceName, &FenceDevice)>> {
        let mut levels: BTreeMap<u8, Vec<_>> = BTreeMap::new();
        for (name, device) in &self.devices {
            levels.entry(device.level).or_default().push((name, device));
        }
        levels
    }
}

/// That a host's power is to be taken, and how that goes. The leader makes it, or the API when an operator asks;
/// from then on the leader alone changes it, and the host's next session removes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fence {
    pub host: HostName,
    #[schema(value_type = String, format = Uuid)]
    pub id: Uuid,
    /// The boot in which the host was heard last: the one that is to end.
    pub boot_id: BootId,
    /// Who wants it: an operator, or `the leader`.
    pub asked_by: String,
    /// An operator asked. Then it is tried once, also when the host is heard.
    pub by_hand: bool,
    /// Why; one sentence without a full stop.
    pub why: String,
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// How often it was begun. Written before anything is done to a device.
    pub tries: u32,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub tried_at: Option<Timestamp>,
    /// Why the last try proved nothing; `None` while the first one is under way.
    pub problem: Option<String>,
    /// When it did: the host had no session, and all devices of a level said that the power was off.
    pub off: Option<PowerOff>,
    /// When the host's own hardware must have reset it, while it had no session.
    #[serde(default)]
    pub reset: Option<Reset>,
}

/// That a host's hardware watchdog has reset it, because nobody fed it: its time-out passed twice, and more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reset {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The device, as in the host's report.
    pub device: String,
    pub timeout_s: u32,
    /// The host that counted.
    pub counted_by: HostName,
}

/// That the power was seen to be off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PowerOff {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Which devices said so.
    pub devices: BTreeSet<DeviceName>,
    /// The host that asked them.
    pub seen_by: HostName,
}

impl Fence {
    /// Whether nothing more is going to be tried.
    pub fn is_over(&self) -> bool {
        self.is_proven() || self.by_hand && self.problem.is_some()
    }

    /// Whether the boot that it is about has surely ended.
    pub fn is_proven(&self) -> bool {
        self.off.is_some() || self.reset.is_some()
    }
}
