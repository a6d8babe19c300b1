//! Running commands on a host of the lab.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result};

use super::process::{MARK, ProcessRef};
use super::space;
use super::state::Lab;

/// The name that stands for the switch, where a host's name is asked for.
const SWITCH: &str = "switch";

/// Runs a command with our own stdin, stdout and stderr; returns the exit status as a shell counts it.
pub fn exec(lab: &Lab, place: &str, words: &[OsString]) -> Result<i32> {
    let state = lab.load()?;
    let [program, arguments @ ..] = words else { return Ok(0) };
    let mut command = Command::new(program);
    command.args(arguments).env(MARK, &state.id);
    let shown = Path::new(program).display();
    let status = if place == SWITCH {
        space::in_network_of(state.living_switch()?, || {
            command.status().with_context(|| format!("run {shown} in the switch's network"))
        })?
    } else {
        let first = state.running("run a command on", place)?;
        run_in_host(first, command, |command| {
            command.status().with_context(|| format!("run {shown} on {place}"))
        })?
    };
    Ok(shell_status(status))
}

fn shell_status(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// Starts a command inside a host; `start` says how it is waited for.
pub fn run_in_host<T: Send>(
    first: ProcessRef,
    mut command: Command,
    start: impl FnOnce(&mut Command) -> Result<T> + Send,
) -> Result<T> {
    // Where we stand is often hidden in there only when it is below /run or /proc; then the root serves.
    let folder = std::env::current_dir().context("find the current folder")?;
    space::in_host(first, move || {
        let there = if folder.is_dir() { folder.as_path() } else { Path::new("/") };
        start(command.current_dir(there))
    })
}
