//! Other people's programs, run with a time limit.
//!
//! Everything here ends: a program that does not answer in time is killed, and one whose caller goes away is
//! killed too. What it printed on its error stream becomes part of the sentence that a person reads.

use std::ffi::OsStr;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

use crate::HostError;

/// Bytes of a program's complaint that are passed on; the last ones say the most.
const COMPLAINT_MAX: usize = 600;

/// A program with its arguments, quiet and without input.
pub(crate) fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.stdin(Stdio::null()).kill_on_drop(true).env("LC_ALL", "C.UTF-8");
    command
}

/// Runs a program to its end, whatever its exit status. `what` is a present-tense verb phrase, as in "inspect
/// the image".
pub(crate) async fn run(command: &mut Command, what: &str, limit: Duration) -> Result<Output, HostError> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    match tokio::time::timeout(limit, command.output()).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            let package = package_of(&name);
            Err(HostError::NotFound(format!(
                "cannot {what}: the program '{name}' is not installed; install the Debian package '{package}' \
                 (scripts/setup does)"
            )))
        }
        Ok(Err(error)) => Err(HostError::Failed(format!("cannot {what}: '{name}' does not start: {error}"))),
        Err(_) => Err(HostError::TimedOut(format!(
            "cannot {what}: '{name}' did not finish within {} s, and was ended",
            limit.as_secs()
        ))),
    }
}

/// Runs a program that must succeed, and returns what it printed.
pub(crate) async fn succeed(
    command: &mut Command,
    what: &str,
    limit: Duration,
) -> Result<Vec<u8>, HostError> {
    let output = run(command, what, limit).await?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    Err(HostError::Failed(format!(
        "cannot {what}: '{name}' ended with {}: {}",
        output.status,
        complaint(&output.stderr)
    )))
}

/// The end of what a program had to say, on one line.
pub(crate) fn complaint(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let joined = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    if joined.is_empty() {
        return "it said nothing".to_owned();
    }
    match joined.char_indices().rev().nth(COMPLAINT_MAX) {
        Some((start, _)) => format!("…{}", &joined[start..]),
        None => joined,
    }
}

fn package_of(program: &str) -> &str {
    match program {
        "qemu-img" => "qemu-utils",
        "qemu-system-x86_64" => "qemu-system-x86",
        "prlimit" | "losetup" | "mount" | "umount" => "util-linux",
        "sfdisk" => "fdisk",
        "mke2fs" => "e2fsprogs",
        "xz" => "xz-utils",
        "dpkg-deb" => "dpkg",
        "apt-get" | "apt-cache" => "apt",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_missing_program_names_its_package() {
        let error = run(&mut program("no-such-program"), "do it", LIMIT).await.unwrap_err();
        assert!(error.to_string().contains("install the Debian package 'no-such-program'"), "{error}");
    }

    #[tokio::test]
    async fn a_failure_passes_on_the_complaint() {
        let mut command = program("sh");
        command.args(["-c", "echo 'no room' >&2; exit 3"]);
        let error = succeed(&mut command, "do it", LIMIT).await.unwrap_err().to_string();
        assert!(error.contains("cannot do it") && error.contains("no room"), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended() {
        let mut command = program("sleep");
        command.arg("600");
        let error = run(&mut command, "wait", Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(error, HostError::TimedOut(_)), "{error}");
    }

    #[test]
    fn a_long_complaint_is_cut_at_its_beginning() {
        let long = "ä".repeat(5000) + " the end";
        let cut = complaint(long.as_bytes());
        assert!(cut.ends_with("the end") && cut.len() < 2000, "{cut}");
    }
}
