//! Virtual machines on QEMU.
//!
//! Each machine is a process of its own, in a session of its own: it outlives this daemon. What is needed to
//! adopt it stands in `<run dir>/guests/<guest id>/`: its label, and the sockets of QMP, of its serial port
//! and of its guest agent. Its logs stand in `<state dir>/guests/<guest id>/`, and outlive it.
//!
//! ```text
//!     driver ── launch, adopt ──► machine ── commands ──► qmp ──► QEMU
//!       │                            ├── mirror           (how a volume's writes go to a second host)
//!       ├── command (arguments)      │    ├── changes     (records of what a secondary may lack)
//!       │                            │    ├── resync      (sends it that)
//!       │                            │    └── doubt       (which of them failed)
//!       │                            ├── migration        (moving the guest while it runs)
//!       │                            │    └── handover    (the moment at which it changes its host)
//!       │                            ├── agent            (programs inside the guest)
//!       │                            └── health           (what its disks do and its screen shows)
//!       ├── last_moments (what it showed last before it was reset)
//!       ├── record  (the label)
//!       └── process (pidfds, /proc)
//! ```
//!
//! Nothing here decides whether a guest may run; the agent has settled that before it calls.

mod agent;
mod changes;
mod command;
mod doubt;
mod driver;
mod handover;
mod health;
mod last_moments;
mod machine;
mod migration;
mod mirror;
mod names;
pub(crate) mod process;
pub(crate) mod qmp;
mod record;
mod resync;
mod serial_log;
pub(crate) mod tls;

pub(crate) use command::qmp_chardev;
pub use driver::{QemuConfig, QemuDriver};
pub use last_moments::LastMoment;
pub use process::{ProcessId, RunAs};
pub use tls::TlsFiles;
