//! Names and ids by number, and back.

use model::{BootId, GuestId, GuestName, HostName, JobId, Replica, VolumeId};
use uuid::Uuid;

pub fn host_name(ix: usize) -> HostName {
    format!("host{}", ix + 1).parse().expect("a valid name")
}

pub fn guest_name(ix: usize) -> GuestName {
    format!("g{}", ix + 1).parse().expect("a valid name")
}

fn number(text: &str, prefix: usize) -> usize {
    text[prefix..].parse::<usize>().expect("a name of ours") - 1
}

pub fn host_ix(name: &HostName) -> usize {
    number(name.as_str(), "host".len())
}

pub fn guest_ix(name: &GuestName) -> usize {
    number(name.as_str(), "g".len())
}

pub fn guest_id(ix: usize) -> GuestId {
    GuestId(Uuid::from_u128(0x6000_0000 + ix as u128))
}

pub fn volume_id(guest: usize, disk: usize) -> VolumeId {
    VolumeId(Uuid::from_u128(0x7000_0000 + (guest as u128) * 16 + disk as u128))
}

/// The guest that a volume belongs to.
pub fn guest_of(volume: VolumeId) -> usize {
    ((volume.0.as_u128() - 0x7000_0000) / 16) as usize
}

pub fn boot_id(host: usize, boot: u32) -> BootId {
    BootId(Uuid::from_u128(0x8000_0000 + (host as u128) * 0x1_0000 + u128::from(boot)))
}

pub fn replica(host: usize, boot: u32) -> Replica {
    Replica { host: host_name(host), boot_id: boot_id(host, boot) }
}

/// Ids grow with the number, as those of jobs do.
pub fn job_id(number: u64) -> JobId {
    JobId(Uuid::from_u128((u128::from(number) << 64) + 1))
}
