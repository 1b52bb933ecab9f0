//! Certificates: our own CA, the scheduler's server certificate, the nodes' client certificates.
//!
//! in → key files, CSRs, peers' certificates · out → PEM and rustls settings · invariant: a node's name in its
//! certificate is ours, never the CSR's; a private key never leaves the machine that made it.

use nightshift_types::{Digest, NodeId};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use sha2::{Digest as _, Sha256};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use thiserror::Error;

/// The name in the scheduler's certificate: agents ask for it whatever address they dial.
pub const SERVER_NAME: &str = "scheduler.nightshift.dev";
/// How long a node's certificate is good; agents renew at two thirds.
pub const NODE_CERTIFICATE_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Clocks of machines differ: certificates begin this much earlier.
const BACKDATE: Duration = Duration::from_secs(3600);
/// Longest CSR or certificate text we parse.
const MAX_PEM: usize = 16 * 1024;

/// A certificate that cannot be made or read.
#[derive(Debug, Error)]
pub enum PkiError {
    /// The library's words.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// TLS settings.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Malformed PEM, name or key.
    #[error("{0}")]
    Malformed(String),
}

fn malformed(what: impl Into<String>) -> PkiError {
    PkiError::Malformed(what.into())
}

/// Our CA. Kept by the scheduler; its certificate is public, its key is not.
pub struct CertificateAuthority {
    certificate_pem: String,
    certificate_der: CertificateDer<'static>,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CertificateAuthority({})", self.hash())
    }
}

impl CertificateAuthority {
    /// A new CA with a key of its own.
    pub fn generate(common_name: &str) -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = common_name_only(common_name);
        set_life(&mut params, CA_LIFE);
        let certificate = params.self_signed(&key)?;
        Self::from_pem(&certificate.pem(), &key.serialize_pem())
    }

    /// From what [`Self::certificate_pem`] and [`Self::key_pem`] gave.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|e| malformed(format!("CA certificate: {e}")))?;
        let issuer = Issuer::from_ca_cert_der(&der, KeyPair::from_pem(key_pem)?)?;
        Ok(Self { certificate_pem: certificate_pem.into(), certificate_der: der, key_pem: key_pem.into(), issuer })
    }

    /// The certificate, for everybody.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key, for the scheduler's own storage.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// What a join token pins.
    pub fn hash(&self) -> Digest {
        certificate_hash(&self.certificate_der)
    }

    /// The scheduler's identity: (chain with the CA at its end, key), for [`SERVER_NAME`], loopback and `names`.
    pub fn server_identity(&self, names: &[String]) -> Result<(String, String), PkiError> {
        let mut all = vec![SERVER_NAME.to_string(), "localhost".into(), "127.0.0.1".into(), "::1".into()];
        all.extend(names.iter().cloned());
        all.dedup();
        let mut params = CertificateParams::new(all)?;
        params.distinguished_name = common_name_only(SERVER_NAME);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        set_life(&mut params, CA_LIFE / 10);
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.issuer)?;
        Ok((format!("{}{}", leaf.pem(), self.certificate_pem), key.serialize_pem()))
    }

    /// A client certificate for `node`. Of the CSR only the public key is taken.
    pub fn sign_node(&self, csr_pem: &str, node: &NodeId) -> Result<String, PkiError> {
        let csr = parse_csr(csr_pem)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name_only(node.as_str());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        set_life(&mut params, NODE_CERTIFICATE_LIFE);
        Ok(params.signed_by(&csr.public_key, &self.issuer)?.pem())
    }
}

fn common_name_only(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn set_life(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + life).into();
}

fn parse_csr(csr_pem: &str) -> Result<CertificateSigningRequestParams, PkiError> {
    if csr_pem.len() > MAX_PEM {
        return Err(malformed(format!("CSR is longer than {MAX_PEM} bytes")));
    }
    CertificateSigningRequestParams::from_pem(csr_pem).map_err(|e| malformed(format!("CSR: {e}")))
}

/// SHA-256 of the public key in a CSR: what the journal binds a spent token to.
pub fn csr_key_hash(csr_pem: &str) -> Result<[u8; 32], PkiError> {
    Ok(Sha256::digest(parse_csr(csr_pem)?.public_key.der_bytes()).into())
}

/// A node's own key and the CSR for it: (key PEM, CSR PEM).
pub fn node_request() -> Result<(String, String), PkiError> {
    let key = KeyPair::generate()?;
    let csr = node_request_for(&key.serialize_pem())?;
    Ok((key.serialize_pem(), csr))
}

/// A CSR for an existing key, for renewal.
pub fn node_request_for(key_pem: &str) -> Result<String, PkiError> {
    let key = KeyPair::from_pem(key_pem)?;
    Ok(CertificateParams::default().serialize_request(&key)?.pem()?)
}

/// SHA-256 of a certificate's DER.
pub fn certificate_hash(der: &CertificateDer<'_>) -> Digest {
    Digest(Sha256::digest(der).into())
}

/// What a verified peer's certificate says: who it is, and the hash of its public key.
pub fn node_of(der: &[u8]) -> Result<(NodeId, [u8; 32]), PkiError> {
    let (_, certificate) =
        x509_parser::parse_x509_certificate(der).map_err(|e| malformed(format!("peer certificate: {e}")))?;
    let name = certificate.subject().iter_common_name().next().and_then(|n| n.as_str().ok());
    let name = name.ok_or_else(|| malformed("peer certificate has no common name"))?;
    let node = NodeId::new(name).map_err(|e| malformed(e.to_string()))?;
    let key = certificate.public_key().subject_public_key.data.as_ref();
    Ok((node, Sha256::digest(key).into()))
}

/// Seconds since 1970 at which a PEM certificate ends, for renewal.
pub fn not_after(certificate_pem: &str) -> Result<u64, PkiError> {
    let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
        .map_err(|e| malformed(format!("certificate: {e}")))?;
    let (_, certificate) =
        x509_parser::parse_x509_certificate(&der).map_err(|e| malformed(format!("certificate: {e}")))?;
    Ok(certificate.validity().not_after.timestamp().max(0) as u64)
}

/// Settings of a client that has not joined yet: it trusts whoever shows the CA of this hash, and keeps that CA.
/// Use it for one handshake ([`PinnedCa::certificate_pem`] afterwards), then dial again with the CA itself: that
/// second handshake proves that the peer holds a certificate of this CA.
pub fn pinned_client(ca: Digest) -> Result<(rustls::ClientConfig, Arc<PinnedCa>), PkiError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pinned = Arc::new(PinnedCa { ca, seen: Mutex::new(None), provider: provider.clone() });
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(pinned.clone())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok((config, pinned))
}

/// Accepts a chain that ends in one certain CA, and remembers it.
#[derive(Debug)]
pub struct PinnedCa {
    ca: Digest,
    seen: Mutex<Option<Vec<u8>>>,
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl PinnedCa {
    /// The CA's certificate, after a handshake that succeeded.
    pub fn certificate_pem(&self) -> Option<String> {
        use base64::Engine as _;
        let seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let text = base64::engine::general_purpose::STANDARD.encode(seen.as_ref()?);
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
        Some(format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n")))
    }
}

impl rustls::client::danger::ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        let found = intermediates.iter().chain([end_entity]).find(|der| certificate_hash(der) == self.ca);
        let Some(ca) = found else {
            return Err(rustls::Error::General(
                "the server does not show the CA that the join token names: wrong address, or an old token".into(),
            ));
        };
        *self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(ca.to_vec());
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// TLS settings of an HTTPS server whose clients show no certificate.
pub fn server_config(ca: &CertificateAuthority, names: &[String]) -> Result<Arc<rustls::ServerConfig>, PkiError> {
    let (chain, key) = ca.server_identity(names)?;
    let unreadable = |e: rustls::pki_types::pem::Error| malformed(format!("server certificate: {e}"));
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().map_err(unreadable)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(unreadable)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Checks that a key file's text is a private key.
pub fn check_key(key_pem: &str) -> Result<(), PkiError> {
    PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map(drop).map_err(|e| malformed(format!("private key: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_gets_the_name_we_choose() {
        let ca = CertificateAuthority::generate("test").unwrap();
        let again = CertificateAuthority::from_pem(ca.certificate_pem(), ca.key_pem()).unwrap();
        assert_eq!(ca.hash(), again.hash());
        let (key, csr) = node_request().unwrap();
        check_key(&key).unwrap();
        let node = NodeId::new("basement-pc").unwrap();
        let pem = again.sign_node(&csr, &node).unwrap();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let (name, key_hash) = node_of(&der).unwrap();
        assert_eq!(name, node);
        assert_eq!(key_hash, csr_key_hash(&csr).unwrap());
        assert_eq!(csr_key_hash(&node_request_for(&key).unwrap()).unwrap(), key_hash);
        assert!(not_after(&pem).unwrap() > 1_700_000_000);
    }

    #[test]
    fn malformed_requests_are_errors() {
        let ca = CertificateAuthority::generate("test").unwrap();
        let node = NodeId::new("n").unwrap();
        for bad in [
            "",
            "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
            &"x".repeat(MAX_PEM + 1),
        ] {
            assert!(ca.sign_node(bad, &node).is_err());
        }
        assert!(node_of(b"junk").is_err());
    }
}
