//! How it is done on one host: QEMU over QMP, volumes, replicas, networks, images, accelerators.
//!
//! The traits are what the daemon acts through; their real implementations stand in the modules. None of
//! them decides anything: who may run a guest is settled before they are called.

pub mod accelerator;
pub mod compare;
pub mod facts;
pub mod fence;
pub mod image;
pub mod network;
pub mod pool;
mod program;
pub mod qemu;
pub mod replica;
pub mod seed;
pub mod series;
pub mod usage;
pub mod verify;
pub mod volume;
pub mod watchdog;

use std::fmt::Debug;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use model::{AcceleratorKind, BootId, Bytes, Epoch, GuestId, GuestName, MacAddress, ReplicaFile, VolumeId};
use tokio::sync::broadcast;

use compare::{Hashes, PieceHash};
use qemu::ProcessId;

pub use model::CpuModel;

/// An operation on this host that failed. The message is a sentence for a person.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HostError {
    /// What the operation needs is not there, such as a file or a machine.
    #[error("{0}")]
    NotFound(String),
    /// The thing exists already, or something else holds it.
    #[error("{0}")]
    Conflict(String),
    /// A program did not answer in time; what it did is unknown.
    #[error("{0}")]
    TimedOut(String),
    #[error("{0}")]
    Failed(String),
}

/// Which run of which guest a machine is. Kept with the machine, so that a daemon that starts anew reads it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MachineLabel {
    pub guest: GuestName,
    pub id: GuestId,
    pub epoch: Epoch,
    pub boot_generation: u64,
}

/// All that a machine is started with.
#[derive(Debug, Clone)]
pub struct MachineConfig {
    pub label: MachineLabel,
    pub vcpus: u32,
    pub memory: Bytes,
    pub accelerator: AcceleratorKind,
    pub cpu: CpuModel,
    /// Versioned, as in `pc-q35-10.0`. None: the newest of this host's QEMU.
    pub machine_type: Option<String>,
    pub boot: BootFiles,
    pub disks: Vec<MachineDisk>,
    /// A NoCloud seed image, attached read-only.
    pub seed: Option<PathBuf>,
    pub nics: Vec<MachineNic>,
}

#[derive(Debug, Clone)]
pub enum BootFiles {
    /// The first disk's boot loader.
    Disk,
    Kernel {
        kernel: PathBuf,
        initrd: Option<PathBuf>,
        command_line: String,
    },
}

#[derive(Debug, Clone)]
pub struct MachineDisk {
    pub volume: VolumeId,
    /// A raw file.
    pub path: PathBuf,
    /// Other hosts reach the same file. It is opened past this host's page cache, which knows nothing of what they
    /// write.
    pub shared: bool,
    /// It takes room as it is written, and gives back what is discarded; else all its room is its own, and stays so.
    pub thin: bool,
}

#[derive(Debug, Clone)]
pub struct MachineNic {
    pub tap: String,
    pub mac: MacAddress,
}

/// Starts machines, and finds those that run.
#[async_trait]
pub trait Hypervisor: Send + Sync + Debug {
    /// Every machine of ours that runs on this host, found without its starter's help. A process of ours
    /// whose control socket does not answer is ended here: nobody could let go of its writes.
    async fn adopt(&self) -> Result<Vec<Arc<dyn Machine>>, HostError>;

    /// Starts a machine with its processors paused. It outlives this process.
    async fn launch(&self, config: &MachineConfig) -> Result<Arc<dyn Machine>, HostError>;

    /// Starts a machine that waits, paused, for a guest that runs on another host ([`Machine::listen`]). Its
    /// disks may be served for writing meanwhile: it does not touch them before [`Machine::resume`].
    /// `machine_type` is what the source's [`Machine::machine_type`] says. When the guest does not arrive,
    /// the machine ends by itself.
    async fn launch_incoming(
        &self,
        config: &MachineConfig,
        machine_type: &str,
    ) -> Result<Arc<dyn Machine>, HostError>;
}

/// What happens to a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineEvent {
    /// Its process is gone. The last event.
    Gone(MachineEnd),
    /// A mirror changed its state; ask for it.
    Mirror(VolumeId),
    /// A migration changed its phase; ask for it.
    Migration,
    /// It stands still because a disk has no room or its guest panicked, or goes on; ask for its state.
    Room,
    /// It was reset, by itself or by somebody: its guest boots.
    Reset,
}

/// How a machine's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineEnd {
    /// The guest shut itself down, asked or not.
    GuestShutdown,
    /// Its process was ended, or died.
    Died,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// Launched, never resumed.
    Prelaunch,
    /// Waits for a guest from another host, or receives it.
    Incoming,
    /// A guest from another host is here, whole, and has not been resumed. Its disks are not open, unless
    /// [`Machine::open_disks`] was called.
    Arrived,
    /// Its guest has been handed over to another host: it reaches no disk any more, and is to be ended.
    Left,
    Running,
    /// Paused by somebody.
    Paused,
    /// It stopped by itself: the file system of a local replica has no room for a write. [`Machine::resume`] repeats
    /// that write, which stops it again if there still is none.
    NoRoom,
    /// The guest said that it panicked, and stands still. Only [`Machine::reset`] lets it go on.
    Panicked,
    /// QEMU cannot go on with what the guest did. Only [`Machine::reset`] helps.
    Upset,
    /// The guest has shut down; the process is about to go.
    Ended,
}

/// What a guest's screen showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// As in `png`, or `ppm` from a QEMU that cannot make those.
    pub format: String,
    pub bytes: Vec<u8>,
}

/// What a mirror copies at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Both replicas are the same.
    Nothing,
    /// What was written since the secondary had everything; see [`Machine::track`].
    Changed,
    Everything,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MirrorState {
    /// Writes go to the local replica alone.
    Absent,
    /// Being filled; writes go to both. Bytes.
    Filling { done: u64, total: u64 },
    /// Both replicas are the same, and every write goes to both.
    Ready,
    /// The job failed or paused on an error, or ended with one; it will not get better by itself.
    Broken(String),
}

/// What is recorded of the writes that a secondary may lack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracked {
    /// The replica that it is about.
    pub replica: ReplicaFile,
    /// At most so many bytes differ.
    pub changed: u64,
}

/// How a guest is moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationSettings {
    /// Bytes per second at most. None: as fast as it goes.
    pub bandwidth: Option<u64>,
    /// For how long the guest may stand still while the rest of its memory is sent, by QEMU's estimate.
    pub downtime_limit_ms: u64,
    /// Slows the guest's processors down for as long as its memory changes faster than it is sent.
    pub auto_converge: bool,
    /// Allows [`Machine::start_postcopy`]. Both hosts need `userfaultfd`.
    pub postcopy: bool,
    /// Connections that memory is sent through side by side. None: one for all.
    pub multifd_channels: Option<u8>,
}

impl Default for MigrationSettings {
    fn default() -> Self {
        let (bandwidth, multifd_channels) = (None, None);
        Self { bandwidth, downtime_limit_ms: 300, auto_converge: false, postcopy: false, multifd_channels }
    }
}

/// How far a migration is. The source's word, but for phases of the one who listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MigrationPhase {
    /// There has been none in this run.
    None,
    Setup,
    /// Memory is being sent and the guest runs.
    Active,
    /// The guest runs on the other host already, and fetches its memory from here.
    Postcopy,
    /// The guest stands still, its disks are at rest, and it goes on here or there as is said now:
    /// [`Machine::hand_over`] or [`Machine::cancel_migration`].
    PreSwitchover,
    /// The rest is being sent.
    Device,
    Completed,
    Failed(String),
    Cancelling,
    Cancelled,
}

/// A migration in numbers; the last one of this run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationState {
    pub phase: MigrationPhase,
    /// Bytes that went over the wire.
    pub transferred: u64,
    /// Bytes of memory that are still to be sent, and of all memory.
    pub remaining: u64,
    pub total: u64,
    /// Bytes per second that the guest changes, and that are sent.
    pub dirty_rate: u64,
    pub throughput: u64,
    /// How long the guest would stand still if the rest were sent now.
    pub expected_downtime_ms: Option<u64>,
    /// How long it stood still, by QEMU's clock.
    pub downtime_ms: Option<u64>,
    /// Since it began.
    pub elapsed_ms: u64,
    /// How often all of memory has been gone through.
    pub iteration: u64,
    /// By how much auto-converge slows the guest down.
    pub throttle_percent: u64,
}

/// The answer of machines that do not do that.
fn not_for_this(what: &str) -> HostError {
    HostError::Failed(format!("this kind of guest cannot {what}"))
}

/// One machine. All calls are safe to repeat. None of them hangs: a call that gets no answer within a few
/// seconds says so.
#[async_trait]
pub trait Machine: Send + Sync + Debug {
    fn label(&self) -> &MachineLabel;
    fn events(&self) -> broadcast::Receiver<MachineEvent>;
    /// How its process ended, once it has.
    fn ended(&self) -> Option<MachineEnd>;
    /// The number of its process, for measuring what it uses. `None`: it is no process of this host.
    fn pid(&self) -> Option<u32> {
        None
    }
    /// Its process, to be guarded by the watchdog. `None`: it is no process of this host.
    fn process(&self) -> Option<ProcessId> {
        None
    }
    /// The processor that its guest sees. `None`: an earlier build started it.
    fn cpu(&self) -> Option<CpuModel> {
        None
    }
    async fn run_state(&self) -> Result<RunState, HostError>;
    /// Lets the processors run.
    async fn resume(&self) -> Result<(), HostError>;
    /// Asks the guest to shut down (ACPI), and returns at once.
    async fn request_shutdown(&self) -> Result<(), HostError>;
    /// Presses the reset button: the guest boots anew, in the same machine with the same disks and mirrors, whatever it
    /// was at. To be left alone while writes are held, as all commands.
    async fn reset(&self) -> Result<(), HostError> {
        Err(not_for_this("be reset"))
    }
    /// Whether the guest agent answers.
    async fn ping(&self) -> Result<(), HostError> {
        Err(not_for_this("be asked how it is"))
    }
    /// How many requests the guest has made to its disks since its machine was started.
    async fn disk_requests(&self) -> Result<u64, HostError> {
        Err(not_for_this("say what its disks do"))
    }
    /// What its screen shows now.
    async fn picture(&self) -> Result<Picture, HostError> {
        Err(not_for_this("show its screen"))
    }
    /// Ends the process, and returns when it is gone.
    async fn kill(&self) -> Result<(), HostError>;
    /// Makes every write go to `export` on `target` too before it is acknowledged. Fails without a trace
    /// when the export cannot be reached. Writes wait for as long as the target does not answer.
    async fn attach_mirror(
        &self,
        volume: VolumeId,
        target: SocketAddr,
        export: &ExportName,
        fill: Fill,
    ) -> Result<(), HostError>;
    /// As [`Self::attach_mirror`]. Copies at first what differs by the hashes of both replicas; `theirs` tells those
    /// of the target's, which may hold anything.
    async fn attach_compared(
        &self,
        _volume: VolumeId,
        _target: SocketAddr,
        _export: &ExportName,
        _theirs: Arc<dyn Hashes>,
    ) -> Result<(), HostError> {
        Err(not_for_this("compare its replicas"))
    }
    async fn mirror(&self, volume: VolumeId) -> Result<MirrorState, HostError>;
    /// How many bytes of the replica have been sent to fill it, by this daemon and since the mirror was attached;
    /// also when that is done. None: QEMU copies it, or nothing was to be copied.
    fn sent(&self, _volume: VolumeId) -> Option<u64> {
        None
    }
    /// Why a replica may lack writes that the guest was told are safe: the secondary answered one with an error,
    /// or what QEMU said of the mirror was missed. To be asked of a machine that has ended, whose mirror cannot be
    /// looked at any more: a guest that shuts down right after such an error has not left two equal replicas.
    /// Forgotten when the mirror is let go of or attached anew.
    fn mirror_failed(&self, _volume: VolumeId) -> Option<String> {
        None
    }
    /// Ends the mirror, also while writes are held: they go on with the local replica alone.
    async fn let_go(&self, volume: VolumeId) -> Result<(), HostError>;
    /// Limits how fast a mirror is filled, now and when it is attached later, bytes per second; 0 is no limit.
    /// The guest's own writes are not limited. A daemon that starts anew has to say it again.
    async fn limit_fill(&self, _volume: VolumeId, _bytes_per_second: u64) -> Result<(), HostError> {
        Err(not_for_this("limit how fast a mirror is filled"))
    }

    /// Lets the guest see a larger disk, whose room has been taken on the host. No mirror may be attached.
    async fn grow(&self, _volume: VolumeId, _size: Bytes) -> Result<(), HostError> {
        Err(not_for_this("see a disk grow"))
    }

    /// Records from now on what this replica may lack, be it because it was never sent or because its host's power
    /// failed before it was on its disk. That is only possible when the replica has everything: its mirror is ready,
    /// or the guest has not run here yet. For [`Fill::Changed`].
    async fn track(&self, _volume: VolumeId, _replica: &ReplicaFile) -> Result<(), HostError> {
        Err(not_for_this("record what changes"))
    }
    /// What is recorded and can be trusted.
    async fn tracked(&self, _volume: VolumeId) -> Result<Option<Tracked>, HostError> {
        Ok(None)
    }
    /// Forgets recorded changes that the secondary has on its disk: flushes it and begins a new record. False:
    /// not now, because the mirror is not ready or the guest writes too much. To be repeated now and then.
    async fn settle_changes(&self, _volume: VolumeId) -> Result<bool, HostError> {
        Ok(false)
    }
    /// Drops the record, as when the secondary's replica is another one now.
    async fn untrack(&self, _volume: VolumeId) -> Result<(), HostError> {
        Ok(())
    }

    /// The versioned machine type, as in `pc-q35-10.0`; the other side of a migration must have the same.
    async fn machine_type(&self) -> Result<String, HostError> {
        Err(not_for_this("say its machine type"))
    }
    /// Takes a guest in at that address; port 0 is any that is free. Returns where it listens. For machines
    /// of [`Hypervisor::launch_incoming`]; the settings must be the source's.
    async fn listen(&self, _: SocketAddr, _: &MigrationSettings) -> Result<SocketAddr, HostError> {
        Err(not_for_this("arrive from another host while it runs"))
    }
    /// Begins to send the guest to a machine that listens there, and returns at once. It stops by itself in
    /// [`MigrationPhase::PreSwitchover`] when little enough is left.
    async fn migrate(&self, _to: SocketAddr, _: &MigrationSettings) -> Result<(), HostError> {
        Err(not_for_this("move to another host while it runs"))
    }
    /// Changes bandwidth and downtime limit of a migration that is under way.
    async fn adjust_migration(&self, _: &MigrationSettings) -> Result<(), HostError> {
        Err(not_for_this("move to another host while it runs"))
    }
    /// Lets the guest run on the other host before its memory is there. From then on it is lost when either
    /// host or the way between them is. It goes through [`MigrationPhase::PreSwitchover`] like any other.
    async fn start_postcopy(&self) -> Result<(), HostError> {
        Err(not_for_this("move to another host while it runs"))
    }
    async fn migration(&self) -> Result<MigrationState, HostError> {
        Err(not_for_this("move to another host while it runs"))
    }
    /// Ends a migration and returns when the guest runs here as before, mirrors and all. Refused once it has
    /// been handed over.
    async fn cancel_migration(&self) -> Result<(), HostError> {
        Err(not_for_this("move to another host while it runs"))
    }
    /// Whether the guest could be handed over now: it stands still for it, and both replicas of each volume
    /// are the same. To be asked before the change of owner is recorded.
    async fn check_hand_over(&self) -> Result<(), HostError> {
        Err(not_for_this("move to another host while it runs"))
    }
    /// Takes the disks of a guest that stands still to be handed over away from it, so that nothing more is written
    /// whoever dies. For disks that the other host shares, before the change of owner is recorded; can be taken back.
    async fn withhold_disks(&self) -> Result<(), HostError> {
        Err(not_for_this("move to another host while it runs"))
    }
    /// Gives back what [`Machine::withhold_disks`] took. The guest must not have been handed over: nobody else may
    /// own it, nor come to own it.
    async fn return_disks(&self) -> Result<(), HostError> {
        Err(not_for_this("move to another host while it runs"))
    }
    /// Gives the guest to the other host, which must be its owner by now. Takes the disks away from it here
    /// for good, so that nothing is written any more whatever fails after that, ends the mirrors, and lets
    /// the migration go on. Returns before it is complete. After this, successful or not, this machine is
    /// only to be killed.
    async fn hand_over(&self) -> Result<(), HostError> {
        Err(not_for_this("move to another host while it runs"))
    }
    /// Opens the disks of a guest that has arrived, so that it can be mirrored before its first write. Nobody
    /// may be able to write to them any more: they are locked. The machine stays [`RunState::Arrived`]. False:
    /// this QEMU cannot (older than 10.0); [`Machine::resume`] opens them then.
    async fn open_disks(&self) -> Result<bool, HostError> {
        Ok(false)
    }
    /// A byte stream to the guest's first serial port.
    async fn serial(&self) -> Result<tokio::net::UnixStream, HostError>;
    /// The guest's screen, keyboard and mouse, as RFC 6143 has it (VNC). Several may be open at a time.
    async fn screen(&self) -> Result<tokio::net::UnixStream, HostError> {
        Err(HostError::Conflict(format!("the guest '{}' has no screen", self.label().guest)))
    }
    /// What the guest said last on that port, as far as it is kept: so many bytes at most.
    async fn scroll_back(&self, _bytes_max: u64) -> Vec<u8> {
        Vec::new()
    }
    /// Runs a program inside, through the guest agent.
    async fn exec(&self, command: &[String], input: &[u8]) -> Result<ExecResult, HostError>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecResult {
    pub exit_status: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// The name under which a secondary replica is served. It holds the epoch and the boot, so that a
/// connection of an older epoch, or to a boot that is over, can never be made or made again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct ExportName(String);

impl ExportName {
    pub fn new(volume: VolumeId, epoch: Epoch, boot: BootId) -> Self {
        Self(format!("{volume}.{epoch}.{}", boot.0.simple()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Serves this host's secondary replicas over the network.
#[async_trait]
pub trait ReplicaServer: Send + Sync + Debug {
    /// What is served now.
    async fn exports(&self) -> Result<Vec<(VolumeId, ExportName)>, HostError>;
    /// Serves a raw file for reading and writing; an older export of the same volume ends first. Of a thin one
    /// ([`MachineDisk::thin`]) discards and zeroes give their room back.
    async fn serve_as(
        &self,
        volume: VolumeId,
        export: &ExportName,
        path: PathBuf,
        thin: bool,
    ) -> Result<(), HostError>;
    /// Serves a file that has all its room.
    async fn serve(&self, volume: VolumeId, export: &ExportName, path: PathBuf) -> Result<(), HostError> {
        self.serve_as(volume, export, path, false).await
    }
    /// Ends every connection to what is served under that name, and goes on serving it. After this returns, nothing
    /// that a connection from before still carries is written. Refused when nothing is served under that name.
    async fn end_connections(&self, volume: VolumeId, export: &ExportName) -> Result<(), HostError>;
    /// The hashes of the pieces of a range of what is served under that name; see [`compare`]. Refused when nothing
    /// is.
    async fn hashes(
        &self,
        volume: VolumeId,
        export: &ExportName,
        range: Range<u64>,
    ) -> Result<Vec<PieceHash>, HostError>;
    /// Flushes a served file, so that a withdrawal soon after it has little left to flush. Nothing to flush is
    /// no error.
    async fn flush(&self, volume: VolumeId) -> Result<(), HostError>;
    /// Ends a volume's export and its connections, and flushes the file. After this returns nobody can
    /// write through it. Withdrawing what is not served is no error.
    async fn withdraw(&self, volume: VolumeId) -> Result<(), HostError>;
}

/// Runs what blocks (the file system) where it holds nobody up.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, HostError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(HostError::Failed(format!("a piece of work on this host broke off: {error}")))
    })
}
