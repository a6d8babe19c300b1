//! Images: stored, read-only disks that guests are made from.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Bytes, HostName, ImageName};

/// An image in the cluster's catalogue. Its bytes are files on the hosts; each host fetches what it lacks
/// from one that has it, and checks the hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    pub name: ImageName,
    pub description: String,
    pub disk: ImageFile,
    pub format: ImageFormat,
    /// Size of the disk that a guest sees.
    pub virtual_size: Bytes,
    /// A kernel and an initial RAM disk, for an image that QEMU boots without a boot loader.
    pub kernel: Option<ImageFile>,
    pub initrd: Option<ImageFile>,
    pub kernel_command_line: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    pub imported_at: Timestamp,
    /// The host that has it from the start.
    pub imported_on: HostName,
}

/// One file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageFile {
    /// Hexadecimal; also the file's name on disk.
    pub sha256: String,
    pub size: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ImageFormat {
    Raw,
    Qcow2,
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ImageFormat::Raw => "raw",
            ImageFormat::Qcow2 => "qcow2",
        })
    }
}

impl Image {
    /// The files that make it up, the disk first.
    pub fn files(&self) -> impl Iterator<Item = &ImageFile> {
        std::iter::once(&self.disk).chain(self.kernel.as_ref()).chain(self.initrd.as_ref())
    }
}
