//! QEMU driven by hand, as a peer: the guest of a lab on a machine of its own, moved to another one and back.
//!
//! Both machines are in the network of the lab's switch and open the same file as their disk. What goes between them is
//! encrypted as between Kennel's hosts, with the certificates of one of them, or not at all.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::lab::{LIMIT, Lab};
use serde_json::{Value, json};

/// As Kennel begins: how long the guest may stand still, and how fast it is sent.
const DOWNTIME_LIMIT_MS: u64 = 50;
const BANDWIDTH: u64 = 1 << 40;

const POLL: Duration = Duration::from_millis(2);

/// What QEMU says of a migration.
#[derive(Debug)]
pub struct Told {
    pub downtime: Duration,
    pub sending: Duration,
}

/// A guest that QEMU alone runs.
#[derive(Debug)]
pub struct Plain<'a> {
    lab: &'a Lab,
    folder: PathBuf,
    /// What both machines are started with, but for their tap and their socket.
    arguments: Vec<String>,
    mac: String,
    machine: Machine,
    moves: usize,
}

/// QEMU, spoken with over QMP.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    lines: BufReader<UnixStream>,
}

impl<'a> Plain<'a> {
    /// Stops the lab's guest, and starts it again without the lab.
    pub fn take_over(lab: &'a Lab, guest: &str) -> Result<Plain<'a>> {
        let (pid, line) = machine_of(guest)?;
        let value = |flag: &str| {
            let at = line.iter().position(|word| word == flag)?;
            line.get(at + 1).cloned()
        };
        let folder = lab.folder().join("plain");
        std::fs::create_dir_all(&folder).context("make a folder for QEMU alone")?;
        let keep = |path: &str, name: &str| -> Result<String> {
            let to = folder.join(name);
            std::fs::copy(Path::new(&format!("/proc/{pid}/root{path}")), &to)
                .with_context(|| format!("copy {path}"))?;
            Ok(to.display().to_string())
        };
        let mut arguments = Vec::new();
        for flag in ["-machine", "-accel", "-cpu", "-smp", "-m", "-append"] {
            arguments.extend([flag.to_owned(), value(flag).with_context(|| format!("{flag} of the guest"))?]);
        }
        for flag in ["-kernel", "-initrd"] {
            let path = value(flag).with_context(|| format!("{flag} of the guest"))?;
            arguments.extend([flag.to_owned(), keep(&path, flag.trim_start_matches('-'))?]);
        }
        let nodes = line.iter().filter_map(|word| serde_json::from_str::<Value>(word).ok());
        let files: Vec<String> =
            nodes.filter_map(|node| node["filename"].as_str().map(str::to_owned)).collect();
        let (disk, seed) =
            (files.first().context("the guest's disk")?, files.get(1).context("the guest's seed")?);
        let seed = keep(seed, "seed")?;
        let nic = line.iter().find(|word| word.starts_with("virtio-net-pci")).context("the guest's card")?;
        let mac = nic.split_once("mac=").context("its hardware address")?.1.to_owned();
        lab.kennel(&["guest", "stop", guest])?;
        let (owner, _) = lab.places(guest)?;
        let name = Path::new(disk).file_name().context("the disk's name")?;
        let copy = folder.join("disk");
        std::fs::copy(lab.state_of(&owner).join("volumes").join(name), &copy).context("copy the disk")?;
        let drive =
            |path: &str, more: &str| format!("file={path},format=raw,if=virtio,file.locking=off{more}");
        arguments.extend(["-drive".to_owned(), drive(&copy.display().to_string(), "")]);
        arguments.extend(["-drive".to_owned(), drive(&seed, ",readonly=on")]);
        for flag in ["-nodefaults", "-display", "none", "-object", "rng-builtin,id=rng0"] {
            arguments.push(flag.to_owned());
        }
        for flag in ["-device", "virtio-rng-pci,rng=rng0", "-device", "virtio-balloon-pci"] {
            arguments.push(flag.to_owned());
        }
        for tap in 0..2 {
            let tap = format!("plain{tap}");
            lab.lab(&["exec", "switch", "--", "ip", "tuntap", "add", &tap, "mode", "tap"])?;
            lab.lab(&["exec", "switch", "--", "ip", "link", "set", &tap, "master", "guests", "up"])?;
        }
        let machine = start(lab, &folder, &arguments, &mac, 0, false)?;
        Ok(Plain { lab, folder, arguments, mac, machine, moves: 0 })
    }

    /// To the other machine.
    pub fn migrate(&mut self, encrypted: bool) -> Result<Told> {
        self.moves += 1;
        let mut there = start(self.lab, &self.folder, &self.arguments, &self.mac, self.moves, true)?;
        if encrypted {
            let (folder, address) = certificates()?;
            there.use_certificates(&folder, "server", json!({ "tls-creds": "tls" }))?;
            let asked_for = json!({ "tls-creds": "tls", "tls-hostname": address });
            self.machine.use_certificates(&folder, "client", asked_for)?;
        }
        there.execute("migrate-incoming", json!({ "uri": "tcp:127.0.0.1:0" }))?;
        let listens = there.execute("query-migrate", json!({}))?;
        let port = listens["socket-address"][0]["port"].as_str().context("where QEMU listens")?.to_owned();
        let here = &mut self.machine;
        here.execute(
            "migrate-set-parameters",
            json!({ "downtime-limit": DOWNTIME_LIMIT_MS, "max-bandwidth": BANDWIDTH }),
        )?;
        here.execute("migrate", json!({ "uri": format!("tcp:127.0.0.1:{port}") }))?;
        let begin = Instant::now();
        let state = loop {
            let state = here.execute("query-migrate", json!({}))?;
            match state["status"].as_str() {
                Some("completed") => break state,
                Some("failed" | "cancelled") => bail!("QEMU alone did not move its guest: {state}"),
                Some(_) | None => {}
            }
            ensure!(begin.elapsed() < LIMIT, "QEMU alone does not come to an end: {state}");
            std::thread::sleep(POLL);
        };
        let ms = |key: &str| state[key].as_u64().map(Duration::from_millis).context("a time of QEMU's");
        let told = Told { downtime: ms("downtime")?, sending: ms("total-time")? };
        std::mem::replace(&mut self.machine, there).quit()?;
        Ok(told)
    }

    pub fn end(self) -> Result<()> {
        self.machine.quit()
    }
}

/// Where a host of the lab has its certificates, as seen from outside, and the address that they are for.
fn certificates() -> Result<(PathBuf, String)> {
    for (pid, folder) in e2e::processes() {
        let Ok(line) = std::fs::read(folder.join("cmdline")) else { continue };
        let words = String::from_utf8_lossy(&line);
        let option = |word: &str| words.split([',', '\0']).find_map(|option| option.strip_prefix(word));
        if let (Some(folder), Some(address)) = (option("dir="), option("addr.host=")) {
            return Ok((PathBuf::from(format!("/proc/{pid}/root{folder}")), address.to_owned()));
        }
    }
    bail!("no storage daemon of Kennel's runs here")
}

/// The process that runs a guest, and its arguments.
pub fn machine_of(guest: &str) -> Result<(i32, Vec<String>)> {
    for (pid, folder) in e2e::processes() {
        let Ok(line) = std::fs::read(folder.join("cmdline")) else { continue };
        let words = String::from_utf8_lossy(&line);
        let words: Vec<String> = words.split('\0').map(str::to_owned).collect();
        if words.iter().any(|word| word == &format!("guest={guest},process=kennel-{guest}")) {
            return Ok((pid, words));
        }
    }
    bail!("no QEMU runs {guest}")
}

/// The machine of the `number`th move: taps are used in turn.
fn start(
    lab: &Lab,
    folder: &Path,
    arguments: &[String],
    mac: &str,
    number: usize,
    waits: bool,
) -> Result<Machine> {
    let tap = number % 2;
    let mut arguments = arguments.to_vec();
    arguments.extend([
        "-netdev".to_owned(),
        format!("tap,id=net0,ifname=plain{tap},script=no,downscript=no"),
        "-device".to_owned(),
        format!("virtio-net-pci,netdev=net0,mac={mac}"),
        "-serial".to_owned(),
        format!("file:{}", folder.join("serial.log").display()),
    ]);
    if waits {
        arguments.extend(["-incoming".to_owned(), "defer".to_owned()]);
    }
    run(lab, "switch", &arguments, &folder.join(format!("qmp{number}.sock")))
}

/// Runs QEMU at a place of the lab.
pub fn run(lab: &Lab, place: &str, arguments: &[String], socket: &Path) -> Result<Machine> {
    let mut command = lab.command()?;
    command.args(["lab", "exec", place, "--", "qemu-system-x86_64"]).args(arguments);
    command.args(["-qmp", &format!("unix:{},server=on,wait=off", socket.display())]);
    let child = command.stdout(Stdio::null()).spawn().context("run QEMU alone")?;
    let begin = Instant::now();
    let stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(error) if begin.elapsed() > LIMIT => return Err(error).context("speak with QEMU alone"),
            Err(_) => std::thread::sleep(POLL),
        }
    };
    let mut machine = Machine { child, lines: BufReader::new(stream) };
    machine.read(|message| message.get("QMP").cloned())?;
    machine.execute("qmp_capabilities", json!({}))?;
    Ok(machine)
}

impl Machine {
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.lines.get_mut(), "{request}").with_context(|| format!("say {command}"))?;
        self.read(|message| match message.get("error") {
            Some(error) => Some(json!({ "error": error })),
            None => message.get("return").cloned(),
        })
        .and_then(|answer| match answer.get("error") {
            Some(error) => bail!("{command}: {error}"),
            None => Ok(answer),
        })
    }

    /// The first message that is wanted; events are passed over.
    fn read(&mut self, wanted: impl Fn(&Value) -> Option<Value>) -> Result<Value> {
        loop {
            let mut line = String::new();
            ensure!(self.lines.read_line(&mut line)? > 0, "QEMU alone has ended");
            let message: Value = serde_json::from_str(&line).context("understand QEMU")?;
            if let Some(found) = wanted(&message) {
                return Ok(found);
            }
        }
    }

    /// Shows these certificates in the migration to come.
    fn use_certificates(&mut self, folder: &Path, endpoint: &str, parameters: Value) -> Result<()> {
        // There may be one for the other direction.
        let _ = self.execute("object-del", json!({ "id": "tls" }));
        let object = json!({
            "qom-type": "tls-creds-x509", "id": "tls", "dir": folder, "endpoint": endpoint, "verify-peer": true,
        });
        self.execute("object-add", object)?;
        self.execute("migrate-set-parameters", parameters).map(drop)
    }

    pub fn quit(mut self) -> Result<()> {
        // It may be gone before it answers.
        let _ = self.execute("quit", json!({}));
        self.child.wait().context("wait for QEMU's end")?;
        Ok(())
    }
}
