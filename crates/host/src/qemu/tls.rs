//! Certificates for what goes between hosts: replicas and migrations.
//!
//! A folder holds `ca-cert.pem`, `server-cert.pem`, `server-key.pem`, `client-cert.pem` and `client-key.pem`,
//! as QEMU wants them called ("TLS setup for network services" in its manual). Both sides show a certificate,
//! and each accepts whom the cluster's authority has signed; a client also compares the server's address with
//! its certificate. QEMU reads them as its own user, so that user must be able to.
//!
//! QEMU keeps credentials as objects, which hold what the files said when they were made. They are made anew
//! for each connection that is begun, so that a machine of last year uses the certificates of today. Who
//! uses the ones before keeps them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;

use super::qmp::{Qmp, QmpError};
use crate::HostError;

/// The names of the objects in QEMU.
const CLIENT: &str = "tls-client";
const SERVER: &str = "tls-server";

/// A folder of certificates; absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    folder: PathBuf,
}

impl TlsFiles {
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What this process itself shows and accepts as a client, by what the files say now.
    pub(crate) fn client(&self) -> Result<Arc<ClientConfig>, HostError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates("ca-cert.pem")? {
            roots.add(certificate).map_err(|error| self.damaged("ca-cert.pem", &error))?;
        }
        let key = PrivateKeyDer::from_pem_file(self.folder.join("client-key.pem"))
            .map_err(|error| self.damaged("client-key.pem", &error))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| HostError::Failed(format!("cannot use TLS: {error}")))?
            .with_root_certificates(roots)
            .with_client_auth_cert(self.certificates("client-cert.pem")?, key)
            .map_err(|error| self.damaged("client-cert.pem", &error))?;
        Ok(Arc::new(config))
    }

    fn certificates(&self, name: &str) -> Result<Vec<CertificateDer<'static>>, HostError> {
        CertificateDer::pem_file_iter(self.folder.join(name))
            .and_then(Iterator::collect)
            .map_err(|error| self.damaged(name, &error))
    }

    fn damaged(&self, name: &str, error: &dyn std::fmt::Display) -> HostError {
        HostError::Failed(format!(
            "cannot use the certificates in {}: {name}: {error}",
            self.folder.display()
        ))
    }
}

/// Makes an object with what a client shows, and gives its name.
pub(crate) async fn client_credentials(qmp: &Qmp, files: &TlsFiles) -> Result<&'static str, HostError> {
    renew(qmp, files, CLIENT, "client").await
}

/// Makes an object with what a server shows, and gives its name. It accepts clients that the authority signed.
pub(crate) async fn server_credentials(qmp: &Qmp, files: &TlsFiles) -> Result<&'static str, HostError> {
    renew(qmp, files, SERVER, "server").await
}

async fn renew(
    qmp: &Qmp,
    files: &TlsFiles,
    name: &'static str,
    endpoint: &str,
) -> Result<&'static str, HostError> {
    let doing = format!("use the certificates in {}", files.folder.display());
    match qmp.execute("object-del", json!({ "id": name })).await {
        // Refused: there is none yet.
        Ok(_) | Err(QmpError::Refused { .. }) => {}
        Err(error @ (QmpError::TimedOut { .. } | QmpError::Closed)) => return Err(error.into_host(&doing)),
    }
    let object = json!({
        "qom-type": "tls-creds-x509", "id": name, "dir": files.folder, "endpoint": endpoint, "verify-peer": true,
    });
    qmp.execute("object-add", object).await.map_err(|error| error.into_host(&doing))?;
    Ok(name)
}

/// The storage daemon's options for its server: an object, and its name.
pub(crate) fn server_object(files: &TlsFiles) -> (String, &'static str) {
    let folder = super::command::escape(&files.folder().display().to_string());
    (format!("tls-creds-x509,id={SERVER},dir={folder},endpoint=server,verify-peer=on"), SERVER)
}
