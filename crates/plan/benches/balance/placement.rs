//! What a placement takes and what is wrong with it, counted without the planner's own code.

use plan::htools::{Cluster, Mirroring, Seat};

/// Replicas to fill between where a file has its instances and `seats`.
pub fn copies(cluster: &Cluster, seats: &[Seat]) -> usize {
    let before = cluster.seats();
    let mirrored = |at: &usize| cluster.instances[*at].template.mirroring() == Mirroring::Internal;
    let fresh = |at: usize| {
        let had = [Some(before[at].primary), before[at].secondary];
        let new = [Some(seats[at].primary), seats[at].secondary];
        new.into_iter().filter(|node| node.is_some() && !had.contains(node)).count()
    };
    (0..seats.len()).filter(mirrored).map(fresh).sum()
}

/// What may not be: more memory, disk, virtual CPUs or spindles than a node has or its policy allows, two primaries
/// with one exclusion tag on a node, anything on an offline node. (Whether a node could take over what it promises,
/// hinfo says.)
pub fn violations(cluster: &Cluster, seats: &[Seat]) -> usize {
    let mut loads = vec![Load::default(); cluster.nodes.len()];
    for ((instance, old), new) in cluster.instances.iter().zip(cluster.seats()).zip(seats) {
        loads[old.primary].memory -= instance.memory as i64;
        loads[new.primary].memory += instance.memory as i64;
        loads[new.primary].vcpus += f64::from(instance.vcpus);
        loads[new.primary].tags.extend(cluster.exclusion_tags(instance));
        let local = instance.template.takes_local_disk();
        for node in [Some(old.primary), old.secondary].into_iter().flatten().filter(|_| local) {
            loads[node].disk -= instance.disk as i64;
        }
        for node in [Some(new.primary), new.secondary].into_iter().flatten() {
            loads[node].disk += if local { instance.disk as i64 } else { 0 };
            loads[node].spindles += if local { instance.spindle_use } else { 0 };
            loads[node].guests += 1;
        }
    }
    let wrong = |(node, load): (&plan::htools::Node, Load)| {
        let vcpus = load.vcpus + node.n_cpu as f64;
        let mut different = load.tags.clone();
        different.sort();
        different.dedup();
        let checks = [
            load.memory > node.f_mem as i64,
            load.disk > node.f_disk as i64,
            vcpus > cluster.vcpu_ratio(node.group) * node.t_cpu,
            load.spindles as f64 > cluster.spindle_ratio(node.group) * node.spindles as f64,
        ];
        match node.is_offline() {
            true => load.guests,
            false => load.tags.len() - different.len() + checks.into_iter().filter(|wrong| *wrong).count(),
        }
    };
    cluster.nodes.iter().zip(loads).map(wrong).sum()
}

/// Memory and disk beyond what the file has there.
#[derive(Default, Clone)]
struct Load {
    memory: i64,
    disk: i64,
    vcpus: f64,
    spindles: u64,
    tags: Vec<String>,
    guests: usize,
}
