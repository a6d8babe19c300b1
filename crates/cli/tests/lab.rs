//! The lab, with a stand-in for kenneld: what its hosts are, how they break, and that nothing is left behind.
//!
//! Needs root, iproute2, nftables, openipmi, ipmitool and bash, as the lab itself and its users do.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use tempfile::TempDir;

/// For what takes milliseconds on a machine that does nothing else.
const GENEROUS: Duration = Duration::from_secs(60);

/// Stays alive with a child of its own, as kenneld does with etcd.
const STAND_IN: &str = "#!/bin/sh\necho \"started $*\"\necho here > /run/mark\nsleep 100000 &\nwait\n";

/// A lab in a folder of the test's own, taken down at the end whatever happened.
struct TestLab {
    folder: TempDir,
    name: &'static str,
}

impl TestLab {
    fn new(name: &'static str) -> Self {
        let folder = TempDir::new().unwrap();
        let kenneld = folder.path().join("kenneld");
        let script = "printf '%s' \"$1\" > \"$2\" && chmod 755 \"$2\"";
        // Written by another process: see the end of this file.
        let written = Command::new("sh").args(["-c", script, "sh", STAND_IN]).arg(&kenneld).status().unwrap();
        assert!(written.success());
        Self { folder, name }
    }

    fn up(name: &'static str, hosts: u8) -> Self {
        let lab = Self::new(name);
        lab.done(&lab.up_words(hosts));
        lab
    }

    fn up_words(&self, hosts: u8) -> Vec<String> {
        let kenneld = self.folder.path().join("kenneld").display().to_string();
        ["up", "--no-cluster", "--hosts", &hosts.to_string(), "--kenneld", &kenneld]
            .map(str::to_owned)
            .to_vec()
    }

    fn base(&self) -> PathBuf {
        self.folder.path().join("labs of tests")
    }

    fn own_folder(&self) -> PathBuf {
        self.base().join(self.name)
    }

    fn command<S: AsRef<str>>(&self, words: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kennel"));
        command
            .arg("lab")
            .args(words.iter().map(AsRef::as_ref))
            .env("KENNEL_LAB_DIR", self.base())
            .env("KENNEL_LAB_NAME", self.name)
            .stdin(Stdio::null());
        command
    }

    fn run<S: AsRef<str>>(&self, words: &[S]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs what must succeed; returns what it printed.
    fn done<S: AsRef<str>>(&self, words: &[S]) -> String {
        let output = self.run(words);
        let said = String::from_utf8(output.stderr).unwrap();
        let shown: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        assert!(output.status.success(), "kennel lab {shown:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs what must be refused, with these words in its sentence.
    fn refused<S: AsRef<str>>(&self, words: &[S], expected: &[&str]) {
        let output = self.run(words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "not refused");
        for part in expected {
            assert!(said.contains(part), "`{part}` is not in: {said}");
        }
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.done(&["status", "--json"])).unwrap()
    }

    fn host(&self, number: usize) -> Value {
        self.status()["hosts"][number - 1].clone()
    }

    fn pid(&self, number: usize) -> u64 {
        self.host(number)["pid"].as_u64().unwrap()
    }

    fn api_port(&self, number: usize) -> u16 {
        let api = self.host(number)["api"].as_str().unwrap().to_owned();
        api.rsplit(':').next().unwrap().parse().unwrap()
    }

    fn exec(&self, host: &str, script: &str) -> Output {
        self.run(&["exec", host, "--", "bash", "-c", script])
    }

    /// Whether a connection attempt from one host is answered by another, if only with a refusal.
    fn reaches(&self, from: &str, address: &str) -> bool {
        let output = self.exec(from, &format!("timeout 0.7 bash -c 'echo > /dev/tcp/{address}/9'"));
        String::from_utf8(output.stderr).unwrap().contains("Connection refused")
    }

    fn ipmi(&self, number: usize, words: &[&str]) -> Output {
        let bmc = &self.host(number)["bmc"];
        let (address, password) = (bmc["address"].as_str().unwrap(), bmc["password"].as_str().unwrap());
        let mut all = vec!["exec", "switch", "--", "ipmitool", "-I", "lanplus", "-C", "3"];
        all.extend(["-H", address, "-U", "admin", "-P", password]);
        all.extend(words);
        self.run(&all)
    }

    fn ipmi_power(&self, number: usize) -> String {
        let output = self.ipmi(number, &["chassis", "power", "status"]);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// The id that all its processes carry.
    fn id(&self) -> Option<String> {
        let state = fs::read(self.own_folder().join("state.json")).ok()?;
        let state: Value = serde_json::from_slice(&state).unwrap();
        Some(state["id"].as_str().unwrap().to_owned())
    }

    fn check_nothing_is_left(&self, id: Option<&str>) {
        assert!(!self.own_folder().exists(), "the folder is left");
        let folder = self.base().display().to_string();
        assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&folder), "a mount is left");
        for pid in pids() {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let environment = String::from_utf8_lossy(&environment).into_owned();
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).into_owned();
            assert!(!words.contains(&folder), "process {pid} is left: {words}");
            if let Some(id) = id {
                assert!(!environment.contains(&format!("KENNEL_LAB={id}")), "process {pid} is left: {words}");
            }
        }
    }
}

impl Drop for TestLab {
    fn drop(&mut self) {
        if self.own_folder().exists() {
            let _ = self.run(&["down"]);
        }
    }
}

fn pids() -> Vec<u64> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str().and_then(|name| name.parse().ok()))
        .collect()
}

fn is_alive(pid: u64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .and_then(|rest| rest.trim_start().chars().next())
        .is_some_and(|state| state != 'Z')
}

fn state_of(pid: u64) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().chars().next().unwrap()
}

fn wait_for(what: &str, mut predicate: impl FnMut() -> bool) {
    let start = Instant::now();
    while !predicate() {
        assert!(start.elapsed() < GENEROUS, "waited for {what}, in vain");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A socket made here belongs to the host's network, though the test is not one of its processes.
fn listen_in(pid: u64, address: Ipv4Addr, port: u16) -> TcpListener {
    let network = File::open(format!("/proc/{pid}/ns/net")).unwrap();
    std::thread::spawn(move || {
        setns(network, CloneFlags::CLONE_NEWNET).unwrap();
        TcpListener::bind((address, port)).unwrap()
    })
    .join()
    .unwrap()
}

#[test]
fn each_host_is_a_machine_of_its_own() {
    let lab = TestLab::up("own", 2);
    assert_eq!(lab.done(&["exec", "host2", "--", "hostname"]).trim(), "host2");
    let devices = lab.done(&["exec", "host2", "--", "ls", "/sys/class/net"]);
    assert_eq!(devices.split_whitespace().collect::<Vec<_>>(), ["eth0", "eth1", "lo"]);
    let processes = lab.done(&["exec", "host2", "--", "sh", "-c", "cat /proc/[0-9]*/comm"]);
    assert!(processes.contains("kenneld") && !processes.contains("cargo"), "{processes}");
    let log = fs::read_to_string(lab.own_folder().join("hosts/host2/kenneld.log")).unwrap();
    for part in
        ["--run-dir /run/kennel --address 10.77.0.2", "--name host2", "--zone zone2", "--uplink default=eth1"]
    {
        assert!(log.contains(part), "{log}");
    }
    assert!(lab.reaches("host1", "10.77.0.2"));
    assert!(lab.reaches("host2", "10.77.0.1"));
    assert!(lab.reaches("switch", "10.77.0.1"));
    assert_eq!(lab.exec("host1", "exit 7").status.code(), Some(7));
    assert_eq!(lab.exec("host1", "kill -9 $$").status.code(), Some(137));
    // The machine's own network has none of it.
    let routes = fs::read_to_string("/proc/net/dev").unwrap();
    assert!(!routes.contains("mgmt") && !routes.contains("guests"), "{routes}");
}

#[test]
fn the_plug_is_pulled_and_put_back() {
    let lab = TestLab::up("plug", 2);
    let before = lab.host(1);
    lab.exec("host1", "touch /run/volatile");
    fs::write(lab.own_folder().join("hosts/host1/state/kept"), "data").unwrap();
    lab.done(&["power-off", "host1"]);
    assert!(!is_alive(before["pid"].as_u64().unwrap()));
    assert!(!is_alive(before["kenneld_pid"].as_u64().unwrap()));
    assert_eq!(lab.host(1)["power"], "off");
    assert!(!lab.reaches("host2", "10.77.0.1"));
    lab.refused(&["power-off", "host1"], &["cannot power off host1", "no power", "power-on host1"]);
    lab.refused(&["exec", "host1", "--", "true"], &["no power"]);
    lab.done(&["power-on", "host1"]);
    lab.refused(&["power-on", "host1"], &["cannot power on host1", "power already"]);
    assert!(lab.reaches("host2", "10.77.0.1"));
    let ls = lab.exec("host1", "ls /run/volatile").status;
    assert!(!ls.success(), "/run outlived the power");
    assert_eq!(fs::read_to_string(lab.own_folder().join("hosts/host1/state/kept")).unwrap(), "data");
    assert_eq!(lab.host(1)["api"], before["api"]);
}

/// A process whose host lost power cannot say goodbye: its peer must find out by itself.
#[test]
fn a_host_without_power_says_no_farewell() {
    let lab = TestLab::up("farewell", 2);
    let listener = listen_in(lab.pid(2), Ipv4Addr::new(10, 77, 0, 2), 7000);
    let mut client = lab
        .command(&[
            "exec",
            "host1",
            "--",
            "bash",
            "-c",
            "exec 3<>/dev/tcp/10.77.0.2/7000; echo hi >&3; read -u 3",
        ])
        .spawn()
        .unwrap();
    let (mut connection, _) = listener.accept().unwrap();
    let mut greeting = [0; 3];
    connection.read_exact(&mut greeting).unwrap();
    lab.done(&["power-off", "host1"]);
    connection.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let heard = connection.read(&mut greeting).map_err(|error| error.kind());
    assert_eq!(heard, Err(ErrorKind::WouldBlock), "the dead host said something");
    client.wait().unwrap();
}

#[test]
fn cuts_lose_frames_and_heal() {
    let lab = TestLab::up("cut", 3);
    lab.done(&["cut", "host2", "host1"]);
    assert!(!lab.reaches("host1", "10.77.0.2") && !lab.reaches("host2", "10.77.0.1"));
    assert!(lab.reaches("host1", "10.77.0.3") && lab.reaches("host3", "10.77.0.2"));
    assert!(lab.done(&["status"]).contains("host1 and host2 are cut off from one another"));
    lab.done(&["heal", "host1", "host2"]);
    assert!(lab.reaches("host1", "10.77.0.2"));

    lab.done(&["cut", "host3"]);
    assert!(!lab.reaches("host3", "10.77.0.1") && !lab.reaches("host2", "10.77.0.3"));
    assert!(!lab.reaches("host3", "10.77.0.101"), "the BMCs are beyond the cut as well");
    assert!(lab.reaches("host1", "10.77.0.2"));
    assert!(lab.reaches("switch", "10.77.0.3"), "its API is to be reached from the machine");
    // A cable stays cut when the host is powered off and on.
    lab.done(&["power-off", "host3"]);
    lab.done(&["power-on", "host3"]);
    assert!(!lab.reaches("host3", "10.77.0.1"));
    lab.done(&["cut", "host3", "--api-too"]);
    assert!(!lab.reaches("switch", "10.77.0.3"));
    assert_eq!(lab.status()["cuts"].as_array().unwrap().len(), 1);
    lab.done(&["heal", "host3"]);
    assert!(lab.reaches("host3", "10.77.0.1") && lab.reaches("switch", "10.77.0.3"));
    lab.refused(&["cut", "host1", "host1"], &["cannot cut host1 from itself"]);
}

/// Guests' frames leave through eth1 and are cut with the host.
#[test]
fn the_guests_segment_is_separate_and_is_cut_too() {
    let lab = TestLab::up("guests", 2);
    for (host, address) in [("host1", "10.90.0.1/24"), ("host2", "10.90.0.2/24")] {
        lab.done(&["exec", host, "--", "ip", "address", "add", address, "dev", "eth1"]);
    }
    assert!(lab.reaches("host1", "10.90.0.2") && lab.reaches("switch", "10.90.0.1"));
    lab.done(&["cut", "host1"]);
    assert!(!lab.reaches("host1", "10.90.0.2") && !lab.reaches("switch", "10.90.0.1"));
    lab.done(&["heal", "host1"]);
    assert!(lab.reaches("host1", "10.90.0.2") && lab.reaches("switch", "10.90.0.1"));
}

#[test]
fn a_host_hangs_and_goes_on() {
    let lab = TestLab::up("pause", 1);
    let host = lab.host(1);
    let (first, kenneld) = (host["pid"].as_u64().unwrap(), host["kenneld_pid"].as_u64().unwrap());
    lab.refused(&["resume", "host1"], &["cannot resume host1", "not paused"]);
    lab.done(&["pause", "host1"]);
    assert_eq!((state_of(first), state_of(kenneld)), ('T', 'T'));
    assert_eq!(lab.host(1)["power"], "paused");
    lab.done(&["resume", "host1"]);
    wait_for("the host to go on", || state_of(first) != 'T' && state_of(kenneld) != 'T');
    // A hanging host can be powered off.
    lab.done(&["pause", "host1"]);
    lab.done(&["power-off", "host1"]);
    assert!(!is_alive(kenneld));
}

#[test]
fn one_program_is_killed_frozen_and_thawed() {
    let lab = TestLab::up("kill", 1);
    let kenneld = lab.host(1)["kenneld_pid"].as_u64().unwrap();
    lab.done(&["freeze", "host1", "kenneld"]);
    assert_eq!(state_of(kenneld), 'T');
    lab.done(&["thaw", "host1", "kenneld"]);
    assert_ne!(state_of(kenneld), 'T');
    lab.done(&["kill", "host1", "kenneld"]);
    wait_for("kenneld to be started again", || {
        lab.host(1)["kenneld_pid"].as_u64().is_some_and(|pid| pid != kenneld)
    });
    lab.refused(&["kill", "host1", "etcd"], &["cannot kill etcd on host1", "no such program", "kenneld"]);
    // What it had started lives on, and is collected when it ends.
    lab.done(&["kill", "host1", "sleep"]);
    wait_for("zombies to be collected", || {
        let states = lab.exec("host1", "cat /proc/[0-9]*/stat | sed 's/.*) //' | cut -c1").stdout;
        !String::from_utf8(states).unwrap().contains('Z')
    });
}

#[test]
fn a_real_bmc_switches_the_power() {
    let lab = TestLab::up("bmc", 2);
    let before = lab.pid(1);
    assert_eq!(lab.ipmi_power(1), "Chassis Power is on");
    assert!(lab.ipmi(1, &["chassis", "power", "off"]).status.success());
    wait_for("the power to go", || lab.ipmi_power(1) == "Chassis Power is off");
    assert!(!is_alive(before));
    assert_eq!((&lab.host(1)["power"], &lab.host(2)["power"]), (&"off".into(), &"on".into()));
    assert!(lab.ipmi(1, &["chassis", "power", "on"]).status.success());
    wait_for("the power to come", || lab.host(1)["power"] == "on");
    assert!(lab.reaches("host2", "10.77.0.1"));
    let second = lab.pid(1);
    assert!(lab.ipmi(1, &["chassis", "power", "reset"]).status.success());
    wait_for("the reset", || lab.host(1)["pid"].as_u64().is_some_and(|pid| pid != second));
    // It goes on answering: nothing of it was handed on to the host that it started.
    assert_eq!(lab.ipmi_power(1), "Chassis Power is on");
    let foreign = lab.host(2)["bmc"]["password"].as_str().unwrap().to_owned();
    let words =
        ["-I", "lanplus", "-C", "3", "-H", "10.77.0.101", "-U", "admin", "-P", &foreign, "power", "off"];
    let all: Vec<&str> = ["exec", "switch", "--", "ipmitool"].into_iter().chain(words).collect();
    assert!(!lab.run(&all).status.success(), "another host's password opened it");
    assert_eq!(lab.host(1)["power"], "on");
}

fn echo_once(listener: TcpListener) -> std::thread::JoinHandle<TcpStream> {
    std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let mut bytes = [0; 5];
        connection.read_exact(&mut bytes).unwrap();
        connection.write_all(&bytes).unwrap();
        connection
    })
}

#[test]
fn the_api_is_reached_from_the_machine() {
    let lab = TestLab::up("api", 1);
    let port = lab.api_port(1);
    let nobody = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).and_then(|mut stream| stream.read(&mut [0]));
    assert!(matches!(nobody, Ok(0) | Err(_)), "nothing listens there yet");
    lab.done(&["cut", "host1"]);
    let server = echo_once(listen_in(lab.pid(1), Ipv4Addr::new(10, 77, 0, 1), 7440));
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    client.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
    let _server = server.join().unwrap();
    // A client that only listens learns that the host lost power, though that said nothing.
    lab.done(&["power-off", "host1"]);
    client.set_read_timeout(Some(GENEROUS)).unwrap();
    let heard = client.read(&mut answer).map_err(|error| error.kind());
    assert_ne!(heard, Err(ErrorKind::WouldBlock), "the connection hangs");
}

#[test]
fn two_labs_live_side_by_side() {
    let mut lab = TestLab::up("one", 1);
    let first = lab.status();
    lab.name = "two";
    lab.done(&lab.up_words(2));
    let second = lab.status();
    assert_ne!(first["hosts"][0]["api"], second["hosts"][0]["api"]);
    assert_eq!(first["hosts"][0]["address"], second["hosts"][0]["address"]);
    assert!(lab.reaches("host1", "10.77.0.2"));
    lab.done(&["cut", "host1"]);
    let id = lab.id();
    lab.done(&["down"]);
    lab.check_nothing_is_left_of_one(id.as_deref());
    lab.name = "one";
    assert_eq!(lab.host(1)["pid"], first["hosts"][0]["pid"]);
    lab.done(&["down"]);
    lab.check_nothing_is_left(None);
    assert!(!lab.base().exists(), "the folder that up made is left");
}

impl TestLab {
    /// As `check_nothing_is_left`, while another lab stands in the same folder.
    fn check_nothing_is_left_of_one(&self, id: Option<&str>) {
        assert!(!self.own_folder().exists(), "the folder is left");
        let mark = format!("KENNEL_LAB={}", id.unwrap());
        for pid in pids() {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&environment).contains(&mark), "process {pid} is left");
        }
    }
}

#[test]
fn down_leaves_nothing_whatever_runs() {
    let lab = TestLab::up("down", 2);
    let mut visitor = lab.command(&["exec", "host1", "--", "sleep", "1000"]).spawn().unwrap();
    let mut onlooker = lab.command(&["exec", "switch", "--", "sleep", "1000"]).spawn().unwrap();
    // One that has left its session and its environment behind is still in the host's PID namespace.
    lab.exec("host2", "env -i setsid sleep 4242 >/dev/null 2>&1 & disown");
    lab.done(&["pause", "host2"]);
    lab.done(&["cut", "host1"]);
    let id = lab.id();
    lab.done(&["down"]);
    visitor.wait().unwrap();
    onlooker.wait().unwrap();
    lab.check_nothing_is_left(id.as_deref());
    lab.refused(&["down"], &["there is no lab in", "kennel lab up"]);
}

/// `up` is killed at ever later moments; `down` clears up after each.
#[test]
fn down_clears_up_after_an_up_that_was_killed() {
    let lab = TestLab::new("killed");
    for delay_ms in [0, 4, 10, 20, 40, 60, 80, 110, 150] {
        let mut up: Child = lab
            .command(&lab.up_words(3))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        up.kill().unwrap();
        up.wait().unwrap();
        let id = lab.id();
        if lab.own_folder().exists() {
            lab.done(&["down"]);
        }
        lab.check_nothing_is_left(id.as_deref());
    }
}

#[test]
fn down_ends_an_up_that_still_builds() {
    let lab = TestLab::new("building");
    // kenneld never opens its socket, so `up` waits for it.
    let words: Vec<String> = lab.up_words(1).into_iter().filter(|word| word != "--no-cluster").collect();
    let mut up = lab.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the host to have power", || lab.id().is_some() && lab.host(1)["power"] == "on");
    lab.refused(&words, &["there is one of this name", "kennel lab down"]);
    let id = lab.id();
    lab.done(&["down"]);
    assert!(!up.wait().unwrap().success());
    lab.check_nothing_is_left(id.as_deref());
}

#[test]
fn what_fails_half_way_is_taken_down() {
    let lab = TestLab::new("fails");
    fs::write(lab.folder.path().join("kenneld"), "no program at all").unwrap();
    fs::set_permissions(lab.folder.path().join("kenneld"), fs::Permissions::from_mode(0o644)).unwrap();
    lab.refused(&lab.up_words(2), &["cannot bring up lab fails", "host1", "taken down again"]);
    lab.check_nothing_is_left(None);
}

#[test]
fn bad_input_gets_a_sentence() {
    let lab = TestLab::up("input", 1);
    lab.refused(&lab.up_words(1), &["cannot bring up lab input", "one of this name", "--name"]);
    lab.refused(&["power-off", "host9"], &["cannot power off host9", "no such host", "host1"]);
    lab.refused(&["cut", "host1", "host9"], &["cannot cut host9", "no such host"]);
    lab.refused(&["status", "--name", "other"], &["there is no lab in", "kennel lab up"]);
    lab.refused(&["status", "--name", "../x"], &["cannot call a lab `../x`"]);
    lab.refused(&["up", "--hosts", "0"], &["0"]);
    lab.refused(
        &["up", "--name", "n", "--kenneld", "/nonexistent"],
        &["/nonexistent is not there", "--kenneld"],
    );
    let dir = ["up", "--name", "n", "--dir", "/run/x", "--kenneld", "/bin/true"];
    lab.refused(&dir, &["/run/x/n", "each host has a /run of its own"]);
    let foreign = lab.base().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.txt"), "years of work").unwrap();
    let words = [&lab.up_words(1)[..], &["--name".to_owned(), "foreign".to_owned()]].concat();
    lab.refused(&words, &["the folder holds something else"]);
    lab.refused(&["down", "--name", "foreign"], &["there is no lab in"]);
    assert!(foreign.join("thesis.txt").exists());
}

#[test]
fn an_ordinary_user_is_told_to_become_root() {
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // Where the build stands, an ordinary user may not look.
    let program = folder.path().join("kennel");
    // A copy of our own would be "busy" for as long as another test's child has not let go of its descriptor.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_kennel")).arg(&program).status().unwrap();
    assert!(copied.success());
    let output = Command::new(&program)
        .args(["lab", "status"])
        .uid(65534)
        .gid(65534)
        .current_dir("/")
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("need root"));
}
