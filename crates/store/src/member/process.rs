//! Processes as `/proc` shows them, and etcd's own log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::MemberStatus;

/// How often an adopted process, which is no child of ours, is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A log that is longer is put aside at the next start.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// How much of a log's end is read for its last complaint.
const LOG_TAIL_BYTES: u64 = 8 << 10;

/// A process, told from later ones with the same number by the time of its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pid: i32,
    /// Clock ticks since the boot.
    started: u64,
}

impl Process {
    /// The etcd that runs on this data directory, if there is one in our part of the machine: a process
    /// elsewhere (in a container, or a host of a lab) may name the same path and mean another directory.
    pub(super) fn find(data_dir: &Path) -> Option<Process> {
        let wanted = data_dir_argument(data_dir);
        let here = namespaces("self");
        let numbers = fs::read_dir("/proc").ok()?.flatten();
        let pids = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        for pid in pids {
            let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
            let mut words = line.split(|byte| *byte == 0);
            let is_etcd = words.next().is_some_and(|program| program.ends_with(b"etcd"));
            if is_etcd
                && words.any(|word| word == wanted.as_bytes())
                && namespaces(&pid.to_string()) == here
                && let Some(process) = Process::of(pid)
            {
                return Some(process);
            }
        }
        None
    }

    /// `None`: there is none, or only what is left of one (a zombie).
    fn of(pid: i32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field, the program's name in parentheses, may hold anything.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // proc(5): state is the third field, starttime the 22nd.
        let started = fields.get(19)?.parse().ok()?;
        (!matches!(*fields.first()?, "Z" | "X")).then_some(Process { pid, started })
    }

    fn is_alive(self) -> bool {
        Process::of(self.pid) == Some(self)
    }
}

/// What a process sees of the machine: its processes, its files.
fn namespaces(pid: &str) -> [Option<PathBuf>; 2] {
    ["pid", "mnt"].map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok())
}

pub(super) fn data_dir_argument(data_dir: &Path) -> String {
    format!("--data-dir={}", data_dir.display())
}

/// A member's process.
#[derive(Debug)]
pub(super) enum Running {
    Started(Child),
    Adopted(Process),
}

impl Running {
    pub(super) fn status(&self) -> MemberStatus {
        match self {
            Running::Started(_) => MemberStatus::Running { pid: self.pid().unwrap_or(0), adopted: false },
            Running::Adopted(process) => MemberStatus::Running { pid: process.pid, adopted: true },
        }
    }

    /// `None`: it has ended.
    fn pid(&self) -> Option<i32> {
        match self {
            Running::Started(child) => child.id().and_then(|id| i32::try_from(id).ok()),
            Running::Adopted(process) => process.is_alive().then_some(process.pid),
        }
    }

    /// Waits for its end, and says how it ended.
    pub(super) async fn ended(&mut self) -> String {
        match self {
            Running::Started(child) => match child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            },
            Running::Adopted(process) => {
                while process.is_alive() {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                "it was adopted, so its exit status is not known".to_owned()
            }
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // It may end before the signal comes; that is what the signal is for.
            let _already_gone = kill(Pid::from_raw(pid), signal);
        }
    }
}

/// A program in `PATH`.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Starts etcd in a process group of its own, so that no signal for ours reaches it.
pub(super) fn spawn(program: &Path, arguments: &[String], log: File) -> io::Result<Child> {
    let mut command = Command::new(program);
    // etcd takes every flag from `ETCD_…` variables, too; ours come from the command line alone.
    command.args(arguments).env_clear();
    if std::env::consts::ARCH == "aarch64" {
        // etcd 3.4 refuses to run there unless told to.
        command.env("ETCD_UNSUPPORTED_ARCH", "arm64");
    }
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0).spawn()
}

/// Opens a log to be appended to, with the directory it stands in.
pub(super) fn open_log(path: &Path) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    if fs::metadata(path).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
        fs::rename(path, path.with_extension("log.old"))?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

/// The last line of a log that tells of more than routine; else the last line.
pub(super) fn last_complaint(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let complaint = |line: &&str| {
        ["\"fatal\"", "\"error\"", "\"panic\"", "panic:"].iter().any(|word| line.contains(word))
    };
    text.lines().rev().find(complaint).or_else(|| text.lines().next_back()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_another_of_its_number() {
        let own = Process::of(i32::try_from(std::process::id()).expect("a pid")).expect("this process");
        assert!(own.is_alive());
        assert!(!Process { started: own.started + 1, ..own }.is_alive());
    }

    #[test]
    fn the_last_complaint_of_a_log() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("etcd.log");
        assert_eq!(last_complaint(&path), None);
        fs::write(&path, "{\"level\":\"fatal\",\"msg\":\"boom\"}\n{\"level\":\"info\"}\n").expect("write");
        assert_eq!(last_complaint(&path).as_deref(), Some("{\"level\":\"fatal\",\"msg\":\"boom\"}"));
        fs::write(&path, "one\ntwo\n").expect("write");
        assert_eq!(last_complaint(&path).as_deref(), Some("two"));
    }
}
