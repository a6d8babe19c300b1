//! What a guest showed and said last before it was reset or ended without being asked to: the last few of each guest,
//! beside its logs, for as long as it is not deleted.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::{HostError, Picture};

/// So many are kept of each guest.
const KEPT: usize = 5;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastMoment {
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// One sentence without a full stop.
    pub why: String,
    /// The end of what it said on its serial port.
    pub lines: Vec<u8>,
    pub picture: Option<Picture>,
}

/// As a file holds it.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    at_ms: i64,
    why: String,
    lines: String,
    picture: Option<(String, String)>,
}

/// Keeps one more, and forgets the oldest.
pub(super) fn keep(folder: &Path, moment: &LastMoment) -> Result<(), HostError> {
    let failed = |what: &Path, error: std::io::Error| {
        HostError::Failed(format!("cannot keep what a guest showed last in {}: {error}", what.display()))
    };
    std::fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    let picture =
        moment.picture.as_ref().map(|picture| (picture.format.clone(), BASE64.encode(&picture.bytes)));
    let kept =
        Kept { at_ms: moment.at_ms, why: moment.why.clone(), lines: BASE64.encode(&moment.lines), picture };
    let path = folder.join(format!("{:016}.json", moment.at_ms));
    let bytes = serde_json::to_vec(&kept).map_err(|error| failed(&path, error.into()))?;
    std::fs::write(&path, bytes).map_err(|error| failed(&path, error))?;
    let files = files(folder);
    for old in files.iter().take(files.len().saturating_sub(KEPT)) {
        std::fs::remove_file(old).map_err(|error| failed(old, error))?;
    }
    Ok(())
}

/// Those that are kept, oldest first. One that cannot be read is left out.
pub(super) fn list(folder: &Path) -> Vec<LastMoment> {
    let read = |path: &PathBuf| {
        let kept: Kept = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        let picture = match kept.picture {
            Some((format, bytes)) => Some(Picture { format, bytes: BASE64.decode(bytes).ok()? }),
            None => None,
        };
        Some(LastMoment { at_ms: kept.at_ms, why: kept.why, lines: BASE64.decode(kept.lines).ok()?, picture })
    };
    files(folder).iter().filter_map(read).collect()
}

/// By their names, which are their times.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_few_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("last-moments");
        assert_eq!(list(&folder), []);
        let picture = Some(Picture { format: "png".to_owned(), bytes: vec![1, 2] });
        let one = |at_ms| LastMoment {
            at_ms,
            why: "it panicked".into(),
            lines: b"oops\xff".to_vec(),
            picture: picture.clone(),
        };
        for at_ms in [1, 7, 3, 20, 5, 100, 9] {
            keep(&folder, &one(at_ms)).unwrap();
        }
        // The oldest went, also when it had just come.
        assert_eq!(list(&folder), [5, 7, 9, 20, 100].map(one));
    }
}
