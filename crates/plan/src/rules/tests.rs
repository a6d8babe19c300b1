use model::{ClusterView, HostSelector, Pool, RuleKind, RuleScope, RuleStrength};

use super::*;
use crate::fixture::{self, cluster, hosts_named, rule};

/// A cluster of so many hosts, and guests on the first one.
fn with_guests(hosts: usize, guests: &str) -> ClusterView {
    let mut view = cluster(hosts);
    for name in guests.split_whitespace() {
        fixture::put(&mut view, name, Pool::Local, "host1", None);
    }
    view
}

fn on(hosts: &str) -> RuleKind {
    RuleKind::On(hosts_named(hosts))
}

fn at_most(count: u32, per: RuleScope) -> RuleKind {
    RuleKind::AtMost { count, per }
}

/// Groups, where guests may be, wishes, what is out of force, what is idle; one line each.
fn check(view: &ClusterView, expected: &[&str]) {
    let resolved = resolve(view);
    let guests: Vec<&str> = view.guests.keys().map(|name| name.as_str()).collect();
    let hosts: Vec<&str> = view.hosts.keys().map(|name| name.as_str()).collect();
    let hosts_of = |set: &[HostIx]| set.iter().map(|host| hosts[host.at()]).collect::<Vec<_>>().join(" ");
    let mut lines = Vec::new();
    for group in &resolved.groups {
        let members: Vec<&str> = group.members.iter().map(|guest| guests[guest.at()]).collect();
        let strength = match group.strength {
            Strength::Must => "must".to_owned(),
            Strength::Should(cost) => format!("should {cost:.2}"),
        };
        let line = format!(
            "{}: {} {:?} per {:?}, {strength}",
            group.rule,
            members.join(" "),
            group.bound,
            group.scope
        );
        lines.push(line);
    }
    for (guest, set) in &resolved.allowed {
        lines.push(format!("{} only on {}", guests[guest.at()], hosts_of(set)));
    }
    for (guest, wishes) in &resolved.wishes {
        for wish in wishes {
            lines.push(format!(
                "{} rather on {} ({:.2})",
                guests[guest.at()],
                hosts_of(&wish.hosts),
                wish.weight
            ));
        }
    }
    lines.extend(resolved.out_of_force.iter().map(ToString::to_string));
    lines.extend(resolved.idle.iter().map(|(rule, why)| format!("{rule} is idle: {why}")));
    assert_eq!(lines, expected);
}

#[test]
fn each_kind_of_rule_becomes_what_the_planner_counts() {
    let mut view = with_guests(4, "a b c d e");
    view.hosts.get_mut(&fixture::host("host4")).unwrap().tags.insert("ssd".into());
    rule(&mut view, "apart", RuleKind::Apart, "a b");
    rule(&mut view, "few", at_most(1, RuleScope::Zone), "c d");
    rule(&mut view, "fast", on("tag:ssd host1"), "e");
    rule(&mut view, "not-three", RuleKind::Off(hosts_named("host3")), "a").strength = RuleStrength::Should;
    rule(&mut view, "pair", RuleKind::Together, "d e");
    rule(&mut view, "wide", RuleKind::SpreadZones, "a b c d e").strength = RuleStrength::Should;
    check(
        &view,
        &[
            "apart: a b AtMost(1) per Host, must",
            "few: c d AtMost(1) per Domain, must",
            "pair: d e Together per Host, must",
            "wide: a b c d e AtMost(2) per Domain, should 0.50",
            "d only on host1 host4",
            "e only on host1 host4",
            "a rather on host1 host2 host4 (0.50)",
        ],
    );
}

#[test]
fn a_guest_made_tomorrow_with_the_tag_is_bound_too() {
    let mut view = with_guests(3, "a b");
    rule(&mut view, "web", RuleKind::Apart, "tag:web");
    check(&view, &["web is idle: it selects no guest"]);
    for name in ["a", "b"] {
        view.guests.get_mut(&name.parse().unwrap()).unwrap().tags.insert("web".into());
    }
    check(&view, &["web: a b AtMost(1) per Host, must"]);
    view.guests.get_mut(&"b".parse().unwrap()).unwrap().deleting = true;
    check(&view, &["web is idle: it selects one guest only"]);
}

#[test]
fn rules_over_no_host_say_so() {
    let mut view = with_guests(2, "a b");
    rule(&mut view, "gpu", on("tag:gpu"), "a");
    rule(&mut view, "no-gpu", RuleKind::Off(hosts_named("tag:gpu")), "a");
    rule(&mut view, "nowhere", on(""), "a");
    for host in view.hosts.values_mut() {
        host.zone = "one".into();
    }
    rule(&mut view, "wide", RuleKind::SpreadZones, "a b");
    check(
        &view,
        &[
            "gpu is idle: it selects no host: there is no tag:gpu",
            "no-gpu is idle: it selects no host: there is no tag:gpu",
            "nowhere is idle: it selects no host: it names none",
            "wide is idle: all hosts where its guests may be are in one zone",
        ],
    );
}

#[test]
fn apart_and_together_cannot_both_hold() {
    let mut view = with_guests(3, "a b c");
    rule(&mut view, "apart", RuleKind::Apart, "a b");
    rule(&mut view, "pair", RuleKind::Together, "a b c");
    check(
        &view,
        &[
            "apart: a b AtMost(1) per Host, must",
            "pair: a c Together per Host, must",
            "the rule 'pair' is out of force for b: 'apart' keeps it apart from others of the rule; 'apart' is older",
        ],
    );
    view.rules.get_mut(&"pair".parse().unwrap()).unwrap().priority = 1;
    check(
        &view,
        &[
            "pair: a b c Together per Host, must",
            "the rule 'apart' is out of force for b: 'pair' keeps it together with others of the rule; 'pair' has the \
             higher priority",
        ],
    );
}

#[test]
fn together_reaches_through_a_third_guest() {
    let mut view = with_guests(3, "a b c");
    rule(&mut view, "ab", RuleKind::Together, "a b");
    rule(&mut view, "bc", RuleKind::Together, "b c");
    rule(&mut view, "ac", RuleKind::Apart, "a c");
    check(
        &view,
        &[
            "ab: a b Together per Host, must",
            "bc: b c Together per Host, must",
            "the rule 'ac' is out of force for c: 'ab' and 'bc' keep it together with others of the rule; 'ab' is \
             older",
        ],
    );
}

#[test]
fn guests_that_must_be_together_need_a_common_host() {
    let mut view = with_guests(3, "a b c");
    rule(&mut view, "a-here", on("host1 host2"), "a");
    rule(&mut view, "b-there", on("host3"), "b");
    rule(&mut view, "all", RuleKind::Together, "a b c");
    check(
        &view,
        &[
            "all: a c Together per Host, must",
            "a only on host1 host2",
            "b only on host3",
            "c only on host1 host2",
            "the rule 'all' is out of force for b: 'a-here' and 'b-there' leave no host for it and the others of the \
             rule; 'a-here' is older",
        ],
    );
}

#[test]
fn on_and_off_that_leave_no_host_contradict() {
    let mut view = with_guests(2, "a b");
    rule(&mut view, "here", on("host1"), "a b");
    rule(&mut view, "not-here", RuleKind::Off(hosts_named("host1")), "b");
    rule(&mut view, "nowhere", RuleKind::Off(HostSelector { ..hosts_named("host1 host2") }), "a");
    check(
        &view,
        &[
            "a only on host1",
            "b only on host1",
            "the rule 'not-here' is out of force for b: with 'here' no host would be left; 'here' is older",
            "the rule 'nowhere' is out of force for a: it leaves them no host",
        ],
    );
}

#[test]
fn more_guests_than_hosts_can_have_are_spread_at_least() {
    let mut view = with_guests(2, "a b c d e");
    rule(&mut view, "apart", RuleKind::Apart, "a b c d e");
    check(
        &view,
        &[
            "apart: a b AtMost(1) per Host, must",
            "apart: a b c d e AtMost(3) per Host, should 0.50",
            "the rule 'apart' is out of force for c, d, e: 2 hosts cannot have 5 guests at 1 each",
        ],
    );
}

#[test]
fn pins_that_leave_too_few_hosts_are_found_exactly() {
    let mut view = with_guests(3, "a b c");
    rule(&mut view, "apart", RuleKind::Apart, "a b c");
    rule(&mut view, "left", on("host1 host2"), "a b");
    check(
        &view,
        &["apart: a b c AtMost(1) per Host, must", "a only on host1 host2", "b only on host1 host2"],
    );
    rule(&mut view, "c-too", on("host1 host2"), "c");
    check(
        &view,
        &[
            "apart: a b c AtMost(1) per Host, must",
            "a only on host1 host2",
            "b only on host1 host2",
            "the rule 'c-too' is out of force for c: too few hosts would be left for the guests of 'apart'; 'apart' is \
             older",
        ],
    );
}

#[test]
fn a_must_rule_goes_before_a_should_rule_of_any_priority() {
    let mut view = with_guests(3, "a b");
    let should = rule(&mut view, "near", RuleKind::Together, "a b");
    should.strength = RuleStrength::Should;
    should.priority = 1000;
    rule(&mut view, "far", RuleKind::Apart, "a b");
    check(
        &view,
        &[
            "far: a b AtMost(1) per Host, must",
            "the rule 'near' is out of force for b: 'far' keeps it apart from others of the rule; 'far' is a must",
        ],
    );
}

#[test]
fn should_rules_do_not_narrow_where_a_guest_may_be() {
    let mut view = with_guests(3, "a");
    rule(&mut view, "must", on("host1 host2"), "a");
    rule(&mut view, "wish", on("host1"), "a").strength = RuleStrength::Should;
    rule(&mut view, "other-wish", on("host3"), "a").strength = RuleStrength::Should;
    check(
        &view,
        &[
            "a only on host1 host2",
            "a rather on host1 (0.50)",
            "the rule 'other-wish' is out of force for a: with 'must' and 'wish' no host would be left; 'must' is a \
             must",
        ],
    );
}

#[test]
fn the_order_in_which_rules_are_written_changes_nothing_but_their_age() {
    let mut view = with_guests(4, "a b c d");
    rule(&mut view, "x", RuleKind::Apart, "a b c");
    rule(&mut view, "y", RuleKind::Together, "b c d");
    let resolved = resolve(&view);
    let mut other = with_guests(4, "d c b a");
    other.rules = view.rules.clone();
    assert_eq!(resolve(&other), resolved);
}

#[test]
fn a_large_cluster_with_many_rules_is_quick() {
    let mut view = cluster(200);
    for at in 0..2000 {
        let name = format!("g{at}");
        fixture::put(&mut view, &name, Pool::Local, "host1", None);
        let tags = &mut view.guests.get_mut(&name.parse().unwrap()).unwrap().tags;
        tags.insert(format!("t{}", at % 20));
        tags.insert(format!("pair{}", at / 2));
    }
    for at in 0..20 {
        rule(&mut view, &format!("apart{at}"), RuleKind::Apart, &format!("tag:t{at}"));
        rule(&mut view, &format!("zones{at}"), RuleKind::SpreadZones, &format!("tag:t{at}"));
        let hosts = (1..=150).map(|host| format!("host{}", host + at)).collect::<Vec<_>>().join(" ");
        rule(&mut view, &format!("on{at}"), on(&hosts), &format!("tag:t{at}"));
    }
    for at in 0..100 {
        rule(&mut view, &format!("pair{at}"), RuleKind::Together, &format!("tag:pair{at}"));
    }
    let resolved = resolve(&view);
    assert!(resolved.out_of_force.is_empty(), "{:?}", resolved.out_of_force.first());
    assert_eq!(resolved.groups.len(), 140);
}
