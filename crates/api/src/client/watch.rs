//! Follows a list through server-sent events, across the loss of the host that tells it.

use std::collections::VecDeque;
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use reqwest::Response;
use serde::de::DeserializeOwned;

use super::{Ask, Client, ClientError, cause};
use crate::WatchEvent;
use crate::watch::Removed;

/// The daemon says something at least every 5 s.
const SILENCE_MAX: Duration = Duration::from_secs(12);

/// Between attempts to find a host that answers.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

impl Client {
    /// Ends only after a refusal. When the host that answers goes silent the next one is asked, and begins
    /// with a snapshot.
    pub(crate) fn watch<T: DeserializeOwned + Send + 'static>(
        &self,
        ask: Ask,
    ) -> BoxStream<'static, Result<WatchEvent<T>, ClientError>> {
        let ask = ask.query("watch", true).endless();
        let watch = Watch { client: self.clone(), ask, source: None, refused: false, interrupted: false };
        stream::unfold(watch, |mut watch| async move {
            let event = watch.next().await?;
            Some((event, watch))
        })
        .boxed()
    }
}

struct Watch {
    client: Client,
    ask: Ask,
    source: Option<Source>,
    refused: bool,
    /// Whether the last thing that was said is an interruption.
    interrupted: bool,
}

impl Watch {
    async fn next<T: DeserializeOwned>(&mut self) -> Option<Result<WatchEvent<T>, ClientError>> {
        if self.refused {
            return None;
        }
        loop {
            let why = match self.step().await {
                Ok(Some(message)) => match message.read() {
                    Ok(Some(event)) => {
                        self.interrupted = false;
                        return Some(Ok(event));
                    }
                    Ok(None) => continue,
                    Err(error) => return Some(Err(self.end(error))),
                },
                Ok(None) => "the stream ended".to_owned(),
                Err(error) if error.is_unreachable() => error.to_string(),
                Err(ClientError::Refused(problem)) if problem.status >= 500 => problem.detail,
                Err(error) => return Some(Err(self.end(error))),
            };
            if self.source.take().is_some() {
                self.client.pass_over();
            }
            if !self.interrupted {
                self.interrupted = true;
                return Some(Ok(WatchEvent::Interrupted(why)));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    fn end(&mut self, error: ClientError) -> ClientError {
        self.refused = true;
        error
    }

    async fn step(&mut self) -> Result<Option<Message>, ClientError> {
        let source = match &mut self.source {
            Some(source) => source,
            None => self.source.insert(Source::new(self.client.send(&self.ask).await?)),
        };
        source.next().await.map_err(|why| self.client.interrupted(&self.ask.asked, why))
    }
}

/// One server-sent event.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    name: String,
    data: String,
}

impl Message {
    /// `None` for what carries no news: heartbeats, and names of a newer build.
    fn read<T: DeserializeOwned>(&self) -> Result<Option<WatchEvent<T>>, ClientError> {
        let event = match self.name.as_str() {
            "snapshot" => serde_json::from_str(&self.data).map(WatchEvent::Snapshot),
            "changed" => serde_json::from_str(&self.data).map(WatchEvent::Changed),
            "removed" => serde_json::from_str(&self.data).map(|r: Removed| WatchEvent::Removed(r.id)),
            _ => return Ok(None),
        };
        event.map(Some).map_err(|error| ClientError::Protocol(format!("cannot follow the stream: {error}")))
    }
}

struct Source {
    chunks: BoxStream<'static, Result<Vec<u8>, String>>,
    parser: Parser,
    ready: VecDeque<Message>,
}

impl Source {
    fn new(response: Response) -> Self {
        let chunks =
            response.bytes_stream().map_ok(|bytes| bytes.to_vec()).map_err(|error| cause(&error)).boxed();
        Self { chunks, parser: Parser::default(), ready: VecDeque::new() }
    }

    async fn next(&mut self) -> Result<Option<Message>, String> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            match tokio::time::timeout(SILENCE_MAX, self.chunks.next()).await {
                Ok(Some(chunk)) => self.ready.extend(self.parser.feed(&chunk?)),
                Ok(None) => return Ok(None),
                Err(_) => return Err(format!("the host said nothing for {} s", SILENCE_MAX.as_secs())),
            }
        }
    }
}

/// Server-sent events, as far as the daemon uses them: `event:` and `data:` lines, an empty line ends one.
#[derive(Default)]
struct Parser {
    line: Vec<u8>,
    name: String,
    data: Vec<String>,
}

impl Parser {
    fn feed(&mut self, chunk: &[u8]) -> Vec<Message> {
        let mut messages = Vec::new();
        for &byte in chunk {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
            messages.extend(self.line(line.trim_end_matches('\r')));
        }
        messages
    }

    fn line(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
            return (!name.is_empty()).then(|| Message { name, data: data.join("\n") });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => self.data.push(value.to_owned()),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: &str, data: &str) -> Message {
        Message { name: name.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn events_are_read_however_they_are_cut() {
        let text =
            ": hello\nevent: snapshot\ndata: [1,\ndata: 2]\n\nevent:removed\r\ndata:{\"id\":\"ä\"}\r\n\r\n";
        let expected = vec![message("snapshot", "[1,\n2]"), message("removed", "{\"id\":\"ä\"}")];
        for size in 1..text.len() {
            let mut parser = Parser::default();
            let read: Vec<_> = text.as_bytes().chunks(size).flat_map(|chunk| parser.feed(chunk)).collect();
            assert_eq!(read, expected, "in chunks of {size}");
        }
        assert_eq!(expected[0].read::<u8>(), Ok(Some(WatchEvent::Snapshot(vec![1, 2]))));
        assert_eq!(expected[1].read::<u8>(), Ok(Some(WatchEvent::Removed("ä".to_owned()))));
        assert_eq!(message("heartbeat", "").read::<u8>(), Ok(None));
    }
}
