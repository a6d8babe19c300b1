//! Secondary replicas, served to the hosts whose guests write them.
//!
//! One `qemu-storage-daemon` on each host serves all of its secondaries over NBD. Like a machine it runs in
//! a session of its own and outlives this daemon; it is found again by its control socket's path, and what it
//! serves is read from itself, so that nothing about it is kept elsewhere.
//!
//! A replica is a `raw` node over a raw file, opened through the page cache: what was acknowledged outlives
//! the storage daemon, and is lost when the host goes down before a flush (rule 6 of the design: a secondary
//! counts only in the boot in which it acknowledged). [`ReplicaServer::withdraw`] flushes.
//!
//! With certificates ([`TlsFiles`]) the server demands TLS and a certificate of the same authority from every
//! client. It reads them when it starts. One that was started without them, or with them, when it should be
//! the other way round, is ended and started anew.
//!
//! When the storage daemon dies, the primaries hold their guests' writes. It is started anew at the next
//! call, serving nothing; once the caller has asked for the same exports again, the primaries reconnect and
//! go on by themselves. An export's name holds epoch and boot, so a primary of an older epoch finds no export
//! of its name any more, and goes on holding.

mod client;
mod file;
pub(crate) mod nbd;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use model::{BootId, Epoch, VolumeId};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

pub(crate) use client::Replica;
pub use client::{ReplicaClient, Served, ask, probe};
pub use file::FileFacts;

use crate::compare::{PieceHash, hash_pieces};
use crate::qemu::process::{self, ProcessHandle, ProcessId};
use crate::qemu::qmp::{Qmp, QmpError};
use crate::qemu::tls;
use crate::qemu::{RunAs, TlsFiles};
use crate::{ExportName, HostError, ReplicaServer};

const PACKAGE: &str = "qemu-utils";

/// How long the storage daemon may take to answer after its start, and to its adopter.
const START_LIMIT: Duration = Duration::from_secs(15);
const ADOPT_LIMIT: Duration = Duration::from_secs(5);

/// How long an export may take to end: writes that it has begun are finished first.
const WITHDRAW_LIMIT: Duration = Duration::from_secs(10);

/// How often the end of an export is looked for, besides its event.
const WITHDRAW_POLL: Duration = Duration::from_millis(50);

/// Begins the id of each export; QEMU's ids begin with a letter.
const ID_PREFIX: &str = "replica-";

/// Where replicas are served, and by what.
#[derive(Debug, Clone)]
pub struct ReplicaConfig {
    /// Holds the control socket; absolute, and lost when the host boots.
    pub run_dir: PathBuf,
    pub listen: SocketAddr,
    /// A path, or a name to be looked up.
    pub binary: PathBuf,
    /// The user that the storage daemon runs as; replicas are given to it. None: this process's own.
    pub run_as: Option<RunAs>,
    /// Clients must show a certificate of the same authority; none: anybody is let in, in the clear.
    pub tls: Option<TlsFiles>,
}

impl ReplicaConfig {
    pub fn new(run_dir: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        Self {
            run_dir: run_dir.into(),
            listen,
            binary: PathBuf::from("qemu-storage-daemon"),
            run_as: None,
            tls: None,
        }
    }
}

impl ExportName {
    /// What a name says, if it is one of ours.
    pub fn parse(name: &str) -> Option<(VolumeId, Epoch, BootId)> {
        let mut parts = name.split('.');
        let volume = parts.next()?.parse().ok()?;
        let epoch = Epoch(parts.next()?.parse().ok()?);
        let boot = parts.next()?.parse().ok()?;
        parts.next().is_none().then_some((volume, epoch, boot))
    }
}

/// The server of this host's secondary replicas.
#[derive(Debug)]
pub struct StorageDaemon {
    config: ReplicaConfig,
    /// None before the first call. Also keeps calls one after the other.
    running: Mutex<Option<Running>>,
    /// Replicas whose flush failed. The kernel reports that once, and would call a second flush a success.
    lost_writes: std::sync::Mutex<BTreeMap<VolumeId, HostError>>,
}

#[derive(Debug)]
struct Running {
    process: ProcessHandle,
    qmp: Qmp,
}

#[derive(Debug, Deserialize)]
struct Export {
    id: String,
    #[serde(rename = "node-name")]
    node: String,
}

#[derive(Debug, Deserialize)]
struct Node {
    #[serde(rename = "node-name")]
    name: String,
    image: NodeImage,
    /// As it was opened: `unmap` for a thin one.
    #[serde(default)]
    detect_zeroes: String,
}

#[derive(Debug, Deserialize)]
struct NodeImage {
    filename: PathBuf,
}

/// The nodes of one volume, named as in the machines (see `qemu::names`).
fn file_node(volume: VolumeId) -> String {
    format!("file-{}", &volume.0.simple().to_string()[16..])
}

fn replica_node(volume: VolumeId) -> String {
    format!("rep-{}", &volume.0.simple().to_string()[16..])
}

impl StorageDaemon {
    /// Starts nothing yet.
    pub fn new(config: ReplicaConfig) -> Self {
        Self { config, running: Mutex::new(None), lost_writes: std::sync::Mutex::default() }
    }

    fn lost_writes(&self) -> MutexGuard<'_, BTreeMap<VolumeId, HostError>> {
        self.lost_writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folder(&self) -> PathBuf {
        self.config.run_dir.join("replicas")
    }

    fn chardev(&self) -> String {
        crate::qemu::qmp_chardev(&self.folder().join("qmp.sock"))
    }

    /// Makes sure that the storage daemon runs and answers.
    async fn ensure(&self, slot: &mut Option<Running>) -> Result<(), HostError> {
        if let Some(running) = slot.as_ref() {
            let asked = running.qmp.execute("query-block-exports", json!({})).await;
            if asked.is_ok() && !running.process.is_gone() {
                return Ok(());
            }
            *slot = None;
        }
        *slot = match self.adopt().await? {
            Some(running) => Some(running),
            None => Some(self.start().await?),
        };
        Ok(())
    }

    /// The one that runs already. One that does not answer is ended: nobody could withdraw its exports.
    async fn adopt(&self) -> Result<Option<Running>, HostError> {
        let socket = self.folder().join("qmp.sock");
        let mut adopted = None;
        for (id, arguments) in process::find(&self.chardev()) {
            if !arguments.contains(&self.chardev()) {
                continue;
            }
            let Some(process) = ProcessHandle::open(id) else { continue };
            let same_place = arguments.contains(&self.server_option());
            let connected = match adopted {
                None if same_place => Qmp::connect(&socket, ADOPT_LIMIT, || !process.is_gone()).await.ok(),
                None | Some(_) => None,
            };
            match connected {
                Some(qmp) => adopted = Some(Running { process, qmp }),
                None => {
                    tracing::warn!(pid = id.pid, same_place, "a storage daemon is not usable, and is ended");
                    process.kill("the storage daemon").await?;
                }
            }
        }
        Ok(adopted)
    }

    fn server_option(&self) -> String {
        let listen = self.config.listen;
        let (host, port) = (listen.ip(), listen.port());
        let credentials = match &self.config.tls {
            Some(files) => format!(",tls-creds={}", tls::server_object(files).1),
            None => String::new(),
        };
        format!("addr.type=inet,addr.host={host},addr.port={port},max-connections=0{credentials}")
    }

    async fn start(&self) -> Result<Running, HostError> {
        let folder = self.folder();
        std::fs::create_dir_all(&folder).map_err(|error| {
            HostError::Failed(format!("cannot make the folder {}: {error}", folder.display()))
        })?;
        process::give_to(&folder, self.config.run_as)?;
        let chardev = self.chardev();
        let server = self.server_option();
        let mut arguments = Vec::new();
        if let Some(files) = &self.config.tls {
            arguments.extend(["--object".to_owned(), tls::server_object(files).0]);
        }
        let rest = ["--chardev", &chardev, "--monitor", "chardev=qmp", "--nbd-server", &server];
        arguments.extend(rest.map(str::to_owned));
        let log = folder.join("storage-daemon.log");
        // The log of an earlier one is of no use, and would grow.
        drop(std::fs::remove_file(&log));
        let mut child = process::spawn(&self.config.binary, &arguments, &log, self.config.run_as, PACKAGE)?;
        let id = child.id().and_then(|pid| ProcessId::of(pid.try_into().ok()?));
        let process = id.and_then(ProcessHandle::open).ok_or_else(|| self.did_not_start(&log))?;
        // Somebody must wait for a child, or it stays as a zombie.
        tokio::spawn(async move { child.wait().await });
        let socket = folder.join("qmp.sock");
        match Qmp::connect(&socket, START_LIMIT, || !process.is_gone()).await {
            Ok(qmp) => Ok(Running { process, qmp }),
            Err(error) => {
                tracing::debug!(%error, "the storage daemon did not start");
                process.kill("the storage daemon").await?;
                Err(self.did_not_start(&log))
            }
        }
    }

    fn did_not_start(&self, log: &Path) -> HostError {
        HostError::Failed(format!(
            "cannot serve replicas on {}: the storage daemon says: {}; see whether that address is this \
             host's and its port is free",
            self.config.listen,
            process::log_tail(log)
        ))
    }

    async fn serve_new(
        &self,
        qmp: &Qmp,
        volume: VolumeId,
        export: &ExportName,
        path: &Path,
        thin: bool,
    ) -> Result<(), HostError> {
        let doing = format!("serve the replica of volume {volume}");
        let facts = match std::fs::File::open(path).and_then(|file| FileFacts::of(&file)) {
            Ok(facts) => facts,
            Err(error) => {
                return Err(HostError::NotFound(format!("cannot {doing}: {}: {error}", path.display())));
            }
        };
        process::give_to(path, self.config.run_as)?;
        let file = json!({
            "driver": "file", "node-name": file_node(volume), "filename": path, "aio": "threads",
            "locking": "on", "discard": if thin { "unmap" } else { "ignore" },
            "cache": { "direct": false, "no-flush": false },
        });
        // The mirror sends zeroes as any other data.
        let raw = json!({
            "driver": "raw", "node-name": replica_node(volume), "file": file_node(volume),
            "discard": if thin { "unmap" } else { "ignore" }, "detect-zeroes": if thin { "unmap" } else { "off" },
        });
        let mut serve = json!({
            "type": "nbd", "id": format!("{ID_PREFIX}{}", export.as_str()), "node-name": replica_node(volume),
            "name": export.as_str(), "writable": true,
        });
        if let Some(facts) = facts {
            serve["description"] = facts.to_string().into();
        }
        for (command, arguments) in
            [("blockdev-add", file), ("blockdev-add", raw), ("block-export-add", serve)]
        {
            if let Err(error) = qmp.execute(command, arguments).await {
                if let Err(again) = remove_nodes(qmp, volume, &doing).await {
                    tracing::warn!(error = %again, %volume, "cannot clean up after a replica that is not served");
                }
                return Err(error.into_host(&doing));
            }
        }
        Ok(())
    }
}

async fn query_exports(qmp: &Qmp) -> Result<BTreeMap<ExportName, Export>, HostError> {
    let exports: Vec<Export> = query(qmp, "query-block-exports", "see which replicas are served").await?;
    let ours = exports.into_iter().filter_map(|export| {
        let (volume, epoch, boot) = ExportName::parse(export.id.strip_prefix(ID_PREFIX)?)?;
        Some((ExportName::new(volume, epoch, boot), export))
    });
    Ok(ours.collect())
}

async fn all_nodes(qmp: &Qmp) -> Result<Vec<Node>, HostError> {
    query(qmp, "query-named-block-nodes", "see which replicas are open").await
}

/// Whether what is served of a volume gives back the room of zeroes.
async fn is_thin(qmp: &Qmp, volume: VolumeId) -> Result<bool, HostError> {
    let name = replica_node(volume);
    Ok(all_nodes(qmp).await?.iter().any(|node| node.name == name && node.detect_zeroes == "unmap"))
}

async fn query_nodes(qmp: &Qmp) -> Result<BTreeMap<String, PathBuf>, HostError> {
    Ok(all_nodes(qmp).await?.into_iter().map(|node| (node.name, node.image.filename)).collect())
}

/// The file that is served under that name.
async fn served_file(qmp: &Qmp, volume: VolumeId, export: &ExportName) -> Result<PathBuf, HostError> {
    let (served, mut nodes) = tokio::try_join!(query_exports(qmp), query_nodes(qmp))?;
    let open = nodes.remove(&file_node(volume)).filter(|_| served.contains_key(export));
    let not_served = || format!("this host does not serve {}; serve it first", export.as_str());
    open.ok_or_else(|| HostError::NotFound(not_served()))
}

async fn query<T: serde::de::DeserializeOwned>(
    qmp: &Qmp,
    command: &str,
    doing: &str,
) -> Result<T, HostError> {
    let answer: Value = qmp.execute(command, json!({})).await.map_err(|error| error.into_host(doing))?;
    serde_json::from_value(answer).map_err(|error| {
        HostError::Failed(format!("cannot {doing}: the storage daemon's answer has no known form: {error}"))
    })
}

/// Ends every export of a volume, and returns when none is left and its nodes are closed. Gives the file
/// that was open, if one was.
async fn end_exports(qmp: &Qmp, volume: VolumeId) -> Result<Option<PathBuf>, HostError> {
    let doing = format!("withdraw the replica of volume {volume}");
    let mut events = qmp.events();
    let deadline = tokio::time::Instant::now() + WITHDRAW_LIMIT;
    loop {
        let mut left: Vec<Export> = query_exports(qmp).await?.into_values().collect();
        left.retain(|export| export.node == replica_node(volume));
        if left.is_empty() {
            break;
        }
        for export in left {
            let delete = json!({ "id": export.id, "mode": "hard" });
            match qmp.execute("block-export-del", delete).await {
                // Refused: it is ending already.
                Ok(_) | Err(QmpError::Refused { .. }) => {}
                Err(error) => return Err(error.into_host(&doing)),
            }
        }
        if tokio::time::Instant::now() > deadline {
            return Err(HostError::TimedOut(format!(
                "cannot {doing}: its writes do not end within {} s; see whether this host's disk answers",
                WITHDRAW_LIMIT.as_secs()
            )));
        }
        // Any event, or a while: the exports are looked at again either way.
        drop(tokio::time::timeout(WITHDRAW_POLL, events.recv()).await);
    }
    remove_nodes(qmp, volume, &doing).await
}

/// Gives the file that was open, if one was.
async fn remove_nodes(qmp: &Qmp, volume: VolumeId, doing: &str) -> Result<Option<PathBuf>, HostError> {
    let mut nodes = query_nodes(qmp).await?;
    for node in [replica_node(volume), file_node(volume)] {
        if nodes.contains_key(&node) {
            let removed = qmp.execute("blockdev-del", json!({ "node-name": node })).await;
            removed.map_err(|error| error.into_host(doing))?;
        }
    }
    Ok(nodes.remove(&file_node(volume)))
}

async fn flush(path: PathBuf) -> Result<(), HostError> {
    let shown = path.display().to_string();
    let flushed = tokio::task::spawn_blocking(move || std::fs::File::open(path)?.sync_all()).await;
    let result = flushed.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    result.map_err(|error| HostError::Failed(format!("cannot flush the replica {shown}: {error}")))
}

#[async_trait]
impl ReplicaServer for StorageDaemon {
    async fn exports(&self) -> Result<Vec<(VolumeId, ExportName)>, HostError> {
        let mut slot = self.running.lock().await;
        self.ensure(&mut slot).await?;
        let Some(running) = slot.as_ref() else { return Ok(Vec::new()) };
        let exports = query_exports(&running.qmp).await?;
        let names = exports.into_keys();
        Ok(names.filter_map(|name| Some((ExportName::parse(name.as_str())?.0, name))).collect())
    }

    async fn serve_as(
        &self,
        volume: VolumeId,
        export: &ExportName,
        path: PathBuf,
        thin: bool,
    ) -> Result<(), HostError> {
        let mut slot = self.running.lock().await;
        self.ensure(&mut slot).await?;
        let Some(running) = slot.as_ref() else { return Ok(()) };
        let qmp = &running.qmp;
        let (served, nodes) = tokio::try_join!(query_exports(qmp), query_nodes(qmp))?;
        let open = nodes.get(&file_node(volume));
        if served.contains_key(export) && open == Some(&path) {
            return Ok(());
        }
        // A guest that has just left may be waiting for this.
        if open.is_some() {
            end_exports(qmp, volume).await?;
        }
        // What it held before is of no more interest: its new writer fills it.
        self.lost_writes().remove(&volume);
        self.serve_new(qmp, volume, export, &path, thin).await
    }

    async fn end_connections(&self, volume: VolumeId, export: &ExportName) -> Result<(), HostError> {
        let mut slot = self.running.lock().await;
        self.ensure(&mut slot).await?;
        let Some(running) = slot.as_ref() else { return Ok(()) };
        let path = served_file(&running.qmp, volume, export).await?;
        let thin = is_thin(&running.qmp, volume).await?;
        end_exports(&running.qmp, volume).await?;
        self.serve_new(&running.qmp, volume, export, &path, thin).await
    }

    async fn hashes(
        &self,
        volume: VolumeId,
        export: &ExportName,
        range: Range<u64>,
    ) -> Result<Vec<PieceHash>, HostError> {
        let mut slot = self.running.lock().await;
        self.ensure(&mut slot).await?;
        let Some(running) = slot.as_ref() else { return Ok(Vec::new()) };
        let path = served_file(&running.qmp, volume, export).await?;
        // Reading may take long, and nobody else need wait for it.
        drop(slot);
        // The storage daemon writes through the page cache, so this reads what it has acknowledged.
        crate::blocking(move || {
            let hashed = std::fs::File::open(&path).and_then(|file| hash_pieces(&file, range));
            hashed.map_err(|error| {
                HostError::Failed(format!("cannot read the replica {}: {error}", path.display()))
            })
        })
        .await
    }

    async fn flush(&self, volume: VolumeId) -> Result<(), HostError> {
        let mut slot = self.running.lock().await;
        self.ensure(&mut slot).await?;
        let Some(running) = slot.as_ref() else { return Ok(()) };
        let Some(path) = query_nodes(&running.qmp).await?.remove(&file_node(volume)) else { return Ok(()) };
        // A flush may take long, and nobody else need wait for it.
        drop(slot);
        flush(path).await.inspect_err(|error| {
            self.lost_writes().insert(volume, error.clone());
        })
    }

    async fn withdraw(&self, volume: VolumeId) -> Result<(), HostError> {
        let mut slot = self.running.lock().await;
        self.ensure(&mut slot).await?;
        let Some(running) = slot.as_ref() else { return Ok(()) };
        let Some(path) = end_exports(&running.qmp, volume).await? else {
            return self.lost_writes().get(&volume).cloned().map_or(Ok(()), Err);
        };
        flush(path).await.inspect_err(|error| {
            self.lost_writes().insert(volume, error.clone());
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_name_says_what_it_is_of() {
        let volume: VolumeId = "0192f0c4-1111-7222-8333-444455556666".parse().unwrap();
        let boot: BootId = "5f0c2b1e-2222-4333-8444-555566667777".parse().unwrap();
        let name = ExportName::new(volume, Epoch(7), boot);
        assert_eq!(ExportName::parse(name.as_str()), Some((volume, Epoch(7), boot)));
        assert_eq!(ExportName::parse("disk.7"), None);
        assert_eq!(ExportName::parse(&format!("{}.more", name.as_str())), None);
    }
}
