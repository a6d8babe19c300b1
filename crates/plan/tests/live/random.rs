//! Random clusters, many of them overfull or with rules that are broken already: whatever is asked, no step of any
//! plan breaks a limit or a `must` rule, and a plan that was carried out is followed by none. What is checked stands
//! in [`crate::ask`]. The order of the input changes nothing, and neither does a spike of thirty seconds.

use model::HostName;
use plan::capacity::survey;
use plan::drain::{How, drain};
use plan::dump::Dump;
use plan::inventory::Inventory;
use plan::proposal::{self, propose};
use plan::why::why;
use proptest::prelude::*;

use crate::ask;
use crate::build::{GuestWords, HostWords, Live, RuleWords, Scenario};

fn host() -> impl Strategy<Value = (u8, u8, u8, bool)> {
    (0u8..3, 4u8..24, 0u8..10, prop::bool::weighted(0.05))
}

fn scenario() -> impl Strategy<Value = Scenario> {
    (2usize..6).prop_flat_map(|count| {
        let hosts = prop::collection::vec(host(), count);
        let guest = (0..count, 0..count, 1u32..6, 0u32..40, 0u8..20, 0u8..4);
        let guests = prop::collection::vec(guest, 0..20);
        let rules = prop::collection::vec((0u8..6, 0u8..4, any::<bool>(), 0..count), 0..4);
        let ask = prop::collection::vec((0u8..5, 0..count), 1..4);
        (hosts, guests, rules, ask, 0u8..3).prop_map(|(hosts, guests, rules, asks, survive)| Scenario {
            survive: ["0", "1", "zone"][usize::from(survive)].to_owned(),
            unmeasured: false,
            guests: guests.into_iter().enumerate().map(|(at, guest)| guest_words(at, guest)).collect(),
            asks: asks.into_iter().map(|(ask, host)| ask_words(ask, host)).collect(),
            rules: rules.into_iter().enumerate().map(|(at, rule)| rule_words(at, rule)).collect(),
            hosts: hosts.into_iter().enumerate().map(|(at, host)| host_words(at, host)).collect(),
        })
    })
}

fn host_words(at: usize, (zone, memory, tag, lost): (u8, u8, u8, bool)) -> HostWords {
    HostWords {
        names: format!("host{at}"),
        zone: Some(format!("zone{zone}")),
        memory: format!("{memory}G"),
        disk: "200G".into(),
        cpus: 4,
        tags: (tag < 5).then(|| "ssd".to_owned()).into_iter().collect(),
        duty: Default::default(),
        lost,
    }
}

type Guest = (usize, usize, u32, u32, u8, u8);

fn guest_words(at: usize, (host, secondary, memory, cpu, odd, tag): Guest) -> GuestWords {
    let on = if host == secondary { format!("host{host}") } else { format!("host{host} host{secondary}") };
    GuestWords {
        names: format!("g{at:02}"),
        on,
        memory: format!("{memory}G"),
        disk: "10G".into(),
        vcpus: 2,
        cpu: f64::from(cpu) / 20.0,
        tags: [format!("t{tag}")].into(),
        pinned: odd == 0,
        stopped: odd == 1,
        priority: 0,
    }
}

fn rule_words(at: usize, (kind, tag, should, host): (u8, u8, bool, usize)) -> RuleWords {
    let kind = match kind {
        0 => "apart".to_owned(),
        1 => "together".to_owned(),
        2 => format!("on host{host} tag:ssd"),
        3 => format!("off host{host}"),
        4 => "spread-zones".to_owned(),
        _ => "at-most 2 host".to_owned(),
    };
    RuleWords { name: format!("r{at}"), kind, guests: format!("tag:t{tag}"), should, priority: 0 }
}

fn ask_words(ask: u8, host: usize) -> String {
    match ask {
        0 | 1 => "balance".to_owned(),
        2 => format!("drain host{host}"),
        3 => format!("maintenance host{host}"),
        _ => format!("place new{host} mirror tag t1 force"),
    }
}

/// Everything that can be asked of a cluster and changes nothing.
fn answers(inventory: &Inventory) -> String {
    let mut text = format!("{:#?}\n", propose(inventory, proposal::Options::default()));
    for host in inventory.view().hosts.keys() {
        text.push_str(&format!("{:#?}\n", drain(inventory, host, How::Everything)));
    }
    for guest in inventory.view().guests.keys() {
        text.push_str(&format!("{:#?}\n", why(inventory, guest)));
    }
    text.push_str(&format!("{:#?}\n", survey(&inventory.snapshot)));
    text
}

/// Fisher and Yates, with a linear congruential generator (Knuth's MMIX).
fn shuffle<T>(list: &mut [T], seed: &mut u64) {
    for at in (1..list.len()).rev() {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        list.swap(at, (*seed >> 33) as usize % (at + 1));
    }
}

fn shuffled(live: &Live, mut seed: u64) -> Dump {
    let mut dump = Dump::of(&live.view, &live.usage);
    shuffle(&mut dump.hosts, &mut seed);
    shuffle(&mut dump.sessions, &mut seed);
    shuffle(&mut dump.host_reports, &mut seed);
    shuffle(&mut dump.guests, &mut seed);
    shuffle(&mut dump.assignments, &mut seed);
    shuffle(&mut dump.guest_reports, &mut seed);
    shuffle(&mut dump.in_sync, &mut seed);
    shuffle(&mut dump.rules, &mut seed);
    shuffle(&mut dump.usage, &mut seed);
    Dump::parse(&dump.to_text()).unwrap()
}

/// A cluster that is busy, but not so busy that its processors are what it lacks most.
fn unhurried(scenario: Scenario) -> Scenario {
    let calm = |guest: GuestWords| GuestWords { cpu: guest.cpu / 10.0, ..guest };
    let large = |host: HostWords| HostWords { cpus: 16, ..host };
    Scenario {
        guests: scenario.guests.into_iter().map(calm).collect(),
        hosts: scenario.hosts.into_iter().map(large).collect(),
        ..scenario
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_plan_breaks_a_limit_or_a_must_rule(scenario in scenario()) {
        ask::all(&scenario);
    }

    #[test]
    fn the_order_of_the_input_changes_no_answer(scenario in scenario(), seed in any::<u64>()) {
        let live = scenario.build();
        let (ordered, shuffled) = (Dump::of(&live.view, &live.usage), shuffled(&live, seed));
        prop_assert_eq!(answers(&ordered.inventory()), answers(&shuffled.inventory()));
    }

    #[test]
    fn a_spike_of_thirty_seconds_moves_nothing(scenario in scenario(), guest in any::<prop::sample::Index>()) {
        let mut live = unhurried(scenario).build();
        ask::settle(&mut live);
        let running = |spec: &&model::GuestSpec| spec.power == model::PowerWish::Running;
        let guests: Vec<_> = live.view.guests.values().filter(running).cloned().collect();
        let measured = |host: &HostName| live.usage.contains_key(host);
        let guests: Vec<_> =
            guests.iter().filter(|spec| measured(&live.view.assignments[&spec.name].host)).collect();
        if guests.is_empty() {
            return Ok(());
        }
        let spiked = guest.get(&guests);
        let ask = format!("load {} {} 30", spiked.name, spiked.vcpus);
        ask::answer(&mut live, &ask);
        let proposal = propose(&Inventory::new(&live.view, &live.usage), proposal::Options::default());
        prop_assert!(proposal.moves.is_empty(), "{}: {:#?}", spiked.name, proposal.moves);
    }
}
