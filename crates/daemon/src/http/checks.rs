//! What more than one request is checked for.

use std::collections::BTreeSet;

use model::{Bytes, GuestSpec};

use super::answer::{Answer, Refused};

/// Less does not get as far as to say why it does not boot.
const MEMORY_MIN: Bytes = Bytes::mib(32);

/// QEMU's `q35` takes no more under either accelerator.
const VCPUS_MAX: u32 = 255;

/// Tags stand in tables and in rules, with commas between them and colons before them.
const TAG_LENGTH_MAX: usize = 63;

/// More is a mistake, and would bloat a record that is read and written whole.
pub const TAGS_MAX: usize = 64;

/// Refuses a health check that could never be made on that guest.
pub fn health(guest: &GuestSpec, asked: &str) -> Answer<()> {
    match guest.health.problem(guest) {
        None => Ok(()),
        Some((why, instead)) => Err(Refused::invalid(asked, why, instead)),
    }
}

/// Refuses what is no tag.
pub fn tags<'a>(tags: impl IntoIterator<Item = &'a String>, asked: &str) -> Answer<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let good = |tag: &String| !tag.is_empty() && tag.len() <= TAG_LENGTH_MAX && tag.chars().all(allowed);
    match tags.into_iter().find(|tag| !good(tag)) {
        None => Ok(()),
        Some(tag) => Err(Refused::invalid(
            asked,
            format!("'{tag}' is not a tag"),
            format!("use 1 to {TAG_LENGTH_MAX} letters, digits, hyphens, underscores and dots"),
        )),
    }
}

/// Refuses more tags than a record should hold.
pub fn number_of_tags(tags: &BTreeSet<String>, asked: &str) -> Answer<()> {
    if tags.len() <= TAGS_MAX {
        return Ok(());
    }
    let why = format!("it would have {} tags", tags.len());
    Err(Refused::invalid(asked, why, format!("keep {TAGS_MAX} or fewer")))
}

/// Refuses what no machine can be.
pub fn guest_size(memory: Bytes, vcpus: u32, asked: &str) -> Answer<()> {
    if memory < MEMORY_MIN {
        let why = format!("{memory} is too little memory for any system");
        return Err(Refused::by_state(asked, why, format!("give it {MEMORY_MIN} or more")));
    }
    if vcpus == 0 || vcpus > VCPUS_MAX {
        let why = format!("a guest cannot have {vcpus} CPUs");
        return Err(Refused::by_state(asked, why, format!("give it between 1 and {VCPUS_MAX}")));
    }
    Ok(())
}

/// Refuses a number outside its range. `what` as in `a speed of 0 %`.
pub fn in_range(number: u32, range: std::ops::RangeInclusive<u32>, what: &str, asked: &str) -> Answer<()> {
    if range.contains(&number) {
        return Ok(());
    }
    let why = format!("{what} does not work");
    Err(Refused::invalid(asked, why, format!("choose between {} and {}", range.start(), range.end())))
}
