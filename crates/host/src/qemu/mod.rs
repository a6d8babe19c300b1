//! Virtual machines on QEMU.
//!
//! Each machine is a process of its own, in a session of its own: it outlives this daemon. What is needed to
//! adopt it stands in `<run dir>/guests/<guest id>/`: its label, and the sockets of QMP, of its serial port
//! and of its guest agent. Its logs stand in `<state dir>/guests/<guest id>/`, and outlive it.
//!
//! ```text
//!     driver ── launch, adopt ──► machine ── commands ──► qmp ──► QEMU
//!       │                            ├── mirror           (how a volume's writes go to a second host)
//!       ├── command (arguments)      └── agent            (programs inside the guest)
//!       ├── record  (the label)
//!       └── process (pidfds, /proc)
//! ```
//!
//! Nothing here decides whether a guest may run; the agent has settled that before it calls.

mod agent;
mod command;
mod driver;
mod machine;
mod mirror;
mod names;
pub(crate) mod process;
pub(crate) mod qmp;
mod record;
mod serial_log;

pub(crate) use command::qmp_chardev;
pub use driver::{QemuConfig, QemuDriver};
pub use process::RunAs;
