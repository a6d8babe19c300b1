//! The process `kennel-watchdog`: looks at the page, kills what is overdue, feeds the device.
//!
//! It looks ten times a second, and at each deadline. A look without news takes no memory and makes no call but for the
//! time and for the device: it reads some kilobytes that are locked in memory. A process is opened when its slot is first
//! seen, so that at its deadline only a signal is left to be sent.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;

use super::clock::BootTime;
use super::device::{Device, DeviceState};
use super::page::{Entry, Page, Reading, SLOTS, Until, Wish};
use crate::qemu::ProcessId;
use crate::qemu::process::ProcessHandle;

/// Between two looks at most: a new slot is seen within this time.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// While something that was killed is not gone.
const LOOK_CLOSELY_EVERY: Duration = Duration::from_millis(10);

/// Between two tries to open a device.
const OPEN_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Between two looks at whether the page is still the one that daemons see.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// In the middle of what the kernel has: before all that is not made for hardware.
const REAL_TIME_PRIORITY: libc::c_int = 50;

/// Another watchdog looks at the page.
pub const EXIT_NOT_ALONE: u8 = 3;

/// What it is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    pub page: PathBuf,
    /// The device and its time-out in seconds.
    pub device: Option<(PathBuf, u32)>,
}

impl Arguments {
    /// `PAGE [DEVICE SECONDS]`.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
        const USAGE: &str = "usage: kennel-watchdog PAGE [DEVICE SECONDS]; kenneld starts it";
        let page = words.next().ok_or(USAGE)?.into();
        let device = match (words.next(), words.next(), words.next()) {
            (None, _, _) => None,
            (Some(device), Some(seconds), None) => {
                let seconds = seconds.parse().map_err(|_| format!("'{seconds}' are no seconds; {USAGE}"))?;
                Some((device.into(), seconds))
            }
            (Some(_), _, _) => return Err(USAGE.to_owned()),
        };
        Ok(Arguments { page, device })
    }

    pub fn words(&self) -> Vec<String> {
        let mut words = vec![self.page.display().to_string()];
        if let Some((device, seconds)) = &self.device {
            words.extend([device.display().to_string(), seconds.to_string()]);
        }
        words
    }
}

/// Watches until it is told to leave. Answers the exit status.
pub fn main(arguments: &Arguments) -> u8 {
    let page = match Page::open(&arguments.page) {
        Ok(page) => page,
        Err(error) => {
            eprintln!("kennel-watchdog: cannot use the page {}: {error}", arguments.page.display());
            return 1;
        }
    };
    let _only_one = match lock(&arguments.page) {
        Ok(lock) => lock,
        Err(Errno::EWOULDBLOCK) => return EXIT_NOT_ALONE,
        Err(errno) => {
            eprintln!("kennel-watchdog: cannot lock the page: {errno}");
            return 1;
        }
    };
    get_ready();
    let own = i32::try_from(std::process::id()).ok().and_then(ProcessId::of);
    page.set_looked(BootTime::default(), 0, 0);
    page.set_watcher(own.unwrap_or(ProcessId { pid: 0, started: 0 }));
    let mut watch = Watch::new(page, arguments.device.clone());
    let mut checked = BootTime::now();
    while let Some(pause) = watch.turn(BootTime::now()) {
        std::thread::sleep(pause);
        if BootTime::now().since(checked) >= CHECK_EVERY {
            checked = BootTime::now();
            if watch.page.is_replaced_at(&arguments.page) {
                eprintln!(
                    "kennel-watchdog: there is another page; the watchdog that looks at that one takes over"
                );
                break;
            }
        }
    }
    0
}

/// Held by the one watchdog of a page.
pub(super) fn lock(page: &Path) -> Result<Flock<File>, Errno> {
    let file =
        File::open(page).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)
}

/// What makes it run when nothing else does. Each that is not allowed is told, and done without.
fn get_ready() {
    let told = |what: &str, done: io::Result<()>| {
        if let Err(error) = done {
            eprintln!("kennel-watchdog: cannot {what}: {error}");
        }
    };
    told("ask not to be killed for want of memory", std::fs::write("/proc/self/oom_score_adj", "-1000"));
    told("stay in memory", stay_in_memory());
    if let Err(error) = run_first() {
        eprintln!("kennel-watchdog: cannot run in real time: {error}; it runs before all that does not");
        let nice = rustix::process::setpriority_process(None, -20);
        told("run before others", nice.map_err(io::Error::from));
    }
    // The end of a session or of its service is none of the guests', which are to be ended in time. SIGKILL ends it.
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        ignore(signal);
    }
}

#[expect(unsafe_code, reason = "nix is built without it")]
fn stay_in_memory() -> io::Result<()> {
    // SAFETY: the call takes no pointer.
    let done = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[expect(unsafe_code, reason = "nix has no such call")]
fn run_first() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: REAL_TIME_PRIORITY };
    // SAFETY: the pointer is to a structure of ours that the call reads and does not keep.
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const parameters) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[expect(unsafe_code, reason = "the kernel's own call, without a handler")]
fn ignore(signal: libc::c_int) {
    // SAFETY: SIG_IGN runs no code of ours.
    unsafe {
        libc::signal(signal, libc::SIG_IGN);
    }
}

/// A machine whose slot was seen.
#[derive(Debug)]
struct Held {
    id: ProcessId,
    /// None: it was gone when it was last looked at.
    process: Option<ProcessHandle>,
}

/// What one look has found.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// Machines that must not run and are not gone.
    overdue: usize,
    damaged: usize,
    /// The next deadline.
    next: Option<BootTime>,
}

/// False also when that cannot be found out.
fn is_surely_gone(id: ProcessId) -> bool {
    match std::fs::metadata(format!("/proc/{}", id.pid)) {
        Ok(_) => ProcessId::of(id.pid).is_some_and(|now| now != id),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[derive(Debug)]
struct Watch {
    page: Page,
    held: Vec<Option<Held>>,
    wanted: Option<(PathBuf, u32)>,
    device: Option<Device>,
    opened_at: Option<BootTime>,
}

impl Watch {
    fn new(page: Page, wanted: Option<(PathBuf, u32)>) -> Watch {
        // Until it is open, nobody is to count on it.
        page.set_device(&if wanted.is_some() { DeviceState::Failed } else { DeviceState::None });
        let held = std::iter::repeat_with(|| None).take(SLOTS).collect();
        Watch { page, held, wanted, device: None, opened_at: None }
    }

    /// One turn; answers how long to wait for the next one, or nothing when it is to end.
    fn turn(&mut self, now: BootTime) -> Option<Duration> {
        // Somebody made another page over it: what is here is nobody's word any more.
        if !self.page.is_whole() {
            eprintln!("kennel-watchdog: the page is damaged; another watchdog will be started");
            return None;
        }
        match self.page.wish() {
            Wish::Stay => {}
            Wish::Leave => return None,
            Wish::LetGoOfDevice => self.let_go_of_device(),
        }
        let found = self.look(now);
        self.page.set_looked(now, found.overdue, found.damaged);
        // Only what was just seen to be in order is a reason to feed. Nothing is waited for in between. A slot that cannot
        // be read may be that of a machine that is overdue.
        if found.overdue == 0 && (found.damaged == 0 || now < self.page.session()) {
            self.feed(now);
        }
        let until_next = found.next.map_or(LOOK_EVERY, |next| next.since(now));
        let at_most = if found.overdue > 0 { LOOK_CLOSELY_EVERY } else { LOOK_EVERY };
        Some(until_next.min(at_most))
    }

    /// Looks at all slots, and kills what is overdue.
    fn look(&mut self, now: BootTime) -> Found {
        let session = self.page.session();
        let mut found = Found { overdue: 0, damaged: 0, next: None };
        for slot in 0..SLOTS {
            let entry = match self.page.read(slot) {
                Reading::Taken(entry) => entry,
                Reading::Free => {
                    self.held[slot] = None;
                    continue;
                }
                // What it was stays opened; kenneld is told, and writes it anew.
                Reading::Damaged => {
                    found.damaged += 1;
                    continue;
                }
            };
            self.hold(slot, entry.process);
            let Until::Session { or } = entry.until else { continue };
            let due = session.max(or);
            if now < due {
                found.next = Some(found.next.map_or(due, |next| next.min(due)));
            } else if self.end(slot, &entry, now) {
                found.overdue += 1;
            }
        }
        found
    }

    fn hold(&mut self, slot: usize, id: ProcessId) {
        if self.held[slot].as_ref().is_some_and(|held| held.id == id) {
            return;
        }
        let process = ProcessHandle::open(id);
        let known = process.is_some() || is_surely_gone(id);
        // One that is there and cannot be opened is tried again, and counts as not gone.
        self.held[slot] = known.then_some(Held { id, process });
    }

    /// Kills a machine that is overdue; whether it may still be there.
    fn end(&mut self, slot: usize, entry: &Entry, now: BootTime) -> bool {
        let Some(held) = &mut self.held[slot] else { return true };
        held.process.take_if(|process| process.is_gone());
        let Some(process) = &held.process else { return false };
        if !entry.ended {
            self.page.set_ended(slot, now);
            eprintln!("kennel-watchdog: ends guest {} (process {})", entry.guest, entry.process.pid);
        }
        process.send_kill();
        !process.is_gone()
    }

    fn feed(&mut self, now: BootTime) {
        let due = self.opened_at.is_none_or(|at| now.since(at) >= OPEN_AGAIN_AFTER);
        if self.device.is_none()
            && due
            && let Some((path, timeout_s)) = &self.wanted
        {
            self.opened_at = Some(now);
            match Device::open(path, *timeout_s) {
                Ok(device) => {
                    self.page.set_device(&DeviceState::Armed(device.facts().clone()));
                    self.device = Some(device);
                }
                Err(why) => {
                    eprintln!("kennel-watchdog: {why}");
                    self.page.set_device(&DeviceState::Failed);
                }
            }
        }
        if let Some(device) = &mut self.device
            && let Err(error) = device.feed(now)
        {
            eprintln!("kennel-watchdog: the device takes no food: {error}");
            self.page.set_device(&DeviceState::Failed);
        }
    }

    fn let_go_of_device(&mut self) {
        self.wanted = None;
        if let Some(device) = self.device.take()
            && let Err(error) = device.let_go()
        {
            eprintln!("kennel-watchdog: the device may reset this host: {error}");
        }
        self.page.set_device(&DeviceState::None);
    }
}

#[cfg(test)]
mod tests;
