//! `kennel guest console`: the guest's serial line in this terminal.
//!
//! Three things run at once: a thread that reads stdin (a blocking read cannot be called off, so it is no
//! task), the connection to the guest's host, and the signals. When stdin is a terminal it is raw, every key
//! goes to the guest, and ctrl-] detaches. When it is a pipe its bytes are sent, and what the guest prints is
//! shown until the console ends or the time limit has passed.
//!
//! A connection that breaks (the guest moved, its host died, a daemon was restarted) is made again for as
//! long as the guest is meant to run.

use std::io::Read;
use std::time::Duration;

use futures::{SinkExt, Stream, StreamExt};
use model::{GuestName, GuestPhase};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::output::{note, write_stdout};
use crate::terminal::{self, Raw};

/// ctrl-], as telnet and virsh have it.
const DETACH: u8 = 0x1d;
/// Between two tries to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// How long a guest's console may be away before the command gives up: recovery takes about 10 s.
const RECONNECT_LIMIT: Duration = Duration::from_secs(120);

/// What stdin says.
#[derive(Debug, PartialEq, Eq)]
enum Input {
    Bytes(Vec<u8>),
    /// ctrl-].
    Detach,
}

/// Why a session of the console is over.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// By the person, or by the limit.
    Left(&'static str),
    Signal(&'static str),
    /// The other side is gone.
    Broken(String),
}

/// Splits what was read at ctrl-]; what follows it is dropped.
fn split_at_detach(bytes: &[u8], interactive: bool) -> (Vec<u8>, bool) {
    match bytes.iter().position(|byte| interactive && *byte == DETACH) {
        Some(at) => (bytes[..at].to_vec(), true),
        None => (bytes.to_vec(), false),
    }
}

/// Reads stdin in a thread of its own; the channel closes at the end of the input.
fn read_input(interactive: bool) -> mpsc::Receiver<Input> {
    /// Enough for a paste to flow; a slow guest slows the reader.
    const QUEUE: usize = 16;
    let (sender, receiver) = mpsc::channel(QUEUE);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = [0u8; 4096];
        loop {
            let count = match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            let (bytes, detach) = split_at_detach(&buffer[..count], interactive);
            if !bytes.is_empty() && sender.blocking_send(Input::Bytes(bytes)).is_err() {
                return;
            }
            if detach {
                let _ = sender.blocking_send(Input::Detach);
                return;
            }
        }
    });
    receiver
}
