//! Keeps one guest on this host: look, ask for one step, take it, look again.
//!
//! Everything that this host does to the guest happens in this task, one thing after the other. While a
//! machine runs, a step is broken off when the right to run the machine ends; every step may be broken off
//! and repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use host::watchdog::{BootTime, Slot};
use host::{Machine, MachineEnd, MachineEvent, MigrationPhase, RunState};
use model::{
    BootId, Epoch, ExitReason, FillHow, GuestId, GuestName, HostName, Replica, ReplicaFile, VolumeId,
};
use plan::converge::{Mirror, PeerFile, Rest, Situation, Stage, Step, next};
use plan::limits::{AUTHORITY, RETRY_FIRST, RETRY_MAX};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::fill::Fills;
use super::health::Health;
use super::look::Look;
use super::order::Turn;
use super::records::Records;
use super::report::Reporter;
use super::{Agent, live, peers};

/// How often a guest that depends on another host is looked at although nothing is known to have happened.
const LOOK_EVERY: Duration = Duration::from_millis(1000);

/// The same while something is about to happen: a fill, a session in doubt.
const LOOK_CLOSELY_EVERY: Duration = Duration::from_millis(250);

/// The same while a guest stands still to change its host.
const LOOK_FOR_HANDOVER_EVERY: Duration = Duration::from_millis(50);

/// How long one try to settle an admission may take.
const SETTLE_TIMEOUT: Duration = Duration::from_millis(500);

/// How often a guest with a damaged record is looked at although nothing is known to have happened.
const DAMAGED_LOOK_EVERY: Duration = Duration::from_secs(5);

/// After this long without a failure the next one is again the first.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);

/// For how long a guest that was asked to shut down, and then was to go on after all, may still obey.
const SHUTDOWN_COUNTS_FOR: Duration = Duration::from_secs(600);

/// A keeper's task.
#[derive(Debug)]
pub struct Handle(JoinHandle<()>);

impl Handle {
    pub fn start(agent: Arc<Agent>, guest: GuestName) -> Handle {
        Handle(tokio::spawn(async move {
            let mut keeper = Keeper::new(agent, guest);
            // Adopted, or left by a keeper of the same guest that has ended.
            if let Some(machine) = keeper.id.and_then(|id| keeper.agent.machine_of(id)) {
                keeper.take_machine(machine, None).await;
            }
            keeper.run().await;
        }))
    }

    /// Keepers end when the store no longer knows their guests.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

/// A machine of the guest on this host, and what this keeper knows of it.
#[derive(Debug)]
pub(super) struct Running {
    pub machine: Arc<dyn Machine>,
    pub events: broadcast::Receiver<MachineEvent>,
    pub stage: Stage,
    /// As QEMU calls it, once it was asked.
    pub machine_type: Option<String>,
    pub mirrors: BTreeMap<VolumeId, Mirror>,
    /// Which boot each mirror was attached to by this keeper.
    pub targets: BTreeMap<VolumeId, BootId>,
    /// The mirrors must be asked for anew.
    pub mirrors_stale: bool,
    /// Why each mirror that is broken is.
    pub broken: BTreeMap<VolumeId, String>,
    /// How volumes were last filled, and how fast at most, bytes per second.
    pub paces: BTreeMap<VolumeId, (FillHow, u64)>,
    /// Its guest stands still for want of room; whether that must be asked anew, and when it was last let go on.
    pub no_room: bool,
    pub room_stale: bool,
    /// How its machine stood when that was asked last.
    pub state: Option<RunState>,
    pub went_on_at: Option<Instant>,
    /// Of volumes without a mirror: what its QEMU has recorded is all that this replica lacks.
    pub records: BTreeMap<VolumeId, ReplicaFile>,
    /// Its place with the watchdog.
    pub guarded: Option<Slot>,
    /// Its processors were let run, or may have been.
    pub may_run: bool,
}

/// How the host of a secondary serves, as last asked.
#[derive(Debug)]
pub(super) struct Asked {
    pub boot: BootId,
    pub epoch: Epoch,
    pub serves: bool,
    pub files: BTreeMap<VolumeId, PeerFile>,
    pub at: Instant,
    /// When it was last known to serve, or when the asking began.
    pub last_served: Instant,
}

#[derive(Debug)]
pub(super) struct Keeper {
    pub agent: Arc<Agent>,
    pub guest: GuestName,
    /// A guest made anew under the same name is another keeper's.
    pub id: Option<GuestId>,
    pub running: Option<Running>,
    pub reporter: Reporter,
    /// What was served when that was last known.
    pub served: BTreeMap<VolumeId, host::ExportName>,
    /// What is seen of the replica servers that matter to the guest.
    pub sights: BTreeMap<HostName, watch::Receiver<peers::Sight>>,
    pub asked: BTreeMap<HostName, Asked>,
    pub confirmed_until: Option<Instant>,
    pub confirm_asked_at: Option<Instant>,
    /// Until when the machine may run by that, for the watchdog.
    pub confirmed_for_watchdog: BootTime,
    /// An admission whose outcome is unknown: the record may count on this replica.
    pub maybe_admitted: Option<Replica>,
    pub failures: u32,
    pub failed_at: Option<Instant>,
    /// What the last failure said.
    pub failure: Option<String>,
    /// When the guest was asked to shut down, for the first time and for the last.
    pub shutdown_asked_at: Option<(Instant, Instant)>,
    /// When it was last asked to, if it was to go on after all.
    pub shutdown_taken_back_at: Option<Instant>,
    /// How the run before the last one ended, as long as it is certain that the last one's machine never ran.
    pub exit_before: Option<model::Exit>,
    /// The epoch of the last run that this keeper began.
    pub launched_at: Option<Epoch>,
    /// Why the machine is being ended, if it is this keeper that ends it.
    pub ending: Option<ExitReason>,
    pub exit: Option<model::Exit>,
    pub live: live::Memory,
    pub fills: Fills,
    pub records: Records,
    pub health: Health,
    /// The host whose disk was last said to be full, while it is.
    pub full_disk: Option<HostName>,
    pub turn: Turn,
    /// When a run ended last by a failure.
    pub run_failed_at: Option<jiff::Timestamp>,
}

/// How the last run ended, by the report. A run of this host that the report knows of, whose end it does not
/// tell and whose machine is gone, ended while nobody looked: not cleanly, for all that is known.
fn last_exit(agent: &Agent, report: &model::GuestReport) -> Option<model::Exit> {
    if report.host != agent.me || agent.machine_of(report.guest_id).is_some() {
        return report.exit.clone();
    }
    end_of_last_run(report)
}

/// How the last run ended that a report tells of, if it goes on no more.
pub(super) fn end_of_last_run(report: &model::GuestReport) -> Option<model::Exit> {
    let told = report.exit.clone();
    let ran = report.boot_generation;
    if told.as_ref().map_or(ran == 0, |exit| exit.boot_generation == ran) {
        return told;
    }
    let (reason, at) = (ExitReason::Crashed, jiff::Timestamp::now());
    Some(model::Exit { boot_generation: ran, reason, at, secondary_failed: false })
}

impl Keeper {
    fn new(agent: Arc<Agent>, guest: GuestName) -> Keeper {
        let reporter = Reporter::start(agent.clone());
        let (id, exit, failed_at, health) = {
            let cache = agent.state.read();
            let id = cache.view().guests.get(&guest).map(|spec| spec.id);
            let report = cache.view().guest_reports.get(&guest).filter(|report| Some(report.guest_id) == id);
            let health = report.and_then(|report| report.health.clone());
            let exit = report.and_then(|report| last_exit(&agent, report));
            let crashed = exit.as_ref().filter(|exit| exit.reason == ExitReason::Crashed).map(|exit| exit.at);
            let here = report.filter(|report| report.host == agent.me);
            (id, exit, here.and_then(|report| crashed.max(report.failed_at)), health)
        };
        Keeper {
            agent,
            id,
            guest,
            running: None,
            reporter,
            served: BTreeMap::new(),
            sights: BTreeMap::new(),
            asked: BTreeMap::new(),
            confirmed_until: None,
            confirm_asked_at: None,
            confirmed_for_watchdog: BootTime::default(),
            maybe_admitted: None,
            failures: 0,
            failed_at: None,
            failure: None,
            shutdown_asked_at: None,
            shutdown_taken_back_at: None,
            exit_before: None,
            launched_at: None,
            ending: None,
            exit,
            live: live::Memory::default(),
            fills: Fills::default(),
            records: Records::default(),
            health: Health::of(health),
            full_disk: None,
            turn: Turn::default(),
            run_failed_at: failed_at,
        }
    }

    /// `stage`: known, as of one that was just launched.
    pub(super) async fn take_machine(&mut self, machine: Arc<dyn Machine>, stage: Option<Stage>) {
        let stage = match stage {
            Some(stage) => stage,
            None => self.adopted_stage(&machine).await,
        };
        let events = machine.events();
        self.health.begin_anew();
        self.agent.set_machine(&self.guest, Some(machine.clone()));
        let guarded = self.guarded(&machine);
        let may_run = matches!(stage, Stage::Running | Stage::Left);
        self.running = Some(Running {
            machine,
            events,
            stage,
            machine_type: None,
            mirrors: BTreeMap::new(),
            targets: BTreeMap::new(),
            mirrors_stale: true,
            broken: BTreeMap::new(),
            paces: BTreeMap::new(),
            no_room: false,
            room_stale: true,
            state: None,
            went_on_at: None,
            records: BTreeMap::new(),
            guarded,
            may_run,
        });
    }

    /// A machine whose state cannot be read is taken for one that runs: that is the careful guess.
    async fn adopted_stage(&mut self, machine: &Arc<dyn Machine>) -> Stage {
        let stage = match machine.run_state().await {
            Ok(RunState::Prelaunch) => Stage::Prelaunch,
            Ok(RunState::Incoming) => Stage::Incoming,
            Ok(RunState::Arrived) => Stage::Arrived,
            Ok(RunState::Left) => Stage::Left,
            Ok(
                RunState::Running
                | RunState::Paused
                | RunState::NoRoom
                | RunState::Panicked
                | RunState::Upset
                | RunState::Ended,
            )
            | Err(_) => Stage::Running,
        };
        // Completed: it arrived here itself, unless it has left.
        let under_way = match machine.migration().await.map(|state| state.phase) {
            Ok(MigrationPhase::None | MigrationPhase::Completed) => false,
            Ok(_) | Err(_) => true,
        };
        let runs_and_is_sent = stage == Stage::Running && under_way;
        self.live.sending = stage == Stage::Left || runs_and_is_sent;
        // The daemon before this one may have written the change of owner, and died before the store answered.
        self.live.maybe_handed_over = runs_and_is_sent;
        stage
    }

    async fn run(mut self) {
        let mut changes = self.agent.state.changes();
        loop {
            changes.borrow_and_update();
            // As of before the look: what changes during it is to be looked at, too.
            let before = Concern::of(&self.agent, &self.guest);
            self.notice_end();
            let situation = match self.look().await {
                Look::At(situation) => situation,
                Look::Damaged(why) => {
                    self.agent.set_problem(&self.about(), Some(why));
                    self.wait(&mut changes, before, DAMAGED_LOOK_EVERY).await;
                    continue;
                }
                Look::Gone => {
                    self.agent.set_problem(&self.about(), None);
                    return;
                }
            };
            if let Err(failure) = self.settle_soon(&situation).await {
                tracing::debug!(guest = %self.guest, error = %failure.message, "an admission is still in doubt");
            }
            self.keep_records(&situation).await;
            self.keep_pace().await;
            self.tell_of_full_disk(&situation);
            let step = next(&situation);
            self.say(&situation, &step);
            if let Step::Rest { rest, until } = &step {
                let wait = self.pause_length(&situation, rest, *until);
                self.wait(&mut changes, before, wait).await;
            } else {
                self.attempt(&situation, step, &mut changes).await;
            }
        }
    }

    pub(super) fn about(&self) -> String {
        format!("guest/{}", self.guest)
    }

    /// Tries to settle an admission in doubt, but does not wait long for it.
    async fn settle_soon(&mut self, situation: &Situation) -> Result<(), super::steps::Failure> {
        let settling = tokio::time::timeout(SETTLE_TIMEOUT, self.settle(situation));
        settling.await.unwrap_or(Ok(()))
    }

    /// Takes a step, but not for longer than this host may run the machine.
    async fn attempt(&mut self, situation: &Situation, step: Step, changes: &mut watch::Receiver<u64>) {
        let name = format!("{step:?}");
        tracing::info!(guest = %self.guest, epoch = %situation.assignment.epoch, step = %name, "step");
        let ends_machine = matches!(step, Step::End { .. });
        let deadline = match self.running {
            Some(_) if !ends_machine => self.authority_check_due(),
            Some(_) | None => None,
        };
        let taken = match deadline {
            Some(deadline) => match tokio::time::timeout_at(deadline, self.take(situation, step)).await {
                Ok(taken) => taken,
                Err(_) => return,
            },
            None => self.take(situation, step).await,
        };
        match taken {
            Ok(()) => {
                if self.failed_at.is_some_and(|at| at.elapsed() > FORGIVEN_AFTER) {
                    (self.failures, self.failed_at) = (0, None);
                }
                self.failure = None;
            }
            Err(failure) => {
                tracing::warn!(guest = %self.guest, step = %name, error = %failure.message, "a step failed");
                if failure.counts {
                    self.failures += 1;
                    self.failed_at = Some(Instant::now());
                    self.failure = Some(failure.message);
                }
                let before = Concern::of(&self.agent, &self.guest);
                self.wait(changes, before, failure.pause).await;
            }
        }
    }

    /// When the right to run the machine must be looked at again.
    fn authority_check_due(&self) -> Option<Instant> {
        let standing = *self.agent.session.borrow();
        let now = Instant::now();
        let ends = standing.authority_ends().into_iter().chain(self.confirmed_until).max();
        // A right that has ended already does not end the step at once: the step was chosen knowing that.
        Some(ends.filter(|end| *end > now).unwrap_or(now + AUTHORITY))
    }

    /// Until when nothing is to be tried, after failures.
    pub(super) fn not_before(&self) -> Option<Instant> {
        let pause = RETRY_FIRST * 2u32.saturating_pow(self.failures.saturating_sub(1).min(10));
        self.failed_at.map(|at| at + pause.min(RETRY_MAX))
    }

    fn pause_length(&self, s: &Situation, rest: &Rest, until: Option<jiff::Timestamp>) -> Duration {
        let until = until
            .map(|at| Duration::try_from(at.duration_since(s.now)).unwrap_or(Duration::ZERO))
            .unwrap_or(Duration::MAX);
        let silent = s.peer.iter().chain(&s.former).any(|peer| !peer.serves && !peer.gave_up);
        let doubtful = s.authority != plan::converge::Authority::Session
            || silent
            || s.machine.as_ref().is_some_and(|m| m.mirrors.values().any(|f| f.state == Mirror::Filling));
        let runs = s.machine.as_ref().is_some_and(|machine| machine.stage == Stage::Running);
        let on_its_way = s.machine.as_ref().is_some_and(|m| m.sending.is_some() || m.stage != Stage::Running);
        let look = match rest {
            // The guest stands still until its old host serves.
            Rest::Waiting(_) if s.assignment.handed_over_by.is_some() && !runs => LOOK_FOR_HANDOVER_EVERY,
            _ if on_its_way => LOOK_CLOSELY_EVERY,
            // A replica server that dies is to be started again while the owner still waits for it.
            Rest::Idle if !s.served.is_empty() => LOOK_EVERY,
            Rest::Deleted | Rest::Stopped | Rest::Idle | Rest::Stuck(_) => Duration::from_secs(30),
            Rest::Running | Rest::Stopping | Rest::Waiting(_) if doubtful => LOOK_CLOSELY_EVERY,
            Rest::Running | Rest::Stopping | Rest::Waiting(_) => LOOK_EVERY,
        };
        until.min(look)
    }

    /// Waits until something happens that could matter, or for so long.
    async fn wait(&mut self, changes: &mut watch::Receiver<u64>, before: Concern, at_most: Duration) {
        let agent = self.agent.clone();
        let relevant = async {
            while Concern::of(&agent, &self.guest) == before {
                if changes.changed().await.is_err() {
                    break;
                }
                changes.borrow_and_update();
            }
            if Concern::of(&agent, &self.guest) != before {
                return;
            }
            std::future::pending::<()>().await;
        };
        let sight = async {
            let changes = self.sights.values_mut().map(|sight| Box::pin(sight.changed()));
            let changes: Vec<_> = changes.collect();
            // A look that has ended is begun anew by the next look at the guest.
            if changes.is_empty() || futures::future::select_all(changes).await.0.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let event = async {
            match &mut self.running {
                Some(running) => running.events.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = relevant => {}
            () = sight => {}
            event = event => {
                let running = self.running.as_mut();
                match (event, running) {
                    (Ok(MachineEvent::Mirror(_)) | Err(broadcast::error::RecvError::Lagged(_)), Some(running)) => {
                        (running.mirrors_stale, running.room_stale) = (true, true);
                    }
                    (Ok(MachineEvent::Room), Some(running)) => running.room_stale = true,
                    (Ok(MachineEvent::Reset), _) => self.health.begin_anew(),
                    // How it ended is asked of the machine itself.
                    (Ok(MachineEvent::Gone(_) | MachineEvent::Migration) | Err(broadcast::error::RecvError::Closed), _)
                    | (
                        Ok(MachineEvent::Mirror(_) | MachineEvent::Room)
                        | Err(broadcast::error::RecvError::Lagged(_)),
                        None,
                    ) => {}
                }
            }
            () = tokio::time::sleep(at_most) => {}
        }
    }

    /// Takes note of a machine that is gone.
    pub(super) fn notice_end(&mut self) {
        let Some(end) = self.running.as_ref().and_then(|running| running.machine.ended()) else { return };
        let Some(running) = self.running.take() else { return };
        self.agent.set_machine(&self.guest, None);
        let by_watchdog = self.leave_watchdog(&running);
        self.live.sending = false;
        if matches!(running.stage, Stage::Incoming | Stage::Arrived) {
            return self.notice_non_arrival();
        }
        let taken_back = self.shutdown_taken_back_at.take();
        let asked = self.shutdown_asked_at.take().is_some()
            || taken_back.is_some_and(|at| at.elapsed() < SHUTDOWN_COUNTS_FOR);
        let reason = match (self.ending.take(), end) {
            (Some(why), _) => why,
            (None, MachineEnd::GuestShutdown) if asked => ExitReason::Stopped,
            (None, MachineEnd::GuestShutdown) => ExitReason::GuestShutdown,
            (None, MachineEnd::Died) if by_watchdog => ExitReason::Disowned,
            (None, MachineEnd::Died) => ExitReason::Crashed,
        };
        let label = running.machine.label();
        if reason == ExitReason::Crashed {
            self.run_failed_at = Some(jiff::Timestamp::now());
            self.failures += 1;
            self.failed_at = Some(Instant::now());
            self.failure = Some("its QEMU died; see its log".into());
            self.keep_of_dead(&running.machine);
        }
        let subject = self.about();
        let watchdog = if by_watchdog { ", and its watchdog ended it" } else { "" };
        let message = format!("'{}' ended on {}: {}{watchdog}", self.guest, self.agent.me, describe(reason));
        match reason {
            ExitReason::Crashed | ExitReason::Killed | ExitReason::Disowned => {
                self.agent.events.warning(model::EventKind::GuestStopped, subject, message);
            }
            ExitReason::GuestShutdown | ExitReason::Stopped | ExitReason::Moved => {
                self.agent.events.info(model::EventKind::GuestStopped, subject, message);
            }
        }
        let failed = running.mirrors.keys().find_map(|volume| running.machine.mirror_failed(*volume));
        if let Some(why) = &failed {
            tracing::warn!(guest = %self.guest, why, "its secondary may lack its last writes");
        }
        let exit = model::Exit {
            boot_generation: label.boot_generation,
            reason,
            at: jiff::Timestamp::now(),
            secondary_failed: failed.is_some(),
        };
        self.exit = Some(self.exit_before.take().unwrap_or(exit));
    }
}

fn describe(reason: ExitReason) -> &'static str {
    match reason {
        ExitReason::GuestShutdown => "it shut itself down",
        ExitReason::Stopped => "it was asked to stop, and did",
        ExitReason::Killed => "it was asked to stop, did not in time, and was ended",
        ExitReason::Crashed => "its QEMU died",
        ExitReason::Moved => "it went on on another host",
        ExitReason::Disowned => "this host had no right to run it any more",
    }
}

/// The parts of a snapshot that matter to one guest here; a keeper sleeps through all other changes.
#[derive(Debug, PartialEq, Eq)]
struct Concern {
    revisions: Vec<i64>,
    sessions: BTreeSet<(HostName, BootId)>,
    images: BTreeSet<model::ImageName>,
    incoming: Vec<model::Incoming>,
}

impl Concern {
    fn of(agent: &Agent, guest: &GuestName) -> Concern {
        let cache = agent.state.read();
        let view = cache.view();
        let spec = view.guests.get(guest);
        let assignment = view.assignments.get(guest);
        let disks = spec.map(|spec| spec.disks.as_slice()).unwrap_or_default();
        let revisions = std::iter::once(cache.revision_of(&store::keys::guest(guest)))
            .chain([cache.revision_of(&store::keys::assignment(guest))])
            .chain(starts_after(agent, spec).map(|name| cache.revision_of(&store::keys::guest_report(name))))
            .chain(disks.iter().map(|disk| cache.revision_of(&store::keys::in_sync(disk.volume))))
            .chain(
                disks
                    .iter()
                    .map(|disk| cache.revision_of(&store::keys::replica_drop(&agent.me, disk.volume))),
            )
            .collect();
        let members =
            disks.iter().filter_map(|disk| view.in_sync.get(&disk.volume)).flat_map(|set| &set.members);
        let hosts = assignment.iter().flat_map(|a| std::iter::once(&a.host).chain(&a.secondary));
        let hosts = hosts.chain(members.map(|replica| &replica.host));
        let sessions = hosts.filter_map(|h| Some((h.clone(), view.sessions.get(h)?.boot_id))).collect();
        let report = view.host_reports.get(&agent.me);
        let incoming = live::told_by(view, assignment);
        Concern {
            revisions,
            sessions,
            incoming,
            images: report.map(|r| r.images.clone()).unwrap_or_default(),
        }
    }
}

/// The guests that one waits for which does not run here.
fn starts_after<'a>(
    agent: &Agent,
    spec: Option<&'a model::GuestSpec>,
) -> impl Iterator<Item = &'a GuestName> {
    let waits = spec.filter(|spec| !spec.start_after.is_empty() && agent.machine_of(spec.id).is_none());
    waits.into_iter().flat_map(|spec| &spec.start_after)
}
