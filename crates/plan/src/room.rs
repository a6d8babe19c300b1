//! How much room each host has, computed from what is assigned to it; never measured.

use std::collections::BTreeMap;

use model::{Bytes, ClusterView, GuestSpec, HostName};

/// What QEMU takes beside the guest's own memory.
const GUEST_OVERHEAD: Bytes = Bytes::mib(64);

/// What the host keeps for itself: kernel, daemon, store member, storage daemon.
const HOST_RESERVE: Bytes = Bytes::mib(512);

/// A host's capacity and what is promised of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub memory: Bytes,
    pub memory_used: Bytes,
    pub disk: Bytes,
    pub disk_used: Bytes,
    pub guests: usize,
}

/// What a guest takes of its host's memory.
pub(crate) fn memory_of(spec: &GuestSpec) -> Bytes {
    // What a guest asks for may be any number; one that no host has must not wrap around to one that fits.
    Bytes(spec.memory.0.saturating_add(GUEST_OVERHEAD.0))
}

impl Room {
    pub fn fits_memory(&self, need: Bytes) -> bool {
        self.memory_used.0.saturating_add(need.0) <= self.memory.0
    }

    pub fn fits_disk(&self, need: Bytes) -> bool {
        self.disk_used.0.saturating_add(need.0) <= self.disk.0
    }

    pub fn memory_free(&self) -> Bytes {
        Bytes(self.memory.0.saturating_sub(self.memory_used.0))
    }

    pub fn disk_free(&self) -> Bytes {
        Bytes(self.disk.0.saturating_sub(self.disk_used.0))
    }

    /// In thousandths, with `more` added.
    pub fn memory_load(&self, more: Bytes) -> u64 {
        (self.memory_used.0 + more.0).saturating_mul(1000) / self.memory.0.max(1)
    }

    /// In thousandths, with `more` added.
    pub fn disk_load(&self, more: Bytes) -> u64 {
        (self.disk_used.0 + more.0).saturating_mul(1000) / self.disk.0.max(1)
    }

    pub fn take_memory(&mut self, need: Bytes) {
        self.memory_used.0 += need.0;
        self.guests += 1;
    }
}

/// The room on every host that has reported. A guest counts on its owner with memory and disks, on its
/// secondary's host with disks.
pub(crate) fn rooms(view: &ClusterView) -> BTreeMap<HostName, Room> {
    let mut rooms: BTreeMap<HostName, Room> = view
        .host_reports
        .iter()
        .filter(|(name, _)| view.hosts.contains_key(*name))
        .map(|(name, report)| {
            let memory = Bytes(report.memory.0.saturating_sub(HOST_RESERVE.0));
            let room =
                Room { memory, memory_used: Bytes(0), disk: report.disk, disk_used: Bytes(0), guests: 0 };
            (name.clone(), room)
        })
        .collect();
    for (name, assignment) in &view.assignments {
        let Some(spec) = view.guests.get(name) else { continue };
        if let Some(room) = rooms.get_mut(&assignment.host) {
            room.take_memory(memory_of(spec));
            room.disk_used.0 += spec.disk_size().0;
        }
        if let Some(room) = assignment.secondary.as_ref().and_then(|host| rooms.get_mut(host)) {
            room.disk_used.0 += spec.disk_size().0;
        }
    }
    rooms
}
