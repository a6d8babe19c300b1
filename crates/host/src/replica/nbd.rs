//! Asks a replica server what it serves, as far as NBD's handshake goes (doc/proto.md of
//! NetworkBlockDevice/nbd). QEMU itself asks the same again when a mirror is attached; but it does so in its
//! main loop, where a server that does not answer would stop the guest.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{ExportName, HostError};

/// How long a server may take to say what it has. On a cluster's own network this takes a millisecond.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

const MAGIC: &[u8; 8] = b"NBDMAGIC";
const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Handshake flags of the server and of the client: fixed newstyle, no zeroes.
const FIXED_NEWSTYLE: u16 = 1;
const CLIENT_FLAGS: u32 = 3;

const OPTION_ABORT: u32 = 2;
const OPTION_INFO: u32 = 6;

const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
/// Replies from here on are errors.
const REPLY_ERROR: u32 = 1 << 31;
const REPLY_UNKNOWN_EXPORT: u32 = REPLY_ERROR + 6;

/// The kind of information that holds an export's size.
const INFO_EXPORT: u16 = 0;

/// What a server may put into one reply; it sends some tens of bytes.
const REPLY_MAX: u32 = 64 << 10;

/// Whether a replica server answers there. Never takes longer than a second.
pub async fn probe(server: SocketAddr) -> bool {
    matches!(tokio::time::timeout(ANSWER_LIMIT, greet(server)).await, Ok(Ok(_)))
}

/// The size of an export in bytes. Not found: the server answers, and does not serve that export.
pub async fn ask(server: SocketAddr, export: &ExportName) -> Result<u64, HostError> {
    let asked = async {
        let mut stream = greet(server).await?;
        let size = ask_size(&mut stream, export).await?;
        // Courtesy: the server would otherwise log a client that went away.
        let abort = option(OPTION_ABORT, &[]);
        stream.write_all(&abort).await?;
        Ok::<_, io::Error>(size)
    };
    match tokio::time::timeout(ANSWER_LIMIT, asked).await {
        Ok(Ok(Some(size))) => Ok(size),
        Ok(Ok(None)) => Err(HostError::NotFound(format!(
            "the replica server at {server} does not serve {}; serve it there first",
            export.as_str()
        ))),
        Ok(Err(error)) => {
            Err(HostError::Failed(format!("the replica server at {server} cannot be reached: {error}")))
        }
        Err(_) => Err(HostError::TimedOut(format!(
            "the replica server at {server} does not answer within {} s",
            ANSWER_LIMIT.as_secs()
        ))),
    }
}

async fn greet(server: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).await?;
    let flags = u16::from_be_bytes([greeting[16], greeting[17]]);
    if &greeting[..8] != MAGIC || &greeting[8..16] != OPTION_MAGIC || flags & FIXED_NEWSTYLE == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no NBD server"));
    }
    stream.write_u32(CLIENT_FLAGS).await?;
    Ok(stream)
}

fn option(kind: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    [OPTION_MAGIC.as_slice(), &kind.to_be_bytes(), &length.to_be_bytes(), data].concat()
}

/// None: there is no such export.
async fn ask_size(stream: &mut TcpStream, export: &ExportName) -> io::Result<Option<u64>> {
    let name = export.as_str().as_bytes();
    let length = u32::try_from(name.len()).map_err(io::Error::other)?;
    // After the name, the number of kinds of information asked for: none beyond the size, which always comes.
    let data = [&length.to_be_bytes(), name, &[0, 0]].concat();
    stream.write_all(&option(OPTION_INFO, &data)).await?;
    let mut size = None;
    loop {
        let (kind, data) = read_reply(stream).await?;
        match kind {
            REPLY_ACK => return Ok(size),
            REPLY_UNKNOWN_EXPORT => return Ok(None),
            REPLY_INFO => {
                if let [a, b, rest @ ..] = data.as_slice()
                    && u16::from_be_bytes([*a, *b]) == INFO_EXPORT
                    && let Some(bytes) = rest.first_chunk::<8>()
                {
                    size = Some(u64::from_be_bytes(*bytes));
                }
            }
            error if error >= REPLY_ERROR => {
                let said = String::from_utf8_lossy(&data).into_owned();
                return Err(io::Error::other(format!("it refuses with error {error:#x}: {said}")));
            }
            _ => {}
        }
    }
}

async fn read_reply(stream: &mut TcpStream) -> io::Result<(u32, Vec<u8>)> {
    let odd = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    if stream.read_u64().await? != REPLY_MAGIC {
        return Err(odd("its reply is not NBD"));
    }
    let _option = stream.read_u32().await?;
    let kind = stream.read_u32().await?;
    let length = stream.read_u32().await?;
    if length > REPLY_MAX {
        return Err(odd("its reply is too long"));
    }
    let mut data = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    stream.read_exact(&mut data).await?;
    Ok((kind, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_answer_is_no_server() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        assert!(!probe(silent.local_addr().unwrap()).await, "it accepts, and says nothing");
        let gone = silent.local_addr().unwrap();
        drop(silent);
        assert!(!probe(gone).await, "it refuses");
    }
}
