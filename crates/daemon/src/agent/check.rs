//! Looks at a guest again and again, in a task of its own, so that a look that takes long holds nothing up.
//!
//! What was seen is a [`Pulse`]; what follows from it is decided elsewhere (`plan::health`). A look that failed while
//! this host itself was out of breath says nothing of the guest, and is not counted: the task was late, the look took
//! longer than it may, or the host waits for memory.

mod http;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use host::{ExecResult, HostError, Machine};
use model::{GuestSpec, HealthCheck, HealthSpec, HttpCheck};
use plan::health::Pulse;
use reqwest::Client;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

/// A task that comes later than this after its time is on a host that is too busy to judge others.
const LATE_MAX: Duration = Duration::from_secs(1);

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
            HealthCheck::Http(check) => {
                at(check.port).map_or(Probe::Nowhere, |at| Probe::Http { at, check, client: None })
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
        check: HttpCheck,
        /// Made at the first look: it reads the authorities that this host trusts.
        client: Option<Client>,
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
            Probe::Http { at, check, client } => {
                let client = match client {
                    Some(client) => client,
                    None => match http::builder(*at, check).build() {
                        Ok(made) => client.insert(made),
                        Err(error) => return Seen::Cannot(error.to_string()),
                    },
                };
                http::look(client, *at, check).await
            }
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

#[cfg(test)]
mod tests;
