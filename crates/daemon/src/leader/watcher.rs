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

/// Tells when the promise is broken and when it holds again. Moves and fills break it for a moment by their nature:
/// what it tells has been so for two looks.
#[derive(Debug, Default)]
pub struct PromiseWatch {
    /// What was seen at the last look.
    seen: Vec<String>,
    /// What was told last; nothing is to be told of a promise that has held from the beginning.
    broken: bool,
}

impl PromiseWatch {
    /// News since the last look; `problems` is what of the promise does not hold.
    pub fn look(&mut self, problems: Vec<String>) -> Option<News> {
        let lasts = self.seen.is_empty() == problems.is_empty();
        let broken = !problems.is_empty();
        self.seen = problems;
        if !lasts || broken == self.broken {
            return None;
        }
        self.broken = broken;
        Some(News {
            severity: if broken { Severity::Warning } else { Severity::Info },
            kind: EventKind::CapacityChanged,
            subject: "cluster".into(),
            message: match self.seen.as_slice() {
                [] => "the cluster survives again what it is to survive".into(),
                problems => problems.join("; "),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_promise_is_told_once_it_lasts_and_so_is_its_end() {
        let mut watch = PromiseWatch::default();
        let broken = || vec!["the loss of host2 would leave out web1".to_owned()];
        let mut look = |problems| watch.look(problems).map(|news| (news.severity, news.message));
        assert_eq!(look(vec![]), None, "it has held from the beginning");
        assert_eq!(look(broken()), None, "for a moment");
        assert_eq!(look(vec![]), None);
        assert_eq!(look(broken()), None);
        let told = (Severity::Warning, "the loss of host2 would leave out web1".to_owned());
        assert_eq!(look(broken()), Some(told));
        assert_eq!(look(broken()), None, "it was told");
        assert_eq!(look(vec![]), None);
        let again = "the cluster survives again what it is to survive".to_owned();
        assert_eq!(look(vec![]), Some((Severity::Info, again)));
        assert_eq!(look(vec![]), None);
    }
}
