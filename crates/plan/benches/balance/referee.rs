//! Ganeti's own programs, where they are installed (Debian: ganeti-htools).

use std::error::Error;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use plan::htools::Cluster;

use crate::watch::{self, Cost};

/// What hbal did.
pub struct Hbal {
    pub cost: Cost,
    /// `None`: it was ended before it had found its plan.
    pub end: Option<End>,
}

pub struct End {
    pub score: f64,
    pub moves: usize,
    /// Disks to copy between the first placement and the last one.
    pub copies: usize,
}

pub fn are_installed() -> bool {
    ["hbal", "hinfo"].iter().all(|program| Command::new(program).arg("--version").output().is_ok())
}

/// Lets hbal plan for a file; it is ended after so many seconds of processor time.
pub fn hbal(path: &Path, limit: u64) -> Result<Hbal, Box<dyn Error>> {
    let save = path.with_extension("hbal");
    let arguments = [OsStr::new("-t"), path.as_os_str(), OsStr::new("-S"), save.as_os_str()];
    let ran = watch::run(OsStr::new("hbal"), &arguments, Some(limit))?;
    let Some(output) = ran.output else { return Ok(Hbal { cost: ran.cost, end: None }) };
    let said = |before: &str| output.lines().find_map(|line| Some(line.split_once(before)?.1.trim()));
    let improved = said("Cluster score improved from ").and_then(|scores| Some(scores.split_once(" to ")?.1));
    let score =
        improved.or(said("Initial score: ")).ok_or_else(|| format!("hbal says no score:\n{output}"))?;
    let score: f64 = score.parse()?;
    let moves = said("Solution length=").map_or(Ok(0), str::parse)?;
    let before = Cluster::parse(&std::fs::read_to_string(path)?)?;
    let after = Cluster::parse(&std::fs::read_to_string(save.with_extension("hbal.balanced"))?)?;
    let copies = crate::placement::copies(&before, &after.seats());
    Ok(Hbal { cost: ran.cost, end: Some(End { score, moves, copies }) })
}

/// What hinfo says of a file.
pub struct Verdict {
    pub score: f64,
    /// Instances on nodes that could not take over what they promise.
    pub unsafe_instances: f64,
}

pub fn hinfo(path: &Path) -> Result<Verdict, Box<dyn Error>> {
    let output = Command::new("hinfo").arg("-t").arg(path).args(["-v", "-v"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = |name: &str| {
        let value = |line: &str| line.trim().strip_prefix(name)?.split_whitespace().next()?.parse().ok();
        // Of several tables the last one is that of the whole cluster.
        text.lines().rev().find_map(value).ok_or(format!("hinfo says nothing of {name}:\n{text}"))
    };
    Ok(Verdict { score: number("Cluster score:")?, unsafe_instances: number("n1_cnt")? })
}
