//! What a keeper sees: everything that a decision about its guest rests on, gathered at one moment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use api::PromiseRequest;
use host::MirrorState;
use host::watchdog::BootTime;
use jiff::{SignedDuration, Timestamp};
use model::{
    Assignment, BootId, ClusterView, EventKind, GuestName, GuestReport, GuestSpec, GuestState, Host,
    HostName, InSync, Liveness, VolumeId, VolumeReport, VolumeState,
};
use plan::converge::{
    Authority, MachineFacts, Mirror, MirrorFacts, Peer, PeerFile, Rest, Sending, Situation, Stage, Step,
    is_to_stop,
};
use plan::limits::{
    CONFIRM_AFTER, CONFIRM_EVERY, HOLD_MAX, HOLD_SHOWN_AFTER, PROBE_EVERY, PROMISE, PROMISE_MARGIN,
    WATCHDOG_CONFIRMED,
};
use store::keys;
use tokio::time::Instant;

use super::Agent;
use super::keeper::{Asked, Keeper};
use super::peers;
use crate::config::REPLICA_PORT;

/// How long an answer about served exports is believed, as long as the server itself answers.
const ASKED_GOOD_FOR: std::time::Duration = std::time::Duration::from_secs(5);

/// How often a guest that stands still for want of room is let go on at most.
const GO_ON_EVERY: std::time::Duration = std::time::Duration::from_secs(5);

/// How soon a server that does not serve yet is asked again, while a guest waits for it.
const ASKED_BAD_FOR: std::time::Duration = std::time::Duration::from_millis(100);

/// The store's records that speak of one guest, at one moment.
struct Records {
    spec: GuestSpec,
    assignment: Assignment,
    in_sync: BTreeMap<VolumeId, InSync>,
    report: Option<GuestReport>,
    secondary: Option<Secondary>,
    /// The host of the replica that is counted on, if another secondary is assigned.
    former: Option<Secondary>,
    dropped: BTreeSet<VolumeId>,
}

/// The host of a secondary, by its records.
struct Secondary {
    host: Host,
    liveness: Liveness,
}

impl Secondary {
    fn of(view: &ClusterView, name: &HostName) -> Option<Secondary> {
        Some(Secondary { host: view.hosts.get(name)?.clone(), liveness: view.liveness(name) })
    }
}

impl Records {
    /// `Ok(None)`: the store does not know the guest. `Err`: it does, but a record of the guest is damaged,
    /// which must not be taken for one that is absent; the sentence names it.
    fn read(agent: &Agent, guest: &GuestName) -> Result<Option<Records>, String> {
        let cache = agent.state.read();
        let view = cache.view();
        let whole = |key: String| match view.damaged.get(&key) {
            Some(why) => Err(format!("the record {key} is damaged, so the guest is left as it is: {why}")),
            None => Ok(()),
        };
        whole(keys::guest(guest))?;
        whole(keys::assignment(guest))?;
        let Some(spec) = view.guests.get(guest).cloned() else { return Ok(None) };
        let assignment = view.assignments.get(guest).filter(|a| a.guest_id == spec.id).cloned();
        let Some(assignment) = assignment else { return Ok(None) };
        for disk in &spec.disks {
            whole(keys::in_sync(disk.volume))?;
        }
        let set_of = |volume| Some((volume, view.in_sync.get(&volume)?.clone()));
        let in_sync: BTreeMap<VolumeId, InSync> =
            spec.disks.iter().filter_map(|disk| set_of(disk.volume)).collect();
        let counted_on = in_sync.values().flat_map(|set| &set.members).map(|replica| &replica.host);
        let former = counted_on
            .filter(|host| **host != assignment.host && Some(*host) != assignment.secondary.as_ref())
            .find_map(|host| Secondary::of(view, host));
        let told = |volume: &VolumeId| view.drops.contains_key(&(agent.me.clone(), *volume));
        Ok(Some(Records {
            in_sync,
            report: view.guest_reports.get(guest).filter(|r| r.guest_id == spec.id).cloned(),
            secondary: spec.partner(&assignment).and_then(|name| Secondary::of(view, name)),
            former: former.filter(|_| !spec.is_shared()),
            dropped: spec.disks.iter().map(|disk| disk.volume).filter(told).collect(),
            spec,
            assignment,
        }))
    }
}

/// What a look has found.
pub(super) enum Look {
    At(Box<Situation>),
    /// The store knows the guest, but cannot be understood. One sentence.
    Damaged(String),
    /// The store does not know the guest any more.
    Gone,
}

impl Keeper {
    /// Everything about the guest.
    pub(super) async fn look(&mut self) -> Look {
        let agent = self.agent.clone();
        let records = match Records::read(&agent, &self.guest) {
            Err(damaged) => return Look::Damaged(damaged),
            Ok(Some(records)) if Some(records.spec.id) == self.id => records,
            Ok(_) => return Look::Gone,
        };
        let Records { spec, assignment, mut in_sync, report, secondary, former, dropped } = records;
        self.learn_of_last_run(report.as_ref(), &assignment);
        if let Some(replica) = &self.maybe_admitted {
            for set in in_sync.values_mut() {
                set.members.insert(replica.clone());
            }
        }
        let counted_on_others = in_sync.values().any(|set| set.members.len() > 1);
        let sending = self.look_at_handover(&assignment).await;
        self.look_at_machine(&spec).await;
        self.look_at_records(&spec, &assignment).await;
        let has_room = self.look_at_room().await;
        self.forget_old_shutdown(&spec, &assignment);
        let peer = self.look_at_peer(&spec, &assignment, &in_sync, secondary.as_ref()).await;
        let former_peer = self.look_at_peer(&spec, &assignment, &in_sync, former.as_ref()).await;
        self.sights.retain(|host, _| [&peer, &former_peer].into_iter().flatten().any(|p| &p.host == host));
        // The one that could be promoted is the one that is counted on.
        let confirms = former.as_ref().or(secondary.as_ref());
        let authority = self.authority(&assignment, counted_on_others, confirms).await;
        self.tell_watchdog_again(assignment.host != agent.me || counted_on_others || spec.is_shared());
        let served = self.look_at_exports(&spec).await;
        let (files, pool_trouble) = self.look_at_files(&spec, &assignment).await;
        let short = short_disks(&agent, &spec);
        let (now, instant) = (Timestamp::now(), Instant::now());
        let at = |when: Instant| now + signed(when, instant);
        let mut situation = Box::new(Situation {
            me: agent.me.clone(),
            boot: agent.boot,
            ended_cleanly: self.ended_cleanly(report.as_ref(), &assignment),
            in_sync,
            machine: self.machine_facts(sending),
            files,
            short,
            served,
            dropped,
            pool_trouble,
            peer,
            former: former_peer,
            authority,
            promised_until: agent.promises.until(spec.id).map(at),
            exit: self.exit.as_ref().map(|exit| (exit.boot_generation, exit.reason)),
            not_before: self.not_before().map(at),
            starts_after: self.look_at_order(&spec, now),
            shutdown_asked_at: self.shutdown_asked_at.map(|(first, last)| (at(first), at(last))),
            elsewhere: self.elsewhere(&assignment),
            incoming: self.incoming(&assignment),
            sent_to: self.live.sent_to,
            sends: self.live.sends,
            gave_up_sending: self.live.gave_up.as_ref().map(|(job, _)| *job),
            arriving_since: self.arriving_since().map(at),
            mirror_back_failed: self.live.mirror_back_failed,
            filled_in_vain: self.fills.in_vain(),
            no_fill_before: self.fills.not_before().map(at),
            has_room,
            reset: None,
            deaf: false,
            now,
            spec,
            assignment,
        });
        self.examine(&mut situation, report.as_ref());
        Look::At(situation)
    }

    /// A host that has come to own a guest learns from its last owner's report how the last run ended, until it
    /// has begun a run of its own.
    fn learn_of_last_run(&mut self, report: Option<&GuestReport>, assignment: &Assignment) {
        let ran_here = self.launched_at == Some(assignment.epoch) || self.running.is_some();
        if assignment.host != self.agent.me || ran_here {
            return;
        }
        if let Some(report) = report.filter(|r| r.host != self.agent.me && r.epoch < assignment.epoch) {
            self.exit = super::keeper::end_of_last_run(report);
        }
    }

    /// A machine that goes on after all, because what it was to stop for was taken back, may yet obey. That is
    /// remembered for a while; the next stop begins anew.
    fn forget_old_shutdown(&mut self, spec: &GuestSpec, assignment: &Assignment) {
        let Some(running) = &self.running else { return };
        if !is_to_stop(spec, assignment, running.machine.label().boot_generation)
            && let Some((_, last)) = self.shutdown_asked_at.take()
        {
            self.shutdown_taken_back_at = Some(last);
        }
    }

    /// Whether the last run ended by the guest's own shutdown, and the store's report of the run before it
    /// leaves no other run in doubt.
    fn ended_cleanly(&self, report: Option<&GuestReport>, assignment: &Assignment) -> bool {
        let by_this_host = |r: &GuestReport| {
            r.epoch == assignment.epoch && r.host == self.agent.me && r.boot_id == self.agent.boot
        };
        // Its last run was the last one of all, and the change of owner compared that very report.
        let by_who_handed_over = |r: &GuestReport| {
            self.launched_at != Some(assignment.epoch)
                && r.epoch.next() == assignment.epoch
                && assignment
                    .handed_over_by
                    .as_ref()
                    .is_some_and(|old| old.host == r.host && old.boot_id == r.boot_id)
        };
        let Some(report) = report.filter(|r| by_this_host(r) || by_who_handed_over(r)) else { return false };
        self.exit
            .as_ref()
            .is_some_and(|exit| exit.boot_generation == report.boot_generation && exit.is_clean())
    }

    fn machine_facts(&self, sending: Option<Sending>) -> Option<MachineFacts> {
        let running = self.running.as_ref()?;
        let label = running.machine.label();
        let mirrors = running.mirrors.iter().map(|(volume, state)| {
            let target_boot = running.targets.get(volume).copied();
            (*volume, MirrorFacts { state: *state, target_boot })
        });
        Some(MachineFacts {
            epoch: label.epoch,
            boot_generation: label.boot_generation,
            stage: running.stage,
            mirrors: mirrors.collect(),
            records: running.records.clone(),
            no_room: running.no_room,
            sending,
            withheld: self.live.withheld && running.stage == Stage::Running,
        })
    }

    /// Asks for the mirrors when an event said that they changed, and while one is being filled.
    async fn look_at_machine(&mut self, spec: &GuestSpec) {
        let Some(running) = &mut self.running else { return };
        if running.stage == Stage::Running && running.machine_type.is_none() {
            running.machine_type = running.machine.machine_type().await.ok();
        }
        let filling = running.mirrors.values().any(|mirror| *mirror == Mirror::Filling);
        if !running.mirrors_stale && !filling {
            return;
        }
        for disk in &spec.disks {
            let state = match running.machine.mirror(disk.volume).await {
                Ok(MirrorState::Absent) => None,
                Ok(MirrorState::Filling { done, total }) => {
                    self.fills.note(disk.volume, done, total);
                    Some(Mirror::Filling)
                }
                Ok(MirrorState::Ready) => Some(Mirror::Ready),
                Ok(MirrorState::Broken(why)) => {
                    tracing::warn!(guest = %self.guest, volume = %disk.volume, why, "a mirror is broken");
                    running.broken.insert(disk.volume, why);
                    Some(Mirror::Broken)
                }
                Err(error) => {
                    tracing::debug!(guest = %self.guest, %error, "a mirror's state is unknown; it is asked again");
                    return;
                }
            };
            match state {
                Some(state) => running.mirrors.insert(disk.volume, state),
                None => running.mirrors.remove(&disk.volume),
            };
        }
        running.mirrors_stale = false;
    }

    /// Asks whether the guest stands still for want of room, and looks whether there is some.
    async fn look_at_room(&mut self) -> bool {
        let (me, about) = (self.agent.me.clone(), self.about());
        let Some(running) = self.running.as_mut().filter(|running| running.stage == Stage::Running) else {
            return true;
        };
        if running.room_stale {
            let Ok(state) = running.machine.run_state().await else { return false };
            running.room_stale = false;
            running.state = Some(state);
            let now = state == host::RunState::NoRoom;
            if now != std::mem::replace(&mut running.no_room, now) {
                let (kind, guest) = (EventKind::VolumeFull, &self.guest);
                if now {
                    let message =
                        format!("'{guest}' stands still: {me} has no room for its disk; make some there");
                    self.agent.events.warning(kind, about, message);
                } else {
                    self.agent.events.info(
                        kind,
                        about,
                        format!("'{guest}' goes on: {me} has room for its disk"),
                    );
                }
            }
        }
        let rested = running.went_on_at.is_none_or(|at| at.elapsed() >= GO_ON_EVERY);
        let room = || host::facts::room(&self.agent.config.volumes_dir());
        running.no_room && rested && room().is_ok_and(|(free, short)| free >= short)
    }

    /// Says when the disk of another host has no room for a replica, and when it has again.
    pub(super) fn tell_of_full_disk(&mut self, s: &Situation) {
        let full = plan::converge::full_peer(s).cloned();
        if full == self.full_disk {
            return;
        }
        let (kind, about, guest) = (EventKind::VolumeFull, self.about(), &self.guest);
        let before = std::mem::replace(&mut self.full_disk, full.clone());
        match (full, before) {
            (Some(host), _) => {
                let full = format!("the disk of {host} that holds a replica of '{guest}' is full");
                let message = format!("{full}: make room there, and the replica is filled again");
                self.agent.events.warning(kind, about, message);
            }
            (None, Some(host)) => {
                let message = format!("the disk of {host} has room for its replica of '{guest}' again");
                self.agent.events.info(kind, about, message);
            }
            (None, None) => {}
        }
    }

    /// Asks what is recorded of volumes whose secondary is about to be filled.
    async fn look_at_records(&mut self, spec: &GuestSpec, assignment: &Assignment) {
        let Some(running) = self.running.as_mut().filter(|running| running.stage == Stage::Running) else {
            return;
        };
        running.records.clear();
        for disk in spec.replicated(assignment).filter(|disk| !running.mirrors.contains_key(&disk.volume)) {
            match running.machine.tracked(disk.volume).await {
                Ok(Some(tracked)) => drop(running.records.insert(disk.volume, tracked.replica)),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(guest = %self.guest, %error, "what is recorded is unknown");
                }
            }
        }
    }

    /// The volumes whose files this host sees. Second: why it cannot say, of storage that hosts share.
    async fn look_at_files(
        &self,
        spec: &GuestSpec,
        assignment: &Assignment,
    ) -> (BTreeSet<VolumeId>, Option<String>) {
        let volumes = spec.disks.iter().map(|disk| disk.volume);
        if !spec.is_shared() {
            return (volumes.filter(|volume| self.agent.volumes.exists(*volume)).collect(), None);
        }
        // Nothing is decided by the files of a guest that runs, or that another host owns.
        if self.running.is_some() || assignment.host != self.agent.me {
            return (volumes.collect(), None);
        }
        match self.agent.pools.present(spec).await {
            Ok(present) => (present, None),
            Err(why) => (BTreeSet::new(), Some(why)),
        }
    }

    async fn look_at_exports(&mut self, spec: &GuestSpec) -> BTreeMap<VolumeId, Option<model::Epoch>> {
        match self.agent.exports().await {
            Ok(exports) => {
                let mine: BTreeSet<VolumeId> = spec.disks.iter().map(|disk| disk.volume).collect();
                self.served = exports.into_iter().filter(|(volume, _)| mine.contains(volume)).collect();
            }
            Err(error) => tracing::warn!(%error, "cannot find out which replicas are served"),
        }
        let served = self.served.iter().map(|(volume, export)| {
            let epoch = host::ExportName::parse(export.as_str())
                .filter(|(_, _, boot)| *boot == self.agent.boot)
                .map(|(_, epoch, _)| epoch);
            (*volume, epoch)
        });
        served.collect()
    }

    async fn look_at_peer(
        &mut self,
        spec: &GuestSpec,
        assignment: &Assignment,
        in_sync: &BTreeMap<VolumeId, InSync>,
        secondary: Option<&Secondary>,
    ) -> Option<Peer> {
        let owns = assignment.host == self.agent.me;
        let Secondary { host, liveness } = secondary.filter(|_| owns)?;
        if spec.is_shared() {
            // It serves nothing, and nobody waits for it to.
            let (host, liveness) = (host.name.clone(), *liveness);
            return Some(Peer {
                host,
                liveness,
                serves: false,
                gave_up: false,
                full: false,
                files: BTreeMap::new(),
            });
        }
        let address = SocketAddr::new(host.address, REPLICA_PORT);
        if self.sights.get(&host.name).is_none_or(|receiver| receiver.has_changed().is_err()) {
            self.sights.insert(host.name.clone(), self.agent.looks.look(&host.name, address));
        }
        let sight = *self.sights.get_mut(&host.name)?.borrow_and_update();
        // While its session is over the boot that is counted on is the one that may still serve.
        let recorded = in_sync.values().find_map(|set| set.members.iter().find(|r| r.host == host.name));
        let boot = match liveness {
            Liveness::Live(boot) => Some(*boot),
            Liveness::Lost => recorded.map(|replica| replica.boot_id),
        };
        let (serves, last_served) = match boot {
            Some(boot) => self.ask_peer(spec, assignment, (&host.name, boot, address), sight).await,
            None => (false, sight.last_seen),
        };
        let gave_up = !serves && last_served.elapsed() >= HOLD_MAX;
        let asked = self.asked.get(&host.name).filter(|asked| Some(asked.boot) == boot && asked.serves);
        let files = asked.map(|asked| asked.files.clone()).unwrap_or_default();
        let full =
            self.agent.state.read().view().host_reports.get(&host.name).is_some_and(|r| r.short_of_room);
        Some(Peer { host: host.name.clone(), liveness: *liveness, serves, gave_up, full, files })
    }

    /// Whether the secondary's host serves all volumes for this epoch and boot, and when it last did.
    async fn ask_peer(
        &mut self,
        spec: &GuestSpec,
        assignment: &Assignment,
        (secondary, boot, address): (&HostName, BootId, SocketAddr),
        sight: peers::Sight,
    ) -> (bool, Instant) {
        let answers = sight.answers;
        let now = Instant::now();
        let same = self.asked.get(secondary).filter(|a| a.boot == boot && a.epoch == assignment.epoch);
        let last_served = same.map_or(now, |asked| asked.last_served);
        // A guest that stands still for its handover waits for the answer.
        let again = if self.running.is_some() { PROBE_EVERY } else { ASKED_BAD_FOR };
        let good_for = |serves| if serves { ASKED_GOOD_FOR } else { again };
        if let Some(asked) = same.filter(|a| answers && a.at.elapsed() < good_for(a.serves)) {
            let serves = asked.serves;
            // Not now: a server that hangs is believed to answer until the look at it has timed out.
            let last_served = if serves { last_served.max(sight.last_seen) } else { last_served };
            return (serves, self.note_asked(secondary, last_served));
        }
        let mut serves = answers;
        let mut files = BTreeMap::new();
        for disk in spec.replicated(assignment) {
            if !serves {
                break;
            }
            let export = host::ExportName::new(disk.volume, assignment.epoch, boot);
            let served = peers::client(&self.agent.config).ask_about(address, &export).await;
            serves = served.is_ok();
            if let Some(facts) = served.ok().and_then(|served| served.file) {
                files.insert(disk.volume, PeerFile { file: facts.id, is_blank: facts.is_blank });
            }
        }
        let last_served = if serves { Instant::now() } else { last_served };
        let epoch = assignment.epoch;
        self.asked.insert(secondary.clone(), Asked { boot, epoch, serves, files, at: now, last_served });
        (serves, last_served)
    }

    fn note_asked(&mut self, host: &HostName, last_served: Instant) -> Instant {
        if let Some(asked) = self.asked.get_mut(host) {
            asked.last_served = last_served;
        }
        last_served
    }

    /// By what right this host runs the guest; asks the secondary's host when the session is in doubt.
    async fn authority(
        &mut self,
        assignment: &Assignment,
        counted_on_others: bool,
        secondary: Option<&Secondary>,
    ) -> Authority {
        let standing = *self.agent.session.borrow();
        let now = Instant::now();
        let doubtful = standing.renewed_at.is_none_or(|at| at.elapsed() > CONFIRM_AFTER);
        let owns = assignment.host == self.agent.me && self.running.is_some();
        let due = self.confirm_asked_at.is_none_or(|at| at.elapsed() >= CONFIRM_EVERY);
        if doubtful && owns && counted_on_others && due {
            self.ask_confirmation(assignment, secondary).await;
        }
        if standing.is_live(now) {
            Authority::Session
        } else if self.confirmed_until.is_some_and(|until| Instant::now() < until) {
            Authority::Confirmed
        } else {
            Authority::None
        }
    }

    async fn ask_confirmation(&mut self, assignment: &Assignment, secondary: Option<&Secondary>) {
        let (asked_at, sent_at) = (BootTime::now(), Instant::now());
        self.confirm_asked_at = Some(sent_at);
        let Some(Secondary { host: secondary, .. }) = secondary else { return };
        let request = PromiseRequest { guest_id: assignment.guest_id, epoch: assignment.epoch };
        let asking = async { self.agent.peer_client.to(secondary)?.promise(&request).await };
        match tokio::time::timeout(CONFIRM_EVERY, asking).await {
            Ok(Ok(answer)) if answer.promised_ms > 0 => {
                self.confirmed_until = Some(sent_at + PROMISE - PROMISE_MARGIN);
                self.confirmed_for_watchdog = asked_at.after(WATCHDOG_CONFIRMED);
            }
            Ok(Ok(_)) => {
                tracing::warn!(guest = %self.guest, "{} does not confirm our epoch", secondary.name);
                self.confirmed_until = None;
                self.confirmed_for_watchdog = BootTime::default();
            }
            Ok(Err(error)) => tracing::debug!(guest = %self.guest, %error, "no confirmation"),
            Err(_) => tracing::debug!(guest = %self.guest, "no confirmation in time"),
        }
    }

    /// Reports what was seen, and what is about to be done.
    pub(super) fn say(&mut self, s: &Situation, step: &Step) {
        let about = self.about();
        let stuck = match step.rest() {
            Some(Rest::Stuck(what)) => Some(what.clone()),
            Some(_) | None => None,
        };
        let owns = s.assignment.host == s.me;
        // An owner says in its report what failed.
        let problem = stuck.clone().or_else(|| self.failure.clone().filter(|_| !owns));
        self.agent.set_problem(&about, problem.map(|what| format!("{}: {what}", self.guest)));
        if !owns {
            return;
        }
        let state = self.state(s, step);
        let generation = s.machine.as_ref().map(|machine| machine.boot_generation);
        let last = self.reporter.last();
        let report = GuestReport {
            guest: self.guest.clone(),
            guest_id: s.spec.id,
            host: s.me.clone(),
            boot_id: s.boot,
            epoch: s.assignment.epoch,
            state,
            boot_generation: generation
                .or(self.exit.as_ref().map(|exit| exit.boot_generation))
                .unwrap_or_default(),
            since: last.filter(|last| last.state == state).map_or(s.now, |last| last.since),
            accelerator: s.machine.as_ref().map(|_| self.agent.accelerator()),
            exit: self.exit.clone(),
            volumes: self.volume_reports(s),
            message: stuck.or_else(|| self.message(s, state, step)),
            machine_type: self.running.as_ref().and_then(|running| running.machine_type.clone()),
            cpu: self.running.as_ref().and_then(|running| running.machine.cpu()),
            migration: self.migration_report(s),
            no_room: s.machine.as_ref().is_some_and(|machine| machine.no_room),
            failed_at: self.run_failed_at,
            health: self.health.record.clone(),
        };
        self.reporter.say(report);
    }

    fn message(&self, s: &Situation, state: GuestState, step: &Step) -> Option<String> {
        let waits = match step.rest() {
            Some(Rest::Waiting(why)) => Some(why.clone()),
            Some(_) | None => None,
        };
        let no_room = s.machine.as_ref().is_some_and(|machine| machine.no_room);
        match state {
            GuestState::Running if no_room => waits,
            GuestState::Failed | GuestState::Preparing | GuestState::Starting => {
                self.failure.clone().or(waits)
            }
            GuestState::Running | GuestState::Stopping | GuestState::Stopped | GuestState::Deleted => None,
        }
    }

    fn state(&self, s: &Situation, step: &Step) -> GuestState {
        /// So many failures in a row, and a person should know.
        const FAILED_AFTER: u32 = 3;
        let failing = self.failures >= FAILED_AFTER && s.machine.is_none();
        let arriving =
            s.machine.as_ref().is_some_and(|m| matches!(m.stage, Stage::Incoming | Stage::Arrived));
        match step {
            Step::Rest { rest: Rest::Deleted, .. } => GuestState::Deleted,
            Step::Rest { rest: Rest::Stopped, .. } => GuestState::Stopped,
            Step::Rest { rest: Rest::Stuck(_), .. } => GuestState::Failed,
            Step::Rest { rest: Rest::Stopping, .. } | Step::Shutdown => GuestState::Stopping,
            Step::End { .. } | Step::DeleteVolumes | Step::DropReplica { .. } | Step::Withdraw { .. } => {
                GuestState::Stopping
            }
            Step::MakeVolumes { .. } | Step::TakeOver { .. } | Step::ClaimAlone | Step::Start { .. }
                if failing =>
            {
                GuestState::Failed
            }
            Step::Rest { rest: Rest::Waiting(_), .. } if failing => GuestState::Failed,
            Step::MakeVolumes { .. } | Step::TakeOver { .. } | Step::ClaimAlone => GuestState::Preparing,
            Step::Grow { .. } if s.machine.is_none() => GuestState::Preparing,
            Step::Start { .. } => GuestState::Starting,
            Step::Rest { rest: Rest::Waiting(_), .. } if s.machine.is_none() => GuestState::Preparing,
            _ if arriving => GuestState::Starting,
            Step::Rest { rest: Rest::Running | Rest::Idle | Rest::Waiting(_), .. }
            | Step::GoOn
            | Step::Reset { .. }
            | Step::Attach { .. }
            | Step::Admit { .. }
            | Step::LetGo { .. }
            | Step::Detach { .. }
            | Step::Grow { .. }
            | Step::GrowReplica { .. }
            | Step::MakeReplica { .. }
            | Step::Serve { .. }
            | Step::Receive { .. }
            | Step::Send { .. }
            | Step::Adjust { .. }
            | Step::StartPostCopy
            | Step::CancelSend { .. }
            | Step::HandOver { .. }
            | Step::Deliver
            | Step::Arrive { .. } => GuestState::Running,
        }
    }

    fn volume_reports(&mut self, s: &Situation) -> Vec<VolumeReport> {
        let counted_on = s.former.as_ref().or(s.peer.as_ref());
        let silent = counted_on.is_some_and(|peer| {
            let asked = self.asked.get(&peer.host);
            !peer.serves && asked.is_some_and(|asked| asked.last_served.elapsed() >= HOLD_SHOWN_AFTER)
        });
        let Some(machine) = &s.machine else { return vec![] };
        let state_of = |volume: &VolumeId| match (machine.mirrors.get(volume), s.in_sync.get(volume)) {
            (Some(_), Some(set)) if set.members.len() > 1 && silent => VolumeState::Held,
            (Some(_), Some(set)) if set.members.len() > 1 => VolumeState::Mirroring,
            (Some(_), _) => VolumeState::Syncing,
            (None, _) => VolumeState::Alone,
        };
        let volumes: Vec<VolumeId> = s.spec.disks.iter().map(|disk| disk.volume).collect();
        let report = |volume: VolumeId| {
            let state = state_of(&volume);
            let sent = self.running.as_ref().and_then(|running| running.machine.sent(volume));
            let fill = (state == VolumeState::Syncing).then(|| self.fills.tell(volume, sent)).flatten();
            VolumeReport { volume, state, fill, filled: self.fills.last(volume) }
        };
        volumes.into_iter().map(report).collect()
    }
}

/// Volumes whose files here are smaller than they are to be.
fn short_disks(agent: &Agent, spec: &GuestSpec) -> BTreeSet<VolumeId> {
    let short = |size, volume| agent.volumes.size(volume).is_ok_and(|is| is < size);
    spec.disks.iter().filter(|disk| short(disk.size, disk.volume)).map(|disk| disk.volume).collect()
}

/// `when - now`, which may lie in the past.
fn signed(when: Instant, now: Instant) -> SignedDuration {
    let short = |length: std::time::Duration| SignedDuration::try_from(length).unwrap_or(SignedDuration::MAX);
    match when.checked_duration_since(now) {
        Some(ahead) => short(ahead),
        None => -short(now.duration_since(when)),
    }
}
