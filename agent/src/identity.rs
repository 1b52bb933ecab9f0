//! Who this node is: its key, its certificate, and the CA it trusts.
//!
//! in → a folder · out → [`Identity`] · invariant: the key is made here, once, and never leaves; certificate, CA and names
//! change together (one file, replaced atomically); both files are readable by their owner alone.

use crate::files;
use nightshift_types::{Digest, NodeId};
use nightshift_wire::{pki, proto};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// An identity that cannot be read or written.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The disk.
    #[error("cannot use {}: {source}; choose another place with --data-dir", path.display())]
    Disk {
        /// What we wanted.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file is not what we wrote.
    #[error("{} is damaged ({problem}): delete the folder it is in and join again with a new token", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A scheduler's answer that is no certificate for our key.
    #[error("the scheduler's answer cannot be used: {0}")]
    Answer(String),
}

#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    node: NodeId,
    cell: String,
    certificate_pem: String,
    ca_pem: String,
}

/// What a joined node dials with.
#[derive(Clone)]
pub struct Identity {
    /// Our name, as the scheduler chose it.
    pub node: NodeId,
    /// The journal we belong to.
    pub cell: String,
    /// Our certificate.
    pub certificate_pem: String,
    /// The CA we trust, alone.
    pub ca_pem: String,
    /// Our private key.
    pub key_pem: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({} of {})", self.node, self.cell)
    }
}

impl Identity {
    /// What a join token of the same cluster pins.
    pub fn ca_hash(&self) -> Result<Digest, IdentityError> {
        ca_hash(&self.ca_pem).map_err(IdentityError::Answer)
    }

    /// Seconds since 1970 at which the certificate should be renewed (two thirds of its life) and at which it ends.
    pub fn renewal(&self) -> (u64, u64) {
        let end = pki::not_after(&self.certificate_pem).unwrap_or(0);
        (end.saturating_sub(pki::NODE_CERTIFICATE_LIFE.as_secs() / 3), end)
    }
}

fn ca_hash(pem: &str) -> Result<Digest, String> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| format!("CA certificate: {e}"))?;
    Ok(pki::certificate_hash(&der))
}

/// The folder an identity lives in.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Makes the folder if it is missing.
    pub fn open(dir: &Path) -> Result<Self, IdentityError> {
        files::private_dir(dir).map_err(|source| IdentityError::Disk { path: dir.into(), source })?;
        Ok(Self { dir: dir.into() })
    }

    fn read(&self, name: &str) -> Result<(PathBuf, Option<String>), IdentityError> {
        let path = self.dir.join(name);
        match files::read_optional(&path) {
            Ok(text) => Ok((path, text)),
            Err(source) => Err(IdentityError::Disk { path, source }),
        }
    }

    fn write(&self, name: &str, text: &str) -> Result<(), IdentityError> {
        let path = self.dir.join(name);
        files::write_atomic(&path, &[text.as_bytes()]).map_err(|source| IdentityError::Disk { path, source })
    }

    /// Our key, made at the first call: an interrupted join is repeated with the same one.
    pub fn key(&self) -> Result<String, IdentityError> {
        let (path, text) = self.read("key.pem")?;
        if let Some(text) = text {
            pki::check_key(&text).map_err(|e| IdentityError::Damaged { path, problem: e.to_string() })?;
            return Ok(text);
        }
        let (key, _) = pki::node_request().map_err(|e| IdentityError::Answer(e.to_string()))?;
        self.write("key.pem", &key)?;
        Ok(key)
    }

    /// The identity of an earlier join.
    pub fn load(&self) -> Result<Option<Identity>, IdentityError> {
        let (path, text) = self.read("identity.json")?;
        let Some(text) = text else { return Ok(None) };
        let damaged = |problem: String| IdentityError::Damaged { path: path.clone(), problem };
        let stored: Stored = serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))?;
        pki::not_after(&stored.certificate_pem).map_err(|e| damaged(e.to_string()))?;
        ca_hash(&stored.ca_pem).map_err(damaged)?;
        Ok(Some(self.with_key(stored)?))
    }

    fn with_key(&self, stored: Stored) -> Result<Identity, IdentityError> {
        let Stored { node, cell, certificate_pem, ca_pem } = stored;
        Ok(Identity { node, cell, certificate_pem, ca_pem, key_pem: self.key()? })
    }

    /// Keeps what a join or a renewal answered; `ca` is the one we trust already and the answer may not change.
    pub fn save(&self, answer: &proto::JoinResponse, ca: Digest) -> Result<Identity, IdentityError> {
        let wrong = |problem: String| IdentityError::Answer(problem);
        if ca_hash(&answer.ca_pem).map_err(wrong)? != ca {
            return Err(wrong("it names another CA".into()));
        }
        let der = CertificateDer::from_pem_slice(answer.certificate_pem.as_bytes())
            .map_err(|e| wrong(format!("certificate: {e}")))?;
        let (node, key) = pki::node_of(&der).map_err(|e| wrong(e.to_string()))?;
        let csr = pki::node_request_for(&self.key()?).map_err(|e| wrong(e.to_string()))?;
        if node.as_str() != answer.node_id || pki::csr_key_hash(&csr).map_err(|e| wrong(e.to_string()))? != key {
            return Err(wrong("its certificate is for another node or key".into()));
        }
        let stored = Stored {
            node,
            cell: answer.cell_id.clone(),
            certificate_pem: answer.certificate_pem.clone(),
            ca_pem: answer.ca_pem.clone(),
        };
        let text = serde_json::to_string_pretty(&stored).map_err(|e| wrong(e.to_string()))?;
        self.write("identity.json", &text)?;
        self.with_key(stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(ca: &pki::CertificateAuthority, key: &str) -> proto::JoinResponse {
        let node = NodeId::new("attic").unwrap();
        let csr = pki::node_request_for(key).unwrap();
        proto::JoinResponse {
            node_id: node.to_string(),
            certificate_pem: ca.sign_node(&csr, &node).unwrap(),
            ca_pem: ca.certificate_pem().into(),
            cell_id: "local".into(),
        }
    }

    #[test]
    fn one_key_and_what_belongs_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("identity")).unwrap();
        assert!(store.load().unwrap().is_none());
        let key = store.key().unwrap();
        assert_eq!(store.key().unwrap(), key);
        let ca = pki::CertificateAuthority::generate("test").unwrap();
        let saved = store.save(&answer(&ca, &key), ca.hash()).unwrap();
        let loaded = store.load().unwrap().unwrap();
        assert_eq!((loaded.node.as_str(), loaded.ca_hash().unwrap()), ("attic", ca.hash()));
        assert!(saved.renewal().0 < saved.renewal().1);
        assert!(!format!("{loaded:?}").contains("PRIVATE"));

        let (other, _) = pki::node_request().unwrap();
        let refused = store.save(&answer(&ca, &other), ca.hash()).unwrap_err();
        assert!(refused.to_string().contains("another node or key"), "{refused}");
        assert!(store.save(&answer(&ca, &key), Digest([0; 32])).is_err());
        std::fs::write(dir.path().join("identity/identity.json"), "{").unwrap();
        assert!(store.load().unwrap_err().to_string().contains("join again"));
    }
}
