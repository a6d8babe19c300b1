//! Images that Kennel builds itself, from Debian's packages and nothing else.
//!
//! A builder works in a directory of its caller's, changes nothing of the host's, and leaves the image's
//! files there. The caller stores them ([`crate::image::store`]), writes the catalogue's record, and removes
//! the directory, also when the builder failed.

mod cpio;
mod debian;
mod modules;
mod packages;
mod tiny;

use std::io;
use std::path::{Path, PathBuf};

pub use debian::build_debian;
pub use tiny::{TINY_COMMAND_LINE, TINY_UP, build_tiny};

use crate::HostError;

/// The files of an image that was built, and what the catalogue should say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltImage {
    pub disk: PathBuf,
    pub kernel: Option<PathBuf>,
    pub initrd: Option<PathBuf>,
    pub kernel_command_line: Option<String>,
    /// One phrase without a full stop.
    pub description: String,
}

/// Told of each step as it begins, in a present-tense phrase.
pub type Progress<'a> = &'a (dyn Fn(&str) + Send + Sync);

fn failed(what: &str, path: &Path, error: &io::Error) -> HostError {
    HostError::Failed(format!("cannot build the image: {what} ({}): {error}", path.display()))
}
