//! A BMC for each host: a real IPMI device (`ipmi_sim`) on the management network, whose power button is ours.
//!
//! `ipmi_sim` asks for and sets the power through a program that we give it: a script that calls `kennel lab
//! bmc-power`. So fence agents and ipmitool do to a lab's host what they do to a machine in a rack.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::SigSet;

use super::process::{MARK, ProcessRef, wait_until};
use super::state::{BMC_USER, Host, IPMI_PORT, Lab, State};
use super::{power, space, tools};

const START_LIMIT: Duration = Duration::from_secs(20);

/// The smallest IPMI device: one controller with an event log.
const EMULATOR_COMMANDS: &str = "\
mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
sel_enable 0x20 1000 0x0a
mc_enable 0x20
";

/// Starts all BMCs and returns when they listen.
pub fn start_all(lab: &Lab) -> Result<()> {
    let state = lab.load()?;
    for host in &state.hosts {
        let process = start(lab, &state, host).with_context(|| format!("start the BMC of {}", host.name))?;
        lab.edit(|state| {
            state.host_mut("start the BMC of", &host.name)?.bmc = Some(process);
            Ok(())
        })?;
    }
    let switch = state.living_switch()?;
    for host in &state.hosts {
        wait_until(START_LIMIT, &format!("the BMC of {} to listen", host.name), || {
            let sockets = format!("/proc/{}/net/udp", switch.pid);
            let sockets = fs::read_to_string(&sockets).with_context(|| format!("read {sockets}"))?;
            Ok(sockets.contains(&socket_name(host)).then_some(()))
        })?;
    }
    Ok(())
}

/// The BMC's socket as /proc/net/udp writes it: the address as one number in the machine's byte order.
fn socket_name(host: &Host) -> String {
    format!("{:08X}:{IPMI_PORT:04X}", u32::from_ne_bytes(host.bmc_address().octets()))
}

fn start(lab: &Lab, state: &State, host: &Host) -> Result<ProcessRef> {
    let folder = lab.host_folder(&host.name).join("bmc");
    fs::create_dir_all(folder.join("state")).with_context(|| format!("make {}", folder.display()))?;
    let button = folder.join("button");
    let script = format!(
        "#!/bin/sh\nexec {} lab bmc-power {} {} -- \"$@\"\n",
        shell_quoted(&state.kennel),
        shell_quoted(&lab.folder),
        host.name
    );
    fs::write(&button, script).context("write the power button")?;
    fs::set_permissions(&button, fs::Permissions::from_mode(0o755)).context("make the button a program")?;
    fs::write(folder.join("commands"), EMULATOR_COMMANDS).context("write the BMC's commands")?;
    super::state::write_secret(&folder.join("lan.conf"), configuration(host, &button).as_bytes())?;

    let program = tools::find("ipmi_sim")?;
    let log = super::open_log(&folder.join("log"))?;
    let mut command = Command::new(program);
    command
        .args(["-c", "lan.conf", "-f", "commands", "-s", "state", "-n"])
        .current_dir(&folder)
        .env(MARK, &state.id)
        // A ctrl-c at the terminal is not for it.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("share the log")?)
        .stderr(log);
    let child = space::in_network_of(state.living_switch()?, || command.spawn().context("run ipmi_sim"))?;
    ProcessRef::of(child.id())
}

fn configuration(host: &Host, button: &Path) -> String {
    let Host { name, bmc_password, .. } = host;
    let methods = "none md2 md5 straight";
    format!(
        "name \"bmc-{name}\"\n\
         set_working_mc 0x20\n\
         startlan 1\n\
         addr {} {IPMI_PORT}\n\
         priv_limit admin\n\
         allowed_auths_callback {methods}\n\
         allowed_auths_user {methods}\n\
         allowed_auths_operator {methods}\n\
         allowed_auths_admin {methods}\n\
         guid a123456789abcdefa1234567000000{:02x}\n\
         endlan\n\
         chassis_control \"{}\"\n\
         user 1 true \"\" \"\" user 10 {methods}\n\
         user 2 true \"{BMC_USER}\" \"{bmc_password}\" admin 10 {methods}\n",
        host.bmc_address(),
        host.number,
        shell_quoted(button),
    )
}

fn shell_quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

/// The hidden command behind the button: `get WORD…` prints what is, `set WORD VALUE…` makes it so.
pub fn press(lab: &Lab, host: &str, words: &[String]) -> Result<()> {
    forget_inheritance()?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["get", names @ ..] => {
            let has_power = lab.load()?.host("ask for the power of", host)?.running().is_some();
            let mut stdout = std::io::stdout().lock();
            for name in names {
                match *name {
                    "power" => writeln!(stdout, "power:{}", u8::from(has_power)),
                    "boot" => writeln!(stdout, "boot:default"),
                    _ => bail!("a BMC of the lab knows power and boot, not `{name}`"),
                }
                .context("answer the BMC")?;
            }
            Ok(())
        }
        ["set", settings @ ..] => settings.chunks(2).try_for_each(|setting| {
            set(lab, host, setting)?;
            write_down(lab, host, setting)
        }),
        _ => bail!("a BMC of the lab understands `get` and `set`, not `{}`", words.join(" ")),
    }
}

fn set(lab: &Lab, host: &str, setting: &[&str]) -> Result<()> {
    match setting {
        ["power", "1"] => lab.edit(|state| power::turn_on(lab, state, host)),
        // The operating system in there cannot be asked politely.
        ["power", "0"] | ["shutdown", _] => lab.edit(|state| power::turn_off(state, host)),
        ["reset", _] => lab.edit(|state| {
            power::turn_off(state, host)?;
            power::turn_on(lab, state, host)
        }),
        ["boot", _] => Ok(()),
        _ => bail!("a BMC of the lab cannot set `{}`", setting.join(" ")),
    }
}

/// The BMC's own log: what it has done, when it is done, as in `2026-11-21T20:00:00Z power 0`.
fn write_down(lab: &Lab, host: &str, setting: &[&str]) -> Result<()> {
    let path = lab.host_folder(host).join("bmc").join("power.log");
    let mut log = super::open_log(&path)?;
    writeln!(log, "{} {}", jiff::Timestamp::now(), setting.join(" "))
        .with_context(|| format!("write {}", path.display()))
}

/// What `ipmi_sim` leaves open to its children (its sockets among it) must not live on in a host that we start.
fn forget_inheritance() -> Result<()> {
    SigSet::empty().thread_set_mask().context("unblock signals")?;
    let mut inherited: Vec<i32> = Vec::new();
    for entry in fs::read_dir("/proc/self/fd").context("read /proc/self/fd")? {
        let name = entry.context("read /proc/self/fd")?.file_name();
        inherited.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()).filter(|fd| *fd > 2));
    }
    for descriptor in inherited {
        // One of them was the listing itself, which is closed by now.
        let _ = nix::unistd::close(descriptor);
    }
    Ok(())
}
