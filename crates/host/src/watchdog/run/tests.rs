//! A watch in this process, over real processes; the program itself is tested in `tests/watchdog.rs`.

use std::process::{Child, Command};

use model::{BootId, GuestId};
use uuid::Uuid;

use super::super::page::path_in;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

struct World {
    folder: tempfile::TempDir,
    page: Page,
    watch: Watch,
    begin: BootTime,
    children: Vec<Child>,
}

impl Drop for World {
    fn drop(&mut self) {
        for child in &mut self.children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let path = path_in(folder.path());
        let page = Page::open_or_make(&path, BootId(Uuid::nil())).unwrap();
        let watch = Watch::new(Page::open(&path).unwrap(), None);
        World { folder, page, watch, begin: BootTime::now(), children: Vec::new() }
    }

    /// A sleeper in that slot, which may run for ever.
    fn machine(&mut self, slot: usize) -> ProcessId {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        let id = ProcessId::of(child.id().try_into().unwrap()).unwrap();
        self.children.push(child);
        self.page.take(slot, id, GuestId(Uuid::from_u128(slot as u128)));
        id
    }

    fn at(&self, seconds: u32) -> BootTime {
        self.begin.after(SECOND * seconds)
    }

    /// Looks at that second until what is overdue is gone.
    fn look_at(&mut self, seconds: u32) {
        let now = self.at(seconds);
        for _ in 0..1000 {
            if self.watch.look(now).overdue == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("what was killed is not gone");
    }

    fn bowl(&mut self) -> PathBuf {
        let bowl = self.folder.path().join("bowl");
        self.watch.device = Some(Device::over(File::create(&bowl).unwrap()));
        bowl
    }
}

fn lives(id: ProcessId) -> bool {
    ProcessHandle::open(id).is_some_and(|process| !process.is_gone())
}

#[test]
fn what_is_bound_to_the_session_ends_with_it_and_what_is_not_goes_on() {
    let mut world = World::new();
    let (local, shared, mirrored) = (world.machine(0), world.machine(1), world.machine(2));
    world.page.set_session(world.at(5));
    world.page.set_until(1, Until::Session { or: BootTime::default() });
    world.page.set_until(2, Until::Session { or: world.at(8) });
    let found = world.watch.look(world.at(4));
    assert_eq!(found, Found { overdue: 0, damaged: 0, next: Some(world.at(5)) });
    world.look_at(5);
    assert_eq!((lives(local), lives(shared), lives(mirrored)), (true, false, true));
    // A renewal comes, late: it brings nobody back, and the other one is safe again.
    world.page.set_session(world.at(9));
    world.look_at(8);
    assert!(lives(mirrored));
    world.look_at(9);
    assert_eq!((lives(local), lives(mirrored)), (true, false));
    let ended = |slot| matches!(world.page.read(slot), Reading::Taken(Entry { ended: true, .. }));
    assert_eq!([0, 1, 2].map(ended), [false, true, true]);
}

#[test]
fn a_number_that_was_given_out_again_is_left_alone() {
    let mut world = World::new();
    let stranger = world.machine(0);
    let dead = ProcessId { started: stranger.started + 1, ..stranger };
    world.page.take(0, dead, GuestId(Uuid::nil()));
    world.page.set_until(0, Until::Session { or: BootTime::default() });
    world.look_at(1);
    assert!(lives(stranger));
    // The slot is given to the process that lives: it is looked at anew.
    world.page.take(0, stranger, GuestId(Uuid::nil()));
    world.page.set_until(0, Until::Session { or: BootTime::default() });
    world.look_at(2);
    assert!(!lives(stranger));
}

#[test]
fn a_stopped_process_is_ended_like_any_other() {
    let mut world = World::new();
    let machine = world.machine(511);
    let pid = nix::unistd::Pid::from_raw(machine.pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    world.page.set_until(511, Until::Session { or: world.at(1) });
    world.look_at(0);
    assert!(lives(machine));
    world.look_at(1);
    assert!(!lives(machine));
}

#[test]
fn the_device_is_fed_only_while_nothing_is_overdue() {
    let mut world = World::new();
    let bowl = world.bowl();
    let fed = || std::fs::read(&bowl).unwrap().len();
    let machine = world.machine(0);
    world.watch.turn(world.at(0)).unwrap();
    world.watch.turn(world.at(1)).unwrap();
    assert_eq!(fed(), 2);
    // It cannot be opened, as if there were no memory for that: for all that is known it runs.
    world.page.set_until(0, Until::Session { or: world.at(2) });
    world.watch.held[0] = None;
    let Reading::Taken(entry) = world.page.read(0) else { panic!("the slot is taken") };
    assert!(world.watch.end(0, &entry, world.at(2)) && lives(machine));
    // A machine that was killed a moment ago may hang in the kernel.
    let pause = world.watch.turn(world.at(2)).unwrap();
    let so_far = fed();
    if world.page.overdue() == 1 {
        assert_eq!((so_far, pause), (2, LOOK_CLOSELY_EVERY));
    }
    world.look_at(3);
    world.watch.turn(world.at(4)).unwrap();
    assert_eq!((world.page.overdue(), fed()), (0, so_far + 1));
}

#[test]
fn a_slot_that_cannot_be_read_keeps_the_device_hungry_once_the_session_is_over() {
    let mut world = World::new();
    let bowl = world.bowl();
    let fed = || std::fs::read(&bowl).unwrap().len();
    let machine = world.machine(0);
    world.page.set_session(world.at(5));
    world.page.damage(0);
    world.watch.turn(world.at(1)).unwrap();
    assert_eq!((fed(), world.page.damaged()), (1, 1));
    world.watch.turn(world.at(6)).unwrap();
    assert_eq!(fed(), 1);
    assert!(lives(machine), "whose process it is cannot be known");
}

#[test]
fn it_does_as_it_is_told() {
    let mut world = World::new();
    let bowl = world.bowl();
    assert!(world.watch.turn(world.at(1)).unwrap() <= LOOK_EVERY);
    world.page.set_wish(Wish::LetGoOfDevice);
    world.watch.turn(world.at(2)).unwrap();
    assert_eq!(std::fs::read(&bowl).unwrap(), b"\0V");
    assert_eq!(world.page.device(), DeviceState::None);
    world.page.set_wish(Wish::Leave);
    assert_eq!(world.watch.turn(world.at(3)), None);
}

#[test]
fn a_device_that_cannot_be_opened_is_told_and_tried_again() {
    let mut world = World::new();
    world.watch.wanted = Some(("/dev/null".into(), 10));
    world.watch.turn(world.at(0)).unwrap();
    assert_eq!(world.page.device(), DeviceState::Failed);
    let bowl = world.bowl();
    world.watch.turn(world.at(1)).unwrap();
    assert_eq!(std::fs::read(&bowl).unwrap().len(), 1);
}

#[test]
fn the_words_it_is_started_with_are_read_as_they_were_written() {
    let plain = Arguments { page: "/run/page".into(), device: None };
    let with_device = Arguments { device: Some(("/dev/watchdog".into(), 10)), ..plain.clone() };
    for arguments in [plain, with_device] {
        assert_eq!(Arguments::parse(arguments.words().into_iter()), Ok(arguments));
    }
    for wrong in
        [&[][..], &["page", "/dev/watchdog"], &["page", "device", "soon"], &["page", "device", "1", "2"]]
    {
        assert!(Arguments::parse(wrong.iter().map(|word| (*word).to_owned())).is_err(), "{wrong:?}");
    }
}
