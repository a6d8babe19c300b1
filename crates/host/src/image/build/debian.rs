//! Placeholder.
use std::path::Path;

use model::Bytes;

use super::{BuiltImage, Progress};
use crate::HostError;

/// Not there yet.
pub async fn build_debian(
    _work_dir: &Path,
    _size: Bytes,
    _progress: Progress<'_>,
) -> Result<BuiltImage, HostError> {
    Err(HostError::Failed("the image 'debian' cannot be built yet".to_owned()))
}
