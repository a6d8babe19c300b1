//! Taking one step for one guest. Each step may be broken off and repeated.
//!
//! The record of who is in sync is written before anything that makes it untrue is done, and after anything
//! that makes it true: let go in the record, then in QEMU; filled in QEMU, then admitted in the record.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use host::volume::Room;
use host::{ExportName, Fill, HostError, Hypervisor, MirrorState, ReplicaServer};
use model::{
    Bytes, DiskSpec, EventKind, Exit, ExitReason, FillHow, GuestReport, GuestState, InSync, Replica, VolumeId,
};
use plan::converge::{Mirror, Situation, Stage, Step};
use store::{Outcome, StoreError, keys};
use tokio::time::Instant;

use super::fill::FILL_RATE;
use super::hashes::{PeerHashes, end_old_connections};
use super::keeper::Keeper;
use crate::config::REPLICA_PORT;

/// After a conflict in the store: the change that caused it is on its way here.
const AFTER_CONFLICT: Duration = Duration::from_millis(100);

/// After a failure that is likely to pass soon.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// How long a mirror of two replicas that are the same may take to get ready.
const MIRROR_READY_TIMEOUT: Duration = Duration::from_secs(5);

const MIRROR_READY_POLL: Duration = Duration::from_millis(2);

fn room(disk: &DiskSpec) -> Room {
    if disk.thin { Room::Thin } else { Room::Reserved }
}

/// A step that did not succeed.
#[derive(Debug)]
pub(super) struct Failure {
    /// One sentence without a full stop.
    pub message: String,
    /// How long to wait before looking again.
    pub pause: Duration,
    /// It counts towards the guest's failures, which make the pauses grow and are told to people.
    pub counts: bool,
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        Self { message: error.to_string(), pause: Duration::ZERO, counts: true }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self { message: error.to_string(), pause: AFTER_FAILURE, counts: false }
    }
}

impl Failure {
    pub(super) fn conflict() -> Self {
        let message = "the guest's records changed meanwhile".to_owned();
        Self { message, pause: AFTER_CONFLICT, counts: false }
    }

    pub(super) fn soon(message: impl Into<String>) -> Self {
        Self { message: message.into(), pause: AFTER_FAILURE, counts: false }
    }
}

impl Keeper {
    pub(super) async fn take(&mut self, s: &Situation, step: Step) -> Result<(), Failure> {
        match step {
            Step::MakeVolumes { volumes } => self.make_volumes(s, &volumes).await,
            Step::TakeOver { keep } => self.take_over(s, keep).await,
            Step::ClaimAlone => self.record(s, [self.own_replica()]).await,
            Step::Start { mirror_to } => self.start(s, mirror_to).await,
            Step::GoOn => self.go_on().await,
            Step::Reset { restart } => self.reset(s, restart).await,
            Step::Shutdown => self.shut_down().await,
            Step::End { why } => self.end(s, why).await,
            Step::Attach { volumes, target, how, why } => {
                self.fills.begin(&volumes, target.boot_id, how, &why);
                self.attach(s, &volumes, &target, how, &why).await
            }
            Step::Admit { replica } => self.admit(s, replica).await,
            Step::LetGo { why } => self.let_go(s, &why).await,
            Step::Detach { volumes } => {
                // Written again although it says so already: an admission that is still under way somewhere,
                // perhaps since before this daemon started, is refused from here on.
                self.record(s, [self.own_replica()]).await?;
                self.detach(&volumes).await
            }
            Step::Grow { volumes } => self.grow(s, &volumes).await,
            Step::GrowReplica { volume } => self.grow_replica(s, volume).await,
            Step::MakeReplica { volume } => self.make_replica(s, volume).await,
            Step::Serve { volume } => self.serve(s, volume).await,
            Step::Withdraw { volume } => self.withdraw(volume).await,
            Step::DropReplica { volume } => self.drop_replica(s, volume).await,
            Step::DeleteVolumes => self.delete_volumes(s).await,
            Step::Receive { machine_type, cpu, boot_generation } => {
                self.receive(s, (&machine_type, cpu), boot_generation).await
            }
            Step::Send { to } => self.send(s, to).await,
            Step::Adjust { downtime_limit_ms } => self.adjust(s, downtime_limit_ms).await,
            Step::StartPostCopy => self.start_post_copy().await,
            Step::CancelSend { gave_up } => self.cancel_send(s, gave_up).await,
            Step::HandOver { next } => self.hand_over(s, &next).await,
            Step::Deliver => self.deliver(s, s.assignment.epoch).await,
            Step::Arrive { mirror_to } => self.arrive(s, mirror_to).await,
            Step::Rest { .. } => Ok(()),
        }
    }

    fn own_replica(&self) -> Replica {
        Replica { host: self.agent.me.clone(), boot_id: self.agent.boot }
    }

    /// Writes the in-sync sets of all the guest's volumes, if this host still owns it exactly as it did when
    /// the step was chosen. Whatever write of this keeper is still under way is refused after this one.
    pub(super) async fn record(
        &mut self,
        s: &Situation,
        members: impl IntoIterator<Item = Replica>,
    ) -> Result<(), Failure> {
        let members: BTreeSet<Replica> = members.into_iter().collect();
        if members.len() > 1 {
            // From this record on another host may run the guest.
            self.tell_watchdog(true)?;
        }
        let epoch = s.assignment.epoch;
        let outcome = self
            .agent
            .state
            .change(|view, txn| {
                txn.unchanged(&keys::assignment(&self.guest));
                for disk in &s.spec.disks {
                    let members = members.clone();
                    let next = match view.in_sync.get(&disk.volume) {
                        Some(before) => before.followed_by(epoch, members, s.now),
                        None => InSync::first(disk.volume, epoch, members, s.now),
                    };
                    txn.put(&next.heeding(s.spec.resync));
                }
                view.assignments.get(&self.guest) == Some(&s.assignment)
            })
            .await?;
        match outcome {
            Outcome::Committed { .. } => {
                self.maybe_admitted = None;
                Ok(())
            }
            Outcome::Conflict => Err(Failure::conflict()),
        }
    }

    async fn make_volumes(&mut self, s: &Situation, volumes: &[VolumeId]) -> Result<(), Failure> {
        for disk in s.spec.disks.iter().filter(|disk| volumes.contains(&disk.volume)) {
            // A file appears whole. One without a record was made by an earlier try, or belongs to a store
            // that was set back: in both cases what is in it is the best there is.
            self.withdraw(disk.volume).await?;
            let volumes = self.volumes_of(disk).await?;
            if volumes.exists(disk.volume) {
                continue;
            }
            match &disk.image {
                Some(name) => {
                    let image = self.agent.images.ensure(name).await?;
                    let path = self.agent.images.path(&image.disk);
                    let source = (path.as_path(), image.format);
                    volumes.create_from_in(disk.volume, disk.size, source, room(disk)).await?;
                }
                None => volumes.create_empty_in(disk.volume, disk.size, room(disk)).await?,
            }
        }
        self.record(s, [self.own_replica()]).await
    }

    /// After this no connection of the old epoch can write to the replicas, and they are on disk.
    async fn take_over(&mut self, s: &Situation, keep: Option<Replica>) -> Result<(), Failure> {
        // Storage that hosts share has nothing on this host that another one could write to.
        for disk in s.spec.disks.iter().filter(|disk| disk.pool_name.is_none()) {
            self.withdraw(disk.volume).await?;
            self.agent.volumes.flush(disk.volume).await?;
        }
        self.record(s, keep.into_iter().chain([self.own_replica()])).await
    }

    async fn start(&mut self, s: &Situation, mirror_to: Option<Replica>) -> Result<(), Failure> {
        // The run before it may have ended while nobody knew whether another host had come to own the guest.
        self.settle_handover(s).await?;
        if let Some((before, _)) = &s.starts_after {
            self.tell_out_of_turn(before);
        }
        let config = self.machine_config(s).await?;
        // The end of an earlier run of the same generation must not be taken for the end of this one.
        let before = self.exit.clone();
        self.exit = self.exit.take().filter(|exit| exit.boot_generation != s.spec.boot_generation);
        self.launched_at = Some(s.assignment.epoch);
        let report = GuestReport {
            guest: self.guest.clone(),
            guest_id: s.spec.id,
            host: s.me.clone(),
            boot_id: s.boot,
            epoch: s.assignment.epoch,
            state: GuestState::Starting,
            boot_generation: s.spec.boot_generation,
            since: s.now,
            accelerator: Some(config.accelerator),
            exit: self.exit.clone(),
            volumes: vec![],
            message: None,
            machine_type: None,
            cpu: Some(config.cpu),
            migration: None,
            no_room: false,
            failed_at: self.run_failed_at,
            health: self.health.record.clone(),
        };
        // The store's word, as of now, that this host owns the guest; and the mark by which a later run of
        // this daemon knows that there was a run whose end it has not seen.
        self.reporter.say_now(&self.agent, report).await?;
        self.ending = None;
        self.shutdown_asked_at = None;
        self.shutdown_taken_back_at = None;
        let machine = match self.agent.driver.launch(&config).await {
            Ok(machine) => machine,
            // One that nobody knew of runs already.
            Err(error @ HostError::Conflict(_)) => return Err(error.into()),
            Err(error) => {
                self.exit = before;
                return Err(error.into());
            }
        };
        self.exit_before = before;
        self.take_machine(machine, Some(Stage::Prelaunch)).await;
        if let Some(replica) = &mirror_to {
            self.attach_same(s, replica).await?;
        }
        if !self.agent.session.borrow().is_live(Instant::now()) {
            return Err(Failure::soon("the host's session ended while the guest was being started"));
        }
        self.let_watchdog_know(s)?;
        let Some(running) = &mut self.running else { return Err(Failure::soon("the machine is gone")) };
        // From here on it may have run, whatever QEMU answers.
        running.may_run = true;
        self.exit_before = None;
        running.machine.resume().await?;
        running.stage = Stage::Running;
        let message = format!("'{}' started on {} (epoch {})", self.guest, s.me, s.assignment.epoch);
        self.agent.events.info(EventKind::GuestStarted, self.about(), message);
        Ok(())
    }

    /// Mirrors a machine that has not run yet to a replica that is the same as its own.
    async fn attach_same(&mut self, s: &Situation, replica: &Replica) -> Result<(), Failure> {
        let volumes: Vec<VolumeId> = s.spec.disks.iter().map(|disk| disk.volume).collect();
        self.attach_with(s, &volumes, replica, None).await?;
        self.wait_until_ready(&volumes).await
    }

    /// Returns when mirrors that have nothing to copy take part in every write.
    pub(super) async fn wait_until_ready(&mut self, volumes: &[VolumeId]) -> Result<(), Failure> {
        let Some(running) = &self.running else { return Err(Failure::soon("the machine is gone")) };
        let deadline = Instant::now() + MIRROR_READY_TIMEOUT;
        for &volume in volumes {
            while running.machine.mirror(volume).await? != MirrorState::Ready {
                if Instant::now() >= deadline {
                    return Err(Failure::soon(format!("the mirror of {volume} does not get ready")));
                }
                tokio::time::sleep(MIRROR_READY_POLL).await;
            }
        }
        Ok(())
    }

    /// `how` the replicas are filled; `None`: they are the same as those here.
    pub(super) async fn attach_with(
        &mut self,
        s: &Situation,
        volumes: &[VolumeId],
        target: &Replica,
        how: Option<FillHow>,
    ) -> Result<(), Failure> {
        let host = {
            let cache = self.agent.state.read();
            cache.view().hosts.get(&target.host).cloned()
        };
        let Some(host) = host else {
            return Err(Failure::soon(format!("the host {} is not in the store", target.host)));
        };
        self.leave_records_alone().await;
        let address = SocketAddr::new(host.address, REPLICA_PORT);
        let Some(running) = &mut self.running else { return Ok(()) };
        running.mirrors_stale = true;
        for &volume in volumes {
            let export = ExportName::new(volume, s.assignment.epoch, target.boot_id);
            running.targets.insert(volume, target.boot_id);
            running.broken.remove(&volume);
            let machine = &running.machine;
            if how.is_some() {
                end_old_connections(&self.agent, &host, volume, &export).await?;
            }
            let fill = match how {
                None => Fill::Nothing,
                Some(FillHow::Changed) => Fill::Changed,
                Some(FillHow::Whole) => Fill::Everything,
                Some(FillHow::Compared) => {
                    let client = self.agent.peer_client.to(&host);
                    let client = client.map_err(|error| Failure::soon(error.to_string()))?;
                    let theirs = Arc::new(PeerHashes { client, volume, export: export.clone() });
                    machine.attach_compared(volume, address, &export, theirs).await?;
                    continue;
                }
            };
            machine.attach_mirror(volume, address, &export, fill).await?;
        }
        Ok(())
    }

    async fn attach(
        &mut self,
        s: &Situation,
        volumes: &[VolumeId],
        target: &Replica,
        how: FillHow,
        why: &str,
    ) -> Result<(), Failure> {
        let pace = self.pace(how);
        if let Some(running) = &mut self.running {
            for &volume in volumes {
                running.machine.limit_fill(volume, pace).await?;
                running.paces.insert(volume, (how, pace));
            }
        }
        if let Err(failure) = self.attach_with(s, volumes, target, Some(how)).await {
            return Err(Failure::soon(failure.message));
        }
        let message = format!("'{}' on {} is being filled with {how}: {why}", self.guest, target.host);
        self.agent.events.info(EventKind::VolumeSyncing, self.about(), message);
        Ok(())
    }

    /// Bytes per second that a replica is filled with; 0: without a limit.
    fn pace(&self, how: FillHow) -> u64 {
        let cache = self.agent.state.read();
        let asked = cache.view().cluster.as_ref().and_then(|cluster| cluster.settings.resync_pace);
        match (asked, how) {
            (Some(pace), _) => pace.0,
            // QEMU counts zeroes, too, when it copies all to a replica that is not thin: a limit that nobody asked for
            // would make a large new disk wait for its second copy.
            (None, FillHow::Whole) => 0,
            (None, FillHow::Changed | FillHow::Compared) => FILL_RATE,
        }
    }

    /// Lets fills that are under way follow a pace that was changed.
    pub(super) async fn keep_pace(&mut self) {
        let Some(running) = &self.running else { return };
        let old = running.paces.clone();
        for (volume, (how, before)) in old {
            let pace = self.pace(how);
            let Some(running) = self.running.as_mut().filter(|_| pace != before) else { continue };
            match running.machine.limit_fill(volume, pace).await {
                Ok(()) => drop(running.paces.insert(volume, (how, pace))),
                Err(error) => tracing::debug!(%volume, %error, "a new pace is tried again"),
            }
        }
    }

    async fn admit(&mut self, s: &Situation, replica: Replica) -> Result<(), Failure> {
        self.maybe_admitted = Some(replica.clone());
        let host = replica.host.clone();
        self.record(s, [self.own_replica(), replica]).await?;
        let filled = self.note_filled(s);
        let message = format!("'{}' is in sync on {} and {host}{filled}", self.guest, s.me);
        self.agent.events.info(EventKind::VolumeInSync, self.about(), message);
        Ok(())
    }

    /// Takes note of what it took, and says it.
    fn note_filled(&mut self, s: &Situation) -> String {
        let (mut sent, mut took_ms, mut ways) = (0, 0, BTreeSet::new());
        for disk in &s.spec.disks {
            // What QEMU copies by itself is all of the disk.
            let bytes = self.running.as_ref().and_then(|running| running.machine.sent(disk.volume));
            if let Some(filled) = self.fills.succeed(disk.volume, bytes.unwrap_or(disk.size.0), s.now) {
                sent += filled.sent;
                took_ms = filled.took_ms.max(took_ms);
                ways.insert(filled.how.to_string());
            }
        }
        if ways.is_empty() {
            return String::new();
        }
        let (ways, seconds) =
            (Vec::from_iter(ways).join(" and "), Duration::from_millis(took_ms).as_secs_f64());
        format!("; {ways} was sent, {} in {seconds:.1} s", Bytes(sent))
    }

    async fn let_go(&mut self, s: &Situation, why: &str) -> Result<(), Failure> {
        self.record(s, [self.own_replica()]).await?;
        let broken = self.running.as_ref().and_then(|running| running.broken.values().next());
        let broken = broken.map(|why| format!(" ({why})")).unwrap_or_default();
        let message = format!("'{}' goes on with one replica, on {}: {why}{broken}", self.guest, s.me);
        self.agent.events.warning(EventKind::VolumeAlone, self.about(), message);
        let volumes: Vec<VolumeId> = s.spec.disks.iter().map(|disk| disk.volume).collect();
        self.detach(&volumes).await
    }

    async fn detach(&mut self, volumes: &[VolumeId]) -> Result<(), Failure> {
        self.leave_records_alone().await;
        let Some(running) = &mut self.running else { return Ok(()) };
        running.mirrors_stale = true;
        for volume in volumes {
            if running.mirrors.get(volume) == Some(&Mirror::Broken) {
                self.fills.fail(*volume);
            }
            self.fills.end(*volume);
            running.paces.remove(volume);
            match running.machine.let_go(*volume).await {
                Ok(()) => {
                    running.targets.remove(volume);
                    running.broken.remove(volume);
                }
                // Its main loop hangs, as after a reset during a hold. What it holds was acknowledged to
                // nobody, and the record names this host alone: it may be ended, and is started anew.
                Err(error @ HostError::TimedOut(_)) => {
                    running.machine.kill().await?;
                    return Err(error.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn go_on(&mut self) -> Result<(), Failure> {
        let Some(running) = &mut self.running else { return Ok(()) };
        running.room_stale = true;
        running.went_on_at = Some(Instant::now());
        Ok(running.machine.resume().await?)
    }

    async fn shut_down(&mut self) -> Result<(), Failure> {
        let Some(running) = &self.running else { return Ok(()) };
        // One that is just ending does not answer, which is no failure of the guest's.
        let asked = running.machine.request_shutdown().await;
        asked.map_err(|error| Failure { pause: AFTER_CONFLICT, ..Failure::soon(error.to_string()) })?;
        let now = Instant::now();
        self.shutdown_asked_at = Some((self.shutdown_asked_at.map_or(now, |(first, _)| first), now));
        Ok(())
    }

    async fn end(&mut self, s: &Situation, why: ExitReason) -> Result<(), Failure> {
        let Some(running) = &self.running else { return Ok(()) };
        if why == ExitReason::Moved {
            self.tell_departure(s);
        }
        self.ending = Some(why);
        running.machine.kill().await?;
        self.notice_end();
        if let Some(running) = self.running.take() {
            self.leave_watchdog(&running);
            // Killed, and its end was not noticed: the kill's word is good enough.
            self.agent.set_machine(&self.guest, None);
            let boot_generation = running.machine.label().boot_generation;
            let at = jiff::Timestamp::now();
            let exit = Exit { boot_generation, reason: why, at, secondary_failed: false };
            self.exit = Some(self.exit_before.take().unwrap_or(exit));
        }
        if s.assignment.host != s.me || s.spec.deleting {
            self.remove_taps(s).await;
        }
        Ok(())
    }

    async fn make_replica(&mut self, s: &Situation, volume: VolumeId) -> Result<(), Failure> {
        let Some(disk) = s.spec.disks.iter().find(|disk| disk.volume == volume) else { return Ok(()) };
        Ok(self.agent.volumes.create_empty_in(volume, disk.size, room(disk)).await?)
    }

    /// The guest's own disks. The room is taken before the guest sees it.
    async fn grow(&mut self, s: &Situation, volumes: &[VolumeId]) -> Result<(), Failure> {
        for disk in s.spec.disks.iter().filter(|disk| volumes.contains(&disk.volume)) {
            match &self.running {
                Some(running) => {
                    if !disk.thin {
                        self.agent.volumes.reserve(disk.volume, disk.size).await?;
                    }
                    running.machine.grow(disk.volume, disk.size).await?;
                }
                None => self.agent.volumes.grow(disk.volume, disk.size, room(disk)).await?,
            }
            let message = format!("a disk of '{}' is {} now", self.guest, disk.size);
            self.agent.events.info(EventKind::VolumeGrown, self.about(), message);
        }
        Ok(())
    }

    async fn grow_replica(&mut self, s: &Situation, volume: VolumeId) -> Result<(), Failure> {
        let Some(disk) = s.spec.disks.iter().find(|disk| disk.volume == volume) else { return Ok(()) };
        Ok(self.agent.volumes.grow(volume, disk.size, room(disk)).await?)
    }

    async fn serve(&mut self, s: &Situation, volume: VolumeId) -> Result<(), Failure> {
        let export = ExportName::new(volume, s.assignment.epoch, s.boot);
        let thin = s.spec.disks.iter().any(|disk| disk.volume == volume && disk.thin);
        let path = self.agent.volumes.path(volume);
        let served = self.agent.replicas.serve_as(volume, &export, path, thin).await;
        self.agent.forget_exports().await;
        Ok(served?)
    }

    pub(super) async fn withdraw(&self, volume: VolumeId) -> Result<(), Failure> {
        let withdrawn = self.agent.replicas.withdraw(volume).await;
        self.agent.forget_exports().await;
        Ok(withdrawn?)
    }

    /// Deletes a replica that no record counts on and that a record tells to delete; then that record, if the guest
    /// is still elsewhere.
    async fn drop_replica(&mut self, s: &Situation, volume: VolumeId) -> Result<(), Failure> {
        self.withdraw(volume).await?;
        self.agent.volumes.delete(volume).await?;
        self.remove_taps(s).await;
        let key = keys::replica_drop(&s.me, volume);
        let outcome = self.agent.state.change(|view, txn| {
            txn.delete(&key);
            view.drops.contains_key(&(s.me.clone(), volume))
        });
        match outcome.await? {
            Outcome::Committed { .. } => Ok(()),
            Outcome::Conflict => Err(Failure::conflict()),
        }
    }

    async fn delete_volumes(&mut self, s: &Situation) -> Result<(), Failure> {
        self.remove_taps(s).await;
        for disk in &s.spec.disks {
            self.withdraw(disk.volume).await?;
            self.volumes_of(disk).await?.delete(disk.volume).await?;
        }
        Ok(self.agent.driver.forget(s.spec.id).await?)
    }

    /// Settles an admission whose outcome is unknown by making it once more; whichever of the two arrives
    /// last is refused, or says the same.
    pub(super) async fn settle(&mut self, s: &Situation) -> Result<(), Failure> {
        match self.maybe_admitted.clone() {
            Some(replica) => self.admit(s, replica).await,
            None => Ok(()),
        }
    }
}
