//! Whom the client trusts: the cluster's own certificate authority, and nobody else.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::ClientError;

/// A TLS client that trusts one authority (PEM) and proves nothing of itself.
pub fn trust_only(ca: &str) -> Result<rustls::ClientConfig, ClientError> {
    let bad =
        |why: String| ClientError::Local(format!("the cluster's certificate authority is damaged: {why}"));
    let certificate =
        CertificateDer::from_pem_slice(ca.as_bytes()).map_err(|error| bad(error.to_string()))?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// For connections that use no TLS: without it the HTTP client would load the machine's own authorities.
pub(super) fn trust_nobody() -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}
