//! Moves of a running guest by Kennel, and of the same guest by QEMU driven by hand, one after the other.
//!
//! Somebody pings the guest every 5 ms, from the network that it is reached from. For how long nobody got an answer is
//! its downtime, as its users see it. The whole time is from the wish to the end, when the guest runs elsewhere and
//! nothing is left where it was: Kennel has then changed its owner in the store and mirrors the other way round; QEMU
//! alone has the disk in one file that both machines open, and says nothing to anybody.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use e2e::lab::Lab;
use e2e::recorder::{PROGRAM, Recorder};

use crate::plain::Plain;

const RUNS: usize = 20;
const GUEST: &str = "web1";

/// Between two pings, seconds.
const EVERY_S: &str = "0.005";

/// What is seen of the guest before and after a move.
const BEFORE: Duration = Duration::from_millis(300);
const AFTER: Duration = Duration::from_millis(1500);

/// For how long the connection is kept open in each run.
const CONNECTED_S: &str = "8";

pub fn run() -> Result<()> {
    let lab = Lab::up("bench-live", 3)?;
    let recorder = Recorder::start_with(&lab, GUEST, &program(), &["--disk", "256M"])?;
    lab.wait_for_sync(GUEST)?;
    let address = address(&lab)?;
    let by_kennel = (0..RUNS).map(|_| one_by_kennel(&lab, &address)).collect::<Result<Vec<_>>>()?;
    recorder.verify()?;
    let mut plain = Plain::take_over(&lab, GUEST)?;
    answer_again(&lab, &address)?;
    let clear =
        (0..RUNS).map(|_| one_by_hand(&lab, &mut plain, false, &address)).collect::<Result<Vec<_>>>()?;
    let encrypted =
        (0..RUNS).map(|_| one_by_hand(&lab, &mut plain, true, &address)).collect::<Result<Vec<_>>>()?;
    plain.end()?;
    println!(
        "| {RUNS} moves of a guest of 128 MB | plain QEMU | plain QEMU, encrypted | Kennel | Kennel / plain QEMU | \
         Kennel / encrypted |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    let all = [clear, encrypted, by_kennel];
    row("no answer to a ping, median", &all, |run| run.silent, median);
    row("no answer to a ping, longest", &all, |run| run.silent, longest);
    row("QEMU's own downtime, median", &all, |run| run.downtime, median);
    row("QEMU's own time for it, median", &all, |run| run.sending, median);
    row("from the wish to the end, median", &all, |run| run.whole, median);
    row("from the wish to the end, longest", &all, |run| run.whole, longest);
    Ok(())
}

/// The recorder, and beside it somebody who echoes on one connection after the other.
fn program() -> String {
    let echo = "(while :; do busybox nc -l -p 7 -e cat; done) </dev/null >/dev/null 2>&1 &";
    PROGRAM.replacen('\n', &format!("\n{echo}\n"), 1)
}

/// One move.
#[derive(Debug)]
struct Run {
    silent: Duration,
    /// By QEMU's own word.
    downtime: Duration,
    sending: Duration,
    whole: Duration,
}

type Column = fn(&Run) -> Duration;

fn row(what: &str, all: &[Vec<Run>; 3], column: Column, of: fn(Vec<Duration>) -> Duration) {
    let [clear, encrypted, kennel] = all.each_ref().map(|runs| of(runs.iter().map(column).collect()));
    let ms = |time: Duration| format!("{} ms", time.as_millis());
    println!(
        "| {what} | {} | {} | {} | {:.2} | {:.2} |",
        ms(clear),
        ms(encrypted),
        ms(kennel),
        kennel.as_secs_f64() / clear.as_secs_f64(),
        kennel.as_secs_f64() / encrypted.as_secs_f64()
    );
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    let at = times.len() / 2;
    if times.len().is_multiple_of(2) { (times[at - 1] + times[at]) / 2 } else { times[at] }
}

fn longest(times: Vec<Duration>) -> Duration {
    times.into_iter().max().unwrap_or_default()
}

fn address(lab: &Lab) -> Result<String> {
    let guest = lab.guest(GUEST)?;
    let address = guest["spec"]["nics"][0]["address"].as_str().context("the guest's address")?;
    Ok(address.split('/').next().unwrap_or(address).to_owned())
}

fn one_by_kennel(lab: &Lab, address: &str) -> Result<Run> {
    lab.wait_for_sync(GUEST)?;
    let (_, secondary) = lab.places(GUEST)?;
    let connection = lab.beside_guests("probe", &[&format!("{address}:7"), CONNECTED_S])?;
    let told = lab.events("guest-moved", &format!("guest/{GUEST}"))?.len();
    let pings = Pings::start(lab, address)?;
    std::thread::sleep(BEFORE);
    let begin = Instant::now();
    lab.kennel(&["guest", "migrate", GUEST, "--to", &secondary])?;
    let whole = begin.elapsed();
    std::thread::sleep(AFTER);
    let silent = pings.end()?;
    survived(connection)?;
    let news = lab.events("guest-moved", &format!("guest/{GUEST}"))?;
    let news = news.get(told..).unwrap_or_default();
    let words = news.iter().find(|event| event.contains("it stood still for")).context("what QEMU said")?;
    let number = |before: &str, after: &str| {
        let (_, rest) = words.split_once(before)?;
        rest.split_once(after)?.0.trim().parse::<f64>().ok()
    };
    let downtime = number("it stood still for ", " ms").context("QEMU's downtime")? / 1000.0;
    let sending = number(" in ", " s;").context("QEMU's time")?;
    let run = Run {
        silent,
        downtime: Duration::from_secs_f64(downtime),
        sending: Duration::from_secs_f64(sending),
        whole,
    };
    eprintln!("Kennel: {run:?}");
    Ok(run)
}

/// Waits until the guest answers that has just booted anew.
fn answer_again(lab: &Lab, address: &str) -> Result<()> {
    let begin = Instant::now();
    loop {
        let connection = lab.beside_guests("probe", &[&format!("{address}:7"), "0"])?.wait_with_output()?;
        if connection.status.success() {
            // The guest listens anew.
            std::thread::sleep(AFTER);
            return Ok(());
        }
        ensure!(begin.elapsed() < e2e::lab::LIMIT, "the guest that QEMU alone runs does not answer");
        std::thread::sleep(BEFORE);
    }
}

fn one_by_hand(lab: &Lab, plain: &mut Plain, encrypted: bool, address: &str) -> Result<Run> {
    let connection = lab.beside_guests("probe", &[&format!("{address}:7"), CONNECTED_S])?;
    let pings = Pings::start(lab, address)?;
    std::thread::sleep(BEFORE);
    let begin = Instant::now();
    let told = plain.migrate(encrypted)?;
    let whole = begin.elapsed();
    std::thread::sleep(AFTER);
    let silent = pings.end()?;
    survived(connection)?;
    let run = Run { silent, downtime: told.downtime, sending: told.sending, whole };
    eprintln!("plain QEMU, encrypted {encrypted}: {run:?}");
    Ok(run)
}

fn survived(connection: Child) -> Result<()> {
    let output = connection.wait_with_output().context("wait for the connection's end")?;
    ensure!(output.status.success(), "the connection broke: {}", String::from_utf8_lossy(&output.stderr));
    // The guest listens anew.
    std::thread::sleep(AFTER);
    Ok(())
}

/// Pings on their way, and when they were answered.
struct Pings {
    child: Child,
    /// Of ping itself, which is no child of this program.
    id: String,
    begin: f64,
    /// Seconds since 1970.
    answers: Arc<Mutex<Vec<f64>>>,
}

impl Pings {
    fn start(lab: &Lab, address: &str) -> Result<Pings> {
        let mut command: Command = lab.command()?;
        let ping = format!("echo $$; exec ping -n -D -i {EVERY_S} -w 60 {address}");
        command.args(["lab", "exec", "switch", "--", "sh", "-c", &ping]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("run ping")?;
        let mut lines = BufReader::new(child.stdout.take().context("what ping says")?).lines();
        let id = lines.next().context("ping's id")?.context("read ping's id")?;
        let answers = Arc::new(Mutex::new(Vec::new()));
        let kept = answers.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok).filter(|line| line.contains("bytes from")) {
                let at = line.strip_prefix('[').and_then(|line| line.split_once(']')?.0.parse::<f64>().ok());
                kept.lock().unwrap_or_else(PoisonError::into_inner).extend(at);
            }
        });
        let begin = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        Ok(Pings { child, id, begin, answers })
    }

    /// For how long there was no answer.
    fn end(mut self) -> Result<Duration> {
        ensure!(Command::new("kill").arg(&self.id).status().context("end ping")?.success(), "ping has ended");
        self.child.wait()?;
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        answers.retain(|at| *at >= self.begin);
        ensure!(answers.len() > 50, "the guest hardly answered: {} times", answers.len());
        let gaps = answers.windows(2).map(|pair| pair[1] - pair[0]);
        Ok(Duration::from_secs_f64(gaps.fold(0.0, f64::max)))
    }
}
