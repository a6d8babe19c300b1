//! This host's member of the store: an etcd process that outlives us.
//!
//! Theory of operation. etcd runs in a process group of its own and goes on when kenneld ends, however it
//! ends. On start, a running etcd with our data directory is *adopted*; only when there is none is one
//! started. It is found by its command line in `/proc`, not by a pid file: a file would be missing just when
//! kenneld dies between the start and the writing, and then two etcds would fight for one directory.
//!
//! ```text
//!   start ──▶ running (ours, or adopted) ──ends──▶ down ──pause──▶ running …
//!                │ stop                             │ stop
//!                ▼                                  ▼
//!             SIGTERM, then SIGKILL ─────────────▶ stopped
//! ```
//!
//! A data directory that holds a log makes etcd the member that it was; how it would begin or join matters
//! only without one. All traffic is TLS with certificates on both sides, from the cluster's own authority;
//! this host's certificate must be good for both roles and carry the address of the URLs.

mod process;

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio::time::Instant;

use self::process::{Process, Running};
use crate::{JoinTicket, PkiFiles};

/// Between heartbeats of the leading member; etcd's default, good within a site.
const HEARTBEAT_MS: u64 = 100;
/// Without a heartbeat for so long, members elect; part of the time in which no change is possible.
const ELECTION_MS: u64 = 1000;
/// How many revisions can still be watched from; a watch that is further behind lists anew.
const REVISIONS_KEPT: u64 = 5000;
/// The data base's limit. A cluster of 10,000 guests needs about 100 MB of it.
const QUOTA_BYTES: u64 = 2 << 30;
/// Fewer than etcd's 100,000, which cost memory for the sake of members that lag far behind.
const SNAPSHOT_EVERY: u64 = 10_000;

/// The first pause before a restart; each further one is twice as long.
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(200);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(10);
/// After a run of this length the pauses begin anew.
const GOOD_RUN: Duration = Duration::from_secs(30);
/// From the asking to the killing.
const STOP_LIMIT: Duration = Duration::from_secs(5);

const _: () = assert!(HEARTBEAT_MS * 5 <= ELECTION_MS, "etcd demands five heartbeats to an election");

/// What a member is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberConfig {
    /// The host's name.
    pub name: String,
    /// The log, `etcd.log`, is written beside it.
    pub data_dir: PathBuf,
    /// `https://ADDRESS:PORT`, both listened on and told to others.
    pub client_url: String,
    pub peer_url: String,
    pub pki: PkiFiles,
    /// Ignored when the data directory holds a member.
    pub start: MemberStart,
}

/// How a member without data begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberStart {
    /// As the first member of a new store.
    New,
    /// As one that [`EtcdStore::add_member`](crate::EtcdStore::add_member) has announced.
    Join(JoinTicket),
}

/// Why no member was started. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    #[error(
        "cannot start the state store: there is no program 'etcd' in PATH ({0}); \
         install Debian's package etcd-server"
    )]
    NoProgram(String),
    #[error(
        "cannot start the state store: {address} is in use by another program; end it \
         (`ss -ltnp` shows it), and try again"
    )]
    PortInUse { address: SocketAddr },
    #[error(
        "cannot start the state store: {address} is not an address of this host; \
         start kenneld with an --address that `ip address` shows"
    )]
    NotOurAddress { address: SocketAddr },
    #[error("cannot start the state store: '{0}' is not an URL like https://192.0.2.1:7441")]
    BadUrl(String),
    #[error("cannot start the state store: {what}: {error}")]
    Failed { what: String, error: io::Error },
}

/// What the member's process does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberStatus {
    Running {
        pid: i32,
        /// It was found running, rather than started.
        adopted: bool,
    },
    /// It ended, and is started again after a pause.
    Down {
        why: String,
        restarts: u32,
    },
    Stopped,
}

/// This host's etcd and its supervision. Dropping this ends only the supervision.
#[derive(Debug)]
pub struct StoreMember {
    stop: watch::Sender<bool>,
    status: watch::Receiver<MemberStatus>,
}

impl StoreMember {
    /// Adopts the member that runs, or starts it. Returns as soon as there is a process; whether it serves
    /// is seen through [`EtcdStore::health`](crate::EtcdStore::health).
    pub async fn start(config: MemberConfig) -> Result<Self, MemberError> {
        let running = match Process::find(&config.data_dir) {
            Some(process) => Running::Adopted(process),
            None => {
                check_address(&config.client_url)?;
                check_address(&config.peer_url)?;
                launch(&config)?
            }
        };
        let (stop, stop_asked) = watch::channel(false);
        let (status_sender, status) = watch::channel(running.status());
        let supervisor = Supervisor {
            config,
            stop: stop_asked,
            status: status_sender,
            restarts: 0,
            pause: RESTART_PAUSE_MIN,
        };
        tokio::spawn(supervisor.run(running));
        Ok(Self { stop, status })
    }

    pub fn status(&self) -> MemberStatus {
        self.status.borrow().clone()
    }

    /// For those who wait for a change.
    pub fn status_changes(&self) -> watch::Receiver<MemberStatus> {
        self.status.clone()
    }

    /// Ends the process; returns when it is gone.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let mut status = self.status.clone();
        // The supervisor goes only after it has said so.
        let _gone = status.wait_for(|status| *status == MemberStatus::Stopped).await;
    }
}

/// Whether a member has ever run on this directory: it restarts as what it was, and must not be added to the
/// store a second time.
pub fn holds_member(data_dir: &Path) -> bool {
    let log = data_dir.join("member").join("wal");
    let is_log = |entry: &std::fs::DirEntry| entry.path().extension().is_some_and(|e| e == "wal");
    std::fs::read_dir(log).is_ok_and(|entries| entries.flatten().any(|entry| is_log(&entry)))
}

fn check_address(url: &str) -> Result<(), MemberError> {
    let bad = || MemberError::BadUrl(url.to_owned());
    let authority = url.strip_prefix("https://").ok_or_else(bad)?;
    let address: SocketAddr = authority.parse().map_err(|_| bad())?;
    match TcpListener::bind(address) {
        Ok(_listener) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Err(MemberError::PortInUse { address }),
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
            Err(MemberError::NotOurAddress { address })
        }
        Err(error) => Err(MemberError::Failed { what: format!("listen on {address}"), error }),
    }
}

fn launch(config: &MemberConfig) -> Result<Running, MemberError> {
    let program = process::find_program("etcd")
        .ok_or_else(|| MemberError::NoProgram(std::env::var("PATH").unwrap_or_default()))?;
    let failed = |what: String| move |error| MemberError::Failed { what, error };
    let log = process::open_log(&log_path(config)).map_err(failed("open its log".to_owned()))?;
    let child = process::spawn(&program, &arguments(config), log)
        .map_err(failed(format!("run {}", program.display())))?;
    Ok(Running::Started(child))
}

fn log_path(config: &MemberConfig) -> PathBuf {
    config.data_dir.parent().unwrap_or(Path::new(".")).join("etcd.log")
}

fn arguments(config: &MemberConfig) -> Vec<String> {
    let PkiFiles { ca, cert, key } = &config.pki;
    let mut arguments = vec![
        format!("--name={}", config.name),
        process::data_dir_argument(&config.data_dir),
        format!("--listen-client-urls={}", config.client_url),
        format!("--advertise-client-urls={}", config.client_url),
        format!("--listen-peer-urls={}", config.peer_url),
        format!("--initial-advertise-peer-urls={}", config.peer_url),
        "--client-cert-auth".to_owned(),
        format!("--trusted-ca-file={}", ca.display()),
        format!("--cert-file={}", cert.display()),
        format!("--key-file={}", key.display()),
        "--peer-client-cert-auth".to_owned(),
        format!("--peer-trusted-ca-file={}", ca.display()),
        format!("--peer-cert-file={}", cert.display()),
        format!("--peer-key-file={}", key.display()),
        format!("--heartbeat-interval={HEARTBEAT_MS}"),
        format!("--election-timeout={ELECTION_MS}"),
        // A member that comes back from a pause or a cut does not unseat a leader that works.
        "--pre-vote".to_owned(),
        "--auto-compaction-mode=revision".to_owned(),
        format!("--auto-compaction-retention={REVISIONS_KEPT}"),
        format!("--quota-backend-bytes={QUOTA_BYTES}"),
        format!("--snapshot-count={SNAPSHOT_EVERY}"),
        format!("--max-txn-ops={}", crate::TXN_OPERATIONS_MAX),
        "--logger=zap".to_owned(),
        "--log-outputs=stderr".to_owned(),
    ];
    if holds_member(&config.data_dir) {
        return arguments;
    }
    let (state, cluster) = match &config.start {
        MemberStart::New => ("new", format!("{}={}", config.name, config.peer_url)),
        MemberStart::Join(ticket) => {
            let members = ticket.initial_cluster.iter().map(|(name, url)| format!("{name}={url}"));
            ("existing", members.collect::<Vec<_>>().join(","))
        }
    };
    arguments.push(format!("--initial-cluster-state={state}"));
    arguments.push(format!("--initial-cluster={cluster}"));
    arguments
}

struct Supervisor {
    config: MemberConfig,
    stop: watch::Receiver<bool>,
    status: watch::Sender<MemberStatus>,
    restarts: u32,
    pause: Duration,
}

/// What ended a wait.
enum Woken<T> {
    Stop,
    /// The [`StoreMember`] was dropped.
    Abandoned,
    Over(T),
}

impl Supervisor {
    async fn run(mut self, mut running: Running) {
        loop {
            let started = Instant::now();
            let why = match unless_stopped(&mut self.stop, running.ended()).await {
                Woken::Abandoned => return,
                Woken::Stop => {
                    stop_process(&mut running).await;
                    break;
                }
                Woken::Over(how) => self.why_it_ended(&how),
            };
            if started.elapsed() >= GOOD_RUN {
                self.pause = RESTART_PAUSE_MIN;
            }
            // One end is mended here; a person must look when it goes on.
            if self.pause < RESTART_PAUSE_MAX {
                tracing::warn!(%why, "this host's member of the state store ended; starting it again");
            } else {
                tracing::error!(%why, "this host's member of the state store keeps ending");
            }
            match self.restart(why).await {
                Woken::Abandoned => return,
                Woken::Stop => break,
                Woken::Over(again) => running = again,
            }
        }
        self.status.send_replace(MemberStatus::Stopped);
    }

    async fn restart(&mut self, mut why: String) -> Woken<Running> {
        loop {
            self.restarts += 1;
            self.status.send_replace(MemberStatus::Down { why, restarts: self.restarts });
            match unless_stopped(&mut self.stop, tokio::time::sleep(self.pause)).await {
                Woken::Over(()) => {}
                Woken::Stop => return Woken::Stop,
                Woken::Abandoned => return Woken::Abandoned,
            }
            self.pause = (self.pause * 2).min(RESTART_PAUSE_MAX);
            let found = Process::find(&self.config.data_dir).map(Running::Adopted);
            match found.map_or_else(|| launch(&self.config), Ok) {
                Ok(running) => {
                    self.status.send_replace(running.status());
                    return Woken::Over(running);
                }
                Err(error) => why = error.to_string(),
            }
        }
    }

    fn why_it_ended(&self, how: &str) -> String {
        let path = log_path(&self.config);
        match process::last_complaint(&path) {
            Some(line) => format!("etcd ended ({how}); the last of {}: {line}", path.display()),
            None => format!("etcd ended ({how}); see {}", path.display()),
        }
    }
}

async fn unless_stopped<T>(stop: &mut watch::Receiver<bool>, wait: impl Future<Output = T>) -> Woken<T> {
    tokio::select! {
        asked = stop.wait_for(|stop| *stop) => match asked {
            Ok(_) => Woken::Stop,
            Err(_) => Woken::Abandoned,
        },
        result = wait => Woken::Over(result),
    }
}

async fn stop_process(running: &mut Running) {
    running.signal(Signal::SIGTERM);
    if tokio::time::timeout(STOP_LIMIT, running.ended()).await.is_err() {
        running.signal(Signal::SIGKILL);
        running.ended().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(data_dir: &Path, start: MemberStart) -> MemberConfig {
        let file = |name: &str| PathBuf::from("/pki").join(name);
        MemberConfig {
            name: "host2".to_owned(),
            data_dir: data_dir.to_owned(),
            client_url: "https://127.0.0.1:7441".to_owned(),
            peer_url: "https://127.0.0.1:7442".to_owned(),
            pki: PkiFiles { ca: file("ca.pem"), cert: file("host.pem"), key: file("host.key") },
            start,
        }
    }

    #[test]
    fn a_member_begins_joins_or_is_what_it_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        let has = |start: MemberStart, wanted: &str| {
            arguments(&config(&data, start)).iter().any(|argument| argument == wanted)
        };
        assert!(has(MemberStart::New, "--initial-cluster=host2=https://127.0.0.1:7442"));
        let initial_cluster =
            vec![("a".to_owned(), "https://x".to_owned()), ("b".to_owned(), "https://y".to_owned())];
        let join = MemberStart::Join(JoinTicket { id: 1, initial_cluster });
        assert!(has(join.clone(), "--initial-cluster=a=https://x,b=https://y"));
        assert!(has(join.clone(), "--initial-cluster-state=existing"));

        std::fs::create_dir_all(data.join("member/wal")).expect("create");
        assert!(has(join.clone(), "--initial-cluster-state=existing"), "an empty log is none");
        std::fs::write(data.join("member/wal/0-0.wal"), "").expect("write");
        assert!(!arguments(&config(&data, join)).iter().any(|a| a.starts_with("--initial-cluster")));
    }

    #[tokio::test]
    async fn a_port_in_use_is_refused_in_words() {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("an address");
        let mut config = config(&dir.path().join("data"), MemberStart::New);
        config.client_url = format!("https://{address}");
        let error = StoreMember::start(config.clone()).await.expect_err("the port is in use");
        assert!(matches!(error, MemberError::PortInUse { .. }), "{error}");
        config.client_url = "https://192.0.2.1:7441".to_owned();
        let error = StoreMember::start(config.clone()).await.expect_err("not an address of this host");
        assert!(matches!(error, MemberError::NotOurAddress { .. }), "{error}");
        config.client_url = "http://host1".to_owned();
        let error = StoreMember::start(config).await.expect_err("no such URL");
        assert!(matches!(error, MemberError::BadUrl(_)), "{error}");
        assert!(!dir.path().join("etcd.log").exists(), "nothing is left behind");
    }
}
