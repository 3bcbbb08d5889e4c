//! Nonces without a memory: each says when it ends, and is signed for one client.

use std::net::SocketAddr;

use blake2s_simd::Hash;

use super::{credentials::sixteen_bytes, server::FiveTuple};
use crate::handshake::Timestamp;

/// How long a nonce is good for. A client that uses it any longer is given another.
const LIFETIME_SECONDS: u64 = 600;
const MAC_BYTES: usize = 16;
const END_DIGITS: usize = 16;

/// Makes nonces, and knows its own.
pub struct Nonces {
    secret: [u8; 32],
}

impl Nonces {
    /// Nonces under this secret.
    pub fn new(secret: [u8; 32]) -> Self {
        Self { secret }
    }

    /// A new one for a client.
    pub fn make(&self, now: Timestamp, client: &FiveTuple) -> String {
        self.signed(now.as_secs() + LIFETIME_SECONDS, client)
    }

    /// Whether this one was made for the client, and not too long ago.
    pub fn is_good(&self, now: Timestamp, client: &FiveTuple, nonce: &str) -> bool {
        let Some(end) = nonce.get(..END_DIGITS).and_then(|end| u64::from_str_radix(end, 16).ok()) else {
            return false;
        };
        let Some(mac) = nonce.get(END_DIGITS..).and_then(sixteen_bytes) else { return false };
        // Hashes are compared in constant time.
        end > now.as_secs() && self.mac(end, client) == mac[..]
    }

    fn signed(&self, end: u64, client: &FiveTuple) -> String {
        format!("{end:0END_DIGITS$x}{}", self.mac(end, client).to_hex())
    }

    fn mac(&self, end: u64, client: &FiveTuple) -> Hash {
        let mut state = blake2s_simd::Params::new().key(&self.secret).hash_length(MAC_BYTES).to_state();
        state.update(&end.to_be_bytes());
        state.update(&[client.transport as u8]);
        for SocketAddrBytes(bytes) in [client.client, client.server].map(SocketAddrBytes::of) {
            state.update(&bytes);
        }
        state.finalize()
    }
}

/// An address and a port in as many bytes whatever the family.
struct SocketAddrBytes([u8; 18]);

impl SocketAddrBytes {
    fn of(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            std::net::IpAddr::V6(ip) => ip,
        };
        let mut bytes = [0; 18];
        bytes[..16].copy_from_slice(&ip.octets());
        bytes[16..].copy_from_slice(&address.port().to_be_bytes());
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::turn::server::Transport;

    #[test]
    fn a_nonce_is_good_for_its_client_and_its_time() {
        let tuple = |client: &str| FiveTuple {
            transport: Transport::Udp,
            client: client.parse().unwrap(),
            server: "198.51.100.1:3478".parse().unwrap(),
        };
        let (nonces, now) = (Nonces::new([7; 32]), Duration::from_secs(100));
        let client = tuple("192.0.2.1:1000");
        let nonce = nonces.make(now, &client);
        assert!(nonce.len() < 128, "RFC 8489, section 14.10");
        assert!(nonces.is_good(now, &client, &nonce));
        assert!(nonces.is_good(now + Duration::from_secs(599), &client, &nonce));
        assert!(!nonces.is_good(now + Duration::from_secs(600), &client, &nonce), "too old");
        assert!(!nonces.is_good(now, &tuple("192.0.2.1:1001"), &nonce), "another client's");
        let by_tcp = FiveTuple { transport: Transport::Tcp, ..client };
        assert!(!nonces.is_good(now, &by_tcp, &nonce), "another transport's");
        assert!(!Nonces::new([8; 32]).is_good(now, &client, &nonce), "another server's");
        let longer = format!("{:016x}{}", 10_000, &nonce[16..]);
        assert!(!nonces.is_good(now, &client, &longer), "its end is signed, too");
        for wrong in ["", "0", "ä".repeat(24).as_str(), &nonce[1..], &format!("{nonce}0")] {
            assert!(!nonces.is_good(now, &client, wrong), "{wrong}");
        }
    }
}
