//! Writing a file back with instances elsewhere.
//!
//! Nothing changes but the nodes of what moved and the free memory and disk of the nodes that they touch. (hbal's
//! own `-S` leaves the free memory as it was, so that hinfo finds memory missing in what it wrote.)

use std::collections::BTreeMap;

use super::record::Cluster;

/// Where an instance is: places in [`Cluster::nodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    pub primary: usize,
    pub secondary: Option<usize>,
}

impl Seat {
    pub(super) fn nodes(self) -> impl Iterator<Item = usize> {
        std::iter::once(self.primary).chain(self.secondary)
    }
}

/// What a node has free, MiB. Below 0 when it is overfull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Free {
    pub memory: i64,
    pub disk: i64,
    /// Only counted where storage is exclusive.
    pub spindles: i64,
}

impl Cluster {
    /// Where the file has its instances, in their order.
    pub fn seats(&self) -> Vec<Seat> {
        let seat = |i: &super::record::Instance| Seat { primary: i.primary, secondary: i.secondary };
        self.instances.iter().map(seat).collect()
    }

    /// What each node has free once the instances are at `seats`.
    pub(super) fn free_at(&self, seats: &[Seat]) -> Vec<Free> {
        // A figure is at most 2^40, and all together at most 2^42.
        let free = |node: &super::record::Node| Free {
            memory: node.f_mem as i64,
            disk: node.f_disk as i64,
            spindles: node.f_spindles as i64,
        };
        let mut free: Vec<Free> = self.nodes.iter().map(free).collect();
        for ((instance, before), after) in self.instances.iter().zip(self.seats()).zip(seats) {
            if instance.uses_memory() {
                free[before.primary].memory += instance.memory as i64;
                free[after.primary].memory -= instance.memory as i64;
            }
            if instance.template.takes_local_disk() && !instance.forthcoming {
                before.nodes().for_each(|node| free[node].disk += instance.disk as i64);
                after.nodes().for_each(|node| free[node].disk -= instance.disk as i64);
                let spindles = instance.disk_spindles.unwrap_or_default() as i64;
                before.nodes().for_each(|node| free[node].spindles += spindles);
                after.nodes().for_each(|node| free[node].spindles -= spindles);
            }
        }
        free
    }

    /// The file with its instances at `seats`, in the order of [`Cluster::instances`].
    pub fn write(&self, seats: &[Seat]) -> String {
        let mut changes: BTreeMap<usize, Vec<(usize, String)>> = BTreeMap::new();
        for ((instance, before), after) in self.instances.iter().zip(self.seats()).zip(seats) {
            if before != *after {
                let name = |node: usize| self.nodes[node].name.clone();
                let secondary = after.secondary.map(name).unwrap_or_default();
                changes.insert(instance.line, vec![(7, name(after.primary)), (8, secondary)]);
            }
        }
        for (node, free) in self.nodes.iter().zip(self.free_at(seats)).filter(|(node, _)| !node.unknown) {
            // No plan overfills a node, and the format knows no less than nothing.
            let text = |figure: i64| figure.max(0).to_string();
            let (memory, disk, spindles) = (text(free.memory), text(free.disk), text(free.spindles));
            let mut changed = vec![(4, memory), (6, disk)];
            if node.exclusive_storage {
                changed.push((13, spindles));
            }
            changes.insert(node.line, changed);
        }
        let mut text = String::new();
        for (line, number) in self.lines.iter().zip(1..) {
            match changes.get(&number) {
                None => text.push_str(line),
                Some(changed) => text.push_str(&with_fields(line, changed)),
            }
            text.push('\n');
        }
        text
    }
}

/// The line with other texts in some of its fields, numbered from 1.
fn with_fields(line: &str, changed: &[(usize, String)]) -> String {
    let mut fields: Vec<&str> = line.split('|').collect();
    for (number, text) in changed {
        if let Some(field) = fields.get_mut(number - 1) {
            *field = text;
        }
    }
    fields.join("|")
}
