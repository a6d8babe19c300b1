//! Gives a mirror's target what it lacks after it was away, beside a running guest.
//!
//! The mirror is attached first, without a copy: every new write goes to both replicas. Then a task of this
//! daemon finds out what the target lacks: what the records (see [`super::changes`]) count as changed, or what
//! differs by the hashes of both replicas ([`crate::compare`]). It reads that from the local file, and writes it
//! to the secondary through a connection of its own. QEMU is asked for bitmaps only; the guest neither
//! waits for the copy nor can be hurt by its failure.
//!
//! A guest may write to a piece while it is being copied: what was read before the guest's write could reach
//! the secondary after it. So the copy goes by rounds. A bitmap of its own records the guest's writes during
//! a round; pieces that were both copied and written in it are copied again in the next one. QEMU sets the
//! bits when the local half of a write has ended, before it begins the remote half. Hence a stale piece can
//! only have overtaken a write whose bits were there before the copy was acknowledged, and they are read
//! after that. The round after which no piece is left is the last. Writes between two rounds need no bitmap:
//! the next round reads what they wrote.
//!
//! Pieces that the guest writes all the time would never be done with. After some rounds the disk is brought
//! to rest, as for letting go, and the last round is done then: about a tenth of a second.
//!
//! Not QEMU's `blockdev-backup`, although it does this in one command: when the secondary dies in the middle
//! of it, the job ends by itself, drains the disk on which the mirror holds writes, and with that hangs
//! QEMU's main loop (tried on 10.0); and it copies before the guest's writes, which fail when that copy does
//! (there is no `on-cbw-error` for it before 10.1).
//!
//! Reading a bitmap takes an export, and that changes QEMU's block graph, which hangs as well while a write is
//! held. So the secondary is asked for a sign of life before each change: milliseconds are left in which it
//! could die.
//!
//! The task dies with its daemon. The next one finds the replicas marked as unfilled, the records as they were,
//! and nobody who copies: the mirror is broken, and is let go of and attached anew.

use std::fs::File;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::changes::{Changes, ROUND, UNION};
use super::mirror::Mirror;
use super::names::Names;
use super::qmp::{Qmp, QmpError};
use super::tls::TlsFiles;
use crate::compare::{Compare, Compared, Hashes, Pace, add};
use crate::replica::nbd::{Handshake, Server};
use crate::replica::{FileFacts, Replica, ReplicaClient, Served};
use crate::{ExportName, HostError, MirrorState};

/// Bytes that are sent in one request, and that are read before they are sent.
const PIECE: u64 = 256 << 10;
const BATCH: u64 = 8 * PIECE;

/// How long a new mirror may take to be ready; nothing is copied for that.
const READY_LIMIT: Duration = Duration::from_secs(10);
const READY_POLL: Duration = Duration::from_millis(5);

/// Rounds beside the running guest, before its disk is brought to rest.
const ROUNDS: u32 = 4;

/// How long the disk may rest.
const REST_LIMIT: Duration = Duration::from_secs(5);

/// How long reading a bitmap may take.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// How far it is; shared between the task and whoever looks.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    done: AtomicU64,
    total: AtomicU64,
    sent: AtomicU64,
    pub pace: Arc<Pace>,
    failed: Mutex<Option<String>>,
}

impl Progress {
    pub fn state(&self) -> MirrorState {
        match &*self.failed.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(why) => MirrorState::Broken(why.clone()),
            None => MirrorState::Filling {
                done: self.done.load(Ordering::Relaxed),
                total: self.total.load(Ordering::Relaxed),
            },
        }
    }

    /// Bytes that went over the network.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn fail(&self, error: &HostError) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
    }
}

/// One resync, from before its mirror is attached.
#[derive(Debug, Default)]
pub(crate) struct Resync {
    pub progress: Arc<Progress>,
    task: Option<JoinHandle<()>>,
}

impl Resync {
    /// Begins to copy; `ended` is called at the end, however it ends.
    pub fn begin(copy: Copy, limit: u64, ended: impl FnOnce() + Send + 'static) -> Resync {
        let shown = Arc::new(Progress::default());
        shown.pace.set(limit);
        let progress = Arc::clone(&shown);
        let task = tokio::spawn(async move {
            if let Err(error) = copy.run(&progress).await {
                tracing::warn!(%error, volume = copy.what, "a resync failed");
                progress.fail(&error);
            }
            ended();
        });
        Resync { progress: shown, task: Some(task) }
    }

    /// Ends it where it is, and returns when it does nothing any more.
    pub async fn end(mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // An error says that it was aborted.
            drop(task.await);
        }
    }
}

impl Drop for Resync {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// What is copied, and how.
#[derive(Debug)]
pub(crate) struct Copy {
    pub qmp: Arc<Qmp>,
    pub names: Names,
    /// How messages call the volume.
    pub what: String,
    /// Where QEMU serves its bitmaps.
    pub socket: PathBuf,
    pub target: SocketAddr,
    pub export: ExportName,
    pub tls: Option<TlsFiles>,
    /// Tells what the target holds. None: it holds everything but what is recorded.
    pub theirs: Option<Arc<dyn Hashes>>,
}

impl Copy {
    fn changes(&self) -> Changes<'_> {
        Changes::new(&self.qmp, self.names, &self.what)
    }

    fn mirror(&self) -> Mirror<'_> {
        Mirror::new(&self.qmp, self.names, &self.what)
    }

    async fn run(&self, progress: &Progress) -> Result<(), HostError> {
        let doing = format!("send {} what it lacks of {}", self.target, self.what);
        self.wait_until_mirrored(&doing).await?;
        self.start_server(&doing).await?;
        let (path, size) = self.mirror().local(&doing).await?;
        let file = File::open(&path)
            .map_err(|error| HostError::Failed(format!("cannot {doing}: {}: {error}", path.display())))?;
        let replica = ReplicaClient::new(self.tls.clone()).open(self.target, &self.export).await?;
        let theirs = self.look().await?.file;
        let changes = self.changes();
        let todo = match &self.theirs {
            Some(theirs) => self.compare(&path, size, theirs, progress).await?,
            None => {
                let record = changes.tracked().await?.map(|tracked| tracked.replica.file);
                if record.is_none() || record != theirs.as_ref().map(|theirs| theirs.id.clone()) {
                    return Err(HostError::Failed(format!(
                        "cannot {doing}: what was recorded is not about the file that is served there"
                    )));
                }
                changes.unite(&doing).await?;
                let recorded = self.read(UNION, &doing).await?;
                changes.remove(UNION, &doing).await?;
                recorded
            }
        };
        let mut rounds = Rounds { copy: self, progress, file: Arc::new(file), replica, todo, doing: &doing };
        if !rounds.some(ROUNDS).await? {
            let rested = match self.mirror().rest(&doing).await {
                Ok(()) => tokio::time::timeout(REST_LIMIT, rounds.some(u32::MAX)).await,
                Err(error) => Ok(Err(error)),
            };
            self.mirror().go_on(&doing).await?;
            rested
                .map_err(|_| HostError::TimedOut(format!("cannot {doing}: the secondary is too slow")))??;
        }
        // A connection that broke comes back to whatever is served under that name by then.
        let same = |now: FileFacts| theirs.as_ref().map(|before| &before.id) == Some(&now.id);
        if theirs.is_some() && !self.look().await?.file.is_some_and(same) {
            return Err(HostError::Failed(format!("cannot {doing}: another file is served there now")));
        }
        changes.mark_filled().await
    }

    /// What differs. With the mirror attached, and so no piece that is alike ever differs again.
    async fn compare(
        &self,
        path: &Path,
        size: u64,
        theirs: &Arc<dyn Hashes>,
        progress: &Progress,
    ) -> Result<Vec<Range<u64>>, HostError> {
        progress.total.store(size, Ordering::Relaxed);
        let whole = std::slice::from_ref(&(0..size)).to_vec();
        let mut compare = Compare::new(path, &whole, Arc::clone(theirs), Arc::clone(&progress.pace))?;
        let mut todo = Vec::new();
        while let Some(Compared { range, unlike, .. }) = compare.next().await? {
            progress.done.fetch_add(length(&[range]), Ordering::Relaxed);
            unlike.into_iter().for_each(|range| add(&mut todo, range));
        }
        Ok(todo)
    }

    async fn wait_until_mirrored(&self, doing: &str) -> Result<(), HostError> {
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            match self.mirror().state().await? {
                MirrorState::Ready => return Ok(()),
                MirrorState::Filling { .. } if Instant::now() < deadline => {}
                state @ (MirrorState::Filling { .. } | MirrorState::Absent | MirrorState::Broken(_)) => {
                    return Err(HostError::Failed(format!("cannot {doing}: the mirror is {state:?}")));
                }
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }

    async fn start_server(&self, doing: &str) -> Result<(), HostError> {
        let address = json!({ "addr": { "type": "unix", "data": { "path": self.socket } } });
        match self.qmp.execute("nbd-server-start", address).await {
            Ok(_) => Ok(()),
            // It was started for an earlier resync.
            Err(QmpError::Refused { message, .. }) if message.contains("already running") => Ok(()),
            Err(error) => Err(error.into_host(doing)),
        }
    }

    /// Which bytes a bitmap counts. It must not be recording.
    async fn read(&self, bitmap: &str, doing: &str) -> Result<Vec<Range<u64>>, HostError> {
        self.look().await?;
        self.changes().begin_export(bitmap, doing).await?;
        let name = self.names.export();
        let asked = async { Handshake::begin(Server::Unix(&self.socket)).await?.dirty(&name, bitmap).await };
        let dirty = match tokio::time::timeout(READ_LIMIT, asked).await {
            Ok(Ok(dirty)) => Ok(dirty),
            Ok(Err(error)) => {
                Err(HostError::Failed(format!("cannot {doing}: cannot read a bitmap from QEMU: {error}")))
            }
            Err(_) => Err(HostError::TimedOut(format!("cannot {doing}: QEMU does not serve a bitmap"))),
        };
        self.look().await?;
        self.changes().end_export(doing).await?;
        dirty
    }

    /// Sees that the secondary lives, before something that would hang QEMU if it did not.
    async fn look(&self) -> Result<Served, HostError> {
        ReplicaClient::new(self.tls.clone()).ask_about(self.target, &self.export).await
    }
}

struct Rounds<'a> {
    copy: &'a Copy,
    progress: &'a Progress,
    file: Arc<File>,
    replica: Replica,
    todo: Vec<Range<u64>>,
    doing: &'a str,
}

impl Rounds<'_> {
    /// Does so many rounds at most. True: nothing is left.
    async fn some(&mut self, most: u32) -> Result<bool, HostError> {
        let changes = self.copy.changes();
        for _ in 0..most {
            self.progress.total.fetch_add(length(&self.todo), Ordering::Relaxed);
            changes.add(ROUND, true, self.doing).await?;
            self.send().await?;
            changes.freeze(ROUND, self.doing).await?;
            // Reading lets writes pass that are throttled, and so a round at rest does without.
            let written = match changes.count(ROUND, self.doing).await? {
                0 => Vec::new(),
                _ => self.copy.read(ROUND, self.doing).await?,
            };
            changes.remove(ROUND, self.doing).await?;
            self.todo = common(&self.todo, &written);
            if self.todo.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sends everything that is to be done.
    async fn send(&mut self) -> Result<(), HostError> {
        let begun = Instant::now();
        let mut sent = 0;
        for batch in batches(&self.todo) {
            let bytes = length(&batch);
            let file = Arc::clone(&self.file);
            let pieces = crate::blocking(move || read_pieces(&file, batch)).await?;
            self.replica.write(&pieces).await?;
            sent += bytes;
            self.progress.done.fetch_add(bytes, Ordering::Relaxed);
            self.progress.sent.fetch_add(bytes, Ordering::Relaxed);
            self.progress.pace.keep(sent, begun).await;
        }
        Ok(())
    }
}

fn read_pieces(file: &File, pieces: Vec<Range<u64>>) -> Result<Vec<(u64, Vec<u8>)>, HostError> {
    let read = |piece: Range<u64>| {
        let mut data = vec![0; usize::try_from(piece.end - piece.start).map_err(std::io::Error::other)?];
        file.read_exact_at(&mut data, piece.start)?;
        Ok((piece.start, data))
    };
    let all: std::io::Result<Vec<_>> = pieces.into_iter().map(read).collect();
    all.map_err(|error| HostError::Failed(format!("cannot read the local replica: {error}")))
}

/// The same bytes in pieces, and those in batches.
fn batches(ranges: &[Range<u64>]) -> Vec<Vec<Range<u64>>> {
    let mut batches: Vec<Vec<Range<u64>>> = Vec::new();
    let mut room = 0;
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let end = (at + PIECE).min(range.end);
            if room < end - at {
                batches.push(Vec::new());
                room = BATCH;
            }
            if let Some(batch) = batches.last_mut() {
                batch.push(at..end);
            }
            room -= end - at;
            at = end;
        }
    }
    batches
}

fn length(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// What is in both of two ordered lists.
fn common(one: &[Range<u64>], other: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    let (mut ours, mut theirs) = (one.iter().peekable(), other.iter().peekable());
    while let (Some(a), Some(b)) = (ours.peek(), theirs.peek()) {
        let both = a.start.max(b.start)..a.end.min(b.end);
        if a.end < b.end {
            ours.next();
        } else {
            theirs.next();
        }
        if both.start < both.end {
            found.push(both);
        }
    }
    found
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "lists of one range are meant")]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_in_both_lists_is_common() {
        assert_eq!(common(&[0..10, 20..30], &[5..25]), [5..10, 20..25]);
        assert_eq!(common(&[5..25], &[0..10, 20..30]), [5..10, 20..25]);
        assert_eq!(common(&[0..10], &[10..20]), []);
        assert_eq!(common(&[], &[10..20]), []);
        assert_eq!(common(&[0..10, 10..20], &[0..20]), [0..10, 10..20]);
    }

    #[test]
    fn batches_hold_everything_once_and_not_too_much_at_a_time() {
        let ranges = [0..3 * BATCH + 1, 10 * BATCH..10 * BATCH + PIECE];
        let batches = batches(&ranges);
        assert_eq!(length(&batches.concat()), length(&ranges));
        assert!(batches.iter().all(|batch| !batch.is_empty() && length(batch) <= BATCH));
        assert!(batches.concat().iter().all(|piece| piece.end - piece.start <= PIECE));
        assert!(batches.concat().windows(2).all(|pair| pair[0].end <= pair[1].start));
    }
}
