//! The cluster on which losses are tried out: who runs where, and whose other replica is where.

use std::collections::BTreeMap;

use super::Loss;
use crate::recover::{Field, Lost, May, Return, in_order};
use crate::snapshot::{GuestIx, HostDuty, HostIx, Snapshot, Storage};

/// A cluster and a scene to lose hosts on, again and again.
#[derive(Debug)]
pub(crate) struct Ground<'a> {
    pub snapshot: &'a Snapshot,
    pub field: Field<'a>,
    /// Whether a host counts: it is there, and is not about to go.
    pub standing: Vec<bool>,
    /// Where each guest is. `None`: it is nowhere, or its host is lost.
    pub host_of: Vec<Option<HostIx>>,
    /// Where a mirrored guest can come back when its host is lost.
    pub partner_of: Vec<Option<HostIx>>,
    /// Guests by the host they are on.
    primaries: Vec<Vec<GuestIx>>,
    /// Mirrored guests by their partner.
    secondaries: Vec<Vec<GuestIx>>,
    /// Mirrored guests that have no partner, and why.
    pub exposed: BTreeMap<GuestIx, String>,
    /// Guests of hosts in maintenance that have no other place, and why.
    pub unhoused: BTreeMap<GuestIx, String>,
    pub maintained: Vec<HostIx>,
    /// Whether replicas that are being filled count as full, as they soon will be: the room for their guests is
    /// spoken for, and what is promised does not change while they are filled.
    filled: bool,
}

impl<'a> Ground<'a> {
    /// As things are: what is lost already is gone.
    pub fn now(snapshot: &'a Snapshot, bare: &'a Snapshot) -> Ground<'a> {
        let standing: Vec<bool> = snapshot.hosts.iter().map(|host| !host.duty.is_lost()).collect();
        let mut ground = Ground {
            snapshot,
            field: Field::new(snapshot, bare),
            standing,
            host_of: vec![None; snapshot.guests.len()],
            partner_of: vec![None; snapshot.guests.len()],
            primaries: vec![Vec::new(); snapshot.hosts.len()],
            secondaries: vec![Vec::new(); snapshot.hosts.len()],
            exposed: BTreeMap::new(),
            unhoused: BTreeMap::new(),
            maintained: Vec::new(),
            filled: false,
        };
        ground.index();
        ground
    }

    /// As things will be: hosts in maintenance are empty and switched off, and every replica is filled. Guests whose
    /// replica is not are exposed all the same, and left out when their host is lost.
    pub fn settled(snapshot: &'a Snapshot, bare: &'a Snapshot) -> Ground<'a> {
        let mut ground = Ground::now(snapshot, bare);
        ground.filled = true;
        let away = snapshot.host_indices().filter(|host| match snapshot.host(*host).duty {
            HostDuty::GuestsLeave(_) => true,
            HostDuty::Takes | HostDuty::Keeps(_) | HostDuty::Leaves(_) | HostDuty::Lost(_) => false,
        });
        ground.maintained = away.collect();
        if ground.maintained.is_empty() {
            return ground;
        }
        let hosts = ground.maintained.clone();
        let (taken, lost) = ground.affected(&hosts);
        let (returns, _) = ground.field.lose(&hosts, &taken, &lost);
        for Return { guest, to } in returns {
            if let Err(why) = to {
                ground.unhoused.insert(guest, why.explain(snapshot));
            }
        }
        hosts.iter().for_each(|host| ground.standing[host.at()] = false);
        ground.index();
        ground
    }

    /// Who is where on the field, and who has a partner.
    fn index(&mut self) {
        let snapshot = self.snapshot;
        self.primaries.iter_mut().chain(&mut self.secondaries).for_each(Vec::clear);
        self.exposed.clear();
        for guest in snapshot.guest_indices() {
            let need = snapshot.guest(guest);
            let host = self.field.layout().place(guest).map(|place| place.host);
            let host = host.filter(|host| self.standing[host.at()]);
            self.host_of[guest.at()] = host;
            self.partner_of[guest.at()] = None;
            let (Some(host), Some(place)) = (host, need.place) else { continue };
            self.primaries[host.at()].push(guest);
            if need.storage != Storage::Mirrored {
                continue;
            }
            // A guest that left a host in maintenance runs on what was its secondary.
            let other = if place.host == host { place.secondary } else { Some(place.host) };
            match other {
                Some(other) if self.standing[other.at()] => {
                    self.partner_of[guest.at()] = Some(other);
                    self.secondaries[other.at()].push(guest);
                    if let Some(why) = need.unready.as_ref().filter(|_| need.runs) {
                        self.exposed.insert(guest, why.clone());
                    }
                }
                Some(other) if need.runs => {
                    let room = snapshot.host(other);
                    let reason = room.duty.reason().unwrap_or("it is away");
                    self.exposed
                        .insert(guest, format!("the other replica is on {}, and {reason}", room.name));
                }
                None if need.runs => {
                    self.exposed.insert(guest, "there is no second replica".to_owned());
                }
                Some(_) | None => {}
            }
        }
    }

    /// All guests on these hosts, and in their order those that can come back.
    fn affected(&self, hosts: &[HostIx]) -> (Vec<GuestIx>, Vec<Lost>) {
        let taken: Vec<GuestIx> =
            hosts.iter().flat_map(|host| self.primaries[host.at()].iter().copied()).collect();
        let mut lost: Vec<Lost> = taken.iter().filter_map(|guest| self.candidate(*guest, hosts)).collect();
        in_order(self.snapshot, &mut lost, |_| 0);
        (taken, lost)
    }

    fn candidate(&self, guest: GuestIx, hosts: &[HostIx]) -> Option<Lost> {
        let need = self.snapshot.guest(guest);
        let may = match need.storage {
            Storage::Mirrored if need.unready.is_some() && !self.filled => return None,
            Storage::Mirrored => May::Only(
                self.partner_of[guest.at()].filter(|partner| hosts.binary_search(partner).is_err())?,
            ),
            Storage::Shared => May::Anywhere,
            Storage::Local => return None,
        };
        need.runs.then_some(Lost { guest, may })
    }

    /// Only who is left out for want of room or because of a rule, and why.
    pub fn left_out(&mut self, hosts: &[HostIx]) -> BTreeMap<GuestIx, String> {
        let hosts = sorted(hosts);
        let (taken, lost) = self.affected(&hosts);
        let (returns, journal) = self.field.lose(&hosts, &taken, &lost);
        self.field.undo(journal);
        let left = returns.into_iter().filter_map(|back| Some((back.guest, back.to.err()?)));
        left.map(|(guest, why)| (guest, why.explain(self.snapshot))).collect()
    }

    /// Everything that the loss of these hosts would do. Afterwards the ground is as before.
    pub fn lose(&mut self, hosts: &[HostIx]) -> Loss {
        let hosts = sorted(hosts);
        let (taken, lost) = self.affected(&hosts);
        let (returns, journal) = self.field.lose(&hosts, &taken, &lost);
        self.field.undo(journal);
        let mut loss = Loss { hosts: hosts.clone(), ..Loss::default() };
        for Return { guest, to } in returns {
            match to {
                Ok(_) if self.snapshot.guest(guest).unready.is_some() => {
                    loss.without_replica.insert(guest, self.no_replica(guest));
                }
                Ok(host) => {
                    loss.restarts.push((guest, host));
                    if self.snapshot.guest(guest).storage == Storage::Mirrored {
                        loss.degraded.push(guest);
                    }
                }
                Err(why) => {
                    loss.without_place.insert(guest, why.explain(self.snapshot));
                }
            }
        }
        let mut hit = 0;
        for guest in taken {
            let need = self.snapshot.guest(guest);
            match (need.runs, need.storage) {
                (false, _) => loss.stopped.push(guest),
                (true, Storage::Local) => loss.local.push(guest),
                (true, Storage::Mirrored) if self.candidate(guest, &hosts).is_none() => {
                    loss.without_replica.insert(guest, self.no_replica(guest));
                }
                (true, Storage::Mirrored | Storage::Shared) => {}
            }
            hit += usize::from(need.runs);
        }
        let elsewhere = |host: &HostIx| hosts.binary_search(host).is_err();
        for host in &hosts {
            let kept = self.secondaries[host.at()].iter().copied();
            for guest in kept.filter(|guest| self.host_of[guest.at()].as_ref().is_some_and(elsewhere)) {
                hit += usize::from(self.snapshot.guest(guest).runs);
                loss.degraded.push(guest);
            }
        }
        for guests in [&mut loss.local, &mut loss.stopped, &mut loss.degraded] {
            guests.sort();
        }
        loss.unaffected = self.running().saturating_sub(hit);
        loss
    }

    fn no_replica(&self, guest: GuestIx) -> String {
        if let Some(why) = self.exposed.get(&guest) {
            return why.clone();
        }
        let name = |host: Option<HostIx>| host.map_or("?", |host| self.snapshot.host(host).name.as_str());
        let (here, there) = (self.host_of[guest.at()], self.partner_of[guest.at()]);
        format!("both hosts that hold its disks, {} and {}, would be lost", name(here), name(there))
    }

    fn running(&self) -> usize {
        let runs = |guest: &GuestIx| self.snapshot.guest(*guest).runs && self.host_of[guest.at()].is_some();
        self.snapshot.guest_indices().filter(runs).count()
    }

    /// The hosts that may be lost.
    pub fn hosts(&self) -> Vec<HostIx> {
        self.snapshot.host_indices().filter(|host| self.standing[host.at()]).collect()
    }

    /// Whether some guest on shared storage runs.
    pub fn has_shared(&self) -> bool {
        self.snapshot.guests.iter().any(|need| need.runs && need.storage == Storage::Shared)
    }
}

fn sorted(hosts: &[HostIx]) -> Vec<HostIx> {
    let mut hosts = hosts.to_vec();
    hosts.sort();
    hosts.dedup();
    hosts
}
