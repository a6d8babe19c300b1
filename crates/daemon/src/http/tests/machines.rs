//! Reaching into guests, on this host and through another one.

use std::sync::Arc;

use api::{Blob, ConsoleEvent, CreateGuest, ExecRequest, ProblemKind};
use async_trait::async_trait;
use host::{
    ExecResult, ExportName, Fill, HostError, Machine, MachineEnd, MachineEvent, MachineLabel, MirrorState,
    RunState,
};
use model::{Epoch, GuestState, VolumeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::broadcast;

use super::fixture::{PATIENCE, TestCluster, guest, refusal};

/// A machine whose serial port answers in capitals and ends at a `q`, and whose commands are echoed.
#[derive(Debug)]
struct Parrot(MachineLabel);

#[async_trait]
impl Machine for Parrot {
    fn label(&self) -> &MachineLabel {
        &self.0
    }
    fn events(&self) -> broadcast::Receiver<MachineEvent> {
        broadcast::channel(1).1
    }
    fn ended(&self) -> Option<MachineEnd> {
        None
    }
    async fn run_state(&self) -> Result<RunState, HostError> {
        Ok(RunState::Running)
    }
    async fn resume(&self) -> Result<(), HostError> {
        Ok(())
    }
    async fn request_shutdown(&self) -> Result<(), HostError> {
        Ok(())
    }
    async fn kill(&self) -> Result<(), HostError> {
        Ok(())
    }
    async fn attach_mirror(
        &self,
        _: VolumeId,
        _: std::net::SocketAddr,
        _: &ExportName,
        _: Fill,
    ) -> Result<(), HostError> {
        Ok(())
    }
    async fn mirror(&self, _: VolumeId) -> Result<MirrorState, HostError> {
        Ok(MirrorState::Absent)
    }
    async fn let_go(&self, _: VolumeId) -> Result<(), HostError> {
        Ok(())
    }
    async fn serial(&self) -> Result<UnixStream, HostError> {
        let (ours, mut guests) = UnixStream::pair().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 64];
            while let Ok(length @ 1..) = guests.read(&mut buffer).await {
                if buffer[..length].contains(&b'q') {
                    return;
                }
                guests.write_all(&buffer[..length].to_ascii_uppercase()).await.unwrap();
            }
        });
        Ok(ours)
    }
    /// Greets, as RFB does, and shows whatever is pressed.
    async fn screen(&self) -> Result<UnixStream, HostError> {
        let (ours, mut guests) = UnixStream::pair().unwrap();
        tokio::spawn(async move {
            guests.write_all(b"RFB").await.unwrap();
            let mut buffer = [0; 64];
            while let Ok(length @ 1..) = guests.read(&mut buffer).await {
                guests.write_all(&buffer[..length]).await.unwrap();
            }
        });
        Ok(ours)
    }
    async fn exec(&self, command: &[String], input: &[u8]) -> Result<ExecResult, HostError> {
        if command[0] == "missing" {
            return Err(HostError::NotFound("there is no program 'missing' in the guest".to_owned()));
        }
        let stdout = format!("{command:?}").into_bytes();
        Ok(ExecResult { exit_status: 3, stdout, stderr: input.to_vec() })
    }
}

/// Two hosts, a guest on the second.
async fn cluster_with_guest() -> TestCluster {
    let cluster = TestCluster::start(2).await;
    let name = guest("web1");
    cluster.client().create_guest(&CreateGuest::new(name.clone())).await.unwrap();
    cluster.settle(&name, 1, GuestState::Running).await;
    let id = cluster.state.view().guests[&name].id;
    let label = MachineLabel { guest: name, id, epoch: Epoch::FIRST, boot_generation: 1 };
    cluster.hosts[1].backend.machines.lock().unwrap().insert(id, Arc::new(Parrot(label)));
    cluster
}

#[tokio::test]
async fn a_command_runs_inside_whichever_host_is_asked() {
    let cluster = cluster_with_guest().await;
    for asked in [0, 1] {
        let client = cluster.client_of(asked);
        let command = vec!["cat".to_owned(), "a b".to_owned()];
        let request = ExecRequest { command, input: Blob(vec![0, 255, 10]) };
        let answer = client.exec(&guest("web1"), &request).await.unwrap();
        assert_eq!(answer.exit_status, 3);
        assert_eq!(
            (answer.stdout.0.as_slice(), answer.stderr.0),
            (&br#"["cat", "a b"]"#[..], vec![0, 255, 10])
        );
        let request = ExecRequest { command: vec!["missing".to_owned()], input: Blob::default() };
        let problem = refusal(client.exec(&guest("web1"), &request).await);
        assert!(problem.why.contains("no program 'missing'"), "{problem}");
    }
}

async fn receive(console: &mut api::Console) -> ConsoleEvent {
    tokio::time::timeout(PATIENCE, console.receive()).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_console_is_a_two_way_stream_until_the_machine_ends() {
    let cluster = cluster_with_guest().await;
    for asked in [0, 1] {
        let mut console = cluster.client_of(asked).console(&guest("web1"), false).await.unwrap();
        console.send(b"hello").await.unwrap();
        assert_eq!(receive(&mut console).await, ConsoleEvent::Output(b"HELLO".to_vec()), "through {asked}");
        console.send(b"q").await.unwrap();
        assert_eq!(receive(&mut console).await, ConsoleEvent::Ended("the guest's machine ended".to_owned()));
    }
}

#[tokio::test]
async fn a_screen_is_seen_by_several_through_whichever_host_is_asked() {
    let cluster = cluster_with_guest().await;
    let mut here = cluster.client_of(1).screen(&guest("web1")).await.unwrap();
    let mut there = cluster.client_of(0).screen(&guest("web1")).await.unwrap();
    for screen in [&mut here, &mut there] {
        assert_eq!(receive(screen).await, ConsoleEvent::Output(b"RFB".to_vec()));
        screen.send(&[4, 0, 255]).await.unwrap();
        assert_eq!(receive(screen).await, ConsoleEvent::Output(vec![4, 0, 255]));
    }
    assert_eq!(refusal(cluster.client().screen(&guest("none")).await).kind, ProblemKind::NotFound);
}

#[tokio::test]
async fn several_look_at_one_console_and_who_comes_later_sees_what_was() {
    let cluster = cluster_with_guest().await;
    let mut first = cluster.client_of(1).console(&guest("web1"), false).await.unwrap();
    first.send(b"hello").await.unwrap();
    assert_eq!(receive(&mut first).await, ConsoleEvent::Output(b"HELLO".to_vec()));
    // Through the other host.
    let mut second = cluster.client_of(0).console(&guest("web1"), true).await.unwrap();
    assert_eq!(receive(&mut second).await, ConsoleEvent::Output(b"HELLO".to_vec()));
    second.send(b"all").await.unwrap();
    for console in [&mut first, &mut second] {
        assert_eq!(receive(console).await, ConsoleEvent::Output(b"ALL".to_vec()));
    }
    first.send(b"q").await.unwrap();
    for console in [&mut first, &mut second] {
        let end = receive(console).await;
        assert_eq!(end, ConsoleEvent::Ended("the guest's machine ended".to_owned()));
    }
}

#[tokio::test]
async fn what_a_guest_said_last_outlives_its_machine_on_every_host_where_it_was() {
    let cluster = cluster_with_guest().await;
    let id = cluster.state.view().guests[&guest("web1")].id;
    let say = |host: usize, text: &str, second: u64| {
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(second);
        cluster.hosts[host].backend.said.lock().unwrap().insert(id, (text.as_bytes().to_vec(), at));
    };
    assert_eq!(cluster.client().last_lines(&guest("web1")).await.unwrap(), api::LastLines::default());
    say(0, "panic: not syncing", 200);
    say(1, "hello", 100);
    for asked in [0, 1] {
        let lines = cluster.client_of(asked).last_lines(&guest("web1")).await.unwrap();
        let told: Vec<_> = lines.hosts.iter().map(|part| (part.host.as_str(), &part.text.0[..])).collect();
        assert_eq!(told, [("host2", &b"hello"[..]), ("host1", b"panic: not syncing")], "through {asked}");
        assert!(lines.silent.is_empty());
    }
    cluster.lose_host(1).await;
    let lines = cluster.client_of(0).last_lines(&guest("web1")).await.unwrap();
    assert_eq!(lines.hosts.len(), 1);
    assert_eq!(lines.silent, ["host2".parse().unwrap()], "what it kept is missing");
}

#[tokio::test]
async fn what_has_no_console_says_why() {
    let cluster = cluster_with_guest().await;
    let client = cluster.client_of(0);
    assert_eq!(refusal(client.console(&guest("none"), false).await).kind, ProblemKind::NotFound);
    client.create_guest(&CreateGuest::new(guest("web2"))).await.unwrap();
    assert!(refusal(client.console(&guest("web2"), false).await).why.contains("no host yet"));
    cluster.settle(&guest("web2"), 1, GuestState::Stopped).await;
    let problem = refusal(client.console(&guest("web2"), false).await);
    assert_eq!(problem.instead, "start it with `kennel guest start web2`", "passed on word for word");
    cluster.lose_host(1).await;
    assert!(refusal(client.console(&guest("web1"), false).await).why.contains("its host host2 is lost"));
}
