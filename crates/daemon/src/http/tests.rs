//! A client and a server, over real TLS on loopback addresses, on a store in memory.

mod access;
mod alerts;
mod fencing;
pub(crate) mod fixture;
mod guests;
mod machines;
mod measured;
mod page;
mod planner;
mod planning;
mod pools;
mod resources;
mod streams;
mod usage;
