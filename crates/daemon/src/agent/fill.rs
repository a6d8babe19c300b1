//! Filling secondaries: what is remembered and told of it.
//!
//! `plan::converge` says when and by what. A fill that breaks off is begun again after a pause that grows; a way to
//! fill that broke off several times gives way to one that costs more. Another boot of the secondary's host begins
//! with a clean slate.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use model::{BootId, FillHow, FillProgress, Filled, VolumeId};
use plan::limits::{RETRY_FIRST, RETRY_MAX};
use tokio::time::Instant;

/// Bytes per second that replicas are compared with, and what is found or recorded is sent with, at most: a part of
/// what a disk and a network of this decade can do, so that guests keep the rest.
pub(super) const FILL_RATE: u64 = 256 << 20;

/// So many failures of one way in a row, and it is in vain.
const IN_VAIN_AFTER: u32 = 3;

/// After this long without a failure the next one is again the first.
const FORGIVEN_AFTER: Duration = Duration::from_secs(300);

/// Between two reports of how far a replica is filled: each is a write to the store.
const TOLD_EVERY: Duration = Duration::from_secs(3);

/// Over what the speed is averaged.
const SPEED_OVER: Duration = Duration::from_secs(10);

const _: () = assert!(FORGIVEN_AFTER.as_secs() > 2 * RETRY_MAX.as_secs(), "a pause is no forgiveness");

/// One fill that is under way.
#[derive(Debug)]
struct Fill {
    how: FillHow,
    why: String,
    begun: Instant,
    done: u64,
    total: u64,
    /// How much was done when, oldest first.
    samples: VecDeque<(Instant, u64)>,
    told: Option<(Instant, FillProgress)>,
}

/// All fills of one guest's volumes.
#[derive(Debug, Default)]
pub(super) struct Fills {
    now: BTreeMap<VolumeId, Fill>,
    last: BTreeMap<VolumeId, Filled>,
    /// The boot of the secondary's host that the failures are about.
    boot: Option<BootId>,
    /// Mirrors that broke, in sync or not.
    failures: u32,
    failed_at: Option<Instant>,
    /// Fills that broke off.
    broken_off: BTreeMap<FillHow, u32>,
}

impl Fills {
    /// A fill is about to begin.
    pub fn begin(&mut self, volumes: &[VolumeId], boot: BootId, how: FillHow, why: &str) {
        if self.boot != Some(boot) {
            self.boot = Some(boot);
            self.forgive();
        }
        let begun = Instant::now();
        for &volume in volumes {
            let (why, samples) = (why.to_owned(), VecDeque::new());
            self.now.insert(volume, Fill { how, why, begun, done: 0, total: 0, samples, told: None });
        }
    }

    /// How far it is, by its machine's word.
    pub fn note(&mut self, volume: VolumeId, done: u64, total: u64) {
        let Some(fill) = self.now.get_mut(&volume) else { return };
        (fill.done, fill.total) = (done, total);
        let now = Instant::now();
        fill.samples.push_back((now, done));
        while fill.samples.front().is_some_and(|(at, _)| now.duration_since(*at) > SPEED_OVER) {
            fill.samples.pop_front();
        }
    }

    /// A mirror broke, while it was filled or later.
    pub fn fail(&mut self, volume: VolumeId) {
        if self.failed_at.is_some_and(|at| at.elapsed() > FORGIVEN_AFTER) {
            self.forgive();
        }
        self.failures += 1;
        self.failed_at = Some(Instant::now());
        if let Some(fill) = self.now.get(&volume) {
            *self.broken_off.entry(fill.how).or_default() += 1;
        }
    }

    fn forgive(&mut self) {
        (self.failures, self.failed_at) = (0, None);
        self.broken_off.clear();
    }

    /// There is no mirror any more, for whatever reason.
    pub fn end(&mut self, volume: VolumeId) {
        self.now.remove(&volume);
    }

    /// The replica is in sync; `sent` is how many bytes that took.
    pub fn succeed(&mut self, volume: VolumeId, sent: u64, at: Timestamp) -> Option<&Filled> {
        let fill = self.now.remove(&volume)?;
        let took_ms = u64::try_from(fill.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let filled = Filled { how: fill.how, why: fill.why, sent, took_ms, at };
        self.last.insert(volume, filled);
        self.last.get(&volume)
    }

    pub fn last(&self, volume: VolumeId) -> Option<Filled> {
        self.last.get(&volume).cloned()
    }

    /// How far it is, as it was a few seconds ago at most.
    pub fn tell(&mut self, volume: VolumeId, sent: Option<u64>) -> Option<FillProgress> {
        let fill = self.now.get_mut(&volume)?;
        if let Some((_, told)) = fill.told.as_ref().filter(|(at, _)| at.elapsed() < TOLD_EVERY) {
            return Some(told.clone());
        }
        let progress = FillProgress {
            done: fill.done,
            total: fill.total,
            how: Some(fill.how),
            why: fill.why.clone(),
            sent,
            bytes_per_second: fill.speed(),
        };
        fill.told = Some((Instant::now(), progress.clone()));
        Some(progress)
    }

    /// Until when no fill is to be begun.
    pub fn not_before(&self) -> Option<Instant> {
        let pause = RETRY_FIRST * 2u32.saturating_pow(self.failures.saturating_sub(1).min(10));
        self.failed_at.map(|at| at + pause.min(RETRY_MAX))
    }

    pub fn in_vain(&self) -> BTreeSet<FillHow> {
        let in_vain = self.broken_off.iter().filter(|(_, count)| **count >= IN_VAIN_AFTER);
        in_vain.map(|(how, _)| *how).collect()
    }
}

impl Fill {
    /// Bytes per second; 0: not known yet.
    fn speed(&self) -> u64 {
        let (Some((from, before)), Some((to, after))) = (self.samples.front(), self.samples.back()) else {
            return 0;
        };
        let took_ms = u64::try_from(to.duration_since(*from).as_millis()).unwrap_or(u64::MAX);
        after.saturating_sub(*before).saturating_mul(1000).checked_div(took_ms).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun() -> (Fills, VolumeId) {
        let (mut fills, volume) = (Fills::default(), VolumeId(uuid::Uuid::nil()));
        fills.begin(&[volume], BootId(uuid::Uuid::nil()), FillHow::Compared, "nothing was recorded");
        (fills, volume)
    }

    #[tokio::test(start_paused = true)]
    async fn a_fill_tells_how_far_it_is_and_how_long_it_will_take() {
        let (mut fills, volume) = begun();
        assert_eq!(fills.tell(volume, Some(0)).unwrap().seconds_left(), None);
        for second in 0..4 {
            fills.note(volume, second * 100, 1000);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let told = fills.tell(volume, Some(7)).unwrap();
        assert_eq!((told.done, told.total, told.sent), (300, 1000, Some(7)));
        assert_eq!((told.bytes_per_second, told.seconds_left()), (100, Some(7)));
        fills.note(volume, 900, 1000);
        assert_eq!(fills.tell(volume, Some(8)).unwrap().done, 300, "each report is a write to the store");
        let filled = fills.succeed(volume, 42, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((filled.sent, filled.took_ms, filled.how), (42, 4000, FillHow::Compared));
        assert_eq!(fills.tell(volume, None), None);
        assert!(fills.last(volume).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn fills_that_break_off_come_again_later_and_later_and_then_in_another_way() {
        let (mut fills, volume) = begun();
        assert_eq!(fills.not_before(), None);
        for pause in [1, 2, 4] {
            assert!(fills.in_vain().is_empty());
            fills.fail(volume);
            assert_eq!(fills.not_before(), Some(Instant::now() + Duration::from_secs(pause)));
        }
        assert_eq!(fills.in_vain(), [FillHow::Compared].into());
        // What breaks once it is in sync makes the pauses grow, and no way to fill suspect.
        fills.end(volume);
        fills.fail(volume);
        assert_eq!(fills.not_before(), Some(Instant::now() + Duration::from_secs(8)));
        tokio::time::advance(FORGIVEN_AFTER * 2).await;
        fills.fail(volume);
        assert_eq!(fills.not_before(), Some(Instant::now() + Duration::from_secs(1)));
        let another = BootId(uuid::Uuid::from_u128(1));
        fills.begin(&[volume], another, FillHow::Whole, "the file is new");
        assert_eq!((fills.not_before(), fills.in_vain().len()), (None, 0));
    }
}
