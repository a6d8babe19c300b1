//! A host's daemon from its first start on: fresh, then a member of a cluster for good.
//!
//! ```text
//!   fresh ── init (makes a cluster) ──▶ member
//!     └───── join (with a token) ─────▶ member
//! ```
//!
//! A fresh daemon answers on its local socket only. What `init` and `join` leave half done is undone or
//! repeated: `identity.json` is written last, and without it the host is fresh.

mod found;
mod local;
mod member;
mod store_member;
mod tls;

use std::sync::Arc;

use anyhow::Context;
use host::qemu::{QemuConfig, QemuDriver, RunAs};
use tokio::sync::{Mutex, OnceCell};

use crate::config::{Config, Identity};
use crate::host_report::Facts;

pub use member::Member;
pub use tls::files as tls_files;

/// The daemon.
#[derive(Debug)]
pub struct Node {
    pub config: Config,
    pub driver: Arc<QemuDriver>,
    pub facts: Facts,
    pub member: OnceCell<Arc<Member>>,
    /// Held while the host becomes a member, so that it does so once.
    pub changing: Mutex<()>,
}

/// Runs until it is told to end. Guests outlive it.
pub async fn run(config: Config) -> anyhow::Result<()> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "cannot start kenneld: it manages machines, bridges and disks, which takes root; run it as root"
    );
    let config = config.absolute().context("find the folder that kenneld was started in")?;
    for folder in [&config.state_dir, &config.run_dir] {
        std::fs::create_dir_all(folder).with_context(|| format!("make the folder {}", folder.display()))?;
    }
    let _only_one = lock(&config)?;
    let mut qemu = QemuConfig::new(config.run_dir.clone(), config.state_dir.clone());
    qemu.run_as = RunAs::look_up(&config.guest_user);
    qemu.tls = Some(tls_files(&config));
    let driver = Arc::new(QemuDriver::new(qemu));
    let facts = Facts::gather(&config, &driver).await?;
    let node = Arc::new(Node { config, driver, facts, member: OnceCell::new(), changing: Mutex::new(()) });
    if let Some(identity) = Identity::load(&node.config)? {
        let member = member::start(&node, identity).await?;
        // It is empty: this is the first that is put there.
        let _ = node.member.set(member);
    } else {
        tracing::info!(
            "this host belongs to no cluster yet: `kennel cluster init` makes one, `join` joins one"
        );
    }
    let socket = node.config.local_socket();
    let handle = Arc::new(local::Handle(node.clone()));
    let local = tokio::spawn(async move { crate::http::serve_local(&socket, handle).await });
    tokio::select! {
        ended = local => {
            ended.context("serve the local socket")?.context("serve the local socket")?;
        }
        () = asked_to_end() => tracing::info!("asked to end; guests run on"),
    }
    Ok(())
}

/// Two daemons on one run directory would end each other's guests.
fn lock(config: &Config) -> anyhow::Result<nix::fcntl::Flock<std::fs::File>> {
    let path = config.run_dir.join("kenneld.lock");
    let file = std::fs::File::create(&path).with_context(|| format!("make {}", path.display()))?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
        anyhow::anyhow!(
            "cannot start kenneld: another one runs on {} ({error}); end it, or give this one another --run-dir",
            config.run_dir.display()
        )
    })
}

async fn asked_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
