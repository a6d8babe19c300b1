//! Fence devices: what takes a host's power when an agent asks it to, and what it says about that.
//!
//! A host has a board controller (its BMC), outlets at its power supplies, both in levels, or nothing at all. Asked how its
//! switch stands, each device tells the truth or nothing: one that says "off" while the power is on could be told from an
//! honest one by nobody. What a fault makes of it is a [`Mode`]: it says yes and leaves the power on, or takes it much
//! later, or says no and takes it, or does not answer. A BMC has no power of its own: when the host's mains are gone it
//! answers nobody.
//!
//! Whoever leads reaches all devices, whatever links are cut: the worst case.
//!
//! Somebody gives a host its power back a while after it was taken.

use std::collections::{BTreeMap, BTreeSet};

use model::{DeviceName, FenceDevice, FenceDevices};

use crate::fault::Blow;
use crate::names::host_name;
use crate::rng::Rng;
use crate::world::{Event, MS, Mend, S, Time, World, note};

/// How a device behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Well,
    Lies,
    Hangs,
    Fails,
    Late,
    Gone,
}

#[derive(Debug, Clone)]
pub struct Device {
    pub level: u8,
    pub delay_s: u32,
    is_bmc: bool,
    /// Its switch.
    on: bool,
    mode: Mode,
    mode_until: Time,
}

/// What the agent of a device says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It has switched.
    Done,
    On,
    Off,
    /// It failed, or was killed because it hung.
    Error,
}

/// How long an agent may take before it is killed: `host::fence`'s limits.
const STATUS_LIMIT: Time = 45 * S;
const SWITCH_LIMIT: Time = 90 * S;

/// How many of a hundred devices that say no, or nothing, take the power all the same.
const TAKES_ALL_THE_SAME: u64 = 30;

/// When somebody gives power back, and how often it is tried while a fence is under way.
const GIVEN_BACK_AFTER: (Time, Time) = (8 * S, 50 * S);
const GIVE_AGAIN_AFTER: Time = 5 * S;
const GIVE_BACK_WITHIN: Time = 40 * S;

impl Device {
    fn new(level: u8, is_bmc: bool, delay_s: u32) -> Device {
        Device { level, delay_s, is_bmc, on: true, mode: Mode::Well, mode_until: 0 }
    }

    /// It works again. Its switch stays as it is.
    pub fn mend(&mut self) {
        self.mode_until = 0;
    }

    fn mode(&self, now: Time) -> Mode {
        if self.mode_until > now { self.mode } else { Mode::Well }
    }
}

/// What a host has, by chance.
pub fn equipment(rng: &mut Rng) -> Vec<Device> {
    let delay_s = if rng.percent(20) { 3 } else { 0 };
    let (bmc, outlet) = (|level| Device::new(level, true, delay_s), |level| Device::new(level, false, 0));
    match rng.below(20) {
        0..=5 => vec![bmc(1)],
        6..=10 => vec![bmc(1), outlet(2)],
        11..=13 => vec![bmc(1), outlet(2), outlet(2)],
        14..=16 => vec![outlet(1), outlet(1)],
        _ => vec![],
    }
}

pub fn device_name(which: usize) -> DeviceName {
    format!("device{which}").parse().expect("a valid name")
}

/// The records of a host's devices.
pub fn records(host: usize, devices: &[Device]) -> FenceDevices {
    let record = |(which, device): (usize, &Device)| {
        let record = FenceDevice {
            id: uuid::Uuid::from_u128(0xa000_0000 + (host * 16 + which) as u128),
            agent: if device.is_bmc { "fence_ipmilan".into() } else { "fence_apc".into() },
            options: BTreeMap::new(),
            secrets: BTreeSet::new(),
            level: device.level,
            delay_s: device.delay_s,
        };
        (device_name(which), record)
    };
    FenceDevices { host: host_name(host), devices: devices.iter().enumerate().map(record).collect() }
}

impl World {
    pub fn strike_device(&mut self, blow: Blow) {
        let hosts = self.sites.len();
        #[expect(clippy::wildcard_enum_match_arm, reason = "all others strike no device")]
        let (host, which, mode, ms) = match blow {
            Blow::DeviceLies { host, which, ms } => (host, which, Mode::Lies, ms),
            Blow::DeviceHangs { host, which, ms } => (host, which, Mode::Hangs, ms),
            Blow::DeviceFails { host, which, ms } => (host, which, Mode::Fails, ms),
            Blow::DeviceIsLate { host, which, ms } => (host, which, Mode::Late, ms),
            Blow::DeviceIsGone { host, which, ms } => (host, which, Mode::Gone, ms),
            _ => return,
        };
        let until = self.now + ms * MS;
        let devices = &mut self.sites[host as usize % hosts].devices;
        let count = devices.len().max(1);
        if let Some(device) = devices.get_mut(which as usize % count) {
            (device.mode, device.mode_until) = (mode, until);
        }
    }

    /// Whether a device hears anybody.
    fn answers(&self, host: usize, which: usize) -> bool {
        let site = &self.sites[host];
        let device = &site.devices[which];
        device.mode(self.now) != Mode::Gone && !(device.is_bmc && (site.mains_lost || self.outlets_off(host)))
    }

    fn outlets_off(&self, host: usize) -> bool {
        let mut outlets = self.sites[host].devices.iter().filter(|device| !device.is_bmc).peekable();
        outlets.peek().is_some() && outlets.all(|device| !device.on)
    }

    /// Whether devices keep a host from having power.
    pub fn is_switched_off(&self, host: usize) -> bool {
        self.outlets_off(host) || self.sites[host].devices.iter().any(|device| device.is_bmc && !device.on)
    }

    /// An agent tells a device to take the power: what it will say, and after how long. What the device does it does by
    /// itself, whatever becomes of the agent and of who started it.
    pub fn tell_device(&mut self, host: usize, which: usize) -> (Said, Time) {
        if !self.answers(host, which) {
            return (Said::Error, self.rng.between(500 * MS, 6 * S));
        }
        let takes = self.rng.between(50 * MS, 2500 * MS);
        let all_the_same = self.rng.percent(TAKES_ALL_THE_SAME);
        let mode = self.sites[host].devices[which].mode(self.now);
        let (said, answered, acts) = match mode {
            Mode::Well => (Said::Done, takes + self.rng.between(20 * MS, 800 * MS), Some(takes)),
            Mode::Lies => (Said::Done, takes, None),
            Mode::Hangs => (Said::Error, SWITCH_LIMIT, all_the_same.then_some(takes)),
            Mode::Fails | Mode::Gone => (Said::Error, takes, all_the_same.then_some(takes)),
            Mode::Late => (Said::Done, takes, Some(self.rng.between(3 * S, 30 * S))),
        };
        if let Some(delay) = acts {
            self.books.switches_due += 1;
            self.after(delay, Event::Switches { host, which });
        }
        (said, answered)
    }

    /// A device switches off.
    pub fn device_switches(&mut self, host: usize, which: usize) {
        self.books.switches_due -= 1;
        self.sites[host].devices[which].on = false;
        if !self.is_switched_off(host) {
            return;
        }
        note!(self, "host{}: device{which} takes its power", host + 1);
        let after = self.rng.between(GIVEN_BACK_AFTER.0, GIVEN_BACK_AFTER.1);
        if self.sites[host].up {
            self.books.powers_taken += 1;
            let since_live = self.store.now.view.is_live(&host_name(host));
            self.books.live_powers_taken += u64::from(since_live);
            self.power_off(host, 0, false);
        }
        let until = self.now + after + GIVE_BACK_WITHIN;
        self.after(after, Event::Mend(Mend::Unfence { host, until }));
    }

    /// How a device's switch stands, as it says; and how long that takes.
    pub fn ask_device(&mut self, host: usize, which: usize) -> (Said, Time) {
        let soon = self.rng.between(20 * MS, 700 * MS);
        if !self.answers(host, which) {
            return (Said::Error, soon);
        }
        let device = &self.sites[host].devices[which];
        match device.mode(self.now) {
            Mode::Hangs => return (Said::Error, STATUS_LIMIT),
            Mode::Fails => return (Said::Error, soon),
            Mode::Well | Mode::Lies | Mode::Late | Mode::Gone => {}
        }
        let off = if device.is_bmc { !self.sites[host].up } else { !device.on };
        (if off { Said::Off } else { Said::On }, soon)
    }

    /// Somebody gives a host its power back, unless it is just being taken.
    pub fn unfence(&mut self, host: usize, until: Time) {
        let fence = self.store.now.view.fences.get(&host_name(host));
        if fence.is_some_and(|fence| !fence.is_over()) && self.now < until && self.ending_since.is_none() {
            return self.after(GIVE_AGAIN_AFTER, Event::Mend(Mend::Unfence { host, until }));
        }
        self.sites[host].devices.iter_mut().for_each(|device| device.on = true);
        // Otherwise its mains come back later.
        if self.sites[host].dark_until <= self.now {
            self.power_returns(host);
        }
    }

    /// A host boots, unless its devices keep the power from it.
    pub fn power_returns(&mut self, host: usize) {
        self.sites[host].mains_lost = false;
        if self.sites[host].up || self.is_switched_off(host) {
            return;
        }
        note!(self, "host{} has power again", host + 1);
        let site = &mut self.sites[host];
        (site.up, site.boot) = (true, site.boot + 1);
        self.begin_to_guard(host);
        self.start_daemon(host);
    }
}
