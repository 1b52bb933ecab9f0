//! In: the data directory → out: the CA, the serving certificate, the tokens, the kubeconfig → invariant: made once and kept;
//! secrets are only ever in files of mode 0600 that were so from their creation; the serving certificate is renewed at start.

use anyhow::Context;
use base64::Engine;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the server proves itself with.
pub(crate) struct Pki {
    pub ca_pem: String,
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

const CA_DAYS: i64 = 3650;
const SERVING_DAYS: i64 = 365;

pub(crate) fn private_dir(path: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("create {}", path.display()))
}

/// Writes a file of mode 0600, whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let tmp = path.with_extension("tmp");
    let _ = std::fs::remove_file(&tmp);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&tmp)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&tmp, path).with_context(|| format!("write {}", path.display()))
}

/// Reads what an earlier start kept, or makes and keeps it.
fn kept(path: PathBuf, make: impl FnOnce() -> anyhow::Result<String>) -> anyhow::Result<String> {
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let text = make()?;
            write_private(&path, &text)?;
            Ok(text)
        }
        Err(e) => Err(e).with_context(|| format!("read {}", path.display())),
    }
}

/// A random token, kept under `name`.
pub(crate) fn token(dir: &Path, name: &str) -> anyhow::Result<String> {
    let text = kept(dir.join(name), || Ok(hex::encode(rand::random::<[u8; 32]>())))?;
    Ok(text.trim().to_owned())
}

fn validity(params: &mut CertificateParams, days: i64) {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let date = |d: jiff::civil::Date| rcgen::date_time_ymd(d.year().into(), d.month() as u8, d.day() as u8);
    params.not_before = date(today.saturating_sub(jiff::Span::new().days(1)));
    params.not_after = date(today.saturating_add(jiff::Span::new().days(days)));
}

fn ca_params() -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "nightshift-api-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    validity(&mut params, CA_DAYS);
    Ok(params)
}

/// Opens the PKI in `dir`; the serving certificate names localhost, the loopback addresses and `names`.
pub(crate) fn open(dir: &Path, names: &[String]) -> anyhow::Result<Pki> {
    private_dir(dir)?;
    let ca_key = KeyPair::from_pem(&kept(dir.join("ca.key"), || Ok(KeyPair::generate()?.serialize_pem()))?)?;
    let ca_pem = kept(dir.join("ca.crt"), || Ok(ca_params()?.self_signed(&ca_key)?.pem()))?;
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, ca_key)?;
    let mut sans: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    sans.extend(names.iter().filter(|n| !sans.contains(n)).cloned().collect::<Vec<_>>());
    let mut params = CertificateParams::new(sans)?;
    params.distinguished_name.push(DnType::CommonName, "nightshift-api");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    validity(&mut params, SERVING_DAYS);
    let key = KeyPair::generate()?;
    let cert = params.signed_by(&key, &issuer)?;
    write_private(&dir.join("server.crt"), &cert.pem())?;
    write_private(&dir.join("server.key"), &key.serialize_pem())?;
    Ok(Pki {
        ca_pem,
        chain: vec![cert.der().clone()],
        key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
    })
}

impl Pki {
    pub fn server_config(self) -> anyhow::Result<Arc<rustls::ServerConfig>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(self.chain, self.key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// The kubeconfig of the admin token.
pub(crate) fn kubeconfig(addr: SocketAddr, ca_pem: &str, token: &str) -> String {
    let ca = base64::engine::general_purpose::STANDARD.encode(ca_pem);
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: nightshift\nclusters:\n- name: nightshift\n  cluster:\n    server: \
         https://{addr}\n    certificate-authority-data: {ca}\nusers:\n- name: nightshift\n  user:\n    token: {token}\n\
         contexts:\n- name: nightshift\n  context:\n    cluster: nightshift\n    user: nightshift\n    namespace: default\n"
    )
}
