//! `kennel guest console`: the guest's serial line in this terminal.
//!
//! Three things run at once: a thread that reads stdin (a blocking read cannot be called off, so it is no
//! task), the connection to the guest's host, and the signals. When stdin is a terminal it is raw, every key
//! goes to the guest, and ctrl-] detaches. When it is a pipe its bytes are sent, and what the guest prints is
//! shown until the console ends or the time limit has passed.
//!
//! A connection that breaks (the guest moved, its host died, a daemon was restarted) is made again for as
//! long as the guest is meant to run.

use std::io::{IsTerminal, Read};
use std::time::Duration;

use api::client::ConsoleSender;
use api::{Client, ClientError, ConsoleEvent};
use model::{GuestName, PowerWish};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::output::{note, write_stdout};
use crate::terminal::{self, Raw};

/// ctrl-], as telnet and virsh have it.
const DETACH: u8 = 0x1d;
/// Between two tries to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// How long a guest's console may be away before the command gives up. Recovery takes about 10 s; a guest
/// that waits for room takes longer, and its operator would rather be told.
const RECONNECT_LIMIT: Duration = Duration::from_secs(120);

/// What stdin says.
#[derive(Debug, PartialEq, Eq)]
enum Input {
    Bytes(Vec<u8>),
    /// ctrl-].
    Detach,
}

/// Why a connection to the console is over.
#[derive(Debug)]
enum Ended {
    /// By the person or the time limit, as named.
    Left(&'static str),
    /// By a signal, as named.
    Signal(&'static str),
    /// The other side is gone, and why.
    Broken(String),
    /// stdout or the like failed.
    Failed(Failure),
}

/// Everything that outlives one connection.
struct Session {
    input: mpsc::Receiver<Input>,
    /// Nothing more will be typed.
    input_ended: bool,
    limit: Option<Duration>,
    /// When the command ends by itself.
    deadline: Option<Instant>,
    /// The terminal is raw, and a line break alone does not return the carriage.
    raw: bool,
}

impl Session {
    fn begin(seconds: Option<u32>, raw: bool, interactive: bool) -> Self {
        let limit = seconds.map(|seconds| Duration::from_secs(seconds.into()));
        Self {
            input: read_input(interactive),
            input_ended: false,
            limit,
            deadline: limit.filter(|_| interactive).map(|limit| Instant::now() + limit),
            raw,
        }
    }

    fn say(&self, text: &str) {
        if self.raw { note(&format!("\r\n[kennel: {text}]\r")) } else { note(&format!("[kennel: {text}]")) }
    }

    fn end_of_input(&mut self) {
        self.input_ended = true;
        if self.deadline.is_none() {
            self.deadline = self.limit.map(|limit| Instant::now() + limit);
        }
    }
}

/// Attaches this terminal to a guest's console until somebody ends it.
pub async fn attach(client: &Client, guest: &GuestName, seconds: Option<u32>) -> Result<(), Failure> {
    let interactive = std::io::stdin().is_terminal();
    // Refusals (no such guest) come before the terminal is touched.
    let mut console = Some(client.console(guest, false).await?);
    note(&if interactive {
        format!("[kennel: the console of {guest}; ctrl-] detaches, return wakes it up]")
    } else {
        format!("[kennel: the console of {guest}; ctrl-c ends it]")
    });
    let raw = Raw::enter()?;
    let mut session = Session::begin(seconds, raw.is_some(), interactive);
    let signal = terminal::ended_by_signal();
    tokio::pin!(signal);
    loop {
        let connected = match console.take() {
            Some(console) => console,
            None => tokio::select! {
                again = reconnect(client, guest, &mut session) => match again? {
                    Some(console) => console,
                    None => break,
                },
                name = &mut signal => return Err(interrupted(raw, name)),
            },
        };
        let ended = tokio::select! {
            ended = talk(connected, &mut session) => ended,
            name = &mut signal => Ended::Signal(name),
        };
        match ended {
            Ended::Left(why) => {
                session.say(&format!("{why}: detached; the guest goes on"));
                break;
            }
            Ended::Signal(name) => return Err(interrupted(raw, name)),
            Ended::Broken(why) => session.say(&format!("the console ended: {why}")),
            Ended::Failed(failure) => return Err(failure),
        }
    }
    drop(raw);
    Ok(())
}

/// The terminal is in order again before anything is said.
fn interrupted(raw: Option<Raw>, signal: &str) -> Failure {
    drop(raw);
    Failure::Interrupted(format!("{signal}: detached; the guest goes on"))
}

/// Carries bytes in both directions until something ends.
async fn talk(console: api::Console, session: &mut Session) -> Ended {
    let (mut sender, mut receiver) = console.split();
    // Reading goes on while a send waits: a guest that prints much and reads nothing must not block itself.
    let reading = async {
        loop {
            match receiver.receive().await {
                Ok(ConsoleEvent::Output(bytes)) => {
                    if let Err(failure) = write_stdout(&bytes) {
                        return Ended::Failed(failure);
                    }
                }
                Ok(ConsoleEvent::Ended(why)) => return Ended::Broken(why),
                Err(error) => return Ended::Broken(error.to_string()),
            }
        }
    };
    tokio::select! {
        ended = reading => ended,
        ended = send_input(&mut sender, session) => {
            sender.close().await;
            ended
        }
    }
}

/// Sends what is typed. Ends when the person detaches or the time is over.
async fn send_input(sender: &mut ConsoleSender, session: &mut Session) -> Ended {
    loop {
        let input = tokio::select! {
            input = session.input.recv(), if !session.input_ended => input,
            () = until(session.deadline) => return Ended::Left("the time is over"),
        };
        match input {
            Some(Input::Bytes(bytes)) => {
                if let Err(error) = sender.send(&bytes).await {
                    return Ended::Broken(error.to_string());
                }
            }
            Some(Input::Detach) => return Ended::Left("ctrl-]"),
            None => session.end_of_input(),
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Connects again once the guest runs again, here or elsewhere. `None`: it is not meant to, or the person
/// has left.
async fn reconnect(
    client: &Client,
    guest: &GuestName,
    session: &mut Session,
) -> Result<Option<api::Console>, Failure> {
    let give_up = Instant::now() + RECONNECT_LIMIT;
    let mut said = None;
    loop {
        let why = match client.guest(guest).await {
            Ok(view) if view.spec.deleting || view.spec.power == PowerWish::Stopped => {
                session.say(&format!("{guest} is {}, and is not meant to run; good-bye", view.phase));
                return Ok(None);
            }
            Ok(view) => match client.console(guest, false).await {
                Ok(console) => {
                    let place = view.host.map(|host| format!(" on {host}")).unwrap_or_default();
                    session.say(&format!("connected again{place}"));
                    return Ok(Some(console));
                }
                Err(_) => format!("{guest} is {}; waiting for it", view.phase),
            },
            Err(ClientError::Refused(problem)) if problem.status < 500 => {
                session.say(&problem.detail);
                return Ok(None);
            }
            Err(error) => format!("{error}; trying again"),
        };
        if Instant::now() > give_up {
            return Err(Failure::refused(
                format!("connect to the console of '{guest}' again"),
                format!("it has not come back within {} s", RECONNECT_LIMIT.as_secs()),
                format!("look at `kennel guest show {guest}`"),
            ));
        }
        if said.as_ref() != Some(&why) {
            session.say(&why);
            said = Some(why);
        }
        if left_meanwhile(session).await {
            return Ok(None);
        }
    }
}

/// Waits a moment; whether the person detached or ran out of time meanwhile. What is typed into nothing is
/// dropped.
async fn left_meanwhile(session: &mut Session) -> bool {
    let next = Instant::now() + RECONNECT_PAUSE;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(next) => return false,
            () = until(session.deadline) => return true,
            input = session.input.recv(), if !session.input_ended => match input {
                Some(Input::Detach) => return true,
                Some(Input::Bytes(_)) => {}
                None => session.end_of_input(),
            },
        }
    }
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
                // A receiver that is gone has left already.
                let _ = sender.blocking_send(Input::Detach);
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], interactive: bool, sent: &[u8], detached: bool) {
        assert_eq!(split_at_detach(bytes, interactive), (sent.to_vec(), detached));
    }

    #[test]
    fn ctrl_bracket_detaches_a_person_but_no_pipe() {
        check(b"ls\r", true, b"ls\r", false);
        check(b"ls\r\x1dmore", true, b"ls\r", true);
        check(b"\x1d", true, b"", true);
        check(b"a\x1db", false, b"a\x1db", false);
        check(b"\x03\x04", true, b"\x03\x04", false);
    }
}
