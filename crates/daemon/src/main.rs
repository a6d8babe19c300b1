//! `kenneld`: makes one host part of a cluster. See ARCHITECTURE.md for what runs in it.

mod agent;
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

use clap::Parser;
use tracing_subscriber::EnvFilter;

/// Threads that carry the daemon's own work; what blocks has threads of its own.
const WORKERS: usize = 2;

fn main() -> std::process::ExitCode {
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
