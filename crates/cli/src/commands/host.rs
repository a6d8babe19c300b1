//! `kennel host`: the machines that run guests.

use std::collections::BTreeMap;

use api::{Client, HostView};
use clap::Subcommand;
use jiff::Timestamp;
use model::{Bytes, Compatibility, Duty, HardwareWatchdog, HostName, HostPhase, HostUsage, Usage};

use super::{host_change, host_fence};

use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{self, Listed};
use crate::output::{Block, Cell, Format, Table, Tone};
use crate::{row, times};

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
    /// What each host uses now: processors, memory, disk and network traffic, and what its guests use
    #[command(after_help = "Examples:
  kennel host usage
  kennel host usage host1 -o json")]
    Usage {
        /// This host only, with its guests
        host: Option<HostName>,
    },
    /// Say where a host stands, what it carries, and what it keeps for itself
    #[command(after_help = "Examples:
  kennel host set host1 --zone rack2 --tag ssd --untag old
  kennel host set host1 --reserve-memory 2G --speed 130
  kennel host set host1 --memory-percent 120 --vcpus-percent default")]
    Set(host_change::SetArguments),
    /// Move everything off a host, guests and replicas, to take it out of the cluster
    #[command(after_help = "Examples:
  kennel host drain host3
  kennel host drain host3 --force      what cannot leave stays

The host takes nothing any more until `kennel host resume`, whatever becomes of the moves.")]
    Drain(host_change::DutyArguments),
    /// Move the guests off a host that will soon be back; the replicas that it holds stay
    #[command(after_help = "Example:
  kennel host maintenance host3 && ssh host3 reboot
  kennel host resume host3")]
    Maintenance(host_change::DutyArguments),
    /// Let a host that was drained, or in maintenance, take guests again
    #[command(after_help = "Example:
  kennel host resume host3")]
    Resume { host: HostName },
    /// Say that a lost host runs nothing any more, because you have seen that it is off
    #[command(after_help = "Example:
  kennel host confirm-dead host3

Guests whose disks are in storage that hosts share are started elsewhere only with a proof that their old host runs
them no more. This is one. Your word counts until the host is heard again.")]
    ConfirmDead {
        host: HostName,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// The devices that can take a host's power
    FenceDevice {
        #[command(subcommand)]
        command: host_fence::DeviceCommand,
    },
    /// Have a host's power taken
    #[command(after_help = "Examples:
  kennel host fence host3 --why 'it hangs'
  kennel host fence host3 --force --yes      though guests run on it

It counts as done when the fence devices say that the power is off and the host is not heard any more.")]
    Fence(host_fence::FenceArguments),
    /// Give a host its power back
    #[command(after_help = "Example:
  kennel host unfence host3")]
    Unfence { host: HostName },
    /// Ask every fence device of a host whether there is power; nothing is switched
    #[command(after_help = "Example:
  kennel host fence-test host3")]
    FenceTest { host: HostName },
}

pub async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::List { watch: true } => {
            listing::watch::<HostView>(context, context.client()?.watch_hosts()).await
        }
        Command::List { watch: false } => list(context).await,
        Command::Show { host } => {
            let client = context.client()?;
            let view = client.host(&host).await?;
            let usage = usages(context, &client).await.remove(&host);
            context
                .output
                .result(&view, |coloured| show(&view, usage.as_ref(), Timestamp::now()).render(coloured))
        }
        Command::Usage { host: Some(host) } => {
            let usage = context.client()?.host_usage(&host).await?;
            context.output.result(&usage, |coloured| guests_use(&usage).render(coloured))
        }
        Command::Usage { host: None } => {
            let usages = context.client()?.usages().await?;
            context.output.result(&usages, |coloured| hosts_use(&usages).render(coloured))
        }
        Command::Set(arguments) => host_change::set(context, arguments).await,
        Command::Drain(arguments) => host_change::empty(context, arguments, Duty::Draining).await,
        Command::Maintenance(arguments) => host_change::empty(context, arguments, Duty::Maintenance).await,
        Command::Resume { host } => host_change::resume(context, host).await,
        Command::ConfirmDead { host, yes } => host_change::confirm_dead(context, host, yes).await,
        Command::FenceDevice { command } => host_fence::devices(context, command).await,
        Command::Fence(arguments) => host_fence::fence(context, arguments).await,
        Command::Unfence { host } => host_fence::unfence(context, host).await,
        Command::FenceTest { host } => host_fence::test(context, host).await,
    }
}

/// What the hosts measured, for people. A list is a list without it, too.
pub async fn usages(context: &Context, client: &Client) -> BTreeMap<HostName, HostUsage> {
    if context.output.format != Format::Table {
        return BTreeMap::new();
    }
    let measured = client.usages().await.unwrap_or_default();
    measured.into_iter().map(|usage| (usage.host.clone(), usage)).collect()
}

async fn list(context: &Context) -> Result<(), Failure> {
    let client = context.client()?;
    let hosts = client.hosts().await?;
    let usages = usages(context, &client).await;
    context.output.result(&hosts, |coloured| {
        let mut table = Table::new(HostView::HEAD);
        hosts.iter().for_each(|host| table.add(row(host, usages.get(&host.name))));
        if hosts.is_empty() { format!("{}\n", HostView::NOTHING) } else { table.render(coloured) }
    })
}

/// Traffic, as in `1.5M/s`.
fn rate(bytes_a_second: f64) -> String {
    format!("{}/s", Bytes(bytes_a_second.max(0.0) as u64))
}

fn uses(usage: &Usage) -> [String; 4] {
    let memory = Bytes(usage.memory.max(0.0) as u64).to_string();
    [format!("{:.2}", usage.cpu), memory, rate(usage.disk), rate(usage.network)]
}

fn hosts_use(usages: &[HostUsage]) -> Table {
    let mut table = Table::new(&["HOST", "CPU", "MEMORY", "DISK", "NETWORK", "MEASURED", "GUESTS"]);
    for usage in usages {
        let [cpu, memory, disk, network] = uses(&usage.total);
        let measured = format!("{} s", usage.measured_s.min(usage.window_s));
        table.add(row![&usage.host, cpu, memory, disk, network, measured, usage.guests.len()]);
    }
    table
}

fn guests_use(usage: &HostUsage) -> Table {
    let mut table = Table::new(&["GUEST", "CPU", "MEMORY", "DISK", "NETWORK", "MEASURED"]);
    let [cpu, memory, disk, network] = uses(&usage.total);
    table.add(row![
        format!("({})", usage.host),
        cpu,
        memory,
        disk,
        network,
        format!("{} s", usage.measured_s)
    ]);
    for (guest, use_of) in &usage.guests {
        let [cpu, memory, disk, network] = uses(&use_of.usage);
        table.add(row![guest, cpu, memory, disk, network, format!("{} s", use_of.measured_s)]);
    }
    table
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
        &["NAME", "PHASE", "DUTY", "ADDRESS", "ZONE", "CPUS", "MEMORY", "DISK", "GUESTS", "ACCEL", "ROLE"];
    const NOTHING: &'static str = "There is no host.";

    fn row(&self, _now: Timestamp) -> Vec<Cell> {
        row(self, None)
    }
}

fn duty(duty: Duty) -> Cell {
    let tone = match duty {
        Duty::Normal => Tone::Plain,
        Duty::Draining | Duty::Maintenance => Tone::Busy,
    };
    Cell::new(duty, tone)
}

/// With what it uses, where that is known: `0.4/2` is four tenths of a core of two.
fn row(view: &HostView, usage: Option<&HostUsage>) -> Vec<Cell> {
    let report = view.report.as_ref();
    let cpus = report.map(|r| match usage {
        Some(usage) => format!("{:.1}/{}", usage.total.cpu, r.cpus),
        None => r.cpus.to_string(),
    });
    let memory = report.map(|r| match usage {
        Some(usage) => format!("{}/{}", Bytes(usage.total.memory.max(0.0) as u64), r.memory),
        None => r.memory.to_string(),
    });
    vec![
        Cell::from(&view.name),
        phase(view.phase),
        duty(view.host.duty),
        Cell::from(view.host.address),
        Cell::from(&view.host.zone),
        Cell::maybe(cpus),
        Cell::maybe(memory),
        Cell::maybe(report.map(|r| r.disk)),
        Cell::from(view.guests),
        Cell::maybe(report.map(|r| r.accelerator.kind)),
        Cell::from(role(view)),
    ]
}

/// What the host keeps for itself, and how much of it guests may have.
fn kept(host: &model::Host) -> Vec<String> {
    let settings = &host.settings;
    let mut lines =
        vec![format!("{} of memory, {} of disk", settings.reserved_memory, settings.reserved_disk)];
    if settings.reserved_millicores > 0 {
        lines.push(format!("{} thousandths of a core", settings.reserved_millicores));
    }
    lines
}

pub fn show(view: &HostView, usage: Option<&HostUsage>, now: Timestamp) -> Block {
    let host = &view.host;
    let join = |names: Vec<String>| if names.is_empty() { "-".to_owned() } else { names.join(", ") };
    let block = Block::new()
        .line("Name", &view.name)
        .line("Phase", phase(view.phase))
        .line("Duty", duty(host.duty))
        .line("Address", host.address)
        .line("Zone", &host.zone)
        .line("Tags", join(host.tags.iter().cloned().collect()))
        .line("Role", role(view))
        .line("Guests", view.guests)
        .line("Memory assigned", view.memory_assigned)
        .maybe(
            "In use",
            usage.map(|usage| {
                let [cpu, memory, disk, network] = uses(&usage.total);
                format!("{cpu} cores, {memory} of memory, disk {disk}, network {network}")
            }),
        )
        .each("Keeps", kept(host))
        .line("Speed", format!("{} %", host.settings.speed_percent))
        .maybe("Memory limit", host.settings.memory_percent.map(|percent| format!("{percent} %")))
        .maybe("CPU limit", host.settings.vcpus_percent.map(|percent| format!("{percent} %")))
        .line("Joined", times::at_and_ago(host.joined_at, now))
        .line(
            "Session",
            view.session.as_ref().map_or_else(
                || "none: it is not heard of; it may be dead, cut off or frozen".to_owned(),
                |session| format!("since {}", times::at_and_ago(session.started_at, now)),
            ),
        )
        .each("Fence devices", host_fence::lines(view))
        .maybe("Power", view.fence.as_ref().map(|fence| host_fence::in_words(fence, now)));
    let Some(report) = &view.report else {
        return block.line("Report", "none yet");
    };
    block
        .line("Boot", report.boot_id)
        .line("CPUs", report.cpus)
        .maybe("CPU level", cpu(&report.compatibility))
        .line("Memory", report.memory)
        .line("Disk", report.disk)
        .line("Accelerator", format!("{}: {}", report.accelerator.kind, report.accelerator.why))
        .line("Kennel", &report.kennel_version)
        .line("QEMU", &report.qemu_version)
        .line("Kernel", &report.kernel_version)
        .line("Images", join(report.images.iter().map(ToString::to_string).collect()))
        .each(
            "Pools",
            report.pools.iter().map(|(name, pool)| match &pool.problem {
                None => format!("{name}, {}", pool.size),
                Some(why) => format!("{name}: {why}"),
            }),
        )
        .each("Uplinks", report.uplinks.iter().map(|(network, link)| format!("{network} on {link}")))
        .maybe("Watchdog", report.hardware_watchdog.as_ref().map(watchdog))
        .each("Problems", &report.problems)
}

/// The hardware that resets it.
fn watchdog(hardware: &HardwareWatchdog) -> String {
    let HardwareWatchdog { name, timeout_s, proves } = hardware;
    let proof =
        if *proves { "" } else { "; others cannot count on that, for it may stand still with its host" };
    format!("{name} resets it when it is not fed for {timeout_s} s{proof}")
}

/// What decides which running guests it can take in.
fn cpu(compatibility: &Compatibility) -> Option<String> {
    let Compatibility { cpu_level, cpu_vendor, .. } = compatibility;
    let level = (*cpu_level)?;
    Some(cpu_vendor.as_ref().map_or_else(|| level.to_string(), |vendor| format!("{level}, {vendor}")))
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
            fence_devices: BTreeMap::new(),
            fence: None,
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
                incoming: vec![],
                compatibility: Default::default(),
                pools: Default::default(),
                short_of_room: false,
                hardware_watchdog: None,
            }),
        }
    }

    #[test]
    fn hosts_are_told_apart_at_a_glance() {
        let hosts = [example("host1", HostPhase::Online), example("host2", HostPhase::Lost)];
        assert_eq!(
            listing::render(&hosts, Timestamp::UNIX_EPOCH, false),
            "NAME   PHASE   DUTY    ADDRESS    ZONE   CPUS  MEMORY  DISK  GUESTS  ACCEL  ROLE\n\
             host1  online  normal  10.77.0.1  zone1  2     8G      100G  2       tcg    leader, store\n\
             host2  lost    normal  10.77.0.1  zone1  -     -       -     2       -      store\n"
        );
    }

    #[test]
    fn a_host_says_why_it_emulates_and_what_is_wrong() {
        let text = show(&example("host1", HostPhase::Online), None, Timestamp::UNIX_EPOCH).render(false);
        assert!(text.contains("Accelerator:     tcg: there is no /dev/kvm\n"), "{text}");
        assert!(text.contains("Problems:        a volume file that no record names: x.raw\n"), "{text}");
        assert!(text.contains("Session:         none: it is not heard of"), "{text}");
    }
}
