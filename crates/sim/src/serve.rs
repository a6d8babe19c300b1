//! A cluster of any size behind the real API and the real web page: what they take to serve a thousand hosts can be
//! measured on one machine.
//!
//! ```text
//!   cluster ──▶ MemoryStore ◀── life: so many transactions a second, as hosts and the leader would write them
//!                    │
//!               daemon::State ──▶ daemon::serve (the daemon's own router, over HTTPS) ──▶ the page, `kennel`, curl
//! ```
//!
//! Nothing runs behind the records: no agent, no leader, no machine. What is asked of the cluster is written into the
//! store, and stays there. Content and changes follow from the seed; times are those of the clock.

mod backend;
mod cluster;
mod life;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use daemon::{CertificateAuthority, HostIdentity, HostKey, PeerClient, State, bind, new_token, serve};
use jiff::Timestamp;
use model::TokenUse;
use store::MemoryStore;

use backend::Backend;
use cluster::{Filler, Plan};

/// What the cluster is called.
const NAME: &str = "sim";

/// As the daemon's own.
const WORKERS: usize = 2;

/// Serve a made-up cluster: the API and the web page, with guests that change.
#[derive(Debug, Args)]
pub struct Options {
    #[arg(long, default_value_t = 1000)]
    hosts: usize,
    #[arg(long, default_value_t = 20_000)]
    guests: usize,
    /// So many of the guests are on the host that answers, `host1`; the rest are spread.
    #[arg(long, default_value_t = 0)]
    here: usize,
    /// Changes a second.
    #[arg(long, default_value_t = 50)]
    rate: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value = "127.0.0.1:7440")]
    listen: SocketAddr,
}

/// Serves for ever. Prints one line of JSON when it does: where, and the token to sign in with.
pub fn run(options: &Options) -> anyhow::Result<()> {
    anyhow::ensure!(options.hosts > 0, "a cluster has one host or more");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?;
    runtime.block_on(serve_for_ever(options))
}

async fn serve_for_ever(options: &Options) -> anyhow::Result<()> {
    let plan = Plan::new(options.hosts, options.guests, options.here, options.seed);
    let store = Arc::new(MemoryStore::new());
    let authority = CertificateAuthority::create(NAME)?;
    let (token, stored) = new_token("admin", TokenUse::Admin, Timestamp::now(), None);
    let mut filler = Filler::new(&store);
    plan.fill(&mut filler, NAME, authority.certificate_pem(), &stored).await?;
    let state = State::start(store.clone());
    state.ready().await;

    let me = plan.me().clone();
    let key = HostKey::create()?;
    let certificate = authority.issue_host(&key.signing_request(&me)?, &me, options.listen.ip())?;
    let ca = authority.certificate_pem().to_owned();
    let identity = HostIdentity { ca: ca.clone(), certificate, key: key.key_pem() };
    let peers = PeerClient::new(NAME.to_owned(), identity.client_config()?);
    let folder = tempfile::tempdir().context("make a folder for images that are uploaded")?;
    let backend = Backend::new(me, state.clone(), peers, folder.path(), options.seed)?;

    let listener = bind(options.listen)?;
    let address = listener.local_addr()?;
    let tls = Arc::new(identity.server_config()?);
    tokio::spawn(life::live(state, plan, options.rate, options.seed));
    let line = serde_json::json!({ "url": format!("https://{address}"), "token": token, "ca": ca });
    writeln!(std::io::stdout(), "{line}")?;
    serve(listener, tls, Arc::new(backend)).await;
    Ok(())
}
