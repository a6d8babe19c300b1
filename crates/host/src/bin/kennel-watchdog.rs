//! `kennel-watchdog`: ends what must not outlive its host's session, whatever kenneld does. See `host::watchdog`.

use std::process::ExitCode;

use host::watchdog::{Arguments, main as watch};

fn main() -> ExitCode {
    match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => ExitCode::from(watch(&arguments)),
        Err(why) => {
            eprintln!("kennel-watchdog: {why}");
            ExitCode::from(2)
        }
    }
}
