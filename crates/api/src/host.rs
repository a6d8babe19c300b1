//! Hosts as people see them.

use std::collections::BTreeMap;

use model::{
    Bytes, ClusterView, DeviceName, Fence, FenceDevice, Host, HostName, HostPhase, HostReport, PowerWish,
    Session,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Watched;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostView {
    pub name: HostName,
    pub phase: HostPhase,
    /// Whether it runs the cluster-wide loops now.
    pub is_leader: bool,
    /// How many guests it owns.
    pub guests: u32,
    /// What the guests that it owns and that should run may use together.
    pub memory_assigned: Bytes,
    pub host: Host,
    pub session: Option<Session>,
    /// What it said of itself last.
    pub report: Option<HostReport>,
    /// What can take its power.
    #[schema(value_type = BTreeMap<String, FenceDevice>)]
    pub fence_devices: BTreeMap<DeviceName, FenceDevice>,
    /// That its power is to be taken or has been, unless it was heard since.
    pub fence: Option<Fence>,
}

impl HostView {
    pub fn of(view: &ClusterView, host: &Host) -> Self {
        let owned = || {
            view.assignments
                .values()
                .filter(|a| a.host == host.name)
                .filter_map(|a| view.guests.get(&a.guest))
        };
        Self {
            name: host.name.clone(),
            phase: view.host_phase(&host.name),
            is_leader: view.leader.as_ref() == Some(&host.name),
            guests: u32::try_from(owned().count()).unwrap_or(u32::MAX),
            memory_assigned: owned()
                .filter(|guest| guest.power == PowerWish::Running)
                .map(|guest| guest.memory)
                .sum(),
            host: host.clone(),
            session: view.sessions.get(&host.name).cloned(),
            report: view.host_reports.get(&host.name).cloned(),
            fence_devices: view
                .fence_devices
                .get(&host.name)
                .map(|record| record.devices.clone())
                .unwrap_or_default(),
            fence: view.fences.get(&host.name).cloned(),
        }
    }

    pub fn list(view: &ClusterView) -> Vec<Self> {
        view.hosts.values().map(|host| Self::of(view, host)).collect()
    }

    pub fn find(view: &ClusterView, name: &HostName) -> Option<Self> {
        view.hosts.get(name).map(|host| Self::of(view, host))
    }
}

impl Watched for HostView {
    fn watch_id(&self) -> String {
        self.name.to_string()
    }
}
