//! What a mirror costs a guest that writes, what the daemons take when nothing happens, and how long a key's echo takes.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::lab::{LIMIT, Lab};
use e2e::recorder::Recorder;
use e2e::wait;

use crate::console;

const GUESTS: u32 = 20;
const HOSTS: u32 = 3;

/// After the last guest has booted: what starts late has started.
const SETTLE: Duration = Duration::from_secs(20);

/// How long a resting cluster is watched.
const REST: Duration = Duration::from_secs(60);

/// How long each recorder is watched.
const RECORD: Duration = Duration::from_secs(20);

/// The kernel counts processor time in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;

pub fn run() -> Result<()> {
    let lab = Lab::up("bench", HOSTS)?;
    println!("| what | measured |");
    println!("| --- | --- |");
    recording(&lab)?;
    resting(&lab)?;
    console::rows(&lab, "rest1", "host1", "host2")
}

fn row(what: &str, value: &str) {
    println!("| {what} | {value} |");
}

/// How many flushed records a guest writes in a second, mirrored and on one host, one after the other.
fn recording(lab: &Lab) -> Result<()> {
    let mut rates = Vec::new();
    for (name, pool) in [("bench-local", "local"), ("bench-mirror", "mirror"), ("bench-again", "local")] {
        let recorder = Recorder::start(lab, name, &["--pool", pool])?;
        recorder.wait_for_more(50)?;
        let (begin, first) = (Instant::now(), recorder.reports().last());
        std::thread::sleep(RECORD);
        let rate = (recorder.reports().last() - first) as f64 / begin.elapsed().as_secs_f64();
        row(&format!("flushed records a second, pool {pool}"), &format!("{rate:.0}"));
        rates.push(rate);
        lab.kennel(&["guest", "delete", name, "--yes"])?;
    }
    let local = (rates[0] + rates[2]) / 2.0;
    row(
        "mirrored, as a share of local (mean of the run before and after)",
        &format!("{:.2}", rates[1] / local),
    );
    Ok(())
}

/// What the daemons take when nothing happens.
fn resting(lab: &Lab) -> Result<()> {
    for n in 1..=GUESTS {
        let name = format!("rest{n}");
        lab.kennel(&["guest", "create", &name, "--image", "tiny", "--memory", "128M", "--host", "host1"])?;
    }
    wait("all guests to be in sync", LIMIT, || {
        let volumes = lab.json(&["volume", "list"])?;
        let volumes = volumes.as_array().context("a list")?;
        Ok((volumes.len() == GUESTS as usize && volumes.iter().all(|v| v["phase"] == "in-sync"))
            .then_some(()))
    })?;
    std::thread::sleep(SETTLE);
    let revision = || -> Result<u64> {
        lab.json(&["cluster", "status"])?["revision"].as_u64().context("the store's revision")
    };
    let daemons = daemons(lab)?;
    let (begin, before) = (Instant::now(), revision()?);
    let used: Vec<f64> = daemons.iter().map(|(_, pid)| processor_seconds(*pid)).collect::<Result<_>>()?;
    std::thread::sleep(REST);
    let elapsed = begin.elapsed().as_secs_f64();
    for ((host, pid), before) in daemons.iter().zip(used) {
        let share = (processor_seconds(*pid)? - before) / elapsed * 100.0;
        let role =
            if host == "host1" { format!("owns {GUESTS} guests") } else { "holds secondaries".to_owned() };
        row(&format!("kenneld at rest, {host} ({role}): share of a core"), &format!("{share:.2} %"));
        row(&format!("kenneld at rest, {host}: resident memory"), &format!("{:.1} MB", resident_mb(*pid)?));
    }
    row(
        &format!("changes in the store in {} s of rest", REST.as_secs()),
        &(revision()? - before).to_string(),
    );
    Ok(())
}

fn daemons(lab: &Lab) -> Result<Vec<(String, u64)>> {
    let status: serde_json::Value = serde_json::from_str(&lab.lab(&["status", "--json"])?)?;
    let hosts = status["hosts"].as_array().context("the lab's hosts")?;
    let daemons: Vec<(String, u64)> = hosts
        .iter()
        .filter_map(|host| Some((host["name"].as_str()?.to_owned(), host["kenneld_pid"].as_u64()?)))
        .collect();
    ensure!(daemons.len() == HOSTS as usize, "not every host has its kenneld");
    Ok(daemons)
}

fn processor_seconds(pid: u64) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(Path::new(&path)).with_context(|| format!("read {path}"))?;
    let (_, rest) = stat.rsplit_once(')').context("a process's fields")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).context("a number of ticks");
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

fn resident_mb(pid: u64) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("read a process's status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("its resident memory")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").trim().parse().context("a number")?;
    Ok(kib / 1024.0)
}
