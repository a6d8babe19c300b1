//! Ganeti's text format: what is read, what is refused, and that the score is Ganeti's.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod converting;
mod damage;
mod loads;
mod order;
mod reading;
mod referee;
mod sample;
mod scenarios;
mod writing;
