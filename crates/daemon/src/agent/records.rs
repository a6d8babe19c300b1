//! Keeps the records of what the secondary may lack, while both replicas are in sync.
//!
//! A record is begun when the secondary has been admitted, and renewed now and then: it grows with every write, and
//! what it counts is what a resync sends. Both mean waiting for a moment without writes under way, and for the
//! secondary's disk; so a task beside the keeper does it. That task is ended before a mirror is attached or let go of:
//! what it proves, it proves of the mirror that it saw.

use std::sync::Arc;
use std::time::Duration;

use host::Machine;
use model::{Liveness, ReplicaFile, VolumeId};
use plan::converge::{Mirror, Situation, Stage};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::keeper::Keeper;

/// Between two looks at records that are well, and after one that could not be begun.
const RENEW_EVERY: Duration = Duration::from_secs(30);
const AGAIN_AFTER: Duration = Duration::from_secs(3);

/// A record that counts less than this is not worth a flush of the secondary. Bytes.
const RENEW_FROM: u64 = 1 << 20;

/// What a keeper remembers of its records.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// Whether all went well.
    task: Option<JoinHandle<bool>>,
    not_before: Option<Instant>,
    /// The replicas that the last task was about.
    about: Vec<(VolumeId, ReplicaFile)>,
}

impl Keeper {
    /// Sees to it that records are kept, if both replicas are in sync.
    pub(super) async fn keep_records(&mut self, s: &Situation) {
        if let Some(task) = self.records.task.take_if(|task| task.is_finished()) {
            let well = task.await.unwrap_or(false);
            self.records.not_before = Some(Instant::now() + if well { RENEW_EVERY } else { AGAIN_AFTER });
        }
        let about = in_sync_files(s);
        let due = self.records.not_before.is_none_or(|at| at <= Instant::now());
        if about.is_empty() || self.records.task.is_some() || !due && about == self.records.about {
            return;
        }
        let Some(running) = &self.running else { return };
        let machine = running.machine.clone();
        self.records.about.clone_from(&about);
        self.records.task = Some(tokio::spawn(async move {
            let mut well = true;
            for (volume, replica) in about {
                if let Err(error) = keep(&machine, volume, &replica).await {
                    tracing::debug!(%volume, %error, "a record of changes is begun or renewed later");
                    well = false;
                }
            }
            well
        }));
    }

    /// Ends what is being done to the records; to be called before a mirror changes.
    pub(super) async fn leave_records_alone(&mut self) {
        let Some(task) = self.records.task.take() else { return };
        task.abort();
        // An error says that it was aborted.
        drop(task.await);
    }
}

async fn keep(
    machine: &Arc<dyn Machine>,
    volume: VolumeId,
    replica: &ReplicaFile,
) -> Result<(), host::HostError> {
    match machine.tracked(volume).await? {
        Some(tracked) if tracked.replica == *replica && tracked.changed < RENEW_FROM => Ok(()),
        // One that cannot be renewed now is renewed the next time.
        Some(tracked) if tracked.replica == *replica => machine.settle_changes(volume).await.map(drop),
        Some(_) | None => {
            machine.track(volume, replica).await?;
            tracing::info!(%volume, secondary = %replica.host, "what changes is recorded");
            Ok(())
        }
    }
}

/// The secondary's replicas, if each of them is in sync and its mirror is well.
fn in_sync_files(s: &Situation) -> Vec<(VolumeId, ReplicaFile)> {
    let of = || {
        let machine = s.machine.as_ref().filter(|m| m.stage == Stage::Running && m.sending.is_none())?;
        let peer = s.peer.as_ref().filter(|peer| peer.serves && s.assignment.host == s.me)?;
        let Liveness::Live(boot_id) = peer.liveness else { return None };
        let file_of = |volume: VolumeId| {
            let well = machine.mirrors.get(&volume).is_some_and(|mirror| mirror.state == Mirror::Ready);
            let counted_on = s.in_sync.get(&volume).is_some_and(|set| set.contains(&peer.host, boot_id));
            let file = peer.files.get(&volume).filter(|_| well && counted_on)?.file.clone();
            Some((volume, ReplicaFile { host: peer.host.clone(), boot_id, file }))
        };
        s.spec.replicated(&s.assignment).map(|disk| file_of(disk.volume)).collect::<Option<Vec<_>>>()
    };
    of().unwrap_or_default()
}
