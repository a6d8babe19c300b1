//! Ganeti's own `hinfo`, where it is installed (Debian: ganeti-htools), agrees on every metric.

use std::collections::BTreeMap;
use std::process::Command;

use plan::htools::{Cluster, METRICS};

use crate::sample::{TWO_GROUPS, wild};

/// hinfo prints eight digits.
const PRECISION: f64 = 1e-8;

fn hinfo_is_installed() -> bool {
    let installed = Command::new("hinfo").arg("--version").output().is_ok();
    if !installed {
        eprintln!("skipped: hinfo is not installed (apt install ganeti-htools)");
    }
    installed
}

/// Score and metrics as hinfo has them: of the whole cluster, the last table that it prints.
fn hinfo(text: &str) -> (f64, BTreeMap<String, f64>) {
    let folder = std::env::temp_dir().join(format!("kennel-hinfo-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("cluster.data");
    std::fs::write(&path, text).unwrap();
    let output = Command::new("hinfo").arg("-t").arg(&path).args(["-v", "-v"]).output().unwrap();
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut metrics = BTreeMap::new();
    let mut score = f64::NAN;
    for line in answer.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["Cluster", "score:", value] => score = value.parse().unwrap(),
            [name, value, weight] if weight.starts_with('x') => {
                metrics.insert((*name).to_owned(), value.parse().unwrap());
            }
            _ => {}
        }
    }
    (score, metrics)
}

#[test]
fn hinfo_has_the_same_metrics() {
    if !hinfo_is_installed() {
        return;
    }
    let clusters = std::iter::once(TWO_GROUPS.to_owned()).chain((0..40).map(wild));
    for (number, text) in clusters.enumerate() {
        let cluster = Cluster::parse(&text).unwrap();
        let ours = cluster.metrics(&cluster.seats(), None);
        let (score, theirs) = hinfo(&text);
        let mut wrong = Vec::new();
        for (metric, value) in METRICS.iter().zip(ours.0) {
            let expected = theirs.get(metric.name).copied().unwrap_or(f64::NAN);
            if (value - expected).abs() > PRECISION || expected.is_nan() {
                wrong.push(format!("{}: {value}, and hinfo has {expected}", metric.name));
            }
        }
        assert!(wrong.is_empty(), "cluster {number}: {wrong:#?}\n{text}");
        assert!((ours.score() - score).abs() < 20.0 * PRECISION, "{} and hinfo {score}", ours.score());
    }
}
