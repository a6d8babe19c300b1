//! Pools come and go.
//!
//! The host that is asked to make a pool marks the storage first, then the record is entered: whoever reads the record
//! finds the mark, or is not where the others are. A mark that no record followed is replaced by the next try.

use api::{CreatePool, ListQuery, PoolView};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use jiff::Timestamp;
use model::{ClusterView, NamedPool, Pool, PoolName, PoolStorage};
use store::{Cache, keys};
use uuid::Uuid;

use super::answer::{Answer, Body, Refused, named};
use super::{Shared, commit, watch};

/// Every host looks at each of them every few seconds.
const POOLS_MAX: usize = 64;

const PATH_LENGTH_MAX: usize = 1024;

/// How many guests a refusal names.
const NAMES_MAX: usize = 8;

pub async fn list(State(backend): State<Shared>, Query(query): Query<ListQuery>) -> Response {
    watch::list(&backend, query.watch, PoolView::list).await
}

pub async fn show(State(backend): State<Shared>, Path(name): Path<String>) -> Answer<Json<PoolView>> {
    let name: PoolName = named(&name, "pool")?;
    let missing = || Refused::not_found(&format!("show the pool '{name}'"), "pool", &name);
    PoolView::find(&backend.state().view(), &name).map(Json).ok_or_else(missing)
}

pub async fn create(
    State(backend): State<Shared>,
    Body(request): Body<CreatePool>,
) -> Answer<(StatusCode, Json<PoolView>)> {
    let asked = format!("create the pool '{}'", request.name);
    let CreatePool { name, storage } = request;
    check_storage(&storage, &asked)?;
    let pool = NamedPool { name, id: Uuid::new_v4(), created_at: Timestamp::now(), storage };
    may_be_made(&backend.state().view(), &pool, &asked)?;
    backend.take_pool(&pool).await.map_err(|error| {
        let why = format!("{}: {error}", backend.me());
        Refused::by_state(&asked, why, "see to it that every host has the same folder there, and try again")
    })?;
    let draft = |cache: &Cache| {
        may_be_made(cache.view(), &pool, &asked)?;
        let mut txn = cache.txn();
        txn.create(&pool);
        commit::built(&mut txn, &asked)
    };
    let there = |view: &ClusterView| view.pools.get(&pool.name) == Some(&pool);
    commit::change(&*backend, &asked, draft, there).await?;
    Ok((StatusCode::CREATED, Json(PoolView::of(backend.state().read().view(), &pool))))
}

fn check_storage(storage: &PoolStorage, asked: &str) -> Answer<()> {
    let PoolStorage::Shared { path } = storage;
    let plain = std::path::Path::new(path)
        .components()
        .all(|part| matches!(part, std::path::Component::RootDir | std::path::Component::Normal(_)));
    let whole = path.starts_with('/') && path.len() > 1 && path.len() <= PATH_LENGTH_MAX;
    if !plain || !whole || path.contains(char::is_control) {
        let why = format!("'{path}' is not the whole path of a folder");
        return Err(Refused::invalid(asked, why, "write it from the root on, as in /srv/shared"));
    }
    Ok(())
}

fn may_be_made(view: &ClusterView, pool: &NamedPool, asked: &str) -> Answer<()> {
    let kind = pool.name.as_str().parse::<Pool>();
    if kind.is_ok() {
        let why = format!("'{}' is the name of a kind of pool", pool.name);
        return Err(Refused::by_state(asked, why, "choose another name, as in nfs1"));
    }
    if view.pools.contains_key(&pool.name) {
        let instead = format!("choose another name, or see `kennel pool show {}`", pool.name);
        return Err(Refused::by_state(asked, "a pool of that name exists", instead));
    }
    if let Some(other) = view.pools.values().find(|other| other.storage == pool.storage) {
        let why = format!("{} is the pool '{}'", pool.storage, other.name);
        return Err(Refused::by_state(asked, why, "use that one, or another folder"));
    }
    if view.pools.len() >= POOLS_MAX {
        let why = format!("there are {POOLS_MAX} pools already");
        return Err(Refused::by_state(asked, why, "delete one that nobody uses"));
    }
    Ok(())
}

pub async fn delete(
    State(backend): State<Shared>,
    Path(name): Path<String>,
) -> Answer<Json<serde_json::Value>> {
    let name: PoolName = named(&name, "pool")?;
    let asked = format!("delete the pool '{name}'");
    let draft = |cache: &Cache| {
        may_go(cache.view(), &name, &asked)?;
        let mut txn = cache.txn();
        txn.delete(&keys::pool(&name));
        commit::built(&mut txn, &asked)
    };
    commit::change(&*backend, &asked, draft, |view| !view.pools.contains_key(&name)).await?;
    Ok(Json(serde_json::json!({})))
}

fn may_go(view: &ClusterView, name: &PoolName, asked: &str) -> Answer<()> {
    if name.built_in().is_some() {
        return Err(Refused::by_state(asked, "it is on the hosts' own disks", "leave it unused"));
    }
    if !view.pools.contains_key(name) {
        return Err(Refused::not_found(asked, "pool", name));
    }
    let inside = view.guests.values().filter(|guest| guest.named_pools().contains(name));
    let guests: Vec<&str> = inside.map(|guest| guest.name.as_str()).collect();
    if !guests.is_empty() {
        let more = guests.len().saturating_sub(NAMES_MAX);
        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
        let shown = guests[..guests.len().min(NAMES_MAX)].join(", ");
        return Err(Refused::by_state(
            asked,
            format!("guests have volumes in it: {shown}{rest}"),
            "delete those first",
        ));
    }
    match view.drops.values().find(|drop| drop.pool_name.as_ref() == Some(name)) {
        None => Ok(()),
        Some(drop) => {
            let why = format!("{} has still to delete the volume {} from it", drop.host, drop.volume);
            Err(Refused::by_state(asked, why, "wait until it has"))
        }
    }
}
