//! Every loss that may happen, one after the other.

use std::collections::{BTreeMap, BTreeSet};

use super::ground::Ground;
use super::{Loss, bound, listed};
use crate::recover;
use crate::snapshot::{DomainIx, GuestIx, HostIx, Promise, Snapshot, Storage};

/// How much simulation a survey of several hosts at once may take before it uses bounds; half a second or so.
const EXACT_STEPS: u64 = 5_000_000;

/// How many losses a survey of several hosts at once names.
const BROKEN_MAX: usize = 1000;

/// How many guests, and how many losses, a sentence names.
const NAMED_MAX: usize = 3;

/// What the cluster survives. Names instead of numbers, so that it can be kept and compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    pub promise: Promise,
    /// The loss of each host that is there.
    pub hosts: Vec<Outlook>,
    /// The loss of each zone, or whatever else fails together.
    pub domains: Vec<Outlook>,
    /// Losses within the promise that would leave guests out, those that leave out most first.
    pub broken: Vec<LeftOut>,
    /// Running mirrored guests that the next loss may leave out although there is room, and why.
    pub exposed: BTreeMap<String, String>,
    /// Why it could not be shown that the promise holds, although nothing speaks against it.
    pub unproven: Option<String>,
    /// What of the promise this many hosts can never keep.
    pub impossible: Option<String>,
}

/// What one loss would do, in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// The host's or the zone's.
    pub name: String,
    pub hosts: Vec<HostIx>,
    /// Guests that would come back elsewhere.
    pub restarts: usize,
    /// Guests that would not, and why.
    pub left_out: BTreeMap<String, String>,
    /// Guests on local disks, which would wait.
    pub local: usize,
    /// Guests that would have one replica less.
    pub degraded: usize,
    pub unaffected: usize,
}

impl Outlook {
    pub fn survives(&self) -> bool {
        self.left_out.is_empty()
    }

    fn new(snapshot: &Snapshot, name: &str, loss: Loss) -> Outlook {
        let left_out = loss.without_place.iter().chain(&loss.without_replica);
        Outlook {
            name: name.to_owned(),
            restarts: loss.restarts.len(),
            left_out: named(snapshot, left_out),
            local: loss.local.len(),
            degraded: loss.degraded.len(),
            unaffected: loss.unaffected,
            hosts: loss.hosts,
        }
    }
}

/// Guests that a loss would leave out although the promise covers them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// As in "the loss of host2", or "the maintenance of host3".
    pub loss: String,
    /// And why.
    pub guests: BTreeMap<String, String>,
}

impl LeftOut {
    /// As in "the loss of host2 would leave out a and b (a: host1: 1G of memory is free, 2G is needed)".
    pub fn explain(&self) -> String {
        let names: Vec<&str> = self.guests.keys().map(String::as_str).collect();
        let first = self.guests.iter().next().map(|(guest, why)| format!(" ({guest}: {why})"));
        format!("{} would leave out {}{}", self.loss, listed(&names, NAMED_MAX), first.unwrap_or_default())
    }
}

impl Survey {
    pub fn is_kept(&self) -> bool {
        self.broken.is_empty()
            && self.exposed.is_empty()
            && self.unproven.is_none()
            && self.impossible.is_none()
    }

    /// The host whose loss would leave out most guests. `None`: every loss of one host is survived.
    pub fn worst(&self) -> Option<&Outlook> {
        let bad = self.hosts.iter().filter(|outlook| !outlook.survives());
        bad.max_by(|a, b| a.left_out.len().cmp(&b.left_out.len()).then(b.name.cmp(&a.name)))
    }
}

fn named<'m>(
    snapshot: &Snapshot,
    guests: impl IntoIterator<Item = (&'m GuestIx, &'m String)>,
) -> BTreeMap<String, String> {
    guests.into_iter().map(|(guest, why)| (snapshot.guest(*guest).name.clone(), why.clone())).collect()
}

/// What the cluster survives, with hosts in maintenance switched off.
pub fn survey(snapshot: &Snapshot) -> Survey {
    let bare = recover::bare(snapshot);
    let mut ground = Ground::settled(snapshot, &bare);
    let mut survey = Survey {
        promise: snapshot.promise,
        hosts: Vec::new(),
        domains: Vec::new(),
        broken: Vec::new(),
        exposed: BTreeMap::new(),
        unproven: None,
        impossible: None,
    };
    if snapshot.promise != Promise::Nothing && ground.hosts().len() > 1 {
        survey.exposed = named(snapshot, &ground.exposed);
    }
    survey.maintenance(&ground);
    survey.each_host(&mut ground);
    survey.each_domain(&mut ground);
    if let Promise::Hosts(count) = snapshot.promise {
        survey.several_hosts(&mut ground, count as usize);
    }
    survey.broken.sort_by(|a, b| b.guests.len().cmp(&a.guests.len()).then_with(|| a.loss.cmp(&b.loss)));
    survey
}

impl Survey {
    /// Names a loss within the promise that leaves guests out.
    fn breaks(&mut self, snapshot: &Snapshot, loss: String, guests: &BTreeMap<GuestIx, String>) {
        if !guests.is_empty() {
            self.broken.push(LeftOut { loss, guests: named(snapshot, guests) });
        }
    }

    /// The same for several hosts: those guests only that the loss of a single host does not leave out already, and
    /// not more combinations than anybody reads.
    fn breaks_more(
        &mut self,
        ground: &Ground<'_>,
        lost: &[HostIx],
        mut guests: BTreeMap<GuestIx, String>,
        alone: &BTreeSet<GuestIx>,
    ) {
        guests.retain(|guest, _| !alone.contains(guest));
        if self.broken.len() < BROKEN_MAX {
            self.breaks(ground.snapshot, format!("the loss of {}", names(ground.snapshot, lost)), &guests);
        }
    }

    fn maintenance(&mut self, ground: &Ground<'_>) {
        if ground.snapshot.promise != Promise::Nothing {
            let loss = format!("the maintenance of {}", names(ground.snapshot, &ground.maintained));
            self.breaks(ground.snapshot, loss, &ground.unhoused);
        }
    }

    fn each_host(&mut self, ground: &mut Ground<'_>) {
        let promised = match ground.snapshot.promise {
            Promise::Hosts(count) => count >= 1 && ground.hosts().len() > 1,
            Promise::Nothing | Promise::Domain => false,
        };
        for host in ground.hosts() {
            let loss = ground.lose(&[host]);
            let name = &ground.snapshot.host(host).name;
            if promised {
                self.breaks(ground.snapshot, format!("the loss of {name}"), &loss.without_place);
            }
            self.hosts.push(Outlook::new(ground.snapshot, name, loss));
        }
    }

    fn each_domain(&mut self, ground: &mut Ground<'_>) {
        let snapshot = ground.snapshot;
        for (domain, name) in (0u32..).map(DomainIx).zip(&snapshot.domains) {
            let (inside, outside): (Vec<HostIx>, Vec<HostIx>) =
                ground.hosts().into_iter().partition(|host| snapshot.host(*host).domains.contains(&domain));
            if inside.is_empty() {
                continue;
            }
            let loss = ground.lose(&inside);
            if snapshot.promise == Promise::Domain && !outside.is_empty() {
                let mut left_out = loss.without_place.clone();
                let in_one =
                    loss.without_replica.iter().filter(|(guest, _)| !ground.exposed.contains_key(guest));
                left_out
                    .extend(in_one.map(|(guest, _)| (*guest, format!("both its replicas are in {name}"))));
                self.breaks(snapshot, format!("the loss of {name}"), &left_out);
            }
            self.domains.push(Outlook::new(snapshot, name, loss));
        }
    }

    /// Losses of two hosts and more at once, each combination or, if those are too many, bounds.
    fn several_hosts(&mut self, ground: &mut Ground<'_>, count: usize) {
        let hosts = ground.hosts();
        let most = hosts.len().saturating_sub(1);
        if count > most && count > 1 {
            self.impossible = Some(match hosts.len() {
                1 => "one host can promise to survive no loss".to_owned(),
                n => format!("{n} hosts can promise to survive the loss of {most} at the most"),
            });
        }
        let count = count.min(most);
        if count < 2 {
            return;
        }
        let mut alone = BTreeSet::new();
        for host in &hosts {
            alone.extend(ground.left_out(&[*host]).into_keys());
        }
        if exact_steps(ground, count) > EXACT_STEPS {
            let (found, doubt) = bound::check(ground, count);
            for (lost, left) in found {
                self.breaks_more(ground, &lost, left, &alone);
            }
            self.unproven = doubt;
            return;
        }
        for size in 2..=count {
            let mut chosen: Vec<usize> = (0..size).collect();
            loop {
                let lost: Vec<HostIx> = chosen.iter().map(|at| hosts[*at]).collect();
                let left = ground.left_out(&lost);
                self.breaks_more(ground, &lost, left, &alone);
                if !next_combination(&mut chosen, hosts.len()) {
                    break;
                }
            }
        }
    }
}

fn names(snapshot: &Snapshot, hosts: &[HostIx]) -> String {
    let names: Vec<&str> = hosts.iter().map(|host| snapshot.host(*host).name.as_str()).collect();
    listed(&names, usize::MAX)
}

/// The next choice of as many among `of`, in lexical order.
fn next_combination(chosen: &mut [usize], of: usize) -> bool {
    let size = chosen.len();
    let Some(at) = (0..size).rev().find(|at| chosen[*at] < of - size + at) else { return false };
    chosen[at] += 1;
    for next in at + 1..size {
        chosen[next] = chosen[next - 1] + 1;
    }
    true
}

/// About how many hosts are looked at when every combination is simulated.
fn exact_steps(ground: &Ground<'_>, count: usize) -> u64 {
    let hosts = ground.hosts().len() as u64;
    let shared = ground.snapshot.guests.iter().filter(|need| need.storage == Storage::Shared).count() as u64;
    let direct = ground.snapshot.guests.len() as u64 - shared;
    let per_host = (direct + shared.saturating_mul(hosts)) / hosts.max(1);
    let mut combinations = 1u64;
    let mut steps = 0u64;
    for size in 1..=count as u64 {
        combinations = combinations.saturating_mul(hosts + 1 - size) / size;
        steps = steps.saturating_add(combinations.saturating_mul(per_host.saturating_mul(size) + hosts));
    }
    steps
}

/// What of the promise does not hold, in sentences without full stops.
pub fn problems(survey: &Survey) -> Vec<String> {
    let mut problems: Vec<String> = survey.broken.iter().take(NAMED_MAX).map(LeftOut::explain).collect();
    if let Some(first) = problems.first_mut() {
        *first = format!("the cluster is to survive {}, and {first}", survey.promise);
    }
    let others = survey.broken.len().saturating_sub(NAMED_MAX);
    if others > 0 {
        problems.push(format!("{others} other losses would leave guests out"));
    }
    let mut exposed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (guest, why) in &survey.exposed {
        exposed.entry(why).or_default().push(guest);
    }
    for (why, guests) in exposed {
        let whose = if guests.len() == 1 { "its host" } else { "their hosts" };
        let names = listed(&guests, NAMED_MAX);
        problems.push(format!("{names} would not survive the loss of {whose}: {why}"));
    }
    problems.extend(survey.unproven.clone());
    problems.extend(survey.impossible.clone());
    problems
}
