//! Networks: L2 segments that guests attach to, and the addresses on them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{GuestName, NetworkName};

/// A network. On each host it is a bridge; the host's configuration names the interface that joins the
/// hosts' bridges into one segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Network {
    pub name: NetworkName,
    /// Where guests get their addresses from.
    #[schema(value_type = String, example = "10.90.0.0/24")]
    pub subnet: IpNet,
    #[schema(value_type = Option<String>)]
    pub gateway: Option<IpAddr>,
    /// Bytes of a packet on it.
    pub mtu: u32,
}

/// An address that a guest holds. Its key is the network and the address, so that nobody else can hold it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AddressClaim {
    pub network: NetworkName,
    #[schema(value_type = String)]
    pub address: IpAddr,
    pub guest: GuestName,
}
