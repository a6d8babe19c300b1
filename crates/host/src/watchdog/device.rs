//! `/dev/watchdog`: hardware that resets the host unless somebody writes to it every few seconds
//! (Documentation/watchdog/watchdog-api.rst of the kernel).
//!
//! Opening it arms it. Closing it without the magic byte leaves it armed, so the watchdog's death does not disarm it.
//!
//! What it proves to others: that a host which does not feed it any more is reset within its time-out. The kernel's own
//! imitation (softdog) proves nothing, for it stands still with its kernel; and neither does the device of a virtual
//! machine, which is paused together with it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;

use super::clock::BootTime;

/// Between two feeds at least. A time-out is ten of them or more by default.
const FEED_EVERY: Duration = Duration::from_secs(1);

/// Written before it is closed: from here on nobody has to feed it.
const MAGIC_CLOSE: &[u8] = b"V";

/// Anything else feeds it.
const FOOD: &[u8] = b"\0";

/// What the kernel's imitation calls itself.
const SOFTDOG: &str = "Software Watchdog";

/// What became of the device that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceState {
    /// None was asked for.
    None,
    Armed(HardwareDevice),
    /// It could not be opened, or takes no food; the watchdog's log says why.
    Failed,
}

/// A device that resets the host when it is not fed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HardwareDevice {
    /// As its driver calls it, as in `iTCO_wdt`.
    pub name: String,
    pub timeout_s: u32,
    /// Others may count on it.
    pub proves: bool,
}

/// An open, and so armed, device.
#[derive(Debug)]
pub struct Device {
    file: File,
    facts: HardwareDevice,
    fed_at: Option<BootTime>,
}

/// `struct watchdog_info` of linux/watchdog.h.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Info {
    _options: u32,
    _firmware_version: u32,
    identity: [u8; 32],
}

mod calls {
    use super::{Info, libc};

    nix::ioctl_read!(support, b'W', 0, Info);
    nix::ioctl_readwrite!(set_timeout, b'W', 6, libc::c_int);
    nix::ioctl_read!(timeout, b'W', 7, libc::c_int);
}

impl Device {
    /// Opens and arms it. The sentence says why that does not work.
    pub fn open(path: &Path, timeout_s: u32) -> Result<Device, String> {
        let say = |what: &str| format!("cannot use the watchdog device {}: {what}", path.display());
        let kind = std::fs::metadata(path).map_err(|error| say(&error.to_string()))?.file_type();
        if !kind.is_char_device() {
            return Err(say("it is no device; /dev/watchdog is the usual one"));
        }
        let options = File::options().write(true).custom_flags(libc::O_CLOEXEC).open(path);
        let file = options.map_err(|error| say(&error.to_string()))?;
        let name = identity(&file).map_err(|errno| say(&format!("it does not say what it is ({errno})")))?;
        let set = set_timeout(&file, timeout_s);
        let timeout_s = match (timeout(&file), set) {
            (Ok(timeout_s), _) | (Err(_), Ok(timeout_s)) => timeout_s,
            (Err(errno), Err(_)) => return Err(say(&format!("it does not say its time-out ({errno})"))),
        };
        let proves = name != SOFTDOG && !is_virtual();
        Ok(Device { file, facts: HardwareDevice { name, timeout_s, proves }, fed_at: None })
    }

    pub fn facts(&self) -> &HardwareDevice {
        &self.facts
    }

    /// Feeds it, unless that was done a moment ago.
    pub fn feed(&mut self, now: BootTime) -> io::Result<()> {
        if self.fed_at.is_some_and(|at| now.since(at) < FEED_EVERY) {
            return Ok(());
        }
        self.file.write_all(FOOD)?;
        self.fed_at = Some(now);
        Ok(())
    }

    /// Disarms it.
    pub fn let_go(mut self) -> io::Result<()> {
        self.file.write_all(MAGIC_CLOSE)
    }

    /// Something that takes food, in place of hardware.
    #[cfg(test)]
    pub fn over(file: File) -> Device {
        let facts = HardwareDevice { name: "a pipe".into(), timeout_s: 10, proves: true };
        Device { file, facts, fed_at: None }
    }
}

#[expect(unsafe_code, reason = "the kernel's calls on devices have no safe form")]
fn identity(file: &File) -> nix::Result<String> {
    let mut info = Info::default();
    // SAFETY: the call fills the structure, whose layout is the kernel's, and keeps no pointer to it.
    unsafe { calls::support(file.as_raw_fd(), &raw mut info) }?;
    let name = info.identity.iter().take_while(|byte| **byte != 0).copied().collect::<Vec<u8>>();
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// Answers the time-out that the device took in its place.
#[expect(unsafe_code, reason = "the kernel's calls on devices have no safe form")]
fn set_timeout(file: &File, timeout_s: u32) -> nix::Result<u32> {
    let mut seconds = libc::c_int::try_from(timeout_s).map_err(|_| Errno::ERANGE)?;
    // SAFETY: the call reads and writes one int of ours, and keeps no pointer to it.
    unsafe { calls::set_timeout(file.as_raw_fd(), &raw mut seconds) }?;
    u32::try_from(seconds).map_err(|_| Errno::ERANGE)
}

#[expect(unsafe_code, reason = "the kernel's calls on devices have no safe form")]
fn timeout(file: &File) -> nix::Result<u32> {
    let mut seconds: libc::c_int = 0;
    // SAFETY: the call writes one int of ours, and keeps no pointer to it.
    unsafe { calls::timeout(file.as_raw_fd(), &raw mut seconds) }?;
    u32::try_from(seconds).map_err(|_| Errno::ERANGE)
}

/// Whether this host is a virtual machine, for all that can be known; taken for one when nothing is.
fn is_virtual() -> bool {
    let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = processors.lines().find_map(|line| line.strip_prefix("flags"));
    flags.is_none_or(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_watchdog_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let refused = Device::open(&file, 10).unwrap_err();
        assert!(refused.contains("it is no device"), "{refused}");
        let refused = Device::open(Path::new("/dev/null"), 10).unwrap_err();
        assert!(refused.contains("does not say what it is"), "{refused}");
        assert!(Device::open(&folder.path().join("none"), 10).is_err());
    }

    #[test]
    fn it_is_fed_once_a_second_and_disarmed_by_the_magic_byte() {
        let folder = tempfile::tempdir().unwrap();
        let bowl = folder.path().join("bowl");
        let mut device = Device::over(File::create(&bowl).unwrap());
        let begin = BootTime::now();
        for tenths in 0..25 {
            device.feed(begin.after(Duration::from_millis(100 * tenths))).unwrap();
        }
        assert_eq!(std::fs::read(&bowl).unwrap(), [0, 0, 0]);
        device.let_go().unwrap();
        assert_eq!(std::fs::read(&bowl).unwrap(), b"\0\0\0V");
    }
}
