//! Events: what happened, for people. Never read by a decision.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{EventId, HostName};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    pub id: EventId,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    pub severity: Severity,
    pub kind: EventKind,
    /// What it is about, as in `guest/web1` or `host/host2`.
    pub subject: String,
    /// The host whose daemon saw it.
    pub seen_by: HostName,
    /// One sentence without a full stop.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    Info,
    Warning,
    /// A person must look.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

/// For programs that follow the stream; people read the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    HostOnline,
    HostLost,
    /// Many hosts vanished at once, or are back, or an operator said that they are lost for good.
    Storm,
    LeaderElected,
    GuestPlaced,
    GuestPromoted,
    GuestStarted,
    GuestStopped,
    GuestFailed,
    /// A guest that was not well is restarted.
    GuestRestarted,
    /// A guest is not well and is left alone, or is well again.
    GuestUnhealthy,
    /// A guest is without a place; the message says why.
    GuestWaiting,
    /// A guest is started before one that it starts after, or was restarted because another one was.
    GuestOrder,
    VolumeHeld,
    VolumeAlone,
    VolumeSyncing,
    VolumeInSync,
    /// There is no room for a guest's writes, or there is again.
    VolumeFull,
    /// A volume that has long had one replica gets a new secondary, or cannot get one.
    VolumeHealing,
    VolumeGrown,
    /// Both replicas of a volume were compared.
    VolumeVerified,
    StoreDegraded,
    RecordDamaged,
    JobEnded,
    /// The loss of a host would leave guests without a place, or no longer would.
    CapacityChanged,
    BalanceProposed,
    GuestMoved,
    /// Somebody gave a wrong password.
    SignInRefused,
    /// An operator said that a lost host runs nothing any more.
    HostConfirmedDead,
    /// What can take a host's power is different from now on.
    FenceDevicesChanged,
    /// A host's power is to be taken, or that has not worked.
    HostFencing,
    /// A host's power was seen to be off.
    HostFenced,
    /// An operator gave a host its power back.
    HostUnfenced,
    /// Somebody asked a host's fence devices how they are.
    FenceDevicesTested,
    /// Others are told of incidents from now on.
    AlertsChanged,
    /// Alerts do not reach whom they are for, or reach it again.
    AlertsFailing,
    /// A host's watchdog ended, or hangs, or is there again.
    WatchdogLost,
}
