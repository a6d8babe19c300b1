//! What balancing would do, for people to read and for the leader to carry out.
//!
//! The search ([`crate::search`]) finds the moves; here they get their names, their steps in words and the reason for
//! each, and what stays wrong after all of them is said. A plan that only a short spike makes worth its cost is none
//! (`spike`). Each move is judged again just before it runs
//! ([`still_good`]), for the cluster goes on living while a plan is carried out.

mod spike;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use model::{Bytes, GuestName, GuestPlace, HostName};
use serde::{Deserialize, Serialize};

use crate::inventory::{Inventory, StayCause};
use crate::layout::{Breach, Layout};
use crate::objective::kennel::{self, Kennel};
use crate::scene::{obstacle_on_the_way, with_scene};
use crate::search::{self, Move, MoveStep};
use crate::snapshot::{GroupIx, GuestIx, HostIx, Place, Scope, Snapshot, Strength};

/// One move of a plan, with everything that a person wants to know of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedMove {
    pub guest: GuestName,
    pub from: GuestPlace,
    pub to: GuestPlace,
    /// What is done, in order; phrases.
    pub steps: Vec<String>,
    /// Of the whole cluster before this move, with all earlier moves made. Lower is better.
    pub score_before: f64,
    pub score_after: f64,
    /// `score_before - score_after`.
    pub gain: f64,
    /// What sending the memory and copying the disks is worth, in units of the score.
    pub cost: f64,
    pub memory_to_send: Bytes,
    pub disk_to_copy: Bytes,
    /// A phrase without a full stop.
    pub why: String,
}

/// What balancing would do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    pub score_before: f64,
    pub score_after: f64,
    /// In the order in which they are legal.
    pub moves: Vec<PlannedMove>,
    /// What is wrong and stays so.
    pub remaining: Vec<String>,
    /// Guests that could not be moved in any plan now, and why.
    pub held: BTreeMap<GuestName, String>,
    /// Hosts that are judged by reservations only, and why.
    pub unmeasured: BTreeMap<HostName, String>,
}

/// How a proposal is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// No plan has more moves. `None`: as many as it takes.
    pub moves_max: Option<usize>,
}

impl Proposal {
    /// The same for proposals that move the same guests to the same places in the same order, and hardly ever for
    /// others: 16 hexadecimal digits (FNV-1a, 64 bits).
    pub fn digest(&self) -> String {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for step in &self.moves {
            for byte in format!("{} {} {};", step.guest, step.from, step.to).bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        format!("{hash:016x}")
    }

    /// The moves as a job takes them.
    pub fn places(&self) -> Vec<(GuestName, GuestPlace)> {
        self.moves.iter().map(|step| (step.guest.clone(), step.to.clone())).collect()
    }
}

/// What balancing would do now, with Kennel's own objective.
pub fn propose(inventory: &Inventory, options: Options) -> Proposal {
    let inventory = &*inventory.for_moves();
    let settings = search::Settings { moves_max: options.moves_max, ..search::Settings::default() };
    let mut plan = search::balance(&inventory.snapshot, &Kennel, &settings);
    if !plan.moves.is_empty() && spike::made_it(inventory, &plan, &settings) {
        plan.moves.clear();
    }
    let mut layout = Layout::new(&inventory.snapshot);
    let mut moves = Vec::with_capacity(plan.moves.len());
    for scored in &plan.moves {
        // The moves after it were judged with it made; what is left is planned anew when the rest is done.
        if obstacle_on_the_way(&mut layout, scored.step, false).is_some() {
            break;
        }
        let why = reason(inventory, &mut layout, scored.step);
        moves.push(PlannedMove {
            score_before: scored.score_before,
            score_after: scored.score_after,
            gain: scored.gain,
            cost: scored.price,
            ..in_words(inventory, &inventory.snapshot, scored.step, why)
        });
    }
    let held = inventory.stays().filter(|(_, stay)| stay.cause != StayCause::Stopped);
    Proposal {
        score_before: plan.score_before,
        score_after: moves.last().map_or(plan.score_before, |last: &PlannedMove| last.score_after),
        moves,
        remaining: remaining(&layout),
        held: held.map(|(guest, stay)| (inventory.guest_name(guest).clone(), stay.why.clone())).collect(),
        unmeasured: inventory.unmeasured().clone(),
    }
}

/// Whether a move of a plan is still legal and still worth making, as things are now. `Err`: why not.
pub fn still_good(inventory: &Inventory, guest: &GuestName, to: &GuestPlace) -> Result<(), String> {
    let inventory = &*inventory.for_moves();
    let index = inventory.guest_ix(guest).ok_or_else(|| format!("there is no guest '{guest}' any more"))?;
    let place = inventory.place_ix(to).ok_or_else(|| format!("{to} names a host that is gone"))?;
    if let Some(stay) = inventory.stay(index) {
        return Err(stay.why.clone());
    }
    with_scene(&inventory.snapshot, |scene| {
        if scene.place(index) == Some(place) {
            return Err(format!("it is on {to} already"));
        }
        if let Some((stop, obstacle)) = scene.obstacle_on_the_way(index, place) {
            let at = obstacle.host().unwrap_or(stop.host);
            return Err(format!("{}: {}", inventory.host_name(at), inventory.explain(index, &obstacle)));
        }
        let gain = scene.score() - scene.score_after(index, place);
        let price = scene.price(index, place);
        if gain <= price {
            return Err(format!("it gains {gain:.3} now and costs {price:.3}"));
        }
        Ok(())
    })
}

/// A move with names, steps and amounts, its scores still to be filled in.
pub(crate) fn in_words(inventory: &Inventory, snapshot: &Snapshot, step: Move, why: String) -> PlannedMove {
    let cost = step.cost(snapshot);
    PlannedMove {
        guest: inventory.guest_name(step.guest).clone(),
        from: inventory.place_of(step.from),
        to: inventory.place_of(step.to),
        steps: steps(inventory, snapshot, step),
        score_before: 0.0,
        score_after: 0.0,
        gain: 0.0,
        cost: 0.0,
        memory_to_send: Bytes(cost.memory),
        disk_to_copy: Bytes(cost.disk),
        why,
    }
}

fn steps(inventory: &Inventory, snapshot: &Snapshot, step: Move) -> Vec<String> {
    let mut host = step.from.host;
    let mut other = step.from.secondary;
    let mut steps = Vec::new();
    for part in step.steps(snapshot) {
        steps.push(match part {
            MoveStep::SwapRoles => {
                let secondary = other.replace(host).unwrap_or(host);
                host = secondary;
                format!("swap the roles: it runs on {}", inventory.host_name(host))
            }
            MoveStep::ReplaceSecondary { to } => {
                other = Some(to);
                format!("copy its disks to {}, which becomes its secondary", inventory.host_name(to))
            }
            MoveStep::Migrate { to } => {
                host = to;
                format!("move it to {}", inventory.host_name(to))
            }
        });
    }
    steps
}

/// What a move is good for: what was wrong and is not after it, or else the share that it eases the most. Makes the
/// move in the layout.
fn reason(inventory: &Inventory, layout: &mut Layout<'_>, step: Move) -> String {
    let hosts = step.hosts();
    let wrong = |layout: &Layout<'_>| -> BTreeSet<String> {
        let broken = layout.broken_around(step.guest, &hosts);
        broken.iter().map(|breach| named(inventory, layout, breach)).collect()
    };
    let before = wrong(layout);
    let groups = excesses(layout, step.guest);
    let easier = busiest(layout, step);
    layout.put(step.guest, Some(step.to));
    let after = wrong(layout);
    if let Some(mended) = before.difference(&after).next() {
        return mended.clone();
    }
    let kept =
        groups.iter().zip(excesses(layout, step.guest)).find(|((_, before), (_, after))| after < before);
    if let Some(((rule, _), _)) = kept {
        return format!("the rule '{rule}' is kept better");
    }
    let snapshot = layout.snapshot();
    let missed = |place: Place| {
        let wishes = snapshot.guest(step.guest).wishes.iter();
        wishes.filter(move |wish| wish.hosts.binary_search(&place.host).is_err())
    };
    let fulfilled = missed(step.from).find(|wish| wish.hosts.binary_search(&step.to.host).is_ok());
    if let Some(wish) = fulfilled {
        return format!("the rule '{}' wants it there", wish.rule);
    }
    if shared_domains(snapshot, step.from) > shared_domains(snapshot, step.to) {
        return "its two hosts are no longer in one zone".to_owned();
    }
    easier.unwrap_or_else(|| "the load is spread better".to_owned())
}

fn shared_domains(snapshot: &Snapshot, place: Place) -> usize {
    let Some(secondary) = place.secondary else { return 0 };
    let there = &snapshot.host(secondary).domains;
    snapshot.host(place.host).domains.iter().filter(|domain| there.contains(domain)).count()
}

/// By rule of the guest: how many guests break it.
fn excesses(layout: &Layout<'_>, guest: GuestIx) -> Vec<(String, u32)> {
    let snapshot = layout.snapshot();
    let groups = snapshot.guest(guest).groups.iter();
    groups.map(|group| (snapshot.groups[group.at()].rule.clone(), layout.group_excess(*group))).collect()
}

/// The resource in which the host that the guest leaves is worse off than the one that it goes to, weighed as the
/// score weighs it.
fn busiest(layout: &Layout<'_>, step: Move) -> Option<String> {
    type Share = fn(&Layout<'_>, HostIx) -> f64;
    let shares: [((&str, &str), f64, Share); 3] = [
        (("uses", "processors"), kennel::CPU_SPREAD, |layout, host| {
            let room = layout.snapshot().host(host);
            (room.own_load.cpu + layout.given(host).load.cpu) / (room.cores * room.speed).max(0.001)
        }),
        (("has given", "memory"), kennel::MEMORY_SPREAD, |layout, host| {
            layout.given(host).memory as f64 / (layout.snapshot().host(host).memory as f64).max(1.0)
        }),
        (("has given", "disk"), kennel::DISK_SPREAD, |layout, host| {
            layout.given(host).disk as f64 / (layout.snapshot().host(host).disk as f64).max(1.0)
        }),
    ];
    let (from, to) = if step.from.host == step.to.host {
        (step.from.secondary?, step.to.secondary?)
    } else {
        (step.from.host, step.to.host)
    };
    let eased = shares.iter().map(|(what, weight, share)| {
        let (here, there) = (share(layout, from), share(layout, to));
        ((here - there) * weight, here, there, *what)
    });
    let (gain, here, there, (does, what)) = eased.max_by(|a, b| a.0.total_cmp(&b.0))?;
    let name = |host: HostIx| &layout.snapshot().host(host).name;
    (gain > 0.0).then(|| {
        let (here, there) = (here * 100.0, there * 100.0);
        format!("{} {does} {here:.0}% of its {what}, {} {there:.0}%", name(from), name(to))
    })
}

/// What is wrong with a layout, in sentences; what concerns many guests of one host once.
pub(crate) fn remaining(layout: &Layout<'_>) -> Vec<String> {
    let snapshot = layout.snapshot();
    let mut leaving: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut lines = Vec::new();
    for breach in layout.broken() {
        match breach {
            Breach::Leaves { guest, host, reason, replica: _ } => {
                leaving.entry((host, reason)).or_default().push(guest)
            }
            // Waiting for a place is not balance's business.
            Breach::Nowhere { .. } => {}
            breach @ (Breach::Memory { .. }
            | Breach::Disk { .. }
            | Breach::Vcpus { .. }
            | Breach::TakeOver { .. }
            | Breach::TooMany { .. }
            | Breach::Apart { .. }
            | Breach::NotAllowed { .. }) => lines.push(breach.to_string()),
        }
    }
    for ((host, reason), guests) in leaving {
        lines.push(format!("{host}: {reason}, and still has {}", listed(&guests)));
    }
    for (at, group) in (0u32..).zip(&snapshot.groups) {
        let excess = layout.group_excess(GroupIx(at));
        if excess > 0 && group.strength != Strength::Must {
            let per = match group.scope {
                Scope::Host => "host",
                Scope::Domain => "zone",
            };
            lines.push(format!(
                "the rule '{}' (should) is not kept for {excess} of its guests (counted by {per})",
                group.rule
            ));
        }
    }
    lines
}

/// A breach with the rules that it comes from.
fn named(inventory: &Inventory, layout: &Layout<'_>, breach: &Breach) -> String {
    if let Breach::NotAllowed { guest, host } = breach {
        let snapshot = layout.snapshot();
        if let (Some(guest_ix), Some(host_ix)) = (snapshot.find_guest(guest), snapshot.find_host(host)) {
            let rules = inventory.rules.against(guest_ix, host_ix);
            if let Some(rule) = rules.first() {
                return format!("the rule '{rule}' keeps {guest} off {host}");
            }
        }
    }
    breach.to_string()
}

/// `a, b, c and 4 more`.
pub(crate) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let first = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
