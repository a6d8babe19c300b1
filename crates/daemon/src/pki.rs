//! The cluster's own certificates.
//!
//! One authority for each cluster, made with it; its key stands in the state store as a secret, so that any
//! host can let a new one in. Each host draws its own key, which never leaves it, and gets a certificate for
//! it that serves both ways: the host proves itself with it to clients, to the other hosts, and to the
//! state store. The common name of a certificate is the host's name; that is how a host is known when it
//! asks another one.
//!
//! A host that joins knows only the authority's fingerprint, from its join token ([`pinned_client_config`]):
//! hosts therefore show the authority's certificate along with their own.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use model::HostName;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};

/// The name under which the authority's key stands among the store's secrets.
pub const CA_KEY_SECRET: &str = "ca-key";

const DAYS_PER_YEAR: i64 = 365;
const CA_DAYS: i64 = 10 * DAYS_PER_YEAR;
const HOST_DAYS: i64 = 2 * DAYS_PER_YEAR;
const _: () = assert!(HOST_DAYS < CA_DAYS, "a host's certificate is over before its authority's");

/// Certificates are valid from a day before they are made: clocks differ.
const CLOCK_DIFFERENCE_DAYS: i64 = 1;

/// A certificate or key that is of no use, or could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {doing}: {why}")]
pub struct PkiError {
    doing: &'static str,
    why: String,
}

fn failed<E: std::fmt::Display>(doing: &'static str) -> impl Fn(E) -> PkiError {
    move |error| PkiError { doing, why: error.to_string() }
}

/// The one crypto provider of the whole program.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The cluster's certificate authority, with its key.
pub struct CertificateAuthority {
    certificate: String,
    key: String,
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateAuthority").finish_non_exhaustive()
    }
}

impl CertificateAuthority {
    pub fn create(cluster: &str) -> Result<Self, PkiError> {
        let say = "make the cluster's certificate authority";
        let key = KeyPair::generate().map_err(failed(say))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&format!("Kennel cluster {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, CA_DAYS)?;
        let certificate = params.self_signed(&key).map_err(failed(say))?;
        Ok(Self { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// From what [`certificate_pem`](Self::certificate_pem) and [`key_pem`](Self::key_pem) gave.
    pub fn load(certificate_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let authority = Self { certificate: certificate_pem.to_owned(), key: key_pem.to_owned() };
        authority.issuer().map(|_| authority)
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }

    pub fn key_pem(&self) -> &str {
        &self.key
    }

    /// A certificate for the key that signed the request. What the request says of itself counts for
    /// nothing: the name and the address are those that the caller has checked.
    pub fn issue_host(
        &self,
        signing_request_pem: &str,
        host: &HostName,
        address: IpAddr,
    ) -> Result<String, PkiError> {
        let say = "issue a host's certificate";
        let mut request =
            CertificateSigningRequestParams::from_pem(signing_request_pem).map_err(failed(say))?;
        let dns = |name: &str| name.try_into().map(SanType::DnsName).map_err(failed(say));
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(host.as_str());
        params.subject_alt_names = vec![dns(host.as_str())?, dns("localhost")?, SanType::IpAddress(address)];
        // The lab reaches every host through a port of 127.0.0.1.
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        if address != loopback {
            params.subject_alt_names.push(SanType::IpAddress(loopback));
        }
        params.is_ca = IsCa::ExplicitNoCa;
        // QEMU demands the second one, too, although nobody enciphers keys any more.
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, HOST_DAYS)?;
        request.params = params;
        let certificate = request.signed_by(&self.issuer()?).map_err(failed(say))?;
        Ok(certificate.pem())
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, PkiError> {
        let say = "read the cluster's certificate authority";
        let key = KeyPair::from_pem(&self.key).map_err(failed(say))?;
        Issuer::from_ca_cert_pem(&self.certificate, key).map_err(failed(say))
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Whole days, because that is what rcgen takes without a second crate for time.
fn set_validity(params: &mut CertificateParams, days: i64) -> Result<(), PkiError> {
    let day = |offset: i64| {
        let time = Timestamp::now()
            .checked_add(SignedDuration::from_hours(24 * offset))
            .map_err(failed("compute a certificate's validity"))?;
        let date = time.to_zoned(jiff::tz::TimeZone::UTC).date();
        Ok(date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs()))
    };
    params.not_before = day(-CLOCK_DIFFERENCE_DAYS)?;
    params.not_after = day(days)?;
    Ok(())
}

/// A host's own key, which never leaves it.
pub struct HostKey(KeyPair);

impl std::fmt::Debug for HostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostKey").finish_non_exhaustive()
    }
}

impl HostKey {
    pub fn create() -> Result<Self, PkiError> {
        KeyPair::generate().map(Self).map_err(failed("make the host's key"))
    }

    pub fn key_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// Proves to the authority that this host has the key.
    pub fn signing_request(&self, host: &HostName) -> Result<String, PkiError> {
        let say = "make a certificate signing request";
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(host.as_str());
        let request = params.serialize_request(&self.0).map_err(failed(say))?;
        request.pem().map_err(failed(say))
    }
}

/// All that a host proves itself with; PEM each.
#[derive(Clone, PartialEq, Eq)]
pub struct HostIdentity {
    pub ca: String,
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for HostIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostIdentity").finish_non_exhaustive()
    }
}

impl HostIdentity {
    /// Serves HTTPS. A client may show a certificate; a wrong one ends the handshake.
    pub fn server_config(&self) -> Result<rustls::ServerConfig, PkiError> {
        let say = "set up the HTTPS server";
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider())
            .allow_unauthenticated()
            .build()
            .map_err(failed(say))?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(failed(say))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain()?, self.private_key()?)
            .map_err(failed(say))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Asks other hosts, and proves itself to them.
    pub fn client_config(&self) -> Result<rustls::ClientConfig, PkiError> {
        let say = "set up the HTTPS client";
        rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(failed(say))?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(self.chain()?, self.private_key()?)
            .map_err(failed(say))
    }

    fn roots(&self) -> Result<RootCertStore, PkiError> {
        let mut roots = RootCertStore::empty();
        roots.add(read_certificate(&self.ca)?).map_err(failed("trust the cluster's authority"))?;
        Ok(roots)
    }

    /// The host's certificate and the authority's, which those need who know only its fingerprint.
    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        Ok(vec![read_certificate(&self.certificate)?, read_certificate(&self.ca)?])
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, PkiError> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(failed("read the host's key"))
    }
}

fn read_certificate(pem: &str) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(failed("read a certificate"))
}

/// SHA-256 of a certificate (PEM), hexadecimal.
pub fn fingerprint(certificate_pem: &str) -> Result<String, PkiError> {
    Ok(fingerprint_of(&read_certificate(certificate_pem)?))
}

fn fingerprint_of(certificate: &CertificateDer<'_>) -> String {
    hex(&Sha256::digest(certificate.as_ref()))
}

/// Lower case.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The host name in a certificate's common name, if it is one.
pub fn host_of(certificate: &CertificateDer<'_>) -> Option<HostName> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate.as_ref()).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    name.parse().ok()
}

/// Trusts whoever shows a certificate of the authority with this fingerprint. For a host that joins.
pub fn pinned_client_config(ca_sha256: &str) -> Result<rustls::ClientConfig, PkiError> {
    let verifier = PinnedAuthority { ca_sha256: ca_sha256.to_ascii_lowercase(), provider: provider() };
    Ok(rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(failed("set up the HTTPS client"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

#[derive(Debug)]
struct PinnedAuthority {
    ca_sha256: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let authority =
            intermediates.iter().find(|c| fingerprint_of(c) == self.ca_sha256).ok_or_else(unknown)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        // From here on it is an ordinary verification, with the pinned authority as its only root.
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|_| unknown())?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_gets_the_name_that_was_checked_and_not_the_one_it_asks_for() {
        let authority = CertificateAuthority::create("lab").unwrap();
        let again = CertificateAuthority::load(authority.certificate_pem(), authority.key_pem()).unwrap();
        let key = HostKey::create().unwrap();
        let request = key.signing_request(&"impostor".parse().unwrap()).unwrap();
        let name: HostName = "host2".parse().unwrap();
        let certificate = again.issue_host(&request, &name, "10.77.0.2".parse().unwrap()).unwrap();
        assert_eq!(host_of(&read_certificate(&certificate).unwrap()), Some(name));
        let der = read_certificate(&certificate).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(der.as_ref()).unwrap();
        let usage = parsed.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && usage.key_encipherment(), "QEMU refuses it otherwise");
        let identity =
            HostIdentity { ca: authority.certificate_pem().to_owned(), certificate, key: key.key_pem() };
        identity.server_config().unwrap();
        identity.client_config().unwrap();
    }

    #[test]
    fn what_is_no_certificate_is_refused_with_a_sentence() {
        let error = CertificateAuthority::load("nonsense", "nonsense").unwrap_err().to_string();
        assert!(error.starts_with("cannot read the cluster's certificate authority: "), "{error}");
    }
}
