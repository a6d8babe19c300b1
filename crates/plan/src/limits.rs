//! Limits and time-outs of the ownership protocol, and how they relate.

use std::time::Duration;

/// How long a host's session outlives its last renewal in the store.
pub const SESSION_TTL: Duration = Duration::from_secs(5);

/// How often a session is renewed: several tries fit into a session.
pub const RENEW_EVERY: Duration = Duration::from_millis(1000);

/// An agent counts its session as over this long after it *sent* the last renewal that was confirmed. The
/// store counts from when it received it, which is later: what the agent ends then is gone before anybody
/// else acts on the end of the session.
pub const AUTHORITY: Duration = Duration::from_millis(4000);

/// After this much longer, the watchdog ends what an agent has not ended: enough for one question to the secondary's host,
/// which may confirm the epoch at the last moment, and still before the session's end in the store.
pub const WATCHDOG_GRACE: Duration = Duration::from_millis(900);

/// How long a machine may run, for the watchdog, after its secondary's host was asked for a promise that it gave. An
/// agent ends it earlier. One that is in the middle of a step asks anew only after it, and nobody can start the guest
/// elsewhere while the store is down, which is when promises are asked for.
pub const WATCHDOG_CONFIRMED: Duration = Duration::from_millis(8000);

/// When an agent begins to ask the secondaries' hosts to confirm its epochs.
pub const CONFIRM_AFTER: Duration = Duration::from_millis(2000);

/// How often it asks, and how long one answer may take.
pub const CONFIRM_EVERY: Duration = Duration::from_millis(700);

/// How long a secondary's host promises not to start the guest, counted by each side from its own clock: by
/// the owner from when it asked, by the other from when it answered, which is later.
pub const PROMISE: Duration = Duration::from_millis(3000);

/// What the owner takes off a promise, for a clock that runs slower than the other's.
pub const PROMISE_MARGIN: Duration = Duration::from_millis(300);

/// How long writes may wait for a secondary whose host is live but whose replica is not to be reached.
pub const HOLD_MAX: Duration = Duration::from_secs(5);

/// From when on a person is told that writes wait.
pub const HOLD_SHOWN_AFTER: Duration = Duration::from_secs(2);

/// Between two looks at a replica server.
pub const PROBE_EVERY: Duration = Duration::from_millis(1000);

/// When others may conclude that the hardware watchdog of a host has reset it: so many of its time-outs, and so long,
/// after the host had no session. A watchdog that stood still right before it fed may feed once more; what remains is
/// for devices that are slow and clocks that are not the same.
pub const RESET_TIMEOUTS: u32 = 2;
pub const RESET_MARGIN: Duration = Duration::from_secs(5);

/// Between two tries at something that failed, growing from the first to the second.
pub const RETRY_FIRST: Duration = Duration::from_secs(1);
pub const RETRY_MAX: Duration = Duration::from_secs(60);

const _: () =
    assert!(AUTHORITY.as_millis() < SESSION_TTL.as_millis(), "the owner ends before its session does");
const _: () = assert!(
    AUTHORITY.as_millis() + WATCHDOG_GRACE.as_millis() < SESSION_TTL.as_millis(),
    "the watchdog ends a guest before its host's session ends"
);
const _: () =
    assert!(WATCHDOG_GRACE.as_millis() > CONFIRM_EVERY.as_millis(), "the last question is answered in time");
const _: () = assert!(
    WATCHDOG_CONFIRMED.as_millis() > PROMISE.as_millis() + AUTHORITY.as_millis() + CONFIRM_EVERY.as_millis(),
    "a step that goes on for as long as it may does not end the guest"
);
const _: () =
    assert!(AUTHORITY.as_millis() >= 3 * RENEW_EVERY.as_millis(), "two renewals may be lost without harm");
const _: () = assert!(
    CONFIRM_AFTER.as_millis() + 2 * CONFIRM_EVERY.as_millis() < AUTHORITY.as_millis(),
    "a confirmation arrives before authority ends, even at the second try"
);
const _: () = assert!(
    PROMISE.as_millis() > 2 * CONFIRM_EVERY.as_millis() + PROMISE_MARGIN.as_millis(),
    "one lost confirmation does not end a guest"
);
const _: () = assert!(HOLD_MAX.as_millis() > 3 * PROBE_EVERY.as_millis(), "one lost probe lets nobody go");
