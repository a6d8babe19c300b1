//! `kennel cluster`: make one, let hosts join it, see how it is.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use api::{ClientConfig, ClientError, ClusterStatus, InitRequest, JoinToken, LocalClient, LocalJoinRequest};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use model::{Refusal, Storm};

use super::cluster_set;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Block, Cell, Tone, say};
use crate::progress::Waiting;
use crate::times;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a new cluster, of which this machine is the first host
    #[command(after_help = "Examples:
  kennel cluster init --name home
  kennel cluster init --name home --client-config ~/home.toml")]
    Init {
        /// The cluster's name
        #[arg(long)]
        name: String,
        /// Where to write how this cluster is reached, with the admin token [default: $KENNEL_CONFIG or ~/.config/kennel/client.toml]
        #[arg(long, value_name = "PATH")]
        client_config: Option<PathBuf>,
        #[command(flatten)]
        local: Local,
    },
    /// Print a token that lets one more host join, once, within an hour
    #[command(after_help = "Example:
  token=$(kennel cluster invite)
  ssh host2 kennel cluster join $token")]
    Invite,
    /// Make this machine a host of a cluster that exists
    #[command(after_help = "Example:
  kennel cluster join kennel-join.eyJlbmRwb2ludHMi…")]
    Join {
        /// What `kennel cluster invite` printed
        token: String,
        #[command(flatten)]
        local: Local,
    },
    /// The cluster at a glance: what is well, and what is not
    #[command(after_help = "Examples:
  kennel cluster status
  kennel cluster status -o json | jq .problems")]
    Status,
    /// Change what holds for the whole cluster; without options, an error that names them
    #[command(after_help = "Examples:
  kennel cluster set --balance manual
  kennel cluster set --survive hosts=2
  kennel cluster set --survive zone --memory-percent 95")]
    Set(cluster_set::SetArguments),
    /// Whether many hosts vanished at once, so that recovery goes slowly
    #[command(after_help = "Examples:
  kennel cluster storm
  kennel cluster storm --go-on       they are lost for good: recover as fast as it goes")]
    Storm {
        /// Say that the lost hosts are lost for good, and let recovery go on
        #[arg(long)]
        go_on: bool,
    },
    /// Everything that a plan rests on, for `kennel plan --from`; no secrets
    #[command(after_help = "Examples:
  kennel cluster dump > home.json
  kennel cluster dump --file home.json && kennel plan balance --from home.json")]
    Dump {
        /// Where to write it [default: stdout]
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

/// Where this machine's own kenneld listens.
#[derive(Debug, Args)]
pub struct Local {
    /// The run directory of this machine's kenneld
    #[arg(long, value_name = "PATH", default_value = "/run/kennel")]
    run_dir: PathBuf,
}

pub async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Init { name, client_config, local } => init(context, name, client_config, &local).await,
        Command::Invite => {
            let invitation = context.client()?.invite().await?;
            context.output.result(&invitation, |_| format!("{}\n", invitation.token))
        }
        Command::Join { token, local } => join(context, &token, &local).await,
        Command::Status => {
            let status = context.client()?.cluster_status().await?;
            context.output.result(&status, |coloured| show(&status, Timestamp::now()).render(coloured))
        }
        Command::Storm { go_on } => storm(context, go_on).await,
        Command::Dump { file } => dump(context, file.as_deref()).await,
        Command::Set(arguments) => cluster_set::set(context, arguments).await,
    }
}

async fn storm(context: &Context, go_on: bool) -> Result<(), Failure> {
    let client = context.client()?;
    let storm =
        if go_on { Some(client.go_on_in_storm().await?) } else { client.cluster_status().await?.storm };
    context.output.result(&storm, |_| in_words(storm.as_ref(), Timestamp::now()))
}

fn in_words(storm: Option<&Storm>, now: Timestamp) -> String {
    let Some(Storm { began, hosts, of, go_on }) = storm else { return "There is no storm.\n".to_owned() };
    let lost: Vec<_> = hosts.iter().map(ToString::to_string).collect();
    let began = times::at_and_ago(*began, now);
    let recovery = match go_on {
        Some(word) => format!("Recovery goes on as usual, by the word of {}.", word.by),
        None => {
            "Recovery goes slowly. If they are lost for good, say `kennel cluster storm --go-on`.".to_owned()
        }
    };
    format!("A storm since {began}: of {of} hosts these are lost: {}.\n{recovery}\n", lost.join(", "))
}

/// As JSON, whatever the output format is: it is a file for `kennel plan`.
async fn dump(context: &Context, file: Option<&Path>) -> Result<(), Failure> {
    let asked = "dump the cluster";
    let dump = context.client()?.dump().await?;
    let text = serde_json::to_string_pretty(&dump)
        .map_err(|error| Failure::refused(asked, error, "look into the log of the kenneld that answered"))?;
    let Some(path) = file else { return say(&format!("{text}\n")) };
    std::fs::write(path, text + "\n").map_err(|error| {
        let why = format!("{} cannot be written: {error}", path.display());
        Failure::refused(asked, why, "name another place with --file")
    })
}

async fn init(
    context: &Context,
    name: String,
    client_config: Option<PathBuf>,
    local: &Local,
) -> Result<(), Failure> {
    let asked = format!("make the cluster '{name}'");
    let path = client_config.unwrap_or_else(ClientConfig::default_path);
    // The token is shown once only: find out before there is one whether it can be kept.
    check_free(&asked, &path)?;
    let waiting = Waiting::new("making the cluster's store and certificates");
    let answer = LocalClient::new(&local.run_dir).init(&InitRequest { name }).await;
    waiting.clear();
    let answer = answer.map_err(|error| explain(&asked, local, error))?;
    answer.client.save(&path)?;
    let result = serde_json::json!({
        "cluster": answer.client.cluster, "host": answer.host, "client_config": path,
    });
    context.output.result(&result, |_| {
        format!(
            "The cluster {} is there, and {} is its first host.\n\
             {} lets you command it; keep it to yourself.\n\
             `kennel cluster invite` prints the token for the next host.\n",
            answer.client.cluster,
            answer.host,
            path.display()
        )
    })
}

/// Refuses to overwrite the key to another cluster.
fn check_free(asked: &str, path: &Path) -> Result<(), Failure> {
    if path.exists() {
        return Err(Failure::refused(
            asked,
            format!("{} exists, and may be the only key to another cluster", path.display()),
            "name another file with --client-config, or move that one away",
        ));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).and_then(|()| tempfile::tempfile_in(folder).map(drop)).map_err(|error| {
        Failure::refused(
            asked,
            format!("the client configuration could not be kept in {}: {error}", folder.display()),
            "name another file with --client-config",
        )
    })
}

async fn join(context: &Context, token: &str, local: &Local) -> Result<(), Failure> {
    let asked = "join the cluster";
    token.parse::<JoinToken>().map_err(|_| {
        Failure::usage(
            asked,
            "this is not a join token: one begins with 'kennel-join.'",
            "get one with `kennel cluster invite` where the cluster can be reached, and copy all of it",
        )
    })?;
    let waiting = Waiting::new("joining the cluster");
    let request = LocalJoinRequest { token: token.trim().to_owned() };
    let answer = LocalClient::new(&local.run_dir).join(&request).await;
    waiting.clear();
    let answer = answer.map_err(|error| explain(asked, local, error))?;
    context
        .output
        .result(&answer, |_| format!("{} is a host of the cluster {} now.\n", answer.host, answer.cluster))
}

/// The daemon of this very machine is missing far more often than the network is.
fn explain(asked: &str, local: &Local, error: ClientError) -> Failure {
    match error {
        ClientError::Unreachable { attempts, .. } => Failure::Unreachable(Refusal::new(
            asked,
            format!("the kenneld of this machine does not answer at {}", attempts.join(", ")),
            format!(
                "run this as root on a machine where kenneld runs, and name its directory with --run-dir if it is not {}",
                local.run_dir.display()
            ),
        )),
        error @ (ClientError::Refused(_)
        | ClientError::Interrupted { .. }
        | ClientError::Protocol(_)
        | ClientError::Local(_)) => error.into(),
    }
}

/// As in `3 running, 1 failed`.
fn tally<T: Display>(counts: &BTreeMap<T, u32>) -> String {
    let parts: Vec<_> = counts.iter().map(|(phase, count)| format!("{count} {phase}")).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

/// What guests are started with, as far as the hosts' processors decide.
fn baseline(status: &ClusterStatus) -> String {
    match (status.settings.cpu_baseline, status.lowest_cpu_level) {
        (Some(pinned), _) => format!("{pinned}, pinned"),
        (None, Some(level)) => format!("{level}, which every host has"),
        (None, None) => "none: some host does not tell what its processors can do".to_owned(),
    }
}

fn show(status: &ClusterStatus, now: Timestamp) -> Block {
    let health = match (status.problems.len(), status.store_answers) {
        (0, true) => Cell::new("all is well", Tone::Good),
        (_, false) => Cell::new("the state store does not answer; what follows may be old", Tone::Bad),
        (1, true) => Cell::new("1 problem", Tone::Busy),
        (count, true) => Cell::new(format!("{count} problems"), Tone::Busy),
    };
    let members = status.store_members.iter().map(|member| {
        let state = if member.healthy { "healthy" } else { "NOT healthy" };
        let leads = if member.is_leader { ", leads the store" } else { "" };
        let why = member.message.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        format!("{} ({state}{leads}){why}", member.host)
    });
    Block::new()
        .line("Cluster", &status.name)
        .line("Health", health)
        .each("Problems", &status.problems)
        .line("Hosts", format!("{} of {} online", status.hosts_online, status.hosts_total))
        .line("Guests", tally(&status.guests))
        .line("Volumes", tally(&status.volumes))
        .line("Jobs", format!("{} under way", status.jobs_running))
        .line("CPU baseline", baseline(status))
        .line("Leader", Cell::maybe(status.leader.as_ref()))
        .each("State store", members)
        .each("Damaged", status.damaged.iter().map(|(key, why)| format!("{key}: {why}")))
        .line("Made", times::at_and_ago(status.created_at, now))
        .line("Id", status.id)
        .line("Answered by", format!("{}, at revision {}", status.answered_by, status.revision))
}

#[cfg(test)]
mod tests {
    use api::StoreMemberView;
    use model::{GuestPhase, Settings, VolumePhase};

    use super::*;

    fn example() -> ClusterStatus {
        ClusterStatus {
            name: "lab".to_owned(),
            id: uuid::Uuid::nil(),
            created_at: Timestamp::UNIX_EPOCH,
            settings: Settings::default(),
            answered_by: "host1".parse().unwrap(),
            revision: 42,
            leader: Some("host1".parse().unwrap()),
            hosts_online: 2,
            hosts_total: 3,
            store_answers: true,
            store_members: vec![StoreMemberView {
                host: "host2".parse().unwrap(),
                healthy: false,
                is_leader: false,
                message: Some("it does not answer".to_owned()),
            }],
            guests: BTreeMap::from([(GuestPhase::Running, 3), (GuestPhase::Failed, 1)]),
            volumes: BTreeMap::from([(VolumePhase::Degraded, 4)]),
            jobs_running: 0,
            lowest_cpu_level: Some(model::CpuLevel::V3),
            storm: None,
            problems: vec!["host host2 is lost".to_owned()],
            damaged: BTreeMap::new(),
        }
    }

    #[test]
    fn a_status_begins_with_what_is_wrong() {
        let text = show(&example(), Timestamp::UNIX_EPOCH).render(false);
        let expected = "Cluster:      lab\n\
                        Health:       1 problem\n\
                        Problems:     host host2 is lost\n\
                        Hosts:        2 of 3 online\n\
                        Guests:       3 running, 1 failed\n\
                        Volumes:      4 degraded\n\
                        Jobs:         0 under way\n\
                        CPU baseline: x86-64-v3, which every host has\n\
                        Leader:       host1\n\
                        State store:  host2 (NOT healthy): it does not answer\n";
        assert!(text.starts_with(expected), "{text}");
    }

    #[test]
    fn the_key_to_another_cluster_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client.toml");
        assert!(check_free("make the cluster 'b'", &path).is_ok());
        std::fs::write(&path, "cluster = 'a'").unwrap();
        let sentence = check_free("make the cluster 'b'", &path).unwrap_err().sentence().unwrap();
        assert!(sentence.starts_with("cannot make the cluster 'b': "), "{sentence}");
        assert!(sentence.ends_with("; name another file with --client-config, or move that one away"));
    }
}
