//! One TCP connection to a guest that echoes, kept open for a while: says how many lines came back and how long
//! the longest silence was, and fails when the connection breaks. Run in the network that the guest is reached from.
//!
//!     probe 10.90.0.2:7 20

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

const EVERY: Duration = Duration::from_millis(5);

/// A guest that is silent for so long has lost the connection.
const SILENCE_MAX: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().collect();
    let address = words.get(1).context("usage: probe ADDRESS:PORT SECONDS")?;
    let seconds: u64 = words.get(2).context("usage: probe ADDRESS:PORT SECONDS")?.parse()?;
    let mut stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    println!("connected");
    let (begin, mut longest, mut count) = (Instant::now(), Duration::ZERO, 0u64);
    while begin.elapsed() < Duration::from_secs(seconds) {
        let sent = Instant::now();
        writeln!(stream, "{count}").context("send")?;
        let mut line = String::new();
        answers.read_line(&mut line).context("the guest does not answer on this connection any more")?;
        ensure!(line.trim() == count.to_string(), "sent {count}, and {line:?} came back");
        longest = longest.max(sent.elapsed());
        count += 1;
        std::thread::sleep(EVERY);
    }
    println!("{count} lines, longest silence {} ms", longest.as_millis());
    Ok(())
}
