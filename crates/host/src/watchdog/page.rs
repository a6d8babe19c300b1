//! The page that kenneld and the watchdog share.
//!
//! It is a row of 64-bit words, each read and written in one piece. Each word has one writer.
//!
//! ```text
//!   0 magic  1 version  2 slots  3, 4 the boot  5 checksum of these                     kenneld, once
//!   6 the session's deadline  7 when its last renewal was sent  8 wish                  kenneld
//!   9 pid  10 its start  11 when it looked last  12 overdue  13 damaged slots
//!   14 the device's state  15 its time-out, seconds  16..20 its name                    the watchdog
//!   32, 40, …: a slot of eight words for each machine
//!      0 taken  1 pid  2 its start  3, 4 guest  5 checksum of 1 to 4  6 its own deadline   kenneld
//!      7 when it was killed                                                                the watchdog
//! ```
//!
//! A slot is taken last and given back first, so one that is half written, because kenneld died over it, is free. The
//! version is part of the file's name: a build with another format makes a page of its own and tells the old watchdog
//! to leave through word 8, which stays where it is.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use model::{BootId, GuestId};
use nix::libc;
use uuid::Uuid;

use super::clock::BootTime;
use super::{DeviceState, HardwareDevice, ProcessId};

const MAGIC: u64 = u64::from_le_bytes(*b"KENNELWD");
const VERSION: u64 = 1;

/// So many machines at most are guarded on one host.
pub const SLOTS: usize = 512;

const HEADER: usize = 32;
const SLOT: usize = 8;
const WORDS: usize = HEADER + SLOT * SLOTS;
const BYTES: usize = WORDS * size_of::<u64>();

/// Words of the header.
const CHECKSUM: usize = 5;
const SESSION: usize = 6;
const RENEWED: usize = 7;
const WISH: usize = 8;
const PID: usize = 9;
const STARTED: usize = 10;
const LOOKED: usize = 11;
const OVERDUE: usize = 12;
const DAMAGED: usize = 13;
const DEVICE: usize = 14;
const TIMEOUT: usize = 15;
const NAME: usize = 16;

/// Bytes of a device's name.
const NAME_MAX: usize = 32;

/// Words of a slot.
const TAKEN: usize = 0;
const GUEST: usize = 3;
const SLOT_CHECKSUM: usize = 5;
const UNTIL: usize = 6;
const ENDED: usize = 7;

/// A deadline that never comes, in a slot.
const FOR_EVER: u64 = u64::MAX;

/// States of the device, in the header.
const NO_DEVICE: u64 = 0;
const FAILED: u64 = 1;
const ARMED: u64 = 2;
const ARMED_FOR_SURE: u64 = 3;

/// What kenneld wants of the watchdog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Stay,
    /// It ends, and leaves the device to the next one, which has the device's time-out to open it.
    Leave,
    /// It lets go of the device in the way that disarms it, and stays.
    LetGoOfDevice,
}

/// Until when a machine may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Nobody else can run its guest.
    ForEver,
    /// As long as the host's session counts, or until then, whichever is later.
    Session { or: BootTime },
}

/// A slot that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub process: ProcessId,
    pub guest: GuestId,
    pub until: Until,
    pub ended: bool,
}

/// What a slot says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    Free,
    Taken(Entry),
    /// It is not what was written.
    Damaged,
}

/// The mapped file.
#[derive(Debug)]
pub struct Page {
    words: Mapping,
    file: File,
}

/// Where the page of this version is.
pub fn path_in(run_dir: &Path) -> PathBuf {
    run_dir.join(format!("watchdog-v{VERSION}.page"))
}

impl Page {
    /// The page of this boot, made if there is none.
    pub fn open_or_make(path: &Path, boot: BootId) -> io::Result<Page> {
        match Page::open(path) {
            Ok(page) if page.boot() == boot => Ok(page),
            Ok(_) | Err(_) => Page::make(path, boot),
        }
    }

    pub fn open(path: &Path) -> io::Result<Page> {
        let file = File::options().read(true).write(true).open(path)?;
        if file.metadata()?.len() != BYTES as u64 {
            return Err(io::Error::other("it does not have the size of a watchdog's page"));
        }
        let page = Page { words: Mapping::of(&file)?, file };
        if page.is_whole() {
            Ok(page)
        } else {
            Err(io::Error::other("it is no watchdog's page, or is damaged"))
        }
    }

    /// It appears under its name when it is whole.
    fn make(path: &Path, boot: BootId) -> io::Result<Page> {
        let temporary = path.with_extension("new");
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        // Written and not only made so long: memory that the file system lacks is missed here, not later.
        file.write_all(&[0; BYTES])?;
        let page = Page { words: Mapping::of(&file)?, file };
        let (high, low) = boot.0.as_u64_pair();
        for (at, value) in [MAGIC, VERSION, SLOTS as u64, high, low].into_iter().enumerate() {
            page.set(at, value);
        }
        page.set(CHECKSUM, page.header_checksum());
        std::fs::rename(&temporary, path)?;
        Ok(page)
    }

    /// Whether what was written once is still so.
    pub fn is_whole(&self) -> bool {
        self.get(0) == MAGIC
            && self.get(1) == VERSION
            && self.get(2) == SLOTS as u64
            && self.get(CHECKSUM) == self.header_checksum()
    }

    /// Whether there is another page under that name: somebody removed this one, and a daemon made one anew.
    pub fn is_replaced_at(&self, path: &Path) -> bool {
        let (Ok(own), Ok(there)) = (self.file.metadata(), std::fs::metadata(path)) else { return false };
        (own.dev(), own.ino()) != (there.dev(), there.ino())
    }

    pub fn boot(&self) -> BootId {
        BootId(Uuid::from_u64_pair(self.get(3), self.get(4)))
    }

    fn header_checksum(&self) -> u64 {
        checksum((0..CHECKSUM).map(|at| self.get(at)))
    }

    fn get(&self, at: usize) -> u64 {
        self.words[at].load(Ordering::Acquire)
    }

    fn set(&self, at: usize, value: u64) {
        self.words[at].store(value, Ordering::Release);
    }

    pub fn session(&self) -> BootTime {
        BootTime(self.get(SESSION))
    }

    pub fn set_session(&self, until: BootTime) {
        self.set(SESSION, until.0);
    }

    /// When the renewal was sent by which the session counts; none when it does not.
    pub fn renewed(&self) -> Option<BootTime> {
        Some(BootTime(self.get(RENEWED))).filter(|at| at.0 != 0)
    }

    pub fn set_renewed(&self, at: Option<BootTime>) {
        self.set(RENEWED, at.map_or(0, |at| at.0));
    }

    pub fn wish(&self) -> Wish {
        match self.get(WISH) {
            1 => Wish::Leave,
            2 => Wish::LetGoOfDevice,
            _ => Wish::Stay,
        }
    }

    pub fn set_wish(&self, wish: Wish) {
        let word = match wish {
            Wish::Stay => 0,
            Wish::Leave => 1,
            Wish::LetGoOfDevice => 2,
        };
        self.set(WISH, word);
    }

    /// The watchdog that says that it looks at this page.
    pub fn watcher(&self) -> ProcessId {
        let pid = i32::try_from(self.get(PID)).unwrap_or(0);
        ProcessId { pid, started: self.get(STARTED) }
    }

    pub fn set_watcher(&self, id: ProcessId) {
        self.set(PID, u64::from(id.pid.unsigned_abs()));
        self.set(STARTED, id.started);
    }

    pub fn looked(&self) -> BootTime {
        BootTime(self.get(LOOKED))
    }

    /// Said after each look: how many machines are overdue and not gone, and how many slots are damaged.
    pub fn set_looked(&self, at: BootTime, overdue: usize, damaged: usize) {
        self.set(OVERDUE, overdue as u64);
        self.set(DAMAGED, damaged as u64);
        self.set(LOOKED, at.0);
    }

    pub fn overdue(&self) -> u64 {
        self.get(OVERDUE)
    }

    pub fn damaged(&self) -> u64 {
        self.get(DAMAGED)
    }

    pub fn device(&self) -> DeviceState {
        let timeout_s = u32::try_from(self.get(TIMEOUT)).unwrap_or(u32::MAX);
        let device = |proves| HardwareDevice { name: self.name(), timeout_s, proves };
        match self.get(DEVICE) {
            NO_DEVICE => DeviceState::None,
            ARMED => DeviceState::Armed(device(false)),
            ARMED_FOR_SURE => DeviceState::Armed(device(true)),
            _ => DeviceState::Failed,
        }
    }

    pub fn set_device(&self, state: &DeviceState) {
        let word = match state {
            DeviceState::None => NO_DEVICE,
            DeviceState::Failed => FAILED,
            DeviceState::Armed(HardwareDevice { proves: false, .. }) => ARMED,
            DeviceState::Armed(HardwareDevice { proves: true, .. }) => ARMED_FOR_SURE,
        };
        if let DeviceState::Armed(HardwareDevice { name, timeout_s, .. }) = state {
            self.set(TIMEOUT, u64::from(*timeout_s));
            self.set_name(name);
        }
        self.set(DEVICE, word);
    }

    fn name(&self) -> String {
        let words = (NAME..NAME + NAME_MAX / 8).map(|at| self.get(at).to_le_bytes());
        let bytes: Vec<u8> = words.flatten().take_while(|byte| *byte != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn set_name(&self, name: &str) {
        let mut bytes = [0; NAME_MAX];
        let length = name.len().min(NAME_MAX);
        bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
        for (at, word) in bytes.chunks_exact(8).enumerate() {
            let mut eight = [0; 8];
            eight.copy_from_slice(word);
            self.set(NAME + at, u64::from_le_bytes(eight));
        }
    }

    pub fn read(&self, slot: usize) -> Reading {
        let word = |at| self.get(HEADER + slot * SLOT + at);
        if word(TAKEN) == 0 {
            return Reading::Free;
        }
        let Ok(pid) = i32::try_from(word(1)) else { return Reading::Damaged };
        if word(TAKEN) != 1 || word(SLOT_CHECKSUM) != checksum((1..SLOT_CHECKSUM).map(word)) {
            return Reading::Damaged;
        }
        let until = match word(UNTIL) {
            FOR_EVER => Until::ForEver,
            own => Until::Session { or: BootTime(own) },
        };
        Reading::Taken(Entry {
            process: ProcessId { pid, started: word(2) },
            guest: GuestId(Uuid::from_u64_pair(word(GUEST), word(GUEST + 1))),
            until,
            ended: word(ENDED) != 0,
        })
    }

    /// Writes a slot that nobody has. The machine may run for ever until somebody says something else.
    pub fn take(&self, slot: usize, process: ProcessId, guest: GuestId) {
        let word = |at| HEADER + slot * SLOT + at;
        self.set(word(TAKEN), 0);
        let (high, low) = guest.0.as_u64_pair();
        let identity = [u64::from(process.pid.unsigned_abs()), process.started, high, low];
        for (at, value) in identity.into_iter().enumerate() {
            self.set(word(1 + at), value);
        }
        self.set(word(SLOT_CHECKSUM), checksum(identity.into_iter()));
        self.set(word(UNTIL), FOR_EVER);
        self.set(word(ENDED), 0);
        self.set(word(TAKEN), 1);
    }

    pub fn set_until(&self, slot: usize, until: Until) {
        let word = match until {
            Until::ForEver => FOR_EVER,
            Until::Session { or } => or.0.min(FOR_EVER - 1),
        };
        self.set(HEADER + slot * SLOT + UNTIL, word);
    }

    /// The watchdog has killed the machine.
    pub fn set_ended(&self, slot: usize, at: BootTime) {
        self.set(HEADER + slot * SLOT + ENDED, at.0);
    }

    pub fn give_back(&self, slot: usize) {
        self.set(HEADER + slot * SLOT + TAKEN, 0);
    }

    #[cfg(test)]
    pub fn damage(&self, slot: usize) {
        self.set(HEADER + slot * SLOT + SLOT_CHECKSUM, 0);
    }
}

/// FNV-1a over the bytes of the words (Fowler, Noll, Vo; draft-eastlake-fnv): it tells what was written from noise, and
/// protects from nobody.
fn checksum(words: impl Iterator<Item = u64>) -> u64 {
    let step = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    words.flat_map(u64::to_le_bytes).fold(0xcbf2_9ce4_8422_2325, step)
}

/// The words of a page, shared with another process.
#[derive(Debug)]
struct Mapping(NonNull<AtomicU64>);

impl Mapping {
    #[expect(unsafe_code, reason = "memory that processes share can only be had from the kernel")]
    fn of(file: &File) -> io::Result<Mapping> {
        let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: the kernel chooses a place that nothing of ours is at. The file is as long as the mapping: it was
        // measured or made so, and nobody truncates it.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), BYTES, access, shared, file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(at.cast()).map(Mapping).ok_or_else(|| io::Error::other("it is mapped nowhere"))
    }
}

impl Deref for Mapping {
    type Target = [AtomicU64];

    #[expect(unsafe_code, reason = "the kernel hands out an address, not a slice")]
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is readable and writable, so long, aligned to a page, and stays until `self` is dropped.
        // All who have it mapped touch it through atomic words only.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), WORDS) }
    }
}

impl Drop for Mapping {
    #[expect(unsafe_code, reason = "as for the mapping itself")]
    fn drop(&mut self) {
        // SAFETY: it was mapped with this address and length, and no slice of it outlives `self`.
        unsafe {
            libc::munmap(self.0.as_ptr().cast(), BYTES);
        }
    }
}

#[expect(unsafe_code, reason = "a raw address says nothing about threads")]
// SAFETY: the address is the mapping's for as long as it lives, and what is there are atomic words.
unsafe impl Send for Mapping {}

#[expect(unsafe_code, reason = "a raw address says nothing about threads")]
// SAFETY: as above.
unsafe impl Sync for Mapping {}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(number: u128) -> BootId {
        BootId(Uuid::from_u128(number))
    }

    fn sleeper() -> (ProcessId, GuestId) {
        (ProcessId { pid: 4711, started: 9 }, GuestId(Uuid::from_u128(7 << 64 | 8)))
    }

    #[test]
    fn both_sides_read_what_the_other_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let path = path_in(folder.path());
        let ours = Page::open_or_make(&path, boot(1)).unwrap();
        let theirs = Page::open(&path).unwrap();
        let (process, guest) = sleeper();
        ours.take(3, process, guest);
        ours.set_until(3, Until::Session { or: BootTime(5) });
        ours.set_session(BootTime(17));
        ours.set_wish(Wish::LetGoOfDevice);
        let entry = Entry { process, guest, until: Until::Session { or: BootTime(5) }, ended: false };
        assert_eq!(theirs.read(3), Reading::Taken(entry));
        assert_eq!((theirs.read(2), theirs.session()), (Reading::Free, BootTime(17)));
        assert_eq!(theirs.wish(), Wish::LetGoOfDevice);

        let name = "i6300ESB timer".to_owned();
        let armed = DeviceState::Armed(HardwareDevice { name, timeout_s: 10, proves: true });
        theirs.set_device(&armed);
        theirs.set_ended(3, BootTime(18));
        theirs.set_looked(BootTime(19), 1, 0);
        assert_eq!((ours.device(), ours.looked(), ours.overdue()), (armed, BootTime(19), 1));
        assert_eq!(ours.read(3), Reading::Taken(Entry { ended: true, ..entry }));
        ours.give_back(3);
        assert_eq!(theirs.read(3), Reading::Free);
    }

    #[test]
    fn the_next_daemon_of_the_same_boot_finds_the_page_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = path_in(folder.path());
        let (process, guest) = sleeper();
        let first = Page::open_or_make(&path, boot(1)).unwrap();
        first.take(0, process, guest);
        first.set_renewed(Some(BootTime(12)));
        drop(first);
        let next = Page::open_or_make(&path, boot(1)).unwrap();
        assert!(matches!(next.read(0), Reading::Taken(_)));
        assert_eq!(next.renewed(), Some(BootTime(12)));
        drop(next);
        let booted = Page::open_or_make(&path, boot(2)).unwrap();
        assert_eq!(
            (booted.read(0), booted.renewed()),
            (Reading::Free, None),
            "another boot, other processes"
        );
    }

    #[test]
    fn noise_is_not_taken_for_a_page_or_a_machine() {
        let folder = tempfile::tempdir().unwrap();
        let path = path_in(folder.path());
        std::fs::write(&path, [7; BYTES]).unwrap();
        assert!(Page::open(&path).is_err());
        std::fs::write(&path, "short").unwrap();
        assert!(Page::open(&path).is_err());
        let page = Page::open_or_make(&path, boot(1)).unwrap();
        let (process, guest) = sleeper();
        page.take(1, process, guest);
        for (word, noise) in [(TAKEN, 2), (1, 4712), (1, u64::MAX), (2, 10), (SLOT_CHECKSUM, 0)] {
            let at = HEADER + SLOT + word;
            let before = page.get(at);
            page.set(at, noise);
            assert_eq!(page.read(1), Reading::Damaged, "word {word}");
            page.set(at, before);
            assert!(matches!(page.read(1), Reading::Taken(_)));
        }
        page.set(0, 0);
        assert!(!page.is_whole() && !page.is_replaced_at(&path));
        let next = Page::open_or_make(&path, boot(1)).unwrap();
        assert!(page.is_replaced_at(&path) && !next.is_replaced_at(&path));
    }
}
