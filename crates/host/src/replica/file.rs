//! What a host says of the file behind an export, in the export's description: so it is always that of the very file
//! that is served.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

/// Between the two parts of a description.
const BLANK: &str = " blank";

/// A file behind an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFacts {
    /// The file's number and when it was made, which together no other file of that host ever has.
    pub id: String,
    /// Nothing had ever been written to it when it was opened.
    pub is_blank: bool,
}

impl FileFacts {
    /// None: the file system does not know when its files were made.
    pub fn of(file: &File) -> io::Result<Option<FileFacts>> {
        let metadata = file.metadata()?;
        let Ok(made) = metadata.created() else { return Ok(None) };
        let nanoseconds = made.duration_since(SystemTime::UNIX_EPOCH).map_err(io::Error::other)?.as_nanos();
        let is_blank = match lseek(file, 0, Whence::SeekData) {
            // What is allocated and was never written counts as a hole.
            Err(Errno::ENXIO) => true,
            Ok(_) | Err(_) => false,
        };
        Ok(Some(FileFacts { id: format!("{}-{nanoseconds}", metadata.ino()), is_blank }))
    }

    /// The other way round from how it is written.
    pub fn parse(text: &str) -> Option<FileFacts> {
        let (id, is_blank) = text.strip_suffix(BLANK).map_or((text, false), |id| (id, true));
        let known = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        known.then(|| FileFacts { id: id.to_owned(), is_blank })
    }
}

impl fmt::Display for FileFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)?;
        f.write_str(if self.is_blank { BLANK } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_file_that_is_made_anew_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replica");
        let make = || {
            let file = File::create_new(&path).unwrap();
            file.set_len(1 << 20).unwrap();
            file
        };
        let facts = |file: &File| FileFacts::of(file).unwrap().expect("this file system knows");
        let file = make();
        let blank = facts(&file);
        assert!(blank.is_blank);
        file.write_all_at(b"data", 1 << 19).unwrap();
        let written = facts(&file);
        assert_eq!(written, FileFacts { is_blank: false, ..blank.clone() });
        for facts in [&blank, &written] {
            assert_eq!(FileFacts::parse(&facts.to_string()).as_ref(), Some(facts));
        }
        drop(file);
        std::fs::remove_file(&path).unwrap();
        assert_ne!(facts(&make()).id, blank.id);
        assert_eq!(FileFacts::parse(""), None);
        assert_eq!(FileFacts::parse("something else"), None);
    }
}
