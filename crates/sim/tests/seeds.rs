//! A small fixed share of what `make sim` does, and what makes it worth anything: runs repeat, found bugs stay found,
//! mutants are found, schedules shrink.

use std::path::Path;

use sim::{Mutant, Schedule, Sums, run, shrink};

/// A few seconds' worth on a slow machine.
const SEEDS: u64 = 120;

#[test]
fn no_seed_breaks_anything() {
    let mut sums = Sums::default();
    for seed in 0..SEEDS {
        let ran = run(&Schedule::of(seed), None, false);
        sums.add(&ran.sums);
        if let Some(broken) = ran.broken {
            panic!(
                "seed {seed} breaks '{}': {}\nits log: cargo run -p sim -- replay --seed {seed}\nless of it: cargo run \
                 -p sim -- shrink --seed {seed}",
                broken.invariant, broken.what
            );
        }
    }
    println!("{} faults", sums.fault_count());
    assert!(sums.recoveries > 0 && sums.powers_taken > 0 && sums.resets > 0, "nothing was proven: {sums:?}");
}

#[test]
fn the_same_seed_makes_the_same_run() {
    for seed in [1, 2, 4] {
        let schedule = Schedule::of(seed);
        let (first, second) = (run(&schedule, None, true), run(&schedule, None, true));
        assert!(first == second, "seed {seed}: two runs differ");
        assert!(!first.log.is_empty());
        // The log changes nothing.
        assert_eq!(run(&schedule, None, false).digest, first.digest);
    }
}

#[test]
fn found_bugs_stay_mended() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let entries = std::fs::read_dir(&folder).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        let schedule: Schedule = std::fs::read_to_string(path.join("schedule.txt")).unwrap().parse().unwrap();
        let ran = run(&schedule, None, false);
        assert_eq!(ran.broken, None, "{}", path.display());
    }
}

#[test]
fn a_guest_that_is_started_without_a_proof_is_found() {
    let found = (0..200).map(Schedule::of).filter(|schedule| schedule.shared).find_map(|schedule| {
        run(&schedule, Some(Mutant::StartWithoutProof), false).broken.filter(|b| b.invariant == "one writer")
    });
    assert!(found.is_some());
}

#[test]
fn a_mutant_is_found_and_its_schedule_made_small() {
    let found = (0..200).find_map(|seed| {
        let schedule = Schedule::of(seed);
        let broken = run(&schedule, Some(Mutant::NoWithdraw), false).broken?;
        Some((schedule, broken))
    });
    let (schedule, broken) = found.expect("the mutant is found");
    let small = shrink(&schedule, Some(Mutant::NoWithdraw), broken.invariant);
    assert!(small.items.len() < schedule.items.len() / 2, "{small}");
    let again = run(&small, Some(Mutant::NoWithdraw), false).broken.expect("it still breaks");
    assert_eq!(again.invariant, broken.invariant);
}
