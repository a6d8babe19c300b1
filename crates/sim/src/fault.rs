//! What happens to a cluster from outside: faults, and what operators ask for. A schedule is a list of these with
//! their times; it can be written down, read again, and made smaller.

use std::fmt;
use std::str::FromStr;

use crate::rng::Rng;
use crate::world::{MS, S, Time};

macro_rules! blows {
    ($($(#[doc = $doc:literal])* $name:ident($text:literal $(, $field:ident)*);)*) => {
        /// Hosts and guests by number, from 0; lengths of time in milliseconds.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Blow { $($(#[doc = $doc])* $name { $($field: u64),* },)* }

        impl fmt::Display for Blow {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Blow::$name { $($field),* } => {
                        f.write_str($text)?;
                        $(write!(f, concat!(" ", stringify!($field), "={}"), $field)?;)*
                        Ok(())
                    })*
                }
            }
        }

        impl FromStr for Blow {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                let mut words = text.split_whitespace();
                let name = words.next().unwrap_or_default();
                let fields: Vec<(&str, &str)> = words.filter_map(|word| word.split_once('=')).collect();
                let field = |wanted: &str| -> Result<u64, String> {
                    let found = fields.iter().find(|(name, _)| *name == wanted);
                    let (_, value) = found.ok_or(format!("'{text}' lacks {wanted}="))?;
                    value.parse().map_err(|_| format!("'{value}' in '{text}' is no number"))
                };
                let _ = &field;
                match name {
                    $($text => Ok(Blow::$name { $($field: field(stringify!($field))?),* }),)*
                    other => Err(format!("there is no blow '{other}'")),
                }
            }
        }

        impl Blow {
            pub fn name(&self) -> &'static str {
                match self { $(Blow::$name { .. } => $text,)* }
            }
        }
    };
}

blows! {
    /// Its power goes, and comes back after a while.
    PowerOff("power-off", host, ms);
    /// Its daemon dies, and is started again.
    DaemonDies("daemon-dies", host, ms);
    /// Its daemon is stopped, and goes on later as if nothing had been.
    DaemonFreezes("daemon-freezes", host, ms);
    /// Everything on it stands still for a while.
    HostFreezes("host-freezes", host, ms);
    /// What one host sends does not reach the other.
    CutOneWay("cut-one-way", from, to, ms);
    Cut("cut", from, to, ms);
    /// No other host reaches it, nor it them.
    Isolate("isolate", host, ms);
    /// What it sends takes so much longer.
    SlowLink("slow-link", from, to, delay, ms);
    /// Each message that it sends takes up to so much longer, so that later ones overtake it.
    Shuffle("shuffle", from, to, delay, ms);
    /// Its member of the store dies.
    MemberDies("member-dies", host, ms);
    /// No member of the store answers.
    StoreDies("store-dies", ms);
    /// The store answers late or not at all, and does what it was asked or not.
    StoreStutters("store-stutters", ms);
    /// What it hears of the store is old.
    WatchLags("watch-lags", host, ms);
    /// Its storage daemon dies.
    ServerDies("server-dies", host);
    /// The guest's machine dies.
    MachineDies("machine-dies", guest);
    /// The guest shuts itself down.
    GuestQuits("guest-quits", guest);
    /// The guest does not hear what it is asked.
    GuestHangs("guest-hangs", guest);
    /// Its disk answers writes of others with errors.
    DiskFails("disk-fails", host, ms);
    /// Its disk has no room for new files.
    DiskFills("disk-fills", host, ms);
    /// Its wall clock jumps forwards, or back.
    ClockForward("clock-forward", host, by);
    ClockBack("clock-back", host, by);
    /// Its clock runs at so many percent.
    ClockDrifts("clock-drifts", host, percent, ms);
    /// One of its fence devices says yes, and leaves the power on.
    DeviceLies("device-lies", host, which, ms);
    /// One does not answer, and may take the power all the same.
    DeviceHangs("device-hangs", host, which, ms);
    /// One says no, and may take the power all the same.
    DeviceFails("device-fails", host, which, ms);
    /// One says yes, and takes the power much later.
    DeviceIsLate("device-is-late", host, which, ms);
    /// Nobody reaches one.
    DeviceIsGone("device-is-gone", host, which, ms);
    /// An operator asks for a host's power to be taken, whether it is heard or not.
    FenceByHand("fence-by-hand", host);
    /// Operators.
    Create("create", mirrored, disks);
    /// In storage that hosts share.
    CreateShared("create-shared", disks);
    /// An operator goes to a lost host, sees to it that it is off, and says so.
    ConfirmDead("confirm-dead", host);
    Start("start", guest);
    Stop("stop", guest);
    Restart("restart", guest);
    Delete("delete", guest);
    Migrate("migrate", guest, to, restart);
    MoveSecondary("move-secondary", guest, to);
    CancelJob("cancel-job", which);
    Drain("drain", host);
    Maintenance("maintenance", host);
    Resume("resume", host);
}

impl Blow {
    /// Asked for by somebody, not a fault.
    pub fn is_wish(&self) -> bool {
        match self {
            Blow::Create { .. }
            | Blow::CreateShared { .. }
            | Blow::ConfirmDead { .. }
            | Blow::Start { .. }
            | Blow::Stop { .. }
            | Blow::Restart { .. }
            | Blow::Delete { .. }
            | Blow::Migrate { .. }
            | Blow::MoveSecondary { .. }
            | Blow::CancelJob { .. }
            | Blow::Drain { .. }
            | Blow::Maintenance { .. }
            | Blow::Resume { .. } => true,
            Blow::PowerOff { .. }
            | Blow::DaemonDies { .. }
            | Blow::DaemonFreezes { .. }
            | Blow::HostFreezes { .. }
            | Blow::CutOneWay { .. }
            | Blow::Cut { .. }
            | Blow::Isolate { .. }
            | Blow::SlowLink { .. }
            | Blow::Shuffle { .. }
            | Blow::DeviceLies { .. }
            | Blow::DeviceHangs { .. }
            | Blow::DeviceFails { .. }
            | Blow::DeviceIsLate { .. }
            | Blow::DeviceIsGone { .. }
            | Blow::FenceByHand { .. }
            | Blow::MemberDies { .. }
            | Blow::StoreDies { .. }
            | Blow::StoreStutters { .. }
            | Blow::WatchLags { .. }
            | Blow::ServerDies { .. }
            | Blow::MachineDies { .. }
            | Blow::GuestQuits { .. }
            | Blow::GuestHangs { .. }
            | Blow::DiskFails { .. }
            | Blow::DiskFills { .. }
            | Blow::ClockForward { .. }
            | Blow::ClockBack { .. }
            | Blow::ClockDrifts { .. } => false,
        }
    }
}

impl Blow {
    /// Which fence device of which host it strikes. That harms nobody by itself, so it counts as no failure.
    #[expect(clippy::wildcard_enum_match_arm, reason = "all others strike no device")]
    pub fn on_device(&self) -> Option<(u64, u64)> {
        match *self {
            Blow::DeviceLies { host, which, .. }
            | Blow::DeviceHangs { host, which, .. }
            | Blow::DeviceFails { host, which, .. }
            | Blow::DeviceIsLate { host, which, .. }
            | Blow::DeviceIsGone { host, which, .. } => Some((host, which)),
            _ => None,
        }
    }
}

/// How a run is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// One failure at a time: the next one comes when everything is well again.
    Single,
    /// Whenever and however many.
    Many,
}

/// A blow with its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    pub at: Time,
    pub blow: Blow,
}

/// What a run is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    pub seed: u64,
    pub manner: Manner,
    pub hosts: usize,
    pub guests: usize,
    /// Some guests are in storage that hosts share, and hosts have fence devices and watchdogs.
    pub shared: bool,
    pub items: Vec<Item>,
}

/// Blows of a run of its usual length.
const BLOWS: u64 = 60;

/// What is drawn for shared storage is drawn by a die of its own: runs without it are what they were before there was any.
const SHARED: u64 = 0x5a5a_0000;

/// How many runs of a hundred have shared storage, and how many blows of these are about it.
const SHARED_RUNS: u64 = 50;
const SHARED_BLOWS: u64 = 35;

impl Schedule {
    /// Every fourth seed strikes one failure at a time.
    pub fn of(seed: u64) -> Schedule {
        let mut rng = Rng::new(seed);
        let manner = if seed.is_multiple_of(4) { Manner::Single } else { Manner::Many };
        let hosts = rng.between(2, 5) as usize;
        let guests = rng.between(1, 4) as usize;
        // Some runs are struck densely, some leave time to recover.
        let pause = match rng.below(3) {
            0 => 1500,
            1 => 5000,
            _ => 15_000,
        };
        let mut at = 20 * S;
        let mut items = Vec::new();
        for _ in 0..BLOWS {
            at += rng.between(1, 2 * pause) * MS;
            items.push(Item { at, blow: blow(&mut rng, hosts as u64, guests as u64) });
        }
        let mut rng = Rng::new(seed ^ SHARED);
        let shared = rng.percent(SHARED_RUNS);
        for item in items.iter_mut().filter(|_| shared) {
            if rng.percent(SHARED_BLOWS) {
                item.blow = blow_at_shared(&mut rng, hosts as u64);
            }
        }
        Schedule { seed, manner, hosts, guests, shared, items }
    }
}

/// How long something lasts: often about as long as the protocol's own times.
fn length(rng: &mut Rng) -> u64 {
    match rng.below(4) {
        0 => rng.between(10, 1000),
        1 => rng.between(1000, 6000),
        2 => rng.between(4000, 9000),
        _ => rng.between(5000, 40_000),
    }
}

fn blow(rng: &mut Rng, hosts: u64, guests: u64) -> Blow {
    if rng.percent(25) { wish(rng, hosts, guests) } else { fault(rng, hosts, guests) }
}

fn wish(rng: &mut Rng, hosts: u64, guests: u64) -> Blow {
    // Some guests come later.
    let guest = rng.below(guests + 2);
    let (host, to) = (rng.below(hosts), rng.below(hosts));
    match rng.below(20) {
        0 => Blow::Create { mirrored: u64::from(rng.percent(80)), disks: rng.between(1, 2) },
        1 | 2 => Blow::Start { guest },
        3 => Blow::Stop { guest },
        4 | 5 => Blow::Restart { guest },
        6 => Blow::Delete { guest },
        7..=11 => Blow::Migrate { guest, to, restart: 0 },
        12 | 13 => Blow::Migrate { guest, to, restart: 1 },
        14 => Blow::MoveSecondary { guest, to },
        15 => Blow::CancelJob { which: rng.below(4) },
        16 => Blow::Drain { host },
        17 => Blow::Maintenance { host },
        _ => Blow::Resume { host },
    }
}

fn fault(rng: &mut Rng, hosts: u64, guests: u64) -> Blow {
    let (host, ms, guest) = (rng.below(hosts), length(rng), rng.below(guests + 1));
    let (from, to) = (host, (host + rng.between(1, hosts - 1)) % hosts);
    match rng.below(36) {
        0..=5 => Blow::PowerOff { host, ms },
        6..=8 => Blow::DaemonDies { host, ms: ms / 2 },
        9 => Blow::DaemonFreezes { host, ms },
        10 | 11 => Blow::HostFreezes { host, ms },
        12 | 13 => Blow::CutOneWay { from, to, ms },
        14..=16 => Blow::Cut { from, to, ms },
        17..=19 => Blow::Isolate { host, ms },
        20 => Blow::SlowLink { from, to, delay: rng.between(20, 1500), ms },
        21 => Blow::MemberDies { host: rng.below(hosts.min(3)), ms },
        22 | 23 => Blow::StoreDies { ms },
        24 | 25 => Blow::StoreStutters { ms },
        26 => Blow::WatchLags { host, ms: ms.min(8000) },
        27 | 28 => Blow::ServerDies { host },
        29 | 30 => Blow::MachineDies { guest },
        31 => Blow::GuestQuits { guest },
        32 => Blow::GuestHangs { guest },
        33 if rng.percent(50) => Blow::DiskFails { host, ms: ms.min(5000) },
        33 => Blow::DiskFills { host, ms },
        34 if rng.percent(50) => Blow::ClockForward { host, by: ms * 100 },
        34 => Blow::ClockBack { host, by: ms * 100 },
        _ => Blow::ClockDrifts { host, percent: rng.between(97, 103), ms },
    }
}

/// What makes it hard to know whether an owner is dead.
fn blow_at_shared(rng: &mut Rng, hosts: u64) -> Blow {
    let (host, ms, which) = (rng.below(hosts), rng.between(3000, 60_000), rng.below(3));
    let (from, to) = (host, (host + rng.between(1, hosts - 1)) % hosts);
    match rng.below(24) {
        0 | 1 => Blow::DeviceLies { host, which, ms },
        2 => Blow::DeviceHangs { host, which, ms },
        3 => Blow::DeviceFails { host, which, ms },
        4 | 5 => Blow::DeviceIsLate { host, which, ms },
        6 => Blow::DeviceIsGone { host, which, ms },
        7..=11 => Blow::HostFreezes { host, ms },
        12 | 13 => Blow::DaemonFreezes { host, ms },
        14 => Blow::DaemonDies { host, ms: ms / 2 },
        15 | 16 => Blow::Isolate { host, ms },
        17 => Blow::PowerOff { host, ms },
        18 | 19 => Blow::Shuffle { from, to, delay: rng.between(5, 400), ms },
        20 => Blow::FenceByHand { host },
        21 => Blow::CreateShared { disks: rng.between(1, 2) },
        _ => Blow::ConfirmDead { host },
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let manner = match self.manner {
            Manner::Single => "single",
            Manner::Many => "many",
        };
        let shared = if self.shared { " shared" } else { "" };
        writeln!(f, "seed {} {manner} hosts {} guests {}{shared}", self.seed, self.hosts, self.guests)?;
        for item in &self.items {
            writeln!(f, "{} {}", item.at, item.blow)?;
        }
        Ok(())
    }
}

impl FromStr for Schedule {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        let head: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
        let ["seed", seed, manner, "hosts", hosts, "guests", guests, ref rest @ ..] = head[..] else {
            return Err("a schedule begins with 'seed N single|many hosts N guests N [shared]'".into());
        };
        let shared = match rest {
            [] => false,
            ["shared"] => true,
            [other, ..] => return Err(format!("'{other}' in the first line says nothing")),
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("'{text}' is no number"));
        let manner = match manner {
            "single" => Manner::Single,
            "many" => Manner::Many,
            other => return Err(format!("'{other}' is neither single nor many")),
        };
        let item = |line: &str| {
            let (at, blow) = line.split_once(' ').ok_or(format!("'{line}' is not 'TIME BLOW'"))?;
            Ok::<Item, String>(Item { at: number(at)?, blow: blow.parse()? })
        };
        Ok(Schedule {
            seed: number(seed)?,
            manner,
            hosts: number(hosts)? as usize,
            guests: number(guests)? as usize,
            shared,
            items: lines.map(item).collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_read_as_it_was_written() {
        for seed in 0..50 {
            let schedule = Schedule::of(seed);
            assert_eq!(schedule.to_string().parse(), Ok(schedule));
        }
    }
}
