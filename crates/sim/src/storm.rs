//! "No storm", for the cluster as a whole: while many hosts have just vanished, nothing is recovered.
//!
//! Seen from the truth, not from the leader's record of it: which sessions ended, and when. A leader needs a moment to
//! hear of it, and its clock may run a little fast; so what counts is a change of owner well after the hosts vanished
//! and well before the hold is over. Runs in which clocks jump are left out: a pause is measured by the wall clock.

use model::{HostName, Settings};

use crate::books::NO_STORM;
use crate::fault::Blow;
use crate::world::{S, Time, World};

/// Whatever was under way, and whatever was heard late, is over by then.
const HEARD_WITHIN: Time = 15 * S;
/// Hosts that vanish within so long count as one storm by any leader's stamps.
const TOGETHER: Time = 20 * S;

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

    /// A guest gets another owner although nobody asked for it.
    pub fn check_calm(&mut self, guest: &str, lost: &HostName) {
        let jumps = |blow: &Blow| matches!(blow, Blow::ClockForward { .. } | Blow::ClockBack { .. });
        if self.schedule.items.iter().any(|item| jumps(&item.blow)) || !self.books.vanished.contains_key(lost)
        {
            return;
        }
        let settings = Settings::default();
        let hold = Time::from(settings.storm_hold_s) * S;
        let Some(last) = self.books.vanished.values().max().copied() else { return };
        let together = self.books.vanished.values().filter(|at| **at + TOGETHER >= last).count();
        let reported = self.store.now.view.host_reports.len();
        let of = reported - (self.books.vanished.len() - together);
        let age = self.now - last;
        let storm = together >= 2 && together * 100 >= settings.storm_share_percent as usize * of;
        if storm && age > HEARD_WITHIN && age + 5 * S < hold {
            let what = format!(
                "{guest} of {lost} is recovered {} s after {together} of {of} hosts vanished",
                age / S
            );
            self.breaks(NO_STORM, what);
        }
    }
}
