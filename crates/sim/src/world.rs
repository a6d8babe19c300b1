//! A whole cluster in one process, on a virtual clock.
//!
//! Everything that happens is an [`Event`] with a time; events of one time happen in the order in which they were
//! entered. Whatever takes time (a message, a write, an act of a keeper) is an event that enters the next one, so a
//! fault can come between any two. All chance comes from one [`Rng`], so a seed and a schedule make one run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use jiff::{SignedDuration, Timestamp};
use model::{BootId, Epoch, VolumeId};

use crate::books::Books;
use crate::daemon::Daemon;
use crate::device::{Device, equipment};
use crate::disk::{File, Ledger, WriteId};
use crate::fault::{Manner, Schedule};
use crate::fencing::{At, Move};
use crate::machine::{Export, Machine};
use crate::mutant::Mutant;
use crate::names::boot_id;
use crate::network::Network;
use crate::request::{Call, CallAnswer, Request};
use crate::rng::Rng;
use crate::shared::SharedFile;
use crate::store::Store;
use crate::watchdog::Page;

/// Virtual time, microseconds since the run began.
pub type Time = u64;

pub const MS: Time = 1000;
pub const S: Time = 1000 * MS;

/// By one host's own clock, microseconds. Its differences are what a daemon measures.
pub type Mono = i64;

/// A host's clocks: they run a little fast or slow, and the one on the wall is wrong.
#[derive(Debug, Clone)]
pub struct Clock {
    since: Time,
    mono: Mono,
    pub percent: u64,
    pub wall_off_ms: i64,
}

impl Clock {
    fn new() -> Clock {
        Clock { since: 0, mono: 0, percent: 100, wall_off_ms: 0 }
    }

    pub fn mono(&self, now: Time) -> Mono {
        self.mono + ((now - self.since) * self.percent / 100) as Mono
    }

    pub fn set_rate(&mut self, now: Time, percent: u64) {
        self.mono = self.mono(now);
        (self.since, self.percent) = (now, percent.max(1));
    }

    pub fn wall(&self, now: Time) -> Timestamp {
        let off = SignedDuration::from_millis(self.wall_off_ms + 1_800_000_000_000);
        Timestamp::UNIX_EPOCH + SignedDuration::from_micros(self.mono(now)) + off
    }
}

/// A host: what its power, its kernel and its processes hold.
#[derive(Debug)]
pub struct Site {
    pub up: bool,
    pub boot: u32,
    /// Everything on it stands still until then.
    pub frozen_until: Time,
    pub frozen_since: Time,
    pub daemon_frozen_until: Time,
    /// A fault keeps the power from it until then, for want of mains or not.
    pub dark_until: Time,
    pub mains_lost: bool,
    /// What can take its power.
    pub devices: Vec<Device>,
    /// The time-out of its hardware watchdog, seconds.
    pub hardware: Option<u32>,
    pub page: Page,
    pub clock: Clock,
    pub disk_fails_until: Time,
    pub disk_full_until: Time,
    pub files: BTreeMap<VolumeId, File>,
    /// What its storage daemon serves.
    pub served: BTreeMap<VolumeId, Export>,
    /// Which opening of each export it is: connections end with theirs.
    pub doors: BTreeMap<VolumeId, u64>,
    /// The last write that each connection brought: what it brings again, or out of order, is not written.
    pub brought: BTreeMap<(VolumeId, u64), u64>,
    /// By guest.
    pub machines: BTreeMap<usize, Machine>,
    pub daemon: Option<Daemon>,
    /// How often its daemon was started.
    pub lives: u32,
}

impl Site {
    fn new() -> Site {
        Site {
            up: true,
            boot: 1,
            frozen_until: 0,
            frozen_since: 0,
            daemon_frozen_until: 0,
            dark_until: 0,
            mains_lost: false,
            devices: vec![],
            hardware: None,
            page: Page::default(),
            clock: Clock::new(),
            disk_fails_until: 0,
            disk_full_until: 0,
            files: BTreeMap::new(),
            served: BTreeMap::new(),
            doors: BTreeMap::new(),
            brought: BTreeMap::new(),
            machines: BTreeMap::new(),
            daemon: None,
            lives: 0,
        }
    }
}

/// What happens next.
#[derive(Debug, Clone)]
pub enum Event {
    Strike(usize),
    Mend(Mend),
    /// Looks at the whole: whether all is well, what must hold.
    Pulse,
    // The store.
    Elect,
    Leases,
    Arrive {
        request: u64,
    },
    Answer {
        request: u64,
    },
    Expire {
        request: u64,
    },
    Watch {
        host: usize,
        life: u32,
    },
    // A daemon.
    Begin {
        host: usize,
        life: u32,
    },
    Renew {
        host: usize,
        life: u32,
        tick: u64,
    },
    Lead {
        host: usize,
        life: u32,
        tick: u64,
    },
    Keep {
        host: usize,
        life: u32,
        guest: usize,
        tick: u64,
    },
    Report {
        host: usize,
        life: u32,
        guest: usize,
    },
    HostReport {
        host: usize,
        life: u32,
    },
    /// In a try to take a host's power.
    Fence {
        host: usize,
        life: u32,
        at: At,
        next: Move,
    },
    // What takes power, and what kills and resets.
    Switches {
        host: usize,
        which: usize,
    },
    Guard {
        host: usize,
        boot: u32,
    },
    Reset {
        host: usize,
        boot: u32,
        since: Time,
    },
    // Between daemons.
    Called(Call),
    CallAnswered(Call, CallAnswer),
    CallExpires(Call),
    // A machine.
    Write {
        host: usize,
        uid: u64,
    },
    Local {
        host: usize,
        uid: u64,
        write: WriteId,
    },
    Remote(RemoteWrite),
    RemoteDone {
        host: usize,
        uid: u64,
        write: WriteId,
        link: u64,
        well: bool,
    },
    Retry {
        host: usize,
        uid: u64,
        write: WriteId,
    },
    Fill {
        host: usize,
        uid: u64,
        volume: VolumeId,
        link: u64,
    },
    Send {
        host: usize,
        uid: u64,
    },
    ShutDown {
        host: usize,
        uid: u64,
    },
}

/// A write on its way to the secondary.
#[derive(Debug, Clone, Copy)]
pub struct RemoteWrite {
    pub from: usize,
    pub uid: u64,
    pub epoch: Epoch,
    pub to: usize,
    pub export: Export,
    pub link: u64,
    pub volume: VolumeId,
    pub block: usize,
    pub write: WriteId,
    pub sent_at: Time,
    /// Which opening of the export its connection was made to.
    pub door: u64,
    /// Its connection is gone from its sender's side, and the kernel delivers it all the same.
    pub late: bool,
}

/// The end of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mend {
    Power {
        host: usize,
    },
    Daemon {
        host: usize,
        life: u32,
    },
    Thaw {
        host: usize,
    },
    Link {
        from: usize,
        to: usize,
    },
    Member {
        host: usize,
    },
    Stutter,
    Drift {
        host: usize,
    },
    /// Somebody gives a host its power back, by then at the latest.
    Unfence {
        host: usize,
        until: Time,
    },
}

#[derive(Debug)]
struct Queued {
    at: Time,
    order: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Something that must never be, and was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub at: Time,
    pub invariant: &'static str,
    pub what: String,
}

/// What hosts have to be fenced with is drawn by a die of its own.
const EQUIPMENT: u64 = 0x0e0e_0000;

/// So many events at one moment mean that somebody goes round in a circle.
const AT_ONCE_MAX: u64 = 200_000;

/// Everything.
#[derive(Debug)]
pub struct World {
    pub now: Time,
    queue: BinaryHeap<Reverse<Queued>>,
    order: u64,
    pub rng: Rng,
    pub schedule: Schedule,
    /// Faults have stopped, and it is waited for everything to come back.
    pub ending_since: Option<Time>,
    pub mutant: Option<Mutant>,
    pub sites: Vec<Site>,
    pub store: Store,
    pub network: Network,
    pub stutters_until: Time,
    pub requests: BTreeMap<u64, Request>,
    pub ledgers: BTreeMap<VolumeId, Ledger>,
    /// Volumes in storage that hosts share, and the guests that they belong to.
    pub shared: BTreeMap<VolumeId, SharedFile>,
    pub shared_guests: BTreeSet<usize>,
    /// The locks of that storage hold across hosts.
    pub locks_hold: bool,
    pub books: Books,
    pub broken: Option<Broken>,
    /// The one invariant whose breaking ends the run; `None`: any.
    pub aim: Option<&'static str>,
    pub log: Option<Vec<String>>,
    /// Grows with everything that happens: two runs are the same if it is.
    pub digest: u64,
    last_number: u64,
    pub next_guest: usize,
}

/// Writes a line into the log, if there is one.
macro_rules! note {
    ($world:expr, $($text:tt)*) => {
        if $world.log.is_some() {
            let line = format!($($text)*);
            $world.enter(line);
        }
    };
}
pub(crate) use note;

impl World {
    pub fn new(schedule: Schedule, mutant: Option<Mutant>, logged: bool) -> World {
        let hosts = schedule.hosts;
        let mut die = Rng::new(schedule.seed ^ EQUIPMENT);
        let mut site = || {
            let mut site = Site::new();
            if schedule.shared {
                site.devices = equipment(&mut die);
                site.hardware = die.percent(40).then(|| die.between(4, 20) as u32);
            }
            site
        };
        let sites = (0..hosts).map(|_| site()).collect();
        let locks_hold = die.percent(40);
        World {
            now: 0,
            queue: BinaryHeap::new(),
            order: 0,
            rng: Rng::new(schedule.seed ^ 0xdead_beef),
            schedule,
            ending_since: None,
            mutant,
            sites,
            store: Store::default(),
            network: Network::new(hosts),
            stutters_until: 0,
            requests: BTreeMap::new(),
            ledgers: BTreeMap::new(),
            shared: BTreeMap::new(),
            shared_guests: BTreeSet::new(),
            locks_hold,
            books: Books::default(),
            broken: None,
            aim: None,
            log: logged.then(Vec::new),
            digest: 0,
            last_number: 0,
            next_guest: 0,
        }
    }

    /// A line of the log.
    pub fn enter(&mut self, line: String) {
        let now = self.now;
        if let Some(log) = &mut self.log {
            log.push(format!("{:>5}.{:03} {line}", now / S, now % S / MS));
        }
    }

    pub fn has(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// A number that was not there before.
    pub fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    pub fn boot_of(&self, host: usize) -> BootId {
        boot_id(host, self.sites[host].boot)
    }

    pub fn mono(&self, host: usize) -> Mono {
        self.sites[host].clock.mono(self.now)
    }

    pub fn wall(&self, host: usize) -> Timestamp {
        self.sites[host].clock.wall(self.now)
    }

    pub fn at(&mut self, at: Time, event: Event) {
        self.order += 1;
        self.queue.push(Reverse(Queued { at: at.max(self.now), order: self.order, event }));
    }

    pub fn after(&mut self, delay: Time, event: Event) {
        self.at(self.now + delay, event);
    }

    /// After so long by the host's own clock.
    pub fn after_local(&mut self, host: usize, delay: Time, event: Event) {
        let percent = self.sites[host].clock.percent;
        // Rounded up: what is waited for must have come by that clock, or it is waited for again at the same moment.
        self.after((delay * 100).div_ceil(percent), event);
    }

    /// An invariant does not hold.
    pub fn breaks(&mut self, invariant: &'static str, what: String) {
        note!(self, "BROKEN {invariant}: {what}");
        let counts = self.aim.is_none_or(|aim| aim == invariant || invariant == crate::books::TIME_GOES_ON);
        if !counts {
            // There is nothing to wait for any more.
            self.books.ended |= invariant == crate::books::COMES_BACK;
        } else if self.broken.is_none() {
            self.broken = Some(Broken { at: self.now, invariant, what });
        }
    }

    pub fn is_single(&self) -> bool {
        self.schedule.manner == Manner::Single
    }

    /// Runs to the end, or until something is broken.
    pub fn run(&mut self) {
        self.begin();
        let mut at_once = 0;
        while self.broken.is_none() && !self.books.ended {
            let Some(Reverse(next)) = self.queue.pop() else { break };
            at_once = if next.at == self.now { at_once + 1 } else { 0 };
            if at_once > AT_ONCE_MAX {
                self.breaks(
                    crate::books::TIME_GOES_ON,
                    format!("{AT_ONCE_MAX} events at one moment, now {:?}", next.event),
                );
            }
            self.now = next.at;
            self.digest =
                (self.digest ^ next.at ^ next.order).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(5);
            self.books.events += 1;
            self.happen(next.event);
        }
    }

    fn happen(&mut self, event: Event) {
        if let Some(until) = self.stands_still(&event) {
            self.at(until, event);
            return;
        }
        match event {
            Event::Strike(item) => self.strike(item),
            Event::Mend(mend) => self.mend(mend),
            Event::Pulse => self.pulse(),
            Event::Elect => self.elect(),
            Event::Leases => self.end_leases(),
            Event::Arrive { request } => self.request_arrives(request),
            Event::Answer { request } => self.request_answered(request),
            Event::Expire { request } => self.request_expires(request),
            Event::Watch { host, life } => self.on_daemon(host, life, |w| w.hear(host)),
            Event::Begin { host, life } => self.on_daemon(host, life, |w| w.daemon_begins(host)),
            Event::Renew { host, life, tick } => self.on_daemon(host, life, |w| w.renew(host, tick)),
            Event::Lead { host, life, tick } => self.on_daemon(host, life, |w| w.lead(host, tick)),
            Event::Keep { host, life, guest, tick } => {
                self.on_daemon(host, life, |w| w.keep(host, guest, tick));
            }
            Event::Report { host, life, guest } => self.on_daemon(host, life, |w| w.report(host, guest)),
            Event::HostReport { host, life } => self.on_daemon(host, life, |w| w.host_report(host)),
            Event::Fence { host, life, at, next } => {
                self.on_daemon(host, life, |w| w.fence_goes_on(host, at, next));
            }
            Event::Switches { host, which } => self.device_switches(host, which),
            Event::Guard { host, boot } => self.guard(host, boot),
            Event::Reset { host, boot, since } => self.reset_by_device(host, boot, since),
            Event::Called(call) => self.called(call),
            Event::CallAnswered(call, answer) => self.call_answered(&call, Some(answer)),
            Event::CallExpires(call) => self.call_answered(&call, None),
            Event::Write { host, uid } => self.guest_writes(host, uid),
            Event::Local { host, uid, write } => self.local_done(host, uid, write),
            Event::Remote(write) => self.remote_arrives(write),
            Event::RemoteDone { host, uid, write, link, well } => {
                self.remote_done(host, uid, write, link, well)
            }
            Event::Retry { host, uid, write } => self.send_remote(host, uid, write),
            Event::Fill { host, uid, volume, link } => self.fill(host, uid, volume, link),
            Event::Send { host, uid } => self.send_memory(host, uid),
            Event::ShutDown { host, uid } => self.shut_down(host, uid),
        }
    }

    /// Until when the place of an event stands still, if it does.
    fn stands_still(&self, event: &Event) -> Option<Time> {
        let (host, daemon) = match event {
            Event::Watch { host, .. }
            | Event::Begin { host, .. }
            | Event::Renew { host, .. }
            | Event::Lead { host, .. }
            | Event::Keep { host, .. }
            | Event::Report { host, .. }
            | Event::HostReport { host, .. }
            | Event::Fence { host, .. } => (*host, true),
            Event::Called(call) => (call.to, call.is_for_daemon()),
            Event::CallAnswered(call, _) | Event::CallExpires(call) => (call.from, true),
            Event::Answer { request } | Event::Expire { request } => (self.requests.get(request)?.host, true),
            Event::Guard { host, .. }
            | Event::Write { host, .. }
            | Event::Local { host, .. }
            | Event::RemoteDone { host, .. }
            | Event::Retry { host, .. }
            | Event::Fill { host, .. }
            | Event::Send { host, .. }
            | Event::ShutDown { host, .. } => (*host, false),
            Event::Remote(write) => (write.to, false),
            Event::Switches { .. }
            | Event::Reset { .. }
            | Event::Strike(_)
            | Event::Mend(_)
            | Event::Pulse
            | Event::Elect
            | Event::Leases
            | Event::Arrive { .. } => return None,
        };
        let site = &self.sites[host];
        let until = site.frozen_until.max(if daemon { site.daemon_frozen_until } else { 0 });
        (until > self.now).then_some(until)
    }

    /// For a daemon that still lives.
    fn on_daemon(&mut self, host: usize, life: u32, act: impl FnOnce(&mut World)) {
        if self.sites[host].daemon.as_ref().is_some_and(|daemon| daemon.life == life) {
            act(self);
        }
    }

    pub fn daemon(&mut self, host: usize) -> &mut Daemon {
        self.sites[host].daemon.as_mut().expect("looked for before")
    }

    pub fn life(&self, host: usize) -> Option<u32> {
        self.sites[host].daemon.as_ref().map(|daemon| daemon.life)
    }
}
