//! Starts machines, and finds those that run.
//!
//! What makes a process ours is its command line: it holds the path of a QMP socket in our run directory.
//! So a process is found also when the daemon that started it died before it could note its number.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use model::GuestId;
use tokio::process::Child;
use tokio::sync::{Mutex, OnceCell};

use super::command::{MachineFiles, Origin, arguments, escape, qmp_chardev};
use super::last_moments::LastMoment;
use super::machine::{MachinePaths, QemuMachine};
use super::process::{self, ProcessHandle, ProcessId, RunAs};
use super::qmp::Qmp;
use super::record::MachineRecord;
use super::tls::TlsFiles;
use crate::{BootFiles, HostError, Hypervisor, Machine, MachineConfig};

/// The oldest QEMU that the mirror was tried on.
const VERSION_MIN: (u32, u32) = (7, 2);

/// In a guest's folder of logs.
const LAST_MOMENTS: &str = "last-moments";

const PACKAGE: &str = "qemu-system-x86";

/// Begins the names of the machine types that guests are started with.
const MACHINE_FAMILY: &str = "pc-q35-";

/// How long QEMU may take to answer after it was started. It takes a fraction of a second; many at once on a
/// busy host take longer.
const LAUNCH_LIMIT: Duration = Duration::from_secs(30);

/// How long a running QEMU may take to answer its adopter, before it counts as beyond control and is ended.
const ADOPT_LIMIT: Duration = Duration::from_secs(10);

/// Where machines keep their things, and what they are run with. Both directories are absolute.
#[derive(Debug, Clone)]
pub struct QemuConfig {
    /// For sockets and labels; lost when the host boots.
    pub run_dir: PathBuf,
    /// For logs.
    pub state_dir: PathBuf,
    /// A path, or a name to be looked up.
    pub binary: PathBuf,
    /// The user that QEMU runs as; none: this process's own. That user must be able to reach both
    /// directories, and to read kernels; disks and seeds are given to it.
    pub run_as: Option<RunAs>,
    /// Certificates for replicas and migrations; none: they go over the network in the clear.
    pub tls: Option<TlsFiles>,
}

impl QemuConfig {
    pub fn new(run_dir: impl Into<PathBuf>, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            run_dir: run_dir.into(),
            state_dir: state_dir.into(),
            binary: PathBuf::from("qemu-system-x86_64"),
            run_as: None,
            tls: None,
        }
    }
}

/// The hypervisor of this host.
#[derive(Debug)]
pub struct QemuDriver {
    config: QemuConfig,
    version: OnceCell<String>,
    machine_types: OnceCell<BTreeSet<String>>,
    /// Held from the look for a running process until the new one can be found: of two launches of one
    /// guest the second sees the first.
    starting: Mutex<()>,
}

impl QemuDriver {
    pub fn new(config: QemuConfig) -> Self {
        Self { config, version: OnceCell::new(), machine_types: OnceCell::new(), starting: Mutex::new(()) }
    }

    /// The version of the installed QEMU, as in `10.0.2`. One that is too old is refused.
    pub async fn qemu_version(&self) -> Result<String, HostError> {
        self.version.get_or_try_init(|| self.ask_version()).await.cloned()
    }

    /// The versioned machine types that the installed QEMU has, as in `pc-q35-10.0`. A running guest can come here
    /// if its own is among them.
    pub async fn machine_types(&self) -> Result<BTreeSet<String>, HostError> {
        let ask = || async {
            let help = self.ask_binary(&["-machine", "help"]).await?;
            Ok(parse_machine_types(&help))
        };
        self.machine_types.get_or_try_init(ask).await.cloned()
    }

    /// Where a guest's serial port is logged.
    pub fn serial_log(&self, guest: GuestId) -> PathBuf {
        self.log_dir(guest).join("serial.log")
    }

    /// What a guest said last on its serial port while it was here, so many bytes at most, and when that was. Kept
    /// until the guest is deleted, whether its machine lives or not. `None`: it has said nothing here.
    pub async fn last_lines(
        &self,
        guest: GuestId,
        bytes_max: u64,
    ) -> Result<Option<(Vec<u8>, SystemTime)>, HostError> {
        let log = self.serial_log(guest);
        let read = tokio::task::spawn_blocking(move || super::serial_log::last(&log, bytes_max)).await;
        read.unwrap_or_else(|error| Err(error.into()))
            .map_err(|error| HostError::Failed(format!("cannot read what guest {guest} said last: {error}")))
    }

    /// Keeps what a guest showed and said last, for people; the oldest such record goes.
    pub async fn keep_last_moment(&self, guest: GuestId, moment: LastMoment) -> Result<(), HostError> {
        let folder = self.log_dir(guest).join(LAST_MOMENTS);
        crate::blocking(move || super::last_moments::keep(&folder, &moment)).await
    }

    /// What was kept of a guest while it was here, oldest first.
    pub async fn last_moments(&self, guest: GuestId) -> Result<Vec<LastMoment>, HostError> {
        let folder = self.log_dir(guest).join(LAST_MOMENTS);
        crate::blocking(move || Ok(super::last_moments::list(&folder))).await
    }

    /// Removes what is kept for a guest that is deleted: its folders, with the logs.
    pub async fn forget(&self, guest: GuestId) -> Result<(), HostError> {
        let _starting = self.starting.lock().await;
        if !self.processes_of(guest).is_empty() {
            return Err(HostError::Conflict(format!(
                "cannot remove the files of guest {guest}: its machine still runs; end it first"
            )));
        }
        for folder in [self.run_dir(guest), self.log_dir(guest)] {
            remove_folder(&folder)?;
        }
        Ok(())
    }

    async fn ask_version(&self) -> Result<String, HostError> {
        accept_version(&self.ask_binary(&["--version"]).await?, &self.config.binary)
    }

    async fn ask_binary(&self, arguments: &[&str]) -> Result<String, HostError> {
        let binary = &self.config.binary;
        let output = tokio::process::Command::new(binary)
            .args(arguments)
            .output()
            .await
            .map_err(|error| process::missing_program(binary, PACKAGE, &error))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn guests_dir(&self) -> PathBuf {
        self.config.run_dir.join("guests")
    }

    fn run_dir(&self, guest: GuestId) -> PathBuf {
        self.guests_dir().join(guest.to_string())
    }

    fn log_dir(&self, guest: GuestId) -> PathBuf {
        self.config.state_dir.join("guests").join(guest.to_string())
    }

    fn paths(&self, guest: GuestId) -> MachinePaths {
        MachinePaths { run_dir: self.run_dir(guest), serial_log: self.serial_log(guest) }
    }

    fn processes_of(&self, guest: GuestId) -> Vec<ProcessId> {
        let marker = qmp_chardev(&self.run_dir(guest).join("qmp.sock"));
        let found = process::find(&marker).into_iter();
        found.filter(|(_, arguments)| arguments.contains(&marker)).map(|(id, _)| id).collect()
    }

    /// Every process of ours with the guest that it runs.
    fn processes(&self) -> Vec<(ProcessId, GuestId)> {
        let folder = escape(&format!("{}/", self.guests_dir().display()));
        let ours = process::find(&folder).into_iter();
        ours.filter_map(|(id, arguments)| {
            let guest = value_of(&arguments, "-uuid")?.parse().ok()?;
            let marker = qmp_chardev(&self.run_dir(guest).join("qmp.sock"));
            arguments.contains(&marker).then_some((id, guest))
        })
        .collect()
    }

    /// Makes the machine's folders anew, and gives everything that QEMU writes to its user.
    fn prepare(&self, config: &MachineConfig) -> Result<(), HostError> {
        let guest = config.label.id;
        let run_dir = self.run_dir(guest);
        remove_folder(&run_dir)?;
        let log_dir = self.log_dir(guest);
        for folder in [&run_dir, &log_dir] {
            std::fs::create_dir_all(folder).map_err(|error| {
                HostError::Failed(format!("cannot make the folder {}: {error}", folder.display()))
            })?;
            process::give_to(folder, self.config.run_as)?;
        }
        for disk in &config.disks {
            present(&disk.path, &format!("a disk of '{}'", config.label.guest))?;
            process::give_to(&disk.path, self.config.run_as)?;
        }
        if let Some(seed) = &config.seed {
            present(seed, &format!("the seed of '{}'", config.label.guest))?;
            process::give_to(seed, self.config.run_as)?;
        }
        if let BootFiles::Kernel { kernel, initrd, .. } = &config.boot {
            present(kernel, &format!("the kernel of '{}'", config.label.guest))?;
            initrd.iter().try_for_each(|path| present(path, "its initial RAM disk"))?;
        }
        Ok(())
    }

    /// Starts the process, with its record on disk first.
    fn start(
        &self,
        config: &MachineConfig,
        origin: Origin<'_>,
    ) -> Result<(Child, MachineRecord, ProcessHandle), HostError> {
        self.prepare(config)?;
        let guest = config.label.id;
        let run_dir = self.run_dir(guest);
        let mut record = MachineRecord::of(config);
        record.write(&run_dir)?;
        let serial_log = self.serial_log(guest);
        let files = MachineFiles { run_dir: &run_dir, serial_log: &serial_log };
        let arguments = arguments(config, &files, origin);
        let log = self.qemu_log(guest);
        let child = process::spawn(&self.config.binary, &arguments, &log, self.config.run_as, PACKAGE)?;
        let id = child.id().and_then(|pid| ProcessId::of(pid.try_into().ok()?));
        let Some(process) = id.and_then(ProcessHandle::open) else {
            return Err(self.did_not_start(config));
        };
        record.process = Some(process.id);
        if let Err(error) = record.write(&run_dir) {
            // It is found by its command line all the same.
            tracing::warn!(%error, guest = %config.label.guest, "cannot note the number of a machine's process");
        }
        Ok((child, record, process))
    }

    fn qemu_log(&self, guest: GuestId) -> PathBuf {
        self.log_dir(guest).join("qemu.log")
    }

    fn did_not_start(&self, config: &MachineConfig) -> HostError {
        let said = process::log_tail(&self.qemu_log(config.label.id));
        HostError::Failed(format!("cannot start the machine of '{}': QEMU says: {said}", config.label.guest))
    }

    async fn adopt_one(&self, id: ProcessId, guest: GuestId) -> Option<Arc<dyn Machine>> {
        let process = ProcessHandle::open(id)?;
        let paths = self.paths(guest);
        match self.reach(&process, &paths, guest).await {
            Ok((record, qmp)) => {
                let machine = QemuMachine::take(record, process, qmp, paths, self.config.tls.clone());
                if let Err(error) = machine.finish_what_was_begun().await {
                    tracing::warn!(%guest, %error, "a mirror that was being let go of may still be there");
                }
                Some(Arc::new(machine))
            }
            Err(error) => {
                tracing::warn!(%guest, pid = id.pid, %error, "a machine is beyond control, and is ended");
                if let Err(error) = process.kill(&format!("the machine of guest {guest}")).await {
                    tracing::error!(%guest, pid = id.pid, %error, "a machine beyond control cannot be ended");
                }
                None
            }
        }
    }

    async fn reach(
        &self,
        process: &ProcessHandle,
        paths: &MachinePaths,
        guest: GuestId,
    ) -> Result<(MachineRecord, Qmp), HostError> {
        let mut record = MachineRecord::read(&paths.run_dir)?;
        if record.label.id != guest || record.process.is_some_and(|known| known != process.id) {
            return Err(HostError::Conflict(format!("the record of guest {guest} is of another process")));
        }
        let socket = paths.run_dir.join("qmp.sock");
        let qmp = Qmp::connect(&socket, ADOPT_LIMIT, || !process.is_gone())
            .await
            .map_err(|error| error.into_host(&format!("reach the machine of '{}'", record.label.guest)))?;
        if record.process.is_none() {
            record.process = Some(process.id);
            record.write(&paths.run_dir)?;
        }
        Ok((record, qmp))
    }
}

#[async_trait]
impl Hypervisor for QemuDriver {
    async fn adopt(&self) -> Result<Vec<Arc<dyn Machine>>, HostError> {
        let found = self.processes();
        let adopted = found.into_iter().map(|(id, guest)| self.adopt_one(id, guest));
        Ok(futures::future::join_all(adopted).await.into_iter().flatten().collect())
    }

    async fn launch(&self, config: &MachineConfig) -> Result<Arc<dyn Machine>, HostError> {
        self.launch_from(config, Origin::Boot).await
    }

    async fn launch_incoming(
        &self,
        config: &MachineConfig,
        machine_type: &str,
    ) -> Result<Arc<dyn Machine>, HostError> {
        self.launch_from(config, Origin::Elsewhere { machine_type }).await
    }
}

impl QemuDriver {
    async fn launch_from(
        &self,
        config: &MachineConfig,
        origin: Origin<'_>,
    ) -> Result<Arc<dyn Machine>, HostError> {
        self.qemu_version().await?;
        let guest = config.label.id;
        let starting = self.starting.lock().await;
        if let Some(running) = self.processes_of(guest).first() {
            return Err(HostError::Conflict(format!(
                "cannot start the machine of '{}': it runs already, as process {}; adopt that one, or end it",
                config.label.guest, running.pid
            )));
        }
        let (mut child, record, process) = self.start(config, origin)?;
        drop(starting);
        // Somebody must wait for a child, or it stays as a zombie.
        tokio::spawn(async move { child.wait().await });
        let paths = self.paths(guest);
        let socket = paths.run_dir.join("qmp.sock");
        match Qmp::connect(&socket, LAUNCH_LIMIT, || !process.is_gone()).await {
            Ok(qmp) => Ok(Arc::new(QemuMachine::take(record, process, qmp, paths, self.config.tls.clone()))),
            Err(error) => {
                tracing::debug!(%error, guest = %config.label.guest, "a machine did not start");
                process.kill(&format!("the machine of '{}'", config.label.guest)).await?;
                Err(self.did_not_start(config))
            }
        }
    }
}

/// The value of an option on a command line.
fn value_of<'a>(arguments: &'a [String], option: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|argument| argument == option)?;
    arguments.get(at + 1).map(String::as_str)
}

fn present(path: &Path, what: &str) -> Result<(), HostError> {
    match std::fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(HostError::NotFound(format!("cannot open {what}, {}: {error}", path.display()))),
    }
}

fn remove_folder(folder: &Path) -> Result<(), HostError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(HostError::Failed(format!("cannot remove the folder {}: {error}", folder.display())))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Reads `QEMU emulator version 10.0.2 (Debian …)`, and refuses what is too old.
fn accept_version(output: &str, binary: &Path) -> Result<String, HostError> {
    let unknown = || {
        HostError::Failed(format!(
            "{} does not say its version; install Debian's package {PACKAGE}, or run scripts/setup",
            binary.display()
        ))
    };
    let version = output.split_once("version ").ok_or_else(unknown)?.1;
    let version = version.split_ascii_whitespace().next().ok_or_else(unknown)?;
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let (major, minor) = VERSION_MIN;
    if found < VERSION_MIN {
        return Err(HostError::Failed(format!(
            "{} is QEMU {version}, and machines need {major}.{minor} or later; install QEMU from Debian 12 or \
             later, all its packages from one suite, or run scripts/setup",
            binary.display()
        )));
    }
    Ok(version.to_owned())
}

/// Reads lines like `pc-q35-10.0          Standard PC (Q35 + ICH9, 2009)`.
fn parse_machine_types(help: &str) -> BTreeSet<String> {
    let names = help.lines().filter_map(|line| line.split_ascii_whitespace().next());
    names.filter(|name| name.starts_with(MACHINE_FAMILY)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(output: &str, expected: &str) {
        let shown = accept_version(output, Path::new("qemu")).unwrap_or_else(|error| error.to_string());
        assert!(shown.starts_with(expected), "{shown}");
    }

    #[test]
    fn an_old_qemu_is_refused() {
        check("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright", "10.0.2");
        check("QEMU emulator version 7.2.0", "7.2.0");
        check("QEMU emulator version 5.2.0 (Debian)", "qemu is QEMU 5.2.0, and machines need 7.2 or later");
        check("hello", "qemu does not say its version");
    }

    #[test]
    fn the_machine_types_of_our_family_are_read() {
        let help = "Supported machines are:\nmicrovm              microvm (i386)\n\
                    pc-q35-9.2           Standard PC (Q35 + ICH9, 2009)\n\
                    q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-10.0)\n\
                    pc-q35-10.0          Standard PC (Q35 + ICH9, 2009)\n\
                    pc-q35-2.4           Standard PC (Q35 + ICH9, 2009) (deprecated)\n\
                    none                 empty machine\n";
        let found: Vec<String> = parse_machine_types(help).into_iter().collect();
        assert_eq!(found, ["pc-q35-10.0", "pc-q35-2.4", "pc-q35-9.2"]);
    }

    #[tokio::test]
    async fn a_missing_qemu_names_its_package() {
        let config = QemuConfig { binary: "/nonexistent/qemu".into(), ..QemuConfig::new("/r", "/s") };
        let error = QemuDriver::new(config).qemu_version().await.unwrap_err();
        assert!(matches!(error, HostError::NotFound(_)));
        assert!(error.to_string().contains("install Debian's package qemu-system-x86"), "{error}");
    }
}
