//! A stretch of time in equal steps, and how what was measured falls into them.

use std::collections::BTreeMap;

use model::Usage;

use super::Part;
use super::block::{COARSE, FINE};

/// The smallest step, and what every step is a multiple of.
pub const STEP_MIN_S: u64 = FINE.slot_s;

/// So many steps from a moment on. Seconds since 1970, and seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub from_s: u64,
    pub step_s: u64,
    pub count: usize,
}

impl Range {
    /// The whole steps in which `from_s` and `to_s` are; steps begin at multiples of their length.
    pub fn covering(from_s: u64, to_s: u64, step_s: u64) -> Range {
        let step_s = step_s.max(STEP_MIN_S);
        let from_s = from_s - from_s % step_s;
        let count = to_s.saturating_sub(from_s).div_ceil(step_s);
        Range { from_s, step_s, count: usize::try_from(count).unwrap_or(usize::MAX) }
    }

    pub fn to_s(&self) -> u64 {
        self.from_s.saturating_add(self.step_s.saturating_mul(self.count as u64))
    }

    /// The mean of each step. Coarse slots count only before the one with the first fine slot: after that, where there
    /// is no fine slot nothing was measured.
    pub(super) fn resample(
        &self,
        fine: BTreeMap<u64, Usage>,
        coarse: Vec<(u64, Usage)>,
        fine_since_s: Option<u64>,
    ) -> Vec<Option<Usage>> {
        let fine = self.means(fine, FINE.slot_s);
        let coarse = self.means(coarse, COARSE.slot_s);
        let begins = (0..).map(|index| self.from_s + index * self.step_s);
        let fine_since_s = fine_since_s.map(|since| COARSE.slot_of(since));
        let steps = begins.zip(fine.into_iter().zip(coarse));
        let mean = |(begin, (fine, coarse)): (u64, (Part, Part))| {
            let coarse = coarse.mean().filter(|_| fine_since_s.is_none_or(|since| begin < since));
            fine.mean().or(coarse)
        };
        steps.map(mean).collect()
    }

    fn means(&self, slots: impl IntoIterator<Item = (u64, Usage)>, slot_s: u64) -> Vec<Part> {
        let mut steps = vec![Part::default(); self.count];
        for (slot, usage) in slots {
            let (begin, end) = (slot.max(self.from_s), (slot + slot_s).min(self.to_s()));
            let mut at = begin;
            while at < end {
                let index = (at - self.from_s) / self.step_s;
                let next = (self.from_s + (index + 1) * self.step_s).min(end);
                if let Some(step) = usize::try_from(index).ok().and_then(|index| steps.get_mut(index)) {
                    step.add(usage, (next - at) as f64);
                }
                at = next;
            }
        }
        steps
    }
}
