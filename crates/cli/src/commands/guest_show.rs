//! How a guest looks: one row in the list, and everything about it.

use std::collections::{BTreeMap, BTreeSet};

use api::{GuestView, WhyView};
use jiff::Timestamp;
use model::{BootFrom, Bytes, ExitReason, GuestPhase, HostName, HostUsage, PowerWish, Usage};

use super::guest::address_of;
use super::guest_health;
use super::volume;
use crate::listing::Listed;
use crate::output::{Block, Cell, Table, Tone};
use crate::times;

fn phase(phase: GuestPhase) -> Cell {
    let tone = match phase {
        GuestPhase::Running => Tone::Good,
        GuestPhase::Waiting
        | GuestPhase::Preparing
        | GuestPhase::Starting
        | GuestPhase::Stopping
        | GuestPhase::Deleting => Tone::Busy,
        GuestPhase::Failed | GuestPhase::Unknown | GuestPhase::Paused => Tone::Bad,
        GuestPhase::Stopped => Tone::Plain,
    };
    Cell::new(phase, tone)
}

fn disks(view: &GuestView) -> String {
    let sizes: Vec<Bytes> = view.spec.disks.iter().map(|disk| disk.size).collect();
    sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join("+")
}

impl Listed for GuestView {
    const HEAD: &'static [&'static str] =
        &["NAME", "PHASE", "HEALTH", "HOST", "SECONDARY", "CPUS", "MEMORY", "DISKS", "ADDRESS"];
    const NOTHING: &'static str = "There is no guest. `kennel guest create NAME --image tiny` makes one.";

    fn row(&self, _now: Timestamp) -> Vec<Cell> {
        row(self, None)
    }
}

/// With what it uses, where that is known: `0.3/2` is three tenths of a processor of two.
fn row(view: &GuestView, usage: Option<Usage>) -> Vec<Cell> {
    let (cpus, memory) = match usage {
        Some(usage) => (
            format!("{:.1}/{}", usage.cpu, view.spec.vcpus),
            format!("{}/{}", Bytes(usage.memory.max(0.0) as u64), view.spec.memory),
        ),
        None => (view.spec.vcpus.to_string(), view.spec.memory.to_string()),
    };
    vec![
        Cell::from(&view.name),
        phase(view.phase),
        guest_health::cell(view),
        Cell::maybe(view.host.as_ref()),
        Cell::maybe(view.secondary.as_ref()),
        Cell::from(cpus),
        Cell::from(memory),
        Cell::from(disks(view)),
        Cell::maybe(address_of(view)),
    ]
}

/// The list with what each guest uses on the host that owns it.
pub fn table(guests: &[GuestView], usages: &BTreeMap<HostName, HostUsage>, coloured: bool) -> String {
    if guests.is_empty() {
        return format!("{}\n", GuestView::NOTHING);
    }
    let mut table = Table::new(GuestView::HEAD);
    for guest in guests {
        let host = guest.host.as_ref().and_then(|host| usages.get(host));
        table.add(row(guest, host.and_then(|host| host.guests.get(&guest.name)).map(|guest| guest.usage)));
    }
    table.render(coloured)
}

/// Why a guest is where it is.
pub fn why(view: &WhyView, coloured: bool) -> String {
    let here = view.here.as_ref().map_or_else(|| "nowhere".to_owned(), ToString::to_string);
    Block::new()
        .line("Guest", &view.guest)
        .line("Is on", here)
        .each("Because", &view.because)
        .each("Elsewhere", view.others.iter().map(|(host, why)| format!("{host}: {why}")))
        .each("Rules", &view.rules)
        .maybe("Stays, for", view.cannot_move.as_ref())
        .maybe("One replica, for", view.healing.as_ref())
        .render(coloured)
}

/// Everything about a guest: what it is, where and why, what it waits for, how its disks are.
pub fn show(view: &GuestView, now: Timestamp, coloured: bool) -> String {
    let text = placement(view, now).render(coloured);
    let volumes = view.volumes.iter().map(|disk| {
        let head = format!("\nDisk {}\n", disk.disk);
        let block = Block::new()
            .line("  Volume", disk.id)
            .line("  Size", format!("{}, pool {}", disk.size, disk.pool_shown()))
            .maybe("  Made from", disk.image.as_ref().map(|image| format!("image {image}")))
            .line("  Phase", volume::phase(disk.phase))
            .line("  Meaning", volume::meaning(disk.phase))
            .each("  Replicas", volume::replicas(disk));
        head + &block.render(coloured)
    });
    text + &volumes.collect::<String>()
}

fn placement(view: &GuestView, now: Timestamp) -> Block {
    let spec = &view.spec;
    let report = view.report.as_ref();
    let wish = match spec.power {
        PowerWish::Running => "running",
        PowerWish::Stopped => "stopped",
    };
    let boot = match &spec.boot {
        BootFrom::Disk => "its first disk".to_owned(),
        BootFrom::Image(image) => format!("the kernel of image {image}"),
    };
    let nics = spec.nics.iter().map(|nic| match nic.address {
        Some(address) => format!("{}: {address}, {}", nic.network, nic.mac),
        None => format!("{}: no fixed address, {}", nic.network, nic.mac),
    });
    let last_run = report
        .and_then(|r| r.exit.as_ref())
        .map(|exit| format!("{}, {}", ended(exit.reason), times::at_and_ago(exit.at, now)));
    let head = Block::new()
        .line("Name", &view.name)
        .line("Phase", phase(view.phase))
        .maybe("Message", view.message.as_ref());
    guest_health::lines(head, view, now)
        .line("Should be", wish)
        .line("Host", Cell::maybe(view.host.as_ref()))
        .line("Secondary", Cell::maybe(view.secondary.as_ref()))
        .maybe("Why there", view.assignment.as_ref().map(|assignment| &assignment.why))
        .maybe("Epoch", view.assignment.as_ref().map(|assignment| assignment.epoch))
        .maybe("Since", report.map(|r| times::at_and_ago(r.since, now)))
        .maybe("Last run", last_run)
        .line("CPUs", spec.vcpus)
        .line("Memory", spec.memory)
        .maybe("Accelerator", report.and_then(|r| r.accelerator))
        .maybe("Processor", report.and_then(|r| r.cpu))
        .line("Boots from", boot)
        .each("Networks", nics)
        .line("Priority", spec.priority)
        .maybe("Tags", joined(&spec.tags))
        .maybe("Pinned", spec.pinned.then_some("it is not moved, unless somebody says so"))
        .maybe("Starts after", joined(&spec.start_after))
        .maybe("Restarts with", joined(&spec.restart_with))
        .maybe("Preferred host", spec.preferred_host.as_ref())
        .line("Stop limit", format!("{} s", spec.stop_timeout_s))
        .line("Made", times::at_and_ago(spec.created_at, now))
        .line("Id", view.id)
}

fn joined(names: &BTreeSet<impl ToString>) -> Option<String> {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

fn ended(reason: ExitReason) -> &'static str {
    match reason {
        ExitReason::GuestShutdown => "it shut itself down",
        ExitReason::Stopped => "it was asked to stop, and did",
        ExitReason::Killed => "it did not stop in its time, and was ended",
        ExitReason::Crashed => "its QEMU died",
        ExitReason::Moved => "it went on on another host",
        ExitReason::Disowned => "its host no longer owned it",
    }
}

#[cfg(test)]
mod tests {
    use api::{ReplicaRole, ReplicaView, VolumeView};
    use model::{Assignment, DiskSpec, Epoch, GuestId, GuestSpec, Pool, Seed, VolumeId, VolumePhase};
    use uuid::Uuid;

    use super::*;
    use crate::listing;

    fn replica(host: &model::HostName, role: ReplicaRole, in_sync: bool) -> ReplicaView {
        ReplicaView { host: host.clone(), role, in_sync }
    }

    fn spec(name: model::GuestName, id: GuestId, disks: Vec<DiskSpec>) -> GuestSpec {
        GuestSpec {
            name,
            id,
            created_at: Timestamp::UNIX_EPOCH,
            vcpus: 2,
            memory: Bytes::mib(512),
            boot: BootFrom::Disk,
            disks,
            nics: Vec::new(),
            seed: Seed::default(),
            power: PowerWish::Running,
            boot_generation: 1,
            priority: 0,
            stop_timeout_s: 60,
            preferred_host: None,
            deleting: false,
            tags: Default::default(),
            pinned: false,
            start_after: Default::default(),
            restart_with: Default::default(),
            resync: Default::default(),
            health: Default::default(),
        }
    }

    fn example() -> GuestView {
        let (id, volume, pool) = (GuestId(Uuid::nil()), VolumeId(Uuid::nil()), Pool::Mirror);
        let disk = |size| DiskSpec { volume, pool, size, image: None, pool_name: None, thin: false };
        let name: model::GuestName = "web1".parse().unwrap();
        let host: model::HostName = "host1".parse().unwrap();
        let secondary: model::HostName = "host2".parse().unwrap();
        GuestView {
            name: name.clone(),
            id,
            phase: GuestPhase::Running,
            host: Some(host.clone()),
            secondary: Some(secondary.clone()),
            message: None,
            volumes: vec![VolumeView {
                id: volume,
                guest: name.clone(),
                disk: 0,
                pool: Pool::Mirror,
                pool_name: None,
                size: Bytes::gib(10),
                image: None,
                phase: VolumePhase::Degraded,
                epoch: Some(Epoch(3)),
                fill: None,
                degraded_since: None,
                healing: None,
                verified: None,
                thin: false,
                filled: None,
                replicas: vec![
                    replica(&host, ReplicaRole::Primary, true),
                    replica(&secondary, ReplicaRole::Secondary, false),
                ],
            }],
            spec: spec(name.clone(), id, vec![disk(Bytes::gib(10)), disk(Bytes::mib(64))]),
            assignment: Some(Assignment {
                guest: name,
                guest_id: id,
                host,
                epoch: Epoch(3),
                secondary: Some(secondary),
                why: "host2 was lost".to_owned(),
                handover: None,
                handed_over_by: None,
            }),
            report: None,
        }
    }

    #[test]
    fn guests_are_told_apart_at_a_glance() {
        assert_eq!(
            listing::render(&[example()], Timestamp::UNIX_EPOCH, false),
            "NAME  PHASE    HEALTH  HOST   SECONDARY  CPUS  MEMORY  DISKS    ADDRESS\n\
             web1  running  -       host1  host2      2     512M    10G+64M  -\n"
        );
    }

    #[test]
    fn a_guest_says_why_it_is_there_and_how_its_disks_are() {
        let text = show(&example(), Timestamp::UNIX_EPOCH, false);
        for line in [
            "Why there:  host2 was lost\n",
            "Epoch:      3\n",
            "\nDisk 0\n",
            "  Phase:    degraded\n",
            "  Replicas: host1 (primary, in sync)\n            host2 (secondary, NOT in sync)\n",
        ] {
            assert!(text.contains(line), "{line:?} is missing in\n{text}");
        }
    }
}
