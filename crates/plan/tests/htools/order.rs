//! The order of the lines in a file changes nothing: every guest goes to the same hosts, by name.

use std::collections::BTreeMap;

use plan::htools::{Cluster, Order};
use plan::objective::ganeti::Ganeti;
use plan::search::{Settings, balance};

use crate::sample::{Dice, wild, wild_of};

/// Where each guest is after the plan, by name.
fn planned(text: &str) -> BTreeMap<String, (String, Option<String>)> {
    let cluster = Cluster::parse(text).unwrap();
    let order = Order::new(&cluster);
    let (snapshot, facts) = (cluster.snapshot(&order), cluster.facts(&order));
    let plan = balance(&snapshot, &Ganeti::new(&facts), &Settings::default());
    assert!(!plan.moves.is_empty(), "nothing to see where nothing moves");
    let name = |node: usize| cluster.nodes[node].name.clone();
    let seats = order.seats(&cluster, &plan.places);
    let named = cluster.instances.iter().zip(seats);
    named.map(|(guest, seat)| (guest.name.clone(), (name(seat.primary), seat.secondary.map(name)))).collect()
}

/// The file with the lines of each of its sections in another order; the policies stay, for the first one counts.
fn shuffled(text: &str, dice: &mut Dice) -> String {
    let mut sections: Vec<Vec<&str>> = text.split("\n\n").map(|section| section.lines().collect()).collect();
    for section in sections.iter_mut().take(4) {
        for last in (1..section.len()).rev() {
            section.swap(last, dice.below(last + 1));
        }
    }
    let sections: Vec<String> = sections.iter().map(|section| section.join("\n")).collect();
    sections.join("\n\n") + "\n"
}

#[test]
fn the_order_of_hosts_and_guests_changes_nothing() {
    let small = (0..12).map(wild);
    let large = (0..4).map(|seed| wild_of(&mut Dice::new(seed), 20, 120));
    for (number, text) in small.chain(large).enumerate() {
        let expected = planned(&text);
        let mut dice = Dice::new(1000 + number as u64);
        for _ in 0..3 {
            let other = shuffled(&text, &mut dice);
            assert_ne!(other, text);
            assert_eq!(planned(&other), expected, "cluster {number}:\n{text}");
        }
    }
}
