//! The tiny image: built from Debian's packages, booted under emulation with a seed, and shut down.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may fail loudly, as the tests do")]

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use host::accelerator::detect;
use host::image::build::{TINY_UP, build_tiny};
use host::seed::{SeedContents, SeedNic, write_seed};
use model::MacAddress;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

/// Emulation on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(120);

const MAC: [u8; 3] = [7, 8, 9];

fn seed(dir: &Path) {
    let contents = SeedContents {
        instance_id: "one".to_owned(),
        hostname: "web1".to_owned(),
        ssh_keys: vec![],
        user_data: Some(
            "#!/bin/sh\necho \"working as $(hostname) on $(cat /sys/block/vda/size)\"\n".to_owned(),
        ),
        nics: vec![SeedNic {
            mac: MacAddress::from_random(MAC),
            address: Some("10.90.0.5/24".parse().unwrap()),
            gateway: Some("10.90.0.1".parse().unwrap()),
            mtu: Some(1400),
        }],
    };
    write_seed(&dir.join("seed.img"), &contents).unwrap();
}

fn boot(dir: &Path, command_line: &str) -> Child {
    let path = |name: &str| dir.join(name).display().to_string();
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "128"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"])
        .args(["-kernel", &path("vmlinuz"), "-initrd", &path("initrd"), "-append", command_line])
        .args(["-drive", &format!("if=virtio,format=raw,file={}", path("disk.raw"))])
        .args(["-drive", &format!("if=virtio,format=raw,readonly=on,file={}", path("seed.img"))])
        .args(["-netdev", "hubport,id=n,hubid=0"])
        .args(["-device", &format!("virtio-net-pci,netdev=n,mac={}", MacAddress::from_random(MAC))])
        .args(["-device", "virtio-rng-pci", "-device", "virtio-balloon-pci", "-device", "virtio-serial-pci"])
        .args(["-chardev", &format!("socket,id=a,server=on,wait=off,path={}", path("agent.sock"))])
        .args(["-device", "virtserialport,chardev=a,name=org.qemu.guest_agent.0"])
        .args(["-monitor", &format!("unix:{},server=on,wait=off", path("monitor.sock"))])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    qemu.spawn().unwrap()
}

/// What the guest says on its serial line.
struct Console {
    stdin: tokio::process::ChildStdin,
    stdout: tokio::process::ChildStdout,
    said: String,
}

impl Console {
    async fn wait_for(&mut self, wanted: &str) {
        let mut chunk = [0; 4096];
        let deadline = tokio::time::Instant::now() + LIMIT;
        while !self.said.contains(wanted) {
            let read = tokio::time::timeout_at(deadline, self.stdout.read(&mut chunk)).await;
            let read = read.unwrap_or_else(|_| panic!("no '{wanted}' in:\n{}", self.said)).unwrap();
            assert!(read > 0, "QEMU ended before '{wanted}':\n{}", self.said);
            self.said.push_str(&String::from_utf8_lossy(&chunk[..read]));
        }
    }
}

/// Asks the guest agent until it answers.
async fn ask_agent(socket: &Path, request: &str) -> String {
    let ask = async {
        let mut lines = BufReader::new(UnixStream::connect(socket).await.unwrap());
        lines.write_all(format!("{request}\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        lines.read_line(&mut answer).await.unwrap();
        answer
    };
    tokio::time::timeout(LIMIT, ask).await.expect("the guest agent answers")
}

#[tokio::test]
async fn the_tiny_guest_boots_works_and_shuts_down() {
    let dir = tempfile::tempdir().unwrap();
    let built = build_tiny(dir.path(), &|step| println!("{step}")).await.unwrap();
    seed(dir.path());

    let started = Instant::now();
    let mut qemu = boot(dir.path(), &built.kernel_command_line.unwrap());
    let mut console = Console {
        stdin: qemu.stdin.take().unwrap(),
        stdout: qemu.stdout.take().unwrap(),
        said: String::new(),
    };
    console.wait_for(&format!("{TINY_UP} web1")).await;
    println!("up after {:?}", started.elapsed());

    console.wait_for("working as web1 on 2048").await;
    console.wait_for("web1:/root# ").await;
    // The shell's answer differs from what is typed, which the terminal echoes.
    console
        .stdin
        .write_all(b"ip address show eth0; ip route; free; echo typed | tr a-z A-Z\n")
        .await
        .unwrap();
    console.wait_for("TYPED").await;
    for wanted in ["inet 10.90.0.5/24", "mtu 1400", "default via 10.90.0.1"] {
        assert!(console.said.contains(wanted), "no '{wanted}' in:\n{}", console.said);
    }
    println!("{}", console.said);

    let answer = ask_agent(&dir.path().join("agent.sock"), r#"{"execute":"guest-ping"}"#).await;
    assert!(answer.contains("return"), "{answer}");
    println!("agent after {:?}", started.elapsed());

    let pressed = Instant::now();
    let mut monitor = UnixStream::connect(dir.path().join("monitor.sock")).await.unwrap();
    monitor.write_all(b"system_powerdown\n").await.unwrap();
    let status = tokio::time::timeout(LIMIT, qemu.wait()).await.expect("it shuts down").unwrap();
    assert!(status.success(), "{status}");
    println!("off after {:?}", pressed.elapsed());

    // Whatever this machine's KVM is worth, there is an answer in time, with a reason.
    let files = (dir.path().join("vmlinuz"), dir.path().join("initrd"));
    let qemu = Path::new("qemu-system-x86_64");
    let found = tokio::time::timeout(LIMIT, detect(qemu, Some((&files.0, &files.1)))).await.unwrap();
    println!("{found:?}");
    assert!(!found.why.is_empty());
}
