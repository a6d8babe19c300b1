//! Records of what a secondary replica may lack, kept by QEMU as dirty bitmaps on the volume's format node.
//!
//! A *record* is a bitmap `changed.<n>.<replica>`, which counts every write from its beginning on, in pieces of
//! 64 KiB. A replica is called by its host, the boot of that host and its file: whoever reads a record sees what it
//! is about. It says something only if that replica had everything when it began, and had it on its disk. At the
//! beginning writes may be under way that the record has missed: their local half has ended, their remote half has
//! not. So a record of a running machine is *proven* first: after its beginning the mirror is seen without any lag
//! (then every write that the record missed is on the secondary), and the secondary's file is flushed. A second,
//! empty bitmap `proven.<n>.<replica>` marks that. Without one, records count for nothing, whoever made them; with
//! one, their union covers all that the secondary may lack, also after its host lost power.
//!
//! Records grow. While the mirror is ready a new one is begun and proven now and then, and the older ones are
//! dropped. Bitmaps live as long as the machine's process.
//!
//! While a mirror is given what changed (see [`super::resync`]), the bitmap `unfilled` says that the two
//! replicas are not the same yet, whatever the mirror job says; it outlives a daemon.
//!
//! None of this changes QEMU's block graph, so it answers also while writes are held; reading a bitmap's bits
//! does change it, because that takes an export.

use std::time::Duration;

use model::ReplicaFile;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::mirror::{Mirror, understand};
use super::names::Names;
use super::qmp::Qmp;
use super::tls::TlsFiles;
use crate::compare::PIECE;
use crate::replica::ReplicaClient;
use crate::{HostError, Tracked};

const CHANGED: &str = "changed";
const PROVEN: &str = "proven";
const UNFILLED: &str = "unfilled";
/// Bitmaps of a resync that is under way.
pub(super) const ROUND: &str = "round";
pub(super) const UNION: &str = "union";

/// How long the mirror is watched for a moment without lag. A guest that always has writes under way has few.
const LAG_LIMIT: Duration = Duration::from_secs(2);
const LAG_POLL: Duration = Duration::from_millis(2);

/// How long an export may take to end once its client is gone.
const EXPORT_LIMIT: Duration = Duration::from_secs(5);
const EXPORT_POLL: Duration = Duration::from_millis(5);

#[derive(Debug, Deserialize)]
struct Node {
    #[serde(rename = "node-name")]
    name: String,
    #[serde(default, rename = "dirty-bitmaps")]
    bitmaps: Vec<Bitmap>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Bitmap {
    /// Those of jobs have none.
    #[serde(default)]
    pub name: String,
    /// Bytes.
    pub count: u64,
}

impl Bitmap {
    /// The kind, number and replica of one of ours.
    fn parse(&self) -> Option<(&str, u64, ReplicaFile)> {
        let mut parts = self.name.splitn(5, '.');
        let (kind, number) = (parts.next()?, parts.next()?.parse().ok()?);
        let (host, boot_id) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some((kind, number, ReplicaFile { host, boot_id, file: parts.next()?.to_owned() }))
    }
}

/// How a bitmap of ours is called.
fn name(kind: &str, number: u64, replica: &ReplicaFile) -> String {
    let ReplicaFile { host, boot_id, file } = replica;
    format!("{kind}.{number}.{host}.{}.{file}", boot_id.0.simple())
}

/// The bitmaps of one volume of one machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Changes<'a> {
    qmp: &'a Qmp,
    names: Names,
    what: &'a str,
}

impl<'a> Changes<'a> {
    pub fn new(qmp: &'a Qmp, names: Names, what: &'a str) -> Self {
        Self { qmp, names, what }
    }

    fn doing(&self) -> String {
        format!("record what changes on {}", self.what)
    }

    /// See [`crate::Machine::track`].
    pub async fn track(&self, replica: &ReplicaFile, tls: Option<&TlsFiles>) -> Result<(), HostError> {
        let doing = self.doing();
        if self.tracked().await?.is_some_and(|tracked| tracked.replica == *replica) {
            return Ok(());
        }
        self.untrack().await?;
        let record = self.begin(replica, &doing).await?;
        let mirrored = Mirror::new(self.qmp, self.names, self.what).remote(&doing).await?.is_some();
        let proven = match mirrored {
            true => self.prove(tls, &doing).await?,
            // Its caller's word, as when the guest has just come from that host, which flushed its disk.
            false => self.stands_still(&doing).await?,
        };
        if proven {
            return self.mark_proven(record, replica, &doing).await;
        }
        self.untrack().await?;
        Err(HostError::Conflict(format!(
            "cannot {doing}: its mirror is not ready, or never without writes under way for {} s; wait until \
             the secondary on {} is in sync",
            LAG_LIMIT.as_secs(),
            replica.host
        )))
    }

    /// See [`crate::Machine::tracked`].
    pub async fn tracked(&self) -> Result<Option<Tracked>, HostError> {
        let bitmaps = self.bitmaps(&self.doing()).await?;
        let records = || bitmaps.iter().filter_map(|bitmap| Some((bitmap, bitmap.parse()?)));
        let proven = records().find_map(|(_, (kind, _, about))| (kind == PROVEN).then_some(about));
        Ok(proven.map(|replica| {
            let ours = records().filter(|(_, (kind, _, about))| *kind == CHANGED && *about == replica);
            // Two records may count the same bytes twice; it is a limit from above.
            let changed = ours.map(|(bitmap, _)| bitmap.count).sum();
            Tracked { replica, changed }
        }))
    }

    /// See [`crate::Machine::settle_changes`].
    pub async fn settle(&self, tls: Option<&TlsFiles>) -> Result<bool, HostError> {
        let doing = format!("begin a new record of what changes on {}", self.what);
        let Some(Tracked { replica, .. }) = self.tracked().await? else { return Ok(false) };
        // One that was begun before and could not be proven serves as well.
        let record = match self.unproven(&doing).await? {
            Some(record) => record,
            None => self.begin(&replica, &doing).await?,
        };
        if !self.prove(tls, &doing).await? {
            return Ok(false);
        }
        self.mark_proven(record, &replica, &doing).await?;
        for bitmap in self.bitmaps(&doing).await? {
            if let Some((CHANGED | PROVEN, number, _)) = bitmap.parse()
                && number < record
            {
                self.remove(&bitmap.name, &doing).await?;
            }
        }
        Ok(true)
    }

    /// See [`crate::Machine::untrack`].
    pub async fn untrack(&self) -> Result<(), HostError> {
        let doing = format!("stop recording what changes on {}", self.what);
        let mut ours = self.bitmaps(&doing).await?;
        ours.retain(|bitmap| matches!(bitmap.parse(), Some((CHANGED | PROVEN, _, _))));
        // The proofs first: what is left half way counts for nothing.
        ours.sort_by_key(|bitmap| bitmap.name.starts_with(CHANGED));
        for bitmap in ours {
            self.remove(&bitmap.name, &doing).await?;
        }
        Ok(())
    }

    async fn begin(&self, replica: &ReplicaFile, doing: &str) -> Result<u64, HostError> {
        let bitmaps = self.bitmaps(doing).await?;
        let last = bitmaps.iter().filter_map(|bitmap| Some(bitmap.parse()?.1)).max();
        let record = last.unwrap_or(0) + 1;
        self.add(&name(CHANGED, record, replica), true, doing).await?;
        Ok(record)
    }

    async fn mark_proven(&self, record: u64, replica: &ReplicaFile, doing: &str) -> Result<(), HostError> {
        self.add(&name(PROVEN, record, replica), false, doing).await
    }

    /// The number of the newest record, if it is not proven.
    async fn unproven(&self, doing: &str) -> Result<Option<u64>, HostError> {
        let bitmaps = self.bitmaps(doing).await?;
        let newest = |of: &str| {
            let numbers = bitmaps.iter().filter_map(Bitmap::parse).filter(|(kind, ..)| *kind == of);
            numbers.map(|(_, number, _)| number).max()
        };
        Ok(newest(CHANGED).filter(|record| newest(PROVEN).is_none_or(|proven| proven < *record)))
    }

    /// Whether no write can be under way, because the guest has not run here yet or has been stopped.
    async fn stands_still(&self, doing: &str) -> Result<bool, HostError> {
        let status = self.qmp.execute("query-status", json!({})).await;
        let status: Value = understand(status, doing)?;
        Ok(status["running"] == false && status["status"] != "inmigrate")
    }

    /// Sees that every write of before is on the secondary's disk.
    async fn prove(&self, tls: Option<&TlsFiles>, doing: &str) -> Result<bool, HostError> {
        if self.is_unfilled().await? {
            return Ok(false);
        }
        let mirror = Mirror::new(self.qmp, self.names, self.what);
        let deadline = Instant::now() + LAG_LIMIT;
        while !mirror.is_same(doing).await? {
            if Instant::now() > deadline {
                return Ok(false);
            }
            tokio::time::sleep(LAG_POLL).await;
        }
        // Had the mirror been let go of and attached anew meanwhile, its ready state would say nothing.
        if self.is_unfilled().await? {
            return Ok(false);
        }
        let Some((target, export)) = mirror.remote(doing).await? else { return Ok(false) };
        let mut client = ReplicaClient::new(tls.cloned()).open(target, &export).await?;
        client.flush().await?;
        Ok(true)
    }

    /// All bitmaps that have a name.
    pub async fn bitmaps(&self, doing: &str) -> Result<Vec<Bitmap>, HostError> {
        let answer = self.qmp.execute("query-named-block-nodes", json!({ "flat": true })).await;
        let nodes: Vec<Node> = understand(answer, doing)?;
        let ours = nodes.into_iter().find(|node| node.name == self.names.format());
        let mut bitmaps = ours.map(|node| node.bitmaps).unwrap_or_default();
        bitmaps.retain(|bitmap| !bitmap.name.is_empty());
        Ok(bitmaps)
    }

    pub async fn add(&self, name: &str, recording: bool, doing: &str) -> Result<(), HostError> {
        let bitmap = json!({
            "node": self.names.format(), "name": name, "granularity": PIECE, "disabled": !recording,
        });
        self.command("block-dirty-bitmap-add", bitmap, doing).await
    }

    pub async fn remove(&self, name: &str, doing: &str) -> Result<(), HostError> {
        let bitmap = json!({ "node": self.names.format(), "name": name });
        self.command("block-dirty-bitmap-remove", bitmap, doing).await
    }

    /// How many bytes a bitmap counts.
    pub async fn count(&self, name: &str, doing: &str) -> Result<u64, HostError> {
        let bitmaps = self.bitmaps(doing).await?;
        let found = bitmaps.iter().find(|bitmap| bitmap.name == name);
        found.map(|bitmap| bitmap.count).ok_or_else(|| {
            HostError::NotFound(format!("cannot {doing}: QEMU has no bitmap '{name}' any more"))
        })
    }

    /// Lets a bitmap record no more.
    pub async fn freeze(&self, name: &str, doing: &str) -> Result<(), HostError> {
        let bitmap = json!({ "node": self.names.format(), "name": name });
        self.command("block-dirty-bitmap-disable", bitmap, doing).await
    }

    /// Makes a bitmap of all that is recorded. It records nothing itself.
    pub async fn unite(&self, doing: &str) -> Result<(), HostError> {
        self.add(UNION, false, doing).await?;
        let records: Vec<String> = self
            .bitmaps(doing)
            .await?
            .into_iter()
            .filter(|bitmap| matches!(bitmap.parse(), Some((CHANGED, _, _))))
            .map(|bitmap| bitmap.name)
            .collect();
        let merge = json!({ "node": self.names.format(), "target": UNION, "bitmaps": records });
        self.command("block-dirty-bitmap-merge", merge, doing).await
    }

    /// Marks the replicas as different, until [`Self::mark_filled`].
    pub async fn mark_unfilled(&self) -> Result<(), HostError> {
        if self.is_unfilled().await? {
            return Ok(());
        }
        self.add(UNFILLED, false, &self.doing()).await
    }

    pub async fn mark_filled(&self) -> Result<(), HostError> {
        self.remove(UNFILLED, &self.doing()).await
    }

    pub async fn is_unfilled(&self) -> Result<bool, HostError> {
        Ok(self.bitmaps(&self.doing()).await?.iter().any(|bitmap| bitmap.name == UNFILLED))
    }

    /// Removes what a resync left, once there is no mirror any more.
    pub async fn clear_helpers(&self) -> Result<(), HostError> {
        let doing = format!("clean up after a resync of {}", self.what);
        let ((), bitmaps) = tokio::try_join!(self.end_export(&doing), self.bitmaps(&doing))?;
        for bitmap in bitmaps {
            if bitmap.name == UNFILLED || bitmap.name == UNION || bitmap.name == ROUND {
                self.remove(&bitmap.name, &doing).await?;
            }
        }
        Ok(())
    }

    /// Offers one bitmap for reading. There is one export for each volume.
    pub async fn begin_export(&self, bitmap: &str, doing: &str) -> Result<(), HostError> {
        let name = self.names.export();
        let export = json!({
            "type": "nbd", "id": name, "node-name": self.names.format(), "name": name,
            "bitmaps": [bitmap], "writable": false,
        });
        self.command("block-export-add", export, doing).await
    }

    /// Ends the export, and returns when its bitmap is free again.
    pub async fn end_export(&self, doing: &str) -> Result<(), HostError> {
        let deadline = Instant::now() + EXPORT_LIMIT;
        let delete = json!({ "id": self.names.export(), "mode": "hard" });
        loop {
            let answer = self.qmp.execute("query-block-exports", json!({})).await;
            let exports: Vec<Value> = understand(answer, doing)?;
            let ours = exports.iter().find(|export| export["id"] == self.names.export());
            match ours {
                None => return Ok(()),
                Some(export) if export["shutting-down"] == true => {}
                Some(_) => self.command("block-export-del", delete.clone(), doing).await?,
            }
            if Instant::now() > deadline {
                return Err(HostError::TimedOut(format!("cannot {doing}: QEMU does not end an export")));
            }
            tokio::time::sleep(EXPORT_POLL).await;
        }
    }

    async fn command(&self, command: &str, arguments: Value, doing: &str) -> Result<(), HostError> {
        self.qmp.execute(command, arguments).await.map(drop).map_err(|error| error.into_host(doing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_record_says_what_it_is_about() {
        let boot_id = "5f0c2b1e-2222-4333-8444-555566667777".parse().unwrap();
        let replica = ReplicaFile { host: "host-2".parse().unwrap(), boot_id, file: "7-42".to_owned() };
        let parse = |name: String| {
            let bitmap = Bitmap { name, count: 0 };
            bitmap.parse().map(|(kind, number, about)| (kind.to_owned(), number, about))
        };
        let name = name(CHANGED, 7, &replica);
        assert_eq!(parse(name.clone()), Some((CHANGED.to_owned(), 7, replica)));
        assert_eq!(parse(UNFILLED.to_owned()), None);
        assert_eq!(parse(name.replace("7.host", "x.host")), None);
        assert_eq!(parse("changed.7.host-2".to_owned()), None);
    }
}
