//! Hosts as people see them.

use std::collections::BTreeMap;

use model::{
    Assignment, Bytes, ClusterView, DeviceName, Fence, FenceDevice, Host, HostName, HostPhase, HostReport,
    PowerWish, Session,
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
        let mine = view.assignments.values().filter(|assignment| assignment.host == host.name);
        let mut owned = Owned::default();
        mine.for_each(|assignment| owned.add(view, assignment));
        Self::with(view, host, owned)
    }

    pub fn list(view: &ClusterView) -> Vec<Self> {
        // One look at all guests, and not one for each host.
        let mut owned: BTreeMap<&HostName, Owned> = BTreeMap::new();
        for assignment in view.assignments.values() {
            owned.entry(&assignment.host).or_default().add(view, assignment);
        }
        let of = |host: &Host| Self::with(view, host, owned.remove(&host.name).unwrap_or_default());
        view.hosts.values().map(of).collect()
    }

    fn with(view: &ClusterView, host: &Host, owned: Owned) -> Self {
        Self {
            name: host.name.clone(),
            phase: view.host_phase(&host.name),
            is_leader: view.leader.as_ref() == Some(&host.name),
            guests: owned.guests,
            memory_assigned: owned.memory,
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

    pub fn find(view: &ClusterView, name: &HostName) -> Option<Self> {
        view.hosts.get(name).map(|host| Self::of(view, host))
    }
}

/// What a host owns.
#[derive(Default)]
struct Owned {
    guests: u32,
    memory: Bytes,
}

impl Owned {
    fn add(&mut self, view: &ClusterView, assignment: &Assignment) {
        let Some(guest) = view.guests.get(&assignment.guest) else { return };
        self.guests = self.guests.saturating_add(1);
        if guest.power == PowerWish::Running {
            self.memory = [self.memory, guest.memory].into_iter().sum();
        }
    }
}

impl Watched for HostView {
    fn watch_id(&self) -> String {
        self.name.to_string()
    }
}
