//! Alerts: who is told of incidents, as people ask for it and see it, and what is told.

use std::fmt;

use jiff::Timestamp;
use model::{AlertName, AlertTarget, AlertWay, ClusterView, HostName, Weight};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{IncidentView, Watched};

/// Carries the HMAC-SHA-256 of the body of a webhook's request, under the target's secret, as in `sha256=<hexadecimal>`.
pub const SIGNATURE_HEADER: &str = "kennel-signature";

/// Somebody, or something, that is to be told of incidents.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddAlert {
    /// Default: by its way, as in `webhook-1`.
    #[serde(default)]
    pub name: Option<AlertName>,
    pub way: AlertWay,
    /// Only of incidents that weigh that much at some time.
    #[serde(default = "lightest")]
    pub from: Weight,
    /// A webhook's key, with which what is sent is signed, or the password of the mail account. Never shown again.
    #[serde(default)]
    pub secret: Option<String>,
    /// A certificate authority to trust beside those of the hosts' systems, PEM.
    #[serde(default)]
    pub ca: Option<String>,
}

fn lightest() -> Weight {
    Weight::Warning
}

impl fmt::Debug for AddAlert {
    // Some of it is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddAlert").field("name", &self.name).field("way", &self.way).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlertView {
    pub name: AlertName,
    pub target: AlertTarget,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_sent_at: Option<Timestamp>,
    /// Why the last try failed; one sentence without a full stop.
    pub problem: Option<String>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub failing_since: Option<Timestamp>,
}

impl AlertView {
    pub fn of(view: &ClusterView, target: &AlertTarget) -> Self {
        let state = view.alert_states.get(&target.name).filter(|state| state.target_id == target.id);
        Self {
            name: target.name.clone(),
            target: target.clone(),
            last_sent_at: state.and_then(|state| state.last_sent_at),
            problem: state.and_then(|state| state.problem.clone()),
            failing_since: state.and_then(|state| state.failing_since),
        }
    }

    pub fn list(view: &ClusterView) -> Vec<Self> {
        view.alerts.values().map(|target| Self::of(view, target)).collect()
    }
}

impl Watched for AlertView {
    fn watch_id(&self) -> String {
        self.name.to_string()
    }
}

/// What came of a test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlertTestView {
    pub name: AlertName,
    /// The host that sent it: what another one reaches may differ.
    pub sent_by: HostName,
    /// Why it did not arrive; a sentence without a full stop.
    pub problem: Option<String>,
}

/// Why a notice is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NoticeKind {
    Opened,
    /// The incident weighs more now, or less.
    Changed,
    Ended,
    /// There is much to tell: it is told at once.
    Several,
    /// Somebody wanted to see whether notices arrive.
    Test,
}

/// What is told: the body of a webhook's request; a mail says the same in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Notice {
    /// The same for what is sent a second time, because it is not known whether it arrived.
    pub id: String,
    pub kind: NoticeKind,
    pub cluster: String,
    #[schema(value_type = String, format = DateTime)]
    pub sent_at: Timestamp,
    /// The most that any of it weighs now.
    pub weight: Weight,
    /// What there is to tell, in one sentence without a full stop.
    pub headline: String,
    pub incidents: Vec<IncidentView>,
}
