//! What a keeper sees, remembers and says, as the daemon's does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use model::{
    Assignment, BootId, Bytes, CpuModel, ExitReason, GuestReport, GuestState, HostName, Liveness,
    MigrationPhase, MigrationReport, VolumeReport, VolumeState,
};

use super::acts::acts;
use super::{HOLD_TICKS, Qemu, World, end_of_last_run, guest, volume};
use crate::converge::{
    Authority, MachineFacts, Mirror, MirrorFacts, Peer, Rest, RunElsewhere, Sending, Situation, Stage, Step,
    next,
};
use crate::fixture;

impl World {
    pub(super) fn keep(&mut self, name: &HostName) {
        let act = self.sites.get_mut(name).unwrap().keeper.acts.pop_front();
        if let Some(act) = act {
            let said = format!("{name}: {act:?}");
            let went_on = self.act(name, act);
            self.note(if went_on { said } else { format!("{said}: broken off") });
            if !went_on {
                self.sites.get_mut(name).unwrap().keeper.acts.clear();
            }
            return;
        }
        let situation = self.situation(name);
        let step = next(&situation);
        self.site(name).keeper.rests_on = Some(situation.assignment.clone());
        self.say(name, &situation, &step);
        let acts = acts(&step, &situation);
        self.sites.get_mut(name).unwrap().keeper.acts = acts.into();
    }

    fn peer(&mut self, name: &HostName, host: &HostName) -> Peer {
        let epoch = self.assignment().epoch;
        let liveness = self.view.liveness(host);
        let recorded = self.view.in_sync[&volume()].members.iter().find(|replica| &replica.host == host);
        let boot = match liveness {
            Liveness::Live(boot) => Some(boot),
            Liveness::Lost => recorded.map(|replica| replica.boot_id),
        };
        let serves = boot.is_some_and(|boot| self.serves(host, epoch, boot));
        let keeper = &mut self.sites.get_mut(name).unwrap().keeper;
        let unserved = keeper.unserved.entry((host.clone(), epoch)).or_default();
        *unserved = if serves { 0 } else { *unserved + 1 };
        let gave_up = *unserved > HOLD_TICKS;
        Peer { host: host.clone(), liveness, serves, gave_up, full: false, files: BTreeMap::new() }
    }

    fn situation(&mut self, name: &HostName) -> Situation {
        let (spec, assignment) = (self.spec().clone(), self.assignment().clone());
        let report = self.view.guest_reports.get(&guest()).cloned();
        self.learn(name, &assignment, report.as_ref());
        let set = self.view.in_sync[&volume()].clone();
        let owns = &assignment.host == name;
        let partner = spec.partner(&assignment).cloned();
        let peer = partner.filter(|_| owns).map(|host| self.peer(name, &host));
        let former = set.members.iter().map(|replica| replica.host.clone()).find(|host| {
            owns && !spec.is_shared() && host != name && Some(host) != assignment.secondary.as_ref()
        });
        let former = former.map(|host| self.peer(name, &host));
        let live = self.view.is_live(name);
        self.remember(name, &assignment);
        let drop = self.view.drops.contains_key(&(name.clone(), volume()));
        let site = &self.sites[name];
        let boot = fixture::boot(name.as_str(), site.boot);
        let cleanly = |report: &GuestReport| {
            let own = report.epoch == assignment.epoch && &report.host == name && report.boot_id == boot;
            let given = site.keeper.launched_at != Some(assignment.epoch)
                && report.epoch.next() == assignment.epoch
                && assignment
                    .handed_over_by
                    .as_ref()
                    .is_some_and(|old| old.host == report.host && old.boot_id == report.boot_id);
            let exit = site.keeper.exit.as_ref();
            (own || given)
                && exit.is_some_and(|exit| {
                    exit.boot_generation == report.boot_generation && exit.reason == ExitReason::Stopped
                })
        };
        let served = site.served.iter().map(|(epoch, by)| (volume(), (*by == boot).then_some(*epoch)));
        Situation {
            me: name.clone(),
            boot,
            ended_cleanly: report.as_ref().is_some_and(cleanly),
            in_sync: [(volume(), set)].into(),
            machine: site.machine.as_ref().map(|machine| facts(machine, site.keeper.target_boot, self)),
            files: self.disk(name).iter().map(|_| volume()).collect(),
            short: Default::default(),
            pool_trouble: None,
            served: served.collect(),
            dropped: drop.then(volume).into_iter().collect(),
            peer,
            former,
            authority: if live { Authority::Session } else { Authority::None },
            promised_until: None,
            exit: site.keeper.exit.as_ref().map(|exit| (exit.boot_generation, exit.reason)),
            not_before: None,
            starts_after: None,
            shutdown_asked_at: site.keeper.asked.then_some((self.now(), self.now())),
            elsewhere: self.elsewhere(),
            incoming: self.incoming(name, &assignment),
            sent_to: site.keeper.sent_to,
            sends: site.keeper.sends,
            gave_up_sending: site.keeper.gave_up.as_ref().map(|(job, _)| *job),
            arriving_since: site.keeper.arriving_since,
            mirror_back_failed: site.keeper.mirror_back_failed,
            filled_in_vain: BTreeSet::new(),
            no_fill_before: None,
            has_room: true,
            reset: None,
            deaf: false,
            now: self.now(),
            spec,
            assignment,
        }
    }

    /// As the daemon's keeper does: a new owner learns how the last run ended.
    fn learn(&mut self, name: &HostName, assignment: &Assignment, report: Option<&GuestReport>) {
        let site = self.sites.get_mut(name).unwrap();
        let ran_here = site.keeper.launched_at == Some(assignment.epoch) || site.machine.is_some();
        if &assignment.host == name
            && !ran_here
            && let Some(report) = report.filter(|r| &r.host != name && r.epoch < assignment.epoch)
        {
            site.keeper.exit = end_of_last_run(report);
        }
    }

    /// What a keeper remembers of a handover while the guest runs.
    fn remember(&mut self, name: &HostName, assignment: &Assignment) {
        let now = self.now();
        let site = self.site(name);
        let stage = site.machine.as_ref().map(|machine| machine.stage);
        let arriving = matches!(stage, Some(Stage::Incoming | Stage::Arrived));
        if stage != Some(Stage::Incoming) {
            site.keeper.told_where = false;
        }
        if !arriving || &assignment.host != name {
            (site.keeper.arriving_since, site.keeper.mirror_back_failed) = (None, false);
        } else if site.keeper.arriving_since.is_none() {
            site.keeper.arriving_since = Some(now);
        }
        if assignment.handover.is_none() {
            (site.keeper.sends, site.keeper.sent_to, site.keeper.gave_up) = (0, None, None);
        }
    }

    /// By the owner's report.
    fn elsewhere(&self) -> Option<RunElsewhere> {
        let report = self.view.guest_reports.get(&guest())?;
        let runs = report.state == GuestState::Running;
        runs.then(|| RunElsewhere {
            machine_type: "q35".into(),
            cpu: CpuModel::Tcg,
            boot_generation: report.boot_generation,
        })
    }

    fn incoming(&self, name: &HostName, assignment: &Assignment) -> Option<SocketAddr> {
        let to = &assignment.handover.as_ref()?.to;
        let told = self.sites[to].keeper.told_where || to != name;
        self.waits_at(to, assignment.epoch.next()).filter(|_| told)
    }

    fn say(&mut self, name: &HostName, s: &Situation, step: &Step) {
        if &s.assignment.host != name {
            return;
        }
        #[expect(clippy::wildcard_enum_match_arm, reason = "what else is done depends on the machine alone")]
        let state = match step {
            Step::Rest { rest: Rest::Stopped, .. } => GuestState::Stopped,
            Step::Rest { rest: Rest::Stuck(what), .. } => panic!("{name} is stuck: {what}"),
            Step::Shutdown | Step::Rest { rest: Rest::Stopping, .. } | Step::End { .. } => {
                GuestState::Stopping
            }
            _ if s.machine.as_ref().is_some_and(|m| m.stage == Stage::Running) => GuestState::Running,
            _ if s.machine.is_some() => GuestState::Starting,
            _ if self.sites[name].keeper.failures >= 3 => GuestState::Failed,
            _ => GuestState::Preparing,
        };
        let volumes = s.machine.iter().map(|machine| {
            let mirrored = machine.mirrors.contains_key(&volume());
            let both = s.in_sync[&volume()].members.len() > 1;
            let state = match (mirrored, both) {
                (true, true) => VolumeState::Mirroring,
                (true, false) => VolumeState::Syncing,
                (false, _) => VolumeState::Alone,
            };
            VolumeReport { volume: volume(), state, fill: None, filled: None }
        });
        let exit = self.sites[name].keeper.exit.clone();
        let generation = s.machine.as_ref().map(|machine| machine.boot_generation);
        let report = GuestReport {
            host: name.clone(),
            boot_id: s.boot,
            epoch: s.assignment.epoch,
            boot_generation: generation
                .or(exit.as_ref().map(|exit| exit.boot_generation))
                .unwrap_or_default(),
            since: s.now,
            volumes: volumes.collect(),
            exit,
            migration: self.migration(name, s),
            no_room: false,
            failed_at: None,
            ..fixture::report(&s.assignment, state)
        };
        self.view.guest_reports.insert(guest(), report);
    }

    fn migration(&self, name: &HostName, s: &Situation) -> Option<MigrationReport> {
        let handover = s.assignment.handover.as_ref()?;
        let gave_up = self.sites[name].keeper.gave_up.as_ref().filter(|(job, _)| *job == handover.job);
        let phase = match gave_up {
            Some((_, why)) => MigrationPhase::Failed(why.clone()),
            None => s.machine.as_ref()?.sending.as_ref().map(|_| MigrationPhase::Memory)?,
        };
        Some(MigrationReport {
            to: handover.to.clone(),
            phase,
            transferred: Bytes(0),
            remaining: Bytes(0),
            total: Bytes(0),
            dirty_rate: 0,
            throughput: 0,
            expected_downtime_ms: None,
            iteration: 1,
        })
    }
}

fn facts(machine: &Qemu, target_boot: Option<BootId>, world: &World) -> MachineFacts {
    let mirror = machine.mirror.as_ref().map(|mirror| {
        let reachable = world.serves(&mirror.host, mirror.epoch, mirror.boot);
        // A connection that is held says what it said before.
        let state = if mirror.missing == 0 { Mirror::Ready } else { Mirror::Filling };
        debug_assert!(reachable || machine.stage == Stage::Running);
        (volume(), MirrorFacts { state, target_boot })
    });
    MachineFacts {
        epoch: machine.epoch,
        boot_generation: machine.generation,
        stage: machine.stage,
        mirrors: mirror.into_iter().collect(),
        records: BTreeMap::new(),
        no_room: false,
        sending: machine.sending.as_ref().map(|sending| Sending {
            phase: sending.phase.clone(),
            iteration: 1,
            remaining: 0,
            dirty_rate: 0,
            throughput: 0,
            downtime_limit_ms: 500,
            post_copy: false,
        }),
        withheld: machine.withheld && machine.stage == Stage::Running,
    }
}
