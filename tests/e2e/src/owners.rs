//! Looks from outside, at the machine's processes, for two machines of one guest at the same epoch; or, where that is
//! promised, for two at whatever epochs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::BROKEN;

/// A QEMU takes longer than this to start.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A process, told from another of the same number by when it started.
type Process = (i32, u64);

/// Every machine that was seen, by guest and epoch.
type Seen = BTreeMap<(String, u64), BTreeSet<Process>>;

/// Watches in a thread of its own until it is asked.
#[derive(Debug)]
pub struct OwnerWatch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Watched>>,
}

#[derive(Debug, Default)]
struct Watched {
    seen: Seen,
    /// Two that were there at once, at one epoch.
    doubled: Vec<String>,
}

impl OwnerWatch {
    /// Watches the machines of these guests.
    pub fn start(guest_ids: &[&str]) -> OwnerWatch {
        Self::start_with(guest_ids, false)
    }

    /// As [`OwnerWatch::start`]: an old owner's machine is to be gone before the next owner's is there. That is promised
    /// for a host that lives, and not for guests that are sent to another one.
    pub fn start_strictly(guest_ids: &[&str]) -> OwnerWatch {
        Self::start_with(guest_ids, true)
    }

    fn start_with(guest_ids: &[&str], one_at_a_time: bool) -> OwnerWatch {
        let ids: BTreeSet<String> = guest_ids.iter().map(|id| (*id).to_owned()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut watched = Watched::default();
            while !asked.load(Ordering::Relaxed) {
                look(&ids, one_at_a_time, &mut watched);
                std::thread::sleep(LOOK_EVERY);
            }
            watched
        });
        OwnerWatch { stop, thread: Some(thread) }
    }

    /// At no moment did two machines hold one guest at the same epoch; and every guest was seen at all.
    pub fn verify(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let watched = thread.join().map_err(|_| anyhow::anyhow!("the watch of the owners broke off"))?;
        ensure!(watched.doubled.is_empty(), "{BROKEN}: two machines at one epoch: {:?}", watched.doubled);
        ensure!(!watched.seen.is_empty(), "no machine was seen: the watch looks at the wrong place");
        Ok(())
    }
}

impl Drop for OwnerWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn look(ids: &BTreeSet<String>, one_at_a_time: bool, watched: &mut Watched) {
    let mut now: Seen = BTreeMap::new();
    for (pid, folder) in crate::processes() {
        if let Some((id, epoch, started)) = machine(&folder, ids) {
            now.entry((id, epoch)).or_default().insert((pid, started));
        }
    }
    for (id, epochs) in ids.iter().map(|id| (id, now.keys().filter(|(guest, _)| guest == id).count())) {
        if one_at_a_time && epochs > 1 {
            watched.doubled.push(format!("guest {id} at {epochs} epochs at once"));
        }
    }
    for ((id, epoch), processes) in now {
        if processes.len() > 1 {
            watched.doubled.push(format!("guest {id} at epoch {epoch}: {processes:?}"));
        }
        watched.seen.entry((id, epoch)).or_default().extend(processes);
    }
}

/// Guest, epoch and start time of a process, if it is a machine of one of these guests.
fn machine(process: &Path, ids: &BTreeSet<String>) -> Option<(String, u64, u64)> {
    let arguments = std::fs::read(process.join("cmdline")).ok()?;
    let arguments: Vec<&str> =
        arguments.split(|b| *b == 0).filter_map(|a| std::str::from_utf8(a).ok()).collect();
    if !arguments.first()?.ends_with("qemu-system-x86_64") {
        return None;
    }
    let at = arguments.iter().position(|argument| *argument == "-uuid")?;
    let id = ids.get(*arguments.get(at + 1)?)?.clone();
    let label = process.join("root/run/kennel/guests").join(&id).join("label.json");
    let label: serde_json::Value = serde_json::from_slice(&std::fs::read(label).ok()?).ok()?;
    let epoch = label.get("label")?.get("epoch")?.as_u64()?;
    let stat = std::fs::read_to_string(process.join("stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    // A dead process that nobody has reaped yet holds nothing.
    let mut fields = rest.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    let started = fields.nth(18)?.parse().ok()?;
    Some((id, epoch, started))
}
