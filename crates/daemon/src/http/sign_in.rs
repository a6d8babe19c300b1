//! Signing in to the web page: a password or a token is exchanged for a session.
//!
//! ```text
//!   POST /v1/session ─▶ right ─▶ a record under tokens/ (its hash) and a cookie that scripts cannot read
//!                    └▶ wrong ─▶ slower with every try, and an event
//! ```
//!
//! A session is a token that ends by itself, so every host takes it, and removing its record ends it everywhere. It
//! opens what an operator's token opens.

mod guard;
pub mod users;

use std::sync::Arc;

use api::{ProblemKind, SessionView, SignIn};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use jiff::{SignedDuration, Timestamp};
use model::{AccessToken, ClusterView, EventKind, TokenUse, UserName};
use store::{Cache, keys};

use super::answer::{Answer, Body, Refused};
use super::auth::{self, PeerAddress, Session};
use super::{Shared, commit, token};
use crate::events::Events;

pub use guard::Guard;

const ASKED: &str = "sign in";

/// A working day.
const SESSION_HOURS: i64 = 12;

/// How many sessions that are over are cleared away with one sign-in.
const STALE_SESSIONS_MAX: usize = 16;

pub async fn sign_in(
    State(backend): State<Shared>,
    Extension(guard): Extension<Arc<Guard>>,
    Extension(PeerAddress(from)): Extension<PeerAddress>,
    uri: Uri,
    headers: HeaderMap,
    Body(request): Body<SignIn>,
) -> Answer<Response> {
    auth::same_origin(&headers, uri.authority().map(|authority| authority.as_str()), false)?;
    let view = backend.state().view();
    if view.cluster.is_none() {
        let why = "this host has not read the cluster's state yet";
        return Err(Refused::store_unavailable(ASKED, why));
    }
    let (name, ends_with_token) = match request {
        SignIn { user: Some(user), password: Some(password), token: None } => {
            let name = by_password(&backend, &guard, &view, (user, password), from).await?;
            (name.to_string(), None)
        }
        SignIn { user: None, password: None, token: Some(text) } => {
            let found = token::find(&view, text.trim(), TokenUse::Admin, Timestamp::now());
            let (_, access) = found.ok_or_else(|| {
                let instead = "use the token in the file that `kennel cluster init` wrote";
                wrong("the token is not one of this cluster, or it has expired", instead)
            })?;
            (access.name.clone(), access.expires_at)
        }
        SignIn { .. } => {
            let why = "there is neither a name with a password nor a token";
            return Err(Refused::invalid(ASKED, why, "give one of the two"));
        }
    };
    let now = Timestamp::now();
    let end = now + SignedDuration::from_hours(SESSION_HOURS);
    let end = ends_with_token.map_or(end, |of_token| end.min(of_token));
    let secret = open(&backend, &name, now, end).await?;
    let cookie = cookie(&backend, &secret, (end - now).get_seconds())?;
    let view = SessionView { name: Some(name), expires_at: Some(end) };
    Ok((StatusCode::CREATED, [(header::SET_COOKIE, cookie)], Json(view)).into_response())
}

/// Enters a session in the store; answers its secret.
async fn open(backend: &Shared, name: &str, now: Timestamp, end: Timestamp) -> Answer<String> {
    let (secret, stored) = token::new_token(name, TokenUse::Session, now, Some(end));
    let draft = |cache: &Cache| {
        let mut txn = cache.txn();
        txn.create(&stored);
        for key in stale_sessions(cache.view(), now) {
            txn.delete(&key);
        }
        commit::built(&mut txn, ASKED)
    };
    commit::change(&**backend, ASKED, draft, |view| view.tokens.contains_key(&stored.sha256)).await?;
    Ok(secret)
}

fn stale_sessions(view: &ClusterView, now: Timestamp) -> Vec<String> {
    let over = |token: &AccessToken| token.expires_at.is_some_and(|end| end <= now);
    let sessions = view.tokens.iter().filter(|(_, token)| token.used_for == TokenUse::Session && over(token));
    sessions.map(|(sha256, _)| keys::token(sha256)).take(STALE_SESSIONS_MAX).collect()
}

/// All sessions that somebody holds.
fn sessions_of(view: &ClusterView, name: &UserName) -> Vec<String> {
    let theirs = |token: &AccessToken| token.used_for == TokenUse::Session && token.name == name.as_str();
    view.tokens.iter().filter(|(_, token)| theirs(token)).map(|(sha256, _)| keys::token(sha256)).collect()
}

/// The name, when the password is the user's.
async fn by_password(
    backend: &Shared,
    guard: &Guard,
    view: &ClusterView,
    (user, password): (String, String),
    from: std::net::IpAddr,
) -> Answer<UserName> {
    if let Some(wait) = guard.must_wait(&user, from) {
        let why = format!("there were too many wrong passwords, and the next try is in {wait} s");
        let mut refused = wrong(&why, "wait, or sign in with a token");
        refused.0.status = StatusCode::TOO_MANY_REQUESTS.as_u16();
        return Err(refused);
    }
    let name: Option<UserName> = user.parse().ok();
    let known = name.as_ref().and_then(|name| view.users.get(name));
    let right = guard.verify(password, known.map(|user| user.password_hash.clone())).await;
    match (right, name) {
        (true, Some(name)) => {
            guard.was_right(&user, from);
            Ok(name)
        }
        (true | false, name) => {
            guard.was_wrong(&user, from);
            if let Some(more) = guard.may_tell() {
                // What is no name of a user may be anything, a mistyped password too: it is not written down.
                let who = name.map_or("user/?".to_owned(), |name| format!("user/{name}"));
                let more = if more == 0 {
                    String::new()
                } else {
                    format!(", after {more} more that nobody was told of")
                };
                let message =
                    format!("a sign-in from {from} was refused: the name or the password is wrong{more}");
                let events = Events::new(backend.state().clone(), backend.me().clone());
                events.warning(EventKind::SignInRefused, who, message);
            }
            Err(wrong(
                "the name or the password is wrong",
                "try again; `kennel user list` shows who may sign in",
            ))
        }
    }
}

fn wrong(why: &str, instead: &str) -> Refused {
    let mut refused = Refused::unauthorized(why, instead);
    refused.0.asked = ASKED.to_owned();
    refused.0.detail = refused.0.refusal().to_string();
    refused
}

fn cookie(backend: &Shared, secret: &str, seconds: i64) -> Answer<HeaderValue> {
    let view = backend.state().view();
    let Some(cluster) = &view.cluster else {
        return Err(Refused::store_unavailable(ASKED, "the cluster's record is gone"));
    };
    let name = auth::session_cookie(cluster);
    let text = format!("{name}={secret}; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age={seconds}");
    HeaderValue::from_str(&text).map_err(|error| Refused::failed(ASKED, error))
}

/// Who asks. That it is nobody is an answer, too: it is how the page begins.
pub async fn show(State(backend): State<Shared>, request: Request) -> Answer<Json<SessionView>> {
    match auth::identify(&backend, &request) {
        Ok((caller, session)) => {
            let expires_at = session.and_then(|session| session.expires_at);
            Ok(Json(SessionView { name: Some(caller.name()), expires_at }))
        }
        Err(Refused(problem)) if problem.kind == ProblemKind::Unauthorized => {
            Ok(Json(SessionView { name: None, expires_at: None }))
        }
        Err(refused) => Err(refused),
    }
}

pub async fn sign_out(
    State(backend): State<Shared>,
    session: Option<Extension<Session>>,
) -> Answer<Response> {
    let asked = "sign out";
    let Some(Extension(session)) = session else {
        let why = "who asks with a token is not signed in";
        return Err(Refused::by_state(asked, why, "stop using the token"));
    };
    let draft = |cache: &Cache| {
        let mut txn = cache.txn();
        txn.delete(&keys::token(&session.sha256));
        commit::built(&mut txn, asked)
    };
    commit::change(&*backend, asked, draft, |view| !view.tokens.contains_key(&session.sha256)).await?;
    let cookie = cookie(&backend, "", 0)?;
    Ok(([(header::SET_COOKIE, cookie)], Json(serde_json::json!({}))).into_response())
}
