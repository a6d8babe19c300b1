//! The switch's process: it keeps the network of [`super::network`] alive and carries connections from
//! 127.0.0.1 to the hosts' APIs.
//!
//! A socket belongs to the network that it was made in. So this process first listens on 127.0.0.1 (one port per
//! host, the only thing of the lab that the machine's own network sees), then moves to its own network and
//! connects from there.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::socket::{setsockopt, sockopt};

use super::process::{MARK, ProcessRef};
use super::state::{API_PORT, Lab, State};
use super::{network, proxy, space};

/// A host that does not answer by then is as good as off; the client tries another.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
/// Seconds until a silent connection is asked whether it lives, between questions, and questions without answer
/// before it is dropped: a client learns within 4 s that its host lost power.
const KEEPALIVE_IDLE_S: u32 = 2;
const KEEPALIVE_INTERVAL_S: u32 = 1;
const KEEPALIVE_PROBES: u32 = 2;
/// The same limit for data that nobody confirms.
const UNCONFIRMED_LIMIT_MS: u32 = 4_000;

/// Starts the switch and returns when it works.
pub fn start(lab: &Lab) -> Result<()> {
    let state = lab.load()?;
    let log = super::open_log(&lab.path("switch.log"))?;
    let mut child = Command::new(&state.kennel)
        .args(["lab", "switch"])
        .arg(&lab.folder)
        .env(MARK, &state.id)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("start the switch")?;
    let process = ProcessRef::of(child.id())?;
    lab.edit(|state| {
        state.switch = Some(process);
        Ok(())
    })?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).context("listen to the switch")?;
    }
    let Ok(ports) = serde_json::from_str::<Vec<u16>>(&line) else {
        bail!("the switch did not start: {}", super::last_line(&lab.path("switch.log")));
    };
    lab.edit(|state| {
        for (host, port) in state.hosts.iter_mut().zip(ports) {
            host.api_port = Some(port);
        }
        Ok(())
    })
}

/// The hidden command: never returns while all is well.
pub fn run(lab: &Lab) -> Result<()> {
    nix::unistd::setsid().context("leave the terminal")?;
    let state = lab.load()?;
    let mut listeners = Vec::new();
    let mut ports = Vec::new();
    for host in &state.hosts {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, host.api_port.unwrap_or(0)))
            .with_context(|| format!("listen on 127.0.0.1 for {}", host.name))?;
        ports.push(listener.local_addr().context("ask for the port")?.port());
        listeners.push((listener, SocketAddr::from((host.address(), API_PORT))));
    }
    let outside = proxy::start_outside();
    space::leave_network()?;
    network::build_switch(&state.hosts)?;
    proxy::start_inside(outside)?;
    announce(&state, &ports)?;
    std::thread::scope(|scope| {
        for (listener, target) in listeners {
            scope.spawn(move || serve(&listener, target));
        }
    });
    Ok(())
}

fn announce(state: &State, ports: &[u16]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, ports)
        .map_err(io::Error::from)
        .and_then(|()| writeln!(stdout))
        .and_then(|()| stdout.flush())
        .with_context(|| format!("tell lab {} which ports there are", state.name))
}

fn serve(listener: &TcpListener, target: SocketAddr) {
    loop {
        match listener.accept() {
            Ok((client, _)) => {
                std::thread::spawn(move || {
                    // Dropping the client is all that it can be told; it sees a host that does not answer.
                    if let Ok(host) = TcpStream::connect_timeout(&target, CONNECT_TIMEOUT) {
                        let _ = carry(&client, &host);
                    }
                });
            }
            Err(error) => {
                eprintln!("cannot accept a connection for {target}: {error}");
                // Out of descriptors, most likely: some must be given back first.
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Copies both ways until both sides are done.
fn carry(client: &TcpStream, host: &TcpStream) -> io::Result<()> {
    for stream in [client, host] {
        stream.set_nodelay(true)?;
    }
    setsockopt(host, sockopt::KeepAlive, &true)?;
    setsockopt(host, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_S)?;
    setsockopt(host, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_S)?;
    setsockopt(host, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)?;
    setsockopt(host, sockopt::TcpUserTimeout, &UNCONFIRMED_LIMIT_MS)?;
    std::thread::scope(|scope| {
        scope.spawn(|| copy_one_way(client, host));
        copy_one_way(host, client);
    });
    Ok(())
}

fn copy_one_way(mut from: &TcpStream, mut to: &TcpStream) {
    match io::copy(&mut from, &mut to) {
        Ok(_) => {
            let _ = to.shutdown(Shutdown::Write);
        }
        // One side is lost: the other has nobody to speak with any more.
        Err(_) => {
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        }
    }
}
