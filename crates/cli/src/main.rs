//! `kennel`: the operator's command.
//!
//! It sees the cluster only through crate `api`. Each file of `commands` holds what one noun can do: its
//! arguments, its tables and the calls behind them. `output` and `progress` are how answers look, `failure` is
//! how the command ends when it did not work, `console` is the interactive part.

mod commands;
mod console;
mod context;
mod failure;
mod lab;
mod listing;
mod output;
mod progress;
mod terminal;
mod times;
mod top;
mod usage;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use commands::Command;
use context::{Context, Global};
use failure::Failure;

/// Keeps servers that people care about running on ordinary machines.
#[derive(Debug, Parser)]
#[command(name = "kennel", version, propagate_version = true, disable_help_subcommand = true)]
#[command(after_help = "Examples:
  kennel cluster status            what is well, and what is not
  kennel guest create web1 --image tiny --memory 128M
  kennel guest console web1        ctrl-] detaches
  kennel events --follow           what happens, as it happens
  kennel guest list -o json | jq   for programs

Exit status: 0 done, 1 refused or failed, 2 usage, 3 the cluster cannot be reached.")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    terminal::install_panic_hook();
    let result = match Cli::try_parse() {
        Ok(cli) => run(cli),
        Err(error) => Err(usage::explain(error, Cli::command())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(sentence) = failure.sentence() {
                output::note(&format!("kennel: {sentence}"));
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        // The lab makes namespaces, which wants a process of one thread: no runtime yet.
        Command::Lab(command) => lab::run(command.command).map_err(Failure::Lab),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "kennel", &mut script);
            output::write_stdout(&script)
        }
        command @ (Command::Cluster(_)
        | Command::Host(_)
        | Command::Guest(_)
        | Command::Image(_)
        | Command::Volume(_)
        | Command::Pool(_)
        | Command::Network(_)
        | Command::Rule(_)
        | Command::User(_)
        | Command::Balance(_)
        | Command::Capacity(_)
        | Command::WhatIf(_)
        | Command::Plan(_)
        | Command::Job(_)
        | Command::Incident(_)
        | Command::Alert(_)
        | Command::Events(_)
        | Command::Top(_)) => ask(cli.global, command),
    }
}

/// What the cluster is asked for.
fn ask(global: Global, command: Command) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::refused("start", error, "check the limits of this session (ulimit -a)"))?;
    let result = runtime.block_on(commands::run(&Context::new(global), command));
    // The thread that reads stdin may hang in its read for ever.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_make_sense() {
        Cli::command().debug_assert();
    }

    /// Every command that takes part in an operator's day shows how it is used.
    #[test]
    fn every_help_shows_examples() {
        fn check(command: &clap::Command, path: &str, missing: &mut Vec<String>) {
            let here = format!("{path} {}", command.get_name());
            let leaf = command.get_subcommands().next().is_none();
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            if leaf && !command.is_hide_set() && !help.contains("Example") {
                missing.push(here.clone());
            }
            for sub in command.get_subcommands().filter(|sub| sub.get_name() != "lab") {
                check(sub, &here, missing);
            }
        }
        let mut missing = Vec::new();
        check(&Cli::command(), "", &mut missing);
        assert_eq!(missing, Vec::<String>::new());
    }
}
