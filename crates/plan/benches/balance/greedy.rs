//! hbal's own search, done again: the best single move of all, until none makes the score better.
//!
//! hbal itself takes hours for clusters that this does in a minute, so that this is the reference where hbal cannot
//! be waited for. It takes hbal's steps one by one, and must end with hbal's score: the comparison checks that on
//! every cluster on which hbal ends. It knows what the clusters of this benchmark need and no more: one group, all
//! guests run, one exclusion tag each at most, no locations, loads of 1.
//!
//! Source: `Cluster.hs`, `Cluster/Moves.hs`, `Cluster/Metrics.hs` and `Node.hs` of Ganeti 3.0.2. The words are
//! Ganeti's, to be compared with it.

use std::collections::BTreeMap;

use plan::htools::{Cluster, Instance, Mirroring, Seat};
use rayon::prelude::*;

/// Columns whose spread over the nodes counts: memory, disk, reserved memory, virtual CPUs, spindles, primaries,
/// and all instances. Where nothing is stopped, what is to come repeats what is; of the four loads three count
/// primaries.
const COLUMNS: usize = 7;
const WEIGHTS: [f64; COLUMNS] = [1.0, 1.0, 1.0, 1.0, 1.0, 3.0, 1.0];
/// A score like this or less ends the search when the next step gains less than the second.
const SMALL_SCORE: f64 = 0.1;
const GAIN_MIN: f64 = 0.01;
/// A gain like this may be none: the sums after a move are rounded otherwise than those that are counted anew.
const ROUNDING: f64 = 1e-10;

/// What a descent ends with.
pub struct Descent {
    pub seats: Vec<Seat>,
    pub score: f64,
}

/// What changes of a node. Kept small, because every move that is looked at makes two or three.
#[derive(Clone, Copy)]
struct Figures {
    free_memory: f64,
    free_disk: f64,
    reserved: f64,
    vcpus: f64,
    spindles: f64,
    primaries: f64,
    secondaries: f64,
    /// Primaries beyond the first with the same exclusion tag.
    conflicts: f64,
    /// Its free memory is less than what it must take over.
    fails: bool,
}

struct Node {
    memory: f64,
    disk: f64,
    cores: f64,
    vcpus_most: f64,
    spindles_most: f64,
    offline: bool,
    /// Memory that comes here when the other node is lost.
    peers: Vec<f64>,
    /// The three largest of them.
    top: [(f64, usize); 3],
    tags: BTreeMap<usize, u32>,
    now: Figures,
    /// Columns and rest of `now`.
    columns: [f64; COLUMNS],
    rest: f64,
}

#[derive(Clone, Copy)]
struct Guest {
    memory: f64,
    disk: f64,
    vcpus: f64,
    mirrored: bool,
    tag: Option<usize>,
    primary: usize,
    secondary: usize,
}

/// No node: the secondary of a guest whose disks are shared.
const NOWHERE: usize = usize::MAX;

/// What the score is made of.
#[derive(Clone, Copy)]
struct Sums {
    sum: [f64; COLUMNS],
    square: [f64; COLUMNS],
    rest: f64,
}

struct State {
    nodes: Vec<Node>,
    guests: Vec<Guest>,
    online: f64,
    sums: Sums,
}

/// A move with the score after it.
#[derive(Clone, Copy)]
struct Step {
    guest: usize,
    primary: usize,
    secondary: usize,
    score: f64,
}

/// hbal's moves of a mirrored guest, by which of its nodes change.
#[derive(Clone, Copy)]
enum Kind {
    /// `f`
    Failover,
    /// `r:N`
    ReplaceSecondary,
    /// `r:N f`
    ReplaceAndFailover,
    /// `f r:N`
    FailoverAndReplace,
    /// `f r:N f`
    ReplacePrimary,
}

/// Where hbal would end.
pub fn descend(cluster: &Cluster) -> Descent {
    let mut state = State::new(cluster);
    loop {
        state.count();
        let score = state.score(&state.sums);
        let found = state.best(score);
        match found.filter(|step| score > SMALL_SCORE || score - step.score >= GAIN_MIN) {
            Some(step) => state.take(step),
            None => return Descent { seats: state.seats(), score },
        }
    }
}

impl Figures {
    fn columns(&self, node: &Node) -> [f64; COLUMNS] {
        [
            self.free_memory / node.memory,
            self.free_disk / node.disk,
            self.reserved / node.memory,
            self.vcpus / node.cores,
            self.spindles / node.spindles_most,
            self.primaries,
            self.primaries + self.secondaries,
        ]
    }

    /// What counts by itself: broken promises, conflicts, memory to take over, and whoever is on an offline node.
    fn rest(&self, node: &Node) -> f64 {
        let all = self.primaries + self.secondaries;
        if node.offline {
            return 4.0 * all + 16.0 * self.primaries;
        }
        let failing = if self.fails { all } else { 0.0 };
        failing + 2.0 * self.conflicts + 0.25 * self.reserved / node.memory
    }
}

impl Node {
    fn retop(&mut self) {
        let mut top = [(0.0, NOWHERE); 3];
        for (peer, memory) in self.peers.iter().enumerate() {
            if *memory > top[2].0 {
                top[2] = (*memory, peer);
                top.sort_by(|a, b| b.0.total_cmp(&a.0));
            }
        }
        self.top = top;
    }

    /// What must be taken over once a guest of `less` is gone and one of `more` has come.
    fn reserved(&self, less: usize, more: usize, memory: f64) -> f64 {
        let other = self.top.iter().find(|(_, peer)| *peer != less && *peer != more);
        let with = |peer: usize, by: f64| self.peers.get(peer).map_or(0.0, |now| now + by);
        other.map_or(0.0, |top| top.0).max(with(less, -memory)).max(with(more, memory))
    }

    fn without_primary(&self, mut figures: Figures, guest: &Guest) -> Figures {
        figures.free_memory += guest.memory;
        if guest.mirrored {
            figures.free_disk += guest.disk;
            figures.spindles -= 1.0;
        }
        figures.vcpus -= guest.vcpus;
        figures.primaries -= 1.0;
        if guest.tag.is_some_and(|tag| self.tags.get(&tag).is_some_and(|count| *count > 1)) {
            figures.conflicts -= 1.0;
        }
        figures.fails = figures.free_memory <= figures.reserved;
        figures
    }

    fn without_secondary(&self, mut figures: Figures, guest: &Guest) -> Figures {
        figures.free_disk += guest.disk;
        figures.spindles -= 1.0;
        figures.secondaries -= 1.0;
        figures.reserved = self.reserved(guest.primary, NOWHERE, guest.memory);
        figures.fails = figures.free_memory <= figures.reserved;
        figures
    }

    /// `forced`: it leaves an offline node, and soft limits do not bind it.
    fn with_primary(&self, mut figures: Figures, guest: &Guest, forced: bool) -> Option<Figures> {
        figures.free_memory -= guest.memory;
        if guest.mirrored {
            figures.free_disk -= guest.disk;
            figures.spindles += 1.0;
        }
        if figures.free_memory <= 0.0 || figures.free_disk <= 0.0 {
            return None;
        }
        figures.vcpus += guest.vcpus;
        figures.primaries += 1.0;
        let shared = guest.tag.is_some_and(|tag| self.tags.get(&tag).is_some_and(|count| *count > 0));
        figures.conflicts += if shared { 1.0 } else { 0.0 };
        let failed = figures.fails;
        figures.fails = figures.free_memory <= figures.reserved;
        let refused = figures.fails && !failed
            || figures.vcpus > self.vcpus_most
            || figures.spindles > self.spindles_most
            || shared;
        (forced || !refused).then_some(figures)
    }

    /// `less`: of the node's own secondaries the guest was one already, with this primary.
    fn with_secondary(
        &self,
        mut figures: Figures,
        guest: &Guest,
        primary: usize,
        less: usize,
        forced: bool,
    ) -> Option<Figures> {
        figures.free_disk -= guest.disk;
        figures.spindles += 1.0;
        if figures.free_disk <= 0.0 || !forced && guest.memory >= figures.free_memory {
            return None;
        }
        figures.secondaries += 1.0;
        figures.reserved = self.reserved(less, primary, guest.memory);
        let failed = figures.fails;
        figures.fails = figures.free_memory <= figures.reserved;
        let refused = figures.fails && !failed || figures.spindles > self.spindles_most;
        (forced || !refused).then_some(figures)
    }
}

impl State {
    fn new(cluster: &Cluster) -> State {
        let mut tags: BTreeMap<String, usize> = BTreeMap::new();
        let guests = cluster.instances.iter().map(|instance| guest(cluster, instance, &mut tags)).collect();
        let nodes = cluster.nodes.iter().map(|node| Node {
            memory: node.t_mem,
            disk: node.t_disk,
            cores: node.t_cpu,
            vcpus_most: cluster.vcpu_ratio(node.group) * node.t_cpu,
            spindles_most: cluster.spindle_ratio(node.group) * node.spindles as f64,
            offline: node.is_offline(),
            peers: vec![0.0; cluster.nodes.len()],
            top: [(0.0, NOWHERE); 3],
            tags: BTreeMap::new(),
            now: Figures {
                free_memory: node.f_mem as f64,
                free_disk: node.f_disk as f64,
                reserved: 0.0,
                vcpus: node.n_cpu as f64,
                spindles: 0.0,
                primaries: 0.0,
                secondaries: 0.0,
                conflicts: 0.0,
                fails: false,
            },
            columns: [0.0; COLUMNS],
            rest: 0.0,
        });
        let nodes: Vec<Node> = nodes.collect();
        let online = nodes.iter().filter(|node| !node.offline).count() as f64;
        let sums = Sums { sum: [0.0; COLUMNS], square: [0.0; COLUMNS], rest: 0.0 };
        let mut state = State { nodes, guests, online, sums };
        for at in 0..state.guests.len() {
            state.seat(at);
        }
        for node in &mut state.nodes {
            node.retop();
            node.now.reserved = node.top[0].0;
            // Exactly enough is enough here, and too little for a move: Ganeti has it so.
            node.now.fails = node.now.free_memory < node.now.reserved;
        }
        state
    }

    /// Counts a guest where it is; its memory and disk are counted in what the file has free.
    fn seat(&mut self, at: usize) {
        let guest = self.guests[at];
        let node = &mut self.nodes[guest.primary];
        node.now.vcpus += guest.vcpus;
        node.now.primaries += 1.0;
        node.now.spindles += if guest.mirrored { 1.0 } else { 0.0 };
        if let Some(tag) = guest.tag {
            let count = node.tags.entry(tag).or_default();
            node.now.conflicts += if *count > 0 { 1.0 } else { 0.0 };
            *count += 1;
        }
        if guest.mirrored {
            let node = &mut self.nodes[guest.secondary];
            node.now.secondaries += 1.0;
            node.now.spindles += 1.0;
            node.peers[guest.primary] += guest.memory;
        }
    }

    fn seats(&self) -> Vec<Seat> {
        let seat = |guest: &Guest| Seat {
            primary: guest.primary,
            secondary: Some(guest.secondary).filter(|node| *node != NOWHERE),
        };
        self.guests.iter().map(seat).collect()
    }

    /// Counts everything anew, so that rounding errors do not add up.
    fn count(&mut self) {
        let mut sums = Sums { sum: [0.0; COLUMNS], square: [0.0; COLUMNS], rest: 0.0 };
        for node in &mut self.nodes {
            (node.columns, node.rest) = (node.now.columns(node), node.now.rest(node));
            sums.rest += node.rest;
            if !node.offline {
                for (column, value) in node.columns.into_iter().enumerate() {
                    sums.sum[column] += value;
                    sums.square[column] += value * value;
                }
            }
        }
        self.sums = sums;
    }

    fn score(&self, sums: &Sums) -> f64 {
        let spread = |column: usize| {
            let mean = sums.sum[column] / self.online;
            WEIGHTS[column] * (sums.square[column] / self.online - mean * mean).max(0.0).sqrt()
        };
        (0..COLUMNS).map(spread).sum::<f64>() + sums.rest
    }

    /// The sums with other figures on a node.
    fn with(&self, sums: &Sums, at: usize, new: &Figures) -> Sums {
        let node = &self.nodes[at];
        exchanged(sums, node, (&node.columns, node.rest), new)
    }

    /// The sums with other figures on a node for which `old` is counted.
    fn with_instead(&self, sums: &Sums, at: usize, old: &Figures, new: &Figures) -> Sums {
        let node = &self.nodes[at];
        exchanged(sums, node, (&old.columns(node), old.rest(node)), new)
    }

    /// The best step of all: of two alike, the first in the order of guests.
    fn best(&self, score: f64) -> Option<Step> {
        let found = (0..self.guests.len()).into_par_iter().filter_map(|guest| self.best_of(guest));
        let best = found.reduce_with(|a, b| {
            if b.score < a.score || b.score == a.score && b.guest < a.guest { b } else { a }
        });
        best.filter(|step| step.score < score - ROUNDING)
    }

    fn best_of(&self, at: usize) -> Option<Step> {
        let guest = &self.guests[at];
        let mut best: Option<Step> = None;
        let mut offer = |primary: usize, secondary: usize, sums: &Sums| {
            let step = Step { guest: at, primary, secondary, score: self.score(sums) };
            if best.is_none_or(|best| step.score < best.score) {
                best = Some(step);
            }
        };
        let targets = (0..self.nodes.len())
            .filter(|node| !self.nodes[*node].offline && *node != guest.primary && *node != guest.secondary);
        let old = &self.nodes[guest.primary];
        let left = old.without_primary(old.now, guest);
        let without = self.with(&self.sums, guest.primary, &left);
        if !guest.mirrored {
            for target in targets {
                let node = &self.nodes[target];
                if let Some(there) = node.with_primary(node.now, guest, old.offline) {
                    offer(target, NOWHERE, &self.with(&without, target, &there));
                }
            }
            return best;
        }
        let moves = Moves::new(self, guest, left, without);
        if let Some(sums) = moves.failover() {
            offer(guest.secondary, guest.primary, &sums);
        }
        for target in targets {
            for kind in Kind::WITH_TARGET {
                if let Some(sums) = moves.to(kind, target) {
                    let (primary, secondary) = kind.seat(guest, target);
                    offer(primary, secondary, &sums);
                }
            }
        }
        best
    }

    fn take(&mut self, step: Step) {
        let guest = self.guests[step.guest];
        let changed: BTreeMap<usize, Figures> = self.figures_after(&guest, &step).into_iter().collect();
        self.guests[step.guest] = Guest { primary: step.primary, secondary: step.secondary, ..guest };
        for (node, figures) in changed {
            self.nodes[node].now = figures;
        }
        if let Some(tag) = guest.tag {
            let count = self.nodes[guest.primary].tags.entry(tag).or_default();
            *count = count.saturating_sub(1);
            *self.nodes[step.primary].tags.entry(tag).or_default() += 1;
        }
        if guest.mirrored {
            self.nodes[guest.secondary].peers[guest.primary] -= guest.memory;
            self.nodes[step.secondary].peers[step.primary] += guest.memory;
            self.nodes[guest.secondary].retop();
            self.nodes[step.secondary].retop();
        }
    }

    /// What the nodes of a step have after it.
    fn figures_after(&self, guest: &Guest, step: &Step) -> Vec<(usize, Figures)> {
        let old = &self.nodes[guest.primary];
        let left = old.without_primary(old.now, guest);
        if !guest.mirrored {
            let node = &self.nodes[step.primary];
            let there = node.with_primary(node.now, guest, true).unwrap_or(node.now);
            return vec![(guest.primary, left), (step.primary, there)];
        }
        let moves = Moves::new(self, guest, left, self.sums);
        let kind = Kind::of(guest, step);
        let target = if step.primary == guest.primary || step.primary == guest.secondary {
            step.secondary
        } else {
            step.primary
        };
        moves.figures(kind, target).unwrap_or_default()
    }
}

impl Kind {
    const WITH_TARGET: [Kind; 4] =
        [Kind::ReplaceSecondary, Kind::ReplaceAndFailover, Kind::FailoverAndReplace, Kind::ReplacePrimary];

    fn seat(self, guest: &Guest, target: usize) -> (usize, usize) {
        match self {
            Kind::Failover => (guest.secondary, guest.primary),
            Kind::ReplaceSecondary => (guest.primary, target),
            Kind::ReplaceAndFailover => (target, guest.primary),
            Kind::FailoverAndReplace => (guest.secondary, target),
            Kind::ReplacePrimary => (target, guest.secondary),
        }
    }

    fn of(guest: &Guest, step: &Step) -> Kind {
        match (step.primary == guest.primary, step.primary == guest.secondary) {
            (true, _) => Kind::ReplaceSecondary,
            (false, true) if step.secondary == guest.primary => Kind::Failover,
            (false, true) => Kind::FailoverAndReplace,
            (false, false) if step.secondary == guest.primary => Kind::ReplaceAndFailover,
            (false, false) => Kind::ReplacePrimary,
        }
    }
}

/// The moves of one mirrored guest, with what does not depend on the target.
struct Moves<'s> {
    state: &'s State,
    guest: &'s Guest,
    /// The old primary and the old secondary without the guest.
    left: (Figures, Figures),
    /// The old secondary as primary, where it may be.
    swapped: Option<Figures>,
    /// Whether the old primary, and the old secondary, is offline.
    forced: (bool, bool),
    /// The sums without the guest on the one, on the other; and with the old secondary as primary.
    without_primary: Sums,
    without_secondary: Sums,
    without_both: Sums,
    with_swapped: Option<Sums>,
}

impl<'s> Moves<'s> {
    fn new(state: &'s State, guest: &'s Guest, left: Figures, without: Sums) -> Moves<'s> {
        let (primary, secondary) = (&state.nodes[guest.primary], &state.nodes[guest.secondary]);
        let other = secondary.without_secondary(secondary.now, guest);
        let swapped = secondary.with_primary(other, guest, primary.offline);
        Moves {
            state,
            guest,
            left: (left, other),
            swapped,
            forced: (primary.offline, secondary.offline),
            without_primary: without,
            without_secondary: state.with(&state.sums, guest.secondary, &other),
            without_both: state.with(&without, guest.secondary, &other),
            with_swapped: swapped.map(|figures| state.with(&without, guest.secondary, &figures)),
        }
    }

    fn primary(&self) -> &Node {
        &self.state.nodes[self.guest.primary]
    }

    fn secondary(&self) -> &Node {
        &self.state.nodes[self.guest.secondary]
    }

    /// The old primary as secondary of `primary`.
    fn behind(&self, primary: usize) -> Option<Figures> {
        self.primary().with_secondary(self.left.0, self.guest, primary, NOWHERE, self.forced.1)
    }

    fn failover(&self) -> Option<Sums> {
        if self.forced.1 {
            return None;
        }
        let behind = self.behind(self.guest.secondary)?;
        let sums = self.with_swapped.as_ref()?;
        Some(self.state.with_instead(sums, self.guest.primary, &self.left.0, &behind))
    }

    fn new_primary(&self, target: usize) -> Option<Figures> {
        let node = &self.state.nodes[target];
        node.with_primary(node.now, self.guest, self.forced.0)
    }

    fn new_secondary(&self, target: usize, primary: usize) -> Option<Figures> {
        let node = &self.state.nodes[target];
        node.with_secondary(node.now, self.guest, primary, NOWHERE, self.forced.1)
    }

    /// The old secondary, still the secondary, with another primary.
    fn kept(&self, target: usize) -> Option<Figures> {
        let less = self.guest.primary;
        self.secondary().with_secondary(self.left.1, self.guest, target, less, self.forced.1)
    }

    /// The sums after a move with a target; `None` when it is refused.
    fn to(&self, kind: Kind, target: usize) -> Option<Sums> {
        let (state, guest) = (self.state, self.guest);
        match kind {
            Kind::Failover => self.failover(),
            Kind::ReplaceSecondary => {
                let there = self.new_secondary(target, guest.primary)?;
                Some(state.with(&self.without_secondary, target, &there))
            }
            Kind::ReplaceAndFailover => {
                let there = self.new_primary(target)?;
                let behind = self.behind(target)?;
                let sums = state.with(&self.without_both, target, &there);
                Some(state.with_instead(&sums, guest.primary, &self.left.0, &behind))
            }
            Kind::FailoverAndReplace if self.forced.1 => None,
            Kind::FailoverAndReplace => {
                let there = self.new_secondary(target, guest.secondary)?;
                Some(state.with(self.with_swapped.as_ref()?, target, &there))
            }
            Kind::ReplacePrimary if self.forced.1 || self.swapped.is_none() => None,
            Kind::ReplacePrimary => {
                let there = self.new_primary(target)?;
                let kept = self.kept(target)?;
                let sums = state.with(&self.without_primary, target, &there);
                Some(state.with(&sums, guest.secondary, &kept))
            }
        }
    }

    fn figures(&self, kind: Kind, target: usize) -> Option<Vec<(usize, Figures)>> {
        let (primary, secondary) = (self.guest.primary, self.guest.secondary);
        Some(match kind {
            Kind::Failover => vec![(primary, self.behind(secondary)?), (secondary, self.swapped?)],
            Kind::ReplaceSecondary => {
                vec![(secondary, self.left.1), (target, self.new_secondary(target, primary)?)]
            }
            Kind::ReplaceAndFailover => vec![
                (primary, self.behind(target)?),
                (secondary, self.left.1),
                (target, self.new_primary(target)?),
            ],
            Kind::FailoverAndReplace => vec![
                (primary, self.left.0),
                (secondary, self.swapped?),
                (target, self.new_secondary(target, secondary)?),
            ],
            Kind::ReplacePrimary => vec![
                (primary, self.left.0),
                (secondary, self.kept(target)?),
                (target, self.new_primary(target)?),
            ],
        })
    }
}

fn exchanged(sums: &Sums, node: &Node, old: (&[f64; COLUMNS], f64), new: &Figures) -> Sums {
    let mut sums = *sums;
    sums.rest += new.rest(node) - old.1;
    if !node.offline {
        for (column, (new, old)) in new.columns(node).into_iter().zip(old.0).enumerate() {
            sums.sum[column] += new - old;
            sums.square[column] += new * new - old * old;
        }
    }
    sums
}

fn guest(cluster: &Cluster, instance: &Instance, tags: &mut BTreeMap<String, usize>) -> Guest {
    let next = tags.len();
    let tag = cluster.exclusion_tags(instance).into_iter().next();
    Guest {
        memory: instance.memory as f64,
        disk: instance.disk as f64,
        vcpus: f64::from(instance.vcpus),
        mirrored: instance.template.mirroring() == Mirroring::Internal,
        tag: tag.map(|tag| *tags.entry(tag).or_insert(next)),
        primary: instance.primary,
        secondary: instance.secondary.unwrap_or(NOWHERE),
    }
}
