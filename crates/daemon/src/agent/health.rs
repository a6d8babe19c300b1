//! The health of a keeper's guest: what was seen of it, what follows (`plan::health` decides), and what is kept of it
//! before it is restarted.
//!
//! Of what is known only [`HealthReport`] outlives this daemon, as part of the guest's report. How often a look has
//! failed in a row is counted anew by the next one, which then gives a guest the time to boot once more: that makes it
//! slower and never hasty.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use host::qemu::{LastMoment, QemuDriver};
use host::{Machine, RunState};
use jiff::Timestamp;
use model::{EventKind, GuestName, GuestReport, HealthReport, HealthRestart, HealthRestartKind, HealthState};
use plan::converge::{Authority, MachineFacts, Situation, Stage, is_to_stop};
use plan::health::{Condition, Patient, Pulse, Verdict, judge, may_leave};

use super::check::Checker;
use super::keeper::Keeper;
use super::steps::Failure;

/// How long a picture of a guest's screen may take; its restart waits for it.
const PICTURE_LIMIT: Duration = Duration::from_secs(1);

/// How much of what a guest said last is kept, bytes.
const LINES_KEPT: u64 = 16 << 10;

/// What a keeper knows of its guest's health.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// What is told, and goes on in the next daemon and on the next owner.
    pub record: Option<HealthReport>,
    checker: Option<Checker>,
    /// When the guest booted last, as far as this daemon knows, and whether it was well since then.
    booted_at: Option<Timestamp>,
    passed: bool,
}

impl Health {
    pub fn of(record: Option<HealthReport>) -> Health {
        Health { record, ..Health::default() }
    }

    /// The guest boots, or runs in another machine: what was seen before says nothing of it.
    pub fn begin_anew(&mut self) {
        (self.checker, self.booted_at, self.passed) = (None, None, false);
    }
}

/// Which of this host's guests fail a check that goes over the network.
#[derive(Debug, Default)]
pub(super) struct NetworkChecks(Mutex<BTreeMap<GuestName, bool>>);

impl NetworkChecks {
    /// `None`: nobody looks any more.
    fn note(&self, guest: &GuestName, fails: Option<bool>) {
        let mut checks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match fails {
            Some(fails) => checks.insert(guest.clone(), fails),
            None => checks.remove(guest),
        };
    }

    /// Whether so many fail at the same time that it is more likely the network than the guests: two or more, and
    /// more than half.
    fn are_in_doubt(&self) -> bool {
        let checks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failing = checks.values().filter(|fails| **fails).count();
        failing >= 2 && failing * 2 > checks.len()
    }
}

impl Keeper {
    /// Looks how the guest is, and says in the situation what is to be done about it.
    pub(super) fn examine(&mut self, s: &mut Situation, report: Option<&GuestReport>) {
        // Until this host has reported itself, the old owner's word is the newest.
        if let Some(report) = report.filter(|report| report.host != s.me) {
            self.health.record = report.health.clone();
        }
        let facts = s.machine.as_ref().filter(|m| m.stage == Stage::Running && s.assignment.host == s.me);
        let Some((facts, running)) = facts.cloned().zip(self.running.as_ref()) else {
            self.health.begin_anew();
            self.agent.network_checks.note(&self.guest, None);
            s.deaf = self.is_to_leave(s);
            return;
        };
        let condition = match running.state {
            Some(RunState::Panicked) => Condition::Halted("it panicked".into()),
            Some(RunState::Upset) => {
                Condition::Halted("QEMU cannot go on with it (an internal error)".into())
            }
            Some(
                RunState::Prelaunch
                | RunState::Incoming
                | RunState::Arrived
                | RunState::Left
                | RunState::Running
                | RunState::Paused
                | RunState::NoRoom
                | RunState::Ended,
            )
            | None => Condition::Runs,
        };
        let machine = Arc::clone(&running.machine);
        let mut disturbed = self.disturbance(s, &facts);
        let asks = s.spec.health.check.is_asked() && disturbed.is_none() && condition == Condition::Runs;
        let pulse = self.take_pulse(s, &machine, asks);
        if s.spec.health.check.needs_address() {
            let fails = asks && pulse.failed >= s.spec.health.failures;
            self.agent.network_checks.note(&self.guest, Some(fails));
            if fails && self.agent.network_checks.are_in_doubt() {
                disturbed =
                    Some("several guests of this host do not answer at once, so it may be the network");
            }
        }
        let verdict = judge(&Patient {
            me: &s.me,
            spec: &s.spec.health,
            boot_generation: facts.boot_generation,
            known: self.health.record.as_ref(),
            condition: &condition,
            pulse: &pulse,
            booted_at: *self.health.booted_at.get_or_insert(s.now),
            disturbed,
            may_leave: may_leave(self.agent.state.read().view(), &s.spec, &s.assignment),
            now: s.now,
        });
        s.reset = self.follow(s, &machine, verdict);
        s.deaf = matches!(condition, Condition::Halted(_)) || self.is_to_leave(s);
    }

    /// Whether it is to be restarted elsewhere.
    fn is_to_leave(&self, s: &Situation) -> bool {
        let wish = self.health.record.as_ref().and_then(HealthReport::elsewhere);
        wish.is_some_and(|wish| wish.host == s.me)
    }

    fn take_pulse(&mut self, s: &Situation, machine: &Arc<dyn Machine>, asks: bool) -> Pulse {
        if !asks {
            self.health.checker = None;
        } else if self.health.checker.as_ref().is_none_or(|checker| !checker.fits(&s.spec.health)) {
            let same =
                self.health.record.as_ref().is_some_and(|known| known.spec.check == s.spec.health.check);
            self.health.passed &= same;
            self.health.checker = Some(Checker::start(Arc::clone(machine), &s.spec));
        }
        let mut pulse = self.health.checker.as_ref().map(Checker::pulse).unwrap_or_default();
        self.health.passed |= pulse.passed;
        pulse.passed = self.health.passed;
        pulse
    }

    /// Why a failed look says nothing of the guest now, and nothing is to be done to it.
    fn disturbance(&self, s: &Situation, facts: &MachineFacts) -> Option<&'static str> {
        let counted_on_others = s.in_sync.values().any(|set| set.members.len() > 1);
        let peer = s.former.as_ref().or(s.peer.as_ref());
        let paused = self.running.as_ref().is_some_and(|running| running.state == Some(RunState::Paused));
        if s.authority != Authority::Session {
            Some("the host's session is over")
        } else if facts.sending.is_some() || facts.withheld || s.assignment.handover.is_some() {
            Some("it is on its way to another host")
        } else if is_to_stop(&s.spec, &s.assignment, facts.boot_generation) {
            Some("it is to shut down")
        } else if facts.no_room || paused {
            Some("it stands still")
        } else if counted_on_others && peer.is_some_and(|peer| !peer.serves) {
            Some("its writes wait for its secondary")
        } else {
            None
        }
    }

    /// Remembers a verdict, tells people of it, and answers with the reset that it asks for.
    fn follow(
        &mut self,
        s: &Situation,
        machine: &Arc<dyn Machine>,
        verdict: Verdict,
    ) -> Option<HealthRestart> {
        let Verdict { mut report, restart } = verdict;
        let (subject, guest, events) = (self.about(), &self.guest, &self.agent.events);
        let before = self.health.record.as_ref().map(|known| known.state);
        match (before, report.state) {
            (Some(HealthState::Unhealthy), HealthState::Healthy) => {
                events.info(EventKind::GuestUnhealthy, subject, format!("'{guest}' is well again"));
            }
            (before, HealthState::Unhealthy) if before != Some(HealthState::Unhealthy) => {
                let why = report.message.as_deref().unwrap_or("it does not say why");
                let message = format!(
                    "'{guest}' is not well: {why}; look into it with `kennel guest console {guest}` and `kennel guest \
                     last-moments {guest}`, then `kennel guest restart {guest}`"
                );
                events.error(EventKind::GuestUnhealthy, subject, message);
            }
            _ => {}
        }
        let reset = restart.filter(|restart| match restart.how {
            HealthRestartKind::InPlace => true,
            HealthRestartKind::Elsewhere => {
                tell(self, s, restart, report.restarts.len());
                tokio::spawn(keep(Arc::clone(&self.agent.driver), Arc::clone(machine), restart.clone()));
                report.note(restart.clone());
                false
            }
        });
        self.health.record = Some(report);
        reset
    }

    /// Notes the restart where the next daemon finds it, keeps what the guest shows, and resets its machine.
    pub(super) async fn reset(&mut self, s: &Situation, restart: HealthRestart) -> Result<(), Failure> {
        let Some(running) = &self.running else { return Ok(()) };
        let machine = Arc::clone(&running.machine);
        let (Some(mut record), Some(last)) = (self.health.record.clone(), self.reporter.last()) else {
            return Err(Failure::soon("nothing has been reported of it yet"));
        };
        let made = record.restarts.len();
        record.note(restart.clone());
        let report = GuestReport { health: Some(record.clone()), ..last };
        self.reporter.say_now(&self.agent, report).await?;
        self.health.record = Some(record);
        keep(Arc::clone(&self.agent.driver), Arc::clone(&machine), restart.clone()).await;
        tell(self, s, &restart, made);
        self.health.begin_anew();
        if let Some(running) = &mut self.running {
            running.room_stale = true;
        }
        if let Err(error) = machine.reset().await {
            // It may hang, as when a hold begins at this very moment. What it holds was acknowledged to nobody.
            machine.kill().await?;
            return Err(error.into());
        }
        Ok(())
    }

    /// Keeps what a guest said last whose machine has died.
    pub(super) fn keep_of_dead(&self, machine: &Arc<dyn Machine>) {
        let (driver, machine) = (Arc::clone(&self.agent.driver), Arc::clone(machine));
        tokio::spawn(
            async move { keep_as(&driver, &*machine, Timestamp::now(), "its QEMU died", None).await },
        );
    }
}

fn tell(keeper: &Keeper, s: &Situation, restart: &HealthRestart, made: usize) {
    let (guest, why, limit) = (&keeper.guest, &restart.why, s.spec.health.restart_limit);
    let place = match restart.how {
        HealthRestartKind::InPlace => format!("on {}", restart.host),
        HealthRestartKind::Elsewhere => "on its secondary's host, if that can be".to_owned(),
    };
    let message =
        format!("'{guest}' is restarted {place}: {why} (restart {} of {limit} within an hour)", made + 1);
    keeper.agent.events.warning(EventKind::GuestRestarted, keeper.about(), message);
}

async fn keep(driver: Arc<QemuDriver>, machine: Arc<dyn Machine>, restart: HealthRestart) {
    let picture = match tokio::time::timeout(PICTURE_LIMIT, machine.picture()).await {
        Ok(Ok(picture)) => Some(picture),
        Ok(Err(error)) => {
            tracing::debug!(guest = %machine.label().guest, %error, "there is no picture of it");
            None
        }
        Err(_) => None,
    };
    keep_as(&driver, &*machine, restart.at, &restart.why, picture).await;
}

async fn keep_as(
    driver: &QemuDriver,
    machine: &dyn Machine,
    at: Timestamp,
    why: &str,
    picture: Option<host::Picture>,
) {
    let lines = machine.scroll_back(LINES_KEPT).await;
    let moment = LastMoment { at_ms: at.as_millisecond(), why: why.to_owned(), lines, picture };
    if let Err(error) = driver.keep_last_moment(machine.label().id, moment).await {
        tracing::warn!(guest = %machine.label().guest, %error, "what it showed last is not kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_most_fail_at_once_it_is_the_network() {
        let checks = NetworkChecks::default();
        let note = |name: &str, fails| checks.note(&name.parse().unwrap(), fails);
        note("a", Some(true));
        assert!(!checks.are_in_doubt(), "one alone is not well");
        note("b", Some(true));
        assert!(checks.are_in_doubt());
        note("c", Some(false));
        note("d", Some(false));
        assert!(!checks.are_in_doubt(), "half of them answer");
        note("d", None);
        assert!(checks.are_in_doubt());
    }
}
