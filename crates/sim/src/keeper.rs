//! A host's keeper of one guest: look, ask `plan::converge` for one step, take it, look again. The counterpart of
//! `daemon::agent::keeper` and `daemon::agent::look`; the acts that a step consists of stand in `acts`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv6Addr, SocketAddr};
use std::rc::Rc;

use jiff::SignedDuration;
use model::{
    Assignment, BootId, Epoch, Exit, ExitReason, GuestReport, GuestSpec, GuestState, HandoverKind, HostName,
    InSync, JobId, Liveness, Replica, ReplicaFile, VolumeId,
};
use plan::converge::{
    Authority, MachineFacts, Mirror, MirrorFacts, Peer, PeerFile, Rest, RunElsewhere, Sending, Situation,
    Stage, Step, is_to_stop, next,
};
use plan::limits::{
    AUTHORITY, CONFIRM_AFTER, CONFIRM_EVERY, HOLD_MAX, PROBE_EVERY, PROMISE, PROMISE_MARGIN, RETRY_FIRST,
    RETRY_MAX, WATCHDOG_CONFIRMED,
};

use crate::acts::{Act, acts};
use crate::daemon::local;
use crate::machine::{Ended, Machine};
use crate::mutant::Mutant;
use crate::names::{guest_name, host_ix, host_name};
use crate::request::{Call, CallAnswer, CallKind};
use crate::world::{Event, MS, Mono, S, Time, World, note};

const LOOK_EVERY: Time = S;
const LOOK_CLOSELY_EVERY: Time = 250 * MS;
const LOOK_FOR_HANDOVER_EVERY: Time = 50 * MS;
const LOOK_RARELY_EVERY: Time = 30 * S;
const SETTLE_TIMEOUT: Time = 500 * MS;
/// For how long a guest that was asked to shut down, and then was to go on after all, may still obey.
const SHUTDOWN_COUNTS_FOR: Mono = 600 * S as Mono;
/// How long a call between hosts may take.
const CALL_LIMIT: Time = 700 * MS;
const ASKED_GOOD_FOR: Mono = 5 * S as Mono;
const ASKED_BAD_FOR: Mono = 100 * MS as Mono;
/// What one look takes.
const LOOK_TAKES: Time = MS;

/// A machine of the guest on this host, and what this keeper knows of it.
#[derive(Debug, Clone)]
pub struct Running {
    pub uid: u64,
    /// Which boot each mirror was attached to by this keeper.
    pub targets: BTreeMap<VolumeId, BootId>,
}

/// How the host of a secondary serves, as last asked.
#[derive(Debug, Clone)]
struct AskedPeer {
    boot: BootId,
    epoch: Epoch,
    serves: bool,
    at: Mono,
    last_served: Mono,
    files: BTreeMap<VolumeId, PeerFile>,
}

/// What a keeper remembers of a handover while its guest runs.
#[derive(Debug, Clone, Default)]
pub struct Live {
    pub sending: bool,
    pub sends: u32,
    pub sent_to: Option<SocketAddr>,
    pub gave_up: Option<(JobId, String)>,
    pub arriving_since: Option<Mono>,
    pub mirror_back_failed: bool,
    pub mirror_back_since: Option<Mono>,
    pub maybe_handed_over: bool,
    /// The disks were taken away from the machine, and are to be given back if it stays.
    pub withheld: bool,
}

/// What a keeper is at.
#[derive(Debug, Default)]
pub enum Doing {
    #[default]
    Resting,
    /// It waits for the answers of other hosts.
    Calling(BTreeSet<u64>),
    /// It tries to settle an admission in doubt.
    Settling(Rc<Situation>),
    Acting(Acting),
}

#[derive(Debug)]
pub struct Acting {
    pub acts: VecDeque<Act>,
    pub s: Rc<Situation>,
    /// When the right to run the machine must be looked at again.
    pub deadline: Option<Mono>,
    /// The act that waits for the store.
    pub waits: Option<Act>,
    /// Until its own write has come back through the watch.
    pub awaits: Option<i64>,
    pub tries: u32,
}

#[derive(Debug, Default)]
pub struct Keeper {
    pub tick: u64,
    pub doing: Doing,
    pub running: Option<Running>,
    asked: BTreeMap<usize, AskedPeer>,
    confirmed_until: Option<Mono>,
    confirm_asked_at: Option<Mono>,
    pub confirmed_for_watchdog: Option<Mono>,
    pub maybe_admitted: Option<Replica>,
    pub failures: u32,
    pub failed_at: Option<Mono>,
    pub failure: Option<String>,
    pub shutdown_asked_at: Option<(Mono, Mono)>,
    pub shutdown_taken_back_at: Option<Mono>,
    pub exit_before: Option<Exit>,
    pub launched_at: Option<Epoch>,
    pub ending: Option<ExitReason>,
    pub exit: Option<Exit>,
    pub live: Live,
    pub wish: Option<GuestReport>,
    pub reporting: bool,
}

/// Where a machine waits: its host, and its number for a port.
pub fn address_of(host: usize, uid: u64) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::from(u128::from(uid)), host as u16))
}

pub fn uid_at(address: SocketAddr) -> u64 {
    match address.ip() {
        std::net::IpAddr::V6(ip) => u128::from(ip) as u64,
        std::net::IpAddr::V4(_) => 0,
    }
}

/// How the last run ended that a report tells of, if it goes on no more.
fn end_of_last_run(report: &GuestReport) -> Option<Exit> {
    let told = report.exit.clone();
    let ran = report.boot_generation;
    if told.as_ref().map_or(ran == 0, |exit| exit.boot_generation == ran) {
        return told;
    }
    Some(Exit {
        boot_generation: ran,
        reason: ExitReason::Crashed,
        at: report.since,
        secondary_failed: false,
    })
}

/// The records of one guest.
struct Records {
    spec: GuestSpec,
    assignment: Assignment,
    in_sync: BTreeMap<VolumeId, InSync>,
    former: Option<HostName>,
}

impl World {
    pub fn keeper(&mut self, host: usize, guest: usize) -> &mut Keeper {
        self.daemon(host).keepers.entry(guest).or_default()
    }

    pub fn start_keeper(&mut self, host: usize, guest: usize) {
        // A machine whose disks are withheld is taken for one whose guest has gone.
        if let Some(machine) = self.sites[host].machines.get_mut(&guest).filter(|machine| machine.withheld) {
            machine.stage = Stage::Left;
        }
        let machine = self.sites[host].machines.get(&guest);
        let running = machine
            .map(|m| (m.uid, m.stage == Stage::Left || m.stage == Stage::Running && m.sending.is_some()));
        let name = guest_name(guest);
        let daemon = self.daemon(host);
        let report = daemon.cache.view.guest_reports.get(&name);
        let exit = report.and_then(|report| {
            let here = report.host == host_name(host);
            if !here || running.is_some() { report.exit.clone() } else { end_of_last_run(report) }
        });
        let live = Live { sending: running.is_some_and(|(_, sending)| sending), ..Live::default() };
        let running = running.map(|(uid, _)| Running { uid, targets: BTreeMap::new() });
        daemon.keepers.insert(guest, Keeper { running, exit, live, ..Keeper::default() });
        self.keeper_wakes(host, guest, LOOK_TAKES);
    }

    /// Whatever was to wake the keeper before does so no more.
    pub fn keeper_wakes(&mut self, host: usize, guest: usize, delay: Time) {
        let life = self.daemon(host).life;
        let keeper = self.keeper(host, guest);
        keeper.tick += 1;
        let tick = keeper.tick;
        self.after_local(host, delay, Event::Keep { host, life, guest, tick });
    }

    /// The view has changed; perhaps in something that concerns the guest here.
    pub fn heard_of(&mut self, host: usize, guest: usize, concerns: bool) {
        let revision = self.daemon(host).cache.revision;
        let keeper = self.keeper(host, guest);
        match &mut keeper.doing {
            Doing::Resting if concerns => self.keeper_wakes(host, guest, LOOK_TAKES),
            Doing::Acting(acting) if acting.awaits.is_some_and(|awaited| revision >= awaited) => {
                acting.awaits = None;
                self.keeper_wakes(host, guest, 0);
            }
            Doing::Resting | Doing::Calling(_) | Doing::Settling(_) | Doing::Acting(_) => {}
        }
    }

    /// Something happened to the guest's machine here.
    pub fn machine_event(&mut self, host: usize, guest: usize) {
        let keeps = |daemon: &crate::daemon::Daemon| daemon.keepers.contains_key(&guest);
        if self.sites[host].daemon.as_ref().is_some_and(keeps)
            && matches!(self.keeper(host, guest).doing, Doing::Resting)
        {
            self.keeper_wakes(host, guest, LOOK_TAKES);
        }
    }

    pub fn keep(&mut self, host: usize, guest: usize, tick: u64) {
        if self.daemon(host).keepers.get(&guest).is_none_or(|keeper| keeper.tick != tick) {
            return;
        }
        let now = self.mono(host);
        let keeper = self.keeper(host, guest);
        match &mut keeper.doing {
            Doing::Resting | Doing::Calling(_) => self.look(host, guest),
            Doing::Settling(s) => {
                let s = s.clone();
                self.choose(host, guest, s);
            }
            Doing::Acting(acting) => {
                let late = acting.deadline.is_some_and(|deadline| now >= deadline);
                let waits = acting.waits.is_some();
                if late && keeper.running.is_some() || waits {
                    // Broken off: whatever was begun may still be done.
                    keeper.doing = Doing::Resting;
                    return self.look(host, guest);
                }
                acting.awaits = None;
                self.next_act(host, guest);
            }
        }
    }

    fn records(&self, host: usize, guest: usize) -> Option<Records> {
        let view = &self.sites[host].daemon.as_ref()?.cache.view;
        let name = guest_name(guest);
        let spec = view.guests.get(&name)?.clone();
        let assignment = view.assignments.get(&name).filter(|a| a.guest_id == spec.id)?.clone();
        let set_of = |volume| Some((volume, view.in_sync.get(&volume)?.clone()));
        let in_sync: BTreeMap<VolumeId, InSync> =
            spec.disks.iter().filter_map(|disk| set_of(disk.volume)).collect();
        let mut members = in_sync.values().flat_map(|set| &set.members).map(|replica| &replica.host);
        let other = |h: &&HostName| **h != assignment.host && Some(*h) != assignment.secondary.as_ref();
        let former = members.find(other).filter(|_| !spec.is_shared()).cloned();
        Some(Records { spec, assignment, in_sync, former })
    }

    /// First half of a look: asks other hosts, if that is due.
    fn look(&mut self, host: usize, guest: usize) {
        self.notice_end(host, guest);
        let Some(records) = self.records(host, guest) else {
            self.daemon(host).keepers.remove(&guest);
            self.daemon(host).problems.remove(&guest_name(guest).to_string());
            return;
        };
        let calls = self.calls_due(host, guest, &records);
        if calls.is_empty() {
            return self.look_done(host, guest, records);
        }
        let ids = calls.iter().map(|call| call.id).collect();
        self.keeper(host, guest).doing = Doing::Calling(ids);
        for call in calls {
            self.call(call, CALL_LIMIT);
        }
    }

    fn boot_counted_on(&self, host: usize, records: &Records, peer: &HostName) -> Option<BootId> {
        let view = &self.sites[host].daemon.as_ref()?.cache.view;
        match view.liveness(peer) {
            Liveness::Live(boot) => Some(boot),
            Liveness::Lost => {
                let mut members = records.in_sync.values().flat_map(|set| &set.members);
                members.find(|replica| &replica.host == peer).map(|replica| replica.boot_id)
            }
        }
    }

    fn calls_due(&mut self, host: usize, guest: usize, records: &Records) -> Vec<Call> {
        let Records { spec, assignment, in_sync, former } = records;
        let mut calls = Vec::new();
        if assignment.host != host_name(host) || spec.is_shared() {
            return calls;
        }
        let (now, life) = (self.mono(host), self.daemon(host).life);
        let epoch = assignment.epoch;
        for peer in assignment.secondary.iter().chain(former) {
            let Some(boot) = self.boot_counted_on(host, records, peer) else { continue };
            let keeper = self.keeper(host, guest);
            let again = if keeper.running.is_some() { local(PROBE_EVERY) } else { ASKED_BAD_FOR };
            let known = keeper.asked.get(&host_ix(peer)).filter(|a| a.boot == boot && a.epoch == epoch);
            let due =
                |asked: &AskedPeer| now - asked.at >= if asked.serves { local(PROBE_EVERY) } else { again };
            if known.is_some_and(|asked| !due(asked)) {
                continue;
            }
            let volumes = spec.replicated(assignment).map(|disk| disk.volume).collect();
            let (epoch, boot) = self.export(epoch, boot);
            let kind = CallKind::Serves { epoch, boot, volumes };
            let to = host_ix(peer);
            calls.push(Call { id: self.number(), from: host, life, guest, to, kind, sent_at: now });
        }
        let standing = &self.daemon(host).standing;
        let doubtful = standing.renewed_at.is_none_or(|at| now - at > local(CONFIRM_AFTER));
        let admitted = self.keeper(host, guest).maybe_admitted.is_some();
        let counted_on = admitted || in_sync.values().any(|set| set.members.len() > 1);
        let asks = doubtful && counted_on && !self.has(Mutant::NoConfirmation);
        let keeper = self.keeper(host, guest);
        let due = keeper.confirm_asked_at.is_none_or(|at| now - at >= local(CONFIRM_EVERY));
        if asks && due && keeper.running.is_some() {
            keeper.confirm_asked_at = Some(now);
            if let Some(to) = former.as_ref().or(assignment.secondary.as_ref()).map(host_ix) {
                let kind = CallKind::Promise { epoch };
                calls.push(Call { id: self.number(), from: host, life, guest, to, kind, sent_at: now });
            }
        }
        calls
    }

    /// An answer of another host has come, or none in time.
    pub fn keeper_answered(&mut self, call: &Call, answer: Option<CallAnswer>) {
        let (host, guest) = (call.from, call.guest);
        let now = self.mono(host);
        let Some(keeper) = self.daemon(host).keepers.get_mut(&guest) else { return };
        let Doing::Calling(open) = &mut keeper.doing else { return };
        if !open.remove(&call.id) {
            return;
        }
        let done = open.is_empty();
        match (&call.kind, answer) {
            (CallKind::Serves { .. }, answer) => self.note_asked(call, answer, now),
            (CallKind::Promise { .. }, Some(CallAnswer::Promised(true))) => {
                keeper.confirmed_until = Some(call.sent_at + local(PROMISE) - local(PROMISE_MARGIN));
                keeper.confirmed_for_watchdog = Some(call.sent_at + local(WATCHDOG_CONFIRMED));
            }
            (CallKind::Promise { .. }, Some(_)) => {
                (keeper.confirmed_until, keeper.confirmed_for_watchdog) = (None, None);
            }
            (CallKind::Promise { .. }, None) => {}
        }
        if done {
            self.notice_end(host, guest);
            match self.records(host, guest) {
                Some(records) => self.look_done(host, guest, records),
                None => self.keeper_wakes(host, guest, 0),
            }
        }
    }

    fn note_asked(&mut self, call: &Call, answer: Option<CallAnswer>, now: Mono) {
        let (host, guest) = (call.from, call.guest);
        let Some(records) = self.records(host, guest) else { return };
        let Some(boot) = self.boot_counted_on(host, &records, &host_name(call.to)) else { return };
        let epoch = records.assignment.epoch;
        let keeper = self.keeper(host, guest);
        let same = keeper.asked.get(&call.to).filter(|a| a.boot == boot && a.epoch == epoch).cloned();
        let serves = match &answer {
            Some(CallAnswer::Serves(true, _)) => true,
            // It answers: what it said a moment ago is believed a little longer.
            Some(_) => same.as_ref().is_some_and(|a| a.serves && now - a.at < ASKED_GOOD_FOR),
            None => false,
        };
        let last_served = if serves { now } else { same.as_ref().map_or(now, |asked| asked.last_served) };
        let files = match answer {
            Some(CallAnswer::Serves(true, files)) => files,
            Some(_) | None => same.map(|asked| asked.files).unwrap_or_default(),
        };
        keeper.asked.insert(call.to, AskedPeer { boot, epoch, serves, at: now, last_served, files });
    }

    /// Second half: everything about the guest at this moment.
    fn look_done(&mut self, host: usize, guest: usize, records: Records) {
        let situation = Rc::new(self.situation(host, guest, records));
        if self.keeper(host, guest).maybe_admitted.is_some() && situation.assignment.host == situation.me {
            self.keeper(host, guest).doing = Doing::Settling(situation.clone());
            if self.settle(host, guest, &situation) {
                return self.keeper_wakes(host, guest, SETTLE_TIMEOUT);
            }
        }
        self.keep_records(host, guest, &situation);
        self.choose(host, guest, situation);
    }

    /// Names a step, and begins it.
    pub fn choose(&mut self, host: usize, guest: usize, s: Rc<Situation>) {
        let mut step = next(&s);
        if self.has(Mutant::NoResync) && matches!(step, Step::Attach { .. }) && self.now > 60 * S {
            step = Step::Rest { rest: Rest::Running, until: None };
        }
        self.say(host, guest, &s, &step);
        if let Step::Rest { rest, until } = &step {
            let wait = pause_length(&s, rest, *until);
            self.keeper(host, guest).doing = Doing::Resting;
            return self.keeper_wakes(host, guest, wait);
        }
        note!(
            self,
            "host{} {} (epoch {}): {}",
            host + 1,
            guest_name(guest),
            s.assignment.epoch,
            brief(&step)
        );
        let ends = matches!(step, Step::End { .. });
        let deadline = self.authority_check_due(host, guest).filter(|_| !ends);
        let acts = acts(&step, &s, self.mutant).into();
        let acting = Acting { acts, s, deadline, waits: None, awaits: None, tries: 0 };
        self.keeper(host, guest).doing = Doing::Acting(acting);
        self.keeper_wakes(host, guest, MS / 2);
    }

    fn authority_check_due(&mut self, host: usize, guest: usize) -> Option<Mono> {
        let now = self.mono(host);
        let ends = self.daemon(host).standing.authority_ends();
        let keeper = self.keeper(host, guest);
        keeper.running.as_ref()?;
        let last = ends.into_iter().chain(keeper.confirmed_until).max();
        Some(last.filter(|end| *end > now).unwrap_or(now + local(AUTHORITY)))
    }

    fn not_before(&self, keeper: &Keeper) -> Option<Mono> {
        let pause = RETRY_FIRST * 2u32.saturating_pow(keeper.failures.saturating_sub(1).min(10));
        let at = keeper.failed_at.filter(|_| !self.has(Mutant::NoPause));
        at.map(|at| at + local(pause.min(RETRY_MAX)))
    }

    fn situation(&mut self, host: usize, guest: usize, records: Records) -> Situation {
        let Records { spec, assignment, mut in_sync, former } = records;
        self.learn(host, guest, &assignment);
        self.look_at_handover(host, guest, &assignment);
        self.forget_old_shutdown(host, guest, &spec, &assignment);
        let (now, mono) = (self.wall(host), self.mono(host));
        let at = |when: Mono| now + SignedDuration::from_micros(when - mono);
        let (me, boot) = (host_name(host), self.boot_of(host));
        let owns = assignment.host == me;
        let counted_on_others = in_sync.values().any(|set| set.members.len() > 1);
        self.tell_watchdog_again(host, guest, !owns || counted_on_others || spec.is_shared());
        let daemon = self.sites[host].daemon.as_ref().expect("it looks");
        let (view, keeper) = (&daemon.cache.view, &daemon.keepers[&guest]);
        if let Some(replica) = &keeper.maybe_admitted {
            for set in in_sync.values_mut() {
                set.members.insert(replica.clone());
            }
        }
        let peer = |name: &HostName| {
            let asked = keeper.asked.get(&host_ix(name)).filter(|a| a.epoch == assignment.epoch);
            let gave_up = asked.is_some_and(|a| !a.serves && mono - a.last_served >= local(HOLD_MAX));
            Peer {
                host: name.clone(),
                liveness: view.liveness(name),
                serves: asked.is_some_and(|asked| asked.serves),
                gave_up,
                full: false,
                files: asked.map(|asked| asked.files.clone()).unwrap_or_default(),
            }
        };
        let disks = || spec.disks.iter().map(|disk| disk.volume);
        let (live, short, pool_trouble) = (&keeper.live, BTreeSet::new(), None);
        let peer_of_mine = spec.partner(&assignment).filter(|_| owns).map(peer);
        Situation {
            boot,
            ended_cleanly: self.ended_cleanly(host, guest, &assignment),
            machine: self.machine_facts(host, guest, peer_of_mine.as_ref()),
            files: disks().filter(|volume| self.has_file(host, *volume)).collect(),
            served: self.served(host, disks()),
            dropped: disks().filter(|v| view.drops.contains_key(&(me.clone(), *v))).collect(),
            peer: peer_of_mine,
            former: former.as_ref().filter(|_| owns).map(peer),
            authority: self.authority(host, guest),
            promised_until: daemon.promises.get(&guest).map(|until| at(*until)),
            exit: keeper.exit.as_ref().map(|exit| (exit.boot_generation, exit.reason)),
            not_before: self.not_before(keeper).map(at),
            starts_after: None,
            shutdown_asked_at: keeper.shutdown_asked_at.map(|(first, last)| (at(first), at(last))),
            elsewhere: self.elsewhere(host, &assignment),
            incoming: self.incoming(host, &assignment),
            sent_to: live.sent_to,
            sends: live.sends,
            gave_up_sending: live.gave_up.as_ref().map(|(job, _)| *job),
            arriving_since: live.arriving_since.map(at),
            mirror_back_failed: live.mirror_back_failed,
            short,
            pool_trouble,
            filled_in_vain: BTreeSet::new(),
            no_fill_before: None,
            has_room: true,
            reset: None,
            deaf: false,
            now,
            me,
            in_sync,
            spec,
            assignment,
        }
    }

    /// Which of these volumes the host serves, and for which epoch in this boot.
    fn served(
        &self,
        host: usize,
        volumes: impl Iterator<Item = VolumeId>,
    ) -> BTreeMap<VolumeId, Option<Epoch>> {
        let (site, boot) = (&self.sites[host], self.boot_of(host));
        let served = |volume: VolumeId| {
            let export = site.served.get(&volume)?;
            Some((volume, (*export == self.export(export.0, boot)).then_some(export.0)))
        };
        volumes.filter_map(served).collect()
    }

    fn authority(&self, host: usize, guest: usize) -> Authority {
        let now = self.mono(host);
        let daemon = self.sites[host].daemon.as_ref().expect("it looks");
        if self.session_is_live(host) {
            Authority::Session
        } else if daemon.keepers[&guest].confirmed_until.is_some_and(|until| now < until) {
            Authority::Confirmed
        } else {
            Authority::None
        }
    }

    fn machine_facts(&self, host: usize, guest: usize, peer: Option<&Peer>) -> Option<MachineFacts> {
        let site = &self.sites[host];
        let keeper = &site.daemon.as_ref()?.keepers[&guest];
        let running = keeper.running.as_ref()?;
        let machine = site.machines.get(&guest).filter(|machine| machine.uid == running.uid)?;
        let early = self.has(Mutant::AdmitEarly);
        let mirrors = machine.mirrors.iter().map(|(volume, mirror)| {
            let state = if early && mirror.state == Mirror::Filling { Mirror::Ready } else { mirror.state };
            (*volume, MirrorFacts { state, target_boot: running.targets.get(volume).copied() })
        });
        let sending = machine.sending.as_ref().filter(|_| keeper.live.sending);
        Some(MachineFacts {
            epoch: machine.epoch,
            boot_generation: machine.generation,
            stage: machine.stage,
            mirrors: mirrors.collect(),
            records: self.recorded(machine, peer),
            no_room: false,
            withheld: keeper.live.withheld && machine.stage == Stage::Running,
            sending: sending.map(|sending| Sending {
                phase: sending.phase.clone(),
                iteration: 1,
                remaining: 0,
                dirty_rate: 0,
                throughput: 0,
                downtime_limit_ms: 500,
                post_copy: false,
            }),
        })
    }

    /// What a resync may leave out, as the machine tells.
    fn recorded(&self, machine: &Machine, peer: Option<&Peer>) -> BTreeMap<VolumeId, ReplicaFile> {
        let any = peer.filter(|_| self.has(Mutant::RecordOfAnyFile));
        let said = |volume: &VolumeId, told: &ReplicaFile| {
            let theirs = any.and_then(|peer| peer.files.get(volume));
            theirs.map_or(told.clone(), |theirs| ReplicaFile { file: theirs.file.clone(), ..told.clone() })
        };
        machine.records.iter().map(|(volume, record)| (*volume, said(volume, &record.replica))).collect()
    }

    /// A new owner learns from the last one's report how the last run ended, until it has begun one of its own.
    fn learn(&mut self, host: usize, guest: usize, assignment: &Assignment) {
        let me = host_name(host);
        let report = self.daemon(host).cache.view.guest_reports.get(&assignment.guest).cloned();
        let keeper = self.keeper(host, guest);
        let ran_here = keeper.launched_at == Some(assignment.epoch) || keeper.running.is_some();
        if assignment.host == me
            && !ran_here
            && let Some(report) = report.filter(|r| r.host != me && r.epoch < assignment.epoch)
        {
            keeper.exit = end_of_last_run(&report);
        }
    }

    fn look_at_handover(&mut self, host: usize, guest: usize, assignment: &Assignment) {
        let now = self.mono(host);
        let stage = self.sites[host].machines.get(&guest).map(|machine| machine.stage);
        let owns = assignment.host == host_name(host);
        let keeper = self.keeper(host, guest);
        let stage = stage.filter(|_| keeper.running.is_some());
        let arriving = matches!(stage, Some(Stage::Incoming | Stage::Arrived));
        let live = assignment.handover.as_ref().is_some_and(|h| h.how == HandoverKind::Live);
        if owns && !live && !keeper.live.sending && !arriving {
            keeper.live = Live::default();
        }
        if arriving && owns && keeper.live.arriving_since.is_none() {
            keeper.live.arriving_since = Some(now);
        }
        if stage != Some(Stage::Incoming) && self.daemon(host).incoming.remove(&guest).is_some() {
            self.tell_of_host(host);
        }
    }

    fn forget_old_shutdown(&mut self, host: usize, guest: usize, spec: &GuestSpec, assignment: &Assignment) {
        let generation = self.sites[host].machines.get(&guest).map(|machine| machine.generation);
        let keeper = self.keeper(host, guest);
        if let Some(generation) = generation.filter(|_| keeper.running.is_some())
            && !is_to_stop(spec, assignment, generation)
            && let Some((_, last)) = keeper.shutdown_asked_at.take()
        {
            keeper.shutdown_taken_back_at = Some(last);
        }
    }

    fn ended_cleanly(&self, host: usize, guest: usize, assignment: &Assignment) -> bool {
        if self.has(Mutant::AlwaysClean) {
            return true;
        }
        let daemon = self.sites[host].daemon.as_ref().expect("it looks");
        let keeper = &daemon.keepers[&guest];
        let (me, boot) = (host_name(host), self.boot_of(host));
        let by_this_host = |r: &GuestReport| r.epoch == assignment.epoch && r.host == me && r.boot_id == boot;
        let by_who_handed_over = |r: &GuestReport| {
            keeper.launched_at != Some(assignment.epoch)
                && r.epoch.next() == assignment.epoch
                && assignment
                    .handed_over_by
                    .as_ref()
                    .is_some_and(|old| old.host == r.host && old.boot_id == r.boot_id)
        };
        let report = daemon.cache.view.guest_reports.get(&assignment.guest);
        report.filter(|r| by_this_host(r) || by_who_handed_over(r)).is_some_and(|report| {
            let exit = keeper.exit.as_ref();
            exit.is_some_and(|exit| exit.boot_generation == report.boot_generation && exit.is_clean())
        })
    }

    fn elsewhere(&self, host: usize, assignment: &Assignment) -> Option<RunElsewhere> {
        let view = &self.sites[host].daemon.as_ref()?.cache.view;
        if assignment.host == host_name(host) {
            return None;
        }
        let report = view.guest_reports.get(&assignment.guest)?;
        let runs = report.host == assignment.host
            && report.epoch == assignment.epoch
            && report.state == GuestState::Running;
        runs.then(|| RunElsewhere {
            machine_type: "q35".into(),
            boot_generation: report.boot_generation,
            cpu: model::CpuModel::Tcg,
        })
    }

    /// Where the machine waits that the guest is to be sent to, by its host's word.
    fn incoming(&self, host: usize, assignment: &Assignment) -> Option<SocketAddr> {
        let handover = assignment.handover.as_ref().filter(|h| h.how == HandoverKind::Live)?;
        let daemon = self.sites[host].daemon.as_ref()?;
        let waits = |incoming: &&model::Incoming| {
            incoming.guest_id == assignment.guest_id && incoming.epoch == assignment.epoch.next()
        };
        if handover.to == host_name(host) {
            return daemon.incoming.values().find(waits).map(|incoming| incoming.address);
        }
        let view = &daemon.cache.view;
        let report = view.host_reports.get(&handover.to)?;
        let live = view.liveness(&handover.to) == Liveness::Live(report.boot_id);
        report.incoming.iter().filter(|_| live).find(waits).map(|incoming| incoming.address)
    }

    /// Takes note of a machine that is gone.
    pub fn notice_end(&mut self, host: usize, guest: usize) {
        let (now, wall) = (self.mono(host), self.wall(host));
        let uid = self.keeper(host, guest).running.as_ref().map(|running| running.uid);
        let Some(uid) = uid else { return };
        let Some((ended, failed)) = self.daemon(host).ends.remove(&uid) else { return };
        let (generation, stage) = self.books.machine(uid);
        let keeper = self.keeper(host, guest);
        keeper.running = None;
        keeper.live.sending = false;
        if matches!(stage, Stage::Incoming | Stage::Arrived) {
            if keeper.ending.take().is_none() {
                keeper.failures += 1;
                keeper.failed_at = Some(now);
            }
            if self.daemon(host).incoming.remove(&guest).is_some() {
                self.tell_of_host(host);
            }
            return;
        }
        let taken_back = keeper.shutdown_taken_back_at.take();
        let asked = keeper.shutdown_asked_at.take().is_some()
            || taken_back.is_some_and(|at| now - at < SHUTDOWN_COUNTS_FOR);
        let reason = match (keeper.ending.take(), ended) {
            (Some(why), _) => why,
            (None, Ended::GuestShutdown) if asked => ExitReason::Stopped,
            (None, Ended::GuestShutdown) => ExitReason::GuestShutdown,
            (None, Ended::Overdue) => ExitReason::Disowned,
            (None, Ended::Died) => ExitReason::Crashed,
        };
        if reason == ExitReason::Crashed {
            keeper.failures += 1;
            keeper.failed_at = Some(now);
            keeper.failure = Some("its QEMU died; see its log".into());
        }
        let exit = Exit { boot_generation: generation, reason, at: wall, secondary_failed: failed };
        keeper.exit = Some(keeper.exit_before.take().unwrap_or(exit));
    }
}

fn pause_length(s: &Situation, rest: &Rest, until: Option<jiff::Timestamp>) -> Time {
    let until = until.map_or(Time::MAX, |at| at.duration_since(s.now).as_micros().max(0) as Time);
    let filling = |m: &MachineFacts| m.mirrors.values().any(|f| f.state == Mirror::Filling);
    let doubtful = s.authority != Authority::Session || s.machine.as_ref().is_some_and(filling);
    let runs = s.machine.as_ref().is_some_and(|machine| machine.stage == Stage::Running);
    let on_its_way = s.machine.as_ref().is_some_and(|m| m.sending.is_some() || m.stage != Stage::Running);
    let look = match rest {
        Rest::Waiting(_) if s.assignment.handed_over_by.is_some() && !runs => LOOK_FOR_HANDOVER_EVERY,
        _ if on_its_way => LOOK_CLOSELY_EVERY,
        Rest::Idle if !s.served.is_empty() => LOOK_EVERY,
        Rest::Deleted | Rest::Stopped | Rest::Idle | Rest::Stuck(_) => LOOK_RARELY_EVERY,
        Rest::Running | Rest::Stopping | Rest::Waiting(_) if doubtful => LOOK_CLOSELY_EVERY,
        Rest::Running | Rest::Stopping | Rest::Waiting(_) => LOOK_EVERY,
    };
    until.min(look)
}

/// A step without what it carries.
fn brief(step: &Step) -> String {
    let text = format!("{step:?}");
    let mut short: String = text.chars().take(100).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
