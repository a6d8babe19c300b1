//! Looking at the replica servers of other hosts: one look a second at each that holds a secondary of ours.
//!
//! QEMU says nothing while it waits for a secondary, so this is how a hold is noticed. A look is at the server's
//! greeting, which comes before TLS; only who asks for an export shows a certificate.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use host::replica::ReplicaClient;
use model::HostName;
use plan::limits::PROBE_EVERY;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::Config;

/// What was seen of one replica server.
#[derive(Debug, Clone, Copy)]
pub struct Sight {
    /// The last look found it answering.
    pub answers: bool,
    /// When it last did; when the looking began, if it never has.
    pub last_seen: Instant,
}

/// Who looks at which server.
type Table = BTreeMap<(HostName, SocketAddr), watch::Receiver<Sight>>;

/// Every replica server that somebody here looks at.
#[derive(Debug, Clone, Default)]
pub struct Looks {
    looks: Arc<Mutex<Table>>,
}

impl Looks {
    /// Begins to look, or goes on; each change of what is seen wakes the receiver. The looking ends when the
    /// last receiver is dropped.
    pub fn look(&self, host: &HostName, address: SocketAddr) -> watch::Receiver<Sight> {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.retain(|_, receiver| receiver.has_changed().is_ok());
        let key = (host.clone(), address);
        if let Some(receiver) = looks.get(&key) {
            return receiver.clone();
        }
        let begin = Sight { answers: false, last_seen: Instant::now() };
        let (sender, receiver) = watch::channel(begin);
        tokio::spawn(look_on(address, sender));
        looks.insert(key, receiver.clone());
        receiver
    }
}

/// Asks replica servers what they serve; they let in only those with a certificate of the cluster.
pub fn client(config: &Config) -> ReplicaClient {
    ReplicaClient::new(Some(crate::node::tls_files(config)))
}

async fn look_on(address: SocketAddr, sender: watch::Sender<Sight>) {
    let mut ticks = tokio::time::interval(PROBE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // One receiver is the table's own.
    while sender.receiver_count() > 1 {
        ticks.tick().await;
        let answers = host::replica::probe(address).await;
        sender.send_if_modified(|sight| {
            let changed = sight.answers != answers;
            sight.answers = answers;
            if answers {
                sight.last_seen = Instant::now();
            }
            changed
        });
    }
}
