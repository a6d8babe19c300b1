//! Who is told of incidents: targets come, go and are tried.
//!
//! What is malformed is refused when it is written. Whether a target can be reached is another question, which may have
//! another answer tomorrow and on another host: `test` asks it.

use std::collections::BTreeMap;

use api::{AddAlert, AlertTestView, AlertView, IncidentView, ListQuery};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use jiff::Timestamp;
use lettre::Address;
use model::{
    AlertName, AlertTarget, AlertWay, ClusterView, Event, EventId, EventKind, IncidentId, MailTls, Severity,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use store::{Cache, Secret, keys};
use uuid::Uuid;

use super::answer::{Answer, Body, Refused, named};
use super::auth::Caller;
use super::{Shared, commit, watch};
use crate::alerts::{Post, check_url, test as test_notice};

const TARGETS_MAX: usize = 16;

/// Of a webhook's key: a shorter one is guessed too easily.
const KEY_LENGTH_MIN: usize = 8;

/// Of a key, a password, a user's name.
const LENGTH_MAX: usize = 4096;

pub async fn incidents(State(backend): State<Shared>, Query(query): Query<ListQuery>) -> Response {
    watch::list(&backend, query.watch, IncidentView::list).await
}

pub async fn incident(State(backend): State<Shared>, Path(id): Path<String>) -> Answer<Json<IncidentView>> {
    let id: IncidentId = named(&id, "incident")?;
    let missing = || Refused::not_found(&format!("show the incident {id}"), "incident", id);
    IncidentView::find(backend.state().read().view(), id).map(Json).ok_or_else(missing)
}

pub async fn list(State(backend): State<Shared>, Query(query): Query<ListQuery>) -> Response {
    watch::list(&backend, query.watch, AlertView::list).await
}

pub async fn add(
    State(backend): State<Shared>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<AddAlert>,
) -> Answer<(StatusCode, Json<AlertView>)> {
    // A URL that is refused may hold a password.
    let asked = "add an alert".to_owned();
    check(&request, &asked)?;
    let mut target = AlertTarget {
        name: name_for(&backend.state().view(), &request, &asked)?,
        id: Uuid::new_v4(),
        way: request.way.clone(),
        from: request.from,
        ca: request.ca.clone(),
        has_secret: request.secret.is_some(),
        created_at: Timestamp::now(),
    };
    let kept = request.secret.clone().map(|text| Secret { name: target.secret_name(), text });
    let id = target.id;
    let draft = |cache: &Cache| {
        target.name = name_for(cache.view(), &request, &asked)?;
        let message = format!("{} has '{}' told of incidents: {}", caller.name(), target.name, target.way);
        let mut txn = cache.txn();
        txn.create(&target).create(&event(&backend, &target.name, message));
        if let Some(kept) = &kept {
            txn.create(kept);
        }
        commit::built(&mut txn, &asked)
    };
    let there = |view: &ClusterView| view.alerts.values().any(|target| target.id == id);
    commit::change(&*backend, &asked, draft, there).await?;
    let view = AlertView::of(backend.state().read().view(), &target);
    Ok((StatusCode::CREATED, Json(view)))
}

fn event(backend: &Shared, name: &AlertName, message: String) -> Event {
    Event {
        id: EventId(Uuid::now_v7()),
        at: Timestamp::now(),
        severity: Severity::Info,
        kind: EventKind::AlertsChanged,
        subject: format!("alert/{name}"),
        seen_by: backend.me().clone(),
        message,
    }
}

/// The name that was asked for, or the first one that is free.
fn name_for(view: &ClusterView, request: &AddAlert, asked: &str) -> Answer<AlertName> {
    if view.alerts.len() >= TARGETS_MAX {
        let why = format!("there are {TARGETS_MAX} of them, which is the limit");
        return Err(Refused::by_state(asked, why, "remove one with `kennel alert remove`"));
    }
    if let Some(name) = &request.name {
        if view.alerts.contains_key(name) {
            let instead = format!("choose another name, or `kennel alert remove {name}` first");
            return Err(Refused::by_state(asked, format!("there is an alert '{name}'"), instead));
        }
        return Ok(name.clone());
    }
    let kind = match request.way {
        AlertWay::Webhook { .. } => "webhook",
        AlertWay::Mail { .. } => "mail",
    };
    let mut names = (1..=TARGETS_MAX + 1).filter_map(|n| format!("{kind}-{n}").parse::<AlertName>().ok());
    let free = names.find(|name| !view.alerts.contains_key(name));
    free.ok_or_else(|| Refused::by_state(asked, "no name is free", "name it with --name"))
}

fn check(request: &AddAlert, asked: &str) -> Answer<()> {
    let invalid = |why: String, instead: &str| Err(Refused::invalid(asked, why, instead));
    if let Some(ca) = &request.ca {
        let found: Vec<_> = CertificateDer::pem_slice_iter(ca.as_bytes()).collect();
        if found.is_empty() || found.iter().any(Result::is_err) {
            let why = "what is given as the certificate authority is no certificate in PEM";
            return invalid(why.to_owned(), "give a file that begins with -----BEGIN CERTIFICATE-----");
        }
    }
    if request
        .secret
        .as_ref()
        .is_some_and(|secret| secret.len() > LENGTH_MAX || secret.contains(char::is_control))
    {
        return invalid("the secret is too long, or is not one line".to_owned(), "use one line of text");
    }
    match &request.way {
        AlertWay::Webhook { url } => {
            if let Err((why, instead)) = check_url(url) {
                return invalid(why, instead);
            }
            if request.secret.as_ref().is_some_and(|secret| secret.len() < KEY_LENGTH_MIN) {
                let why = format!("a key of fewer than {KEY_LENGTH_MIN} characters is guessed too easily");
                return invalid(why, "`openssl rand -hex 32` makes a good one");
            }
            Ok(())
        }
        AlertWay::Mail { to, sender, server, port, tls, user } => {
            check_mail(asked, &BTreeMap::from([("to", to), ("from", sender)]), server, *port)?;
            check_login(asked, *tls, user.as_deref(), request.secret.is_some())
        }
    }
}

fn check_mail(asked: &str, addresses: &BTreeMap<&str, &String>, server: &str, port: u16) -> Answer<()> {
    for (role, address) in addresses {
        if let Err(error) = address.parse::<Address>() {
            let why = format!("'{address}', which mail goes {role}, is no mail address: {error}");
            return Err(Refused::invalid(asked, why, "use one as in admin@example.org"));
        }
    }
    let good = |c: char| c.is_ascii_alphanumeric() || ".-:".contains(c);
    if server.is_empty() || !server.chars().all(good) || port == 0 {
        let why = format!("'{server}:{port}' is no mail server");
        return Err(Refused::invalid(asked, why, "name it as in --server mail.example.org:587"));
    }
    Ok(())
}

fn check_login(asked: &str, tls: MailTls, user: Option<&str>, password: bool) -> Answer<()> {
    match (user, password, tls) {
        (Some(_), false, _) => {
            let instead = "add --password-file, or leave out --user";
            Err(Refused::invalid(asked, "there is a user, and no password", instead))
        }
        (None, true, _) => {
            let instead = "add --user, or leave out --password-file";
            Err(Refused::invalid(asked, "there is a password, and no user", instead))
        }
        (Some(_), true, MailTls::None) => Err(Refused::invalid(
            asked,
            "the password would cross the network in clear",
            "use --tls starttls or --tls tls, or leave out --user",
        )),
        (Some(user), true, _) if user.is_empty() || user.len() > LENGTH_MAX => Err(Refused::invalid(
            asked,
            "the user's name is empty, or too long",
            "use the name of the mail account",
        )),
        (Some(_), true, MailTls::Starttls | MailTls::Tls) | (None, false, _) => Ok(()),
    }
}

pub async fn remove(
    State(backend): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Answer<Json<serde_json::Value>> {
    let name: AlertName = named(&name, "alert")?;
    let asked = format!("remove the alert '{name}'");
    let told = event(&backend, &name, format!("{} has '{name}' told of incidents no more", caller.name()));
    let draft = |cache: &Cache| {
        let view = cache.view();
        let target = view.alerts.get(&name).ok_or_else(|| Refused::not_found(&asked, "alert", &name))?;
        let mut txn = cache.txn();
        txn.delete(&keys::alert(&name)).create(&told);
        if view.alert_states.contains_key(&name) {
            txn.delete(&keys::alert_state(&name));
        }
        if target.has_secret {
            txn.delete(&keys::secret(&target.secret_name()));
        }
        commit::built(&mut txn, &asked)
    };
    commit::change(&*backend, &asked, draft, |view| !view.alerts.contains_key(&name)).await?;
    Ok(Json(serde_json::json!({})))
}

pub async fn test(
    State(backend): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Answer<Json<AlertTestView>> {
    let name: AlertName = named(&name, "alert")?;
    let view = backend.state().view();
    let missing = || Refused::not_found(&format!("test the alert '{name}'"), "alert", &name);
    let target = view.alerts.get(&name).ok_or_else(missing)?;
    let notice = test_notice(&view, &caller.name(), Timestamp::now());
    let post = Post::new(backend.me().clone(), backend.state().clone());
    let problem = post.send(target, &notice).await.err();
    Ok(Json(AlertTestView { name, sent_by: backend.me().clone(), problem }))
}
