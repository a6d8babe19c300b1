//! Who does it: the daemon of one host. See ARCHITECTURE.md for what runs in it.
//!
//! `kenneld` is [`main`]. The rest that is public serves the HTTP API and the web page over another backend than a
//! host's own: `sim serve` puts a made-up cluster behind it.

mod agent;
mod alerts;
mod builds;
mod config;
mod events;
mod fencing;
mod held;
mod host_report;
mod http;
mod images;
mod leader;
mod node;
mod peer;
mod pki;
mod recorder;
mod session;
mod state;
mod usage;
mod watchdog;

use clap::Parser;
use tracing_subscriber::EnvFilter;

pub use http::{Backend, Shared, bind, new_token, serve};
pub use peer::PeerClient;
pub use pki::{CertificateAuthority, HostIdentity, HostKey, PkiError};
pub use state::State;

/// Threads that carry the daemon's own work; what blocks has threads of its own.
const WORKERS: usize = 2;

/// Runs `kenneld` with the arguments of this process.
pub fn main() -> std::process::ExitCode {
    let config = config::Config::parse();
    let filter = EnvFilter::try_from_env("KENNELD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(node::run(config)),
        Err(error) => Err(anyhow::Error::new(error).context("start the runtime")),
    };
    match ended {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kenneld: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
