//! Programs that the lab needs from the machine, and how to get them.

use std::path::PathBuf;

use anyhow::{Result, bail};

/// Debian's package for each program that the lab starts itself.
const PACKAGES: [(&str, &str); 3] = [("ip", "iproute2"), ("nft", "nftables"), ("ipmi_sim", "openipmi")];

/// Where system programs stand, even when the caller's PATH does not say so.
const SYSTEM_FOLDERS: [&str; 4] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"];

pub fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(SYSTEM_FOLDERS.iter().map(PathBuf::from));
    for folder in folders {
        let candidate = folder.join(program);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    let package = PACKAGES.iter().find(|(name, _)| *name == program).map_or(program, |(_, package)| package);
    bail!("the program `{program}` is not on this machine; `apt-get install {package}` brings it")
}

/// Refuses at the start what would fail half-way.
pub fn check_all() -> Result<()> {
    for (program, _) in PACKAGES {
        find(program)?;
    }
    Ok(())
}
