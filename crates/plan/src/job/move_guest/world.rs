//! A small world that a move happens in: hosts with one volume each, machines that write numbered records, keepers
//! that follow `converge`, a leader that follows `decide` and the job. One tick is a second. Every step of a keeper
//! is cut into the acts that it consists of, one for each tick, so that a fault can come between any two of them.
//!
//! What must never be wrong is asserted when it happens: a machine starts on a replica that lacks an acknowledged
//! record, two machines of one epoch, a mirror attached without a copy between replicas that differ.

use std::collections::{BTreeMap, VecDeque};

use jiff::{SignedDuration, Timestamp};
use model::{
    Assignment, BootId, ClusterView, Epoch, Exit, ExitReason, GuestReport, GuestSpec, GuestState, HostName,
    InSync, JobKind, JobReport, JobSpec, Liveness, Pool, Replica, VolumeId, VolumeReport, VolumeState,
};

use crate::converge::{Authority, MachineFacts, Mirror, MirrorFacts, Peer, Rest, Situation, Step, next};
use crate::decide::{Change, decide};
use crate::fixture;
use crate::job::{Effect, RestsOn, advance};

/// How many ticks a session outlives its host.
const SESSION_TICKS: u32 = 5;
/// How many ticks a host is given to serve.
const HOLD_TICKS: u32 = 5;
const FILL_TICKS: u32 = 6;
const SHUTDOWN_TICKS: u32 = 2;
/// For how long a host without power, and a daemon that was killed, are gone.
const POWER_TICKS: u32 = 40;
const DAEMON_TICKS: u32 = 3;

/// A replica: the last record that it holds. What was not flushed is lost with the host's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Disk {
    whole: bool,
    cached: u64,
    stable: u64,
}

#[derive(Debug, Clone)]
struct MirrorTo {
    host: HostName,
    epoch: Epoch,
    boot: BootId,
    /// Ticks until it is filled.
    missing: u32,
}

#[derive(Debug, Clone)]
struct Qemu {
    epoch: Epoch,
    generation: u64,
    resumed: bool,
    mirror: Option<MirrorTo>,
    /// A write that the local disk has, and that is acknowledged to nobody.
    in_flight: bool,
    shuts_down_in: Option<u32>,
}

/// What a keeper remembers, and loses with its daemon.
#[derive(Debug, Clone, Default)]
struct Keeper {
    acts: VecDeque<Act>,
    exit: Option<Exit>,
    exit_before: Option<Exit>,
    launched_at: Option<Epoch>,
    asked: bool,
    target_boot: Option<BootId>,
    unserved: BTreeMap<(HostName, Epoch), u32>,
    failures: u32,
}

#[derive(Debug, Clone)]
struct Site {
    /// Ticks until it has power again; 0: it has.
    dark: u32,
    lost_for: u32,
    daemon_out: u32,
    boot: u32,
    disk: Option<Disk>,
    served: Option<(Epoch, BootId)>,
    machine: Option<Qemu>,
    /// No machine can be started here.
    pub broken: bool,
    keeper: Keeper,
}

/// A part of a step.
#[derive(Debug, Clone)]
enum Act {
    Withdraw,
    Flush,
    Record(Vec<Replica>),
    SayStarting,
    Launch,
    AttachSame(Replica),
    Resume,
    Ask,
    Kill(ExitReason),
    Attach(Replica),
    Detach,
    Make,
    Serve,
    Delete,
    ForgetDrop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    PowerOff,
    DaemonDies,
    /// The machine there, if there is one, ends in the middle of whatever it does.
    MachineDies,
    /// No machine can be started there from now on.
    CannotStart,
    /// Nobody leads for a while.
    NoLeader,
}

pub struct World {
    pub view: ClusterView,
    pub job: JobSpec,
    sites: BTreeMap<HostName, Site>,
    acknowledged: u64,
    leaderless: u32,
    tick: u32,
    pub story: Vec<String>,
}

fn guest() -> model::GuestName {
    fixture::guest("a", Pool::Mirror).name
}

fn volume() -> VolumeId {
    fixture::volume("a")
}

impl World {
    /// Guest `a` on host1, mirrored to host2, host3 empty; and the move.
    pub fn new(to: model::GuestPlace) -> World {
        let mut view = fixture::cluster(3);
        fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        let kind = JobKind::MoveGuest { guest: guest(), to };
        let job = JobSpec {
            id: model::JobId(uuid::Uuid::nil()),
            kind,
            created_at: Timestamp::UNIX_EPOCH,
            requested_by: "admin".into(),
            runner: None,
            cancel: false,
        };
        view.jobs.insert(job.id, job.clone());
        let disk = Disk { whole: true, cached: 1, stable: 1 };
        let site = |name: &HostName| Site {
            dark: 0,
            lost_for: 0,
            daemon_out: 0,
            boot: 1,
            disk: (name.as_str() != "host3").then_some(disk),
            served: (name.as_str() == "host2").then(|| (Epoch::FIRST, fixture::boot("host2", 1))),
            machine: None,
            broken: false,
            keeper: Keeper::default(),
        };
        let mut sites: BTreeMap<HostName, Site> = view.hosts.keys().map(|h| (h.clone(), site(h))).collect();
        let owner = sites.get_mut(&fixture::host("host1")).unwrap();
        let boot = fixture::boot("host2", 1);
        let mirror = MirrorTo { host: fixture::host("host2"), epoch: Epoch::FIRST, boot, missing: 0 };
        owner.keeper.target_boot = Some(boot);
        owner.keeper.launched_at = Some(Epoch::FIRST);
        owner.machine = Some(Qemu {
            epoch: Epoch::FIRST,
            generation: 1,
            resumed: true,
            mirror: Some(mirror),
            in_flight: false,
            shuts_down_in: None,
        });
        World { view, job, sites, acknowledged: 1, leaderless: 0, tick: 0, story: vec![] }
    }

    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(i64::from(self.tick))
    }

    fn note(&mut self, text: impl std::fmt::Display) {
        self.story.push(format!("{:3} {text}", self.tick));
    }

    pub fn spec(&self) -> &GuestSpec {
        &self.view.guests[&guest()]
    }

    pub fn assignment(&self) -> &Assignment {
        &self.view.assignments[&guest()]
    }

    pub fn report(&self) -> Option<&JobReport> {
        self.view.job_reports.get(&self.job.id)
    }

    pub fn is_over(&self) -> bool {
        self.report().is_some_and(|report| report.state.is_terminal())
    }

    pub fn ticks(&self) -> u32 {
        self.tick
    }

    /// The last record that the guest was told was safe.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Hosts that have a file of the volume.
    pub fn holders(&self) -> Vec<&str> {
        self.sites.iter().filter(|(_, site)| site.disk.is_some()).map(|(name, _)| name.as_str()).collect()
    }

    pub fn strike(&mut self, fault: Fault, host: &HostName) {
        self.note(format!("{fault:?} {host}"));
        let site = self.sites.get_mut(host).unwrap();
        match fault {
            Fault::CannotStart => site.broken = true,
            Fault::NoLeader => self.leaderless = POWER_TICKS,
            Fault::DaemonDies => {
                site.daemon_out = DAEMON_TICKS;
                site.keeper = Keeper::default();
            }
            Fault::MachineDies => self.kill(host, ExitReason::Crashed),
            Fault::PowerOff => {
                site.dark = POWER_TICKS;
                site.keeper = Keeper::default();
                (site.machine, site.served) = (None, None);
                if let Some(disk) = &mut site.disk {
                    disk.cached = disk.stable;
                }
            }
        }
    }

    pub fn tick(&mut self) {
        self.tick += 1;
        let names: Vec<HostName> = self.sites.keys().cloned().collect();
        for name in &names {
            self.live(name);
            self.run_machine(name);
        }
        for name in &names {
            let site = &self.sites[name];
            if site.dark == 0 && site.daemon_out == 0 {
                self.keep(name);
            }
        }
        self.leaderless = self.leaderless.saturating_sub(1);
        if self.leaderless == 0 {
            self.lead();
        }
    }

    /// Power, sessions, daemons.
    fn live(&mut self, name: &HostName) {
        let site = self.sites.get_mut(name).unwrap();
        site.daemon_out = site.daemon_out.saturating_sub(1);
        if site.dark > 0 {
            site.dark -= 1;
            site.lost_for += 1;
            if site.dark == 0 {
                (site.boot, site.lost_for) = (site.boot + 1, 0);
                let count = site.boot;
                fixture::power_on(&mut self.view, name.as_str(), count);
                self.note(format!("{name} is back"));
            } else if site.lost_for == SESSION_TICKS {
                fixture::power_off(&mut self.view, name.as_str());
                self.note(format!("{name} is lost"));
            }
        }
        if let Some(site) = self.sites.get_mut(name)
            && site.dark == 0
            && site.daemon_out == 0
            && site.keeper.exit.is_none()
            && site.machine.is_none()
            && site.keeper.launched_at.is_none()
        {
            // A keeper that begins: what the report says of this host's last run.
            let report = self.view.guest_reports.get(&guest()).filter(|report| &report.host == name);
            site.keeper.exit = report.and_then(end_of_last_run);
        }
    }

    /// Whether a host takes writes under that name.
    fn serves(&self, host: &HostName, epoch: Epoch, boot: BootId) -> bool {
        self.sites.get(host).is_some_and(|site| site.dark == 0 && site.served == Some((epoch, boot)))
    }

    /// A machine writes one record, fills its mirror a little, or goes down.
    fn run_machine(&mut self, name: &HostName) {
        let Some(mut machine) = self.sites[name].machine.clone().filter(|machine| machine.resumed) else {
            return;
        };
        if let Some(left) = machine.shuts_down_in {
            // A guest whose writes are held cannot shut down.
            if left == 0 && !machine.in_flight {
                let exit =
                    Exit { boot_generation: machine.generation, reason: ExitReason::Stopped, at: self.now() };
                let site = self.sites.get_mut(name).unwrap();
                site.machine = None;
                if site.daemon_out == 0 {
                    site.keeper.exit = Some(exit);
                }
                return;
            }
            machine.shuts_down_in = Some(left.saturating_sub(1));
        }
        let reachable =
            machine.mirror.as_ref().map(|m| (m.host.clone(), self.serves(&m.host, m.epoch, m.boot)));
        let disk = self.sites.get_mut(name).unwrap().disk.as_mut().expect("a machine has a disk");
        // The local disk has a write one tick before the target has it.
        if !machine.in_flight {
            if machine.shuts_down_in != Some(0) {
                disk.cached += 1;
                disk.stable = disk.cached;
                machine.in_flight = true;
            }
            self.sites.get_mut(name).unwrap().machine = Some(machine);
            return;
        }
        let local = disk.cached;
        match (&mut machine.mirror, reachable) {
            (None, _) => machine.in_flight = false,
            (Some(mirror), Some((target, true))) => {
                machine.in_flight = false;
                mirror.missing = mirror.missing.saturating_sub(1);
                let disk =
                    self.sites.get_mut(&target).unwrap().disk.as_mut().expect("what is served has a file");
                if mirror.missing == 0 {
                    disk.whole = true;
                }
                disk.cached = local;
            }
            // Held.
            (Some(_), _) => {}
        }
        if !machine.in_flight {
            self.acknowledged = self.acknowledged.max(local);
        }
        self.sites.get_mut(name).unwrap().machine = Some(machine);
    }

    fn keep(&mut self, name: &HostName) {
        let act = self.sites.get_mut(name).unwrap().keeper.acts.pop_front();
        if let Some(act) = act {
            let said = format!("{name}: {act:?}");
            let went_on = self.act(name, act);
            self.note(if went_on { said } else { format!("{said}: broken off") });
            if !went_on {
                self.sites.get_mut(name).unwrap().keeper.acts.clear();
            }
            return;
        }
        let situation = self.situation(name);
        let step = next(&situation);
        self.say(name, &situation, &step);
        let acts = acts(&step, &situation);
        self.sites.get_mut(name).unwrap().keeper.acts = acts.into();
    }

    fn peer(&mut self, name: &HostName, host: &HostName) -> Peer {
        let epoch = self.assignment().epoch;
        let liveness = self.view.liveness(host);
        let recorded = self.view.in_sync[&volume()].members.iter().find(|replica| &replica.host == host);
        let boot = match liveness {
            Liveness::Live(boot) => Some(boot),
            Liveness::Lost => recorded.map(|replica| replica.boot_id),
        };
        let serves = boot.is_some_and(|boot| self.serves(host, epoch, boot));
        let keeper = &mut self.sites.get_mut(name).unwrap().keeper;
        let unserved = keeper.unserved.entry((host.clone(), epoch)).or_default();
        *unserved = if serves { 0 } else { *unserved + 1 };
        Peer { host: host.clone(), liveness, serves, gave_up: *unserved > HOLD_TICKS }
    }

    fn situation(&mut self, name: &HostName) -> Situation {
        let (spec, assignment) = (self.spec().clone(), self.assignment().clone());
        let report = self.view.guest_reports.get(&guest()).cloned();
        self.learn(name, &assignment, report.as_ref());
        let set = self.view.in_sync[&volume()].clone();
        let owns = &assignment.host == name;
        let peer = assignment.secondary.clone().filter(|_| owns).map(|host| self.peer(name, &host));
        let former = set
            .members
            .iter()
            .map(|replica| replica.host.clone())
            .find(|host| owns && host != name && Some(host) != assignment.secondary.as_ref());
        let former = former.map(|host| self.peer(name, &host));
        let live = self.view.is_live(name);
        let drop = self.view.drops.contains_key(&(name.clone(), volume()));
        let site = &self.sites[name];
        let boot = fixture::boot(name.as_str(), site.boot);
        let cleanly = |report: &GuestReport| {
            let own = report.epoch == assignment.epoch && &report.host == name && report.boot_id == boot;
            let given = site.keeper.launched_at != Some(assignment.epoch)
                && report.epoch.next() == assignment.epoch
                && assignment
                    .handed_over_by
                    .as_ref()
                    .is_some_and(|old| old.host == report.host && old.boot_id == report.boot_id);
            let exit = site.keeper.exit.as_ref();
            (own || given)
                && exit.is_some_and(|exit| {
                    exit.boot_generation == report.boot_generation && exit.reason == ExitReason::Stopped
                })
        };
        Situation {
            me: name.clone(),
            boot,
            ended_cleanly: report.as_ref().is_some_and(cleanly),
            in_sync: [(volume(), set)].into(),
            machine: site.machine.as_ref().map(|machine| facts(machine, site.keeper.target_boot, self)),
            files: site.disk.iter().map(|_| volume()).collect(),
            served: site
                .served
                .iter()
                .map(|(epoch, served)| (volume(), (*served == boot).then_some(*epoch)))
                .collect(),
            dropped: drop.then(volume).into_iter().collect(),
            peer,
            former,
            authority: if live { Authority::Session } else { Authority::None },
            promised_until: None,
            exit: site.keeper.exit.as_ref().map(|exit| (exit.boot_generation, exit.reason)),
            not_before: None,
            shutdown_asked_at: site.keeper.asked.then_some((self.now(), self.now())),
            now: self.now(),
            spec,
            assignment,
        }
    }

    /// As the daemon's keeper does: a new owner learns how the last run ended.
    fn learn(&mut self, name: &HostName, assignment: &Assignment, report: Option<&GuestReport>) {
        let site = self.sites.get_mut(name).unwrap();
        let ran_here = site.keeper.launched_at == Some(assignment.epoch) || site.machine.is_some();
        if &assignment.host == name
            && !ran_here
            && let Some(report) = report.filter(|r| &r.host != name && r.epoch < assignment.epoch)
        {
            site.keeper.exit = end_of_last_run(report);
        }
    }

    fn say(&mut self, name: &HostName, s: &Situation, step: &Step) {
        if &s.assignment.host != name {
            return;
        }
        #[expect(clippy::wildcard_enum_match_arm, reason = "what else is done depends on the machine alone")]
        let state = match step {
            Step::Rest { rest: Rest::Stopped, .. } => GuestState::Stopped,
            Step::Rest { rest: Rest::Stuck(what), .. } => panic!("{name} is stuck: {what}"),
            Step::Shutdown | Step::Rest { rest: Rest::Stopping, .. } | Step::End { .. } => {
                GuestState::Stopping
            }
            _ if s.machine.is_some() => GuestState::Running,
            _ if self.sites[name].keeper.failures >= 3 => GuestState::Failed,
            _ => GuestState::Preparing,
        };
        let volumes = s.machine.iter().map(|machine| {
            let mirrored = machine.mirrors.contains_key(&volume());
            let both = s.in_sync[&volume()].members.len() > 1;
            let state = match (mirrored, both) {
                (true, true) => VolumeState::Mirroring,
                (true, false) => VolumeState::Syncing,
                (false, _) => VolumeState::Alone,
            };
            VolumeReport { volume: volume(), state, fill: None }
        });
        let exit = self.sites[name].keeper.exit.clone();
        let generation = s.machine.as_ref().map(|machine| machine.boot_generation);
        let report = GuestReport {
            host: name.clone(),
            boot_id: s.boot,
            epoch: s.assignment.epoch,
            boot_generation: generation
                .or(exit.as_ref().map(|exit| exit.boot_generation))
                .unwrap_or_default(),
            since: s.now,
            volumes: volumes.collect(),
            exit,
            ..fixture::report(&s.assignment, state)
        };
        self.view.guest_reports.insert(guest(), report);
    }

    /// One act. `false`: the step is broken off, and chosen anew.
    fn act(&mut self, name: &HostName, act: Act) -> bool {
        let assignment = self.assignment().clone();
        let owns = &assignment.host == name && self.view.is_live(name);
        let boot = fixture::boot(name.as_str(), self.sites[name].boot);
        match act {
            Act::Record(members) => {
                if !owns {
                    return false;
                }
                let members = members.into_iter().collect();
                self.view
                    .in_sync
                    .insert(volume(), InSync { volume: volume(), epoch: assignment.epoch, members });
            }
            Act::SayStarting => return owns && self.say_starting(name, boot, &assignment),
            Act::Launch => return self.launch(name, &assignment),
            Act::AttachSame(replica) => return self.attach(name, &replica, assignment.epoch, 0),
            Act::Attach(replica) => return self.attach(name, &replica, assignment.epoch, FILL_TICKS),
            Act::Resume => {
                if !self.view.is_live(name) {
                    return false;
                }
                let Some(machine) = &mut self.site(name).machine else { return false };
                machine.resumed = true;
            }
            Act::ForgetDrop => {
                self.view.drops.remove(&(name.clone(), volume()));
            }
            Act::Withdraw => self.site(name).served = None,
            Act::Flush => {
                let disk = self.site(name).disk.as_mut().unwrap();
                disk.stable = disk.cached;
            }
            Act::Ask => {
                let site = self.site(name);
                site.keeper.asked = true;
                if let Some(machine) = &mut site.machine {
                    machine.shuts_down_in.get_or_insert(SHUTDOWN_TICKS);
                }
            }
            Act::Kill(reason) => self.kill(name, reason),
            Act::Detach => {
                let site = self.site(name);
                site.keeper.target_boot = None;
                if let Some(machine) = &mut site.machine {
                    machine.mirror = None;
                }
            }
            Act::Make => self.site(name).disk = Some(Disk { whole: false, cached: 0, stable: 0 }),
            Act::Serve => self.site(name).served = Some((assignment.epoch, boot)),
            Act::Delete => {
                assert!(self.sites[name].served.is_none(), "{name} deletes a file that it serves");
                self.site(name).disk = None;
            }
        }
        true
    }

    fn site(&mut self, name: &HostName) -> &mut Site {
        self.sites.get_mut(name).unwrap()
    }

    fn say_starting(&mut self, name: &HostName, boot: BootId, assignment: &Assignment) -> bool {
        let generation = self.spec().boot_generation;
        let site = self.site(name);
        site.keeper.exit_before = site.keeper.exit.clone();
        site.keeper.exit = site.keeper.exit.take().filter(|exit| exit.boot_generation != generation);
        site.keeper.launched_at = Some(assignment.epoch);
        site.keeper.asked = false;
        let exit = site.keeper.exit.clone();
        let report = GuestReport { boot_id: boot, exit, ..fixture::report(assignment, GuestState::Starting) };
        self.view.guest_reports.insert(guest(), report);
        true
    }

    fn launch(&mut self, name: &HostName, assignment: &Assignment) -> bool {
        let epoch = assignment.epoch;
        let twin = self.sites.values().any(|site| site.machine.as_ref().is_some_and(|m| m.epoch == epoch));
        assert!(!twin, "{name} starts a second machine at epoch {epoch}");
        let acknowledged = self.acknowledged;
        let generation = self.spec().boot_generation;
        let site = self.site(name);
        if site.broken {
            // It never ran, so the run before it is still the last one.
            site.keeper.failures += 1;
            site.keeper.exit = site.keeper.exit_before.take();
            return false;
        }
        site.keeper.exit_before = None;
        let disk = site.disk.expect("a machine needs a disk");
        assert!(site.served.is_none(), "{name} starts on a replica that it serves");
        assert!(
            disk.whole && disk.cached >= acknowledged,
            "{name} starts on {disk:?}, {acknowledged} is safe"
        );
        let machine =
            Qemu { epoch, generation, resumed: false, mirror: None, in_flight: false, shuts_down_in: None };
        site.machine = Some(machine);
        true
    }

    fn attach(&mut self, name: &HostName, replica: &Replica, epoch: Epoch, missing: u32) -> bool {
        if !self.serves(&replica.host, epoch, replica.boot_id) {
            return false;
        }
        let (local, remote) = (self.sites[name].disk, self.sites[&replica.host].disk);
        let (local, remote) = (local.unwrap(), remote.unwrap());
        if missing == 0 {
            assert!(
                remote.whole && remote.cached == local.cached,
                "{local:?} and {remote:?} are not the same"
            );
        } else {
            self.site(&replica.host).disk.as_mut().unwrap().whole = false;
        }
        let mirror = MirrorTo { host: replica.host.clone(), epoch, boot: replica.boot_id, missing };
        let site = self.site(name);
        site.keeper.target_boot = Some(replica.boot_id);
        if let Some(machine) = &mut site.machine {
            machine.mirror = Some(mirror);
        }
        true
    }

    fn kill(&mut self, name: &HostName, reason: ExitReason) {
        let at = self.now();
        let site = self.site(name);
        if let Some(machine) = site.machine.take()
            && site.daemon_out == 0
        {
            site.keeper.exit = Some(Exit { boot_generation: machine.generation, reason, at });
        }
    }

    fn lead(&mut self) {
        let now = self.now();
        let decision = decide(&self.view, now, now);
        for change in decision.changes {
            let (Change::Assign { to } | Change::Promote { to, .. }) = change;
            self.note(format!("decided: {} owns it at epoch {}", to.host, to.epoch));
            self.view.assignments.insert(guest(), to);
        }
        let job = self.view.jobs[&self.job.id].clone();
        let Some((report, effects)) = advance(&self.view, &job, self.view.job_reports.get(&job.id), now)
        else {
            return;
        };
        // A transaction that rests on a session which is gone does nothing.
        let void = effects.iter().any(
            |effect| matches!(effect, Effect::Compare(RestsOn::Session(host)) if !self.view.is_live(host)),
        );
        if void {
            return;
        }
        let step = report.steps.iter().find(|step| step.note.is_some());
        let note = step.map(|step| format!("{}: {}", step.name, step.note.as_deref().unwrap_or_default()));
        self.note(format!("job {}: {}", report.state, note.or(report.error.clone()).unwrap_or_default()));
        self.view.job_reports.insert(job.id, report);
        for effect in effects {
            match effect {
                Effect::Reassign(to) => {
                    self.view.assignments.insert(guest(), to);
                }
                Effect::DropReplica(drop) => {
                    self.view.drops.insert((drop.host.clone(), drop.volume), drop);
                }
                Effect::Tell { message, .. } => self.note(message),
                Effect::Compare(_) | Effect::MarkDeleting { .. } | Effect::Forget { .. } => {}
            }
        }
    }

    /// What must be true when everything has come to rest.
    pub fn check_end(&self) {
        let assignment = self.assignment();
        assert!(self.is_over(), "the move has not ended");
        assert_eq!(assignment.handover, None);
        let machines: Vec<_> = self.sites.iter().filter(|(_, site)| site.machine.is_some()).collect();
        assert_eq!(machines.len(), 1, "one machine runs");
        assert_eq!(machines[0].0, &assignment.host);
        let secondary = assignment.secondary.clone().expect("a secondary is assigned");
        let set = &self.view.in_sync[&volume()];
        for host in [&assignment.host, &secondary] {
            let site = &self.sites[host];
            assert!(set.contains(host, fixture::boot(host.as_str(), site.boot)), "{host} is in sync");
            let disk = site.disk.expect("a replica has a file");
            assert!(disk.whole && disk.cached >= self.acknowledged, "{host} has {disk:?}");
        }
        let mut expected = vec![assignment.host.as_str(), secondary.as_str()];
        expected.sort_unstable();
        assert_eq!(self.holders(), expected, "only these have a file");
        assert!(self.view.drops.is_empty(), "{:?}", self.view.drops);
    }
}

fn facts(machine: &Qemu, target_boot: Option<BootId>, world: &World) -> MachineFacts {
    let mirror = machine.mirror.as_ref().map(|mirror| {
        let reachable = world.serves(&mirror.host, mirror.epoch, mirror.boot);
        // A connection that is held says what it said before.
        let state = if mirror.missing == 0 { Mirror::Ready } else { Mirror::Filling };
        debug_assert!(reachable || machine.resumed);
        (volume(), MirrorFacts { state, target_boot })
    });
    MachineFacts {
        epoch: machine.epoch,
        boot_generation: machine.generation,
        resumed: machine.resumed,
        mirrors: mirror.into_iter().collect(),
    }
}

fn end_of_last_run(report: &GuestReport) -> Option<Exit> {
    let ran = report.boot_generation;
    if report.exit.as_ref().map_or(ran == 0, |exit| exit.boot_generation == ran) {
        return report.exit.clone();
    }
    Some(Exit { boot_generation: ran, reason: ExitReason::Crashed, at: report.since })
}

/// What a step consists of, in order.
fn acts(step: &Step, s: &Situation) -> Vec<Act> {
    let own = Replica { host: s.me.clone(), boot_id: s.boot };
    match step {
        Step::TakeOver { keep } => {
            let members = keep.iter().cloned().chain([own]).collect();
            vec![Act::Withdraw, Act::Flush, Act::Record(members)]
        }
        Step::ClaimAlone => vec![Act::Record(vec![own])],
        Step::Start { mirror_to } => {
            let attach = mirror_to.iter().cloned().map(Act::AttachSame);
            [Act::SayStarting, Act::Launch].into_iter().chain(attach).chain([Act::Resume]).collect()
        }
        Step::Shutdown => vec![Act::Ask],
        Step::End { why } => vec![Act::Kill(*why)],
        Step::Attach { target, .. } => vec![Act::Attach(target.clone())],
        Step::Admit { replica } => vec![Act::Record(vec![own, replica.clone()])],
        Step::LetGo { .. } | Step::Detach { .. } => vec![Act::Record(vec![own]), Act::Detach],
        Step::MakeReplica { .. } => vec![Act::Make],
        Step::Serve { .. } => vec![Act::Serve],
        Step::Withdraw { .. } => vec![Act::Withdraw],
        Step::DropReplica { .. } => vec![Act::Withdraw, Act::Delete, Act::ForgetDrop],
        Step::MakeVolumes { .. } | Step::DeleteVolumes => panic!("{step:?} has no place in a move"),
        Step::Rest { .. } => vec![],
    }
}
