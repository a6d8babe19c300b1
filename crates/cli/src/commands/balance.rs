//! `kennel balance`: what would be moved to spread the load, and whether that is done.

use api::{ApplyBalance, BalanceView, ChangeSettings, MoveView};
use clap::Subcommand;
use model::{Bytes, GuestPlace};

use super::cluster_set::{self, Mode};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Block, Cell, Table, note};
use crate::{progress, row, terminal};

/// How many guests that may not move are named.
const HELD_SHOWN: usize = 8;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The score now, the score after, and each move with what it gains and costs
    #[command(after_help = "Examples:
  kennel balance show
  kennel balance show -o json | jq '.moves[] | {guest, gain, cost}'

The score says how badly the cluster is spread: 0 is best. A rule that is broken, a host without room for what it
must take over, and a host whose processors are all busy weigh more than any unevenness.")]
    Show,
    /// Make the moves that `balance show` shows
    #[command(after_help = "Examples:
  kennel balance apply          shows them, and asks
  kennel balance apply --yes    does not ask")]
    Apply {
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Do not wait; print the job's id
        #[arg(long)]
        no_wait: bool,
    },
    /// Whether the cluster balances itself
    #[command(after_help = "Examples:
  kennel balance mode manual       it proposes, and waits for `balance apply`
  kennel balance mode automatic")]
    Mode {
        #[arg(value_enum)]
        mode: Mode,
    },
}

pub async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        Command::Show => {
            let view = client.balance().await?;
            context.output.result(&view, |coloured| text(&view, coloured))
        }
        Command::Apply { yes, no_wait } => {
            let view = client.balance().await?;
            if view.moves.is_empty() {
                return context.output.result(&view, |coloured| text(&view, coloured));
            }
            if !yes {
                note(text(&view, false).trim_end());
            }
            let moves = if view.moves.len() == 1 { "One move is" } else { "All of these moves are" };
            let consequence = format!(
                "{moves} made; each is looked at again just before, and left out if it no longer helps."
            );
            terminal::confirm("balance the cluster", &[consequence], yes)?;
            let job = client.apply_balance(&ApplyBalance { digest: view.digest }).await?;
            progress::finish(context, &client, job, no_wait).await
        }
        Command::Mode { mode } => {
            let request = ChangeSettings { balance: Some(mode.into()), ..ChangeSettings::default() };
            let settings = client.change_settings(&request).await?;
            context
                .output
                .result(&settings, |_| format!("Balancing is {}.\n", cluster_set::mode(settings.balance)))
        }
    }
}

fn text(view: &BalanceView, coloured: bool) -> String {
    let verdict = match view.moves.len() {
        0 => "no move would gain more than it costs".to_owned(),
        1 => "1 move".to_owned(),
        count => format!("{count} moves"),
    };
    let mut held: Vec<_> = view.held.iter().map(|(guest, why)| format!("{guest}: {why}")).collect();
    if held.len() > HELD_SHOWN {
        let more = held.len() - HELD_SHOWN;
        held.truncate(HELD_SHOWN);
        held.push(format!("and {more} more"));
    }
    let head = Block::new()
        .line("Mode", cluster_set::mode(view.mode))
        .line("Score now", format!("{:.3}", view.score_before))
        .line("Score after", format!("{:.3}", view.score_after))
        .line("Proposal", verdict)
        .each("Stays wrong", &view.remaining)
        .each("Not moved now", held)
        .each("Not measured", view.unmeasured.iter().map(|(host, why)| format!("{host}: {why}")))
        .maybe("Under way", view.job.map(|job| format!("job {job}")))
        .render(coloured);
    if view.moves.is_empty() {
        return head;
    }
    let mut table = Table::new(&["GUEST", "FROM", "TO", "GAIN", "COST", "SEND", "COPY", "WHY"]);
    view.moves.iter().for_each(|step| table.add(move_row(step)));
    format!("{head}\n{}", table.render(coloured))
}

fn move_row(step: &MoveView) -> Vec<Cell> {
    let place = |place: &GuestPlace| place.to_string();
    let amount = |bytes: Bytes| if bytes.0 == 0 { "-".to_owned() } else { bytes.to_string() };
    row![
        &step.guest,
        place(&step.from),
        place(&step.to),
        format!("{:.3}", step.gain),
        format!("{:.3}", step.cost),
        amount(step.memory_to_send),
        amount(step.disk_to_copy),
        &step.why
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use model::BalanceMode;

    use super::*;

    fn place(host: &str, secondary: &str) -> GuestPlace {
        GuestPlace { host: host.parse().unwrap(), secondary: Some(secondary.parse().unwrap()) }
    }

    fn example(moves: Vec<MoveView>) -> BalanceView {
        BalanceView {
            mode: BalanceMode::Manual,
            digest: "0".to_owned(),
            score_before: 1.25,
            score_after: 0.5,
            moves,
            remaining: vec!["rule 'a': 2 on host1, it allows 1 on a host".to_owned()],
            held: BTreeMap::from([("db1".parse().unwrap(), "it is being moved".to_owned())]),
            unmeasured: BTreeMap::new(),
            job: None,
        }
    }

    #[test]
    fn a_proposal_tells_what_each_move_gains_and_costs() {
        let step = MoveView {
            guest: "web1".parse().unwrap(),
            from: place("host1", "host2"),
            to: place("host2", "host1"),
            steps: vec!["swap the roles: it runs on host2".to_owned()],
            score_before: 1.25,
            score_after: 0.5,
            gain: 0.75,
            cost: 0.0125,
            memory_to_send: Bytes::gib(1),
            disk_to_copy: Bytes(0),
            why: "host1 is busy".to_owned(),
        };
        assert_eq!(
            text(&example(vec![step]), false),
            "Mode:          manual\n\
             Score now:     1.250\n\
             Score after:   0.500\n\
             Proposal:      1 move\n\
             Stays wrong:   rule 'a': 2 on host1, it allows 1 on a host\n\
             Not moved now: db1: it is being moved\n\
             \n\
             GUEST  FROM           TO             GAIN   COST   SEND  COPY  WHY\n\
             web1   host1 + host2  host2 + host1  0.750  0.013  1G    -     host1 is busy\n"
        );
        let nothing = text(&example(Vec::new()), false);
        assert!(nothing.contains("Proposal:      no move would gain more than it costs\n"), "{nothing}");
    }
}
