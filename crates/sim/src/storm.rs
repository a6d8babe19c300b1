//! "No storm", for the cluster as a whole: while many hosts have just vanished, nothing is recovered.
//!
//! Seen from the truth, not from the leader's record of it: which sessions ended, and when. Whoever knows that a host is
//! lost knows of all that were lost before it; so the guests of one that was lost shortly after others wait for as long
//! as the hold lasts. Runs in which clocks jump are left out: a pause is measured by the wall clock.

use jiff::SignedDuration;
use model::{HostName, Settings};

use crate::books::NO_STORM;
use crate::fault::Blow;
use crate::world::{S, Time, World};

/// Hosts that vanish within so long count as one storm by any leader's stamps.
const TOGETHER: Time = 20 * S;
/// What clocks that run fast may take off a hold.
const FAST: Time = 5 * S;

impl World {
    /// Takes note of whose sessions there are. To be called whenever they may have changed.
    pub fn book_sessions(&mut self) {
        let (now, view) = (self.now, &self.store.now.view);
        self.books.vanished.retain(|host, _| !view.is_live(host));
        let gone: Vec<HostName> =
            view.host_reports.keys().filter(|host| !view.is_live(host)).cloned().collect();
        for host in gone {
            self.books.vanished.entry(host).or_insert(now);
        }
    }

    /// A guest gets another owner although nobody asked for it, or the power of its host is taken.
    pub fn check_calm(&mut self, whose: &str, lost: &HostName, what_is_done: &str) {
        let jumps = |blow: &Blow| matches!(blow, Blow::ClockForward { .. } | Blow::ClockBack { .. });
        let vanished = &self.books.vanished;
        let Some(last) = vanished.get(lost).copied() else { return };
        let settings = Settings::default();
        let together = vanished.values().filter(|at| **at <= last && **at + TOGETHER >= last);
        let (count, first) = (together.clone().count(), together.min().copied().unwrap_or(last));
        let of = self.store.now.view.host_reports.len() - (vanished.len() - count);
        let storm = count >= 2 && count * 100 >= settings.storm_share_percent as usize * of;
        let held_until = first + Time::from(settings.storm_hold_s) * S - FAST;
        if storm
            && self.now < held_until
            && !self.is_excused(&settings)
            && !self.schedule.items.iter().any(|item| jumps(&item.blow))
        {
            let age = (self.now - first) / S;
            let what = format!(
                "{whose} of {lost} {what_is_done} {age} s after the first of {count} of {of} hosts vanished"
            );
            self.breaks(NO_STORM, what);
        }
    }

    /// Whether the record of lost hosts could not say so: the storm that it knows of has been held for long enough, and who
    /// vanishes later is part of it; or nobody could write that a host had been back.
    fn is_excused(&self, settings: &Settings) -> bool {
        let Some(losses) = &self.store.now.view.losses else { return false };
        let (wall, fast) = (self.wall(0), SignedDuration::from_micros(FAST as i64));
        let hold = SignedDuration::from_secs(i64::from(settings.storm_hold_s));
        let old = |(host, at): (&HostName, &Time)| {
            let lost_for = SignedDuration::from_micros((self.now - at) as i64);
            losses.since.get(host).is_some_and(|since| wall.duration_since(*since) > lost_for + fast)
        };
        losses.storm.as_ref().is_some_and(|storm| wall >= storm.began + hold - fast)
            || self.books.vanished.iter().any(old)
    }
}
