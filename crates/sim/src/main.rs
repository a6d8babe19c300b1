//! The simulation's command: many seeds, one seed with its log, a schedule from a file, the mutants; and a made-up
//! cluster behind the real API.

#[cfg(feature = "serve")]
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use sim::{Mutant, Schedule, Sums, run, run_for_aim, shrink};

/// A cluster in one process, struck by faults that a seed draws.
#[derive(Debug, Parser)]
#[command(name = "sim", version)]
struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Run many seeds, and stop at the first that breaks an invariant.
    Seeds {
        /// The first seed.
        #[arg(long, default_value_t = 0)]
        from: u64,
        #[arg(long, default_value_t = 1000)]
        count: u64,
        #[arg(long, default_value_t = 1)]
        threads: u64,
        #[arg(long)]
        mutant: Option<Mutant>,
        /// Go on after a broken one, and list them.
        #[arg(long)]
        all: bool,
    },
    /// Run one seed, or a schedule from a file, and print its log.
    Replay {
        #[arg(long, conflicts_with = "schedule")]
        seed: Option<u64>,
        #[arg(long)]
        schedule: Option<PathBuf>,
        #[arg(long)]
        mutant: Option<Mutant>,
        /// Only the end of the log: so many lines.
        #[arg(long)]
        tail: Option<usize>,
    },
    /// Print what happens to a seed's cluster, and when, in microseconds; `replay --schedule` reads it.
    Schedule {
        #[arg(long)]
        seed: u64,
    },
    /// Look for a smaller schedule that breaks the same invariant, and print it.
    Shrink {
        #[arg(long)]
        seed: u64,
        #[arg(long)]
        mutant: Option<Mutant>,
    },
    /// Let every mutant be found, and print the table of docs/simulation.md.
    Mutants {
        /// The most seeds for each.
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
        #[arg(long, default_value_t = 1)]
        threads: u64,
        /// Only these.
        mutants: Vec<Mutant>,
    },
    #[cfg(feature = "serve")]
    Serve(serve::Options),
}

fn main() -> anyhow::Result<ExitCode> {
    match Command::parse().what {
        What::Seeds { from, count, threads, mutant, all } => Ok(seeds(from, count, threads, mutant, all)),
        What::Replay { seed, schedule, mutant, tail } => replay(seed, schedule, mutant, tail),
        What::Schedule { seed } => {
            print!("{}", Schedule::of(seed));
            Ok(ExitCode::SUCCESS)
        }
        What::Shrink { seed, mutant } => Ok(print_shrunk(seed, mutant)),
        What::Mutants { seeds, threads, mutants: only } => Ok(mutants(&only, seeds, threads)),
        #[cfg(feature = "serve")]
        What::Serve(options) => serve::run(&options).map(|()| ExitCode::SUCCESS),
    }
}

fn seeds(from: u64, count: u64, threads: u64, mutant: Option<Mutant>, all: bool) -> ExitCode {
    let (next, stop) = (AtomicU64::new(from), AtomicBool::new(false));
    let sums = Mutex::new(Sums::default());
    let broken = Mutex::new(Vec::new());
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut mine = Sums::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from.saturating_add(count) || stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let ran = run(&Schedule::of(seed), mutant, false);
                    mine.add(&ran.sums);
                    if let Some(what) = ran.broken {
                        stop.store(!all, Ordering::Relaxed);
                        println!("seed {seed}: {}: {}", what.invariant, what.what);
                        broken.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(seed);
                    }
                }
                sums.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(&mine);
            });
        }
    });
    let sums = sums.into_inner().unwrap_or_default();
    let mut broken = broken.into_inner().unwrap_or_default();
    broken.sort_unstable();
    tell(&sums, began.elapsed().as_secs_f64());
    match broken.first() {
        None => ExitCode::SUCCESS,
        Some(seed) => {
            let with = mutant.map(|mutant| format!(" --mutant {mutant}")).unwrap_or_default();
            println!(
                "{} broken; see one with: cargo run --release -p sim -- replay --seed {seed}{with}",
                broken.len()
            );
            ExitCode::FAILURE
        }
    }
}

fn tell(sums: &Sums, seconds: f64) {
    let faults = sums.fault_count();
    println!(
        "{} runs, {faults} faults, {} wishes, {} events, {} virtual hours in {seconds:.1} s: {:.0} faults a second",
        sums.runs,
        sums.wishes,
        sums.events,
        sums.seconds / 3600,
        faults as f64 / seconds.max(0.001)
    );
    println!(
        "{} writes, {} acknowledged; {} starts, {} promotions, {} handovers; {} requests of unknown outcome; {} losses \
         explained by failing disks",
        sums.writes, sums.acknowledged, sums.starts, sums.promotions, sums.moves, sums.unknown, sums.excused
    );
    println!(
        "{} guests in shared storage recovered; power taken of {} hosts, {} of which had a session by then; {} resets by \
         watchdogs",
        sums.recoveries, sums.powers_taken, sums.live_powers_taken, sums.resets
    );
    let fills: Vec<String> = sums.fills.iter().map(|(how, count)| format!("{count} {how}")).collect();
    println!("secondaries filled with: {}", fills.join(", "));
    for (name, count) in &sums.faults {
        println!("| `{name}` | {count} |");
    }
}

fn replay(
    seed: Option<u64>,
    schedule: Option<PathBuf>,
    mutant: Option<Mutant>,
    tail: Option<usize>,
) -> anyhow::Result<ExitCode> {
    let schedule = match schedule {
        Some(path) => {
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            text.parse().map_err(|why: String| anyhow::anyhow!(why))?
        }
        None => Schedule::of(seed.context("name a seed with --seed, or a file with --schedule")?),
    };
    let ran = run(&schedule, mutant, true);
    let skipped = tail.map_or(0, |lines| ran.log.len().saturating_sub(lines));
    ran.log.iter().skip(skipped).for_each(|line| println!("{line}"));
    println!("digest {:016x}", ran.digest);
    Ok(if ran.broken.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_shrunk(seed: u64, mutant: Option<Mutant>) -> ExitCode {
    let schedule = Schedule::of(seed);
    let Some(broken) = run(&schedule, mutant, false).broken else {
        println!("seed {seed} breaks nothing");
        return ExitCode::FAILURE;
    };
    let small = shrink(&schedule, mutant, broken.invariant);
    println!("# {}: {}", broken.invariant, broken.what);
    print!("{small}");
    ExitCode::SUCCESS
}

fn mutants(only: &[Mutant], most: u64, threads: u64) -> ExitCode {
    println!(
        "| mutant | what it does wrong | aimed at | broken after so many seeds | anything broken after |"
    );
    println!("| --- | --- | --- | --- | --- |");
    let mut all_found = true;
    for mutant in Mutant::ALL.iter().copied().filter(|mutant| only.is_empty() || only.contains(mutant)) {
        // What breaks without the mutant as well is no merit of it.
        let sound = |schedule: &Schedule| run(schedule, None, false).broken.is_none();
        let aimed = first(most, threads, |schedule| {
            let broken = run_for_aim(schedule, mutant).broken?;
            (broken.invariant == mutant.against() && sound(schedule)).then_some(())
        });
        let any = first(most, threads, |schedule| {
            let broken = run(schedule, Some(mutant), false).broken?;
            sound(schedule).then_some(broken.invariant)
        });
        let never = || format!("not within {most}");
        let took = aimed.map_or_else(never, |(seed, ())| (seed + 1).to_string());
        let other = any.map_or_else(never, |(seed, by)| format!("{}: {by}", seed + 1));
        all_found &= any.is_some();
        println!("| `{mutant}` | {} | {} | {took} | {other} |", mutant.story(), mutant.against());
    }
    if all_found { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The first seed of which something can be said.
fn first<T: Send>(most: u64, threads: u64, say: impl Fn(&Schedule) -> Option<T> + Sync) -> Option<(u64, T)> {
    let (next, found) = (AtomicU64::new(0), Mutex::new(None::<(u64, T)>));
    let lock = || found.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= most || lock().as_ref().is_some_and(|(earlier, _)| *earlier < seed) {
                        break;
                    }
                    let Some(said) = say(&Schedule::of(seed)) else { continue };
                    let mut found = lock();
                    if found.as_ref().is_none_or(|(earlier, _)| seed < *earlier) {
                        *found = Some((seed, said));
                    }
                }
            });
        }
    });
    found.into_inner().unwrap_or_default()
}
