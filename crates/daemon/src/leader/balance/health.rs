//! The leader lets guests that are not well be restarted elsewhere, when their owners want that: on the secondary's
//! host, the two changing their roles. Where a rule, or room, speaks against it nothing happens, and the owner restarts
//! the guest where it is.

use jiff::Timestamp;
use model::{EventKind, GuestPlace, HealthRestart, JobId, JobKind, JobSpec, MoveOptions};
use plan::health::{elsewhere, obstacle};
use plan::inventory::Inventory;
use store::{Outcome, StoreError, keys};
use uuid::Uuid;

use super::{Balancer, apart, as_leader};

impl Balancer {
    pub(super) async fn restart_elsewhere(&mut self, since: i64) -> Result<(), StoreError> {
        let view = self.state.view();
        let wishes: Vec<_> = view
            .guests
            .values()
            .filter_map(|spec| elsewhere(&view, spec).map(|(to, wish)| (spec.name.clone(), to, wish)))
            .collect();
        if wishes.is_empty() {
            return Ok(());
        }
        let usage = self.usages.fresh().await;
        let inventory_of = view.clone();
        let judged = apart(move || {
            let inventory = Inventory::new(&inventory_of, &usage);
            let judge = |(guest, to, wish): (model::GuestName, GuestPlace, HealthRestart)| {
                let why_not = obstacle(&inventory, &guest, &to);
                (guest, to, wish, why_not)
            };
            wishes.into_iter().map(judge).collect::<Vec<_>>()
        });
        for (guest, to, wish, why_not) in judged.await? {
            match why_not {
                None => self.begin_restart(since, &guest, to, &wish).await?,
                Some(why) => tracing::info!(%guest, why, "it is restarted where it is"),
            }
        }
        Ok(())
    }

    /// Enters the job, if the owner still wants it.
    async fn begin_restart(
        &self,
        since: i64,
        guest: &model::GuestName,
        to: GuestPlace,
        wish: &HealthRestart,
    ) -> Result<(), StoreError> {
        let host = to.host.clone();
        let job = JobSpec {
            id: JobId(Uuid::now_v7()),
            kind: JobKind::MoveGuest { guest: guest.clone(), to, options: MoveOptions::RESTART, heals: None },
            created_at: Timestamp::now(),
            requested_by: "health".into(),
            runner: None,
            cancel: false,
        };
        let outcome = self
            .state
            .change(|view, txn| {
                as_leader(txn, since);
                txn.unchanged(&keys::assignment(guest)).unchanged(&keys::guest(guest));
                txn.create(&job);
                view.guests.get(guest).and_then(|spec| elsewhere(view, spec)).is_some()
            })
            .await?;
        if let Outcome::Committed { .. } = outcome {
            let message = format!("'{guest}' is restarted on {host}: {}", wish.why);
            self.events.info(EventKind::GuestRestarted, format!("guest/{guest}"), message);
        }
        Ok(())
    }
}
