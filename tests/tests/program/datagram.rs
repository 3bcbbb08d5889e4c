//! Frames with a UDP datagram, and WireGuard messages to put into them.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    IpDscp, IpEcn, IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header,
    PacketBuilder,
};

/// Length of an Ethernet header, in bytes.
pub const ETHERNET: usize = 14;

/// Where a frame's VLAN tags begin: behind the two addresses.
const TAGS_AT: usize = 12;

/// A UDP datagram in a frame.
#[derive(Clone, Debug)]
pub struct Datagram {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// VLAN tags, the outermost first: TPID and TCI.
    pub tags: Vec<[u8; 4]>,
    /// TOS or traffic class.
    pub traffic_class: u8,
    /// IPv6 only.
    pub flow_label: u32,
    /// IPv4 only.
    pub identification: u16,
    /// IPv4 only.
    pub dont_fragment: bool,
    pub ttl: u8,
    pub payload: Vec<u8>,
}

impl Datagram {
    /// The frame, headers and checksums made from scratch.
    pub fn frame(&self) -> Vec<u8> {
        self.build(|_| {})
    }

    /// The frame with IPv4 options.
    pub fn frame_with_options(&self, options: Ipv4Options) -> Vec<u8> {
        self.build(|header| header.options = options)
    }

    /// An IPv4 fragment whose first bytes are the whole datagram's.
    pub fn fragment(&self, offset: u16, more: bool) -> Vec<u8> {
        self.build(|header| {
            header.dont_fragment = false;
            header.more_fragments = more;
            header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
        })
    }

    /// The frame with an IPv6 extension header of 8 bytes before UDP.
    pub fn frame_with_extension(&self, kind: u8) -> Vec<u8> {
        assert!(self.tags.is_empty());
        let mut frame = self.frame();
        let payload_len = u16::from_be_bytes([frame[ETHERNET + 4], frame[ETHERNET + 5]]) + 8;
        frame[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&payload_len.to_be_bytes());
        frame[ETHERNET + 6] = kind;
        frame.splice(ETHERNET + 40..ETHERNET + 40, [17, 0, 0, 0, 0, 0, 0, 0]);
        frame
    }

    /// The frame with the UDP checksum that is given.
    pub fn frame_with_checksum(&self, checksum: u16) -> Vec<u8> {
        let mut frame = self.frame();
        let at = self.message_at() - 2;
        frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        frame
    }

    /// The frame's UDP checksum.
    pub fn checksum(&self) -> u16 {
        let (frame, at) = (self.frame(), self.message_at() - 2);
        u16::from_be_bytes([frame[at], frame[at + 1]])
    }

    /// Offset of the UDP payload in the frame.
    pub fn message_at(&self) -> usize {
        ETHERNET + 4 * self.tags.len() + self.headers_len()
    }

    /// Length of the IP packet, in bytes.
    pub fn packet_len(&self) -> usize {
        self.headers_len() + self.payload.len()
    }

    /// Length of the IP and UDP headers, in bytes.
    fn headers_len(&self) -> usize {
        if self.source.is_ipv4() { 20 + 8 } else { 40 + 8 }
    }

    fn build(&self, change: impl FnOnce(&mut Ipv4Header)) -> Vec<u8> {
        let ip = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = Ipv4Header {
                    dscp: IpDscp::try_new(self.traffic_class >> 2).unwrap(),
                    ecn: IpEcn::try_new(self.traffic_class & 3).unwrap(),
                    identification: self.identification,
                    dont_fragment: self.dont_fragment,
                    time_to_live: self.ttl,
                    protocol: IpNumber::UDP,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv4Header::default()
                };
                change(&mut header);
                IpHeaders::Ipv4(header, Default::default())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => IpHeaders::Ipv6(
                Ipv6Header {
                    traffic_class: self.traffic_class,
                    flow_label: Ipv6FlowLabel::try_new(self.flow_label).unwrap(),
                    next_header: IpNumber::UDP,
                    hop_limit: self.ttl,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                },
                Default::default(),
            ),
            _ => panic!("{} and {} are of different families", self.source, self.destination),
        };
        let builder = PacketBuilder::ethernet2(self.source_mac, self.destination_mac)
            .ip(ip)
            .udp(self.source.port(), self.destination.port());
        let mut frame = Vec::with_capacity(builder.size(self.payload.len()));
        builder.write(&mut frame, &self.payload).unwrap();
        frame.splice(TAGS_AT..TAGS_AT, self.tags.concat());
        frame
    }
}

/// A WireGuard message: its type, its first index, zeros up to a response's receiver index, and after that a pattern.
fn message(kind: u8, len: usize, indices: &[u32]) -> Vec<u8> {
    let mut message: Vec<u8> = (0..len).map(|i| (i * 7 + 3) as u8).collect();
    message[..4].copy_from_slice(&[kind, 0, 0, 0]);
    for (i, index) in indices.iter().enumerate() {
        message[4 + 4 * i..8 + 4 * i].copy_from_slice(&index.to_le_bytes());
    }
    message
}

pub fn initiation(sender: u32) -> Vec<u8> {
    message(1, 148, &[sender])
}

pub fn response(sender: u32, receiver: u32) -> Vec<u8> {
    message(2, 92, &[sender, receiver])
}

pub fn cookie_reply(receiver: u32) -> Vec<u8> {
    message(3, 64, &[receiver])
}

/// Transport data of `len` bytes in all, at least 32.
pub fn transport_data(receiver: u32, len: usize) -> Vec<u8> {
    message(4, len, &[receiver])
}
