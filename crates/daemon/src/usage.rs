//! Measuring this host, and asking the others what they measured.
//!
//! Every host samples itself and keeps averages in memory, nowhere else: a daemon that starts anew begins anew, and
//! says for how long it has measured. Whoever plans (the leader, or a daemon that is asked what would be) asks all
//! live hosts at once. A host that does not answer in time is missing from the answer, and so counts as unmeasured.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use host::series::Series;
use host::usage::{GuestProcess, Meter, Reading, Sample};
use jiff::Timestamp;
use model::{GuestId, GuestName, GuestUsage, Host, HostName, HostUsage, Settings};
use plan::usage::Average;
use tokio::time::Instant;

use crate::agent::Agent;
use crate::peer::PeerClient;
use crate::recorder::Recorder;
use crate::state::State;

/// Between two samples, unless the window of the averages is so short that it would see too few.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
const SAMPLE_EVERY_MIN: Duration = Duration::from_secs(1);

/// How many samples a window holds at least.
const SAMPLES_PER_WINDOW: u32 = 10;

/// How long one host may take to say what it measured.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// How long the answers of all hosts are good for: their averages move no faster than they sample.
const GOOD_FOR: Duration = SAMPLE_EVERY;

const _: () = assert!(ANSWER_LIMIT.as_millis() < GOOD_FOR.as_millis(), "answers outlive the asking");

/// What the hosts answered, and when they were asked.
type Answers = (Instant, BTreeMap<HostName, HostUsage>);

/// What the cluster uses, as its hosts measured it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Usages {
    me: HostName,
    state: State,
    peers: PeerClient,
    own: Arc<Mutex<Option<HostUsage>>>,
    /// The counters as they were last read.
    reading: Arc<Mutex<Option<Reading>>>,
    recorder: Recorder,
    /// What all hosts answered last, and when they were asked. Held while they are asked, so that whoever comes
    /// meanwhile gets the same answer.
    answers: Arc<tokio::sync::Mutex<Option<Answers>>>,
}

impl Usages {
    /// Asks others; [`Usages::measure`] measures this host.
    pub fn new(me: HostName, state: State, peers: PeerClient) -> Usages {
        let recorder = Recorder::default();
        Usages {
            me,
            state,
            peers,
            own: Arc::default(),
            reading: Arc::default(),
            recorder,
            answers: Arc::default(),
        }
    }

    /// What this host measured last. `None` in its first seconds.
    pub fn own(&self) -> Option<HostUsage> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The counters of this host and its guests, as they were some seconds ago. `None` in its first seconds.
    pub fn reading(&self) -> Option<Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What this host measured over time. `None` when it cannot be kept; the log says why.
    pub fn series(&self) -> Option<Arc<Series>> {
        self.recorder.series()
    }

    /// What each live host measured, as old as [`GOOD_FOR`] at most. Hosts that do not answer are missing.
    pub async fn fresh(&self) -> BTreeMap<HostName, HostUsage> {
        let mut known = self.answers.lock().await;
        if let Some((_, answers)) = known.as_ref().filter(|(at, _)| at.elapsed() < GOOD_FOR) {
            return answers.clone();
        }
        let asked_at = Instant::now();
        let hosts: Vec<Host> = {
            let cache = self.state.read();
            let view = cache.view();
            view.hosts.values().filter(|host| view.is_live(&host.name)).cloned().collect()
        };
        let asked = hosts.iter().map(|host| async { (host.name.clone(), self.of(host).await) });
        let answers = futures::future::join_all(asked).await;
        let answers: BTreeMap<_, _> =
            answers.into_iter().filter_map(|(name, usage)| Some((name, usage?))).collect();
        *known = Some((asked_at, answers.clone()));
        answers
    }

    /// What one host measured, if it says so in time.
    async fn of(&self, host: &Host) -> Option<HostUsage> {
        if host.name == self.me {
            return self.own();
        }
        let client = self.peers.to(host).ok()?;
        match tokio::time::timeout(ANSWER_LIMIT, client.usage()).await {
            Ok(Ok(usage)) => Some(usage).filter(|usage| usage.host == host.name),
            Ok(Err(error)) => {
                tracing::debug!(host = %host.name, %error, "a host does not say what it uses");
                None
            }
            Err(_) => {
                tracing::debug!(host = %host.name, "a host does not say in time what it uses");
                None
            }
        }
    }

    /// Measures this host, for ever.
    pub async fn measure(self, agent: Arc<Agent>) {
        let config = &agent.config;
        let meter = Meter::new(&config.state_dir, config.address, config.uplinks().into_values());
        let meter = match meter {
            Ok(meter) => meter,
            Err(error) => return tracing::error!(%error, "this host cannot measure what it uses"),
        };
        self.recorder.open(&config.state_dir).await;
        let mut averages = Averages::default();
        loop {
            let window = self.window();
            let (names, processes) = running(&agent);
            let meter_here = meter.clone();
            let read = tokio::task::spawn_blocking(move || meter_here.read(&processes)).await;
            match read {
                Ok(Ok(reading)) => {
                    *self.reading.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading.clone());
                    if let Some(sample) = averages.take(reading, window) {
                        self.recorder.take(&sample, &self.state).await;
                    }
                }
                Ok(Err(error)) => tracing::warn!(%error, "what this host uses is not known"),
                Err(error) => tracing::warn!(%error, "a look at what this host uses broke off"),
            }
            if let Some(usage) = averages.report(&self.me, &names, window) {
                *self.own.lock().unwrap_or_else(PoisonError::into_inner) = Some(usage);
            }
            tokio::time::sleep((window / SAMPLES_PER_WINDOW).clamp(SAMPLE_EVERY_MIN, SAMPLE_EVERY)).await;
        }
    }

    fn window(&self) -> Duration {
        let seconds = self.state.read().view().cluster.as_ref().map(|c| c.settings.usage_window_s);
        Duration::from_secs(seconds.unwrap_or_else(|| Settings::default().usage_window_s).into())
    }
}

/// The machines that run here: whose they are, and their processes.
fn running(agent: &Agent) -> (BTreeMap<GuestId, GuestName>, Vec<GuestProcess>) {
    let machines = agent.machines();
    let names = machines.iter().map(|machine| (machine.label().id, machine.label().guest.clone())).collect();
    let processes = machines
        .iter()
        .filter_map(|machine| Some(GuestProcess { guest: machine.label().id, pid: machine.pid()? }));
    (names, processes.collect())
}

/// The averages of this host and its guests.
#[derive(Debug, Default)]
struct Averages {
    last: Option<Reading>,
    total: Average,
    /// A guest that is gone from a reading is forgotten: when it comes again, its average begins anew.
    guests: BTreeMap<GuestId, Average>,
}

impl Averages {
    /// Answers what was used since the reading before, if there was one.
    fn take(&mut self, reading: Reading, window: Duration) -> Option<Sample> {
        let sample = self.last.as_ref().map(|last| reading.since(last));
        self.last = Some(reading);
        if let Some(sample) = &sample {
            self.take_sample(sample.clone(), window);
        }
        sample
    }

    fn take_sample(&mut self, sample: Sample, window: Duration) {
        self.total.take(sample.total, sample.span, window);
        self.guests.retain(|guest, _| sample.guests.contains_key(guest));
        for (guest, usage) in sample.guests {
            self.guests.entry(guest).or_default().take(usage, sample.span, window);
        }
    }

    fn report(
        &self,
        host: &HostName,
        names: &BTreeMap<GuestId, GuestName>,
        window: Duration,
    ) -> Option<HostUsage> {
        let guests = self.guests.iter().filter_map(|(guest, average)| {
            let usage = GuestUsage { usage: average.usage, measured_s: average.measured_s() };
            Some((names.get(guest)?.clone(), usage))
        });
        (!self.total.measured.is_zero()).then(|| HostUsage {
            host: host.clone(),
            at: Timestamp::now(),
            window_s: u32::try_from(window.as_secs()).unwrap_or(u32::MAX),
            measured_s: self.total.measured_s(),
            total: self.total.usage,
            guests: guests.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Usage;

    const WINDOW: Duration = Duration::from_secs(300);

    fn guest(n: u128) -> GuestId {
        GuestId(uuid::Uuid::from_u128(n))
    }

    fn sample(guests: &[(u128, f64)]) -> Sample {
        let cores = |cpu| Usage { cpu, ..Usage::default() };
        Sample {
            span: SAMPLE_EVERY,
            total: cores(1.0),
            guests: guests.iter().map(|(n, cpu)| (guest(*n), cores(*cpu))).collect(),
        }
    }

    fn report(averages: &Averages) -> Option<HostUsage> {
        let names = (1..3).map(|n| (guest(n), format!("g{n}").parse().unwrap())).collect();
        averages.report(&"host1".parse().unwrap(), &names, WINDOW)
    }

    #[test]
    fn a_guest_that_went_and_came_is_measured_anew() {
        let mut averages = Averages::default();
        assert_eq!(report(&averages), None, "nothing is known before the second reading");
        for _ in 0..10 {
            averages.take_sample(sample(&[(1, 0.5), (2, 0.1)]), WINDOW);
        }
        let measured = |guest: &str, averages: &Averages| {
            report(averages).unwrap().guests.get(&guest.parse().unwrap()).map(|g| (g.measured_s, g.usage.cpu))
        };
        assert_eq!(measured("g1", &averages), Some((50, 0.5)));
        averages.take_sample(sample(&[(2, 0.1)]), WINDOW);
        assert_eq!(measured("g1", &averages), None);
        averages.take_sample(sample(&[(1, 0.9), (2, 0.1)]), WINDOW);
        assert_eq!(measured("g1", &averages), Some((5, 0.9)));
        assert_eq!(report(&averages).unwrap().measured_s, 60);
    }
}
