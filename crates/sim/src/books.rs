//! The books: what happened, and what must always be true of it. Each check stands at the place where its invariant
//! could be broken: when a machine begins to run, when one ends, when the store takes a write.

use std::collections::{BTreeMap, VecDeque};

use model::{
    Assignment, Bytes, Epoch, ExitReason, FillHow, GuestName, HostName, JobId, JobState, PowerWish, RuleKind,
};
use plan::converge::Stage;

use crate::daemon::written;
use crate::disk::Ledger;
use crate::fault::Blow;
use crate::machine::{Ended, Gone, Machine};
use crate::names::{guest_name, host_ix, host_name};
use crate::store::{Key, Record, Txn};
use crate::world::{S, Time, World, note};

/// The invariants, as reports name them.
pub const ONE_WRITER: &str = "one writer";
pub const NOTHING_LOST: &str = "nothing acknowledged is lost";
pub const BY_RIGHT: &str = "starts by right";
pub const ONE_OWNER: &str = "one owner per epoch";
pub const RULES_AND_ROOM: &str = "rules and room";
pub const ONCE: &str = "a job's effects happen once";
pub const COMES_BACK: &str = "everything comes back";
pub const NO_STORM: &str = "no storm";
/// The simulation's own: a circle at one moment would never end.
pub const TIME_GOES_ON: &str = "time goes on";
pub const FENCES_BY_RIGHT: &str = "fences by right";
pub const WAITS_FOR_NO_FENCE: &str = "mirrored guests wait for no fence";
pub const STORE_STOPS_NOBODY: &str = "the store's loss stops nobody";

/// Starts of one guest within a minute that need no explanation, and how many more each blow explains.
const STARTS_A_MINUTE: usize = 7;
const STARTS_A_BLOW: usize = 2;

/// How long ago a wish may be that explains why a host is full.
const WISH_EXPLAINS: Time = 20 * S;

/// The last run of a guest.
#[derive(Debug, Clone, Copy)]
struct Run {
    host: usize,
    life: Option<u32>,
    epoch: Epoch,
    generation: u64,
    /// It was asked to shut down, and did.
    obeyed: bool,
}

/// Where an assignment was before a write.
#[derive(Debug)]
pub struct Before {
    assignments: Vec<(usize, Option<Assignment>)>,
    jobs: Vec<(JobId, Option<JobState>)>,
}

#[derive(Debug, Default)]
pub struct Books {
    pub ended: bool,
    pub events: u64,
    pub faults: BTreeMap<&'static str, u64>,
    pub wishes: u64,
    pub writes: u64,
    pub acknowledged: u64,
    pub unknown: u64,
    pub starts: u64,
    pub promotions: u64,
    pub moves: u64,
    /// Secondaries that were begun to be filled, by what.
    pub fills: BTreeMap<FillHow, u64>,
    /// Losses that a disk's errors and one more failure explain.
    pub excused: u64,
    machines: BTreeMap<u64, (u64, Stage)>,
    newest: BTreeMap<usize, Epoch>,
    started: BTreeMap<usize, VecDeque<Time>>,
    pub blows: VecDeque<Time>,
    pub last_wish: Time,
    last_run: BTreeMap<usize, Run>,
    /// The last epoch in which a handover was asked for.
    handover_in: BTreeMap<usize, Epoch>,
    handed_over: BTreeMap<JobId, u32>,
    /// The one failure of the moment, if there is one at a time.
    pub current: Option<Blow>,
    /// Since when a blow waits for everything to be well.
    pub waits_since: Option<Time>,
    /// Since when everything has been well, at the end.
    pub well_since: Option<Time>,
    /// Since when hosts that were there have had no session.
    pub vanished: BTreeMap<HostName, Time>,
    /// Guests in shared storage that another host got, with a proof.
    pub recoveries: u64,
    /// Hosts whose power was taken by their devices, and how many of them had a session at that moment.
    pub powers_taken: u64,
    pub live_powers_taken: u64,
    /// Devices that are going to switch off.
    pub switches_due: u64,
    /// Hosts that their watchdogs reset.
    pub resets: u64,
    /// When a leader was told last, by a quorum, that a host's fence stands.
    pub wanted: BTreeMap<(usize, usize), Time>,
    /// When tries to take each host's power began.
    pub fence_tries: BTreeMap<usize, VecDeque<Time>>,
    /// Since when nothing has been wrong with the network, the store and the leader, and who leads.
    pub calm: Option<(HostName, Time)>,
}

impl Books {
    pub fn new_machine(&mut self, uid: u64, generation: u64, stage: Stage) {
        self.machines.insert(uid, (generation, stage));
    }

    /// The generation and the last stage of a machine, also of one that is gone.
    pub fn machine(&self, uid: u64) -> (u64, Stage) {
        self.machines.get(&uid).copied().unwrap_or((0, Stage::Running))
    }

    fn stage(&mut self, uid: u64, stage: Stage) {
        if let Some((_, known)) = self.machines.get_mut(&uid) {
            *known = stage;
        }
    }

    pub fn running(&mut self, uid: u64) {
        self.stage(uid, Stage::Running);
    }

    pub fn left(&mut self, uid: u64) {
        self.stage(uid, Stage::Left);
    }

    pub fn arrived(&mut self, uid: u64) {
        self.stage(uid, Stage::Arrived);
    }

    /// The newest epoch in which a guest has run.
    pub fn newest_epoch(&self, guest: usize) -> Epoch {
        self.newest.get(&guest).copied().unwrap_or_default()
    }

    pub fn fault_count(&self) -> u64 {
        self.faults.values().sum()
    }
}

impl World {
    /// A guest begins to run, or goes on here.
    pub fn guest_begins(&mut self, host: usize, guest: usize, arrives: bool) {
        let Some(machine) = self.sites[host].machines.get(&guest) else { return };
        let (epoch, generation) = (machine.epoch, machine.generation);
        let name = guest_name(guest);
        note!(self, "host{} {name}@{epoch} runs{}", host + 1, if arrives { ", arrived" } else { "" });
        self.books.starts += 1;
        self.check_right(host, guest, epoch);
        self.check_twins(host, guest, epoch);
        self.check_alone(host, guest);
        self.check_disks(host, guest);
        if !arrives {
            self.check_once(host, guest, epoch, generation);
            self.check_storm(guest);
        }
        let newest = self.books.newest.entry(guest).or_default();
        *newest = (*newest).max(epoch);
        let life = self.life(host);
        self.books.last_run.insert(guest, Run { host, life, epoch, generation, obeyed: false });
    }

    fn check_right(&mut self, host: usize, guest: usize, epoch: Epoch) {
        let (name, me, boot) = (guest_name(guest), host_name(host), self.boot_of(host));
        let view = &self.store.now.view;
        let session = view.sessions.get(&me).is_some_and(|session| session.boot_id == boot);
        let owner = view.assignments.get(&name);
        let owns = owner.is_some_and(|a| a.host == me && a.epoch == epoch);
        if !session || !owns {
            let now = owner.map(|a| format!("{}@{}", a.host, a.epoch)).unwrap_or_default();
            let what = format!("{name}@{epoch} runs on {me}; session: {session}; its owner is {now}");
            self.breaks(BY_RIGHT, what);
        }
    }

    fn check_twins(&mut self, host: usize, guest: usize, epoch: Epoch) {
        let newest = self.books.newest_epoch(guest);
        let twin = self.sites.iter().enumerate().any(|(other, site)| {
            other != host && site.machines.get(&guest).is_some_and(|m| m.is_writer() && m.epoch == epoch)
        });
        if newest > epoch || twin {
            let what = format!(
                "{} runs on host{} at epoch {epoch}, and has run at {newest}",
                guest_name(guest),
                host + 1
            );
            self.breaks(ONE_WRITER, what);
        }
    }

    fn check_disks(&mut self, host: usize, guest: usize) {
        for volume in self.volumes_of(host, guest) {
            let Some(there) = self.file_mut(host, volume) else { continue };
            let file = there.clone();
            there.lost_power = false;
            let ledger = self.ledgers.entry(volume).or_default();
            match ledger.read(&file) {
                Ok(()) => {}
                Err(_) if ledger.thin => {
                    self.books.excused += 1;
                    *ledger = Ledger::of(&file);
                }
                Err(why) => {
                    let what = format!("{} on host{}: {why}", guest_name(guest), host + 1);
                    self.breaks(NOTHING_LOST, what);
                }
            }
        }
    }

    fn check_once(&mut self, host: usize, guest: usize, epoch: Epoch, generation: u64) {
        let handed = self.books.handover_in.get(&guest) == Some(&epoch);
        let Some(run) = self.books.last_run.get(&guest) else { return };
        let same = run.epoch == epoch && run.generation == generation && run.host == host;
        if run.obeyed && same && run.life == self.life(host) && !handed {
            let what = format!(
                "{}@{epoch} was shut down, and starts once more in generation {generation}",
                guest_name(guest)
            );
            self.breaks(ONCE, what);
        }
    }

    fn check_storm(&mut self, guest: usize) {
        let now = self.now;
        self.books.blows.retain(|at| *at + 120 * S > now);
        let starts = self.books.started.entry(guest).or_default();
        starts.push_back(now);
        starts.retain(|at| *at + 60 * S > now);
        let (starts, blows) = (starts.len(), self.books.blows.len());
        if starts > STARTS_A_MINUTE + STARTS_A_BLOW * blows {
            let what =
                format!("{} started {starts} times in a minute, after {blows} blows", guest_name(guest));
            self.breaks(NO_STORM, what);
        }
    }

    /// A machine is gone.
    pub fn book_end(&mut self, host: usize, machine: &Machine, gone: Gone) {
        let guest = machine.guest;
        if let Some(run) = self.books.last_run.get_mut(&guest).filter(|run| run.epoch == machine.epoch) {
            let asked = machine.shuts_down_at.is_some();
            run.obeyed = asked && gone == Gone::Itself(Ended::GuestShutdown);
            run.life = self.sites[host].daemon.as_ref().map(|daemon| daemon.life);
        }
        let control = self.is_single()
            && matches!(self.books.current, Some(Blow::StoreDies { .. } | Blow::MemberDies { .. }));
        let owner = self.store.now.view.assignments.get(&guest_name(guest));
        let rightful = owner.is_some_and(|a| a.host == host_name(host) && a.epoch == machine.epoch);
        // Nobody could confirm the owner of a guest in shared storage.
        let rightful = rightful && !self.is_shared(guest);
        let ended = matches!(gone, Gone::ByKeeper(ExitReason::Disowned) | Gone::ByWatchdog);
        if control && rightful && ended && machine.stage == Stage::Running {
            let what = format!("host{} ends {} because of the store's loss", host + 1, guest_name(guest));
            self.breaks(STORE_STOPS_NOBODY, what);
        }
    }

    /// What a transaction is about to change.
    pub fn before(&self, txn: &Txn) -> Before {
        let mut before = Before { assignments: vec![], jobs: vec![] };
        let view = &self.store.now.view;
        for write in &txn.writes {
            match write.key() {
                Key::Assignment(guest) => {
                    before.assignments.push((guest, view.assignments.get(&guest_name(guest)).cloned()));
                }
                Key::JobReport(id) => before.jobs.push((id, view.job_reports.get(&id).map(|r| r.state))),
                Key::Leader
                | Key::Host(_)
                | Key::HostReport(_)
                | Key::Session(_)
                | Key::Guest(_)
                | Key::GuestReport(_)
                | Key::InSync(_)
                | Key::Drop(..)
                | Key::Job(_)
                | Key::Losses
                | Key::Fence(_)
                | Key::ConfirmedDead(_) => {}
            }
        }
        before
    }

    /// A transaction was made.
    pub fn committed(&mut self, host: usize, txn: &Txn, before: Before) {
        self.book_sessions();
        for record in written(&txn.writes) {
            if let Record::InSync(set) = record {
                let names: Vec<_> = set.members.iter().map(|r| r.host.as_str()).collect();
                note!(
                    self,
                    "host{} records in sync at epoch {}: {} on {}",
                    host + 1,
                    set.epoch,
                    guest_name(crate::names::guest_of(set.volume)),
                    names.join(" ")
                );
                let alone = set.members.iter().next().filter(|_| set.members.len() == 1);
                let file = alone.and_then(|r| self.sites[host_ix(&r.host)].files.get(&set.volume));
                let ledger = self.ledgers.entry(set.volume).or_default();
                // A new owner may be the one that lacks it.
                ledger.thin &= !file.is_some_and(|file| ledger.is_held_by(file));
            }
        }
        for (guest, old) in before.assignments {
            let new = self.store.now.view.assignments.get(&guest_name(guest)).cloned();
            if let Some(new) = new {
                self.check_assignment(guest, old.as_ref(), &new);
            }
        }
        for (id, old) in before.jobs {
            let new = self.store.now.view.job_reports.get(&id).map(|report| report.state);
            if old.is_some_and(JobState::is_terminal) && new.is_some() && new != old {
                self.breaks(ONCE, format!("job {id} had ended, and goes on"));
            }
        }
    }

    fn check_assignment(&mut self, guest: usize, old: Option<&Assignment>, new: &Assignment) {
        let name = &new.guest;
        if new.handover.is_some() {
            self.books.handover_in.insert(guest, new.epoch);
        }
        let changed = old.is_none_or(|old| old.host != new.host);
        let legal = match old {
            None => new.epoch == Epoch::FIRST,
            Some(old) if changed => new.epoch == old.epoch.next(),
            Some(old) => new.epoch == old.epoch,
        };
        if !legal {
            let was = old.map(|old| format!("{}@{}", old.host, old.epoch)).unwrap_or_default();
            self.breaks(ONE_OWNER, format!("{name} goes from {was} to {}@{}", new.host, new.epoch));
        }
        if !changed {
            return;
        }
        note!(self, "{name} belongs to {} at epoch {}: {}", new.host, new.epoch, new.why);
        match old.and_then(|old| old.handover.as_ref()) {
            Some(handover) => {
                self.books.moves += 1;
                let times = self.books.handed_over.entry(handover.job).or_default();
                *times += 1;
                // There, and back if it does not start there.
                if *times > 2 {
                    self.breaks(ONCE, format!("one job hands {name} over for the third time"));
                }
            }
            None => {
                if let Some(old) = old {
                    self.books.promotions += 1;
                    self.books.recoveries += u64::from(self.is_shared(guest));
                    self.check_calm(name.as_str(), &old.host, "is recovered");
                }
            }
        }
        self.check_room(new);
        self.check_rules(new);
    }

    /// Whether a host to which a guest comes has room for it.
    fn check_room(&mut self, new: &Assignment) {
        let view = &self.store.now.view;
        let runs = |name: &GuestName| {
            let spec = view.guests.get(name);
            spec.filter(|spec| spec.power == PowerWish::Running && !spec.deleting)
                .map_or(Bytes(0), |s| s.memory)
        };
        let here = view.assignments.values().filter(|a| a.host == new.host);
        let with: u64 = here.map(|a| runs(&a.guest).0).sum();
        let without = with - runs(&new.guest).0;
        let room = ROOM.0;
        if with > room && without <= room && with > without && self.now > self.books.last_wish + WISH_EXPLAINS
        {
            let what = format!("{} comes to {}, where guests have {} then", new.guest, new.host, Bytes(with));
            self.breaks(RULES_AND_ROOM, what);
        }
    }

    fn check_rules(&mut self, new: &Assignment) {
        let view = &self.store.now.view;
        let broken = view.rules.values().find_map(|rule| {
            let names = &rule.guests.names;
            if rule.kind != RuleKind::Apart || !names.contains(&new.guest) {
                return None;
            }
            let stays = |other: &&GuestName| view.guests.get(*other).is_some_and(|spec| !spec.deleting);
            let mut others = names.iter().filter(|other| **other != new.guest).filter(stays);
            others.find(|other| view.assignments.get(*other).is_some_and(|a| a.host == new.host)).cloned()
        });
        if let Some(other) = broken
            && self.now > self.books.last_wish + WISH_EXPLAINS
        {
            let what = format!("{} comes to {}, where {other} is", new.guest, new.host);
            self.breaks(RULES_AND_ROOM, what);
        }
    }
}

/// What guests may have on one host: 8 GiB, less what a host keeps for itself.
pub const ROOM: Bytes = Bytes(8 * Bytes::GIB - 512 * Bytes::MIB);
