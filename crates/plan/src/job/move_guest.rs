//! Moving a guest, or its secondary, to other hosts.
//!
//! ```text
//!   fill the new host        the secondary is put there at the same epoch, and is filled by the guest's own host
//!   hand over                the guest stands still; one transaction makes the secondary's host the owner
//!   start there
//!   fill the new secondary   as the first step, from the new host
//!   drop old replicas        hosts that have no part in the guest any more delete theirs
//! ```
//!
//! Which steps there are follows from where the guest is and where it shall be. At each moment the guest has an
//! owner and, but for the time of a fill, two replicas in sync. The owner keeps its old secondary until the new
//! one is ready to be filled. Nobody is told to delete a replica before the new pair is in sync.
//!
//! The guest stands still while it changes its host: for some tenths of a second if it is sent while it runs, which
//! is what happens unless somebody asks for a restart or it does not run; see `handover.rs`.
//!
//! Everything that a step needs stands in the records: the assignment says what was asked for, the in-sync sets
//! and reports what has come of it, and [`Moving`] where the guest came from. An epoch that this move did not
//! write means that somebody else changed the owner, because a host was lost: then the move fails, and leaves
//! the guest to what was decided.
//!
//! A guest in storage that hosts share has no replica to fill and none to drop: it is handed over to any host that
//! reaches its pool, and that is all.
//!
//! Undoing takes a pending handover back, and puts the secondary back where it was, unless the new one is in
//! sync by then. What heals a guest (`heal.rs`) is such a move of the secondary alone. A guest that has changed its host stays there, unless it does not start: then it is handed back
//! to the host that it came from, if that one still holds every acknowledged write.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use model::{
    Assignment, BootId, ClusterView, Duty, EventKind, GuestName, GuestPlace, GuestReport, GuestSpec,
    GuestState, HandoverKind, HostName, JobKind, JobReport, JobSpec, JobState, Liveness, MoveOptions, Moving,
    Pool, PoolName, PowerWish, ReplicaDrop, StepState, VolumeId, VolumeReport, VolumeState,
};

use super::guest::message;
use super::{Effect, RestsOn, Seen, end, go, move_of};

const FILL_HOST: &str = "fill the new host";
const HAND_OVER: &str = "hand over";
const START: &str = "start there";
const FILL_SECONDARY: &str = "fill the new secondary";
const DROP: &str = "drop old replicas";

/// How long a host that is being filled may be missing, before the old one is filled again instead.
const MISSING_MAX: SignedDuration = SignedDuration::from_secs(15);

/// How long a host may take until its replica can be filled. It allocates the room first.
const FILL_BEGINS_WITHIN: SignedDuration = SignedDuration::from_mins(10);

/// One move at one moment.
struct Move<'a> {
    view: &'a ClusterView,
    job: &'a JobSpec,
    guest: &'a GuestName,
    to: &'a GuestPlace,
    options: &'a MoveOptions,
    /// Since when the guest has had one replica, if that is why it is made.
    heals: Option<Timestamp>,
    now: Timestamp,
}

/// The guest's records.
#[derive(Clone, Copy)]
struct At<'a> {
    spec: &'a GuestSpec,
    assignment: &'a Assignment,
    /// Of its present owner, at this epoch.
    report: Option<&'a GuestReport>,
}

pub(super) fn advance(
    view: &ClusterView,
    job: &JobSpec,
    report: &mut JobReport,
    now: Timestamp,
) -> Vec<Effect> {
    let JobKind::MoveGuest { guest, to, options, heals } = &job.kind else { return vec![] };
    let this = Move { view, job, guest, to, options, heals: *heals, now };
    if report.state == JobState::Undoing {
        return this.undo(report);
    }
    if report.moving.is_none() {
        match this.begin() {
            Ok((moving, steps)) => {
                report.steps = JobReport::new(job.id, steps).steps;
                report.moving = Some(moving);
            }
            Err(why) => {
                fail(report, why);
                return this.undo(report);
            }
        }
    }
    this.forward(report)
}

fn fail(report: &mut JobReport, why: String) {
    report.error = Some(why);
    go(report, JobState::Undoing);
}

impl<'a> Move<'a> {
    fn at(&self) -> Result<At<'a>, String> {
        let spec = self.view.guests.get(self.guest).ok_or("the guest was deleted meanwhile")?;
        let assignment = self.view.assignments.get(self.guest).filter(|a| a.guest_id == spec.id);
        let assignment = assignment.ok_or("the guest has no host yet; it is placed first")?;
        let report = self.view.guest_reports.get(self.guest).filter(|report| {
            report.guest_id == spec.id
                && report.host == assignment.host
                && report.epoch == assignment.epoch
                && self.view.liveness(&report.host) == Liveness::Live(report.boot_id)
        });
        Ok(At { spec, assignment, report })
    }

    /// What is to be done, or why it cannot be.
    fn begin(&self) -> Result<(Moving, Vec<&'static str>), String> {
        let at = self.at()?;
        let (spec, now) = (at.spec, at.assignment);
        let first = |job: &JobSpec| (job.created_at, job.id);
        let begun = |job: &JobSpec| self.view.job_reports.get(&job.id).is_some_and(|r| r.moving.is_some());
        let mut others = move_of(self.view, self.guest).filter(|job| job.id != self.job.id);
        if others.any(|other| begun(other) || first(other) < first(self.job)) {
            return Err("another move of it is under way".into());
        }
        if spec.deleting {
            return Err("the guest is being deleted".into());
        }
        let some_local = spec.disks.iter().any(|disk| disk.pool == Pool::Local);
        if spec.disks.is_empty() || some_local && !spec.is_local() {
            return Err("some of its disks are local, and some are mirrored; convert it first".into());
        }
        let unmirrored = self.is_unmirroring(spec, now);
        if unmirrored && is_stopped(at) {
            return Err(
                "it does not run: its host ends the mirror only while it does, so start it first".into()
            );
        }
        if spec.is_shared() && (self.to.secondary.is_some() || self.to.host == now.host) {
            return Err("its disks are in storage that hosts share: it has no secondary to move".into());
        }
        if spec.is_local() && !unmirrored && (self.to.secondary.is_some() || self.to.host == now.host) {
            return Err(format!("its disks are local: {} alone holds them", now.host));
        }
        if !self.view.is_live(&now.host) {
            return Err(format!(
                "its host {} is lost; it is recovered by itself, if that can be done",
                now.host
            ));
        }
        let target = self.secondary(spec, now);
        if target.as_ref() == Some(&self.to.host) {
            return Err(format!("both of its copies would be on {}", self.to.host));
        }
        let newcomers = std::iter::once(&self.to.host).chain(&target);
        for host in newcomers.filter(|host| **host != now.host) {
            let holds = now.secondary.as_ref() == Some(host);
            self.may_come(host, holds && host != &self.to.host)?;
        }
        let trouble = |pool: &&PoolName| self.view.pool_problem(&self.to.host, pool);
        if let Some(why) = spec.named_pools().iter().find_map(trouble) {
            return Err(format!("host {} cannot take it: {why}", self.to.host));
        }
        let steps = match unmirrored {
            true => vec![DROP],
            false => steps(now, &self.to.host, target.as_ref(), spec.is_shared()),
        };
        let copies = steps.contains(&FILL_HOST) || steps.contains(&FILL_SECONDARY);
        if copies && (spec.power == PowerWish::Stopped || is_stopped(at)) {
            return Err(not_copied_while_stopped());
        }
        let from = GuestPlace { host: now.host.clone(), secondary: now.secondary.clone() };
        let moving = Moving {
            from,
            epoch: now.epoch,
            waits_since: None,
            how: None,
            down_since: None,
            returning: false,
            dropping: false,
        };
        Ok((moving, steps))
    }

    /// Whether the guest only gives up its second replica: its disks were mirrored, and are to be local.
    fn is_unmirroring(&self, spec: &GuestSpec, now: &Assignment) -> bool {
        spec.is_local() && now.secondary.is_some() && self.to.host == now.host && self.to.secondary.is_none()
    }

    /// Where the secondary shall be: where a copy is anyway, if nobody said.
    fn secondary(&self, spec: &GuestSpec, now: &Assignment) -> Option<HostName> {
        if spec.is_local() || spec.is_shared() {
            return None;
        }
        let kept = if now.host == self.to.host { now.secondary.clone() } else { Some(now.host.clone()) };
        self.to.secondary.clone().or(kept)
    }

    /// Whether a host may be given the guest or a replica of it. One that only keeps what it has may be on its
    /// way out.
    fn may_come(&self, host: &HostName, keeps: bool) -> Result<(), String> {
        let record = self.view.hosts.get(host).ok_or(format!("there is no host {host}"))?;
        if !self.view.is_live(host) {
            return Err(format!("host {host} is {}", self.view.host_phase(host)));
        }
        if record.duty != Duty::Normal && !keeps {
            return Err(format!("host {host} takes nothing: its duty is {}", record.duty));
        }
        Ok(())
    }

    fn forward(&self, report: &mut JobReport) -> Vec<Effect> {
        go(report, JobState::Running);
        let Some(mut moving) = report.moving.clone() else { return vec![] };
        if let Some(now) = self.view.assignments.get(self.guest) {
            self.note_arrival(now, &mut moving);
        }
        let at = match self.go_on(report, &moving) {
            Ok(at) => at,
            Err(why) => {
                let running = report.steps.iter_mut().find(|step| step.state == StepState::Running);
                if let Some(step) = running.filter(|_| !self.job.cancel) {
                    step.state = StepState::Failed;
                }
                fail(report, why);
                return vec![];
            }
        };
        let mut effects = vec![];
        let mut failure = None;
        for step in report.steps.iter_mut().filter(|step| step.state != StepState::Done) {
            step.state = StepState::Running;
            step.note = None;
            match self.step(&step.name, at, &mut moving) {
                Seen::Done => {
                    step.state = StepState::Done;
                    moving.waits_since = None;
                    if step.name == START {
                        effects.push(self.tell(at, &moving));
                    }
                }
                Seen::Waits(note) => {
                    step.note = Some(note);
                    break;
                }
                Seen::Does(more, note) => {
                    step.note = Some(note);
                    effects.extend(more);
                    break;
                }
                Seen::Fails(why) => {
                    step.state = StepState::Failed;
                    moving.returning = step.name == START;
                    failure = Some(why);
                    break;
                }
            }
        }
        report.moving = Some(moving);
        match failure {
            Some(why) => fail(report, why),
            None if report.steps.iter().all(|step| step.state == StepState::Done) => {
                end(report, JobState::Done, self.now);
            }
            None => {}
        }
        effects
    }

    /// Whether the move may go on at all.
    fn go_on(&self, report: &JobReport, moving: &Moving) -> Result<At<'a>, String> {
        let at = self.at()?;
        if at.spec.deleting {
            return Err("the guest is being deleted".into());
        }
        if at.assignment.epoch != moving.epoch {
            let Assignment { host, why, .. } = at.assignment;
            return Err(format!("the guest has come to {host} meanwhile: {why}"));
        }
        let step = report.steps.iter().find(|step| step.state != StepState::Done);
        // Once the guest has changed its host, or the new pair is in sync, the rest is quicker than going back.
        let late = step.is_none_or(|step| step.name == START || step.name == DROP);
        if self.job.cancel && !late {
            return Err("it was cancelled".into());
        }
        match self.recall(at, moving) {
            Some(why) => Err(why),
            None => Ok(at),
        }
    }

    fn step(&self, name: &str, at: At<'_>, moving: &mut Moving) -> Seen {
        match name {
            FILL_HOST => self.fill(at, &self.to.host, moving),
            HAND_OVER => self.hand_over(at, moving),
            START => start(at),
            FILL_SECONDARY => match &self.to.secondary {
                Some(secondary) => self.fill(at, secondary, moving),
                None => Seen::Done,
            },
            DROP => self.drop_old(at, moving),
            other => Seen::Fails(format!("this build knows no step '{other}'")),
        }
    }

    fn boot(&self, host: &HostName) -> Option<BootId> {
        match self.view.liveness(host) {
            Liveness::Live(boot) => Some(boot),
            Liveness::Lost => None,
        }
    }

    /// Whether the boot of a host that is live now holds every acknowledged write, by the word of the present
    /// owner.
    fn is_in_sync(&self, at: At<'_>, host: &HostName) -> bool {
        self.boot(host).is_some_and(|boot| {
            at.spec.disks.iter().all(|disk| {
                let set = self.view.in_sync.get(&disk.volume);
                set.is_some_and(|set| set.epoch == at.assignment.epoch && set.contains(host, boot))
            })
        })
    }

    /// Whether a host could go on with the guest, for all that is known of its disks.
    fn could_take(&self, at: At<'_>, host: &HostName) -> bool {
        if at.spec.is_shared() { self.view.is_live(host) } else { self.is_in_sync(at, host) }
    }

    /// The in-sync replica beside the owner's, by the records, if its host is live in that boot.
    fn other_in_sync(&self, at: At<'_>) -> Option<HostName> {
        let disk = at.spec.disks.first()?;
        let mut members = self.view.in_sync.get(&disk.volume)?.members.iter();
        let other = members.find(|replica| replica.host != at.assignment.host)?;
        self.is_in_sync(at, &other.host).then(|| other.host.clone())
    }

    fn compare_in_sync(&self, at: At<'_>) -> impl Iterator<Item = Effect> {
        let volumes: Vec<VolumeId> = at.spec.disks.iter().map(|disk| disk.volume).collect();
        volumes.into_iter().map(|volume| Effect::Compare(RestsOn::InSync(volume)))
    }

    /// Puts the secondary on `target` and waits until it is in sync.
    fn fill(&self, at: At<'_>, target: &HostName, moving: &mut Moving) -> Seen {
        let Assignment { host: owner, secondary, .. } = at.assignment;
        if secondary.as_ref() == Some(target) && self.is_in_sync(at, target) {
            return Seen::Done;
        }
        if is_stopped(at) {
            return Seen::Fails(not_copied_while_stopped());
        }
        if !self.view.is_live(owner) {
            return match self.other_in_sync(at) {
                Some(other) => {
                    Seen::Fails(format!("{owner} is lost, and {other} has what is needed to go on"))
                }
                None => Seen::Waits(format!("{owner} is lost")),
            };
        }
        if secondary.as_ref() == Some(target) {
            return self.wait_for_fill(at, target, moving);
        }
        if !self.view.is_live(target) {
            return Seen::Fails(format!("{target} is lost"));
        }
        let running = at.report.is_some_and(|report| report.state == GuestState::Running);
        if !self.has_recorded(at) {
            return Seen::Waits(format!("{owner} records its replicas"));
        }
        if at.assignment.handover.is_some() || !running {
            return Seen::Waits(format!("it does not run on {owner} yet"));
        }
        if self.drops(at).any(|drop| &drop.host == target) {
            return Seen::Waits(format!("{target} has an older replica to delete first"));
        }
        let to = Assignment { secondary: Some(target.clone()), ..at.assignment.clone() };
        let effects = vec![Effect::Reassign(to), Effect::Compare(RestsOn::Session(target.clone()))];
        Seen::Does(effects, format!("{target} makes room for a replica"))
    }

    fn wait_for_fill(&self, at: At<'_>, target: &HostName, moving: &mut Moving) -> Seen {
        let volumes = at.report.map(|report| report.volumes.as_slice()).unwrap_or_default();
        let filling = volumes.iter().any(|volume| volume.state == VolumeState::Syncing);
        let live = self.view.is_live(target);
        if live && filling {
            moving.waits_since = None;
            let percent = percent_filled(volumes);
            return Seen::Waits(format!("{target} is filled: {percent} %"));
        }
        let waited = self.waited(moving);
        if !live {
            let back = self.way_back(at, moving);
            return match back.filter(|_| waited >= MISSING_MAX) {
                Some(_) if self.heals.is_some() => {
                    Seen::Fails(format!("{target} was lost while it was filled"))
                }
                Some(back) => {
                    Seen::Fails(format!("{target} was lost while it was filled; {back} is filled again"))
                }
                None => Seen::Waits(format!("{target} is lost")),
            };
        }
        let problem = self.problem_of(target);
        if waited >= FILL_BEGINS_WITHIN {
            let why = problem.unwrap_or_else(|| "it does not say why".into());
            return Seen::Fails(format!("{target} serves no replica that could be filled: {why}"));
        }
        Seen::Waits(problem.unwrap_or_else(|| format!("{target} makes room for a replica")))
    }

    /// For how long the present wait has lasted. One that begins in the future was written by a leader whose clock was
    /// ahead of this one's, and begins now.
    fn waited(&self, moving: &mut Moving) -> SignedDuration {
        let since = moving.waits_since.filter(|since| *since <= self.now).unwrap_or(self.now);
        moving.waits_since = Some(since);
        self.now.duration_since(since)
    }

    /// What a host says of this guest.
    fn problem_of(&self, host: &HostName) -> Option<String> {
        let problems = &self.view.host_reports.get(host)?.problems;
        let about = format!("{}: ", self.guest);
        problems.iter().find_map(|problem| Some(format!("{host}: {}", problem.strip_prefix(&about)?)))
    }

    fn tell(&self, at: At<'_>, moving: &Moving) -> Effect {
        let (from, to) = (&moving.from.host, &at.assignment.host);
        let how = moving.how.map(|how| format!(" {how}")).unwrap_or_default();
        let up = at.report.filter(|report| report.state == GuestState::Running).map(|report| report.since);
        let down = match (moving.how, moving.down_since, up) {
            // Its old host tells for how long it stood still.
            (Some(HandoverKind::Live), _, _) => String::new(),
            // Two hosts' clocks: a small difference may make it negative.
            (_, Some(since), Some(up)) => {
                format!("; it was down for {:.1} s", up.duration_since(since).as_secs_f64().max(0.0))
            }
            (_, None, _) | (_, _, None) => "; it did not run".to_owned(),
        };
        Effect::Tell {
            kind: EventKind::GuestMoved,
            subject: format!("guest/{}", self.guest),
            message: format!("'{}' moved from {from} to {to}{how}{down}", self.guest),
        }
    }

    /// Hosts that this move had to do with, and that have no part in the guest any more.
    fn leavers(&self, at: At<'_>, moving: &Moving) -> BTreeSet<HostName> {
        let GuestPlace { host, secondary } = &moving.from;
        let involved = [host, &self.to.host].into_iter().chain(secondary).chain(&self.to.secondary);
        let part =
            |host: &&HostName| *host == &at.assignment.host || at.assignment.secondary.as_ref() == Some(host);
        involved.filter(|host| !part(host)).cloned().collect()
    }

    /// Whether a host that is told to delete a replica keeps it for as long as the record counts on it.
    fn keeps(&self, drop: &ReplicaDrop) -> bool {
        let Liveness::Live(boot) = self.view.liveness(&drop.host) else { return false };
        self.view.in_sync.get(&drop.volume).is_some_and(|set| set.contains(&drop.host, boot))
    }

    fn drops(&self, at: At<'_>) -> impl Iterator<Item = &'a ReplicaDrop> {
        let volumes: BTreeSet<VolumeId> = at.spec.disks.iter().map(|disk| disk.volume).collect();
        self.view.drops.values().filter(move |drop| volumes.contains(&drop.volume))
    }

    fn order_drops(&self, at: At<'_>, moving: &mut Moving) -> Vec<Effect> {
        moving.dropping = true;
        let leavers = self.leavers(at, moving);
        let orders = leavers.iter().flat_map(|host| {
            at.spec.disks.iter().map(|disk| {
                Effect::DropReplica(ReplicaDrop {
                    host: host.clone(),
                    volume: disk.volume,
                    guest_id: at.spec.id,
                    why: format!("'{}' has its replicas elsewhere now", self.guest),
                    pool_name: None,
                })
            })
        });
        orders.chain(self.compare_in_sync(at)).collect()
    }

    fn drop_old(&self, at: At<'_>, moving: &mut Moving) -> Seen {
        if let Some(effects) = self.leave_alone(at) {
            return Seen::Does(effects, "the old host lets go of it".into());
        }
        if !self.is_alone(at) {
            return Seen::Waits("the old host lets go of it".into());
        }
        if !moving.dropping {
            // Of a guest that does not run nothing is filled; what the others hold counts for nothing already.
            let pair =
                at.assignment.secondary.iter().chain([&at.assignment.host]).filter(|_| !is_stopped(at));
            if let Some(behind) = pair.into_iter().find(|host| !self.is_in_sync(at, host)) {
                return Seen::Waits(format!("the replica on {behind} is not in sync"));
            }
            let effects = self.order_drops(at, moving);
            return Seen::Does(effects, "the old hosts are told".into());
        }
        // A host that is lost deletes its replica when it returns.
        let stays = |drop: &ReplicaDrop| is_stopped(at) && self.keeps(drop);
        match self.drops(at).find(|drop| self.view.is_live(&drop.host) && !stays(drop)) {
            Some(drop) => Seen::Waits(format!("{} deletes its replica", drop.host)),
            None => Seen::Done,
        }
    }

    /// Whether the owner has recorded itself at its epoch. Until then its last owner's replica may be the only good
    /// one, and that one stays the secondary.
    fn has_recorded(&self, at: At<'_>) -> bool {
        let epoch = at.assignment.epoch;
        let unsaid = |volume| self.view.in_sync.get(volume).is_some_and(|set| set.epoch != epoch);
        !at.spec.disks.iter().any(|disk| unsaid(&disk.volume))
    }

    /// Ends the mirroring of a guest whose disks are local again.
    fn leave_alone(&self, at: At<'_>) -> Option<Vec<Effect>> {
        let mirrored = at.spec.is_local() && at.assignment.secondary.is_some();
        if mirrored && !self.has_recorded(at) {
            return Some(vec![]);
        }
        mirrored.then(|| {
            let alone = Assignment { secondary: None, handed_over_by: None, ..at.assignment.clone() };
            let holds = std::iter::once(Effect::Compare(RestsOn::Session(alone.host.clone())));
            std::iter::once(Effect::Reassign(alone)).chain(holds).chain(self.compare_in_sync(at)).collect()
        })
    }

    /// Whether no other replica is counted on, of a guest whose disks are local.
    fn is_alone(&self, at: At<'_>) -> bool {
        let counted = |volume| self.view.in_sync.get(volume).map_or(0, |set| set.members.len());
        !at.spec.is_local() || at.spec.disks.iter().all(|disk| counted(&disk.volume) <= 1)
    }

    /// Whether the records count on a replica beside the owner's and the assigned secondary's.
    fn is_counted_on(&self, at: At<'_>, secondary: &HostName) -> bool {
        let other = |host: &HostName| host != &at.assignment.host && host != secondary;
        at.spec.disks.iter().any(|disk| {
            let set = self.view.in_sync.get(&disk.volume);
            set.is_some_and(|set| set.members.iter().any(|replica| other(&replica.host)))
        })
    }

    /// Where the secondary was before this move put it elsewhere, if that host is live. A guest that is healed had
    /// nothing but a lost host, and goes back to waiting for it: its old replica is the last resort until there is a
    /// new one.
    fn way_back(&self, at: At<'_>, moving: &Moving) -> Option<HostName> {
        let before = if at.assignment.host == moving.from.host {
            moving.from.secondary.clone()
        } else {
            Some(moving.from.host.clone())
        };
        let may_wait = self.heals.is_some();
        self.other_in_sync(at).or(before).filter(|host| may_wait || self.view.is_live(host))
    }

    fn undo(&self, report: &mut JobReport) -> Vec<Effect> {
        if let (Some(mut moving), Ok(at)) = (report.moving.clone(), self.at()) {
            self.note_arrival(at.assignment, &mut moving);
            let taken_back = self.take_back(at, &mut moving);
            report.moving = Some(moving);
            if let Some(effects) = taken_back {
                return effects;
            }
        }
        for step in report.steps.iter_mut() {
            step.note = None;
            if step.state == StepState::Running {
                step.state = StepState::Undone;
            }
        }
        let called_off = self.job.cancel || self.was_recalled(report);
        end(report, if called_off { JobState::Cancelled } else { JobState::Failed }, self.now);
        vec![]
    }

    /// The next thing to take back; nothing to do while it is waited for. `None`: all that can be is taken back.
    fn take_back(&self, at: At<'_>, moving: &mut Moving) -> Option<Vec<Effect>> {
        let now = at.assignment;
        let home = moving.from.host.clone();
        let pending = now.handover.as_ref().filter(|handover| handover.job == self.job.id);
        if let Some(handover) = pending {
            return if handover.to == home && now.host != home && self.could_take(at, &home) {
                Some(self.go_home(at, &home, moving))
            } else {
                Some(vec![Effect::Reassign(Assignment { handover: None, ..now.clone() })])
            };
        }
        if self.is_stranded(at, &home, moving) {
            return Some(self.ask_handover(at, &home, HandoverKind::Restart));
        }
        // Whoever owns it by now: a guest on local disks has one host when its move is over.
        if !at.spec.deleting {
            if let Some(effects) = self.leave_alone(at) {
                return Some(effects);
            }
            if !self.is_alone(at) {
                return Some(vec![]);
            }
        }
        let placed_by_this = |secondary: &HostName| {
            now.epoch == moving.epoch
                && [Some(&self.to.host), self.to.secondary.as_ref()].contains(&Some(secondary))
        };
        if let Some(secondary) = now.secondary.as_ref().filter(|secondary| placed_by_this(secondary))
            && !self.is_in_sync(at, secondary)
            && !at.spec.deleting
        {
            if let Some(back) = self.way_back(at, moving).filter(|back| back != secondary) {
                // What it has is to be deleted, and the order would outlive its coming back.
                let deletes = |drop: &ReplicaDrop| drop.host == back && !self.keeps(drop);
                if self.view.is_live(&back) && self.drops(at).any(deletes) {
                    return Some(vec![]);
                }
                // Who is to drop a replica is another one then; and the owner may have admitted the new one by now.
                moving.dropping = false;
                let back = Effect::Reassign(Assignment { secondary: Some(back), ..now.clone() });
                return Some(std::iter::once(back).chain(self.compare_in_sync(at)).collect());
            }
            // The old secondary is lost, and still counted on: either it comes back, or its replica is to be deleted
            // once the new one is filled. Nobody else would.
            if self.is_counted_on(at, secondary) {
                return Some(vec![]);
            }
        }
        if moving.dropping || at.spec.is_shared() || self.leavers(at, moving).is_empty() {
            return None;
        }
        Some(self.order_drops(at, moving))
    }

    /// Whether the guest has come to its new host by this move, does not start there, and could go back.
    fn is_stranded(&self, at: At<'_>, home: &HostName, moving: &Moving) -> bool {
        let now = at.assignment;
        let came = moving.returning && now.epoch == moving.epoch && now.host == self.to.host;
        // It may have started at last. While it is tried, the report says so for a moment.
        let runs = at.report.is_none_or(|report| report.state == GuestState::Running);
        let kept = at.spec.is_shared() || now.secondary.as_ref() == Some(home);
        came && !runs && kept && self.could_take(at, home)
    }

    fn go_home(&self, at: At<'_>, home: &HostName, moving: &mut Moving) -> Vec<Effect> {
        let Some(report) = at.report.filter(|report| report.state == GuestState::Stopped) else {
            return vec![];
        };
        let from = &at.assignment.host;
        let why = format!("it did not start on {from}, and came back");
        let message = format!("'{}' goes back from {from} to {home}: it did not start", self.guest);
        let mut effects = self.swap(at, report, (home, why), moving);
        let subject = format!("guest/{}", self.guest);
        effects.push(Effect::Tell { kind: EventKind::GuestMoved, subject, message });
        effects
    }
}

/// The steps from where a guest is to where it shall be.
fn steps(now: &Assignment, host: &HostName, secondary: Option<&HostName>, shared: bool) -> Vec<&'static str> {
    let moves = &now.host != host;
    let fills_host = moves && !shared && now.secondary.as_ref() != Some(host);
    // After the guest has moved, its old host holds the secondary.
    let after = if moves { Some(&now.host) } else { now.secondary.as_ref() };
    let fills_secondary = secondary.is_some() && after != secondary;
    let mut steps = vec![];
    if fills_host {
        steps.push(FILL_HOST);
    }
    if moves {
        steps.extend([HAND_OVER, START]);
    }
    if fills_secondary {
        steps.push(FILL_SECONDARY);
    }
    if fills_host || fills_secondary {
        steps.push(DROP);
    }
    steps
}

/// Whether the new owner runs the guest, if it is to run.
fn start(at: At<'_>) -> Seen {
    let host = &at.assignment.host;
    let Some(report) = at.report else { return Seen::Waits(format!("{host} takes it over")) };
    let note = report.message.clone();
    match report.state {
        GuestState::Running if report.boot_generation >= at.spec.boot_generation => Seen::Done,
        GuestState::Stopped => Seen::Done,
        GuestState::Failed => Seen::Fails(format!("it does not start on {host}: {}", message(note.as_ref()))),
        GuestState::Preparing
        | GuestState::Starting
        | GuestState::Running
        | GuestState::Stopping
        | GuestState::Deleted => Seen::Waits(note.unwrap_or_else(|| format!("{host} starts it"))),
    }
}

fn is_stopped(at: At<'_>) -> bool {
    at.report.is_some_and(|report| report.state == GuestState::Stopped) && at.assignment.handover.is_none()
}

/// How far the secondary is filled, of all volumes.
fn percent_filled(volumes: &[VolumeReport]) -> u64 {
    let fills = volumes.iter().filter_map(|volume| volume.fill.as_ref());
    let (done, total) = fills.fold((0, 0), |(done, total), fill| (done + fill.done, total + fill.total));
    let percent = if total == 0 { 0 } else { u128::from(done) * 100 / u128::from(total) };
    u64::try_from(percent).unwrap_or(100)
}

fn not_copied_while_stopped() -> String {
    "it does not run: a disk is copied only while its guest runs, so start it first".into()
}

mod handover;
mod heal;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;
