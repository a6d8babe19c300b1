//! The 20 metrics of Ganeti's cluster score, each computed from scratch and in the plainest way.
//!
//! This is the yardstick, not the engine: the incremental sums of `objective::ganeti` are tested against it, and
//! it is tested against hinfo. Source: `Ganeti.HTools.Cluster.Metrics` and `Node` of 3.0.2.

use std::collections::BTreeMap;

use super::record::{Cluster, Instance, Node, Utilisation};
use super::write::{Free, Seat};

/// How the values of the nodes become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Standard deviation (of the population) over the nodes that are online.
    Deviation,
    /// Sum over the nodes that are online.
    Sum,
    /// Sum over the nodes that are offline.
    OfflineSum,
    /// Of the cluster as a whole.
    Whole,
}

/// Name, weight and kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    pub name: &'static str,
    pub weight: f64,
    pub kind: Kind,
}

const fn metric(name: &'static str, weight: f64, kind: Kind) -> Metric {
    Metric { name, weight, kind }
}

pub const METRICS: [Metric; 20] = [
    metric("free_mem_cv", 0.5, Kind::Deviation),
    metric("free_disk_cv", 0.5, Kind::Deviation),
    metric("n1_cnt", 1.0, Kind::Sum),
    metric("reserved_mem_cv", 1.0, Kind::Deviation),
    metric("offline_all_cnt", 4.0, Kind::OfflineSum),
    metric("offline_pri_cnt", 16.0, Kind::OfflineSum),
    metric("vcpu_ratio_cv", 0.5, Kind::Deviation),
    metric("cpu_load_cv", 1.0, Kind::Deviation),
    metric("mem_load_cv", 1.0, Kind::Deviation),
    metric("disk_load_cv", 1.0, Kind::Deviation),
    metric("net_load_cv", 1.0, Kind::Deviation),
    metric("pri_tags_score", 2.0, Kind::Sum),
    metric("spindles_cv", 0.5, Kind::Deviation),
    metric("free_mem_cv_forth", 0.5, Kind::Deviation),
    metric("free_disk_cv_forth", 0.5, Kind::Deviation),
    metric("vcpu_ratio_cv_forth", 0.5, Kind::Deviation),
    metric("spindles_cv_forth", 0.5, Kind::Deviation),
    metric("location_score", 1.0, Kind::Sum),
    metric("location_exclusion_score", 1.0, Kind::Whole),
    metric("reserved_mem_rtotal", 0.25, Kind::Sum),
];

/// The place of `location_exclusion_score`, which no node has a value of.
const LOCATION_EXCLUSION: usize = 18;

/// The value of each of [`METRICS`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metrics(pub [f64; 20]);

impl Metrics {
    pub fn score(&self) -> f64 {
        self.0.iter().zip(METRICS).map(|(value, metric)| value * metric.weight).sum()
    }
}

/// Who is on a node.
#[derive(Debug, Default, Clone)]
struct Crew<'a> {
    primaries: Vec<&'a Instance>,
    secondaries: Vec<&'a Instance>,
    /// For each other node: the memory that is reserved here for its loss.
    reserved: BTreeMap<usize, u64>,
    /// Of each primary: where its secondary is.
    partners: Vec<Option<usize>>,
}

impl Cluster {
    /// The metrics with the instances at `seats`, over the nodes of one group or over all of them.
    pub fn metrics(&self, seats: &[Seat], group: Option<usize>) -> Metrics {
        let crews = self.crews(seats);
        let free = self.free_at(seats);
        let mut online = Vec::new();
        let mut offline = Vec::new();
        let mut located: BTreeMap<(String, String), u32> = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            if group.is_some_and(|group| group != node.group) {
                continue;
            }
            let values = self.node_values(index, &crews, &free[index]);
            if node.is_offline() {
                offline.push(values);
                continue;
            }
            online.push(values);
            for instance in real(&crews[index].primaries) {
                for tag in self.exclusion_tags(instance) {
                    for location in self.location_tags(node) {
                        *located.entry((location, tag.clone())).or_default() += 1;
                    }
                }
            }
        }
        let mut values = [0.0; 20];
        for (at, (value, metric)) in values.iter_mut().zip(METRICS).enumerate() {
            let of = |rows: &[[f64; 20]]| rows.iter().map(|row| row[at]).collect::<Vec<f64>>();
            *value = match metric.kind {
                Kind::Deviation => deviation(&of(&online)),
                Kind::Sum => of(&online).iter().sum(),
                Kind::OfflineSum => of(&offline).iter().sum(),
                Kind::Whole => located.values().map(|count| f64::from(count - 1)).sum(),
            };
        }
        Metrics(values)
    }

    fn crews(&self, seats: &[Seat]) -> Vec<Crew<'_>> {
        let mut crews = vec![Crew::default(); self.nodes.len()];
        for (instance, seat) in self.instances.iter().zip(seats) {
            let crew = &mut crews[seat.primary];
            crew.primaries.push(instance);
            crew.partners.push(seat.secondary);
            let Some(secondary) = seat.secondary else { continue };
            crews[secondary].secondaries.push(instance);
            if instance.reserves() {
                *crews[secondary].reserved.entry(seat.primary).or_default() += instance.memory;
            }
        }
        crews
    }

    /// The values of one node, in the order of [`METRICS`].
    fn node_values(&self, index: usize, crews: &[Crew<'_>], free: &Free) -> [f64; 20] {
        let node = &self.nodes[index];
        let crew = &crews[index];
        let everybody = || crew.primaries.iter().chain(&crew.secondaries).copied();
        let count = |all: &[&Instance]| real(all).count() as f64;
        let (primaries, secondaries) = (count(&crew.primaries), count(&crew.secondaries));

        let in_memory = sum(crew.primaries.iter().filter(|i| i.uses_memory()).map(|i| i.memory));
        let not_in_memory = sum(crew.primaries.iter().filter(|i| !i.uses_memory()).map(|i| i.memory));
        let f_mem = free.memory as f64;
        let unused = (node.t_mem - node.n_mem as f64 - in_memory).min(f_mem);
        let reserved = crew.reserved.values().max().copied().unwrap_or_default() as f64;
        let fails_n1 = f_mem < reserved;

        let (disk, disk_forth) = disk_shares(node, free, crew);
        let vcpus = |all: &mut dyn Iterator<Item = &Instance>| {
            let used = sum(all.filter(|i| i.counts_vcpus()).map(|i| u64::from(i.vcpus)));
            (node.n_cpu as f64 + used) / node.t_cpu / node.speed
        };
        let spindles_max = node.spindles as f64 * self.spindle_ratio(node.group);
        let spindles = |all: &mut dyn Iterator<Item = &Instance>| {
            // Ganeti divides by nothing here when a policy or a node allows no spindles; nothing counts then.
            if node.exclusive_storage || spindles_max == 0.0 {
                return 0.0;
            }
            sum(all.filter(|i| i.template.takes_local_disk()).map(|i| i.spindle_use)) / spindles_max
        };
        let load =
            |part: fn(&Utilisation) -> f64| -> f64 { real(&crew.primaries).map(|i| part(&i.load)).sum() };
        let disk_load: f64 = real(&crew.secondaries).map(|i| i.load.disk).sum();

        [
            unused / node.t_mem,
            disk,
            if fails_n1 { primaries + secondaries } else { 0.0 },
            reserved / node.t_mem,
            primaries + secondaries,
            primaries,
            vcpus(&mut real(&crew.primaries)),
            load(|u| u.cpu),
            load(|u| u.memory),
            load(|u| u.disk) + disk_load,
            load(|u| u.network),
            self.tag_conflicts(crew),
            spindles(&mut everybody().filter(|i| !i.forthcoming)),
            (f_mem - not_in_memory) / node.t_mem,
            disk_forth,
            vcpus(&mut crew.primaries.iter().copied()),
            spindles(&mut everybody()),
            self.location_score(index, crew),
            0.0,
            reserved / node.t_mem,
        ]
    }

    /// Exclusion tags on the primaries, less the different ones among them.
    fn tag_conflicts(&self, crew: &Crew<'_>) -> f64 {
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for tag in crew.primaries.iter().flat_map(|instance| self.exclusion_tags(instance)) {
            *counts.entry(tag).or_default() += 1;
        }
        counts.values().map(|count| f64::from(count - 1)).sum()
    }

    /// Failure domains that the primaries share with their secondaries, and desired ones that they are not in.
    fn location_score(&self, index: usize, crew: &Crew<'_>) -> f64 {
        let here = self.location_tags(&self.nodes[index]);
        let pairs = crew.primaries.iter().zip(&crew.partners).filter(|(instance, _)| !instance.forthcoming);
        pairs
            .map(|(instance, partner)| {
                let shared = partner.map_or(0, |partner| {
                    self.location_tags(&self.nodes[partner]).intersection(&here).count()
                });
                shared + self.desired_tags(instance).difference(&here).count()
            })
            .sum::<usize>() as f64
    }
}

/// Shares of the node's disk (or, with exclusive storage, of its spindles) that are free now, and once everything
/// forthcoming is made. A node without disks has all of them free.
fn disk_shares(node: &Node, free: &Free, crew: &Crew<'_>) -> (f64, f64) {
    let share = |free: i64, total: f64| if total == 0.0 { 1.0 } else { free as f64 / total };
    let mut forthcoming: Vec<&Instance> =
        crew.primaries.iter().chain(&crew.secondaries).copied().filter(|i| i.forthcoming).collect();
    // Ganeti loads them in the order of the file, and an unknown number of spindles leaves -1 whatever came before.
    forthcoming.sort_by_key(|instance| instance.line);
    if node.exclusive_storage {
        let total = node.spindles as f64;
        let take = |free: i64, i: &&Instance| i.disk_spindles.map_or(-1, |spindles| free - spindles as i64);
        return (share(free.spindles, total), share(forthcoming.iter().fold(free.spindles, take), total));
    }
    let later: u64 = forthcoming.iter().filter(|i| i.template.takes_local_disk()).map(|i| i.disk).sum();
    (share(free.disk, node.t_disk), share(free.disk - later as i64, node.t_disk))
}

const _: () = assert!(matches!(METRICS[LOCATION_EXCLUSION].kind, Kind::Whole));

fn real<'a>(all: &[&'a Instance]) -> impl Iterator<Item = &'a Instance> {
    all.iter().copied().filter(|instance| !instance.forthcoming)
}

fn sum(figures: impl Iterator<Item = u64>) -> f64 {
    figures.sum::<u64>() as f64
}

/// Standard deviation of the population; 0 of nothing.
fn deviation(values: &[f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt()
}
