//! `kennel top`: the cluster at a glance.

use std::io::IsTerminal;

use clap::Args;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Format;
use crate::top::{self, Sort, Top};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kennel top
  kennel top --sort memory --filter web
  kennel top --once                       one frame, for scripts
  kennel host usage -o json               the same numbers, for programs")]
pub struct Arguments {
    /// Print one frame as plain text, with all guests, and end
    #[arg(long)]
    once: bool,
    /// What guests are sorted by, the most first
    #[arg(long, value_enum, default_value_t)]
    sort: Sort,
    /// Only guests that have this in their name, or in their host's
    #[arg(long, default_value = "")]
    filter: String,
}

pub async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let asked = "show the cluster at a glance";
    if context.output.format != Format::Table {
        let instead = "use `kennel host usage -o json` and `kennel cluster status -o json`";
        return Err(Failure::usage(asked, "it is for people, and has no other format", instead));
    }
    let client = context.client()?;
    let mut top = Top { sort: arguments.sort, filter: arguments.filter, ..Top::default() };
    if arguments.once {
        let width = std::io::stdout().is_terminal().then(ratatui::crossterm::terminal::size);
        return top::once(&client, width.and_then(Result::ok).map(|(width, _)| width), &mut top).await;
    }
    if !std::io::stdout().is_terminal() {
        return Err(Failure::refused(asked, "there is no terminal to show it on", "add --once"));
    }
    top::watch(&client, context.output.coloured, &mut top).await
}
