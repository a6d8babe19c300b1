//! Random clusters, many of them overfull or with rules that are broken already: whatever is asked, no step of any
//! plan breaks a limit or a `must` rule, and a plan that was carried out is followed by none. What is checked stands
//! in [`crate::ask`].

use plan::inventory::Inventory;
use plan::proposal::{self, propose};
use proptest::prelude::*;

use crate::ask;
use crate::build::{GuestWords, HostWords, RuleWords, Scenario};

fn host(hosts: usize) -> impl Strategy<Value = (u8, u8, u8, bool)> {
    let _ = hosts;
    (0u8..3, 4u8..24, 0u8..10, prop::bool::weighted(0.05))
}

fn scenario() -> impl Strategy<Value = Scenario> {
    (2usize..6).prop_flat_map(|count| {
        let hosts = prop::collection::vec(host(count), count);
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_plan_breaks_a_limit_or_a_must_rule(scenario in scenario()) {
        ask::all(&scenario);
    }

    #[test]
    fn what_was_asked_before_changes_no_answer(scenario in scenario()) {
        let (one, two) = (scenario.build(), scenario.build());
        let plan = |live: &crate::build::Live| {
            propose(&Inventory::new(&live.view, &live.usage), proposal::Options::default())
        };
        prop_assert_eq!(plan(&one), plan(&two));
    }
}
