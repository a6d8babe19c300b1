//! A handover while the guest runs.
//!
//! ```text
//!     owner                                   the secondary's host
//!     ─────                                   ────────────────────
//!                                             Receive: a machine waits for the guest
//!     Send its memory ─ Adjust …
//!     it stands still: HandOver
//!       one transaction: the other host owns
//!       it at the next epoch, and both
//!       replicas are the same; then Deliver ▶ Arrive: no writes of the old epoch any more, mirrored
//!       its own replica is served             to the old owner from the first write; it runs
//!     sent: End                               Admit: both, at its own epoch
//! ```
//!
//! Up to the transaction everything can be taken back: `CancelSend`. After it, nothing that happens on the old owner
//! may reach a disk (`host::Machine::hand_over`), and a guest that does not arrive is started anew on its new owner,
//! from a replica that has everything. The in-sync sets stay the old owner's until the new one, which has flushed by
//! then, writes them anew: a new owner that loses its power before that must not trust what it took as a secondary, and
//! gives the guest back. While nobody knows whether the transaction was made, the guest stands still.
//!
//! In storage that hosts share there is no replica that stops taking the old owner's writes. There `HandOver` takes
//! the disks away from the machine *before* the transaction, so that a new owner may always start the guest anew; and
//! gives them back if the transaction was not made. Of such a guest the in-sync set names the owner, so the transaction
//! writes it.

use jiff::SignedDuration;
use model::{Assignment, ExitReason, Handover, HandoverKind, HostName, Liveness, PowerWish, Replica};

use super::{Authority, MachineFacts, Rest, SendPhase, Situation, Stage, Step, ladder, members, pause, rest};

/// How long a guest may be on its way once another host owns it. By then it has been standing still.
const ARRIVES_WITHIN: SignedDuration = SignedDuration::from_secs(10);

/// How often a guest is sent anew after the way to the other host broke.
const SENDS_MAX: u32 = 3;

fn handover_to<'a>(s: &'a Situation, host: &HostName) -> Option<&'a Handover> {
    let live = |handover: &&Handover| handover.how == HandoverKind::Live && &handover.to == host;
    s.assignment.handover.as_ref().filter(live)
}

/// What a host that does not own the guest does with a machine of it. `None`: it is left alone for now.
pub(super) fn visitor(s: &Situation, machine: &MachineFacts) -> Option<Step> {
    if is_expected(s, machine) {
        // Whoever looks for it after this daemon began anew must find it, too.
        let told = s.incoming.is_some() || machine.stage == Stage::Arrived;
        return if told { None } else { pause(s).or_else(|| receive_again(s)) };
    }
    if !has_left(s, machine) {
        return Some(Step::End { why: ExitReason::Disowned });
    }
    match machine.sending.as_ref().map(|sending| &sending.phase) {
        Some(SendPhase::AtSwitchover) => Some(Step::Deliver),
        Some(SendPhase::Delivering) => None,
        Some(SendPhase::Delivered) => Some(Step::End { why: ExitReason::Moved }),
        Some(SendPhase::Memory | SendPhase::Failed(_)) | None => {
            Some(Step::End { why: ExitReason::Disowned })
        }
    }
}

/// A machine that waits for the guest, or has it and is about to own it.
fn is_expected(s: &Situation, machine: &MachineFacts) -> bool {
    let waits = matches!(machine.stage, Stage::Incoming | Stage::Arrived);
    waits && machine.epoch == s.assignment.epoch.next() && handover_to(s, &s.me).is_some()
}

/// This host handed the guest over, and its machine is what is left of it here.
fn has_left(s: &Situation, machine: &MachineFacts) -> bool {
    let mine = Replica { host: s.me.clone(), boot_id: s.boot };
    machine.epoch.next() == s.assignment.epoch && s.assignment.handed_over_by == Some(mine)
}

/// Makes a machine for a guest that is to come here.
pub(super) fn receive(s: &Situation) -> Option<Step> {
    handover_to(s, &s.me)?;
    if s.machine.is_some() || s.authority != Authority::Session {
        return None;
    }
    pause(s).or_else(|| receive_again(s))
}

fn receive_again(s: &Situation) -> Option<Step> {
    let run = s.elsewhere.clone()?;
    let super::RunElsewhere { machine_type, cpu, boot_generation } = run;
    Some(Step::Receive { machine_type, cpu, boot_generation })
}

/// The handover that is to be made now.
fn wanted<'a>(s: &'a Situation, machine: &MachineFacts) -> Option<&'a Handover> {
    let stays = s.spec.power == PowerWish::Running && machine.boot_generation >= s.spec.boot_generation;
    let handover = s.assignment.handover.as_ref().filter(|h| h.how == HandoverKind::Live && stays)?;
    (s.gave_up_sending != Some(handover.job)).then_some(handover)
}

/// Why the guest could not change its host at this moment.
fn hindrance(s: &Situation, to: &HostName) -> Option<String> {
    if s.authority != Authority::Session {
        return Some("the host's session is over".into());
    }
    let peer = s.peer.as_ref().filter(|peer| &peer.host == to);
    let Some(Liveness::Live(boot_id)) = peer.map(|peer| peer.liveness) else {
        return Some(format!("{to} is lost"));
    };
    if s.spec.is_shared() {
        return None;
    }
    let same = members(s).all(|set| set.contains(to, boot_id) && set.contains(&s.me, s.boot));
    let all = members(s).count() == s.spec.disks.len();
    (!same || !all).then(|| format!("the replica on {to} is not in sync"))
}

/// What the owner does next to send its running guest; `None`: nothing now.
pub(super) fn send(s: &Situation, machine: &MachineFacts) -> Option<Step> {
    let phase = machine.sending.as_ref().map(|sending| &sending.phase);
    if machine.withheld && matches!(phase, None | Some(SendPhase::Memory | SendPhase::Failed(_))) {
        // It runs again, and reaches no disk.
        return Some(Step::CancelSend { gave_up: None });
    }
    let Some(handover) = wanted(s, machine) else {
        let asked = s.assignment.handover.is_some();
        return match phase {
            Some(SendPhase::Memory | SendPhase::AtSwitchover) => Some(Step::CancelSend { gave_up: None }),
            // Nobody asks any more. It would count as on its way for ever.
            Some(SendPhase::Failed(_)) if !asked => Some(Step::CancelSend { gave_up: None }),
            // Nobody else owns it, so nothing of this was written down: not to be trusted any more.
            Some(SendPhase::Delivering | SendPhase::Delivered) => {
                Some(Step::End { why: ExitReason::Crashed })
            }
            Some(SendPhase::Failed(_)) | None => None,
        };
    };
    let hindrance = hindrance(s, &handover.to);
    let cancel = |why: String| Some(Step::CancelSend { gave_up: Some((handover.job, why)) });
    match (phase, hindrance) {
        // A daemon that has just started has no session yet. The guest runs, and nothing is decided before it stands
        // still.
        (Some(SendPhase::Memory), Some(_)) if s.authority != Authority::Session => None,
        (Some(SendPhase::Memory), Some(why)) => cancel(why),
        // The session may be back in a moment; standing still for it is worse than sending it once more, then.
        (Some(SendPhase::AtSwitchover), Some(_)) if s.authority != Authority::Session => {
            Some(Step::CancelSend { gave_up: None })
        }
        (Some(SendPhase::AtSwitchover), Some(why)) => cancel(why),
        (Some(SendPhase::AtSwitchover), None) => Some(Step::HandOver { next: handed_over(s, &handover.to) }),
        (Some(SendPhase::Memory), None) => {
            let sending = machine.sending.as_ref()?;
            match ladder::next(&handover.options, sending) {
                ladder::Rung::Stay => None,
                ladder::Rung::Downtime(limit_ms) => Some(Step::Adjust { downtime_limit_ms: limit_ms }),
                ladder::Rung::PostCopy => Some(Step::StartPostCopy),
                ladder::Rung::GiveUp(why) => cancel(why),
            }
        }
        (Some(SendPhase::Failed(why)), _) if s.sends >= SENDS_MAX => cancel(why.clone()),
        (None | Some(SendPhase::Failed(_)), None) => {
            let to = s.incoming.filter(|to| s.sent_to != Some(*to))?;
            pause(s).is_none().then_some(Step::Send { to })
        }
        (None | Some(SendPhase::Failed(_)), Some(_)) => None,
        (Some(SendPhase::Delivering | SendPhase::Delivered), _) => {
            Some(Step::End { why: ExitReason::Crashed })
        }
    }
}

/// The assignment with which the guest changes its host.
fn handed_over(s: &Situation, to: &HostName) -> Assignment {
    Assignment {
        host: to.clone(),
        epoch: s.assignment.epoch.next(),
        secondary: (!s.spec.is_shared()).then(|| s.me.clone()),
        why: format!("moved from {} while it ran", s.me),
        handover: None,
        handed_over_by: Some(Replica { host: s.me.clone(), boot_id: s.boot }),
        ..s.assignment.clone()
    }
}

/// What the new owner does with a guest that is on its way, or has just arrived.
pub(super) fn arrive(s: &Situation, machine: &MachineFacts) -> Step {
    let Some(from) = s.assignment.handed_over_by.as_ref() else {
        // It has come to own the guest for another reason, and starts it itself.
        return Step::End { why: ExitReason::Disowned };
    };
    let deadline = s.arriving_since.unwrap_or(s.now) + ARRIVES_WITHIN;
    if s.now >= deadline {
        return Step::End { why: ExitReason::Crashed };
    }
    let waits = |why: String| Step::Rest { rest: Rest::Waiting(why), until: Some(deadline) };
    if machine.stage == Stage::Incoming {
        return waits(format!("it is on its way from {}", from.host));
    }
    if s.authority != Authority::Session {
        return waits("the host's session is over".into());
    }
    if s.spec.is_shared() {
        return Step::Arrive { mirror_to: None };
    }
    let other = members(s).flat_map(|set| &set.members).find(|replica| replica.host != s.me);
    let Some(other) = other else { return Step::Arrive { mirror_to: None } };
    let lost = s.peer.as_ref().is_none_or(|peer| peer.liveness != Liveness::Live(other.boot_id));
    let uniform =
        members(s).all(|set| set.contains(&other.host, other.boot_id) && set.contains(&s.me, s.boot));
    if lost || !uniform || s.mirror_back_failed {
        return Step::ClaimAlone;
    }
    Step::Arrive { mirror_to: Some(other.clone()) }
}

/// While a guest is on its way nothing else is done to it.
pub(super) fn settled(machine: &MachineFacts) -> Step {
    match machine.sending.as_ref().map(|sending| &sending.phase) {
        Some(SendPhase::AtSwitchover) => rest(Rest::Waiting("it is about to change its host".into())),
        Some(SendPhase::Memory | SendPhase::Delivering | SendPhase::Delivered | SendPhase::Failed(_))
        | None => rest(Rest::Running),
    }
}

#[cfg(test)]
mod tests;
