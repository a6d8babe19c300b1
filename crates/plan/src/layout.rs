//! Who is where, and what that leaves on each host. Every question is answered from sums that a move keeps up to
//! date, so that a move costs what it touches and not the whole cluster.
//!
//! [`Layout::obstacle`] is the one place that says whether a guest may be put somewhere; placing, balancing,
//! draining, recovering and explaining all ask it.

use std::fmt;

use model::Bytes;

use crate::snapshot::{Bound, DomainIx, GroupIx, GuestIx, HostDuty, HostIx, Place, Promise, Scope, Snapshot,
    Storage, Strength};

/// What a host gives now.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Given {
    /// Memory of the guests that run here, bytes.
    pub memory: u64,
    /// Of all replicas here, bytes.
    pub disk: u64,
    pub vcpus: u32,
    pub guests: u32,
    pub secondaries: u32,
    pub load: crate::snapshot::Load,
}

/// Who is where.
#[derive(Debug, Clone)]
pub struct Layout<'a> {
    snapshot: &'a Snapshot,
    places: Vec<Option<Place>>,
    given: Vec<Given>,
    /// For each host: memory of the guests that it would take over when a failure domain is lost.
    /// Only pairs that are not zero, in order of the domain.
    takeovers: Vec<Vec<(u32, u64)>>,
    /// For each group: how many of its guests are on each host or in each domain. Only those that are not zero.
    counts: Vec<Vec<(u32, u32)>>,
}

/// Why a guest may not be put somewhere.
#[derive(Debug, Clone, PartialEq)]
pub enum Obstacle {
    /// The host takes nothing now.
    Duty(String),
    Memory { free: u64, needed: u64 },
    Disk { free: u64, needed: u64 },
    Vcpus { free: u32, needed: u32 },
    /// The host would have no room left for what it must take over when `lost` dies.
    TakeOver { lost: String, free: u64, needed: u64 },
    /// It is not among the hosts of a `must` rule.
    NotAllowed,
    /// A `must` rule of a group says no.
    Rule { rule: String, count: u32, bound: Bound, scope: Scope },
    /// Primary and secondary on one host.
    SameHost,
    /// A mirrored guest without a secondary, or another one with one.
    Replicas,
}
