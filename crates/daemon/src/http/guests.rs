//! Wishes about guests that exist, and about jobs: each changes one record and, mostly, enters a job.

use api::{ChangeGuest, GuestView, JobView};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use model::{ClusterView, GuestName, GuestPhase, GuestSpec, JobId, JobKind, PowerWish};
use serde::Deserialize;
use store::{Cache, keys};

use super::answer::{Answer, Body, Refused, named};
use super::auth::Caller;
use super::{Shared, checks, commit, planner};

type Accepted = Answer<(StatusCode, Json<JobView>)>;
type Caused = Extension<Caller>;

#[derive(Debug, Deserialize)]
pub struct StartQuery {
    /// Though the cluster could no longer survive what it promises to.
    #[serde(default)]
    force: bool,
}

pub async fn start(
    State(backend): State<Shared>,
    Extension(caller): Caused,
    Path(name): Path<String>,
    Query(query): Query<StartQuery>,
) -> Accepted {
    let guest: GuestName = named(&name, "guest")?;
    let asked = format!("start the guest '{guest}'");
    let kind = JobKind::StartGuest { guest: guest.clone() };
    let stopped = {
        let view = backend.state().view();
        view.guests.get(&guest).filter(|spec| spec.power == PowerWish::Stopped && !spec.deleting).cloned()
    };
    let warnings = match &stopped {
        Some(spec) => planner::admit_start(&backend, spec, query.force, &asked).await?,
        None => Vec::new(),
    };
    let (status, Json(view)) = wish(&backend, &caller, &asked, &guest, kind, |view, spec| {
        may_start(&asked, view, spec)?;
        spec.power = PowerWish::Running;
        spec.boot_generation += 1;
        Ok(())
    })
    .await?;
    Ok((status, Json(JobView { warnings, ..view })))
}

fn may_start(asked: &str, view: &ClusterView, spec: &GuestSpec) -> Answer<()> {
    if spec.power == PowerWish::Stopped {
        return Ok(());
    }
    let GuestView { phase, message, host, .. } = GuestView::of(view, spec);
    let restart = format!("restart it with `kennel guest restart {}`", spec.name);
    let why = match phase {
        GuestPhase::Stopped | GuestPhase::Failed => return Ok(()),
        GuestPhase::Running => "it is running already",
        GuestPhase::Paused => "it stands still until its host has room for its disk",
        GuestPhase::Preparing | GuestPhase::Starting => "it is starting already",
        // Asked to run, and still on its way down from an earlier run.
        GuestPhase::Stopping => "it is restarting already",
        GuestPhase::Deleting => "it is being deleted",
        GuestPhase::Waiting | GuestPhase::Unknown => {
            let where_to =
                host.map_or_else(|| "a host".to_owned(), |host| format!("host {host}, which is lost"));
            let message = message.unwrap_or_else(|| format!("it waits for {where_to}"));
            let why = format!("it is to run already, and cannot yet: {message}");
            return Err(Refused::by_state(asked, why, "it starts by itself as soon as it can"));
        }
    };
    Err(Refused::by_state(asked, why, restart))
}

pub async fn stop(
    State(backend): State<Shared>,
    Extension(caller): Caused,
    Path(name): Path<String>,
) -> Accepted {
    let guest: GuestName = named(&name, "guest")?;
    let asked = format!("stop the guest '{guest}'");
    let kind = JobKind::StopGuest { guest: guest.clone() };
    wish(&backend, &caller, &asked, &guest, kind, |view, spec| {
        if spec.power == PowerWish::Stopped {
            let stopped = GuestView::of(view, spec).phase == GuestPhase::Stopped;
            let why = if stopped { "it is stopped already" } else { "it is to stop already" };
            return Err(Refused::by_state(
                &asked,
                why,
                format!("look at it with `kennel guest show {guest}`"),
            ));
        }
        spec.power = PowerWish::Stopped;
        Ok(())
    })
    .await
}

pub async fn restart(
    State(backend): State<Shared>,
    Extension(caller): Caused,
    Path(name): Path<String>,
) -> Accepted {
    let guest: GuestName = named(&name, "guest")?;
    let asked = format!("restart the guest '{guest}'");
    let kind = JobKind::RestartGuest { guest: guest.clone() };
    wish(&backend, &caller, &asked, &guest, kind, |_, spec| {
        if spec.power == PowerWish::Stopped {
            let instead = format!("start it with `kennel guest start {guest}`");
            return Err(Refused::by_state(&asked, "it is stopped", instead));
        }
        spec.boot_generation += 1;
        Ok(())
    })
    .await
}

pub async fn delete(
    State(backend): State<Shared>,
    Extension(caller): Caused,
    Path(name): Path<String>,
) -> Accepted {
    let guest: GuestName = named(&name, "guest")?;
    let asked = format!("delete the guest '{guest}'");
    let kind = JobKind::DeleteGuest { guest: guest.clone() };
    wish(&backend, &caller, &asked, &guest, kind, |view, spec| {
        planner::nobody_depends_on(view, &guest, &asked)?;
        spec.deleting = true;
        spec.power = PowerWish::Stopped;
        Ok(())
    })
    .await
}

/// Changes a guest's specification and enters the job that sees it through.
async fn wish(
    backend: &Shared,
    caller: &Caller,
    asked: &str,
    guest: &GuestName,
    kind: JobKind,
    change: impl Fn(&ClusterView, &mut GuestSpec) -> Answer<()> + Send + Sync,
) -> Accepted {
    let job = commit::new_job(kind, caller);
    let view = commit::start_job(backend, asked, &job, |cache, txn| {
        must_be_whole(cache.view(), guest, asked)?;
        let missing = || Refused::not_found(asked, "guest", guest);
        let mut spec = cache.view().guests.get(guest).ok_or_else(missing)?.clone();
        if spec.deleting {
            let instead = "`kennel job list` shows how far that is";
            return Err(Refused::by_state(asked, "it is being deleted already", instead));
        }
        change(cache.view(), &mut spec)?;
        txn.put(&spec);
        Ok(())
    })
    .await?;
    Ok((StatusCode::ACCEPTED, Json(view)))
}

/// The longest that a host waits for a guest to shut down.
const STOP_TIMEOUT_MAX_S: u32 = 3600;

pub async fn change(
    State(backend): State<Shared>,
    Path(name): Path<String>,
    Body(request): Body<ChangeGuest>,
) -> Answer<Json<GuestView>> {
    let guest: GuestName = named(&name, "guest")?;
    let asked = format!("change the guest '{guest}'");
    if request == ChangeGuest::default() {
        return Err(Refused::invalid(&asked, "nothing is to be different", "name what shall be"));
    }
    let draft = |cache: &Cache| {
        must_be_whole(cache.view(), &guest, &asked)?;
        let missing = || Refused::not_found(&asked, "guest", &guest);
        let mut spec = cache.view().guests.get(&guest).ok_or_else(missing)?.clone();
        check_change(cache.view(), &spec, &request, &asked)?;
        apply(&request, &mut spec);
        checks::guest_size(spec.memory, spec.vcpus, &asked)?;
        checks::number_of_tags(&spec.tags, &asked)?;
        checks::health(&spec, &asked)?;
        let mut txn = cache.txn();
        txn.put(&spec);
        commit::built(&mut txn, &asked)
    };
    let changed = |view: &ClusterView| {
        view.guests.get(&guest).is_some_and(|spec| {
            let mut wanted = spec.clone();
            apply(&request, &mut wanted);
            wanted == *spec
        })
    };
    commit::change(&*backend, &asked, draft, changed).await?;
    let view = backend.state().view();
    GuestView::find(&view, &guest).map(Json).ok_or_else(|| Refused::not_found(&asked, "guest", &guest))
}

fn check_change(view: &ClusterView, spec: &GuestSpec, request: &ChangeGuest, asked: &str) -> Answer<()> {
    if spec.deleting {
        return Err(Refused::by_state(asked, "it is being deleted", "make another one"));
    }
    checks::tags(&request.tags.add, asked)?;
    if let Some(seconds) = request.stop_timeout_s {
        checks::in_range(seconds, 0..=STOP_TIMEOUT_MAX_S, &format!("a limit of {seconds} s"), asked)?;
    }
    if let Some(after) = &request.start_after {
        planner::check_start_order(view, spec, after, asked)?;
    }
    if let Some(with) = &request.restart_with {
        planner::check_group(view, spec, with, asked)?;
    }
    let size = request.memory.is_some() || request.vcpus.is_some();
    let off = spec.power == PowerWish::Stopped && GuestView::of(view, spec).phase == GuestPhase::Stopped;
    if size && !off {
        let instead = format!("stop it with `kennel guest stop {}` first", spec.name);
        return Err(Refused::by_state(asked, "its machine cannot change its size while it runs", instead));
    }
    Ok(())
}

fn apply(request: &ChangeGuest, spec: &mut GuestSpec) {
    let request = request.clone();
    let ChangeGuest { priority, tags, pinned, start_after, restart_with, .. } = request;
    let ChangeGuest { stop_timeout_s, memory, vcpus, health, .. } = request;
    health.apply(&mut spec.health);
    spec.priority = priority.unwrap_or(spec.priority);
    spec.tags.retain(|tag| !tags.remove.contains(tag));
    spec.tags.extend(tags.add);
    spec.pinned = pinned.unwrap_or(spec.pinned);
    spec.start_after = start_after.unwrap_or_else(|| spec.start_after.clone());
    spec.restart_with = restart_with.unwrap_or_else(|| spec.restart_with.clone());
    spec.stop_timeout_s = stop_timeout_s.unwrap_or(spec.stop_timeout_s);
    spec.memory = memory.unwrap_or(spec.memory);
    spec.vcpus = vcpus.unwrap_or(spec.vcpus);
}

/// Nothing is done to a guest while a record that its host goes by is damaged: a job would wait for it without
/// end.
pub fn must_be_whole(view: &ClusterView, guest: &GuestName, asked: &str) -> Answer<()> {
    let disks = view.guests.get(guest).into_iter().flat_map(|spec| &spec.disks);
    let in_sync = disks.map(|disk| keys::in_sync(disk.volume));
    let mut records = [keys::guest(guest), keys::assignment(guest)].into_iter().chain(in_sync);
    match records.find_map(|key| view.damaged.get_key_value(&key)) {
        None => Ok(()),
        Some((key, why)) => {
            let why = format!("the record {key} is damaged, so the guest is left as it is: {why}");
            Err(Refused::by_state(asked, why, "put that record back as it was with etcdctl, and try again"))
        }
    }
}

/// Asks for a job to be cancelled. Its runner undoes what it has done.
pub async fn cancel_job(State(backend): State<Shared>, Path(id): Path<String>) -> Answer<Json<JobView>> {
    let id: JobId = named(&id, "job")?;
    let asked = format!("cancel the job {id}");
    let draft = |cache: &Cache| {
        let view = cache.view();
        let mut job = view.jobs.get(&id).ok_or_else(|| Refused::not_found(&asked, "job", id))?.clone();
        if let Some(report) = view.job_reports.get(&id).filter(|report| report.state.is_terminal()) {
            let why = format!("it has ended already ({})", report.state);
            return Err(Refused::by_state(&asked, why, "there is nothing left to cancel"));
        }
        job.cancel = true;
        let mut txn = cache.txn();
        txn.put(&job);
        commit::built(&mut txn, &asked)
    };
    let cancelled = |view: &ClusterView| view.jobs.get(&id).is_some_and(|job| job.cancel);
    commit::change(&*backend, &asked, draft, cancelled).await?;
    let view = backend.state().view();
    JobView::find(&view, id).map(Json).ok_or_else(|| Refused::not_found(&asked, "job", id))
}
