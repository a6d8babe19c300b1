//! The health of guests: how it is looked at, what is done when it is lost, and what was seen and done.
//!
//! What is watched is part of a guest's spec ([`HealthSpec`], a wish). What was seen and done is part of its report
//! ([`HealthReport`], its host's word): the next kenneld, and the next owner, go on from there, so that the limit on
//! restarts holds whoever dies.

use std::fmt;
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
    /// A `GET` at its first address is answered with a status below 400. Certificates are not looked at.
    Http {
        port: u16,
        path: String,
        #[serde(default)]
        tls: bool,
        /// What the answer has to contain.
        #[serde(default)]
        text: Option<String>,
    },
    /// A program inside it, run through its guest agent, ends with status 0.
    Command { command: Vec<String> },
}

impl HealthCheck {
    /// Whether something is asked again and again; a panic shows by itself.
    pub fn is_asked(&self) -> bool {
        match self {
            HealthCheck::None | HealthCheck::Basic => false,
            HealthCheck::Agent
            | HealthCheck::Disk
            | HealthCheck::Tcp { .. }
            | HealthCheck::Http { .. }
            | HealthCheck::Command { .. } => true,
        }
    }

    /// Whether it goes over the guest's network.
    pub fn needs_address(&self) -> bool {
        matches!(self, HealthCheck::Tcp { .. } | HealthCheck::Http { .. })
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
            HealthCheck::Http { port, path, tls, text } => {
                write!(f, "{}:{port}{path}", if *tls { "https" } else { "http" })?;
                text.as_ref().map_or(Ok(()), |text| write!(f, " with '{text}'"))
            }
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

    /// As [`fmt::Display`] writes it, but for the text that an HTTP answer has to contain.
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
            Ok(HealthCheck::Http { port: port(number)?, path: path.to_owned(), tls, text: None })
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
            HealthCheck::Tcp { port: 0 } | HealthCheck::Http { port: 0, .. } => {
                Some(("there is no port 0".into(), "name a port from 1 on".into()))
            }
            HealthCheck::Http { path, text, .. } => {
                let long = path.len() > TEXT_MAX || text.as_ref().is_some_and(|text| text.len() > TEXT_MAX);
                let odd = !path.starts_with('/') || path.bytes().any(|byte| !byte.is_ascii_graphic());
                if long || odd {
                    let why = "its health check's path is none: it begins with / and has no blanks, or it is too long";
                    return Some((why.to_owned(), "write it as in http:8080/health".to_owned()));
                }
                (text.as_deref() == Some(""))
                    .then(|| ("every answer contains an empty text".into(), "leave it out".into()))
            }
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
    fn a_spec_is_read_back_and_old_ones_are_basic() {
        let spec = HealthSpec { check: HealthCheck::Tcp { port: 7 }, ..HealthSpec::default() };
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<HealthSpec>(&text).unwrap(), spec);
        assert_eq!(serde_json::from_str::<HealthSpec>("{}").unwrap().check, HealthCheck::Basic);
    }
}
