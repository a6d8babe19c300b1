//! What was measured over time: this host's own record of itself and of the guests that ran here.
//!
//! ```text
//!   samples ──▶ slots of 10 s, in memory ──each minute──▶ one transaction:
//!                                                          fine    10 s for a day
//!                                                          coarse  5 min for a month, made from the fine ones
//! ```
//!
//! The records stand in one file of redb, an embedded store with checksums and transactions (docs/decisions/0026).
//! A key is what was measured and the beginning of a *block*: a minute of fine slots, an hour of coarse ones. A
//! coarse slot is always computed anew from the fine slots that are on the disk, so a restart in the middle of one
//! loses nothing but what was not written yet, a minute at most. A power loss leaves the last transaction that was
//! complete. A file that is damaged is put aside, and a new one begun: these are measurements, nothing else.
//!
//! What it takes: a fine block is 96 bytes and a coarse one 192, and both have a key of 24; so a guest that is here
//! for a month takes 1440 × 120 + 744 × 216 bytes, a third of a megabyte, and [`SUBJECTS_MAX`] bound the file. What
//! is deleted makes room for what comes; the file does not shrink.
//!
//! All of it blocks, for milliseconds. The daemon's loop calls [`Series::take`], and a thread [`Series::write`].

mod block;
mod range;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use model::{GuestId, Usage};
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition, WriteTransaction,
};

use crate::HostError;
use crate::usage::Sample;
use block::{Block, COARSE, FINE, Grain};

pub use range::{Range, STEP_MIN_S};

const FILE: &str = "series.redb";

/// Where a damaged file goes; an older one is overwritten.
const DAMAGED: &str = "series.redb.damaged";

/// Pages that are kept in memory. A write of one minute touches a page or two for each guest.
const CACHE_BYTES: usize = 4 << 20;

/// Guests on one host whose series are kept. Beyond that those are dropped that were not measured for the longest.
pub const SUBJECTS_MAX: usize = 2_000;

/// What cannot be written stays in memory for so long.
const UNWRITTEN_MAX_S: u64 = 3_600;

/// A sample that lasted longer (the machine slept, the daemon was stopped) counts for the end of it only.
const SAMPLE_MAX_S: u64 = 60;

type Key = (u128, u64);
const FINE_TABLE: TableDefinition<Key, &[u8]> = TableDefinition::new("fine");
const COARSE_TABLE: TableDefinition<Key, &[u8]> = TableDefinition::new("coarse");

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject(u128);

impl Subject {
    /// This host, its guests included.
    pub const HOST: Subject = Subject(0);
}

impl From<GuestId> for Subject {
    fn from(guest: GuestId) -> Subject {
        Subject(guest.0.as_u128())
    }
}

/// What was used during one fine slot, as far as it was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Part {
    /// Sums of what was used, each times the seconds for which it was.
    sum: Usage,
    seconds: f64,
}

impl Part {
    fn add(&mut self, usage: Usage, seconds: f64) {
        self.sum.cpu += usage.cpu * seconds;
        self.sum.memory += usage.memory * seconds;
        self.sum.disk += usage.disk * seconds;
        self.sum.network += usage.network * seconds;
        self.seconds += seconds;
    }

    fn mean(&self) -> Option<Usage> {
        (self.seconds > 0.0).then(|| Usage {
            cpu: self.sum.cpu / self.seconds,
            memory: self.sum.memory / self.seconds,
            disk: self.sum.disk / self.seconds,
            network: self.sum.network / self.seconds,
        })
    }
}

/// Slots by their beginnings.
type Slots = Vec<(u64, Usage)>;

/// What the file says of one subject.
struct Stored {
    fine: Slots,
    coarse: Slots,
    /// Since when this host has fine slots of itself, which it has whenever it measures.
    fine_since_s: Option<u64>,
}

/// Not written yet, by the beginning of the slot.
type Unwritten = BTreeMap<(Subject, u64), Part>;

/// The series of one host.
pub struct Series {
    folder: PathBuf,
    /// `None` after an error: redb wants a database closed then, and the next write opens it again.
    database: RwLock<Option<Database>>,
    unwritten: Mutex<Unwritten>,
}

impl fmt::Debug for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Series").finish_non_exhaustive()
    }
}

impl Series {
    /// Opens the file in this folder, or begins one.
    pub fn open(folder: &Path) -> Result<Series, HostError> {
        let database = RwLock::new(Some(open_or_begin(folder)?));
        Ok(Series { folder: folder.to_owned(), database, unwritten: Mutex::default() })
    }

    /// Takes in what was used until `now_s`, in seconds since 1970. In memory only.
    pub fn take(&self, now_s: f64, sample: &Sample) {
        let mut unwritten = self.unwritten();
        let span = sample.span.as_secs_f64().min(SAMPLE_MAX_S as f64);
        for (slot, seconds) in slots(now_s - span, now_s) {
            unwritten.entry((Subject::HOST, slot)).or_default().add(sample.total, seconds);
            for (guest, usage) in &sample.guests {
                unwritten.entry(((*guest).into(), slot)).or_default().add(*usage, seconds);
            }
        }
    }

    /// Writes the slots that are over. When it fails they are kept in memory, for an hour at most, and tried again.
    pub fn write(&self, now_s: u64) -> Result<(), HostError> {
        let complete: Unwritten = {
            let mut unwritten = self.unwritten();
            let (complete, open) = std::mem::take(&mut *unwritten)
                .into_iter()
                .partition(|((_, slot), _)| slot + FINE.slot_s <= now_s);
            *unwritten = open;
            complete
        };
        let written = self.change(|transaction| commit(transaction, &complete));
        written.map_err(|error| {
            let mut unwritten = self.unwritten();
            let fresh = complete.into_iter().filter(|((_, slot), _)| slot + UNWRITTEN_MAX_S > now_s);
            for (key, part) in fresh {
                let entry = unwritten.entry(key).or_default();
                if let Some(mean) = part.mean() {
                    entry.add(mean, part.seconds);
                }
            }
            failed("write what was measured", &error)
        })
    }

    /// One transaction: all of it is on the disk, or nothing.
    fn change(&self, act: impl FnOnce(&WriteTransaction) -> Result<(), Failed>) -> Result<(), Failed> {
        if self.database.read().unwrap_or_else(PoisonError::into_inner).is_none() {
            let opened = open_or_begin(&self.folder)?;
            *self.database.write().unwrap_or_else(PoisonError::into_inner) = Some(opened);
        }
        let changed = self.with(|database| {
            let transaction = database.begin_write()?;
            act(&transaction)?;
            transaction.commit()?;
            Ok(())
        });
        if changed.is_err() {
            *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
        }
        changed
    }

    fn with<T>(&self, ask: impl FnOnce(&Database) -> Result<T, Failed>) -> Result<T, Failed> {
        match &*self.database.read().unwrap_or_else(PoisonError::into_inner) {
            Some(database) => ask(database),
            None => Err("its file failed, and is opened again within a minute".into()),
        }
    }

    /// Drops what is too old, all of the guests that `is_known` does not know and that were not measured for a day,
    /// and what exceeds [`SUBJECTS_MAX`].
    pub fn tidy(&self, now_s: u64, is_known: impl Fn(GuestId) -> bool) -> Result<(), HostError> {
        let dropped = self.change(|transaction| drop_old(transaction, now_s, is_known, SUBJECTS_MAX));
        dropped.map_err(|error| failed("tidy what was measured", &error))
    }

    /// What was used, step by step; `None` where nothing was measured. What is a minute old is in it, whether it has
    /// been written or not.
    pub fn read(&self, subject: Subject, range: Range) -> Result<Vec<Option<Usage>>, HostError> {
        let Stored { fine, coarse, fine_since_s } = self
            .with(|database| stored(database, subject, range))
            .map_err(|error| failed("read what was measured", &error))?;
        let mut fine: BTreeMap<u64, Usage> = fine.into_iter().collect();
        let slots = (subject, FINE.slot_of(range.from_s))..(subject, range.to_s());
        for ((_, slot), part) in self.unwritten().range(slots) {
            fine.extend(part.mean().map(|mean| (*slot, mean)));
        }
        Ok(range.resample(fine, coarse, fine_since_s))
    }

    fn unwritten(&self) -> MutexGuard<'_, Unwritten> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Any of redb's errors; what is done about them is always the same.
type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Writes slots, and the coarse ones that they are in.
fn commit(transaction: &WriteTransaction, complete: &Unwritten) -> Result<(), Failed> {
    let mut touched = BTreeSet::new();
    let mut fine = transaction.open_table(FINE_TABLE)?;
    for (&(subject, slot), part) in complete {
        let Some(mean) = part.mean() else { continue };
        put(&mut fine, FINE, subject, slot, mean)?;
        touched.insert((subject, COARSE.slot_of(slot)));
    }
    let mut coarse = transaction.open_table(COARSE_TABLE)?;
    for (subject, slot) in touched {
        let mut whole = Part::default();
        for (_, usage) in read(&fine, FINE, subject, slot, slot + COARSE.slot_s)? {
            whole.add(usage, FINE.slot_s as f64);
        }
        if let Some(mean) = whole.mean() {
            put(&mut coarse, COARSE, subject, slot, mean)?;
        }
    }
    Ok(())
}

fn drop_old(
    transaction: &WriteTransaction,
    now_s: u64,
    is_known: impl Fn(GuestId) -> bool,
    max: usize,
) -> Result<(), Failed> {
    let mut fine = transaction.open_table(FINE_TABLE)?;
    let mut coarse = transaction.open_table(COARSE_TABLE)?;
    // By whole coarse slots, so that one takes the place of all of its fine ones.
    fine.retain(|(_, block), _| COARSE.slot_of(block) + COARSE.slot_s + FINE.keep_s > now_s)?;
    coarse.retain(|(_, block), _| block + COARSE.block_s() + COARSE.keep_s > now_s)?;
    let mut newest: BTreeMap<u128, u64> = BTreeMap::new();
    for entry in coarse.iter()? {
        let (subject, block) = entry?.0.value();
        newest.insert(subject, block);
    }
    newest.remove(&Subject::HOST.0);
    let mut by_age: Vec<(u64, u128)> = newest.into_iter().map(|(subject, block)| (block, subject)).collect();
    by_age.sort_unstable();
    let excess = by_age.len().saturating_sub(max);
    let gone = by_age.into_iter().enumerate().filter(|(rank, (block, subject))| {
        let forgotten = !is_known(GuestId(uuid::Uuid::from_u128(*subject)))
            && block + COARSE.block_s() + FINE.keep_s < now_s;
        *rank < excess || forgotten
    });
    let gone: BTreeSet<u128> = gone.map(|(_, (_, subject))| subject).collect();
    if !gone.is_empty() {
        fine.retain(|(subject, _), _| !gone.contains(&subject))?;
        coarse.retain(|(subject, _), _| !gone.contains(&subject))?;
    }
    Ok(())
}

fn stored(database: &Database, subject: Subject, range: Range) -> Result<Stored, Failed> {
    let transaction = database.begin_read()?;
    let fine = transaction.open_table(FINE_TABLE)?;
    let coarse = transaction.open_table(COARSE_TABLE)?;
    let (from, to) = (range.from_s, range.to_s());
    let oldest = fine.range((Subject::HOST.0, 0)..(Subject::HOST.0, u64::MAX))?.next().transpose()?;
    Ok(Stored {
        fine: read(&fine, FINE, subject, from, to)?,
        coarse: read(&coarse, COARSE, subject, from, to)?,
        fine_since_s: oldest.map(|(key, _)| key.value().1),
    })
}

/// Opens the file in a folder. One that is damaged is put aside, and a new one begun.
fn open_or_begin(folder: &Path) -> Result<Database, HostError> {
    let path = folder.join(FILE);
    match open(&path) {
        Ok(database) => Ok(database),
        Err(Unopened::Damaged(why)) => {
            let aside = folder.join(DAMAGED);
            tracing::warn!(why, file = %path.display(), aside = %aside.display(),
                "what was measured before is damaged and put aside; measuring begins anew");
            std::fs::rename(&path, &aside).map_err(|error| failed("put the damaged series aside", &error))?;
            open(&path).map_err(|why| failed("begin new series", &why))
        }
        Err(why) => Err(failed(&format!("open {}", path.display()), &why)),
    }
}

/// Writes one slot into its block.
fn put(
    table: &mut redb::Table<'_, Key, &'static [u8]>,
    grain: Grain,
    subject: Subject,
    slot: u64,
    usage: Usage,
) -> Result<(), Failed> {
    let key = (subject.0, grain.block_of(slot));
    let mut block = match table.get(key)? {
        Some(bytes) => Block::decode(grain, bytes.value()),
        None => Block::new(grain),
    };
    block.set(slot, usage);
    table.insert(key, block.bytes())?;
    Ok(())
}

/// The slots that begin or end between two moments.
fn read(
    table: &impl ReadableTable<Key, &'static [u8]>,
    grain: Grain,
    subject: Subject,
    from_s: u64,
    to_s: u64,
) -> Result<Vec<(u64, Usage)>, Failed> {
    let mut found = Vec::new();
    for entry in table.range((subject.0, grain.block_of(from_s))..(subject.0, to_s))? {
        let (key, bytes) = entry?;
        let block = Block::decode(grain, bytes.value());
        let within =
            block.slots(key.value().1).filter(|(slot, _)| slot + grain.slot_s > from_s && *slot < to_s);
        found.extend(within);
    }
    Ok(found)
}

/// The fine slots between two moments, and for how long each was.
fn slots(from_s: f64, to_s: f64) -> impl Iterator<Item = (u64, f64)> {
    let length = FINE.slot_s as f64;
    let first = (from_s.max(0.0) / length).floor();
    let count = ((to_s / length).ceil() - first).max(0.0) as u64;
    (0..count).filter_map(move |index| {
        let begin = (first + index as f64) * length;
        let seconds = to_s.min(begin + length) - from_s.max(begin);
        (seconds > 0.0).then_some((begin as u64, seconds))
    })
}

/// Why a file was not opened.
#[derive(Debug, thiserror::Error)]
enum Unopened {
    /// What is in it makes no sense.
    #[error("{0}")]
    Damaged(String),
    #[error("{0}")]
    Failed(Failed),
}

/// Opens the file, and makes the tables, so that a reader finds them.
fn open(path: &Path) -> Result<Database, Unopened> {
    // redb does not answer for a file that was cut off: it asserts the length that its head names.
    let opened = std::panic::catch_unwind(|| {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
        let transaction = database.begin_write()?;
        transaction.open_table(FINE_TABLE)?;
        transaction.open_table(COARSE_TABLE)?;
        transaction.commit()?;
        Ok::<_, Failed>(database)
    });
    let error = match opened {
        Ok(Ok(database)) => return Ok(database),
        Ok(Err(error)) => error,
        Err(_) => return Err(Unopened::Damaged("its length is not what its head says".to_owned())),
    };
    match error.downcast_ref::<DatabaseError>() {
        Some(error) if is_damage(error) => Err(Unopened::Damaged(error.to_string())),
        Some(_) | None => Err(Unopened::Failed(error)),
    }
}

/// Whether the file is to blame, and not the file system or another process.
#[expect(clippy::wildcard_enum_match_arm, reason = "redb's errors and those of I/O are not exhaustive")]
fn is_damage(error: &DatabaseError) -> bool {
    match error {
        DatabaseError::Storage(StorageError::Corrupted(_))
        | DatabaseError::UpgradeRequired(_)
        | DatabaseError::RepairAborted => true,
        DatabaseError::Storage(StorageError::Io(error)) => {
            matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
        }
        _ => false,
    }
}

fn failed(what: &str, error: &dyn fmt::Display) -> HostError {
    HostError::Failed(format!("cannot {what}: {error}"))
}
