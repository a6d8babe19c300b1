//! Command lines that make no sense, told in the same shape as every other refusal.

use clap::Command;
use clap::error::{Error, ErrorKind};

use crate::failure::{EXIT_USAGE, Failure};
use crate::output::{note, say};

/// Help and versions are printed here, too: clap has them as errors.
#[expect(clippy::wildcard_enum_match_arm, reason = "clap's kinds are not exhaustive")]
pub fn explain(error: Error, root: Command) -> Failure {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let text = error.render();
            let printed = say(&if crate::output::stdout_is_coloured() {
                text.ansi().to_string()
            } else {
                text.to_string()
            });
            printed.err().unwrap_or(Failure::Status(0))
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            note(&error.render().to_string());
            Failure::Status(EXIT_USAGE)
        }
        _ => {
            let (why, instead) = sentence(&error.render().to_string());
            let path = path(root, std::env::args().skip(1));
            let help = format!("see `{path} --help`");
            let instead = instead.map_or_else(|| help.clone(), |tip| format!("{tip}, or {help}"));
            Failure::usage("understand the command line", why, instead)
        }
    }
}

/// The complaint and the tip in what clap would print.
fn sentence(rendered: &str) -> (String, Option<String>) {
    let mut paragraphs = rendered.split("\n\n").map(|p| p.split_whitespace().collect::<Vec<_>>().join(" "));
    let complaint = paragraphs.next().unwrap_or_default();
    let complaint = complaint.strip_prefix("error: ").unwrap_or(&complaint).to_owned();
    let tip = paragraphs.find_map(|p| p.strip_prefix("tip: ").map(str::to_owned));
    (complaint, tip)
}

/// The command that the words name, as far as they name one.
fn path(root: Command, words: impl Iterator<Item = String>) -> String {
    let mut path = root.get_name().to_owned();
    let mut here = &root;
    for word in words {
        if let Some(found) = here.find_subcommand(&word) {
            here = found;
            path = format!("{path} {word}");
        }
    }
    path
}
