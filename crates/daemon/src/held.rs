//! For how long guests of this host had to wait with their writes, volume by volume.
//!
//! It follows what this host's own reports say, so it counts a hold from when it was noticed. A counter in memory: it
//! begins anew with the daemon, as counters of Prometheus may.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::{ClusterView, HostName, VolumeId, VolumeState};
use tokio::time::Instant;

use crate::state::State;

/// One volume's holds.
#[derive(Debug, Clone, Copy, Default)]
struct Holds {
    over: Duration,
    /// When the one that lasts began.
    since: Option<Instant>,
}

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Held {
    volumes: Arc<Mutex<BTreeMap<VolumeId, Holds>>>,
}

impl Held {
    /// Follows the reports of this host's guests, for ever.
    pub fn follow(state: State, me: HostName) -> Held {
        let held = Held::default();
        let followed = held.clone();
        tokio::spawn(async move {
            let mut changes = state.changes();
            while changes.changed().await.is_ok() {
                let (owned, holding) = now(state.read().view(), &me);
                followed.take(&owned, &holding, Instant::now());
            }
        });
        held
    }

    /// So far, of each volume of a guest that this host owns.
    pub fn totals(&self) -> BTreeMap<VolumeId, Duration> {
        let volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        let total = |holds: &Holds| holds.over + holds.since.map_or(Duration::ZERO, |since| since.elapsed());
        volumes.iter().map(|(volume, holds)| (*volume, total(holds))).collect()
    }

    fn take(&self, owned: &BTreeSet<VolumeId>, holding: &BTreeSet<VolumeId>, at: Instant) {
        let mut volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        volumes.retain(|volume, _| owned.contains(volume));
        for volume in owned {
            let holds = volumes.entry(*volume).or_default();
            match (holding.contains(volume), holds.since) {
                (true, None) => holds.since = Some(at),
                (false, Some(since)) => *holds = Holds { over: holds.over + (at - since), since: None },
                (true, Some(_)) | (false, None) => {}
            }
        }
    }
}

/// The volumes of the guests that this host owns, and those whose writes wait.
fn now(view: &ClusterView, me: &HostName) -> (BTreeSet<VolumeId>, BTreeSet<VolumeId>) {
    let owned = view.assignments.values().filter(|assignment| &assignment.host == me);
    let reports = owned.filter_map(|assignment| {
        let report = view.guest_reports.get(&assignment.guest)?;
        (report.host == assignment.host && report.epoch == assignment.epoch).then_some(report)
    });
    let (mut all, mut holding) = (BTreeSet::new(), BTreeSet::new());
    for volume in reports.flat_map(|report| &report.volumes) {
        all.insert(volume.volume);
        if volume.state == VolumeState::Held {
            holding.insert(volume.volume);
        }
    }
    (all, holding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn holds_add_up_and_the_one_that_lasts_counts() {
        let held = Held::default();
        let volume = VolumeId(uuid::Uuid::from_u128(1));
        let (one, none) = (BTreeSet::from([volume]), BTreeSet::new());
        let seconds = || held.totals().get(&volume).map(Duration::as_secs);
        held.take(&one, &none, Instant::now());
        assert_eq!(seconds(), Some(0));
        held.take(&one, &one, Instant::now());
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(seconds(), Some(3));
        held.take(&one, &none, Instant::now());
        tokio::time::advance(Duration::from_secs(5)).await;
        held.take(&one, &one, Instant::now());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(seconds(), Some(5));
        held.take(&none, &none, Instant::now());
        assert_eq!(seconds(), None, "its guest is somebody else's now");
    }
}
