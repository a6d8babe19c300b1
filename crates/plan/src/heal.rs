//! Which guests get a new secondary because they have had one replica for too long.
//!
//! A guest is *degraded* while its owner's record names one replica of a mirrored volume; the record also says since
//! when ([`model::InSync::alone_since`]), so that a new leader goes on counting where the last one stopped. After the
//! grace time the guest is given another secondary, which is a move like any other (`job/move_guest`). Until then,
//! and while something else is under way with it, it waits; why is an answer of its own.
//!
//! ```text
//!   degraded ──▶ grace time ──▶ a place is found ──▶ a move, some at a time
//!                  │                └────▶ none: the reason of each host; looked at again and again
//!                  └── its host comes back: the old replica is filled, and gets the grace time once more for that
//! ```
//!
//! The place is judged as for any other move of a secondary: room, rules, the hosts' duties, the best score. One that
//! breaks the promise to survive a loss is taken when there is no other: a second copy of the data is worth more than
//! room to restart in.
//!
//! Fills load disks and the network of two hosts: each host takes part in one at a time, and the cluster makes
//! [`FILLS_MAX`].

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use model::{
    Assignment, ClusterView, Duty, GuestName, GuestPlace, GuestReport, GuestSpec, GuestState, HostName,
    JobKind, JobReport, JobSpec, JobState, Pool, Settings, VolumeState,
};

use crate::inventory::Inventory;
use crate::layout::Obstacle;
use crate::scene::{Scene, with_scene};
use crate::snapshot::{GuestIx, HostIx, Place};

/// Replicas that are filled at once in the whole cluster, whoever asked for them, before healing begins no more.
pub const FILLS_MAX: usize = 4;

/// How long a try that failed rests, at most; at least, a grace time that is shorter.
const REST_MAX: SignedDuration = SignedDuration::from_mins(10);
const REST_MIN: SignedDuration = SignedDuration::from_secs(10);

/// A guest that is to get a new secondary now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heal {
    pub guest: GuestName,
    /// Where it is, with its new secondary.
    pub to: GuestPlace,
    /// Since when it has had one replica.
    pub since: Timestamp,
}

/// What is done about degraded guests now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Healing {
    /// In the order of their priority.
    pub begin: Vec<Heal>,
    /// Guests whose turn has not come; phrases without a full stop.
    pub waits: BTreeMap<GuestName, String>,
    /// Guests that no host can hold the second replica of: each host's reason.
    pub stuck: BTreeMap<GuestName, String>,
}

/// How a guest stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// It has all its replicas, or is not to have two.
    Whole,
    /// Why it gets no new secondary now.
    Waits(String),
    /// It gets one as soon as there is a place.
    Due(Timestamp),
}

/// Whether anything is to be decided: a look that costs little.
pub fn is_any_due(view: &ClusterView, now: Timestamp) -> bool {
    let due = |spec: &GuestSpec| matches!(standing(view, spec, now), Standing::Due(_));
    view.guests.values().any(due)
}

/// Since when a guest has had one replica of a mirrored volume, by the word of its present owner.
pub fn degraded_since(view: &ClusterView, spec: &GuestSpec) -> Option<Timestamp> {
    let assignment = view.assignments.get(&spec.name).filter(|a| a.guest_id == spec.id)?;
    let mirrored = spec.disks.iter().filter(|disk| disk.pool == Pool::Mirror);
    let alone =
        mirrored.filter_map(|disk| view.in_sync.get(&disk.volume)).filter(|set| set.members.len() < 2);
    // The record of an earlier build does not say it. Its owner's session is younger than that build.
    let fallback = view.sessions.get(&assignment.host).map(|session| session.started_at);
    alone.filter_map(|set| set.alone_since.or(fallback)).min()
}

/// Decides. `inventory` is made from `view`, and leaves out the jobs that have ended.
pub fn heal(view: &ClusterView, inventory: &Inventory, now: Timestamp) -> Healing {
    let mut healing = Healing::default();
    let mut due = Vec::new();
    for spec in view.guests.values() {
        match standing(view, spec, now) {
            Standing::Whole => {}
            Standing::Waits(why) => {
                healing.waits.insert(spec.name.clone(), why);
            }
            Standing::Due(since) => due.push((std::cmp::Reverse(spec.priority), since, &spec.name)),
        }
    }
    due.sort();
    let mut busy = Busy::of(view);
    let mut inventory = inventory.clone();
    for (_, since, guest) in due {
        match turn(&inventory, guest, &busy) {
            Turn::Begin(to) => {
                busy.take(guest, &to);
                inventory.put(guest, &to);
                healing.begin.push(Heal { guest: guest.clone(), to, since });
            }
            Turn::Waits(why) => {
                healing.waits.insert(guest.clone(), why);
            }
            Turn::Stuck(why) => {
                healing.stuck.insert(guest.clone(), why);
            }
        }
    }
    healing
}

/// Why a degraded guest has no new secondary yet, for people. None: it is not degraded.
pub fn explain(
    view: &ClusterView,
    inventory: &Inventory,
    guest: &GuestName,
    now: Timestamp,
) -> Option<String> {
    match standing(view, view.guests.get(guest)?, now) {
        Standing::Whole => None,
        Standing::Waits(why) => Some(why),
        Standing::Due(_) => {
            let healing = heal(view, inventory, now);
            let begins = healing.begin.iter().find(|heal| &heal.guest == guest);
            let why = healing.waits.get(guest).cloned();
            let stuck = healing.stuck.get(guest);
            begins
                .and_then(|heal| heal.to.secondary.as_ref())
                .map(|host| format!("{host} is about to get its second replica"))
                .or(why)
                .or(stuck.map(|why| format!("no host can hold its second replica: {why}")))
        }
    }
}

/// Who could hold a guest's second replica instead of the host that does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secondaries {
    /// The best first.
    pub hosts: Vec<HostName>,
    /// Those with which the cluster could not keep its promise to survive a loss; the best first.
    pub forced: Vec<HostName>,
    /// Why others cannot, and what is against those of `forced`.
    pub reasons: BTreeMap<HostName, String>,
}

pub fn other_secondaries(inventory: &Inventory, guest: &GuestName) -> Secondaries {
    let Some(index) = inventory.guest_ix(guest) else { return Secondaries::default() };
    with_scene(&inventory.snapshot, |scene| candidates(inventory, scene, index))
}

fn standing(view: &ClusterView, spec: &GuestSpec, now: Timestamp) -> Standing {
    let assignment = view.assignments.get(&spec.name).filter(|a| a.guest_id == spec.id && !spec.deleting);
    let (Some(assignment), Some(since)) = (assignment, degraded_since(view, spec)) else {
        return Standing::Whole;
    };
    let grace = view.cluster.as_ref().map_or(Settings::default().heal_after_s, |c| c.settings.heal_after_s);
    if grace == 0 {
        return Standing::Waits("automatic healing is off (`kennel cluster set --heal-after`)".into());
    }
    let grace = SignedDuration::from_secs(i64::from(grace));
    let ripe = ripe_at(view, assignment, since, grace);
    let why = obstructed(view, spec, assignment)
        .or_else(|| too_early(assignment, ripe, now))
        .or_else(|| resting(view, &spec.name, grace, now));
    why.map_or(Standing::Due(since), Standing::Waits)
}

/// What must end before the guest can be healed.
fn obstructed(view: &ClusterView, spec: &GuestSpec, assignment: &Assignment) -> Option<String> {
    let owner = &assignment.host;
    if !view.is_live(owner) {
        return Some(format!("its host {owner} is lost"));
    }
    let report = view.guest_reports.get(&spec.name);
    let report = report.filter(|r| r.host == *owner && r.epoch == assignment.epoch && r.guest_id == spec.id);
    if report.is_none_or(|report| report.state != GuestState::Running) {
        return Some("it does not run, and a disk is copied only while its guest runs".into());
    }
    if let Some(job) = open_jobs(view).find(|job| guest_of(job) == Some(&spec.name)) {
        return Some(format!("the job '{}' is under way", job.kind));
    }
    if assignment.handover.is_some() {
        return Some("it is being handed over to another host".into());
    }
    if report.is_some_and(is_filling) {
        let secondary = assignment.secondary.as_ref().map_or("its secondary", |host| host.as_str());
        return Some(format!("the replica on {secondary} is being filled"));
    }
    let hosts = || std::iter::once(owner).chain(&assignment.secondary);
    let drained = |host: &&HostName| {
        open_jobs(view).any(|job| matches!(&job.kind, JobKind::DrainHost { host: at } if at == *host))
    };
    if let Some(host) = hosts().find(drained) {
        return Some(format!("{host} is being emptied"));
    }
    let kept = assignment.secondary.as_ref()?;
    let away = view.hosts.get(kept).is_some_and(|host| host.duty == Duty::Maintenance);
    away.then(|| format!("{kept}, which holds its other replica, is in maintenance and will be back"))
}

/// From when on it is healed. A secondary's host that is back is given the grace time once more.
fn ripe_at(
    view: &ClusterView,
    assignment: &Assignment,
    since: Timestamp,
    grace: SignedDuration,
) -> Timestamp {
    let secondary = assignment.secondary.as_ref().filter(|host| view.is_live(host));
    let back = secondary.and_then(|host| view.sessions.get(host)).map(|session| session.started_at);
    since.max(back.unwrap_or(since)) + grace
}

fn too_early(assignment: &Assignment, ripe: Timestamp, now: Timestamp) -> Option<String> {
    let secondary = assignment.secondary.as_ref().map_or("its secondary", |host| host.as_str());
    (now < ripe).then(|| format!("{secondary} has until {ripe:.0} to be in sync again"))
}

/// A try that failed rests.
fn resting(view: &ClusterView, guest: &GuestName, grace: SignedDuration, now: Timestamp) -> Option<String> {
    let heals = |job: &&JobSpec| matches!(&job.kind, JobKind::MoveGuest { heals: Some(_), .. });
    let tries = view.jobs.values().filter(|job| guest_of(job) == Some(guest)).filter(heals);
    let reports = tries.filter_map(|job| view.job_reports.get(&job.id));
    let last: &JobReport = reports.filter(|r| r.ended_at.is_some()).max_by_key(|report| report.ended_at)?;
    if last.state == JobState::Done {
        return None;
    }
    let until = last.ended_at? + grace.clamp(REST_MIN, REST_MAX);
    let why = last.error.as_deref().unwrap_or("it does not say why");
    (now < until).then(|| format!("the last try was taken back ({why}); the next one comes at {until:.0}"))
}

fn is_filling(report: &GuestReport) -> bool {
    report.volumes.iter().any(|volume| volume.state == VolumeState::Syncing)
}

fn open_jobs(view: &ClusterView) -> impl Iterator<Item = &JobSpec> {
    view.jobs.values().filter(|job| !view.job_reports.get(&job.id).is_some_and(|r| r.state.is_terminal()))
}

/// The one guest that a job is about.
pub(crate) fn guest_of(job: &JobSpec) -> Option<&GuestName> {
    match &job.kind {
        JobKind::CreateGuest { guest }
        | JobKind::DeleteGuest { guest }
        | JobKind::StartGuest { guest }
        | JobKind::StopGuest { guest }
        | JobKind::RestartGuest { guest }
        | JobKind::MoveGuest { guest, .. } => Some(guest),
        JobKind::BuildImage { .. }
        | JobKind::VerifyVolume { .. }
        | JobKind::DrainHost { .. }
        | JobKind::Balance { .. } => None,
    }
}

/// Who takes part in a fill.
struct Busy {
    hosts: BTreeSet<HostName>,
    fills: BTreeSet<GuestName>,
}

impl Busy {
    fn of(view: &ClusterView) -> Busy {
        let mut busy = Busy { hosts: BTreeSet::new(), fills: BTreeSet::new() };
        for job in open_jobs(view) {
            if let JobKind::MoveGuest { guest, to, .. } = &job.kind {
                busy.take(guest, to);
            }
        }
        for (guest, _) in view.guest_reports.iter().filter(|(_, report)| is_filling(report)) {
            if let Some(Assignment { host, secondary, .. }) = view.assignments.get(guest) {
                busy.take(guest, &GuestPlace { host: host.clone(), secondary: secondary.clone() });
            }
        }
        busy
    }

    fn take(&mut self, guest: &GuestName, place: &GuestPlace) {
        self.hosts.extend(std::iter::once(&place.host).chain(&place.secondary).cloned());
        self.fills.insert(guest.clone());
    }
}

enum Turn {
    Begin(GuestPlace),
    Waits(String),
    Stuck(String),
}

fn turn(inventory: &Inventory, guest: &GuestName, busy: &Busy) -> Turn {
    let Some(index) = inventory.guest_ix(guest) else { return Turn::Stuck("there is no such guest".into()) };
    let Some(place) = inventory.snapshot.guest(index).place else {
        return Turn::Stuck("it is nowhere".into());
    };
    let found = other_secondaries(inventory, guest);
    // The promise to survive a loss gives way only when nothing else does.
    let hosts = if found.hosts.is_empty() { &found.forced } else { &found.hosts };
    let Some(best) = hosts.first() else {
        let each = found.reasons.iter().map(|(host, why)| format!("{host}: {why}"));
        let each = each.collect::<Vec<_>>().join("; ");
        return Turn::Stuck(if each.is_empty() { "there is no other host".into() } else { each });
    };
    if busy.fills.len() >= FILLS_MAX {
        return Turn::Waits(format!("{} replicas are being filled; its turn comes", busy.fills.len()));
    }
    let owner = inventory.host_name(place.host);
    let is_busy = |host: &HostName| busy.hosts.contains(host);
    match hosts.iter().find(|host| !is_busy(host)).filter(|_| !is_busy(owner)) {
        Some(host) => Turn::Begin(GuestPlace { host: owner.clone(), secondary: Some(host.clone()) }),
        None => {
            let host = if is_busy(owner) { owner } else { best };
            Turn::Waits(format!("{host} takes part in another guest's move or fill; its turn comes"))
        }
    }
}

fn candidates(inventory: &Inventory, scene: &mut Scene<'_, '_>, guest: GuestIx) -> Secondaries {
    let Some(now) = scene.place(guest) else { return Secondaries::default() };
    let others =
        scene.snapshot().host_indices().filter(|host| *host != now.host && Some(*host) != now.secondary);
    let mut kept: Vec<(f64, HostIx)> = Vec::new();
    let mut forced: Vec<(f64, HostIx)> = Vec::new();
    let mut reasons = BTreeMap::new();
    for host in others {
        let place = Place { host: now.host, secondary: Some(host) };
        let obstacle = scene.obstacle(guest, place);
        if let Some(obstacle) = &obstacle {
            reasons.insert(inventory.host_name(host).clone(), inventory.explain(guest, obstacle));
        }
        match obstacle {
            None => kept.push((scene.score_after(guest, place), host)),
            Some(Obstacle::TakeOver { .. }) => forced.push((scene.score_after(guest, place), host)),
            Some(_) => {}
        }
    }
    let sorted = |mut hosts: Vec<(f64, HostIx)>| {
        hosts.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        hosts.into_iter().map(|(_, host)| inventory.host_name(host).clone()).collect()
    };
    Secondaries { hosts: sorted(kept), forced: sorted(forced), reasons }
}

#[cfg(test)]
mod tests;
