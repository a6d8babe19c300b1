//! The HTTP server: what `api` says can be asked, carried out.
//!
//! ```text
//!   client ──TLS──▶ server ──▶ auth (who asks?) ──▶ a handler for each endpoint
//!                                                     │ reads: the cache of the store, through `api`'s views
//!                                                     │ changes: one compare-and-set transaction (commit)
//!                                                     │ a guest elsewhere: passed on to its host, once (inside)
//!                                                     └ lists: a stream of differences, if asked (watch)
//! ```
//!
//! A handler that changes something drafts *one* transaction from what the cache knows, with a refusal for
//! each thing that speaks against it, and commits it: all of it happens, or nothing. What takes longer than
//! that is a job, which the same transaction enters; the handler answers with it at once.
//!
//! Handlers never decide where a guest runs, and write no assignment, report or in-sync set.

mod alerts;
mod answer;
mod auth;
mod backend;
mod checks;
mod cluster;
mod commit;
mod create;
mod fencing;
mod guests;
mod hosts;
mod images;
mod inside;
mod last_lines;
mod last_moments;
mod lists;
mod local;
mod measured;
mod metrics;
mod migrate;
mod networks;
mod page;
mod planner;
mod pools;
mod rules;
mod screen;
mod serial;
mod server;
mod settings;
mod sign_in;
mod storm;
mod stream;
mod tickets;
mod token;
mod usage;
mod volumes;
mod watch;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::{delete, get, patch, post, put};
use axum::{Extension, Json, Router, middleware};

pub use auth::PeerIdentity;
pub use backend::{Backend, Shared};
pub use local::{LocalOps, serve_local};
pub use server::{bind, serve};
pub use token::new_token;

/// For everything but the files of images. A record must stay well below a megabyte anyway.
const BODY_BYTES_MAX: usize = 4 << 20;

/// A name and a password, or a token.
const SIGN_IN_BYTES_MAX: usize = 16 << 10;

/// Everything that [`api::openapi::endpoints`] lists.
pub fn router(backend: Shared) -> Router {
    let open = Router::new()
        .route("/", get(page::index))
        .route("/favicon.svg", get(page::icon))
        .route("/assets/{name}", get(page::asset))
        .route(
            "/v1/session",
            get(sign_in::show).post(sign_in::sign_in).layer(DefaultBodyLimit::max(SIGN_IN_BYTES_MAX)),
        )
        .route("/healthz", get(|| async { Json(serde_json::json!({ "status": "up" })) }))
        .route("/v1/openapi.json", get(|| async { Json(api::openapi::document()) }))
        .route("/v1/cluster/join", post(cluster::join));
    let operator = operator_routes()
        .route_layer(middleware::from_fn_with_state(backend.clone(), mark_old))
        .route_layer(middleware::from_fn_with_state(backend.clone(), auth::require_operator));
    let upload = Router::new()
        .route("/v1/image-files", post(images::upload))
        .layer(DefaultBodyLimit::disable())
        .route_layer(middleware::from_fn_with_state(backend.clone(), auth::require_operator));
    let hosts = Router::new()
        .route("/v1/image-files/{sha256}", get(images::download))
        .route("/v1/internal/promise", post(inside::promise))
        .route("/v1/internal/end-connections", post(inside::end_connections))
        .route("/v1/internal/replica-hashes", post(inside::replica_hashes))
        .route("/v1/internal/usage", get(usage::of_this_host))
        .route("/v1/internal/series", get(measured::of_this_host))
        .route("/v1/internal/last-lines", get(last_lines::of_this_host))
        .route("/v1/internal/last-moments", get(last_moments::of_this_host))
        .route_layer(middleware::from_fn_with_state(backend.clone(), auth::require_host));
    open.merge(operator)
        .merge(hosts)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .merge(upload)
        .fallback(answer::no_such_route)
        .method_not_allowed_fallback(answer::no_such_method)
        .layer(Extension(Arc::new(sign_in::Guard::new())))
        .layer(Extension(Arc::new(inside::Consoles::default())))
        .layer(Extension(Arc::new(stream::board::Hub::default())))
        .with_state(backend)
}

fn operator_routes() -> Router<Shared> {
    Router::new()
        .route("/v1/cluster", get(cluster::status))
        .route("/v1/cluster/invitations", post(cluster::invite))
        .route("/v1/cluster/storm/go-on", post(storm::go_on))
        .route("/v1/hosts", get(lists::hosts))
        .route("/v1/cluster/settings", patch(settings::change))
        .route("/v1/hosts/{name}", get(lists::host).patch(hosts::change))
        .route("/v1/balance", get(planner::balance).post(planner::apply_balance))
        .route("/v1/capacity", get(planner::capacity))
        .route("/v1/what-if/host-loss/{name}", get(planner::host_loss))
        .route("/v1/what-if/add-host", get(planner::add_host))
        .route("/v1/plan/reboot", get(planner::reboot))
        .route("/v1/cluster/dump", get(planner::dump))
        .route("/v1/usage", get(planner::all_usages))
        .route("/v1/hosts/{name}/duty", post(hosts::duty))
        .route("/v1/hosts/{name}/usage", get(usage::of_host))
        .route("/v1/hosts/{name}/series", get(measured::of_host))
        .route("/v1/guests/{name}/series", get(measured::of_guest))
        .route("/v1/guests/{name}/last-lines", get(last_lines::of_guest))
        .route("/v1/guests/{name}/last-moments", get(last_moments::of_guest))
        .route("/metrics", get(metrics::of_this_host))
        .route("/v1/rules", get(rules::list).post(rules::create))
        .route("/v1/rules/{name}", get(rules::show).put(rules::replace).delete(rules::delete))
        .route("/v1/guests", get(lists::guests).post(create::create))
        .route("/v1/guests/{name}", get(lists::guest).patch(guests::change).delete(guests::delete))
        .route("/v1/guests/{name}/start", post(guests::start))
        .route("/v1/guests/{name}/stop", post(guests::stop))
        .route("/v1/guests/{name}/restart", post(guests::restart))
        .route("/v1/guests/{name}/migrate", post(migrate::migrate))
        .route("/v1/guests/{name}/why", get(planner::why))
        .route("/v1/guests/{name}/exec", post(inside::exec))
        .route("/v1/guests/{name}/console", get(inside::console))
        .route("/v1/guests/{name}/console-tickets", post(inside::console_ticket))
        .route("/v1/guests/{name}/screen", get(screen::screen))
        .route("/v1/volumes", get(lists::volumes))
        .route("/v1/volumes/{id}", get(lists::volume))
        .route("/v1/volumes/{id}/replace-secondary", post(volumes::replace_secondary))
        .route("/v1/volumes/{id}/resync", post(volumes::resync))
        .route("/v1/volumes/{id}/verify", post(volumes::verify))
        .route("/v1/volumes/{id}/grow", post(volumes::grow))
        .route("/v1/volumes/{id}/convert", post(volumes::convert))
        .route("/v1/networks", get(lists::networks).post(networks::create))
        .route("/v1/networks/{name}", get(lists::network).delete(networks::delete))
        .route("/v1/pools", get(pools::list).post(pools::create))
        .route("/v1/pools/{name}", get(pools::show).delete(pools::delete))
        .route("/v1/hosts/{name}/confirm-dead", post(hosts::confirm_dead))
        .route("/v1/hosts/{name}/fence-devices", post(fencing::add))
        .route("/v1/hosts/{name}/fence-devices/{device}", delete(fencing::remove))
        .route("/v1/hosts/{name}/fence", post(fencing::fence))
        .route("/v1/hosts/{name}/unfence", post(fencing::unfence))
        .route("/v1/hosts/{name}/fence-test", post(fencing::test))
        .route("/v1/images", get(lists::images).post(images::register))
        .route("/v1/images/{name}", get(lists::image).delete(images::delete))
        .route("/v1/images/{name}/build", post(images::build))
        .route("/v1/jobs", get(lists::jobs))
        .route("/v1/jobs/{id}", get(lists::job))
        .route("/v1/jobs/{id}/cancel", post(guests::cancel_job))
        .route("/v1/events", get(lists::events))
        .route("/v1/incidents", get(alerts::incidents))
        .route("/v1/incidents/{id}", get(alerts::incident))
        .route("/v1/alerts", get(alerts::list).post(alerts::add))
        .route("/v1/alerts/{name}", delete(alerts::remove))
        .route("/v1/alerts/{name}/test", post(alerts::test))
        .route("/v1/stream", get(stream::everything))
        .route("/v1/session", delete(sign_in::sign_out))
        .route("/v1/users", get(sign_in::users::list).post(sign_in::users::add))
        .route("/v1/users/{name}", delete(sign_in::users::remove))
        .route("/v1/users/{name}/password", put(sign_in::users::set_password))
}

/// Marks what a host says that is cut off from the state store: it may be old, and another host may know
/// better.
async fn mark_old(State(backend): State<Shared>, request: Request, next: Next) -> Response {
    let reads = request.method() == Method::GET;
    let mut response = next.run(request).await;
    if reads && !backend.state().read().is_connected() {
        response.headers_mut().insert(api::OLD_HEADER, HeaderValue::from_static("true"));
    }
    response
}
