//! What userspace is told, through the ring buffer.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_RING_SIZE},
    helpers::{bpf_ktime_get_boot_ns, bpf_xdp_load_bytes},
    maps::ring_buf::RingBufEntry,
    programs::XdpContext,
};
use relay_ebpf::{
    event::{Event, HANDSHAKE, NEW_SOURCE, TOO_BIG, TOO_BIG_QUOTE},
    tables::{
        Address, Endpoint, HINT_NEW_SOURCE, HINT_TOO_BIG, NEW_SOURCE_INTERVAL_NS, TOO_BIG_INTERVAL_NS,
        events_for_unknown,
    },
};

use crate::{
    frame::{Message, Packet},
    ip::Ip,
    maps::{EVENTS, HINTS},
};

/// How a message came to the relay.
pub struct Arrival {
    pub source: Endpoint,
    pub local: Address,
    /// TTL or hop limit as received.
    pub ttl: u8,
    /// Offset of the message in the frame.
    pub message_at: usize,
    /// Whether the source is a member's or another relay's endpoint, or has a session.
    pub known: bool,
}

impl Arrival {
    #[inline(always)]
    pub fn of<I: Ip>(packet: &Packet<I>, message_at: usize, known: bool) -> Self {
        Self {
            source: packet.source(),
            local: packet.ip.destination(),
            ttl: packet.ip.ttl(),
            message_at,
            known,
        }
    }
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
#[inline(always)]
pub fn hint(ctx: &XdpContext, arrival: &Arrival) {
    if arrival.known {
        return;
    }
    let Some(turn) = Turn::after(HINT_NEW_SOURCE, NEW_SOURCE_INTERVAL_NS) else { return };
    if let Some(entry) = event(ctx, arrival, NEW_SOURCE, 0) {
        entry.submit(0);
        turn.take();
    }
}

/// Tells userspace that relayed data of `len` bytes was too big for its next hop, and how it begins.
#[inline(always)]
pub fn too_big(ctx: &XdpContext, arrival: &Arrival, message: &Message, len: usize) {
    let Some(turn) = Turn::after(HINT_TOO_BIG, TOO_BIG_INTERVAL_NS) else { return };
    if let Some(mut entry) = event(ctx, arrival, TOO_BIG, len) {
        const { assert!(TOO_BIG_QUOTE == size_of::<[u64; 2]>() && TOO_BIG_QUOTE <= size_of::<Message>()) };
        // SAFETY: both sides have room for so many bytes, and the record is ours until it is submitted.
        unsafe {
            let quote = core::ptr::from_ref(message).cast::<[u64; 2]>().read_unaligned();
            (&raw mut (*entry.as_mut_ptr()).message).cast::<[u64; 2]>().write_unaligned(quote);
        }
        entry.submit(0);
        turn.take();
    }
}

/// Whether so much waits in the ring buffer that the rest of it is for known sources.
#[inline(always)]
fn is_scarce() -> bool {
    let size = EVENTS.query(BPF_RB_RING_SIZE.into());
    EVENTS.query(BPF_RB_AVAIL_DATA.into()) >= events_for_unknown(size)
}

/// The right to say something that is said once in a while.
struct Turn {
    last: *mut u64,
    now: u64,
}

impl Turn {
    /// `None` if the last time on this CPU was less than the interval ago.
    #[inline(always)]
    fn after(key: u32, interval_ns: u64) -> Option<Self> {
        let last = HINTS.get_ptr_mut(key)?;
        // SAFETY: a helper without arguments or conditions.
        let now = unsafe { bpf_ktime_get_boot_ns() };
        // SAFETY: the value is this CPU's own, and an XDP program is not preempted by another on its CPU.
        (now.wrapping_sub(unsafe { *last }) >= interval_ns).then_some(Self { last, now })
    }

    #[inline(always)]
    fn take(self) {
        // SAFETY: as in `after`.
        unsafe { *self.last = self.now };
    }
}

/// Reserves a record and fills in all but the message. A part of the ring buffer is kept for what comes from known sources.
#[inline(always)]
fn event(ctx: &XdpContext, arrival: &Arrival, kind: u32, message_len: usize) -> Option<RingBufEntry<Event>> {
    if !arrival.known && is_scarce() {
        return None;
    }
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
