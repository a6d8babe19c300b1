//! Looks at a guest again and again, in a task of its own, so that a look that takes long holds nothing up.
//!
//! What was seen is a [`Pulse`]; what follows from it is decided elsewhere (`plan::health`). A look that failed while
//! this host itself was out of breath says nothing of the guest, and is not counted: the task was late, the look took
//! longer than it may, or the host waits for memory.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use host::{ExecResult, HostError, Machine};
use model::{GuestSpec, HealthCheck, HealthSpec};
use plan::health::Pulse;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

/// A task that comes later than this after its time is on a host that is too busy to judge others.
const LATE_MAX: Duration = Duration::from_secs(1);

/// How much of an HTTP answer is looked at, bytes.
const ANSWER_MAX: u64 = 64 << 10;

/// From this status on an HTTP answer is a failure.
const STATUS_BAD: u16 = 400;

/// What one look has seen. Sentences without a full stop.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Well,
    Failed(String),
    /// It says nothing of the guest.
    Cannot(String),
}

/// Ends with its task.
#[derive(Debug)]
pub(super) struct Checker {
    task: JoinHandle<()>,
    pulse: watch::Receiver<Pulse>,
    spec: HealthSpec,
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Checker {
    pub fn start(machine: Arc<dyn Machine>, guest: &GuestSpec) -> Checker {
        let (told, pulse) = watch::channel(Pulse::default());
        let address = guest.nics.iter().find_map(|nic| nic.address).map(|address| address.addr());
        let at = |port: u16| address.map(|address| SocketAddr::new(address, port));
        let probe = match guest.health.check.clone() {
            HealthCheck::None | HealthCheck::Basic => Probe::Nothing,
            HealthCheck::Agent => Probe::Agent,
            HealthCheck::Disk => Probe::Disk(None),
            HealthCheck::Tcp { port } => at(port).map_or(Probe::Nowhere, Probe::Tcp),
            HealthCheck::Http { port, path, tls, text } => {
                at(port).map_or(Probe::Nowhere, |at| Probe::Http { at, path, tls, text })
            }
            HealthCheck::Command { command } => Probe::Command { command, under_way: None },
        };
        let spec = guest.health.clone();
        let task = tokio::spawn(look_on(machine, probe, spec.clone(), told));
        Checker { task, pulse, spec }
    }

    /// Whether it looks as that spec says.
    pub fn fits(&self, spec: &HealthSpec) -> bool {
        self.spec == *spec
    }

    pub fn pulse(&self) -> Pulse {
        self.pulse.borrow().clone()
    }
}

async fn look_on(machine: Arc<dyn Machine>, mut probe: Probe, spec: HealthSpec, told: watch::Sender<Pulse>) {
    let interval = Duration::from_secs(spec.interval_s.into());
    let limit = Duration::from_secs(spec.timeout_s.into());
    let mut due = Instant::now() + interval;
    loop {
        sleep_until(due).await;
        let late = due.elapsed();
        let slow = format!("no answer within {} s", spec.timeout_s);
        let seen = timeout(limit, probe.look(&machine)).await.unwrap_or(Seen::Failed(slow));
        let took = due.elapsed();
        let breathless = late > LATE_MAX || took > limit + LATE_MAX || host::facts::waits_for_memory();
        due = Instant::now() + interval;
        if matches!(seen, Seen::Failed(_)) && breathless {
            tracing::debug!(guest = %machine.label().guest, "a look does not count: this host is too busy");
            continue;
        }
        told.send_modify(|pulse| match seen {
            Seen::Well => *pulse = Pulse { passed: true, ..Pulse::default() },
            Seen::Failed(why) => {
                pulse.failed = pulse.failed.saturating_add(1);
                (pulse.why, pulse.cannot) = (Some(why), None);
            }
            Seen::Cannot(why) => (pulse.failed, pulse.cannot) = (0, Some(why)),
        });
    }
}

/// What is asked.
#[derive(Debug)]
enum Probe {
    Nothing,
    /// Over the network, of a guest without an address.
    Nowhere,
    Agent,
    /// How many requests there had been at the last look.
    Disk(Option<u64>),
    Tcp(SocketAddr),
    Http {
        at: SocketAddr,
        path: String,
        tls: bool,
        text: Option<String>,
    },
    /// A program that does not come to its end is not started again beside itself.
    Command {
        command: Vec<String>,
        under_way: Option<JoinHandle<Result<ExecResult, HostError>>>,
    },
}

impl Probe {
    async fn look(&mut self, machine: &Arc<dyn Machine>) -> Seen {
        match self {
            Probe::Nothing => Seen::Well,
            Probe::Nowhere => Seen::Cannot("the guest has no address".into()),
            Probe::Agent => match machine.ping().await {
                Ok(()) => Seen::Well,
                Err(error) => Seen::Failed(error.to_string()),
            },
            Probe::Disk(before) => match machine.disk_requests().await {
                Ok(now) => match before.replace(now) {
                    Some(before) if before == now => Seen::Failed("it neither read nor wrote".into()),
                    Some(_) | None => Seen::Well,
                },
                Err(error) => Seen::Cannot(error.to_string()),
            },
            Probe::Tcp(at) => match connect(*at).await {
                Ok(_) => Seen::Well,
                Err(seen) => seen,
            },
            Probe::Http { at, path, tls, text } => match get(*at, path, *tls).await {
                Ok(answer) => read_answer(&answer, text.as_deref()),
                Err(seen) => seen,
            },
            Probe::Command { command, under_way } => {
                let running = under_way.get_or_insert_with(|| {
                    let (machine, command) = (Arc::clone(machine), command.clone());
                    tokio::spawn(async move { machine.exec(&command, b"").await })
                });
                let ended = running.await;
                *under_way = None;
                match ended {
                    Ok(Ok(ExecResult { exit_status: 0, .. })) => Seen::Well,
                    Ok(Ok(ended)) => Seen::Failed(format!("it ended with status {}", ended.exit_status)),
                    Ok(Err(error)) => Seen::Failed(error.to_string()),
                    Err(error) => Seen::Cannot(format!("the look broke off: {error}")),
                }
            }
        }
    }
}

async fn connect(at: SocketAddr) -> Result<TcpStream, Seen> {
    TcpStream::connect(at).await.map_err(|error| {
        let no_way =
            [ErrorKind::NetworkUnreachable, ErrorKind::AddrNotAvailable, ErrorKind::PermissionDenied];
        if no_way.contains(&error.kind()) {
            Seen::Cannot(format!("this host has no way to {}: {error}", at.ip()))
        } else {
            Seen::Failed(format!("cannot connect to {at}: {error}"))
        }
    })
}

/// As HTTP 1.0, so that the answer comes in one piece.
async fn get(at: SocketAddr, path: &str, tls: bool) -> Result<Vec<u8>, Seen> {
    let stream = connect(at).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {at}\r\nUser-Agent: kennel\r\nAccept: */*\r\n\r\n");
    let broken = |error: std::io::Error| Seen::Failed(format!("{at} broke off: {error}"));
    if !tls {
        return ask(stream, &request).await.map_err(broken);
    }
    let config = crate::pki::unverified_client_config().map_err(|error| Seen::Cannot(error.to_string()))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(ServerName::IpAddress(at.ip().into()), stream).await.map_err(broken)?;
    ask(stream, &request).await.map_err(broken)
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> std::io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    let read = stream.take(ANSWER_MAX).read_to_end(&mut answer).await;
    // Many servers end a TLS connection without saying so.
    match read {
        Err(error) if error.kind() != ErrorKind::UnexpectedEof || answer.is_empty() => Err(error),
        Ok(_) | Err(_) => Ok(answer),
    }
}

fn read_answer(answer: &[u8], text: Option<&str>) -> Seen {
    let answer = String::from_utf8_lossy(answer);
    let head = answer.lines().next().unwrap_or_default();
    let status =
        head.strip_prefix("HTTP/").and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u16>().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    match (status, text) {
        (None, _) => Seen::Failed("the answer is no HTTP".into()),
        (Some(status), _) if status >= STATUS_BAD => Seen::Failed(format!("the answer is status {status}")),
        (Some(_), Some(text)) if !body.contains(text) => Seen::Failed(format!("the answer lacks '{text}'")),
        (Some(_), _) => Seen::Well,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn an_http_answer_is_good_or_says_what_it_lacks() {
        let good = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nall is well";
        assert_eq!(read_answer(good, None), Seen::Well);
        assert_eq!(read_answer(good, Some("is well")), Seen::Well);
        assert_eq!(read_answer(good, Some("A: b")), Seen::Failed("the answer lacks 'A: b'".into()));
        assert_eq!(read_answer(b"HTTP/1.0 302 Found\r\n\r\n", None), Seen::Well);
        let bad = read_answer(b"HTTP/1.0 503 Busy\r\n\r\n", None);
        assert_eq!(bad, Seen::Failed("the answer is status 503".into()));
        assert_eq!(read_answer(b"SSH-2.0", None), Seen::Failed("the answer is no HTTP".into()));
    }

    #[tokio::test]
    async fn a_service_answers_or_does_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(stream.read_u8().await.unwrap());
            }
            assert!(asked.starts_with(b"GET /h HTTP/1.0\r\n"));
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nok").await.unwrap();
        });
        assert_eq!(read_answer(&get(at, "/h", false).await.unwrap(), Some("ok")), Seen::Well);
        serving.await.unwrap();
        assert!(matches!(connect(at).await, Err(Seen::Failed(why)) if why.contains("refused")));
    }
}
