//! A move: one guest from one place to another; what is done for it, and what that costs.

use crate::snapshot::{GuestIx, HostIx, Place, Snapshot, Storage};

/// One guest goes from one place to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Move {
    pub guest: GuestIx,
    pub from: Place,
    pub to: Place,
}

/// A part of a move, in the order in which they are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveStep {
    /// The guest migrates to its secondary's host, and the replicas swap their roles.
    SwapRoles,
    /// The secondary goes to another host, which takes a copy of the disks.
    ReplaceSecondary { to: HostIx },
    /// The guest migrates to another host: with a copy of its disks when they are local, without when shared.
    Migrate { to: HostIx },
}

/// What a move takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MoveCost {
    /// Bytes of memory to send.
    pub memory: u64,
    /// Bytes of disk to copy.
    pub disk: u64,
    /// How often the guest changes its host.
    pub swaps: u32,
}

impl Move {
    /// What is done, in order. A move that changes both hosts of a mirrored guest replaces one after the other.
    pub fn steps(&self, snapshot: &Snapshot) -> Vec<MoveStep> {
        match snapshot.guest(self.guest).storage {
            Storage::Mirrored => self.mirrored_steps(),
            Storage::Shared | Storage::Local if self.from.host == self.to.host => Vec::new(),
            Storage::Shared | Storage::Local => vec![MoveStep::Migrate { to: self.to.host }],
        }
    }

    fn mirrored_steps(&self) -> Vec<MoveStep> {
        let (Some(was), Some(will)) = (self.from.secondary, self.to.secondary) else { return Vec::new() };
        let (from, to) = (self.from.host, self.to.host);
        let swap = MoveStep::SwapRoles;
        let replace = |host| MoveStep::ReplaceSecondary { to: host };
        match (to == from, to == was, will == was, will == from) {
            (true, _, true, _) => vec![],
            (true, _, false, _) => vec![replace(will)],
            (false, true, _, true) => vec![swap],
            (false, true, _, false) => vec![swap, replace(will)],
            (false, false, true, _) => vec![swap, replace(to), swap],
            (false, false, false, true) => vec![replace(to), swap],
            (false, false, false, false) => vec![replace(to), swap, replace(will)],
        }
    }

    pub fn cost(&self, snapshot: &Snapshot) -> MoveCost {
        let need = snapshot.guest(self.guest);
        let memory = if need.runs { need.memory } else { 0 };
        let mut cost = MoveCost::default();
        for step in self.steps(snapshot) {
            match step {
                MoveStep::SwapRoles => {
                    cost.memory += memory;
                    cost.swaps += 1;
                }
                MoveStep::ReplaceSecondary { .. } => cost.disk += need.disk,
                MoveStep::Migrate { .. } => {
                    cost.memory += memory;
                    cost.swaps += 1;
                    if need.storage == Storage::Local {
                        cost.disk += need.disk;
                    }
                }
            }
        }
        cost
    }

    /// How the move is written in Ganeti's way: `f`, `r:N`, `r:N f`, `f r:N`, `f r:N f`, `fa:N`.
    pub fn ganeti_words(&self, snapshot: &Snapshot) -> String {
        let words = self.steps(snapshot).into_iter().map(|step| match step {
            MoveStep::SwapRoles => "f".to_owned(),
            MoveStep::ReplaceSecondary { to } => format!("r:{}", snapshot.host(to).name),
            MoveStep::Migrate { to } => format!("fa:{}", snapshot.host(to).name),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// Every host that the move touches.
    pub fn hosts(&self) -> Vec<HostIx> {
        let all = [Some(self.from.host), self.from.secondary, Some(self.to.host), self.to.secondary];
        let mut hosts: Vec<HostIx> = all.into_iter().flatten().collect();
        hosts.sort();
        hosts.dedup();
        hosts
    }
}

/// Moves in groups, one group after the other; the moves of a group share no host and may run at the same time.
/// A move comes after every earlier one that touches one of its hosts, so that it meets the state that it was
/// judged against.
pub fn batches(moves: &[Move]) -> Vec<Vec<Move>> {
    let mut next_free: std::collections::BTreeMap<HostIx, usize> = std::collections::BTreeMap::new();
    let mut batches: Vec<Vec<Move>> = Vec::new();
    for step in moves {
        let hosts = step.hosts();
        let at = hosts.iter().filter_map(|host| next_free.get(host).copied()).max().unwrap_or(0);
        if batches.len() <= at {
            batches.resize_with(at + 1, Vec::new);
        }
        batches[at].push(*step);
        for host in hosts {
            next_free.insert(host, at + 1);
        }
    }
    batches
}
