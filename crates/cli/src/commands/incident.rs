//! `kennel incident`: what went wrong, as one story each.

use api::IncidentView;
use clap::Subcommand;
use jiff::Timestamp;
use model::{IncidentId, Weight, seconds};

use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{self, Listed};
use crate::output::{Block, Cell, Tone};
use crate::times;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// What went wrong, the newest last
    #[command(after_help = "Examples:
  kennel incident list
  kennel incident list --open            only what is not over
  kennel incident list --watch")]
    List {
        /// Only those that are open
        #[arg(long)]
        open: bool,
        /// Show the list again at each change
        #[arg(long, short, conflicts_with = "open")]
        watch: bool,
    },
    /// One of them: what it means for each guest, how long each part took, what happened when
    #[command(after_help = "Example:
  kennel incident show 12

The moments are those of the daemons that saw them, each by its own host's clock.")]
    Show { number: IncidentId },
}

pub async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        Command::List { watch: true, .. } => listing::watch(context, client.watch_incidents()).await,
        Command::List { open, .. } => {
            let mut incidents = client.incidents().await?;
            incidents.retain(|view| !open || view.incident.is_open());
            listing::print(context, &incidents)
        }
        Command::Show { number } => {
            let view = client.incident(number).await?;
            context.output.result(&view, |coloured| show(&view, Timestamp::now(), coloured))
        }
    }
}

fn tone(view: &IncidentView) -> Tone {
    match (view.incident.is_open(), view.incident.weight) {
        (false, _) => Tone::Plain,
        (true, Weight::Warning) => Tone::Busy,
        (true, Weight::Critical) => Tone::Bad,
    }
}

fn state(view: &IncidentView) -> String {
    if view.incident.is_open() { view.incident.weight.to_string() } else { "ended".to_owned() }
}

fn show(view: &IncidentView, now: Timestamp, coloured: bool) -> String {
    let incident = &view.incident;
    let lasted = view.lasted_ms.map(|ms| format!(", after {}", seconds(ms))).unwrap_or_default();
    let ended = incident.ended_at.map(|end| format!("{}{lasted}", times::at_and_ago(end, now)));
    let head = Block::new()
        .line("Incident", format!("{}: {}", view.id, view.headline))
        .line("State", Cell::new(state(view), tone(view)))
        .line("At worst", incident.peak.to_string())
        .line("Began", times::at_and_ago(incident.began_at, now))
        .maybe("Ended", ended)
        .each("Still", &incident.open_because)
        .render(coloured);
    let story = view.story();
    if story.is_empty() { head } else { format!("{head}\n{story}") }
}

impl Listed for IncidentView {
    const HEAD: &'static [&'static str] = &["NUMBER", "STATE", "BEGAN", "LASTED", "GUESTS", "WHAT"];
    const NOTHING: &'static str = "Nothing has gone wrong.";

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let more = if self.incident.more_guests { "+" } else { "" };
        vec![
            Cell::from(self.id),
            Cell::new(state(self), tone(self)),
            Cell::from(times::ago(self.incident.began_at, now)),
            Cell::maybe(self.lasted_ms.map(seconds)),
            Cell::from(format!("{}{more}", self.guests.len())),
            Cell::from(&self.headline),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use model::{Incident, IncidentKind};

    use super::*;

    fn example(ended: Option<i64>) -> IncidentView {
        let at = |s: i64| Timestamp::from_second(1_800_000_000 + s).unwrap();
        IncidentView::of(&Incident {
            id: IncidentId(12),
            kind: IncidentKind::HostLost,
            subject: "host/host1".to_owned(),
            began_at: at(0),
            opened_at: at(0),
            well_since: None,
            ended_at: ended.map(at),
            weight: Weight::Warning,
            peak: Weight::Critical,
            proven_at: None,
            open_because: Vec::new(),
            guests: BTreeMap::new(),
            more_guests: false,
            entries: Vec::new(),
            more_entries: false,
        })
    }

    #[test]
    fn incidents_are_listed_with_their_state_and_how_long_they_lasted() {
        let now = Timestamp::from_second(1_800_000_180).unwrap();
        assert_eq!(
            listing::render(&[example(None), example(Some(42))], now, false),
            "NUMBER  STATE    BEGAN    LASTED  GUESTS  WHAT\n\
             12      warning  3 m ago  -       0       host1 is lost\n\
             12      ended    3 m ago  42.0 s  0       host1 was lost\n"
        );
        let text = show(&example(Some(42)), now, false);
        assert!(text.starts_with("Incident: 12: host1 was lost\n"), "{text}");
        assert!(text.contains(", after 42.0 s\n"), "{text}");
    }
}
