//! A refusal: data, so that the API, the CLI and the page say it word for word.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What was asked, why not, and what would work. Each part is a phrase without a full stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refusal {
    /// As in `create the guest 'web1'`: an infinitive.
    pub asked: String,
    /// As in `a guest of that name exists`.
    pub why: String,
    /// As in `choose another name`.
    pub instead: String,
}

impl Refusal {
    pub fn new(asked: impl Into<String>, why: impl Into<String>, instead: impl Into<String>) -> Self {
        Self { asked: asked.into(), why: why.into(), instead: instead.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}; {}", self.asked, self.why, self.instead)
    }
}

impl std::error::Error for Refusal {}
