//! What concerns a running machine: its console, programs inside it, and promises about it.
//!
//! Only the host that runs a guest can reach into it. A host that is asked for another's guest passes the
//! request on to that host, marked as passed on; a marked request is never passed on again.

use std::time::Duration;

use api::{
    Blob, ClientError, Console, ConsoleEvent, ExecAnswer, ExecRequest, FORWARDED_HEADER, PromiseAnswer,
    PromiseRequest,
};
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::{Extension, Json};
use host::HostError;
use model::{ClusterView, GuestName, GuestPhase, Host};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::Shared;
use super::answer::{Answer, Body, Refused, named};
use super::auth::Caller;

/// How often an open console shows that it is alive; clients give up after twice as long.
const PING_EVERY: Duration = Duration::from_secs(5);

/// How much of a console's output is sent at once.
const CHUNK: usize = 16 << 10;

/// A close frame holds 123 bytes of reason.
const CLOSE_REASON_MAX: usize = 120;

/// Who can reach into a guest.
enum Place {
    Here(Arc<dyn host::Machine>),
    There(api::Client, Host),
}

fn place(backend: &Shared, guest: &GuestName, headers: &HeaderMap, asked: &str) -> Answer<Place> {
    let view = backend.state().view();
    let (spec, host) = owner(&view, guest, asked)?;
    let not_running =
        |why: String| Refused::by_state(asked, why, format!("`kennel guest show {guest}` tells more"));
    if &host.name == backend.me() {
        let phase = || api::GuestView::of(&view, spec).phase;
        let machine = backend.machine(spec.id);
        return machine.map(Place::Here).ok_or_else(|| match phase() {
            GuestPhase::Stopped => Refused::by_state(
                asked,
                "it is stopped",
                format!("start it with `kennel guest start {guest}`"),
            ),
            other @ (GuestPhase::Waiting
            | GuestPhase::Preparing
            | GuestPhase::Starting
            | GuestPhase::Running
            | GuestPhase::Stopping
            | GuestPhase::Failed
            | GuestPhase::Unknown
            | GuestPhase::Deleting) => not_running(format!("it has no machine now, it is {other}")),
        });
    }
    if headers.contains_key(FORWARDED_HEADER) {
        return Err(not_running(format!("it is on the way to host {}", host.name)));
    }
    if !view.is_live(&host.name) {
        return Err(not_running(format!("its host {} is lost", host.name)));
    }
    let client = backend.peers().to(host).map_err(|error| Refused::failed(asked, error))?;
    Ok(Place::There(client, host.clone()))
}

fn owner<'a>(
    view: &'a ClusterView,
    guest: &GuestName,
    asked: &str,
) -> Answer<(&'a model::GuestSpec, &'a Host)> {
    let spec = view.guests.get(guest).ok_or_else(|| Refused::not_found(asked, "guest", guest))?;
    let assignment = view.assignments.get(guest).filter(|a| a.guest_id == spec.id);
    let host = assignment.and_then(|a| view.hosts.get(&a.host));
    let waiting =
        || Refused::by_state(asked, "it has no host yet", format!("`kennel guest show {guest}` says why"));
    Ok((spec, host.ok_or_else(waiting)?))
}

/// What became of a request that was passed on.
fn passed_on(asked: &str, host: &Host, error: ClientError) -> Refused {
    match error {
        ClientError::Refused(problem) => Refused(problem),
        ClientError::Unreachable { .. }
        | ClientError::Interrupted { .. }
        | ClientError::Protocol(_)
        | ClientError::Local(_) => {
            let why = format!("its host {} does not answer: {error}", host.name);
            Refused::host_unreachable(
                asked,
                why,
                "try again; if the host is lost, the guest comes back elsewhere",
            )
        }
    }
}

pub async fn exec(
    State(backend): State<Shared>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Body(request): Body<ExecRequest>,
) -> Answer<Json<ExecAnswer>> {
    let guest: GuestName = named(&name, "guest")?;
    let asked = format!("run a command in the guest '{guest}'");
    if request.command.is_empty() {
        return Err(Refused::invalid(&asked, "there is no command", "write one after `--`"));
    }
    match place(&backend, &guest, &headers, &asked)? {
        Place::Here(machine) => {
            let result = machine.exec(&request.command, &request.input.0).await;
            let result = result.map_err(|error| match error {
                HostError::Conflict(why) => {
                    Refused::by_state(&asked, why, "name a program that it has, if need be with its path")
                }
                other @ (HostError::NotFound(_) | HostError::TimedOut(_) | HostError::Failed(_)) => {
                    Refused::of_host(&asked, other)
                }
            })?;
            let (stdout, stderr) = (Blob(result.stdout), Blob(result.stderr));
            Ok(Json(ExecAnswer { exit_status: result.exit_status, stdout, stderr }))
        }
        Place::There(client, host) => {
            let answer = client.exec(&guest, &request).await;
            answer.map(Json).map_err(|error| passed_on(&asked, &host, error))
        }
    }
}

pub async fn console(
    State(backend): State<Shared>,
    Path(name): Path<String>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Answer<Response> {
    let guest: GuestName = named(&name, "guest")?;
    let asked = format!("open the console of the guest '{guest}'");
    let place = place(&backend, &guest, &headers, &asked)?;
    let upgrade = upgrade.map_err(|rejection| {
        Refused::invalid(&asked, rejection.body_text(), "open it as a WebSocket, over HTTP/1.1")
    })?;
    match place {
        Place::Here(machine) => {
            let serial = machine.serial().await.map_err(|error| Refused::of_host(&asked, error))?;
            Ok(upgrade.on_upgrade(|socket| join_serial(socket, serial)))
        }
        Place::There(client, host) => {
            let console = client.console(&guest).await.map_err(|error| passed_on(&asked, &host, error))?;
            Ok(upgrade.on_upgrade(|socket| join_console(socket, console)))
        }
    }
}

/// Between a client and a serial port, until one of them ends.
async fn join_serial(mut socket: WebSocket, mut serial: UnixStream) {
    let mut buffer = vec![0; CHUNK];
    let mut pings = tokio::time::interval(PING_EVERY);
    let reason = loop {
        tokio::select! {
            read = serial.read(&mut buffer) => match read {
                Ok(0) => break "the guest's machine ended".to_owned(),
                Ok(length) => {
                    if send(&mut socket, Message::Binary(buffer[..length].to_vec().into())).await.is_err() {
                        return;
                    }
                }
                Err(error) => break format!("the serial port failed: {error}"),
            },
            message = socket.recv() => match typed(message) {
                Typed::Bytes(bytes) => {
                    if let Err(error) = serial.write_all(&bytes).await {
                        break format!("the serial port failed: {error}");
                    }
                }
                Typed::Nothing => {}
                Typed::End => return,
            },
            _ = pings.tick() => {
                if send(&mut socket, Message::Ping(Vec::new().into())).await.is_err() {
                    return;
                }
            }
        }
    };
    close(socket, reason).await;
}

/// Between a client and the console on another host, until one of them ends.
async fn join_console(mut socket: WebSocket, console: Console) {
    let (mut keyboard, mut screen) = console.split();
    let mut pings = tokio::time::interval(PING_EVERY);
    // Its own task, because reading is not to be broken off half way.
    let (sender, mut outputs) = tokio::sync::mpsc::channel(1);
    let reader = tokio::spawn(async move {
        loop {
            let event = screen.receive().await.unwrap_or_else(|error| ConsoleEvent::Ended(error.to_string()));
            let ended = matches!(event, ConsoleEvent::Ended(_));
            if sender.send(event).await.is_err() || ended {
                return;
            }
        }
    });
    let reason = loop {
        tokio::select! {
            event = outputs.recv() => match event {
                Some(ConsoleEvent::Output(bytes)) => {
                    if send(&mut socket, Message::Binary(bytes.into())).await.is_err() {
                        break None;
                    }
                }
                Some(ConsoleEvent::Ended(why)) => break Some(why),
                None => break Some("the guest's host ended it".to_owned()),
            },
            message = socket.recv() => match typed(message) {
                Typed::Bytes(bytes) => {
                    if let Err(error) = keyboard.send(&bytes).await {
                        break Some(error.to_string());
                    }
                }
                Typed::Nothing => {}
                Typed::End => break None,
            },
            _ = pings.tick() => {
                if send(&mut socket, Message::Ping(Vec::new().into())).await.is_err() {
                    break None;
                }
            }
        }
    };
    reader.abort();
    keyboard.close().await;
    if let Some(reason) = reason {
        close(socket, reason).await;
    }
}

/// What a client sent.
enum Typed {
    Bytes(Vec<u8>),
    Nothing,
    End,
}

fn typed(message: Option<Result<Message, axum::Error>>) -> Typed {
    match message {
        Some(Ok(Message::Binary(bytes))) => Typed::Bytes(bytes.to_vec()),
        Some(Ok(Message::Text(text))) => Typed::Bytes(text.as_bytes().to_vec()),
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Typed::Nothing,
        Some(Ok(Message::Close(_)) | Err(_)) | None => Typed::End,
    }
}

async fn send(socket: &mut WebSocket, message: Message) -> Result<(), axum::Error> {
    socket.send(message).await
}

async fn close(mut socket: WebSocket, reason: String) {
    let cut = reason.char_indices().map(|(at, _)| at).take_while(|at| *at <= CLOSE_REASON_MAX).last();
    let short = if reason.len() > CLOSE_REASON_MAX { &reason[..cut.unwrap_or(0)] } else { &reason };
    let frame = CloseFrame { code: close_code::NORMAL, reason: short.to_owned().into() };
    // The client may be gone already, which is as good.
    let _ = socket.send(Message::Close(Some(frame))).await;
}

/// For the owner of a guest whose secondary replicas are here.
pub async fn promise(
    State(backend): State<Shared>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<PromiseRequest>,
) -> Answer<Json<PromiseAnswer>> {
    let promised_ms = match &caller {
        Caller::Host(asker) => backend.promise(asker, &request).await,
        Caller::Operator { .. } => 0,
    };
    Ok(Json(PromiseAnswer { host: backend.me().clone(), promised_ms }))
}
