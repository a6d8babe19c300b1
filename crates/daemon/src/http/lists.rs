//! Everything that only reads: the lists, which can be watched, and their items.

use std::fmt::Display;

use api::{
    EventQuery, EventView, GuestView, HostView, ImageView, JobView, ListQuery, NetworkView, VolumeView,
};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use model::{ClusterView, GuestName, HostName, ImageName, JobId, NetworkName, VolumeId};

use super::answer::{Answer, Refused, named};
use super::watch;
use super::{Shared, planner};

type Watchable = Query<ListQuery>;

fn item<T>(found: Option<T>, what: &str, name: impl Display) -> Answer<Json<T>> {
    let missing = || Refused::not_found(&format!("show the {what} '{name}'"), what, &name);
    found.map(Json).ok_or_else(missing)
}

/// What this host knows. It may be old while the store does not answer; the cluster's status says so.
fn view(backend: &Shared) -> std::sync::Arc<ClusterView> {
    backend.state().view()
}

pub async fn hosts(State(backend): State<Shared>, Query(query): Watchable) -> Response {
    watch::list(&backend, query.watch, HostView::list).await
}

pub async fn host(State(backend): State<Shared>, Path(name): Path<String>) -> Answer<Json<HostView>> {
    let name: HostName = named(&name, "host")?;
    item(HostView::find(&view(&backend), &name), "host", name)
}

pub async fn guests(State(backend): State<Shared>, Query(query): Watchable) -> Response {
    watch::list(&backend, query.watch, GuestView::list).await
}

pub async fn guest(State(backend): State<Shared>, Path(name): Path<String>) -> Answer<Json<GuestView>> {
    let name: GuestName = named(&name, "guest")?;
    item(GuestView::find(&view(&backend), &name), "guest", name)
}

pub async fn volumes(State(backend): State<Shared>, Query(query): Watchable) -> Response {
    watch::list(&backend, query.watch, VolumeView::list).await
}

pub async fn volume(State(backend): State<Shared>, Path(id): Path<String>) -> Answer<Json<VolumeView>> {
    let id: VolumeId = named(&id, "volume")?;
    let Json(mut volume) = item(VolumeView::find(&view(&backend), id), "volume", id)?;
    volume.verified = view(&backend).verified().get(&id).copied().cloned();
    if volume.degraded_since.is_some() {
        let asked = format!("show the volume '{id}'");
        volume.healing = planner::healing(&backend, volume.guest.clone(), &asked).await?;
    }
    Ok(Json(volume))
}

pub async fn networks(State(backend): State<Shared>, Query(query): Watchable) -> Response {
    watch::list(&backend, query.watch, NetworkView::list).await
}

pub async fn network(State(backend): State<Shared>, Path(name): Path<String>) -> Answer<Json<NetworkView>> {
    let name: NetworkName = named(&name, "network")?;
    item(NetworkView::find(&view(&backend), &name), "network", name)
}

pub async fn images(State(backend): State<Shared>, Query(query): Watchable) -> Response {
    watch::list(&backend, query.watch, ImageView::list).await
}

pub async fn image(State(backend): State<Shared>, Path(name): Path<String>) -> Answer<Json<ImageView>> {
    let name: ImageName = named(&name, "image")?;
    item(ImageView::find(&view(&backend), &name), "image", name)
}

pub async fn jobs(State(backend): State<Shared>, Query(query): Watchable) -> Response {
    watch::list(&backend, query.watch, JobView::list).await
}

pub async fn job(State(backend): State<Shared>, Path(id): Path<String>) -> Answer<Json<JobView>> {
    let id: JobId = named(&id, "job")?;
    item(JobView::find(&view(&backend), id), "job", id)
}

pub async fn events(State(backend): State<Shared>, Query(query): Query<EventQuery>) -> Response {
    watch::list(&backend, query.watch, move |view: &ClusterView| -> Vec<EventView> { query.select(view) })
        .await
}
