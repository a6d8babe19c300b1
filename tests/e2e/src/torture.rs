//! A lab under random real faults, and the outside checks that nothing was lost and nothing doubled.
//!
//! Kennel promises to bear any single failure. So one big blow falls at a time, and the next one only when all guests
//! run and are in sync again. With some of them comes a small one, elsewhere: the death of a program that is started
//! again. No row of these loses a majority of the store for longer than that program takes to come back.
//!
//! All choices come from one seed. When things happen depends on the machine, so a run can be made again as far as a
//! cluster can.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::dice::Dice;
use crate::lab::Lab;
use crate::owners::OwnerWatch;
use crate::recorder::{PROGRAM, Recorder};

pub const HOSTS: u32 = 3;

/// For each host, in memory. All volumes fit on two of them.
pub const VOLUME_DISK: &str = "1200M";

const DISK: &str = "128M";

/// After the last fault everything is to be back within this time.
const BACK_WITHIN: Duration = Duration::from_secs(60);

/// Between two blows, and how long one lasts. Milliseconds.
const PAUSE_MS: (u64, u64) = (0, 3000);
const LASTS_MS: (u64, u64) = (300, 12_000);

/// One fault on one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    PowerOff,
    Cut,
    /// From one of the others.
    CutLink,
    Pause,
    FillDisk,
    KillMachines,
    FreezeDaemon,
    FreezeStorageDaemon,
    KillDaemon,
    KillStorageDaemon,
    KillStore,
    KillWatchdog,
}

impl Blow {
    const ALL: [Blow; 12] = [
        Blow::PowerOff,
        Blow::Cut,
        Blow::CutLink,
        Blow::Pause,
        Blow::FillDisk,
        Blow::KillMachines,
        Blow::FreezeDaemon,
        Blow::FreezeStorageDaemon,
        Blow::KillDaemon,
        Blow::KillStorageDaemon,
        Blow::KillStore,
        Blow::KillWatchdog,
    ];

    /// What may come on top of another one.
    const SMALL: [Blow; 3] = [Blow::KillDaemon, Blow::KillStore, Blow::KillWatchdog];

    /// The words for `kennel lab` that begin it, and those that end it, if it does not end by itself.
    fn words(self, host: &str, other: &str) -> (Vec<String>, Option<Vec<String>>) {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let lasts = |begin: &[&str], end: &[&str]| (words(begin), Some(words(end)));
        let (daemon, storage) = ("kenneld", "qemu-storage-daemon");
        match self {
            Blow::PowerOff => lasts(&["power-off", host], &["power-on", host]),
            Blow::Cut => lasts(&["cut", host], &["heal", host]),
            Blow::CutLink => lasts(&["cut", host, other], &["heal", host, other]),
            Blow::Pause => lasts(&["pause", host], &["resume", host]),
            Blow::FillDisk => lasts(&["fill-disk", host, "--leave", "1M"], &["empty-disk", host]),
            Blow::FreezeDaemon => lasts(&["freeze", host, daemon], &["thaw", host, daemon]),
            Blow::FreezeStorageDaemon => lasts(&["freeze", host, storage], &["thaw", host, storage]),
            Blow::KillMachines => (words(&["kill", host, "qemu-system-x86_64"]), None),
            Blow::KillDaemon => (words(&["kill", host, daemon]), None),
            Blow::KillStorageDaemon => (words(&["kill", host, storage]), None),
            Blow::KillStore => (words(&["kill", host, "etcd"]), None),
            Blow::KillWatchdog => (words(&["kill", host, "kennel-watchdog"]), None),
        }
    }

    /// A program that is frozen may be ended by its host, because it does not answer; then there is nothing to thaw.
    fn may_end_early(self) -> bool {
        matches!(self, Blow::FreezeDaemon | Blow::FreezeStorageDaemon)
    }
}

/// The guests of a lab that is being tortured.
#[derive(Debug)]
pub struct Torture<'a> {
    lab: &'a Lab,
    recorders: Vec<Recorder<'a>>,
    watch: OwnerWatch,
    dice: Dice,
    begun: Instant,
    blows: u32,
}

/// The usual recorder takes all the processor that it can get. Several of them are to leave some to the hosts.
fn patient_program() -> Result<String> {
    let (report, reads) = ("    echo \"ACK $n\"\n", "count=2048");
    ensure!(PROGRAM.contains(report) && PROGRAM.contains(reads), "the recorder's program has changed");
    let patient = PROGRAM.replace(report, &format!("{report}    sleep 0.2\n"));
    Ok(patient.replace(reads, "count=256"))
}

impl<'a> Torture<'a> {
    /// So many mirrored guests that record, half of them on thin disks.
    pub fn begin(lab: &'a Lab, guests: u32, seed: u64) -> Result<Torture<'a>> {
        let program = patient_program()?;
        let thin = format!("{DISK},thin");
        let mut recorders = Vec::new();
        for n in 1..=guests {
            let disk = if n % 2 == 0 { thin.as_str() } else { DISK };
            recorders.push(Recorder::start_with(lab, &format!("pet{n}"), &program, &["--disk", disk])?);
        }
        for recorder in &recorders {
            lab.wait_for_sync(&recorder.name)?;
        }
        let ids: Vec<&str> = recorders.iter().map(Recorder::id).collect();
        let watch = OwnerWatch::start(&ids);
        Ok(Torture { lab, watch, recorders, dice: Dice::of(seed), begun: Instant::now(), blows: 0 })
    }

    /// Strikes for so long, and a moment more.
    pub fn strike_for(&mut self, length: Duration) -> Result<()> {
        while self.begun.elapsed() < length {
            self.strike()?;
            let undone = Instant::now();
            self.settle()?;
            let took = undone.elapsed();
            self.say(&format!("all in sync again after {:.1} s", took.as_secs_f64()));
            ensure!(
                took <= BACK_WITHIN,
                "it took {took:?} until everything was back, longer than {BACK_WITHIN:?}"
            );
            self.dice.pause(PAUSE_MS);
        }
        Ok(())
    }

    /// One blow and its end; sometimes with a small one in between.
    fn strike(&mut self) -> Result<()> {
        let (host, other) = self.hosts();
        let blow = loop {
            let blow = self.dice.pick(&Blow::ALL);
            // What it would hit may not be there this moment: no machine, no replica that is served.
            if self.tell(&blow.words(&host, &other).0).is_ok() {
                break blow;
            }
        };
        self.blows += 1;
        self.say(&blow.words(&host, &other).0.join(" "));
        let small = (self.dice.roll(0, 2) == 0).then(|| self.dice.pick(&Blow::SMALL));
        self.dice.pause(LASTS_MS);
        if let Some(small) = small
            && self.tell(&small.words(&other, &host).0).is_ok()
        {
            self.blows += 1;
            self.say(&format!("  and {}", small.words(&other, &host).0.join(" ")));
            self.dice.pause((0, LASTS_MS.1 / 2));
        }
        if let Some(words) = blow.words(&host, &other).1 {
            let done = self.tell(&words);
            self.say(&format!("  {}", words.join(" ")));
            if !blow.may_end_early() {
                done?;
            }
        }
        Ok(())
    }

    /// Two different ones.
    fn hosts(&mut self) -> (String, String) {
        let first = self.dice.roll(0, u64::from(HOSTS) - 1);
        let second = (first + self.dice.roll(1, u64::from(HOSTS) - 1)) % u64::from(HOSTS);
        (format!("host{}", first + 1), format!("host{}", second + 1))
    }

    fn tell(&self, words: &[String]) -> Result<()> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.lab.lab(&words).map(drop)
    }

    fn say(&self, what: &str) {
        println!("{:7.1} s  {what}", self.begun.elapsed().as_secs_f64());
    }

    /// Every host is online, every guest runs, records, and is in sync.
    fn settle(&self) -> Result<()> {
        self.lab.wait_for_hosts_online(HOSTS as usize)?;
        for recorder in &self.recorders {
            self.lab.wait_for_sync(&recorder.name)?;
        }
        for recorder in &self.recorders {
            recorder.wait_for_progress()?;
        }
        Ok(())
    }

    /// The end: no record is missing, none was written twice, and no guest had two machines at one epoch.
    pub fn verify(self) -> Result<()> {
        let mut records = 0;
        for recorder in &self.recorders {
            records += recorder.verify()?;
        }
        let Torture { lab, watch, blows, .. } = self;
        watch.verify()?;
        lab.assert_no_errors(HOSTS)?;
        println!("{blows} blows, {records} records: none lost, none doubled");
        Ok(())
    }
}
