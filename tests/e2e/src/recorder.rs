//! A guest that writes numbered records, each flushed before it is reported, and the check that none of those
//! that were reported is missing.
//!
//! The reports are read from the serial logs that QEMU writes on whatever hosts the guest ran: they tell what
//! the guest was told, also when the host is dead by now.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::lab::{LIMIT, Lab};
use crate::{BROKEN, wait};

/// The recorder's program, the guest's user-data.
pub const PROGRAM: &str = include_str!("../guests/recorder.sh");

#[derive(Debug)]
pub struct Recorder<'a> {
    lab: &'a Lab,
    pub name: String,
    id: String,
}

/// Everything that a recorder reported, on all hosts.
#[derive(Debug, Default)]
pub struct Reports {
    /// Each acknowledged record, with how often it was reported.
    pub acknowledged: BTreeMap<u64, u32>,
    /// What each start found to be the last record, in no order.
    pub found: Vec<u64>,
}

impl Reports {
    pub fn last(&self) -> u64 {
        self.acknowledged.keys().next_back().copied().unwrap_or(0)
    }
}

impl<'a> Recorder<'a> {
    /// Creates the guest with `extra` words for `kennel guest create`, and waits until it records.
    pub fn start(lab: &'a Lab, name: &str, extra: &[&str]) -> Result<Recorder<'a>> {
        Self::start_with(lab, name, PROGRAM, extra)
    }

    /// As [`Recorder::start`], with a program that reports in the same words.
    pub fn start_with(lab: &'a Lab, name: &str, text: &str, extra: &[&str]) -> Result<Recorder<'a>> {
        let program = lab.folder().join(format!("{name}.sh"));
        std::fs::write(&program, text).context("write the recorder's program")?;
        let program = program.display().to_string();
        let words = ["guest", "create", name, "--image", "tiny", "--memory", "128M", "--user-data", &program];
        lab.kennel(&[&words, extra].concat())?;
        let id = lab.guest(name)?["id"].as_str().context("the guest's id")?.to_owned();
        let recorder = Recorder { lab, name: name.to_owned(), id };
        recorder.wait_for_progress()?;
        Ok(recorder)
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    fn logs(&self) -> Vec<PathBuf> {
        let hosts = std::fs::read_dir(self.lab.folder().join("hosts"));
        let folders = hosts.into_iter().flatten().flatten().map(|entry| entry.path());
        let guests = folders.map(|host| host.join("state/guests").join(&self.id));
        guests.flat_map(|guest| [guest.join("serial.log.1"), guest.join("serial.log")]).collect()
    }

    /// All that the guest has printed, host by host.
    pub fn printed(&self) -> impl Iterator<Item = String> {
        let texts = self.logs().into_iter().filter_map(|log| std::fs::read(log).ok());
        texts.map(|text| String::from_utf8_lossy(&text).into_owned())
    }

    pub fn reports(&self) -> Reports {
        let mut reports = Reports::default();
        for text in self.printed() {
            for line in text.split('\n').filter(|line| line.ends_with('\r')).map(str::trim) {
                // The shell's prompt may stand before it on the same line.
                let number = |word: &str| line.split_once(word)?.1.parse().ok();
                if let Some(n) = number("ACK ") {
                    *reports.acknowledged.entry(n).or_default() += 1;
                } else if let Some(n) = number("RECORDER found ") {
                    reports.found.push(n);
                }
            }
        }
        reports
    }

    /// Waits until more is acknowledged than now.
    pub fn wait_for_progress(&self) -> Result<u64> {
        let before = self.reports().last();
        wait(&format!("{} to acknowledge more than {before}", self.name), LIMIT, || {
            let last = self.reports().last();
            Ok((last > before).then_some(last))
        })
    }

    /// Waits until at least so many more are acknowledged.
    pub fn wait_for_more(&self, count: u64) -> Result<u64> {
        let goal = self.reports().last() + count;
        wait(&format!("{} to acknowledge {goal}", self.name), LIMIT, || {
            let last = self.reports().last();
            Ok((last >= goal).then_some(last))
        })
    }

    /// Every acknowledged record is there, and none was acknowledged twice.
    ///
    /// A record that was lost would be written, and acknowledged, a second time by the run after; so would one
    /// that two machines wrote. Restarting the guest once more makes it read the whole row from its disk.
    pub fn verify(&self) -> Result<u64> {
        let before = self.reports();
        let starts = before.found.len();
        self.lab.kennel(&["guest", "restart", &self.name])?;
        wait("the recorder to read its disk", LIMIT, || {
            Ok((self.reports().found.len() > starts).then_some(()))
        })?;
        self.wait_for_progress()?;
        let reports = self.reports();
        let twice: Vec<&u64> =
            reports.acknowledged.iter().filter(|(_, times)| **times > 1).map(|(n, _)| n).collect();
        ensure!(twice.is_empty(), "{BROKEN}: {}: records acknowledged twice: {twice:?}", self.name);
        let acknowledged: BTreeSet<u64> = reports.acknowledged.keys().copied().collect();
        let found = reports.found.iter().max().copied().unwrap_or(0);
        let last_before = before.last();
        ensure!(
            found >= last_before,
            "{BROKEN}: {}: record {last_before} was acknowledged, and the disk ends with {found}",
            self.name
        );
        // A record that was written and not yet reported when its machine died is there without a report.
        let silent = (1..=reports.last()).filter(|n| !acknowledged.contains(n)).count();
        // And a report is cut in two by a guest that goes on on another host in the middle of it.
        let cut = self.lab.events("guest-moved", &format!("guest/{}", self.name))?.len();
        ensure!(
            silent < reports.found.len() * 2 + cut,
            "{BROKEN}: {}: {silent} records were never reported",
            self.name
        );
        Ok(last_before)
    }
}
