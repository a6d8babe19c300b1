//! Where a new guest goes: its primary and its secondary together.
//!
//! Every pair of hosts that meets no obstacle is a candidate; the best is the one that leaves the cluster with the
//! lowest score (see [`crate::objective::kennel`]). In a large cluster only the [`PRIMARIES_TRIED`] least loaded
//! hosts are tried as primaries against all others as secondaries, and the rest only when none of these will do.

use std::collections::BTreeMap;

use model::{Assignment, Epoch, GuestPlace, GuestSpec, HostName, Refusal};

use crate::inventory::Inventory;
use crate::layout::Obstacle;
use crate::scene::{Scene, with_scene};
use crate::snapshot::{GuestIx, HostIx, Place, Snapshot, Storage};

/// How many hosts are tried as primaries together with every other host as secondary.
pub const PRIMARIES_TRIED: usize = 32;

/// How a guest is placed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Place it though the cluster can then not keep its promise to survive a loss. Room and `must` rules bind all
    /// the same.
    pub force: bool,
}

/// Why no host can take a guest, host by host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NoPlace {
    pub reasons: BTreeMap<HostName, String>,
    /// When there is no host to speak of.
    pub general: Option<String>,
    /// It would go with [`Options::force`].
    pub only_promise: bool,
}

impl NoPlace {
    /// One phrase with every host's reason.
    pub fn explain(&self) -> String {
        let by_host = self.reasons.iter().map(|(host, why)| format!("{host}: {why}"));
        self.general.iter().cloned().chain(by_host).collect::<Vec<_>>().join("; ")
    }

    /// The same as an answer to whoever asked for the guest.
    pub fn refusal(&self, spec: &GuestSpec) -> Refusal {
        let instead = if self.only_promise {
            "force it, and the cluster cannot keep its promise until there is more room; or make it smaller, free \
             some room, or add a host"
        } else {
            "make it smaller, free some room, or add a host"
        };
        Refusal::new(format!("place the guest '{}'", spec.name), self.explain(), instead)
    }
}

/// The first assignment of a guest, or the reasons why there is none. The guest need not be in the inventory; if it
/// is, where it is now does not count. It is placed as one that runs, whatever its power wish says now. A place that
/// keeps the promise goes before one that does not, forced or not.
pub fn place(inventory: &Inventory, spec: &GuestSpec, options: Options) -> Result<Assignment, NoPlace> {
    let known = inventory.view().guests.get(&spec.name);
    let with_it;
    let inventory = if known.is_some_and(|known| same_needs(known, spec)) {
        inventory
    } else {
        with_it = inventory.with_guest(spec);
        &with_it
    };
    let Some(guest) = inventory.guest_ix(&spec.name) else { return Err(NoPlace::default()) };
    if inventory.snapshot.hosts.is_empty() {
        return Err(NoPlace { general: Some("the cluster has no hosts".to_owned()), ..NoPlace::default() });
    }
    let snapshot = arriving(&inventory.snapshot, guest);
    let found = with_scene(&snapshot, |scene| {
        let best = |scene: &Scene<'_, '_>| Search { inventory, scene, guest, spec }.best();
        let kept = best(scene);
        scene.forced = true;
        match kept {
            Err(none) if options.force => best(scene).map_err(|_| none),
            Err(none) => Err(NoPlace { only_promise: best(scene).is_ok(), ..none }),
            found => found,
        }
    });
    let (place, candidates) = found?;
    let to = inventory.place_of(place);
    let why = reason(spec, &to, candidates);
    Ok(Assignment {
        guest: spec.name.clone(),
        guest_id: spec.id,
        host: to.host,
        epoch: Epoch::FIRST,
        secondary: to.secondary,
        why,
        handover: None,
        handed_over_by: None,
    })
}

/// Why it is there, for whoever asks later.
fn reason(spec: &GuestSpec, to: &GuestPlace, candidates: usize) -> String {
    if spec.preferred_host.is_some() {
        return format!("{} was asked for", to.host);
    }
    match candidates {
        0 | 1 => format!("{} was the only host that could take it", to.host),
        count => format!("{} was the best of the {count} hosts that could take it", to.host),
    }
}

/// Whether two specs of a guest ask the planner for the same.
fn same_needs(a: &GuestSpec, b: &GuestSpec) -> bool {
    let key = |spec: &GuestSpec| GuestSpec { seed: model::Seed::default(), ..spec.clone() };
    key(a) == key(b)
}

/// The snapshot in which the guest is nowhere yet, and will run.
fn arriving(snapshot: &Snapshot, guest: GuestIx) -> Snapshot {
    let mut snapshot = snapshot.clone();
    let need = &mut snapshot.guests[guest.at()];
    need.place = None;
    need.runs = true;
    snapshot
}

struct Search<'s, 'c, 'a> {
    inventory: &'s Inventory,
    scene: &'s Scene<'c, 'a>,
    guest: GuestIx,
    spec: &'s GuestSpec,
}

/// A place and what it costs; better is smaller, the place last, so that every choice is repeatable.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    cost: f64,
    place: Place,
}

impl Candidate {
    fn better(self, other: Option<Candidate>) -> bool {
        other.is_none_or(|other| self.cost.total_cmp(&other.cost).then(self.place.cmp(&other.place)).is_lt())
    }
}

impl Search<'_, '_, '_> {
    /// The best place, and how many hosts could have been its primary.
    fn best(&self) -> Result<(Place, usize), NoPlace> {
        let mut reasons = BTreeMap::new();
        let mut primaries = Vec::new();
        for host in self.scene.snapshot().host_indices() {
            match self.primary_obstacle(host) {
                Some(why) => {
                    reasons.insert(self.inventory.host_name(host).clone(), why);
                }
                None => primaries.push(host),
            }
        }
        if !self.mirrored() {
            let places = primaries.iter().map(|host| Place { host: *host, secondary: None });
            let best = self.cheapest(places);
            return best.map(|best| (best.place, primaries.len())).ok_or(NoPlace {
                reasons,
                general: None,
                only_promise: false,
            });
        }
        primaries.sort_by(|a, b| self.load(*a).total_cmp(&self.load(*b)).then(a.cmp(b)));
        for some in primaries.chunks(PRIMARIES_TRIED) {
            let pairs = some.iter().flat_map(|primary| self.pairs(*primary));
            if let Some(best) = self.cheapest(pairs) {
                return Ok((best.place, primaries.len()));
            }
        }
        Err(self.no_secondary(primaries.first().copied(), reasons))
    }

    fn mirrored(&self) -> bool {
        self.scene.snapshot().guest(self.guest).storage == Storage::Mirrored
    }

    /// Legal places with this primary.
    fn pairs(&self, primary: HostIx) -> impl Iterator<Item = Place> {
        let hosts = self.scene.snapshot().host_indices();
        hosts
            .map(move |secondary| Place { host: primary, secondary: Some(secondary) })
            .filter(|place| self.scene.obstacle(self.guest, *place).is_none())
    }

    fn cheapest(&self, places: impl Iterator<Item = Place>) -> Option<Candidate> {
        let mut best = None;
        for place in places {
            let candidate = Candidate { cost: self.cost(place), place };
            if candidate.better(best) {
                best = Some(candidate);
            }
        }
        best
    }

    /// Why a host cannot be the primary, whatever the secondary.
    fn primary_obstacle(&self, host: HostIx) -> Option<String> {
        if let Some(asked) = &self.spec.preferred_host
            && asked != self.inventory.host_name(host)
        {
            return Some(format!("{asked} was asked for"));
        }
        let about_primary = |obstacle: &Obstacle| match obstacle {
            Obstacle::Rule { .. } => true,
            Obstacle::SameHost | Obstacle::Replicas(_) => false,
            Obstacle::Duty { host: at, .. }
            | Obstacle::Memory { host: at, .. }
            | Obstacle::Disk { host: at, .. }
            | Obstacle::Vcpus { host: at, .. }
            | Obstacle::TakeOver { host: at, .. }
            | Obstacle::NotAllowed { host: at } => *at == host,
        };
        let secondary = self.scene.snapshot().host_indices().find(|other| *other != host);
        let mut probe = Place { host, secondary: secondary.filter(|_| self.mirrored()) };
        let mut obstacle = self.scene.obstacle(self.guest, probe);
        // An obstacle at that secondary may hide one at the primary: ask with a better one.
        if self.mirrored() && obstacle.as_ref().is_some_and(|obstacle| !about_primary(obstacle)) {
            let fits = |other: &HostIx| {
                probe.secondary = Some(*other);
                *other != host && self.scene.obstacle(self.guest, probe).as_ref().is_none_or(about_primary)
            };
            let better = self.scene.snapshot().host_indices().find(fits)?;
            obstacle = self.scene.obstacle(self.guest, Place { host, secondary: Some(better) });
        }
        obstacle.filter(about_primary).map(|obstacle| self.inventory.explain(self.guest, &obstacle))
    }

    /// Reasons for each host, when hosts could be primaries and none of them finds a secondary.
    fn no_secondary(&self, primary: Option<HostIx>, mut reasons: BTreeMap<HostName, String>) -> NoPlace {
        let Some(primary) = primary else { return NoPlace { reasons, ..NoPlace::default() } };
        for secondary in self.scene.snapshot().host_indices().filter(|other| *other != primary) {
            let place = Place { host: primary, secondary: Some(secondary) };
            if let Some(obstacle) = self.scene.obstacle(self.guest, place) {
                let why = self.inventory.explain(self.guest, &obstacle);
                reasons.insert(self.inventory.host_name(secondary).clone(), why);
            }
        }
        let primary = self.inventory.host_name(primary);
        reasons.remove(primary);
        let general =
            format!("a mirrored volume needs a second host beside {primary} (the pool 'local' needs none)");
        NoPlace { reasons, general: Some(general), ..NoPlace::default() }
    }

    /// How full and busy a host would be with the guest on it: the sum of squares of its shares, so that what is
    /// nearly exhausted weighs more than several things that are half used.
    fn load(&self, host: HostIx) -> f64 {
        let snapshot = self.scene.snapshot();
        let (room, given, need) =
            (snapshot.host(host), self.scene.layout().given(host), snapshot.guest(self.guest));
        let share = |used: f64, of: f64| if of > 0.0 { (used / of).powi(2) } else { 1.0 };
        let memory = share((given.memory + need.memory) as f64, room.memory as f64);
        let cpu = share(room.own_load.cpu + given.load.cpu + need.load.cpu, room.cores * room.speed);
        let disk = share((given.disk + need.disk) as f64, room.disk as f64);
        memory + cpu + disk
    }

    fn cost(&self, place: Place) -> f64 {
        self.scene.score_after(self.guest, place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, cluster};
    use model::{Bytes, ClusterView, Pool};

    fn check(view: &ClusterView, spec: &GuestSpec, expected: &str) {
        let inventory = Inventory::new(view, &BTreeMap::new());
        let text = match place(&inventory, spec, Options::default()) {
            Ok(a) => match a.secondary {
                Some(secondary) => format!("{} + {secondary}", a.host),
                None => a.host.to_string(),
            },
            Err(none) => none.explain(),
        };
        assert_eq!(text, expected);
    }

    #[test]
    fn a_guest_goes_where_most_room_is_and_its_secondary_to_another_zone() {
        let mut view = cluster(3);
        check(&view, &fixture::guest("a", Pool::Mirror), "host1 + host2");
        fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        check(&view, &fixture::guest("b", Pool::Mirror), "host2 + host3");
        view.hosts.get_mut(&fixture::host("host3")).unwrap().zone = "zone2".into();
        check(&view, &fixture::guest("b", Pool::Mirror), "host3 + host1");
    }

    #[test]
    fn a_refusal_names_every_host() {
        let mut view = cluster(2);
        view.sessions.remove(&fixture::host("host2"));
        let mut big = fixture::guest("big", Pool::Local);
        big.memory = Bytes::gib(100);
        check(&view, &big, "host1: 7.5G of memory is free, 100.1G is needed; host2: it is lost");
    }

    #[test]
    fn a_mirrored_guest_needs_two_hosts() {
        let view = cluster(1);
        check(
            &view,
            &fixture::guest("a", Pool::Mirror),
            "a mirrored volume needs a second host beside host1 (the pool 'local' needs none)",
        );
        check(&view, &fixture::guest("a", Pool::Local), "host1");
    }

    #[test]
    fn an_asked_for_host_is_the_only_one() {
        let view = cluster(3);
        let mut spec = fixture::guest("a", Pool::Local);
        spec.preferred_host = Some(fixture::host("host3"));
        check(&view, &spec, "host3");
    }
}
