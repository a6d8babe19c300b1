//! The step in which a guest changes its host.
//!
//! By a restart the leader makes the other host the owner, once the owner has said how the guest's run ended. While
//! it runs, its owner does so itself, in the moment in which the guest stands still; the job sees it by the
//! assignment. A guest that cannot be sent stays, and the owner's report says why.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use model::{
    Assignment, ExitReason, GuestReport, GuestSpec, GuestState, Handover, HandoverKind, HostName,
    MigrationPhase, MigrationReport, Moving, PowerWish, Replica,
};

use crate::inventory::Inventory;
use crate::layout::Layout;
use crate::snapshot::{Place, Promise};

use super::{At, Move, is_stopped, message, not_copied_while_stopped};
use crate::job::{Effect, RestsOn, Seen};

/// How long the other host may take until it can take the guest in.
const RECEIVES_WITHIN: SignedDuration = SignedDuration::from_secs(120);

/// How long it may say that something is wrong.
const MENDS_WITHIN: SignedDuration = SignedDuration::from_secs(10);

impl Move<'_> {
    pub(super) fn hand_over(&self, at: At<'_>, moving: &mut Moving) -> Seen {
        let (now, to) = (at.assignment, &self.to.host);
        if now.host == *to {
            return Seen::Done;
        }
        if !at.spec.is_shared() && now.secondary.as_ref() != Some(to) {
            return Seen::Fails(format!("its secondary is not on {to} any more"));
        }
        let pending = now.handover.as_ref();
        if !self.could_take(at, to) {
            return if !self.view.is_live(to) {
                Seen::Fails(format!("{to} was lost before the guest was handed over"))
            } else if pending.is_some() {
                Seen::Fails(format!("the replica on {to} fell behind before the guest was handed over"))
            } else if is_stopped(at) {
                Seen::Fails(format!("the replica on {to} is not in sync, and {}", not_copied_while_stopped()))
            } else {
                Seen::Waits(format!("the replica on {to} is not in sync yet"))
            };
        }
        if let Some(seen) = pending.is_none().then(|| self.obstacle(to)).flatten() {
            return seen;
        }
        let Some(report) = at.report else { return Seen::Waits(format!("{} does not report it", now.host)) };
        match (pending, report.state) {
            (Some(_), GuestState::Stopped) => {
                let why = format!("moved from {}, as {} asked", now.host, self.job.requested_by);
                Seen::Does(self.swap(at, report, (to, why), moving), format!("{to} takes it over"))
            }
            (Some(_), GuestState::Failed) => Seen::Fails(message(report.message.as_ref())),
            (Some(handover), _) if handover.how == HandoverKind::Live => self.sent(at, report, moving),
            (Some(_), state) => {
                if state == GuestState::Stopping {
                    moving.down_since.get_or_insert(report.since);
                }
                Seen::Waits(format!("{} shuts it down", now.host))
            }
            (None, GuestState::Running) => {
                let how = self.options.how();
                Seen::Does(self.ask_handover(at, to, how), format!("{} is asked to hand it over", now.host))
            }
            (None, GuestState::Stopped | GuestState::Failed) => {
                let effects = self.ask_handover(at, to, HandoverKind::Restart);
                Seen::Does(effects, format!("{} is asked to hand it over", now.host))
            }
            (None, _) => Seen::Waits(format!("it does not run on {} yet", now.host)),
        }
    }

    /// What a rule that forbids the guest to be on that host by now makes of the move: filling it may have taken hours.
    /// The others count where their moves lead them, and where they still are, because those moves may fail.
    fn obstacle(&self, to: &HostName) -> Option<Seen> {
        let mut inventory = Inventory::new(self.view, &BTreeMap::new());
        inventory.snapshot.promise = Promise::Nothing;
        let fails = |why| Seen::Fails(format!("{to} may not take it any more: {why}"));
        if let Some(why) = self.forbidden(&inventory, to) {
            return Some(fails(why));
        }
        inventory.count_where_they_are();
        let why = self.forbidden(&inventory, to)?;
        let mut others = self.view.assignments.values();
        let one_leaves = others.any(|other| other.host == *to && other.handover.is_some());
        Some(if one_leaves {
            Seen::Waits(format!("a guest is to leave {to} first: {why}"))
        } else {
            fails(why)
        })
    }

    fn forbidden(&self, inventory: &Inventory, to: &HostName) -> Option<String> {
        let (guest, host) = (inventory.guest_ix(self.guest)?, inventory.host_ix(to)?);
        let layout = Layout::new(&inventory.snapshot);
        let now = layout.place(guest)?;
        // Of a mirrored guest the replicas swap their roles.
        let secondary = (self.view.guests.get(self.guest)?.is_mirrored()).then_some(now.host);
        let obstacle = layout.obstacle(guest, Place { host, secondary })?;
        obstacle.is_rule().then(|| inventory.explain(guest, &obstacle))
    }

    /// How far a running guest is on its way.
    fn sent(&self, at: At<'_>, report: &GuestReport, moving: &mut Moving) -> Seen {
        let to = &self.to.host;
        match &report.migration {
            Some(MigrationReport { phase: MigrationPhase::Failed(why), .. }) => {
                Seen::Fails(format!("it was not sent to {to}: {why}"))
            }
            Some(migration) => {
                moving.waits_since = None;
                Seen::Waits(migration.to_string())
            }
            None => {
                let waited = self.waited(moving);
                let problem = self.problem_of(to);
                let patience = if problem.is_some() { MENDS_WITHIN } else { RECEIVES_WITHIN };
                if waited >= patience {
                    let why = problem.unwrap_or_else(|| "it does not say why".into());
                    return Seen::Fails(format!("{to} does not take it in: {why}"));
                }
                let not_yet = || format!("{to} makes ready for it, and {} sends it", at.assignment.host);
                Seen::Waits(problem.unwrap_or_else(not_yet))
            }
        }
    }

    /// Takes note that the owner has handed the running guest over, as it was asked to.
    pub(super) fn note_arrival(&self, now: &Assignment, moving: &mut Moving) {
        let given_by_it = now.handed_over_by.as_ref().is_some_and(|old| old.host == moving.from.host);
        if given_by_it && now.host == self.to.host && now.epoch == moving.epoch.next() {
            moving.epoch = now.epoch;
            moving.how = Some(HandoverKind::Live);
            moving.waits_since = None;
        }
    }

    pub(super) fn ask_handover(&self, at: At<'_>, to: &HostName, how: HandoverKind) -> Vec<Effect> {
        let handover = Handover { to: to.clone(), how, job: self.job.id, options: *self.options };
        let asked = Assignment { handover: Some(handover), ..at.assignment.clone() };
        let mut effects = vec![Effect::Reassign(asked), Effect::Compare(RestsOn::Session(to.clone()))];
        effects.extend(self.compare_in_sync(at));
        effects
    }

    /// The change of owner. It rests on everything that was looked at.
    pub(super) fn swap(
        &self,
        at: At<'_>,
        report: &GuestReport,
        (to, why): (&HostName, String),
        moving: &mut Moving,
    ) -> Vec<Effect> {
        let from = &at.assignment.host;
        let old = Replica { host: from.clone(), boot_id: report.boot_id };
        let mirrored = !at.spec.is_shared();
        let clean = mirrored && ended_cleanly(report) && self.is_in_sync(at, from);
        let next = Assignment {
            host: to.clone(),
            epoch: at.assignment.epoch.next(),
            secondary: mirrored.then(|| from.clone()),
            why,
            handover: None,
            handed_over_by: clean.then_some(old),
            ..at.assignment.clone()
        };
        moving.epoch = next.epoch;
        moving.how = Some(HandoverKind::Restart);
        moving.down_since = down_since(at.spec, report).map(|ended| moving.down_since.unwrap_or(ended));
        let mut effects = vec![
            Effect::Reassign(next),
            Effect::Compare(RestsOn::GuestReport(self.guest.clone())),
            Effect::Compare(RestsOn::Session(from.clone())),
            Effect::Compare(RestsOn::Session(to.clone())),
        ];
        effects.extend(self.compare_in_sync(at));
        effects
    }
}

/// Whether the guest's last run ended so that both of its replicas are the same; see decision 0013.
fn ended_cleanly(report: &GuestReport) -> bool {
    report.exit.as_ref().is_some_and(|exit| exit.boot_generation == report.boot_generation && exit.is_clean())
}

/// When the machine of a guest that is to run ended, to be handed over.
fn down_since(spec: &GuestSpec, report: &GuestReport) -> Option<Timestamp> {
    let exit = report.exit.as_ref().filter(|exit| exit.boot_generation == report.boot_generation)?;
    (spec.power == PowerWish::Running && exit.reason != ExitReason::GuestShutdown).then_some(exit.at)
}
