//! What runs the guests' instructions on this host, found out by trying.
//!
//! `/dev/kvm` can be there and openable while every guest hangs in it (nested virtualisation does that). So
//! the tiny guest is booted once under KVM, in a throw-away QEMU without disks, and must say that it is up.
//! Everything short of that means emulation (TCG), with the reason for `kennel host show`.
//!
//! The agent asks once for each boot of the host, and again when the image `tiny` arrives; it keeps the answer.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use model::{Accelerator, AcceleratorKind};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::image::build::{TINY_COMMAND_LINE, TINY_UP};
use crate::program::program;

/// Under a KVM that works the tiny guest is up in two seconds, on a busy host in a few.
const BOOT_LIMIT: Duration = Duration::from_secs(20);

/// Bytes of console output that are looked at; the tiny guest prints some hundred.
const OUTPUT_MAX: usize = 1 << 20;

const KVM_DEVICE: &str = "/dev/kvm";

/// Says which accelerator serves here, and why. `tiny` is the tiny image's kernel and initial RAM disk, once
/// they are on this host. Takes up to 20 s; the QEMU that it starts is gone when it returns.
pub async fn detect(qemu_binary: &Path, tiny: Option<(&Path, &Path)>) -> Accelerator {
    if let Err(error) = OpenOptions::new().read(true).write(true).open(KVM_DEVICE) {
        return tcg(if error.kind() == io::ErrorKind::NotFound {
            format!("this host has no {KVM_DEVICE}")
        } else {
            format!("{KVM_DEVICE} cannot be opened ({error}); kenneld needs root, or the group kvm")
        });
    }
    let Some((kernel, initrd)) = tiny else {
        return tcg("KVM is present, but untested until the image 'tiny' is here".to_owned());
    };
    match boot(qemu_binary, AcceleratorKind::Kvm, kernel, initrd, BOOT_LIMIT).await {
        Ok(()) => {
            Accelerator { kind: AcceleratorKind::Kvm, why: "the tiny guest booted under KVM".to_owned() }
        }
        Err(why) => tcg(format!("KVM is present, but {why}")),
    }
}

fn tcg(why: String) -> Accelerator {
    Accelerator { kind: AcceleratorKind::Tcg, why }
}

/// Boots the tiny guest, and ends it as soon as it is up; says what went wrong otherwise.
async fn boot(
    qemu_binary: &Path,
    accelerator: AcceleratorKind,
    kernel: &Path,
    initrd: &Path,
    limit: Duration,
) -> Result<(), String> {
    let mut qemu = program(qemu_binary);
    let processor = match accelerator {
        AcceleratorKind::Kvm => "host",
        AcceleratorKind::Tcg => "max",
    };
    qemu.args(["-M", "q35", "-accel", &accelerator.to_string(), "-cpu", processor, "-m", "128"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"])
        .args(["-append", TINY_COMMAND_LINE])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child =
        qemu.spawn().map_err(|error| format!("'{}' does not start: {error}", qemu_binary.display()))?;
    let (Some(mut console), Some(mut complaints)) = (child.stdout.take(), child.stderr.take()) else {
        return Err("QEMU's output cannot be read".to_owned());
    };
    let up = tokio::time::timeout(limit, says_up(&mut console)).await;
    // Whether it hangs or works: it has served. Only this very process is ended.
    let ended = child.kill().await;
    if let Err(error) = ended {
        tracing::warn!(%error, "the QEMU of the accelerator's test cannot be ended");
    }
    match up {
        Ok(true) => Ok(()),
        Ok(false) => {
            let mut said = Vec::new();
            // Its pipe is closed now, so this ends.
            let read = (&mut complaints).take(OUTPUT_MAX as u64).read_to_end(&mut said).await;
            let said = read.map_or_else(|error| error.to_string(), |_| crate::program::complaint(&said));
            Err(format!("QEMU ended before the tiny guest was up: {said}"))
        }
        Err(_) => Err(format!("the tiny guest did not boot under it within {} s", limit.as_secs())),
    }
}

/// Reads until the guest is up (true) or there is nothing more to read.
async fn says_up(console: &mut (impl AsyncRead + Unpin)) -> bool {
    let mut said = Vec::new();
    let mut chunk = [0; 4096];
    while said.len() < OUTPUT_MAX {
        match console.read(&mut chunk).await {
            Ok(read) if read > 0 => said.extend_from_slice(&chunk[..read]),
            Ok(_) | Err(_) => return false,
        }
        if said.windows(TINY_UP.len()).any(|window| window == TINY_UP.as_bytes()) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A QEMU that is a shell script.
    fn fake(dir: &Path, script: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.join("qemu");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    async fn try_boot(script: &str, limit: Duration) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let nothing = dir.path().join("nothing");
        boot(&fake(dir.path(), script), AcceleratorKind::Kvm, &nothing, &nothing, limit).await
    }

    #[tokio::test]
    async fn a_guest_that_says_up_is_up_and_ended() {
        try_boot("printf 'KENNEL-GU'; echo 'EST-UP tiny'; exec sleep 600", BOOT_LIMIT).await.unwrap();
    }

    #[tokio::test]
    async fn a_guest_that_hangs_is_ended() {
        let why = try_boot("echo Booting; exec sleep 600", Duration::from_millis(200)).await.unwrap_err();
        assert!(why.contains("did not boot under it within"), "{why}");
    }

    #[tokio::test]
    async fn a_qemu_that_fails_says_why() {
        let why = try_boot("echo 'no KVM for you' >&2; exit 1", BOOT_LIMIT).await.unwrap_err();
        assert!(why.contains("ended before") && why.contains("no KVM for you"), "{why}");
        let missing = Path::new("/no/such/qemu");
        let why = boot(missing, AcceleratorKind::Kvm, missing, missing, BOOT_LIMIT).await.unwrap_err();
        assert!(why.contains("does not start"), "{why}");
    }

    #[tokio::test]
    async fn without_the_tiny_image_nothing_is_trusted() {
        let found = detect(Path::new("/no/such/qemu"), None).await;
        assert_eq!(found.kind, AcceleratorKind::Tcg);
        assert!(!found.why.is_empty());
    }
}
