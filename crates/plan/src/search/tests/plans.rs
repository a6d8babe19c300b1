//! Whole plans for Ganeti's score.

use super::*;

#[test]
fn a_plan_makes_the_score_better_and_is_followed_by_none() {
    for sample in samples() {
        let (snapshot, facts) = sample.make();
        let ganeti = Ganeti::new(&facts);
        let plan = balance(&snapshot, &ganeti, &Settings::default());
        assert!(plan.score_after < plan.score_before, "{sample:?}: {plan:?}");
        let from_scratch = score(&snapshot, &ganeti, &plan.places);
        assert!((from_scratch - plan.score_after).abs() < 1e-9, "{from_scratch} is not {}", plan.score_after);
        let facts = facts.after(&snapshot, &plan.places);
        let again =
            balance(&carried_out(&snapshot, &plan.places), &Ganeti::new(&facts), &Settings::default());
        assert_eq!(again.moves, [], "{sample:?}");
        assert!((again.score_before - plan.score_after).abs() < 1e-9);
    }
}

#[test]
fn every_move_of_a_plan_is_allowed_where_it_stands() {
    for sample in samples() {
        let (snapshot, facts) = sample.make();
        let ganeti = Ganeti::new(&facts);
        let plan = balance(&snapshot, &ganeti, &Settings::default());
        let packed = Packed::<16>::new(ganeti.terms(&snapshot).remove(0));
        let mut state = State::new(&packed, &seats(snapshot.guests.iter().map(|guest| guest.place)));
        for scored in &plan.moves {
            let guest = scored.step.guest.at();
            let to = seats(std::iter::once(Some(scored.step.to)))[0];
            assert_eq!(place(state.seats[guest]), Some(scored.step.from));
            assert!(state.may(guest, to), "{sample:?}: {scored:?}");
            state.apply(guest, to);
        }
        assert_eq!(state.seats.iter().map(|seat| place(*seat)).collect::<Vec<_>>(), plan.places);
    }
}

#[test]
fn a_plan_never_ends_above_the_best_single_moves() {
    for sample in samples() {
        let (snapshot, facts) = sample.make();
        let ganeti = Ganeti::new(&facts);
        let packed = Packed::<16>::new(ganeti.terms(&snapshot).remove(0));
        let mut state = State::new(&packed, &seats(snapshot.guests.iter().map(|guest| guest.place)));
        // What hbal does: the best move of all, again and again.
        let best = |state: &State<'_, 16>| {
            let found = (0..state.seats.len())
                .filter_map(|guest| Some((guest, state.best(&Price::free(), guest, &packed.targets)?)));
            found.min_by(|a, b| a.1.delta.total_cmp(&b.1.delta)).filter(|(_, found)| found.delta < -1e-12)
        };
        while let Some((guest, found)) = best(&state) {
            state.apply(guest, found.seat);
        }
        let plan = balance(&snapshot, &ganeti, &Settings::default());
        assert!(plan.score_after <= state.value + 1e-9, "{sample:?}: {} > {}", plan.score_after, state.value);
    }
}

#[test]
fn the_way_to_a_far_layout_goes_by_allowed_moves() {
    for seed in 1..6 {
        let (snapshot, _) = Sample::new(5, 60, Storage::Mirrored, Profile::Random, seed).make();
        let from: Vec<Option<Place>> = snapshot.guests.iter().map(|guest| guest.place).collect();
        // Every guest goes one host further, the secondary too: both of a guest's hosts may be new.
        let next = |host: HostIx| HostIx((host.0 + 2) % 5);
        let far = |place: Place| Place { host: next(place.host), secondary: place.secondary.map(next) };
        let to: Vec<Option<Place>> = from.iter().map(|place| place.map(far)).collect();
        let order = order(&snapshot, &Kennel, &from, &to);
        let mut layout = Layout::new(&snapshot);
        for step in &order.moves {
            assert_eq!(layout.place(step.guest), Some(step.from));
            assert_eq!(layout.obstacle(step.guest, step.to), None, "{step:?}");
            layout.put(step.guest, Some(step.to));
        }
        let missing = snapshot.guest_indices().filter(|guest| layout.place(*guest) != to[guest.at()]).count();
        assert_eq!(missing, order.dropped.len());
        assert!(missing <= 6, "{missing} of 60 were dropped");
    }
}

#[test]
fn moves_run_together_only_when_they_share_no_host() {
    let (snapshot, facts) = Sample::new(10, 120, Storage::Mirrored, Profile::Skew, 3).make();
    let plan = balance(&snapshot, &Ganeti::new(&facts), &Settings::default());
    let moves: Vec<Move> = plan.moves.iter().map(|scored| scored.step).collect();
    let batches = batches(&moves);
    assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), moves.len());
    assert!(batches.len() < moves.len(), "nothing runs together");
    for batch in &batches {
        let mut hosts: Vec<HostIx> = batch.iter().flat_map(Move::hosts).collect();
        let all = hosts.len();
        hosts.sort();
        hosts.dedup();
        assert_eq!(hosts.len(), all, "{batch:?}");
    }
}

#[test]
fn a_plan_of_few_moves_is_a_good_one() {
    for sample in samples().chain([Sample::new(12, 150, Storage::Mirrored, Profile::Skew, 4)]) {
        let (snapshot, facts) = sample.make();
        let ganeti = Ganeti::new(&facts);
        let full = balance(&snapshot, &ganeti, &Settings::default());
        for most in [0, 1, 5, 20] {
            let settings = Settings { moves_max: Some(most), ..Settings::default() };
            let plan = balance(&snapshot, &ganeti, &settings);
            assert!(plan.moves.len() <= most, "{sample:?}: {} moves", plan.moves.len());
            let cut = full.moves.iter().take(most).map(|scored| scored.score_after);
            let cut = cut.fold(full.score_before, f64::min);
            assert!(plan.score_after <= cut + 1e-9, "{sample:?}: {} > {cut}", plan.score_after);
            assert!(most == 0 || plan.score_after < plan.score_before, "{sample:?}, {most} moves");
        }
    }
}

#[test]
fn guests_that_must_leave_do_not_crowd_beyond_a_soft_limit() {
    for (hosts, guests, seed) in [(5, 60, 1), (5, 60, 2), (12, 200, 1), (12, 200, 2)] {
        let (snapshot, mut facts) = Sample::new(hosts, guests, Storage::Shared, Profile::Drain, seed).make();
        // Room for a little more than what there is, once it is spread.
        let used: f64 = facts.guests.iter().map(|guest| guest.vcpus).sum();
        let cores: f64 = facts.hosts.iter().filter(|host| !host.offline).map(|host| host.cores).sum();
        facts.groups[0].vcpu_ratio = 1.2 * used / cores;
        let plan = balance(&snapshot, &Ganeti::new(&facts), &Settings::default());
        let mut loads = vec![0.0; hosts];
        for (guest, place) in facts.guests.iter().zip(&plan.places) {
            loads[place.unwrap().host.at()] += guest.vcpus;
        }
        for (host, load) in facts.hosts.iter().zip(loads).filter(|(host, _)| !host.offline) {
            let most = facts.groups[0].vcpu_ratio * host.cores;
            assert!(load <= most, "{hosts} hosts, seed {seed}: {load} of {most} virtual CPUs");
        }
    }
}
