//! In which order guests start: what others wait for comes first.
//!
//! `start_after` makes a graph. Guests that wait for each other in a circle have no order among themselves: the
//! circle is named, so that it can be refused when it is written, and otherwise taken as one. Names of guests that do
//! not exist hold nobody up.
//!
//! What others wait for is as urgent as the most urgent of them: a database of priority 0 comes back before the shop
//! of priority 10 that cannot work without it, and before everything of priority 5.
//!
//! The order holds whenever a guest starts, for whatever reason: its host asks [`waits_for`] before it starts it
//! ([`crate::converge`]). Who waits starts all the same after `start_wait_s`, and people are told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use model::{
    ClusterView, ExitReason, GuestName, GuestPhase, GuestReport, GuestSpec, GuestState, HostName, Liveness,
    PowerWish,
};

/// The order of some guests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StartOrder {
    places: BTreeMap<GuestName, InOrder>,
    cycles: Vec<Cycle>,
    unknown: Vec<(GuestName, GuestName)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct InOrder {
    /// How many guests start one after the other before it, at the most.
    rank: u32,
    urgency: i32,
}

/// Guests that wait for each other: each starts after the next one, the last after the first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cycle(pub Vec<GuestName>);

impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let next = self.0.iter().cycle().skip(1);
        for (at, (guest, after)) in self.0.iter().zip(next).enumerate() {
            match at {
                0 => write!(f, "{guest} starts after {after}")?,
                _ => write!(f, ", {guest} after {after}")?,
            }
        }
        Ok(())
    }
}

impl StartOrder {
    pub fn of<'a>(specs: impl IntoIterator<Item = &'a GuestSpec>) -> StartOrder {
        let specs: BTreeMap<&GuestName, &GuestSpec> = specs.into_iter().map(|s| (&s.name, s)).collect();
        let names: Vec<&GuestName> = specs.keys().copied().collect();
        let index: BTreeMap<&GuestName, usize> = names.iter().enumerate().map(|(at, n)| (*n, at)).collect();
        let mut unknown = Vec::new();
        let mut after: Vec<Vec<usize>> = vec![Vec::new(); names.len()];
        for (at, spec) in specs.values().enumerate() {
            for name in &spec.start_after {
                match index.get(name) {
                    Some(before) => after[at].push(*before),
                    None => unknown.push((spec.name.clone(), name.clone())),
                }
            }
        }
        // Circles come out in an order in which each one waits only for those before it.
        let circles = strongly_connected(&after);
        let mut circle_of = vec![0; names.len()];
        for (number, circle) in circles.iter().enumerate() {
            circle.iter().for_each(|guest| circle_of[*guest] = number);
        }
        let outside = |circle: &[usize], number: usize| -> BTreeSet<usize> {
            let waits = circle.iter().flat_map(|guest| &after[*guest]);
            waits.map(|before| circle_of[*before]).filter(|before| *before != number).collect()
        };
        let mut ranks = vec![0u32; circles.len()];
        let mut urgencies = vec![i32::MIN; circles.len()];
        for (number, circle) in circles.iter().enumerate() {
            let before = outside(circle, number).into_iter().map(|before| ranks[before] + 1);
            ranks[number] = before.max().unwrap_or(0);
        }
        for (number, circle) in circles.iter().enumerate().rev() {
            let own = circle.iter().map(|guest| specs[names[*guest]].priority).max().unwrap_or(0);
            urgencies[number] = urgencies[number].max(own);
            for before in outside(circle, number) {
                urgencies[before] = urgencies[before].max(urgencies[number]);
            }
        }
        let places = names.iter().enumerate().map(|(at, name)| {
            let circle = circle_of[at];
            ((*name).clone(), InOrder { rank: ranks[circle], urgency: urgencies[circle] })
        });
        let mut cycles: Vec<Cycle> = circles
            .iter()
            .filter_map(|circle| shortest_cycle(circle, &after))
            .map(|cycle| Cycle(cycle.into_iter().map(|guest| names[guest].clone()).collect()))
            .collect();
        cycles.sort();
        StartOrder { places: places.collect(), cycles, unknown }
    }

    /// One for each set of guests that wait for each other.
    pub fn cycles(&self) -> &[Cycle] {
        &self.cycles
    }

    /// Guests that start after one that does not exist, and that one.
    pub fn unknown(&self) -> &[(GuestName, GuestName)] {
        &self.unknown
    }

    /// How many guests must start one after the other before this one.
    pub fn rank(&self, guest: &GuestName) -> u32 {
        self.places.get(guest).map_or(0, |place| place.rank)
    }

    /// The highest priority among the guest and all that wait for it.
    pub fn urgency(&self, guest: &GuestName) -> i32 {
        self.places.get(guest).map_or(0, |place| place.urgency)
    }

    /// All guests, the most urgent first, none before those that it starts after.
    pub fn sorted(&self) -> Vec<&GuestName> {
        let mut names: Vec<_> = self.places.iter().collect();
        names.sort_by_key(|(name, place)| (-i64::from(place.urgency), place.rank, *name));
        names.into_iter().map(|(name, _)| name).collect()
    }
}

/// The first guest that this one starts after, that is to run, and does not yet. A guest waits neither for one that
/// is to be off or has shut itself down, nor in a circle. `only`: the word of other hosts does not count yet.
pub fn waits_for<'v>(
    view: &'v ClusterView,
    spec: &GuestSpec,
    only: Option<&HostName>,
) -> Option<&'v GuestName> {
    let others = spec.start_after.iter().filter_map(|name| view.guests.get(name));
    let awaited = others.filter(|other| is_coming(view, other) && !is_up(view, other, only));
    awaited.map(|other| &other.name).find(|other| !leads_to(view, other, &spec.name))
}

/// Whether a guest is far enough for those that start after it: it runs, by the word of its host in this boot. A check
/// of its health would be asked here.
fn is_up(view: &ClusterView, spec: &GuestSpec, only: Option<&HostName>) -> bool {
    let (assignment, report) = (view.assignments.get(&spec.name), view.guest_reports.get(&spec.name));
    let counts = |r: &GuestReport| {
        view.liveness(&r.host) == Liveness::Live(r.boot_id) && only.is_none_or(|only| r.host == *only)
    };
    let this_boot = report.is_some_and(counts);
    this_boot
        && match GuestPhase::derive(spec, assignment, report, view) {
            GuestPhase::Running | GuestPhase::Paused => true,
            GuestPhase::Waiting
            | GuestPhase::Preparing
            | GuestPhase::Starting
            | GuestPhase::Stopping
            | GuestPhase::Stopped
            | GuestPhase::Failed
            | GuestPhase::Unknown
            | GuestPhase::Deleting => false,
        }
}

fn is_coming(view: &ClusterView, spec: &GuestSpec) -> bool {
    let quit = view.guest_reports.get(&spec.name).is_some_and(|report| {
        let its_own = |exit: &model::Exit| {
            exit.reason == ExitReason::GuestShutdown && exit.boot_generation >= spec.boot_generation
        };
        report.guest_id == spec.id
            && report.state == GuestState::Stopped
            && report.exit.as_ref().is_some_and(its_own)
    });
    spec.power == PowerWish::Running && !spec.deleting && !quit
}

/// Whether a guest starts after another one, or after one that does.
fn leads_to(view: &ClusterView, from: &GuestName, to: &GuestName) -> bool {
    let mut seen = BTreeSet::from([from]);
    let mut next = vec![from];
    while let Some(name) = next.pop() {
        if name == to {
            return true;
        }
        let after = view.guests.get(name).into_iter().flat_map(|spec| &spec.start_after);
        next.extend(after.filter(|name| seen.insert(*name)));
    }
    false
}

/// Tarjan's algorithm (SIAM J. Comput. 1, 1972) without recursion, for chains may be long. A component comes after
/// all those that it points to.
fn strongly_connected(edges: &[Vec<usize>]) -> Vec<Vec<usize>> {
    const NEW: usize = usize::MAX;
    let (mut index, mut low) = (vec![NEW; edges.len()], vec![0; edges.len()]);
    let mut on_stack = vec![false; edges.len()];
    let (mut stack, mut components, mut next) = (Vec::new(), Vec::new(), 0);
    for root in 0..edges.len() {
        let mut calls = if index[root] == NEW { vec![(root, 0)] } else { Vec::new() };
        while let Some((node, edge)) = calls.pop() {
            if edge == 0 {
                (index[node], low[node], on_stack[node]) = (next, next, true);
                stack.push(node);
                next += 1;
            }
            if let Some(to) = edges[node].get(edge) {
                calls.push((node, edge + 1));
                if index[*to] == NEW {
                    calls.push((*to, 0));
                } else if on_stack[*to] {
                    low[node] = low[node].min(index[*to]);
                }
                continue;
            }
            if let Some((parent, _)) = calls.last() {
                low[*parent] = low[*parent].min(low[node]);
            }
            if low[node] == index[node] {
                let start = stack.iter().rposition(|n| *n == node).unwrap_or(0);
                let mut component = stack.split_off(start);
                component.iter().for_each(|n| on_stack[*n] = false);
                component.sort_unstable();
                components.push(component);
            }
        }
    }
    components
}

/// A shortest circle through the first guest of a set of guests that wait for each other; none when it is one guest
/// that does not wait for itself.
fn shortest_cycle(component: &[usize], edges: &[Vec<usize>]) -> Option<Vec<usize>> {
    let first = *component.first()?;
    let mut came_from: BTreeMap<usize, usize> = BTreeMap::new();
    let mut layer = vec![first];
    while !layer.is_empty() {
        let mut next = Vec::new();
        for node in layer {
            for to in edges[node].iter().filter(|to| component.binary_search(to).is_ok()) {
                if *to == first {
                    let mut cycle = vec![node];
                    while let Some(before) = cycle.last().and_then(|last| came_from.get(last)) {
                        cycle.push(*before);
                    }
                    cycle.reverse();
                    return Some(cycle);
                }
                if !came_from.contains_key(to) {
                    came_from.insert(*to, node);
                    next.push(*to);
                }
            }
        }
        layer = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use model::Pool;

    /// `a:5>b,c` is a guest `a` of priority 5 that starts after `b` and `c`.
    fn order(guests: &[&str]) -> StartOrder {
        let specs: Vec<GuestSpec> = guests
            .iter()
            .map(|text| {
                let (head, after) = text.split_once('>').unwrap_or((text, ""));
                let (name, priority) = head.split_once(':').unwrap_or((head, "0"));
                let mut spec = fixture::guest(name, Pool::Mirror);
                spec.priority = priority.parse().unwrap();
                spec.start_after =
                    after.split(',').filter(|n| !n.is_empty()).map(|n| n.parse().unwrap()).collect();
                spec
            })
            .collect();
        StartOrder::of(&specs)
    }

    fn sorted(order: &StartOrder) -> String {
        order.sorted().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_others_wait_for_comes_first_and_is_as_urgent_as_they_are() {
        let order = order(&["shop:10>db", "db", "mail:5", "cron"]);
        assert_eq!(sorted(&order), "db shop mail cron");
        assert_eq!(order.urgency(&"db".parse().unwrap()), 10);
        assert_eq!(order.rank(&"shop".parse().unwrap()), 1);
        assert!(order.cycles().is_empty());
    }

    #[test]
    fn a_circle_is_named_and_the_rest_keeps_its_order() {
        let order = order(&["a>b", "b>c", "c>a", "d>a", "e"]);
        assert_eq!(order.cycles().len(), 1);
        assert_eq!(order.cycles()[0].to_string(), "a starts after b, b after c, c after a");
        assert_eq!(sorted(&order), "a b c e d");
    }

    #[test]
    fn a_guest_that_waits_for_itself_is_a_circle_too() {
        let order = order(&["a>a"]);
        assert_eq!(order.cycles()[0].to_string(), "a starts after a");
    }

    #[test]
    fn two_circles_are_named_one_by_one() {
        let order = order(&["a>b", "b>a", "x>y,a", "y>x"]);
        let named: Vec<_> = order.cycles().iter().map(ToString::to_string).collect();
        assert_eq!(named, ["a starts after b, b after a", "x starts after y, y after x"]);
        assert_eq!(sorted(&order), "a b x y");
    }

    #[test]
    fn names_of_nobody_hold_nobody_up() {
        let order = order(&["a>ghost"]);
        assert_eq!(order.unknown(), [("a".parse().unwrap(), "ghost".parse().unwrap())]);
        assert_eq!(sorted(&order), "a");
    }

    /// `a` starts after `b`, which runs on host1.
    fn pair() -> ClusterView {
        let mut view = fixture::cluster(2);
        fixture::put(&mut view, "a", Pool::Local, "host2", None);
        fixture::put(&mut view, "b", Pool::Local, "host1", None);
        spec(&mut view, "a").start_after.insert("b".parse().unwrap());
        view
    }

    fn spec<'v>(view: &'v mut ClusterView, name: &str) -> &'v mut GuestSpec {
        view.guests.get_mut(&name.parse().unwrap()).unwrap()
    }

    fn awaited(view: &ClusterView) -> Option<String> {
        waits_for(view, &view.guests[&"a".parse().unwrap()], None).map(ToString::to_string)
    }

    #[test]
    fn a_guest_waits_until_the_other_runs_in_this_boot_of_its_host() {
        let mut view = pair();
        assert_eq!(awaited(&view), None);
        // All of the power was lost: what was said before says nothing.
        fixture::power_on(&mut view, "host1", 2);
        assert_eq!(awaited(&view), Some("b".into()));
        view.guest_reports.get_mut(&"b".parse().unwrap()).unwrap().boot_id = fixture::boot("host1", 2);
        assert_eq!(awaited(&view), None);
        let heard_of_b =
            |only| waits_for(&view, &view.guests[&"a".parse().unwrap()], Some(&fixture::host(only)));
        assert_eq!((heard_of_b("host1"), heard_of_b("host2").is_some()), (None, true));
        fixture::power_off(&mut view, "host1");
        assert_eq!(awaited(&view), Some("b".into()));
        view.assignments.remove(&"b".parse().unwrap());
        assert_eq!(awaited(&view), Some("b".into()));
    }

    #[test]
    fn nobody_waits_for_who_does_not_come_nor_in_a_circle() {
        let mut view = pair();
        fixture::power_off(&mut view, "host1");
        spec(&mut view, "b").power = PowerWish::Stopped;
        assert_eq!(awaited(&view), None);
        spec(&mut view, "b").power = PowerWish::Running;
        spec(&mut view, "b").deleting = true;
        assert_eq!(awaited(&view), None);
        spec(&mut view, "b").deleting = false;
        assert_eq!(awaited(&view), Some("b".into()));
        spec(&mut view, "b").start_after.insert("a".parse().unwrap());
        assert_eq!(awaited(&view), None);
        spec(&mut view, "b").start_after.clear();
        let report = view.guest_reports.get_mut(&"b".parse().unwrap()).unwrap();
        report.state = GuestState::Stopped;
        report.exit = Some(fixture::exit(1, ExitReason::GuestShutdown, jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(awaited(&view), None, "it shut itself down");
        spec(&mut view, "b").boot_generation = 2;
        assert_eq!(awaited(&view), Some("b".into()), "it was started again");
        view.guests.remove(&"b".parse().unwrap());
        assert_eq!(awaited(&view), None);
    }

    /// Whatever graph operators manage to make: started whenever they do not wait, all guests start, and each one
    /// after those that it starts after, but for circles.
    #[test]
    fn the_order_is_kept_and_always_ends() {
        let mut dice = 7u64;
        let mut roll = |of: u64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) % of
        };
        for round in 0..300 {
            let count = 2 + roll(8);
            let name = |n: u64| format!("g{n}");
            let mut view = fixture::cluster(2);
            for n in 0..count {
                fixture::put(&mut view, &name(n), Pool::Local, "host1", None);
            }
            for _ in 0..roll(2 * count) {
                let (from, to) = (roll(count), roll(count));
                // Every other round has no circles.
                if round % 2 == 0 || from > to {
                    spec(&mut view, &name(from)).start_after.insert(name(to).parse().unwrap());
                }
            }
            let order = StartOrder::of(view.guests.values());
            fixture::power_on(&mut view, "host1", 2);
            let mut started: Vec<GuestName> = Vec::new();
            while started.len() < count as usize {
                let waits = |spec: &&GuestSpec| {
                    !started.contains(&spec.name) && waits_for(&view, spec, None).is_none()
                };
                let ready: Vec<GuestSpec> = view.guests.values().filter(waits).cloned().collect();
                assert!(!ready.is_empty(), "round {round}: nothing starts after {started:?}");
                let next = &ready[roll(ready.len() as u64) as usize];
                let early = next
                    .start_after
                    .iter()
                    .find(|before| order.rank(before) < order.rank(&next.name) && !started.contains(before));
                assert_eq!(early, None, "round {round}: {} starts before it", next.name);
                view.guest_reports.get_mut(&next.name).unwrap().boot_id = fixture::boot("host1", 2);
                started.push(next.name.clone());
            }
        }
    }

    #[test]
    fn a_long_chain_needs_no_deep_stack() {
        let names: Vec<String> = (0..20_000).map(|n| format!("g{n:05}>g{:05}", n + 1)).collect();
        let refs: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(order(&refs).rank(&"g00000".parse().unwrap()), 19_999);
    }
}
