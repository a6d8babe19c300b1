//! How a volume's things are called inside QEMU.
//!
//! Names are derived, never kept: a daemon that adopts a machine knows them without being told. Node names
//! have at most 31 characters, so a volume is called by the last 16 digits of its id. (The first ones hold
//! the time in ids of version 7: two volumes made in the same millisecond would differ in 12 bits only.)
//!
//! ```text
//!     device   disk-…      what the guest sees
//!       mirror-…           while a mirror is attached: the job, and its filter ──► nbd-…  the secondary
//!     filter   top-…       where the mirror is attached
//!     format   fmt-…       where dirty bitmaps belong
//!     file     file-…      the replica's raw file
//!
//!     device ──► void-…    once the guest has been handed over to another host
//! ```

use model::VolumeId;

/// The names of one volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Names(VolumeId);

impl Names {
    pub fn of(volume: VolumeId) -> Names {
        Names(volume)
    }

    /// Also the disk's serial number, so that guests find it as `/dev/disk/by-id/virtio-…`.
    pub fn short(self) -> String {
        self.0.0.simple().to_string()[16..].to_owned()
    }

    pub fn device(self) -> String {
        format!("disk-{}", self.short())
    }

    /// Where QEMU keeps the device; some commands find a disk by nothing else.
    pub fn device_path(self) -> String {
        format!("/machine/peripheral/{}/virtio-backend", self.device())
    }

    pub fn file(self) -> String {
        format!("file-{}", self.short())
    }

    pub fn format(self) -> String {
        format!("fmt-{}", self.short())
    }

    pub fn top(self) -> String {
        format!("top-{}", self.short())
    }

    /// The node that stands for the secondary replica.
    pub fn remote(self) -> String {
        format!("nbd-{}", self.short())
    }

    /// What stands in the place of the disk once the guest has been handed over.
    pub fn void(self) -> String {
        format!("void-{}", self.short())
    }

    /// The export through which recorded changes are read.
    pub fn export(self) -> String {
        format!("changes-{}", self.short())
    }

    /// The mirror job.
    pub fn job(self) -> String {
        format!("mirror-{}", self.short())
    }
}
