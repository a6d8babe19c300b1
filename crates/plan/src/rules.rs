//! Rules as the planner needs them: which guests count together, which hosts a guest may be on, and what of it all
//! cannot hold.
//!
//! Rules are taken one after the other, those that bind most first: `must` before `should`, then the higher
//! priority, then the older, then by name. Each is added to those that are in force already; what would contradict
//! them stays out of force: this guest or these guests of this rule, never a whole rule for the sake of one guest.
//! What is found:
//!
//! - guests that one rule wants apart (or so many at most) and another together, also through a third guest;
//! - guests for which no host is left between the rules that name hosts, or between those and their companions;
//! - more guests than fit: on all hosts or zones, or on those where they may be (an exact matching).
//!
//! What is not found is three or more rules that only fail all together, such as a puzzle of sizes: there the guests
//! wait and say which rule stands in the way.
//!
//! Guests that are being deleted count for no rule.

mod force;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use model::{
    ClusterView, GuestName, GuestSpec, Host, HostSelector, Rule, RuleKind, RuleName, RuleScope, RuleStrength,
};
use serde::Serialize;

use crate::snapshot::{Bound, Group, GuestIx, HostIx, Scope, Strength, Wish};

/// What each guest too many costs under a `should` rule of priority 0. The scale is that of
/// [`crate::objective`]: a score of 1 is a badly spread cluster, so a wish of the operator outweighs a little
/// unevenness and not a saturated host.
pub const SHOULD_COST: f64 = 0.5;

/// The rules of a cluster, in numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resolved {
    /// In the order of the rules' names.
    pub groups: Vec<Group>,
    /// Where `must` rules let guests be; a guest that is not here may be anywhere. Never empty.
    pub allowed: BTreeMap<GuestIx, Vec<HostIx>>,
    /// Where `should` rules would have them.
    pub wishes: BTreeMap<GuestIx, Vec<Wish>>,
    /// What contradicts a rule that binds more, in the order of the rules' names.
    pub out_of_force: Vec<OutOfForce>,
    /// Rules that bind nothing as things are, and why.
    pub idle: BTreeMap<RuleName, String>,
    /// By guest: `must` rules that name hosts, and the hosts they leave.
    pins: BTreeMap<GuestIx, Vec<(RuleName, BTreeSet<HostIx>)>>,
}

/// A part of a rule that cannot hold beside the others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct OutOfForce {
    pub rule: RuleName,
    /// The rules that it contradicts and that go before it; none when it contradicts the cluster as it is.
    pub with: Vec<RuleName>,
    /// The guests for whom it is out of force, with commas.
    pub about: String,
    /// A phrase without a full stop.
    pub why: String,
    /// The same guests one by one.
    pub guests: Vec<GuestName>,
}

impl fmt::Display for OutOfForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the rule '{}' is out of force for {}: {}", self.rule, self.about, self.why)
    }
}

impl Resolved {
    /// What of a rule is out of force for a guest.
    pub fn out_for(&self, guest: &GuestName, rule: &RuleName) -> Option<&OutOfForce> {
        self.out_of_force.iter().find(|out| out.rule == *rule && out.guests.contains(guest))
    }

    /// The `must` rules that keep a guest off a host.
    pub fn against(&self, guest: GuestIx, host: HostIx) -> Vec<&RuleName> {
        let pins = self.pins.get(&guest).into_iter().flatten();
        pins.filter(|(_, hosts)| !hosts.contains(&host)).map(|(rule, _)| rule).collect()
    }
}

/// The view's rules. Guests and hosts are numbered in the order of their names, as in a
/// [`Snapshot`](crate::snapshot::Snapshot) of the view.
pub fn resolve(view: &ClusterView) -> Resolved {
    let cast = Cast::new(view);
    let mut ranked: Vec<&Rule> = view.rules.values().collect();
    ranked.sort_by(|a, b| rank(a).cmp(&rank(b)));
    let mut force = force::Force::new(&cast);
    let mut soft = None;
    let mut resolved = Resolved::default();
    for rule in ranked {
        let must = rule.strength == RuleStrength::Must;
        if !must && soft.is_none() {
            // What `should` rules leave each other must not narrow where guests may be.
            resolved.allowed = force.allowed();
            resolved.pins = force.pins();
            soft = Some(force.clone());
        }
        let force = soft.as_mut().unwrap_or(&mut force);
        if let Err(idle) = add(rule, &cast, force, &mut resolved) {
            resolved.idle.insert(rule.name.clone(), idle);
        }
    }
    if soft.is_none() {
        resolved.allowed = force.allowed();
        resolved.pins = force.pins();
    }
    resolved.groups.sort_by(|a, b| a.rule.cmp(&b.rule));
    resolved.out_of_force.sort();
    resolved
}

/// What a rule that is not kept costs for each guest; the priority shifts it by a hundredth each, within limits.
fn cost(rule: &Rule) -> f64 {
    SHOULD_COST * (1.0 + f64::from(rule.priority.clamp(-90, 300)) / 100.0)
}

fn strength(rule: &Rule) -> Strength {
    match rule.strength {
        RuleStrength::Must => Strength::Must,
        RuleStrength::Should => Strength::Should(cost(rule)),
    }
}

/// Who goes first: smaller before larger.
fn rank(rule: &Rule) -> (bool, std::cmp::Reverse<i32>, jiff::Timestamp, &RuleName) {
    (rule.strength == RuleStrength::Should, std::cmp::Reverse(rule.priority), rule.created_at, &rule.name)
}

/// Hosts, zones and guests by number.
#[derive(Debug)]
struct Cast<'v> {
    view: &'v ClusterView,
    hosts: Vec<&'v Host>,
    guests: Vec<&'v GuestSpec>,
    by_name: BTreeMap<&'v GuestName, GuestIx>,
    by_tag: BTreeMap<&'v str, Vec<GuestIx>>,
    zones: Vec<&'v str>,
    /// By host.
    zone_of: Vec<usize>,
}

impl<'v> Cast<'v> {
    fn new(view: &'v ClusterView) -> Self {
        let hosts: Vec<&Host> = view.hosts.values().collect();
        let zones: Vec<&str> =
            hosts.iter().map(|host| host.zone.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
        let zone_of =
            hosts.iter().map(|host| zones.partition_point(|zone| *zone < host.zone.as_str())).collect();
        let guests: Vec<&GuestSpec> = view.guests.values().collect();
        let mut by_tag: BTreeMap<&str, Vec<GuestIx>> = BTreeMap::new();
        for (at, guest) in (0u32..).zip(&guests) {
            for tag in &guest.tags {
                by_tag.entry(tag).or_default().push(GuestIx(at));
            }
        }
        let by_name = (0u32..).zip(&guests).map(|(at, guest)| (&guest.name, GuestIx(at))).collect();
        Cast { view, hosts, guests, by_name, by_tag, zones, zone_of }
    }

    /// As [`model::GuestSelector::selects`] says, without asking every guest about every rule.
    fn selected(&self, rule: &Rule) -> Vec<GuestIx> {
        let names = rule.guests.names.iter().filter_map(|name| self.by_name.get(name)).copied();
        let tags = rule.guests.tags.iter().filter_map(|tag| self.by_tag.get(tag.as_str())).flatten().copied();
        let guests: BTreeSet<GuestIx> = names.chain(tags).collect();
        guests.into_iter().filter(|guest| !self.guests[guest.at()].deleting).collect()
    }

    fn hosts_where(&self, keep: impl Fn(&Host) -> bool) -> BTreeSet<HostIx> {
        let hosts = (0u32..).zip(&self.hosts);
        hosts.filter(|(_, host)| keep(host)).map(|(at, _)| HostIx(at)).collect()
    }

    fn guest(&self, guest: GuestIx) -> &'v GuestName {
        &self.guests[guest.at()].name
    }

    /// A few names with commas, and how many more.
    fn names(&self, guests: &[GuestIx]) -> String {
        const SHOWN: usize = 6;
        let mut names: Vec<&str> =
            guests.iter().take(SHOWN).map(|guest| self.guest(*guest).as_str()).collect();
        let more = format!("{} more", guests.len().saturating_sub(SHOWN));
        if guests.len() > SHOWN {
            names.push(&more);
        }
        names.join(", ")
    }
}

/// Puts a rule in force as far as it goes. `Err`: why it binds nothing.
fn add(
    rule: &Rule,
    cast: &Cast<'_>,
    force: &mut force::Force<'_>,
    resolved: &mut Resolved,
) -> Result<(), String> {
    let guests = cast.selected(rule);
    match &rule.kind {
        RuleKind::Apart => {
            enough(&guests, 2)?;
            at_most(rule, cast, force, resolved, &guests, (1, Scope::Host));
        }
        RuleKind::AtMost { count, per } => {
            enough(&guests, 1)?;
            let scope = match per {
                RuleScope::Host => Scope::Host,
                RuleScope::Zone => Scope::Domain,
            };
            at_most(rule, cast, force, resolved, &guests, (*count, scope));
        }
        RuleKind::SpreadZones => {
            enough(&guests, 2)?;
            let zones = force.zones_of(&guests);
            if zones < 2 {
                return Err("all hosts where its guests may be are in one zone".to_owned());
            }
            let bound = guests.len().div_ceil(zones);
            at_most(
                rule,
                cast,
                force,
                resolved,
                &guests,
                (u32::try_from(bound).unwrap_or(u32::MAX), Scope::Domain),
            );
        }
        RuleKind::Together => {
            enough(&guests, 2)?;
            let (members, out) = force.together(rule, &guests);
            resolved.out_of_force.extend(out);
            if members.len() > 1 {
                resolved.groups.push(group(rule, members, Scope::Host, Bound::Together));
            }
        }
        RuleKind::On(hosts) => on(rule, cast, force, resolved, &guests, &|host| hosts.selects(host))?,
        RuleKind::Off(hosts) => {
            if !cast.hosts.iter().any(|host| hosts.selects(host)) {
                return Err(format!("it selects no host: there is no {hosts}"));
            }
            on(rule, cast, force, resolved, &guests, &|host| !hosts.selects(host))?;
        }
    }
    Ok(())
}

fn enough(guests: &[GuestIx], least: usize) -> Result<(), String> {
    match guests.len() {
        0 => Err("it selects no guest".to_owned()),
        count if count < least => Err("it selects one guest only".to_owned()),
        _ => Ok(()),
    }
}

fn group(rule: &Rule, members: Vec<GuestIx>, scope: Scope, bound: Bound) -> Group {
    Group { rule: rule.name.to_string(), members, scope, bound, strength: strength(rule) }
}

fn at_most(
    rule: &Rule,
    cast: &Cast<'_>,
    force: &mut force::Force<'_>,
    resolved: &mut Resolved,
    guests: &[GuestIx],
    (bound, scope): (u32, Scope),
) {
    let (members, out) = force.at_most(rule, guests, bound, scope);
    let left_out = guests.len() - members.len();
    resolved.out_of_force.extend(out);
    if members.len() > bound as usize {
        resolved.groups.push(group(rule, members, scope, Bound::AtMost(bound)));
    }
    let bins = match scope {
        Scope::Host => cast.hosts.len(),
        Scope::Domain => cast.zones.len(),
    };
    let even = u32::try_from(guests.len().div_ceil(bins.max(1))).unwrap_or(u32::MAX);
    if left_out > 0 && even > bound {
        // Those that the rule cannot hold are at least spread as evenly as they can be.
        let spread = group(rule, guests.to_vec(), scope, Bound::AtMost(even));
        resolved.groups.push(Group { strength: Strength::Should(cost(rule)), ..spread });
    }
}

fn on(
    rule: &Rule,
    cast: &Cast<'_>,
    force: &mut force::Force<'_>,
    resolved: &mut Resolved,
    guests: &[GuestIx],
    keep: &dyn Fn(&Host) -> bool,
) -> Result<(), String> {
    enough(guests, 1)?;
    let hosts = cast.hosts_where(keep);
    if hosts.is_empty() {
        return match &rule.kind {
            RuleKind::On(named) if *named == HostSelector::default() => {
                Err("it selects no host: it names none".to_owned())
            }
            RuleKind::On(named) => Err(format!("it selects no host: there is no {named}")),
            RuleKind::Off(_) => {
                let about = cast.names(guests);
                let why = "it leaves them no host".to_owned();
                let named = guests.iter().map(|guest| cast.guest(*guest).clone()).collect();
                let out = OutOfForce { rule: rule.name.clone(), with: vec![], about, why, guests: named };
                resolved.out_of_force.push(out);
                Ok(())
            }
            RuleKind::Apart | RuleKind::Together | RuleKind::SpreadZones | RuleKind::AtMost { .. } => Ok(()),
        };
    }
    let (bound, out) = force.on(rule, guests, &hosts);
    resolved.out_of_force.extend(out);
    if rule.strength == RuleStrength::Should {
        for guest in bound {
            let hosts = hosts.iter().copied().collect();
            let wish = Wish { hosts, weight: cost(rule), rule: rule.name.to_string() };
            resolved.wishes.entry(guest).or_default().push(wish);
        }
    }
    Ok(())
}
