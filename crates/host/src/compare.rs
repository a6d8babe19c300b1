//! Finds where two replicas of a volume differ, by the hashes of their pieces.
//!
//! Each host reads its own file, through the page cache and so with everything that QEMU or the storage daemon has
//! written, and hashes it in pieces of 64 KiB. What crosses the network is 32 bytes for each piece. [`Compare`] goes
//! through a list of ranges, stretch by stretch, and yields the ranges that differ; how fast it goes is its caller's
//! to say ([`Pace`]), and after each stretch it leaves the disk to others for a while.
//!
//! # While the guest writes
//!
//! The two sides of a piece are read one after the other, and the guest may write in between. With a mirror attached:
//!
//! - *A piece that is found alike is alike.* A byte that the guest has written since the mirror was attached reaches
//!   both replicas, before the look or after it, and overlapping writes in the same order. A byte that it has not
//!   written is what was compared.
//! - *A piece that is found unlike may be alike,* because a write was on its way. A resync copies it all the same;
//!   whoever only wants to know looks at those pieces again ([`crate::verify`]).

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{HostError, blocking};

/// What one hash stands for, bytes; as much as one bit of a record of changes. The last piece may be shorter.
pub const PIECE: u64 = 64 << 10;

/// What is compared with one request, bytes: 8 KiB of hashes, and some hundredths of a second.
pub const STRETCH: u64 = 256 * PIECE;

/// As much as is read at once, bytes.
const READ: u64 = 16 * PIECE;

/// After each stretch others have the disk for at least this part of the time that it took.
const YIELD: u32 = 4;

/// How soon a limit that was changed is obeyed.
const PACE_POLL: Duration = Duration::from_millis(100);

const _: () = assert!(READ.is_multiple_of(PIECE) && STRETCH.is_multiple_of(READ));

/// BLAKE3 of one piece.
pub type PieceHash = [u8; 32];

/// Tells the hashes of a replica that is not here.
#[async_trait]
pub trait Hashes: Send + Sync + Debug {
    /// Those of all pieces of a range, in order. It begins with a piece, and ends with one or with the disk.
    async fn hashes(&self, range: Range<u64>) -> Result<Vec<PieceHash>, HostError>;
}

/// How fast something may go; it may be changed on the way.
#[derive(Debug, Default)]
pub struct Pace(AtomicU64);

impl Pace {
    /// Bytes per second; 0 is no limit.
    pub fn new(bytes_per_second: u64) -> Pace {
        Pace(AtomicU64::new(bytes_per_second))
    }

    pub fn set(&self, bytes_per_second: u64) {
        self.0.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Waits until so many bytes since `begun` are no more than what is allowed.
    pub async fn keep(&self, bytes: u64, begun: Instant) {
        while let Some(early) = self.early(bytes, begun.elapsed()) {
            tokio::time::sleep(early.min(PACE_POLL)).await;
        }
    }

    fn early(&self, bytes: u64, took: Duration) -> Option<Duration> {
        let due_ms = bytes.saturating_mul(1000).checked_div(self.0.load(Ordering::Relaxed))?;
        Duration::from_millis(due_ms).checked_sub(took).filter(|early| !early.is_zero())
    }
}

/// One comparison, under way.
#[derive(Debug)]
pub struct Compare {
    ours: Arc<File>,
    theirs: Arc<dyn Hashes>,
    /// Stretches that are still to be compared, the last one first.
    todo: Vec<Range<u64>>,
    pace: Arc<Pace>,
    begun: Instant,
    done: u64,
}

/// What was found in one stretch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    pub range: Range<u64>,
    /// Where the replicas differ: whole pieces, in order, neighbours as one range.
    pub unlike: Vec<Range<u64>>,
    /// Every piece of it, with its hash here and there.
    pub pieces: Vec<(Range<u64>, PieceHash, PieceHash)>,
}

impl Compare {
    /// Compares these ranges of a file on this host, each of which begins with a piece, with those of another replica.
    pub fn new(
        ours: &Path,
        ranges: &[Range<u64>],
        theirs: Arc<dyn Hashes>,
        pace: Arc<Pace>,
    ) -> Result<Compare, HostError> {
        let file = File::open(ours).map_err(|error| {
            HostError::Failed(format!("cannot compare the replica {}: {error}", ours.display()))
        })?;
        let mut todo: Vec<Range<u64>> = ranges.iter().flat_map(|range| stretches(range, STRETCH)).collect();
        todo.reverse();
        Ok(Compare { ours: Arc::new(file), theirs, todo, pace, begun: Instant::now(), done: 0 })
    }

    /// Compares the next stretch. None: all has been compared.
    pub async fn next(&mut self) -> Result<Option<Compared>, HostError> {
        let Some(range) = self.todo.pop() else { return Ok(None) };
        self.pace.keep(self.done, self.begun).await;
        let begun = Instant::now();
        let (file, here) = (Arc::clone(&self.ours), range.clone());
        let ours = blocking(move || {
            hash_pieces(&file, here)
                .map_err(|error| HostError::Failed(format!("cannot read the local replica: {error}")))
        });
        let (ours, theirs) = tokio::try_join!(ours, self.theirs.hashes(range.clone()))?;
        if ours.len() != theirs.len() {
            return Err(HostError::Failed(format!(
                "the other replica has {} pieces where this one has {}",
                theirs.len(),
                ours.len()
            )));
        }
        self.done += range.end - range.start;
        tokio::time::sleep(begun.elapsed() / YIELD).await;
        let hashes = ours.into_iter().zip(theirs);
        let pieces: Vec<_> =
            pieces(&range).zip(hashes).map(|(piece, (ours, theirs))| (piece, ours, theirs)).collect();
        let mut unlike: Vec<Range<u64>> = Vec::new();
        for (piece, _, _) in pieces.iter().filter(|(_, ours, theirs)| ours != theirs) {
            add(&mut unlike, piece.clone());
        }
        Ok(Some(Compared { range, unlike, pieces }))
    }
}

/// Adds a range to an ordered list; one that follows the last one lengthens it.
pub(crate) fn add(list: &mut Vec<Range<u64>>, range: Range<u64>) {
    match list.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        Some(_) | None => list.push(range),
    }
}

/// The pieces of a range that begins with one.
pub(crate) fn pieces(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    stretches(range, PIECE)
}

/// The same bytes in parts of at most so many.
fn stretches(range: &Range<u64>, most: u64) -> impl Iterator<Item = Range<u64>> + use<> {
    let (start, end) = (range.start, range.end);
    let count = end.saturating_sub(start).div_ceil(most);
    (0..count).map(move |n| start + n * most..(start + (n + 1) * most).min(end))
}

/// The hashes of all pieces of a range of a file. Blocks.
pub fn hash_pieces(file: &File, range: Range<u64>) -> io::Result<Vec<PieceHash>> {
    let mut hashes = Vec::new();
    let mut buffer = Vec::new();
    for part in stretches(&range, READ) {
        buffer.resize(usize::try_from(part.end - part.start).map_err(io::Error::other)?, 0);
        file.read_exact_at(&mut buffer, part.start)?;
        let piece = usize::try_from(PIECE).map_err(io::Error::other)?;
        hashes.extend(buffer.chunks(piece).map(|piece| *blake3::hash(piece).as_bytes()));
    }
    Ok(hashes)
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "lists of one range are meant")]
mod tests {
    use super::*;

    /// A replica in a file of this host.
    #[derive(Debug)]
    struct There(File);

    #[async_trait]
    impl Hashes for There {
        async fn hashes(&self, range: Range<u64>) -> Result<Vec<PieceHash>, HostError> {
            hash_pieces(&self.0, range).map_err(|error| HostError::Failed(error.to_string()))
        }
    }

    async fn unlike(ours: &[u8], theirs: &[u8], ranges: &[Range<u64>]) -> Result<Vec<Range<u64>>, HostError> {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("ours"), ours).unwrap();
        std::fs::write(path("theirs"), theirs).unwrap();
        let theirs = Arc::new(There(File::open(path("theirs")).unwrap()));
        let mut compare = Compare::new(&path("ours"), ranges, theirs, Arc::default()).unwrap();
        let (mut found, mut seen) = (Vec::new(), Vec::new());
        while let Some(Compared { range, unlike, .. }) = compare.next().await? {
            add(&mut seen, range);
            unlike.into_iter().for_each(|range| add(&mut found, range));
        }
        assert_eq!(seen, ranges, "all of it was looked at, in order");
        Ok(found)
    }

    #[tokio::test]
    async fn pieces_that_differ_are_found_and_no_others() {
        // Two stretches, and a last piece that is shorter.
        let size = STRETCH + PIECE + 512;
        let ours = vec![0x5a; usize::try_from(size).unwrap()];
        let mut theirs = ours.clone();
        assert_eq!(unlike(&ours, &theirs, &[0..size]).await.unwrap(), []);
        for at in [0, 3 * PIECE + 1, 4 * PIECE, STRETCH - 1, size - 1] {
            theirs[usize::try_from(at).unwrap()] ^= 1;
        }
        let expected =
            [0..PIECE, 3 * PIECE..5 * PIECE, STRETCH - PIECE..STRETCH, STRETCH + PIECE..size].to_vec();
        assert_eq!(unlike(&ours, &theirs, &[0..size]).await.unwrap(), expected);
        assert_eq!(unlike(&ours, &theirs, &[PIECE..3 * PIECE, STRETCH..size]).await.unwrap(), expected[3..]);
    }

    #[tokio::test]
    async fn a_replica_that_is_shorter_is_an_error() {
        let size = 2 * PIECE;
        let ours = vec![1; usize::try_from(size).unwrap()];
        assert!(unlike(&ours, &ours[1..], &[0..size]).await.is_err());
    }

    #[test]
    fn a_pace_says_how_long_to_wait() {
        let (none, some) = (Pace::default(), Pace::new(1000));
        assert_eq!(none.early(1 << 30, Duration::ZERO), None);
        assert_eq!(some.early(500, Duration::from_millis(100)), Some(Duration::from_millis(400)));
        assert_eq!(some.early(500, Duration::from_millis(500)), None);
    }
}
