//! What exists in a cluster: identities, wishes, assignments, reports, and what is derived from them.
//!
//! No I/O, no clock, no randomness: whoever needs the time or a new id passes it in.
//!
//! # One writer for each record
//!
//! | record | written by |
//! | --- | --- |
//! | [`Cluster`], [`Host`], [`GuestSpec`], [`Rule`], [`Network`], [`Image`], [`NamedPool`], [`JobSpec`], [`AccessToken`], address claims | the API |
//! | [`ConfirmedDead`], [`FenceDevices`], [`AlertTarget`] | the API; the host that is heard again removes the former |
//! | [`Fence`] | whoever wants it makes it, the leader or the API; only the leader changes it; the host that is heard again removes it |
//! | [`Losses`] | the leader; the API adds an operator's word that a storm is over |
//! | [`GroupRestarts`] | the leader |
//! | [`Assignment`], [`JobReport`], [`ReplicaDrop`] (its host removes it), trimming of events | the leader; an owner that was asked to hand a guest over while it runs writes the assignment that makes the other host the owner |
//! | [`InSync`] | the owner of the guest, at its epoch; nobody else, the leader only compares it |
//! | [`GuestReport`], [`HostReport`], [`Session`] | the host they speak of |
//! | [`Event`] | whoever saw it; never changed |
//! | [`Incident`], [`AlertState`] | the leader |
//!
//! # Who may run a guest
//!
//! [`Assignment`] is `(host, epoch)`; every change of it is one transaction that compares the old one and
//! writes the next epoch. [`InSync`] says which replicas hold every acknowledged write. "The primary goes on
//! alone" writes the second and compares the first; "the secondary takes over" writes the first and compares
//! the second: exactly one of the two happens, whatever the clocks say.

mod alert;
mod cluster;
mod event;
mod fence;
mod guest;
mod health;
mod host;
mod id;
mod image;
mod incident;
mod job;
mod losses;
mod network;
mod pool;
mod refusal;
mod rule;
mod size;
mod usage;
mod view;
mod volume;

pub use alert::{AlertState, AlertTarget, AlertWay, MailTls, Told};
pub use cluster::{AccessToken, BalanceMode, Cluster, Schema, Settings, Survive, TokenUse, User};
pub use event::{Event, EventKind, Severity};
pub use fence::{Fence, FenceDevice, FenceDevices, PowerOff, Reset};
pub use guest::{
    Assignment, BootFrom, DiskSpec, Exit, ExitReason, GuestPhase, GuestReport, GuestSpec, GuestState,
    Handover, HandoverKind, MigrationPhase, MigrationReport, MoveOptions, NicSpec, PowerWish, Resync, Seed,
};
pub use health::{
    HealthCheck, HealthReport, HealthRestart, HealthRestartKind, HealthSpec, HealthState, HttpCheck,
    InvalidHealthCheck, OnUnhealthy,
};
pub use host::{
    Accelerator, AcceleratorKind, Compatibility, CpuLevel, CpuModel, Duty, HardwareWatchdog, Host, HostPhase,
    HostReport, HostSettings, Incoming, Session,
};
pub use id::{
    AlertName, BootId, DeviceName, Epoch, EventId, GuestId, GuestName, HostName, ImageName, IncidentId,
    InvalidName, JobId, MacAddress, NetworkName, PoolName, RuleName, UserName, VolumeId,
};
pub use image::{Image, ImageFile, ImageFormat};
pub use incident::{FailoverParts, GuestStory, Incident, IncidentEntry, IncidentKind, Weight, seconds};
pub use job::{
    ByteRange, GuestPlace, Illegal, JobKind, JobReport, JobSpec, JobState, JobStep, Moving, Recipe,
    StepState, Verified,
};
pub use losses::{GoOn, GroupRestarts, Losses, Storm};
pub use network::{AddressClaim, Network};
pub use pool::{ConfirmedDead, NamedPool, PoolOnHost, PoolStorage};
pub use refusal::Refusal;
pub use rule::{GuestSelector, HostSelector, Rule, RuleKind, RuleScope, RuleStrength};
pub use size::{Bytes, InvalidSize};
pub use usage::{GuestUsage, HostUsage, Usage};
pub use view::{ClusterView, Liveness};
pub use volume::{
    FillHow, FillProgress, Filled, InSync, Pool, Replica, ReplicaDrop, ReplicaFile, VolumePhase,
    VolumeReport, VolumeState,
};
