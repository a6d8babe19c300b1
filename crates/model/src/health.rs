//! The health of guests: how it is looked at, what is done when it is lost, and what was seen and done.
//!
//! What is watched is part of a guest's spec ([`HealthSpec`], a wish). What was seen and done is part of its report
//! ([`HealthReport`], its host's word): the next kenneld, and the next owner, go on from there, so that the limit on
//! restarts holds whoever dies.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{GuestSpec, HostName};

/// What shows that a guest is well.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HealthCheck {
    /// Nothing does; a guest that panics stands still until somebody comes.
    None,
    /// It has neither panicked nor upset its machine.
    #[default]
    Basic,
    /// Its guest agent answers.
    Agent,
    /// It reads from or writes to a disk at least once between two looks.
    Disk,
    /// A connection to this port of its first address is taken.
    Tcp { port: u16 },
    /// A `GET` at its first address is answered as it should be.
    Http(HttpCheck),
    /// A program inside it, run through its guest agent, ends with status 0.
    Command { command: Vec<String> },
}

/// What is asked over HTTP, and what is a good answer. Redirects are not followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HttpCheck {
    pub port: u16,
    pub path: String,
    /// Over TLS. The certificate has to be issued by an authority that the guest's host trusts.
    #[serde(default)]
    pub tls: bool,
    /// The status that the answer has to have. `None`: any below 400.
    #[serde(default)]
    pub status: Option<u16>,
    /// What the answer has to contain.
    #[serde(default)]
    pub text: Option<String>,
    /// The name of the server that is asked for, which its certificate has to be for, too. `None`: its address.
    #[serde(default)]
    pub name: Option<String>,
    /// Any certificate will do, also one that the service has signed itself.
    #[serde(default)]
    pub any_certificate: bool,
}

impl HttpCheck {
    /// At that port and path, with no more to it.
    pub fn new(port: u16, path: impl Into<String>, tls: bool) -> HttpCheck {
        HttpCheck {
            port,
            path: path.into(),
            tls,
            status: None,
            text: None,
            name: None,
            any_certificate: false,
        }
    }

    pub fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    /// Why it can never succeed, if so: what is wrong, and what would work.
    fn problem(&self) -> Option<(String, String)> {
        let HttpCheck { port, path, tls, status, text, name, any_certificate } = self;
        let problem = |why: &str, instead: &str| Some((why.to_owned(), instead.to_owned()));
        if *port == 0 {
            return problem("there is no port 0", "name a port from 1 on");
        }
        // What stands after a # is never sent.
        let odd = |byte: u8| !byte.is_ascii_graphic() || byte == b'#';
        if path.len() > TEXT_MAX || !path.starts_with('/') || path.bytes().any(odd) {
            let why = "its health check's path is none: it begins with /, has neither blanks nor #, and is not too long";
            return problem(why, "write it as in http:8080/health");
        }
        if let Some(status) = status.filter(|status| !STATUS.contains(status)) {
            let why = format!("no answer has the status {status}");
            return Some((why, format!("name one from {} to {}", STATUS.start(), STATUS.end())));
        }
        if text.as_deref() == Some("") {
            return problem("every answer contains an empty text", "leave it out");
        }
        if text.as_ref().is_some_and(|text| text.len() > TEXT_MAX) {
            return Some((format!("the text is longer than {TEXT_MAX} bytes"), "name a part of it".into()));
        }
        let good = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if let Some(name) = name.as_ref().filter(|name| {
            name.is_empty()
                || name.len() > NAME_MAX
                || !name.chars().all(good)
                || name.parse::<IpAddr>().is_ok()
        }) {
            let why = format!("'{name}' is no name of a server");
            return problem(&why, "write it as in www.example.org; without a name its address is asked for");
        }
        if *any_certificate && !tls {
            return problem(
                "a service that is asked by http has no certificate",
                "ask it by https, or leave out that any certificate will do",
            );
        }
        None
    }
}

impl fmt::Display for HttpCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HttpCheck { port, path, tls: _, status, text, name, any_certificate } = self;
        write!(f, "{}:{port}{path}", self.scheme())?;
        name.as_ref().map_or(Ok(()), |name| write!(f, " as {name}"))?;
        status.map_or(Ok(()), |status| write!(f, " with status {status}"))?;
        text.as_ref().map_or(Ok(()), |text| write!(f, " with '{text}'"))?;
        if *any_certificate { f.write_str(", any certificate") } else { Ok(()) }
    }
}

impl HealthCheck {
    /// Whether something is asked again and again; a panic shows by itself.
    pub fn is_asked(&self) -> bool {
        match self {
            HealthCheck::None | HealthCheck::Basic => false,
            HealthCheck::Agent
            | HealthCheck::Disk
            | HealthCheck::Tcp { .. }
            | HealthCheck::Http(_)
            | HealthCheck::Command { .. } => true,
        }
    }

    /// Whether it goes over the guest's network.
    pub fn needs_address(&self) -> bool {
        matches!(self, HealthCheck::Tcp { .. } | HealthCheck::Http(_))
    }

    /// Whether it goes through the guest agent, which a guest need not have.
    pub fn needs_agent(&self) -> bool {
        matches!(self, HealthCheck::Agent | HealthCheck::Command { .. })
    }
}

impl fmt::Display for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HealthCheck::None => f.pad("none"),
            HealthCheck::Basic => f.pad("basic"),
            HealthCheck::Agent => f.pad("agent"),
            HealthCheck::Disk => f.pad("disk"),
            HealthCheck::Tcp { port } => write!(f, "tcp:{port}"),
            HealthCheck::Http(http) => http.fmt(f),
            HealthCheck::Command { command } => write!(f, "command:{}", command.join(" ")),
        }
    }
}

/// A check that is not one. One sentence without a full stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no health check: {1}")]
pub struct InvalidHealthCheck(String, String);

impl FromStr for HealthCheck {
    type Err = InvalidHealthCheck;

    /// As [`fmt::Display`] writes it, but for what an HTTP check has beside port and path.
    fn from_str(words: &str) -> Result<Self, InvalidHealthCheck> {
        let invalid = |why: &str| InvalidHealthCheck(words.to_owned(), why.to_owned());
        let port = |text: &str| match text.parse::<u16>() {
            Ok(0) | Err(_) => Err(invalid("a port is a number from 1 to 65535")),
            Ok(port) => Ok(port),
        };
        let http = |rest: &str, tls: bool| {
            let (number, path) = match rest.find('/') {
                Some(at) => rest.split_at(at),
                None => (rest, "/"),
            };
            Ok(HealthCheck::Http(HttpCheck::new(port(number)?, path, tls)))
        };
        match words.split_once(':') {
            None => match words {
                "none" => Ok(HealthCheck::None),
                "basic" => Ok(HealthCheck::Basic),
                "agent" => Ok(HealthCheck::Agent),
                "disk" => Ok(HealthCheck::Disk),
                _ => Err(invalid(
                    "there are none, basic, agent, disk, tcp:PORT, http:PORT/PATH, https:PORT/PATH and \
                     command:PROGRAM",
                )),
            },
            Some(("tcp", rest)) => Ok(HealthCheck::Tcp { port: port(rest)? }),
            Some((scheme @ ("http" | "https"), rest)) if rest.starts_with("//") => Err(invalid(&format!(
                "it asks the guest's own address, so write {scheme}:PORT/PATH, as in {scheme}:8080/health"
            ))),
            Some(("http", rest)) => http(rest, false),
            Some(("https", rest)) => http(rest, true),
            Some(("command", rest)) => {
                let command: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
                if command.is_empty() {
                    return Err(invalid("name a program, as in command:/usr/bin/check"));
                }
                Ok(HealthCheck::Command { command })
            }
            Some((other, _)) => Err(invalid(&format!("nothing is called {other}:…"))),
        }
    }
}

/// What is done with a guest that is not well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnUnhealthy {
    /// It is restarted, where it is and then elsewhere, as often as its limit allows.
    #[default]
    Restart,
    /// It is left as it is, and said.
    Alarm,
}

impl fmt::Display for OnUnhealthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            OnUnhealthy::Restart => "restart",
            OnUnhealthy::Alarm => "alarm",
        })
    }
}

impl FromStr for OnUnhealthy {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "restart" => Ok(OnUnhealthy::Restart),
            "alarm" => Ok(OnUnhealthy::Alarm),
            other => Err(format!("'{other}' is neither restart nor alarm")),
        }
    }
}

/// How a guest's health is looked at, and what follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HealthSpec {
    pub check: HealthCheck,
    /// Between two looks, seconds.
    pub interval_s: u32,
    /// How long one look may take, seconds.
    pub timeout_s: u32,
    /// So many looks in a row must fail.
    pub failures: u32,
    /// How long a guest has after its boot before a failed look counts, seconds; shorter when one succeeds.
    pub grace_s: u32,
    pub on_unhealthy: OnUnhealthy,
    /// How often it is restarted within an hour at most. After that it is left alone.
    pub restart_limit: u32,
}

impl Default for HealthSpec {
    fn default() -> Self {
        HealthSpec {
            check: HealthCheck::Basic,
            interval_s: 2,
            timeout_s: 2,
            failures: 3,
            grace_s: 120,
            on_unhealthy: OnUnhealthy::Restart,
            restart_limit: 5,
        }
    }
}

/// The longest path or text of a check, and the longest command, bytes.
const TEXT_MAX: usize = 1024;

/// The longest name that DNS has.
const NAME_MAX: usize = 253;

/// Of an HTTP answer that is one: what comes before it (1xx) is none.
const STATUS: std::ops::RangeInclusive<u16> = 200..=599;

impl HealthSpec {
    /// Why this can never work on that guest, if so: what is wrong, and what would work.
    pub fn problem(&self, guest: &GuestSpec) -> Option<(String, String)> {
        let HealthSpec { check, interval_s, timeout_s, failures, grace_s, on_unhealthy: _, restart_limit } =
            self;
        let limits = [
            ("an interval", *interval_s, 1, 3600, " s"),
            ("a time limit", *timeout_s, 1, 60, " s"),
            ("a number of failures in a row", *failures, 1, 100, ""),
            ("a grace", *grace_s, 0, 3600, " s"),
            ("a restart limit", *restart_limit, 0, 20, ""),
        ];
        for (what, value, least, most, unit) in limits {
            if !(least..=most).contains(&value) {
                let why = format!("its health check cannot have {what} of {value}{unit}");
                return Some((why, format!("give it {least} to {most}{unit}")));
            }
        }
        if check.needs_address() && guest.nics.iter().all(|nic| nic.address.is_none()) {
            let why = format!("the health check {check} asks an address of the guest, and it has none");
            return Some((why, "put the guest on a network, or use agent or basic".to_owned()));
        }
        match check {
            HealthCheck::Tcp { port: 0 } => {
                Some(("there is no port 0".into(), "name a port from 1 on".into()))
            }
            HealthCheck::Http(http) => http.problem(),
            HealthCheck::Disk if guest.disks.is_empty() => Some((
                "its health check looks at its disks, and it has none".into(),
                "give it a disk, or use agent or basic".into(),
            )),
            HealthCheck::Command { command }
                if command.is_empty() || command.iter().map(String::len).sum::<usize>() > TEXT_MAX =>
            {
                let why = format!("its health check's command is empty or longer than {TEXT_MAX} bytes");
                Some((why, "put it into a script inside the guest".to_owned()))
            }
            HealthCheck::None
            | HealthCheck::Basic
            | HealthCheck::Agent
            | HealthCheck::Disk
            | HealthCheck::Tcp { .. }
            | HealthCheck::Command { .. } => None,
        }
    }
}

/// How a guest is, by its owner's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HealthState {
    /// Nobody looks.
    Off,
    /// It cannot be said; the message says why.
    Unknown,
    /// It has not been well in this boot yet, and has still time.
    Starting,
    Healthy,
    /// It was not well, and is being restarted.
    Restarting,
    /// It is not well, and is left alone.
    Unhealthy,
}

impl fmt::Display for HealthState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            HealthState::Off => "off",
            HealthState::Unknown => "unknown",
            HealthState::Starting => "starting",
            HealthState::Healthy => "healthy",
            HealthState::Restarting => "restarting",
            HealthState::Unhealthy => "unhealthy",
        })
    }
}

/// What is known of a guest's health, and what was done for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthReport {
    /// What it was judged by.
    pub spec: HealthSpec,
    pub state: HealthState,
    /// Why it is in that state; one sentence without a full stop.
    pub message: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// The check has succeeded since it was set.
    pub proven: bool,
    /// The boot generation that the restarts belong to: a start that somebody asked for begins anew.
    pub boot_generation: u64,
    /// The limit was reached. Stays so until the guest is well again, somebody restarts it, or the spec changes.
    pub given_up: bool,
    /// What was done within the last hour, oldest first.
    pub restarts: Vec<HealthRestart>,
}

impl HealthReport {
    /// Of a guest of which nothing is known.
    pub fn new(spec: HealthSpec, boot_generation: u64, now: Timestamp) -> HealthReport {
        HealthReport {
            spec,
            state: HealthState::Starting,
            message: None,
            since: now,
            proven: false,
            boot_generation,
            given_up: false,
            restarts: Vec::new(),
        }
    }

    /// Takes note of a restart that is about to be made.
    pub fn note(&mut self, restart: HealthRestart) {
        (self.state, self.since) = (HealthState::Restarting, restart.at);
        self.message = Some(restart.why.clone());
        self.restarts.push(restart);
    }

    /// That it is to be restarted on another host, and since when.
    pub fn elsewhere(&self) -> Option<&HealthRestart> {
        let last = self.restarts.last()?;
        (self.state == HealthState::Restarting && last.how == HealthRestartKind::Elsewhere).then_some(last)
    }
}

/// One restart of a guest that was not well. Written before it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthRestart {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The host that it ran on.
    pub host: HostName,
    pub how: HealthRestartKind,
    /// One sentence without a full stop.
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HealthRestartKind {
    /// Its machine was reset.
    InPlace,
    /// Its secondary's host was to start it.
    Elsewhere,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(words: &str, shown: &str) {
        let parsed = words.parse::<HealthCheck>();
        assert_eq!(parsed.map_or_else(|error| error.to_string(), |check| check.to_string()), shown);
    }

    #[test]
    fn checks_are_written_in_a_word() {
        for word in ["none", "basic", "agent", "disk", "tcp:22", "http:80/", "https:8443/health?x=1"] {
            check(word, word);
        }
        check("http:80", "http:80/");
        check("command:/bin/true  -x", "command:/bin/true -x");
        check("tcp:0", "'tcp:0' is no health check: a port is a number from 1 to 65535");
        check("tcp:", "'tcp:' is no health check: a port is a number from 1 to 65535");
        check("command: ", "'command: ' is no health check: name a program, as in command:/usr/bin/check");
        check(
            "http://web1/",
            "'http://web1/' is no health check: it asks the guest's own address, so write http:PORT/PATH, as in \
             http:8080/health",
        );
        check("ping:1", "'ping:1' is no health check: nothing is called ping:…");
    }

    #[test]
    fn what_an_http_check_asks_and_wants_is_said_in_a_line() {
        let plain = HttpCheck::new(443, "/health", true);
        assert_eq!(plain.to_string(), "https:443/health");
        let full = HttpCheck {
            status: Some(401),
            text: Some("ok".into()),
            name: Some("www.example.org".into()),
            any_certificate: true,
            ..plain
        };
        let said = "https:443/health as www.example.org with status 401 with 'ok', any certificate";
        assert_eq!(HealthCheck::Http(full.clone()).to_string(), said);
        assert_eq!(full.problem(), None);
    }

    #[test]
    fn an_http_check_that_can_never_succeed_says_why() {
        let with = |change: fn(&mut HttpCheck)| {
            let mut http = HttpCheck::new(80, "/", false);
            change(&mut http);
            http.problem().map(|(why, _)| why).unwrap_or_default()
        };
        assert_eq!(with(|_| ()), "");
        assert_eq!(with(|http| http.port = 0), "there is no port 0");
        for path in ["", "health", "/a b", "/#/login", "/caf\u{e9}"] {
            let http = HttpCheck { path: path.to_owned(), ..HttpCheck::new(80, "/", false) };
            assert!(http.problem().is_some_and(|(why, _)| why.contains("path is none")), "{path}");
        }
        assert_eq!(with(|http| http.status = Some(100)), "no answer has the status 100");
        assert_eq!(with(|http| http.text = Some(String::new())), "every answer contains an empty text");
        assert_eq!(with(|http| http.name = Some("10.90.0.1".into())), "'10.90.0.1' is no name of a server");
        assert_eq!(with(|http| http.name = Some("a b".into())), "'a b' is no name of a server");
        let no_tls = "a service that is asked by http has no certificate";
        assert_eq!(with(|http| http.any_certificate = true), no_tls);
    }

    #[test]
    fn a_check_of_an_earlier_build_is_read() {
        let earlier = r#"{"http":{"port":80,"path":"/","tls":false,"text":null}}"#;
        let read: HealthCheck = serde_json::from_str(earlier).unwrap();
        assert_eq!(read, HealthCheck::Http(HttpCheck::new(80, "/", false)));
    }

    #[test]
    fn a_spec_is_read_back_and_old_ones_are_basic() {
        let spec = HealthSpec { check: HealthCheck::Tcp { port: 7 }, ..HealthSpec::default() };
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<HealthSpec>(&text).unwrap(), spec);
        assert_eq!(serde_json::from_str::<HealthSpec>("{}").unwrap().check, HealthCheck::Basic);
    }
}
