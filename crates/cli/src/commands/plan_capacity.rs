//! `kennel plan capacity` and `kennel plan what-if`: how much still fits, what a loss would do, what a host would
//! bring.

use std::collections::BTreeMap;

use clap::{Args, Subcommand, ValueEnum};
use model::Bytes;
use plan::capacity::{self, Fits, Loss, Outlook, Shape, Survey};
use plan::inventory::GUEST_OVERHEAD;
use plan::layout::Layout;
use plan::snapshot::{GuestIx, HostDuty, HostIx, HostRoom, Load, Snapshot, Storage};
use serde::Serialize;

use super::plan_file::{FileArguments, Loaded, unknown_host};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Block, Cell, Table, Tone};
use crate::row;

pub const CAPACITY_EXAMPLES: &str = "Examples:
  kennel plan capacity --from home.json
  kennel plan capacity --from old.data --memory 4G --vcpus 2 --disk 40G";

const LOSS_EXAMPLES: &str = "Example:
  kennel plan what-if host-loss host2 --from home.json";

const ADD_EXAMPLES: &str = "Example:
  kennel plan what-if add-host --memory 64G --disk 2T --cores 16 --from home.json";

/// A new host that nobody named.
const NEW_HOST: &str = "new-host";
/// Virtual CPUs for each core of a new host where no other host says what is usual.
const VCPUS_PER_CORE: f64 = 4.0;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    file: FileArguments,
    #[command(flatten)]
    size: Size,
}

/// The guest that is counted with.
#[derive(Debug, Clone, Args)]
struct Size {
    /// Memory of each guest that is counted
    #[arg(long, value_name = "SIZE", default_value = "2G")]
    memory: Bytes,
    /// Virtual CPUs of each
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    vcpus: u32,
    /// Disk of each
    #[arg(long, value_name = "SIZE", default_value = "20G")]
    disk: Bytes,
    /// Where its disks are put [default: where those of most guests are]
    #[arg(long, value_name = "POOL")]
    pool: Option<Pool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Pool {
    /// On two hosts
    Mirror,
    /// Where every host reaches them
    Shared,
    /// On one host alone
    Local,
}

impl Pool {
    fn storage(self) -> Storage {
        match self {
            Pool::Mirror => Storage::Mirrored,
            Pool::Shared => Storage::Shared,
            Pool::Local => Storage::Local,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Pool::Mirror => "mirror",
            Pool::Shared => "shared",
            Pool::Local => "local",
        }
    }

    /// The one that most guests have; of equals, the safest.
    fn of_most(snapshot: &Snapshot) -> Pool {
        let count = |pool: &Pool| snapshot.guests.iter().filter(|g| g.storage == pool.storage()).count();
        // The last of the largest wins.
        [Pool::Local, Pool::Shared, Pool::Mirror].into_iter().max_by_key(count).unwrap_or(Pool::Mirror)
    }
}

#[derive(Debug, Subcommand)]
pub enum WhatIf {
    /// A host dies: which guests come back, where, and which do not
    #[command(after_help = LOSS_EXAMPLES)]
    HostLoss {
        host: String,
        #[command(flatten)]
        file: FileArguments,
    },
    /// One more host: how much more would fit, and what it would mend
    #[command(after_help = ADD_EXAMPLES)]
    AddHost(AddHost),
}

#[derive(Debug, Args)]
pub struct AddHost {
    /// What it can give to guests
    #[arg(long = "memory", value_name = "SIZE")]
    host_memory: Bytes,
    /// What it can give to guests
    #[arg(long = "disk", value_name = "SIZE")]
    host_disk: Bytes,
    #[arg(long, value_name = "COUNT")]
    cores: u32,
    /// The zone that it would be in [default: none]
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// Memory of each guest that is counted
    #[arg(long, value_name = "SIZE", default_value = "2G")]
    guest_memory: Bytes,
    /// Virtual CPUs of each
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    guest_vcpus: u32,
    /// Disk of each
    #[arg(long, value_name = "SIZE", default_value = "20G")]
    guest_disk: Bytes,
    /// Where its disks are put [default: where those of most guests are]
    #[arg(long, value_name = "POOL")]
    guest_pool: Option<Pool>,
    #[command(flatten)]
    file: FileArguments,
}

// ---------------------------------------------------------------------------------------------------------------
// Capacity

#[derive(Debug, Serialize)]
struct CapacityReport {
    guest: GuestSize,
    #[serde(flatten)]
    fits: FitsReport,
    promise: PromiseReport,
    hosts: Vec<HostReport>,
}

#[derive(Debug, Serialize)]
struct GuestSize {
    memory: u64,
    vcpus: u32,
    disk: u64,
    pool: Pool,
}

#[derive(Debug, Serialize)]
struct FitsReport {
    fits: u64,
    /// `fits` may be more than this.
    at_least: bool,
    limited_by: String,
    fits_without_promise: u64,
}

#[derive(Debug, Serialize)]
struct PromiseReport {
    survives: String,
    kept: bool,
    /// What of it does not hold.
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct HostReport {
    name: String,
    memory_free: u64,
    disk_free: u64,
    /// How many of those that fit would run here.
    new_guests: u64,
    /// If this host were lost.
    loss: Option<LossReport>,
}

#[derive(Debug, Serialize)]
struct LossReport {
    come_back: usize,
    left_out: BTreeMap<String, String>,
    local: usize,
}

impl LossReport {
    fn new(outlook: &Outlook) -> Self {
        Self { come_back: outlook.restarts, left_out: outlook.left_out.clone(), local: outlook.local }
    }
}

impl FitsReport {
    fn new(fits: &Fits) -> Self {
        Self {
            fits: fits.count,
            at_least: fits.at_least,
            limited_by: fits.limited_by.clone(),
            fits_without_promise: fits.count_unpromised,
        }
    }

    fn text(&self) -> String {
        let least = if self.at_least { "at least " } else { "" };
        format!("{least}{}, limited by {}", self.fits, self.limited_by)
    }
}

impl PromiseReport {
    fn new(survey: &Survey) -> Self {
        Self {
            survives: survey.promise.to_string(),
            kept: survey.is_kept(),
            problems: capacity::problems(survey),
        }
    }

    fn cell(&self) -> Cell {
        match self.kept {
            true => Cell::new(format!("{}: kept", self.survives), Tone::Good),
            false => Cell::new(format!("{}: not kept", self.survives), Tone::Bad),
        }
    }
}

pub fn capacity(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    let loaded = arguments.file.load("count what fits")?;
    let guest = arguments.size.guest(&loaded.snapshot);
    let fits = capacity::fits(&loaded.snapshot, guest.shape(&loaded));
    let survey = capacity::survey(&loaded.snapshot);
    let report = CapacityReport {
        guest,
        fits: FitsReport::new(&fits),
        promise: PromiseReport::new(&survey),
        hosts: hosts(&loaded.snapshot, &fits, &survey),
    };
    context.output.result(&report, |coloured| report.text(coloured))
}

impl Size {
    fn guest(&self, snapshot: &Snapshot) -> GuestSize {
        let pool = self.pool.unwrap_or_else(|| Pool::of_most(snapshot));
        GuestSize { memory: self.memory.0, vcpus: self.vcpus, disk: self.disk.0, pool }
    }
}

impl GuestSize {
    fn shape(&self, loaded: &Loaded) -> Shape {
        // What a machine takes beside its guest's memory is known of Kennel's, and counted there.
        let overhead = if loaded.ganeti.is_some() { 0 } else { GUEST_OVERHEAD.0 };
        Shape {
            memory: self.memory.saturating_add(overhead),
            disk: self.disk,
            vcpus: self.vcpus,
            storage: self.pool.storage(),
        }
    }

    fn text(&self) -> String {
        let (memory, disk) = (Bytes(self.memory), Bytes(self.disk));
        format!("{memory} of memory, {} virtual CPUs, {disk} of disk on {}", self.vcpus, self.pool.name())
    }
}

fn hosts(snapshot: &Snapshot, fits: &Fits, survey: &Survey) -> Vec<HostReport> {
    let layout = Layout::new(snapshot);
    let report = |host: HostIx| {
        let name = &snapshot.host(host).name;
        HostReport {
            name: name.clone(),
            memory_free: layout.memory_free(host),
            disk_free: layout.disk_free(host),
            new_guests: fits.by_host.get(&host).copied().unwrap_or(0),
            loss: survey.hosts.iter().find(|outlook| outlook.name == *name).map(LossReport::new),
        }
    };
    snapshot.host_indices().map(report).collect()
}

impl CapacityReport {
    fn text(&self, coloured: bool) -> String {
        let block = Block::new()
            .line("A guest of", self.guest.text())
            .line("Still fit", self.fits.text())
            .line("Without the promise", self.fits.fits_without_promise)
            .line("Promise", self.promise.cell())
            .each("Problems", &self.promise.problems);
        let mut table = Table::new(&[
            "HOST",
            "MEMORY FREE",
            "DISK FREE",
            "NEW GUESTS",
            "IF IT DIES, COME BACK",
            "DO NOT",
        ]);
        for host in &self.hosts {
            let lost = host.loss.as_ref();
            table.add(row!(
                &host.name,
                Bytes(host.memory_free),
                Bytes(host.disk_free),
                host.new_guests,
                Cell::maybe(lost.map(|loss| loss.come_back)),
                match lost.map(|loss| loss.left_out.len() + loss.local) {
                    Some(0) | None => Cell::maybe(None::<usize>),
                    Some(count) => Cell::new(count, Tone::Bad),
                },
            ));
        }
        format!("{}\n{}", block.render(coloured), table.render(coloured))
    }
}

// ---------------------------------------------------------------------------------------------------------------
// What if

pub fn what_if(context: &Context, command: &WhatIf) -> Result<(), Failure> {
    match command {
        WhatIf::HostLoss { host, file } => host_loss(context, host, file),
        WhatIf::AddHost(arguments) => add_host(context, arguments),
    }
}

#[derive(Debug, Serialize)]
struct HostLossReport {
    host: String,
    survived: bool,
    /// Guest, and the host where it comes back.
    come_back: BTreeMap<String, String>,
    /// Guests that do not come back, and why.
    left_out: BTreeMap<String, String>,
    /// On the host's own disks: they wait for it.
    wait: Vec<String>,
    /// With one replica less until another is filled.
    degraded: Vec<String>,
    unaffected: usize,
}

impl HostLossReport {
    fn new(snapshot: &Snapshot, host: &str, loss: &Loss) -> Self {
        let name = |guest: &GuestIx| snapshot.guest(*guest).name.clone();
        let left_out = loss.without_place.iter().chain(&loss.without_replica);
        Self {
            host: host.to_owned(),
            survived: loss.survives(),
            come_back: loss
                .restarts
                .iter()
                .map(|(guest, host)| (name(guest), snapshot.host(*host).name.clone()))
                .collect(),
            left_out: left_out.map(|(guest, why)| (name(guest), why.clone())).collect(),
            wait: loss.local.iter().map(name).collect(),
            degraded: loss.degraded.iter().map(name).collect(),
            unaffected: loss.unaffected,
        }
    }

    fn text(&self, coloured: bool) -> String {
        let mut table = Table::new(&["GUEST", "AFTERWARDS", "WHY"]);
        for (guest, host) in &self.come_back {
            table.add(row!(guest, Cell::new(format!("runs on {host}"), Tone::Good), "-"));
        }
        for (guest, why) in &self.left_out {
            table.add(row!(guest, Cell::new("stays down", Tone::Bad), why));
        }
        for guest in &self.wait {
            let why = format!("its disks are on {} alone", self.host);
            table.add(row!(guest, Cell::new("waits", Tone::Bad), why));
        }
        let count = self.come_back.len() + self.left_out.len() + self.wait.len();
        let table = if count == 0 { String::new() } else { table.render(coloured) + "\n" };
        format!(
            "{table}If {} dies: {} of the guests there come back, {} do not; {} others run on. {} have one replica until \
             another is filled.\n",
            self.host,
            self.come_back.len(),
            self.left_out.len() + self.wait.len(),
            self.unaffected,
            self.degraded.len(),
        )
    }
}

fn host_loss(context: &Context, host: &str, file: &FileArguments) -> Result<(), Failure> {
    let asked = format!("look at the loss of '{host}'");
    let loaded = file.load(&asked)?;
    let Some(lost) = loaded.snapshot.find_host(host) else {
        return Err(unknown_host(&asked, host, &file.from));
    };
    let loss = capacity::loss(&loaded.snapshot, &[lost]);
    let report = HostLossReport::new(&loaded.snapshot, host, &loss);
    context.output.result(&report, |coloured| report.text(coloured))
}

#[derive(Debug, Serialize)]
struct AddHostReport {
    guest: GuestSize,
    before: Side,
    after: Side,
}

#[derive(Debug, Serialize)]
struct Side {
    hosts: usize,
    #[serde(flatten)]
    fits: FitsReport,
    promise: PromiseReport,
}

fn add_host(context: &Context, arguments: &AddHost) -> Result<(), Failure> {
    let loaded = arguments.file.load("look at one more host")?;
    let snapshot = &loaded.snapshot;
    let size = Size {
        memory: arguments.guest_memory,
        vcpus: arguments.guest_vcpus,
        disk: arguments.guest_disk,
        pool: arguments.guest_pool,
    };
    let guest = size.guest(snapshot);
    let zones: Vec<&str> = arguments.zone.as_deref().into_iter().collect();
    let brings = capacity::with_host(snapshot, arguments.room(snapshot), &zones, guest.shape(&loaded));
    let side = |hosts, fits: &Fits, survey: &Survey| Side {
        hosts,
        fits: FitsReport::new(fits),
        promise: PromiseReport::new(survey),
    };
    let report = AddHostReport {
        before: side(snapshot.hosts.len(), &brings.fits_before, &brings.survey_before),
        after: side(brings.hosts_after, &brings.fits_after, &brings.survey_after),
        guest,
    };
    context.output.result(&report, |coloured| {
        let (before, after) = (&report.before, &report.after);
        Block::new()
            .line("A guest of", report.guest.text())
            .line("Hosts", format!("{} now, {} then", before.hosts, after.hosts))
            .line("Fit now", before.fits.text())
            .line("Fit then", after.fits.text())
            .line("Promise now", before.promise.cell())
            .line("Promise then", after.promise.cell())
            .each("Problems then", &after.promise.problems)
            .render(coloured)
    })
}

impl AddHost {
    /// It may have as many virtual CPUs to a core as the most generous of the others.
    fn room(&self, snapshot: &Snapshot) -> HostRoom {
        let others = snapshot.hosts.iter().filter(|host| host.cores > 0.0);
        let ratio = others.map(|host| host.vcpus_max / host.cores).reduce(f64::max).unwrap_or(VCPUS_PER_CORE);
        let free_name = |number: &u32| snapshot.find_host(&new_name(*number)).is_none();
        let name = new_name((1..).find(free_name).unwrap_or_default());
        HostRoom {
            name,
            memory: self.host_memory.0,
            memory_total: self.host_memory.0,
            disk: self.host_disk.0,
            disk_total: self.host_disk.0,
            cores: f64::from(self.cores),
            speed: 1.0,
            vcpus_max: ratio * f64::from(self.cores),
            network: 0.0,
            own_load: Load::default(),
            domains: Vec::new(),
            duty: HostDuty::Takes,
        }
    }
}

fn new_name(number: u32) -> String {
    if number == 1 { NEW_HOST.to_owned() } else { format!("{NEW_HOST}-{number}") }
}
