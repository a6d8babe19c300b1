//! What holds for the whole cluster is changed.

use api::ChangeSettings;
use axum::Json;
use axum::extract::State;
use model::{Bytes, ClusterView, CpuLevel, Settings, Survive};
use plan::compat::cpu_limit;
use plan::storm::STORM_TIMES_MAX_S;
use store::Cache;

use super::answer::{Answer, Body, Refused};
use super::{Shared, checks, commit};

/// More would leave nothing of a host for what people do.
const MOVES_AT_ONCE_MAX: u32 = 32;
/// Two samples: less is no average.
const USAGE_WINDOW_MIN_S: u32 = 10;
/// A day: what is older says nothing of the load that there is now.
const USAGE_WINDOW_MAX_S: u32 = 24 * 3600;
/// Hosts that may be lost at once.
const SURVIVE_HOSTS_MAX: u32 = 16;
/// Of memory and of processors. Below 10 a host would be empty, above 10,000 the limit is none.
pub const PERCENT: std::ops::RangeInclusive<u32> = 10..=10_000;
const STARTS_PER_HOST_MAX: u32 = 1000;
/// Per second.
const RESYNC_PACE_MIN: Bytes = Bytes::mib(1);
/// Ten years: longer is never.
const VERIFY_EVERY_MAX_S: u32 = 10 * 365 * 24 * 3600;
/// An hour: who waits for longer can do without the order.
const START_WAIT_MAX_S: u32 = 3600;
/// Nothing is more than all of the hosts.
const STORM_SHARE_MAX: u32 = 100;
/// A month: who waits for longer can switch it off.
const HEAL_AFTER_MAX_S: u32 = 31 * 24 * 3600;

pub async fn change(
    State(backend): State<Shared>,
    Body(request): Body<ChangeSettings>,
) -> Answer<Json<Settings>> {
    let asked = "change the cluster's settings";
    check(&request, asked)?;
    let draft = |cache: &Cache| {
        let unread = || Refused::store_unavailable(asked, "this host has not read the cluster's state yet");
        let mut cluster = cache.view().cluster.clone().ok_or_else(unread)?;
        apply(&request, &mut cluster.settings);
        every_host_reaches(cache.view(), request.cpu_baseline.flatten(), asked)?;
        let mut txn = cache.txn();
        txn.put(&cluster);
        commit::built(&mut txn, asked)
    };
    let changed = |view: &ClusterView| {
        view.cluster.as_ref().is_some_and(|cluster| {
            let mut settings = cluster.settings.clone();
            apply(&request, &mut settings);
            settings == cluster.settings
        })
    };
    commit::change(&*backend, asked, draft, changed).await?;
    let view = backend.state().view();
    let unread = || Refused::store_unavailable(asked, "this host has not read the cluster's state yet");
    view.cluster.as_ref().map(|cluster| Json(cluster.settings.clone())).ok_or_else(unread)
}

fn check(request: &ChangeSettings, asked: &str) -> Answer<()> {
    if *request == ChangeSettings::default() {
        return Err(Refused::invalid(asked, "nothing is to be different", "name what shall be"));
    }
    let range = |number: Option<u32>, range, what: &dyn Fn(u32) -> String| match number {
        Some(number) => checks::in_range(number, range, &what(number), asked),
        None => Ok(()),
    };
    range(request.balance_moves_at_once, 1..=MOVES_AT_ONCE_MAX, &|n| format!("making {n} moves at once"))?;
    range(request.usage_window_s, USAGE_WINDOW_MIN_S..=USAGE_WINDOW_MAX_S, &|n| {
        format!("a usage window of {n} s")
    })?;
    range(request.memory_percent, PERCENT, &|n| format!("giving {n} % of the memory to guests"))?;
    range(request.vcpus_percent, PERCENT, &|n| format!("giving {n} % of the cores to guests"))?;
    range(request.recovery_starts_per_host, 1..=STARTS_PER_HOST_MAX, &|n| {
        format!("starting {n} lost guests at once")
    })?;
    check_storm(request, asked)?;
    range(request.start_wait_s, 0..=START_WAIT_MAX_S, &|n| format!("waiting {n} s for another guest"))?;
    range(request.verify_every_s, 0..=VERIFY_EVERY_MAX_S, &|n| format!("comparing replicas every {n} s"))?;
    range(request.heal_after_s, 0..=HEAL_AFTER_MAX_S, &|n| format!("healing after {n} s"))?;
    if let Some(pace) = request.resync_pace.filter(|pace| *pace > Bytes(0) && *pace < RESYNC_PACE_MIN) {
        let why = format!("at {pace} a second a disk would be without its second replica for weeks");
        return Err(Refused::by_state(asked, why, format!("{RESYNC_PACE_MIN} or more, or auto")));
    }
    match request.survive {
        Some(Survive::Hosts(count)) => {
            let what = format!("keeping room for the loss of {count} hosts at once");
            checks::in_range(count, 0..=SURVIVE_HOSTS_MAX, &what, asked)
        }
        Some(Survive::Zone) | None => Ok(()),
    }
}

fn check_storm(request: &ChangeSettings, asked: &str) -> Answer<()> {
    let numbers: [(Option<u32>, std::ops::RangeInclusive<u32>, &str); 4] = [
        (request.storm_share_percent, 0..=STORM_SHARE_MAX, "a storm share, percent"),
        (request.storm_window_s, 1..=STORM_TIMES_MAX_S, "a storm window, seconds"),
        (request.storm_hold_s, 0..=STORM_TIMES_MAX_S, "a storm hold, seconds"),
        (request.storm_starts_per_host, 1..=STARTS_PER_HOST_MAX, "guests started at once in a storm"),
    ];
    for (number, range, what) in numbers {
        if let Some(number) = number {
            checks::in_range(number, range, &format!("{number} ({what})"), asked)?;
        }
    }
    Ok(())
}

fn apply(request: &ChangeSettings, settings: &mut Settings) {
    let ChangeSettings {
        balance,
        balance_moves_at_once,
        usage_window_s,
        survive,
        memory_percent,
        vcpus_percent,
        recovery_starts_per_host,
        heal_after_s,
        verify_every_s,
        resync_pace,
        cpu_baseline,
        start_wait_s,
        storm_share_percent,
        storm_window_s,
        storm_hold_s,
        storm_starts_per_host,
    } = request.clone();
    settings.balance = balance.unwrap_or(settings.balance);
    settings.balance_moves_at_once = balance_moves_at_once.unwrap_or(settings.balance_moves_at_once);
    settings.usage_window_s = usage_window_s.unwrap_or(settings.usage_window_s);
    settings.survive = survive.unwrap_or(settings.survive);
    settings.memory_percent = memory_percent.unwrap_or(settings.memory_percent);
    settings.vcpus_percent = vcpus_percent.unwrap_or(settings.vcpus_percent);
    settings.recovery_starts_per_host = recovery_starts_per_host.unwrap_or(settings.recovery_starts_per_host);
    settings.heal_after_s = heal_after_s.unwrap_or(settings.heal_after_s);
    settings.verify_every_s = verify_every_s.unwrap_or(settings.verify_every_s);
    settings.resync_pace = match resync_pace {
        None => settings.resync_pace,
        Some(pace) => Some(pace).filter(|pace| *pace > Bytes(0)),
    };
    settings.start_wait_s = start_wait_s.unwrap_or(settings.start_wait_s);
    settings.storm_share_percent = storm_share_percent.unwrap_or(settings.storm_share_percent);
    settings.storm_window_s = storm_window_s.unwrap_or(settings.storm_window_s);
    settings.storm_hold_s = storm_hold_s.unwrap_or(settings.storm_hold_s);
    settings.storm_starts_per_host = storm_starts_per_host.unwrap_or(settings.storm_starts_per_host);
    settings.cpu_baseline = cpu_baseline.unwrap_or(settings.cpu_baseline);
}

/// Refuses a baseline with which some host could start no guest.
fn every_host_reaches(view: &ClusterView, pinned: Option<CpuLevel>, asked: &str) -> Answer<()> {
    let Some(pinned) = pinned else { return Ok(()) };
    let mut hosts = view.hosts.keys().filter_map(|host| Some((host, cpu_limit(view, host)?)));
    match hosts.find(|(_, limit)| *limit < pinned) {
        None => Ok(()),
        Some((host, limit)) => {
            let why =
                format!("{host} gives its guests no more than {limit}, and could start none with {pinned}");
            Err(Refused::by_state(asked, why, format!("choose {limit} or lower, or auto")))
        }
    }
}
