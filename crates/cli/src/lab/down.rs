//! `kennel lab down`: whatever state the lab is in, nothing of it is left.
//!
//! Networks and mounts need no care: they belong to namespaces, which end with their last process. Only disks of the
//! hosts' own are the machine's (see [`super::disk`]).

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::process::{ProcessRef, processes_of_lab, wait_until};
use super::state::Lab;
use super::{disk, say};

/// For all processes to end; a guest's memory takes the kernel a moment.
const END_LIMIT: Duration = Duration::from_secs(60);

pub fn run(lab: &Lab) -> Result<()> {
    if !lab.exists() && lab.folder.is_dir() && lab.is_stillborn()? {
        fs::remove_dir_all(&lab.folder).with_context(|| format!("remove {}", lab.folder.display()))?;
        say("an `up` had died before it made anything; its empty folder is removed");
        return Ok(());
    }
    let name = take_down(lab)?;
    say(&format!("lab {name} is gone: its processes, its networks, its folder"));
    Ok(())
}

/// Ends and removes all of it; returns the lab's name.
pub fn take_down(lab: &Lab) -> Result<String> {
    let state = lab.load()?;
    // An `up` that still builds would go on making what is taken away.
    let me = ProcessRef::of(std::process::id())?;
    if !state.complete && state.builder != me {
        state.builder.end().context("end the `up` that builds the lab")?;
    }
    // Read again: the builder may have written in the meantime.
    let state = lab.load()?;
    let namespaces: BTreeSet<String> =
        state.hosts.iter().filter_map(|host| host.running()?.pid_namespace()).collect();
    let mut known = BTreeSet::new();
    let gone = wait_until(END_LIMIT, "the lab's processes to end", || {
        // Again and again: one may have started another before it was killed.
        let processes = processes_of_lab(&state.id, namespaces.clone())?;
        for process in &processes {
            process.signal(Signal::SIGKILL)?;
        }
        known = processes.iter().map(|process| process.pid).collect();
        Ok(processes.is_empty().then_some(()))
    });
    if gone.is_err() {
        bail!(
            "cannot take down lab {}: processes {known:?} do not end, most likely because they wait for a disk; \
             `kennel lab down` may be tried again",
            state.name
        );
    }
    disk::unmount_all(lab, &state)?;
    fs::remove_dir_all(&lab.folder).with_context(|| format!("remove {}", lab.folder.display()))?;
    if let (true, Some(base)) = (state.made_base, lab.folder.parent()) {
        // Not when another lab has moved in since.
        let _ = fs::remove_dir(base);
    }
    Ok(state.name)
}
