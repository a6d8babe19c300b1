//! What stands in a file of Ganeti's text format, line by line, in Ganeti's own words.
//!
//! Memory and disk are MiB here, as in the file. What a status or a disk template means for the score and for moves
//! is said in the methods of [`Status`] and [`Template`]; source: `Ganeti.HTools.Types` and `Instance` of 3.0.2.

use std::collections::BTreeSet;

/// Prefix of the cluster tags that name exclusion tags.
const EXCLUSION: &str = "htools:iextags:";
/// … that name families of node tags which are failure domains.
const LOCATION: &str = "htools:nlocation:";
/// … that name families of instance tags which ask for a node with the same tag.
const DESIRED: &str = "htools:desiredlocation:";
/// … that name families of node tags which restrict migration.
const MIGRATION: &str = "htools:migration:";
/// … that allow a migration all the same: `FROM::TO`.
const ALLOW_MIGRATION: &str = "htools:allowmigration:";

/// A whole file.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    pub groups: Vec<NodeGroup>,
    pub nodes: Vec<Node>,
    pub instances: Vec<Instance>,
    /// Cluster tags, in the order of the file.
    pub tags: Vec<String>,
    pub policies: Vec<Policy>,
    /// Exclusion tags' prefixes beyond those that cluster tags name.
    pub more_exclusion: Vec<String>,
    /// The file, for writing it back with nothing changed but what moved.
    pub(super) lines: Vec<String>,
}

/// Nodes among which instances move.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeGroup {
    pub name: String,
    pub uuid: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its line in the file, from 1.
    pub line: usize,
    pub name: String,
    pub t_mem: f64,
    /// Memory that the node's own system uses.
    pub n_mem: u64,
    pub f_mem: u64,
    pub t_disk: f64,
    pub f_disk: u64,
    pub t_cpu: f64,
    pub role: Role,
    /// Its figures are unknown (`?`) and count as 0; it is offline then.
    pub unknown: bool,
    /// Its place in [`Cluster::groups`].
    pub group: usize,
    pub spindles: u64,
    pub tags: Vec<String>,
    pub exclusive_storage: bool,
    pub f_spindles: u64,
    /// Virtual CPUs that the node's own system uses.
    pub n_cpu: u64,
    /// Relative to a standard node.
    pub speed: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Online,
    Master,
    Offline,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// Its line in the file, from 1.
    pub line: usize,
    pub name: String,
    pub memory: u64,
    /// Of all its disks, on one node.
    pub disk: u64,
    pub vcpus: u32,
    pub status: Status,
    pub auto_balance: bool,
    /// Its place in [`Cluster::nodes`].
    pub primary: usize,
    pub secondary: Option<usize>,
    pub template: Template,
    pub tags: Vec<String>,
    pub spindle_use: u64,
    /// Spindles that its disks take of a node with exclusive storage, where that is known.
    pub disk_spindles: Option<u64>,
    /// Reserved, and not made yet.
    pub forthcoming: bool,
    /// Dynamic load, without unit: 1 each unless measured.
    pub load: Utilisation,
    /// A file of dynamic load named it.
    pub measured: bool,
}

/// Dynamic load as `-U` files have it: plain numbers, which only mean something beside each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Utilisation {
    pub cpu: f64,
    pub memory: f64,
    pub disk: f64,
    pub network: f64,
}

impl Utilisation {
    pub const ONES: Self = Self { cpu: 1.0, memory: 1.0, disk: 1.0, network: 1.0 };
    pub const ZEROS: Self = Self { cpu: 0.0, memory: 0.0, disk: 0.0, network: 0.0 };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Running,
    AdminDown,
    AdminOffline,
    ErrorUp,
    ErrorDown,
    ErrorNodeDown,
    ErrorNodeOffline,
    ErrorWrongNode,
    UserDown,
}

impl Status {
    pub const ALL: [(&'static str, Status); 9] = [
        ("running", Status::Running),
        ("ADMIN_down", Status::AdminDown),
        ("ADMIN_offline", Status::AdminOffline),
        ("ERROR_up", Status::ErrorUp),
        ("ERROR_down", Status::ErrorDown),
        ("ERROR_nodedown", Status::ErrorNodeDown),
        ("ERROR_nodeoffline", Status::ErrorNodeOffline),
        ("ERROR_wrongnode", Status::ErrorWrongNode),
        ("USER_down", Status::UserDown),
    ];

    pub fn uses_memory(self) -> bool {
        match self {
            Status::Running
            | Status::ErrorUp
            | Status::ErrorNodeDown
            | Status::ErrorNodeOffline
            | Status::ErrorWrongNode => true,
            Status::AdminDown | Status::AdminOffline | Status::ErrorDown | Status::UserDown => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Template {
    Diskless,
    File,
    SharedFile,
    Plain,
    BlockDev,
    Drbd,
    Rbd,
    Ext,
    Gluster,
}

/// How hbal may move an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mirroring {
    /// Not at all.
    None,
    /// Primary and secondary: their roles swap, the secondary is replaced.
    Internal,
    /// Every node reaches its disks.
    External,
}

impl Template {
    pub const ALL: [(&'static str, Template); 9] = [
        ("diskless", Template::Diskless),
        ("file", Template::File),
        ("sharedfile", Template::SharedFile),
        ("plain", Template::Plain),
        ("blockdev", Template::BlockDev),
        ("drbd", Template::Drbd),
        ("rbd", Template::Rbd),
        ("ext", Template::Ext),
        ("gluster", Template::Gluster),
    ];

    /// Its disks are in a node's volume group, and count there.
    pub fn takes_local_disk(self) -> bool {
        match self {
            Template::Drbd | Template::Plain => true,
            Template::Diskless
            | Template::File
            | Template::SharedFile
            | Template::BlockDev
            | Template::Rbd
            | Template::Ext
            | Template::Gluster => false,
        }
    }

    /// `diskless` could run anywhere, and hbal leaves it where it is all the same.
    pub fn mirroring(self) -> Mirroring {
        match self {
            Template::Drbd => Mirroring::Internal,
            Template::SharedFile | Template::BlockDev | Template::Rbd | Template::Ext | Template::Gluster => {
                Mirroring::External
            }
            Template::Plain | Template::File | Template::Diskless => Mirroring::None,
        }
    }
}

/// Limits of a group, or (without an owner) of the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// A place in [`Cluster::groups`]; `None`: the cluster's, which does not reach groups by itself.
    pub owner: Option<usize>,
    pub standard: Spec,
    /// Pairs of the least and the most.
    pub ranges: Vec<(Spec, Spec)>,
    pub templates: Vec<Template>,
    pub vcpu_ratio: f64,
    pub spindle_ratio: f64,
}

/// The size of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    pub memory: u64,
    pub vcpus: u64,
    pub disk: u64,
    pub disks: u64,
    pub nics: u64,
    pub spindle_use: u64,
}

/// What holds for a group that has no policy of its own.
pub const DEFAULT_VCPU_RATIO: f64 = 4.0;
pub const DEFAULT_SPINDLE_RATIO: f64 = 32.0;
pub const DEFAULT_STANDARD: Spec =
    Spec { memory: 128, vcpus: 1, disk: 1024, disks: 1, nics: 1, spindle_use: 1 };

impl Node {
    pub fn is_offline(&self) -> bool {
        self.unknown || self.role == Role::Offline
    }
}

impl Instance {
    /// It is in memory on its primary.
    pub fn uses_memory(&self) -> bool {
        !self.forthcoming && self.status.uses_memory()
    }

    /// Its memory is reserved on its secondary, for the case that its primary dies.
    pub fn reserves(&self) -> bool {
        self.auto_balance && !self.forthcoming && self.status != Status::AdminOffline
    }

    pub fn counts_vcpus(&self) -> bool {
        self.status != Status::AdminOffline
    }
}

impl Cluster {
    /// The policy line of a group; its own, because the cluster's does not reach it.
    pub fn policy(&self, group: usize) -> Option<&Policy> {
        self.policies.iter().find(|policy| policy.owner == Some(group))
    }

    pub fn vcpu_ratio(&self, group: usize) -> f64 {
        self.policy(group).map_or(DEFAULT_VCPU_RATIO, |policy| policy.vcpu_ratio)
    }

    pub fn spindle_ratio(&self, group: usize) -> f64 {
        self.policy(group).map_or(DEFAULT_SPINDLE_RATIO, |policy| policy.spindle_ratio)
    }

    fn tagged<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.tags.iter().filter_map(move |tag| tag.strip_prefix(prefix)).filter(|rest| !rest.is_empty())
    }

    /// The instance's tags that no other primary of its node should have. One that it has twice counts twice.
    pub fn exclusion_tags(&self, instance: &Instance) -> Vec<String> {
        let prefixes: Vec<&str> =
            self.tagged(EXCLUSION).chain(self.more_exclusion.iter().map(String::as_str)).collect();
        let excludes = |tag: &&String| prefixes.iter().any(|prefix| tag.starts_with(prefix));
        instance.tags.iter().filter(excludes).cloned().collect()
    }

    /// The node's tags that are failure domains.
    pub fn location_tags(&self, node: &Node) -> BTreeSet<String> {
        let families: Vec<String> = self.tagged(LOCATION).map(|family| format!("{family}:")).collect();
        let located = |tag: &&String| families.iter().any(|family| tag.starts_with(family.as_str()));
        node.tags.iter().filter(located).cloned().collect()
    }

    /// The location tags that the instance asks for.
    pub fn desired_tags(&self, instance: &Instance) -> BTreeSet<String> {
        let prefixes: Vec<&str> = self.tagged(DESIRED).collect();
        let desired = |tag: &&String| prefixes.iter().any(|prefix| tag.starts_with(prefix));
        instance.tags.iter().filter(desired).cloned().collect()
    }

    /// The node's tags that a node must have, or be allowed for, to receive instances from it.
    pub fn migration_tags(&self, node: &Node) -> BTreeSet<String> {
        let families: Vec<String> = self.tagged(MIGRATION).map(|family| format!("{family}:")).collect();
        let restricts = |tag: &&String| families.iter().any(|family| tag.starts_with(family.as_str()));
        node.tags.iter().filter(restricts).cloned().collect()
    }

    /// The tags of sources from which the node may receive: its own, and those that are allowed for one of them.
    pub fn received_tags(&self, node: &Node) -> BTreeSet<String> {
        let mut received = self.migration_tags(node);
        let pairs = self.tagged(ALLOW_MIGRATION).filter_map(|pair| pair.split_once("::"));
        let allowed: Vec<(&str, &str)> = pairs.filter(|(_, to)| !to.contains("::")).collect();
        let more: Vec<String> = allowed
            .iter()
            .filter(|(_, to)| received.contains(*to))
            .map(|(from, _)| (*from).to_owned())
            .collect();
        received.extend(more);
        received
    }

    /// Whether an instance that runs on `from` may be migrated to `to`.
    pub fn may_migrate(&self, from: usize, to: usize) -> bool {
        self.migration_tags(&self.nodes[from]).is_subset(&self.received_tags(&self.nodes[to]))
    }

    /// Its nodes are in two groups, so hbal leaves it.
    pub fn is_split(&self, instance: &Instance) -> bool {
        let group = |node: usize| self.nodes[node].group;
        instance.secondary.is_some_and(|secondary| group(secondary) != group(instance.primary))
    }

    /// Takes a node for offline. `false`: there is none of that name.
    pub fn set_offline(&mut self, name: &str) -> bool {
        let Some(node) = self.find_node(name) else { return false };
        self.nodes[node].role = Role::Offline;
        true
    }

    pub fn find_node(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    /// By its name, or else its UUID.
    pub fn find_group(&self, name: &str) -> Option<usize> {
        let by_name = self.groups.iter().position(|group| group.name == name);
        by_name.or_else(|| self.groups.iter().position(|group| group.uuid == name))
    }
}
