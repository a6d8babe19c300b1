//! Time since the host booted, its sleep included: `CLOCK_BOOTTIME`.

use std::time::Duration;

use nix::libc;

/// A moment of this boot, to the nanosecond. The same in all processes of a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(pub(super) u64);

impl BootTime {
    #[expect(
        unsafe_code,
        reason = "nix is built without its clocks, and one call is no reason to build it anew"
    )]
    pub fn now() -> BootTime {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a timespec of ours, which the call fills and does not keep. It cannot fail: the
        // clock exists since Linux 2.6.39.
        unsafe {
            libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time);
        }
        let (seconds, nanoseconds) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
        BootTime(seconds * 1_000_000_000 + nanoseconds)
    }

    #[must_use]
    pub fn after(self, length: Duration) -> BootTime {
        BootTime(self.0.saturating_add(nanoseconds(length)))
    }

    /// How long this is after `earlier`; nothing if it is before.
    pub fn since(self, earlier: BootTime) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

fn nanoseconds(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on() {
        let before = BootTime::now();
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let after = BootTime::now();
        assert!(after >= before && after.since(before) < Duration::from_secs(60));
        assert!((after.since(BootTime(0)).as_secs_f64() - uptime).abs() < 60.0);
        assert_eq!(before.after(Duration::from_secs(2)).since(before), Duration::from_secs(2));
        assert_eq!(before.since(after.after(Duration::from_secs(1))), Duration::ZERO);
    }
}
