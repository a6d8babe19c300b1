//! The metrics and refusals as [`Terms`], for one node group at a time.
//!
//! Spreads do not change when all hosts' values are turned around: what is free is counted as what is used.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Ganeti, GanetiFacts, GanetiGuest, GanetiHost};
use crate::objective::{
    Column, GroupTerms, GuestTerms, HostTerms, Limit, Moves, NOT_ASKED, Reserve, Shortfall, Terms, WishTable,
};
use crate::snapshot::{Bound, HostIx, Place, Snapshot, Storage};

/// A primary on an offline host: `offline_all_cnt` and `offline_pri_cnt`.
const OFFLINE_PRIMARY: f64 = 4.0 + 16.0;
const OFFLINE_SECONDARY: f64 = 4.0;
/// `pri_tags_score`.
const TAG: f64 = 2.0;
/// `location_exclusion_score`.
const LOCATION_TAG: f64 = 1.0;
/// `location_score`.
const LOCATION: f64 = 1.0;
/// `n1_cnt`.
const N1: f64 = 1.0;
/// `reserved_mem_cv` and `reserved_mem_rtotal`.
const RESERVED_SPREAD: f64 = 1.0;
const RESERVED_SUM: f64 = 0.25;
/// What is left free must be more than nothing: figures are whole MiB, so a little less than one will do.
const MORE_THAN_NOTHING: f64 = 1e-3;

/// One for each node group that is asked for and has hosts.
pub(super) fn all(ganeti: &Ganeti<'_>, snapshot: &Snapshot) -> Vec<Terms> {
    let facts = ganeti.facts;
    let used: BTreeSet<usize> = facts.hosts.iter().map(|host| host.group).collect();
    let asked = used.into_iter().filter(|group| ganeti.options.group.is_none_or(|only| only == *group));
    asked.map(|group| Builder { ganeti, facts, snapshot, group }.terms()).collect()
}

struct Builder<'a> {
    ganeti: &'a Ganeti<'a>,
    facts: &'a GanetiFacts,
    snapshot: &'a Snapshot,
    group: usize,
}

/// What a guest adds to a sum: as primary, as secondary.
type Adds = (f64, f64);

impl Builder<'_> {
    fn terms(&self) -> Terms {
        let mut terms = Terms {
            hosts: self.facts.hosts.iter().map(|host| self.host(host)).collect(),
            columns: self.columns(),
            limits: self.limits(),
            reserve: Some(self.reserve()),
            pairs: self.pairs(),
            paths: self.paths(),
            moves: self.moves(),
            bound: self.bound(),
            ..Terms::default()
        };
        terms.guests = (0..self.facts.guests.len()).map(|guest| self.guest(guest)).collect();
        self.exclusion(&mut terms);
        self.wishes(&mut terms);
        terms
    }

    fn in_group(&self, host: HostIx) -> bool {
        self.facts.hosts[host.at()].group == self.group
    }

    fn counted(&self, host: &GanetiHost) -> bool {
        host.group == self.group && !host.offline
    }

    fn host(&self, host: &GanetiHost) -> HostTerms {
        let lost = host.group == self.group && host.offline;
        HostTerms {
            counted: self.counted(host),
            takes: self.counted(host),
            forces: host.offline,
            primary_cost: if lost { OFFLINE_PRIMARY } else { 0.0 },
            secondary_cost: if lost { OFFLINE_SECONDARY } else { 0.0 },
        }
    }

    fn moves(&self) -> Moves {
        let options = &self.ganeti.options;
        Moves {
            disks: options.disk_moves,
            guests: options.guest_moves,
            restricted: options.restricted_migration,
            strict: true,
            force: options.ignore_soft_errors,
        }
    }

    fn guest(&self, at: usize) -> GuestTerms {
        let (need, fact) = (&self.snapshot.guests[at], &self.facts.guests[at]);
        let hosts = |place: Place| [Some(place.host), place.secondary].into_iter().flatten();
        let here = need.place.is_some_and(|place| hosts(place).all(|host| self.in_group(host)));
        let lost =
            need.place.is_some_and(|place| hosts(place).any(|host| self.facts.hosts[host.at()].offline));
        let moves = match need.storage {
            Storage::Mirrored => need.place.is_some_and(|place| place.secondary.is_some()),
            Storage::Shared => true,
            Storage::Local => false,
        };
        let asked = !self.ganeti.options.evacuate || lost;
        GuestTerms {
            storage: need.storage,
            movable: here && moves && asked && need.may_move && fact.auto_balance,
            count: if fact.forthcoming { 0.0 } else { 1.0 },
            groups: Vec::new(),
            wishes: Vec::new(),
            allowed: None,
            // Where a migration can spare a copy it should cost little.
            move_cost: if need.storage == Storage::Mirrored { 0.25 } else { 1.0 },
            copy_cost: if need.storage == Storage::Mirrored { 1.0 } else { 0.0 },
        }
    }

    fn hosts<T>(&self, of: impl Fn(usize, &GanetiHost) -> T) -> Vec<T> {
        self.facts.hosts.iter().enumerate().map(|(at, host)| of(at, host)).collect()
    }

    fn guests<T>(&self, of: impl Fn(&GanetiGuest) -> T) -> Vec<T> {
        self.facts.guests.iter().map(of).collect()
    }

    /// What is on each host now, of a sum.
    fn now(&self, adds: impl Fn(&GanetiGuest) -> Adds) -> Vec<f64> {
        let mut sums = vec![0.0; self.facts.hosts.len()];
        for (need, fact) in self.snapshot.guests.iter().zip(&self.facts.guests) {
            let Some(place) = need.place else { continue };
            let (primary, secondary) = adds(fact);
            sums[place.host.at()] += primary;
            if let Some(host) = place.secondary {
                sums[host.at()] += secondary;
            }
        }
        sums
    }

    /// What each host can give to guests in memory, as recorded and as it says itself, whichever is less.
    fn memory_for_guests(&self) -> Vec<f64> {
        let now = self.now(real_memory);
        self.hosts(|at, host| (host.memory.trunc() - host.memory_own).min(host.memory_free + now[at]))
    }

    /// The same as the host says itself.
    fn memory_reported(&self) -> Vec<f64> {
        let now = self.now(real_memory);
        self.hosts(|at, host| host.memory_free + now[at])
    }

    fn disk_for_guests(&self) -> Vec<f64> {
        let now = self.now(|guest| real(guest, local_disk(guest)));
        self.hosts(|at, host| host.disk_free + now[at])
    }

    fn spindles_for_guests(&self) -> Vec<f64> {
        let now = self.now(|guest| real(guest, exclusive_spindles(guest)));
        self.hosts(|at, host| host.spindles_free + now[at])
    }

    fn column(
        &self,
        name: &'static str,
        weight: f64,
        adds: impl Fn(&GanetiGuest) -> Adds,
        scale_base: Vec<(f64, f64)>,
    ) -> Column {
        Column {
            name,
            weight,
            primary: self.guests(|guest| adds(guest).0),
            secondary: self.guests(|guest| adds(guest).1),
            scale: scale_base.iter().map(|(scale, _)| *scale).collect(),
            base: scale_base.iter().map(|(_, base)| *base).collect(),
            knee: None,
        }
    }

    fn columns(&self) -> Vec<Column> {
        let (recorded, reported) = (self.memory_for_guests(), self.memory_reported());
        let memory = self.hosts(|at, host| (over(host.memory), -recorded[at] * over(host.memory)));
        let later = self.hosts(|at, host| (over(host.memory), -reported[at] * over(host.memory)));
        let cpu = self.hosts(|_, host| {
            let scale = over(host.cores) * over(host.speed);
            (scale, host.vcpus_own * scale)
        });
        let spindles = self.hosts(|_, host| {
            (if host.exclusive_storage { 0.0 } else { over(host.spindles * self.spindle_ratio()) }, 0.0)
        });
        let mut columns = vec![
            self.column("free_mem_cv", 0.5, real_memory, memory),
            self.column("free_mem_cv_forth", 0.5, all_memory, later),
            self.column("vcpu_ratio_cv", 0.5, |guest| real(guest, vcpus(guest)), cpu.clone()),
            self.column("vcpu_ratio_cv_forth", 0.5, vcpus, cpu),
            self.column("spindles_cv", 0.5, |guest| real(guest, spindle_use(guest)), spindles.clone()),
            self.column("spindles_cv_forth", 0.5, spindle_use, spindles),
        ];
        self.disk_columns(&mut columns);
        if !self.ganeti.options.ignore_load {
            self.load_columns(&mut columns);
        }
        columns
    }

    fn load_columns(&self, columns: &mut Vec<Column>) {
        let plain = || self.hosts(|_, _| (1.0, 0.0));
        let primaries = |at: usize| move |guest: &GanetiGuest| real(guest, (guest.load[at], 0.0));
        columns.push(self.column("cpu_load_cv", 1.0, primaries(0), plain()));
        columns.push(self.column("mem_load_cv", 1.0, primaries(1), plain()));
        let both = |guest: &GanetiGuest| real(guest, (guest.load[2], guest.load[2]));
        columns.push(self.column("disk_load_cv", 1.0, both, plain()));
        columns.push(self.column("net_load_cv", 1.0, primaries(3), plain()));
    }

    /// Where all hosts of the group keep exclusive storage, spindles stand for disk.
    fn disk_columns(&self, columns: &mut Vec<Column>) {
        let exclusive = |host: &GanetiHost| host.exclusive_storage;
        let (disk, spindles) = (self.disk_for_guests(), self.spindles_for_guests());
        if self.facts.hosts.iter().filter(|host| host.group == self.group).all(exclusive) {
            let free = self.hosts(|at, host| share_used(host.spindles, spindles[at]));
            columns.push(self.column(
                "free_disk_cv",
                1.0,
                |guest| real(guest, exclusive_spindles(guest)),
                free,
            ));
            return;
        }
        let free = self.hosts(|at, host| match exclusive(host) {
            true => (0.0, -share_of(host.spindles, host.spindles_free)),
            false => share_used(host.disk, disk[at]),
        });
        columns.push(self.column("free_disk_cv", 0.5, |guest| real(guest, local_disk(guest)), free.clone()));
        columns.push(self.column("free_disk_cv_forth", 0.5, local_disk, free));
    }

    fn vcpu_ratio(&self) -> f64 {
        self.facts.groups.get(self.group).map_or(f64::INFINITY, |group| group.vcpu_ratio)
    }

    fn spindle_ratio(&self) -> f64 {
        self.facts.groups.get(self.group).map_or(0.0, |group| group.spindle_ratio)
    }

    /// Forthcoming guests meet the limits that count forthcoming guests, and those are soft.
    fn limits(&self) -> Vec<Limit> {
        let less =
            |most: Vec<f64>| -> Vec<f64> { most.iter().map(|most| most - MORE_THAN_NOTHING).collect() };
        let vcpus_most = self.hosts(|_, host| {
            let most = self.vcpu_ratio() * host.cores;
            if most < 0.0 { f64::INFINITY } else { most - host.vcpus_own }
        });
        let spindles_most = self.hosts(|_, host| host.spindles * self.spindle_ratio());
        let kept = self.disk_for_guests();
        let disk_kept = self.hosts(|at, host| {
            let least = (self.ganeti.options.disk_min * host.disk).floor();
            kept[at] - least.max(MORE_THAN_NOTHING)
        });
        let only_real = |guest: &GanetiGuest, ask: f64| if guest.forthcoming { NOT_ASKED } else { ask };
        let local = |guest: &GanetiGuest, ask: f64| if guest.local_disk { ask } else { NOT_ASKED };
        let mut limits = vec![
            self.limit("memory", less(self.memory_for_guests()), real_memory, |guest| {
                (only_real(guest, real_memory(guest).0), NOT_ASKED)
            }),
            self.limit(
                "disk",
                less(kept.clone()),
                |guest| real(guest, local_disk(guest)),
                |guest| (local(guest, only_real(guest, guest.disk)), only_real(guest, guest.disk)),
            ),
            soft(self.limit(
                "memory with what is to come",
                less(self.memory_reported()),
                all_memory,
                |guest| (guest.memory, if guest.reserves { guest.memory } else { 0.0 }),
            )),
            soft(self.limit("disk to keep free", disk_kept, local_disk, |guest| {
                (local(guest, guest.disk), guest.disk)
            })),
            soft(self.limit("virtual CPUs", vcpus_most, vcpus, |guest| (vcpus(guest).0, NOT_ASKED))),
            soft(self.limit("spindles", spindles_most, spindle_use, |guest| {
                (local(guest, guest.spindle_use), spindle_use(guest).1)
            })),
        ];
        if self.facts.hosts.iter().any(|host| host.exclusive_storage) {
            limits.push(self.exclusive_limit());
        }
        limits
    }

    /// A guest that does not say how many spindles it needs goes to no host with exclusive storage.
    fn exclusive_limit(&self) -> Limit {
        let free = self.spindles_for_guests();
        let most = self.hosts(|at, host| if host.exclusive_storage { free[at] } else { f64::MAX });
        let ask = |guest: &GanetiGuest| match guest.local_disk && !guest.forthcoming {
            true => guest.spindles.unwrap_or(f64::MAX / 2.0),
            false => NOT_ASKED,
        };
        let adds = |guest: &GanetiGuest| real(guest, exclusive_spindles(guest));
        self.limit("exclusive spindles", most, adds, |guest| (ask(guest), ask(guest)))
    }

    fn limit(
        &self,
        name: &'static str,
        most: Vec<f64>,
        adds: impl Fn(&GanetiGuest) -> Adds,
        asks: impl Fn(&GanetiGuest) -> Adds,
    ) -> Limit {
        Limit {
            name,
            soft: false,
            primary: self.guests(|guest| adds(guest).0),
            secondary: self.guests(|guest| adds(guest).1),
            ask_primary: self.guests(|guest| asks(guest).0),
            ask_secondary: self.guests(|guest| asks(guest).1),
            most,
        }
    }

    fn reserve(&self) -> Reserve {
        Reserve {
            needs: self.guests(|guest| if guest.reserves && !guest.forthcoming { guest.memory } else { 0.0 }),
            uses: self.guests(|guest| real_memory(guest).0),
            unit: (0..self.facts.hosts.len() as u32).collect(),
            losses: 1,
            most: self.memory_for_guests(),
            most_scored: self.memory_reported(),
            scale: self.hosts(|_, host| over(host.memory)),
            spread_weight: RESERVED_SPREAD,
            sum_weight: RESERVED_SUM,
            shortfall: Shortfall::EachGuest(N1),
            strict: true,
            soft: true,
        }
    }

    /// Exclusion tags: no two primaries on a host with the same one, and few in a location.
    fn exclusion(&self, terms: &mut Terms) {
        let mut members: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
        for (at, guest) in self.facts.guests.iter().enumerate() {
            let here = self.snapshot.guests[at].place.is_some_and(|place| self.in_group(place.host));
            for tag in guest.exclusion.iter().filter(|_| here) {
                members.entry(tag).or_default().insert(at);
            }
        }
        let places: BTreeSet<&String> = self.facts.hosts.iter().flat_map(|host| &host.locations).collect();
        let places: BTreeMap<&String, u32> = places.into_iter().zip(0..).collect();
        let on_host =
            Arc::new(self.hosts(|at, host| if self.counted(host) { vec![at as u32] } else { Vec::new() }));
        let in_place = Arc::new(self.hosts(|_, host| match self.counted(host) {
            true => host.locations.iter().filter_map(|tag| places.get(tag).copied()).collect(),
            false => Vec::new(),
        }));
        for members in members.into_values().filter(|members| members.len() > 1) {
            let all = members.iter().copied();
            add_group(terms, all, &on_host, self.facts.hosts.len() as u32, TAG, true);
            let real = members.iter().copied().filter(|at| !self.facts.guests[*at].forthcoming);
            if !places.is_empty() {
                add_group(terms, real, &in_place, places.len() as u32, LOCATION_TAG, false);
            }
        }
    }

    /// Locations that a guest asks for and its host does not have.
    fn wishes(&self, terms: &mut Terms) {
        let mut tables: BTreeMap<&BTreeSet<String>, u32> = BTreeMap::new();
        for (at, guest) in self.facts.guests.iter().enumerate() {
            if guest.desired.is_empty() || guest.forthcoming {
                continue;
            }
            let next = tables.len() as u32;
            let table = *tables.entry(&guest.desired).or_insert(next);
            terms.guests[at].wishes.push(table);
            if table == next {
                terms.wishes.push(WishTable {
                    cost: self.hosts(|_, host| match self.counted(host) {
                        true => LOCATION * guest.desired.difference(&host.locations).count() as f64,
                        false => 0.0,
                    }),
                });
            }
        }
    }

    /// Locations that primary and secondary share.
    fn pairs(&self) -> Vec<f64> {
        let hosts = &self.facts.hosts;
        if hosts.iter().all(|host| host.locations.is_empty()) {
            return Vec::new();
        }
        let shared = |a: &GanetiHost, b: &GanetiHost| match self.counted(a) {
            true => LOCATION * a.locations.intersection(&b.locations).count() as f64,
            false => 0.0,
        };
        hosts.iter().flat_map(|a| hosts.iter().map(move |b| shared(a, b))).collect()
    }

    fn paths(&self) -> Vec<bool> {
        let hosts = &self.facts.hosts;
        if hosts.iter().all(|host| host.migration.is_empty()) {
            return Vec::new();
        }
        hosts.iter().flat_map(|from| hosts.iter().map(|to| from.migration.is_subset(&to.receives))).collect()
    }

    /// hbal's lower bound: what `reserved_mem_rtotal` is when every host keeps the least that can be.
    fn bound(&self) -> f64 {
        let hosts = self.facts.hosts.iter().filter(|host| self.counted(host));
        let (total, largest) =
            hosts.fold((0.0, 0.0_f64), |(sum, max), host| (sum + host.memory, max.max(host.memory)));
        let needs: f64 = self
            .snapshot
            .guests
            .iter()
            .zip(&self.facts.guests)
            .filter(|(need, fact)| {
                fact.reserves
                    && need.place.is_some_and(|place| place.secondary.is_some_and(|host| self.in_group(host)))
            })
            .map(|(_, fact)| fact.memory)
            .sum();
        if total <= largest { 0.0 } else { RESERVED_SUM * (needs / (total - largest) - needs / total) }
    }
}

fn add_group(
    terms: &mut Terms,
    members: impl Iterator<Item = usize>,
    keys: &Arc<Vec<Vec<u32>>>,
    key_count: u32,
    weight: f64,
    must: bool,
) {
    let group = terms.groups.len() as u32;
    for member in members {
        terms.guests[member].groups.push(group);
    }
    let keys = Arc::clone(keys);
    terms.groups.push(GroupTerms { keys, key_count, bound: Bound::AtMost(1), weight, must, soft: true });
}

fn soft(limit: Limit) -> Limit {
    Limit { soft: true, ..limit }
}

/// 1 / `total`; 0 when there is nothing.
fn over(total: f64) -> f64 {
    if total > 0.0 { 1.0 / total } else { 0.0 }
}

/// A share of what is there; of nothing, all is free.
fn share_of(total: f64, part: f64) -> f64 {
    if total > 0.0 { part / total } else { 1.0 }
}

/// Scale and base of a column that counts what is used of what guests may have.
fn share_used(total: f64, for_guests: f64) -> (f64, f64) {
    (over(total), -share_of(total, for_guests))
}

fn real(guest: &GanetiGuest, adds: Adds) -> Adds {
    if guest.forthcoming { (0.0, 0.0) } else { adds }
}

fn real_memory(guest: &GanetiGuest) -> Adds {
    (if guest.uses_memory { guest.memory } else { 0.0 }, 0.0)
}

fn all_memory(guest: &GanetiGuest) -> Adds {
    (guest.memory, 0.0)
}

fn vcpus(guest: &GanetiGuest) -> Adds {
    (if guest.counts_vcpus { guest.vcpus } else { 0.0 }, 0.0)
}

fn local_disk(guest: &GanetiGuest) -> Adds {
    if guest.local_disk { (guest.disk, guest.disk) } else { (0.0, 0.0) }
}

fn spindle_use(guest: &GanetiGuest) -> Adds {
    if guest.local_disk { (guest.spindle_use, guest.spindle_use) } else { (0.0, 0.0) }
}

fn exclusive_spindles(guest: &GanetiGuest) -> Adds {
    let spindles = if guest.local_disk { guest.spindles.unwrap_or(0.0) } else { 0.0 };
    (spindles, spindles)
}
