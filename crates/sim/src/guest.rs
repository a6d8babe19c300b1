//! What guests and their machines do by themselves: write, send memory, end.

use model::{ExitReason, VolumeId};
use plan::converge::{Mirror, SendPhase, Stage};

use crate::disk::BLOCKS;
use crate::machine::{Ended, Flight, Gone, Machine, MirrorTo, SendingTo};
use crate::mutant::Mutant;
use crate::names::guest_name;
use crate::world::{Event, MS, RemoteWrite, S, Time, World, note};

/// How soon a held write is sent again, once the connection might be made anew.
pub const RECONNECT_EVERY: (Time, Time) = (300 * MS, S);

/// How long the kernel goes on sending what is left of a connection that was closed.
const KERNEL_SENDS_FOR: Time = 100 * S;

/// Packets that have waited longer than this belong to connections that are gone.
const PACKET_LIVES: Time = 100 * MS;

impl World {
    pub fn machine(&mut self, host: usize, uid: u64) -> Option<&mut Machine> {
        self.sites[host].machines.values_mut().find(|machine| machine.uid == uid)
    }

    /// The guest issues its next write.
    pub fn guest_writes(&mut self, host: usize, uid: u64) {
        let fails_until = self.sites[host].disk_fails_until;
        let Some(machine) = self.machine(host, uid).filter(|m| m.runs() && m.flight.is_none()) else {
            return;
        };
        let guest = machine.guest;
        if fails_until > self.now && !self.is_shared(guest) {
            return self.at(fails_until + MS, Event::Write { host, uid });
        }
        let volumes: Vec<VolumeId> = self.volumes_of(host, guest);
        let Some(&volume) = self.rng.pick(&volumes) else { return };
        let (block, flush) = (self.rng.index(BLOCKS), self.rng.percent(40));
        let id = self.number();
        self.ledgers.entry(volume).or_default().issue(block, id);
        self.books.writes += 1;
        let Some(machine) = self.machine(host, uid) else { return };
        let remote = !machine.mirrors.contains_key(&volume);
        machine.flight = Some(Flight { id, volume, block, local: false, remote, flush });
        let delay = self.rng.between(MS / 5, 8 * MS);
        self.after(delay, Event::Local { host, uid, write: id });
        if !remote {
            self.send_remote(host, uid, id);
        }
    }

    pub fn local_done(&mut self, host: usize, uid: u64, write: u64) {
        let Some(machine) = self.machine(host, uid) else { return };
        let (epoch, void, guest) = (machine.epoch, machine.void || machine.withheld, machine.guest);
        let Some(flight) = machine.flight.as_mut().filter(|flight| flight.id == write) else { return };
        if void {
            return;
        }
        flight.local = true;
        let (volume, block) = (flight.volume, flight.block);
        if let Some(record) = machine.records.get_mut(&volume) {
            record.changed[block] = true;
        }
        if let Some(shared) = self.shared.get_mut(&volume) {
            shared.file.write(block, write);
            shared.file.flush();
            self.check_late_write(host, guest, epoch);
        } else if let Some(file) = self.sites[host].files.get_mut(&volume) {
            file.write(block, write);
            let sealed = file.sealed;
            if sealed > epoch {
                let name = guest_name(guest);
                self.breaks(
                    "one writer",
                    format!("{name}@{epoch} on host{} writes to a replica of epoch {sealed}", host + 1),
                );
            }
        }
        self.flight_progress(host, guest, uid);
    }

    /// Sends the remote half of a write, as far as it is not there yet.
    pub fn send_remote(&mut self, host: usize, uid: u64, write: u64) {
        let retry = self.rng.between(RECONNECT_EVERY.0, RECONNECT_EVERY.1);
        let no_hold = self.has(Mutant::NoHold);
        let now = self.now;
        let place = |m: &Machine| Some((m.mirrors.get(&m.flight?.volume)?.host, m.flight?.volume));
        let Some((to, volume)) = self.machine(host, uid).and_then(|machine| place(machine)) else { return };
        let linked = self.linked(host, to);
        let door = self.sites[to].doors.get(&volume).copied().filter(|_| linked);
        let Some(machine) = self.machine(host, uid) else { return };
        let (epoch, guest) = (machine.epoch, machine.guest);
        let Some(flight) = machine.flight.as_mut().filter(|f| f.id == write && !f.remote) else { return };
        let Some(mirror) = machine.mirrors.get_mut(&flight.volume) else { return };
        mirror.door = door.unwrap_or(mirror.door);
        let remote = RemoteWrite {
            from: host,
            uid,
            epoch,
            to,
            export: mirror.export,
            link: mirror.link,
            volume,
            block: flight.block,
            write,
            sent_at: now,
            door: mirror.door,
            late: false,
        };
        if linked {
            let delay = self.delay(host, to);
            self.after(delay, Event::Remote(remote));
        } else if no_hold {
            if let Some(flight) = self.machine(host, uid).and_then(|machine| machine.flight.as_mut()) {
                flight.remote = true;
            }
            return self.flight_progress(host, guest, uid);
        }
        self.after(retry, Event::Retry { host, uid, write });
    }

    /// The mirrors of a machine are gone, or it is. What it had sent and nobody has confirmed is the kernel's now, which
    /// delivers it when the network lets it.
    pub fn leave_to_the_kernel(&mut self, host: usize, machine: &Machine, volumes: &[VolumeId]) {
        let unconfirmed = machine.flight.filter(|flight| !flight.remote && volumes.contains(&flight.volume));
        let Some(flight) = unconfirmed else { return };
        let Some(mirror) = machine.mirrors.get(&flight.volume) else { return };
        let (uid, epoch, now) = (machine.uid, machine.epoch, self.now);
        let MirrorTo { host: to, export, link, door, .. } = *mirror;
        let Flight { volume, block, id: write, .. } = flight;
        let late = RemoteWrite {
            from: host,
            uid,
            epoch,
            to,
            export,
            link,
            volume,
            block,
            write,
            sent_at: now,
            door,
            late: true,
        };
        let delay = self.rng.between(MS, 40 * S);
        self.after(delay, Event::Remote(late));
    }

    pub fn remote_arrives(&mut self, remote: RemoteWrite) {
        let RemoteWrite { from, uid, epoch, to, export, link, volume, block, write, sent_at, door, late } =
            remote;
        if late && !self.linked(from, to) {
            // It is sent again and again for a while.
            let again = self.rng.between(S, 10 * S);
            if self.now - sent_at < KERNEL_SENDS_FOR {
                self.after(again, Event::Remote(remote));
            }
            return;
        }
        let stale = !late && self.now - sent_at > PACKET_LIVES && {
            let machine = self.machine(from, uid);
            machine.and_then(|m| m.mirrors.get(&volume)).is_none_or(|mirror| mirror.link != link)
        };
        let fails = self.sites[to].disk_fails_until > self.now;
        let site = &mut self.sites[to];
        let open = site.served.get(&volume) == Some(&export) && site.doors.get(&volume) == Some(&door);
        if !site.up || stale || !open {
            return;
        }
        let brought = site.brought.entry((volume, link)).or_default();
        let again = *brought >= write;
        if *brought > write {
            return;
        }
        *brought = if fails { *brought } else { write };
        let Some(file) = site.files.get_mut(&volume) else { return };
        if !fails && !again {
            file.write(block, write);
            if file.sealed > epoch {
                let sealed = file.sealed;
                let what =
                    format!("host{}@{epoch} writes to host{}'s replica of epoch {sealed}", from + 1, to + 1);
                self.breaks("one writer", what);
            }
        }
        if self.reaches(to, from) {
            let delay = self.delay(to, from);
            self.after(delay, Event::RemoteDone { host: from, uid, write, link, well: !fails });
        }
    }

    pub fn remote_done(&mut self, host: usize, uid: u64, write: u64, link: u64, well: bool) {
        let Some(machine) = self.machine(host, uid) else { return };
        let guest = machine.guest;
        let Some(flight) = machine.flight.as_mut().filter(|f| f.id == write && !f.remote) else { return };
        let Some(mirror) = machine.mirrors.get_mut(&flight.volume).filter(|m| m.link == link) else { return };
        flight.remote = true;
        if !well {
            // QEMU acknowledges it with the local replica alone, and pauses the job.
            mirror.state = Mirror::Broken;
            machine.secondary_failed = true;
            let volume = flight.volume;
            self.ledgers.entry(volume).or_default().thin = true;
            note!(self, "{}: its secondary answered a write with an error", guest_name(guest));
            self.machine_event(host, guest);
        }
        self.flight_progress(host, guest, uid);
    }

    /// Acknowledges a write that everybody has who must have it.
    pub fn flight_progress(&mut self, host: usize, guest: usize, uid: u64) {
        let Some(machine) = self.machine(host, uid) else { return };
        let Some(flight) = machine.flight.filter(|flight| flight.local && flight.remote) else { return };
        let epoch = machine.epoch;
        machine.flight = None;
        let thin = machine.mirrors.get(&flight.volume).is_some_and(|mirror| mirror.state == Mirror::Broken);
        let newest = self.books.newest_epoch(guest);
        if newest > epoch {
            if self.ledgers.get(&flight.volume).is_some_and(|ledger| ledger.was_found(flight.id)) {
                // The secondary had it before it was promoted, and the guest has found it there; the answer is late.
                return;
            }
            let name = guest_name(guest);
            self.breaks("one writer", format!("{name}@{epoch} is told of a write, and {name}@{newest} runs"));
        }
        let ledger = self.ledgers.entry(flight.volume).or_default();
        ledger.thin |= thin;
        ledger.acknowledge(flight.block, flight.id);
        self.books.acknowledged += 1;
        if flight.flush {
            ledger.flush();
            if let Some(file) = self.file_mut(host, flight.volume) {
                file.flush();
            }
        }
        let delay = self.rng.between(20 * MS, 400 * MS);
        self.after(delay, Event::Write { host, uid });
    }

    /// QEMU sends a guest's memory, and stops it when it has.
    pub fn send_memory(&mut self, host: usize, uid: u64) {
        let delay = self.rng.between(50 * MS, 400 * MS);
        let Some(machine) = self.machine(host, uid) else { return };
        let (guest, quiet) = (machine.guest, machine.flight.is_none());
        let Some(sending) = machine.sending.clone() else { return };
        let waits = |m: &Machine| m.uid == sending.to && m.stage == Stage::Incoming;
        let there = self.sites[sending.host].machines.get(&guest).is_some_and(waits);
        let whole = there && self.linked(host, sending.host);
        let (phase, goes_on) = match (&sending.phase, whole) {
            (SendPhase::Memory | SendPhase::AtSwitchover | SendPhase::Delivering, false) => {
                self.incoming_breaks(&sending, guest);
                (SendPhase::Failed("the connection broke".into()), false)
            }
            (SendPhase::Memory, true) if sending.rounds > 0 => (SendPhase::Memory, true),
            (SendPhase::Memory, true) if quiet => (SendPhase::AtSwitchover, true),
            (SendPhase::Memory, true) => (SendPhase::Memory, true),
            (SendPhase::AtSwitchover, true) => (SendPhase::AtSwitchover, true),
            (SendPhase::Delivering, true) => {
                self.arrived(sending.host, guest);
                (SendPhase::Delivered, false)
            }
            (SendPhase::Delivered, _) => (SendPhase::Delivered, false),
            (SendPhase::Failed(why), _) => (SendPhase::Failed(why.clone()), false),
        };
        if phase != sending.phase {
            note!(self, "host{} {}: its memory: {phase:?}", host + 1, guest_name(guest));
            self.machine_event(host, guest);
        }
        let failed = matches!(phase, SendPhase::Failed(_));
        let unbound = self.has(Mutant::NoVoid);
        if let Some(machine) = self.machine(host, uid) {
            machine.sending = Some(SendingTo { phase, rounds: sending.rounds.saturating_sub(1), ..sending });
            if failed {
                // QEMU lets a guest go on by itself when the rest of it cannot be sent. Its disks may be void.
                if machine.stage == Stage::Left && unbound {
                    machine.stage = Stage::Running;
                }
                self.after(MS, Event::Write { host, uid });
            }
        }
        if goes_on {
            self.after(delay, Event::Send { host, uid });
        }
    }

    fn arrived(&mut self, host: usize, guest: usize) {
        if let Some(machine) = self.sites[host].machines.get_mut(&guest) {
            machine.stage = Stage::Arrived;
            let uid = machine.uid;
            self.books.arrived(uid);
            self.machine_event(host, guest);
        }
    }

    /// The machine that waits for a guest ends when the way to it breaks.
    pub fn incoming_breaks(&mut self, sending: &SendingTo, guest: usize) {
        let waits = |m: &Machine| m.uid == sending.to && m.stage == Stage::Incoming;
        if self.sites[sending.host].machines.get(&guest).is_some_and(waits) {
            self.end_machine(sending.host, guest, Gone::Itself(Ended::Died));
        }
    }

    /// A guest obeys, unless it hangs or waits for a write.
    pub fn shut_down(&mut self, host: usize, uid: u64) {
        let Some(machine) = self.machine(host, uid) else { return };
        let guest = machine.guest;
        if machine.hangs || machine.stage != Stage::Running || machine.void || machine.withheld {
            return;
        }
        if machine.flight.is_some() || !machine.runs() {
            return self.after(100 * MS, Event::ShutDown { host, uid });
        }
        let volumes: Vec<VolumeId> = self.volumes_of(host, guest);
        for volume in volumes {
            self.ledgers.entry(volume).or_default().flush();
            if let Some(file) = self.file_mut(host, volume) {
                file.flush();
            }
        }
        self.end_machine(host, guest, Gone::Itself(Ended::GuestShutdown));
    }

    /// A machine is gone, whoever ended it.
    pub fn end_machine(&mut self, host: usize, guest: usize, gone: Gone) {
        let Some(machine) = self.sites[host].machines.remove(&guest) else { return };
        self.close_shared(machine.uid, gone == Gone::WithItsHost);
        if gone != Gone::WithItsHost {
            let all: Vec<VolumeId> = machine.mirrors.keys().copied().collect();
            self.leave_to_the_kernel(host, &machine, &all);
        }
        note!(self, "host{} {}@{}: its machine ends: {gone:?}", host + 1, guest_name(guest), machine.epoch);
        let ended = match gone {
            Gone::Itself(ended) => ended,
            Gone::ByWatchdog => Ended::Overdue,
            Gone::ByKeeper(_) | Gone::WithItsHost => Ended::Died,
        };
        self.book_end(host, &machine, gone);
        if let Some(daemon) = &mut self.sites[host].daemon {
            daemon.ends.insert(machine.uid, (ended, machine.secondary_failed));
        }
        if gone != Gone::ByKeeper(ExitReason::Disowned) {
            self.machine_event(host, guest);
        }
        // Whoever receives it hears that the way broke.
        if let Some(sending) = machine.sending.filter(|sending| sending.phase != SendPhase::Delivered) {
            self.incoming_breaks(&sending, guest);
        }
    }
}
