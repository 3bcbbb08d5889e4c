//! From a channel that is bound to its two entries of `CHANNELS`. Pure.

use std::net::SocketAddr;

use relay_ebpf::tables::{Channel, channel_key};

use super::server::{Binding, FiveTuple};
use crate::{
    forwarding::{Locals, deltas},
    next_hops::Flow,
};

/// What the relay sends for a channel: to the peer, and to the client.
pub fn flows(binding: &Binding) -> [Flow; 2] {
    let Binding { tuple, relayed, peer, .. } = binding;
    [
        Flow { local: relayed.ip(), remote: peer.ip() },
        Flow { local: tuple.server.ip(), remote: tuple.client.ip() },
    ]
}

/// Both directions of a channel: what the client sends, and what its peer sends. `seed` is the tables'; `until` is as
/// [`Channel`] has it; `rate` is the id of the user's limit; `next_hop` gives that of the table entry for a flow. `None` if
/// it uses an address that is not the relay's.
pub fn entries(
    binding: &Binding,
    locals: &Locals,
    seed: u64,
    until: u32,
    rate: u16,
    next_hop: impl Fn(Flow) -> u16,
) -> Option<[Channel; 2]> {
    let Binding { tuple: FiveTuple { client, server, .. }, number, relayed, peer, .. } = *binding;
    let [to_peer, to_client] = flows(binding);
    let entry = |from_client: bool, [source, local_in]: [SocketAddr; 2], [local_out, to]: [SocketAddr; 2]| {
        let (ip_delta, udp_delta) = deltas([source, local_in], [local_out, to]);
        // What a peer sends has no number, but a port of its own that it comes to.
        let key_number = if from_client { number } else { 0 };
        Some(Channel {
            key: channel_key(source.ip().into(), source.port(), local_in.port(), key_number, seed),
            source: source.ip().into(),
            destination: to.ip().into(),
            source_port_be: source.port().to_be_bytes(),
            local_in_port_be: local_in.port().to_be_bytes(),
            local_out_port_be: local_out.port().to_be_bytes(),
            destination_port_be: to.port().to_be_bytes(),
            ip_delta,
            udp_delta,
            next_hop: next_hop(if from_client { to_peer } else { to_client }),
            local_in: locals.key(local_in.ip())?,
            local_out: locals.key(local_out.ip())?,
            until,
            number_be: number.to_be_bytes(),
            from_client: from_client.into(),
            packets: 0,
            bytes: 0,
            rate,
            reserved: [0; 23],
        })
    };
    Some([entry(true, [client, server], [relayed, peer])?, entry(false, [peer, relayed], [server, client])?])
}
