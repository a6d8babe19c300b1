//! Signing in to the web page, the users who may, and tickets for consoles.

use jiff::Timestamp;
use model::{User, UserName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Watched;

/// Either a user's name and password, or an admin token.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SignIn {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl std::fmt::Debug for SignIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignIn").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Who is signed in. The session itself is a cookie that scripts cannot read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionView {
    /// The user's name, or the token's. `None`: nobody is signed in.
    pub name: Option<String>,
    /// When somebody has to sign in again. `None`: never, for who asks with a token.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserView {
    pub name: UserName,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub password_set_at: Timestamp,
}

impl UserView {
    pub fn of(user: &User) -> Self {
        let User { name, password_hash: _, created_at, password_set_at } = user;
        Self { name: name.clone(), created_at: *created_at, password_set_at: *password_set_at }
    }
}

impl Watched for UserView {
    fn watch_id(&self) -> String {
        self.name.to_string()
    }
}

/// Somebody who may sign in from now on.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddUser {
    pub name: UserName,
    pub password: String,
}

impl std::fmt::Debug for AddUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AddUser").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Another password for a user; ends all of that user's sessions.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetPassword {
    pub password: String,
}

impl std::fmt::Debug for SetPassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SetPassword").finish_non_exhaustive()
    }
}

/// Opens one console of one guest, once and soon, on the host that gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConsoleTicket {
    /// Goes into the query: `…/console?ticket=…`.
    pub ticket: String,
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}
