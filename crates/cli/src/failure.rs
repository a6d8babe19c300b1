//! How the command fails: one or two sentences on stderr, and an exit status that means something.
//!
//! Every sentence has the shape of [`model::Refusal`]: what was asked, why not, what would work. What the
//! cluster says is said on word for word.

use std::fmt;

use api::{ClientError, ConfigError};
use model::Refusal;

/// Refused, or tried and failed.
const EXIT_FAILED: u8 = 1;
/// The command line itself makes no sense.
pub const EXIT_USAGE: u8 = 2;
/// No host of the cluster answered, or the answer broke off: nothing is known of what is there.
const EXIT_UNREACHABLE: u8 = 3;
/// Ended with ctrl-c: 128 and the signal's number, as shells count.
const EXIT_INTERRUPTED: u8 = 130;

/// Why the command ends without having done what was asked.
#[derive(Debug)]
pub enum Failure {
    /// Somebody said no, or it went wrong.
    Refused(Refusal),
    /// The same, for a command line that makes no sense.
    Usage(Refusal),
    /// The kenneld of this machine did not answer.
    Unreachable(Refusal),
    /// The cluster's or the client's own sentence.
    Client(ClientError),
    /// Ctrl-c while something was waited for; the text says what goes on without us.
    Interrupted(String),
    /// Ends with this status and says nothing: a program inside a guest has said it already.
    Status(u8),
    /// The lab words its own sentences.
    Lab(anyhow::Error),
}

impl Failure {
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Refused(_) | Failure::Lab(_) => EXIT_FAILED,
            Failure::Usage(_) => EXIT_USAGE,
            Failure::Unreachable(_) => EXIT_UNREACHABLE,
            Failure::Client(error) => {
                if error.is_unreachable() {
                    EXIT_UNREACHABLE
                } else {
                    EXIT_FAILED
                }
            }
            Failure::Interrupted(_) => EXIT_INTERRUPTED,
            Failure::Status(status) => *status,
        }
    }

    pub fn refused(asked: impl Into<String>, why: impl fmt::Display, instead: impl Into<String>) -> Self {
        Failure::Refused(Refusal::new(asked, why.to_string(), instead))
    }

    pub fn usage(asked: impl Into<String>, why: impl fmt::Display, instead: impl Into<String>) -> Self {
        Failure::Usage(Refusal::new(asked, why.to_string(), instead))
    }

    /// What is said on stderr, when anything is.
    pub fn sentence(&self) -> Option<String> {
        match self {
            Failure::Refused(refusal) | Failure::Usage(refusal) | Failure::Unreachable(refusal) => {
                Some(refusal.to_string())
            }
            Failure::Client(error) => Some(error.to_string()),
            Failure::Interrupted(text) => Some(text.clone()),
            Failure::Lab(error) => Some(format!("{error:#}")),
            Failure::Status(_) => None,
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Failure::Client(error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Missing { path } => Failure::refused(
                "find the cluster",
                format!("there is no client configuration at {}", path.display()),
                "name one with --config or KENNEL_CONFIG, or make a cluster with `kennel cluster init`",
            ),
            ConfigError::Unreadable { path, why } => Failure::refused(
                "find the cluster",
                format!("the client configuration {} cannot be read: {}", path.display(), first_line(&why)),
                "copy it anew from a machine where it works, or name another with --config",
            ),
            ConfigError::Unwritable { path, why } => Failure::refused(
                "write the client configuration",
                format!("{} cannot be written: {}", path.display(), first_line(&why)),
                "name another place with --client-config",
            ),
        }
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
