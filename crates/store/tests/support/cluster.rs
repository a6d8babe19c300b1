//! A real etcd of several members on this machine, made with [`StoreMember`] alone.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use store::{EtcdStore, MemberConfig, MemberStart, MemberStatus, PkiFiles, Store, StoreMember, TlsPem};
use tempfile::TempDir;

use super::{LIMIT, eventually};

pub struct TestCluster {
    _dir: TempDir,
    pki: PkiFiles,
    members: Vec<(MemberConfig, Option<StoreMember>)>,
}

/// An authority and one certificate for both roles.
pub fn make_pki(dir: &Path) -> PkiFiles {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate().expect("a key");
    let ca = params.self_signed(&ca_key).expect("the authority's certificate");
    let issuer = Issuer::new(params, ca_key);

    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().expect("a key");
    let cert = params.signed_by(&key, &issuer).expect("the host's certificate");

    let files = PkiFiles { ca: dir.join("ca.pem"), cert: dir.join("host.pem"), key: dir.join("host.key") };
    std::fs::write(&files.ca, ca.pem()).expect("write the authority's certificate");
    std::fs::write(&files.cert, cert.pem()).expect("write the certificate");
    std::fs::write(&files.key, key.serialize_pem()).expect("write the key");
    files
}

/// A port that nobody uses now.
fn free_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    format!("https://{}", listener.local_addr().expect("an address"))
}

pub fn member_config(dir: &Path, name: &str, pki: PkiFiles, start: MemberStart) -> MemberConfig {
    let data_dir = dir.join(name).join("data");
    MemberConfig { name: name.to_owned(), data_dir, client_url: free_url(), peer_url: free_url(), pki, start }
}

pub fn pid_of(member: &StoreMember) -> Option<i32> {
    match member.status() {
        MemberStatus::Running { pid, .. } => Some(pid),
        MemberStatus::Down { .. } | MemberStatus::Stopped => None,
    }
}

pub fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("send a signal");
}

/// Ended, or only what is left of it.
pub fn is_gone(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_or(true, |stat| stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim().starts_with('Z')))
}

impl TestCluster {
    /// The first member begins, the others join it as an operator's hosts would.
    pub async fn start(count: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let pki = make_pki(dir.path());
        let mut members = Vec::new();
        for index in 0..count {
            let name = format!("host{}", index + 1);
            let config = member_config(dir.path(), &name, pki.clone(), MemberStart::New);
            members.push((config, None));
        }
        let mut cluster = Self { _dir: dir, pki, members };
        cluster.restart(0).await;
        let first = cluster.store_at(vec![cluster.members[0].0.client_url.clone()]);
        eventually("the first member serves", || async { first.list("/").await.is_ok() }).await;
        for index in 1..count {
            let config = &mut cluster.members[index].0;
            let ticket = first.add_member(&config.name, &config.peer_url).await.expect("add a member");
            let again = first.add_member(&config.name, &config.peer_url).await.expect("add it again");
            assert_eq!(ticket, again, "adding is repeatable");
            config.start = MemberStart::Join(ticket.clone());
            cluster.restart(index).await;
            first.promote_when_ready(ticket.id, LIMIT).await.expect("promote the member");
        }
        let listed = first.list_members().await.expect("list the members");
        assert_eq!(listed.iter().filter(|member| !member.learner).count(), count);
        cluster.wait_until_all_serve().await;
        cluster
    }

    fn tls(&self) -> TlsPem {
        TlsPem::read(&self.pki).expect("read the certificates")
    }

    pub fn store_at(&self, endpoints: Vec<String>) -> EtcdStore {
        EtcdStore::connect(endpoints, Some(self.tls())).expect("a store")
    }

    /// On all members.
    pub fn store(&self) -> EtcdStore {
        self.store_at(self.members.iter().map(|(config, _)| config.client_url.clone()).collect())
    }

    pub fn client_address(&self, index: usize) -> SocketAddr {
        self.members[index].0.client_url.trim_start_matches("https://").parse().expect("an address")
    }

    fn pid(&self, index: usize) -> i32 {
        self.members[index].1.as_ref().and_then(pid_of).expect("a running member")
    }

    /// As if its host lost power: nobody starts it again.
    pub async fn kill(&mut self, index: usize) {
        let pid = self.pid(index);
        drop(self.members[index].1.take());
        send(pid, Signal::SIGKILL);
        eventually("the member is gone", || async move { is_gone(pid) }).await;
    }

    pub async fn restart(&mut self, index: usize) {
        let (config, member) = &mut self.members[index];
        *member = Some(StoreMember::start(config.clone()).await.expect("start a member"));
    }

    pub fn freeze(&self, index: usize) {
        send(self.pid(index), Signal::SIGSTOP);
    }

    pub fn thaw(&self, index: usize) {
        send(self.pid(index), Signal::SIGCONT);
    }

    /// The member that leads.
    pub async fn leader(&self) -> usize {
        let store = self.store();
        let limit = tokio::time::Instant::now() + LIMIT;
        while tokio::time::Instant::now() < limit {
            for (url, health) in store.health().await {
                if health.is_ok_and(|health| health.leader == Some(health.id)) {
                    let leads = |(config, _): &(MemberConfig, _)| config.client_url == url;
                    return self.members.iter().position(leads).expect("a member of ours");
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no member leads");
    }

    pub async fn wait_until_all_serve(&self) {
        for (config, _) in &self.members {
            let alone = self.store_at(vec![config.client_url.clone()]);
            eventually("every member serves", || async { alone.list("/").await.is_ok() }).await;
        }
    }

    /// Forgets all revisions but the current one.
    pub async fn compact(&self) {
        let tls = self.tls();
        let options = etcd_client::TlsOptions::new()
            .ca_certificate(etcd_client::Certificate::from_pem(&tls.ca))
            .identity(etcd_client::Identity::from_pem(&tls.cert, &tls.key));
        let options = etcd_client::ConnectOptions::new().with_tls(options);
        let url = self.members[0].0.client_url.clone();
        let mut client = etcd_client::Client::connect([url], Some(options)).await.expect("connect");
        let revision = self.store().list("/kennel/schema").await.expect("list").revision;
        client.compact(revision, None).await.expect("compact");
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        for (_, member) in &mut self.members {
            let pid = member.as_ref().and_then(pid_of);
            drop(member.take());
            if let Some(pid) = pid {
                let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}
