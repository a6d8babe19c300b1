//! Disks, down to single writes.
//!
//! A replica is a [`File`] of a few blocks. Each write has a number of its own, and a block holds the number of the
//! write that it was written by last: in the page cache, and on the platter. Power lost means that each block holds
//! what the platter had or what the cache had, as chance wills.
//!
//! The [`Ledger`] of a volume knows what its guest was told: which writes were acknowledged, and which of these it
//! has flushed. When a guest begins to run it reads its disk, and what it reads must be what it was told, or a write
//! that is still under way. What it has read must not be gone later either: then it counts as acknowledged.

use std::collections::BTreeSet;

use model::Epoch;

use crate::rng::Rng;

/// Blocks of a volume. Few, so that they are written again and again.
pub const BLOCKS: usize = 3;

/// The number of a write; 0 is what an empty file holds.
pub type WriteId = u64;

/// One replica.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct File {
    /// Which file it is: one that was deleted and made anew under the same name is another one.
    pub id: u64,
    /// Something was written to it once.
    pub written: bool,
    pub cached: [WriteId; BLOCKS],
    pub stable: [WriteId; BLOCKS],
    /// Its host lost power since: what was acknowledged and not flushed may be gone.
    pub lost_power: bool,
    /// Since an owner of this epoch took over, nobody of an older one may write to it.
    pub sealed: Epoch,
}

impl File {
    pub fn write(&mut self, block: usize, content: WriteId) {
        self.cached[block] = content;
        self.written = true;
    }

    pub fn flush(&mut self) {
        self.stable = self.cached;
    }

    pub fn lose_power(&mut self, rng: &mut Rng) {
        for block in 0..BLOCKS {
            if self.cached[block] != self.stable[block] {
                self.lost_power = true;
                if rng.percent(70) {
                    self.cached[block] = self.stable[block];
                }
            }
        }
        self.stable = self.cached;
    }
}

/// What a guest was told of one block.
#[derive(Debug, Clone, Default)]
struct Told {
    /// The write that was flushed last, and those that were acknowledged after it.
    acknowledged: Vec<WriteId>,
    /// Writes that nobody was told of.
    pending: Vec<WriteId>,
}

impl Told {
    fn last(&self) -> WriteId {
        self.acknowledged.last().copied().unwrap_or_default()
    }
}

/// What a guest was told of one volume.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    blocks: [Told; BLOCKS],
    /// What guests have found when they began to run.
    found: BTreeSet<WriteId>,
    /// A secondary answered a write with an error, and the guest was told that it was written all the same: until
    /// the record says so too, one more failure loses it.
    pub thin: bool,
}

impl Ledger {
    pub fn issue(&mut self, block: usize, id: WriteId) {
        self.blocks[block].pending.push(id);
    }

    pub fn acknowledge(&mut self, block: usize, id: WriteId) {
        let told = &mut self.blocks[block];
        told.pending.retain(|other| *other != id);
        told.acknowledged.push(id);
    }

    /// As if the guest had been told of just what a replica holds.
    pub fn of(file: &File) -> Ledger {
        let blocks = file.cached.map(|found| Told { acknowledged: vec![found], pending: vec![] });
        Ledger { blocks, thin: false, found: BTreeSet::new() }
    }

    pub fn flush(&mut self) {
        for told in &mut self.blocks {
            let last = told.last();
            told.acknowledged = vec![last];
        }
    }

    /// A guest reads its disk. What it may not find, if it finds that.
    pub fn read(&mut self, file: &File) -> Result<(), String> {
        for (block, told) in self.blocks.iter_mut().enumerate() {
            let found = file.cached[block];
            let older = file.lost_power && told.acknowledged.contains(&found);
            if found != told.last() && !told.pending.contains(&found) && !older {
                let what =
                    if told.acknowledged.contains(&found) || found < told.last() { "lost" } else { "odd" };
                return Err(format!(
                    "{what}: block {block} holds write {found}, the guest was told of {:?}, under way were {:?}",
                    told.acknowledged, told.pending
                ));
            }
            match told.acknowledged.iter().position(|id| *id == found) {
                Some(at) => told.acknowledged.truncate(at + 1),
                None => told.acknowledged.push(found),
            }
            told.pending.clear();
            self.found.insert(found);
        }
        Ok(())
    }

    /// Whether a later run has begun with this write.
    pub fn was_found(&self, id: WriteId) -> bool {
        self.found.contains(&id)
    }

    /// Whether a replica holds everything that was acknowledged.
    pub fn is_held_by(&self, file: &File) -> bool {
        let holds = |(block, told): (usize, &Told)| {
            file.cached[block] == told.last() || told.pending.contains(&file.cached[block])
        };
        self.blocks.iter().enumerate().all(holds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_found_or_it_is_lost() {
        let mut ledger = Ledger::default();
        ledger.issue(0, 1);
        ledger.acknowledge(0, 1);
        let mut file = File { cached: [1, 0, 0], ..File::default() };
        assert_eq!(ledger.clone().read(&file), Ok(()));
        file.lose_power(&mut Rng::new(1));
        file.cached[0] = 0;
        assert!(ledger.clone().read(&file).is_err_and(|why| why.starts_with("lost")));
        ledger.flush();
        assert!(ledger.read(&file).is_err());
    }

    #[test]
    fn what_was_read_counts_as_told() {
        let mut ledger = Ledger::default();
        ledger.issue(0, 1);
        let with = File { cached: [1, 0, 0], ..File::default() };
        assert_eq!(ledger.read(&with), Ok(()));
        assert!(ledger.read(&File::default()).is_err());
    }
}
