//! The archive that the kernel takes for its initial file system: cpio's "newc" form, uncompressed.
//!
//! Documented in the kernel's Documentation/driver-api/early-userspace/buffer-format.rst: for each file a
//! header of ASCII numbers, the name, and the content, each padded to four bytes. Uncompressed, because under
//! emulation unpacking costs more than reading.

const TYPE_DIR: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_LINK: u32 = 0o120_000;
const TYPE_CHARACTER_DEVICE: u32 = 0o020_000;

/// Where the kernel looks for `/dev/console` before anything is mounted.
const CONSOLE: (u32, u32) = (5, 1);

/// An archive that grows. Everything belongs to root, and nothing has a date: equal input, equal bytes.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

struct Entry<'a> {
    path: &'a str,
    mode: u32,
    device: (u32, u32),
    content: &'a [u8],
}

impl Archive {
    pub(super) fn dir(&mut self, path: &str) {
        self.push(&Entry { path, mode: TYPE_DIR | 0o755, device: (0, 0), content: b"" });
    }

    pub(super) fn file(&mut self, path: &str, content: &[u8]) {
        self.push(&Entry { path, mode: TYPE_FILE | 0o644, device: (0, 0), content });
    }

    pub(super) fn program(&mut self, path: &str, content: &[u8]) {
        self.push(&Entry { path, mode: TYPE_FILE | 0o755, device: (0, 0), content });
    }

    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.push(&Entry { path, mode: TYPE_LINK | 0o777, device: (0, 0), content: target.as_bytes() });
    }

    pub(super) fn console(&mut self, path: &str) {
        self.push(&Entry { path, mode: TYPE_CHARACTER_DEVICE | 0o600, device: CONSOLE, content: b"" });
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.push(&Entry { path: "TRAILER!!!", mode: 0, device: (0, 0), content: b"" });
        self.bytes
    }

    fn push(&mut self, entry: &Entry<'_>) {
        self.entries += 1;
        let path = entry.path.trim_start_matches('/');
        let fields = [
            self.entries,
            entry.mode,
            0, // user
            0, // group
            1, // links
            0, // date
            u32::try_from(entry.content.len()).unwrap_or(u32::MAX),
            0,
            0,
            entry.device.0,
            entry.device.1,
            u32::try_from(path.len() + 1).unwrap_or(u32::MAX),
            0, // checksum, unused in this form
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(entry.content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_the_kernels_form() {
        let mut archive = Archive::default();
        archive.dir("/bin");
        archive.program("/bin/a", b"hello");
        archive.link("/bin/b", "a");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 4);
        // Entry 2: an executable file of 5 bytes whose name has 5 characters and its final zero byte.
        assert!(text.contains(
            "070701\
             00000002000081ed000000000000000000000001000000000000000500000000000000000000000000000000\
             0000000600000000bin/a\0"
        ));
        assert!(text.contains("TRAILER!!!"));
    }
}
