//! The beginning of a run, and the looks at the whole: whether everything is well, and whether the run is over.

use std::collections::BTreeSet;

use jiff::Timestamp;
use model::{
    Cluster, Duty, GuestReport, GuestSelector, GuestState, Host, HostSettings, JobKind, Pool, PowerWish,
    Rule, RuleKind, RuleStrength, Settings,
};
use plan::converge::Stage;
use uuid::Uuid;

use crate::books::COMES_BACK;
use crate::names::{guest_ix, guest_name, host_ix, host_name};
use crate::request::{Asked, Who};
use crate::store::Record;
use crate::world::{Event, MS, S, Time, World};

/// Between two looks at the whole.
const PULSE: Time = 500 * MS;

/// How long it may take until everything is well once faults have stopped.
const BACK_WITHIN: Time = 300 * S;

/// For how long everything must be well then.
const WELL_FOR: Time = 15 * S;

/// How many guests of a hundred are in shared storage, where there is some.
const SHARED_GUESTS: u64 = 60;

/// What a host says of a guest whose two hosts lost power one after the other: nothing starts by itself then.
const NEEDS_A_PERSON: &str = "started anew before it had taken the guest over";

fn needs_a_person(report: &GuestReport) -> bool {
    report.message.as_ref().is_some_and(|message| message.contains(NEEDS_A_PERSON))
}

impl World {
    /// Hosts, rules, the first guests; then the schedule.
    pub fn begin(&mut self) {
        let hosts = self.sites.len();
        let members = self.network.member_dead_until.len();
        let empty = crate::store::Cache::default();
        let mut draft = empty.draft();
        for ix in 0..hosts {
            draft.create(Record::Host(host(ix, ix < members)), None);
        }
        let txn = draft.build();
        self.store.commit(&txn);
        self.store.now.view.cluster = Some(cluster());
        for (ix, site) in self.sites.iter().enumerate().filter(|(_, site)| !site.devices.is_empty()) {
            let devices = crate::device::records(ix, &site.devices);
            self.store.now.view.fence_devices.insert(host_name(ix), devices);
        }
        if hosts > 2 {
            let rule = apart(&[0, 1]);
            self.store.now.view.rules.insert(rule.name.clone(), rule);
        }
        for ix in 0..hosts {
            self.begin_to_guard(ix);
            self.start_daemon(ix);
        }
        self.at(3 * S, Event::Pulse);
        let first = self.schedule.items.first().map_or(20 * S, |item| item.at);
        self.at(first, Event::Strike(0));
    }

    pub fn pulse(&mut self) {
        self.make_first_guests();
        self.check_nobody_waits();
        if let Some(since) = self.ending_since {
            let unwell = self.unwell().or_else(|| self.litter());
            match unwell {
                None => {
                    let well_since = *self.books.well_since.get_or_insert(self.now);
                    self.books.ended = self.now >= well_since + WELL_FOR;
                }
                Some(what) => {
                    self.books.well_since = None;
                    if self.now > since + BACK_WITHIN {
                        return self.breaks(COMES_BACK, what);
                    }
                }
            }
        }
        self.after(PULSE, Event::Pulse);
    }

    fn make_first_guests(&mut self) {
        let led = self.store.now.view.leader.is_some();
        if !led || self.next_guest >= self.schedule.guests {
            return;
        }
        let Some(host) = (0..self.sites.len()).find(|h| self.life(*h).is_some() && self.door(*h).is_some())
        else {
            return;
        };
        let mirrored = self.rng.percent(85);
        let disks = self.rng.between(1, 2);
        let shared = self.schedule.shared && self.rng.percent(SHARED_GUESTS);
        let pool = match mirrored {
            _ if shared => Pool::Shared,
            true => Pool::Mirror,
            false => Pool::Local,
        };
        if let Some(txn) = self.create(host, pool, disks) {
            self.request(host, Who::Operator, Asked::Commit(txn));
        }
    }

    /// What is not as it should be, if something is not.
    pub fn unwell(&self) -> Option<String> {
        if !self.network.is_whole(self.now) || self.stutters_until > self.now {
            return Some("the network or the store is not whole".into());
        }
        for (ix, site) in self.sites.iter().enumerate() {
            let quiet =
                site.disk_fails_until.max(site.disk_full_until) <= self.now && site.clock.percent == 100;
            let moves = site.frozen_until.max(site.daemon_frozen_until) <= self.now;
            let session = self.store.now.view.sessions.get(&host_name(ix));
            // A daemon that has just begun knows nothing before it has a session.
            let live = session.is_some_and(|session| session.boot_id == self.boot_of(ix))
                && self.session_is_live(ix)
                && site.daemon.as_ref().is_some_and(|daemon| daemon.standing.lease.is_some());
            if !site.up || site.daemon.is_none() || !quiet || !moves || !live {
                return Some(format!("host{} is not well", ix + 1));
            }
        }
        let view = &self.store.now.view;
        if view.leader.is_none() {
            return Some("nobody leads".into());
        }
        if self.books.switches_due > 0 || view.fences.values().any(|fence| !fence.is_over()) {
            return Some("a host's power is being taken".into());
        }
        view.guests.keys().find_map(|name| self.guest_unwell(guest_ix(name))).or_else(|| self.job_unwell())
    }

    fn guest_unwell(&self, guest: usize) -> Option<String> {
        let name = guest_name(guest);
        let view = &self.store.now.view;
        let spec = &view.guests[&name];
        if spec.deleting {
            return Some(format!("{name} is being deleted"));
        }
        // One that no host has room for waits.
        let assignment = view.assignments.get(&name)?;
        if assignment.handover.is_some() {
            return Some(format!("{name} is to be handed over"));
        }
        let owner = host_ix(&assignment.host);
        for (ix, site) in self.sites.iter().enumerate() {
            if ix != owner && site.machines.contains_key(&guest) {
                return Some(format!("{name} has a machine on host{}", ix + 1));
            }
        }
        let report = view.guest_reports.get(&name);
        let report = report.filter(|r| r.host == assignment.host && r.epoch == assignment.epoch);
        let machine = self.sites[owner].machines.get(&guest);
        let stopped = report.is_some_and(|report| report.state == GuestState::Stopped) && machine.is_none();
        let by_itself = report.and_then(|r| r.exit.as_ref()).is_some_and(|exit| {
            exit.reason == model::ExitReason::GuestShutdown && exit.boot_generation == spec.boot_generation
        });
        if spec.power == PowerWish::Stopped || by_itself {
            let lost = !self.is_single() && report.is_some_and(needs_a_person) && machine.is_none();
            return (!stopped && !lost).then(|| format!("{name} is to be stopped"));
        }
        let runs = machine.is_some_and(|machine| {
            machine.stage == Stage::Running
                && machine.epoch == assignment.epoch
                && machine.generation >= spec.boot_generation
                && machine.sending.is_none()
        });
        if !runs {
            if !self.is_single() && report.is_some_and(needs_a_person) {
                return None;
            }
            let message = report.and_then(|report| report.message.clone()).unwrap_or_default();
            return Some(format!("{name} does not run on {}: {message}", assignment.host));
        }
        for disk in spec.replicated(assignment) {
            let set = view.in_sync.get(&disk.volume);
            let whole = set.is_some_and(|set| {
                set.members.len() == 2 && set.members.iter().all(|replica| view.boot_is_live(replica))
            });
            if !whole {
                return Some(format!("a volume of {name} is not in sync"));
            }
        }
        // Its owner goes by what it knows, should the store be lost now.
        let keeper = self.sites[owner].daemon.as_ref().and_then(|daemon| daemon.keepers.get(&guest));
        if keeper.is_some_and(|keeper| keeper.maybe_admitted.is_some()) {
            return Some(format!("the host of {name} does not know yet that it is in sync"));
        }
        (spec.is_local() && assignment.secondary.is_some()).then(|| format!("{name} is still mirrored"))
    }

    fn job_unwell(&self) -> Option<String> {
        let view = &self.store.now.view;
        if !self.is_single() && view.guest_reports.values().any(needs_a_person) {
            // Its jobs wait for that person, too.
            return None;
        }
        let open = view.jobs.values().find(|job| {
            let ended = view.job_reports.get(&job.id).is_some_and(|report| report.state.is_terminal());
            let waits = match &job.kind {
                JobKind::CreateGuest { guest }
                | JobKind::StartGuest { guest }
                | JobKind::StopGuest { guest }
                | JobKind::RestartGuest { guest } => !view.assignments.contains_key(guest),
                JobKind::DeleteGuest { .. }
                | JobKind::BuildImage { .. }
                | JobKind::VerifyVolume { .. }
                | JobKind::MoveGuest { .. }
                | JobKind::DrainHost { .. }
                | JobKind::Balance { .. } => false,
            };
            !ended && !waits
        })?;
        let report = view.job_reports.get(&open.id);
        let note = report.and_then(|report| report.steps.iter().find_map(|step| step.note.clone()));
        Some(format!("the job '{}' has not ended: {}", open.kind, note.unwrap_or_default()))
    }

    /// What is left behind where it has no part.
    fn litter(&self) -> Option<String> {
        let view = &self.store.now.view;
        if let Some(order) = view.drops.values().next() {
            return Some(format!("{} has not deleted a replica: {}", order.host, order.why));
        }
        let known = |volume| view.guests.contains_key(&guest_name(crate::names::guest_of(volume)));
        if let Some(volume) = self.shared.keys().find(|volume| !known(**volume)) {
            return Some(format!("the shared volume {volume} belongs to nobody"));
        }
        for (ix, site) in self.sites.iter().enumerate() {
            for volume in site.files.keys() {
                let name = guest_name(crate::names::guest_of(*volume));
                let part = view.assignments.get(&name).is_some_and(|a| {
                    host_ix(&a.host) == ix || a.secondary.as_ref().is_some_and(|s| host_ix(s) == ix)
                });
                if !part {
                    return Some(format!(
                        "host{} keeps a replica of {name}, in which it has no part",
                        ix + 1
                    ));
                }
            }
        }
        None
    }
}

fn cluster() -> Cluster {
    Cluster {
        name: "simulated".into(),
        id: Uuid::from_u128(1),
        created_at: Timestamp::UNIX_EPOCH,
        ca_certificate: String::new(),
        settings: Settings::default(),
    }
}

fn host(ix: usize, store_member: bool) -> Host {
    Host {
        name: host_name(ix),
        address: [10, 77, 0, ix as u8 + 1].into(),
        zone: format!("zone{ix}"),
        tags: BTreeSet::new(),
        joined_at: Timestamp::UNIX_EPOCH,
        store_member,
        duty: Duty::Normal,
        settings: HostSettings::default(),
    }
}

fn apart(guests: &[usize]) -> Rule {
    let names = guests.iter().map(|guest| guest_name(*guest)).collect();
    Rule {
        name: "apart".parse().expect("a valid name"),
        kind: RuleKind::Apart,
        guests: GuestSelector { names, tags: BTreeSet::new() },
        strength: RuleStrength::Must,
        priority: 0,
        created_at: Timestamp::UNIX_EPOCH,
    }
}
