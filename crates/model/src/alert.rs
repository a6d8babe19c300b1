//! Alerts: who is told of incidents, and who has been told of which.
//!
//! What an operator asked for ([`AlertTarget`]) and what the leader has sent ([`AlertState`]) are two records. A notice
//! is recorded once it was sent, so that a leader that takes over sends what is still to be sent, and at worst one
//! notice a second time, under the id that it had before.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{AlertName, IncidentId, Weight};

/// Somebody, or something, that is told of incidents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlertTarget {
    pub name: AlertName,
    /// Drawn once; its secret stands under it in the store.
    #[schema(value_type = String, format = Uuid)]
    pub id: Uuid,
    pub way: AlertWay,
    /// Only of incidents that weigh that much at some time.
    pub from: Weight,
    /// A certificate authority that is trusted beside those of the host's system, PEM.
    pub ca: Option<String>,
    /// It has a secret: a webhook's key, or a mail account's password. That is a secret of the store, and never part of
    /// a view.
    pub has_secret: bool,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// How it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AlertWay {
    /// A POST of JSON.
    Webhook { url: String },
    Mail {
        to: String,
        sender: String,
        /// Host name and port of the mail server.
        server: String,
        port: u16,
        tls: MailTls,
        user: Option<String>,
    },
}

/// How the way to a mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MailTls {
    /// TLS begins within the conversation (RFC 3207), or nothing is sent.
    Starttls,
    /// TLS from the first byte on.
    Tls,
    None,
}

impl fmt::Display for MailTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            MailTls::Starttls => "starttls",
            MailTls::Tls => "tls",
            MailTls::None => "none",
        })
    }
}

impl fmt::Display for AlertWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AlertWay::Webhook { url } => f.pad(url),
            AlertWay::Mail { to, server, port, .. } => f.pad(&format!("{to} through {server}:{port}")),
        }
    }
}

impl AlertTarget {
    /// The name of its secret in the store.
    pub fn secret_name(&self) -> String {
        format!("alert-{}", self.id)
    }
}

/// What one target has been told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertState {
    pub name: AlertName,
    /// Which target of that name.
    pub target_id: Uuid,
    pub told: BTreeMap<IncidentId, Told>,
    pub last_sent_at: Option<Timestamp>,
    /// Why the last try failed; one sentence without a full stop.
    pub problem: Option<String>,
    pub failing_since: Option<Timestamp>,
}

impl AlertState {
    /// Of a target that has been told nothing.
    pub fn new(target: &AlertTarget) -> Self {
        Self {
            name: target.name.clone(),
            target_id: target.id,
            told: BTreeMap::new(),
            last_sent_at: None,
            problem: None,
            failing_since: None,
        }
    }
}

/// What a target was told of an incident last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    pub weight: Weight,
    pub ended: bool,
    /// How many notices there were.
    pub notices: u32,
}
