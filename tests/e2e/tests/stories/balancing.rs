//! A cluster spreads its load by itself, and empties a host when it is told to: nine guests on a lab of three hosts,
//! of which the three busy ones all begin on one host. From outside it is watched that the rules hold at every
//! moment; and no record may be missing in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::lab::{LIMIT, Lab};
use e2e::owners::OwnerWatch;
use e2e::recorder::{PROGRAM, Recorder};
use e2e::{BROKEN, wait};

const HOSTS: u32 = 3;
const BUSY: [&str; 3] = ["busy1", "busy2", "busy3"];
const IDLE: [&str; 6] = ["idle1", "idle2", "idle3", "idle4", "idle5", "idle6"];

/// Guests that must not share a host: the first of each is on the host that all busy guests begin on.
const APART: [[&str; 2]; 2] = [["busy1", "idle2"], ["idle1", "idle3"]];

/// What a busy guest rests between two records: it takes about half a core under emulation, so that the machine
/// of the test is not full.
const BUSY_RESTS_S: &str = "0.05";

/// An idle one's rest.
const IDLE_RESTS_S: &str = "3";

/// Spreading takes a window to be measured, some rounds, and two moves, one after the other.
const SPREAD_LIMIT: Duration = Duration::from_secs(400);

/// Between two looks at where guests are: no move is made within this time.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Where each guest is: its host and its secondary's.
type Places = BTreeMap<String, (String, String)>;

fn places(lab: &Lab) -> Result<Places> {
    let guests = lab.json(&["guest", "list"])?;
    let place = |guest: &serde_json::Value| {
        let of = |key: &str| guest[key].as_str().unwrap_or_default().to_owned();
        (of("name"), (of("host"), of("secondary")))
    };
    Ok(guests.as_array().context("a list")?.iter().map(place).collect())
}

/// Looks all the time where guests are, until it is asked.
struct RuleWatch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<(u32, Vec<String>)>>,
}

impl RuleWatch {
    fn start(lab: &Lab) -> RuleWatch {
        let folder = lab.folder().parent().unwrap().to_owned();
        let lab = Lab::existing(&lab.name, folder);
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut looks, mut broken) = (0, Vec::new());
            while !asked.load(Ordering::Relaxed) {
                std::thread::sleep(LOOK_EVERY);
                // A host that is asked may be too busy to answer; the next look comes soon.
                let Ok(places) = places(&lab) else { continue };
                looks += 1;
                for [a, b] in APART {
                    let host = |guest: &str| places.get(guest).map(|place| place.0.clone());
                    if host(a) == host(b) {
                        broken.push(format!("{a} and {b} are both on {:?}", host(a)));
                    }
                }
            }
            (looks, broken)
        });
        RuleWatch { stop, thread: Some(thread) }
    }

    /// The rules held at every look, and there were enough of them.
    fn verify(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let (looks, broken) =
            thread.join().map_err(|_| anyhow::anyhow!("the watch of the rules broke off"))?;
        ensure!(broken.is_empty(), "{BROKEN}: rules were broken: {broken:?}");
        ensure!(looks > 20, "there were {looks} looks only");
        Ok(())
    }
}

impl Drop for RuleWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn recorder<'a>(lab: &'a Lab, name: &str, host: &str, rests_s: &str) -> Recorder<'a> {
    let told = "    echo \"ACK $n\"\n";
    assert!(PROGRAM.contains(told), "the recorder's program is another one");
    let program = PROGRAM.replace(told, &format!("{told}    sleep {rests_s}\n"));
    Recorder::start_with(lab, name, &program, &["--host", host]).unwrap()
}

/// Nine recorders: all busy ones and two idle ones on host1, the others on host2 and host3.
fn nine(lab: &Lab) -> Vec<Recorder<'_>> {
    let busy = BUSY.iter().map(|name| recorder(lab, name, "host1", BUSY_RESTS_S));
    let hosts = ["host1", "host2", "host3"];
    let idle = IDLE.iter().zip(hosts.iter().cycle());
    let recorders: Vec<_> =
        busy.chain(idle.map(|(name, host)| recorder(lab, name, host, IDLE_RESTS_S))).collect();
    for recorder in &recorders {
        lab.wait_for_sync(&recorder.name).unwrap();
    }
    recorders
}

fn keep_apart(lab: &Lab) {
    for (n, pair) in APART.iter().enumerate() {
        let (name, guests) = (format!("apart{n}"), pair.join(","));
        lab.kennel(&["rule", "create", &name, "--kind", "apart", "--guests", &guests]).unwrap();
    }
}

fn hosts_of_busy(lab: &Lab) -> Result<BTreeSet<String>> {
    let places = places(lab)?;
    Ok(BUSY.iter().map(|guest| places[*guest].0.clone()).collect())
}

/// Jobs of a kind that have ended, and how.
fn ended(lab: &Lab, kind: &str) -> Result<Vec<String>> {
    let jobs = lab.json(&["job", "list"])?;
    let jobs =
        jobs.as_array().context("a list")?.iter().filter(|job| job["spec"]["kind"].get(kind).is_some());
    let states = jobs.filter_map(|job| job["state"].as_str().map(str::to_owned));
    Ok(states.filter(|state| state != "running" && state != "waiting").collect())
}

#[test]
fn busy_guests_spread_by_themselves_and_a_host_is_emptied() {
    let lab = Lab::up("e2e-balance", HOSTS).unwrap();
    lab.kennel(&["cluster", "set", "--balance", "off", "--usage-window", "20"]).unwrap();
    let recorders = nine(&lab);
    let before = places(&lab).unwrap();
    assert!(BUSY.iter().all(|guest| before[*guest].0 == "host1"), "{before:?}");
    keep_apart(&lab);
    let rules = RuleWatch::start(&lab);
    let ids: Vec<&str> = recorders.iter().map(Recorder::id).collect();
    let owners = OwnerWatch::start(&ids);

    lab.kennel(&["cluster", "set", "--balance", "automatic"]).unwrap();
    wait("each host to have one busy guest", SPREAD_LIMIT, || {
        let hosts = hosts_of_busy(&lab)?;
        Ok((hosts.len() == BUSY.len()).then_some(()))
    })
    .unwrap();
    wait("the balance to come to its end", LIMIT, || {
        let ended = ended(&lab, "balance")?;
        Ok((!ended.is_empty()).then_some(()))
    })
    .unwrap();
    for recorder in &recorders {
        lab.wait_for_sync(&recorder.name).unwrap();
    }

    lab.kennel(&["host", "drain", "host3"]).unwrap();
    let after = places(&lab).unwrap();
    let still = after.iter().filter(|(_, (host, secondary))| host == "host3" || secondary == "host3");
    assert_eq!(still.count(), 0, "{after:?}");
    let files = std::fs::read_dir(lab.state_of("host3").join("volumes")).unwrap();
    assert_eq!(files.flatten().count(), 0, "host3 has replicas left");
    // Whatever the load says, nothing comes back to a host that is drained.
    for recorder in &recorders {
        lab.wait_for_sync(&recorder.name).unwrap();
    }
    recorders[0].wait_for_more(200).unwrap();
    let later = places(&lab).unwrap();
    assert!(later.values().all(|(host, secondary)| host != "host3" && secondary != "host3"), "{later:?}");

    rules.verify().unwrap();
    lab.kennel(&["cluster", "set", "--balance", "off"]).unwrap();
    lab.kennel(&["host", "resume", "host3"]).unwrap();
    // All guests moved while they ran; this is their first start since they were made.
    for recorder in &recorders {
        assert_eq!(recorder.reports().found.len(), 1, "{} was started anew", recorder.name);
    }
    std::thread::scope(|scope| {
        for recorder in &recorders {
            scope.spawn(move || recorder.verify().unwrap());
        }
    });
    owners.verify().unwrap();
    lab.assert_no_errors(HOSTS).unwrap();
}
