//! A host's daemon: its view of the store, its session, what it promises and what it tells of itself.
//!
//! The counterpart of `daemon::session`, `daemon::state`, `daemon::agent` and `daemon::host_report`.

use std::collections::{BTreeMap, BTreeSet};

use model::{
    Accelerator, AcceleratorKind, Assignment, Bytes, Epoch, GuestId, HostReport, Incoming, ReplicaDrop,
    Session, VolumeId,
};
use plan::limits::{AUTHORITY, PROMISE, RENEW_EVERY};

use crate::keeper::Keeper;
use crate::leader::Leader;
use crate::machine::Ended;
use crate::mutant::Mutant;
use crate::names::{guest_id, guest_ix, guest_of, host_name};
use crate::request::{Asked, NoReply, Replied, Reply, Who};
use crate::store::{Cache, Key, Lease, Record, Write};
use crate::world::{Event, MS, Mono, S, Time, World, note};

/// Between two tries to begin a session.
const BEGIN_AGAIN_AFTER: Time = 300 * MS;

/// Between two tries to write the host's report.
const TELL_AGAIN_AFTER: Time = S;

/// As a daemon's own clock counts.
pub const fn local(duration: std::time::Duration) -> Mono {
    duration.as_micros() as Mono
}

/// How far a session is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Asking {
    #[default]
    Nothing,
    Lease,
    Record,
    Renewal,
}

/// What is known of the session.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    pub lease: Option<Lease>,
    pub renewed_at: Option<Mono>,
    pub live_since: Option<Mono>,
    asking: Asking,
    /// The lease that the record is being written on.
    fresh: Option<Lease>,
    sent_at: Mono,
    tick: u64,
}

impl Standing {
    pub fn authority_ends(&self) -> Option<Mono> {
        self.renewed_at.map(|at| at + local(AUTHORITY))
    }

    pub fn is_live(&self, now: Mono) -> bool {
        self.authority_ends().is_some_and(|end| now < end)
    }
}

/// One life of a host's daemon.
#[derive(Debug, Default)]
pub struct Daemon {
    pub life: u32,
    pub cache: Cache,
    /// Everything up to here of the store's log was heard.
    heard: usize,
    ready: bool,
    /// When it listens again for what it could not hear.
    listens_at: Time,
    pub standing: Standing,
    pub leader: Leader,
    pub keepers: BTreeMap<usize, Keeper>,
    /// Until when this host promised not to start a guest.
    pub promises: BTreeMap<usize, Mono>,
    /// Where machines of this host wait for guests.
    pub incoming: BTreeMap<usize, Incoming>,
    pub problems: BTreeMap<String, String>,
    pub dropping: BTreeSet<VolumeId>,
    telling: bool,
    /// How machines ended that its keepers have not looked at since.
    pub ends: BTreeMap<u64, (Ended, bool)>,
    served_at_start: BTreeSet<VolumeId>,
}

impl World {
    /// Starts a host's daemon anew.
    pub fn start_daemon(&mut self, host: usize) {
        let shared = self.schedule.shared;
        let site = &mut self.sites[host];
        site.lives += 1;
        let life = site.lives;
        let served_at_start = site.served.keys().copied().collect();
        // What is left of the session's right is inherited from the watchdog's page.
        let standing = Standing { renewed_at: site.page.renewed.filter(|_| shared), ..Standing::default() };
        site.daemon = Some(Daemon { life, served_at_start, standing, ..Daemon::default() });
        let delay = self.rng.between(50 * MS, 800 * MS);
        self.after(delay, Event::Begin { host, life });
    }

    /// Reads the store for the first time.
    pub fn daemon_begins(&mut self, host: usize) {
        let life = self.daemon(host).life;
        if self.door(host).is_none() {
            self.after(300 * MS, Event::Begin { host, life });
            return;
        }
        let (cache, heard) = (self.store.now.clone(), self.store.log.len());
        let daemon = self.daemon(host);
        (daemon.cache, daemon.heard, daemon.ready) = (cache, heard, true);
        note!(self, "host{}: its daemon begins (life {life})", host + 1);
        self.after(0, Event::Renew { host, life, tick: 0 });
        self.after(0, Event::Lead { host, life, tick: 0 });
        self.after(MS, Event::HostReport { host, life });
        self.make_keepers(host);
        self.obey_drops(host);
    }

    /// Takes in what the watch says.
    pub fn hear(&mut self, host: usize) {
        let (lags, now) = (self.network.watch_lags_until[host], self.now);
        let cut = self.door(host).is_none();
        let length = self.store.log.len();
        let daemon = self.daemon(host);
        if !daemon.ready || daemon.heard == length {
            return;
        }
        if cut || lags > now {
            if daemon.listens_at <= now {
                let life = daemon.life;
                let delay = self.rng.between(100 * MS, 700 * MS);
                self.daemon(host).listens_at = now + delay;
                self.after(delay, Event::Watch { host, life });
            }
            return;
        }
        let heard = self.daemon(host).heard;
        let news = self.store.log[heard..].to_vec();
        let daemon = self.daemon(host);
        daemon.heard = length;
        let mut touched = BTreeSet::new();
        let mut all = false;
        for change in &news {
            daemon.cache.apply(change);
            match change.write.key() {
                Key::Guest(g) | Key::Assignment(g) => drop(touched.insert(g)),
                Key::InSync(volume) => drop(touched.insert(guest_of(volume))),
                Key::Drop(h, volume) if h == host => drop(touched.insert(guest_of(volume))),
                Key::Session(_) => all = true,
                Key::HostReport(_) => {
                    let moving = |a: &&Assignment| a.handover.is_some();
                    touched.extend(
                        daemon.cache.view.assignments.values().filter(moving).map(|a| guest_ix(&a.guest)),
                    );
                }
                Key::Drop(..)
                | Key::Leader
                | Key::Host(_)
                | Key::GuestReport(_)
                | Key::Job(_)
                | Key::Losses
                | Key::Fence(_)
                | Key::ConfirmedDead(_)
                | Key::JobReport(_) => {}
            }
        }
        self.make_keepers(host);
        self.obey_drops(host);
        let guests: Vec<usize> = self.daemon(host).keepers.keys().copied().collect();
        for guest in guests {
            self.heard_of(host, guest, all || touched.contains(&guest));
        }
        self.leader_hears(host);
    }

    /// One keeper for each guest that concerns this host.
    fn make_keepers(&mut self, host: usize) {
        let name = host_name(host);
        let site = &self.sites[host];
        let Some(daemon) = &site.daemon else { return };
        let view = &daemon.cache.view;
        let part = |volume: &VolumeId| {
            view.in_sync.get(volume).is_some_and(|set| set.contains_host(&name))
                || view.drops.contains_key(&(name.clone(), *volume))
                || daemon.served_at_start.contains(volume)
        };
        let mut concerning = Vec::new();
        for spec in view.guests.values() {
            let guest = guest_ix(&spec.name);
            if daemon.keepers.contains_key(&guest) {
                continue;
            }
            let Some(assignment) = view.assignments.get(&spec.name) else { continue };
            let mine = assignment.host == name || spec.partner(assignment) == Some(&name);
            let runs = site.machines.contains_key(&guest);
            if mine || runs || spec.disks.iter().any(|disk| part(&disk.volume)) {
                concerning.push(guest);
            }
        }
        for guest in concerning {
            self.start_keeper(host, guest);
        }
    }

    /// Obeys the records that tell this host to delete replicas of guests that are gone.
    pub fn obey_drops(&mut self, host: usize) {
        let name = host_name(host);
        let daemon = self.daemon(host);
        let view = &daemon.cache.view;
        let known = |volume| view.guests.values().any(|g| g.disks.iter().any(|disk| disk.volume == volume));
        let mine = |order: &&ReplicaDrop| {
            order.host == name && !known(order.volume) && !daemon.dropping.contains(&order.volume)
        };
        let orders: Vec<VolumeId> = view.drops.values().filter(mine).map(|order| order.volume).collect();
        for volume in orders {
            let guest = guest_of(volume);
            self.end_machine(host, guest, crate::machine::Gone::ByKeeper(model::ExitReason::Stopped));
            self.shared.remove(&volume);
            let site = &mut self.sites[host];
            site.served.remove(&volume);
            site.files.remove(&volume);
            let daemon = self.daemon(host);
            daemon.dropping.insert(volume);
            let txn = daemon.cache.draft().delete(Key::Drop(host, volume)).build();
            self.request(host, Who::Drop(volume), Asked::Commit(txn));
        }
    }

    /// One step of keeping the session.
    pub fn renew(&mut self, host: usize, tick: u64) {
        let now = self.mono(host);
        let standing = &mut self.daemon(host).standing;
        if standing.tick != tick || standing.asking != Asking::Nothing {
            return;
        }
        standing.tick += 1;
        standing.sent_at = now;
        let asked = match standing.lease {
            Some(lease) => {
                standing.asking = Asking::Renewal;
                Asked::KeepAlive(lease)
            }
            None => {
                standing.asking = Asking::Lease;
                Asked::Grant
            }
        };
        self.request(host, Who::Session, asked);
    }

    pub fn session_replied(&mut self, host: usize, replied: Replied) {
        let now = self.mono(host);
        let boot = self.boot_of(host);
        let wall = self.wall(host);
        let standing = &mut self.daemon(host).standing;
        let asking = std::mem::take(&mut standing.asking);
        let pause = match (asking, replied) {
            (Asking::Lease, Ok(Reply::Granted(lease))) => {
                standing.asking = Asking::Record;
                standing.fresh = Some(lease);
                let record = Session { host: host_name(host), boot_id: boot, started_at: wall };
                let (fenced, forgets) = (self.schedule.shared, !self.has(Mutant::KeepTheWord));
                let mut draft = self.daemon(host).cache.draft();
                draft.put_leased(Record::Session(record), lease);
                if fenced && forgets {
                    // Whoever was called dead is heard again.
                    draft.delete(Key::ConfirmedDead(host)).delete(Key::Fence(host));
                }
                let txn = draft.build();
                self.request(host, Who::Session, Asked::Commit(txn));
                return;
            }
            (Asking::Record, Ok(Reply::Committed(_))) => {
                standing.lease = standing.fresh.take();
                standing.renewed_at = Some(standing.sent_at);
                standing.live_since = Some(standing.sent_at);
                let renewed = standing.renewed_at;
                self.sites[host].page.renewed = renewed;
                let life = self.daemon(host).life;
                note!(self, "host{} has a session", host + 1);
                self.after(0, Event::Watch { host, life });
                self.leader_hears(host);
                RENEW_EVERY.as_micros() as Time
            }
            (Asking::Renewal, Ok(Reply::Renewed)) => {
                if !standing.is_live(standing.sent_at) {
                    standing.live_since = Some(standing.sent_at);
                }
                standing.renewed_at = Some(standing.sent_at);
                let due = standing.sent_at + local(RENEW_EVERY) - now;
                let renewed = standing.renewed_at;
                self.sites[host].page.renewed = renewed;
                due.max(0) as Time
            }
            (Asking::Renewal, Ok(Reply::LeaseGone)) => {
                let tick = standing.tick;
                *standing = Standing { tick, ..Standing::default() };
                self.sites[host].page.renewed = None;
                note!(self, "host{}'s session is over", host + 1);
                BEGIN_AGAIN_AFTER
            }
            (Asking::Renewal, Ok(_) | Err(NoReply::Unavailable | NoReply::Unknown)) => {
                let due = standing.sent_at + local(RENEW_EVERY) - now;
                due.max(local(std::time::Duration::from_millis(20))) as Time
            }
            (Asking::Nothing | Asking::Lease | Asking::Record, Ok(_) | Err(_)) => BEGIN_AGAIN_AFTER,
        };
        let (life, tick) = (self.daemon(host).life, self.daemon(host).standing.tick);
        self.after_local(host, pause, Event::Renew { host, life, tick });
    }

    /// Promises a guest's owner not to take over, if by all that is known here it is the owner.
    pub fn promise(&mut self, host: usize, asker: usize, guest: usize, epoch: Epoch) -> bool {
        let until = self.mono(host) + local(PROMISE);
        let name = host_name(asker);
        let daemon = self.daemon(host);
        let id: GuestId = guest_id(guest);
        let owns = daemon
            .cache
            .view
            .assignments
            .values()
            .any(|a| a.guest_id == id && a.epoch == epoch && a.host == name);
        if owns {
            daemon.promises.insert(guest, until);
        }
        owns
    }

    /// What this host says of itself, if that is news.
    pub fn host_report(&mut self, host: usize) {
        let report = HostReport {
            host: host_name(host),
            boot_id: self.boot_of(host),
            kennel_version: "0".into(),
            qemu_version: "10.0".into(),
            kernel_version: "6".into(),
            cpus: 8,
            memory: Bytes::gib(8),
            disk: Bytes::gib(1000),
            accelerator: Accelerator { kind: AcceleratorKind::Tcg, why: "a simulation".into() },
            images: BTreeSet::new(),
            problems: self.daemon(host).problems.values().cloned().collect(),
            uplinks: BTreeMap::new(),
            incoming: self.daemon(host).incoming.values().cloned().collect(),
            compatibility: Default::default(),
            pools: Default::default(),
            short_of_room: false,
            hardware_watchdog: self.told_of_watchdog(host),
        };
        let daemon = self.daemon(host);
        if daemon.telling || daemon.cache.view.host_reports.get(&report.host) == Some(&report) {
            return;
        }
        daemon.telling = true;
        let txn = daemon.cache.draft().exists(Key::Host(host)).put(Record::HostReport(report)).build();
        self.request(host, Who::HostReport, Asked::Commit(txn));
    }

    pub fn host_report_replied(&mut self, host: usize, replied: Replied) {
        self.daemon(host).telling = false;
        let life = self.daemon(host).life;
        let pause = match replied {
            Ok(Reply::Committed(_)) => 20 * MS,
            Ok(_) | Err(_) => TELL_AGAIN_AFTER,
        };
        self.after(pause, Event::HostReport { host, life });
    }

    /// Something that the host's report tells has changed.
    pub fn tell_of_host(&mut self, host: usize) {
        if let Some(life) = self.life(host) {
            self.after(MS, Event::HostReport { host, life });
        }
    }

    /// Whether the session is good, by the host's own clock.
    pub fn session_is_live(&self, host: usize) -> bool {
        let now = self.mono(host);
        let live = |daemon: &Daemon| daemon.standing.is_live(now);
        self.has(Mutant::StartWithoutSession) || self.sites[host].daemon.as_ref().is_some_and(live)
    }
}

/// Whether a transaction writes a record of this kind; for the books.
pub fn written(writes: &[Write]) -> impl Iterator<Item = &Record> {
    writes.iter().filter_map(|write| match write {
        Write::Put(record, _) => Some(&**record),
        Write::Delete(_) => None,
    })
}
