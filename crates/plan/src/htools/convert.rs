//! A file of Ganeti's as a [`Snapshot`], for Kennel's own planning.
//!
//! What carries over: room, needs, storage, exclusion tags (a `must` rule: one to a host), failure domains from
//! location tags (an exclusion tag is a `should` rule there: one to a domain), desired locations (wishes), node
//! groups and migration tags (where a guest must be). What a host can give is what it has free in the file plus
//! what its guests take there, so that memory that Ganeti could not account for is not given away.
//!
//! The exact rules of hbal stay with the objective that scores like it.

use std::collections::{BTreeMap, BTreeSet};

use super::record::{Cluster, Instance, Mirroring, Node};
use super::write::Seat;
use crate::inventory::ESTIMATED_CPU_SHARE;
use crate::rules::SHOULD_COST;
use crate::snapshot::{
    Bound, DomainIx, Group, GroupIx, GuestIx, GuestNeed, HostDuty, HostIx, HostRoom, Load, Place, Promise,
    Scope, Snapshot, Storage, Strength, Wish,
};

const MIB: u64 = 1 << 20;
/// Disk or network traffic of a guest whose load is 1, in bytes a second. The format has no unit; one hundred is
/// what a busy guest of those years did.
const TRAFFIC: f64 = 100.0 * MIB as f64;

type Reach = Option<Vec<Vec<HostIx>>>;
type Located = BTreeMap<String, Vec<HostIx>>;

/// Which host is which node, and which guest is which instance: a snapshot is in the order of names, a file is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// For each host: its place in [`Cluster::nodes`].
    pub nodes: Vec<usize>,
    /// For each guest: its place in [`Cluster::instances`].
    pub instances: Vec<usize>,
    /// For each node: its host.
    hosts: Vec<HostIx>,
}

impl Order {
    pub fn new(cluster: &Cluster) -> Order {
        let mut nodes: Vec<usize> = (0..cluster.nodes.len()).collect();
        nodes.sort_by(|a, b| cluster.nodes[*a].name.cmp(&cluster.nodes[*b].name));
        let mut instances: Vec<usize> = (0..cluster.instances.len()).collect();
        instances.sort_by(|a, b| cluster.instances[*a].name.cmp(&cluster.instances[*b].name));
        let mut hosts = vec![HostIx(0); nodes.len()];
        for (host, node) in (0..).zip(&nodes) {
            hosts[*node] = HostIx(host);
        }
        Order { nodes, instances, hosts }
    }

    pub fn host(&self, node: usize) -> HostIx {
        self.hosts[node]
    }

    pub fn node(&self, host: HostIx) -> usize {
        self.nodes[host.at()]
    }

    pub fn place(&self, seat: Seat) -> Place {
        Place { host: self.host(seat.primary), secondary: seat.secondary.map(|node| self.host(node)) }
    }

    /// Where a plan leaves the instances, in the order of the file. A guest without a place stays where it was.
    pub fn seats(&self, cluster: &Cluster, places: &[Option<Place>]) -> Vec<Seat> {
        let mut seats = cluster.seats();
        for (instance, place) in self.instances.iter().zip(places) {
            if let Some(place) = place {
                seats[*instance] = Seat {
                    primary: self.node(place.host),
                    secondary: place.secondary.map(|host| self.node(host)),
                };
            }
        }
        seats
    }
}

impl Cluster {
    /// The cluster as the planner sees it. Hosts must stand the loss of any one of them.
    pub fn snapshot(&self, order: &Order) -> Snapshot {
        let domain_names: BTreeSet<String> =
            self.nodes.iter().flat_map(|node| self.location_tags(node)).collect();
        let domains: BTreeMap<&String, DomainIx> = domain_names.iter().zip((0..).map(DomainIx)).collect();
        let rooms = self.rooms();
        let host = |node: &usize| {
            let mut room = rooms[*node].clone();
            let tags = self.location_tags(&self.nodes[*node]);
            room.domains = tags.iter().filter_map(|tag| domains.get(tag).copied()).collect();
            room
        };
        let groups = self.exclusion_groups(order, !domain_names.is_empty());
        let reach = self.reach(order);
        let located = self.located(order);
        let need = |instance: &usize| self.need(order, &self.instances[*instance], &reach, &located);
        let mut guests: Vec<GuestNeed> = order.instances.iter().map(need).collect();
        for (group, index) in groups.iter().zip((0..).map(GroupIx)) {
            for guest in &group.members {
                guests[guest.at()].groups.push(index);
            }
        }
        let hosts = order.nodes.iter().map(host).collect();
        Snapshot {
            hosts,
            guests,
            groups,
            domains: domain_names.into_iter().collect(),
            promise: Promise::Hosts(1),
            disk_share_max: 1.0,
        }
    }

    /// What each node can give, in the order of the file.
    fn rooms(&self) -> Vec<HostRoom> {
        let mut rooms: Vec<HostRoom> = self.nodes.iter().map(|node| self.empty_room(node)).collect();
        for instance in &self.instances {
            if instance.uses_memory() {
                rooms[instance.primary].memory += instance.memory * MIB;
            }
            if instance.template.takes_local_disk() && !instance.forthcoming {
                rooms[instance.primary].disk += instance.disk * MIB;
                if let Some(secondary) = instance.secondary {
                    rooms[secondary].disk += instance.disk * MIB;
                }
            }
        }
        rooms
    }

    fn empty_room(&self, node: &Node) -> HostRoom {
        let duty =
            if node.is_offline() { HostDuty::Leaves("it is offline".to_owned()) } else { HostDuty::Takes };
        HostRoom {
            name: node.name.clone(),
            memory: node.f_mem * MIB,
            memory_total: (node.t_mem * MIB as f64) as u64,
            disk: node.f_disk * MIB,
            disk_total: (node.t_disk * MIB as f64) as u64,
            cores: node.t_cpu,
            speed: node.speed,
            vcpus_max: (self.vcpu_ratio(node.group) * node.t_cpu - node.n_cpu as f64).max(0.0),
            network: 0.0,
            own_load: Load { memory: (node.n_mem * MIB) as f64, ..Load::default() },
            domains: Vec::new(),
            duty,
        }
    }

    fn need(&self, order: &Order, instance: &Instance, reach: &Reach, located: &Located) -> GuestNeed {
        let storage = match instance.template.mirroring() {
            Mirroring::Internal => Storage::Mirrored,
            Mirroring::External => Storage::Shared,
            Mirroring::None if instance.template.takes_local_disk() => Storage::Local,
            // `file` and `diskless`: nothing is known to count.
            Mirroring::None => Storage::Shared,
        };
        let seat = Seat { primary: instance.primary, secondary: instance.secondary };
        GuestNeed {
            name: instance.name.clone(),
            memory: instance.memory * MIB,
            disk: instance.disk * MIB,
            vcpus: instance.vcpus,
            load: load(instance),
            storage,
            runs: instance.uses_memory(),
            may_move: self.is_movable(instance),
            priority: 0,
            groups: Vec::new(),
            allowed: reach.as_ref().and_then(|reach| self.allowed(order, instance, reach)),
            wishes: self.wishes(instance, located),
            place: Some(order.place(seat)),
            unready: None,
        }
    }

    /// hbal moves it: its disks are mirrored or shared, it is not to stay, and it is in one group.
    pub(super) fn is_movable(&self, instance: &Instance) -> bool {
        instance.auto_balance && instance.template.mirroring() != Mirroring::None && !self.is_split(instance)
    }

    /// Unless every node reaches every other one: for each node, the nodes of its group to which its instances may
    /// be migrated.
    fn reach(&self, order: &Order) -> Reach {
        let sends: Vec<BTreeSet<String>> = self.nodes.iter().map(|node| self.migration_tags(node)).collect();
        if self.groups.len() == 1 && sends.iter().all(BTreeSet::is_empty) {
            return None;
        }
        let receives: Vec<BTreeSet<String>> =
            self.nodes.iter().map(|node| self.received_tags(node)).collect();
        let from = |(source, sent): (&Node, &BTreeSet<String>)| {
            let may =
                |node: &&usize| self.nodes[**node].group == source.group && sent.is_subset(&receives[**node]);
            order.nodes.iter().filter(may).map(|node| order.host(*node)).collect()
        };
        Some(self.nodes.iter().zip(&sends).map(from).collect())
    }

    /// Where it may be. `None`: anywhere.
    fn allowed(&self, order: &Order, instance: &Instance, reach: &[Vec<HostIx>]) -> Option<Vec<HostIx>> {
        let mut hosts: BTreeSet<HostIx> = reach[instance.primary].iter().copied().collect();
        // What it has already is no breach.
        hosts
            .extend(std::iter::once(instance.primary).chain(instance.secondary).map(|node| order.host(node)));
        (hosts.len() < self.nodes.len()).then(|| hosts.into_iter().collect())
    }

    /// For each location tag: the hosts that carry it.
    fn located(&self, order: &Order) -> Located {
        let mut located = Located::new();
        for node in &order.nodes {
            for tag in self.location_tags(&self.nodes[*node]) {
                located.entry(tag).or_default().push(order.host(*node));
            }
        }
        located
    }

    fn wishes(&self, instance: &Instance, located: &Located) -> Vec<Wish> {
        let wish = |tag: String| {
            let hosts = located.get(&tag).cloned().unwrap_or_default();
            Wish { hosts, weight: SHOULD_COST, rule: format!("desired location {tag}") }
        };
        self.desired_tags(instance).into_iter().map(wish).collect()
    }

    fn exclusion_groups(&self, order: &Order, with_domains: bool) -> Vec<Group> {
        let mut members: BTreeMap<String, BTreeSet<GuestIx>> = BTreeMap::new();
        for (guest, instance) in (0..).map(GuestIx).zip(&order.instances) {
            for tag in self.exclusion_tags(&self.instances[*instance]) {
                members.entry(tag).or_default().insert(guest);
            }
        }
        let mut groups = Vec::new();
        for (tag, members) in members.into_iter().filter(|(_, members)| members.len() > 1) {
            let members: Vec<GuestIx> = members.into_iter().collect();
            let group = |scope, strength| Group {
                rule: tag.clone(),
                members: members.clone(),
                scope,
                bound: Bound::AtMost(1),
                strength,
            };
            groups.push(group(Scope::Host, Strength::Must));
            if with_domains {
                groups.push(group(Scope::Domain, Strength::Should(SHOULD_COST)));
            }
        }
        groups
    }
}

/// What it uses: nothing unless it runs. Somebody's measurement counts, and 1 is taken for all of what it has; without
/// one it is estimated as a guest of a live cluster is before it was measured.
fn load(instance: &Instance) -> Load {
    if !instance.uses_memory() {
        return Load::default();
    }
    let (vcpus, memory) = (f64::from(instance.vcpus), (instance.memory * MIB) as f64);
    if !instance.measured {
        return Load { cpu: ESTIMATED_CPU_SHARE * vcpus, memory, ..Load::default() };
    }
    Load {
        cpu: instance.load.cpu * vcpus,
        memory: instance.load.memory * memory,
        disk: instance.load.disk * TRAFFIC,
        network: instance.load.network * TRAFFIC,
    }
}
