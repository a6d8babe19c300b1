//! `kennel guest set`: what an operator says of a guest that is there.

use std::collections::BTreeSet;

use api::{ChangeGuest, ChangeTags};
use clap::{ArgGroup, Args};
use jiff::Timestamp;
use model::{Bytes, GuestName};

use super::guest_health::HealthArguments;
use super::guest_show::show;
use crate::context::Context;
use crate::failure::Failure;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("moving"), group = ArgGroup::new("order"), group = ArgGroup::new("together"))]
pub struct SetArguments {
    guest: GuestName,
    /// Who comes back first when a host is lost: higher before lower
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i32>,
    /// A tag that it carries from now on, for rules; can be given again
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// A tag that it carries no more; can be given again
    #[arg(long = "untag", value_name = "TAG")]
    untags: Vec<String>,
    /// Do not move it, unless somebody says `guest migrate`
    #[arg(long, group = "moving")]
    pin: bool,
    /// Let it be moved again
    #[arg(long, group = "moving")]
    unpin: bool,
    /// Start it only when this guest runs; can be given again, and replaces what was said before
    #[arg(long = "after", value_name = "GUEST", group = "order")]
    after: Vec<GuestName>,
    /// Start it whatever else runs
    #[arg(long, group = "order")]
    after_none: bool,
    /// Restart it when this guest was restarted after a failure, and the other way round; can be given again, and
    /// replaces what was said before
    #[arg(long = "restart-with", value_name = "GUEST", group = "together")]
    restart_with: Vec<GuestName>,
    /// Restart it with nobody
    #[arg(long, group = "together")]
    restart_alone: bool,
    /// How long it may take to shut down, in seconds
    #[arg(long, value_name = "SECONDS")]
    stop_limit: Option<u32>,
    /// Its memory from the next start on; only while it is stopped
    #[arg(long, value_name = "SIZE")]
    memory: Option<Bytes>,
    /// Its processors from the next start on; only while it is stopped
    #[arg(long, value_name = "N")]
    vcpus: Option<u32>,
    #[command(flatten)]
    health: HealthArguments,
}

pub async fn set(context: &Context, arguments: SetArguments) -> Result<(), Failure> {
    let (guest, request) = request(arguments)?;
    let view = context.client()?.change_guest(&guest, &request).await?;
    context.output.result(&view, |coloured| show(&view, Timestamp::now(), coloured))
}

fn request(arguments: SetArguments) -> Result<(GuestName, ChangeGuest), Failure> {
    let asked = format!("change the guest '{}'", arguments.guest);
    let names = |none: bool, names: Vec<GuestName>| -> Option<BTreeSet<GuestName>> {
        (none || !names.is_empty()).then(|| names.into_iter().collect())
    };
    let start_after = names(arguments.after_none, arguments.after);
    let restart_with = names(arguments.restart_alone, arguments.restart_with);
    let tags = ChangeTags {
        add: arguments.tags.into_iter().collect(),
        remove: arguments.untags.into_iter().collect(),
    };
    let request = ChangeGuest {
        priority: arguments.priority,
        tags,
        pinned: if arguments.pin { Some(true) } else { arguments.unpin.then_some(false) },
        start_after,
        restart_with,
        stop_timeout_s: arguments.stop_limit,
        memory: arguments.memory,
        vcpus: arguments.vcpus,
        health: arguments.health.change(&asked)?,
    };
    Ok((arguments.guest, request))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: SetArguments,
    }

    fn parse(line: &str) -> Result<ChangeGuest, String> {
        let words = ["set"].into_iter().chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        let refused = |failure: Failure| failure.sentence().unwrap_or_default();
        request(line.arguments).map(|(_, change)| change).map_err(refused)
    }

    #[test]
    fn only_what_is_named_is_different() {
        assert_eq!(parse("web1"), Ok(ChangeGuest::default()));
        let change = parse("web1 --pin --tag a --untag b --after db1 --after db2 --priority -2").unwrap();
        assert_eq!((change.pinned, change.priority, change.memory), (Some(true), Some(-2), None));
        assert_eq!(change.tags, ChangeTags { add: ["a".to_owned()].into(), remove: ["b".to_owned()].into() });
        assert_eq!(change.start_after.map(|after| after.len()), Some(2));
        let change = parse("web1 --unpin --after-none").unwrap();
        assert_eq!((change.pinned, change.start_after), (Some(false), Some(BTreeSet::new())));
        let change = parse("web1 --restart-with db1").unwrap();
        assert_eq!(change.restart_with.map(|with| with.len()), Some(1));
        assert_eq!(parse("web1 --restart-alone").unwrap().restart_with, Some(BTreeSet::new()));
        let health = parse("web1 --health http:80/up --health-text ok --restart-limit 2").unwrap().health;
        assert_eq!(health.check.unwrap().to_string(), "http:80/up with 'ok'");
        assert_eq!((health.restart_limit, health.interval_s), (Some(2), None));
        let https =
            "web1 --health https:443/ --health-status 401 --health-name www.a.org --health-any-certificate";
        let check = parse(https).unwrap().health.check.unwrap();
        assert_eq!(check.to_string(), "https:443/ as www.a.org with status 401, any certificate");
        let refused = parse("web1 --health tcp:22 --health-status 200").unwrap_err();
        assert!(
            refused.contains("--health-status belongs to an HTTP check, and 'tcp:22' is none"),
            "{refused}"
        );
        assert!(parse("web1 --health-name www.a.org").unwrap_err().contains("--health <CHECK>"));
        assert!(parse("web1 --health ping").unwrap_err().contains("is no health check"));
        assert!(parse("web1 --pin --unpin").is_err());
        assert!(parse("web1 --after a --after-none").is_err());
    }
}
