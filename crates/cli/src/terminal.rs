//! The terminal: raw mode that is always undone, and questions to the person in front of it.
//!
//! Raw mode is left on every way out: [`Raw`] leaves it when it is dropped, a panic's hook before the panic's
//! message is printed, and the signals that would end the process are turned into an ordinary return by
//! [`ended_by_signal`].

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::sys::termios::{self, SetArg, Termios};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;
use crate::output::note;

/// What the terminal was like before it was made raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Whether another screen is shown than the one that scrolls.
static SCREEN_TAKEN: AtomicBool = AtomicBool::new(false);

/// While it lives, the terminal passes every key on as it is typed.
#[derive(Debug)]
pub struct Raw(());

impl Raw {
    /// Makes the terminal raw; nothing when stdin is none.
    pub fn enter() -> Result<Option<Raw>, Failure> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let failed = |error| Failure::refused("use the terminal", error, "run it in another terminal");
        let before = termios::tcgetattr(&stdin).map_err(failed)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        if let Err(error) = termios::tcsetattr(&stdin, SetArg::TCSANOW, &raw) {
            restore();
            return Err(failed(error));
        }
        Ok(Some(Raw(())))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Takes the whole screen, without a cursor; [`restore`] gives it back as it was.
pub fn enter_screen() {
    SCREEN_TAKEN.store(true, Ordering::Relaxed);
    put("\x1b[?1049h\x1b[?25l");
}

fn put(text: &str) {
    let mut stdout = std::io::stdout().lock();
    // The terminal may be gone already, as after a hang-up.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Puts the terminal back as it was; nothing when it was not changed.
pub fn restore() {
    if SCREEN_TAKEN.swap(false, Ordering::Relaxed) {
        put("\x1b[?25h\x1b[?1049l");
    }
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        // The terminal may be gone already, as after a hang-up.
        let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &before);
    }
}

/// Makes a panic one sentence, printed to a terminal that is in order.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        restore();
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let what =
            text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        note(&format!(
            "kennel: cannot go on: a mistake in kennel itself ({what}, at {place}); please report it with the command that you ran"
        ));
    }));
}

/// Returns with the signal's name when somebody wants to end the process.
pub async fn ended_by_signal() -> &'static str {
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hang_up), Ok(mut quit)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
        signal(SignalKind::quit()),
    ) else {
        // Without handlers the signals end the process by themselves.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
        _ = hang_up.recv() => "SIGHUP",
        _ = quit.recv() => "SIGQUIT",
    }
}

/// Asks before something is destroyed. `consequences` are said first; `yes` was given on the command line.
pub fn confirm(asked: &str, consequences: &[String], yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    for consequence in consequences {
        note(consequence);
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::refused(
            asked,
            "nobody can be asked, because the input is not a terminal",
            "add --yes if you are sure",
        ));
    }
    let mut stderr = std::io::stderr().lock();
    let _ = write!(stderr, "Do it? Type yes: ");
    let _ = stderr.flush();
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    match (read, answer.trim()) {
        (Ok(_), "yes" | "y" | "YES") => Ok(()),
        (Ok(_) | Err(_), _) => {
            Err(Failure::refused(asked, "you did not say yes", "nothing was changed; run it again to go on"))
        }
    }
}

/// The first line of the input.
pub fn first_line(asked: &str) -> Result<String, Failure> {
    let mut line = String::new();
    match std::io::stdin().read_line(&mut line) {
        Ok(1..) => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
        Ok(_) => Err(Failure::refused(asked, "the input is empty", "give the password as its first line")),
        Err(error) => Err(Failure::refused(asked, error, "give the password as the input's first line")),
    }
}

/// Asks for a password twice, without showing it.
pub fn new_password(asked: &str) -> Result<String, Failure> {
    if !std::io::stdin().is_terminal() {
        let instead = "add --password-stdin, and give it as the input's first line";
        return Err(Failure::refused(asked, "nobody can be asked for a password", instead));
    }
    let (first, second) = (hidden(asked, "Password: ")?, hidden(asked, "Once more: ")?);
    if first == second {
        return Ok(first);
    }
    Err(Failure::refused(asked, "the two passwords differ", "nothing was changed; try again"))
}

/// Asks for something that is not shown, or reads it from the next line of the input.
pub fn secret(asked: &str, name: &str, from_input: bool) -> Result<String, Failure> {
    if from_input {
        return first_line(asked);
    }
    if !std::io::stdin().is_terminal() {
        let instead = "add --secrets-stdin, and give the secrets as the input's lines";
        return Err(Failure::refused(asked, format!("nobody can be asked for the {name}"), instead));
    }
    hidden(asked, &format!("{name}: "))
}

fn hidden(asked: &str, prompt: &str) -> Result<String, Failure> {
    let stdin = std::io::stdin();
    let failed = |error| Failure::refused(asked, error, "run it in another terminal");
    let before = termios::tcgetattr(&stdin).map_err(failed)?;
    let mut silent = before.clone();
    silent.local_flags.remove(termios::LocalFlags::ECHO);
    silent.local_flags.insert(termios::LocalFlags::ECHONL);
    let mut stderr = std::io::stderr().lock();
    let _ = write!(stderr, "{prompt}");
    let _ = stderr.flush();
    // `restore` puts it back whatever ends the reading.
    *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
    let set = termios::tcsetattr(&stdin, SetArg::TCSAFLUSH, &silent).map_err(failed);
    let line = set.and_then(|()| first_line(asked));
    restore();
    line
}
