//! The leader: the counterpart of `daemon::leader`. It decides over its view, and writes one change after the other,
//! each on what it saw and each comparing its own record.

use std::collections::{BTreeMap, VecDeque};

use jiff::{SignedDuration, Timestamp};
use model::{ClusterView, ConfirmedDead, JobId, JobKind, JobSpec, Losses, ReplicaDrop};
use plan::decide::{Change, decide};
use plan::fence::FenceProof;
use plan::job::moves::Measured;
use plan::job::{Effect, RestsOn, advance, holders, moves, void_drops};
use plan::limits::SESSION_TTL;

use crate::daemon::local;
use crate::fencing::{Chore, Fencing};
use crate::mutant::Mutant;
use crate::names::{guest_ix, host_ix, host_name};
use crate::request::{Asked, NoReply, Replied, Reply, Who};
use crate::store::{Draft, Key, Record};
use crate::world::{Event, MS, S, Time, World, note};

const LOOK_EVERY: Time = 5 * S;
const AFTER_FAILURE: Time = 500 * MS;
/// How long a change may take to come back through the watch.
const ECHO_TIMEOUT: Time = 3 * S;
/// Between two looks at the jobs of several moves.
const MOVES_EVERY: Time = 500 * MS;
/// Ended jobs kept: fewer than in a real cluster, to keep the simulation quick.
const ENDED_JOBS_MAX: usize = 12;

#[derive(Debug, Clone)]
enum Todo {
    /// Before everything else.
    Losses(Losses),
    Change(Box<Change>),
    /// Everything about fences, looked at anew.
    Fences,
    Fence(Chore),
    Job(JobId),
    Trim,
}

/// A leader, or a daemon that would become one.
#[derive(Debug, Default)]
pub struct Leader {
    /// The revision at which this daemon's leader record was written.
    pub since: Option<i64>,
    queue: VecDeque<Todo>,
    /// A request is under way.
    busy: bool,
    campaigns: bool,
    /// It does not know what became of something that it wrote.
    doubtful: bool,
    /// Until its own write has come back through the watch.
    awaits: Option<i64>,
    again: bool,
    tick: u64,
    moves_looked_at: Time,
    pub pause: Time,
    /// Before then no host counts as lost.
    recover_from: Option<Timestamp>,
    pub fencing: Fencing,
}

impl Leader {
    /// The next turn comes by then.
    pub fn wake_within(&mut self, delay: Time) {
        self.pause = self.pause.min(delay);
    }
}

impl World {
    fn leader(&mut self, host: usize) -> &mut Leader {
        &mut self.daemon(host).leader
    }

    /// A turn, if one is due; or the end of a wait for the watch.
    pub fn lead(&mut self, host: usize, tick: u64) {
        let leader = self.leader(host);
        if leader.tick != tick || leader.busy {
            return;
        }
        if leader.awaits.take().is_some() {
            return self.next_todo(host);
        }
        self.leader_turn(host);
    }

    /// The view has changed, or the session.
    pub fn leader_hears(&mut self, host: usize) {
        let revision = self.daemon(host).cache.revision;
        let leader = self.leader(host);
        if leader.busy {
            leader.again = true;
        } else if let Some(awaited) = leader.awaits {
            if revision >= awaited {
                leader.awaits = None;
                self.next_todo(host);
            }
        } else {
            self.leader_wakes(host, MS / 2);
        }
    }

    fn leader_wakes(&mut self, host: usize, delay: Time) {
        let life = self.daemon(host).life;
        let leader = self.leader(host);
        leader.tick += 1;
        let tick = leader.tick;
        self.after_local(host, delay, Event::Lead { host, life, tick });
    }

    fn leader_turn(&mut self, host: usize) {
        let now = self.mono(host);
        let name = host_name(host);
        let daemon = self.daemon(host);
        daemon.leader.pause = LOOK_EVERY;
        daemon.leader.again = false;
        let Some(lease) = daemon.standing.lease.filter(|_| daemon.standing.is_live(now)) else {
            daemon.leader.since = None;
            daemon.leader.fencing.stop();
            return self.leader_wakes(host, LOOK_EVERY);
        };
        let recorded = daemon.cache.revision_of(Key::Leader);
        if daemon.leader.since != Some(recorded) {
            daemon.leader.since = None;
        }
        if daemon.leader.since.is_none() {
            daemon.leader.fencing.stop();
            let led_by = daemon.cache.view.leader.clone();
            match led_by {
                Some(other) if other != name => {
                    daemon.leader.doubtful = false;
                    return self.leader_wakes(host, LOOK_EVERY);
                }
                Some(_) if daemon.cache.leader_lease == Some(lease) && !daemon.leader.doubtful => {
                    daemon.leader.since = Some(recorded);
                }
                Some(_) | None => return self.campaign(host, lease),
            }
        }
        self.decide(host);
        self.next_todo(host);
    }

    fn campaign(&mut self, host: usize, lease: u64) {
        let cache = &self.daemon(host).cache;
        let old = cache.view.leader.is_some();
        let mut draft = cache.draft();
        let txn = if old {
            // An earlier life of this daemon led.
            draft.delete(Key::Leader).build()
        } else {
            draft.create(Record::Leader(host_name(host), lease), Some(lease)).build()
        };
        let leader = self.leader(host);
        (leader.busy, leader.campaigns) = (true, !old);
        self.request(host, Who::Leader, Asked::Commit(txn));
    }

    fn decide(&mut self, host: usize) {
        let (now, mono) = (self.wall(host), self.mono(host));
        let shown = self.shown(host);
        let daemon = self.daemon(host);
        let alive_for = daemon.standing.live_since.map_or(0, |since| mono - since);
        let missing = (local(SESSION_TTL) - alive_for).max(0);
        let recover_from = now + SignedDuration::from_micros(missing);
        let view = shown.as_ref().unwrap_or(&daemon.cache.view);
        let decision = decide(view, now, recover_from);
        if let Some(wake_at) = decision.wake_at {
            let wait = wake_at.duration_since(now).as_micros().max(1000) as Time;
            daemon.leader.pause = daemon.leader.pause.min(wait);
        }
        let mut queue: VecDeque<Todo> = decision.losses.into_iter().map(Todo::Losses).collect();
        queue.extend(decision.changes.into_iter().map(|change| Todo::Change(Box::new(change))));
        daemon.leader.recover_from = Some(recover_from);
        queue.push_back(Todo::Fences);
        let open = open_jobs(&daemon.cache.view);
        queue.extend(open.map(|job| Todo::Job(job.id)));
        queue.push_back(Todo::Trim);
        daemon.leader.queue = queue;
    }

    /// What the decider is shown instead of the view, by a mutant.
    fn shown(&mut self, host: usize) -> Option<ClusterView> {
        let mutant = self.mutant?;
        let view = &self.daemon(host).cache.view;
        let mut shown = view.clone();
        #[expect(clippy::wildcard_enum_match_arm, reason = "the other mutants do their wrong elsewhere")]
        match mutant {
            Mutant::NoRules => shown.rules.clear(),
            Mutant::StartWithoutProof => {
                for host in view.hosts.keys().filter(|host| !view.is_live(host)) {
                    let Some(report) = view.host_reports.get(host) else { continue };
                    let word = ConfirmedDead {
                        host: host.clone(),
                        boot_id: report.boot_id,
                        by: "nobody".into(),
                        at: Timestamp::UNIX_EPOCH,
                    };
                    shown.confirmed_dead.insert(host.clone(), word);
                }
            }
            Mutant::NoStormGuard => shown.losses = Some(calm(view)),
            Mutant::NoMemoryCount => {
                shown.guests.values_mut().for_each(|spec| spec.memory = model::Bytes::mib(1));
            }
            Mutant::PromoteAnyBoot => {
                for set in shown.in_sync.values_mut() {
                    set.members = std::mem::take(&mut set.members)
                        .into_iter()
                        .map(|mut replica| {
                            if let Some(session) = view.sessions.get(&replica.host) {
                                replica.boot_id = session.boot_id;
                            }
                            replica
                        })
                        .collect();
                }
            }
            _ => return None,
        }
        Some(shown)
    }

    /// Takes what is next in the turn, until one must wait for the store.
    fn next_todo(&mut self, host: usize) {
        loop {
            let Some(todo) = self.leader(host).queue.pop_front() else {
                let (again, pause) = (self.leader(host).again, self.leader(host).pause);
                let delay = if again { MS } else { pause };
                return self.leader_wakes(host, delay);
            };
            let txn = match todo {
                Todo::Losses(losses) => self.note_losses(host, losses),
                Todo::Change(change) => self.compose(host, &change),
                Todo::Fences => {
                    self.look_at_fences(host);
                    None
                }
                Todo::Fence(chore) => self.fence_chore(host, chore),
                Todo::Job(id) => self.advance_job(host, id),
                Todo::Trim => self.trim(host),
            };
            if let Some(txn) = txn {
                self.leader(host).busy = true;
                self.request(host, Who::Leader, Asked::Commit(txn));
                return;
            }
        }
    }

    fn look_at_fences(&mut self, host: usize) {
        let now = self.wall(host);
        let recover_from = self.leader(host).recover_from.unwrap_or(now);
        let (chores, wake_at) = self.fence_chores(host, recover_from);
        let leader = self.leader(host);
        if let Some(wake_at) = wake_at {
            leader.wake_within(wake_at.duration_since(now).as_micros().max(1000) as Time);
        }
        for chore in chores.into_iter().rev() {
            leader.queue.push_front(Todo::Fence(chore));
        }
    }

    pub fn leader_replied(&mut self, host: usize, replied: Replied) {
        let revision = self.daemon(host).cache.revision;
        let leader = self.leader(host);
        leader.busy = false;
        let campaigned = std::mem::take(&mut leader.campaigns);
        match replied {
            Ok(Reply::Committed(written)) => {
                if campaigned {
                    leader.doubtful = false;
                    leader.since = Some(written);
                    leader.again = true;
                    note!(self, "host{} leads", host + 1);
                }
                if revision >= written {
                    self.next_todo(host);
                } else {
                    let leader = self.leader(host);
                    leader.awaits = Some(written);
                    self.leader_wakes(host, ECHO_TIMEOUT);
                }
            }
            Ok(_) => self.next_todo(host),
            Err(why) => {
                leader.queue.clear();
                if why == NoReply::Unknown {
                    (leader.since, leader.doubtful) = (None, true);
                    leader.fencing.stop();
                }
                self.leader_wakes(host, AFTER_FAILURE);
            }
        }
    }

    /// The transaction of one change, on the very records that it was decided on.
    fn compose(&mut self, host: usize, change: &Change) -> Option<crate::store::Txn> {
        let (any_boot, blindly) = (self.has(Mutant::PromoteAnyBoot), self.has(Mutant::PromoteBlindly));
        let same_epoch = self.has(Mutant::SameEpoch);
        let (unproven, waits) = (self.has(Mutant::StartWithoutProof), self.has(Mutant::WaitForTheFence));
        let daemon = self.daemon(host);
        let (view, since) = (&daemon.cache.view, daemon.leader.since?);
        let mut draft = daemon.cache.draft();
        draft.at(Key::Leader, since);
        let sound = match change {
            Change::Assign { to } => {
                draft.unchanged(Key::Guest(guest_ix(&to.guest))).create(Record::Assignment(to.clone()), None);
                view.guests.get(&to.guest).is_some_and(|spec| spec.id == to.guest_id && !spec.deleting)
            }
            Change::Promote { from, to, volumes } => {
                let session = Key::Session(host_ix(&to.host));
                let epoch = if same_epoch { from.epoch } else { to.epoch };
                let promoted = model::Assignment { epoch, ..to.clone() };
                draft.put(Record::Assignment(promoted)).unchanged(session).exists(session);
                for order in void_drops(view, to) {
                    draft.delete(Key::Drop(host_ix(&order.host), order.volume));
                }
                if !blindly {
                    for volume in volumes {
                        draft.unchanged(Key::InSync(*volume));
                    }
                }
                let boot = view.sessions.get(&to.host).map(|session| session.boot_id);
                let holds = |volume| {
                    any_boot
                        || boot.is_some_and(|boot| {
                            view.in_sync.get(volume).is_some_and(|set| set.contains(&to.host, boot))
                        })
                };
                let fenced = waits && FenceProof::find(view, from).is_none();
                !fenced && view.assignments.get(&to.guest) == Some(from) && volumes.iter().all(holds)
            }
            Change::Recover { from, to, proof } => {
                let (session, old) = (Key::Session(host_ix(&to.host)), host_ix(&from.host));
                draft.put(Record::Assignment(to.clone())).unchanged(session).exists(session);
                draft.absent(Key::Session(old));
                match proof {
                    FenceProof::Confirmed { .. } => draft.unchanged(Key::ConfirmedDead(old)),
                    FenceProof::PowerOff { .. } | FenceProof::Reset { .. } => {
                        draft.unchanged(Key::Fence(old))
                    }
                    FenceProof::SaidStopped => draft.unchanged(Key::GuestReport(guest_ix(&from.guest))),
                };
                let proven = unproven || FenceProof::find(view, from).as_ref() == Some(proof);
                view.assignments.get(&to.guest) == Some(from) && proven
            }
        };
        let txn = draft.build();
        if sound {
            note!(self, "host{} decides: {}", host + 1, in_words(change));
        }
        sound.then_some(txn)
    }

    fn note_losses(&mut self, host: usize, losses: Losses) -> Option<crate::store::Txn> {
        let daemon = self.daemon(host);
        let since = daemon.leader.since?;
        let txn = daemon.cache.draft().at(Key::Leader, since).put(Record::Losses(losses.clone())).build();
        if let Some(storm) = &losses.storm {
            note!(self, "host{} sees a storm: {} of {} hosts", host + 1, storm.hosts.len(), storm.of);
        }
        Some(txn)
    }

    fn advance_job(&mut self, host: usize, id: JobId) -> Option<crate::store::Txn> {
        let now = self.wall(host);
        let due = self.now >= self.leader(host).moves_looked_at + MOVES_EVERY;
        if self.has(Mutant::ForgetJobs) && self.rng.percent(30) {
            return self.forget_job(host, id);
        }
        let virtual_now = self.now;
        let daemon = self.daemon(host);
        let (view, since) = (&daemon.cache.view, daemon.leader.since?);
        let job = view.jobs.get(&id)?;
        let mut draft = daemon.cache.draft();
        draft.at(Key::Leader, since);
        if is_of_moves(&job.kind) {
            if !due {
                daemon.leader.pause = daemon.leader.pause.min(MOVES_EVERY);
                return None;
            }
            let (report, start) = moves::advance(view, job, &Measured(&BTreeMap::new()), now)?;
            draft.unchanged(Key::Job(id)).put(Record::JobReport(report));
            if let Some(start) = start {
                draft.create(Record::Job(start), None);
            }
            let txn = draft.build();
            daemon.leader.moves_looked_at = virtual_now;
            return Some(txn);
        }
        let (report, effects) = advance(view, job, view.job_reports.get(&id), now)?;
        let line = format!("host{}: job {}: {} {}", host + 1, job.kind, report.state, where_it_is(&report));
        draft.put(Record::JobReport(report));
        effects.iter().for_each(|effect| apply(view, &mut draft, effect));
        let txn = draft.build();
        note!(self, "{line}");
        Some(txn)
    }

    /// What a mutant does with a job: its report says that it ended nowhere, and nobody looks again.
    fn forget_job(&mut self, host: usize, id: JobId) -> Option<crate::store::Txn> {
        let daemon = self.daemon(host);
        let since = daemon.leader.since?;
        let report = daemon.cache.view.job_reports.get(&id)?.clone();
        let ended = model::JobReport {
            state: model::JobState::Failed,
            ended_at: Some(Timestamp::UNIX_EPOCH),
            ..report
        };
        let mut draft = daemon.cache.draft();
        Some(draft.at(Key::Leader, since).put(Record::JobReport(ended)).build())
    }

    /// Removes the oldest jobs that have ended.
    fn trim(&mut self, host: usize) -> Option<crate::store::Txn> {
        let daemon = self.daemon(host);
        let since = daemon.leader.since?;
        let reports = daemon.cache.view.job_reports.values();
        let ended: Vec<JobId> = reports.filter(|r| r.state.is_terminal()).map(|r| r.id).collect();
        let surplus = ended.len().saturating_sub(ENDED_JOBS_MAX);
        if surplus == 0 {
            return None;
        }
        let mut draft = daemon.cache.draft();
        draft.at(Key::Leader, since);
        for id in ended.into_iter().take(surplus) {
            draft.delete(Key::Job(id)).delete(Key::JobReport(id));
        }
        Some(draft.build())
    }
}

/// As if an operator had said, long ago, that whatever vanishes is lost for good.
pub fn calm(view: &ClusterView) -> Losses {
    let losses = view.losses.clone().unwrap_or_default();
    let lost = view.hosts.keys().filter(|host| view.host_phase(host) == model::HostPhase::Lost);
    let since = lost.map(|host| (host.clone(), Timestamp::UNIX_EPOCH));
    Losses { since: since.collect(), ..losses }
}

fn is_of_moves(kind: &JobKind) -> bool {
    matches!(kind, JobKind::DrainHost { .. } | JobKind::Balance { .. })
}

fn open_jobs(view: &ClusterView) -> impl Iterator<Item = &JobSpec> {
    let ended = |job: &JobSpec| view.job_reports.get(&job.id).is_some_and(|r| r.state.is_terminal());
    view.jobs.values().filter(move |job| job.runner.is_none() && !ended(job))
}

fn where_it_is(report: &model::JobReport) -> String {
    let step = report.steps.iter().find(|step| step.note.is_some());
    let note = step.map(|step| format!("{}: {}", step.name, step.note.as_deref().unwrap_or_default()));
    note.or(report.error.clone()).unwrap_or_default()
}

fn in_words(change: &Change) -> String {
    let (Change::Assign { to } | Change::Promote { to, .. } | Change::Recover { to, .. }) = change;
    format!("{} goes to {} at epoch {}: {}", to.guest, to.host, to.epoch, to.why)
}

fn apply(view: &ClusterView, draft: &mut Draft<'_>, effect: &Effect) {
    match effect {
        Effect::MarkDeleting { guest } => {
            if let Some(spec) = view.guests.get(guest) {
                draft.put(Record::Guest(model::GuestSpec { deleting: true, ..spec.clone() }));
            }
        }
        Effect::Forget { guest } => forget(view, draft, guest),
        Effect::Reassign(to) => {
            draft.put(Record::Assignment(to.clone()));
            for order in void_drops(view, to) {
                draft.delete(Key::Drop(host_ix(&order.host), order.volume));
            }
        }
        Effect::DropReplica(order) => {
            draft.put(Record::Drop(order.clone()));
        }
        Effect::Compare(RestsOn::InSync(volume)) => {
            draft.unchanged(Key::InSync(*volume));
        }
        Effect::Compare(RestsOn::GuestReport(guest)) => {
            draft.unchanged(Key::GuestReport(guest_ix(guest)));
        }
        Effect::Compare(RestsOn::Session(host)) => {
            let key = Key::Session(host_ix(host));
            draft.unchanged(key).exists(key);
        }
        Effect::Tell { .. } => {}
    }
}

/// Removes every record of a guest; each host that may still hold a replica is told to delete it.
fn forget(view: &ClusterView, draft: &mut Draft<'_>, guest: &model::GuestName) {
    let Some(spec) = view.guests.get(guest) else { return };
    let ix = guest_ix(guest);
    draft.delete(Key::Guest(ix));
    if let Some(assignment) = view.assignments.get(guest) {
        draft.delete(Key::Assignment(ix));
        // A lost owner of a volume that hosts share may be lost for good: another host deletes it.
        let orphaned = spec.is_shared() && !view.is_live(&assignment.host);
        let deletes = view.hosts.keys().filter(|host| orphaned && view.is_live(host)).take(1).cloned();
        for host in holders(view, spec, assignment).into_iter().chain(deletes) {
            for disk in &spec.disks {
                let why = format!("the guest '{guest}' was deleted");
                let order = ReplicaDrop {
                    host: host.clone(),
                    volume: disk.volume,
                    guest_id: spec.id,
                    pool_name: None,
                    why,
                };
                draft.put(Record::Drop(order));
            }
        }
    }
    if view.guest_reports.contains_key(guest) {
        draft.delete(Key::GuestReport(ix));
    }
    for disk in spec.disks.iter().filter(|disk| view.in_sync.contains_key(&disk.volume)) {
        draft.delete(Key::InSync(disk.volume));
    }
}
