//! In which order guests start: what others wait for comes first.
//!
//! `start_after` makes a graph. Guests that wait for each other in a circle have no order among themselves: the
//! circle is named, so that it can be refused when it is written, and otherwise taken as one. Names of guests that do
//! not exist hold nobody up.
//!
//! What others wait for is as urgent as the most urgent of them: a database of priority 0 comes back before the shop
//! of priority 10 that cannot work without it, and before everything of priority 5.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use model::{GuestName, GuestSpec};

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

    #[test]
    fn a_long_chain_needs_no_deep_stack() {
        let names: Vec<String> = (0..20_000).map(|n| format!("g{n:05}>g{:05}", n + 1)).collect();
        let refs: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(order(&refs).rank(&"g00000".parse().unwrap()), 19_999);
    }
}
