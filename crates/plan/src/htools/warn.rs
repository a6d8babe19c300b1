//! What is odd in a file that can be read all the same.

use super::record::Cluster;
use super::write::Seat;

/// Memory and disk (MiB) that may be missing on a node before it is worth a word; as Ganeti's loader has them.
const MEMORY_MISSING: f64 = 512.0;
const DISK_MISSING: f64 = 1024.0;

impl Cluster {
    /// A sentence for each thing that an operator may want to look at.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.missing_resources();
        if let Some(tag) = self.tags.iter().find(|tag| tag.matches('|').count() >= 5) {
            warnings.push(format!(
                "the cluster tag '{tag}' looks like a policy, and was read as a tag: an empty section of cluster tags \
                 takes an empty line of its own"
            ));
        }
        let split: Vec<&str> =
            self.instances.iter().filter(|i| self.is_split(i)).map(|i| i.name.as_str()).collect();
        if let Some((first, rest)) = split.split_first() {
            let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            warnings.push(format!("{first}{more}: primary and secondary are in two groups; not moved"));
        }
        warnings
    }

    /// Nodes of whose memory or disk a part is neither free nor used by anything that the file has.
    fn missing_resources(&self) -> Vec<String> {
        let mut used = vec![(0, 0); self.nodes.len()];
        for instance in self.instances.iter().filter(|instance| !instance.forthcoming) {
            if instance.uses_memory() {
                used[instance.primary].0 += instance.memory;
            }
            if instance.template.takes_local_disk() {
                for node in std::iter::once(instance.primary).chain(instance.secondary) {
                    used[node].1 += instance.disk;
                }
            }
        }
        let mut warnings = Vec::new();
        for (node, (memory, disk)) in self.nodes.iter().zip(used) {
            let memory = node.t_mem - (node.n_mem + node.f_mem + memory) as f64;
            let disk = node.t_disk - (node.f_disk + disk) as f64;
            if memory > MEMORY_MISSING || disk > DISK_MISSING {
                let part = |mib: f64| mib.max(0.0) as u64;
                warnings.push(format!(
                    "the host {} is missing {} MiB of memory and {} MiB of disk: neither free nor used by a guest of \
                     the file",
                    node.name,
                    part(memory),
                    part(disk)
                ));
            }
        }
        warnings
    }

    /// Nodes beyond the spindles that their group's policy allows, with the instances at `seats`. (Too many virtual
    /// CPUs are a breach that every layout knows.)
    pub fn spindle_violations(&self, seats: &[Seat]) -> Vec<String> {
        let mut used = vec![0; self.nodes.len()];
        for (instance, seat) in self.instances.iter().zip(seats) {
            if instance.template.takes_local_disk() && !instance.forthcoming {
                seat.nodes().for_each(|node| used[node] += instance.spindle_use);
            }
        }
        let mut violations = Vec::new();
        for (node, used) in self.nodes.iter().zip(used) {
            let most = node.spindles as f64 * self.spindle_ratio(node.group);
            if !node.is_offline() && !node.exclusive_storage && used as f64 > most {
                violations
                    .push(format!("{}: its guests use {used} spindles, the policy allows {most}", node.name));
            }
        }
        violations
    }
}
