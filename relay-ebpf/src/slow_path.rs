//! The filters of userspace's raw UDP sockets: of all UDP that the host receives they let through what may be relayed data
//! that the XDP program has passed on (fragments that the kernel has put together, say). Whose it is and where it comes
//! from is for userspace to check: it is not much that comes here.

use aya_ebpf::{macros::socket_filter, programs::SkBuffContext};
use relay_ebpf::wireguard::Kind;

use crate::{maps::port_be, sessions};

const UDP_LEN: usize = 8;

/// For a raw IPv4 socket: it is given the IP header too (raw_rcv in net/ipv4/raw.c pushes back to it).
#[socket_filter]
pub fn slow_path_ipv4(ctx: SkBuffContext) -> i64 {
    let Ok(version_ihl) = ctx.load::<u8>(0) else { return 0 };
    relayed(&ctx, usize::from(version_ihl & 0xf) * 4)
}

/// For a raw IPv6 socket: it is given what follows the IPv6 and extension headers (ip6_protocol_deliver_rcu in
/// net/ipv6/ip6_input.c pulls them off).
#[socket_filter]
pub fn slow_path_ipv6(ctx: SkBuffContext) -> i64 {
    relayed(&ctx, 0)
}

/// How much the socket is to get: all of it, if it is transport data to the relay port with a session's receiver index,
/// else nothing. `udp_at` is the offset of the UDP header.
#[inline(always)]
fn relayed(ctx: &SkBuffContext, udp_at: usize) -> i64 {
    let Ok([udp, message]) = ctx.load::<[u64; 2]>(udp_at) else { return 0 };
    let [_, _, port_a, port_b, len_a, len_b, _, _] = udp.to_ne_bytes();
    let [a, b, c, d, e, f, g, h] = message.to_ne_bytes();
    let udp_len = usize::from(u16::from_be_bytes([len_a, len_b]));
    let is_data = [port_a, port_b] == port_be()
        && udp_len >= UDP_LEN
        && udp_at + udp_len <= ctx.len() as usize
        && Kind::classify(u32::from_le_bytes([a, b, c, d]), udp_len - UDP_LEN) == Some(Kind::TransportData);
    if is_data && sessions::find(u32::from_le_bytes([e, f, g, h])).is_some() { ctx.len().into() } else { 0 }
}
