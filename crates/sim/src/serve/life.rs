//! What goes on in the cluster: so many transactions a second, of the kinds that hosts and the leader write.

use std::time::Duration;

use daemon::State;
use jiff::Timestamp;
use model::{
    Assignment, ClusterView, Event, EventId, EventKind, FillHow, FillProgress, GuestPlace, GuestReport,
    GuestState, HostName, InSync, JobId, JobKind, JobReport, JobSpec, JobState, MoveOptions, Replica,
    Session, Severity, StepState, VolumeState,
};
use sim::rng::Rng;
use store::{StoreError, TxnBuilder, keys};
use tokio::time::MissedTickBehavior;
use uuid::Builder;

use super::cluster::{Guest, Plan};

/// Older ones are cleared away, as the leader does.
const EVENTS_MAX: usize = 3000;
const JOBS_MAX: usize = 300;

/// So many volumes are being filled at a time, at most.
const FILLS_MAX: usize = 20;

/// By how much a fill goes on with each report.
const FILL_STEP: u64 = 1 << 30;
const FILL_TOTAL: u64 = 20 << 30;

/// In how many changes one host is lost, or comes back.
const HOST_ONE_IN: u64 = 2000;

/// Changes the cluster, for ever.
pub async fn live(state: State, plan: Plan, rate: u32, seed: u64) {
    if rate == 0 {
        return;
    }
    let mut life = Life { state, plan, rng: Rng::new(seed ^ 0x11fe), fills: Vec::new(), lost: None, ids: 0 };
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    // What a pause has held up is done after it: in the long run there are so many changes a second.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        ticks.tick().await;
        if let Err(error) = life.change().await {
            eprintln!("sim: a change of the cluster failed: {error}");
        }
    }
}

struct Life {
    state: State,
    plan: Plan,
    rng: Rng,
    /// Guests whose secondary is being filled, by index.
    fills: Vec<usize>,
    /// A host that is lost, by index.
    lost: Option<usize>,
    /// How many ids were made.
    ids: u64,
}

/// The records of one guest, as they are.
struct Records {
    assignment: Assignment,
    report: GuestReport,
    in_sync: InSync,
}

impl Records {
    fn of(view: &ClusterView, guest: &Guest) -> Option<Records> {
        Some(Records {
            assignment: view.assignments.get(&guest.name)?.clone(),
            report: view.guest_reports.get(&guest.name)?.clone(),
            in_sync: view.in_sync.get(&guest.volume)?.clone(),
        })
    }
}

impl Life {
    /// One transaction.
    async fn change(&mut self) -> Result<(), StoreError> {
        if self.rng.below(HOST_ONE_IN) == 0 {
            return self.lose_or_find_a_host().await;
        }
        match self.rng.below(100) {
            0..40 => self.fill().await,
            40..60 => self.restart().await,
            60..75 => self.move_one().await,
            75..90 => self.work().await,
            _ => self.tell().await,
        }
    }

    fn any_guest(&mut self) -> Option<Guest> {
        let index = self.rng.index(self.plan.guests.len());
        self.plan.guests.get(index).cloned()
    }

    /// Ids grow with time, as those of real records do.
    fn id(&mut self) -> uuid::Uuid {
        self.ids += 1;
        let mut bytes = [0; 10];
        bytes[2..].copy_from_slice(&self.ids.to_be_bytes());
        let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default();
        Builder::from_unix_timestamp_millis(now, &bytes).into_uuid()
    }

    fn event(&mut self, kind: EventKind, subject: String, message: String) -> Event {
        Event {
            id: EventId(self.id()),
            at: Timestamp::now(),
            severity: if kind == EventKind::HostLost { Severity::Error } else { Severity::Info },
            kind,
            subject,
            seen_by: self.plan.me().clone(),
            message,
        }
    }

    async fn write(&self, build: impl FnOnce(&ClusterView, &mut TxnBuilder<'_>)) -> Result<(), StoreError> {
        let outcome = self.state.change(|view, txn| {
            build(view, txn);
            !txn.is_empty()
        });
        // Somebody on the page may have changed the same record: then this change does not happen.
        outcome.await.map(|_| ())
    }

    /// A secondary is filled a little further; when it is full, another one's turn comes.
    async fn fill(&mut self) -> Result<(), StoreError> {
        if self.fills.len() < FILLS_MAX && !self.plan.guests.is_empty() {
            self.fills.push(self.rng.index(self.plan.guests.len()));
        }
        let at = self.rng.index(self.fills.len());
        let Some(guest) = self.fills.get(at).and_then(|index| self.plan.guests.get(*index)).cloned() else {
            return Ok(());
        };
        let records = Records::of(&self.state.view(), &guest);
        let Some(Records { mut report, .. }) = records.filter(|r| r.assignment.secondary.is_some()) else {
            self.fills.swap_remove(at);
            return Ok(());
        };
        let Some(volume) = report.volumes.first_mut() else { return Ok(()) };
        let done = volume.fill.as_ref().map_or(0, |fill| fill.done) + FILL_STEP;
        if done >= FILL_TOTAL {
            (volume.state, volume.fill) = (VolumeState::Mirroring, None);
            self.fills.swap_remove(at);
        } else {
            volume.state = VolumeState::Syncing;
            volume.fill = Some(FillProgress {
                done,
                total: FILL_TOTAL,
                how: Some(FillHow::Whole),
                why: "its old file is gone".to_owned(),
                sent: Some(done),
                bytes_per_second: 100 << 20,
            });
        }
        self.write(|_, txn| {
            txn.put(&report);
        })
        .await
    }

    /// A guest goes down, or comes up again.
    async fn restart(&mut self) -> Result<(), StoreError> {
        let Some(guest) = self.any_guest() else { return Ok(()) };
        let Some(Records { mut report, .. }) = Records::of(&self.state.view(), &guest) else { return Ok(()) };
        let (state, kind, word) = match report.state {
            GuestState::Running => {
                (GuestState::Starting, EventKind::GuestStopped, "was restarted from within")
            }
            GuestState::Preparing
            | GuestState::Starting
            | GuestState::Stopping
            | GuestState::Stopped
            | GuestState::Failed
            | GuestState::Deleted => (GuestState::Running, EventKind::GuestStarted, "runs"),
        };
        (report.state, report.since) = (state, Timestamp::now());
        let event = self.event(kind, format!("guest/{}", guest.name), format!("{} {word}", guest.name));
        self.write(|view, txn| {
            txn.put(&report).create(&event);
            clear_events(view, txn);
        })
        .await
    }

    /// A guest changes its host with its secondary's.
    async fn move_one(&mut self) -> Result<(), StoreError> {
        let Some(guest) = self.any_guest() else { return Ok(()) };
        let view = self.state.view();
        let Some(Records { mut assignment, mut report, in_sync }) = Records::of(&view, &guest) else {
            return Ok(());
        };
        let Some(to) = assignment.secondary.take() else { return Ok(()) };
        let (Some(boot_id), Some(from_boot)) = (boot(&view, &to), boot(&view, &assignment.host)) else {
            return Ok(());
        };
        let from = std::mem::replace(&mut assignment.host, to.clone());
        assignment.secondary = Some(from.clone());
        assignment.epoch = assignment.epoch.next();
        assignment.why = format!("the balance moved it from {from}");
        (report.host, report.boot_id, report.epoch) = (to.clone(), boot_id, assignment.epoch);
        let members =
            [Replica { host: to.clone(), boot_id }, Replica { host: from.clone(), boot_id: from_boot }];
        let in_sync = in_sync.followed_by(assignment.epoch, members.into(), Timestamp::now());
        let message = format!("{} moved from {from} to {to} while it ran", guest.name);
        let event = self.event(EventKind::GuestMoved, format!("guest/{}", guest.name), message);
        drop(view);
        self.write(|view, txn| {
            txn.put(&assignment).put(&report).put(&in_sync).create(&event);
            clear_events(view, txn);
        })
        .await
    }

    /// A job begins, goes on, or ends.
    async fn work(&mut self) -> Result<(), StoreError> {
        let view = self.state.view();
        let open = view.job_reports.values().rev().find(|report| !report.state.is_terminal()).cloned();
        drop(view);
        let Some(mut report) = open.filter(|_| self.rng.percent(90)) else { return self.begin_job().await };
        match report.steps.iter_mut().find(|step| step.state != StepState::Done) {
            Some(step) => {
                step.state =
                    if step.state == StepState::Running { StepState::Done } else { StepState::Running };
                report.state = JobState::Running;
            }
            None => (report.state, report.ended_at) = (JobState::Done, Some(Timestamp::now())),
        }
        self.write(|_, txn| {
            txn.put(&report);
        })
        .await
    }

    async fn begin_job(&mut self) -> Result<(), StoreError> {
        let Some(guest) = self.any_guest() else { return Ok(()) };
        let to = self.rng.index(self.plan.hosts.len());
        let place = GuestPlace { host: self.plan.hosts[to].0.clone(), secondary: None };
        let job = JobSpec {
            id: JobId(self.id()),
            kind: JobKind::MoveGuest {
                guest: guest.name,
                to: place,
                options: MoveOptions::default(),
                heals: None,
            },
            created_at: Timestamp::now(),
            requested_by: "balance".to_owned(),
            runner: None,
            cancel: false,
        };
        let report = JobReport::new(job.id, ["fill", "hand over", "drop"]);
        self.write(|view, txn| {
            txn.create(&job).create(&report);
            if let Some(oldest) = view.jobs.keys().next().filter(|_| view.jobs.len() >= JOBS_MAX) {
                txn.delete(&keys::job(*oldest)).delete(&keys::job_report(*oldest));
            }
        })
        .await
    }

    /// Something happens that changes no record.
    async fn tell(&mut self) -> Result<(), StoreError> {
        let index = self.rng.index(self.plan.hosts.len());
        let host = self.plan.hosts[index].0.clone();
        let message = format!("the loss of {host} would leave no guest without a place");
        let event = self.event(EventKind::CapacityChanged, format!("host/{host}"), message);
        self.write(|view, txn| {
            txn.create(&event);
            clear_events(view, txn);
        })
        .await
    }

    /// Its guests stay where they are, and nobody knows how they are, until it comes back.
    async fn lose_or_find_a_host(&mut self) -> Result<(), StoreError> {
        if let Some((host, boot_id)) = self.lost.take().map(|index| self.plan.hosts[index].clone()) {
            let event =
                self.event(EventKind::HostOnline, format!("host/{host}"), format!("{host} is online"));
            let session = Session { host, boot_id, started_at: Timestamp::now() };
            return self
                .write(|_, txn| {
                    txn.create(&session).create(&event);
                })
                .await;
        }
        let index = self.rng.index(self.plan.hosts.len());
        if index == 0 {
            return Ok(());
        }
        self.lost = Some(index);
        let host = self.plan.hosts[index].0.clone();
        let event = self.event(EventKind::HostLost, format!("host/{host}"), format!("{host} is lost"));
        self.write(|_, txn| {
            txn.delete(&keys::session(&host)).create(&event);
        })
        .await
    }
}

fn boot(view: &ClusterView, host: &HostName) -> Option<model::BootId> {
    view.sessions.get(host).map(|session| session.boot_id)
}

fn clear_events(view: &ClusterView, txn: &mut TxnBuilder<'_>) {
    let too_many = (view.events.len() + 1).saturating_sub(EVENTS_MAX);
    for id in view.events.keys().take(too_many.min(4)) {
        txn.delete(&keys::event(*id));
    }
}
