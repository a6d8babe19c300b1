//! `kennel plan balance` for a dump of a Kennel cluster: what `kennel balance show` would say of it, reasons and all.

use std::collections::BTreeMap;

use model::{Bytes, GuestName, GuestPlace};
use plan::inventory::Inventory;
use plan::proposal::{Options, PlannedMove, Proposal, propose};
use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Block, Cell, Table};
use crate::row;

/// How many guests that may not move are named.
const HELD_SHOWN: usize = 8;

/// What programs get. `score` and `placement` as for Ganeti's format.
#[derive(Debug, Serialize)]
struct Report {
    score: f64,
    #[serde(flatten)]
    proposal: Proposal,
    placement: BTreeMap<GuestName, PlaceReport>,
}

#[derive(Debug, Serialize)]
struct PlaceReport {
    primary: String,
    secondary: Option<String>,
}

pub fn run(context: &Context, inventory: &Inventory, moves_max: Option<usize>) -> Result<(), Failure> {
    let proposal = propose(inventory, Options { moves_max });
    let report = Report { score: proposal.score_after, placement: placement(inventory, &proposal), proposal };
    context.output.result(&report, |coloured| text(&report.proposal, coloured))
}

/// Where every guest is after the moves.
fn placement(inventory: &Inventory, proposal: &Proposal) -> BTreeMap<GuestName, PlaceReport> {
    let snapshot = &inventory.snapshot;
    let now = snapshot.guest_indices().filter_map(|guest| {
        Some((inventory.guest_name(guest).clone(), inventory.place_of(snapshot.guest(guest).place?)))
    });
    let mut places: BTreeMap<GuestName, GuestPlace> = now.collect();
    places.extend(proposal.moves.iter().map(|step| (step.guest.clone(), step.to.clone())));
    let report = |place: GuestPlace| PlaceReport {
        primary: place.host.to_string(),
        secondary: place.secondary.map(|host| host.to_string()),
    };
    places.into_iter().map(|(guest, place)| (guest, report(place))).collect()
}

fn text(proposal: &Proposal, coloured: bool) -> String {
    let total = |of: fn(&PlannedMove) -> Bytes| proposal.moves.iter().map(of).sum::<Bytes>();
    let verdict = match proposal.moves.len() {
        0 => "no move would gain more than it costs".to_owned(),
        count => format!(
            "{count} move{}: {} of memory to send, {} of disk to copy",
            if count == 1 { "" } else { "s" },
            total(|step| step.memory_to_send),
            total(|step| step.disk_to_copy)
        ),
    };
    let mut held: Vec<_> = proposal.held.iter().map(|(guest, why)| format!("{guest}: {why}")).collect();
    if held.len() > HELD_SHOWN {
        let more = held.len() - HELD_SHOWN;
        held.truncate(HELD_SHOWN);
        held.push(format!("and {more} more"));
    }
    let head = Block::new()
        .line("Score now", format!("{:.3}", proposal.score_before))
        .line("Score after", format!("{:.3}", proposal.score_after))
        .line("Proposal", verdict)
        .each("Stays wrong", &proposal.remaining)
        .each("Not moved now", held)
        .each("Not measured", proposal.unmeasured.iter().map(|(host, why)| format!("{host}: {why}")))
        .render(coloured);
    if proposal.moves.is_empty() {
        return head;
    }
    let mut table = Table::new(&["GUEST", "FROM", "TO", "GAIN", "COST", "SEND", "COPY", "WHY"]);
    proposal.moves.iter().for_each(|step| table.add(move_row(step)));
    format!("{head}\n{}", table.render(coloured))
}

fn move_row(step: &PlannedMove) -> Vec<Cell> {
    let amount = |bytes: Bytes| Cell::maybe((bytes.0 > 0).then_some(bytes));
    row![
        &step.guest,
        &step.from,
        &step.to,
        format!("{:.3}", step.gain),
        format!("{:.3}", step.cost),
        amount(step.memory_to_send),
        amount(step.disk_to_copy),
        &step.why
    ]
}
