//! What the leader changes. It looks at everything each time, takes no hint, and with nothing new it changes
//! nothing.
//!
//! A guest whose host is lost comes back on its secondary's host, if that very boot of it is in the in-sync
//! set of every volume; nothing else proves that no acknowledged write is missing. The transaction that
//! carries this out compares everything it rests on, so that a decision from an old view is refused by the
//! store rather than carried out.
//!
//! A guest in storage that hosts share comes back on any host, and only with a proof that its old host runs it no more
//! ([`crate::fence`]).
//!
//! When many hosts vanish at once, recovery waits and then goes slowly ([`crate::storm`]); what that rests on is written
//! down first.
//!
//! All lost guests are placed at once ([`crate::recover`]), those that matter most first, and then started bit by
//! bit: a host starts only so many at a time, and a guest waits while what it starts after comes up. What waits so
//! keeps its room. New guests come after the lost ones and get what these leave; whether a new guest breaks the
//! promise to survive a loss was the API's question when it was made ([`crate::capacity::admit`]).

mod leaving;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use model::{
    Assignment, ClusterView, Epoch, GuestName, GuestPlace, GuestReport, GuestSpec, GuestState, HostName,
    Liveness, Losses, PowerWish, VolumeId,
};

use crate::fence::{FenceProof, not_proven};
use crate::inventory::Inventory;
use crate::order::{StartOrder, waits_for};
use crate::place::{Options, place};
use crate::recover::{self, Field, Lost, May, NoReturn, Return};
use crate::snapshot::{GuestIx, HostIx, Snapshot};
use crate::storm::{self, Pace};

/// One change, carried out as one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A guest that has no owner gets its first.
    Assign { to: Assignment },
    /// The secondary takes over. The transaction compares the assignment `from` and the in-sync sets of all
    /// `volumes` with what was seen, and that the new owner's session is there.
    Promote { from: Assignment, to: Assignment, volumes: Vec<VolumeId> },
    /// Another host takes over a guest in storage that hosts share. The transaction compares the assignment `from`,
    /// what the proof rests on, that the old owner has no session and that the new one has.
    Recover { from: Assignment, to: Assignment, proof: FenceProof },
}

/// All that the leader does now, and what it waits for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "an unread decision is not carried out"]
pub struct Decision {
    /// What is to be written down of lost hosts before anything else is done, if it is not what stands in the store.
    pub losses: Option<Losses>,
    pub changes: Vec<Change>,
    /// Why a guest is without a live owner; one sentence without a full stop.
    pub waiting: BTreeMap<GuestName, String>,
    /// When to decide again although nothing happened.
    pub wake_at: Option<Timestamp>,
}

/// Decides. Before `recover_from` no host counts as lost: the leader itself was cut off a moment ago, and so
/// were perhaps the others.
pub fn decide(view: &ClusterView, now: Timestamp, recover_from: Timestamp) -> Decision {
    let mut decision = Decision::default();
    let known = view.losses.clone().unwrap_or_default();
    let losses = if now < recover_from { storm::still_lost(view, &known) } else { storm::look(view, now) };
    let pace = storm::pace(view, &losses);
    decision.losses = (losses != known).then_some(losses);
    let lost = lost_guests(view);
    let is_new = |spec: &&GuestSpec| !spec.deleting && !view.assignments.contains_key(&spec.name);
    let new: Vec<&GuestSpec> = view.guests.values().filter(is_new).collect();
    if lost.is_empty() && new.is_empty() {
        return decision;
    }
    // Each placement is judged with those before it.
    let mut inventory = Inventory::new(view, &BTreeMap::new());
    recover((view, now), &lost, &mut inventory, pace.as_ref(), &mut decision);
    if now < recover_from && !lost.is_empty() {
        // Nothing is done about the lost ones yet; only their room is kept.
        decision = Decision { wake_at: Some(recover_from), ..Decision::default() };
        for (spec, assignment) in lost {
            let why = format!("{} is lost, and the leader waits for it to be heard again", assignment.host);
            decision.waiting.insert(spec.name.clone(), why);
        }
    } else if let Some(pace) = pace.filter(|pace| pace.holds(now) && !lost.is_empty()) {
        // As above; and whatever else each would wait for, this comes first.
        decision.changes.clear();
        decision.waiting = lost.iter().map(|(spec, _)| (spec.name.clone(), pace.why.clone())).collect();
        decision.wake_at = Some(pace.hold_until);
    }
    for spec in new {
        match place(&inventory, spec, Options { force: true }) {
            Ok(to) => {
                let place = GuestPlace { host: to.host.clone(), secondary: to.secondary.clone() };
                inventory.put(&spec.name, &place);
                decision.changes.push(Change::Assign { to });
            }
            Err(none) => {
                decision.waiting.insert(spec.name.clone(), none.explain());
            }
        }
    }
    decision
}

/// Guests whose owner is lost; and those whose owner started anew before it had taken them over, if another host can.
fn lost_guests(view: &ClusterView) -> Vec<(&GuestSpec, &Assignment)> {
    let wanted = view.guests.values().filter(|spec| !spec.deleting);
    wanted
        .filter_map(|spec| Some((spec, view.assignments.get(&spec.name)?)))
        .filter(|(spec, assignment)| {
            !view.is_live(&assignment.host)
                || never_took_over(view, spec, assignment) && successor(view, spec, assignment).is_ok()
        })
        .collect()
}

/// Whether a live owner has booted since it was made the owner, and had not recorded anything as one by then: what its
/// replica took as a secondary may be gone. No machine of the guest can be left of that boot.
fn never_took_over(view: &ClusterView, spec: &GuestSpec, assignment: &Assignment) -> bool {
    let Liveness::Live(boot) = view.liveness(&assignment.host) else { return false };
    let stale = |set: &&model::InSync| {
        set.epoch != assignment.epoch
            && set.contains_host(&assignment.host)
            && !set.contains(&assignment.host, boot)
    };
    spec.disks.iter().any(|disk| view.in_sync.get(&disk.volume).filter(stale).is_some())
}

/// Decides about all lost guests and takes note in the inventory of where they go, now or in a moment.
fn recover(
    (view, now): (&ClusterView, Timestamp),
    lost: &[(&GuestSpec, &Assignment)],
    inventory: &mut Inventory,
    pace: Option<&Pace>,
    decision: &mut Decision,
) {
    let order = StartOrder::of(view.guests.values().filter(|spec| !spec.deleting));
    let mut back = Vec::new();
    let mut taken = Vec::new();
    let mut proofs = BTreeMap::new();
    for (spec, assignment) in lost {
        let Some(guest) = inventory.guest_ix(&spec.name) else { continue };
        taken.push(guest);
        if spec.is_shared() {
            match FenceProof::find(view, assignment) {
                Some(proof) => {
                    proofs.insert(&spec.name, proof);
                    back.push(Lost { guest, may: May::Anywhere });
                }
                None => {
                    decision.waiting.insert(spec.name.clone(), not_proven(view, &assignment.host));
                }
            }
            continue;
        }
        let candidate = successor(view, spec, assignment).and_then(|host| {
            inventory.host_ix(&host).ok_or_else(|| format!("{host} is no host of the cluster any more"))
        });
        match candidate {
            Ok(host) => back.push(Lost { guest, may: May::Only(host) }),
            Err(why) => {
                decision.waiting.insert(spec.name.clone(), why);
            }
        }
    }
    let snapshot = as_they_run(view, inventory);
    recover::in_order(&snapshot, &mut back, |guest| order.rank(inventory.guest_name(guest)));
    let bare = recover::bare(&snapshot);
    let (returns, _) = Field::new(&snapshot, &bare).lose(&[], &taken, &back);
    let mut starts = Starts::new((view, now), order, pace);
    for returned in returns {
        let name = inventory.guest_name(returned.guest).clone();
        let (Some(spec), Some(from)) = (view.guests.get(&name), view.assignments.get(&name)) else {
            continue;
        };
        match goes_to(view, inventory, &returned, from) {
            Err(why) => {
                decision.waiting.insert(name, why);
            }
            Ok(host) => {
                let to = inventory.host_name(host).clone();
                let proof = proofs.get(&name);
                let secondary = proof.is_none().then(|| from.host.clone());
                inventory.put(&name, &GuestPlace { host: to.clone(), secondary });
                match starts.may_start(spec, &to) {
                    Ok(()) => decision.changes.push(match proof {
                        Some(proof) => recovery(from, to, proof.clone()),
                        None => promotion(view, spec, from, to),
                    }),
                    Err(why) => {
                        decision.waiting.insert(name, why);
                    }
                }
            }
        }
    }
    leavers_first(view, &mut decision.changes);
}

/// The inventory counts a guest that is being moved where it goes. It still runs where it is, so the room that it
/// takes there is taken off; and where it goes may be lost.
fn as_they_run(view: &ClusterView, inventory: &Inventory) -> Snapshot {
    let mut snapshot = inventory.snapshot.clone();
    for (name, assignment) in &view.assignments {
        let (Some(guest), Some(host)) = (inventory.guest_ix(name), inventory.host_ix(&assignment.host))
        else {
            continue;
        };
        let need = &mut snapshot.guests[guest.at()];
        let Some(counted) = need.place.filter(|counted| counted.host != host) else { continue };
        if snapshot.hosts[counted.host.at()].duty.is_lost() {
            let secondary = assignment.secondary.clone();
            need.place = inventory.place_ix(&GuestPlace { host: assignment.host.clone(), secondary });
        } else if need.runs {
            let room = &mut snapshot.hosts[host.at()];
            room.memory = room.memory.saturating_sub(need.memory);
            room.vcpus_max -= f64::from(need.vcpus);
        }
    }
    snapshot
}

/// Where a lost guest goes, or why it waits.
fn goes_to(
    view: &ClusterView,
    inventory: &Inventory,
    returned: &Return,
    from: &Assignment,
) -> Result<HostIx, String> {
    let guest = returned.guest;
    let host = match &returned.to {
        Ok(host) => *host,
        Err(why) => return Err(cannot_take(inventory, guest, from, why)),
    };
    let to = inventory.host_name(host);
    match leaving::still_there(view, inventory, guest, host) {
        Some(other) => {
            Err(format!("a rule keeps it from {to} until '{other}' has left, which is being moved"))
        }
        None => Ok(host),
    }
}

/// Guests that leave a live host make room there for those that come.
fn leavers_first(view: &ClusterView, changes: &mut [Change]) {
    changes.sort_by_key(|change| match change {
        Change::Promote { from, .. } | Change::Recover { from, .. } => !view.is_live(&from.host),
        Change::Assign { .. } => true,
    });
}

fn cannot_take(inventory: &Inventory, guest: GuestIx, from: &Assignment, why: &NoReturn) -> String {
    if why.reasons.is_empty() {
        return format!("{} is lost, and no other host can take it over", from.host);
    }
    let reasons = why.reasons.iter().map(|(host, obstacle)| {
        format!("{} cannot take it over: {}", inventory.host_name(*host), inventory.explain(guest, obstacle))
    });
    format!("{} is lost, and {}", from.host, reasons.collect::<Vec<_>>().join("; "))
}

/// What each host has still to bring up, and who waits for whom.
struct Starts {
    order: StartOrder,
    by_host: BTreeMap<HostName, usize>,
    /// Guests that come up now or in a moment.
    coming: BTreeSet<GuestName>,
    limit: usize,
}

impl Starts {
    fn new((view, now): (&ClusterView, Timestamp), order: StartOrder, pace: Option<&Pace>) -> Starts {
        let settings = view.cluster.as_ref().map(|cluster| cluster.settings.clone()).unwrap_or_default();
        let usual = settings.recovery_starts_per_host as usize;
        let limit = pace.map_or(usual, |pace| pace.starts_per_host);
        let patience = SignedDuration::from_secs(i64::from(settings.start_wait_s));
        let (by_host, coming) = (BTreeMap::new(), BTreeSet::new());
        let mut starts = Starts { order, by_host, coming, limit };
        for (name, assignment) in &view.assignments {
            let wanted = |spec: &&GuestSpec| spec.power == PowerWish::Running && !spec.deleting;
            let Some(spec) = view.guests.get(name).filter(wanted) else { continue };
            let report = view.guest_reports.get(name);
            if view.is_live(&assignment.host) && !is_settled(report, assignment.epoch) {
                // One that waits for another keeps nobody busy; and that other may have to come up beside it.
                if waits_for(view, spec, None).is_none() {
                    *starts.by_host.entry(assignment.host.clone()).or_default() += 1;
                }
                // What has been coming for so long keeps nobody waiting any more.
                let current = report.filter(|report| report.epoch == assignment.epoch);
                if current.is_none_or(|report| now.duration_since(report.since) < patience) {
                    starts.coming.insert(name.clone());
                }
            }
        }
        starts
    }

    /// Whether a lost guest's turn has come. The guests must be asked about in their order.
    fn may_start(&mut self, spec: &GuestSpec, host: &HostName) -> Result<(), String> {
        if spec.power != PowerWish::Running {
            return Ok(());
        }
        // A guest that cannot come up now keeps nobody waiting, nor do those that wait for each other in a circle.
        let rank = self.order.rank(&spec.name);
        let holds = |before: &&GuestName| self.coming.contains(*before) && self.order.rank(before) < rank;
        let held = spec.start_after.iter().find(holds).cloned();
        self.coming.insert(spec.name.clone());
        if let Some(before) = held {
            return Err(format!("it starts after {before}, which is coming up"));
        }
        let starts = self.by_host.entry(host.clone()).or_default();
        if *starts >= self.limit {
            let others = if *starts == 1 { "another guest".into() } else { format!("{starts} other guests") };
            return Err(format!("{host} is starting {others}; this one is next"));
        }
        *starts += 1;
        Ok(())
    }
}

fn promotion(view: &ClusterView, spec: &GuestSpec, from: &Assignment, to: HostName) -> Change {
    let what = if view.is_live(&from.host) { "started anew before it had taken over" } else { "was lost" };
    let why = format!("{} {what}, and {to} held every acknowledged write", from.host);
    Change::Promote {
        from: from.clone(),
        to: Assignment {
            host: to,
            epoch: from.epoch.next(),
            secondary: Some(from.host.clone()),
            why,
            handover: None,
            handed_over_by: None,
            ..from.clone()
        },
        volumes: spec.disks.iter().map(|disk| disk.volume).collect(),
    }
}

/// A guest goes elsewhere only with this proof in hand.
fn recovery(from: &Assignment, to: HostName, proof: FenceProof) -> Change {
    let why = format!("{} was lost, and {proof}", from.host);
    Change::Recover {
        from: from.clone(),
        to: Assignment {
            host: to,
            epoch: from.epoch.next(),
            secondary: None,
            why,
            handover: None,
            handed_over_by: None,
            ..from.clone()
        },
        proof,
    }
}

/// The host that may take over a lost guest for all that is known of its volumes, or why none may.
fn successor(view: &ClusterView, spec: &GuestSpec, assignment: &Assignment) -> Result<HostName, String> {
    let lost = &assignment.host;
    let Some(secondary) = &assignment.secondary else {
        return Err(format!("{lost} is lost, and the guest's volumes are nowhere else; it waits for {lost}"));
    };
    let Liveness::Live(boot) = view.liveness(secondary) else {
        return Err(format!("{lost} and {secondary}, which hold its volumes, are both lost"));
    };
    for disk in &spec.disks {
        let Some(in_sync) = view.in_sync.get(&disk.volume) else {
            return Err(format!(
                "{lost} was lost before it had made the guest's volumes; it waits for {lost}"
            ));
        };
        if !in_sync.contains(secondary, boot) {
            return Err(if in_sync.contains_host(secondary) {
                format!(
                    "{lost} is lost, and {secondary} started anew since it took the last write; only {lost} \
                     surely holds every acknowledged write"
                )
            } else {
                format!(
                    "{lost} is lost, and {secondary} does not hold every acknowledged write; it waits for {lost}"
                )
            });
        }
    }
    if !view.host_reports.contains_key(secondary) {
        return Err(format!("{secondary} has not reported its size yet"));
    }
    Ok(secondary.clone())
}

/// Whether a guest's host has done what it can for it at this epoch.
fn is_settled(report: Option<&GuestReport>, epoch: Epoch) -> bool {
    report.filter(|report| report.epoch == epoch).is_some_and(|report| match report.state {
        GuestState::Running | GuestState::Stopped | GuestState::Failed | GuestState::Deleted => true,
        GuestState::Preparing | GuestState::Starting | GuestState::Stopping => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, cluster, power_off, power_on};
    use model::Pool;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    /// One line for each change and each wait.
    fn check(view: &ClusterView, expected: &[&str]) {
        let decision = decide(view, NOW, NOW);
        let changes = decision.changes.iter().map(|change| match change {
            Change::Assign { to } => format!("{}: assign {}", to.guest, to.host),
            Change::Promote { from, to, .. } | Change::Recover { from, to, .. } => {
                format!("{}: {}@{} -> {}@{}", to.guest, from.host, from.epoch, to.host, to.epoch)
            }
        });
        let waits = decision.waiting.iter().map(|(guest, why)| format!("{guest} waits: {why}"));
        assert_eq!(changes.chain(waits).collect::<Vec<_>>(), expected);
    }

    fn apply(view: &mut ClusterView, decision: Decision) {
        for change in decision.changes {
            let (Change::Assign { to } | Change::Promote { to, .. } | Change::Recover { to, .. }) = change;
            view.assignments.insert(to.guest.clone(), to);
        }
    }

    #[test]
    fn nothing_new_changes_nothing() {
        let mut view = cluster(3);
        view.guests.insert("a".parse().unwrap(), fixture::guest("a", Pool::Mirror));
        check(&view, &["a: assign host1"]);
        let decision = decide(&view, NOW, NOW);
        apply(&mut view, decision);
        check(&view, &[]);
    }

    #[test]
    fn the_secondary_takes_over_a_lost_hosts_guest() {
        let mut view = cluster(3);
        fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        power_off(&mut view, "host1");
        check(&view, &["a: host1@1 -> host2@2"]);
    }

    #[test]
    fn a_secondary_that_booted_anew_is_not_promoted() {
        let mut view = cluster(3);
        fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        power_off(&mut view, "host1");
        power_on(&mut view, "host2", 2);
        check(
            &view,
            &[
                "a waits: host1 is lost, and host2 started anew since it took the last write; only host1 surely \
               holds every acknowledged write",
            ],
        );
    }

    #[test]
    fn an_owner_that_booted_before_it_took_over_gives_the_guest_back() {
        let mut view = cluster(3);
        fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        // A moment ago host1 handed it over; both are in sync by host1's word.
        let assignment = view.assignments.get_mut(&"a".parse().unwrap()).unwrap();
        (assignment.host, assignment.secondary) = (fixture::host("host2"), Some(fixture::host("host1")));
        assignment.epoch = assignment.epoch.next();
        check(&view, &[]);
        power_on(&mut view, "host2", 2);
        check(&view, &["a: host2@2 -> host1@3"]);
        // One that had recorded itself flushed its replica before.
        let set = view.in_sync.get_mut(&fixture::volume("a")).unwrap();
        set.epoch = set.epoch.next();
        check(&view, &[]);
    }

    #[test]
    fn a_secondary_that_was_let_go_is_not_promoted() {
        let mut view = cluster(3);
        fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        let members = &mut view.in_sync.get_mut(&fixture::volume("a")).unwrap().members;
        members.retain(|replica| replica.host == fixture::host("host1"));
        power_off(&mut view, "host1");
        check(
            &view,
            &["a waits: host1 is lost, and host2 does not hold every acknowledged write; it waits for host1"],
        );
    }

    #[test]
    fn a_local_guest_waits_for_its_host() {
        let mut view = cluster(3);
        fixture::put(&mut view, "a", Pool::Local, "host1", None);
        power_off(&mut view, "host1");
        check(
            &view,
            &["a waits: host1 is lost, and the guest's volumes are nowhere else; it waits for host1"],
        );
    }

    const NOT_PROVEN: &str = "a waits: host1 is lost, and may still run it: its disks are in storage that hosts share, \
         so it is started elsewhere only when host1 surely runs it no more; see that host1 is off, then say \
         `kennel host confirm-dead host1`";

    fn confirm_dead(view: &mut ClusterView, name: &str) {
        let host = fixture::host(name);
        let boot_id = fixture::boot(name, 1);
        let word = model::ConfirmedDead { host: host.clone(), boot_id, by: "admin".into(), at: NOW };
        view.confirmed_dead.insert(host, word);
    }

    #[test]
    fn a_guest_in_shared_storage_is_started_elsewhere_only_with_a_proof() {
        let mut view = cluster(3);
        fixture::put(&mut view, "a", Pool::Shared, "host1", None);
        power_off(&mut view, "host1");
        check(&view, &[NOT_PROVEN]);
        // What its host said while it ran proves nothing, nor does what another owner said before.
        let assignment = view.assignments[&"a".parse().unwrap()].clone();
        let mut report = fixture::report(&assignment, GuestState::Running);
        view.guest_reports.insert(report.guest.clone(), report.clone());
        check(&view, &[NOT_PROVEN]);
        report.state = GuestState::Stopped;
        view.guest_reports.insert(report.guest.clone(), GuestReport { epoch: Epoch(0), ..report.clone() });
        check(&view, &[NOT_PROVEN]);
        let other = GuestReport { host: fixture::host("host2"), ..report.clone() };
        view.guest_reports.insert(report.guest.clone(), other);
        check(&view, &[NOT_PROVEN]);
        view.guest_reports.insert(report.guest.clone(), report);
        check(&view, &["a: host1@1 -> host2@2"]);
        view.guest_reports.clear();
        confirm_dead(&mut view, "host1");
        let decision = decide(&view, NOW, NOW);
        let [Change::Recover { to, proof, .. }] = decision.changes.as_slice() else { panic!("{decision:?}") };
        assert_eq!((&to.secondary, &to.handed_over_by), (&None, &None));
        assert_eq!(to.why, "host1 was lost, and admin confirmed that it is dead");
        assert_eq!(*proof, FenceProof::Confirmed { by: "admin".into(), at: NOW });
        // Heard again, it is the owner as before.
        power_on(&mut view, "host1", 1);
        check(&view, &[]);
    }

    #[test]
    fn a_guest_in_shared_storage_goes_where_its_pool_is_reached_and_where_there_is_room() {
        let mut view = cluster(3);
        fixture::put(&mut view, "a", Pool::Shared, "host1", None);
        fixture::put_pool(&mut view, "nfs1", &["host1", "host3"]);
        spec(&mut view, "a").disks[0].pool_name = Some("nfs1".parse().unwrap());
        power_off(&mut view, "host1");
        confirm_dead(&mut view, "host1");
        check(&view, &["a: host1@1 -> host3@2"]);
        spec(&mut view, "a").memory = model::Bytes::gib(20);
        check(
            &view,
            &[
                "a waits: host1 is lost, and host3 cannot take it over: 7.5G of memory is free, 20.1G is needed",
            ],
        );
        power_off(&mut view, "host3");
        fixture::settings(&mut view).storm_share_percent = 0;
        check(&view, &["a waits: host1 is lost, and no other host can take it over"]);
    }

    #[test]
    fn starts_are_paced_and_the_important_come_first() {
        let mut view = cluster(2);
        for name in ["a", "b", "c", "d", "e", "f"] {
            fixture::put(&mut view, name, Pool::Mirror, "host1", Some("host2"));
        }
        view.guests.get_mut(&"f".parse().unwrap()).unwrap().priority = 10;
        power_off(&mut view, "host1");
        check(
            &view,
            &[
                "f: host1@1 -> host2@2",
                "a: host1@1 -> host2@2",
                "b: host1@1 -> host2@2",
                "c: host1@1 -> host2@2",
                "d waits: host2 is starting 4 other guests; this one is next",
                "e waits: host2 is starting 4 other guests; this one is next",
            ],
        );
        let decision = decide(&view, NOW, NOW);
        apply(&mut view, decision);
        for name in ["f", "a"] {
            let assignment = view.assignments[&name.parse().unwrap()].clone();
            let report = fixture::report(&assignment, GuestState::Running);
            view.guest_reports.insert(assignment.guest.clone(), report);
        }
        check(&view, &["d: host1@1 -> host2@2", "e: host1@1 -> host2@2"]);
    }

    #[test]
    fn memory_is_counted_across_all_that_are_recovered() {
        let mut view = cluster(2);
        for name in ["a", "b"] {
            fixture::put(&mut view, name, Pool::Mirror, "host1", Some("host2"));
            view.guests.get_mut(&name.parse().unwrap()).unwrap().memory = model::Bytes::gib(5);
        }
        power_off(&mut view, "host1");
        check(
            &view,
            &[
                "a: host1@1 -> host2@2",
                "b waits: host1 is lost, and host2 cannot take it over: 2.4G of memory is free, 5.1G is needed",
            ],
        );
    }

    #[test]
    fn a_leader_that_was_cut_off_itself_waits() {
        let mut view = cluster(3);
        fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        power_off(&mut view, "host1");
        let later = NOW + jiff::SignedDuration::from_secs(5);
        let decision = decide(&view, NOW, later);
        assert!(decision.changes.is_empty());
        assert_eq!(decision.wake_at, Some(later));
        assert_eq!(decide(&view, later, later).changes.len(), 1);
    }

    fn rule(view: &mut ClusterView, name: &str, kind: model::RuleKind, guests: &[&str]) {
        let names = guests.iter().map(|guest| guest.parse().unwrap()).collect();
        let rule = model::Rule {
            name: name.parse().unwrap(),
            kind,
            guests: model::GuestSelector { names, tags: BTreeSet::new() },
            strength: model::RuleStrength::Must,
            priority: 0,
            created_at: NOW,
        };
        view.rules.insert(rule.name.clone(), rule);
    }

    fn spec<'v>(view: &'v mut ClusterView, name: &str) -> &'v mut GuestSpec {
        view.guests.get_mut(&name.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_must_rule_keeps_a_lost_guest_waiting() {
        let mut view = cluster(3);
        fixture::put(&mut view, "web1", Pool::Mirror, "host1", Some("host2"));
        fixture::put(&mut view, "web2", Pool::Mirror, "host2", Some("host3"));
        rule(&mut view, "web-apart", model::RuleKind::Apart, &["web1", "web2"]);
        power_off(&mut view, "host1");
        check(
            &view,
            &[
                "web1 waits: host1 is lost, and host2 cannot take it over: the rule 'web-apart' allows 1 on a host, \
               this would be 2",
            ],
        );
    }

    #[test]
    fn guests_that_belong_together_come_back_together() {
        let mut view = cluster(3);
        fixture::put(&mut view, "app", Pool::Mirror, "host1", Some("host2"));
        fixture::put(&mut view, "db", Pool::Mirror, "host1", Some("host2"));
        rule(&mut view, "pair", model::RuleKind::Together, &["app", "db"]);
        power_off(&mut view, "host1");
        check(&view, &["app: host1@1 -> host2@2", "db: host1@1 -> host2@2"]);
    }

    #[test]
    fn what_others_start_after_comes_up_first_and_they_wait_for_it() {
        let mut view = cluster(3);
        for name in ["app", "db", "log"] {
            fixture::put(&mut view, name, Pool::Mirror, "host1", Some("host2"));
        }
        spec(&mut view, "app").start_after.insert("db".parse().unwrap());
        spec(&mut view, "app").priority = 5;
        power_off(&mut view, "host1");
        check(
            &view,
            &[
                "db: host1@1 -> host2@2",
                "log: host1@1 -> host2@2",
                "app waits: it starts after db, which is coming up",
            ],
        );
        let decision = decide(&view, NOW, NOW);
        apply(&mut view, decision);
        check(&view, &["app waits: it starts after db, which is coming up"]);
        let db = view.assignments[&"db".parse().unwrap()].clone();
        view.guest_reports.insert(db.guest.clone(), fixture::report(&db, GuestState::Running));
        check(&view, &["app: host1@1 -> host2@2"]);
    }

    #[test]
    fn nobody_waits_for_a_guest_that_cannot_come_up_nor_in_a_circle() {
        let mut view = cluster(3);
        fixture::put(&mut view, "app", Pool::Mirror, "host1", Some("host2"));
        fixture::put(&mut view, "db", Pool::Local, "host1", None);
        spec(&mut view, "app").start_after.insert("db".parse().unwrap());
        power_off(&mut view, "host1");
        check(
            &view,
            &[
                "app: host1@1 -> host2@2",
                "db waits: host1 is lost, and the guest's volumes are nowhere else; it waits for host1",
            ],
        );
        let mut view = cluster(3);
        for (name, after) in [("a", "b"), ("b", "a")] {
            fixture::put(&mut view, name, Pool::Mirror, "host1", Some("host2"));
            spec(&mut view, name).start_after.insert(after.parse().unwrap());
        }
        power_off(&mut view, "host1");
        check(&view, &["a: host1@1 -> host2@2", "b: host1@1 -> host2@2"]);
    }

    #[test]
    fn a_new_guest_does_not_take_the_room_of_a_lost_one() {
        let mut view = cluster(2);
        fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        spec(&mut view, "a").memory = model::Bytes::gib(5);
        power_off(&mut view, "host1");
        let mut new = fixture::guest("big", Pool::Local);
        new.memory = model::Bytes::gib(4);
        new.priority = 100;
        view.guests.insert(new.name.clone(), new);
        check(
            &view,
            &[
                "a: host1@1 -> host2@2",
                "big waits: host1: it is lost; host2: 2.4G of memory is free, 4.1G is needed",
            ],
        );
        // Nor while the leader still waits for the lost host.
        let decision = decide(&view, NOW, NOW + jiff::SignedDuration::from_secs(5));
        assert!(decision.changes.is_empty());
    }

    #[test]
    fn a_pending_handover_ends_with_its_owner() {
        let mut view = cluster(3);
        fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        let assignment = view.assignments.get_mut(&"a".parse().unwrap()).unwrap();
        assignment.handover = Some(model::Handover {
            to: fixture::host("host2"),
            how: model::HandoverKind::Restart,
            job: model::JobId(uuid::Uuid::nil()),
            options: model::MoveOptions::RESTART,
        });
        power_off(&mut view, "host1");
        let decision = decide(&view, NOW, NOW);
        let [Change::Promote { to, .. }] = decision.changes.as_slice() else { panic!("{decision:?}") };
        assert_eq!((to.host.as_str(), &to.handover, &to.handed_over_by), ("host2", &None, &None));
    }

    #[test]
    fn a_host_in_maintenance_still_takes_over_what_nobody_else_has() {
        let mut view = cluster(3);
        fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        view.hosts.get_mut(&fixture::host("host2")).unwrap().duty = model::Duty::Maintenance;
        power_off(&mut view, "host1");
        check(&view, &["a: host1@1 -> host2@2"]);
    }

    #[test]
    fn the_room_that_is_kept_for_a_loss_is_used_in_one() {
        let mut view = cluster(3);
        for (name, owner, secondary) in
            [("a", "host1", "host2"), ("b", "host2", "host3"), ("c", "host3", "host2")]
        {
            fixture::put(&mut view, name, Pool::Mirror, owner, Some(secondary));
            spec(&mut view, name).memory = model::Bytes::gib(3);
        }
        power_off(&mut view, "host1");
        // Afterwards host2 has no room for c; that is for the balance to mend.
        check(&view, &["a: host1@1 -> host2@2"]);
    }

    #[test]
    fn a_guest_that_is_being_deleted_is_left_alone() {
        let mut view = cluster(3);
        fixture::put(&mut view, "a", Pool::Mirror, "host1", Some("host2"));
        view.guests.get_mut(&"a".parse().unwrap()).unwrap().deleting = true;
        power_off(&mut view, "host1");
        check(&view, &[]);
    }
}
