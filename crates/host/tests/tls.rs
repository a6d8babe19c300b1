//! Replicas and migrations between hosts that know each other by certificates.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{Bench, check_records, wait_until, wait_until_ready};
use host::qemu::TlsFiles;
use host::replica::{self, ReplicaClient};
use host::{Fill, HostError, Hypervisor, MigrationPhase, MigrationSettings, ReplicaServer, RunState};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A certificate authority of its own, and what a host at `address` shows.
fn certificates(folder: &Path, address: &str) -> TlsFiles {
    std::fs::create_dir_all(folder).unwrap();
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(params, authority_key);
    std::fs::write(folder.join("ca-cert.pem"), authority.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress(address.parse().unwrap())];
    // QEMU wants both.
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &issuer).unwrap();
    for side in ["server", "client"] {
        std::fs::write(folder.join(format!("{side}-cert.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{side}-key.pem")), key.serialize_pem()).unwrap();
    }
    TlsFiles::new(folder)
}

fn encrypted_bench() -> Bench {
    let mut bench = Bench::new();
    bench.tls = Some(certificates(&bench.path("pki"), "127.0.0.1"));
    bench
}

#[tokio::test]
async fn a_whole_life_is_encrypted() {
    let bench = encrypted_bench();
    let (target, export) = (bench.replica_address(), bench.export(1));
    let replicas = bench.replicas(None);
    replicas.serve(bench.volume, &export, bench.path("secondary.raw")).await.unwrap();
    assert!(replica::probe(target).await);
    let client = ReplicaClient::new(bench.tls.clone());
    assert_eq!(client.ask(target, &export).await.unwrap(), common::writer::DISK as u64);
    let source = bench.writing_guest().await;
    source.attach_mirror(bench.volume, target, &export, Fill::Everything).await.unwrap();
    wait_until_ready(&source, bench.volume).await;
    source.attach_mirror(bench.volume, target, &export, Fill::Everything).await.unwrap();
    source.track(bench.volume, &bench.replica_file("host2", "secondary.raw")).await.unwrap();

    // The secondary goes and comes back.
    bench.kill_9("qemu-storage-daemon");
    bench.held().await;
    source.let_go(bench.volume).await.unwrap();
    bench.writes_on().await;
    let export = bench.export(2);
    replicas.serve(bench.volume, &export, bench.path("secondary.raw")).await.unwrap();
    source.attach_mirror(bench.volume, target, &export, Fill::Changed).await.unwrap();
    wait_until_ready(&source, bench.volume).await;

    // And the guest moves there.
    let machine_type = source.machine_type().await.unwrap();
    let machine =
        bench.driver_there().launch_incoming(&bench.config("secondary.raw"), &machine_type).await.unwrap();
    let settings = MigrationSettings::default();
    let address = machine.listen("127.0.0.1:0".parse().unwrap(), &settings).await.unwrap();
    source.migrate(address, &settings).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while source.migration().await.unwrap().phase != MigrationPhase::PreSwitchover {
        assert!(Instant::now() < deadline, "{:?}", source.migration().await);
    }
    source.hand_over().await.unwrap();
    replicas.withdraw(bench.volume).await.unwrap();
    while machine.run_state().await.unwrap() != RunState::Arrived {
        assert!(Instant::now() < deadline);
    }
    machine.resume().await.unwrap();
    let last = bench.acknowledged();
    wait_until("the guest writes there", || bench.acknowledged_there() > last + 20).await;
    machine.kill().await.unwrap();
    check_records(&bench.disk("secondary.raw"), bench.acknowledged_there(), "the new primary");
}

#[tokio::test]
async fn strangers_are_not_let_in() {
    let bench = encrypted_bench();
    let (target, export) = (bench.replica_address(), bench.export(1));
    let replicas = bench.replicas(None);
    replicas.serve(bench.volume, &export, bench.path("secondary.raw")).await.unwrap();
    let refused = replica::ask(target, &export).await.unwrap_err();
    assert!(matches!(refused, HostError::Failed(_)), "{refused}");
    assert!(refused.to_string().contains("demands TLS"), "{refused}");
    let stranger = certificates(&bench.path("other-pki"), "127.0.0.1");
    let refused = ReplicaClient::new(Some(stranger)).ask(target, &export).await.unwrap_err();
    assert!(matches!(refused, HostError::Failed(_)), "{refused}");
    let missing =
        ReplicaClient::new(Some(TlsFiles::new("/nonexistent"))).ask(target, &export).await.unwrap_err();
    assert!(missing.to_string().contains("/nonexistent: ca-cert.pem"), "{missing}");
}

#[tokio::test]
async fn a_server_that_shows_the_certificate_of_another_address_is_refused() {
    let mut bench = Bench::new();
    bench.tls = Some(certificates(&bench.path("pki"), "192.0.2.1"));
    let (target, export) = (bench.replica_address(), bench.export(1));
    let replicas = bench.replicas(None);
    replicas.serve(bench.volume, &export, bench.path("secondary.raw")).await.unwrap();
    let machine = bench.writing_guest().await;
    let refused = machine.attach_mirror(bench.volume, target, &export, Fill::Everything).await.unwrap_err();
    assert!(refused.to_string().contains("certificate"), "{refused}");
    bench.writes_on().await;
}
