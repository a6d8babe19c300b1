//! `kennel volume`: guests' disks, and who holds every acknowledged write of them.

use api::VolumeView;
use clap::Subcommand;
use jiff::Timestamp;
use model::{Bytes, VolumeId, VolumePhase};

use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{self, Listed};
use crate::output::{Block, Cell, Tone};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// All volumes
    #[command(after_help = "Examples:
  kennel volume list
  kennel volume list --watch       see a resync come to its end")]
    List {
        /// Go on, and show every change
        #[arg(long)]
        watch: bool,
    },
    /// Everything about one volume
    #[command(after_help = "Example:
  kennel volume show 0199f0a2-7c1e-7d60-8b37-0c8f6a1d2e3f")]
    Show { volume: VolumeId },
}

pub async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::List { watch: true } => {
            listing::watch::<VolumeView>(context, context.client()?.watch_volumes()).await
        }
        Command::List { watch: false } => listing::print(context, &context.client()?.volumes().await?),
        Command::Show { volume } => {
            let view = context.client()?.volume(volume).await?;
            context.output.result(&view, |coloured| show(&view).render(coloured))
        }
    }
}

pub fn phase(phase: VolumePhase) -> Cell {
    let tone = match phase {
        VolumePhase::InSync => Tone::Good,
        VolumePhase::Syncing | VolumePhase::Creating => Tone::Busy,
        VolumePhase::Held | VolumePhase::Degraded => Tone::Bad,
    };
    Cell::new(phase, tone)
}

/// What a phase means for the data, for somebody who has never seen the word.
pub fn meaning(phase: VolumePhase) -> &'static str {
    match phase {
        VolumePhase::InSync => "every acknowledged write is on each replica",
        VolumePhase::Held => "the secondary does not answer; the guest's writes wait",
        VolumePhase::Degraded => "one replica is missing; the guest writes to the other alone",
        VolumePhase::Syncing => "the secondary is being filled; it cannot take over yet",
        VolumePhase::Creating => "it is not made yet",
    }
}

impl Listed for VolumeView {
    const HEAD: &'static [&'static str] =
        &["VOLUME", "GUEST", "POOL", "SIZE", "PHASE", "PRIMARY", "SECONDARY"];
    const NOTHING: &'static str = "There is no volume.";

    fn row(&self, _now: Timestamp) -> Vec<Cell> {
        vec![
            Cell::from(self.id),
            Cell::from(&self.guest),
            Cell::from(self.pool_shown()),
            Cell::from(self.size),
            phase(self.phase),
            Cell::maybe(self.primary()),
            Cell::maybe(self.secondary()),
        ]
    }
}

/// One replica in words.
pub fn replicas(view: &VolumeView) -> impl Iterator<Item = String> + '_ {
    view.replicas.iter().map(|replica| {
        let state = if replica.in_sync { "in sync" } else { "NOT in sync" };
        format!("{} ({}, {state})", replica.host, replica.role)
    })
}

fn show(view: &VolumeView) -> Block {
    Block::new()
        .line("Volume", view.id)
        .line("Guest", format!("{}, disk {}", view.guest, view.disk))
        .line("Pool", view.pool_shown())
        .line("Size", view.size)
        .maybe("Made from", view.image.as_ref().map(|image| format!("image {image}")))
        .line("Phase", phase(view.phase))
        .line("Meaning", meaning(view.phase))
        .maybe("Filled", view.fill.map(|fill| format!("{} of {}", Bytes(fill.done), Bytes(fill.total))))
        .each("Replicas", replicas(view))
        .line("Epoch", Cell::maybe(view.epoch))
}
