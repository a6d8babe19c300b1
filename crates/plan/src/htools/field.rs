//! One line of the text format, taken apart at `|`; each question about a field answers with a value or with what
//! is wrong there.

use std::collections::BTreeMap;

use super::parse::Damage;

/// No single figure is larger: an exbibyte, in MiB.
pub const MIB_MAX: u64 = 1 << 40;
/// All figures together: 4 EiB in MiB, so that their sum in bytes, and twice that, fits in 64 bits.
const MIB_TOTAL_MAX: u64 = 1 << 42;
/// The largest number of cores, vCPUs, spindles and ratios.
pub const COUNT_MAX: u64 = 1_000_000;
/// vCPUs of all instances together: their sum fits in 32 bits.
const VCPUS_TOTAL_MAX: u64 = 1 << 31;

const WHOLE_MIB: &str = "whole MiB are expected, as in 4096";
const MIB: &str = "MiB are expected, as in 4096";
const COUNT: &str = "a whole number is expected, as in 4";
const NUMBER: &str = "a number is expected, as in 4 or 1.5";

#[derive(Debug)]
pub struct Row<'a> {
    pub line: usize,
    section: &'static str,
    fields: Vec<&'a str>,
}

impl<'a> Row<'a> {
    pub fn new(line: usize, section: &'static str, text: &'a str) -> Self {
        Self { line, section, fields: text.split('|').collect() }
    }

    /// Refuses a line with fewer fields than every version of the format has.
    pub fn least(&self, least: usize, what: &str) -> Result<(), Damage> {
        let count = self.fields.len();
        if count >= least {
            return Ok(());
        }
        Err(Damage {
            line: self.line,
            section: Some(self.section),
            field: None,
            found: format!("it has {count} field{}", if count == 1 { "" } else { "s" }),
            expected: format!(
                "{what} has {least} at the least, with '|' between two of them; is an empty line too many or too few \
                 above?"
            ),
        })
    }

    pub fn has(&self, number: usize) -> bool {
        self.fields.len() >= number
    }

    /// The field's text; nothing when it is missing. Numbers are from 1.
    pub fn text(&self, number: usize) -> &'a str {
        self.fields.get(number - 1).copied().unwrap_or_default()
    }

    pub fn damage(&self, number: usize, what: &'static str, found: String, expected: &str) -> Damage {
        Damage {
            line: self.line,
            section: Some(self.section),
            field: Some((number, what)),
            found,
            expected: expected.to_owned(),
        }
    }

    /// A name that stands nowhere else, and remembers it.
    pub fn name(
        &self,
        number: usize,
        what: &'static str,
        names: &mut BTreeMap<String, usize>,
    ) -> Result<String, Damage> {
        let name = self.text(number);
        if name.is_empty() {
            return Err(self.damage(number, what, "it is empty".to_owned(), "a name is expected"));
        }
        match names.insert(name.to_owned(), self.line) {
            None => Ok(name.to_owned()),
            Some(first) => {
                let found = format!("'{name}' stands in line {first} already");
                Err(self.damage(number, what, found, "each is expected once"))
            }
        }
    }

    pub fn size(&self, number: usize, what: &'static str) -> Result<u64, Damage> {
        self.whole_or(number, what, self.text(number), MIB_MAX, WHOLE_MIB)
    }

    pub fn size_with_fraction(&self, number: usize, what: &'static str) -> Result<f64, Damage> {
        self.decimal(number, what, self.text(number), MIB_MAX, MIB)
    }

    pub fn count(&self, number: usize, what: &'static str) -> Result<u64, Damage> {
        self.whole(number, what, self.text(number), COUNT_MAX)
    }

    pub fn count_or(&self, number: usize, what: &'static str, default: u64) -> Result<u64, Damage> {
        if self.has(number) { self.count(number, what) } else { Ok(default) }
    }

    pub fn vcpus(&self, number: usize, what: &'static str) -> Result<u32, Damage> {
        let count = self.count(number, what)?;
        // COUNT_MAX is far below.
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    pub fn number(&self, number: usize, what: &'static str, most: u64) -> Result<f64, Damage> {
        self.decimal(number, what, self.text(number), most, NUMBER)
    }

    pub fn whole(&self, number: usize, what: &'static str, text: &str, most: u64) -> Result<u64, Damage> {
        self.whole_or(number, what, text, most, COUNT)
    }

    fn whole_or(
        &self,
        number: usize,
        what: &'static str,
        text: &str,
        most: u64,
        expected: &str,
    ) -> Result<u64, Damage> {
        let negative = text.strip_prefix('-').is_some_and(is_digits);
        let found = match text.parse::<u64>() {
            // `parse` would take a '+', and Ganeti's tools do not.
            Ok(value) if value <= most && is_digits(text) => return Ok(value),
            _ if negative => format!("{text} is negative"),
            _ if is_digits(text) => format!("{text} is too large: {most} is the most"),
            Ok(_) | Err(_) if text.is_empty() => "it is empty".to_owned(),
            Ok(_) | Err(_) => format!("'{text}' is not a whole number"),
        };
        Err(self.damage(number, what, found, expected))
    }

    fn decimal(
        &self,
        number: usize,
        what: &'static str,
        text: &str,
        most: u64,
        expected: &str,
    ) -> Result<f64, Damage> {
        // What `parse` also takes: 'inf', 'nan', '.5', '5.', '+5'.
        let (whole, rest) = text.split_once('.').unwrap_or((text, "0"));
        let written = is_digits(whole.strip_prefix('-').unwrap_or(whole)) && rest.starts_with(is_digit);
        let found = match text.parse::<f64>() {
            Ok(value) if written && text.starts_with('-') && value <= 0.0 => format!("{text} is negative"),
            Ok(value) if written && value <= most as f64 => return Ok(value),
            Ok(_) if written => format!("{text} is too large: {most} is the most"),
            Ok(_) | Err(_) if text.is_empty() => "it is empty".to_owned(),
            Ok(_) | Err(_) => format!("'{text}' is not a number"),
        };
        Err(self.damage(number, what, found, expected))
    }

    pub fn yes_or_no(&self, number: usize, what: &'static str) -> Result<bool, Damage> {
        match self.text(number) {
            "Y" => Ok(true),
            "N" => Ok(false),
            other => Err(self.damage(number, what, format!("'{other}' stands there"), "Y or N is expected")),
        }
    }

    pub fn yes_or_no_or(&self, number: usize, what: &'static str, default: bool) -> Result<bool, Damage> {
        if self.has(number) { self.yes_or_no(number, what) } else { Ok(default) }
    }

    pub fn list(&self, number: usize) -> Vec<String> {
        self.text(number).split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    pub fn one_of<T: Copy>(
        &self,
        number: usize,
        what: &'static str,
        known: &[(&'static str, T)],
    ) -> Result<T, Damage> {
        self.known_word(number, what, self.text(number), known)
    }

    pub fn known_word<T: Copy>(
        &self,
        number: usize,
        what: &'static str,
        text: &str,
        known: &[(&'static str, T)],
    ) -> Result<T, Damage> {
        if let Some((_, value)) = known.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
        let expected = format!("one of {} is expected", words.join(", "));
        Err(self.damage(number, what, format!("'{text}' is not known"), &expected))
    }
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit()
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_digit)
}

/// What all figures sum up to, so that no sum over them can leave its type.
#[derive(Debug, Default)]
pub struct Total {
    mib: u64,
    vcpus: u64,
}

impl Total {
    pub fn add(&mut self, row: &Row<'_>, mib: u64) -> Result<(), Damage> {
        // Each is at most MIB_MAX, and the sum before it at most MIB_TOTAL_MAX.
        self.mib += mib;
        if self.mib <= MIB_TOTAL_MAX {
            return Ok(());
        }
        Err(Damage {
            line: row.line,
            section: Some(row.section),
            field: None,
            found: format!("with it, memory and disk come to more than {MIB_TOTAL_MAX} MiB in all"),
            expected: "figures of a real cluster are expected".to_owned(),
        })
    }

    pub fn add_vcpus(&mut self, row: &Row<'_>, vcpus: u32) -> Result<(), Damage> {
        self.vcpus += u64::from(vcpus);
        if self.vcpus <= VCPUS_TOTAL_MAX {
            return Ok(());
        }
        Err(Damage {
            line: row.line,
            section: Some(row.section),
            field: None,
            found: format!("with it, there are more than {VCPUS_TOTAL_MAX} vCPUs in all"),
            expected: "figures of a real cluster are expected".to_owned(),
        })
    }
}
