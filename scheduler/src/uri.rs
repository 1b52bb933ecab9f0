//! The only place that dereferences URIs, once, before placement (architecture.md): every source ends as a blob.
//!
//! in → a URI of a tenant's manifest · out → a granted blob · invariant: no request reaches a loopback, private or
//! metadata address unless the operator allows it; every redirect is checked again and the checked address is dialled.

use crate::blobs::{BlobError, BlobStore};
use base64::Engine as _;
use nightshift_types::{Bytes, Digest, InputRef};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use url::Url;

const MAX_REDIRECTS: usize = 5;

/// What the operator allows.
#[derive(Debug, Clone)]
pub struct FetchPolicy {
    /// Largest model or input.
    pub limit: Bytes,
    /// Longest fetch.
    pub timeout: Duration,
    /// Whether loopback and private addresses may be fetched from.
    pub allow_private: bool,
    /// Folders `file:` may name, by namespace.
    pub files: BTreeMap<String, PathBuf>,
}

impl Default for FetchPolicy {
    fn default() -> Self {
        Self {
            limit: Bytes::gibi(64),
            timeout: Duration::from_secs(3600),
            allow_private: false,
            files: BTreeMap::new(),
        }
    }
}

/// Why a source gave no blob.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The URI can never work; the text says what to write instead.
    #[error("{0}")]
    Refused(String),
    /// It may work later.
    #[error("{0}")]
    Unreachable(String),
    /// The bytes are not the digest's.
    #[error("the source's bytes have digest {found}, the manifest says {expected}")]
    Mismatch {
        /// The manifest's.
        expected: Digest,
        /// The bytes'.
        found: Digest,
    },
}

impl From<BlobError> for FetchError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::TooLarge(limit) => Self::Refused(format!("larger than the limit of {}", limit.human())),
            BlobError::Mismatch { expected, found } => Self::Mismatch { expected, found },
            BlobError::Io(error) => Self::Unreachable(format!("blob store: {error}")),
        }
    }
}

fn refused(text: impl Into<String>) -> FetchError {
    FetchError::Refused(text.into())
}

/// Brings what `uri` names into the store, granted to `namespace`.
pub async fn fetch(
    store: &BlobStore,
    policy: &FetchPolicy,
    namespace: &str,
    uri: &str,
    expected: Option<Digest>,
) -> Result<InputRef, FetchError> {
    if let Some(digest) = store_digest(uri) {
        return from_store(store, namespace, digest?, expected).await;
    }
    if let Some(rest) = uri.strip_prefix("data:") {
        return from_data(store, namespace, rest, expected).await;
    }
    let url = Url::parse(uri).map_err(|e| refused(format!("{uri:?} is not a URI: {e}")))?;
    match url.scheme() {
        "file" => from_file(store, policy, namespace, &url, expected).await,
        "http" | "https" => {
            let fetched =
                tokio::time::timeout(policy.timeout, from_http(store, policy, namespace, url, expected)).await;
            fetched.unwrap_or_else(|_| Err(FetchError::Unreachable(format!("not fetched within {:?}", policy.timeout))))
        }
        "s3" => Err(refused(
            "s3: is not supported by this version: fetch the file yourself, `nightshift push FILE`, and use the store:// URI it prints",
        )),
        other => Err(refused(format!("scheme {other:?} is not one of store, data, http, https, file"))),
    }
}

/// The blob that a `store:` URI names; `None` for any other URI.
pub fn store_digest(uri: &str) -> Option<Result<Digest, FetchError>> {
    let rest = uri.strip_prefix("store://sha256/")?;
    // A name after the digest is for people, and for what its ending says of the file.
    let hex = rest.split_once('/').map_or(rest, |(hex, _)| hex);
    Some(format!("sha256:{hex}").parse().map_err(|e| refused(format!("{e}"))))
}

async fn from_store(
    store: &BlobStore,
    namespace: &str,
    digest: Digest,
    expected: Option<Digest>,
) -> Result<InputRef, FetchError> {
    if let Some(expected) = expected.filter(|expected| *expected != digest) {
        return Err(FetchError::Mismatch { expected, found: digest });
    }
    store.stat(namespace, &digest).await.ok_or_else(|| {
        FetchError::Unreachable(format!(
            "{digest} is not in the blob store of namespace {namespace}: put it there with `nightshift push FILE -n {namespace}`"
        ))
    })
}

async fn from_data(
    store: &BlobStore,
    namespace: &str,
    rest: &str,
    expected: Option<Digest>,
) -> Result<InputRef, FetchError> {
    let (head, body) = rest.split_once(',').ok_or_else(|| refused("data: URI has no comma before its data"))?;
    let bytes = if head.ends_with(";base64") {
        base64::engine::general_purpose::STANDARD
            .decode(body)
            .map_err(|e| refused(format!("data: URI is not base64: {e}")))?
    } else {
        percent_decode(body)
    };
    let blob = store.put(namespace, &bytes).await?;
    match expected {
        Some(expected) if expected != blob.digest => Err(FetchError::Mismatch { expected, found: blob.digest }),
        _ => Ok(blob),
    }
}

fn percent_decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

async fn from_file(
    store: &BlobStore,
    policy: &FetchPolicy,
    namespace: &str,
    url: &Url,
    expected: Option<Digest>,
) -> Result<InputRef, FetchError> {
    let allowed = policy.files.get(namespace).ok_or_else(|| {
        refused(format!(
            "file: is off for namespace {namespace}: the operator allows a folder with `--allow-files {namespace}=DIR`"
        ))
    })?;
    let path = url.to_file_path().map_err(|()| refused("file: URI must be file:///ABSOLUTE/PATH"))?;
    let real = |path: &Path| {
        std::fs::canonicalize(path).map_err(|e| FetchError::Unreachable(format!("{}: {e}", path.display())))
    };
    let (allowed, path) = (real(allowed)?, real(&path)?);
    if !path.starts_with(&allowed) {
        return Err(refused(format!("{} is outside {}", path.display(), allowed.display())));
    }
    let blob = store.put_file(namespace, &path, policy.limit).await?;
    match expected {
        Some(expected) if expected != blob.digest => Err(FetchError::Mismatch { expected, found: blob.digest }),
        _ => Ok(blob),
    }
}

async fn from_http(
    store: &BlobStore,
    policy: &FetchPolicy,
    namespace: &str,
    mut url: Url,
    expected: Option<Digest>,
) -> Result<InputRef, FetchError> {
    use futures::StreamExt;
    for _ in 0..=MAX_REDIRECTS {
        let client = pinned_client(policy, &url).await?;
        let response = client.get(url.clone()).send().await.map_err(|e| unreachable(&url, &e))?;
        if response.status().is_redirection() {
            let location = response.headers().get(http::header::LOCATION).and_then(|v| v.to_str().ok());
            let location = location.ok_or_else(|| refused("a redirect without a Location"))?;
            url = url.join(location).map_err(|e| refused(format!("redirect to {location:?}: {e}")))?;
            if !matches!(url.scheme(), "http" | "https") {
                return Err(refused(format!("redirect to scheme {:?}", url.scheme())));
            }
            continue;
        }
        if !response.status().is_success() {
            return Err(FetchError::Unreachable(format!("{} answered {}", host_of(&url), response.status())));
        }
        let mut writer = store.writer(policy.limit).await?;
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            writer.write(&chunk.map_err(|e| unreachable(&url, &e))?).await?;
        }
        return Ok(store.finish(writer, namespace, expected).await?);
    }
    Err(refused(format!("more than {MAX_REDIRECTS} redirects")))
}

fn host_of(url: &Url) -> String {
    url.host_str().unwrap_or("?").to_string()
}

fn unreachable(url: &Url, error: &reqwest::Error) -> FetchError {
    // Only the host is named: a URL may carry a signature, which is a secret.
    FetchError::Unreachable(format!(
        "{}: {}",
        host_of(url),
        error.to_string().split(" for url").next().unwrap_or_default()
    ))
}

/// A client that dials exactly the address that was checked, so that a second DNS answer cannot move it.
async fn pinned_client(policy: &FetchPolicy, url: &Url) -> Result<reqwest::Client, FetchError> {
    let host = url.host_str().ok_or_else(|| refused("the URI names no host"))?;
    let port = url.port_or_known_default().unwrap_or(443);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let found = tokio::net::lookup_host((bare, port)).await;
    let addresses: Vec<SocketAddr> = found.map_err(|e| FetchError::Unreachable(format!("{host}: {e}")))?.collect();
    let allowed = |address: &SocketAddr| policy.allow_private || is_public(address.ip());
    let address = addresses.iter().find(|address| allowed(address)).ok_or_else(|| {
        refused(format!("{host} is a loopback, private or metadata address, which the operator does not allow"))
    })?;
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .resolve(bare, *address)
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(Duration::from_secs(30))
        .no_proxy()
        .build()
        .map_err(|e| FetchError::Unreachable(e.to_string()))
}

/// Whether an address is one that any stranger may be sent to.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let benchmark = a == 198 && (b == 18 || b == 19);
            !(v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_broadcast()
                || v4.is_multicast()
                || v4.is_documentation()
                || shared
                || benchmark
                || a == 0
                || a >= 240)
        }
        IpAddr::V6(v6) => {
            if let Some(v4) = v6.to_ipv4_mapped() {
                return is_public(IpAddr::V4(v4));
            }
            let first = v6.segments()[0];
            // Global unicast is 2000::/3; of it 6to4 and Teredo can hide private IPv4 addresses.
            (first & 0xe000) == 0x2000 && first != 0x2002 && !(first == 0x2001 && v6.segments()[1] == 0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses() {
        for bad in [
            "127.0.0.1",
            "10.1.2.3",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(!is_public(bad.parse().unwrap()), "{bad}");
        }
        for good in ["1.1.1.1", "2606:4700::1111"] {
            assert!(is_public(good.parse().unwrap()), "{good}");
        }
    }

    #[tokio::test]
    async fn sources() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open(&folder.path().join("blobs")).unwrap();
        let mut policy = FetchPolicy::default();
        let blob = fetch(&store, &policy, "a", "data:text/plain,hello%20x", None).await.unwrap();
        assert_eq!(store.read(&blob.digest, Bytes(100)).await.unwrap(), b"hello x");
        assert_eq!(fetch(&store, &policy, "a", "data:;base64,aGVsbG8geA==", None).await.unwrap(), blob);
        let uri = format!("store://sha256/{}", blob.digest.hex());
        assert_eq!(fetch(&store, &policy, "a", &uri, None).await.unwrap(), blob);
        assert_eq!(fetch(&store, &policy, "a", &format!("{uri}/x.jsonl"), None).await.unwrap(), blob);
        assert!(matches!(fetch(&store, &policy, "b", &uri, None).await, Err(FetchError::Unreachable(_))));
        let wrong = Some(Digest([9; 32]));
        assert!(matches!(fetch(&store, &policy, "a", &uri, wrong).await, Err(FetchError::Mismatch { .. })));
        for bad in [
            "ftp://x/y",
            "s3://b/k",
            "nonsense",
            "data:nocomma",
            "http://127.0.0.1:1/x",
            "http://[::1]/x",
            "store://sha256/zz",
        ] {
            assert!(matches!(fetch(&store, &policy, "a", bad, None).await, Err(FetchError::Refused(_))), "{bad}");
        }
        let file = folder.path().join("in.txt");
        std::fs::write(&file, "hello x").unwrap();
        let uri = format!("file://{}", file.display());
        assert!(matches!(fetch(&store, &policy, "a", &uri, None).await, Err(FetchError::Refused(_))));
        policy.files.insert("a".into(), folder.path().into());
        assert_eq!(fetch(&store, &policy, "a", &uri, None).await.unwrap(), blob);
        policy.files.insert("a".into(), folder.path().join("blobs"));
        assert!(matches!(fetch(&store, &policy, "a", &uri, None).await, Err(FetchError::Refused(_))));
    }
}
