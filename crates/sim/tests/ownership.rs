//! The ownership protocol, checked exhaustively: two hosts, a leader, one guest with one volume.
//!
//! This is the protocol itself and not the code: epoch, in-sync set, hold, promotion, let go, resync, and the boots that
//! the record counts on, as DESIGN's rules 1 to 6 say. A state is a handful of small numbers, so that all of them can be
//! visited: every order of steps and of a bounded number of failures. Each mutant breaks one rule, and is found.
//!
//! A write is a number. It goes to the owner's disk, then to the secondary's page cache, and is acknowledged when all
//! of the in-sync set have it. The guest flushes each write, so that the owner's own disk keeps it over a loss of power;
//! the secondary's copy is in memory until a promotion flushes it.

use stateright::{Checker, Model, Property};

/// More writes, epochs, boots and failures than these are not looked at.
const WRITES: u8 = 2;
const EPOCHS: u8 = 4;
const FAILURES: u8 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Mutant {
    None,
    /// A secondary is promoted in whatever boot it is.
    PromoteAnyBoot,
    /// So it is, and the new owner does not look at boots either.
    BlindToBoots,
    /// The mirror is let go of before the record says so.
    LetGoFirst,
    /// The secondary is admitted before it is filled.
    AdmitEarly,
    /// The promoted replica is not flushed.
    NoFlush,
    /// An owner that booted before it took over starts on what it has.
    StartStale,
    /// The old owner's connection is not ended by a promotion.
    KeepServing,
}

/// One replica: what is on the platter and what is in memory over it, as the number of the last write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Host {
    up: bool,
    boot: u8,
    stable: u8,
    cached: u8,
    /// The epoch that its replica is served at; 0: it is not.
    served: u8,
    /// The epoch of the machine that runs here; 0: none does.
    machine: u8,
    /// The machine's mirror: the epoch and the boot of the other host that it is connected to.
    mirror: Option<(u8, u8)>,
    filled: bool,
    /// A write that is on the local disk and that nobody was told of.
    flight: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    hosts: [Host; 2],
    owner: u8,
    epoch: u8,
    /// The in-sync set: the boot of each member.
    members: [Option<u8>; 2],
    /// The epoch of the owner that wrote it.
    recorded_at: u8,
    /// The last write that the guest was told of.
    told: u8,
    issued: u8,
    failures: u8,
    lost: bool,
    doubled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Action {
    Write(u8),
    Remote(u8),
    Acknowledge(u8),
    PowerOff(u8),
    PowerOn(u8),
    Promote,
    TakeOver(u8),
    Start(u8),
    Disown(u8),
    RecordAlone(u8),
    Detach(u8),
    Serve(u8),
    Attach(u8),
    Fill(u8),
    Admit(u8),
}

struct Protocol(Mutant);

impl Protocol {
    fn is(&self, mutant: Mutant) -> bool {
        self.0 == mutant
    }
}

fn other(host: u8) -> usize {
    1 - host as usize
}

impl Host {
    fn lose_power(&mut self) {
        *self = Host {
            up: false,
            cached: self.stable,
            served: 0,
            machine: 0,
            mirror: None,
            flight: false,
            filled: false,
            ..*self
        };
    }
}

impl State {
    fn acknowledge(&mut self, host: u8) {
        let written = self.hosts[host as usize].cached;
        self.at(host).flight = false;
        self.told = self.told.max(written);
        self.doubled |= self.hosts[other(host)].machine > self.hosts[host as usize].machine;
    }

    fn at(&mut self, host: u8) -> &mut Host {
        &mut self.hosts[host as usize]
    }

    fn owns(&self, host: u8) -> bool {
        self.owner == host && self.hosts[host as usize].up
    }

    /// Whether the mirror of the machine here reaches the other host's replica.
    fn reaches(&self, host: u8) -> bool {
        let (h, there) = (&self.hosts[host as usize], &self.hosts[other(host)]);
        h.mirror.is_some_and(|(epoch, boot)| there.up && there.served == epoch && there.boot == boot)
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let idle = Host {
            up: true,
            boot: 1,
            stable: 0,
            cached: 0,
            served: 0,
            machine: 0,
            mirror: None,
            filled: false,
            flight: false,
        };
        let primary = Host { machine: 1, mirror: Some((1, 1)), filled: true, ..idle };
        let secondary = Host { served: 1, ..idle };
        vec![State {
            hosts: [primary, secondary],
            owner: 0,
            epoch: 1,
            members: [Some(1), Some(1)],
            recorded_at: 1,
            told: 0,
            issued: 0,
            failures: 0,
            lost: false,
            doubled: false,
        }]
    }

    fn actions(&self, s: &State, actions: &mut Vec<Action>) {
        for host in [0u8, 1] {
            let h = &s.hosts[host as usize];
            let there = &s.hosts[other(host)];
            if !h.up {
                actions.push(Action::PowerOn(host));
                continue;
            }
            if s.failures < FAILURES {
                actions.push(Action::PowerOff(host));
            }
            if h.machine != 0 {
                self.of_machine(s, host, actions);
            }
            if s.owner == host {
                self.of_owner(s, host, actions);
            } else if h.machine == 0 && h.served != s.epoch && there.up {
                actions.push(Action::Serve(host));
            }
        }
        let to = 1 - s.owner;
        let h = &s.hosts[to as usize];
        let any_boot = self.is(Mutant::PromoteAnyBoot) || self.is(Mutant::BlindToBoots);
        let member = s.members[to as usize].is_some_and(|boot| boot == h.boot || any_boot);
        // A host that is only cut off counts as lost, too: the leader cannot tell.
        if h.up && member && s.epoch < EPOCHS {
            actions.push(Action::Promote);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut s = last.clone();
        match action {
            Action::Write(host) => {
                s.issued += 1;
                let issued = s.issued;
                let h = s.at(host);
                (h.cached, h.stable, h.flight) = (issued, issued, true);
            }
            Action::Remote(host) => {
                s.doubled |= s.hosts[other(host)].machine != 0;
                s.hosts[other(host)].cached = s.hosts[host as usize].cached;
            }
            Action::Acknowledge(host) => s.acknowledge(host),
            Action::PowerOff(host) => {
                s.failures += 1;
                s.at(host).lose_power();
            }
            Action::PowerOn(host) => {
                let h = s.at(host);
                (h.up, h.boot) = (true, h.boot + 1);
            }
            Action::Promote => {
                s.owner = 1 - s.owner;
                s.epoch += 1;
            }
            Action::TakeOver(host) => {
                let keep = self.is(Mutant::KeepServing);
                let flush = !self.is(Mutant::NoFlush);
                let h = s.at(host);
                h.served = if keep { h.served } else { 0 };
                h.stable = if flush { h.cached } else { h.stable };
                self.record(&mut s, host, false);
            }
            Action::Start(host) => {
                let epoch = s.epoch;
                let told = s.told;
                let h = s.at(host);
                h.machine = epoch;
                let found = h.cached;
                s.lost |= found < told;
                s.told = s.told.max(found);
            }
            Action::Disown(host) => {
                let h = s.at(host);
                (h.machine, h.mirror, h.flight, h.filled) = (0, None, false, false);
            }
            Action::RecordAlone(host) => self.record(&mut s, host, false),
            Action::Detach(host) => {
                let h = s.at(host);
                (h.mirror, h.filled) = (None, false);
            }
            Action::Serve(host) => s.at(host).served = last.epoch,
            Action::Attach(host) => {
                let boot = s.hosts[other(host)].boot;
                s.at(host).mirror = Some((last.epoch, boot));
                s.at(host).filled = false;
            }
            Action::Fill(host) => {
                s.hosts[other(host)].cached = s.hosts[host as usize].cached;
                s.at(host).filled = true;
            }
            Action::Admit(host) => self.record(&mut s, host, true),
        }
        Some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nothing acknowledged is lost", |_, s: &State| !s.lost),
            Property::always("one writer", |_, s: &State| !s.doubled),
            // The model does something: a promoted guest runs and is mirrored again.
            Property::sometimes("it comes back whole", |_, s: &State| {
                s.epoch > 1 && s.members.iter().all(Option::is_some) && s.recorded_at == s.epoch && s.told > 0
            }),
        ]
    }
}

impl Protocol {
    fn of_machine(&self, s: &State, host: u8, actions: &mut Vec<Action>) {
        let h = &s.hosts[host as usize];
        if !h.flight && s.issued < WRITES {
            actions.push(Action::Write(host));
        }
        let has = s.hosts[other(host)].cached == h.cached;
        if h.flight && s.reaches(host) && !has {
            actions.push(Action::Remote(host));
        }
        // Without a mirror the local disk is enough; with one the write is held until the other has it.
        if h.flight && (h.mirror.is_none() || s.reaches(host) && has) {
            actions.push(Action::Acknowledge(host));
        }
        if s.owner != host {
            // Its record cannot be written any more; its daemon ends it, sooner or later.
            actions.push(Action::Disown(host));
        }
        if h.mirror.is_some() && !h.filled && s.reaches(host) {
            actions.push(Action::Fill(host));
        }
    }

    fn of_owner(&self, s: &State, host: u8, actions: &mut Vec<Action>) {
        let (h, there) = (&s.hosts[host as usize], &s.hosts[other(host)]);
        let me = s.members[host as usize];
        let alone = s.members[other(host)].is_none();
        if h.machine == 0 {
            let stale = s.recorded_at != s.epoch && me != Some(h.boot);
            let blind = self.is(Mutant::StartStale) || self.is(Mutant::BlindToBoots);
            let may = me.is_some() && (!stale || blind);
            let served = h.served != 0 && !self.is(Mutant::KeepServing);
            if may && (s.recorded_at != s.epoch || served) {
                actions.push(Action::TakeOver(host));
            } else if may && !(alone && me == Some(h.boot)) {
                actions.push(Action::RecordAlone(host));
            } else if may {
                actions.push(Action::Start(host));
            }
            return;
        }
        if h.machine != s.epoch {
            actions.push(Action::Disown(host));
            return;
        }
        if !alone {
            // At any time: it cannot know whether the other is lost or only slow.
            actions.push(Action::RecordAlone(host));
        }
        if h.mirror.is_some() && (alone || self.is(Mutant::LetGoFirst)) {
            actions.push(Action::Detach(host));
        }
        if h.mirror.is_none() && alone && there.up && there.served == s.epoch {
            actions.push(Action::Attach(host));
        }
        if h.mirror.is_some() && alone && (h.filled || self.is(Mutant::AdmitEarly)) && s.reaches(host) {
            actions.push(Action::Admit(host));
        }
    }

    /// The owner's transaction: it compares its own assignment.
    fn record(&self, s: &mut State, host: u8, both: bool) {
        if !s.owns(host) {
            return;
        }
        s.members = [None, None];
        s.members[host as usize] = Some(s.hosts[host as usize].boot);
        if both {
            let boot = s.hosts[host as usize].mirror.map(|(_, boot)| boot);
            s.members[other(host)] = boot;
        }
        s.recorded_at = s.epoch;
    }
}

#[test]
fn the_protocol_loses_nothing_in_any_order_of_steps_and_failures() {
    let checker = Protocol(Mutant::None).checker().threads(2).spawn_bfs().join();
    println!("{} states, {} unique", checker.state_count(), checker.unique_state_count());
    checker.assert_properties();
}

fn is_found(mutant: Mutant, property: &'static str) {
    let checker = Protocol(mutant).checker().threads(2).spawn_bfs().join();
    let found = checker.discovery(property);
    assert!(found.is_some(), "{mutant:?} breaks '{property}' and was not found");
}

#[test]
fn boots_that_do_not_count_are_found() {
    is_found(Mutant::BlindToBoots, "nothing acknowledged is lost");
}

#[test]
fn a_promotion_in_another_boot_alone_loses_nothing() {
    let checker = Protocol(Mutant::PromoteAnyBoot).checker().threads(2).spawn_bfs().join();
    assert!(
        checker.discovery("nothing acknowledged is lost").is_none(),
        "the new owner looks at its boot itself"
    );
}

#[test]
fn letting_go_before_the_record_is_found() {
    is_found(Mutant::LetGoFirst, "nothing acknowledged is lost");
}

#[test]
fn an_admission_before_the_fill_is_found() {
    is_found(Mutant::AdmitEarly, "nothing acknowledged is lost");
}

#[test]
fn a_promotion_without_a_flush_is_found() {
    is_found(Mutant::NoFlush, "nothing acknowledged is lost");
}

#[test]
fn an_owner_that_starts_on_what_a_secondary_lost_is_found() {
    is_found(Mutant::StartStale, "nothing acknowledged is lost");
}

#[test]
fn a_connection_that_outlives_a_promotion_is_found() {
    is_found(Mutant::KeepServing, "one writer");
}
