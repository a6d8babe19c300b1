//! Rules, duties, settings and moves.

use std::collections::{BTreeMap, BTreeSet};

use api::{
    ChangeDuty, ChangeGuest, ChangeHealth, ChangeHost, ChangeHostSettings, ChangeSettings, ChangeTags,
    CreateDisk, CreateGuest, CreateRule, MigrateGuest, ProblemKind, ReplaceRule, RuleState, WatchEvent,
};
use futures::StreamExt;
use model::{
    Assignment, BalanceMode, Bytes, Duty, Epoch, EventKind, GuestName, GuestPlace, GuestReport,
    GuestSelector, GuestState, HealthCheck, HealthSpec, HostSelector, InSync, JobKind, JobReport, JobState,
    Losses, MoveOptions, OnUnhealthy, Pool, PowerWish, Replica, RuleKind, RuleScope, RuleStrength, Storm,
    Survive,
};

use super::fixture::{PATIENCE, TestCluster, guest, host_name, refusal};

pub fn rule(name: &str, kind: RuleKind, guests: &[&str]) -> CreateRule {
    CreateRule {
        name: name.parse().unwrap(),
        kind,
        guests: select(guests),
        strength: RuleStrength::Must,
        priority: 0,
    }
}

fn select(guests: &[&str]) -> GuestSelector {
    let mut selector = GuestSelector::default();
    for text in guests {
        match text.strip_prefix("tag:") {
            Some(tag) => selector.tags.insert(tag.to_owned()),
            None => selector.names.insert(guest(text)),
        };
    }
    selector
}

fn hosts(names: &[usize]) -> HostSelector {
    HostSelector { names: names.iter().map(|host| host_name(*host)).collect(), ..HostSelector::default() }
}

/// A mirrored guest that runs, made as an operator would and settled as the leader and its host would.
pub async fn run_guest(cluster: &TestCluster, request: CreateGuest, place: [usize; 2]) -> GuestName {
    let name = request.name.clone();
    let job = cluster.client().create_guest(&request).await.unwrap();
    let view = cluster.state.view();
    let spec = &view.guests[&name];
    let [host, secondary] = place.map(host_name);
    let assignment = Assignment {
        guest: name.clone(),
        guest_id: spec.id,
        host: host.clone(),
        epoch: Epoch::FIRST,
        secondary: spec.is_mirrored().then_some(secondary),
        why: "the test says so".to_owned(),
        handover: None,
        handed_over_by: None,
    };
    let report = GuestReport {
        guest: name.clone(),
        guest_id: spec.id,
        boot_id: view.sessions[&host].boot_id,
        host,
        epoch: Epoch::FIRST,
        state: if spec.power == PowerWish::Running { GuestState::Running } else { GuestState::Stopped },
        boot_generation: spec.boot_generation,
        since: jiff::Timestamp::now(),
        accelerator: None,
        exit: None,
        volumes: Vec::new(),
        message: None,
        machine_type: None,
        cpu: None,
        migration: None,
        no_room: false,
        failed_at: None,
        health: None,
    };
    let mut members = BTreeSet::from([(report.host.clone(), report.boot_id)]);
    members.extend(assignment.secondary.iter().map(|host| (host.clone(), view.sessions[host].boot_id)));
    let members: BTreeSet<_> = members.into_iter().map(|(host, boot_id)| Replica { host, boot_id }).collect();
    let in_sync: Vec<_> = spec
        .disks
        .iter()
        .map(|disk| InSync::first(disk.volume, Epoch::FIRST, members.clone(), jiff::Timestamp::UNIX_EPOCH))
        .collect();
    let done = JobReport { state: JobState::Done, ..JobReport::new(job.id, ["one"]) };
    cluster
        .write(|txn| {
            txn.put(&assignment).put(&report).put(&done);
            for record in &in_sync {
                txn.put(record);
            }
        })
        .await;
    name
}

pub fn small(name: &str) -> CreateGuest {
    let disk = CreateDisk { size: Some(Bytes::gib(1)), pool: Some(Pool::Mirror.into()), thin: false };
    CreateGuest { memory: Some(Bytes::gib(1)), disks: vec![disk], ..CreateGuest::new(guest(name)) }
}

pub async fn end_jobs(cluster: &TestCluster) {
    let view = cluster.state.view();
    let open = view.jobs.keys().filter(|job| !view.job_reports.contains_key(job));
    let reports: Vec<_> =
        open.map(|job| JobReport { state: JobState::Done, ..JobReport::new(*job, ["one"]) }).collect();
    cluster
        .write(|txn| {
            for report in &reports {
                txn.create(report);
            }
        })
        .await;
}

#[tokio::test]
async fn a_rule_comes_changes_is_watched_and_goes() {
    let cluster = TestCluster::start(3).await;
    let client = cluster.client();
    run_guest(&cluster, small("web1"), [0, 1]).await;
    run_guest(&cluster, small("web2"), [1, 2]).await;
    let mut watch = client.watch_rules();
    let mut next = async || tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(next().await, WatchEvent::Snapshot(all) if all.is_empty()));

    let apart = rule("web-apart", RuleKind::Apart, &["web1", "web2"]);
    let view = client.create_rule(&apart).await.unwrap();
    assert_eq!((view.state, view.guests.len(), view.notes.len()), (RuleState::InForce, 2, 0));
    assert!(matches!(next().await, WatchEvent::Changed(view) if view.name.as_str() == "web-apart"));
    assert!(refusal(client.create_rule(&apart).await).why.contains("a rule of that name exists"));

    let replace = ReplaceRule {
        kind: RuleKind::AtMost { count: 1, per: RuleScope::Zone },
        guests: select(&["tag:web"]),
        strength: RuleStrength::Should,
        priority: 3,
    };
    let view = client.replace_rule(&apart.name, &replace).await.unwrap();
    assert_eq!((view.state, view.rule.priority), (RuleState::Idle, 3), "nobody has the tag: {view:?}");
    assert_eq!(client.rules().await.unwrap(), std::slice::from_ref(&view));
    assert_eq!(client.rule(&apart.name).await.unwrap(), view);
    client.delete_rule(&apart.name).await.unwrap();
    assert!(client.rules().await.unwrap().is_empty());
    let problem = refusal(client.delete_rule(&apart.name).await);
    assert_eq!(problem.instead, "`kennel rule list` shows those that there are");
    assert_eq!(refusal(client.replace_rule(&apart.name, &replace).await).kind, ProblemKind::NotFound);
}

#[tokio::test]
async fn a_rule_about_nothing_is_refused() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.client();
    run_guest(&cluster, small("web1"), [0, 1]).await;
    for (kind, guests, why) in [
        (RuleKind::Apart, &["web1", "nobody"][..], "there is no guest 'nobody'"),
        (RuleKind::Apart, &[], "it names no guest"),
        (RuleKind::Together, &["web1"], "says nothing about one guest"),
        (RuleKind::Apart, &["tag:a b"], "'a b' is not a tag"),
        (RuleKind::On(hosts(&[6])), &["web1"], "there is no host 'host7'"),
        (RuleKind::Off(hosts(&[])), &["web1"], "it names no host"),
        (RuleKind::AtMost { count: 0, per: RuleScope::Host }, &["web1"], "with at most 0 no guest"),
    ] {
        let problem = refusal(client.create_rule(&rule("r", kind, guests)).await);
        assert!(problem.why.contains(why), "{problem}");
        assert!(!problem.instead.is_empty(), "{problem}");
    }
    assert!(client.rules().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_contradiction_is_accepted_and_named() {
    let cluster = TestCluster::start(3).await;
    let client = cluster.client();
    run_guest(&cluster, small("web1"), [0, 1]).await;
    run_guest(&cluster, small("web2"), [0, 2]).await;
    let view = client.create_rule(&rule("together", RuleKind::Together, &["web1", "web2"])).await.unwrap();
    assert_eq!(view.state, RuleState::InForce, "{view:?}");
    let view = client.create_rule(&rule("apart", RuleKind::Apart, &["web1", "web2"])).await.unwrap();
    assert_eq!(view.state, RuleState::OutOfForce, "{view:?}");
    assert!(view.notes[0].contains("contradicts together about web2"), "{view:?}");

    client.delete_rule(&"together".parse().unwrap()).await.unwrap();
    let view = client.rule(&"apart".parse().unwrap()).await.unwrap();
    assert_eq!((view.state, view.notes), (RuleState::Broken, vec!["web1, web2 are on host1".to_owned()]));
    let on = rule("on", RuleKind::On(hosts(&[1])), &["web1"]);
    let view = client.create_rule(&on).await.unwrap();
    assert_eq!((view.state, view.notes), (RuleState::Broken, vec!["web1 on host1".to_owned()]));
}

#[tokio::test]
async fn a_guest_moves_where_it_is_sent_and_least_is_copied() {
    let cluster = TestCluster::start(4).await;
    let client = cluster.client();
    let web = run_guest(&cluster, small("web1"), [0, 1]).await;
    for (to, secondary, expected) in [
        (None, None, [1, 0]),
        (Some(1), None, [1, 0]),
        (Some(2), None, [2, 0]),
        (None, Some(3), [0, 3]),
        (None, Some(0), [1, 0]),
        (Some(2), Some(3), [2, 3]),
    ] {
        let request = MigrateGuest {
            to: to.map(host_name),
            secondary: secondary.map(host_name),
            ..MigrateGuest::default()
        };
        let job = client.migrate_guest(&web, &request).await.unwrap();
        let [host, secondary] = expected.map(host_name);
        let to = GuestPlace { host, secondary: Some(secondary) };
        let options = MoveOptions::LIVE;
        assert_eq!(
            job.spec.kind,
            JobKind::MoveGuest { guest: web.clone(), to, options, heals: None },
            "{request:?}"
        );
        let problem = refusal(client.migrate_guest(&web, &request).await);
        assert!(problem.why.contains("is under way"), "{problem}");
        assert!(problem.instead.contains("kennel job cancel"), "{problem}");
        end_jobs(&cluster).await;
    }
}

#[tokio::test]
async fn a_move_that_makes_no_sense_is_refused_with_the_hosts_that_would_do() {
    let cluster = TestCluster::start(4).await;
    let client = cluster.client();
    let web = run_guest(&cluster, small("web1"), [0, 1]).await;
    let big = CreateGuest { memory: Some(Bytes::gib(7)), ..small("big") };
    run_guest(&cluster, big, [2, 3]).await;
    let local = CreateDisk { size: None, pool: Some(Pool::Local.into()), thin: false };
    let alone = run_guest(&cluster, CreateGuest { disks: vec![local], ..small("alone") }, [0, 1]).await;
    let to = |host: usize| MigrateGuest { to: Some(host_name(host)), ..MigrateGuest::default() };
    let both = MigrateGuest { secondary: Some(host_name(1)), ..to(1) };

    let check = async |name: &GuestName, request: MigrateGuest, why: &str, instead: &str| {
        let problem = refusal(client.migrate_guest(name, &request).await);
        assert!(problem.why.contains(why), "{problem}");
        assert!(problem.instead.contains(instead), "{problem}");
    };
    check(&web, to(0), "it is on host1 + host2 already", "name another host").await;
    check(&web, to(8), "there is no host 'host9'", "kennel host list").await;
    check(&web, both, "both of its copies would be on one host", "name two hosts").await;
    check(&web, to(2), "host3: 448M of memory is free, 1.1G is needed", "host2 could run it").await;
    let second = MigrateGuest { secondary: Some(host_name(1)), ..MigrateGuest::default() };
    check(&alone, second, "its disks are local: host1 alone holds them", "pool 'mirror'").await;
    check(&guest("nobody"), to(1), "there is no guest 'nobody'", "kennel guest list").await;

    client.create_rule(&rule("off", RuleKind::Off(hosts(&[3])), &["web1"])).await.unwrap();
    check(&web, to(3), "the rule 'off' keeps the guest on other hosts", "host2 could run it").await;
    let duty = ChangeDuty { duty: Duty::Maintenance, force: false };
    client.change_duty(&host_name(1), &duty).await.unwrap();
    end_jobs(&cluster).await;
    check(&web, to(1), "host2: it is in maintenance", "free some room").await;
}

#[tokio::test]
async fn a_host_is_described_anew() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.client();
    let name = host_name(0);
    let settings = ChangeHostSettings {
        reserved_memory: Some(Bytes::gib(2)),
        memory_percent: Some(Some(150)),
        ..ChangeHostSettings::default()
    };
    let tags = |add: &[&str], remove: &[&str]| ChangeTags {
        add: add.iter().map(ToString::to_string).collect(),
        remove: remove.iter().map(ToString::to_string).collect(),
    };
    let change = ChangeHost { zone: Some("rack2".to_owned()), tags: tags(&["ssd", "old"], &[]), settings };
    let host = client.change_host(&name, &change).await.unwrap().host;
    assert_eq!((host.zone.as_str(), host.tags.len()), ("rack2", 2));
    assert_eq!((host.settings.reserved_memory, host.settings.memory_percent), (Bytes::gib(2), Some(150)));
    let settings = ChangeHostSettings { memory_percent: Some(None), ..ChangeHostSettings::default() };
    let change = ChangeHost { zone: None, tags: tags(&[], &["old"]), settings };
    let host = client.change_host(&name, &change).await.unwrap().host;
    assert_eq!((host.zone.as_str(), host.tags), ("rack2", ["ssd".to_owned()].into()));
    assert_eq!((host.settings.reserved_memory, host.settings.memory_percent), (Bytes::gib(2), None));

    let all = ChangeHostSettings { reserved_memory: Some(Bytes::gib(8)), ..ChangeHostSettings::default() };
    let still = ChangeHostSettings { speed_percent: Some(0), ..ChangeHostSettings::default() };
    for (change, why) in [
        (ChangeHost::default(), "nothing is to be different"),
        (ChangeHost { zone: Some("a b".to_owned()), ..ChangeHost::default() }, "no name for a zone"),
        (ChangeHost { tags: tags(&["a,b"], &[]), ..ChangeHost::default() }, "'a,b' is not a tag"),
        (ChangeHost { settings: all, ..ChangeHost::default() }, "8G of memory are all that it has"),
        (ChangeHost { settings: still, ..ChangeHost::default() }, "a speed of 0 % does not work"),
    ] {
        let problem = refusal(client.change_host(&name, &change).await);
        assert!(problem.why.contains(why), "{problem}");
    }
}

#[tokio::test]
async fn a_host_is_drained_and_comes_back() {
    let cluster = TestCluster::start(3).await;
    let client = cluster.client();
    run_guest(&cluster, small("web1"), [0, 1]).await;
    let name = host_name(0);
    let duty = |duty| ChangeDuty { duty, force: false };
    let answer = client.change_duty(&name, &duty(Duty::Draining)).await.unwrap();
    assert_eq!(answer.host.host.duty, Duty::Draining);
    let job = answer.job.unwrap();
    assert_eq!(job.spec.kind, JobKind::DrainHost { host: name.clone() });
    let problem = refusal(client.change_duty(&name, &duty(Duty::Draining)).await);
    assert!(problem.why.contains("leaving it already"), "{problem}");

    // Another wish ends what the first one began.
    let answer = client.change_duty(&name, &duty(Duty::Maintenance)).await.unwrap();
    assert_eq!(answer.host.host.duty, Duty::Maintenance);
    assert!(client.job(job.id).await.unwrap().spec.cancel);
    let second = answer.job.unwrap();
    let answer = client.change_duty(&name, &duty(Duty::Normal)).await.unwrap();
    assert_eq!((answer.host.host.duty, answer.job), (Duty::Normal, None));
    assert!(client.job(second.id).await.unwrap().spec.cancel);
    let problem = refusal(client.change_duty(&name, &duty(Duty::Normal)).await);
    assert!(problem.why.contains("it has its normal duty"), "{problem}");
    let unknown = refusal(client.change_duty(&host_name(8), &duty(Duty::Draining)).await);
    assert_eq!(unknown.kind, ProblemKind::NotFound);
}

#[tokio::test]
async fn a_guest_is_described_anew() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.client();
    let web = run_guest(&cluster, small("web1"), [0, 1]).await;
    run_guest(&cluster, CreateGuest { start: false, ..small("db1") }, [0, 1]).await;
    let change = ChangeGuest {
        priority: Some(7),
        pinned: Some(true),
        tags: ChangeTags { add: ["web".to_owned()].into(), ..ChangeTags::default() },
        start_after: Some([guest("db1")].into()),
        ..ChangeGuest::default()
    };
    let spec = client.change_guest(&web, &change).await.unwrap().spec;
    assert_eq!((spec.priority, spec.pinned, spec.tags), (7, true, ["web".to_owned()].into()));
    assert_eq!(spec.start_after, [guest("db1")].into());
    let spec = client
        .change_guest(&web, &ChangeGuest { pinned: Some(false), ..ChangeGuest::default() })
        .await
        .unwrap()
        .spec;
    assert_eq!((spec.priority, spec.pinned), (7, false), "the rest stays");

    let after =
        |name: &str| ChangeGuest { start_after: Some([guest(name)].into()), ..ChangeGuest::default() };
    let memory = |memory| ChangeGuest { memory: Some(memory), ..ChangeGuest::default() };
    let health = |health| ChangeGuest { health, ..ChangeGuest::default() };
    let check = |check| health(ChangeHealth { check: Some(check), ..ChangeHealth::default() });
    let alarm = ChangeHealth { on_unhealthy: Some(OnUnhealthy::Alarm), ..ChangeHealth::default() };
    let spec = client.change_guest(&web, &health(alarm)).await.unwrap().spec;
    assert_eq!(spec.health, HealthSpec { on_unhealthy: OnUnhealthy::Alarm, ..HealthSpec::default() });
    for (name, change, why) in [
        ("web1", ChangeGuest::default(), "nothing is to be different"),
        ("web1", after("nobody"), "there is no guest of that name"),
        ("web1", after("web1"), "after itself"),
        ("db1", after("web1"), "db1 starts after web1, web1 after db1"),
        ("web1", memory(Bytes::gib(2)), "cannot change its size while it runs"),
        ("db1", memory(Bytes::mib(1)), "too little memory"),
        ("web1", check(HealthCheck::Tcp { port: 22 }), "asks an address of the guest, and it has none"),
        ("web1", check(HealthCheck::Command { command: Vec::new() }), "command is empty"),
        (
            "web1",
            health(ChangeHealth { failures: Some(0), ..ChangeHealth::default() }),
            "failures in a row of 0",
        ),
    ] {
        let problem = refusal(client.change_guest(&guest(name), &change).await);
        assert!(problem.why.contains(why), "{problem}");
    }
    let spec = client.change_guest(&guest("db1"), &memory(Bytes::gib(2))).await.unwrap().spec;
    assert_eq!(spec.memory, Bytes::gib(2), "it is stopped");
}

#[tokio::test]
async fn guests_that_others_depend_on_are_not_deleted() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.client();
    let db = run_guest(&cluster, small("db1"), [0, 1]).await;
    let web = run_guest(&cluster, small("web1"), [0, 1]).await;
    end_jobs(&cluster).await;
    let names = |names: &[&str]| Some(names.iter().map(|name| guest(name)).collect::<BTreeSet<_>>());
    let change = ChangeGuest { restart_with: names(&["db1"]), ..ChangeGuest::default() };
    let spec = client.change_guest(&web, &change).await.unwrap().spec;
    assert_eq!(Some(spec.restart_with), names(&["db1"]));
    let problem = refusal(client.delete_guest(&db).await);
    assert_eq!(problem.why, "others restart with it: web1");
    let change =
        ChangeGuest { start_after: names(&["db1"]), restart_with: names(&[]), ..ChangeGuest::default() };
    client.change_guest(&web, &change).await.unwrap();
    let problem = refusal(client.delete_guest(&db).await);
    assert_eq!(problem.why, "others start after it: web1");
    for (with, why) in [("web1", "restart with itself"), ("nobody", "there is no guest of that name")] {
        let change = ChangeGuest { restart_with: names(&[with]), ..ChangeGuest::default() };
        let problem = refusal(client.change_guest(&web, &change).await);
        assert!(problem.why.contains(why), "{problem}");
    }
    // Whoever is on its way out depends on nobody.
    client.delete_guest(&web).await.unwrap();
    client.delete_guest(&db).await.unwrap();
}

#[tokio::test]
async fn an_operator_says_that_a_storm_took_its_hosts_for_good() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.client();
    let problem = refusal(client.go_on_in_storm().await);
    assert_eq!(problem.why, "there is no storm");
    let storm = Storm {
        began: jiff::Timestamp::now(),
        hosts: [host_name(3), host_name(4)].into(),
        of: 5,
        go_on: None,
    };
    let losses = Losses { since: BTreeMap::new(), storm: Some(storm.clone()) };
    cluster
        .write(|txn| {
            txn.put(&losses);
        })
        .await;
    let status = client.cluster_status().await.unwrap();
    assert_eq!(status.storm, Some(storm));
    let told = |problem: &String| problem.starts_with("a storm: 2 of 5 hosts vanished at once");
    assert!(status.problems.iter().any(told), "{:?}", status.problems);
    let word = client.go_on_in_storm().await.unwrap().go_on.unwrap();
    let view = cluster.state.view();
    let told: Vec<_> = view.events.values().filter(|event| event.kind == EventKind::Storm).collect();
    assert_eq!(told.len(), 1);
    assert!(told[0].message.starts_with(&format!("{} said that the hosts", word.by)), "{told:?}");
    let problem = refusal(client.go_on_in_storm().await);
    assert!(problem.why.ends_with("has said so already"), "{problem}");
    let problems = client.cluster_status().await.unwrap().problems;
    assert!(problems.iter().any(|problem| problem.contains("by the word of")), "{problems:?}");
}

#[tokio::test]
async fn the_settings_change_within_reason() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client();
    let change = ChangeSettings {
        balance: Some(BalanceMode::Manual),
        survive: Some(Survive::Zone),
        usage_window_s: Some(30),
        ..ChangeSettings::default()
    };
    let settings = client.change_settings(&change).await.unwrap();
    assert_eq!((settings.balance, settings.survive), (BalanceMode::Manual, Survive::Zone));
    assert_eq!((settings.usage_window_s, settings.memory_percent), (30, 100), "the rest stays");
    assert_eq!(client.cluster_status().await.unwrap().settings, settings);
    for (change, why) in [
        (ChangeSettings { usage_window_s: Some(1), ..Default::default() }, "a usage window of 1 s"),
        (ChangeSettings { memory_percent: Some(0), ..Default::default() }, "giving 0 % of the memory"),
        (ChangeSettings { balance_moves_at_once: Some(0), ..Default::default() }, "making 0 moves at once"),
        (ChangeSettings { survive: Some(Survive::Hosts(99)), ..Default::default() }, "loss of 99 hosts"),
        (ChangeSettings { storm_hold_s: Some(301), ..Default::default() }, "301 (a storm hold, seconds)"),
        (ChangeSettings { storm_share_percent: Some(101), ..Default::default() }, "101 (a storm share"),
        (ChangeSettings { start_wait_s: Some(3601), ..Default::default() }, "waiting 3601 s for another"),
        (ChangeSettings::default(), "nothing is to be different"),
    ] {
        let problem = refusal(client.change_settings(&change).await);
        assert!(problem.why.contains(why), "{problem}");
        assert_eq!(problem.kind, ProblemKind::Invalid);
    }
}
