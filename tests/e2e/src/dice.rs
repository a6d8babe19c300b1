//! Choices that look random and can be made again: a seed gives the same row of them.

use std::time::Duration;

use anyhow::{Context, Result};

/// A row of numbers that looks random (xorshift64*, Vigna 2016).
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn of(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From the first to the last, both included.
    pub fn roll(&mut self, from: u64, to: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        from + self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % (to - from + 1)
    }

    /// Waits for so many milliseconds.
    pub fn pause(&mut self, (from, to): (u64, u64)) {
        std::thread::sleep(Duration::from_millis(self.roll(from, to)));
    }

    /// One of them; there must be some.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let last = u64::try_from(from.len()).unwrap_or(1).saturating_sub(1);
        from[usize::try_from(self.roll(0, last)).unwrap_or(0)]
    }
}

/// A number of the environment, such as `SEED=7`.
pub fn number(name: &str, otherwise: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text} is no number")),
        Err(_) => Ok(otherwise),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_row_again() {
        let row = |seed| {
            let mut dice = Dice::of(seed);
            (0..100).map(|_| dice.roll(3, 7)).collect::<Vec<u64>>()
        };
        assert_eq!(row(1), row(1));
        assert_ne!(row(1), row(2));
        assert!((3..=7).all(|number| row(1).contains(&number)) && row(1).iter().all(|n| (3..=7).contains(n)));
        assert_eq!(Dice::of(0).pick(&["one"]), "one");
    }
}
