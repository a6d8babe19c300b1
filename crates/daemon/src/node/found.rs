//! Making a cluster, and joining one.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use api::{Client, ClientConfig, JoinRequest, JoinToken};
use jiff::Timestamp;
use model::{Cluster, Host, Network, Schema, Settings, TokenUse};
use store::{Cache, Outcome, Secret, Store, StoreError, keys};

use super::{Member, Node, member, store_member};
use crate::config::{Config, Identity, store_client_url, write_durably};
use crate::http;
use crate::pki::{self, CA_KEY_SECRET, CertificateAuthority, HostKey};

/// How long a new store may take until it answers.
const STORE_STARTS_WITHIN: Duration = Duration::from_secs(60);

/// Between two tries.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// The network that a cluster begins with.
const FIRST_NETWORK: &str = "default";
const FIRST_SUBNET: &str = "10.90.0.0/24";
const MTU: u32 = 1500;

/// The name of the token that `init` makes.
const FIRST_TOKEN: &str = "admin";

/// Makes a cluster of which this host is the first, and says how to reach it.
pub async fn init(node: &Arc<Node>, name: &str) -> anyhow::Result<(Arc<Member>, ClientConfig)> {
    let config = &node.config;
    let listener = http::bind(config.api_address())?;
    forget_earlier_try(config)?;
    let authority = CertificateAuthority::create(name)?;
    let key = HostKey::create()?;
    let certificate =
        authority.issue_host(&key.signing_request(&config.name)?, &config.name, config.address)?;
    write_pki(config, authority.certificate_pem(), &certificate, &key)?;
    let (store_member, etcd) = match store_member::found(config).await {
        Ok(opened) => opened,
        Err(error) => {
            forget_earlier_try(config)?;
            return Err(error);
        }
    };
    let token = match write_first_records(config, &etcd, name, &authority).await {
        Ok(token) => token,
        Err(error) => {
            store_member.stop().await;
            forget_earlier_try(config)?;
            return Err(error);
        }
    };
    let identity = Identity {
        cluster: name.to_owned(),
        name: config.name.clone(),
        address: config.address,
        store_member: true,
        store_endpoints: vec![store_client_url(config.address)],
    };
    identity.save(config)?;
    let member = member::start_with(node, identity, listener, Some(store_member), etcd).await?;
    let client = ClientConfig {
        cluster: name.to_owned(),
        endpoints: vec![member::api_endpoint(config.api_address())],
        token,
        ca: authority.certificate_pem().to_owned(),
    };
    Ok((member, client))
}

/// Without an identity nothing that is here was ever told to anybody.
fn forget_earlier_try(config: &Config) -> anyhow::Result<()> {
    for folder in [config.pki_dir(), config.store_dir()] {
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", folder.display()));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn write_pki(config: &Config, ca: &str, certificate: &str, key: &HostKey) -> anyhow::Result<()> {
    let files = store_member::pki_files(config);
    write_durably(&files.ca, ca.as_bytes(), 0o644)?;
    write_durably(&files.cert, certificate.as_bytes(), 0o644)?;
    write_durably(&files.key, key.key_pem().as_bytes(), 0o600)
}

/// The records that a cluster begins with, in one transaction. The admin token.
async fn write_first_records(
    config: &Config,
    store: &dyn Store,
    name: &str,
    authority: &CertificateAuthority,
) -> anyhow::Result<String> {
    let now = Timestamp::now();
    let (token, stored) = http::new_token(FIRST_TOKEN, TokenUse::Admin, now, None);
    let cluster = Cluster {
        name: name.to_owned(),
        id: uuid::Uuid::new_v4(),
        created_at: now,
        ca_certificate: authority.certificate_pem().to_owned(),
        settings: Settings::default(),
    };
    let host = Host {
        name: config.name.clone(),
        address: config.address,
        zone: config.zone.clone(),
        tags: config.tags.iter().cloned().collect(),
        joined_at: now,
        store_member: true,
        duty: model::Duty::default(),
        settings: model::HostSettings::default(),
    };
    let network =
        Network { name: FIRST_NETWORK.parse()?, subnet: FIRST_SUBNET.parse()?, gateway: None, mtu: MTU };
    let secret = Secret { name: CA_KEY_SECRET.to_owned(), text: authority.key_pem().to_owned() };
    let nothing = Cache::new();
    let mut txn = nothing.txn();
    txn.create(&Schema::CURRENT)
        .create(&cluster)
        .create(&host)
        .create(&network)
        .create(&secret)
        .create(&stored);
    let txn = txn.build()?;
    let deadline = tokio::time::Instant::now() + STORE_STARTS_WITHIN;
    loop {
        let error = match store.commit(txn.clone()).await {
            Ok(Outcome::Committed { .. }) => return Ok(token),
            // An earlier try of this loop arrived after all: the store is new, and nobody else knows it.
            Ok(Outcome::Conflict) => return Ok(token),
            Err(error @ (StoreError::Unavailable(_) | StoreError::Unknown(_))) => error,
            Err(error @ (StoreError::LeaseGone | StoreError::Refused(_))) => return Err(error.into()),
        };
        if tokio::time::Instant::now() >= deadline {
            return Err(error).context("wait for the new state store");
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

/// Makes this host a member of the cluster that a join token names.
pub async fn join(node: &Arc<Node>, token: &JoinToken) -> anyhow::Result<Arc<Member>> {
    let config = &node.config;
    // Before the token is used up: what would fail afterwards fails here.
    drop(http::bind(config.api_address())?);
    forget_earlier_try(config)?;
    let key = HostKey::create()?;
    let request = JoinRequest {
        secret: token.secret.clone(),
        name: config.name.clone(),
        address: config.address,
        zone: config.zone.clone(),
        tags: config.tags.iter().cloned().collect(),
        signing_request: key.signing_request(&config.name)?,
    };
    let tls = pki::pinned_client_config(&token.ca_sha256)?;
    let client = Client::for_host(String::new(), &token.endpoints, tls)?;
    let answer = client.join(&request).await?;
    write_pki(config, &answer.cluster.ca_certificate, &answer.certificate, &key)?;
    let members = answer.hosts.iter().filter(|host| host.store_member);
    let own = answer.hosts.iter().find(|host| host.name == config.name);
    let identity = Identity {
        cluster: answer.cluster.name.clone(),
        name: config.name.clone(),
        address: config.address,
        store_member: own.is_some_and(|host| host.store_member),
        store_endpoints: members.map(|host| store_client_url(host.address)).collect(),
    };
    identity.save(config)?;
    tracing::info!(cluster = %identity.cluster, "joined; {} is the store's key for it", keys::host(&config.name));
    member::start(node, identity).await
}
