//! `kennel network`: the segments that guests attach to.

use std::net::IpAddr;

use api::{CreateNetwork, NetworkView};
use clap::Subcommand;
use jiff::Timestamp;
use model::NetworkName;

use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{self, Listed};
use crate::output::Cell;
use crate::terminal;

/// How many addresses a person reads at a glance.
const ADDRESSES_SHOWN: usize = 4;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// All networks, and who holds which address
    #[command(after_help = "Example:
  kennel network list")]
    List {
        /// Go on, and show every change
        #[arg(long)]
        watch: bool,
    },
    /// Make a network; a guest without --network gets the one called default
    #[command(after_help = "Examples:
  kennel network create default --subnet 10.90.0.0/24 --gateway 10.90.0.254
  kennel network create storage --subnet 10.91.0.0/24 --mtu 9000")]
    Create {
        name: NetworkName,
        /// Where guests get their addresses from, as in 10.90.0.0/24
        #[arg(long, value_parser = subnet)]
        subnet: ipnet::IpNet,
        /// What guests are told to send everything else to
        #[arg(long)]
        gateway: Option<IpAddr>,
        /// Bytes of a packet [default: 1500]
        #[arg(long)]
        mtu: Option<u32>,
    },
    /// Remove a network that no guest uses
    #[command(after_help = "Example:
  kennel network delete storage --yes")]
    Delete {
        network: NetworkName,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

fn subnet(text: &str) -> Result<ipnet::IpNet, String> {
    text.parse().map_err(|_| {
        format!("'{text}' is not a subnet: write an address and a prefix length, as in 10.90.0.0/24")
    })
}

pub async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        Command::List { watch: true } => {
            listing::watch::<NetworkView>(context, client.watch_networks()).await
        }
        Command::List { watch: false } => listing::print(context, &client.networks().await?),
        Command::Create { name, subnet, gateway, mtu } => {
            let view = client.create_network(&CreateNetwork { name, subnet, gateway, mtu }).await?;
            context.output.result(&view, |_| format!("The network {} is there.\n", view.name))
        }
        Command::Delete { network, yes } => {
            let consequence = format!("The network {network} goes, and with it its bridge on every host.");
            terminal::confirm(&format!("delete the network '{network}'"), &[consequence], yes)?;
            client.delete_network(&network).await?;
            context.output.result(&serde_json::json!({ "deleted": network }), |_| {
                format!("The network {network} is gone.\n")
            })
        }
    }
}

impl Listed for NetworkView {
    const HEAD: &'static [&'static str] = &["NAME", "SUBNET", "GATEWAY", "MTU", "ADDRESSES"];
    const NOTHING: &'static str = "There is no network.";

    fn row(&self, _now: Timestamp) -> Vec<Cell> {
        let held = self.addresses.iter().take(ADDRESSES_SHOWN);
        let mut addresses: Vec<_> = held.map(|claim| format!("{} {}", claim.address, claim.guest)).collect();
        if self.addresses.len() > ADDRESSES_SHOWN {
            addresses.push(format!("and {} more", self.addresses.len() - ADDRESSES_SHOWN));
        }
        vec![
            Cell::from(&self.name),
            Cell::from(self.network.subnet),
            Cell::maybe(self.network.gateway),
            Cell::from(self.network.mtu),
            Cell::maybe((!addresses.is_empty()).then(|| addresses.join(", "))),
        ]
    }
}
