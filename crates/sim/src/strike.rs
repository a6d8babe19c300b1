//! What faults do to the world, how they end, and what operators ask for.

use std::collections::BTreeMap;

use model::{
    BootFrom, Bytes, ClusterView, DiskSpec, Duty, GuestName, GuestPlace, GuestSpec, JobKind, JobSpec,
    MoveOptions, Pool, PowerWish,
};
use plan::inventory::Inventory;
use plan::layout::Layout;

use crate::books::COMES_BACK;
use crate::fault::{Blow, Manner};
use crate::machine::{Ended, Gone};
use crate::names::{guest_id, guest_name, host_name, job_id, volume_id};
use crate::request::{Asked, Who};
use crate::store::{Key, Record, Txn};
use crate::world::{Event, MS, Mend, S, Time, World, note};

/// How often a blow that must wait for everything to be well looks again.
const WAIT: Time = 500 * MS;

/// How long it may take until everything is well again after one failure.
const WELL_WITHIN: Time = 240 * S;

impl World {
    /// One item of the schedule.
    pub fn strike(&mut self, item: usize) {
        let Some(next) = self.schedule.items.get(item).copied() else {
            return self.end_faults();
        };
        if self.schedule.manner == Manner::Single
            && !next.blow.is_wish()
            && next.blow.on_device().is_none()
            && let Some(unwell) = self.unwell()
        {
            if self.now > self.books.waits_since.get_or_insert(self.now).saturating_add(WELL_WITHIN) {
                return self.breaks(COMES_BACK, format!("after one failure: {unwell}"));
            }
            return self.after(WAIT, Event::Strike(item));
        }
        self.books.waits_since = None;
        self.books.blows.push_back(self.now);
        if next.blow.is_wish() {
            self.wish(next.blow);
        } else {
            note!(self, "FAULT {}", next.blow);
            self.books.current =
                if next.blow.on_device().is_some() { self.books.current } else { Some(next.blow) };
            *self.books.faults.entry(next.blow.name()).or_default() += 1;
            self.hit(next.blow);
        }
        let at = self
            .schedule
            .items
            .get(item + 1)
            .map_or(self.now + S, |following| self.now + following.at.saturating_sub(next.at));
        self.at(at, Event::Strike(item + 1));
    }

    fn hit(&mut self, blow: Blow) {
        let now = self.now;
        let hosts = self.sites.len();
        let host_of = |host: u64| host as usize % hosts;
        let until = |ms: u64| now + ms * MS;
        #[expect(clippy::wildcard_enum_match_arm, reason = "`Blow::is_wish` says which blows are asked for")]
        match blow {
            Blow::PowerOff { host, ms } => {
                let mains = self.schedule.shared && self.rng.percent(50);
                self.power_off(host_of(host), ms * MS, mains);
            }
            Blow::DaemonDies { host, ms } => self.daemon_dies(host_of(host), ms * MS),
            Blow::DaemonFreezes { host, ms } => self.sites[host_of(host)].daemon_frozen_until = until(ms),
            Blow::HostFreezes { host, ms } => {
                let still = self.sites[host_of(host)].frozen_until > now;
                self.sites[host_of(host)].frozen_until = until(ms);
                if !still {
                    self.stands_still_from_now(host_of(host));
                }
                self.at(until(ms), Event::Mend(Mend::Thaw { host: host_of(host) }));
                self.topology_changed();
            }
            Blow::CutOneWay { from, to, ms } => self.cut(&[(host_of(from), host_of(to))], until(ms)),
            Blow::Cut { from, to, ms } => {
                let (from, to) = (host_of(from), host_of(to));
                self.cut(&[(from, to), (to, from)], until(ms));
            }
            Blow::Isolate { host, ms } => {
                let host = host_of(host);
                let others = (0..hosts).filter(|other| *other != host);
                let links: Vec<_> = others.flat_map(|other| [(host, other), (other, host)]).collect();
                self.cut(&links, until(ms));
            }
            Blow::SlowLink { from, to, delay, ms } => {
                self.network.slow_down(host_of(from), host_of(to), delay * MS, until(ms));
            }
            Blow::Shuffle { from, to, delay, ms } => {
                self.network.shuffle(host_of(from), host_of(to), delay * MS, until(ms));
            }
            Blow::MemberDies { host, ms } => self.members_die(&[host_of(host)], until(ms)),
            Blow::StoreDies { ms } => {
                let all: Vec<usize> = (0..self.network.member_dead_until.len()).collect();
                self.members_die(&all, until(ms));
            }
            Blow::StoreStutters { ms } => self.stutters_until = until(ms),
            Blow::WatchLags { host, ms } => self.network.watch_lags_until[host_of(host)] = until(ms),
            Blow::ServerDies { host } => self.sites[host_of(host)].served.clear(),
            Blow::MachineDies { guest } => self.strike_machine(guest as usize, Ended::Died),
            Blow::GuestQuits { guest } => self.strike_machine(guest as usize, Ended::GuestShutdown),
            Blow::GuestHangs { guest } => {
                let machines =
                    self.sites.iter_mut().filter_map(|site| site.machines.get_mut(&(guest as usize)));
                machines.for_each(|machine| machine.hangs = true);
            }
            Blow::DiskFails { host, ms } => self.sites[host_of(host)].disk_fails_until = until(ms),
            Blow::DiskFills { host, ms } => self.sites[host_of(host)].disk_full_until = until(ms),
            Blow::ClockForward { host, by } => self.sites[host_of(host)].clock.wall_off_ms += by as i64,
            Blow::ClockBack { host, by } => self.sites[host_of(host)].clock.wall_off_ms -= by as i64,
            Blow::ClockDrifts { host, percent, ms } => {
                let host = host_of(host);
                self.sites[host].clock.set_rate(now, percent);
                self.at(until(ms), Event::Mend(Mend::Drift { host }));
            }
            other if other.on_device().is_some() => self.strike_device(other),
            wish => self.wish(wish),
        }
    }

    /// Its power goes, for so long at least; `mains`: its board controller's, too. Nothing: it does not come back by
    /// itself.
    pub fn power_off(&mut self, host: usize, dark: Time, mains: bool) {
        if !self.sites[host].up {
            return;
        }
        let dark_until = self.now + dark;
        let site = &mut self.sites[host];
        (site.dark_until, site.mains_lost) = (dark_until, mains);
        self.sites[host].daemon = None;
        let guests: Vec<usize> = self.sites[host].machines.keys().copied().collect();
        for guest in guests {
            self.end_machine(host, guest, Gone::WithItsHost);
        }
        let mut rng = self.rng.clone();
        let site = &mut self.sites[host];
        site.up = false;
        site.served.clear();
        (site.frozen_until, site.daemon_frozen_until) = (0, 0);
        site.files.values_mut().for_each(|file| file.lose_power(&mut rng));
        self.rng = rng;
        if dark > 0 {
            self.after(dark, Event::Mend(Mend::Power { host }));
        }
        self.topology_changed();
    }

    fn daemon_dies(&mut self, host: usize, out: Time) {
        let site = &mut self.sites[host];
        if site.daemon.take().is_none() {
            return;
        }
        site.daemon_frozen_until = 0;
        let life = site.lives;
        self.after(out, Event::Mend(Mend::Daemon { host, life }));
    }

    fn cut(&mut self, links: &[(usize, usize)], until: Time) {
        for &(from, to) in links.iter().filter(|(from, to)| from != to) {
            self.network.cut(from, to, until);
            self.at(until, Event::Mend(Mend::Link { from, to }));
        }
        self.topology_changed();
    }

    fn members_die(&mut self, members: &[usize], until: Time) {
        for &host in members {
            if let Some(dead_until) = self.network.member_dead_until.get_mut(host) {
                *dead_until = (*dead_until).max(until);
                self.at(until, Event::Mend(Mend::Member { host }));
            }
        }
        self.topology_changed();
    }

    fn strike_machine(&mut self, guest: usize, how: Ended) {
        let runs =
            |site: &crate::world::Site| site.machines.get(&guest).is_some_and(|machine| machine.runs());
        let Some(host) = self.sites.iter().position(runs) else { return };
        let machine = &self.sites[host].machines[&guest];
        match how {
            Ended::Died | Ended::Overdue => self.end_machine(host, guest, Gone::Itself(Ended::Died)),
            Ended::GuestShutdown => {
                let uid = machine.uid;
                self.after(0, Event::ShutDown { host, uid });
            }
        }
    }

    pub fn mend(&mut self, mend: Mend) {
        match mend {
            Mend::Power { host } => self.power_returns(host),
            Mend::Unfence { host, until } => self.unfence(host, until),
            Mend::Daemon { host, life } => {
                let site = &self.sites[host];
                if site.up && site.daemon.is_none() && site.lives == life {
                    self.start_daemon(host);
                }
            }
            Mend::Thaw { host } => note!(self, "host{} goes on", host + 1),
            Mend::Link { .. } | Mend::Member { .. } | Mend::Stutter => {}
            Mend::Drift { host } => {
                let now = self.now;
                self.sites[host].clock.set_rate(now, 100);
            }
        }
        self.topology_changed();
    }

    /// Faults have had their time: everything that is broken is mended.
    fn end_faults(&mut self) {
        note!(self, "no more faults");
        self.ending_since = Some(self.now);
        self.books.current = None;
        self.network.heal();
        self.stutters_until = 0;
        let now = self.now;
        for host in 0..self.sites.len() {
            let site = &mut self.sites[host];
            site.clock.set_rate(now, 100);
            (site.disk_fails_until, site.disk_full_until) = (0, 0);
            site.dark_until = site.dark_until.min(now);
            site.devices.iter_mut().for_each(crate::device::Device::mend);
            site.frozen_until = site.frozen_until.min(now + S);
            site.daemon_frozen_until = site.daemon_frozen_until.min(now + S);
            let life = site.lives;
            if !site.up && self.schedule.shared {
                self.after(2 * S, Event::Mend(Mend::Unfence { host, until: now }));
            } else if !site.up {
                self.after(2 * S, Event::Mend(Mend::Power { host }));
            } else if site.daemon.is_none() {
                self.after(S, Event::Mend(Mend::Daemon { host, life }));
            }
        }
        // Hosts take guests again.
        for host in 0..self.sites.len() as u64 {
            self.wish(Blow::Resume { host });
        }
        self.topology_changed();
    }

    // -----------------------------------------------------------------------------------------------------------
    // Operators

    /// An operator asks for something, of some host that answers.
    fn wish(&mut self, blow: Blow) {
        let able =
            |host: &usize| self.sites[*host].daemon.as_ref().is_some_and(|d| d.standing.lease.is_some());
        let hosts: Vec<usize> =
            (0..self.sites.len()).filter(able).filter(|host| self.door(*host).is_some()).collect();
        let Some(&host) = self.rng.pick(&hosts) else { return };
        if let Some(txn) = self.asked_for(host, blow) {
            note!(self, "WISH {blow}");
            self.books.wishes += 1;
            self.books.last_wish = self.now;
            self.request(host, Who::Operator, Asked::Commit(txn));
        }
    }

    fn new_job(&mut self, host: usize, kind: JobKind) -> JobSpec {
        let id = job_id(self.number());
        let created_at = self.wall(host);
        JobSpec { id, kind, created_at, requested_by: "an operator".into(), runner: None, cancel: false }
    }

    fn asked_for(&mut self, host: usize, blow: Blow) -> Option<Txn> {
        let guest_of = |guest: u64| guest_name(guest as usize);
        let running = |spec: &mut GuestSpec| {
            let stopped = spec.power == PowerWish::Stopped;
            spec.power = PowerWish::Running;
            spec.boot_generation += 1;
            stopped
        };
        #[expect(clippy::wildcard_enum_match_arm, reason = "`Blow::is_wish` says which blows are asked for")]
        match blow {
            Blow::Create { mirrored, disks } => {
                self.create(host, if mirrored == 1 { Pool::Mirror } else { Pool::Local }, disks)
            }
            Blow::CreateShared { disks } => self.create(host, Pool::Shared, disks),
            Blow::ConfirmDead { host: of } => self.confirm_dead(host, of as usize % self.sites.len()),
            Blow::FenceByHand { host: of } => self.fence_by_hand(host, of as usize % self.sites.len()),
            Blow::Start { guest } => {
                let guest = guest_of(guest);
                self.change(host, JobKind::StartGuest { guest: guest.clone() }, &guest, running)
            }
            Blow::Stop { guest } => {
                let guest = guest_of(guest);
                self.change(host, JobKind::StopGuest { guest: guest.clone() }, &guest, |spec| {
                    std::mem::replace(&mut spec.power, PowerWish::Stopped) == PowerWish::Running
                })
            }
            Blow::Restart { guest } => {
                let guest = guest_of(guest);
                self.change(host, JobKind::RestartGuest { guest: guest.clone() }, &guest, |spec| {
                    spec.boot_generation += 1;
                    spec.power == PowerWish::Running
                })
            }
            Blow::Delete { guest } => {
                let guest = guest_of(guest);
                self.change(host, JobKind::DeleteGuest { guest: guest.clone() }, &guest, |spec| {
                    (spec.deleting, spec.power) = (true, PowerWish::Stopped);
                    true
                })
            }
            Blow::Migrate { guest, to, restart } => {
                let to = host_name(to as usize % self.sites.len());
                let options = if restart == 1 { MoveOptions::RESTART } else { MoveOptions::LIVE };
                self.migrate(host, guest_of(guest), options, |now| moved(now, to))
            }
            Blow::MoveSecondary { guest, to } => {
                let to = host_name(to as usize % self.sites.len());
                self.migrate(host, guest_of(guest), MoveOptions::LIVE, |now| GuestPlace {
                    secondary: now.secondary.map(|_| to),
                    ..now
                })
            }
            Blow::CancelJob { which } => {
                let cache = &self.daemon(host).cache;
                let ended = |job: &&JobSpec| {
                    !cache.view.job_reports.get(&job.id).is_some_and(|report| report.state.is_terminal())
                };
                let job = cache.view.jobs.values().rev().filter(ended).nth(which as usize)?.clone();
                Some(cache.draft().put(Record::Job(JobSpec { cancel: true, ..job })).build())
            }
            Blow::Drain { host: of } => self.duty(host, of as usize, Duty::Draining),
            Blow::Maintenance { host: of } => self.duty(host, of as usize, Duty::Maintenance),
            Blow::Resume { host: of } => self.duty(host, of as usize, Duty::Normal),
            _ => None,
        }
    }

    pub fn create(&mut self, host: usize, pool: Pool, disks: u64) -> Option<Txn> {
        let guest = self.next_guest;
        self.next_guest += 1;
        let name = guest_name(guest);
        if pool == Pool::Shared {
            self.shared_guests.insert(guest);
        }
        let disk = |n: u64| DiskSpec {
            volume: volume_id(guest, n as usize),
            pool,
            pool_name: None,
            size: Bytes::gib(1),
            image: None,
            thin: false,
        };
        let spec = GuestSpec {
            name: name.clone(),
            id: guest_id(guest),
            created_at: self.wall(host),
            vcpus: 1,
            memory: Bytes::mib(1024 * self.rng.between(1, 3)),
            boot: BootFrom::Disk,
            disks: (0..disks).map(disk).collect(),
            nics: vec![],
            seed: Default::default(),
            power: PowerWish::Running,
            boot_generation: 1,
            priority: 0,
            stop_timeout_s: 10,
            preferred_host: None,
            deleting: false,
            tags: Default::default(),
            pinned: false,
            start_after: Default::default(),
            restart_with: Default::default(),
            resync: Default::default(),
            health: Default::default(),
        };
        let job = self.new_job(host, JobKind::CreateGuest { guest: name });
        let mut draft = self.daemon(host).cache.draft();
        Some(draft.create(Record::Guest(spec), None).create(Record::Job(job), None).build())
    }

    /// Changes a guest's wish and enters the job that sees it through. `change` says whether it may.
    fn change(
        &mut self,
        host: usize,
        kind: JobKind,
        guest: &GuestName,
        change: impl Fn(&mut GuestSpec) -> bool,
    ) -> Option<Txn> {
        let mut spec = self.daemon(host).cache.view.guests.get(guest)?.clone();
        if spec.deleting || !change(&mut spec) {
            return None;
        }
        let job = self.new_job(host, kind);
        let mut draft = self.daemon(host).cache.draft();
        Some(draft.put(Record::Guest(spec)).create(Record::Job(job), None).build())
    }

    fn migrate(
        &mut self,
        host: usize,
        guest: GuestName,
        options: MoveOptions,
        place: impl FnOnce(GuestPlace) -> GuestPlace,
    ) -> Option<Txn> {
        let view = &self.daemon(host).cache.view;
        let assignment = view.assignments.get(&guest)?;
        if !view.is_live(&assignment.host) || is_busy(view, &guest) || view.guests.get(&guest)?.deleting {
            return None;
        }
        let now = GuestPlace { host: assignment.host.clone(), secondary: assignment.secondary.clone() };
        let to = place(now.clone());
        if to == now || !may_go(view, &guest, &to) {
            return None;
        }
        let job = self.new_job(host, JobKind::MoveGuest { guest: guest.clone(), to, options, heals: None });
        let key = Key::Assignment(crate::names::guest_ix(&guest));
        let mut draft = self.daemon(host).cache.draft();
        Some(draft.unchanged(key).create(Record::Job(job), None).build())
    }

    fn duty(&mut self, host: usize, of: usize, duty: Duty) -> Option<Txn> {
        let record = self.daemon(host).cache.view.hosts.get(&host_name(of))?.clone();
        if record.duty == duty {
            return None;
        }
        let job = self.new_job(host, JobKind::DrainHost { host: record.name.clone() });
        let mut draft = self.daemon(host).cache.draft();
        draft.put(Record::Host(model::Host { duty, ..record }));
        if duty != Duty::Normal {
            draft.create(Record::Job(job), None);
        }
        Some(draft.build())
    }
}

/// Where a guest and its secondary are when it has come to a host: where it was it leaves a copy.
fn moved(now: GuestPlace, to: model::HostName) -> GuestPlace {
    let both = now.secondary.is_some();
    let kept = if now.host == to { now.secondary } else { Some(now.host) };
    GuestPlace { host: to, secondary: kept.filter(|_| both) }
}

/// Whether something is being done to a guest.
fn is_busy(view: &ClusterView, guest: &GuestName) -> bool {
    let ended = |job: &JobSpec| view.job_reports.get(&job.id).is_some_and(|r| r.state.is_terminal());
    view.jobs.values().filter(|job| !ended(job)).any(|job| match &job.kind {
        JobKind::MoveGuest { guest: other, .. }
        | JobKind::CreateGuest { guest: other }
        | JobKind::DeleteGuest { guest: other }
        | JobKind::StartGuest { guest: other }
        | JobKind::StopGuest { guest: other }
        | JobKind::RestartGuest { guest: other } => other == guest,
        JobKind::BuildImage { .. }
        | JobKind::VerifyVolume { .. }
        | JobKind::DrainHost { .. }
        | JobKind::Balance { .. } => false,
    })
}

/// As the API judges a place that somebody names.
fn may_go(view: &ClusterView, guest: &GuestName, to: &GuestPlace) -> bool {
    let inventory = Inventory::new(view, &BTreeMap::new());
    let (Some(index), Some(place)) = (inventory.guest_ix(guest), inventory.place_ix(to)) else {
        return false;
    };
    Layout::new(&inventory.snapshot).obstacle(index, place).is_none()
}
