//! The cluster at a glance, and the way into it for one more host.

use api::{ClusterStatus, Invitation, JoinAnswer, JoinRequest, JoinToken};
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use jiff::{SignedDuration, Timestamp};
use model::{Cluster, ClusterView, Host, HostName, HostPhase, TokenUse};
use store::{Cache, Secret, StoreError, codec, keys};

use super::answer::{Answer, Body, Refused};
use super::auth::Caller;
use super::{Shared, commit, planner, token};
use crate::pki::{self, CertificateAuthority};

/// How long a join token is good.
const INVITATION_HOURS: i64 = 1;

/// How many join tokens that are over are cleared away with one invitation.
const STALE_TOKENS_MAX: usize = 16;

pub async fn status(State(backend): State<Shared>) -> Answer<Json<ClusterStatus>> {
    let members = backend.store_members().await;
    let (view, answers) = {
        let cache = backend.state().read();
        (cache.snapshot(), cache.is_connected())
    };
    let planned = planner::problems(view.clone()).await;
    let status = ClusterStatus::of(&view, backend.me(), answers, members, planned);
    let unread =
        || Refused::store_unavailable("show the cluster", "this host has not read the cluster's state yet");
    status.map(Json).ok_or_else(unread)
}

pub async fn invite(
    State(backend): State<Shared>,
    Extension(caller): Extension<Caller>,
) -> Answer<(StatusCode, Json<Invitation>)> {
    let asked = "invite a host";
    let now = Timestamp::now();
    let expires_at = now + SignedDuration::from_hours(INVITATION_HOURS);
    let name = format!("join, invited by {}", caller.name());
    let (secret, stored) = token::new_token(&name, TokenUse::Join, now, Some(expires_at));
    let draft = |cache: &Cache| {
        let mut txn = cache.txn();
        txn.create(&stored);
        for key in stale_tokens(cache.view(), now) {
            txn.delete(&key);
        }
        commit::built(&mut txn, asked)
    };
    commit::change(&*backend, asked, draft, |view| view.tokens.contains_key(&stored.sha256)).await?;
    let view = backend.state().view();
    let cluster = cluster_of(&view, asked)?;
    let ca_sha256 =
        pki::fingerprint(&cluster.ca_certificate).map_err(|error| Refused::failed(asked, error))?;
    let token = JoinToken { endpoints: endpoints(&view), ca_sha256, secret }.to_string();
    Ok((StatusCode::CREATED, Json(Invitation { token, expires_at })))
}

fn stale_tokens(view: &ClusterView, now: Timestamp) -> Vec<String> {
    let over = |end: Option<Timestamp>| end.is_some_and(|end| end <= now);
    let stale = view.tokens.iter().filter(|(_, token)| over(token.expires_at));
    stale.map(|(sha256, _)| keys::token(sha256)).take(STALE_TOKENS_MAX).collect()
}

fn endpoints(view: &ClusterView) -> Vec<String> {
    let live = view.hosts.values().filter(|host| view.is_live(&host.name));
    live.map(|host| format!("https://{}", std::net::SocketAddr::new(host.address, api::PORT))).collect()
}

fn cluster_of<'a>(view: &'a ClusterView, asked: &str) -> Answer<&'a Cluster> {
    let unread = || Refused::store_unavailable(asked, "this host has not read the cluster's state yet");
    view.cluster.as_ref().ok_or_else(unread)
}

/// Lets a host in: uses the token up and enters the host, in one transaction. A host that never got the
/// answer comes again with a new token under the same name.
pub async fn join(
    State(backend): State<Shared>,
    Body(request): Body<JoinRequest>,
) -> Answer<Json<JoinAnswer>> {
    let asked = format!("join the cluster as '{}'", request.name);
    let now = Timestamp::now();
    // Before anything else: whoever holds no token learns nothing.
    let (cluster, token_key) = {
        let view = backend.state().view();
        let (sha256, _) =
            token::find(&view, &request.secret, TokenUse::Join, now).ok_or_else(|| bad_token(&asked))?;
        (cluster_of(&view, &asked)?.clone(), keys::token(sha256))
    };
    let authority = authority(&backend, &cluster, &asked).await?;
    let certificate = authority
        .issue_host(&request.signing_request, &request.name, request.address)
        .map_err(|error| Refused::invalid(&asked, error.to_string(), "join with this build's kenneld"))?;
    let draft = |cache: &Cache| {
        let view = cache.view();
        token::find(view, &request.secret, TokenUse::Join, now).ok_or_else(|| bad_token(&asked))?;
        let mut txn = cache.txn();
        txn.put(&new_host(view, &request, now, &asked)?).unchanged(keys::CLUSTER).delete(&token_key);
        commit::built(&mut txn, &asked)
    };
    let entered =
        |view: &ClusterView| view.hosts.get(&request.name).is_some_and(|host| host.joined_at == now);
    commit::change(&*backend, &asked, draft, entered).await?;
    let hosts = backend.state().view().hosts.values().cloned().collect();
    Ok(Json(JoinAnswer { cluster, certificate, hosts }))
}

fn bad_token(asked: &str) -> Refused {
    let mut refused = Refused::unauthorized(
        "the join token is not one of this cluster, was used, or has expired",
        "get a new one with `kennel cluster invite`",
    );
    refused.0.asked = asked.to_owned();
    refused.0.detail = refused.0.refusal().to_string();
    refused
}

async fn authority(backend: &Shared, cluster: &Cluster, asked: &str) -> Answer<CertificateAuthority> {
    let key = keys::secret(pki::CA_KEY_SECRET);
    let listing = backend.state().store().list(&key).await.map_err(|error| match error {
        StoreError::Unavailable(why) | StoreError::Unknown(why) => Refused::store_unavailable(asked, why),
        StoreError::Refused(_) | StoreError::LeaseGone => Refused::failed(asked, error),
    })?;
    let entry = listing.entries.iter().find(|entry| entry.key == key);
    let missing =
        || Refused::failed(asked, "the key of the cluster's certificate authority is not in the store");
    let (secret, _) = codec::decode::<Secret>(&key, &entry.ok_or_else(missing)?.value)
        .map_err(|error| Refused::failed(asked, error))?;
    CertificateAuthority::load(&cluster.ca_certificate, &secret.text)
        .map_err(|error| Refused::failed(asked, error))
}

fn new_host(view: &ClusterView, request: &JoinRequest, now: Timestamp, asked: &str) -> Answer<Host> {
    let name = &request.name;
    let present = view.hosts.get(name);
    if present.is_some() && view.host_phase(name) != HostPhase::Joining {
        let instead = "start kenneld there with another --name";
        return Err(Refused::by_state(asked, "a host of that name is in the cluster already", instead));
    }
    let same_address = |other: &&Host| &other.name != name && other.address == request.address;
    if let Some(other) = view.hosts.values().find(same_address) {
        let why = format!("its address {} is that of host {}", request.address, other.name);
        return Err(Refused::by_state(asked, why, "start kenneld there with the --address of its own"));
    }
    Ok(Host {
        name: name.clone(),
        address: request.address,
        zone: request.zone.clone(),
        tags: request.tags.clone(),
        joined_at: now,
        store_member: present.map_or_else(|| store_member_wanted(view, name), |host| host.store_member),
        duty: present.map(|host| host.duty).unwrap_or_default(),
        settings: present.map(|host| host.settings.clone()).unwrap_or_default(),
    })
}

/// The first hosts run the members of the state store.
fn store_member_wanted(view: &ClusterView, name: &HostName) -> bool {
    let members = view.hosts.values().filter(|host| host.store_member && &host.name != name).count();
    let wanted = view.cluster.as_ref().map_or(0, |cluster| cluster.settings.store_members);
    members < usize::try_from(wanted).unwrap_or(usize::MAX)
}
