//! Frames as no honest host sends them, made from ones that are right.

use std::ops::Range;

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;

/// Whether it holds IPv4; else it is IPv6.
pub fn is_ipv4(frame: &[u8]) -> bool {
    frame[12..14] == [0x08, 0x00]
}

/// Length of the IP header of a frame as hosts send it.
pub fn ip_len(frame: &[u8]) -> usize {
    if is_ipv4(frame) { 20 } else { 40 }
}

/// The bytes of an IPv4 header's checksum are made right.
pub fn sum_ipv4(frame: &mut [u8]) {
    let words = usize::from(frame[ETHERNET] & 0xf) * 4;
    let header = ETHERNET..(ETHERNET + words).min(frame.len());
    frame[ETHERNET + 10..ETHERNET + 12].fill(0);
    let sum = frame[header].chunks(2).fold(0_u32, |sum, word| {
        sum + u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]))
    });
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = !((folded & 0xffff) + (folded >> 16)) as u16;
    frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&folded.to_be_bytes());
}

/// The two fragments of a frame.
pub fn fragments(frame: &[u8]) -> [Vec<u8>; 2] {
    let payload = &frame[ETHERNET + ip_len(frame)..];
    let middle = payload.len() / 16 * 8;
    let identification = fastrand::u32(..);
    [(0..middle, true), (middle..payload.len(), false)]
        .map(|(range, more)| fragment(frame, range, more, identification))
}

/// A fragment with this range of a frame's IP payload, whether it is there or not.
pub fn fragment(frame: &[u8], range: Range<usize>, more: bool, identification: u32) -> Vec<u8> {
    let ip = ETHERNET + ip_len(frame);
    let part = frame[ip..].get(range.clone()).unwrap_or(&[0; 8]);
    let mut made = frame[..ip].to_vec();
    if is_ipv4(frame) {
        let total = (20 + part.len()) as u16;
        made[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&total.to_be_bytes());
        made[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&(identification as u16).to_be_bytes());
        let word = (range.start / 8) as u16 | if more { 0x2000 } else { 0 };
        made[ETHERNET + 6..ETHERNET + 8].copy_from_slice(&word.to_be_bytes());
        sum_ipv4(&mut made);
    } else {
        let next = std::mem::replace(&mut made[ETHERNET + 6], 44);
        made[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&((8 + part.len()) as u16).to_be_bytes());
        let word = range.start as u16 | u16::from(more);
        made.extend([next, 0]);
        made.extend(word.to_be_bytes());
        made.extend(identification.to_be_bytes());
    }
    made.extend(part);
    made
}
