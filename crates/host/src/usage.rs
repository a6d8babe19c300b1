//! What this host and its guests use of processors, memory, disk and network.
//!
//! A [`Meter`] reads counters that only grow; two readings and the time between them make a [`Sample`]. Nothing
//! here averages or remembers more than that.
//!
//! A guest is its QEMU process: processor time of all its threads and resident memory from `/proc/PID/stat`; disk
//! traffic from `/proc/PID/io`, where `read_bytes` and `write_bytes` are what the storage had to do, whereas
//! `rchar` and `wchar` would count the packets of TAP interfaces and reads that the page cache answered; network
//! traffic from its TAP interfaces. What the kernel does for a guest in threads of its own is the host's.
//!
//! The host is all processors but idle, all memory that is not available, the disk that holds the volumes and the
//! interfaces that carry guests and replicas. When this daemon sees only a part of the machine (it lives in a PID
//! namespace, as a lab host does) the machine's numbers are not the host's: then processors, memory and disk are
//! the sums over all processes that are seen here. What an ended process used, the kernel adds to whoever waited
//! for it, which is in the sum; so the sum grows like a counter.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use model::{Bytes, GuestId, Usage};
use nix::unistd::{SysconfVar, sysconf};

use crate::HostError;
use crate::network::tap_name;

/// The inode of the PID namespace that a machine boots with (`PROC_PID_INIT_INO` in Linux's
/// include/uapi/linux/nsfs.h).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Bytes of a sector in `/proc/diskstats`, whatever the device's own are.
const SECTOR: u64 = 512;

/// One run of one guest's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestProcess {
    pub guest: GuestId,
    pub pid: u32,
}

/// What was used since some moment (the boot of a host, the start of a guest's process), and the memory that is in
/// use now.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counters {
    /// Seconds of one core.
    pub cpu_s: f64,
    /// Bytes.
    pub memory: u64,
    /// Bytes that were read and written.
    pub disk: u64,
    /// Bytes that came in and went out.
    pub network: u64,
}

/// Everything that was read at one moment.
#[derive(Debug, Clone)]
pub struct Reading {
    at: Instant,
    total: Counters,
    /// With when the process started, which tells it from another one of the same number.
    guests: BTreeMap<GuestId, (u64, Counters)>,
}

/// What was used between two readings: rates as means, memory as it was at the end.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub span: Duration,
    pub total: Usage,
    /// Guests that were there at both readings.
    pub guests: BTreeMap<GuestId, Usage>,
}

/// Reads this host's counters.
#[derive(Debug, Clone)]
pub struct Meter {
    /// Whether this is a whole machine and not a namespace on one.
    whole: bool,
    /// Holds the volumes.
    folder: PathBuf,
    address: IpAddr,
    uplinks: BTreeSet<String>,
    ticks_per_s: f64,
    page: u64,
}

/// What `/proc/PID/stat` and `/proc/PID/io` say of one process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Process {
    started: u64,
    /// Of its own threads, in clock ticks.
    ticks: u64,
    /// Of the children that it waited for.
    children_ticks: u64,
    /// Pages.
    resident: u64,
    disk: u64,
}

impl Meter {
    /// `folder` holds the volumes; other hosts reach this one at `address`, and its guests' networks leave it
    /// through `uplinks`.
    pub fn new(
        folder: &Path,
        address: IpAddr,
        uplinks: impl IntoIterator<Item = String>,
    ) -> Result<Meter, HostError> {
        let setting = |variable, what: &str| match sysconf(variable) {
            Ok(Some(value)) if value > 0 => Ok(value.unsigned_abs()),
            Ok(_) | Err(_) => Err(HostError::Failed(format!("the kernel does not say {what}"))),
        };
        let namespace = std::fs::read_link("/proc/self/ns/pid").map_err(|error| {
            HostError::Failed(format!("cannot find out which processes are seen here: {error}"))
        })?;
        Ok(Meter {
            whole: namespace.as_os_str() == FIRST_PID_NAMESPACE,
            folder: folder.to_owned(),
            address,
            uplinks: uplinks.into_iter().collect(),
            ticks_per_s: setting(SysconfVar::CLK_TCK, "how long a clock tick is")? as f64,
            page: setting(SysconfVar::PAGE_SIZE, "how large a page is")?,
        })
    }

    /// Reads all counters. A guest whose process is gone is not in the answer. Blocks for a millisecond or so.
    pub fn read(&self, guests: &[GuestProcess]) -> Result<Reading, HostError> {
        let table = read("/proc/net/dev")?;
        let network = traffic(&table);
        let mut found = BTreeMap::new();
        for guest in guests {
            let Some(process) = Process::of(guest.pid) else { continue };
            let mut counters = self.counters(&process, process.ticks);
            counters.network = of_guest(&network, guest.guest);
            found.insert(guest.guest, (process.started, counters));
        }
        let mut total = if self.whole { self.machine()? } else { self.namespace()? };
        let mut interfaces = self.uplinks.clone();
        interfaces.extend(interface_of(self.address));
        total.network = interfaces.iter().filter_map(|name| network.get(name.as_str())).sum();
        Ok(Reading { at: Instant::now(), total, guests: found })
    }

    fn counters(&self, process: &Process, ticks: u64) -> Counters {
        Counters {
            cpu_s: ticks as f64 / self.ticks_per_s,
            memory: process.resident * self.page,
            disk: process.disk,
            network: 0,
        }
    }

    fn machine(&self) -> Result<Counters, HostError> {
        let ticks = busy_ticks(&read("/proc/stat")?)
            .ok_or_else(|| HostError::Failed("/proc/stat does not say what the processors did".to_owned()))?;
        let memory = memory_used(&read("/proc/meminfo")?)
            .ok_or_else(|| HostError::Failed("/proc/meminfo does not say what is available".to_owned()))?;
        let disk = match self.device_traffic()? {
            Some(bytes) => bytes,
            // A file system over several devices, such as btrfs or ZFS: what processes had it do.
            None => processes().map(|process| process.disk).sum(),
        };
        Ok(Counters { cpu_s: ticks as f64 / self.ticks_per_s, memory, disk, network: 0 })
    }

    fn namespace(&self) -> Result<Counters, HostError> {
        let mut sum = Counters::default();
        for process in processes() {
            let counters = self.counters(&process, process.ticks + process.children_ticks);
            sum.cpu_s += counters.cpu_s;
            sum.memory += counters.memory;
            sum.disk += counters.disk;
        }
        Ok(sum)
    }

    /// Of the device that holds the volumes. `None`: their file system is not on one device.
    fn device_traffic(&self) -> Result<Option<u64>, HostError> {
        let stat = nix::sys::stat::stat(&self.folder).map_err(|error| {
            HostError::Failed(format!("cannot look at the folder {}: {error}", self.folder.display()))
        })?;
        let device = (nix::sys::stat::major(stat.st_dev), nix::sys::stat::minor(stat.st_dev));
        Ok(sectors(&read("/proc/diskstats")?, device).map(|sectors| sectors * SECTOR))
    }
}

impl Reading {
    /// Of the whole host, its guests included.
    pub fn total(&self) -> Counters {
        self.total
    }

    /// Of a guest that runs here, since its process was started.
    pub fn of(&self, guest: GuestId) -> Option<Counters> {
        self.guests.get(&guest).map(|(_, counters)| *counters)
    }

    /// One with these numbers, for tests of those who read it.
    pub fn of_counters(total: Counters, guests: impl IntoIterator<Item = (GuestId, Counters)>) -> Reading {
        let guests = guests.into_iter().map(|(guest, counters)| (guest, (0, counters)));
        Reading { at: Instant::now(), total, guests: guests.collect() }
    }

    /// What was used since an earlier reading.
    pub fn since(&self, earlier: &Reading) -> Sample {
        let span = self.at.saturating_duration_since(earlier.at);
        let guests = self.guests.iter().filter_map(|(guest, (started, now))| {
            let (started_before, before) = earlier.guests.get(guest)?;
            // A guest that was started anew in between: all that its new process used, it used since.
            let before = if started == started_before { *before } else { Counters::default() };
            Some((*guest, now.since(&before, span)))
        });
        Sample { span, total: self.total.since(&earlier.total, span), guests: guests.collect() }
    }
}

impl Counters {
    fn since(&self, earlier: &Counters, span: Duration) -> Usage {
        let seconds = span.as_secs_f64();
        let rate = |grown: f64| if seconds > 0.0 { grown.max(0.0) / seconds } else { 0.0 };
        Usage {
            cpu: rate(self.cpu_s - earlier.cpu_s),
            memory: self.memory as f64,
            disk: rate(self.disk.saturating_sub(earlier.disk) as f64),
            network: rate(self.network.saturating_sub(earlier.network) as f64),
        }
    }
}

impl Process {
    /// None when there is no such process, or none that may be looked at.
    fn of(pid: u32) -> Option<Process> {
        let mut process = Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        // Not every kernel counts it.
        let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        process.disk = ["read_bytes: ", "write_bytes: "].iter().filter_map(|name| field(&io, name)).sum();
        Some(process)
    }

    /// Of proc_pid_stat(5): fields 14 to 17, 22 and 24. The second field, the name, may hold spaces and
    /// parentheses; the last closing one ends it.
    fn parse(stat: &str) -> Option<Process> {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        // The first one here is field 3.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Process {
            started: number(22)?,
            ticks: number(14)? + number(15)?,
            // Signed in the manual, and never below zero.
            children_ticks: number(16).unwrap_or(0) + number(17).unwrap_or(0),
            resident: number(24)?,
            disk: 0,
        })
    }
}

/// Every process that is seen here.
fn processes() -> impl Iterator<Item = Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Process::of(entry.file_name().to_str()?.parse().ok()?))
}

/// The number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

/// Clock ticks that the processors worked: user, nice, system, irq and softirq. Neither idle nor waiting for
/// disks, nor what a hypervisor below took away; guests' time is within user.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let numbers: Vec<u64> = line.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
    [0, 1, 2, 5, 6].into_iter().map(|at| numbers.get(at).copied()).sum()
}

/// Bytes.
fn memory_used(meminfo: &str) -> Option<u64> {
    let total = field(meminfo, "MemTotal:")?;
    Some(total.saturating_sub(field(meminfo, "MemAvailable:")?) * Bytes::KIB)
}

/// Sectors that a device, by its two numbers, read and wrote.
fn sectors(diskstats: &str, (major, minor): (u64, u64)) -> Option<u64> {
    diskstats.lines().find_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let number = |at: usize| words.get(at)?.parse::<u64>().ok();
        (number(0)? == major && number(1)? == minor).then(|| Some(number(5)? + number(9)?))?
    })
}

/// Bytes that each interface received and sent, from `/proc/net/dev`.
fn traffic(dev: &str) -> BTreeMap<&str, u64> {
    let of_line = |line: &'_ str| -> Option<u64> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        Some(words.first()?.parse::<u64>().ok()? + words.get(8)?.parse::<u64>().ok()?)
    };
    let lines = dev.lines().filter_map(|line| line.split_once(':'));
    lines.filter_map(|(name, numbers)| Some((name.trim(), of_line(numbers)?))).collect()
}

/// Of all network cards of a guest.
fn of_guest(traffic: &BTreeMap<&str, u64>, guest: GuestId) -> u64 {
    let taps = (0..).map(|index| traffic.get(tap_name(guest, index).as_str()).copied());
    taps.map_while(|bytes| bytes).sum()
}

/// The interface that carries an address. Not a bridge: what passes it passes one of its ports too, and the port
/// that leaves the host is an uplink.
fn interface_of(address: IpAddr) -> Option<String> {
    let carries = |interface: &nix::ifaddrs::InterfaceAddress| {
        let storage = interface.address.as_ref();
        let v4 = storage.and_then(|s| s.as_sockaddr_in()).map(|s| IpAddr::from(s.ip()));
        let v6 = storage.and_then(|s| s.as_sockaddr_in6()).map(|s| IpAddr::from(s.ip()));
        v4.or(v6) == Some(address)
    };
    let name = nix::ifaddrs::getifaddrs().ok()?.find(carries)?.interface_name;
    let bridge = Path::new("/sys/class/net").join(&name).join("bridge").is_dir();
    (!bridge).then_some(name)
}

fn read(path: &str) -> Result<String, HostError> {
    std::fs::read_to_string(path).map_err(|error| HostError::Failed(format!("cannot read {path}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "0191e0a0-0000-7000-8000-000012345678";

    fn meter() -> Meter {
        Meter::new(Path::new("/"), "127.0.0.1".parse().unwrap(), []).unwrap()
    }

    fn own() -> GuestProcess {
        GuestProcess { guest: OWN.parse().unwrap(), pid: std::process::id() }
    }

    /// Uses a processor until so much of it has been used.
    fn burn(pid: u32, ticks: u64) {
        let before = Process::of(pid).unwrap().ticks;
        while Process::of(pid).unwrap().ticks < before + ticks {
            std::hint::black_box((0..10_000u64).sum::<u64>());
        }
    }

    #[test]
    fn the_kernels_tables_are_understood() {
        let stat = "7 (q (e) mu) S 1 7 7 0 -1 64 1 2 3 4 500 60 7 8 20 0 9 0 4711 123456 789 184 1 1 0";
        let process = Process::parse(stat).unwrap();
        let expected =
            Process { started: 4711, ticks: 560, children_ticks: 15, resident: 789, ..Process::default() };
        assert_eq!(process, expected);
        assert_eq!(Process::parse("7 (q"), None);
        assert_eq!(busy_ticks("cpu  1 2 4 1000 2000 8 16 9000 1 0\ncpu0 1 1 1"), Some(31));
        assert_eq!(busy_ticks("intr 1"), None);
        assert_eq!(memory_used("MemTotal:  100 kB\nMemFree: 1 kB\nMemAvailable:  40 kB\n"), Some(60 * 1024));
        let disks = "   8       0 sda 1 2 300 4 5 6 70 8 0 9 10\n   8       1 sda1 1 2 3 4 5 6 7 8 0 9 10\n";
        assert_eq!(sectors(disks, (8, 0)), Some(370));
        assert_eq!(sectors(disks, (8, 2)), None);
    }

    #[test]
    fn a_guests_network_cards_are_told_from_others() {
        let dev = "Inter-|   Receive                                 |  Transmit\n face |bytes packets\n\
                   ktap12345678n0: 100 1 0 0 0 0 0 0 10 1 0 0 0 0 0 0\n\
                   ktap12345678n1:   5 1 0 0 0 0 0 0  2 1 0 0 0 0 0 0\n\
                   ktap99999999n0:   9 1 0 0 0 0 0 0  9 1 0 0 0 0 0 0\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n";
        assert_eq!(of_guest(&traffic(dev), OWN.parse().unwrap()), 117);
    }

    #[test]
    fn a_busy_process_is_seen_and_an_idle_one_is_not() {
        let mut sleeper = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let idle = GuestProcess {
            guest: "0191e0a0-0000-7000-8000-000000000001".parse().unwrap(),
            pid: sleeper.id(),
        };
        let meter = meter();
        let first = meter.read(&[own(), idle]).unwrap();
        burn(own().pid, 20);
        let sample = meter.read(&[own(), idle]).unwrap().since(&first);
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        let used = sample.guests[&own().guest].cpu * sample.span.as_secs_f64();
        assert!((0.19..5.0).contains(&used), "{used} seconds of {sample:?}");
        assert!(sample.guests[&own().guest].memory > 1e6);
        assert!(sample.guests[&idle.guest].cpu < 0.05);
        assert!(sample.total.cpu >= sample.guests[&own().guest].cpu * 0.9, "{sample:?}");
    }

    #[test]
    fn a_namespaces_sum_keeps_what_ended_processes_used() {
        let meter = Meter { whole: false, ..meter() };
        let first = meter.read(&[]).unwrap();
        let mut child = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let pid = child.id();
        while Process::of(pid).unwrap().ticks < 20 {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let sample = meter.read(&[]).unwrap().since(&first);
        assert!(sample.total.cpu * sample.span.as_secs_f64() >= 0.2, "{sample:?}");
    }

    #[test]
    fn disk_writes_are_the_storages() {
        let folder = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
        let meter = meter();
        let first = meter.read(&[own()]).unwrap();
        let file = folder.path().join("data");
        std::fs::write(&file, vec![1; 8 << 20]).unwrap();
        std::fs::File::open(&file).unwrap().sync_all().unwrap();
        let sample = meter.read(&[own()]).unwrap().since(&first);
        let written = sample.guests[&own().guest].disk * sample.span.as_secs_f64();
        assert!(written >= f64::from(8 << 20), "{written} bytes of {sample:?}");
    }

    #[test]
    fn a_guest_that_was_started_anew_counts_from_nothing() {
        let guest = own().guest;
        let at = Instant::now();
        let used = |cpu_s| Counters { cpu_s, ..Counters::default() };
        let reading = |seconds, started, cpu_s| Reading {
            at: at + Duration::from_secs(seconds),
            total: Counters::default(),
            guests: [(guest, (started, used(cpu_s)))].into(),
        };
        let first = reading(0, 1, 100.0);
        assert!((reading(5, 1, 101.0).since(&first).guests[&guest].cpu - 0.2).abs() < 1e-9);
        assert!((reading(5, 2, 2.0).since(&first).guests[&guest].cpu - 0.4).abs() < 1e-9);
        let arrived = Reading { guests: BTreeMap::new(), ..first };
        assert!(reading(5, 1, 101.0).since(&arrived).guests.is_empty(), "it is measured from now on");
    }

    #[test]
    fn looking_at_twenty_guests_costs_next_to_nothing() {
        const EVERY_S: f64 = 5.0;
        const ROUNDS: u32 = 50;
        let guests: Vec<GuestProcess> = (0..20)
            .map(|n| GuestProcess { guest: GuestId(uuid::Uuid::from_u128(n)), pid: std::process::id() })
            .collect();
        let meter = meter();
        let begin = Instant::now();
        for _ in 0..ROUNDS {
            meter.read(&guests).unwrap();
        }
        let share = begin.elapsed().as_secs_f64() / f64::from(ROUNDS) / EVERY_S;
        eprintln!("{:.4} % of a core", share * 100.0);
        // Ten times what it may be: the machine of a test is busy with other tests.
        assert!(share < 0.02, "{share} of a core");
    }
}
