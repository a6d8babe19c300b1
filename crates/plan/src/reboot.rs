//! Which hosts may be rebooted together, so that everything is rebooted in few groups and no guest stops.
//!
//! Before a group is rebooted its guests leave it: mirrored ones swap roles with their secondaries, those on shared
//! storage go where there is room, and so do those on local disks, which are copied. Afterwards they come back, and every
//! replica is in sync again, before the next group begins; so each group is judged against the cluster as it is now. Two
//! hosts may be in one group when
//!
//! - no guest has its two replicas on them: its volumes would be gone, and it has nowhere else to run;
//! - what leaves both of them has room on the others, and no `must` rule is broken by it;
//! - the store keeps a majority of its members without them.
//!
//! That is a colouring of the graph of pairs, with the room as a further condition on each colour. Hosts are coloured
//! in the order of Brélaz (DSATUR, Commun. ACM 22, 1979): always the one whose neighbours have the most colours. Then
//! the groups are coloured again, whole groups one after the other in other orders (Culberson's iterated greedy),
//! which never needs more groups and often fewer.
//!
//! Guests that have nowhere to go even when their host is rebooted alone stop with it; each group names them. The
//! leader's host is in the last group, so that leadership changes once.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use model::ClusterView;

use crate::capacity::Ground;
use crate::inventory::Inventory;
use crate::recover::{self, Field, Lost, May, in_order};
use crate::snapshot::{GuestIx, HostIx, Snapshot, Storage};

/// How often the groups are coloured again.
const ROUNDS: usize = 12;

/// In larger clusters each round takes too long for what it saves.
const ROUNDS_HOSTS_MAX: usize = 300;

/// The hosts that the cluster itself needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// Hosts that run a member of the store.
    pub store: Vec<HostIx>,
    pub leader: Option<HostIx>,
}

/// A rolling reboot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reboot {
    /// One after the other.
    pub groups: Vec<RebootGroup>,
}

/// Hosts that are rebooted together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RebootGroup {
    pub hosts: Vec<HostIx>,
    /// Where running guests go before, in the order in which they can.
    pub moves: Vec<(GuestIx, HostIx)>,
    /// Guests that run and will stop with their host, and why.
    pub stops: BTreeMap<GuestIx, String>,
    /// What else a person should know; sentences without full stops.
    pub notes: Vec<String>,
}

impl Members {
    pub fn of(view: &ClusterView, inventory: &Inventory) -> Members {
        let members = view.hosts.values().filter(|host| host.store_member);
        Members {
            store: members.filter_map(|host| inventory.host_ix(&host.name)).collect(),
            leader: view.leader.as_ref().and_then(|leader| inventory.host_ix(leader)),
        }
    }
}

/// Groups all hosts that are there. Those that are lost are in no group.
pub fn groups(snapshot: &Snapshot, members: &Members) -> Reboot {
    let bare = recover::bare(snapshot);
    let yard = Yard::new(snapshot, Ground::now(snapshot, &bare), members);
    let mut best = yard.colour(&yard.by_saturation());
    if yard.hosts.len() <= ROUNDS_HOSTS_MAX {
        let mut groups = best.clone();
        for round in 0..ROUNDS {
            match round % 3 {
                0 => groups.reverse(),
                1 => groups.sort_by_key(|group| (Reverse(group.hosts.len()), group.hosts.first().copied())),
                _ => groups.sort_by_key(|group| (group.hosts.len(), group.hosts.first().copied())),
            }
            let order: Vec<HostIx> = groups.iter().flat_map(|group| group.hosts.iter().copied()).collect();
            groups = yard.colour(&order);
            if groups.len() < best.len() {
                best = groups.clone();
            }
        }
    }
    Reboot { groups: yard.finish(best) }
}

/// Who conflicts with whom.
struct Yard<'a> {
    snapshot: &'a Snapshot,
    ground: Ground<'a>,
    members: &'a Members,
    hosts: Vec<HostIx>,
    /// Hosts that share a guest's two replicas.
    neighbours: Vec<BTreeSet<HostIx>>,
    guests: Vec<Vec<GuestIx>>,
    /// Guests that have nowhere to go even when their host is rebooted alone, and why.
    stuck: BTreeMap<GuestIx, String>,
    /// How many members of the store may be away at once.
    members_away_max: usize,
}

/// A group in the making.
#[derive(Clone)]
struct Group<'a> {
    hosts: Vec<HostIx>,
    field: Field<'a>,
    /// Where guests of the group went.
    went: BTreeMap<GuestIx, HostIx>,
    /// Guests that could not go, and why.
    left: BTreeMap<GuestIx, String>,
}

impl<'a> Yard<'a> {
    fn new(snapshot: &'a Snapshot, ground: Ground<'a>, members: &'a Members) -> Yard<'a> {
        let mut neighbours = vec![BTreeSet::new(); snapshot.hosts.len()];
        let mut guests = vec![Vec::new(); snapshot.hosts.len()];
        for guest in snapshot.guest_indices() {
            let Some(host) = ground.host_of[guest.at()] else { continue };
            guests[host.at()].push(guest);
            if let Some(partner) = ground.partner_of[guest.at()] {
                neighbours[host.at()].insert(partner);
                neighbours[partner.at()].insert(host);
            }
        }
        let there = members.store.iter().filter(|host| ground.standing[host.at()]).count();
        let majority = members.store.len() / 2 + 1;
        let mut yard = Yard {
            snapshot,
            members,
            hosts: ground.hosts(),
            neighbours,
            guests,
            stuck: BTreeMap::new(),
            members_away_max: there.saturating_sub(majority),
            ground,
        };
        for host in yard.hosts.clone() {
            yard.find_stuck(host);
        }
        yard
    }

    /// What can leave the host when it is rebooted alone, and what cannot.
    fn find_stuck(&mut self, host: HostIx) {
        let guests = self.guests[host.at()].clone();
        let mut leaving = Vec::new();
        for guest in &guests {
            match self.way_out(*guest) {
                Some(Ok(may)) => leaving.push(Lost { guest: *guest, may }),
                Some(Err(why)) => {
                    self.stuck.insert(*guest, why);
                }
                None => {}
            }
        }
        in_order(self.snapshot, &mut leaving, |_| 0);
        let (returns, journal) = self.ground.field.lose(&[host], &guests, &leaving);
        self.ground.field.undo(journal);
        for returned in returns {
            if let Err(why) = returned.to {
                self.stuck.insert(returned.guest, why.explain(self.snapshot));
            }
        }
    }

    /// Where a guest may go when its host is rebooted, or why it cannot. `None`: it does not run.
    fn way_out(&self, guest: GuestIx) -> Option<Result<May, String>> {
        let need = self.snapshot.guest(guest);
        need.runs.then(|| match need.storage {
            // A guest on local disks takes them along.
            Storage::Shared | Storage::Local => Ok(May::Anywhere),
            Storage::Mirrored => {
                match self.ground.partner_of[guest.at()].filter(|_| need.unready.is_none()) {
                    None => Err(self.ground.exposed.get(&guest).cloned().unwrap_or_default()),
                    Some(partner) => {
                        let room = self.snapshot.host(partner);
                        match room.duty.reason() {
                            None => Ok(May::Only(partner)),
                            Some(reason) => {
                                Err(format!("the other replica is on {}, and {reason}", room.name))
                            }
                        }
                    }
                }
            }
        })
    }

    /// Hosts in the order of Brélaz, with the colours that a colouring without further conditions would give.
    fn by_saturation(&self) -> Vec<HostIx> {
        let mut colours: Vec<Option<usize>> = vec![None; self.snapshot.hosts.len()];
        let mut seen: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); self.snapshot.hosts.len()];
        let key = |seen: &[BTreeSet<usize>], host: HostIx| {
            (Reverse(seen[host.at()].len()), Reverse(self.neighbours[host.at()].len()), host)
        };
        let mut open: BTreeSet<_> = self.hosts.iter().map(|host| key(&seen, *host)).collect();
        let mut order = Vec::with_capacity(self.hosts.len());
        while let Some((.., host)) = open.pop_first() {
            let colour = (0..).find(|colour| !seen[host.at()].contains(colour)).unwrap_or(0);
            colours[host.at()] = Some(colour);
            order.push(host);
            for other in &self.neighbours[host.at()] {
                if colours[other.at()].is_none() {
                    open.remove(&key(&seen, *other));
                    seen[other.at()].insert(colour);
                    open.insert(key(&seen, *other));
                }
            }
        }
        order
    }

    /// Puts each host into the first group that can have it.
    fn colour(&self, order: &[HostIx]) -> Vec<Group<'a>> {
        let mut groups: Vec<Group<'a>> = Vec::new();
        for host in order {
            if groups.iter_mut().any(|group| self.join(group, *host)) {
                continue;
            }
            let field = self.ground.field.clone();
            let mut group = Group { hosts: Vec::new(), field, went: BTreeMap::new(), left: BTreeMap::new() };
            self.join(&mut group, *host);
            groups.push(group);
        }
        groups
    }

    /// Takes a host into a group, if that works. Alone every host can be rebooted, whoever stops with it.
    fn join(&self, group: &mut Group<'a>, host: HostIx) -> bool {
        if group.hosts.iter().any(|other| self.neighbours[host.at()].contains(other)) {
            return false;
        }
        let members = |hosts: &[HostIx]| hosts.iter().filter(|h| self.members.store.contains(h)).count();
        let away = members(&group.hosts) + members(&[host]);
        if !group.hosts.is_empty() && members(&[host]) > 0 && away > self.members_away_max {
            return false;
        }
        // Guests that are on no other host may have come here from others of the group.
        let came = group.went.iter().filter(|(_, at)| **at == host).map(|(guest, _)| *guest);
        let here: Vec<GuestIx> = self.guests[host.at()].iter().copied().chain(came).collect();
        let free = here.iter().filter(|guest| !self.stuck.contains_key(guest));
        let mut leaving: Vec<Lost> =
            free.filter_map(|guest| Some(Lost { guest: *guest, may: self.way_out(*guest)?.ok()? })).collect();
        in_order(self.snapshot, &mut leaving, |_| 0);
        let (returns, journal) = group.field.lose(&[host], &here, &leaving);
        if !group.hosts.is_empty() && returns.iter().any(|returned| returned.to.is_err()) {
            group.field.undo(journal);
            return false;
        }
        for returned in returns {
            match returned.to {
                Ok(to) => {
                    group.went.insert(returned.guest, to);
                }
                Err(why) => {
                    group.left.insert(returned.guest, why.explain(self.snapshot));
                }
            }
        }
        group.hosts.push(host);
        group.hosts.sort();
        true
    }

    /// The groups in the order in which they are rebooted, with what a person should know.
    fn finish(&self, mut groups: Vec<Group<'a>>) -> Vec<RebootGroup> {
        let leads =
            |group: &Group<'_>| self.members.leader.is_some_and(|leader| group.hosts.contains(&leader));
        groups.sort_by_key(|group| (leads(group), Reverse(group.hosts.len()), group.hosts.first().copied()));
        groups.into_iter().map(|group| self.describe(group)).collect()
    }

    fn describe(&self, group: Group<'a>) -> RebootGroup {
        let guests = group.hosts.iter().flat_map(|host| &self.guests[host.at()]);
        let stuck = guests.filter_map(|guest| Some((*guest, self.stuck.get(guest)?.clone())));
        let stops = stuck.chain(group.left).collect();
        let mut moves: Vec<Lost> =
            group.went.keys().map(|guest| Lost { guest: *guest, may: May::Anywhere }).collect();
        in_order(self.snapshot, &mut moves, |_| 0);
        let moves = moves.into_iter().filter_map(|lost| Some((lost.guest, *group.went.get(&lost.guest)?)));
        let mut notes = Vec::new();
        let members: Vec<&HostIx> = group.hosts.iter().filter(|h| self.members.store.contains(h)).collect();
        if members.len() > self.members_away_max {
            let names: Vec<&str> = members.iter().map(|h| self.snapshot.host(**h).name.as_str()).collect();
            notes.push(format!(
                "without {} the store has no majority of its members: nothing can be changed until it is back",
                names.join(" and ")
            ));
        }
        RebootGroup { moves: moves.collect(), stops, notes, hosts: group.hosts }
    }
}

#[cfg(test)]
mod tests;
