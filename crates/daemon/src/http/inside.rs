//! What concerns a running machine: its console, programs inside it, and promises about it.
//!
//! Only the host that runs a guest can reach into it. A host that is asked for another's guest passes the
//! request on to that host, marked as passed on; a marked request is never passed on again.

use std::time::Duration;

use api::{
    Blob, ClientError, Console, ConsoleEvent, ConsoleTicket, EndConnections, ExecAnswer, ExecRequest,
    FORWARDED_HEADER, HashAnswer, HashRequest, PromiseAnswer, PromiseRequest,
};
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::{Extension, Json};
use bytes::Bytes;
use host::HostError;
use model::{ClusterView, GuestName, GuestPhase, Host};
use std::sync::Arc;

use super::Shared;
use super::answer::{Answer, Body, Refused, named};
use super::auth::{Caller, Session};
use super::serial::{Serials, Viewer};
use super::tickets::{self, Tickets};

/// How often an open console shows that it is alive; clients give up after twice as long.
const PING_EVERY: Duration = Duration::from_secs(5);

/// A close frame holds 123 bytes of reason.
const CLOSE_REASON_MAX: usize = 120;

/// Who can reach into a guest.
pub(super) enum Place {
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
            | GuestPhase::Paused
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
pub(super) fn passed_on(asked: &str, host: &Host, error: ClientError) -> Refused {
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

/// What this host knows of the consoles that it opens.
#[derive(Debug, Default)]
pub struct Consoles {
    tickets: Tickets,
    serials: Serials,
}

/// A request for a console or a screen, as it comes.
#[derive(FromRequestParts)]
#[from_request(state(Shared))]
pub struct Visit {
    #[from_request(via(State))]
    backend: Shared,
    #[from_request(via(Path))]
    name: String,
    session: Option<Extension<Session>>,
    #[from_request(via(Extension))]
    pub(super) consoles: Arc<Consoles>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
}

/// A visit that nothing is in the way of.
pub(super) struct Admitted {
    pub guest: GuestName,
    pub asked: String,
    pub place: Place,
    pub upgrade: WebSocketUpgrade,
}

impl Visit {
    /// `what`: as in "console".
    pub(super) fn admit(self, what: &str, ticket: Option<&String>) -> Answer<Admitted> {
        let guest: GuestName = named(&self.name, "guest")?;
        let asked = format!("open the {what} of the guest '{guest}'");
        // Whoever shows a token needs no ticket; a cookie comes along with whatever a browser is made to open.
        match ticket {
            Some(ticket) => self.consoles.tickets.take(ticket, &guest)?,
            None if self.session.is_some() => return Err(tickets::none_shown()),
            None => {}
        }
        let place = place(&self.backend, &guest, &self.headers, &asked)?;
        let upgrade = self.upgrade.map_err(|rejection| {
            Refused::invalid(&asked, rejection.body_text(), "open it as a WebSocket, over HTTP/1.1")
        })?;
        Ok(Admitted { guest, asked, place, upgrade })
    }
}

#[derive(Debug, serde::Deserialize)]
pub struct ConsoleQuery {
    ticket: Option<String>,
    /// Begin with what was said last.
    #[serde(default)]
    scroll_back: bool,
}

/// Says what is in the way before a WebSocket is opened, which could not.
pub async fn console_ticket(
    State(backend): State<Shared>,
    Path(name): Path<String>,
    Extension(consoles): Extension<Arc<Consoles>>,
    headers: HeaderMap,
) -> Answer<(StatusCode, Json<ConsoleTicket>)> {
    let guest: GuestName = named(&name, "guest")?;
    place(&backend, &guest, &headers, &format!("open the console of the guest '{guest}'"))?;
    Ok((StatusCode::CREATED, Json(consoles.tickets.give(&guest))))
}

pub async fn console(Query(query): Query<ConsoleQuery>, visit: Visit) -> Answer<Response> {
    let consoles = visit.consoles.clone();
    let Admitted { guest, asked, place, upgrade } = visit.admit("console", query.ticket.as_ref())?;
    match place {
        Place::Here(machine) => {
            let viewer = consoles.serials.join(machine.label().id, &*machine).await;
            let viewer = viewer.map_err(|error| Refused::of_host(&asked, error))?;
            Ok(upgrade.on_upgrade(move |socket| join_serial(socket, viewer, query.scroll_back)))
        }
        Place::There(client, host) => {
            let console = client
                .console(&guest, query.scroll_back)
                .await
                .map_err(|error| passed_on(&asked, &host, error))?;
            Ok(upgrade.on_upgrade(|socket| join_console(socket, console)))
        }
    }
}

/// What a machine on this host says, and takes.
pub(super) trait Line: Send {
    /// What comes next; may be broken off. `Err`: why nothing will any more.
    fn read(&mut self) -> impl Future<Output = Result<Bytes, String>> + Send;
    /// `Err`: why it is not taken.
    fn write(&mut self, bytes: Vec<u8>) -> impl Future<Output = Result<(), String>> + Send;
}

impl Line for Viewer {
    async fn read(&mut self) -> Result<Bytes, String> {
        Viewer::read(self).await
    }
    async fn write(&mut self, bytes: Vec<u8>) -> Result<(), String> {
        Viewer::write(self, bytes).await
    }
}

async fn join_serial(mut socket: WebSocket, mut viewer: Viewer, scroll_back: bool) {
    let before = if scroll_back { std::mem::take(&mut viewer.scroll_back) } else { Vec::new() };
    if before.is_empty() || send(&mut socket, Message::Binary(before.into())).await.is_ok() {
        join(socket, viewer).await;
    }
}

/// Between a client and a machine on this host, until one of them ends.
pub(super) async fn join(mut socket: WebSocket, mut line: impl Line) {
    let mut pings = tokio::time::interval(PING_EVERY);
    let reason = loop {
        tokio::select! {
            read = line.read() => match read {
                Ok(bytes) => {
                    if send(&mut socket, Message::Binary(bytes)).await.is_err() {
                        return;
                    }
                }
                Err(why) => break why,
            },
            message = socket.recv() => match typed(message) {
                Typed::Bytes(bytes) => {
                    if let Err(why) = line.write(bytes).await {
                        break why;
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

/// Between a client and a console or a screen on another host, until one of them ends.
pub(super) async fn join_console(mut socket: WebSocket, console: Console) {
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

/// For the owner of a guest whose secondary replicas are here.
pub async fn end_connections(
    State(backend): State<Shared>,
    Body(request): Body<EndConnections>,
) -> Answer<Json<serde_json::Value>> {
    let asked = format!("end the connections to the replica of volume {}", request.volume);
    backend.end_connections(&request).await.map_err(|error| Refused::of_host(&asked, error))?;
    Ok(Json(serde_json::json!({})))
}

/// For the owner of a guest whose secondary replicas are here.
pub async fn replica_hashes(
    State(backend): State<Shared>,
    Body(request): Body<HashRequest>,
) -> Answer<Json<HashAnswer>> {
    let asked = format!("compare the replica of volume {}", request.volume);
    let hashes = backend.replica_hashes(&request).await.map_err(|error| Refused::of_host(&asked, error))?;
    Ok(Json(HashAnswer { hashes: Blob(hashes.concat()) }))
}
