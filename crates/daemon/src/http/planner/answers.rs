//! Questions to the planner, answered as they are asked: why, balance, capacity, what if, reboot, dump.

use api::{
    AddHostView, ApplyBalance, BalanceView, CapacityView, ClusterDump, FitsView, JobView, LossView, MoveView,
    OutlookView, RebootGroupView, RebootView, RestartView, RoomView, WhyView,
};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use jiff::Timestamp;
use model::{Bytes, ClusterView, GuestName, HostName, HostSettings, JobKind, JobSpec, Pool};
use plan::capacity::{self, Fits, Outlook, Shape};
use plan::inventory::{GUEST_OVERHEAD, Inventory};
use plan::layout::Layout;
use plan::proposal::{self, PlannedMove, Proposal};
use plan::reboot::{self, Members, RebootGroup};
use plan::snapshot::{GuestIx, HostDuty, HostIx, HostRoom, Load, Storage};
use serde::Deserialize;

use super::{Shared, think};
use crate::http::answer::{Answer, Body, Refused, named};
use crate::http::auth::Caller;
use crate::http::commit;

/// What a new guest is without options.
const MEMORY_DEFAULT: Bytes = Bytes::mib(512);
const DISK_DEFAULT: Bytes = Bytes::gib(10);

/// How many moves of another proposal a refusal names.
const MOVES_NAMED_MAX: usize = 4;

pub async fn why(State(backend): State<Shared>, Path(name): Path<String>) -> Answer<Json<WhyView>> {
    let guest: GuestName = named(&name, "guest")?;
    let asked = format!("explain the place of the guest '{guest}'");
    let missing = Refused::not_found(&asked, "guest", &guest);
    let view = backend.state().view();
    think(&backend, &asked, move |inventory| {
        let found = plan::why::why(&inventory, &guest).ok_or(missing)?;
        let plan::why::Why { guest, here, because, others, rules, cannot_move } = found;
        let healing = plan::heal::explain(&view, &inventory, &guest, Timestamp::now());
        Ok(Json(WhyView { guest, here, because, others, rules, cannot_move, healing }))
    })
    .await
}

/// Why a guest's volumes have one replica. None: they have all that they should.
pub async fn healing(backend: &Shared, guest: GuestName, asked: &str) -> Answer<Option<String>> {
    let view = backend.state().view();
    think(backend, asked, move |inventory| {
        Ok(plan::heal::explain(&view, &inventory, &guest, Timestamp::now()))
    })
    .await
}

pub async fn balance(State(backend): State<Shared>) -> Answer<Json<BalanceView>> {
    think(&backend, "show the balance", |inventory| {
        let proposal = proposal::propose(&inventory, proposal::Options::default());
        let job = open_balance(inventory.view()).map(|job| job.id);
        let mode = inventory.settings().balance;
        let digest = proposal.digest();
        let Proposal { score_before, score_after, moves, remaining, held, unmeasured } = proposal;
        let moves = moves.into_iter().map(move_view).collect();
        Ok(Json(BalanceView {
            mode,
            digest,
            score_before,
            score_after,
            moves,
            remaining,
            held,
            unmeasured,
            job,
        }))
    })
    .await
}

fn move_view(step: PlannedMove) -> MoveView {
    MoveView {
        guest: step.guest,
        from: step.from,
        to: step.to,
        steps: step.steps,
        score_before: step.score_before,
        score_after: step.score_after,
        gain: step.gain,
        cost: step.cost,
        memory_to_send: step.memory_to_send,
        disk_to_copy: step.disk_to_copy,
        why: step.why,
    }
}

fn open_balance(view: &ClusterView) -> Option<&JobSpec> {
    let ended = |job: &JobSpec| view.job_reports.get(&job.id).is_some_and(|r| r.state.is_terminal());
    view.jobs.values().find(|job| matches!(job.kind, JobKind::Balance { .. }) && !ended(job))
}

pub async fn apply_balance(
    State(backend): State<Shared>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<ApplyBalance>,
) -> Answer<(StatusCode, Json<JobView>)> {
    let asked = "balance the cluster";
    let propose = |inventory| Ok(proposal::propose(&inventory, proposal::Options::default()));
    let proposal = think(&backend, asked, propose).await?;
    if proposal.digest() != request.digest {
        let why = format!("the proposal is another one by now: {}", in_short(&proposal));
        return Err(Refused::by_state(asked, why, "look at it with `kennel balance show`, and apply that"));
    }
    if proposal.moves.is_empty() {
        let why = "no move would gain more than it costs";
        return Err(Refused::by_state(asked, why, "there is nothing to do"));
    }
    let job = commit::new_job(JobKind::Balance { moves: proposal.places() }, &caller);
    let view = commit::start_job(&backend, asked, &job, |cache, _| match open_balance(cache.view()) {
        None => Ok(()),
        Some(open) => {
            let instead = format!("`kennel job watch {}` shows how far it is", open.id);
            Err(Refused::by_state(asked, "it is being balanced already", instead))
        }
    })
    .await?;
    Ok((StatusCode::ACCEPTED, Json(view)))
}

fn in_short(proposal: &Proposal) -> String {
    let step = |step: &PlannedMove| format!("{} from {} to {}", step.guest, step.from, step.to);
    let shown: Vec<String> = proposal.moves.iter().take(MOVES_NAMED_MAX).map(step).collect();
    match (shown.len(), proposal.moves.len().saturating_sub(MOVES_NAMED_MAX)) {
        (0, _) => "nothing is to be moved".to_owned(),
        (_, 0) => shown.join(", "),
        (_, more) => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Sizes as people write them, or plain numbers of bytes.
#[derive(Debug, Default, Deserialize)]
pub struct Sizes {
    memory: Option<String>,
    disk: Option<String>,
    vcpus: Option<String>,
    cores: Option<String>,
    pool: Option<String>,
    zone: Option<String>,
}

fn read<T: std::str::FromStr<Err: std::fmt::Display>>(
    text: Option<&String>,
    name: &str,
    asked: &str,
) -> Answer<Option<T>> {
    let wrong = |error: T::Err| Refused::invalid(asked, format!("{name}: {error}"), "write another value");
    text.map(|text| text.parse().map_err(wrong)).transpose()
}

fn shape(sizes: &Sizes, hosts: usize, asked: &str) -> Answer<(Shape, Pool)> {
    let default = if hosts >= Pool::Mirror.replicas() { Pool::Mirror } else { Pool::Local };
    let pool = read(sizes.pool.as_ref(), "pool", asked)?.unwrap_or(default);
    let memory: Bytes = read(sizes.memory.as_ref(), "memory", asked)?.unwrap_or(MEMORY_DEFAULT);
    let disk: Bytes = read(sizes.disk.as_ref(), "disk", asked)?.unwrap_or(DISK_DEFAULT);
    let vcpus = read(sizes.vcpus.as_ref(), "vcpus", asked)?.unwrap_or(1);
    crate::http::checks::guest_size(memory, vcpus, asked)?;
    let storage = match pool {
        Pool::Local => Storage::Local,
        Pool::Mirror => Storage::Mirrored,
        Pool::Shared => Storage::Shared,
    };
    let memory = memory.0.saturating_add(GUEST_OVERHEAD.0);
    Ok((Shape { memory, disk: disk.0, vcpus, storage }, pool))
}

fn fits_view(fits: Fits, shape: Shape, pool: Pool, host_name: impl Fn(HostIx) -> HostName) -> FitsView {
    FitsView {
        memory: Bytes(shape.memory.saturating_sub(GUEST_OVERHEAD.0)),
        disk: Bytes(shape.disk),
        vcpus: shape.vcpus,
        pool,
        count: fits.count,
        limited_by: fits.limited_by,
        count_unpromised: fits.count_unpromised,
        limited_by_unpromised: fits.limited_by_unpromised,
        by_host: fits.by_host.into_iter().map(|(host, count)| (host_name(host), count)).collect(),
        at_least: fits.at_least,
    }
}

pub async fn capacity(
    State(backend): State<Shared>,
    Query(sizes): Query<Sizes>,
) -> Answer<Json<CapacityView>> {
    let asked = "show the capacity";
    think(&backend, asked, move |inventory| capacity_view(&inventory, &sizes, asked).map(Json)).await
}

fn capacity_view(inventory: &Inventory, sizes: &Sizes, asked: &str) -> Answer<CapacityView> {
    let (shape, pool) = shape(sizes, inventory.snapshot.hosts.len(), asked)?;
    let survey = capacity::survey(&inventory.snapshot);
    let fits = capacity::fits(&inventory.snapshot, shape);
    Ok(CapacityView {
        survive: inventory.settings().survive,
        is_kept: survey.is_kept(),
        problems: capacity::problems(&survey),
        fits: fits_view(fits, shape, pool, |host| inventory.host_name(host).clone()),
        room: rooms(inventory),
        hosts: survey.hosts.into_iter().map(outlook).collect(),
        zones: survey.domains.into_iter().map(outlook).collect(),
    })
}

fn rooms(inventory: &Inventory) -> Vec<RoomView> {
    let layout = Layout::new(&inventory.snapshot);
    let view = |host: HostIx| {
        let (room, given) = (inventory.snapshot.host(host), layout.given(host));
        RoomView {
            host: inventory.host_name(host).clone(),
            memory: Bytes(room.memory),
            memory_given: Bytes(given.memory),
            memory_kept: Bytes(layout.takeover(host).0),
            disk: Bytes(room.disk),
            disk_given: Bytes(given.disk),
            vcpus: room.vcpus_max as u32,
            vcpus_given: given.vcpus,
            takes_nothing: room.duty.reason().map(str::to_owned),
        }
    };
    inventory.snapshot.host_indices().map(view).collect()
}

fn outlook(outlook: Outlook) -> OutlookView {
    OutlookView {
        name: outlook.name,
        restarts: outlook.restarts as u64,
        left_out: outlook.left_out,
        local: outlook.local as u64,
        degraded: outlook.degraded as u64,
        unaffected: outlook.unaffected as u64,
    }
}

pub async fn host_loss(State(backend): State<Shared>, Path(name): Path<String>) -> Answer<Json<LossView>> {
    let host: HostName = named(&name, "host")?;
    let asked = format!("tell what the loss of the host '{host}' would do");
    let missing = Refused::not_found(&asked, "host", &host);
    think(&backend, &asked, move |inventory| {
        let index = inventory.host_ix(&host).ok_or(missing)?;
        Ok(Json(loss_view(&inventory, host, index)))
    })
    .await
}

fn loss_view(inventory: &Inventory, host: HostName, index: HostIx) -> LossView {
    let loss = capacity::loss(&inventory.snapshot, &[index]);
    let guest = |guest: &GuestIx| inventory.guest_name(*guest).clone();
    let left_out = loss.without_place.iter().chain(&loss.without_replica);
    LossView {
        host,
        restarts: restarts(inventory, &loss.restarts),
        left_out: left_out.map(|(index, why)| (guest(index), why.clone())).collect(),
        local: loss.local.iter().map(guest).collect(),
        stopped: loss.stopped.iter().map(guest).collect(),
        degraded: loss.degraded.iter().map(guest).collect(),
        unaffected: loss.unaffected as u64,
    }
}

fn restarts(inventory: &Inventory, restarts: &[(GuestIx, HostIx)]) -> Vec<RestartView> {
    let view = |(guest, host): &(GuestIx, HostIx)| RestartView {
        guest: inventory.guest_name(*guest).clone(),
        on: inventory.host_name(*host).clone(),
    };
    restarts.iter().map(view).collect()
}

pub async fn add_host(
    State(backend): State<Shared>,
    Query(sizes): Query<Sizes>,
) -> Answer<Json<AddHostView>> {
    let asked = "tell what another host would bring";
    think(&backend, asked, move |inventory| add_host_view(&inventory, &sizes, asked).map(Json)).await
}

fn add_host_view(inventory: &Inventory, sizes: &Sizes, asked: &str) -> Answer<AddHostView> {
    let missing = |name: &str| {
        let why = format!("nothing is said of its {name}");
        Refused::invalid(asked, why, "name its memory, its disk and its cores")
    };
    let memory: Bytes = read(sizes.memory.as_ref(), "memory", asked)?.ok_or_else(|| missing("memory"))?;
    let disk: Bytes = read(sizes.disk.as_ref(), "disk", asked)?.ok_or_else(|| missing("disk"))?;
    let cores: u32 = read(sizes.cores.as_ref(), "cores", asked)?.ok_or_else(|| missing("cores"))?;
    let name = free_name(inventory, asked)?;
    let zone = sizes.zone.clone().unwrap_or_else(|| name.to_string());
    let room = new_room(inventory, name.to_string(), memory, disk, cores);
    let guest = Sizes { pool: sizes.pool.clone(), ..Sizes::default() };
    let (shape, pool) = shape(&guest, inventory.snapshot.hosts.len() + 1, asked)?;
    let now = |host: HostIx| inventory.host_name(host).clone();
    // Hosts are in the order of their names, the new one among them.
    let mut names: Vec<HostName> = inventory.snapshot.host_indices().map(now).chain([name]).collect();
    names.sort();
    let then = |host: HostIx| names[host.at()].clone();
    let brings = capacity::with_host(&inventory.snapshot, room, &[&zone], shape);
    Ok(AddHostView {
        survive: inventory.settings().survive,
        fits_before: fits_view(brings.fits_before, shape, pool, now),
        fits_after: fits_view(brings.fits_after, shape, pool, then),
        problems_before: capacity::problems(&brings.survey_before),
        problems_after: capacity::problems(&brings.survey_after),
    })
}

/// A name that no host has.
fn free_name(inventory: &Inventory, asked: &str) -> Answer<HostName> {
    let hosts = inventory.snapshot.hosts.len();
    let mut names = (1..=hosts + 1).filter_map(|number| match number {
        1 => "new-host".parse().ok(),
        number => format!("new-host{number}").parse().ok(),
    });
    let free = names.find(|name| inventory.host_ix(name).is_none());
    free.ok_or_else(|| Refused::failed(asked, "no name is left for it"))
}

/// What a host of this size gives under the cluster's settings, and the settings of a host that nobody has set.
fn new_room(inventory: &Inventory, name: String, memory: Bytes, disk: Bytes, cores: u32) -> HostRoom {
    let (settings, own) = (inventory.settings(), HostSettings::default());
    let percent = |amount: u64| u128::from(amount) * u128::from(settings.memory_percent) / 100;
    let given = percent(memory.0.saturating_sub(own.reserved_memory.0));
    HostRoom {
        name,
        memory: u64::try_from(given).unwrap_or(u64::MAX),
        memory_total: memory.0,
        disk: disk.0.saturating_sub(own.reserved_disk.0),
        disk_total: disk.0,
        cores: f64::from(cores),
        speed: 1.0,
        vcpus_max: f64::from(cores) * f64::from(settings.vcpus_percent) / 100.0,
        network: 0.0,
        own_load: Load::default(),
        domains: Vec::new(),
        duty: HostDuty::Takes,
    }
}

pub async fn reboot(State(backend): State<Shared>) -> Answer<Json<RebootView>> {
    think(&backend, "plan a rolling reboot", |inventory| {
        let members = Members::of(inventory.view(), &inventory);
        let name = |guest: GuestIx| inventory.guest_name(guest).clone();
        let group = |group: RebootGroup| RebootGroupView {
            hosts: group.hosts.iter().map(|host| inventory.host_name(*host).clone()).collect(),
            moves: restarts(&inventory, &group.moves),
            stops: group.stops.into_iter().map(|(guest, why)| (name(guest), why)).collect(),
            notes: group.notes,
        };
        let plan = reboot::groups(&inventory.snapshot, &members);
        Ok(Json(RebootView { groups: plan.groups.into_iter().map(group).collect() }))
    })
    .await
}

pub async fn dump(State(backend): State<Shared>) -> Answer<Json<ClusterDump>> {
    let asked = "dump the cluster";
    think(&backend, asked, move |inventory| {
        let value = serde_json::to_value(inventory.dump()).map_err(|error| Refused::failed(asked, error))?;
        Ok(Json(ClusterDump(value)))
    })
    .await
}
