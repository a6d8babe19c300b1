//! The cluster itself.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// The version of everything under the store's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    pub version: u32,
}

impl Schema {
    /// What this build reads and writes.
    pub const CURRENT: Schema = Schema { version: 1 };
}

/// The one record of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    pub name: String,
    pub id: Uuid,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// The certificate authority's certificate, PEM.
    pub ca_certificate: String,
    pub settings: Settings,
}

/// What an operator may change for the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Settings {
    /// How many hosts run a member of the state store: 3, or 5.
    pub store_members: u32,
    /// How many guests one host may be starting at once while lost guests are recovered.
    pub recovery_starts_per_host: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { store_members: 3, recovery_starts_per_host: 4 }
    }
}

/// What a token opens. The token itself is never stored: its key is the SHA-256 of it, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccessToken {
    pub name: String,
    pub used_for: TokenUse,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TokenUse {
    /// Everything that an operator may do.
    Admin,
    /// One host's way into the cluster; used once.
    Join,
}
