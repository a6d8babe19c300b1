//! Moving a guest to another host while it runs, as far as one of its two machines is concerned.
//!
//! ```text
//!     source                                                target
//!     migrate     Setup ─► Active ─► PreSwitchover          listen    Incoming
//!                   │        │          │  hand over
//!                   ▼        ▼          ▼
//!                 cancel: the guest   Device ─► Completed   Arrived ── resume ─► Running
//!                 goes on here          └─► Failed          or its process ends
//! ```
//!
//! Memory is sent while the guest runs. When little enough is left QEMU stops the guest, brings its disks to
//! rest and waits (the capability `pause-before-switchover`). Whoever leads the migration settles then who
//! owns the guest, and either cancels or hands over (see [`super::handover`]).
//!
//! The target opens its disks *inactive*: it takes no lock on them, and neither reads nor writes. With the
//! capability `late-block-activate` and without a start by itself (`-S`) they stay so when everything has
//! arrived, until `cont`. So the storage daemon serves them to the source up to the hand-over, and must have
//! withdrawn them before the target is resumed; otherwise `cont` fails for lack of the file's lock. (Tried on
//! QEMU 10.0: between arrival and `cont` the nodes say `active: false`, and bitmaps can be added to them.)
//!
//! A secondary that dies in the moment in which QEMU stops the guest hangs the source's main loop, because
//! stopping waits for the writes that are held. It comes back when the secondary does, or, after a silent cut,
//! when it is let go of ([`crate::Machine::let_go`] yanks first); otherwise the machine is to be killed.
//!
//! On arrival, and again when it is resumed, the target announces the guest: QEMU sends RARP frames from each
//! of its NICs, which teach the switches where it is now. A virtio driver in the guest is told to announce
//! its own addresses besides, by gratuitous ARP and neighbour advertisements.

use std::net::SocketAddr;
use std::time::Duration;

use model::GuestName;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::qmp::{Qmp, QmpError};
use super::tls::{self, TlsFiles};
use crate::{HostError, MigrationPhase, MigrationSettings, MigrationState};

/// How long the guest may take to run again after a migration was cancelled. QEMU waits for what it is
/// sending just now.
const CANCEL_LIMIT: Duration = Duration::from_secs(10);
const CANCEL_POLL: Duration = Duration::from_millis(5);

/// What QEMU takes for no limit: a tebibyte a second.
const BANDWIDTH_MAX: u64 = 1 << 40;

/// How a guest is announced: so many times, milliseconds apart, each time a little more. QEMU's own defaults.
const ANNOUNCE_ROUNDS: u64 = 5;
const ANNOUNCE_INITIAL_MS: u64 = 50;
const ANNOUNCE_STEP_MS: u64 = 100;
const ANNOUNCE_MAX_MS: u64 = 550;

/// Bits and bytes: QEMU tells throughput in megabits.
const BYTES_PER_MEGABIT: f64 = 125_000.0;

/// As `query-migrate` tells it. All is absent before the first migration.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Info {
    status: Option<String>,
    ram: Ram,
    total_time: u64,
    downtime: Option<u64>,
    expected_downtime: Option<u64>,
    cpu_throttle_percentage: u64,
    error_desc: Option<String>,
    socket_address: Vec<Listening>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Ram {
    transferred: u64,
    remaining: u64,
    total: u64,
    mbps: f64,
    dirty_pages_rate: u64,
    page_size: u64,
    dirty_sync_count: u64,
}

#[derive(Debug, Deserialize)]
struct Listening {
    host: Option<String>,
    port: Option<String>,
}

impl Info {
    fn phase(&self) -> MigrationPhase {
        let why = || self.error_desc.clone().unwrap_or_else(|| "QEMU does not say why".to_owned());
        match self.status.as_deref().unwrap_or("none") {
            "none" => MigrationPhase::None,
            "setup" | "wait-unplug" => MigrationPhase::Setup,
            "active" => MigrationPhase::Active,
            "pre-switchover" => MigrationPhase::PreSwitchover,
            "device" => MigrationPhase::Device,
            "completed" => MigrationPhase::Completed,
            "failed" => MigrationPhase::Failed(why()),
            "cancelling" => MigrationPhase::Cancelling,
            "cancelled" => MigrationPhase::Cancelled,
            // `postcopy-active`, `-paused`, `-recover-setup`, `-recover`, `-device`.
            post if post.starts_with("postcopy") => MigrationPhase::Postcopy,
            odd => MigrationPhase::Failed(format!("QEMU calls its state '{odd}', which is not known here")),
        }
    }

    fn state(&self) -> MigrationState {
        let ram = &self.ram;
        // A negative or absurd number is turned into the nearest sensible one.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "that is what is wanted")]
        let throughput = (ram.mbps * BYTES_PER_MEGABIT) as u64;
        MigrationState {
            phase: self.phase(),
            transferred: ram.transferred,
            remaining: ram.remaining,
            total: ram.total,
            dirty_rate: ram.dirty_pages_rate.saturating_mul(ram.page_size),
            throughput,
            expected_downtime_ms: self.expected_downtime,
            downtime_ms: self.downtime,
            elapsed_ms: self.total_time,
            iteration: ram.dirty_sync_count,
            throttle_percent: self.cpu_throttle_percentage,
        }
    }
}

/// The migration of one machine's guest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Migration<'a> {
    qmp: &'a Qmp,
    guest: &'a GuestName,
    tls: Option<&'a TlsFiles>,
}

impl<'a> Migration<'a> {
    pub fn new(qmp: &'a Qmp, guest: &'a GuestName, tls: Option<&'a TlsFiles>) -> Self {
        Self { qmp, guest, tls }
    }

    /// See [`crate::Machine::listen`].
    pub async fn listen(
        &self,
        address: SocketAddr,
        settings: &MigrationSettings,
    ) -> Result<SocketAddr, HostError> {
        let doing = format!("take in '{}' at {address}", self.guest);
        if let Some(listening) = self.listening(&doing).await? {
            return Ok(listening);
        }
        let credentials = match self.tls {
            Some(files) => Some(tls::server_credentials(self.qmp, files).await?),
            None => None,
        };
        self.prepare(settings, credentials, &doing).await?;
        self.command("migrate-incoming", json!({ "uri": format!("tcp:{address}") }), &doing).await?;
        self.listening(&doing)
            .await?
            .ok_or_else(|| HostError::Failed(format!("cannot {doing}: QEMU listens, and does not say where")))
    }

    async fn listening(&self, doing: &str) -> Result<Option<SocketAddr>, HostError> {
        let info = self.info(doing).await?;
        let found = info.socket_address.iter().find_map(|at| {
            let (host, port) = (at.host.as_ref()?.parse().ok()?, at.port.as_ref()?.parse().ok()?);
            Some(SocketAddr::new(host, port))
        });
        Ok(found)
    }

    /// See [`crate::Machine::migrate`].
    pub async fn start(&self, to: SocketAddr, settings: &MigrationSettings) -> Result<(), HostError> {
        let doing = format!("move '{}' to {to}", self.guest);
        match self.info(&doing).await?.phase() {
            MigrationPhase::None | MigrationPhase::Failed(_) | MigrationPhase::Cancelled => {}
            MigrationPhase::Setup
            | MigrationPhase::Active
            | MigrationPhase::Postcopy
            | MigrationPhase::PreSwitchover
            | MigrationPhase::Device
            | MigrationPhase::Cancelling => {
                return Err(HostError::Conflict(format!(
                    "cannot {doing}: it is being moved already; cancel that first"
                )));
            }
            // It arrived here in the same run, and goes on to the next host.
            MigrationPhase::Completed => {}
        }
        let credentials = match self.tls {
            Some(files) => Some(tls::client_credentials(self.qmp, files).await?),
            None => None,
        };
        self.prepare(settings, credentials, &doing).await?;
        self.command("migrate", json!({ "uri": format!("tcp:{to}") }), &doing).await
    }

    /// Capabilities and parameters; both sides need the same ones.
    async fn prepare(
        &self,
        settings: &MigrationSettings,
        credentials: Option<&str>,
        doing: &str,
    ) -> Result<(), HostError> {
        let capabilities = [
            ("events", true),
            ("pause-before-switchover", true),
            ("late-block-activate", true),
            ("auto-converge", settings.auto_converge),
            ("postcopy-ram", settings.postcopy),
            ("multifd", settings.multifd_channels.is_some()),
        ];
        let list: Vec<Value> = capabilities
            .iter()
            .map(|(capability, state)| json!({ "capability": capability, "state": state }))
            .collect();
        self.command("migrate-set-capabilities", json!({ "capabilities": list }), doing).await?;
        let mut parameters = json!({
            "tls-creds": credentials.unwrap_or_default(),
            "announce-rounds": ANNOUNCE_ROUNDS, "announce-initial": ANNOUNCE_INITIAL_MS,
            "announce-step": ANNOUNCE_STEP_MS, "announce-max": ANNOUNCE_MAX_MS,
        });
        if let Some(channels) = settings.multifd_channels {
            parameters["multifd-channels"] = channels.into();
        }
        self.command("migrate-set-parameters", parameters, doing).await?;
        self.limit(settings, doing).await
    }

    /// See [`crate::Machine::adjust_migration`].
    pub async fn adjust(&self, settings: &MigrationSettings) -> Result<(), HostError> {
        self.limit(settings, &format!("change how '{}' is moved", self.guest)).await
    }

    async fn limit(&self, settings: &MigrationSettings, doing: &str) -> Result<(), HostError> {
        let bandwidth = settings.bandwidth.unwrap_or(BANDWIDTH_MAX);
        let limits = json!({
            "max-bandwidth": bandwidth, "max-postcopy-bandwidth": bandwidth,
            "downtime-limit": settings.downtime_limit_ms,
        });
        self.command("migrate-set-parameters", limits, doing).await
    }

    /// See [`crate::Machine::start_postcopy`].
    pub async fn start_postcopy(&self) -> Result<(), HostError> {
        let doing = format!("let '{}' run on the other host before its memory is there", self.guest);
        self.command("migrate-start-postcopy", json!({}), &doing).await
    }

    /// See [`crate::Machine::migration`].
    pub async fn state(&self) -> Result<MigrationState, HostError> {
        Ok(self.info(&format!("see how far the migration of '{}' is", self.guest)).await?.state())
    }

    /// Ends what is under way. The guest must not have been handed over.
    pub async fn cancel(&self) -> Result<(), HostError> {
        let doing = format!("cancel the migration of '{}'", self.guest);
        let deadline = Instant::now() + CANCEL_LIMIT;
        loop {
            match self.info(&doing).await?.phase() {
                MigrationPhase::None | MigrationPhase::Failed(_) | MigrationPhase::Cancelled
                    if self.is_on_its_own(&doing).await? =>
                {
                    return Ok(());
                }
                MigrationPhase::Completed | MigrationPhase::Device | MigrationPhase::Postcopy => {
                    return Err(HostError::Conflict(format!(
                        "cannot {doing}: it is on its way already; see whether it arrives"
                    )));
                }
                MigrationPhase::Setup | MigrationPhase::Active | MigrationPhase::PreSwitchover => {
                    self.command("migrate_cancel", json!({}), &doing).await?;
                }
                MigrationPhase::None
                | MigrationPhase::Failed(_)
                | MigrationPhase::Cancelled
                | MigrationPhase::Cancelling => {}
            }
            if Instant::now() > deadline {
                return Err(HostError::TimedOut(format!(
                    "cannot {doing}: QEMU has not come to an end with it within {} s",
                    CANCEL_LIMIT.as_secs()
                )));
            }
            tokio::time::sleep(CANCEL_POLL).await;
        }
    }

    /// Whether QEMU has left the state in which a migration had stopped the guest.
    async fn is_on_its_own(&self, doing: &str) -> Result<bool, HostError> {
        let status = self.ask("query-status", doing).await?;
        Ok(status["status"] != "finish-migrate")
    }

    /// Lets it go on from where it waits.
    pub async fn proceed(&self) -> Result<(), HostError> {
        let doing = format!("let the migration of '{}' go on", self.guest);
        self.command("migrate-continue", json!({ "state": "pre-switchover" }), &doing).await
    }

    /// Tells the network where the guest is now.
    pub async fn announce(&self) -> Result<(), HostError> {
        let rounds = json!({
            "rounds": ANNOUNCE_ROUNDS, "initial": ANNOUNCE_INITIAL_MS,
            "step": ANNOUNCE_STEP_MS, "max": ANNOUNCE_MAX_MS,
        });
        self.command("announce-self", rounds, &format!("announce '{}'", self.guest)).await
    }

    async fn info(&self, doing: &str) -> Result<Info, HostError> {
        let answer = self.ask("query-migrate", doing).await?;
        serde_json::from_value(answer).map_err(|error| {
            HostError::Failed(format!("cannot {doing}: QEMU gave an answer of no known form: {error}"))
        })
    }

    async fn ask(&self, command: &str, doing: &str) -> Result<Value, HostError> {
        self.qmp.execute(command, json!({})).await.map_err(|error| error.into_host(doing))
    }

    async fn command(&self, command: &str, arguments: Value, doing: &str) -> Result<(), HostError> {
        self.qmp.execute(command, arguments).await.map(drop).map_err(|error: QmpError| error.into_host(doing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answer: Value, phase: MigrationPhase) -> MigrationState {
        let state = serde_json::from_value::<Info>(answer).unwrap().state();
        assert_eq!(state.phase, phase);
        state
    }

    #[test]
    fn what_qemu_says_of_a_migration_is_understood() {
        check(json!({}), MigrationPhase::None);
        check(json!({ "status": "postcopy-paused" }), MigrationPhase::Postcopy);
        let why = "Unable to write to socket: Connection reset by peer";
        check(json!({ "status": "failed", "error-desc": why }), MigrationPhase::Failed(why.to_owned()));
        // QEMU 10.0.2 in the middle of one.
        let state = check(
            json!({
                "status": "active", "setup-time": 23, "expected-downtime": 300, "total-time": 1132,
                "cpu-throttle-percentage": 20,
                "ram": {
                    "total": 67_641_344, "postcopy-requests": 0, "dirty-sync-count": 2, "page-size": 4096,
                    "remaining": 8192, "mbps": 80.0, "transferred": 837_321, "dirty-pages-rate": 10,
                },
            }),
            MigrationPhase::Active,
        );
        assert_eq!((state.remaining, state.throughput, state.dirty_rate), (8192, 10_000_000, 40_960));
        assert_eq!((state.iteration, state.throttle_percent, state.elapsed_ms), (2, 20, 1132));
        assert_eq!((state.expected_downtime_ms, state.downtime_ms), (Some(300), None));
    }
}
