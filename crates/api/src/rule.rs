//! Placement rules as people ask for them and see them.

use model::{GuestName, GuestSelector, Rule, RuleKind, RuleName, RuleStrength};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Watched;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRule {
    pub name: RuleName,
    pub kind: RuleKind,
    pub guests: GuestSelector,
    #[serde(default = "must")]
    pub strength: RuleStrength,
    /// Of rules that contradict each other the higher one is in force; of equals the older one.
    #[serde(default)]
    pub priority: i32,
}

/// What a rule shall say instead of what it says; it keeps its name and its age.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplaceRule {
    pub kind: RuleKind,
    pub guests: GuestSelector,
    #[serde(default = "must")]
    pub strength: RuleStrength,
    #[serde(default)]
    pub priority: i32,
}

fn must() -> RuleStrength {
    RuleStrength::Must
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RuleView {
    pub name: RuleName,
    pub state: RuleState,
    /// What is out of force and why, or what breaks the rule; one sentence without a full stop each.
    pub notes: Vec<String>,
    /// The guests that it selects now.
    #[schema(value_type = Vec<String>)]
    pub guests: Vec<GuestName>,
    pub rule: Rule,
}

/// What a person sees of a rule; computed, never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RuleState {
    /// It binds, and is kept.
    InForce,
    /// It binds, and guests are where it does not want them.
    Broken,
    /// All or some of it does not bind, because it contradicts another rule or cannot be kept.
    OutOfForce,
    /// There is nothing that it could bind.
    Idle,
}

impl RuleState {
    /// As people read it.
    pub fn text(self) -> &'static str {
        match self {
            RuleState::InForce => "in force",
            RuleState::Broken => "broken",
            RuleState::OutOfForce => "out of force",
            RuleState::Idle => "idle",
        }
    }
}

impl Watched for RuleView {
    fn watch_id(&self) -> String {
        self.name.to_string()
    }
}
