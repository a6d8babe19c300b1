//! What the lab remembers of itself: one JSON file in its folder, written before the lab acts.
//!
//! Whoever changes it holds the lock, so commands, and the BMCs' power buttons, may come at the same time.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::process::ProcessRef;

/// More would not fit the machine; it also keeps all addresses in one /24.
pub const MAX_HOSTS: u8 = 32;
/// Where a host's API listens, inside the lab.
pub const API_PORT: u16 = 7440;
/// Where IPMI listens.
pub const IPMI_PORT: u16 = 623;
/// The switch on the management network: what the API forwarders speak from.
pub const SWITCH_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);
/// The switch on the guests' network, so that a test can speak with a guest.
pub const SWITCH_GUEST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 254);
/// The BMC of host n has the address of host n, this much further.
const BMC_OFFSET: u8 = 100;
/// BMCs know this user; each has a password of its own.
pub const BMC_USER: &str = "admin";

const STATE_FILE: &str = "state.json";
const NEW_STATE_FILE: &str = "state.json.new";
const LOCK_FILE: &str = "lock";

/// Everything about one lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Unique among all labs that ever were; what processes are marked with.
    pub id: String,
    pub name: String,
    /// The `up` that builds it, and after that the one that did.
    pub builder: ProcessRef,
    /// Whether that `up` came to its end.
    pub complete: bool,
    /// Whether `up` made the folder that all labs stand in.
    pub made_base: bool,
    pub kennel: PathBuf,
    pub kenneld: PathBuf,
    pub switch: Option<ProcessRef>,
    pub hosts: Vec<Host>,
    pub cuts: BTreeSet<Cut>,
    /// The size of the disk, in bytes, that each host has for its volumes; none: the machine's.
    #[serde(default)]
    pub volume_disk: Option<u64>,
}

/// One host of the lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Host {
    pub name: String,
    /// Its place in all addresses, from 1.
    pub number: u8,
    pub bmc_password: String,
    pub bmc: Option<ProcessRef>,
    /// The port on 127.0.0.1 that leads to its API.
    pub api_port: Option<u16>,
    /// Its first process, since it was last powered on. It may be gone.
    pub first_process: Option<ProcessRef>,
}

/// A link that is cut. Hosts by name, in order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Cut {
    /// The host reaches nobody.
    Whole {
        host: String,
        /// Also the way from 127.0.0.1 to its API.
        api_too: bool,
    },
    /// Two hosts do not reach one another.
    Between { one: String, other: String },
}

impl Host {
    pub fn new(number: u8) -> Self {
        Self {
            name: format!("host{number}"),
            number,
            bmc_password: uuid::Uuid::new_v4().simple().to_string().chars().take(12).collect(),
            bmc: None,
            api_port: None,
            first_process: None,
        }
    }

    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.number)
    }

    pub fn bmc_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, BMC_OFFSET + self.number)
    }

    /// Where its API is reached from the machine.
    pub fn api_endpoint(&self) -> Option<String> {
        self.api_port.map(|port| format!("https://{}:{port}", IpAddr::from(Ipv4Addr::LOCALHOST)))
    }

    /// Its first process, if it has power.
    pub fn running(&self) -> Option<ProcessRef> {
        self.first_process.filter(|process| process.is_alive())
    }
}

impl State {
    /// The host of this name, or a sentence. `wish` is an infinitive: what was to be done with it.
    pub fn host(&self, wish: &str, name: &str) -> Result<&Host> {
        self.hosts.iter().find(|host| host.name == name).ok_or_else(|| self.unknown(wish, name))
    }

    pub fn host_mut(&mut self, wish: &str, name: &str) -> Result<&mut Host> {
        let unknown = self.unknown(wish, name);
        self.hosts.iter_mut().find(|host| host.name == name).ok_or(unknown)
    }

    fn unknown(&self, wish: &str, name: &str) -> anyhow::Error {
        let known: Vec<&str> = self.hosts.iter().map(|host| host.name.as_str()).collect();
        anyhow!("cannot {wish} {name}: lab {} has no such host; it has {}", self.name, known.join(", "))
    }

    /// The first process of a host that must have power for what is wished.
    pub fn running(&self, wish: &str, name: &str) -> Result<ProcessRef> {
        self.host(wish, name)?.running().ok_or_else(|| {
            anyhow!("cannot {wish} {name}: it has no power; `kennel lab power-on {name}` gives it some")
        })
    }

    /// The switch, without which no host reaches another.
    pub fn living_switch(&self) -> Result<ProcessRef> {
        self.switch.filter(|switch| switch.is_alive()).ok_or_else(|| {
            anyhow!(
                "the switch of lab {} is gone (was the machine restarted?); `kennel lab down --name {}` and then \
                 `kennel lab up` make a new lab",
                self.name,
                self.name
            )
        })
    }
}

/// A lab's folder.
#[derive(Debug, Clone)]
pub struct Lab {
    pub folder: PathBuf,
}

impl Lab {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn host_folder(&self, host: &str) -> PathBuf {
        self.folder.join("hosts").join(host)
    }

    pub fn exists(&self) -> bool {
        self.path(STATE_FILE).exists()
    }

    /// Whether the folder holds nothing but what an `up` leaves that died before it wrote down anything.
    pub fn is_stillborn(&self) -> Result<bool> {
        for entry in fs::read_dir(&self.folder).with_context(|| format!("read {}", self.folder.display()))? {
            let name = entry.context("read the lab's folder")?.file_name();
            if name != LOCK_FILE && name != NEW_STATE_FILE {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub fn load(&self) -> Result<State> {
        let path = self.path(STATE_FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
                "there is no lab in {}; `kennel lab up` makes one, --name and --dir choose another",
                self.folder.display()
            ),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        serde_json::from_str(&text).with_context(|| {
            format!("understand {}, which a different version of kennel may have written", path.display())
        })
    }

    /// Changes the state with the lock held. What `change` did is written down even when it then failed.
    pub fn edit<T>(&self, change: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let _lock = self.lock()?;
        let mut state = self.load()?;
        let result = change(&mut state);
        self.save(&state)?;
        result
    }

    pub fn lock(&self) -> Result<Flock<File>> {
        let path = self.path(LOCK_FILE);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .with_context(|| format!("lock {}", path.display()))
    }

    /// Writes the state as a whole, or not at all.
    pub fn save(&self, state: &State) -> Result<()> {
        let text = serde_json::to_vec_pretty(state).context("write down the lab's state")?;
        write_secret(&self.path(NEW_STATE_FILE), &text)?;
        fs::rename(self.path(NEW_STATE_FILE), self.path(STATE_FILE)).context("replace the lab's state")
    }
}

/// Writes a file that only its owner may read: it holds a password or a token.
pub fn write_secret(path: &Path, content: &[u8]) -> Result<()> {
    OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content))
        .with_context(|| format!("write {}", path.display()))
}
