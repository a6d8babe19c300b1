//! How long the planner thinks, and how good the plan is, for clusters out of seeds or files in Ganeti's text format.
//!
//! ```text
//! cargo bench -p plan --bench balance                     10 to 160 hosts, mirrored and shared
//! cargo bench -p plan --bench balance -- 1000/50000       that many hosts and guests
//! cargo bench -p plan --bench balance -- cluster.data     a file
//! ```
//!
//! Processor time is that of the whole process, all threads together, as the kernel counts it.

use std::time::Instant;

use plan::htools::{Cluster, Order};
use plan::objective::ganeti::{Ganeti, GanetiFacts};
use plan::search::sample::{Profile, Sample};
use plan::search::{Settings, balance};
use plan::snapshot::{GuestNeed, Place, Snapshot, Storage};

/// Hosts and guests when nothing is asked for.
const SIZES: [(usize, usize); 5] = [(10, 200), (20, 500), (40, 1000), (80, 2400), (160, 5000)];

fn main() {
    // cargo passes an option of its own.
    let asked: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    println!(
        "{:<28} {:>12} {:>10} {:>7} {:>7} {:>8} {:>8}",
        "cluster", "score before", "after", "moves", "copies", "cpu s", "wall s"
    );
    if asked.is_empty() {
        SIZES.iter().for_each(|(hosts, guests)| samples(*hosts, *guests));
    }
    for what in asked {
        match what.split_once('/').map(|(hosts, guests)| (hosts.parse(), guests.parse())) {
            Some((Ok(hosts), Ok(guests))) => samples(hosts, guests),
            Some(_) | None => file(&what),
        }
    }
}

fn samples(hosts: usize, guests: usize) {
    for storage in [Storage::Mirrored, Storage::Shared] {
        let (snapshot, facts) = Sample::new(hosts, guests, storage, Profile::Skew, 1).make();
        let kind = if storage == Storage::Mirrored { "mirrored" } else { "shared" };
        measure(&format!("{hosts}/{guests} {kind}"), &snapshot, &facts);
    }
}

fn file(path: &str) {
    let read = std::fs::read_to_string(path).map_err(|error| error.to_string());
    match read.and_then(|text| Cluster::parse(&text).map_err(|damage| damage.to_string())) {
        Err(problem) => eprintln!("{path}: {problem}"),
        Ok(cluster) => {
            let order = Order::new(&cluster);
            let name = path.rsplit('/').next().unwrap_or(path);
            measure(name, &cluster.snapshot(&order), &cluster.facts(&order));
        }
    }
}

fn measure(name: &str, snapshot: &Snapshot, facts: &GanetiFacts) {
    let (cpu, wall) = (cpu_seconds(), Instant::now());
    let plan = balance(snapshot, &Ganeti::new(facts), &Settings::default());
    let (cpu, wall) = (cpu_seconds() - cpu, wall.elapsed().as_secs_f64());
    let copies: usize =
        snapshot.guests.iter().zip(&plan.places).map(|(guest, place)| copies(guest, *place)).sum();
    println!(
        "{name:<28} {:>12.4} {:>10.6} {:>7} {copies:>7} {cpu:>8.2} {wall:>8.2}",
        plan.score_before,
        plan.score_after,
        plan.moves.len()
    );
}

/// Replicas to fill between where a guest was and where it goes.
fn copies(guest: &GuestNeed, place: Option<Place>) -> usize {
    let (Some(old), Some(new), Storage::Mirrored) = (guest.place, place, guest.storage) else { return 0 };
    let had = |host| host == old.host || Some(host) == old.secondary;
    [Some(new.host), new.secondary].into_iter().flatten().filter(|host| !had(*host)).count()
}

/// User and system time of this process, from `/proc` (in ticks of a hundredth of a second); 0 elsewhere.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}
