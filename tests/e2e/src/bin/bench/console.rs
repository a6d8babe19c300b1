//! How long a key that is pressed takes to be seen, through the console of a guest on another host than the one asked.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use api::{Client, ClientConfig, Console, ConsoleEvent};
use e2e::lab::{LIMIT, Lab};
use e2e::wait;

const KEYS: usize = 100;

/// Between two keys, as of somebody who types fast.
const BETWEEN_KEYS: Duration = Duration::from_millis(50);

/// A console that says nothing for so long has said what it had to say.
const QUIET: Duration = Duration::from_millis(500);

/// On a lab of its own.
pub fn run() -> Result<()> {
    let lab = Lab::up("bench-console", 2)?;
    println!("| what | measured |");
    println!("| --- | --- |");
    lab.kennel(&["guest", "create", "typed", "--image", "tiny", "--memory", "128M", "--host", "host1"])?;
    wait("the guest to be up", LIMIT, || {
        Ok(lab.try_kennel(&["guest", "exec", "typed", "--", "true"])?.status.success().then_some(()))
    })?;
    rows(&lab, "typed", "host1", "host2")
}

/// Prints what a key takes.
pub fn rows(lab: &Lab, guest: &str, owner: &str, through: &str) -> Result<()> {
    let (median, worst) = echo(lab, guest, owner, through)?;
    let what = "echo of a key through another host's console";
    println!("| {what}, median of {KEYS} keys | {:.1} ms |", median.as_secs_f64() * 1e3);
    println!("| {what}, worst | {:.1} ms |", worst.as_secs_f64() * 1e3);
    Ok(())
}

/// Median and worst, of a guest that runs on `owner`, through `through`.
fn echo(lab: &Lab, guest: &str, owner: &str, through: &str) -> Result<(Duration, Duration)> {
    let place = lab.guest(guest)?["host"].as_str().unwrap_or_default().to_owned();
    ensure!(
        place == owner && owner != through,
        "{guest} runs on {place}, which is to be asked through {through}"
    );
    let status: serde_json::Value = serde_json::from_str(&lab.lab(&["status", "--json"])?)?;
    let hosts = status["hosts"].as_array().context("the lab's hosts")?;
    let endpoint = hosts.iter().find(|host| host["name"] == through).and_then(|host| host["api"].as_str());
    let endpoints = vec![endpoint.context("the address of the host to be asked")?.to_owned()];
    let config = ClientConfig { endpoints, ..ClientConfig::load(&lab.client_config())? };
    let client = Client::from_config(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut times = runtime.block_on(async {
        let mut console = client.console(&guest.parse()?, false).await?;
        // A prompt, on a line of its own.
        console.send(b"\n").await?;
        while tokio::time::timeout(QUIET, console.receive()).await.is_ok() {}
        let mut times = Vec::new();
        for index in 0..KEYS {
            let key = b'a' + u8::try_from(index % 26)?;
            times.push(press(&mut console, key).await?);
            tokio::time::sleep(BETWEEN_KEYS).await;
        }
        anyhow::Ok(times)
    })?;
    times.sort_unstable();
    Ok((times[KEYS / 2], times[KEYS - 1]))
}

async fn press(console: &mut Console, key: u8) -> Result<Duration> {
    let begin = Instant::now();
    console.send(&[key]).await?;
    loop {
        match tokio::time::timeout(LIMIT, console.receive()).await.context("nothing is echoed")?? {
            ConsoleEvent::Output(bytes) if bytes.contains(&key) => return Ok(begin.elapsed()),
            ConsoleEvent::Output(_) => {}
            ConsoleEvent::Ended(why) => bail!("the console ended: {why}"),
        }
    }
}
