//! What an operator says of a host: where it stands, what it keeps for itself, and whether guests shall leave it.
//!
//! A duty and the job that brings it about are entered in one transaction. The duty stays until the host is resumed,
//! whatever becomes of the job: nothing comes to a host that is to be empty.

use api::{ChangeDuty, ChangeHost, ChangeHostSettings, ConfirmedView, DutyAnswer, HostView, JobView};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use jiff::Timestamp;
use model::{
    BootId, ClusterView, ConfirmedDead, Duty, Event, EventId, EventKind, Host, HostName, JobKind, JobSpec,
    Severity,
};
use store::{Cache, TxnBuilder, keys};
use uuid::Uuid;

use super::answer::{Answer, Body, Refused, named};
use super::auth::Caller;
use super::{Shared, checks, commit, planner, settings};

/// A speed of 100 is a standard host's; beyond these bounds somebody means something else.
const SPEED_PERCENT: std::ops::RangeInclusive<u32> = 10..=1000;

/// A zone's name stands in tables.
const ZONE_LENGTH_MAX: usize = 63;

pub async fn change(
    State(backend): State<Shared>,
    Path(name): Path<String>,
    Body(request): Body<ChangeHost>,
) -> Answer<Json<HostView>> {
    let name: HostName = named(&name, "host")?;
    let asked = format!("change the host '{name}'");
    check(&request, &asked)?;
    let draft = |cache: &Cache| {
        let missing = || Refused::not_found(&asked, "host", &name);
        let mut host = cache.view().hosts.get(&name).ok_or_else(missing)?.clone();
        apply(&request, &mut host);
        checks::number_of_tags(&host.tags, &asked)?;
        check_reserve(cache.view(), &host, &asked)?;
        let mut txn = cache.txn();
        txn.put(&host);
        commit::built(&mut txn, &asked)
    };
    let changed = |view: &ClusterView| {
        view.hosts.get(&name).is_some_and(|host| {
            let mut wanted = host.clone();
            apply(&request, &mut wanted);
            wanted == *host
        })
    };
    commit::change(&*backend, &asked, draft, changed).await?;
    let view = backend.state().view();
    HostView::find(&view, &name).map(Json).ok_or_else(|| Refused::not_found(&asked, "host", &name))
}

fn check(request: &ChangeHost, asked: &str) -> Answer<()> {
    if *request == ChangeHost::default() {
        return Err(Refused::invalid(asked, "nothing is to be different", "name what shall be"));
    }
    checks::tags(request.tags.add.iter(), asked)?;
    if let Some(zone) = &request.zone {
        let wrong = zone.is_empty() || zone.len() > ZONE_LENGTH_MAX || zone.contains(char::is_whitespace);
        if wrong {
            let instead = format!("use 1 to {ZONE_LENGTH_MAX} characters without blanks");
            return Err(Refused::invalid(asked, format!("'{zone}' is no name for a zone"), instead));
        }
    }
    let ChangeHostSettings { speed_percent, memory_percent, vcpus_percent, .. } = &request.settings;
    if let Some(speed) = speed_percent {
        checks::in_range(*speed, SPEED_PERCENT, &format!("a speed of {speed} %"), asked)?;
    }
    for percent in [memory_percent, vcpus_percent].into_iter().flatten().flatten() {
        checks::in_range(*percent, settings::PERCENT, &format!("giving {percent} % to guests"), asked)?;
    }
    Ok(())
}

fn apply(request: &ChangeHost, host: &mut Host) {
    let ChangeHost { zone, tags, settings: change } = request.clone();
    host.zone = zone.unwrap_or_else(|| host.zone.clone());
    host.tags.retain(|tag| !tags.remove.contains(tag));
    host.tags.extend(tags.add);
    let settings = &mut host.settings;
    settings.reserved_memory = change.reserved_memory.unwrap_or(settings.reserved_memory);
    settings.reserved_disk = change.reserved_disk.unwrap_or(settings.reserved_disk);
    settings.reserved_millicores = change.reserved_millicores.unwrap_or(settings.reserved_millicores);
    settings.speed_percent = change.speed_percent.unwrap_or(settings.speed_percent);
    settings.memory_percent = change.memory_percent.unwrap_or(settings.memory_percent);
    settings.vcpus_percent = change.vcpus_percent.unwrap_or(settings.vcpus_percent);
}

/// A host that keeps everything for itself is one that is drained, which is said in another way.
fn check_reserve(view: &ClusterView, host: &Host, asked: &str) -> Answer<()> {
    let Some(report) = view.host_reports.get(&host.name) else { return Ok(()) };
    let kept = &host.settings;
    let all = if kept.reserved_memory >= report.memory {
        format!("{} of memory are all that it has", report.memory)
    } else if kept.reserved_disk >= report.disk {
        format!("{} of disk are all that it has", report.disk)
    } else if u64::from(kept.reserved_millicores) >= u64::from(report.cpus) * 1000 {
        format!("{} cores are all that it has", report.cpus)
    } else {
        return Ok(());
    };
    let instead = format!("leave something for guests, or empty it with `kennel host drain {}`", host.name);
    Err(Refused::by_state(asked, all, instead))
}

pub async fn duty(
    State(backend): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Body(request): Body<ChangeDuty>,
) -> Answer<(StatusCode, Json<DutyAnswer>)> {
    let name: HostName = named(&name, "host")?;
    let asked = infinitive(&name, request.duty);
    let warnings = match request.duty {
        Duty::Normal => Vec::new(),
        Duty::Draining | Duty::Maintenance => {
            planner::may_be_emptied(&backend, &name, &request, &asked).await?
        }
    };
    let job = commit::new_job(JobKind::DrainHost { host: name.clone() }, &caller);
    let moves = request.duty != Duty::Normal;
    let draft = |cache: &Cache| {
        let mut txn = cache.txn();
        enter_duty(cache.view(), &name, request.duty, &asked, &mut txn)?;
        if moves {
            txn.create(&job);
        }
        commit::built(&mut txn, &asked)
    };
    let happened = |view: &ClusterView| match view.hosts.get(&name) {
        Some(host) if moves => host.duty == request.duty && view.jobs.contains_key(&job.id),
        Some(host) => host.duty == Duty::Normal,
        None => false,
    };
    commit::change(&*backend, &asked, draft, happened).await?;
    let view = backend.state().view();
    let host = HostView::find(&view, &name).ok_or_else(|| Refused::not_found(&asked, "host", &name))?;
    let status = if moves { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, Json(DutyAnswer { host, job: moves.then(|| JobView::of(&view, &job)), warnings })))
}

fn infinitive(host: &HostName, duty: Duty) -> String {
    match duty {
        Duty::Normal => format!("resume the host '{host}'"),
        Duty::Draining => format!("drain the host '{host}'"),
        Duty::Maintenance => format!("put the host '{host}' into maintenance"),
    }
}

/// Writes the duty, and ends what brought about another one.
fn enter_duty(
    view: &ClusterView,
    name: &HostName,
    duty: Duty,
    asked: &str,
    txn: &mut TxnBuilder<'_>,
) -> Answer<()> {
    let host = view.hosts.get(name).ok_or_else(|| Refused::not_found(asked, "host", name))?;
    let under_way: Vec<&JobSpec> = open_drains(view, name).collect();
    match (duty, under_way.first()) {
        (Duty::Normal, _) if host.duty == Duty::Normal => {
            let instead = format!("`kennel host show {name}` tells how it is");
            return Err(Refused::by_state(asked, "it has its normal duty", instead));
        }
        (Duty::Draining | Duty::Maintenance, Some(job)) if host.duty == duty => {
            let why = "its guests are leaving it already";
            return Err(Refused::by_state(
                asked,
                why,
                format!("`kennel job watch {}` shows how far it is", job.id),
            ));
        }
        (Duty::Normal | Duty::Draining | Duty::Maintenance, _) => {}
    }
    txn.put(&Host { duty, ..host.clone() });
    for job in under_way {
        txn.put(&JobSpec { cancel: true, ..job.clone() });
    }
    Ok(())
}

fn open_drains<'a>(view: &'a ClusterView, host: &'a HostName) -> impl Iterator<Item = &'a JobSpec> {
    let ended = |job: &JobSpec| view.job_reports.get(&job.id).is_some_and(|r| r.state.is_terminal());
    view.jobs.values().filter(move |job| {
        matches!(&job.kind, JobKind::DrainHost { host: other } if other == host) && !ended(job)
    })
}

/// Takes down somebody's word that a lost host runs nothing any more. It is written together with the event that
/// tells of it, and only while the host has no session.
pub async fn confirm_dead(
    State(backend): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Answer<Json<ConfirmedView>> {
    let name: HostName = named(&name, "host")?;
    let asked = format!("confirm that the host '{name}' is dead");
    let (at, by, event) = (Timestamp::now(), caller.name(), EventId(Uuid::now_v7()));
    let draft = |cache: &Cache| {
        let view = cache.view();
        let boot_id = is_lost(view, &name, &asked)?;
        let mut txn = cache.txn();
        txn.absent(&keys::session(&name));
        if !view.confirmed_dead.contains_key(&name) {
            txn.create(&ConfirmedDead { host: name.clone(), boot_id, by: by.clone(), at });
            txn.create(&Event {
                id: event,
                at,
                severity: Severity::Warning,
                kind: EventKind::HostConfirmedDead,
                subject: format!("host/{name}"),
                seen_by: backend.me().clone(),
                message: format!("{by} confirmed that {name} is dead: what it ran may be started elsewhere"),
            });
        }
        commit::built(&mut txn, &asked)
    };
    commit::change(&*backend, &asked, draft, |view| view.confirmed_dead.contains_key(&name)).await?;
    let view = backend.state().view();
    let missing = "it was heard again at this very moment";
    let word = view.confirmed_dead.get(&name).cloned().ok_or_else(|| {
        Refused::by_state(&asked, missing, format!("`kennel host show {name}` tells how it is"))
    })?;
    let owned = view.assignments.values().filter(|assignment| assignment.host == name);
    let guests = owned.filter_map(|assignment| view.guests.get(&assignment.guest));
    let guests = guests.filter(|guest| guest.is_shared()).map(|guest| guest.name.clone()).collect();
    Ok(Json(ConfirmedView { word, guests }))
}

/// The boot in which a lost host was heard last.
fn is_lost(view: &ClusterView, name: &HostName, asked: &str) -> Answer<BootId> {
    if !view.hosts.contains_key(name) {
        return Err(Refused::not_found(asked, "host", name));
    }
    if view.is_live(name) {
        let instead = format!("`kennel host drain {name}` moves its guests elsewhere");
        return Err(Refused::by_state(asked, "its session is live: it is heard of", instead));
    }
    view.host_reports.get(name).map(|report| report.boot_id).ok_or_else(|| {
        Refused::by_state(
            asked,
            "it has never been heard of, so it runs nothing",
            "there is nothing to confirm",
        )
    })
}
