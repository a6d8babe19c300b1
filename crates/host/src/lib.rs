//! How it is done on one host: QEMU over QMP, volumes, replicas, networks, images, accelerators.
//!
//! The traits are what the daemon acts through; their real implementations stand in the modules. None of
//! them decides anything: who may run a guest is settled before they are called.

pub mod accelerator;
pub mod facts;
pub mod image;
pub mod network;
mod program;
pub mod qemu;
pub mod replica;
pub mod seed;
pub mod volume;

use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use model::{AcceleratorKind, BootId, Bytes, Epoch, GuestId, GuestName, MacAddress, VolumeId};
use tokio::sync::broadcast;

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
}

/// What happens to a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineEvent {
    /// Its process is gone. The last event.
    Gone(MachineEnd),
    /// A mirror changed its state; ask for it.
    Mirror(VolumeId),
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
    Running,
    /// Paused, or stopped on an error.
    Paused,
    /// The guest has shut down or panicked; the process is about to go.
    Ended,
}

/// What a mirror copies at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Both replicas are the same.
    Nothing,
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
    /// The job failed or paused on an error; it will not get better by itself.
    Broken(String),
}

/// One machine. All calls are safe to repeat. None of them hangs: a call that gets no answer within a few
/// seconds says so.
#[async_trait]
pub trait Machine: Send + Sync + Debug {
    fn label(&self) -> &MachineLabel;
    fn events(&self) -> broadcast::Receiver<MachineEvent>;
    /// How its process ended, once it has.
    fn ended(&self) -> Option<MachineEnd>;
    async fn run_state(&self) -> Result<RunState, HostError>;
    /// Lets the processors run.
    async fn resume(&self) -> Result<(), HostError>;
    /// Asks the guest to shut down (ACPI), and returns at once.
    async fn request_shutdown(&self) -> Result<(), HostError>;
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
    async fn mirror(&self, volume: VolumeId) -> Result<MirrorState, HostError>;
    /// Ends the mirror, also while writes are held: they go on with the local replica alone.
    async fn let_go(&self, volume: VolumeId) -> Result<(), HostError>;
    /// A byte stream to the guest's first serial port.
    async fn serial(&self) -> Result<tokio::net::UnixStream, HostError>;
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
    /// Serves a raw file for reading and writing; an older export of the same volume ends first.
    async fn serve(&self, volume: VolumeId, export: &ExportName, path: PathBuf) -> Result<(), HostError>;
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
