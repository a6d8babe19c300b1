//! The way out to Debian's archive: image builds on a lab host fetch packages, and a lab host's network leads
//! nowhere else.
//!
//! An HTTP proxy that listens inside, in the switch's network, and connects from the machine's own. A socket
//! belongs to the network of the thread that makes it: the threads that connect are started before the switch
//! leaves the machine's network, and get the clients through a channel.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result};

use super::state::SWITCH_ADDRESS;

/// The port that proxies are commonly found on.
pub const PORT: u16 = 3128;

/// The first lines of a request; apt's are far shorter.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// An archive that says nothing for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What the machine's own network side takes clients from. To be called before the network is left.
pub fn start_outside() -> Sender<TcpStream> {
    let (sender, clients): (Sender<TcpStream>, Receiver<TcpStream>) = channel();
    std::thread::spawn(move || {
        for client in clients {
            std::thread::spawn(move || {
                if let Err(error) = answer(client) {
                    eprintln!("a request to the archive failed: {error}");
                }
            });
        }
    });
    sender
}

/// Takes clients in the switch's network, for ever.
pub fn start_inside(outside: Sender<TcpStream>) -> Result<()> {
    let listener = TcpListener::bind((SWITCH_ADDRESS, PORT)).context("listen for requests to the archive")?;
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            if outside.send(client).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Carries one request, and its answer. One a connection: each may be for another archive.
fn answer(mut client: TcpStream) -> io::Result<()> {
    client.set_read_timeout(Some(SILENCE_MAX))?;
    let head = read_head(&mut client)?;
    let Some((host, request)) = rewrite(&head) else {
        return client
            .write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    };
    let Some(address) = host.to_socket_addrs()?.next() else { return Ok(()) };
    let mut archive = TcpStream::connect_timeout(&address, SILENCE_MAX)?;
    archive.set_read_timeout(Some(SILENCE_MAX))?;
    archive.write_all(request.as_bytes())?;
    io::copy(&mut archive, &mut client).map(drop)
}

fn read_head(client: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if client.read(&mut byte)? == 0 || head.len() >= HEAD_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not an HTTP request"));
        }
        head.extend_from_slice(&byte);
    }
    String::from_utf8(head).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Host and port, and the request as the host wants it. Only for what reads over plain HTTP, as Debian's
/// archive is: its packages are signed.
fn rewrite(head: &str) -> Option<(String, String)> {
    let (first, rest) = head.split_once("\r\n")?;
    let mut words = first.split(' ');
    let (method, url) = (words.next()?, words.next()?);
    if !matches!(method, "GET" | "HEAD") {
        return None;
    }
    let (host, path) = url.strip_prefix("http://")?.split_once('/')?;
    let kept = rest.lines().filter(|line| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        !line.is_empty() && !matches!(name.as_str(), "connection" | "proxy-connection")
    });
    let headers: String = kept.map(|line| format!("{line}\r\n")).collect();
    let host = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    Some((host, format!("{method} /{path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_rewritten_for_the_archive() {
        let head = "GET http://deb.debian.org/debian/x HTTP/1.1\r\nHost: deb.debian.org\r\n\
                    Proxy-Connection: keep-alive\r\n\r\n";
        let expected = "GET /debian/x HTTP/1.1\r\nHost: deb.debian.org\r\nConnection: close\r\n\r\n";
        assert_eq!(rewrite(head), Some(("deb.debian.org:80".to_owned(), expected.to_owned())));
        for bad in
            ["CONNECT a:443 HTTP/1.1\r\n\r\n", "GET /x HTTP/1.1\r\n\r\n", "POST http://a/b HTTP/1.1\r\n\r\n"]
        {
            assert_eq!(rewrite(bad), None, "{bad}");
        }
    }
}
