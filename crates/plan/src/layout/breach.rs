//! What is wrong with a layout as it is.

use std::fmt;

use model::Bytes;

use super::Layout;
use super::obstacle::scope_words;
use crate::snapshot::{Bound, GroupIx, GuestIx, HostDuty, HostIx, Promise, Scope, Strength};

/// Something wrong. Plans say which of these stay.
#[derive(Debug, Clone, PartialEq)]
pub enum Breach {
    /// More memory is reserved than the host has.
    Memory {
        host: String,
        given: u64,
        limit: u64,
    },
    Disk {
        host: String,
        given: u64,
        limit: u64,
    },
    Vcpus {
        host: String,
        given: u32,
        limit: f64,
    },
    /// The host has too little memory free for what it must take over.
    TakeOver {
        host: String,
        lost: String,
        free: u64,
        needed: u64,
    },
    /// A `must` rule is broken at a host or in a domain; `on` is its name.
    TooMany {
        rule: String,
        on: String,
        count: u32,
        limit: u32,
        scope: Scope,
    },
    /// A `must` rule wants guests together that are not.
    Apart {
        rule: String,
        apart: u32,
        scope: Scope,
    },
    /// A `must` rule keeps the guest on other hosts.
    NotAllowed {
        guest: String,
        host: String,
    },
    /// The guest, or its secondary, is on a host that everything shall leave.
    Leaves {
        guest: String,
        host: String,
        reason: String,
        /// It is the secondary's host.
        replica: bool,
    },
    /// The guest is nowhere.
    Nowhere {
        guest: String,
    },
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Breach::Memory { host, given, limit } => {
                write!(f, "{host}: {} of memory is reserved, it has {}", Bytes(*given), Bytes(*limit))
            }
            Breach::Disk { host, given, limit } => {
                write!(f, "{host}: {} of disk is taken, it may give {}", Bytes(*given), Bytes(*limit))
            }
            Breach::Vcpus { host, given, limit } => {
                write!(f, "{host}: its guests have {given} virtual CPUs, it may give {limit:.0}")
            }
            Breach::TakeOver { host, lost, free, needed } => write!(
                f,
                "{host}: {} of memory is free, {} is needed when {lost} dies",
                Bytes(*free),
                Bytes(*needed)
            ),
            Breach::TooMany { rule, on, count, limit, scope } => {
                write!(f, "rule '{rule}': {count} on {on}, it allows {limit} {}", scope_words(*scope))
            }
            Breach::Apart { rule, apart, scope } => {
                write!(f, "rule '{rule}': {apart} away from the others, it wants all {}", one_of(*scope))
            }
            Breach::NotAllowed { guest, host } => {
                write!(f, "{guest}: it is on {host}, and a rule keeps it on other hosts")
            }
            Breach::Leaves { guest, host, reason, replica } => {
                let what = if *replica { "its secondary" } else { "it" };
                write!(f, "{guest}: {what} is still on {host}; {reason}")
            }
            Breach::Nowhere { guest } => write!(f, "{guest}: it is nowhere"),
        }
    }
}

fn one_of(scope: Scope) -> &'static str {
    match scope {
        Scope::Host => "on one host",
        Scope::Domain => "in one zone",
    }
}

pub(super) fn list(layout: &Layout<'_>) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for host in layout.snapshot.host_indices() {
        on_host(layout, host, &mut breaches);
    }
    for group in 0..layout.snapshot.groups.len() as u32 {
        in_group(layout, GroupIx(group), &mut breaches);
    }
    for guest in layout.snapshot.guest_indices() {
        of_guest(layout, guest, &mut breaches);
    }
    breaches
}

/// What of it is about a guest, its rules, or one of some hosts; in the same order.
pub(super) fn around(layout: &Layout<'_>, guest: GuestIx, hosts: &[HostIx]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for host in hosts {
        on_host(layout, *host, &mut breaches);
    }
    for group in &layout.snapshot.guest(guest).groups {
        in_group(layout, *group, &mut breaches);
    }
    of_guest(layout, guest, &mut breaches);
    breaches
}

fn on_host(layout: &Layout<'_>, host: HostIx, breaches: &mut Vec<Breach>) {
    let room = layout.snapshot.host(host);
    let given = layout.given(host);
    let name = || room.name.clone();
    if given.memory > room.memory {
        breaches.push(Breach::Memory { host: name(), given: given.memory, limit: room.memory });
    }
    if given.disk > room.disk {
        breaches.push(Breach::Disk { host: name(), given: given.disk, limit: room.disk });
    }
    if f64::from(given.vcpus) > room.vcpus_max {
        breaches.push(Breach::Vcpus { host: name(), given: given.vcpus, limit: room.vcpus_max });
    }
    let (needed, lost) = layout.takeover(host);
    let free = layout.memory_free(host);
    if layout.snapshot.promise != Promise::Nothing && needed > free {
        let lost: Vec<&str> = lost.iter().map(|loss| loss.name(layout.snapshot)).collect();
        breaches.push(Breach::TakeOver { host: name(), lost: lost.join(" and "), free, needed });
    }
}

fn in_group(layout: &Layout<'_>, group: GroupIx, breaches: &mut Vec<Breach>) {
    let rule = &layout.snapshot.groups[group.at()];
    match (rule.strength, rule.bound) {
        (Strength::Should(_), _) => {}
        (Strength::Must, Bound::AtMost(limit)) => {
            for (key, count) in layout.group_counts(group).filter(|(_, count)| *count > limit) {
                let on = match rule.scope {
                    Scope::Host => layout.snapshot.hosts[key as usize].name.clone(),
                    Scope::Domain => layout.snapshot.domains[key as usize].clone(),
                };
                breaches.push(Breach::TooMany {
                    rule: rule.rule.clone(),
                    on,
                    count,
                    limit,
                    scope: rule.scope,
                });
            }
        }
        (Strength::Must, Bound::Together) => {
            let apart = layout.group_excess(group);
            if apart > 0 {
                breaches.push(Breach::Apart { rule: rule.rule.clone(), apart, scope: rule.scope });
            }
        }
    }
}

fn of_guest(layout: &Layout<'_>, guest: GuestIx, breaches: &mut Vec<Breach>) {
    let need = layout.snapshot.guest(guest);
    let Some(place) = layout.place(guest) else {
        breaches.push(Breach::Nowhere { guest: need.name.clone() });
        return;
    };
    let name = |host: HostIx| layout.snapshot.host(host).name.clone();
    if need.allowed.as_ref().is_some_and(|allowed| allowed.binary_search(&place.host).is_err()) {
        breaches.push(Breach::NotAllowed { guest: need.name.clone(), host: name(place.host) });
    }
    for host in [Some(place.host), place.secondary].into_iter().flatten() {
        let stays = match &layout.snapshot.host(host).duty {
            HostDuty::Takes | HostDuty::Keeps(_) => None,
            HostDuty::GuestsLeave(reason) => (host == place.host).then_some(reason),
            HostDuty::Leaves(reason) | HostDuty::Lost(reason) => Some(reason),
        };
        if let Some(reason) = stays {
            let reason = reason.clone();
            let replica = host != place.host;
            breaches.push(Breach::Leaves { guest: need.name.clone(), host: name(host), reason, replica });
        }
    }
}
