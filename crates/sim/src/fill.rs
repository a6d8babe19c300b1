//! Filling secondaries, and the records that say what a resync may leave out: the counterpart of `host::qemu`'s dirty
//! bitmaps and its comparison, and of `daemon::agent::records`.

use model::{FillHow, Liveness, ReplicaFile, VolumeId};
use plan::converge::{Mirror, Situation, Stage};

use crate::disk::BLOCKS;
use crate::guest::RECONNECT_EVERY;
use crate::machine::Record;
use crate::mutant::Mutant;
use crate::names::host_ix;
use crate::world::{Event, MS, World};

/// How many looks of a hundred renew a record that is there.
const RENEWED: u64 = 5;

/// The blocks that are to be copied, and the file that the others are right for.
pub type Missing = ([bool; BLOCKS], Option<u64>);

impl World {
    /// Begins records, and renews them, while both replicas are in sync.
    pub fn keep_records(&mut self, host: usize, guest: usize, s: &Situation) {
        let machine = s.machine.as_ref().filter(|m| m.stage == Stage::Running && m.sending.is_none());
        let Some(machine) = machine else { return };
        let Some(peer) = s.peer.as_ref().filter(|peer| peer.serves && s.assignment.host == s.me) else {
            return;
        };
        let Liveness::Live(boot_id) = peer.liveness else { return };
        for disk in s.spec.replicated(&s.assignment) {
            let volume = disk.volume;
            let well = machine.mirrors.get(&volume).is_some_and(|mirror| mirror.state == Mirror::Ready);
            let counted_on = s.in_sync.get(&volume).is_some_and(|set| set.contains(&peer.host, boot_id));
            let Some(theirs) = peer.files.get(&volume).filter(|_| well && counted_on) else { continue };
            let replica = ReplicaFile { host: peer.host.clone(), boot_id, file: theirs.file.clone() };
            let is_there = machine.records.get(&volume) == Some(&replica);
            if !is_there || self.rng.percent(RENEWED) {
                self.track(host, guest, volume, replica);
            }
        }
    }

    /// What was written before is on the secondary, and on its disk: nothing has changed since.
    fn track(&mut self, host: usize, guest: usize, volume: VolumeId, replica: ReplicaFile) {
        let to = host_ix(&replica.host);
        let early = self.has(Mutant::RecordTooEarly);
        let reaches = self.linked(host, to) && self.sites[to].disk_fails_until <= self.now;
        let Some(machine) = self.sites[host].machines.get_mut(&guest) else { return };
        // Its local half has ended, so that the record misses it.
        let missed = machine.flight.is_some_and(|f| f.volume == volume && f.local && !f.remote);
        let mirror = machine.mirrors.get(&volume).filter(|m| m.state == Mirror::Ready && m.host == to);
        let Some(export) = mirror.map(|mirror| mirror.export).filter(|_| early || !missed) else { return };
        let site = &mut self.sites[to];
        let serves = reaches && site.served.get(&volume) == Some(&export);
        let Some(file) = site.files.get_mut(&volume).filter(|_| serves) else { return };
        file.flush();
        if let Some(machine) = self.sites[host].machines.get_mut(&guest) {
            machine.records.insert(volume, Record { replica, changed: [false; BLOCKS] });
        }
    }

    /// What a mirror that is attached now has to copy. Nothing: it cannot be attached in that way.
    pub fn missing(
        &self,
        host: usize,
        guest: usize,
        volume: VolumeId,
        to: usize,
        fill: Option<FillHow>,
    ) -> Option<Missing> {
        let machine = self.sites[host].machines.get(&guest)?;
        let (mine, theirs) = (self.sites[host].files.get(&volume)?, self.sites[to].files.get(&volume)?);
        let mut missing = match fill {
            None => return Some(([false; BLOCKS], None)),
            Some(FillHow::Whole) => return Some(([true; BLOCKS], None)),
            Some(FillHow::Changed) => {
                let of_this_file = |record: &&Record| {
                    self.has(Mutant::RecordOfAnyFile) || record.replica.file == theirs.id.to_string()
                };
                machine.records.get(&volume).filter(of_this_file)?.changed
            }
            Some(FillHow::Compared) => std::array::from_fn(|at| mine.cached[at] != theirs.cached[at]),
        };
        // QEMU waits for what is under way before it attaches a mirror.
        if let Some(flight) = machine.flight.filter(|f| f.volume == volume && !self.has(Mutant::CompareFirst))
        {
            missing[flight.block] = true;
        }
        Some((missing, Some(theirs.id)))
    }

    /// A mirror copies its next block.
    pub fn fill(&mut self, host: usize, uid: u64, volume: VolumeId, link: u64) {
        let retry = self.rng.between(RECONNECT_EVERY.0, RECONNECT_EVERY.1);
        let unordered = self.has(Mutant::CompareFirst);
        let Some(machine) = self.machine(host, uid) else { return };
        let guest = machine.guest;
        let Some(mirror) = machine.mirrors.get(&volume).filter(|m| m.link == link) else { return };
        if mirror.state != Mirror::Filling {
            return;
        }
        let (to, export, attached_to) = (mirror.host, mirror.export, mirror.file);
        let block = mirror.missing.iter().position(|missing| *missing);
        let under_way = machine.flight.is_some_and(|f| f.volume == volume && Some(f.block) == block);
        if under_way && !unordered {
            // QEMU waits for a write that is under way before it copies what that writes to.
            return self.after(5 * MS, Event::Fill { host, uid, volume, link });
        }
        let Some(machine) = self.machine(host, uid) else { return };
        if block.is_none() && machine.flight.is_some_and(|f| f.volume == volume && !f.remote) {
            return self.after(5 * MS, Event::Fill { host, uid, volume, link });
        }
        let serves = self.linked(host, to) && self.sites[to].served.get(&volume) == Some(&export);
        if !serves || self.sites[host].disk_fails_until > self.now {
            return self.after(retry, Event::Fill { host, uid, volume, link });
        }
        let fails = self.sites[to].disk_fails_until > self.now;
        if let Some(block) = block.filter(|_| !fails) {
            let content =
                self.sites[host].files.get(&volume).map(|file| file.cached[block]).unwrap_or_default();
            if let Some(file) = self.sites[to].files.get_mut(&volume) {
                file.write(block, content);
            }
        }
        // What was left out was right for the file that was there then.
        let another =
            attached_to.is_some_and(|id| self.sites[to].files.get(&volume).is_none_or(|f| f.id != id));
        let Some(mirror) = self.machine(host, uid).and_then(|m| m.mirrors.get_mut(&volume)) else { return };
        match block {
            _ if fails || another => mirror.state = Mirror::Broken,
            Some(block) => mirror.missing[block] = false,
            None => mirror.state = Mirror::Ready,
        }
        if mirror.state == Mirror::Filling {
            let delay = self.rng.between(20 * MS, 600 * MS);
            self.after(delay, Event::Fill { host, uid, volume, link });
        } else {
            self.machine_event(host, guest);
        }
    }
}
