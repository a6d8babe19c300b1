//! `kennel host fence-device`, `fence`, `unfence` and `fence-test`: the power of hosts.

use std::collections::BTreeMap;
use std::time::Duration;

use api::{AddFenceDevice, Client, DeviceTestView, FenceHost, FenceTestView, HostView};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use model::{DeviceName, Fence, FenceDevice, HostName};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Cell, Table, Tone, note};
use crate::{row, terminal, times};

/// Between two looks at how a fence goes.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// Name a device that can take a host's power, through any program of the fence-agents family
    #[command(after_help = "Examples:
  kennel host fence-device add host1 bmc --agent fence_ipmilan --option ip=10.0.9.1 --option username=kennel \\
      --option lanplus=1 --option cipher=17 --secret password
  kennel host fence-device add host1 psu-a --agent fence_apc_snmp --option ip=pdu1 --option plug=4 --level 2
  kennel host fence-device add host1 psu-b --agent fence_apc_snmp --option ip=pdu2 --option plug=4 --level 2

The device is asked whether there is power, and must answer. `fence_ipmilan -o metadata` lists what an agent knows.
The levels are tried in order; the devices of a level must all say that the power is off.")]
    Add(AddArguments),
    /// The devices that can take a host's power
    #[command(after_help = "Example:
  kennel host fence-device list host1")]
    List { host: HostName },
    /// Forget a device, and what it was told in confidence
    #[command(after_help = "Example:
  kennel host fence-device remove host1 bmc")]
    Remove {
        host: HostName,
        device: DeviceName,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub struct AddArguments {
    host: HostName,
    /// What it is called, as in bmc
    device: DeviceName,
    /// The program that speaks to it, as in fence_ipmilan
    #[arg(long)]
    agent: String,
    /// What the program is told; can be given again
    #[arg(long = "option", value_name = "NAME=VALUE", value_parser = option)]
    options: Vec<(String, String)>,
    /// An option whose value is asked for, and never shown again; can be given again
    #[arg(long = "secret", value_name = "NAME")]
    secrets: Vec<String>,
    /// Read the values of the secrets from the input, one line each
    #[arg(long)]
    secrets_stdin: bool,
    /// When it is tried: those of level 1 first
    #[arg(long, default_value_t = 1)]
    level: u8,
    /// Seconds to wait before it is used
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    delay: u32,
    /// Name it though it does not answer now
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub struct FenceArguments {
    host: HostName,
    /// Why; for the record
    #[arg(long)]
    why: Option<String>,
    /// Though it is online and guests run on it
    #[arg(long)]
    force: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Do not wait until the power is off
    #[arg(long)]
    no_wait: bool,
}

fn option(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as in ip=10.0.9.1")?;
    if name.contains("passw") {
        return Err(format!("'{name}' would stand in the list of processes: use --secret {name}"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

pub async fn devices(context: &Context, command: DeviceCommand) -> Result<(), Failure> {
    match command {
        DeviceCommand::Add(arguments) => add(context, arguments).await,
        DeviceCommand::List { host } => {
            let view = context.client()?.host(&host).await?;
            context.output.result(&view.fence_devices, |coloured| {
                if view.fence_devices.is_empty() {
                    return format!(
                        "{host} has no fence device; `kennel host fence-device add` names one.\n"
                    );
                }
                table(&view.fence_devices).render(coloured)
            })
        }
        DeviceCommand::Remove { host, device, yes } => {
            let consequence = format!("{device} takes the power of {host} no more, and forgets its secrets.");
            let asked = format!("remove the fence device '{device}' of '{host}'");
            terminal::confirm(&asked, &[consequence], yes)?;
            context.client()?.remove_fence_device(&host, &device).await?;
            context
                .output
                .result(&serde_json::json!({ "removed": device }), |_| format!("{device} is gone.\n"))
        }
    }
}

async fn add(context: &Context, arguments: AddArguments) -> Result<(), Failure> {
    let AddArguments { host, device, agent, options, secrets, secrets_stdin, level, delay, force } =
        arguments;
    let asked = format!("give the host '{host}' the fence device '{device}'");
    let mut values = BTreeMap::new();
    for name in secrets {
        let value = terminal::secret(&asked, &name, secrets_stdin)?;
        values.insert(name, value);
    }
    let request = AddFenceDevice {
        name: device,
        agent,
        options: options.into_iter().collect(),
        secrets: values,
        level,
        delay_s: delay,
        force,
    };
    let view = context.client()?.add_fence_device(&host, &request).await?;
    context.output.result(&view, |_| {
        format!("{} can take the power of {host} through {}.\n", view.device.agent, view.name)
    })
}

fn table(devices: &BTreeMap<DeviceName, FenceDevice>) -> Table {
    let mut table = Table::new(&["NAME", "LEVEL", "AGENT", "DELAY", "OPTIONS", "SECRETS"]);
    for (name, device) in devices {
        let options: Vec<String> =
            device.options.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let secrets: Vec<&str> = device.secrets.iter().map(String::as_str).collect();
        let or_none = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        table.add(row![
            name,
            device.level,
            &device.agent,
            format!("{} s", device.delay_s),
            or_none(options.join(" ")),
            or_none(secrets.join(" "))
        ]);
    }
    table
}

/// One line for each device, for `kennel host show`.
pub fn lines(view: &HostView) -> Vec<String> {
    let line = |(name, device): (&DeviceName, &FenceDevice)| {
        format!("{name}: {}, level {}", device.agent, device.level)
    };
    view.fence_devices.iter().map(line).collect()
}

/// How it goes with taking a host's power.
pub fn in_words(fence: &Fence, now: Timestamp) -> String {
    let by_itself = fence
        .reset
        .as_ref()
        .map(|reset| format!("reset by its watchdog {} at the latest", times::at_and_ago(reset.at, now)));
    let how = match (&fence.off, &fence.problem) {
        (Some(off), _) => {
            let devices: Vec<&str> = off.devices.iter().map(DeviceName::as_str).collect();
            format!("off since {}, by {}", times::at_and_ago(off.at, now), devices.join(", "))
        }
        (None, _) if by_itself.is_some() => by_itself.unwrap_or_default(),
        (None, Some(why)) if fence.by_hand => format!("not taken: {why}"),
        (None, Some(why)) => format!("being taken, {} tries: {why}", fence.tries),
        (None, None) => "being taken".to_owned(),
    };
    format!("{how}; {} wanted it: {}", fence.asked_by, fence.why)
}

pub async fn fence(context: &Context, arguments: FenceArguments) -> Result<(), Failure> {
    let FenceArguments { host, why, force, yes, no_wait } = arguments;
    let consequences = [
        format!("The power of {host} is taken: all that runs on it ends at once."),
        format!("It stays off until `kennel host unfence {host}`."),
    ];
    let asked = format!("fence the host '{host}'");
    terminal::confirm(&asked, &consequences, yes)?;
    let client = context.client()?;
    let fence = client.fence_host(&host, &FenceHost { why, force }).await?;
    if no_wait {
        let said =
            format!("The power of {host} is being taken; `kennel host show {host}` tells how it goes.\n");
        return context.output.result(&fence, |_| said);
    }
    note(&format!("The power of {host} is being taken."));
    let fence = wait_for_end(&client, &host, fence).await?.ok_or_else(|| {
        let instead = format!("`kennel events --subject host/{host}` tells what happened");
        Failure::refused(&asked, "it was heard anew before its power was off", instead)
    })?;
    if let (None, Some(why)) = (&fence.off, &fence.problem) {
        let instead = format!("`kennel host fence-test {host}` asks each device how it is");
        return Err(Failure::refused(&asked, why, instead));
    }
    context.output.result(&fence, |_| format!("The power of {host} is off.\n"))
}

/// The fence when nothing more is tried; none when the record is gone, which the host's next session removes.
async fn wait_for_end(client: &Client, host: &HostName, fence: Fence) -> Result<Option<Fence>, Failure> {
    loop {
        match client.host(host).await {
            Ok(HostView { fence: Some(now), .. }) if now.id == fence.id => {
                if now.is_over() {
                    return Ok(Some(now));
                }
            }
            Ok(_) => return Ok(None),
            // The host that was asked may be the very one.
            Err(error) => note(&format!("kennel: {error}; asking again")),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

pub async fn unfence(context: &Context, host: HostName) -> Result<(), Failure> {
    let view = context.client()?.unfence_host(&host).await?;
    context.output.result(&view, |_| format!("{host} has power again; it is online when it has started.\n"))
}

pub async fn test(context: &Context, host: HostName) -> Result<(), Failure> {
    let view = context.client()?.test_fence_devices(&host).await?;
    context.output.result(&view, |coloured| results(&view).render(coloured))?;
    let bad = view.devices.iter().filter(|device| device.problem.is_some()).count();
    if bad == 0 {
        return Ok(());
    }
    let why = format!("{bad} of {} devices are not as they should be", view.devices.len());
    let instead = format!("mend them, or name others with `kennel host fence-device add {host} …`");
    Err(Failure::refused(format!("count on the fence devices of '{host}'"), why, instead))
}

fn results(view: &FenceTestView) -> Table {
    let mut table = Table::new(&["NAME", "LEVEL", "AGENT", "POWER", "PROBLEM"]);
    for device in &view.devices {
        let DeviceTestView { name, agent, level, powered, problem } = device;
        let power = match powered {
            Some(true) => "on",
            Some(false) => "off",
            None => "unknown",
        };
        let tone = if problem.is_some() { Tone::Bad } else { Tone::Good };
        table.add(row![name, level, agent, Cell::new(power, tone), Cell::maybe(problem.as_ref())]);
    }
    table
}

#[cfg(test)]
mod tests {
    use model::PowerOff;

    use super::*;

    #[test]
    fn a_password_is_no_word_of_a_command_line() {
        assert_eq!(option("ip=10.0.9.1"), Ok(("ip".to_owned(), "10.0.9.1".to_owned())));
        assert!(option("password=x").unwrap_err().contains("use --secret password"));
        assert!(option("ip").is_err());
    }

    #[test]
    fn how_a_fence_goes_is_one_line() {
        let fence = Fence {
            host: "host1".parse().unwrap(),
            id: uuid::Uuid::nil(),
            boot_id: model::BootId(uuid::Uuid::nil()),
            asked_by: "the leader".into(),
            by_hand: false,
            why: "it is lost".into(),
            since: Timestamp::UNIX_EPOCH,
            tries: 2,
            tried_at: None,
            problem: None,
            off: None,
            reset: None,
        };
        let said = |fence: &Fence| in_words(fence, Timestamp::UNIX_EPOCH);
        assert_eq!(said(&fence), "being taken; the leader wanted it: it is lost");
        let failed = Fence { problem: Some("bmc: it hangs".into()), ..fence.clone() };
        assert_eq!(said(&failed), "being taken, 2 tries: bmc: it hangs; the leader wanted it: it is lost");
        let devices = ["bmc".parse().unwrap()].into();
        let off = PowerOff { at: Timestamp::UNIX_EPOCH, devices, seen_by: "host2".parse().unwrap() };
        let done = Fence { off: Some(off), ..failed };
        assert!(said(&done).contains(", by bmc; the leader wanted it"), "{}", said(&done));
    }
}
