//! What another host would bring.

use super::fits::{Fits, Shape, fits};
use super::survey::{Survey, survey};
use crate::snapshot::{DomainIx, HostIx, HostRoom, Place, Snapshot};

/// A cluster before and after a host is added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brings {
    pub fits_before: Fits,
    pub fits_after: Fits,
    pub survey_before: Survey,
    /// Before anything moves to the new host: mirrored guests come back where their secondaries are, so what is
    /// broken stays so until they are balanced.
    pub survey_after: Survey,
    /// The cluster with the host, for whoever wants to balance it.
    pub hosts_after: usize,
}

/// What a host would bring that is in these failure domains, its zone first; they may be new ones.
pub fn with_host(snapshot: &Snapshot, room: HostRoom, domains: &[&str], shape: Shape) -> Brings {
    let after = grown(snapshot, room, domains);
    Brings {
        fits_before: fits(snapshot, shape),
        fits_after: fits(&after, shape),
        survey_before: survey(snapshot),
        survey_after: survey(&after),
        hosts_after: after.hosts.len(),
    }
}

/// The snapshot with one more host, in the order of names.
pub fn grown(snapshot: &Snapshot, mut room: HostRoom, domains: &[&str]) -> Snapshot {
    let mut after = snapshot.clone();
    room.domains = domains
        .iter()
        .map(|name| {
            let at = after.domains.iter().position(|domain| domain == name).unwrap_or_else(|| {
                after.domains.push((*name).to_owned());
                after.domains.len() - 1
            });
            DomainIx(at as u32)
        })
        .collect();
    let at = after.hosts.partition_point(|host| host.name <= room.name);
    after.hosts.insert(at, room);
    let shift = |host: HostIx| if host.at() >= at { HostIx(host.0 + 1) } else { host };
    for guest in &mut after.guests {
        guest.place =
            guest.place.map(|place| Place { host: shift(place.host), secondary: place.secondary.map(shift) });
        let lists = guest.allowed.iter_mut().chain(guest.wishes.iter_mut().map(|wish| &mut wish.hosts));
        lists.for_each(|hosts| hosts.iter_mut().for_each(|host| *host = shift(*host)));
    }
    after
}
