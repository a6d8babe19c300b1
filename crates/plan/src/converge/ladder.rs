//! What to do about a guest whose memory does not come to an end.
//!
//! QEMU sends all memory once, then what changed meanwhile, and so on, and stops the guest when the rest would take
//! no longer than the downtime limit. The limit begins low, so that a quiet guest hardly stands still, and is
//! doubled every other round up to what the operator allows. A guest that changes its memory faster than it can be
//! sent stays where it is, with the numbers; unless it may be slowed down (QEMU's auto-converge, which gets more
//! rounds), or may run on the other host before its memory is there.

use model::{Bytes, MoveOptions};

use super::Sending;

/// The downtime limit of the first rounds, milliseconds.
pub const FIRST_DOWNTIME_MS: u64 = 50;

/// How long a guest may stand still if nobody says anything else, milliseconds.
pub const MAX_DOWNTIME_MS: u64 = 500;

/// Rounds at the same limit.
const ROUNDS_EACH: u64 = 2;

/// All of memory has been sent by then, and what changed meanwhile, too.
const POST_COPY_AFTER_ROUNDS: u64 = 3;

const ROUNDS_MAX: u64 = 30;

/// Auto-converge takes ten percent more of the processors' time each round or two.
const ROUNDS_MAX_SLOWED: u64 = 90;

/// What is to be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rung {
    Stay,
    /// Let it stand still for so many milliseconds.
    Downtime(u64),
    PostCopy,
    /// One sentence without a full stop.
    GiveUp(String),
}

pub fn next(options: &MoveOptions, sending: &Sending) -> Rung {
    let max = options.max_downtime_ms.map_or(MAX_DOWNTIME_MS, u64::from);
    let round = sending.iteration;
    if options.post_copy && round >= POST_COPY_AFTER_ROUNDS && !sending.post_copy {
        return Rung::PostCopy;
    }
    let rounds_max = if options.auto_converge { ROUNDS_MAX_SLOWED } else { ROUNDS_MAX };
    if round > rounds_max && !sending.post_copy {
        return Rung::GiveUp(does_not_converge(options, sending, max));
    }
    let limit = limit_of(round, max);
    if limit > sending.downtime_limit_ms { Rung::Downtime(limit) } else { Rung::Stay }
}

/// The limit with which a guest is sent at first.
pub fn first(options: &MoveOptions) -> u64 {
    limit_of(0, options.max_downtime_ms.map_or(MAX_DOWNTIME_MS, u64::from))
}

fn limit_of(round: u64, max: u64) -> u64 {
    let doublings = u32::try_from(round.saturating_sub(ROUNDS_EACH) / ROUNDS_EACH).unwrap_or(u32::MAX);
    FIRST_DOWNTIME_MS.saturating_mul(2u64.saturating_pow(doublings)).min(max)
}

fn does_not_converge(options: &MoveOptions, sending: &Sending, max: u64) -> String {
    let mut ways = vec!["a longer `--max-downtime`"];
    if !options.auto_converge {
        ways.push("`--auto-converge`, which slows it down");
    }
    if !options.post_copy {
        ways.push("`--post-copy`");
    }
    format!(
        "it changes {}/s of its memory, and {}/s get across: {} are left after {} rounds, more than can be sent \
         while it stands still for {max} ms; try {}",
        Bytes(sending.dirty_rate),
        Bytes(sending.throughput),
        Bytes(sending.remaining),
        sending.iteration,
        ways.join(", or ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::converge::SendPhase;

    fn sending(iteration: u64, downtime_limit_ms: u64) -> Sending {
        Sending {
            phase: SendPhase::Memory,
            iteration,
            remaining: 300 << 20,
            dirty_rate: 200 << 20,
            throughput: 100 << 20,
            downtime_limit_ms,
            post_copy: false,
        }
    }

    #[test]
    fn the_limit_grows_with_the_rounds_up_to_what_is_allowed() {
        let options = MoveOptions::default();
        assert_eq!(next(&options, &sending(1, 50)), Rung::Stay);
        assert_eq!(next(&options, &sending(3, 50)), Rung::Stay);
        assert_eq!(next(&options, &sending(4, 50)), Rung::Downtime(100));
        assert_eq!(next(&options, &sending(6, 100)), Rung::Downtime(200));
        assert_eq!(next(&options, &sending(20, 400)), Rung::Downtime(500));
        assert_eq!(next(&options, &sending(29, 500)), Rung::Stay);
        let little = MoveOptions { max_downtime_ms: Some(20), ..options };
        assert_eq!((first(&options), first(&little)), (50, 20));
        assert_eq!(next(&little, &sending(29, 20)), Rung::Stay);
    }

    #[test]
    fn a_guest_that_is_too_quick_stays_and_the_numbers_say_why() {
        let Rung::GiveUp(why) = next(&MoveOptions::default(), &sending(31, 500)) else {
            panic!("it goes on")
        };
        assert_eq!(
            why,
            "it changes 200M/s of its memory, and 100M/s get across: 300M are left after 31 rounds, more than \
             can be sent while it stands still for 500 ms; try a longer `--max-downtime`, or \
             `--auto-converge`, which slows it down, or `--post-copy`"
        );
        let slowed = MoveOptions { auto_converge: true, ..MoveOptions::default() };
        assert_eq!(next(&slowed, &sending(31, 500)), Rung::Stay);
        assert!(matches!(next(&slowed, &sending(91, 500)), Rung::GiveUp(_)));
    }

    #[test]
    fn post_copy_begins_when_all_of_memory_has_been_sent_once() {
        let options = MoveOptions { post_copy: true, ..MoveOptions::default() };
        assert_eq!(next(&options, &sending(2, 50)), Rung::Stay);
        assert_eq!(next(&options, &sending(3, 50)), Rung::PostCopy);
        assert_eq!(next(&options, &Sending { post_copy: true, ..sending(99, 500) }), Rung::Stay);
    }
}
