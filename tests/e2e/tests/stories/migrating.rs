//! A pet moves while it runs, and nobody notices: on a lab of three hosts, also when something dies at any phase of
//! it. After each story every acknowledged record is there, one host owns the guest, and both replicas are in sync.

use std::time::Duration;

use e2e::lab::LIMIT;
use e2e::moves::Move;
use e2e::owners::OwnerWatch;
use e2e::recorder::Recorder;
use e2e::wait;

use crate::story::{HOSTS, Story};

/// Small, so that it is filled quickly.
const DISK: &[&str] = &["--disk", "256M"];

/// How long a phase of a move is waited for. One that a death before it kept from coming is struck late.
const PHASE_WITHIN: Duration = Duration::from_secs(20);

/// A moment of a move, told by what a daemon says.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// The other host makes a machine for it.
    Receiving,
    /// Its memory begins to be sent.
    Sending,
    /// Some of its memory is there.
    Halfway,
    /// It stands still, and the change of owner is written.
    SwitchingOver,
    /// The other host owns it, and the rest of it is on its way.
    HandedOver,
    /// It is there, and has not run there yet.
    Arriving,
    /// It runs there.
    Arrived,
}

impl Phase {
    const ALL: [Phase; 7] = [
        Phase::Receiving,
        Phase::Sending,
        Phase::Halfway,
        Phase::SwitchingOver,
        Phase::HandedOver,
        Phase::Arriving,
        Phase::Arrived,
    ];

    /// Who says it, the source or the target, and how.
    fn words(self) -> (bool, &'static str) {
        match self {
            Phase::Receiving => (false, "step=Receive"),
            Phase::Sending | Phase::Halfway => (true, "step=Send"),
            Phase::SwitchingOver => (true, "step=HandOver"),
            Phase::HandedOver => (true, "handed over"),
            Phase::Arriving => (false, "step=Arrive"),
            Phase::Arrived => (false, "arrived guest"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    SourceAgent,
    TargetAgent,
    Leader,
    SourceHost,
    TargetHost,
}

impl Story {
    /// Moves the guest to its secondary's host, and strikes when it is that far.
    fn strike(&self, recorder: &Recorder<'_>, phase: Phase, victim: Victim) {
        let lab = &self.lab;
        let (source, target) = lab.places("web1").unwrap();
        let (by_source, words) = phase.words();
        let teller = if by_source { &source } else { &target };
        let skip = lab.log_of(teller).len();
        let struck = match victim {
            Victim::SourceAgent | Victim::SourceHost => source.clone(),
            Victim::TargetAgent | Victim::TargetHost => target.clone(),
            Victim::Leader => lab.leader().unwrap(),
        };
        let power = matches!(victim, Victim::SourceHost | Victim::TargetHost);
        let moved = Move::start(lab, "web1", &["--to", &target, "--bandwidth", "24M"]).unwrap();
        assert!(
            lab.wait_for_words(teller, skip, words, PHASE_WITHIN).unwrap(),
            "{phase:?} was not reached: {:?}",
            moved.look()
        );
        if matches!(phase, Phase::Halfway) {
            // Half of its memory, at that bandwidth.
            std::thread::sleep(Duration::from_millis(1200));
        }
        if power {
            lab.lab(&["power-off", &struck]).unwrap();
        } else {
            lab.lab(&["kill", &struck, "kenneld"]).unwrap();
        }
        let ended = moved.wait_for_end().unwrap();
        recorder.wait_for_more(3).unwrap();
        if power {
            lab.lab(&["power-on", &struck]).unwrap();
        }
        lab.wait_for_hosts_online(HOSTS as usize).unwrap();
        let guest = lab.wait_for_sync("web1").unwrap();
        assert!(
            guest["assignment"]["handover"].is_null(),
            "{phase:?}, {victim:?}: a handover is left behind"
        );
        recorder.wait_for_more(3).unwrap();
        let host = guest["host"].as_str().unwrap();
        eprintln!(
            "{phase:?}, {victim:?}: {} and it runs on {host}, which it left from {source}",
            ended["state"]
        );
        // Where a daemon alone has died the guest arrives, or stays; it need not be started anew.
        let epoch = guest["assignment"]["epoch"].as_u64().unwrap();
        assert!(epoch > 0, "{guest}");
    }

    fn strike_all(&self, victims: &[Victim]) {
        let recorder = self.recorder(DISK);
        let watch = OwnerWatch::start(&[recorder.id()]);
        for victim in victims {
            for phase in Phase::ALL {
                self.strike(&recorder, phase, *victim);
            }
            self.verify(&recorder);
        }
        self.end(watch);
    }
}

#[test]
fn a_guest_moves_there_and_back_with_its_connections_open() {
    let story = Story::begin("e2e-live");
    let (lab, recorder) = (&story.lab, story.recorder(DISK));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let (owner, secondary) = lab.places("web1").unwrap();
    let serve = "busybox nc -l -p 7 -e cat </dev/null >/dev/null 2>&1 &";
    lab.kennel(&["guest", "exec", "web1", "--", "sh", "-c", serve]).unwrap();
    let address = lab.guest("web1").unwrap()["spec"]["nics"][0]["address"].as_str().unwrap().to_owned();
    let address = address.split('/').next().unwrap().to_owned();
    let probe = lab.beside_guests("probe", &[&format!("{address}:7"), "25"]).unwrap();
    let fills = lab.events("volume-syncing", "guest/web1").unwrap();
    let starts = recorder.reports().found.len();
    for (to, then) in [(&secondary, &owner), (&owner, &secondary)] {
        recorder.wait_for_more(5).unwrap();
        let moved = Move::start(lab, "web1", &["--to", to]).unwrap();
        assert_eq!(moved.wait_for_end().unwrap()["state"], "done");
        recorder.wait_for_more(5).unwrap();
        assert_eq!(lab.places("web1").unwrap(), (to.clone(), then.clone()));
    }
    assert_eq!(recorder.reports().found.len(), starts, "it was started nowhere");
    assert_eq!(lab.events("volume-syncing", "guest/web1").unwrap(), fills, "nothing was copied");
    assert!(lab.events("volume-alone", "guest/web1").unwrap().is_empty(), "it was mirrored all the time");
    let told = lab.events("guest-moved", "guest/web1").unwrap();
    assert_eq!(told.iter().filter(|event| event.contains("it stood still for")).count(), 2, "{told:?}");
    eprintln!("{}", told.join("\n"));
    let output = probe.wait_with_output().unwrap();
    eprintln!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    story.verify(&recorder);
    story.end(watch);
}

#[test]
fn a_guest_that_is_too_quick_stays_and_one_that_is_cancelled_too() {
    let story = Story::begin("e2e-stays");
    let (lab, recorder) = (&story.lab, story.recorder(DISK));
    let watch = OwnerWatch::start(&[recorder.id()]);
    let (owner, secondary) = lab.places("web1").unwrap();
    let starts = recorder.reports().found.len();
    // Somebody thinks better of it while its memory is sent.
    let moved = Move::start(lab, "web1", &["--to", &secondary, "--bandwidth", "2M"]).unwrap();
    moved.wait_for_note("left").unwrap();
    lab.kennel(&["job", "cancel", moved.id()]).unwrap();
    assert_eq!(moved.wait_for_end().unwrap()["state"], "cancelled");
    recorder.wait_for_more(5).unwrap();
    // Its memory changes faster than it is sent.
    let busy = "mount -t tmpfs -o size=48m none /mnt; \
                (while :; do dd if=/dev/urandom of=/mnt/x bs=1M count=24 2>/dev/null; done) \
                </dev/null >/dev/null 2>&1 &";
    lab.kennel(&["guest", "exec", "web1", "--", "sh", "-c", busy]).unwrap();
    let words = ["--to", &secondary, "--bandwidth", "4M", "--max-downtime", "20"];
    let moved = Move::start(lab, "web1", &words).unwrap();
    moved.wait_for_note("changed").unwrap();
    wait("the owner to give up, or somebody to lose patience", LIMIT * 3, || {
        Ok(moved.has_ended()?.then_some(()))
    })
    .unwrap();
    let job = moved.look().unwrap();
    assert_eq!(job["state"], "failed", "{job}");
    let why = job["report"]["error"].as_str().unwrap();
    assert!(why.contains("/s of its memory") && why.contains("--auto-converge"), "{why}");
    assert_eq!(lab.places("web1").unwrap(), (owner.clone(), secondary.clone()));
    recorder.wait_for_more(5).unwrap();
    assert_eq!(recorder.reports().found.len(), starts, "it runs on as if nothing had been");
    // With leave to let it run there before its memory is, where the kernel lets the guests' user do that.
    let moved = Move::start(lab, "web1", &["--to", &secondary, "--post-copy"]).unwrap();
    let job = moved.wait_for_end().unwrap();
    if job["state"] == "done" {
        assert_eq!(lab.places("web1").unwrap(), (secondary, owner));
    } else {
        let why = job["report"]["error"].as_str().unwrap();
        assert!(why.contains("Postcopy is not supported"), "{why}");
    }
    recorder.wait_for_more(5).unwrap();
    story.verify(&recorder);
    story.end(watch);
}

#[test]
fn a_daemon_dies_at_each_phase() {
    let story = Story::begin("e2e-phase-agents");
    story.strike_all(&[Victim::SourceAgent, Victim::TargetAgent, Victim::Leader]);
}

#[test]
fn a_host_loses_power_at_each_phase() {
    let story = Story::begin("e2e-phase-hosts");
    story.strike_all(&[Victim::SourceHost, Victim::TargetHost]);
}
