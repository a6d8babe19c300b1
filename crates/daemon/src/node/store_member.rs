//! This host's part in the state store: its own member, where it has one, and the way to the others.

use std::time::Duration;

use anyhow::Context;
use store::etcd::EtcdStore;
use store::member::{MemberConfig, MemberStart, StoreMember};
use store::{JoinTicket, PkiFiles, StoreError, TlsPem};

use crate::config::{Config, Identity, store_client_url, store_peer_url};

/// How long a new member may take to catch up. The store stays whole meanwhile: a learner has no vote.
const CATCH_UP: Duration = Duration::from_secs(120);

/// Between two tries.
const RETRY_AFTER: Duration = Duration::from_secs(1);

pub fn pki_files(config: &Config) -> PkiFiles {
    let folder = config.pki_dir();
    PkiFiles { ca: folder.join("ca.pem"), cert: folder.join("host.pem"), key: folder.join("host.key") }
}

fn member_config(config: &Config, start: MemberStart) -> MemberConfig {
    MemberConfig {
        name: config.name.to_string(),
        data_dir: config.store_dir(),
        client_url: store_client_url(config.address),
        peer_url: store_peer_url(config.address),
        pki: pki_files(config),
        start,
    }
}

fn connect(config: &Config, endpoints: Vec<String>) -> anyhow::Result<EtcdStore> {
    let tls = TlsPem::read(&pki_files(config)).context("read this host's certificates")?;
    EtcdStore::connect(endpoints, Some(tls)).context("set up the connection to the state store")
}

/// Begins a new store whose only member is here.
pub async fn found(config: &Config) -> anyhow::Result<(StoreMember, EtcdStore)> {
    let member = StoreMember::start(member_config(config, MemberStart::New)).await?;
    Ok((member, connect(config, vec![store_client_url(config.address)])?))
}

/// Opens the store; starts this host's member if it has one. A member that has no data yet joins, and has
/// its vote when this returns.
pub async fn open(config: &Config, identity: &Identity) -> anyhow::Result<(Option<StoreMember>, EtcdStore)> {
    let own = store_client_url(config.address);
    let others: Vec<String> = identity.store_endpoints.iter().filter(|url| **url != own).cloned().collect();
    if !identity.store_member {
        return Ok((None, connect(config, others)?));
    }
    let start = if store::member::holds_member(&config.store_dir()) {
        MemberStart::New
    } else {
        let store = connect(config, others.clone())?;
        MemberStart::Join(announce(config, &store).await?)
    };
    let joins = matches!(start, MemberStart::Join(_));
    let member = StoreMember::start(member_config(config, start)).await?;
    // A learner cannot answer for the store; the others do until it has its vote.
    let first = if joins { others.clone() } else { std::iter::once(own).chain(others).collect() };
    let store = connect(config, first)?;
    if joins {
        promote(config, &store).await?;
    }
    Ok((Some(member), store))
}

/// Tells the store of this host's member. Repeated, it finds what it announced before.
async fn announce(config: &Config, store: &EtcdStore) -> anyhow::Result<JoinTicket> {
    let deadline = tokio::time::Instant::now() + CATCH_UP;
    loop {
        match store.add_member(config.name.as_str(), &store_peer_url(config.address)).await {
            Ok(ticket) => return Ok(ticket),
            Err(error @ (StoreError::Refused(_) | StoreError::LeaseGone)) => {
                return Err(error).context("join the state store");
            }
            Err(error) if tokio::time::Instant::now() >= deadline => {
                return Err(error).context("join the state store");
            }
            Err(error) => tracing::info!(%error, "cannot join the state store yet; trying again"),
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

/// Gives this host's member its vote if it has none yet: a join may have been broken off before that.
pub async fn promote(config: &Config, store: &EtcdStore) -> anyhow::Result<()> {
    let peer_url = store_peer_url(config.address);
    loop {
        match store.list_members().await {
            Ok(members) => {
                let own = members.iter().find(|member| member.peer_urls.contains(&peer_url));
                let Some(own) = own.filter(|member| member.learner) else { return Ok(()) };
                return store.promote_when_ready(own.id, CATCH_UP).await.context("join the state store");
            }
            Err(error) => tracing::debug!(%error, "the store's members are not known yet"),
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}
