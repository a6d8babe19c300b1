//! The mirror of a running machine's volume: attaching it, looking at it, letting go of it.
//!
//! ```text
//!             attach                    filled
//!     Absent ────────► Filling ───────────────► Ready        writes go to both replicas, or wait
//!        ▲                │    a write fails      │
//!        │                └────────► Broken ◄─────┘          the secondary said no; writes go on locally
//!        └───────── let go, from any of them
//! ```
//!
//! The job copies in `write-blocking` mode: a guest's write is acknowledged when both replicas have it. The
//! NBD node has a reconnect delay of years, so that a secondary that does not answer *holds* the writes
//! instead of failing them. QEMU sends no event for a hold, and the job says `ready` all the while.
//!
//! A secondary that answers a write with an *error* is another matter: QEMU acknowledges that write to the
//! guest with the local replica alone, and pauses the job ([`MirrorState::Broken`]). Lack of room is such an error only
//! of a thin replica; any other one is fully allocated and never punched.
//!
//! # Letting go
//!
//! While writes are held QEMU's main loop survives queries, and little else. Letting go therefore begins
//! with a `yank` out of band, which makes a connected NBD node fail what it holds. While the node tries to
//! reconnect there is nothing to yank; then the end of the job frees what is held.
//!
//! The job must not end while a write is between its local half and its remote half: QEMU (10.0, and older
//! by its sources) frees the job's `in_flight_bitmap` before it drains the disk, and a write that settles
//! after that corrupts the heap. One in nine of our runs ended QEMU that way. So the disk's writes are
//! throttled to nothing first, for some 50 ms, until those under way have settled. (`stop` would do that,
//! too; but it drains every disk, also one that is still held.) A write that arrives once the job is
//! cancelled does not go to the target any more, and is harmless.
//!
//! The throttle also marks that letting go has begun: whoever adopts the machine goes on from there.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use model::VolumeId;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::changes::Changes;
use super::doubt::Doubts;
use super::names::Names;
use super::qmp::{Qmp, QmpError, QmpEvent};
use super::tls::{self, TlsFiles};
use crate::replica::ReplicaClient;
use crate::{ExportName, Fill, HostError, MirrorState};

/// For how long the NBD node tries to come back, seconds: ten years. With a short delay QEMU would give up
/// by itself and acknowledge with one replica.
const RECONNECT_DELAY_S: u32 = 10 * 365 * 24 * 3600;

/// How long opening the connection may keep QEMU's main loop, and with it the guest, from running, seconds.
/// It is only that long when the secondary vanishes after it has just answered.
const OPEN_LIMIT_S: u32 = 2;

/// How long letting go may take. It takes less than a tenth of a second.
const LET_GO_LIMIT: Duration = Duration::from_secs(10);

/// How soon the yank is repeated: the connection may have come back, and gone, after the one before.
const YANK_AGAIN: Duration = Duration::from_millis(500);

/// Bytes a second that a throttled disk writes: a single request uses up minutes of it.
const THROTTLED: u64 = 1;

/// How long no write must have ended before all count as settled, and how long that is waited for. A local
/// disk takes a few milliseconds for a write.
const SETTLED_AFTER: Duration = Duration::from_millis(50);
const SETTLE_LIMIT: Duration = Duration::from_secs(1);
const SETTLE_POLL: Duration = Duration::from_millis(10);

/// How often the end of a job is looked for, besides its event.
const JOB_POLL: Duration = Duration::from_millis(2);

/// How long QEMU may take to begin or to end a mirror. It drains the disk first, so the guest's own load counts.
const CHANGE_LIMIT: Duration = Duration::from_secs(10);

const _: () = assert!(CHANGE_LIMIT.as_secs() > OPEN_LIMIT_S as u64);
const _: () = assert!(SETTLE_LIMIT.as_millis() < LET_GO_LIMIT.as_millis());
const _: () = assert!(YANK_AGAIN.as_millis() < LET_GO_LIMIT.as_millis());

/// As `query-block-jobs` tells it.
#[derive(Debug, Deserialize)]
struct Job {
    device: String,
    len: u64,
    offset: u64,
    #[serde(rename = "io-status")]
    io_status: String,
    ready: bool,
    error: Option<String>,
    /// Since QEMU 8.2: whether nothing is left that only the local replica has.
    #[serde(rename = "actively-synced")]
    actively_synced: Option<bool>,
}

impl Job {
    fn is_ready(&self) -> bool {
        self.error.is_none() && self.io_status == "ok" && self.ready && self.actively_synced != Some(false)
    }
}

#[derive(Debug, Deserialize)]
struct Node {
    #[serde(rename = "node-name")]
    name: String,
    file: String,
    image: NodeImage,
}

#[derive(Debug, Deserialize)]
struct NodeImage {
    #[serde(rename = "virtual-size")]
    size: u64,
    filename: PathBuf,
}

/// What is to be attached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Goal<'a> {
    pub target: SocketAddr,
    pub export: &'a ExportName,
    pub fill: Fill,
    /// How fast it may be filled, bytes per second; 0: no limit.
    pub limit: u64,
    /// The target gives back the room of what is discarded, and of zeroes.
    pub thin: bool,
    pub tls: Option<&'a TlsFiles>,
    /// Told when there is a new mirror to be doubted.
    pub doubts: (&'a Doubts, VolumeId),
}

/// One volume of one machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mirror<'a> {
    qmp: &'a Qmp,
    names: Names,
    what: &'a str,
}

impl<'a> Mirror<'a> {
    /// `what` is how messages call the volume.
    pub fn new(qmp: &'a Qmp, names: Names, what: &'a str) -> Self {
        Self { qmp, names, what }
    }

    /// See [`crate::Machine::attach_mirror`]. True: it was not there before.
    pub async fn attach(&self, goal: Goal<'_>) -> Result<bool, HostError> {
        let Goal { target, export, tls, .. } = goal;
        let doing = format!("mirror {} to {target}", self.what);
        let wanted = address(target, export);
        // At once: the guest may be standing still, having just come from another host.
        let client = ReplicaClient::new(tls.cloned());
        let (nodes, job, size) =
            tokio::join!(self.nodes(&doing), self.job(&doing), client.ask(target, export));
        let nodes = nodes?;
        let remote = nodes.iter().find(|node| node.name == self.names.remote());
        match (job?, remote) {
            (Some(_), Some(node)) if node.file == wanted => return Ok(false),
            (Some(_), node) => {
                let other = node.map_or("an unknown target", |node| node.file.as_str());
                return Err(HostError::Conflict(format!(
                    "cannot {doing}: it is mirrored to {other} already; let go of that one first"
                )));
            }
            // The daemon that attached it before died half way, or the job ended by itself.
            (None, Some(_)) => self.remove_remote(&doing).await?,
            (None, None) => {}
        }
        let size = size?;
        let local = nodes.iter().find(|node| node.name == self.names.top()).map(|node| node.image.size);
        if local != Some(size) {
            return Err(HostError::Failed(format!(
                "cannot {doing}: the local replica has {} bytes, the other one {size}; make the other one anew",
                local.unwrap_or(0)
            )));
        }
        Changes::new(self.qmp, self.names, self.what).clear_helpers().await?;
        self.begin(goal, &doing).await?;
        Ok(true)
    }

    async fn begin(&self, goal: Goal<'_>, doing: &str) -> Result<(), HostError> {
        let Goal { target, export, fill, limit, thin, tls, doubts: (doubts, volume) } = goal;
        // The job punches holes where there are zeroes, but for `discard` here: a secondary that is not thin keeps its
        // room.
        let discard = if thin { "unmap" } else { "ignore" };
        let mut remote = json!({
            "driver": "nbd", "node-name": self.names.remote(), "export": export.as_str(),
            "server": { "type": "inet", "host": target.ip().to_string(), "port": target.port().to_string() },
            "reconnect-delay": RECONNECT_DELAY_S, "open-timeout": OPEN_LIMIT_S, "discard": discard,
        });
        if let Some(files) = tls {
            remote["tls-creds"] = tls::client_credentials(self.qmp, files).await?.into();
        }
        if fill == Fill::Changed {
            Changes::new(self.qmp, self.names, self.what).mark_unfilled().await?;
        }
        let job = json!({
            "job-id": self.names.job(), "device": self.names.top(), "target": self.names.remote(),
            "sync": match fill { Fill::Nothing | Fill::Changed => "none", Fill::Everything => "full" },
            "speed": limit, "copy-mode": "write-blocking", "on-target-error": "stop", "on-source-error": "report",
            "auto-finalize": true, "auto-dismiss": true,
        });
        doubts.begin(volume);
        let added = self.qmp.execute_within("blockdev-add", remote, CHANGE_LIMIT).await;
        let begun = match added {
            Ok(_) => self.qmp.execute_within("blockdev-mirror", job, CHANGE_LIMIT).await,
            Err(error) => Err(error),
        };
        let Err(error) = begun else { return Ok(()) };
        // It may have begun although nobody heard so; then only letting go leaves no trace.
        doubts.release(volume);
        if let Err(again) = self.let_go().await {
            tracing::warn!(error = %again, volume = self.what, "cannot clean up after a mirror that did not begin");
        }
        Err(error.into_host(doing))
    }

    /// See [`crate::Machine::mirror`].
    pub async fn state(&self) -> Result<MirrorState, HostError> {
        let Some(job) = self.job(&format!("look at the mirror of {}", self.what)).await? else {
            return Ok(MirrorState::Absent);
        };
        if job.is_ready() {
            return Ok(MirrorState::Ready);
        }
        Ok(match (job.error, job.io_status.as_str()) {
            (Some(error), _) => MirrorState::Broken(error),
            (None, "ok") => MirrorState::Filling { done: job.offset, total: job.len },
            (None, "nospace") => MirrorState::Broken("the secondary has no room left".to_owned()),
            (None, _) => MirrorState::Broken("the secondary answered a write with an error".to_owned()),
        })
    }

    /// See [`crate::Machine::let_go`]. Safe to repeat from wherever it was left.
    pub async fn let_go(&self) -> Result<(), HostError> {
        let doing = format!("let go of the mirror of {}", self.what);
        let deadline = Instant::now() + LET_GO_LIMIT;
        let end = self.end(&doing);
        tokio::pin!(end);
        loop {
            self.yank(&doing).await?;
            let wait = YANK_AGAIN.min(deadline.saturating_duration_since(Instant::now()));
            if let Ok(ended) = tokio::time::timeout(wait, &mut end).await {
                return ended;
            }
            if Instant::now() >= deadline {
                return Err(HostError::TimedOut(format!(
                    "cannot {doing}: QEMU's main loop does not come back within {} s; end the machine and \
                     start it anew",
                    LET_GO_LIMIT.as_secs()
                )));
            }
        }
    }

    /// Makes the connection fail what it holds. There is nothing to yank while QEMU tries to reconnect; then
    /// ending the job does it.
    async fn yank(&self, doing: &str) -> Result<(), HostError> {
        let instances = json!([{ "type": "block-node", "node-name": self.names.remote() }]);
        match self.qmp.execute_out_of_band("yank", json!({ "instances": instances })).await {
            // Refused: no such node, that is, nothing to let go of.
            Ok(_) | Err(QmpError::Refused { .. }) => Ok(()),
            Err(error @ (QmpError::TimedOut { .. } | QmpError::Closed)) => Err(error.into_host(doing)),
        }
    }

    /// Whether every write that the guest was told of is on both replicas, and none is under way.
    pub async fn is_same(&self, doing: &str) -> Result<bool, HostError> {
        let job = self.job(doing).await?;
        Ok(job.is_some_and(|job| job.is_ready() && job.offset == job.len))
    }

    /// Where the mirror leads, as QEMU calls it; none without one.
    pub async fn remote(&self, doing: &str) -> Result<Option<(SocketAddr, ExportName)>, HostError> {
        let nodes = self.nodes(doing).await?;
        Ok(nodes.iter().find(|node| node.name == self.names.remote()).and_then(|node| parse(&node.file)))
    }

    /// The replica's file on this host, and its size in bytes.
    pub async fn local(&self, doing: &str) -> Result<(PathBuf, u64), HostError> {
        let nodes = self.nodes(doing).await?;
        let found = nodes.into_iter().find(|node| node.name == self.names.file());
        found.map(|node| (node.image.filename, node.image.size)).ok_or_else(|| {
            HostError::NotFound(format!("cannot {doing}: its machine has no disk of that name any more"))
        })
    }

    /// Brings the disk to rest, but for the odd write, until [`Self::go_on`]. Found at adoption, this counts
    /// as letting go that was begun.
    pub async fn rest(&self, doing: &str) -> Result<(), HostError> {
        self.throttle(THROTTLED, doing).await?;
        self.settle(doing).await
    }

    pub async fn go_on(&self, doing: &str) -> Result<(), HostError> {
        self.throttle(0, doing).await
    }

    /// Limits what the job copies by itself, bytes per second; 0: no limit.
    pub async fn limit(&self, bytes_per_second: u64) -> Result<(), HostError> {
        let speed = json!({ "device": self.names.job(), "speed": bytes_per_second });
        match self.qmp.execute("block-job-set-speed", speed).await {
            // Refused: there is no such job.
            Ok(_) | Err(QmpError::Refused { .. }) => Ok(()),
            Err(error @ (QmpError::TimedOut { .. } | QmpError::Closed)) => {
                Err(error.into_host(&format!("limit the filling of {}", self.what)))
            }
        }
    }

    /// Ends the job of a guest that stands still, and that can write to this disk no more.
    pub async fn end_at_rest(&self, doing: &str) -> Result<(), HostError> {
        self.cancel(doing).await
    }

    /// Whether letting go was begun, by this daemon or one before it, and not brought to its end.
    pub async fn is_half_let_go(&self) -> Result<bool, HostError> {
        self.is_throttled(&format!("look at {}", self.what)).await
    }

    /// Ends the job and removes the node, once the yank has been sent.
    async fn end(&self, doing: &str) -> Result<(), HostError> {
        if self.job_within(doing, LET_GO_LIMIT).await?.is_some() {
            self.throttle(THROTTLED, doing).await?;
            self.settle(doing).await?;
        }
        self.cancel(doing).await?;
        if self.is_throttled(doing).await? {
            self.throttle(0, doing).await?;
        }
        Changes::new(self.qmp, self.names, self.what).clear_helpers().await?;
        let exists = self.nodes(doing).await?.iter().any(|node| node.name == self.names.remote());
        if exists { self.remove_remote(doing).await } else { Ok(()) }
    }

    /// Ends the job, and returns when it is gone.
    async fn cancel(&self, doing: &str) -> Result<(), HostError> {
        let mut events = self.qmp.events();
        while self.job_within(doing, LET_GO_LIMIT).await?.is_some() {
            let cancel = json!({ "device": self.names.job(), "force": true });
            match self.qmp.execute_within("block-job-cancel", cancel, LET_GO_LIMIT).await {
                // Refused: it is ending already.
                Ok(_) | Err(QmpError::Refused { .. }) => {
                    drop(tokio::time::timeout(JOB_POLL, self.job_ended(&mut events)).await);
                }
                Err(error @ (QmpError::TimedOut { .. } | QmpError::Closed)) => {
                    return Err(error.into_host(doing));
                }
            }
        }
        Ok(())
    }

    /// Returns when QEMU says that the job has ended, or when its events cannot be heard.
    async fn job_ended(&self, events: &mut broadcast::Receiver<QmpEvent>) {
        while let Ok(event) = events.recv().await {
            let ends = matches!(event.name.as_str(), "BLOCK_JOB_CANCELLED" | "BLOCK_JOB_COMPLETED");
            if ends && event.data["device"] == self.names.job() {
                return;
            }
        }
    }

    /// Lets the disk write so many bytes a second; 0: as many as it can.
    async fn throttle(&self, bytes_per_second: u64, doing: &str) -> Result<(), HostError> {
        let limits = json!({
            "id": self.names.device_path(), "bps": 0, "bps_rd": 0, "bps_wr": bytes_per_second,
            "iops": 0, "iops_rd": 0, "iops_wr": 0,
        });
        let done = self.qmp.execute_within("block_set_io_throttle", limits, LET_GO_LIMIT).await;
        done.map(drop).map_err(|error| error.into_host(doing))
    }

    async fn is_throttled(&self, doing: &str) -> Result<bool, HostError> {
        let disks: Vec<Value> = understand(self.qmp.execute("query-block", json!({})).await, doing)?;
        let ours = disks.iter().find(|disk| disk["qdev"] == self.names.device_path());
        Ok(ours.is_some_and(|disk| disk["inserted"]["bps_wr"] == THROTTLED))
    }

    /// Waits until the writes that were under way have ended, but for those that are held.
    async fn settle(&self, doing: &str) -> Result<(), HostError> {
        let begun = Instant::now();
        let mut last = (self.writes_ended(doing).await?, Instant::now());
        while last.1.elapsed() < SETTLED_AFTER && begun.elapsed() < SETTLE_LIMIT {
            tokio::time::sleep(SETTLE_POLL).await;
            let ended = self.writes_ended(doing).await?;
            if ended != last.0 {
                last = (ended, Instant::now());
            }
        }
        Ok(())
    }

    async fn writes_ended(&self, doing: &str) -> Result<Option<u64>, HostError> {
        let disks: Vec<Value> = understand(self.qmp.execute("query-blockstats", json!({})).await, doing)?;
        let ours = disks.iter().find(|disk| disk["qdev"] == self.names.device_path());
        Ok(ours.and_then(|disk| disk["stats"]["wr_operations"].as_u64()))
    }

    async fn remove_remote(&self, doing: &str) -> Result<(), HostError> {
        let node = json!({ "node-name": self.names.remote() });
        match self.qmp.execute_within("blockdev-del", node, CHANGE_LIMIT).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.into_host(doing)),
        }
    }

    async fn job(&self, doing: &str) -> Result<Option<Job>, HostError> {
        self.job_within(doing, super::qmp::COMMAND_LIMIT).await
    }

    async fn job_within(&self, doing: &str, limit: Duration) -> Result<Option<Job>, HostError> {
        let answer = self.qmp.execute_within("query-block-jobs", json!({}), limit).await;
        let jobs: Vec<Value> = understand(answer, doing)?;
        // Other kinds of jobs may be of a form that this does not know.
        let ours = jobs.into_iter().find(|job| job["device"] == self.names.job());
        let job: Option<Job> =
            ours.map(serde_json::from_value).transpose().map_err(|error| odd(doing, &error))?;
        Ok(job.filter(|job| job.device == self.names.job()))
    }

    async fn nodes(&self, doing: &str) -> Result<Vec<Node>, HostError> {
        let answer = self.qmp.execute("query-named-block-nodes", json!({ "flat": true })).await;
        understand(answer, doing)
    }
}

pub(super) fn understand<T: serde::de::DeserializeOwned>(
    answer: Result<Value, QmpError>,
    doing: &str,
) -> Result<T, HostError> {
    let value = answer.map_err(|error| error.into_host(doing))?;
    serde_json::from_value(value).map_err(|error| odd(doing, &error))
}

fn odd(doing: &str, error: &serde_json::Error) -> HostError {
    HostError::Failed(format!("cannot {doing}: QEMU gave an answer of no known form: {error}"))
}

/// How QEMU calls an NBD node of that server and export. An IPv6 address has no brackets there.
fn address(target: SocketAddr, export: &ExportName) -> String {
    format!("nbd://{}:{}/{}", target.ip(), target.port(), export.as_str())
}

/// The other way round.
fn parse(address: &str) -> Option<(SocketAddr, ExportName)> {
    let (server, export) = address.strip_prefix("nbd://")?.split_once('/')?;
    let (host, port) = server.rsplit_once(':')?;
    let (volume, epoch, boot) = ExportName::parse(export)?;
    Some((SocketAddr::new(host.parse().ok()?, port.parse().ok()?), ExportName::new(volume, epoch, boot)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_qemu_says_of_a_target_is_understood() {
        let volume = "0192f0c4-1111-7222-8333-444455556666".parse().unwrap();
        let boot = "5f0c2b1e-2222-4333-8444-555566667777".parse().unwrap();
        let export = ExportName::new(volume, model::Epoch(7), boot);
        for target in ["10.0.0.2:7443", "[fd00::2]:7443"] {
            let target = target.parse().unwrap();
            assert_eq!(parse(&address(target, &export)), Some((target, export.clone())));
        }
    }
}
