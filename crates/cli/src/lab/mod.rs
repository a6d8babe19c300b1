//! `kennel lab`: a whole cluster on one Linux machine, to try things and to break them.
//!
//! Each host is a set of namespaces (processes, mounts, network, name, IPC) whose first process stands for the
//! machine's power: when it is killed, the kernel ends all the others at once. Inside run the real kenneld, etcd
//! and QEMU. A switch in a network namespace of its own connects the hosts ([`network`]), carries connections
//! from 127.0.0.1 to their APIs ([`switch`]), and is where each host's BMC listens ([`bmc`]).
//!
//! ```text
//!   kennel lab up ─┬─ kennel lab switch        network of its own; 127.0.0.1:<port> → 10.77.0.n:7440
//!                  │                           and the way out to Debian's archive, for image builds
//!                  ├─ ipmi_sim, one per host   in the switch's network; its power button is `lab bmc-power`
//!                  └─ kennel lab host-init     one per host, first process of its namespaces
//!                        └─ kenneld ── etcd, QEMU, …
//! ```
//!
//! What must stay true:
//! - nothing is made outside the lab's namespaces and its own folder, but one listening port on 127.0.0.1 for
//!   each host;
//! - the state file is written before anything is made, and every process carries the lab's id in its
//!   environment or lives in one of its PID namespaces, so `down` finds all of them whatever crashed before;
//! - a process is signalled only when both its number and its start time are those remembered.

mod bmc;
mod disk;
mod down;
mod form;
mod host_init;
mod network;
mod power;
mod process;
mod proxy;
mod report;
mod space;
mod state;
mod switch;
mod tools;
mod up;
mod visit;

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use power::Blow;
use state::{Cut, Lab};

/// The lab that is meant, and where labs are kept, unless somebody says otherwise.
const DEFAULT_NAME: &str = "lab";
const DEFAULT_FOLDER: &str = "/var/lib/kennel-lab";

/// Which lab is meant.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// The lab's name; labs of different names live side by side
    #[arg(long = "name", value_name = "NAME", default_value = DEFAULT_NAME, env = "KENNEL_LAB_NAME")]
    lab: String,
    /// The folder that labs are kept in
    #[arg(long, value_name = "FOLDER", default_value = DEFAULT_FOLDER, env = "KENNEL_LAB_DIR")]
    dir: PathBuf,
}

impl Place {
    fn lab(&self) -> Result<Lab> {
        let name = &self.lab;
        let well_formed = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if name.is_empty() || name.len() > 32 || name.starts_with('-') || !well_formed {
            bail!(
                "cannot call a lab `{name}`: a name has 1 to 32 of the characters a-z, 0-9 and -, as in `lab2`"
            );
        }
        let base =
            std::path::absolute(&self.dir).with_context(|| format!("resolve {}", self.dir.display()))?;
        Ok(Lab::new(base.join(name)))
    }

    /// What a command must be given to mean this lab; nothing when it is the usual one.
    fn words(&self) -> String {
        let name = if self.lab == DEFAULT_NAME { String::new() } else { format!(" --name {}", self.lab) };
        let usual = self.dir == Path::new(DEFAULT_FOLDER);
        let dir = if usual { String::new() } else { format!(" --dir {}", self.dir.display()) };
        name + &dir
    }
}

/// The commands of the lab.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build a lab and form a cluster of its hosts
    #[command(after_help = "Examples:\n  kennel lab up --hosts 3\n  kennel lab up --hosts 2 --name second")]
    Up(up::Arguments),
    /// Show the hosts, their addresses, and what is cut
    #[command(after_help = "Examples:\n  kennel lab status\n  kennel lab status --json")]
    Status {
        /// For programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Pull a host's plug: all that runs on it is gone at once
    #[command(after_help = "Example:\n  kennel lab power-off host2")]
    PowerOff(OneHost),
    /// Give a host its power back
    #[command(after_help = "Example:\n  kennel lab power-on host2")]
    PowerOn(OneHost),
    /// Cut a host off from all others, or two hosts from one another: frames are lost without a sign
    #[command(after_help = "Examples:\n  kennel lab cut host1\n  kennel lab cut host1 host2")]
    Cut {
        host: String,
        /// Cut only the way between the two
        other: Option<String>,
        /// Cut also the way from 127.0.0.1 to the host's API
        #[arg(long, conflicts_with = "other")]
        api_too: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Undo cuts: all that touch a host, or the one between two
    #[command(after_help = "Examples:\n  kennel lab heal host1\n  kennel lab heal host1 host2")]
    Heal {
        host: String,
        /// Heal only the way between the two
        other: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Stop every process of a host without ending it: it hangs
    #[command(after_help = "Example:\n  kennel lab pause host3")]
    Pause(OneHost),
    /// Let a paused host go on
    #[command(after_help = "Example:\n  kennel lab resume host3")]
    Resume(OneHost),
    /// Take all room of the disk that a host keeps its volumes on
    #[command(
        after_help = "Examples:\n  kennel lab fill-disk host2\n  kennel lab fill-disk host2 --leave 20M

The lab must have been built with `--volume-disk`."
    )]
    FillDisk {
        host: String,
        /// How much stays free
        #[arg(long, value_name = "SIZE", default_value = "0")]
        leave: model::Bytes,
        #[command(flatten)]
        place: Place,
    },
    /// Give back what fill-disk took
    #[command(after_help = "Example:\n  kennel lab empty-disk host2")]
    EmptyDisk(OneHost),
    /// Kill a program of a host with SIGKILL
    #[command(after_help = "Examples:\n  kennel lab kill host1 kenneld\n  kennel lab kill host1 etcd")]
    Kill(OneProgram),
    /// Stop a program of a host without ending it
    #[command(after_help = "Example:\n  kennel lab freeze host1 etcd")]
    Freeze(OneProgram),
    /// Let a frozen program go on
    #[command(after_help = "Example:\n  kennel lab thaw host1 etcd")]
    Thaw(OneProgram),
    /// Run a command on a host, or in the network of the `switch`
    #[command(
        after_help = "Examples:\n  kennel lab exec host1 -- bash\n  kennel lab exec switch -- ip address"
    )]
    Exec {
        #[command(flatten)]
        place: Place,
        /// A host, or `switch`
        host: String,
        #[arg(required = true, last = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Take the lab down: its processes, its networks, its folder
    #[command(after_help = "Examples:\n  kennel lab down\n  kennel lab down --name second")]
    Down {
        #[command(flatten)]
        place: Place,
    },
    #[command(hide = true)]
    Switch { folder: PathBuf },
    #[command(hide = true)]
    HostInit { folder: PathBuf, host: String },
    #[command(hide = true)]
    BmcPower { folder: PathBuf, host: String, words: Vec<String> },
}

#[derive(Debug, Args)]
pub struct OneHost {
    host: String,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub struct OneProgram {
    host: String,
    /// The program's name, as in `kenneld`
    program: String,
    #[command(flatten)]
    place: Place,
}

/// Does what the command says. `exec` ends the process with the status of what it ran.
pub fn run(command: Command) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("cannot run a lab as an ordinary user: namespaces and networks need root; `sudo` gives it");
    }
    match command {
        Command::Up(arguments) => up::run(&arguments),
        Command::Status { json, place } => report::run(&place.lab()?, json),
        Command::PowerOff(OneHost { host, place }) => {
            power::off(&place.lab()?, &host)?;
            say(&format!("{host} has lost its power"));
            Ok(())
        }
        Command::PowerOn(OneHost { host, place }) => {
            power::on(&place.lab()?, &host)?;
            say(&format!("{host} has power, and its kenneld starts"));
            Ok(())
        }
        Command::Cut { host, other, api_too, place } => cut(&place.lab()?, host, other, api_too),
        Command::Heal { host, other, place } => heal(&place.lab()?, &host, other.as_deref()),
        Command::Pause(OneHost { host, place }) => power::pause(&place.lab()?, &host),
        Command::Resume(OneHost { host, place }) => power::resume(&place.lab()?, &host),
        Command::FillDisk { host, leave, place } => disk::fill(&place.lab()?, &host, leave),
        Command::EmptyDisk(OneHost { host, place }) => disk::empty(&place.lab()?, &host),
        Command::Kill(target) => strike(&target, Blow::Kill),
        Command::Freeze(target) => strike(&target, Blow::Freeze),
        Command::Thaw(target) => strike(&target, Blow::Thaw),
        Command::Exec { place, host, command } => {
            let status = visit::exec(&place.lab()?, &host, &command)?;
            std::process::exit(status)
        }
        Command::Down { place } => down::run(&place.lab()?),
        Command::Switch { folder } => switch::run(&Lab::new(folder)),
        Command::HostInit { folder, host } => host_init::run(&Lab::new(folder), &host),
        Command::BmcPower { folder, host, words } => bmc::press(&Lab::new(folder), &host, &words),
    }
}

fn strike(target: &OneProgram, blow: Blow) -> Result<()> {
    let OneProgram { host, program, place } = target;
    power::strike(&place.lab()?, host, program, blow)
}

fn cut(lab: &Lab, host: String, other: Option<String>, api_too: bool) -> Result<()> {
    lab.edit(|state| {
        state.host("cut", &host)?;
        let cut = match other {
            None => {
                // A new cut of the same host replaces the old one, whose reach may differ.
                state.cuts.retain(|cut| !matches!(cut, Cut::Whole { host: cut_off, .. } if *cut_off == host));
                Cut::Whole { host, api_too }
            }
            Some(other) => {
                state.host("cut", &other)?;
                if host == other {
                    bail!(
                        "cannot cut {host} from itself: name two hosts, or one to cut it off from all others"
                    );
                }
                let (one, other) = if host < other { (host, other) } else { (other, host) };
                Cut::Between { one, other }
            }
        };
        say(&cut.to_string());
        state.cuts.insert(cut);
        network::apply_cuts(state.living_switch()?, &state.cuts)
    })
}

fn heal(lab: &Lab, host: &str, other: Option<&str>) -> Result<()> {
    lab.edit(|state| {
        state.host("heal", host)?;
        if let Some(other) = other {
            state.host("heal", other)?;
        }
        let before = state.cuts.len();
        state.cuts.retain(|cut| match (cut, other) {
            (Cut::Whole { host: cut_off, .. }, None) => cut_off != host,
            (Cut::Whole { .. }, Some(_)) => true,
            (Cut::Between { one, other }, None) => one != host && other != host,
            (Cut::Between { one, other: second }, Some(other)) => {
                ![(host, other), (other, host)].contains(&(one.as_str(), second.as_str()))
            }
        });
        network::apply_cuts(state.living_switch()?, &state.cuts)?;
        say(match before - state.cuts.len() {
            0 => "nothing was cut there",
            _ => "healed",
        });
        Ok(())
    })
}

/// Tells a person what was done. A reader that went away is no reason to stop half-way.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// A log that outlives whoever writes to it.
fn open_log(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))
}

/// The last words of a log, for an error.
fn last_line(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned()
}
