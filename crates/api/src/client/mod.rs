//! The typed client: one method for each thing that can be asked.
//!
//! A client knows several hosts of its cluster and tries them in turn, the one that answered last first.
//! It goes on to the next host only when that is safe: the connection could not be made, the request only
//! reads, or the host said that nothing was done because the state store does not answer *it*. A request
//! that changes something and breaks off half way is never sent twice ([`ClientError::Interrupted`]).

mod calls;
mod console;
mod error;
mod fencing;
mod incidents;
mod local;
mod peer;
mod planning;
mod series;
mod tls;
mod upload;
mod users;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use model::Refusal;
use reqwest::{Method, Response, Url, header};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{ClientConfig, FORWARDED_HEADER, OLD_HEADER, Problem, ProblemKind};

pub use console::{Console, ConsoleEvent, ConsoleReceiver, ConsoleSender};
pub use error::ClientError;
pub use local::LocalClient;
pub use tls::trust_only;
pub use upload::ImportImage;

/// For the TCP and TLS handshakes together. A host that is off answers nothing at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// For a whole request that the daemon answers at once. Longer than the daemon waits for its store.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How often an HTTP/2 connection is tried, and how long it may be silent then.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Asks a cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: String,
    endpoints: Vec<Url>,
    /// The index of the endpoint that answered last.
    preferred: AtomicUsize,
    http: reqwest::Client,
    tls: Arc<rustls::ClientConfig>,
    /// The bearer token; hosts prove themselves by certificate instead.
    token: Option<String>,
    /// Whether requests are marked as passed on by another host.
    forwarded: bool,
}

impl std::fmt::Debug for Inner {
    // The token is a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("cluster", &self.cluster)
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

/// One request, before it is known which host gets it.
pub(crate) struct Ask {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<Vec<u8>>,
    timeout: Option<Duration>,
    /// An infinitive, for the sentence when it fails.
    asked: String,
}

impl Ask {
    fn new(method: Method, path: impl Into<String>, asked: impl Into<String>) -> Self {
        let timeout = Some(REQUEST_TIMEOUT);
        Self { method, path: path.into(), query: Vec::new(), body: None, timeout, asked: asked.into() }
    }

    pub(crate) fn get(path: impl Into<String>, asked: impl Into<String>) -> Self {
        Self::new(Method::GET, path, asked)
    }

    pub(crate) fn post(path: impl Into<String>, asked: impl Into<String>) -> Self {
        Self::new(Method::POST, path, asked)
    }

    pub(crate) fn put(path: impl Into<String>, asked: impl Into<String>) -> Self {
        Self::new(Method::PUT, path, asked)
    }

    pub(crate) fn patch(path: impl Into<String>, asked: impl Into<String>) -> Self {
        Self::new(Method::PATCH, path, asked)
    }

    pub(crate) fn delete(path: impl Into<String>, asked: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path, asked)
    }

    pub(crate) fn query(mut self, name: &'static str, value: impl ToString) -> Self {
        self.query.push((name, value.to_string()));
        self
    }

    pub(crate) fn json(mut self, body: &impl Serialize) -> Result<Self, ClientError> {
        let bytes = serde_json::to_vec(body)
            .map_err(|error| ClientError::Local(format!("cannot {}: {error}", self.asked)))?;
        self.body = Some(bytes);
        Ok(self)
    }

    /// For answers that take as long as they take.
    pub(crate) fn endless(mut self) -> Self {
        self.timeout = None;
        self
    }

    fn only_reads(&self) -> bool {
        self.method == Method::GET
    }
}

impl Client {
    /// For an operator. Fails when the configuration makes no sense; nobody is asked yet.
    pub fn from_config(config: ClientConfig) -> Result<Client, ClientError> {
        let tls = trust_only(&config.ca)?;
        Self::build(config.cluster, &config.endpoints, tls, Some(config.token), false)
    }

    /// For a host: it proves itself with the certificate in `tls`, and what it asks is passed on no further.
    pub fn for_host(
        cluster: String,
        endpoints: &[String],
        tls: rustls::ClientConfig,
    ) -> Result<Client, ClientError> {
        Self::build(cluster, endpoints, tls, None, true)
    }

    fn build(
        cluster: String,
        endpoints: &[String],
        tls: rustls::ClientConfig,
        token: Option<String>,
        forwarded: bool,
    ) -> Result<Client, ClientError> {
        if endpoints.is_empty() {
            return Err(ClientError::Local(format!("no endpoint of the cluster '{cluster}' is known")));
        }
        let endpoints = endpoints.iter().map(|text| endpoint(text)).collect::<Result<Vec<_>, _>>()?;
        let mut http_tls = tls.clone();
        // HTTP/2 finds out by itself when the host at the other end is gone.
        http_tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(http_tls)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_keep_alive_timeout(KEEP_ALIVE)
            .http2_keep_alive_while_idle(true)
            .build()
            .map_err(|error| ClientError::Local(format!("cannot set up the HTTPS client: {error}")))?;
        let (preferred, tls) = (AtomicUsize::new(0), Arc::new(tls));
        let inner = Inner { cluster, endpoints, preferred, http, tls, token, forwarded };
        Ok(Client { inner: Arc::new(inner) })
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.inner.cluster
    }

    /// The indices of the endpoints in the order in which they are tried.
    fn order(&self) -> impl Iterator<Item = usize> + use<> {
        let count = self.inner.endpoints.len();
        let first = self.inner.preferred.load(Ordering::Relaxed);
        (0..count).map(move |step| (first + step) % count)
    }

    fn prefer(&self, index: usize) {
        self.inner.preferred.store(index, Ordering::Relaxed);
    }

    /// The host that answers now has let us down: begin with the next one.
    fn pass_over(&self) {
        let next = (self.inner.preferred.load(Ordering::Relaxed) + 1) % self.inner.endpoints.len();
        self.prefer(next);
    }

    fn url(&self, index: usize, ask: &Ask) -> Url {
        let mut url = self.inner.endpoints[index].clone();
        url.set_path(&ask.path);
        if !ask.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&ask.query);
        }
        url
    }

    fn headers(&self) -> header::HeaderMap {
        let mut headers = header::HeaderMap::new();
        let bearer = self.inner.token.as_ref().map(|token| format!("Bearer {token}"));
        if let Some(Ok(mut value)) = bearer.map(header::HeaderValue::try_from) {
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        if self.inner.forwarded {
            headers.insert(FORWARDED_HEADER, header::HeaderValue::from_static("true"));
        }
        headers
    }

    /// Sends it to one host after the other until one answers.
    pub(crate) async fn send(&self, ask: &Ask) -> Result<Response, ClientError> {
        let mut silent = Vec::new();
        let mut without_store = None;
        let mut old = None;
        for index in self.order() {
            match self.send_to(index, ask).await {
                // A host that is cut off from the store answers from memory; another may know better.
                Ok(response) if response.headers().contains_key(OLD_HEADER) && old.is_none() => {
                    old = Some(response);
                }
                Ok(response) if response.headers().contains_key(OLD_HEADER) => {}
                Ok(response) => {
                    self.prefer(index);
                    return Ok(response);
                }
                Err(Failure::NoConnection(why)) => silent.push((index, why)),
                Err(Failure::BrokeOff(why)) if ask.only_reads() => silent.push((index, why)),
                Err(Failure::BrokeOff(why)) => return Err(self.interrupted(&ask.asked, why)),
                Err(Failure::Refused(problem)) if problem.kind == ProblemKind::StoreUnavailable => {
                    without_store = Some(problem);
                }
                Err(Failure::Refused(problem)) => return Err(ClientError::Refused(problem)),
            }
        }
        if let Some(response) = old {
            return Ok(response);
        }
        Err(match without_store {
            Some(problem) => ClientError::Refused(problem),
            None => self.unreachable(&ask.asked, &silent),
        })
    }

    async fn send_to(&self, index: usize, ask: &Ask) -> Result<Response, Failure> {
        let mut request =
            self.inner.http.request(ask.method.clone(), self.url(index, ask)).headers(self.headers());
        if let Some(timeout) = ask.timeout {
            request = request.timeout(timeout);
        }
        if let Some(body) = &ask.body {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body.clone());
        }
        let response = request.send().await.map_err(Failure::from_reqwest)?;
        accept(response, &ask.asked).await
    }

    pub(crate) async fn fetch<T: DeserializeOwned>(&self, ask: Ask) -> Result<T, ClientError> {
        let response = self.send(&ask).await?;
        self.read(response, &ask).await
    }

    async fn read<T: DeserializeOwned>(&self, response: Response, ask: &Ask) -> Result<T, ClientError> {
        let bytes = response.bytes().await.map_err(|error| self.interrupted(&ask.asked, cause(&error)))?;
        serde_json::from_slice(&bytes).map_err(|error| {
            let asked = &ask.asked;
            ClientError::Protocol(format!("cannot {asked}: the answer makes no sense to this build: {error}"))
        })
    }

    fn interrupted(&self, asked: &str, why: String) -> ClientError {
        ClientError::Interrupted { asked: asked.to_owned(), why }
    }

    fn unreachable(&self, asked: &str, silent: &[(usize, String)]) -> ClientError {
        let attempt = |(index, why): &(usize, String)| {
            format!("{} ({why})", self.inner.endpoints[*index].as_str().trim_end_matches('/'))
        };
        ClientError::Unreachable {
            asked: asked.to_owned(),
            cluster: self.inner.cluster.clone(),
            attempts: silent.iter().map(attempt).collect(),
        }
    }
}

/// Why one host did not do it.
enum Failure {
    /// Nothing was sent.
    NoConnection(String),
    /// It may have been done.
    BrokeOff(String),
    Refused(Problem),
}

impl Failure {
    fn from_reqwest(error: reqwest::Error) -> Self {
        let why = cause(&error);
        if error.is_connect() || error.is_builder() {
            Failure::NoConnection(why)
        } else {
            Failure::BrokeOff(why)
        }
    }
}

/// The innermost cause: the outer ones only say that a request failed.
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Makes a refusal of an answer that is none.
async fn accept(response: Response, asked: &str) -> Result<Response, Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let bytes = response.bytes().await.map_err(Failure::from_reqwest)?;
    Err(Failure::Refused(read_problem(&bytes, status.as_u16(), asked)))
}

fn read_problem(bytes: &[u8], status: u16, asked: &str) -> Problem {
    serde_json::from_slice(bytes).unwrap_or_else(|_| {
        let why = format!("the host answered {status} without a reason");
        let refusal = Refusal::new(asked, why, "check that the endpoint is a host of the cluster");
        Problem { status, ..Problem::new(ProblemKind::Other, refusal) }
    })
}

fn endpoint(text: &str) -> Result<Url, ClientError> {
    match Url::parse(text) {
        Ok(url) if url.scheme() == "https" && url.has_host() => Ok(url),
        Ok(_) | Err(_) => Err(ClientError::Local(format!(
            "'{text}' is not an endpoint: write it as in https://10.77.0.1:{}",
            crate::PORT
        ))),
    }
}
