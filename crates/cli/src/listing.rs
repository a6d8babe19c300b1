//! Lists: printed once, or kept up to date with `--watch`.
//!
//! On a terminal a watched table is drawn again at each change. Programs get each change as it comes: JSON on
//! one line, or a YAML document, the snapshot first.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use api::{ClientError, WatchEvent, Watched};
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Cell, Format, Table, note, say};

/// Something that stands in a list.
pub trait Listed: Serialize + Watched {
    const HEAD: &'static [&'static str];
    /// What a list without entries says instead of a bare head.
    const NOTHING: &'static str;
    fn row(&self, now: Timestamp) -> Vec<Cell>;
}

/// The list as people see it.
pub fn render<'a, T: Listed + 'a>(
    items: impl IntoIterator<Item = &'a T>,
    now: Timestamp,
    coloured: bool,
) -> String {
    let mut table = Table::new(T::HEAD);
    let mut empty = true;
    for item in items {
        empty = false;
        table.add(item.row(now));
    }
    if empty { format!("{}\n", T::NOTHING) } else { table.render(coloured) }
}

/// Prints a list once.
pub fn print<T: Listed>(context: &Context, items: &[T]) -> Result<(), Failure> {
    context.output.result(&items, |coloured| render(items, Timestamp::now(), coloured))
}

/// A change as programs get it.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Change<'a, T> {
    Snapshot { items: &'a [T] },
    Changed { item: &'a T },
    Removed { id: &'a str },
}

/// Prints a list and its changes until the command is ended.
pub async fn watch<T: Listed>(
    context: &Context,
    mut events: impl Stream<Item = Result<WatchEvent<T>, ClientError>> + Unpin,
) -> Result<(), Failure> {
    let people = context.output.format == Format::Table;
    let mut shown: BTreeMap<String, T> = BTreeMap::new();
    while let Some(event) = events.next().await {
        let event = event?;
        match &event {
            WatchEvent::Interrupted(why) => {
                note(&format!("kennel: {why}; trying again"));
                continue;
            }
            WatchEvent::Snapshot(items) if !people => tell(context, &Change::Snapshot { items })?,
            WatchEvent::Changed(item) if !people => tell(context, &Change::Changed { item })?,
            WatchEvent::Removed(id) if !people => tell::<T>(context, &Change::Removed { id })?,
            WatchEvent::Snapshot(_) | WatchEvent::Changed(_) | WatchEvent::Removed(_) => {}
        }
        if people {
            apply(&mut shown, event);
            draw(context, &shown)?;
        }
    }
    Ok(())
}

fn tell<T: Serialize>(context: &Context, change: &Change<'_, T>) -> Result<(), Failure> {
    context.output.next(change, |_| String::new())
}

/// Brings what is known up to date.
pub fn apply<T: Watched>(items: &mut BTreeMap<String, T>, event: WatchEvent<T>) {
    match event {
        WatchEvent::Snapshot(all) => *items = all.into_iter().map(|item| (item.watch_id(), item)).collect(),
        WatchEvent::Changed(item) => {
            items.insert(item.watch_id(), item);
        }
        WatchEvent::Removed(id) => {
            items.remove(&id);
        }
        WatchEvent::Interrupted(_) => {}
    }
}

fn draw<T: Listed>(context: &Context, items: &BTreeMap<String, T>) -> Result<(), Failure> {
    let text = render(items.values(), Timestamp::now(), context.output.coloured);
    if std::io::stdout().is_terminal() {
        // Clears the screen, and what scrolled out of a list longer than it.
        say(&format!("\x1b[H\x1b[2J\x1b[3J{text}"))
    } else {
        say(&format!("{text}\n"))
    }
}
