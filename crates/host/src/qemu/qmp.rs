//! A client for QMP, QEMU's control protocol: one JSON object on each line of a unix socket
//! (docs/interop/qmp-spec.rst in QEMU's sources).
//!
//! Several commands can be in flight; each has an id, and its reply wakes whoever waits for that id. Events
//! go to everyone who has subscribed. Every wait has a limit, because QEMU's main loop can hang while a
//! mirror holds the guest's writes; *out of band* commands are answered by another thread of QEMU, even then.
//!
//! QEMU stops reading from the socket when eight commands wait in its queue, and with that it stops hearing
//! out of band commands, too. So a command holds its place among [`IN_FLIGHT_MAX`] until its reply has come,
//! also when nobody waits for that any more, and there is always room for an out of band command.
//!
//! A QMP socket serves one client at a time. Dropping the client closes the connection.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, oneshot, watch};

use crate::HostError;

/// How long an answer may take. QEMU answers in milliseconds, or its main loop hangs; under emulation on a
/// busy host it may be kept from running for a second or two.
pub(crate) const COMMAND_LIMIT: Duration = Duration::from_secs(5);

/// Commands that may be unanswered at once: half of QEMU's queue (`QMP_REQ_QUEUE_LEN_MAX`, 8).
const IN_FLIGHT_MAX: usize = 4;

/// Events that a slow subscriber may be behind before it is told that it missed some.
const EVENT_BACKLOG: usize = 256;

/// How often a socket that is not there yet is tried.
const CONNECT_POLL: Duration = Duration::from_millis(10);

/// Why a command brought no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QmpError {
    /// QEMU answered that it would not.
    #[error("{message}")]
    Refused { class: String, message: String },
    /// No answer in time; whether it was carried out is unknown.
    #[error("QEMU did not answer '{command}' within {} s", limit.as_secs())]
    TimedOut { command: String, limit: Duration },
    /// The connection is over: QEMU has ended, or closed it.
    #[error("the connection to QEMU is closed")]
    Closed,
}

impl QmpError {
    /// As an error for people; `doing` is an infinitive.
    pub fn into_host(self, doing: &str) -> HostError {
        let message = format!("cannot {doing}: {self}");
        match self {
            QmpError::Refused { .. } | QmpError::Closed => HostError::Failed(message),
            QmpError::TimedOut { .. } => HostError::TimedOut(message),
        }
    }
}

/// Something that happened, as QEMU tells it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct QmpEvent {
    /// As in `BLOCK_JOB_READY`.
    pub name: String,
    pub data: Value,
}

/// One connection to one QEMU.
#[derive(Debug)]
pub(crate) struct Qmp {
    shared: Arc<Shared>,
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    places: Arc<Semaphore>,
    next_id: AtomicU64,
    closed: watch::Receiver<bool>,
    reader: tokio::task::JoinHandle<()>,
    /// Whether QEMU takes out of band commands on this connection.
    out_of_band: bool,
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

#[derive(Debug)]
struct Shared {
    /// None once the connection is over.
    waiting: Mutex<Option<BTreeMap<u64, Waiting>>>,
    events: broadcast::Sender<QmpEvent>,
}

#[derive(Debug)]
struct Waiting {
    reply: oneshot::Sender<Result<Value, QmpError>>,
    /// Given back when the reply is here; see the module's documentation.
    _place: Option<OwnedSemaphorePermit>,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Option<BTreeMap<u64, Waiting>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What QEMU sends.
#[derive(Debug, Deserialize)]
struct Incoming {
    id: Option<u64>,
    #[serde(rename = "return")]
    result: Option<Value>,
    error: Option<Refusal>,
    event: Option<String>,
    data: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    class: String,
    desc: String,
}

#[derive(Debug, Deserialize)]
struct Greeting {
    #[serde(rename = "QMP")]
    qmp: GreetingBody,
}

#[derive(Debug, Deserialize)]
struct GreetingBody {
    #[serde(default)]
    capabilities: Vec<String>,
}

impl Qmp {
    /// Connects, waiting for the socket to appear and for QEMU to greet, all within `limit`. `alive` is
    /// asked between two tries whether that may still happen.
    pub async fn connect(
        socket: &Path,
        limit: Duration,
        alive: impl Fn() -> bool + Send,
    ) -> Result<Qmp, QmpError> {
        let late = || QmpError::TimedOut { command: "qmp_capabilities".to_owned(), limit };
        let deadline = Instant::now() + limit;
        let stream = loop {
            match UnixStream::connect(socket).await {
                Ok(stream) => break stream,
                Err(_) if !alive() => return Err(QmpError::Closed),
                Err(_) if Instant::now() > deadline => return Err(late()),
                Err(_) => tokio::time::sleep(CONNECT_POLL).await,
            }
        };
        let left = deadline.saturating_duration_since(Instant::now());
        tokio::time::timeout(left, Self::negotiate(stream, left)).await.unwrap_or_else(|_| Err(late()))
    }

    async fn negotiate(stream: UnixStream, limit: Duration) -> Result<Qmp, QmpError> {
        let (read, write) = stream.into_split();
        let mut lines = BufReader::new(read);
        let mut line = Vec::new();
        let length = lines.read_until(b'\n', &mut line).await.map_err(|_| QmpError::Closed)?;
        if length == 0 {
            return Err(QmpError::Closed);
        }
        let greeting: Greeting = serde_json::from_slice(&line).map_err(|_| QmpError::Closed)?;
        let out_of_band = greeting.qmp.capabilities.iter().any(|name| name == "oob");
        let shared = Arc::new(Shared {
            waiting: Mutex::new(Some(BTreeMap::new())),
            events: broadcast::channel(EVENT_BACKLOG).0,
        });
        let (closing, closed) = watch::channel(false);
        let reader = tokio::spawn(read_all(lines, Arc::clone(&shared), closing));
        let qmp = Qmp {
            shared,
            writer: tokio::sync::Mutex::new(write),
            places: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
            next_id: AtomicU64::new(1),
            closed,
            reader,
            out_of_band,
        };
        let enable: &[&str] = if out_of_band { &["oob"] } else { &[] };
        qmp.execute_within("qmp_capabilities", json!({ "enable": enable }), limit).await?;
        Ok(qmp)
    }

    /// Runs a command in QEMU's main loop.
    pub async fn execute(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.execute_within(command, arguments, COMMAND_LIMIT).await
    }

    pub async fn execute_within(
        &self,
        command: &str,
        arguments: Value,
        limit: Duration,
    ) -> Result<Value, QmpError> {
        let place = async {
            let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| QmpError::Closed)?;
            self.send("execute", command, arguments, Some(place)).await
        };
        self.within(command, limit, place).await
    }

    /// Runs a command in QEMU's monitor thread, which answers also while the main loop hangs.
    pub async fn execute_out_of_band(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        if !self.out_of_band {
            return self.execute(command, arguments).await;
        }
        self.within(command, COMMAND_LIMIT, self.send("exec-oob", command, arguments, None)).await
    }

    async fn within(
        &self,
        command: &str,
        limit: Duration,
        reply: impl Future<Output = Result<Value, QmpError>>,
    ) -> Result<Value, QmpError> {
        let late = |_| Err(QmpError::TimedOut { command: command.to_owned(), limit });
        let asked = Instant::now();
        let answer = tokio::time::timeout(limit, reply).await.unwrap_or_else(late);
        tracing::trace!(command, took_us = asked.elapsed().as_micros(), "QEMU answered");
        answer
    }

    async fn send(
        &self,
        how: &str,
        command: &str,
        arguments: Value,
        place: Option<OwnedSemaphorePermit>,
    ) -> Result<Value, QmpError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut message = json!({ how: command, "arguments": arguments, "id": id }).to_string();
        message.push('\n');
        let (reply, answer) = oneshot::channel();
        // The lock is taken before the entry is made: a caller that gives up while it waits for the lock
        // leaves no entry (and no taken place) for a command that was never sent.
        let mut writer = self.writer.lock().await;
        match self.shared.waiting().as_mut() {
            Some(waiting) => waiting.insert(id, Waiting { reply, _place: place }),
            None => return Err(QmpError::Closed),
        };
        if writer.write_all(message.as_bytes()).await.is_err() {
            return Err(QmpError::Closed);
        }
        drop(writer);
        answer.await.unwrap_or(Err(QmpError::Closed))
    }

    pub fn events(&self) -> broadcast::Receiver<QmpEvent> {
        self.shared.events.subscribe()
    }

    /// Returns when the connection is over.
    pub async fn closed(&self) {
        let mut closed = self.closed.clone();
        // An error says that the reader is gone, which is the same.
        let _ = closed.wait_for(|closed| *closed).await;
    }
}

/// Reads until the connection is over, and hands out what comes.
async fn read_all(mut lines: BufReader<OwnedReadHalf>, shared: Arc<Shared>, closing: watch::Sender<bool>) {
    let mut line = Vec::new();
    loop {
        line.clear();
        match lines.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => break,
            Ok(_) => match serde_json::from_slice::<Incoming>(&line) {
                Ok(incoming) => deliver(&shared, incoming),
                Err(error) => tracing::warn!(%error, "QEMU sent a line that is not QMP"),
            },
        }
    }
    // Dropping the senders answers everybody who waits.
    shared.waiting().take();
    // Nobody may be listening any more.
    let _ = closing.send(true);
}

fn deliver(shared: &Shared, incoming: Incoming) {
    if let Some(name) = incoming.event {
        let data = incoming.data.unwrap_or(Value::Null);
        // An error says that nobody has subscribed.
        let _ = shared.events.send(QmpEvent { name, data });
        return;
    }
    let result = match incoming.error {
        Some(refusal) => Err(QmpError::Refused { class: refusal.class, message: refusal.desc }),
        None => Ok(incoming.result.unwrap_or(Value::Null)),
    };
    let waiting = incoming.id.and_then(|id| shared.waiting().as_mut()?.remove(&id));
    match waiting {
        // An error says that whoever asked has given up.
        Some(waiting) => drop(waiting.reply.send(result)),
        None => tracing::warn!(id = incoming.id, "QEMU answered a command that nobody sent"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    const GREETING: &str = "{\"QMP\":{\"version\":{},\"capabilities\":[\"oob\"]}}\n";

    /// The other end of a connection, played by the test.
    struct Peer {
        lines: tokio::io::Lines<BufReader<OwnedReadHalf>>,
        write: OwnedWriteHalf,
    }

    impl Peer {
        async fn next(&mut self) -> Value {
            serde_json::from_str(&self.lines.next_line().await.unwrap().unwrap()).unwrap()
        }

        async fn say(&mut self, message: Value) {
            self.write.write_all(format!("{message}\n").as_bytes()).await.unwrap();
        }
    }

    async fn pair() -> (Qmp, Peer) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let peer = tokio::spawn(async move {
            let (read, mut write) = listener.accept().await.unwrap().0.into_split();
            write.write_all(GREETING.as_bytes()).await.unwrap();
            let mut peer = Peer { lines: BufReader::new(read).lines(), write };
            let hello = peer.next().await;
            assert_eq!(hello["arguments"]["enable"], json!(["oob"]));
            peer.say(json!({ "return": {}, "id": hello["id"] })).await;
            peer
        });
        let qmp = Qmp::connect(&path, COMMAND_LIMIT, || true).await.unwrap();
        (qmp, peer.await.unwrap())
    }

    #[tokio::test]
    async fn replies_may_come_in_any_order_and_events_in_between() {
        let (qmp, mut peer) = pair().await;
        let mut events = qmp.events();
        let play = async {
            let first = peer.next().await;
            let second = peer.next().await;
            peer.say(json!({ "return": 2, "id": second["id"] })).await;
            peer.say(json!({ "event": "RESUME", "timestamp": {} })).await;
            peer.say(json!({ "error": { "class": "GenericError", "desc": "no" }, "id": first["id"] })).await;
        };
        let (first, second, ()) =
            tokio::join!(qmp.execute("one", json!({})), qmp.execute("two", json!({})), play);
        assert_eq!(first.unwrap_err().to_string(), "no");
        assert_eq!(second, Ok(json!(2)));
        assert_eq!(events.recv().await.unwrap().name, "RESUME");
    }

    #[tokio::test]
    async fn a_hanging_main_loop_leaves_room_for_out_of_band_commands() {
        let (qmp, mut peer) = pair().await;
        let limit = Duration::from_millis(20);
        for _ in 0..IN_FLIGHT_MAX + 2 {
            let hung = qmp.execute_within("query-status", json!({}), limit).await;
            assert!(matches!(hung, Err(QmpError::TimedOut { .. })), "{hung:?}");
        }
        let play = async {
            for _ in 0..IN_FLIGHT_MAX {
                assert_eq!(peer.next().await["execute"], "query-status");
            }
            let yank = peer.next().await;
            assert_eq!(yank["exec-oob"], "yank");
            peer.say(json!({ "return": {}, "id": yank["id"] })).await;
        };
        let (yanked, ()) = tokio::join!(qmp.execute_out_of_band("yank", json!({})), play);
        assert_eq!(yanked, Ok(json!({})));
    }

    #[tokio::test]
    async fn the_end_of_the_connection_answers_everybody() {
        let (qmp, peer) = pair().await;
        let (answer, (), ()) =
            tokio::join!(qmp.execute("stop", json!({})), async { drop(peer) }, qmp.closed());
        assert_eq!(answer, Err(QmpError::Closed));
        assert_eq!(qmp.execute("cont", json!({})).await, Err(QmpError::Closed));
    }
}
