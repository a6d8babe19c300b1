//! The acts of a handover while the guest runs: the counterpart of `daemon::agent::live`.

use std::net::SocketAddr;

use model::{Assignment, ExitReason, Incoming, JobId};
use plan::converge::{Mirror, SendPhase, Situation, Stage};

use crate::acts::{Act, Went, conflict, host_error, soon};
use crate::keeper::{Doing, address_of, uid_at};
use crate::machine::{Gone, SendingTo};
use crate::mutant::Mutant;
use crate::names::host_ix;
use crate::store::{Key, Record};
use crate::world::{Event, MS, World};

impl World {
    pub(crate) fn receive(&mut self, host: usize, guest: usize, generation: u64, s: &Situation) -> Went {
        if !self.sites[host].machines.contains_key(&guest) {
            if s.spec.disks.iter().any(|disk| !self.has_file(host, disk.volume)) {
                return host_error("its disks cannot be opened");
            }
            self.new_machine(host, guest, s.assignment.epoch.next(), generation, Stage::Incoming);
        }
        Went::On(self.rng.between(20 * MS, 300 * MS))
    }

    pub(crate) fn tell_where(&mut self, host: usize, guest: usize, s: &Situation) -> Went {
        let Some(machine) = self.sites[host].machines.get(&guest) else { return soon("the machine is gone") };
        let address = address_of(host, machine.uid);
        let epoch = s.assignment.epoch.next();
        let incoming = Incoming { guest: s.spec.name.clone(), guest_id: s.spec.id, epoch, address };
        self.daemon(host).incoming.insert(guest, incoming);
        self.tell_of_host(host);
        Went::On(MS)
    }

    pub(crate) fn begin_to_send(&mut self, host: usize, guest: usize, to: SocketAddr, s: &Situation) -> Went {
        let Some(target) = s.peer.as_ref().map(|peer| host_ix(&peer.host)) else { return Went::On(MS) };
        let live = &mut self.keeper(host, guest).live;
        live.sends += 1;
        live.sent_to = Some(to);
        live.sending = true;
        let rounds = self.rng.between(1, 8) as u32;
        let Some(machine) = self.sites[host].machines.get_mut(&guest) else { return Went::On(MS) };
        let uid = machine.uid;
        machine.sending = Some(SendingTo { host: target, to: uid_at(to), phase: SendPhase::Memory, rounds });
        self.after(50 * MS, Event::Send { host, uid });
        Went::On(MS)
    }

    pub(crate) fn settle_handover(&mut self, host: usize, guest: usize, s: &Situation) -> Went {
        if !self.keeper(host, guest).live.maybe_handed_over {
            return Went::On(0);
        }
        let members = s.in_sync.values().next().map(|set| set.members.iter().cloned().collect());
        match self.record_of(host, guest, s, members.unwrap_or_default()) {
            Some(txn) => self.sends(host, guest, txn),
            None => conflict(),
        }
    }

    pub(crate) fn cancel_send(
        &mut self,
        host: usize,
        guest: usize,
        gave_up: Option<(JobId, String)>,
    ) -> Went {
        let live = &mut self.keeper(host, guest).live;
        if gave_up.is_some() {
            live.gave_up = gave_up;
        }
        live.sending = false;
        let Some(machine) = self.sites[host].machines.get_mut(&guest) else { return Went::On(MS) };
        let uid = machine.uid;
        if let Some(sending) = machine.sending.take() {
            self.incoming_breaks(&sending, guest);
        }
        self.after(MS, Event::Write { host, uid });
        Went::On(self.rng.between(MS, 100 * MS))
    }

    pub(crate) fn check_hand_over(&mut self, host: usize, guest: usize) -> Went {
        if self.keeper(host, guest).live.maybe_handed_over {
            return Went::On(0);
        }
        let machine = self.sites[host].machines.get(&guest);
        let good = machine.is_some_and(|machine| {
            let still = machine.sending.as_ref().is_some_and(|s| s.phase == SendPhase::AtSwitchover);
            still && machine.flight.is_none() && machine.mirrors.values().all(|m| m.state == Mirror::Ready)
        });
        if good {
            return Went::On(self.rng.between(MS, 5 * MS));
        }
        let back = self.is_shared(guest).then_some(Act::ReturnDisks);
        if let Doing::Acting(acting) = &mut self.keeper(host, guest).doing {
            acting.acts =
                [Act::SettleHandover].into_iter().chain(back).chain([Act::CancelSend(None)]).collect();
        }
        Went::On(0)
    }

    /// The change of owner, while the guest stands still.
    pub(crate) fn swap(&mut self, host: usize, guest: usize, next: &Assignment, s: &Situation) -> Went {
        self.keeper(host, guest).live.maybe_handed_over = true;
        if self.is_shared(guest) {
            return match self.swap_shared(host, next, s) {
                Ok(txn) => self.sends(host, guest, txn),
                Err(went) => went,
            };
        }
        let cache = &self.daemon(host).cache;
        let same = s.in_sync.iter().all(|(volume, set)| cache.view.in_sync.get(volume) == Some(set));
        if !same || cache.view.assignments.get(&s.assignment.guest) != Some(&s.assignment) {
            return conflict();
        }
        let mut draft = cache.draft();
        for session in [Key::Session(host), Key::Session(host_ix(&next.host))] {
            draft.unchanged(session).exists(session);
        }
        draft.put(Record::Assignment(next.clone()));
        for disk in &s.spec.disks {
            draft.unchanged(Key::InSync(disk.volume));
        }
        let txn = draft.build();
        self.sends(host, guest, txn)
    }

    /// Takes the disks away from the guest for good, and lets QEMU send the rest.
    pub(crate) fn void(&mut self, host: usize, guest: usize) -> Went {
        let keeps_disks = self.has(Mutant::NoVoid);
        self.keeper(host, guest).live.maybe_handed_over = false;
        let Some(machine) = self.sites[host].machines.get_mut(&guest) else { return Went::On(MS) };
        let Some(sending) = machine.sending.as_mut().filter(|s| s.phase == SendPhase::AtSwitchover) else {
            self.end_machine(host, guest, Gone::ByKeeper(ExitReason::Moved));
            self.notice_end(host, guest);
            return host_error("its migration is not at that point");
        };
        sending.phase = SendPhase::Delivering;
        machine.void = !keeps_disks;
        machine.stage = Stage::Left;
        machine.mirrors.clear();
        let uid = machine.uid;
        self.books.left(uid);
        let delay = self.rng.between(5 * MS, 300 * MS);
        self.after(delay, Event::Send { host, uid });
        Went::On(MS)
    }
}
