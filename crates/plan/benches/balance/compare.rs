//! Kennel's planner beside hbal, on the same files.
//!
//! hbal runs first, as many at a time as there are processors, for it uses only one; everything else runs after
//! that, one at a time.

use std::collections::VecDeque;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

use plan::htools::Cluster;
use plan::search::sample::{Profile, Sample};
use plan::snapshot::Storage;

use crate::ours::{self, Ours};
use crate::referee::{self, Hbal};
use crate::table::{self, Table};
use crate::watch::Cost;
use crate::{Folder, greedy, kind, placement};

/// Hosts and guests where hbal is the yardstick.
const BESIDE_HBAL: [(usize, usize); 4] = [(10, 200), (20, 500), (40, 1000), (80, 2400)];
/// How many seconds of processor time hbal gets for a cluster when nothing else is asked for. For the largest it needs
/// hours.
const LIMIT: u64 = 600;
/// Ours alone.
const ALONE: [(usize, usize); 2] = [(160, 5000), (1000, 50_000)];
/// Where hbal plans for clusters of every profile, to see that `greedy` ends where it does.
const CHECKED: usize = 10;
/// So many clusters of each profile; of the largest, one.
const SEEDS: u64 = 3;
const SEEDS_LARGE: u64 = 1;
const LARGE_FROM: usize = 80;
/// hinfo and hbal print eight digits; hbal adds up a plan's rounding errors in its own order.
const SAME: f64 = 1e-6;

/// A cluster, and what came of it.
struct Case {
    sample: Sample,
    path: PathBuf,
    hbal: Option<Hbal>,
    ours: Ours,
    /// hbal's search done again.
    greedy: Option<Greedy>,
}

struct Greedy {
    score: f64,
    copies: usize,
}

/// Compares on all clusters. What is asked for is how many seconds hbal gets.
pub fn all(asked: &[String]) -> Result<ExitCode, Box<dyn Error>> {
    let limit = asked.first().map_or(Ok(LIMIT), |seconds| seconds.parse())?;
    let folder = Folder::new()?;
    let installed = referee::are_installed();
    if !installed {
        eprintln!(
            "hbal and hinfo are not installed (Debian: ganeti-htools); what they would say is left out"
        );
    }
    let mut wrong = Vec::new();
    let mut jobs = samples(limit);
    let mut hbals = if installed { run_hbal(&folder, &jobs)? } else { Vec::new() };
    hbals.resize_with(jobs.len(), || None);
    let mut cases = Vec::new();
    for ((sample, _), hbal) in jobs.drain(..).zip(hbals) {
        let path = folder.write(&sample)?;
        let ours = planned(&folder, &path, installed, &mut wrong)?;
        let greedy = reference(&sample, &path)?;
        eprintln!(
            "{}: {:.4} to {:.6} in {:.2} s",
            crate::name(&path),
            ours.before,
            ours.score,
            ours.cost.cpu
        );
        cases.push(Case { sample, path, hbal, ours, greedy });
    }
    for case in &cases {
        wrong.extend(case.wrong());
    }
    println!("{}", one_by_one(&cases));
    println!("{}", all_together(&cases, &mut wrong));
    let checked = cases.iter().filter(|case| case.hbal_end().is_some() && case.greedy.is_some()).count();
    println!("hbal's search done again ended with hbal's own score on {checked} clusters.");
    for wrong in &wrong {
        eprintln!("wrong: {wrong}");
    }
    Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every cluster, with how long hbal may take for it if it shall plan for it.
fn samples(limit: u64) -> Vec<(Sample, Option<u64>)> {
    let mut samples = Vec::new();
    for (hosts, guests) in BESIDE_HBAL {
        let seeds = if hosts < LARGE_FROM { SEEDS } else { SEEDS_LARGE };
        for storage in [Storage::Mirrored, Storage::Shared] {
            for profile in Profile::ALL {
                for seed in 1..=seeds {
                    let shown = profile == Profile::Skew && seed == 1;
                    let limit = (shown || hosts == CHECKED && seed == 1).then_some(limit);
                    samples.push((Sample::new(hosts, guests, storage, profile, seed), limit));
                }
            }
        }
    }
    for (hosts, guests) in ALONE {
        for storage in [Storage::Mirrored, Storage::Shared] {
            samples.push((Sample::new(hosts, guests, storage, Profile::Skew, 1), None));
        }
    }
    samples
}

/// What hbal does with each sample for which it has a limit.
fn run_hbal(folder: &Folder, samples: &[(Sample, Option<u64>)]) -> Result<Vec<Option<Hbal>>, Box<dyn Error>> {
    let mut waiting = VecDeque::new();
    for (at, (sample, limit)) in samples.iter().enumerate() {
        if let Some(limit) = limit {
            waiting.push_back((at, folder.write(sample)?, *limit));
        }
    }
    // The longest first, so that the processors end at about the same time.
    waiting
        .make_contiguous()
        .sort_by_key(|(at, _, _)| (samples[*at].0.storage != Storage::Mirrored, usize::MAX - at));
    let waiting = Mutex::new(waiting);
    let results: Mutex<Vec<Option<Hbal>>> = Mutex::new((0..samples.len()).map(|_| None).collect());
    let problem: Mutex<Option<String>> = Mutex::new(None);
    let work = || {
        loop {
            let Some((at, path, limit)) = waiting.lock().ok().and_then(|mut waiting| waiting.pop_front())
            else {
                return;
            };
            let result = referee::hbal(&path, limit).map_err(|error| error.to_string());
            eprintln!("hbal {}: {}", crate::name(&path), result.as_ref().map_or("failed".to_owned(), said));
            match (result, results.lock(), problem.lock()) {
                (Ok(hbal), Ok(mut results), _) => results[at] = Some(hbal),
                (Err(error), _, Ok(mut problem)) => *problem = Some(error),
                (Ok(_), Err(_), _) | (Err(_), _, Err(_)) => return,
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    match problem.into_inner()? {
        Some(problem) => Err(problem.into()),
        None => Ok(results.into_inner().map_err(|_| "a thread of hbal's failed")?),
    }
}

fn said(hbal: &Hbal) -> String {
    let end = hbal.end.as_ref().map_or("ended at its limit".to_owned(), |end| format!("{:.6}", end.score));
    format!("{end} in {:.1} s", hbal.cost.cpu)
}

/// Our plan; hinfo must find the score that we say.
fn planned(
    folder: &Folder,
    path: &Path,
    hinfo: bool,
    wrong: &mut Vec<String>,
) -> Result<Ours, Box<dyn Error>> {
    let after = folder.0.join("after.data");
    let ours = ours::plan(path, &after)?;
    if hinfo {
        let verdict = referee::hinfo(&after)?;
        if (verdict.score - ours.score).abs() > SAME {
            wrong.push(format!("{}: hinfo says {}, and we {}", crate::name(path), verdict.score, ours.score));
        }
        if verdict.unsafe_instances > 0.0 {
            wrong.push(format!("{}: n1_cnt is {}", crate::name(path), verdict.unsafe_instances));
        }
    }
    Ok(ours)
}

/// hbal's search done again, for clusters on which that can be waited for.
fn reference(sample: &Sample, path: &Path) -> Result<Option<Greedy>, Box<dyn Error>> {
    if ALONE.iter().any(|(hosts, _)| *hosts == sample.hosts) {
        return Ok(None);
    }
    let cluster = Cluster::parse(&std::fs::read_to_string(path)?)?;
    let descent = greedy::descend(&cluster);
    let copies = placement::copies(&cluster, &descent.seats);
    Ok(Some(Greedy { score: descent.score, copies }))
}

impl Case {
    fn name(&self) -> String {
        crate::name(&self.path)
    }

    fn hbal_end(&self) -> Option<&referee::End> {
        self.hbal.as_ref()?.end.as_ref()
    }

    fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.ours.violations > 0 {
            wrong.push(format!("{}: our plan leaves {} violations", self.name(), self.ours.violations));
        }
        if let Some(greedy) = &self.greedy {
            if let Some(end) = self.hbal_end().filter(|end| (end.score - greedy.score).abs() > SAME) {
                wrong.push(format!(
                    "{}: hbal ends with {}, done again with {}",
                    self.name(),
                    end.score,
                    greedy.score
                ));
            }
            if self.ours.score > greedy.score + SAME {
                wrong.push(format!("{}: {} is above hbal's {}", self.name(), self.ours.score, greedy.score));
            }
        }
        wrong
    }

    /// Score, moves, copies, processor time, memory: hbal's, as far as it came.
    fn hbal_cells(&self) -> [String; 5] {
        let none = || "–".to_owned();
        let score = match (self.hbal_end(), &self.greedy) {
            (Some(end), _) => format!("{:.4}", end.score),
            (None, Some(greedy)) => format!("({:.4})", greedy.score),
            (None, None) => none(),
        };
        let copies = match (self.hbal_end(), &self.greedy) {
            (Some(end), _) => end.copies.to_string(),
            (None, Some(greedy)) => format!("({})", greedy.copies),
            (None, None) => none(),
        };
        let moves = self.hbal_end().map_or(none(), |end| end.moves.to_string());
        let more = if self.hbal_end().is_some() { "" } else { "> " };
        let cost = |of: &dyn Fn(&Cost) -> String| {
            self.hbal.as_ref().map_or(none(), |hbal| format!("{more}{}", of(&hbal.cost)))
        };
        [score, moves, copies, cost(&|cost| table::seconds(cost.cpu)), cost(&|cost| megabytes(cost))]
    }
}

fn megabytes(cost: &Cost) -> String {
    format!("{:.0}", cost.memory as f64 / 1e6)
}

/// A row for each size and kind of storage.
fn one_by_one(cases: &[Case]) -> Table {
    let mut table = Table::new(&[
        "hosts/guests",
        "score before",
        "hbal: score",
        "moves",
        "disk copies",
        "CPU s",
        "MB",
        "ours: score",
        "violations",
        "moves",
        "disk copies",
        "CPU s",
        "wall s",
        "MB",
        "CPU, hbal's / ours",
    ]);
    for case in cases {
        let alone = ALONE.iter().any(|(hosts, _)| *hosts == case.sample.hosts);
        if !alone && (case.sample.profile != Profile::Skew || case.sample.seed != 1) {
            continue;
        }
        let ours = &case.ours;
        let Sample { hosts, guests, storage, .. } = case.sample;
        let mut row = vec![format!("{hosts}/{guests} {}", kind(storage)), format!("{:.2}", ours.before)];
        row.extend(case.hbal_cells());
        row.extend([format!("{:.4}", ours.score), ours.violations.to_string()]);
        row.extend([ours.moves.to_string(), ours.copies.to_string()]);
        row.extend(table::cost(&ours.cost));
        let more = if case.hbal_end().is_some() { "" } else { "> " };
        let ratio = case.hbal.as_ref().map(|hbal| hbal.cost.cpu / ours.cost.cpu);
        row.push(ratio.map_or("–".to_owned(), |ratio| format!("{more}{ratio:.0}")));
        table.row(row);
    }
    table
}

/// A row for each size and kind of storage over all profiles and seeds.
fn all_together(cases: &[Case], wrong: &mut Vec<String>) -> Table {
    let mut table = Table::new(&[
        "hosts/guests",
        "clusters",
        "above hbal's score",
        "score, ours / hbal's: mean",
        "at most",
        "disk copies, hbal",
        "ours",
        "ours / hbal's: mean",
        "CPU s, ours: at most",
    ]);
    for (hosts, guests) in BESIDE_HBAL {
        for storage in [Storage::Mirrored, Storage::Shared] {
            let here = |case: &&Case| case.sample.hosts == hosts && case.sample.storage == storage;
            let both: Vec<(&Ours, &Greedy)> = cases
                .iter()
                .filter(here)
                .filter_map(|case| Some((&case.ours, case.greedy.as_ref()?)))
                .collect();
            let mean = |of: &dyn Fn(&Ours, &Greedy) -> f64| {
                both.iter().map(|(ours, greedy)| of(ours, greedy)).sum::<f64>() / both.len() as f64
            };
            let most = |of: &dyn Fn(&Ours, &Greedy) -> f64| {
                both.iter().map(|(ours, greedy)| of(ours, greedy)).fold(0.0, f64::max)
            };
            let score = |ours: &Ours, greedy: &Greedy| ours.score / greedy.score;
            // No copies beside none are as many.
            let copies =
                |ours: &Ours, greedy: &Greedy| ours.copies.max(1) as f64 / greedy.copies.max(1) as f64;
            if mean(&copies) > 1.0 {
                wrong.push(format!("{hosts}/{guests} {}: more disk copies than hbal", kind(storage)));
            }
            let above = both.iter().filter(|(ours, greedy)| ours.score > greedy.score + SAME).count();
            table.row(vec![
                format!("{hosts}/{guests} {}", kind(storage)),
                both.len().to_string(),
                above.to_string(),
                format!("{:.3}", mean(&score)),
                format!("{:.3}", most(&score)),
                both.iter().map(|(_, greedy)| greedy.copies).sum::<usize>().to_string(),
                both.iter().map(|(ours, _)| ours.copies).sum::<usize>().to_string(),
                if storage == Storage::Mirrored { format!("{:.3}", mean(&copies)) } else { "–".to_owned() },
                table::seconds(most(&|ours, _| ours.cost.cpu)),
            ]);
        }
    }
    table
}
