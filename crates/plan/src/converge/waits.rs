//! What keeps a step waiting until a certain time.

use super::{Rest, Situation, Step};

/// Waits out the pause after a failure.
pub(super) fn pause(s: &Situation) -> Option<Step> {
    let until = s.not_before.filter(|until| *until > s.now)?;
    let rest = Rest::Waiting("the last try failed, and the next one comes after a pause".into());
    Some(Step::Rest { rest, until: Some(until) })
}

/// Waits for the turn among the guests that start one after the other.
pub(super) fn turn(s: &Situation) -> Option<Step> {
    let (before, until) = s.starts_after.as_ref().filter(|(_, until)| *until > s.now)?;
    let rest = Rest::Waiting(format!("it starts after {before}, which does not run yet"));
    Some(Step::Rest { rest, until: Some(*until) })
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::converge::{Authority, next};

    #[test]
    fn a_guest_waits_for_its_turn_and_no_longer_than_it_may() {
        let mut s = crate::converge::tests::running();
        let until = s.now + SignedDuration::from_secs(300);
        s.starts_after = Some(("db".parse().unwrap(), until));
        assert_eq!(next(&s).rest(), Some(&Rest::Running), "it runs, and goes on");
        s.machine = None;
        let Step::Rest { rest: Rest::Waiting(why), until: Some(at) } = next(&s) else {
            panic!("{:?}", next(&s))
        };
        assert_eq!((why.as_str(), at), ("it starts after db, which does not run yet", until));
        s.now = until;
        assert_eq!(next(&s), Step::ClaimAlone);
        // What is more urgent is said first, and what needs no turn does not wait.
        s.now = until - SignedDuration::from_secs(1);
        s.authority = Authority::None;
        assert_eq!(next(&s).rest(), Some(&Rest::Waiting("the host's session is over".into())));
        s.spec.power = model::PowerWish::Stopped;
        assert_eq!(next(&s).rest(), Some(&Rest::Stopped));
    }
}
