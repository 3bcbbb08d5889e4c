//! What the driver of a network interface says of itself, by SIOCETHTOOL: its name, features, channels and counters. The
//! younger netlink interface has neither the driver's name nor its own counters. Nothing here takes privileges.
//!
//! Requests are rows of 32-bit words, as `include/uapi/linux/ethtool.h` lays them out.

use std::{collections::BTreeMap, io};

use nix::{
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};
use std::os::fd::{AsRawFd as _, OwnedFd};

const GET_DRIVER: u32 = 0x03;
const GET_STRINGS: u32 = 0x1b;
const GET_STATISTICS: u32 = 0x1d;
const GET_SET_INFO: u32 = 0x37;
const GET_FEATURES: u32 = 0x3a;
const GET_CHANNELS: u32 = 0x3c;

/// Sets of strings: names of counters, names of features.
const STATISTICS: u32 = 1;
const FEATURES: u32 = 4;

/// A string has so many bytes.
const STRING: usize = 32;
/// A set may have grown since its size was told (an interface got more queues), and old kernels write all of it then.
const SPARE: usize = 1024;
/// More strings or counters than this no driver has.
const MOST: usize = 65_536;

nix::ioctl_readwrite_bad!(
    /// One request to a driver: `ifr_data` points to it, and takes the answer.
    ask,
    libc::SIOCETHTOOL,
    libc::ifreq
);

/// How many queues an interface uses, and how many it can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// In use for receiving: those of their own, and combined ones.
    pub receiving: u32,
    /// In use for sending.
    pub sending: u32,
    /// Combined ones in use.
    pub combined: u32,
    /// Combined ones at most.
    pub combined_max: u32,
}

/// An interface.
pub struct Ethtool {
    socket: OwnedFd,
    name: String,
}

impl Ethtool {
    /// The interface with this name, in the network namespace of this thread.
    pub fn new(name: &str) -> io::Result<Self> {
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        Ok(Self { socket, name: name.to_owned() })
    }

    /// The name of its driver.
    pub fn driver(&self) -> io::Result<String> {
        // struct ethtool_drvinfo
        let mut words = [0; 49];
        words[0] = GET_DRIVER;
        self.ask(&mut words)?;
        Ok(strings(&words[1..9]).remove(0))
    }

    /// Its queues; `None` if the driver does not tell.
    pub fn channels(&self) -> io::Result<Option<Channels>> {
        // struct ethtool_channels
        let mut words = [GET_CHANNELS, 0, 0, 0, 0, 0, 0, 0, 0];
        match self.ask(&mut words) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
            Err(error) => Err(error),
            Ok(()) => {
                let [_, _, _, _, combined_max, receive, send, _, combined] = words;
                let (receiving, sending) = (receive + combined, send + combined);
                Ok(Some(Channels { receiving, sending, combined, combined_max }))
            }
        }
    }

    /// Its features by the kernel's names (`rx-lro`, `rx-vlan-hw-parse`), and whether each is on.
    pub fn features(&self) -> io::Result<BTreeMap<String, bool>> {
        let names = self.strings(FEATURES)?;
        // struct ethtool_gfeatures: blocks of {available, requested, active, never changed}, for 32 features each.
        let blocks = names.len().div_ceil(32);
        let mut words = vec![0; 2 + 4 * blocks];
        words[..2].copy_from_slice(&[GET_FEATURES, blocks as u32]);
        self.ask(&mut words)?;
        let active = |n: usize| words[2 + 4 * (n / 32) + 2] & (1 << (n % 32)) != 0;
        Ok(names.into_iter().enumerate().map(|(n, name)| (name, active(n))).collect())
    }

    /// Its driver's counters.
    pub fn statistics(&self) -> io::Result<Vec<(String, u64)>> {
        let names = self.strings(STATISTICS)?;
        let mut words = vec![0; 2 + 2 * (names.len() + SPARE)];
        words[..2].copy_from_slice(&[GET_STATISTICS, names.len() as u32]);
        self.ask(&mut words)?;
        // Another number than there are names: the queues have changed since. The next look will be right.
        if words[1] as usize != names.len() {
            return Ok(Vec::new());
        }
        let values = words[2..].chunks_exact(2).map(|pair| {
            let [a, b] = [pair[0].to_ne_bytes(), pair[1].to_ne_bytes()];
            u64::from_ne_bytes([a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]])
        });
        Ok(names.into_iter().zip(values).collect())
    }

    /// A set of strings; an empty one if the driver has none.
    fn strings(&self, set: u32) -> io::Result<Vec<String>> {
        // struct ethtool_sset_info: a mask of 64 bits, in which the kernel leaves what it knows, then the sizes.
        let mut words = [GET_SET_INFO, 0, 1 << set, 0, 0];
        self.ask(&mut words)?;
        let len = if words[2] == 0 { 0 } else { words[4] as usize };
        if len == 0 || len > MOST {
            return Ok(Vec::new());
        }
        let mut words = vec![0; 3 + (len + SPARE) * STRING / 4];
        words[..3].copy_from_slice(&[GET_STRINGS, set, len as u32]);
        self.ask(&mut words)?;
        Ok(strings(&words[3..][..len * STRING / 4]))
    }

    fn ask(&self, words: &mut [u32]) -> io::Result<()> {
        // SAFETY: an ifreq is made of integers, arrays and pointers, for which all zeroes are values.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if self.name.len() >= request.ifr_name.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in request.ifr_name.iter_mut().zip(self.name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
        // SAFETY: the descriptor is a socket, the name ends with a zero, and the words are writable and as many as the
        // request that begins them takes.
        unsafe { ask(self.socket.as_raw_fd(), &raw mut request) }?;
        Ok(())
    }
}

/// Strings of 32 bytes each, which end with a zero.
fn strings(words: &[u32]) -> Vec<String> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let text = |bytes: &[u8]| {
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    };
    bytes.chunks_exact(STRING).map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_tells_of_itself() {
        let lo = Ethtool::new("lo").unwrap();
        // It has features, and neither channels nor counters of its own.
        assert_eq!(lo.features().unwrap().get("loopback"), Some(&true));
        assert_eq!(lo.channels().unwrap(), None);
        assert_eq!(lo.statistics().unwrap_or_default(), []);
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        let error = Ethtool::new("nothere0").unwrap().features().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        let error = Ethtool::new("a-name-that-is-too-long").unwrap().driver().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn strings_end_with_a_zero() {
        let mut words = [0_u32; 16];
        words[0] = u32::from_ne_bytes(*b"veth");
        words[8] = u32::from_ne_bytes(*b"ab\0c");
        assert_eq!(strings(&words), ["veth", "ab"]);
    }
}
