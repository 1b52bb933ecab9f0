//! Join tokens: `nsj1.ID.SECRET.CAHASH`. The id is public, the secret is spent once, the hash pins our CA.
//!
//! in → text from a person's clipboard · out → its checked parts · invariant: the secret is never printed by `Debug`.

use nightshift_types::{Digest, TokenId};
use rand::RngCore;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

const PREFIX: &str = "nsj1";

/// A text that is no join token.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("this is not a join token (nsj1.ID.SECRET.CAHASH): make one with `nightshift token create` and paste it whole")]
pub struct TokenError;

/// What lets one machine join, once.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The public half; stands in logs and in the journal.
    pub id: TokenId,
    secret: String,
    /// SHA-256 of the CA certificate's DER: the agent trusts no other.
    pub ca: Digest,
}

impl JoinToken {
    /// A new one, of 128 random bits.
    pub fn generate(ca: Digest) -> Self {
        let hex = |n: usize| {
            let mut bytes = vec![0u8; n];
            rand::rng().fill_bytes(&mut bytes);
            hex::encode(bytes)
        };
        let id = TokenId::new(hex(6)).unwrap_or_else(|_| unreachable!("hexadecimal digits are an id"));
        Self { id, secret: hex(16), ca }
    }

    /// The secret half, for the join request alone.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// What the journal keeps of the secret.
    pub fn secret_hash(&self) -> [u8; 32] {
        hash_secret(&self.secret)
    }
}

/// SHA-256 of a secret half; 128 random bits need no slower hash.
pub fn hash_secret(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// The text a person pastes; the only place where the secret is written.
impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}.{}.{}.{}", self.id, self.secret, self.ca.hex())
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", self.id)
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;
    fn from_str(s: &str) -> Result<Self, TokenError> {
        let parts: Vec<&str> = s.trim().split('.').collect();
        let [PREFIX, id, secret, ca] = parts[..] else { return Err(TokenError) };
        let hexadecimal = |text: &str, n: usize| text.len() == n && text.bytes().all(|b| b.is_ascii_hexdigit());
        if !hexadecimal(id, 12) || !hexadecimal(secret, 32) {
            return Err(TokenError);
        }
        let ca = format!("sha256:{ca}").parse().map_err(|_| TokenError)?;
        Ok(Self { id: TokenId::new(id).map_err(|_| TokenError)?, secret: secret.into(), ca })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_secrecy() {
        let token = JoinToken::generate(Digest([7; 32]));
        let text = token.to_string();
        assert_eq!(text.parse::<JoinToken>().unwrap(), token);
        assert!(!format!("{token:?}").contains(token.secret()));
        for bad in ["", "nsj1", "nsj1.a.b.c", &text[..text.len() - 1], &format!("x{text}"), &format!("{text}.x")] {
            assert_eq!(bad.parse::<JoinToken>(), Err(TokenError), "{bad}");
        }
    }
}
