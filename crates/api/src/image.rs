//! Images as people ask for them and see them.
//!
//! An image comes in two steps, both to the same host: its files are uploaded
//! (`POST /v1/image-files`, kept under their SHA-256), then it is entered in the catalogue
//! (`POST /v1/images`). A file that no image names is removed by its host in time, so that an upload that
//! breaks off leaves nothing behind.

use model::{ClusterView, HostName, Image, ImageFile, ImageName, Recipe};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Watched;

/// Files that are on the host that is asked, to be entered in the catalogue as an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterImage {
    pub name: ImageName,
    #[serde(default)]
    pub description: String,
    /// The SHA-256 of the disk, hexadecimal: qcow2 or raw.
    pub disk: String,
    #[serde(default)]
    pub kernel: Option<String>,
    #[serde(default)]
    pub initrd: Option<String>,
    #[serde(default)]
    pub kernel_command_line: Option<String>,
}

/// A file that was uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StagedFile {
    pub file: ImageFile,
    /// The host that has it.
    pub host: HostName,
}

/// An image to be made by the host that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildImage {
    pub recipe: Recipe,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageView {
    pub name: ImageName,
    pub image: Image,
    /// The hosts that have all its files.
    pub present_on: Vec<HostName>,
}

impl ImageView {
    pub fn of(view: &ClusterView, image: &Image) -> Self {
        let has = |report: &&model::HostReport| report.images.contains(&image.name);
        Self {
            name: image.name.clone(),
            image: image.clone(),
            present_on: view.host_reports.values().filter(has).map(|r| r.host.clone()).collect(),
        }
    }

    pub fn list(view: &ClusterView) -> Vec<Self> {
        view.images.values().map(|image| Self::of(view, image)).collect()
    }

    pub fn find(view: &ClusterView, name: &ImageName) -> Option<Self> {
        view.images.get(name).map(|image| Self::of(view, image))
    }
}

impl Watched for ImageView {
    fn watch_id(&self) -> String {
        self.name.to_string()
    }
}
