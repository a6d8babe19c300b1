//! What the end-to-end tests, the demo and the benchmarks share: a lab, guests that record what they were
//! told was safe, and watchers that look from outside for what must never happen.

pub mod dice;
pub mod lab;
pub mod moves;
pub mod owners;
pub mod receiver;
pub mod recorder;
pub mod shared;
pub mod torture;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks at something that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a failure begins with that no slow machine excuses; `scripts/stories` looks for it.
pub const BROKEN: &str = "PROMISE BROKEN";

/// Every process of this machine, with its folder under /proc.
pub fn processes() -> impl Iterator<Item = (i32, PathBuf)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
}

/// Waits until `look` finds something. The limit is generous: it ends a test that would never end.
pub fn wait<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begin = Instant::now();
    loop {
        let why = match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => String::new(),
            Err(error) => format!(": {error:#}"),
        };
        if begin.elapsed() > limit {
            bail!("waited {} s for {what}{why}", limit.as_secs());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
