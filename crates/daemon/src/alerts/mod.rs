//! Alerts on their way out: a notice in words, sent to a webhook or by mail.
//!
//! Used by the leader, which sends what is due (`leader::alerts`), and by the API, which sends tests. Nothing here decides
//! and nothing here is remembered. What is said of a failure is for the person who can mend it: what was tried, why it
//! did not work, what would.

mod mail;
mod notice;
mod webhook;

use std::time::Duration;

use model::{AlertTarget, AlertWay, HostName};
use store::{Secret, codec, keys};

use crate::state::State;

pub use notice::{several, single, test};
pub use webhook::check_url;

/// How long one notice may take.
const SEND_WITHIN: Duration = Duration::from_secs(15);

/// Sends notices; cheap to clone.
#[derive(Debug, Clone)]
pub struct Post {
    me: HostName,
    state: State,
}

impl Post {
    pub fn new(me: HostName, state: State) -> Self {
        Self { me, state }
    }

    /// Returns when the target has taken it. The error is a sentence without a full stop.
    pub async fn send(&self, target: &AlertTarget, notice: &api::Notice) -> Result<(), String> {
        let secret = if target.has_secret { Some(self.secret(target).await?) } else { None };
        let sent = async {
            match &target.way {
                AlertWay::Webhook { url } => {
                    webhook::send(url, secret.as_deref(), target.ca.as_deref(), notice).await
                }
                AlertWay::Mail { to, sender, server, port, tls, user } => {
                    let way = mail::Way { to, sender, server, port: *port, tls: *tls, user: user.as_deref() };
                    mail::send(&self.me, &way, secret.as_deref(), target.ca.as_deref(), notice).await
                }
            }
        };
        let late = |_| format!("it has not answered within {} s", SEND_WITHIN.as_secs());
        tokio::time::timeout(SEND_WITHIN, sent).await.map_err(late)?
    }

    async fn secret(&self, target: &AlertTarget) -> Result<String, String> {
        let key = keys::secret(&target.secret_name());
        let listing =
            self.state.store().list(&key).await.map_err(|error| format!("read its secret: {error}"))?;
        let entry = listing.entries.iter().find(|entry| entry.key == key);
        let entry = entry.ok_or("its secret is not in the store: remove it, and add it again")?;
        let (secret, _) = codec::decode::<Secret>(&key, &entry.value)
            .map_err(|error| format!("its secret is damaged: {error}"))?;
        Ok(secret.text)
    }
}

/// What a failed connection means, if that is told by the words of its causes.
fn plainly(causes: &str, host: &str) -> Option<String> {
    let said = causes.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&["unknownissuer", "self-signed", "self signed", "unable to get local issuer"]) {
        return Some(format!(
            "the certificate of {host} is not trusted: name the authority that issued it with --ca-file"
        ));
    }
    if has(&["notvalidforname", "not valid for name"]) {
        return Some(format!("the certificate of {host} is another host's: use the name that stands in it"));
    }
    if has(&["expired"]) && has(&["certificate"]) {
        return Some(format!("the certificate of {host} has expired"));
    }
    if has(&["temporary failure in name resolution", "try again"]) {
        return Some(format!("the name '{host}' cannot be looked up now"));
    }
    if has(&["lookup address", "dns error", "name or service not known", "name does not resolve"]) {
        return Some(format!("there is no host '{host}': its name is not known"));
    }
    if has(&["connection refused"]) {
        return Some(format!("nothing listens there: {host} refused the connection"));
    }
    if has(&["corrupt message", "corruptmessage", "invalidcontenttype", "wrong version number"]) {
        return Some(format!("{host} does not speak TLS on that port"));
    }
    None
}

/// An error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
pub mod tests;
