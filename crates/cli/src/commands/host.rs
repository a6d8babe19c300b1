//! `kennel host`: the machines that run guests.

use api::HostView;
use clap::Subcommand;
use jiff::Timestamp;
use model::{HostName, HostPhase};

use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{self, Listed};
use crate::output::{Block, Cell, Tone};
use crate::times;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// All hosts
    #[command(after_help = "Examples:
  kennel host list
  kennel host list --watch")]
    List {
        /// Go on, and show every change
        #[arg(long)]
        watch: bool,
    },
    /// Everything about one host
    #[command(after_help = "Example:
  kennel host show host1")]
    Show { host: HostName },
}

pub async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::List { watch: true } => {
            listing::watch::<HostView>(context, context.client()?.watch_hosts()).await
        }
        Command::List { watch: false } => listing::print(context, &context.client()?.hosts().await?),
        Command::Show { host } => {
            let view = context.client()?.host(&host).await?;
            context.output.result(&view, |coloured| show(&view, Timestamp::now()).render(coloured))
        }
    }
}

pub fn phase(phase: HostPhase) -> Cell {
    let tone = match phase {
        HostPhase::Online => Tone::Good,
        HostPhase::Joining => Tone::Busy,
        HostPhase::Lost => Tone::Bad,
    };
    Cell::new(phase, tone)
}

/// What a host is to the cluster besides running guests.
fn role(view: &HostView) -> String {
    match (view.is_leader, view.host.store_member) {
        (true, true) => "leader, store".to_owned(),
        (true, false) => "leader".to_owned(),
        (false, true) => "store".to_owned(),
        (false, false) => "-".to_owned(),
    }
}

impl Listed for HostView {
    const HEAD: &'static [&'static str] =
        &["NAME", "PHASE", "ADDRESS", "ZONE", "CPUS", "MEMORY", "DISK", "GUESTS", "ACCEL", "ROLE"];
    const NOTHING: &'static str = "There is no host.";

    fn row(&self, _now: Timestamp) -> Vec<Cell> {
        let report = self.report.as_ref();
        vec![
            Cell::from(&self.name),
            phase(self.phase),
            Cell::from(self.host.address),
            Cell::from(&self.host.zone),
            Cell::maybe(report.map(|r| r.cpus)),
            Cell::maybe(report.map(|r| r.memory)),
            Cell::maybe(report.map(|r| r.disk)),
            Cell::from(self.guests),
            Cell::maybe(report.map(|r| r.accelerator.kind)),
            Cell::from(role(self)),
        ]
    }
}

fn show(view: &HostView, now: Timestamp) -> Block {
    let host = &view.host;
    let join = |names: Vec<String>| if names.is_empty() { "-".to_owned() } else { names.join(", ") };
    let block = Block::new()
        .line("Name", &view.name)
        .line("Phase", phase(view.phase))
        .line("Address", host.address)
        .line("Zone", &host.zone)
        .line("Tags", join(host.tags.iter().cloned().collect()))
        .line("Role", role(view))
        .line("Guests", view.guests)
        .line("Memory assigned", view.memory_assigned)
        .line("Joined", times::at_and_ago(host.joined_at, now))
        .line(
            "Session",
            view.session.as_ref().map_or_else(
                || "none: it is not heard of; it may be dead, cut off or frozen".to_owned(),
                |session| format!("since {}", times::at_and_ago(session.started_at, now)),
            ),
        );
    let Some(report) = &view.report else {
        return block.line("Report", "none yet");
    };
    block
        .line("Boot", report.boot_id)
        .line("CPUs", report.cpus)
        .line("Memory", report.memory)
        .line("Disk", report.disk)
        .line("Accelerator", format!("{}: {}", report.accelerator.kind, report.accelerator.why))
        .line("Kennel", &report.kennel_version)
        .line("QEMU", &report.qemu_version)
        .line("Kernel", &report.kernel_version)
        .line("Images", join(report.images.iter().map(ToString::to_string).collect()))
        .each("Uplinks", report.uplinks.iter().map(|(network, link)| format!("{network} on {link}")))
        .each("Problems", &report.problems)
}

/// For tests of other files, too.
#[cfg(test)]
pub mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use model::{Accelerator, AcceleratorKind, Bytes, Host, HostReport};

    use super::*;

    pub fn example(name: &str, phase: HostPhase) -> HostView {
        let name: HostName = name.parse().unwrap();
        HostView {
            name: name.clone(),
            phase,
            is_leader: name.as_str() == "host1",
            guests: 2,
            memory_assigned: Bytes::mib(256),
            host: Host {
                name: name.clone(),
                address: "10.77.0.1".parse().unwrap(),
                zone: "zone1".to_owned(),
                tags: BTreeSet::new(),
                joined_at: Timestamp::UNIX_EPOCH,
                store_member: true,
                duty: model::Duty::default(),
                settings: model::HostSettings::default(),
            },
            session: None,
            report: (phase == HostPhase::Online).then(|| HostReport {
                host: name,
                boot_id: model::BootId(uuid::Uuid::nil()),
                kennel_version: "0.1.0".to_owned(),
                qemu_version: "10.0.3".to_owned(),
                kernel_version: "6.12".to_owned(),
                cpus: 2,
                memory: Bytes::gib(8),
                disk: Bytes::gib(100),
                accelerator: Accelerator {
                    kind: AcceleratorKind::Tcg,
                    why: "there is no /dev/kvm".to_owned(),
                },
                images: BTreeSet::new(),
                problems: vec!["a volume file that no record names: x.raw".to_owned()],
                uplinks: BTreeMap::new(),
            }),
        }
    }

    #[test]
    fn hosts_are_told_apart_at_a_glance() {
        let hosts = [example("host1", HostPhase::Online), example("host2", HostPhase::Lost)];
        assert_eq!(
            listing::render(&hosts, Timestamp::UNIX_EPOCH, false),
            "NAME   PHASE   ADDRESS    ZONE   CPUS  MEMORY  DISK  GUESTS  ACCEL  ROLE\n\
             host1  online  10.77.0.1  zone1  2     8G      100G  2       tcg    leader, store\n\
             host2  lost    10.77.0.1  zone1  -     -       -     2       -      store\n"
        );
    }

    #[test]
    fn a_host_says_why_it_emulates_and_what_is_wrong() {
        let text = show(&example("host1", HostPhase::Online), Timestamp::UNIX_EPOCH).render(false);
        assert!(text.contains("Accelerator:     tcg: there is no /dev/kvm\n"), "{text}");
        assert!(text.contains("Problems:        a volume file that no record names: x.raw\n"), "{text}");
        assert!(text.contains("Session:         none: it is not heard of"), "{text}");
    }
}
