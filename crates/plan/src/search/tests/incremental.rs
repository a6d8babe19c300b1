//! What the state keeps up to date is what it would compute from scratch, and what it allows is what the layout
//! allows.

use super::*;

/// Makes random moves, allowed or not, and compares after each.
fn compare<const K: usize>(terms: Terms, snapshot: &Snapshot, name: &str) {
    let packed = Packed::<K>::new(terms);
    let start = seats(snapshot.guests.iter().map(|guest| guest.place));
    let mut state = State::new(&packed, &start);
    let mut random = Random::new(7);
    for _ in 0..200 {
        let guest = random.below(start.len());
        let new = any_seat(&state, guest, &mut random);
        let promised = state.value_after(guest, new);
        let other = random.below(start.len());
        let both = (other != guest && !grouped(&state, guest, other)).then(|| {
            let seat = any_seat(&state, other, &mut random);
            (state.value_after_both([(guest, new), (other, seat)]), seat)
        });
        state.apply(guest, new);
        assert_close(promised, state.value, name);
        if let Some((promised, seat)) = both {
            state.apply(other, seat);
            assert_close(promised, state.value, name);
        }
        let mut fresh = state.clone();
        fresh.renew();
        assert_close(state.value, fresh.value, name);
        for (kept, fresh) in state.hosts.iter().zip(&fresh.hosts) {
            assert_close(kept.res, fresh.res, name);
            assert_close(kept.free, fresh.free, name);
            for (kept, fresh) in kept.room.iter().zip(&fresh.room) {
                assert_close(*kept, *fresh, name);
            }
        }
    }
}

fn grouped<const K: usize>(state: &State<'_, K>, a: usize, b: usize) -> bool {
    let of = |guest: usize| &state.p.terms.guests[guest].groups;
    of(a).iter().any(|group| of(b).contains(group))
}

fn assert_close(a: f64, b: f64, name: &str) {
    assert!((a - b).abs() <= 1e-6 * (1.0 + a.abs()), "{name}: {a} is not {b}");
}

pub(super) fn any_seat<const K: usize>(state: &State<'_, K>, guest: usize, random: &mut Random) -> Seat {
    let host = random.below(state.hosts.len()) as u32;
    let old = state.seats[guest];
    if old.secondary == NOWHERE {
        return Seat { host, secondary: NOWHERE };
    }
    let seats = [
        Seat { host: old.secondary, secondary: old.host },
        Seat { host, secondary: old.host },
        Seat { host: old.secondary, secondary: host },
        Seat { host, secondary: old.secondary },
        Seat { host: old.host, secondary: host },
    ];
    let seat = seats[random.below(seats.len())];
    if seat.host == seat.secondary { seats[0] } else { seat }
}

#[test]
fn the_score_kept_is_the_score_from_scratch() {
    for sample in samples() {
        let (snapshot, facts) = sample.make();
        for terms in Ganeti::new(&facts).terms(&snapshot) {
            compare::<16>(terms, &snapshot, &format!("ganeti, {sample:?}"));
        }
        for promise in [Promise::Nothing, Promise::Hosts(1), Promise::Hosts(2), Promise::Domain] {
            let snapshot = Snapshot { promise, ..snapshot.clone() };
            for terms in Kennel.terms(&snapshot) {
                compare::<8>(terms, &snapshot, &format!("kennel, {promise:?}, {sample:?}"));
            }
        }
    }
}

#[test]
fn the_search_allows_what_the_layout_allows() {
    for sample in samples() {
        let (mut snapshot, _) = sample.make();
        snapshot.hosts[2].duty = HostDuty::Keeps("it is in maintenance".to_owned());
        snapshot.guests[0].allowed = Some(vec![HostIx(1), HostIx(3)]);
        for promise in [Promise::Nothing, Promise::Hosts(1), Promise::Hosts(2), Promise::Domain] {
            let snapshot = Snapshot { promise, ..snapshot.clone() };
            let terms = Kennel.terms(&snapshot).remove(0);
            let packed = Packed::<8>::new(terms);
            let start = seats(snapshot.guests.iter().map(|guest| guest.place));
            let mut state = State::new(&packed, &start);
            let mut layout = Layout::new(&snapshot);
            let mut random = Random::new(11);
            let (mut yes, mut no) = (0, 0);
            for _ in 0..3000 {
                let guest = random.below(start.len());
                let new = any_seat(&state, guest, &mut random);
                if new == state.seats[guest] {
                    continue;
                }
                let chain = new.secondary == state.seats[guest].secondary && new.secondary != NOWHERE;
                let obstacle = layout.obstacle(GuestIx(guest as u32), place(new).unwrap());
                // A new primary beside the old secondary passes through a swap of roles.
                let swap = Seat { host: new.secondary, secondary: state.seats[guest].host };
                let on_the_way =
                    chain.then(|| layout.obstacle(GuestIx(guest as u32), place(swap).unwrap())).flatten();
                let allowed = obstacle.is_none() && on_the_way.is_none();
                assert_eq!(
                    state.may(guest, new),
                    allowed,
                    "{sample:?} {promise:?} {new:?} {obstacle:?} {on_the_way:?}"
                );
                if allowed {
                    yes += 1
                } else {
                    no += 1
                }
                if allowed {
                    state.apply(guest, new);
                    layout.put(GuestIx(guest as u32), place(new));
                }
            }
            assert!(yes > 100 && no > 10, "{yes} allowed, {no} refused: {sample:?}");
        }
    }
}

#[test]
fn the_best_move_is_the_best_of_all_that_are_allowed() {
    for sample in samples() {
        let (snapshot, facts) = sample.make();
        let packed = Packed::<16>::new(Ganeti::new(&facts).terms(&snapshot).remove(0));
        let start = seats(snapshot.guests.iter().map(|guest| guest.place));
        let state = State::new(&packed, &start);
        let price = Price::EachMove;
        for (guest, old) in start.iter().enumerate() {
            let best = state.best(&price, guest, &packed.targets).map(|found| found.delta);
            let hosts = 0..state.hosts.len() as u32;
            let none = std::iter::once(NOWHERE);
            let seats = hosts.clone().flat_map(|host| {
                hosts.clone().chain(none.clone()).map(move |secondary| Seat { host, secondary })
            });
            let allowed = seats.filter(|seat| {
                (seat.secondary == NOWHERE) == (old.secondary == NOWHERE) && seat.host != seat.secondary
            });
            let deltas =
                allowed.filter(|seat| state.may(guest, *seat)).map(|seat| state.delta(&price, guest, seat));
            let tried = deltas.min_by(f64::total_cmp);
            match (best, tried) {
                (Some(best), Some(tried)) => assert_close(best, tried, &format!("{sample:?}")),
                (best, tried) => assert_eq!(best, tried, "{sample:?}"),
            }
        }
    }
}
