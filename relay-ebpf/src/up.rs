//! What userspace is told, through the ring buffer.

use aya_ebpf::{
    helpers::{bpf_ktime_get_boot_ns, bpf_xdp_load_bytes},
    maps::ring_buf::RingBufEntry,
    programs::XdpContext,
};
use relay_ebpf::{
    event::{Event, HANDSHAKE, NEW_SOURCE},
    tables::{Address, Endpoint, HINT_INTERVAL_NS},
};

use crate::maps::{ENDPOINTS, EVENTS, HINTS};

/// How a message came to the relay.
pub struct Arrival {
    pub source: Endpoint,
    pub local: Address,
    /// TTL or hop limit as received.
    pub ttl: u8,
    /// Offset of the message in the frame.
    pub message_at: usize,
}

/// Copies a handshake message of `LEN` bytes up; `false` if the ring buffer is full.
#[inline(always)]
pub fn copy_up<const LEN: usize>(ctx: &XdpContext, arrival: &Arrival) -> bool {
    let Some(mut entry) = event(ctx, arrival, HANDSHAKE, LEN) else { return false };
    // SAFETY: `message` lies in the reserved record and holds `LEN` bytes; the helper checks the other side.
    let copied = unsafe {
        let message = &raw mut (*entry.as_mut_ptr()).message;
        bpf_xdp_load_bytes(ctx.ctx, arrival.message_at as u32, message.cast(), LEN as u32)
    };
    if copied != 0 {
        entry.discard(0);
        return false;
    }
    entry.submit(0);
    true
}

/// Tells userspace that a source that it does not know has sent something for the relay's own WireGuard interface.
/// Time is looked at first, since it also stems a flood: then this costs no look-up a packet.
#[inline(always)]
pub fn hint(ctx: &XdpContext, arrival: &Arrival) {
    let Some(last) = HINTS.get_ptr_mut(0) else { return };
    // SAFETY: a helper without arguments or conditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    // SAFETY: the value is this CPU's own, and an XDP program is not preempted by another on its CPU.
    if now.wrapping_sub(unsafe { *last }) < HINT_INTERVAL_NS || ENDPOINTS.get_ptr(arrival.source).is_some() {
        return;
    }
    if let Some(entry) = event(ctx, arrival, NEW_SOURCE, 0) {
        entry.submit(0);
        // SAFETY: as above.
        unsafe { *last = now };
    }
}

/// Reserves a record and fills in all but the message.
#[inline(always)]
fn event(ctx: &XdpContext, arrival: &Arrival, kind: u32, message_len: usize) -> Option<RingBufEntry<Event>> {
    let mut entry = EVENTS.reserve::<Event>(0)?;
    let event = entry.as_mut_ptr();
    // SAFETY: the record is ours until it is submitted, and as large and as aligned as an `Event`.
    unsafe {
        (*event).source = arrival.source;
        (*event).local = arrival.local;
        (*event).kind = kind;
        (*event).ifindex = ctx.ingress_ifindex() as u32;
        (*event).message_len = message_len as u16;
        (*event).ttl = arrival.ttl;
        (*event).reserved = 0;
    }
    Some(entry)
}
