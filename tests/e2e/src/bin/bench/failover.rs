//! Losses of a guest's host, one after the other: how long the guest is away, and which part takes how long.
//!
//! The plug is pulled from outside, and from outside it is seen when the guest acknowledges a record again that it had
//! not acknowledged before. What lies between is read from the incident that the cluster itself has written:
//!
//! ```text
//!   plug ──detect──▶ session over ──prove──▶ proof ──decide──▶ new owner in the store ──start──▶ first instruction ──▶ record
//! ```
//!
//! A mirrored guest needs no proof. One in storage that hosts share waits until its old host's BMC has seen the power
//! go off. All hosts of a lab have one clock.

use std::time::Duration;

use anyhow::{Context, Result};
use e2e::lab::{LIMIT, Lab};
use e2e::recorder::Recorder;
use e2e::shared::{POOL, add_bmc, make_pool};
use e2e::wait;
use jiff::Timestamp;
use serde_json::Value;

const HOSTS: u32 = 3;
const RUNS_DEFAULT: usize = 20;

/// Records between two losses.
const RECORDS: u64 = 30;

/// Between two looks at the guest's log.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// One loss, milliseconds.
#[derive(Debug, Clone, Copy)]
struct Run {
    detect: u64,
    prove: Option<u64>,
    decide: u64,
    start: u64,
    /// From the plug to the first instruction.
    runs: u64,
    /// From the plug to the first new record.
    record: u64,
}

pub fn run() -> Result<()> {
    let runs = match std::env::var("RUNS") {
        Ok(text) if !text.is_empty() => text.parse().context("RUNS is not a number")?,
        Ok(_) | Err(_) => RUNS_DEFAULT,
    };
    let lab = Lab::up("bench-failover", HOSTS)?;
    println!("Mirrored:\n");
    losses(&lab, "web1", &[], runs)?;
    lab.kennel(&["guest", "delete", "web1", "--yes"])?;
    println!("\nIn storage that the hosts share, each with a BMC (`fence_ipmilan`):\n");
    make_pool(&lab, HOSTS)?;
    for number in 1..=HOSTS {
        add_bmc(&lab, &format!("host{number}"), &[])?;
    }
    losses(&lab, "web2", &["--pool", POOL, "--disk", "256M"], runs)
}

/// A guest's host is lost again and again.
fn losses(lab: &Lab, guest: &str, words: &[&str], runs: usize) -> Result<()> {
    let recorder = Recorder::start(lab, guest, words)?;
    println!("| run | detect | prove | decide | start | first instruction | first new record |");
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut all = Vec::new();
    for number in 1..=runs {
        let run = one(lab, &recorder)?;
        row(&number.to_string(), &run);
        all.push(run);
    }
    recorder.verify()?;
    if !all.is_empty() {
        row("median", &of(&all, |times| times[(times.len() - 1) / 2]));
        row("worst", &of(&all, |times| times[times.len() - 1]));
    }
    Ok(())
}

fn row(name: &str, run: &Run) {
    let seconds = |ms: u64| format!("{}.{:02} s", ms / 1000, ms % 1000 / 10);
    println!(
        "| {name} | {} | {} | {} | {} | {} | {} |",
        seconds(run.detect),
        run.prove.map_or_else(|| "-".to_owned(), seconds),
        seconds(run.decide),
        seconds(run.start),
        seconds(run.runs),
        seconds(run.record)
    );
}

/// Each part by itself: the worst of one run need not be that of another.
fn of(runs: &[Run], pick: fn(&[u64]) -> u64) -> Run {
    let part = |part: fn(&Run) -> Option<u64>| {
        let mut times: Vec<u64> = runs.iter().filter_map(part).collect();
        times.sort_unstable();
        (!times.is_empty()).then(|| pick(&times))
    };
    Run {
        detect: part(|run| Some(run.detect)).unwrap_or(0),
        prove: part(|run| run.prove),
        decide: part(|run| Some(run.decide)).unwrap_or(0),
        start: part(|run| Some(run.start)).unwrap_or(0),
        runs: part(|run| Some(run.runs)).unwrap_or(0),
        record: part(|run| Some(run.record)).unwrap_or(0),
    }
}

fn one(lab: &Lab, recorder: &Recorder<'_>) -> Result<Run> {
    let guest = recorder.name.as_str();
    lab.wait_for_hosts_online(HOSTS as usize)?;
    let view = lab.wait_for_phase(guest, "running")?;
    if view["secondary"].is_string() {
        lab.wait_for_sync(guest)?;
    }
    wait("the last incident to end", LIMIT, || {
        let incidents = lab.json(&["incident", "list", "--open"])?;
        Ok(incidents.as_array().is_some_and(Vec::is_empty).then_some(()))
    })?;
    recorder.wait_for_more(RECORDS)?;
    let owner = lab.guest(guest)?["host"].as_str().context("the guest's host")?.to_owned();
    let pulled = Timestamp::now();
    lab.lab(&["power-off", &owner])?;
    let before = recorder.reports().last();
    while recorder.reports().last() <= before {
        anyhow::ensure!(
            since(pulled, Timestamp::now()) < LIMIT.as_millis() as u64,
            "{guest} does not come back"
        );
        std::thread::sleep(LOOK_EVERY);
    }
    let record = since(pulled, Timestamp::now());
    let run = wait("the incident to tell of the start", LIMIT, || read(lab, guest, &owner, pulled, record))?;
    lab.lab(&["power-on", &owner])?;
    Ok(run)
}

/// What the cluster has written of the loss, once it tells of the guest's start.
fn read(lab: &Lab, guest: &str, owner: &str, pulled: Timestamp, record: u64) -> Result<Option<Run>> {
    let incidents = lab.json(&["incident", "list"])?;
    let lost = |view: &&Value| {
        let began = view["incident"]["began_at"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
        view["incident"]["kind"] == "host-lost"
            && view["incident"]["subject"] == format!("host/{owner}")
            && began.is_some_and(|at| at >= pulled)
    };
    let Some(view) = incidents.as_array().context("a list")?.iter().find(lost) else { return Ok(None) };
    let guests = view["guests"].as_array().context("the incident's guests")?;
    let Some(parts) = guests.iter().find(|found| found["guest"] == guest).map(|found| &found["parts"]) else {
        return Ok(None);
    };
    let down_at = view["incident"]["guests"][guest]["down_at"].as_str().and_then(|at| at.parse().ok());
    let (Some(down_at), Some(decide), Some(start), Some(down)) =
        (down_at, parts["decide_ms"].as_u64(), parts["start_ms"].as_u64(), parts["down_ms"].as_u64())
    else {
        return Ok(None);
    };
    let detect = since(pulled, down_at);
    Ok(Some(Run { detect, prove: parts["prove_ms"].as_u64(), decide, start, runs: detect + down, record }))
}

fn since(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.duration_since(from).as_millis()).unwrap_or(0)
}
