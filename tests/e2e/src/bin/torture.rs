//! `torture`: a lab of three hosts and six mirrored guests that record, under random real faults.
//!
//! MINUTES=30 says for how long, SEED which row of faults; GUESTS=6 how many guests. What happens is printed as it
//! happens. It fails when a record is lost, a guest has two machines at one epoch, a daemon calls for a person, or not
//! everything is back within a minute after a fault.

use std::time::Duration;

use anyhow::Result;
use e2e::dice::number;
use e2e::lab::Lab;
use e2e::torture::{HOSTS, Torture, VOLUME_DISK};

fn main() -> Result<()> {
    let seed = number("SEED", std::process::id().into())?;
    let (minutes, guests) = (number("MINUTES", 30)?, number("GUESTS", 6)?);
    println!("SEED={seed} MINUTES={minutes} GUESTS={guests}");
    let lab = Lab::up_with("torture", HOSTS, &["--volume-disk", VOLUME_DISK])?;
    let mut torture = Torture::begin(&lab, u32::try_from(guests)?, seed)?;
    torture.strike_for(Duration::from_secs(60 * minutes))?;
    torture.verify()
}
