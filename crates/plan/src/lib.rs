//! What to do: pure functions from what exists to what should be done next.
//!
//! Nothing here does I/O, reads a clock or draws a random number, and nothing here fails: not being able to
//! place a guest is a result, with a reason for each host.
//!
//! - [`place`]: where a new guest goes.
//! - [`decide`]: what the leader changes, looking at everything; deciding again with nothing new changes
//!   nothing.
//! - [`converge`]: the next step that one host takes for one guest.
//! - [`job`]: how far a job is.

pub mod converge;
pub mod decide;
pub mod job;
pub mod layout;
pub mod limits;
pub mod place;
mod room;
pub mod snapshot;

#[cfg(test)]
mod fixture;
