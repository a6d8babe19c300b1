//! Machines: what QEMU does for a guest.
//!
//! A guest writes all the time, one write after the other. A write goes to the local file and, while there is a
//! mirror, through the network to the secondary's; it is acknowledged when both have it. One whose secondary does
//! not answer is held, and sent again whenever the connection can be made again under the name that it was made by.

use std::collections::BTreeMap;

use model::{BootId, Epoch, ExitReason, ReplicaFile, VolumeId};
use plan::converge::{Mirror, SendPhase, Stage};

use crate::disk::{BLOCKS, WriteId};
use crate::world::{Mono, Time};

/// The name under which a replica is served: the epoch, and the boot of the host that serves it.
pub type Export = (Epoch, BootId);

/// How a machine's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    GuestShutdown,
    Died,
    /// The watchdog killed it.
    Overdue,
}

#[derive(Debug, Clone)]
pub struct MirrorTo {
    pub host: usize,
    pub export: Export,
    /// Which connection it is: an answer to another one counts for nothing.
    pub link: u64,
    pub state: Mirror,
    /// The opening of the export that its last writes went to.
    pub door: u64,
    /// Blocks that are still to be copied.
    pub missing: [bool; BLOCKS],
    /// The file that it was attached to, if not all of it is copied: what is left out is right for that one alone.
    pub file: Option<u64>,
}

/// What QEMU has recorded of the writes since a replica had all of them: `host::qemu`'s bitmaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub replica: ReplicaFile,
    pub changed: [bool; BLOCKS],
}

/// A write under way.
#[derive(Debug, Clone, Copy)]
pub struct Flight {
    pub id: WriteId,
    pub volume: VolumeId,
    pub block: usize,
    /// The local file has it.
    pub local: bool,
    /// The secondary has it, or need not have it.
    pub remote: bool,
    /// The guest flushes after it.
    pub flush: bool,
}

/// A guest on its way to another host.
#[derive(Debug, Clone)]
pub struct SendingTo {
    pub host: usize,
    /// The machine that waits there, which is its port too.
    pub to: u64,
    pub phase: SendPhase,
    pub rounds: u32,
}

#[derive(Debug, Clone)]
pub struct Machine {
    /// No two machines of a run share it.
    pub uid: u64,
    pub guest: usize,
    pub epoch: Epoch,
    pub generation: u64,
    pub stage: Stage,
    pub mirrors: BTreeMap<VolumeId, MirrorTo>,
    pub records: BTreeMap<VolumeId, Record>,
    pub flight: Option<Flight>,
    pub sending: Option<SendingTo>,
    /// Asked to shut down; it obeys then, unless it hangs.
    pub shuts_down_at: Option<Time>,
    pub hangs: bool,
    /// Its secondary answered a write with an error.
    pub secondary_failed: bool,
    /// Its disks were taken away from it.
    pub void: bool,
    /// The same, until they are given back.
    pub withheld: bool,
    /// What the watchdog's page says: it may not outlive the session, or only until then.
    pub bound: bool,
    pub bound_until: Option<Mono>,
}

impl Machine {
    pub fn new(uid: u64, guest: usize, epoch: Epoch, generation: u64, stage: Stage) -> Machine {
        Machine {
            uid,
            guest,
            epoch,
            generation,
            stage,
            mirrors: BTreeMap::new(),
            records: BTreeMap::new(),
            flight: None,
            sending: None,
            shuts_down_at: None,
            hangs: false,
            secondary_failed: false,
            void: false,
            withheld: false,
            bound: false,
            bound_until: None,
        }
    }

    /// Its processors run.
    pub fn runs(&self) -> bool {
        let stands = |sending: &SendingTo| match sending.phase {
            SendPhase::AtSwitchover | SendPhase::Delivering | SendPhase::Delivered => true,
            SendPhase::Memory | SendPhase::Failed(_) => false,
        };
        self.is_writer() && !self.sending.as_ref().is_some_and(stands)
    }

    /// It writes to its disks, or would if it were let.
    pub fn is_writer(&self) -> bool {
        self.stage == Stage::Running && !self.void && !self.withheld
    }
}

/// Why a machine is gone, for the books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    ByKeeper(ExitReason),
    ByWatchdog,
    Itself(Ended),
    WithItsHost,
}
