//! Webhooks: a POST of JSON, signed if there is a secret (docs/operating.md tells the shape).
//!
//! Only an answer of 200 to 299 means that it arrived. A redirect is not followed: what was signed for one place is not
//! for another, and a POST that is redirected becomes a GET.

use std::time::Duration;

use api::{Notice, SIGNATURE_HEADER};
use hmac::{Hmac, Mac};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Url, header};
use sha2::Sha256;

use super::{SEND_WITHIN, chain, plainly};

const CONNECT_WITHIN: Duration = Duration::from_secs(8);

const URL_LENGTH_MAX: usize = 2000;

/// Of an answer that refuses: how much of it is told.
const TOLD_MAX: usize = 200;

/// What is wrong with a URL, and what would work.
pub fn check_url(url: &str) -> Result<(), (String, &'static str)> {
    let example = "use one as in https://alerts.example/kennel";
    let parsed = Url::parse(url).map_err(|error| (format!("'{url}' is not a URL: {error}"), example))?;
    if !["http", "https"].contains(&parsed.scheme()) {
        return Err((format!("a webhook is reached by http or https, not by {}", parsed.scheme()), example));
    }
    if parsed.host_str().is_none_or(str::is_empty) {
        return Err(("the URL names no host".to_owned(), example));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        let why = "the URL holds a name or a password, which everybody would see who lists the alerts";
        return Err((
            why.to_owned(),
            "leave it out, and let the receiver check the signature (--secret-file)",
        ));
    }
    if url.len() > URL_LENGTH_MAX {
        return Err((format!("the URL is longer than {URL_LENGTH_MAX} bytes"), "use a shorter one"));
    }
    Ok(())
}

pub(super) async fn send(
    url: &str,
    secret: Option<&str>,
    ca: Option<&str>,
    notice: &Notice,
) -> Result<(), String> {
    let url = Url::parse(url).map_err(|error| format!("'{url}' is not a URL: {error}"))?;
    let host = url.host_str().unwrap_or_default().to_owned();
    let body = serde_json::to_vec(notice).map_err(|error| format!("write the notice as JSON: {error}"))?;
    let mut request = client(ca)?.post(url).header(header::CONTENT_TYPE, "application/json");
    if let Some(secret) = secret {
        request = request.header(SIGNATURE_HEADER, signature(secret, &body)?);
    }
    let answer = request.body(body).send().await.map_err(|error| {
        if error.is_timeout() {
            return format!("{host} has not answered within {} s", SEND_WITHIN.as_secs());
        }
        let causes = chain(&error.without_url());
        plainly(&causes, &host).unwrap_or(causes)
    })?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    if status.is_redirection() {
        let to = answer.headers().get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("nowhere");
        return Err(format!("{host} answered {status} and points to {to}: use that URL"));
    }
    let said: String = answer.text().await.unwrap_or_default().chars().take(TOLD_MAX).collect();
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    Err(if said.is_empty() {
        format!("{host} answered {status}")
    } else {
        format!("{host} answered {status}: {said}")
    })
}

fn client(ca: Option<&str>) -> Result<Client, String> {
    let mut builder = Client::builder()
        .timeout(SEND_WITHIN)
        .connect_timeout(CONNECT_WITHIN)
        .redirect(Policy::none())
        .user_agent(concat!("kennel/", env!("CARGO_PKG_VERSION")));
    if let Some(ca) = ca {
        let authorities = Certificate::from_pem_bundle(ca.as_bytes())
            .map_err(|error| format!("its certificate authority is damaged: {}", chain(&error)))?;
        builder = builder.tls_certs_merge(authorities);
    }
    builder.build().map_err(|error| format!("prepare the connection: {}", chain(&error)))
}

/// As in `sha256=<hexadecimal>`: the HMAC (RFC 2104) of the body.
pub(super) fn signature(secret: &str, body: &[u8]) -> Result<String, String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes())
        .map_err(|error| format!("sign the notice: {error}"))?;
    mac.update(body);
    let bytes = mac.finalize().into_bytes();
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("sha256={text}"))
}
