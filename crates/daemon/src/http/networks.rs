//! Networks come and go.

use api::{CreateNetwork, NetworkView};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use model::{ClusterView, Network, NetworkName};
use store::{Cache, keys};

use super::answer::{Answer, Body, Refused, named};
use super::{Shared, commit};

const MTU_DEFAULT: u32 = 1500;
/// What IPv6 needs at least.
const MTU_MIN: u32 = 1280;
const MTU_MAX: u32 = 65_535;

pub async fn create(
    State(backend): State<Shared>,
    Body(request): Body<CreateNetwork>,
) -> Answer<(StatusCode, Json<NetworkView>)> {
    let asked = format!("create the network '{}'", request.name);
    let network = checked(&request, &asked)?;
    let draft = |cache: &Cache| {
        if cache.view().networks.contains_key(&network.name) {
            return Err(Refused::by_state(&asked, "a network of that name exists", "choose another name"));
        }
        let mut txn = cache.txn();
        txn.create(&network);
        commit::built(&mut txn, &asked)
    };
    let there = |view: &ClusterView| view.networks.get(&network.name) == Some(&network);
    commit::change(&*backend, &asked, draft, there).await?;
    Ok((StatusCode::CREATED, Json(NetworkView::of(backend.state().read().view(), &network))))
}

fn checked(request: &CreateNetwork, asked: &str) -> Answer<Network> {
    let (subnet, gateway) = (request.subnet.trunc(), request.gateway);
    if subnet != request.subnet {
        let why = format!("{} is an address inside {subnet}, not a subnet", request.subnet);
        return Err(Refused::invalid(asked, why, format!("write {subnet}")));
    }
    if let Some(gateway) = gateway.filter(|gateway| !subnet.contains(gateway)) {
        let why = format!("the gateway {gateway} is not in {subnet}");
        return Err(Refused::invalid(asked, why, "choose one that is"));
    }
    let mtu = request.mtu.unwrap_or(MTU_DEFAULT);
    if !(MTU_MIN..=MTU_MAX).contains(&mtu) {
        let why = format!("an MTU of {mtu} does not work");
        return Err(Refused::invalid(asked, why, format!("choose between {MTU_MIN} and {MTU_MAX}")));
    }
    Ok(Network { name: request.name.clone(), subnet, gateway, mtu })
}

pub async fn delete(
    State(backend): State<Shared>,
    Path(name): Path<String>,
) -> Answer<Json<serde_json::Value>> {
    let name: NetworkName = named(&name, "network")?;
    let asked = format!("delete the network '{name}'");
    let draft = |cache: &Cache| {
        let view = cache.view();
        if !view.networks.contains_key(&name) {
            return Err(Refused::not_found(&asked, "network", &name));
        }
        let on_it = view.guests.values().filter(|guest| guest.nics.iter().any(|nic| nic.network == name));
        let guests: Vec<_> = on_it.map(|guest| guest.name.as_str()).collect();
        if !guests.is_empty() {
            let why = format!("guests are on it: {}", guests.join(", "));
            return Err(Refused::by_state(&asked, why, "delete those first"));
        }
        let mut txn = cache.txn();
        txn.delete(&keys::network(&name));
        commit::built(&mut txn, &asked)
    };
    commit::change(&*backend, &asked, draft, |view| !view.networks.contains_key(&name)).await?;
    Ok(Json(serde_json::json!({})))
}
