//! The storm guard: when a large share of the hosts vanishes within a short time, a switch is more likely to have
//! failed than they, and what is done in a hurry for all of their guests at once would be worse than waiting a little.
//!
//! [`look`] says which hosts are lost since when, and whether it is a storm. The leader writes that down, together with
//! the alarm, before it does anything about the hosts; a leader that is elected in the storm goes on by the record.
//!
//! In a storm ([`Pace`]):
//! - for `storm_hold_s` nothing is recovered and nobody's power is taken, so that a network can find new ways, and a
//!   person is told first;
//! - after that each host starts `storm_starts_per_host` guests at once instead of `recovery_starts_per_host`, and the
//!   power of one host is taken at a time.
//!
//! It ends when so many of its hosts are back that the rest is none, when an operator says that the rest is lost for
//! good (`kennel cluster storm --go-on`), and by itself after [`STORM_LASTS`].
//!
//! It takes two hosts at least, so the loss of one is never slowed. Nothing here keeps data whole: that a side of a
//! partition without a quorum recovers and fences nobody follows from its having no leader.
//!
//! Times are by the leaders' clocks. A time of a leader whose clock was ahead counts from now on, so that a wrong clock
//! makes a pause longer by itself at most.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use model::{ClusterView, HostName, HostPhase, Losses, Settings, Severity, Storm};

/// Hosts that are lost for so long are lost for good, for all that the guard is there for.
pub const STORM_LASTS: SignedDuration = SignedDuration::from_mins(10);

/// The longest window and the longest hold that may be set, seconds: a storm must not begin anew by the end of itself.
pub const STORM_TIMES_MAX_S: u32 = 300;

const _: () =
    assert!(STORM_LASTS.as_secs() > 2 * STORM_TIMES_MAX_S as i64 - 1, "a storm outlives its window");

/// How many hosts a sentence names.
const NAMES_MAX: usize = 5;

/// How recovery is slowed in a storm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// Before that, nothing is done about lost hosts.
    pub hold_until: Timestamp,
    pub starts_per_host: usize,
    /// Why; one sentence without a full stop.
    pub why: String,
}

impl Pace {
    pub fn holds(&self, now: Timestamp) -> bool {
        now < self.hold_until
    }
}

/// Which hosts are lost, and whether it is a storm, as it is to be written down now.
pub fn look(view: &ClusterView, now: Timestamp) -> Losses {
    let settings = settings(view);
    let before = view.losses.clone().unwrap_or_default();
    let heard_once: Vec<&HostName> =
        view.hosts.keys().filter(|host| view.host_phase(host) != HostPhase::Joining).collect();
    let lost = heard_once.iter().filter(|host| !view.is_live(host));
    let first_seen = |host: &HostName| before.since.get(host).copied().unwrap_or(now).min(now);
    let since: BTreeMap<HostName, Timestamp> = lost.map(|host| ((*host).clone(), first_seen(host))).collect();
    let window = seconds(settings.storm_window_s);
    let recent = |after: Option<Timestamp>| -> BTreeSet<HostName> {
        let vanished = since.iter().filter(|(_, at)| now.duration_since(**at) <= window);
        vanished
            .filter(|(_, at)| after.is_none_or(|after| **at > after))
            .map(|(host, _)| host.clone())
            .collect()
    };
    let old = before.storm.and_then(|storm| lasting(storm, &since, &settings, now));
    let told_at = old.as_ref().and_then(|storm| storm.go_on.as_ref()).map(|word| word.at);
    let storm = match old {
        Some(storm) if storm.go_on.is_none() => Some(storm),
        // What has vanished since an operator said so may be a storm of its own.
        old => {
            let vanished = recent(told_at);
            let of = heard_once.len() - (since.len() - vanished.len());
            let begins = is_storm(vanished.len(), of, &settings);
            let new = Storm { began: now, hosts: vanished, of: of as u32, go_on: None };
            if begins { Some(new) } else { old }
        }
    };
    Losses { since, storm }
}

/// What was written down, without the hosts that are heard again: one that vanishes once more vanishes then.
pub fn still_lost(view: &ClusterView, known: &Losses) -> Losses {
    let since = known.since.iter().filter(|(host, _)| !view.is_live(host));
    Losses { since: since.map(|(host, at)| (host.clone(), *at)).collect(), storm: known.storm.clone() }
}

/// A storm that has begun, as it is now, with what has vanished since; `None`: it is over.
fn lasting(
    storm: Storm,
    since: &BTreeMap<HostName, Timestamp>,
    settings: &Settings,
    now: Timestamp,
) -> Option<Storm> {
    let began = storm.began.min(now);
    let in_it = |(host, at): &(&HostName, &Timestamp)| storm.hosts.contains(*host) || **at >= began;
    let hosts: BTreeSet<HostName> = since.iter().filter(in_it).map(|(host, _)| host.clone()).collect();
    let lasts = now.duration_since(began) < STORM_LASTS && is_storm(hosts.len(), storm.of as usize, settings);
    lasts.then_some(Storm { began, hosts, ..storm })
}

fn is_storm(vanished: usize, of: usize, settings: &Settings) -> bool {
    let share = settings.storm_share_percent as usize;
    share > 0 && vanished >= 2 && vanished * 100 >= share * of
}

/// How recovery is slowed now; `None`: it is not.
pub fn pace(view: &ClusterView, losses: &Losses) -> Option<Pace> {
    let storm = losses.storm.as_ref().filter(|storm| storm.go_on.is_none())?;
    let settings = settings(view);
    let hold_until = storm.began + seconds(settings.storm_hold_s);
    let why = format!(
        "{} of {} hosts vanished at once, which looks like a failure of the network: recovery begins at \
         {hold_until:.0}, and goes slowly; `kennel cluster storm --go-on` if they are lost for good",
        storm.hosts.len(),
        storm.of
    );
    Some(Pace { hold_until, starts_per_host: settings.storm_starts_per_host as usize, why })
}

/// What people are told when one record takes the place of another; `None`: nothing that they must know.
pub fn news(before: Option<&Losses>, after: &Losses, hold_s: u32) -> Option<(Severity, String)> {
    let old = before.and_then(|losses| losses.storm.as_ref());
    match (old, &after.storm) {
        (Some(old), Some(new)) if new.began <= old.began => None,
        (_, Some(storm)) => Some((
            Severity::Error,
            format!(
                "a storm: {} vanished within a short time, {} of {} hosts; look at the network first. Nothing is \
                 recovered for {hold_s} s, then slowly; `kennel cluster storm --go-on` if they are lost for good",
                named(&storm.hosts),
                storm.hosts.len(),
                storm.of
            ),
        )),
        (Some(old), None) => {
            let still: BTreeSet<HostName> =
                old.hosts.iter().filter(|host| after.since.contains_key(*host)).cloned().collect();
            Some((
                Severity::Info,
                match still.len() {
                    0 => "the storm is over: all of its hosts are back".to_owned(),
                    _ => format!("the storm is over: of its hosts {} still lost", are(&still)),
                },
            ))
        }
        (None, None) => None,
    }
}

/// As in `host1, host2 and 3 more`.
fn named(hosts: &BTreeSet<HostName>) -> String {
    let names: Vec<&str> = hosts.iter().take(NAMES_MAX).map(HostName::as_str).collect();
    match hosts.len().saturating_sub(NAMES_MAX) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

fn are(hosts: &BTreeSet<HostName>) -> String {
    let verb = if hosts.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", named(hosts))
}

fn settings(view: &ClusterView) -> Settings {
    view.cluster.as_ref().map(|cluster| cluster.settings.clone()).unwrap_or_default()
}

fn seconds(count: u32) -> SignedDuration {
    SignedDuration::from_secs(i64::from(count))
}

#[cfg(test)]
mod tests;
