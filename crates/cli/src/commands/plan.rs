//! `kennel plan`: what the planner would do, over a file instead of a cluster.
//!
//! Nothing is asked of any host (but for `reboot`, which is about the live cluster) and nothing is changed: no client configuration is needed. What a file is and how
//! it is read stands in `plan_file`; the questions are in the other files of that name.

use clap::Subcommand;

use super::{plan_balance, plan_capacity, plan_reboot};
use crate::context::Context;
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Find a better place for every guest, and the moves that lead there
    #[command(after_help = plan_balance::EXAMPLES)]
    Balance(plan_balance::Arguments),
    /// How much still fits, with the room kept that a host's loss would take
    #[command(after_help = plan_capacity::CAPACITY_EXAMPLES)]
    Capacity(plan_capacity::Arguments),
    /// What would be if
    #[command(subcommand)]
    WhatIf(plan_capacity::WhatIf),
    /// Which hosts of the live cluster may be rebooted together, so that no guest stops
    #[command(after_help = plan_reboot::EXAMPLES)]
    Reboot,
}

pub async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Balance(arguments) => plan_balance::run(context, &arguments),
        Command::Capacity(arguments) => plan_capacity::capacity(context, &arguments),
        Command::WhatIf(command) => plan_capacity::what_if(context, &command),
        Command::Reboot => plan_reboot::run(context).await,
    }
}
