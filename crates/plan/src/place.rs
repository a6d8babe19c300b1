//! Where a new guest goes: its primary and its secondary together.

use std::collections::BTreeMap;

use model::{Assignment, ClusterView, Epoch, GuestSpec, HostName, Refusal};

use crate::room::{Room, memory_of, rooms};

/// Why no host can take a guest, host by host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoPlace {
    pub reasons: BTreeMap<HostName, String>,
    /// When there is no host to speak of.
    pub general: Option<String>,
}

impl NoPlace {
    /// One phrase with every host's reason.
    pub fn explain(&self) -> String {
        let by_host = self.reasons.iter().map(|(host, why)| format!("{host}: {why}"));
        self.general.iter().cloned().chain(by_host).collect::<Vec<_>>().join("; ")
    }

    /// The same as an answer to whoever asked for the guest.
    pub fn refusal(&self, spec: &GuestSpec) -> Refusal {
        Refusal::new(
            format!("place the guest '{}'", spec.name),
            self.explain(),
            "make it smaller, free some room, or add a host",
        )
    }
}

/// Better is smaller; the name last, so that every choice is repeatable.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct PrimaryScore<'a> {
    memory_load: u64,
    guests: usize,
    host: &'a HostName,
}

/// Better is smaller.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct SecondaryScore<'a> {
    same_zone: bool,
    no_memory_to_take_over: bool,
    disk_load: u64,
    memory_load: u64,
    host: &'a HostName,
}

/// The first assignment of a guest, or the reasons why there is none.
pub fn place(view: &ClusterView, spec: &GuestSpec) -> Result<Assignment, NoPlace> {
    let rooms = rooms(view);
    let mut reasons = BTreeMap::new();
    let mut best: Option<PrimaryScore<'_>> = None;
    for name in view.hosts.keys() {
        match primary_obstacle(view, spec, name, rooms.get(name)) {
            Err(why) => {
                reasons.insert(name.clone(), why);
            }
            Ok(room) => {
                let score = PrimaryScore {
                    memory_load: room.memory_load(memory_of(spec)),
                    guests: room.guests,
                    host: name,
                };
                if best.as_ref().is_none_or(|b| score < *b) {
                    best = Some(score);
                }
            }
        }
    }
    let Some(PrimaryScore { host: primary, .. }) = best else {
        let general = view.hosts.is_empty().then(|| "the cluster has no hosts".to_owned());
        return Err(NoPlace { reasons, general });
    };
    let secondary =
        if spec.is_mirrored() { Some(place_secondary(view, spec, primary, &rooms)?) } else { None };
    let why = match (&spec.preferred_host, &secondary) {
        (Some(_), _) => format!("{primary} was asked for"),
        (None, _) => format!("{primary} has the most free memory among the hosts that have room"),
    };
    Ok(Assignment {
        guest: spec.name.clone(),
        guest_id: spec.id,
        host: primary.clone(),
        epoch: Epoch::FIRST,
        secondary,
        why,
        handover: None,
        handed_over_by: None,
    })
}

fn primary_obstacle<'a>(
    view: &ClusterView,
    spec: &GuestSpec,
    host: &HostName,
    room: Option<&'a Room>,
) -> Result<&'a Room, String> {
    if let Some(asked) = spec.preferred_host.as_ref().filter(|asked| *asked != host) {
        return Err(format!("{asked} was asked for"));
    }
    let room = live_room(view, host, room)?;
    let memory = memory_of(spec);
    if !room.fits_memory(memory) {
        return Err(format!("{} of memory are free, {memory} are needed", room.memory_free()));
    }
    if !room.fits_disk(spec.disk_size()) {
        return Err(format!("{} of disk are free, {} are needed", room.disk_free(), spec.disk_size()));
    }
    Ok(room)
}

fn live_room<'a>(view: &ClusterView, host: &HostName, room: Option<&'a Room>) -> Result<&'a Room, String> {
    if !view.is_live(host) {
        return Err(format!("it is {}", view.host_phase(host)));
    }
    room.ok_or_else(|| "it has not reported its size yet".to_owned())
}

fn place_secondary(
    view: &ClusterView,
    spec: &GuestSpec,
    primary: &HostName,
    rooms: &BTreeMap<HostName, Room>,
) -> Result<HostName, NoPlace> {
    let zone = view.hosts.get(primary).map(|host| host.zone.as_str());
    let mut reasons = BTreeMap::new();
    let mut best: Option<SecondaryScore<'_>> = None;
    for (name, host) in view.hosts.iter().filter(|(name, _)| *name != primary) {
        match live_room(view, name, rooms.get(name)) {
            Err(why) => {
                reasons.insert(name.clone(), why);
            }
            Ok(room) if !room.fits_disk(spec.disk_size()) => {
                let why = format!("{} of disk are free, {} are needed", room.disk_free(), spec.disk_size());
                reasons.insert(name.clone(), why);
            }
            Ok(room) => {
                let memory = memory_of(spec);
                let score = SecondaryScore {
                    same_zone: Some(host.zone.as_str()) == zone,
                    no_memory_to_take_over: !room.fits_memory(memory),
                    disk_load: room.disk_load(spec.disk_size()),
                    memory_load: room.memory_load(memory),
                    host: name,
                };
                if best.as_ref().is_none_or(|b| score < *b) {
                    best = Some(score);
                }
            }
        }
    }
    best.map(|score| score.host.clone()).ok_or_else(|| NoPlace {
        reasons,
        general: Some(format!(
            "a mirrored volume needs a second host beside {primary} (the pool 'local' needs none)"
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, cluster};
    use model::{Bytes, Pool};

    fn check(view: &ClusterView, spec: &GuestSpec, expected: &str) {
        let text = match place(view, spec) {
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
        check(&view, &fixture::guest("b", Pool::Mirror), "host2 + host1");
    }

    #[test]
    fn a_refusal_names_every_host() {
        let mut view = cluster(2);
        view.sessions.remove(&fixture::host("host2"));
        let mut big = fixture::guest("big", Pool::Local);
        big.memory = Bytes::gib(100);
        check(&view, &big, "host1: 7.5G of memory are free, 100.1G are needed; host2: it is lost");
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
