//! `kennel events`: what happened, and what happens.

use api::{EventQuery, EventView, WatchEvent};
use clap::Args;
use futures::StreamExt;
use jiff::Timestamp;
use model::Severity;

use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{self, Listed};
use crate::output::{Cell, Tone, note};
use crate::{output, times};

/// So many that a terminal's history holds them.
const LIMIT_DEFAULT: usize = 100;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kennel events                          the newest 100
  kennel events --follow                 and every one that comes
  kennel events --subject guest/web1     only one guest's
  kennel events --limit 1000 -o json")]
pub struct Arguments {
    /// Go on, and show each event as it happens
    #[arg(long, short)]
    follow: bool,
    /// Only those about one thing, as in guest/web1 or host/host2
    #[arg(long)]
    subject: Option<String>,
    /// How many of the newest
    #[arg(long, default_value_t = LIMIT_DEFAULT)]
    limit: usize,
}

pub async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let query =
        EventQuery { subject: arguments.subject, limit: Some(arguments.limit), watch: arguments.follow };
    if arguments.follow {
        return follow(context, query).await;
    }
    listing::print(context, &context.client()?.events(&query).await?)
}

/// Prints each event once, one line each: what stands never changes, so nothing is drawn again.
async fn follow(context: &Context, query: EventQuery) -> Result<(), Failure> {
    let mut stream = context.client()?.watch_events(&query);
    // Ids sort by time, but not strictly across hosts: remember all, they are few.
    let mut seen = std::collections::BTreeSet::new();
    while let Some(event) = stream.next().await {
        let fresh = match event? {
            WatchEvent::Snapshot(events) => events,
            WatchEvent::Changed(event) => vec![event],
            WatchEvent::Removed(_) => continue,
            WatchEvent::Interrupted(why) => {
                note(&format!("kennel: {why}; trying again"));
                continue;
            }
        };
        for event in fresh {
            if seen.insert(event.id) {
                context.output.next(&event, |coloured| line(&event, coloured))?;
            }
        }
    }
    Ok(())
}

fn tone(severity: Severity) -> Tone {
    match severity {
        Severity::Info => Tone::Plain,
        Severity::Warning => Tone::Busy,
        Severity::Error => Tone::Bad,
    }
}

fn line(event: &EventView, coloured: bool) -> String {
    let mut table = output::Table::new(&["", "", "", ""]);
    table.add(vec![
        Cell::from(times::at(event.at)),
        // Lines that are printed one by one line up only if their first fields have one width.
        Cell::new(format!("{:7}", event.severity), tone(event.severity)),
        Cell::from(format!("{:14}", event.subject)),
        Cell::from(&event.message),
    ]);
    table.render(coloured).trim_start().to_owned()
}

impl Listed for EventView {
    const HEAD: &'static [&'static str] = &["TIME", "SEVERITY", "SUBJECT", "MESSAGE"];
    const NOTHING: &'static str = "Nothing has happened.";

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        vec![
            Cell::from(times::ago(self.at, now)),
            Cell::new(self.severity, tone(self.severity)),
            Cell::from(&self.subject),
            Cell::from(&self.message),
        ]
    }
}

#[cfg(test)]
mod tests {
    use model::{EventId, EventKind};

    use super::*;

    fn example() -> EventView {
        EventView {
            id: EventId(uuid::Uuid::nil()),
            at: Timestamp::UNIX_EPOCH,
            severity: Severity::Warning,
            kind: EventKind::HostLost,
            subject: "host/host2".to_owned(),
            seen_by: "host1".parse().unwrap(),
            message: "the host's session is over".to_owned(),
        }
    }

    #[test]
    fn events_read_like_a_log() {
        let now = Timestamp::from_second(125).unwrap();
        assert_eq!(
            listing::render(&[example()], now, false),
            "TIME     SEVERITY  SUBJECT     MESSAGE\n\
             2 m ago  warning   host/host2  the host's session is over\n"
        );
    }

    #[test]
    fn a_followed_event_is_one_line() {
        let text = line(&example(), false);
        assert_eq!(text.lines().count(), 1);
        assert!(text.ends_with("warning  host/host2      the host's session is over\n"), "{text:?}");
    }
}
