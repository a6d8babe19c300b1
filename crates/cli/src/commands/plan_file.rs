//! The file that an offline plan is made for.
//!
//! It is either a Kennel dump (JSON, so it begins with `{`) or Ganeti's text format; both become a snapshot. What
//! only Ganeti's score and hbal's options need stays beside it.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use plan::dump::Dump;
use plan::htools::{self, Cluster, Loads};
use plan::inventory::Inventory;
use plan::objective::ganeti::GanetiFacts;
use plan::snapshot::Snapshot;

use crate::failure::Failure;
use crate::output::note;

const MEND: &str = "mend the file, or let hscan or `kennel cluster dump` write it anew";

/// Which file, and how it is read.
#[derive(Debug, Args)]
pub struct FileArguments {
    /// The cluster: what `kennel cluster dump` writes, or Ganeti's text format (hscan); - reads stdin
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
    /// What guests were measured to use: lines of NAME CPU MEMORY DISK NETWORK, plain numbers [Ganeti's format only]
    #[arg(short = 'U', long, value_name = "FILE")]
    utilisation: Option<PathBuf>,
    /// Treat this host as offline, so that everything leaves it [Ganeti's format only]
    #[arg(long, value_name = "HOST")]
    offline: Vec<String>,
    /// Keep guests apart that share a tag of this family, as in svc for svc:web [Ganeti's format only]
    #[arg(long, value_name = "FAMILY", value_delimiter = ',')]
    exclusion_tags: Vec<String>,
}

/// A file that has been read.
#[derive(Debug)]
pub struct Loaded {
    pub snapshot: Snapshot,
    /// Only of a dump of Kennel's.
    pub inventory: Option<Inventory>,
    /// Only of Ganeti's format.
    pub ganeti: Option<Ganeti>,
}

#[derive(Debug)]
pub struct Ganeti {
    pub cluster: Cluster,
    pub order: htools::Order,
    pub facts: GanetiFacts,
}

impl FileArguments {
    /// Reads the file. What is odd in it goes to stderr.
    pub fn load(&self, asked: &str) -> Result<Loaded, Failure> {
        self.load_changed(asked, |_| {})
    }

    /// The same, with a last change to a cluster of Ganeti's before it is looked at.
    pub fn load_changed(&self, asked: &str, change: impl FnOnce(&mut Cluster)) -> Result<Loaded, Failure> {
        let text = read(&self.from, asked)?;
        if text.trim_start().starts_with('{') {
            return self.load_dump(&text, asked);
        }
        let mut cluster = Cluster::parse(&text).map_err(|damage| {
            let why = format!("{}: {damage}", self.from.display());
            Failure::refused(asked, why, MEND)
        })?;
        self.apply(&mut cluster, asked)?;
        change(&mut cluster);
        for warning in cluster.warnings() {
            note(&format!("kennel: {}: {warning}", self.from.display()));
        }
        let order = htools::Order::new(&cluster);
        let snapshot = cluster.snapshot(&order);
        let facts = cluster.facts(&order);
        Ok(Loaded { snapshot, inventory: None, ganeti: Some(Ganeti { cluster, order, facts }) })
    }

    /// A dump of Kennel's own.
    fn load_dump(&self, text: &str, asked: &str) -> Result<Loaded, Failure> {
        let strays = [
            ("--utilisation", self.utilisation.is_some()),
            ("--offline", !self.offline.is_empty()),
            ("--exclusion-tags", !self.exclusion_tags.is_empty()),
        ];
        if let Some((option, _)) = strays.iter().find(|(_, given)| *given) {
            let why =
                format!("{option} is for Ganeti's format, and {} is a dump of Kennel's", self.from.display());
            return Err(Failure::usage(
                asked,
                why,
                "leave it out: a dump has what was measured, and duties and rules",
            ));
        }
        let dump = Dump::parse(text).map_err(|error| {
            let why = format!("{}: {error}", self.from.display());
            Failure::refused(asked, why, MEND)
        })?;
        let inventory = dump.inventory();
        Ok(Loaded { snapshot: inventory.snapshot.clone(), inventory: Some(inventory), ganeti: None })
    }

    fn apply(&self, cluster: &mut Cluster, asked: &str) -> Result<(), Failure> {
        if let Some(path) = &self.utilisation {
            let text = read(path, asked)?;
            let loads = Loads::parse(&text).map_err(|damage| {
                let why = format!("{}: {damage}", path.display());
                Failure::refused(asked, why, "mend the file, or leave out --utilisation")
            })?;
            let strangers = cluster.set_loads(&loads);
            if let Some(first) = strangers.first() {
                let count = strangers.len();
                note(&format!(
                    "kennel: {}: {count} of its names are not in the cluster, the first is {first}",
                    path.display()
                ));
            }
        }
        for name in &self.offline {
            if !cluster.set_offline(name) {
                return Err(unknown_host(asked, name, &self.from));
            }
        }
        let families = self.exclusion_tags.iter().filter(|family| !family.is_empty());
        cluster.more_exclusion.extend(families.map(|family| format!("{family}:")));
        Ok(())
    }
}

pub fn unknown_host(asked: &str, name: &str, from: &Path) -> Failure {
    let why = format!("there is no host '{name}' in {}", from.display());
    Failure::refused(asked, why, "name one of its hosts, in full")
}

/// A file's text, or stdin's.
fn read(path: &Path, asked: &str) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let result = if path == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut bytes).map(drop)
    } else {
        std::fs::read(path).map(|read| bytes = read)
    };
    result.map_err(|error| {
        let why = format!("{} cannot be read: {error}", path.display());
        Failure::refused(asked, why, "name a file that you may read")
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let why = format!("{} is not text: byte {}", path.display(), error.utf8_error().valid_up_to() + 1);
        Failure::refused(asked, why, "name a cluster's dump, in UTF-8")
    })
}
