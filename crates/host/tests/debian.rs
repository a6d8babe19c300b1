//! The Debian image: built from the archive, booted from its own disk under emulation, set up by its seed.
//!
//! It takes ten minutes: `cargo test -p host --test debian -- --ignored --nocapture`.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may fail loudly, as the tests do")]

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use host::image::build::build_debian;
use host::image::inspect::{Inspection, inspect};
use host::seed::{SeedContents, SeedNic, write_seed};
use model::{Bytes, ImageFormat, MacAddress};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// A whole systemd and cloud-init under emulation, on a busy machine.
const LIMIT: Duration = Duration::from_secs(900);

const MAC: [u8; 3] = [7, 8, 9];

/// Says on the console what the seed and the first boot made of the guest.
const USER_DATA: &str = r#"#cloud-config
runcmd:
  - |
    exec >/dev/ttyS0
    echo "NAME $(hostname)"
    echo "ADDRESS $(ip -4 -o address show scope global | tr -s ' ')"
    echo "ROOT $(df -k --output=size / | tail -1)"
    echo "KEYS $(cat /home/debian/.ssh/authorized_keys)"
    echo "SERVICES $(systemctl is-active ssh qemu-guest-agent | xargs)"
    echo "FAILED $(systemctl list-units --failed --plain --no-legend | wc -l)"
    echo "SETUP DONE"
"#;

fn seed(path: &Path) {
    let contents = SeedContents {
        instance_id: "one".to_owned(),
        hostname: "deb1".to_owned(),
        ssh_keys: vec!["ssh-ed25519 AAAATEST me".to_owned()],
        user_data: Some(USER_DATA.to_owned()),
        nics: vec![SeedNic {
            mac: MacAddress::from_random(MAC),
            address: Some("10.90.0.5/24".parse().unwrap()),
            gateway: Some("10.90.0.1".parse().unwrap()),
            mtu: None,
        }],
    };
    write_seed(path, &contents).unwrap();
}

#[tokio::test]
#[ignore = "it installs a whole Debian and boots it under emulation, which takes ten minutes"]
async fn a_debian_guest_boots_from_its_disk_and_obeys_its_seed() {
    // Not under /tmp: that may be in memory, or without device nodes.
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let began = Instant::now();
    let built = build_debian(dir.path(), Bytes::gib(2), &|step| println!("{step}")).await.unwrap();
    println!("built after {:?}: {:?}", began.elapsed(), std::fs::metadata(&built.disk).unwrap().len());
    let found = inspect(&built.disk).await.unwrap();
    assert_eq!(found, Inspection { format: ImageFormat::Qcow2, virtual_size: Bytes::gib(2) });
    let resize = Command::new("qemu-img").arg("resize").arg(&built.disk).arg("4G").status().await.unwrap();
    assert!(resize.success());
    seed(&dir.path().join("seed.img"));

    let booted = Instant::now();
    let seed_path = dir.path().join("seed.img");
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024", "-smp", "2"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"])
        .args(["-drive", &format!("if=virtio,format=qcow2,file={}", built.disk.display())])
        .args(["-drive", &format!("if=virtio,format=raw,readonly=on,file={}", seed_path.display())])
        .args(["-netdev", "hubport,id=n,hubid=0"])
        .args(["-device", &format!("virtio-net-pci,netdev=n,mac={}", MacAddress::from_random(MAC))])
        .args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"])
        .args(["-chardev", &format!("socket,id=a,server=on,wait=off,path={}/agent", dir.path().display())])
        .args(["-device", "virtserialport,chardev=a,name=org.qemu.guest_agent.0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut console = qemu.stdout.take().unwrap();
    let mut said = String::new();
    let mut chunk = [0; 4096];
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !said.contains("SETUP DONE") || !said.contains("deb1 login:") {
        let read = tokio::time::timeout_at(deadline, console.read(&mut chunk)).await;
        let read = read.unwrap_or_else(|_| panic!("it was not set up in time:\n{said}")).unwrap();
        assert!(read > 0, "QEMU ended early:\n{said}");
        tokio::io::stdout().write_all(&chunk[..read]).await.unwrap();
        said.push_str(&String::from_utf8_lossy(&chunk[..read]));
    }
    println!("\nset up after {:?}", booted.elapsed());
    for wanted in
        ["NAME deb1", "inet 10.90.0.5/24", "ssh-ed25519 AAAATEST me", "SERVICES active active", "FAILED 0"]
    {
        assert!(said.contains(wanted), "no '{wanted}' in:\n{said}");
    }
    let root = said.split("ROOT ").nth(1).unwrap().split_whitespace().next().unwrap();
    assert!(root.parse::<u64>().unwrap() > 3 << 20, "the root file system has only {root} KiB");
    qemu.kill().await.unwrap();
}
