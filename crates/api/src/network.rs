//! Networks as people ask for them and see them.

use std::net::IpAddr;

use ipnet::IpNet;
use model::{AddressClaim, ClusterView, Network, NetworkName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Watched;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateNetwork {
    pub name: NetworkName,
    /// Where guests get their addresses from.
    #[schema(value_type = String, example = "10.90.0.0/24")]
    pub subnet: IpNet,
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub gateway: Option<IpAddr>,
    /// Bytes of a packet on it; default 1500.
    #[serde(default)]
    pub mtu: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkView {
    pub name: NetworkName,
    pub network: Network,
    /// Who holds which address on it.
    pub addresses: Vec<AddressClaim>,
}

impl NetworkView {
    pub fn of(view: &ClusterView, network: &Network) -> Self {
        Self {
            name: network.name.clone(),
            network: network.clone(),
            addresses: view
                .addresses
                .values()
                .filter(|claim| claim.network == network.name)
                .cloned()
                .collect(),
        }
    }

    pub fn list(view: &ClusterView) -> Vec<Self> {
        view.networks.values().map(|network| Self::of(view, network)).collect()
    }

    pub fn find(view: &ClusterView, name: &NetworkName) -> Option<Self> {
        view.networks.get(name).map(|network| Self::of(view, network))
    }
}

impl Watched for NetworkView {
    fn watch_id(&self) -> String {
        self.name.to_string()
    }
}
