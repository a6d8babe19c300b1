//! A pool in a folder that hosts have in common: NFS, GlusterFS, OCFS2, or whatever else several hosts mount.
//!
//! ```text
//!     <path>/kennel-pool.json          the mark: which cluster's pool this is
//!     <path>/volumes/<volume>.raw
//! ```
//!
//! A host that has not mounted the folder sees an empty one at the same path, on its own disk. So the host that makes
//! the pool leaves a mark, and every other one believes that it reaches the pool only while it reads that very mark.
//! It is read again before anything is made or deleted.
//!
//! What the folder's file system must do is tried, not asked for: files are opened past the page cache (`O_DIRECT`),
//! because a host's cache knows nothing of what another host wrote. QEMU's own lock on the file, which needs a file
//! system whose locks hold across hosts (NFS version 4, or 3 with its lock daemon), keeps a second machine out; that a
//! second one is not started is settled before (`plan::fence`).
//!
//! Everything here blocks for as long as the folder's server does not answer; the callers see to that.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use model::Bytes;
use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::HostError;
use crate::volume::Volumes;

const MARK: &str = "kennel-pool.json";
const VOLUMES: &str = "volumes";

/// Linux's flag for reads and writes past the page cache.
const O_DIRECT: i32 = nix::fcntl::OFlag::O_DIRECT.bits();

/// What tells one pool's folder from any other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub cluster: Uuid,
    pub pool: Uuid,
    /// For people who find the file.
    pub name: String,
}

/// The folder of a pool, as seen from this host.
#[derive(Debug, Clone)]
pub struct SharedFolder {
    path: PathBuf,
    mark: Mark,
    /// User and group of the volumes.
    owner: Option<(u32, u32)>,
}

impl SharedFolder {
    pub fn new(path: PathBuf, mark: Mark, owner: Option<(u32, u32)>) -> Self {
        Self { path, mark, owner }
    }

    fn mark_path(&self) -> PathBuf {
        self.path.join(MARK)
    }

    /// Makes the folder this pool's. Refused when it is another cluster's; a mark of a pool that this cluster had
    /// there before is replaced.
    pub fn take(&self) -> Result<(), HostError> {
        if !self.path.is_dir() {
            return Err(HostError::NotFound(format!(
                "there is no folder {}; make it, or mount it there",
                self.path.display()
            )));
        }
        if let Some(other) = self.read()?.filter(|mark| mark.cluster != self.mark.cluster) {
            return Err(HostError::Conflict(format!(
                "the folder {} is the pool '{}' of another cluster ({}); if that is no more, remove {} from it",
                self.path.display(),
                other.name,
                other.cluster,
                MARK
            )));
        }
        let volumes = self.path.join(VOLUMES);
        match std::fs::DirBuilder::new().mode(0o755).create(&volumes) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(failed("make the folder", &volumes, &error));
            }
            Ok(()) | Err(_) => {}
        }
        self.write().map_err(|error| failed("write", &self.mark_path(), &error))?;
        self.check().map(drop)
    }

    fn write(&self) -> std::io::Result<()> {
        let half = self.path.join(format!("{MARK}.{}.new", self.mark.pool.simple()));
        let mut file = std::fs::File::create(&half)?;
        file.write_all(&serde_json::to_vec_pretty(&self.mark)?)?;
        file.sync_all()?;
        std::fs::rename(&half, self.mark_path())?;
        std::fs::File::open(&self.path)?.sync_all()
    }

    fn read(&self) -> Result<Option<Mark>, HostError> {
        let path = self.mark_path();
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path, &error)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| failed("understand", &path, &error))
    }

    /// Whether this host reaches the pool; the size of its file system. Every error is a reason for a person.
    pub fn check(&self) -> Result<Bytes, HostError> {
        let path = self.path.display();
        match self.read()? {
            Some(mark) if mark.pool == self.mark.pool && mark.cluster == self.mark.cluster => {}
            Some(mark) => {
                return Err(HostError::Conflict(format!(
                    "{path} carries the mark of another pool, '{}' ({})",
                    mark.name, mark.pool
                )));
            }
            None => {
                return Err(HostError::NotFound(format!(
                    "{path} is not the folder that the other hosts see: its mark, {MARK}, is missing; mount it there"
                )));
            }
        }
        let opened = std::fs::OpenOptions::new().read(true).custom_flags(O_DIRECT).open(self.mark_path());
        opened.map_err(|error| {
            HostError::Failed(format!(
                "files in {path} cannot be opened past the page cache: {error}; use a file system that allows it"
            ))
        })?;
        let stat = statvfs(&self.path).map_err(|error| failed("look at", &self.path, &error))?;
        Ok(Bytes(stat.blocks() * stat.fragment_size()))
    }

    /// The volumes in it, once it has been seen that it is there.
    pub fn volumes(&self) -> Result<Volumes, HostError> {
        self.check()?;
        Ok(Volumes::shared(self.path.join(VOLUMES), self.owner))
    }
}

fn failed(what: &str, path: &Path, error: &dyn std::fmt::Display) -> HostError {
    HostError::Failed(format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(path: &Path, cluster: u128, pool: u128) -> SharedFolder {
        let (cluster, pool) = (Uuid::from_u128(cluster), Uuid::from_u128(pool));
        SharedFolder::new(path.to_owned(), Mark { cluster, pool, name: "nfs1".into() }, None)
    }

    #[test]
    fn a_folder_without_the_mark_is_not_the_pool() {
        let place = tempfile::tempdir().unwrap();
        let pool = folder(place.path(), 1, 2);
        let why = pool.check().unwrap_err().to_string();
        assert!(why.contains("is not the folder that the other hosts see"), "{why}");
        pool.take().unwrap();
        assert!(pool.check().unwrap() > Bytes(0));
        assert!(pool.volumes().unwrap().list().unwrap().is_empty());
        let other = folder(place.path(), 1, 3);
        let why = other.check().unwrap_err().to_string();
        assert!(why.contains("carries the mark of another pool, 'nfs1'"), "{why}");
    }

    #[test]
    fn a_folder_of_another_cluster_is_left_alone_and_one_that_is_missing_is_not_made() {
        let place = tempfile::tempdir().unwrap();
        folder(place.path(), 1, 2).take().unwrap();
        let why = folder(place.path(), 9, 2).take().unwrap_err().to_string();
        assert!(why.contains("is the pool 'nfs1' of another cluster"), "{why}");
        // A pool that this cluster makes anew in the same folder takes the place of the old one.
        folder(place.path(), 1, 5).take().unwrap();
        folder(place.path(), 1, 5).check().unwrap();
        let missing = place.path().join("missing");
        assert!(folder(&missing, 1, 2).take().unwrap_err().to_string().contains("there is no folder"));
        assert!(!missing.exists());
    }

    #[tokio::test]
    async fn deleting_a_volume_removes_what_was_never_finished_of_it_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let pool = folder(place.path(), 1, 2);
        pool.take().unwrap();
        let volumes = pool.volumes().unwrap();
        let (gone, kept) = (model::VolumeId(Uuid::from_u128(7)), model::VolumeId(Uuid::from_u128(8)));
        volumes.create_empty(gone, Bytes::mib(1)).await.unwrap();
        volumes.create_empty(kept, Bytes::mib(1)).await.unwrap();
        let half = |volume| place.path().join(VOLUMES).join(format!("{volume}.x.new"));
        std::fs::write(half(gone), "").unwrap();
        std::fs::write(half(kept), "").unwrap();
        assert!(half(gone).exists() && pool.volumes().unwrap().exists(kept), "another host may be making it");
        volumes.delete(gone).await.unwrap();
        assert!(!volumes.exists(gone) && !half(gone).exists());
        assert!(volumes.exists(kept) && half(kept).exists());
    }
}
