//! Disks of the hosts' own, for labs that want to fill them: `kennel lab up --volume-disk 400M`, `fill-disk`.
//!
//! Without it all hosts keep their volumes on the machine's disk, and none of them can be filled without the others. With
//! it each host's folder of volumes is a file system in memory with a size of its own. It outlives the host's loss of
//! power, as a disk does, because it belongs to the machine's namespace; `down` unmounts it.

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use model::Bytes;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::statvfs;

use super::say;
use super::state::{Lab, State};

/// What takes the room. No volume has such a name.
const BALLAST: &str = "ballast";

/// How much of it is taken at once, bytes, at first and in the end.
const PART: i64 = 16 << 20;
const PART_MIN: i64 = 4 << 10;

fn folder(lab: &Lab, host: &str) -> PathBuf {
    lab.host_folder(host).join("state/volumes")
}

/// Gives each host its disk, if the lab is to have such.
pub fn mount_all(lab: &Lab, state: &State) -> Result<()> {
    let Some(size) = state.volume_disk else { return Ok(()) };
    for host in &state.hosts {
        let folder = folder(lab, &host.name);
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let options = format!("size={size},mode=0755");
        mount(Some("kennel-lab"), &folder, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .with_context(|| format!("mount a disk for the volumes of {}", host.name))?;
    }
    Ok(())
}

/// Takes them away, with all that is on them.
pub fn unmount_all(lab: &Lab, state: &State) -> Result<()> {
    if state.volume_disk.is_none() {
        return Ok(());
    }
    for host in &state.hosts {
        match umount2(&folder(lab, &host.name), MntFlags::MNT_DETACH) {
            // Not mounted, or its folder was never made.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("unmount the disk of {}", host.name));
            }
        }
    }
    Ok(())
}

/// Takes all room of a host's disk but so much.
pub fn fill(lab: &Lab, host: &str, leave: Bytes) -> Result<()> {
    let folder = of_its_own(lab, "fill the disk of", host)?;
    let stat = statvfs(&folder).with_context(|| format!("look at {}", folder.display()))?;
    let free = stat.blocks_available() * stat.fragment_size();
    let take = free.saturating_sub(leave.0);
    let ballast = folder.join(BALLAST);
    let doing = || format!("fill the disk of {host}");
    let file = File::options().create(true).append(true).open(&ballast).with_context(doing)?;
    let mut end = i64::try_from(file.metadata().with_context(doing)?.len())?;
    let (mut left, mut part) = (i64::try_from(take)?, PART);
    // Whoever writes there meanwhile may have been quicker.
    while left > 0 && part >= PART_MIN {
        match fallocate(&file, FallocateFlags::empty(), end, part.min(left)) {
            Ok(()) => (end, left) = (end + part.min(left), left - part.min(left)),
            Err(Errno::ENOSPC) => part /= 2,
            Err(error) => return Err(error).with_context(doing),
        }
    }
    say(&format!(
        "the disk of {host} is full but for {}; `kennel lab empty-disk {host}` undoes it",
        Bytes(free - take)
    ));
    Ok(())
}

/// Gives back the room that [`fill`] took.
pub fn empty(lab: &Lab, host: &str) -> Result<()> {
    let folder = of_its_own(lab, "empty the disk of", host)?;
    match fs::remove_file(folder.join(BALLAST)) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("empty the disk of {host}")),
    }
    say(&format!("the disk of {host} has its room back"));
    Ok(())
}

fn of_its_own(lab: &Lab, wish: &str, host: &str) -> Result<PathBuf> {
    let state = lab.load()?;
    state.host(wish, host)?;
    if state.volume_disk.is_none() {
        bail!(
            "cannot {wish} {host}: all hosts of this lab share the machine's disk; a lab of \
             `kennel lab up --volume-disk 400M` has disks that can be filled"
        );
    }
    Ok(folder(lab, host))
}
