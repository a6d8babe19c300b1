//! A host's power, and what else can happen to its processes.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::process::{self, MARK, ProcessRef, wait_until};
use super::state::{Host, Lab, State};
use super::{network, say, space};

/// For signals to take effect: at once, unless the machine is very busy.
const SIGNAL_LIMIT: Duration = Duration::from_secs(20);

/// What can be done to one program of a host.
#[derive(Debug, Clone, Copy)]
pub enum Blow {
    Kill,
    Freeze,
    Thaw,
}

impl Blow {
    fn verb(self) -> &'static str {
        match self {
            Blow::Kill => "kill",
            Blow::Freeze => "freeze",
            Blow::Thaw => "thaw",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Blow::Kill => "killed",
            Blow::Freeze => "frozen",
            Blow::Thaw => "goes on",
        }
    }

    fn signal(self) -> Signal {
        match self {
            Blow::Kill => Signal::SIGKILL,
            Blow::Freeze => Signal::SIGSTOP,
            Blow::Thaw => Signal::SIGCONT,
        }
    }

    fn has_struck(self, process: ProcessRef) -> bool {
        match self {
            Blow::Kill => !process.is_alive(),
            Blow::Freeze => !process.is_alive() || process.is_stopped(),
            Blow::Thaw => !process.is_stopped(),
        }
    }
}

/// Gives a host power; refuses when it has some.
pub fn on(lab: &Lab, name: &str) -> Result<()> {
    lab.edit(|state| {
        if state.host("power on", name)?.running().is_some() {
            bail!(
                "cannot power on {name}: it has power already; `kennel lab power-off {name}` takes it away"
            );
        }
        turn_on(lab, state, name)
    })
}

/// Takes a host's power; refuses when it has none.
pub fn off(lab: &Lab, name: &str) -> Result<()> {
    lab.edit(|state| {
        state.running("power off", name)?;
        turn_off(state, name)
    })
}

/// Gives a host power unless it has some.
pub fn turn_on(lab: &Lab, state: &mut State, name: &str) -> Result<()> {
    let host = state.host("power on", name)?.clone();
    if host.running().is_some() {
        return Ok(());
    }
    let switch = state.living_switch()?;
    network::unplug(switch, &host)?;
    let folder = lab.host_folder(name);
    fs::create_dir_all(folder.join("state")).with_context(|| format!("make {}", folder.display()))?;
    let log = folder.join("kenneld.log");
    let mut command = Command::new(&state.kennel);
    command
        .args(["lab", "host-init"])
        .arg(&lab.folder)
        .arg(name)
        .env(MARK, &state.id)
        .env_remove("KENNEL_CONFIG")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(super::open_log(&log)?);
    let mut child = space::spawn_in_new(&mut command).with_context(|| format!("power on {name}"))?;
    let first = ProcessRef::of(child.id())?;
    state.host_mut("power on", name)?.first_process = Some(first);
    let started = network::plug_in(switch, &host, first).and_then(|()| boot(&mut child));
    if let Err(error) = started {
        turn_off(state, name)?;
        return Err(error.context(format!("power on {name}: {}", super::last_line(&log))));
    }
    Ok(())
}

/// Tells the first process that its network is there, and hears from it when kenneld runs.
fn boot(child: &mut Child) -> Result<()> {
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        bail!("the host's first process has no pipes");
    };
    writeln!(stdin, "go").context("tell the host to go on")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).context("listen to the host")?;
    if line.trim_end() != "ready" {
        bail!("its first process ended before kenneld ran");
    }
    Ok(())
}

/// Takes a host's power, if it has any: its links first, so that it says no farewell, then all its processes at
/// once. When this returns, none is left.
pub fn turn_off(state: &mut State, name: &str) -> Result<()> {
    let host: Host = state.host("power off", name)?.clone();
    let switch = state.living_switch().ok();
    if let Some(first) = host.running() {
        if let Some(switch) = switch {
            // A host whose start failed may have no links yet.
            let _ = network::silence(switch, &host);
        }
        // The kernel has ended all others of its namespace before this one counts as ended.
        first.end().with_context(|| format!("power off {name}"))?;
    }
    if let Some(switch) = switch {
        network::unplug(switch, &host)?;
    }
    state.host_mut("power off", name)?.first_process = None;
    Ok(())
}

/// Stops every process of a host.
pub fn pause(lab: &Lab, name: &str) -> Result<()> {
    let first = lab.load()?.running("pause", name)?;
    let namespace = namespace_of(first, name)?;
    wait_until(SIGNAL_LIMIT, &format!("all processes of {name} to stop"), || {
        // Again and again: one that was not stopped yet may have started another.
        let mut all_stopped = true;
        for process in process::members_of(&namespace)? {
            if !process.is_stopped() {
                all_stopped = false;
                process.signal(Signal::SIGSTOP)?;
            }
        }
        Ok(all_stopped.then_some(()))
    })?;
    say(&format!("{name} is paused"));
    Ok(())
}

/// Lets every process of a host go on.
pub fn resume(lab: &Lab, name: &str) -> Result<()> {
    let first = lab.load()?.running("resume", name)?;
    if !first.is_stopped() {
        bail!("cannot resume {name}: it is not paused; `kennel lab status` shows what is");
    }
    for process in process::members_of(&namespace_of(first, name)?)? {
        process.signal(Signal::SIGCONT)?;
    }
    say(&format!("{name} goes on"));
    Ok(())
}

/// Strikes every process of a host that runs the program, and waits for it to take effect.
pub fn strike(lab: &Lab, name: &str, program: &str, blow: Blow) -> Result<()> {
    let wish = format!("{} {program} on", blow.verb());
    let first = lab.load()?.running(&wish, name)?;
    let mut others = BTreeSet::new();
    let mut targets = Vec::new();
    for process in process::members_of(&namespace_of(first, name)?)? {
        let names = process::names_of(process);
        if process == first {
            continue;
        } else if names.contains(program) {
            targets.push(process);
        } else {
            others.extend(names);
        }
    }
    if targets.is_empty() {
        let others: Vec<String> = others.into_iter().collect();
        let known = if others.is_empty() { "nothing".to_owned() } else { others.join(", ") };
        bail!("cannot {wish} {name}: no such program runs there; what runs: {known}");
    }
    for process in targets {
        process.signal(blow.signal())?;
        wait_until(SIGNAL_LIMIT, &format!("process {} to be {}", process.pid, blow.done()), || {
            Ok(blow.has_struck(process).then_some(()))
        })?;
        say(&format!("{program} on {name} (process {}): {}", process.pid, blow.done()));
    }
    Ok(())
}

fn namespace_of(first: ProcessRef, name: &str) -> Result<String> {
    first.pid_namespace().with_context(|| format!("find the processes of {name}"))
}
