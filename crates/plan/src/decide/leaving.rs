//! Guests that are being moved and have not left yet. The inventory counts them where they go; the rules that they are
//! under hold where they are as well.

use model::{ClusterView, GuestName};

use crate::inventory::Inventory;
use crate::snapshot::{Bound, GuestIx, HostIx, Scope, Strength};

/// A guest that is being moved, and that has not left a host beside which a `must` rule forbids another one.
pub fn still_there<'i>(
    view: &ClusterView,
    inventory: &'i Inventory,
    guest: GuestIx,
    to: HostIx,
) -> Option<&'i GuestName> {
    let snapshot = &inventory.snapshot;
    let counts_at = |other: GuestIx| snapshot.guest(other).place.map(|place| place.host);
    let is_at = |other| view.assignments.get(inventory.guest_name(other)).map(|a| &a.host);
    snapshot.guest(guest).groups.iter().find_map(|group| {
        let group = &snapshot.groups[group.at()];
        let (Strength::Must, Bound::AtMost(limit)) = (group.strength, group.bound) else { return None };
        let domains = &snapshot.host(to).domains;
        let beside = |host: HostIx| match group.scope {
            Scope::Host => host == to,
            Scope::Domain => snapshot.host(host).domains.iter().any(|domain| domains.contains(domain)),
        };
        let others = || group.members.iter().copied().filter(|other| *other != guest);
        let stays = others().filter(|other| counts_at(*other).is_some_and(beside)).count();
        let leaves = |other: &GuestIx| {
            let here = is_at(*other).and_then(|host| inventory.host_ix(host));
            here.is_some_and(beside) && !counts_at(*other).is_some_and(beside)
        };
        let leaving: Vec<GuestIx> = others().filter(leaves).collect();
        let full = stays + leaving.len() >= limit as usize;
        leaving.first().filter(|_| full).map(|other| inventory.guest_name(*other))
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use model::{GuestPlace, JobId, JobKind, JobSpec, MoveOptions, Pool, RuleKind};

    use crate::decide::decide;
    use crate::fixture::{self, cluster, power_off};

    #[test]
    fn a_lost_guest_waits_until_another_has_left_that_a_rule_keeps_it_from() {
        let mut view = cluster(3);
        fixture::put(&mut view, "web1", Pool::Mirror, "host1", Some("host2"));
        fixture::put(&mut view, "web2", Pool::Shared, "host2", None);
        fixture::rule(&mut view, "web-apart", RuleKind::Apart, "web1 web2");
        let to = GuestPlace { host: fixture::host("host3"), secondary: None };
        let guest = "web2".parse().unwrap();
        let job = JobSpec {
            id: JobId(uuid::Uuid::nil()),
            kind: JobKind::MoveGuest { guest, to, options: MoveOptions::default(), heals: None },
            created_at: Timestamp::UNIX_EPOCH,
            requested_by: "admin".into(),
            runner: None,
            cancel: false,
        };
        view.jobs.insert(job.id, job);
        power_off(&mut view, "host1");
        let now = Timestamp::UNIX_EPOCH;
        let waits = decide(&view, now, now).waiting;
        let why = "a rule keeps it from host2 until 'web2' has left, which is being moved";
        assert_eq!(waits[&"web1".parse().unwrap()], why);
        view.assignments.get_mut(&"web2".parse().unwrap()).unwrap().host = fixture::host("host3");
        assert_eq!(decide(&view, now, now).changes.len(), 1, "it has gone");
    }
}
