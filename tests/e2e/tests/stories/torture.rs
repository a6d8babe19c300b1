//! Whatever fails at random, nothing is lost; `make torture` does the same for as long as it is asked.

use std::time::Duration;

use e2e::dice::number;
use e2e::lab::Lab;
use e2e::torture::{HOSTS, Torture, VOLUME_DISK};

#[test]
fn two_minutes_of_random_faults_lose_nothing() {
    let seed = number("SEED", std::process::id().into()).unwrap();
    println!("SEED={seed} makes these choices again");
    let lab = Lab::up_with("e2e-torture", HOSTS, &["--volume-disk", VOLUME_DISK]).unwrap();
    let mut torture = Torture::begin(&lab, 3, seed).unwrap();
    torture.strike_for(Duration::from_secs(120)).unwrap();
    torture.verify().unwrap();
}
