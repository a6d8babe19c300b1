//! How each rule stands: in force, broken, out of force, idle.

use std::collections::{BTreeMap, BTreeSet};

use api::{RuleState, RuleView};
use model::{ClusterView, Rule, RuleKind, RuleStrength};
use plan::inventory::Inventory;
use plan::layout::Layout;
use plan::rules::OutOfForce;
use plan::snapshot::{Bound, Group, GroupIx, GuestIx, Scope};

/// How many guests one note names.
const NAMES_MAX: usize = 5;

/// Every rule with its state. What is measured does not come into it.
pub fn rule_views(view: &ClusterView) -> Vec<RuleView> {
    if view.rules.is_empty() {
        return Vec::new();
    }
    rule_views_in(view, &Inventory::new(view, &BTreeMap::new()))
}

/// As [`rule_views`], for whoever has the planner's view of the cluster already.
pub fn rule_views_in(view: &ClusterView, inventory: &Inventory) -> Vec<RuleView> {
    let layout = Layout::new(&inventory.snapshot);
    let look = Look { inventory, layout: &layout };
    view.rules.values().map(|rule| look.view_of(view, rule)).collect()
}

/// `must` rules that are broken, one sentence each.
pub fn broken_rules(rules: &[RuleView]) -> impl Iterator<Item = String> {
    let must = rules.iter().filter(|rule| rule.rule.strength == RuleStrength::Must);
    let broken = must.filter(|rule| rule.state == RuleState::Broken);
    broken.map(|rule| format!("rule {} is broken: {}", rule.name, rule.notes.join("; ")))
}

struct Look<'a> {
    inventory: &'a Inventory,
    layout: &'a Layout<'a>,
}

impl Look<'_> {
    fn view_of(&self, view: &ClusterView, rule: &Rule) -> RuleView {
        let selected = view.guests.values().filter(|guest| rule.guests.selects(guest));
        let guests: Vec<_> = selected.map(|guest| guest.name.clone()).collect();
        let rules = &self.inventory.rules;
        let breaches = self.breaches(rule);
        let out: Vec<&OutOfForce> = rules.out_of_force.iter().filter(|out| out.rule == rule.name).collect();
        let idle = rules.idle.get(&rule.name);
        let state = match (idle, breaches.is_empty(), out.is_empty()) {
            (Some(_), _, _) => RuleState::Idle,
            (None, false, _) => RuleState::Broken,
            (None, true, false) => RuleState::OutOfForce,
            (None, true, true) => RuleState::InForce,
        };
        let notes = idle.cloned().into_iter().chain(breaches).chain(out.into_iter().map(contradiction));
        RuleView { name: rule.name.clone(), state, notes: notes.collect(), guests, rule: rule.clone() }
    }

    /// What breaks a rule, where it is in force.
    fn breaches(&self, rule: &Rule) -> Vec<String> {
        match &rule.kind {
            RuleKind::On(_) | RuleKind::Off(_) => self.misplaced(rule),
            RuleKind::Apart | RuleKind::Together | RuleKind::SpreadZones | RuleKind::AtMost { .. } => {
                let groups = self.inventory.snapshot.groups.iter().zip(0u32..);
                let own = groups.filter(|(group, _)| group.rule == rule.name.as_str());
                own.flat_map(|(group, at)| self.breaches_of(group, GroupIx(at))).collect()
            }
        }
    }

    fn breaches_of(&self, group: &Group, at: GroupIx) -> Vec<String> {
        let counts: Vec<(u32, u32)> = self.layout.group_counts(at).collect();
        let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(0);
        let crowd =
            |key: u32| self.names(group.members.iter().copied().filter(|g| self.is_at(*g, group, key)));
        match group.bound {
            Bound::AtMost(limit) => {
                let crowded = counts.into_iter().filter(|(_, count)| *count > limit);
                crowded.map(|(key, _)| format!("{} are {}", crowd(key), self.at(group.scope, key))).collect()
            }
            Bound::Together if counts.len() > 1 => {
                let main = counts.iter().find(|(_, count)| *count == most).map(|(key, _)| *key);
                let away = counts.iter().filter(|(key, _)| Some(*key) != main);
                away.map(|(key, _)| {
                    format!("{} away from the others, {}", crowd(*key), self.at(group.scope, *key))
                })
                .collect()
            }
            Bound::Together => Vec::new(),
        }
    }

    fn is_at(&self, guest: GuestIx, group: &Group, key: u32) -> bool {
        let Some(place) = self.layout.place(guest) else { return false };
        match group.scope {
            Scope::Host => place.host.0 == key,
            Scope::Domain => {
                self.inventory.snapshot.host(place.host).domains.iter().any(|domain| domain.0 == key)
            }
        }
    }

    fn at(&self, scope: Scope, key: u32) -> String {
        let snapshot = &self.inventory.snapshot;
        match scope {
            Scope::Host => format!("on {}", snapshot.hosts[key as usize].name),
            Scope::Domain => format!("in zone {}", snapshot.domains[key as usize]),
        }
    }

    /// Guests that a rule which names hosts keeps from where they are.
    fn misplaced(&self, rule: &Rule) -> Vec<String> {
        let snapshot = &self.inventory.snapshot;
        let mut by_host: BTreeMap<&str, Vec<GuestIx>> = BTreeMap::new();
        for guest in snapshot.guest_indices() {
            let Some(place) = self.layout.place(guest) else { continue };
            let must = self.inventory.rules.against(guest, place.host).contains(&&rule.name);
            let should = snapshot.guest(guest).wishes.iter().any(|wish| {
                wish.rule == rule.name.as_str() && wish.hosts.binary_search(&place.host).is_err()
            });
            if must || should {
                by_host.entry(&snapshot.host(place.host).name).or_default().push(guest);
            }
        }
        let notes = by_host.into_iter();
        notes.map(|(host, guests)| format!("{} on {host}", self.names(guests.into_iter()))).collect()
    }

    fn names(&self, guests: impl Iterator<Item = GuestIx>) -> String {
        let all: BTreeSet<_> = guests.map(|guest| self.inventory.guest_name(guest).to_string()).collect();
        let more = all.len().saturating_sub(NAMES_MAX);
        let shown: Vec<_> = all.into_iter().take(NAMES_MAX).collect();
        match more {
            0 => shown.join(", "),
            more => format!("{} and {more} more", shown.join(", ")),
        }
    }
}

fn contradiction(out: &OutOfForce) -> String {
    if out.with.is_empty() {
        return format!("for {}: {}", out.about, out.why);
    }
    let with: Vec<_> = out.with.iter().map(ToString::to_string).collect();
    format!("contradicts {} about {}: {}", with.join(" and "), out.about, out.why)
}
