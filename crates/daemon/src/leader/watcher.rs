//! What the leader tells people: hosts that come and go, guests that wait. Tells each once.

use std::collections::{BTreeMap, BTreeSet};

use model::{ClusterView, EventKind, GuestName, HostName, Severity};

/// Something to tell.
#[derive(Debug, PartialEq, Eq)]
pub struct News {
    pub severity: Severity,
    pub kind: EventKind,
    pub subject: String,
    pub message: String,
}

/// Remembers what has been told.
#[derive(Debug, Default)]
pub struct Watcher {
    /// `None` until the first look: a new leader does not tell what the last one told.
    online: Option<BTreeSet<HostName>>,
    waiting: BTreeMap<GuestName, String>,
    damaged: BTreeSet<String>,
}

impl Watcher {
    /// News since the last look.
    pub fn look(&mut self, view: &ClusterView) -> Vec<News> {
        let online: BTreeSet<HostName> =
            view.hosts.keys().filter(|host| view.is_live(host)).cloned().collect();
        // At the first look a host that is lost is told, since the last leader may have been that host.
        let before = self.online.replace(online.clone()).unwrap_or_else(|| {
            view.hosts.keys().filter(|host| view.host_reports.contains_key(*host)).cloned().collect()
        });
        let lost =
            before.difference(&online).filter(|host| view.hosts.contains_key(*host)).map(|host| News {
                severity: Severity::Warning,
                kind: EventKind::HostLost,
                subject: format!("host/{host}"),
                message: format!("{host} is lost: its session is over"),
            });
        let back = online.difference(&before).map(|host| News {
            severity: Severity::Info,
            kind: EventKind::HostOnline,
            subject: format!("host/{host}"),
            message: format!("{host} is online"),
        });
        let mut news: Vec<News> = lost.chain(back).collect();
        for (key, why) in &view.damaged {
            if self.damaged.insert(key.clone()) {
                news.push(News {
                    severity: Severity::Error,
                    kind: EventKind::RecordDamaged,
                    subject: "cluster".into(),
                    message: format!("the record {key} is damaged and is skipped: {why}"),
                });
            }
        }
        self.damaged.retain(|key| view.damaged.contains_key(key));
        news
    }

    /// Guests that have begun to wait, or wait for something else now.
    pub fn waits(&mut self, waiting: &BTreeMap<GuestName, String>) -> Vec<News> {
        let fresh = waiting.iter().filter(|(guest, why)| self.waiting.get(*guest) != Some(why));
        let news = fresh.map(|(guest, why)| News {
            severity: Severity::Warning,
            kind: EventKind::GuestWaiting,
            subject: format!("guest/{guest}"),
            message: format!("'{guest}' waits: {why}"),
        });
        let news = news.collect();
        self.waiting = waiting.clone();
        news
    }
}
