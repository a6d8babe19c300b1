//! What a host says of a guest that it owns: the counterpart of `daemon::agent::report` and of the second half of
//! `daemon::agent::look`.

use model::{
    Bytes, GuestReport, GuestState, HandoverKind, MigrationPhase, MigrationReport, VolumeId, VolumeReport,
    VolumeState,
};
use plan::converge::{Rest, SendPhase, Situation, Stage, Step};

use crate::names::guest_name;
use crate::request::{Asked, Replied, Reply, Who};
use crate::store::{Key, Record};
use crate::world::{Event, MS, Time, World};

/// So many failures in a row, and a person should know.
const FAILED_AFTER: u32 = 3;
const RETRY_AFTER: Time = 500 * MS;
const AFTER_CONFLICT: Time = 20 * MS;

impl World {
    /// Reports what was seen, and what is about to be done.
    pub fn say(&mut self, host: usize, guest: usize, s: &Situation, step: &Step) {
        let owns = s.assignment.host == s.me;
        let stuck = match step.rest() {
            Some(Rest::Stuck(what)) => Some(what.clone()),
            Some(_) | None => None,
        };
        self.tell_problem(host, guest, owns, stuck.clone());
        if !owns {
            return;
        }
        let state = self.state(host, guest, s, step);
        let generation = s.machine.as_ref().map(|machine| machine.boot_generation);
        let keeper = self.keeper(host, guest);
        let exit = keeper.exit.clone();
        let generation = generation.or(exit.as_ref().map(|exit| exit.boot_generation)).unwrap_or_default();
        let waits = match step.rest() {
            Some(Rest::Waiting(why)) => Some(why.clone()),
            Some(_) | None => None,
        };
        let message = match state {
            GuestState::Failed | GuestState::Preparing | GuestState::Starting => {
                keeper.failure.clone().or(waits)
            }
            GuestState::Running | GuestState::Stopping | GuestState::Stopped | GuestState::Deleted => None,
        };
        let last = keeper.wish.clone().filter(|last| last.state == state);
        let gave_up = keeper.live.gave_up.clone();
        let report = GuestReport {
            since: last.map_or(s.now, |last| last.since),
            message: stuck.or(message),
            volumes: volume_reports(s),
            migration: migration_report(s, gave_up.as_ref()),
            no_room: false,
            failed_at: None,
            health: None,
            ..self.report_of(s, state, generation, exit)
        };
        let keeper = self.keeper(host, guest);
        if keeper.wish.as_ref().is_none_or(|old| !same(old, &report)) {
            keeper.wish = Some(report);
            self.report(host, guest);
        }
    }

    fn tell_problem(&mut self, host: usize, guest: usize, owns: bool, stuck: Option<String>) {
        let name = guest_name(guest).to_string();
        let problem = stuck.or_else(|| self.keeper(host, guest).failure.clone().filter(|_| !owns));
        let problems = &mut self.daemon(host).problems;
        let news = match problem {
            Some(what) => {
                let text = format!("{name}: {what}");
                problems.insert(name, text.clone()) != Some(text)
            }
            None => problems.remove(&name).is_some(),
        };
        if news {
            self.tell_of_host(host);
        }
    }

    fn state(&mut self, host: usize, guest: usize, s: &Situation, step: &Step) -> GuestState {
        let failing = self.keeper(host, guest).failures >= FAILED_AFTER && s.machine.is_none();
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

    /// Writes what the keeper wishes to report, if it is news and this host's to write.
    pub fn report(&mut self, host: usize, guest: usize) {
        let Some(keeper) = self.daemon(host).keepers.get(&guest).filter(|keeper| !keeper.reporting) else {
            return;
        };
        let Some(report) = keeper.wish.clone() else { return };
        let cache = &self.daemon(host).cache;
        let owns = cache.view.assignments.get(&report.guest).is_some_and(|a| {
            a.guest_id == report.guest_id && a.host == report.host && a.epoch == report.epoch
        });
        let told = report.state != GuestState::Starting
            && cache.view.guest_reports.get(&report.guest).is_some_and(|old| same(old, &report));
        if !owns || told {
            return;
        }
        let txn = cache.draft().unchanged(Key::Assignment(guest)).put(Record::GuestReport(report)).build();
        self.keeper(host, guest).reporting = true;
        self.request(host, Who::Reporter(guest), Asked::Commit(txn));
    }

    pub fn reporter_replied(&mut self, host: usize, guest: usize, replied: Replied) {
        let life = self.daemon(host).life;
        let Some(keeper) = self.daemon(host).keepers.get_mut(&guest) else { return };
        keeper.reporting = false;
        let pause = match replied {
            // What was said meanwhile comes next.
            Ok(Reply::Committed(_) | Reply::Conflict) => AFTER_CONFLICT,
            Ok(_) | Err(_) => RETRY_AFTER,
        };
        self.after_local(host, pause, Event::Report { host, life, guest });
    }
}

/// Whether two reports say the same, but for when.
fn same(a: &GuestReport, b: &GuestReport) -> bool {
    let at = |report: &GuestReport| GuestReport { since: jiff::Timestamp::UNIX_EPOCH, ..report.clone() };
    at(a) == at(b)
}

fn volume_reports(s: &Situation) -> Vec<VolumeReport> {
    let Some(machine) = &s.machine else { return vec![] };
    let state_of = |volume: &VolumeId| match (machine.mirrors.get(volume), s.in_sync.get(volume)) {
        (Some(_), Some(set)) if set.members.len() > 1 => VolumeState::Mirroring,
        (Some(_), _) => VolumeState::Syncing,
        (None, _) => VolumeState::Alone,
    };
    let disks = s.spec.disks.iter();
    disks
        .map(|disk| VolumeReport {
            volume: disk.volume,
            state: state_of(&disk.volume),
            fill: None,
            filled: None,
        })
        .collect()
}

fn migration_report(s: &Situation, gave_up: Option<&(model::JobId, String)>) -> Option<MigrationReport> {
    let handover = s.assignment.handover.as_ref().filter(|h| h.how == HandoverKind::Live)?;
    let sending = s.machine.as_ref().and_then(|machine| machine.sending.as_ref());
    let gave_up = gave_up.filter(|(job, _)| *job == handover.job);
    let phase = match (gave_up, sending.map(|sending| &sending.phase)) {
        (Some((_, why)), _) => MigrationPhase::Failed(why.clone()),
        (None, Some(SendPhase::Memory)) => MigrationPhase::Memory,
        (None, Some(SendPhase::AtSwitchover | SendPhase::Delivering | SendPhase::Delivered)) => {
            MigrationPhase::SwitchOver
        }
        (None, Some(SendPhase::Failed(_)) | None) => return None,
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
