//! Newtypes for ids. Text forms are stable: they stand in the journal, on the wire, in URLs and in certificates.
//! The texts are shared, so that a clone costs no allocation: an id stands in many places of the state.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// Longest id text we accept at any boundary, in bytes.
pub const MAX_ID_BYTES: usize = 253;

/// A text that is not the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdError {
    /// Empty, too long, or with characters outside `[A-Za-z0-9._-]`.
    #[error("{kind} {text:?} must be 1 to {MAX_ID_BYTES} characters of A-Z, a-z, 0-9, '.', '_' or '-'")]
    Characters {
        /// Which id.
        kind: &'static str,
        /// The offending text, shortened.
        text: String,
    },
    /// Not `sha256:` and 64 hexadecimal digits.
    #[error("digest {0:?} must be \"sha256:\" followed by 64 hexadecimal digits, as `sha256sum FILE` prints them")]
    Digest(String),
    /// Not `CELL/JOB/INDEX/NUMBER`.
    #[error("attempt id {0:?} must be CELL/JOB/INDEX/NUMBER")]
    Attempt(String),
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks length and characters.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                let fits = !text.is_empty() && text.len() <= MAX_ID_BYTES;
                let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
                if fits && plain { Ok(Self(text.into())) } else { Err(IdError::Characters { kind: $kind, text: shorten(&text) }) }
            }
            /// The id as text.
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> { Self::new(s) }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(s: String) -> Result<Self, IdError> { Self::new(s) }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String { id.0.as_ref().to_owned() }
        }
    };
}

text_id!(
    /// One journal with its leader; part of every global id, so that many cells can be one system later.
    CellId, "cell id");
text_id!(
    /// A job is its custom resource's uid: a deleted and re-created job is another job.
    JobId, "job id");
text_id!(
    /// A machine, as its certificate names it; also the ComputeNode's name.
    NodeId, "node id");
text_id!(
    /// The public half of a join token.
    TokenId, "token id");

/// A ledger account. Text form: `tenant/QUEUE`, `owner/NODE-OWNER`, `mint`, `house`, `escrow/OWNER`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AccountId {
    /// Where points come from; the only account that may go below zero.
    Mint,
    /// The operator's own.
    House,
    /// A TenantQueue.
    Tenant(String),
    /// A node owner.
    Owner(String),
    /// Points held back from a new or doubted owner.
    Escrow(String),
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mint => f.write_str("mint"),
            Self::House => f.write_str("house"),
            Self::Tenant(name) => write!(f, "tenant/{name}"),
            Self::Owner(name) => write!(f, "owner/{name}"),
            Self::Escrow(name) => write!(f, "escrow/{name}"),
        }
    }
}

impl FromStr for AccountId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let named = |name: &str| NodeId::new(name).map(String::from);
        match s.split_once('/') {
            None if s == "mint" => Ok(Self::Mint),
            None if s == "house" => Ok(Self::House),
            Some(("tenant", name)) => named(name).map(Self::Tenant),
            Some(("owner", name)) => named(name).map(Self::Owner),
            Some(("escrow", name)) => named(name).map(Self::Escrow),
            _ => Err(IdError::Characters { kind: "account id", text: shorten(s) }),
        }
    }
}

/// One input of a job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId {
    /// The job.
    pub job: JobId,
    /// 0 for the first input; batch/v1's completion index.
    pub index: u32,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.job, self.index)
    }
}

/// One try at one task on one node. Text form `CELL/JOB/INDEX/NUMBER`; numbers start at 1.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttemptId {
    /// The journal that placed it.
    pub cell: CellId,
    /// The task.
    pub task: TaskId,
    /// Rises with every placement of the task; the highest is the current one.
    pub number: u32,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.cell, self.task, self.number)
    }
}

impl FromStr for AttemptId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let bad = || IdError::Attempt(shorten(s));
        let mut parts = s.split('/');
        let mut next = || parts.next().ok_or_else(bad);
        let (cell, job, index, number) = (next()?, next()?, next()?, next()?);
        if parts.next().is_some() {
            return Err(bad());
        }
        Ok(Self {
            cell: cell.parse()?,
            task: TaskId { job: job.parse()?, index: index.parse().map_err(|_| bad())? },
            number: number.parse().map_err(|_| bad())?,
        })
    }
}

/// SHA-256 of some bytes. Text form `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The 64 hexadecimal digits alone.
    pub fn hex(&self) -> String {
        self.0.iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Digest {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let bad = || IdError::Digest(shorten(s));
        let digits = s.strip_prefix("sha256:").ok_or_else(bad)?;
        if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let mut bytes = [0u8; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}

/// Who may write: the journal, and the revision at which its present leader's key was created.
/// Ordered only within one journal; agents reject an older revision of the same journal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// Minted when the journal is made, or restored from a backup.
    pub journal: String,
    /// Rises with every change of leader.
    pub revision: u64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.journal, self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn attempt_round_trip() {
        let text = "local/0f-1/3/2";
        let id: AttemptId = text.parse().unwrap();
        assert_eq!(id.task.index, 3);
        assert_eq!(id.to_string(), text);
        for bad in ["", "a/b/c", "a/b/1/2/3", "a/b/x/1", "a b/c/1/1", "a/b/-1/1"] {
            assert!(bad.parse::<AttemptId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn accounts_round_trip() {
        for text in ["mint", "house", "tenant/default", "owner/n-1", "escrow/n-1"] {
            assert_eq!(text.parse::<AccountId>().unwrap().to_string(), text);
        }
        assert!("tenant/".parse::<AccountId>().is_err());
        assert!("other".parse::<AccountId>().is_err());
    }

    proptest! {
        #[test]
        fn digest_round_trip(bytes: [u8; 32]) {
            let digest = Digest(bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        }
        #[test]
        fn no_text_panics(text in ".{0,200}") {
            let _ = text.parse::<Digest>();
            let _ = text.parse::<AttemptId>();
            let _ = text.parse::<AccountId>();
            let _ = JobId::new(text);
        }
    }
}
