//! What is kept of a machine beside its sockets, so that a daemon that starts anew can adopt it.
//!
//! The record is durable before the process is started, and gets the process's number after that. Between
//! the two the process can be found by its command line alone, and what it runs is in the record already.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use model::{CpuModel, VolumeId};
use serde::{Deserialize, Serialize};

use super::process::ProcessId;
use crate::{HostError, MachineConfig, MachineLabel};

/// In the machine's folder of the run directory.
const FILE: &str = "label.json";

/// The record of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MachineRecord {
    pub label: MachineLabel,
    pub disks: Vec<VolumeId>,
    /// None: an earlier build wrote this.
    #[serde(default)]
    pub cpu: Option<CpuModel>,
    /// Those that other hosts reach, too: they are never mirrored.
    #[serde(default)]
    pub shared: Vec<VolumeId>,
    /// Those that take room as they are written.
    #[serde(default)]
    pub thin: Vec<VolumeId>,
    /// None until the process has been started.
    pub process: Option<ProcessId>,
}

impl MachineRecord {
    pub fn of(config: &MachineConfig) -> MachineRecord {
        MachineRecord {
            label: config.label.clone(),
            disks: config.disks.iter().map(|disk| disk.volume).collect(),
            thin: config.disks.iter().filter(|disk| disk.thin).map(|disk| disk.volume).collect(),
            cpu: Some(config.cpu),
            shared: config.disks.iter().filter(|disk| disk.shared).map(|disk| disk.volume).collect(),
            process: None,
        }
    }

    pub fn read(run_dir: &Path) -> Result<MachineRecord, HostError> {
        let path = run_dir.join(FILE);
        let cannot = |why: String| HostError::Failed(format!("cannot read {}: {why}", path.display()));
        let bytes = std::fs::read(&path).map_err(|error| cannot(error.to_string()))?;
        serde_json::from_slice(&bytes).map_err(|error| cannot(error.to_string()))
    }

    /// Durable when it returns: what was there before, or all of this, is found after a crash.
    pub fn write(&self, run_dir: &Path) -> Result<(), HostError> {
        let path = run_dir.join(FILE);
        let write = || -> std::io::Result<()> {
            let half = run_dir.join(format!("{FILE}.new"));
            let mut file = File::create(&half)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_all()?;
            std::fs::rename(&half, &path)?;
            File::open(run_dir)?.sync_all()
        };
        write().map_err(|error| HostError::Failed(format!("cannot write {}: {error}", path.display())))
    }
}
