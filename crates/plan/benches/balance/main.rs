//! How long the planner thinks and how good its plans are, by Ganeti's score, beside Ganeti's own hbal.
//!
//! ```text
//! cargo bench -p plan --bench balance                       ours alone: seconds
//! cargo bench -p plan --bench balance -- compare            beside hbal and hinfo: some twenty minutes
//! cargo bench -p plan --bench balance -- compare 60         the same; hbal gets 60 s for each cluster, not 600
//! cargo bench -p plan --bench balance -- 1000/50000 a.data  so many hosts and guests; a file of Ganeti's
//! ```
//!
//! Every planner reads the same files, which `plan::search::sample` makes from seeds (`file`); each runs as a
//! process of its own, and the kernel counts what it takes (`watch`). What is slower than anybody can wait for, hbal
//! on large clusters, is ended at a limit, and its own search done again (`greedy`) says where it would have ended.
//!
//! The answer is a table in Markdown. A comparison that does not hold, such as a score that hinfo does not find or a
//! plan that ends above hbal's, is said at the end and fails the run.

mod compare;
mod file;
mod greedy;
mod ours;
mod placement;
mod referee;
mod table;
mod watch;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use plan::search::sample::{Profile, Sample};
use plan::snapshot::Storage;

use table::Table;

/// Hosts and guests when nothing is asked for.
const SIZES: [(usize, usize); 6] =
    [(10, 200), (20, 500), (40, 1000), (80, 2400), (160, 5000), (1000, 50_000)];

fn main() -> Result<ExitCode, Box<dyn Error>> {
    // cargo passes an option of its own.
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match asked.split_first() {
        Some((first, rest)) if first == watch::WATCH => return watch::watch(rest),
        Some((first, rest)) if first == ours::PLAN => ours::plan_file(rest)?,
        Some((first, rest)) if first == "compare" => return compare::all(rest),
        Some(_) | None => ours_alone(&asked)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn ours_alone(asked: &[String]) -> Result<(), Box<dyn Error>> {
    let folder = Folder::new()?;
    let mut files: Vec<(String, PathBuf)> = Vec::new();
    let mut make = |hosts: usize, guests: usize| -> Result<(), Box<dyn Error>> {
        for storage in [Storage::Mirrored, Storage::Shared] {
            let sample = Sample::new(hosts, guests, storage, Profile::Skew, 1);
            files.push((format!("{hosts}/{guests} {}", kind(storage)), folder.write(&sample)?));
        }
        Ok(())
    };
    if asked.is_empty() {
        SIZES.iter().try_for_each(|(hosts, guests)| make(*hosts, *guests))?;
    }
    let mut given = Vec::new();
    for what in asked {
        match what.split_once('/').map(|(hosts, guests)| (hosts.parse(), guests.parse())) {
            Some((Ok(hosts), Ok(guests))) => make(hosts, guests)?,
            Some(_) | None => given.push((name(Path::new(what)), PathBuf::from(what))),
        }
    }
    files.extend(given);
    let mut table =
        Table::new(&["cluster", "score before", "after", "moves", "disk copies", "CPU s", "wall s", "MB"]);
    for (name, path) in files {
        let ours = ours::plan(&path, &folder.0.join("after.data"))?;
        let mut row = vec![name, format!("{:.4}", ours.before), format!("{:.6}", ours.score)];
        row.extend([ours.moves.to_string(), ours.copies.to_string()]);
        row.extend(table::cost(&ours.cost));
        table.row(row);
    }
    println!("{table}");
    Ok(())
}

fn kind(storage: Storage) -> &'static str {
    match storage {
        Storage::Mirrored => "DRBD",
        Storage::Shared => "shared",
        Storage::Local => "local",
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Where the files are while the benchmark runs.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder, Box<dyn Error>> {
        let folder = std::env::temp_dir().join(format!("kennel-bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Folder(folder))
    }

    fn write(&self, sample: &Sample) -> Result<PathBuf, Box<dyn Error>> {
        let Sample { hosts, guests, profile, seed, .. } = sample;
        let name = format!("{hosts}-{guests}-{}-{profile:?}-{seed}.data", kind(sample.storage));
        let path = self.0.join(name.to_lowercase());
        std::fs::write(&path, file::text(sample))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing depends on it; what is left in the way is in the system's temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
