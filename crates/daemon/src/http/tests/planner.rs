//! What the planner answers: why, balance, capacity, what if, and what it refuses to take in.

use api::{AddHostQuery, ApplyBalance, ChangeDuty, CreateDisk, CreateGuest, CreateRule, ShapeQuery};
use model::{Bytes, Duty, GuestState, JobKind, Pool, RuleKind};

use super::fixture::{TestCluster, guest, host_name, refusal};
use super::planning::{end_jobs, rule, run_guest, small};

fn apart() -> CreateRule {
    rule("apart", RuleKind::Apart, &["web1", "web2"])
}

#[tokio::test]
async fn a_guest_says_why_it_is_where_it_is() {
    let cluster = TestCluster::start(3).await;
    let client = cluster.client();
    run_guest(&cluster, small("web1"), [0, 1]).await;
    run_guest(&cluster, small("web2"), [1, 2]).await;
    client.create_rule(&apart()).await.unwrap();
    let why = client.why(&guest("web1")).await.unwrap();
    assert_eq!(why.here.unwrap().to_string(), "host1 + host2");
    assert_eq!(why.because[0], "the test says so");
    assert_eq!(why.others.len(), 2);
    assert!(why.others[&host_name(1)].contains("'apart' allows 1 on a host"), "{:?}", why.others);
    assert!(why.rules[0].starts_with("apart (apart, must): kept"), "{:?}", why.rules);
    assert_eq!(why.cannot_move, None);
    assert!(refusal(client.why(&guest("nobody")).await).why.contains("there is no guest 'nobody'"));
}

#[tokio::test]
async fn a_proposal_is_carried_out_as_it_was_seen_or_not_at_all() {
    let cluster = TestCluster::start(3).await;
    let client = cluster.client();
    run_guest(&cluster, small("web1"), [0, 1]).await;
    run_guest(&cluster, small("web2"), [0, 2]).await;
    client.create_rule(&apart()).await.unwrap();
    let view = client.balance().await.unwrap();
    assert_eq!(view.moves.len(), 1, "{view:?}");
    assert!(view.score_after < view.score_before && view.remaining.is_empty(), "{view:?}");
    let step = &view.moves[0];
    assert!(step.gain > step.cost, "{step:?}");
    assert_eq!((step.from.host.clone(), step.disk_to_copy), (host_name(0), Bytes(0)), "a swap: {step:?}");

    let problem = refusal(client.apply_balance(&ApplyBalance { digest: "another".to_owned() }).await);
    assert!(problem.why.contains("the proposal is another one by now: web"), "{problem}");
    let seen = ApplyBalance { digest: view.digest };
    let job = client.apply_balance(&seen).await.unwrap();
    let moves = view.moves.iter().map(|step| (step.guest.clone(), step.to.clone())).collect();
    assert_eq!(job.spec.kind, JobKind::Balance { moves });
    assert!(refusal(client.apply_balance(&seen).await).why.contains("being balanced already"));
    assert_eq!(client.balance().await.unwrap().job, Some(job.id));
}

#[tokio::test]
async fn the_capacity_says_how_many_fit_and_what_a_loss_would_do() {
    let cluster = TestCluster::start(3).await;
    let client = cluster.client();
    run_guest(&cluster, small("web1"), [0, 1]).await;
    let disk = CreateDisk { size: None, pool: Some(Pool::Local.into()), thin: false };
    run_guest(&cluster, CreateGuest { disks: vec![disk], ..small("old") }, [0, 0]).await;
    let shape =
        ShapeQuery { memory: Some(Bytes::gib(2)), disk: Some(Bytes::gib(5)), ..ShapeQuery::default() };
    let view = client.capacity(&shape).await.unwrap();
    assert!(view.is_kept, "{view:?}");
    assert_eq!((view.fits.memory, view.fits.vcpus, view.fits.pool), (Bytes::gib(2), 1, Pool::Mirror));
    assert!(view.fits.count > 2 && view.fits.count < view.fits.count_unpromised, "{:?}", view.fits);
    assert!(view.fits.limited_by.contains("room that is kept"), "{:?}", view.fits);
    assert_eq!(view.room[0].memory_given, Bytes::mib(2048 + 128), "with what QEMU takes beside it");
    let lost = &view.hosts[0];
    assert_eq!((lost.name.as_str(), lost.restarts, lost.local), ("host1", 1, 1));

    let loss = client.host_loss(&host_name(0)).await.unwrap();
    assert_eq!((loss.restarts[0].guest.clone(), loss.restarts[0].on.clone()), (guest("web1"), host_name(1)));
    assert_eq!((loss.local, loss.left_out.len()), (vec![guest("old")], 0));
    assert!(refusal(client.host_loss(&host_name(8)).await).why.contains("there is no host 'host9'"));

    let host = AddHostQuery { memory: Bytes::gib(32), disk: Bytes::gib(500), cores: 8, zone: None };
    let brings = client.add_host(&host).await.unwrap();
    assert!(brings.fits_after.count > brings.fits_before.count, "{brings:?}");
    assert_eq!(brings.problems_after, Vec::<String>::new());
}

#[tokio::test]
async fn what_would_break_the_promise_is_refused_or_stays_visible() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.client();
    let large = |name: &str| CreateGuest { memory: Some(Bytes::gib(4)), ..small(name) };
    run_guest(&cluster, large("a"), [0, 1]).await;
    let problem = refusal(client.create_guest(&large("b")).await);
    assert!(problem.why.contains("the cluster is to survive the loss of any one host"), "{problem}");
    assert!(problem.why.contains("would leave out"), "{problem}");
    assert!(problem.instead.contains("--force"), "{problem}");
    let huge = CreateGuest { memory: Some(Bytes::gib(64)), force: true, ..small("huge") };
    assert!(refusal(client.create_guest(&huge).await).why.contains("64.1G is needed"), "room is room");

    // Off, it takes nothing; starting it is another matter.
    let name = run_guest(&cluster, CreateGuest { start: false, ..large("b") }, [1, 0]).await;
    let broken = |problems: &[String]| problems.iter().any(|problem| problem.contains("is to survive"));
    assert!(!broken(&client.cluster_status().await.unwrap().problems));
    let problem = refusal(client.start_guest(&name).await);
    assert!(problem.why.contains("would leave out"), "{problem}");
    let job = client.force_start_guest(&name).await.unwrap();
    assert!(job.warnings[0].contains("the promise is broken until there is more room"), "{job:?}");
    cluster.settle_state(&name, GuestState::Running).await;
    assert!(broken(&client.cluster_status().await.unwrap().problems));
    assert!(!client.capacity(&ShapeQuery::default()).await.unwrap().is_kept);

    let third = CreateGuest { memory: Some(Bytes::gib(3)), start: false, ..small("c") };
    let name = run_guest(&cluster, third, [1, 0]).await;
    let two = CreateGuest { memory: Some(Bytes::gib(2)), force: true, ..small("d") };
    let job = client.create_guest(&two).await.unwrap();
    assert!(!job.warnings.is_empty(), "{job:?}");
    run_guest_again(&cluster, "d", [1, 0]).await;
    let problem = refusal(client.force_start_guest(&name).await);
    assert!(problem.why.contains("its host host2: "), "{problem}");
    assert!(problem.instead.contains("kennel guest migrate c"), "{problem}");
}

async fn run_guest_again(cluster: &TestCluster, name: &str, place: [usize; 2]) {
    cluster.settle(&guest(name), place[0], GuestState::Running).await;
    end_jobs(cluster).await;
}

#[tokio::test]
async fn a_host_that_something_cannot_leave_is_emptied_by_force_only() {
    let cluster = TestCluster::start(3).await;
    let client = cluster.client();
    let disk = CreateDisk { size: None, pool: Some(Pool::Local.into()), thin: false };
    run_guest(&cluster, CreateGuest { disks: vec![disk], pinned: true, ..small("old") }, [0, 0]).await;
    let duty = |force| ChangeDuty { duty: Duty::Draining, force };
    let problem = refusal(client.change_duty(&host_name(0), &duty(false)).await);
    assert!(
        problem.why.contains("one guest cannot leave it: old: its operator does not want it moved"),
        "{problem}"
    );
    assert!(problem.instead.contains("--force"), "{problem}");
    assert_eq!(client.host(&host_name(0)).await.unwrap().host.duty, Duty::Normal, "nothing was done");
    let answer = client.change_duty(&host_name(0), &duty(true)).await.unwrap();
    assert!(answer.warnings[0].contains("it stays there: old"), "{answer:?}");
}

#[tokio::test]
async fn a_broken_rule_is_a_problem_of_the_cluster() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.client();
    run_guest(&cluster, small("web1"), [0, 1]).await;
    run_guest(&cluster, small("web2"), [0, 1]).await;
    client.create_rule(&apart()).await.unwrap();
    let problems = client.cluster_status().await.unwrap().problems;
    assert!(problems.contains(&"rule apart is broken: web1, web2 are on host1".to_owned()), "{problems:?}");
}

#[tokio::test]
async fn hosts_are_rebooted_in_groups_and_a_dump_is_read_back() {
    let cluster = TestCluster::start(3).await;
    let client = cluster.client();
    run_guest(&cluster, small("web1"), [0, 1]).await;
    let groups = client.reboot().await.unwrap().groups;
    assert_eq!(groups.len(), 3, "one member of the store at a time: {groups:?}");
    assert_eq!(groups.iter().map(|group| group.moves.len()).sum::<usize>(), 1, "{groups:?}");

    let dump = client.dump().await.unwrap();
    let text = serde_json::to_string(&dump).unwrap();
    let read = plan::dump::Dump::parse(&text).unwrap();
    assert_eq!((read.hosts.len(), read.guests.len()), (3, 1));
    assert!(!text.contains(&cluster.token), "no secrets");
}
