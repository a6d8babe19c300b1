//! The program `kennel-watchdog` and a daemon's side of its page, with real processes in the place of machines.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use host::watchdog::{BootTime, Found, Guard, Program, Slot, Until, Watcher, Wish};
use host::watchdog::{DeviceState, ProcessId};
use model::{BootId, GuestId};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use uuid::Uuid;

/// How long anything may take here on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A machine.
struct Sleeper {
    child: Child,
    id: ProcessId,
}

impl Sleeper {
    fn start() -> Sleeper {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        let id = ProcessId::of(child.id().try_into().unwrap()).unwrap();
        Sleeper { child, id }
    }

    fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    async fn until_dead(&mut self) {
        wait("the machine to be ended", || !self.lives()).await;
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

async fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !holds() {
        assert!(begin.elapsed() < LIMIT, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn program() -> Program {
    Program { binary: PathBuf::from(env!("CARGO_BIN_EXE_kennel-watchdog")), device: None }
}

/// As a daemon does it that starts in this run directory.
fn open(folder: &Path) -> Guard {
    Guard::open(folder, folder.join("watchdog.log"), BootId(Uuid::nil())).unwrap()
}

fn guest(number: u128) -> GuestId {
    GuestId(Uuid::from_u128(number))
}

fn bound(guard: &Guard, sleeper: &Sleeper, or: BootTime) -> Slot {
    let slot = guard.guard(guest(1), sleeper.id).unwrap();
    assert!(guard.allow(&slot, Until::Session { or }));
    slot
}

fn in_ms(milliseconds: u64) -> BootTime {
    BootTime::now().after(Duration::from_millis(milliseconds))
}

fn found(guard: &Guard) -> Option<Watcher> {
    match guard.find().unwrap() {
        Found::Alive(watcher) => Some(watcher),
        Found::Nobody | Found::Starting => None,
    }
}

async fn end(guard: &Guard, watcher: Watcher) {
    guard.wish(Wish::Leave);
    watcher.gone().await.unwrap();
}

#[tokio::test]
async fn a_machine_lives_as_long_as_the_session_is_renewed() {
    let folder = tempfile::tempdir().unwrap();
    let guard = open(folder.path());
    guard.renew(BootTime::now(), in_ms(60_000));
    let watcher = guard.start(&program()).await.unwrap();
    let (mut shared, mut local) = (Sleeper::start(), Sleeper::start());
    let slot = bound(&guard, &shared, BootTime::default());
    let other = guard.guard(guest(2), local.id).unwrap();
    let looked = guard.health().looked;
    wait("the watchdog to look", || guard.health().looked > looked).await;
    assert!(shared.lives() && local.lives());
    // No renewal comes any more.
    let due = in_ms(300);
    guard.renew(BootTime::now(), due);
    shared.until_dead().await;
    assert!(BootTime::now() >= due, "not before its time");
    assert!(guard.has_ended(&slot) && !guard.has_ended(&other) && local.lives());
    wait("nothing to be overdue", || guard.health().overdue == 0).await;
    end(&guard, watcher).await;
}

#[tokio::test]
async fn a_promise_of_the_secondary_outlasts_the_session() {
    let folder = tempfile::tempdir().unwrap();
    let guard = open(folder.path());
    guard.renew(BootTime::now(), in_ms(60_000));
    let watcher = guard.start(&program()).await.unwrap();
    let mut mirrored = Sleeper::start();
    let slot = bound(&guard, &mirrored, in_ms(60_000));
    guard.renew(BootTime::now(), BootTime::now());
    let looked = BootTime::now();
    wait("the watchdog to look", || guard.health().looked > looked).await;
    assert!(mirrored.lives());
    // It denies it now.
    assert!(guard.allow(&slot, Until::Session { or: BootTime::default() }));
    mirrored.until_dead().await;
    end(&guard, watcher).await;
}

#[tokio::test]
async fn the_next_daemon_finds_the_watchdog_and_what_is_left_of_the_session() {
    let folder = tempfile::tempdir().unwrap();
    let guard = open(folder.path());
    let sent = BootTime::now();
    guard.renew(sent, in_ms(60_000));
    let first = guard.start(&program()).await.unwrap();
    let mut machine = Sleeper::start();
    let slot = bound(&guard, &machine, BootTime::default());
    drop((guard, first));

    let next = open(folder.path());
    assert_eq!(next.renewed(), Some(sent));
    let watcher = found(&next).unwrap();
    let again = next.guard(guest(1), machine.id).unwrap();
    assert_eq!(again, slot, "it is guarded already");
    // One that is started all the same finds the page taken.
    let doubled = next.start(&program()).await.unwrap();
    assert!(!watcher.is_gone() && !doubled.is_gone());
    assert!(machine.lives());
    next.forget_session();
    assert_eq!(next.renewed(), None);
    next.renew(BootTime::now(), BootTime::now());
    machine.until_dead().await;
    end(&next, watcher).await;
    assert!(doubled.is_gone(), "it was the same");
}

#[tokio::test]
async fn a_watchdog_that_died_is_missed_and_the_next_one_knows_every_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let guard = open(folder.path());
    guard.renew(BootTime::now(), in_ms(60_000));
    let first = guard.start(&program()).await.unwrap();
    let mut machine = Sleeper::start();
    bound(&guard, &machine, BootTime::default());
    first.kill().await.unwrap();
    first.gone().await.unwrap();
    assert!(found(&guard).is_none());
    // Nobody is there at the deadline.
    guard.renew(BootTime::now(), BootTime::now());
    assert!(machine.lives());
    let next = guard.start(&program()).await.unwrap();
    machine.until_dead().await;
    end(&guard, next).await;
}

#[tokio::test]
async fn a_page_that_was_removed_takes_its_watchdog_along_and_no_machine() {
    let folder = tempfile::tempdir().unwrap();
    let guard = open(folder.path());
    guard.renew(BootTime::now(), in_ms(60_000));
    let old = guard.start(&program()).await.unwrap();
    let mut machine = Sleeper::start();
    bound(&guard, &machine, BootTime::default());
    drop(guard);
    let page = std::fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.path());
    let page = page.into_iter().find(|path| path.extension().is_some_and(|end| end == "page"));
    std::fs::remove_file(page.unwrap()).unwrap();

    let next = open(folder.path());
    next.renew(BootTime::now(), in_ms(60_000));
    bound(&next, &machine, BootTime::default());
    let watcher = next.start(&program()).await.unwrap();
    old.gone().await.unwrap();
    assert!(machine.lives());
    end(&next, watcher).await;
}

#[tokio::test]
async fn nobody_elses_process_is_touched_and_ends_of_services_are_not_obeyed() {
    let folder = tempfile::tempdir().unwrap();
    let guard = open(folder.path());
    guard.renew(BootTime::now(), BootTime::now());
    let mut stranger = Sleeper::start();
    let dead = ProcessId { started: stranger.id.started + 1, ..stranger.id };
    let slot = guard.guard(guest(1), dead).unwrap();
    assert!(guard.allow(&slot, Until::Session { or: BootTime::default() }));
    let watcher = guard.start(&program()).await.unwrap();
    let pid = std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let is_it = line.contains("kennel-watchdog") && line.contains(&folder.path().display().to_string());
        is_it.then(|| entry.file_name().to_str()?.parse::<i32>().ok())?
    });
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        kill(Pid::from_raw(pid.unwrap()), signal).unwrap();
    }
    let looked = BootTime::now();
    wait("the watchdog to look", || guard.health().looked > looked).await;
    assert!(stranger.lives() && !watcher.is_gone());
    assert_eq!(guard.health().device, DeviceState::None);
    end(&guard, watcher).await;
}

#[tokio::test]
async fn a_program_that_is_missing_or_breaks_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let guard = open(folder.path());
    let missing = Program { binary: folder.path().join("none"), device: None };
    assert!(guard.start(&missing).await.is_err());
    let breaks = Program { binary: "/usr/bin/false".into(), device: None };
    let said = guard.start(&breaks).await.unwrap_err().to_string();
    assert!(said.contains("ended as soon as it was started"), "{said}");
}
