//! Whether a change breaks a promise that held.

use std::collections::BTreeMap;
use std::fmt;

use model::Bytes;

use super::fits::{Shape, next_place};
use super::survey::{LeftOut, Survey, survey};
use crate::snapshot::{GuestNeed, Place, Promise, Snapshot};

/// A promise that would hold no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub promise: Promise,
    /// The loss that would leave most guests out, only with those that it would not leave out today.
    pub worst: LeftOut,
    /// How many other losses would leave guests out.
    pub others: usize,
    /// What would work, as in "make it smaller".
    pub instead: String,
}

impl Broken {
    /// Why not, in a phrase without a full stop.
    pub fn why(&self) -> String {
        let others = match self.others {
            0 => String::new(),
            1 => ", and so would one other loss".to_owned(),
            more => format!(", and so would {more} other losses"),
        };
        format!("the cluster is to survive {}, and then {}{others}", self.promise, self.worst.explain())
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.why(), self.instead)
    }
}

/// Whether the cluster may become `after`: a new guest in its place, a larger one, a host in maintenance, a rule. It
/// may unless some loss within the promise leaves out a guest that it leaves in now. What is broken already may stay
/// so.
pub fn admit(before: &Snapshot, after: &Snapshot) -> Result<(), Broken> {
    if after.promise == Promise::Nothing {
        return Ok(());
    }
    let Some((worst, others)) = worse(&survey(before), &survey(after)) else { return Ok(()) };
    let instead = instead(before, after);
    Err(Broken { promise: after.promise, worst, others, instead })
}

/// The loss that is worse after than before, if any, and how many others are.
pub(super) fn worse(before: &Survey, after: &Survey) -> Option<(LeftOut, usize)> {
    let known: BTreeMap<&str, &LeftOut> =
        before.broken.iter().map(|left| (left.loss.as_str(), left)).collect();
    let mut worse: Vec<LeftOut> = after
        .broken
        .iter()
        .filter_map(|left| {
            let mut guests = left.guests.clone();
            if let Some(old) = known.get(left.loss.as_str()) {
                guests.retain(|guest, _| !old.guests.contains_key(guest));
            }
            (!guests.is_empty()).then(|| LeftOut { loss: left.loss.clone(), guests })
        })
        .collect();
    if let (None, Some(doubt)) = (&before.unproven, &after.unproven) {
        let guests = BTreeMap::from([("some guest".to_owned(), doubt.clone())]);
        worse.push(LeftOut { loss: "some loss".to_owned(), guests });
    }
    // The first of those that leave out most.
    let most = worse.iter().map(|left| left.guests.len()).max()?;
    let at = worse.iter().position(|left| left.guests.len() == most)?;
    Some((worse.swap_remove(at), worse.len()))
}

/// What would work instead of the change.
fn instead(before: &Snapshot, after: &Snapshot) -> String {
    let changed: Vec<&GuestNeed> = after
        .guests
        .iter()
        .filter(|need| before.find_guest(&need.name).is_none_or(|old| takes_more(before.guest(old), need)))
        .collect();
    let general = "add a host, or free some memory".to_owned();
    let [need] = changed.as_slice() else { return general };
    let Some(place) = need.place else { return general };
    let shape = Shape { memory: need.memory, disk: need.disk, vcpus: need.vcpus, storage: need.storage };
    let is_new = before.find_guest(&need.name).is_none();
    let free = |need: &GuestNeed| need.allowed.is_none() && need.groups.is_empty();
    if is_new
        && free(need)
        && let Some(other) = holding_place(before, after, need, shape, place)
    {
        let name = |host| before.host(host).name.as_str();
        return match other.secondary {
            Some(secondary) => {
                format!("on {} with its secondary on {} it would hold", name(other.host), name(secondary))
            }
            None => format!("on {} it would hold", name(other.host)),
        };
    }
    match largest_memory(before, after, need) {
        Some(memory) => {
            format!("with {} of memory less it would hold; or {general}", Bytes(need.memory - memory))
        }
        None => general,
    }
}

fn takes_more(old: &GuestNeed, new: &GuestNeed) -> bool {
    let size = |need: &GuestNeed| if need.runs { (need.memory, need.vcpus) } else { (0, 0) };
    let (old, new) = (size(old), size(new));
    new.0 > old.0 || new.1 > old.1
}

/// Another place for a new guest with which the promise holds.
fn holding_place(
    before: &Snapshot,
    after: &Snapshot,
    need: &GuestNeed,
    shape: Shape,
    place: Place,
) -> Option<Place> {
    let other = next_place(before, shape).filter(|other| *other != place)?;
    let mut elsewhere = after.clone();
    let guest = elsewhere.find_guest(&need.name)?;
    elsewhere.guests[guest.at()].place = Some(other);
    worse(&survey(before), &survey(&elsewhere)).is_none().then_some(other)
}

/// The most memory, give or take a sixteenth of what is asked for, with which the guest breaks nothing where it is.
fn largest_memory(before: &Snapshot, after: &Snapshot, need: &GuestNeed) -> Option<u64> {
    let guest = after.find_guest(&need.name)?;
    let base = survey(before);
    let mut smaller = after.clone();
    let mut holds = |less_mib: u64| {
        let memory = need.memory.checked_sub(less_mib * Bytes::MIB)?;
        smaller.guests[guest.at()].memory = memory;
        worse(&base, &survey(&smaller)).is_none().then_some(memory)
    };
    // Not a guest of nothing: what takes less than this is no help.
    let (mut low, mut high) = (0, need.memory.saturating_sub(MEMORY_MIN) / Bytes::MIB);
    let mut best = holds(high)?;
    let near = (need.memory / Bytes::MIB / 16).max(1);
    while low + near < high {
        let middle = (low + high) / 2;
        match holds(middle) {
            Some(memory) => (high, best) = (middle, memory),
            None => low = middle,
        }
    }
    Some(best)
}

/// The smallest guest that is worth proposing.
const MEMORY_MIN: u64 = 128 * Bytes::MIB;
