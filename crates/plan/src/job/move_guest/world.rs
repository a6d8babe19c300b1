//! A small world that a move happens in: hosts with one volume each, machines that write numbered records, keepers
//! that follow `converge`, a leader that follows `decide` and the job. One tick is a second. Every step of a keeper
//! is cut into the acts that it consists of, one for each tick, so that a fault can come between any two of them.
//!
//! What must never be wrong is asserted when it happens: a machine starts on a replica that lacks an acknowledged
//! record, two machines of one epoch, a mirror attached without a copy between replicas that differ.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use jiff::{SignedDuration, Timestamp};
use model::{
    Assignment, BootId, ClusterView, Epoch, Exit, ExitReason, GuestReport, GuestSpec, HostName, JobId,
    JobKind, JobReport, JobSpec, MoveOptions, Pool, Replica, VolumeId,
};

use crate::converge::{SendPhase, Stage};
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

/// A guest on its way to another host.
#[derive(Debug, Clone)]
struct SendingTo {
    host: HostName,
    phase: SendPhase,
    /// Ticks until its memory is there.
    missing: u32,
}

#[derive(Debug, Clone)]
struct Qemu {
    epoch: Epoch,
    generation: u64,
    stage: Stage,
    mirror: Option<MirrorTo>,
    sending: Option<SendingTo>,
    /// A write that the local disk has, and that is acknowledged to nobody.
    in_flight: bool,
    shuts_down_in: Option<u32>,
    /// Its disks were taken away from it.
    withheld: bool,
}

/// What a keeper remembers, and loses with its daemon.
#[derive(Debug, Clone, Default)]
struct Keeper {
    acts: VecDeque<Act>,
    /// What the step rests on that the acts are of: each record is written only while it is so.
    rests_on: Option<Assignment>,
    exit: Option<Exit>,
    exit_before: Option<Exit>,
    launched_at: Option<Epoch>,
    asked: bool,
    target_boot: Option<BootId>,
    unserved: BTreeMap<(HostName, Epoch), u32>,
    failures: u32,
    /// It told where its machine waits for the guest.
    told_where: bool,
    sends: u32,
    sent_to: Option<SocketAddr>,
    gave_up: Option<(JobId, String)>,
    arriving_since: Option<Timestamp>,
    mirror_back_failed: bool,
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
    /// How many machines waited here for a guest; each at a port of its own.
    waits: u16,
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
    AttachBack(Replica),
    Resume,
    Ask,
    Kill(ExitReason),
    Attach(Replica),
    Detach,
    Receive(u64),
    TellWhere,
    Send(SocketAddr),
    CancelSend(Option<(JobId, String)>),
    Withhold,
    Swap(Assignment),
    Void,
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
    /// The one disk of a guest in storage that hosts share.
    common: Option<Disk>,
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

impl Qemu {
    /// Its processors run.
    fn runs(&self) -> bool {
        let stands = |sending: &SendingTo| {
            matches!(sending.phase, SendPhase::AtSwitchover | SendPhase::Delivering | SendPhase::Delivered)
        };
        self.stage == Stage::Running && !self.withheld && !self.sending.as_ref().is_some_and(stands)
    }
}

impl World {
    /// Guest `a` on host1, mirrored to host2, host3 empty; and the move. A guest that goes to no pair of hosts is on
    /// a local disk of host1 alone.
    pub fn new(to: model::GuestPlace, options: MoveOptions) -> World {
        let pool = if to.secondary.is_none() { Pool::Local } else { Pool::Mirror };
        Self::with(pool, to, options)
    }

    /// Guest `a` on host1, its disk in storage that the hosts share; and the move.
    pub fn shared(to: model::GuestPlace, options: MoveOptions) -> World {
        Self::with(Pool::Shared, to, options)
    }

    fn with(pool: Pool, to: model::GuestPlace, options: MoveOptions) -> World {
        let mut view = fixture::cluster(3);
        // What becomes of one guest is looked at, whoever is lost; how fast is another question.
        fixture::settings(&mut view).storm_share_percent = 0;
        let local = pool != Pool::Mirror;
        let secondary = if local { None } else { Some("host2") };
        fixture::put(&mut view, "a", pool, "host1", secondary);
        let kind = JobKind::MoveGuest { guest: guest(), to, options, heals: None };
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
        let shared = pool == Pool::Shared;
        let site = |name: &HostName| Site {
            dark: 0,
            lost_for: 0,
            daemon_out: 0,
            boot: 1,
            disk: (!shared && name.as_str() == "host1" || !local && name.as_str() == "host2").then_some(disk),
            served: (!local && name.as_str() == "host2").then(|| (Epoch::FIRST, fixture::boot("host2", 1))),
            machine: None,
            waits: 0,
            broken: false,
            keeper: Keeper::default(),
        };
        let mut sites: BTreeMap<HostName, Site> = view.hosts.keys().map(|h| (h.clone(), site(h))).collect();
        let owner = sites.get_mut(&fixture::host("host1")).unwrap();
        let boot = fixture::boot("host2", 1);
        let mirror = MirrorTo { host: fixture::host("host2"), epoch: Epoch::FIRST, boot, missing: 0 };
        owner.keeper.target_boot = (!local).then_some(boot);
        owner.keeper.launched_at = Some(Epoch::FIRST);
        owner.machine = Some(Qemu {
            epoch: Epoch::FIRST,
            generation: 1,
            stage: Stage::Running,
            mirror: (!local).then_some(mirror),
            sending: None,
            in_flight: false,
            shuts_down_in: None,
            withheld: false,
        });
        let common = shared.then_some(disk);
        World { view, job, sites, common, acknowledged: 1, leaderless: 0, tick: 0, story: vec![] }
    }

    /// Guest `a` on host1, which fell to one replica when host2 lost its power; host2 comes back after so many ticks.
    /// host3 is to get the second replica.
    pub fn healing(returns_after: u32) -> World {
        let to = model::GuestPlace { host: fixture::host("host1"), secondary: Some(fixture::host("host3")) };
        let mut world = World::new(to.clone(), MoveOptions::LIVE);
        let owner = fixture::host("host1");
        let alone = world.view.in_sync[&volume()].clone();
        let members = alone.members.iter().filter(|replica| replica.host == owner).cloned().collect();
        world.view.in_sync.insert(volume(), alone.followed_by(alone.epoch, members, world.now()));
        let heals = Some(world.now());
        world.job.kind = JobKind::MoveGuest { guest: guest(), to, options: MoveOptions::LIVE, heals };
        world.view.jobs.insert(world.job.id, world.job.clone());
        fixture::power_off(&mut world.view, "host2");
        let lost = world.sites.get_mut(&fixture::host("host2")).unwrap();
        (lost.dark, lost.lost_for, lost.served) = (returns_after, SESSION_TICKS + 1, None);
        let site = world.sites.get_mut(&owner).unwrap();
        site.keeper.target_boot = None;
        site.machine.as_mut().unwrap().mirror = None;
        world
    }

    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(i64::from(self.tick))
    }

    fn note(&mut self, text: impl std::fmt::Display) {
        self.story.push(format!("{:3} {text}", self.tick));
    }

    fn is_shared(&self) -> bool {
        self.common.is_some()
    }

    /// What a host writes to.
    fn disk(&self, name: &HostName) -> Option<Disk> {
        self.common.or(self.sites[name].disk)
    }

    fn disk_mut(&mut self, name: &HostName) -> Option<&mut Disk> {
        let own = &mut self.sites.get_mut(name).unwrap().disk;
        self.common.as_mut().or(own.as_mut())
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
                // Who finds a machine without disks takes it for one that was handed over.
                if let Some(machine) = site.machine.as_mut().filter(|machine| machine.withheld) {
                    machine.stage = Stage::Left;
                }
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
            self.send_memory(name);
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
                let now = self.now();
                self.view.sessions.get_mut(name).unwrap().started_at = now;
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
        let Some(mut machine) = self.sites[name].machine.clone().filter(Qemu::runs) else { return };
        if let Some(left) = machine.shuts_down_in {
            // A guest whose writes are held cannot shut down.
            if left == 0 && !machine.in_flight {
                let exit = fixture::exit(machine.generation, ExitReason::Stopped, self.now());
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
        let stale = self.is_shared() && machine.epoch != self.assignment().epoch;
        assert!(!stale, "{name} writes at epoch {} to what another host owns", machine.epoch);
        let disk = self.disk_mut(name).expect("a machine has a disk");
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

    /// Where a machine on that host waits, if one does at that epoch.
    fn waits_at(&self, host: &HostName, epoch: Epoch) -> Option<SocketAddr> {
        let site = self.sites.get(host).filter(|site| site.dark == 0)?;
        let waits = site.machine.as_ref().is_some_and(|m| m.stage == Stage::Incoming && m.epoch == epoch);
        waits.then(|| SocketAddr::from(([10, 0, 0, 1], site.waits)))
    }

    /// QEMU sends a guest's memory, and stops it when it has.
    fn send_memory(&mut self, name: &HostName) {
        let Some(machine) = self.sites[name].machine.clone() else { return };
        let Some(mut sending) = machine.sending.clone() else { return };
        let waits = self.waits_at(&sending.host, machine.epoch.next()).is_some();
        let broken = || SendPhase::Failed("the connection broke".into());
        match (&sending.phase, waits) {
            (SendPhase::Memory | SendPhase::AtSwitchover | SendPhase::Delivering, false) => {
                sending.phase = broken();
            }
            (SendPhase::Memory, true) if sending.missing > 0 => sending.missing -= 1,
            // It stops the guest when its disks are at rest.
            (SendPhase::Memory, true) if !machine.in_flight => sending.phase = SendPhase::AtSwitchover,
            (SendPhase::Delivering, true) => {
                sending.phase = SendPhase::Delivered;
                let there = self.site(&sending.host.clone()).machine.as_mut().expect("it waits");
                there.stage = Stage::Arrived;
            }
            (SendPhase::Memory | SendPhase::AtSwitchover, true)
            | (SendPhase::Delivered | SendPhase::Failed(_), _) => {}
        }
        self.note(format!("{name}: QEMU {:?}", sending.phase));
        self.site(name).machine.as_mut().expect("it was there").sending = Some(sending);
    }

    fn lead(&mut self) {
        let now = self.now();
        let decision = decide(&self.view, now, now);
        for change in decision.changes {
            if let Change::Recover { from, .. } = &change {
                let runs = self.sites[&from.host].machine.as_ref().is_some_and(Qemu::runs);
                assert!(!runs, "{} still runs what {change:?} starts elsewhere", from.host);
            }
            let (Change::Assign { to } | Change::Promote { to, .. } | Change::Recover { to, .. }) = change;
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
                    let void: Vec<_> = crate::job::void_drops(&self.view, &to).cloned().collect();
                    self.view.drops.retain(|_, order| !void.contains(order));
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
        let secondary = assignment.secondary.clone();
        assert_eq!(secondary.is_some(), self.spec().is_mirrored());
        let set = &self.view.in_sync[&volume()];
        for host in std::iter::once(&assignment.host).chain(&secondary) {
            let site = &self.sites[host];
            assert!(set.contains(host, fixture::boot(host.as_str(), site.boot)), "{host} is in sync");
            let disk = self.disk(host).expect("a replica has a file");
            assert!(disk.whole && disk.cached >= self.acknowledged, "{host} has {disk:?}");
        }
        let pair = std::iter::once(&assignment.host).chain(&secondary);
        let mut expected: Vec<&str> = pair.map(HostName::as_str).collect();
        expected.sort_unstable();
        if self.is_shared() {
            expected.clear();
        }
        assert_eq!(self.holders(), expected, "only these have a file");
        assert!(self.view.drops.is_empty(), "{:?}", self.view.drops);
    }
}

fn end_of_last_run(report: &GuestReport) -> Option<Exit> {
    let ran = report.boot_generation;
    if report.exit.as_ref().map_or(ran == 0, |exit| exit.boot_generation == ran) {
        return report.exit.clone();
    }
    Some(fixture::exit(ran, ExitReason::Crashed, report.since))
}

mod acts;
mod keeper;
