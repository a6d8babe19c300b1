//! What Ganeti's score needs beyond a snapshot.

use super::convert::Order;
use super::record::{Cluster, Instance, Node};
use crate::objective::ganeti::{GanetiFacts, GanetiGroup, GanetiGuest, GanetiHost};

impl Cluster {
    /// Parallel to the snapshot of the same order.
    pub fn facts(&self, order: &Order) -> GanetiFacts {
        let group = |group: usize| GanetiGroup {
            name: self.groups[group].name.clone(),
            vcpu_ratio: self.vcpu_ratio(group),
            spindle_ratio: self.spindle_ratio(group),
        };
        GanetiFacts {
            groups: (0..self.groups.len()).map(group).collect(),
            hosts: order.nodes.iter().map(|node| self.host_facts(&self.nodes[*node])).collect(),
            guests: order.instances.iter().map(|i| self.guest_facts(&self.instances[*i])).collect(),
        }
    }

    fn host_facts(&self, node: &Node) -> GanetiHost {
        GanetiHost {
            group: node.group,
            offline: node.is_offline(),
            memory: node.t_mem,
            memory_own: node.n_mem as f64,
            memory_free: node.f_mem as f64,
            disk: node.t_disk,
            disk_free: node.f_disk as f64,
            cores: node.t_cpu,
            vcpus_own: node.n_cpu as f64,
            speed: node.speed,
            spindles: node.spindles as f64,
            spindles_free: node.f_spindles as f64,
            exclusive_storage: node.exclusive_storage,
            locations: self.location_tags(node),
            migration: self.migration_tags(node),
            receives: self.received_tags(node),
        }
    }

    fn guest_facts(&self, instance: &Instance) -> GanetiGuest {
        GanetiGuest {
            memory: instance.memory as f64,
            disk: instance.disk as f64,
            vcpus: f64::from(instance.vcpus),
            uses_memory: instance.uses_memory(),
            reserves: instance.reserves(),
            counts_vcpus: instance.counts_vcpus(),
            auto_balance: instance.auto_balance,
            local_disk: instance.template.takes_local_disk(),
            spindle_use: instance.spindle_use as f64,
            spindles: instance.disk_spindles.map(|spindles| spindles as f64),
            forthcoming: instance.forthcoming,
            exclusion: self.exclusion_tags(instance),
            desired: self.desired_tags(instance),
            load: {
                let load = instance.load;
                [load.cpu, load.memory, load.disk, load.network]
            },
        }
    }
}
