//! How a machine that runs comes to its end.

use jiff::SignedDuration;
use model::{Assignment, ExitReason, GuestSpec, HandoverKind, PowerWish};

use super::{Rest, Situation, Step};

/// Between two requests to shut down.
const SHUTDOWN_AGAIN_AFTER: SignedDuration = SignedDuration::from_secs(3);

/// Whether the machine is to be shut down, for whatever reason.
pub fn is_to_stop(spec: &GuestSpec, assignment: &Assignment, generation: u64) -> bool {
    let restart = generation < spec.boot_generation;
    let handed_over = assignment.handover.as_ref().is_some_and(|handover| match handover.how {
        HandoverKind::Restart => true,
        HandoverKind::Live => false,
    });
    spec.power == PowerWish::Stopped || restart || handed_over
}

/// Asks the guest to shut down until it has, or its time is over. One that would not hear it is ended at once.
pub(super) fn stop(s: &Situation) -> Step {
    if s.deaf {
        return Step::End { why: ExitReason::Killed };
    }
    let Some((first, last)) = s.shutdown_asked_at else { return Step::Shutdown };
    let deadline = first + SignedDuration::from_secs(i64::from(s.spec.stop_timeout_s));
    // A guest that was still booting has not heard the first time.
    let again = last + SHUTDOWN_AGAIN_AFTER;
    if s.now >= deadline {
        Step::End { why: ExitReason::Killed }
    } else if s.now >= again {
        Step::Shutdown
    } else {
        Step::Rest { rest: Rest::Stopping, until: Some(again.min(deadline)) }
    }
}
