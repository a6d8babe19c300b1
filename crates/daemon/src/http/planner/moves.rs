//! Where a guest goes that somebody moves by hand.
//!
//! What was left out is chosen so that as little as possible is copied: a host that has a copy of the disks before
//! one that has none; then a pair in two zones, then the emptier host. Every place is judged by
//! [`Layout::obstacle`], as balancing judges it.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use api::MigrateGuest;
use model::{GuestName, GuestPlace, HostName, PowerWish};
use plan::inventory::Inventory;
use plan::layout::{Layout, Obstacle};
use plan::snapshot::{GuestIx, HostIx, Place, Promise, Snapshot, Storage};

use crate::http::answer::{Answer, Refused};

/// In larger clusters a guest whose both copies would have to be made anew is not moved without naming where to.
const HOSTS_FOR_PAIRS_MAX: usize = 64;

/// Where the guest shall be, everything that was left out chosen.
pub fn destination(
    inventory: &Inventory,
    guest: &GuestName,
    request: &MigrateGuest,
    asked: &str,
) -> Answer<GuestPlace> {
    // A guest that is started anew there needs no host like the one that it has.
    let narrowed = inventory.for_moves();
    let inventory = if request.options.restart { inventory } else { &*narrowed };
    let missing = || Refused::not_found(asked, "guest", guest);
    let index = inventory.guest_ix(guest).ok_or_else(missing)?;
    let to = request.to.as_ref().map(|host| known(inventory, host, asked)).transpose()?;
    let secondary = request.secondary.as_ref().map(|host| known(inventory, host, asked)).transpose()?;
    if to.is_some() && to == secondary {
        return Err(Refused::invalid(asked, "both of its copies would be on one host", "name two hosts"));
    }
    let mut snapshot = inventory.snapshot.clone();
    if request.force {
        snapshot.promise = Promise::Nothing;
    }
    let layout = Layout::new(&snapshot);
    let now = layout.place(index).ok_or_else(|| {
        Refused::by_state(asked, "it has no host yet", format!("`kennel guest show {guest}` says why"))
    })?;
    if snapshot.guest(index).storage != Storage::Mirrored && secondary.is_some() {
        let why = if snapshot.guest(index).storage == Storage::Shared {
            "its disks are in storage that hosts share, in one copy".to_owned()
        } else {
            format!("its disks are local: {} alone holds them", inventory.host_name(now.host))
        };
        return Err(Refused::by_state(asked, why, "disks in the pool 'mirror' have a second copy"));
    }
    let here =
        to.is_none_or(|to| to == now.host) && secondary.is_none_or(|other| now.secondary == Some(other));
    if here && (to.is_some() || secondary.is_some()) {
        let place = inventory.place_of(now);
        return Err(Refused::by_state(asked, format!("it is on {place} already"), "name another host"));
    }
    let choice = Choice { inventory, layout: &layout, guest: index, now };
    choice.choose(to, secondary).map(|place| inventory.place_of(place)).map_err(|why| {
        Refused::by_state(asked, choice.in_words(&why), choice.instead(to.is_some() || secondary.is_some()))
    })
}

fn known(inventory: &Inventory, host: &HostName, asked: &str) -> Answer<HostIx> {
    inventory.host_ix(host).ok_or_else(|| Refused::not_found(asked, "host", host))
}

struct Choice<'a> {
    inventory: &'a Inventory,
    layout: &'a Layout<'a>,
    guest: GuestIx,
    now: Place,
}

/// Why not, by the host that would run it.
type Reasons = BTreeMap<HostIx, String>;

impl Choice<'_> {
    fn snapshot(&self) -> &Snapshot {
        self.layout.snapshot()
    }

    fn choose(&self, to: Option<HostIx>, secondary: Option<HostIx>) -> Result<Place, Reasons> {
        let targets: Vec<HostIx> = match (to, secondary) {
            (Some(to), _) => vec![to],
            (None, Some(secondary)) if secondary != self.now.host => vec![self.now.host],
            (None, Some(_) | None) => {
                self.snapshot().host_indices().filter(|host| *host != self.now.host).collect()
            }
        };
        let mut reasons = Reasons::new();
        if self.snapshot().guest(self.guest).storage != Storage::Mirrored {
            let alone = targets.iter().map(|host| Place { host: *host, secondary: None });
            return self.best(alone, &mut reasons).ok_or(reasons);
        }
        let cheap = targets.iter().flat_map(|host| self.with_a_copy(*host, secondary));
        if let Some(place) = self.best(cheap, &mut reasons) {
            return Ok(place);
        }
        if secondary.is_none() && (targets.len() == 1 || self.snapshot().hosts.len() <= HOSTS_FOR_PAIRS_MAX) {
            let all = targets.iter().flat_map(|host| {
                let others = self.snapshot().host_indices().filter(move |other| other != host);
                others.map(|other| Place { host: *host, secondary: Some(other) })
            });
            if let Some(place) = self.best(all, &mut Reasons::new()) {
                return Ok(place);
            }
        }
        Err(reasons)
    }

    /// Pairs with this primary in which a copy that exists is kept, or the one that is asked for.
    fn with_a_copy(&self, host: HostIx, secondary: Option<HostIx>) -> Vec<Place> {
        let kept = if host == self.now.host { None } else { Some(self.now.host) };
        let seconds: Vec<HostIx> = match secondary {
            Some(secondary) => vec![secondary],
            None => kept.into_iter().chain(self.now.secondary).filter(|other| *other != host).collect(),
        };
        seconds.into_iter().map(|other| Place { host, secondary: Some(other) }).collect()
    }

    fn best(&self, places: impl Iterator<Item = Place>, reasons: &mut Reasons) -> Option<Place> {
        let mut best: Option<Place> = None;
        for place in places.filter(|place| *place != self.now) {
            match self.objection(place) {
                Some(why) => {
                    reasons.entry(place.host).or_insert(why);
                }
                None if best.is_none_or(|best| self.compare(place, best).is_lt()) => best = Some(place),
                None => {}
            }
        }
        best
    }

    fn objection(&self, place: Place) -> Option<String> {
        if let Some(obstacle) = self.layout.obstacle(self.guest, place) {
            let why = self.inventory.explain(self.guest, &obstacle);
            return Some(match at(&obstacle) {
                Some(host) if Some(host) == place.secondary => {
                    format!("{} as its secondary: {why}", self.inventory.host_name(host))
                }
                Some(_) | None => why,
            });
        }
        let spec = self.inventory.view().guests.get(self.inventory.guest_name(self.guest));
        let stopped = spec.is_some_and(|spec| spec.power == PowerWish::Stopped);
        (stopped && self.copies(place) > 0)
            .then(|| "it is stopped, and only the disks of a guest that runs can be copied".to_owned())
    }

    /// How many hosts of a place have no copy yet.
    fn copies(&self, place: Place) -> usize {
        let has = |host: HostIx| host == self.now.host || Some(host) == self.now.secondary;
        [Some(place.host), place.secondary].into_iter().flatten().filter(|host| !has(*host)).count()
    }

    /// The better place is the smaller.
    fn compare(&self, a: Place, b: Place) -> Ordering {
        let near = |place: Place| {
            let domains = |host: HostIx| &self.snapshot().host(host).domains;
            place
                .secondary
                .is_some_and(|other| domains(place.host).iter().any(|d| domains(other).contains(d)))
        };
        self.copies(a)
            .cmp(&self.copies(b))
            .then(near(a).cmp(&near(b)))
            .then(self.fullness(a.host).total_cmp(&self.fullness(b.host)))
            .then(a.cmp(&b))
    }

    fn fullness(&self, host: HostIx) -> f64 {
        self.layout.given(host).memory as f64 / (self.snapshot().host(host).memory as f64).max(1.0)
    }

    fn in_words(&self, reasons: &Reasons) -> String {
        let each = reasons.iter().map(|(host, why)| format!("{}: {why}", self.inventory.host_name(*host)));
        let text = each.collect::<Vec<_>>().join("; ");
        if text.is_empty() { "there is no other host".to_owned() } else { text }
    }

    /// The hosts that would do.
    fn instead(&self, asked_for_one: bool) -> String {
        let others = self.snapshot().host_indices().filter(|host| *host != self.now.host && asked_for_one);
        let fit = others.filter(|host| self.choose(Some(*host), None).is_ok());
        let names: Vec<_> = fit.map(|host| self.inventory.host_name(host).to_string()).collect();
        match names.as_slice() {
            [] if self.inventory.cannot_continue(self.guest) => {
                "free some room, change the rules, or add --restart, which starts it anew there".to_owned()
            }
            [] => "free some room, or change the rules".to_owned(),
            [one] => format!("{one} could run it"),
            many => format!("these could run it: {}", many.join(", ")),
        }
    }
}

/// The host that an obstacle is about.
fn at(obstacle: &Obstacle) -> Option<HostIx> {
    match obstacle {
        Obstacle::Duty { host, .. }
        | Obstacle::Memory { host, .. }
        | Obstacle::Disk { host, .. }
        | Obstacle::Vcpus { host, .. }
        | Obstacle::TakeOver { host, .. }
        | Obstacle::NotAllowed { host } => Some(*host),
        Obstacle::Rule { .. } | Obstacle::SameHost | Obstacle::Replicas(_) => None,
    }
}
