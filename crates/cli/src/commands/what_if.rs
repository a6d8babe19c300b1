//! `kennel what-if`: what the loss of a host would do, what one more would bring.

use api::{AddHostQuery, AddHostView, LossView};
use clap::{Args, Subcommand};
use model::{Bytes, GuestName, HostName};

use super::capacity::{fits, size};
use super::cluster_set::survives;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Block, Cell, Tone};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// What the loss of a host would do now, guest by guest
    #[command(after_help = "Examples:
  kennel what-if host-loss host2
  kennel what-if host-loss host2 -o json | jq .left_out")]
    HostLoss { host: HostName },
    /// What one more host would bring: guests that fit, and the promise to survive a loss
    #[command(after_help = "Example:
  kennel what-if add-host --memory 64G --disk 2T --cores 16 --zone rack2")]
    AddHost(AddHost),
}

#[derive(Debug, Args)]
pub struct AddHost {
    /// All of its memory
    #[arg(long, value_name = "SIZE")]
    memory: Bytes,
    /// What it has for volumes
    #[arg(long, value_name = "SIZE")]
    disk: Bytes,
    /// Its processors
    #[arg(long, value_name = "N")]
    cores: u32,
    /// Where it would stand [default: in a zone of its own]
    #[arg(long)]
    zone: Option<String>,
}

pub async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        Command::HostLoss { host } => {
            let view = client.host_loss(&host).await?;
            context.output.result(&view, |coloured| loss(&view).render(coloured))
        }
        Command::AddHost(AddHost { memory, disk, cores, zone }) => {
            let view = client.add_host(&AddHostQuery { memory, disk, cores, zone }).await?;
            context.output.result(&view, |coloured| brings(&view).render(coloured))
        }
    }
}

fn loss(view: &LossView) -> Block {
    let verdict = match view.left_out.len() {
        0 => Cell::new("every guest that can come back does", Tone::Good),
        1 => Cell::new("1 guest would not come back", Tone::Bad),
        count => Cell::new(format!("{count} guests would not come back"), Tone::Bad),
    };
    let names = |guests: &[GuestName]| {
        let names: Vec<_> = guests.iter().map(ToString::to_string).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    Block::new()
        .line("Without", &view.host)
        .line("Verdict", verdict)
        .each("Left out", view.left_out.iter().map(|(guest, why)| format!("{guest}: {why}")))
        .each("Come back", view.restarts.iter().map(|restart| format!("{} on {}", restart.guest, restart.on)))
        .maybe("Wait for it", names(&view.local).map(|names| format!("{names} (local disks)")))
        .maybe("Stopped there", names(&view.stopped))
        .maybe("One copy less", names(&view.degraded))
        .line("Untouched", view.unaffected)
}

fn brings(view: &AddHostView) -> Block {
    let kept = |problems: &[String]| match problems {
        [] => Cell::new("kept", Tone::Good),
        [first, rest @ ..] => {
            let more = if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
            Cell::new(format!("BROKEN: {first}{more}"), Tone::Bad)
        }
    };
    Block::new()
        .line("A guest of", size(&view.fits_before))
        .line("Fits now", fits(&view.fits_before))
        .line("Fits then", fits(&view.fits_after))
        .line("Promise", survives(view.survive))
        .line("Promise now", kept(&view.problems_before))
        .line("Promise then", kept(&view.problems_after))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use api::RestartView;
    use model::Survive;

    use super::super::capacity::tests::example_fits;
    use super::*;

    #[test]
    fn a_loss_is_told_guest_by_guest_the_worst_first() {
        let guest = |name: &str| name.parse::<GuestName>().unwrap();
        let view = LossView {
            host: "host2".parse().unwrap(),
            restarts: vec![RestartView { guest: guest("web1"), on: "host1".parse().unwrap() }],
            left_out: BTreeMap::from([(
                guest("big"),
                "host3: 1G of memory is free, 2G is needed".to_owned(),
            )]),
            local: vec![guest("old")],
            stopped: Vec::new(),
            degraded: vec![guest("web1"), guest("web2")],
            unaffected: 4,
        };
        assert_eq!(
            loss(&view).render(false),
            "Without:       host2\n\
             Verdict:       1 guest would not come back\n\
             Left out:      big: host3: 1G of memory is free, 2G is needed\n\
             Come back:     web1 on host1\n\
             Wait for it:   old (local disks)\n\
             One copy less: web1, web2\n\
             Untouched:     4\n"
        );
    }

    #[test]
    fn a_host_brings_room_and_perhaps_the_promise() {
        let view = AddHostView {
            survive: Survive::Hosts(1),
            fits_before: example_fits(0),
            fits_after: example_fits(7),
            problems_before: vec!["a".to_owned(), "b".to_owned()],
            problems_after: Vec::new(),
        };
        let text = brings(&view).render(false);
        assert!(text.contains("Fits then:    7; one more would lack memory\n"), "{text}");
        assert!(text.contains("Promise now:  BROKEN: a (and 1 more)\nPromise then: kept\n"), "{text}");
    }
}
