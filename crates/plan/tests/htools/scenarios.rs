//! Scenarios with Ganeti's score: a folder with a story, a cluster and the plan that is expected.
//!
//! `story.md` tells it in a few sentences, then lists what is run (`run:` and options, as `kennel plan balance` has
//! them) and, below each, what must come out whatever the search finds (`expect:`). `expected.txt` is the whole
//! answer; `BLESS=1 cargo test -p plan --test htools` writes it anew.
//!
//! `KENNEL_SCENARIOS=FOLDER` plays the folders in there instead: so the published cases are played where their files
//! are at hand.
//!
//! `score <=` is what hbal 3.0.2 ends with on the same file.
//!
//! Most of them have the shape of Ganeti's own published cases (tag v3.0.2, test/data/htools and hbal's shell
//! tests), with figures of our own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use plan::htools::{Cluster, METRICS, Order, Seat};
use plan::objective::ganeti::{Ganeti, Options};
use plan::search::{self, Balance};
use plan::snapshot::Snapshot;

fn folders() -> Vec<PathBuf> {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let root = std::env::var_os("KENNEL_SCENARIOS").map_or(ours, PathBuf::from);
    let entries = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.join("cluster.data").is_file()).collect();
    folders.sort();
    folders
}

/// Options, and what they must lead to.
struct Run {
    words: Vec<String>,
    expectations: Vec<String>,
}

fn runs(story: &str) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for line in story.lines() {
        if let Some(options) = line.strip_prefix("run:") {
            let words = options.split_whitespace().map(str::to_owned).collect();
            runs.push(Run { words, expectations: Vec::new() });
        } else if let Some(expectation) = line.strip_prefix("expect:") {
            runs.last_mut().unwrap().expectations.push(expectation.trim().to_owned());
        }
    }
    runs
}

/// What came out of a run.
struct Outcome {
    cluster: Cluster,
    order: Order,
    snapshot: Snapshot,
    balance: Balance,
    seats: Vec<Seat>,
    group: Option<usize>,
    warnings: Vec<String>,
    score: f64,
    metrics: bool,
}

fn play(text: &str, words: &[String]) -> Result<Outcome, String> {
    let mut cluster = Cluster::parse(text).map_err(|damage| damage.to_string())?;
    let mut options = Options::default();
    let mut metrics = false;
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "--ignore-dynu" => cluster.ignore_loads(),
            "--ignore-soft-errors" => options.ignore_soft_errors = true,
            "--evac-mode" => options.evacuate = true,
            "--restricted-migration" => options.restricted_migration = true,
            "--no-disk-moves" => options.disk_moves = false,
            "--no-instance-moves" => options.guest_moves = false,
            "--metrics" => metrics = true,
            "--exclusion-tags" => cluster.more_exclusion.push(format!("{}:", words.next().unwrap())),
            "--group" => options.group = cluster.find_group(words.next().unwrap()),
            "--offline" => assert!(cluster.set_offline(words.next().unwrap())),
            other => panic!("the story says {other}"),
        }
    }
    let order = Order::new(&cluster);
    let (snapshot, facts) = (cluster.snapshot(&order), cluster.facts(&order));
    let group = options.group;
    let objective = Ganeti { facts: &facts, options };
    let balance = search::balance(&snapshot, &objective, &search::Settings::default());
    let seats = order.seats(&cluster, &balance.places);
    let mut warnings = cluster.warnings();
    warnings.extend(cluster.spindle_violations(&seats));
    let score = cluster.metrics(&seats, group).score();
    Ok(Outcome { cluster, order, snapshot, balance, seats, group, warnings, score, metrics })
}

impl Outcome {
    fn name(&self, node: usize) -> &str {
        &self.cluster.nodes[node].name
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for warning in &self.warnings {
            let _ = writeln!(text, "! {warning}");
        }
        let before = self.cluster.metrics(&self.cluster.seats(), self.group);
        let after = self.cluster.metrics(&self.seats, self.group);
        let _ = writeln!(text, "score {:.8} => {:.8}", before.score(), after.score());
        for scored in &self.balance.moves {
            let step = scored.step;
            let seat = |place: plan::snapshot::Place| {
                let name = |host: plan::snapshot::HostIx| self.snapshot.host(host).name.clone();
                place
                    .secondary
                    .map_or(name(place.host), |other| format!("{}:{}", name(place.host), name(other)))
            };
            let guest = &self.snapshot.guest(step.guest).name;
            let words = step.ganeti_words(&self.snapshot);
            let _ = writeln!(
                text,
                "{guest} {} => {} {:.8} {words}",
                seat(step.from),
                seat(step.to),
                scored.score_after
            );
        }
        if self.metrics {
            for (metric, (before, after)) in METRICS.iter().zip(before.0.iter().zip(after.0)) {
                let _ = writeln!(text, "{} {before:.8} => {after:.8}", metric.name);
            }
        }
        text
    }

    /// Primaries on a node.
    fn count(&self, name: &str) -> usize {
        self.seats.iter().filter(|seat| self.name(seat.primary) == name).count()
    }

    fn moved(&self) -> BTreeSet<&str> {
        let moves = self.balance.moves.iter();
        moves.map(|scored| self.snapshot.guest(scored.step.guest).name.as_str()).collect()
    }

    fn seat(&self, guest: &str) -> Seat {
        let at = self.cluster.instances.iter().position(|instance| instance.name == guest).unwrap();
        self.seats[at]
    }

    /// Disks that are copied, between the first and the last placement.
    fn copies(&self) -> usize {
        let copies = |(before, after): (&Seat, &Seat)| {
            let had = [Some(before.primary), before.secondary];
            [Some(after.primary), after.secondary]
                .into_iter()
                .filter(|node| node.is_some() && !had.contains(node))
                .count()
        };
        self.cluster.seats().iter().zip(&self.seats).map(copies).sum()
    }

    fn line(&self, node: usize) -> Option<&str> {
        self.cluster.nodes[node].tags.iter().find_map(|tag| tag.strip_prefix("line:"))
    }

    /// What an `expect:` line says.
    fn holds(&self, expectation: &str) -> bool {
        let words: Vec<&str> = expectation.split_whitespace().collect();
        match words.as_slice() {
            ["moves", ">=", least] => self.balance.moves.len() >= least.parse().unwrap(),
            ["moves", count] => self.balance.moves.len() == count.parse::<usize>().unwrap(),
            ["copies", count] => self.copies() == count.parse::<usize>().unwrap(),
            ["score", score] => format!("{:.8}", self.score) == *score,
            ["score", "<=", most] => self.score <= most.parse::<f64>().unwrap() + 1e-8,
            ["primaries", nodes, counts] => {
                let found: Vec<String> = nodes.split('/').map(|node| self.count(node).to_string()).collect();
                found.join("/") == *counts
            }
            ["empty", node] => {
                let node = self.cluster.find_node(node).unwrap();
                self.seats.iter().all(|seat| seat.primary != node && seat.secondary != Some(node))
            }
            ["only", guests @ ..] => self.moved().iter().all(|guest| guests.contains(guest)),
            ["stays", prefix] => !self.moved().iter().any(|guest| guest.starts_with(prefix)),
            ["apart", one, other] => self.seat(one).primary != self.seat(other).primary,
            ["across", "line"] => {
                let spans = |seat: &Seat| {
                    seat.secondary.is_some_and(|other| self.line(other) != self.line(seat.primary))
                };
                self.seats.iter().all(spans)
            }
            ["chains", "0"] => {
                let chain = |words: String| words.starts_with("f r:") && words.ends_with(" f");
                !self.balance.moves.iter().any(|scored| chain(scored.step.ganeti_words(&self.snapshot)))
            }
            ["warned", word] => self.warnings.iter().any(|warning| warning.contains(word)),
            other => panic!("the story expects {other:?}"),
        }
    }
}

#[test]
fn stories_end_as_they_are_told() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = Vec::new();
    for folder in folders() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap_or_default();
        let data = read("cluster.data");
        let mut log = String::new();
        for run in runs(&read("story.md")) {
            let _ = writeln!(log, "run: {}", run.words.join(" "));
            match play(&data, &run.words) {
                Ok(outcome) => {
                    log += &outcome.text();
                    let failed = run.expectations.iter().filter(|expected| !outcome.holds(expected));
                    wrong.extend(
                        failed.map(|expected| format!("{name}, run {:?}: not '{expected}'", run.words)),
                    );
                    assert_same_score(&name, &outcome);
                }
                Err(damage) => {
                    let _ = writeln!(log, "refused: {damage}");
                    if run.expectations != ["refused"] {
                        wrong.push(format!("{name}: refused, {damage}"));
                    }
                }
            }
        }
        if bless {
            std::fs::write(folder.join("expected.txt"), &log).unwrap();
        } else if log != read("expected.txt") {
            wrong.push(format!("{name}: another answer (BLESS=1 accepts it):\n{log}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the search says of its last move is what the file that is written afterwards scores from scratch.
fn assert_same_score(name: &str, outcome: &Outcome) {
    let mut written = Cluster::parse(&outcome.cluster.write(&outcome.seats)).unwrap();
    let loads: BTreeMap<&str, _> =
        outcome.cluster.instances.iter().map(|i| (i.name.as_str(), i.load)).collect();
    written.more_exclusion.clone_from(&outcome.cluster.more_exclusion);
    for instance in &mut written.instances {
        instance.load = loads[instance.name.as_str()];
    }
    for (node, was) in written.nodes.iter_mut().zip(&outcome.cluster.nodes) {
        node.role = was.role;
    }
    let from_scratch = written.metrics(&written.seats(), outcome.group).score();
    assert!((from_scratch - outcome.score).abs() < 1e-9, "{name}: {from_scratch} and {}", outcome.score);
    let one_group = outcome.cluster.groups.len() == 1 || outcome.group.is_some();
    if let Some(last) = outcome.balance.moves.last().filter(|_| one_group) {
        let said = last.score_after;
        assert!(
            (said - outcome.score).abs() < 1e-6,
            "{name}: the search says {said}, it is {}",
            outcome.score
        );
    }
    let places: Vec<_> = outcome.snapshot.guests.iter().map(|guest| guest.place).collect();
    assert_eq!(outcome.order.seats(&outcome.cluster, &places), outcome.cluster.seats(), "{name}");
}
