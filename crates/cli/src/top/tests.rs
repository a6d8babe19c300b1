//! What a person sees, drawn on a terminal that is none.

use std::collections::BTreeMap;

use api::WatchEvent;
use jiff::Timestamp;
use model::{GuestUsage, HostName, HostPhase, HostUsage, JobState, StepState, Usage};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::json;

use super::draw::{self, Paint};
use super::{Key, Sort, Top, live};
use crate::commands::{host_example, job_example};

const WIDTH: u16 = 110;

fn guest(name: &str, host: &str, phase: &str) -> api::GuestView {
    let at = "2026-01-01T00:00:00Z";
    let id = uuid::Uuid::nil();
    let spec = json!({ "name": name, "id": id, "created_at": at, "vcpus": 2, "memory": 512 << 20, "boot": "disk",
        "disks": [], "nics": [], "seed": { "ssh_keys": [] }, "power": "running", "boot_generation": 1,
        "priority": 0, "stop_timeout_s": 60, "deleting": false });
    let view = json!({ "name": name, "id": id, "phase": phase, "host": host, "secondary": null, "message": null,
        "volumes": [], "spec": spec, "assignment": null, "report": null });
    serde_json::from_value(view).unwrap()
}

fn usage(cpu: f64, memory: f64, disk: f64) -> Usage {
    Usage { cpu, memory, disk, network: 1e6 }
}

fn measured(host: &str, total: Usage, guests: &[(&str, Usage)]) -> HostUsage {
    let host: HostName = host.parse().unwrap();
    let guests = guests
        .iter()
        .map(|(name, usage)| (name.parse().unwrap(), GuestUsage { usage: *usage, measured_s: 600 }));
    let at = Timestamp::UNIX_EPOCH;
    HostUsage { host, at, window_s: 300, measured_s: 600, total, guests: guests.collect() }
}

/// Two hosts, one of them lost; three guests; one problem; one job.
fn top() -> Top {
    let mut top = Top::default();
    let hosts = vec![host_example("host1", HostPhase::Online), host_example("host2", HostPhase::Lost)];
    top.take(WatchEvent::Snapshot(hosts), |top| &mut top.hosts);
    let guests = vec![
        guest("db", "host1", "running"),
        guest("mail", "host2", "unknown"),
        guest("web", "host1", "running"),
    ];
    top.take(WatchEvent::Snapshot(guests), |top| &mut top.guests);
    top.take(
        WatchEvent::Snapshot(vec![job_example(
            JobState::Running,
            [StepState::Done, StepState::Running],
            None,
        )]),
        |top| &mut top.jobs,
    );
    let (db, web) = (usage(0.25, 4e8, 2e6), usage(1.5, 1e8, 0.0));
    top.measured(vec![measured("host1", usage(1.0, 4e9, 2e6), &[("db", db), ("web", web)])]);
    let status = json!({ "name": "lab", "id": uuid::Uuid::nil(), "created_at": "2026-01-01T00:00:00Z",
        "settings": model::Settings::default(), "answered_by": "host1", "revision": 7, "leader": "host1",
        "hosts_online": 1, "hosts_total": 2, "store_answers": true, "store_members": [],
        "guests": { "running": 2, "unknown": 1 }, "volumes": {}, "jobs_running": 1,
        "problems": ["the host 'host2' is lost"], "damaged": {} });
    top.status = Some(serde_json::from_value(status).unwrap());
    top
}

/// The lines of a screen of this height.
fn screen(top: &Top, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(WIDTH, height)).unwrap();
    let paint = Paint { coloured: true };
    terminal.draw(|frame| draw::draw(top, paint, false, frame.area(), frame.buffer_mut())).unwrap();
    let text = terminal.backend().to_string();
    text.lines().map(|line| line.trim_matches('"').trim_end().to_owned()).collect()
}

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    for line in expected {
        assert!(text.lines().any(|told| told == *line), "{line:?} is missing in\n{text}");
    }
}

#[test]
fn everything_is_seen_at_a_glance() {
    let text = screen(&top(), 30).join("\n");
    check(
        &text,
        &[
            "lab: 1 of 2 hosts online, 2 of 3 guests running, 1 problem",
            "PROBLEMS",
            "  the host 'host2' is lost",
            "JOBS",
            "c m d n a: sort by CPU, memory, disk, network, name   r: reverse   /: filter   q: quit",
        ],
    );
    let host = text.lines().find(|line| line.starts_with("host1 ")).unwrap();
    assert!(host.contains("online") && host.contains("[|||||     ] 1.0/2"), "{host}");
    assert!(host.contains("3.7G/8G") && host.contains("1.9M/s"), "{host}");
    let guest = text.lines().find(|line| line.starts_with("web ")).unwrap();
    assert!(guest.contains("running") && guest.contains("1.50/2") && guest.contains("95.4M/512M"), "{guest}");
}

#[test]
fn guests_are_sorted_by_what_they_use_and_the_unmeasured_come_last() {
    let mut top = top();
    let names =
        |top: &Top| -> Vec<String> { top.shown().iter().map(|(guest, _)| guest.name.to_string()).collect() };
    assert_eq!(names(&top), ["web", "db", "mail"]);
    for (key, expected) in [
        ('m', ["db", "web", "mail"]),
        ('d', ["db", "web", "mail"]),
        ('c', ["web", "db", "mail"]),
        ('a', ["db", "mail", "web"]),
        ('r', ["web", "mail", "db"]),
    ] {
        assert!(top.press(Key::Char(key)));
        assert_eq!(names(&top), expected, "after {key}");
    }
}

#[test]
fn a_filter_is_typed_kept_and_dropped() {
    let mut top = top();
    for key in [Key::Char('/'), Key::Char('q'), Key::Backspace, Key::Char('d'), Key::Char('b')] {
        assert!(top.press(key), "{key:?} is typed, and ends nothing");
    }
    assert!(screen(&top, 30).contains(&"filter: db_   (enter keeps it, escape drops it)".to_owned()));
    assert!(top.press(Key::Enter));
    assert_eq!(top.shown().len(), 1);
    assert!(screen(&top, 30).iter().any(|line| line.starts_with("GUEST with 'db' (by CPU)")));
    for key in [Key::Char('/'), Key::Escape] {
        assert!(top.press(key));
    }
    assert_eq!((top.shown().len(), top.sort), (3, Sort::Cpu));
    assert!(!top.press(Key::Char('q')));
    assert!(!top.press(Key::Interrupt));
}

#[test]
fn what_is_old_is_said_to_be() {
    let mut top = top();
    top.take(WatchEvent::<api::HostView>::Interrupted("host1 does not answer".to_owned()), |top| {
        &mut top.hosts
    });
    assert!(screen(&top, 30)[0].ends_with("this is old: host1 does not answer"), "{:?}", screen(&top, 30)[0]);
    top.take(WatchEvent::Snapshot(Vec::new()), |top| &mut top.hosts);
    assert!(screen(&top, 30)[0].ends_with("1 problem"));
}

#[test]
fn small_screens_and_empty_clusters_are_drawn_too() {
    for height in [1, 2, 5, 12] {
        assert_eq!(screen(&top(), height).len(), usize::from(height));
    }
    let narrow = live::text(&top(), 80);
    let host = narrow.lines().find(|line| line.starts_with("host1 ")).unwrap();
    assert!(host.contains(" 1.0/2 ") && host.contains(" 3.7G/8G ") && !host.contains('['), "{narrow}");
    let guest = narrow.lines().find(|line| line.starts_with("web ")).unwrap();
    assert!(guest.contains("1.50/2") && guest.contains("95.4M/512M"), "{narrow}");
    assert_eq!(screen(&Top::default(), 10)[0], "kennel: asking the cluster");
    let scrolled = Top { offset: 1, usages: BTreeMap::new(), ..top() };
    assert!(!screen(&scrolled, 30).iter().any(|line| line.starts_with("db ")));
}

#[test]
fn one_frame_as_text_has_all_guests_and_no_keys() {
    let mut top = top();
    let many = (0..200).map(|n| guest(&format!("g{n}"), "host1", "running")).collect();
    top.take(WatchEvent::Snapshot(many), |top| &mut top.guests);
    let text = live::text(&top, WIDTH);
    assert_eq!(text.lines().filter(|line| line.starts_with('g')).count(), 200, "{text}");
    assert!(!text.contains("q: quit") && text.ends_with('\n') && !text.ends_with("\n\n"), "{text}");
    check(&text, &["PROBLEMS", "  the host 'host2' is lost"]);
}
