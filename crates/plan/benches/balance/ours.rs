//! Kennel's planner as a program of its own, so that what it takes can be counted like hbal's: it reads a file,
//! plans, writes the file that would be afterwards, and says what it did.

use std::error::Error;
use std::ffi::OsStr;
use std::path::Path;

use plan::htools::{Cluster, Order};
use plan::objective::ganeti::Ganeti;
use plan::search::{Settings, balance};

use crate::placement;
use crate::watch::{self, Cost};

/// The first argument of the process that plans.
pub const PLAN: &str = "plan";

pub struct Ours {
    pub cost: Cost,
    pub before: f64,
    pub score: f64,
    pub moves: usize,
    pub copies: usize,
    pub violations: usize,
}

/// Plans for a file in a process of its own, which writes the result to `after`.
pub fn plan(path: &Path, after: &Path) -> Result<Ours, Box<dyn Error>> {
    let program = std::env::current_exe()?;
    let arguments = [OsStr::new(PLAN), path.as_os_str(), after.as_os_str()];
    let ran = watch::run(program.as_os_str(), &arguments, None)?;
    let said = ran.output.ok_or_else(|| format!("the planner failed on {}", path.display()))?;
    let words: Vec<&str> = said.split_whitespace().collect();
    let [before, score, moves, copies, violations] = words.as_slice() else {
        return Err(format!("the planner said: {said}").into());
    };
    Ok(Ours {
        cost: ran.cost,
        before: before.parse()?,
        score: score.parse()?,
        moves: moves.parse()?,
        copies: copies.parse()?,
        violations: violations.parse()?,
    })
}

/// The process that plans: `FILE AFTER`.
pub fn plan_file(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [path, after] = arguments else { return Err("plan which file?".into()) };
    let cluster = Cluster::parse(&std::fs::read_to_string(path)?)?;
    let order = Order::new(&cluster);
    let (snapshot, facts) = (cluster.snapshot(&order), cluster.facts(&order));
    let plan = balance(&snapshot, &Ganeti::new(&facts), &Settings::default());
    let seats = order.seats(&cluster, &plan.places);
    std::fs::write(after, cluster.write(&seats))?;
    let (copies, violations) = (placement::copies(&cluster, &seats), placement::violations(&cluster, &seats));
    println!("{} {} {} {copies} {violations}", plan.score_before, plan.score_after, plan.moves.len());
    Ok(())
}
