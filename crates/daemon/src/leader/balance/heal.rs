//! The leader gives degraded guests new secondaries: `plan::heal` says which and where, and each becomes a job.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use model::{ClusterView, EventKind, GuestName, JobId, JobKind, JobSpec, MoveOptions};
use plan::heal::{Heal, Healing, heal, is_any_due};
use plan::inventory::Inventory;
use store::{Outcome, StoreError, keys};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Balancer, apart, as_leader, open_jobs};

/// Between two looks for places while somebody waits for one. It asks every host what it measures.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What is remembered from look to look.
#[derive(Debug, Default)]
pub(super) struct Memory {
    last: Option<Instant>,
    /// Guests of which people were told that no host can hold their second replica, and why.
    told: BTreeMap<GuestName, String>,
}

impl Balancer {
    pub(super) async fn heal(&mut self, since: i64) -> Result<(), StoreError> {
        let (view, now) = (self.state.view(), Timestamp::now());
        if !is_any_due(&view, now) {
            self.memory.healing = Memory::default();
            return Ok(());
        }
        if self.memory.healing.last.is_some_and(|last| last.elapsed() < LOOK_EVERY) {
            return Ok(());
        }
        self.memory.healing.last = Some(Instant::now());
        let usage = self.usages.fresh().await;
        let seen = view.clone();
        let healing = apart(move || heal(&view, &Inventory::new(&view, &usage), now)).await?;
        let Healing { begin, stuck, waits: _ } = healing;
        for heal in begin {
            self.begin_healing(since, &seen, heal).await?;
        }
        for (guest, why) in &stuck {
            if self.memory.healing.told.get(guest) != Some(why) {
                let message = format!("no host can hold the second replica of '{guest}': {why}");
                self.events.warning(EventKind::VolumeHealing, format!("guest/{guest}"), message);
            }
        }
        self.memory.healing.told = stuck;
        Ok(())
    }

    /// Enters the job, if everything that it was decided on is still as it was.
    async fn begin_healing(&self, since: i64, seen: &ClusterView, heal: Heal) -> Result<(), StoreError> {
        let Heal { guest, to, since: degraded } = heal;
        let options = MoveOptions::default();
        let job = JobSpec {
            id: JobId(Uuid::now_v7()),
            kind: JobKind::MoveGuest { guest: guest.clone(), to: to.clone(), options, heals: Some(degraded) },
            created_at: Timestamp::now(),
            requested_by: "healing".into(),
            runner: None,
            cancel: false,
        };
        let outcome = self
            .state
            .change(|view, txn| {
                as_leader(txn, since);
                txn.unchanged(&keys::assignment(&guest)).unchanged(&keys::guest(&guest));
                let disks = seen.guests.get(&guest).map(|spec| spec.disks.as_slice()).unwrap_or_default();
                for disk in disks {
                    txn.unchanged(&keys::in_sync(disk.volume));
                }
                txn.create(&job);
                let is_move = |job: &JobSpec| {
                    matches!(&job.kind, JobKind::MoveGuest { guest: other, .. } if *other == guest)
                };
                let sets = |view: &ClusterView| {
                    disks.iter().map(|disk| view.in_sync.get(&disk.volume).cloned()).collect::<Vec<_>>()
                };
                view.guests.get(&guest) == seen.guests.get(&guest)
                    && view.assignments.get(&guest) == seen.assignments.get(&guest)
                    && sets(view) == sets(seen)
                    && !open_jobs(view).any(is_move)
            })
            .await?;
        if let (Outcome::Committed { .. }, Some(secondary)) = (outcome, &to.secondary) {
            let message =
                format!("'{guest}' gets its second replica on {secondary}: degraded since {degraded:.0}");
            self.events.info(EventKind::VolumeHealing, format!("guest/{guest}"), message);
        }
        Ok(())
    }
}
