//! A cluster out of a seed as a file of Ganeti's, so that every planner reads the same.

use std::fmt::Write as _;

use plan::objective::ganeti::{GanetiFacts, GanetiGuest, GanetiHost};
use plan::search::sample::Sample;
use plan::snapshot::{Place, Snapshot, Storage};

/// What policies say of the size of a guest; wide enough for all.
const SIZES: &str = "128,1,1024,1,1,1|128,1,1024,1,1,1;131072,64,4194304,16,8,12|drbd,ext,plain";

/// The sample's cluster; guests for which it had no room are left out.
pub fn text(sample: &Sample) -> String {
    let (snapshot, facts) = sample.make();
    let mut text = String::new();
    for group in &facts.groups {
        let _ = writeln!(text, "{0}|uuid-{0}|preferred||", group.name);
    }
    text.push('\n');
    for (room, host) in snapshot.hosts.iter().zip(&facts.hosts) {
        text.push_str(&host_line(&room.name, host, &facts));
    }
    text.push('\n');
    for (need, guest) in snapshot.guests.iter().zip(&facts.guests) {
        if let Some(place) = need.place {
            text.push_str(&guest_line(&snapshot, &need.name, need.storage, place, guest));
        }
    }
    text.push_str("\nhtools:iextags:svc\n\n");
    let _ = writeln!(text, "|{SIZES}|4.0|32.0");
    for group in &facts.groups {
        let _ = writeln!(text, "{}|{SIZES}|{:?}|{:?}", group.name, group.vcpu_ratio, group.spindle_ratio);
    }
    text
}

fn host_line(name: &str, host: &GanetiHost, facts: &GanetiFacts) -> String {
    let group = &facts.groups[host.group].name;
    let role = if host.offline { "Y" } else { "N" };
    let GanetiHost { memory, memory_own, memory_free, disk, disk_free, cores, spindles, .. } = host;
    format!(
        "{name}|{memory}|{memory_own}|{memory_free}|{disk}|{disk_free}|{cores}|{role}|uuid-{group}|{spindles}||N|0|0|1.0\n"
    )
}

fn guest_line(
    snapshot: &Snapshot,
    name: &str,
    storage: Storage,
    place: Place,
    guest: &GanetiGuest,
) -> String {
    let template = match storage {
        Storage::Mirrored => "drbd",
        Storage::Shared => "ext",
        Storage::Local => "plain",
    };
    let primary = &snapshot.host(place.host).name;
    let secondary = place.secondary.map_or("", |host| &snapshot.host(host).name);
    let tags = guest.exclusion.join(",");
    let GanetiGuest { memory, disk, vcpus, .. } = guest;
    format!("{name}|{memory}|{disk}|{vcpus}|running|Y|{primary}|{secondary}|{template}|{tags}|1|-|N\n")
}
