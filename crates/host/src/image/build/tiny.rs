//! The tiny guest: Debian's cloud kernel, busybox and the QEMU guest agent in an initial RAM disk.
//!
//! It exists to be quick: to show in seconds that a host can run guests, to try things, and for tests. Its
//! system lives in memory and is new at each boot; the disk is all the user's, and empty. What it does with
//! its seed stands in `tiny/start`; the packages are the host's own Debian release's.
//!
//! Everything is chosen for a quick boot under emulation: no compression, no udev, only the drivers that
//! QEMU's machine needs, and a kernel command line that leaves out self-tests and calibrations.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cpio::Archive;
use super::modules::{Module, Modules};
use super::packages::Packages;
use super::{BuiltImage, Progress, failed};
use crate::HostError;
use crate::program::{program, succeed};

/// What the tiny guest prints on its console, followed by its name, once its network is up.
pub const TINY_UP: &str = "KENNEL-GUEST-UP";

/// The kernel's arguments. Those after the console's are there for speed.
pub const TINY_COMMAND_LINE: &str = "console=tty0 console=ttyS0 quiet panic=1 8250.nr_uarts=1 mitigations=off nokaslr \
     tsc=reliable no_timer_check cryptomgr.notests=1 audit=0 random.trust_cpu=on net.ifnames=0";

/// The user's disk; a volume is made as large as its owner asks.
const DISK_BYTES: u64 = 1 << 20;

/// Before the guest says that it is up: disks, the seed's file system, network cards.
const MODULES_FIRST: [&str; 7] =
    ["virtio_pci", "virtio_blk", "virtio_net", "vfat", "nls_cp437", "nls_ascii", "nls_iso8859_1"];

/// With them, where the kernel has them as modules: says outside that it panicked.
const MODULES_IF_THERE: [&str; 1] = ["pvpanic_mmio"];

/// After that: the guest agent's port, entropy, the balloon, the power button, what user-data may want.
const MODULES_LATER: [&str; 9] = [
    "virtio_console",
    "button",
    "evdev",
    "virtio_rng",
    "virtio_balloon",
    "af_packet",
    "nls_utf8",
    "ext4",
    "crc32c_generic",
];

/// Listing a program's libraries takes milliseconds.
const LIST_LIMIT: Duration = Duration::from_secs(30);

/// Where Debian's packages put libraries, before and after its merger of /lib and /usr/lib.
const LIBRARY_DIRS: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

const LOADER: &str = "ld-linux-x86-64.so.2";

/// Builds the image in `work_dir`, which must exist.
pub async fn build_tiny(work_dir: &Path, progress: Progress<'_>) -> Result<BuiltImage, HostError> {
    let work_dir = std::path::absolute(work_dir).map_err(|e| failed("find its directory", work_dir, &e))?;
    let root = work_dir.join("packages");
    let mut packages = Packages::new(work_dir.join("apt"))?;
    progress("fetch Debian's cloud kernel, busybox and guest agent");
    if let Err(error) = fetch(&packages, &root).await {
        tracing::info!(%error, "the host's package lists do not serve; fetching fresh ones");
        progress("fetch fresh package lists, and try again");
        packages.refresh().await?;
        fetch(&packages, &root).await?;
    }

    progress("choose the kernel's modules");
    let version = kernel_version(&root)?;
    let modules_dir = first_of(&root, &["usr/lib/modules", "lib/modules"])?.join(&version);
    let modules = Modules::find(&modules_dir)?;
    let there = MODULES_IF_THERE.into_iter().filter(|name| modules.has(name));
    let first: Vec<&str> = MODULES_FIRST.into_iter().chain(there).collect();
    let first = modules.load_order(&first).await?;
    let mut later = modules.load_order(&MODULES_LATER).await?;
    later.retain(|module| first.iter().all(|other| other.name != module.name));

    progress("assemble the initial RAM disk");
    let mut archive = Archive::default();
    add_system(&mut archive, &root).await?;
    add_agent(&mut archive, &root).await?;
    add_modules(&mut archive, "first", &first);
    add_modules(&mut archive, "later", &later);

    let (kernel, initrd, disk) =
        (work_dir.join("vmlinuz"), work_dir.join("initrd"), work_dir.join("disk.raw"));
    let built_kernel = root.join(format!("boot/vmlinuz-{version}"));
    std::fs::rename(&built_kernel, &kernel).map_err(|e| failed("take the kernel", &built_kernel, &e))?;
    std::fs::write(&initrd, archive.finish())
        .map_err(|e| failed("write the initial RAM disk", &initrd, &e))?;
    std::fs::File::create(&disk)
        .and_then(|file| file.set_len(DISK_BYTES))
        .map_err(|e| failed("write the disk", &disk, &e))?;
    Ok(BuiltImage {
        disk,
        kernel: Some(kernel),
        initrd: Some(initrd),
        kernel_command_line: Some(TINY_COMMAND_LINE.to_owned()),
        description: format!("busybox and the QEMU guest agent on Linux {version}; the disk is empty"),
    })
}

async fn fetch(packages: &Packages, root: &Path) -> Result<(), HostError> {
    let mut wanted = packages.with_libraries("qemu-guest-agent").await?;
    wanted.push(packages.dependency("linux-image-cloud-amd64", "linux-image-").await?);
    wanted.push("busybox-static".to_owned());
    packages.unpack(&wanted, root).await
}

/// The one kernel that was unpacked.
fn kernel_version(root: &Path) -> Result<String, HostError> {
    let boot = root.join("boot");
    let entries = std::fs::read_dir(&boot).map_err(|e| failed("find the kernel", &boot, &e))?;
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned))
        .ok_or_else(|| {
            HostError::NotFound("cannot build the image: its kernel package holds no kernel".to_owned())
        })
}

/// busybox under all its names, and the scripts that make a system of it.
async fn add_system(archive: &mut Archive, root: &Path) -> Result<(), HostError> {
    let busybox = first_of(root, &["usr/bin/busybox", "bin/busybox"])?;
    let mut list = program(&busybox);
    list.arg("--list");
    let names = succeed(&mut list, "ask busybox for its programs", LIST_LIMIT).await?;
    let directories = [
        "bin",
        "dev",
        "etc",
        "etc/acpi",
        "etc/acpi/PWRF",
        "lib",
        "lib/modules",
        "lib64",
        "proc",
        "root",
        "run",
    ];
    for dir in directories.iter().chain(&["sys", "tmp", "usr", "usr/share", "var"]) {
        archive.dir(dir);
    }
    archive.console("dev/console");
    for (path, target) in [
        ("sbin", "bin"),
        ("usr/bin", "../bin"),
        ("usr/sbin", "../bin"),
        ("usr/lib", "../lib"),
        ("var/run", "../run"),
    ] {
        archive.link(path, target);
    }
    archive.program("bin/busybox", &read(&busybox)?);
    for name in String::from_utf8_lossy(&names).lines().filter(|name| *name != "busybox") {
        archive.link(&format!("bin/{name}"), "busybox");
    }
    archive.program("init", include_bytes!("tiny/init"));
    archive.program("etc/start", include_bytes!("tiny/start"));
    archive.program("etc/guest-agent", include_bytes!("tiny/guest-agent"));
    archive.program("bin/shutdown", include_bytes!("tiny/shutdown"));
    // busybox's acpid runs this when the power button is pressed.
    archive.program("etc/acpi/PWRF/00000080", b"#!/bin/busybox sh\nexec poweroff\n");
    archive.file("etc/inittab", include_bytes!("tiny/inittab"));
    archive.file("etc/profile", include_bytes!("tiny/profile"));
    archive.file("etc/passwd", b"root::0:0:root:/root:/bin/sh\n");
    archive.file("etc/group", b"root:x:0:\n");
    Ok(())
}

/// The guest agent and exactly the libraries that it loads, as the packages' own loader finds them.
async fn add_agent(archive: &mut Archive, root: &Path) -> Result<(), HostError> {
    let agent = first_of(root, &["usr/sbin/qemu-ga", "usr/bin/qemu-ga"])?;
    let loader = first_of(root, &LIBRARY_DIRS.map(|dir| format!("{dir}/{LOADER}")))?;
    let search = LIBRARY_DIRS.map(|dir| root.join(dir).display().to_string()).join(":");
    let mut list = program(&loader);
    list.args(["--inhibit-cache", "--library-path", &search, "--list"]).arg(&agent);
    let output = succeed(&mut list, "list the guest agent's libraries", LIST_LIMIT).await?;
    archive.program("bin/qemu-ga", &read(&agent)?);
    archive.program(&format!("lib64/{LOADER}"), &read(&loader)?);
    // libc.so.6 => /…/libc.so.6 (0x00007f43a4d88000)
    for line in String::from_utf8_lossy(&output).lines() {
        let Some((name, rest)) = line.trim().split_once(" => ") else { continue };
        let path = Path::new(rest.split(" (").next().unwrap_or(rest));
        if name.ends_with(LOADER) {
            continue;
        }
        if !path.starts_with(root) {
            return Err(HostError::NotFound(format!(
                "cannot build the image: none of the packages that the guest agent needs holds '{name}'"
            )));
        }
        archive.program(&format!("lib/{name}"), &read(path)?);
    }
    Ok(())
}

fn add_modules(archive: &mut Archive, when: &str, modules: &[Module]) {
    let names: String = modules.iter().map(|module| format!("{}\n", module.name)).collect();
    archive.file(&format!("etc/modules-{when}"), names.as_bytes());
    for module in modules {
        archive.file(&format!("lib/modules/{}.ko", module.name), &module.content);
    }
}

/// The first of some paths under `root` that is there, and is no link (which would lead to the host's files).
fn first_of(root: &Path, paths: &[impl AsRef<str>]) -> Result<PathBuf, HostError> {
    paths
        .iter()
        .map(|path| root.join(path.as_ref()))
        .find(|path| std::fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_symlink()))
        .ok_or_else(|| {
            let names: Vec<_> = paths.iter().map(AsRef::as_ref).collect();
            HostError::NotFound(format!(
                "cannot build the image: the packages hold no {}",
                names.join(" or ")
            ))
        })
}

fn read(path: &Path) -> Result<Vec<u8>, HostError> {
    std::fs::read(path).map_err(|e| failed("read a file of its packages", path, &e))
}
