//! Why a guest may not be put somewhere.
//!
//! Each check compares the host as it is now with the host as it would be, and refuses only what gets worse: so a
//! guest may leave an overfull host for one with room, and a guest that stays where it is meets no obstacle there.

use std::collections::BTreeMap;
use std::fmt;

use model::Bytes;

use super::{Layout, Loss, disk_limit, disk_of, excess, keys, loss, worst};
use crate::snapshot::{Bound, GroupIx, GuestIx, GuestNeed, HostIx, Place, Promise, Scope, Storage, Strength};

/// Why a guest may not be put somewhere.
#[derive(Debug, Clone, PartialEq)]
pub enum Obstacle {
    /// The host takes nothing now; why.
    Duty {
        host: HostIx,
        reason: String,
    },
    Memory {
        host: HostIx,
        free: u64,
        needed: u64,
    },
    Disk {
        host: HostIx,
        free: u64,
        needed: u64,
    },
    /// Virtual CPUs beyond what the host may give.
    Vcpus {
        host: HostIx,
        free: u32,
        needed: u32,
    },
    /// The host would have no room left for what it must take over when `lost` dies.
    TakeOver {
        host: HostIx,
        lost: String,
        free: u64,
        needed: u64,
    },
    /// It is not among the hosts of a `must` rule.
    NotAllowed {
        host: HostIx,
    },
    /// A `must` rule of a group says no: so many of the group would be there.
    Rule {
        rule: String,
        count: u32,
        bound: Bound,
        scope: Scope,
    },
    /// Primary and secondary on one host.
    SameHost,
    /// A mirrored guest without a secondary, or another one with one.
    Replicas(Storage),
}

impl Obstacle {
    /// Whether it is a `must` rule.
    pub fn is_rule(&self) -> bool {
        matches!(self, Obstacle::NotAllowed { .. } | Obstacle::Rule { .. })
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::Duty { reason, .. } => f.write_str(reason),
            Obstacle::Memory { free, needed, .. } => {
                write!(f, "{} of memory is free, {} is needed", Bytes(*free), Bytes(*needed))
            }
            Obstacle::Disk { free, needed, .. } => {
                write!(f, "{} of disk is free, {} is needed", Bytes(*free), Bytes(*needed))
            }
            Obstacle::Vcpus { free, needed, .. } => {
                write!(f, "it may have {free} more virtual CPUs, {needed} are needed")
            }
            Obstacle::TakeOver { lost, free, needed, .. } => write!(
                f,
                "{} of memory would be free, and {} is needed for the guests that come here when {lost} dies",
                Bytes(*free),
                Bytes(*needed)
            ),
            Obstacle::NotAllowed { .. } => f.write_str("a rule keeps the guest on other hosts"),
            Obstacle::Rule { rule, bound: Bound::AtMost(limit), scope, count } => {
                write!(f, "the rule '{rule}' allows {limit} {}, this would be {count}", scope_words(*scope))
            }
            Obstacle::Rule { rule, bound: Bound::Together, scope, .. } => {
                write!(f, "the rule '{rule}' wants its guests together {}", scope_words(*scope))
            }
            Obstacle::SameHost => f.write_str("primary and secondary would be on one host"),
            Obstacle::Replicas(Storage::Mirrored) => f.write_str("a mirrored guest needs a secondary"),
            Obstacle::Replicas(Storage::Shared | Storage::Local) => {
                f.write_str("a guest whose disks are not mirrored has no secondary")
            }
        }
    }
}

pub(super) fn scope_words(scope: Scope) -> &'static str {
    match scope {
        Scope::Host => "on a host",
        Scope::Domain => "in a zone",
    }
}

/// The first obstacle, in an order that tells the operator the most lasting reason first.
pub(super) fn find(layout: &Layout<'_>, guest: GuestIx, place: Place) -> Option<Obstacle> {
    let old = layout.place(guest);
    if old == Some(place) {
        return None;
    }
    let ask = Ask { layout, guest, need: layout.snapshot.guest(guest), old, new: place };
    ask.replicas()
        .or_else(|| ask.allowed())
        .or_else(|| ask.duty())
        .or_else(|| ask.rules())
        .or_else(|| ask.memory())
        .or_else(|| ask.disk())
        .or_else(|| ask.vcpus())
        .or_else(|| ask.takeover())
}

/// A guest that would go from one place to another.
struct Ask<'l, 'a> {
    layout: &'l Layout<'a>,
    guest: GuestIx,
    need: &'a GuestNeed,
    old: Option<Place>,
    new: Place,
}

impl Ask<'_, '_> {
    fn old_host(&self) -> Option<HostIx> {
        self.old.map(|place| place.host)
    }

    fn old_secondary(&self) -> Option<HostIx> {
        self.old.and_then(|place| place.secondary)
    }

    fn replicas(&self) -> Option<Obstacle> {
        let mirrored = self.need.storage == Storage::Mirrored;
        if mirrored != self.new.secondary.is_some() {
            return Some(Obstacle::Replicas(self.need.storage));
        }
        (self.new.secondary == Some(self.new.host)).then_some(Obstacle::SameHost)
    }

    fn allowed(&self) -> Option<Obstacle> {
        let host = self.new.host;
        let allowed = self.need.allowed.as_ref()?;
        (self.old_host() != Some(host) && allowed.binary_search(&host).is_err())
            .then_some(Obstacle::NotAllowed { host })
    }

    /// A host that takes nothing may keep what it has: a primary may become a secondary there, not the reverse.
    fn duty(&self) -> Option<Obstacle> {
        let was_on = |host| self.old_host() == Some(host);
        let had_replica = |host| was_on(host) || self.old_secondary() == Some(host);
        let primary = Some(self.new.host).filter(|host| !was_on(*host));
        let secondary = self.new.secondary.filter(|host| !had_replica(*host));
        [primary, secondary].into_iter().flatten().find_map(|host| {
            let reason = self.layout.snapshot.host(host).duty.reason()?;
            Some(Obstacle::Duty { host, reason: reason.to_owned() })
        })
    }

    fn rules(&self) -> Option<Obstacle> {
        if self.old_host() == Some(self.new.host) {
            return None;
        }
        self.need.groups.iter().find_map(|group| {
            let rule = &self.layout.snapshot.groups[group.at()];
            match (rule.strength, rule.bound) {
                (Strength::Should(_), _) => None,
                (Strength::Must, Bound::AtMost(limit)) => self.too_many(*group, limit),
                (Strength::Must, Bound::Together) => self.apart(*group),
            }
        })
    }

    fn too_many(&self, group: GroupIx, limit: u32) -> Option<Obstacle> {
        let snapshot = self.layout.snapshot;
        let count = keys(snapshot, group, self.new.host)
            .filter(|key| !self.old_host().is_some_and(|old| keys(snapshot, group, old).any(|k| k == *key)))
            .map(|key| self.layout.group_count(group, key) + 1)
            .max()?;
        (count > limit).then(|| self.rule_obstacle(group, count))
    }

    /// Guests on hosts that everything leaves do not count, or guests that must be together could never go, one
    /// after the other.
    fn apart(&self, group: GroupIx) -> Option<Obstacle> {
        let snapshot = self.layout.snapshot;
        let before = &self.layout.staying[group.at()];
        let total = |others: u32, mine: bool| others + u32::from(mine);
        let others = snapshot.groups[group.at()].members.iter().filter(|member| **member != self.guest);
        let stays = |host: HostIx| !snapshot.host(host).duty.guests_leave();
        let others =
            others.filter(|member| self.layout.place(**member).is_some_and(|p| stays(p.host))).count() as u32;
        let was_there = self.old_host().is_some_and(stays);
        let mut after: BTreeMap<u32, u32> = before.clone();
        if let Some(old) = self.old_host().filter(|host| stays(*host)) {
            for key in keys(snapshot, group, old) {
                let left = after.get(&key).copied().unwrap_or(0).saturating_sub(1);
                after.insert(key, left);
            }
        }
        for key in keys(snapshot, group, self.new.host) {
            *after.entry(key).or_default() += 1;
        }
        let worse = excess(&after, Bound::Together, total(others, true))
            > excess(before, Bound::Together, total(others, was_there));
        worse.then(|| self.rule_obstacle(group, 1))
    }

    fn rule_obstacle(&self, group: GroupIx, count: u32) -> Obstacle {
        let rule = &self.layout.snapshot.groups[group.at()];
        Obstacle::Rule { rule: rule.rule.clone(), count, bound: rule.bound, scope: rule.scope }
    }

    /// What the guest reserves on a host in a place.
    fn memory_at(&self, place: Option<Place>, host: HostIx) -> u64 {
        if self.need.runs && place.is_some_and(|place| place.host == host) { self.need.memory } else { 0 }
    }

    fn memory(&self) -> Option<Obstacle> {
        let host = self.new.host;
        let given = self.layout.given(host).memory;
        let others = given.saturating_sub(self.memory_at(self.old, host));
        let limit = self.layout.snapshot.host(host).memory;
        let needed = self.memory_at(Some(self.new), host);
        let after = others.saturating_add(needed);
        (after > limit && after > given).then(|| Obstacle::Memory {
            host,
            free: limit.saturating_sub(others),
            needed,
        })
    }

    fn disk(&self) -> Option<Obstacle> {
        let needed = disk_of(self.need);
        let had = |host| self.old_host() == Some(host) || self.old_secondary() == Some(host);
        let arrives = [Some(self.new.host), self.new.secondary];
        arrives.into_iter().flatten().filter(|host| !had(*host)).find_map(|host| {
            let given = self.layout.given(host).disk;
            let limit = disk_limit(self.layout.snapshot, host);
            (needed > 0 && given.saturating_add(needed) > limit).then(|| Obstacle::Disk {
                host,
                free: limit.saturating_sub(given),
                needed,
            })
        })
    }

    fn vcpus(&self) -> Option<Obstacle> {
        let host = self.new.host;
        if !self.need.runs || self.old_host() == Some(host) {
            return None;
        }
        let given = self.layout.given(host).vcpus;
        let limit = self.layout.snapshot.host(host).vcpus_max;
        let free = (limit - f64::from(given)).max(0.0) as u32;
        (f64::from(given) + f64::from(self.need.vcpus) > limit && self.need.vcpus > 0)
            .then_some(Obstacle::Vcpus { host, free, needed: self.need.vcpus })
    }

    /// Both hosts of the new place: one gives memory away, the other gets more to take over.
    fn takeover(&self) -> Option<Obstacle> {
        if !self.need.runs || self.layout.snapshot.promise == Promise::Nothing {
            return None;
        }
        [Some(self.new.host), self.new.secondary]
            .into_iter()
            .flatten()
            .find_map(|host| self.takeover_at(host))
    }

    fn takeover_at(&self, host: HostIx) -> Option<Obstacle> {
        let snapshot = self.layout.snapshot;
        let limit = snapshot.host(host).memory;
        let given = self.layout.given(host).memory;
        let given_after = given
            .saturating_sub(self.memory_at(self.old, host))
            .saturating_add(self.memory_at(Some(self.new), host));
        let mut takeovers = self.layout.takeovers[host.at()].clone();
        if let Some(loss) = self.loss_at(self.old, host) {
            let left = takeovers.get(&loss).copied().unwrap_or(0).saturating_sub(self.need.memory);
            takeovers.insert(loss, left);
        }
        if let Some(loss) = self.loss_at(Some(self.new), host) {
            *takeovers.entry(loss).or_default() += self.need.memory;
        }
        let (needed, lost) = worst(&takeovers, snapshot.promise);
        let free = limit.saturating_sub(given_after);
        let before = self.layout.takeover(host).0.saturating_add(given).saturating_sub(limit);
        let after = needed.saturating_add(given_after).saturating_sub(limit);
        (needed > free && after > before).then(|| Obstacle::TakeOver {
            host,
            lost: names(self.layout, &lost),
            free,
            needed,
        })
    }

    fn loss_at(&self, place: Option<Place>, host: HostIx) -> Option<Loss> {
        match place {
            Some(Place { host: primary, secondary: Some(secondary) }) if secondary == host => {
                loss(self.layout.snapshot, primary, secondary)
            }
            Some(_) | None => None,
        }
    }
}

fn names(layout: &Layout<'_>, lost: &[Loss]) -> String {
    let names: Vec<&str> = lost.iter().map(|loss| loss.name(layout.snapshot)).collect();
    names.join(" and ")
}

impl Obstacle {
    /// The host that it is about, where it is about one.
    pub fn host(&self) -> Option<HostIx> {
        match self {
            Obstacle::Duty { host, .. }
            | Obstacle::Memory { host, .. }
            | Obstacle::Disk { host, .. }
            | Obstacle::Vcpus { host, .. }
            | Obstacle::TakeOver { host, .. }
            | Obstacle::NotAllowed { host } => Some(*host),
            Obstacle::Rule { .. } | Obstacle::SameHost | Obstacle::Replicas(_) => None,
        }
    }
}
