//! `kennel pool`: where guests' disks are put.

use api::{CreatePool, PoolView};
use clap::{Subcommand, ValueEnum};
use jiff::Timestamp;
use model::{PoolName, PoolStorage};

use crate::context::Context;
use crate::failure::Failure;
use crate::listing::{self, Listed};
use crate::output::{Block, Cell, Tone};
use crate::{terminal, times};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// All pools, and how many hosts reach each
    #[command(after_help = "Example:
  kennel pool list")]
    List {
        /// Go on, and show every change
        #[arg(long)]
        watch: bool,
    },
    /// Everything about one pool: which hosts reach it, and why others do not
    #[command(after_help = "Example:
  kennel pool show nfs1")]
    Show { pool: PoolName },
    /// Make a pool of storage that the hosts share
    #[command(after_help = "Example:
  kennel pool create nfs1 --kind shared --path /srv/shared
  kennel guest create web1 --image debian-13 --pool nfs1

The folder must be mounted at the same path on every host that is to run guests from it. The host that is asked
leaves a mark in it, by which the others know that they see the same folder.")]
    Create {
        name: PoolName,
        #[arg(long, value_enum)]
        kind: Kind,
        /// The folder, from the root on
        #[arg(long)]
        path: String,
    },
    /// Remove a pool that no volume is in; the storage itself is left as it is
    #[command(after_help = "Example:
  kennel pool delete nfs1 --yes")]
    Delete {
        pool: PoolName,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// The kinds of pools that can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A folder that the hosts have in common: NFS, GlusterFS, OCFS2, …
    Shared,
}

pub async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        Command::List { watch: true } => listing::watch::<PoolView>(context, client.watch_pools()).await,
        Command::List { watch: false } => listing::print(context, &client.pools().await?),
        Command::Show { pool } => {
            let view = client.pool(&pool).await?;
            context.output.result(&view, |coloured| show(&view, Timestamp::now()).render(coloured))
        }
        Command::Create { name, kind: Kind::Shared, path } => {
            let storage = PoolStorage::Shared { path };
            let view = client.create_pool(&CreatePool { name, storage }).await?;
            context.output.result(&view, |_| {
                format!(
                    "The pool {0} is there; `kennel pool show {0}` tells which hosts reach it.\n",
                    view.name
                )
            })
        }
        Command::Delete { pool, yes } => {
            let consequence = format!("No guest can be put into the pool {pool} any more.");
            terminal::confirm(&format!("delete the pool '{pool}'"), &[consequence], yes)?;
            client.delete_pool(&pool).await?;
            context
                .output
                .result(&serde_json::json!({ "deleted": pool }), |_| format!("The pool {pool} is gone.\n"))
        }
    }
}

/// As in `2 of 3`; pools on the hosts' own disks are everywhere.
fn reached(view: &PoolView) -> Cell {
    if view.storage.is_none() {
        return Cell::from("all");
    }
    let (reach, all) = (view.hosts.iter().filter(|host| host.reaches).count(), view.hosts.len());
    let tone = match reach {
        0 => Tone::Bad,
        some if some < all => Tone::Busy,
        _ => Tone::Good,
    };
    Cell::new(format!("{reach} of {all}"), tone)
}

impl Listed for PoolView {
    const HEAD: &'static [&'static str] = &["NAME", "KIND", "WHERE", "HOSTS", "VOLUMES", "SIZE"];
    const NOTHING: &'static str = "There is no pool.";

    fn row(&self, _now: Timestamp) -> Vec<Cell> {
        vec![
            Cell::from(&self.name),
            Cell::from(self.kind),
            Cell::from(place(self)),
            reached(self),
            Cell::from(self.volumes),
            Cell::from(self.size_of_volumes),
        ]
    }
}

fn place(view: &PoolView) -> String {
    view.storage.as_ref().map_or_else(|| "the hosts' own disks".to_owned(), ToString::to_string)
}

fn show(view: &PoolView, now: Timestamp) -> Block {
    let hosts = view.hosts.iter().map(|host| match (&host.problem, host.size) {
        (Some(why), _) => format!("{}: {why}", host.host),
        (None, Some(size)) => format!("{}: {size}", host.host),
        (None, None) => host.host.to_string(),
    });
    Block::new()
        .line("Name", &view.name)
        .line("Kind", view.kind)
        .line("Where", place(view))
        .line("Volumes", format!("{}, {} together", view.volumes, view.size_of_volumes))
        .maybe("Made", view.created_at.map(|at| times::at_and_ago(at, now)))
        .each("Hosts", hosts)
}

#[cfg(test)]
mod tests {
    use api::PoolHostView;
    use model::{Bytes, Pool};

    use super::*;

    #[test]
    fn a_pool_says_which_hosts_do_not_reach_it() {
        let host = |name: &str, problem: Option<&str>| PoolHostView {
            host: name.parse().unwrap(),
            reaches: problem.is_none(),
            problem: problem.map(str::to_owned),
            size: Some(Bytes::gib(100)),
        };
        let view = PoolView {
            name: "nfs1".parse().unwrap(),
            kind: Pool::Shared,
            storage: Some(PoolStorage::Shared { path: "/srv/shared".to_owned() }),
            volumes: 2,
            size_of_volumes: Bytes::gib(20),
            hosts: vec![
                host("host1", None),
                host("host2", Some("it does not reach the pool 'nfs1': no mark")),
            ],
            created_at: None,
        };
        assert_eq!(
            listing::render(std::slice::from_ref(&view), Timestamp::UNIX_EPOCH, false),
            "NAME  KIND    WHERE        HOSTS   VOLUMES  SIZE\n\
             nfs1  shared  /srv/shared  1 of 2  2        20G\n"
        );
        let text = show(&view, Timestamp::UNIX_EPOCH).render(false);
        assert!(text.contains("host1: 100G") && text.contains("host2: it does not reach"), "{text}");
    }
}
