//! What every scheduler of a pool must agree on: the CA that agents trust, and the gateway's bearer token.
//!
//! in → a folder, or a Secret of the cluster · out → [`Credentials`] · invariant: made once, by whoever is first; the
//! others take what is there; the key and the token are never printed.

use crate::edge::observe::scrape_token;
use anyhow::Context as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use nightshift_wire::pki::CertificateAuthority;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

const CA_NAME: &str = "nightshift agents CA";
/// The Secret's name, unless another is given.
pub const SECRET: &str = "nightshift-scheduler";
/// Its key that holds the CA's certificate, PEM.
pub const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
/// Its key that holds the gateway's bearer token.
pub const GATEWAY_TOKEN: &str = "gateway-token";
/// For Prometheus; follows from the gateway's and is never read back.
const PROMETHEUS_TOKEN: &str = "prometheus-token";
/// Looks at a Secret that another scheduler makes at the same time, and the wait between two.
const TRIES: u32 = 100;
const AGAIN: Duration = Duration::from_millis(100);
/// Shortest token that is taken for one, in characters.
const SHORTEST_TOKEN: usize = 32;

/// The CA and the gateway's token.
pub struct Credentials {
    /// Signs agents' certificates and our own server certificates.
    pub ca: CertificateAuthority,
    /// Opens the gateway's `/v1`.
    pub gateway_token: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({:?})", self.ca)
    }
}

fn new_token() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}

impl Credentials {
    /// Of one machine: `pki/` and `gateway.json` in the data dir, made if they are missing.
    pub fn in_folder(data_dir: &Path) -> anyhow::Result<Self> {
        let known = std::fs::read(data_dir.join("gateway.json")).ok();
        let known = known.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        // With a CA it is another pool's, written by `nightshift connect`.
        let known = known.filter(|value| value.get("ca").is_none());
        let known = known.and_then(|value| value["token"].as_str().map(String::from));
        let gateway_token = known.filter(|token| token.len() >= SHORTEST_TOKEN).unwrap_or_else(new_token);
        Ok(Self { ca: ca_in_folder(&data_dir.join("pki"))?, gateway_token })
    }

    /// Of a cluster: a Secret, made by the first scheduler that looks for it.
    pub async fn in_secret(client: kube::Client, namespace: &str, name: &str) -> anyhow::Result<Self> {
        let api: Api<Secret> = Api::namespaced(client, namespace);
        let which = || format!("Secret {namespace}/{name}");
        for _ in 0..TRIES {
            let found = api.get_opt(name).await.map_err(|e| explain(e, "get", &which()))?;
            if let Some(secret) = found {
                return Self::from_secret(&secret).with_context(which);
            }
            match api.create(&PostParams::default(), &new_secret(name)?).await {
                Ok(secret) => return Self::from_secret(&secret).with_context(which),
                // Another scheduler was first; it may be a moment until reads show it.
                Err(kube::Error::Api(status)) if status.code == 409 => tokio::time::sleep(AGAIN).await,
                Err(error) => return Err(explain(error, "create", &which())),
            }
        }
        anyhow::bail!("the {} is said to be there and cannot be read: is it being deleted?", which())
    }

    fn from_secret(secret: &Secret) -> anyhow::Result<Self> {
        let data = secret.data.as_ref();
        let text = |key: &str| {
            let bytes = data.and_then(|data| data.get(key)).with_context(|| format!("it has no key {key}"))?;
            String::from_utf8(bytes.0.clone()).with_context(|| format!("its {key} is no text"))
        };
        let ca = CertificateAuthority::from_pem(&text(CA_CERTIFICATE)?, &text(CA_KEY)?);
        let gateway_token = text(GATEWAY_TOKEN)?.trim().to_string();
        anyhow::ensure!(
            gateway_token.len() >= SHORTEST_TOKEN,
            "its {GATEWAY_TOKEN} is shorter than {SHORTEST_TOKEN} characters"
        );
        Ok(Self { ca: ca.context("its CA cannot be used")?, gateway_token })
    }

    /// Writes where the gateway is, and its token, for people's tools on this machine; and for Prometheus the token that
    /// opens scrapes alone.
    pub fn write_gateway_file(&self, data_dir: &Path, http: SocketAddr) -> anyhow::Result<()> {
        let text = serde_json::json!({ "url": format!("http://{http}"), "token": self.gateway_token }).to_string();
        write_private(&data_dir.join("prometheus.token"), &scrape_token(&self.gateway_token))?;
        write_private(&data_dir.join("gateway.json"), &text)
    }
}

fn new_secret(name: &str) -> anyhow::Result<Secret> {
    let ca = CertificateAuthority::generate(CA_NAME)?;
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let token = new_token();
    let labels = [("app.kubernetes.io/name", "nightshift"), ("app.kubernetes.io/managed-by", "nightshift-scheduler")];
    let mut secret = Secret {
        data: Some(BTreeMap::from([
            (CA_CERTIFICATE.into(), bytes(ca.certificate_pem())),
            (CA_KEY.into(), bytes(ca.key_pem())),
            (PROMETHEUS_TOKEN.into(), bytes(&scrape_token(&token))),
            (GATEWAY_TOKEN.into(), bytes(&token)),
        ])),
        type_: Some("Opaque".into()),
        ..Secret::default()
    };
    secret.metadata.name = Some(name.into());
    secret.metadata.labels = Some(labels.map(|(key, value)| (key.to_string(), value.to_string())).into());
    Ok(secret)
}

fn explain(error: kube::Error, verb: &str, which: &str) -> anyhow::Error {
    match error {
        kube::Error::Api(status) if status.code == 403 => anyhow::anyhow!(
            "this scheduler may not {verb} the {which}, which holds the CA that all schedulers share: apply the chart's \
             RBAC ({})",
            status.message
        ),
        kube::Error::Api(status) if status.code == 404 => {
            anyhow::anyhow!("cannot {verb} the {which}: {}; is the namespace there?", status.message)
        }
        other => anyhow::Error::new(other).context(format!("cannot {verb} the {which}")),
    }
}

fn ca_in_folder(folder: &Path) -> anyhow::Result<CertificateAuthority> {
    std::fs::create_dir_all(folder)?;
    let (certificate, key) = (folder.join("agents-ca.crt"), folder.join("agents-ca.key"));
    if certificate.exists() && key.exists() {
        let read = |path: &Path| std::fs::read_to_string(path).with_context(|| path.display().to_string());
        return Ok(CertificateAuthority::from_pem(&read(&certificate)?, &read(&key)?)?);
    }
    let ca = CertificateAuthority::generate(CA_NAME)?;
    write_private(&key, ca.key_pem())?;
    write_private(&certificate, ca.certificate_pem())?;
    Ok(ca)
}

/// Writes a file that nobody else may read, whole or not at all.
pub fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let temporary = path.with_extension("new");
    let _ = std::fs::remove_file(&temporary);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create_new(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_them() {
        let folder = tempfile::tempdir().unwrap();
        let first = Credentials::in_folder(folder.path()).unwrap();
        first.write_gateway_file(folder.path(), "127.0.0.1:1".parse().unwrap()).unwrap();
        let again = Credentials::in_folder(folder.path()).unwrap();
        assert_eq!((first.ca.hash(), &first.gateway_token), (again.ca.hash(), &again.gateway_token));
        assert!(!format!("{first:?}").contains(&first.gateway_token));
    }

    #[test]
    fn a_secret_that_was_edited_by_hand_names_the_key() {
        let mut secret = new_secret("s").unwrap();
        assert!(Credentials::from_secret(&secret).is_ok());
        let data = secret.data.as_mut().unwrap();
        data.insert(GATEWAY_TOKEN.into(), ByteString(b"short".to_vec()));
        assert!(Credentials::from_secret(&secret).unwrap_err().to_string().contains(GATEWAY_TOKEN));
        secret.data.as_mut().unwrap().remove(CA_KEY);
        assert!(Credentials::from_secret(&secret).unwrap_err().to_string().contains(CA_KEY));
    }
}
