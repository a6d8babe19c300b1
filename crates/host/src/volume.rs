//! Volumes on this host: one raw file for each replica, named by the volume's id.
//!
//! A file appears under its final name only when it is whole: it is made under a temporary name, flushed,
//! and then linked to the final one. Temporary files that a crash left are removed by [`Volumes::new`].
//!
//! Every file is fully allocated when it is made, unless it is to be thin ([`Room`]). A secondary replica takes each
//! write before the guest hears that it is safe; were the file sparse, the secondary's file system could run out of room in the middle of
//! a guest's life, and hold its writes for good. So room is refused here, at creation, with a sentence.
//!
//! A folder that hosts share ([`Volumes::shared`], see [`crate::pool`]) is the same, with three differences: what is
//! half made there may be what another host is making, so it is left alone until its volume is deleted; there is no
//! secondary whose room must be kept, so a file system that cannot reserve room gets a sparse file; and the folder is
//! never made here, since it would be made on this host's own disk.
//!
//! The agent calls this; which volumes belong on this host is settled before.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use model::{Bytes, ImageFormat, VolumeId};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use uuid::Uuid;

use crate::image::inspect::virtual_size;
use crate::program::{program, succeed};
use crate::{HostError, blocking};

const VOLUME_SUFFIX: &str = "raw";
const TEMPORARY_SUFFIX: &str = "new";

/// What a disk's size is a multiple of.
const SECTOR_BYTES: u64 = 512;

/// Copying a large image from a slow disk takes its time; what takes longer than this hangs.
const CONVERT_LIMIT: Duration = Duration::from_secs(4 * 3600);

/// Whether a volume has all its room from the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// All of it is taken when the volume is made: no write ever lacks any.
    Reserved,
    /// It is taken as the volume is written, and a write that finds none fails.
    Thin,
}

/// The volume files of this host.
#[derive(Debug, Clone)]
pub struct Volumes {
    dir: Arc<Path>,
    /// User and group of the files: those that QEMU runs as.
    owner: Option<(u32, u32)>,
    /// Other hosts work in the same folder.
    shared: bool,
}

impl Volumes {
    /// Makes `dir` if it is missing, and removes what a crash left half made.
    pub fn new(dir: PathBuf, owner: Option<(u32, u32)>) -> Result<Self, HostError> {
        let what = |error| failed("open the directory of the volumes", &dir, error);
        std::fs::create_dir_all(&dir).map_err(what)?;
        for entry in std::fs::read_dir(&dir).map_err(what)? {
            let path = entry.map_err(what)?.path();
            if path.extension().is_some_and(|suffix| suffix == TEMPORARY_SUFFIX) {
                tracing::info!(path = %path.display(), "removing a volume that was never finished");
                std::fs::remove_file(&path).map_err(|e| failed("remove an unfinished volume", &path, e))?;
            }
        }
        Ok(Self { dir: dir.into(), owner, shared: false })
    }

    /// Of a folder that is there, and in which other hosts work, too.
    pub fn shared(dir: PathBuf, owner: Option<(u32, u32)>) -> Self {
        Self { dir: dir.into(), owner, shared: true }
    }

    /// Where a volume's file is, or would be.
    pub fn path(&self, volume: VolumeId) -> PathBuf {
        self.dir.join(format!("{volume}.{VOLUME_SUFFIX}"))
    }

    /// Whether this host has a replica; what exists is whole.
    pub fn exists(&self, volume: VolumeId) -> bool {
        self.path(volume).exists()
    }

    /// All replicas on this host, in the order of their ids.
    pub fn list(&self) -> Result<Vec<VolumeId>, HostError> {
        let what = |error| failed("list the volumes", &self.dir, error);
        let mut volumes = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(what)? {
            let path = entry.map_err(what)?.path();
            let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            if let (Some(id), Some(VOLUME_SUFFIX)) = (id, path.extension().and_then(|suffix| suffix.to_str()))
            {
                volumes.push(id);
            }
        }
        volumes.sort();
        Ok(volumes)
    }

    /// The size that a guest sees.
    pub fn size(&self, volume: VolumeId) -> Result<Bytes, HostError> {
        let path = self.path(volume);
        let metadata = std::fs::metadata(&path).map_err(|e| failed("look at a volume", &path, e))?;
        Ok(Bytes(metadata.len()))
    }

    /// Makes a volume full of zeros. One that exists is left alone, and is a conflict.
    pub async fn create_empty(&self, volume: VolumeId, size: Bytes) -> Result<(), HostError> {
        self.create_empty_in(volume, size, Room::Reserved).await
    }

    pub async fn create_empty_in(&self, volume: VolumeId, size: Bytes, room: Room) -> Result<(), HostError> {
        let unfinished = self.allocate(volume, size, room).await?;
        self.finish(volume, unfinished).await
    }

    /// Makes a volume that begins with an image's content and goes on with zeros. `image` has been inspected
    /// ([`crate::image::inspect`]): it refers to no other file.
    pub async fn create_from(
        &self,
        volume: VolumeId,
        size: Bytes,
        image: &Path,
        format: ImageFormat,
    ) -> Result<(), HostError> {
        self.create_from_in(volume, size, (image, format), Room::Reserved).await
    }

    pub async fn create_from_in(
        &self,
        volume: VolumeId,
        size: Bytes,
        (image, format): (&Path, ImageFormat),
        room: Room,
    ) -> Result<(), HostError> {
        let needed = virtual_size(image, format).await?;
        if needed > size {
            return Err(HostError::Conflict(format!(
                "the image's disk is {needed}, which does not fit into a volume of {size}; ask for at least {needed}"
            )));
        }
        let unfinished = self.allocate(volume, size, room).await?;
        // Into the file that has its room already; what it holds is zeros, and need not be written again.
        let mut convert = program("qemu-img");
        convert
            .args(["convert", "-n", "--target-is-zero", "-O", "raw", "-f", &format.to_string(), "--"])
            .arg(image)
            .arg(&unfinished.path);
        succeed(&mut convert, "copy the image into the volume", CONVERT_LIMIT).await?;
        self.finish(volume, unfinished).await
    }

    /// Makes a volume that nobody has open as large as that; what is added is zeros. One that is as large, or larger,
    /// stays as it is.
    pub async fn grow(&self, volume: VolumeId, size: Bytes, room: Room) -> Result<(), HostError> {
        match room {
            Room::Reserved => self.extend(volume, size, FallocateFlags::empty()).await,
            Room::Thin => self.lengthen(volume, size).await,
        }
    }

    async fn lengthen(&self, volume: VolumeId, size: Bytes) -> Result<(), HostError> {
        let path = self.path(volume);
        blocking(move || {
            let what = |error: io::Error| failed("grow a volume", &path, error);
            let file = OpenOptions::new().write(true).open(&path).map_err(what)?;
            if file.metadata().map_err(what)?.len() < size.0 {
                file.set_len(size.0).map_err(what)?;
            }
            file.sync_all().map_err(what)
        })
        .await
    }

    /// Takes the room for a volume that is about to be made as large as that by whoever has it open.
    pub async fn reserve(&self, volume: VolumeId, size: Bytes) -> Result<(), HostError> {
        self.extend(volume, size, FallocateFlags::FALLOC_FL_KEEP_SIZE).await
    }

    async fn extend(&self, volume: VolumeId, size: Bytes, how: FallocateFlags) -> Result<(), HostError> {
        let (path, dir, shared) = (self.path(volume), Arc::clone(&self.dir), self.shared);
        blocking(move || {
            let what = |error: io::Error| failed("grow a volume", &path, error);
            let file = OpenOptions::new().write(true).open(&path).map_err(what)?;
            let has = Bytes(file.metadata().map_err(what)?.len());
            if has >= size {
                return Ok(());
            }
            check_room(&dir, Bytes(size.0 - has.0))?;
            match reserve(&file, has, size, how, &dir)? {
                Reserved::Yes => {}
                Reserved::Cannot if shared => file.set_len(size.0).map_err(what)?,
                Reserved::Cannot => return Err(cannot_reserve(&dir)),
            }
            file.sync_all().map_err(what)
        })
        .await
    }

    /// Deletes this host's replica. One that is not there is no error.
    pub async fn delete(&self, volume: VolumeId) -> Result<(), HostError> {
        let path = self.path(volume);
        let (dir, shared) = (Arc::clone(&self.dir), self.shared);
        blocking(move || {
            if shared {
                remove_unfinished(&dir, volume)?;
            }
            match std::fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(failed("delete a volume", &path, error)),
            }
            flush_dir(&dir)
        })
        .await
    }

    /// Makes what was written to a volume, by whomever, safe on this host's disk.
    pub async fn flush(&self, volume: VolumeId) -> Result<(), HostError> {
        let path = self.path(volume);
        blocking(move || {
            File::open(&path).and_then(|file| file.sync_all()).map_err(|e| failed("flush a volume", &path, e))
        })
        .await
    }

    /// A file under a temporary name, with all its room.
    async fn allocate(&self, volume: VolumeId, size: Bytes, room: Room) -> Result<Unfinished, HostError> {
        if size.0 == 0 || !size.0.is_multiple_of(SECTOR_BYTES) {
            return Err(HostError::Conflict(format!(
                "a volume of {} bytes cannot be made: its size must be a multiple of {SECTOR_BYTES} bytes, and not 0",
                size.0
            )));
        }
        if self.exists(volume) {
            return Err(HostError::Conflict(format!("the volume {volume} exists already on this host")));
        }
        let path = self.dir.join(format!("{volume}.{}.{TEMPORARY_SUFFIX}", Uuid::new_v4().simple()));
        let (dir, shared) = (Arc::clone(&self.dir), self.shared);
        blocking(move || {
            if room == Room::Reserved {
                check_room(&dir, size)?;
            }
            let what = |error: io::Error| failed("make a volume", &path, error);
            let file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(what)?;
            let unfinished = Unfinished { path: path.clone() };
            if room == Room::Thin {
                file.set_len(size.0).map_err(what)?;
                return Ok(unfinished);
            }
            match reserve(&file, Bytes(0), size, FallocateFlags::empty(), &dir)? {
                Reserved::Yes => {}
                Reserved::Cannot if shared => file.set_len(size.0).map_err(what)?,
                Reserved::Cannot => return Err(cannot_reserve(&dir)),
            }
            Ok(unfinished)
        })
        .await
    }

    /// Gives a whole file its owner and its final name.
    async fn finish(&self, volume: VolumeId, unfinished: Unfinished) -> Result<(), HostError> {
        let (path, dir, owner) = (self.path(volume), Arc::clone(&self.dir), self.owner);
        blocking(move || {
            let what = |error: io::Error| failed("finish a volume", &path, error);
            if let Some((user, group)) = owner {
                chown(&unfinished.path, Some(user), Some(group)).map_err(what)?;
            }
            File::open(&unfinished.path).and_then(|file| file.sync_all()).map_err(what)?;
            // A link never replaces a file, as a rename would: a volume that exists stays what it is.
            match std::fs::hard_link(&unfinished.path, &path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(HostError::Conflict(format!(
                        "the volume {volume} exists already on this host"
                    )));
                }
                Err(error) => return Err(what(error)),
            }
            drop(unfinished);
            flush_dir(&dir)
        })
        .await
    }
}

/// A file that is removed unless it got its final name; after that only its temporary name goes.
#[derive(Debug)]
struct Unfinished {
    path: PathBuf,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "an unfinished volume cannot be removed");
        }
    }
}

/// Refuses what does not fit before it takes the room of others.
fn check_room(dir: &Path, size: Bytes) -> Result<(), HostError> {
    let free = free(dir)?;
    if size > free { Err(no_room(size, free)) } else { Ok(()) }
}

fn free(dir: &Path) -> Result<Bytes, HostError> {
    let stat = statvfs(dir).map_err(|e| failed("look at the file system of the volumes", dir, e.into()))?;
    Ok(Bytes(stat.blocks_available() * stat.fragment_size()))
}

fn no_room(size: Bytes, free: Bytes) -> HostError {
    HostError::Conflict(format!("the volume needs {size}, and the pool on this host has {free} free"))
}

/// Whether a file system could reserve room.
enum Reserved {
    Yes,
    /// It does not know how.
    Cannot,
}

fn cannot_reserve(dir: &Path) -> HostError {
    HostError::Failed(format!(
        "the file system of {} cannot reserve room for a volume; put the volumes on ext4 or XFS",
        dir.display()
    ))
}

fn reserve(
    file: &File,
    from: Bytes,
    size: Bytes,
    how: FallocateFlags,
    dir: &Path,
) -> Result<Reserved, HostError> {
    let too_large = |_| no_room(size, Bytes(0));
    let (start, length) =
        (i64::try_from(from.0).map_err(too_large)?, i64::try_from(size.0 - from.0).map_err(too_large)?);
    match fallocate(file, how, start, length) {
        Ok(()) => Ok(Reserved::Yes),
        Err(nix::errno::Errno::ENOSPC) => {
            check_room(dir, size)?;
            Err(no_room(size, Bytes(0)))
        }
        Err(nix::errno::Errno::EOPNOTSUPP) => Ok(Reserved::Cannot),
        Err(error) => Err(failed("reserve room for a volume", dir, error.into())),
    }
}

/// Removes what a crash, on whatever host, left half made of one volume.
fn remove_unfinished(dir: &Path, volume: VolumeId) -> Result<(), HostError> {
    let what = |error| failed("list the volumes", dir, error);
    let prefix = format!("{volume}.");
    for entry in std::fs::read_dir(dir).map_err(what)? {
        let path = entry.map_err(what)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(&prefix) && path.extension().is_some_and(|suffix| suffix == TEMPORARY_SUFFIX) {
            std::fs::remove_file(&path).map_err(|e| failed("remove an unfinished volume", &path, e))?;
        }
    }
    Ok(())
}

fn flush_dir(dir: &Path) -> Result<(), HostError> {
    File::open(dir)
        .and_then(|handle| handle.sync_all())
        .map_err(|error| failed("flush the directory of the volumes", dir, error))
}

fn failed(what: &str, path: &Path, error: io::Error) -> HostError {
    let sentence = format!("cannot {what} ({}): {error}", path.display());
    if error.kind() == io::ErrorKind::NotFound {
        HostError::NotFound(sentence)
    } else {
        HostError::Failed(sentence)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn fresh() -> (tempfile::TempDir, Volumes) {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Volumes::new(dir.path().join("volumes"), None).unwrap();
        (dir, volumes)
    }

    fn id() -> VolumeId {
        VolumeId(Uuid::new_v4())
    }

    fn names(volumes: &Volumes) -> Vec<String> {
        let entries = std::fs::read_dir(&volumes.dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[tokio::test]
    async fn an_empty_volume_has_all_its_room() {
        let (_dir, volumes) = fresh();
        let volume = id();
        volumes.create_empty(volume, Bytes::mib(3)).await.unwrap();
        let metadata = std::fs::metadata(volumes.path(volume)).unwrap();
        assert_eq!(metadata.len(), 3 << 20);
        assert!(metadata.blocks() * 512 >= 3 << 20, "it is sparse");
        assert_eq!(metadata.nlink(), 1);
        assert_eq!(volumes.size(volume).unwrap(), Bytes::mib(3));
        assert_eq!(volumes.list().unwrap(), [volume]);
        volumes.flush(volume).await.unwrap();
    }

    #[tokio::test]
    async fn a_volume_grows_and_keeps_what_it_has() {
        let (_dir, volumes) = fresh();
        let volume = id();
        volumes.create_empty(volume, Bytes::mib(1)).await.unwrap();
        std::fs::write(volumes.path(volume), [7; 1 << 20]).unwrap();
        volumes.reserve(volume, Bytes::mib(2)).await.unwrap();
        let metadata = std::fs::metadata(volumes.path(volume)).unwrap();
        assert_eq!(metadata.len(), 1 << 20, "whoever has it open makes it larger");
        assert!(metadata.blocks() * 512 >= 2 << 20, "the room is taken");
        for _ in 0..2 {
            volumes.grow(volume, Bytes::mib(2), Room::Reserved).await.unwrap();
            let content = std::fs::read(volumes.path(volume)).unwrap();
            assert!(content[..1 << 20].iter().all(|byte| *byte == 7) && content[1 << 20..] == [0; 1 << 20]);
        }
        volumes.grow(volume, Bytes::mib(1), Room::Reserved).await.unwrap();
        assert_eq!(volumes.size(volume).unwrap(), Bytes::mib(2), "it only grows");
        let error = volumes.grow(volume, Bytes::gib(1 << 20), Room::Reserved).await.unwrap_err();
        assert!(matches!(error, HostError::Conflict(_)), "{error}");
        assert_eq!(volumes.size(volume).unwrap(), Bytes::mib(2));
    }

    #[tokio::test]
    async fn creating_twice_is_a_conflict_and_changes_nothing() {
        let (_dir, volumes) = fresh();
        let volume = id();
        volumes.create_empty(volume, Bytes::mib(1)).await.unwrap();
        std::fs::write(volumes.path(volume), b"precious").unwrap();
        let error = volumes.create_empty(volume, Bytes::mib(1)).await.unwrap_err();
        assert!(matches!(error, HostError::Conflict(_)), "{error}");
        assert_eq!(std::fs::read(volumes.path(volume)).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn two_who_create_the_same_volume_make_one() {
        let (_dir, volumes) = fresh();
        let volume = id();
        let (one, two) = tokio::join!(
            volumes.create_empty(volume, Bytes::mib(1)),
            volumes.create_empty(volume, Bytes::mib(1))
        );
        assert_ne!(one.is_ok(), two.is_ok());
        assert_eq!(names(&volumes).len(), 1);
    }

    #[tokio::test]
    async fn deleting_is_repeatable() {
        let (_dir, volumes) = fresh();
        let volume = id();
        volumes.create_empty(volume, Bytes::mib(1)).await.unwrap();
        volumes.delete(volume).await.unwrap();
        volumes.delete(volume).await.unwrap();
        assert!(!volumes.exists(volume));
        assert!(matches!(volumes.flush(volume).await, Err(HostError::NotFound(_))));
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused_and_leaves_nothing() {
        let (_dir, volumes) = fresh();
        let error = volumes.create_empty(id(), Bytes(1 << 50)).await.unwrap_err().to_string();
        assert!(error.starts_with("the volume needs 1024T, and the pool on this host has "), "{error}");
        for wrong in [0, 1000] {
            assert!(volumes.create_empty(id(), Bytes(wrong)).await.is_err());
        }
        assert!(names(&volumes).is_empty());
    }

    #[tokio::test]
    async fn what_a_crash_left_is_removed_and_foreign_files_are_not() {
        let (dir, volumes) = fresh();
        let volume = id();
        volumes.create_empty(volume, Bytes::mib(1)).await.unwrap();
        std::fs::write(volumes.dir.join(format!("{}.abc.new", id())), b"half").unwrap();
        std::fs::write(volumes.dir.join("notes.txt"), b"mine").unwrap();
        let volumes = Volumes::new(dir.path().join("volumes"), None).unwrap();
        assert_eq!(names(&volumes).len(), 2);
        assert_eq!(volumes.list().unwrap(), [volume]);
    }

    #[tokio::test]
    async fn an_image_fills_a_volume_from_either_format() {
        let (dir, volumes) = fresh();
        let mut content = vec![0u8; 2 << 20];
        content[..4].copy_from_slice(b"head");
        content[(2 << 20) - 4..].copy_from_slice(b"tail");
        let raw = dir.path().join("image.raw");
        std::fs::write(&raw, &content).unwrap();
        let qcow2 = dir.path().join("image.qcow2");
        let mut convert = program("qemu-img");
        convert.args(["convert", "-O", "qcow2"]).arg(&raw).arg(&qcow2);
        succeed(&mut convert, "convert", CONVERT_LIMIT).await.unwrap();
        content.resize(4 << 20, 0);
        for (path, format) in [(&raw, ImageFormat::Raw), (&qcow2, ImageFormat::Qcow2)] {
            let volume = id();
            volumes.create_from(volume, Bytes::mib(4), path, format).await.unwrap();
            assert!(std::fs::read(volumes.path(volume)).unwrap() == content, "{format}");
            let metadata = std::fs::metadata(volumes.path(volume)).unwrap();
            assert!(metadata.blocks() * 512 >= 4 << 20, "{format}: it is sparse");
            let error = volumes.create_from(id(), Bytes::mib(1), path, format).await.unwrap_err().to_string();
            assert_eq!(
                error,
                "the image's disk is 2M, which does not fit into a volume of 1M; ask for at least 2M"
            );
        }
        assert_eq!(names(&volumes).len(), 2);
    }

    #[tokio::test]
    async fn an_image_that_is_not_there_leaves_nothing() {
        let (dir, volumes) = fresh();
        for format in [ImageFormat::Raw, ImageFormat::Qcow2] {
            let missing = dir.path().join("missing");
            let error = volumes.create_from(id(), Bytes::mib(1), &missing, format).await.unwrap_err();
            assert!(matches!(error, HostError::NotFound(_)), "{error}");
        }
        assert!(names(&volumes).is_empty());
    }

    #[tokio::test]
    async fn a_thin_volume_takes_room_as_it_is_written() {
        let (_dir, volumes) = fresh();
        let volume = id();
        // More than there is.
        volumes.create_empty_in(volume, Bytes::gib(4096), Room::Thin).await.unwrap();
        let metadata = std::fs::metadata(volumes.path(volume)).unwrap();
        assert_eq!((metadata.len(), metadata.blocks()), (4 << 40, 0));
        volumes.grow(volume, Bytes((4 << 40) + 512), Room::Thin).await.unwrap();
        let metadata = std::fs::metadata(volumes.path(volume)).unwrap();
        assert_eq!((metadata.len(), metadata.blocks()), ((4 << 40) + 512, 0));
    }
}
