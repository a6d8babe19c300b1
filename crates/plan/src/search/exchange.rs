//! Two guests that change places at once.
//!
//! Once every host has its share of guests, no single move helps: it makes one host poorer and another richer. Two
//! guests that trade hosts keep the numbers and even out what remains. What both change together is computed like a
//! single move, from the hosts that they touch.

use super::packed::NOWHERE;
use super::state::{Acc, Change, Seat, State};

/// Hosts of two guests, before and after.
const HOSTS: usize = 8;
/// One entry for each time that a guest begins or ends to have its secondary on a host.
const PEERS: usize = 4;

/// A guest that goes to a seat.
pub(super) type Step = (usize, Seat);

struct Touched<const K: usize> {
    changes: [Change<K>; HOSTS],
    peers: [[(u32, f64); PEERS]; HOSTS],
    peer_count: [usize; HOSTS],
    len: usize,
}

impl<const K: usize> Touched<K> {
    fn new() -> Self {
        let blank = Change { host: NOWHERE, lanes: [0.0; K], uses: 0.0, res: 0.0, count: 0.0 };
        Touched {
            changes: [blank; HOSTS],
            peers: [[(NOWHERE, 0.0); PEERS]; HOSTS],
            peer_count: [0; HOSTS],
            len: 0,
        }
    }

    fn at(&mut self, host: u32) -> usize {
        if let Some(at) = self.changes[..self.len].iter().position(|change| change.host == host) {
            return at;
        }
        self.changes[self.len].host = host;
        self.len += 1;
        self.len - 1
    }

    fn peer(&mut self, at: usize, unit: u32, needs: f64) {
        let count = self.peer_count[at];
        if let Some(peer) = self.peers[at][..count].iter_mut().find(|peer| peer.0 == unit) {
            peer.1 += needs;
        } else {
            self.peers[at][count] = (unit, needs);
            self.peer_count[at] += 1;
        }
    }
}

impl<const K: usize> State<'_, K> {
    /// The score after both guests went to their seats, whether that is allowed or not. Exact unless both are in
    /// one group.
    pub fn value_after_both(&self, steps: [Step; 2]) -> f64 {
        let mut touched = Touched::new();
        let mut acc: Acc<K> = self.acc;
        for (guest, new) in steps {
            let old = self.seats[guest];
            self.count_seat(&mut touched, guest, old, -1.0);
            self.count_seat(&mut touched, guest, new, 1.0);
            acc.linear +=
                self.home(guest, new) - self.home(guest, old) + self.group_delta(guest, old.host, new.host);
        }
        for at in 0..touched.len {
            let peers = &touched.peers[at][..touched.peer_count[at]];
            touched.changes[at].res = self.res_with(touched.changes[at].host, peers);
            self.touch(&mut acc, &touched.changes[at]);
        }
        self.score(&acc)
    }

    fn count_seat(&self, touched: &mut Touched<K>, guest: usize, seat: Seat, sign: f64) {
        let g = &self.p.guests[guest];
        let primary = touched.at(seat.host);
        let change = &mut touched.changes[primary];
        for k in 0..K {
            change.lanes[k] += sign * g.primary[k];
        }
        change.uses += sign * g.uses;
        change.count += sign * g.count;
        if seat.secondary == NOWHERE {
            return;
        }
        let secondary = touched.at(seat.secondary);
        let change = &mut touched.changes[secondary];
        for k in 0..K {
            change.lanes[k] += sign * g.secondary[k];
        }
        change.count += sign * g.count;
        let (unit, own) = (self.p.hosts[seat.host as usize].unit, self.p.hosts[seat.secondary as usize].unit);
        if g.needs > 0.0 && unit != own {
            touched.peer(secondary, unit, sign * g.needs);
        }
    }
}
