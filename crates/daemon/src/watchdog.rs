//! Sees to it that this host's watchdog runs (`host::watchdog`), and says when it does not.
//!
//! ```text
//!   find, or start ──▶ look after it ──it is gone, or hangs──▶ say so, start another
//!                        └── what it says of its device goes into this host's report
//! ```
//!
//! The report says that a device resets this host only while that is so: it is armed first and told then, and told no
//! more before it is disarmed. Others draw conclusions from it (`plan::fence`).

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use host::HostError;
use host::watchdog::{DeviceState, Found, Guard, HardwareDevice, Program, Watcher, Wish};
use model::{EventKind, HardwareWatchdog};
use tokio::sync::watch;

use crate::agent::Agent;

/// Between two looks at what it says.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// After so many looks in a row at which it had not looked at anything since the one before, it hangs. It looks ten
/// times a second. They are counted, not timed: after a sleep of the whole host both wake up, in any order.
const HANGS_AFTER: u32 = 5;

/// Between two tries to start it.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// While another one takes its page.
const FIND_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// What a problem of it is about.
const ABOUT: &str = "watchdog";
const ABOUT_DEVICE: &str = "watchdog-device";

/// Why one is looked after no more.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Gone,
    Hung,
    /// It was told to leave, for it was started with other words than it would be now.
    Replaced,
}

/// Keeps a watchdog, for ever. `armed` is told of the device that it feeds.
pub async fn keep(agent: Arc<Agent>, armed: watch::Sender<Option<HardwareWatchdog>>) {
    let keeper =
        Keeper { program: agent.config.watchdog_program(), guard: agent.watchdog.clone(), agent, armed };
    let mut missed = false;
    loop {
        let watcher =
            match keeper.find_or_start().await {
                Ok(watcher) => watcher,
                Err(error) => {
                    keeper.problem(ABOUT, Some(format!(
                    "its watchdog does not run, so nothing ends guests here when kenneld hangs: {error}"
                )));
                    missed = true;
                    tokio::time::sleep(AGAIN_AFTER).await;
                    continue;
                }
            };
        keeper.problem(ABOUT, None);
        if std::mem::take(&mut missed) {
            keeper.tell("runs again");
        }
        match keeper.look_after(&watcher).await {
            End::Replaced => {}
            End::Gone => {
                keeper.warn("ended");
                missed = true;
            }
            End::Hung => {
                keeper.warn("hangs, and is ended");
                missed = true;
                if let Err(error) = watcher.kill().await {
                    tracing::warn!(%error, "the watchdog cannot be ended");
                }
            }
        }
    }
}

struct Keeper {
    agent: Arc<Agent>,
    guard: Arc<Guard>,
    program: Program,
    armed: watch::Sender<Option<HardwareWatchdog>>,
}

impl Keeper {
    async fn find_or_start(&self) -> Result<Watcher, HostError> {
        loop {
            match self.guard.find()? {
                Found::Alive(watcher) => return Ok(watcher),
                Found::Nobody => return self.guard.start(&self.program).await,
                Found::Starting => tokio::time::sleep(FIND_AGAIN_AFTER).await,
            }
        }
    }

    /// Returns when it is there no more, or of no use.
    async fn look_after(&self, watcher: &Watcher) -> End {
        let gone = watcher.gone().fuse();
        tokio::pin!(gone);
        let (mut silent, mut replaced) = (0, false);
        let mut looked = self.guard.health().looked;
        loop {
            tokio::select! {
                // What cannot be waited for is asked at each look.
                Ok(()) = &mut gone => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if watcher.is_gone() {
                return if replaced { End::Replaced } else { End::Gone };
            }
            let health = self.guard.health();
            silent = if health.looked == looked { silent + 1 } else { 0 };
            looked = health.looked;
            if silent >= HANGS_AFTER {
                return End::Hung;
            }
            self.say_overdue(health.overdue, health.damaged);
            if self.attend_to_device(&health.device) {
                self.guard.wish(Wish::Leave);
                replaced = true;
            }
        }
    }

    fn say_overdue(&self, overdue: u64, damaged: u64) {
        let hangs = (overdue > 0).then(|| {
            format!(
                "{overdue} machines were killed because they must not run here any more, and are not gone"
            )
        });
        let damaged =
            (damaged > 0).then(|| format!("{damaged} entries of the watchdog's page cannot be read"));
        self.problem("watchdog-overdue", hangs);
        self.problem("watchdog-page", damaged);
    }

    /// Reports the device that is fed. True: the watchdog was started without the device that it is to have.
    fn attend_to_device(&self, state: &DeviceState) -> bool {
        let wanted = self.program.device.as_ref().map(|(path, _)| path.display());
        let (armed, problem, replace) = match (state, &wanted) {
            (DeviceState::None, None) => (None, None, false),
            (DeviceState::None, Some(_)) => (None, None, true),
            (DeviceState::Armed(device), Some(_)) => (Some(device), None, false),
            (DeviceState::Armed(_), None) => (None, None, false),
            (DeviceState::Failed, Some(path)) => {
                let log = self.agent.config.state_dir.join("watchdog.log");
                let what = format!("its watchdog cannot use {path}; {} says why", log.display());
                (None, Some(what), false)
            }
            (DeviceState::Failed, None) => (None, None, true),
        };
        self.problem(ABOUT_DEVICE, problem);
        let armed = armed.map(|HardwareDevice { name, timeout_s, proves }| HardwareWatchdog {
            name: name.clone(),
            timeout_s: *timeout_s,
            proves: *proves,
        });
        self.armed.send_if_modified(|told| {
            let changed = *told != armed;
            *told = armed;
            changed
        });
        if wanted.is_none() && matches!(state, DeviceState::Armed(_)) && self.is_told_of_no_device() {
            self.guard.wish(Wish::LetGoOfDevice);
        }
        replace
    }

    /// Whether the store's report of this boot says that no device resets this host.
    fn is_told_of_no_device(&self) -> bool {
        let cache = self.agent.state.read();
        let report = cache.view().host_reports.get(&self.agent.me);
        report.is_some_and(|report| report.boot_id == self.agent.boot && report.hardware_watchdog.is_none())
    }

    fn problem(&self, about: &str, what: Option<String>) {
        self.agent.set_problem(about, what);
    }

    fn subject(&self) -> String {
        format!("host/{}", self.agent.me)
    }

    fn warn(&self, what: &str) {
        let message = format!("the watchdog of {} {what}; another one is started", self.agent.me);
        self.agent.events.warning(EventKind::WatchdogLost, self.subject(), message);
    }

    fn tell(&self, what: &str) {
        let message = format!("the watchdog of {} {what}", self.agent.me);
        self.agent.events.info(EventKind::WatchdogLost, self.subject(), message);
    }
}
