//! kenneld's side of the page: until when each machine may run, and the process that sees to it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use model::{BootId, GuestId};
use nix::errno::Errno;
use tokio::time::Instant;

use super::clock::BootTime;
use super::page::{Entry, Page, Reading, SLOTS, path_in};
use super::run::{self, Arguments};
use super::{DeviceState, ProcessId};
use crate::HostError;
use crate::qemu::process::{self, ProcessHandle};

pub use super::page::{Until, Wish};

const PACKAGE: &str = "kennel";

/// How long a watchdog may take to say that it looks. It takes milliseconds.
const START_LIMIT: Duration = Duration::from_secs(10);

const START_POLL: Duration = Duration::from_millis(5);

/// The page, for the daemon that has it.
#[derive(Debug)]
pub struct Guard {
    page: Page,
    path: PathBuf,
    log: PathBuf,
    /// Held while a slot is looked for.
    taking: Mutex<()>,
}

/// A machine's place in the page.
#[derive(Debug, PartialEq, Eq)]
pub struct Slot {
    at: usize,
    process: ProcessId,
}

/// How the watchdog is to be run.
#[derive(Debug, Clone)]
pub struct Program {
    pub binary: PathBuf,
    /// The device and its time-out in seconds.
    pub device: Option<(PathBuf, u32)>,
}

/// Whether there is a watchdog.
#[derive(Debug)]
pub enum Found {
    Nobody,
    /// It has the page, and has not said yet who it is.
    Starting,
    Alive(Watcher),
}

/// A watchdog that runs.
#[derive(Debug)]
pub struct Watcher(ProcessHandle);

impl Watcher {
    /// Returns when it has ended.
    pub async fn gone(&self) -> Result<(), HostError> {
        self.0.gone().await.map_err(|error| HostError::Failed(format!("cannot watch the watchdog: {error}")))
    }

    pub fn is_gone(&self) -> bool {
        self.0.is_gone()
    }

    /// Ends one that hangs.
    pub async fn kill(&self) -> Result<(), HostError> {
        self.0.kill("the watchdog").await
    }
}

/// What the watchdog says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// When it looked last.
    pub looked: BootTime,
    /// Machines that were killed because they must not run, and are not gone.
    pub overdue: u64,
    /// Slots that cannot be read.
    pub damaged: u64,
    pub device: DeviceState,
}

impl Guard {
    /// The page of this boot, as the daemon before this one left it. `log` is the watchdog's.
    pub fn open(run_dir: &Path, log: PathBuf, boot: BootId) -> Result<Guard, HostError> {
        let path = path_in(run_dir);
        let page = Page::open_or_make(&path, boot).map_err(|error| {
            HostError::Failed(format!("cannot make the watchdog's page {}: {error}", path.display()))
        })?;
        let guard = Guard { page, path, log, taking: Mutex::default() };
        guard.give_back_the_dead();
        Ok(guard)
    }

    /// The session was renewed by what was sent then: machines may run until `until` for it.
    pub fn renew(&self, sent: BootTime, until: BootTime) {
        self.page.set_session(until);
        self.page.set_renewed(Some(sent));
    }

    /// When the last renewal was sent that was confirmed, also to a daemon before this one.
    pub fn renewed(&self) -> Option<BootTime> {
        self.page.renewed()
    }

    /// The store has said that the session is over. Deadlines stay: they were promised to nobody, but to be kept.
    pub fn forget_session(&self) {
        self.page.set_renewed(None);
    }

    /// Guards a process; it may run for ever until somebody says something else. One that is guarded stays as it is.
    pub fn guard(&self, guest: GuestId, process: ProcessId) -> Result<Slot, HostError> {
        let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let is_its = |at: &usize| self.entry(*at).is_some_and(|entry| entry.process == process);
        if let Some(at) = (0..SLOTS).find(is_its) {
            return Ok(Slot { at, process });
        }
        let free = || (0..SLOTS).find(|at| self.page.read(*at) == Reading::Free);
        let at = free().or_else(|| {
            self.give_back_the_dead();
            free()
        });
        let Some(at) = at else {
            return Err(HostError::Conflict(format!(
                "the watchdog has no room for guest {guest}: it guards {SLOTS} machines at most"
            )));
        };
        self.page.take(at, process, guest);
        Ok(Slot { at, process })
    }

    /// Until when a machine may run, if nobody says anything else. False: its place is not its own any more.
    pub fn allow(&self, slot: &Slot, until: Until) -> bool {
        let Some(entry) = self.entry_of(slot) else { return false };
        if entry.until != until {
            self.page.set_until(slot.at, until);
        }
        true
    }

    /// Whether it was the watchdog that ended the machine.
    pub fn has_ended(&self, slot: &Slot) -> bool {
        self.entry_of(slot).is_some_and(|entry| entry.ended)
    }

    /// The machine is gone.
    pub fn give_back(&self, slot: &Slot) {
        if self.entry_of(slot).is_some() {
            self.page.give_back(slot.at);
        }
    }

    fn entry(&self, at: usize) -> Option<Entry> {
        match self.page.read(at) {
            Reading::Taken(entry) => Some(entry),
            Reading::Free | Reading::Damaged => None,
        }
    }

    fn entry_of(&self, slot: &Slot) -> Option<Entry> {
        self.entry(slot.at).filter(|entry| entry.process == slot.process)
    }

    /// Machines that ended while no daemon looked.
    fn give_back_the_dead(&self) {
        for at in 0..SLOTS {
            let is_dead = match self.page.read(at) {
                Reading::Free => false,
                Reading::Damaged => true,
                Reading::Taken(entry) => {
                    let is_dead = ProcessHandle::open(entry.process).is_none_or(|process| process.is_gone());
                    if is_dead && entry.ended {
                        tracing::warn!(guest = %entry.guest, "the watchdog ended a machine while no daemon looked");
                    }
                    is_dead
                }
            };
            if is_dead {
                self.page.give_back(at);
            }
        }
    }

    pub fn health(&self) -> Health {
        Health {
            looked: self.page.looked(),
            overdue: self.page.overdue(),
            damaged: self.page.damaged(),
            device: self.page.device(),
        }
    }

    pub fn wish(&self, wish: Wish) {
        self.page.set_wish(wish);
    }

    /// The watchdog that has the page, whoever started it.
    pub fn find(&self) -> Result<Found, HostError> {
        match run::lock(&self.path) {
            // Let go of at once. One that started this very moment finds the page taken, ends, and is started again.
            Ok(_lock) => Ok(Found::Nobody),
            Err(Errno::EWOULDBLOCK) => Ok(match ProcessHandle::open(self.page.watcher()) {
                Some(process) => Found::Alive(Watcher(process)),
                None => Found::Starting,
            }),
            Err(errno) => Err(HostError::Failed(format!("cannot look for the watchdog: {errno}"))),
        }
    }

    /// Starts a watchdog, or finds the one that was quicker. Returns when it looks at the page.
    pub async fn start(&self, program: &Program) -> Result<Watcher, HostError> {
        self.page.set_wish(Wish::Stay);
        let arguments = Arguments { page: self.path.clone(), device: program.device.clone() };
        let mut child = process::spawn(&program.binary, &arguments.words(), &self.log, None, PACKAGE)?;
        let started = child.id().and_then(|pid| ProcessId::of(pid.try_into().ok()?));
        let deadline = Instant::now() + START_LIMIT;
        let found = loop {
            // The lock is left alone as long as this one lives: it could not take it.
            let looks = Some(self.page.watcher()) == started && self.page.looked() != BootTime::default();
            if let Some(process) = started.filter(|_| looks).and_then(ProcessHandle::open) {
                break Ok(Watcher(process));
            }
            if child.try_wait().ok().flatten().is_some() {
                match self.find()? {
                    Found::Alive(watcher) => break Ok(watcher),
                    Found::Starting => {}
                    Found::Nobody => {
                        let said = process::log_tail(&self.log);
                        let what = format!("the watchdog ended as soon as it was started: {said}");
                        break Err(HostError::Failed(what));
                    }
                }
            }
            if Instant::now() >= deadline {
                break Err(HostError::TimedOut("the watchdog does not say that it looks".to_owned()));
            }
            tokio::time::sleep(START_POLL).await;
        };
        // Somebody must wait for a child, or it stays as a zombie.
        tokio::spawn(async move { child.wait().await });
        found
    }
}
