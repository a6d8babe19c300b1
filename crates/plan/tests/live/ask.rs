//! What a scenario asks, and the planner's answer in text.

use std::fmt::Write as _;

use model::{Duty, GuestName, GuestSpec, HostName, Pool};
use plan::drain::{How, drain};
use plan::dump::Dump;
use plan::inventory::Inventory;
use plan::layout::Layout;
use plan::objective::kennel::Kennel;
use plan::place::{Options, place};
use plan::proposal::{self, PlannedMove, propose};
use plan::search::{self, Move, MoveStep};
use plan::snapshot::{Place, Promise, Snapshot};
use plan::why::why;

use crate::build::{GuestWords, Live, Scenario, spec};
use crate::wrongs::wrongs;

/// All answers of a scenario, each after its question. What is asked later sees what was done before.
pub fn all(scenario: &Scenario) -> String {
    let mut live = scenario.build();
    let mut text = String::new();
    for ask in &scenario.asks {
        writeln!(text, "# {ask}").unwrap();
        text.push_str(&answer(&mut live, ask));
        text.push('\n');
    }
    let inventory = Inventory::new(&live.view, &live.usage);
    let dump = Dump::of(&live.view, &live.usage);
    let again =
        Dump::parse(&dump.to_text()).unwrap_or_else(|error| panic!("a dump of it does not read: {error}"));
    let plan = |inventory: &Inventory| propose(inventory, proposal::Options::default());
    assert_eq!(plan(&again.inventory()).digest(), plan(&inventory).digest(), "a dump plans like its cluster");
    assert!(
        !dump.to_text().contains("a password") && !dump.to_text().contains("secret"),
        "a dump has no secrets"
    );
    text
}

/// What can be asked:
///
/// - `place NAME POOL [memory SIZE] [disk SIZE] [vcpus N] [tag TAG] [at HOST] [force]`
/// - `balance`: proposes, and makes the moves
/// - `show`: proposes, and makes none
/// - `drain HOST`, `maintenance HOST`: makes the moves, and the host keeps that duty
/// - `why GUEST`
/// - `rules`
/// - `load GUEST CORES SECONDS`: the guest uses so much for so long
pub fn answer(live: &mut Live, ask: &str) -> String {
    let words: Vec<&str> = ask.split_whitespace().collect();
    match words.as_slice() {
        ["place", name, pool, options @ ..] => placed(live, name, pool, options),
        ["balance"] => {
            let answer = balanced(live, true);
            let more = propose(&Inventory::new(&live.view, &live.usage), proposal::Options::default());
            assert!(more.moves.is_empty(), "{ask}: planning again proposes more: {:#?}", more.moves);
            answer
        }
        ["show"] => balanced(live, false),
        ["drain", host] => drained(live, host, How::Everything),
        ["maintenance", host] => drained(live, host, How::GuestsOnly),
        ["why", guest] => explained(live, guest),
        ["rules"] => rules(live),
        ["load", guest, cores, seconds] => {
            live.load(guest, cores.parse().unwrap(), seconds.parse().unwrap());
            String::new()
        }
        _ => panic!("nobody understands '{ask}'"),
    }
}

fn new_guest(name: &str, pool: &str, options: &[&str]) -> (GuestSpec, Options) {
    let mut words = GuestWords {
        names: name.into(),
        on: String::new(),
        memory: "960M".into(),
        disk: "10G".into(),
        vcpus: 1,
        cpu: 0.0,
        tags: Default::default(),
        pinned: false,
        stopped: false,
        priority: 0,
    };
    let mut force = false;
    let mut at = None;
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        let mut value = || (*rest.next().unwrap()).to_owned();
        match *option {
            "memory" => words.memory = value(),
            "disk" => words.disk = value(),
            "vcpus" => words.vcpus = value().parse().unwrap(),
            "tag" => {
                words.tags.insert(value());
            }
            "at" => at = Some(value().parse().unwrap()),
            "force" => force = true,
            other => panic!("nobody understands '{other}'"),
        }
    }
    let pool: Pool = pool.parse().unwrap();
    (GuestSpec { preferred_host: at, ..spec(name, pool, &words) }, Options { force })
}

fn placed(live: &mut Live, name: &str, pool: &str, options: &[&str]) -> String {
    let (spec, options) = new_guest(name, pool, options);
    match place(&Inventory::new(&live.view, &live.usage), &spec, options) {
        Err(none) => {
            let mut text = String::new();
            if let Some(general) = &none.general {
                writeln!(text, "{general}").unwrap();
            }
            for (host, why) in &none.reasons {
                writeln!(text, "{host}: {why}").unwrap();
            }
            writeln!(text, "=> {}", none.refusal(&spec).instead).unwrap();
            text
        }
        Ok(assignment) => {
            let secondary =
                assignment.secondary.as_ref().map(|host| format!(" + {host}")).unwrap_or_default();
            let text = format!("{}{secondary}: {}\n", assignment.host, assignment.why);
            live.view.guests.insert(spec.name.clone(), spec);
            live.view.assignments.insert(assignment.guest.clone(), assignment);
            text
        }
    }
}

/// Makes every move that is worth its cost, also those that a spike might have made so.
pub fn settle(live: &mut Live) {
    let inventory = Inventory::new(&live.view, &live.usage);
    for scored in search::balance(&inventory.snapshot, &Kennel, &search::Settings::default()).moves {
        live.moved(inventory.guest_name(scored.step.guest), &inventory.place_of(scored.step.to));
    }
}

fn balanced(live: &mut Live, make: bool) -> String {
    let inventory = Inventory::new(&live.view, &live.usage);
    let proposal = propose(&inventory, proposal::Options::default());
    let mut text = moves(&inventory, &proposal.moves, true);
    let found = search::balance(&inventory.snapshot, &Kennel, &search::Settings::default());
    let made = proposal.moves.len();
    assert!(made == 0 || made == found.moves.len(), "the search finds nothing that may not be carried out");
    assert!(proposal.score_after <= proposal.score_before + 1e-9);
    for step in &proposal.moves {
        assert!(step.gain > step.cost, "a move gains more than it costs: {step:#?}");
    }
    if let Some(first) = proposal.moves.first() {
        proposal::still_good(&inventory, &first.guest, &first.to).unwrap();
    } else {
        text.push_str("nothing to move\n");
    }
    for remaining in &proposal.remaining {
        writeln!(text, "stays: {remaining}").unwrap();
    }
    for (guest, held) in &proposal.held {
        writeln!(text, "held: {guest}: {held}").unwrap();
    }
    if make {
        proposal.moves.iter().for_each(|step| live.moved(&step.guest, &step.to));
    }
    text
}

fn drained(live: &mut Live, host: &str, how: How) -> String {
    let inventory = Inventory::new(&live.view, &live.usage);
    let host: HostName = host.parse().unwrap();
    let drain = drain(&inventory, &host, how);
    let duty = match how {
        How::Everything => Duty::Draining,
        How::GuestsOnly => Duty::Maintenance,
    };
    let promised = drain.warnings.is_empty();
    let mut text = moves(&inventory.with_duty(&host, duty), &drain.moves, promised);
    for (kind, lines) in [("stuck", &drain.stuck), ("waits", &drain.waits)] {
        for (guest, why) in lines {
            writeln!(text, "{kind}: {guest}: {why}").unwrap();
        }
    }
    for warning in &drain.warnings {
        writeln!(text, "warning: {warning}").unwrap();
    }
    drain.moves.iter().for_each(|step| live.moved(&step.guest, &step.to));
    live.view.hosts.get_mut(&host).unwrap().duty = duty;
    text
}

/// The moves in words. Each stop on the way of each is checked against what the moves before it leave. A drain that
/// warns of it may break the promise, as `promised` says.
fn moves(inventory: &Inventory, moves: &[PlannedMove], promised: bool) -> String {
    let mut text = String::new();
    let mut snapshot = inventory.snapshot.clone();
    if !promised {
        snapshot.promise = Promise::Nothing;
    }
    let mut layout = Layout::new(&snapshot);
    let mut before = wrongs(&snapshot, layout.places());
    for step in moves {
        writeln!(
            text,
            "{}: {} -> {}: {}; {}",
            step.guest,
            step.from,
            step.to,
            step.steps.join(", then "),
            step.why
        )
        .unwrap();
        let guest = inventory.guest_ix(&step.guest).unwrap();
        let (from, to) = (inventory.place_ix(&step.from).unwrap(), inventory.place_ix(&step.to).unwrap());
        assert_eq!(layout.place(guest), Some(from), "{step:#?}");
        for stop in stops(&snapshot, Move { guest, from, to }) {
            let obstacle = layout.obstacle(guest, stop);
            assert!(obstacle.is_none(), "{step:#?}: {obstacle:?}");
            layout.put(guest, Some(stop));
            let after = wrongs(&snapshot, layout.places());
            for (what, much) in &after {
                let was = before.get(what).copied().unwrap_or(0);
                assert!(*much <= was, "{step:#?} at {stop:?}: {what} is {much} and was {was}");
            }
            before = after;
        }
        assert_eq!(layout.place(guest), Some(to), "{step:#?}");
    }
    text
}

fn stops(snapshot: &Snapshot, step: Move) -> Vec<Place> {
    let mut at = step.from;
    let parts = step.steps(snapshot).into_iter().map(|part| {
        at = match part {
            MoveStep::SwapRoles => Place { host: at.secondary.unwrap(), secondary: Some(at.host) },
            MoveStep::ReplaceSecondary { to } => Place { secondary: Some(to), ..at },
            MoveStep::Migrate { to } => Place { host: to, secondary: None },
        };
        at
    });
    parts.collect()
}

fn explained(live: &Live, guest: &str) -> String {
    let inventory = Inventory::new(&live.view, &live.usage);
    let guest: GuestName = guest.parse().unwrap();
    let why = why(&inventory, &guest).unwrap();
    let mut text = String::new();
    let here = why.here.map(|place| place.to_string()).unwrap_or_else(|| "nowhere".into());
    writeln!(text, "{here}").unwrap();
    why.because.iter().for_each(|line| writeln!(text, "because {line}").unwrap());
    why.others.iter().for_each(|(host, line)| writeln!(text, "not {host}: {line}").unwrap());
    why.rules.iter().for_each(|line| writeln!(text, "rule {line}").unwrap());
    why.cannot_move.iter().for_each(|line| writeln!(text, "cannot be moved: {line}").unwrap());
    text
}

fn rules(live: &Live) -> String {
    let resolved = plan::rules::resolve(&live.view);
    let mut text = String::new();
    resolved.out_of_force.iter().for_each(|out| writeln!(text, "{out}").unwrap());
    resolved.idle.iter().for_each(|(rule, why)| writeln!(text, "{rule} is idle: {why}").unwrap());
    if text.is_empty() { "all rules are in force\n".into() } else { text }
}
