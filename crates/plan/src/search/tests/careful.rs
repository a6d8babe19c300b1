//! Kennel's own plans: few moves, each worth its cost.

use super::*;
use crate::search::careful::hope::Hopes;
use crate::snapshot::{Bound, Group, GroupIx, GuestNeed, Load, Scope, Strength};

/// A cluster of three hosts with eight cores each, and nine guests on the first, of which the first three are busy.
fn busy_three() -> Snapshot {
    let (mut snapshot, _) = Sample::new(3, 9, Storage::Mirrored, Profile::Packed, 1).make();
    for (at, guest) in snapshot.guests.iter_mut().enumerate() {
        *guest = GuestNeed {
            memory: 1 << 30,
            disk: 10 << 30,
            vcpus: 2,
            load: Load { cpu: if at < 3 { 2.0 } else { 0.05 }, ..Load::default() },
            groups: Vec::new(),
            ..guest.clone()
        };
    }
    snapshot.groups.clear();
    for host in &mut snapshot.hosts {
        (host.cores, host.vcpus_max) = (8.0, 32.0);
    }
    snapshot
}

#[test]
fn busy_guests_spread_by_themselves() {
    let snapshot = busy_three();
    let plan = balance(&snapshot, &Kennel, &Settings::default());
    let busy_on: std::collections::BTreeSet<_> =
        plan.places[..3].iter().flatten().map(|place| place.host).collect();
    assert_eq!(busy_on.len(), 3, "{:?}", plan.places);
}

#[test]
fn an_idle_cluster_is_left_alone() {
    let mut snapshot = busy_three();
    let hosts = [0, 1, 2, 0, 1, 2, 0, 0, 1];
    for (guest, host) in snapshot.guests.iter_mut().zip(hosts) {
        guest.load = Load { cpu: 0.05, ..Load::default() };
        guest.place = Some(Place { host: HostIx(host), secondary: Some(HostIx((host + 1) % 3)) });
    }
    assert_eq!(balance(&snapshot, &Kennel, &Settings::default()).moves, []);
}

#[test]
fn each_move_gains_more_than_it_costs_and_nothing_is_left_to_do() {
    for sample in samples() {
        let (snapshot, _) = sample.make();
        let plan = balance(&snapshot, &Kennel, &Settings::default());
        for scored in &plan.moves {
            assert!(scored.gain > scored.price, "{sample:?}: {scored:?}");
        }
        let after = carried_out(&snapshot, &plan.places);
        assert_eq!(balance(&after, &Kennel, &Settings::default()).moves, [], "{sample:?}");
    }
}

#[test]
fn no_step_of_a_plan_makes_anything_worse_that_must_hold() {
    for sample in samples() {
        let (snapshot, _) = sample.make();
        let plan = balance(&snapshot, &Kennel, &Settings::default());
        let mut layout = Layout::new(&snapshot);
        let before = layout.broken().len();
        for scored in &plan.moves {
            assert_eq!(layout.obstacle(scored.step.guest, scored.step.to), None, "{sample:?}: {scored:?}");
            layout.put(scored.step.guest, Some(scored.step.to));
        }
        assert!(layout.broken().len() <= before, "{sample:?}: {:?}", layout.broken());
    }
}

#[test]
fn a_host_that_is_to_be_emptied_is_emptied() {
    for storage in [Storage::Mirrored, Storage::Shared] {
        let (snapshot, _) = Sample::new(10, 100, storage, Profile::Drain, 5).make();
        let plan = balance(&snapshot, &Kennel, &Settings::default());
        let leaves = |host: HostIx| snapshot.host(host).duty.leaves();
        let left = plan
            .places
            .iter()
            .flatten()
            .filter(|place| leaves(place.host) || place.secondary.is_some_and(leaves));
        assert_eq!(left.count(), 0);
    }
}

#[test]
fn a_guest_that_may_not_move_stays() {
    let mut snapshot = busy_three();
    for guest in &mut snapshot.guests {
        guest.may_move = false;
    }
    assert_eq!(balance(&snapshot, &Kennel, &Settings::default()).moves, []);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let (snapshot, facts) = Sample::new(6, 50, Storage::Mirrored, Profile::Skew, 9).make();
    let threads = |count: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap();
        pool.install(|| {
            let kennel = balance(&snapshot, &Kennel, &Settings::default());
            (kennel, balance(&snapshot, &Ganeti::new(&facts), &Settings::default()))
        })
    };
    assert_eq!(threads(1), threads(3));
}

#[test]
fn no_move_gains_more_than_its_guest_can_hope_for() {
    for sample in samples() {
        let (mut snapshot, _) = sample.make();
        snapshot.guests[3].allowed = Some(vec![HostIx(1), HostIx(3)]);
        snapshot.hosts[1].cores *= 2.0;
        snapshot.hosts[2].memory /= 2;
        let everybody = snapshot.guest_indices().take(9).collect();
        let (rule, scope, strength) = ("together".to_owned(), Scope::Host, Strength::Must);
        let group = GroupIx(snapshot.groups.len() as u32);
        snapshot.groups.push(Group { rule, members: everybody, scope, bound: Bound::Together, strength });
        snapshot.guests[..9].iter_mut().for_each(|guest| guest.groups.push(group));
        for promise in [Promise::Nothing, Promise::Hosts(1), Promise::Hosts(2), Promise::Domain] {
            let snapshot = Snapshot { promise, ..snapshot.clone() };
            let packed = Packed::<8>::new(Kennel.terms(&snapshot).remove(0));
            let mut state = State::new(&packed, &seats(snapshot.guests.iter().map(|guest| guest.place)));
            for moves in [0, 3, 30] {
                let settings = Settings { moves_max: Some(moves), ..Settings::default() };
                super::super::careful::plan(&mut state, &settings);
                let hopes = Hopes::new(&state);
                for guest in 0..state.seats.len() {
                    let found = state.best(&Price::EachMove, guest, &packed.targets);
                    let Some(delta) = found.map(|found| found.delta) else { continue };
                    let hope = hopes.of(&state, guest);
                    assert!(delta >= hope, "{sample:?}, {promise:?}, {guest}: {delta} < {hope}");
                }
            }
        }
    }
}
