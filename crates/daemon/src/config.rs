//! What a daemon is started with, and what it remembers of its cluster.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use model::HostName;
use serde::{Deserialize, Serialize};

/// The ports of a host; the same on every host of every cluster.
pub const API_PORT: u16 = 7440;
pub const STORE_CLIENT_PORT: u16 = 7441;
pub const STORE_PEER_PORT: u16 = 7442;
pub const REPLICA_PORT: u16 = 7443;

/// The watchdog's program.
const WATCHDOG: &str = "kennel-watchdog";

/// Kennel's daemon: one runs on each host.
#[derive(Debug, Clone, Parser)]
#[command(name = "kenneld", version, about)]
pub struct Config {
    /// This host's name in the cluster.
    #[arg(long, env = "KENNELD_NAME")]
    pub name: HostName,
    /// The address at which the other hosts reach this one.
    #[arg(long, env = "KENNELD_ADDRESS", value_parser = parse_address)]
    pub address: IpAddr,
    /// Hosts that may fail together, such as a rack, share a zone.
    #[arg(long, default_value = "default", env = "KENNELD_ZONE")]
    pub zone: String,
    /// A tag for placement rules; may be given more than once.
    #[arg(long = "tag")]
    pub tags: Vec<String>,
    /// How a network of guests leaves this host, as NETWORK=INTERFACE; may be given more than once.
    #[arg(long = "uplink", value_parser = parse_uplink, value_name = "NETWORK=INTERFACE")]
    pub uplinks: Vec<(String, String)>,
    /// What must outlive a reboot: volumes, images, keys, the store's member.
    #[arg(long, default_value = "/var/lib/kennel", env = "KENNELD_STATE_DIR")]
    pub state_dir: PathBuf,
    /// Sockets and the like; empty after a reboot.
    #[arg(long, default_value = "/run/kennel", env = "KENNELD_RUN_DIR")]
    pub run_dir: PathBuf,
    /// The user that guests run as, if there is one of that name.
    #[arg(long, default_value = "kennel")]
    pub guest_user: String,
    /// The program that ends guests when kenneld cannot; usually the one beside kenneld.
    #[arg(long, value_name = "PROGRAM", env = "KENNELD_WATCHDOG")]
    pub watchdog: Option<PathBuf>,
    /// Hardware that resets this host when a guest cannot be ended in time, as /dev/watchdog. None, unless it is named.
    #[arg(long, value_name = "DEVICE", env = "KENNELD_WATCHDOG_DEVICE")]
    pub watchdog_device: Option<PathBuf>,
    /// After how many seconds it does.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, env = "KENNELD_WATCHDOG_TIMEOUT",
          value_parser = clap::value_parser!(u32).range(5..=600))]
    pub watchdog_timeout: u32,
}

/// A program in this program's folder, or, if there is none, wherever programs are looked for.
fn beside_this_program(name: &str) -> PathBuf {
    let own = std::env::current_exe().ok();
    let near = own.and_then(|own| Some(own.parent()?.join(name)));
    near.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(name))
}

fn parse_uplink(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((network, interface)) if !network.is_empty() && !interface.is_empty() => {
            Ok((network.to_owned(), interface.to_owned()))
        }
        Some(_) | None => Err(format!("'{text}' is not of the form NETWORK=INTERFACE, as in default=eth1")),
    }
}

fn parse_address(text: &str) -> Result<IpAddr, String> {
    let wrong =
        |_| format!("'{text}' is not an IP address, as in 192.0.2.1; `ip address` shows those of this host");
    text.parse().map_err(wrong)
}

impl Config {
    /// Where the volumes of this host are.
    pub fn volumes_dir(&self) -> PathBuf {
        self.state_dir.join("volumes")
    }

    /// With whole paths: what QEMU is told must not depend on where it was started.
    pub fn absolute(mut self) -> std::io::Result<Config> {
        self.state_dir = std::path::absolute(&self.state_dir)?;
        self.run_dir = std::path::absolute(&self.run_dir)?;
        Ok(self)
    }

    /// How the watchdog of this host is run.
    pub fn watchdog_program(&self) -> host::watchdog::Program {
        let binary = self.watchdog.clone().unwrap_or_else(|| beside_this_program(WATCHDOG));
        let device = self.watchdog_device.clone().map(|device| (device, self.watchdog_timeout));
        host::watchdog::Program { binary, device }
    }

    pub fn uplinks(&self) -> BTreeMap<String, String> {
        self.uplinks.iter().cloned().collect()
    }

    pub fn pki_dir(&self) -> PathBuf {
        self.state_dir.join("pki")
    }

    pub fn store_dir(&self) -> PathBuf {
        self.state_dir.join("store")
    }

    pub fn api_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, API_PORT)
    }

    pub fn replica_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, REPLICA_PORT)
    }

    pub fn local_socket(&self) -> PathBuf {
        self.run_dir.join("kenneld.sock")
    }

    fn identity_file(&self) -> PathBuf {
        self.state_dir.join("identity.json")
    }
}

/// The URL at which a host's member of the store serves its clients.
pub fn store_client_url(address: IpAddr) -> String {
    format!("https://{}", SocketAddr::new(address, STORE_CLIENT_PORT))
}

/// The URL at which a host's member of the store meets the others.
pub fn store_peer_url(address: IpAddr) -> String {
    format!("https://{}", SocketAddr::new(address, STORE_PEER_PORT))
}

/// Which cluster this host belongs to. Written last when it joins: without it the host is fresh, whatever
/// else is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub cluster: String,
    pub name: HostName,
    pub address: IpAddr,
    /// Whether this host runs a member of the store.
    pub store_member: bool,
    /// Where the store was reached last, this host's own member first.
    pub store_endpoints: Vec<String>,
}

impl Identity {
    pub fn load(config: &Config) -> anyhow::Result<Option<Identity>> {
        let path = config.identity_file();
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let identity: Identity =
            serde_json::from_slice(&text).with_context(|| format!("understand {}", path.display()))?;
        anyhow::ensure!(
            identity.name == config.name && identity.address == config.address,
            "this host joined '{}' as {} at {}, and is started now as {} at {}; start it with the old name and \
             address",
            identity.cluster,
            identity.name,
            identity.address,
            config.name,
            config.address,
        );
        Ok(Some(identity))
    }

    pub fn save(&self, config: &Config) -> anyhow::Result<()> {
        write_durably(&config.identity_file(), &serde_json::to_vec_pretty(self)?, 0o644)
    }
}

/// Writes a file so that after a crash it holds the old text or the new one.
pub fn write_durably(path: &Path, text: &[u8], mode: u32) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let say = || format!("write {}", path.display());
    let folder = path.parent().context("a file stands in a folder")?;
    std::fs::create_dir_all(folder).with_context(say)?;
    let temporary = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .with_context(say)?;
    file.write_all(text).and_then(|()| file.sync_all()).with_context(say)?;
    std::fs::rename(&temporary, path).with_context(say)?;
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).with_context(say)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uplinks_read() {
        assert_eq!(parse_uplink("default=eth1"), Ok(("default".into(), "eth1".into())));
        for bad in ["default", "=eth1", "default="] {
            assert!(parse_uplink(bad).is_err(), "{bad}");
        }
    }
}
