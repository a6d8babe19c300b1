//! Refusals and failures on the wire: RFC 9457 `application/problem+json`.

use std::fmt;

use model::Refusal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why a request was not carried out. `asked`, `why` and `instead` are what people read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    #[serde(rename = "type")]
    pub kind: ProblemKind,
    /// Boxed, to keep what every fallible call returns small.
    #[schema(value_type = String)]
    pub title: Box<str>,
    /// The HTTP status.
    pub status: u16,
    /// The whole sentence.
    pub detail: String,
    /// What was asked: an infinitive, as in `create the guest 'web1'`.
    pub asked: String,
    /// Why not.
    pub why: String,
    /// What would work.
    pub instead: String,
}

/// For programs; one for each thing that a caller would do differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum ProblemKind {
    /// The request cannot be read, or asks for what makes no sense.
    #[serde(rename = "urn:kennel:invalid")]
    Invalid,
    #[serde(rename = "urn:kennel:unauthorized")]
    Unauthorized,
    #[serde(rename = "urn:kennel:forbidden")]
    Forbidden,
    #[serde(rename = "urn:kennel:not-found")]
    NotFound,
    /// The cluster's state does not allow it.
    #[serde(rename = "urn:kennel:refused")]
    Refused,
    /// The state store has no quorum. Nothing was done.
    #[serde(rename = "urn:kennel:store-unavailable")]
    StoreUnavailable,
    /// The state store did not confirm. It may have been done.
    #[serde(rename = "urn:kennel:outcome-unknown")]
    OutcomeUnknown,
    /// Another host that is needed for it does not answer.
    #[serde(rename = "urn:kennel:host-unreachable")]
    HostUnreachable,
    /// Something failed that should not; a person must look.
    #[serde(rename = "urn:kennel:failed")]
    Failed,
    /// A kind of a newer build.
    #[serde(other, rename = "about:blank")]
    Other,
}

impl ProblemKind {
    pub fn status(self) -> u16 {
        match self {
            ProblemKind::Invalid => 422,
            ProblemKind::Unauthorized => 401,
            ProblemKind::Forbidden => 403,
            ProblemKind::NotFound => 404,
            ProblemKind::Refused => 409,
            ProblemKind::StoreUnavailable | ProblemKind::OutcomeUnknown => 503,
            ProblemKind::HostUnreachable => 502,
            ProblemKind::Failed | ProblemKind::Other => 500,
        }
    }

    fn title(self) -> &'static str {
        match self {
            ProblemKind::Invalid => "The request makes no sense",
            ProblemKind::Unauthorized => "Who asks is not known",
            ProblemKind::Forbidden => "Not allowed",
            ProblemKind::NotFound => "Not found",
            ProblemKind::Refused => "Refused",
            ProblemKind::StoreUnavailable => "The state store has no quorum",
            ProblemKind::OutcomeUnknown => "It is not known whether it happened",
            ProblemKind::HostUnreachable => "A host does not answer",
            ProblemKind::Failed | ProblemKind::Other => "Something failed",
        }
    }
}

impl Problem {
    pub fn new(kind: ProblemKind, refusal: Refusal) -> Self {
        Self {
            kind,
            title: kind.title().into(),
            status: kind.status(),
            detail: refusal.to_string(),
            asked: refusal.asked,
            why: refusal.why,
            instead: refusal.instead,
        }
    }

    pub fn refusal(&self) -> Refusal {
        Refusal::new(&self.asked, &self.why, &self.instead)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Problem::new(ProblemKind::Refused, refusal)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}
