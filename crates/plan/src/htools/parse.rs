//! Reading the text format.
//!
//! Sections (groups, nodes, instances, cluster tags, policies) are separated by one empty line each; an empty
//! section is therefore an empty line more. Fields are separated by `|`. Nothing is guessed: what does not have
//! this form is refused with its line and its field, because a plan that rests on half of a cluster is worse than
//! none. Fields and sections beyond those that are known are passed over, as Ganeti's own tools do.

use std::collections::BTreeMap;
use std::fmt;

use super::field::{self, Row};
use super::record::{
    Cluster, Instance, Mirroring, Node, NodeGroup, Policy, Role, Spec, Status, Template, Utilisation,
};

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// From 1.
    pub line: usize,
    /// What the lines around it are: a section of the format.
    pub section: Option<&'static str>,
    /// The field's number, from 1, and what it holds.
    pub field: Option<(usize, &'static str)>,
    /// As in `'x' is not a number`.
    pub found: String,
    /// As in `whole MiB are expected, as in 4096`.
    pub expected: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some(section) = self.section {
            write!(f, " ({section})")?;
        }
        if let Some((number, name)) = self.field {
            write!(f, ", field {number} ({name})")?;
        }
        write!(f, ": {}; {}", self.found, self.expected)
    }
}

impl std::error::Error for Damage {}

/// A name may stand once; where it stood first.
type Names = BTreeMap<String, usize>;

const SECTIONS: [&str; 5] = ["node groups", "nodes", "instances", "cluster tags", "policies"];
/// Policies may be missing.
const LEAST_SECTIONS: usize = 4;

impl Cluster {
    /// Reads a file.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(text: &str) -> Result<Cluster, Damage> {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        refuse_foreign_text(text)?;
        let sections = sections(&lines)?;
        let mut reader = Reader::default();
        for (line, text) in &sections[0] {
            reader.group(&Row::new(*line, SECTIONS[0], text))?;
        }
        for (line, text) in &sections[1] {
            reader.node(&Row::new(*line, SECTIONS[1], text))?;
        }
        for (line, text) in &sections[2] {
            reader.instance(&Row::new(*line, SECTIONS[2], text))?;
        }
        let tags: Vec<String> = sections[3].iter().map(|(_, tag)| (*tag).to_owned()).collect();
        for (line, text) in &sections[4] {
            reader.policy(&Row::new(*line, SECTIONS[4], text))?;
        }
        let Reader { groups, nodes, instances, policies, .. } = reader;
        Ok(Cluster { groups, nodes, instances, tags, policies, more_exclusion: Vec::new(), lines })
    }
}

/// Text that was never in this format gets a better word than the complaint about its first field.
fn refuse_foreign_text(text: &str) -> Result<(), Damage> {
    let damage = |line, found: &str, expected: &str| {
        Err(Damage {
            line,
            section: None,
            field: None,
            found: found.to_owned(),
            expected: expected.to_owned(),
        })
    };
    if text.trim().is_empty() {
        return damage(1, "there is nothing", "a cluster in Ganeti's text format is expected");
    }
    let control = |c: char| c.is_control() && c != '\n' && c != '\t';
    let strange = text.split('\n').zip(1..).find(|(line, _)| line.contains(control));
    match strange {
        Some((line, number)) if line.ends_with('\r') => {
            damage(number, "it ends with a carriage return", "lines end with a line feed alone: try dos2unix")
        }
        Some((_, number)) => damage(number, "there is a control character", "plain text is expected"),
        None => Ok(()),
    }
}

type Section<'a> = Vec<(usize, &'a str)>;

fn sections(lines: &[String]) -> Result<[Section<'_>; 5], Damage> {
    let mut sections: [Section<'_>; 5] = Default::default();
    let mut current = 0;
    for (line, number) in lines.iter().zip(1..) {
        if line.is_empty() {
            current += 1;
        } else if let Some(section) = sections.get_mut(current) {
            section.push((number, line.as_str()));
        }
    }
    // A file that ends with its last line feed and no empty line has one section more than empty lines.
    if current + 1 >= LEAST_SECTIONS {
        return Ok(sections);
    }
    let last = SECTIONS.get(current).copied().unwrap_or_default();
    Err(Damage {
        line: lines.len().max(1),
        section: None,
        field: None,
        found: format!("the file ends in section {} ({last})", current + 1),
        expected:
            "node groups, nodes, instances and cluster tags are expected, with one empty line between two of \
                   them and another where one is empty"
                .to_owned(),
    })
}

#[derive(Default)]
struct Reader {
    groups: Vec<NodeGroup>,
    nodes: Vec<Node>,
    instances: Vec<Instance>,
    policies: Vec<Policy>,
    group_names: Names,
    uuids: Names,
    node_names: Names,
    instance_names: Names,
    /// By uuid.
    group_at: BTreeMap<String, usize>,
    /// By name.
    node_at: BTreeMap<String, usize>,
    owners: BTreeMap<String, usize>,
    total: field::Total,
}

impl Reader {
    fn group(&mut self, row: &Row<'_>) -> Result<(), Damage> {
        row.least(4, "a node group")?;
        let name = row.name(1, "name", &mut self.group_names)?;
        let uuid = row.name(2, "uuid", &mut self.uuids)?;
        match row.text(3) {
            "preferred" | "last_resort" | "unallocable" => {}
            other => {
                let found = format!("'{other}' is not an allocation policy");
                let expected = "'preferred', 'last_resort' or 'unallocable' is expected";
                return Err(row.damage(3, "allocation policy", found, expected));
            }
        }
        self.group_at.insert(uuid.clone(), self.groups.len());
        self.groups.push(NodeGroup { name, uuid });
        Ok(())
    }

    fn node(&mut self, row: &Row<'_>) -> Result<(), Damage> {
        row.least(9, "a node")?;
        let name = row.name(1, "name", &mut self.node_names)?;
        let uuid = row.text(9);
        let Some(&group) = self.group_at.get(uuid) else {
            let found = format!("there is no node group with the uuid '{uuid}'");
            let expected = "a uuid (not a name) from the first section is expected";
            return Err(row.damage(9, "group", found, expected));
        };
        let unknown = (2..=7).any(|number| row.text(number) == "?");
        let known = |value: Result<u64, Damage>| if unknown { Ok(0) } else { value };
        let known_part = |value: Result<f64, Damage>| if unknown { Ok(0.0) } else { value };
        let node = Node {
            line: row.line,
            t_mem: known_part(row.size_with_fraction(2, "total memory"))?,
            n_mem: known(row.size(3, "memory of the node itself"))?,
            f_mem: known(row.size(4, "free memory"))?,
            t_disk: known_part(row.size_with_fraction(5, "total disk"))?,
            f_disk: known(row.size(6, "free disk"))?,
            t_cpu: known_part(row.number(7, "cores", field::COUNT_MAX))?,
            role: role(row)?,
            unknown,
            group,
            spindles: row.count_or(10, "spindles", 1)?,
            tags: row.list(11),
            exclusive_storage: row.yes_or_no_or(12, "exclusive storage", false)?,
            f_spindles: row.count_or(13, "free spindles", 0)?,
            n_cpu: row.count_or(14, "vCPUs of the node itself", 1)?,
            speed: if row.has(15) { row.number(15, "CPU speed", field::COUNT_MAX)? } else { 1.0 },
            name,
        };
        refuse_hollow_node(row, &node)?;
        let figures = [node.t_mem as u64, node.t_disk as u64, node.f_mem, node.f_disk, node.n_mem];
        figures.into_iter().try_for_each(|mib| self.total.add(row, mib))?;
        self.node_at.insert(node.name.clone(), self.nodes.len());
        self.nodes.push(node);
        Ok(())
    }

    fn instance(&mut self, row: &Row<'_>) -> Result<(), Damage> {
        row.least(10, "an instance")?;
        let name = row.name(1, "name", &mut self.instance_names)?;
        let template = row.one_of(9, "disk template", &Template::ALL)?;
        let primary = self.known_node(row, 7, "primary node")?;
        let secondary = self.secondary(row, template, primary)?;
        let spindles_known = row.has(12) && row.text(12) != "-";
        let instance = Instance {
            line: row.line,
            name,
            memory: row.size(2, "memory")?,
            disk: row.size(3, "disk size")?,
            vcpus: row.vcpus(4, "vCPUs")?,
            status: row.one_of(5, "status", &Status::ALL)?,
            auto_balance: row.yes_or_no(6, "auto balance")?,
            primary,
            secondary,
            template,
            tags: row.list(10),
            spindle_use: row.count_or(11, "spindle use", 1)?,
            disk_spindles: spindles_known.then(|| row.count(12, "spindles of its disks")).transpose()?,
            forthcoming: row.yes_or_no_or(13, "forthcoming", false)?,
            load: Utilisation::ONES,
            measured: false,
        };
        self.total.add(row, instance.memory)?;
        self.total.add(row, instance.disk)?;
        self.total.add_vcpus(row, instance.vcpus)?;
        self.instances.push(instance);
        Ok(())
    }

    fn known_node(&self, row: &Row<'_>, number: usize, what: &'static str) -> Result<usize, Damage> {
        let name = row.text(number);
        if let Some(&node) = self.node_at.get(name) {
            return Ok(node);
        }
        let found =
            if name.is_empty() { "it is empty".to_owned() } else { format!("there is no node '{name}'") };
        Err(row.damage(number, what, found, "the name of a node of the second section is expected"))
    }

    fn secondary(&self, row: &Row<'_>, template: Template, primary: usize) -> Result<Option<usize>, Damage> {
        const WHAT: &str = "secondary node";
        let mirrored = template.mirroring() == Mirroring::Internal;
        match (mirrored, row.text(8)) {
            (false, "") => Ok(None),
            (true, "") => {
                let expected = "a drbd instance has a secondary node: its name is expected";
                Err(row.damage(8, WHAT, "it is empty".to_owned(), expected))
            }
            (false, name) => {
                let found = format!("'{name}' stands there, and the disk template is '{}'", row.text(9));
                Err(row.damage(8, WHAT, found, "nothing is expected: only drbd instances have a secondary"))
            }
            (true, name) => {
                let secondary = self.known_node(row, 8, WHAT)?;
                if secondary == primary {
                    let found = format!("'{name}' is the primary node, too");
                    return Err(row.damage(8, WHAT, found, "another node is expected"));
                }
                Ok(Some(secondary))
            }
        }
    }

    fn policy(&mut self, row: &Row<'_>) -> Result<(), Damage> {
        row.least(6, "a policy")?;
        let name = row.text(1);
        let owner = match self.groups.iter().position(|group| group.name == name) {
            _ if name.is_empty() => None,
            Some(group) => Some(group),
            None => {
                let found = format!("there is no node group '{name}'");
                let expected = "a group's name (not its uuid) or nothing, for the cluster, is expected";
                return Err(row.damage(1, "owner", found, expected));
            }
        };
        if let Some(first) = self.owners.insert(name.to_owned(), row.line) {
            let found = format!("line {first} has a policy for '{name}' already");
            return Err(row.damage(1, "owner", found, "one policy for each owner is expected"));
        }
        let specs: Vec<Spec> =
            row.text(3).split(';').map(|text| spec(row, 3, "ranges", text)).collect::<Result<_, _>>()?;
        let (pairs, []) = specs.as_chunks::<2>() else {
            let found = format!("there are {} specs", specs.len());
            let expected = "pairs of a least and a most are expected, with ';' between them";
            return Err(row.damage(3, "ranges", found, expected));
        };
        let ranges = pairs.iter().map(|[least, most]| (*least, *most)).collect();
        let templates: Vec<Template> = row
            .list(4)
            .iter()
            .map(|text| row.known_word(4, "disk templates", text, &Template::ALL))
            .collect::<Result<_, _>>()?;
        self.policies.push(Policy {
            owner,
            standard: spec(row, 2, "standard spec", row.text(2))?,
            ranges,
            templates,
            vcpu_ratio: row.number(5, "vCPU ratio", field::COUNT_MAX)?,
            spindle_ratio: row.number(6, "spindle ratio", field::COUNT_MAX)?,
        });
        Ok(())
    }
}

fn role(row: &Row<'_>) -> Result<Role, Damage> {
    match row.text(8) {
        "N" => Ok(Role::Online),
        "M" => Ok(Role::Master),
        "Y" => Ok(Role::Offline),
        other => {
            let found = format!("'{other}' is not a role");
            let expected = "Y (offline), N (online) or M (online, and the master) is expected";
            Err(row.damage(8, "role", found, expected))
        }
    }
}

/// A node that is online has something to divide by.
fn refuse_hollow_node(row: &Row<'_>, node: &Node) -> Result<(), Damage> {
    let zero = |number, what| {
        let expected = "a node that is online has some; if it is not to be used, Y in field 8 says so";
        Err(row.damage(number, what, "it is 0".to_owned(), expected))
    };
    if node.is_offline() {
        Ok(())
    } else if node.t_mem == 0.0 {
        zero(2, "total memory")
    } else if node.t_cpu == 0.0 {
        zero(7, "cores")
    } else if node.speed == 0.0 {
        zero(15, "CPU speed")
    } else {
        Ok(())
    }
}

fn spec(row: &Row<'_>, number: usize, what: &'static str, text: &str) -> Result<Spec, Damage> {
    let parts: Vec<&str> = text.split(',').collect();
    let [memory, vcpus, disk, disks, nics, spindle_use] = parts.as_slice() else {
        let found = format!("'{text}' is not the size of an instance");
        let expected = "memory, vCPUs, disk, disks, network cards and spindle use are expected, as in \
                        128,1,1024,1,1,1";
        return Err(row.damage(number, what, found, expected));
    };
    let figure = |part: &str| row.whole(number, what, part, field::MIB_MAX);
    Ok(Spec {
        memory: figure(memory)?,
        vcpus: figure(vcpus)?,
        disk: figure(disk)?,
        disks: figure(disks)?,
        nics: figure(nics)?,
        spindle_use: figure(spindle_use)?,
    })
}
