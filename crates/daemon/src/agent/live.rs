//! Moving a guest to another host while it runs: what a keeper on either side does, and what it remembers of it.
//!
//! `plan::converge` says what comes next; the order within a step is what keeps it safe:
//!
//! - the old owner writes the change of owner while the guest stands still, and lets QEMU go on with the migration
//!   only after it is written; until it is known whether it was, the guest is neither sent on nor let run;
//! - of storage that both hosts share, the disks are taken away from the machine before the change of owner is written,
//!   and given back if it was not made: from then on there is nothing that could keep the old machine from writing;
//! - the new owner ends every connection of the old epoch and flushes, and mirrors to the old owner, before the
//!   guest's first write.

use std::net::SocketAddr;
use std::time::Duration;

use host::{ExportName, HostError, Hypervisor, MigrationPhase, MigrationSettings, ReplicaServer};
use model::{
    Assignment, Bytes, CpuModel, EventKind, Handover, HandoverKind, HostName, InSync, Incoming, JobId,
    MigrationReport, MoveOptions, Replica,
};
use plan::converge::{RunElsewhere, SendPhase, Sending, Situation, Stage, ladder};
use store::{Outcome, keys};
use tokio::time::Instant;

use super::keeper::Keeper;
use super::steps::Failure;

/// For how long the new owner of a guest that stands still tries to reach the old one's replica.
const MIRROR_BACK_WITHIN: Duration = Duration::from_millis(1500);
const MIRROR_BACK_POLL: Duration = Duration::from_millis(5);

/// Between two reports of how far a guest is on its way: each is a write to the store.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// A guest with more memory than this is sent through several connections, which fill a fast network.
const MULTIFD_FROM: Bytes = Bytes::gib(8);
const MULTIFD_CHANNELS: u8 = 4;

/// What a keeper remembers of a handover while its guest runs.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// QEMU is to be asked how far it is.
    pub sending: bool,
    pub sends: u32,
    pub sent_to: Option<SocketAddr>,
    limit_ms: u64,
    post_copy: bool,
    /// Whose handover was given up, and why.
    pub gave_up: Option<(JobId, String)>,
    /// Since when this host owns a guest that is on its way to it.
    arriving_since: Option<Instant>,
    /// Brings what the old owner has written to this host's disk, while the rest of the guest arrives.
    flush: Option<tokio::task::JoinHandle<Result<(), HostError>>>,
    pub mirror_back_failed: bool,
    /// The disks, which both hosts share, were taken away from the machine.
    pub withheld: bool,
    /// The change of owner was sent to the store, and nobody knows yet what became of it.
    pub maybe_handed_over: bool,
    /// As QEMU said last.
    numbers: Option<host::MigrationState>,
    told: Option<(Instant, MigrationReport)>,
}

fn settings(options: &MoveOptions, memory: Bytes, downtime_limit_ms: u64) -> MigrationSettings {
    let many = memory >= MULTIFD_FROM && !options.post_copy;
    MigrationSettings {
        bandwidth: options.bandwidth,
        downtime_limit_ms,
        auto_converge: options.auto_converge,
        postcopy: options.post_copy,
        multifd_channels: many.then_some(MULTIFD_CHANNELS),
    }
}

/// The handover that is asked for, if the guest is to run meanwhile.
fn live_handover(assignment: &Assignment) -> Option<&Handover> {
    assignment.handover.as_ref().filter(|handover| handover.how == HandoverKind::Live)
}

impl Keeper {
    /// Where the machine waits that the guest is to be sent to, by its host's word.
    pub(super) fn incoming(&self, assignment: &Assignment) -> Option<SocketAddr> {
        let handover = live_handover(assignment)?;
        let waits = |incoming: &&Incoming| {
            incoming.guest_id == assignment.guest_id && incoming.epoch == assignment.epoch.next()
        };
        if handover.to == self.agent.me {
            return self
                .agent
                .incoming_of(&self.guest)
                .as_ref()
                .filter(waits)
                .map(|incoming| incoming.address);
        }
        let cache = self.agent.state.read();
        let view = cache.view();
        let report = view.host_reports.get(&handover.to)?;
        let live = view.liveness(&handover.to) == model::Liveness::Live(report.boot_id);
        report.incoming.iter().filter(|_| live).find(waits).map(|incoming| incoming.address)
    }

    /// What runs the guest on its owner, by that one's report.
    pub(super) fn elsewhere(&self, assignment: &Assignment) -> Option<RunElsewhere> {
        if assignment.host == self.agent.me {
            return None;
        }
        let cache = self.agent.state.read();
        let report = cache.view().guest_reports.get(&self.guest)?;
        let runs = report.guest_id == assignment.guest_id
            && report.host == assignment.host
            && report.epoch == assignment.epoch
            && report.state == model::GuestState::Running;
        let machine_type = report.machine_type.clone().filter(|_| runs)?;
        // Builds that did not tell started guests with no other.
        let cpu = report.cpu.unwrap_or_default();
        Some(RunElsewhere { machine_type, cpu, boot_generation: report.boot_generation })
    }

    /// Forgets what belongs to a handover that is over, and asks QEMU how far the present one is.
    pub(super) async fn look_at_handover(&mut self, assignment: &Assignment) -> Option<Sending> {
        let owns = assignment.host == self.agent.me;
        let stage = self.running.as_ref().map(|running| running.stage);
        let arriving = matches!(stage, Some(Stage::Incoming | Stage::Arrived));
        if owns && live_handover(assignment).is_none() && !self.live.sending && !arriving {
            self.live = Memory::default();
        }
        if stage != Some(Stage::Incoming) {
            self.agent.set_incoming(&self.guest, None);
        }
        if arriving && owns && self.live.arriving_since.is_none() {
            self.live.arriving_since = Some(Instant::now());
            let (agent, volumes) = (self.agent.clone(), self.own_volumes());
            self.live.flush = Some(tokio::spawn(async move {
                for volume in volumes {
                    agent.volumes.flush(volume).await?;
                }
                Ok(())
            }));
        }
        if let Some(running) = self.running.as_mut().filter(|running| running.stage == Stage::Incoming) {
            match running.machine.run_state().await {
                Ok(host::RunState::Arrived) => running.stage = Stage::Arrived,
                Ok(_) => {}
                Err(error) => tracing::debug!(guest = %self.guest, %error, "an arrival is asked for again"),
            }
        }
        if !self.live.sending {
            return None;
        }
        let running = self.running.as_ref()?;
        match running.machine.migration().await {
            Ok(state) => self.live.numbers = Some(state),
            Err(error) => {
                tracing::debug!(guest = %self.guest, %error, "how far a migration is will be asked again");
            }
        }
        let state = self.live.numbers.as_ref()?;
        let phase = match &state.phase {
            MigrationPhase::None | MigrationPhase::Cancelled => return None,
            MigrationPhase::Setup | MigrationPhase::Active | MigrationPhase::Cancelling => SendPhase::Memory,
            MigrationPhase::PreSwitchover => SendPhase::AtSwitchover,
            MigrationPhase::Postcopy | MigrationPhase::Device => SendPhase::Delivering,
            MigrationPhase::Completed => SendPhase::Delivered,
            MigrationPhase::Failed(why) => SendPhase::Failed(why.clone()),
        };
        Some(Sending {
            phase,
            iteration: state.iteration,
            remaining: state.remaining,
            dirty_rate: state.dirty_rate,
            throughput: state.throughput,
            downtime_limit_ms: self.live.limit_ms,
            post_copy: self.live.post_copy,
        })
    }

    /// Those that are on this host's disks.
    fn own_volumes(&self) -> Vec<model::VolumeId> {
        let cache = self.agent.state.read();
        let spec = cache.view().guests.get(&self.guest);
        let disks = spec.map(|spec| spec.disks.as_slice()).unwrap_or_default().iter();
        disks.filter(|disk| disk.pool_name.is_none()).map(|disk| disk.volume).collect()
    }

    pub(super) fn arriving_since(&self) -> Option<Instant> {
        self.live.arriving_since
    }

    /// How far the guest is on its way, as it was a second ago at most.
    pub(super) fn migration_report(&mut self, s: &Situation) -> Option<MigrationReport> {
        let handover = live_handover(&s.assignment)?;
        let sending = s.machine.as_ref().and_then(|machine| machine.sending.as_ref());
        let gave_up = self.live.gave_up.as_ref().filter(|(job, _)| *job == handover.job);
        let phase = match (gave_up, sending.map(|sending| &sending.phase)) {
            (Some((_, why)), _) => model::MigrationPhase::Failed(why.clone()),
            (None, Some(SendPhase::Memory)) => model::MigrationPhase::Memory,
            (None, Some(SendPhase::AtSwitchover | SendPhase::Delivering | SendPhase::Delivered)) => {
                model::MigrationPhase::SwitchOver
            }
            (None, Some(SendPhase::Failed(_)) | None) => return None,
        };
        let numbers = self.live.numbers.as_ref();
        let of = |get: fn(&host::MigrationState) -> u64| numbers.map(get).unwrap_or_default();
        let now = MigrationReport {
            to: handover.to.clone(),
            phase,
            transferred: Bytes(of(|n| n.transferred)),
            remaining: Bytes(of(|n| n.remaining)),
            total: Bytes(of(|n| n.total)),
            dirty_rate: of(|n| n.dirty_rate),
            throughput: of(|n| n.throughput),
            expected_downtime_ms: numbers.and_then(|n| n.expected_downtime_ms),
            iteration: of(|n| n.iteration),
        };
        let fresh = |(at, told): &&(Instant, MigrationReport)| {
            told.phase == now.phase && told.to == now.to && at.elapsed() < TOLD_EVERY
        };
        if let Some((_, told)) = self.live.told.as_ref().filter(fresh) {
            return Some(told.clone());
        }
        self.live.told = Some((Instant::now(), now.clone()));
        Some(now)
    }

    /// Starts a machine that waits for the guest, if there is none yet, and tells where.
    pub(super) async fn receive(
        &mut self,
        s: &Situation,
        (machine_type, cpu): (&str, CpuModel),
        boot_generation: u64,
    ) -> Result<(), Failure> {
        let Some(handover) = live_handover(&s.assignment) else { return Ok(()) };
        let epoch = s.assignment.epoch.next();
        if self.running.is_none() {
            let mut config = self.machine_config(s).await?;
            (config.label.epoch, config.label.boot_generation) = (epoch, boot_generation);
            // It goes on as what it began as, whatever guests are started with by now.
            config.cpu = cpu;
            let machine = self.agent.driver.launch_incoming(&config, machine_type).await?;
            self.take_machine(machine, Some(Stage::Incoming)).await;
        }
        let Some(running) = &self.running else { return Err(Failure::soon("the machine is gone")) };
        let here = {
            let cache = self.agent.state.read();
            cache.view().hosts.get(&self.agent.me).map(|host| host.address)
        };
        let Some(here) = here else { return Err(Failure::soon("this host is not in the store")) };
        let settings = settings(&handover.options, s.spec.memory, ladder::first(&handover.options));
        let address = running.machine.listen(SocketAddr::new(here, 0), &settings).await?;
        let incoming = Incoming { guest: self.guest.clone(), guest_id: s.spec.id, epoch, address };
        self.agent.set_incoming(&self.guest, Some(incoming));
        Ok(())
    }

    pub(super) async fn send(&mut self, s: &Situation, to: SocketAddr) -> Result<(), Failure> {
        let Some(handover) = live_handover(&s.assignment) else { return Ok(()) };
        self.leave_records_alone().await;
        let Some(running) = &self.running else { return Ok(()) };
        let limit_ms = ladder::first(&handover.options);
        self.live.sends += 1;
        self.live.sent_to = Some(to);
        (self.live.limit_ms, self.live.post_copy, self.live.numbers) = (limit_ms, false, None);
        self.live.sending = true;
        let settings = settings(&handover.options, s.spec.memory, limit_ms);
        running.machine.migrate(to, &settings).await.map_err(|error| Failure::soon(error.to_string()))
    }

    pub(super) async fn adjust(&mut self, s: &Situation, downtime_limit_ms: u64) -> Result<(), Failure> {
        let Some(handover) = live_handover(&s.assignment) else { return Ok(()) };
        let Some(running) = &self.running else { return Ok(()) };
        self.live.limit_ms = downtime_limit_ms;
        let settings = settings(&handover.options, s.spec.memory, downtime_limit_ms);
        running.machine.adjust_migration(&settings).await.map_err(|error| Failure::soon(error.to_string()))
    }

    pub(super) async fn start_post_copy(&mut self) -> Result<(), Failure> {
        let Some(running) = &self.running else { return Ok(()) };
        self.live.post_copy = true;
        running.machine.start_postcopy().await.map_err(|error| Failure::soon(error.to_string()))
    }

    /// Sees to it that a change of owner in doubt is not made any more. It compares the in-sync sets: once they are
    /// written anew it is refused for good.
    pub(super) async fn settle_handover(&mut self, s: &Situation) -> Result<(), Failure> {
        if self.live.maybe_handed_over {
            let members = s.in_sync.values().next().map(|set| set.members.clone()).unwrap_or_default();
            self.record(s, members).await?;
            self.live.maybe_handed_over = false;
        }
        Ok(())
    }

    /// Lets the guest go on here.
    pub(super) async fn cancel_send(
        &mut self,
        s: &Situation,
        gave_up: Option<(JobId, String)>,
    ) -> Result<(), Failure> {
        self.settle_handover(s).await?;
        if let Some((_, why)) = &gave_up {
            let message = format!("'{}' stays on {}: {why}", self.guest, s.me);
            self.agent.events.warning(EventKind::GuestMoved, self.about(), message);
            self.live.gave_up = gave_up;
        }
        let Some(running) = &self.running else { return Ok(()) };
        if s.spec.is_shared()
            && let Err(error) = running.machine.return_disks().await
        {
            // It is started anew, from what it has written.
            running.machine.kill().await?;
            return Err(error.into());
        }
        self.live.withheld = false;
        match running.machine.cancel_migration().await {
            Ok(()) => {
                self.live.sending = false;
                Ok(())
            }
            // As after a hold that came in just this moment; the record is untouched, and it is started anew.
            Err(error @ HostError::TimedOut(_)) => {
                running.machine.kill().await?;
                Err(error.into())
            }
            Err(error) => Err(Failure::soon(error.to_string())),
        }
    }

    /// Makes the other host the owner, while the guest stands still, and gives the guest to it.
    pub(super) async fn hand_over(&mut self, s: &Situation, next: &Assignment) -> Result<(), Failure> {
        let began = Instant::now();
        let Some(running) = &self.running else { return Ok(()) };
        let ready = if s.spec.is_shared() {
            self.live.withheld = true;
            running.machine.withhold_disks().await
        } else {
            running.machine.check_hand_over().await
        };
        if let Err(error) = ready {
            tracing::info!(guest = %self.guest, %error, "not handed over");
            return self.cancel_send(s, None).await;
        }
        let checked = began.elapsed();
        self.live.maybe_handed_over = true;
        let outcome = self.agent.state.change(|view, txn| {
            for host in [&s.me, &next.host] {
                txn.unchanged(&keys::session(host)).exists(&keys::session(host));
            }
            txn.put(next);
            // They stay this epoch's: the next owner writes them anew once it has flushed what it took from here.
            for disk in &s.spec.disks {
                if !s.spec.is_shared() {
                    txn.unchanged(&keys::in_sync(disk.volume));
                    continue;
                }
                // Of one that both share there is one copy, and its owner stands for it.
                let owner = view.sessions.get(&next.host).map(|session| session.boot_id);
                let owner = owner.map(|boot_id| Replica { host: next.host.clone(), boot_id });
                if let Some(set) = s.in_sync.get(&disk.volume) {
                    txn.put(&InSync {
                        epoch: next.epoch,
                        members: owner.into_iter().collect(),
                        ..set.clone()
                    });
                }
            }
            let same = s.in_sync.iter().all(|(volume, set)| view.in_sync.get(volume) == Some(set));
            same && view.assignments.get(&self.guest) == Some(&s.assignment)
        });
        match outcome.await? {
            Outcome::Committed { .. } => self.live.maybe_handed_over = false,
            // If it was made by an earlier try whose outcome nobody knew, the new records are on their way here.
            Outcome::Conflict => return Err(Failure::conflict()),
        }
        let written = began.elapsed();
        let delivered = self.deliver(s, next.epoch).await;
        tracing::info!(
            guest = %self.guest,
            checked_ms = checked.as_millis(), written_ms = written.as_millis(),
            delivered_ms = began.elapsed().as_millis(),
            "handed over"
        );
        delivered
    }

    /// Gives the guest to its new owner, and serves the replica here for it.
    pub(super) async fn deliver(&mut self, s: &Situation, epoch: model::Epoch) -> Result<(), Failure> {
        self.live.maybe_handed_over = false;
        let Some(running) = &mut self.running else { return Ok(()) };
        if let Err(error) = running.machine.hand_over().await {
            // Nothing may bring it back to life here. Its new owner starts it anew.
            running.machine.kill().await?;
            return Err(error.into());
        }
        running.stage = Stage::Left;
        running.mirrors_stale = true;
        for disk in s.spec.disks.iter().filter(|disk| disk.pool_name.is_none()) {
            let export = ExportName::new(disk.volume, epoch, s.boot);
            let path = self.agent.volumes.path(disk.volume);
            self.agent.replicas.serve_as(disk.volume, &export, path, disk.thin).await?;
        }
        self.agent.forget_exports().await;
        Ok(())
    }

    /// Lets a guest run that has arrived.
    pub(super) async fn arrive(&mut self, s: &Situation, mirror_to: Option<Replica>) -> Result<(), Failure> {
        let began = Instant::now();
        // The guest has stood still since before this host came to own it: the flush was begun after its last write.
        match self.live.flush.take() {
            Some(flush) => flush.await.map_err(|error| Failure::soon(error.to_string()))??,
            None => {
                for volume in self.own_volumes() {
                    self.agent.volumes.flush(volume).await?;
                }
            }
        }
        for volume in self.own_volumes() {
            self.withdraw(volume).await?;
        }
        let withdrawn = began.elapsed();
        let Some(running) = &self.running else { return Err(Failure::soon("the machine is gone")) };
        let opened = running.machine.open_disks().await?;
        if let Some(replica) = &mirror_to
            && let Err(failure) = self.mirror_back(s, replica, opened).await
        {
            self.live.mirror_back_failed = true;
            return Err(Failure { pause: Duration::ZERO, ..failure });
        }
        let mirrored = began.elapsed();
        if !self.agent.session.borrow().is_live(Instant::now()) {
            return Err(Failure::soon("the host's session ended while the guest was arriving"));
        }
        self.let_watchdog_know(s)?;
        let Some(running) = &mut self.running else { return Err(Failure::soon("the machine is gone")) };
        // From here on it may have run, whatever QEMU answers.
        running.may_run = true;
        self.launched_at = Some(s.assignment.epoch);
        running.machine.resume().await?;
        running.stage = Stage::Running;
        tracing::info!(
            guest = %self.guest,
            withdrawn_ms = withdrawn.as_millis(), mirrored_ms = mirrored.as_millis(),
            runs_ms = began.elapsed().as_millis(),
            "arrived"
        );
        let message = format!("'{}' runs on {} (epoch {})", self.guest, s.me, s.assignment.epoch);
        self.agent.events.info(EventKind::GuestStarted, self.about(), message);
        Ok(())
    }

    /// Mirrors a guest that has not run here yet to its old owner, whose replica is the same. That one serves it
    /// as soon as it has handed the guest over.
    async fn mirror_back(&mut self, s: &Situation, replica: &Replica, opened: bool) -> Result<(), Failure> {
        if !opened {
            return Err(Failure::soon("QEMU is too old to mirror a guest before it runs"));
        }
        let deadline = Instant::now() + MIRROR_BACK_WITHIN;
        let volumes: Vec<_> = s.spec.disks.iter().map(|disk| disk.volume).collect();
        loop {
            match self.attach_with(s, &volumes, replica, None).await {
                Ok(()) => break,
                Err(failure) if Instant::now() >= deadline => return Err(failure),
                Err(_) => tokio::time::sleep(MIRROR_BACK_POLL).await,
            }
        }
        self.wait_until_ready(&volumes).await
    }

    /// Says how long the guest stood still, when its old machine is about to go.
    pub(super) fn tell_departure(&self, s: &Situation) {
        let Some(numbers) = &self.live.numbers else { return };
        let stood = numbers.downtime_ms.map(|ms| format!("; it stood still for {ms} ms")).unwrap_or_default();
        let message = format!(
            "'{}' left {} for {} while it ran: {} in {:.1} s{stood}",
            self.guest,
            s.me,
            s.assignment.host,
            Bytes(numbers.transferred),
            Duration::from_millis(numbers.elapsed_ms).as_secs_f64()
        );
        self.agent.events.info(EventKind::GuestMoved, self.about(), message);
    }

    /// A machine that never ran here has no end that counts; but the next one is not tried at once.
    pub(super) fn notice_non_arrival(&mut self) {
        self.agent.set_incoming(&self.guest, None);
        if self.ending.take().is_none() {
            self.failures += 1;
            self.failed_at = Some(Instant::now());
        }
        tracing::info!(guest = %self.guest, "the machine that waited for the guest has ended");
    }
}

/// The hosts of a handover that a keeper must hear of.
pub(super) fn told_by(view: &model::ClusterView, assignment: Option<&Assignment>) -> Vec<Incoming> {
    let to: Option<&HostName> = assignment.and_then(live_handover).map(|handover| &handover.to);
    let report = to.and_then(|to| view.host_reports.get(to));
    report.map(|report| report.incoming.clone()).unwrap_or_default()
}
