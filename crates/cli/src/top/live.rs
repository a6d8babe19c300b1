//! The cluster and the keys on one side, the terminal on the other.

use std::time::Duration;

use api::{Client, ClientError, ClusterStatus};
use futures::StreamExt;
use model::HostUsage;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::Rect;
use tokio::sync::mpsc;

use super::draw::{self, Paint};
use super::{Key, Top};
use crate::failure::Failure;
use crate::output::say;
use crate::terminal::{self, Raw};

/// Between two questions for what is used. Hosts measure every five seconds.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Between two drawings when the cluster is busy; keys are answered at once.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// Of a text that goes to no terminal.
const WIDTH: u16 = 120;

const ASKED: &str = "show the cluster at a glance";

/// What is asked again and again.
#[derive(Debug)]
struct Asked {
    usages: Vec<HostUsage>,
    status: ClusterStatus,
}

/// Prints one frame, as plain text.
pub async fn once(client: &Client, width: Option<u16>, top: &mut Top) -> Result<(), Failure> {
    let (hosts, guests, jobs) = tokio::try_join!(client.hosts(), client.guests(), client.jobs())?;
    top.take(api::WatchEvent::Snapshot(hosts), |top| &mut top.hosts);
    top.take(api::WatchEvent::Snapshot(guests), |top| &mut top.guests);
    top.take(api::WatchEvent::Snapshot(jobs), |top| &mut top.jobs);
    let Asked { usages, status } = ask(client).await?;
    top.measured(usages);
    top.status = Some(status);
    say(&text(top, width.unwrap_or(WIDTH)))
}

/// All of it, without blanks at the ends of lines and without empty lines at the end.
pub fn text(top: &Top, width: u16) -> String {
    let area = Rect::new(0, 0, width, draw::height(top));
    let mut buffer = Buffer::empty(area);
    draw::draw(top, Paint { coloured: false }, true, area, &mut buffer);
    let mut text = String::new();
    for y in area.rows() {
        let line: String = y
            .columns()
            .filter_map(|cell| buffer.cell(cell.as_position()))
            .map(|cell| cell.symbol())
            .collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

async fn ask(client: &Client) -> Result<Asked, ClientError> {
    let (usages, status) = tokio::try_join!(client.usages(), client.cluster_status())?;
    Ok(Asked { usages, status })
}

/// Shows the cluster until somebody has seen enough.
pub async fn watch(client: &Client, coloured: bool, top: &mut Top) -> Result<(), Failure> {
    // Before the screen is taken: a cluster that cannot be reached is told in the ordinary way.
    let first = ask(client).await?;
    top.measured(first.usages);
    top.status = Some(first.status);
    let Some(_raw) = Raw::enter()? else {
        let instead = "run it in a terminal, or add --once";
        return Err(Failure::refused(ASKED, "there is no terminal to show it on", instead));
    };
    terminal::enter_screen();
    let failed = |error: std::io::Error| Failure::refused(ASKED, error, "run it in another terminal");
    let mut screen = Terminal::new(CrosstermBackend::new(std::io::stdout())).map_err(failed)?;
    let paint = Paint { coloured };
    let mut keys = keys();
    let mut asked = asks(client.clone());
    let (mut hosts, mut guests, mut jobs) =
        (client.watch_hosts(), client.watch_guests(), client.watch_jobs());
    let mut ended = std::pin::pin!(terminal::ended_by_signal());
    let mut ticks = tokio::time::interval(DRAW_EVERY);
    let mut fresh = true;
    loop {
        let mut draw_now = false;
        tokio::select! {
            Some(event) = hosts.next() => top.take(event?, |top| &mut top.hosts),
            Some(event) = guests.next() => top.take(event?, |top| &mut top.guests),
            Some(event) = jobs.next() => top.take(event?, |top| &mut top.jobs),
            Some(answer) = asked.recv() => match answer {
                Ok(Asked { usages, status }) => {
                    top.measured(usages);
                    top.status = Some(status);
                    top.broken = None;
                }
                Err(error) => top.broken = Some(error.to_string()),
            },
            key = keys.recv() => match key {
                Some(Some(key)) if !top.press(key) => return Ok(()),
                Some(_) => draw_now = true,
                None => return Ok(()),
            },
            signal = &mut ended => return Err(Failure::Interrupted(format!("ended by {signal}"))),
            _ = ticks.tick() => {
                draw_now = fresh;
                fresh = false;
                if !draw_now {
                    continue;
                }
            }
        }
        if draw_now {
            let drawn = screen.draw(|frame| draw::draw(top, paint, false, frame.area(), frame.buffer_mut()));
            drawn.map_err(failed)?;
        } else {
            fresh = true;
        }
    }
}

/// Asks for ever.
fn asks(client: Client) -> mpsc::Receiver<Result<Asked, ClientError>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(ASK_EVERY).await;
            if sender.send(ask(&client).await).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// What is typed; `None` for what only asks for a new drawing. A thread, because a blocking read cannot be called off.
fn keys() -> mpsc::Receiver<Option<Key>> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(key_of(&event)).is_err() {
                return;
            }
        }
    });
    receiver
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a keyboard has more keys than mean something here")]
fn key_of(event: &Event) -> Option<Key> {
    let Event::Key(key) = event else { return None };
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Interrupt),
        KeyCode::Char(letter) => Some(Key::Char(letter)),
        KeyCode::Up => Some(Key::Up),
        KeyCode::Down => Some(Key::Down),
        KeyCode::PageUp => Some(Key::PageUp),
        KeyCode::PageDown => Some(Key::PageDown),
        KeyCode::Home => Some(Key::Home),
        KeyCode::Enter => Some(Key::Enter),
        KeyCode::Esc => Some(Key::Escape),
        KeyCode::Backspace => Some(Key::Backspace),
        _ => None,
    }
}
