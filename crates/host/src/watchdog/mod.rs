//! The watchdog: a small process beside kenneld that ends what must not outlive this host's session.
//!
//! kenneld ends a guest by itself when its right to run it is over (`plan::converge`). A kenneld that hangs, is stopped,
//! or waits for the disk that it was swapped out to, does not. So it writes down beforehand, in a page of memory that
//! both have mapped, until when each machine may run, and renews that with its session. The process `kennel-watchdog`
//! (`run`) looks at the page and kills what is overdue. It is locked in memory, does nothing else, and outlives
//! kenneld.
//!
//! ```text
//!   kenneld ── Guard ──▶ page (a file in the run directory, mapped by both) ──▶ kennel-watchdog ── SIGKILL ──▶ QEMU
//!      │                    ◀── when it looked last, what it has killed ──         │
//!      └── watches it by its pidfd, and starts another                             └── feeds /dev/watchdog, if there is one
//! ```
//!
//! A machine's deadline is the later one of the session's and its own (which grows with each promise of the secondary's
//! host); a machine of which nobody else holds a copy has none. Times are those of `CLOCK_BOOTTIME`: a host that
//! slept has not stood still.
//!
//! # Who dies when
//!
//! - kenneld: the page stays. What is overdue is killed; what is not goes on, and the next kenneld finds page, watchdog
//!   and what is left of the session's right ([`Guard::renewed`]). A restart within that time ends nothing.
//! - The watchdog: the page stays. kenneld hears of it at once through its pidfd, starts another, and says so. The lock
//!   on the page lets only one in.
//! - Both: nothing ends the guests until one is back, but the hardware: a device that nobody feeds resets the host.
//! - A machine: its pidfd says so. A process with its number that started at another time is never touched.
//!
//! # The device
//!
//! With a device (`device`) the watchdog feeds it for as long as nothing is overdue that could not be ended. So a
//! machine that hangs in the kernel, a watchdog that gets no processor and a kernel that stands still all end in a reset.
//! How much others may conclude from that stands in docs/decisions/0033.

mod clock;
mod device;
mod guard;
mod page;
mod run;

pub use clock::BootTime;
pub use device::{DeviceState, HardwareDevice};
pub use guard::{Found, Guard, Health, Program, Slot, Until, Watcher, Wish};
pub use run::{Arguments, EXIT_NOT_ALONE, main};

pub use crate::qemu::ProcessId;
