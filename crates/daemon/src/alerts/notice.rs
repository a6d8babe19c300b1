//! What is told.

use api::{IncidentView, Notice, NoticeKind, utc};
use jiff::Timestamp;
use model::{ClusterView, Incident, Weight, seconds};
use plan::alert::{Due, Occasion};

/// How many incidents a mail tells of that tells of several.
const TOLD_MAX: usize = 50;

fn cluster(view: &ClusterView) -> String {
    view.cluster.as_ref().map(|cluster| cluster.name.clone()).unwrap_or_default()
}

/// The same for each try, and for no other notice.
fn id(view: &ClusterView, due: &Due) -> String {
    let cluster = view.cluster.as_ref().map(|cluster| cluster.id.to_string()).unwrap_or_default();
    format!("{cluster}-{}-{}", due.incident, due.told.notices)
}

/// One turn of one incident.
pub fn single(view: &ClusterView, due: &Due, incident: &Incident, now: Timestamp) -> Notice {
    let kind = match due.occasion {
        Occasion::Opened => NoticeKind::Opened,
        Occasion::Changed => NoticeKind::Changed,
        Occasion::Ended => NoticeKind::Ended,
    };
    Notice {
        id: id(view, due),
        kind,
        cluster: cluster(view),
        sent_at: now,
        weight: incident.weight,
        headline: headline(due.occasion, incident),
        incidents: vec![IncidentView::of(incident)],
    }
}

fn headline(occasion: Occasion, incident: &Incident) -> String {
    let what = incident.headline();
    match occasion {
        Occasion::Opened => format!("{}: {what}", incident.weight),
        Occasion::Changed => format!("now {}: {what}", incident.weight),
        Occasion::Ended => {
            let lasted = incident.lasted_ms().map(|ms| format!(", for {}", seconds(ms))).unwrap_or_default();
            format!("ended: {what}{lasted}")
        }
    }
}

/// All that is due, because it is much.
pub fn several(view: &ClusterView, due: &[Due], now: Timestamp) -> Option<Notice> {
    let incidents: Vec<&Incident> = due.iter().filter_map(|due| view.incidents.get(&due.incident)).collect();
    let open = incidents.iter().filter(|incident| incident.is_open()).count();
    let ended = incidents.len() - open;
    Some(Notice {
        id: format!("{}-several", id(view, due.last()?)),
        kind: NoticeKind::Several,
        cluster: cluster(view),
        sent_at: now,
        weight: incidents.iter().map(|incident| incident.weight).max().unwrap_or(Weight::Warning),
        headline: format!("{} incidents at once: {open} open, {ended} ended", incidents.len()),
        incidents: incidents.into_iter().map(IncidentView::of).collect(),
    })
}

/// What tells that a target is reached.
pub fn test(view: &ClusterView, asked_by: &str, now: Timestamp) -> Notice {
    Notice {
        id: format!("test-{}", now.as_millisecond()),
        kind: NoticeKind::Test,
        cluster: cluster(view),
        sent_at: now,
        weight: Weight::Warning,
        headline: format!("a test that {asked_by} asked for: nothing is wrong"),
        incidents: Vec::new(),
    }
}

/// The subject and the text of a mail.
pub(super) fn mail(notice: &Notice) -> (String, String) {
    let subject = format!("[{}] {}", notice.cluster, notice.headline);
    let text = match (notice.kind, notice.incidents.as_slice()) {
        (NoticeKind::Opened | NoticeKind::Changed | NoticeKind::Ended, [incident]) => letter(incident),
        (_, []) => format!("{}.\n", notice.headline),
        (_, several) => list(several),
    };
    (subject, format!("{text}\n-- \nKennel, cluster {}\n", notice.cluster))
}

/// One incident, for somebody who may have been woken by it.
fn letter(view: &IncidentView) -> String {
    let incident = &view.incident;
    let mut text = format!("{}.\n\nBegan   {}\n", view.headline, utc(incident.began_at));
    match (incident.ended_at, view.lasted_ms) {
        (Some(end), Some(ms)) => text.push_str(&format!("Ended   {}, after {}\n", utc(end), seconds(ms))),
        (_, _) => text.push_str(&format!("Weighs  {} now\n", incident.weight)),
    }
    for (n, reason) in incident.open_because.iter().enumerate() {
        text.push_str(&format!("{}  {reason}\n", if n == 0 { "Still " } else { "      " }));
    }
    text.push_str(&format!("\n{}", view.story()));
    text.push_str(&format!("\nAll of it, as it goes on: kennel incident show {}\n", view.id));
    text
}

fn list(several: &[IncidentView]) -> String {
    let mut text = "So much happens that it is told at once:\n\n".to_owned();
    for view in several.iter().take(TOLD_MAX) {
        let state =
            if view.incident.is_open() { view.incident.weight.to_string() } else { "ended".to_owned() };
        text.push_str(&format!("  {:>5}  {state:<8}  {}\n", view.id, view.headline));
    }
    let more = several.len().saturating_sub(TOLD_MAX);
    if more > 0 {
        text.push_str(&format!("  and {more} more\n"));
    }
    text.push_str("\nAll of it: kennel incident list\n");
    text
}
