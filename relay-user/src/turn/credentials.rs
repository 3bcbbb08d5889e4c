//! Who may use the server: long-term credentials (RFC 8489, section 9.2). Passwords are not kept, but the key that is made of
//! them.

use std::{collections::HashMap, fmt, str::FromStr};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, Mac as _};
use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};
use sha1::Sha1;

/// A user's long-term key: MD5 of `username:realm:password`. It is as good as the password, for this realm. Written as 32
/// hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key([u8; 16]);

impl Key {
    /// The key of a user with this password.
    pub fn of(username: &str, realm: &str, password: &str) -> Self {
        let mut digest = Md5::new();
        for part in [username, ":", realm, ":", password] {
            digest.update(part.as_bytes());
        }
        Self(digest.finalize().into())
    }

    /// From 32 hexadecimal digits; `None` if it is something else.
    pub fn from_hex(hex: &str) -> Option<Self> {
        sixteen_bytes(hex).map(Self)
    }

    /// As 32 hexadecimal digits.
    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// HMAC-SHA1 under this key.
    pub(super) fn hmac(&self) -> Hmac<Sha1> {
        Hmac::new_from_slice(&self.0).expect("HMAC takes keys of any length")
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.to_hex()
    }
}

impl TryFrom<String> for Key {
    type Error = &'static str;

    fn try_from(hex: String) -> Result<Self, &'static str> {
        Self::from_hex(&hex).ok_or("a user's key is 32 hexadecimal digits: `wgrelay turn-key` prints it")
    }
}

/// A realm, which keys are made for: 1 to 127 characters, without quotes and backslashes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Realm(String);

impl std::ops::Deref for Realm {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<Realm> for String {
    fn from(realm: Realm) -> Self {
        realm.0
    }
}

impl FromStr for Realm {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let fits = |c: char| !c.is_control() && c != '"' && c != '\\';
        if !text.is_empty() && text.chars().count() <= 127 && text.chars().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err("a realm has 1 to 127 characters, without quotes and backslashes")
        }
    }
}

impl TryFrom<String> for Realm {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        text.parse()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(secret)")
    }
}

/// What 32 hexadecimal digits stand for.
pub(super) fn sixteen_bytes(hex: &str) -> Option<[u8; 16]> {
    let (digits, []) = hex.as_bytes().as_chunks::<2>() else { return None };
    let mut bytes = [0; 16];
    if digits.len() != bytes.len() {
        return None;
    }
    for (byte, &[high, low]) in bytes.iter_mut().zip(digits) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = (digit(high)? << 4 | digit(low)?) as u8;
    }
    Some(bytes)
}

/// What the quotas of a user go by: its name; of time-limited credentials what follows the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// See above.
    pub account: String,
    /// What its messages are signed with.
    pub key: Key,
}

/// All that may use the server.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The realm, which the keys are made for.
    pub realm: Realm,
    /// Users and their keys.
    pub users: HashMap<String, Key>,
    /// Whoever knows it makes time-limited credentials as coturn's `use-auth-secret` has them: the username is the time at
    /// which they end (seconds since 1970) and, after a colon, any name; the password is the Base64 of the username's
    /// HMAC-SHA1 under the secret.
    pub secret: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { realm, users, secret } = self;
        write!(f, "Credentials({realm:?}, {} users, a secret: {})", users.len(), secret.is_some())
    }
}

impl Credentials {
    /// The user of this name; `None` if there is none, or if its time is up. `unix` is the time in seconds since 1970.
    pub fn user(&self, username: &str, unix: u64) -> Option<User> {
        if let Some(&key) = self.users.get(username) {
            return Some(User { account: username.to_owned(), key });
        }
        let secret = self.secret.as_ref()?;
        let (ends, account) = username.split_once(':').unwrap_or((username, username));
        if ends.parse::<u64>().ok()? <= unix {
            return None;
        }
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
        mac.update(username.as_bytes());
        let password = BASE64_STANDARD.encode(mac.finalize().into_bytes());
        Some(User { account: account.to_owned(), key: Key::of(username, &self.realm, &password) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_what_the_standard_says() {
        // RFC 8489, section 9.2.2: user "user", realm "realm", password "pass".
        let key = Key::of("user", "realm", "pass");
        assert_eq!(key.to_hex(), "8493fbc53ba582fb4c044c456bdc40eb");
        assert_eq!(Key::from_hex(&key.to_hex()), Some(key));
        for wrong in ["", "8493", "8493fbc53ba582fb4c044c456bdc40e", "8493fbc53ba582fb4c044c456bdc40eg"] {
            assert_eq!(Key::from_hex(wrong), None, "{wrong}");
        }
        assert_eq!(format!("{key:?}"), "Key(secret)");
    }

    #[test]
    fn time_limited_credentials_end() {
        let secret = Some("north".to_owned());
        let credentials =
            Credentials { realm: "example.org".parse().unwrap(), secret, ..Credentials::default() };
        // printf 1700000000:ann | openssl dgst -sha1 -hmac north -binary | base64
        let user = credentials.user("1700000000:ann", 1_699_999_999).unwrap();
        let password = "jeamH6dA5l2I9g3jmieza7CzEDo=";
        assert_eq!(user.account, "ann");
        assert_eq!(user.key, Key::of("1700000000:ann", "example.org", password));
        assert_eq!(credentials.user("1700000000:ann", 1_700_000_000), None, "its time is up");
        assert_eq!(credentials.user("ann", 0), None);
        assert!(credentials.user("1700000000", 0).is_some(), "a time alone will do");
        assert_eq!(Credentials::default().user("1700000000:ann", 0), None, "there is no secret");
    }
}
