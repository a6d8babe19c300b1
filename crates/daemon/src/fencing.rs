//! The fence devices of hosts, asked from this one: their records and secrets, put together for `host::fence`.
//!
//! Used by the leader, which takes power for the sake of guests, and by the API, which asks how devices are and gives
//! power back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use host::fence::{Agents, Device, Power};
use jiff::Timestamp;
use model::{DeviceName, FenceDevice, FenceDevices};
use store::{Secret, codec, keys};

use crate::state::State;

/// Asks fence devices; cheap to clone.
#[derive(Debug, Clone)]
pub struct Fencer {
    state: State,
    agents: Agents,
}

/// What each device came to.
type Outcomes<T> = Vec<(DeviceName, Result<T, String>)>;

impl Fencer {
    pub fn new(state: State, agents: Agents) -> Self {
        Self { state, agents }
    }

    /// Whether there is power, as one device says. The error is a sentence.
    pub async fn status(&self, device: &FenceDevice) -> Result<Power, String> {
        let told = self.told(device).await?;
        self.agents.status(&told).await.map_err(|error| error.to_string())
    }

    /// Takes power through the levels in order, the devices of each together, until all devices of a level have seen
    /// it off; answers these. A device is used only after its delay, counted from `since`, and only if `wanted`,
    /// asked right before, says so. The error says what each level came to.
    pub async fn take_power<W: Future<Output = Result<(), String>>>(
        &self,
        devices: &FenceDevices,
        since: Timestamp,
        wanted: impl Fn() -> W,
    ) -> Result<BTreeSet<DeviceName>, String> {
        let mut problems = Vec::new();
        for (level, devices) in devices.levels() {
            let outcomes = join_all(devices.iter().map(|(name, device)| async {
                tokio::time::sleep(still(since, device.delay_s)).await;
                let outcome = match wanted().await {
                    Ok(()) => self.take_by(device).await,
                    Err(why) => Err(why),
                };
                ((*name).clone(), outcome)
            }));
            match all(outcomes.await) {
                Ok(names) => return Ok(names),
                Err(why) => {
                    tracing::warn!(level, %why, "a level of fence devices proved nothing");
                    problems.push(why);
                }
            }
        }
        if problems.is_empty() {
            return Err("it has no fence device".into());
        }
        Err(problems.join("; "))
    }

    async fn take_by(&self, device: &FenceDevice) -> Result<(), String> {
        let told = self.told(device).await?;
        self.agents.take_power(&told).await.map_err(|error| error.to_string())
    }

    /// Asks all devices of all levels to give power, for any of them may have taken it; answers those that did. The
    /// error says why one of those that must did not, or, when none must, why none did.
    pub async fn give_power(
        &self,
        devices: &FenceDevices,
        must: &BTreeSet<DeviceName>,
    ) -> Result<BTreeSet<DeviceName>, String> {
        let outcomes = join_all(devices.devices.iter().map(|(name, device)| async {
            let outcome = match self.told(device).await {
                Ok(told) => self.agents.give_power(&told).await.map_err(|error| error.to_string()),
                Err(why) => Err(why),
            };
            (name.clone(), outcome)
        }));
        let (given, failed): (Outcomes<()>, Outcomes<()>) =
            outcomes.await.into_iter().partition(|(_, outcome)| outcome.is_ok());
        let decisive = given.is_empty() || failed.iter().any(|(name, _)| must.contains(name));
        if decisive { all(failed) } else { all(given) }
    }

    /// Whether these devices still say that there is no power.
    pub async fn are_off(&self, devices: &FenceDevices, names: &BTreeSet<DeviceName>) -> Result<(), String> {
        let chosen = devices.devices.iter().filter(|(name, _)| names.contains(*name));
        let outcomes = join_all(chosen.map(|(name, device)| async move {
            let outcome = match self.status(device).await {
                Ok(Power::Off) => Ok(()),
                Ok(Power::On) => Err("it says that there is power".to_owned()),
                Err(why) => Err(why),
            };
            (name.clone(), outcome)
        }));
        all(outcomes.await).map(drop)
    }

    /// The device as its agent is to be told of it.
    async fn told(&self, device: &FenceDevice) -> Result<Device, String> {
        let mut options = device.options.clone();
        if !device.secrets.is_empty() {
            options.extend(self.secrets(device).await?);
        }
        Ok(Device { agent: device.agent.clone(), options })
    }

    async fn secrets(&self, device: &FenceDevice) -> Result<BTreeMap<String, String>, String> {
        let key = keys::secret(&device.secret_name());
        let listing =
            self.state.store().list(&key).await.map_err(|error| format!("read its secrets: {error}"))?;
        let entry = listing.entries.iter().find(|entry| entry.key == key);
        let entry = entry.ok_or("its secrets are not in the store: remove it, and add it again")?;
        let (secret, _) = codec::decode::<Secret>(&key, &entry.value)
            .map_err(|error| format!("its secrets are damaged: {error}"))?;
        serde_json::from_str(&secret.text).map_err(|_| "its secrets are damaged".to_owned())
    }
}

/// A device's secrets as they stand in the store.
pub fn secret(device: &FenceDevice, values: &BTreeMap<String, String>) -> Secret {
    let text = serde_json::to_string(values).unwrap_or_default();
    Secret { name: device.secret_name(), text }
}

/// What is left of a delay.
fn still(since: Timestamp, delay_s: u32) -> Duration {
    let passed = Duration::try_from(Timestamp::now().duration_since(since)).unwrap_or_default();
    Duration::from_secs(u64::from(delay_s)).saturating_sub(passed)
}

/// The names, if every device did it.
fn all(outcomes: Outcomes<()>) -> Result<BTreeSet<DeviceName>, String> {
    let mut names = BTreeSet::new();
    let mut problems = Vec::new();
    for (name, outcome) in outcomes {
        match outcome {
            Ok(()) => {
                names.insert(name);
            }
            Err(why) => problems.push(format!("{name}: {why}")),
        }
    }
    if problems.is_empty() { Ok(names) } else { Err(problems.join("; ")) }
}
