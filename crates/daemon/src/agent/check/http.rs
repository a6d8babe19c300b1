//! A guest's service is asked over HTTP or HTTPS.
//!
//! Each look is a connection of its own, to the guest's address whatever the name of the server is, without a proxy and
//! without following redirects: what counts is what this guest answers.
//!
//! A certificate that is not trusted says nothing of the guest, which has answered: nothing is restarted because of one
//! that expired, and the operator is told.

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use model::HttpCheck;
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder};
use rustls::{CertificateError, Error as TlsError};

use super::{Seen, not_connected};

/// How much of an answer is looked at, bytes.
const ANSWER_MAX: usize = 64 << 10;

/// From this status on an answer is a failure, unless the check names its status.
const STATUS_BAD: u16 = 400;

/// What asks, for as long as the check and the address stay as they are.
pub(super) fn builder(at: SocketAddr, check: &HttpCheck) -> ClientBuilder {
    let builder = Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .pool_max_idle_per_host(0)
        .tls_danger_accept_invalid_certs(check.any_certificate)
        .user_agent("kennel");
    match name(check) {
        Some(name) => builder.resolve(&name, at),
        None => builder,
    }
}

/// As a URL has it.
fn name(check: &HttpCheck) -> Option<String> {
    check.name.as_ref().map(|name| name.to_ascii_lowercase())
}

/// Asks once.
pub(super) async fn look(client: &Client, at: SocketAddr, check: &HttpCheck) -> Seen {
    let server = name(check).map_or_else(|| at.to_string(), |name| format!("{name}:{}", at.port()));
    let asking = client.get(format!("{}://{server}{}", check.scheme(), check.path)).send();
    let mut answer = match asking.await {
        Ok(answer) => answer,
        Err(error) => return unanswered(at, &error),
    };
    let status = answer.status();
    let good = match check.status {
        Some(wanted) => status.as_u16() == wanted,
        None => status.as_u16() < STATUS_BAD,
    };
    if !good {
        return Seen::Failed(format!("the answer is status {status}"));
    }
    let Some(text) = &check.text else { return Seen::Well };
    let mut body = Vec::new();
    while body.len() < ANSWER_MAX {
        match answer.chunk().await {
            Ok(Some(bytes)) => body.extend_from_slice(&bytes),
            Ok(None) => break,
            Err(error) => return unanswered(at, &error),
        }
    }
    if String::from_utf8_lossy(&body).contains(text) {
        Seen::Well
    } else {
        Seen::Failed(format!("the answer lacks '{text}'"))
    }
}

/// Why there was no answer: the guest's fault, this host's, or nobody's that a restart would mend.
fn unanswered(at: SocketAddr, error: &reqwest::Error) -> Seen {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let mut said = String::new();
    while let Some(found) = cause {
        if let Some(tls) = as_tls(found) {
            return no_tls(at, tls);
        }
        if let Some(found) = found.downcast_ref::<io::Error>()
            && error.is_connect()
        {
            return not_connected(at, found);
        }
        said = found.to_string();
        cause = found.source();
    }
    Seen::Failed(format!("{at} does not answer as it should: {said}"))
}

/// An error of TLS, however often it is wrapped.
fn as_tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a TlsError> {
    if let Some(tls) = error.downcast_ref() {
        return Some(tls);
    }
    as_tls(error.downcast_ref::<io::Error>()?.get_ref()?)
}

fn no_tls(at: SocketAddr, error: &TlsError) -> Seen {
    let any = "accept any certificate with --health-any-certificate";
    let TlsError::InvalidCertificate(why) = error else {
        return Seen::Failed(format!("{at} does not speak TLS as it should: {error}"));
    };
    let for_another =
        matches!(why, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. });
    // What a service has signed itself is often an authority's certificate, which webpki has no public word for.
    let said = error.to_string();
    Seen::Cannot(if for_another {
        format!("its certificate is for another name: say which with --health-name, or {any}")
    } else if *why == CertificateError::UnknownIssuer || said.contains("CaUsedAsEndEntity") {
        format!(
            "no authority that this host trusts has issued its certificate: let the host trust it, or {any}"
        )
    } else {
        format!("its certificate is not good ({said}): renew it, or {any}")
    })
}
