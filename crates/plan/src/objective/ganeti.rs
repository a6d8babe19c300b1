//! Ganeti's score: the twenty metrics of hbal and hinfo 3.0.2, and what hbal refuses.
//!
//! Source: `src/Ganeti/HTools/Cluster/Metrics*.hs`, `Node.hs` (what may be added to a node) and `Cluster/Moves.hs`
//! of Ganeti 3.0.2. Memory and disk are MiB here, as in Ganeti's files, so that sums are the same numbers.

mod terms;

use std::collections::BTreeSet;

use super::{Manner, Objective, Terms};
use crate::snapshot::{Place, Snapshot};

/// What Ganeti knows and a snapshot has no place for. Hosts and guests are parallel to the snapshot's.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GanetiFacts {
    /// Ganeti's node groups.
    pub groups: Vec<GanetiGroup>,
    pub hosts: Vec<GanetiHost>,
    pub guests: Vec<GanetiGuest>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct GanetiGroup {
    pub name: String,
    pub vcpu_ratio: f64,
    pub spindle_ratio: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct GanetiHost {
    /// A place in [`GanetiFacts::groups`].
    pub group: usize,
    pub offline: bool,
    /// `t_mem`, MiB.
    pub memory: f64,
    /// `n_mem`: what the host's own system uses.
    pub memory_own: f64,
    /// `f_mem`: what it says is free, with its guests where the snapshot says.
    pub memory_free: f64,
    /// `t_disk`, MiB.
    pub disk: f64,
    pub disk_free: f64,
    /// `t_cpu`.
    pub cores: f64,
    /// `n_cpu`: virtual CPUs that its own system uses.
    pub vcpus_own: f64,
    pub speed: f64,
    pub spindles: f64,
    pub spindles_free: f64,
    pub exclusive_storage: bool,
    /// Its tags that are failure domains.
    pub locations: BTreeSet<String>,
    /// Its tags that a host must receive to take guests from it.
    pub migration: BTreeSet<String>,
    /// The migration tags that it receives: its own, and those that are allowed for one of them.
    pub receives: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct GanetiGuest {
    /// MiB.
    pub memory: f64,
    /// MiB on each host that has it.
    pub disk: f64,
    pub vcpus: f64,
    /// It is in memory on its primary (by its status, and not forthcoming).
    pub uses_memory: bool,
    /// Its memory is reserved on its secondary.
    pub reserves: bool,
    /// Its virtual CPUs count: all but `ADMIN_offline`.
    pub counts_vcpus: bool,
    pub auto_balance: bool,
    /// Its disks take a host's own disk space (`drbd`, `plain`).
    pub local_disk: bool,
    pub spindle_use: f64,
    /// Actual spindles, for exclusive storage.
    pub spindles: Option<f64>,
    pub forthcoming: bool,
    /// Tags that no other primary on its host should have. One that it has twice counts twice.
    pub exclusion: Vec<String>,
    /// Location tags that it asks for.
    pub desired: BTreeSet<String>,
    /// CPU, memory, disk, network: plain numbers.
    pub load: [f64; 4],
}

impl GanetiFacts {
    /// The facts after every guest went to its place: what is free on each host follows.
    pub fn after(&self, snapshot: &Snapshot, places: &[Option<Place>]) -> GanetiFacts {
        let mut facts = self.clone();
        for (guest, (need, new)) in self.guests.iter().zip(snapshot.guests.iter().zip(places)) {
            facts.count(guest, need.place, 1.0);
            facts.count(guest, *new, -1.0);
        }
        facts
    }

    fn count(&mut self, guest: &GanetiGuest, place: Option<Place>, sign: f64) {
        let Some(place) = place else { return };
        if guest.uses_memory {
            self.hosts[place.host.at()].memory_free += sign * guest.memory;
        }
        if guest.local_disk && !guest.forthcoming {
            for host in [Some(place.host), place.secondary].into_iter().flatten() {
                self.hosts[host.at()].disk_free += sign * guest.disk;
                self.hosts[host.at()].spindles_free += sign * guest.spindles.unwrap_or(0.0);
            }
        }
    }
}

/// Ganeti's score as an objective. Offline hosts are those of the facts.
#[derive(Debug, Clone)]
pub struct Ganeti<'a> {
    pub facts: &'a GanetiFacts,
    pub options: Options,
}

/// What hbal's options say.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Balance this group only, by its place in [`GanetiFacts::groups`]; `None`: each by itself.
    pub group: Option<usize>,
    pub ignore_soft_errors: bool,
    /// Move only guests that have a replica on an offline host.
    pub evacuate: bool,
    pub restricted_migration: bool,
    pub disk_moves: bool,
    pub guest_moves: bool,
    /// All loads count as 0.
    pub ignore_load: bool,
    /// A share of each host's disk that soft limits keep free.
    pub disk_min: f64,
    /// hbal's `--min-score`: this much above the lower bound is good enough.
    pub score_slack: f64,
    /// hbal's `--min-gain-limit`.
    pub small_score: f64,
    /// hbal's `--min-gain`.
    pub gain_min: f64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            group: None,
            ignore_soft_errors: false,
            evacuate: false,
            restricted_migration: false,
            disk_moves: true,
            guest_moves: true,
            ignore_load: false,
            disk_min: 0.0,
            score_slack: 1e-9,
            small_score: 0.1,
            gain_min: 0.01,
        }
    }
}

impl<'a> Ganeti<'a> {
    pub fn new(facts: &'a GanetiFacts) -> Self {
        Ganeti { facts, options: Options::default() }
    }
}

impl Objective for Ganeti<'_> {
    fn terms(&self, snapshot: &Snapshot) -> Vec<Terms> {
        terms::all(self, snapshot)
    }

    fn manner(&self) -> Manner {
        Manner::Thorough {
            good_enough: self.options.score_slack,
            small_score: self.options.small_score,
            gain_min: self.options.gain_min,
        }
    }
}
