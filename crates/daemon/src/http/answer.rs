//! How handlers answer: views as JSON, refusals as `application/problem+json`.

use std::fmt::Display;
use std::str::FromStr;

use api::{Problem, ProblemKind};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use host::HostError;
use model::Refusal;
use serde::de::DeserializeOwned;

/// A request that was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused(pub Problem);

pub type Answer<T> = Result<T, Refused>;

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Refused(problem)
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Refused(refusal.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        (status, kind, Json(self.0)).into_response()
    }
}

impl Refused {
    fn new(kind: ProblemKind, asked: &str, why: impl Into<String>, instead: impl Into<String>) -> Self {
        Refused(Problem::new(kind, Refusal::new(asked, why, instead)))
    }

    /// The cluster's state does not allow it.
    pub fn by_state(asked: &str, why: impl Into<String>, instead: impl Into<String>) -> Self {
        Self::new(ProblemKind::Refused, asked, why, instead)
    }

    /// The request makes no sense, whatever the cluster's state.
    pub fn invalid(asked: &str, why: impl Into<String>, instead: impl Into<String>) -> Self {
        Self::new(ProblemKind::Invalid, asked, why, instead)
    }

    /// There is no such thing. `what` is singular, as in `guest`.
    pub fn not_found(asked: &str, what: &str, name: impl Display) -> Self {
        let why = format!("there is no {what} '{name}'");
        Self::new(
            ProblemKind::NotFound,
            asked,
            why,
            format!("`kennel {what} list` shows those that there are"),
        )
    }

    pub fn unauthorized(why: &str, instead: &str) -> Self {
        Self::new(ProblemKind::Unauthorized, "ask this of the cluster", why, instead)
    }

    pub fn forbidden(why: &str, instead: &str) -> Self {
        Self::new(ProblemKind::Forbidden, "ask this of the cluster", why, instead)
    }

    pub fn store_unavailable(asked: &str, why: impl Display) -> Self {
        let instead = "guests run on; try again when most of its members are back, `kennel cluster status` \
                       shows them";
        Self::new(
            ProblemKind::StoreUnavailable,
            asked,
            format!("the state store has no quorum ({why})"),
            instead,
        )
    }

    pub fn outcome_unknown(asked: &str, why: impl Display) -> Self {
        let why = format!("the state store did not confirm it ({why}), and it may have happened");
        Self::new(ProblemKind::OutcomeUnknown, asked, why, "look whether it did before you try again")
    }

    pub fn host_unreachable(asked: &str, why: impl Into<String>, instead: impl Into<String>) -> Self {
        Self::new(ProblemKind::HostUnreachable, asked, why, instead)
    }

    /// Something failed that should not.
    pub fn failed(asked: &str, why: impl Display) -> Self {
        let instead = "look into the log of kenneld on the host that was asked";
        Self::new(ProblemKind::Failed, asked, why.to_string(), instead)
    }

    /// What an operation on this host came to.
    pub fn of_host(asked: &str, error: HostError) -> Self {
        let why = error.to_string();
        match error {
            HostError::NotFound(_) | HostError::Conflict(_) => {
                Self::by_state(asked, why, "see what it says, and try again")
            }
            HostError::TimedOut(_) => {
                Self::by_state(asked, why, "try again, or look at the guest with `kennel guest console`")
            }
            HostError::Failed(_) => Self::failed(asked, why),
        }
    }
}

/// A JSON body.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let asked = format!("{} {}", verb(request.method()), request.uri().path());
        let invalid = |why: String| {
            Refused::invalid(&asked, why, "send the fields that /v1/openapi.json describes, as JSON")
        };
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| invalid(format!("the body cannot be read: {}", rejection.body_text())))?;
        serde_json::from_slice(&bytes)
            .map(Body)
            .map_err(|error| invalid(format!("the body is not what is expected: {error}")))
    }
}

/// The name or id in a path. What cannot be one names nothing.
pub fn named<T: FromStr>(text: &str, what: &str) -> Answer<T> {
    text.parse().map_err(|_| Refused::not_found(&format!("find the {what} '{text}'"), what, text))
}

pub async fn no_such_route(method: Method, uri: Uri) -> Refused {
    let asked = format!("{} {}", verb(&method), uri.path());
    let instead = "GET /v1/openapi.json lists everything that can be asked";
    Refused::new(ProblemKind::NotFound, &asked, "there is nothing under this path", instead)
}

pub async fn no_such_method(method: Method, uri: Uri) -> Refused {
    let asked = format!("{} {}", verb(&method), uri.path());
    let instead = "GET /v1/openapi.json lists everything that can be asked";
    let mut refused =
        Refused::new(ProblemKind::Invalid, &asked, "this path does not take that method", instead);
    refused.0.status = StatusCode::METHOD_NOT_ALLOWED.as_u16();
    refused
}

/// For sentences of the form "cannot …".
fn verb(method: &Method) -> String {
    format!("do {method}")
}
