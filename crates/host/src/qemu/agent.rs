//! Programs run inside a guest, through its guest agent (docs/interop/qemu-ga.rst in QEMU's sources).
//!
//! The agent reads JSON from a virtio-serial port, and the port remembers nothing: what an earlier client
//! left half said is still in it. So each connection begins with `guest-sync-delimited`: a byte that can
//! never be JSON makes the agent forget what it was reading, and the agent's answer begins with that byte
//! and carries a number of ours.
//!
//! The connection is kept for the machine's life and used for one command at a time; a program that runs
//! for long is asked after in between, so that others can run beside it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use model::GuestName;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use crate::{ExecResult, HostError};

/// How long the agent may take to answer; a busy emulated guest takes a second or two.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// How long a program may run.
const PROGRAM_LIMIT: Duration = Duration::from_secs(3600);

/// How soon, and how seldom at last, a running program is asked after.
const POLL_FIRST: Duration = Duration::from_millis(10);
const POLL_LAST: Duration = Duration::from_millis(500);

/// What the agent takes in one message; it drops the connection's data beyond a few MiB.
const INPUT_MAX: usize = 1 << 20;

/// Begins a conversation anew; it is never part of JSON.
const DELIMITER: u8 = 0xff;

/// How a shell reports a program that a signal ended: 128 and the signal's number.
const SIGNAL_STATUS: i32 = 128;

/// The way to one guest's agent.
#[derive(Debug)]
pub(crate) struct GuestAgent {
    guest: GuestName,
    socket: PathBuf,
    connection: Mutex<Option<BufReader<UnixStream>>>,
    next_sync: AtomicU64,
}

#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(rename = "return")]
    result: Option<Value>,
    error: Option<Refusal>,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    desc: String,
}

impl Refusal {
    /// Without the agent's own wrapping, as in `Guest agent command failed, error was '…'`.
    fn cause(&self) -> &str {
        let inner = self.desc.split_once("error was '").and_then(|(_, rest)| rest.strip_suffix('\''));
        inner.unwrap_or(&self.desc)
    }
}

#[derive(Debug, Deserialize)]
struct Started {
    pid: i64,
}

#[derive(Debug, Deserialize)]
struct Status {
    exited: bool,
    exitcode: Option<i32>,
    signal: Option<i32>,
    #[serde(rename = "out-data")]
    out_data: Option<String>,
    #[serde(rename = "err-data")]
    err_data: Option<String>,
}

impl GuestAgent {
    pub fn new(guest: GuestName, socket: PathBuf) -> GuestAgent {
        GuestAgent { guest, socket, connection: Mutex::new(None), next_sync: AtomicU64::new(1) }
    }

    /// Whether it answers.
    pub async fn ping(&self) -> Result<(), HostError> {
        self.command("guest-ping", json!({})).await.map(drop)
    }

    /// Runs a program and returns what became of it.
    pub async fn exec(&self, command: &[String], input: &[u8]) -> Result<ExecResult, HostError> {
        let Some((program, arguments)) = command.split_first() else {
            return Err(HostError::Failed(format!("nothing to run in '{}': name a program", self.guest)));
        };
        if input.len() > INPUT_MAX {
            return Err(HostError::Failed(format!(
                "cannot give {} bytes of input to '{program}' in '{}': the guest agent takes {INPUT_MAX}; \
                 copy the data over the network instead",
                input.len(),
                self.guest
            )));
        }
        let mut request = json!({ "path": program, "arg": arguments, "capture-output": true });
        if !input.is_empty() {
            request["input-data"] = BASE64.encode(input).into();
        }
        let started = match self.ask("guest-exec", request).await? {
            Ok(started) => started,
            Err(refusal) => {
                let why = refusal.cause();
                return Err(HostError::Conflict(format!("'{program}' does not start in it: {why}")));
            }
        };
        let Started { pid } = self.understand(started)?;
        self.wait_for(program, pid).await
    }

    async fn wait_for(&self, program: &str, pid: i64) -> Result<ExecResult, HostError> {
        let deadline = Instant::now() + PROGRAM_LIMIT;
        let mut pause = POLL_FIRST;
        loop {
            let answer = self.command("guest-exec-status", json!({ "pid": pid })).await?;
            let status: Status = self.understand(answer)?;
            if status.exited {
                let code = status.exitcode.or(status.signal.map(|signal| SIGNAL_STATUS + signal));
                return Ok(ExecResult {
                    exit_status: code.unwrap_or(0),
                    stdout: self.decode(status.out_data)?,
                    stderr: self.decode(status.err_data)?,
                });
            }
            if Instant::now() > deadline {
                return Err(HostError::TimedOut(format!(
                    "'{program}' still runs in '{}' after {} s; it goes on, and its output is not waited for",
                    self.guest,
                    PROGRAM_LIMIT.as_secs()
                )));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL_LAST);
        }
    }

    fn understand<T: serde::de::DeserializeOwned>(&self, value: Value) -> Result<T, HostError> {
        serde_json::from_value(value).map_err(|error| {
            HostError::Failed(format!(
                "the guest agent in '{}' gave an answer of no known form: {error}",
                self.guest
            ))
        })
    }

    fn decode(&self, data: Option<String>) -> Result<Vec<u8>, HostError> {
        BASE64.decode(data.unwrap_or_default()).map_err(|error| {
            HostError::Failed(format!("the guest agent in '{}' sent damaged output: {error}", self.guest))
        })
    }

    /// One command, which must not be refused.
    async fn command(&self, name: &str, arguments: Value) -> Result<Value, HostError> {
        self.ask(name, arguments).await?.map_err(|refusal| {
            HostError::Failed(format!("the guest agent in '{}' refuses {name}: {}", self.guest, refusal.desc))
        })
    }

    /// One command and its answer. A connection that fails is given up; the next command makes a new one.
    async fn ask(&self, name: &str, arguments: Value) -> Result<Result<Value, Refusal>, HostError> {
        let mut slot = self.connection.lock().await;
        // Taken out while in use: a caller that gives up half way leaves no half-read connection behind.
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => self.within(self.open()).await?,
        };
        let mut request = json!({ "execute": name, "arguments": arguments }).to_string();
        request.push('\n');
        let answer = self.within(converse(&mut connection, request.as_bytes())).await?;
        *slot = Some(connection);
        drop(slot);
        Ok(match answer.error {
            Some(refusal) => Err(refusal),
            None => Ok(answer.result.unwrap_or(Value::Null)),
        })
    }

    async fn within<T>(&self, work: impl Future<Output = std::io::Result<T>>) -> Result<T, HostError> {
        match tokio::time::timeout(ANSWER_LIMIT, work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(HostError::Failed(format!(
                "cannot talk to the guest agent in '{}': {error}; see whether the guest runs",
                self.guest
            ))),
            Err(_) => Err(HostError::TimedOut(format!(
                "the guest agent in '{}' does not answer; is qemu-guest-agent installed in it, and has it started?",
                self.guest
            ))),
        }
    }

    async fn open(&self) -> std::io::Result<BufReader<UnixStream>> {
        let mut stream = BufReader::new(UnixStream::connect(&self.socket).await?);
        let number = self.next_sync.fetch_add(1, Ordering::Relaxed);
        let mut hello = vec![DELIMITER];
        let sync = json!({ "execute": "guest-sync-delimited", "arguments": { "id": number } });
        hello.extend_from_slice(sync.to_string().as_bytes());
        hello.push(b'\n');
        stream.get_mut().write_all(&hello).await?;
        // Answers to what others asked may still be in the pipe; ours begins with the delimiter.
        loop {
            let mut before = Vec::new();
            stream.read_until(DELIMITER, &mut before).await?;
            if before.is_empty() {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let answer = read_answer(&mut stream).await?;
            if answer.result.as_ref().and_then(Value::as_u64) == Some(number) {
                return Ok(stream);
            }
        }
    }
}

async fn converse(stream: &mut BufReader<UnixStream>, request: &[u8]) -> std::io::Result<Answer> {
    stream.get_mut().write_all(request).await?;
    read_answer(stream).await
}

async fn read_answer(stream: &mut BufReader<UnixStream>) -> std::io::Result<Answer> {
    let mut line = Vec::new();
    if stream.read_until(b'\n', &mut line).await? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// A guest agent that knows one program and has stale data in its pipe.
    async fn play(listener: UnixListener) {
        let (read, mut write) = listener.accept().await.unwrap().0.into_split();
        let mut lines = BufReader::new(read);
        write.write_all(b"{\"return\": {\"half\n").await.unwrap();
        let mut asked = 0;
        loop {
            let mut line = Vec::new();
            if lines.read_until(b'\n', &mut line).await.unwrap() == 0 {
                return;
            }
            let text: Vec<u8> = line.into_iter().filter(|byte| *byte != DELIMITER).collect();
            let request: Value = serde_json::from_slice(&text).unwrap();
            let answer = match request["execute"].as_str().unwrap() {
                "guest-sync-delimited" => {
                    write.write_all(&[DELIMITER]).await.unwrap();
                    json!({ "return": request["arguments"]["id"] })
                }
                "guest-exec" => {
                    assert_eq!(request["arguments"]["input-data"], "aW4=");
                    json!({ "return": { "pid": 7 } })
                }
                "guest-exec-status" => {
                    asked += 1;
                    let done = json!({ "exited": true, "exitcode": 3, "out-data": "b3V0" });
                    json!({ "return": if asked > 1 { done } else { json!({ "exited": false }) } })
                }
                other => json!({ "error": { "class": "CommandNotFound", "desc": other } }),
            };
            write.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_program_runs_and_its_output_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        tokio::spawn(play(UnixListener::bind(&socket).unwrap()));
        let agent = GuestAgent::new("web1".parse().unwrap(), socket);
        let result = agent.exec(&["cat".to_owned()], b"in").await.unwrap();
        assert_eq!(result, ExecResult { exit_status: 3, stdout: b"out".to_vec(), stderr: Vec::new() });
    }

    #[tokio::test]
    async fn an_agent_that_is_not_there_is_missed_in_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        tokio::time::pause();
        let agent = GuestAgent::new("web1".parse().unwrap(), socket);
        let error = agent.exec(&["true".to_owned()], b"").await.unwrap_err();
        assert!(matches!(error, HostError::TimedOut(_)));
        assert!(error.to_string().contains("qemu-guest-agent installed"), "{error}");
    }
}
