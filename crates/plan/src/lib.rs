//! What to do: pure functions from what exists to what should be done next.
//!
//! Nothing here does I/O, reads a clock or draws a random number, and nothing here fails: not being able to
//! place a guest is a result, with a reason for each host.
//!
//! - [`inventory`]: the live cluster as numbers, [`rules`]: what binds its guests, [`dump`]: all of it in a file.
//! - [`place`]: where a new guest goes.
//! - [`incident`]: what went wrong, as one story each; [`alert`]: who is still to be told of it.
//! - [`proposal`], [`drain`]: the moves that balance the load, and those that empty a host; [`why`]: the reasons.
//! - [`decide`]: what the leader changes, looking at everything; deciding again with nothing new changes
//!   nothing.
//! - [`storm`]: whether so many hosts vanished at once that recovery is to go slowly.
//! - [`recover`], [`order`]: where lost guests come back, all at once, and who starts before whom.
//! - [`fence`]: what proves that a lost host runs a guest no more.
//! - [`capacity`]: how many guests still fit, what each loss would do, and whether the cluster's promise holds.
//! - [`reboot`]: which hosts may be rebooted together.
//! - [`compat`]: whether a guest that runs on one host can go on on another.
//! - [`converge`]: the next step that one host takes for one guest.
//! - [`heal`]: which guests get a new secondary because they have long had one replica.
//! - [`htools`]: Ganeti's text format.
//! - [`job`]: how far a job is.
//! - [`layout`]: who is where, what that leaves, and why a guest may not go somewhere.
//! - [`objective`], [`search`]: what a good layout is, and the way to a better one.
//! - [`together`]: guests that restart when another one was restarted after a failure.
//! - [`usage`]: averages of what is measured.
//! - [`verify`]: which volume's replicas are compared next.

pub mod alert;
pub mod capacity;
pub mod compat;
pub mod converge;
pub mod decide;
pub mod drain;
pub mod dump;
pub mod fence;
pub mod heal;
pub mod health;
pub mod htools;
pub mod incident;
pub mod inventory;
pub mod job;
pub mod layout;
pub mod limits;
pub mod objective;
pub mod order;
pub mod place;
pub mod proposal;
pub mod reboot;
pub mod recover;
pub mod rules;
mod scene;
pub mod search;
pub mod snapshot;
pub mod storm;
pub mod together;
pub mod usage;
pub mod verify;
pub mod why;

#[cfg(test)]
mod fixture;
