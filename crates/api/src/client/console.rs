//! A guest's serial console and its screen, over a WebSocket.

use std::time::Duration;

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use model::{GuestId, GuestName};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};

use super::{Ask, CONNECT_TIMEOUT, Client, ClientError, Failure, cause, read_problem};
use crate::{LastLines, LastMoments};

/// The daemon sends a ping every 5 s; silence for longer means that its host is gone.
const SILENCE_MAX: Duration = Duration::from_secs(12);

type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// What the guest's console says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsoleEvent {
    Output(Vec<u8>),
    /// It is over, and why. The guest may be on another host by now: connect anew to follow it.
    Ended(String),
}

/// An open console. Dropping it closes it.
#[derive(Debug)]
pub struct Console {
    sender: ConsoleSender,
    receiver: ConsoleReceiver,
}

#[derive(Debug)]
pub struct ConsoleSender {
    socket: SplitSink<Socket, Message>,
    asked: String,
}

#[derive(Debug)]
pub struct ConsoleReceiver {
    socket: SplitStream<Socket>,
}

impl Client {
    /// `scroll_back`: begin with what the guest said last.
    pub async fn console(&self, name: &GuestName, scroll_back: bool) -> Result<Console, ClientError> {
        let asked = format!("open the console of the guest '{name}'");
        let mut ask = Ask::get(format!("/v1/guests/{name}/console"), asked);
        if scroll_back {
            ask.query.push(("scroll_back", "true".to_owned()));
        }
        self.open_console(ask).await
    }

    /// What the guest said last, on whichever hosts it was.
    pub async fn last_lines(&self, name: &GuestName) -> Result<LastLines, ClientError> {
        let asked = format!("show what the guest '{name}' said last");
        self.fetch(Ask::get(format!("/v1/guests/{name}/last-lines"), asked)).await
    }

    /// What the guest said last on the host that is asked. For hosts.
    pub async fn own_last_lines(&self, guest: GuestId) -> Result<LastLines, ClientError> {
        let asked = "ask a host what a guest said last";
        self.fetch(Ask::get("/v1/internal/last-lines", asked).query("guest", guest)).await
    }

    /// What the guest showed and said last before it was reset, on whichever hosts it was.
    pub async fn last_moments(&self, name: &GuestName) -> Result<LastMoments, ClientError> {
        let asked = format!("show what happened to the guest '{name}'");
        self.fetch(Ask::get(format!("/v1/guests/{name}/last-moments"), asked)).await
    }

    /// The same, by the host that is asked. For hosts.
    pub async fn own_last_moments(&self, guest: GuestId) -> Result<LastMoments, ClientError> {
        let asked = "ask a host what happened to a guest";
        self.fetch(Ask::get("/v1/internal/last-moments", asked).query("guest", guest)).await
    }

    /// The guest's screen, in the RFB protocol.
    pub async fn screen(&self, name: &GuestName) -> Result<Console, ClientError> {
        let asked = format!("open the screen of the guest '{name}'");
        self.open_console(Ask::get(format!("/v1/guests/{name}/screen"), asked)).await
    }

    async fn open_console(&self, ask: Ask) -> Result<Console, ClientError> {
        let mut silent = Vec::new();
        for index in self.order() {
            match self.open_socket(index, &ask).await {
                Ok(socket) => {
                    self.prefer(index);
                    return Ok(Console::new(socket, ask.asked));
                }
                Err(Failure::NoConnection(why) | Failure::BrokeOff(why)) => silent.push((index, why)),
                Err(Failure::Refused(problem)) => return Err(ClientError::Refused(problem)),
            }
        }
        Err(self.unreachable(&ask.asked, &silent))
    }

    async fn open_socket(&self, index: usize, ask: &Ask) -> Result<Socket, Failure> {
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, self.dial(index))
            .await
            .map_err(|_| Failure::NoConnection("it does not answer".to_owned()))??;
        let mut url = self.url(index, ask);
        url.set_scheme("wss").map_err(|()| Failure::NoConnection("the endpoint is not HTTPS".to_owned()))?;
        let mut request =
            url.as_str().into_client_request().map_err(|error| Failure::NoConnection(error.to_string()))?;
        request.headers_mut().extend(self.headers());
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(response)) => {
                let status = response.status().as_u16();
                let body = response.into_body().unwrap_or_default();
                Err(Failure::Refused(read_problem(&body, status, &ask.asked)))
            }
            Err(error) => Err(Failure::BrokeOff(cause(&error))),
        }
    }

    async fn dial(&self, index: usize) -> Result<TlsStream<TcpStream>, Failure> {
        let no_connection = |error: &dyn std::error::Error| Failure::NoConnection(cause(error));
        let url = &self.inner.endpoints[index];
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or(crate::PORT);
        let name = ServerName::try_from(host.clone()).map_err(|error| no_connection(&error))?;
        let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(|error| no_connection(&error))?;
        // Keystrokes are small, and their echo is waited for.
        tcp.set_nodelay(true).map_err(|error| no_connection(&error))?;
        let mut tls = (*self.inner.tls).clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let connector = TlsConnector::from(std::sync::Arc::new(tls));
        connector.connect(name, tcp).await.map_err(|error| no_connection(&error))
    }
}

impl Console {
    fn new(socket: Socket, asked: String) -> Self {
        let (sink, stream) = socket.split();
        Self { sender: ConsoleSender { socket: sink, asked }, receiver: ConsoleReceiver { socket: stream } }
    }

    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.sender.send(bytes).await
    }

    pub async fn receive(&mut self) -> Result<ConsoleEvent, ClientError> {
        self.receiver.receive().await
    }

    /// For sending and receiving at the same time.
    pub fn split(self) -> (ConsoleSender, ConsoleReceiver) {
        (self.sender, self.receiver)
    }
}

impl ConsoleSender {
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let broken = |error: tungstenite::Error| ClientError::Interrupted {
            asked: self.asked.clone(),
            why: cause(&error),
        };
        self.socket.send(Message::Binary(bytes.to_vec().into())).await.map_err(broken)
    }

    /// Says good-bye. A connection that is broken already is as good.
    pub async fn close(mut self) {
        let _ = self.socket.send(Message::Close(None)).await;
    }
}

impl ConsoleReceiver {
    /// Waits for output. After [`ConsoleEvent::Ended`] nothing more comes.
    pub async fn receive(&mut self) -> Result<ConsoleEvent, ClientError> {
        loop {
            let Ok(message) = tokio::time::timeout(SILENCE_MAX, self.socket.next()).await else {
                return Ok(ConsoleEvent::Ended("the host does not answer any more".to_owned()));
            };
            match message {
                Some(Ok(Message::Binary(bytes))) => return Ok(ConsoleEvent::Output(bytes.to_vec())),
                Some(Ok(Message::Text(text))) => return Ok(ConsoleEvent::Output(text.as_bytes().to_vec())),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(frame))) => {
                    let reason = frame.map(|frame| frame.reason.to_string()).filter(|r| !r.is_empty());
                    return Ok(ConsoleEvent::Ended(
                        reason.unwrap_or_else(|| "the host closed it".to_owned()),
                    ));
                }
                Some(Err(error)) => return Ok(ConsoleEvent::Ended(cause(&error))),
                None => return Ok(ConsoleEvent::Ended("the connection ended".to_owned())),
            }
        }
    }
}
