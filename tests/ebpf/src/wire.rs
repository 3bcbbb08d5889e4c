//! Frames over a wire: `generator` makes each one, `sink` looks at what comes back.

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use relay_bench_ebpf::{RETURNED, SENT, State};

use crate::{
    frame::{holds, write},
    maps::{ARRIVED, EXPECTED, FLOWS, FRAMES, STATE},
};

/// Makes the frame that of the next flow, and sends it out by the device that it is said to have come in by. For a
/// live-frames BPF_PROG_TEST_RUN. The pages come back with what the receiver left in them, so the head is written anew.
#[xdp]
pub fn generator(ctx: XdpContext) -> u32 {
    let Some(state) = STATE.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: there is one entry, which only this program writes to while it runs, on one CPU.
    let state = unsafe { &mut *state };
    match generate(&ctx, state) {
        Some(()) => xdp_action::XDP_TX,
        None => {
            state.failed += 1;
            xdp_action::XDP_DROP
        }
    }
}

#[inline(always)]
fn generate(ctx: &XdpContext, state: &mut State) -> Option<()> {
    let frame = FRAMES.get(SENT)?;
    let flow = FLOWS.get((state.next & state.flows_mask) as u32)?;
    let number = state.next as u32;
    state.next += 1;
    state.runs += 1;
    write(ctx, frame, flow, number).then_some(())
}

/// Compares what arrives with what has to, byte for byte of the head, counts it, and drops it.
#[xdp]
pub fn sink(ctx: XdpContext) -> u32 {
    let right = is_right(&ctx).unwrap_or(false);
    if let Some(arrived) = ARRIVED.get_ptr_mut(0) {
        // SAFETY: the value is this CPU's own, and an XDP program is not preempted by another on its CPU.
        unsafe {
            if right {
                (*arrived).right += 1;
            } else {
                (*arrived).wrong += 1;
            }
        }
    }
    xdp_action::XDP_DROP
}

#[inline(always)]
fn is_right(ctx: &XdpContext) -> Option<bool> {
    let (frame, state) = (FRAMES.get(RETURNED)?, STATE.get(0)?);
    let number = crate::frame::number(ctx, frame)?;
    let flow = EXPECTED.get((u64::from(number) & state.flows_mask) as u32)?;
    Some(holds(ctx, frame, flow, number))
}
