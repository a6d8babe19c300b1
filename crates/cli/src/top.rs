//! `kennel top`: the cluster at a glance, in the terminal.
//!
//! ```text
//!   watches (hosts, guests, jobs) ─┐
//!   asked every 2 s (usage, status)─┼──▶ Top: what is known, and how it is looked at ──▶ draw ──▶ the terminal
//!   keys ───────────────────────────┘                                                  └──▶ --once: plain text
//! ```
//!
//! [`Top`] is all there is to know; drawing it decides nothing, so that a test sees what a person would. Whatever
//! host answers will do: the client goes on to the next one when a host dies, and what is shown says that it is old
//! until somebody answers again.

mod draw;
mod live;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use api::{ClusterStatus, GuestView, HostView, JobView, WatchEvent, Watched};
use model::{HostName, HostUsage, Usage};

pub use live::{once, watch};

/// What guests are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Sort {
    #[default]
    Cpu,
    Memory,
    Disk,
    Network,
    Name,
}

impl Sort {
    fn as_str(self) -> &'static str {
        match self {
            Sort::Cpu => "CPU",
            Sort::Memory => "memory",
            Sort::Disk => "disk",
            Sort::Network => "network",
            Sort::Name => "name",
        }
    }

    /// Of what is sorted by, how much; nothing for names.
    fn amount(self, usage: &Usage) -> f64 {
        match self {
            Sort::Cpu => usage.cpu,
            Sort::Memory => usage.memory,
            Sort::Disk => usage.disk,
            Sort::Network => usage.network,
            Sort::Name => 0.0,
        }
    }
}

/// A key, as far as it means something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Char(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    Enter,
    Escape,
    Backspace,
    /// ctrl-c.
    Interrupt,
}

/// How far a page goes.
const PAGE: usize = 10;

/// Everything that is shown.
#[derive(Debug, Default)]
pub struct Top {
    pub hosts: BTreeMap<String, HostView>,
    pub guests: BTreeMap<String, GuestView>,
    pub jobs: BTreeMap<String, JobView>,
    pub usages: BTreeMap<HostName, HostUsage>,
    pub status: Option<ClusterStatus>,
    /// Why what is shown may be old.
    pub broken: Option<String>,
    pub sort: Sort,
    pub reversed: bool,
    /// Part of a guest's or its host's name.
    pub filter: String,
    /// Keys go to the filter.
    pub typing: bool,
    /// Guests that are scrolled past.
    pub offset: usize,
}

impl Top {
    /// Takes in what a watch says, by `pick` of its kind.
    pub fn take<T: Watched>(
        &mut self,
        event: WatchEvent<T>,
        pick: impl Fn(&mut Top) -> &mut BTreeMap<String, T>,
    ) {
        match &event {
            WatchEvent::Interrupted(why) => self.broken = Some(why.clone()),
            WatchEvent::Snapshot(_) | WatchEvent::Changed(_) | WatchEvent::Removed(_) => self.broken = None,
        }
        crate::listing::apply(pick(self), event);
    }

    pub fn measured(&mut self, usages: Vec<HostUsage>) {
        self.usages = usages.into_iter().map(|usage| (usage.host.clone(), usage)).collect();
    }

    /// Does what a key means; `false`: it ends the command.
    pub fn press(&mut self, key: Key) -> bool {
        if self.typing && key != Key::Interrupt {
            self.type_filter(key);
            return true;
        }
        match key {
            Key::Char('q') | Key::Escape | Key::Interrupt => return false,
            Key::Char('c') => self.sort_by(Sort::Cpu),
            Key::Char('m') => self.sort_by(Sort::Memory),
            Key::Char('d') => self.sort_by(Sort::Disk),
            Key::Char('n') => self.sort_by(Sort::Network),
            Key::Char('a') => self.sort_by(Sort::Name),
            Key::Char('r') => self.reversed = !self.reversed,
            Key::Char('/') => self.typing = true,
            Key::Down | Key::Char('j') => self.offset += 1,
            Key::Up | Key::Char('k') => self.offset = self.offset.saturating_sub(1),
            Key::PageDown | Key::Char(' ') => self.offset += PAGE,
            Key::PageUp => self.offset = self.offset.saturating_sub(PAGE),
            Key::Home => self.offset = 0,
            Key::Char(_) | Key::Enter | Key::Backspace => {}
        }
        self.offset = self.offset.min(self.shown().len().saturating_sub(1));
        true
    }

    fn sort_by(&mut self, sort: Sort) {
        self.sort = sort;
        self.reversed = false;
        self.offset = 0;
    }

    fn type_filter(&mut self, key: Key) {
        match key {
            Key::Char(letter) => self.filter.push(letter),
            Key::Backspace => drop(self.filter.pop()),
            Key::Enter => self.typing = false,
            Key::Escape => {
                self.typing = false;
                self.filter.clear();
            }
            Key::Up | Key::Down | Key::PageUp | Key::PageDown | Key::Home | Key::Interrupt => {}
        }
        self.offset = 0;
    }

    /// The guests that the filter lets through, in the order in which they are looked at. Those of which nothing was
    /// measured come last.
    pub fn shown(&self) -> Vec<(&GuestView, Option<Usage>)> {
        let passes = |guest: &GuestView| {
            let on = guest.host.as_ref().is_some_and(|host| host.as_str().contains(&self.filter));
            on || guest.name.as_str().contains(&self.filter)
        };
        let mut shown: Vec<_> = self
            .guests
            .values()
            .filter(|guest| passes(guest))
            .map(|guest| (guest, self.usage_of(guest)))
            .collect();
        // The map is sorted by name, and the sort is stable.
        shown.sort_by(|(_, one), (_, other)| {
            let amount = |usage: &Option<Usage>| usage.map_or(-1.0, |usage| self.sort.amount(&usage));
            amount(other).total_cmp(&amount(one))
        });
        if self.sort == Sort::Name {
            shown.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        }
        if self.reversed {
            shown.reverse();
        }
        shown
    }

    fn usage_of(&self, guest: &GuestView) -> Option<Usage> {
        let measured = self.usages.get(guest.host.as_ref()?)?;
        measured.guests.get(&guest.name).map(|guest| guest.usage)
    }

    /// Jobs that are under way, the oldest first.
    pub fn running_jobs(&self) -> Vec<&JobView> {
        self.jobs.values().filter(|job| !job.state.is_terminal()).collect()
    }

    /// What a person should know of, as the cluster says it.
    pub fn problems(&self) -> &[String] {
        self.status.as_ref().map_or(&[], |status| status.problems.as_slice())
    }
}
