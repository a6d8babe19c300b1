//! How measurements are packed: a block holds as many slots as its grain says, four numbers each.

use model::Usage;

/// Little-endian `f32`: processor cores, bytes of memory, bytes a second of disk and of network traffic.
const USAGE_BYTES: usize = 16;

/// How finely, and for how long, measurements are kept. Seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grain {
    pub slot_s: u64,
    pub slots: u64,
    pub keep_s: u64,
}

pub const FINE: Grain = Grain { slot_s: 10, slots: 6, keep_s: 86_400 };
pub const COARSE: Grain = Grain { slot_s: 300, slots: 12, keep_s: 31 * 86_400 };

const _: () =
    assert!(COARSE.slot_s.is_multiple_of(FINE.block_s()), "a coarse slot is made of whole fine blocks");

impl Grain {
    pub const fn block_s(self) -> u64 {
        self.slot_s * self.slots
    }

    /// The beginning of the slot, and of the block, that a moment is in.
    pub fn slot_of(self, at_s: u64) -> u64 {
        at_s - at_s % self.slot_s
    }

    pub fn block_of(self, at_s: u64) -> u64 {
        at_s - at_s % self.block_s()
    }
}

/// The slots of one block; not a number: not measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    grain: Grain,
    bytes: Vec<u8>,
}

impl Block {
    pub fn new(grain: Grain) -> Block {
        let count = usize::try_from(grain.slots).unwrap_or_default() * USAGE_BYTES / size_of::<f32>();
        Block { grain, bytes: f32::NAN.to_le_bytes().repeat(count) }
    }

    /// Bytes of another length are of another version, and hold nothing.
    pub fn decode(grain: Grain, bytes: &[u8]) -> Block {
        let empty = Block::new(grain);
        if bytes.len() == empty.bytes.len() { Block { grain, bytes: bytes.to_vec() } } else { empty }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn set(&mut self, at_s: u64, usage: Usage) {
        let index = usize::try_from(at_s % self.grain.block_s() / self.grain.slot_s).unwrap_or_default();
        let numbers = [usage.cpu, usage.memory, usage.disk, usage.network];
        let packed = numbers.into_iter().flat_map(|number| (number as f32).to_le_bytes());
        self.bytes.splice(index * USAGE_BYTES..(index + 1) * USAGE_BYTES, packed);
    }

    /// What was measured, with the beginnings of the slots.
    pub fn slots(&self, block_s: u64) -> impl Iterator<Item = (u64, Usage)> + '_ {
        (0..).zip(self.bytes.chunks_exact(USAGE_BYTES)).filter_map(move |(index, packed)| {
            let mut numbers = packed.chunks_exact(size_of::<f32>()).map(|bytes| {
                let bytes = bytes.try_into().unwrap_or([0; size_of::<f32>()]);
                f64::from(f32::from_le_bytes(bytes))
            });
            let mut next = || numbers.next().filter(|number| number.is_finite());
            let usage = Usage { cpu: next()?, memory: next()?, disk: next()?, network: next()? };
            Some((block_s + index * self.grain.slot_s, usage))
        })
    }
}
