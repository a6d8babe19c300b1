//! Asking other hosts, over mutual TLS.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use api::{Client, ClientError};
use model::{Host, HostName};

use crate::config::API_PORT;

/// One client for each host, made when it is first asked and kept.
#[derive(Debug, Clone)]
pub struct PeerClient {
    cluster: String,
    tls: rustls::ClientConfig,
    clients: Arc<Mutex<BTreeMap<(HostName, SocketAddr), Client>>>,
}

impl PeerClient {
    /// `tls` proves who this host is.
    pub fn new(cluster: String, tls: rustls::ClientConfig) -> PeerClient {
        PeerClient { cluster, tls, clients: Arc::default() }
    }

    /// A client that asks this host and no other.
    pub fn to(&self, host: &Host) -> Result<Client, ClientError> {
        let address = SocketAddr::new(host.address, API_PORT);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (host.name.clone(), address);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let endpoint = format!("https://{address}");
        let client = Client::for_host(self.cluster.clone(), &[endpoint], self.tls.clone())?;
        clients.insert(key, client.clone());
        Ok(client)
    }
}
