//! What a keeper does, act by act.

use std::net::SocketAddr;

use model::{
    Assignment, BootId, Epoch, ExitReason, GuestReport, GuestState, HostName, InSync, JobId, Replica,
};

use super::{Act, Disk, FILL_TICKS, MirrorTo, Qemu, SHUTDOWN_TICKS, SendingTo, Site, World, guest, volume};
use crate::converge::{SendPhase, Situation, Stage, Step};
use crate::fixture;

impl World {
    /// One act. `false`: the step is broken off, and chosen anew.
    pub(super) fn act(&mut self, name: &HostName, act: Act) -> bool {
        let assignment = self.assignment().clone();
        let owns = &assignment.host == name && self.view.is_live(name);
        let boot = fixture::boot(name.as_str(), self.sites[name].boot);
        match act {
            Act::Record(members) => {
                if !owns || self.sites[name].keeper.rests_on.as_ref() != Some(&assignment) {
                    return false;
                }
                let members = members.into_iter().collect();
                let next = self.view.in_sync[&volume()].followed_by(assignment.epoch, members, self.now());
                self.view.in_sync.insert(volume(), next);
            }
            Act::SayStarting => return owns && self.say_starting(name, boot, &assignment),
            Act::Launch => return self.launch(name, &assignment),
            Act::AttachSame(replica) => return self.attach(name, &replica, assignment.epoch, 0),
            Act::AttachBack(replica) => {
                let attached = self.attach(name, &replica, assignment.epoch, 0);
                self.site(name).keeper.mirror_back_failed = !attached;
                return attached;
            }
            Act::Attach(replica) => return self.attach(name, &replica, assignment.epoch, FILL_TICKS),
            Act::Resume => return self.resume(name),
            Act::ForgetDrop => {
                self.view.drops.remove(&(name.clone(), volume()));
            }
            Act::Withdraw => self.site(name).served = None,
            Act::Flush => {
                let disk = self.disk_mut(name).unwrap();
                disk.stable = disk.cached;
            }
            Act::Ask => {
                let site = self.site(name);
                site.keeper.asked = true;
                if let Some(machine) = &mut site.machine {
                    machine.shuts_down_in.get_or_insert(SHUTDOWN_TICKS);
                }
            }
            Act::Kill(reason) => self.kill(name, reason),
            Act::Detach => {
                let site = self.site(name);
                site.keeper.target_boot = None;
                if let Some(machine) = &mut site.machine {
                    machine.mirror = None;
                }
            }
            Act::Receive(generation) => return self.receive(name, generation, assignment.epoch.next()),
            Act::TellWhere => self.site(name).keeper.told_where = true,
            Act::Send(to) => return self.send(name, to),
            Act::CancelSend(gave_up) => self.cancel_send(name, gave_up),
            Act::Withhold => return self.withhold(name),
            Act::Swap(next) => return self.swap(name, next),
            Act::Void => return self.void(name),
            Act::Make => self.site(name).disk = Some(Disk { whole: false, cached: 0, stable: 0 }),
            Act::Serve => self.site(name).served = Some((assignment.epoch, boot)),
            Act::Delete => {
                assert!(self.sites[name].served.is_none(), "{name} deletes a file that it serves");
                self.site(name).disk = None;
            }
        }
        true
    }

    pub(super) fn site(&mut self, name: &HostName) -> &mut Site {
        self.sites.get_mut(name).unwrap()
    }

    /// Lets a machine run that was launched here, or whose guest has arrived.
    fn resume(&mut self, name: &HostName) -> bool {
        if !self.view.is_live(name) {
            return false;
        }
        let others = self.sites.iter().filter(|(other, _)| *other != name);
        let twin = others.filter_map(|(_, site)| site.machine.as_ref()).any(Qemu::runs);
        assert!(!twin, "{name} lets a guest run that runs elsewhere");
        let acknowledged = self.acknowledged;
        let disk = self.disk(name);
        let site = self.site(name);
        let Some(machine) = &mut site.machine else { return false };
        assert!(machine.stage != Stage::Incoming, "{name} lets a guest run that has not arrived");
        machine.stage = Stage::Running;
        let epoch = machine.epoch;
        let disk = disk.expect("a machine has a disk");
        assert!(disk.whole && disk.cached >= acknowledged, "{name} runs on {disk:?}");
        site.keeper.launched_at = Some(epoch);
        true
    }

    fn say_starting(&mut self, name: &HostName, boot: BootId, assignment: &Assignment) -> bool {
        let generation = self.spec().boot_generation;
        let site = self.site(name);
        site.keeper.exit_before = site.keeper.exit.clone();
        site.keeper.exit = site.keeper.exit.take().filter(|exit| exit.boot_generation != generation);
        site.keeper.launched_at = Some(assignment.epoch);
        site.keeper.asked = false;
        let exit = site.keeper.exit.clone();
        let report = GuestReport { boot_id: boot, exit, ..fixture::report(assignment, GuestState::Starting) };
        self.view.guest_reports.insert(guest(), report);
        true
    }

    fn launch(&mut self, name: &HostName, assignment: &Assignment) -> bool {
        let epoch = assignment.epoch;
        let twin = self.sites.values().any(|site| site.machine.as_ref().is_some_and(|m| m.epoch == epoch));
        assert!(!twin, "{name} starts a second machine at epoch {epoch}");
        let acknowledged = self.acknowledged;
        let generation = self.spec().boot_generation;
        let disk = self.disk(name);
        let site = self.site(name);
        if site.broken {
            // It never ran, so the run before it is still the last one.
            site.keeper.failures += 1;
            site.keeper.exit = site.keeper.exit_before.take();
            return false;
        }
        site.keeper.exit_before = None;
        let disk = disk.expect("a machine needs a disk");
        assert!(site.served.is_none(), "{name} starts on a replica that it serves");
        assert!(
            disk.whole && disk.cached >= acknowledged,
            "{name} starts on {disk:?}, {acknowledged} is safe"
        );
        let machine = Qemu {
            epoch,
            generation,
            stage: Stage::Prelaunch,
            mirror: None,
            sending: None,
            in_flight: false,
            shuts_down_in: None,
            withheld: false,
        };
        site.machine = Some(machine);
        true
    }

    fn attach(&mut self, name: &HostName, replica: &Replica, epoch: Epoch, missing: u32) -> bool {
        if !self.serves(&replica.host, epoch, replica.boot_id) {
            return false;
        }
        let (local, remote) = (self.sites[name].disk, self.sites[&replica.host].disk);
        let (local, remote) = (local.unwrap(), remote.unwrap());
        if missing == 0 {
            assert!(
                remote.whole && remote.cached == local.cached,
                "{local:?} and {remote:?} are not the same"
            );
        } else {
            self.site(&replica.host).disk.as_mut().unwrap().whole = false;
        }
        let mirror = MirrorTo { host: replica.host.clone(), epoch, boot: replica.boot_id, missing };
        let site = self.site(name);
        site.keeper.target_boot = Some(replica.boot_id);
        if let Some(machine) = &mut site.machine {
            machine.mirror = Some(mirror);
        }
        true
    }

    pub(super) fn kill(&mut self, name: &HostName, reason: ExitReason) {
        let at = self.now();
        let site = self.site(name);
        if let Some(machine) = site.machine.take()
            && site.daemon_out == 0
            // One that never ran here has no end that counts.
            && !matches!(machine.stage, Stage::Incoming | Stage::Arrived)
        {
            site.keeper.exit = Some(fixture::exit(machine.generation, reason, at));
        }
    }

    /// A machine that waits for a guest may do so while its disk is served.
    fn receive(&mut self, name: &HostName, generation: u64, epoch: Epoch) -> bool {
        let site = self.site(name);
        if site.machine.is_some() {
            return true;
        }
        if site.broken {
            site.keeper.failures += 1;
            return false;
        }
        site.waits += 1;
        site.machine = Some(Qemu {
            epoch,
            generation,
            stage: Stage::Incoming,
            mirror: None,
            sending: None,
            in_flight: false,
            shuts_down_in: None,
            withheld: false,
        });
        true
    }

    fn send(&mut self, name: &HostName, to: SocketAddr) -> bool {
        let Some(handover) = self.assignment().handover.clone() else { return false };
        let site = self.site(name);
        (site.keeper.sends, site.keeper.sent_to) = (site.keeper.sends + 1, Some(to));
        let Some(machine) = &mut site.machine else { return false };
        machine.sending = Some(SendingTo { host: handover.to, phase: SendPhase::Memory, missing: 3 });
        true
    }

    /// The machine that waits ends by itself.
    fn cancel_send(&mut self, name: &HostName, gave_up: Option<(JobId, String)>) {
        let site = self.site(name);
        site.keeper.gave_up = gave_up;
        let Some(machine) = &mut site.machine else { return };
        assert!(machine.stage == Stage::Running, "a guest that was handed over cannot come back");
        machine.withheld = false;
        let epoch = machine.epoch.next();
        let Some(sending) = machine.sending.take() else { return };
        if self.waits_at(&sending.host, epoch).is_some() {
            self.site(&sending.host).machine = None;
        }
    }

    /// The transaction in which a guest changes its host while it stands still.
    fn swap(&mut self, name: &HostName, next: Assignment) -> bool {
        let old = self.assignment().clone();
        let set = self.view.in_sync[&volume()].clone();
        let sessions = self.view.is_live(name) && self.view.is_live(&next.host);
        let same = old.epoch.next() == next.epoch && &old.host == name && old.handover.is_some();
        if !sessions || !same || !self.is_shared() && set.members.len() != 2 {
            return false;
        }
        let (here, there) = (self.disk(name).unwrap(), self.disk(&next.host).unwrap());
        // A host whose power has just gone may be given the guest; the other replica has everything, too.
        let dark = self.sites[&next.host].dark > 0;
        assert!(dark || there.whole && here.cached == there.cached, "{here:?} and {there:?} differ");
        if self.is_shared() {
            let owner = Replica {
                host: next.host.clone(),
                boot_id: fixture::boot(next.host.as_str(), self.sites[&next.host].boot),
            };
            self.view.in_sync.insert(volume(), InSync { epoch: next.epoch, members: [owner].into(), ..set });
        }
        self.view.assignments.insert(guest(), next);
        true
    }

    /// Before the change of owner, of a disk that both hosts share.
    fn withhold(&mut self, name: &HostName) -> bool {
        let Some(machine) = &mut self.site(name).machine else { return false };
        let still = machine.sending.as_ref().is_some_and(|sending| sending.phase == SendPhase::AtSwitchover);
        machine.withheld = still;
        still
    }

    fn void(&mut self, name: &HostName) -> bool {
        assert!(&self.assignment().host != name, "{name} gives away what it owns");
        let Some(machine) = &mut self.site(name).machine else { return false };
        let Some(sending) = machine.sending.as_mut().filter(|s| s.phase == SendPhase::AtSwitchover) else {
            return false;
        };
        sending.phase = SendPhase::Delivering;
        machine.stage = Stage::Left;
        machine.mirror = None;
        true
    }
}

/// What a step consists of, in order.
pub(super) fn acts(step: &Step, s: &Situation) -> Vec<Act> {
    let own = Replica { host: s.me.clone(), boot_id: s.boot };
    let shared = s.spec.is_shared();
    match step {
        Step::TakeOver { .. } if shared => vec![Act::Record(vec![own])],
        Step::HandOver { next } if shared => vec![Act::Withhold, Act::Swap(next.clone()), Act::Void],
        Step::Deliver if shared => vec![Act::Void],
        Step::Arrive { .. } if shared => vec![Act::Resume],
        Step::TakeOver { keep } => {
            let members = keep.iter().cloned().chain([own]).collect();
            vec![Act::Withdraw, Act::Flush, Act::Record(members)]
        }
        Step::ClaimAlone => vec![Act::Record(vec![own])],
        Step::Start { mirror_to } => {
            let attach = mirror_to.iter().cloned().map(Act::AttachSame);
            [Act::SayStarting, Act::Launch].into_iter().chain(attach).chain([Act::Resume]).collect()
        }
        Step::GoOn => panic!("no disk is full here"),
        Step::Reset { .. } => panic!("every guest is well here"),
        Step::Shutdown => vec![Act::Ask],
        Step::End { why } => vec![Act::Kill(*why)],
        Step::Attach { target, .. } => vec![Act::Attach(target.clone())],
        Step::Admit { replica } => vec![Act::Record(vec![own, replica.clone()])],
        Step::LetGo { .. } | Step::Detach { .. } => vec![Act::Record(vec![own]), Act::Detach],
        Step::MakeReplica { .. } => vec![Act::Make],
        Step::Serve { .. } => vec![Act::Serve],
        Step::Withdraw { .. } => vec![Act::Withdraw],
        Step::DropReplica { .. } => vec![Act::Withdraw, Act::Delete, Act::ForgetDrop],
        Step::MakeVolumes { .. } | Step::DeleteVolumes | Step::Grow { .. } | Step::GrowReplica { .. } => {
            panic!("{step:?} has no place in a move")
        }
        Step::Receive { boot_generation, .. } => vec![Act::Receive(*boot_generation), Act::TellWhere],
        Step::Send { to } => vec![Act::Send(*to)],
        Step::CancelSend { gave_up } => vec![Act::CancelSend(gave_up.clone())],
        Step::HandOver { next } => vec![Act::Swap(next.clone()), Act::Void, Act::Serve],
        Step::Deliver => vec![Act::Void, Act::Serve],
        Step::Arrive { mirror_to } => {
            let attach = mirror_to.iter().cloned().map(Act::AttachBack);
            [Act::Withdraw, Act::Flush].into_iter().chain(attach).chain([Act::Resume]).collect()
        }
        Step::Rest { .. } | Step::Adjust { .. } | Step::StartPostCopy => vec![],
    }
}
