//! What may become an image: raw or qcow2, whole, and without a word about other files.
//!
//! An image file comes from anywhere, and QEMU's drivers do what a file's header says. A qcow2 header can
//! name a backing file or an external data file, such as another guest's volume or /etc/shadow. So the header
//! is read here first, and only what names no other file is shown to `qemu-img`, with its format given (never
//! guessed), and within limits on memory and time.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use model::{Bytes, ImageFormat};
use serde::Deserialize;
use tokio::process::Command;

use crate::program::{complaint, program, run, succeed};
use crate::{HostError, blocking};

/// What a disk's size is a multiple of.
const SECTOR_BYTES: u64 = 512;

/// Enough of a file to know it by: the volume descriptor of a tar archive and the like stand within.
const HEAD_BYTES: usize = 4096;

/// Memory that `qemu-img` may take: the tables of a qcow2 file of many terabytes fit in.
const QEMU_IMG_MEMORY_BYTES: u64 = 2 << 30;

/// Reading a header takes milliseconds.
const INFO_LIMIT: Duration = Duration::from_secs(30);

/// Reading all of a qcow2 file's tables from a slow disk takes minutes at worst.
const CHECK_LIMIT: Duration = Duration::from_secs(600);

const _: () = assert!(INFO_LIMIT.as_secs() < CHECK_LIMIT.as_secs());

/// What a file turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspection {
    pub format: ImageFormat,
    /// Size of the disk that a guest sees.
    pub virtual_size: Bytes,
}

/// Why a file does not become an image.
#[derive(Debug, thiserror::Error)]
pub enum NotAnImage {
    /// It is none that can be taken.
    #[error("{why}; {instead}")]
    Unfit {
        /// As in `it is empty`.
        why: String,
        /// What would work.
        instead: String,
    },
    /// It could not be found out.
    #[error(transparent)]
    Unknown(#[from] HostError),
}

/// Says what a file is, or why it cannot become an image.
pub async fn inspect(path: &Path) -> Result<Inspection, NotAnImage> {
    let path = std::path::absolute(path).map_err(|e| unreadable(path, &e))?;
    let head_path = path.clone();
    let head = blocking(move || Ok(Head::read(&head_path))).await??;
    let format = head.judge()?;
    let virtual_size = match format {
        ImageFormat::Raw => head.size,
        ImageFormat::Qcow2 => {
            check_qcow2(&path).await?;
            virtual_size(&path, format).await?.0
        }
    };
    if virtual_size == 0 {
        return Err(unfit("its disk has no size", "give a file that holds a disk"));
    }
    if virtual_size % SECTOR_BYTES != 0 {
        return Err(unfit(
            format!(
                "it is not qcow2, and its {virtual_size} bytes are not a raw disk either, which is a multiple of \
                 {SECTOR_BYTES} bytes"
            ),
            format!("if it really is one, `truncate -s %{SECTOR_BYTES} FILE` fills it up"),
        ));
    }
    Ok(Inspection { format, virtual_size: Bytes(virtual_size) })
}

/// The size of the disk in an image whose format is known.
pub(crate) async fn virtual_size(path: &Path, format: ImageFormat) -> Result<Bytes, HostError> {
    #[derive(Deserialize)]
    struct Info {
        #[serde(rename = "virtual-size")]
        virtual_size: u64,
    }
    let path = std::path::absolute(path).map_err(|e| unreadable(path, &e))?;
    let metadata = std::fs::metadata(&path).map_err(|e| unreadable(&path, &e))?;
    if format == ImageFormat::Raw {
        return Ok(Bytes(metadata.len()));
    }
    let mut info = qemu_img(INFO_LIMIT);
    info.args(["info", "--output=json", "-f", &format.to_string(), "--"]).arg(&path);
    let output = succeed(&mut info, "inspect the image", INFO_LIMIT).await?;
    let info: Info = serde_json::from_slice(&output)
        .map_err(|e| HostError::Failed(format!("qemu-img's account of it cannot be read: {e}")))?;
    Ok(Bytes(info.virtual_size))
}

/// Refuses a qcow2 file whose tables are damaged. Clusters that nobody refers to harm nobody.
async fn check_qcow2(path: &Path) -> Result<(), NotAnImage> {
    const SOUND: i32 = 0;
    const LEAKED_CLUSTERS_ONLY: i32 = 3;
    let mut check = qemu_img(CHECK_LIMIT);
    check.args(["check", "--output=json", "-f", "qcow2", "--"]).arg(path);
    let output = run(&mut check, "check the image", CHECK_LIMIT).await?;
    match output.status.code() {
        Some(SOUND | LEAKED_CLUSTERS_ONLY) => Ok(()),
        Some(_) | None => {
            // One line for each damaged cluster; the first says what kind of damage it is.
            let first = output.stderr.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let mut said = complaint(first);
            if said.len() < 16 {
                said = "its tables contradict each other".to_owned();
            }
            let said = said.trim_start_matches("ERROR: ");
            Err(unfit(
                format!("this qcow2 file is damaged or cut off ({said})"),
                "fetch it again, and compare its checksum",
            ))
        }
    }
}

/// `qemu-img` in a small room: what it takes must not depend on what a header claims.
fn qemu_img(limit: Duration) -> Command {
    let mut command = program("prlimit");
    command.arg(format!("--as={QEMU_IMG_MEMORY_BYTES}")).arg(format!("--cpu={}", limit.as_secs()));
    command.args(["--core=0", "qemu-img"]);
    command
}

/// A file's beginning and end.
#[derive(Debug)]
struct Head {
    size: u64,
    start: Vec<u8>,
    last_sector: Vec<u8>,
}

impl Head {
    fn read(path: &Path) -> Result<Self, NotAnImage> {
        let what = |error: std::io::Error| unreadable(path, &error);
        let mut file = File::open(path).map_err(what)?;
        let metadata = file.metadata().map_err(what)?;
        if !metadata.is_file() {
            return Err(unfit("it is not an ordinary file", "give a qcow2 or raw file"));
        }
        let mut start = Vec::new();
        (&mut file).take(HEAD_BYTES as u64).read_to_end(&mut start).map_err(what)?;
        file.seek(SeekFrom::Start(metadata.len().saturating_sub(SECTOR_BYTES))).map_err(what)?;
        let mut last_sector = Vec::new();
        file.read_to_end(&mut last_sector).map_err(what)?;
        Ok(Self { size: metadata.len(), start, last_sector })
    }

    /// The format, when it is one that we take and the header names no other file.
    fn judge(&self) -> Result<ImageFormat, NotAnImage> {
        if self.size == 0 {
            return Err(unfit("it is empty", "fetch it again, and compare its checksum"));
        }
        if self.start.starts_with(b"QFI\xfb") {
            return self.judge_qcow2().map(|()| ImageFormat::Qcow2);
        }
        match self.foreign() {
            None => Ok(ImageFormat::Raw),
            Some(Foreign::Disk { name, driver }) => Err(unfit(
                format!("it is a {name} file, and images are raw or qcow2"),
                format!("convert it first: `qemu-img convert -f {driver} -O qcow2 FILE FILE.qcow2`"),
            )),
            Some(Foreign::Packed { name, command }) => {
                Err(unfit(format!("it is packed with {name}"), format!("unpack it first: `{command}`")))
            }
        }
    }

    /// The fields stand in QEMU's docs/interop/qcow2.txt, all big-endian.
    fn judge_qcow2(&self) -> Result<(), NotAnImage> {
        const EXTERNAL_DATA_FILE: u64 = 1 << 2;
        const MAKE_ONE: &str = "make one file of the two: `qemu-img convert -O qcow2 FILE FILE.qcow2`";
        let cut_off = || unfit("this qcow2 file ends within its header", "fetch it again");
        let version = self.u32_at(4).ok_or_else(cut_off)?;
        if !(2..=3).contains(&version) {
            return Err(unfit(
                format!("it is a qcow file of version {version}"),
                "convert it to version 2 or 3: `qemu-img convert -O qcow2 FILE FILE.qcow2`",
            ));
        }
        if self.u64_at(8).ok_or_else(cut_off)? != 0 {
            let why = "it is only the difference to a backing file, which images may not have";
            return Err(unfit(why, MAKE_ONE));
        }
        if self.u32_at(32).ok_or_else(cut_off)? != 0 {
            return Err(unfit(
                "it is encrypted, and nobody here has the key",
                "convert it to one that is not",
            ));
        }
        if version == 3 && self.u64_at(72).ok_or_else(cut_off)? & EXTERNAL_DATA_FILE != 0 {
            return Err(unfit(
                "its content is in an external data file, which images may not have",
                MAKE_ONE,
            ));
        }
        Ok(())
    }

    fn u32_at(&self, offset: usize) -> Option<u32> {
        Some(u32::from_be_bytes(self.start.get(offset..offset + 4)?.try_into().ok()?))
    }

    fn u64_at(&self, offset: usize) -> Option<u64> {
        Some(u64::from_be_bytes(self.start.get(offset..offset + 8)?.try_into().ok()?))
    }

    /// Formats that people try, by their magic numbers.
    fn foreign(&self) -> Option<Foreign> {
        let at = |offset: usize, magic: &[u8]| self.start.get(offset..).is_some_and(|s| s.starts_with(magic));
        let disk = |name, driver| Some(Foreign::Disk { name, driver });
        let packed = |name, command| Some(Foreign::Packed { name, command });
        if at(0, b"KDMV") || at(0, b"COWD") || at(0, b"# Disk DescriptorFile") {
            disk("VMDK", "vmdk")
        } else if at(0x40, &0xbeda_107f_u32.to_le_bytes()) {
            disk("VDI", "vdi")
        } else if at(0, b"vhdxfile") {
            disk("VHDX", "vhdx")
        } else if at(0, b"conectix") || self.last_sector.starts_with(b"conectix") {
            disk("VHD", "vpc")
        } else if at(0, b"QED\0") {
            disk("QED", "qed")
        } else if at(0, b"LUKS\xba\xbe") {
            disk("LUKS", "luks")
        } else if at(0, b"\xfd7zXZ\0") {
            packed("xz", "xz -d FILE")
        } else if at(0, b"\x1f\x8b") {
            packed("gzip", "gunzip FILE")
        } else if at(0, b"\x28\xb5\x2f\xfd") {
            packed("zstd", "zstd -d FILE")
        } else if at(0, b"BZh") {
            packed("bzip2", "bunzip2 FILE")
        } else if at(0, b"PK\x03\x04") {
            packed("zip", "unzip FILE")
        } else if at(257, b"ustar") {
            packed("tar", "tar -xf FILE")
        } else {
            None
        }
    }
}

/// What a file is that is neither raw nor qcow2.
#[derive(Debug, Clone, Copy)]
enum Foreign {
    Disk { name: &'static str, driver: &'static str },
    Packed { name: &'static str, command: &'static str },
}

fn unfit(why: impl Into<String>, instead: impl Into<String>) -> NotAnImage {
    NotAnImage::Unfit { why: why.into(), instead: instead.into() }
}

fn unreadable(path: &Path, error: &std::io::Error) -> HostError {
    let sentence = format!("cannot read the image file {}: {error}", path.display());
    if error.kind() == std::io::ErrorKind::NotFound {
        HostError::NotFound(sentence)
    } else {
        HostError::Failed(sentence)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use super::*;

    async fn make(arguments: &[&str], dir: &Path) {
        let mut command = program("qemu-img");
        command.current_dir(dir).args(arguments);
        succeed(&mut command, "make a test image", INFO_LIMIT).await.unwrap();
    }

    async fn check_refused(path: PathBuf, wanted: &str) {
        let error = inspect(&path).await.unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}\ndoes not say: {wanted}");
    }

    #[tokio::test]
    async fn raw_and_qcow2_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        make(&["create", "-f", "raw", "a.raw", "3M"], dir.path()).await;
        make(&["create", "-f", "qcow2", "a.qcow2", "10G"], dir.path()).await;
        make(&["create", "-f", "qcow2", "-o", "compat=0.10", "old.qcow2", "1G"], dir.path()).await;
        for (name, format, virtual_size) in [
            ("a.raw", ImageFormat::Raw, Bytes::mib(3)),
            ("a.qcow2", ImageFormat::Qcow2, Bytes::gib(10)),
            ("old.qcow2", ImageFormat::Qcow2, Bytes::gib(1)),
        ] {
            let found = inspect(&dir.path().join(name)).await.unwrap();
            assert_eq!(found, Inspection { format, virtual_size }, "{name}");
        }
    }

    #[tokio::test]
    async fn other_formats_are_named_with_what_would_work() {
        let dir = tempfile::tempdir().unwrap();
        for (format, name) in
            [("vmdk", "VMDK"), ("vdi", "VDI"), ("vhdx", "VHDX"), ("vpc", "VHD"), ("qed", "QED")]
        {
            make(&["create", "-f", format, format, "8M"], dir.path()).await;
            check_refused(dir.path().join(format), &format!("it is a {name} file")).await;
            check_refused(dir.path().join(format), &format!("qemu-img convert -f {format} -O qcow2")).await;
        }
        let packed = dir.path().join("a.qcow2.xz");
        std::fs::write(&packed, b"\xfd7zXZ\0 and so on").unwrap();
        check_refused(packed, "unpack it first: `xz -d FILE`").await;
    }

    #[tokio::test]
    async fn what_names_another_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        make(&["create", "-f", "raw", "base", "1M"], dir.path()).await;
        make(&["create", "-f", "qcow2", "-b", "base", "-F", "raw", "backed"], dir.path()).await;
        make(&["create", "-f", "qcow2", "-o", "data_file=data,data_file_raw=on", "split", "1M"], dir.path())
            .await;
        check_refused(dir.path().join("backed"), "backing file").await;
        check_refused(dir.path().join("split"), "external data file").await;
    }

    #[tokio::test]
    async fn broken_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        check_refused(dir.path().join("missing"), "cannot read the image file").await;
        std::fs::write(dir.path().join("empty"), b"").unwrap();
        check_refused(dir.path().join("empty"), "it is empty").await;
        std::fs::write(dir.path().join("odd"), b"not a disk").unwrap();
        check_refused(dir.path().join("odd"), "a multiple of 512").await;
        std::fs::write(dir.path().join("short"), b"QFI\xfb\0\0\0\x03").unwrap();
        check_refused(dir.path().join("short"), "ends within its header").await;
        make(&["create", "-f", "qcow2", "zero", "0"], dir.path()).await;
        check_refused(dir.path().join("zero"), "no size").await;
        check_refused(dir.path().to_owned(), "not an ordinary file").await;
    }

    #[tokio::test]
    async fn a_damaged_or_truncated_qcow2_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("source"), vec![7u8; 4 << 20]).unwrap();
        for name in ["damaged", "truncated"] {
            make(&["convert", "-f", "raw", "-O", "qcow2", "source", name], dir.path()).await;
        }
        let mut damaged = File::options().write(true).open(dir.path().join("damaged")).unwrap();
        damaged.seek(SeekFrom::Start(3 << 16)).unwrap();
        damaged.write_all(&[0xff; 4096]).unwrap();
        check_refused(dir.path().join("damaged"), "is damaged").await;
        File::options().write(true).open(dir.path().join("truncated")).unwrap().set_len(2 << 20).unwrap();
        check_refused(dir.path().join("truncated"), "is damaged").await;
    }
}
