//! The watchdog of a host: the counterpart of `host::watchdog`, and of what keepers and sessions tell it.
//!
//! It is a process of its own, which neither the death nor the standing still of the daemon touches: it kills what may not
//! outlive the host's session, by what stands in its page. It stands still with its host, so it proves nothing to others.
//! A hardware watchdog does, which some hosts have: it resets a host on which nobody has fed it for its time-out. The
//! process feeds it while it looks; one that goes on after a stand-still feeds it before it looks.
//!
//! Only runs with shared storage have watchdogs.

use model::HardwareWatchdog;
use plan::converge::Stage;
use plan::limits::{AUTHORITY, WATCHDOG_GRACE};

use crate::daemon::local;
use crate::machine::{Gone, Machine};
use crate::mutant::Mutant;
use crate::world::{Event, MS, Mono, S, Time, World, note};

/// Between two of its looks at most. It looks ten times a second; here it looks when something may be due.
const LOOK_WITHIN: Time = S;
const LOOK_EVERY: Time = 100 * MS;

/// How many boots of a hundred find the device armed.
const ARMED: u64 = 90;

/// How long a host that was reset is away, in seconds.
const RESET_TAKES: (Time, Time) = (3 * S, 30 * S);

/// What survives the daemon: the page that both have mapped.
#[derive(Debug, Clone, Copy, Default)]
pub struct Page {
    /// When the last renewal of the session was sent that was confirmed.
    pub renewed: Option<Mono>,
    /// The time-out of the device that is fed in this boot, seconds.
    pub armed: Option<u32>,
}

impl World {
    /// A host has power: its watchdog begins, with its device or without.
    pub fn begin_to_guard(&mut self, host: usize) {
        if !self.schedule.shared {
            return;
        }
        let armed = self.rng.percent(ARMED);
        let site = &mut self.sites[host];
        site.page = Page { renewed: None, armed: site.hardware.filter(|_| armed) };
        let boot = site.boot;
        self.after(LOOK_EVERY, Event::Guard { host, boot });
    }

    /// A look at the page.
    pub fn guard(&mut self, host: usize, boot: u32) {
        let site = &self.sites[host];
        if !site.up || site.boot != boot {
            return;
        }
        let now = self.mono(host);
        let session_ends =
            site.page.renewed.map_or(Mono::MIN, |at| at + local(AUTHORITY) + local(WATCHDOG_GRACE));
        let ends = |machine: &Machine| machine.bound_until.unwrap_or(Mono::MIN).max(session_ends);
        let bound = || site.machines.values().filter(|machine| machine.bound);
        let overdue: Vec<usize> = bound().filter(|m| ends(m) <= now).map(|m| m.guest).collect();
        let next = bound().map(ends).filter(|at| *at > now).min();
        for guest in overdue {
            note!(self, "host{}: the watchdog kills g{}", host + 1, guest + 1);
            self.end_machine(host, guest, Gone::ByWatchdog);
        }
        let wait = next.map_or(LOOK_WITHIN, |at| (at - now) as Time).clamp(LOOK_EVERY, LOOK_WITHIN);
        self.after_local(host, wait, Event::Guard { host, boot });
    }

    /// Tells the watchdog of a guest's machine whether it may outlive the session.
    pub fn bind(&mut self, host: usize, guest: usize, bound: bool) {
        let until = self.keeper(host, guest).confirmed_for_watchdog;
        if let Some(machine) = self.sites[host].machines.get_mut(&guest) {
            (machine.bound, machine.bound_until) = (bound, until);
        }
    }

    /// As [`Self::bind`], for a machine that may run; another one may wait.
    pub fn tell_watchdog_again(&mut self, host: usize, guest: usize, bound: bool) {
        let stage = self.sites[host].machines.get(&guest).map(|machine| machine.stage);
        if let Some(Stage::Running | Stage::Left) = stage {
            self.bind(host, guest, bound);
        }
    }

    /// A host stands still; when nobody has fed its device for so long, it resets it.
    pub fn stands_still_from_now(&mut self, host: usize) {
        let site = &mut self.sites[host];
        site.frozen_since = self.now;
        let Some(timeout_s) = site.page.armed else { return };
        let (boot, since) = (site.boot, site.frozen_since);
        let fed_before = self.rng.below(S);
        self.after(Time::from(timeout_s) * S - fed_before, Event::Reset { host, boot, since });
    }

    pub fn reset_by_device(&mut self, host: usize, boot: u32, since: Time) {
        let site = &self.sites[host];
        if site.up && site.boot == boot && site.frozen_until > self.now && site.frozen_since == since {
            note!(self, "host{} is reset by its watchdog", host + 1);
            self.books.resets += 1;
            let dark = self.rng.between(RESET_TAKES.0, RESET_TAKES.1);
            self.power_off(host, dark, false);
        }
    }

    /// What its report says of its device.
    pub fn told_of_watchdog(&self, host: usize) -> Option<HardwareWatchdog> {
        let soft = self.has(Mutant::SoftWatchdog) && self.schedule.shared;
        let timeout_s = self.sites[host].page.armed.or(soft.then_some(6))?;
        Some(HardwareWatchdog { name: "a watchdog".into(), timeout_s, proves: true })
    }
}
