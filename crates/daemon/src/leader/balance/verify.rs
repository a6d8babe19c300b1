//! The leader has the replicas of each volume compared now and then: `plan::verify` says which is next.

use std::time::Duration;

use jiff::Timestamp;
use model::{JobId, JobKind, JobSpec};
use plan::verify::{due, under_way};
use store::StoreError;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Balancer, as_leader};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(60);

impl Balancer {
    pub(super) async fn verify(&mut self, since: i64) -> Result<(), StoreError> {
        if self.memory.looked_for_verify.is_some_and(|last| last.elapsed() < LOOK_EVERY) {
            return Ok(());
        }
        self.memory.looked_for_verify = Some(Instant::now());
        let Some((guest, volume)) = due(&self.state.view(), Timestamp::now()) else { return Ok(()) };
        let job = JobSpec {
            id: JobId(Uuid::now_v7()),
            kind: JobKind::VerifyVolume { guest, volume },
            created_at: Timestamp::now(),
            requested_by: "schedule".into(),
            runner: None,
            cancel: false,
        };
        let outcome = self.state.change(|view, txn| {
            as_leader(txn, since);
            txn.create(&job);
            under_way(view).next().is_none()
        });
        outcome.await.map(drop)
    }
}
