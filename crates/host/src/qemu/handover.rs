//! The moment at which a guest changes its host: what becomes of the source.
//!
//! The guest stands still in [`MigrationPhase::PreSwitchover`], and the store names the other host as its
//! owner. From here on nothing that this machine does may reach its disks, whatever fails: QEMU lets a guest
//! go on by itself when the rest of the migration cannot be sent, and the daemon may be dead by then.
//!
//! So each disk is replaced, under the guest's device, by a *void*: a node that answers no request within a
//! hundred years (QEMU's `null-co` with that latency). A guest that goes on all the same gets nothing
//! acknowledged, nothing refused and nothing written, and stands still at its first access to the disk.
//! (Tried on QEMU 10.0 with the target killed before and after `migrate-continue`. A throttle would let one
//! request through, and all of them at the next drain.)
//!
//! ```text
//!     check: both replicas of each volume are the same   ─ nothing has changed yet; cancelling is possible
//!     void each disk
//!     end each mirror                                    ─ by force: no write is under way, nothing to wait for
//!     let the migration go on
//! ```
//!
//! Disks that the other host shares have no mirror, and no replica that stops taking this machine's writes. Their
//! voids are put in before the change of owner is recorded ([`Handover::withhold`]), so that from the moment on at
//! which another host may own the guest nothing here can write, and are taken out again if it was not recorded
//! ([`Handover::give_back`]). They are then found by [`Handover::run`], which goes on from there.
//!
//! Each step may be repeated; a void that is found says that the check was passed. The guest stands still all
//! the while, so what does not depend on each other is asked for at once.
//!
//! A replica that no device and no job uses is free: QEMU gives up its lock with the last user that may write.
//! So this host's storage daemon can serve it to the new owner while this machine still exists.
//!
//! [`MigrationPhase::PreSwitchover`]: crate::MigrationPhase::PreSwitchover

use futures::future::try_join_all;
use model::GuestName;
use serde_json::{Value, json};

use super::changes::Changes;
use super::migration::Migration;
use super::mirror::{Mirror, understand};
use super::names::Names;
use super::qmp::Qmp;
use crate::{HostError, MigrationPhase};

/// How long a void takes for an answer, nanoseconds: a hundred years.
const NEVER_NS: u64 = 100 * 365 * 24 * 3600 * 1_000_000_000;

/// QEMU adds it to its clock, in a signed number.
const _: () = assert!(NEVER_NS < i64::MAX as u64 / 2);

/// Whether the device has the void of its volume for a disk.
fn is_void(block: &[Value], names: Names) -> bool {
    block.iter().any(|disk| {
        disk["qdev"] == names.device_path() && disk["inserted"]["node-name"] == names.void().as_str()
    })
}

async fn disks(qmp: &Qmp, doing: &str) -> Result<Vec<Value>, HostError> {
    understand(qmp.execute("query-block", json!({})).await, doing)
}

/// The volumes of a guest that is handed over.
#[derive(Debug)]
pub(crate) struct Handover<'a> {
    qmp: &'a Qmp,
    guest: &'a GuestName,
    volumes: Vec<Disk>,
}

/// A disk of the guest.
#[derive(Debug)]
pub(crate) struct Disk {
    pub names: Names,
    /// How messages call it.
    pub what: String,
    /// The other host reaches the same file.
    pub shared: bool,
}

impl<'a> Handover<'a> {
    pub fn new(qmp: &'a Qmp, guest: &'a GuestName, volumes: Vec<Disk>) -> Self {
        Self { qmp, guest, volumes }
    }

    /// Whether it was begun: a disk is void.
    pub async fn is_begun(&self) -> Result<bool, HostError> {
        let disks = disks(self.qmp, &format!("look at the disks of '{}'", self.guest)).await?;
        Ok(self.any_is_void(&disks))
    }

    fn any_is_void(&self, disks: &[Value]) -> bool {
        self.volumes.iter().any(|disk| is_void(disks, disk.names))
    }

    /// See [`crate::Machine::check_hand_over`].
    pub async fn check(&self) -> Result<(), HostError> {
        let doing = format!("hand '{}' over", self.guest);
        let migration = Migration::new(self.qmp, self.guest, None);
        let mirrored = || self.volumes.iter().filter(|disk| !disk.shared);
        let replicas = mirrored().map(|disk| self.is_same(disk, &doing));
        let (state, replicas) = tokio::join!(migration.state(), try_join_all(replicas));
        let phase = state?.phase;
        if phase != MigrationPhase::PreSwitchover {
            return Err(HostError::Conflict(format!(
                "cannot {doing}: its migration is not at that point ({phase:?}); begin one, and wait until it is"
            )));
        }
        let unlike = mirrored().zip(replicas?).find(|(_, same)| !same);
        match unlike {
            None => Ok(()),
            Some((Disk { what, .. }, _)) => Err(HostError::Conflict(format!(
                "cannot {doing}: the replicas of {what} are not the same; cancel the migration, and begin it \
                 anew once they are"
            ))),
        }
    }

    /// See [`crate::Machine::withhold_disks`].
    pub async fn withhold(&self) -> Result<(), HostError> {
        let doing = format!("take the disks of '{}' away from it", self.guest);
        self.check().await?;
        let before = disks(self.qmp, &doing).await?;
        try_join_all(self.volumes.iter().map(|disk| self.void(disk.names, &before, &doing))).await?;
        let after = disks(self.qmp, &doing).await?;
        match self.volumes.iter().find(|disk| !is_void(&after, disk.names)) {
            None => Ok(()),
            Some(Disk { what, .. }) => {
                Err(HostError::Failed(format!("cannot {doing}: QEMU does not give up {what}")))
            }
        }
    }

    /// See [`crate::Machine::return_disks`].
    pub async fn give_back(&self) -> Result<(), HostError> {
        let doing = format!("give the disks of '{}' back to it", self.guest);
        let before = disks(self.qmp, &doing).await?;
        for disk in self.volumes.iter().filter(|disk| is_void(&before, disk.names)) {
            let put = json!({
                "path": disk.names.device_path(), "property": "drive", "value": disk.names.top(),
            });
            self.qmp.execute("qom-set", put).await.map_err(|error| error.into_host(&doing))?;
            let void = json!({ "node-name": disk.names.void() });
            // It is used again, or not; no request can reach it any more.
            if let Err(error) = self.qmp.execute("blockdev-del", void).await {
                tracing::debug!(%error, "a void is left behind");
            }
        }
        Ok(())
    }

    async fn is_same(&self, disk: &Disk, doing: &str) -> Result<bool, HostError> {
        let Disk { names, what, .. } = disk;
        let (changes, mirror) = (Changes::new(self.qmp, *names, what), Mirror::new(self.qmp, *names, what));
        let (unfilled, same) = tokio::try_join!(changes.is_unfilled(), mirror.is_same(doing))?;
        Ok(!unfilled && same)
    }

    /// See [`crate::Machine::hand_over`].
    pub async fn run(&self) -> Result<(), HostError> {
        let doing = format!("hand '{}' over", self.guest);
        let (before, check) = tokio::join!(disks(self.qmp, &doing), self.check());
        let before = before?;
        if !self.any_is_void(&before) {
            check?;
        }
        try_join_all(self.volumes.iter().map(|disk| self.void(disk.names, &before, &doing))).await?;
        let mirrored = self.volumes.iter().filter(|disk| !disk.shared);
        let mirrors = mirrored
            .map(|disk| async { Mirror::new(self.qmp, disk.names, &disk.what).end_at_rest(&doing).await });
        let (after, _) = tokio::try_join!(disks(self.qmp, &doing), try_join_all(mirrors))?;
        if let Some(Disk { what, .. }) = self.volumes.iter().find(|disk| !is_void(&after, disk.names)) {
            return Err(HostError::Failed(format!("cannot {doing}: QEMU does not give up {what}; end it")));
        }
        let migration = Migration::new(self.qmp, self.guest, None);
        let Err(refused) = migration.proceed().await else { return Ok(()) };
        match migration.state().await?.phase {
            MigrationPhase::PreSwitchover => Err(refused),
            MigrationPhase::Device | MigrationPhase::Postcopy | MigrationPhase::Completed => Ok(()),
            phase @ (MigrationPhase::None
            | MigrationPhase::Setup
            | MigrationPhase::Active
            | MigrationPhase::Failed(_)
            | MigrationPhase::Cancelling
            | MigrationPhase::Cancelled) => Err(HostError::Failed(format!(
                "cannot {doing}: its migration is over ({phase:?}); end it here and start it on its new owner"
            ))),
        }
    }

    async fn void(&self, names: Names, disks: &[Value], doing: &str) -> Result<(), HostError> {
        if is_void(disks, names) {
            return Ok(());
        }
        let disk = disks.iter().find(|disk| disk["qdev"] == names.device_path());
        let size = disk.and_then(|disk| disk["inserted"]["image"]["virtual-size"].as_u64());
        let size = size.ok_or_else(|| HostError::Failed(format!("cannot {doing}: QEMU shows no disk")))?;
        let void = json!({
            "driver": "null-co", "node-name": names.void(), "size": size, "latency-ns": NEVER_NS,
        });
        // Refused: an earlier try has added it, and the next command says whether it is of use.
        if let Err(error) = self.qmp.execute("blockdev-add", void).await {
            tracing::debug!(%error, "cannot add a void");
        }
        let put = json!({ "path": names.device_path(), "property": "drive", "value": names.void() });
        self.qmp.execute("qom-set", put).await.map(drop).map_err(|error| error.into_host(doing))
    }
}
