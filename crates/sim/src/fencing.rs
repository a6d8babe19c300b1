//! The leader takes the power of hosts: the counterpart of `daemon::leader::fencing` and `daemon::fencing`.
//!
//! ```text
//!   ask      the record is created, and only while the host has no session
//!   begin    the record says that a try is under way
//!   each device of a level: its delay; is it still wanted, by a quorum of the store? off; status
//!   settle   the host has no session; the record says that it is off
//! ```
//!
//! A try belongs to one leader and dies with it, wherever it is; what a device was told by then it does all the same.
//! Beside it the leader counts for hosts that reset themselves.

use std::collections::BTreeMap;

use jiff::Timestamp;
use model::{Fence, FenceDevices, HostName, PowerOff, Reset};
use plan::fence::{Ask, FencePlan, fences};
use uuid::Uuid;

use crate::daemon::local;
use crate::device::{Said, device_name};
use crate::mutant::Mutant;
use crate::names::{host_ix, host_name};
use crate::request::{Asked, NoReply, Replied, Reply, Who};
use crate::store::{Key, Record, Txn};
use crate::world::{Event, MS, Mono, S, Time, World, note};

/// How long a host whose power is off may still have a session.
const SILENT_WITHIN: Time = 15 * S;
const SILENT_POLL: Time = 200 * MS;

/// The tries that are under way, and what is counted.
#[derive(Debug, Default)]
pub struct Fencing {
    tries: BTreeMap<usize, Try>,
    awaited: BTreeMap<usize, Awaited>,
}

#[derive(Debug, Clone, Copy)]
struct Awaited {
    id: Uuid,
    since: i64,
    begun: Mono,
}

/// One try of one fence.
#[derive(Debug, Clone)]
struct Try {
    /// No two tries of a run share it.
    number: u64,
    since: i64,
    begun: Fence,
    is_begun: bool,
    devices: FenceDevices,
    level: u8,
    /// The devices of this level that have not come to an end.
    open: usize,
    proven: Vec<usize>,
    problems: Vec<String>,
    /// They said so before the host's session was over, and are asked once more.
    asked_again: bool,
    silent_by: Option<Mono>,
}

/// Which try, at which device of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    pub target: usize,
    pub number: u64,
    /// None: the record.
    pub which: Option<usize>,
}

/// What happens next at a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// Its delay has passed, or the session of its host may be over.
    Goes,
    /// Its agent says what came of switching.
    Switched(Said),
    /// Its agent says how its switch stands.
    Stands(Said),
}

/// What the leader writes about fences in a turn.
#[derive(Debug, Clone)]
pub enum Chore {
    Ask(Ask),
    Drop(HostName),
    Attempt(HostName),
    Resets(Vec<(HostName, std::time::Duration)>),
}

impl Fencing {
    /// This daemon leads no more.
    pub fn stop(&mut self) {
        self.tries.clear();
        self.awaited.clear();
    }
}

fn fence_id(number: u64) -> Uuid {
    Uuid::from_u128(0x9000_0000_0000 + u128::from(number))
}

impl World {
    fn fencing(&mut self, host: usize) -> &mut Fencing {
        &mut self.daemon(host).leader.fencing
    }

    /// What is to be done now, in the order in which it is done; and when to look again.
    pub fn fence_chores(&mut self, host: usize, recover_from: Timestamp) -> (Vec<Chore>, Option<Timestamp>) {
        if !self.schedule.shared {
            return (vec![], None);
        }
        let now = self.wall(host);
        let hasty = self.has(Mutant::FenceInAStorm);
        let restless = self.has(Mutant::FenceWithoutPause);
        let early = self.has(Mutant::ResetTooEarly);
        let daemon = self.daemon(host);
        let view = &daemon.cache.view;
        let since = daemon.leader.since;
        let FencePlan { ask, attempt, mut await_reset, drop, wake_at } = if hasty || restless {
            let mut shown = view.clone();
            if hasty {
                shown.losses = Some(crate::leader::calm(view));
            }
            if restless {
                shown.fences.values_mut().for_each(|fence| fence.problem = None);
            }
            fences(&shown, now, recover_from)
        } else {
            fences(view, now, recover_from)
        };
        if early {
            await_reset.iter_mut().for_each(|(_, within)| *within /= 4);
        }
        let tries = &mut daemon.leader.fencing.tries;
        let wanted = |host: &usize| attempt.iter().any(|name| host_ix(name) == *host);
        tries.retain(|target, running| wanted(target) && Some(running.since) == since);
        let chores = ask.into_iter().map(Chore::Ask).chain(drop.into_iter().map(Chore::Drop));
        let attempts = attempt.into_iter().map(Chore::Attempt);
        (chores.chain(attempts).chain([Chore::Resets(await_reset)]).collect(), wake_at)
    }

    /// Does one of them. What it writes, if it does.
    pub fn fence_chore(&mut self, host: usize, chore: Chore) -> Option<Txn> {
        match chore {
            Chore::Ask(ask) => self.ask_for_fence(host, ask),
            Chore::Drop(target) => {
                let daemon = self.daemon(host);
                let since = daemon.leader.since?;
                let key = Key::Fence(host_ix(&target));
                let txn = daemon.cache.draft().at(Key::Leader, since).delete(key).build();
                note!(self, "host{}: the power of {target} need not be taken any more", host + 1);
                Some(txn)
            }
            Chore::Attempt(target) => {
                self.attempt(host, host_ix(&target));
                None
            }
            Chore::Resets(hosts) => self.await_resets(host, hosts),
        }
    }

    fn ask_for_fence(&mut self, host: usize, ask: Ask) -> Option<Txn> {
        let Ask { host: target, boot_id, why } = ask;
        note!(self, "host{}: the power of {target} is to be taken: {why}", host + 1);
        let fence = Fence {
            host: target.clone(),
            id: fence_id(self.number()),
            boot_id,
            asked_by: "the leader".into(),
            by_hand: false,
            why,
            since: self.wall(host),
            tries: 0,
            tried_at: None,
            problem: None,
            off: None,
            reset: None,
        };
        let daemon = self.daemon(host);
        let since = daemon.leader.since?;
        let mut draft = daemon.cache.draft();
        draft.at(Key::Leader, since).absent(Key::Session(host_ix(&target))).put(Record::Fence(fence));
        Some(draft.build())
    }

    fn await_resets(&mut self, host: usize, hosts: Vec<(HostName, std::time::Duration)>) -> Option<Txn> {
        let (now, wall) = (self.mono(host), self.wall(host));
        let daemon = self.daemon(host);
        let since = daemon.leader.since?;
        let leader = &mut daemon.leader;
        let awaited = &mut leader.fencing.awaited;
        awaited.retain(|target, _| hosts.iter().any(|(name, _)| host_ix(name) == *target));
        for (name, within) in hosts {
            let (view, target) = (&daemon.cache.view, host_ix(&name));
            let Some(fence) = view.fences.get(&name) else { continue };
            let fresh = Awaited { id: fence.id, since, begun: now };
            let counted = awaited.entry(target).or_insert(fresh);
            if (counted.id, counted.since) != (fence.id, since) {
                *counted = fresh;
            }
            let left = local(within) - (now - counted.begun);
            if left > 0 {
                leader.pause = leader.pause.min(left as Time);
                continue;
            }
            let report = view.host_reports.get(&name);
            let Some(watchdog) = report.and_then(|report| report.hardware_watchdog.clone()) else { continue };
            let reset = Reset {
                at: wall,
                device: watchdog.name,
                timeout_s: watchdog.timeout_s,
                counted_by: host_name(host),
            };
            let fence = Fence { reset: Some(reset), ..fence.clone() };
            let mut draft = daemon.cache.draft();
            draft.at(Key::Leader, since).put(Record::Fence(fence));
            draft.absent(Key::Session(target)).unchanged(Key::HostReport(target));
            let txn = draft.build();
            // Others that are due come in the next turn.
            daemon.leader.wake_within(MS);
            note!(self, "host{}: the watchdog of {name} must have reset it", host + 1);
            return Some(txn);
        }
        None
    }

    /// Sees to it that a try is under way.
    fn attempt(&mut self, host: usize, target: usize) {
        let number = self.number();
        let wall = self.wall(host);
        let daemon = self.daemon(host);
        let name = host_name(target);
        let (Some(fence), Some(since)) = (daemon.cache.view.fences.get(&name).cloned(), daemon.leader.since)
        else {
            return;
        };
        if daemon.leader.fencing.tries.get(&target).is_some_and(|running| running.begun.id == fence.id) {
            return;
        }
        let devices = daemon.cache.view.fence_devices.get(&name).cloned();
        let devices = devices.unwrap_or_else(|| FenceDevices::none(name.clone()));
        let tries = fence.tries.saturating_add(1);
        let begun = Fence { tries, tried_at: Some(wall), problem: None, ..fence };
        let one = Try {
            number,
            since,
            begun: begun.clone(),
            is_begun: false,
            devices,
            level: 0,
            open: 0,
            proven: vec![],
            problems: vec![],
            asked_again: false,
            silent_by: None,
        };
        daemon.leader.fencing.tries.insert(target, one);
        note!(self, "host{}: try {tries} to take the power of {name}", host + 1);
        self.write_fence(host, At { target, number, which: None }, begun, false);
    }

    /// Writes the record, if this daemon leads and it is the same fence.
    fn write_fence(&mut self, host: usize, at: At, fence: Fence, silent: bool) {
        let Some(since) = self.running(host, at).map(|running| running.since) else { return };
        let daemon = self.daemon(host);
        let same = daemon.cache.view.fences.get(&fence.host).is_some_and(|known| known.id == fence.id);
        if !same {
            self.fencing(host).tries.remove(&at.target);
            return;
        }
        let mut draft = daemon.cache.draft();
        draft.at(Key::Leader, since).put(Record::Fence(fence));
        if silent {
            draft.absent(Key::Session(at.target));
        }
        let txn = draft.build();
        self.request(host, Who::Fence(at), Asked::Commit(txn));
    }

    fn running(&mut self, host: usize, at: At) -> Option<&mut Try> {
        self.fencing(host).tries.get_mut(&at.target).filter(|running| running.number == at.number)
    }

    /// The store has answered a try.
    pub fn try_replied(&mut self, host: usize, at: At, replied: Replied) {
        let Some(running) = self.running(host, at) else { return };
        if let Some(which) = at.which {
            return match replied {
                Ok(Reply::Wanted(true)) => self.tell(host, at, which),
                Ok(_) => self.device_ends(host, at, which, Err("nobody wants it any more")),
                Err(_) => self.device_ends(host, at, which, Err("the store does not confirm it")),
            };
        }
        let goes_on = matches!(replied, Ok(Reply::Committed(_))) && !running.is_begun;
        if goes_on {
            running.is_begun = true;
            let (first, by_hand) = (running.begun.tries == 1, running.begun.by_hand);
            self.book_try(at.target, first, by_hand);
            self.next_level(host, at);
        } else {
            self.fencing(host).tries.remove(&at.target);
            if replied == Err(NoReply::Unknown) {
                note!(self, "host{}: a try to fence host{} ends early", host + 1, at.target + 1);
            }
        }
    }

    fn next_level(&mut self, host: usize, at: At) {
        let (wall, life) = (self.wall(host), self.daemon(host).life);
        let Some(running) = self.running(host, at) else { return };
        let next = running.devices.levels().keys().copied().find(|level| *level > running.level);
        let Some(level) = next else {
            let why = running.problems.join("; ");
            return self.try_fails(host, at, why);
        };
        running.level = level;
        running.proven.clear();
        let all: Vec<(usize, u32)> = running
            .devices
            .devices
            .values()
            .enumerate()
            .filter(|(_, device)| device.level == level)
            .map(|(which, device)| (which, device.delay_s))
            .collect();
        running.open = all.len();
        let passed = wall.duration_since(running.begun.since).as_micros().max(0) as Time;
        for (which, delay_s) in all {
            let delay = (Time::from(delay_s) * S).saturating_sub(passed).max(MS);
            let at = At { which: Some(which), ..at };
            self.after_local(host, delay, Event::Fence { host, life, at, next: Move::Goes });
        }
    }

    /// Something happens in a try.
    pub fn fence_goes_on(&mut self, host: usize, at: At, next: Move) {
        let Some(running) = self.running(host, at).cloned() else { return };
        let Some(which) = at.which else {
            return self.wait_for_silence(host, at);
        };
        match next {
            Move::Goes if self.has(Mutant::FenceUnasked) => self.tell(host, at, which),
            Move::Goes => {
                let asked = Asked::IsWanted { target: at.target, since: running.since, id: running.begun.id };
                self.request(host, Who::Fence(at), asked);
            }
            Move::Switched(Said::Done) if self.has(Mutant::TrustTheAgent) => {
                self.device_ends(host, at, which, Ok(()));
            }
            Move::Switched(Said::Done) => self.ask_how_it_stands(host, at),
            Move::Switched(_) => self.device_ends(host, at, which, Err("it did not switch the power off")),
            Move::Stands(Said::Off) => self.device_ends(host, at, which, Ok(())),
            Move::Stands(Said::On) => {
                self.device_ends(
                    host,
                    at,
                    which,
                    Err("it said that the power is off, and then that it is on"),
                );
            }
            Move::Stands(_) => self.device_ends(host, at, which, Err("it does not say how it stands")),
        }
    }

    fn tell(&mut self, host: usize, at: At, which: usize) {
        let life = self.daemon(host).life;
        let Some(running) = self.running(host, at).cloned() else { return };
        self.check_fence(host, at.target, running.since, running.begun.id);
        let (said, delay) = self.tell_device(at.target, which);
        note!(
            self,
            "host{}: device{which} of host{}: off, which it will answer with {said:?}",
            host + 1,
            at.target + 1
        );
        self.after(delay, Event::Fence { host, life, at, next: Move::Switched(said) });
    }

    fn ask_how_it_stands(&mut self, host: usize, at: At) {
        let (life, which) = (self.daemon(host).life, at.which.unwrap_or_default());
        let (said, delay) = self.ask_device(at.target, which);
        self.after(delay, Event::Fence { host, life, at, next: Move::Stands(said) });
    }

    fn device_ends(&mut self, host: usize, at: At, which: usize, came_to: Result<(), &str>) {
        let lenient = self.has(Mutant::OneSupplyIsEnough);
        let Some(running) = self.running(host, at) else { return };
        running.open = running.open.saturating_sub(1);
        match came_to {
            Ok(()) => running.proven.push(which),
            Err(why) => running.problems.push(format!("{}: {why}", device_name(which))),
        }
        if running.open > 0 {
            return;
        }
        let level = running.level;
        let of_level = running.devices.devices.values().filter(|device| device.level == level).count();
        let proven = running.proven.len() == of_level || lenient && !running.proven.is_empty();
        let at = At { which: None, ..at };
        if proven {
            self.all_say_off(host, at);
        } else if running.asked_again {
            let why = running.problems.join("; ");
            self.try_fails(host, at, why);
        } else {
            self.next_level(host, at);
        }
    }

    /// All devices of a level say that there is no power.
    fn all_say_off(&mut self, host: usize, at: At) {
        let name = host_name(at.target);
        let (now, wall) = (self.mono(host), self.wall(host));
        let live = self.daemon(host).cache.view.is_live(&name);
        let Some(running) = self.running(host, at) else { return };
        if live && !running.asked_again {
            // Only somebody's word brings it here. A session outlives its host by a moment, and no longer.
            running.silent_by = Some(now + SILENT_WITHIN as Mono);
            return self.wait_for_silence(host, at);
        }
        let devices = running.proven.iter().map(|which| device_name(*which)).collect();
        let off = PowerOff { at: wall, devices, seen_by: host_name(host) };
        let fence = Fence { off: Some(off), ..running.begun.clone() };
        note!(self, "host{}: the power of {name} is off", host + 1);
        self.write_fence(host, at, fence, true);
    }

    /// The devices said that the power is off, and the host had a session: it must end, and they must say so again.
    fn wait_for_silence(&mut self, host: usize, at: At) {
        let (now, life) = (self.mono(host), self.daemon(host).life);
        let live = self.daemon(host).cache.view.is_live(&host_name(at.target));
        let Some(running) = self.running(host, at) else { return };
        let Some(silent_by) = running.silent_by else { return };
        if live && now < silent_by {
            return self.after_local(host, SILENT_POLL, Event::Fence { host, life, at, next: Move::Goes });
        }
        if live {
            return self.try_fails(host, at, "its devices say that it is off, and it is heard".into());
        }
        running.asked_again = true;
        let again = std::mem::take(&mut running.proven);
        running.open = again.len();
        for which in again {
            self.ask_how_it_stands(host, At { which: Some(which), ..at });
        }
    }

    fn try_fails(&mut self, host: usize, at: At, why: String) {
        let at = At { which: None, ..at };
        let wall = self.wall(host);
        let Some(running) = self.running(host, at) else { return };
        let fence = Fence { problem: Some(why.clone()), tried_at: Some(wall), ..running.begun.clone() };
        note!(self, "host{}: the power of host{} is not proven to be off: {why}", host + 1, at.target + 1);
        self.write_fence(host, at, fence, false);
    }
}
