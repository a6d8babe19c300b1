//! What must hold of fences: who may take a host's power, how often, and whom that keeps waiting.
//!
//! Seen from the truth: what the store's majority holds, whose sessions there are, who has power. An operator who asks for
//! a host's power to be taken needs no reason.

use model::{Duty, HostName, HostPhase, Pool, PowerWish};
use uuid::Uuid;

use crate::books::{FENCES_BY_RIGHT, NO_STORM, ROOM, WAITS_FOR_NO_FENCE};
use crate::fault::Blow;
use crate::names::{host_ix, host_name};
use crate::store::Key;
use crate::world::{S, Time, World};

/// How long ago the store may have confirmed a fence when its device is told. A leader that stood still in between is
/// excused: nobody can see to that but the device.
const WANTED_FOR: Time = 3 * S;

/// Tries to take a host's power in a minute that the pauses between them allow, and how many more a blow explains.
const TRIES_A_MINUTE: usize = 8;
const TRIES_A_BLOW: usize = 1;

/// By then a guest whose secondary holds everything is at its new owner, if nothing else goes wrong.
const PROMOTED_WITHIN: Time = 25 * S;

impl World {
    /// A device is told to take a host's power.
    pub fn check_fence(&mut self, host: usize, target: usize, since: i64, id: Uuid) {
        let (name, now) = (host_name(target), self.now);
        let view = &self.store.now.view;
        let leads = self.store.now.revision_of(Key::Leader) == since && view.leader == Some(host_name(host));
        let fence = view.fences.get(&name).filter(|fence| fence.id == id);
        let right = leads && fence.is_some_and(|fence| fence.by_hand || !view.is_live(&name));
        let asked = self.books.wanted.get(&(host, target)).copied();
        let site = &self.sites[host];
        let stood = |at: Time| site.frozen_until.max(site.daemon_frozen_until) > at;
        if !right && !asked.is_some_and(|at| now <= at + WANTED_FOR || stood(at)) {
            let what = format!(
                "host{} has the power of {name} taken; leads: {leads}; wanted: {}; {name} has a session: {}",
                host + 1,
                fence.is_some(),
                view.is_live(&name)
            );
            self.breaks(FENCES_BY_RIGHT, what);
        }
    }

    /// A try to take a host's power has begun.
    pub fn book_try(&mut self, target: usize, first: bool, by_hand: bool) {
        let (now, name) = (self.now, host_name(target));
        self.books.blows.retain(|at| *at + 120 * S > now);
        let blows = self.books.blows.len();
        let tries = self.books.fence_tries.entry(target).or_default();
        tries.push_back(now);
        tries.retain(|at| *at + 60 * S > now);
        let tries = tries.len();
        if tries > TRIES_A_MINUTE + TRIES_A_BLOW * blows {
            let what = format!(
                "the power of {name} was tried to be taken {tries} times in a minute, after {blows} blows"
            );
            self.breaks(NO_STORM, what);
        }
        if first && !by_hand {
            self.check_calm("the power", &name, "is taken");
        }
    }

    /// A guest whose secondary holds everything comes back without waiting for anybody's power to be taken.
    pub fn check_nobody_waits(&mut self) {
        let leader = self.store.now.view.leader.clone().filter(|leader| self.is_calm(leader));
        let known = self.books.calm.take();
        let Some(leader) = leader else { return };
        let since = known.filter(|(who, _)| *who == leader).map_or(self.now, |(_, since)| since);
        self.books.calm = Some((leader, since));
        let now = self.now;
        let lost_long = |host: &HostName| {
            self.books.vanished.get(host).is_some_and(|at| now > PROMOTED_WITHIN + since.max(*at))
        };
        let waits =
            self.store.now.view.assignments.values().find(|a| lost_long(&a.host) && self.could_go_on(a));
        if let Some(assignment) = waits {
            let what = format!(
                "{} of {}, which is lost, waits for {} s although {} holds everything",
                assignment.guest,
                assignment.host,
                PROMOTED_WITHIN / S,
                assignment.secondary.as_ref().map(ToString::to_string).unwrap_or_default()
            );
            self.breaks(WAITS_FOR_NO_FENCE, what);
        }
    }

    /// Nothing is wrong with the network, the store and the leader; and there is no storm.
    fn is_calm(&self, leader: &HostName) -> bool {
        let (host, view) = (host_ix(leader), &self.store.now.view);
        let site = &self.sites[host];
        let jumps = |blow: &Blow| matches!(blow, Blow::ClockForward { .. } | Blow::ClockBack { .. });
        self.network.is_whole(self.now)
            && self.stutters_until <= self.now
            && site.frozen_until.max(site.daemon_frozen_until) <= self.now
            && site.daemon.is_some()
            && self.books.vanished.len() < 2
            && view.losses.as_ref().is_none_or(|losses| losses.storm.is_none())
            && !self.schedule.items.iter().any(|item| jumps(&item.blow))
    }

    /// Whether nothing keeps a mirrored guest of a lost host from its secondary's.
    fn could_go_on(&self, assignment: &model::Assignment) -> bool {
        let view = &self.store.now.view;
        let (Some(spec), Some(secondary)) = (view.guests.get(&assignment.guest), &assignment.secondary)
        else {
            return false;
        };
        let wanted = spec.power == PowerWish::Running && !spec.deleting && assignment.handover.is_none();
        let mirrored = spec.disks.iter().all(|disk| disk.pool == Pool::Mirror);
        let boot = view.sessions.get(secondary).map(|session| session.boot_id);
        let holds = |boot| {
            let sets = spec.disks.iter().map(|disk| view.in_sync.get(&disk.volume));
            sets.into_iter().all(|set| set.is_some_and(|set| set.contains(secondary, boot)))
        };
        let takes = view.hosts.get(secondary).is_some_and(|host| host.duty == Duty::Normal)
            && view.host_phase(secondary) == HostPhase::Online;
        // One that waits for others, or for room, does not wait for a fence.
        let alone = !view.rules.values().any(|rule| rule.guests.names.contains(&spec.name))
            && spec.start_after.is_empty()
            && view.guests.values().map(|guest| guest.memory.0).sum::<u64>() <= ROOM.0;
        let calm_there = view.assignments.values().filter(|a| &a.host == secondary).all(|a| {
            let machine = self.sites[host_ix(secondary)].machines.get(&crate::names::guest_ix(&a.guest));
            machine.is_some_and(crate::machine::Machine::is_writer)
        });
        wanted && mirrored && takes && alone && calm_there && boot.is_some_and(holds)
    }
}
