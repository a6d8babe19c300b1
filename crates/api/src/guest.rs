//! Guests as people ask for them and see them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;
use model::{
    Assignment, Bytes, ClusterView, EventKind, GuestId, GuestName, GuestPhase, GuestReport, GuestSpec,
    HealthReport, HostName, ImageName, MoveOptions, NetworkName, PoolName,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Blob, ChangeHealth, VolumeView, Watched};

/// A guest to be made. Everything but the name has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateGuest {
    pub name: GuestName,
    /// What its first disk is filled from; without one the disk is empty.
    #[serde(default)]
    pub image: Option<ImageName>,
    /// Default: 512M, or 128M for an image that brings its own kernel.
    #[serde(default)]
    pub memory: Option<Bytes>,
    #[serde(default = "one")]
    pub vcpus: u32,
    /// Default: one disk.
    #[serde(default)]
    pub disks: Vec<CreateDisk>,
    /// Default: the network `default`, when there is one.
    #[serde(default)]
    pub network: Option<NetworkName>,
    /// Its address on that network. Default: it asks by DHCP, if it wants to.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// cloud-init's user-data, or a script that begins with `#!`.
    #[serde(default)]
    pub user_data: Option<String>,
    #[serde(default)]
    pub ssh_keys: Vec<String>,
    /// Where it should run, if that host can take it.
    #[serde(default)]
    pub host: Option<HostName>,
    /// Who comes back first when a host is lost: higher before lower.
    #[serde(default)]
    pub priority: i32,
    #[serde(default = "yes")]
    pub start: bool,
    /// What rules may name it by.
    #[serde(default)]
    pub tags: BTreeSet<String>,
    /// It is not to be moved.
    #[serde(default)]
    pub pinned: bool,
    /// Guests that must run before it is started.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub start_after: BTreeSet<GuestName>,
    /// Guests that it restarts with after a failure.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub restart_with: BTreeSet<GuestName>,
    /// How it is seen to be well, and what is done when it is not. Default: it is restarted when it panics.
    #[serde(default, skip_serializing_if = "ChangeHealth::is_empty")]
    pub health: ChangeHealth,
    /// Though the cluster could no longer survive what it promises to.
    #[serde(default)]
    pub force: bool,
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

impl CreateGuest {
    /// A guest with every default.
    pub fn new(name: GuestName) -> Self {
        Self {
            name,
            image: None,
            memory: None,
            vcpus: one(),
            disks: Vec::new(),
            network: None,
            address: None,
            user_data: None,
            ssh_keys: Vec::new(),
            host: None,
            priority: 0,
            start: yes(),
            tags: BTreeSet::new(),
            pinned: false,
            start_after: BTreeSet::new(),
            restart_with: BTreeSet::new(),
            health: ChangeHealth::default(),
            force: false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateDisk {
    /// Default: 10G, or 64M for an image that brings its own kernel; never less than the image needs.
    #[serde(default)]
    pub size: Option<Bytes>,
    /// `local`, `mirror`, or a pool that was made. Default: `mirror` in a cluster of two hosts or more, else `local`.
    #[serde(default)]
    pub pool: Option<PoolName>,
    /// It takes room as it is written, and gives back what is discarded. Its guest stands still while there is none.
    #[serde(default)]
    pub thin: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuestView {
    pub name: GuestName,
    pub id: GuestId,
    pub phase: GuestPhase,
    /// The host that owns it.
    pub host: Option<HostName>,
    /// The host of its secondary replicas.
    pub secondary: Option<HostName>,
    /// What it waits for, or why it failed; one sentence without a full stop.
    pub message: Option<String>,
    pub volumes: Vec<VolumeView>,
    pub spec: GuestSpec,
    pub assignment: Option<Assignment>,
    /// What its owner said of it last.
    pub report: Option<GuestReport>,
}

impl GuestView {
    pub fn of(view: &ClusterView, spec: &GuestSpec) -> Self {
        // A guest made anew under an old name has nothing to do with the old one's records.
        let assignment = view.assignments.get(&spec.name).filter(|a| a.guest_id == spec.id);
        let report = view.guest_reports.get(&spec.name).filter(|r| r.guest_id == spec.id);
        let phase = GuestPhase::derive(spec, assignment, report, view);
        Self {
            name: spec.name.clone(),
            id: spec.id,
            phase,
            host: assignment.map(|a| a.host.clone()),
            secondary: assignment.and_then(|a| a.secondary.clone()),
            message: message(view, spec, phase, report),
            volumes: VolumeView::of_guest(view, spec),
            spec: spec.clone(),
            assignment: assignment.cloned(),
            report: report.cloned(),
        }
    }

    /// How well it is, while it runs.
    pub fn health(&self) -> Option<&HealthReport> {
        let owner = self.assignment.as_ref()?;
        let report = self.report.as_ref().filter(|r| r.host == owner.host && r.epoch == owner.epoch)?;
        report.health.as_ref().filter(|_| self.phase == GuestPhase::Running)
    }

    pub fn list(view: &ClusterView) -> Vec<Self> {
        view.guests.values().map(|spec| Self::of(view, spec)).collect()
    }

    pub fn find(view: &ClusterView, name: &GuestName) -> Option<Self> {
        view.guests.get(name).map(|spec| Self::of(view, spec))
    }
}

fn message(
    view: &ClusterView,
    spec: &GuestSpec,
    phase: GuestPhase,
    report: Option<&GuestReport>,
) -> Option<String> {
    match phase {
        // Nobody owns it, so nobody reports: the leader's last word on it is an event.
        GuestPhase::Waiting | GuestPhase::Unknown => {
            let subject = format!("guest/{}", spec.name);
            let last = view.events.values().rev().find(|e| e.subject == subject)?;
            (last.kind == EventKind::GuestWaiting).then(|| last.message.clone())
        }
        GuestPhase::Preparing
        | GuestPhase::Starting
        | GuestPhase::Running
        | GuestPhase::Paused
        | GuestPhase::Stopping
        | GuestPhase::Stopped
        | GuestPhase::Failed
        | GuestPhase::Deleting => report.and_then(|r| r.message.clone()),
    }
}

impl Watched for GuestView {
    fn watch_id(&self) -> String {
        self.name.to_string()
    }
}

/// Where a guest shall be from now on. What is left out the planner chooses.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MigrateGuest {
    /// The host that shall run it. Default: where it is, when a secondary is named; else the best other host.
    #[serde(default)]
    pub to: Option<HostName>,
    /// The host that shall hold its secondary replicas. Default: the one that costs the least copying.
    #[serde(default)]
    pub secondary: Option<HostName>,
    /// Though the cluster could no longer survive what it promises to.
    #[serde(default)]
    pub force: bool,
    /// How a running guest gets across.
    #[serde(default)]
    pub options: MoveOptions,
}

/// What a guest showed and said last, each time before it was reset, or when its QEMU had died.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastMoments {
    /// Oldest first.
    pub last_moments: Vec<LastMomentView>,
    /// Hosts that did not answer: what they keep is missing.
    #[schema(value_type = Vec<String>)]
    pub silent: Vec<HostName>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastMomentView {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    pub host: HostName,
    /// One sentence without a full stop.
    pub why: String,
    /// The end of what it said on its serial port, 16 KiB at most.
    pub lines: Blob,
    /// What its screen showed.
    pub picture: Option<PictureView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PictureView {
    /// `png` or `ppm`.
    pub format: String,
    pub bytes: Blob,
}

/// A program to be run inside a guest, through its guest agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// The program and its arguments; no shell is involved.
    pub command: Vec<String>,
    /// Its standard input.
    #[serde(default)]
    pub input: Blob,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecAnswer {
    pub exit_status: i32,
    pub stdout: Blob,
    pub stderr: Blob,
}
