//! `kennel lab status`: what there is, for people and for programs.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result};
use serde::Serialize;

use super::process::{self, ProcessRef};
use super::say;
use super::state::{BMC_USER, Cut, Host, IPMI_PORT, Lab, State};

/// The whole answer.
#[derive(Debug, Serialize)]
struct Status<'a> {
    name: &'a str,
    folder: String,
    /// The client configuration of its cluster, if it has one.
    client_config: Option<String>,
    /// The end of `up` was reached.
    complete: bool,
    switch_pid: Option<i32>,
    hosts: Vec<HostStatus>,
    cuts: &'a BTreeSet<Cut>,
}

#[derive(Debug, Serialize)]
struct HostStatus {
    name: String,
    power: Power,
    address: String,
    api: Option<String>,
    bmc: Bmc,
    /// The first process, as this machine counts.
    pid: Option<i32>,
    kenneld_pid: Option<i32>,
    processes: usize,
    log: String,
}

#[derive(Debug, Serialize)]
struct Bmc {
    address: String,
    port: u16,
    user: &'static str,
    password: String,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Power {
    On,
    Off,
    Paused,
}

impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Power::On => "on",
            Power::Off => "off",
            Power::Paused => "paused",
        })
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cut::Whole { host, api_too: false } => write!(f, "{host} is cut off from all others"),
            Cut::Whole { host, api_too: true } => write!(f, "{host} is cut off from all others, its API too"),
            Cut::Between { one, other } => write!(f, "{one} and {other} are cut off from one another"),
        }
    }
}

pub fn run(lab: &Lab, json: bool) -> Result<()> {
    let state = lab.load()?;
    let status = gather(lab, &state)?;
    if json {
        say(&serde_json::to_string_pretty(&status).context("write the status as JSON")?);
    } else {
        show(&state, &status);
    }
    Ok(())
}

fn gather<'a>(lab: &Lab, state: &'a State) -> Result<Status<'a>> {
    let config = lab.path(super::form::CLIENT_CONFIG);
    let mut hosts = Vec::new();
    for host in &state.hosts {
        hosts.push(host_status(lab, state, host)?);
    }
    Ok(Status {
        name: &state.name,
        folder: lab.folder.display().to_string(),
        client_config: config.exists().then(|| config.display().to_string()),
        complete: state.complete,
        switch_pid: state.switch.filter(|switch| switch.is_alive()).map(|switch| switch.pid),
        hosts,
        cuts: &state.cuts,
    })
}

fn host_status(lab: &Lab, state: &State, host: &Host) -> Result<HostStatus> {
    let first = host.running();
    let power = match first {
        None => Power::Off,
        Some(first) if first.is_stopped() => Power::Paused,
        Some(_) => Power::On,
    };
    let members: Vec<ProcessRef> = match first.and_then(ProcessRef::pid_namespace) {
        Some(namespace) => process::members_of(&namespace)?,
        None => Vec::new(),
    };
    let daemon = state.kenneld.file_name().unwrap_or_default().to_string_lossy();
    let kenneld = members
        .iter()
        .find(|member| Some(**member) != first && process::names_of(**member).contains(&*daemon));
    Ok(HostStatus {
        name: host.name.clone(),
        power,
        address: host.address().to_string(),
        api: host.api_endpoint(),
        bmc: Bmc {
            address: host.bmc_address().to_string(),
            port: IPMI_PORT,
            user: BMC_USER,
            password: host.bmc_password.clone(),
        },
        pid: first.map(|first| first.pid),
        kenneld_pid: kenneld.map(|kenneld| kenneld.pid),
        processes: members.len(),
        log: lab.host_folder(&host.name).join("kenneld.log").display().to_string(),
    })
}

fn show(state: &State, status: &Status<'_>) {
    say(&format!("Lab {} in {}", status.name, status.folder));
    say(&format!(
        "{:8}{:8}{:13}{:26}{:14}{:9}PROCESSES",
        "HOST", "POWER", "ADDRESS", "API", "BMC", "KENNELD"
    ));
    for host in &status.hosts {
        say(&format!(
            "{:8}{:8}{:13}{:26}{:14}{:9}{}",
            host.name,
            host.power,
            host.address,
            host.api.as_deref().unwrap_or("-"),
            host.bmc.address,
            host.kenneld_pid.map_or("-".to_owned(), |pid| pid.to_string()),
            host.processes,
        ));
    }
    for cut in status.cuts {
        say(&cut.to_string());
    }
    if let Err(error) = state.living_switch() {
        say(&format!("{error:#}"));
    } else if !state.complete && state.builder.is_alive() {
        say("`kennel lab up` is still building it");
    } else if !state.complete {
        say(&format!(
            "`kennel lab up` did not come to its end; `kennel lab down --name {}` clears up what it made",
            state.name
        ));
    }
    if let Some(config) = &status.client_config {
        say(&format!("export KENNEL_CONFIG={config}"));
    }
}
