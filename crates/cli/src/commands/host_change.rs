//! `kennel host set`, `drain`, `maintenance` and `resume`: what an operator says of a host.

use api::{ChangeDuty, ChangeHost, ChangeHostSettings, ChangeTags};
use clap::Args;
use jiff::Timestamp;
use model::{Bytes, Duty, HostName};

use super::host::show;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Format, note};
use crate::progress;
use crate::terminal;

#[derive(Debug, Args)]
pub struct SetArguments {
    host: HostName,
    /// Hosts that may fail together share a zone
    #[arg(long)]
    zone: Option<String>,
    /// A tag that it carries from now on; can be given again
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// A tag that it carries no more; can be given again
    #[arg(long = "untag", value_name = "TAG")]
    untags: Vec<String>,
    /// Memory that it keeps for itself, as in 1G
    #[arg(long, value_name = "SIZE")]
    reserve_memory: Option<Bytes>,
    /// Of the disk that holds the volumes: what no replica may take
    #[arg(long, value_name = "SIZE")]
    reserve_disk: Option<Bytes>,
    /// Processors that it keeps for itself, in thousandths of a core
    #[arg(long, value_name = "N")]
    reserve_millicores: Option<u32>,
    /// Of one of its processors: 100 is a standard host's
    #[arg(long, value_name = "PERCENT")]
    speed: Option<u32>,
    /// What its guests' memory may sum up to, or `default`: as the whole cluster's settings say
    #[arg(long, value_name = "PERCENT|default", value_parser = percent_or_default)]
    memory_percent: Option<PercentOrDefault>,
    /// How many virtual CPUs its guests may have, in percent of its cores, or `default`
    #[arg(long, value_name = "PERCENT|default", value_parser = percent_or_default)]
    vcpus_percent: Option<PercentOrDefault>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PercentOrDefault(Option<u32>);

fn percent_or_default(text: &str) -> Result<PercentOrDefault, String> {
    if text == "default" {
        return Ok(PercentOrDefault(None));
    }
    let number = text.trim_end_matches('%').parse();
    number.map(|percent| PercentOrDefault(Some(percent))).map_err(|_| {
        format!("'{text}' is not a percentage: write a whole number, as in 150, or the word default")
    })
}

#[derive(Debug, Args)]
pub struct DutyArguments {
    host: HostName,
    /// Move what can be moved, though some guests must stay
    #[arg(long)]
    force: bool,
    /// Do not wait; print the job's id
    #[arg(long)]
    no_wait: bool,
}

pub async fn set(context: &Context, arguments: SetArguments) -> Result<(), Failure> {
    let (host, request) = request(arguments);
    let view = context.client()?.change_host(&host, &request).await?;
    context.output.result(&view, |coloured| show(&view, None, Timestamp::now()).render(coloured))
}

fn request(arguments: SetArguments) -> (HostName, ChangeHost) {
    let settings = ChangeHostSettings {
        reserved_memory: arguments.reserve_memory,
        reserved_disk: arguments.reserve_disk,
        reserved_millicores: arguments.reserve_millicores,
        speed_percent: arguments.speed,
        memory_percent: arguments.memory_percent.map(|percent| percent.0),
        vcpus_percent: arguments.vcpus_percent.map(|percent| percent.0),
    };
    let tags = ChangeTags {
        add: arguments.tags.into_iter().collect(),
        remove: arguments.untags.into_iter().collect(),
    };
    (arguments.host, ChangeHost { zone: arguments.zone, tags, settings })
}

/// Has everything, or every guest, leave a host, and waits until it has.
pub async fn empty(context: &Context, arguments: DutyArguments, duty: Duty) -> Result<(), Failure> {
    let DutyArguments { host, force, no_wait } = arguments;
    let client = context.client()?;
    let answer = client.change_duty(&host, &ChangeDuty { duty, force }).await?;
    answer.warnings.iter().for_each(|line| note(&format!("kennel: {line}")));
    let Some(job) = answer.job else {
        return context.output.result(&answer.host, |_| format!("{host} is {duty}.\n"));
    };
    if no_wait || context.output.format != Format::Table {
        return progress::finish(context, &client, job, no_wait).await;
    }
    let job = progress::wait(context, &client, job).await?;
    progress::verdict(&job)?;
    crate::output::say(&format!("{}\n", emptied(&host, duty)))
}

fn emptied(host: &HostName, duty: Duty) -> String {
    let back = format!("`kennel host resume {host}` lets it take guests again");
    match duty {
        Duty::Draining => format!("{host} is empty; {back}."),
        Duty::Maintenance => format!("No guest runs on {host}, and its replicas stay; {back}."),
        Duty::Normal => format!("{host} takes guests again."),
    }
}

pub async fn resume(context: &Context, host: HostName) -> Result<(), Failure> {
    let client = context.client()?;
    let request = ChangeDuty { duty: Duty::Normal, force: false };
    let answer = client.change_duty(&host, &request).await?;
    answer.warnings.iter().for_each(|line| note(&format!("kennel: {line}")));
    context.output.result(&answer.host, |_| format!("{}\n", emptied(&host, Duty::Normal)))
}

pub async fn confirm_dead(context: &Context, host: HostName, yes: bool) -> Result<(), Failure> {
    let consequences = [
        format!("Guests of {host} whose disks are in storage that hosts share are started on other hosts."),
        format!("If {host} still runs them, two machines write to the same disk, and what is on it is lost."),
        format!("Say yes only if you have seen that {host} is off."),
    ];
    terminal::confirm(&format!("confirm that the host '{host}' is dead"), &consequences, yes)?;
    let view = context.client()?.confirm_dead(&host).await?;
    context.output.result(&view, |_| {
        let guests: Vec<&str> = view.guests.iter().map(model::GuestName::as_str).collect();
        if guests.is_empty() {
            return format!("{host} counts as dead until it is heard again; no guest waited for that.\n");
        }
        format!("{host} counts as dead until it is heard again. Started elsewhere: {}.\n", guests.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_may_be_the_clusters() {
        assert_eq!(percent_or_default("150"), Ok(PercentOrDefault(Some(150))));
        assert_eq!(percent_or_default("150%"), Ok(PercentOrDefault(Some(150))));
        assert_eq!(percent_or_default("default"), Ok(PercentOrDefault(None)));
        assert!(percent_or_default("lots").unwrap_err().contains("is not a percentage"));
    }
}
