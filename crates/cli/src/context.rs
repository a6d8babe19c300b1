//! What every command gets: how to print, and how to reach the cluster.

use std::path::PathBuf;

use api::{Client, ClientConfig};
use clap::Args;

use crate::failure::Failure;
use crate::output::{Format, Output};

/// Options that every command takes.
#[derive(Debug, Args)]
pub struct Global {
    /// How results are printed
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t, global = true)]
    output: Format,
    /// The client configuration: which cluster, and who asks [default: $KENNEL_CONFIG or ~/.config/kennel/client.toml]
    #[arg(long, value_name = "PATH", global = true)]
    config: Option<PathBuf>,
}

#[derive(Debug)]
pub struct Context {
    pub output: Output,
    config: Option<PathBuf>,
}

impl Context {
    pub fn new(global: Global) -> Self {
        Self { output: Output::new(global.output), config: global.config }
    }

    pub fn client(&self) -> Result<Client, Failure> {
        let config = match &self.config {
            Some(path) => ClientConfig::load(path)?,
            None => ClientConfig::load_default()?,
        };
        Ok(Client::from_config(config)?)
    }
}
