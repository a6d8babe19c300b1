//! What if: a whole cluster in one process on a virtual clock, struck by faults that a seed draws.
//!
//! What decides is the real code: `plan::decide` with `plan::recover`, `plan::converge`, `plan::job` with its moves and
//! drains. What carries it out is modelled act by act ([`acts`], [`keeper`], [`leader`], [`daemon`]), in the order in
//! which the daemon does it, because the daemon's own code is bound to a runtime, to sockets and to QEMU; between any two
//! acts a fault may strike. Hosts, disks down to single writes, links and the store are in [`world`], [`disk`],
//! [`network`], [`store`] and [`request`]. [`books`] says what must always hold. See docs/simulation.md.
//!
//! ```text
//!   Schedule (seed) ──▶ World ── events by time ──▶ Ran: what was broken, or nothing
//!        ▲                                            │
//!        └──────────────── shrink ◀───────────────────┘
//! ```

pub mod acts;
pub mod books;
mod bounds;
pub mod daemon;
pub mod device;
pub mod disk;
pub mod fault;
pub mod fencing;
pub mod fill;
pub mod guest;
pub mod handover;
pub mod keeper;
pub mod leader;
pub mod machine;
pub mod mutant;
pub mod names;
pub mod network;
mod operator;
pub mod pulse;
pub mod request;
pub mod rng;
pub mod run;
pub mod say;
pub mod shared;
pub mod store;
mod storm;
pub mod strike;
pub mod watchdog;
pub mod world;

pub use fault::Schedule;
pub use mutant::Mutant;
pub use run::{Ran, Sums, run, run_for_aim, shrink};
