use model::{Pool, RuleKind};

use super::*;
use crate::fixture::{self, cluster, put, rule, usage};

/// Three busy guests on the first of three hosts.
fn crowded() -> (model::ClusterView, BTreeMap<HostName, model::HostUsage>) {
    let mut view = cluster(3);
    for name in ["a", "b", "c"] {
        put(&mut view, name, Pool::Mirror, "host1", Some("host2"));
    }
    let all = [usage("host1", "a=1.2 b=1.2 c=1.2"), usage("host2", ""), usage("host3", "")];
    (view, all.into_iter().map(|usage| (usage.host.clone(), usage)).collect())
}

fn to(host: &str, secondary: &str) -> GuestPlace {
    GuestPlace { host: fixture::host(host), secondary: Some(fixture::host(secondary)) }
}

#[test]
fn each_move_gains_more_than_it_costs_and_leads_on_from_the_one_before() {
    let (view, usage) = crowded();
    let proposal = propose(&Inventory::new(&view, &usage), Options::default());
    assert!(proposal.moves.len() >= 2, "two of the three go elsewhere: {proposal:#?}");
    let mut score = proposal.score_before;
    for step in &proposal.moves {
        assert!((step.score_before - score).abs() < 1e-9);
        assert!((step.gain - (step.score_before - step.score_after)).abs() < 1e-9);
        assert!(step.gain > step.cost && step.cost > 0.0);
        let migrates = step.from.host != step.to.host;
        assert_eq!(step.memory_to_send, if migrates { Bytes::mib(1088) } else { Bytes(0) });
        score = step.score_after;
    }
    assert!((proposal.score_after - score).abs() < 1e-9);
    assert!(proposal.remaining.is_empty() && proposal.held.is_empty() && proposal.unmeasured.is_empty());
    let text = serde_json::to_string(&proposal).unwrap();
    assert_eq!(serde_json::from_str::<Proposal>(&text).unwrap().digest(), proposal.digest());
}

#[test]
fn a_digest_tells_two_proposals_apart() {
    let (view, usage) = crowded();
    let inventory = Inventory::new(&view, &usage);
    let whole = propose(&inventory, Options::default());
    let first = propose(&inventory, Options { moves_max: Some(1) });
    assert_eq!(first.moves, whole.moves[..1]);
    assert_ne!(whole.digest(), first.digest());
    assert_eq!(whole.digest(), propose(&inventory, Options::default()).digest());
    assert_eq!(whole.places()[0].0, whole.moves[0].guest);
}

/// Whether the move is still good after `change`.
fn check(
    change: impl FnOnce(&mut model::ClusterView, &mut BTreeMap<HostName, model::HostUsage>),
    place: GuestPlace,
    expected: &str,
) {
    let (mut view, mut usages) = crowded();
    change(&mut view, &mut usages);
    let inventory = Inventory::new(&view, &usages);
    let answer = still_good(&inventory, &"a".parse().unwrap(), &place).err().unwrap_or_default();
    assert!(answer.starts_with(expected) && answer.is_empty() == expected.is_empty(), "{answer}");
}

#[test]
fn a_move_is_judged_again_before_it_runs() {
    check(|_, _| (), to("host2", "host1"), "");
    check(
        |view, _| {
            view.guests.remove(&"a".parse().unwrap());
        },
        to("host2", "host1"),
        "there is no guest 'a' any more",
    );
    check(|_, _| (), to("host9", "host1"), "host9 + host1 names a host that is gone");
    check(|_, _| (), to("host1", "host2"), "it is on host1 + host2 already");
    check(
        |view, _| view.guests.get_mut(&"a".parse().unwrap()).unwrap().pinned = true,
        to("host2", "host1"),
        "its operator does not want it moved",
    );
    check(|view, _| fixture::power_off(view, "host2"), to("host3", "host2"), "host2: it is lost");
    check(
        |view, _| {
            rule(view, "here", RuleKind::On(fixture::hosts_named("host1")), "a");
        },
        to("host2", "host1"),
        "host2: the rule 'here' keeps the guest on other hosts",
    );
    check(
        |_, usages| {
            usages.insert(fixture::host("host1"), usage("host1", "a=0.1 b=0.1 c=0.1"));
            usages.insert(fixture::host("host2"), usage("host2", ""));
            usages.get_mut(&fixture::host("host2")).unwrap().total.cpu = 3.5;
        },
        to("host2", "host1"),
        "it gains -",
    );
}
