//! Processes that outlive this daemon: started in a session of their own, found again in `/proc`, watched
//! and ended through pidfds.
//!
//! A process is named by its number *and* its start time. Numbers are used again; the pair is not, within
//! one boot. A [`ProcessHandle`] compares the start time after it has opened the pidfd, and from then on
//! the kernel keeps the two together: a signal through it never reaches a stranger.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Uid};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Child;

use crate::HostError;

/// How long a killed process may take to go. Only a process that hangs in the kernel takes longer.
const KILL_LIMIT: Duration = Duration::from_secs(30);

/// How often a process that was killed is looked at.
const GONE_POLL: Duration = Duration::from_millis(5);

/// How much of a log is quoted when a process did not start.
const LOG_QUOTE: u64 = 2048;

/// The unprivileged user that machines run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunAs {
    pub uid: u32,
    pub gid: u32,
}

impl RunAs {
    /// The user of that name; none when there is no such user, or when this process may not become it.
    pub fn look_up(name: &str) -> Option<RunAs> {
        if !Uid::effective().is_root() {
            return None;
        }
        let user = nix::unistd::User::from_name(name).ok().flatten()?;
        Some(RunAs { uid: user.uid.as_raw(), gid: user.gid.as_raw() })
    }
}

/// One process, for as long as this host is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: i32,
    /// Clock ticks since the host booted.
    pub started: u64,
}

impl ProcessId {
    /// The process that has this number now.
    pub fn of(pid: i32) -> Option<ProcessId> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field, the name, may hold spaces and brackets; what follows its last bracket does not.
        let after_name = stat.rsplit_once(')')?.1;
        // Field 22 of proc_pid_stat(5); the first one here is field 3.
        let started = after_name.split_ascii_whitespace().nth(22 - 3)?.parse().ok()?;
        Some(ProcessId { pid, started })
    }
}

/// A process that is held by its pidfd.
#[derive(Debug)]
pub(crate) struct ProcessHandle {
    pub id: ProcessId,
    pidfd: OwnedFd,
}

impl ProcessHandle {
    /// None when the process is gone, whoever has its number now.
    pub fn open(id: ProcessId) -> Option<ProcessHandle> {
        let pidfd = rustix::process::pidfd_open(Pid::from_raw(id.pid)?, PidfdFlags::empty()).ok()?;
        (ProcessId::of(id.pid)? == id).then_some(ProcessHandle { id, pidfd })
    }

    /// Whether it has ended; a zombie has.
    pub fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(rustix::event::poll(&mut fds, Some(&at_once)), Ok(1..))
    }

    /// Sends SIGKILL, and waits for nothing. One that is gone already is left alone.
    pub fn send_kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Returns when it has ended.
    #[expect(
        unsafe_code,
        reason = "tokio cannot know that the descriptor stays open; it has no safe form any more"
    )]
    pub async fn gone(&self) -> std::io::Result<()> {
        let pidfd = self.pidfd.try_clone()?;
        // SAFETY: the descriptor is owned by what it is registered with, so it stays open for as long as that.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
        pidfd.readable().await.map(drop)
    }

    /// Ends it with SIGKILL, and returns when it is gone.
    pub async fn kill(&self, what: &str) -> Result<(), HostError> {
        if self.is_gone() {
            return Ok(());
        }
        match rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(errno) => return Err(HostError::Failed(format!("cannot end {what}: {errno}"))),
        }
        let deadline = Instant::now() + KILL_LIMIT;
        while !self.is_gone() {
            if Instant::now() > deadline {
                return Err(HostError::TimedOut(format!(
                    "{what} (process {}) was killed and is not gone after {} s: it hangs in the kernel, \
                     probably on storage that does not answer",
                    self.id.pid,
                    KILL_LIMIT.as_secs()
                )));
            }
            tokio::time::sleep(GONE_POLL).await;
        }
        Ok(())
    }
}

/// Every process here that has an argument which holds `marker`, with its arguments.
pub(crate) fn find(marker: &str) -> Vec<(ProcessId, Vec<String>)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| {
            let id = ProcessId::of(pid)?;
            let raw = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let arguments: Vec<String> =
                raw.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect();
            arguments.iter().any(|argument| argument.contains(marker)).then_some((id, arguments))
        })
        .collect()
}

/// Starts a program that outlives this process: in its own session, with nothing of ours open, its output
/// appended to `log`.
pub(crate) fn spawn(
    binary: &Path,
    arguments: &[String],
    log: &Path,
    run_as: Option<RunAs>,
    package: &str,
) -> Result<Child, HostError> {
    let cannot = |error: std::io::Error| {
        HostError::Failed(format!("cannot open the log {} of {}: {error}", log.display(), binary.display()))
    };
    let output = File::options().create(true).append(true).open(log).map_err(cannot)?;
    let errors = output.try_clone().map_err(cannot)?;
    let mut command = std::process::Command::new(binary);
    command.args(arguments).stdin(Stdio::null()).stdout(output).stderr(errors).current_dir("/");
    become_detached(&mut command, run_as);
    tokio::process::Command::from(command).spawn().map_err(|error| missing_program(binary, package, &error))
}

/// Why a program could not be run, and what would help.
pub(crate) fn missing_program(binary: &Path, package: &str, error: &std::io::Error) -> HostError {
    if error.kind() == std::io::ErrorKind::NotFound {
        HostError::NotFound(format!(
            "cannot run {}: it is not installed; install Debian's package {package}, or run scripts/setup",
            binary.display()
        ))
    } else {
        HostError::Failed(format!("cannot run {}: {error}", binary.display()))
    }
}

#[expect(
    unsafe_code,
    reason = "a session of its own and a user's groups can only be had between fork and exec"
)]
fn become_detached(command: &mut std::process::Command, run_as: Option<RunAs>) {
    // The unprivileged user keeps KVM through the group of its device, whatever that group's number is.
    let kvm = std::fs::metadata("/dev/kvm").ok().map(|meta| std::os::unix::fs::MetadataExt::gid(&meta));
    let groups: Vec<Gid> = kvm.into_iter().map(Gid::from_raw).collect();
    let child = move || -> std::io::Result<()> {
        nix::unistd::setsid()?;
        if let Some(user) = run_as {
            nix::unistd::setgroups(&groups)?;
            nix::unistd::setgid(Gid::from_raw(user.gid))?;
            nix::unistd::setuid(Uid::from_raw(user.uid))?;
        }
        Ok(())
    };
    // SAFETY: the closure runs in the forked child and makes four system calls. It neither allocates nor
    // takes a lock: the groups were collected before the fork, and nix's errors hold no memory.
    unsafe {
        command.pre_exec(child);
    }
}

/// The last lines of a log, for an error message.
pub(crate) fn log_tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_QUOTE)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join("; ")
}

/// Gives a file or a folder to the user that machines run as.
pub(crate) fn give_to(path: &Path, run_as: Option<RunAs>) -> Result<(), HostError> {
    let Some(user) = run_as else { return Ok(()) };
    std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)).map_err(|error| {
        HostError::Failed(format!("cannot give {} to the user {}: {error}", path.display(), user.uid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_number_and_its_start() {
        let own = std::process::id().try_into().unwrap();
        let id = ProcessId::of(own).unwrap();
        assert!(!ProcessHandle::open(id).unwrap().is_gone());
        let stranger = ProcessId { started: id.started + 1, ..id };
        assert!(ProcessHandle::open(stranger).is_none(), "the number is in use, but by another process");
    }

    #[tokio::test]
    async fn a_killed_process_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let sleep = ["600".to_owned()];
        let mut child = spawn(Path::new("/usr/bin/sleep"), &sleep, &log, None, "coreutils").unwrap();
        let id = ProcessId::of(child.id().unwrap().try_into().unwrap()).unwrap();
        let handle = ProcessHandle::open(id).unwrap();
        handle.kill("the sleeper").await.unwrap();
        handle.kill("the sleeper").await.unwrap();
        child.wait().await.unwrap();
        assert!(ProcessHandle::open(id).is_none());
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let nothing = std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = missing_program(Path::new("qemu-system-x86_64"), "qemu-system-x86", &nothing);
        assert!(error.to_string().contains("package qemu-system-x86"), "{error}");
    }
}
