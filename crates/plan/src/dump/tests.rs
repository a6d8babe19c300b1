use model::Pool;
use serde_json::{Value, json};

use super::*;
use crate::fixture::{self, cluster, put, rule, usage};

/// A dump of three hosts and two guests, as JSON that a test may spoil.
fn good() -> Value {
    let mut view = cluster(3);
    put(&mut view, "db", Pool::Mirror, "host1", Some("host2"));
    put(&mut view, "web", Pool::Mirror, "host2", Some("host3"));
    rule(&mut view, "apart", RuleKind::Apart, "db web");
    rule(&mut view, "ghosts", RuleKind::Apart, "tag:ghost");
    let usage = BTreeMap::from([(fixture::host("host1"), usage("host1", "db=1.5"))]);
    serde_json::to_value(Dump::of(&view, &usage)).unwrap()
}

/// What is said of a dump in which `spoil` changed something.
fn check(spoil: impl FnOnce(&mut Value), expected: &str) {
    let mut dump = good();
    spoil(&mut dump);
    let error = Dump::parse(&serde_json::to_string_pretty(&dump).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_dump_plans_like_the_cluster_that_it_is_of() {
    let mut view = cluster(3);
    put(&mut view, "db", Pool::Mirror, "host1", Some("host2"));
    rule(&mut view, "here", RuleKind::On(fixture::hosts_named("host1")), "db");
    let usage = BTreeMap::from([(fixture::host("host1"), usage("host1", "db=1.5"))]);
    let dump = Dump::of(&view, &usage);
    let again = Dump::parse(&dump.to_text()).unwrap();
    assert_eq!(again, dump);
    assert_eq!(again.inventory().snapshot, Inventory::new(&view, &usage).snapshot);
}

#[test]
fn rules_that_bind_nothing_are_kept_apart() {
    let dump = good();
    assert_eq!(dump["rules"].as_array().unwrap().len(), 1);
    assert_eq!(dump["idle_rules"][0]["name"], "ghosts");
    Dump::parse(&dump.to_string()).unwrap();
}

#[test]
fn what_is_no_dump_is_refused_with_line_and_column() {
    let place = |text: &str| Dump::parse(text).unwrap_err().to_string();
    assert_eq!(place(""), "line 1, column 1: the file is empty");
    assert_eq!(place("{\"format\":\n  nonsense}"), "line 2, column 4: expected ident");
    assert_eq!(place("[]"), "line 1, column 2: invalid length 0, expected struct Dump with 16 elements");
    let whole = serde_json::to_string_pretty(&good()).unwrap();
    let cut = &whole[..whole.len() / 2];
    assert!(place(cut).ends_with("; the file ends too early"), "{}", place(cut));
    let lines = whole.lines().collect::<Vec<_>>();
    let at = lines.iter().position(|line| line.contains("\"memory\": 8589934592")).unwrap();
    let spoiled = whole.replacen("\"memory\": 8589934592", "\"memory\": -1", 1);
    assert_eq!(
        place(&spoiled),
        format!(
            "line {}, column {}: invalid value: integer `-1`, expected u64; sizes and counts are not negative",
            at + 1,
            lines[at].find("8589").unwrap() + 2
        )
    );
}

#[test]
fn records_that_do_not_fit_together_are_refused_with_their_path() {
    check(|d| d["format"] = json!("tarball"), "format: it is 'tarball', and a dump says 'kennel-dump'");
    check(|d| d["version"] = json!(2), "version: it is 2, and this build reads version 1");
    check(
        |d| d["assignments"][1]["host"] = json!("host9"),
        "assignments[1] (web): host: there is no host 'host9'",
    );
    check(
        |d| d["assignments"][1]["secondary"] = json!("host2"),
        "assignments[1] (web): secondary: it is on host2 like the primary: the secondary is on another host",
    );
    check(
        |d| d["assignments"][0]["guest"] = json!("cache"),
        "assignments[0] (cache): guest: there is no guest 'cache'",
    );
    check(
        |d| d["guests"][1]["name"] = json!("db"),
        "guests[1] (db): there are two of that name, the other is guests[0]",
    );
    check(
        |d| d["host_reports"][2]["host"] = json!("host7"),
        "host_reports[2] (host7): host: there is no host 'host7'",
    );
    check(
        |d| d["usage"][0]["guests"]["db"]["usage"]["cpu"] = json!(-0.5),
        "usage[0] (host1): an amount: -0.5 cannot have been used: write a number that is not negative",
    );
}

#[test]
fn rules_over_nothing_and_start_orders_in_a_circle_are_refused() {
    check(
        |d| d["rules"][0]["guests"] = json!({"names": [], "tags": []}),
        "rules[0] (apart): guests: it names no guest, so the rule binds nothing",
    );
    check(
        |d| d["rules"][0]["guests"] = json!({"names": ["nobody"], "tags": ["none"]}),
        "rules[0] (apart): guests: there is no guest that is nobody, tag:none, so the rule binds nothing",
    );
    check(
        |d| d["rules"][0]["kind"] = json!({"on": {"names": [], "tags": ["ssd"]}}),
        "rules[0] (apart): kind: there is no host that is tag:ssd, so the rule binds nothing",
    );
    check(
        |d| {
            d["guests"][0]["start_after"] = json!(["web"]);
            d["guests"][1]["start_after"] = json!(["db"]);
        },
        "guests[0] (db): start_after: none of these could ever start: db starts after web, web after db",
    );
}

#[test]
fn damage_of_any_kind_is_an_answer_and_no_panic() {
    let whole = good().to_string();
    let mut random: u64 = 1;
    for _ in 0..2000 {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let at = (random >> 33) as usize % whole.len();
        let with = ["", "-", "9", "\"", "{", "null"][(random >> 20) as usize % 6];
        if whole.is_char_boundary(at) && whole.is_char_boundary(at + 1) {
            let _ = Dump::parse(&format!("{}{with}{}", &whole[..at], &whole[at + 1..]));
        }
    }
}
