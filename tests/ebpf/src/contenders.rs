//! The programs that the relay's is compared with.

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use relay_bench_ebpf::LAYOUTS;

use crate::maps::{LINES, STATE};

/// Transmits the frame as it is: what the harness itself costs.
#[xdp]
pub fn empty(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// Swaps the MAC addresses and transmits: the limit of the machine.
#[xdp]
pub fn reflect(ctx: XdpContext) -> u32 {
    if swap_macs(&ctx) { xdp_action::XDP_TX } else { xdp_action::XDP_DROP }
}

/// `reflect`, and one load from a line chosen by the receiver index: the limit of any table.
#[xdp]
pub fn reflmiss(ctx: XdpContext) -> u32 {
    match index(&ctx).and_then(touch) {
        Some(_) if swap_macs(&ctx) => xdp_action::XDP_TX,
        _ => xdp_action::XDP_DROP,
    }
}

#[inline(always)]
fn swap_macs(ctx: &XdpContext) -> bool {
    let start = ctx.data();
    if start + 14 > ctx.data_end() {
        return false;
    }
    // SAFETY: the frame has the twelve bytes of both addresses; nothing needs alignment.
    unsafe {
        let (head, tail) = (start as *mut u64, (start + 8) as *mut u32);
        let (first, last) = (head.read_unaligned(), tail.read_unaligned());
        // 6 bytes of destination, 6 of source.
        head.write_unaligned(first >> 48 | u64::from(last) << 16 | first << 48);
        tail.write_unaligned((first >> 16) as u32);
    }
    true
}

/// The receiver index of the frame.
#[inline(always)]
fn index(ctx: &XdpContext) -> Option<u32> {
    const IPV4: u16 = 0x0800_u16.to_be();
    let start = ctx.data();
    if start + LAYOUTS[2].index + 4 > ctx.data_end() {
        return None;
    }
    // SAFETY: the frame is long enough for either family, as was just checked; nothing needs alignment.
    unsafe {
        let at = match ((start + 12) as *const u16).read_unaligned() {
            IPV4 => start + LAYOUTS[0].index,
            _ => start + LAYOUTS[2].index,
        };
        Some((at as *const u32).read_unaligned())
    }
}

/// Reads a word of the line that belongs to an index.
#[inline(always)]
fn touch(index: u32) -> Option<u64> {
    let state = STATE.get(0)?;
    let line = LINES.get_ptr((u64::from(index) * state.lines >> 32) as u32)?;
    // SAFETY: a map value stays readable as long as the program runs. Volatile, since nobody uses what is read.
    Some(unsafe { line.cast::<u64>().read_volatile() })
}
