//! `kennel capacity`: how much still fits, and what the cluster survives.

use api::{CapacityView, FitsView, OutlookView, RoomView, ShapeQuery};
use clap::Args;
use model::{Bytes, Pool};

use super::cluster_set::survives;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Block, Cell, Table, Tone};

pub const EXAMPLES: &str = "Examples:
  kennel capacity
  kennel capacity --memory 4G --vcpus 2 --disk 40G     how many guests of this size still fit
  kennel capacity -o json | jq .is_kept";

#[derive(Debug, Args)]
pub struct Arguments {
    /// Memory of each guest that is counted [default: 512M]
    #[arg(long, value_name = "SIZE")]
    memory: Option<Bytes>,
    /// Disk of each, on every host that holds a copy [default: 10G]
    #[arg(long, value_name = "SIZE")]
    disk: Option<Bytes>,
    /// Processors of each [default: 1]
    #[arg(long, value_name = "N")]
    vcpus: Option<u32>,
    /// Where its disks are put [default: mirror, when there are two hosts]
    #[arg(long)]
    pool: Option<Pool>,
}

pub async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let Arguments { memory, disk, vcpus, pool } = arguments;
    let view = context.client()?.capacity(&ShapeQuery { memory, disk, vcpus, pool }).await?;
    context.output.result(&view, |coloured| text(&view, coloured))
}

/// How many fit and what is short, in one line.
pub fn fits(fits: &FitsView) -> String {
    let least = if fits.at_least { "at least " } else { "" };
    match fits.count {
        0 => format!("none, for lack of {}", fits.limited_by),
        count => format!("{least}{count}; one more would lack {}", fits.limited_by),
    }
}

/// As in `512M of memory, 10G of disk, 1 CPU, pool mirror`.
pub fn size(fits: &FitsView) -> String {
    let cpus = if fits.vcpus == 1 { "1 CPU".to_owned() } else { format!("{} CPUs", fits.vcpus) };
    format!("{} of memory, {} of disk, {cpus}, pool {}", fits.memory, fits.disk, fits.pool)
}

fn text(view: &CapacityView, coloured: bool) -> String {
    let promise = match (view.survive, view.is_kept) {
        (model::Survive::Hosts(0), _) => Cell::new("nothing is promised", Tone::Plain),
        (survive, true) => Cell::new(format!("{}: kept", survives(survive)), Tone::Good),
        (survive, false) => Cell::new(format!("{}: BROKEN", survives(survive)), Tone::Bad),
    };
    let unpromised = (view.fits.count_unpromised != view.fits.count).then(|| {
        format!("{}; one more would lack {}", view.fits.count_unpromised, view.fits.limited_by_unpromised)
    });
    let head = Block::new()
        .line("Survives", promise)
        .each("Problems", &view.problems)
        .line("A guest of", size(&view.fits))
        .line("Fits", fits(&view.fits))
        .maybe("Without promise", unpromised)
        .render(coloured);
    let mut table = Table::new(&["HOST", "MEMORY", "KEPT FREE", "DISK", "VCPUS", "FITS", "IF IT IS LOST"]);
    for room in &view.room {
        let outlook = view.hosts.iter().find(|outlook| outlook.name == room.host.as_str());
        table.add(row(room, &view.fits, outlook));
    }
    let mut text = format!("{head}\n{}", table.render(coloured));
    if view.zones.len() > 1 {
        let mut zones = Table::new(&["ZONE", "IF IT IS LOST"]);
        view.zones.iter().for_each(|zone| zones.add(vec![Cell::from(&zone.name), lost(Some(zone))]));
        text.push('\n');
        text.push_str(&zones.render(coloured));
    }
    text
}

fn row(room: &RoomView, fits: &FitsView, outlook: Option<&OutlookView>) -> Vec<Cell> {
    let count = match &room.takes_nothing {
        Some(why) => why.clone(),
        None => fits.by_host.get(&room.host).copied().unwrap_or(0).to_string(),
    };
    vec![
        Cell::from(&room.host),
        Cell::from(format!("{}/{}", room.memory_given, room.memory)),
        Cell::from(room.memory_kept),
        Cell::from(format!("{}/{}", room.disk_given, room.disk)),
        Cell::from(format!("{}/{}", room.vcpus_given, room.vcpus)),
        Cell::from(count),
        lost(outlook),
    ]
}

fn lost(outlook: Option<&OutlookView>) -> Cell {
    let Some(outlook) = outlook else { return Cell::new("it is not there now", Tone::Plain) };
    let mut parts = Vec::new();
    if outlook.restarts > 0 {
        let come = if outlook.restarts == 1 { "comes" } else { "come" };
        parts.push(format!("{} {come} back elsewhere", outlook.restarts));
    }
    if outlook.local > 0 {
        let wait = if outlook.local == 1 { "waits" } else { "wait" };
        parts.push(format!("{} on local disks {wait}", outlook.local));
    }
    if let Some((guest, why)) = outlook.left_out.iter().next() {
        parts.push(format!("{} LEFT OUT ({guest}: {why})", outlook.left_out.len()));
    }
    let tone = if outlook.left_out.is_empty() { Tone::Plain } else { Tone::Bad };
    let text = if parts.is_empty() { "nothing stops".to_owned() } else { parts.join(", ") };
    Cell::new(text, tone)
}

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;

    use model::Survive;

    use super::*;

    pub fn example_fits(count: u64) -> FitsView {
        FitsView {
            memory: Bytes::gib(4),
            disk: Bytes::gib(20),
            vcpus: 2,
            pool: Pool::Mirror,
            count,
            limited_by: "memory".to_owned(),
            count_unpromised: 5,
            limited_by_unpromised: "disk".to_owned(),
            by_host: BTreeMap::from([("host1".parse().unwrap(), count)]),
            at_least: false,
        }
    }

    #[test]
    fn what_fits_and_what_a_loss_would_do_stands_in_one_page() {
        let view = CapacityView {
            survive: Survive::Hosts(1),
            is_kept: false,
            problems: vec!["the loss of host1 would leave out web1".to_owned()],
            fits: example_fits(3),
            room: vec![RoomView {
                host: "host1".parse().unwrap(),
                memory: Bytes::gib(16),
                memory_given: Bytes::gib(4),
                memory_kept: Bytes::gib(2),
                disk: Bytes::gib(100),
                disk_given: Bytes::gib(40),
                vcpus: 32,
                vcpus_given: 4,
                takes_nothing: None,
            }],
            hosts: vec![OutlookView {
                name: "host1".to_owned(),
                restarts: 1,
                left_out: BTreeMap::from([("web1".to_owned(), "host2 is full".to_owned())]),
                local: 0,
                degraded: 2,
                unaffected: 3,
            }],
            zones: Vec::new(),
        };
        assert_eq!(
            text(&view, false),
            "Survives:        the loss of any host: BROKEN\n\
             Problems:        the loss of host1 would leave out web1\n\
             A guest of:      4G of memory, 20G of disk, 2 CPUs, pool mirror\n\
             Fits:            3; one more would lack memory\n\
             Without promise: 5; one more would lack disk\n\
             \n\
             HOST   MEMORY  KEPT FREE  DISK      VCPUS  FITS  IF IT IS LOST\n\
             host1  4G/16G  2G         40G/100G  4/32   3     1 comes back elsewhere, 1 LEFT OUT (web1: host2 is full)\n"
        );
        assert_eq!(fits(&example_fits(0)), "none, for lack of memory");
    }
}
