//! Fence devices and fencing, as people ask for them and see them.

use std::collections::BTreeMap;
use std::fmt;

use model::{DeviceName, FenceDevice, HostName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A device that can take a host's power.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddFenceDevice {
    pub name: DeviceName,
    /// A program of the fence-agents family, as in `fence_ipmilan`.
    pub agent: String,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Options whose values are never shown again. Those among `options` that are called as passwords count as
    /// secrets, too.
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
    /// 1 to 9; the levels are tried in order.
    #[serde(default = "first_level")]
    pub level: u8,
    /// How long it is waited before this device is used, seconds.
    #[serde(default)]
    pub delay_s: u32,
    /// Though the device does not answer now, or says what it should not.
    #[serde(default)]
    pub force: bool,
}

fn first_level() -> u8 {
    1
}

impl fmt::Debug for AddFenceDevice {
    // Some of it is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddFenceDevice")
            .field("name", &self.name)
            .field("agent", &self.agent)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FenceDeviceView {
    pub host: HostName,
    pub name: DeviceName,
    pub device: FenceDevice,
}

/// That a host's power is to be taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FenceHost {
    /// Why; for the record.
    #[serde(default)]
    pub why: Option<String>,
    /// Though it is online and runs guests.
    #[serde(default)]
    pub force: bool,
}

/// What each fence device of a host says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FenceTestView {
    pub host: HostName,
    /// The host that asked the devices: what another one reaches may differ.
    pub asked_by: HostName,
    pub devices: Vec<DeviceTestView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceTestView {
    pub name: DeviceName,
    pub agent: String,
    pub level: u8,
    /// Whether it says that there is power. `None`: it does not answer that.
    pub powered: Option<bool>,
    /// Why not; a sentence without a full stop.
    pub problem: Option<String>,
}
