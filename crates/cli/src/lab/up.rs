//! `kennel lab up`: the folder, the switch, the BMCs, the hosts, the cluster, in this order.
//!
//! What fails is taken down again; what is killed half-way leaves a state file from which `down` clears up.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::process::ProcessRef;
use super::state::{Host, Lab, MAX_HOSTS, State};
use super::{Place, bmc, disk, down, form, network, power, say, switch, tools};

/// What a host mounts anew: a lab in there would not see its own folder.
const HIDDEN_FOLDERS: [&str; 4] = ["/run", "/proc", "/sys", "/dev"];

#[derive(Debug, Args)]
pub struct Arguments {
    /// How many hosts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_HOSTS)))]
    hosts: u8,
    /// Give each host a disk of this size for its volumes, in memory, so that it can be filled
    #[arg(long, value_name = "SIZE")]
    volume_disk: Option<model::Bytes>,
    /// The daemon to run [default: kenneld, beside this program]
    #[arg(long, value_name = "PROGRAM")]
    kenneld: Option<PathBuf>,
    /// Leave the hosts alone once they run
    #[arg(long, hide = true)]
    no_cluster: bool,
    /// Leave a lab that could not be built as it is, for looking into it
    #[arg(long, hide = true)]
    keep_failed: bool,
    #[command(flatten)]
    place: Place,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let lab = arguments.place.lab()?;
    let kennel = std::env::current_exe().context("find this program")?;
    let kenneld = find_kenneld(arguments.kenneld.as_deref(), &kennel)?;
    for path in [&lab.folder, &kennel, &kenneld] {
        check_visible(path)?;
    }
    tools::check_all()?;
    let made_base = make_folder(&lab, &arguments.place)?;
    let state = State {
        id: uuid::Uuid::new_v4().to_string(),
        name: arguments.place.lab.clone(),
        builder: ProcessRef::of(std::process::id())?,
        complete: false,
        made_base,
        kennel,
        kenneld,
        switch: None,
        hosts: (1..=arguments.hosts).map(Host::new).collect(),
        cuts: BTreeSet::new(),
        volume_disk: arguments.volume_disk.map(|size| size.0),
    };
    {
        let _lock = lab.lock()?;
        if lab.exists() {
            bail!("{}", taken(&lab));
        }
        lab.save(&state)?;
    }
    if let Err(error) = build(&lab, arguments.no_cluster) {
        let error = format!("cannot bring up lab {}: {error:#}", state.name);
        if arguments.keep_failed {
            bail!("{error}; it is left as it is, until `kennel lab down{}`", arguments.place.words());
        }
        let words = last_words(&lab, &state);
        down::take_down(&lab).with_context(|| error.clone())?;
        bail!("{error} ({words}); what was made is taken down again");
    }
    summarise(&lab, &arguments.place)
}

fn build(lab: &Lab, no_cluster: bool) -> Result<()> {
    switch::start(lab)?;
    let mut names = Vec::new();
    lab.edit(|state| {
        names.extend(state.hosts.iter().map(|host| host.name.clone()));
        // Checks at the start that this kernel can cut.
        network::apply_cuts(state.living_switch()?, &state.cuts)
    })?;
    bmc::start_all(lab)?;
    disk::mount_all(lab, &lab.load()?)?;
    for name in names {
        lab.edit(|state| power::turn_on(lab, state, &name))?;
        say(&format!("{name} has power"));
    }
    if !no_cluster {
        form::run(lab)?;
    }
    lab.edit(|state| {
        state.complete = true;
        Ok(())
    })
}

/// The daemon stands beside us, where cargo and packages put it.
fn find_kenneld(given: Option<&Path>, kennel: &Path) -> Result<PathBuf> {
    let path = given.map_or_else(|| kennel.with_file_name("kenneld"), Path::to_path_buf);
    if !path.is_file() {
        bail!(
            "cannot bring up a lab: the daemon {} is not there; build it (`make`), or name another with --kenneld",
            path.display()
        );
    }
    fs::canonicalize(&path).with_context(|| format!("resolve {}", path.display()))
}

fn check_visible(path: &Path) -> Result<()> {
    match HIDDEN_FOLDERS.iter().find(|hidden| path.starts_with(hidden)) {
        None => Ok(()),
        Some(hidden) => bail!(
            "cannot bring up a lab with {}: each host has a {hidden} of its own; a folder elsewhere, such as \
             /var/lib, works",
            path.display()
        ),
    }
}

/// Makes the lab's folder, and says whether the one that it stands in had to be made as well.
fn make_folder(lab: &Lab, place: &Place) -> Result<bool> {
    let made_base = !place.dir.exists();
    fs::create_dir_all(&place.dir).with_context(|| format!("make {}", place.dir.display()))?;
    match fs::create_dir(&lab.folder) {
        Ok(()) => Ok(made_base),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            if lab.exists() {
                bail!("{}", taken(lab));
            }
            if !lab.is_stillborn()? {
                bail!(
                    "cannot bring up a lab in {}: the folder holds something else; --name or --dir choose another",
                    lab.folder.display()
                );
            }
            Ok(made_base)
        }
        Err(error) => Err(error).with_context(|| format!("make {}", lab.folder.display())),
    }
}

fn taken(lab: &Lab) -> String {
    let name = lab.folder.file_name().unwrap_or_default().to_string_lossy();
    format!(
        "cannot bring up lab {name}: there is one of this name in {}; `kennel lab down --name {name}` takes it \
         down, --name chooses another",
        lab.folder.display()
    )
}

/// What each kenneld said last: the folder with its log is about to go.
fn last_words(lab: &Lab, state: &State) -> String {
    let lines: Vec<String> = state
        .hosts
        .iter()
        .map(|host| (host, lab.host_folder(&host.name).join("kenneld.log")))
        .filter(|(_, log)| log.exists())
        .map(|(host, log)| format!("{} said last: {}", host.name, super::last_line(&log)))
        .collect();
    if lines.is_empty() { "no host ran yet".to_owned() } else { lines.join("; ") }
}

fn summarise(lab: &Lab, place: &Place) -> Result<()> {
    let state = lab.load()?;
    say("");
    say(&format!(
        "Lab {} runs: {} hosts, each with a network, processes and a BMC of its own.",
        state.name,
        state.hosts.len()
    ));
    for host in &state.hosts {
        let api = host.api_endpoint().unwrap_or_default();
        say(&format!("  {:7} {:10} API {api}, BMC {}", host.name, host.address(), host.bmc_address()));
    }
    let config = lab.path(form::CLIENT_CONFIG);
    if config.exists() {
        say("Speak with its cluster:");
        say(&format!("  export KENNEL_CONFIG={}", config.display()));
        say("  kennel cluster status");
    }
    let words = place.words();
    say(&format!("Look at it with `kennel lab status{words}`, take it down with `kennel lab down{words}`."));
    Ok(())
}
