//! Namespaces: making new ones, and acting inside those of another process.
//!
//! The kernel keeps a namespace per thread, so each visit happens in a thread of its own that ends with it, and
//! whatever the thread starts belongs to the place visited. Nothing of the caller changes.

use std::fs::File;
use std::io::Write;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns, unshare};

use super::process::ProcessRef;

/// Everything that a host has of its own.
fn host_namespaces() -> CloneFlags {
    CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
}

/// Runs `act` in a thread that has left its file-system context with the caller, as mount namespaces demand.
fn apart<T: Send>(act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| match scope.spawn(act).join() {
        Ok(result) => result,
        Err(_) => Err(anyhow!("the thread that was to act in another namespace panicked")),
    })
}

/// Starts the command as the first process of a new set of namespaces.
pub fn spawn_in_new(command: &mut Command) -> Result<Child> {
    apart(|| {
        unshare(host_namespaces()).context("make namespaces for a host")?;
        command.spawn().context("start a host's first process")
    })
}

/// Gives the calling process a new, empty network.
pub fn leave_network() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")
}

/// Acts in the network of another process.
pub fn in_network_of<T: Send>(process: ProcessRef, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let network = open(process, "net")?;
    apart(|| {
        setns(network, CloneFlags::CLONE_NEWNET).context("enter a network namespace")?;
        act()
    })
}

/// Acts in all namespaces of a host, given its first process. `act` cannot make threads.
pub fn in_host<T: Send>(first: ProcessRef, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let kinds = [
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("net", CloneFlags::CLONE_NEWNET),
        ("pid", CloneFlags::CLONE_NEWPID),
        // The last, because what the others are opened by is not to be seen from there.
        ("mnt", CloneFlags::CLONE_NEWNS),
    ];
    let mut opened = Vec::new();
    for (kind, flag) in kinds {
        opened.push((kind, flag, open(first, kind)?));
    }
    apart(move || {
        unshare(CloneFlags::CLONE_FS).context("leave the file-system context")?;
        for (kind, flag, file) in opened {
            setns(file, flag).with_context(|| format!("enter the host's {kind} namespace"))?;
        }
        act()
    })
}

fn open(process: ProcessRef, kind: &str) -> Result<File> {
    let path = format!("/proc/{}/ns/{kind}", process.pid);
    let file = File::open(&path).with_context(|| format!("open {path}"))?;
    // Only now is it certain whose it was.
    if !process.is_alive() {
        bail!("process {} of the lab is gone", process.pid);
    }
    Ok(file)
}

/// Runs lines of `ip -batch` in the calling thread's network.
pub fn ip_batch(lines: &str) -> Result<()> {
    feed("ip", &["-batch", "-"], lines)
}

/// Loads a rule set in the calling thread's network, as one transaction.
pub fn load_rules(rules: &str) -> Result<()> {
    feed("nft", &["-f", "-"], rules)
}

fn feed(program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new(super::tools::find(program)?)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // When it does not read to the end, its own words say why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        bail!("{program} refused: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
