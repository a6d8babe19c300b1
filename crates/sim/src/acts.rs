//! What the steps of `plan::converge` consist of, act by act, in the order of `daemon::agent::{steps, live}`: the
//! record of who is in sync is written before anything that makes it untrue is done, and after what makes it true.
//! Between any two acts anything may happen.

use std::net::SocketAddr;

use model::{
    Assignment, Epoch, Exit, ExitReason, FillHow, GuestReport, GuestState, InSync, JobId, Replica, VolumeId,
};
use plan::converge::{Mirror, Situation, Stage, Step};
use plan::limits::AUTHORITY;

use crate::daemon::local;
use crate::disk::File;
use crate::keeper::Doing;
use crate::machine::{Gone, Machine, MirrorTo};
use crate::mutant::Mutant;
use crate::names::{guest_name, host_ix, host_name};
use crate::request::{Asked, NoReply, Replied, Reply, Who};
use crate::store::{Key, Record, Txn};
use crate::world::{Event, MS, Mono, S, Time, World, note};

const AFTER_CONFLICT: Time = 100 * MS;
const AFTER_FAILURE: Time = S;
/// Between two tries to say that a guest is being started.
const SAY_AGAIN_AFTER: Time = 20 * MS;
const SAY_TRIES: u32 = 10;
/// How long a change may take to come back through the watch.
const ECHO_TIMEOUT: Time = 3 * S;
/// For how long the new owner of a guest that stands still tries to reach the old one's replica.
const MIRROR_BACK_WITHIN: Mono = 1500 * MS as Mono;
const MIRROR_BACK_POLL: Time = 20 * MS;

/// A part of a step.
#[derive(Debug, Clone)]
pub enum Act {
    Withdraw(VolumeId),
    /// Ends the old epoch's connections; nobody of an older epoch writes to the file after it.
    Seal(VolumeId),
    Flush(VolumeId),
    Make(VolumeId),
    Delete(VolumeId),
    Serve(VolumeId, Epoch),
    ForgetDrop(VolumeId),
    Record(Vec<Replica>),
    /// From here on the record may count on it.
    Doubt(Replica),
    SayStarting,
    Launch,
    AttachSame(Replica),
    AttachBack(Replica),
    /// What connections from before still carry is not to be written any more.
    EndConnections(Vec<VolumeId>, Replica),
    Attach(Vec<VolumeId>, Replica, FillHow),
    Detach(Vec<VolumeId>),
    Resume,
    ArriveResume,
    Ask,
    Kill(ExitReason),
    Receive(u64),
    TellWhere,
    Send(SocketAddr),
    /// Writes the in-sync sets anew, if a change of owner is in doubt: then it is refused for good.
    SettleHandover,
    CancelSend(Option<(JobId, String)>),
    CheckHandOver,
    /// Of disks that hosts share: no write of the machine reaches them any more, until they are given back.
    Withhold,
    ReturnDisks,
    Swap(Box<Assignment>),
    Void,
}

/// What became of an act.
pub(crate) enum Went {
    /// The next one follows after so long.
    On(Time),
    /// It waits for the store.
    Waits,
    /// It is tried again.
    Again(Time),
    Fails(Failure),
}

pub(crate) struct Failure {
    why: String,
    pause: Time,
    counts: bool,
}

pub(crate) fn soon(why: impl Into<String>) -> Went {
    Went::Fails(Failure { why: why.into(), pause: AFTER_FAILURE, counts: false })
}

pub(crate) fn host_error(why: impl Into<String>) -> Went {
    Went::Fails(Failure { why: why.into(), pause: 0, counts: true })
}

pub(crate) fn conflict() -> Went {
    Went::Fails(Failure {
        why: "the guest's records changed meanwhile".into(),
        pause: AFTER_CONFLICT,
        counts: false,
    })
}

/// What a step consists of, in order.
pub fn acts(step: &Step, s: &Situation, mutant: Option<Mutant>) -> Vec<Act> {
    let own = Replica { host: s.me.clone(), boot_id: s.boot };
    let disks = || s.spec.disks.iter().map(|disk| disk.volume);
    let all: Vec<VolumeId> = disks().collect();
    let epoch = s.assignment.epoch;
    let shared = s.spec.is_shared();
    match step {
        Step::TakeOver { .. } if shared => vec![Act::Record(vec![own])],
        Step::CancelSend { gave_up } if shared => {
            vec![Act::SettleHandover, Act::ReturnDisks, Act::CancelSend(gave_up.clone())]
        }
        Step::HandOver { next } if shared => {
            vec![Act::CheckHandOver, Act::Withhold, Act::Swap(Box::new(next.clone())), Act::Void]
        }
        Step::Deliver if shared => vec![Act::Void],
        Step::Arrive { .. } if shared => vec![Act::ArriveResume],
        Step::MakeVolumes { volumes } => {
            let made = volumes.iter().flat_map(|v| [Act::Withdraw(*v), Act::Make(*v)]);
            made.chain([Act::Record(vec![own])]).collect()
        }
        Step::TakeOver { keep } => {
            let sealed = disks().flat_map(|v| [Act::Seal(v), Act::Flush(v)]);
            sealed.chain([Act::Record(keep.iter().cloned().chain([own]).collect())]).collect()
        }
        Step::ClaimAlone => vec![Act::Record(vec![own])],
        Step::Start { mirror_to } => {
            let attach = mirror_to.iter().cloned().map(Act::AttachSame);
            let start = [Act::SettleHandover, Act::SayStarting, Act::Launch];
            start.into_iter().chain(attach).chain([Act::Resume]).collect()
        }
        // No disk is full here, and every guest is well.
        Step::GoOn | Step::Reset { .. } => vec![],
        Step::Shutdown => vec![Act::Ask],
        Step::End { why } => vec![Act::Kill(*why)],
        Step::Attach { volumes, target, how, why: _ } => {
            let ended = Act::EndConnections(volumes.clone(), target.clone());
            vec![ended, Act::Attach(volumes.clone(), target.clone(), *how)]
        }
        Step::Admit { replica } => vec![Act::Doubt(replica.clone()), Act::Record(vec![own, replica.clone()])],
        Step::LetGo { .. } if mutant == Some(Mutant::LetGoFirst) => {
            vec![Act::Detach(all), Act::Record(vec![own])]
        }
        Step::LetGo { .. } => vec![Act::Record(vec![own]), Act::Detach(all)],
        Step::Detach { volumes } => vec![Act::Record(vec![own]), Act::Detach(volumes.clone())],
        Step::MakeReplica { volume } => vec![Act::Make(*volume)],
        Step::Serve { volume } => vec![Act::Serve(*volume, epoch)],
        Step::Withdraw { volume } => vec![Act::Withdraw(*volume)],
        Step::DropReplica { volume } => {
            vec![Act::Withdraw(*volume), Act::Delete(*volume), Act::ForgetDrop(*volume)]
        }
        Step::DeleteVolumes => disks().flat_map(|v| [Act::Withdraw(v), Act::Delete(v)]).collect(),
        Step::Receive { boot_generation, .. } => vec![Act::Receive(*boot_generation), Act::TellWhere],
        Step::Send { to } => vec![Act::Send(*to)],
        Step::CancelSend { gave_up } => vec![Act::SettleHandover, Act::CancelSend(gave_up.clone())],
        Step::HandOver { next } => {
            let given = [Act::CheckHandOver, Act::Swap(Box::new(next.clone())), Act::Void];
            given.into_iter().chain(disks().map(|v| Act::Serve(v, next.epoch))).collect()
        }
        Step::Deliver => [Act::Void].into_iter().chain(disks().map(|v| Act::Serve(v, epoch))).collect(),
        Step::Arrive { mirror_to } => {
            let sealed = disks().flat_map(|v| [Act::Flush(v), Act::Seal(v)]);
            let attach = mirror_to.iter().cloned().map(Act::AttachBack);
            sealed.chain(attach).chain([Act::ArriveResume]).collect()
        }
        // No disk of the simulation grows.
        Step::Grow { .. } | Step::GrowReplica { .. } => vec![],
        Step::Rest { .. } | Step::Adjust { .. } | Step::StartPostCopy => vec![],
    }
}

impl World {
    /// Takes the next act of the keeper's step.
    pub fn next_act(&mut self, host: usize, guest: usize) {
        let Doing::Acting(acting) = &mut self.keeper(host, guest).doing else { return };
        let Some(act) = acting.acts.pop_front() else {
            let keeper = self.keeper(host, guest);
            keeper.doing = Doing::Resting;
            keeper.failure = None;
            return self.keeper_wakes(host, guest, MS);
        };
        let s = acting.s.clone();
        let went = self.take(host, guest, &act, &s);
        self.acted(host, guest, act, went);
    }

    fn acted(&mut self, host: usize, guest: usize, act: Act, went: Went) {
        let now = self.mono(host);
        let Doing::Acting(acting) = &mut self.keeper(host, guest).doing else { return };
        match went {
            Went::On(delay) => {
                acting.tries = 0;
                self.keeper_wakes(host, guest, delay);
            }
            Went::Waits => {
                acting.waits = Some(act);
                let limit = acting.deadline.map_or(local(AUTHORITY) * 2, |deadline| (deadline - now).max(0));
                self.keeper_wakes(host, guest, limit as Time);
            }
            Went::Again(delay) => {
                acting.tries += 1;
                acting.acts.push_front(act);
                self.keeper_wakes(host, guest, delay);
            }
            Went::Fails(failure) => self.step_fails(host, guest, failure),
        }
    }

    fn step_fails(&mut self, host: usize, guest: usize, failure: Failure) {
        note!(self, "host{} {}: failed: {}", host + 1, guest_name(guest), failure.why);
        let now = self.mono(host);
        let keeper = self.keeper(host, guest);
        if failure.counts {
            keeper.failures += 1;
            keeper.failed_at = Some(now);
            keeper.failure = Some(failure.why);
        }
        keeper.doing = Doing::Resting;
        self.keeper_wakes(host, guest, failure.pause + MS);
    }

    /// Tries to settle an admission in doubt. Whether it is under way.
    pub fn settle(&mut self, host: usize, guest: usize, s: &Situation) -> bool {
        let Some(replica) = self.keeper(host, guest).maybe_admitted.clone() else { return false };
        let own = Replica { host: s.me.clone(), boot_id: s.boot };
        match self.record_of(host, guest, s, vec![own, replica]) {
            Some(txn) => {
                self.request(host, Who::Keeper(guest), Asked::Commit(txn));
                true
            }
            None => false,
        }
    }

    /// The in-sync sets of all volumes, if this host owns the guest exactly as it did when the step was chosen.
    pub(crate) fn record_of(
        &mut self,
        host: usize,
        guest: usize,
        s: &Situation,
        members: Vec<Replica>,
    ) -> Option<Txn> {
        let cache = &self.daemon(host).cache;
        if cache.view.assignments.get(&s.assignment.guest) != Some(&s.assignment) {
            return None;
        }
        let mut draft = cache.draft();
        draft.unchanged(Key::Assignment(guest));
        for disk in &s.spec.disks {
            let members = members.iter().cloned().collect();
            let epoch = s.assignment.epoch;
            let next = match s.in_sync.get(&disk.volume) {
                Some(set) => set.followed_by(epoch, members, s.now),
                None => InSync::first(disk.volume, epoch, members, s.now),
            };
            draft.put(Record::InSync(next.heeding(s.spec.resync)));
        }
        Some(draft.build())
    }

    fn take(&mut self, host: usize, guest: usize, act: &Act, s: &Situation) -> Went {
        match act {
            Act::Withdraw(volume) => self.withdraw(host, *volume),
            Act::Seal(volume) => {
                if !self.has(Mutant::NoWithdraw) {
                    self.sites[host].served.remove(volume);
                }
                if let Some(file) = self.sites[host].files.get_mut(volume) {
                    file.sealed = file.sealed.max(s.assignment.epoch);
                }
                Went::On(self.rng.between(MS, 40 * MS))
            }
            Act::Flush(volume) => self.flush(host, *volume),
            Act::Make(volume) => self.make(host, guest, *volume),
            Act::Delete(volume) => self.delete(host, *volume),
            Act::Serve(volume, epoch) => self.serve(host, *volume, *epoch),
            Act::ForgetDrop(volume) => self.forget_drop(host, guest, *volume),
            Act::Record(members) => match self.record_of(host, guest, s, members.clone()) {
                Some(txn) => self.sends(host, guest, txn),
                None => conflict(),
            },
            Act::Doubt(replica) => {
                self.keeper(host, guest).maybe_admitted = Some(replica.clone());
                self.bind(host, guest, true);
                Went::On(0)
            }
            Act::SayStarting => self.say_starting(host, guest, s),
            Act::Launch => self.launch(host, guest, s),
            Act::AttachSame(replica) => {
                let all: Vec<VolumeId> = s.spec.disks.iter().map(|disk| disk.volume).collect();
                if self.attach(host, guest, &all, replica, s.assignment.epoch, None) {
                    Went::On(self.rng.between(5 * MS, 100 * MS))
                } else {
                    soon("the replica cannot be reached")
                }
            }
            Act::AttachBack(replica) => self.attach_back(host, guest, replica, s),
            Act::EndConnections(volumes, replica) => {
                self.end_connections(host, volumes, replica, s.assignment.epoch)
            }
            Act::Attach(volumes, replica, how) => {
                if self.attach(host, guest, volumes, replica, s.assignment.epoch, Some(*how)) {
                    Went::On(self.rng.between(5 * MS, 100 * MS))
                } else {
                    soon("the replica cannot be reached")
                }
            }
            Act::Detach(volumes) => {
                self.detach(host, guest, volumes);
                Went::On(self.rng.between(5 * MS, 80 * MS))
            }
            Act::Resume => self.resume(host, guest, s, false),
            Act::ArriveResume => self.resume(host, guest, s, true),
            Act::Ask => self.ask_to_stop(host, guest),
            Act::Kill(why) => self.kill(host, guest, *why),
            Act::Receive(generation) => self.receive(host, guest, *generation, s),
            Act::TellWhere => self.tell_where(host, guest, s),
            Act::Send(to) => self.begin_to_send(host, guest, *to, s),
            Act::SettleHandover => self.settle_handover(host, guest, s),
            Act::CancelSend(gave_up) => self.cancel_send(host, guest, gave_up.clone()),
            Act::CheckHandOver => self.check_hand_over(host, guest),
            Act::Withhold => self.withhold(host, guest),
            Act::ReturnDisks => self.return_disks(host, guest),
            Act::Swap(next) => self.swap(host, guest, next, s),
            Act::Void => self.void(host, guest),
        }
    }

    pub(crate) fn sends(&mut self, host: usize, guest: usize, txn: Txn) -> Went {
        self.request(host, Who::Keeper(guest), Asked::Commit(txn));
        Went::Waits
    }

    /// What became of a record that the keeper wrote.
    pub fn keeper_replied(&mut self, host: usize, guest: usize, replied: Replied) {
        let (done, failed) = (self.has(Mutant::UnknownIsDone), self.has(Mutant::UnknownIsFailed));
        let replied =
            if done && replied == Err(NoReply::Unknown) { Ok(Reply::Committed(0)) } else { replied };
        let Some(keeper) = self.daemon(host).keepers.get_mut(&guest) else { return };
        match &mut keeper.doing {
            Doing::Settling(s) => {
                let s = s.clone();
                if matches!(replied, Ok(Reply::Committed(_))) {
                    keeper.maybe_admitted = None;
                }
                self.choose(host, guest, s);
            }
            Doing::Acting(acting) => {
                let Some(act) = acting.waits.take() else { return };
                match replied {
                    Ok(Reply::Committed(revision)) => {
                        if matches!(act, Act::Record(_) | Act::SettleHandover) {
                            keeper.maybe_admitted = None;
                        }
                        if matches!(act, Act::SettleHandover | Act::Swap(_)) {
                            keeper.live.maybe_handed_over = false;
                        }
                        self.written(host, guest, revision);
                    }
                    Ok(_) if matches!(act, Act::SayStarting) => {
                        self.acted(host, guest, act, Went::Again(SAY_AGAIN_AFTER));
                    }
                    Ok(_) => self.acted(host, guest, act, conflict()),
                    Err(_) => {
                        if failed {
                            keeper.maybe_admitted = None;
                        }
                        self.acted(host, guest, act, soon("the store did not answer"));
                    }
                }
            }
            Doing::Resting | Doing::Calling(_) => {}
        }
    }

    fn written(&mut self, host: usize, guest: usize, revision: i64) {
        let seen = self.daemon(host).cache.revision >= revision;
        if let Doing::Acting(acting) = &mut self.keeper(host, guest).doing {
            acting.tries = 0;
            acting.awaits = (!seen).then_some(revision);
        }
        self.keeper_wakes(host, guest, if seen { 0 } else { ECHO_TIMEOUT });
    }

    fn withdraw(&mut self, host: usize, volume: VolumeId) -> Went {
        let site = &mut self.sites[host];
        if site.served.remove(&volume).is_some()
            && let Some(file) = site.files.get_mut(&volume)
        {
            file.flush();
        }
        Went::On(self.rng.between(MS, 40 * MS))
    }

    fn flush(&mut self, host: usize, volume: VolumeId) -> Went {
        let flushes = !self.has(Mutant::NoFlush);
        if let Some(file) = self.sites[host].files.get_mut(&volume).filter(|_| flushes) {
            file.flush();
        }
        Went::On(self.rng.between(MS, 200 * MS))
    }

    fn delete(&mut self, host: usize, volume: VolumeId) -> Went {
        self.sites[host].files.remove(&volume);
        self.shared.remove(&volume);
        Went::On(self.rng.between(MS, 20 * MS))
    }

    fn make(&mut self, host: usize, guest: usize, volume: VolumeId) -> Went {
        if self.is_shared(guest) {
            self.make_shared(volume);
            return Went::On(self.rng.between(5 * MS, 300 * MS));
        }
        if self.sites[host].files.contains_key(&volume) {
            return Went::On(MS);
        }
        if self.sites[host].disk_full_until > self.now || self.sites[host].disk_fails_until > self.now {
            return host_error("there is no room for it");
        }
        let id = self.number();
        self.sites[host].files.insert(volume, File { id, ..File::default() });
        Went::On(self.rng.between(5 * MS, 300 * MS))
    }

    fn serve(&mut self, host: usize, volume: VolumeId, epoch: Epoch) -> Went {
        let export = self.export(epoch, self.boot_of(host));
        let site = &mut self.sites[host];
        if !site.files.contains_key(&volume) {
            return host_error("there is no such file");
        }
        // QEMU holds the lock of a file that it writes to.
        if site.machines.values().any(|m| m.is_writer() && m.guest == crate::names::guest_of(volume)) {
            return host_error("the file is in use");
        }
        site.served.insert(volume, export);
        let door = self.number();
        self.sites[host].doors.insert(volume, door);
        Went::On(self.rng.between(MS, 30 * MS))
    }

    fn forget_drop(&mut self, host: usize, guest: usize, volume: VolumeId) -> Went {
        let cache = &self.daemon(host).cache;
        if !cache.view.drops.contains_key(&(host_name(host), volume)) {
            return conflict();
        }
        let txn = cache.draft().delete(Key::Drop(host, volume)).build();
        self.sends(host, guest, txn)
    }

    /// The mark by which a later life of this daemon knows that there was a run whose end it has not seen.
    fn say_starting(&mut self, host: usize, guest: usize, s: &Situation) -> Went {
        let keeper = self.keeper(host, guest);
        let tries = match &keeper.doing {
            Doing::Acting(acting) => acting.tries,
            Doing::Resting | Doing::Calling(_) | Doing::Settling(_) => 0,
        };
        if tries == 0 {
            keeper.exit_before = keeper.exit.clone();
            keeper.exit = keeper.exit.take().filter(|exit| exit.boot_generation != s.spec.boot_generation);
            keeper.launched_at = Some(s.assignment.epoch);
        }
        let exit = keeper.exit.clone();
        let report = self.report_of(s, GuestState::Starting, s.spec.boot_generation, exit);
        let cache = &self.daemon(host).cache;
        let owns = cache.view.assignments.get(&report.guest).is_some_and(|a| {
            a.guest_id == report.guest_id && a.host == s.me && a.epoch == s.assignment.epoch
        });
        if !owns {
            return soon("another host owns the guest");
        }
        if tries > SAY_TRIES {
            return soon("the guest's records changed meanwhile");
        }
        let txn =
            cache.draft().unchanged(Key::Assignment(guest)).put(Record::GuestReport(report.clone())).build();
        self.keeper(host, guest).wish = Some(report);
        self.sends(host, guest, txn)
    }

    pub fn report_of(
        &self,
        s: &Situation,
        state: GuestState,
        generation: u64,
        exit: Option<Exit>,
    ) -> GuestReport {
        GuestReport {
            guest: s.assignment.guest.clone(),
            guest_id: s.assignment.guest_id,
            host: s.me.clone(),
            boot_id: s.boot,
            epoch: s.assignment.epoch,
            state,
            boot_generation: generation,
            since: s.now,
            accelerator: None,
            exit,
            volumes: vec![],
            message: None,
            machine_type: None,
            cpu: None,
            migration: None,
            no_room: false,
            failed_at: None,
            health: None,
        }
    }

    fn launch(&mut self, host: usize, guest: usize, s: &Situation) -> Went {
        let generation = s.spec.boot_generation - u64::from(self.has(Mutant::RestartAgain));
        if self.sites[host].machines.contains_key(&guest) {
            return host_error("a machine of it runs already");
        }
        let ready = |volume| self.has_file(host, volume) && !self.sites[host].served.contains_key(&volume);
        let keeper_s = s.spec.disks.iter().all(|disk| ready(disk.volume) || self.has(Mutant::NoWithdraw));
        if !keeper_s {
            let keeper = self.keeper(host, guest);
            keeper.exit = keeper.exit_before.take();
            return host_error("its disks cannot be opened");
        }
        let keeper = self.keeper(host, guest);
        (keeper.ending, keeper.shutdown_asked_at, keeper.shutdown_taken_back_at) = (None, None, None);
        let uid = self.new_machine(host, guest, s.assignment.epoch, generation, Stage::Prelaunch);
        if !self.open_shared(host, guest, uid) {
            self.sites[host].machines.remove(&guest);
            let keeper = self.keeper(host, guest);
            (keeper.running, keeper.exit) = (None, keeper.exit_before.take());
            return host_error("another machine has its disks open");
        }
        Went::On(self.rng.between(20 * MS, 400 * MS))
    }

    pub(crate) fn new_machine(
        &mut self,
        host: usize,
        guest: usize,
        epoch: Epoch,
        generation: u64,
        stage: Stage,
    ) -> u64 {
        let uid = self.number();
        self.sites[host].machines.insert(guest, Machine::new(uid, guest, epoch, generation, stage));
        self.books.new_machine(uid, generation, stage);
        self.keeper(host, guest).running = Some(crate::keeper::Running { uid, targets: Default::default() });
        uid
    }

    /// The name that a replica is served under.
    pub fn export(&self, epoch: Epoch, boot: model::BootId) -> crate::machine::Export {
        if self.has(Mutant::OneNameForAllBoots) {
            (epoch, crate::names::boot_id(0, 0))
        } else {
            (epoch, boot)
        }
    }

    /// The other host's daemon ends all connections to what it serves, and serves it on.
    fn end_connections(&mut self, host: usize, volumes: &[VolumeId], target: &Replica, epoch: Epoch) -> Went {
        let to = host_ix(&target.host);
        let export = self.export(epoch, target.boot_id);
        let answers = self.linked(host, to) && self.life(to).is_some();
        if !answers || volumes.iter().any(|volume| self.sites[to].served.get(volume) != Some(&export)) {
            return soon("the replica cannot be reached");
        }
        if self.has(Mutant::KeepConnections) {
            return Went::On(0);
        }
        for volume in volumes {
            let door = self.number();
            self.sites[to].doors.insert(*volume, door);
        }
        Went::On(self.rng.between(2 * MS, 40 * MS))
    }

    fn attach(
        &mut self,
        host: usize,
        guest: usize,
        volumes: &[VolumeId],
        target: &Replica,
        epoch: Epoch,
        fill: Option<FillHow>,
    ) -> bool {
        let to = host_ix(&target.host);
        let export = self.export(epoch, target.boot_id);
        for volume in volumes {
            if !self.linked(host, to) || self.sites[to].served.get(volume) != Some(&export) {
                return false;
            }
            let Some(uid) = self.keeper(host, guest).running.as_ref().map(|running| running.uid) else {
                return false;
            };
            let link = self.number();
            let state = if fill.is_some() { Mirror::Filling } else { Mirror::Ready };
            let Some((missing, file)) = self.missing(host, guest, *volume, to, fill) else { return false };
            let door = self.sites[to].doors.get(volume).copied().unwrap_or_default();
            let mirror = MirrorTo { host: to, export, link, state, door, missing, file };
            if let Some(file) = self.sites[to].files.get_mut(volume).filter(|_| fill.is_some()) {
                file.lost_power = false;
            }
            let Some(machine) = self.sites[host].machines.get_mut(&guest) else { return false };
            machine.mirrors.insert(*volume, mirror);
            if let Some(how) = fill {
                *self.books.fills.entry(how).or_default() += 1;
            }
            if let Some(running) = &mut self.keeper(host, guest).running {
                running.targets.insert(*volume, target.boot_id);
            }
            if fill.is_some() {
                let delay = self.rng.between(20 * MS, 500 * MS);
                self.after(delay, Event::Fill { host, uid, volume: *volume, link });
            }
        }
        true
    }

    fn attach_back(&mut self, host: usize, guest: usize, replica: &Replica, s: &Situation) -> Went {
        let now = self.mono(host);
        let began = *self.keeper(host, guest).live.mirror_back_since.get_or_insert(now);
        let all: Vec<VolumeId> = s.spec.disks.iter().map(|disk| disk.volume).collect();
        if self.attach(host, guest, &all, replica, s.assignment.epoch, None) {
            return Went::On(self.rng.between(MS, 20 * MS));
        }
        if now - began < MIRROR_BACK_WITHIN {
            return Went::Again(MIRROR_BACK_POLL);
        }
        self.keeper(host, guest).live.mirror_back_failed = true;
        Went::Fails(Failure { why: "the old owner's replica is not there".into(), pause: 0, counts: false })
    }

    pub fn detach(&mut self, host: usize, guest: usize, volumes: &[VolumeId]) {
        let Some(machine) = self.sites[host].machines.get(&guest).cloned() else { return };
        self.leave_to_the_kernel(host, &machine, volumes);
        let Some(machine) = self.sites[host].machines.get_mut(&guest) else { return };
        for volume in volumes {
            machine.mirrors.remove(volume);
        }
        let uid = machine.uid;
        // What was held goes on with the local replica alone.
        if let Some(flight) = machine.flight.as_mut().filter(|flight| volumes.contains(&flight.volume)) {
            flight.remote = true;
        }
        if let Some(running) = &mut self.keeper(host, guest).running {
            running.targets.retain(|volume, _| !volumes.contains(volume));
        }
        self.flight_progress(host, guest, uid);
    }

    fn resume(&mut self, host: usize, guest: usize, s: &Situation, arrives: bool) -> Went {
        if !self.session_is_live(host) {
            return soon("the host's session ended meanwhile");
        }
        let Some(uid) = self.sites[host].machines.get(&guest).map(|machine| machine.uid) else {
            return soon("the machine is gone");
        };
        if arrives && !self.open_shared(host, guest, uid) {
            return host_error("another machine has its disks open");
        }
        let mirrored = s.in_sync.values().any(|set| set.members.len() > 1);
        self.bind(host, guest, mirrored || s.spec.is_shared());
        let Some(machine) = self.sites[host].machines.get_mut(&guest) else {
            return soon("the machine is gone");
        };
        machine.stage = Stage::Running;
        self.books.running(uid);
        let keeper = self.keeper(host, guest);
        if arrives {
            keeper.launched_at = Some(s.assignment.epoch);
        } else {
            keeper.exit_before = None;
        }
        self.guest_begins(host, guest, arrives);
        let delay = self.rng.between(MS, 300 * MS);
        self.after(delay, Event::Write { host, uid });
        Went::On(self.rng.between(MS, 5 * MS))
    }

    fn ask_to_stop(&mut self, host: usize, guest: usize) -> Went {
        let now = self.mono(host);
        let delay = self.rng.between(300 * MS, 3 * S);
        let Some(machine) = self.sites[host].machines.get_mut(&guest) else { return Went::On(MS) };
        let uid = machine.uid;
        if machine.shuts_down_at.is_none() {
            machine.shuts_down_at = Some(self.now + delay);
            self.after(delay, Event::ShutDown { host, uid });
        }
        let keeper = self.keeper(host, guest);
        let first = keeper.shutdown_asked_at.map_or(now, |(first, _)| first);
        keeper.shutdown_asked_at = Some((first, now));
        Went::On(MS)
    }

    fn kill(&mut self, host: usize, guest: usize, why: ExitReason) -> Went {
        self.keeper(host, guest).ending = Some(why);
        self.end_machine(host, guest, Gone::ByKeeper(why));
        self.notice_end(host, guest);
        Went::On(self.rng.between(MS, 100 * MS))
    }
}
