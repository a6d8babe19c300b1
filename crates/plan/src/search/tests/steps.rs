//! What the search takes for one move is carried out in steps, and each of them must be allowed by itself.

use super::*;
use crate::scene::obstacle_on_the_way;
use crate::snapshot::{Bound, DomainIx, Group, GroupIx, Scope, Strength};

/// A small cluster in which nearly everything is wrong: rules of all kinds that are broken, hosts that are overfull or
/// shall be left, guests that are stopped or pinned to hosts.
fn troubled(seed: u64, promise: Promise) -> Snapshot {
    let mut random = Random::new(seed);
    let count = 3 + random.below(4);
    let (mut snapshot, _) = Sample::new(count, 24, Storage::Mirrored, Profile::Random, seed).make();
    snapshot.promise = promise;
    snapshot.groups.clear();
    snapshot.domains = (0..3).map(|zone| format!("zone{zone}")).collect();
    for host in &mut snapshot.hosts {
        host.domains = (random.below(5) > 0).then(|| DomainIx(random.below(3) as u32)).into_iter().collect();
        host.memory = host.memory * (2 + random.below(5) as u64) / 6;
        host.disk = host.disk * (3 + random.below(5) as u64) / 6;
        host.duty = match random.below(10) {
            0 => HostDuty::Keeps("it keeps".to_owned()),
            1 => HostDuty::GuestsLeave("guests leave".to_owned()),
            2 => HostDuty::Leaves("it is left".to_owned()),
            _ => HostDuty::Takes,
        };
    }
    let hosts: Vec<HostIx> = snapshot.host_indices().collect();
    for guest in &mut snapshot.guests {
        guest.groups.clear();
        guest.runs = random.below(6) > 0;
        if random.below(6) == 0 {
            guest.allowed = Some(hosts.iter().copied().filter(|_| random.below(2) == 0).collect());
        }
    }
    for at in 0..4 {
        let members: Vec<GuestIx> = snapshot.guest_indices().filter(|_| random.below(4) == 0).collect();
        members.iter().for_each(|guest| snapshot.guests[guest.at()].groups.push(GroupIx(at)));
        let scope = if random.below(2) == 0 { Scope::Host } else { Scope::Domain };
        let bound =
            if random.below(2) == 0 { Bound::Together } else { Bound::AtMost(1 + random.below(2) as u32) };
        let strength = if random.below(4) == 0 { Strength::Should(0.5) } else { Strength::Must };
        let scope = if bound == Bound::Together { Scope::Host } else { scope };
        snapshot.groups.push(Group { rule: format!("rule{at}"), members, scope, bound, strength });
    }
    snapshot
}

#[test]
fn every_move_that_the_search_allows_can_be_made_step_by_step() {
    let (mut yes, mut no) = (0, 0);
    for seed in 1..80 {
        for promise in [Promise::Nothing, Promise::Hosts(1), Promise::Hosts(2), Promise::Domain] {
            let snapshot = troubled(seed, promise);
            let packed = Packed::<8>::new(Kennel.terms(&snapshot).remove(0));
            let mut state = State::new(&packed, &seats(snapshot.guests.iter().map(|guest| guest.place)));
            let mut layout = Layout::new(&snapshot);
            let mut random = Random::new(seed);
            for _ in 0..300 {
                let guest = random.below(state.seats.len());
                let new = super::incremental::any_seat(&state, guest, &mut random);
                let (Some(from), Some(to)) = (place(state.seats[guest]), place(new)) else { continue };
                if from == to {
                    continue;
                }
                let step = Move { guest: GuestIx(guest as u32), from, to };
                let refused = obstacle_on_the_way(&mut layout, step, false);
                assert_eq!(
                    state.may(guest, new),
                    refused.is_none(),
                    "{seed} {promise:?} {step:?} {refused:?}"
                );
                if refused.is_some() {
                    no += 1;
                    continue;
                }
                yes += 1;
                state.apply(guest, new);
                layout.put(step.guest, Some(to));
            }
        }
    }
    assert!(yes > 1000 && no > 1000, "{yes} allowed, {no} refused");
}
