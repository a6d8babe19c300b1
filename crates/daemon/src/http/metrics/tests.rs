//! What a host tells, of a cluster that is in memory; and what promtool has to say to it, where it is installed.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use api::StoreMemberView;
use host::usage::{Counters, Reading};
use model::{
    AlertState, AlertTarget, Assignment, BootId, Bytes, ClusterView, Epoch, GuestReport, GuestSpec,
    GuestState, Host, HostName, HostReport, InSync, Incident, JobId, JobReport, JobSpec, JobState, Replica,
    Session, VolumeId,
};
use serde_json::json;
use uuid::Uuid;

use super::families::Facts;
use super::write;

/// Generous: what is promised is 50 ms, on a machine that does nothing else, as docs/performance.md measures it.
const LIMIT: Duration = Duration::from_millis(500);

fn name(index: usize) -> HostName {
    format!("host{index}").parse().unwrap()
}

fn boot(index: usize) -> BootId {
    BootId(Uuid::from_u128(index as u128))
}

/// Two hosts, and so many guests on the first, mirrored to the second.
fn cluster(guests: usize) -> (ClusterView, Reading, BTreeMap<VolumeId, Duration>) {
    let mut view = ClusterView { revision: 4711, leader: Some(name(1)), ..ClusterView::default() };
    for index in [1, 2] {
        let (host, session, report) = host(index);
        view.hosts.insert(name(index), host);
        view.sessions.insert(name(index), session);
        view.host_reports.insert(name(index), report);
    }
    let mut counters = Vec::new();
    let mut held = BTreeMap::new();
    for index in 0..guests {
        let (spec, assignment, report, in_sync) = guest(index);
        counters.push((spec.id, Counters { cpu_s: 12.5, memory: 1 << 27, disk: 4096, network: 512 }));
        held.insert(in_sync.volume, Duration::from_millis(1500));
        view.in_sync.insert(in_sync.volume, in_sync);
        view.assignments.insert(spec.name.clone(), assignment);
        view.guest_reports.insert(spec.name.clone(), report);
        view.guests.insert(spec.name.clone(), spec);
    }
    let (job, report) = job();
    view.jobs.insert(job.id, job);
    view.job_reports.insert(report.id, report);
    let (open, ended) = (incident(2, None), incident(1, Some("2026-01-01T00:01:00Z")));
    view.incidents.extend([open, ended].map(|incident| (incident.id, incident)));
    let (target, state) = alert();
    view.alert_states.insert(state.name.clone(), state);
    view.alerts.insert(target.name.clone(), target);
    let total = Counters { cpu_s: 99.25, memory: 3 << 30, disk: 1 << 20, network: 7 };
    (view, Reading::of_counters(total, counters), held)
}

fn host(index: usize) -> (Host, Session, HostReport) {
    let at = "2026-01-01T00:00:00Z";
    let host = json!({ "name": name(index), "address": "127.0.0.1", "zone": "rack \"1\"", "tags": [],
        "joined_at": at, "store_member": true });
    let session = json!({ "host": name(index), "boot_id": boot(index), "started_at": at });
    let report = json!({ "host": name(index), "boot_id": boot(index), "kennel_version": "0", "qemu_version": "10.0",
        "kernel_version": "6.12", "cpus": 4, "memory": Bytes::gib(8), "disk": Bytes::gib(200),
        "accelerator": { "kind": "tcg", "why": "a test" }, "images": [], "problems": ["one"], "uplinks": {} });
    (from(host), from(session), from(report))
}

fn from<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn guest(index: usize) -> (GuestSpec, Assignment, GuestReport, InSync) {
    let (guest, id) = (format!("g{index}"), Uuid::from_u128(1000 + index as u128));
    let volume = VolumeId(Uuid::from_u128(1_000_000 + index as u128));
    let at = "2026-01-01T00:00:00Z";
    let disk = json!({ "volume": volume, "size": Bytes::gib(10), "pool": "mirror" });
    let spec = json!({ "name": guest, "id": id, "memory": Bytes::mib(512), "vcpus": 2, "disks": [disk], "nics": [],
        "boot": "disk", "power": "running", "boot_generation": 1, "stop_timeout_s": 60,
        "deleting": false, "priority": 0,
        "created_at": at, "seed": { "ssh_keys": [], "user_data": null } });
    let assignment = json!({ "guest": guest, "guest_id": id, "host": name(1), "epoch": 1, "secondary": name(2),
        "why": "a test" });
    let fill = json!({ "done": 1 << 20, "total": 1 << 30 });
    let volumes = json!([{ "volume": volume, "state": "syncing", "fill": fill }]);
    let report = json!({ "guest": guest, "guest_id": id, "host": name(1), "boot_id": boot(1), "epoch": 1,
        "state": GuestState::Running, "boot_generation": 1, "since": at, "accelerator": null, "exit": null,
        "volumes": volumes, "message": null });
    let members = [1].map(|index| Replica { host: name(index), boot_id: boot(index) });
    let in_sync = InSync::first(volume, Epoch::FIRST, members.into(), jiff::Timestamp::UNIX_EPOCH);
    (from(spec), from(assignment), from(report), in_sync)
}

fn incident(id: u64, ended_at: Option<&str>) -> Incident {
    let at = "2026-01-01T00:00:00Z";
    from(json!({ "id": id, "kind": "host-lost", "subject": "host/host2", "began_at": at, "opened_at": at,
        "well_since": null, "ended_at": ended_at, "weight": "critical", "peak": "critical", "proven_at": null,
        "open_because": [], "guests": {}, "more_guests": false, "entries": [], "more_entries": false }))
}

fn alert() -> (AlertTarget, AlertState) {
    let (id, at) = (Uuid::from_u128(9), "2026-01-01T00:00:00Z");
    let way = json!({ "webhook": { "url": "https://alerts.example" } });
    let target = json!({ "name": "pager", "id": id, "way": way, "from": "warning", "ca": null, "has_secret": false,
        "created_at": at });
    let target: AlertTarget = from(target);
    let state = AlertState { problem: Some("it hangs".into()), ..AlertState::new(&target) };
    (target, state)
}

fn job() -> (JobSpec, JobReport) {
    let id = JobId(Uuid::from_u128(7));
    let job = json!({ "id": id, "kind": { "drain-host": { "host": name(2) } },
        "created_at": "2026-01-01T00:00:00Z", "requested_by": "admin", "cancel": false });
    (from(job), JobReport { state: JobState::Running, ..JobReport::new(id, []) })
}

fn told(guests: usize, open: bool) -> String {
    let (view, reading, held) = cluster(guests);
    let member = StoreMemberView { host: name(1), healthy: true, is_leader: true, message: None };
    let (me, members) = (name(1), Some(vec![member]));
    let facts =
        Facts { view: &view, me: &me, is_connected: true, reading: Some(&reading), held: &held, members };
    write(facts.families(), open).unwrap()
}

#[test]
fn a_host_tells_of_itself_its_guests_their_volumes_and_the_cluster() {
    let text = told(2, false);
    let expected = r#"
kennel_host_cpu_seconds_total 99.25
kennel_host_memory_used_bytes 3221225472.0
kennel_host_info{host="host1",zone="rack \"1\"",duty="normal",accelerator="tcg"} 1
kennel_host_in_service 1.0
kennel_guest_cpu_seconds_total{guest="g0"} 12.5
kennel_guest_network_bytes_total{guest="g1"} 512.0
kennel_guest_phase{guest="g0",phase="running"} 1.0
kennel_volume_phase{guest="g0",disk="0",pool="mirror",phase="syncing"} 1.0
kennel_volume_replicas_in_sync{guest="g1",disk="0"} 1.0
kennel_volume_replicas_wanted{guest="g1",disk="0"} 2.0
kennel_volume_held_seconds_total{guest="g0",disk="0"} 1.5
kennel_volume_resync_done_bytes{guest="g0",disk="0"} 1048576.0
kennel_jobs{kind="drain-host",state="running"} 1.0
kennel_cluster_hosts{phase="online"} 2.0
kennel_cluster_guests{phase="running"} 2.0
kennel_cluster_incidents{weight="critical"} 1.0
kennel_cluster_incidents{weight="warning"} 0.0
kennel_cluster_alert_arrives{alert="pager"} 0.0
kennel_leader 1.0
kennel_store_connected 1.0
kennel_store_revision 4711.0
kennel_store_sessions 2.0
kennel_store_member_healthy{member="host1"} 1.0
"#;
    for line in expected.trim().lines() {
        assert!(text.lines().any(|told| told == line), "{line} is missing in\n{text}");
    }
    assert!(text.contains("# TYPE kennel_host_cpu_seconds_total counter\n"), "{text}");
    assert!(!text.contains("# EOF"), "{text}");
    let open = told(2, true);
    assert!(open.contains("# TYPE kennel_host_cpu_seconds counter\n") && open.ends_with("# EOF\n"), "{open}");
}

#[test]
fn a_host_that_knows_nothing_yet_tells_what_it_can() {
    let (view, me) = (ClusterView::default(), name(1));
    let held = BTreeMap::new();
    let facts =
        Facts { view: &view, me: &me, is_connected: false, reading: None, held: &held, members: None };
    let text = write(facts.families(), false).unwrap();
    assert!(text.contains("kennel_store_connected 0.0\n"), "{text}");
}

#[test]
fn promtool_has_nothing_to_say() {
    let mut checking = Command::new("promtool");
    checking.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let checking = checking.stderr(Stdio::piped()).spawn();
    let Ok(mut checking) = checking else {
        return eprintln!("promtool is not here; scripts/setup-prometheus installs it");
    };
    checking.stdin.take().unwrap().write_all(told(3, false).as_bytes()).unwrap();
    let output = checking.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn a_thousand_guests_are_told_at_once() {
    let (view, reading, held) = cluster(1000);
    let me = name(1);
    let mut best = Duration::MAX;
    let mut bytes = 0;
    for _ in 0..5 {
        let begin = Instant::now();
        let facts = Facts {
            view: &view,
            me: &me,
            is_connected: true,
            reading: Some(&reading),
            held: &held,
            members: None,
        };
        bytes = write(facts.families(), false).unwrap().len();
        best = best.min(begin.elapsed());
    }
    println!("/metrics with 1000 guests: {:.1} ms, {} KiB", best.as_secs_f64() * 1e3, bytes >> 10);
    assert!(best < LIMIT, "{best:?}");
}
