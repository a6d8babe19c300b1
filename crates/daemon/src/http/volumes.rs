//! What is done to volumes that exist: another secondary, a fill anew, more room, another pool.
//!
//! All volumes of a guest have their secondaries on one host, so but for their sizes these are wishes about a guest.

use api::{ConvertVolume, GrowVolume, JobView, ReplaceSecondary, ResyncVolume, VolumeView};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use model::{
    Assignment, Bytes, ClusterView, GuestName, GuestPhase, GuestPlace, GuestSpec, HostName, InSync, JobKind,
    MoveOptions, Pool, Resync, VolumeId,
};
use plan::heal::{Secondaries, other_secondaries};
use plan::inventory::Inventory;
use plan::layout::Layout;
use store::{Cache, keys};

use super::answer::{Answer, Body, Refused, named};
use super::auth::Caller;
use super::{Shared, commit, migrate, planner};

type Accepted = Answer<(StatusCode, Json<JobView>)>;

/// What a size must be a multiple of: a disk is made of sectors.
const SECTOR: u64 = 512;

/// The guest that a volume is a disk of.
fn guest_of(view: &ClusterView, id: VolumeId, asked: &str) -> Answer<GuestSpec> {
    let has = |spec: &&GuestSpec| spec.disks.iter().any(|disk| disk.volume == id);
    view.guests.values().find(has).cloned().ok_or_else(|| Refused::not_found(asked, "volume", id))
}

/// Copying needs a guest that runs: its own host does it.
fn must_run(view: &ClusterView, spec: &GuestSpec, asked: &str) -> Answer<()> {
    let assignment = view.assignments.get(&spec.name).filter(|a| a.guest_id == spec.id);
    let report = view.guest_reports.get(&spec.name).filter(|r| r.guest_id == spec.id);
    let phase = GuestPhase::derive(spec, assignment, report, view);
    if phase == GuestPhase::Running {
        return Ok(());
    }
    let why = format!("the guest '{}' is {phase}, and a disk is copied only while its guest runs", spec.name);
    Err(Refused::by_state(asked, why, format!("start it with `kennel guest start {}`", spec.name)))
}

fn must_be_mirrored(spec: &GuestSpec, asked: &str) -> Answer<()> {
    if spec.is_mirrored() {
        return Ok(());
    }
    let why = format!("the disks of '{}' are in the pool local, which keeps one replica", spec.name);
    let instead = format!("`kennel volume convert {} --pool mirror` makes a second one", spec.name);
    Err(Refused::by_state(asked, why, instead))
}

/// The host that is to hold the second replica.
fn choose(found: &Secondaries, to: Option<&HostName>, force: bool, asked: &str) -> Answer<HostName> {
    let mut fit = found.hosts.clone();
    if force {
        fit.extend(found.forced.iter().cloned());
    }
    let would_do = || match fit.as_slice() {
        [] if !found.forced.is_empty() => {
            "force it, and the cluster cannot keep its promise until there is more room".to_owned()
        }
        [] => "free some room, change the rules, or add a host".to_owned(),
        [one] => format!("{one} could hold it"),
        many => {
            let names: Vec<String> = many.iter().map(ToString::to_string).collect();
            format!("these could hold it: {}", names.join(", "))
        }
    };
    match to {
        Some(to) if fit.contains(to) => Ok(to.clone()),
        Some(to) => {
            let why = found.reasons.get(to).map_or("it cannot hold it", String::as_str);
            Err(Refused::by_state(asked, format!("{to}: {why}"), would_do()))
        }
        None => fit.first().cloned().ok_or_else(|| {
            let each = found.reasons.iter().map(|(host, why)| format!("{host}: {why}"));
            let each = each.collect::<Vec<_>>().join("; ");
            let why = if each.is_empty() { "there is no other host".to_owned() } else { each };
            Refused::by_state(asked, why, would_do())
        }),
    }
}

/// Refuses hosts that there is nothing to be judged of.
fn must_be_another(view: &ClusterView, now: &Assignment, to: Option<&HostName>, asked: &str) -> Answer<()> {
    let Some(to) = to else { return Ok(()) };
    if !view.hosts.contains_key(to) {
        return Err(Refused::not_found(asked, "host", to));
    }
    if to == &now.host {
        let why = format!("the guest runs on {to}: both replicas would be on one host");
        return Err(Refused::by_state(asked, why, "name another host"));
    }
    if now.secondary.as_ref() == Some(to) {
        let why = format!("its secondary is on {to} already");
        return Err(Refused::by_state(asked, why, "`kennel volume resync` fills it anew"));
    }
    Ok(())
}

pub async fn replace_secondary(
    State(backend): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Body(request): Body<ReplaceSecondary>,
) -> Accepted {
    let id: VolumeId = named(&id, "volume")?;
    let asked = format!("replace the secondary of the volume {id}");
    let (spec, seen) = {
        let view = backend.state().view();
        let spec = guest_of(&view, id, &asked)?;
        must_be_mirrored(&spec, &asked)?;
        let now = migrate::may_move(&view, &spec.name, &asked)?.clone();
        must_be_another(&view, &now, request.to.as_ref(), &asked)?;
        must_run(&view, &spec, &asked)?;
        (spec, now)
    };
    let guest = spec.name;
    let (name, why) = (guest.clone(), asked.clone());
    let find = move |inventory: Inventory| {
        choose(&other_secondaries(&inventory, &name), request.to.as_ref(), request.force, &why)
    };
    let secondary = planner::think(&backend, &asked, find).await?;
    let to = GuestPlace { host: seen.host.clone(), secondary: Some(secondary) };
    let kind = JobKind::MoveGuest { guest: guest.clone(), to, options: MoveOptions::default(), heals: None };
    let job = commit::new_job(kind, &caller);
    let view = commit::start_job(&backend, &asked, &job, |cache, txn| {
        if *migrate::may_move(cache.view(), &guest, &asked)? != seen {
            return Err(Refused::by_state(&asked, "the guest has just been moved", "look, and ask again"));
        }
        txn.unchanged(&keys::assignment(&guest));
        Ok(())
    })
    .await?;
    Ok((StatusCode::ACCEPTED, Json(view)))
}

pub async fn resync(
    State(backend): State<Shared>,
    Path(id): Path<String>,
    Body(request): Body<ResyncVolume>,
) -> Answer<Json<VolumeView>> {
    let id: VolumeId = named(&id, "volume")?;
    let asked = format!("resync the volume {id}");
    let generation = guest_of(&backend.state().view(), id, &asked)?.resync.generation + 1;
    let draft = |cache: &Cache| {
        let view = cache.view();
        let spec = guest_of(view, id, &asked)?;
        must_be_mirrored(&spec, &asked)?;
        let now = migrate::may_move(view, &spec.name, &asked)?;
        must_run(view, &spec, &asked)?;
        let Some(secondary) = now.secondary.as_ref().filter(|host| view.is_live(host)) else {
            let lost = now.secondary.as_ref().map_or("no host holds a second replica".to_owned(), |host| {
                format!("{host}, which holds its second replica, is lost")
            });
            let instead = "it is filled by itself when that host is back; `kennel volume replace-secondary` makes \
                           another one";
            return Err(Refused::by_state(&asked, lost, instead));
        };
        tracing::debug!(%secondary, guest = %spec.name, "a resync is asked for");
        let resync = Resync { generation, full: request.full };
        let mut txn = cache.txn();
        txn.put(&GuestSpec { resync, ..spec });
        commit::built(&mut txn, &asked)
    };
    let wished = |view: &ClusterView| {
        guest_of(view, id, &asked).is_ok_and(|spec| spec.resync.generation >= generation)
    };
    commit::change(&*backend, &asked, draft, wished).await?;
    volume(&backend, id, &asked)
}

pub async fn verify(
    State(backend): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Accepted {
    let id: VolumeId = named(&id, "volume")?;
    let asked = format!("verify the volume {id}");
    let guest = may_verify(&backend.state().view(), id, &asked)?;
    let job = commit::new_job(JobKind::VerifyVolume { guest, volume: id }, &caller);
    let view =
        commit::start_job(&backend, &asked, &job, |cache, _| may_verify(cache.view(), id, &asked).map(drop))
            .await?;
    Ok((StatusCode::ACCEPTED, Json(view)))
}

/// The guest of a volume whose replicas can be compared.
fn may_verify(view: &ClusterView, id: VolumeId, asked: &str) -> Answer<GuestName> {
    let spec = guest_of(view, id, asked)?;
    must_be_mirrored(&spec, asked)?;
    must_run(view, &spec, asked)?;
    let live = |set: &InSync| set.members.iter().filter(|replica| view.boot_is_live(replica)).count();
    if view.in_sync.get(&id).map_or(0, live) < Pool::Mirror.replicas() {
        let why = "its replicas are not in sync, so they are known to differ";
        return Err(Refused::by_state(
            asked,
            why,
            format!("`kennel volume show {id}` says what it waits for"),
        ));
    }
    if let Some((job, _)) = plan::verify::open(view).find(|(_, volume)| *volume == id) {
        let instead = format!("wait for it with `kennel job watch {}`", job.id);
        return Err(Refused::by_state(asked, "that is being done", instead));
    }
    Ok(spec.name)
}

fn volume(backend: &Shared, id: VolumeId, asked: &str) -> Answer<Json<VolumeView>> {
    let view = backend.state().view();
    VolumeView::find(&view, id).map(Json).ok_or_else(|| Refused::not_found(asked, "volume", id))
}

/// The guest with that disk of another size.
fn resized(mut spec: GuestSpec, id: VolumeId, size: Bytes) -> GuestSpec {
    for disk in spec.disks.iter_mut().filter(|disk| disk.volume == id) {
        disk.size = size;
    }
    spec
}

pub async fn grow(
    State(backend): State<Shared>,
    Path(id): Path<String>,
    Body(GrowVolume { size }): Body<GrowVolume>,
) -> Answer<Json<VolumeView>> {
    let id: VolumeId = named(&id, "volume")?;
    let asked = format!("grow the volume {id}");
    if !size.0.is_multiple_of(SECTOR) {
        let why = format!("{} bytes are no whole number of sectors", size.0);
        return Err(Refused::invalid(&asked, why, format!("give it a multiple of {SECTOR} bytes")));
    }
    let check = |view: &ClusterView| -> Answer<GuestSpec> {
        let spec = guest_of(view, id, &asked)?;
        migrate::may_move(view, &spec.name, &asked)?;
        not_shared(&spec, &asked)?;
        let has = spec.disks.iter().find(|disk| disk.volume == id).map_or(Bytes(0), |disk| disk.size);
        if size <= has {
            let why = format!("it is {has} already, and a disk only grows");
            return Err(Refused::by_state(&asked, why, format!("give it more than {has}")));
        }
        Ok(spec)
    };
    let spec = check(&backend.state().view())?;
    let (wanted, why) = (resized(spec, id, size), asked.clone());
    planner::think(&backend, &asked, move |inventory| {
        has_room(&inventory.with_guest(&wanted), &wanted, &why)
    })
    .await?;
    let draft = |cache: &Cache| {
        let spec = check(cache.view())?;
        let mut txn = cache.txn();
        txn.unchanged(&keys::assignment(&spec.name)).put(&resized(spec, id, size));
        commit::built(&mut txn, &asked)
    };
    let grown = |view: &ClusterView| {
        guest_of(view, id, &asked)
            .is_ok_and(|spec| spec.disks.iter().any(|disk| disk.volume == id && disk.size >= size))
    };
    commit::change(&*backend, &asked, draft, grown).await?;
    volume(&backend, id, &asked)
}

/// Whether the hosts of a guest have room for its disks as they are to be.
fn has_room(inventory: &Inventory, spec: &GuestSpec, asked: &str) -> Answer<()> {
    let layout = Layout::new(&inventory.snapshot);
    let place = inventory.guest_ix(&spec.name).and_then(|guest| layout.place(guest));
    let Some(place) = place else { return Ok(()) };
    for host in std::iter::once(place.host).chain(place.secondary) {
        let (given, room) = (layout.given(host).disk, inventory.snapshot.host(host).disk);
        if given > room {
            let name = inventory.host_name(host);
            let why = format!("{name} lacks {} of disk for it", Bytes(given - room));
            let instead = format!("give it less, or make room on {name}");
            return Err(Refused::by_state(asked, why, instead));
        }
    }
    Ok(())
}

pub async fn convert(
    State(backend): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Body(request): Body<ConvertVolume>,
) -> Accepted {
    let id: VolumeId = named(&id, "volume")?;
    let asked = format!("put the volume {id} into the pool {}", request.pool);
    let (spec, seen) = {
        let view = backend.state().view();
        let spec = guest_of(&view, id, &asked)?;
        let now = may_convert(&view, &spec, &request, &asked)?;
        must_be_another(&view, &now, request.to.as_ref(), &asked)?;
        (spec, now)
    };
    let (old, guest) = (spec.clone(), spec.name.clone());
    let wanted = converted(spec, request.pool);
    let secondary = match request.pool {
        Pool::Shared => {
            let why = "disks are not moved into storage that hosts share";
            return Err(Refused::by_state(&asked, why, "`--pool local` or `--pool mirror`"));
        }
        Pool::Local => None,
        Pool::Mirror => {
            let (wanted, why) = (wanted.clone(), asked.clone());
            let find = move |inventory: Inventory| {
                let found = other_secondaries(&inventory.with_guest(&wanted), &wanted.name);
                choose(&found, request.to.as_ref(), request.force, &why)
            };
            Some(planner::think(&backend, &asked, find).await?)
        }
    };
    let to = GuestPlace { host: seen.host.clone(), secondary };
    let kind = JobKind::MoveGuest { guest: guest.clone(), to, options: MoveOptions::default(), heals: None };
    let job = commit::new_job(kind, &caller);
    let view = commit::start_job(&backend, &asked, &job, |cache, txn| {
        let same = cache.view().guests.get(&guest) == Some(&old);
        if !same || *migrate::is_free(cache.view(), &guest, &asked)? != seen {
            return Err(Refused::by_state(&asked, "the guest has just been changed", "look, and ask again"));
        }
        txn.unchanged(&keys::assignment(&guest)).put(&wanted);
        Ok(())
    })
    .await?;
    Ok((StatusCode::ACCEPTED, Json(view)))
}

/// All disks of a guest are in one pool: one that is not mirrored could not follow the others.
fn converted(mut spec: GuestSpec, pool: Pool) -> GuestSpec {
    for disk in &mut spec.disks {
        disk.pool = pool;
    }
    spec
}

fn not_shared(spec: &GuestSpec, asked: &str) -> Answer<()> {
    if !spec.is_shared() {
        return Ok(());
    }
    let why = format!("the disks of '{}' are in storage that hosts share", spec.name);
    Err(Refused::by_state(asked, why, "that works for the pools local and mirror only"))
}

fn may_convert(
    view: &ClusterView,
    spec: &GuestSpec,
    request: &ConvertVolume,
    asked: &str,
) -> Answer<Assignment> {
    let now = migrate::is_free(view, &spec.name, asked)?.clone();
    not_shared(spec, asked)?;
    // A try that broke off may have left a second replica behind, or not made one.
    let has = now.secondary.is_some() == (request.pool == Pool::Mirror);
    if has && spec.disks.iter().all(|disk| disk.pool == request.pool) {
        let why = format!("the disks of '{}' are in that pool already", spec.name);
        return Err(Refused::by_state(asked, why, "`kennel volume list` shows which volume is where"));
    }
    must_run(view, spec, asked)?;
    Ok(now)
}
