//! Keeps the log of a guest's serial port bounded. QEMU appends to it, and goes on at the new end when it
//! is cut short.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::SystemTime;

/// When a log is cut, bytes.
const LENGTH_MAX: u64 = 4 << 20;

/// Cuts a log that has grown too long. What it held last goes to the file of that name with `.1` behind it;
/// what the guest says at that very moment may be missing there.
pub(crate) fn bound(log: &Path) -> std::io::Result<()> {
    let mut file = match File::options().read(true).write(true).open(log) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    if length <= LENGTH_MAX {
        return Ok(());
    }
    file.seek(SeekFrom::Start(length - LENGTH_MAX))?;
    let mut older = log.as_os_str().to_owned();
    older.push(".1");
    std::io::copy(&mut (&mut file).take(LENGTH_MAX), &mut File::create(older)?)?;
    file.set_len(0)
}

/// The end of a log: so many bytes at most. A guest that has said nothing yet has none.
pub(crate) fn tail(log: &Path, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    let mut file = match File::open(log) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes_max)))?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// As [`tail`], with when it was said. `None`: nothing was.
pub(crate) fn last(log: &Path, bytes_max: u64) -> std::io::Result<Option<(Vec<u8>, SystemTime)>> {
    let bytes = tail(log, bytes_max)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let at = std::fs::metadata(log)?.modified()?;
    Ok(Some((bytes, at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_is_cut_and_its_tail_kept() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("serial.log");
        bound(&log).unwrap();
        std::fs::write(&log, b"short").unwrap();
        bound(&log).unwrap();
        assert_eq!(std::fs::read(&log).unwrap(), b"short");
        assert_eq!(tail(&log, 3).unwrap(), b"ort");
        assert_eq!(tail(&log, 30).unwrap(), b"short");
        assert_eq!(tail(&folder.path().join("none"), 30).unwrap(), b"");
        assert_eq!(last(&log, 3).unwrap().unwrap().0, b"ort");
        assert_eq!(last(&folder.path().join("none"), 30).unwrap(), None);
        let mut long = vec![b'a'; 100];
        long.resize(usize::try_from(LENGTH_MAX).unwrap() + 100, b'b');
        std::fs::write(&log, &long).unwrap();
        bound(&log).unwrap();
        assert_eq!(std::fs::metadata(&log).unwrap().len(), 0);
        assert_eq!(std::fs::read(folder.path().join("serial.log.1")).unwrap(), &long[100..]);
    }
}
