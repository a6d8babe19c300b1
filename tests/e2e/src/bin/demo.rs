//! The demo: a three-host cluster on this machine, a guest whose host loses power, and what becomes of it.
//!
//! Ends with status 0 only if the guest came back and no acknowledged record is missing. The cluster stays up.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::lab::{Lab, kennel_binary};
use e2e::recorder::{Recorder, Reports};
use e2e::wait;
use jiff::Timestamp;
use serde_json::Value;

const LAB: &str = "demo";
const FOLDER: &str = "/var/lib/kennel-lab";
const GUEST: &str = "rex";
const HOSTS: u32 = 3;

/// How long the guest may take to come back before the demo gives up.
const COME_BACK: Duration = Duration::from_secs(60);
const RESYNC: Duration = Duration::from_secs(120);

/// How long it records before the plug is pulled.
const RECORDS_FIRST: u64 = 100;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            eprintln!(
                "The lab is left as it is: `kennel lab status --name {LAB}`, `kennel lab down --name {LAB}`."
            );
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let lab = Lab::existing(LAB, PathBuf::from(FOLDER));
    step("Building a cluster of three hosts on this machine (namespaces; nothing outside them is touched)");
    if lab.folder().exists() {
        show(&lab, &["lab", "down"])?;
    }
    show(&lab, &["lab", "up", "--hosts", &HOSTS.to_string()])?;
    step("Building a guest image of a few megabytes from Debian's busybox and cloud kernel");
    show(&lab, &["image", "build", "tiny"])?;
    step("Creating a guest whose disk is mirrored to a second host; it writes numbered, fsynced records");
    let recorder = Recorder::start(&lab, GUEST, &[])?;
    lab.wait_for_sync(GUEST)?;
    show(&lab, &["guest", "list"])?;
    show(&lab, &["volume", "list"])?;
    recorder.wait_for_more(RECORDS_FIRST)?;

    let (owner, secondary) = lab.places(GUEST)?;
    let outage = pull_the_plug(&lab, &recorder, &owner, &secondary)?;

    step(&format!("Giving {owner} its power back, and waiting until both disks are the same again"));
    let begin = Instant::now();
    show(&lab, &["lab", "power-on", &owner])?;
    wait("both replicas to be in sync again", RESYNC, || {
        let guest = lab.guest(GUEST)?;
        let volumes = guest["volumes"].as_array().context("volumes")?;
        Ok(volumes.iter().all(|volume| volume["phase"] == "in-sync").then_some(()))
    })?;
    let resync = begin.elapsed();
    show(&lab, &["volume", "list"])?;
    outage.print(resync);
    look_around(&lab)?;
    ensure!(outage.lost == 0, "{} acknowledged records are missing", outage.lost);
    Ok(())
}

fn step(text: &str) {
    println!("\n== {text}");
}

/// Runs a command as an operator would, and shows it.
fn show(lab: &Lab, words: &[&str]) -> Result<()> {
    println!("$ kennel {}", words.join(" "));
    let status = lab.command()?.args(words).status().context("run kennel")?;
    ensure!(status.success(), "`kennel {}` failed", words.join(" "));
    Ok(())
}

/// What was measured, each from the moment the plug was pulled.
struct Outage {
    detected: Duration,
    decided: Duration,
    started: Duration,
    answered: Duration,
    acknowledged: u64,
    lost: u64,
}

fn pull_the_plug(lab: &Lab, recorder: &Recorder<'_>, owner: &str, secondary: &str) -> Result<Outage> {
    step(&format!("Pulling the plug of {owner}, on which {GUEST} runs"));
    let starts = recorder.reports().found.len();
    let pulled_at = Timestamp::now();
    let pulled = Instant::now();
    lab.lab(&["power-off", owner])?;
    say(pulled, &format!("{owner} is dead: every process on it is gone"));
    let before = recorder.reports().last();
    say(pulled, &format!("the last record that {GUEST} was told is safe: {before}"));
    let stop = AtomicBool::new(false);
    let (teller, answer) = std::thread::scope(|scope| {
        let telling = scope.spawn(|| Teller::new(pulled, pulled_at).run(lab, &stop));
        let answer = first_answer(recorder, pulled, starts, secondary);
        stop.store(true, Ordering::Relaxed);
        let teller = telling.join().map_err(|_| anyhow::anyhow!("the telling broke off"))??;
        anyhow::Ok((teller, answer?))
    })?;
    let (answered, found) = answer;
    let since = |kind: &str| teller.at(kind).with_context(|| format!("no event tells of {kind}"));
    Ok(Outage {
        detected: since("host-lost")?,
        decided: since("guest-promoted")?,
        started: since("guest-started")?,
        answered,
        acknowledged: recorder.reports().last(),
        lost: before.saturating_sub(found),
    })
}

/// When the guest answered from another host, and the last record that it found there. Returns when it
/// writes again.
fn first_answer(
    recorder: &Recorder<'_>,
    pulled: Instant,
    starts: usize,
    secondary: &str,
) -> Result<(Duration, u64)> {
    let found = wait("the guest to answer from another host", COME_BACK, || {
        Ok(newly_found(&recorder.reports(), starts))
    })?;
    let answered = pulled.elapsed();
    say(pulled, &format!("{GUEST} answers from {secondary}: the last record on its disk there is {found}"));
    let after = recorder.wait_for_more(1)?;
    say(pulled, &format!("{GUEST} writes again: record {after} is safe"));
    Ok((answered, found))
}

/// What the newest start found, once there has been one more start than before.
fn newly_found(reports: &Reports, starts: usize) -> Option<u64> {
    (reports.found.len() > starts).then(|| reports.found.iter().max().copied()).flatten()
}

fn say(pulled: Instant, text: &str) {
    println!("  {:>5.1} s  {text}", pulled.elapsed().as_secs_f64());
}

/// Tells the cluster's events in plain words as they come, and something each second in between.
struct Teller {
    pulled: Instant,
    pulled_at: Timestamp,
    /// Id, kind and time of each event that was told.
    told: Vec<(String, String, Duration)>,
    last_words: Instant,
}

impl Teller {
    fn new(pulled: Instant, pulled_at: Timestamp) -> Teller {
        Teller { pulled, pulled_at, told: Vec::new(), last_words: Instant::now() }
    }

    /// Tells until it is stopped and has heard of the guest's start.
    fn run(mut self, lab: &Lab, stop: &AtomicBool) -> Result<Teller> {
        wait("the events to arrive", COME_BACK * 2, || {
            self.tell(lab)?;
            Ok((stop.load(Ordering::Relaxed) && self.at("guest-started").is_some()).then_some(()))
        })?;
        Ok(self)
    }

    fn tell(&mut self, lab: &Lab) -> Result<()> {
        let events = lab.json(&["events"])?;
        for event in events.as_array().context("a list of events")? {
            let Some((id, kind, at, message)) = read(event) else { continue };
            if at < self.pulled_at || self.told.iter().any(|(told, ..)| *told == id) {
                continue;
            }
            let after = Duration::try_from(at.duration_since(self.pulled_at)).unwrap_or_default();
            println!("  {:>5.1} s  {message}", after.as_secs_f64());
            self.told.push((id, kind, after));
            self.last_words = Instant::now();
        }
        if self.last_words.elapsed() >= Duration::from_secs(1) {
            let waits = match (self.at("host-lost"), self.at("guest-started")) {
                (None, _) => "nobody has missed it yet: a session lasts 5 s beyond the last sign of life",
                (Some(_), None) => "the guest is being started",
                (Some(_), Some(_)) => "the guest boots",
            };
            say(self.pulled, waits);
            self.last_words = Instant::now();
        }
        Ok(())
    }

    /// When the first event of a kind happened.
    fn at(&self, kind: &str) -> Option<Duration> {
        self.told.iter().find(|(_, told, _)| told == kind).map(|(_, _, after)| *after)
    }
}

fn read(event: &Value) -> Option<(String, String, Timestamp, String)> {
    let text = |key: &str| event[key].as_str().map(str::to_owned);
    Some((text("id")?, text("kind")?, text("at")?.parse().ok()?, text("message")?))
}

impl Outage {
    fn print(&self, resync: Duration) {
        step("What was measured, from the moment the plug was pulled");
        let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
        let rows = [
            ("the host is known to be lost", seconds(self.detected)),
            ("its guest has a new owner", seconds(self.decided)),
            ("the guest's first instruction there", seconds(self.started)),
            ("the guest's first answer", seconds(self.answered)),
            ("from power-on to both disks in sync", seconds(resync)),
            ("records acknowledged", self.acknowledged.to_string()),
            ("acknowledged records lost", self.lost.to_string()),
        ];
        for (what, value) in rows {
            println!("  {what:<38} {value:>8}");
        }
    }
}

fn look_around(lab: &Lab) -> Result<()> {
    let kennel = kennel_binary()?;
    step("The cluster is still up. Look around:");
    println!("  export KENNEL_CONFIG={}", lab.client_config().display());
    println!("  export KENNEL_LAB_NAME={LAB} PATH=$PATH:{}", kennel.parent().context("a folder")?.display());
    println!("  kennel cluster status");
    println!("  kennel guest console {GUEST}      # ctrl-] detaches");
    println!("  kennel events --follow");
    println!("  kennel lab power-off host2     # try it yourself");
    println!("Take it down:");
    println!("  kennel lab down");
    // So that nobody wonders whether the words above work.
    let works = Command::new(kennel).arg("--version").output().context("run kennel")?;
    ensure!(works.status.success(), "`kennel --version` failed");
    Ok(())
}
