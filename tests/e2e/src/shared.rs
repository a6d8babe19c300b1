//! Storage that all hosts of a lab share, and the BMCs that prove that a lost one is off.

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::{LIMIT, Lab};
use crate::wait;

pub const POOL: &str = "nfs1";

/// Makes the pool in a folder that every lab host sees, and waits until all of them have said so.
pub fn make_pool(lab: &Lab, hosts: u32) -> Result<PathBuf> {
    let folder = lab.folder().join("shared");
    std::fs::create_dir(&folder).context("make a folder that hosts share")?;
    let path = folder.display().to_string();
    lab.kennel(&["pool", "create", POOL, "--kind", "shared", "--path", &path])?;
    wait("all hosts to reach the pool", LIMIT, || {
        let pool = lab.json(&["pool", "show", POOL])?;
        let reached = pool["hosts"].as_array().cloned().unwrap_or_default();
        let all = reached.len() == hosts as usize && reached.iter().all(|host| host["reaches"] == true);
        Ok(all.then_some(()))
    })?;
    Ok(folder)
}

/// How a lab host's BMC is spoken with.
#[derive(Debug)]
struct Bmc {
    address: String,
    user: String,
    password: String,
}

fn bmc_of(lab: &Lab, host: &str) -> Result<Bmc> {
    let status: Value = serde_json::from_str(&lab.lab(&["status", "--json"])?)?;
    let hosts = status["hosts"].as_array().context("the lab's hosts")?;
    let bmc = &hosts.iter().find(|found| found["name"] == host).context("the host")?["bmc"];
    let text = |key: &str| bmc[key].as_str().map(str::to_owned).with_context(|| format!("the BMC's {key}"));
    Ok(Bmc { address: text("address")?, user: text("user")?, password: text("password")? })
}

/// `kennel host fence-device add` with the BMC of `of`; what it says, and whether it did it.
pub fn try_bmc(
    lab: &Lab,
    host: &str,
    of: &str,
    password: Option<&str>,
    words: &[&str],
) -> Result<(bool, String)> {
    let Bmc { address, user, password: right } = bmc_of(lab, of)?;
    let mut command = lab.command()?;
    command
        .args(["host", "fence-device", "add", host, "bmc", "--agent", "fence_ipmilan"])
        .args(["--option", &format!("ip={address}"), "--option", &format!("username={user}")])
        .args(["--option", "lanplus=1", "--option", "cipher=3", "--option", "power_wait=0"])
        .args(["--secret", "password", "--secrets-stdin"])
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("name a fence device")?;
    let mut stdin = child.stdin.take().context("its stdin")?;
    writeln!(stdin, "{}", password.unwrap_or(&right)).context("say the password")?;
    drop(stdin);
    let output = child.wait_with_output().context("wait for the command")?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// Names the host's own BMC.
pub fn add_bmc(lab: &Lab, host: &str, words: &[&str]) -> Result<()> {
    let (done, said) = try_bmc(lab, host, host, None, words)?;
    ensure!(done, "{said}");
    Ok(())
}
