//! What the machine's own root asks of kenneld through its Unix socket, before there is a cluster and after.

use model::HostName;
use serde::{Deserialize, Serialize};

use crate::ClientConfig;

/// Makes a new cluster, of which this host is the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitRequest {
    /// The cluster's name.
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitAnswer {
    pub host: HostName,
    /// How the operator reaches the cluster from now on; holds the admin token.
    pub client: ClientConfig,
}

/// Makes this host a member of a cluster that exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalJoinRequest {
    /// A [`crate::JoinToken`], as text.
    pub token: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalJoinAnswer {
    pub cluster: String,
    pub host: HostName,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalStatus {
    pub host: HostName,
    pub version: String,
    /// The cluster that this host belongs to, if it does.
    pub cluster: Option<String>,
    /// Whether the state store answers.
    pub store_answers: bool,
    /// One sentence each.
    pub problems: Vec<String>,
}
