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
use reqwest::Client;
use reqwest::redirect::Policy;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

/// A task that comes later than this after its time is on a host that is too busy to judge others.
const LATE_MAX: Duration = Duration::from_secs(1);

/// How much of an HTTP answer is looked at, bytes.
const ANSWER_MAX: usize = 64 << 10;

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
            Probe::Http { at, path, tls, text } => get(*at, path, *tls, text.as_deref()).await,
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
    TcpStream::connect(at).await.map_err(|error| not_connected(at, &error))
}

fn not_connected(at: SocketAddr, error: &std::io::Error) -> Seen {
    let no_way = [ErrorKind::NetworkUnreachable, ErrorKind::AddrNotAvailable, ErrorKind::PermissionDenied];
    if no_way.contains(&error.kind()) {
        Seen::Cannot(format!("this host has no way to {}: {error}", at.ip()))
    } else {
        Seen::Failed(format!("cannot connect to {at}: {error}"))
    }
}

/// Asks once, over a connection of its own, whatever certificate the guest has.
async fn get(at: SocketAddr, path: &str, tls: bool, text: Option<&str>) -> Seen {
    let scheme = if tls { "https" } else { "http" };
    let client = Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .tls_danger_accept_invalid_certs(true)
        .pool_max_idle_per_host(0)
        .user_agent("kennel")
        .build();
    let client = match client {
        Ok(client) => client,
        Err(error) => return Seen::Cannot(error.to_string()),
    };
    let mut answer = match client.get(format!("{scheme}://{at}{path}")).send().await {
        Ok(answer) => answer,
        Err(error) => return unanswered(at, &error),
    };
    if answer.status().as_u16() >= STATUS_BAD {
        return Seen::Failed(format!("the answer is status {}", answer.status()));
    }
    let Some(text) = text else { return Seen::Well };
    let mut body = Vec::new();
    while body.len() < ANSWER_MAX {
        match answer.chunk().await {
            Ok(Some(bytes)) => body.extend_from_slice(&bytes),
            Ok(None) => break,
            Err(error) => return unanswered(at, &error),
        }
    }
    match String::from_utf8_lossy(&body).contains(text) {
        true => Seen::Well,
        false => Seen::Failed(format!("the answer lacks '{text}'")),
    }
}

/// Why there was no answer: the guest's fault, or this host's.
fn unanswered(at: SocketAddr, error: &reqwest::Error) -> Seen {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut said = String::new();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return not_connected(at, error);
        }
        said = error.to_string();
        cause = error.source();
    }
    Seen::Failed(format!("{at} does not answer as it should: {said}"))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one request with these bytes.
    async fn service(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(stream.read_u8().await.unwrap());
            }
            assert!(asked.starts_with(b"GET /h HTTP/1.1\r\n"));
            stream.write_all(answer).await.unwrap();
        });
        at
    }

    async fn seen(answer: &'static [u8], text: Option<&str>) -> Seen {
        get(service(answer).await, "/h", false, text).await
    }

    #[tokio::test]
    async fn an_http_answer_is_good_or_says_what_it_lacks() {
        let good = b"HTTP/1.1 200 OK\r\nA: b\r\nConnection: close\r\n\r\nall is well";
        assert_eq!(seen(good, None).await, Seen::Well);
        assert_eq!(seen(good, Some("is well")).await, Seen::Well);
        assert_eq!(seen(good, Some("A: b")).await, Seen::Failed("the answer lacks 'A: b'".into()));
        assert_eq!(seen(b"HTTP/1.0 302 Found\r\nLocation: /\r\n\r\n", None).await, Seen::Well);
        let bad = seen(b"HTTP/1.0 503 Busy\r\n\r\n", None).await;
        assert_eq!(bad, Seen::Failed("the answer is status 503 Service Unavailable".into()));
        let other = seen(b"SSH-2.0-x\r\n\r\n", None).await;
        assert!(matches!(&other, Seen::Failed(why) if why.contains("does not answer as it should")), "{other:?}");
    }

    #[tokio::test]
    async fn where_nothing_listens_the_guest_fails() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        assert!(connect(at).await.is_ok());
        drop(listener);
        assert!(matches!(connect(at).await, Err(Seen::Failed(why)) if why.contains("refused")));
        assert!(matches!(get(at, "/", false, None).await, Seen::Failed(why) if why.contains("refused")));
    }
}
