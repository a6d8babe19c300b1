//! Ganeti's text format (what `hscan` writes and `hbal -t` reads), so that Kennel can plan for a Ganeti cluster
//! offline and be measured by Ganeti's own tools.
//!
//! [`Cluster::parse`] reads a file or says which line and field is wrong; [`Cluster::metrics`] computes Ganeti's
//! score from scratch, as a yardstick for the engine; [`Cluster::write`] gives the file back with instances
//! elsewhere. Within this module the words are Ganeti's (node, instance), because they are the file's; outside
//! they are hosts and guests.

mod convert;
mod facts;
mod field;
mod loads;
mod metrics;
mod parse;
mod record;
mod warn;
mod write;

pub use convert::Order;
pub use loads::Loads;
pub use metrics::{Kind, METRICS, Metric, Metrics};
pub use parse::Damage;
pub use record::{
    Cluster, DEFAULT_STANDARD, Instance, Mirroring, Node, NodeGroup, Policy, Role, Spec, Status, Template,
    Utilisation,
};
pub use write::Seat;
