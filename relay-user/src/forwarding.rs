//! From a proven session to the two entries of `SESSIONS` that forward it. Pure.

use std::net::{IpAddr, SocketAddr};

use relay_ebpf::{
    checksum,
    tables::{self, Address, LOCALS_MAX, Ledger, Session as Entry},
};

use crate::{
    handshake::{Session, Side},
    members::MemberId,
    next_hops::Flow,
};

impl Side {
    /// What the relay sends to this side.
    pub fn flow(&self) -> Flow {
        Flow { local: self.local, remote: self.endpoint.ip() }
    }
}

/// The relay's addresses and their ids in `LOCALS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locals([Option<IpAddr>; LOCALS_MAX as usize]);

impl Locals {
    /// Gives every address a key: those that have one in `before` (the table as an earlier run left it) keep it, since
    /// entries of live sessions name it; the others get one that nothing can name, as long as there is one.
    pub fn assign(before: &tables::Locals, addresses: &[IpAddr]) -> Self {
        let Self(taken) = Self::read(before);
        let mut keys = taken.map(|address| address.filter(|address| addresses.contains(address)));
        for address in addresses {
            if keys.contains(&Some(*address)) {
                continue;
            }
            let never_used = (0..keys.len()).find(|&key| keys[key].is_none() && taken[key].is_none());
            if let Some(key) = never_used.or_else(|| keys.iter().position(Option::is_none)) {
                keys[key] = Some(*address);
            }
        }
        Self(keys)
    }

    /// The addresses as a table has them.
    pub fn read(tables::Locals(table): &tables::Locals) -> Self {
        let mut keys = [None; LOCALS_MAX as usize];
        for (key, &address) in keys.iter_mut().zip(table) {
            *key = Some(IpAddr::from(address)).filter(|_| address != Address::UNSPECIFIED);
        }
        Self(keys)
    }

    /// The table as it is to be.
    pub fn table(&self) -> tables::Locals {
        tables::Locals(self.0.map(|address| address.map_or(Address::UNSPECIFIED, Address::from)))
    }

    /// The id of an address.
    pub fn key(&self, address: IpAddr) -> Option<u8> {
        self.0.iter().position(|a| *a == Some(address)).map(|key| key as u8)
    }

    fn address(&self, key: u8) -> Option<IpAddr> {
        self.0.get(usize::from(key)).copied().flatten()
    }
}

/// Both directions of a session: first what the initiator sends, then what the responder sends. `next_hop` gives the
/// table entry for a flow, `rate` that of a member's rate limit. And what the ledger says of it. `None` if the session uses an address that is not the relay's.
pub fn directions(
    session: &Session,
    locals: &Locals,
    port: u16,
    next_hop: impl Fn(Flow) -> u16,
    rate: impl Fn(Option<MemberId>) -> u16,
) -> Option<([Entry; 2], Ledger)> {
    let Session { initiator, responder, opened } = session;
    let direction = |from: &Side, to: &Side| {
        let (ip_delta, udp_delta) = deltas(
            [from.endpoint, SocketAddr::new(from.local, port)],
            [SocketAddr::new(to.local, port), to.endpoint],
        );
        Some(Entry {
            source: from.endpoint.ip().into(),
            destination: to.endpoint.ip().into(),
            packets: 0,
            sender_rate: rate(from.member),
            receiver_rate: rate(to.member),
            bytes: 0,
            source_port_be: from.endpoint.port().to_be_bytes(),
            destination_port_be: to.endpoint.port().to_be_bytes(),
            ip_delta,
            udp_delta,
            next_hop: next_hop(to.flow()),
            local_in: locals.key(from.local)?,
            local_out: locals.key(to.local)?,
            index: to.index,
        })
    };
    let ledger = Ledger {
        initiator: MemberId::to_map(initiator.member),
        responder: MemberId::to_map(responder.member),
        opened_ns: opened.as_nanos() as u64,
        initiator_index: initiator.index,
        responder_index: responder.index,
    };
    Some(([direction(initiator, responder)?, direction(responder, initiator)?], ledger))
}

/// What a rewrite of source and destination adds to the IPv4 header checksum (with the TTL's decrement; 0 if the packet is
/// not IPv4 on both sides) and to the UDP checksum.
pub fn deltas(before: [SocketAddr; 2], after: [SocketAddr; 2]) -> (u16, u16) {
    let both = |[source, destination]: [SocketAddr; 2]| {
        let mut addresses = Vec::with_capacity(32);
        for ip in [source.ip(), destination.ip()] {
            match ip {
                IpAddr::V4(ip) => addresses.extend(ip.octets()),
                IpAddr::V6(ip) => addresses.extend(ip.octets()),
            }
        }
        let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
        (addresses, ports)
    };
    let (old_addresses, old_ports) = both(before);
    let (new_addresses, new_ports) = both(after);
    if old_addresses.len() != new_addresses.len() {
        // Between families the sum of the new addresses replaces the old ones'; there is no IPv4 header to update.
        let zero = |bytes: &[u8]| vec![0; bytes.len()];
        let gone = checksum::delta(&old_addresses, &zero(&old_addresses));
        let come = checksum::delta(&zero(&new_addresses), &new_addresses);
        return (0, checksum::add(checksum::add(gone, come), checksum::delta(&old_ports, &new_ports)));
    }
    let addresses = checksum::delta(&old_addresses, &new_addresses);
    let ip = if before[0].is_ipv4() { checksum::add(addresses, checksum::TTL_DECREMENT) } else { 0 };
    (ip, checksum::add(addresses, checksum::delta(&old_ports, &new_ports)))
}

/// The session that an earlier run wrote, from its direction to the responder, the one to the initiator and what the
/// ledger says. `None` if they don't fit together.
pub fn restore(there: &Entry, back: &Entry, ledger: &Ledger, locals: &Locals) -> Option<Session> {
    let endpoint =
        |address: Address, port_be: [u8; 2]| SocketAddr::new(address.into(), u16::from_be_bytes(port_be));
    let consistent = (there.index, back.index) == (ledger.responder_index, ledger.initiator_index)
        && (there.source, there.source_port_be) == (back.destination, back.destination_port_be)
        && (there.destination, there.destination_port_be) == (back.source, back.source_port_be)
        && (there.local_in, there.local_out) == (back.local_out, back.local_in);
    if !consistent {
        return None;
    }
    Some(Session {
        initiator: Side {
            index: ledger.initiator_index,
            endpoint: endpoint(there.source, there.source_port_be),
            local: locals.address(there.local_in)?,
            member: MemberId::of_map(ledger.initiator),
        },
        responder: Side {
            index: ledger.responder_index,
            endpoint: endpoint(there.destination, there.destination_port_be),
            local: locals.address(there.local_out)?,
            member: MemberId::of_map(ledger.responder),
        },
        opened: std::time::Duration::from_nanos(ledger.opened_ns),
    })
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

    use super::*;

    const NONE: tables::Locals = tables::Locals([Address::UNSPECIFIED; LOCALS_MAX as usize]);

    fn session(a: &str, b: &str, local_a: &str, local_b: &str) -> Session {
        let side = |index, endpoint: &str, local: &str, id| Side {
            index,
            endpoint: endpoint.parse().unwrap(),
            local: local.parse().unwrap(),
            member: Some(MemberId(id)),
        };
        Session {
            initiator: side(0x1111, a, local_a, 5),
            responder: side(0x2222, b, local_b, 6),
            opened: std::time::Duration::from_secs(7),
        }
    }

    fn locals() -> Locals {
        let addresses = ["198.51.100.1", "198.51.100.2", "2001:db8::1"].map(|a| a.parse().unwrap());
        Locals::assign(&NONE, &addresses)
    }

    /// The deltas are right if they turn the checksums of a packet as it comes into those of a packet made from scratch
    /// as it should leave.
    fn check_deltas(session: &Session) {
        let ([there, back], _) =
            directions(session, &locals(), 51820, |_| 3, |member| member.map_or(0, |MemberId(id)| id as u16))
                .unwrap();
        for (direction, from, to) in
            [(there, session.initiator, session.responder), (back, session.responder, session.initiator)]
        {
            let packet = |source: SocketAddr, destination: SocketAddr, ttl| {
                let builder = match (source.ip(), destination.ip()) {
                    (IpAddr::V4(s), IpAddr::V4(d)) => PacketBuilder::ipv4(s.octets(), d.octets(), ttl),
                    (IpAddr::V6(s), IpAddr::V6(d)) => PacketBuilder::ipv6(s.octets(), d.octets(), ttl),
                    _ => unreachable!("one packet has one family"),
                };
                let mut bytes = Vec::new();
                builder.udp(source.port(), destination.port()).write(&mut bytes, b"payload!").unwrap();
                let sliced = SlicedPacket::from_ip(&bytes).unwrap();
                let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("no UDP") };
                let header = if source.is_ipv4() { u16::from_ne_bytes([bytes[10], bytes[11]]) } else { 0 };
                (header, udp.checksum().to_be())
            };
            let before = packet(from.endpoint, SocketAddr::new(from.local, 51820), 64);
            let after = packet(SocketAddr::new(to.local, 51820), to.endpoint, 63);
            assert_eq!(checksum::apply_udp(before.1, direction.udp_delta), after.1, "{session:?}");
            if from.endpoint.is_ipv4() && to.endpoint.is_ipv4() {
                assert_eq!(checksum::apply(before.0, direction.ip_delta), after.0, "{session:?}");
            }
        }
    }

    #[test]
    fn deltas_turn_one_packet_into_the_other() {
        check_deltas(&session("192.0.2.7:1000", "203.0.113.9:40001", "198.51.100.1", "198.51.100.2"));
        check_deltas(&session("[2001:db8:7::7]:1", "[2001:db8:8::8]:65535", "2001:db8::1", "2001:db8::1"));
        check_deltas(&session("192.0.2.7:1000", "[2001:db8:8::8]:65535", "198.51.100.1", "2001:db8::1"));
    }

    #[test]
    fn what_is_written_can_be_read_back() {
        let session = session("192.0.2.7:1000", "203.0.113.9:40001", "198.51.100.1", "198.51.100.2");
        let ([there, back], ledger) = directions(
            &session,
            &locals(),
            51820,
            |_| 3,
            |member| member.map_or(0, |MemberId(id)| id as u16),
        )
        .unwrap();
        assert_eq!((there.index, back.index), (0x2222, 0x1111));
        assert_eq!((there.sender_rate, there.receiver_rate), (5, 6));
        assert_eq!((back.sender_rate, back.receiver_rate), (6, 5));
        assert_eq!(restore(&there, &back, &ledger, &locals()), Some(session));
        assert_eq!(restore(&back, &there, &ledger, &locals()), None, "the wrong way round");
        let other = Entry { source: Address::UNSPECIFIED, ..back };
        assert_eq!(restore(&there, &other, &ledger, &locals()), None);
    }

    #[test]
    fn addresses_keep_their_keys_over_a_restart() {
        let [a, b, c]: [IpAddr; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|a| a.parse().unwrap());
        let first = Locals::assign(&NONE, &[a, b]);
        let second = Locals::assign(&first.table(), &[c, b]);
        assert_eq!((second.key(c), second.key(b), second.key(a)), (Some(2), Some(1), None));
        assert_eq!(Locals::read(&first.table()), first);
        let all: Vec<IpAddr> = (0..LOCALS_MAX as u8).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        let full = Locals::assign(&first.table(), &all);
        assert!(
            all.iter().all(|address| full.key(*address).is_some()),
            "keys are used again if there is no other"
        );
        let foreign = session("192.0.2.7:1000", "203.0.113.9:40001", "198.51.100.1", "198.51.100.77");
        assert_eq!(
            directions(
                &foreign,
                &locals(),
                51820,
                |_| 3,
                |member| member.map_or(0, |MemberId(id)| id as u16)
            ),
            None
        );
    }
}
