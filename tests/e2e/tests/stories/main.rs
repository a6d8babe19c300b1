//! Stories on labs, told through the `kennel` command as its user would. Labs mostly wait, so several are up at a time.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod balancing;
mod fencing;
mod healing;
mod health;
mod migrating;
mod moving;
mod ordering;
mod refusals;
mod resync;
mod sharing;
mod story;
mod survival;
mod thin;
mod torture;
mod verify;
mod volumes;
mod watchdog;
