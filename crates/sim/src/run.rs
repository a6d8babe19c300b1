//! Runs of seeds, and of schedules that are written down.

use std::collections::BTreeMap;

use model::FillHow;

use crate::fault::Schedule;
use crate::mutant::Mutant;
use crate::world::{Broken, Time, World};

/// What came of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    pub broken: Option<Broken>,
    pub log: Vec<String>,
    /// The same for two runs in which the same happened.
    pub digest: u64,
    pub until: Time,
    pub sums: Sums,
}

/// What happened, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    pub runs: u64,
    pub faults: BTreeMap<&'static str, u64>,
    pub wishes: u64,
    pub events: u64,
    pub writes: u64,
    pub acknowledged: u64,
    pub unknown: u64,
    pub starts: u64,
    pub promotions: u64,
    pub moves: u64,
    /// Secondaries that were begun to be filled, by what.
    pub fills: BTreeMap<FillHow, u64>,
    pub excused: u64,
    /// Guests in shared storage that another host got, with a proof.
    pub recoveries: u64,
    /// Hosts whose power their devices took, and how many of them had a session at that moment.
    pub powers_taken: u64,
    pub live_powers_taken: u64,
    /// Hosts that their watchdogs reset.
    pub resets: u64,
    /// Virtual seconds.
    pub seconds: u64,
}

impl Sums {
    pub fn add(&mut self, other: &Sums) {
        self.runs += other.runs;
        for (name, count) in &other.faults {
            *self.faults.entry(name).or_default() += count;
        }
        self.wishes += other.wishes;
        self.events += other.events;
        self.writes += other.writes;
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.starts += other.starts;
        self.promotions += other.promotions;
        self.moves += other.moves;
        for (how, count) in &other.fills {
            *self.fills.entry(*how).or_default() += count;
        }
        self.excused += other.excused;
        self.recoveries += other.recoveries;
        self.powers_taken += other.powers_taken;
        self.live_powers_taken += other.live_powers_taken;
        self.resets += other.resets;
        self.seconds += other.seconds;
    }

    pub fn fault_count(&self) -> u64 {
        self.faults.values().sum()
    }
}

/// Runs a schedule to its end, or until something is broken.
pub fn run(schedule: &Schedule, mutant: Option<Mutant>, logged: bool) -> Ran {
    play(World::new(schedule.clone(), mutant, logged))
}

/// Runs a schedule until the invariant is broken that a mutant is aimed at, whatever else it breaks before.
pub fn run_for_aim(schedule: &Schedule, mutant: Mutant) -> Ran {
    let mut world = World::new(schedule.clone(), Some(mutant), false);
    world.aim = Some(mutant.against());
    play(world)
}

fn play(mut world: World) -> Ran {
    world.run();
    let books = &world.books;
    let sums = Sums {
        runs: 1,
        faults: books.faults.clone(),
        wishes: books.wishes,
        events: books.events,
        writes: books.writes,
        acknowledged: books.acknowledged,
        unknown: books.unknown,
        starts: books.starts,
        promotions: books.promotions,
        moves: books.moves,
        fills: books.fills.clone(),
        excused: books.excused,
        recoveries: books.recoveries,
        powers_taken: books.powers_taken,
        live_powers_taken: books.live_powers_taken,
        resets: books.resets,
        seconds: world.now / crate::world::S,
    };
    Ran {
        broken: world.broken.clone(),
        log: world.log.take().unwrap_or_default(),
        digest: world.digest,
        until: world.now,
        sums,
    }
}

/// A smaller schedule that breaks the same invariant: items are left out, first many at a time, then one by one.
pub fn shrink(schedule: &Schedule, mutant: Option<Mutant>, invariant: &str) -> Schedule {
    let breaks = |smaller: &Schedule| {
        run(smaller, mutant, false).broken.is_some_and(|broken| broken.invariant == invariant)
    };
    let mut best = schedule.clone();
    let broken_at = run(&best, mutant, false).broken.map_or(Time::MAX, |broken| broken.at);
    best.items.retain(|item| item.at <= broken_at);
    if !breaks(&best) {
        best = schedule.clone();
    }
    let mut chunk = best.items.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut smaller_found = false;
        while at < best.items.len() {
            let mut smaller = best.clone();
            smaller.items.drain(at..(at + chunk).min(best.items.len()));
            if breaks(&smaller) {
                best = smaller;
                smaller_found = true;
            } else {
                at += chunk;
            }
        }
        if chunk == 1 && !smaller_found {
            return best;
        }
        chunk = if smaller_found { chunk } else { chunk.div_ceil(2) };
    }
}
