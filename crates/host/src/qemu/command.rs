//! The command line of a machine: a pure function of what it is started with.
//!
//! What the choices serve:
//!
//! - Each disk is a chain of three nodes (see [`super::names`]). The file is opened through the page cache:
//!   the guest's flushes reach it, and a killed QEMU loses nothing that was written.
//! - A file that other hosts reach too is opened past the page cache (`cache.direct`), so that a host that takes
//!   the guest back does not read what it had cached in an earlier life; QEMU's lock on it (`locking`) keeps a second
//!   machine out.
//! - A disk error is reported to the guest, and does not stop the machine: stopping drains all writes, and
//!   while a mirror holds some of them that would hang QEMU's main loop for good. Only a write that finds no room stops
//!   it, because the write can be repeated when there is some, and the guest would take it for a broken disk; a
//!   machine that hangs for both reasons at once is ended and started anew (`let_go` tells).
//! - Guests may discard on thin disks only: any other replica stays fully allocated, so that no write ever lacks room.
//! - `-sandbox` denies all it can. QEMU never changes its user itself: it is started as that user.

use std::path::Path;

use model::{AcceleratorKind, Bytes, CpuLevel};
use serde_json::{Value, json};

use super::names::Names;
use crate::{BootFiles, CpuModel, MachineConfig, MachineDisk};

/// The files of one machine, all absolute.
#[derive(Debug, Clone)]
pub(crate) struct MachineFiles<'a> {
    /// Holds the sockets.
    pub run_dir: &'a Path,
    pub serial_log: &'a Path,
}

impl MachineFiles<'_> {
    pub fn qmp_socket(&self) -> std::path::PathBuf {
        self.run_dir.join("qmp.sock")
    }
}

/// Where a guest's screen is seen.
pub(crate) const SCREEN_SOCKET: &str = "screen.sock";

/// QEMU's cache of translated code, MiB. Its own default takes up to 1 GiB for each machine.
const TRANSLATION_CACHE_MIB: u32 = 128;

/// Where a machine's guest comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Origin<'a> {
    /// It boots.
    Boot,
    /// It comes from a machine of that type, on another host.
    Elsewhere { machine_type: &'a str },
}

/// The arguments of QEMU for this machine.
pub(crate) fn arguments(config: &MachineConfig, files: &MachineFiles<'_>, origin: Origin<'_>) -> Vec<String> {
    let mut line = CommandLine::default();
    let label = &config.label;
    line.option("-name", format!("guest={0},process=kennel-{0}", label.guest));
    line.option("-uuid", label.id.to_string());
    for flag in ["-S", "-nodefaults", "-no-user-config"] {
        line.flag(flag);
    }
    line.option("-msg", "timestamp=on");
    line.option("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    processor(&mut line, config, origin);
    boot(&mut line, &config.boot);
    // A guest that shuts down ends QEMU. One that panics stands still: its screen can still be looked at, and after a
    // reset it boots in the same machine, whose mirrors never ended (docs/decisions/0035).
    line.option("-action", "reboot=reset,shutdown=poweroff,panic=pause");
    // On the ISA bus it has no state, so a guest still moves from and to a machine without it.
    line.option("-device", "pvpanic");
    line.option("-rtc", "base=utc");
    for (index, disk) in config.disks.iter().enumerate() {
        let boots = index == 0 && matches!(config.boot, BootFiles::Disk);
        attach_disk(&mut line, disk, boots);
    }
    if let Some(seed) = &config.seed {
        attach_seed(&mut line, seed);
    }
    for (index, nic) in config.nics.iter().enumerate() {
        let tap = escape(&nic.tap);
        line.option("-netdev", format!("tap,id=net{index},ifname={tap},script=no,downscript=no"));
        line.option("-device", format!("virtio-net-pci,id=nic{index},netdev=net{index},mac={}", nic.mac));
    }
    line.option("-object", "rng-builtin,id=rng0");
    line.option("-device", "virtio-rng-pci,rng=rng0");
    line.option("-device", "virtio-balloon-pci,id=balloon0");
    channels(&mut line, files);
    if let Origin::Elsewhere { .. } = origin {
        line.option("-incoming", "defer");
    }
    line.arguments
}

#[derive(Debug, Default)]
struct CommandLine {
    arguments: Vec<String>,
}

impl CommandLine {
    fn flag(&mut self, flag: &str) {
        self.arguments.push(flag.to_owned());
    }

    fn option(&mut self, name: &str, value: impl Into<String>) {
        self.arguments.push(name.to_owned());
        self.arguments.push(value.into());
    }

    fn json(&mut self, name: &str, value: &Value) {
        self.option(name, value.to_string());
    }
}

fn processor(line: &mut CommandLine, config: &MachineConfig, origin: Origin<'_>) {
    line.option(
        "-machine",
        match origin {
            Origin::Boot => config.machine_type.as_deref().unwrap_or("q35"),
            Origin::Elsewhere { machine_type } => machine_type,
        },
    );
    match config.accelerator {
        AcceleratorKind::Kvm => line.option("-accel", "kvm"),
        AcceleratorKind::Tcg => {
            line.option("-accel", format!("tcg,thread=multi,tb-size={TRANSLATION_CACHE_MIB}"));
        }
    }
    line.option("-cpu", cpu(config.accelerator, config.cpu));
    line.option("-smp", config.vcpus.to_string());
    line.option("-m", format!("{}K", config.memory.0 / Bytes::KIB));
}

/// QEMU has no models that are called like the levels (its manual, "Recommendations for KVM CPU model
/// configuration on x86 hosts", gives the ABI levels of those that it has, and they bring a vendor's family and
/// quirks along). So a level is QEMU's plain `qemu64` and what the level has beyond that, as Proxmox VE builds
/// its models of these names (PVE/QemuServer/CPUConfig.pm). `enforce`: rather no machine than one without what it
/// should have. The psABI's names are QEMU's, but for SSE3 (`pni`) and LZCNT (`abm`).
fn cpu(accelerator: AcceleratorKind, model: CpuModel) -> String {
    let level = match (model, accelerator) {
        (CpuModel::Tcg | CpuModel::Host, AcceleratorKind::Kvm) => return "host".to_owned(),
        (CpuModel::Tcg | CpuModel::Host, AcceleratorKind::Tcg) => return "max".to_owned(),
        (CpuModel::Level(level), AcceleratorKind::Kvm | AcceleratorKind::Tcg) => level,
    };
    let added = |level: CpuLevel| match level {
        // Some of the second level is in `qemu64` already: `cx16`, `lahf_lm` and `pni`.
        CpuLevel::V1 => "",
        CpuLevel::V2 => ",+cx16,+lahf_lm,+popcnt,+pni,+sse4.1,+sse4.2,+ssse3",
        CpuLevel::V3 => ",+avx,+avx2,+bmi1,+bmi2,+f16c,+fma,+abm,+movbe,+xsave",
        CpuLevel::V4 => ",+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl",
    };
    let features: String = CpuLevel::ALL.into_iter().filter(|lower| *lower <= level).map(added).collect();
    format!("qemu64{features},enforce")
}

fn boot(line: &mut CommandLine, boot: &BootFiles) {
    match boot {
        BootFiles::Disk => {}
        BootFiles::Kernel { kernel, initrd, command_line } => {
            line.option("-kernel", kernel.display().to_string());
            if let Some(initrd) = initrd {
                line.option("-initrd", initrd.display().to_string());
            }
            line.option("-append", command_line.clone());
        }
    }
}

fn attach_disk(line: &mut CommandLine, disk: &MachineDisk, boots: bool) {
    let names = Names::of(disk.volume);
    let discard = if disk.thin { "unmap" } else { "ignore" };
    let zeroes = if disk.thin { "unmap" } else { "off" };
    line.json(
        "-blockdev",
        &json!({
            "driver": "file", "node-name": names.file(), "filename": disk.path,
            "aio": "threads", "locking": "on", "discard": discard,
            "cache": { "direct": disk.shared, "no-flush": false },
        }),
    );
    line.json(
        "-blockdev",
        &json!({
            "driver": "raw", "node-name": names.format(), "file": names.file(), "discard": discard,
            "detect-zeroes": zeroes,
        }),
    );
    line.json(
        "-blockdev",
        &json!({ "driver": "raw", "node-name": names.top(), "file": names.format(), "discard": discard }),
    );
    let boot_index = if boots { ",bootindex=1" } else { "" };
    line.option(
        "-device",
        format!(
            "virtio-blk-pci,id={},drive={},serial={},write-cache=on,discard={},\
             werror=enospc,rerror=report{boot_index}",
            names.device(),
            names.top(),
            names.short(),
            if disk.thin { "on" } else { "off" }
        ),
    );
}

fn attach_seed(line: &mut CommandLine, seed: &Path) {
    line.json(
        "-blockdev",
        &json!({ "driver": "file", "node-name": "seed-file", "filename": seed, "read-only": true }),
    );
    line.json(
        "-blockdev",
        &json!({ "driver": "raw", "node-name": "seed", "file": "seed-file", "read-only": true }),
    );
    line.option("-device", "virtio-blk-pci,id=seed,drive=seed,serial=kennel-seed");
}

/// The ways in: the guest agent's channel, the first serial port, QMP, and the screen.
fn channels(line: &mut CommandLine, files: &MachineFiles<'_>) {
    let socket = |name: &str| escape(&files.run_dir.join(name).display().to_string());
    line.option("-device", "virtio-serial-pci,id=serial-bus");
    line.option("-chardev", format!("socket,id=agent,path={},server=on,wait=off", socket("agent.sock")));
    line.option("-device", "virtserialport,bus=serial-bus.0,chardev=agent,name=org.qemu.guest_agent.0");
    line.option(
        "-chardev",
        format!(
            "socket,id=serial0,path={},server=on,wait=off,logfile={},logappend=on",
            socket("serial.sock"),
            escape(&files.serial_log.display().to_string())
        ),
    );
    line.option("-serial", "chardev:serial0");
    line.option("-chardev", qmp_chardev(&files.qmp_socket()));
    line.option("-mon", "chardev=qmp,mode=control");
    // Every system drives this card and these inputs from its first second on. QEMU draws only while somebody looks.
    line.option("-vnc", format!("unix:{},share=force-shared", socket(SCREEN_SOCKET)));
    line.option("-device", "VGA,id=screen");
    line.option("-device", "qemu-xhci,id=usb");
    line.option("-device", "usb-tablet,id=pointer,bus=usb.0");
}

/// The socket that QEMU listens on for us. It also marks the process as ours.
pub(crate) fn qmp_chardev(socket: &Path) -> String {
    format!("socket,id=qmp,path={},server=on,wait=off", escape(&socket.display().to_string()))
}

/// QEMU ends an option's value at a comma, and reads two as one.
pub(crate) fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use model::{Epoch, MacAddress};

    use super::*;
    use crate::{MachineLabel, MachineNic};

    fn config() -> MachineConfig {
        MachineConfig {
            label: MachineLabel {
                guest: "web1".parse().unwrap(),
                id: "0192f0c4-0000-7000-8000-000000000001".parse().unwrap(),
                epoch: Epoch(3),
                boot_generation: 1,
            },
            vcpus: 2,
            memory: Bytes::mib(256),
            accelerator: AcceleratorKind::Tcg,
            cpu: CpuModel::Tcg,
            machine_type: None,
            boot: BootFiles::Disk,
            disks: vec![MachineDisk {
                volume: "0192f0c4-1111-7222-8333-444455556666".parse().unwrap(),
                path: PathBuf::from("/v/a,b.raw"),
                shared: false,
                thin: false,
            }],
            seed: None,
            nics: Vec::new(),
        }
    }

    fn line(config: &MachineConfig) -> String {
        let run_dir = Path::new("/run/k/g");
        let files = MachineFiles { run_dir, serial_log: Path::new("/var/k/g/serial,log") };
        arguments(config, &files, Origin::Boot).join(" ")
    }

    fn check(config: &MachineConfig, expected: &[&str]) {
        let line = line(config);
        for part in expected {
            assert!(line.contains(part), "{part} is not in: {line}");
        }
    }

    #[test]
    fn a_machine_starts_paused_and_locked_in() {
        check(
            &config(),
            &[
                "-name guest=web1,process=kennel-web1 ",
                "-action reboot=reset,shutdown=poweroff,panic=pause -device pvpanic ",
                "-uuid 0192f0c4-0000-7000-8000-000000000001 -S ",
                "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny ",
                "-machine q35 -accel tcg,thread=multi,tb-size=128 -cpu max -smp 2 -m 262144K ",
                "-chardev socket,id=qmp,path=/run/k/g/qmp.sock,server=on,wait=off -mon chardev=qmp,mode=control",
                "logfile=/var/k/g/serial,,log,logappend=on",
            ],
        );
    }

    #[test]
    fn a_machine_for_a_guest_from_elsewhere_is_like_the_one_there() {
        let files = MachineFiles { run_dir: Path::new("/r"), serial_log: Path::new("/s") };
        let origin = Origin::Elsewhere { machine_type: "pc-q35-7.2" };
        let there = arguments(&config(), &files, origin).join(" ");
        let here = arguments(&config(), &files, Origin::Boot).join(" ");
        assert_eq!(there, here.replace("-machine q35", "-machine pc-q35-7.2") + " -incoming defer");
    }

    #[test]
    fn a_processor_is_pinned_to_a_level() {
        let at = |cpu, accelerator| MachineConfig { cpu, accelerator, ..config() };
        let (kvm, tcg) = (AcceleratorKind::Kvm, AcceleratorKind::Tcg);
        check(&at(CpuModel::Host, kvm), &["-accel kvm -cpu host "]);
        check(&at(CpuModel::Level(CpuLevel::V1), tcg), &["-cpu qemu64,enforce "]);
        check(
            &at(CpuModel::Level(CpuLevel::V3), kvm),
            &[",+ssse3,+avx,+avx2,+bmi1,+bmi2,+f16c,+fma,+abm,+movbe,+xsave,enforce "],
        );
        check(&at(CpuModel::Level(CpuLevel::V4), kvm), &["+xsave,+avx512f,"]);
        let pinned = MachineConfig { machine_type: Some("pc-q35-7.2".to_owned()), ..config() };
        check(&pinned, &["-machine pc-q35-7.2 "]);
    }

    #[test]
    fn a_disk_is_a_chain_of_three_nodes() {
        check(
            &config(),
            &[
                r#""filename":"/v/a,b.raw","locking":"on","node-name":"file-8333444455556666""#,
                r#""file":"file-8333444455556666","node-name":"fmt-8333444455556666""#,
                r#""file":"fmt-8333444455556666","node-name":"top-8333444455556666""#,
                "drive=top-8333444455556666,serial=8333444455556666,",
                "discard=off,werror=enospc,rerror=report,bootindex=1",
            ],
        );
        assert!(!line(&config()).contains("unmap"));
    }

    #[test]
    fn a_thin_disk_gives_room_back() {
        let mut config = config();
        config.disks[0].thin = true;
        let line = line(&config);
        assert_eq!(line.matches(r#""discard":"unmap""#).count(), 3, "{line}");
        assert!(line.contains(r#""detect-zeroes":"unmap""#) && line.contains(",discard=on,"), "{line}");
    }

    #[test]
    fn a_disk_that_other_hosts_reach_is_opened_past_the_page_cache_and_locked() {
        let mut config = config();
        check(&config, &[r#""cache":{"direct":false,"no-flush":false}"#]);
        config.disks[0].shared = true;
        check(&config, &[r#""cache":{"direct":true,"no-flush":false}"#, r#""locking":"on""#]);
    }

    #[test]
    fn a_kernel_of_its_own_takes_the_place_of_the_boot_loader() {
        let boot = BootFiles::Kernel {
            kernel: PathBuf::from("/i/vmlinuz"),
            initrd: Some(PathBuf::from("/i/initrd")),
            command_line: "console=ttyS0 quiet".to_owned(),
        };
        let nic = MachineNic { tap: "ktap1n0".to_owned(), mac: MacAddress::from_random([1, 2, 3]) };
        let seed = Some(PathBuf::from("/s/seed.img"));
        let kvm = AcceleratorKind::Kvm;
        let config = MachineConfig { boot, seed, nics: vec![nic], accelerator: kvm, ..config() };
        check(
            &config,
            &[
                "-accel kvm -cpu host ",
                "-kernel /i/vmlinuz -initrd /i/initrd -append console=ttyS0 quiet ",
                "-netdev tap,id=net0,ifname=ktap1n0,script=no,downscript=no ",
                "-device virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:01:02:03 ",
                r#""filename":"/s/seed.img","node-name":"seed-file","read-only":true"#,
            ],
        );
        assert!(!line(&config).contains("bootindex"));
    }
}
