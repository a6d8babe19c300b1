//! Writes that come late: a mirror was let go of while the network did not carry its writes, and the kernel goes on
//! sending them. A relay between QEMU and the storage daemon stands for that network.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use common::{Bench, wait_until, wait_until_ready};
use host::{Fill, Machine, ReplicaServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Passes connections on, and keeps what clients send while it is cut, also when the client is gone by then.
struct Relay {
    address: SocketAddr,
    cut: watch::Sender<bool>,
    /// Connections that the server has ended.
    ended: Arc<AtomicU32>,
}

impl Relay {
    async fn to(server: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, is_cut) = watch::channel(false);
        let ended = Arc::new(AtomicU32::new(0));
        let counted = ended.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(server).await else { continue };
                tokio::spawn(pass_on(client, server, is_cut.clone(), counted.clone()));
            }
        });
        Relay { address, cut, ended }
    }
}

async fn pass_on(
    client: TcpStream,
    server: TcpStream,
    mut is_cut: watch::Receiver<bool>,
    ended: Arc<AtomicU32>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move {
        // An error says that the server or the client is gone, as the end does.
        drop(tokio::io::copy(&mut from_server, &mut to_client).await);
        ended.fetch_add(1, Ordering::SeqCst);
    });
    let (mut kept, mut open, mut piece) = (Vec::new(), true, vec![0; 1 << 16]);
    while open || !kept.is_empty() {
        tokio::select! {
            read = from_client.read(&mut piece), if open => match read {
                Ok(length @ 1..) => kept.extend_from_slice(&piece[..length]),
                Ok(0) | Err(_) => open = false,
            },
            changed = is_cut.changed() => if changed.is_err() { return },
        }
        if !*is_cut.borrow() {
            let sent = to_server.write_all(&kept).await;
            kept.clear();
            if sent.is_err() {
                return;
            }
        }
    }
}

/// A guest whose mirror was let go of while the relay was cut, with its writes still in the relay; and the secondary's
/// contents.
async fn let_go_in_a_cut(bench: &Bench, replicas: &impl ReplicaServer) -> (Arc<dyn Machine>, Relay, Vec<u8>) {
    let relay = Relay::to(bench.replica_address()).await;
    replicas.serve(bench.volume, &bench.export(1), bench.path("secondary.raw")).await.unwrap();
    let machine = bench.writing_guest().await;
    machine.attach_mirror(bench.volume, relay.address, &bench.export(1), Fill::Everything).await.unwrap();
    wait_until_ready(&machine, bench.volume).await;
    relay.cut.send_replace(true);
    let held_at = bench.held().await;
    machine.let_go(bench.volume).await.unwrap();
    wait_until("the guest writes again", || bench.acknowledged() > held_at).await;
    let contents = bench.disk("secondary.raw");
    (machine, relay, contents)
}

#[tokio::test]
async fn what_an_old_connection_carries_is_written_late() {
    let bench = Bench::new();
    let replicas = bench.replicas(None);
    let (machine, relay, before) = let_go_in_a_cut(&bench, &replicas).await;
    assert_eq!(bench.disk("secondary.raw"), before);
    relay.cut.send_replace(false);
    wait_until("the late write is there", || bench.disk("secondary.raw") != before).await;
    machine.kill().await.unwrap();
}

#[tokio::test]
async fn it_is_not_once_its_connections_were_ended() {
    let bench = Bench::new();
    let replicas = bench.replicas(None);
    let (machine, relay, before) = let_go_in_a_cut(&bench, &replicas).await;
    let ended = relay.ended.load(Ordering::SeqCst);
    replicas.end_connections(bench.volume, &bench.export(1)).await.unwrap();
    wait_until("the server has ended them", || relay.ended.load(Ordering::SeqCst) > ended).await;
    relay.cut.send_replace(false);
    // It is served on, and what is filled now stays.
    machine.attach_mirror(bench.volume, relay.address, &bench.export(1), Fill::Everything).await.unwrap();
    wait_until_ready(&machine, bench.volume).await;
    assert_ne!(bench.disk("secondary.raw"), before);
    assert!(replicas.end_connections(bench.volume, &bench.export(2)).await.is_err(), "nothing is served so");
    bench.writes_on().await;
    machine.kill().await.unwrap();
}
