//! `kennel cluster set`: what holds for the whole cluster.

use std::str::FromStr;

use api::ChangeSettings;
use clap::{Args, ValueEnum};
use model::{BalanceMode, Bytes, CpuLevel, Settings, Survive};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Block;

#[derive(Debug, Args)]
pub struct SetArguments {
    /// Whether guests are moved to balance the load
    #[arg(long, value_enum)]
    balance: Option<Mode>,
    /// How many moves the balance makes at once
    #[arg(long, value_name = "N")]
    moves_at_once: Option<u32>,
    /// What the cluster keeps room for: `hosts=N` for any N hosts at once, `zone` for any one zone, `nothing`
    #[arg(long, value_name = "hosts=N|zone|nothing")]
    survive: Option<Survival>,
    /// What guests' memory may sum up to, of the memory that hosts do not keep for themselves
    #[arg(long, value_name = "PERCENT")]
    memory_percent: Option<u32>,
    /// How many virtual CPUs guests may have, in percent of a host's cores
    #[arg(long, value_name = "PERCENT")]
    vcpus_percent: Option<u32>,
    /// Over which time what is measured is averaged, in seconds: a load that lasts much shorter moves nothing
    #[arg(long, value_name = "SECONDS")]
    usage_window: Option<u32>,
    /// How many guests one host may be starting at once while lost guests are recovered
    #[arg(long, value_name = "N")]
    recovery_starts: Option<u32>,
    /// How long a guest waits at most for those that it starts after, as in 5m; `off`: not at all
    #[arg(long, value_name = "TIME|off")]
    start_wait: Option<Period>,
    /// What share of the hosts must vanish at once to be a storm, in which recovery goes slowly; `off`: nothing is one
    #[arg(long, value_name = "PERCENT|off")]
    storm_share: Option<Share>,
    /// Hosts that vanish within so long vanish at once, as in 60s
    #[arg(long, value_name = "TIME")]
    storm_window: Option<Period>,
    /// For how long nothing is recovered when a storm begins, as in 30s
    #[arg(long, value_name = "TIME")]
    storm_hold: Option<Period>,
    /// How many guests one host may be starting at once in a storm
    #[arg(long, value_name = "N")]
    storm_pace: Option<u32>,
    /// For how long a mirrored disk has one replica before it gets a new secondary by itself, as in 90s, 30m or 2h; `off`: never
    #[arg(long, value_name = "TIME|off")]
    heal_after: Option<Period>,
    /// How often both replicas of each mirrored disk are compared, as in 30d; `off`: never
    #[arg(long, value_name = "TIME|off")]
    verify_every: Option<Period>,
    /// How fast one second replica is filled at most, per second, as in 50M; `auto`: as the daemon sees fit
    #[arg(long, value_name = "SIZE|auto")]
    resync_pace: Option<ResyncPace>,
    /// The processor that guests are started with, as in x86-64-v2; `auto`: what every host has
    #[arg(long, value_name = "LEVEL|auto")]
    cpu_baseline: Option<Baseline>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Baseline(Option<CpuLevel>);

impl FromStr for Baseline {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" { Ok(Baseline(None)) } else { text.parse().map(|level| Baseline(Some(level))) }
    }
}

/// Percent; 0: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share(u32);

impl FromStr for Share {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').unwrap_or(text);
        match text {
            "off" => Ok(Share(0)),
            _ => number.parse().map(Share).map_err(|_| format!("'{text}' is no share: write 34, 34% or off")),
        }
    }
}

/// Bytes per second; 0: the daemon's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ResyncPace(Bytes);

impl FromStr for ResyncPace {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(ResyncPace(Bytes(0)));
        }
        text.parse().map(ResyncPace).map_err(|error: model::InvalidSize| error.to_string())
    }
}

/// Seconds; 0: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Period(u32);

impl FromStr for Period {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Period(0));
        }
        let wrong = || format!("'{text}' is no time: write 90s, 30m, 2h, 30d or off");
        let (number, unit) = match text.strip_suffix(['s', 'm', 'h', 'd']) {
            Some(number) => (number, &text[number.len()..]),
            None => (text, "s"),
        };
        let seconds: u32 = match unit {
            "d" => 24 * 3600,
            "h" => 3600,
            "m" => 60,
            _ => 1,
        };
        number.parse::<u32>().ok().and_then(|n| n.checked_mul(seconds)).map(Period).ok_or_else(wrong)
    }
}

/// As in `30 m`.
fn time(seconds: u32) -> String {
    const DAY: u32 = 24 * 3600;
    match seconds {
        s if s.is_multiple_of(DAY) => format!("{} d", s / DAY),
        s if s.is_multiple_of(3600) => format!("{} h", s / 3600),
        s if s.is_multiple_of(60) => format!("{} m", s / 60),
        s => format!("{s} s"),
    }
}

/// As in `after 30 m with one replica`.
fn heals(seconds: u32) -> String {
    if seconds == 0 { "off".to_owned() } else { format!("after {} with one replica", time(seconds)) }
}

/// As in `a guest waits 5 m at most for another one`.
fn waits(seconds: u32) -> String {
    match seconds {
        0 => "nobody waits".to_owned(),
        _ => format!("a guest waits {} at most for another one", time(seconds)),
    }
}

/// As in `34 % of the hosts within 1 m: nothing for 30 s, then 1 start at once on each host`.
fn storms(settings: &Settings) -> String {
    let Settings { storm_share_percent, storm_window_s, storm_hold_s, storm_starts_per_host, .. } = settings;
    if *storm_share_percent == 0 {
        return "off".to_owned();
    }
    format!(
        "{storm_share_percent} % of the hosts within {}: nothing for {}, then {storm_starts_per_host} at once on each \
         host",
        time(*storm_window_s),
        time(*storm_hold_s)
    )
}

/// As in `every 30 d`.
fn verifies(seconds: u32) -> String {
    if seconds == 0 { "off".to_owned() } else { format!("every {}", time(seconds)) }
}

/// Whether guests are moved to balance the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// They are not
    Off,
    /// It is proposed, and waits for `kennel balance apply`
    Manual,
    /// It is done, carefully
    Automatic,
}

impl From<Mode> for BalanceMode {
    fn from(mode: Mode) -> BalanceMode {
        match mode {
            Mode::Off => BalanceMode::Off,
            Mode::Manual => BalanceMode::Manual,
            Mode::Automatic => BalanceMode::Automatic,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Survival(Survive);

impl FromStr for Survival {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not what a cluster can survive: write hosts=1, zone or nothing");
        match text.split_once('=') {
            Some(("hosts", count)) => {
                count.parse().map(|count| Survival(Survive::Hosts(count))).map_err(|_| wrong())
            }
            None if text == "zone" => Ok(Survival(Survive::Zone)),
            None if text == "nothing" => Ok(Survival(Survive::Hosts(0))),
            Some(_) | None => Err(wrong()),
        }
    }
}

pub async fn set(context: &Context, arguments: SetArguments) -> Result<(), Failure> {
    let request = ChangeSettings {
        balance: arguments.balance.map(BalanceMode::from),
        balance_moves_at_once: arguments.moves_at_once,
        usage_window_s: arguments.usage_window,
        survive: arguments.survive.map(|survival| survival.0),
        memory_percent: arguments.memory_percent,
        vcpus_percent: arguments.vcpus_percent,
        recovery_starts_per_host: arguments.recovery_starts,
        heal_after_s: arguments.heal_after.map(|after| after.0),
        verify_every_s: arguments.verify_every.map(|every| every.0),
        resync_pace: arguments.resync_pace.map(|pace| pace.0),
        cpu_baseline: arguments.cpu_baseline.map(|baseline| baseline.0),
        start_wait_s: arguments.start_wait.map(|wait| wait.0),
        storm_share_percent: arguments.storm_share.map(|share| share.0),
        storm_window_s: arguments.storm_window.map(|window| window.0),
        storm_hold_s: arguments.storm_hold.map(|hold| hold.0),
        storm_starts_per_host: arguments.storm_pace,
    };
    let settings = context.client()?.change_settings(&request).await?;
    context.output.result(&settings, |coloured| show(&settings).render(coloured))
}

/// As in `the loss of any 2 hosts`.
pub fn survives(survive: Survive) -> String {
    match survive {
        Survive::Hosts(0) => "nothing".to_owned(),
        Survive::Hosts(1) => "the loss of any host".to_owned(),
        Survive::Hosts(count) => format!("the loss of any {count} hosts"),
        Survive::Zone => "the loss of any zone".to_owned(),
    }
}

pub fn mode(mode: BalanceMode) -> &'static str {
    match mode {
        BalanceMode::Off => "off",
        BalanceMode::Manual => "manual",
        BalanceMode::Automatic => "automatic",
    }
}

fn show(settings: &Settings) -> Block {
    Block::new()
        .line("Balance", mode(settings.balance))
        .line("Moves at once", settings.balance_moves_at_once)
        .line("Keeps room for", survives(settings.survive))
        .line("Memory limit", format!("{} %", settings.memory_percent))
        .line("CPU limit", format!("{} %", settings.vcpus_percent))
        .line("Usage window", format!("{} s", settings.usage_window_s))
        .line(
            "Starts at once",
            format!("{} on each host, while lost guests are recovered", settings.recovery_starts_per_host),
        )
        .line("Start order", waits(settings.start_wait_s))
        .line("Storm", storms(settings))
        .line("Healing", heals(settings.heal_after_s))
        .line(
            "Resync",
            settings.resync_pace.map_or_else(|| "at its own pace".to_owned(), |pace| format!("{pace}/s")),
        )
        .line("Verification", verifies(settings.verify_every_s))
        .line(
            "CPU baseline",
            settings.cpu_baseline.map_or_else(|| "what every host has".to_owned(), |level| level.to_string()),
        )
        .line("Store members", settings.store_members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_survived_is_said_in_a_word() {
        assert_eq!("hosts=2".parse(), Ok(Survival(Survive::Hosts(2))));
        assert_eq!("zone".parse(), Ok(Survival(Survive::Zone)));
        assert_eq!("nothing".parse(), Ok(Survival(Survive::Hosts(0))));
        for bad in ["", "hosts", "hosts=all", "zone=1", "everything"] {
            assert!(bad.parse::<Survival>().is_err(), "{bad}");
        }
        assert_eq!(survives(Survive::Hosts(2)), "the loss of any 2 hosts");
    }

    #[test]
    fn a_pace_is_a_size_for_each_second() {
        assert_eq!("50M".parse(), Ok(ResyncPace(Bytes::mib(50))));
        assert_eq!("auto".parse(), Ok(ResyncPace(Bytes(0))));
        assert!("fast".parse::<ResyncPace>().is_err());
    }

    #[test]
    fn a_grace_time_is_said_with_its_unit() {
        for (text, seconds) in [("off", 0), ("0", 0), ("45", 45), ("90s", 90), ("30m", 1800), ("2h", 7200)] {
            assert_eq!(text.parse(), Ok(Period(seconds)), "{text}");
        }
        for bad in ["", "m", "-1", "never", "30w", "9999999h"] {
            assert!(bad.parse::<Period>().is_err(), "{bad}");
        }
        assert_eq!(heals(1800), "after 30 m with one replica");
        assert_eq!(heals(0), "off");
        assert_eq!(verifies(30 * 24 * 3600), "every 30 d");
    }

    #[test]
    fn a_storm_is_said_in_a_line() {
        assert_eq!("34%".parse(), Ok(Share(34)));
        assert_eq!("off".parse(), Ok(Share(0)));
        assert!("many".parse::<Share>().is_err());
        let said = storms(&Settings::default());
        assert_eq!(said, "34 % of the hosts within 1 m: nothing for 30 s, then 1 at once on each host");
        assert_eq!(waits(300), "a guest waits 5 m at most for another one");
    }

    #[test]
    fn a_baseline_is_a_level_or_what_there_is() {
        assert_eq!("auto".parse(), Ok(Baseline(None)));
        assert_eq!("x86-64-v2".parse(), Ok(Baseline(Some(CpuLevel::V2))));
        assert!("v2".parse::<Baseline>().unwrap_err().contains("x86-64-v4"));
    }
}
