//! One member of the store: its connection, and what its failures mean.

use std::error::Error as _;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tonic::Code;
use tonic::transport::Endpoint;

use super::CONNECT_TIMEOUT;
use crate::StoreError;

/// Where the certificates of this host are: the authority's, this host's own, and its key. PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PkiFiles {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// What those files hold.
#[derive(Clone)]
pub struct TlsPem {
    pub ca: Vec<u8>,
    pub cert: Vec<u8>,
    pub key: Vec<u8>,
}

impl TlsPem {
    pub fn read(files: &PkiFiles) -> std::io::Result<Self> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|error| {
                std::io::Error::new(error.kind(), format!("read {}: {error}", path.display()))
            })
        };
        Ok(Self { ca: read(&files.ca)?, cert: read(&files.cert)?, key: read(&files.key)? })
    }
}

impl fmt::Debug for TlsPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsPem").finish_non_exhaustive()
    }
}

/// One member and its connection, which is made at the first request and made again when it is lost.
#[derive(Debug)]
pub(super) struct Link {
    url: String,
    endpoint: Endpoint,
    client: Mutex<Option<Connected>>,
}

struct Connected(Client);

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connected")
    }
}

/// Why a request to a member has no answer of the kind that was asked for.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing was done, and nothing will be; another member may do it.
    NotDone(String),
    /// It may have been done, or may yet be.
    Unknown(String),
    /// The store's own answer; another member would say the same.
    Answer(StoreError),
}

impl Link {
    pub(super) fn new(url: String, tls: Option<&TlsPem>) -> Result<Self, StoreError> {
        let refused = |error: tonic::transport::Error| {
            StoreError::Refused(format!("use {url} as an endpoint: {}", chain(&error)))
        };
        let mut endpoint = Endpoint::from_shared(url.clone())
            .map_err(refused)?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true);
        if let Some(tls) = tls {
            let config = TlsOptions::new()
                .ca_certificate(Certificate::from_pem(&tls.ca))
                .identity(Identity::from_pem(&tls.cert, &tls.key));
            endpoint = endpoint.tls_config(config).map_err(refused)?;
        }
        Ok(Self { url, endpoint, client: Mutex::new(None) })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// A client on this member's connection. Does not wait for the network.
    pub(super) async fn client(&self) -> Result<Client, Failure> {
        if let Some(Connected(client)) = &*self.client.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(client.clone());
        }
        let channel = etcd_client::Channel::Tonic(self.endpoint.connect_lazy());
        let options = ConnectOptions::new().with_require_leader(true);
        let client = Client::from_channel(channel, Some(options)).await.map_err(Failure::of)?;
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(Connected(client.clone()));
        Ok(client)
    }

    /// Gives the connection up: what is silent for too long may be dead for much longer.
    pub(super) fn disconnect(&self) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Makes one request, within a limit. A connection on which one got lost is given up.
    pub(super) async fn ask<T, F>(&self, limit: Duration, ask: impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let client = self.client().await?;
        let answer = match tokio::time::timeout(limit, ask(client)).await {
            Ok(answer) => answer.map_err(Failure::of),
            Err(_elapsed) => Err(Failure::Unknown(format!("{} did not answer within {limit:?}", self.url))),
        };
        if matches!(answer, Err(Failure::Unknown(_))) {
            self.disconnect();
        }
        answer
    }
}

/// What etcd says when it has not taken a request: no leader is known (the first two), the member still
/// learns, it has too much to do, or a member has joined less than five seconds ago. (Texts of etcd's `api/v3rpc/rpctypes/error.go`.)
const NOT_DONE: [&str; 6] = [
    "etcdserver: no leader",
    "raft proposal dropped",
    "etcdserver: unhealthy cluster",
    "etcdserver: rpc not supported for learner",
    "etcdserver: too many requests",
    "etcdserver: not capable",
];
const LEASE_NOT_FOUND: &str = "etcdserver: requested lease not found";
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
/// The revision of a listing's further pages, or of a watch, is forgotten.
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";

impl Failure {
    pub(super) fn of(error: etcd_client::Error) -> Self {
        use etcd_client::Error;
        if let Error::GRpcStatus(status) = &error {
            return Self::of_status(status);
        }
        match &error {
            Error::TransportError(transport) if never_sent(transport) => Failure::NotDone(chain(transport)),
            Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::EndpointError(_) => {
                Failure::Answer(StoreError::Refused(error.to_string()))
            }
            // The client's own word for an answer of a time-to-live of 0.
            Error::LeaseKeepAliveError(why) if why == "lease not found" => {
                Failure::Answer(StoreError::LeaseGone)
            }
            Error::TransportError(_)
            | Error::GRpcStatus(_)
            | Error::LeaseKeepAliveError(_)
            | Error::IoError(_)
            | Error::WatchError(_)
            | Error::Utf8Error(_)
            | Error::ElectError(_)
            | Error::InvalidMetadataValue(_)
            | Error::EndpointsNotManaged
            | Error::Internal(_) => Failure::Unknown(error.to_string()),
        }
    }

    fn of_status(status: &tonic::Status) -> Self {
        let says = status.message();
        if never_sent(status) {
            return Failure::NotDone(status.source().map_or_else(|| says.to_owned(), chain));
        }
        if NOT_DONE.contains(&says) || says == COMPACTED {
            return Failure::NotDone(says.to_owned());
        }
        if says == LEASE_NOT_FOUND {
            return Failure::Answer(StoreError::LeaseGone);
        }
        if says == NO_SPACE {
            let why = "its database is full; compact and defragment it, then disarm its NOSPACE alarm";
            return Failure::Answer(StoreError::Refused(why.to_owned()));
        }
        let refused = matches!(
            status.code(),
            Code::InvalidArgument
                | Code::FailedPrecondition
                | Code::NotFound
                | Code::AlreadyExists
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::Unimplemented
        );
        // All else, `request timed out` and `leader changed` among it, may have been done.
        if refused {
            Failure::Answer(StoreError::Refused(says.to_owned()))
        } else {
            Failure::Unknown(status.source().map_or_else(|| says.to_owned(), chain))
        }
    }

    /// For people.
    pub(super) fn why(self) -> String {
        match self {
            Failure::NotDone(why) | Failure::Unknown(why) => why,
            Failure::Answer(error) => error.to_string(),
        }
    }
}

/// Whether a request failed before it left: no connection could be made.
fn never_sent(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        // The connector's own time-out. An `io::Error` hides what it wraps from `source`.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if wrapped.is_some_and(|inner| inner.is::<tokio::time::error::Elapsed>()) {
            return true;
        }
        next = error.source();
    }
    false
}

/// An error with all that caused it, without the repetitions.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let part = error.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        next = error.source();
    }
    text
}
