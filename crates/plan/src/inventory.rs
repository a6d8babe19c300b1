//! The live cluster as a [`Snapshot`]: what each host can give, what each guest needs and uses, and which guests may
//! not be moved now, with the reason.
//!
//! What a host gives is computed from its report and its settings, what a guest takes from its spec; neither is
//! measured. Only the load is measured, and only measurements that are fresh and as old as their window count:
//!
//! - A guest that was measured for a whole window has the load that was measured.
//! - A guest of a measured host that was measured for less (it is new here, or was moved a moment ago) has the larger
//!   of what was measured and the estimate; it stays where it is until it was measured for a window, which is also
//!   what keeps a guest from being moved back and forth.
//! - On a host that is not measured, guests have the estimate: [`ESTIMATED_CPU_SHARE`] of their virtual CPUs and all
//!   of their memory. So a new guest does not look idle.
//!
//! A guest that is stopped has no load, and takes disk only.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use model::{
    Assignment, Bytes, ClusterView, Duty, GuestName, GuestPhase, GuestPlace, GuestSpec, Host, HostName,
    HostUsage, JobKind, JobSpec, Liveness, Pool, PowerWish, RuleName, Settings, Survive, Usage,
};

use crate::compat::{self, Run, Verdicts};
use crate::layout::Obstacle;
use crate::order::StartOrder;
use crate::rules::{self, Resolved};
use crate::snapshot::{
    DomainIx, GroupIx, GuestIx, GuestNeed, HostDuty, HostIx, HostRoom, Load, Place, Promise, Snapshot,
    Storage,
};

/// What QEMU takes beside the guest's own memory.
pub const GUEST_OVERHEAD: Bytes = Bytes::mib(64);

/// What a guest is taken to use of its virtual CPUs before it was measured: servers mostly idle, and ten guests that
/// nobody measured should weigh about as much as one that is busy.
pub const ESTIMATED_CPU_SHARE: f64 = 0.1;

/// Measurements that are so much older than the newest are not acted upon. Seconds.
pub const STALE_AFTER_S: i64 = 60;

/// What a guest takes of its host's memory.
pub fn memory_of(spec: &GuestSpec) -> Bytes {
    // What a guest asks for may be any number; one that no host has must not wrap around to one that fits.
    Bytes(spec.memory.0.saturating_add(GUEST_OVERHEAD.0))
}

/// A cluster as the planner sees it, with the names that the snapshot's numbers stand for.
#[derive(Debug, Clone)]
pub struct Inventory {
    pub snapshot: Snapshot,
    pub rules: Resolved,
    /// What it was made from, without what no plan needs.
    view: ClusterView,
    usage: BTreeMap<HostName, HostUsage>,
    hosts: Vec<HostName>,
    guests: Vec<GuestName>,
    stays: BTreeMap<GuestIx, Stay>,
    unmeasured: BTreeMap<HostName, String>,
    /// Hosts that cannot continue a guest that runs; see [`Inventory::for_moves`].
    incompatible: BTreeMap<(GuestIx, HostIx), String>,
}

/// Why a guest may not be moved now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stay {
    pub cause: StayCause,
    /// A phrase without a full stop, as in "it is being deleted".
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StayCause {
    /// It has no host, or its host is lost: recovery's business.
    NoHost,
    /// Its operator does not want it moved. Its secondary may be.
    Pinned,
    /// Its disks are on its host alone. It can move, with a copy of them, but not for the load's sake.
    Local,
    /// It is stopped: its roles may swap, its disks cannot be copied.
    Stopped,
    /// It does not run though it should; its host tries again and again.
    Failed,
    /// Something is under way with it: it starts, is moved, is filled, is deleted.
    Busy,
    /// It was not measured for long enough to be moved for the load's sake.
    Young,
}

impl fmt::Display for Stay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.why)
    }
}

impl Inventory {
    /// The cluster as `view` says, with the load that `usage` says. Hosts that are missing in `usage` count as not
    /// measured.
    pub fn new(view: &ClusterView, usage: &BTreeMap<HostName, HostUsage>) -> Inventory {
        Self::of(slim(view), usage.clone())
    }

    fn of(view: ClusterView, usage: BTreeMap<HostName, HostUsage>) -> Inventory {
        let settings = settings_of(&view);
        let rules = rules::resolve(&view);
        let unmeasured = unmeasured(&view, &usage);
        let zones: Vec<String> =
            view.hosts.values().map(|h| h.zone.clone()).collect::<BTreeSet<_>>().into_iter().collect();
        let mut inventory = Inventory {
            snapshot: Snapshot {
                hosts: Vec::new(),
                guests: Vec::new(),
                domains: zones,
                groups: rules.groups.clone(),
                promise: promise(settings.survive),
                disk_share_max: 1.0,
            },
            rules,
            hosts: view.hosts.keys().cloned().collect(),
            guests: view.guests.keys().cloned().collect(),
            stays: BTreeMap::new(),
            unmeasured,
            incompatible: BTreeMap::new(),
            usage,
            view,
        };
        inventory.snapshot.hosts =
            inventory.view.hosts.values().map(|host| inventory.room(host, &settings)).collect();
        inventory.add_guests();
        inventory.add_rules();
        inventory
    }

    /// The same cluster with one more guest, or with this spec for a guest that it has.
    #[must_use]
    pub fn with_guest(&self, spec: &GuestSpec) -> Inventory {
        let mut view = self.view.clone();
        view.guests.insert(spec.name.clone(), spec.clone());
        Self::of(view, self.usage.clone())
    }

    /// The same cluster in which a guest that runs may only go to hosts that can continue it. What starts guests anew
    /// does not ask this.
    pub fn for_moves(&self) -> Cow<'_, Inventory> {
        let mut verdicts = Verdicts::default();
        let mut incompatible = BTreeMap::new();
        for (name, report) in &self.view.guest_reports {
            let spec = self.view.guests.get(name).filter(|spec| spec.id == report.guest_id);
            let run = spec.and_then(|_| Run::of(&self.view, report));
            let (Some(guest), Some(run)) = (self.guest_ix(name), run) else { continue };
            for (host, why) in verdicts.of(&self.view, run) {
                if let Some(host) = self.host_ix(host) {
                    incompatible.insert((guest, host), why.clone());
                }
            }
        }
        if incompatible.is_empty() {
            return Cow::Borrowed(self);
        }
        let mut narrowed = self.clone();
        let all: Vec<HostIx> = self.snapshot.host_indices().collect();
        let guests: BTreeSet<GuestIx> = incompatible.keys().map(|(guest, _)| *guest).collect();
        for guest in guests {
            let need = &mut narrowed.snapshot.guests[guest.at()];
            let allowed = need.allowed.get_or_insert_with(|| all.clone());
            allowed.retain(|host| !incompatible.contains_key(&(guest, *host)));
        }
        narrowed.incompatible = incompatible;
        Cow::Owned(narrowed)
    }

    /// Whether there is a host that cannot continue the guest while it runs.
    pub fn cannot_continue(&self, guest: GuestIx) -> bool {
        self.incompatible.keys().any(|(other, _)| *other == guest)
    }

    /// The same cluster with another wish for a host.
    #[must_use]
    pub fn with_duty(&self, host: &HostName, duty: Duty) -> Inventory {
        let mut view = self.view.clone();
        if let Some(host) = view.hosts.get_mut(host) {
            host.duty = duty;
        }
        Self::of(view, self.usage.clone())
    }

    /// Takes note of a decision: this guest will be there.
    pub fn put(&mut self, guest: &GuestName, place: &GuestPlace) {
        let place = self.place_ix(place);
        if let Some(guest) = self.guest_ix(guest) {
            self.snapshot.guests[guest.at()].place = place;
        }
    }

    /// Takes note that a guest is not to be moved now, and why.
    pub fn hold(&mut self, guest: &GuestName, why: &str) {
        if let Some(guest) = self.guest_ix(guest) {
            self.snapshot.guests[guest.at()].may_move = false;
            self.stays.insert(guest, Stay { cause: StayCause::Busy, why: why.to_owned() });
        }
    }

    /// What was read to make this; specs without their seeds, and no events.
    pub fn view(&self) -> &ClusterView {
        &self.view
    }

    pub fn usage(&self) -> &BTreeMap<HostName, HostUsage> {
        &self.usage
    }

    pub fn settings(&self) -> Settings {
        settings_of(&self.view)
    }

    pub fn host_name(&self, host: HostIx) -> &HostName {
        &self.hosts[host.at()]
    }

    pub fn guest_name(&self, guest: GuestIx) -> &GuestName {
        &self.guests[guest.at()]
    }

    pub fn host_ix(&self, host: &HostName) -> Option<HostIx> {
        self.snapshot.find_host(host.as_str())
    }

    pub fn guest_ix(&self, guest: &GuestName) -> Option<GuestIx> {
        self.snapshot.find_guest(guest.as_str())
    }

    pub fn place_of(&self, place: Place) -> GuestPlace {
        GuestPlace {
            host: self.host_name(place.host).clone(),
            secondary: place.secondary.map(|host| self.host_name(host).clone()),
        }
    }

    /// `None`: it names a host that the cluster does not have.
    pub fn place_ix(&self, place: &GuestPlace) -> Option<Place> {
        let secondary = match &place.secondary {
            None => None,
            Some(host) => Some(self.host_ix(host)?),
        };
        Some(Place { host: self.host_ix(&place.host)?, secondary })
    }

    /// Why a guest may not be moved now. `None`: it may.
    pub fn stay(&self, guest: GuestIx) -> Option<&Stay> {
        self.stays.get(&guest)
    }

    /// Every guest that may not be moved now.
    pub fn stays(&self) -> impl Iterator<Item = (GuestIx, &Stay)> {
        self.stays.iter().map(|(guest, stay)| (*guest, stay))
    }

    /// Live hosts whose measurements are not acted upon, and why.
    pub fn unmeasured(&self) -> &BTreeMap<HostName, String> {
        &self.unmeasured
    }

    /// An obstacle in words, with the rules that it comes from.
    pub fn explain(&self, guest: GuestIx, obstacle: &Obstacle) -> String {
        if let Obstacle::NotAllowed { host } = obstacle {
            if let Some(why) = self.incompatible.get(&(guest, *host)) {
                return why.clone();
            }
            let spec = self.view.guests.get(self.guest_name(guest));
            let pools = spec.map(GuestSpec::named_pools).unwrap_or_default();
            let host_name = self.host_name(*host);
            if let Some(why) = pools.iter().find_map(|pool| self.view.pool_problem(host_name, pool)) {
                return why;
            }
            let rules: Vec<&RuleName> = self.rules.against(guest, *host);
            match rules.as_slice() {
                [] => {}
                [one] => return format!("the rule '{one}' keeps the guest on other hosts"),
                more => {
                    let names: Vec<String> = more.iter().map(|rule| format!("'{rule}'")).collect();
                    return format!("the rules {} keep the guest on other hosts", names.join(", "));
                }
            }
        }
        obstacle.to_string()
    }

    fn room(&self, host: &Host, settings: &Settings) -> HostRoom {
        let report = self.view.host_reports.get(&host.name);
        let keeps = &host.settings;
        let memory = report.map_or(0, |report| report.memory.0);
        let disk = report.map_or(0, |report| report.disk.0);
        let cpus = report.map_or(0.0, |report| f64::from(report.cpus));
        let percent = keeps.memory_percent.unwrap_or(settings.memory_percent);
        let vcpus = keeps.vcpus_percent.unwrap_or(settings.vcpus_percent);
        HostRoom {
            name: host.name.to_string(),
            memory: times_percent(memory.saturating_sub(keeps.reserved_memory.0), percent),
            memory_total: memory,
            disk: disk.saturating_sub(keeps.reserved_disk.0),
            disk_total: disk,
            cores: (cpus - f64::from(keeps.reserved_millicores) / 1000.0).max(0.0),
            speed: f64::from(keeps.speed_percent) / 100.0,
            vcpus_max: cpus * f64::from(vcpus) / 100.0,
            network: 0.0,
            own_load: self.own_load(&host.name),
            domains: self.domain_of(host).into_iter().collect(),
            duty: self.duty(host),
        }
    }

    fn domain_of(&self, host: &Host) -> Option<DomainIx> {
        let at = self.snapshot.domains.binary_search(&host.zone).ok()?;
        u32::try_from(at).ok().map(DomainIx)
    }

    fn duty(&self, host: &Host) -> HostDuty {
        if !self.view.is_live(&host.name) {
            let phase = self.view.host_phase(&host.name);
            return HostDuty::Lost(format!("it is {phase}"));
        }
        match host.duty {
            Duty::Draining => HostDuty::Leaves("it is being drained".to_owned()),
            Duty::Maintenance => HostDuty::GuestsLeave("it is in maintenance".to_owned()),
            Duty::Normal if self.view.host_reports.contains_key(&host.name) => {
                compat::below_the_pin(&self.view, &host.name).map_or(HostDuty::Takes, HostDuty::Keeps)
            }
            Duty::Normal => HostDuty::Keeps("it has not reported its size yet".to_owned()),
        }
    }

    /// What a host uses beside its guests.
    fn own_load(&self, host: &HostName) -> Load {
        let Some(usage) = self.measured(host) else { return Load::default() };
        let mut own = usage.total;
        for guest in usage.guests.values() {
            own.cpu -= guest.usage.cpu;
            own.memory -= guest.usage.memory;
            own.disk -= guest.usage.disk;
            own.network -= guest.usage.network;
        }
        rounded(own)
    }

    fn measured(&self, host: &HostName) -> Option<&HostUsage> {
        self.usage.get(host).filter(|_| !self.unmeasured.contains_key(host))
    }

    fn add_guests(&mut self) {
        let busy = jobs_by_guest(&self.view);
        let order = StartOrder::of(self.view.guests.values().filter(|spec| !spec.deleting));
        let mut needs = Vec::with_capacity(self.guests.len());
        for (at, spec) in (0u32..).zip(self.view.guests.values()) {
            let assignment = self.view.assignments.get(&spec.name);
            let stay = self.find_stay(spec, assignment, &busy);
            let runs = spec.power == PowerWish::Running;
            needs.push(GuestNeed {
                name: spec.name.to_string(),
                memory: memory_of(spec).0,
                disk: spec.disk_size().0,
                vcpus: spec.vcpus,
                load: if runs { self.load(spec, assignment) } else { Load::default() },
                storage: storage_of(spec),
                runs,
                may_move: stay.is_none(),
                // What others wait for is as urgent as they are.
                priority: order.urgency(&spec.name),
                groups: Vec::new(),
                allowed: self.allowed(GuestIx(at), spec),
                wishes: self.rules.wishes.get(&GuestIx(at)).cloned().unwrap_or_default(),
                place: self.place_to_count(spec, assignment, &busy),
                unready: assignment.and_then(|assignment| self.unready(spec, assignment)),
            });
            if let Some(stay) = stay {
                self.stays.insert(GuestIx(at), stay);
            }
        }
        self.snapshot.guests = needs;
    }

    /// The hosts that the rules allow, and that reach the pools of the guest's disks.
    fn allowed(&self, guest: GuestIx, spec: &GuestSpec) -> Option<Vec<HostIx>> {
        let by_rules = self.rules.allowed.get(&guest).cloned();
        let pools = spec.named_pools();
        if pools.is_empty() {
            return by_rules;
        }
        let reaches = |host: &HostIx| {
            pools.iter().all(|pool| self.view.pool_problem(&self.hosts[host.at()], pool).is_none())
        };
        let hosts = by_rules.unwrap_or_else(|| (0..self.hosts.len() as u32).map(HostIx).collect());
        Some(hosts.into_iter().filter(reaches).collect())
    }

    /// Where a guest counts: where it is, or where it is being moved to, so that nothing else takes that room.
    fn place_to_count(
        &self,
        spec: &GuestSpec,
        assignment: Option<&Assignment>,
        busy: &BTreeMap<&GuestName, &JobSpec>,
    ) -> Option<Place> {
        if let Some(JobSpec { kind: JobKind::MoveGuest { to, .. }, .. }) = busy.get(&spec.name) {
            let place = self.place_ix(to).filter(|_| assignment.is_some());
            if place.is_some() {
                return place;
            }
        }
        self.place_of_assignment(spec, assignment?)
    }

    /// Counts every guest on the host that owns it now, wherever it is being moved to.
    pub fn count_where_they_are(&mut self) {
        let place = |spec: &GuestSpec| self.place_of_assignment(spec, self.view.assignments.get(&spec.name)?);
        let places: Vec<Option<Place>> = self.view.guests.values().map(place).collect();
        for (guest, place) in self.snapshot.guests.iter_mut().zip(places) {
            guest.place = place;
        }
    }

    /// A secondary that is no host of the cluster any more is none.
    fn place_of_assignment(&self, spec: &GuestSpec, assignment: &Assignment) -> Option<Place> {
        let host = self.host_ix(&assignment.host)?;
        let secondary = assignment.secondary.as_ref().filter(|_| spec.is_mirrored());
        let secondary = secondary.and_then(|host| self.host_ix(host));
        Some(Place { host, secondary })
    }

    fn add_rules(&mut self) {
        for (at, group) in (0u32..).zip(&self.snapshot.groups) {
            for guest in &group.members {
                self.snapshot.guests[guest.at()].groups.push(GroupIx(at));
            }
        }
    }

    fn load(&self, spec: &GuestSpec, assignment: Option<&Assignment>) -> Load {
        let estimate = Load {
            cpu: f64::from(spec.vcpus) * ESTIMATED_CPU_SHARE,
            memory: spec.memory.0 as f64,
            disk: 0.0,
            network: 0.0,
        };
        let Some(host) = assignment.and_then(|a| self.measured(&a.host)) else { return estimate };
        let Some(guest) = host.guests.get(&spec.name) else { return estimate };
        let measured = rounded(guest.usage);
        if guest.measured_s >= host.window_s {
            return measured;
        }
        Load { cpu: measured.cpu.max(estimate.cpu), memory: measured.memory.max(estimate.memory), ..measured }
    }

    fn find_stay(
        &self,
        spec: &GuestSpec,
        assignment: Option<&Assignment>,
        busy: &BTreeMap<&GuestName, &JobSpec>,
    ) -> Option<Stay> {
        let stay = |cause, why: String| Some(Stay { cause, why });
        let Some(assignment) = assignment else {
            return stay(StayCause::NoHost, "it has no host yet".to_owned());
        };
        let host = &assignment.host;
        if spec.deleting {
            return stay(StayCause::Busy, "it is being deleted".to_owned());
        }
        if !self.view.hosts.contains_key(host) || !self.view.is_live(host) {
            return stay(StayCause::NoHost, format!("its host {host} is lost"));
        }
        if let Some(job) = busy.get(&spec.name) {
            return stay(StayCause::Busy, format!("the job '{}' is under way", job.kind));
        }
        if let Some(handover) = &assignment.handover {
            return stay(StayCause::Busy, format!("it is being handed over to {}", handover.to));
        }
        let report = self.view.guest_reports.get(&spec.name);
        let phase = GuestPhase::derive(spec, Some(assignment), report, &self.view);
        match phase {
            GuestPhase::Running | GuestPhase::Paused | GuestPhase::Stopped => {}
            GuestPhase::Failed => {
                return stay(StayCause::Failed, format!("it failed on {host}, `kennel guest show` says why"));
            }
            phase @ (GuestPhase::Unknown | GuestPhase::Waiting) => {
                return stay(StayCause::NoHost, format!("its state is {phase}"));
            }
            phase @ (GuestPhase::Preparing
            | GuestPhase::Starting
            | GuestPhase::Stopping
            | GuestPhase::Deleting) => return stay(StayCause::Busy, format!("it is {phase}")),
        }
        if let Some(secondary) = self.filling(spec, assignment) {
            if phase == GuestPhase::Stopped {
                // Nothing is under way with it, and nothing will be until somebody starts it.
                let why =
                    format!("it is stopped, and its replica on {secondary} is behind until it runs again");
                return stay(StayCause::Local, why);
            }
            return stay(StayCause::Busy, format!("its replica on {secondary} is being filled"));
        }
        if spec.pinned {
            return stay(StayCause::Pinned, "its operator does not want it moved".to_owned());
        }
        if spec.disks.iter().any(|disk| disk.pool == Pool::Local) || spec.disks.is_empty() {
            let why = match spec.is_mirrored() {
                true => "some of its disks are local, and some are mirrored".to_owned(),
                false => format!("its disks are on {host} alone"),
            };
            return stay(StayCause::Local, why);
        }
        if spec.power == PowerWish::Stopped {
            return stay(StayCause::Stopped, "it is stopped".to_owned());
        }
        self.young(spec, host)
    }

    fn young(&self, spec: &GuestSpec, host: &HostName) -> Option<Stay> {
        let usage = self.measured(host)?;
        let seconds = usage.guests.get(&spec.name).map_or(0, |guest| guest.measured_s);
        (seconds < usage.window_s).then(|| Stay {
            cause: StayCause::Young,
            why: format!("it was measured for {seconds} s of {} s here", usage.window_s),
        })
    }

    fn unready(&self, spec: &GuestSpec, assignment: &Assignment) -> Option<String> {
        let secondary = self.filling(spec, assignment).filter(|_| spec.is_mirrored())?;
        Some(format!("the replica on {secondary} is being filled"))
    }

    /// The secondary's host, if that is live and does not hold every acknowledged write.
    fn filling<'v>(&self, spec: &GuestSpec, assignment: &'v Assignment) -> Option<&'v HostName> {
        let secondary = assignment.secondary.as_ref()?;
        let Liveness::Live(boot) = self.view.liveness(secondary) else { return None };
        let in_sync = |disk: &model::DiskSpec| {
            self.view.in_sync.get(&disk.volume).is_some_and(|set| set.contains(secondary, boot))
        };
        (!spec.disks.iter().all(in_sync)).then_some(secondary)
    }
}

/// What was measured, as finely as anybody can measure: to a thousandth of a core and to a byte. The last digits of
/// an average are noise, and do not survive being written to a file; no plan may depend on them.
fn rounded(usage: Usage) -> Load {
    Load {
        cpu: (usage.cpu.max(0.0) * 1000.0).round() / 1000.0,
        memory: usage.memory.max(0.0).round(),
        disk: usage.disk.max(0.0).round(),
        network: usage.network.max(0.0).round(),
    }
}

fn storage_of(spec: &GuestSpec) -> Storage {
    if spec.is_mirrored() {
        Storage::Mirrored
    } else if spec.is_shared() {
        Storage::Shared
    } else {
        Storage::Local
    }
}

fn settings_of(view: &ClusterView) -> Settings {
    view.cluster.as_ref().map(|cluster| cluster.settings.clone()).unwrap_or_default()
}

fn promise(survive: Survive) -> Promise {
    match survive {
        Survive::Hosts(0) => Promise::Nothing,
        Survive::Hosts(count) => Promise::Hosts(count),
        Survive::Zone => Promise::Domain,
    }
}

fn times_percent(amount: u64, percent: u32) -> u64 {
    u64::try_from(u128::from(amount) * u128::from(percent) / 100).unwrap_or(u64::MAX)
}

/// What a plan reads of a view.
fn slim(view: &ClusterView) -> ClusterView {
    let mut guests = view.guests.clone();
    for spec in guests.values_mut() {
        spec.seed = model::Seed::default();
    }
    ClusterView {
        revision: view.revision,
        cluster: view.cluster.clone(),
        leader: view.leader.clone(),
        hosts: view.hosts.clone(),
        sessions: view.sessions.clone(),
        host_reports: view.host_reports.clone(),
        guests,
        assignments: view.assignments.clone(),
        guest_reports: view.guest_reports.clone(),
        in_sync: view.in_sync.clone(),
        rules: view.rules.clone(),
        pools: view.pools.clone(),
        confirmed_dead: view.confirmed_dead.clone(),
        fences: view.fences.clone(),
        jobs: open_jobs(view).map(|job| (job.id, job.clone())).collect(),
        job_reports: view.job_reports.clone(),
        ..ClusterView::default()
    }
}

fn open_jobs(view: &ClusterView) -> impl Iterator<Item = &JobSpec> {
    let ended =
        |job: &&JobSpec| view.job_reports.get(&job.id).is_some_and(|report| report.state.is_terminal());
    view.jobs.values().filter(move |job| !ended(job))
}

/// Open jobs that work on one guest.
fn jobs_by_guest(view: &ClusterView) -> BTreeMap<&GuestName, &JobSpec> {
    let mut busy = BTreeMap::new();
    for job in open_jobs(view) {
        match &job.kind {
            JobKind::CreateGuest { guest }
            | JobKind::DeleteGuest { guest }
            | JobKind::StartGuest { guest }
            | JobKind::StopGuest { guest }
            | JobKind::RestartGuest { guest }
            | JobKind::MoveGuest { guest, .. } => {
                busy.insert(guest, job);
            }
            JobKind::BuildImage { .. }
            | JobKind::VerifyVolume { .. }
            | JobKind::DrainHost { .. }
            | JobKind::Balance { .. } => {}
        }
    }
    busy
}

/// Live hosts whose measurements do not count, and why.
fn unmeasured(view: &ClusterView, usage: &BTreeMap<HostName, HostUsage>) -> BTreeMap<HostName, String> {
    let newest = usage.values().map(|usage| usage.at).max();
    let mut unmeasured = BTreeMap::new();
    for host in view.hosts.keys().filter(|host| view.is_live(host)) {
        let why = match (usage.get(host), newest) {
            (Some(usage), Some(newest)) => {
                let age = newest.duration_since(usage.at).as_secs();
                if age > STALE_AFTER_S {
                    format!("its last measurement is {age} s older than the newest")
                } else if usage.measured_s < usage.window_s {
                    format!("it has measured for {} s of {} s", usage.measured_s, usage.window_s)
                } else {
                    continue;
                }
            }
            (None, _) | (_, None) => "it does not tell what it measures".to_owned(),
        };
        unmeasured.insert(host.clone(), why);
    }
    unmeasured
}
