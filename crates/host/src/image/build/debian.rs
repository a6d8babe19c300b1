//! A real Debian 13: systemd, cloud-init, sshd and the QEMU guest agent, bootable from its own disk.
//!
//! mmdebstrap makes the system in a directory, `mke2fs -d` makes a file system of the directory, and the boot
//! loader is put before it by hand. Nothing is mounted and no loop device is used, so that it works on every
//! host, whatever its kernel has.
//!
//! ```text
//!     sector 0          GRUB's boot.img: its code, then the partition table (one partition)
//!     sector 1 …        GRUB's core.img, as long as it is
//!     1 MiB …           the root file system, to the end
//! ```
//!
//! This is the layout that boot.img and core.img assume when nobody tells them another: boot.img loads
//! sector 1, and core.img goes on at sector 2 (`kernel_sector` in GRUB's boot.S, `blocklist` in diskboot.S).
//! At its first boot on a larger volume the guest lets the partition and the file system grow.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::Bytes;
use uuid::Uuid;

use super::{BuiltImage, Progress, failed};
use crate::HostError;
use crate::program::{program, succeed};

const SUITE: &str = "trixie";

/// What the system is made of, beside what these need.
const PACKAGES: [&str; 22] = [
    "ca-certificates",
    "cloud-guest-utils",
    "cloud-init",
    "dbus",
    "e2fsprogs",
    "fdisk",
    "grub-common",
    "grub-pc-bin",
    "initramfs-tools",
    "iproute2",
    "iputils-ping",
    "less",
    "linux-image-cloud-amd64",
    "netbase",
    "openssh-server",
    "procps",
    "qemu-guest-agent",
    "sudo",
    "systemd-resolved",
    "systemd-sysv",
    "udev",
    "vim-tiny",
];

/// The system takes about half of it.
const SIZE_MIN: Bytes = Bytes::gib(2);

/// A partition table of this form counts in 32 bits.
const SIZE_MAX: Bytes = Bytes(1 << 41);

const SECTOR_BYTES: u64 = 512;

/// Where the partition begins: the alignment that everybody uses.
const PARTITION_START: u64 = 1 << 20;

/// Bytes of boot.img that are code; the disk's signature and the partition table follow.
const BOOT_CODE_BYTES: usize = 440;

/// Installing some hundred packages through a slow line.
const INSTALL_LIMIT: Duration = Duration::from_secs(3600);

/// Writing or compressing a few gigabytes on a slow disk.
const WRITE_LIMIT: Duration = Duration::from_secs(1800);

/// Builds the image in `work_dir`, which must exist; the file system there must hold device nodes and run
/// programs. `size` is the disk's, at least 2 GiB. Needs root.
pub async fn build_debian(
    work_dir: &Path,
    size: Bytes,
    progress: Progress<'_>,
) -> Result<BuiltImage, HostError> {
    if size < SIZE_MIN || size > SIZE_MAX || !size.0.is_multiple_of(PARTITION_START) {
        return Err(HostError::Conflict(format!(
            "a Debian image of {size} cannot be built: its size must be {SIZE_MIN} to {SIZE_MAX}, in whole MiB"
        )));
    }
    let work_dir = std::path::absolute(work_dir).map_err(|e| failed("find its directory", work_dir, &e))?;
    let root = work_dir.join("root");
    let uuid = Uuid::new_v4();

    progress("install Debian 13 from its packages");
    let hook = write_hook(&work_dir)?;
    let mut install = program("mmdebstrap");
    install
        .env("UUID", uuid.to_string())
        .args(["--mode=root", "--format=directory", "--variant=minbase", "--quiet"])
        .arg(format!("--include={}", PACKAGES.join(",")))
        .arg(format!("--customize-hook={}", hook.display()))
        .arg(SUITE)
        .arg(&root);
    succeed(&mut install, "install Debian into a directory", INSTALL_LIMIT).await?;

    progress("write the disk");
    let raw = work_dir.join("disk.raw");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&raw)
        .map_err(|e| failed("make the disk", &raw, &e))?;
    file.set_len(size.0).map_err(|e| failed("make the disk", &raw, &e))?;
    let mut format = program("mke2fs");
    format
        // GRUB reads what every Debian's mke2fs makes but for these.
        .args(["-q", "-F", "-t", "ext4", "-O", "^metadata_csum_seed", "-L", "root", "-m", "1"])
        .args(["-U", &uuid.to_string(), "-E", &format!("offset={PARTITION_START},root_owner=0:0"), "-d"])
        .arg(&root)
        .arg(&raw)
        .arg(format!("{}k", (size.0 - PARTITION_START) / Bytes::KIB));
    succeed(&mut format, "write the root file system", WRITE_LIMIT).await?;
    install_boot_loader(&file, &raw, &root, size, uuid)?;

    progress("compress the disk");
    let disk = work_dir.join("disk.qcow2");
    let mut convert = program("qemu-img");
    convert
        .args(["convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd", "--"])
        .arg(&raw)
        .arg(&disk);
    succeed(&mut convert, "compress the disk", WRITE_LIMIT).await?;
    Ok(BuiltImage {
        disk,
        kernel: None,
        initrd: None,
        kernel_command_line: None,
        description: "Debian 13 with systemd, cloud-init, sshd and the QEMU guest agent".to_owned(),
    })
}

fn write_hook(work_dir: &Path) -> Result<PathBuf, HostError> {
    let path = work_dir.join("customize");
    std::fs::write(&path, include_bytes!("debian/customize"))
        .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)))
        .map_err(|e| failed("write a script", &path, &e))?;
    Ok(path)
}

fn install_boot_loader(
    disk: &File,
    disk_path: &Path,
    root: &Path,
    size: Bytes,
    uuid: Uuid,
) -> Result<(), HostError> {
    let read = |path: &str| {
        let path = root.join(path);
        std::fs::read(&path).map_err(|e| failed("read the boot loader", &path, &e))
    };
    let boot = read("usr/lib/grub/i386-pc/boot.img")?;
    let core = read("boot/grub/core.img")?;
    let gap = PARTITION_START - SECTOR_BYTES;
    if core.len() as u64 > gap || boot.len() < BOOT_CODE_BYTES {
        return Err(HostError::Failed(format!(
            "cannot build the image: GRUB's parts have {} and {} bytes, and there is room for {gap}",
            boot.len(),
            core.len()
        )));
    }
    let first_sector = boot_sector(&boot[..BOOT_CODE_BYTES], size, uuid);
    disk.write_all_at(&first_sector, 0)
        .and_then(|()| disk.write_all_at(&core, SECTOR_BYTES))
        .and_then(|()| disk.sync_all())
        .map_err(|e| failed("write the boot loader", disk_path, &e))
}

/// The code, the disk's signature, and a table of one active Linux partition that reaches to the end.
fn boot_sector(code: &[u8], size: Bytes, uuid: Uuid) -> Vec<u8> {
    const SIGNATURE_OFFSET: usize = 440;
    const TABLE_OFFSET: usize = 446;
    const ACTIVE: u8 = 0x80;
    const TYPE_LINUX: u8 = 0x83;
    /// For "beyond what cylinders, heads and sectors can say": everybody reads the sector numbers instead.
    const CHS_BEYOND: [u8; 3] = [0xfe, 0xff, 0xff];
    // Both fit: the size is limited.
    let start = u32::try_from(PARTITION_START / SECTOR_BYTES).unwrap_or(u32::MAX);
    let length = u32::try_from((size.0 - PARTITION_START) / SECTOR_BYTES).unwrap_or(u32::MAX);
    let mut entry = vec![ACTIVE];
    entry.extend(CHS_BEYOND);
    entry.push(TYPE_LINUX);
    entry.extend(CHS_BEYOND);
    entry.extend(start.to_le_bytes());
    entry.extend(length.to_le_bytes());
    let mut sector = vec![0; 512];
    sector[..code.len()].copy_from_slice(code);
    sector[SIGNATURE_OFFSET..SIGNATURE_OFFSET + 4].copy_from_slice(&uuid.as_bytes()[..4]);
    sector[TABLE_OFFSET..TABLE_OFFSET + entry.len()].copy_from_slice(&entry);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sector_has_a_partition_to_the_end() {
        let sector = boot_sector(&[7; BOOT_CODE_BYTES], Bytes::gib(2), Uuid::from_u128(1 << 120));
        assert_eq!(sector.len(), 512);
        assert!(sector[..440].iter().all(|byte| *byte == 7));
        assert_eq!(sector[440..444], [1, 0, 0, 0]);
        let number = |at: usize| u32::from_le_bytes(sector[at..at + 4].try_into().unwrap());
        assert_eq!((sector[446], sector[450], number(454)), (0x80, 0x83, 2048));
        assert_eq!(u64::from(number(458)) + 2048, (2 << 30) / 512);
        assert_eq!(sector[510..], [0x55, 0xaa]);
    }

    #[tokio::test]
    async fn a_size_that_does_not_do_is_refused_at_once() {
        for wrong in [Bytes::gib(1), Bytes((2 << 30) + 512), Bytes(1 << 42)] {
            let error = build_debian(Path::new("/no/such/dir"), wrong, &|_| ()).await.unwrap_err();
            assert!(matches!(error, HostError::Conflict(_)), "{error}");
        }
    }
}
