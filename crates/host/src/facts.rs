//! What this host is: numbers that do not change while it runs.

use std::collections::BTreeSet;
use std::path::Path;

use model::{BootId, Bytes, CpuLevel};
use nix::sys::statvfs::statvfs;
use sha2::{Digest, Sha256};

use crate::HostError;

/// Processors that this process may use.
pub fn cpus() -> u32 {
    std::thread::available_parallelism().ok().and_then(|n| u32::try_from(n.get()).ok()).unwrap_or(1)
}

/// All memory of the machine.
pub fn memory() -> Result<Bytes, HostError> {
    let text = read("/proc/meminfo")?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok())
        .ok_or_else(|| HostError::Failed("/proc/meminfo does not say how much memory there is".to_owned()))?;
    Ok(Bytes(kib * Bytes::KIB))
}

/// Of the last ten seconds, in percent: while nothing at all went on because memory was waited for.
const MEMORY_STALL_MAX: f64 = 25.0;

/// Whether this host has so little memory that it does next to nothing else than look for some (PSI, in the kernel's
/// Documentation/accounting/psi.rst). One that does not say does not.
pub fn waits_for_memory() -> bool {
    let pressure = std::fs::read_to_string("/proc/pressure/memory").unwrap_or_default();
    stall(&pressure).is_some_and(|percent| percent > MEMORY_STALL_MAX)
}

/// Reads `full avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
fn stall(pressure: &str) -> Option<f64> {
    let full = pressure.lines().find_map(|line| line.strip_prefix("full "))?;
    full.split_whitespace().find_map(|word| word.strip_prefix("avg10="))?.parse().ok()
}

/// What each level adds, as the kernel calls it in /proc/cpuinfo. From the x86-64 psABI, "Low Level System
/// Information", table 3.1; `pni` is SSE3, `abm` is LZCNT, and `xsave` is shown only when the kernel has
/// switched it on (OSXSAVE).
fn features(level: CpuLevel) -> &'static [&'static str] {
    match level {
        CpuLevel::V1 => &["cmov", "cx8", "fpu", "fxsr", "mmx", "syscall", "sse", "sse2"],
        CpuLevel::V2 => &["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"],
        CpuLevel::V3 => &["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"],
        CpuLevel::V4 => &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"],
    }
}

/// The highest level that all processors reach. None: not even the first, or they are no x86-64.
pub fn cpu_level() -> Result<Option<CpuLevel>, HostError> {
    Ok(level_of(&read("/proc/cpuinfo")?))
}

fn level_of(cpuinfo: &str) -> Option<CpuLevel> {
    let processors: Vec<BTreeSet<&str>> =
        values(cpuinfo, "flags").map(|flags| flags.split_whitespace().collect()).collect();
    let reached = |level: &CpuLevel| {
        let has_all = |flags: &BTreeSet<&str>| features(*level).iter().all(|feature| flags.contains(feature));
        !processors.is_empty() && processors.iter().all(has_all)
    };
    CpuLevel::ALL.into_iter().take_while(reached).last()
}

/// Who made the processors, as in `GenuineIntel`.
pub fn cpu_vendor() -> Result<Option<String>, HostError> {
    Ok(values(&read("/proc/cpuinfo")?, "vendor_id").next().map(str::to_owned))
}

/// What each processor says under that name.
fn values<'a>(cpuinfo: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let pairs = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    pairs.filter(move |(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

/// Size of the file system that holds `dir`, without what is reserved for root.
pub fn disk_size(dir: &Path) -> Result<Bytes, HostError> {
    let stat = statvfs(dir).map_err(|error| {
        HostError::Failed(format!("cannot look at the file system of {}: {error}", dir.display()))
    })?;
    let reserved = stat.blocks_free().saturating_sub(stat.blocks_available());
    Ok(Bytes(stat.blocks().saturating_sub(reserved) * stat.fragment_size()))
}

/// What may be written to the file system that holds `dir`, and below what that is short: a part of the file system, in
/// which fast guests write for some seconds.
pub fn room(dir: &Path) -> Result<(Bytes, Bytes), HostError> {
    let stat = statvfs(dir).map_err(|error| {
        HostError::Failed(format!("cannot look at the file system of {}: {error}", dir.display()))
    })?;
    let (free, all) = (stat.blocks_available(), stat.blocks());
    let short = (all * stat.fragment_size() / SHORT_PART).clamp(SHORT_MIN, SHORT_MAX);
    Ok((Bytes(free * stat.fragment_size()), Bytes(short)))
}

/// Less than this part of a file system is little room, within these limits, bytes.
const SHORT_PART: u64 = 32;
const SHORT_MIN: u64 = 16 << 20;
const SHORT_MAX: u64 = 1 << 30;

/// As `uname -r` says it.
pub fn kernel_version() -> Result<String, HostError> {
    Ok(read("/proc/sys/kernel/osrelease")?.trim().to_owned())
}

/// Which boot of this host this is.
///
/// On a machine of its own the kernel's boot id says it. A lab host is a PID namespace on a machine that goes
/// on running when the lab host loses its power; its boot is the life of the namespace's first process. So
/// the boot is made of three things: the kernel's boot id, when process 1 started, and the PID namespace
/// itself. On a whole machine the second and third are constant while it runs, and nothing is lost. The
/// namespace's number alone would not do: the kernel gives it out again.
///
/// A restart of kenneld, an upgrade, or a re-executed init (`systemctl daemon-reexec`) is not a boot.
pub fn boot_id() -> Result<BootId, HostError> {
    let kernel = read("/proc/sys/kernel/random/boot_id")?;
    let started = start_time(&read("/proc/1/stat")?)
        .ok_or_else(|| HostError::Failed("/proc/1/stat does not say when process 1 started".to_owned()))?;
    // Not every process may look at this one; whoever may not, never may, so the boot stays the same.
    let namespace = std::fs::read_link("/proc/1/ns/pid").map(|link| link.to_string_lossy().into_owned());
    Ok(derive(kernel.trim(), started, namespace.as_deref().unwrap_or("")))
}

fn derive(kernel: &str, started: u64, namespace: &str) -> BootId {
    let hash = Sha256::digest(format!("kennel boot\n{kernel}\n{started}\n{namespace}\n"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    // Version 8 of RFC 9562: the content is of our own making.
    BootId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

/// Field 22 of proc_pid_stat(5), in clock ticks since the machine booted. The second field, the program's
/// name, may hold spaces and parentheses: the last closing one ends it.
fn start_time(stat: &str) -> Option<u64> {
    const FIELDS_BETWEEN_NAME_AND_START: usize = 19;
    stat.rsplit_once(')')?.1.split_whitespace().nth(FIELDS_BETWEEN_NAME_AND_START)?.parse().ok()
}

fn read(path: &str) -> Result<String, HostError> {
    std::fs::read_to_string(path).map_err(|error| HostError::Failed(format!("cannot read {path}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_facts() {
        assert!(cpus() >= 1);
        assert!(memory().unwrap() > Bytes::mib(64));
        assert!(disk_size(Path::new("/")).unwrap() > Bytes::mib(64));
        assert!(kernel_version().unwrap().contains('.'));
        assert!(disk_size(Path::new("/no/such/dir")).is_err());
    }

    #[test]
    fn a_boot_keeps_its_id_and_another_has_another() {
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
        let boot = derive("k", 7, "pid:[1]");
        assert_eq!(boot, derive("k", 7, "pid:[1]"));
        for other in [derive("l", 7, "pid:[1]"), derive("k", 8, "pid:[1]"), derive("k", 7, "pid:[2]")] {
            assert_ne!(boot, other);
        }
        assert_eq!(boot.0.get_version_num(), 8);
    }

    #[test]
    fn what_a_host_waits_for_is_read() {
        let text = "some avg10=90.00 avg60=1.00 avg300=0.00 total=1\nfull avg10=12.50 avg60=1.00 avg300=0.00 total=1\n";
        assert_eq!((stall(text), stall("")), (Some(12.5), None));
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "1 (a) b (c)) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 123 456";
        assert_eq!(start_time(stat), Some(4711));
        assert_eq!(start_time("1 (x) S"), None);
    }

    fn check_level(processors: &[&str], expected: Option<CpuLevel>) {
        let text: String = processors
            .iter()
            .map(|flags| {
                format!("processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: {flags}\nbugs\t\t: x\n\n")
            })
            .collect();
        assert_eq!(level_of(&text), expected);
        assert!(values(&text, "vendor_id").all(|vendor| vendor == "GenuineIntel"));
    }

    #[test]
    fn a_host_is_as_good_as_its_poorest_processor() {
        let up_to = |level: CpuLevel| {
            let levels = CpuLevel::ALL.into_iter().filter(|lower| *lower <= level);
            levels.flat_map(features).copied().collect::<Vec<_>>().join(" ")
        };
        let (v1, v3, v4) = (up_to(CpuLevel::V1), up_to(CpuLevel::V3), up_to(CpuLevel::V4));
        check_level(&[&v4, &v4], Some(CpuLevel::V4));
        check_level(&[&v4, &v3], Some(CpuLevel::V3));
        check_level(&[&v1], Some(CpuLevel::V1));
        // AVX-512 without what comes before it.
        check_level(&[&v4.replace(" movbe", "")], Some(CpuLevel::V2));
        check_level(&["fp asimd"], None);
        check_level(&[], None);
    }
}
