//! The image files on this host, each named by the SHA-256 of its bytes.
//!
//! A file appears under its name only when it is whole, hashed and flushed, so that what is here is right by
//! its name: nobody needs to hash it again. Equal files of several images are one file. Temporary files that
//! a crash left are removed by [`ImageFiles::new`].

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Bytes, Image, ImageFile};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use crate::HostError;

const TEMPORARY_PREFIX: &str = "incoming-";

/// Bytes that are read, hashed and written at once.
const CHUNK_BYTES: usize = 1 << 20;

/// The image files of this host.
#[derive(Debug, Clone)]
pub struct ImageFiles {
    dir: Arc<Path>,
}

impl ImageFiles {
    /// Makes `dir` if it is missing, and removes what a crash left half made.
    pub fn new(dir: PathBuf) -> Result<Self, HostError> {
        let what = |error| failed("open the directory of the images", &dir, error);
        std::fs::create_dir_all(&dir).map_err(what)?;
        for entry in std::fs::read_dir(&dir).map_err(what)? {
            let entry = entry.map_err(what)?;
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) {
                std::fs::remove_file(entry.path()).map_err(what)?;
            }
        }
        Ok(Self { dir: dir.into() })
    }

    /// Takes a file in. Refuses one that is not the `expected` one, as soon as that shows, and keeps nothing
    /// of it.
    pub async fn put(
        &self,
        mut reader: impl AsyncRead + Unpin + Send,
        expected: Option<&ImageFile>,
    ) -> Result<ImageFile, HostError> {
        let incoming = Incoming { path: self.dir.join(format!("{TEMPORARY_PREFIX}{}", Uuid::new_v4())) };
        let what = |error| failed("store an image file", &incoming.path, error);
        let mut file = tokio::fs::File::create(&incoming.path).await.map_err(what)?;
        let mut hash = Sha256::new();
        let mut size = 0u64;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let read = reader.read(&mut chunk).await.map_err(|e| interrupted(&e, size))?;
            if read == 0 {
                break;
            }
            size += read as u64;
            if let Some(expected) = expected.filter(|expected| size > expected.size.0) {
                return Err(HostError::Failed(format!(
                    "the image file that arrived is larger than the {} bytes that the catalogue says; it was refused",
                    expected.size.0
                )));
            }
            hash.update(&chunk[..read]);
            file.write_all(&chunk[..read]).await.map_err(what)?;
        }
        file.flush().await.map_err(what)?;
        file.sync_all().await.map_err(what)?;
        let stored = ImageFile { sha256: hex(&hash.finalize()), size: Bytes(size) };
        if let Some(expected) = expected.filter(|expected| **expected != stored) {
            return Err(HostError::Failed(format!(
                "the image file that arrived has {size} bytes and the SHA-256 {}, and the catalogue says {} and {}; \
                 it was refused",
                stored.sha256, expected.size.0, expected.sha256
            )));
        }
        tokio::fs::rename(&incoming.path, self.path(&stored)).await.map_err(what)?;
        let dir = tokio::fs::File::open(&self.dir).await.map_err(what)?;
        dir.sync_all().await.map_err(what)?;
        Ok(stored)
    }

    /// Takes in a copy of a file on this host.
    pub async fn put_file(&self, path: &Path) -> Result<ImageFile, HostError> {
        let file = tokio::fs::File::open(path).await.map_err(|e| failed("read an image file", path, e))?;
        self.put(file, None).await
    }

    /// Where a file is, or would be.
    pub fn path(&self, file: &ImageFile) -> PathBuf {
        self.dir.join(&file.sha256)
    }

    /// Whether a file is here.
    pub fn has_file(&self, file: &ImageFile) -> bool {
        std::fs::metadata(self.path(file)).is_ok_and(|metadata| metadata.len() == file.size.0)
    }

    /// Whether all files of an image are here.
    pub fn has(&self, image: &Image) -> bool {
        image.files().all(|file| self.has_file(file))
    }

    /// Removes the files that none of `images` needs, and returns their hashes. A file that no hash names is
    /// not ours, and stays. A file that is being taken in stays too; one that was just taken in for an image
    /// that is not in the catalogue yet goes, so whoever imports must not call this at the same time.
    pub async fn remove_unreferenced(
        &self,
        images: impl IntoIterator<Item = &Image>,
    ) -> Result<Vec<String>, HostError> {
        let needed: BTreeSet<String> =
            images.into_iter().flat_map(Image::files).map(|file| file.sha256.clone()).collect();
        let what = |error| failed("remove images that nobody needs", &self.dir, error);
        let mut entries = tokio::fs::read_dir(&self.dir).await.map_err(what)?;
        let mut removed = Vec::new();
        while let Some(entry) = entries.next_entry().await.map_err(what)? {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if is_hash(&name) && !needed.contains(&name) {
                tokio::fs::remove_file(entry.path()).await.map_err(what)?;
                removed.push(name);
            }
        }
        removed.sort();
        Ok(removed)
    }
}

/// A temporary file that goes away unless it was renamed.
#[derive(Debug)]
struct Incoming {
    path: PathBuf,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "an unfinished image file cannot be removed");
            }
            Ok(()) | Err(_) => {}
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_hash(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn interrupted(error: &io::Error, size: u64) -> HostError {
    HostError::Failed(format!("the image file broke off after {size} bytes: {error}"))
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
    use super::*;

    /// printf hello | sha256sum
    const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    fn image(disk: ImageFile) -> Image {
        let json = serde_json::json!({
            "name": "tiny", "description": "", "disk": disk, "format": "raw", "virtual_size": 512,
            "kernel": null, "initrd": null, "kernel_command_line": null,
            "imported_at": "2026-01-01T00:00:00Z", "imported_on": "host1",
        });
        serde_json::from_value(json).unwrap()
    }

    fn names(files: &ImageFiles) -> Vec<String> {
        let entries = std::fs::read_dir(&files.dir).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_file_is_named_by_its_hash_and_stored_once() {
        let dir = tempfile::tempdir().unwrap();
        let files = ImageFiles::new(dir.path().join("images")).unwrap();
        let stored = files.put(&b"hello"[..], None).await.unwrap();
        assert_eq!(stored, ImageFile { sha256: HELLO.to_owned(), size: Bytes(5) });
        assert_eq!(files.put(&b"hello"[..], Some(&stored)).await.unwrap(), stored);
        assert_eq!(std::fs::read(files.path(&stored)).unwrap(), b"hello");
        assert_eq!(names(&files), [HELLO]);
        assert!(files.has(&image(stored.clone())));
        assert!(!files.has_file(&ImageFile { size: Bytes(6), ..stored }));
    }

    #[tokio::test]
    async fn what_was_not_expected_is_refused_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let files = ImageFiles::new(dir.path().to_owned()).unwrap();
        let hello = ImageFile { sha256: HELLO.to_owned(), size: Bytes(5) };
        for wrong in [&b"hellO"[..], b"hell", b"hello!"] {
            let error = files.put(wrong, Some(&hello)).await.unwrap_err().to_string();
            assert!(error.contains("it was refused"), "{error}");
        }
        assert!(names(&files).is_empty());
    }

    #[tokio::test]
    async fn what_nobody_needs_goes_and_what_is_foreign_stays() {
        let dir = tempfile::tempdir().unwrap();
        let files = ImageFiles::new(dir.path().to_owned()).unwrap();
        let hello = files.put(&b"hello"[..], None).await.unwrap();
        let other = files.put(&b"other"[..], None).await.unwrap();
        std::fs::write(dir.path().join("notes.txt"), b"mine").unwrap();
        std::fs::write(dir.path().join("incoming-1"), b"half").unwrap();
        let files = ImageFiles::new(dir.path().to_owned()).unwrap();
        assert_eq!(files.remove_unreferenced([&image(hello)]).await.unwrap(), [other.sha256]);
        assert_eq!(names(&files), [HELLO, "notes.txt"]);
    }
}
