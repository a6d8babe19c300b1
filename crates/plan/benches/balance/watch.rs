//! Running a program and counting what it takes.
//!
//! The kernel counts the processor time and the largest memory of the children that a process waited for, all of
//! them together. So each program is run by a process of its own, which runs nothing else: this benchmark, started
//! once more with the word [`WATCH`]. It says at the end of its error output what the kernel counted.

use std::error::Error;
use std::ffi::OsStr;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use nix::sys::resource::{Resource, UsageWho, getrusage, setrlimit};

/// The first argument of the process that watches.
pub const WATCH: &str = "watch";
const NO_LIMIT: &str = "none";

/// What a program took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Seconds of processor time, of all threads, user and system.
    pub cpu: f64,
    /// Seconds.
    pub wall: f64,
    /// The most memory at a time, bytes.
    pub memory: u64,
}

pub struct Ran {
    pub cost: Cost,
    /// What it printed; `None`: it was ended, or failed.
    pub output: Option<String>,
}

/// Runs a program. The limit is in seconds of processor time; whoever uses more is ended.
pub fn run(program: &OsStr, arguments: &[&OsStr], limit: Option<u64>) -> Result<Ran, Box<dyn Error>> {
    let limit = limit.map_or(NO_LIMIT.to_owned(), |seconds| seconds.to_string());
    let output = Command::new(std::env::current_exe()?)
        .args([OsStr::new(WATCH), OsStr::new(&limit), program])
        .args(arguments)
        .stdin(Stdio::null())
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let numbers = errors.lines().last().unwrap_or_default().split_whitespace();
    let numbers: Vec<f64> = numbers.filter_map(|number| number.parse().ok()).collect();
    let [cpu, wall, memory] = numbers.as_slice() else {
        return Err(format!("run {}: {errors}", program.display()).into());
    };
    let output = output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned());
    Ok(Ran { cost: Cost { cpu: *cpu, wall: *wall, memory: *memory as u64 }, output })
}

/// The process that watches: `LIMIT PROGRAM ARGUMENT...`.
pub fn watch(arguments: &[String]) -> Result<ExitCode, Box<dyn Error>> {
    let [limit, program, arguments @ ..] = arguments else { return Err("watch what?".into()) };
    if limit != NO_LIMIT {
        let seconds = limit.parse()?;
        setrlimit(Resource::RLIMIT_CPU, seconds, seconds + 1)?;
    }
    let begun = Instant::now();
    let status = Command::new(program).args(arguments).status()?;
    let wall = begun.elapsed().as_secs_f64();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    let cpu = seconds(usage.user_time()) + seconds(usage.system_time());
    // Linux gives kibibytes.
    eprintln!("\n{cpu} {wall} {}", usage.max_rss() * 1024);
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
