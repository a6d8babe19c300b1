//! An objective as numbers: what the search knows of it.
//!
//! All vectors named for hosts or guests are parallel to the snapshot's. Hosts that are not `counted` neither add to
//! a spread nor to a sum; hosts that do not `take` are no targets.

use crate::snapshot::{Bound, Storage};

/// Everything that counts in one part of a cluster.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    pub hosts: Vec<HostTerms>,
    pub guests: Vec<GuestTerms>,
    pub columns: Vec<Column>,
    pub limits: Vec<Limit>,
    pub reserve: Option<Reserve>,
    pub groups: Vec<GroupTerms>,
    pub wishes: Vec<WishTable>,
    /// What a mirrored guest costs for each pair of hosts: primary times the number of hosts, plus secondary.
    /// Empty: nothing.
    pub pairs: Vec<f64>,
    /// Whether guests may go from one host to another, indexed like `pairs`. Empty: always.
    pub paths: Vec<bool>,
    pub moves: Moves,
    /// No layout scores less.
    pub bound: f64,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct HostTerms {
    pub counted: bool,
    pub takes: bool,
    /// A guest that leaves this host is not held to soft limits.
    pub forces: bool,
    /// What each guest costs whose primary is here.
    pub primary_cost: f64,
    /// What each guest costs whose secondary is here.
    pub secondary_cost: f64,
}

#[derive(Debug, Clone)]
pub struct GuestTerms {
    pub storage: Storage,
    pub movable: bool,
    /// By what its hosts' costs for each guest are multiplied; 0 or 1.
    pub count: f64,
    /// Places in [`Terms::groups`].
    pub groups: Vec<u32>,
    /// Places in [`Terms::wishes`].
    pub wishes: Vec<u32>,
    /// Hosts where it may be, one flag for each host. `None`: anywhere.
    pub allowed: Option<Vec<bool>>,
    /// What it costs to move its memory to another host once.
    pub move_cost: f64,
    /// What it costs to copy its disks once.
    pub copy_cost: f64,
}

/// A sum on each host: its base, and what each guest adds there as primary or as secondary, times the host's scale.
#[derive(Debug, Clone)]
pub struct Column {
    pub name: &'static str,
    /// Of the population standard deviation over the counted hosts.
    pub weight: f64,
    pub primary: Vec<f64>,
    pub secondary: Vec<f64>,
    pub scale: Vec<f64>,
    /// What is there without any guest, scaled already.
    pub base: Vec<f64>,
    pub knee: Option<Knee>,
}

/// Above `at` (in scaled units), a host costs `weight` times the square of what is above.
#[derive(Debug, Clone, Copy)]
pub struct Knee {
    pub at: f64,
    pub weight: f64,
}

/// A sum on each host that must not grow beyond the host's `most`.
#[derive(Debug, Clone)]
pub struct Limit {
    pub name: &'static str,
    /// A soft limit does not bind guests that leave a host which forces.
    pub soft: bool,
    /// What a guest adds as primary.
    pub primary: Vec<f64>,
    pub secondary: Vec<f64>,
    /// What must fit when the guest arrives as primary; [`NOT_ASKED`] when the limit is not looked at.
    pub ask_primary: Vec<f64>,
    pub ask_secondary: Vec<f64>,
    /// What the guests may sum up to.
    pub most: Vec<f64>,
}

/// A limit that is not looked at fits everywhere.
pub const NOT_ASKED: f64 = f64::NEG_INFINITY;

/// Memory kept for the guests that come when others' hosts die.
#[derive(Debug, Clone)]
pub struct Reserve {
    /// What a guest needs on its secondary's host when its primary is lost.
    pub needs: Vec<f64>,
    /// What it takes on its primary's host now.
    pub uses: Vec<f64>,
    /// What each host is lost together with, by number; a guest whose two hosts are lost together needs nothing.
    pub unit: Vec<u32>,
    /// How many units are lost at once.
    pub losses: usize,
    /// Memory for guests on each host, as the limit sees it.
    pub most: Vec<f64>,
    /// The same as the score sees it.
    pub most_scored: Vec<f64>,
    /// Of what is needed, for shares: 1 / all memory.
    pub scale: Vec<f64>,
    /// Of the spread of shares.
    pub spread_weight: f64,
    /// Of the sum of shares.
    pub sum_weight: f64,
    pub shortfall: Shortfall,
    /// Ganeti's way: exactly enough is too little, and a guest's need must fit by itself.
    pub strict: bool,
    /// A soft limit does not bind guests that leave a host which forces.
    pub soft: bool,
}

/// What a host costs whose free memory is less than what it must take over.
#[derive(Debug, Clone, Copy)]
pub enum Shortfall {
    /// So much for each guest that has its primary or its secondary there.
    EachGuest(f64),
    /// So much for each share of its memory that is missing.
    Share(f64),
}

/// Guests that are counted together, by host or by whatever the keys are.
#[derive(Debug, Clone)]
pub struct GroupTerms {
    /// For each host the places where its guests count. In a group that is to be together the last key is one that
    /// all hosts have whose guests count.
    pub keys: std::sync::Arc<Vec<Vec<u32>>>,
    pub key_count: u32,
    pub bound: Bound,
    /// What each guest too many costs.
    pub weight: f64,
    pub must: bool,
    /// A soft limit does not bind guests that leave a host which forces.
    pub soft: bool,
}

/// What it costs a guest to be on each host.
#[derive(Debug, Clone)]
pub struct WishTable {
    pub cost: Vec<f64>,
}

/// Which kinds of moves may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moves {
    /// Disks may be copied.
    pub disks: bool,
    /// Guests may run elsewhere.
    pub guests: bool,
    /// Guests migrate only from hosts that force, and never in a chain.
    pub restricted: bool,
    /// A limit is looked at for every role that a guest takes, even where its host gets no fuller by it.
    pub strict: bool,
    /// Soft limits bind nobody.
    pub force: bool,
}

impl Default for Moves {
    fn default() -> Self {
        Moves { disks: true, guests: true, restricted: false, strict: false, force: false }
    }
}
