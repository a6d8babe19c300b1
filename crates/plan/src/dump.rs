//! A cluster in a file: everything that a plan rests on, and nothing that is secret.
//!
//! `kennel cluster dump` writes it, and the offline plans read it. It is JSON: one list for each kind of record, in
//! the form in which the store keeps them, so that a dump can be made by hand, cut down and changed. What guests are
//! told at their first boot (keys, passwords) is left out, and so is the cluster's certificate.
//!
//! A file may be damaged or changed by somebody who made a mistake: [`Dump::parse`] refuses what does not fit together
//! and says where, as a line and column for what is no JSON or no such record, else as a path such as
//! `guests[3] (web1): memory`.
//!
//! Rules that select no guest or no host bind nothing. Those of the live cluster stand in `idle_rules`, so that
//! among `rules` such a rule is a mistake.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use model::{
    Assignment, Cluster, ClusterView, GuestName, GuestReport, GuestSpec, Host, HostName, HostReport,
    HostUsage, InSync, JobSpec, NamedPool, Rule, RuleKind, Session,
};
use serde::{Deserialize, Serialize};

use crate::inventory::Inventory;
use crate::order::StartOrder;

/// What the first field of a dump says.
pub const FORMAT: &str = "kennel-dump";

/// The only version so far.
pub const VERSION: u32 = 1;

/// Everything that a plan rests on. Lists are in the order of their records' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dump {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// Its name and settings; without the certificate.
    #[serde(default)]
    pub cluster: Option<Cluster>,
    #[serde(default)]
    pub leader: Option<HostName>,
    pub hosts: Vec<Host>,
    /// Of the hosts that are live.
    #[serde(default)]
    pub sessions: Vec<Session>,
    #[serde(default)]
    pub host_reports: Vec<HostReport>,
    pub guests: Vec<GuestSpec>,
    #[serde(default)]
    pub assignments: Vec<Assignment>,
    #[serde(default)]
    pub guest_reports: Vec<GuestReport>,
    #[serde(default)]
    pub in_sync: Vec<InSync>,
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// Rules that bound nothing when the dump was made; no plan looks at them.
    #[serde(default)]
    pub idle_rules: Vec<Rule>,
    #[serde(default)]
    pub pools: Vec<NamedPool>,
    /// Those that had not ended.
    #[serde(default)]
    pub jobs: Vec<JobSpec>,
    /// What was measured.
    #[serde(default)]
    pub usage: Vec<HostUsage>,
}

/// What is wrong with a dump, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct DumpError {
    /// `line 12, column 20`, or `guests[3] (web1): memory`.
    pub place: String,
    /// One sentence without a full stop.
    pub what: String,
}

impl Dump {
    /// The cluster as `view` says, with what was measured.
    pub fn of(view: &ClusterView, usage: &BTreeMap<HostName, HostUsage>) -> Dump {
        Inventory::new(view, usage).dump()
    }

    /// Reads a dump and checks that it fits together.
    pub fn parse(text: &str) -> Result<Dump, DumpError> {
        let dump: Dump = serde_json::from_str(text).map_err(|error| no_record(text, &error))?;
        dump.check()?;
        Ok(dump)
    }

    /// As it is written: JSON that a person can read.
    pub fn to_text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// The records as the live cluster has them.
    pub fn view(&self) -> ClusterView {
        fn map<K: Ord, V: Clone>(records: &[V], key: impl Fn(&V) -> K) -> BTreeMap<K, V> {
            records.iter().map(|record| (key(record), record.clone())).collect()
        }
        ClusterView {
            cluster: self.cluster.clone(),
            leader: self.leader.clone(),
            hosts: map(&self.hosts, |host| host.name.clone()),
            sessions: map(&self.sessions, |session| session.host.clone()),
            host_reports: map(&self.host_reports, |report| report.host.clone()),
            guests: map(&self.guests, |guest| guest.name.clone()),
            assignments: map(&self.assignments, |assignment| assignment.guest.clone()),
            guest_reports: map(&self.guest_reports, |report| report.guest.clone()),
            in_sync: map(&self.in_sync, |in_sync| in_sync.volume),
            rules: map(&self.rules, |rule| rule.name.clone()),
            pools: map(&self.pools, |pool| pool.name.clone()),
            jobs: map(&self.jobs, |job| job.id),
            ..ClusterView::default()
        }
    }

    pub fn inventory(&self) -> Inventory {
        let usage = self.usage.iter().map(|usage| (usage.host.clone(), usage.clone())).collect();
        Inventory::new(&self.view(), &usage)
    }

    fn check(&self) -> Result<(), DumpError> {
        if self.format != FORMAT {
            return Err(wrong("format", format!("it is '{}', and a dump says '{FORMAT}'", self.format)));
        }
        if self.version != VERSION {
            let what = format!("it is {}, and this build reads version {VERSION}", self.version);
            return Err(wrong("version", what));
        }
        self.check_names()?;
        self.check_hosts()?;
        self.check_guests()?;
        self.check_places()?;
        self.check_rules()
    }

    fn check_names(&self) -> Result<(), DumpError> {
        once("hosts", &self.hosts, |host| host.name.to_string())?;
        once("sessions", &self.sessions, |session| session.host.to_string())?;
        once("host_reports", &self.host_reports, |report| report.host.to_string())?;
        once("guests", &self.guests, |guest| guest.name.to_string())?;
        once("assignments", &self.assignments, |assignment| assignment.guest.to_string())?;
        once("guest_reports", &self.guest_reports, |report| report.guest.to_string())?;
        once("in_sync", &self.in_sync, |in_sync| in_sync.volume.to_string())?;
        once("rules", &self.rules, |rule| rule.name.to_string())?;
        once("jobs", &self.jobs, |job| job.id.to_string())?;
        once("usage", &self.usage, |usage| usage.host.to_string())
    }

    fn check_hosts(&self) -> Result<(), DumpError> {
        let known: BTreeSet<&HostName> = self.hosts.iter().map(|host| &host.name).collect();
        for (at, session) in self.sessions.iter().enumerate() {
            host_known(&known, &session.host, || entry("sessions", at, &session.host, "host"))?;
        }
        for (at, report) in self.host_reports.iter().enumerate() {
            host_known(&known, &report.host, || entry("host_reports", at, &report.host, "host"))?;
        }
        for (at, usage) in self.usage.iter().enumerate() {
            host_known(&known, &usage.host, || entry("usage", at, &usage.host, "host"))?;
            let all = std::iter::once(usage.total).chain(usage.guests.values().map(|guest| guest.usage));
            for used in all {
                let amounts = [used.cpu, used.memory, used.disk, used.network];
                if let Some(bad) = amounts.iter().find(|amount| !amount.is_finite() || **amount < 0.0) {
                    let what = format!("{bad} cannot have been used: write a number that is not negative");
                    return Err(wrong(entry("usage", at, &usage.host, "an amount"), what));
                }
            }
        }
        for (at, host) in self.hosts.iter().enumerate() {
            if host.settings.speed_percent == 0 {
                let what = "a speed of 0 percent computes nothing: a standard host's is 100";
                return Err(wrong(entry("hosts", at, &host.name, "settings.speed_percent"), what));
            }
        }
        Ok(())
    }

    fn check_guests(&self) -> Result<(), DumpError> {
        let place: BTreeMap<&GuestName, usize> =
            self.guests.iter().enumerate().map(|(at, guest)| (&guest.name, at)).collect();
        if let Some(cycle) = StartOrder::of(self.guests.iter()).cycles().first() {
            let first = cycle.0.first();
            let at = first.and_then(|name| place.get(name).map(|at| (*at, name)));
            let at = at.map_or("guests".to_owned(), |(at, name)| entry("guests", at, name, "start_after"));
            return Err(wrong(at, format!("none of these could ever start: {cycle}")));
        }
        for (at, job) in self.jobs.iter().enumerate() {
            if let model::JobKind::MoveGuest { guest, .. } = &job.kind
                && !place.contains_key(guest)
            {
                return Err(wrong(
                    entry("jobs", at, &job.id, "kind"),
                    format!("there is no guest '{guest}'"),
                ));
            }
        }
        Ok(())
    }

    fn check_places(&self) -> Result<(), DumpError> {
        let hosts: BTreeSet<&HostName> = self.hosts.iter().map(|host| &host.name).collect();
        let guests: BTreeMap<&GuestName, &GuestSpec> =
            self.guests.iter().map(|guest| (&guest.name, guest)).collect();
        for (at, assignment) in self.assignments.iter().enumerate() {
            let at = |field: &str| entry("assignments", at, &assignment.guest, field);
            let Some(spec) = guests.get(&assignment.guest) else {
                return Err(wrong(at("guest"), format!("there is no guest '{}'", assignment.guest)));
            };
            host_known(&hosts, &assignment.host, || at("host"))?;
            let Some(secondary) = &assignment.secondary else { continue };
            host_known(&hosts, secondary, || at("secondary"))?;
            if *secondary == assignment.host {
                let what = format!("it is on {secondary} like the primary: the secondary is on another host");
                return Err(wrong(at("secondary"), what));
            }
            if !spec.is_mirrored() {
                let what = "a guest whose disks are not mirrored has no secondary: write null";
                return Err(wrong(at("secondary"), what));
            }
        }
        for (at, report) in self.guest_reports.iter().enumerate() {
            if !guests.contains_key(&report.guest) {
                let at = entry("guest_reports", at, &report.guest, "guest");
                return Err(wrong(at, format!("there is no guest '{}'", report.guest)));
            }
        }
        Ok(())
    }

    fn check_rules(&self) -> Result<(), DumpError> {
        for (at, rule) in self.rules.iter().enumerate() {
            let at = |field: &str| entry("rules", at, &rule.name, field);
            if !self.guests.iter().any(|guest| rule.guests.selects(guest)) {
                return Err(wrong(at("guests"), selects_nothing(&rule.guests, "guest")));
            }
            match &rule.kind {
                RuleKind::On(hosts) | RuleKind::Off(hosts) => {
                    if !self.hosts.iter().any(|host| hosts.selects(host)) {
                        return Err(wrong(at("kind"), selects_nothing(hosts, "host")));
                    }
                }
                RuleKind::Apart | RuleKind::Together | RuleKind::SpreadZones | RuleKind::AtMost { .. } => {}
            }
        }
        Ok(())
    }
}

impl Inventory {
    /// What this was made from, as a file.
    pub fn dump(&self) -> Dump {
        let view = self.view();
        let (mut rules, mut idle_rules) = (Vec::new(), Vec::new());
        for rule in view.rules.values() {
            if self.rules.idle.contains_key(&rule.name) { &mut idle_rules } else { &mut rules }
                .push(rule.clone());
        }
        let without_certificate =
            |cluster: &Cluster| Cluster { ca_certificate: String::new(), ..cluster.clone() };
        let known_guest = |name: &GuestName| view.guests.contains_key(name);
        let known_host = |name: &HostName| view.hosts.contains_key(name);
        let assignments = view.assignments.values().filter(|a| known_guest(&a.guest) && known_host(&a.host));
        // A secondary on a host that was taken out of the cluster is none.
        let assignments = assignments
            .map(|a| Assignment { secondary: a.secondary.clone().filter(known_host), ..a.clone() });
        let usage = self.usage().values().filter(|usage| known_host(&usage.host));
        Dump {
            format: FORMAT.to_owned(),
            version: VERSION,
            cluster: view.cluster.as_ref().map(without_certificate),
            leader: view.leader.clone(),
            hosts: view.hosts.values().cloned().collect(),
            sessions: view.sessions.values().filter(|session| known_host(&session.host)).cloned().collect(),
            host_reports: view
                .host_reports
                .values()
                .filter(|report| known_host(&report.host))
                .cloned()
                .collect(),
            guests: view.guests.values().cloned().collect(),
            assignments: assignments.collect(),
            guest_reports: view.guest_reports.values().filter(|r| known_guest(&r.guest)).cloned().collect(),
            in_sync: view.in_sync.values().cloned().collect(),
            rules,
            idle_rules,
            pools: view.pools.values().cloned().collect(),
            jobs: view.jobs.values().cloned().collect(),
            usage: usage.cloned().collect(),
        }
    }
}

fn wrong(place: impl Into<String>, what: impl Into<String>) -> DumpError {
    DumpError { place: place.into(), what: what.into() }
}

/// `guests[3] (web1): memory`.
fn entry(list: &str, at: usize, name: &impl fmt::Display, field: &str) -> String {
    format!("{list}[{at}] ({name}): {field}")
}

fn host_known(
    known: &BTreeSet<&HostName>,
    host: &HostName,
    place: impl FnOnce() -> String,
) -> Result<(), DumpError> {
    if known.contains(host) { Ok(()) } else { Err(wrong(place(), format!("there is no host '{host}'"))) }
}

fn once<T>(list: &str, records: &[T], name: impl Fn(&T) -> String) -> Result<(), DumpError> {
    let mut seen = BTreeMap::new();
    for (at, record) in records.iter().enumerate() {
        let name = name(record);
        if let Some(first) = seen.insert(name.clone(), at) {
            let what = format!("there are two of that name, the other is {list}[{first}]");
            return Err(wrong(format!("{list}[{at}] ({name})"), what));
        }
    }
    Ok(())
}

fn selects_nothing(selector: &impl fmt::Display, what: &str) -> String {
    match selector.to_string().as_str() {
        "" => format!("it names no {what}, so the rule binds nothing"),
        named => format!("there is no {what} that is {named}, so the rule binds nothing"),
    }
}

/// What serde says, with the place and in words for people.
fn no_record(text: &str, error: &serde_json::Error) -> DumpError {
    let what = error.to_string();
    let what = what.rsplit_once(" at line ").map_or(what.as_str(), |(what, _)| what).to_owned();
    if text.trim().is_empty() {
        return wrong("line 1, column 1", "the file is empty");
    }
    let hint = if error.is_eof() {
        "; the file ends too early"
    } else if what.contains("integer `-") || what.contains("floating point `-") {
        "; sizes and counts are not negative"
    } else {
        ""
    };
    wrong(format!("line {}, column {}", error.line(), error.column()), format!("{what}{hint}"))
}
