//! What a keeper tells the watchdog of its machine: until when it may run if nothing more is heard from here.
//!
//! A guest is bound to this host's session as soon as another host may come to run it: before a record counts on a
//! second replica, and before the first instruction of one in storage that hosts share. It is set free when a look at
//! the records shows that nobody else has it. So a daemon that dies in between leaves it bound, never free.

use std::sync::Arc;

use host::Machine;
use host::watchdog::{Slot, Until};
use plan::converge::Situation;

use super::keeper::{Keeper, Running};
use super::steps::Failure;

impl Keeper {
    /// Gives a machine its place with the watchdog.
    pub(super) fn guarded(&self, machine: &Arc<dyn Machine>) -> Option<Slot> {
        let process = machine.process()?;
        match self.agent.watchdog.guard(machine.label().id, process) {
            Ok(slot) => Some(slot),
            Err(error) => {
                tracing::warn!(guest = %self.guest, %error, "a machine is not guarded");
                None
            }
        }
    }

    /// `bound`: another host may come to run the guest.
    pub(super) fn tell_watchdog(&mut self, bound: bool) -> Result<(), Failure> {
        let until = match bound {
            true => Until::Session { or: self.confirmed_for_watchdog },
            false => Until::ForEver,
        };
        let Some(running) = &self.running else { return Ok(()) };
        if running.guarded.as_ref().is_some_and(|slot| self.agent.watchdog.allow(slot, until)) {
            return Ok(());
        }
        // It had no place, or what stands there is not what was written.
        let slot = self.guarded(&running.machine);
        let guarded = slot.as_ref().is_some_and(|slot| self.agent.watchdog.allow(slot, until));
        let needs_guard = bound && running.machine.process().is_some();
        if let Some(running) = &mut self.running {
            running.guarded = slot;
        }
        if needs_guard && !guarded {
            return Err(Failure::soon("the watchdog has no room for the guest's machine"));
        }
        Ok(())
    }

    /// As [`Self::tell_watchdog`], for a machine that may run or is about to be let run; another one may wait.
    pub(super) fn tell_watchdog_again(&mut self, bound: bool) {
        let may_run = self.running.as_ref().is_some_and(|running| running.may_run);
        if let Err(failure) = self.tell_watchdog(bound && may_run) {
            tracing::warn!(guest = %self.guest, error = %failure.message, "a machine runs without a watchdog");
        }
    }

    /// To be called before the machine is let run: from its first instruction it is bound to what binds it.
    pub(super) fn let_watchdog_know(&mut self, s: &Situation) -> Result<(), Failure> {
        let mirrored = s.in_sync.values().any(|set| set.members.len() > 1);
        self.tell_watchdog(mirrored || s.spec.is_shared())
    }

    /// The machine is gone; whether it was the watchdog that ended it.
    pub(super) fn leave_watchdog(&self, running: &Running) -> bool {
        let Some(slot) = &running.guarded else { return false };
        let ended = self.agent.watchdog.has_ended(slot);
        self.agent.watchdog.give_back(slot);
        ended
    }
}
