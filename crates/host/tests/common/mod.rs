//! What the tests of machines and mirrors share: a folder that stands for two hosts, and guests that need no
//! image.
#![allow(dead_code, reason = "each test program uses its own part of this")]

pub mod writer;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::qemu::{QemuConfig, QemuDriver, RunAs, TlsFiles};
use host::replica::{FileFacts, ReplicaConfig, StorageDaemon};
use host::{
    BootFiles, CpuModel, ExportName, Hypervisor, Machine, MachineConfig, MachineDisk, MachineLabel,
    MirrorState,
};
use model::{AcceleratorKind, BootId, Bytes, Epoch, GuestId, ReplicaFile, VolumeId};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use uuid::Uuid;

/// Generous: two busy cores and emulation.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A guest that shuts down as soon as it boots: `mov $0x604,%dx; mov $0x2000,%ax; out %ax,%dx; hlt`.
const QUITTER: &[u8] = &[0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4];

/// A guest that says `P` and panics (QEMU's docs/specs/pvpanic.rst), each time that it boots:
/// `mov $0x3f8,%dx; mov $'P',%al; out %al,%dx; mov $0x505,%dx; mov $1,%al; out %al,%dx; hlt; jmp .`
#[rustfmt::skip]
const PANICKER: &[u8] = &[
    0xba, 0xf8, 0x03, 0xb0, b'P', 0xee, 0xba, 0x05, 0x05, 0xb0, 0x01, 0xee, 0xf4, 0xeb, 0xfe,
];

/// A guest that fills its memory from 64 to 576 KiB with numbers:
///
/// ```text
///     cld; xor %ax,%ax
/// 1:  mov $0x1000,%bx
/// 2:  mov %bx,%es; xor %di,%di; mov $0x8000,%cx; inc %ax; rep stosw
///     add $0x1000,%bx; cmp $0x9000,%bx; jb 2b; jmp 1b
/// ```
#[rustfmt::skip]
const DIRTIER: &[u8] = &[
    0xfc, 0x31, 0xc0, 0xbb, 0x00, 0x10, 0x8e, 0xc3, 0x31, 0xff, 0xb9, 0x00, 0x80, 0x40, 0xf3, 0xab,
    0x81, 0xc3, 0x00, 0x10, 0x81, 0xfb, 0x00, 0x90, 0x72, 0xec, 0xeb, 0xe7,
];

/// Each record up to the last acknowledged one is there, or the one that took its place.
pub fn check_records(disk: &[u8], last: u32, replica: &str) {
    let rounds = u32::try_from(writer::RECORDS).unwrap();
    for n in last.saturating_sub(rounds - 2).max(1)..=last {
        let found = writer::record(disk, n);
        assert!(found == n || found == n + rounds, "{replica}: record {n} of {last} is {found}");
    }
}

/// One folder with everything in it. Whatever still runs out of it is ended with it.
pub struct Bench {
    folder: tempfile::TempDir,
    pub guest: GuestId,
    pub volume: VolumeId,
    listen: SocketAddr,
    listen_here: SocketAddr,
    /// For everything that goes between the hosts.
    pub tls: Option<TlsFiles>,
}

impl Bench {
    pub fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        // Others than root must be able to reach into it.
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), everybody).unwrap();
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (one, other) = (free(), free());
        let (listen, listen_here) = (one.local_addr().unwrap(), other.local_addr().unwrap());
        let bench = Bench {
            folder,
            guest: GuestId(Uuid::now_v7()),
            volume: VolumeId(Uuid::now_v7()),
            listen,
            listen_here,
            tls: None,
        };
        let mut quitter = vec![0; writer::DISK];
        quitter[..QUITTER.len()].copy_from_slice(QUITTER);
        quitter[510..512].copy_from_slice(&[0x55, 0xaa]);
        std::fs::write(bench.path("quitter.raw"), quitter).unwrap();
        let mut panicker = vec![0; writer::DISK];
        panicker[..PANICKER.len()].copy_from_slice(PANICKER);
        panicker[510..512].copy_from_slice(&[0x55, 0xaa]);
        std::fs::write(bench.path("panicker.raw"), panicker).unwrap();
        std::fs::write(bench.path("primary.raw"), writer::disk()).unwrap();
        std::fs::write(bench.path("secondary.raw"), vec![0xa5; writer::DISK]).unwrap();
        bench
    }

    /// A replica in that file, on that host.
    pub fn replica_file(&self, host: &str, file: &str) -> ReplicaFile {
        let facts = FileFacts::of(&std::fs::File::open(self.path(file)).unwrap()).unwrap();
        let file = facts.expect("this file system knows when its files were made").id;
        ReplicaFile { host: host.parse().unwrap(), boot_id: BootId(self.guest.0), file }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn driver(&self, run_as: Option<RunAs>) -> QemuDriver {
        QemuDriver::new(QemuConfig {
            run_as,
            tls: self.tls.clone(),
            ..QemuConfig::new(self.path("run"), self.path("state"))
        })
    }

    /// The driver of the secondary's host.
    pub fn driver_there(&self) -> QemuDriver {
        let config = QemuConfig::new(self.path("there/run"), self.path("there/state"));
        QemuDriver::new(QemuConfig { tls: self.tls.clone(), ..config })
    }

    pub fn replicas(&self, run_as: Option<RunAs>) -> StorageDaemon {
        StorageDaemon::new(ReplicaConfig {
            run_as,
            tls: self.tls.clone(),
            ..ReplicaConfig::new(self.path("run"), self.listen)
        })
    }

    /// The server of the replicas on the first host, once the guest has left it.
    pub fn replicas_here(&self) -> StorageDaemon {
        let config = ReplicaConfig::new(self.path("here"), self.listen_here);
        StorageDaemon::new(ReplicaConfig { tls: self.tls.clone(), ..config })
    }

    pub fn replica_address_here(&self) -> SocketAddr {
        self.listen_here
    }

    pub fn replica_address(&self) -> SocketAddr {
        self.listen
    }

    pub fn export(&self, epoch: u64) -> ExportName {
        ExportName::new(self.volume, Epoch(epoch), BootId(self.guest.0))
    }

    /// As [`Self::config`], of a guest that fills half a megabyte of its memory for ever.
    pub fn dirtying_config(&self) -> MachineConfig {
        let mut disk = vec![0; writer::DISK];
        disk[..DIRTIER.len()].copy_from_slice(DIRTIER);
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        std::fs::write(self.path("dirtier.raw"), disk).unwrap();
        self.config("dirtier.raw")
    }

    pub fn config(&self, disk: &str) -> MachineConfig {
        MachineConfig {
            label: MachineLabel {
                guest: "web1".parse().unwrap(),
                id: self.guest,
                epoch: Epoch(1),
                boot_generation: 1,
            },
            vcpus: 1,
            memory: Bytes::mib(64),
            accelerator: AcceleratorKind::Tcg,
            cpu: CpuModel::Tcg,
            machine_type: None,
            boot: BootFiles::Disk,
            disks: vec![MachineDisk {
                volume: self.volume,
                path: self.path(disk),
                shared: false,
                thin: false,
            }],
            seed: None,
            nics: Vec::new(),
        }
    }

    /// A guest that writes records, and has written some.
    pub async fn writing_guest(&self) -> Arc<dyn Machine> {
        let machine = self.driver(None).launch(&self.config("primary.raw")).await.unwrap();
        machine.resume().await.unwrap();
        self.writes_on().await;
        machine
    }

    pub fn serial_log(&self) -> Vec<u8> {
        std::fs::read(self.driver(None).serial_log(self.guest)).unwrap_or_default()
    }

    /// The last record that the guest was told is safe.
    pub fn acknowledged(&self) -> u32 {
        writer::last_acknowledged(&self.serial_log())
    }

    /// What the guest said on the secondary's host.
    pub fn serial_log_there(&self) -> Vec<u8> {
        std::fs::read(self.driver_there().serial_log(self.guest)).unwrap_or_default()
    }

    /// The last record of a guest that has moved to the secondary's host.
    pub fn acknowledged_there(&self) -> u32 {
        writer::last_acknowledged(&self.serial_log_there())
    }

    /// Whether the guest was ever told that a write failed.
    pub fn write_failed(&self) -> bool {
        let said = [self.serial_log(), self.serial_log_there()].concat();
        said.split(|byte| *byte == b'\n').any(|line| line == b"E")
    }

    /// Waits until the guest has written some more records.
    pub async fn writes_on(&self) {
        let before = self.acknowledged();
        wait_until("the guest writes", || self.acknowledged() > before + 5).await;
    }

    /// Waits until the guest has not got a record written for a while, and gives the last one. A guest that
    /// can write does so hundreds of times a second.
    pub async fn held(&self) -> u32 {
        let mut last = (self.acknowledged(), Instant::now());
        wait_until("the guest's writes are held", || {
            let now = self.acknowledged();
            if now != last.0 {
                last = (now, Instant::now());
            }
            last.1.elapsed() > Duration::from_millis(700)
        })
        .await;
        last.0
    }

    pub fn disk(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Sends commands to the guest's QEMU, which nobody else may be connected to; each must succeed.
    pub async fn tell_qemu(&self, commands: &[&str]) {
        let socket = self.path("run/guests").join(self.guest.to_string()).join("qmp.sock");
        let (read, mut write) = tokio::net::UnixStream::connect(socket).await.unwrap().into_split();
        let mut lines = BufReader::new(read).lines();
        for command in [&[r#"{"execute":"qmp_capabilities"}"#], commands].concat() {
            write.write_all(format!("{command}\n").as_bytes()).await.unwrap();
            loop {
                let line = lines.next_line().await.unwrap().unwrap();
                assert!(!line.contains("\"error\""), "{command}: {line}");
                if line.contains("\"return\"") {
                    break;
                }
            }
        }
    }

    /// Processes of a program that run out of this folder.
    pub fn pids(&self, program: &str) -> Vec<i32> {
        let folder = self.folder.path().to_str().unwrap().to_owned();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).into_owned();
                line.split('\0').next().is_some_and(|zero| zero.ends_with(program)) && line.contains(&folder)
            })
            .collect()
    }

    /// As if the process had crashed.
    pub fn kill_9(&self, program: &str) {
        let pids = self.pids(program);
        assert!(!pids.is_empty(), "no {program} runs");
        for pid in pids {
            signal(pid, "-KILL");
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for program in ["qemu-system-x86_64", "qemu-storage-daemon"] {
            self.pids(program).into_iter().for_each(|pid| signal(pid, "-KILL"));
        }
    }
}

pub fn signal(pid: i32, signal: &str) {
    Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
}

pub async fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < deadline, "waited {} s in vain until {what}", PATIENCE.as_secs());
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

pub async fn wait_until_ready(machine: &Arc<dyn Machine>, volume: VolumeId) {
    let deadline = Instant::now() + PATIENCE;
    let mut events = machine.events();
    loop {
        match machine.mirror(volume).await.unwrap() {
            MirrorState::Ready => return,
            MirrorState::Filling { done, total } => assert!(done <= total),
            state @ (MirrorState::Absent | MirrorState::Broken(_)) => panic!("the mirror is {state:?}"),
        }
        assert!(Instant::now() < deadline, "the mirror does not get ready");
        drop(tokio::time::timeout(LOOK_AGAIN, events.recv()).await);
    }
}
