//! Writes of one guest: on one host, mirrored by Kennel, and on QEMU driven by hand with and without QEMU's own
//! mirror job.
//!
//! The guest times its own writes (`guests/writer.sh`). By hand it runs on the machine that Kennel gave it, with the
//! same nodes and devices, and the job is asked for as Kennel asks for it; encrypted with the same certificates, as
//! between Kennel's hosts, and in the clear. Each of them is measured in two turns, so that no one has the machine's
//! better half of the hour.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use e2e::lab::{LIMIT, Lab};
use e2e::recorder::Recorder;
use e2e::wait;
use serde_json::{Value, json};

use crate::plain::{self, Machine};

const PROGRAM: &str = include_str!("../../../guests/writer.sh");
const GUEST: &str = "writer";
const DISK: &[&str] = &["--disk", "256M"];
const OWNER: &str = "host1";
const PEER: &str = "host2";

/// Of each way, in each turn.
const ROUNDS: usize = 6;
const TURNS: usize = 2;

/// What a round writes.
const SMALL_WRITES: f64 = 5000.0;
const LARGE_MIB: f64 = 1024.0;

/// Where the storage daemon that is run by hand serves.
const PORT: u16 = 7999;
const EXPORT: &str = "by-hand";
const TARGET: &str = "by-hand-remote";

/// What the guest writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Local,
    Mirrored,
    ByHand,
    JobInTheClear,
    Job,
}

impl Way {
    const ALL: [Way; 5] = [Way::Local, Way::Mirrored, Way::ByHand, Way::JobInTheClear, Way::Job];

    fn words(self) -> &'static str {
        match self {
            Way::Local => "Kennel, pool local",
            Way::Mirrored => "Kennel, pool mirror",
            Way::ByHand => "QEMU by hand",
            Way::JobInTheClear => "QEMU by hand, mirror job, not encrypted",
            Way::Job => "QEMU by hand, mirror job, encrypted",
        }
    }
}

/// Seconds that a round took.
#[derive(Debug, Clone, Copy)]
struct Round {
    small: f64,
    large: f64,
}

pub fn run() -> Result<()> {
    let lab = Lab::up("bench-writes", 2)?;
    let mut rounds: Vec<(Way, Vec<Round>)> = Way::ALL.map(|way| (way, Vec::new())).into();
    for _ in 0..TURNS {
        for (way, seen) in &mut rounds {
            let news = match way {
                Way::Local | Way::Mirrored => by_kennel(&lab, *way)?,
                Way::ByHand | Way::JobInTheClear | Way::Job => by_hand(&lab, *way)?,
            };
            eprintln!("{}: {news:?}", way.words());
            seen.extend(news);
        }
    }
    let median_of = |wanted: Way| {
        let (_, seen) = rounds.iter().find(|(way, _)| *way == wanted)?;
        let of = |column: fn(&Round) -> f64| median(seen.iter().map(column).collect());
        Some(Round { small: of(|round| round.small), large: of(|round| round.large) })
    };
    println!(
        "| {} rounds each, medians | 4 KiB, flushed: a second | ms for each | 1 MiB in a row: MiB/s |",
        ROUNDS * TURNS
    );
    println!("| --- | ---: | ---: | ---: |");
    for way in Way::ALL {
        let round = median_of(way).context("rounds")?;
        let (small, large) = (SMALL_WRITES / round.small, LARGE_MIB / round.large);
        println!("| {} | {small:.0} | {:.2} | {large:.0} |", way.words(), 1000.0 / small);
    }
    println!("\n| throughput as a share | 4 KiB, flushed | 1 MiB in a row |");
    println!("| --- | ---: | ---: |");
    for (of, by) in [
        (Way::Local, Way::ByHand),
        (Way::Mirrored, Way::Job),
        (Way::Mirrored, Way::JobInTheClear),
        (Way::Mirrored, Way::Local),
        (Way::Job, Way::ByHand),
    ] {
        let (one, other) = (median_of(of).context("rounds")?, median_of(by).context("rounds")?);
        println!(
            "| {} / {} | {:.2} | {:.2} |",
            of.words(),
            by.words(),
            other.small / one.small,
            other.large / one.large
        );
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The rounds that a guest has told of, in the order in which it did.
fn told(text: &str) -> Vec<Round> {
    let line = |line: &str| {
        let (small, large) = line.split_once("WRITES ")?.1.trim().split_once(' ')?;
        // Told in hundredths.
        let seconds = |text: &str| text.parse::<f64>().ok().map(|time| time / 100.0);
        Some(Round { small: seconds(small)?, large: seconds(large)? })
    };
    text.split('\n').filter(|line| line.ends_with('\r')).filter_map(line).collect()
}

/// The rounds that follow. The one that is under way counts for nothing.
fn next_rounds(mut look: impl FnMut() -> Result<Vec<Round>>) -> Result<Vec<Round>> {
    let skip = look()?.len() + 1;
    wait("the guest to measure its writes", LIMIT, || {
        let seen = look()?;
        Ok(seen.get(skip..skip + ROUNDS).map(<[Round]>::to_vec))
    })
}

fn create<'a>(lab: &'a Lab, pool: &str) -> Result<Recorder<'a>> {
    // There are two hosts, so the other one has the second copy.
    Recorder::start_with(lab, GUEST, PROGRAM, &[DISK, &["--pool", pool, "--host", OWNER]].concat())
}

fn by_kennel(lab: &Lab, way: Way) -> Result<Vec<Round>> {
    let recorder = create(lab, if way == Way::Mirrored { "mirror" } else { "local" })?;
    if way == Way::Mirrored {
        lab.wait_for_sync(GUEST)?;
    }
    let rounds = next_rounds(|| Ok(recorder.printed().flat_map(|text| told(&text)).collect()))?;
    lab.kennel(&["guest", "delete", GUEST, "--yes"])?;
    Ok(rounds)
}

fn by_hand(lab: &Lab, way: Way) -> Result<Vec<Round>> {
    create(lab, "local")?;
    let folder = lab.state_of(OWNER).join("by-hand");
    std::fs::create_dir_all(&folder).context("make a folder for QEMU alone")?;
    let (arguments, node) = as_kennel_runs_it(lab, &folder)?;
    let serial = folder.join("serial.log");
    // The log of the turn before.
    std::fs::write(&serial, "").context("begin a log")?;
    let mut machine = plain::run(lab, OWNER, &arguments, &folder.join("qmp.sock"))?;
    let peer = match way {
        Way::JobInTheClear | Way::Job => Some(mirror(lab, &mut machine, &node, way == Way::Job)?),
        Way::Local | Way::Mirrored | Way::ByHand => None,
    };
    let rounds = next_rounds(|| {
        let text = std::fs::read(&serial).context("read what the guest says")?;
        Ok(told(&String::from_utf8_lossy(&text)))
    })?;
    machine.quit()?;
    if let Some(peer) = peer {
        peer.end(lab)?;
    }
    lab.kennel(&["guest", "delete", GUEST, "--yes"])?;
    Ok(rounds)
}

/// Stops the guest. Gives the arguments that QEMU ran it with, with copies of its files, without what only Kennel
/// speaks with, and the node that its disk is attached to.
fn as_kennel_runs_it(lab: &Lab, folder: &std::path::Path) -> Result<(Vec<String>, String)> {
    let (_, line) = plain::machine_of(GUEST)?;
    lab.kennel(&["guest", "stop", GUEST])?;
    let mut arguments = Vec::new();
    let mut disk = None;
    for pair in line.windows(2) {
        let [flag, value] = pair else { continue };
        let mut value = value.clone();
        let keep = match flag.as_str() {
            "-machine" | "-accel" | "-cpu" | "-smp" | "-m" | "-append" | "-kernel" | "-initrd" => true,
            "-blockdev" => {
                let mut node: Value = serde_json::from_str(&value).context("understand a node")?;
                if let Some(path) = node["filename"].as_str().map(PathBuf::from) {
                    let copy = folder.join(path.file_name().context("a file's name")?);
                    std::fs::copy(&path, &copy).with_context(|| format!("copy {}", path.display()))?;
                    node["filename"] = copy.display().to_string().into();
                }
                value = node.to_string();
                true
            }
            "-device" => value.starts_with("virtio-blk-pci"),
            _ => false,
        };
        if keep && value.starts_with("virtio-blk-pci") && disk.is_none() {
            disk = value.split(',').find_map(|option| option.strip_prefix("drive=")).map(str::to_owned);
        }
        if keep {
            arguments.extend([flag.clone(), value]);
        }
    }
    for word in ["-nodefaults", "-display", "none", "-nic", "none"] {
        arguments.push(word.to_owned());
    }
    arguments.extend(["-serial".to_owned(), format!("file:{}", folder.join("serial.log").display())]);
    Ok((arguments, disk.context("the guest's disk")?))
}

/// A storage daemon on the other host.
struct Peer {
    child: Child,
    /// By which that host knows it.
    id: String,
}

impl Peer {
    fn end(mut self, lab: &Lab) -> Result<()> {
        lab.lab(&["exec", PEER, "--", "kill", &self.id])?;
        self.child.wait().context("wait for the storage daemon's end")?;
        Ok(())
    }
}

/// Mirrors a node to the other host, as Kennel does, and waits until that is filled.
fn mirror(lab: &Lab, machine: &mut Machine, node: &str, encrypted: bool) -> Result<Peer> {
    let hosts = lab.json(&["host", "list"])?;
    let hosts = hosts.as_array().context("a list of hosts")?;
    let peer = hosts.iter().find(|host| host["name"] == PEER).context("the other host")?;
    let address = peer["host"]["address"].as_str().context("its address")?;
    let certificates = certificates()?;
    let copy = lab.state_of(PEER).join("by-hand.raw");
    std::fs::File::create(&copy).context("make the other copy")?;
    let mut allocate = Command::new("fallocate");
    let allocated = allocate.args(["-l", "256MiB"]).arg(&copy).status().context("run fallocate")?;
    ensure!(allocated.success(), "no room for the other copy");
    let credentials =
        format!("--object tls-creds-x509,id=tls,dir={certificates},endpoint=server,verify-peer=on");
    let (object, tls) = if encrypted { (credentials.as_str(), ",tls-creds=tls") } else { ("", "") };
    let daemon = format!(
        "echo $$; exec qemu-storage-daemon {object} \
         --blockdev driver=file,node-name=file,filename={},aio=threads \
         --blockdev driver=raw,node-name=disk,file=file \
         --nbd-server addr.type=inet,addr.host={address},addr.port={PORT},max-connections=0{tls} \
         --export type=nbd,id=e,node-name=disk,name={EXPORT},writable=on",
        copy.display()
    );
    let mut command = lab.command()?;
    command.args(["lab", "exec", PEER, "--", "sh", "-c", &daemon]).stdout(Stdio::piped());
    let mut child = command.spawn().context("run a storage daemon")?;
    let mut id = String::new();
    let mut said = std::io::BufReader::new(child.stdout.take().context("what it says")?);
    std::io::BufRead::read_line(&mut said, &mut id).context("read its id")?;
    let peer = Peer { child, id: id.trim().to_owned() };

    let mut remote = json!({
        "driver": "nbd", "node-name": TARGET, "export": EXPORT, "reconnect-delay": 3600,
        "server": { "type": "inet", "host": address, "port": PORT.to_string() },
    });
    if encrypted {
        let object = json!({
            "qom-type": "tls-creds-x509", "id": "tls", "dir": certificates, "endpoint": "client", "verify-peer": true,
        });
        machine.execute("object-add", object)?;
        remote["tls-creds"] = "tls".into();
    }
    wait("the storage daemon to answer", LIMIT, || Ok(machine.execute("blockdev-add", remote.clone()).ok()))?;
    let job = json!({
        "job-id": "mirror", "device": node, "target": TARGET, "sync": "full", "copy-mode": "write-blocking",
        "on-target-error": "stop", "on-source-error": "report",
    });
    machine.execute("blockdev-mirror", job)?;
    wait("the other copy to be filled", LIMIT, || {
        let jobs = machine.execute("query-block-jobs", json!({}))?;
        Ok((jobs[0]["ready"] == true).then_some(()))
    })?;
    Ok(peer)
}

/// Where a host's own storage daemon has its certificates; the same folder on each.
fn certificates() -> Result<String> {
    for (_, folder) in e2e::processes() {
        let Ok(line) = std::fs::read(folder.join("cmdline")) else { continue };
        let words = String::from_utf8_lossy(&line);
        let object = words.split('\0').find(|word| word.starts_with("tls-creds-x509,"));
        if let Some(found) = object.and_then(|object| object.split(',').find_map(|o| o.strip_prefix("dir=")))
        {
            return Ok(found.to_owned());
        }
    }
    anyhow::bail!("no storage daemon of Kennel's runs here")
}
