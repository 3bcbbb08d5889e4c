//! Secrets that are handed out once and kept as hashes: of enrolment keys, tokens and members' owners.

use std::{fmt, str::FromStr};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde::{Deserialize, Serialize};

use super::Name;

/// A secret of 32 random bytes, which the edge draws. Its text is base64 for URLs, 43 characters.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

impl Secret {
    /// What is kept of it. The secret is random and long, so a plain hash can't be searched.
    pub fn hash(&self) -> SecretHash {
        let mut hasher = blake2s_simd::Params::new().personal(b"wgrelay1").to_state();
        SecretHash(*hasher.update(&self.0).finalize().as_array())
    }

    /// The text to hand out, once.
    pub fn reveal(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.0)
    }
}

impl FromStr for Secret {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| ())?;
        Ok(Self(bytes.try_into().map_err(|_| ())?))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A hash of a [`Secret`].
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// Whether it is the hash of this secret. Takes the same time whatever differs.
    pub fn is_of(&self, secret: &Secret) -> bool {
        blake2s_simd::Hash::from(secret.hash().0) == blake2s_simd::Hash::from(self.0)
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

impl From<SecretHash> for String {
    fn from(hash: SecretHash) -> Self {
        BASE64_URL_SAFE_NO_PAD.encode(hash.0)
    }
}

impl TryFrom<String> for SecretHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        Ok(Self(text.parse::<Secret>().map_err(|()| "not a hash of 43 characters")?.0))
    }
}

/// What somebody shows: whose secret it is, and the secret. Its text is `ID.SECRET`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The id of an enrolment key or token, or a member's name.
    pub id: Name,
    /// The secret.
    pub secret: Secret,
}

impl Credential {
    /// The text to hand out, once.
    pub fn reveal(&self) -> String {
        format!("{}.{}", self.id, self.secret.reveal())
    }
}

impl FromStr for Credential {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        // A name may hold dots, a secret can't.
        let (id, secret) = text.rsplit_once('.').ok_or(())?;
        Ok(Self { id: id.parse().map_err(|_| ())?, secret: secret.parse()? })
    }
}
