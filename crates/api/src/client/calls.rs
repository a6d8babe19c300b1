//! One method for each thing that an operator can ask.

use futures::stream::BoxStream;
use model::{Bytes, GuestName, HostName, ImageName, JobId, NetworkName, PoolName, Recipe, Storm, VolumeId};
use serde::de::IgnoredAny;

use super::{Ask, Client, ClientError};
use crate::{
    BuildImage, ClusterStatus, ConfirmedView, ConvertVolume, CreateGuest, CreateNetwork, CreatePool,
    EventQuery, EventView, ExecAnswer, ExecRequest, GrowVolume, GuestView, HostView, ImageView, Invitation,
    JobView, MigrateGuest, NetworkView, PoolView, ReplaceSecondary, ResyncVolume, VolumeView, WatchEvent,
};

pub(super) type Answer<T> = Result<T, ClientError>;
pub(super) type Watch<T> = BoxStream<'static, Answer<WatchEvent<T>>>;

impl Client {
    pub async fn cluster_status(&self) -> Answer<ClusterStatus> {
        self.fetch(Ask::get("/v1/cluster", "show the cluster")).await
    }

    /// A token that lets one more host in, once.
    pub async fn invite(&self) -> Answer<Invitation> {
        self.fetch(Ask::post("/v1/cluster/invitations", "invite a host")).await
    }

    pub async fn hosts(&self) -> Answer<Vec<HostView>> {
        self.fetch(Ask::get("/v1/hosts", "list the hosts")).await
    }

    pub async fn host(&self, name: &HostName) -> Answer<HostView> {
        self.fetch(Ask::get(format!("/v1/hosts/{name}"), format!("show the host '{name}'"))).await
    }

    pub async fn guests(&self) -> Answer<Vec<GuestView>> {
        self.fetch(Ask::get("/v1/guests", "list the guests")).await
    }

    pub async fn guest(&self, name: &GuestName) -> Answer<GuestView> {
        self.fetch(Ask::get(guest(name, ""), format!("show the guest '{name}'"))).await
    }

    pub async fn create_guest(&self, request: &CreateGuest) -> Answer<JobView> {
        let asked = format!("create the guest '{}'", request.name);
        self.fetch(Ask::post("/v1/guests", asked).json(request)?).await
    }

    /// Ends the guest and deletes its disks.
    pub async fn delete_guest(&self, name: &GuestName) -> Answer<JobView> {
        self.fetch(Ask::delete(guest(name, ""), format!("delete the guest '{name}'"))).await
    }

    pub async fn start_guest(&self, name: &GuestName) -> Answer<JobView> {
        self.fetch(Ask::post(guest(name, "/start"), format!("start the guest '{name}'"))).await
    }

    pub async fn stop_guest(&self, name: &GuestName) -> Answer<JobView> {
        self.fetch(Ask::post(guest(name, "/stop"), format!("stop the guest '{name}'"))).await
    }

    pub async fn restart_guest(&self, name: &GuestName) -> Answer<JobView> {
        self.fetch(Ask::post(guest(name, "/restart"), format!("restart the guest '{name}'"))).await
    }

    /// Brings it, or its secondary, to another host.
    pub async fn migrate_guest(&self, name: &GuestName, request: &MigrateGuest) -> Answer<JobView> {
        let ask = Ask::post(guest(name, "/migrate"), format!("migrate the guest '{name}'"));
        self.fetch(ask.json(request)?).await
    }

    /// Runs a program inside, and waits for its end.
    pub async fn exec(&self, name: &GuestName, request: &ExecRequest) -> Answer<ExecAnswer> {
        let ask = Ask::post(guest(name, "/exec"), format!("run a command in the guest '{name}'"));
        self.fetch(ask.json(request)?.endless()).await
    }

    pub async fn volumes(&self) -> Answer<Vec<VolumeView>> {
        self.fetch(Ask::get("/v1/volumes", "list the volumes")).await
    }

    pub async fn volume(&self, id: VolumeId) -> Answer<VolumeView> {
        self.fetch(Ask::get(format!("/v1/volumes/{id}"), format!("show the volume {id}"))).await
    }

    /// Brings the secondary replicas of its guest to another host.
    pub async fn replace_secondary(&self, id: VolumeId, request: &ReplaceSecondary) -> Answer<JobView> {
        let asked = format!("replace the secondary of the volume {id}");
        self.fetch(Ask::post(format!("/v1/volumes/{id}/replace-secondary"), asked).json(request)?).await
    }

    /// Has the secondary replicas of its guest filled anew.
    pub async fn resync_volume(&self, id: VolumeId, request: &ResyncVolume) -> Answer<VolumeView> {
        let asked = format!("resync the volume {id}");
        self.fetch(Ask::post(format!("/v1/volumes/{id}/resync"), asked).json(request)?).await
    }

    /// Has both of its replicas compared.
    pub async fn verify_volume(&self, id: VolumeId) -> Answer<JobView> {
        self.fetch(Ask::post(format!("/v1/volumes/{id}/verify"), format!("verify the volume {id}"))).await
    }

    pub async fn grow_volume(&self, id: VolumeId, size: Bytes) -> Answer<VolumeView> {
        let asked = format!("grow the volume {id}");
        self.fetch(Ask::post(format!("/v1/volumes/{id}/grow"), asked).json(&GrowVolume { size })?).await
    }

    /// Puts all disks of its guest into another pool.
    pub async fn convert_volume(&self, id: VolumeId, request: &ConvertVolume) -> Answer<JobView> {
        let asked = format!("convert the volume {id}");
        self.fetch(Ask::post(format!("/v1/volumes/{id}/convert"), asked).json(request)?).await
    }

    pub async fn pools(&self) -> Answer<Vec<PoolView>> {
        self.fetch(Ask::get("/v1/pools", "list the pools")).await
    }

    pub async fn pool(&self, name: &PoolName) -> Answer<PoolView> {
        self.fetch(Ask::get(format!("/v1/pools/{name}"), format!("show the pool '{name}'"))).await
    }

    pub fn watch_pools(&self) -> Watch<PoolView> {
        self.watch(Ask::get("/v1/pools", "watch the pools"))
    }

    pub async fn create_pool(&self, request: &CreatePool) -> Answer<PoolView> {
        let asked = format!("create the pool '{}'", request.name);
        self.fetch(Ask::post("/v1/pools", asked).json(request)?).await
    }

    pub async fn delete_pool(&self, name: &PoolName) -> Answer<()> {
        self.done(Ask::delete(format!("/v1/pools/{name}"), format!("delete the pool '{name}'"))).await
    }

    /// Ends the slowness of recovery in a storm.
    pub async fn go_on_in_storm(&self) -> Answer<Storm> {
        let asked = "go on with recovery in a storm";
        self.fetch(Ask::post("/v1/cluster/storm/go-on", asked)).await
    }

    /// Only for a host that somebody has seen to be off.
    pub async fn confirm_dead(&self, host: &HostName) -> Answer<ConfirmedView> {
        let asked = format!("confirm that the host '{host}' is dead");
        self.fetch(Ask::post(format!("/v1/hosts/{host}/confirm-dead"), asked)).await
    }

    pub async fn networks(&self) -> Answer<Vec<NetworkView>> {
        self.fetch(Ask::get("/v1/networks", "list the networks")).await
    }

    pub async fn create_network(&self, request: &CreateNetwork) -> Answer<NetworkView> {
        let asked = format!("create the network '{}'", request.name);
        self.fetch(Ask::post("/v1/networks", asked).json(request)?).await
    }

    pub async fn delete_network(&self, name: &NetworkName) -> Answer<()> {
        self.done(Ask::delete(format!("/v1/networks/{name}"), format!("delete the network '{name}'"))).await
    }

    pub async fn images(&self) -> Answer<Vec<ImageView>> {
        self.fetch(Ask::get("/v1/images", "list the images")).await
    }

    pub async fn image(&self, name: &ImageName) -> Answer<ImageView> {
        self.fetch(Ask::get(format!("/v1/images/{name}"), format!("show the image '{name}'"))).await
    }

    pub async fn delete_image(&self, name: &ImageName) -> Answer<()> {
        self.done(Ask::delete(format!("/v1/images/{name}"), format!("delete the image '{name}'"))).await
    }

    /// Has the host that is asked make an image.
    pub async fn build_image(&self, name: &ImageName, recipe: Recipe) -> Answer<JobView> {
        let ask = Ask::post(format!("/v1/images/{name}/build"), format!("build the image '{name}'"));
        self.fetch(ask.json(&BuildImage { recipe })?).await
    }

    pub async fn jobs(&self) -> Answer<Vec<JobView>> {
        self.fetch(Ask::get("/v1/jobs", "list the jobs")).await
    }

    pub async fn job(&self, id: JobId) -> Answer<JobView> {
        self.fetch(Ask::get(format!("/v1/jobs/{id}"), format!("show the job {id}"))).await
    }

    pub async fn cancel_job(&self, id: JobId) -> Answer<JobView> {
        self.fetch(Ask::post(format!("/v1/jobs/{id}/cancel"), format!("cancel the job {id}"))).await
    }

    /// The oldest first.
    pub async fn events(&self, query: &EventQuery) -> Answer<Vec<EventView>> {
        self.fetch(ask_events(query)).await
    }

    pub fn watch_hosts(&self) -> Watch<HostView> {
        self.watch(Ask::get("/v1/hosts", "watch the hosts"))
    }

    pub fn watch_guests(&self) -> Watch<GuestView> {
        self.watch(Ask::get("/v1/guests", "watch the guests"))
    }

    pub fn watch_volumes(&self) -> Watch<VolumeView> {
        self.watch(Ask::get("/v1/volumes", "watch the volumes"))
    }

    pub fn watch_networks(&self) -> Watch<NetworkView> {
        self.watch(Ask::get("/v1/networks", "watch the networks"))
    }

    pub fn watch_images(&self) -> Watch<ImageView> {
        self.watch(Ask::get("/v1/images", "watch the images"))
    }

    pub fn watch_jobs(&self) -> Watch<JobView> {
        self.watch(Ask::get("/v1/jobs", "watch the jobs"))
    }

    /// The limit of the query bounds what the snapshots hold.
    pub fn watch_events(&self, query: &EventQuery) -> Watch<EventView> {
        self.watch(ask_events(query))
    }

    pub(super) async fn done(&self, ask: Ask) -> Answer<()> {
        self.fetch::<IgnoredAny>(ask).await.map(|_| ())
    }
}

pub(super) fn guest(name: &GuestName, rest: &str) -> String {
    format!("/v1/guests/{name}{rest}")
}

fn ask_events(query: &EventQuery) -> Ask {
    let mut ask = Ask::get("/v1/events", "list the events");
    if let Some(subject) = &query.subject {
        ask = ask.query("subject", subject);
    }
    if let Some(limit) = query.limit {
        ask = ask.query("limit", limit);
    }
    ask
}
