//! What operators do about hosts that are lost: the counterpart of `kennel host confirm-dead` and `kennel host fence`.

use model::{ConfirmedDead, Fence};

use crate::names::host_name;
use crate::store::{Key, Record, Txn};
use crate::world::{S, World, note};

impl World {
    /// An operator goes to a lost host, pulls its plug if it has power, and says that it is dead. `host` takes the word.
    pub fn confirm_dead(&mut self, host: usize, of: usize) -> Option<Txn> {
        let (name, at) = (host_name(of), self.wall(host));
        let heard = self.store.now.view.is_live(&name);
        let view = &self.daemon(host).cache.view;
        let live = view.is_live(&name) || heard;
        if of == host || live || view.confirmed_dead.contains_key(&name) {
            return None;
        }
        let boot_id = view.host_reports.get(&name)?.boot_id;
        if self.sites[of].up {
            note!(self, "somebody pulls the plug of {name}");
            let dark = self.rng.between(3 * S, 40 * S);
            self.power_off(of, dark, true);
        }
        let word = ConfirmedDead { host: name, boot_id, by: "an operator".into(), at };
        let mut draft = self.daemon(host).cache.draft();
        Some(draft.absent(Key::Session(of)).create(Record::ConfirmedDead(word), None).build())
    }

    /// An operator asks for a host's power to be taken.
    pub fn fence_by_hand(&mut self, host: usize, of: usize) -> Option<Txn> {
        let (name, since) = (host_name(of), self.wall(host));
        let id = uuid::Uuid::from_u128(0x9100_0000_0000 + u128::from(self.number()));
        let cache = &self.daemon(host).cache;
        let view = &cache.view;
        let fenced =
            view.fences.get(&name).is_some_and(|f| !f.is_over() || f.off.is_some() && !view.is_live(&name));
        if fenced || !view.fence_devices.contains_key(&name) {
            return None;
        }
        let boot_id = view.host_reports.get(&name)?.boot_id;
        let fence = Fence {
            host: name,
            id,
            boot_id,
            asked_by: "an operator".into(),
            by_hand: true,
            why: "it makes a noise".into(),
            since,
            tries: 0,
            tried_at: None,
            problem: None,
            off: None,
            reset: None,
        };
        Some(cache.draft().put(Record::Fence(fence)).unchanged(Key::Session(of)).build())
    }
}
