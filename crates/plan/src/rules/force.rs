//! The rules that are in force so far, and what one more would contradict.
//!
//! Guests that must be together are one company; where they may be is the company's set of hosts. A limit (apart,
//! at most) is a set of guests and how many of them one host or zone may have.

use std::collections::{BTreeMap, BTreeSet};

use model::{Rule, RuleName, RuleStrength};

use super::{Cast, OutOfForce, rank};
use crate::snapshot::{GuestIx, HostIx, Scope};

type Hosts = BTreeSet<HostIx>;

#[derive(Debug, Clone)]
pub(super) struct Force<'c> {
    cast: &'c Cast<'c>,
    /// The company of a guest, as the number of its first guest; a guest that is not here is by itself.
    company: BTreeMap<GuestIx, GuestIx>,
    /// By company, when there is more than one guest.
    members: BTreeMap<GuestIx, Vec<GuestIx>>,
    /// By company; one that is not here may be anywhere.
    hosts: BTreeMap<GuestIx, Hosts>,
    /// By guest: rules that want it together with others.
    companions: BTreeMap<GuestIx, BTreeSet<RuleName>>,
    /// By guest: rules that name hosts.
    pins: BTreeMap<GuestIx, Vec<(RuleName, Hosts)>>,
    limits: Vec<Limit>,
    /// By guest: the limits that count it.
    limits_of: BTreeMap<GuestIx, Vec<usize>>,
}

#[derive(Debug, Clone)]
struct Limit {
    rule: RuleName,
    members: Vec<GuestIx>,
    bound: u32,
    scope: Scope,
}

/// What stands against a part of a rule.
type Against = (Vec<RuleName>, String);

/// Companies that one rule could join.
#[derive(Debug, Default)]
struct Circle {
    /// Of the rule.
    guests: Vec<GuestIx>,
    companies: BTreeSet<GuestIx>,
    hosts: Option<Hosts>,
    /// By limit: how many of the circle it counts.
    counted: BTreeMap<usize, u32>,
}

impl<'c> Force<'c> {
    pub fn new(cast: &'c Cast<'c>) -> Self {
        Force {
            cast,
            company: BTreeMap::new(),
            members: BTreeMap::new(),
            hosts: BTreeMap::new(),
            companions: BTreeMap::new(),
            pins: BTreeMap::new(),
            limits: Vec::new(),
            limits_of: BTreeMap::new(),
        }
    }

    /// Where each guest may be that may not be anywhere.
    pub fn allowed(&self) -> BTreeMap<GuestIx, Vec<HostIx>> {
        let mut allowed = BTreeMap::new();
        for (company, hosts) in &self.hosts {
            for guest in self.of(*company) {
                allowed.insert(guest, hosts.iter().copied().collect());
            }
        }
        allowed
    }

    pub fn pins(&self) -> BTreeMap<GuestIx, Vec<(RuleName, Hosts)>> {
        let mut pins = self.pins.clone();
        // Whoever must be with a pinned guest is bound by its pins too.
        for members in self.members.values() {
            let all: Vec<_> =
                members.iter().flat_map(|m| self.pins.get(m).cloned().unwrap_or_default()).collect();
            for member in members.iter().filter(|_| !all.is_empty()) {
                pins.insert(*member, all.clone());
            }
        }
        pins
    }

    /// In how many zones the guests may be.
    pub fn zones_of(&self, guests: &[GuestIx]) -> usize {
        let mut zones = BTreeSet::new();
        for guest in guests {
            match self.hosts.get(&self.company_of(*guest)) {
                None => return self.cast.zones.len(),
                Some(hosts) => zones.extend(hosts.iter().map(|host| self.cast.zone_of[host.at()])),
            }
        }
        zones.len()
    }

    /// The guests that may be kept together, the most there can be, and the others.
    pub fn together(&mut self, rule: &Rule, guests: &[GuestIx]) -> (Vec<GuestIx>, Vec<OutOfForce>) {
        let mut circles: Vec<Circle> = Vec::new();
        for guest in guests {
            match circles.iter().position(|circle| self.objection(circle, *guest).is_none()) {
                Some(at) => self.join(&mut circles[at], *guest),
                None => {
                    let mut circle = Circle::default();
                    self.join(&mut circle, *guest);
                    circles.push(circle);
                }
            }
        }
        let largest = circles.iter().map(|circle| circle.guests.len()).max().unwrap_or(0);
        let Some(chosen) = circles.into_iter().find(|circle| circle.guests.len() == largest) else {
            return (vec![], vec![]);
        };
        let mut out = Out::new(rule, self.cast);
        for guest in guests.iter().filter(|guest| !chosen.guests.contains(guest)) {
            if let Some(against) = self.objection(&chosen, *guest) {
                out.push(*guest, against);
            }
        }
        self.unite(&chosen);
        for guest in &chosen.guests {
            self.companions.entry(*guest).or_default().insert(rule.name.clone());
        }
        (chosen.guests, out.finish())
    }

    /// The guests that a limit may count, and the others.
    pub fn at_most(
        &mut self,
        rule: &Rule,
        guests: &[GuestIx],
        bound: u32,
        scope: Scope,
    ) -> (Vec<GuestIx>, Vec<OutOfForce>) {
        let mut out = Out::new(rule, self.cast);
        let mut kept = Vec::new();
        let mut counted: BTreeMap<GuestIx, u32> = BTreeMap::new();
        for guest in guests {
            let count = counted.entry(self.company_of(*guest)).or_default();
            if *count < bound {
                *count += 1;
                kept.push(*guest);
            } else {
                let with = self.companion_rules(self.company_of(*guest));
                let keep = if with.len() == 1 { "keeps" } else { "keep" };
                let why = format!("{} {keep} it together with others of the rule", quoted(&with));
                out.push(*guest, (with, why));
            }
        }
        let seated = self.seat(&kept, bound, scope);
        for guest in kept.iter().filter(|guest| !seated.contains(guest)) {
            out.push(*guest, self.no_seat(*guest, &kept, bound, scope));
        }
        kept.retain(|guest| seated.contains(guest));
        for guest in &kept {
            self.limits_of.entry(*guest).or_default().push(self.limits.len());
        }
        self.limits.push(Limit { rule: rule.name.clone(), members: kept.clone(), bound, scope });
        (kept, out.finish())
    }

    /// The guests that may be kept on `hosts`, and the others.
    pub fn on(&mut self, rule: &Rule, guests: &[GuestIx], hosts: &Hosts) -> (Vec<GuestIx>, Vec<OutOfForce>) {
        let mut out = Out::new(rule, self.cast);
        let mut free = Vec::new();
        for guest in guests {
            match self.no_host_left(*guest, hosts) {
                Some(against) => out.push(*guest, against),
                None => free.push(*guest),
            }
        }
        // All at once, which mostly goes well, and only otherwise one after the other.
        let before = self.hosts.clone();
        for guest in &free {
            self.narrow(*guest, hosts);
        }
        let mut bound = Vec::new();
        if self.crowded(&free).is_none() {
            bound = free;
        } else {
            self.hosts = before;
            for guest in free {
                let before = self.hosts.clone();
                if let Some(against) = self.no_host_left(guest, hosts) {
                    out.push(guest, against);
                    continue;
                }
                self.narrow(guest, hosts);
                match self.crowded(&[guest]) {
                    None => bound.push(guest),
                    Some(limit) => {
                        self.hosts = before;
                        let with = vec![limit];
                        let why = format!("too few hosts would be left for the guests of {}", quoted(&with));
                        out.push(guest, (with, why));
                    }
                }
            }
        }
        for guest in &bound {
            self.pins.entry(*guest).or_default().push((rule.name.clone(), hosts.clone()));
        }
        (bound, out.finish())
    }

    fn company_of(&self, guest: GuestIx) -> GuestIx {
        self.company.get(&guest).copied().unwrap_or(guest)
    }

    fn of(&self, company: GuestIx) -> Vec<GuestIx> {
        self.members.get(&company).cloned().unwrap_or_else(|| vec![company])
    }

    fn companion_rules(&self, company: GuestIx) -> Vec<RuleName> {
        let rules = self.of(company).into_iter().filter_map(|guest| self.companions.get(&guest));
        rules.flatten().cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn pin_rules(&self, company: GuestIx) -> Vec<RuleName> {
        let pins = self.of(company).into_iter().filter_map(|guest| self.pins.get(&guest));
        pins.flatten().map(|(rule, _)| rule.clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// By limit: how many of a company it counts.
    fn counted(&self, company: GuestIx) -> BTreeMap<usize, u32> {
        let mut counted = BTreeMap::new();
        for guest in self.of(company) {
            for limit in self.limits_of.get(&guest).into_iter().flatten() {
                *counted.entry(*limit).or_default() += 1;
            }
        }
        counted
    }

    /// Why a guest cannot be together with a circle.
    fn objection(&self, circle: &Circle, guest: GuestIx) -> Option<Against> {
        let company = self.company_of(guest);
        if circle.companies.contains(&company) {
            return None;
        }
        for (limit, count) in self.counted(company) {
            let limit_of = &self.limits[limit];
            if circle.counted.get(&limit).is_some_and(|others| others + count > limit_of.bound) {
                let with = vec![limit_of.rule.clone()];
                let why = format!("{} keeps it apart from others of the rule", quoted(&with));
                return Some((with, why));
            }
        }
        let (Some(mine), Some(theirs)) = (self.hosts.get(&company), &circle.hosts) else { return None };
        if !mine.is_disjoint(theirs) {
            return None;
        }
        let mut with = self.pin_rules(company);
        with.extend(circle.companies.iter().flat_map(|company| self.pin_rules(*company)));
        with.sort();
        with.dedup();
        let leave = if with.len() == 1 { "leaves" } else { "leave" };
        let why = format!("{} {leave} no host for it and the others of the rule", quoted(&with));
        Some((with, why))
    }

    fn join(&self, circle: &mut Circle, guest: GuestIx) {
        circle.guests.push(guest);
        let company = self.company_of(guest);
        if !circle.companies.insert(company) {
            return;
        }
        for (limit, count) in self.counted(company) {
            *circle.counted.entry(limit).or_default() += count;
        }
        if let Some(mine) = self.hosts.get(&company) {
            circle.hosts = Some(match &circle.hosts {
                None => mine.clone(),
                Some(theirs) => mine & theirs,
            });
        }
    }

    fn unite(&mut self, circle: &Circle) {
        let mut all: Vec<GuestIx> = circle.companies.iter().flat_map(|company| self.of(*company)).collect();
        all.sort();
        let Some(first) = all.first().copied() else { return };
        for company in &circle.companies {
            self.members.remove(company);
            self.hosts.remove(company);
        }
        if let Some(hosts) = &circle.hosts {
            self.hosts.insert(first, hosts.clone());
        }
        for guest in &all {
            self.company.insert(*guest, first);
        }
        self.members.insert(first, all);
    }

    fn no_host_left(&self, guest: GuestIx, hosts: &Hosts) -> Option<Against> {
        let company = self.company_of(guest);
        let mine = self.hosts.get(&company)?;
        if !mine.is_disjoint(hosts) {
            return None;
        }
        let own = self.pins.get(&guest).into_iter().flatten();
        let own: Vec<RuleName> =
            own.filter(|(_, set)| set.is_disjoint(hosts)).map(|(rule, _)| rule.clone()).collect();
        let with = if own.is_empty() {
            let mut with = self.pin_rules(company);
            with.extend(self.companion_rules(company));
            with.sort();
            with.dedup();
            with
        } else {
            own
        };
        let why = format!("with {} no host would be left", quoted(&with));
        Some((with, why))
    }

    fn narrow(&mut self, guest: GuestIx, hosts: &Hosts) {
        let company = self.company_of(guest);
        let narrowed = self.hosts.get(&company).map_or_else(|| hosts.clone(), |mine| mine & hosts);
        self.hosts.insert(company, narrowed);
    }

    /// A limit that some guest of these cannot keep any more, if there is one. Empty sets count as crowded by
    /// whatever limit counts them; without one they are found by [`Self::no_host_left`].
    fn crowded(&self, guests: &[GuestIx]) -> Option<RuleName> {
        let companies: BTreeSet<GuestIx> = guests.iter().map(|guest| self.company_of(*guest)).collect();
        let all = companies.into_iter().flat_map(|company| self.of(company));
        let limits: BTreeSet<usize> =
            all.flat_map(|guest| self.limits_of.get(&guest).cloned().unwrap_or_default()).collect();
        let crowded =
            |limit: &&Limit| self.seat(&limit.members, limit.bound, limit.scope).len() < limit.members.len();
        limits.into_iter().map(|at| &self.limits[at]).find(crowded).map(|limit| limit.rule.clone())
    }

    /// As many of the guests as hosts or zones can have them, `bound` on each, each where it may be.
    /// Augmenting paths (Kuhn); guests that may be anywhere take what is left, which is as good as any other way.
    fn seat(&self, guests: &[GuestIx], bound: u32, scope: Scope) -> BTreeSet<GuestIx> {
        let bins = match scope {
            Scope::Host => self.cast.hosts.len(),
            Scope::Domain => self.cast.zones.len(),
        };
        let bin_of = |host: &HostIx| match scope {
            Scope::Host => host.at(),
            Scope::Domain => self.cast.zone_of[host.at()],
        };
        let mut seats =
            Seats { bound: bound as usize, wants: BTreeMap::new(), taken: vec![Vec::new(); bins] };
        let mut anywhere = Vec::new();
        for guest in guests {
            match self.hosts.get(&self.company_of(*guest)) {
                None => anywhere.push(*guest),
                Some(hosts) => {
                    seats.wants.insert(*guest, hosts.iter().map(bin_of).collect());
                }
            }
        }
        let wanting: Vec<GuestIx> = seats.wants.keys().copied().collect();
        let mut seated: BTreeSet<GuestIx> =
            wanting.into_iter().filter(|guest| seats.find(*guest, &mut BTreeSet::new())).collect();
        let left = (bins * bound as usize).saturating_sub(seated.len());
        seated.extend(anywhere.into_iter().take(left));
        seated
    }

    fn no_seat(&self, guest: GuestIx, guests: &[GuestIx], bound: u32, scope: Scope) -> Against {
        let (bins, what) = match scope {
            Scope::Host => (self.cast.hosts.len(), "hosts"),
            Scope::Domain => (self.cast.zones.len(), "zones"),
        };
        if guests.len() > bins.saturating_mul(bound as usize) {
            let why = format!("{} {what} cannot have {} guests at {bound} each", bins, guests.len());
            return (vec![], why);
        }
        let with = self.pin_rules(self.company_of(guest));
        let leave = if with.len() == 1 { "leaves" } else { "leave" };
        let why = format!("{} {leave} too few {what} for all its guests", quoted(&with));
        (with, why)
    }
}

struct Seats {
    bound: usize,
    wants: BTreeMap<GuestIx, BTreeSet<usize>>,
    taken: Vec<Vec<GuestIx>>,
}

impl Seats {
    /// Seats a guest, moving others on where that makes room.
    fn find(&mut self, guest: GuestIx, tried: &mut BTreeSet<usize>) -> bool {
        let wants = self.wants.get(&guest).cloned().unwrap_or_default();
        if let Some(bin) = wants.iter().find(|bin| self.taken[**bin].len() < self.bound) {
            self.taken[*bin].push(guest);
            return true;
        }
        for bin in wants {
            if !tried.insert(bin) {
                continue;
            }
            for at in 0..self.taken[bin].len() {
                let other = self.taken[bin][at];
                if self.find(other, tried) {
                    self.taken[bin][at] = guest;
                    return true;
                }
            }
        }
        false
    }
}

/// Guests for whom a rule is out of force, those with one reason together.
struct Out<'c> {
    rule: &'c Rule,
    cast: &'c Cast<'c>,
    guests: BTreeMap<Against, Vec<GuestIx>>,
}

impl<'c> Out<'c> {
    fn new(rule: &'c Rule, cast: &'c Cast<'c>) -> Self {
        Out { rule, cast, guests: BTreeMap::new() }
    }

    fn push(&mut self, guest: GuestIx, against: Against) {
        self.guests.entry(against).or_default().push(guest);
    }

    fn finish(self) -> Vec<OutOfForce> {
        let Out { rule, cast, guests } = self;
        let each = guests.into_iter().map(|((with, why), guests)| {
            let first = with.first().and_then(|name| cast.view.rules.get(name));
            let why = match first {
                Some(first) => format!("{why}; {}", precedence(first, rule)),
                None => why,
            };
            let about = cast.names(&guests);
            let guests = guests.iter().map(|guest| cast.guest(*guest).clone()).collect();
            OutOfForce { rule: rule.name.clone(), with, about, why, guests }
        });
        each.collect()
    }
}

/// Why one rule goes before another.
fn precedence(first: &Rule, second: &Rule) -> String {
    let name = &first.name;
    if first.strength != second.strength && first.strength == RuleStrength::Must {
        format!("'{name}' is a must")
    } else if first.priority != second.priority {
        format!("'{name}' has the higher priority")
    } else if first.created_at != second.created_at {
        format!("'{name}' is older")
    } else {
        debug_assert!(rank(first) < rank(second));
        format!("'{name}' comes first by name")
    }
}

fn quoted(rules: &[RuleName]) -> String {
    rules.iter().map(|rule| format!("'{rule}'")).collect::<Vec<_>>().join(" and ")
}
