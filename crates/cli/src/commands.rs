//! The commands, one file for each noun.

mod alert;
mod balance;
mod capacity;
mod cluster;
mod cluster_set;
mod event;
mod guest;
mod guest_health;
mod guest_power;
mod guest_set;
mod guest_show;
mod host;
mod host_change;
mod host_fence;
mod image;
mod incident;
mod job;
mod network;
mod plan;
mod plan_balance;
mod plan_capacity;
mod plan_file;
mod plan_proposal;
mod plan_reboot;
mod pool;
mod rule;
mod top;
mod user;
mod volume;
mod what_if;

#[cfg(test)]
pub use host::tests::example as host_example;
#[cfg(test)]
pub use job::tests::example as job_example;

use clap::Subcommand;

use crate::context::Context;
use crate::failure::Failure;
use crate::lab;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a cluster, let hosts join it, see how it is
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// The machines that run guests
    #[command(subcommand)]
    Host(host::Command),
    /// The pets: virtual machines
    #[command(subcommand)]
    Guest(guest::Command),
    /// The disks that guests are made from
    #[command(subcommand)]
    Image(image::Command),
    /// Guests' disks, and who holds their copies
    #[command(subcommand)]
    Volume(volume::Command),
    /// Where guests' disks are put
    #[command(subcommand)]
    Pool(pool::Command),
    /// What guests attach to
    #[command(subcommand)]
    Network(network::Command),
    /// Which guests are kept apart, together, on or off some hosts
    #[command(subcommand)]
    Rule(rule::Command),
    /// Who may sign in to the web page with a password
    #[command(subcommand)]
    User(user::Command),
    /// What would be moved to spread the load, and whether that is done
    #[command(subcommand)]
    Balance(balance::Command),
    /// How many more guests fit, and what the cluster survives
    #[command(after_help = capacity::EXAMPLES)]
    Capacity(capacity::Arguments),
    /// What a loss would do, what one more host would bring
    #[command(subcommand)]
    WhatIf(what_if::Command),
    /// What the planner would do, mostly over a file: no cluster is asked, nothing changes
    #[command(subcommand)]
    Plan(plan::Command),
    /// Operations that are under way, or were
    #[command(subcommand)]
    Job(job::Command),
    /// What went wrong, as one story each: what was seen and done, how long it took, what it means
    #[command(subcommand)]
    Incident(incident::Command),
    /// Who is told of incidents: webhooks and mail
    #[command(subcommand)]
    Alert(alert::Command),
    /// What happened, and what happens
    Events(event::Arguments),
    /// The cluster at a glance, kept up to date: load, guests by what they use, problems, jobs
    Top(top::Arguments),
    /// A script that completes kennel's commands in your shell
    #[command(after_help = "Example:
  kennel completions bash > /etc/bash_completion.d/kennel")]
    Completions { shell: clap_complete::Shell },
    /// A whole cluster on this one machine, to try things and to break them
    Lab(LabArguments),
}

#[derive(Debug, clap::Args)]
pub struct LabArguments {
    #[command(subcommand)]
    pub command: lab::Command,
}

pub async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Cluster(command) => cluster::run(context, command).await,
        Command::Host(command) => host::run(context, command).await,
        Command::Guest(command) => guest::run(context, command).await,
        Command::Image(command) => image::run(context, command).await,
        Command::Volume(command) => volume::run(context, command).await,
        Command::Pool(command) => pool::run(context, command).await,
        Command::Network(command) => network::run(context, command).await,
        Command::Rule(command) => rule::run(context, command).await,
        Command::User(command) => user::run(context, command).await,
        Command::Balance(command) => balance::run(context, command).await,
        Command::Capacity(arguments) => capacity::run(context, arguments).await,
        Command::WhatIf(command) => what_if::run(context, command).await,
        Command::Plan(command) => plan::run(context, command).await,
        Command::Job(command) => job::run(context, command).await,
        Command::Incident(command) => incident::run(context, command).await,
        Command::Alert(command) => alert::run(context, command).await,
        Command::Events(arguments) => event::run(context, arguments).await,
        Command::Top(arguments) => top::run(context, arguments).await,
        // Both are done before there is a runtime.
        Command::Completions { .. } | Command::Lab(_) => Ok(()),
    }
}
