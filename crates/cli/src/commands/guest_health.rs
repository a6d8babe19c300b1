//! The health of a guest on the command line: what is watched, how it is shown, and what was kept of it.

use std::path::PathBuf;

use api::{ChangeHealth, GuestView, LastMoments};
use clap::Args;
use jiff::Timestamp;
use model::{GuestName, HealthCheck, HealthRestartKind, HealthSpec, HealthState, HttpCheck, OnUnhealthy};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Block, Cell, Tone};
use crate::times;

/// What `guest create` and `guest set` have in common.
#[derive(Debug, Args)]
pub struct HealthArguments {
    /// What shows that it is well: none, basic (it has not panicked), agent, disk, tcp:PORT, http:PORT/PATH,
    /// https:PORT/PATH, or command:PROGRAM
    #[arg(long = "health", value_name = "CHECK")]
    check: Option<HealthCheck>,
    /// What the answer to an HTTP check has to contain
    #[arg(long, value_name = "TEXT", requires = "check")]
    health_text: Option<String>,
    /// The status that the answer to an HTTP check has to have, as in 401; any below 400, unless it is named
    #[arg(long, value_name = "STATUS", requires = "check")]
    health_status: Option<u16>,
    /// The name of the server that an HTTP check asks for, which its certificate has to be for; otherwise its address
    #[arg(long, value_name = "NAME", requires = "check")]
    health_name: Option<String>,
    /// An HTTPS check takes any certificate, also one that the service has signed itself
    #[arg(long, requires = "check")]
    health_any_certificate: bool,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS")]
    health_interval: Option<u32>,
    /// How long one look may take
    #[arg(long, value_name = "SECONDS")]
    health_timeout: Option<u32>,
    /// So many looks in a row must fail
    #[arg(long, value_name = "N")]
    health_failures: Option<u32>,
    /// How long it has after its boot to become well
    #[arg(long, value_name = "SECONDS")]
    health_grace: Option<u32>,
    /// `restart` it when it is not well, or only say so
    #[arg(long, value_name = "restart|alarm")]
    on_unhealthy: Option<OnUnhealthy>,
    /// How often it is restarted within an hour at most; then it is left alone
    #[arg(long, value_name = "N")]
    restart_limit: Option<u32>,
}

impl HealthArguments {
    /// `asked`: what the command is to do, for a refusal.
    pub fn change(self, asked: &str) -> Result<ChangeHealth, Failure> {
        let of_http = [
            ("--health-text", self.health_text.is_some()),
            ("--health-status", self.health_status.is_some()),
            ("--health-name", self.health_name.is_some()),
            ("--health-any-certificate", self.health_any_certificate),
        ];
        let check = match self.check {
            Some(HealthCheck::Http(http)) => Some(HealthCheck::Http(HttpCheck {
                status: self.health_status,
                text: self.health_text,
                name: self.health_name,
                any_certificate: self.health_any_certificate,
                ..http
            })),
            Some(
                other @ (HealthCheck::None
                | HealthCheck::Basic
                | HealthCheck::Agent
                | HealthCheck::Disk
                | HealthCheck::Tcp { .. }
                | HealthCheck::Command { .. }),
            ) => match of_http.iter().find(|(_, given)| *given) {
                None => Some(other),
                Some((option, _)) => {
                    let why = format!("{option} belongs to an HTTP check, and '{other}' is none");
                    return Err(Failure::usage(asked, why, "leave it out, or use --health http:PORT/PATH"));
                }
            },
            None => None,
        };
        Ok(ChangeHealth {
            check,
            interval_s: self.health_interval,
            timeout_s: self.health_timeout,
            failures: self.health_failures,
            grace_s: self.health_grace,
            on_unhealthy: self.on_unhealthy,
            restart_limit: self.restart_limit,
        })
    }
}

/// In a list: only what is worth a look.
pub fn cell(view: &GuestView) -> Cell {
    match view.health() {
        None => Cell::from("-"),
        Some(health) => {
            let tone = match health.state {
                HealthState::Healthy => Tone::Good,
                HealthState::Off | HealthState::Unknown => Tone::Plain,
                HealthState::Starting | HealthState::Restarting => Tone::Busy,
                HealthState::Unhealthy => Tone::Bad,
            };
            Cell::new(health.state, tone)
        }
    }
}

/// What is watched, how it is, and what was done.
pub fn lines(block: Block, view: &GuestView, now: Timestamp) -> Block {
    let health = view.health();
    let why = health.and_then(|health| health.message.as_ref());
    let restarts = health.into_iter().flat_map(|health| &health.restarts).map(|restart| {
        let place = match restart.how {
            HealthRestartKind::InPlace => format!("on {}", restart.host),
            HealthRestartKind::Elsewhere => format!("away from {}", restart.host),
        };
        format!("{place}, {}: {}", times::at_and_ago(restart.at, now), restart.why)
    });
    block
        .line("Health", cell(view))
        .maybe("Health says", why)
        .each("Restarted", restarts)
        .line("Watched by", watched(&view.spec.health))
}

fn watched(spec: &HealthSpec) -> String {
    let HealthSpec { check, interval_s, timeout_s: _, failures, grace_s, on_unhealthy, restart_limit } = spec;
    let then = match on_unhealthy {
        OnUnhealthy::Restart => format!("at most {restart_limit} restarts in an hour"),
        OnUnhealthy::Alarm => "an alarm, and no restart".to_owned(),
    };
    match check.is_asked() {
        true => {
            format!("{check} every {interval_s} s, {failures} failures in a row, {grace_s} s to boot; {then}")
        }
        false => format!("{check}; {then}"),
    }
}

/// Shows what a guest said last before each reset, and saves what it showed.
pub async fn last_moments(
    context: &Context,
    guest: &GuestName,
    save: Option<PathBuf>,
) -> Result<(), Failure> {
    let kept = context.client()?.last_moments(guest).await?;
    if let Some(folder) = &save {
        for moment in &kept.last_moments {
            let Some(picture) = &moment.picture else { continue };
            let name = format!("{guest}-{}.{}", moment.at.as_millisecond(), picture.format);
            let path = folder.join(name);
            std::fs::write(&path, &picture.bytes.0).map_err(|error| {
                let asked = format!("save a picture of '{guest}'");
                let why = format!("{} cannot be written: {error}", path.display());
                Failure::refused(asked, why, "name a folder that is there and that you may write to")
            })?;
        }
    }
    context.output.result(&kept, |_| shown(&kept, Timestamp::now()))
}

fn shown(kept: &LastMoments, now: Timestamp) -> String {
    let mut text = String::new();
    for moment in &kept.last_moments {
        let at = times::at_and_ago(moment.at, now);
        text += &format!("On {}, {at}: {}\n", moment.host, moment.why);
        let picture = moment.picture.as_ref();
        text += &picture
            .map_or(String::new(), |p| format!("  a picture ({}), `--save FOLDER` writes it\n", p.format));
        let said = String::from_utf8_lossy(&moment.lines.0).into_owned();
        let last: Vec<&str> = said.lines().rev().take(LINES_SHOWN).collect();
        for line in last.iter().rev() {
            let line: String = line.chars().filter(|c| !c.is_control()).collect();
            text += &format!("  | {line}\n");
        }
    }
    if kept.last_moments.is_empty() {
        text += "Nothing has happened to it.\n";
    }
    for host in &kept.silent {
        text += &format!("{host} does not answer: what it keeps is missing.\n");
    }
    text
}

/// Of what a guest said last before each reset; JSON has more.
const LINES_SHOWN: usize = 12;

#[cfg(test)]
mod tests {
    use api::{Blob, LastMomentView};

    use super::*;

    #[test]
    fn what_happened_is_shown_with_the_last_lines() {
        let moment = LastMomentView {
            at: Timestamp::UNIX_EPOCH,
            host: "host1".parse().unwrap(),
            why: "it panicked".into(),
            lines: Blob(b"hello\r\n\x1b[31mKernel panic\r\n".to_vec()),
            picture: None,
        };
        let kept = LastMoments { last_moments: vec![moment], silent: vec!["host2".parse().unwrap()] };
        let text = shown(&kept, Timestamp::UNIX_EPOCH);
        assert!(
            text.contains(": it panicked\n  | hello\n  | [31mKernel panic\nhost2 does not answer"),
            "{text}"
        );
        assert_eq!(shown(&LastMoments::default(), Timestamp::UNIX_EPOCH), "Nothing has happened to it.\n");
    }
}
