//! Placement rules: who is kept apart, together, on or off some hosts, spread over zones.
//!
//! Rules bind every guest they name, whether it is mirrored or not. A rule names guests, and guests' tags, so that
//! a guest made tomorrow with the tag is bound too.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{GuestName, GuestSpec, Host, HostName, RuleName};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rule {
    pub name: RuleName,
    pub kind: RuleKind,
    pub guests: GuestSelector,
    pub strength: RuleStrength,
    /// Of rules that contradict each other the higher one is in force; of equals the older one.
    pub priority: i32,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// What a rule asks of its guests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RuleKind {
    /// No two on one host.
    Apart,
    /// All on one host.
    Together,
    /// On these hosts only.
    On(HostSelector),
    /// On none of these hosts.
    Off(HostSelector),
    /// As evenly over the zones as their number allows.
    SpreadZones,
    /// No more than `count` on one host or in one zone.
    AtMost { count: u32, per: RuleScope },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RuleScope {
    Host,
    Zone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RuleStrength {
    /// Never broken by a plan; a guest waits rather.
    Must,
    /// Kept where that costs less than it is worth.
    Should,
}

/// Guests by name, and guests that carry one of the tags.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct GuestSelector {
    #[schema(value_type = Vec<String>)]
    pub names: BTreeSet<GuestName>,
    pub tags: BTreeSet<String>,
}

/// Hosts by name, and hosts that carry one of the tags.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct HostSelector {
    #[schema(value_type = Vec<String>)]
    pub names: BTreeSet<HostName>,
    pub tags: BTreeSet<String>,
}

impl GuestSelector {
    pub fn selects(&self, guest: &GuestSpec) -> bool {
        self.names.contains(&guest.name) || !self.tags.is_disjoint(&guest.tags)
    }
}

impl HostSelector {
    pub fn selects(&self, host: &Host) -> bool {
        self.names.contains(&host.name) || !self.tags.is_disjoint(&host.tags)
    }
}

/// Names as they are, tags as `tag:NAME`, with commas.
fn list<'a, T: fmt::Display + 'a>(
    f: &mut fmt::Formatter<'_>,
    names: impl IntoIterator<Item = &'a T>,
    tags: &BTreeSet<String>,
) -> fmt::Result {
    let names = names.into_iter().map(ToString::to_string);
    let all: Vec<String> = names.chain(tags.iter().map(|tag| format!("tag:{tag}"))).collect();
    f.pad(&all.join(", "))
}

impl fmt::Display for GuestSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, &self.names, &self.tags)
    }
}

impl fmt::Display for HostSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, &self.names, &self.tags)
    }
}

impl fmt::Display for RuleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            RuleKind::Apart => "apart".to_owned(),
            RuleKind::Together => "together".to_owned(),
            RuleKind::On(hosts) => format!("on {hosts}"),
            RuleKind::Off(hosts) => format!("off {hosts}"),
            RuleKind::SpreadZones => "spread over zones".to_owned(),
            RuleKind::AtMost { count, per: RuleScope::Host } => format!("at most {count} on a host"),
            RuleKind::AtMost { count, per: RuleScope::Zone } => format!("at most {count} in a zone"),
        };
        f.pad(&text)
    }
}

impl fmt::Display for RuleStrength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            RuleStrength::Must => "must",
            RuleStrength::Should => "should",
        })
    }
}
