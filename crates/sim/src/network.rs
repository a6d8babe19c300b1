//! Links between hosts, and the members of the store that talk over them.

use crate::world::{Event, MS, S, Time, World, note};

/// Who hears whom, and who serves the store.
#[derive(Debug)]
pub struct Network {
    /// Until when what one host sends does not reach the other.
    cut_until: Vec<Vec<Time>>,
    slow: Vec<Vec<(Time, Time)>>,
    /// By how much a message is late at most, each by another time, and until when.
    shuffled: Vec<Vec<(Time, Time)>>,
    /// Until when each host's member of the store is dead.
    pub member_dead_until: Vec<Time>,
    /// The member that the others follow.
    pub chief: Option<usize>,
    electing: bool,
    /// Until when what a host hears of the store is held back.
    pub watch_lags_until: Vec<Time>,
    /// When leases are looked at next.
    alarm_at: Option<Time>,
}

/// How many hosts run a member of the store.
const MEMBERS: usize = 3;

/// From one host to another and within one.
const DELAY: (Time, Time) = (MS / 5, 2 * MS);

/// How long the members take to agree on another chief.
const ELECTION: (Time, Time) = (800 * MS, 2500 * MS);

impl Network {
    pub fn new(hosts: usize) -> Network {
        Network {
            cut_until: vec![vec![0; hosts]; hosts],
            slow: vec![vec![(0, 0); hosts]; hosts],
            shuffled: vec![vec![(0, 0); hosts]; hosts],
            member_dead_until: vec![0; hosts.min(MEMBERS)],
            chief: Some(0),
            electing: false,
            watch_lags_until: vec![0; hosts],
            alarm_at: None,
        }
    }

    pub fn cut(&mut self, from: usize, to: usize, until: Time) {
        let cut = &mut self.cut_until[from][to];
        *cut = (*cut).max(until);
    }

    pub fn slow_down(&mut self, from: usize, to: usize, delay: Time, until: Time) {
        self.slow[from][to] = (delay, until);
    }

    pub fn shuffle(&mut self, from: usize, to: usize, delay: Time, until: Time) {
        self.shuffled[from][to] = (delay, until);
    }

    /// Everything as it should be.
    pub fn heal(&mut self) {
        self.cut_until.iter_mut().flatten().for_each(|until| *until = 0);
        self.slow.iter_mut().chain(&mut self.shuffled).flatten().for_each(|link| *link = (0, 0));
        self.member_dead_until.iter_mut().for_each(|until| *until = 0);
        self.watch_lags_until.iter_mut().for_each(|until| *until = 0);
    }

    pub fn is_whole(&self, now: Time) -> bool {
        let quiet = |until: &Time| *until <= now;
        self.cut_until.iter().flatten().all(quiet)
            && self.slow.iter().chain(&self.shuffled).flatten().all(|(_, until)| *until <= now)
            && self.member_dead_until.iter().all(quiet)
            && self.watch_lags_until.iter().all(quiet)
            && self.chief.is_some()
    }
}

impl World {
    /// Whether a message that is sent now arrives.
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        self.sites[to].up && (from == to || self.network.cut_until[from][to] <= self.now)
    }

    /// Both ways.
    pub fn linked(&self, a: usize, b: usize) -> bool {
        self.reaches(a, b) && self.reaches(b, a)
    }

    pub fn delay(&mut self, from: usize, to: usize) -> Time {
        let base = self.rng.between(DELAY.0, DELAY.1);
        let (slow, until) = self.network.slow[from][to];
        let base = if until > self.now { base + slow } else { base };
        let (late, until) = self.network.shuffled[from][to];
        if until > self.now { base + self.rng.below(late) } else { base }
    }

    fn member_lives(&self, host: usize) -> bool {
        let site = &self.sites[host];
        let dead_until = self.network.member_dead_until.get(host);
        site.up && site.frozen_until <= self.now && dead_until.is_some_and(|until| *until <= self.now)
    }

    /// Whether a majority of the members lives and follows this one.
    fn can_lead_store(&self, host: usize) -> bool {
        let members = self.network.member_dead_until.len();
        let with =
            (0..members).filter(|other| self.member_lives(*other) && self.linked(host, *other)).count();
        self.member_lives(host) && 2 * with > members
    }

    /// The member through which a host reaches the store now.
    pub fn door(&self, host: usize) -> Option<usize> {
        let chief = self.network.chief?;
        let open = |member: &usize| {
            self.member_lives(*member) && self.linked(host, *member) && self.linked(*member, chief)
        };
        let members = self.network.member_dead_until.len();
        // Its own member first, when it has one.
        std::iter::once(host).filter(|host| *host < members).chain(0..members).find(open)
    }

    /// To be called whenever hosts, members or links come or go.
    pub fn topology_changed(&mut self) {
        if let Some(chief) = self.network.chief
            && !self.can_lead_store(chief)
        {
            self.network.chief = None;
            note!(self, "the store has lost its chief, host{}", chief + 1);
        }
        if self.network.chief.is_none() && !self.network.electing {
            self.network.electing = true;
            let delay = self.rng.between(ELECTION.0, ELECTION.1);
            self.after(delay, Event::Elect);
        }
    }

    pub fn elect(&mut self) {
        self.network.electing = false;
        if self.network.chief.is_some() {
            return;
        }
        let members = self.network.member_dead_until.len();
        let first = self.rng.index(members);
        let next = (0..members).map(|n| (first + n) % members).find(|host| self.can_lead_store(*host));
        match next {
            Some(chief) => {
                note!(self, "the store's chief is host{}", chief + 1);
                self.network.chief = Some(chief);
                // Every lease counts from the beginning.
                let ttl = plan::limits::SESSION_TTL.as_micros() as Time;
                self.store.renew_all(self.now + ttl);
                self.lease_alarm();
                self.tell_watches();
            }
            None => {
                self.network.electing = true;
                self.after(S, Event::Elect);
            }
        }
    }

    pub fn end_leases(&mut self) {
        self.network.alarm_at = None;
        if self.network.chief.is_some() && self.store.end_leases(self.now) {
            self.book_sessions();
            note!(self, "a session has ended; live are {}", self.live_hosts());
            self.tell_watches();
        }
        if self.network.chief.is_some() {
            self.lease_alarm();
        }
    }

    fn live_hosts(&self) -> String {
        let names: Vec<_> =
            self.store.now.view.sessions.keys().map(|host| host.as_str().to_owned()).collect();
        names.join(" ")
    }

    /// Looks again when the next lease may end.
    pub fn lease_alarm(&mut self) {
        let Some(at) = self.store.first_lease_end().map(|at| at.max(self.now)) else { return };
        if self.network.alarm_at.is_none_or(|alarm| at < alarm) {
            self.network.alarm_at = Some(at);
            self.at(at, Event::Leases);
        }
    }

    /// Something was written: every watch is told, soon.
    pub fn tell_watches(&mut self) {
        for host in 0..self.sites.len() {
            let Some(life) = self.life(host) else { continue };
            let delay = self.delay(host, host) + self.rng.below(3 * MS);
            self.after(delay, Event::Watch { host, life });
        }
    }
}
