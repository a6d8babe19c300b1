//! Measures what docs/performance.md states, on a lab of three hosts, and prints it as tables.
//!
//! ```text
//! bench              writes, mirrored and not; the daemons at rest; a key's echo
//! bench console      a key's echo alone
//! bench failover     losses of a guest's host, split into their parts
//! bench migration    moves of a running guest, beside plain QEMU
//! bench writes       a guest's writes, beside plain QEMU and its own mirror job
//! ```

mod console;
mod failover;
mod migration;
mod plain;
mod rest;
mod writes;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => rest::run(),
        ["console"] => console::run(),
        ["failover"] => failover::run(),
        ["migration"] => migration::run(),
        ["writes"] => writes::run(),
        other => {
            bail!(
                "there is no benchmark {other:?}: say nothing, `console`, `failover`, `migration` or `writes`"
            )
        }
    }
}
