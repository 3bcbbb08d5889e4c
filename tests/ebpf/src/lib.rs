//! The contract between the benchmark's XDP programs and its userspace: what the maps hold, and where the fields that
//! differ from frame to frame stand in it.
//!
//! Frames are handled as little-endian 64-bit words from their first byte on, so the benchmark is for little-endian
//! machines.
#![no_std]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Words at the head of a frame that are written anew for each run: all headers, and the beginning of the payload.
pub const WORDS: usize = 12;
/// Those words in bytes. No frame is shorter.
pub const HEAD: usize = WORDS * 8;
/// Runs between two notes of the time.
pub const BATCH: u64 = 1_000;
/// Most notes of the time in one call.
pub const TIMES_MAX: u32 = 1 << 16;

/// Map of one [`State`].
pub const STATE: &str = "STATE";
/// Map of [`Frame`]s: at [`SENT`] and at [`RETURNED`].
pub const FRAMES: &str = "FRAMES";
/// Map of the [`Flow`]s of the frames as sent, in the order of visiting, a power of two of them.
pub const FLOWS: &str = "FLOWS";
/// Map of the [`Flow`]s of the frames as they are to come back, in the same order.
pub const EXPECTED: &str = "EXPECTED";
/// Map of notes of the time, ns.
pub const TIMES: &str = "TIMES";
/// Program array of which slot 0 is the program under test.
pub const CONTENDER: &str = "CONTENDER";
/// Map of the lines that `reflmiss` reads one of, a power of two of them.
pub const LINES: &str = "LINES";
/// Map of one [`Arrived`] for each CPU.
pub const ARRIVED: &str = "ARRIVED";
/// Map of one [`Pace`].
pub const PACE: &str = "PACE";
/// Map of how many frames took how long: at [`bucket`] of their ns.
pub const LATENCIES: &str = "LATENCIES";

/// Key in [`FRAMES`] of what is sent.
pub const SENT: u32 = 0;
/// Key in [`FRAMES`] of what is to come back.
pub const RETURNED: u32 = 1;

/// What the programs keep between runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub struct State {
    /// Number of the next frame. Its flow is at this number modulo the length of [`FLOWS`].
    pub next: u64,
    /// Length of [`FLOWS`] less one.
    pub flows_mask: u64,
    /// Length of [`LINES`].
    pub lines: u64,
    /// Runs until the time is noted again.
    pub left: u64,
    /// Notes of the time so far.
    pub notes: u64,
    /// Runs in which something failed in the driver itself.
    pub failed: u64,
    /// Counts runs, by an atomic addition: on x86 that also waits until all earlier writes have left the CPU's store
    /// buffer, so that the program under test finds the frame as if it had come from elsewhere.
    pub runs: u64,
    /// Padding, zero.
    pub reserved: u64,
}

/// What has come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Arrived {
    /// Frames that were as they had to be.
    pub right: u64,
    /// Others.
    pub wrong: u64,
}

/// How fast `paced` sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Pace {
    /// From one frame to the next, ns.
    pub interval: u64,
    /// When the next one is due, ns since boot.
    pub due: u64,
}

/// Length of [`LATENCIES`].
pub const BUCKETS: u32 = 2048;
/// Buckets for each power of two.
const FINE: u64 = 32;

/// The bucket of a value: one for each value below 32, then 32 for each power of two.
#[inline(always)]
pub const fn bucket(value: u64) -> u32 {
    if value < FINE {
        return value as u32;
    }
    let power = 63 - value.leading_zeros();
    (power - 4) * FINE as u32 + (value >> (power - 5) & (FINE - 1)) as u32
}

/// The smallest value of a bucket.
pub const fn bucket_start(bucket: u32) -> u64 {
    if (bucket as u64) < FINE {
        return bucket as u64;
    }
    let (power, fine) = (bucket / FINE as u32 + 4, bucket as u64 % FINE);
    (FINE + fine) << (power - 5)
}

/// A frame's head, but for what differs from flow to flow, which is zero in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub struct Frame {
    /// The head.
    pub words: [u64; WORDS],
    /// Length of the whole frame in bytes.
    pub len: u64,
    /// Which of [`LAYOUTS`] it has.
    pub layout: u64,
    /// Padding, zero.
    pub reserved: [u64; 2],
}

/// What differs from flow to flow: fields as they stand in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Flow([u64; 2]);

/// A cache line.
pub type Line = [u64; 8];

impl Flow {
    /// From the fields' bytes: the IPv4 address or the last four octets of the IPv6 address, the port, the UDP checksum,
    /// the IPv4 header checksum (zero for IPv6), and the receiver index.
    pub fn new(
        address: [u8; 4],
        port: [u8; 2],
        udp_checksum: [u8; 2],
        ip_checksum: [u8; 2],
        index: [u8; 4],
    ) -> Self {
        let ([a, b, c, d], [e, f], [g, h]) = (address, port, udp_checksum);
        let ([i, j], [k, l, m, n]) = (ip_checksum, index);
        Self([u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::from_le_bytes([i, j, 0, 0, k, l, m, n])])
    }
}

/// Where a frame has the fields of a [`Flow`] and the frame's number, in bytes from its beginning.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The address (of IPv6 its last four octets): the source's in a frame as sent, the destination's in one as relayed.
    pub address: usize,
    /// The port that goes with it.
    pub port: usize,
    /// The IPv4 header checksum, if there is one.
    pub ip_checksum: Option<usize>,
    /// The UDP checksum.
    pub udp_checksum: usize,
    /// WireGuard's receiver index.
    pub index: usize,
    /// The frame's number, 32 bits, and behind it its complement, so that the UDP checksum is the same for every
    /// number: WireGuard's counter.
    pub number: usize,
    /// Two words: a time in ns and its complement. The beginning of the payload, or nearly.
    pub stamp: usize,
}

/// All layouts.
pub const LAYOUTS: [Layout; 4] =
    [Layout::ipv4(true), Layout::ipv4(false), Layout::ipv6(true), Layout::ipv6(false)];

impl Layout {
    const ETHERNET: usize = 14;
    const UDP: usize = 8;

    const fn ipv4(sent: bool) -> Self {
        let udp = Self::ETHERNET + 20;
        Self {
            address: Self::ETHERNET + if sent { 12 } else { 16 },
            port: udp + if sent { 0 } else { 2 },
            ip_checksum: Some(Self::ETHERNET + 10),
            udp_checksum: udp + 6,
            index: udp + Self::UDP + 4,
            number: udp + Self::UDP + 8,
            stamp: 64,
        }
    }

    const fn ipv6(sent: bool) -> Self {
        let udp = Self::ETHERNET + 40;
        Self {
            address: Self::ETHERNET + if sent { 20 } else { 36 },
            port: udp + if sent { 0 } else { 2 },
            ip_checksum: None,
            udp_checksum: udp + 6,
            index: udp + Self::UDP + 4,
            number: udp + Self::UDP + 8,
            stamp: 80,
        }
    }

    /// Its place in [`LAYOUTS`].
    pub const fn of(ipv4: bool, sent: bool) -> u64 {
        (if ipv4 { 0 } else { 2 }) + (if sent { 0 } else { 1 })
    }
}

impl Frame {
    /// The head of the frame of this flow with this number. `LAYOUT` is the frame's place in [`LAYOUTS`]: known when
    /// this is compiled, so that all of it is shifts by constants.
    #[inline(always)]
    pub fn head<const LAYOUT: usize>(&self, flow: &Flow, number: u32) -> [u64; WORDS] {
        let layout = const { &LAYOUTS[LAYOUT] };
        let Flow([first, second]) = *flow;
        let mut words = self.words;
        put(&mut words, layout.address, first & 0xffff_ffff, 4);
        put(&mut words, layout.port, first >> 32 & 0xffff, 2);
        put(&mut words, layout.udp_checksum, first >> 48, 2);
        if let Some(ip_checksum) = layout.ip_checksum {
            put(&mut words, ip_checksum, second & 0xffff, 2);
        }
        put(&mut words, layout.index, second >> 32, 4);
        put(&mut words, layout.number, number.into(), 4);
        put(&mut words, layout.number + 4, (!number).into(), 4);
        words
    }
}

/// Puts a time, and its complement, where a head has its stamp.
#[inline(always)]
pub fn stamp<const LAYOUT: usize>(words: &mut [u64; WORDS], time: u64) {
    let at = const { LAYOUTS[LAYOUT].stamp / 8 };
    (words[at], words[at + 1]) = (time, !time);
}

/// Puts a value of so many bytes where there are zeros.
#[inline(always)]
fn put(words: &mut [u64; WORDS], at: usize, value: u64, bytes: usize) {
    let shift = at % 8 * 8;
    words[at / 8] |= value << shift;
    if shift + bytes * 8 > 64 {
        words[at / 8 + 1] |= value >> (64 - shift);
    }
}

const _: () = assert!(size_of::<State>() == 64 && size_of::<Frame>() == 128 && size_of::<Flow>() == 16);

#[cfg(not(target_arch = "bpf"))]
mod pod {
    use super::{Arrived, Flow, Frame, Pace, State};
    // SAFETY: `repr(C)`, `Copy`, no padding (zerocopy's `IntoBytes`) and valid for every bit pattern (`FromBytes`).
    unsafe impl aya::Pod for State {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Frame {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Flow {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Arrived {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Pace {}
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    fn bytes(words: [u64; WORDS]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn a_value_is_in_its_bucket() {
        for value in (0..10_000).chain([1 << 20, (1 << 20) + 12_345, 1 << 40, u64::MAX >> 1]) {
            let at = bucket(value);
            assert!(at < BUCKETS && bucket_start(at) <= value && value < bucket_start(at + 1), "{value}");
        }
    }

    #[test]
    fn fields_stand_where_the_layout_says() {
        let flow = Flow::new([1, 2, 3, 4], [5, 6], [7, 8], [9, 10], [11, 12, 13, 14]);
        let frame = Frame { words: [0; WORDS], len: 0, layout: 0, reserved: [0; 2] };
        let number = 0x0403_0201;
        let heads = [
            frame.head::<0>(&flow, number),
            frame.head::<1>(&flow, number),
            frame.head::<2>(&flow, number),
            frame.head::<3>(&flow, number),
        ];
        for (layout, head) in LAYOUTS.iter().zip(heads) {
            let mut bytes = bytes(head);
            let mut take = |at: usize, expected: &[u8]| {
                let place = &mut bytes[at..at + expected.len()];
                assert_eq!(place, expected, "{layout:?}");
                place.fill(0);
            };
            take(layout.address, &[1, 2, 3, 4]);
            take(layout.port, &[5, 6]);
            take(layout.udp_checksum, &[7, 8]);
            if let Some(ip_checksum) = layout.ip_checksum {
                take(ip_checksum, &[9, 10]);
            }
            take(layout.index, &[11, 12, 13, 14]);
            take(layout.number, &[1, 2, 3, 4, 254, 253, 252, 251]);
            assert!(bytes.iter().all(|&byte| byte == 0), "{layout:?}: nothing else is touched");
            assert!(layout.stamp % 8 == 0 && layout.stamp >= layout.number + 8 && layout.stamp + 16 <= HEAD);
        }
    }
}
