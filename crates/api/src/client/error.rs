//! How asking fails.

use crate::{ConfigError, Problem};

/// Each is a sentence for a person: what was asked, why not, what would work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The cluster understood, and said no.
    #[error("{0}")]
    Refused(Problem),
    /// No host answers. Nothing was done.
    #[error(
        "cannot {asked}: no host of the cluster '{cluster}' answers: {}; check that kenneld runs there and \
         that the network between is up",
        attempts.join(", ")
    )]
    Unreachable {
        asked: String,
        cluster: String,
        /// Each endpoint, and why it does not answer.
        attempts: Vec<String>,
    },
    /// The host went silent after the request was sent.
    #[error(
        "cannot tell whether it worked to {asked}: the connection broke off: {why}; look before you try again"
    )]
    Interrupted { asked: String, why: String },
    /// The answer is not one that this build understands.
    #[error("{0}; use the `kennel` of the same version as the hosts")]
    Protocol(String),
    /// Something on this machine, such as a file that cannot be read.
    #[error("{0}")]
    Local(String),
}

impl ClientError {
    /// Whether the cluster could not be asked at all, or went silent.
    pub fn is_unreachable(&self) -> bool {
        match self {
            ClientError::Unreachable { .. } | ClientError::Interrupted { .. } => true,
            ClientError::Refused(_) | ClientError::Protocol(_) | ClientError::Local(_) => false,
        }
    }
}

impl From<ConfigError> for ClientError {
    fn from(error: ConfigError) -> Self {
        ClientError::Local(error.to_string())
    }
}
