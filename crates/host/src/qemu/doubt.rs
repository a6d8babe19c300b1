//! Mirrors that failed, remembered for as long as the machine is held.
//!
//! When the secondary answers a write with an error, QEMU tells the guest that it was written, and says so in
//! one event. If the guest shuts down right after that nobody can ask QEMU any more; and the job's end looks
//! like that of any other machine. So the event is kept, past the end of the process.
//!
//! Events that were missed may have told of a failure: then every mirror counts as failed, until QEMU was asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::VolumeId;

/// Why a mirror is not to be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Doubt {
    Failed(String),
    /// With the number of the gap.
    Missed(u64),
}

/// The mirrors of one machine.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    doubts: BTreeMap<VolumeId, Doubt>,
    /// They were let go of. That makes writes fail, and the news of it may come late.
    released: BTreeSet<VolumeId>,
    gaps: u64,
}

impl Doubts {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first reason stays: what comes after it follows from it.
    pub fn fail(&self, volume: VolumeId, why: &str) {
        let mut inner = self.inner();
        let known = matches!(inner.doubts.get(&volume), Some(Doubt::Failed(_)));
        if !known && !inner.released.contains(&volume) {
            inner.doubts.insert(volume, Doubt::Failed(why.to_owned()));
        }
    }

    pub fn miss(&self, volumes: &[VolumeId]) {
        let mut inner = self.inner();
        inner.gaps += 1;
        let gap = inner.gaps;
        for volume in volumes {
            let doubt = inner.doubts.entry(*volume).or_insert(Doubt::Missed(gap));
            if matches!(doubt, Doubt::Missed(_)) {
                *doubt = Doubt::Missed(gap);
            }
        }
    }

    /// To be taken before QEMU is asked, and given to [`Self::settle`] when it says that the mirror is well.
    pub fn gap(&self) -> u64 {
        self.inner().gaps
    }

    pub fn settle(&self, volume: VolumeId, gap: u64) {
        let mut inner = self.inner();
        if matches!(inner.doubts.get(&volume), Some(Doubt::Missed(missed)) if *missed <= gap) {
            inner.doubts.remove(&volume);
        }
    }

    /// A new mirror is about to begin.
    pub fn begin(&self, volume: VolumeId) {
        let mut inner = self.inner();
        inner.doubts.remove(&volume);
        inner.released.remove(&volume);
    }

    /// There is no mirror any more, by our own doing.
    pub fn release(&self, volume: VolumeId) {
        let mut inner = self.inner();
        inner.doubts.remove(&volume);
        inner.released.insert(volume);
    }

    /// What QEMU said.
    pub fn failure(&self, volume: VolumeId) -> Option<String> {
        match self.inner().doubts.get(&volume)? {
            Doubt::Failed(why) => Some(why.clone()),
            Doubt::Missed(_) => None,
        }
    }

    /// As [`Self::failure`], or that it is not known.
    pub fn doubt(&self, volume: VolumeId) -> Option<String> {
        match self.inner().doubts.get(&volume)? {
            Doubt::Failed(why) => Some(why.clone()),
            Doubt::Missed(_) => Some("what QEMU said of it last was not heard".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_kept_until_there_is_another_mirror() {
        let (doubts, volume) = (Doubts::default(), VolumeId(uuid::Uuid::from_u128(1)));
        assert_eq!(doubts.doubt(volume), None);
        doubts.fail(volume, "no room");
        doubts.fail(volume, "cancelled");
        doubts.miss(&[volume]);
        doubts.settle(volume, doubts.gap());
        assert_eq!(doubts.doubt(volume).as_deref(), Some("no room"));
        doubts.release(volume);
        doubts.fail(volume, "yanked");
        assert_eq!(doubts.doubt(volume), None);
        doubts.begin(volume);
        doubts.fail(volume, "no room");
        assert!(doubts.doubt(volume).is_some());
    }

    #[test]
    fn what_was_missed_is_asked_for() {
        let (doubts, volume) = (Doubts::default(), VolumeId(uuid::Uuid::from_u128(1)));
        doubts.miss(&[volume]);
        let asked = doubts.gap();
        doubts.miss(&[volume]);
        doubts.settle(volume, asked);
        assert!(doubts.doubt(volume).is_some(), "the second gap came after the question");
        assert_eq!(doubts.failure(volume), None);
        doubts.settle(volume, doubts.gap());
        assert_eq!(doubts.doubt(volume), None);
    }
}
