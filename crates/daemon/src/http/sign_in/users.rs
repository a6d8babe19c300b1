//! Users come and go, and change their passwords.

use std::sync::Arc;

use api::{AddUser, ListQuery, SetPassword, UserView};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use jiff::Timestamp;
use model::{ClusterView, User, UserName};
use store::{Cache, keys};

use super::guard::{Guard, PASSWORD_MAX};
use super::sessions_of;
use crate::http::answer::{Answer, Body, Refused, named};
use crate::http::{Shared, commit, watch};

/// As NIST SP 800-63B asks for where a password is all there is.
const PASSWORD_MIN: usize = 8;

pub fn views(view: &ClusterView) -> Vec<UserView> {
    view.users.values().map(UserView::of).collect()
}

pub async fn list(State(backend): State<Shared>, Query(query): Query<ListQuery>) -> Response {
    watch::list(&backend, query.watch, views).await
}

fn checked(password: &str, asked: &str) -> Answer<()> {
    let length = password.chars().count();
    if length < PASSWORD_MIN {
        let why = format!("a password of {length} characters is guessed too easily");
        return Err(Refused::invalid(asked, why, format!("use {PASSWORD_MIN} characters or more")));
    }
    if password.len() > PASSWORD_MAX {
        let why = format!("a password of {} bytes is too long", password.len());
        return Err(Refused::invalid(asked, why, format!("use {PASSWORD_MAX} bytes or fewer")));
    }
    Ok(())
}

pub async fn add(
    State(backend): State<Shared>,
    Extension(guard): Extension<Arc<Guard>>,
    Body(request): Body<AddUser>,
) -> Answer<(StatusCode, Json<UserView>)> {
    let asked = format!("add the user '{}'", request.name);
    checked(&request.password, &asked)?;
    let password_hash = guard.hash(request.password).await.map_err(|error| Refused::failed(&asked, error))?;
    let now = Timestamp::now();
    let user = User { name: request.name, password_hash, created_at: now, password_set_at: now };
    let draft = |cache: &Cache| {
        if cache.view().users.contains_key(&user.name) {
            let instead = format!("choose another name, or use `kennel user password {}`", user.name);
            return Err(Refused::by_state(&asked, "a user of that name exists", instead));
        }
        let mut txn = cache.txn();
        txn.create(&user);
        commit::built(&mut txn, &asked)
    };
    commit::change(&*backend, &asked, draft, |view| view.users.get(&user.name) == Some(&user)).await?;
    Ok((StatusCode::CREATED, Json(UserView::of(&user))))
}

pub async fn set_password(
    State(backend): State<Shared>,
    Path(name): Path<String>,
    Extension(guard): Extension<Arc<Guard>>,
    Body(request): Body<SetPassword>,
) -> Answer<Json<UserView>> {
    let name: UserName = named(&name, "user")?;
    let asked = format!("change the password of '{name}'");
    checked(&request.password, &asked)?;
    let password_hash = guard.hash(request.password).await.map_err(|error| Refused::failed(&asked, error))?;
    let now = Timestamp::now();
    let draft = |cache: &Cache| {
        let view = cache.view();
        let user = view.users.get(&name).ok_or_else(|| Refused::not_found(&asked, "user", &name))?;
        let user = User { password_hash: password_hash.clone(), password_set_at: now, ..user.clone() };
        let mut txn = cache.txn();
        txn.put(&user);
        for key in sessions_of(view, &name) {
            txn.delete(&key);
        }
        commit::built(&mut txn, &asked)
    };
    let changed =
        |view: &ClusterView| view.users.get(&name).is_some_and(|user| user.password_hash == password_hash);
    commit::change(&*backend, &asked, draft, changed).await?;
    let view = backend.state().view();
    let user = view.users.get(&name).ok_or_else(|| Refused::not_found(&asked, "user", &name))?;
    Ok(Json(UserView::of(user)))
}

pub async fn remove(
    State(backend): State<Shared>,
    Path(name): Path<String>,
) -> Answer<Json<serde_json::Value>> {
    let name: UserName = named(&name, "user")?;
    let asked = format!("remove the user '{name}'");
    let draft = |cache: &Cache| {
        let view = cache.view();
        if !view.users.contains_key(&name) {
            return Err(Refused::not_found(&asked, "user", &name));
        }
        let mut txn = cache.txn();
        txn.delete(&keys::user(&name));
        for key in sessions_of(view, &name) {
            txn.delete(&key);
        }
        commit::built(&mut txn, &asked)
    };
    commit::change(&*backend, &asked, draft, |view| !view.users.contains_key(&name)).await?;
    Ok(Json(serde_json::json!({})))
}
