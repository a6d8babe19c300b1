//! `kennel volume`: guests' disks, and who holds every acknowledged write of them.

use std::str::FromStr;
use std::time::Duration;

use api::{Client, ConvertVolume, ReplaceSecondary, ResyncVolume, VolumeView};
use clap::Subcommand;
use jiff::Timestamp;
use model::{
    ByteRange, Bytes, FillProgress, Filled, GuestName, HostName, Pool, Verified, VolumeId, VolumePhase,
};

use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{self, Listed};
use crate::output::{Block, Cell, Tone};
use crate::{progress, times};

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
    Show {
        /// A volume's id, or a guest
        volume: Which,
    },
    /// Put a guest's second replica on another host
    #[command(after_help = "Examples:
  kennel volume replace-secondary web1
  kennel volume replace-secondary web1 --to host3

The old replica is kept until the new one can be filled, and deleted once the new one is in sync.
All disks of a guest have their second replicas on the same host, and go together.")]
    ReplaceSecondary {
        /// A volume's id, or a guest
        volume: Which,
        /// The host that shall hold it [default: the best one]
        #[arg(long, value_name = "HOST")]
        to: Option<HostName>,
        /// Though the cluster could no longer survive what it promises to
        #[arg(long)]
        force: bool,
        /// Do not wait; print the job's id
        #[arg(long)]
        no_wait: bool,
    },
    /// Fill a guest's second replica anew
    #[command(after_help = "Examples:
  kennel volume resync web1
  kennel volume resync web1 --full

Until it is filled the guest has one replica that counts. `kennel volume list --watch` shows how far it is.")]
    Resync {
        /// A volume's id, or a guest
        volume: Which,
        /// Copy all of the disk, whatever is known of what changed
        #[arg(long)]
        full: bool,
    },
    /// Compare both replicas while the guest runs
    #[command(after_help = "Example:
  kennel volume verify web1

Fails when they differ; `kennel volume show` says when they were compared last, and where they differ.")]
    Verify {
        /// A volume's id, or a guest that has one disk
        volume: Which,
        /// Do not wait; print the job's id
        #[arg(long)]
        no_wait: bool,
    },
    /// Make a disk larger, also while its guest runs
    #[command(after_help = "Examples:
  kennel volume grow web1 20G
  kennel volume grow 0199f0a2-7c1e-7d60-8b37-0c8f6a1d2e3f 20G

The guest sees the new size at once; its partitions and file systems are its own business (growpart, resize2fs).
A mirrored disk is filled anew afterwards.")]
    Grow {
        /// A volume's id, or a guest that has one disk
        volume: Which,
        /// As in 20G; more than it has
        size: Bytes,
    },
    /// Put a guest's disks into another pool while it runs
    #[command(after_help = "Examples:
  kennel volume convert web1 --pool mirror
  kennel volume convert web1 --pool mirror --to host3
  kennel volume convert web1 --pool local")]
    Convert {
        /// A volume's id, or a guest; all disks of the guest go
        volume: Which,
        /// `mirror` makes a second replica on another host, `local` gives it up
        #[arg(long)]
        pool: Pool,
        /// The host that shall hold the second replica [default: the best one]
        #[arg(long, value_name = "HOST")]
        to: Option<HostName>,
        /// Though the cluster could no longer survive what it promises to
        #[arg(long)]
        force: bool,
        /// Do not wait; print the job's id
        #[arg(long)]
        no_wait: bool,
    },
}

/// A volume, by its id or by its guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    Volume(VolumeId),
    GuestsOwn(GuestName),
}

impl FromStr for Which {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(volume) = text.parse() {
            return Ok(Which::Volume(volume));
        }
        let name =
            text.parse().map_err(|_| format!("'{text}' is neither a volume's id nor a guest's name"))?;
        Ok(Which::GuestsOwn(name))
    }
}

impl Which {
    /// One volume of the guest, for what concerns all of them.
    async fn any(&self, client: &Client) -> Result<VolumeId, Failure> {
        Ok(self.of_guest(client).await?.0)
    }

    /// The only one of the guest.
    async fn one(&self, client: &Client, asked: &str) -> Result<VolumeId, Failure> {
        match self.of_guest(client).await? {
            (volume, others) if others.is_empty() => Ok(volume),
            (volume, others) => {
                let ids: Vec<String> =
                    std::iter::once(volume).chain(others).map(|id| id.to_string()).collect();
                let instead = format!("name one of them: {}", ids.join(", "));
                Err(Failure::refused(asked, "the guest has several disks", instead))
            }
        }
    }

    async fn of_guest(&self, client: &Client) -> Result<(VolumeId, Vec<VolumeId>), Failure> {
        let guest = match self {
            Which::Volume(volume) => return Ok((*volume, Vec::new())),
            Which::GuestsOwn(guest) => guest,
        };
        let view = client.guest(guest).await?;
        let mut ids = view.volumes.iter().map(|volume| volume.id);
        let none =
            || Failure::refused(format!("find the disk of '{guest}'"), "it has none", "name another guest");
        Ok((ids.next().ok_or_else(none)?, ids.collect()))
    }
}

pub async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::List { watch: true } => {
            listing::watch::<VolumeView>(context, context.client()?.watch_volumes()).await
        }
        Command::List { watch: false } => listing::print(context, &context.client()?.volumes().await?),
        Command::Show { volume } => {
            let client = context.client()?;
            let view = client.volume(volume.one(&client, "show a volume").await?).await?;
            context.output.result(&view, |coloured| show(&view, Timestamp::now()).render(coloured))
        }
        Command::ReplaceSecondary { volume, to, force, no_wait } => {
            let client = context.client()?;
            let id = volume.any(&client).await?;
            let job = client.replace_secondary(id, &ReplaceSecondary { to, force }).await?;
            progress::finish(context, &client, job, no_wait).await
        }
        Command::Resync { volume, full } => {
            let client = context.client()?;
            let id = volume.any(&client).await?;
            let view = client.resync_volume(id, &ResyncVolume { full }).await?;
            context
                .output
                .result(&view, |_| format!("The second replica of {} is filled anew.\n", view.guest))
        }
        Command::Verify { volume, no_wait } => {
            let client = context.client()?;
            let asked = "verify a volume";
            let id = volume.one(&client, asked).await?;
            let job = client.verify_volume(id).await?;
            progress::finish(context, &client, job, no_wait).await?;
            let found = if no_wait { None } else { client.volume(id).await?.verified };
            match found.filter(|verified| verified.unlike > Bytes(0)) {
                None => Ok(()),
                Some(verified) => {
                    let instead =
                        format!("`kennel volume resync {id}` makes the second one what the guest reads");
                    Err(Failure::refused(asked, in_words(&verified), instead))
                }
            }
        }
        Command::Grow { volume, size } => {
            let client = context.client()?;
            let id = volume.one(&client, "grow a volume").await?;
            let view = client.grow_volume(id, size).await?;
            context
                .output
                .result(&view, |_| format!("Disk {} of {} grows to {size}.\n", view.disk, view.guest))
        }
        Command::Convert { volume, pool, to, force, no_wait } => {
            let client = context.client()?;
            let id = volume.any(&client).await?;
            let job = client.convert_volume(id, &ConvertVolume { pool, to, force }).await?;
            progress::finish(context, &client, job, no_wait).await
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
            Cell::from(if self.thin { format!("{}, thin", self.size) } else { self.size.to_string() }),
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

/// What a comparison has found.
fn in_words(verified: &Verified) -> String {
    let busy = match verified.busy {
        Bytes(0) => String::new(),
        busy => format!(", but for {busy} that the guest wrote all the while"),
    };
    match verified.unlike {
        Bytes(0) => format!("no difference in {}{busy}", verified.compared),
        unlike => format!("the replicas differ in {unlike} of {}{busy}", verified.compared),
    }
}

fn range(range: &ByteRange) -> String {
    format!("{} bytes from {}", range.length, range.start)
}

/// How far a fill is, and when it will be done.
fn progress(fill: &FillProgress) -> String {
    let mut text = format!("{} of {}", Bytes(fill.done), Bytes(fill.total));
    if let Some(sent) = fill.sent {
        text += &format!(", {} sent", Bytes(sent));
    }
    if let Some(seconds) = fill.seconds_left() {
        text += &format!(", {}/s, {seconds} s left", Bytes(fill.bytes_per_second));
    }
    text
}

fn way(fill: &FillProgress) -> Option<String> {
    fill.how.map(|how| format!("{how}: {}", fill.why))
}

fn filled(filled: &Filled) -> String {
    let Filled { how, why, sent, took_ms, at } = filled;
    let seconds = Duration::from_millis(*took_ms).as_secs_f64();
    format!("{at:.0}: {} in {seconds:.1} s, {how}: {why}", Bytes(*sent))
}

fn show(view: &VolumeView, now: Timestamp) -> Block {
    Block::new()
        .line("Volume", view.id)
        .line("Guest", format!("{}, disk {}", view.guest, view.disk))
        .line("Pool", view.pool_shown())
        .line("Size", view.size)
        .maybe("Made from", view.image.as_ref().map(|image| format!("image {image}")))
        .line("Phase", phase(view.phase))
        .line("Meaning", meaning(view.phase))
        .maybe("Filled", view.fill.as_ref().map(progress))
        .maybe("Filled by", view.fill.as_ref().and_then(way))
        .maybe("Last filled", view.filled.as_ref().map(filled))
        .maybe("Degraded", view.degraded_since.map(|since| times::at_and_ago(since, now)))
        .maybe("Healing", view.healing.as_ref())
        .maybe(
            "Compared",
            view.verified.as_ref().map(|v| format!("{}: {}", times::at_and_ago(v.at, now), in_words(v))),
        )
        .each("Differs at", view.verified.iter().flat_map(|v| &v.ranges).map(range))
        .each("Replicas", replicas(view))
        .line("Epoch", Cell::maybe(view.epoch))
}
