//! The first process of a host: what the kernel, systemd and the power cord are to a real machine.
//!
//! It gives its namespaces what a booted system has (/proc and /sys of its own, an empty /run, a name, a network),
//! keeps kenneld running, and collects the processes that nobody waits for. When it is killed, the kernel ends
//! everything else in its PID namespace.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::SigSet;
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;

use super::state::{Host, Lab, SWITCH_ADDRESS, State};
use super::{network, proxy};

/// What systemd's default is not (100 ms), but kind to a machine on which kenneld cannot start at all.
const RESTART_DELAY: Duration = Duration::from_millis(300);

/// The run directory of kenneld, in the host's own /run.
pub const RUN_DIRECTORY: &str = "/run/kennel";

/// The hidden command.
pub fn run(lab: &Lab, name: &str) -> Result<()> {
    nix::unistd::setsid().context("leave the terminal")?;
    // A BMC may have started us, and its own mask is of no use here.
    SigSet::empty().thread_set_mask().context("unblock signals")?;
    let state = lab.load()?;
    let host = state.host("boot", name)?;
    mount_own_file_systems()?;
    nix::unistd::sethostname(name).context("set the host's name")?;
    await_network()?;
    network::configure_host(host)?;
    let mut kenneld = start_kenneld(lab, &state, host)?;
    let mut stdout = io::stdout();
    writeln!(stdout, "ready").and_then(|()| stdout.flush()).context("tell that the host runs")?;
    loop {
        let ended = match wait() {
            Ok(WaitStatus::Exited(pid, status)) => Some((pid, format!("with status {status}"))),
            Ok(WaitStatus::Signaled(pid, signal, _)) => Some((pid, format!("by {signal}"))),
            Ok(_) => None,
            // Nobody is there to wait for: kenneld could not be started again.
            Err(Errno::ECHILD) => Some((kenneld, "before it ran".to_owned())),
            Err(Errno::EINTR) => None,
            Err(error) => return Err(error).context("wait for processes"),
        };
        let Some((_, how)) = ended.filter(|(pid, _)| *pid == kenneld) else { continue };
        eprintln!("lab: kenneld ended {how}; it is started again");
        std::thread::sleep(RESTART_DELAY);
        match start_kenneld(lab, &state, host) {
            Ok(pid) => kenneld = pid,
            Err(error) => eprintln!("lab: {error:#}"),
        }
    }
}

/// What kenneld is started with; the same words as on a real host.
fn start_kenneld(lab: &Lab, state: &State, host: &Host) -> Result<Pid> {
    let folder = lab.host_folder(&host.name);
    let log = super::open_log(&folder.join("kenneld.log"))?;
    let child = Command::new(&state.kenneld)
        .arg("--state-dir")
        .arg(folder.join("state"))
        .args(["--run-dir", RUN_DIRECTORY])
        .args(["--address", &host.address().to_string()])
        .args(["--name", &host.name])
        .args(["--zone", &format!("zone{}", host.number)])
        .args(["--uplink", "default=eth1"])
        // Fence agents of the lab's own come before the machine's.
        .env("PATH", path_with(&lab.folder.join("fence-agents"))?)
        // The machine's /tmp is not the host's: what is left there would outlive the lab.
        .env("TMPDIR", "/run/tmp")
        // For image builds, which run apt.
        .env("http_proxy", format!("http://{SWITCH_ADDRESS}:{}", proxy::PORT))
        .env("no_proxy", SWITCH_ADDRESS.to_string())
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("share the log")?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("start {}", state.kenneld.display()))?;
    // Waited for by the loop above, as everything is that ends here.
    Ok(Pid::from_raw(i32::try_from(child.id()).context("read a process id")?))
}

/// The PATH that this process has, with another folder first.
fn path_with(folder: &Path) -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
    std::env::join_paths(folders).context("put the folder of the lab's fence agents into the PATH")
}

/// The power is on before the cables are in.
fn await_network() -> Result<()> {
    let mut line = String::new();
    io::stdin().read_line(&mut line).context("wait for the network")?;
    if line.trim_end() != "go" {
        bail!("whoever powered this host on has gone before it was connected");
    }
    Ok(())
}

fn mount_own_file_systems() -> Result<()> {
    let none: Option<&str> = None;
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // First of all: from here on no mount is seen outside.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make the mounts private")?;
    mount(Some("proc"), "/proc", Some("proc"), plain, none).context("mount /proc")?;
    let no_exec_needed = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), no_exec_needed, Some("mode=0755")).context("mount /run")?;
    DirBuilder::new().mode(0o1777).create("/run/tmp").context("make /run/tmp")?;
    mount_sysfs(plain)
}

/// /sys shows the network devices of the namespace it was mounted in. The control groups below it are kept.
fn mount_sysfs(flags: MsFlags) -> Result<()> {
    let none: Option<&str> = None;
    let (groups, aside) = ("/sys/fs/cgroup", "/run/cgroup");
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    fs::create_dir(aside).context("make a mount point")?;
    let kept = Path::new(groups).is_dir() && mount(Some(groups), aside, none, bind, none).is_ok();
    mount(Some("sysfs"), "/sys", Some("sysfs"), flags, none).context("mount /sys")?;
    if kept {
        mount(Some(aside), groups, none, bind, none).context("bring the control groups back")?;
        umount2(aside, MntFlags::MNT_DETACH).context("clear the mount point")?;
    }
    fs::remove_dir(aside).context("remove the mount point")
}
