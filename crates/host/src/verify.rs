//! Whether both replicas of a volume are the same, found out while its guest writes, and without its noticing.
//!
//! One pass over the whole volume ([`crate::compare`]) proves most pieces alike. A piece that is found unlike is only
//! suspect: the guest may have written it between the two looks. Suspects are looked at again and again, each side's
//! hash is remembered, and each suspect ends in one of three ways:
//!
//! - *Alike* at one look: it is alike, whatever was seen before.
//! - *Different*: for [`Patience::settled`] neither side has changed, and they differ. A write that was on its way would
//!   have changed one of them by then. One that is held would not; so the caller says how long a hold lasts at most, and
//!   looks afterwards whether both replicas counted all the while.
//! - *Busy*: it was written all the while, and no look showed it alike. Nothing is known of it, and that is told.
//!
//! Nothing here stops, slows or asks the machine. The price is that a piece which is damaged and always written stays
//! busy until its guest rests.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::HostError;
use crate::compare::{Compare, Compared, Hashes, Pace, PieceHash, STRETCH, add};

/// After so many bytes of suspects the pass ends: that much differs for one reason, and the rest would tell no more.
const SUSPECTS_MAX: u64 = 1 << 30;

/// How long suspects are judged.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Between two looks.
    pub between_looks: Duration,
    /// For so long a piece must not have changed to be called different. Longer than any write is on its way.
    pub settled: Duration,
    /// After so long the rest is busy.
    pub limit: Duration,
}

/// What a comparison has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// From the beginning of the volume, bytes; less than its size if too much was unlike.
    pub compared: u64,
    /// What differs, in order.
    pub unlike: Vec<Range<u64>>,
    /// What was written all the while, bytes.
    pub busy: u64,
}

/// Compares so many bytes of a file on this host with the other replica. `tell` hears how far it is, bytes.
pub async fn verify(
    ours: &Path,
    size: u64,
    theirs: Arc<dyn Hashes>,
    pace: Arc<Pace>,
    patience: Patience,
    mut tell: impl FnMut(u64) + Send,
) -> Result<Found, HostError> {
    let whole = Range { start: 0, end: size };
    let mut pass = Compare::new(ours, &[whole], Arc::clone(&theirs), Arc::clone(&pace))?;
    let (mut judge, mut compared) = (Judge::default(), 0);
    while let Some(Compared { range, unlike, .. }) = pass.next().await? {
        compared = range.end;
        judge.suspect(unlike);
        tell(compared);
        if judge.bytes() >= SUSPECTS_MAX {
            break;
        }
    }
    let begun = Instant::now();
    while !judge.suspects.is_empty() && begun.elapsed() < patience.limit {
        tokio::time::sleep(patience.between_looks).await;
        let mut looks = Compare::new(ours, &judge.ranges(), Arc::clone(&theirs), Arc::clone(&pace))?;
        while let Some(Compared { pieces, .. }) = looks.next().await? {
            for (piece, ours, theirs) in pieces {
                judge.look(piece.start, (ours, theirs), Instant::now(), patience.settled);
            }
        }
    }
    let busy = judge.bytes();
    let mut unlike = Vec::new();
    judge.unlike.into_iter().for_each(|(start, end)| add(&mut unlike, start..end));
    Ok(Found { compared, unlike, busy })
}

/// A piece that was unlike at every look so far.
#[derive(Debug)]
struct Suspect {
    end: u64,
    /// Both hashes, and since when they have been these.
    seen: Option<((PieceHash, PieceHash), Instant)>,
}

/// Pieces by where they begin.
#[derive(Debug, Default)]
struct Judge {
    suspects: BTreeMap<u64, Suspect>,
    unlike: BTreeMap<u64, u64>,
}

impl Judge {
    fn suspect(&mut self, ranges: Vec<Range<u64>>) {
        for piece in ranges.iter().flat_map(crate::compare::pieces) {
            self.suspects.insert(piece.start, Suspect { end: piece.end, seen: None });
        }
    }

    fn bytes(&self) -> u64 {
        self.suspects.iter().map(|(start, suspect)| suspect.end - start).sum()
    }

    /// Where to look again.
    fn ranges(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (start, suspect) in &self.suspects {
            // In stretches, so that what is judged is dropped soon.
            match ranges.last_mut() {
                Some(last) if last.end == *start && suspect.end - last.start <= STRETCH => {
                    last.end = suspect.end;
                }
                Some(_) | None => ranges.push(*start..suspect.end),
            }
        }
        ranges
    }

    /// Takes note of one more look at a piece.
    fn look(&mut self, start: u64, now: (PieceHash, PieceHash), at: Instant, settled: Duration) {
        let Some(suspect) = self.suspects.get_mut(&start) else { return };
        let end = suspect.end;
        match &suspect.seen {
            _ if now.0 == now.1 => drop(self.suspects.remove(&start)),
            Some((before, since)) if *before == now => {
                if at.duration_since(*since) >= settled {
                    self.suspects.remove(&start);
                    self.unlike.insert(start, end);
                }
            }
            Some(_) | None => suspect.seen = Some((now, at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;
    use crate::compare::{PIECE, hash_pieces};

    const PATIENCE: Patience = Patience {
        between_looks: Duration::from_millis(10),
        settled: Duration::from_millis(200),
        limit: Duration::from_secs(5),
    };

    type Touch = Box<dyn FnMut(&File) + Send>;

    /// The other replica. Between a look at the first and at the second one, something may be written.
    struct There {
        file: File,
        before_each: Mutex<Touch>,
    }

    impl std::fmt::Debug for There {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("There")
        }
    }

    #[async_trait]
    impl Hashes for There {
        async fn hashes(&self, range: Range<u64>) -> Result<Vec<PieceHash>, HostError> {
            (self.before_each.lock().unwrap())(&self.file);
            hash_pieces(&self.file, range).map_err(|error| HostError::Failed(error.to_string()))
        }
    }

    /// Two replicas of eight pieces, all the same at first.
    async fn compare(before_each: impl FnMut(&File) + Send + 'static, damage: &[u64]) -> Found {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["ours", "theirs"] {
            std::fs::write(path(name), vec![7; usize::try_from(8 * PIECE).unwrap()]).unwrap();
        }
        let file = File::options().read(true).write(true).open(path("theirs")).unwrap();
        for at in damage {
            file.write_all_at(b"damaged", *at).unwrap();
        }
        let theirs = Arc::new(There { file, before_each: Mutex::new(Box::new(before_each)) });
        verify(&path("ours"), 8 * PIECE, theirs, Arc::default(), PATIENCE, |_| {}).await.unwrap()
    }

    #[tokio::test]
    async fn damage_is_found_and_nothing_else() {
        let nothing = Found { compared: 8 * PIECE, unlike: vec![], busy: 0 };
        assert_eq!(compare(|_| {}, &[]).await, nothing);
        let found = compare(|_| {}, &[PIECE + 5, 2 * PIECE, 7 * PIECE]).await;
        assert_eq!(found, Found { unlike: vec![PIECE..3 * PIECE, 7 * PIECE..8 * PIECE], ..nothing });
    }

    #[tokio::test]
    async fn a_write_that_was_on_its_way_is_no_difference() {
        let mut looks = 0;
        let arrives_late = move |file: &File| {
            looks += 1;
            file.write_all_at(if looks < 6 { b"old" } else { &[7; 3] }, 3 * PIECE).unwrap();
        };
        assert_eq!(compare(arrives_late, &[]).await, Found { compared: 8 * PIECE, unlike: vec![], busy: 0 });
    }

    #[tokio::test]
    async fn what_is_written_all_the_while_is_not_called_different() {
        let mut count = 0u64;
        let always = move |file: &File| {
            count += 1;
            file.write_all_at(&count.to_le_bytes(), 3 * PIECE).unwrap();
        };
        let found = compare(always, &[5 * PIECE]).await;
        let unlike = std::iter::once(5 * PIECE..6 * PIECE).collect();
        assert_eq!(found, Found { compared: 8 * PIECE, unlike, busy: PIECE });
    }
}
