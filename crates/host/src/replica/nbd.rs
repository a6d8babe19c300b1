//! The client's side of the NBD protocol (doc/proto.md of NetworkBlockDevice/nbd), as much of it as is needed:
//! asking what an export is like, writing to one, flushing it, and reading a dirty bitmap of QEMU's.
//!
//! The server speaks first. The client may ask for TLS then, and must when the server demands it; it picks an
//! export, and from there on sends requests. Nothing here has a time limit; callers set theirs.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

const MAGIC: &[u8; 8] = b"NBDMAGIC";
const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Handshake flags of the server and of the client: fixed newstyle, no zeroes.
const FIXED_NEWSTYLE: u16 = 1;
const CLIENT_FLAGS: u32 = 3;

const OPTION_ABORT: u32 = 2;
const OPTION_START_TLS: u32 = 5;
const OPTION_INFO: u32 = 6;
const OPTION_GO: u32 = 7;
const OPTION_STRUCTURED_REPLY: u32 = 8;
const OPTION_SET_META_CONTEXT: u32 = 10;

const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_META_CONTEXT: u32 = 4;
/// Replies from here on are errors.
const REPLY_ERROR: u32 = 1 << 31;
const REPLY_TLS_REQUIRED: u32 = REPLY_ERROR + 5;
const REPLY_UNKNOWN_EXPORT: u32 = REPLY_ERROR + 6;

/// The kinds of information that hold an export's size and its description.
const INFO_EXPORT: u16 = 0;
const INFO_DESCRIPTION: u16 = 2;

/// What a server may put into one reply; it sends some tens of bytes, or a list of extents.
const REPLY_MAX: u32 = 8 << 20;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;

const COMMAND_WRITE: u16 = 1;
const COMMAND_FLUSH: u16 = 3;
const COMMAND_BLOCK_STATUS: u16 = 7;

/// Chunks of a structured reply: the last one says so in its flags.
const CHUNK_DONE: u16 = 1;
const CHUNK_BLOCK_STATUS: u16 = 5;
const CHUNK_ERROR: u16 = 1 << 15;

/// For error numbers that are none.
const EIO: i32 = 5;

/// In QEMU's context `qemu:dirty-bitmap:…`: these bytes are dirty.
const STATE_DIRTY: u32 = 1;

/// As much as one request for block status may ask about; a multiple of every granularity.
const STATUS_MAX: u64 = 1 << 31;

/// Requests that may be unanswered; QEMU's server works on 16 of one client at a time.
const WINDOW: usize = 8;

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// What a server says of an export.
#[derive(Debug, Default)]
pub(crate) struct About {
    /// Bytes.
    pub size: u64,
    /// Free text; empty if there is none.
    pub description: String,
}

/// A connection that is still choosing an export.
pub(crate) struct Handshake {
    stream: Box<dyn Stream>,
}

/// Where a server is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Server<'a> {
    Tcp(SocketAddr),
    Unix(&'a Path),
}

impl Handshake {
    /// Connects and hears the server's greeting, no further.
    pub async fn begin(server: Server<'_>) -> io::Result<Handshake> {
        let mut stream: Box<dyn Stream> = match server {
            Server::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Server::Unix(path) => Box::new(UnixStream::connect(path).await?),
        };
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).await?;
        let flags = u16::from_be_bytes([greeting[16], greeting[17]]);
        if &greeting[..8] != MAGIC || &greeting[8..16] != OPTION_MAGIC || flags & FIXED_NEWSTYLE == 0 {
            return Err(odd("it is no NBD server"));
        }
        stream.write_u32(CLIENT_FLAGS).await?;
        Ok(Handshake { stream })
    }

    /// Goes on encrypted. The server's certificate must be for that address.
    pub async fn start_tls(mut self, server: SocketAddr, config: Arc<ClientConfig>) -> io::Result<Handshake> {
        self.send(OPTION_START_TLS, &[]).await?;
        match self.reply().await? {
            (REPLY_ACK, _) => {}
            (kind, data) => return Err(refused(kind, &data)),
        }
        let name = ServerName::IpAddress(server.ip().into());
        let stream = TlsConnector::from(config).connect(name, self.stream).await?;
        Ok(Handshake { stream: Box::new(stream) })
    }

    /// What an export is like. None: there is no such export.
    pub async fn about(&mut self, export: &str) -> io::Result<Option<About>> {
        self.pick(OPTION_INFO, export).await
    }

    /// Courtesy: the server would otherwise log a client that went away.
    pub async fn abort(mut self) -> io::Result<()> {
        self.send(OPTION_ABORT, &[]).await
    }

    /// Begins to use an export. None: there is no such export.
    pub async fn open(mut self, export: &str) -> io::Result<Option<Connection>> {
        let about = self.pick(OPTION_GO, export).await?;
        Ok(about.map(|about| Connection { stream: self.stream, size: about.size }))
    }

    /// Reads which ranges of an export are set in a dirty bitmap that is exported with it.
    pub async fn dirty(mut self, export: &str, bitmap: &str) -> io::Result<Vec<Range<u64>>> {
        self.send(OPTION_STRUCTURED_REPLY, &[]).await?;
        match self.reply().await? {
            (REPLY_ACK, _) => {}
            (kind, data) => return Err(refused(kind, &data)),
        }
        let context = format!("qemu:dirty-bitmap:{bitmap}");
        let one = 1_u32.to_be_bytes().to_vec();
        let data = [text(export)?, one, text(&context)?].concat();
        self.send(OPTION_SET_META_CONTEXT, &data).await?;
        let mut found = false;
        loop {
            match self.reply().await? {
                (REPLY_META_CONTEXT, _) => found = true,
                (REPLY_ACK, _) if found => break,
                (REPLY_ACK, _) => return Err(odd("it does not offer that bitmap")),
                (kind, data) => return Err(refused(kind, &data)),
            }
        }
        match self.open(export).await? {
            Some(mut connection) => connection.dirty().await,
            None => Err(odd("it does not serve that export")),
        }
    }

    async fn pick(&mut self, kind: u32, export: &str) -> io::Result<Option<About>> {
        // After the name, how many kinds of information are asked for beyond the size, which always comes.
        let wanted = [1_u16.to_be_bytes(), INFO_DESCRIPTION.to_be_bytes()].concat();
        let data = [text(export)?, wanted].concat();
        self.send(kind, &data).await?;
        let mut about = About::default();
        loop {
            let (kind, data) = self.reply().await?;
            match kind {
                REPLY_ACK => return Ok(Some(about)),
                REPLY_UNKNOWN_EXPORT => return Ok(None),
                REPLY_INFO => {
                    let [a, b, rest @ ..] = data.as_slice() else { continue };
                    match (u16::from_be_bytes([*a, *b]), rest.first_chunk::<8>()) {
                        (INFO_EXPORT, Some(bytes)) => about.size = u64::from_be_bytes(*bytes),
                        (INFO_DESCRIPTION, _) => {
                            about.description = String::from_utf8_lossy(rest).into_owned();
                        }
                        _ => {}
                    }
                }
                error if error >= REPLY_ERROR => return Err(refused(error, &data)),
                _ => {}
            }
        }
    }

    async fn send(&mut self, kind: u32, data: &[u8]) -> io::Result<()> {
        let length = u32::try_from(data.len()).map_err(io::Error::other)?;
        let option = [OPTION_MAGIC.as_slice(), &kind.to_be_bytes(), &length.to_be_bytes(), data].concat();
        self.stream.write_all(&option).await?;
        self.stream.flush().await
    }

    async fn reply(&mut self) -> io::Result<(u32, Vec<u8>)> {
        if self.stream.read_u64().await? != REPLY_MAGIC {
            return Err(odd("its reply is not NBD"));
        }
        let _option = self.stream.read_u32().await?;
        let kind = self.stream.read_u32().await?;
        let length = self.stream.read_u32().await?;
        Ok((kind, read_data(&mut self.stream, length).await?))
    }
}

/// A connection to one export.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    /// Bytes.
    size: u64,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Connection").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Connection {
    /// Writes pieces, each with its offset, and returns when the server has all of them.
    pub async fn write(&mut self, pieces: &[(u64, Vec<u8>)]) -> io::Result<()> {
        for window in pieces.chunks(WINDOW) {
            for (offset, data) in window {
                let length = u32::try_from(data.len()).map_err(io::Error::other)?;
                self.request(COMMAND_WRITE, *offset, length).await?;
                self.stream.write_all(data).await?;
            }
            self.stream.flush().await?;
            for _ in window {
                self.simple_reply().await?;
            }
        }
        Ok(())
    }

    /// Returns when everything that the server has ever been given for this export is on its disk.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.request(COMMAND_FLUSH, 0, 0).await?;
        self.stream.flush().await?;
        self.simple_reply().await
    }

    async fn dirty(&mut self) -> io::Result<Vec<Range<u64>>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut at = 0;
        while at < self.size {
            let length = (self.size - at).min(STATUS_MAX);
            self.request(COMMAND_BLOCK_STATUS, at, u32::try_from(length).map_err(io::Error::other)?).await?;
            self.stream.flush().await?;
            let before = at;
            for (length, flags) in self.block_status().await? {
                let end = at.saturating_add(u64::from(length)).min(self.size);
                if flags & STATE_DIRTY != 0 {
                    match ranges.last_mut() {
                        Some(last) if last.end == at => last.end = end,
                        Some(_) | None => ranges.push(at..end),
                    }
                }
                at = end;
            }
            if at == before {
                return Err(odd("it tells nothing about a part of the bitmap"));
            }
        }
        Ok(ranges)
    }

    /// Lengths and flags, in order.
    async fn block_status(&mut self) -> io::Result<Vec<(u32, u32)>> {
        let mut extents = Vec::new();
        loop {
            if self.stream.read_u32().await? != CHUNK_MAGIC {
                return Err(odd("its reply is not structured"));
            }
            let flags = self.stream.read_u16().await?;
            let kind = self.stream.read_u16().await?;
            let _cookie = self.stream.read_u64().await?;
            let length = self.stream.read_u32().await?;
            let data = read_data(&mut self.stream, length).await?;
            if kind & CHUNK_ERROR != 0 {
                return Err(odd("it cannot read the bitmap"));
            }
            if kind == CHUNK_BLOCK_STATUS {
                // The first four bytes are the context's number; there is one context.
                let words: Vec<u32> =
                    data.as_chunks::<4>().0.iter().map(|word| u32::from_be_bytes(*word)).collect();
                let pairs = words.get(1..).unwrap_or_default().as_chunks::<2>().0;
                extents.extend(pairs.iter().map(|[length, flags]| (*length, *flags)));
            }
            if flags & CHUNK_DONE != 0 {
                return Ok(extents);
            }
        }
    }

    async fn request(&mut self, command: u16, offset: u64, length: u32) -> io::Result<()> {
        let mut request = Vec::with_capacity(28);
        request.extend(REQUEST_MAGIC.to_be_bytes());
        request.extend([0; 2]);
        request.extend(command.to_be_bytes());
        // The cookie: replies are counted, not matched.
        request.extend([0; 8]);
        request.extend(offset.to_be_bytes());
        request.extend(length.to_be_bytes());
        self.stream.write_all(&request).await
    }

    async fn simple_reply(&mut self) -> io::Result<()> {
        if self.stream.read_u32().await? != SIMPLE_REPLY_MAGIC {
            return Err(odd("its reply is not NBD"));
        }
        let error = self.stream.read_u32().await?;
        let _cookie = self.stream.read_u64().await?;
        match error {
            0 => Ok(()),
            // NBD's numbers are Linux's.
            number => Err(io::Error::from_raw_os_error(number.try_into().unwrap_or(EIO))),
        }
    }
}

fn odd(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn refused(kind: u32, data: &[u8]) -> io::Error {
    let said = String::from_utf8_lossy(data).into_owned();
    match kind {
        REPLY_TLS_REQUIRED => io::Error::other("it demands TLS, and this side has no certificates"),
        kind => io::Error::other(format!("it refuses with error {kind:#x}: {said}")),
    }
}

/// A string with its length before it.
fn text(text: &str) -> io::Result<Vec<u8>> {
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    Ok([&length.to_be_bytes(), text.as_bytes()].concat())
}

async fn read_data(stream: &mut Box<dyn Stream>, length: u32) -> io::Result<Vec<u8>> {
    if length > REPLY_MAX {
        return Err(odd("its reply is too long"));
    }
    let mut data = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    stream.read_exact(&mut data).await?;
    Ok(data)
}
