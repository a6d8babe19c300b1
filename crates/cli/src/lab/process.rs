//! Processes of the lab: remembered so that a number that was given out again is never mistaken for them, and
//! found again by their PID namespace or by the mark that each of them carries in its environment.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// How often a condition is looked at while it is waited for: far below what a person notices.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The variable in the environment of every process of a lab; its value is the lab's unique id.
pub const MARK: &str = "KENNEL_LAB";

/// One run of one process. Numbers are given out again, but not to a process that started at the same tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRef {
    pub pid: i32,
    /// Clock ticks after the machine's boot, field 22 of `/proc/<pid>/stat`.
    pub started: u64,
}

/// What `/proc/<pid>/stat` says of a process.
#[derive(Debug, Clone, Copy)]
struct Stat {
    state: char,
    started: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The second field is a name in parentheses that may hold spaces and parentheses of its own.
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.get(text.rfind(')')? + 1..)?.split_whitespace();
        let state = fields.next()?.chars().next()?;
        // That was field 3; the start time is field 22.
        let started = fields.nth(18)?.parse().ok()?;
        Some(Self { state, started })
    }
}

impl ProcessRef {
    /// The process that has this number now.
    pub fn of(pid: u32) -> Result<Self> {
        let pid = i32::try_from(pid).context("read a process id")?;
        match Stat::read(pid) {
            Some(stat) => Ok(Self { pid, started: stat.started }),
            None => bail!("process {pid} ended as soon as it was started"),
        }
    }

    fn stat(self) -> Option<Stat> {
        Stat::read(self.pid).filter(|stat| stat.started == self.started)
    }

    /// False also for a zombie: it runs nothing and holds nothing but its number.
    pub fn is_alive(self) -> bool {
        self.stat().is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
    }

    /// Whether SIGSTOP holds it.
    pub fn is_stopped(self) -> bool {
        self.stat().is_some_and(|stat| stat.state == 'T')
    }

    /// Signals it, unless it is gone; that is no error.
    pub fn signal(self, signal: Signal) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("send {signal} to process {}", self.pid)),
        }
    }

    /// Kills it and waits until it is gone.
    pub fn end(self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        wait_until(Duration::from_secs(10), &format!("the end of process {}", self.pid), || {
            Ok((!self.is_alive()).then_some(()))
        })
    }

    /// The PID namespace that it lives in, as the kernel names it.
    pub fn pid_namespace(self) -> Option<String> {
        pid_namespace(self.pid).filter(|_| self.is_alive())
    }
}

fn pid_namespace(pid: i32) -> Option<String> {
    let link = fs::read_link(format!("/proc/{pid}/ns/pid")).ok()?;
    Some(link.to_string_lossy().into_owned())
}

/// Every process that can be seen from here.
fn all_processes() -> Result<Vec<ProcessRef>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("read /proc")? {
        let name = entry.context("read /proc")?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended since.
        if let Some(stat) = Stat::read(pid) {
            found.push(ProcessRef { pid, started: stat.started });
        }
    }
    Ok(found)
}

/// All living processes of a PID namespace.
pub fn members_of(namespace: &str) -> Result<Vec<ProcessRef>> {
    let mut members = all_processes()?;
    members.retain(|process| process.pid_namespace().as_deref() == Some(namespace));
    Ok(members)
}

/// All living processes that carry the lab's mark or live in a PID namespace with one that does, or in one of
/// those named; never the caller.
pub fn processes_of_lab(id: &str, mut namespaces: BTreeSet<String>) -> Result<Vec<ProcessRef>> {
    let mark = format!("{MARK}={id}");
    let mine = pid_namespace(i32::try_from(std::process::id()).context("read a process id")?);
    let mut found = BTreeMap::new();
    for process in all_processes()? {
        let environment = fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
            namespaces.extend(process.pid_namespace().filter(|namespace| Some(namespace) != mine.as_ref()));
            found.insert(process.pid, process);
        }
    }
    for process in all_processes()? {
        if process.pid_namespace().is_some_and(|namespace| namespaces.contains(&namespace)) {
            found.insert(process.pid, process);
        }
    }
    found.retain(|pid, process| process.is_alive() && u32::try_from(*pid) != Ok(std::process::id()));
    Ok(found.into_values().collect())
}

/// The names that a process is known by: the kernel's, its program's file, and what it was started as.
pub fn names_of(process: ProcessRef) -> BTreeSet<String> {
    let folder = format!("/proc/{}", process.pid);
    let comm = fs::read_to_string(format!("{folder}/comm")).unwrap_or_default();
    let program = fs::read_link(format!("{folder}/exe")).unwrap_or_default();
    let arguments = fs::read(format!("{folder}/cmdline")).unwrap_or_default();
    let started_as = String::from_utf8_lossy(arguments.split(|byte| *byte == 0).next().unwrap_or_default());
    let file_name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let mut names = BTreeSet::from([comm.trim_end().to_owned()]);
    names.extend(file_name(&program));
    names.extend(file_name(Path::new(started_as.as_ref())));
    names.remove("");
    names
}

/// Asks again and again until there is an answer. `what` completes "waited … for".
pub fn wait_until<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if start.elapsed() > limit {
            bail!("waited {} s for {what}, in vain", limit.as_secs());
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_confuses_nobody() {
        let line = "42 (a) S (b c)) T 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 2";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.state, stat.started), ('T', 987_654));
    }

    #[test]
    fn a_number_that_was_given_out_again_is_another_process() {
        let me = ProcessRef::of(std::process::id()).unwrap();
        let other = ProcessRef { started: me.started + 1, ..me };
        assert!(me.is_alive());
        assert!(!other.is_alive());
        // Would end this test, if it were sent.
        other.signal(Signal::SIGKILL).unwrap();
    }
}
