//! Storage that hosts share: one file of each volume, which every host reaches.
//!
//! Nothing in it says who may write: whoever has a file open writes to it, a host that stood still as well when it goes on.
//! In some clusters the storage's locks hold across hosts, as NFS version 4's do: there a machine that has a file open keeps
//! others from opening it, and the lock of a host that lost its power is dropped after a while. In others they do not, and
//! nothing but a proof keeps two machines from writing to one file. What is written is on the storage's disks at once.

use model::{Assignment, InSync, Replica, VolumeId};
use plan::converge::Situation;

use crate::acts::{Went, conflict, host_error};
use crate::books::ONE_WRITER;
use crate::disk::File;
use crate::machine::Gone;
use crate::mutant::Mutant;
use crate::names::{guest_name, guest_of, host_ix};
use crate::store::{Key, Record, Txn};
use crate::world::{MS, S, Time, World};

/// How long the storage keeps the lock of a host that is gone.
const DEAD_LOCKS_FOR: Time = 10 * S;

/// A volume.
#[derive(Debug, Clone, Default)]
pub struct SharedFile {
    pub file: File,
    /// The machine that has it open, and its host.
    holder: Option<(usize, u64)>,
    /// The lock of a host that is gone.
    locked_until: Time,
}

impl World {
    pub fn is_shared(&self, guest: usize) -> bool {
        self.shared_guests.contains(&guest)
    }

    pub fn has_file(&self, host: usize, volume: VolumeId) -> bool {
        self.shared.contains_key(&volume) || self.sites[host].files.contains_key(&volume)
    }

    /// A file as a host reaches it.
    pub fn file_mut(&mut self, host: usize, volume: VolumeId) -> Option<&mut File> {
        match self.shared.get_mut(&volume) {
            Some(shared) => Some(&mut shared.file),
            None => self.sites[host].files.get_mut(&volume),
        }
    }

    /// The volumes of a guest that a host reaches.
    pub fn volumes_of(&self, host: usize, guest: usize) -> Vec<VolumeId> {
        let of_guest = |volume: &&VolumeId| guest_of(**volume) == guest;
        let own = self.sites[host].files.keys().filter(of_guest);
        own.chain(self.shared.keys().filter(of_guest)).copied().collect()
    }

    pub fn make_shared(&mut self, volume: VolumeId) {
        let id = self.number();
        let file = File { id, ..File::default() };
        self.shared.entry(volume).or_insert(SharedFile { file, ..SharedFile::default() });
    }

    /// Opens the files of a guest for a machine; false: another one has them open.
    pub fn open_shared(&mut self, host: usize, guest: usize, uid: u64) -> bool {
        let (now, locks) = (self.now, self.locks_hold);
        let mut files: Vec<&mut SharedFile> =
            self.shared.iter_mut().filter(|(v, _)| guest_of(**v) == guest).map(|(_, f)| f).collect();
        let free = |f: &SharedFile| f.holder.is_none_or(|(_, by)| by == uid) && f.locked_until <= now;
        if locks && !files.iter().all(|file| free(file)) {
            return false;
        }
        files.iter_mut().for_each(|file| file.holder = Some((host, uid)));
        true
    }

    /// The machine is gone, or has given the files up.
    pub fn close_shared(&mut self, uid: u64, with_its_host: bool) {
        let lasts = if with_its_host && self.locks_hold { self.rng.below(DEAD_LOCKS_FOR) } else { 0 };
        let until = self.now + lasts;
        for file in self.shared.values_mut().filter(|file| file.holder.is_some_and(|(_, by)| by == uid)) {
            (file.holder, file.locked_until) = (None, until);
        }
    }

    /// A guest begins to run: nobody else may be able to write to its disks any more, also when it wakes up.
    pub fn check_alone(&mut self, host: usize, guest: usize) {
        let other = self.sites.iter().enumerate().find_map(|(ix, site)| {
            let machine = site.machines.get(&guest).filter(|m| ix != host && m.is_writer())?;
            Some((ix, machine.epoch))
        });
        if let Some((other, epoch)) = other.filter(|_| self.is_shared(guest)) {
            let name = guest_name(guest);
            let frozen = if self.sites[other].frozen_until > self.now { ", which stands still" } else { "" };
            let what = format!(
                "{name} begins to run on host{}, and {name}@{epoch} may still write on host{}{frozen}",
                host + 1,
                other + 1
            );
            self.breaks(ONE_WRITER, what);
        }
    }

    /// A write has reached the storage.
    pub fn check_late_write(&mut self, host: usize, guest: usize, epoch: model::Epoch) {
        let newest = self.books.newest_epoch(guest);
        if newest > epoch {
            let name = guest_name(guest);
            let what = format!("{name}@{epoch} on host{} writes late: {name}@{newest} has run", host + 1);
            self.breaks(ONE_WRITER, what);
        }
    }

    // -----------------------------------------------------------------------------------------------------------
    // A handover while the guest runs: the disks are taken away from it before another host owns it

    pub(crate) fn withhold(&mut self, host: usize, guest: usize) -> Went {
        let late = self.has(Mutant::WithholdLate);
        self.keeper(host, guest).live.withheld = true;
        let Some(machine) = self.sites[host].machines.get_mut(&guest) else { return Went::On(MS) };
        let uid = machine.uid;
        machine.withheld = !late;
        self.close_shared(uid, false);
        Went::On(self.rng.between(MS, 5 * MS))
    }

    /// Gives the disks back, or ends the machine if that cannot be.
    pub(crate) fn return_disks(&mut self, host: usize, guest: usize) -> Went {
        let Some(machine) = self.sites[host].machines.get(&guest) else { return Went::On(MS) };
        let uid = machine.uid;
        if !self.open_shared(host, guest, uid) {
            self.end_machine(host, guest, Gone::ByKeeper(model::ExitReason::Crashed));
            self.notice_end(host, guest);
            return host_error("its disks are in use elsewhere");
        }
        self.keeper(host, guest).live.withheld = false;
        if let Some(machine) = self.sites[host].machines.get_mut(&guest) {
            machine.withheld = false;
        }
        Went::On(MS)
    }

    /// The change of owner: of what both reach there is one copy, and its owner stands for it.
    pub(crate) fn swap_shared(&mut self, host: usize, next: &Assignment, s: &Situation) -> Result<Txn, Went> {
        let cache = &self.daemon(host).cache;
        let same = s.in_sync.iter().all(|(volume, set)| cache.view.in_sync.get(volume) == Some(set));
        if !same || cache.view.assignments.get(&s.assignment.guest) != Some(&s.assignment) {
            return Err(conflict());
        }
        let mut draft = cache.draft();
        for session in [Key::Session(host), Key::Session(host_ix(&next.host))] {
            draft.unchanged(session).exists(session);
        }
        draft.put(Record::Assignment(next.clone()));
        let owner = cache.view.sessions.get(&next.host);
        let owner = owner.map(|session| Replica { host: next.host.clone(), boot_id: session.boot_id });
        for set in s.in_sync.values() {
            let members = owner.iter().cloned().collect();
            draft.put(Record::InSync(InSync { epoch: next.epoch, members, ..set.clone() }));
        }
        Ok(draft.build())
    }
}
