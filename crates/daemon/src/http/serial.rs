//! Serial ports that several people look at.
//!
//! QEMU serves one connection to a guest's serial port at a time. So this host holds that one while anybody looks, and
//! passes on what comes from it to all who do; what any of them types goes to the guest. Whoever comes first is shown
//! what the port's log ends with, and whoever comes later the same and what followed.
//!
//! ```text
//!   QEMU ──▶ pump ──▶ scroll-back, viewer, viewer, …
//!        ◀──      ◀── what they type
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use host::{HostError, Machine};
use model::GuestId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc};

/// A few screens full.
pub(super) const SCROLL_BACK: usize = 64 << 10;

/// How much is read at once.
const CHUNK: usize = 16 << 10;

/// Chunks that a viewer may be behind before some are left out for it.
const BEHIND_MAX: usize = 256;

/// What is typed waits here while the guest does not read.
const TYPED_MAX: usize = 64;

/// The ports of this host's guests that somebody looks at.
#[derive(Debug, Default)]
pub struct Serials(tokio::sync::Mutex<BTreeMap<GuestId, Weak<Port>>>);

#[derive(Debug)]
struct Port {
    shared: Arc<Shared>,
    typed: mpsc::Sender<Vec<u8>>,
}

#[derive(Debug)]
struct Shared(Mutex<Said>);

#[derive(Debug)]
struct Said {
    scroll_back: Vec<u8>,
    /// `None`: the port is closed, and why stands beside it.
    output: Option<broadcast::Sender<Bytes>>,
    why: String,
}

impl Shared {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who looks at a port. The port is let go of with the last one.
#[derive(Debug)]
pub struct Viewer {
    /// What was said before.
    pub scroll_back: Vec<u8>,
    output: broadcast::Receiver<Bytes>,
    port: Arc<Port>,
}

impl Serials {
    pub async fn join(&self, guest: GuestId, machine: &dyn Machine) -> Result<Viewer, HostError> {
        // Held while the port is opened, so that it is opened once.
        let mut ports = self.0.lock().await;
        ports.retain(|_, port| port.strong_count() > 0);
        if let Some(viewer) = ports.get(&guest).and_then(Weak::upgrade).and_then(view) {
            return Ok(viewer);
        }
        let serial = machine.serial().await?;
        let scroll_back = machine.scroll_back(SCROLL_BACK as u64).await;
        let (output, _) = broadcast::channel(BEHIND_MAX);
        let (typed, keys) = mpsc::channel(TYPED_MAX);
        let said = Said { scroll_back, output: Some(output), why: String::new() };
        let port = Arc::new(Port { shared: Arc::new(Shared(Mutex::new(said))), typed });
        ports.insert(guest, Arc::downgrade(&port));
        tokio::spawn(pump(serial, keys, port.shared.clone()));
        view(port).ok_or_else(|| HostError::Conflict("the serial port closed at once".to_owned()))
    }
}

/// `None`: the port has closed.
fn view(port: Arc<Port>) -> Option<Viewer> {
    let said = port.shared.said();
    let output = said.output.as_ref()?.subscribe();
    let scroll_back = said.scroll_back.clone();
    drop(said);
    Some(Viewer { scroll_back, output, port })
}

impl Viewer {
    /// What is said next. `Err`: why the port has closed.
    pub async fn read(&mut self) -> Result<Bytes, String> {
        loop {
            match self.output.recv().await {
                Ok(bytes) => return Ok(bytes),
                // It was too slow; what it missed is gone for it.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return Err(self.port.shared.said().why.clone()),
            }
        }
    }

    /// `Err`: why it cannot be typed.
    pub async fn write(&self, bytes: Vec<u8>) -> Result<(), String> {
        let sent = self.port.typed.send(bytes).await;
        sent.map_err(|_| self.port.shared.said().why.clone())
    }
}

/// Until the guest's machine closes the port, or nobody looks any more.
async fn pump(serial: UnixStream, mut keys: mpsc::Receiver<Vec<u8>>, shared: Arc<Shared>) {
    let (mut reader, mut writer) = serial.into_split();
    // Its own task: a guest that reads nothing still says something.
    let typist = tokio::spawn(async move {
        while let Some(bytes) = keys.recv().await {
            writer.write_all(&bytes).await?;
        }
        Ok::<_, std::io::Error>(())
    });
    let listen = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            match reader.read(&mut buffer).await {
                Ok(0) => return "the guest's machine ended".to_owned(),
                Ok(length) => tell(&shared, &buffer[..length]),
                Err(error) => return format!("the serial port failed: {error}"),
            }
        }
    };
    let why = tokio::select! {
        why = listen => why,
        // The last viewer left, or the port takes nothing any more.
        ended = typist => match ended {
            Ok(Err(error)) => format!("the serial port failed: {error}"),
            Ok(Ok(())) | Err(_) => "nobody looked any more".to_owned(),
        },
    };
    let mut said = shared.said();
    said.why = why;
    said.output = None;
}

fn tell(shared: &Shared, bytes: &[u8]) {
    let mut said = shared.said();
    said.scroll_back.extend_from_slice(bytes);
    let over = said.scroll_back.len().saturating_sub(SCROLL_BACK);
    said.scroll_back.drain(..over);
    if let Some(output) = &said.output {
        // Nobody may be there to hear it, for a moment.
        let _ = output.send(Bytes::copy_from_slice(bytes));
    }
}
