//! Sizes in bytes, as people write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A number of bytes. Written `512M`, `10G`, `1T` (powers of 1024), or as a plain number.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, ToSchema,
)]
#[schema(value_type = u64)]
pub struct Bytes(pub u64);

impl Bytes {
    pub const KIB: u64 = 1 << 10;
    pub const MIB: u64 = 1 << 20;
    pub const GIB: u64 = 1 << 30;

    pub const fn mib(n: u64) -> Bytes {
        Bytes(n * Self::MIB)
    }

    pub const fn gib(n: u64) -> Bytes {
        Bytes(n * Self::GIB)
    }

    pub fn as_mib(self) -> u64 {
        self.0 / Self::MIB
    }
}

impl std::iter::Sum for Bytes {
    /// More than can be counted is as much as can be counted: no host has that either.
    fn sum<I: Iterator<Item = Bytes>>(sizes: I) -> Bytes {
        Bytes(sizes.fold(0, |sum, size| sum.saturating_add(size.0)))
    }
}

/// A size that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a size: write a whole number with K, M, G or T behind it, as in 512M or 10G")]
pub struct InvalidSize(String);

impl FromStr for Bytes {
    type Err = InvalidSize;
    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let wrong = || InvalidSize(text.to_owned());
        let upper = text.trim().to_ascii_uppercase();
        let number = upper.trim_end_matches("IB").trim_end_matches('B');
        let (digits, shift) = match number.as_bytes().last() {
            Some(b'K') => (&number[..number.len() - 1], 10),
            Some(b'M') => (&number[..number.len() - 1], 20),
            Some(b'G') => (&number[..number.len() - 1], 30),
            Some(b'T') => (&number[..number.len() - 1], 40),
            Some(_) | None => (number, 0),
        };
        let count: u64 = digits.trim().parse().map_err(|_| wrong())?;
        count.checked_mul(1 << shift).map(Bytes).ok_or_else(wrong)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1u64 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
        let text = match units.iter().find(|(unit, _)| self.0 >= *unit) {
            Some((unit, letter)) if self.0.is_multiple_of(*unit) => format!("{}{letter}", self.0 / unit),
            Some((unit, letter)) => format!("{:.1}{letter}", self.0 as f64 / *unit as f64),
            None => format!("{}", self.0),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, bytes: u64, shown: &str) {
        assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        assert_eq!(Bytes(bytes).to_string(), shown);
    }

    #[test]
    fn sizes_read_and_show() {
        check("512M", 512 << 20, "512M");
        check("10GiB", 10 << 30, "10G");
        check("1536m", 1536 << 20, "1.5G");
        check("0", 0, "0");
        check("4k", 4096, "4K");
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for bad in ["", "G", "ten", "-1", "1.5G", "99999999T"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad}");
        }
    }
}
