//! Changes to what exists: each names only what shall be different.
//!
//! A field that is left out stays as it is. Where `null` is a value of its own ("as the whole cluster's settings
//! say"), it is one here too, and not the same as leaving the field out.

use std::collections::BTreeSet;

use model::{BalanceMode, Bytes, CpuLevel, Duty, GuestName, HealthCheck, HealthSpec, OnUnhealthy, Survive};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::{HostView, JobView};

/// Tags that come and go; the others stay.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChangeTags {
    pub add: BTreeSet<String>,
    pub remove: BTreeSet<String>,
}

impl ChangeTags {
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChangeHost {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    pub tags: ChangeTags,
    pub settings: ChangeHostSettings,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChangeHostSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved_memory: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved_disk: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved_millicores: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed_percent: Option<u32>,
    /// `null`: as the whole cluster's settings say.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub memory_percent: Option<Option<u32>>,
    /// `null`: as the whole cluster's settings say.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub vcpus_percent: Option<Option<u32>>,
}

/// Tells `null` from a field that is not there.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(field: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(field).map(Some)
}

/// What a host is there for from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeDuty {
    pub duty: Duty,
    /// Move what can be moved, though some guests must stay.
    #[serde(default)]
    pub force: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DutyAnswer {
    pub host: HostView,
    /// What moves the guests; nothing for a host that comes back to its normal duty.
    pub job: Option<JobView>,
    /// What the operator should know of it; one sentence without a full stop each.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChangeGuest {
    /// Who comes back first when a host is lost: higher before lower.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    pub tags: ChangeTags,
    /// Whether it is not to be moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned: Option<bool>,
    /// Guests that must run before it is started: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub start_after: Option<BTreeSet<GuestName>>,
    /// Guests that it restarts with after a failure: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub restart_with: Option<BTreeSet<GuestName>>,
    /// How long it may take to shut down before it is ended hard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout_s: Option<u32>,
    /// Only while it is stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Only while it is stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// How it is seen to be well, and what is done when it is not.
    #[serde(skip_serializing_if = "ChangeHealth::is_empty")]
    pub health: ChangeHealth,
}

/// What is left out stays as it is, or is the default of a new guest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChangeHealth {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<HealthCheck>,
    /// Between two looks, 1 to 3600.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_s: Option<u32>,
    /// How long one look may take, 1 to 60.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u32>,
    /// So many looks in a row must fail, 1 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<u32>,
    /// How long it has after its boot, 0 to 3600.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_s: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_unhealthy: Option<OnUnhealthy>,
    /// How often it is restarted within an hour at most, 0 to 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_limit: Option<u32>,
}

impl ChangeHealth {
    pub fn is_empty(&self) -> bool {
        *self == ChangeHealth::default()
    }

    pub fn apply(&self, spec: &mut HealthSpec) {
        let ChangeHealth { check, interval_s, timeout_s, failures, grace_s, on_unhealthy, restart_limit } =
            self;
        spec.check = check.clone().unwrap_or_else(|| spec.check.clone());
        spec.interval_s = interval_s.unwrap_or(spec.interval_s);
        spec.timeout_s = timeout_s.unwrap_or(spec.timeout_s);
        spec.failures = failures.unwrap_or(spec.failures);
        spec.grace_s = grace_s.unwrap_or(spec.grace_s);
        spec.on_unhealthy = on_unhealthy.unwrap_or(spec.on_unhealthy);
        spec.restart_limit = restart_limit.unwrap_or(spec.restart_limit);
    }
}

/// Changes to what holds for the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChangeSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<BalanceMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance_moves_at_once: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_window_s: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub survive: Option<Survive>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_percent: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus_percent: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_starts_per_host: Option<u32>,
    /// How long a guest waits at most for those that it starts after; 0: not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_wait_s: Option<u32>,
    /// What share of the hosts must vanish within the window to be a storm, percent; 0: nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storm_share_percent: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storm_window_s: Option<u32>,
    /// For how long nothing is recovered when a storm begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storm_hold_s: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storm_starts_per_host: Option<u32>,
    /// For how long a mirrored volume has one replica before it gets a new secondary by itself; 0: it never does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heal_after_s: Option<u32>,
    /// How often both replicas of each mirrored volume are compared; 0: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify_every_s: Option<u32>,
    /// How fast one replica is filled at most, bytes per second; 0: as the daemon sees fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resync_pace: Option<Bytes>,
    /// The processor that guests are started with; `null`: the lowest level of all hosts.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<CpuLevel>)]
    pub cpu_baseline: Option<Option<CpuLevel>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_not_the_same_as_left_out() {
        let read = |text: &str| serde_json::from_str::<ChangeHostSettings>(text).unwrap().memory_percent;
        assert_eq!(read("{}"), None);
        assert_eq!(read("{\"memory_percent\": null}"), Some(None));
        assert_eq!(read("{\"memory_percent\": 150}"), Some(Some(150)));
        let cleared = ChangeHostSettings { memory_percent: Some(None), ..ChangeHostSettings::default() };
        assert_eq!(serde_json::to_string(&cleared).unwrap(), "{\"memory_percent\":null}");
    }
}
