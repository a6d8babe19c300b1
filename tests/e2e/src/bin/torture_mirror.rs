//! `torture-mirror`: breaks the peers of a mirrored disk's replication at random, while its guest writes.
//!
//! First for MINUTES=10: the storage daemon of the secondary's host, its kenneld, the way between the two, its
//! network, its power. No acknowledged record may be missing, and the guest may stand still no longer than a session
//! lasts, and two seconds. Then SCHEDULES=50 short rows of such blows; after each one both copies are compared.
//! SEED makes a run repeatable, as far as a cluster is.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::dice::{Dice, number};
use e2e::lab::Lab;
use e2e::owners::OwnerWatch;
use e2e::recorder::Recorder;

const HOSTS: u32 = 3;
const GUEST: &str = "web1";
const DISK: &str = "512M";

/// How long a session outlives its host, and two seconds.
const STALL_MAX: Duration = Duration::from_secs(5 + 2);

/// How often the guest's reports are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Between two blows, and how long one lasts. Milliseconds.
const PAUSE_MS: (u64, u64) = (500, 8000);
const LASTS_MS: (u64, u64) = (200, 9000);

#[derive(Debug, Clone, Copy)]
enum Blow {
    StorageDaemonDies,
    StorageDaemonHangs,
    DaemonDies,
    CutFromEachOther,
    CutFromAll,
    PowerOff,
}

impl Blow {
    const ALL: [Blow; 6] = [
        Blow::StorageDaemonDies,
        Blow::StorageDaemonHangs,
        Blow::DaemonDies,
        Blow::CutFromEachOther,
        Blow::CutFromAll,
        Blow::PowerOff,
    ];

    /// False: what it would hit is not there this moment.
    fn strike(self, lab: &Lab, owner: &str, secondary: &str) -> Result<bool> {
        match self {
            Blow::StorageDaemonDies => Ok(lab.lab(&["kill", secondary, "qemu-storage-daemon"]).is_ok()),
            Blow::StorageDaemonHangs => Ok(lab.lab(&["freeze", secondary, "qemu-storage-daemon"]).is_ok()),
            Blow::DaemonDies => Ok(lab.lab(&["kill", secondary, "kenneld"]).is_ok()),
            Blow::CutFromEachOther => lab.lab(&["cut", owner, secondary]).map(|_| true),
            Blow::CutFromAll => lab.lab(&["cut", secondary]).map(|_| true),
            Blow::PowerOff => lab.lab(&["power-off", secondary]).map(|_| true),
        }
    }

    fn undo(self, lab: &Lab, owner: &str, secondary: &str) -> Result<()> {
        match self {
            Blow::StorageDaemonDies | Blow::DaemonDies => Ok(()),
            // Its host may have ended it meanwhile, because it did not answer.
            Blow::StorageDaemonHangs => {
                lab.lab(&["thaw", secondary, "qemu-storage-daemon"]).ok();
                Ok(())
            }
            Blow::CutFromEachOther => lab.lab(&["heal", owner, secondary]).map(drop),
            Blow::CutFromAll => lab.lab(&["heal", secondary]).map(drop),
            Blow::PowerOff => lab.lab(&["power-on", secondary]).map(drop),
        }
    }
}

/// The longest time for which the guest reported nothing.
struct StallWatch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(Duration, Duration)>>,
}

impl StallWatch {
    fn start(lab: &Lab, guest_id: &str) -> StallWatch {
        let logs: Vec<PathBuf> = (1..=HOSTS)
            .map(|n| lab.state_of(&format!("host{n}")).join("guests").join(guest_id).join("serial.log"))
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        let thread = std::thread::spawn(move || {
            let said = || logs.iter().map(|log| log.metadata().map_or(0, |m| m.len())).collect::<Vec<_>>();
            let begun = Instant::now();
            let (mut before, mut since) = (said(), begun);
            let mut stalls = Vec::new();
            while !asked.load(Ordering::Relaxed) {
                std::thread::sleep(LOOK_EVERY);
                let now = said();
                if now != before {
                    stalls.push((since.elapsed(), since.duration_since(begun)));
                    (before, since) = (now, Instant::now());
                }
            }
            stalls.push((since.elapsed(), since.duration_since(begun)));
            stalls.sort_unstable();
            stalls.reverse();
            stalls.truncate(5);
            stalls
        });
        StallWatch { stop, thread }
    }

    /// The longest ones, the longest first, each with when it began.
    fn end(self) -> Result<Vec<(Duration, Duration)>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the watch of the guest broke off"))
    }
}

/// One blow and its end.
fn strike(lab: &Lab, dice: &mut Dice, begun: Instant) -> Result<()> {
    let (owner, secondary) = lab.places(GUEST)?;
    let mut blow = dice.pick(&Blow::ALL);
    while !blow.strike(lab, &owner, &secondary)? {
        blow = dice.pick(&Blow::ALL);
    }
    println!("{:6.1} s  {blow:?} on {secondary}", begun.elapsed().as_secs_f64());
    dice.pause(LASTS_MS);
    blow.undo(lab, &owner, &secondary)
}

fn break_for(lab: &Lab, recorder: &Recorder<'_>, dice: &mut Dice, limit: Duration) -> Result<()> {
    let (watch, begun) = (StallWatch::start(lab, recorder.id()), Instant::now());
    let mut blows = 0;
    while begun.elapsed() < limit {
        strike(lab, dice, begun)?;
        blows += 1;
        if dice.roll(0, 1) == 0 {
            lab.wait_for_sync(GUEST)?;
        }
        dice.pause(PAUSE_MS);
    }
    let stalls = watch.end()?;
    lab.wait_for_hosts_online(HOSTS as usize)?;
    lab.wait_for_sync(GUEST)?;
    let records = recorder.verify()?;
    lab.wait_for_sync(GUEST)?;
    println!(
        "{blows} blows, {records} records, none lost; the longest stalls, and when they began: {stalls:?}"
    );
    let longest = stalls.first().map_or(Duration::ZERO, |(stall, _)| *stall);
    ensure!(longest <= STALL_MAX, "the guest stood still for {longest:?}, longer than {STALL_MAX:?}");
    Ok(())
}

fn run_schedules(lab: &Lab, recorder: &Recorder<'_>, dice: &mut Dice, count: u64) -> Result<()> {
    for schedule in 1..=count {
        let begun = Instant::now();
        for _ in 0..dice.roll(1, 3) {
            strike(lab, dice, begun)?;
            dice.pause((0, 2000));
        }
        lab.wait_for_hosts_online(HOSTS as usize)?;
        lab.wait_for_sync(GUEST)?;
        recorder.wait_for_more(3)?;
        lab.check_copies(GUEST).with_context(|| format!("schedule {schedule}"))?;
        lab.wait_for_sync(GUEST)?;
        println!("schedule {schedule} of {count}: both copies are the same ({:?})", begun.elapsed());
    }
    recorder.verify().map(drop)
}

fn main() -> Result<()> {
    let seed = number("SEED", std::process::id().into())?;
    let (minutes, schedules) = (number("MINUTES", 10)?, number("SCHEDULES", 50)?);
    println!("SEED={seed} MINUTES={minutes} SCHEDULES={schedules}");
    let mut dice = Dice::of(seed);
    let lab = Lab::up("torture-mirror", HOSTS)?;
    let recorder = Recorder::start(&lab, GUEST, &["--disk", DISK])?;
    lab.wait_for_sync(GUEST)?;
    let watch = OwnerWatch::start(&[recorder.id()]);
    if minutes > 0 {
        break_for(&lab, &recorder, &mut dice, Duration::from_secs(60 * minutes))?;
    }
    run_schedules(&lab, &recorder, &mut dice, schedules)?;
    watch.verify()?;
    lab.assert_no_errors(HOSTS)?;
    println!("done: nothing lost, nothing doubled, and no copy that differs");
    Ok(())
}
