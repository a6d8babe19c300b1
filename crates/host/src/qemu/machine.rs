//! One running machine, launched or adopted.
//!
//! A task of the machine's own listens to QEMU for as long as the [`QemuMachine`] is held: it passes on what
//! concerns the mirrors, remembers that the guest shut itself down, connects anew when QMP's connection ends
//! while QEMU lives, and announces the end. Dropping the machine ends the task and the connection, and leaves
//! QEMU as it is.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use model::{Bytes, CpuModel, ReplicaFile, VolumeId};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::agent::GuestAgent;
use super::changes::Changes;
use super::command::SCREEN_SOCKET;
use super::doubt::Doubts;
use super::handover::{Disk, Handover};
use super::health;
use super::migration::Migration;
use super::mirror::{Goal, Mirror};
use super::names::Names;
use super::process::{ProcessHandle, ProcessId};
use super::qmp::{Qmp, QmpError, QmpEvent};
use super::record::MachineRecord;
use super::resync::{Copy, Resync};
use super::tls::TlsFiles;
use crate::compare::Hashes;
use crate::{
    ExecResult, ExportName, Fill, HostError, Machine, MachineEnd, MachineEvent, MachineLabel, MigrationPhase,
    MigrationSettings, MigrationState, MirrorState, Picture, RunState, Tracked,
};

/// Events that a slow listener may be behind.
const EVENT_BACKLOG: usize = 64;

/// How often the process is looked at, should the end of its QMP connection go unnoticed, and how often the
/// serial log's length is checked.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// How long a process without a QMP connection is given to end, before it is connected to again.
const ENDING_LIMIT: Duration = Duration::from_secs(1);
const ENDING_POLL: Duration = Duration::from_millis(10);

/// How long one try to connect again may take.
const RECONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long a machine that stands still may take to be reset.
const RESET_LIMIT: Duration = Duration::from_secs(3);
const RESET_POLL: Duration = Duration::from_millis(20);

/// How long the news of a killed process's end may take to arrive here.
const NEWS_LIMIT: Duration = Duration::from_secs(5);

/// A machine that runs, or has just ended.
#[derive(Debug)]
pub(crate) struct QemuMachine {
    shared: Arc<Shared>,
    supervisor: tokio::task::JoinHandle<()>,
}

impl Drop for QemuMachine {
    fn drop(&mut self) {
        self.supervisor.abort();
        // Their tasks hold what they are kept in.
        self.shared.resyncs().clear();
    }
}

/// Where a machine's files are.
#[derive(Debug, Clone)]
pub(crate) struct MachinePaths {
    pub run_dir: PathBuf,
    pub serial_log: PathBuf,
}

#[derive(Debug)]
struct Shared {
    record: MachineRecord,
    process: ProcessHandle,
    paths: MachinePaths,
    qmp: Mutex<Arc<Qmp>>,
    agent: GuestAgent,
    events: broadcast::Sender<MachineEvent>,
    end: watch::Sender<Option<MachineEnd>>,
    guest_shut_down: AtomicBool,
    tls: Option<TlsFiles>,
    /// Those that this daemon has begun.
    resyncs: Mutex<BTreeMap<VolumeId, Resync>>,
    /// How fast mirrors may be filled, bytes per second; those that are not here, as fast as it goes.
    fill_limits: Mutex<BTreeMap<VolumeId, u64>>,
    doubts: Doubts,
}

impl QemuMachine {
    /// Takes charge of a process whose QMP connection is made.
    pub fn take(
        record: MachineRecord,
        process: ProcessHandle,
        qmp: Qmp,
        paths: MachinePaths,
        tls: Option<TlsFiles>,
    ) -> QemuMachine {
        let qmp_events = qmp.events();
        let agent = GuestAgent::new(record.label.guest.clone(), paths.run_dir.join("agent.sock"));
        let shared = Arc::new(Shared {
            record,
            process,
            paths,
            qmp: Mutex::new(Arc::new(qmp)),
            agent,
            events: broadcast::channel(EVENT_BACKLOG).0,
            end: watch::channel(None).0,
            guest_shut_down: AtomicBool::new(false),
            tls,
            resyncs: Mutex::default(),
            fill_limits: Mutex::default(),
            doubts: Doubts::default(),
        });
        let supervisor = tokio::spawn(supervise(Arc::clone(&shared), qmp_events));
        QemuMachine { shared, supervisor }
    }
}

impl QemuMachine {
    async fn connect(&self, socket: &str, what: &str) -> Result<UnixStream, HostError> {
        UnixStream::connect(self.shared.paths.run_dir.join(socket)).await.map_err(|error| {
            HostError::Failed(format!(
                "cannot open the {what} of '{}': {error}; see whether the guest runs",
                self.label().guest
            ))
        })
    }

    /// Brings to its end what an earlier daemon had begun: a disk that is half let go of writes nothing.
    pub async fn finish_what_was_begun(&self) -> Result<(), HostError> {
        for volume in &self.shared.record.disks {
            let (names, what) = self.shared.names(*volume)?;
            let qmp = self.shared.qmp();
            let mirror = Mirror::new(&qmp, names, &what);
            if mirror.is_half_let_go().await? {
                self.shared.doubts.release(*volume);
                mirror.let_go().await?;
            }
        }
        Ok(())
    }
}

impl Shared {
    fn resyncs(&self) -> MutexGuard<'_, BTreeMap<VolumeId, Resync>> {
        self.resyncs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fill_limits(&self) -> MutexGuard<'_, BTreeMap<VolumeId, u64>> {
        self.fill_limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a resync that is under way.
    async fn end_resync(&self, volume: VolumeId) {
        let resync = self.resyncs().remove(&volume);
        if let Some(resync) = resync {
            resync.end().await;
        }
    }

    fn disks(&self) -> Vec<Disk> {
        let guest = &self.record.label.guest;
        let disk = |volume: &VolumeId| Disk {
            names: Names::of(*volume),
            what: format!("volume {volume} of '{guest}'"),
            shared: self.record.shared.contains(volume),
        };
        self.record.disks.iter().map(disk).collect()
    }

    fn migration<'a>(&'a self, qmp: &'a Qmp) -> Migration<'a> {
        Migration::new(qmp, &self.record.label.guest, self.tls.as_ref())
    }

    fn handover<'a>(&'a self, qmp: &'a Qmp) -> Handover<'a> {
        Handover::new(qmp, &self.record.label.guest, self.disks())
    }

    /// Mirrors a volume, and begins to send what changed, if that is to be the fill; or, with `theirs`, what differs.
    async fn attach(
        self: &Arc<Self>,
        volume: VolumeId,
        target: SocketAddr,
        export: &ExportName,
        fill: Fill,
        theirs: Option<Arc<dyn Hashes>>,
    ) -> Result<(), HostError> {
        let (names, what) = self.names(volume)?;
        let qmp = self.qmp();
        let mirror = Mirror::new(&qmp, names, &what);
        let goal = Goal {
            target,
            export,
            fill,
            limit: self.fill_limits().get(&volume).copied().unwrap_or(0),
            thin: self.record.thin.contains(&volume),
            tls: self.tls.as_ref(),
            doubts: (&self.doubts, volume),
        };
        if fill != Fill::Changed {
            return mirror.attach(goal).await.map(drop);
        }
        if theirs.is_none() && Changes::new(&qmp, names, &what).tracked().await?.is_none() {
            return Err(HostError::NotFound(format!(
                "cannot send {target} only what changed of {what}: nothing was recorded; fill it with everything"
            )));
        }
        // Whoever looks sees it being filled from the moment on at which it is marked as unfilled.
        let earlier = self.resyncs().insert(volume, Resync::default());
        match mirror.attach(goal).await {
            Ok(true) => {}
            unchanged => {
                let mut resyncs = self.resyncs();
                match earlier {
                    Some(earlier) => drop(resyncs.insert(volume, earlier)),
                    None => drop(resyncs.remove(&volume)),
                }
                return unchanged.map(drop);
            }
        }
        let socket = self.paths.run_dir.join("nbd.sock");
        let (export, tls) = (export.clone(), self.tls.clone());
        let copy = Copy { qmp: Arc::clone(&qmp), names, what, socket, target, export, tls, theirs };
        let shared = Arc::clone(self);
        let limit = self.fill_limits().get(&volume).copied().unwrap_or(0);
        let resync = Resync::begin(copy, limit, move || shared.tell(MachineEvent::Mirror(volume)));
        self.resyncs().insert(volume, resync);
        Ok(())
    }

    /// What a mirror's job says, and what the resync beside it says.
    async fn mirror_state(&self, volume: VolumeId) -> Result<MirrorState, HostError> {
        let (names, what) = self.names(volume)?;
        let qmp = self.qmp();
        let gap = self.doubts.gap();
        // In this order, which is kept on the way: a resync that ends in between shows as still under way.
        let (changes, mirror) = (Changes::new(&qmp, names, &what), Mirror::new(&qmp, names, &what));
        let unfilled = changes.is_unfilled().await?;
        let state = mirror.state().await?;
        match &state {
            MirrorState::Broken(why) => self.doubts.fail(volume, why),
            MirrorState::Ready => self.doubts.settle(volume, gap),
            MirrorState::Absent | MirrorState::Filling { .. } => {}
        }
        match state {
            // The job ended by itself, and not well.
            MirrorState::Absent => {
                Ok(self.doubts.failure(volume).map_or(MirrorState::Absent, MirrorState::Broken))
            }
            MirrorState::Ready | MirrorState::Filling { .. } if unfilled => {
                let resync = self.resyncs().get(&volume).map(|resync| resync.progress.state());
                Ok(resync.unwrap_or_else(|| {
                    MirrorState::Broken("the resync ended with the daemon that did it".to_owned())
                }))
            }
            state @ (MirrorState::Filling { .. } | MirrorState::Ready | MirrorState::Broken(_)) => Ok(state),
        }
    }

    fn qmp(&self) -> Arc<Qmp> {
        Arc::clone(&self.qmp.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn command(&self, command: &str, doing: &str) -> Result<Value, HostError> {
        let result = self.qmp().execute(command, json!({})).await;
        result.map_err(|error| error.into_host(&format!("{doing} '{}'", self.record.label.guest)))
    }

    /// Refuses volumes that this machine does not have.
    fn names(&self, volume: VolumeId) -> Result<(Names, String), HostError> {
        let guest = &self.record.label.guest;
        if !self.record.disks.contains(&volume) {
            return Err(HostError::NotFound(format!("the machine of '{guest}' has no volume {volume}")));
        }
        Ok((Names::of(volume), format!("volume {volume} of '{guest}'")))
    }

    fn hear(&self, event: &QmpEvent) {
        let data = &event.data;
        match event.name.as_str() {
            "SHUTDOWN" if data["reason"] == "guest-shutdown" => {
                self.guest_shut_down.store(true, Ordering::Relaxed);
            }
            "BLOCK_JOB_READY" | "BLOCK_JOB_ERROR" | "BLOCK_JOB_COMPLETED" | "BLOCK_JOB_CANCELLED" => {
                let volumes = self.record.disks.iter();
                for volume in volumes.filter(|volume| data["device"] == Names::of(**volume).job()) {
                    if event.name == "BLOCK_JOB_ERROR" {
                        self.doubts.fail(*volume, "the secondary answered a write with an error");
                    }
                    if let Some(why) = data["error"].as_str() {
                        self.doubts.fail(*volume, why);
                    }
                    self.tell(MachineEvent::Mirror(*volume));
                }
            }
            "MIGRATION" => self.tell(MachineEvent::Migration),
            "STOP" | "RESUME" | "BLOCK_IO_ERROR" | "GUEST_PANICKED" => self.tell(MachineEvent::Room),
            "RESET" => self.tell(MachineEvent::Reset),
            _ => {}
        }
    }

    fn hear_of_gap(&self) {
        self.doubts.miss(&self.record.disks);
        for volume in &self.record.disks {
            self.tell(MachineEvent::Mirror(*volume));
        }
        self.tell(MachineEvent::Migration);
        self.tell(MachineEvent::Room);
    }

    fn tell(&self, event: MachineEvent) {
        // An error says that nobody listens.
        let _ = self.events.send(event);
    }

    /// The process is gone: clears its folder, and says so.
    fn finish(&self) {
        let run_dir = &self.paths.run_dir;
        // The guest may have been launched anew already by somebody else; then the folder is not ours.
        let ours = MachineRecord::read(run_dir).is_ok_and(|record| record.process == Some(self.process.id));
        if ours && let Err(error) = std::fs::remove_dir_all(run_dir) {
            tracing::warn!(%error, folder = %run_dir.display(), "cannot clear the folder of an ended machine");
        }
        let shut_down = self.guest_shut_down.load(Ordering::Relaxed);
        let end = if shut_down { MachineEnd::GuestShutdown } else { MachineEnd::Died };
        self.end.send_replace(Some(end));
        self.tell(MachineEvent::Gone(end));
    }
}

async fn supervise(shared: Arc<Shared>, mut events: broadcast::Receiver<QmpEvent>) {
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let qmp = shared.qmp();
        tokio::select! {
            // In this order: what QEMU said last is heard before its end.
            biased;
            event = events.recv() => match event {
                Ok(event) => shared.hear(&event),
                Err(broadcast::error::RecvError::Lagged(_)) => shared.hear_of_gap(),
                Err(broadcast::error::RecvError::Closed) => {}
            },
            () = qmp.closed() => {
                drop(qmp);
                match after_close(&shared).await {
                    Some(again) => events = again,
                    None => return shared.finish(),
                }
            }
            _ = look.tick() => {
                if shared.process.is_gone() {
                    return shared.finish();
                }
                trim_log(&shared).await;
            }
        }
    }
}

/// Waits for the end of a process that closed its QMP connection, or connects again. None: it is gone.
async fn after_close(shared: &Shared) -> Option<broadcast::Receiver<QmpEvent>> {
    loop {
        let deadline = Instant::now() + ENDING_LIMIT;
        while Instant::now() < deadline {
            if shared.process.is_gone() {
                return None;
            }
            tokio::time::sleep(ENDING_POLL).await;
        }
        let socket = shared.paths.run_dir.join("qmp.sock");
        match Qmp::connect(&socket, RECONNECT_LIMIT, || !shared.process.is_gone()).await {
            Ok(qmp) => {
                let events = qmp.events();
                *shared.qmp.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(qmp);
                shared.hear_of_gap();
                return Some(events);
            }
            Err(error) => {
                let guest = &shared.record.label.guest;
                tracing::warn!(%error, %guest, "QEMU lives, and its control socket does not answer");
            }
        }
    }
}

async fn trim_log(shared: &Shared) {
    let log = shared.paths.serial_log.clone();
    let trimmed = tokio::task::spawn_blocking(move || super::serial_log::bound(&log)).await;
    if let Ok(Err(error)) = trimmed {
        tracing::warn!(%error, guest = %shared.record.label.guest, "cannot cut the serial log short");
    }
}

#[async_trait]
impl Machine for QemuMachine {
    fn label(&self) -> &MachineLabel {
        &self.shared.record.label
    }

    fn events(&self) -> broadcast::Receiver<MachineEvent> {
        self.shared.events.subscribe()
    }

    fn ended(&self) -> Option<MachineEnd> {
        *self.shared.end.borrow()
    }

    fn pid(&self) -> Option<u32> {
        self.ended().is_none().then(|| u32::try_from(self.shared.process.id.pid).ok())?
    }

    fn process(&self) -> Option<ProcessId> {
        Some(self.shared.process.id)
    }

    fn cpu(&self) -> Option<CpuModel> {
        self.shared.record.cpu
    }

    async fn run_state(&self) -> Result<RunState, HostError> {
        if self.ended().is_some() {
            return Ok(RunState::Ended);
        }
        // At once: the guest may be standing still, and wait for the answer.
        let qmp = self.shared.qmp();
        let (handover, migration) = (self.shared.handover(&qmp), self.shared.migration(&qmp));
        let (status, begun, migration) = tokio::join!(
            self.shared.command("query-status", "ask for the state of"),
            handover.is_begun(),
            migration.state()
        );
        Ok(match status?["status"].as_str().unwrap_or_default() {
            "prelaunch" => RunState::Prelaunch,
            "inmigrate" => RunState::Incoming,
            "guest-panicked" => RunState::Panicked,
            "internal-error" => RunState::Upset,
            "shutdown" => RunState::Ended,
            "postmigrate" => RunState::Left,
            _ if begun? => RunState::Left,
            // Of all errors only lack of room stops it.
            "io-error" => RunState::NoRoom,
            "running" => RunState::Running,
            "paused" if matches!(migration?.phase, MigrationPhase::Completed | MigrationPhase::Postcopy) => {
                RunState::Arrived
            }
            _ => RunState::Paused,
        })
    }

    async fn resume(&self) -> Result<(), HostError> {
        let guest = &self.label().guest;
        let before = self.run_state().await?;
        match before {
            RunState::Left => {
                return Err(HostError::Conflict(format!(
                    "cannot let '{guest}' run: it was handed over to another host; end it here"
                )));
            }
            // QEMU would take it for a wish, and let the guest run as soon as it is here.
            RunState::Incoming => {
                return Err(HostError::Conflict(format!(
                    "cannot let '{guest}' run: it has not arrived from its other host yet"
                )));
            }
            RunState::Prelaunch
            | RunState::Arrived
            | RunState::Running
            | RunState::Paused
            | RunState::NoRoom
            | RunState::Panicked
            | RunState::Upset
            | RunState::Ended => {}
        }
        self.shared.command("cont", "let run").await?;
        let qmp = self.shared.qmp();
        if before == RunState::Arrived
            && let Err(error) = self.shared.migration(&qmp).announce().await
        {
            tracing::warn!(%error, %guest, "the network is not told where the guest is");
        }
        Ok(())
    }

    async fn request_shutdown(&self) -> Result<(), HostError> {
        if self.ended().is_some() {
            return Ok(());
        }
        self.shared.command("system_powerdown", "shut down").await.map(drop)
    }

    async fn reset(&self) -> Result<(), HostError> {
        let halted = |state| matches!(state, RunState::Panicked | RunState::Upset);
        let stood_still = halted(self.run_state().await?);
        self.shared.command("system_reset", "reset").await?;
        if !stood_still {
            return Ok(());
        }
        // QEMU resets in its own time, and leaves a machine that stood still for us to let go on.
        let deadline = Instant::now() + RESET_LIMIT;
        while halted(self.run_state().await?) {
            if Instant::now() >= deadline {
                return Err(HostError::TimedOut(format!("'{}' is not reset in time", self.label().guest)));
            }
            tokio::time::sleep(RESET_POLL).await;
        }
        self.shared.command("cont", "let run").await.map(drop)
    }

    async fn ping(&self) -> Result<(), HostError> {
        self.shared.agent.ping().await
    }

    async fn disk_requests(&self) -> Result<u64, HostError> {
        let answer = self.shared.command("query-blockstats", "ask for the disks of").await?;
        Ok(health::disk_requests(&answer))
    }

    async fn picture(&self) -> Result<Picture, HostError> {
        let doing = format!("take a picture of the screen of '{}'", self.label().guest);
        health::picture(&self.shared.qmp(), &self.shared.paths.run_dir, &doing).await
    }

    async fn kill(&self) -> Result<(), HostError> {
        self.shared.process.kill(&format!("the machine of '{}'", self.label().guest)).await?;
        let mut end = self.shared.end.subscribe();
        match tokio::time::timeout(NEWS_LIMIT, end.wait_for(Option::is_some)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(HostError::TimedOut(format!(
                "the machine of '{}' was killed, and its end has not been noticed within {} s",
                self.label().guest,
                NEWS_LIMIT.as_secs()
            ))),
        }
    }

    async fn attach_mirror(
        &self,
        volume: VolumeId,
        target: std::net::SocketAddr,
        export: &ExportName,
        fill: Fill,
    ) -> Result<(), HostError> {
        self.shared.attach(volume, target, export, fill, None).await
    }

    async fn attach_compared(
        &self,
        volume: VolumeId,
        target: SocketAddr,
        export: &ExportName,
        theirs: Arc<dyn Hashes>,
    ) -> Result<(), HostError> {
        self.shared.attach(volume, target, export, Fill::Changed, Some(theirs)).await
    }

    fn sent(&self, volume: VolumeId) -> Option<u64> {
        self.shared.resyncs().get(&volume).map(|resync| resync.progress.sent())
    }

    async fn mirror(&self, volume: VolumeId) -> Result<MirrorState, HostError> {
        self.shared.mirror_state(volume).await
    }

    async fn let_go(&self, volume: VolumeId) -> Result<(), HostError> {
        let (names, what) = self.shared.names(volume)?;
        self.shared.end_resync(volume).await;
        Mirror::new(&self.shared.qmp(), names, &what).let_go().await?;
        self.shared.doubts.release(volume);
        Ok(())
    }

    async fn limit_fill(&self, volume: VolumeId, bytes_per_second: u64) -> Result<(), HostError> {
        let (names, what) = self.shared.names(volume)?;
        self.shared.fill_limits().insert(volume, bytes_per_second);
        if let Some(resync) = self.shared.resyncs().get(&volume) {
            resync.progress.pace.set(bytes_per_second);
        }
        Mirror::new(&self.shared.qmp(), names, &what).limit(bytes_per_second).await
    }

    async fn grow(&self, volume: VolumeId, size: Bytes) -> Result<(), HostError> {
        let (names, what) = self.shared.names(volume)?;
        let arguments = json!({ "node-name": names.top(), "size": size.0 });
        let grown = self.shared.qmp().execute("block_resize", arguments).await;
        grown.map(drop).map_err(|error| error.into_host(&format!("grow {what} to {size}")))
    }

    async fn track(&self, volume: VolumeId, replica: &ReplicaFile) -> Result<(), HostError> {
        let (names, what) = self.shared.names(volume)?;
        Changes::new(&self.shared.qmp(), names, &what).track(replica, self.shared.tls.as_ref()).await
    }

    async fn tracked(&self, volume: VolumeId) -> Result<Option<Tracked>, HostError> {
        let (names, what) = self.shared.names(volume)?;
        Changes::new(&self.shared.qmp(), names, &what).tracked().await
    }

    async fn settle_changes(&self, volume: VolumeId) -> Result<bool, HostError> {
        let (names, what) = self.shared.names(volume)?;
        Changes::new(&self.shared.qmp(), names, &what).settle(self.shared.tls.as_ref()).await
    }

    async fn untrack(&self, volume: VolumeId) -> Result<(), HostError> {
        let (names, what) = self.shared.names(volume)?;
        Changes::new(&self.shared.qmp(), names, &what).untrack().await
    }

    async fn machine_type(&self) -> Result<String, HostError> {
        let doing = format!("ask for the machine type of '{}'", self.label().guest);
        let property = json!({ "path": "/machine", "property": "type" });
        let answer = self.shared.qmp().execute("qom-get", property).await;
        let answer = answer.map_err(|error| error.into_host(&doing))?;
        // As in `pc-q35-10.0-machine`.
        let name = answer.as_str().and_then(|name| name.strip_suffix("-machine"));
        name.map(str::to_owned)
            .ok_or_else(|| HostError::Failed(format!("cannot {doing}: QEMU calls it {answer}")))
    }

    async fn listen(
        &self,
        address: SocketAddr,
        settings: &MigrationSettings,
    ) -> Result<SocketAddr, HostError> {
        let qmp = self.shared.qmp();
        self.shared.migration(&qmp).listen(address, settings).await
    }

    async fn migrate(&self, to: SocketAddr, settings: &MigrationSettings) -> Result<(), HostError> {
        let qmp = self.shared.qmp();
        if self.shared.handover(&qmp).is_begun().await? {
            return Err(HostError::Conflict(format!(
                "cannot move '{}': it was handed over to another host already; end it here",
                self.label().guest
            )));
        }
        self.shared.migration(&qmp).start(to, settings).await
    }

    async fn adjust_migration(&self, settings: &MigrationSettings) -> Result<(), HostError> {
        let qmp = self.shared.qmp();
        self.shared.migration(&qmp).adjust(settings).await
    }

    async fn start_postcopy(&self) -> Result<(), HostError> {
        let qmp = self.shared.qmp();
        self.shared.migration(&qmp).start_postcopy().await
    }

    async fn migration(&self) -> Result<MigrationState, HostError> {
        let qmp = self.shared.qmp();
        self.shared.migration(&qmp).state().await
    }

    async fn cancel_migration(&self) -> Result<(), HostError> {
        let qmp = self.shared.qmp();
        if self.shared.handover(&qmp).is_begun().await? {
            return Err(HostError::Conflict(format!(
                "cannot cancel the migration of '{}': it was handed over to its new host already; end it here",
                self.label().guest
            )));
        }
        self.shared.migration(&qmp).cancel().await
    }

    async fn check_hand_over(&self) -> Result<(), HostError> {
        let qmp = self.shared.qmp();
        self.shared.handover(&qmp).check().await
    }

    async fn withhold_disks(&self) -> Result<(), HostError> {
        let qmp = self.shared.qmp();
        self.shared.handover(&qmp).withhold().await
    }

    async fn return_disks(&self) -> Result<(), HostError> {
        let qmp = self.shared.qmp();
        self.shared.handover(&qmp).give_back().await
    }

    async fn hand_over(&self) -> Result<(), HostError> {
        let qmp = self.shared.qmp();
        self.shared.handover(&qmp).run().await
    }

    async fn open_disks(&self) -> Result<bool, HostError> {
        let doing = format!("open the disks of '{}'", self.label().guest);
        let state = self.run_state().await?;
        if state != RunState::Arrived {
            return Err(HostError::Conflict(format!(
                "cannot {doing}: that is for a guest which has arrived and does not run yet ({state:?})"
            )));
        }
        match self.shared.qmp().execute("blockdev-set-active", json!({ "active": true })).await {
            Ok(_) => Ok(true),
            Err(QmpError::Refused { class, .. }) if class == "CommandNotFound" => Ok(false),
            Err(error) => Err(error.into_host(&doing)),
        }
    }

    fn mirror_failed(&self, volume: VolumeId) -> Option<String> {
        self.shared.doubts.doubt(volume)
    }

    async fn serial(&self) -> Result<UnixStream, HostError> {
        self.connect("serial.sock", "serial console").await
    }

    async fn screen(&self) -> Result<UnixStream, HostError> {
        self.connect(SCREEN_SOCKET, "screen").await
    }

    async fn scroll_back(&self, bytes_max: u64) -> Vec<u8> {
        let log = self.shared.paths.serial_log.clone();
        let read = tokio::task::spawn_blocking(move || super::serial_log::tail(&log, bytes_max)).await;
        read.unwrap_or_else(|error| Err(error.into())).unwrap_or_default()
    }

    async fn exec(&self, command: &[String], input: &[u8]) -> Result<ExecResult, HostError> {
        self.shared.agent.exec(command, input).await
    }
}
