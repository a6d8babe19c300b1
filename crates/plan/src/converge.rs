//! The next step that one host takes for one guest.
//!
//! [`next`] looks at what the store says and what is here, and names one step; the host takes it, looks
//! again, and asks again. Each step may be repeated, and the host may die after each.
//!
//! ```text
//!   owner                                        secondary's host
//!   ─────                                        ────────────────
//!   no record of the volumes ─ MakeVolumes       no file ─ MakeReplica
//!   in-sync set of an old epoch ─ TakeOver       not served at this epoch ─ Serve
//!   wished running, no machine ─ ClaimAlone,     served, no longer secondary ─ Withdraw
//!                                Start           a machine is here ─ End (disowned)
//!   secondary gone ─ LetGo (the record first, then the mirror)
//!   secondary back ─ Attach, then Admit when both are the same
//!   wished stopped ─ Shutdown, then End
//!   no authority ─ End
//! ```
//!
//! # Another secondary
//!
//! The leader writes another secondary into the assignment, at the same epoch. The owner keeps the old one, which
//! keeps serving because the record counts on it, until the new one serves; then it lets go of the old one, fills
//! the new one, and admits it. A host whose replica counts for nothing any more withdraws it, and deletes the
//! file once a record tells it to.
//!
//! # A handover by restart
//!
//! While the assignment asks for one, the owner ends the guest as for a stop, and starts nothing. The leader then
//! makes the secondary's host the owner. That one takes over with the old owner's replica in sync, if the old
//! owner said that the run ended cleanly and serves its replica at the new epoch within [`HOLD_MAX`]; so the guest
//! is mirrored from its first write, and nothing is copied. Otherwise it goes on alone, and fills the old owner's
//! replica from the beginning.
//!
//! # A guest that is not well
//!
//! What is to be done for it is decided in [`crate::health`], which knows what was done before. Here it only finds its
//! place: after everything that keeps the replicas as they should be, and never on a guest that is to stop.
//!
//! A handover while the guest runs stands in `converge/live.rs`; how a secondary is filled, in `converge/fill.rs`.
//!
//! # Storage that hosts share
//!
//! There is one file of a volume, and no second host to ask. The in-sync set names the owner alone: a new owner writes
//! itself into it ([`Step::TakeOver`]) before it starts anything. Whether it may own the guest at all, which is the
//! question of whether the old owner's machine is gone, was settled before ([`crate::fence`]). Nobody can confirm an
//! owner whose session is over, so it ends the guest.
//!
//! [`HOLD_MAX`]: crate::limits::HOLD_MAX

mod fill;
pub mod ladder;
mod live;
mod stop;
mod waits;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use jiff::Timestamp;
use model::{
    Assignment, BootId, CpuModel, Epoch, ExitReason, FillHow, GuestName, GuestSpec, HandoverKind,
    HealthRestart, HostName, InSync, JobId, Liveness, PowerWish, Replica, ReplicaFile, VolumeId,
};

pub use stop::is_to_stop;
use waits::{pause, turn};

/// Everything that one host knows about one guest at one moment.
#[derive(Debug, Clone)]
pub struct Situation {
    pub me: HostName,
    pub boot: BootId,
    pub spec: GuestSpec,
    pub assignment: Assignment,
    /// The in-sync set of each volume; a volume without one has not been made.
    pub in_sync: BTreeMap<VolumeId, InSync>,
    pub machine: Option<MachineFacts>,
    /// Volumes of the guest whose files are here.
    pub files: BTreeSet<VolumeId>,
    /// Those of them whose files are smaller than they are to be.
    pub short: BTreeSet<VolumeId>,
    /// Volumes of the guest that are served here, with the epoch that they are served for in this boot.
    /// `None`: for another epoch or boot.
    pub served: BTreeMap<VolumeId, Option<Epoch>>,
    /// The volumes of which a record tells this host to delete its replica.
    pub dropped: BTreeSet<VolumeId>,
    /// Why this host does not reach the pool of a guest whose storage hosts share.
    pub pool_trouble: Option<String>,
    /// The assigned secondary's host; of a guest whose storage hosts share, the one that it is handed over to.
    pub peer: Option<Peer>,
    /// The host of the replica that the in-sync sets name beside this one, if another secondary is assigned.
    pub former: Option<Peer>,
    pub authority: Authority,
    /// Until when this host promised an older owner not to start the guest.
    pub promised_until: Option<Timestamp>,
    /// How the guest's last run ended, as reported.
    pub exit: Option<(u64, ExitReason)>,
    /// Its last run ended by the guest's own shutdown, in this boot and epoch, or on the host that handed it over:
    /// no write was under way, so its replicas are the same to the byte. After a crash a write that nobody
    /// acknowledged may be on one only.
    pub ended_cleanly: bool,
    /// After failures: not to be tried before.
    pub not_before: Option<Timestamp>,
    /// The guest that must run before this one is started ([`crate::order::waits_for`]), and until when it is waited for.
    pub starts_after: Option<(GuestName, Timestamp)>,
    /// When this host asked the guest to shut down, for the first time and for the last.
    pub shutdown_asked_at: Option<(Timestamp, Timestamp)>,
    /// What runs the guest on its owner, for a host that is to take it in.
    pub elsewhere: Option<RunElsewhere>,
    /// Where the machine waits that the guest is to be sent to. On that machine's host: what it has told.
    pub incoming: Option<SocketAddr>,
    /// Where the guest was sent to last, and how often it was sent for the same handover.
    pub sent_to: Option<SocketAddr>,
    pub sends: u32,
    /// The job whose handover was given up here.
    pub gave_up_sending: Option<JobId>,
    /// Since when this host owns a guest that is on its way to it.
    pub arriving_since: Option<Timestamp>,
    /// The host that handed the guest over does not take its writes.
    pub mirror_back_failed: bool,
    /// Ways to fill the secondary that failed several times in a row.
    pub filled_in_vain: BTreeSet<FillHow>,
    /// After fills that failed: none is to be begun before.
    pub no_fill_before: Option<Timestamp>,
    /// There is room where the volumes are.
    pub has_room: bool,
    /// The guest is not well, and its machine is to be reset now ([`crate::health`]).
    pub reset: Option<HealthRestart>,
    /// It would not hear that it is to shut down: it has panicked, or is to be restarted elsewhere as it is.
    pub deaf: bool,
    pub now: Timestamp,
}

/// The machine that runs a guest on another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunElsewhere {
    pub machine_type: String,
    pub cpu: CpuModel,
    pub boot_generation: u64,
}

/// A machine of the guest on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineFacts {
    pub epoch: Epoch,
    pub boot_generation: u64,
    pub stage: Stage,
    pub mirrors: BTreeMap<VolumeId, MirrorFacts>,
    /// Of volumes without a mirror: the replica that lacks nothing but what its QEMU has recorded.
    pub records: BTreeMap<VolumeId, ReplicaFile>,
    /// It stands still, because a disk here found no room for a write.
    pub no_room: bool,
    /// Its guest is being sent to another host, or was.
    pub sending: Option<Sending>,
    /// Its disks were taken away from it for a handover that has not been made.
    pub withheld: bool,
}

/// How far a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Its processors have never been let run.
    Prelaunch,
    /// It waits for its guest, which runs on another host, or receives it.
    Incoming,
    /// Its guest is here and has not been let run.
    Arrived,
    /// Its processors were let run at least once.
    Running,
    /// Its guest has gone to another host: it reaches no disk any more.
    Left,
}

/// A guest on its way to another host, by the word of its QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sending {
    pub phase: SendPhase,
    /// How often all of memory has been gone through.
    pub iteration: u64,
    /// Bytes of memory that are still to be sent.
    pub remaining: u64,
    /// Bytes per second that the guest changes, and that are sent.
    pub dirty_rate: u64,
    pub throughput: u64,
    /// The guest may stand still for so long; unknown, and 0, after an adoption.
    pub downtime_limit_ms: u64,
    /// It may run there before all of it is there.
    pub post_copy: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendPhase {
    /// Its memory is sent, and it runs here.
    Memory,
    /// It stands still, with its disks at rest, until it is handed over or goes on here.
    AtSwitchover,
    /// It was handed over, and the rest of it is sent.
    Delivering,
    Delivered,
    /// One sentence without a full stop.
    Failed(String),
}

/// A mirror of one volume; there is none for a volume that is not in the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MirrorFacts {
    pub state: Mirror,
    /// The boot of the secondary's host that it is connected to; unknown after an adoption.
    pub target_boot: Option<BootId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mirror {
    Filling,
    Ready,
    /// It will not get better by itself.
    Broken,
}

/// The secondary's host, as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub host: HostName,
    pub liveness: Liveness,
    /// It answers, and serves all of the guest's volumes for this epoch and its present boot.
    pub serves: bool,
    /// It has not been seen to serve for so long that nobody should wait any more.
    pub gave_up: bool,
    /// It says that it has little room for volumes.
    pub full: bool,
    /// The files that it serves, as far as it says.
    pub files: BTreeMap<VolumeId, PeerFile>,
}

/// A file on another host that holds a replica, by that host's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerFile {
    /// As in [`ReplicaFile::file`].
    pub file: String,
    /// Nothing has ever been written to it.
    pub is_blank: bool,
}

/// By what right this host runs its guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// Its own session is live.
    Session,
    /// Its session is over, and the secondary's host keeps promising not to take over.
    Confirmed,
    None,
}

/// One step. Its executor has nothing left to choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make the files of these volumes, from nothing or an image; then record this host as their only replica.
    MakeVolumes {
        volumes: Vec<VolumeId>,
    },
    /// End the old epoch's connections to these replicas and flush them; then record this host as the only
    /// replica, at the new epoch, but for the old owner's that is the same and serves the new epoch.
    TakeOver {
        keep: Option<Replica>,
    },
    /// Record this host as the only replica.
    ClaimAlone,
    /// Start the machine, with its volumes mirrored from the first write if `mirror_to` says where.
    Start {
        mirror_to: Option<Replica>,
    },
    /// Let a guest go on that stands still for want of room.
    GoOn,
    /// Note that the machine is reset because the guest is not well; then reset it. Its disks and mirrors stay as they
    /// are, so its replicas stay in sync.
    Reset {
        restart: HealthRestart,
    },
    /// Ask the guest to shut down.
    Shutdown,
    /// End the machine at once.
    End {
        why: ExitReason,
    },
    /// Fill the secondary's replicas of these volumes; writes go to both from now on.
    Attach {
        volumes: Vec<VolumeId>,
        target: Replica,
        how: FillHow,
        /// Why by that; one sentence without a full stop.
        why: String,
    },
    /// Record that the secondary's replicas hold every acknowledged write.
    Admit {
        replica: Replica,
    },
    /// Record this host as the only replica; then end the mirrors.
    LetGo {
        why: String,
    },
    /// End mirrors that no record counts on.
    Detach {
        volumes: Vec<VolumeId>,
    },
    /// Make the files of these volumes as large as they are to be, and let the guest see it. Nothing mirrors them.
    Grow {
        volumes: Vec<VolumeId>,
    },
    /// Make the file of a secondary replica that is not served as large as it is to be.
    GrowReplica {
        volume: VolumeId,
    },
    /// Make an empty file for a secondary replica.
    MakeReplica {
        volume: VolumeId,
    },
    Serve {
        volume: VolumeId,
    },
    Withdraw {
        volume: VolumeId,
    },
    /// Delete a replica that counts for nothing, and the record that tells to.
    DropReplica {
        volume: VolumeId,
    },
    /// Start a machine that waits for the guest, and tell where.
    Receive {
        machine_type: String,
        cpu: CpuModel,
        boot_generation: u64,
    },
    /// Send the running guest to the machine that waits there.
    Send {
        to: SocketAddr,
    },
    /// Let it stand still for so long at the end.
    Adjust {
        downtime_limit_ms: u64,
    },
    StartPostCopy,
    /// Let the guest go on here; and say why it is not tried again for that job, if it is not.
    CancelSend {
        gave_up: Option<(JobId, String)>,
    },
    /// Make the other host the owner, in one transaction, then [`Step::Deliver`].
    HandOver {
        next: Assignment,
    },
    /// Give the guest to the host that owns it now, and serve the replica here.
    Deliver,
    /// Let the guest run that has arrived: end the old epoch's connections, flush, and mirror it from its first
    /// write if `mirror_to` says where.
    Arrive {
        mirror_to: Option<Replica>,
    },
    /// Delete the volumes of a deleted guest from this host.
    DeleteVolumes,
    /// Nothing to do until something changes, or until then.
    Rest {
        rest: Rest,
        until: Option<Timestamp>,
    },
}

impl Step {
    /// Why there is nothing to do, if so.
    pub fn rest(&self) -> Option<&Rest> {
        if let Step::Rest { rest, .. } = self { Some(rest) } else { None }
    }
}

/// Why there is nothing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rest {
    Running,
    Stopped,
    Stopping,
    /// The secondary is served, or this host has no part in the guest.
    Idle,
    Deleted,
    /// One sentence without a full stop.
    Waiting(String),
    /// It cannot go on without a person. One sentence without a full stop.
    Stuck(String),
}

/// The next step for a guest.
pub fn next(s: &Situation) -> Step {
    if s.assignment.host == s.me { owner(s) } else { bystander(s) }
}

fn rest(rest: Rest) -> Step {
    Step::Rest { rest, until: None }
}

/// Another host owns the guest.
fn bystander(s: &Situation) -> Step {
    if let Some(step) = s.machine.as_ref().and_then(|machine| live::visitor(s, machine)) {
        return step;
    }
    let assigned = s.assignment.secondary.as_ref() == Some(&s.me);
    let counted_on = |volume| s.in_sync.get(&volume).is_some_and(|set| set.contains(&s.me, s.boot));
    let is_kept = |volume| !s.spec.deleting && (assigned || counted_on(volume));
    if let Some(&volume) = s.served.keys().find(|volume| !is_kept(**volume)) {
        return Step::Withdraw { volume };
    }
    if s.spec.is_shared() {
        // What is in the pool is the owner's business.
        return live::receive(s).unwrap_or_else(|| rest(Rest::Idle));
    }
    if s.spec.deleting {
        return if s.files.is_empty() { rest(Rest::Idle) } else { Step::DeleteVolumes };
    }
    if let Some(&volume) = s.dropped.iter().find(|volume| !is_kept(**volume)) {
        return pause(s).unwrap_or(Step::DropReplica { volume });
    }
    for disk in s.spec.replicated(&s.assignment).filter(|disk| is_kept(disk.volume)) {
        let volume = disk.volume;
        match (s.files.contains(&volume), s.served.get(&volume)) {
            // An empty file in its place would be taken for the replica that the record counts on.
            (false, None) if counted_on(volume) => {
                let what =
                    format!("the file of the in-sync replica {volume} is missing; the owner will let it go");
                return rest(Rest::Stuck(what));
            }
            (false, Some(_)) => return Step::Withdraw { volume },
            (false, None) => return pause(s).unwrap_or(Step::MakeReplica { volume }),
            // It is served anew afterwards: an export has the size that its file had.
            (true, served) if s.short.contains(&volume) && !counted_on(volume) => {
                return match served {
                    Some(_) => Step::Withdraw { volume },
                    None => pause(s).unwrap_or(Step::GrowReplica { volume }),
                };
            }
            (true, Some(Some(epoch))) if *epoch == s.assignment.epoch => {}
            (true, Some(_) | None) => return Step::Serve { volume },
        }
    }
    live::receive(s).unwrap_or_else(|| rest(Rest::Idle))
}

/// This host owns the guest.
fn owner(s: &Situation) -> Step {
    let epoch = s.assignment.epoch;
    if let Some(machine) = s.machine.as_ref().filter(|machine| machine.epoch != epoch) {
        debug_assert!(machine.epoch < epoch, "a machine is never ahead of the store");
        return Step::End { why: ExitReason::Disowned };
    }
    if s.spec.deleting {
        return delete(s);
    }
    if let Some(step) = volumes_step(s) {
        return step;
    }
    match &s.machine {
        Some(machine) => match machine.stage {
            Stage::Prelaunch | Stage::Left => Step::End { why: ExitReason::Crashed },
            Stage::Incoming | Stage::Arrived => live::arrive(s, machine),
            Stage::Running => run(s, machine),
        },
        None => start(s),
    }
}

fn delete(s: &Situation) -> Step {
    if s.machine.is_some() {
        return Step::End { why: ExitReason::Stopped };
    }
    // What cannot be seen is not gone.
    if let Some(why) = &s.pool_trouble {
        return rest(Rest::Waiting(why.clone()));
    }
    match s.served.keys().next() {
        Some(&volume) => Step::Withdraw { volume },
        None if !s.files.is_empty() => Step::DeleteVolumes,
        None => rest(Rest::Deleted),
    }
}

/// What the volumes need before anything can run on them.
fn volumes_step(s: &Situation) -> Option<Step> {
    let disks = || s.spec.disks.iter().map(|disk| disk.volume);
    if s.machine.is_some() {
        return None;
    }
    if let Some(why) = &s.pool_trouble {
        return Some(rest(Rest::Waiting(why.clone())));
    }
    let unmade: Vec<VolumeId> = disks().filter(|volume| !s.in_sync.contains_key(volume)).collect();
    if !unmade.is_empty() {
        if s.authority != Authority::Session {
            return Some(rest(Rest::Waiting("the host's session is over".into())));
        }
        return Some(pause(s).unwrap_or(Step::MakeVolumes { volumes: unmade }));
    }
    let sets: Vec<(VolumeId, &InSync)> = disks().filter_map(|v| Some((v, s.in_sync.get(&v)?))).collect();
    let shared = s.spec.is_shared();
    if let Some((volume, _)) = sets.iter().find(|(_, set)| !shared && !set.contains_host(&s.me)) {
        let what = format!("{} owns the guest, but its replica of volume {volume} is not in sync", s.me);
        return Some(rest(Rest::Stuck(what)));
    }
    if let Some((volume, _)) = sets.iter().find(|(volume, _)| !s.files.contains(volume)) {
        let place = if shared { "in its pool, as seen from" } else { "on" };
        return Some(rest(Rest::Stuck(format!("the file of volume {volume} is missing {place} {}", s.me))));
    }
    if let Some((volume, _)) = sets.iter().find(|(_, set)| !shared && is_stale(s, set)) {
        return Some(rest(Rest::Stuck(format!(
            "{} started anew before it had taken the guest over, so its replica of volume {volume} may lack writes",
            s.me
        ))));
    }
    let current = |set: &InSync| set.epoch == s.assignment.epoch && set.contains_host(&s.me);
    let taken_over = sets.iter().all(|(_, set)| current(set)) && s.served.is_empty();
    if taken_over {
        return None;
    }
    match s.promised_until.filter(|until| *until > s.now) {
        Some(until) => Some(Step::Rest {
            rest: Rest::Waiting("this host promised the last owner to wait a few seconds".into()),
            until: Some(until),
        }),
        None => Some(take_over(s)),
    }
}

/// Whether this host's replica was a secondary's when its host went down, which loses what was in memory only. An
/// owner's own copy stays good, but this host became one by the record, and never flushed what it had taken before.
fn is_stale(s: &Situation, set: &InSync) -> bool {
    set.epoch != s.assignment.epoch && !set.contains(&s.me, s.boot)
}

/// With the replica of the host that handed the guest over, if that host serves it in time.
fn take_over(s: &Situation) -> Step {
    let alone = Step::TakeOver { keep: None };
    if s.spec.is_shared() {
        return alone;
    }
    let Some(replica) = s.assignment.handed_over_by.clone() else { return alone };
    let Some(peer) = s.peer.as_ref().filter(|peer| peer.host == replica.host) else { return alone };
    let same = peer.liveness == Liveness::Live(replica.boot_id)
        && all_replicated(s)
        && members(s).all(|set| set.contains(&replica.host, replica.boot_id) && set.contains(&s.me, s.boot));
    if same && peer.serves {
        Step::TakeOver { keep: Some(replica) }
    } else if same && !peer.gave_up {
        rest(Rest::Waiting(format!("{} is to serve its replica at the new epoch", replica.host)))
    } else {
        alone
    }
}

/// No machine, and the volumes are in order.
fn start(s: &Situation) -> Step {
    if s.spec.power == PowerWish::Stopped {
        return unmirror(s).unwrap_or_else(|| rest(Rest::Stopped));
    }
    let handed_over = s.assignment.handover.as_ref();
    if handed_over.is_some_and(|handover| handover.how == HandoverKind::Restart) {
        return rest(Rest::Stopped);
    }
    let shut_itself_down = s.exit == Some((s.spec.boot_generation, ExitReason::GuestShutdown));
    if shut_itself_down {
        return unmirror(s).unwrap_or_else(|| rest(Rest::Stopped));
    }
    if s.authority != Authority::Session {
        return rest(Rest::Waiting("the host's session is over".into()));
    }
    if let Some(pause) = pause(s).or_else(|| turn(s)) {
        return pause;
    }
    let alone = members(s).all(|set| set.members.len() == 1 && set.contains(&s.me, s.boot));
    if alone && !s.short.is_empty() {
        return Step::Grow { volumes: s.short.iter().copied().collect() };
    }
    if alone {
        return Step::Start { mirror_to: None };
    }
    match replica_to_keep(s).filter(|_| s.short.is_empty()) {
        Some(replica) => Step::Start { mirror_to: Some(replica) },
        None => Step::ClaimAlone,
    }
}

/// A guest on local disks has moved, or its move was taken back, and it does not run: nobody else would end its
/// mirror.
fn unmirror(s: &Situation) -> Option<Step> {
    let local = s.spec.is_local() && s.assignment.secondary.is_none() && s.assignment.handover.is_none();
    let counted_on_others = members(s).any(|set| set.members.len() > 1);
    (local && counted_on_others && s.authority == Authority::Session).then_some(Step::ClaimAlone)
}

/// The in-sync sets of the guest's volumes.
fn members(s: &Situation) -> impl Iterator<Item = &InSync> {
    s.spec.disks.iter().filter_map(|disk| s.in_sync.get(&disk.volume))
}

/// Whether two hosts are to hold every disk.
fn all_replicated(s: &Situation) -> bool {
    s.spec.replicated(&s.assignment).count() == s.spec.disks.len()
}

/// The secondary's replica, if it is in every in-sync set in the boot that is live now and serves this epoch,
/// so that a start need not fill it anew.
fn replica_to_keep(s: &Situation) -> Option<Replica> {
    let peer = s.peer.as_ref().filter(|peer| peer.serves && s.ended_cleanly)?;
    let Liveness::Live(boot_id) = peer.liveness else { return None };
    let kept = all_replicated(s)
        && members(s).all(|set| set.contains(&peer.host, boot_id) && set.contains(&s.me, s.boot));
    kept.then(|| Replica { host: peer.host.clone(), boot_id })
}

/// A machine runs at the current epoch.
fn run(s: &Situation, machine: &MachineFacts) -> Step {
    let counted_on_others = members(s).any(|set| set.members.len() > 1);
    if s.authority == Authority::None && (counted_on_others || s.spec.is_shared()) {
        return Step::End { why: ExitReason::Disowned };
    }
    // A guest that stands still for want of room is not sent.
    let send = || if machine.no_room { None } else { live::send(s, machine) };
    if let Some(step) = mirror_step(s, machine).or_else(send) {
        return step;
    }
    if is_to_stop(&s.spec, &s.assignment, machine.boot_generation) {
        return stop::stop(s);
    }
    if machine.no_room && s.has_room {
        return Step::GoOn;
    }
    if machine.no_room {
        let why = "a write to its disk found no room; make room on";
        return rest(Rest::Waiting(format!("{why} {}, and it goes on by itself", s.me)));
    }
    if let Some(restart) = s.reset.clone().filter(|_| s.authority == Authority::Session) {
        return Step::Reset { restart };
    }
    live::settled(machine)
}

/// Keeps the mirrors of a running machine, and the record of who is in sync, as they should be.
fn mirror_step(s: &Situation, machine: &MachineFacts) -> Option<Step> {
    if s.spec.is_shared() {
        return None;
    }
    let secondary_of = |set: &InSync| set.members.iter().find(|r| r.host != s.me).cloned();
    // One that is recorded, and is to be mirrored no more, is let go of like any other.
    let was = |volume: &VolumeId| s.in_sync.get(volume).is_some_and(|set| secondary_of(set).is_some());
    let local = s.spec.is_local() && s.assignment.secondary.is_none();
    let formerly = s.spec.disks.iter().map(|d| d.volume).filter(|volume| local && was(volume));
    let mirrored: Vec<VolumeId> =
        s.spec.replicated(&s.assignment).map(|d| d.volume).chain(formerly).collect();
    let recorded: Vec<Replica> = mirrored.iter().filter_map(|v| secondary_of(s.in_sync.get(v)?)).collect();
    if let Some(replica) = recorded.first() {
        let uniform = recorded.len() == mirrored.len() && recorded.iter().all(|r| r == replica);
        return let_go_reason(s, machine, &mirrored, replica, uniform)
            .or_else(|| successor(s, replica))
            .or_else(|| wish(s, replica))
            .map(|why| Step::LetGo { why })
            .or_else(|| say_anew(s, replica));
    }
    let useless: Vec<VolumeId> =
        machine.mirrors.iter().filter(|(_, m)| grows(s) || !is_useful(s, m)).map(|(v, _)| *v).collect();
    if !useless.is_empty() {
        return Some(Step::Detach { volumes: useless });
    }
    if grows(s) {
        let volumes = s.short.iter().copied().collect();
        let may = pause(s).is_none() && s.authority == Authority::Session;
        return may.then_some(Step::Grow { volumes });
    }
    let peer = s.peer.as_ref()?;
    let Liveness::Live(boot_id) = peer.liveness else { return None };
    let target = Replica { host: peer.host.clone(), boot_id };
    let absent: Vec<VolumeId> =
        mirrored.iter().copied().filter(|volume| !machine.mirrors.contains_key(volume)).collect();
    if !absent.is_empty() {
        let rested = pause(s).is_none() && s.no_fill_before.is_none_or(|until| until <= s.now);
        let ready = peer.serves && rested && !lacks_room(s, peer) && s.authority == Authority::Session;
        return if ready { fill::step(s, machine, peer, target, &absent) } else { None };
    }
    let all_ready = !mirrored.is_empty()
        && mirrored.iter().all(|v| machine.mirrors.get(v).is_some_and(|m| m.state == Mirror::Ready));
    (all_ready && peer.serves && s.authority == Authority::Session).then_some(Step::Admit { replica: target })
}

/// A guest that arrived while it ran is mirrored to its old owner, and the record that says so is the old owner's: it
/// says nothing of this host's flush. Written at this epoch it does.
fn say_anew(s: &Situation, replica: &Replica) -> Option<Step> {
    let old = members(s).any(|set| set.epoch != s.assignment.epoch);
    (old && s.authority == Authority::Session).then(|| Step::Admit { replica: replica.clone() })
}

/// Whether a mirror that no record counts on yet may still become in sync.
fn is_useful(s: &Situation, mirror: &MirrorFacts) -> bool {
    let Some(peer) = &s.peer else { return false };
    let Liveness::Live(boot) = peer.liveness else { return false };
    mirror.target_boot == Some(boot)
        && mirror.state != Mirror::Broken
        && !peer.gave_up
        && !lacks_room(s, peer)
}

/// Whether another host has no room for what the guest writes. One whose room is reserved has it.
fn lacks_room(s: &Situation, peer: &Peer) -> bool {
    peer.full && s.spec.disks.iter().any(|disk| disk.thin)
}

/// The host of a replica that has no room for what the guest writes.
pub fn full_peer(s: &Situation) -> Option<&HostName> {
    s.peer.iter().chain(&s.former).find(|peer| lacks_room(s, peer)).map(|peer| &peer.host)
}

/// Why the recorded secondary may be let go of for the assigned one, if another is assigned and ready to be filled.
fn successor(s: &Situation, recorded: &Replica) -> Option<String> {
    let peer = s.peer.as_ref().filter(|peer| peer.host != recorded.host)?;
    let ready = matches!(peer.liveness, Liveness::Live(_)) && peer.serves && !lacks_room(s, peer);
    // Nobody's replica is given up for another one while the guest is on its way down.
    let stays = s.assignment.handover.is_none() && s.spec.power == PowerWish::Running;
    (ready && stays && pause(s).is_none() && s.authority == Authority::Session)
        .then(|| format!("{} takes the place of {}", peer.host, recorded.host))
}

/// Whether disks are to grow now. A disk that is mirrored cannot: neither its job nor its export would follow.
fn grows(s: &Situation) -> bool {
    !s.short.is_empty() && s.assignment.handover.is_none() && s.spec.power == PowerWish::Running
}

/// Why the recorded secondary is let go of for a moment, because somebody wants what needs that.
fn wish(s: &Situation, recorded: &Replica) -> Option<String> {
    let serves = s.peer.as_ref().is_some_and(|peer| peer.host == recorded.host && peer.serves);
    let stays = s.assignment.handover.is_none() && s.spec.power == PowerWish::Running;
    if !stays || s.authority != Authority::Session {
        return None;
    }
    if grows(s) {
        return Some("its disk grows".into());
    }
    let asked = members(s).any(|set| s.spec.resync.generation > set.resync);
    (asked && serves).then(|| "it was asked to fill its secondary anew".into())
}

/// Why the recorded secondary must be let go, if it must.
fn let_go_reason(
    s: &Situation,
    machine: &MachineFacts,
    mirrored: &[VolumeId],
    recorded: &Replica,
    uniform: bool,
) -> Option<String> {
    let name = &recorded.host;
    if !uniform {
        return Some("its volumes do not agree on their secondary".into());
    }
    if s.assignment.secondary.is_none() {
        return Some(format!("{name} is no longer its secondary's host"));
    }
    let without = |state: &str| format!("the mirror to {name} {state}");
    for volume in mirrored {
        match machine.mirrors.get(volume).map(|m| m.state) {
            None => return Some(without("is gone")),
            Some(Mirror::Broken) => return Some(without("failed")),
            Some(Mirror::Ready | Mirror::Filling) => {}
        }
    }
    let peer = s.peer.iter().chain(&s.former).find(|peer| &peer.host == name);
    match peer {
        None => Some(format!("{name} is no longer its secondary's host")),
        Some(Peer { liveness: Liveness::Lost, serves: false, .. }) if s.authority == Authority::Session => {
            Some(format!("{name} is lost"))
        }
        Some(Peer { liveness: Liveness::Live(boot), .. }) if *boot != recorded.boot_id => {
            Some(format!("{name} started anew"))
        }
        Some(Peer { gave_up: true, .. }) => Some(format!("{name} does not answer")),
        Some(peer) if lacks_room(s, peer) && s.authority == Authority::Session => {
            Some(format!("the disk of {name} that holds the replica is full"))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod shared_tests;
#[cfg(test)]
mod tests;
