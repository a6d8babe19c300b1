//! Making a cluster of the lab's hosts, with the commands that an operator types.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::host_init::RUN_DIRECTORY;
use super::process::{MARK, wait_until};
use super::state::{Lab, State, write_secret};
use super::{say, visit};

/// Names the API's ports on 127.0.0.1; for people and programs outside the lab.
pub const CLIENT_CONFIG: &str = "client.toml";
/// As `cluster init` wrote it: with addresses that mean something only inside.
const INSIDE_CONFIG: &str = "client-inside.toml";

/// kenneld opens its socket at once, but a busy machine may be slow to start it.
const SOCKET_LIMIT: Duration = Duration::from_secs(60);
/// The store has to grow to three members, one after the other.
const ONLINE_LIMIT: Duration = Duration::from_secs(120);
/// Each look starts a process.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The three commands that make a cluster.
struct Words;

impl Words {
    fn init(cluster: &str, config: &str) -> Vec<String> {
        ["cluster", "init", "--name", cluster, "--client-config", config].map(str::to_owned).to_vec()
    }

    fn invite() -> Vec<String> {
        ["cluster", "invite"].map(str::to_owned).to_vec()
    }

    fn join(token: &str) -> Vec<String> {
        ["cluster", "join", token].map(str::to_owned).to_vec()
    }
}

/// The client's configuration; what it holds beside the endpoints is passed on as it is.
#[derive(Debug, Serialize, Deserialize)]
struct ClientConfig {
    endpoints: Vec<String>,
    #[serde(flatten)]
    rest: toml::Table,
}

/// Forms the cluster and returns when every host is online.
pub fn run(lab: &Lab) -> Result<()> {
    let state = lab.load()?;
    let [first, others @ ..] = state.hosts.as_slice() else { return Ok(()) };
    for host in &state.hosts {
        await_daemon(&state, &host.name)?;
    }
    let inside = lab.path(INSIDE_CONFIG);
    kennel_on(lab, &state, &first.name, Words::init(&state.name, &inside.display().to_string()))?;
    write_client_config(lab, &state)?;
    say(&format!("{} has made the cluster {}", first.name, state.name));
    for host in others {
        let output = kennel_on(lab, &state, &first.name, Words::invite())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let token = text.lines().rfind(|line| !line.trim().is_empty()).context("read the join token")?;
        kennel_on(lab, &state, &host.name, Words::join(token.trim()))?;
        say(&format!("{} has joined", host.name));
    }
    await_online(lab, &state)
}

fn await_daemon(state: &State, host: &str) -> Result<()> {
    let first = state.running("form a cluster with", host)?;
    let socket = PathBuf::from(format!("/proc/{}/root{RUN_DIRECTORY}/kenneld.sock", first.pid));
    wait_until(SOCKET_LIMIT, &format!("kenneld on {host} to open its socket"), || {
        Ok(socket.exists().then_some(()))
    })
}

/// Runs `kennel` inside a host. A refusal comes back with its own words.
fn kennel_on(lab: &Lab, state: &State, host: &str, words: Vec<String>) -> Result<Output> {
    let mut command = Command::new(&state.kennel);
    command
        .args(&words)
        .env(MARK, &state.id)
        .env("KENNEL_CONFIG", lab.path(INSIDE_CONFIG))
        .stdin(std::process::Stdio::null());
    let first = state.running("form a cluster with", host)?;
    let output = visit::run_in_host(first, command, |command| command.output().context("run kennel"))?;
    if !output.status.success() {
        // The third word may be a token, which is nobody's business.
        let shown = words.get(..2).unwrap_or(&words).join(" ");
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`kennel {shown}` failed on {host}: {}", said.trim());
    }
    Ok(output)
}

/// The same cluster, seen from outside the lab.
fn write_client_config(lab: &Lab, state: &State) -> Result<()> {
    let inside = lab.path(INSIDE_CONFIG);
    let text = fs::read_to_string(&inside).with_context(|| format!("read {}", inside.display()))?;
    let mut config: ClientConfig =
        toml::from_str(&text).with_context(|| format!("understand {}", inside.display()))?;
    config.endpoints = state.hosts.iter().filter_map(|host| host.api_endpoint()).collect();
    let text = toml::to_string(&config).context("write the client's configuration")?;
    write_secret(&lab.path(CLIENT_CONFIG), text.as_bytes())
}

fn await_online(lab: &Lab, state: &State) -> Result<()> {
    let mut last_words = String::new();
    let online = wait_until(ONLINE_LIMIT, "every host to be online", || {
        let output = Command::new(&state.kennel)
            .args(["host", "list", "-o", "json"])
            .env("KENNEL_CONFIG", lab.path(CLIENT_CONFIG))
            .output()
            .context("run kennel host list")?;
        let count = online_hosts(&output.stdout);
        if count == Some(state.hosts.len()) {
            return Ok(Some(()));
        }
        last_words = match count {
            Some(count) => format!("{count} of {} are", state.hosts.len()),
            None => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        };
        std::thread::sleep(LOOK_INTERVAL);
        Ok(None)
    });
    online.with_context(|| format!("form the cluster ({last_words})"))
}

/// How many hosts the list calls online; nothing when it is no list.
fn online_hosts(json: &[u8]) -> Option<usize> {
    let hosts: Vec<serde_json::Value> = serde_json::from_slice(json).ok()?;
    let online =
        hosts.iter().filter(|host| host.get("phase").and_then(|phase| phase.as_str()) == Some("online"));
    Some(online.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_endpoints_change_in_the_client_config() {
        let text = "cluster = \"lab\"\nendpoints = [\"https://10.77.0.1:7440\"]\ntoken = \"t\"\nca = \"\"\"\nPEM\n\"\"\"\n";
        let mut config: ClientConfig = toml::from_str(text).unwrap();
        config.endpoints = vec!["https://127.0.0.1:1".to_owned()];
        let again: toml::Table = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(again["cluster"].as_str(), Some("lab"));
        assert_eq!(again["token"].as_str(), Some("t"));
        assert_eq!(again["ca"].as_str(), Some("PEM\n"));
        assert_eq!(again["endpoints"].as_array().unwrap().len(), 1);
        assert_eq!(again["endpoints"][0].as_str(), Some("https://127.0.0.1:1"));
    }

    #[test]
    fn hosts_that_are_online_are_counted() {
        assert_eq!(online_hosts(b"[{\"phase\":\"online\"},{\"phase\":\"joining\"}]"), Some(1));
        assert_eq!(online_hosts(b""), None);
    }
}
