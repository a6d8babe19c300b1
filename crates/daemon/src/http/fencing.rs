//! Fence devices, and the power of hosts as operators take and give it.
//!
//! A device is written down only when the agent on the host that is asked knows all its options and the device answers
//! whether there is power: nothing is fenced, and nothing fails at night, because of a slip. What is secret goes into
//! the store's secrets and is never shown again.
//!
//! Taking power is the leader's: the API only enters that somebody wants it. Giving it proves nothing and needs no
//! leader, so the host that is asked does it.

use std::collections::{BTreeMap, BTreeSet};

use api::{AddFenceDevice, DeviceTestView, FenceDeviceView, FenceHost, FenceTestView};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use host::fence::{Power, is_secret};
use jiff::Timestamp;
use model::{
    ClusterView, DeviceName, Event, EventId, EventKind, Fence, FenceDevice, FenceDevices, HostName,
    PowerWish, Severity,
};
use store::{Cache, keys};
use uuid::Uuid;

use super::answer::{Answer, Body, Refused, named};
use super::auth::Caller;
use super::{Shared, checks, commit};
use crate::fencing::{Fencer, secret};

const LEVELS: std::ops::RangeInclusive<u8> = 1..=9;

/// A longer one is a mistake: recovery would wait for it.
const DELAY_MAX_S: u32 = 600;

const DEVICES_MAX: usize = 16;

/// Of an option's value.
const VALUE_LENGTH_MAX: usize = 4096;

/// How many guests a refusal names.
const NAMES_MAX: usize = 8;

fn fencer(backend: &Shared) -> Fencer {
    Fencer::new(backend.state().clone(), backend.fence_agents())
}

fn event(backend: &Shared, kind: EventKind, host: &HostName, message: String) -> Event {
    Event {
        id: EventId(Uuid::now_v7()),
        at: Timestamp::now(),
        severity: if kind == EventKind::HostFencing { Severity::Warning } else { Severity::Info },
        kind,
        subject: format!("host/{host}"),
        seen_by: backend.me().clone(),
        message,
    }
}

pub async fn add(
    State(backend): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Body(request): Body<AddFenceDevice>,
) -> Answer<(StatusCode, Json<FenceDeviceView>)> {
    let host: HostName = named(&name, "host")?;
    let asked = format!("give the host '{host}' the fence device '{}'", request.name);
    let (device, secrets) = device_of(&request, &asked)?;
    may_be_added(&backend.state().view(), &host, &request.name, &device, &asked)?;
    check_options(&backend, &device, &secrets, &asked).await?;
    let kept = secret(&device, &secrets);
    let message = format!(
        "{} gave {host} the fence device '{}' ({}, level {})",
        caller.name(),
        request.name,
        device.agent,
        device.level
    );
    let told = event(&backend, EventKind::FenceDevicesChanged, &host, message);
    let draft = |cache: &Cache| {
        may_be_added(cache.view(), &host, &request.name, &device, &asked)?;
        let mut devices = devices_of(cache.view(), &host);
        devices.devices.insert(request.name.clone(), device.clone());
        let mut txn = cache.txn();
        txn.put(&devices).create(&told);
        if !device.secrets.is_empty() {
            txn.create(&kept);
        }
        commit::built(&mut txn, &asked)
    };
    let there = |view: &ClusterView| devices_of(view, &host).devices.get(&request.name) == Some(&device);
    if !request.force {
        // The secrets are in no record yet.
        check_answer(&backend, &host, &device, &secrets, &asked).await?;
    }
    commit::change(&*backend, &asked, draft, there).await?;
    Ok((StatusCode::CREATED, Json(FenceDeviceView { host, name: request.name, device })))
}

fn devices_of(view: &ClusterView, host: &HostName) -> FenceDevices {
    view.fence_devices.get(host).cloned().unwrap_or_else(|| FenceDevices::none(host.clone()))
}

/// The device as it is to be kept, and apart from it what nobody shall see.
fn device_of(request: &AddFenceDevice, asked: &str) -> Answer<(FenceDevice, BTreeMap<String, String>)> {
    checks::in_range(u32::from(request.level), 1..=u32::from(*LEVELS.end()), "that level", asked)?;
    checks::in_range(request.delay_s, 0..=DELAY_MAX_S, &format!("a delay of {} s", request.delay_s), asked)?;
    if let Some(twice) = request.options.keys().find(|name| request.secrets.contains_key(*name)) {
        let why = format!("'{twice}' is given twice, as an option and as a secret");
        return Err(Refused::invalid(asked, why, "give it once"));
    }
    let (hidden, options): (BTreeMap<_, _>, BTreeMap<_, _>) =
        request.options.clone().into_iter().partition(|(name, _)| is_secret(name));
    let secrets: BTreeMap<String, String> = request.secrets.clone().into_iter().chain(hidden).collect();
    if let Some((name, _)) = options.iter().chain(&secrets).find(|(_, value)| value.len() > VALUE_LENGTH_MAX)
    {
        let instead = format!("use at most {VALUE_LENGTH_MAX} bytes");
        return Err(Refused::invalid(asked, format!("the value of '{name}' is too long"), instead));
    }
    let device = FenceDevice {
        id: Uuid::new_v4(),
        agent: request.agent.clone(),
        options,
        secrets: secrets.keys().cloned().collect(),
        level: request.level,
        delay_s: request.delay_s,
    };
    Ok((device, secrets))
}

fn may_be_added(
    view: &ClusterView,
    host: &HostName,
    name: &DeviceName,
    device: &FenceDevice,
    asked: &str,
) -> Answer<()> {
    if !view.hosts.contains_key(host) {
        return Err(Refused::not_found(asked, "host", host));
    }
    let devices = devices_of(view, host).devices;
    if devices.contains_key(name) {
        let instead = format!("`kennel host fence-device remove {host} {name}` removes it");
        return Err(Refused::by_state(asked, "it has a fence device of that name", instead));
    }
    if devices.len() >= DEVICES_MAX {
        let why = format!("it has {DEVICES_MAX} fence devices, which is the limit");
        return Err(Refused::by_state(asked, why, "remove one"));
    }
    let same = |other: &FenceDevice| other.agent == device.agent && other.options == device.options;
    let others = view.fence_devices.values().filter(|other| other.host != *host);
    let taken = others.flat_map(|other| other.devices.iter().map(move |found| (&other.host, found)));
    if let Some((other, (found, _))) = taken.into_iter().find(|(_, (_, known))| same(known)) {
        let why = format!("it is the same as '{found}' of {other}, so it would take the power of {other}");
        return Err(Refused::by_state(asked, why, "name the address, or the plug, that is this host's"));
    }
    Ok(())
}

/// Whether the agent is here, and knows what it is told.
async fn check_options(
    backend: &Shared,
    device: &FenceDevice,
    secrets: &BTreeMap<String, String>,
    asked: &str,
) -> Answer<()> {
    let description = backend.fence_agents().describe(&device.agent).await.map_err(|error| {
        let why = format!("{}: {error}", backend.me());
        Refused::invalid(asked, why, "install it on every host, for any of them may be the leader")
    })?;
    let mut all = device.options.clone();
    all.extend(secrets.iter().map(|(name, value)| (name.clone(), value.clone())));
    let problems = description.problems(&all);
    if problems.is_empty() {
        return Ok(());
    }
    let instead = format!("`{} -o metadata` lists its options and actions", device.agent);
    Err(Refused::invalid(asked, problems.join("; "), instead))
}

/// Whether the device says of a host what is true of it.
async fn check_answer(
    backend: &Shared,
    host: &HostName,
    device: &FenceDevice,
    secrets: &BTreeMap<String, String>,
    asked: &str,
) -> Answer<()> {
    let mut options = device.options.clone();
    options.extend(secrets.iter().map(|(name, value)| (name.clone(), value.clone())));
    let told = host::fence::Device { agent: device.agent.clone(), options };
    let instead = "see to it that the device answers, or add --force to name it all the same";
    match backend.fence_agents().status(&told).await {
        Err(error) => Err(Refused::by_state(asked, format!("asked from {}: {error}", backend.me()), instead)),
        Ok(Power::Off) if backend.state().read().view().is_live(host) => {
            let why = format!("it says that there is no power, and {host} is online: it is another host's");
            Err(Refused::by_state(asked, why, "name the address, or the plug, that is this host's"))
        }
        Ok(Power::On | Power::Off) => Ok(()),
    }
}

pub async fn remove(
    State(backend): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path((name, device)): Path<(String, String)>,
) -> Answer<Json<serde_json::Value>> {
    let host: HostName = named(&name, "host")?;
    let device: DeviceName = named(&device, "fence device")?;
    let asked = format!("remove the fence device '{device}' of '{host}'");
    let message = format!("{} removed the fence device '{device}' of {host}", caller.name());
    let told = event(&backend, EventKind::FenceDevicesChanged, &host, message);
    let draft = |cache: &Cache| {
        let view = cache.view();
        if !view.hosts.contains_key(&host) {
            return Err(Refused::not_found(&asked, "host", &host));
        }
        let mut devices = devices_of(view, &host);
        let Some(removed) = devices.devices.remove(&device) else {
            let why = format!("{host} has no fence device '{device}'");
            let instead = format!("`kennel host fence-device list {host}` shows those that it has");
            return Err(Refused::by_state(&asked, why, instead));
        };
        let mut txn = cache.txn();
        txn.put(&devices).create(&told);
        if !removed.secrets.is_empty() {
            txn.delete(&keys::secret(&removed.secret_name()));
        }
        commit::built(&mut txn, &asked)
    };
    let gone = |view: &ClusterView| !devices_of(view, &host).devices.contains_key(&device);
    commit::change(&*backend, &asked, draft, gone).await?;
    Ok(Json(serde_json::json!({})))
}

/// Enters that somebody wants a host's power to be taken. The leader does it.
pub async fn fence(
    State(backend): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Body(request): Body<FenceHost>,
) -> Answer<(StatusCode, Json<Fence>)> {
    let host: HostName = named(&name, "host")?;
    let asked = format!("fence the host '{host}'");
    let said = request.why.clone().filter(|why| !why.trim().is_empty());
    let why = said.unwrap_or_else(|| plan::fence::unsaid(&backend.state().view(), &host));
    if why.len() > VALUE_LENGTH_MAX || why.contains(char::is_control) {
        return Err(Refused::invalid(
            &asked,
            "the reason is too long, or has several lines",
            "use one sentence",
        ));
    }
    let mut wanted = Fence {
        host: host.clone(),
        id: Uuid::new_v4(),
        boot_id: may_be_fenced(&backend.state().view(), &host, request.force, &asked)?,
        asked_by: caller.name(),
        by_hand: true,
        why,
        since: Timestamp::now(),
        tries: 0,
        tried_at: None,
        problem: None,
        off: None,
        reset: None,
    };
    let message = format!("{} asked for the power of {host} to be taken: {}", wanted.asked_by, wanted.why);
    let told = event(&backend, EventKind::HostFencing, &host, message);
    let id = wanted.id;
    let draft = |cache: &Cache| {
        wanted.boot_id = may_be_fenced(cache.view(), &host, request.force, &asked)?;
        let mut txn = cache.txn();
        txn.put(&wanted).unchanged(&keys::session(&host)).create(&told);
        commit::built(&mut txn, &asked)
    };
    let there = |view: &ClusterView| view.fences.get(&host).is_some_and(|fence| fence.id == id);
    commit::change(&*backend, &asked, draft, there).await?;
    Ok((StatusCode::ACCEPTED, Json(wanted)))
}

/// The boot that is to end.
fn may_be_fenced(view: &ClusterView, host: &HostName, force: bool, asked: &str) -> Answer<model::BootId> {
    if !view.hosts.contains_key(host) {
        return Err(Refused::not_found(asked, "host", host));
    }
    if devices_of(view, host).devices.is_empty() {
        let instead = format!("name one with `kennel host fence-device add {host} …`");
        return Err(Refused::by_state(asked, "it has no fence device", instead));
    }
    match view.fences.get(host) {
        Some(fence) if fence.off.is_some() && !view.is_live(host) => {
            let instead = format!("`kennel host unfence {host}` gives it its power back");
            return Err(Refused::by_state(asked, "its power is off", instead));
        }
        Some(fence) if !fence.is_over() => {
            let why = format!("its power is being taken already: {} wants it", fence.asked_by);
            return Err(Refused::by_state(
                asked,
                why,
                format!("`kennel host show {host}` tells how it goes"),
            ));
        }
        Some(_) | None => {}
    }
    let guests = running_on(view, host);
    if view.is_live(host) && !guests.is_empty() && !force {
        let names: Vec<&str> = guests.iter().take(NAMES_MAX).map(String::as_str).collect();
        let why = format!("it is online, and guests run on it: {}", names.join(", "));
        let instead =
            format!("`kennel host drain {host}` moves them off; --force takes the power of all of them");
        return Err(Refused::by_state(asked, why, instead));
    }
    let session = view.sessions.get(host).map(|session| session.boot_id);
    let boot = view.host_reports.get(host).map(|report| report.boot_id).or(session);
    boot.ok_or_else(|| {
        Refused::by_state(asked, "it has never been heard of", "there is nothing to prove about it")
    })
}

fn running_on(view: &ClusterView, host: &HostName) -> Vec<String> {
    let owned = view.assignments.values().filter(|assignment| assignment.host == *host);
    let specs = owned.filter_map(|assignment| view.guests.get(&assignment.guest));
    let runs = specs.filter(|spec| spec.power == PowerWish::Running);
    runs.map(|spec| spec.name.to_string()).collect()
}

/// Gives a host its power back. Goes on when whoever asked goes away.
pub async fn unfence(
    State(backend): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Answer<Json<FenceTestView>> {
    let host: HostName = named(&name, "host")?;
    let asked = format!("unfence the host '{host}'");
    let devices = with_devices(&backend, &host, &asked)?;
    if let Some(fence) = backend.state().read().view().fences.get(&host)
        && !fence.is_over()
    {
        let why = format!("its power is being taken: {} wants it", fence.asked_by);
        let instead = format!("wait until that is over; `kennel host show {host}` tells how it goes");
        return Err(Refused::by_state(&asked, why, instead));
    }
    let taken_by = {
        let cache = backend.state().read();
        let fence = cache.view().fences.get(&host);
        fence.and_then(|fence| fence.off.as_ref()).map(|off| off.devices.clone()).unwrap_or_default()
    };
    let given = tokio::spawn({
        let (fencer, devices) = (fencer(&backend), devices.clone());
        async move { fencer.give_power(&devices, &taken_by).await }
    });
    let outcome = given.await.map_err(|error| Refused::failed(&asked, error))?;
    let instead = format!("`kennel host fence-test {host}` asks each device how it is");
    let names = outcome.map_err(|why| Refused::by_state(&asked, why, instead))?;
    let message = format!("{} gave {host} its power back through {}", caller.name(), joined(&names));
    tell(&backend, &asked, event(&backend, EventKind::HostUnfenced, &host, message)).await?;
    let devices = FenceDevices {
        devices: devices.devices.into_iter().filter(|(name, _)| names.contains(name)).collect(),
        host,
    };
    Ok(Json(ask_all(&backend, devices).await))
}

fn joined(names: &BTreeSet<DeviceName>) -> String {
    let names: Vec<&str> = names.iter().map(DeviceName::as_str).collect();
    names.join(", ")
}

/// Asks every device of a host whether there is power.
pub async fn test(
    State(backend): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Answer<Json<FenceTestView>> {
    let host: HostName = named(&name, "host")?;
    let asked = format!("test the fence devices of '{host}'");
    let devices = with_devices(&backend, &host, &asked)?;
    let view = ask_all(&backend, devices).await;
    let bad: Vec<&str> = view
        .devices
        .iter()
        .filter(|device| device.problem.is_some())
        .map(|device| device.name.as_str())
        .collect();
    let how = if bad.is_empty() { "all answer".to_owned() } else { format!("wrong: {}", bad.join(", ")) };
    let message = format!("{} tested the fence devices of {host}: {how}", caller.name());
    tell(&backend, &asked, event(&backend, EventKind::FenceDevicesTested, &host, message)).await?;
    Ok(Json(view))
}

fn with_devices(backend: &Shared, host: &HostName, asked: &str) -> Answer<FenceDevices> {
    let view = backend.state().view();
    if !view.hosts.contains_key(host) {
        return Err(Refused::not_found(asked, "host", host));
    }
    let devices = devices_of(&view, host);
    if devices.devices.is_empty() {
        let instead = format!("name one with `kennel host fence-device add {host} …`");
        return Err(Refused::by_state(asked, "it has no fence device", instead));
    }
    Ok(devices)
}

async fn ask_all(backend: &Shared, devices: FenceDevices) -> FenceTestView {
    let fencer = fencer(backend);
    let live = backend.state().read().view().is_live(&devices.host);
    let answers = futures::future::join_all(devices.devices.iter().map(|(name, device)| async {
        let answer = fencer.status(device).await;
        let (powered, problem) = match answer {
            Ok(Power::On) => (Some(true), None),
            Ok(Power::Off) if live => {
                (Some(false), Some("it says that there is no power, and the host is online".to_owned()))
            }
            Ok(Power::Off) => (Some(false), None),
            Err(why) => (None, Some(why)),
        };
        DeviceTestView {
            name: name.clone(),
            agent: device.agent.clone(),
            level: device.level,
            powered,
            problem,
        }
    }));
    let devices_view = answers.await;
    FenceTestView { host: devices.host, asked_by: backend.me().clone(), devices: devices_view }
}

/// Enters an event that stands for what was done.
async fn tell(backend: &Shared, asked: &str, told: Event) -> Answer<()> {
    let draft = |cache: &Cache| {
        let mut txn = cache.txn();
        txn.create(&told);
        commit::built(&mut txn, asked)
    };
    commit::change(&**backend, asked, draft, |view| view.events.contains_key(&told.id)).await
}
